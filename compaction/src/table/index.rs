//! Tables of the digest index: rows of one width, sorted, found by the top bits of their key.
//!
//! 1. A row is some of the digest, then the place of the value. Rows stand in pages, in ascending
//!    order of all their bytes; `docs/format.md` has the layout.
//! 2. The directory holds the top 32 bits of each page's first key. Keys are uniform, so where to
//!    look in it is computed, and mended by a few steps; one page is read.
//! 3. Every [`FILTER_PAGES`] pages have a filter of their keys. A page is read only if its filter
//!    says that the key may be there.
//!
//! Directory and filters are read when they are first needed, and stay. A damaged directory is made
//! again from the pages; without its filter a page is simply read.
//!
//! - I1: what is found has the key asked for; whether it is the value asked for, the caller finds
//!   out by the whole digest. Any number of rows may share a key.
//! - I2: a row is never missed: pages that begin with the key's top bits, and the one before them,
//!   are all looked at.
//! - I3: pages that are cached were checked whole as they were read from the device, what is zero in them
//!   too. A page that is mapped is searched unchecked, and a copy checked and searched before it
//!   counts that a row is not there (T5 of [`container`](super::container)); a row that is found there is
//!   the caller's to confirm (I1).

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pinstone_disk::codec::{Malformed, Reader, size};
use pinstone_disk::uniform::{boundary, rank};
use pinstone_disk::{Batch, InTurn, Op};

use crate::error::TableError;
use crate::table::builder::{Contents, DIRECTORY_COUNTS_BYTES, TableBuilder};
use crate::table::container::{Resident, TableFile, UNITS_START};
use crate::table::filter::digest_key;
use crate::table::filter_set::FilterSet;
use crate::table::footer::Replaced;
use crate::table::probes::{ProbeFigures, count};
use crate::table::shared::{Tables, Unit};
use crate::table::{SCAN_BYTES, TableId, TableMeta};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// Pages that one filter covers: its keys are gathered in memory while a table is written.
pub const FILTER_PAGES: usize = 256;

pub(crate) const PAGE_HEADER_BYTES: usize = 16;
pub(crate) const ROW_BYTES: usize = 16;
/// Rows of a full page.
pub const PAGE_ROWS: usize = (PAGE_BYTES - PAGE_HEADER_BYTES) / ROW_BYTES;
pub(crate) const DIRECTORY_HEADER_BYTES: usize = 16;
const _: () = assert!(PAGE_ROWS == 255);
const _: () = assert!(UNITS_START.is_multiple_of(PAGE_BYTES as u64));

/// The first 7 bytes of a digest, as a number: what the index knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexKey(u64);

impl IndexKey {
    /// Bytes of a key.
    pub const BYTES: usize = 7;

    /// The key of a digest, of which only the first `bits` count: 56, or fewer to force collisions.
    #[expect(clippy::missing_panics_doc, reason = "a digest has 32 bytes")]
    pub fn of(digest: &[u8; 32], bits: u32) -> Self {
        let first = u64::from_be_bytes(*digest.first_chunk().expect("eight of 32 bytes"));
        let bits = bits.clamp(1, 56);
        Self(first >> (64 - bits) << (56 - bits))
    }

    /// The number, below 2^56.
    pub fn number(self) -> u64 {
        self.0
    }

    fn top(self) -> u32 {
        u32::try_from(self.0 >> 24).expect("56 bits less 24 are 32")
    }

    /// Its bytes, in the order of keys.
    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes()[1..])
    }
}

/// One row: a key, and 72 bits that its owner gives a meaning. Rows are ordered as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(u128);

impl Row {
    /// A row of `key`, with the low 72 bits of `payload`.
    pub fn new(key: IndexKey, payload: u128) -> Self {
        Self(u128::from(key.0) << 72 | payload & ((1 << 72) - 1))
    }

    /// Its key.
    #[expect(clippy::missing_panics_doc, reason = "56 bits are left")]
    pub fn key(self) -> IndexKey {
        IndexKey(u64::try_from(self.0 >> 72).expect("128 bits less 72 are 56"))
    }

    /// Its payload, 72 bits.
    pub fn payload(self) -> u128 {
        self.0 & ((1 << 72) - 1)
    }
}

/// Writes one table of the index.
#[derive(Debug)]
pub struct IndexBuilder {
    file: TableBuilder,
    page: Vec<u8>,
    row_count: u64,
    first: Option<Row>,
    last: Option<Row>,
    /// The top bits of each page's first key.
    tops: Vec<u32>,
}

impl IndexBuilder {
    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> u64 {
        self.file.memory_bytes() + (self.page.capacity() + 4 * self.tops.capacity()) as u64
    }

    /// Begins a table, with filters if there is a seed for them.
    ///
    /// # Errors
    /// Whatever the machine says.
    pub fn create(
        tables: &Arc<Tables>,
        id: TableId,
        filter_seed: Option<u64>,
    ) -> Result<Self, TableError> {
        Ok(Self {
            file: TableBuilder::create(tables, id, filter_seed, FILTER_PAGES)?,
            page: Vec::with_capacity(PAGE_BYTES),
            row_count: 0,
            first: None,
            last: None,
            tops: Vec::new(),
        })
    }

    /// Bytes of its rows' pages so far, but for the one being filled.
    pub fn len_bytes(&self) -> u64 {
        self.file.end() - UNITS_START
    }

    /// The last row.
    pub fn last(&self) -> Option<Row> {
        self.last
    }

    /// Adds a row, greater than all before it.
    ///
    /// # Errors
    /// Whatever the machine says.
    ///
    /// # Panics
    /// If it is not greater.
    pub fn push(&mut self, row: Row) -> Result<(), TableError> {
        assert!(self.last.is_none_or(|last| last < row), "rows come in order");
        if self.page.is_empty() {
            self.page.resize(PAGE_HEADER_BYTES, 0);
            self.tops.push(row.key().top());
        }
        self.page.extend_from_slice(&row.0.to_be_bytes());
        self.file.key(|seed| digest_key(row.key().0, seed));
        self.first.get_or_insert(row);
        self.last = Some(row);
        self.row_count += 1;
        if self.page.len() == PAGE_BYTES { self.end_page() } else { Ok(()) }
    }

    fn end_page(&mut self) -> Result<(), TableError> {
        let count = (self.page.len() - PAGE_HEADER_BYTES) / ROW_BYTES;
        let count = u16::try_from(count).expect("a page has at most 255 rows");
        self.page[4..6].copy_from_slice(&count.to_le_bytes());
        self.page.resize(PAGE_BYTES, 0);
        let crc = self.file.seed().at(self.file.end(), &[&self.page[4..]]);
        self.page[..4].copy_from_slice(&crc.to_le_bytes());
        self.file.unit(&self.page)?;
        self.page.clear();
        Ok(())
    }

    /// Ends the table, made from these; its bytes are durable on return, its name is not.
    ///
    /// # Errors
    /// Whatever the machine says; the file is removed again if it can be.
    ///
    /// # Panics
    /// If it has no rows.
    pub fn finish(mut self, replaced: Vec<Replaced>) -> Result<TableMeta, TableError> {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            panic!("no table is empty");
        };
        if !self.page.is_empty() {
            self.end_page()?;
        }
        let mut leads = vec![0; DIRECTORY_HEADER_BYTES - DIRECTORY_COUNTS_BYTES];
        leads.extend(self.tops.iter().flat_map(|top| top.to_le_bytes()));
        let contents = Contents {
            entry_count: self.row_count,
            first: first.key().bytes(),
            last: last.key().bytes(),
            replaced,
            ..Contents::default()
        };
        self.file.finish(&leads, contents)
    }

    /// Gives the table up: its file goes with it.
    pub fn abandon(self) {
        drop(self);
    }
}

/// A table of the index that can be read; many threads at once.
#[derive(Debug)]
pub struct IndexTable {
    file: TableFile,
    directory: OnceLock<Directory>,
}

/// What leads to the pages and to their filters.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The top bits of each page's first key.
    tops: Box<[u32]>,
    filters: FilterSet,
}

impl Resident for Directory {
    fn resident_bytes(&self) -> usize {
        4 * (self.tops.len() + self.filters.len())
    }
}

impl IndexTable {
    /// Opens a table by its tail.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub fn open(tables: &Arc<Tables>, meta: TableMeta) -> Result<Self, TableError> {
        let file = TableFile::open(tables, meta)?;
        let (footer, name) = (file.footer(), file.name());
        let pages_bytes = footer.unit_count.checked_mul(PAGE_BYTES as u64);
        let fits = pages_bytes.and_then(|bytes| bytes.checked_add(UNITS_START))
            == Some(footer.units_end)
            && footer.entry_count <= footer.unit_count * PAGE_ROWS as u64;
        if !fits {
            return Err(TableError::corrupt(name, footer.filters_end, "its counts do not agree"));
        }
        // Whoever looks something up waits for it first.
        file.will_read_directory();
        Ok(Self { file, directory: OnceLock::new() })
    }

    /// Its file.
    pub fn file(&self) -> &TableFile {
        &self.file
    }

    /// How often it was asked since it was opened, and what that cost.
    pub fn figures(&self) -> ProbeFigures {
        self.file.figures()
    }

    /// Calls `each` with the rows of `key` until it breaks; at most one page is read, unless the
    /// key's rows go over several.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub fn find(
        &self,
        key: IndexKey,
        each: impl FnMut(Row) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TableError> {
        match self.pages(key)? {
            Some(pages) => self.find_in(pages, key, each),
            None => {
                count(&self.file.probes().filtered);
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// The same in pages that [`prefetch`](Self::prefetch) told of.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_in(
        &self,
        pages: Range<usize>,
        key: IndexKey,
        mut each: impl FnMut(Row) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TableError> {
        let probes = self.file.probes();
        count(&probes.searched);
        let (directory, mut found) = (self.directory()?, false);
        let mut look = |page: usize, unit: &[u8], passed: &mut Vec<Row>| {
            let rows = rows_of(unit);
            let guess = directory.rows_below(page, rows.len(), key);
            let start = boundary(rows.len(), guess, |at| read(&rows[at]).key() < key);
            for row in rows[start..].iter().map(read).take_while(|row| row.key() == key) {
                if !std::mem::replace(&mut found, true) {
                    count(&probes.found);
                }
                if !passed.contains(&row) {
                    each(row)?;
                    passed.push(row);
                }
            }
            ControlFlow::Continue(())
        };
        for page in pages {
            let range = page_range(page as u64);
            // Rows that did not break: a page that is looked at again gives them once.
            let mut passed = Vec::new();
            let looked = match self.file.look(&range) {
                Some(unit) if unit.len() == PAGE_BYTES => {
                    // Whoever breaks has confirmed what was found. That nothing is there only bytes can say
                    // that stay what they are once they were checked (T5).
                    let looked = look(page, unit, &mut passed);
                    if looked.is_continue() {
                        let copy = Bytes::copy_from_slice(unit);
                        self.check_page(range.start, &copy)?;
                        look(page, &copy, &mut passed)
                    } else {
                        looked
                    }
                }
                _ => look(page, &self.page(page as u64)?, &mut passed),
            };
            if looked.is_break() {
                return Ok(looked);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads the pages that look-ups of these keys in these tables would read first, unless they are cached,
    /// all in flight together and in the order of their places, and caches them. What cannot be read, or is
    /// damaged, is left for the look-up to meet. Says of each look-up in which pages it is to be made; in none, if
    /// a filter tells that it finds nothing, and then it counts as made.
    ///
    /// # Errors
    /// Of each look-up: the directory is damaged, or whatever the machine says.
    pub fn prefetch<'a>(
        tables: &Tables,
        look_ups: impl IntoIterator<Item = (&'a Arc<Self>, IndexKey)>,
    ) -> Vec<Result<Option<Range<usize>>, TableError>> {
        let mut wanted: BTreeMap<(TableId, u64), &Arc<Self>> = BTreeMap::new();
        let mut due = Vec::new();
        for (table, key) in look_ups {
            let pages = table.pages(key);
            if let Ok(None) = pages {
                count(&table.file.probes().filtered);
            }
            if let Ok(Some(pages)) = &pages
                && let Some(page) = pages.clone().next()
                && !table.file.will_look(&page_range(page as u64))
                && !tables.has_unit(&(table.file.meta().id, page_range(page as u64).start))
            {
                wanted.insert((table.file.meta().id, page as u64), table);
            }
            due.push(pages);
        }
        let wanted: Vec<_> = wanted.into_iter().collect();
        for wanted in tables.few_files().parts(&wanted, |((id, _), _)| Some(*id)) {
            Self::read_pages(tables, &wanted);
        }
        due
    }

    /// Reads these pages, all in flight together, and caches those that are as they were written.
    fn read_pages(tables: &Tables, wanted: &[((TableId, u64), &Arc<Self>)]) {
        let (mut chains, mut read) = (Vec::with_capacity(wanted.len()), Vec::new());
        let mut files = InTurn::default();
        for wanted @ ((id, page), _) in wanted {
            let Some(file) = files.file(*id, || tables.file(*id).ok()) else { continue };
            let offset_bytes = page_range(*page).start;
            chains.push(vec![Op::Read { file, offset_bytes, len_bytes: PAGE_BYTES }]);
            read.push(wanted);
        }
        for (((id, page), table), read) in read.into_iter().zip(tables.disk().run(Batch { chains }))
        {
            let Some(unit) = read.ok().and_then(|mut read| read.pop()) else { continue };
            // Its file may be mapped by now, and what is cached must stay what it is (T3, T5).
            let unit = Bytes::copy_from_slice(&unit);
            let start = page_range(*page).start;
            if unit.len() == PAGE_BYTES && table.check_page(start, &unit).is_ok() {
                count(&table.file.probes().unit_reads);
                tables.keep_unit((*id, start), Unit::Page(unit), PAGE_BYTES);
            }
        }
    }

    /// The pages that may have rows of the key; none if a filter says that no page has.
    fn pages(&self, key: IndexKey) -> Result<Option<Range<usize>>, TableError> {
        let directory = self.directory()?;
        let pages = directory.pages(key);
        let Some(last) = pages.clone().last() else { return Ok(Some(pages)) };
        let parts = pages.start / FILTER_PAGES..=last / FILTER_PAGES;
        let hashed = digest_key(key.0, self.file.footer().filter_seed);
        // While a filter is read for the first time, so is the page that it probably leads to.
        let ahead = || {
            self.file.will_look(&page_range(pages.start as u64));
        };
        Ok(directory.filters.may_contain(&self.file, parts, hashed, ahead)?.then_some(pages))
    }

    fn directory(&self) -> Result<&Directory, TableError> {
        let rebuild = || self.rebuild_directory();
        self.file.directory(&self.directory, || self.read_directory(), rebuild)
    }

    fn read_directory(&self) -> Result<Directory, TableError> {
        let footer = self.file.footer();
        let decode =
            |bytes: &[u8]| Directory::decode(bytes, footer.unit_count, footer.filters_bytes());
        self.file.read_directory(decode)
    }

    /// The directory as the pages make it, without filters: where they stand is not known.
    fn rebuild_directory(&self) -> Result<Directory, TableError> {
        let mut tops = Vec::new();
        for page in 0..self.file.footer().unit_count {
            tops.push(read(&rows_of(&self.page(page)?)[0]).key().top());
        }
        Ok(Directory { tops: tops.into(), filters: FilterSet::default() })
    }

    /// A page, checked, through the cache.
    fn page(&self, page: u64) -> Result<Bytes, TableError> {
        let range = page_range(page);
        let opened = self.file.unit(range.clone(), |unit| {
            self.check_page(range.start, &unit)?;
            Ok(Unit::Page(unit))
        })?;
        match opened {
            Unit::Page(unit) => Ok(unit),
            Unit::Block(_) => unreachable!("a table of the index has pages alone"),
        }
    }

    /// I3, of a page that begins at this offset.
    fn check_page(&self, offset_bytes: u64, page: &[u8]) -> Result<(), TableError> {
        self.file.check_sum(offset_bytes, page)?;
        is_page(page)
            .map_err(|error| self.file.corrupt(offset_bytes + error.offset as u64, error.what))
    }

    /// All rows in order, read past the cache, [`SCAN_BYTES`] at once.
    pub fn rows(self: &Arc<Self>) -> Rows {
        self.rows_by(SCAN_BYTES)
    }

    /// The same, by so many bytes at once, and a page at least.
    pub(crate) fn rows_by(self: &Arc<Self>, scan_bytes: u64) -> Rows {
        let scan_pages = (scan_bytes / PAGE_BYTES as u64).max(1);
        Rows {
            table: Arc::clone(self),
            scan_pages,
            next_page: 0,
            chunk: Bytes::new(),
            row: 0,
            last: None,
        }
    }

    /// Whether all of it is as it was written: the header, every page, their order, the counts, the
    /// hashes, the directory and the filters. Calls `each` with every row.
    ///
    /// # Errors
    /// The first damage, or whatever the machine says.
    pub fn check(self: &Arc<Self>, mut each: impl FnMut(Row)) -> Result<(), TableError> {
        let footer = self.file.footer();
        let bad = |at, what| Err(self.file.corrupt(at, what));
        self.file.check_header()?;
        let (mut hasher, mut row_count) = (blake3::Hasher::new(), 0);
        let (mut first, mut last) = (None, None);
        let mut tops = Vec::new();
        for page in 0..footer.unit_count {
            let range = page_range(page);
            let unit = self.file.read(range.clone())?;
            self.check_page(range.start, &unit)?;
            hasher.update(&unit[..4]);
            let rows = rows_of(&unit);
            tops.push(read(&rows[0]).key().top());
            for row in rows.iter().map(read) {
                if last.is_some_and(|last| last >= row) {
                    return bad(range.start, "rows are out of order");
                }
                first.get_or_insert(row);
                last = Some(row);
                row_count += 1;
                each(row);
            }
        }
        if hasher.finalize() != footer.units_hash {
            return bad(footer.filters_end, "its pages are not the ones that it was written with");
        }
        let bounds = [first, last].map(|row| row.map(|row| row.key().bytes()).unwrap_or_default());
        if row_count != footer.entry_count || bounds != [footer.first.clone(), footer.last.clone()]
        {
            return bad(footer.filters_end, "its footer does not say what its pages hold");
        }
        let directory = self.read_directory()?;
        if *directory.tops != *tops {
            return bad(footer.units_end, "its directory is not the pages'");
        }
        directory.filters.check(&self.file)
    }
}

/// Whether these 4,096 bytes, whose checksum agrees, are a page.
pub(crate) fn is_page(page: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(page);
    reader.u32("a checksum")?;
    let malformed = reader.malformed("1 to 255 rows");
    let row_count = usize::from(reader.u16("a count of rows")?);
    if !(1..=PAGE_ROWS).contains(&row_count) {
        return Err(malformed);
    }
    let reserved_bytes = PAGE_HEADER_BYTES - reader.offset();
    zeros(&mut reader, reserved_bytes)?;
    reader.take(row_count * ROW_BYTES, "rows")?;
    let unused_bytes = reader.left();
    zeros(&mut reader, unused_bytes)
}

/// Reads `count` bytes that are written as zeros.
fn zeros(reader: &mut Reader<'_>, count: usize) -> Result<(), Malformed> {
    let start = reader.offset();
    match reader.take(count, "zeros")?.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(Malformed { offset: start + at, what: "zeros" }),
    }
}

/// The rows of a page; of one that was not checked (I3), whatever stands there.
fn rows_of(page: &[u8]) -> &[[u8; ROW_BYTES]] {
    let count = usize::from(u16::from_le_bytes([page[4], page[5]]));
    let rows = page[PAGE_HEADER_BYTES..].as_chunks().0;
    &rows[..count.min(rows.len())]
}

fn page_range(page: u64) -> Range<u64> {
    let start = UNITS_START + page * PAGE_BYTES as u64;
    start..start + PAGE_BYTES as u64
}

fn read(row: &[u8; ROW_BYTES]) -> Row {
    Row(u128::from_be_bytes(*row))
}

impl Directory {
    /// Decodes a directory whose checksum agrees.
    pub(crate) fn decode(
        bytes: &[u8],
        page_count: u64,
        filters_bytes: u64,
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        reader.u32("a checksum")?;
        let count = reader.u32("a count of pages")?;
        let filter_count = reader.u32("a count of filters")?;
        zeros(&mut reader, DIRECTORY_HEADER_BYTES - DIRECTORY_COUNTS_BYTES)?;
        if u64::from(count) != page_count {
            return Err(Malformed { offset: 4, what: "as many pages as the table has" });
        }
        let tops = reader.take(4 * size(count.into()), "the pages' first keys")?;
        let tops: Box<[u32]> =
            tops.as_chunks().0.iter().map(|top| u32::from_le_bytes(*top)).collect();
        if !tops.is_sorted() {
            return Err(Malformed { offset: DIRECTORY_HEADER_BYTES, what: "ascending keys" });
        }
        let part_count = tops.len().div_ceil(FILTER_PAGES);
        let filters = FilterSet::decode(&mut reader, filter_count, part_count, filters_bytes)?;
        Ok(Self { tops, filters })
    }

    /// The pages that may hold `key` (I2).
    fn pages(&self, key: IndexKey) -> Range<usize> {
        let top = key.top();
        let end = self.first_above(top, |page| page <= top);
        if end == 0 {
            return 0..0;
        }
        // The page before the first that begins with these bits may end with them.
        let mut start = end - 1;
        while start > 0 && self.tops[start] == top {
            start -= 1;
        }
        start..end
    }

    /// How many pages `is_before` holds for, which are the first ones: those with smaller keys.
    fn first_above(&self, top: u32, is_before: impl Fn(u32) -> bool) -> usize {
        let len = self.tops.len();
        let guess = size((u64::from(top) * len as u64) >> 32);
        boundary(len, guess, |page| is_before(self.tops[page]))
    }

    /// About how many of a page's rows are below `key`: it holds keys from its first one's top bits up to
    /// the next page's.
    fn rows_below(&self, page: usize, row_count: usize, key: IndexKey) -> usize {
        let start = u64::from(self.tops[page]);
        let end = self.tops.get(page + 1).map_or(1 << 32, |top| u64::from(*top));
        rank(key.top(), start..end, row_count)
    }
}

/// The rows of a table in order; owns what it reads.
#[derive(Debug)]
pub struct Rows {
    table: Arc<IndexTable>,
    scan_pages: u64,
    next_page: u64,
    /// Pages read at once, from the first of them on that has rows left.
    chunk: Bytes,
    row: usize,
    last: Option<Row>,
}

impl Rows {
    fn step(&mut self) -> Result<Option<Row>, TableError> {
        loop {
            if self.chunk.is_empty() && !self.read_chunk()? {
                return Ok(None);
            }
            let rows = rows_of(&self.chunk[..PAGE_BYTES]);
            if let Some(row) = rows.get(self.row).map(read) {
                let is_behind = self.last.is_none_or(|last| last < row);
                if !is_behind || (self.row == 0 && !self.is_within(rows)) {
                    let page = self.next_page - (self.chunk.len() / PAGE_BYTES) as u64;
                    let what = "rows are out of order";
                    return Err(self.table.file.corrupt(page_range(page).start, what));
                }
                self.row += 1;
                self.last = Some(row);
                return Ok(Some(row));
            }
            self.chunk = self.chunk.slice(PAGE_BYTES..);
            self.row = 0;
        }
    }

    /// The first and the last row of a page stand between the table's first key and its last.
    fn is_within(&self, rows: &[[u8; ROW_BYTES]]) -> bool {
        let meta = self.table.file.meta();
        let key = |row: &[u8; ROW_BYTES]| read(row).key().number().to_be_bytes();
        let is_within =
            |row: &[u8; ROW_BYTES]| (&meta.first[..]..=&meta.last[..]).contains(&&key(row)[1..]);
        rows.first().is_none_or(is_within) && rows.last().is_none_or(is_within)
    }

    fn read_chunk(&mut self) -> Result<bool, TableError> {
        let file = &self.table.file;
        let end = (self.next_page + self.scan_pages).min(file.footer().unit_count);
        if self.next_page == end {
            return Ok(false);
        }
        let (first, last) = (page_range(self.next_page), page_range(end - 1));
        self.chunk = file.read(first.start..last.end)?;
        for (page, unit) in (self.next_page..end).zip(self.chunk.chunks_exact(PAGE_BYTES)) {
            self.table.check_page(page_range(page).start, unit)?;
        }
        self.next_page = end;
        Ok(true)
    }
}

impl Iterator for Rows {
    type Item = Result<Row, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
