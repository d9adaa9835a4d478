//! Names with their versions, in memory: what was committed since the last table was written.
//!
//! One is active: commits are applied to it. Frozen, it never changes any more, until it is written
//! as a table and let go.
//!
//! - B1: a commit is applied whole, under the lock that reads take (N3).
//! - B2: of a name that is changed only the versions stay that the present or a pin sees. What only
//!   an ended pin saw stays until the name is changed again, or the memtable is flushed: nothing is
//!   kept to find it sooner, since a memtable is bounded in bytes.
//! - B3: a deletion stays for as long as it may hide something: an older version here, or any name
//!   below, in older memtables and in tables.
//! - B4: `memory_bytes` is what the map, the names and the versions take, or a little more.
//! - B5: the lock is held for one commit, or for [`CHUNK_COUNT`] names, and never across I/O.
//!
//! Lock order: names, then pins.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::TableError;
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::name_scan::{Head, NameRange, NameSource};
use pinstone_disk::env::RwLock;
use pinstone_disk::{CommitId, Digest, Ordinal};
use pinstone_wal::{Change, CommitRecord};

use super::pins::{Pinned, Pins};
use crate::state::root::Flushed;

/// Names read under one lock, at most.
const CHUNK_COUNT: usize = 256;

/// Names that a scan reads under its first lock: many end soon.
const CHUNK_COUNT_MIN: usize = 16;

/// Names and their versions in memory.
#[derive(Debug)]
pub(crate) struct NameMemtable {
    names: RwLock<Names>,
}

#[derive(Debug)]
struct Names {
    last_commit: CommitId,
    /// The first segment of the log whose commits may be here.
    first: Ordinal,
    /// What of the log stands in tables once this does, if it is frozen.
    frozen: Option<Flushed>,
    versions: BTreeMap<Box<[u8]>, Versions>,
    entry_count: u64,
    standing_count: u64,
    memory_bytes: usize,
}

impl NameMemtable {
    /// One for the commits after `last_commit`, which stand in segments from `first` on.
    pub(crate) fn new(last_commit: CommitId, first: Ordinal) -> Self {
        let names = Names {
            last_commit,
            first,
            frozen: None,
            versions: BTreeMap::new(),
            entry_count: 0,
            standing_count: 0,
            memory_bytes: 0,
        };
        Self { names: RwLock::new(names) }
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
        self.names.read().memory_bytes
    }

    /// What the newest version of `name` says that is not newer than `commit`; none if there is no
    /// such version here.
    pub(super) fn find(&self, name: &[u8], commit: CommitId) -> Option<Option<Digest>> {
        Some(self.names.read().versions.get(name)?.seen(commit)?.to)
    }

    /// Applies a commit, the one after the last, and makes it the present one.
    pub(super) fn apply(&self, commit: CommitRecord, has_below: bool, pinned: &Pinned) {
        let mut names = self.names.write();
        assert!(names.frozen.is_none(), "a frozen memtable takes no commits");
        assert_eq!(commit.id, names.last_commit.next(), "commits are dense");
        names.last_commit = commit.id;
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

    /// What of the log stands in tables once this does; none unless it is frozen.
    pub(crate) fn flushed(&self) -> Option<Flushed> {
        self.names.read().frozen
    }

    /// All versions in the order of tables: names ascending, the newest version of each first. Of a
    /// frozen memtable; some hundred names are copied at a time.
    pub(crate) fn entries(self: &Arc<Self>) -> MemtableEntries {
        let chunk = Vec::new().into_iter();
        MemtableEntries { memtable: Arc::clone(self), range: Some(NameRange::all()), chunk }
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

/// What a name takes in the map: its share of a node that is as empty as names in order leave it (6
/// of 11 places are taken), and of what leads there.
const PLACE_BYTES: usize = (size_of::<Box<[u8]>>() + size_of::<Versions>()) * 11 / 6 + 16;

/// What the allocator adds to a name, about.
const BLOCK_BYTES: usize = 16;

fn name_memory_bytes(name: &[u8]) -> usize {
    PLACE_BYTES + BLOCK_BYTES + name.len()
}

impl Names {
    fn change(&mut self, name: &[u8], version: Version, has_below: bool, pins: &Pins) {
        let stands = u64::from(version.to.is_some());
        let Some(versions) = self.versions.get_mut(name) else {
            if version.to.is_some() || has_below {
                self.versions.insert(name.into(), Versions { newest: version, older: Vec::new() });
                self.entry_count += 1;
                self.standing_count += stands;
                self.memory_bytes += name_memory_bytes(name);
            }
            return;
        };
        let stood = u64::from(versions.newest.to.is_some());
        self.standing_count = self.standing_count + stands - stood;
        self.entry_count -= versions.count();
        self.memory_bytes -= versions.memory_bytes();
        versions.push(version, pins);
        if !has_below {
            versions.drop_first_deletions();
        }
        if versions.older.is_empty() && version.to.is_none() && !has_below {
            self.memory_bytes -= name_memory_bytes(name);
            self.versions.remove(name);
        } else {
            self.entry_count += versions.count();
            self.memory_bytes += versions.memory_bytes();
        }
    }
}

impl Versions {
    fn count(&self) -> u64 {
        self.older.len() as u64 + 1
    }

    fn memory_bytes(&self) -> usize {
        self.older.capacity() * size_of::<Version>()
    }

    fn seen(&self, commit: CommitId) -> Option<&Version> {
        if self.newest.commit <= commit {
            return Some(&self.newest);
        }
        self.older.iter().rfind(|version| version.commit <= commit)
    }

    /// Adds the newest version, and drops those that neither the present nor a pin sees (B2).
    fn push(&mut self, version: Version, pins: &Pins) {
        let before = std::mem::replace(&mut self.newest, version);
        if pins.is_empty() {
            self.older = Vec::new();
            return;
        }
        // A version is seen from its commit on until the next one's.
        let mut next = before.commit;
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
        if is_pinned(pins, before.commit, version.commit) {
            self.older.push(before);
        } else if self.older.is_empty() {
            self.older = Vec::new();
        }
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

fn is_pinned(pins: &Pins, from: CommitId, until: CommitId) -> bool {
    pins.range(from..until).next().is_some()
}

/// All versions of a memtable; see [`NameMemtable::entries`].
#[derive(Debug)]
pub(crate) struct MemtableEntries {
    memtable: Arc<NameMemtable>,
    /// The names that are left; none at the end.
    range: Option<NameRange>,
    chunk: std::vec::IntoIter<NameEntry>,
}

impl MemtableEntries {
    fn read(&mut self) -> Option<()> {
        let range = self.range.as_mut()?;
        let names = self.memtable.names.read();
        let mut chunk = Vec::with_capacity(CHUNK_COUNT);
        let mut count = 0;
        for (name, versions) in names.versions.range::<[u8], _>(bounds(range)).take(CHUNK_COUNT) {
            let shared = Bytes::copy_from_slice(name);
            let newest_first = std::iter::once(&versions.newest).chain(versions.older.iter().rev());
            chunk.extend(newest_first.map(|version| NameEntry {
                name: shared.clone(),
                commit: version.commit.0,
                to: version.to,
            }));
            count += 1;
        }
        drop(names);
        match chunk.last() {
            Some(last) if count == CHUNK_COUNT => range.cut(&last.name, false),
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

fn bounds(range: &NameRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let until = range.until.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(&range.from), until)
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
        }
    }

    fn read(&mut self) {
        self.names.clear();
        self.seen.clear();
        self.given = 0;
        let names = self.memtable.names.read();
        let mut left = names.versions.range::<[u8], _>(bounds(&self.range));
        let mut last = None;
        for _ in 0..self.count_max {
            last = if self.backwards { left.next_back() } else { left.next() };
            let Some((name, versions)) = last else { break };
            if let Some(version) = versions.seen(self.commit) {
                self.names.extend_from_slice(name);
                self.seen.push((self.names.len(), *version));
            }
        }
        match last {
            Some((name, _)) => self.range.cut(name, self.backwards),
            None => self.is_read = true,
        }
        self.count_max = (self.count_max * 2).min(CHUNK_COUNT);
    }
}

impl NameSource for MemtableScan {
    fn next(&mut self, head: &mut Head) -> Result<bool, TableError> {
        while self.given == self.seen.len() {
            if self.is_read {
                return Ok(false);
            }
            self.read();
        }
        let start = self.given.checked_sub(1).map_or(0, |before| self.seen[before].0);
        let (end, version) = self.seen[self.given];
        head.set(&self.names[start..end], version.commit.0, version.to);
        self.given += 1;
        Ok(true)
    }
}
