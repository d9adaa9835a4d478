//! Files mapped into memory, and handed out as `Bytes` that keep their map alive.
//!
//! 1. A file that never changes again is mapped whole, and told to be read at random. A read is a slice
//!    of it: no system call, no copy.
//! 2. What nobody has touched through this map is probably not in memory. The kernel is asked for exactly the
//!    pages of such a read, all at once, and waited for: a fault would fetch page after page.
//!
//! - N1: only files that are sealed are mapped: nobody of us cuts, writes or extends them. If somebody else
//!   does, bytes handed out change, and those beyond a new end kill the process; so does a device that fails
//!   when a page has to be fetched again. Who cannot bear that opens without maps.
//! - N2: a map lives as long as its file, or as any `Bytes` of it.
//! - N3: a read that the kernel refuses when it is waited for is an error, and the caller's positioned read
//!   says which.

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

/// What is mapped of a disk's files.
#[derive(Debug, Default)]
pub(crate) struct MapCounters {
    alive_bytes: AtomicU64,
    pinned_bytes: AtomicU64,
}

/// What is mapped of a disk's files: address space, not memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Bytes of maps.
    pub mapped_bytes: u64,
    /// Of these, bytes of maps whose file is closed: values that were handed out keep them.
    pub pinned_bytes: u64,
}

impl MapCounters {
    pub(crate) fn mapped(&self) -> Mapped {
        Mapped {
            mapped_bytes: self.alive_bytes.load(Ordering::Relaxed),
            pinned_bytes: self.pinned_bytes.load(Ordering::Relaxed),
        }
    }
}

/// A file's bytes.
#[derive(Debug)]
pub struct Map {
    memory: Arc<Memory>,
    bytes: Bytes,
    /// A bit for each [`STRIDE_BYTES`]: they were read before.
    touched: Box<[AtomicU64]>,
}

/// The map itself; the last who has it ends it.
#[derive(Debug)]
struct Memory {
    memory: Mmap,
    counters: Arc<MapCounters>,
    /// Its file is closed.
    is_pinned: crate::env::AtomicBool,
}

struct Owner(Arc<Memory>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.memory
    }
}

impl Map {
    /// Maps a sealed file of `len_bytes`; none if it is empty.
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
        // SAFETY: N1: nobody of us changes the file from now on.
        let memory = unsafe { MmapOptions::new().len(len_bytes).map(file.as_raw_fd()) }?;
        // It is advice: without it reads fetch more than they need.
        let _advised = memory.advise(Advice::Random);
        counters.alive_bytes.fetch_add(len_bytes as u64, Ordering::Relaxed);
        let (counters, is_pinned) = (Arc::clone(counters), crate::env::AtomicBool::new(false));
        let memory = Arc::new(Memory { memory, counters, is_pinned });
        let bytes = Bytes::from_owner(Owner(Arc::clone(&memory)));
        let words = len_bytes.div_ceil(STRIDE_BYTES).div_ceil(64);
        let touched = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Some(Self { memory, bytes, touched }))
    }

    /// Up to `len_bytes` at `offset_bytes`, fewer only where the file ends.
    ///
    /// # Errors
    /// The kernel cannot fetch them (N3).
    pub(crate) fn read(&self, offset_bytes: u64, len_bytes: usize) -> io::Result<Bytes> {
        let range = self.range(offset_bytes, len_bytes);
        if !self.is_touched(&range) {
            self.ask(&range);
            match self.memory.memory.advise_range(Advice::PopulateRead, range.start, range.len()) {
                Ok(()) => {}
                // A kernel before 5.14 does not know it: faults will do.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
            self.touch(&range);
        }
        Ok(self.bytes.slice(range))
    }

    /// Has the kernel fetch what such a read would have to wait for, and waits for nothing.
    pub(crate) fn will_read(&self, offset_bytes: u64, len_bytes: usize) {
        let range = self.range(offset_bytes, len_bytes);
        if !self.is_touched(&range) {
            self.ask(&range);
        }
    }

    fn ask(&self, range: &Range<usize>) {
        // It is advice: without it pages are fetched one by one.
        let _advised = self.memory.memory.advise_range(Advice::WillNeed, range.start, range.len());
    }

    fn range(&self, offset_bytes: u64, len_bytes: usize) -> Range<usize> {
        let len = self.bytes.len();
        let start = usize::try_from(offset_bytes).unwrap_or(len).min(len);
        start..start.saturating_add(len_bytes).min(len)
    }

    fn is_touched(&self, range: &Range<usize>) -> bool {
        strides(range).all(|(word, bits)| self.touched[word].load(Ordering::Relaxed) & bits == bits)
    }

    fn touch(&self, range: &Range<usize>) {
        for (word, bits) in strides(range) {
            self.touched[word].fetch_or(bits, Ordering::Relaxed);
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
        self.counters.alive_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
        if self.is_pinned.load(Ordering::Relaxed) {
            self.counters.pinned_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
        }
    }
}

/// The words of bits that a range of bytes has, each with its own bits.
fn strides(range: &Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let first = range.start / STRIDE_BYTES;
    let end = range.end.div_ceil(STRIDE_BYTES).max(first);
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
            for _twice in 0..2 {
                map.will_read(offset, len);
                let start = usize::try_from(offset).unwrap();
                let wanted = &bytes[start..bytes.len().min(start + len)];
                assert_eq!(map.read(offset, len).unwrap(), wanted);
            }
        }
        assert!(map.read(u64::MAX, usize::MAX).unwrap().is_empty());
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
