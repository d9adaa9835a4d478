//! Files mapped into memory, and handed out as `Bytes` that keep their map alive.
//!
//! 1. A file that never changes again is mapped whole, and told to be read at random. A read is a slice
//!    of it: no system call, no copy.
//! 2. What nobody has touched through this map is probably not in memory. The kernel is asked for exactly the
//!    pages of such a read, all at once, unless it was asked before, and waited for: a fault would fetch page
//!    after page.
//! 3. Pages that lead to values stand dense: who [looks](Map::look) at some of a file looks at others soon. With the
//!    first of them one page is fetched, with each after it twice as many, up to [`AROUND_BYTES`]; of all files
//!    together [`AHEAD_BYTES_MAX`] more than was asked for, and then no more: a store that is far larger than the
//!    memory gains nothing by it.
//!
//! - N1: only files that are sealed are mapped: nobody of us cuts, writes or extends them. If somebody else
//!   does, bytes handed out change, and those beyond a new end kill the process; so does a device that fails
//!   when a page has to be fetched again. Who cannot bear that opens without maps.
//! - N2: a map lives until its owner lets go of it and of all `Bytes` of it. It keeps no descriptor: the file
//!   may be closed, and be removed.
//! - N3: a read that the kernel refuses when it is waited for is an error, and the caller's positioned read
//!   says which.
//! - N4: a process has maps of [`MAPS_MAX`] files at once, and of no more.

#![expect(unsafe_code, reason = "mapping a file is unsafe if anybody changes it: N1")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};
use rustix::io::Errno;

use crate::env::{AtomicU64, Ordering};

/// Bytes that a bit of [`Map::touched`] stands for: a page, or less than one.
const STRIDE_BYTES: usize = 4096;

/// Files of which a process has maps at once, at most. Linux gives it 65,530 maps by default, for all that it maps.
const MAPS_MAX: u64 = 16_384;

/// Bytes that are fetched with a page that is looked at, itself included, at most. A power of two. By cold puts of known
/// values, a million of 1 KiB: 2.3 to 3 times as many a second as with single pages, and with 16 KiB 1.5 to 2.1 times.
const AROUND_BYTES: usize = 64 << 10;

/// Bytes that are fetched beside what was looked at, of all files of a disk since it was opened, at most.
const AHEAD_BYTES_MAX: u64 = 256 << 20;

/// Maps that there are.
static MAP_COUNT: AtomicU64 = AtomicU64::new(0);

/// Handles to a map's bytes, by where they begin: threads that hand out values of a few files seldom count
/// them in the same place. With the bits of what was read and asked for they take some 2.7 KiB of a map of
/// 32 MiB.
const HANDLES: usize = 8;

/// What is mapped of a disk's files.
#[derive(Debug, Default)]
pub(crate) struct MapCounters {
    alive_bytes: AtomicU64,
    pinned_bytes: AtomicU64,
    /// Bytes that were fetched beside what was looked at.
    ahead_bytes: AtomicU64,
}

/// What is mapped of a disk's files: address space, not memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Bytes of maps.
    pub mapped_bytes: u64,
    /// Of these, bytes that only values keep which were handed out: the segment is gone, or the store.
    pub pinned_bytes: u64,
}

/// Bytes of what is read that the processor is told of, at most: about as much as it waits for at once.
const PREFETCH_BYTES: usize = 2048;

/// Bytes that it fetches together.
const LINE_BYTES: usize = 64;

/// Has the processor fetch the first bytes of what is about to be read, all at once: it would wait for one line
/// after the other until it sees that they are read in order.
#[cfg(target_arch = "x86_64")]
fn prefetch(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in bytes[..bytes.len().min(PREFETCH_BYTES)].chunks(LINE_BYTES) {
        // SAFETY: it is a hint, and reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_bytes: &[u8]) {}

impl MapCounters {
    pub(crate) fn mapped(&self) -> Mapped {
        Mapped {
            mapped_bytes: self.alive_bytes.load(Ordering::Relaxed),
            pinned_bytes: self.pinned_bytes.load(Ordering::Relaxed),
        }
    }

    /// So many bytes more may be fetched than are looked at; counts them.
    fn may_fetch(&self, ahead_bytes: usize) -> bool {
        let before_bytes = self.ahead_bytes.fetch_add(ahead_bytes as u64, Ordering::Relaxed);
        let may = before_bytes < AHEAD_BYTES_MAX;
        if !may {
            self.ahead_bytes.fetch_sub(ahead_bytes as u64, Ordering::Relaxed);
        }
        may
    }
}

/// A file's bytes.
#[derive(Debug)]
pub struct Map {
    memory: Arc<Memory>,
    handles: Box<[Bytes]>,
    /// Which were read before.
    touched: Strides,
    /// Which the kernel was asked for.
    asked: Strides,
    /// How often pages were looked at that nobody had asked for.
    fresh_looks: AtomicU64,
}

/// The map itself; the last who has it ends it.
#[derive(Debug)]
struct Memory {
    memory: Mmap,
    counters: Arc<MapCounters>,
    /// Its owner has let go of it.
    is_pinned: crate::env::AtomicBool,
}

struct Owner(Arc<Memory>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.memory
    }
}

impl Map {
    /// Maps a sealed file of `len_bytes`; none if it is empty, or if there are enough maps (N4).
    ///
    /// # Errors
    /// The machine's: there is no address space, or its file system has no maps.
    pub(crate) fn new(
        file: BorrowedFd<'_>,
        len_bytes: usize,
        counters: &Arc<MapCounters>,
    ) -> io::Result<Option<Self>> {
        if len_bytes == 0 {
            return Ok(None);
        }
        if MAP_COUNT.fetch_add(1, Ordering::Relaxed) >= MAPS_MAX {
            MAP_COUNT.fetch_sub(1, Ordering::Relaxed);
            return Ok(None);
        }
        // SAFETY: N1: nobody of us changes the file from now on.
        let memory = unsafe { MmapOptions::new().len(len_bytes).map(file.as_raw_fd()) }
            .inspect_err(|_| {
                MAP_COUNT.fetch_sub(1, Ordering::Relaxed);
            })?;
        // It is advice: without it reads fetch more than they need.
        let _advised = memory.advise(Advice::Random);
        counters.alive_bytes.fetch_add(len_bytes as u64, Ordering::Relaxed);
        let (counters, is_pinned) = (Arc::clone(counters), crate::env::AtomicBool::new(false));
        let memory = Arc::new(Memory { memory, counters, is_pinned });
        let handle = || Bytes::from_owner(Owner(Arc::clone(&memory)));
        let handles = std::iter::repeat_with(handle).take(HANDLES).collect();
        let (touched, asked) = (Strides::new(len_bytes), Strides::new(len_bytes));
        Ok(Some(Self { memory, handles, touched, asked, fresh_looks: AtomicU64::new(0) }))
    }

    /// Its length.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.memory.memory.len() as u64
    }

    /// Up to `len_bytes` at `offset_bytes`, fewer only where the file ends; they keep the map.
    ///
    /// # Errors
    /// The kernel cannot fetch them (N3).
    pub(crate) fn read(&self, offset_bytes: u64, len_bytes: usize) -> io::Result<Bytes> {
        let range = self.range(offset_bytes, len_bytes);
        self.fetch(&range, || range.clone())?;
        prefetch(&self.memory.memory[range.clone()]);
        Ok(self.handles[range.start / STRIDE_BYTES % HANDLES].slice(range))
    }

    /// The same, for a moment; and whether nobody has read them through this map before. Fetches what stands around them,
    /// too: 3 of the module.
    ///
    /// # Errors
    /// The kernel cannot fetch them (N3).
    pub fn look(&self, offset_bytes: u64, len_bytes: usize) -> io::Result<(&[u8], bool)> {
        let range = self.range(offset_bytes, len_bytes);
        let is_first = self.fetch(&range, || self.around(&range))?;
        Ok((&self.memory.memory[range], is_first))
    }

    /// Has the kernel fetch what was not read through this map before, and with it what is `around`; whether there was
    /// any.
    fn fetch(
        &self,
        range: &Range<usize>,
        around: impl FnOnce() -> Range<usize>,
    ) -> io::Result<bool> {
        let is_first = !self.touched.have(range);
        if is_first {
            let around = around();
            if strides_of(&around).len() > 1 {
                // What is waited for below is fetched page after page.
                self.ask(&around);
            }
            match self.memory.memory.advise_range(Advice::PopulateRead, range.start, range.len()) {
                Ok(()) => {}
                // A kernel before 5.14 does not know it: faults will do.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
            self.touched.add(range);
        }
        Ok(is_first)
    }

    /// Has the kernel fetch what such a read would have to wait for, and waits for nothing.
    pub fn will_read(&self, offset_bytes: u64, len_bytes: usize) {
        let range = self.range(offset_bytes, len_bytes);
        if !self.touched.have(&range) {
            self.ask(&range);
        }
    }

    /// The same for who will [look](Self::look).
    pub fn will_look(&self, offset_bytes: u64, len_bytes: usize) {
        let range = self.range(offset_bytes, len_bytes);
        if !self.touched.have(&range) {
            self.ask(&self.around(&range));
        }
    }

    /// What is to be fetched with a range that is looked at: nothing else, if it was asked for.
    fn around(&self, range: &Range<usize>) -> Range<usize> {
        if self.asked.have(range) {
            return range.clone();
        }
        let looks = self.fresh_looks.fetch_add(1, Ordering::Relaxed);
        let bytes = (STRIDE_BYTES << looks.min(16)).min(AROUND_BYTES);
        let start = range.start / bytes * bytes;
        let end = range.end.next_multiple_of(bytes).min(self.memory.memory.len()).max(range.end);
        let may = self.memory.counters.may_fetch((end - start) - range.len());
        if may { start..end } else { range.clone() }
    }

    fn ask(&self, range: &Range<usize>) {
        if !self.asked.have(range) {
            // It is advice: without it pages are fetched one by one.
            let _advised =
                self.memory.memory.advise_range(Advice::WillNeed, range.start, range.len());
            self.asked.add(range);
        }
    }

    fn range(&self, offset_bytes: u64, len_bytes: usize) -> Range<usize> {
        let len = self.memory.memory.len();
        let start = usize::try_from(offset_bytes).unwrap_or(len).min(len);
        start..start.saturating_add(len_bytes).min(len)
    }
}

/// A bit for each [`STRIDE_BYTES`] of a map.
#[derive(Debug)]
struct Strides(Box<[AtomicU64]>);

impl Strides {
    fn new(len_bytes: usize) -> Self {
        let words = len_bytes.div_ceil(STRIDE_BYTES).div_ceil(64);
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether all that the range touches are among them.
    fn have(&self, range: &Range<usize>) -> bool {
        strides(range).all(|(word, bits)| self.0[word].load(Ordering::Relaxed) & bits == bits)
    }

    fn add(&self, range: &Range<usize>) {
        for (word, bits) in strides(range) {
            self.0[word].fetch_or(bits, Ordering::Relaxed);
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // Whoever counts it alive counts it pinned, until its memory goes.
        let Memory { memory, counters, is_pinned } = &*self.memory;
        is_pinned.store(true, Ordering::Relaxed);
        counters.pinned_bytes.fetch_add(memory.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let len_bytes = self.memory.len() as u64;
        MAP_COUNT.fetch_sub(1, Ordering::Relaxed);
        self.counters.alive_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
        if self.is_pinned.load(Ordering::Relaxed) {
            self.counters.pinned_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
        }
    }
}

/// Which strides a range of bytes touches.
fn strides_of(range: &Range<usize>) -> Range<usize> {
    let first = range.start / STRIDE_BYTES;
    first..range.end.div_ceil(STRIDE_BYTES).max(first)
}

/// The words of bits that a range of bytes has, each with its own bits.
fn strides(range: &Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start: first, end } = strides_of(range);
    let words = if first == end { 0..0 } else { first / 64..(end - 1) / 64 + 1 };
    words.map(move |word| {
        let low = first.max(word * 64) - word * 64;
        let high = end.min(word * 64 + 64) - word * 64;
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use proptest::prelude::*;

    use super::*;

    fn map(bytes: &[u8], counters: &Arc<MapCounters>) -> Option<Map> {
        let file = crate::std_disk::file_in_memory(bytes).unwrap();
        Map::new(file.descriptor().unwrap().as_fd(), bytes.len(), counters).unwrap()
    }

    #[test]
    fn a_map_reads_what_the_file_holds_and_no_further() {
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let map = map(&bytes, &Arc::default()).unwrap();
        for (offset, len) in [(0, 1), (4095, 2), (299_999, 5), (300_000, 5), (1, 299_999), (7, 0)] {
            for is_first in [true, false] {
                map.will_read(offset, len);
                let start = usize::try_from(offset).unwrap();
                let wanted = &bytes[start..bytes.len().min(start + len)];
                assert_eq!(
                    map.look(offset, len).unwrap(),
                    (wanted, is_first && !wanted.is_empty())
                );
                assert_eq!(map.read(offset, len).unwrap(), wanted);
            }
        }
        assert!(map.read(u64::MAX, usize::MAX).unwrap().is_empty());
    }

    #[test]
    fn what_stands_around_is_fetched_ever_more_of_up_to_a_bound() {
        let counters = Arc::<MapCounters>::default();
        let map = map(&vec![7; 4 << 20], &counters).unwrap();
        let asked = |range: Range<usize>| {
            let pages = strides_of(&range).map(|page| page * STRIDE_BYTES..page * STRIDE_BYTES + 1);
            pages.filter(|page| map.asked.have(page)).count()
        };
        // The last page of each quarter of a mebibyte.
        for (at, pages) in [(0, 0), (1, 2), (2, 4), (3, 8), (4, 16), (5, 16)] {
            let quarter = at << 18..(at + 1) << 18;
            let offset = (quarter.end - STRIDE_BYTES) as u64;
            assert!(map.look(offset, STRIDE_BYTES).unwrap().1);
            assert!(!map.look(offset, STRIDE_BYTES).unwrap().1);
            assert_eq!(asked(quarter.clone()), pages, "{at}");
            assert_eq!(asked(quarter.end - pages * STRIDE_BYTES..quarter.end), pages);
        }
        let ahead_bytes = || counters.ahead_bytes.load(Ordering::Relaxed);
        assert_eq!(ahead_bytes(), (2 + 4 + 8 + 16 + 16 - 5) * STRIDE_BYTES as u64);
        // Who asked, or comes where it was fetched, fetches no more.
        let before = ahead_bytes();
        map.will_look(2 << 20, STRIDE_BYTES);
        assert_eq!((asked(2 << 20..3 << 20), ahead_bytes() - before), (16, 15 * 4096));
        for page in [0, 15] {
            assert!(map.look((2 << 20) + page * 4096, STRIDE_BYTES).unwrap().1);
        }
        assert_eq!((asked(2 << 20..3 << 20), ahead_bytes() - before), (16, 15 * 4096));
        // A record fetches what it has, and the file ends where it does.
        map.read((3 << 20) + 5, 2 * STRIDE_BYTES).unwrap();
        assert_eq!(asked(3 << 20..(4 << 20) - (128 << 10)), 3);
        map.look((4 << 20) - 10, STRIDE_BYTES).unwrap();
        assert_eq!(asked((4 << 20) - (128 << 10)..4 << 20), 16);
        // Enough was fetched.
        counters.ahead_bytes.store(AHEAD_BYTES_MAX, Ordering::Relaxed);
        map.will_look((3 << 20) + (512 << 10), STRIDE_BYTES);
        assert_eq!(asked((3 << 20) + (512 << 10)..(3 << 20) + (640 << 10)), 1);
        assert_eq!(ahead_bytes(), AHEAD_BYTES_MAX);
    }

    #[test]
    fn an_empty_file_has_no_map() {
        assert!(map(b"", &Arc::default()).is_none());
    }

    #[test]
    fn what_was_handed_out_keeps_its_map_and_is_counted() {
        let counters = Arc::<MapCounters>::default();
        let first = map(&[7; 5000], &counters).unwrap();
        assert_eq!(counters.mapped(), Mapped { mapped_bytes: 5000, pinned_bytes: 0 });
        let value = first.read(10, 20).unwrap();
        drop(first);
        assert_eq!(counters.mapped(), Mapped { mapped_bytes: 5000, pinned_bytes: 5000 });
        let second = map(&[8; 100], &counters).unwrap();
        assert_eq!(value, [7; 20][..]);
        assert_eq!(counters.mapped(), Mapped { mapped_bytes: 5100, pinned_bytes: 5000 });
        drop((second, value));
        assert_eq!(counters.mapped(), Mapped::default());
    }

    proptest! {
        #[test]
        fn each_stride_has_its_bit(start in 0..600_000_usize, len in 0..600_000_usize) {
            let bits = |range: &Range<usize>| -> Vec<usize> {
                let one = |(word, bits): (usize, u64)| {
                    (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
                };
                strides(range).flat_map(one).collect()
            };
            let range = start..start + len;
            let end = range.end.div_ceil(STRIDE_BYTES).max(start / STRIDE_BYTES);
            let wanted: Vec<_> = (start / STRIDE_BYTES..end).collect();
            prop_assert_eq!(bits(&range), wanted);
        }
    }
}
