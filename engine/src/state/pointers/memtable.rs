//! Names with their versions, in memory: what was committed since the last table was written.
//!
//! One is active: commits are applied to it. Frozen, it never changes any more, until it is written
//! as a table and let go.
//!
//! - B1: a commit is applied whole, under the lock that reads take (N3).
//! - B2: of a name that is changed only the versions stay that the present or a pin sees. What only
//!   an ended pin saw stays until the name is changed again, or the memtable is flushed: nothing is
//!   kept to find it sooner, since a memtable is bounded in bytes. Of a name of many versions it stays for
//!   about as many changes: so that a change goes through few of them, however many are pinned.
//! - B3: a deletion stays for as long as it may hide something: an older version here, or any name
//!   below, in older memtables and in tables.
//! - B4: `memory_bytes` is what the map, the names and the versions take, or a little more.
//! - B5: the lock is held for one commit, or for [`CHUNK_COUNT`] names, and never across I/O.
//! - B6: it is gone once a view is published that has tables in its place: whoever reads it through an older
//!   view is told so, and reads in the present one. So nobody keeps its memory.
//!
//! Lock order: names, then pins.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::name_scan::{Head, NameRange, NameSource, Stop};
use pinstone_disk::env::{AtomicBool, NameSeed, Ordering, RwLock};
use pinstone_disk::{CommitId, Digest, Ordinal};
use pinstone_wal::{Change, CommitRecord};

use super::name_map::{NameMap, Range};
use super::pins::{Pinned, Pins};
use crate::state::root::Flushed;

/// Names read under one lock, at most.
const CHUNK_COUNT: usize = 256;

/// Bytes of names after which no more are read under one lock, to be given one by one.
const CHUNK_BYTES: usize = 16 << 10;

/// Names that a scan reads under its first lock: many end soon.
const CHUNK_COUNT_MIN: usize = 16;

/// Names that make a run worth reading where they stand: those of shorter runs are read some at a time.
const RUN_COUNT: usize = 16;

/// Older versions of a name that each change goes through.
const SWEPT_COUNT: usize = 16;

/// Names and their versions in memory.
#[derive(Debug)]
pub(crate) struct NameMemtable {
    /// A commit was applied. Before, who looks a name up need not wait for the lock.
    has_commits: AtomicBool,
    names: RwLock<Names>,
}

#[derive(Debug)]
struct Names {
    last_commit: CommitId,
    /// The first segment of the log whose commits may be here.
    first: Ordinal,
    /// What of the log stands in tables once this does, if it is frozen.
    frozen: Option<Flushed>,
    /// None once it is gone (B6).
    versions: Option<NameMap<Versions>>,
    entry_count: u64,
    standing_count: u64,
    /// Bytes that older versions take.
    older_bytes: usize,
}

impl NameMemtable {
    /// One for the commits after `last_commit`, which stand in segments from `first` on.
    pub(crate) fn new(last_commit: CommitId, first: Ordinal, seed: NameSeed) -> Self {
        let names = Names {
            last_commit,
            first,
            frozen: None,
            versions: Some(NameMap::new(seed)),
            entry_count: 0,
            standing_count: 0,
            older_bytes: 0,
        };
        Self { has_commits: AtomicBool::new(false), names: RwLock::new(names) }
    }

    /// The last commit applied here; if there is none, the one before the first that may be.
    pub(crate) fn last_commit(&self) -> CommitId {
        self.names.read().last_commit
    }

    /// The first segment of the log whose commits may be here.
    pub(super) fn first(&self) -> Ordinal {
        self.names.read().first
    }

    /// Versions in it, deletions included.
    pub(crate) fn entry_count(&self) -> u64 {
        self.names.read().entry_count
    }

    /// Names whose newest version here points somewhere.
    pub(crate) fn standing_count(&self) -> u64 {
        self.names.read().standing_count
    }

    /// Bytes that it takes (B4).
    pub(crate) fn memory_bytes(&self) -> usize {
        let names = self.names.read();
        names.versions.as_ref().map_or(0, NameMap::memory_bytes) + names.older_bytes
    }

    /// What the newest version of `name` says that is not newer than `commit`; none if there is no
    /// such version here.
    ///
    /// # Errors
    /// It is gone.
    pub(super) fn find(
        &self,
        name: &[u8],
        commit: CommitId,
    ) -> Result<Option<Option<Digest>>, Stop> {
        if !self.has_commits.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let names = self.names.read();
        let versions = names.versions.as_ref().ok_or(Stop::Gone)?.get(name);
        Ok(versions.and_then(|versions| versions.seen(commit)).map(|version| version.to))
    }

    /// Applies a commit, the one after the last, and makes it the present one.
    pub(super) fn apply(&self, commit: CommitRecord, has_below: bool, pinned: &Pinned) {
        let mut names = self.names.write();
        assert!(names.frozen.is_none(), "a frozen memtable takes no commits");
        assert_eq!(commit.id, names.last_commit.next(), "commits are dense");
        names.last_commit = commit.id;
        // Whoever knows of the commit has taken the lock since, or heard of it from one who has.
        self.has_commits.store(true, Ordering::Relaxed);
        pinned.go_on(commit.id, |pins| {
            for Change { name, to } in commit.changes {
                names.change(&name, Version { commit: commit.id, to }, has_below, pins);
            }
        });
    }

    /// No commit is applied from now on. `flushed` stands in tables once this does.
    pub(super) fn freeze(&self, flushed: Flushed) {
        self.names.write().frozen = Some(flushed);
    }

    /// What it holds stands in tables of the views that are published now: it holds nothing any more,
    /// whoever has it still (B6).
    pub(super) fn leave(&self) {
        let mut names = self.names.write();
        assert!(names.frozen.is_some(), "what commits are applied to does not leave");
        let left = names.versions.take();
        names.older_bytes = 0;
        drop(names);
        // It may be much.
        drop(left);
    }

    /// What of the log stands in tables once this does; none unless it is frozen.
    pub(crate) fn flushed(&self) -> Option<Flushed> {
        self.names.read().frozen
    }

    /// All versions in the order of tables: names ascending, the newest version of each first. Of a
    /// frozen memtable; some hundred versions are copied at a time.
    pub(crate) fn entries(self: &Arc<Self>) -> MemtableEntries {
        let (memtable, range) = (Arc::clone(self), Some(NameRange::all()));
        MemtableEntries { memtable, range, read_from: None, chunk: Vec::new().into_iter() }
    }
}

/// The versions of one name that are kept.
#[derive(Debug)]
struct Versions {
    newest: Version,
    /// Those before it, the oldest first.
    older: Vec<Version>,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    commit: CommitId,
    to: Option<Digest>,
}

fn range<'a>(names: &'a NameMap<Versions>, range: &NameRange) -> Range<'a, Versions> {
    let until = range.until.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    names.range(Bound::Included(&range.from), until)
}

impl Names {
    fn change(&mut self, name: &[u8], version: Version, has_below: bool, pins: &Pins) {
        let stands = u64::from(version.to.is_some());
        let names = self.versions.as_mut().expect("commits are applied to one that is not frozen");
        let hash = names.hash(name);
        let Some(versions) = names.find_mut(hash, name) else {
            if version.to.is_some() || has_below {
                names.insert(hash, name, Versions { newest: version, older: Vec::new() });
                self.entry_count += 1;
                self.standing_count += stands;
            }
            return;
        };
        let stood = u64::from(versions.newest.to.is_some());
        self.standing_count = self.standing_count + stands - stood;
        self.entry_count -= versions.count();
        self.older_bytes -= versions.older_bytes();
        versions.push(version, pins);
        if !has_below {
            versions.drop_first_deletions();
        }
        if versions.older.is_empty() && version.to.is_none() && !has_below {
            names.remove(name);
        } else {
            self.entry_count += versions.count();
            self.older_bytes += versions.older_bytes();
        }
    }
}

impl Versions {
    fn count(&self) -> u64 {
        self.older.len() as u64 + 1
    }

    fn older_bytes(&self) -> usize {
        self.older.capacity() * size_of::<Version>()
    }

    #[inline]
    fn seen(&self, commit: CommitId) -> Option<&Version> {
        if self.newest.commit <= commit {
            return Some(&self.newest);
        }
        let older = self.older.partition_point(|version| version.commit <= commit);
        older.checked_sub(1).map(|last| &self.older[last])
    }

    /// The versions before this commit, or all, the newest first.
    fn before(&self, commit: Option<CommitId>) -> impl Iterator<Item = &Version> {
        let is_before = |version: &Version| commit.is_none_or(|commit| version.commit < commit);
        let newest = Some(&self.newest).filter(|newest| is_before(newest));
        let older = self.older.partition_point(is_before);
        newest.into_iter().chain(self.older[..older].iter().rev())
    }

    /// Adds the newest version, and drops those that neither the present nor a pin sees (B2).
    fn push(&mut self, version: Version, pins: &Pins) {
        let before = std::mem::replace(&mut self.newest, version);
        if pins.is_empty() {
            self.older = Vec::new();
            return;
        }
        if is_swept(self.older.len(), version.commit) {
            self.sweep(before.commit, pins);
        }
        if is_pinned(pins, before.commit, version.commit) {
            self.older.push(before);
        } else if self.older.is_empty() {
            self.older = Vec::new();
        }
    }

    /// Drops the older versions that no pin sees; `next` is the commit of the one behind them.
    fn sweep(&mut self, mut next: CommitId, pins: &Pins) {
        // A version is seen from its commit on until the next one's.
        let mut kept = self.older.len();
        for index in (0..self.older.len()).rev() {
            let older = self.older[index];
            if is_pinned(pins, older.commit, next) {
                kept -= 1;
                self.older[kept] = older;
            }
            next = older.commit;
        }
        self.older.drain(..kept);
    }

    /// Before its first version a name is absent anyway, if nothing is below.
    fn drop_first_deletions(&mut self) {
        let deletions = self.older.iter().take_while(|version| version.to.is_none()).count();
        self.older.drain(..deletions);
        if self.older.is_empty() {
            self.older = Vec::new();
        }
    }
}

/// Whether a commit that changes a name with so many older versions is to go through them: if they are many,
/// one in about as many commits is, whichever of them change the name.
pub(super) fn is_swept(older_count: usize, commit: CommitId) -> bool {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    if older_count < SWEPT_COUNT {
        return true;
    }
    let mixed = commit.0.wrapping_mul(ODD);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(ODD);
    mixed >> (u64::BITS - older_count.ilog2()) == 0
}

fn is_pinned(pins: &Pins, from: CommitId, until: CommitId) -> bool {
    pins.range(from..until).next().is_some()
}

/// All versions of a memtable; see [`NameMemtable::entries`].
#[derive(Debug)]
pub(crate) struct MemtableEntries {
    memtable: Arc<NameMemtable>,
    /// The names that are left; none at the end.
    range: Option<NameRange>,
    /// Of the first of these names, the versions from this commit on were read.
    read_from: Option<CommitId>,
    chunk: std::vec::IntoIter<NameEntry>,
}

impl MemtableEntries {
    fn read(&mut self) -> Option<()> {
        let left = self.range.as_mut()?;
        let names = self.memtable.names.read();
        let standing = names.versions.as_ref().expect("it is read before it goes");
        let mut chunk = Vec::with_capacity(CHUNK_COUNT);
        let mut read_from = self.read_from.take();
        for (name, versions) in range(standing, left) {
            let shared = Bytes::copy_from_slice(name);
            let entry = |version: &Version| {
                let (commit, to) = (version.commit.0, version.to);
                NameEntry { name: shared.clone(), commit, to }
            };
            let room = CHUNK_COUNT - chunk.len();
            chunk.extend(versions.before(read_from.take()).take(room).map(entry));
            if chunk.len() == CHUNK_COUNT {
                break;
            }
        }
        drop(names);
        match chunk.last() {
            Some(last) if chunk.len() == CHUNK_COUNT => {
                left.from = last.name.to_vec();
                self.read_from = Some(CommitId(last.commit));
            }
            _ => self.range = None,
        }
        self.chunk = chunk.into_iter();
        Some(())
    }
}

impl Iterator for MemtableEntries {
    type Item = NameEntry;

    fn next(&mut self) -> Option<NameEntry> {
        loop {
            if let Some(entry) = self.chunk.next() {
                return Some(entry);
            }
            self.read()?;
        }
    }
}

/// The names of a memtable that a pinned commit sees, in one direction; commits may be applied
/// meanwhile.
#[derive(Debug)]
pub(crate) struct MemtableScan {
    memtable: Arc<NameMemtable>,
    /// The names that are left.
    range: NameRange,
    is_read: bool,
    commit: CommitId,
    backwards: bool,
    /// Names that were read together, one after the other; where each ends, and what it points at.
    names: Vec<u8>,
    seen: Vec<(usize, Version)>,
    /// Of these, how many were given.
    given: usize,
    count_max: usize,
    /// The last run that was asked for was shorter than [`RUN_COUNT`].
    runs_are_short: bool,
}

impl MemtableScan {
    pub(super) fn new(
        memtable: &Arc<NameMemtable>,
        range: &NameRange,
        commit: CommitId,
        backwards: bool,
    ) -> Self {
        Self {
            memtable: Arc::clone(memtable),
            is_read: range.is_empty(),
            range: range.clone(),
            commit,
            backwards,
            names: Vec::new(),
            seen: Vec::new(),
            given: 0,
            count_max: CHUNK_COUNT_MIN,
            runs_are_short: false,
        }
    }

    /// Calls `each` with some names that are left, and the versions that are seen, until it says that it is
    /// enough.
    fn walk(
        &mut self,
        count_max: usize,
        mut each: impl FnMut(&[u8], &Version) -> bool,
    ) -> Result<(), Stop> {
        let names = self.memtable.names.read();
        let standing = names.versions.as_ref().ok_or(Stop::Gone)?;
        let mut left = range(standing, &self.range);
        let mut last = None;
        for _ in 0..count_max {
            last = if self.backwards { left.next_back() } else { left.next() };
            let Some((name, versions)) = last else { break };
            if versions.seen(self.commit).is_some_and(|version| !each(name, version)) {
                break;
            }
        }
        match last {
            Some((name, _)) => self.range.cut(name, self.backwards),
            None => self.is_read = true,
        }
        Ok(())
    }

    /// Reads some names, to be given one by one.
    fn read(&mut self) -> Result<(), Stop> {
        let (mut names, mut seen) =
            (std::mem::take(&mut self.names), std::mem::take(&mut self.seen));
        names.clear();
        seen.clear();
        self.given = 0;
        let walked = self.walk(self.count_max, |name, version| {
            names.extend_from_slice(name);
            seen.push((names.len(), *version));
            names.len() < CHUNK_BYTES
        });
        (self.names, self.seen) = (names, seen);
        self.count_max = (self.count_max * 2).min(CHUNK_COUNT);
        walked
    }

    /// What was read first of what was not given.
    fn take(&mut self) -> Option<(&[u8], &Version)> {
        let (end, version) = self.seen.get(self.given)?;
        let start = self.given.checked_sub(1).map_or(0, |before| self.seen[before].0);
        self.given += 1;
        Some((&self.names[start..*end], version))
    }
}

impl NameSource for MemtableScan {
    fn next(&mut self, head: &mut Head) -> Result<bool, Stop> {
        while self.given == self.seen.len() {
            if self.is_read {
                return Ok(false);
            }
            self.read()?;
        }
        let (name, version) = self.take().expect("some were read");
        head.set(name, version.commit.0, version.to);
        Ok(true)
    }

    #[inline]
    fn give<F>(&mut self, _head: &mut Head, mut each: F) -> Result<bool, Stop>
    where
        F: FnMut(&[u8], u64, Option<&Digest>) -> bool,
    {
        let (mut count, mut is_enough) = (0, false);
        let mut each = |name: &[u8], version: &Version| {
            count += 1;
            each(name, version.commit.0, version.to.as_ref())
        };
        if self.runs_are_short && self.given == self.seen.len() && !self.is_read {
            self.read()?;
        }
        while !is_enough && let Some((name, version)) = self.take() {
            is_enough = !each(name, version);
        }
        if !is_enough && !self.is_read && !self.runs_are_short {
            self.walk(CHUNK_COUNT, each)?;
        }
        self.runs_are_short = count < RUN_COUNT;
        // Whoever asks for long runs asks for one name by the way.
        self.count_max = if self.runs_are_short { self.count_max.max(CHUNK_COUNT_MIN) } else { 1 };
        Ok(is_enough || !self.is_read)
    }
}
