//! Every limit of a store: its unit, its default, and why.

pub use pinstone_disk::{IoEngine, NAME_BYTES_MAX};

use std::ops::RangeInclusive;

use pinstone_compaction::levels::LEVELS_MAX;
use pinstone_compaction::plan::{INPUT_TABLES_MAX, Shape};
use pinstone_disk::IoOptions;

use crate::error::{Error, Result};

/// How much a read checks before it hands out a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// The record's CRC-32C: finds accidental damage, up to a collision in 2^32.
    Checksum,
    /// The checksum, and the whole value hashed again: finds any damage.
    Digest,
}

/// Who does what need not be done at once: sealing full segments, reserving space ahead, writing
/// memtables as tables, and rewriting tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Two threads of the store's own: `pinstone-maintain` for segments and the reserve,
    /// `pinstone-compact` for tables.
    Thread,
    /// The caller whose operation made it due, before that operation returns. Deterministic on the
    /// simulated disk; on a real directory the thread `pinstone-io` may still carry out one of two
    /// files' writes and syncs beside the caller.
    Inline,
}

/// What a store is opened with. [`crate::StoreBuilder`] sets one after the other, or all:
///
/// ```
/// # fn main() -> pinstone::Result<()> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// let mut options = pinstone::Options::default();
/// options.memory_bytes = 64 << 20;
/// let store = pinstone::Store::builder().options(options).open(dir.path())?;
/// # store.close()
/// # }
/// ```
///
/// Opening refuses an option over its most with [`Error::Limit`], one under its least with
/// [`Error::UnderLimit`]. More options may come, so one begins with the defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Create the store where the directory is absent or empty. Default: yes.
    pub create: bool,
    /// Longest value, in bytes. Default: 256 MiB; 1 to [`Options::VALUE_BYTES_LIMIT`], 1 GiB. A put
    /// and a get hold the whole value in memory.
    pub value_bytes_max: u64,
    /// Longest commit, as encoded, in bytes: names, 34 bytes a change, a few more. Default:
    /// 16 MiB; 1 to [`Options::COMMIT_BYTES_LIMIT`], 256 MiB. A commit of about 60 changes and 1 MiB
    /// is portable to the stores that may come later; larger ones are local.
    pub commit_bytes_max: u64,
    /// Bytes after which a segment of the blob log is sealed and the next one begun; a larger
    /// value has a segment to itself. Closing seals one that has an eighth of them. Also bounds what opening after a crash copies. Default:
    /// 32 MiB: a copy takes a tenth of a second, a first value needs little more than 100 MiB of
    /// disk, and a terabyte is thirty-two thousand files. 4 KiB to 2 GiB
    /// ([`Options::SEGMENT_BYTES`]).
    pub segment_bytes: u64,
    /// The same for the pointer log. Default: 8 MiB; 4 KiB to 2 GiB ([`Options::SEGMENT_BYTES`]).
    pub pointer_segment_bytes: u64,
    /// Bytes of disk set aside while the store is open and has values, for what must be possible on
    /// a full device: opening after a crash, which copies what is not known durable, and deletions.
    /// While they are not all there, the store takes deletions alone. They are given back on close,
    /// but for some 300 KiB and the length of the root; these are added to them, too, unless this is 0.
    /// So stays the length of the pointer log's last segment, if that is longer than 32 KiB.
    /// Default: 82 MiB, two segments of each log and what is gathered; with smaller segments less
    /// will do. While a value or a commit longer than a segment is not sealed, its length is set
    /// aside as well. 0 to 1 TiB ([`Options::RESERVE_BYTES_LIMIT`]).
    pub reserve_bytes: u64,
    /// Bytes of the pointer log, about, after which the root testifies to them: from then on damage to them is told
    /// from the torn tail of a crash. Before, damage to the log's end may pass for one where power was lost, too, and
    /// take these commits without an error; a crash alone takes none. Each time costs a sync of the root by the
    /// maintenance thread. Default: 256 KiB; 4 KiB to 2 GiB ([`Options::SEGMENT_BYTES`]).
    pub testify_bytes: u64,
    /// Bytes of values gathered before they are written together. Default: 1 MiB, past which
    /// writes gain nothing. A quarter of it bounds the values that are copied into the buffer;
    /// larger ones are written straight through, and a commit of one syncs both logs (decision 0015). 1 KiB to 64 MiB ([`Options::APPEND_BUFFER_BYTES`]).
    pub append_buffer_bytes: usize,
    /// Sealed segments held open for reading at once, and as many tables; what is mapped (see `mmap`) takes
    /// no descriptor and does not count. Default: 256, a quarter of the usual limit of a process; 1 to
    /// 1,048,576 ([`Options::OPEN_FILES`]). Batches of reads open as many again, all
    /// threads' together, and one a thread at least. Besides these, about ten files are open, and up to 16 rings.
    pub open_files_max: usize,
    /// Bytes of anonymous memory that the store takes, about: what is gathered to be written, what
    /// sealing will write, memtables, what compaction reads and writes, tables' directories and filters, and the
    /// cache of their pages and blocks, which takes what is left. Values handed out are their holders'. Default: 256 MiB,
    /// enough for the filters of 80 million values; filters beyond are done without, which costs reads.
    /// 16 MiB to 1 TiB ([`Options::MEMORY_BYTES_MIN`], [`Options::MEMORY_BYTES_LIMIT`]).
    pub memory_bytes: u64,
    /// Entries of one memtable of the digest index, or of the names, about: it is written as a table then, once
    /// its segments are full. Default:
    /// as many as `memory_bytes` allows. Fewer make more and smaller tables, and less to read at
    /// open: what no table has yet is read there, up to four memtables of each tree. At least 1.
    pub memtable_entries_max: u64,
    /// Tables in level 0 of a tree that make it due to be rewritten into the next level. Default:
    /// 6, 1 to 64 ([`Options::LEVEL0_TABLES`]); a look-up may ask each of them. Fewer do while all that is below has no
    /// more than twice their bytes.
    pub level0_tables: u32,
    /// How many times as large as the level above it a level is, at most. Default: 4, 2 to 64
    /// ([`Options::LEVEL_RATIO`]); less costs look-ups, more costs rewriting.
    pub level_ratio: u32,
    /// Bytes after which rewriting begins another table; more, if else the first level below level 0 would
    /// have more than 4,000 tables. Default: 16 MiB; 4 KiB to 1 GiB ([`Options::TABLE_BYTES`]).
    pub table_bytes: u64,
    /// Levels whose tables have filters, counted from level 0 on; 0 to 7
    /// ([`Options::FILTER_LEVELS_LIMIT`]). Default: all, at about nine bits of
    /// memory an entry once they are used. Without filters on the last level that is a quarter of
    /// it or less, and an absent value or name costs a read; 0 is for stores that are hardly asked
    /// for what they do not hold.
    pub filter_levels: u8,
    /// Bytes of tables that compaction reads a second, at most, as long as it is not behind: once level 0 of a tree has
    /// twice the tables that make it due, or memtables wait, it goes as fast as it can, and writers help.
    /// Default: no bound; at least 1.
    pub compaction_bytes_per_second: u64,
    /// Bits of the digest that the index' tables know. For tests alone, which force collisions by
    /// fewer than 56: a store must always be opened with the same.
    #[doc(hidden)]
    pub index_key_bits: u32,
    /// What reads check unless told otherwise. Default: [`Verify::Checksum`].
    pub verify: Verify,
    /// Who carries out what is due. Default: [`Maintenance::Thread`].
    pub maintenance: Maintenance,
    /// How reads, writes and syncs that can go at once are carried out. Default: [`IoEngine::Auto`], by
    /// which the environment variable `PINSTONE_IO` (`auto`, `uring`, `positioned`) decides, or the kernel.
    pub io: IoEngine,
    /// Whether sealed segments and tables of the index are mapped into memory, so that [`crate::Store::get`]
    /// hands out values without copying them. A device that fails when a page of a map has to be fetched again
    /// kills the process, and so does another program that cuts a mapped file;
    /// and what changes on it after a value was checked is seen by whoever holds the value: on a network file
    /// system, or where that cannot be borne, turn it off. Default: none, by which the environment variable
    /// `PINSTONE_MMAP` (`0`, `1`) decides, or else it is on.
    pub mmap: Option<bool>,
}

/// Bytes of memory that an entry of the index' memtable takes, about: a digest and a place in a map
/// that is two thirds full.
const MEMTABLE_ENTRY_BYTES: u64 = 70;

/// Bytes of memory that may be used for each copy known to be bad that is kept; one takes some 60 to 110.
const BYTES_A_BAD_COPY: u64 = 4 << 10;

/// Tables of the level that level 0 goes to, about, at most: one plan may have to take them all.
const BASE_TABLES_MAX: u64 = 4_000;
const _: () = assert!(BASE_TABLES_MAX < INPUT_TABLES_MAX as u64 / 3);

/// Bytes of a table of the index for a row, about.
const INDEX_ROW_BYTES: u64 = 18;

/// Bytes that a tree's compaction reads of its sources at once.
pub(crate) const MERGE_BYTES: u64 = 1 << 20;

/// Bytes that a table takes while it is written, about: its filters, the keys of one of them, what is gathered.
const BUILDER_BYTES: u64 = 2 << 20;

/// How a store's memory is shared out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Entries of a memtable of the index after which the next one begins.
    pub(crate) memtable_entries: u64,
    /// Bytes of a memtable of names after which the next one begins.
    pub(crate) names_memtable_bytes: u64,
    /// Values of a segment: a memtable ends where one does.
    pub(crate) segment_values_max: u64,
    /// Bytes of tables' directories, filters and cached pages.
    pub(crate) tables_bytes: u64,
    /// Bytes of the directories of segments' lists.
    pub(crate) lists_bytes: u64,
    /// Copies known to be bad that are kept.
    pub(crate) bad_copies_max: u64,
}

impl Options {
    /// The most that `value_bytes_max` may be: 1 GiB.
    pub const VALUE_BYTES_LIMIT: u64 = 1 << 30;
    /// The most that `commit_bytes_max` may be: 256 MiB.
    pub const COMMIT_BYTES_LIMIT: u64 = 256 << 20;
    /// The least and the most that `segment_bytes` and `pointer_segment_bytes` may be.
    pub const SEGMENT_BYTES: RangeInclusive<u64> = 4 << 10..=2 << 30;
    /// The least and the most that `append_buffer_bytes` may be.
    pub const APPEND_BUFFER_BYTES: RangeInclusive<usize> = 1 << 10..=64 << 20;

    /// The most that `reserve_bytes` may be: 1 TiB.
    pub const RESERVE_BYTES_LIMIT: u64 = 1 << 40;
    /// The least and the most that `open_files_max` may be.
    pub const OPEN_FILES: RangeInclusive<usize> = 1..=1 << 20;
    /// The least that `memory_bytes` may be: 16 MiB.
    pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
    /// The most that `memory_bytes` may be: 1 TiB.
    pub const MEMORY_BYTES_LIMIT: u64 = 1 << 40;
    /// The least and the most that `level0_tables` may be.
    pub const LEVEL0_TABLES: RangeInclusive<u32> = 1..=64;
    /// The least and the most that `level_ratio` may be.
    pub const LEVEL_RATIO: RangeInclusive<u32> = 2..=64;
    /// The most that `filter_levels` may be: all levels.
    pub const FILTER_LEVELS_LIMIT: u8 = LEVELS_MAX;
    /// The least and the most that `table_bytes` may be.
    pub const TABLE_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 30;

    /// How `memory_bytes` is shared out.
    pub(crate) fn budget(&self) -> Budget {
        // Gathered frames, one of them on its way; tables on their way; and of the rest a quarter for each
        // tree's memtables.
        let buffers_bytes = 3 * self.append_buffer_bytes as u64;
        let besides_bytes = buffers_bytes + 2 * (BUILDER_BYTES + MERGE_BYTES);
        let rest_bytes = self.memory_bytes.saturating_sub(besides_bytes).max(self.memory_bytes / 4);
        let share_bytes = rest_bytes / 4;
        // One memtable that takes what comes, one and a half times as long as it should be since it
        // ends with a segment, and one that is being written.
        let by_memory = share_bytes / (MEMTABLE_ENTRY_BYTES * 4);
        let memtable_entries = by_memory.min(self.memtable_entries_max).max(1);
        let lists_bytes = rest_bytes / 32;
        Budget {
            memtable_entries,
            // One that takes what comes, two that wait, one of them being written.
            names_memtable_bytes: share_bytes / 4,
            segment_values_max: (memtable_entries / 2).max(64),
            tables_bytes: rest_bytes - 2 * share_bytes - lists_bytes,
            lists_bytes,
            bad_copies_max: self.memory_bytes / BYTES_A_BAD_COPY,
        }
    }

    /// How large the levels of the digest index are.
    pub(crate) fn index_shape(&self) -> Shape {
        let flush_bytes = self.budget().memtable_entries * INDEX_ROW_BYTES;
        self.shape(flush_bytes)
    }

    /// How large the levels of the pointer table are.
    pub(crate) fn names_shape(&self) -> Shape {
        self.shape(self.pointer_segment_bytes)
    }

    fn shape(&self, flush_bytes: u64) -> Shape {
        let l0_bytes = flush_bytes * u64::from(self.level0_tables);
        let base_bytes = l0_bytes.saturating_mul(self.level_ratio.into());
        Shape {
            l0_tables: self.level0_tables,
            l0_bytes,
            size_ratio_max: self.level_ratio,
            table_bytes: self.table_bytes.max(base_bytes / BASE_TABLES_MAX),
            ..Shape::default()
        }
    }

    /// How the store's directory is read and written.
    pub(crate) fn io_options(&self) -> IoOptions {
        IoOptions { engine: self.io, mmap: self.mmap }
    }

    /// Refuses what is out of bounds.
    pub(crate) fn check(&self) -> Result<()> {
        let bound = |what, range: RangeInclusive<u64>, found| {
            let (min, max) = range.into_inner();
            match found {
                _ if found < min => Err(Error::UnderLimit { what, min, found }),
                _ if found > max => Err(Error::Limit { what, max, found }),
                _ => Ok(()),
            }
        };
        let counts = |range: RangeInclusive<u32>| (*range.start()).into()..=(*range.end()).into();
        let sizes = |range: RangeInclusive<usize>| *range.start() as u64..=*range.end() as u64;
        bound("value_bytes_max", 1..=Self::VALUE_BYTES_LIMIT, self.value_bytes_max)?;
        bound("commit_bytes_max", 1..=Self::COMMIT_BYTES_LIMIT, self.commit_bytes_max)?;
        bound("segment_bytes", Self::SEGMENT_BYTES, self.segment_bytes)?;
        bound("pointer_segment_bytes", Self::SEGMENT_BYTES, self.pointer_segment_bytes)?;
        bound("reserve_bytes", 0..=Self::RESERVE_BYTES_LIMIT, self.reserve_bytes)?;
        bound("testify_bytes", Self::SEGMENT_BYTES, self.testify_bytes)?;
        let memory = Self::MEMORY_BYTES_MIN..=Self::MEMORY_BYTES_LIMIT;
        bound("memory_bytes", memory, self.memory_bytes)?;
        bound("memtable_entries_max", 1..=u64::MAX, self.memtable_entries_max)?;
        bound("level0_tables", counts(Self::LEVEL0_TABLES), self.level0_tables.into())?;
        bound("level_ratio", counts(Self::LEVEL_RATIO), self.level_ratio.into())?;
        bound("table_bytes", Self::TABLE_BYTES, self.table_bytes)?;
        let filters = 0..=Self::FILTER_LEVELS_LIMIT.into();
        bound("filter_levels", filters, self.filter_levels.into())?;
        bound("compaction_bytes_per_second", 1..=u64::MAX, self.compaction_bytes_per_second)?;
        bound("index_key_bits", 1..=56, self.index_key_bits.into())?;
        bound("open_files_max", sizes(Self::OPEN_FILES), self.open_files_max as u64)?;
        let buffer = sizes(Self::APPEND_BUFFER_BYTES);
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
            testify_bytes: 256 << 10,
            append_buffer_bytes: 1 << 20,
            open_files_max: 256,
            memory_bytes: 256 << 20,
            memtable_entries_max: u64::MAX,
            level0_tables: 6,
            level_ratio: 4,
            table_bytes: 16 << 20,
            filter_levels: LEVELS_MAX,
            compaction_bytes_per_second: u64::MAX,
            index_key_bits: 56,
            verify: Verify::Checksum,
            maintenance: Maintenance::Thread,
            io: IoEngine::Auto,
            mmap: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Level 0 goes there whole, in one plan.
    #[test]
    fn the_first_level_below_level_0_has_no_more_tables_than_a_plan_takes() {
        let ratios = [*Options::LEVEL_RATIO.start(), 4, *Options::LEVEL_RATIO.end()];
        for (level_ratio, memory_bytes) in ratios.into_iter().zip([16 << 20, 256 << 20, 8 << 30]) {
            let table_bytes = *Options::TABLE_BYTES.start();
            let options = Options { level_ratio, memory_bytes, table_bytes, ..Options::default() };
            for shape in [options.index_shape(), options.names_shape()] {
                let base_bytes = shape.l0_bytes * u64::from(shape.size_ratio_max);
                let table_count = base_bytes / shape.table_bytes;
                assert!(2 * table_count < INPUT_TABLES_MAX as u64, "{shape:?}");
            }
        }
    }
}
