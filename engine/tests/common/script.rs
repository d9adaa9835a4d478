//! Workloads as data, and the one runner that plays them against a store and the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinstone::{Bytes, Digest, Error, Maintenance, Result, Store, StoreBuilder};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, Fault, SimDisk};

use super::model::{Edit, Model};
use super::{Verdict, ensure, mix, told};

/// One call of a store's user.
#[derive(Clone, Debug)]
pub enum Step {
    /// Puts value number so, of so many bytes.
    Put(u16, usize),
    /// Puts several at once.
    PutMany(Vec<(u16, usize)>),
    /// Reads a value.
    Get(u16),
    /// Commits.
    Commit(Vec<Change>),
    /// Syncs.
    Sync,
    /// Closes the store and opens it again.
    Reopen,
}

/// One part of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Set(&'static str, u16),
    Delete(&'static str),
    Require(&'static str, Option<u16>),
}

use Change::{Delete, Require, Set};
use Step::{Commit, Get, Put, PutMany, Reopen, Sync};

/// What happened to the disk before the script begins.
#[derive(Clone, Debug)]
pub enum Before {
    /// Nothing: it is empty.
    Nothing,
    /// Another life, and its process died; the system lives on with what it had not yet written.
    Killed(Vec<Step>),
    /// Another life, and a crash in place of one of its last operations; 1 for the very last.
    Torn { life: Vec<Step>, ops_from_end: u64, state: CrashState },
}

/// A script and the store it runs on.
#[derive(Clone, Debug)]
pub struct Workload {
    pub name: String,
    pub segment_bytes: u64,
    pub pointer_segment_bytes: u64,
    pub testify_bytes: u64,
    pub buffer_bytes: usize,
    pub before: Before,
    /// What the disk does wrong, in this life and in each opening after it.
    pub failing: Option<Failing>,
    pub steps: Vec<Step>,
    values: Arc<BTreeMap<u16, Bytes>>,
}

/// Value number `id`: bytes that no other number has, incompressible.
pub fn value(id: u16, len_bytes: usize) -> Bytes {
    let words = (0..len_bytes.div_ceil(8)).map(|at| mix(&[u64::from(id), at as u64]));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).take(len_bytes).collect();
    bytes.into()
}

impl Workload {
    pub fn new(name: impl Into<String>, steps: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            segment_bytes: 64 << 10,
            pointer_segment_bytes: 64 << 10,
            testify_bytes: 64 << 10,
            buffer_bytes: 4 << 10,
            before: Before::Nothing,
            failing: None,
            steps,
            values: Arc::default(),
        }
        .with_values()
    }

    /// With the smallest segments and buffer, so that everything rotates soon.
    fn tiny(self) -> Self {
        Self { segment_bytes: 4 << 10, buffer_bytes: 1 << 10, ..self }.with_tiny_pointer_segments()
    }

    /// So that the pointer log goes on in further segments, and the blob log does not.
    fn with_tiny_pointer_segments(self) -> Self {
        Self { pointer_segment_bytes: 4 << 10, ..self }
    }

    /// So that the root testifies before the pointer log goes on in a further segment.
    fn with_soon_testimony(self) -> Self {
        Self { testify_bytes: 4 << 10, ..self }
    }

    /// On a disk that writes a part of what it is asked to, each time.
    fn with_short_writes(self) -> Self {
        let failing = Failing { op: 1, fault: Fault::ShortWrite, onward: true };
        Self { failing: Some(failing), ..self }
    }

    fn after(self, before: Before) -> Self {
        Self { before, ..self }.with_values()
    }

    fn with_values(mut self) -> Self {
        let earlier = match &self.before {
            Before::Nothing => &[][..],
            Before::Killed(life) | Before::Torn { life, .. } => life,
        };
        let mut values = BTreeMap::new();
        for step in earlier.iter().chain(&self.steps) {
            let put = match step {
                Put(id, len_bytes) => &[(*id, *len_bytes)][..],
                PutMany(put) => put,
                _ => &[],
            };
            for (id, len_bytes) in put {
                let known = values.insert(*id, value(*id, *len_bytes));
                assert!(known.is_none_or(|known| known.len() == *len_bytes), "one id, one value");
            }
        }
        self.values = Arc::new(values);
        self
    }

    pub fn builder(&self) -> StoreBuilder {
        Store::builder()
            .segment_bytes(self.segment_bytes)
            .pointer_segment_bytes(self.pointer_segment_bytes)
            .testify_bytes(self.testify_bytes)
            .append_buffer_bytes(self.buffer_bytes)
            .reserve_bytes(4 * self.segment_bytes + (16 << 10))
            // So that little makes tables, and tables make levels.
            .memtable_entries_max(3)
            .level0_tables(2)
            .level_ratio(2)
            .table_bytes(4 << 10)
            .maintenance(Maintenance::Inline)
    }

    /// A value that no step puts is one that the store does not hold.
    fn digest(&self, id: u16) -> Digest {
        self.values.get(&id).map_or_else(|| Digest::of(&value(id, 8)), |bytes| Digest::of(bytes))
    }

    pub fn edit(&self, changes: &[Change]) -> Edit {
        let mut edit = Edit::default();
        for change in changes {
            let name = |name: &str| name.as_bytes().to_vec();
            match *change {
                Set(at, id) => edit.changes.push((name(at), Some(self.digest(id)))),
                Delete(at) => edit.changes.push((name(at), None)),
                Require(at, id) => edit.requires.push((name(at), id.map(|id| self.digest(id)))),
            }
        }
        edit
    }

    /// The disk and the model as the script finds them.
    pub fn begin(&self, seed: u64) -> Verdict<(Arc<SimDisk>, Model)> {
        let first = || World::new(self, SimDisk::new(seed), Model::default());
        match &self.before {
            Before::Nothing => Ok((SimDisk::new(seed), Model::default())),
            Before::Killed(life) => {
                let mut world = first();
                world.play_all(life)?;
                // Copied first: whatever the store does when dropped is not done by a dead process.
                let disk = world.disk.clean_reopen();
                world.model.die();
                Ok((disk, world.model))
            }
            Before::Torn { life, ops_from_end, state } => {
                let mut whole = first();
                whole.play_all(life)?;
                let mut torn = first();
                torn.disk.crash_at(whole.disk.op_count() + 1 - ops_from_end);
                torn.play_all(life)?;
                ensure!(torn.disk.crashed(), "{}: no crash before the script", self.name);
                torn.model.die();
                Ok((torn.disk.after_crash(*state), torn.model))
            }
        }
    }
}

/// A disk, the store on it while it is open, and what the store must hold.
#[derive(Debug)]
pub struct World<'a> {
    pub workload: &'a Workload,
    pub disk: Arc<SimDisk>,
    pub model: Model,
    pub store: Option<Store>,
    /// How many disk operations that change something had been made when the store was last open.
    pub opened_at_mutation: u64,
    /// What the disk does wrong.
    pub failing: Option<Failing>,
}

/// A fault, and the disk operations that it befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    pub op: u64,
    pub fault: Fault,
    /// All operations from then on, and not only that one.
    pub onward: bool,
}

impl<'a> World<'a> {
    pub fn new(workload: &'a Workload, disk: Arc<SimDisk>, model: Model) -> Self {
        let failing = workload.failing;
        Self { workload, disk, model, store: None, opened_at_mutation: 0, failing }
    }

    /// Opens the store and compares it with the model. The disk does nothing wrong meanwhile to
    /// the comparison.
    pub fn open(&mut self) -> Verdict<Result<()>> {
        let disk = Arc::clone(&self.disk) as Arc<dyn Disk>;
        self.fail();
        match self.workload.builder().open_on(disk) {
            Ok(store) => {
                self.opened_at_mutation = self.disk.mutation_count();
                if self.failing.is_some() {
                    self.disk.heal();
                }
                let surveyed = self.model.survey(&store);
                self.store = Some(store);
                self.fail();
                // A disk that crashes under the survey answers nothing.
                if self.disk.crashed() { Ok(Ok(())) } else { surveyed.map(Ok) }
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Lets the disk do wrong what is still to come of it.
    fn fail(&self) {
        match self.failing {
            Some(Failing { op, fault, onward: true }) => self.disk.fail_from(op, fault),
            Some(Failing { op, fault, onward: false }) => self.disk.fail_at(op, fault),
            None => {}
        }
    }

    /// Plays one step and judges its reply. The error, if that is what the reply was and if it is
    /// not one that the script asked for.
    pub fn play(&mut self, step: &Step) -> Verdict<Option<Error>> {
        let store = self.store.as_ref().ok_or("the store is not open")?;
        let error = match step {
            Put(id, _) => {
                let bytes = &self.workload.values[id];
                let reply = store.put(bytes);
                self.judge_put(bytes, &reply)?;
                reply.err()
            }
            PutMany(put) => {
                let values: Vec<_> = put.iter().map(|(id, _)| &self.workload.values[id]).collect();
                let mut failed = None;
                for (bytes, reply) in values.iter().zip(store.put_many(&values)) {
                    self.judge_put(bytes, &reply)?;
                    failed = failed.or(reply.err());
                }
                failed
            }
            Get(id) => {
                let bytes = &self.workload.values[id];
                let digest = Digest::of(bytes);
                match store.get(&digest) {
                    Ok(found) => {
                        self.model.got(&digest, found.as_ref())?;
                        None
                    }
                    Err(error) => Some(error),
                }
            }
            Commit(changes) => {
                let edit = self.workload.edit(changes);
                let reply = store.commit(edit.batch());
                self.model.commit(&edit, &reply, self.disk.crashed())?;
                match reply.err() {
                    Some(Error::PreconditionFailed { .. } | Error::ValueMissing { .. }) => None,
                    error => error,
                }
            }
            Sync => {
                let reply = store.sync();
                self.model.sync(&reply);
                reply.err()
            }
            Reopen => {
                let reply = self.store.take().expect("it was open").close();
                self.model.sync(&reply);
                match reply {
                    Ok(()) => self.open()?.err(),
                    Err(error) => Some(error),
                }
            }
        };
        Ok(error)
    }

    /// Whether a value is known may not be told by a disk that fails: then it is written again.
    fn judge_put(&mut self, bytes: &Bytes, reply: &Result<pinstone::Put>) -> Verdict {
        if self.failing.is_some() || self.disk.crashed() {
            self.model.put_again(bytes, reply)
        } else {
            self.model.put(bytes, reply)
        }
    }

    /// Opens and plays all steps, or as many as come before the crash. Nothing else may fail.
    pub fn play_all(&mut self, steps: &[Step]) -> Verdict {
        let opened = self.open()?;
        self.only_a_crash("open", opened.err())?;
        for step in steps {
            if self.disk.crashed() {
                break;
            }
            let error = self.play(step).map_err(|seen| format!("{step:?}: {seen}"))?;
            self.only_a_crash(step, error)?;
        }
        Ok(())
    }

    /// Puts once more what a commit names.
    pub fn put_targets(&mut self, step: &Step) -> Verdict {
        let Commit(changes) = step else { return Ok(()) };
        for change in changes {
            if let Set(_, id) = change
                && let Some(bytes) = self.workload.values.get(id)
            {
                let put = Put(*id, bytes.len());
                self.play(&put)?
                    .map_or(Ok(()), |error| Err(format!("{put:?}: {}", told(&error))))?;
            }
        }
        Ok(())
    }

    fn only_a_crash(&self, step: impl std::fmt::Debug, error: Option<Error>) -> Verdict {
        match error {
            Some(error) if !self.disk.crashed() => Err(format!("{step:?}: {}", told(&error))),
            _ => Ok(()),
        }
    }
}

/// All workloads, each with something that the others have not.
pub fn workloads() -> Vec<Workload> {
    let mut all = vec![
        Workload::new("creation", vec![]),
        Workload::new("puts-and-commits", puts_and_commits()),
        Workload::new("compare-and-set", compare_and_set()),
        Workload::new("rotation", rotation()).tiny(),
        Workload::new("close-and-reopen", close_and_reopen()),
        Workload::new("deletes", deletes()),
        Workload::new("large-values", large_values()).tiny(),
        Workload::new("old-values", old_values()),
        Workload::new("known-values", known_values()),
        Workload::new("batches", batches()).tiny(),
        Workload::new("carried", carried()).with_tiny_pointer_segments(),
        Workload::new("testified", carried()).with_soon_testimony(),
        Workload::new("short-writes", first_life()).tiny().with_short_writes(),
        Workload::new("after-a-kill", second_life()).after(Before::Killed(first_life())),
        Workload::new("after-a-kill-tiny", second_life())
            .tiny()
            .after(Before::Killed(first_life())),
    ];
    for ops_from_end in 1..=6 {
        let state = CrashState::Random(ops_from_end);
        let before = Before::Torn { life: first_life(), ops_from_end, state };
        let name = format!("after-a-torn-tail-{ops_from_end}");
        all.push(Workload::new(name, second_life()).tiny().after(before));
    }
    all.push(Workload::new("carried-and-not", carried_and_not()));
    all
}

/// The workload of that name.
pub fn workload(name: &str) -> Option<Workload> {
    workloads().into_iter().find(|workload| workload.name == name)
}

fn puts_and_commits() -> Vec<Step> {
    vec![
        Put(1, 100),
        Commit(vec![Set("a", 1)]),
        Put(2, 1000),
        Put(3, 0),
        Sync,
        Put(4, 511),
        Put(5, 512),
        Commit(vec![Set("a", 4), Set("b", 5)]),
        Get(1),
        Put(6, 513),
        Put(7, 3000),
        Commit(vec![Set("c", 7)]),
        Put(8, 40),
    ]
}

fn compare_and_set() -> Vec<Step> {
    vec![
        Put(1, 60),
        Put(2, 70),
        Put(3, 80),
        Commit(vec![Set("a", 1), Set("b", 2), Require("a", None), Require("b", None)]),
        Commit(vec![Set("a", 3), Require("a", None)]),
        Commit(vec![Set("a", 2), Set("b", 1), Require("a", Some(1)), Require("b", Some(2))]),
        Commit(vec![Set("c", 1), Require("a", Some(1))]),
        Put(4, 90),
        Commit(vec![Set("c", 4), Delete("a"), Require("a", Some(2)), Require("c", None)]),
        Commit(vec![Set("d", 999)]),
        Commit(vec![Delete("b"), Delete("c"), Set("a", 3), Require("c", Some(4))]),
        Commit(vec![Set("b", 2), Require("b", Some(1))]),
    ]
}

fn rotation() -> Vec<Step> {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    (0..24)
        .flat_map(|id| {
            let name = names[usize::from(id) % names.len()];
            let commit = if id % 3 == 0 { Commit(vec![Set(name, id)]) } else { Get(id) };
            [Put(id, 400 + 37 * usize::from(id)), commit]
        })
        .chain((0..20).map(|id| Commit(names.map(|name| Set(name, id)).to_vec())))
        .collect()
}

fn close_and_reopen() -> Vec<Step> {
    vec![
        Reopen,
        Put(1, 300),
        Reopen,
        Commit(vec![Set("a", 1)]),
        Reopen,
        Reopen,
        Put(2, 300),
        Commit(vec![Set("b", 2), Delete("a")]),
        Put(3, 300),
        Reopen,
        Get(3),
    ]
}

fn deletes() -> Vec<Step> {
    vec![
        Put(1, 10),
        Commit(vec![Set("a", 1), Set("b", 1), Set("c", 1)]),
        Commit(vec![Delete("a")]),
        Commit(vec![Delete("a"), Delete("absent")]),
        Commit(vec![Delete("b"), Set("a", 1)]),
        Commit(vec![Delete("a"), Delete("c")]),
        Commit(vec![Set("c", 1), Require("c", None)]),
    ]
}

/// Commits of values that are carried together with such as are too long for that.
fn carried_and_not() -> Vec<Step> {
    let too_long = 260 << 10;
    vec![
        Put(1, 100),
        Put(2, too_long),
        Commit(vec![Set("a", 1), Set("b", 2)]),
        Put(3, 50),
        Commit(vec![Set("c", 3), Set("b", 1)]),
        Put(4, too_long),
        Put(5, 700),
        Commit(vec![Set("a", 5), Set("b", 4)]),
        Put(6, 80),
        Commit(vec![Set("c", 6)]),
    ]
}

/// Larger than the buffer, than its quarter, and than a segment.
fn large_values() -> Vec<Step> {
    vec![
        Put(1, 200),
        Put(2, 1 << 10),
        Put(3, 5000),
        Commit(vec![Set("a", 3), Set("b", 1)]),
        Put(4, 30_000),
        Put(5, 100),
        Commit(vec![Set("c", 4)]),
        Put(6, 9000),
        Sync,
        Put(7, 300),
        Commit(vec![Set("a", 6), Set("b", 5)]),
    ]
}

/// Commits that have nothing to sync in the blob log.
fn old_values() -> Vec<Step> {
    vec![
        Put(1, 200),
        Put(2, 200),
        Sync,
        Commit(vec![Set("a", 1)]),
        Commit(vec![Set("b", 1)]),
        Commit(vec![Set("a", 2)]),
        Put(3, 200),
        Commit(vec![Set("c", 2)]),
        Commit(vec![Set("c", 3)]),
    ]
}

/// Puts of what is there already, synced or not.
fn known_values() -> Vec<Step> {
    vec![
        Put(1, 300),
        Put(1, 300),
        Commit(vec![Set("a", 1)]),
        Put(1, 300),
        Put(2, 300),
        Put(2, 300),
        Commit(vec![Set("b", 2)]),
        Put(3, 5000),
        Put(3, 5000),
        Put(1, 300),
        Commit(vec![Set("c", 3)]),
        Reopen,
        Put(3, 5000),
        Put(2, 300),
        Commit(vec![Set("d", 2), Set("e", 3)]),
    ]
}

/// Values put together: of all sizes, twice within a batch, known from before, over some segments.
fn batches() -> Vec<Step> {
    vec![
        PutMany(vec![(1, 100), (2, 300), (1, 100), (3, 0), (4, 900), (5, 200), (6, 220)]),
        Commit(vec![Set("a", 1), Set("b", 3)]),
        PutMany(vec![(7, 200), (8, 5000), (2, 300), (9, 200), (8, 5000), (10, 60)]),
        Commit(vec![Set("c", 8), Set("d", 10), Delete("a")]),
        PutMany(vec![(11, 700), (1, 100), (12, 90), (10, 60), (13, 800)]),
        Sync,
        PutMany(vec![(4, 900), (14, 50), (15, 60)]),
        Commit(vec![Set("a", 15), Set("e", 11)]),
    ]
}

/// Values that are committed at once, of which the pointer log carries some and others not.
fn carried() -> Vec<Step> {
    let names = ["a", "b", "c", "d"];
    let mut steps: Vec<Step> = (0..18)
        .flat_map(|id| {
            let name = names[usize::from(id) % names.len()];
            [Put(id, 60 * usize::from(id)), Commit(vec![Set(name, id)])]
        })
        .collect();
    steps.insert(30, Sync);
    steps.insert(20, Put(100, 300));
    steps.insert(10, Reopen);
    steps
}

fn first_life() -> Vec<Step> {
    vec![
        Put(1, 700),
        Commit(vec![Set("a", 1)]),
        Put(2, 900),
        Put(3, 1200),
        Commit(vec![Set("a", 2), Set("b", 3)]),
        Put(4, 1500),
        Commit(vec![Set("c", 4), Delete("a")]),
        Put(5, 600),
        Commit(vec![Set("a", 5), Set("b", 1)]),
    ]
}

fn second_life() -> Vec<Step> {
    vec![
        Put(6, 800),
        Put(5, 600),
        Commit(vec![Set("a", 6)]),
        Commit(vec![Set("d", 5)]),
        Reopen,
        Put(7, 50),
        Commit(vec![Set("e", 7), Delete("b")]),
    ]
}

/// A workload of equal commits, each with a value of its own.
pub(crate) fn filling() -> Workload {
    let name = |id: u16| ["a", "b", "c", "d", "e", "f"][usize::from(id) % 6];
    let steps = (0..40).flat_map(|id| [Put(id, 900), Commit(vec![Set(name(id), id)])]);
    let mut workload = Workload::new("filling", steps.collect());
    (workload.segment_bytes, workload.pointer_segment_bytes) = (8 << 10, 8 << 10);
    workload
}
