//! Copies of values that are known to be bad: damaged, or such that the device cannot read them, which may pass.
//!
//! - B1: no more are kept than may be: of more the last one, so that who finds one can put its value anew. Of those
//!   that were forgotten reads find out again, and until then putting the value does not heal it.

use std::hash::BuildHasher as _;

use pinstone_disk::Digest;
use pinstone_disk::env::{AtomicU64, DigestSeed, HashTable, Ordering, RwLock};
use pinstone_wal::Place;

/// Where a bad copy of a value stands.
#[derive(Clone, Copy, Debug)]
struct BadCopy {
    digest: Digest,
    place: Place,
    is_damaged: bool,
}

/// Values, each with where a bad copy stands.
#[derive(Debug)]
pub(super) struct BadCopies {
    copies: RwLock<HashTable<BadCopy>>,
    /// Mostly none: then nobody asks for the lock.
    count: AtomicU64,
    count_max: u64,
    seed: DigestSeed,
}

impl BadCopies {
    pub(super) fn new(seed: [u8; 16], count_max: u64) -> Self {
        let copies = RwLock::new(HashTable::new());
        Self { copies, count: AtomicU64::new(0), count_max, seed: DigestSeed::new(seed) }
    }

    fn hash(&self, digest: &Digest) -> u64 {
        self.seed.hash_one(digest)
    }

    /// Whether any are known.
    pub(super) fn is_any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Whether this one is bad, in either way.
    #[inline]
    pub(super) fn has(&self, digest: &Digest, place: Place) -> bool {
        self.is_any() && self.find(digest, place).is_some()
    }

    /// Whether it is damaged.
    pub(super) fn has_damaged(&self, digest: &Digest, place: Place) -> bool {
        self.is_any() && self.find(digest, place).is_some_and(|copy| copy.is_damaged)
    }

    fn find(&self, digest: &Digest, place: Place) -> Option<BadCopy> {
        let is_it = |copy: &BadCopy| copy.digest == *digest && copy.place == place;
        self.copies.read().find(self.hash(digest), is_it).copied()
    }

    pub(super) fn add(&self, digest: &Digest, place: Place, is_damaged: bool) {
        let (copy, hash) = (BadCopy { digest: *digest, place, is_damaged }, self.hash(digest));
        let mut copies = self.copies.write();
        let is_it = |other: &BadCopy| other.digest == copy.digest && other.place == place;
        if let Some(known) = copies.find_mut(hash, is_it) {
            known.is_damaged |= is_damaged;
            return;
        }
        if copies.len() as u64 >= self.count_max {
            let Some(&BadCopy { digest, place, .. }) = copies.iter().next() else { return };
            self.take(&mut copies, &digest, place);
        }
        copies.insert_unique(hash, copy, |copy| self.hash(&copy.digest));
        self.count.fetch_add(1, Ordering::Release);
    }

    pub(super) fn remove(&self, digest: &Digest, place: Place) {
        self.take(&mut self.copies.write(), digest, place);
    }

    fn take(&self, copies: &mut HashTable<BadCopy>, digest: &Digest, place: Place) {
        let is_it = |copy: &BadCopy| copy.digest == *digest && copy.place == place;
        if let Ok(entry) = copies.find_entry(self.hash(digest), is_it) {
            entry.remove();
            self.count.fetch_sub(1, Ordering::Release);
        }
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.copies.read().allocation_size() as u64
    }
}

#[cfg(test)]
mod tests {
    use pinstone_disk::Ordinal;
    use pinstone_wal::SizeClass;

    use super::*;

    #[test]
    fn no_more_are_kept_than_may_be() {
        let bad = BadCopies::new([7; 16], 1000);
        let place = |number: u32| Place {
            ordinal: Ordinal(number % 3),
            offset_bytes: number / 3,
            class: SizeClass::covering(100),
        };
        let digest = |number: u32| Digest::of(&(number / 2).to_le_bytes());
        for number in (0..1500).chain(0..1500) {
            bad.add(&digest(number), place(number), false);
            bad.add(&digest(number), place(number), number % 2 == 0);
        }
        let had = |number: &u32| bad.has(&digest(*number), place(*number));
        assert_eq!((0..1500).filter(had).count(), 1000);
        // The last one always.
        assert!(had(&1499));
        assert!(!bad.has(&digest(2), place(0)) && !bad.has(&digest(0), place(2)));
        let is_damaged = |number: &u32| bad.has_damaged(&digest(*number), place(*number));
        assert!((0..1500).filter(is_damaged).eq((0..1500).step_by(2).filter(had)));
        bad.remove(&digest(1499), place(1499));
        assert!(!had(&1499));
        assert_eq!((0..1500).filter(had).count(), 999);
        assert!((48_000..200_000).contains(&bad.memory_bytes()), "{}", bad.memory_bytes());
    }
}
