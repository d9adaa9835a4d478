//! One memtable of the digest index: sharded hash maps keyed by the whole digest.

use pinstone_compaction::table::index::Row;
use pinstone_disk::env::{AtomicU64, DigestMap, DigestSeed, Mutex, Ordering, RwLock};
use pinstone_disk::{Digest, Ordinal};
use pinstone_wal::{ListEntry, Place};

use super::row_of;

/// Shards: enough that threads seldom meet, few enough to be cheap when empty.
const SHARD_COUNT: usize = 64;

/// The shard that a value goes to. By the digest's last byte: a map spends the first ones.
fn shard_number(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[31]) % SHARD_COUNT
}

/// Where the values stand that some segments of the blob log hold.
#[derive(Debug)]
pub(crate) struct Memtable {
    first: Ordinal,
    /// The newest copy of each value.
    shards: Box<[RwLock<DigestMap<Place>>]>,
    /// Older copies of the few values that have several, the newest last.
    older: Mutex<DigestMap<Vec<Place>>>,
    entry_count: AtomicU64,
}

impl Memtable {
    /// An empty one, for segments from `first` on.
    pub(super) fn new(first: Ordinal, seed: [u8; 16]) -> Self {
        let map = || DigestMap::with_hasher(DigestSeed::new(seed));
        let shards = std::iter::repeat_with(|| RwLock::new(map())).take(SHARD_COUNT).collect();
        let older = Mutex::new(DigestMap::with_hasher(DigestSeed::new(seed)));
        Self { first, shards, older, entry_count: AtomicU64::new(0) }
    }

    /// The first segment whose values are here.
    pub(crate) fn first(&self) -> Ordinal {
        self.first
    }

    /// Copies of values that are here.
    pub(crate) fn entry_count(&self) -> u64 {
        self.entry_count.load(Ordering::Relaxed)
    }

    /// Bytes of memory that it takes. Takes each of its locks for a moment.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let maps = self.shards.iter().map(|shard| shard.read().allocation_size() as u64);
        maps.sum::<u64>() + self.older.lock().allocation_size() as u64
    }

    fn shard(&self, digest: &Digest) -> &RwLock<DigestMap<Place>> {
        &self.shards[shard_number(digest)]
    }

    /// The newest copy of a value.
    pub(crate) fn newest(&self, digest: &Digest) -> Option<Place> {
        // As it is once the store was closed and opened: who asks then takes no lock.
        if self.entry_count() == 0 {
            return None;
        }
        self.shard(digest).read().get(digest).copied()
    }

    /// Copies of a value other than the newest, newer ones last.
    pub(crate) fn older(&self, digest: &Digest) -> Vec<Place> {
        self.older.lock().get(digest).cloned().unwrap_or_default()
    }

    /// Adds a copy.
    pub(super) fn insert(&self, digest: Digest, place: Place) {
        let replaced = self.shard(&digest).write().insert(digest, place);
        self.entry_count.fetch_add(1, Ordering::Relaxed);
        if let Some(replaced) = replaced {
            self.older.lock().entry(digest).or_default().push(replaced);
        }
    }

    /// Adds the copies that a segment holds, in the order in which they were written. Shard by shard:
    /// one of them fits a processor's cache, and all of them do not.
    pub(super) fn insert_all(&self, ordinal: Ordinal, entries: &[ListEntry]) {
        let mut by_shard: [Vec<ListEntry>; SHARD_COUNT] =
            std::array::from_fn(|_| Vec::with_capacity(entries.len() / SHARD_COUNT));
        for entry in entries {
            by_shard[shard_number(&entry.digest)].push(*entry);
        }
        for (shard, entries) in self.shards.iter().zip(by_shard) {
            let mut shard = shard.write();
            shard.reserve(entries.len());
            for entry in entries {
                if let Some(replaced) = shard.insert(entry.digest, entry.place(ordinal)) {
                    self.older.lock().entry(entry.digest).or_default().push(replaced);
                }
            }
        }
        self.entry_count.fetch_add(entries.len() as u64, Ordering::Relaxed);
    }

    /// All copies as rows of a table, sorted. Takes 16 bytes each.
    pub(crate) fn rows(&self, key_bits: u32) -> Vec<Row> {
        let mut rows = Vec::new();
        self.each(|digest, place| rows.push(row_of(digest, place, key_bits)));
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// Calls `each` with every copy, in no order.
    fn each(&self, mut each: impl FnMut(&Digest, Place)) {
        for shard in &self.shards {
            shard.read().iter().for_each(|(digest, place)| each(digest, *place));
        }
        for (digest, places) in self.older.lock().iter() {
            places.iter().for_each(|place| each(digest, *place));
        }
    }

    /// Every value with a copy in this segment, by offset. Looks at all values.
    pub(super) fn list(&self, ordinal: Ordinal) -> Vec<ListEntry> {
        let mut list = Vec::new();
        self.each(|digest, place| {
            if place.ordinal == ordinal {
                let Place { offset_bytes, class, .. } = place;
                list.push(ListEntry { digest: *digest, offset_bytes, class });
            }
        });
        list.sort_unstable_by_key(|entry| entry.offset_bytes);
        list
    }
}
