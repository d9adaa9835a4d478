//! One block of a name table: versions of names in order, their names compressed. A pure codec.
//!
//! 1. [`BlockBuilder`] takes entries in order (names ascending as bytes, of one name the greatest
//!    commit first) and writes of each name what it does not share with the one before. Each 16th
//!    entry, the first of a *run*, has its name whole; where runs begin stands at the block's end.
//! 2. [`Block::open`] checks the checksum, then walks through all entries once: reading them later
//!    cannot fail.
//! 3. [`Cursor::seek`] finds the run by bisection of the runs' first entries, then the entry from the
//!    run's start on. `name_find.rs` looks one name up.
//! 4. A [`Cursor`] decodes entries of one run into places of its own as it comes to them, and keeps
//!    them until it leaves the run: a step back within it costs nothing, and one into the run before
//!    decodes that run once. Names stored whole are read where they are; others are put together in a
//!    buffer that all runs share. No step forward allocates, once the buffer has grown.
//!
//! `docs/format.md` has the layout.
//!
//! - N1: entries are in strictly ascending order. As all shared bytes are counted as such, the first
//!   byte after them decides, and checking the order costs the reader one comparison.
//! - N2: a block has one encoding: what the reader accepts is what the builder writes of the same
//!   entries.
//! - N3: what `open` accepted is never read beyond its bounds: the bytes of a [`Block`] do not
//!   change.
//! - N4: opening takes no memory and time in proportion to the block; a cursor takes memory for the
//!   names of one run, some 16 KiB at most. Whatever the bytes are.
//!
//! How long a block gets, where it stands and what leads to it is the table's affair.

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, Reader, put_varint, size};
use pinstone_disk::{DIGEST_BYTES, Digest, DigestKind};

use crate::merge::NameEntry;
use crate::table::name_find::NameTags;

/// Longest name.
pub const NAME_BYTES_MAX: usize = 1024;

/// Longest block. Tables make far shorter ones.
pub const BLOCK_BYTES_MAX: usize = 16 << 20;

/// Entries of a run: the first has its name whole.
pub const RUN_ENTRIES: usize = 16;

/// The shortest entry: two lengths, a commit and a kind, of a byte each, and nothing of its name.
pub(crate) const ENTRY_BYTES_MIN: u64 = 4;

const CRC_BYTES: usize = 4;
const OFFSET_BYTES: usize = 4;
const COUNT_BYTES: usize = 4;
pub(super) const DELETED: u8 = 0;

/// One version of a name, as it stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The number of the commit.
    pub commit: u64,
    /// What the name points at from that commit on; `None` if the commit deleted it.
    pub to: Option<Digest>,
}

impl From<Entry<'_>> for NameEntry {
    /// Copies the name, so that keeping an entry does not keep its block.
    fn from(entry: Entry<'_>) -> Self {
        let name = Bytes::copy_from_slice(entry.name);
        Self { name, commit: entry.commit, to: entry.to }
    }
}

/// Gathers the entries of one block.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    /// The block so far, without what stands at its end.
    bytes: Vec<u8>,
    run_offsets: Vec<u32>,
    entry_count: u32,
    last_name: Vec<u8>,
    last_commit: u64,
}

impl BlockBuilder {
    /// A builder of a block without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a version of `name`: where it points from `commit` on, `None` if deleted.
    ///
    /// # Panics
    /// If the name is empty or longer than [`NAME_BYTES_MAX`], if the entry does not come after the
    /// last one, or if the block is full: [`BLOCK_BYTES_MAX`].
    pub fn push(&mut self, name: &[u8], commit: u64, to: Option<&Digest>) {
        assert!((1..=NAME_BYTES_MAX).contains(&name.len()), "a name has 1 to 1024 bytes");
        if self.is_empty() {
            self.bytes.resize(CRC_BYTES, 0);
        }
        let equal_bytes = equal_bytes(&self.last_name, name);
        let (rest_of_last, mut rest) = (&self.last_name[equal_bytes..], &name[equal_bytes..]);
        assert!(
            self.is_empty() || follows((rest_of_last, self.last_commit), (rest, commit)),
            "N1: entries are pushed in order"
        );
        let mut shared_bytes = equal_bytes;
        if size(self.entry_count.into()).is_multiple_of(RUN_ENTRIES) {
            let offset = u32::try_from(self.bytes.len()).expect("a block is bounded");
            self.run_offsets.push(offset);
            (shared_bytes, rest) = (0, name);
        }
        put_varint(&mut self.bytes, shared_bytes as u64);
        put_varint(&mut self.bytes, rest.len() as u64);
        put_varint(&mut self.bytes, commit);
        self.bytes.push(if to.is_some() { DigestKind::Blake3 as u8 } else { DELETED });
        self.bytes.extend_from_slice(rest);
        if let Some(digest) = to {
            self.bytes.extend_from_slice(digest.as_bytes());
        }
        self.entry_count += 1;
        self.last_name.truncate(equal_bytes);
        self.last_name.extend_from_slice(&name[equal_bytes..]);
        self.last_commit = commit;
        assert!(self.len_bytes() <= BLOCK_BYTES_MAX, "a block of {} bytes", self.len_bytes());
    }

    /// The length of the block that [`finish`](Self::finish) would return now.
    pub fn len_bytes(&self) -> usize {
        let entries_end = self.bytes.len().max(CRC_BYTES);
        entries_end + self.run_offsets.len() * OFFSET_BYTES + COUNT_BYTES
    }

    /// Entries in it.
    pub fn entry_count(&self) -> u32 {
        self.entry_count
    }

    /// Nothing was pushed since the last block was finished.
    pub fn is_empty(&self) -> bool {
        self.entry_count == 0
    }

    /// The block, its checksum bound to its place: `seed` is the file's, and the block will stand
    /// at `offset_bytes` in it. The builder is empty again.
    ///
    /// # Panics
    /// If nothing was pushed.
    pub fn finish(&mut self, seed: Seed, offset_bytes: u64) -> Vec<u8> {
        assert!(!self.is_empty(), "no block is empty");
        // The next block will be about as long.
        let mut bytes = Vec::with_capacity(self.len_bytes());
        bytes.append(&mut self.bytes);
        for offset in self.run_offsets.drain(..) {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        bytes.extend_from_slice(&self.entry_count.to_le_bytes());
        let crc = seed.at(offset_bytes, &[&bytes[CRC_BYTES..]]);
        bytes[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        self.entry_count = 0;
        self.last_name.clear();
        bytes
    }
}

/// A block whose bytes were found to be as the builder writes them.
#[derive(Debug)]
pub struct Block {
    bytes: Bytes,
    entry_count: usize,
    /// Where entries end, and the offsets of runs begin.
    entries_end: usize,
    /// Made when a name is first looked for.
    pub(super) tags: OnceLock<NameTags>,
}

impl Block {
    /// Checks the block in `bytes`, which stands at `offset_bytes` of the file with this `seed`.
    /// Costs about as much as reading all entries once.
    ///
    /// # Errors
    /// The checksum does not match, or (in a block that someone made) the bytes are not what the
    /// builder writes.
    pub fn open(bytes: Bytes, seed: Seed, offset_bytes: u64) -> Result<Self, Malformed> {
        let malformed = |offset, what| Err(Malformed { offset, what });
        if bytes.len() > BLOCK_BYTES_MAX {
            return malformed(BLOCK_BYTES_MAX, "a block of at most 16 MiB");
        }
        let Some((crc, rest)) = bytes.split_first_chunk() else {
            return malformed(bytes.len(), "a block's checksum");
        };
        if u32::from_le_bytes(*crc) != seed.at(offset_bytes, &[rest]) {
            return malformed(0, "the checksum of the block's bytes");
        }
        let Some(count) = rest.last_chunk() else {
            return malformed(bytes.len(), "a count of entries");
        };
        let count_at = bytes.len() - COUNT_BYTES;
        let entry_count = u32::from_le_bytes(*count) as usize;
        let tail_bytes = entry_count.div_ceil(RUN_ENTRIES) * OFFSET_BYTES + COUNT_BYTES;
        if entry_count == 0 || tail_bytes > rest.len() {
            return malformed(count_at, "a count of the entries that there are");
        }
        let entries_end = bytes.len() - tail_bytes;
        let block = Self { entry_count, entries_end, bytes, tags: OnceLock::new() };
        block.check_entries()?;
        Ok(block)
    }

    /// Walks through all entries, and compares where runs begin with what the end says of it.
    fn check_entries(&self) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.entries());
        reader.take(CRC_BYTES, "a block's checksum")?;
        let mut last_name = [0; NAME_BYTES_MAX];
        let mut last_bytes = 0;
        let mut last_commit = 0;
        for index in 0..self.entry_count {
            let at = reader.offset();
            let malformed = |what| Err(Malformed { offset: at, what });
            let begins_run = index % RUN_ENTRIES == 0;
            if begins_run && self.run_offset(index / RUN_ENTRIES) != at {
                return malformed("an entry that begins a run where the block's end says");
            }
            let mut shared_bytes = reader.varint_usize("how many bytes are shared")?;
            let rest_bytes = reader.varint_usize("how many bytes follow")?;
            let commit = reader.varint("a commit's number")?;
            let kind = reader.u8("a digest kind")?;
            if shared_bytes > last_bytes || (begins_run && shared_bytes > 0) {
                return malformed("bytes shared with the name before");
            }
            let mut rest = reader.take(rest_bytes, "a name's bytes")?;
            if begins_run {
                shared_bytes = equal_bytes(&last_name[..last_bytes], rest);
                rest = &rest[shared_bytes..];
            }
            let name_bytes = shared_bytes + rest.len();
            if !(1..=NAME_BYTES_MAX).contains(&name_bytes) {
                return malformed("a name of 1 to 1024 bytes");
            }
            let last = (&last_name[shared_bytes..last_bytes], last_commit);
            if index > 0 && !follows(last, (rest, commit)) {
                return malformed("an entry that comes after the one before");
            }
            if kind != DELETED {
                if DigestKind::from_number(kind).is_none() {
                    return malformed("a digest kind that this build knows");
                }
                reader.take(DIGEST_BYTES, "a digest")?;
            }
            last_name[shared_bytes..name_bytes].copy_from_slice(rest);
            (last_bytes, last_commit) = (name_bytes, commit);
        }
        reader.end("nothing between the entries and the offsets of runs")
    }

    /// Entries in it; at least one.
    pub fn entry_count(&self) -> usize {
        self.entry_count
    }

    /// Bytes of the block, which it keeps in memory, or mapped.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory that it takes, with what will tell where names are.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + self.entry_count * NameTags::ENTRY_BYTES
    }

    /// A cursor at the first entry.
    pub fn first(self: &Arc<Self>) -> Cursor {
        let mut cursor = Cursor::new(Arc::clone(self));
        cursor.forward();
        cursor
    }

    /// A cursor at the last entry.
    pub fn last(self: &Arc<Self>) -> Cursor {
        let mut cursor = Cursor::new(Arc::clone(self));
        cursor.place = Place::After;
        cursor.back();
        cursor
    }

    /// Where the run begins in which `name` is, or would be; the first one's beginning for what is before all.
    pub(super) fn start_for(&self, name: &[u8]) -> usize {
        self.run_offset(self.run_of(name, u64::MAX))
    }

    /// The entry that begins at `offset`, where one begins, or where the last one ends: then there is none.
    #[inline]
    pub(super) fn stored(&self, offset: usize) -> Option<Stored<'_>> {
        let bytes = self.entries();
        if offset >= bytes.len() {
            return None;
        }
        let head = Head::read(bytes, offset);
        let rest_end = head.rest_at + head.rest_bytes;
        let (to, end) = if head.kind == DELETED {
            (None, rest_end)
        } else {
            let digest = bytes[rest_end..].first_chunk().expect("N3: a digest's bytes are there");
            (Some(Digest::from_bytes(*digest)), rest_end + DIGEST_BYTES)
        };
        Some(Stored {
            shared_bytes: head.shared_bytes,
            rest: &bytes[head.rest_at..rest_end],
            commit: head.commit,
            to,
            end,
        })
    }

    /// All bytes up to the last entry's end.
    #[inline]
    pub(super) fn entries(&self) -> &[u8] {
        &self.bytes[..self.entries_end]
    }

    fn run_count(&self) -> usize {
        self.entry_count.div_ceil(RUN_ENTRIES)
    }

    #[inline]
    pub(super) fn run_offset(&self, run: usize) -> usize {
        let at = self.entries_end + run * OFFSET_BYTES;
        let bytes =
            self.bytes[at..].first_chunk().expect("the offsets of all runs fit, or no open");
        u32::from_le_bytes(*bytes) as usize
    }

    /// The last run that begins at (`name`, `commit`) or before; the first one if none does.
    pub(super) fn run_of(&self, name: &[u8], commit: u64) -> usize {
        let (mut low, mut high) = (0, self.run_count());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let head = Head::read(&self.bytes, self.run_offset(middle));
            let first = &self.bytes[head.rest_at..head.rest_at + head.rest_bytes];
            if order((first, head.commit), (name, commit)).is_le() {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// An entry as it is stored: of its name what it does not share with the one before. The first of a run
/// shares nothing.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) shared_bytes: usize,
    pub(super) rest: &'a [u8],
    pub(super) commit: u64,
    pub(super) to: Option<Digest>,
    /// Where it ends.
    pub(super) end: usize,
}

/// Where a cursor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first entry.
    Before,
    /// On an entry: the one in `slots[at]`.
    On,
    /// Past the last entry.
    After,
}

/// A decoded entry of the cursor's run.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Where its name begins: in the block if it is stored whole, else in the cursor's buffer.
    name_at: usize,
    name_bytes: usize,
    stored_whole: bool,
    commit: u64,
    /// Where the digest begins in the block; 0 if the name was deleted.
    digest_at: usize,
}

/// A place in a block: before the first entry, on one, or past the last. Holds what it reads.
#[derive(Clone, Debug)]
pub struct Cursor {
    block: Arc<Block>,
    place: Place,
    /// The run that `slots` are of; meaningless while `decoded` is 0.
    run: usize,
    /// Entries of the run decoded so far, from its first.
    decoded: usize,
    at: usize,
    slots: [Slot; RUN_ENTRIES],
    /// Names of the run that are not stored whole.
    names: Vec<u8>,
    /// Where the entry after the last decoded one begins.
    next_offset: usize,
}

impl Cursor {
    /// A cursor before the first entry of `block`.
    pub fn new(block: Arc<Block>) -> Self {
        let slots = [Slot::default(); RUN_ENTRIES];
        let (place, names) = (Place::Before, Vec::new());
        Self { block, place, run: 0, decoded: 0, at: 0, slots, names, next_offset: CRC_BYTES }
    }

    /// Leaves this block, and stands before the first entry of `block`; buffers are kept.
    pub fn enter(&mut self, block: Arc<Block>) {
        self.block = block;
        self.place = Place::Before;
        self.start_run(0);
    }

    /// Leaves this block, and stands past the last entry of `block`; buffers are kept.
    pub fn enter_at_end(&mut self, block: Arc<Block>) {
        self.enter(block);
        self.place = Place::After;
    }

    /// The block it reads.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The entry it is on, if it is on one.
    #[expect(clippy::missing_panics_doc, reason = "N3: what `open` accepted is there")]
    #[inline]
    pub fn entry(&self) -> Option<Entry<'_>> {
        if self.place != Place::On {
            return None;
        }
        let slot = &self.slots[self.at];
        let to = match slot.digest_at {
            0 => None,
            at => Some(Digest::from_bytes(
                *self.block.bytes[at..].first_chunk().expect("N3: a digest's bytes are there"),
            )),
        };
        Some(Entry { name: self.name_of(slot), commit: slot.commit, to })
    }

    /// A copy of the entry it is on, which keeps nothing else in memory.
    pub fn keep(&self) -> Option<NameEntry> {
        self.entry().map(NameEntry::from)
    }

    /// Goes to the next entry. Says whether there was one.
    #[inline]
    pub fn forward(&mut self) -> bool {
        match self.place {
            Place::On if self.at + 1 < self.decoded => self.at += 1,
            Place::On if self.next_offset < self.block.entries_end => {
                if self.decoded == RUN_ENTRIES {
                    self.start_run(self.run + 1);
                }
                self.decode();
                self.at = self.decoded - 1;
            }
            Place::On => self.place = Place::After,
            Place::Before => self.stand_on_first_of(0),
            Place::After => {}
        }
        self.place == Place::On
    }

    /// Goes to the entry before. Says whether there was one.
    pub fn back(&mut self) -> bool {
        match self.place {
            Place::On if self.at > 0 => self.at -= 1,
            Place::On if self.run > 0 => self.stand_on_last_of(self.run - 1),
            Place::On => self.place = Place::Before,
            Place::After => self.stand_on_last_of(self.block.run_count() - 1),
            Place::Before => {}
        }
        self.place == Place::On
    }

    /// Goes to the first entry that is not before (`name`, `commit`): the newest version of the name that is
    /// not newer than the commit, else the first of the names after it; or past the end if there are none.
    /// `u64::MAX` finds the newest of all versions. Says whether there was one.
    pub fn seek(&mut self, name: &[u8], commit: u64) -> bool {
        self.stand_on_first_of(self.block.run_of(name, commit));
        // The next run begins after the target: the loop ends there at the latest.
        while self.place == Place::On {
            let slot = &self.slots[self.at];
            if order((self.name_of(slot), slot.commit), (name, commit)).is_ge() {
                break;
            }
            self.forward();
        }
        self.place == Place::On
    }

    fn stand_on_first_of(&mut self, run: usize) {
        if self.decoded == 0 || self.run != run {
            self.start_run(run);
            self.decode();
        }
        (self.place, self.at) = (Place::On, 0);
    }

    fn stand_on_last_of(&mut self, run: usize) {
        self.stand_on_first_of(run);
        let last = (self.block.entry_count - run * RUN_ENTRIES).min(RUN_ENTRIES) - 1;
        while self.decoded <= last {
            self.decode();
        }
        self.at = last;
    }

    fn start_run(&mut self, run: usize) {
        self.run = run;
        self.decoded = 0;
        self.names.clear();
        self.next_offset = self.block.run_offset(run);
    }

    /// Decodes the run's next entry, which there is.
    #[inline]
    fn decode(&mut self) {
        let bytes = self.block.entries();
        let head = Head::read(bytes, self.next_offset);
        let rest_end = head.rest_at + head.rest_bytes;
        let name_bytes = head.shared_bytes + head.rest_bytes;
        let (name_at, stored_whole) = if head.shared_bytes == 0 {
            (head.rest_at, true)
        } else {
            // An entry that shares bytes is not the run's first.
            let last = self.slots[self.decoded - 1];
            if head.rest_bytes == 0 {
                // N1: a name comes before all that begin with it, so this is the same name.
                (last.name_at, last.stored_whole)
            } else {
                let name_at = self.names.len();
                if last.stored_whole {
                    let shared = &bytes[last.name_at..last.name_at + head.shared_bytes];
                    self.names.extend_from_slice(shared);
                } else {
                    let shared = last.name_at..last.name_at + head.shared_bytes;
                    self.names.extend_from_within(shared);
                }
                self.names.extend_from_slice(&bytes[head.rest_at..rest_end]);
                (name_at, false)
            }
        };
        let (digest_at, digest_bytes) =
            if head.kind == DELETED { (0, 0) } else { (rest_end, DIGEST_BYTES) };
        self.slots[self.decoded] =
            Slot { name_at, name_bytes, stored_whole, commit: head.commit, digest_at };
        self.decoded += 1;
        self.next_offset = rest_end + digest_bytes;
    }

    #[inline]
    fn name_of(&self, slot: &Slot) -> &[u8] {
        let bytes = if slot.stored_whole { &self.block.bytes[..] } else { &self.names[..] };
        &bytes[slot.name_at..slot.name_at + slot.name_bytes]
    }
}

/// What an entry begins with.
pub(super) struct Head {
    pub(super) shared_bytes: usize,
    pub(super) rest_bytes: usize,
    pub(super) commit: u64,
    pub(super) kind: u8,
    pub(super) rest_at: usize,
}

impl Head {
    /// Reads the head of the entry at this offset of a block that `open` accepted (N3).
    #[inline(always)]
    pub(super) fn read(bytes: &[u8], at: usize) -> Self {
        // An entry has four bytes at least, and of most names neither length takes more than one.
        let [shared_bytes, rest_bytes, commit, kind] =
            *bytes[at..].first_chunk().expect("N3: an entry's head is there");
        if (shared_bytes | rest_bytes) & 0x80 != 0 {
            return Self::read_long(bytes, at);
        }
        let (shared_bytes, rest_bytes) = (shared_bytes.into(), rest_bytes.into());
        if commit & 0x80 == 0 {
            return Self { shared_bytes, rest_bytes, commit: commit.into(), kind, rest_at: at + 4 };
        }
        let mut at = at + 2;
        let commit = varint(bytes, &mut at);
        Self { shared_bytes, rest_bytes, commit, kind: bytes[at], rest_at: at + 1 }
    }

    /// The same, whatever its numbers are.
    #[cold]
    fn read_long(bytes: &[u8], mut at: usize) -> Self {
        let shared_bytes = size(varint(bytes, &mut at));
        let rest_bytes = size(varint(bytes, &mut at));
        let commit = varint(bytes, &mut at);
        Self { shared_bytes, rest_bytes, commit, kind: bytes[at], rest_at: at + 1 }
    }
}

/// A varint that was found to be one.
#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        number |= u64::from(byte & 0x7f) << (shift & 63);
        if byte & 0x80 == 0 {
            return number;
        }
        shift += 7;
    }
}

/// How many bytes `left` and `right` begin with are equal.
#[inline]
pub(crate) fn equal_bytes(left: &[u8], right: &[u8]) -> usize {
    let mut equal = 0;
    while let (Some(left), Some(right)) =
        (left[equal..].first_chunk(), right[equal..].first_chunk())
    {
        let different = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if different != 0 {
            return equal + (different.trailing_zeros() / u8::BITS) as usize;
        }
        equal += 8;
    }
    let (left, right) = (&left[equal..], &right[equal..]);
    equal + left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// N1: the entry with `next` comes after the one with `last`. Of their names, what stands after all
/// that is equal is given; and their commits.
fn follows(last: (&[u8], u64), next: (&[u8], u64)) -> bool {
    match (last.0.first(), next.0.first()) {
        (None, None) => next.1 < last.1,
        (last, next) => last < next,
    }
}

/// Names ascending, the newest version of each first.
pub(crate) fn order(left: (&[u8], u64), right: (&[u8], u64)) -> Ordering {
    left.0.cmp(right.0).then(right.1.cmp(&left.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinstone_disk::{FileKind, Ordinal, StoreId, TableKind};

    #[test]
    fn a_cursor_holds_names_of_one_run_alone() {
        let seed = Seed::of_file(&StoreId([1; 16]), FileKind::Table(TableKind::Names), Ordinal(1));
        let mut builder = BlockBuilder::new();
        for number in 0..200 {
            builder.push(&[&[b'n'; NAME_BYTES_MAX - 1][..], &[number]].concat(), 1, None);
        }
        let block = Arc::new(Block::open(builder.finish(seed, 0).into(), seed, 0).unwrap());
        let mut cursor = block.first();
        while cursor.forward() {
            assert!(cursor.names.len() < RUN_ENTRIES * NAME_BYTES_MAX, "N4");
        }
        while cursor.back() {
            assert!(cursor.names.len() < RUN_ENTRIES * NAME_BYTES_MAX, "N4");
        }
    }
}
