//! The digest list of a sealed segment: its pages, their directory, and looking a digest up in it.
//!
//! ```text
//! frames | digest page | digest page | ... | directory | footer
//! ```
//!
//! 1. Who seals a segment sorts its values by digest and lays them out in pages; behind these stand
//!    the top 32 bits of each page's first digest, which are the directory ([`encode`]).
//! 2. [`DigestList`] holds the directory in memory. It leads to the one page that may list a digest;
//!    to more only if pages begin with the digest's own top bits. Of these the first is found by
//!    halves.
//!    Who looks up many reads those pages itself, at once ([`DigestList::pages`], [`DigestList::page_lists`]).
//! 3. [`read_list`] reads all of it, a few pages at a time.
//!
//! A directory that is damaged is made again from the pages.
//!
//! - L1: every page but the last is full, and entries ascend in a page and from page to page.
//! - L2: no entry is missed: the pages that begin with the digest's top bits, and the one before
//!   them, are where it can stand. However many there are, that costs time alone.
//! - L3: what is found has the whole digest asked for, and a page that is not as it was written is an
//!   error. Who asks whether a digest stands with a certain offset is told so by a page that nobody checked,
//!   too ([`DigestList::page_lists`]): damage does not put the two together. That it does not stand there only a
//!   checked page says, of bytes that stay what they are.
//! - L4: the footer's hash of the list covers pages and directory, so that a directory made again is
//!   known to be the one that was sealed.

use std::cmp::Ordering;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::size;
use pinstone_disk::uniform::{boundary, rank};
use pinstone_disk::{Digest, Disk, DiskExt, File, Op, Ordinal};

use crate::error::{WalError, corrupt};
use crate::position::{Place, SizeClass};
use crate::scan::SEGMENT_BYTES_MAX;
use crate::segment::{Footer, SegmentFile, SegmentHeader};

/// Bytes of a page of a segment's digest list.
pub const DIGEST_PAGE_BYTES: usize = 4096;

pub(crate) const DIGEST_PAGE_HEADER_BYTES: usize = 8;
pub(crate) const DIGEST_ENTRY_BYTES: usize = 37;
pub(crate) const ENTRIES_A_PAGE: usize =
    (DIGEST_PAGE_BYTES - DIGEST_PAGE_HEADER_BYTES) / DIGEST_ENTRY_BYTES;
const DIRECTORY_HEADER_BYTES: usize = 4;
const PAGE_KEY_BYTES: usize = 4;
const _: () = assert!(ENTRIES_A_PAGE == 110);

/// Pages read at once by who reads them all.
const WALK_PAGES: u64 = 64;

/// An entry's bytes: three fewer than in memory otherwise, where there are millions of them.
pub(crate) type EncodedEntry = [u8; DIGEST_ENTRY_BYTES];

/// One value in a segment's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListEntry {
    /// The value's digest.
    pub digest: Digest,
    /// Where its record stands.
    pub offset_bytes: u32,
    /// A bound of its record's length.
    pub class: SizeClass,
}

impl ListEntry {
    /// Its place, in segment `ordinal`.
    pub fn place(&self, ordinal: Ordinal) -> Place {
        Place { ordinal, offset_bytes: self.offset_bytes, class: self.class }
    }

    /// As it stands in a page.
    pub(crate) fn encode(&self) -> EncodedEntry {
        let mut slot = [0; DIGEST_ENTRY_BYTES];
        slot[..32].copy_from_slice(self.digest.as_bytes());
        slot[32..36].copy_from_slice(&self.offset_bytes.to_le_bytes());
        slot[36] = self.class.0;
        slot
    }

    fn decode(slot: &EncodedEntry) -> Self {
        let [digest @ .., a, b, c, d, class] = slot;
        Self {
            digest: Digest::from_bytes(*digest),
            offset_bytes: u32::from_le_bytes([*a, *b, *c, *d]),
            class: SizeClass(*class),
        }
    }
}

/// Sorts entries as they are listed.
pub(crate) fn sort(entries: &mut [EncodedEntry]) {
    entries.sort_unstable_by(order);
}

/// The order in which entries are listed. Eight bytes hardly ever leave it open.
fn order(a: &EncodedEntry, b: &EncodedEntry) -> Ordering {
    first(a).cmp(&first(b)).then_with(|| ListEntry::decode(a).cmp(&ListEntry::decode(b)))
}

/// The first eight bytes of what begins with a digest.
fn first(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().expect("a digest has more bytes"))
}

/// What the directory holds of a page: the top bits of its first digest.
fn top(digest: &Digest) -> u32 {
    u32::from_be_bytes(*digest.as_bytes().first_chunk().expect("four of 32 bytes"))
}

/// Pages of a list of so many entries.
pub(crate) fn page_count(entry_count: usize) -> u64 {
    entry_count.div_ceil(ENTRIES_A_PAGE) as u64
}

/// Bytes of a list of so many pages, its directory included; `None` if no file holds as many.
pub(crate) fn list_bytes(page_count: u64) -> Option<u64> {
    if page_count == 0 {
        return Some(0);
    }
    let a_page = (DIGEST_PAGE_BYTES + PAGE_KEY_BYTES) as u64;
    page_count.checked_mul(a_page)?.checked_add(DIRECTORY_HEADER_BYTES as u64)
}

/// Appends the list of these entries, which are sorted, as it stands at `list_offset_bytes`; returns
/// the footer's hash of it.
pub(crate) fn encode(
    seed: Seed,
    list_offset_bytes: u64,
    entries: &[EncodedEntry],
    out: &mut Vec<u8>,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut offset_bytes = list_offset_bytes;
    let mut tops = Vec::with_capacity(size(page_count(entries.len())));
    for entries in entries.chunks(ENTRIES_A_PAGE) {
        let page = encode_page(seed, offset_bytes, entries);
        hasher.update(&page[..4]);
        out.extend_from_slice(&page);
        offset_bytes += DIGEST_PAGE_BYTES as u64;
        tops.push(top(&ListEntry::decode(&entries[0]).digest));
    }
    let directory = encode_directory(seed, offset_bytes, &tops);
    hasher.update(directory.get(..4).unwrap_or(&[]));
    out.extend_from_slice(&directory);
    *hasher.finalize().as_bytes()
}

fn encode_page(seed: Seed, offset_bytes: u64, entries: &[EncodedEntry]) -> [u8; DIGEST_PAGE_BYTES] {
    let mut page = [0; DIGEST_PAGE_BYTES];
    let count = u16::try_from(entries.len()).expect("a page has room for few entries");
    page[4..6].copy_from_slice(&count.to_le_bytes());
    let slots = entries.as_flattened();
    page[DIGEST_PAGE_HEADER_BYTES..][..slots.len()].copy_from_slice(slots);
    let crc = seed.at(offset_bytes, &[&page[4..]]);
    page[..4].copy_from_slice(&crc.to_le_bytes());
    page
}

/// The directory of pages that begin so; empty if there are none.
fn encode_directory(seed: Seed, offset_bytes: u64, tops: &[u32]) -> Vec<u8> {
    if tops.is_empty() {
        return Vec::new();
    }
    let mut bytes = vec![0; DIRECTORY_HEADER_BYTES];
    bytes.extend(tops.iter().flat_map(|top| top.to_le_bytes()));
    let crc = seed.at(offset_bytes, &[&bytes[4..]]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Where a list stands, and what its entries may say.
#[derive(Clone, Copy, Debug)]
struct Layout {
    header: SegmentHeader,
    frames_end_bytes: u64,
    offset_bytes: u64,
    page_count: u64,
}

/// A page of a list whose checksum, count and order agree.
#[derive(Debug)]
struct ListPage {
    bytes: Bytes,
    entry_count: usize,
}

impl ListPage {
    /// The page's entries of `digest`, in ascending order of their offsets.
    fn entries_of(&self, digest: &Digest) -> impl Iterator<Item = ListEntry> {
        self.entries_from(digest).take_while(move |entry| entry.digest == *digest)
    }

    fn entries_from(&self, digest: &Digest) -> impl Iterator<Item = ListEntry> {
        let start = self.slots().partition_point(|slot| slot[..32] < digest.as_bytes()[..]);
        self.slots()[start..].iter().map(ListEntry::decode)
    }

    fn slots(&self) -> &[EncodedEntry] {
        &self.bytes[DIGEST_PAGE_HEADER_BYTES..].as_chunks().0[..self.entry_count]
    }

    fn entries(&self) -> impl Iterator<Item = ListEntry> {
        self.slots().iter().map(ListEntry::decode)
    }

    fn first(&self) -> ListEntry {
        ListEntry::decode(&self.slots()[0])
    }

    fn last(&self) -> ListEntry {
        ListEntry::decode(&self.slots()[self.entry_count - 1])
    }
}

impl Layout {
    fn of(footer: &Footer) -> Self {
        Self {
            header: footer.header,
            frames_end_bytes: footer.frames_end_bytes,
            offset_bytes: footer.list_offset_bytes,
            page_count: footer.list_page_count,
        }
    }

    fn corrupt(&self, offset_bytes: u64, what: &str) -> WalError {
        corrupt(self.header.file_name(), offset_bytes, what)
    }

    /// Where a page begins; after the last one, the directory.
    fn page_offset(&self, index: u64) -> u64 {
        self.offset_bytes + index * DIGEST_PAGE_BYTES as u64
    }

    /// `count` pages from page `index` on.
    fn read_pages(
        &self,
        disk: &dyn Disk,
        file: &Arc<dyn File>,
        index: u64,
        count: u64,
    ) -> Result<Vec<ListPage>, WalError> {
        let start = self.page_offset(index);
        let len_bytes = size(count) * DIGEST_PAGE_BYTES;
        let bytes = disk.read_own(file, start, len_bytes)?;
        if bytes.len() != len_bytes {
            let end = start + bytes.len() as u64;
            return Err(self.corrupt(end, "it ends within its digest list"));
        }
        let page = |n: u64| {
            let at = size(n) * DIGEST_PAGE_BYTES;
            self.page(index + n, bytes.slice(at..at + DIGEST_PAGE_BYTES))
        };
        (0..count).map(page).collect()
    }

    /// Checks the bytes of page `index` (L1).
    fn page(&self, index: u64, bytes: Bytes) -> Result<ListPage, WalError> {
        let offset = self.page_offset(index);
        let crc = u32::from_le_bytes(*bytes.first_chunk().expect("a page has bytes"));
        if self.header.seed().at(offset, &[&bytes[4..]]) != crc {
            return Err(self.corrupt(offset, "a digest page's checksum does not match"));
        }
        let entry_count = usize::from(u16::from_le_bytes([bytes[4], bytes[5]]));
        let is_last = index + 1 == self.page_count;
        if entry_count != ENTRIES_A_PAGE && !(is_last && (1..ENTRIES_A_PAGE).contains(&entry_count))
        {
            return Err(self.corrupt(offset + 4, "a digest page's count is wrong"));
        }
        let page = ListPage { bytes, entry_count };
        let is_sorted = page.slots().is_sorted_by(|a, b| order(a, b).is_lt());
        if !is_sorted || !page.entries().all(|entry| self.is_within(&entry)) {
            return Err(self.corrupt(offset, "a digest page's entries are out of place"));
        }
        Ok(page)
    }

    /// The entry's record can stand among the frames. A reader takes memory by the class.
    fn is_within(&self, entry: &ListEntry) -> bool {
        let room = self.frames_end_bytes.saturating_sub(u64::from(entry.offset_bytes));
        room > 0 && room <= SEGMENT_BYTES_MAX && entry.class <= SizeClass::covering(room)
    }

    /// Reads all pages, checks each and what all are together, and calls `each` with every entry;
    /// returns the directory that they make (L4).
    fn walk(
        &self,
        disk: &dyn Disk,
        file: &Arc<dyn File>,
        list_hash: &[u8; 32],
        mut each: impl FnMut(ListEntry),
    ) -> Result<Box<[u32]>, WalError> {
        let mut hasher = blake3::Hasher::new();
        let mut tops = Vec::new();
        let mut last: Option<ListEntry> = None;
        let mut next = 0;
        while next < self.page_count {
            let count = WALK_PAGES.min(self.page_count - next);
            for (index, page) in (next..).zip(self.read_pages(disk, file, next, count)?) {
                if last.is_some_and(|last| last >= page.first()) {
                    let offset = self.page_offset(index);
                    return Err(self.corrupt(offset, "a digest page's entries are out of place"));
                }
                hasher.update(&page.bytes[..4]);
                tops.push(top(&page.first().digest));
                last = Some(page.last());
                page.entries().for_each(&mut each);
            }
            next += count;
        }
        let directory_offset = self.page_offset(self.page_count);
        let directory = encode_directory(self.header.seed(), directory_offset, &tops);
        hasher.update(directory.get(..4).unwrap_or(&[]));
        if hasher.finalize() != *list_hash {
            return Err(
                self.corrupt(self.offset_bytes, "its digest list is not the one that was sealed")
            );
        }
        Ok(tops.into())
    }

    fn read_directory(
        &self,
        disk: &dyn Disk,
        file: &Arc<dyn File>,
    ) -> Result<Box<[u32]>, WalError> {
        if self.page_count == 0 {
            return Ok(Box::new([]));
        }
        let offset = self.page_offset(self.page_count);
        let len_bytes = DIRECTORY_HEADER_BYTES + PAGE_KEY_BYTES * size(self.page_count);
        let bytes = disk.read_own(file, offset, len_bytes)?;
        if bytes.len() != len_bytes {
            let end = offset + bytes.len() as u64;
            return Err(self.corrupt(end, "it ends within the directory of its digest list"));
        }
        let (crc, keys) = bytes.split_first_chunk().expect("it has its header's length, too");
        if self.header.seed().at(offset, &[keys]) != u32::from_le_bytes(*crc) {
            let what = "the checksum of its digest list's directory does not match";
            return Err(self.corrupt(offset, what));
        }
        let tops: Box<[u32]> =
            keys.as_chunks().0.iter().map(|top| u32::from_le_bytes(*top)).collect();
        if !tops.is_sorted() {
            return Err(self.corrupt(offset, "its digest list's directory is out of order"));
        }
        Ok(tops)
    }
}

/// Reads and checks the digest list of a sealed segment, sorted by digest. The directory is not
/// looked at: it is derived.
///
/// # Errors
/// [`WalError::Format`] if it is damaged or not the one sealed; [`WalError::Disk`].
pub fn read_list(
    disk: &dyn Disk,
    segment: &SegmentFile,
    footer: &Footer,
) -> Result<Vec<ListEntry>, WalError> {
    Ok(read_pages(disk, segment, footer)?.0)
}

/// As [`read_list`], and the directory must be as it was sealed, too.
///
/// # Errors
/// As [`read_list`].
pub fn check_list(
    disk: &dyn Disk,
    segment: &SegmentFile,
    footer: &Footer,
) -> Result<Vec<ListEntry>, WalError> {
    let (list, made) = read_pages(disk, segment, footer)?;
    let layout = Layout::of(footer);
    if layout.read_directory(disk, &segment.file)? != made {
        let offset = layout.page_offset(layout.page_count);
        return Err(layout.corrupt(offset, "its digest list's directory is not the pages'"));
    }
    Ok(list)
}

/// All entries, and the directory as the pages make it.
fn read_pages(
    disk: &dyn Disk,
    segment: &SegmentFile,
    footer: &Footer,
) -> Result<(Vec<ListEntry>, Box<[u32]>), WalError> {
    let mut list = Vec::new();
    let keep = |entry| list.push(entry);
    let made = Layout::of(footer).walk(disk, &segment.file, &footer.list_hash, keep)?;
    Ok((list, made))
}

/// The digest list of one sealed segment, to look digests up in; many threads at once. In memory it
/// holds four bytes for each page, hence for each 110 values.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pinstone_disk::{Digest, Disk};
/// use pinstone_wal::{DigestList, SegmentFile, WalError, read_footer};
///
/// /// Whether a sealed segment lists this digest.
/// fn lists(disk: &dyn Disk, segment: &SegmentFile, digest: &Digest) -> Result<bool, WalError> {
///     let (footer, _hash) = read_footer(disk, segment)?;
///     let list = DigestList::open(disk, segment, &footer)?;
///     Ok(list.find(disk, &segment.file, digest, |_entry| ControlFlow::Break(()))?.is_break())
/// }
/// ```
#[derive(Debug)]
pub struct DigestList {
    layout: Layout,
    /// The top bits of each page's first digest.
    tops: Box<[u32]>,
}

impl DigestList {
    /// Opens the list of a segment that has this footer: one read, of the directory. A damaged
    /// directory is made again, at the cost of reading the whole list; that is told as a warning.
    ///
    /// # Errors
    /// [`WalError::Format`] if the directory had to be made again and a page is damaged, too;
    /// [`WalError::Disk`].
    pub fn open(disk: &dyn Disk, segment: &SegmentFile, footer: &Footer) -> Result<Self, WalError> {
        let layout = Layout::of(footer);
        let tops = match layout.read_directory(disk, &segment.file) {
            Err(WalError::Format(error)) => {
                tracing::warn!(%error, "a damaged directory is made again");
                layout.walk(disk, &segment.file, &footer.list_hash, drop)?
            }
            read => read?,
        };
        Ok(Self { layout, tops })
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> u64 {
        (size_of::<Self>() + size_of_val(&*self.tops)) as u64
    }

    /// The pages that may list the digest (L2): none or one, or more where pages begin with its top 32 bits.
    pub fn pages(&self, digest: &Digest) -> Range<usize> {
        let top = top(digest);
        let end = self.tops.partition_point(|page| *page <= top);
        // The page before the first that begins with these bits may end with them.
        let start = self.tops[..end].partition_point(|page| *page < top).saturating_sub(1);
        start..end
    }

    /// The read of a page out of the segment's file, for who reads several at once.
    pub fn page_read(&self, file: Arc<dyn File>, page: usize) -> Op {
        let offset_bytes = self.layout.page_offset(page as u64);
        Op::Read { file, offset_bytes, len_bytes: DIGEST_PAGE_BYTES }
    }

    /// The page that was read so, of bytes that stay what they are.
    fn open_page(&self, page: usize, bytes: Bytes) -> Result<ListPage, WalError> {
        let offset = self.layout.page_offset(page as u64);
        if bytes.len() != DIGEST_PAGE_BYTES {
            let end = offset + bytes.len() as u64;
            return Err(self.layout.corrupt(end, "it ends within its digest list"));
        }
        let opened = self.layout.page(page as u64, bytes)?;
        if top(&opened.first().digest) != self.tops[page] {
            let what = "a digest page does not begin as its directory says";
            return Err(self.layout.corrupt(offset, what));
        }
        Ok(opened)
    }

    /// Calls `each` with all entries of `digest`, in ascending order of their offsets, until it
    /// breaks; says whether it did. `file` is the segment's.
    ///
    /// Reads one page, and none if the list begins with a greater digest. Where *n* pages begin with
    /// the digest's top 32 bits, up to 1 + log2(*n* + 1) pages, and those over which its own entries
    /// go.
    ///
    /// # Errors
    /// [`WalError::Format`] if a page is damaged; [`WalError::Disk`].
    pub fn find(
        &self,
        disk: &dyn Disk,
        file: &Arc<dyn File>,
        digest: &Digest,
        mut each: impl FnMut(ListEntry) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, WalError> {
        let Range { start: mut low, mut end } = self.pages(digest);
        // Pages from `high` on begin with the digest or after it, those from `end` on after it.
        let mut high = end;
        let (mut at_low, mut at_high) = (None, None);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let page = self.page(disk, file, middle)?;
            match page.first().digest.cmp(digest) {
                Ordering::Less => (low, at_low) = (middle, Some(page)),
                Ordering::Equal => (high, at_high) = (middle, Some(page)),
                Ordering::Greater => (high, end, at_high) = (middle, middle, None),
            }
        }
        for index in low..end {
            let read = if index == low { at_low.take() } else { at_high.take() };
            let page = match read {
                Some(page) => page,
                None => self.page(disk, file, index)?,
            };
            for entry in page.entries_from(digest) {
                if entry.digest != *digest {
                    return Ok(ControlFlow::Continue(()));
                }
                if each(entry).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Whether it lists the digest at this offset. `file` is the segment's; where that is mapped, and it does,
    /// nothing is copied.
    ///
    /// # Errors
    /// As [`DigestList::find`], but of a page that shows it all the same.
    pub fn lists(
        &self,
        disk: &dyn Disk,
        file: &Arc<dyn File>,
        digest: &Digest,
        offset_bytes: u32,
    ) -> Result<bool, WalError> {
        let pages = self.pages(digest);
        let page = pages.start;
        let offset = self.layout.page_offset(page as u64);
        if pages.len() == 1 {
            let map = file.map().and_then(|map| map.look(offset, DIGEST_PAGE_BYTES).ok());
            if map.is_some_and(|(bytes, _)| self.is_shown(page, bytes, digest, offset_bytes)) {
                return Ok(true);
            }
            let bytes = disk.read_own(file, offset, DIGEST_PAGE_BYTES)?;
            return self.page_lists(page, &bytes, digest, offset_bytes);
        }
        let each = |entry: ListEntry| match entry.offset_bytes == offset_bytes {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        Ok(self.find(disk, file, digest, each)?.is_break())
    }

    /// Whether a page lists the digest at this offset (L3). Its bytes may be a map's, which the kernel may fetch
    /// anew at any time: what is checked is a copy.
    ///
    /// # Errors
    /// [`WalError::Format`] if it is damaged, and does not show that it does.
    pub fn page_lists(
        &self,
        page: usize,
        bytes: &[u8],
        digest: &Digest,
        offset_bytes: u32,
    ) -> Result<bool, WalError> {
        if self.is_shown(page, bytes, digest, offset_bytes) {
            return Ok(true);
        }
        let page = self.open_page(page, Bytes::copy_from_slice(bytes))?;
        let mut listed = page.entries_of(digest);
        Ok(listed.any(|entry| entry.offset_bytes == offset_bytes))
    }

    /// Whether bytes that nobody checked have the digest with this offset.
    fn is_shown(&self, page: usize, bytes: &[u8], digest: &Digest, offset_bytes: u32) -> bool {
        let Some((header, slots)) = bytes.split_at_checked(DIGEST_PAGE_HEADER_BYTES) else {
            return false;
        };
        let entry_count = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let slots: &[EncodedEntry] = slots.as_chunks().0;
        let slots = &slots[..entry_count.min(slots.len())];
        let start = u64::from(self.tops[page]);
        let end = self.tops.get(page + 1).map_or(1 << 32, |top| u64::from(*top));
        let guess = rank(top(digest), start..end, slots.len());
        let wanted = first(digest.as_bytes());
        let at = boundary(slots.len(), guess, |at| first(&slots[at]) < wanted);
        let offset_bytes = offset_bytes.to_le_bytes();
        slots[at..]
            .iter()
            .take_while(|slot| first(&slot[..]) == wanted)
            .any(|slot| slot[..32] == digest.as_bytes()[..] && slot[32..36] == offset_bytes)
    }

    fn page(
        &self,
        disk: &dyn Disk,
        file: &Arc<dyn File>,
        page: usize,
    ) -> Result<ListPage, WalError> {
        let offset = self.layout.page_offset(page as u64);
        self.open_page(page, disk.read_own(file, offset, DIGEST_PAGE_BYTES)?)
    }
}
