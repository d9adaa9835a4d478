//! The annotated dump of a table, and of an edit of levels: every field of `docs/format.md` beside
//! its bytes.
//!
//! 1. The file's header says what it is. Damaged, it is replaced by the footer's copy of it if the
//!    trailer confirms that, else by the file's name.
//! 2. The trailer leads to the footer, the footer to the units, the directory and the filters. A
//!    footer that nothing leads to is looked for by how it begins. Without one, units are read as
//!    long as their checksums agree, and the directory is expected after them.
//! 3. Pages stand where they must. Blocks and filters stand where the directory says; if that is
//!    damaged, a block ends where its checksum agrees, and a filter's header says how long it is.
//! 4. What no row covers is shown as zeros or as undecoded.
//!
//! - P1: any bytes can be dumped; nothing here panics on them or believes a length of theirs. Rows do
//!   not overlap, so that there are no more than the bytes' fields.
//! - P2: names of structures and fields are those of `docs/format.md`.
//! - P3: what a reader refuses has a row `invalid` at its offset, or where its structure begins if
//!   its checksum is all that tells.

mod fields;
mod tail;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, Reader, size};
use pinstone_disk::dump::{Dump, Fields};
use pinstone_disk::{
    AnyHeader, FileHeader, FileName, FormatError, HEADER_BYTES, REPEATED, TRAILER_BYTES, TableKind,
};

use crate::edit::LevelEdit;
use crate::table::container::UNITS_START;
use crate::table::filter::{FILTER_HEADER_BYTES, Filter};
use crate::table::footer::Footer;
use crate::table::index::{
    self, DIRECTORY_HEADER_BYTES, IndexKey, PAGE_BYTES, PAGE_HEADER_BYTES, PAGE_ROWS, ROW_BYTES,
};
use crate::table::name_block::{self, Block, RUN_ENTRIES};
use crate::table::name_directory;
use crate::table::names::{BLOCK_SOUGHT_BYTES, first_block};

use tail::{Parts, Tail, identity, said_parts, table_kind};

/// Dumps a table; `None` if the file is none. What is damaged is shown as far as it can be, with an
/// `invalid` row beside it. `name` helps where the file's header is damaged.
///
/// Cost: linear in `bytes`; memory for a row a field.
pub fn dump_file(name: Option<&FileName>, bytes: &[u8]) -> Option<Dump> {
    let kind = table_kind(name, bytes)?;
    let tail = Tail::find(bytes);
    let header = identity(kind, name, bytes, &tail);
    let mut walk = Walk {
        dump: Dump::new(),
        bytes,
        kind,
        header,
        seed: header.seed(),
        units: Units::default(),
        derived: blake3::Hasher::new(),
    };
    walk.table(&tail);
    walk.dump.push_gaps(bytes);
    Some(walk.dump)
}

/// Adds rows for the level edit that `bytes` begin with, which stand at `origin` of a file. Returns
/// its length, or how much of it has rows.
///
/// Cost: linear in the edit; memory for a row a field.
pub fn level_edit(dump: &mut Dump, origin: u64, bytes: &[u8]) -> usize {
    let rows_before = dump.rows().len();
    let mut fields = Fields::new(dump, "level_edit", origin, bytes);
    let shown = fields::level_edit(&mut fields);
    let structure = fields.structure;
    let last = dump.rows()[rows_before..].last();
    let taken = last.map_or(0, |row| size(row.offset - origin) + row.len);
    let decoded = LevelEdit::decode(&mut Reader::new(bytes)).map(drop);
    if let Err(error) = decoded.and(shown) {
        dump.malformed(origin, structure, error);
    }
    taken
}

/// Where a header has its version.
const VERSION_OFFSET_BYTES: u64 = 8;

/// Where a header has nothing.
const HEADER_RESERVED: Range<u64> = 48..60;

/// A name and a commit.
type Version = (Vec<u8>, u64);

/// What was seen of the units.
struct Units {
    /// All were sound.
    are_sound: bool,
    count: u64,
    entry_count: u64,
    /// Names whose newest version is no deletion.
    standing_count: u64,
    first: Vec<u8>,
    last: Vec<u8>,
    last_row: Option<[u8; ROW_BYTES]>,
    last_commit: u64,
    commits: Option<(u64, u64)>,
    /// Of each page the top bits of its first row; `None` if it has no row.
    tops: Vec<Option<u32>>,
    /// Of each sound block its first and its last entry.
    bounds: Vec<(usize, [Version; 2])>,
    hasher: blake3::Hasher,
}

impl Default for Units {
    fn default() -> Self {
        Self {
            are_sound: true,
            count: 0,
            entry_count: 0,
            standing_count: 0,
            first: Vec::new(),
            last: Vec::new(),
            last_row: None,
            last_commit: 0,
            commits: None,
            tops: Vec::new(),
            bounds: Vec::new(),
            hasher: blake3::Hasher::new(),
        }
    }
}

struct Walk<'a> {
    dump: Dump,
    bytes: &'a [u8],
    kind: TableKind,
    header: FileHeader,
    seed: Seed,
    units: Units,
    /// Of the directory's checksum and the filters'.
    derived: blake3::Hasher,
}

impl<'a> Walk<'a> {
    /// The bytes in this range, as far as the file goes.
    fn slice(&self, range: Range<u64>) -> &'a [u8] {
        let end = range.end.min(self.bytes.len() as u64);
        self.bytes.get(size(range.start)..size(end)).unwrap_or(&[])
    }

    fn fields<'d>(&'d mut self, structure: &'static str, range: Range<u64>) -> Fields<'a, 'd> {
        let bytes = self.slice(range.clone());
        Fields::new(&mut self.dump, structure, range.start, bytes)
    }

    fn sum_agrees(&self, range: Range<u64>) -> bool {
        let Some((sum, rest)) = self.slice(range.clone()).split_first_chunk() else { return false };
        self.seed.at(range.start, &[rest]) == u32::from_le_bytes(*sum)
    }

    fn table(&mut self, tail: &Tail<'_>) {
        let end = tail.start().unwrap_or(self.bytes.len() as u64);
        self.header(end);
        let said = tail.footer.and_then(|(_, footer)| said_parts(footer));
        let fits = said.filter(|parts| parts.ascend() && parts.filters_end == end);
        // A damaged footer is believed if there is a directory where it says.
        let is_directory = |parts: &Parts| self.sum_agrees(parts.units_end..parts.directory_end);
        let parts = fits.filter(|parts| tail.is_confirmed() || is_directory(parts));
        match self.kind {
            TableKind::Index => self.index(parts, end),
            TableKind::Names => self.names(parts, end),
        }
        match tail.footer {
            Some((start, _)) => self.footer(start..tail.trailer_start.unwrap_or(u64::MAX), tail),
            None => self.dump.invalid(end, "table_footer", "there is none"),
        }
        match tail.trailer_start {
            Some(start) => self.trailer(start, tail),
            None => self.dump.invalid(self.bytes.len() as u64, "trailer", "there is none"),
        }
    }

    /// The header, and what follows it up to the first unit.
    fn header(&mut self, end: u64) {
        let shown = self.fields("header", 0..HEADER_BYTES as u64).header(|_| true);
        match (shown, AnyHeader::decode(&FileName::Current, self.bytes)) {
            (Err(error), _) => self.dump.malformed(0, "header", error),
            (_, Err(error)) => self.dump.refused(VERSION_OFFSET_BYTES, "header", &error),
            (_, Ok(_)) => {
                let reserved = self.slice(HEADER_RESERVED);
                if let Some(at) = reserved.iter().position(|byte| *byte != 0) {
                    let at = HEADER_RESERVED.start + at as u64;
                    self.dump.invalid(at, "header", "expected zeros");
                }
            }
        }
        let padding = HEADER_BYTES as u64..UNITS_START.min(end);
        self.dump.push_padding(padding.start, self.slice(padding.clone()));
    }

    /// Pages, directory and filters, which end at `end`.
    fn index(&mut self, parts: Option<Parts>, end: u64) {
        let units_end = parts.map_or_else(|| self.pages_end(end), |parts| parts.units_end);
        let mut at = UNITS_START;
        while at < units_end {
            let page_end = (at + PAGE_BYTES as u64).min(units_end);
            self.index_page(at..page_end);
            at = page_end;
        }
        let directory_end = parts.map(|parts| parts.directory_end);
        let directory_end = directory_end.or_else(|| self.index_directory_end(units_end, end));
        let Some(directory_end) = directory_end else {
            self.nothing_begins(units_end, end, "index_directory");
            return;
        };
        let directory = units_end..directory_end;
        let filters = directory_end..end;
        let ends = self.index_directory(directory.clone(), filters.end - filters.start);
        self.filters(filters, ends);
    }

    /// Where the last page before `end` ends whose checksum agrees.
    fn pages_end(&self, end: u64) -> u64 {
        let page_bytes = PAGE_BYTES as u64;
        let starts = (1..).map(|page| page * page_bytes);
        let starts = starts.take_while(|start| start + page_bytes <= end);
        let last = starts.filter(|start| self.sum_agrees(*start..start + page_bytes)).last();
        last.map_or(UNITS_START.min(end), |start| start + page_bytes)
    }

    /// Where the directory ends that begins at `start`, by its own counts, if its checksum agrees.
    fn index_directory_end(&self, start: u64, end: u64) -> Option<u64> {
        let mut reader = Reader::new(self.slice(start..end));
        reader.u32("crc").ok()?;
        let numbers =
            u64::from(reader.u32("page_count").ok()?) + u64::from(reader.u32("filter_count").ok()?);
        let directory_end = start + DIRECTORY_HEADER_BYTES as u64 + 4 * numbers;
        let is_one = directory_end <= end && self.sum_agrees(start..directory_end);
        is_one.then_some(directory_end)
    }

    /// What stands at `start` is not known.
    fn nothing_begins(&mut self, start: u64, end: u64, structure: &'static str) {
        let what = if start < end { "none begins here" } else { "there is none" };
        self.dump.invalid(start, structure, what);
    }

    fn index_page(&mut self, range: Range<u64>) {
        let page = self.slice(range.clone());
        let mut fields = self.fields("index_page", range.clone());
        let shown = (|| {
            fields.hex32("crc")?;
            let row_count = fields.u16("row_count")?;
            fields.bytes("reserved", 10)?;
            fields.structure = "index_row";
            for _ in 0..usize::from(row_count).min(PAGE_ROWS) {
                fields::hex(&mut fields, "key", IndexKey::BYTES)?;
                fields.u8("size_class", |class| class.to_string())?;
                fields::big_endian(&mut fields, "ordinal")?;
                fields::big_endian(&mut fields, "offset")?;
            }
            fields.structure = "index_page";
            let left = fields.reader.left();
            fields.bytes("unused", left)
        })();
        self.units.count += 1;
        self.units.hasher.update(page.get(..4).unwrap_or(&[]));
        let rows = page.get(PAGE_HEADER_BYTES..).unwrap_or(&[]).as_chunks::<ROW_BYTES>().0;
        let top = rows.first().and_then(|row| row.first_chunk());
        self.units.tops.push(top.map(|top| u32::from_be_bytes(*top)));
        let is_sound = match shown {
            Ok(_) if !self.sum_agrees(range.clone()) || page.len() != PAGE_BYTES => {
                self.dump.invalid(range.start, "index_page", "its checksum does not match");
                false
            }
            shown => match shown.and(index::is_page(page)) {
                Ok(()) => true,
                Err(error) => {
                    self.dump.malformed(range.start, "index_page", error);
                    false
                }
            },
        };
        if !is_sound {
            self.units.are_sound = false;
            return;
        }
        let row_count = usize::from(u16::from_le_bytes([page[4], page[5]]));
        for (number, row) in rows.iter().enumerate().take(row_count) {
            if self.units.last_row.is_some_and(|last| last >= *row) {
                self.units.are_sound = false;
                let at = range.start + (PAGE_HEADER_BYTES + number * ROW_BYTES) as u64;
                self.dump.invalid(
                    at,
                    "index_row",
                    "expected a row that comes after the one before",
                );
            }
            if self.units.entry_count == 0 {
                self.units.first = row[..IndexKey::BYTES].to_vec();
            }
            self.units.last = row[..IndexKey::BYTES].to_vec();
            self.units.last_row = Some(*row);
            self.units.entry_count += 1;
        }
    }

    /// The directory; returns where the filters end that it tells of, if it is sound.
    fn index_directory(&mut self, range: Range<u64>, filters_bytes: u64) -> Option<Vec<u32>> {
        let mut fields = self.fields("index_directory", range.clone());
        let mut filter_ends = Vec::new();
        let shown = (|| {
            fields.hex32("crc")?;
            let page_count = fields.u32("page_count")?;
            let filter_count = fields.u32("filter_count")?;
            fields.u32("reserved")?;
            fields.structure = "page_key";
            for _ in 0..page_count {
                fields.hex32("top")?;
            }
            fields::filter_ends(&mut fields, filter_count, &mut filter_ends)
        })();
        let directory = self.slice(range.clone());
        self.derived.update(directory.get(..4).unwrap_or(&[]));
        if !self.sum_agrees(range.clone()) {
            self.dump.invalid(range.start, "index_directory", "its checksum does not match");
            return None;
        }
        let decoded = index::Directory::decode(directory, self.units.count, filters_bytes);
        if let Err(error) = shown.and(decoded.map(drop)) {
            self.dump.malformed(range.start, "index_directory", error);
            return None;
        }
        let tops = directory[DIRECTORY_HEADER_BYTES..].as_chunks::<4>().0;
        let tops = tops.iter().map(|top| u32::from_le_bytes(*top));
        let differs = self.units.tops.iter().zip(tops).position(|(seen, top)| *seen != Some(top));
        if let Some(page) = differs
            && self.units.are_sound
        {
            let at = range.start + (DIRECTORY_HEADER_BYTES + 4 * page) as u64;
            self.dump.invalid(at, "page_key", "its page begins with another key");
        }
        Some(filter_ends)
    }

    /// Blocks, directory and filters, which end at `end`.
    fn names(&mut self, parts: Option<Parts>, end: u64) {
        let directory = parts.map(|parts| parts.units_end..parts.directory_end);
        // Where blocks end, as the directory says.
        let (mut ends, mut is_sound) = (Vec::new(), false);
        if let Some(range) = &directory {
            ends = said_block_ends(self.slice(range.clone()), range.start);
            is_sound = self.sum_agrees(range.clone()) && ends.last() == Some(&range.start);
        }
        let units_end = directory.as_ref().map(|range| range.start);
        let mut at = UNITS_START;
        while at < units_end.unwrap_or(end) {
            let said = ends.get(ends.partition_point(|end| *end <= at)).copied();
            let found = if is_sound { said } else { self.block_end(at, units_end.unwrap_or(end)) };
            let Some(block_end) = found.or(said) else { break };
            self.name_block(at..block_end);
            at = block_end;
        }
        let directory = directory.or_else(|| Some(at..self.name_directory_end(at, end)?));
        if directory.as_ref().is_none_or(|directory| at < directory.start) {
            self.units.are_sound = false;
            self.nothing_begins(at.min(end), end, "name_block");
        }
        if let Some(directory) = directory {
            let filters = directory.end..end;
            let ends = self.name_directory(directory, filters.end - filters.start);
            self.filters(filters, ends);
        }
    }

    /// Where the block ends that begins at `start`: the shortest of which the checksum agrees, and
    /// that is a block.
    fn block_end(&self, start: u64, end: u64) -> Option<u64> {
        let bytes = self.slice(start..end.min(start + BLOCK_SOUGHT_BYTES));
        let block = first_block(&Bytes::copy_from_slice(bytes), self.seed, start)?;
        Some(start + block.len_bytes() as u64)
    }

    /// Where the directory ends that begins at `start`, by its own counts, if its checksum agrees.
    fn name_directory_end(&self, start: u64, end: u64) -> Option<u64> {
        let mut reader = Reader::new(self.slice(start..end));
        let skipped = (|| {
            reader.u32("crc")?;
            let block_count = reader.u32("block_count")?;
            let filter_count = reader.u32("filter_count")?;
            for _ in 0..block_count {
                skip_block_key(&mut reader)?;
            }
            reader.take(4 * size(filter_count.into()), "filter_ends")
        })();
        skipped.ok()?;
        let directory_end = start + reader.offset() as u64;
        self.sum_agrees(start..directory_end).then_some(directory_end)
    }

    fn name_block(&mut self, range: Range<u64>) {
        let bytes = self.slice(range.clone());
        // What stands at the end says where the entries end.
        let entry_count = bytes.last_chunk().map_or(0, |count| u32::from_le_bytes(*count));
        let run_count = size(entry_count.into()).div_ceil(RUN_ENTRIES);
        let run_offsets = bytes.len().checked_sub(4 * run_count + 4).filter(|start| *start >= 4);
        let entries_end = run_offsets.unwrap_or(bytes.len().saturating_sub(4).max(4));
        let entries_end = entries_end.min(bytes.len());
        let mut fields = self.fields("name_block", range.start..range.start + entries_end as u64);
        let entries =
            fields.hex32("crc").and_then(|_| fields::name_entries(&mut fields, entry_count));
        let tail = range.start + entries_end as u64..range.end;
        let mut fields = self.fields("run_offset", tail);
        let runs = if run_offsets.is_some() { run_count } else { 0 };
        let ended = (0..runs).try_for_each(|_| fields.u32("offset").map(drop));
        fields.structure = "name_block";
        let ended = ended.and_then(|()| fields.u32("entry_count"));
        self.units.count += 1;
        self.units.hasher.update(bytes.get(..4).unwrap_or(&[]));
        match Block::open(Bytes::copy_from_slice(bytes), self.seed, range.start) {
            Ok(block) => self.sound_block(range.start, &Arc::new(block)),
            Err(error) => {
                self.units.are_sound = false;
                if self.sum_agrees(range.clone()) {
                    return self.dump.malformed(range.start, "name_block", error);
                }
                self.dump.invalid(range.start, "name_block", "its checksum does not match");
                // It may help to know where the entries end to make sense.
                if let (Err(error), Ok(_)) = (entries, ended) {
                    self.dump.malformed(range.start, "name_entry", error);
                }
            }
        }
    }

    fn sound_block(&mut self, start: u64, block: &Arc<Block>) {
        let mut cursor = block.first();
        let mut bounds: Option<[Version; 2]> = None;
        while let Some(entry) = cursor.entry() {
            let here = (entry.name.to_vec(), entry.commit);
            let before = bounds.as_ref().map_or(&self.units.last, |[_, (name, _)]| name);
            self.units.standing_count += u64::from(entry.to.is_some() && *before != here.0);
            let commits = self.units.commits.unwrap_or((entry.commit, entry.commit));
            self.units.commits = Some((commits.0.min(entry.commit), commits.1.max(entry.commit)));
            match &mut bounds {
                Some(bounds) => bounds[1] = here,
                None => bounds = Some([here.clone(), here]),
            }
            cursor.forward();
        }
        let Some(bounds) = bounds else { return };
        let [(first, first_commit), (last, last_commit)] = &bounds;
        let before = (&self.units.last[..], self.units.last_commit);
        if self.units.entry_count == 0 {
            self.units.first.clone_from(first);
        } else if name_block::order(before, (first, *first_commit)).is_ge() {
            self.units.are_sound = false;
            self.dump.invalid(
                start + 4,
                "name_entry",
                "expected an entry that comes after the one before",
            );
        }
        self.units.last.clone_from(last);
        self.units.last_commit = *last_commit;
        self.units.entry_count += block.entry_count() as u64;
        self.units.bounds.push((size(self.units.count - 1), bounds));
    }

    /// The directory; returns where the filters end that it tells of, if it is sound.
    fn name_directory(&mut self, range: Range<u64>, filters_bytes: u64) -> Option<Vec<u32>> {
        let mut fields = self.fields("name_directory", range.clone());
        let mut filter_ends = Vec::new();
        let shown = (|| {
            fields.hex32("crc")?;
            let block_count = fields.u32("block_count")?;
            let filter_count = fields.u32("filter_count")?;
            for _ in 0..block_count {
                fields::block_key(&mut fields)?;
            }
            fields::filter_ends(&mut fields, filter_count, &mut filter_ends)
        })();
        self.derived.update(self.slice(range.clone()).get(..4).unwrap_or(&[]));
        if !self.sum_agrees(range.clone()) {
            self.dump.invalid(range.start, "name_directory", "its checksum does not match");
            return None;
        }
        let decoded = name_directory::Directory::decode(
            self.slice(range.clone()),
            range.start,
            filters_bytes,
        );
        match shown.and(decoded) {
            Ok(directory) => {
                let mut bounds = self.units.bounds.iter();
                let misled = bounds.find(|(block, bounds)| {
                    let leads = |(name, commit): &Version| {
                        directory.block_of(name, *commit) == Some(*block)
                    };
                    !bounds.iter().all(leads)
                });
                if misled.is_some() {
                    let why = "it does not lead to its entries";
                    self.dump.invalid(range.start, "name_directory", why);
                }
                Some(filter_ends)
            }
            Err(error) => {
                self.dump.malformed(range.start, "name_directory", error);
                None
            }
        }
    }

    /// The filters in this range: those that end where the directory says, counted from its start,
    /// or as long as their own headers say.
    fn filters(&mut self, range: Range<u64>, ends: Option<Vec<u32>>) {
        let mut at = range.start;
        if let Some(ends) = ends {
            for end in ends {
                let end = (range.start + u64::from(end)).min(range.end);
                if at < end {
                    self.filter(at..end);
                    at = end;
                }
            }
            return;
        }
        while at < range.end {
            match filter_bytes(self.slice(at..range.end)).map(|len| at.saturating_add(len)) {
                Some(end) if end <= range.end => {
                    self.filter(at..end);
                    at = end;
                }
                _ => return self.dump.invalid(at, "filter", "none begins here"),
            }
        }
    }

    fn filter(&mut self, range: Range<u64>) {
        let mut fields = self.fields("filter", range.clone());
        // What cannot be shown cannot be decoded either.
        let _shown = (|| {
            fields.hex32("crc")?;
            fields.u8("kind", |kind| kind.to_string())?;
            fields.u8("segment_bits", |bits| bits.to_string())?;
            fields.u16("reserved")?;
            fields.u32("segment_count")?;
            fields.u32("key_count")?;
            fields.u64("seed")?;
            let left = fields.reader.left();
            fields.bytes("fingerprints", left)
        })();
        let bytes = Bytes::copy_from_slice(self.slice(range.clone()));
        self.derived.update(bytes.get(..4).unwrap_or(&[]));
        if !self.sum_agrees(range.clone()) {
            self.dump.invalid(range.start, "filter", "its checksum does not match");
        } else if let Err(error) = Filter::decode(&bytes, self.seed, range.start) {
            self.dump.malformed(range.start, "filter", error);
        }
    }

    fn footer(&mut self, range: Range<u64>, tail: &Tail<'_>) {
        let kind = self.kind;
        let mut fields = self.fields("table_footer", range.clone());
        let shown = (|| {
            fields.text("magic", 8)?;
            fields.repeated(|_| true)?;
            for field in ["entry_count", "unit_count", "units_end", "directory_end", "filters_end"]
            {
                fields.u64(field)?;
            }
            for field in ["filter_seed", "first_commit", "last_commit", "spare_count"] {
                fields.u64(field)?;
            }
            fields.digest("units_hash")?;
            fields.digest("derived_hash")?;
            fields::key(&mut fields, kind, "first_key_bytes", "first_key")?;
            fields::key(&mut fields, kind, "last_key_bytes", "last_key")?;
            let replaced_count = fields.varint("replaced_count")?;
            fields.structure = "replaced_table";
            for _ in 0..replaced_count {
                fields.u32("ordinal")?;
                fields.u32("epoch")?;
                fields::key(&mut fields, kind, "first_key_bytes", "first_key")?;
                fields::key(&mut fields, kind, "until_key_bytes", "until_key")?;
            }
            Ok(())
        })();
        let structure = fields.structure;
        if tail.trailer.is_ok() && !tail.is_confirmed() {
            let why = "it is not the one that its trailer names";
            self.dump.invalid(range.start, "table_footer", why);
        }
        let footer = self.slice(range.clone());
        let (decoded, copy) = (Footer::decode(self.kind, footer), footer.get(REPEATED));
        let judged = copy.map(|copy| self.header.check_copy(&FileName::Current, 0, copy));
        match (shown, decoded) {
            (Err(error), _) => self.dump.malformed(range.start, structure, error),
            _ if matches!(judged, Some(Err(FormatError::Corrupt { .. }))) => {
                self.dump.invalid(range.start, "table_footer", "it is another file's");
            }
            _ if matches!(judged, Some(Err(_))) => {
                self.dump.invalid(range.start, "table_footer", "it is of an unknown format");
            }
            (_, Err(error)) => self.dump.malformed(range.start, structure, error),
            (_, Ok(footer)) => self.check_footer(range.start, &footer),
        }
    }

    /// Whether the footer says what was found before it.
    fn check_footer(&mut self, start: u64, footer: &Footer) {
        let &Footer { units_end, directory_end, filters_end, .. } = footer;
        let parts = Parts { units_end, directory_end, filters_end };
        if !parts.ascend() || filters_end != start {
            self.dump.invalid(start, "table_footer", "its offsets do not fit the file");
        }
        if self.derived.finalize() != footer.derived_hash {
            let why = "its directory and filters are not the ones that it was written with";
            self.dump.invalid(start, "table_footer", why);
        }
        if self.units.hasher.finalize() != footer.units_hash {
            let why = "its units are not the ones that it was written with";
            return self.dump.invalid(start, "table_footer", why);
        }
        let units = &self.units;
        let spare_count = match self.kind {
            TableKind::Index => 0,
            TableKind::Names => units.entry_count - units.standing_count,
        };
        let commits = units.commits.unwrap_or((0, 0));
        let found = (units.count, units.entry_count, spare_count, commits);
        let said = (footer.unit_count, footer.entry_count, footer.spare_count, footer.commits);
        let keys = (units.first[..] == footer.first[..], units.last[..] == footer.last[..]);
        if units.are_sound && (found != said || keys != (true, true)) {
            self.dump.invalid(start, "table_footer", "it does not say what its units hold");
        }
    }

    fn trailer(&mut self, start: u64, tail: &Tail<'_>) {
        let mut fields = self.fields("trailer", start..start + TRAILER_BYTES as u64);
        // All its bytes are there: only a meaning can be wrong.
        let _shown = fields.trailer();
        if let Err(error) = &tail.trailer {
            self.dump.refused(start, "trailer", error);
        }
    }
}

/// Where blocks end, as far as a directory says, up to `units_end`.
fn said_block_ends(directory: &[u8], units_end: u64) -> Vec<u64> {
    let mut reader = Reader::new(directory);
    let (mut ends, mut end) = (Vec::new(), UNITS_START);
    // What is wrong with it is told when it is shown.
    let _read = (|| {
        reader.u32("crc")?;
        let block_count = reader.u32("block_count")?;
        reader.u32("filter_count")?;
        for _ in 0..block_count {
            let block_bytes = skip_block_key(&mut reader)?;
            match end.checked_add(block_bytes) {
                Some(next) if next > end && next <= units_end => end = next,
                _ => break,
            }
            ends.push(end);
        }
        Ok::<_, Malformed>(())
    })();
    ends
}

/// Reads past a block's key; returns the block's length.
fn skip_block_key(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let block_bytes = reader.varint("block_bytes")?;
    reader.varint("commit_plus_one")?;
    let name_bytes = reader.varint_usize("name_bytes")?;
    reader.take(name_bytes, "name")?;
    Ok(block_bytes)
}

/// How long the filter is that `bytes` begin with, as its header says.
fn filter_bytes(bytes: &[u8]) -> Option<u64> {
    let segment_bytes = 1u64.checked_shl((*bytes.get(5)?).into())?;
    let segment_count = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
    let fingerprints = segment_bytes.checked_mul(u64::from(segment_count) + 2)?;
    fingerprints.checked_add(FILTER_HEADER_BYTES as u64)
}
