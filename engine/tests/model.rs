//! Random histories of everything a store does, crashes and reopenings included, under options
//! drawn at random, compared with plain maps. A history that fails is shrunk and kept in
//! `seeds/model.txt`.
//!
//! `PINSTONE_CRASH_BUDGET=N` tries N times as many histories.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use common::model::{Edit, Model, Pointers, shown, sound};
use common::{Verdict, budget, ensure, told};
use pinstone::{Bytes, Digest, Error, Maintenance, Options, Snapshot, Store, StoreBuilder, Verify};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, SimDisk};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

/// Names that are prefixes of one another, at the ends of the order, and of all lengths.
fn name(index: usize) -> Vec<u8> {
    let long = [b'n'; 1024];
    let names: [&[u8]; SHORT_NAMES] = [
        b"a",
        b"ab",
        b"abc",
        b"abd",
        b"b",
        b"ba",
        b"\0",
        b"\0\0",
        b"a\0",
        b"a\xff",
        b"a\xff\xff",
        b"\xff",
        b"\xff\xff",
        b"\xff\xfe",
        b"/",
        b"a/b",
        "\u{e4}".as_bytes(),
        b"zz",
        &long[..1023],
        &long,
    ];
    match names.get(index) {
        Some(name) => name.to_vec(),
        // So long that a few fill a segment.
        None => [&long[..900], index.to_string().as_bytes()].concat(),
    }
}
const SHORT_NAMES: usize = 20;
const NAMES: usize = 32;

fn prefix(index: usize) -> Vec<u8> {
    let prefixes: [&[u8]; PREFIXES] =
        [b"", b"a", b"ab", b"a\xff", b"\xff", b"\xff\xff", b"\0", b"n", b"nobody", b"zzz"];
    prefixes[index].to_vec()
}
const PREFIXES: usize = 10;

/// Values of all sizes that matter to a small buffer and a small segment.
fn value(index: usize) -> Bytes {
    let lengths =
        [0, 1, 2, 100, 255, 256, 257, 500, 1023, 1024, 1025, 3000, 4096, 5000, 9000, 20_000];
    let id = u16::try_from(index).expect("values are few");
    let len_bytes = if index < lengths.len() { lengths[index] } else { 100 + 70 * index };
    common::script::value(id, len_bytes)
}
const VALUES: usize = 48;

#[derive(Clone, Debug)]
enum Op {
    Put(usize),
    PutMany(Vec<usize>),
    /// Whether each of these is there, and what.
    GetMany(Vec<usize>),
    Commit {
        changes: BTreeMap<usize, Option<usize>>,
        requires: Vec<(usize, Guess)>,
    },
    Get(usize),
    Pointer(usize),
    /// The list of a range; for each step, whether from the back.
    Range {
        from: Bound<usize>,
        to: Bound<usize>,
        back: Vec<bool>,
    },
    Prefix {
        prefix: usize,
        back: Vec<bool>,
    },
    /// Takes a snapshot and keeps it.
    Hold,
    /// Reads one that was kept.
    Look(usize),
    Sync,
    /// Carries out what is due.
    Maintain,
    /// Makes one level of each tree.
    Compact,
    Reopen,
    Crash(CrashState),
}

/// What a commit requires of a pointer.
#[derive(Clone, Copy, Debug)]
enum Guess {
    Current,
    Absent,
    Value(usize),
}

#[derive(Clone, Copy, Debug)]
struct Choice {
    segment_bytes: u64,
    pointer_segment_bytes: u64,
    buffer_bytes: usize,
    verify: Verify,
    maintenance: Maintenance,
    trees: Trees,
    open_files_max: usize,
    memory_bytes: u64,
}

/// What decides when tables are made, how many, and how they are read.
#[derive(Clone, Copy, Debug)]
struct Trees {
    memtable_entries_max: u64,
    level0_tables: u32,
    level_ratio: u32,
    table_bytes: u64,
    filter_levels: u8,
    index_key_bits: u32,
}

impl Choice {
    fn builder(self) -> StoreBuilder {
        Store::builder()
            .segment_bytes(self.segment_bytes)
            .pointer_segment_bytes(self.pointer_segment_bytes)
            .append_buffer_bytes(self.buffer_bytes)
            .verify(self.verify)
            .maintenance(self.maintenance)
            .memtable_entries_max(self.trees.memtable_entries_max)
            .level0_tables(self.trees.level0_tables)
            .level_ratio(self.trees.level_ratio)
            .table_bytes(self.trees.table_bytes)
            .filter_levels(self.trees.filter_levels)
            .index_key_bits(self.trees.index_key_bits)
            .open_files_max(self.open_files_max)
            .memory_bytes(self.memory_bytes)
    }
}

/// Few names: most of their segments have to be small, or no table is made of them.
fn segments(tiny: u32) -> impl Strategy<Value = u64> {
    prop_oneof![tiny => Just(4 << 10), 1 => Just(6000), 1 => Just(64 << 10)]
}

prop_compose! {
    fn choices()(
        segment_bytes in segments(1),
        pointer_segment_bytes in segments(4),
        buffer_bytes in prop_oneof![Just(1 << 10), Just(3000), Just(64 << 10)],
        verify in prop_oneof![Just(Verify::Checksum), Just(Verify::Digest)],
        maintenance in prop_oneof![3 => Just(Maintenance::Inline), 1 => Just(Maintenance::Thread)],
        trees in trees(),
        open_files_max in prop_oneof![Just(1), Just(3), Just(256)],
        memory_bytes in prop_oneof![Just(Options::MEMORY_BYTES_MIN), Just(256 << 20)],
    ) -> Choice {
        Choice {
            segment_bytes,
            pointer_segment_bytes,
            buffer_bytes,
            verify,
            maintenance,
            trees,
            open_files_max,
            memory_bytes,
        }
    }
}

fn trees() -> impl Strategy<Value = Trees> {
    let entries = prop_oneof![2 => Just(1), 1 => Just(5), 1 => Just(u64::MAX)];
    let table_bytes = prop_oneof![2 => Just(4 << 10), 1 => Just(16 << 20)];
    // So few bits that different values have one key.
    let key_bits = prop_oneof![Just(1), Just(4), Just(56)];
    (entries, 1..=3u32, 2..=4u32, table_bytes, 0..=7u8, key_bits).prop_map(
        |(
            memtable_entries_max,
            level0_tables,
            level_ratio,
            table_bytes,
            filter_levels,
            index_key_bits,
        )| Trees {
            memtable_entries_max,
            level0_tables,
            level_ratio,
            table_bytes,
            filter_levels,
            index_key_bits,
        },
    )
}

fn ops() -> impl Strategy<Value = Op> {
    let guess = prop_oneof![
        6 => Just(Guess::Current),
        1 => Just(Guess::Absent),
        1 => (0..VALUES).prop_map(Guess::Value),
    ];
    let change = prop_oneof![3 => (0..VALUES).prop_map(Some), 1 => Just(None)];
    let changes = prop::collection::btree_map(0..NAMES, change, 1..8);
    let requires = prop::collection::vec((0..NAMES, guess), 0..3);
    let bound = || {
        prop_oneof![
            2 => Just(Bound::Unbounded),
            3 => (0..NAMES).prop_map(Bound::Included),
            3 => (0..NAMES).prop_map(Bound::Excluded),
        ]
    };
    let back = || prop::collection::vec(any::<bool>(), NAMES + 2);
    let several = || prop::collection::vec(0..VALUES, 0..8);
    let state = prop_oneof![
        Just(CrashState::Nothing),
        Just(CrashState::Everything),
        (0..9usize).prop_map(CrashState::OneMissing),
        (0..9usize).prop_map(CrashState::OneAlone),
        any::<u64>().prop_map(CrashState::Random),
    ];
    prop_oneof![
        8 => (0..VALUES).prop_map(Op::Put),
        4 => several().prop_map(Op::PutMany),
        2 => several().prop_map(Op::GetMany),
        12 => (changes, requires)
            .prop_map(|(changes, requires)| Op::Commit { changes, requires }),
        5 => (0..VALUES).prop_map(Op::Get),
        3 => (0..NAMES).prop_map(Op::Pointer),
        4 => (bound(), bound(), back()).prop_map(|(from, to, back)| Op::Range { from, to, back }),
        3 => (0..PREFIXES, back()).prop_map(|(prefix, back)| Op::Prefix { prefix, back }),
        2 => Just(Op::Hold),
        3 => any::<usize>().prop_map(Op::Look),
        1 => Just(Op::Sync),
        2 => Just(Op::Maintain),
        1 => Just(Op::Compact),
        1 => Just(Op::Reopen),
        1 => state.prop_map(Op::Crash),
    ]
}

struct World {
    choice: Choice,
    disk: Arc<SimDisk>,
    store: Store,
    model: Model,
    held: Vec<(Snapshot, u64, Pointers)>,
    made: Made,
}

/// How much was made of tables.
#[derive(Debug, Default)]
struct Made {
    index_flushes: u64,
    names_flushes: u64,
    rewrites: u64,
}

impl World {
    fn begin(choice: Choice) -> Verdict<Self> {
        let disk = SimDisk::new(11);
        let store = open(choice, &disk)?;
        let (model, held, made) = (Model::default(), Vec::new(), Made::default());
        let mut world = Self { choice, disk, store, model, held, made };
        world.model.survey(&world.store)?;
        Ok(world)
    }

    fn play(mut self, op: &Op) -> Verdict<Self> {
        match op {
            Op::Put(index) => {
                let bytes = value(*index);
                let reply = self.store.put(&bytes);
                self.model.put(&bytes, &reply)?;
                reply.map_err(|error| told(&error))?;
            }
            Op::PutMany(indices) => {
                let values: Vec<Bytes> = indices.iter().map(|index| value(*index)).collect();
                let replies = self.store.put_many(&values);
                ensure!(replies.len() == values.len(), "{} replies", replies.len());
                for (bytes, reply) in values.iter().zip(replies) {
                    self.model.put(bytes, &reply)?;
                    reply.map_err(|error| told(&error))?;
                }
            }
            Op::GetMany(indices) => {
                let digests: Vec<_> = indices.iter().map(|at| Digest::of(&value(*at))).collect();
                let found = self.store.get_many(&digests);
                let contains = self.store.contains_many(&digests);
                for ((digest, found), contains) in digests.iter().zip(found).zip(contains) {
                    self.found(digest, found, contains)?;
                }
            }
            Op::Commit { changes, requires } => self.commit(changes, requires)?,
            Op::Get(index) => {
                let digest = Digest::of(&value(*index));
                self.found(&digest, self.store.get(&digest), self.store.contains(&digest))?;
            }
            Op::Pointer(index) => {
                let name = name(*index);
                let found = self.store.pointer(&name).map_err(|error| told(&error))?;
                ensure!(found.as_ref() == self.model.pointers().get(&name), "{name:?}: {found:?}");
            }
            Op::Range { from, to, back } => {
                let (from, to) = (from.map(name), to.map(name));
                let within: Pointers = self
                    .model
                    .pointers()
                    .clone()
                    .into_iter()
                    .filter(|(name, _)| is_within(name, &from, &to))
                    .collect();
                let range = (from.as_ref().map(|b| &b[..]), to.as_ref().map(|b| &b[..]));
                compare(self.store.pointers(range), &within, back)?;
            }
            Op::Prefix { prefix: index, back } => {
                let prefix = prefix(*index);
                let within: Pointers = self
                    .model
                    .pointers()
                    .clone()
                    .into_iter()
                    .filter(|(name, _)| name.starts_with(&prefix))
                    .collect();
                compare(self.store.pointers_with_prefix(&prefix), &within, back)?;
                compare(self.store.snapshot().pointers_with_prefix(&prefix), &within, back)?;
            }
            Op::Hold => {
                let last = self.model.acknowledged() as u64;
                self.held.push((self.store.snapshot(), last, self.model.pointers().clone()));
            }
            Op::Look(which) => self.look(*which)?,
            Op::Sync => {
                let reply = self.store.sync();
                self.model.sync(&reply);
                reply.map_err(|error| told(&error))?;
            }
            Op::Maintain => self.store.maintain().map_err(|error| told(&error))?,
            Op::Compact => {
                self.store.compact().map_err(|error| told(&error))?;
                if self.choice.maintenance == Maintenance::Inline {
                    let stats = self.store.stats();
                    for levels in [&stats.index.levels, &stats.names.levels] {
                        let filled = levels.iter().filter(|level| level.table_count > 0).count();
                        ensure!(filled <= 1, "compacted, and {filled} levels hold tables");
                    }
                }
            }
            Op::Reopen => {
                self.held.clear();
                self.count_made();
                let reply = self.store.close();
                self.model.sync(&reply);
                reply.map_err(|error| told(&error))?;
                self.store = open(self.choice, &self.disk)?;
                ensure!(self.store.stats().recovery.clean, "closed, but not found so");
                self.model.survey(&self.store)?;
            }
            Op::Crash(state) => {
                self.held.clear();
                self.count_made();
                self.disk.crash_now();
                drop(self.store);
                self.model.die();
                self.disk = self.disk.after_crash(*state);
                self.store = open(self.choice, &self.disk)?;
                self.model.survey(&self.store)?;
            }
        }
        Ok(self)
    }

    /// A value was asked for in both ways.
    fn found(
        &self,
        digest: &Digest,
        found: pinstone::Result<Option<Bytes>>,
        contains: pinstone::Result<bool>,
    ) -> Verdict {
        let found = found.map_err(|error| told(&error))?;
        let contains = contains.map_err(|error| told(&error))?;
        ensure!(contains == found.is_some(), "contains and get disagree on {digest}");
        match self.model.bytes(digest) {
            Some(_) => self.model.got(digest, found.as_ref()),
            None => {
                ensure!(found.is_none(), "{digest} was never put");
                Ok(())
            }
        }
    }

    fn commit(
        &mut self,
        changes: &BTreeMap<usize, Option<usize>>,
        requires: &[(usize, Guess)],
    ) -> Verdict {
        let digest = |index: usize| Digest::of(&value(index));
        let guessed = |index: usize, guess: Guess| match guess {
            Guess::Current => self.model.pointers().get(&name(index)).copied(),
            Guess::Absent => None,
            Guess::Value(index) => Some(digest(index)),
        };
        // The next one that was put, so that few commits are refused.
        let held = |index: usize| {
            let mut from = (index..index + VALUES).map(|index| digest(index % VALUES));
            let next = from.find(|digest| self.model.bytes(digest).is_some());
            next.filter(|_| !index.is_multiple_of(16)).unwrap_or_else(|| digest(index))
        };
        let edit = Edit {
            changes: changes.iter().map(|(index, to)| (name(*index), to.map(held))).collect(),
            requires: requires
                .iter()
                .map(|(at, guess)| (name(*at), guessed(*at, *guess)))
                .collect(),
        };
        let reply = self.store.commit(edit.batch());
        self.model.commit(&edit, &reply, false)?;
        match reply {
            Ok(_) | Err(Error::PreconditionFailed { .. } | Error::ValueMissing { .. }) => Ok(()),
            Err(error) => Err(told(&error)),
        }
    }

    /// Counts what this life made, which is about to end.
    fn count_made(&mut self) {
        let stats = self.store.stats();
        self.made.index_flushes += stats.index.flush_count;
        self.made.names_flushes += stats.names.flush_count;
        self.made.rewrites += stats.index.rewrite_count + stats.names.rewrite_count;
    }

    fn look(&self, which: usize) -> Verdict {
        let Some(index) = which.checked_rem(self.held.len()) else { return Ok(()) };
        let (snapshot, last, pointers) = &self.held[index];
        ensure!(snapshot.commit().0 == *last, "a snapshot moved from {last}");
        ensure!(shown(snapshot)? == *pointers, "a snapshot no longer shows {pointers:?}");
        for index in 0..NAMES {
            let one = snapshot.pointer(name(index)).map_err(|error| told(&error))?;
            ensure!(one.as_ref() == pointers.get(&name(index)), "{:?}: {one:?}", name(index));
        }
        Ok(())
    }
}

fn open(choice: Choice, disk: &Arc<SimDisk>) -> Verdict<Store> {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    choice.builder().open_on(disk).map_err(|error| format!("open: {}", told(&error)))
}

/// An empty range, however it is written, holds nothing.
fn is_within(name: &Vec<u8>, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    let after = match from {
        Bound::Included(from) => name >= from,
        Bound::Excluded(from) => name > from,
        Bound::Unbounded => true,
    };
    let before = match to {
        Bound::Included(to) => name <= to,
        Bound::Excluded(to) => name < to,
        Bound::Unbounded => true,
    };
    after && before
}

/// Takes from both ends as told, and finds the end from both sides.
fn compare(mut listed: pinstone::Pointers, expected: &Pointers, back: &[bool]) -> Verdict {
    let mut left: VecDeque<_> = expected.iter().collect();
    for back in back {
        let (found, due) = match back {
            true => (listed.next_back(), left.pop_back()),
            false => (listed.next(), left.pop_front()),
        };
        let found = found.transpose().map_err(|error| told(&error))?;
        let found = found.as_ref().map(|(name, digest)| (&name[..], digest));
        let due = due.map(|(name, digest)| (&name[..], digest));
        ensure!(found == due, "{found:?} instead of {due:?}, from the back: {back}");
    }
    Ok(())
}

fn holds(choice: Choice, ops: &[Op]) -> Verdict {
    let mut world = World::begin(choice)?;
    for (index, op) in ops.iter().enumerate() {
        world = world.play(op).map_err(|seen| format!("{index}, {op:?}: {seen}"))?;
    }
    let world = world.play(&Op::Reopen)?;
    sound(&world.store)
}

/// A history without tables says little of them.
#[test]
fn histories_like_those_that_are_drawn_flush_and_rewrite_both_trees() {
    let mut runner = TestRunner::deterministic();
    let histories = (choices(), prop::collection::vec(ops(), 100..150));
    let mut all = Made::default();
    for _ in 0..40 {
        let (choice, ops) = histories.new_tree(&mut runner).unwrap().current();
        let mut world = World::begin(choice).unwrap();
        for op in &ops {
            world = world.play(op).unwrap();
        }
        world.count_made();
        all.index_flushes += world.made.index_flushes;
        all.names_flushes += world.made.names_flushes;
        all.rewrites += world.made.rewrites;
    }
    assert!(all.index_flushes > 80 && all.names_flushes > 20 && all.rewrites > 40, "{all:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: u32::try_from(1000 * budget()).expect("a budget of millions at most"),
        max_shrink_iters: 4000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/seeds/model.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_gives_the_answers_of_plain_maps(
        choice in choices(),
        ops in prop::collection::vec(ops(), 1..150),
    ) {
        common::caught(|| holds(choice, &ops)).map_err(TestCaseError::fail)?;
    }
}
