//! Digest -> places in the blob log: memtables, then sorted tables in levels.
//!
//! 1. A memtable holds what some consecutive segments of the log hold. A value goes to the one that
//!    its segment belongs to; a new one begins with a new segment, once the last holds enough.
//! 2. A memtable whose segments are all sealed is written as tables, and goes when these are
//!    published. What memtables hold is found again at open in the segments' digest lists.
//! 3. Tables know little of a digest: what they lead to are candidates, which somebody who can read
//!    the log confirms. A value may be led to by several entries; any intact copy is right.
//!
//! - I1: what memtables say is said of whole digests; what tables say, never is (P4).
//! - I2: a view holds every entry: tables and the memtable that they were made from are published
//!   and withdrawn in one step.
//! - I3: a copy known to be damaged is no reason to take a value for known; it is tried last.

use std::ops::ControlFlow;

use pinstone_compaction::TableError;
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::run::Index;
use pinstone_compaction::table::index::{IndexKey, Row};
use pinstone_disk::env::{Arc, Mutex, Published, Reading};
use pinstone_disk::{Digest, Ordinal};
use pinstone_wal::{ListEntry, Place, SizeClass};

use self::bad::BadCopies;
pub(crate) use self::memtable::Memtable;

mod bad;
mod memtable;

/// Segments of one memtable, at most: their lists are opened one by one when the store is.
const MEMTABLE_SEGMENTS_MAX: u32 = 64;

/// The index.
#[derive(Debug)]
pub(crate) struct DigestIndex {
    view: Published<IndexView>,
    /// Held while a view is made from the last.
    changing: Mutex<()>,
    bad: BadCopies,
    seed: [u8; 16],
    options: IndexOptions,
}

/// What the index is bounded by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexOptions {
    /// Entries of a memtable after which the next one begins.
    pub(crate) memtable_entries: u64,
    /// Bits of the digest that tables know: 56, or fewer to force collisions.
    pub(crate) key_bits: u32,
    /// Copies known to be bad that are kept, at most.
    pub(crate) bad_copies_max: u64,
}

/// The index at one moment.
#[derive(Debug)]
pub(crate) struct IndexView {
    /// The oldest first; one at least. The last takes what comes.
    memtables: Vec<Arc<Memtable>>,
    levels: OpenLevels<Index>,
    /// How many memtables have gone.
    flush_count: u64,
}

/// The row that a table has of a copy.
fn row_of(digest: &Digest, place: Place, key_bits: u32) -> Row {
    let Place { ordinal, offset_bytes, class } = place;
    let payload =
        u128::from(class.0) << 64 | u128::from(ordinal.0) << 32 | u128::from(offset_bytes);
    Row::new(IndexKey::of(digest.as_bytes(), key_bits), payload)
}

/// The place that a row leads to.
#[expect(clippy::cast_possible_truncation, reason = "the fields of 72 bits, each of its width")]
pub(crate) fn place_of(row: Row) -> Place {
    let payload = row.payload();
    Place {
        ordinal: Ordinal((payload >> 32) as u32),
        offset_bytes: payload as u32,
        class: SizeClass((payload >> 64) as u8),
    }
}

impl IndexView {
    /// The memtables, the oldest first.
    pub(crate) fn memtables(&self) -> &[Arc<Memtable>] {
        &self.memtables
    }

    /// The one that holds what this segment of the log holds.
    fn memtable_of(&self, ordinal: Ordinal) -> &Memtable {
        let its = self.memtables.iter().rev().find(|memtable| memtable.first() <= ordinal);
        its.unwrap_or(&self.memtables[0])
    }

    /// Adds a copy in a segment that is not sealed, and that had begun when the view was taken.
    pub(crate) fn insert(&self, digest: Digest, place: Place) {
        self.memtable_of(place.ordinal).insert(digest, place);
    }

    /// The tables.
    pub(crate) fn levels(&self) -> &OpenLevels<Index> {
        &self.levels
    }

    /// How many memtables have gone from the views before it.
    pub(crate) fn flush_count(&self) -> u64 {
        self.flush_count
    }

    /// Copies, newer memtables' first. Each is of this very value.
    pub(crate) fn in_memory<'a>(&'a self, digest: &'a Digest) -> InMemory<'a> {
        InMemory { digest, left: self.memtables.iter(), newest_of: None, older: Vec::new() }
    }

    /// Calls `each` with the places that tables lead to, until it breaks. They may be of other
    /// values. A damaged table is no reason not to look into the others: its error is returned, if
    /// none of them made `each` break.
    ///
    /// # Errors
    /// The first damage met, or whatever the machine says.
    pub(crate) fn in_tables(
        &self,
        digest: &Digest,
        key_bits: u32,
        mut each: impl FnMut(Place) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TableError> {
        let key = IndexKey::of(digest.as_bytes(), key_bits);
        let bytes = key.number().to_be_bytes();
        let mut first_error = None;
        for table in self.levels.for_key(&bytes[8 - IndexKey::BYTES..]) {
            match table.find(key, |row| each(place_of(row))) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(broken) => return Ok(broken),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(ControlFlow::Continue(())), Err)
    }

    /// Copies of values held: entries of memtables and tables.
    pub(crate) fn entry_count(&self) -> u64 {
        let memtables = self.memtables.iter().map(|memtable| memtable.entry_count());
        memtables.sum::<u64>() + self.levels.levels().total().entry_count
    }
}

/// Copies that memtables know; see [`IndexView::in_memory`].
#[derive(Debug)]
pub(crate) struct InMemory<'a> {
    digest: &'a Digest,
    left: std::slice::Iter<'a, Arc<Memtable>>,
    /// The newest copy of this one was given.
    newest_of: Option<&'a Memtable>,
    /// The others of it that were not given, the newest last.
    older: Vec<Place>,
}

impl Iterator for InMemory<'_> {
    type Item = Place;

    #[inline]
    fn next(&mut self) -> Option<Place> {
        loop {
            if let Some(memtable) = self.newest_of.take() {
                self.older = memtable.older(self.digest);
            }
            if let Some(place) = self.older.pop() {
                return Some(place);
            }
            let memtable = self.left.next_back()?;
            if let Some(place) = memtable.newest(self.digest) {
                self.newest_of = Some(memtable);
                return Some(place);
            }
        }
    }
}

impl DigestIndex {
    /// An index of these tables, and of what segments from `first` on will say. Its maps are seeded
    /// with `seed`, since strangers choose digests.
    pub(crate) fn new(
        seed: [u8; 16],
        options: IndexOptions,
        first: Ordinal,
        levels: OpenLevels<Index>,
    ) -> Self {
        let memtables = vec![Arc::new(Memtable::new(first, seed))];
        Self {
            view: Published::new(Arc::new(IndexView { memtables, levels, flush_count: 0 })),
            changing: Mutex::new(()),
            bad: BadCopies::new(seed, options.bad_copies_max),
            seed,
            options,
        }
    }

    /// The index now.
    pub(crate) fn view(&self) -> Reading<IndexView> {
        self.view.read()
    }

    /// The index now, for long.
    pub(crate) fn keep(&self) -> Arc<IndexView> {
        self.view.keep()
    }

    /// Bits of the digest that tables know.
    pub(crate) fn key_bits(&self) -> u32 {
        self.options.key_bits
    }

    /// Adds a copy; it is the first to be tried from now on.
    pub(crate) fn insert(&self, digest: Digest, place: Place) {
        self.view().insert(digest, place);
    }

    /// Adds the copies that a segment of the log holds, the oldest first. A quarter of the time that
    /// adding them one by one takes.
    pub(crate) fn insert_all(&self, ordinal: Ordinal, entries: &[ListEntry]) {
        self.view().memtable_of(ordinal).insert_all(ordinal, entries);
    }

    /// The log will go on in segment `next`, of which nothing is here yet: with it begins another
    /// memtable, if the last holds enough.
    pub(crate) fn before_segment(&self, next: Ordinal) {
        let _changing = self.changing.lock();
        let view = self.view();
        let last = view.memtables.last().expect("there is one at least");
        let segment_count = next.0.saturating_sub(last.first().0);
        let is_enough = last.entry_count() >= self.options.memtable_entries
            || (segment_count >= MEMTABLE_SEGMENTS_MAX && last.entry_count() > 0);
        if is_enough {
            let mut memtables = view.memtables.clone();
            memtables.push(Arc::new(Memtable::new(next, self.seed)));
            let levels = view.levels.clone();
            self.view.publish(Arc::new(IndexView {
                memtables,
                levels,
                flush_count: view.flush_count,
            }));
        }
    }

    /// The oldest memtable, and the first segment that is not its, if all its segments are below
    /// `sealed_below`.
    pub(crate) fn to_flush(&self, sealed_below: Ordinal) -> Option<(Arc<Memtable>, Ordinal)> {
        let view = self.view();
        let [oldest, next, ..] = view.memtables() else { return None };
        (next.first() <= sealed_below).then(|| (Arc::clone(oldest), next.first()))
    }

    /// The memtable that takes what comes, if there is no other: it holds all that no table has.
    pub(crate) fn only(&self) -> Option<Arc<Memtable>> {
        match self.view().memtables() {
            [only] => Some(Arc::clone(only)),
            _ => None,
        }
    }

    /// Entries that are enough for a table.
    pub(crate) fn memtable_entries(&self) -> u64 {
        self.options.memtable_entries
    }

    /// Memtables that take nothing any more.
    pub(crate) fn frozen_count(&self) -> u64 {
        self.view().memtables.len() as u64 - 1
    }

    /// Publishes other tables; the oldest memtable goes, if it is what they were made from.
    pub(crate) fn publish(&self, levels: OpenLevels<Index>, flushed: Option<&Arc<Memtable>>) {
        let _changing = self.changing.lock();
        let view = self.view();
        let mut memtables = view.memtables.clone();
        let mut flush_count = view.flush_count;
        if let Some(flushed) = flushed {
            assert!(Arc::ptr_eq(&memtables.remove(0), flushed), "memtables go in order");
            flush_count += 1;
        }
        self.view.publish(Arc::new(IndexView { memtables, levels, flush_count }));
    }

    /// Whether a copy is known to be damaged.
    pub(crate) fn is_damaged(&self, digest: &Digest, place: Place) -> bool {
        self.bad.has_damaged(digest, place)
    }

    /// Whether a copy is known to be bad: damaged, or not to be read by the device.
    pub(crate) fn is_bad(&self, digest: &Digest, place: Place) -> bool {
        self.bad.has(digest, place)
    }

    /// Notes that a copy cannot be read as written: a later put writes the value anew.
    pub(crate) fn mark_bad(&self, digest: &Digest, place: Place) {
        self.bad.add(digest, place, true);
    }

    /// Notes that the device cannot read a copy, which may pass: a later put writes the value anew, too, and the
    /// value is held meanwhile.
    pub(crate) fn mark_unreadable(&self, digest: &Digest, place: Place) {
        self.bad.add(digest, place, false);
    }

    /// Notes that a copy which was known to be bad was read as written.
    pub(crate) fn forget_bad(&self, digest: &Digest, place: Place) {
        self.bad.remove(digest, place);
    }

    /// Bytes of memory that what is known to be bad takes.
    pub(crate) fn bad_bytes(&self) -> u64 {
        self.bad.memory_bytes()
    }

    /// Every value with a copy in this segment that memtables know of, by offset. Looks at all.
    pub(crate) fn list(&self, ordinal: Ordinal) -> Vec<ListEntry> {
        let view = self.view();
        let memtables = view.memtables().iter();
        let mut list: Vec<_> = memtables.flat_map(|memtable| memtable.list(ordinal)).collect();
        list.sort_unstable_by_key(|entry| entry.offset_bytes);
        list
    }

    /// Bytes of memory that memtables take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.view().memtables().iter().map(|memtable| memtable.memory_bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(memtable_entries: u64) -> DigestIndex {
        let options = IndexOptions { memtable_entries, key_bits: 56, bad_copies_max: 9 };
        DigestIndex::new([7; 16], options, Ordinal(1), OpenLevels::new())
    }

    fn place(ordinal: u32, offset_bytes: u32) -> Place {
        Place { ordinal: Ordinal(ordinal), offset_bytes, class: SizeClass::covering(100) }
    }

    #[test]
    fn a_row_leads_back_to_its_place() {
        let place = place(0xfeed_beef, 0xdead_cafe);
        let digest = Digest::of(b"value");
        let row = row_of(&digest, place, 56);
        assert_eq!(place_of(row), place);
        assert_eq!(row.key(), IndexKey::of(digest.as_bytes(), 56));
    }

    #[test]
    fn copies_are_found_newest_first_across_memtables() {
        let index = index(2);
        let digest = Digest::of(b"value");
        index.insert(digest, place(1, 10));
        index.insert(digest, place(1, 20));
        index.before_segment(Ordinal(2));
        index.insert(digest, place(2, 30));
        // A straggler of the segment before goes to that one's memtable.
        index.insert(Digest::of(b"other"), place(1, 40));
        let offsets = |digest: &Digest| -> Vec<u32> {
            index.view().in_memory(digest).map(|place| place.offset_bytes).collect()
        };
        assert_eq!(offsets(&digest), [30, 20, 10]);
        let counts: Vec<_> = index.view().memtables().iter().map(|m| m.entry_count()).collect();
        assert_eq!(counts, [3, 1]);
        assert_eq!(index.list(Ordinal(1)).len(), 3);
    }

    #[test]
    fn a_memtable_is_flushed_once_its_segments_are_sealed() {
        let index = index(1);
        index.insert(Digest::of(b"value"), place(1, 10));
        assert!(index.to_flush(Ordinal(9)).is_none(), "the last one takes what comes");
        index.before_segment(Ordinal(4));
        assert!(index.to_flush(Ordinal(3)).is_none(), "segment 3 is not sealed");
        let (oldest, until) = index.to_flush(Ordinal(4)).unwrap();
        assert_eq!((oldest.rows(56).len(), until), (1, Ordinal(4)));
        index.publish(OpenLevels::new(), Some(&oldest));
        assert_eq!(index.frozen_count(), 0);
        assert_eq!(index.view().flush_count(), 1);
    }

    #[test]
    fn what_is_bad_is_bad_in_one_place() {
        let index = index(9);
        let digest = Digest::of(b"value");
        index.mark_bad(&digest, place(1, 10));
        assert!(index.is_bad(&digest, place(1, 10)));
        assert!(!index.is_bad(&digest, place(1, 20)));
    }
}
