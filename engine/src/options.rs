//! Every limit of a store: its unit, its default, and why.

pub use pinstone_disk::NAME_BYTES_MAX;

use crate::error::{Error, Result};

/// How much a read checks before it hands out a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// The record's CRC-32C: finds accidental damage, up to a collision in 2^32.
    Checksum,
    /// The checksum, and the whole value hashed again: finds any damage.
    Digest,
}

/// Who does what need not be done at once (sealing full segments, reserving the next).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// A thread of the store's own.
    Thread,
    /// The caller whose operation made it due, before that operation returns. Deterministic on the
    /// simulated disk; on a real directory the thread `pinstone-io` may still carry out one of two
    /// files' writes and syncs beside the caller.
    Inline,
}

/// What a store is opened with; see [`crate::StoreBuilder`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Create the store where the directory is absent or empty. Default: yes.
    pub create: bool,
    /// Longest value, in bytes. Default: 256 MiB; at most [`Options::VALUE_BYTES_LIMIT`]. A put
    /// and a get hold the whole value in memory.
    pub value_bytes_max: u64,
    /// Longest commit, as encoded, in bytes: names, 34 bytes a change, a few more. Default:
    /// 16 MiB, at most [`Options::COMMIT_BYTES_LIMIT`]. A commit of about 60 changes and 1 MiB
    /// is portable to the stores that may come later; larger ones are local.
    pub commit_bytes_max: u64,
    /// Bytes after which a segment of the blob log is sealed and the next one begun; a larger
    /// value has a segment to itself. Also bounds what opening after a crash copies. Default:
    /// 32 MiB: a copy takes a tenth of a second, a first value needs little more than 100 MiB of
    /// disk, and a terabyte is thirty-two thousand files.
    pub segment_bytes: u64,
    /// The same for the pointer log. Default: 8 MiB.
    pub pointer_segment_bytes: u64,
    /// Bytes of disk set aside while the store is open and has values, for what must be possible on
    /// a full device: opening after a crash, which copies what is not known durable, and deletions.
    /// While they are not all there, the store takes deletions alone. They are given back on close,
    /// but for 256 KiB and the length of the root, which is added to them, too, unless this is 0.
    /// Default: 82 MiB, two segments of each log and what is gathered; with smaller segments less
    /// will do. While a value or a commit longer than a segment is not sealed, its length is set
    /// aside as well.
    pub reserve_bytes: u64,
    /// Bytes of values gathered before they are written together. Default: 1 MiB, past which
    /// writes gain nothing. A quarter of it bounds the values that are copied into the buffer;
    /// larger ones are written straight through.
    pub append_buffer_bytes: usize,
    /// Sealed segments held open for reading at once. Default: 256, a quarter of the usual limit
    /// of a process. Besides these, about ten files are open.
    pub open_files_max: usize,
    /// What reads check unless told otherwise. Default: [`Verify::Checksum`].
    pub verify: Verify,
    /// Who carries out what is due. Default: [`Maintenance::Thread`].
    pub maintenance: Maintenance,
}

impl Options {
    /// The most that `value_bytes_max` may be: 1 GiB.
    pub const VALUE_BYTES_LIMIT: u64 = 1 << 30;
    /// The most that `commit_bytes_max` may be: 256 MiB.
    pub const COMMIT_BYTES_LIMIT: u64 = 256 << 20;
    /// The least and the most that `segment_bytes` and `pointer_segment_bytes` may be.
    pub const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=2 << 30;
    /// The least and the most that `append_buffer_bytes` may be.
    pub const APPEND_BUFFER_BYTES: std::ops::RangeInclusive<usize> = 1 << 10..=64 << 20;

    /// Refuses what is out of bounds.
    pub(crate) fn check(&self) -> Result<()> {
        let bound = |what, range: std::ops::RangeInclusive<u64>, found| {
            let max = if found < *range.start() { *range.start() } else { *range.end() };
            if range.contains(&found) { Ok(()) } else { Err(Error::Limit { what, max, found }) }
        };
        let buffer = Self::APPEND_BUFFER_BYTES;
        let buffer = *buffer.start() as u64..=*buffer.end() as u64;
        bound("value_bytes_max", 1..=Self::VALUE_BYTES_LIMIT, self.value_bytes_max)?;
        bound("commit_bytes_max", 1..=Self::COMMIT_BYTES_LIMIT, self.commit_bytes_max)?;
        bound("segment_bytes", Self::SEGMENT_BYTES, self.segment_bytes)?;
        bound("pointer_segment_bytes", Self::SEGMENT_BYTES, self.pointer_segment_bytes)?;
        bound("reserve_bytes", 0..=1 << 40, self.reserve_bytes)?;
        bound("open_files_max", 1..=1 << 20, self.open_files_max as u64)?;
        bound("append_buffer_bytes", buffer, self.append_buffer_bytes as u64)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            value_bytes_max: 256 << 20,
            commit_bytes_max: 16 << 20,
            segment_bytes: 32 << 20,
            pointer_segment_bytes: 8 << 20,
            reserve_bytes: 2 * (32 << 20) + 2 * (8 << 20) + (2 << 20),
            append_buffer_bytes: 1 << 20,
            open_files_max: 256,
            verify: Verify::Checksum,
            maintenance: Maintenance::Thread,
        }
    }
}
