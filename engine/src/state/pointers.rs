//! Name -> digest, with the versions that snapshots still see.
//!
//! - N1: only durable commits are here: what a reader sees, no crash undoes (P2).
//! - N2: of a name that is changed only the versions stay that the present or a snapshot sees; of
//!   others, until the oldest snapshot that saw them ends.
//! - N3: commits are applied whole, under one lock, in order of their numbers.
//! - N4: which view is the oldest is asked under the lock that the versions are dropped under.
//!
//! Lock order: versions, then pins.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use pinstone_disk::env::{Mutex, RwLock};
use pinstone_disk::{CommitId, Digest};
use pinstone_wal::{Change, CommitRecord};

/// The pointer table.
#[derive(Debug, Default)]
pub(crate) struct PointerTable {
    versions: RwLock<Versions>,
    pins: Mutex<BTreeMap<CommitId, u64>>,
}

#[derive(Debug, Default)]
struct Versions {
    last_commit: CommitId,
    standing: u64,
    names: BTreeMap<Bytes, Kept>,
    /// Names with more than one version, each with the commit that made it so.
    crowded: BTreeSet<(CommitId, Bytes)>,
}

/// The versions of one name that are kept, in order; at least one.
#[derive(Debug, Default)]
struct Kept {
    versions: Vec<Version>,
    /// The name stands in `crowded` with this commit.
    crowded_by: Option<CommitId>,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    commit: CommitId,
    to: Option<Digest>,
}

/// Which names a scan has yet to visit.
pub(crate) type NameRange = (Bound<Bytes>, Bound<Bytes>);

impl PointerTable {
    /// The last commit applied; [`CommitId::NONE`] before the first.
    pub(crate) fn last_commit(&self) -> CommitId {
        self.versions.read().last_commit
    }

    /// Pointers that stand now.
    pub(crate) fn len(&self) -> u64 {
        self.versions.read().standing
    }

    /// Where `name` points now.
    pub(crate) fn current(&self, name: &[u8]) -> Option<Digest> {
        self.versions.read().names.get(name)?.versions.last()?.to
    }

    /// Where `name` pointed after `commit`, which is pinned.
    pub(crate) fn at(&self, name: &[u8], commit: CommitId) -> Option<Digest> {
        seen(&self.versions.read().names.get(name)?.versions, commit)
    }

    /// Up to `limit` pointers of `range` as of `commit`, which is pinned: the first, or, if
    /// `backwards`, the last, nearest the end first.
    pub(crate) fn scan(
        &self,
        range: &NameRange,
        commit: CommitId,
        limit: usize,
        backwards: bool,
    ) -> Vec<(Bytes, Digest)> {
        if is_empty(range) {
            return Vec::new();
        }
        let versions = self.versions.read();
        let mut names = versions.names.range(range.clone());
        let step = || if backwards { names.next_back() } else { names.next() };
        std::iter::from_fn(step)
            .filter_map(|(name, kept)| Some((name.clone(), seen(&kept.versions, commit)?)))
            .take(limit)
            .collect()
    }

    /// Applies a durable commit, the one after the last.
    pub(crate) fn apply(&self, commit: CommitRecord) {
        let mut versions = self.versions.write();
        let pins = self.pins.lock();
        assert_eq!(commit.id, versions.last_commit.next(), "commits are dense");
        versions.last_commit = commit.id;
        for Change { name, to } in commit.changes {
            versions.change(name, Version { commit: commit.id, to }, &pins);
        }
    }

    /// Keeps what the present commit sees until [`PointerTable::unpin`]; returns its number.
    pub(crate) fn pin(&self) -> CommitId {
        let versions = self.versions.read();
        *self.pins.lock().entry(versions.last_commit).or_default() += 1;
        versions.last_commit
    }

    /// Ends a pin, and drops the versions that only it could see.
    pub(crate) fn unpin(&self, commit: CommitId) {
        if self.end_pin(commit) {
            self.prune();
        }
    }

    /// True if it was the last pin of its commit.
    fn end_pin(&self, commit: CommitId) -> bool {
        let mut pins = self.pins.lock();
        let count = pins.get_mut(&commit).expect("a pin ends once");
        *count -= 1;
        if *count == 0 {
            pins.remove(&commit);
        }
        !pins.contains_key(&commit)
    }

    /// Drops the versions that nobody sees any more.
    fn prune(&self) {
        let mut versions = self.versions.write();
        let pins = self.pins.lock();
        // Commits up to the oldest pin crowded names with versions that nobody sees any more.
        let kept = match pins.keys().next() {
            Some(oldest) => versions.crowded.split_off(&(oldest.next(), Bytes::new())),
            None => BTreeSet::new(),
        };
        for (_, name) in std::mem::replace(&mut versions.crowded, kept) {
            if let Some(kept) = versions.names.get_mut(&name) {
                kept.crowded_by = None;
            }
            versions.prune(name, &pins);
        }
    }

    /// Every pointer that stands, by name: for checks.
    pub(crate) fn standing(&self) -> Vec<(Bytes, Digest)> {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let commit = self.pin();
        let standing = self.scan(&all, commit, usize::MAX, false);
        self.unpin(commit);
        standing
    }
}

impl Versions {
    fn change(&mut self, name: Bytes, version: Version, pins: &BTreeMap<CommitId, u64>) {
        let versions = &mut self.names.entry(name.clone()).or_default().versions;
        let stood = versions.last().is_some_and(|last| last.to.is_some());
        versions.push(version);
        match (stood, version.to.is_some()) {
            (false, true) => self.standing += 1,
            (true, false) => self.standing -= 1,
            _ => {}
        }
        self.prune(name, pins);
    }

    /// Drops the versions of `name` that neither the present nor a pin sees.
    fn prune(&mut self, name: Bytes, pins: &BTreeMap<CommitId, u64>) {
        let Some(kept) = self.names.get_mut(&name) else { return };
        // A version is seen from its commit on until the next one's.
        let ends: Vec<CommitId> = kept.versions.iter().skip(1).map(|next| next.commit).collect();
        let mut ends = ends.into_iter();
        kept.versions.retain(|version| match ends.next() {
            Some(end) => pins.range(version.commit..end).next().is_some(),
            None => true,
        });
        // Before its first version a name is absent anyway.
        let absent = kept.versions.iter().take_while(|version| version.to.is_none()).count();
        kept.versions.drain(..absent);
        match (kept.versions.last(), kept.crowded_by) {
            (Some(last), None) if kept.versions.len() > 1 => {
                kept.crowded_by = Some(last.commit);
                self.crowded.insert((last.commit, name));
            }
            (Some(_), Some(by)) if kept.versions.len() == 1 => {
                kept.crowded_by = None;
                self.crowded.remove(&(by, name));
            }
            (Some(_), _) => {}
            (None, by) => {
                if let Some(by) = by {
                    self.crowded.remove(&(by, name.clone()));
                }
                self.names.remove(&name);
            }
        }
    }
}

fn seen(versions: &[Version], commit: CommitId) -> Option<Digest> {
    versions.iter().rfind(|version| version.commit <= commit)?.to
}

/// Whether a range can hold no name; `BTreeMap::range` panics on some of these.
fn is_empty((from, to): &NameRange) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinstone_wal::LogPosition;

    fn target(id: u64) -> Digest {
        Digest::of(&id.to_le_bytes())
    }

    fn commit(table: &PointerTable, id: u64) {
        let change = Change { name: "name".into(), to: Some(target(id)) };
        let (depends_upto, changes) = (LogPosition::START, vec![change]);
        table.apply(CommitRecord { id: CommitId(id), depends_upto, changes });
    }

    /// How many versions are kept.
    fn version_count(table: &PointerTable) -> usize {
        table.versions.read().names.values().map(|kept| kept.versions.len()).sum()
    }

    #[test]
    fn a_pin_taken_while_another_ends_keeps_what_it_sees() {
        let table = PointerTable::default();
        commit(&table, 1);
        let ending = table.pin();
        assert!(table.end_pin(ending));
        let pinned = table.pin();
        commit(&table, 2);
        table.prune();
        assert_eq!(table.at(b"name", pinned), Some(target(1)));
        table.unpin(pinned);
        assert_eq!(version_count(&table), 1);
        assert!(table.versions.read().crowded.is_empty());
    }

    #[test]
    fn a_name_that_is_set_often_keeps_what_is_seen_of_it() {
        let table = PointerTable::default();
        commit(&table, 1);
        let (first, mut later) = (table.pin(), CommitId::NONE);
        for id in 2..=1000 {
            commit(&table, id);
            if id == 500 {
                later = table.pin();
            }
        }
        assert_eq!(version_count(&table), 3);
        assert_eq!(table.versions.read().crowded.len(), 1);
        assert_eq!(table.at(b"name", first), Some(target(1)));
        assert_eq!(table.at(b"name", later), Some(target(500)));
        table.unpin(first);
        assert_eq!(version_count(&table), 2);
        table.unpin(later);
        assert_eq!(version_count(&table), 1);
        assert!(table.versions.read().crowded.is_empty());
    }

    fn delete(table: &PointerTable, id: u64) {
        let changes = vec![Change { name: "name".into(), to: None }];
        table.apply(CommitRecord { id: CommitId(id), depends_upto: LogPosition::START, changes });
    }

    #[test]
    fn deletions_leave_nothing_once_nobody_sees_what_they_hide() {
        let table = PointerTable::default();
        commit(&table, 1);
        let first = table.pin();
        delete(&table, 2);
        let second = table.pin();
        delete(&table, 3);
        table.unpin(first);
        table.unpin(second);
        assert_eq!(version_count(&table), 0);
        assert!(table.versions.read().names.is_empty());
    }

    #[test]
    fn names_that_come_and_go_under_an_old_pin_leave_nothing() {
        let table = PointerTable::default();
        let oldest = table.pin();
        for round in 0..1000 {
            commit(&table, 3 * round + 1);
            let pinned = table.pin();
            commit(&table, 3 * round + 2);
            table.unpin(pinned);
            delete(&table, 3 * round + 3);
        }
        assert!(table.versions.read().crowded.is_empty());
        assert!(table.versions.read().names.is_empty());
        table.unpin(oldest);
    }

    #[test]
    fn versions_stay_until_their_last_pin_ends() {
        let table = PointerTable::default();
        for id in 1..=3 {
            commit(&table, id);
            assert_eq!((table.pin().0, table.pin().0), (id, id));
        }
        for (id, kept) in [(2, 3), (1, 1), (3, 1)] {
            table.unpin(CommitId(id));
            assert_eq!(table.at(b"name", CommitId(id)), Some(target(id)));
            table.unpin(CommitId(id));
            assert_eq!(version_count(&table), kept, "after the pins of {id}");
        }
    }
}
