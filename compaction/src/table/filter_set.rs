//! The filters of one table: one for every part of it, so that the keys gathered in memory while it
//! is written, and what is read at once to use it, are bounded.
//!
//! 1. The table's builder adds keys, and says where a unit ends. Every so many units make a part.
//! 2. The filters stand one after the other behind the directory, which says where each ends.
//! 3. A reader reads a filter when a look-up first needs it, and keeps it.
//!
//! - F1: a filter that is damaged, or could not be built, says nothing: what it covers is read.
//! - F2: filters take no more memory than they may, all tables' together: one that is needed when
//!   there is no more says nothing, until others are let go with their tables.

use std::ops::RangeInclusive;
use std::sync::OnceLock;

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, Reader, size};

use crate::error::TableError;
use crate::table::container::TableFile;
use crate::table::filter::Filter;

/// Gathers the keys of a table, and makes its filters.
#[derive(Debug)]
pub struct FilterSetBuilder {
    /// Units of a part.
    part_units: usize,
    /// Units of the part that has not ended.
    units: usize,
    /// Keys of the part that has not ended.
    keys: Vec<u64>,
    filters: Vec<Option<Filter>>,
}

impl FilterSetBuilder {
    /// Makes a filter for each `part_units` units, and one for those that are left, unless they
    /// have no keys.
    pub fn new(part_units: usize) -> Self {
        Self { part_units, units: 0, keys: Vec::new(), filters: Vec::new() }
    }

    /// Bytes of memory that the keys and the filters take.
    pub fn memory_bytes(&self) -> u64 {
        let filters = self.filters.iter().flatten().map(Filter::memory_bytes);
        (8 * self.keys.capacity()) as u64 + filters.sum::<usize>() as u64
    }

    /// Adds a key of the unit that has not ended.
    pub fn push(&mut self, key: u64) {
        self.keys.push(key);
    }

    /// Ends a unit.
    pub fn end_unit(&mut self) {
        self.units += 1;
        if self.units == self.part_units {
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        self.units = 0;
        if !self.keys.is_empty() {
            self.filters.push(Filter::build(&mut self.keys));
            self.keys.clear();
        }
    }

    /// Ends the last unit, and says how many parts there are.
    pub fn end(&mut self) -> usize {
        self.end_part();
        self.filters.len()
    }

    /// The filters' bytes, to stand at `start`, and where each ends, counted from there.
    ///
    /// # Panics
    /// If they have 4 GiB or more.
    pub fn finish(&mut self, seed: Seed, start: u64) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(self.filters.len()));
        for filter in self.filters.drain(..) {
            if let Some(filter) = filter {
                let at = start + bytes.len() as u64;
                bytes.extend_from_slice(&filter.encode(seed, at));
            }
            ends.push(u32::try_from(bytes.len()).expect("a table's filters have less than 4 GiB"));
        }
        (bytes, ends)
    }
}

/// The filters of a table that is read.
#[derive(Debug, Default)]
pub struct FilterSet {
    /// Where each ends, counted from where the first begins.
    ends: Box<[u32]>,
    /// Those that were needed; `None` for one that says nothing.
    slots: OnceLock<Box<[OnceLock<Option<Filter>>]>>,
}

impl FilterSet {
    /// Reads where `count` filters end, up to the directory's end: no filters, or one for each of
    /// the table's parts, of `filters_bytes` in all.
    ///
    /// # Errors
    /// The bytes end before or after, or do not fit the table.
    pub(crate) fn decode(
        reader: &mut Reader<'_>,
        count: u32,
        part_count: usize,
        filters_bytes: u64,
    ) -> Result<Self, Malformed> {
        let malformed = reader.malformed("as many filters as the table has parts, or none");
        let count = size(count.into());
        if count != 0 && count != part_count {
            return Err(malformed);
        }
        let malformed = reader.malformed("ascending ends of filters, up to the footer");
        let ends = reader.take(4 * count, "the filters' ends")?;
        let ends: Box<[u32]> =
            ends.as_chunks().0.iter().map(|end| u32::from_le_bytes(*end)).collect();
        reader.end("the directory's end")?;
        let last_end = ends.last().map_or(0, |end| u64::from(*end));
        if !ends.is_sorted() || last_end != filters_bytes {
            return Err(malformed);
        }
        Ok(Self { ends, slots: OnceLock::new() })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether `key` may be in any of these parts. Calls `ahead` before a filter is read that is not in memory.
    ///
    /// # Errors
    /// Whatever the machine says when a filter is read.
    #[expect(clippy::missing_panics_doc, reason = "what was set is there")]
    pub fn may_contain(
        &self,
        file: &TableFile,
        parts: RangeInclusive<usize>,
        key: u64,
        ahead: impl Fn(),
    ) -> Result<bool, TableError> {
        if self.is_empty() {
            return Ok(true);
        }
        let slots = match self.slots.get() {
            Some(slots) => slots,
            None => {
                let slots = self.ends.iter().map(|_| OnceLock::new()).collect();
                if self.slots.set(slots).is_ok() {
                    file.note_resident(self.ends.len() * size_of::<OnceLock<Option<Filter>>>());
                }
                self.slots.get().expect("they were set")
            }
        };
        for part in parts {
            let Some(slot) = slots.get(part) else { return Ok(true) };
            let filter = match slot.get() {
                Some(filter) => filter,
                // F2.
                None if !file.may_hold_more() => return Ok(true),
                None => {
                    ahead();
                    let (filter, is_damaged) = self.read(file, part)?;
                    let memory_bytes = filter.as_ref().map_or(0, Filter::memory_bytes);
                    if slot.set(filter).is_ok() {
                        if is_damaged {
                            file.note_ignored_filter();
                        }
                        file.note_resident(memory_bytes);
                    }
                    slot.get().expect("it was set")
                }
            };
            if filter.as_ref().is_none_or(|filter| filter.may_contain(key)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The filter, if it says anything; and whether it does not because it is damaged (F1).
    fn read(&self, file: &TableFile, part: usize) -> Result<(Option<Filter>, bool), TableError> {
        match self.check_one(file, part) {
            Err(TableError::Format(error)) => {
                tracing::warn!(%error, "a damaged filter is not used");
                Ok((None, true))
            }
            read => Ok((read?.map(|(filter, _)| filter), false)),
        }
    }

    /// The filter of a part, if it has one, and its checksum.
    fn check_one(
        &self,
        file: &TableFile,
        part: usize,
    ) -> Result<Option<(Filter, Bytes)>, TableError> {
        let filters_start = file.footer().directory_end;
        let start = if part == 0 { 0 } else { self.ends[part - 1] };
        let start = filters_start + u64::from(start);
        let end = filters_start + u64::from(self.ends[part]);
        if start == end {
            return Ok(None);
        }
        let bytes = file.read(start..end)?;
        let filter = Filter::decode(&bytes, file.seed(), start)
            .map_err(|error| file.corrupt(start + error.offset as u64, error.what))?;
        Ok(Some((filter, bytes.slice(..4))))
    }

    /// Reads and checks all of them, and that they and the directory, from which they were decoded,
    /// are the ones that the footer names.
    ///
    /// # Errors
    /// The first damage, or whatever the machine says.
    pub fn check(&self, file: &TableFile) -> Result<(), TableError> {
        let directory_start = file.footer().units_end;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&file.read(directory_start..directory_start + 4)?);
        for part in 0..self.len() {
            if let Some((_, crc)) = self.check_one(file, part)? {
                hasher.update(&crc);
            }
        }
        if hasher.finalize() != file.footer().derived_hash {
            let what = "its directory and filters are not the ones that it was written with";
            return Err(file.corrupt(directory_start, what));
        }
        Ok(())
    }
}
