//! Copies of values that are known to be damaged.
//!
//! - B1: no more are kept than may be. Of more, reads find out again, and putting the value does not heal it.

use std::hash::BuildHasher as _;

use pinstone_disk::Digest;
use pinstone_disk::env::{AtomicU64, DigestSeed, HashTable, Ordering, RwLock};
use pinstone_wal::Place;

/// Values, each with where a damaged copy stands.
#[derive(Debug)]
pub(super) struct BadCopies {
    copies: RwLock<HashTable<(Digest, Place)>>,
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

    #[inline]
    pub(super) fn has(&self, digest: &Digest, place: Place) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self
                .copies
                .read()
                .find(self.hash(digest), |copy| *copy == (*digest, place))
                .is_some()
    }

    pub(super) fn add(&self, digest: &Digest, place: Place) {
        let (copy, hash) = ((*digest, place), self.hash(digest));
        let mut copies = self.copies.write();
        let is_known = copies.find(hash, |other| *other == copy).is_some();
        if !is_known && (copies.len() as u64) < self.count_max {
            copies.insert_unique(hash, copy, |(digest, _)| self.hash(digest));
            self.count.fetch_add(1, Ordering::Release);
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
            bad.add(&digest(number), place(number));
        }
        let had: Vec<_> = (0..1500).filter(|n| bad.has(&digest(*n), place(*n))).collect();
        assert!(had.into_iter().eq(0..1000));
        assert!(!bad.has(&digest(0), place(1)) || digest(0) == digest(1));
        assert!((48_000..200_000).contains(&bad.memory_bytes()), "{}", bad.memory_bytes());
    }
}
