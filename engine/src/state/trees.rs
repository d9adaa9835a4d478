//! What the tables of both trees share, and the work on them that is under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinstone_compaction::levels::LEVELS_MAX;
use pinstone_compaction::lingering::Lingering;
use pinstone_compaction::merge::Sieve;
use pinstone_compaction::plan::{Damaged, Shape};
use pinstone_compaction::run::{Index, Names, Rewrite, RunOptions, RunWriter, Tree};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableError, TableId};
use pinstone_disk::env::{AtomicU64, Mutex, Ordering};
use pinstone_disk::{DiskError, Epoch, FileName, Ordinal, TableKind};

use crate::error::Error;
use crate::options::{MERGE_BYTES, Options};
use crate::state::digest_index::Memtable;
use crate::state::pointers::NameMemtable;
use crate::state::root::{Flushed, RootState};

/// The tables of an open store.
#[derive(Debug)]
pub(crate) struct Trees {
    pub(crate) tables: Arc<Tables>,
    epoch: Epoch,
    filter_levels: u8,
    shapes: [Shape; TableKind::ALL.len()],
    next: [Arc<AtomicU64>; TableKind::ALL.len()],
    /// Held during each step of the work.
    pub(crate) work: Mutex<Work>,
    /// Bytes that compaction has read, about, as far as it is under way.
    pub(crate) compacted_bytes: AtomicU64,
    /// Bytes of memory that the work under way takes.
    pub(crate) work_bytes: AtomicU64,
    /// Entries that each writer is to rewrite beside what it does, as long as the work is behind.
    pub(crate) pressure: AtomicU64,
}

/// Work under way, and what is known of work that was done.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) index: TreeWork<Index, Memtable>,
    pub(crate) names: TreeWork<Names, NameMemtable>,
    /// Tables that are stale, whose files may still be there after a crash.
    pub(crate) lingering: Lingering,
    /// Segments that have left the root, and could not be removed.
    pub(crate) retired: Vec<FileName>,
    /// Entries that flushes and rewritings have gone through, and that were moved.
    pub(crate) entry_count: u64,
    /// Why a tree's work waits, told once nothing else is due.
    pub(crate) failure: Option<Error>,
}

/// Work on one tree.
#[derive(Debug)]
pub(crate) struct TreeWork<T: Tree, M> {
    pub(crate) flush: Option<Flush<T, M>>,
    pub(crate) rewrite: Option<Rewrite<T>>,
    /// It failed since the work was last begun: it waits until it is begun again.
    pub(crate) has_failed: bool,
    /// The tables that compaction could not read, and goes around.
    pub(crate) damage: Damage,
    pub(crate) figures: TreeFigures,
}

/// Tables of a tree that cannot be read, and why.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage {
    tables: BTreeMap<TableId, TableError>,
    /// These could not be read once since the last rewriting that could be carried out: they are tried again.
    suspect: Damaged,
}

impl Damage {
    /// This table could not be read. If that is so twice, and nothing could be rewritten meanwhile, it is damaged.
    pub(crate) fn note(&mut self, id: TableId, error: &TableError) {
        if !self.suspect.insert(id) {
            self.tables.insert(id, error.clone());
        }
    }

    /// All that was read could be.
    pub(crate) fn note_read(&mut self) {
        self.suspect.clear();
    }

    /// Those of which it is known.
    pub(crate) fn tables(&self) -> Damaged {
        self.tables.keys().copied().collect()
    }

    /// What was told of the first of them.
    pub(crate) fn first(&self) -> Option<&TableError> {
        self.tables.values().next()
    }

    /// This one can be read, or is not there any more.
    pub(crate) fn forget(&mut self, id: TableId) {
        self.tables.remove(&id);
    }
}

impl<T: Tree, M> Default for TreeWork<T, M> {
    fn default() -> Self {
        Self {
            flush: None,
            rewrite: None,
            has_failed: false,
            damage: Damage::default(),
            figures: TreeFigures::default(),
        }
    }
}

/// What work on a tree has read and written since the store was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct TreeFigures {
    pub(crate) flush_count: u64,
    pub(crate) flushed_bytes: u64,
    pub(crate) rewrite_count: u64,
    pub(crate) thinning_count: u64,
    pub(crate) move_count: u64,
    /// By the level that it went to.
    pub(crate) read_bytes: [u64; LEVELS_MAX as usize],
    pub(crate) written_bytes: [u64; LEVELS_MAX as usize],
}

/// Entries of which some are to be written.
pub(crate) type Entries<T> = Box<dyn Sieve<<T as Tree>::Entry, TableError> + Send>;

/// A memtable being written as a table.
pub(crate) struct Flush<T: Tree, M> {
    pub(crate) memtable: Arc<M>,
    /// All of it is written, and it takes nothing any more.
    pub(crate) is_whole: bool,
    /// What stands in tables once this does.
    pub(crate) flushed: Flushed,
    pub(crate) entries: Entries<T>,
    pub(crate) writer: RunWriter<T>,
}

impl<T: Tree, M> std::fmt::Debug for Flush<T, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flush").field("flushed", &self.flushed).finish_non_exhaustive()
    }
}

impl Work {
    /// Bytes of memory that it takes, about.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.index.memory_bytes() + self.names.memory_bytes()
    }
}

impl<T: Tree, M> TreeWork<T, M> {
    fn memory_bytes(&self) -> u64 {
        let flush = self.flush.as_ref().map_or(0, |flush| flush.writer.memory_bytes());
        flush + self.rewrite.as_ref().map_or(0, Rewrite::memory_bytes)
    }
}

impl Trees {
    /// The trees of a root, of which nothing is under way. Of tables `lingering` nobody knows whether
    /// they are gone.
    pub(crate) fn new(
        tables: Arc<Tables>,
        options: &Options,
        epoch: Epoch,
        root: &RootState,
        lingering: Lingering,
    ) -> Self {
        let next = TableKind::ALL
            .map(|tree| Arc::new(AtomicU64::new(u64::from(root.tree(tree).next_ordinal.0))));
        let work = Mutex::new(Work { lingering, ..Work::default() });
        let tables_bytes = options.budget().tables_bytes;
        // What look-ups read is worth more than the last filters.
        tables.set_merge_bytes(MERGE_BYTES);
        tables.set_resident_bytes_max(tables_bytes - tables_bytes / 8);
        let (filter_levels, shapes) =
            (options.filter_levels, [options.index_shape(), options.names_shape()]);
        Self {
            tables,
            epoch,
            filter_levels,
            shapes,
            next,
            work,
            work_bytes: AtomicU64::new(0),
            pressure: AtomicU64::new(0),
            compacted_bytes: AtomicU64::new(0),
        }
    }

    /// How large the levels and tables of a tree should be.
    pub(crate) fn shape(&self, tree: TableKind) -> &Shape {
        &self.shapes[number(tree)]
    }

    /// How a run of `tree` is to be written for `level`, in tables of about `table_bytes`.
    ///
    /// # Errors
    /// Whatever the machine says when it is asked for a seed.
    pub(crate) fn run_options(
        &self,
        tree: TableKind,
        level: u8,
        table_bytes: u64,
    ) -> Result<RunOptions, DiskError> {
        let (next, epoch) = (Arc::clone(&self.next[number(tree)]), self.epoch);
        let next_id = move || {
            let number = u32::try_from(next.fetch_add(1, Ordering::Relaxed)).ok()?;
            let ordinal = Ordinal(number);
            ordinal.next().map(|_| TableId { table: tree, ordinal, epoch })
        };
        let random = self.tables.disk().random()?;
        let low = *random.first_chunk().expect("eight of 16 bytes");
        let filter_seed = (level < self.filter_levels).then(|| u64::from_le_bytes(low));
        Ok(RunOptions { table_bytes, filter_seed, next_id: Box::new(next_id) })
    }
}

/// A tree's place among both.
fn number(tree: TableKind) -> usize {
    match tree {
        TableKind::Index => 0,
        TableKind::Names => 1,
    }
}
