//! One table's file, whatever its entries: its footer, and how it is opened and read in units; and
//! what the tables of a store share. Its layout is in `docs/format.md`; [`builder`] writes it.
//!
//! 1. A unit is a page of rows or a block of names; its first four bytes are its checksum, seeded
//!    with its place. Its owner makes and understands it.
//! 2. The footer names the sections, the first and last key, and the tables that this one was made
//!    from, each with the keys that it replaces of it. The trailer holds the footer's hash; so does
//!    the root.
//! 3. Directory and filters are derived from the units: damaged, they are made again.
//!
//! [`builder`]: crate::table::builder
//!
//! - T1: a table is written whole and synced before anything names it; then it never changes.
//! - T2: the footer holds a hash of all units' checksums, and one of those of the directory and of
//!   the filters, so that none can be exchanged for another that is valid. They are two, so that the
//!   units can be told to be right whatever became of what is derived from them.
//! - T3: a unit is checked each time it is read from the device.
//! - T4: a table whose file is to go loses it when its last reader lets go of it, not before.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, Reader, put_varint, size};
use pinstone_disk::env::{AtomicBool, AtomicU64, FixedSeed, Mutex, Ordering};
use pinstone_disk::{
    Disk, DiskExt, Epoch, File, FileHeader, FileName, HEADER_BYTES, OpenMode, Ordinal, REPEATED,
    StoreId, TRAILER_BYTES, TableKind, Trailer,
};

use crate::error::TableError;
use crate::table::name_block::{Block, NAME_BYTES_MAX};
use crate::table::probes::{ProbeFigures, Probes, count};
use crate::table::{TableId, TableMeta, key, put_key};

/// Where a table's first unit begins: pages stand at multiples of their own length.
pub const UNITS_START: u64 = 4096;

/// Bytes that the first read of a table's tail takes: most footers are shorter.
const TAIL_BYTES: u64 = 4096;

/// Bytes of the longest footer: two keys of a kilobyte for each table that this one replaces.
pub(crate) const FOOTER_BYTES_MAX: u32 = 64 << 20;

/// Most bytes of a key, its length before it, and of a replaced table.
const KEY_BYTES_MAX: usize = 2 + NAME_BYTES_MAX;
const REPLACED_BYTES_MAX: usize = 4 + 4 + 2 * KEY_BYTES_MAX;

/// Tables that a footer can name at most, however long their keys are. Those who write tables keep to
/// it: [`run`](crate::run) says how.
pub const REPLACED_TABLES_MAX: usize = 32_000;
const _: () = assert!(
    FIRST_KEY_OFFSET + 2 * KEY_BYTES_MAX + 10 + REPLACED_TABLES_MAX * REPLACED_BYTES_MAX
        <= FOOTER_BYTES_MAX as usize
);

/// Where a footer's keys begin.
const FIRST_KEY_OFFSET: usize = 176;

/// Fewest bytes of a replaced table: two numbers, a key of one byte, no other key.
const REPLACED_BYTES_MIN: usize = 4 + 4 + 2 + 1;

/// The length that stands for no key.
const NO_KEY: u8 = 0;

/// Where a footer has the least and the greatest number of a commit.
const COMMITS_OFFSET: usize = 96;

pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"PINSFOOT";
const _: () = assert!(HEADER_BYTES as u64 <= UNITS_START);

/// A table that another one was made from, and the keys of it that the other one holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its ordinal, in the same tree.
    pub ordinal: Ordinal,
    /// Its writer's epoch.
    pub epoch: Epoch,
    /// The first key that is replaced.
    pub first: Bytes,
    /// The first key that is not; none if all from `first` on are.
    pub until: Option<Bytes>,
}

/// What a table's footer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Entries.
    pub entry_count: u64,
    /// Pages or blocks.
    pub unit_count: u64,
    /// Where the units end and the directory begins.
    pub units_end: u64,
    /// Where the directory ends and the filters begin.
    pub directory_end: u64,
    /// Where the filters end and the footer begins.
    pub filters_end: u64,
    /// The seed under which keys are hashed for the filters; 0 if there are none.
    pub filter_seed: u64,
    /// The lowest and the highest number of a commit in it; 0 where entries have none.
    pub commits: (u64, u64),
    /// BLAKE3 of all units' checksums, in order.
    pub units_hash: [u8; 32],
    /// BLAKE3 of the directory's checksum and of all filters', in order.
    pub derived_hash: [u8; 32],
    /// The first key.
    pub first: Bytes,
    /// The last key.
    pub last: Bytes,
    /// The tables that this one was made from, unless their files were durably gone by then.
    pub replaced: Vec<Replaced>,
}

impl Footer {
    /// Bytes of all filters.
    pub(crate) fn filters_bytes(&self) -> u64 {
        self.filters_end - self.directory_end
    }

    /// The footer's bytes, of a table of this tree with this header.
    ///
    /// # Panics
    /// If a key is none of the tree.
    pub(crate) fn encode(&self, tree: TableKind, header: &FileHeader) -> Vec<u8> {
        let mut bytes = FOOTER_MAGIC.to_vec();
        // Version, kinds, feature bits, store, ordinal and epoch stand as in the header.
        bytes.extend_from_slice(&header.encode()[REPEATED]);
        let numbers = [
            self.entry_count,
            self.unit_count,
            self.units_end,
            self.directory_end,
            self.filters_end,
            self.filter_seed,
            self.commits.0,
            self.commits.1,
        ];
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.units_hash);
        bytes.extend_from_slice(&self.derived_hash);
        assert_eq!(bytes.len(), FIRST_KEY_OFFSET);
        put_key(tree, &mut bytes, &self.first);
        put_key(tree, &mut bytes, &self.last);
        put_varint(&mut bytes, self.replaced.len() as u64);
        for replaced in &self.replaced {
            bytes.extend_from_slice(&replaced.ordinal.0.to_le_bytes());
            bytes.extend_from_slice(&replaced.epoch.0.to_le_bytes());
            put_key(tree, &mut bytes, &replaced.first);
            match &replaced.until {
                Some(until) => put_key(tree, &mut bytes, until),
                // No key is empty, so that this says that there is none.
                None => bytes.push(NO_KEY),
            }
        }
        bytes
    }

    pub(crate) fn decode(
        tree: TableKind,
        header: &FileHeader,
        bytes: &[u8],
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let magic = reader.take(8, "a footer's magic")?;
        let copy = reader.take(REPEATED.len(), "a header's copy")?;
        if magic != FOOTER_MAGIC || *copy != header.encode()[REPEATED] {
            return Err(Malformed { offset: 0, what: "the footer of this file" });
        }
        let mut number = || reader.u64("a number");
        let (entry_count, unit_count) = (number()?, number()?);
        let (units_end, directory_end, filters_end) = (number()?, number()?, number()?);
        let filter_seed = number()?;
        let commits = (number()?, number()?);
        if tree == TableKind::Index && commits != (0, 0) {
            return Err(Malformed { offset: COMMITS_OFFSET, what: "no commits in the index" });
        }
        let (units_hash, derived_hash) = (reader.array("a hash")?, reader.array("a hash")?);
        let (first, last) = (key(tree, &mut reader)?, key(tree, &mut reader)?);
        let count = reader.varint_usize("a count of tables")?;
        let mut replaced = Vec::with_capacity(count.min(reader.left() / REPLACED_BYTES_MIN));
        for _ in 0..count {
            let ordinal = Ordinal(reader.u32("an ordinal")?);
            let epoch = Epoch(reader.u32("an epoch")?);
            let first = key(tree, &mut reader)?;
            let until = match reader.clone().u8("a key's length")? {
                NO_KEY => reader.u8("no key").map(|_| None)?,
                _ => Some(key(tree, &mut reader)?),
            };
            replaced.push(Replaced { ordinal, epoch, first, until });
        }
        reader.end("the footer's end")?;
        Ok(Self {
            entry_count,
            unit_count,
            units_end,
            directory_end,
            filters_end,
            filter_seed,
            commits,
            units_hash,
            derived_hash,
            first,
            last,
            replaced,
        })
    }
}

/// Reads `count` bytes that are written as zeros.
pub(crate) fn zeros(reader: &mut Reader<'_>, count: usize) -> Result<(), Malformed> {
    let start = reader.offset();
    match reader.take(count, "zeros")?.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(Malformed { offset: start + at, what: "zeros" }),
    }
}

/// What the tables of a store share: the disk, the open files, the cache, the counts.
#[derive(Debug)]
pub struct Tables {
    disk: Arc<dyn Disk>,
    store_id: StoreId,
    files: Cache<TableId, Arc<dyn File>, quick_cache::UnitWeighter>,
    units: Cache<UnitKey, Unit, ByUnitBytes>,
    /// Bytes that cached units may take; and by how many bytes at least that changes.
    cache_bytes: Mutex<u64>,
    cache_step_bytes: u64,
    /// Bytes of directories and filters in memory.
    resident_bytes: AtomicU64,
    unit_asks: AtomicU64,
    unit_reads: AtomicU64,
    unit_read_bytes: AtomicU64,
    directories_rebuilt: AtomicU64,
    filters_ignored: AtomicU64,
    /// Bytes of directories and filters beyond which no more filters are read.
    resident_bytes_max: AtomicU64,
    filters_left_out: AtomicU64,
    /// Tables whose files were removed since this was last asked for.
    removed: Mutex<Vec<TableId>>,
}

type Cache<K, V, W> = quick_cache::sync::Cache<K, V, W, FixedSeed>;

/// A unit as it is kept in memory, checked.
#[derive(Clone, Debug)]
pub enum Unit {
    /// A page of rows.
    Page(Bytes),
    /// A block of names.
    Block(Block),
}

/// A unit of a table, by where it begins.
type UnitKey = (TableId, u64);

/// What a cached unit takes beside its bytes, about: key, handle, the cache's own.
const CACHED_BESIDES_BYTES: u64 = 128;

/// Steps from nothing to all that the cache was made for.
const CACHE_STEPS: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct ByUnitBytes;

impl quick_cache::Weighter<UnitKey, Unit> for ByUnitBytes {
    fn weight(&self, _key: &UnitKey, unit: &Unit) -> u64 {
        let len_bytes = match unit {
            Unit::Page(page) => page.len(),
            Unit::Block(block) => block.len_bytes(),
        };
        len_bytes as u64 + CACHED_BESIDES_BYTES
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

impl Tables {
    /// What the tables of this store share. At most `open_files_max` files are kept open, and about
    /// `cache_bytes` of units in memory, until [`set_cache_bytes`](Self::set_cache_bytes) says
    /// otherwise: give the most that it will be.
    pub fn new(
        disk: Arc<dyn Disk>,
        store_id: StoreId,
        open_files_max: usize,
        cache_bytes: u64,
    ) -> Arc<Self> {
        let unit_count = size(cache_bytes / (UNITS_START + CACHED_BESIDES_BYTES)).max(1);
        let lifecycle = quick_cache::sync::DefaultLifecycle::default();
        let units = Cache::with(unit_count, cache_bytes, ByUnitBytes, FixedSeed, lifecycle);
        let (by_count, lifecycle) =
            (quick_cache::UnitWeighter, quick_cache::sync::DefaultLifecycle::default());
        let capacity = open_files_max as u64;
        let files = Cache::with(open_files_max, capacity, by_count, FixedSeed, lifecycle);
        Arc::new(Self {
            disk,
            store_id,
            files,
            units,
            cache_bytes: Mutex::new(cache_bytes),
            cache_step_bytes: (cache_bytes / CACHE_STEPS).max(1),
            resident_bytes: AtomicU64::new(0),
            unit_asks: AtomicU64::new(0),
            unit_reads: AtomicU64::new(0),
            unit_read_bytes: AtomicU64::new(0),
            directories_rebuilt: AtomicU64::new(0),
            filters_ignored: AtomicU64::new(0),
            resident_bytes_max: AtomicU64::new(u64::MAX),
            filters_left_out: AtomicU64::new(0),
            removed: Mutex::new(Vec::new()),
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

    /// Keeps no more than `cache_bytes` of units in memory from now on; what is above it goes before
    /// this returns. With 0 nothing is kept.
    ///
    /// Changes nothing by less than a 64th of what [`new`](Self::new) was given: what is asked for
    /// is rounded down to a multiple of that. So it may be called whenever what else is in memory
    /// changes; and the cache, which forgets a little of what it knows of past use with each change,
    /// keeps most of it.
    pub fn set_cache_bytes(&self, cache_bytes: u64) {
        let cache_bytes = cache_bytes - cache_bytes % self.cache_step_bytes;
        let mut now = self.cache_bytes.lock();
        if *now != cache_bytes {
            *now = cache_bytes;
            self.units.set_capacity(cache_bytes);
        }
    }

    /// Reads no more filters while directories and filters in memory take so many bytes or more; what
    /// look-ups need then is read from the device. At first there is no bound.
    pub fn set_resident_bytes_max(&self, bytes: u64) {
        self.resident_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// What it comes to now.
    pub fn figures(&self) -> TablesFigures {
        TablesFigures {
            cache_bytes: self.units.weight(),
            resident_bytes: self.resident_bytes.load(Ordering::Relaxed),
            unit_asks: self.unit_asks.load(Ordering::Relaxed),
            unit_reads: self.unit_reads.load(Ordering::Relaxed),
            unit_read_bytes: self.unit_read_bytes.load(Ordering::Relaxed),
            directories_rebuilt: self.directories_rebuilt.load(Ordering::Relaxed),
            filters_ignored: self.filters_ignored.load(Ordering::Relaxed),
            filters_left_out: self.filters_left_out.load(Ordering::Relaxed),
        }
    }

    /// The tables whose files were removed since this was last asked, because their last reader let
    /// go of them (T4), in the order of their removal. A crash may bring the files back until the
    /// directory is synced after this; until then, what replaced a table must go on naming it.
    pub fn take_removed(&self) -> Vec<TableId> {
        std::mem::take(&mut self.removed.lock())
    }

    fn file(&self, id: TableId) -> Result<Arc<dyn File>, TableError> {
        let open = || self.disk.open(id.file_name(), OpenMode::Read);
        Ok(self.files.get_or_insert_with(&id, open)?)
    }
}

/// What stays in memory.
pub(crate) trait Resident {
    fn resident_bytes(&self) -> usize;
}

/// A table that can be read.
#[derive(Debug)]
pub struct TableFile {
    tables: Arc<Tables>,
    meta: TableMeta,
    seed: Seed,
    footer: Footer,
    /// Its file goes when this is dropped.
    doomed: AtomicBool,
    resident_bytes: AtomicU64,
    probes: Probes,
}

impl TableFile {
    /// Opens a table by its tail: one read, of a few kilobytes.
    ///
    /// # Errors
    /// Damage: also a file that is missing, or is not the one that `meta` describes.
    pub fn open(tables: &Arc<Tables>, meta: TableMeta) -> Result<Self, TableError> {
        let name = meta.id.file_name();
        let corrupt = |offset, what: &str| TableError::corrupt(name, offset, what);
        let file = match tables.file(meta.id) {
            Err(TableError::Disk(error)) if error.is_not_found() => {
                return Err(corrupt(0, "the root names it, and it is not there"));
            }
            file => file?,
        };
        let file_bytes = file.len_bytes()?;
        if file_bytes != meta.file_bytes {
            let what = format!("it has {file_bytes} bytes, the root says {}", meta.file_bytes);
            return Err(corrupt(file_bytes.min(meta.file_bytes), &what));
        }
        let mut tail_start = file_bytes.saturating_sub(TAIL_BYTES);
        let mut tail = tables.disk.read(&file, tail_start, size(file_bytes - tail_start))?;
        let trailer = Trailer::decode(&name, file_bytes, &tail)?;
        let start = trailer.footer_offset_bytes;
        if trailer.footer_hash != meta.footer_hash {
            return Err(corrupt(start, "it is not the table that the root names"));
        }
        if trailer.footer_bytes > FOOTER_BYTES_MAX {
            return Err(corrupt(start, "its footer is longer than any"));
        }
        if start < tail_start {
            tail_start = start;
            tail = tables.disk.read(&file, start, size(file_bytes - start))?;
        }
        let footer_end = tail.len().saturating_sub(TRAILER_BYTES);
        let footer = tail.get(size(start - tail_start)..footer_end).unwrap_or(&[]);
        if !trailer.is_of(footer) {
            return Err(corrupt(start, "its footer is not the one that its trailer names"));
        }
        let header = meta.id.header(tables.store_id);
        let footer = Footer::decode(meta.id.table, &header, footer)
            .map_err(|error| corrupt(start + error.offset as u64, error.what))?;
        let ends = [UNITS_START, footer.units_end, footer.directory_end, footer.filters_end];
        if !ends.is_sorted() || footer.filters_end != start {
            return Err(corrupt(start, "its footer's offsets do not fit the file"));
        }
        let said = (footer.entry_count, &footer.first, &footer.last);
        if said != (meta.entry_count, &meta.first, &meta.last) {
            return Err(corrupt(start, "its footer does not say what the root says"));
        }
        Ok(Self {
            tables: Arc::clone(tables),
            seed: header.seed(),
            meta,
            footer,
            doomed: AtomicBool::new(false),
            resident_bytes: AtomicU64::new(0),
            probes: Probes::default(),
        })
    }

    /// What the root says of it.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// What its footer says.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Its file's name.
    pub fn name(&self) -> FileName {
        self.meta.id.file_name()
    }

    /// The seed of its checksums.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// Its file is to be removed once nobody reads it any more (T4). Only for a table that no
    /// durable root names.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    /// A filter may be read, to stay in memory.
    pub fn may_hold_more(&self) -> bool {
        let tables = &self.tables;
        let may = tables.resident_bytes.load(Ordering::Relaxed)
            < tables.resident_bytes_max.load(Ordering::Relaxed);
        if !may {
            count(&tables.filters_left_out);
        }
        may
    }

    /// Counts memory that this table holds from now on.
    pub fn note_resident(&self, bytes: usize) {
        self.resident_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tables.resident_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts that a filter of it was damaged and is done without.
    pub fn note_ignored_filter(&self) {
        count(&self.tables.filters_ignored);
    }

    /// Bytes of memory that its directory and filters take.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// The counts of look-ups in this table.
    pub(crate) fn probes(&self) -> &Probes {
        &self.probes
    }

    /// How often the table was asked since it was opened, and what that cost.
    pub fn figures(&self) -> ProbeFigures {
        self.probes.figures()
    }

    /// The unit in this range of the file; from the cache, unless it must be read, checked by `open`
    /// and put there.
    ///
    /// # Errors
    /// What `open` says, or the machine.
    pub fn unit(
        &self,
        range: Range<u64>,
        open: impl FnOnce(Bytes) -> Result<Unit, TableError>,
    ) -> Result<Unit, TableError> {
        let key = (self.meta.id, range.start);
        count(&self.tables.unit_asks);
        self.tables.units.get_or_insert_with(&key, || {
            let bytes = self.read(range)?;
            count(&self.tables.unit_reads);
            count(&self.probes.unit_reads);
            self.tables.unit_read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            open(bytes)
        })
    }

    /// The directory in `slot`; if it is not there yet, as it stands in the file or, if that is
    /// damaged, as `rebuild` makes it of the units.
    ///
    /// # Errors
    /// What `rebuild` says, or the machine.
    pub(crate) fn directory<'a, D: Resident>(
        &self,
        slot: &'a OnceLock<D>,
        read: impl FnOnce() -> Result<D, TableError>,
        rebuild: impl FnOnce() -> Result<D, TableError>,
    ) -> Result<&'a D, TableError> {
        if let Some(directory) = slot.get() {
            return Ok(directory);
        }
        let (directory, is_rebuilt) = match read() {
            Err(TableError::Format(error)) => {
                tracing::warn!(%error, "a damaged directory is made again");
                (rebuild()?, true)
            }
            read => (read?, false),
        };
        Ok(slot.get_or_init(|| {
            if is_rebuilt {
                count(&self.tables.directories_rebuilt);
            }
            self.note_resident(directory.resident_bytes());
            directory
        }))
    }

    /// What `decode` makes of the directory's bytes, their checksum checked.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub(crate) fn read_directory<D>(
        &self,
        decode: impl FnOnce(&[u8]) -> Result<D, Malformed>,
    ) -> Result<D, TableError> {
        let start = self.footer.units_end;
        let bytes = self.read(start..self.footer.directory_end)?;
        self.check_sum(start, &bytes)?;
        decode(&bytes).map_err(|error| self.corrupt(start + error.offset as u64, error.what))
    }

    /// Checks what stands before the first unit, which nobody needs who knows the footer.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub(crate) fn check_header(&self) -> Result<(), TableError> {
        let bytes = self.read(0..UNITS_START)?;
        let mut wanted = self.meta.id.header(self.tables.store_id).encode().to_vec();
        wanted.resize(bytes.len(), 0);
        match bytes.iter().zip(&wanted).position(|(byte, wanted)| byte != wanted) {
            None => Ok(()),
            Some(at) => Err(self.corrupt(at as u64, "its header, or the zeros after it, changed")),
        }
    }

    /// Checks bytes that begin with their checksum and stand at this offset.
    ///
    /// # Errors
    /// Damage.
    pub fn check_sum(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), TableError> {
        let Some((crc, rest)) = bytes.split_first_chunk() else {
            return Err(self.corrupt(offset_bytes, "there is no room for a checksum"));
        };
        if self.seed.at(offset_bytes, &[rest]) != u32::from_le_bytes(*crc) {
            return Err(self.corrupt(offset_bytes, "a checksum does not match"));
        }
        Ok(())
    }

    /// Bytes of the file, unchecked, past every cache.
    ///
    /// # Errors
    /// Damage if the file ends before; whatever the machine says.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, TableError> {
        let file = self.tables.file(self.meta.id)?;
        let len_bytes = size(range.end - range.start);
        let bytes = self.tables.disk.read(&file, range.start, len_bytes)?;
        if bytes.len() != len_bytes {
            return Err(self.corrupt(range.start + bytes.len() as u64, "it ends here"));
        }
        Ok(bytes)
    }

    /// Damage of this table.
    pub fn corrupt(&self, offset_bytes: u64, what: &str) -> TableError {
        TableError::corrupt(self.name(), offset_bytes, what)
    }
}

impl Drop for TableFile {
    fn drop(&mut self) {
        self.tables.resident_bytes.fetch_sub(self.resident_bytes(), Ordering::Relaxed);
        if !self.doomed.load(Ordering::Acquire) {
            return;
        }
        self.tables.files.remove(&self.meta.id);
        // What cannot be removed now is removed at the next open: no root names it.
        if self.tables.disk.remove(self.name()).is_ok() {
            self.tables.removed.lock().push(self.meta.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinstone_disk::FileKind;

    fn header(tree: TableKind) -> FileHeader {
        let kind = FileKind::Table(tree);
        let store_id = StoreId([7; 16]);
        FileHeader { store_id, kind, ordinal: Ordinal(3), epoch: Epoch(1) }
    }

    fn footer(first: &'static [u8], last: &'static [u8]) -> Footer {
        let of = |ordinal, until| Replaced {
            ordinal: Ordinal(ordinal),
            epoch: Epoch(1),
            first: first.into(),
            until,
        };
        Footer {
            entry_count: 1,
            unit_count: 1,
            units_end: 8192,
            directory_end: 8200,
            filters_end: 8200,
            filter_seed: 0,
            commits: (0, 0),
            units_hash: [1; 32],
            derived_hash: [2; 32],
            first: first.into(),
            last: last.into(),
            replaced: vec![of(1, Some(last.into())), of(2, None)],
        }
    }

    #[test]
    fn keys_of_footers_have_their_trees_length() {
        let cases = [
            (TableKind::Index, footer(b"key aaa", b"key bbb"), "a key of 7 bytes"),
            (TableKind::Names, footer(b"a", b"name"), "a name of 1 to 1,024 bytes"),
        ];
        for (tree, footer, what) in cases {
            let header = header(tree);
            let bytes = footer.encode(tree, &header);
            let decode = |bytes: &[u8]| Footer::decode(tree, &header, bytes);
            assert_eq!(decode(&bytes), Ok(footer.clone()));
            let (first, last) = (footer.first.len(), footer.last.len());
            let last_at = 176 + 1 + first;
            let replaced_at = last_at + 1 + last + 1;
            let until_at = replaced_at + 8 + 1 + first;
            for at in [176, last_at, replaced_at + 8, until_at] {
                // 0 is no key where there may be none: then what follows is no table's.
                let lens: &[&[u8]] =
                    if at == until_at { &[&[0x81, 8]] } else { &[&[0], &[0x81, 8]] };
                for len in lens {
                    let mut lying = bytes.clone();
                    lying[at..at + len.len()].copy_from_slice(len);
                    assert_eq!(decode(&lying), Err(Malformed { offset: at, what }), "{tree:?}");
                }
            }
            for (at, byte) in (0..bytes.len()).flat_map(|at| [(at, 0), (at, 0x7f), (at, 0xff)]) {
                let mut lying = bytes.clone();
                lying[at] = byte;
                if let Ok(other) = decode(&lying) {
                    assert_eq!(other.encode(tree, &header), lying);
                }
                assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }
}
