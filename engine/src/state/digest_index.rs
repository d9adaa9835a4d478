//! Digest -> places in the blob log, wholly in memory: sharded hash maps keyed by the digest.
//!
//! - I1: an entry is found by its whole digest, never by a part of it (P4).
//! - I2: several places for one digest are legal; reads try those not known to be bad first.

use pinstone_disk::env::{DigestMap, DigestSeed, RwLock};
use pinstone_disk::{Digest, Ordinal};
use pinstone_wal::{ListEntry, Place};

/// Shards: enough that threads seldom meet, few enough to be cheap when empty.
const SHARD_COUNT: usize = 64;

/// The index.
#[derive(Debug)]
pub(crate) struct DigestIndex {
    shards: Vec<RwLock<DigestMap<Copies>>>,
}

/// Every known copy of one value.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    first: Copy,
    rest: Option<Box<[Copy]>>,
}

#[derive(Clone, Copy, Debug)]
struct Copy {
    place: Place,
    bad: bool,
}

impl Copies {
    /// The places to read, in the order in which to try them.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.in_state(false).chain(self.in_state(true))
    }

    fn in_state(&self, bad: bool) -> impl Iterator<Item = Place> {
        self.all().filter(move |copy| copy.bad == bad).map(|copy| copy.place)
    }

    fn all(&self) -> impl Iterator<Item = &Copy> {
        std::iter::once(&self.first).chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }
}

impl DigestIndex {
    /// An empty index whose maps are seeded with `seed`, since strangers choose digests.
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let shard = || RwLock::new(DigestMap::with_hasher(DigestSeed::new(seed)));
        Self { shards: std::iter::repeat_with(shard).take(SHARD_COUNT).collect() }
    }

    fn shard(&self, digest: &Digest) -> &RwLock<DigestMap<Copies>> {
        // The last byte: a map spends the first ones.
        &self.shards[usize::from(digest.as_bytes()[31]) % SHARD_COUNT]
    }

    /// All copies of a value.
    pub(crate) fn find(&self, digest: &Digest) -> Option<Copies> {
        self.shard(digest).read().get(digest).cloned()
    }

    /// A copy that is not known to be bad: it may be relied on for *already here*.
    pub(crate) fn intact(&self, digest: &Digest) -> Option<Place> {
        self.shard(digest).read().get(digest)?.in_state(false).next()
    }

    /// Adds a copy; it is the first to be tried from now on.
    pub(crate) fn insert(&self, digest: Digest, place: Place) {
        let new = Copy { place, bad: false };
        let mut shard = self.shard(&digest).write();
        match shard.get_mut(&digest) {
            None => {
                shard.insert(digest, Copies { first: new, rest: None });
            }
            Some(copies) => {
                let old = std::mem::replace(&mut copies.first, new);
                let rest = copies.rest.take().unwrap_or_default();
                copies.rest = Some(std::iter::once(old).chain(rest).collect());
            }
        }
    }

    /// Notes that a copy cannot be read as written: a later put writes the value anew.
    pub(crate) fn mark_bad(&self, digest: &Digest, place: Place) {
        let mut shard = self.shard(digest).write();
        let Some(copies) = shard.get_mut(digest) else { return };
        let rest = copies.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        for copy in std::iter::once(&mut copies.first).chain(rest) {
            copy.bad |= copy.place == place;
        }
    }

    /// Every value with a copy in this segment of the blob log, by offset. Looks at all values.
    pub(crate) fn list(&self, ordinal: Ordinal) -> Vec<ListEntry> {
        let mut list = Vec::new();
        for shard in &self.shards {
            for (digest, copies) in shard.read().iter() {
                let here = copies.all().map(|copy| copy.place).filter(|at| at.ordinal == ordinal);
                list.extend(here.map(|place| ListEntry {
                    digest: *digest,
                    offset_bytes: place.offset_bytes,
                    class: place.class,
                }));
            }
        }
        list.sort_unstable_by_key(|entry| entry.offset_bytes);
        list
    }

    /// Distinct values.
    pub(crate) fn len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().len() as u64).sum()
    }
}
