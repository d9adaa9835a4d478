//! What nobody reads leaves the tables of names: deletions that hide nothing, and versions that only ended
//! snapshots saw; at the latest when the store is compacted (P9).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::mix;
use pinstone::{Batch, CheckOptions, Digest, Maintenance, Snapshot, Store, StoreBuilder};
use pinstone_disk::Disk;
use pinstone_disk::sim::SimDisk;

/// A store whose tables of names are small, and some of whose names stand.
struct Grown {
    disk: Arc<SimDisk>,
    store: Store,
    digest: Digest,
}

fn small() -> StoreBuilder {
    let builder = Store::builder().pointer_segment_bytes(64 << 10).reserve_bytes(1 << 20);
    builder.table_bytes(64 << 10)
}

/// Long, and in the order of numbers.
fn name(number: u64) -> String {
    let odd = [1, 2, 3, 4].map(|part| format!("{:016x}", mix(&[number, part]))).concat();
    format!("{number:012}-{odd}")
}

impl Grown {
    /// With so many names that stand, behind all others.
    fn new(builder: StoreBuilder, standing: u64) -> Self {
        let disk = SimDisk::new(1);
        let on = Arc::clone(&disk) as Arc<dyn Disk>;
        let store = builder.maintenance(Maintenance::Inline).open_on(on).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        let grown = Self { disk, store, digest };
        for first in (0..standing).step_by(50) {
            let names = (first..first + 50).map(|at| format!("~{at:04}-{}", "n".repeat(500)));
            grown.set(names);
        }
        grown
    }

    fn set(&self, names: impl Iterator<Item = String>) {
        let batch = names.fold(Batch::new(), |batch, name| batch.set(name, self.digest));
        self.store.commit(batch).unwrap();
    }

    fn delete(&self, names: impl Iterator<Item = String>) {
        let batch = names.fold(Batch::new(), |batch, name| batch.delete(name));
        self.store.commit(batch).unwrap();
    }

    /// Names of these numbers come in order, so many at once, and go before the next come.
    fn queue(&self, count: u64, at_once: u64) {
        for first in (0..count).step_by(usize::try_from(at_once).unwrap()) {
            let names = || (first..(first + at_once).min(count)).map(name);
            self.set(names());
            self.delete(names());
        }
    }

    /// Deletes names that never stood, beyond those of a queue.
    fn clean_up(&self, count: u64, at_once: u64) {
        for first in (1_000_000..1_000_000 + count).step_by(usize::try_from(at_once).unwrap()) {
            self.delete((first..first + at_once).map(name));
        }
    }

    fn entry_count(&self) -> u64 {
        self.store.stats().names.levels.iter().map(|level| level.entry_count).sum()
    }

    /// Entries of tables once the store is compacted, which a second compaction leaves as they are.
    fn compacted(&self) -> u64 {
        self.store.compact().unwrap();
        let (entry_count, written) = (self.entry_count(), self.disk.mutation_count());
        self.store.compact().unwrap();
        assert_eq!(self.disk.mutation_count(), written, "at rest nothing is written");
        assert_eq!(self.store.check(&CheckOptions::default()).unwrap().findings, []);
        entry_count
    }
}

/// Which of the commits begins a segment depends on what comes before them: sometimes a set is flushed without its
/// deletion.
#[test]
fn names_that_come_and_go_leave_nothing() {
    for shift in 1..8 {
        let standing = 150 * shift;
        let grown = Grown::new(small(), standing);
        for _ in 0..shift {
            grown.set(["0".to_owned()].into_iter());
            grown.delete(["0".to_owned()].into_iter());
        }
        let at_once = 1 + 3 * (shift % 3);
        grown.queue(20_000, at_once);
        let left = grown.compacted();
        // The last deletions may be yet to be flushed.
        assert!(left <= standing + at_once, "{shift}: {left} entries for {standing} names");
        assert_eq!(grown.store.pointers(..).count() as u64, standing);
    }
}

#[test]
fn deletions_of_names_that_never_stood_leave_nothing() {
    let grown = Grown::new(small(), 0);
    grown.queue(3_000, 20);
    grown.clean_up(40_000, 20);
    let left = grown.compacted();
    assert_eq!((left, grown.store.pointers(..).count()), (1, 0));
}

/// The last memtables wait for their segments; what stands in tables goes without being asked for.
#[test]
fn deletions_go_without_a_compaction_that_is_asked_for() {
    let grown = Grown::new(small(), 600);
    grown.queue(20_000, 1);
    let names = grown.store.stats().names;
    let left: u64 = names.levels[1..].iter().map(|level| level.entry_count).sum();
    assert!(left < 1_000 && names.flush_count > 40, "{names:?}");
}

#[test]
fn deletions_with_default_options_leave_nothing() {
    let grown = Grown::new(Store::builder(), 150);
    grown.queue(60_000, 500);
    grown.clean_up(800_000, 500);
    assert!(grown.store.stats().names.flush_count > 3);
    let left = grown.compacted();
    assert!(left <= 151, "{left} entries for 150 names");
}

/// Sixty versions of five hundred names, each with a snapshot that sees it.
fn snapshots(grown: &Grown) -> Vec<Snapshot> {
    let snapshots = (0..60).map(|_| {
        grown.set((0..500).map(|at| format!("{at:03}")));
        grown.store.snapshot()
    });
    snapshots.collect()
}

#[test]
fn versions_of_ended_snapshots_go_when_the_store_is_compacted() {
    let grown = Grown::new(small(), 0);
    let snapshots = snapshots(&grown);
    let pinned = grown.compacted();
    assert!(pinned > 20_000, "{pinned}");
    drop(snapshots);
    let left = grown.compacted();
    assert_eq!(left, 500, "of {pinned} versions of 500 names");
}

/// Names elsewhere are written, so that somebody looks what is due.
#[test]
fn versions_of_ended_snapshots_go_without_a_compaction_that_is_asked_for() {
    let grown = Grown::new(small(), 0);
    let snapshots = snapshots(&grown);
    grown.store.compact().unwrap();
    let pinned = grown.entry_count();
    drop(snapshots);
    grown.clean_up(2_000, 20);
    let left = grown.entry_count();
    assert!(left < pinned / 4, "{left} of {pinned}");
    assert!(grown.store.stats().names.thinning_count > 0);
}

/// Half of each of many small tables goes at once. No plan for each of them.
#[test]
fn many_tables_with_much_to_go_are_thinned_by_few_rewritings() {
    let by_compact = |grown: &Grown| grown.store.compact().unwrap();
    let by_maintain = |grown: &Grown| grown.store.maintain().unwrap();
    for thin in [&by_compact as &dyn Fn(&Grown), &by_maintain] {
        let builder = small().table_bytes(4 << 10).memtable_entries_max(1);
        let grown = Grown::new(builder, 0);
        let fill = || {
            for first in (0..10_000).step_by(500) {
                grown.set((first..first + 500).map(name));
            }
        };
        fill();
        let snapshot = grown.store.snapshot();
        fill();
        grown.store.compact().unwrap();
        let names = grown.store.stats().names;
        let table_count: u64 = names.levels.iter().map(|level| level.table_count).sum();
        let thinned_before = names.thinning_count;
        drop(snapshot);
        thin(&grown);
        let thinning_count = grown.store.stats().names.thinning_count - thinned_before;
        assert!(table_count > 300, "{table_count} tables");
        assert!((1..10).contains(&thinning_count), "{thinning_count} for {table_count} tables");
        assert_eq!(grown.compacted(), 10_000);
    }
}
