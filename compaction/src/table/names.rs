//! Tables of the pointer table: versions of names, in blocks.
//!
//! 1. Entries stand in ascending order of names, the newest version of each first, in blocks of
//!    about [`BLOCK_BYTES`].
//! 2. The directory leads to the block to look in: see `name_directory.rs`.
//! 3. Every [`FILTER_BLOCKS`] blocks have a filter of their names, hashed under a seed of the
//!    table's own.
//!
//! - N1: what is looked for stands in the block found, or else it is the first entry of the next.
//! - N2: a damaged directory is made again from the blocks, with the same keys.
//! - N3: iterators own what they read.

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pinstone_disk::Digest;
use pinstone_disk::checksum::{self, Seed};
use pinstone_disk::codec::{put_varint, size};

use crate::error::TableError;
use crate::merge::NameEntry;
use crate::table::builder::{Contents, TableBuilder};
use crate::table::container::{TableFile, UNITS_START};
use crate::table::filter::name_key;
use crate::table::filter_set::FilterSet;
use crate::table::footer::Replaced;
use crate::table::name_block::{Block, BlockBuilder, Cursor, ENTRY_BYTES_MIN, Entry, order};
use crate::table::name_directory::{Directory, Keys};
use crate::table::name_find::{Found, Sought};
use crate::table::probes::{ProbeFigures, count};
use crate::table::shared::{Tables, Unit};
use crate::table::{SCAN_BYTES, TableId, TableMeta};

/// Bytes after which a block ends.
pub const BLOCK_BYTES: usize = 4096;

/// Blocks that one filter covers: the keys of their names are gathered in memory while a table is
/// written.
pub const FILTER_BLOCKS: usize = 1024;

/// Writes one table of names.
#[derive(Debug)]
pub struct NameBuilder {
    file: TableBuilder,
    block: BlockBuilder,
    entry_count: u64,
    /// Names whose newest version is no deletion.
    standing_count: u64,
    commits: (u64, u64),
    first: Bytes,
    /// The last entry's name and commit.
    last: Vec<u8>,
    last_commit: u64,
    /// The directory, and the key of each block: where its bytes end, and its commit.
    block_lens: Vec<u32>,
    keys: Keys,
}

impl NameBuilder {
    /// Bytes of memory that it takes, but for the block that it gathers.
    pub fn memory_bytes(&self) -> u64 {
        let leads_bytes = self.keys.memory_bytes() + 4 * self.block_lens.capacity();
        self.file.memory_bytes() + leads_bytes as u64
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
            file: TableBuilder::create(tables, id, filter_seed, FILTER_BLOCKS)?,
            block: BlockBuilder::new(),
            entry_count: 0,
            standing_count: 0,
            commits: (u64::MAX, 0),
            first: Bytes::new(),
            last: Vec::new(),
            last_commit: 0,
            block_lens: Vec::new(),
            keys: Keys::default(),
        })
    }

    /// Bytes of its blocks so far, but for the one being filled.
    pub fn len_bytes(&self) -> u64 {
        self.file.end() - UNITS_START
    }

    /// The last name; empty before the first.
    pub fn last_name(&self) -> &[u8] {
        &self.last
    }

    /// Adds a version, which comes after all before it.
    ///
    /// # Errors
    /// Whatever the machine says.
    ///
    /// # Panics
    /// If it does not, or the name is none of 1 to 1,024 bytes.
    pub fn push(
        &mut self,
        name: &[u8],
        commit: u64,
        to: Option<&Digest>,
    ) -> Result<(), TableError> {
        let last = (&self.last[..], self.last_commit);
        let is_first = self.entry_count == 0;
        assert!(is_first || order(last, (name, commit)).is_lt(), "entries come in order");
        let is_new_name = *name != *self.last;
        if self.block.is_empty() {
            self.keys.push_block(&self.last, name, commit);
        }
        if is_first {
            self.first = Bytes::copy_from_slice(name);
        }
        if is_new_name || self.block.is_empty() {
            self.file.key(|seed| name_key(name, seed));
        }
        self.block.push(name, commit, to);
        self.entry_count += 1;
        self.commits = (self.commits.0.min(commit), self.commits.1.max(commit));
        if is_new_name {
            self.standing_count += u64::from(to.is_some());
            self.last.clear();
            self.last.extend_from_slice(name);
        }
        self.last_commit = commit;
        if self.block.len_bytes() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), TableError> {
        let block = self.block.finish(self.file.seed(), self.file.end());
        self.block_lens.push(u32::try_from(block.len()).expect("a block is short"));
        self.file.unit(&block)
    }

    /// Ends the table, made from these; its bytes are durable on return, its name is not.
    ///
    /// # Errors
    /// Whatever the machine says; the file is removed again if it can be.
    ///
    /// # Panics
    /// If it has no entries.
    pub fn finish(mut self, replaced: Vec<Replaced>) -> Result<TableMeta, TableError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        assert!(self.entry_count <= self.len_bytes() / ENTRY_BYTES_MIN, "no entry is shorter");
        let mut leads = Vec::new();
        for (index, len) in self.block_lens.iter().enumerate() {
            let (name, commit) = self.keys.get(index);
            put_varint(&mut leads, u64::from(*len));
            // One more, and 0 for the greatest: most keys have that one.
            put_varint(&mut leads, commit.wrapping_add(1));
            put_varint(&mut leads, name.len() as u64);
            leads.extend_from_slice(name);
        }
        let contents = Contents {
            entry_count: self.entry_count,
            first: self.first,
            last: Bytes::from(self.last),
            commits: self.commits,
            spare_count: self.entry_count - self.standing_count,
            replaced,
        };
        self.file.finish(&leads, contents)
    }

    /// Gives the table up: its file goes with it.
    pub fn abandon(self) {
        drop(self);
    }
}

/// A table of names that can be read; many threads at once.
#[derive(Debug)]
pub struct NameTable {
    file: TableFile,
    directory: OnceLock<Directory>,
}

impl NameTable {
    /// Opens a table by its tail.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub fn open(tables: &Arc<Tables>, meta: TableMeta) -> Result<Self, TableError> {
        let file = TableFile::open(tables, meta)?;
        let footer = file.footer();
        if footer.entry_count > (footer.units_end - UNITS_START) / ENTRY_BYTES_MIN {
            let what = "its blocks do not hold as many entries as it counts";
            return Err(TableError::corrupt(file.name(), footer.filters_end, what));
        }
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

    /// The newest version of `name` that is not newer than `commit`: the number of its commit, and
    /// where it points, if anywhere. At most one block is read, or two where one ends.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub fn find(
        &self,
        name: &[u8],
        commit: u64,
    ) -> Result<Option<(u64, Option<Digest>)>, TableError> {
        let probes = self.file.probes();
        let directory = self.directory()?;
        let Some(block) = directory.block_of(name, commit) else {
            count(&probes.searched);
            // Only versions newer than the commit come before the first block's key.
            return Ok(None);
        };
        let last = (block + 1).min(directory.ends.len() - 1);
        let parts = block / FILTER_BLOCKS..=last / FILTER_BLOCKS;
        let sought = Sought::new(name, self.file.footer().filter_seed);
        if !directory.filters.may_contain(&self.file, parts, sought.key(), || ())? {
            count(&probes.filtered);
            return Ok(None);
        }
        count(&probes.searched);
        for block in block..=last {
            match self.block(directory, block)?.find(&sought, commit) {
                Found::Version(commit, to) => {
                    count(&probes.found);
                    return Ok(Some((commit, to)));
                }
                Found::Nothing => return Ok(None),
                Found::End => {}
            }
        }
        Ok(None)
    }

    /// The block, through the cache.
    pub(super) fn block(
        &self,
        directory: &Directory,
        block: usize,
    ) -> Result<Arc<Block>, TableError> {
        let range = directory.range(block);
        let opened = self
            .file
            .unit(range.clone(), |bytes| self.open_block(bytes, range.start).map(Unit::Block))?;
        match opened {
            Unit::Block(block) => Ok(block),
            Unit::Page(_) => unreachable!("a table of names has blocks alone"),
        }
    }

    fn open_block(&self, bytes: Bytes, offset_bytes: u64) -> Result<Arc<Block>, TableError> {
        Block::open(bytes, self.file.seed(), offset_bytes)
            .map(Arc::new)
            .map_err(|error| self.file.corrupt(offset_bytes + error.offset as u64, error.what))
    }

    pub(super) fn directory(&self) -> Result<&Directory, TableError> {
        let rebuild = || self.rebuild_directory();
        self.file.directory(&self.directory, || self.read_directory(), rebuild)
    }

    fn read_directory(&self) -> Result<Directory, TableError> {
        let footer = self.file.footer();
        let decode =
            |bytes: &[u8]| Directory::decode(bytes, footer.units_end, footer.filters_bytes());
        let directory = self.file.read_directory(decode)?;
        self.has_all_blocks(directory.ends.len(), footer.units_end)?;
        Ok(directory)
    }

    /// As many blocks were found as the footer says, by what stands at `offset_bytes`.
    fn has_all_blocks(&self, block_count: usize, offset_bytes: u64) -> Result<(), TableError> {
        if block_count as u64 == self.file.footer().unit_count {
            return Ok(());
        }
        Err(self.file.corrupt(offset_bytes, "it does not have as many blocks as the footer says"))
    }

    /// The directory as the blocks make it, without filters: where they stand is not known.
    ///
    /// Where a block ends it does not say; but it ends where its checksum agrees.
    fn rebuild_directory(&self) -> Result<Directory, TableError> {
        let footer = self.file.footer();
        let (mut ends, mut keys) = (Vec::new(), Keys::default());
        let (mut start, mut last) = (UNITS_START, Vec::new());
        while start < footer.units_end {
            let block = self.next_block(start)?;
            let cursor = block.first();
            let entry = cursor.entry().expect("a block has an entry");
            // N2.
            keys.push_block(&last, entry.name, entry.commit);
            let cursor = block.last();
            last.clear();
            last.extend_from_slice(cursor.entry().expect("a block has an entry").name);
            start += block.len_bytes() as u64;
            ends.push(start);
        }
        self.has_all_blocks(ends.len(), start)?;
        Ok(Directory::new(ends, &keys, FilterSet::default()))
    }

    /// The block that begins at `start`.
    fn next_block(&self, start: u64) -> Result<Arc<Block>, TableError> {
        let end = self.file.footer().units_end;
        let bytes = self.file.read(start..end.min(start + BLOCK_SOUGHT_BYTES))?;
        first_block(&bytes, self.file.seed(), start)
            .map(Arc::new)
            .ok_or_else(|| self.file.corrupt(start, "no block begins here"))
    }

    /// All entries in order, read past the cache, [`SCAN_BYTES`] at once.
    pub fn entries(self: &Arc<Self>) -> Entries {
        self.entries_by(SCAN_BYTES)
    }

    /// The same, by so many bytes at once, and a block at least.
    pub(crate) fn entries_by(self: &Arc<Self>, scan_bytes: u64) -> Entries {
        Entries {
            table: Arc::clone(self),
            scan_bytes,
            next_block: 0,
            chunk: Bytes::new(),
            chunk_start: UNITS_START,
            cursor: None,
            last: None,
        }
    }

    /// A cursor before the first entry, which reads through the cache.
    pub fn cursor(self: &Arc<Self>) -> TableCursor {
        TableCursor { table: Arc::clone(self), block: 0, cursor: None }
    }

    /// Whether all of it is as it was written: the header, every block, their order, the counts, the
    /// hashes, the directory and the filters. Calls `each` with every entry.
    ///
    /// # Errors
    /// The first damage, or whatever the machine says.
    pub fn check(self: &Arc<Self>, mut each: impl FnMut(&NameEntry)) -> Result<(), TableError> {
        let footer = self.file.footer();
        let bad = |at, what| Err(self.file.corrupt(at, what));
        self.file.check_header()?;
        let directory = self.read_directory()?;
        let mut hasher = blake3::Hasher::new();
        let mut last: Option<NameEntry> = None;
        let (mut first, mut commits) = (None, (u64::MAX, 0));
        let (mut entry_count, mut standing_count) = (0, 0);
        for index in 0..directory.ends.len() {
            let range = directory.range(index);
            let bytes = self.file.read(range.clone())?;
            hasher.update(bytes.get(..4).unwrap_or(&[]));
            let block = self.open_block(bytes, range.start)?;
            let mut cursor = block.first();
            while let Some(entry) = cursor.keep() {
                if last.as_ref().is_some_and(|last| *last >= entry) {
                    return bad(range.start, "names are out of order");
                }
                if directory.block_of(&entry.name, entry.commit) != Some(index) {
                    return bad(footer.units_end, "its directory does not lead to its entries");
                }
                first.get_or_insert_with(|| entry.name.clone());
                entry_count += 1;
                let is_newest = last.as_ref().is_none_or(|last| last.name != entry.name);
                standing_count += u64::from(is_newest && entry.to.is_some());
                commits = (entry.commit.min(commits.0), entry.commit.max(commits.1));
                each(&entry);
                last = Some(entry);
                cursor.forward();
            }
        }
        if hasher.finalize() != footer.units_hash {
            return bad(footer.filters_end, "its blocks are not the ones that it was written with");
        }
        let bounds = (first.unwrap_or_default(), last.map(|last| last.name).unwrap_or_default());
        let spare_count = entry_count - standing_count;
        if (entry_count, spare_count) != (footer.entry_count, footer.spare_count)
            || commits != footer.commits
            || bounds != (footer.first.clone(), footer.last.clone())
        {
            return bad(footer.filters_end, "its footer does not say what its blocks hold");
        }
        directory.filters.check(&self.file)
    }
}

/// How far the end of a block is sought: it may have an entry with a name of full length, and its
/// own end, beyond [`BLOCK_BYTES`].
pub(crate) const BLOCK_SOUGHT_BYTES: u64 = BLOCK_BYTES as u64 + 4096;

/// The block that `bytes` begin with, which stand at `start` of the file with this `seed`: the
/// shortest run of bytes whose checksum agrees, and that is a block.
pub(crate) fn first_block(bytes: &Bytes, seed: Seed, start: u64) -> Option<Block> {
    let (crc, rest) = bytes.split_first_chunk()?;
    let wanted = u32::from_le_bytes(*crc);
    let mut sum = seed.at(start, &[]);
    rest.iter().enumerate().find_map(|(index, byte)| {
        sum = checksum::append(sum, &[*byte]);
        let end = crc.len() + index + 1;
        if sum == wanted { Block::open(bytes.slice(..end), seed, start).ok() } else { None }
    })
}

/// The entries of a table in order; owns what it reads.
#[derive(Debug)]
pub struct Entries {
    table: Arc<NameTable>,
    scan_bytes: u64,
    next_block: usize,
    /// Bytes read at once, and where they begin.
    chunk: Bytes,
    chunk_start: u64,
    cursor: Option<Cursor>,
    /// The last entry of the block before.
    last: Option<NameEntry>,
}

impl Entries {
    fn step(&mut self) -> Result<Option<NameEntry>, TableError> {
        loop {
            if let Some(cursor) = &mut self.cursor
                && cursor.forward()
            {
                return Ok(cursor.keep());
            }
            let Some(block) = self.read_block()? else { return Ok(None) };
            // In a block they are in order (N1 of `name_block`).
            let (first, last) = (block.first().keep(), block.last().keep());
            let meta = self.table.file.meta();
            let is_within = first.as_ref().is_some_and(|first| first.name >= meta.first)
                && last.as_ref().is_some_and(|last| last.name <= meta.last);
            let version = |entry: &NameEntry| (entry.name.clone(), Reverse(entry.commit));
            let is_behind = self.last.as_ref().map(version) < first.as_ref().map(version);
            if !is_within || !is_behind {
                let start = self.table.directory()?.range(self.next_block - 1).start;
                return Err(self.table.file.corrupt(start, "names are out of order"));
            }
            self.last = last;
            match &mut self.cursor {
                Some(cursor) => cursor.enter(block),
                None => self.cursor = Some(Cursor::new(block)),
            }
        }
    }

    fn read_block(&mut self) -> Result<Option<Arc<Block>>, TableError> {
        let table = Arc::clone(&self.table);
        let directory = table.directory()?;
        if self.next_block == directory.ends.len() {
            return Ok(None);
        }
        let range = directory.range(self.next_block);
        if range.end > self.chunk_start + self.chunk.len() as u64 {
            // As many whole blocks as go into one read, and one at least.
            let most = range.start + self.scan_bytes;
            let rest = &directory.ends[self.next_block..];
            let count = rest.partition_point(|end| *end <= most).max(1);
            self.chunk = table.file.read(range.start..rest[count - 1])?;
            self.chunk_start = range.start;
        }
        self.next_block += 1;
        let start = size(range.start - self.chunk_start);
        let bytes = self.chunk.slice(start..start + size(range.end - range.start));
        table.open_block(bytes, range.start).map(Some)
    }
}

impl Iterator for Entries {
    type Item = Result<NameEntry, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// A place in a table: before the first entry, on one, or past the last. Owns what it reads.
#[derive(Debug)]
pub struct TableCursor {
    table: Arc<NameTable>,
    block: usize,
    /// `None` before the first entry of all, until it moves.
    cursor: Option<Cursor>,
}

impl TableCursor {
    /// The entry it is on, if it is on one.
    #[inline]
    pub fn entry(&self) -> Option<Entry<'_>> {
        self.cursor.as_ref()?.entry()
    }

    /// Goes to the first entry that is not before (`name`, `commit`), or past the end. Says whether
    /// there was one.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub fn seek(&mut self, name: &[u8], commit: u64) -> Result<bool, TableError> {
        let table = Arc::clone(&self.table);
        let block = table.directory()?.block_of(name, commit).unwrap_or(0);
        self.enter(block)?.seek(name, commit);
        if self.entry().is_some() { Ok(true) } else { self.forward() }
    }

    /// Goes past the last entry.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    pub fn seek_end(&mut self) -> Result<(), TableError> {
        let table = Arc::clone(&self.table);
        let directory = table.directory()?;
        self.block = directory.ends.len() - 1;
        let block = table.block(directory, self.block)?;
        self.cursor.get_or_insert_with(|| Cursor::new(block.clone())).enter_at_end(block);
        Ok(())
    }

    /// Goes to the next entry. Says whether there was one.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    #[inline]
    pub fn forward(&mut self) -> Result<bool, TableError> {
        loop {
            let next = match &mut self.cursor {
                None => 0,
                Some(cursor) => {
                    if cursor.forward() {
                        return Ok(true);
                    }
                    self.block + 1
                }
            };
            if next == self.table.directory()?.ends.len() {
                return Ok(false);
            }
            self.enter(next)?;
        }
    }

    /// Goes to the entry before. Says whether there was one.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    #[inline]
    pub fn back(&mut self) -> Result<bool, TableError> {
        loop {
            let Some(cursor) = &mut self.cursor else { return Ok(false) };
            if cursor.back() {
                return Ok(true);
            }
            if self.block == 0 {
                return Ok(false);
            }
            let block = self.table.block(self.table.directory()?, self.block - 1)?;
            self.block -= 1;
            cursor.enter_at_end(block);
        }
    }

    /// Goes before the first entry of a block.
    fn enter(&mut self, block: usize) -> Result<&mut Cursor, TableError> {
        let table = Arc::clone(&self.table);
        let opened = table.block(table.directory()?, block)?;
        self.block = block;
        let cursor = self.cursor.get_or_insert_with(|| Cursor::new(opened.clone()));
        cursor.enter(opened);
        Ok(cursor)
    }
}
