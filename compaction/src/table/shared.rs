//! What the tables of a store share: the disk, the open files, the cache of units, the counts, and
//! how much memory directories and filters may take.
//!
//! - C1: no more files are kept open than was said at first.
//! - C2: what open tables hold is counted, and never let go: directories and filters. Who is about to
//!   read a filter asks first whether there is room. Of the memory that is for all, the cache has what these
//!   leave, about, at every moment.
//! - C3: a file that could not be removed is tried again, and counts as there until it is gone.

use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::env::{AtomicU64, FixedSeed, Mutex, Ordering, Striped};
use pinstone_disk::{Disk, FewFiles, File, OpenMode, StoreId, TableKind};

use crate::error::TableError;
use crate::table::TableId;
use crate::table::container::UNITS_START;
use crate::table::name_block::Block;
use crate::table::probes::{count, sum};

/// What the tables of a store share: the disk, the open files, the cache, the counts.
#[derive(Debug)]
pub struct Tables {
    disk: Arc<dyn Disk>,
    store_id: StoreId,
    files: Cache<TableId, Arc<dyn File>, quick_cache::UnitWeighter>,
    few_files: FewFiles,
    units: Cache<UnitKey, Unit, ByUnitBytes>,
    /// Bytes that directories, filters and cached units may take; of these, what cached units may now; and
    /// by how many bytes at least that changes.
    memory_bytes: u64,
    cache_bytes: Mutex<u64>,
    cache_step_bytes: u64,
    /// Bytes of directories and filters in memory.
    resident_bytes: AtomicU64,
    units_counted: Striped<UnitCounts>,
    directories_rebuilt: AtomicU64,
    filters_ignored: AtomicU64,
    /// Of these, as many as there may be before no more filters are read.
    resident_bytes_max: AtomicU64,
    /// Bytes that a merge has of its sources at once.
    merge_bytes: AtomicU64,
    filters_left_out: AtomicU64,
    removals: Mutex<Removals>,
}

type Cache<K, V, W> = quick_cache::sync::Cache<K, V, W, FixedSeed>;

/// A unit as it is kept in memory, checked.
#[derive(Clone, Debug)]
pub enum Unit {
    /// A page of rows.
    Page(Bytes),
    /// A block of names.
    Block(Arc<Block>),
}

/// A unit of a table, by where it begins.
pub(crate) type UnitKey = (TableId, u64);

/// What a cached unit takes beside its bytes, about: key, handle, the cache's own.
const CACHED_BESIDES_BYTES: u64 = 128;

/// Steps from nothing to all that the cache may take.
const CACHE_STEPS: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct ByUnitBytes;

impl quick_cache::Weighter<UnitKey, Unit> for ByUnitBytes {
    fn weight(&self, _key: &UnitKey, unit: &Unit) -> u64 {
        let memory_bytes = match unit {
            Unit::Page(page) => page.len(),
            Unit::Block(block) => block.memory_bytes(),
        };
        memory_bytes as u64 + CACHED_BESIDES_BYTES
    }
}

/// Figures of what tables share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablesFigures {
    /// Bytes of cached units.
    pub cache_bytes: u64,
    /// Bytes of directories and filters in memory.
    pub resident_bytes: u64,
    /// Units asked for.
    pub unit_asks: u64,
    /// Of these, not found in the cache, and read from the device.
    pub unit_reads: u64,
    /// Bytes of these.
    pub unit_read_bytes: u64,
    /// Directories that were damaged and made again from the units. Such a table does without
    /// filters until it is rewritten.
    pub directories_rebuilt: u64,
    /// Filters that were damaged, and are done without.
    pub filters_ignored: u64,
    /// Look-ups that did without a filter because there was no memory for it.
    pub filters_left_out: u64,
}

/// Of units: asked for, read, and how long these were.
#[derive(Debug, Default)]
struct UnitCounts {
    asks: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
}

/// Files that were to go.
#[derive(Debug, Default)]
struct Removals {
    /// They went since this was last asked for.
    done: Vec<TableId>,
    /// They could not be removed.
    left: Vec<TableId>,
}

impl Tables {
    /// What the tables of this store share. At most `open_files_max` files are kept open, and as many units
    /// cached as directories and filters leave of about `memory_bytes`.
    pub fn new(
        disk: Arc<dyn Disk>,
        store_id: StoreId,
        open_files_max: usize,
        memory_bytes: u64,
    ) -> Arc<Self> {
        let unit_count = size(memory_bytes / (UNITS_START + CACHED_BESIDES_BYTES)).max(1);
        let lifecycle = quick_cache::sync::DefaultLifecycle::default();
        let units = Cache::with(unit_count, memory_bytes, ByUnitBytes, FixedSeed, lifecycle);
        let (by_count, lifecycle) =
            (quick_cache::UnitWeighter, quick_cache::sync::DefaultLifecycle::default());
        let capacity = open_files_max as u64;
        let files = Cache::with(open_files_max, capacity, by_count, FixedSeed, lifecycle);
        Arc::new(Self {
            disk,
            store_id,
            files,
            few_files: FewFiles::new(open_files_max),
            units,
            memory_bytes,
            cache_bytes: Mutex::new(memory_bytes),
            cache_step_bytes: (memory_bytes / CACHE_STEPS).max(1),
            resident_bytes: AtomicU64::new(0),
            units_counted: Striped::default(),
            directories_rebuilt: AtomicU64::new(0),
            filters_ignored: AtomicU64::new(0),
            resident_bytes_max: AtomicU64::new(u64::MAX),
            merge_bytes: AtomicU64::new(u64::MAX),
            filters_left_out: AtomicU64::new(0),
            removals: Mutex::default(),
        })
    }

    /// The store that the tables are of.
    pub fn store_id(&self) -> StoreId {
        self.store_id
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Reads no more filters while those in memory and directories take so many bytes or more; what look-ups need then is read from the device. At first there is no bound.
    pub fn set_resident_bytes_max(&self, bytes: u64) {
        self.resident_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// A merge reads so many bytes of all its sources at once, about: a page or a block of each at least, and
    /// [`SCAN_BYTES`](super::SCAN_BYTES) of each at most. At first there is no other bound.
    pub fn set_merge_bytes(&self, bytes: u64) {
        self.merge_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that a merge of so many sources reads of each at once.
    pub fn scan_bytes(&self, source_count: usize) -> u64 {
        let share = self.merge_bytes.load(Ordering::Relaxed) / source_count.max(1) as u64;
        share.clamp(UNITS_START, super::SCAN_BYTES)
    }

    /// What it comes to now.
    pub fn figures(&self) -> TablesFigures {
        TablesFigures {
            cache_bytes: self.units.weight(),
            resident_bytes: self.resident_bytes.load(Ordering::Relaxed),
            unit_asks: sum(self.units_counted.all().map(|counts| &counts.asks)),
            unit_reads: sum(self.units_counted.all().map(|counts| &counts.reads)),
            unit_read_bytes: sum(self.units_counted.all().map(|counts| &counts.read_bytes)),
            directories_rebuilt: self.directories_rebuilt.load(Ordering::Relaxed),
            filters_ignored: self.filters_ignored.load(Ordering::Relaxed),
            filters_left_out: self.filters_left_out.load(Ordering::Relaxed),
        }
    }

    /// The tables whose files were removed since this was last asked, in the order of their removal: their
    /// last reader let go of them, or they were given up. Tries those again that could not be removed. A crash
    /// may bring the files back until the directory is synced after this; until then, what stands must name
    /// them.
    pub fn take_removed(&self) -> Vec<TableId> {
        let left = std::mem::take(&mut self.removals.lock().left);
        for id in left {
            self.remove(id);
        }
        std::mem::take(&mut self.removals.lock().done)
    }

    /// The tables whose files could not be removed, when that was last tried.
    pub fn not_removed(&self) -> Vec<TableId> {
        self.removals.lock().left.clone()
    }

    /// Files were removed since it was last asked which, or could not be removed.
    pub fn has_removals(&self) -> bool {
        let removals = self.removals.lock();
        !removals.done.is_empty() || !removals.left.is_empty()
    }

    /// A table's file, open. Mapped, if it can be and is to be, it is the caller's to keep, and takes no
    /// place among those that are open. Pages of rows are looked at where they are mapped; blocks of names
    /// are fewer, and cached.
    ///
    /// # Errors
    /// Whatever the machine says.
    pub(crate) fn file(&self, id: TableId) -> Result<Arc<dyn File>, TableError> {
        let file = self.opened(id)?;
        if file.map().is_some() {
            self.files.remove(&id);
        }
        Ok(file)
    }

    /// Has a file fetched from `start` on, if it can be mapped, and does not wait for it. It is open then, for who
    /// [asks](Self::file) for it next. Whatever is in the way is left for that one to meet.
    pub(crate) fn will_read_tail(&self, id: TableId, start: u64) {
        let Ok(file) = self.opened(id) else { return };
        if let Some(map) = file.map() {
            map.will_read(start, usize::MAX);
        }
    }

    fn opened(&self, id: TableId) -> Result<Arc<dyn File>, TableError> {
        let mode = match id.table {
            TableKind::Index => OpenMode::Sealed,
            TableKind::Names => OpenMode::Read,
        };
        Ok(self.files.get_or_insert_with(&id, || self.disk.open(id.file_name(), mode))?)
    }

    /// Files that may be open for batches, besides those that are kept open.
    pub(crate) fn few_files(&self) -> &FewFiles {
        &self.few_files
    }

    /// The unit with this key; from the cache, unless `read` must read it and `open` check it.
    ///
    /// # Errors
    /// What `read` and `open` say.
    pub(crate) fn unit(
        &self,
        key: UnitKey,
        read: impl FnOnce() -> Result<Bytes, TableError>,
        open: impl FnOnce(Bytes) -> Result<Unit, TableError>,
    ) -> Result<Unit, TableError> {
        count(&self.units_counted.asks);
        self.units.get_or_insert_with(&key, || {
            let bytes = read()?;
            self.count_read(bytes.len());
            open(bytes)
        })
    }

    fn count_read(&self, len_bytes: usize) {
        count(&self.units_counted.reads);
        self.units_counted.read_bytes.fetch_add(len_bytes as u64, Ordering::Relaxed);
    }

    /// The unit is cached.
    pub(crate) fn has_unit(&self, key: &UnitKey) -> bool {
        self.units.contains_key(key)
    }

    /// Caches a unit that was read, and checked.
    pub(crate) fn keep_unit(&self, key: UnitKey, unit: Unit, len_bytes: usize) {
        self.count_read(len_bytes);
        self.units.insert(key, unit);
    }

    /// Removes the file of a table that nobody reads any more and no durable root names (T4 of
    /// [`container`](super::container)). What cannot be removed now is tried again when it is next asked
    /// what was removed, and at the next open.
    pub fn remove(&self, id: TableId) {
        self.files.remove(&id);
        let removed = self.disk.remove(id.file_name());
        let is_gone = removed.map_or_else(|error| error.is_not_found(), |()| true);
        let mut removals = self.removals.lock();
        if is_gone { removals.done.push(id) } else { removals.left.push(id) }
    }

    /// A filter may be read, to stay in memory; counts that it may not.
    pub(crate) fn may_hold_more(&self) -> bool {
        let held_bytes = self.resident_bytes.load(Ordering::Relaxed);
        let may = held_bytes < self.resident_bytes_max.load(Ordering::Relaxed);
        if !may {
            count(&self.filters_left_out);
        }
        may
    }

    /// Counts memory that a table holds from now on; of the cache, what is above what that leaves goes before
    /// this returns.
    pub(crate) fn note_resident(&self, bytes: u64) {
        self.resident_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.fit_cache();
    }

    /// Counts it no longer.
    pub(crate) fn forget_resident(&self, bytes: u64) {
        self.resident_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.fit_cache();
    }

    /// Lets the cache have what directories and filters leave, in whole steps: it forgets a little of what it
    /// knows of past use with each change, and so keeps most of it.
    fn fit_cache(&self) {
        let mut now = self.cache_bytes.lock();
        // Asked under the lock: who comes last sees what all before have counted.
        let resident_bytes = self.resident_bytes.load(Ordering::Relaxed);
        let left_bytes = self.memory_bytes.saturating_sub(resident_bytes);
        let cache_bytes = left_bytes - left_bytes % self.cache_step_bytes;
        if *now != cache_bytes {
            *now = cache_bytes;
            self.units.set_capacity(cache_bytes);
        }
    }

    /// Counts that a directory was damaged and made again.
    pub(crate) fn note_rebuilt_directory(&self) {
        count(&self.directories_rebuilt);
    }

    /// Counts that a filter was damaged and is done without.
    pub(crate) fn note_ignored_filter(&self) {
        count(&self.filters_ignored);
    }
}
