//! The pointer table with its tables: random scripts against a model that forgets nothing.

use pinstone_disk::env::Ordering;
use std::collections::{BTreeMap, VecDeque};

use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::merge::{Readers, Versions};
use pinstone_compaction::plan::{NO_DAMAGE, Plan, Shape, plan, plan_full};
use pinstone_compaction::run::{Rewrite, RunOptions, RunWriter, Tree};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableError, TableId, TableMeta};
use pinstone_disk::env::AtomicU64;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Disk, Epoch, Ordinal, StoreId};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A pointer table, and who writes its tables.
struct Grown {
    table: PointerTable,
    disk: Arc<SimDisk>,
    tables: Arc<Tables>,
    next_ordinal: Arc<AtomicU64>,
    table_bytes: u64,
}

impl Grown {
    fn new(table_bytes: u64) -> Self {
        let disk = SimDisk::new(1);
        // Hardly anything is cached.
        let tables = Tables::new(Arc::clone(&disk) as Arc<dyn Disk>, StoreId([7; 16]), 4, 1);
        let next_ordinal = Arc::new(AtomicU64::new(1));
        Self { table: PointerTable::default(), disk, tables, next_ordinal, table_bytes }
    }

    fn options(&self) -> RunOptions {
        let next = Arc::clone(&self.next_ordinal);
        let next_id = Box::new(move || {
            let ordinal = u32::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
            Some(TableId { table: Names::KIND, ordinal: Ordinal(ordinal), epoch: Epoch(1) })
        });
        RunOptions { table_bytes: self.table_bytes, filter_seed: Some(5), next_id }
    }

    fn edited(&self, edit: &LevelEdit) -> OpenLevels<Names> {
        let levels = self.table.levels();
        let open = |(_, meta): &(u8, TableMeta)| Names::open(&self.tables, meta.clone()).unwrap();
        let added = edit.added.iter().filter(|(_, meta)| levels.table(meta.id).is_none());
        let opened: Vec<_> = added.map(|added| Arc::new(open(added))).collect();
        levels.apply(edit, &opened).unwrap()
    }

    fn flush(&self, readers: Readers) {
        let Some(oldest) = self.table.oldest_frozen() else { return };
        let mut writer =
            RunWriter::<Names>::new(&self.tables, self.options(), Vec::new(), Vec::new());
        let is_bottom = self.table.levels().levels().total().table_count == 0;
        let entries = oldest.entries().map(Ok::<_, TableError>);
        for entry in Versions::new(entries, readers, is_bottom) {
            writer.push(&entry.unwrap()).unwrap();
        }
        let added = writer.finish().unwrap().into_iter().map(|meta| (0, meta)).collect();
        let levels = self.edited(&LevelEdit { tree: Names::KIND, added, removed: Vec::new() });
        self.table.flushed(&oldest, levels);
    }

    fn plan(&self, full: bool) -> Option<Plan> {
        let shape = Shape {
            l0_tables: 2,
            l0_bytes: 16 << 10,
            size_ratio_max: 2,
            table_bytes: self.table_bytes,
            input_bytes_max: 64 << 10,
        };
        let levels = self.table.levels();
        let planner = if full { plan_full } else { plan };
        planner(levels.levels(), &shape, self.table.oldest_seen(), NO_DAMAGE)
    }

    fn rewrite(&self, plan: Plan, readers: Readers) {
        let levels = self.table.levels();
        let input = |meta: &Arc<TableMeta>| Arc::clone(levels.table(meta.id).unwrap());
        let inputs: Vec<_> = plan.inputs().map(input).collect();
        let (is_bottom, is_move) = (plan.is_bottom, plan.is_move);
        let edit = if is_move {
            plan.edit(Vec::new())
        } else {
            let kept = |merged| Versions::new(merged, readers, is_bottom);
            let mut rewrite = Rewrite::<Names>::new(
                &self.tables,
                plan,
                &inputs,
                self.options(),
                Vec::new(),
                kept,
            );
            while rewrite.step(100).unwrap() {}
            rewrite.finish().unwrap()
        };
        self.table.compacted(self.edited(&edit));
        if !is_move {
            inputs.iter().for_each(|table| table.file().doom());
        }
    }

    fn readers(&self) -> Readers {
        Readers::new(self.table.views(), u64::MAX)
    }
}

/// All that was ever committed.
#[derive(Default)]
struct Model {
    histories: BTreeMap<Bytes, Vec<(u64, Option<Digest>)>>,
    last_commit: u64,
}

impl Model {
    fn at(&self, name: &[u8], commit: u64) -> Option<Digest> {
        let history = self.histories.get(name)?;
        history.iter().rfind(|(from, _)| *from <= commit)?.1
    }

    fn scan(&self, range: &NameRange, commit: u64) -> VecDeque<(Bytes, Digest)> {
        let inside = |name: &[u8]| *name >= range.from[..] && range.is_before_end(name);
        let names = self.histories.keys().filter(|name| inside(name));
        names.filter_map(|name| Some((name.clone(), self.at(name, commit)?))).collect()
    }
}

/// Names of many lengths, some of which begin with others.
fn name(index: usize) -> Vec<u8> {
    match index % 5 {
        0 => vec![b'a'; index / 5 + 1],
        1 => [&[b'a'; 3][..], &vec![0; index / 5 + 1]].concat(),
        2 => [&[0xff; 2][..], &[u8::try_from(index).unwrap()]].concat(),
        _ => [format!("{:03}", index * 7 % 200).as_bytes(), &vec![b'x'; index * 13 % 700]].concat(),
    }
}

const NAMES: usize = 150;

fn some_name() -> impl Strategy<Value = Vec<u8>> {
    (0..NAMES).prop_map(name)
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(Vec<u8>, bool)>),
    Pin,
    Unpin(Index),
    Freeze,
    /// What may be read is asked for, and the flush done at the next such step.
    Flush,
    /// The same.
    Rewrite {
        full: bool,
    },
    Look(Vec<u8>, Index),
    /// A scan of a pinned commit begins.
    Scan(Option<Vec<u8>>, Option<Vec<u8>>, Index),
    /// Scans go on by so many, from the front where true.
    GoOn(Vec<(bool, u8)>),
}

fn step() -> impl Strategy<Value = Step> {
    let change = (some_name(), prop::bool::weighted(0.7));
    prop_oneof![
        6 => prop::collection::vec(change, 1..40).prop_map(Step::Commit),
        3 => Just(Step::Pin),
        2 => any::<Index>().prop_map(Step::Unpin),
        3 => Just(Step::Freeze),
        4 => Just(Step::Flush),
        4 => any::<bool>().prop_map(|full| Step::Rewrite { full }),
        4 => (some_name(), any::<Index>()).prop_map(|(name, at)| Step::Look(name, at)),
        2 => (prop::option::of(some_name()), prop::option::of(some_name()), any::<Index>())
            .prop_map(|(from, until, at)| Step::Scan(from, until, at)),
        4 => prop::collection::vec((any::<bool>(), 0..40u8), 1..4).prop_map(Step::GoOn),
    ]
}

/// A scan that is under way, and what it has yet to give.
type Going = (NameScan, VecDeque<(Bytes, Digest)>);

fn go_on((scan, left): &mut Going, forwards: bool, count: usize) {
    for nth in 0..count {
        let expected = if forwards { left.pop_front() } else { left.pop_back() };
        let owned = |(name, digest): (&[u8], &Digest)| (Bytes::copy_from_slice(name), *digest);
        // Owned and lent in turns.
        let given = match (nth % 3 > 0, forwards) {
            (true, true) => scan.next().transpose().unwrap(),
            (true, false) => scan.next_back().transpose().unwrap(),
            (false, true) => scan.next_ref().unwrap().map(owned),
            (false, false) => scan.next_back_ref().unwrap().map(owned),
        };
        assert_eq!(given, expected);
    }
}

fn run(table_bytes: u64, steps: Vec<Step>) {
    let grown = Grown::new(table_bytes);
    let (table, mut model) = (&grown.table, Model::default());
    let mut pinned: Vec<CommitId> = Vec::new();
    let mut scans: Vec<Going> = Vec::new();
    let (mut flushing, mut rewriting) = (None, None);
    for step in steps {
        match step {
            Step::Commit(changes) => {
                model.last_commit += 1;
                let id = model.last_commit;
                let changes: BTreeMap<Vec<u8>, bool> = changes.into_iter().collect();
                let to = |name: &[u8], set: bool| {
                    set.then(|| Digest::of(&[name, &id.to_le_bytes()].concat()))
                };
                let changes: Vec<_> =
                    changes.iter().map(|(name, set)| (&name[..], to(name, *set))).collect();
                for (name, to) in &changes {
                    let history = model.histories.entry(Bytes::copy_from_slice(name));
                    history.or_default().push((id, *to));
                }
                apply(table, id, &changes);
                assert_eq!(table.last_commit(), CommitId(id));
            }
            Step::Pin => {
                let commit = table.pin();
                assert_eq!(commit.0, model.last_commit);
                pinned.push(commit);
            }
            Step::Unpin(at) if !pinned.is_empty() => {
                table.unpin(pinned.swap_remove(at.index(pinned.len())));
            }
            Step::Freeze => table.freeze(Ordinal::FIRST, LogPosition::START),
            Step::Flush => match flushing.take() {
                None => flushing = table.oldest_frozen().map(|_| grown.readers()),
                Some(readers) => grown.flush(readers),
            },
            Step::Rewrite { full } => match rewriting.take() {
                None => rewriting = grown.plan(full).map(|plan| (plan, grown.readers())),
                Some((plan, readers)) => grown.rewrite(plan, readers),
            },
            Step::Look(name, at) => {
                assert_eq!(table.current(&name).unwrap(), model.at(&name, u64::MAX));
                if !pinned.is_empty() {
                    let commit = *at.get(&pinned);
                    assert_eq!(table.at(&name, commit).unwrap(), model.at(&name, commit.0));
                }
            }
            Step::Scan(from, until, at) if !pinned.is_empty() => {
                // The pin is the scan's from now on.
                let commit = pinned.swap_remove(at.index(pinned.len()));
                let range = NameRange { from: from.unwrap_or_default(), until };
                let left = model.scan(&range, commit.0);
                scans.push((table.scan(range, commit), left));
            }
            Step::GoOn(moves) => {
                for (going, (forwards, count)) in scans.iter_mut().rev().zip(moves) {
                    go_on(going, forwards, usize::from(count));
                }
            }
            Step::Unpin(_) | Step::Scan(..) => {}
        }
    }
    for (nth, going) in scans.iter_mut().enumerate() {
        go_on(going, nth % 2 == 0, going.1.len() + 1);
    }
    pinned.push(table.pin());
    for commit in pinned {
        let all = model.scan(&NameRange::all(), commit.0);
        let scan = || table.scan(NameRange::all(), commit);
        assert_eq!(scan().map(Result::unwrap).collect::<VecDeque<_>>(), all);
        assert!(scan().rev().map(Result::unwrap).eq(all.into_iter().rev()));
        for index in 0..NAMES {
            let name = name(index);
            assert_eq!(table.at(&name, commit).unwrap(), model.at(&name, commit.0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_read_is_what_was_committed_wherever_it_stands(
        table_bytes in prop::sample::select(vec![1, 6 << 10, 20 << 10]),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        run(table_bytes, steps);
    }
}

/// A table of these names, at rest in one level.
fn at_rest(count: u64, table_bytes: u64) -> Grown {
    let grown = Grown::new(table_bytes);
    let names: Vec<String> = (0..count).map(|name| format!("{name:06}")).collect();
    let changes: Vec<(&[u8], _)> =
        names.iter().map(|name| (name.as_bytes(), Some(target(1)))).collect();
    apply(&grown.table, 1, &changes);
    grown.table.freeze(Ordinal::FIRST, LogPosition::START);
    grown.flush(grown.readers());
    while let Some(plan) = grown.plan(true) {
        grown.rewrite(plan, grown.readers());
    }
    grown
}

#[test]
fn a_scan_goes_on_where_its_memtable_went_and_keeps_none_of_it() {
    let grown = Grown::new(20 << 10);
    let names: Vec<String> = (0..2000).map(|name| format!("{name:06}")).collect();
    let set = |id| {
        let changes: Vec<(&[u8], _)> =
            names.iter().map(|name| (name.as_bytes(), Some(target(id)))).collect();
        apply(&grown.table, id, &changes);
    };
    set(1);
    let commit = grown.table.pin();
    let mut scan = grown.table.scan(NameRange::all(), commit);
    let mut idle = grown.table.scan(NameRange::all(), commit);
    let given = |scan: &mut NameScan, names: &[String], backwards: bool| {
        for name in names {
            let next = if backwards { scan.next_back() } else { scan.next() };
            assert_eq!(next.unwrap().unwrap(), (Bytes::from(name.clone()), target(1)));
        }
    };
    given(&mut scan, &names[..700], false);
    let memtable = grown.table.active();
    grown.table.freeze(Ordinal::FIRST, LogPosition::START);
    set(2);
    given(&mut scan, &names[700..900], false);
    grown.flush(grown.readers());
    assert_eq!(memtable.memory_bytes(), 0, "no scan keeps it");
    let reversed: Vec<_> = names[900..].iter().rev().cloned().collect();
    given(&mut scan, &reversed[..600], true);
    given(&mut scan, &names[900..1400], false);
    assert!(scan.next().is_none() && scan.next_back().is_none());
    given(&mut idle, &names, false);
    assert!(idle.next().is_none());
}

#[test]
fn a_damaged_block_is_an_error_that_ends_a_scan() {
    let grown = at_rest(2000, 20 << 10);
    let levels = grown.table.levels();
    assert!(levels.levels().sums(0).table_count == 0 && levels.levels().total().table_count > 2);
    let (_, table) = levels.all().nth(1).unwrap();
    let (file, offset) = (table.file().name(), 4096 + 5000);
    grown.disk.corrupt(&file.to_string(), offset, |bytes| bytes[0] ^= 1);
    let commit = grown.table.pin();
    for backwards in [false, true] {
        let mut scan = grown.table.scan(NameRange::all(), commit);
        let mut lent = grown.table.scan(NameRange::all(), commit);
        let mut step = || if backwards { scan.next_back() } else { scan.next() };
        let mut read = 0;
        let error = loop {
            match step().expect("the damage comes before the end") {
                Ok((name, digest)) => {
                    let number = if backwards { 1999 - read } else { read };
                    assert_eq!((&name[..], digest), (format!("{number:06}").as_bytes(), target(1)));
                    read += 1;
                }
                Err(error) => break error,
            }
        };
        let said = error.to_string();
        assert!(said.contains(&file.to_string()) && said.contains("offset"), "{said}");
        assert!(read > 100 && step().is_none() && scan.next().is_none());
        for _ in 0..read {
            let next = if backwards { lent.next_back_ref() } else { lent.next_ref() };
            assert!(next.unwrap().is_some());
        }
        let failed = if backwards { lent.next_back_ref() } else { lent.next_ref() };
        assert_eq!(failed.unwrap_err().to_string(), said);
        assert!(lent.next_ref().unwrap().is_none() && lent.next_back_ref().unwrap().is_none());
    }
    let found = (0..2000).map(|name| grown.table.current(format!("{name:06}").as_bytes()));
    let (right, wrong): (Vec<_>, Vec<_>) = found.partition(Result::is_ok);
    assert!(right.into_iter().all(|found| found.unwrap() == Some(target(1))));
    assert!((1..200).contains(&wrong.len()));
}
