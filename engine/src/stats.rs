//! What a store tells about itself: figures now, what recovery did, what a check found.

use std::fmt;
use std::sync::Arc;

/// Figures of a store at one instant. Counters begin at zero at each open.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// The store's identity, as a UUID without hyphens.
    pub store_id: String,
    /// The number of the opener that last wrote something: this one's, once it has. Each has a higher one; numbers may
    /// be left out, for instance those of opens that failed.
    pub epoch: u32,
    /// The I/O engine in use.
    pub io_engine: &'static str,
    /// Bytes of sealed files that are mapped: address space, not memory.
    pub mapped_bytes: u64,
    /// Of these, bytes of files that the store has let go of, kept by values that were handed out.
    pub pinned_bytes: u64,
    /// The last commit's number; 0 before the first.
    pub last_commit: u64,
    /// Pointers that stand: exact while all are in memory, else about as many.
    pub pointer_count: u64,
    /// Copies of values held: a value that was written twice counts twice.
    pub value_count: u64,
    /// Why no more writes are taken, if so.
    pub poisoned: Option<String>,
    /// The blob log.
    pub blob_log: LogStats,
    /// The pointer log.
    pub pointer_log: LogStats,
    /// The root log.
    pub root_log: LogStats,
    /// The digest index.
    pub index: TreeStats,
    /// The pointer table.
    pub names: TreeStats,
    /// What memory is used for.
    pub memory: MemoryStats,
    /// What was done since the store was opened.
    pub since_open: Counters,
    /// What opening had to do.
    pub recovery: Recovery,
}

/// Figures of one log.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LogStats {
    /// Segments in all.
    pub segment_count: u64,
    /// Of them, sealed.
    pub sealed_count: u64,
    /// Bytes of frames, headers and footers, those of full segments that wait to be sealed
    /// included; without space reserved ahead.
    pub bytes: u64,
    /// Bytes appended but not known durable. Of the pointer log and the root log 0, since each
    /// frame is synced before anyone sees it, unless a sync failed.
    pub unsynced_bytes: u64,
}

/// Figures of a tree of sorted tables. What was done is counted from the store's opening on.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TreeStats {
    /// Memtables: the one that takes what comes, and those that wait to be written.
    pub memtable_count: u64,
    /// Entries in them.
    pub memtable_entry_count: u64,
    /// The levels, from 0 down to the last that holds anything.
    pub levels: Vec<LevelStats>,
    /// Bytes that compactions have to read until the tree is at rest, about.
    pub debt_bytes: u64,
    /// Why the first of the tables that compaction could not read cannot be. It goes around them; a compaction of all
    /// reads them again first, and an open knows nothing of it.
    pub damage: Option<String>,
    /// Memtables written as tables.
    pub flush_count: u64,
    /// Bytes of these.
    pub flushed_bytes: u64,
    /// Compactions begun.
    pub rewrite_count: u64,
    /// Of these, those that rewrote tables where they are, for what goes then: deletions that hide nothing any
    /// more, and versions that nobody sees.
    pub thinning_count: u64,
    /// Compactions that only moved tables.
    pub move_count: u64,
    /// Bytes written to tables for each byte flushed; none before the first.
    pub write_amplification: Option<f64>,
    /// Look-ups for what a table does not have that its filter spared, from 0 to 1; none before the
    /// first.
    pub filter_hit_rate: Option<f64>,
}

/// Figures of one level of a tree.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LevelStats {
    /// Its number.
    pub level: u8,
    /// Tables.
    pub table_count: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Entries in them.
    pub entry_count: u64,
    /// How due it is to be compacted: from 1 it is.
    pub score: f64,
    /// Bytes that compactions into it have read.
    pub read_bytes: u64,
    /// Bytes that compactions into it have written.
    pub written_bytes: u64,
    /// Bytes written into it for each byte flushed, flushes counted in level 0: those of all levels
    /// together are [`TreeStats::write_amplification`].
    pub write_amplification: Option<f64>,
    /// Look-ups that came to its tables, as they stand.
    pub asked_count: u64,
    /// Of these, spared by a filter.
    pub filtered_count: u64,
    /// Of these, that found an entry.
    pub found_count: u64,
    /// Pages or blocks that look-ups and scans read from the device.
    pub device_read_count: u64,
}

/// What the store uses memory for, in bytes; values handed out are not counted.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryStats {
    /// What [`crate::Options::memory_bytes`] says.
    pub limit_bytes: u64,
    /// The digest index' memtables.
    pub index_memtable_bytes: u64,
    /// Copies of values that are known to be damaged: one for each 4 KiB of the limit, at most.
    pub bad_copies_bytes: u64,
    /// The pointer table's memtables.
    pub names_memtable_bytes: u64,
    /// Directories and filters of tables.
    pub directory_bytes: u64,
    /// Pages and blocks of tables.
    pub cache_bytes: u64,
    /// Pages and blocks asked for.
    pub cache_asked_count: u64,
    /// Of these, read from the device.
    pub cache_missed_count: u64,
    /// Those that were not read from the device, from 0 to 1; none before the first.
    pub cache_hit_rate: Option<f64>,
    /// Directories of segments' digest lists.
    pub list_bytes: u64,
    /// What sealing will write of the segments that are not sealed, and where the pointer log's carry what.
    pub sealer_bytes: u64,
    /// Frames of values that are not written yet, or may be carried by the next commit (256 KiB at most), and
    /// the memory of one that was.
    pub append_buffer_bytes: u64,
    /// What flushing and compaction have read and not yet written.
    pub compaction_bytes: u64,
    /// The root: the list of segments and tables, about.
    pub root_bytes: u64,
    /// Directories of tables that were damaged, and made again.
    pub directories_rebuilt_count: u64,
    /// Filters of tables that were damaged, and are done without.
    pub filters_ignored_count: u64,
    /// Look-ups that did without a filter because there was no memory for it: more of
    /// [`crate::Options::memory_bytes`] would spare them reads.
    pub filters_left_out_count: u64,
}

/// What was done since the store was opened.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counters {
    /// Values put.
    pub put_count: u64,
    /// Of them, already known.
    pub put_known_count: u64,
    /// Bytes of values put, known ones included.
    pub put_bytes: u64,
    /// Values asked for.
    pub get_count: u64,
    /// Of them, absent.
    pub get_absent_count: u64,
    /// Bytes of values handed out.
    pub get_bytes: u64,
    /// Commits acknowledged.
    pub commit_count: u64,
    /// Commits refused for a precondition.
    pub commit_refused_count: u64,
    /// Groups of commits made durable together.
    pub commit_group_count: u64,
    /// Bytes written to the blob log.
    pub written_bytes: u64,
    /// Segments sealed.
    pub sealed_count: u64,
}

/// What opening had to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Recovery {
    /// The store was created by this open.
    pub created: bool,
    /// The last writer had closed it: there was nothing to mend.
    pub clean: bool,
    /// Frames read back from unsealed segments.
    pub frames_replayed: u64,
    /// Values found in them.
    pub values_replayed: u64,
    /// Commits found in the pointer log.
    pub commits_replayed: u64,
    /// Bytes cut from torn tails.
    pub bytes_cut: u64,
    /// Bytes of unsealed segments copied into new files.
    pub bytes_copied: u64,
    /// Unsealed segments of the blob log whose files lacked, or had otherwise, some of what the pointer log
    /// carries of them: it was taken from there. After a loss of power that is usual.
    pub segments_laid: u64,
    /// Files that a crash had left behind, removed.
    pub files_removed: u64,
}

/// How a check is carried out.
#[derive(Clone, Default)]
pub struct CheckOptions {
    /// Read every value and hash it again. Without it, files' headers, footers and lists, and the
    /// frames of unsealed segments are checked, and that every pointer's value is known.
    pub read_data: bool,
    /// Told now and then how far the check is: bytes read, bytes to read in all.
    pub progress: Option<Arc<dyn Fn(u64, u64) + Send + Sync>>,
}

impl fmt::Debug for CheckOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckOptions").field("read_data", &self.read_data).finish_non_exhaustive()
    }
}

/// What a check looked at, and what it found wrong.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CheckReport {
    /// What is wrong; empty for a sound store. Of more than 10,000 findings the last says how many more there are.
    pub findings: Vec<Finding>,
    /// Files read.
    pub file_count: u64,
    /// Values whose records were read and hashed, or whose entries were checked.
    pub value_count: u64,
    /// Pointers whose values were looked up.
    pub pointer_count: u64,
    /// Bytes read.
    pub bytes_read: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Finding {
    /// The file, or the pointer as `@NAME`.
    pub file: String,
    /// Where in the file, if the finding has a place.
    #[cfg_attr(feature = "serde", serde(rename = "offset"))]
    pub offset_bytes: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset_bytes {
            Some(at) => write!(f, "{} at offset {at}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}
