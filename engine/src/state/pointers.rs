//! Name -> digest, with the versions that snapshots still see: a tree of names in memory and in
//! tables.
//!
//! 1. Commits are applied to the active memtable. Frozen, it stands among those that wait to be
//!    written as tables; then it is gone, and the levels have one table more in level 0.
//! 2. A look-up goes from the newest to the oldest: active memtable, frozen ones, level 0, the levels
//!    below. The first version that it finds and that is not newer than the commit asked for answers,
//!    since newer versions of a name stand above older ones. A deletion answers, too.
//! 3. A scan merges them all; see `pinstone_compaction::name_scan`.
//! 4. All this is one view, which is published whole whenever it changes. Whoever reads keeps the
//!    view that it began with, and with it the tables; a memtable that was flushed is gone at once, and
//!    whoever comes to it goes on in the present view.
//!
//! - N1: only durable commits are here: what a reader sees, no crash undoes (P2).
//! - N2: of a name that is changed only the versions stay in the active memtable that the present or
//!   a snapshot sees. Nothing looks for those that only an ended snapshot saw: they go when the name
//!   is changed again, or when a flush or a rewrite leaves them out.
//! - N3: commits are applied whole, under one lock, in order of their numbers. A view is read before
//!   that lock is taken, and after a commit was read in the active memtable every later view has it:
//!   so whatever reads follow each other, none sees less than the one before, or half a commit.
//! - N4: which commits are pinned is asked under the lock that versions are dropped under, and under
//!   which the present goes on; see `pins.rs`.
//! - N5: a flush or a rewrite may drop what the pins do not see that it was told of when it began, if
//!   all that it reads was frozen by then. Who takes a pin later takes the present commit, which is
//!   not before any commit in there: of that it sees the newest version of each name, which stays. So
//!   what a plan is told of the oldest pin still holds when it is begun, if no table came meanwhile: pins
//!   that end let more go, and those that are taken then see the newest version of each name in tables.
//! - N6: of a memtable that is flushed, versions and table are never both missing from a view: they
//!   are exchanged by one publication.
//!
//! Lock order: views are changed under `publishing`, below which only memtables are locked. A
//! memtable's names, then the pins.

mod memtable;
mod name_map;
mod pins;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::name_scan::{
    Head, LevelScan, NameRange, NameScan as Scan, NameSource, NameView, Stop,
};
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::run::Names;
use pinstone_disk::env::{AtomicBool, Mutex, NameSeed, Ordering, Published};
use pinstone_disk::{CommitId, Digest, Ordinal};
use pinstone_wal::{CommitRecord, LogPosition};

use self::memtable::MemtableScan;
pub(crate) use self::memtable::NameMemtable;
use self::pins::Pinned;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::state::root::Flushed;

/// Segments of the log that one memtable is made from, at most: as many are replayed at open.
const MEMTABLE_SEGMENTS_MAX: u32 = 4;

/// The pointer table.
#[derive(Debug)]
pub(crate) struct PointerTable {
    view: Arc<Published<NamesView>>,
    /// Held by who publishes another view.
    publishing: Mutex<()>,
    pinned: Pinned,
    /// Of the memtables' maps.
    seed: NameSeed,
    /// Tables that the root does not name were there at open, and may be yet: a deletion may hide what they say.
    has_stale: AtomicBool,
}

/// Where names stand, newest first.
#[derive(Clone, Debug)]
pub(crate) struct NamesView {
    active: Arc<NameMemtable>,
    /// Waiting to be flushed, the newest first.
    frozen: Vec<Arc<NameMemtable>>,
    levels: Arc<OpenLevels<Names>>,
}

/// Pointers in order of their names, from both ends; owns what it reads.
pub(crate) type NameScan = Scan<NamesView>;

impl PointerTable {
    /// The table that these levels are, up to and with `last_commit`; further ones stand in segments
    /// of the log from `first` on.
    pub(crate) fn new(
        levels: OpenLevels<Names>,
        last_commit: CommitId,
        first: Ordinal,
        seed: NameSeed,
        has_stale: bool,
    ) -> Self {
        let active = Arc::new(NameMemtable::new(last_commit, first, seed));
        let view = NamesView { active, frozen: Vec::new(), levels: Arc::new(levels) };
        Self {
            view: Arc::new(Published::new(Arc::new(view))),
            publishing: Mutex::new(()),
            pinned: Pinned::new(last_commit),
            seed,
            has_stale: AtomicBool::new(has_stale),
        }
    }

    /// No table is there that the root does not name: its file is durably gone.
    pub(crate) fn has_no_stale(&self) {
        self.has_stale.store(false, Ordering::Relaxed);
    }

    /// The last commit applied; [`CommitId::NONE`] before the first.
    pub(crate) fn last_commit(&self) -> CommitId {
        self.pinned.last_commit()
    }

    /// Pointers that stand now, if all are in the active memtable; else about as many: a name that
    /// stands in several places is counted in each, and tables' deletions are counted.
    pub(crate) fn entry_count_estimate(&self) -> u64 {
        let view = self.view.keep();
        let standing: u64 = view.memtables().map(|memtable| memtable.standing_count()).sum();
        standing.saturating_add(view.levels.levels().total().entry_count)
    }

    /// Bytes that names take in memory, but for what tables keep there.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.view.keep().memtables().map(|memtable| memtable.memory_bytes()).sum()
    }

    /// Where `name` points now.
    ///
    /// # Errors
    /// A table that may have it is damaged, or the machine says so.
    pub(crate) fn current(&self, name: &[u8]) -> Result<Option<Digest>> {
        self.at(name, CommitId(u64::MAX))
    }

    /// Where `name` pointed after `commit`, which is pinned.
    ///
    /// # Errors
    /// As [`PointerTable::current`].
    pub(crate) fn at(&self, name: &[u8], commit: CommitId) -> Result<Option<Digest>> {
        loop {
            match self.view.read().at(name, commit) {
                Ok(to) => return Ok(to),
                Err(Stop::Failed(error)) => return Err(error.into()),
                // It was flushed since that view was read.
                Err(Stop::Gone) => {}
            }
        }
    }

    /// The pointers of `range` as of `commit`, which is pinned for as long as they are read.
    pub(crate) fn scan(&self, range: NameRange, commit: CommitId) -> NameScan {
        Scan::new(Arc::clone(&self.view), range, commit.0)
    }

    /// Every pointer that stands, by name: for checks.
    pub(crate) fn standing(&self) -> Standing<'_> {
        let commit = self.pin();
        Standing { table: self, commit, scan: self.scan(NameRange::all(), commit) }
    }

    /// Keeps what the present commit sees until [`PointerTable::unpin`]; returns its number.
    pub(crate) fn pin(&self) -> CommitId {
        self.pinned.pin()
    }

    /// Ends a pin.
    ///
    /// # Panics
    /// If the commit is not pinned.
    pub(crate) fn unpin(&self, commit: CommitId) {
        self.pinned.unpin(commit);
    }

    /// The commits that are pinned, ascending: what a flush or a rewrite that begins now must keep,
    /// beside the present. To be asked after the memtable was frozen that is flushed (N5).
    pub(crate) fn views(&self) -> Vec<u64> {
        self.pinned.views()
    }

    /// The oldest commit that anyone sees: the oldest that is pinned, or `u64::MAX` if all see the present.
    /// To be asked while no table comes (N5).
    pub(crate) fn oldest_seen(&self) -> u64 {
        self.pinned.oldest().map_or(u64::MAX, |commit| commit.0)
    }

    /// Applies a durable commit, the one after the last. By one thread at a time.
    ///
    /// # Panics
    /// If it is not the one after the last.
    pub(crate) fn apply(&self, commit: CommitRecord) {
        let view = self.view.keep();
        view.active.apply(
            commit,
            view.has_below() || self.has_stale.load(Ordering::Relaxed),
            &self.pinned,
        );
    }

    /// The active memtable becomes the newest frozen one, however little is in it: the log goes on in
    /// segment `below`, and the last commit depends on what is below `depends_upto`. By the thread
    /// that applies commits, between two of them.
    pub(crate) fn freeze(&self, below: Ordinal, depends_upto: LogPosition) {
        self.publish(|view| {
            let commit = view.active.last_commit();
            view.active.freeze(Flushed { below, commit, depends_upto });
            let active = Arc::new(NameMemtable::new(view.active.last_commit(), below, self.seed));
            view.frozen.insert(0, std::mem::replace(&mut view.active, active));
        });
    }

    /// The active memtable, with `besides_bytes` that are kept of the same segment of the log, takes as much
    /// memory as it may: the log's next segment is to begin another.
    pub(crate) fn is_full(&self, options: &Options, besides_bytes: u64) -> bool {
        let memtable_bytes = self.view.read().active.memory_bytes() as u64;
        memtable_bytes + besides_bytes >= options.budget().names_memtable_bytes
    }

    /// The active memtable is to be flushed when the log goes on in segment `next`: it holds enough for
    /// a table, or so many segments that reading them at open would take long, however little is left
    /// of what they say. `divisor`: what part of enough is enough, as for [`PointerTable::holds_share`].
    pub(crate) fn is_worth_flushing(&self, options: &Options, next: Ordinal, divisor: u64) -> bool {
        let first = self.view.read().active.first();
        let segment_count = next.0.saturating_sub(first.0);
        segment_count >= MEMTABLE_SEGMENTS_MAX || self.holds_share(options, divisor)
    }

    /// The active memtable holds this share, 1 : `divisor`, of what is enough for a table.
    pub(crate) fn holds_share(&self, options: &Options, divisor: u64) -> bool {
        let view = self.view.read();
        let half_bytes = options.budget().names_memtable_bytes / 2;
        let entry_count = view.active.entry_count();
        let is_many = entry_count >= options.memtable_entries_max / divisor;
        entry_count > 0 && (is_many || view.active.memory_bytes() as u64 >= half_bytes / divisor)
    }

    /// The memtable that commits are applied to.
    #[cfg(test)]
    pub(crate) fn active(&self) -> Arc<NameMemtable> {
        Arc::clone(&self.view.read().active)
    }

    /// The frozen memtable that is to be flushed next.
    pub(crate) fn oldest_frozen(&self) -> Option<Arc<NameMemtable>> {
        self.view.read().frozen.last().cloned()
    }

    /// Memtables that wait to be flushed.
    pub(crate) fn frozen_count(&self) -> u64 {
        self.view.read().frozen.len() as u64
    }

    /// Entries of each memtable, the oldest first.
    pub(crate) fn memtable_entries(&self) -> Vec<u64> {
        let view = self.view.keep();
        let memtables = view.frozen.iter().rev().chain([&view.active]);
        memtables.map(|memtable| memtable.entry_count()).collect()
    }

    /// `oldest` is in `levels` now. These follow on the present ones: whoever makes levels of those
    /// that there are lets nobody else do so meanwhile.
    ///
    /// # Panics
    /// If another memtable is the oldest.
    pub(crate) fn flushed(&self, oldest: &Arc<NameMemtable>, levels: OpenLevels<Names>) {
        self.publish(|view| {
            let flushed = view.frozen.pop();
            let is_oldest = flushed.is_some_and(|flushed| Arc::ptr_eq(&flushed, oldest));
            assert!(is_oldest, "memtables are flushed in the order in which they were frozen");
            view.levels = Arc::new(levels);
        });
        oldest.leave();
    }

    /// Tables were rewritten: `levels` has what the present ones have. As with
    /// [`PointerTable::flushed`], nobody else may make others meanwhile.
    pub(crate) fn compacted(&self, levels: OpenLevels<Names>) {
        self.publish(|view| view.levels = Arc::new(levels));
    }

    /// The tables.
    pub(crate) fn levels(&self) -> Arc<OpenLevels<Names>> {
        Arc::clone(&self.view.read().levels)
    }

    fn publish(&self, change: impl FnOnce(&mut NamesView)) {
        let _publishing = self.publishing.lock();
        let mut view = NamesView::clone(&self.view.read());
        change(&mut view);
        self.view.publish(Arc::new(view));
    }
}

impl Default for PointerTable {
    /// A table without names, before the first commit.
    fn default() -> Self {
        Self::new(OpenLevels::new(), CommitId::NONE, Ordinal::FIRST, NameSeed::new([0; 16]), false)
    }
}

impl NamesView {
    fn memtables(&self) -> impl Iterator<Item = &Arc<NameMemtable>> {
        std::iter::once(&self.active).chain(&self.frozen)
    }

    /// There may be older versions than those of the active memtable.
    fn has_below(&self) -> bool {
        !self.frozen.is_empty() || self.levels.levels().total().table_count > 0
    }

    fn at(&self, name: &[u8], commit: CommitId) -> Result<Option<Digest>, Stop> {
        for memtable in self.memtables() {
            if let Some(to) = memtable.find(name, commit)? {
                return Ok(to);
            }
        }
        for table in self.levels.for_key(name) {
            if let Some((_, to)) = table.find(name, commit.0)? {
                return Ok(to);
            }
        }
        Ok(None)
    }
}

/// What holds names.
#[derive(Debug)]
pub(crate) enum Source {
    Memtable(MemtableScan),
    Level(Box<LevelScan>),
}

impl NameSource for Source {
    #[inline]
    fn next(&mut self, head: &mut Head) -> Result<bool, Stop> {
        match self {
            Self::Memtable(scan) => scan.next(head),
            Self::Level(scan) => scan.next(head),
        }
    }

    #[inline]
    fn give<F>(&mut self, head: &mut Head, each: F) -> Result<bool, Stop>
    where
        F: FnMut(&[u8], u64, Option<&Digest>) -> bool,
    {
        match self {
            Self::Memtable(scan) => scan.give(head, each),
            Self::Level(scan) => scan.give(head, each),
        }
    }
}

impl NameView for NamesView {
    type Source = Source;
    type Error = Error;

    fn sources(self: &Arc<Self>, range: &NameRange, commit: u64, backwards: bool) -> Vec<Source> {
        let scan = |memtable| MemtableScan::new(memtable, range, CommitId(commit), backwards);
        let memtables = self.memtables().map(|memtable| Source::Memtable(scan(memtable)));
        let levels = LevelScan::all(&self.levels, range, commit, backwards).into_iter();
        memtables.chain(levels.map(|scan| Source::Level(Box::new(scan)))).collect()
    }
}

/// Every pointer that stands; see [`PointerTable::standing`].
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    table: &'a PointerTable,
    commit: CommitId,
    scan: NameScan,
}

impl Iterator for Standing<'_> {
    type Item = Result<(Bytes, Digest)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.scan.next()
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.table.unpin(self.commit);
    }
}
