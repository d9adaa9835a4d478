//! Writes one table's file, whatever its entries, from its start to its end.
//!
//! 1. Whoever knows the entries makes units of them, and gives the keys of each for its filter.
//! 2. Units are gathered and written a quarter of a mebibyte at a time. Every so many of them end a filter.
//! 3. At the end, all that leads to the units is given, and the builder writes the directory, the
//!    filters, the footer and the trailer, and syncs (T1 of [`container`](super::container)).
//!
//! - B1: a builder that goes without having finished removes its file, then or as soon as it can be removed
//!   (C3 of [`shared`](super::shared)).

use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::size;
use pinstone_disk::{DiskExt, File, FileHeader, OpenMode, Trailer};

use crate::error::TableError;
use crate::table::container::UNITS_START;
use crate::table::filter_set::FilterSetBuilder;
use crate::table::footer::{FOOTER_BYTES_MAX, Footer, Replaced};
use crate::table::shared::Tables;
use crate::table::{TableId, TableMeta};

/// Bytes gathered before they are written together.
const WRITE_BYTES: usize = 256 << 10;

/// What both trees' directories begin with: checksum, count of units, count of filters.
pub(crate) const DIRECTORY_COUNTS_BYTES: usize = 12;

/// Writes one table.
#[derive(Debug)]
pub struct TableBuilder {
    tables: Arc<Tables>,
    id: TableId,
    header: FileHeader,
    file: Arc<dyn File>,
    /// What is not written yet, and where it goes.
    buffer: Vec<u8>,
    buffer_start: u64,
    unit_count: u64,
    hasher: blake3::Hasher,
    filter_seed: Option<u64>,
    filters: FilterSetBuilder,
    is_finished: bool,
}

/// What the owner of a table's entries knows of them when all are written.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Entries.
    pub entry_count: u64,
    /// The first key.
    pub first: Bytes,
    /// The last key.
    pub last: Bytes,
    /// The lowest and the highest number of a commit, where entries have one.
    pub commits: (u64, u64),
    /// Spare entries; see [`TableMeta`].
    pub spare_count: u64,
    /// The tables that this one was made from.
    pub replaced: Vec<Replaced>,
}

impl TableBuilder {
    /// Creates the file. There is a filter for each `filter_units` units, if there is a seed for them.
    ///
    /// # Errors
    /// Whatever the machine says.
    pub fn create(
        tables: &Arc<Tables>,
        id: TableId,
        filter_seed: Option<u64>,
        filter_units: usize,
    ) -> Result<Self, TableError> {
        let file = tables.disk().open(id.file_name(), OpenMode::Create)?;
        let header = id.header(tables.store_id());
        let mut buffer = header.encode().to_vec();
        buffer.resize(size(UNITS_START), 0);
        Ok(Self {
            tables: Arc::clone(tables),
            id,
            header,
            file,
            buffer,
            buffer_start: 0,
            unit_count: 0,
            hasher: blake3::Hasher::new(),
            filter_seed,
            filters: FilterSetBuilder::new(filter_units),
            is_finished: false,
        })
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> u64 {
        self.buffer.capacity() as u64 + self.filters.memory_bytes()
    }

    /// The seed of its checksums.
    pub fn seed(&self) -> Seed {
        self.header.seed()
    }

    /// Where the next unit begins: bytes of the table so far.
    pub fn end(&self) -> u64 {
        self.buffer_start + self.buffer.len() as u64
    }

    /// Adds a key of the next unit to its filter: what `of_seed` makes of the filters' seed, if
    /// there is one.
    pub fn key(&mut self, of_seed: impl FnOnce(u64) -> u64) {
        if let Some(seed) = self.filter_seed {
            self.filters.push(of_seed(seed));
        }
    }

    /// Appends a unit, which begins with its checksum.
    ///
    /// # Errors
    /// Whatever the machine says.
    pub fn unit(&mut self, unit: &[u8]) -> Result<(), TableError> {
        self.hasher.update(&unit[..4]);
        self.unit_count += 1;
        self.filters.end_unit();
        self.append(unit)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), TableError> {
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        self.tables.disk().write(&self.file, self.buffer_start, bytes.clone())?;
        self.buffer_start += bytes.len() as u64;
        // Its memory again, unless the disk has kept it.
        self.buffer = bytes.try_into_mut().map_or_else(|_| Vec::new(), Vec::from);
        self.buffer.clear();
        Ok(())
    }

    /// Ends the table; its bytes are durable on return, its name is not (D2). `leads` is what its
    /// directory holds between the counts and where filters end.
    ///
    /// # Errors
    /// Whatever the machine says. Of a failed sync [`pinstone_disk::DiskError::operation`] tells.
    ///
    /// # Panics
    /// If it has no entries, or more units than a table may have; if a key is none of its tree; if
    /// its footer is longer than a reader accepts, as it cannot be with
    /// [`REPLACED_TABLES_MAX`](super::footer::REPLACED_TABLES_MAX) replaced tables.
    pub fn finish(mut self, leads: &[u8], contents: Contents) -> Result<TableMeta, TableError> {
        assert!(contents.entry_count > 0, "no table is empty");
        let units_end = self.end();
        let (directory, filters, derived_hash) = self.directory(leads);
        self.append(&directory)?;
        let directory_end = self.end();
        self.append(&filters)?;
        let filters_end = self.end();
        let footer = Footer {
            entry_count: contents.entry_count,
            unit_count: self.unit_count,
            units_end,
            directory_end,
            filters_end,
            filter_seed: self.filter_seed.unwrap_or(0),
            commits: contents.commits,
            spare_count: contents.spare_count,
            units_hash: *self.hasher.finalize().as_bytes(),
            derived_hash,
            first: contents.first,
            last: contents.last,
            replaced: contents.replaced,
        };
        let encoded = footer.encode(self.id.table, &self.header);
        let footer_fits = encoded.len() <= size(FOOTER_BYTES_MAX.into());
        assert!(footer_fits, "a footer names {} tables", footer.replaced.len());
        let trailer = Trailer::of(&encoded, filters_end);
        self.append(&encoded)?;
        self.append(&trailer.encode())?;
        self.write()?;
        self.tables.disk().sync(&self.file)?;
        self.is_finished = true;
        Ok(TableMeta {
            id: self.id,
            first: footer.first,
            last: footer.last,
            entry_count: footer.entry_count,
            spare_count: footer.spare_count,
            last_commit: footer.commits.1,
            file_bytes: self.end(),
            footer_hash: trailer.footer_hash,
        })
    }

    /// The directory, to stand where the units end; the filters, to stand behind it; and the hash of
    /// the checksums of both.
    fn directory(&mut self, leads: &[u8]) -> (Vec<u8>, Vec<u8>, [u8; 32]) {
        let filter_count = self.filters.end();
        let mut directory = vec![0; 4];
        for count in [self.unit_count, filter_count as u64] {
            let count = u32::try_from(count).expect("a table has fewer units");
            directory.extend_from_slice(&count.to_le_bytes());
        }
        assert_eq!(directory.len(), DIRECTORY_COUNTS_BYTES);
        directory.extend_from_slice(leads);
        let start = self.end();
        let filters_start = start + (directory.len() + 4 * filter_count) as u64;
        let (filters, ends) = self.filters.finish(self.seed(), filters_start);
        directory.extend(ends.iter().flat_map(|end| end.to_le_bytes()));
        let crc = self.seed().at(start, &[&directory[4..]]);
        directory[..4].copy_from_slice(&crc.to_le_bytes());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&directory[..4]);
        let mut filter_start = 0;
        for end in ends.into_iter().map(|end| size(end.into())) {
            // One that could not be built has no bytes.
            if filter_start < end {
                hasher.update(&filters[filter_start..filter_start + 4]);
            }
            filter_start = end;
        }
        (directory, filters, *hasher.finalize().as_bytes())
    }
}

impl Drop for TableBuilder {
    fn drop(&mut self) {
        if !self.is_finished {
            // B1.
            self.tables.remove(self.id);
        }
    }
}
