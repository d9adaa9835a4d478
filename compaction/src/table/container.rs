//! One table's file, whatever its entries: how it is opened, read in units, and removed. Its layout is
//! in `docs/format.md`; [`builder`] writes it, [`footer`] says what ends it, and [`shared`] has what all
//! tables of a store share.
//!
//! 1. A unit is a page of rows or a block of names; its first four bytes are its checksum, seeded
//!    with its place. Its owner makes and understands it.
//! 2. The trailer holds the footer's hash; so does the root. The footer names the sections.
//! 3. Directory and filters are derived from the units: damaged, they are made again.
//!
//! [`builder`]: crate::table::builder
//! [`footer`]: crate::table::footer
//! [`shared`]: crate::table::shared
//!
//! - T1: a table is written whole and synced before anything names it; then it never changes.
//! - T2: the footer's, which binds all that stands before it: see [`footer`].
//! - T3: a unit that is cached was checked when it was read from the device.
//! - T4: a table whose file is to go loses it when its last reader lets go of it, not before.
//! - T5: bytes that are mapped may be fetched anew at any time. A reader may act on them unchecked if that is
//!   confirmed elsewhere; before it says that something is not there, it checks a copy of the unit, and looks
//!   there. Whatever else is read is copied.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, size};
use pinstone_disk::env::{AtomicBool, AtomicU64, Ordering};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{
    DiskExt, File, FileHeader, FileName, HEADER_BYTES, REPEATED, TRAILER_BYTES, TableKind, Trailer,
};

use crate::error::TableError;
use crate::table::TableMeta;
use crate::table::footer::{FOOTER_BYTES_MAX, Footer, Replaced};
use crate::table::probes::{ProbeFigures, Probes, count, figures};
use crate::table::shared::{Tables, Unit};

/// Where a table's first unit begins: pages stand at multiples of their own length.
pub const UNITS_START: u64 = 4096;

/// Bytes that the first read of a table's tail takes: most footers are shorter.
const TAIL_BYTES: u64 = 4096;

const _: () = assert!(HEADER_BYTES as u64 <= UNITS_START);

/// What stays in memory.
pub(crate) trait Resident {
    fn resident_bytes(&self) -> usize;
}

/// A table that can be read.
#[derive(Debug)]
pub struct TableFile {
    tables: Arc<Tables>,
    meta: TableMeta,
    /// The file, if it is mapped.
    mapped: Option<Arc<dyn File>>,
    seed: Seed,
    footer: Footer,
    /// Its file goes when this is dropped.
    doomed: AtomicBool,
    resident_bytes: AtomicU64,
    probes: Probes,
}

impl TableFile {
    /// Opens a table by its tail: one read, of a few kilobytes. What its footer says of the tables that it
    /// replaced does not stay in memory: see [`replaced`](Self::replaced).
    ///
    /// # Errors
    /// Damage: also a file that is missing, or is not the one that `meta` describes.
    pub fn open(tables: &Arc<Tables>, meta: TableMeta) -> Result<Self, TableError> {
        let name = meta.id.file_name();
        let file = match tables.file(meta.id) {
            Err(TableError::Disk(error)) if error.is_not_found() => {
                let what = "the root names it, and it is not there";
                return Err(TableError::corrupt(name, 0, what));
            }
            file => file?,
        };
        let mut footer = Self::read_footer(tables, &meta, &file)?;
        // No table is without units, and no unit without entries.
        if footer.unit_count == 0 || footer.unit_count > footer.entry_count {
            return Err(TableError::corrupt(name, footer.filters_end, "its counts do not agree"));
        }
        footer.replaced = Vec::new();
        Ok(Self {
            mapped: file.map().is_some().then_some(file),
            tables: Arc::clone(tables),
            seed: meta.id.header(tables.store_id()).seed(),
            meta,
            footer,
            doomed: AtomicBool::new(false),
            resident_bytes: AtomicU64::new(0),
            probes: Probes::default(),
        })
    }

    /// Has what [`open`](Self::open) will read fetched, if the table can be mapped, and does not wait for it.
    pub(crate) fn will_open(tables: &Tables, meta: &TableMeta) {
        if meta.id.table == TableKind::Index {
            tables.will_read_tail(meta.id, meta.file_bytes.saturating_sub(TAIL_BYTES));
        }
    }

    /// What its footer says of the tables that it was made from, and of others that are stale and may have
    /// been there yet: read again, for who knows of files alone.
    ///
    /// # Errors
    /// Damage since it was opened, or whatever the machine says.
    pub fn replaced(&self) -> Result<Vec<Replaced>, TableError> {
        let footer = self.with_file(|file| Self::read_footer(&self.tables, &self.meta, file))?;
        Ok(footer.replaced)
    }

    fn with_file<T>(
        &self,
        with: impl FnOnce(&Arc<dyn File>) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        match &self.mapped {
            Some(file) => with(file),
            None => with(&self.tables.file(self.meta.id)?),
        }
    }

    /// What the file has in this range, where it is mapped; none where it is not, or cannot be fetched. It
    /// is unchecked: it may have been fetched anew since somebody checked it (T5).
    pub(crate) fn look(&self, range: &Range<u64>) -> Option<&[u8]> {
        let (bytes, is_first) =
            self.mapped.as_ref()?.map()?.look(range.start, size(range.end - range.start)).ok()?;
        if is_first {
            count(&self.probes.unit_reads);
        }
        Some(bytes)
    }

    /// Has what [`look`](Self::look) will give of the range fetched, where the file is mapped, and does not wait for it;
    /// whether it is mapped.
    pub(crate) fn will_look(&self, range: &Range<u64>) -> bool {
        let map = self.mapped.as_ref().and_then(|file| file.map());
        if let Some(map) = map {
            map.will_look(range.start, size(range.end - range.start));
        }
        map.is_some()
    }

    /// Has the directory fetched, where the file is mapped, and does not wait for it.
    pub(crate) fn will_read_directory(&self) {
        let Footer { units_end, directory_end, .. } = self.footer;
        if let Some(map) = self.mapped.as_ref().and_then(|file| file.map()) {
            map.will_read(units_end, size(directory_end - units_end));
        }
    }

    fn read_footer(
        tables: &Tables,
        meta: &TableMeta,
        file: &Arc<dyn File>,
    ) -> Result<Footer, TableError> {
        let name = meta.id.file_name();
        let corrupt = |offset, what: &str| TableError::corrupt(name, offset, what);
        let file_bytes = file.len_bytes()?;
        if file_bytes != meta.file_bytes {
            let what = format!("it has {file_bytes} bytes, the root says {}", meta.file_bytes);
            return Err(corrupt(file_bytes.min(meta.file_bytes), &what));
        }
        let mut tail_start = file_bytes.saturating_sub(TAIL_BYTES);
        let mut tail = tables.disk().read_own(file, tail_start, size(file_bytes - tail_start))?;
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
            tail = tables.disk().read_own(file, start, size(file_bytes - start))?;
        }
        let footer_end = tail.len().saturating_sub(TRAILER_BYTES);
        let footer = tail.get(size(start - tail_start)..footer_end).unwrap_or(&[]);
        if !trailer.is_of(footer) {
            return Err(corrupt(start, "its footer is not the one that its trailer names"));
        }
        let header = meta.id.header(tables.store_id());
        if let Some(copy) = footer.get(REPEATED) {
            header.check_copy(&name, start + REPEATED.start as u64, copy)?;
        }
        let footer = Footer::decode(meta.id.table, footer)
            .map_err(|error| corrupt(start + error.offset as u64, error.what))?;
        let ends = [UNITS_START, footer.units_end, footer.directory_end, footer.filters_end];
        if !ends.is_sorted() || footer.filters_end != start {
            return Err(corrupt(start, "its footer's offsets do not fit the file"));
        }
        let counts = (footer.entry_count, footer.spare_count, footer.commits.1);
        let said = (counts, &footer.first, &footer.last);
        let named = (meta.entry_count, meta.spare_count, meta.last_commit);
        if said != (named, &meta.first, &meta.last) {
            return Err(corrupt(start, "its footer does not say what the root says"));
        }
        Ok(footer)
    }

    /// What the root says of it.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// What its footer says, but for what it replaced.
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
        if planted::is(Bug::TableRemovedAtOnce) {
            self.tables.remove(self.meta.id);
        }
        self.doomed.store(true, Ordering::Release);
    }

    /// A filter may be read, to stay in memory.
    pub fn may_hold_more(&self) -> bool {
        self.tables.may_hold_more()
    }

    /// Counts memory that this table holds from now on.
    pub fn note_resident(&self, bytes: usize) {
        self.resident_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tables.note_resident(bytes as u64);
    }

    /// Counts that a filter of it was damaged and is done without.
    pub fn note_ignored_filter(&self) {
        self.tables.note_ignored_filter();
    }

    /// Bytes of memory that its directory and its filters take.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes.load(Ordering::Relaxed)
    }

    /// The counts of look-ups in this table.
    pub(crate) fn probes(&self) -> &Probes {
        &self.probes
    }

    /// How often the table was asked since it was opened, and what that cost.
    pub fn figures(&self) -> ProbeFigures {
        figures(&self.probes)
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
        let read = || {
            let bytes = self.read(range)?;
            count(&self.probes.unit_reads);
            Ok(bytes)
        };
        self.tables.unit(key, read, open)
    }

    /// The directory in `slot`; if it is not there yet, as it stands in the file or, if that is
    /// damaged, as `rebuild` makes it of the units.
    ///
    /// # Errors
    /// What `rebuild` says, or the machine.
    #[inline]
    pub(crate) fn directory<'a, D: Resident>(
        &self,
        slot: &'a OnceLock<D>,
        read: impl FnOnce() -> Result<D, TableError>,
        rebuild: impl FnOnce() -> Result<D, TableError>,
    ) -> Result<&'a D, TableError> {
        match slot.get() {
            Some(directory) => Ok(directory),
            None => self.first_directory(slot, read, rebuild),
        }
    }

    #[cold]
    fn first_directory<'a, D: Resident>(
        &self,
        slot: &'a OnceLock<D>,
        read: impl FnOnce() -> Result<D, TableError>,
        rebuild: impl FnOnce() -> Result<D, TableError>,
    ) -> Result<&'a D, TableError> {
        let (directory, is_rebuilt) = match read() {
            Err(TableError::Format(error)) => {
                tracing::warn!(%error, "a damaged directory is made again");
                (rebuild()?, true)
            }
            read => (read?, false),
        };
        let resident_bytes = directory.resident_bytes();
        // Counted by who was first, and not under the slot's own lock.
        if slot.set(directory).is_ok() {
            if is_rebuilt {
                self.tables.note_rebuilt_directory();
            }
            self.note_resident(resident_bytes);
        }
        Ok(slot.get().expect("it was set"))
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
        if FileHeader::decode(&self.name(), &bytes)? != self.meta.id.header(self.tables.store_id())
        {
            return Err(self.corrupt(0, "its header is another file's"));
        }
        match bytes[HEADER_BYTES..].iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(at) => {
                let at = (HEADER_BYTES + at) as u64;
                Err(self.corrupt(at, "the zeros after its header changed"))
            }
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

    /// Bytes of the file, unchecked, past every cache; they stay what they are once they were checked (T5).
    ///
    /// # Errors
    /// Damage if the file ends before; whatever the machine says.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, TableError> {
        let len_bytes = size(range.end - range.start);
        let read = |file: &_| Ok(self.tables.disk().read_own(file, range.start, len_bytes)?);
        let bytes = self.with_file(read)?;
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
        self.tables.forget_resident(self.resident_bytes());
        if self.doomed.load(Ordering::Acquire) {
            self.tables.remove(self.meta.id);
        }
    }
}
