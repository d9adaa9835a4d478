//! Writing runs of tables, and rewriting tables into a deeper level.
//!
//! 1. A [`RunWriter`] takes entries in order and cuts them into tables, never within a key. A flush
//!    is one; so is what a compaction writes.
//! 2. A [`Rewrite`] carries out a plan: it merges the plan's tables, drops what its owner drops, and
//!    writes the rest. It does so in steps, each of as much input as its owner says: whoever steps
//!    decides how fast it goes, and may let others in between.
//! 3. What it has written is one edit of the levels, which its owner commits and publishes.
//!
//! - X1: every table that is written names the tables it was made from, each with the keys that it
//!   replaces of it: together they cover each of those whole. So whoever finds only files can tell
//!   what is stale.
//! - X2: no table that is written names more than [`REPLACED_TABLES_MAX`] others, so that its footer
//!   is one that readers accept: half of these may be inputs, which plans keep to (P4 of
//!   [`plan`](crate::plan)), the other half carried on, which the owner keeps to.
//! - X3: whatever fails, or is given up, leaves no table behind, or none for longer than it cannot be
//!   removed (C3 of [`shared`](crate::table::shared)). Nothing names it as one that counts.
//! - X4: a table that was replaced before, and whose file may be there yet, is named by each output for
//!   the output's share of its keys alone, and once: however often it is carried on, what is named does
//!   not multiply. [`lingering`](crate::lingering) knows which these are.
//!
//! Which tables to rewrite, when, and how fast, is not decided here.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::{Ordinal, TableKind};

use crate::edit::LevelEdit;
use crate::error::TableError;
use crate::lingering::KeyRange;
use crate::merge::{Merge, NameEntry, Sieve};
use crate::plan::{INPUT_TABLES_MAX, Plan, whole_bytes};
use crate::table::container::TableFile;
use crate::table::footer::{REPLACED_TABLES_MAX, Replaced};
use crate::table::index::{IndexBuilder, IndexTable, Row, Rows};
use crate::table::names::{Entries, NameBuilder, NameTable};
use crate::table::shared::Tables;
use crate::table::{TableId, TableMeta, least_key};

/// A tree, to who writes its tables whatever is in them.
pub trait Tree: fmt::Debug + Send + 'static {
    /// Its tables' number on disk.
    const KIND: TableKind;
    /// What stands in its tables.
    type Entry: Ord + Send;
    /// A table that can be read.
    type Table: fmt::Debug + Send + Sync;
    /// A table that is being written.
    type Builder: fmt::Debug + Send;
    /// The entries of one table, in order.
    type Entries: Iterator<Item = Result<Self::Entry, TableError>> + Send;

    /// The entry's key, as tables' bounds have it.
    fn key(entry: &Self::Entry) -> Bytes;

    /// Opens a table by its tail.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    fn open(tables: &Arc<Tables>, meta: TableMeta) -> Result<Self::Table, TableError>;

    /// A table's file.
    fn file(table: &Self::Table) -> &TableFile;

    /// All entries of a table.
    fn entries(table: &Arc<Self::Table>, scan_bytes: u64) -> Self::Entries;

    /// Begins a table, with filters if there is a seed for them.
    ///
    /// # Errors
    /// Whatever the machine says.
    fn create(
        tables: &Arc<Tables>,
        id: TableId,
        filter_seed: Option<u64>,
    ) -> Result<Self::Builder, TableError>;

    /// Adds an entry, which comes after all before it.
    ///
    /// # Errors
    /// Whatever the machine says.
    fn push(builder: &mut Self::Builder, entry: &Self::Entry) -> Result<(), TableError>;

    /// The table is longer than this, and the entry has another key than the last one: the table
    /// may end here.
    fn ends_before(builder: &Self::Builder, entry: &Self::Entry, table_bytes: u64) -> bool;

    /// Bytes of memory that a table takes while it is written.
    fn builder_bytes(builder: &Self::Builder) -> u64;

    /// Ends a table; its bytes are durable on return, its name is not.
    ///
    /// # Errors
    /// Whatever the machine says; then the file is removed.
    fn finish(builder: Self::Builder, replaced: Vec<Replaced>) -> Result<TableMeta, TableError>;

    /// Gives a table up and removes its file.
    fn abandon(builder: Self::Builder);
}

/// The digest index.
#[derive(Clone, Copy, Debug)]
pub struct Index;

impl Tree for Index {
    const KIND: TableKind = TableKind::Index;
    type Entry = Row;
    type Table = IndexTable;
    type Builder = IndexBuilder;
    type Entries = Rows;

    fn key(entry: &Row) -> Bytes {
        entry.key().bytes()
    }

    fn open(tables: &Arc<Tables>, meta: TableMeta) -> Result<IndexTable, TableError> {
        IndexTable::open(tables, meta)
    }

    fn file(table: &IndexTable) -> &TableFile {
        table.file()
    }

    fn entries(table: &Arc<IndexTable>, scan_bytes: u64) -> Rows {
        table.rows_by(scan_bytes)
    }

    fn create(
        tables: &Arc<Tables>,
        id: TableId,
        filter_seed: Option<u64>,
    ) -> Result<IndexBuilder, TableError> {
        IndexBuilder::create(tables, id, filter_seed)
    }

    fn push(builder: &mut IndexBuilder, entry: &Row) -> Result<(), TableError> {
        builder.push(*entry)
    }

    fn ends_before(builder: &IndexBuilder, entry: &Row, table_bytes: u64) -> bool {
        builder.len_bytes() >= table_bytes
            && builder.last().is_some_and(|last| last.key() != entry.key())
    }

    fn builder_bytes(builder: &IndexBuilder) -> u64 {
        builder.memory_bytes()
    }

    fn finish(builder: IndexBuilder, replaced: Vec<Replaced>) -> Result<TableMeta, TableError> {
        builder.finish(replaced)
    }

    fn abandon(builder: IndexBuilder) {
        builder.abandon();
    }
}

/// The pointer table.
#[derive(Clone, Copy, Debug)]
pub struct Names;

impl Tree for Names {
    const KIND: TableKind = TableKind::Names;
    type Entry = NameEntry;
    type Table = NameTable;
    type Builder = NameBuilder;
    type Entries = Entries;

    fn key(entry: &NameEntry) -> Bytes {
        entry.name.clone()
    }

    fn open(tables: &Arc<Tables>, meta: TableMeta) -> Result<NameTable, TableError> {
        NameTable::open(tables, meta)
    }

    fn file(table: &NameTable) -> &TableFile {
        table.file()
    }

    fn entries(table: &Arc<NameTable>, scan_bytes: u64) -> Entries {
        table.entries_by(scan_bytes)
    }

    fn create(
        tables: &Arc<Tables>,
        id: TableId,
        filter_seed: Option<u64>,
    ) -> Result<NameBuilder, TableError> {
        NameBuilder::create(tables, id, filter_seed)
    }

    fn push(builder: &mut NameBuilder, entry: &NameEntry) -> Result<(), TableError> {
        builder.push(&entry.name, entry.commit, entry.to.as_ref())
    }

    fn ends_before(builder: &NameBuilder, entry: &NameEntry, table_bytes: u64) -> bool {
        builder.len_bytes() >= table_bytes && *builder.last_name() != *entry.name
    }

    fn builder_bytes(builder: &NameBuilder) -> u64 {
        builder.memory_bytes()
    }

    fn finish(builder: NameBuilder, replaced: Vec<Replaced>) -> Result<TableMeta, TableError> {
        builder.finish(replaced)
    }

    fn abandon(builder: NameBuilder) {
        builder.abandon();
    }
}

/// How a run is to be written.
pub struct RunOptions {
    /// Bytes after which another table begins, unless that would part a key's entries.
    pub table_bytes: u64,
    /// The seed of the tables' filters; none for tables without.
    pub filter_seed: Option<u64>,
    /// The next table's id; none once ordinals are spent.
    pub next_id: Box<dyn FnMut() -> Option<TableId> + Send>,
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("table_bytes", &self.table_bytes)
            .field("filter_seed", &self.filter_seed)
            .finish_non_exhaustive()
    }
}

/// Writes entries that come in order into as many tables as they need.
#[derive(Debug)]
pub struct RunWriter<T: Tree> {
    tables: Arc<Tables>,
    options: RunOptions,
    /// What is rewritten, each table whole; and what else is to be named (X4).
    stale: Vec<Carried>,
    current: Option<T::Builder>,
    /// The first key of the current table; none for the first table, which replaces all before it.
    start: Option<Bytes>,
    finished: Vec<TableMeta>,
}

/// Entries that may be carried on at most (X2). An owner with more waits until files are gone: readers
/// of old views hold them, or the directory is yet to be synced.
pub const CARRIED_TABLES_MAX: usize = REPLACED_TABLES_MAX - INPUT_TABLES_MAX;

/// A stale table that may be there yet, and keys of it that are to be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The table.
    pub id: TableId,
    /// The keys; none for all that there may be.
    pub keys: Option<KeyRange>,
}

impl Carried {
    /// The part of it from `start` on and below `until`, if it has keys there.
    fn within(&self, start: Option<&Bytes>, until: Option<&Bytes>) -> Option<Replaced> {
        let least = least_key(self.id.table);
        let first = self.keys.as_ref().map_or(&least, |keys| &keys.first);
        let first = start.map_or(first, |start| start.max(first));
        let last = self.keys.as_ref().map(|keys| &keys.last);
        let until = until.filter(|until| last.is_none_or(|last| *until <= last));
        let has_keys =
            until.is_none_or(|until| first < until) && last.is_none_or(|last| first <= last);
        has_keys.then(|| Replaced {
            ordinal: self.id.ordinal,
            epoch: self.id.epoch,
            first: first.clone(),
            until: until.cloned(),
        })
    }
}

impl<T: Tree> RunWriter<T> {
    /// Writes a run that replaces `inputs`, none for a flush, and names `carried` besides.
    ///
    /// # Panics
    /// If more than [`CARRIED_TABLES_MAX`] are carried.
    pub fn new(
        tables: &Arc<Tables>,
        options: RunOptions,
        inputs: Vec<TableMeta>,
        carried: Vec<Carried>,
    ) -> Self {
        assert!(carried.len() <= CARRIED_TABLES_MAX, "X2: {} tables are carried", carried.len());
        let whole = |meta: TableMeta| Carried { id: meta.id, keys: Some(KeyRange::of(&meta)) };
        let stale = inputs.into_iter().map(whole).chain(carried).collect();
        let tables = Arc::clone(tables);
        Self { tables, options, stale, current: None, start: None, finished: Vec::new() }
    }

    /// Bytes of memory that it takes now, about.
    pub fn memory_bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, T::builder_bytes)
    }

    /// Adds an entry, which comes after all before it.
    ///
    /// # Errors
    /// Whatever the machine says; give the run up then.
    ///
    /// # Panics
    /// If it does not come after them.
    pub fn push(&mut self, entry: &T::Entry) -> Result<(), TableError> {
        let ends = |builder: &T::Builder| T::ends_before(builder, entry, self.options.table_bytes);
        if self.current.as_ref().is_some_and(ends) {
            self.end_table(Some(&T::key(entry)))?;
        }
        if self.current.is_none() {
            let id = (self.options.next_id)().ok_or_else(|| no_ordinal::<T>())?;
            self.current = Some(T::create(&self.tables, id, self.options.filter_seed)?);
        }
        T::push(self.current.as_mut().expect("it was just made"), entry)
    }

    /// Ends the current table, which is followed by one that begins with the key `next`, if any.
    fn end_table(&mut self, next: Option<&Bytes>) -> Result<(), TableError> {
        let Some(builder) = self.current.take() else { return Ok(()) };
        let replaced = self.replaced(next);
        self.start = next.cloned();
        self.finished.push(T::finish(builder, replaced)?);
        Ok(())
    }

    /// What the current table replaces: from its start to `until`, which it does not hold (X1, X4).
    fn replaced(&self, until: Option<&Bytes>) -> Vec<Replaced> {
        let within = |stale: &Carried| stale.within(self.start.as_ref(), until);
        self.stale.iter().filter_map(within).collect()
    }

    /// Ends the run; its tables' bytes are durable on return, their names are not.
    ///
    /// # Errors
    /// Whatever the machine says; nothing of the run is left then (X3).
    pub fn finish(mut self) -> Result<Vec<TableMeta>, TableError> {
        match self.end_table(None) {
            Ok(()) => Ok(std::mem::take(&mut self.finished)),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    /// Gives the run up and removes what it has written.
    pub fn abandon(self) {
        if let Some(builder) = self.current {
            T::abandon(builder);
        }
        for meta in self.finished {
            self.tables.remove(meta.id);
        }
    }
}

fn no_ordinal<T: Tree>() -> TableError {
    let last =
        TableId { table: T::KIND, ordinal: Ordinal(u32::MAX), epoch: pinstone_disk::Epoch::FIRST };
    TableError::corrupt(last.file_name(), 0, "no table can follow: its ordinals are spent")
}

/// A plan being carried out.
pub struct Rewrite<T: Tree> {
    plan: Plan,
    /// Entries that it has gone through.
    passed_count: u64,
    /// Bytes that it has read of its sources at once.
    read_bytes: u64,
    entries: Box<dyn Sieve<T::Entry, TableError> + Send>,
    writer: RunWriter<T>,
}

impl<T: Tree> fmt::Debug for Rewrite<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewrite").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// What goes into a merge of a tree's tables.
pub type Merged<T> = Merge<Sequence<T>, <T as Tree>::Entry, TableError>;

/// The entries of tables that follow one another, read one table at a time, and of that so many bytes at
/// once.
pub struct Sequence<T: Tree> {
    tables: std::vec::IntoIter<Arc<T::Table>>,
    scan_bytes: u64,
    entries: Option<T::Entries>,
}

impl<T: Tree> fmt::Debug for Sequence<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequence").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl<T: Tree> Sequence<T> {
    /// As few sequences of these tables as there can be. Those of a level other than 0 are one.
    fn all(shared: &Tables, inputs: &[Arc<T::Table>]) -> Vec<Self> {
        let mut sorted = inputs.to_vec();
        sorted.sort_by(|a, b| T::file(a).meta().first.cmp(&T::file(b).meta().first));
        let mut sequences: Vec<Vec<Arc<T::Table>>> = Vec::new();
        for table in sorted {
            let first = &T::file(&table).meta().first;
            let comes_before = |sequence: &&mut Vec<Arc<T::Table>>| {
                sequence.last().is_some_and(|last| T::file(last).meta().last < *first)
            };
            match sequences.iter_mut().find(comes_before) {
                Some(sequence) => sequence.push(table),
                None => sequences.push(vec![table]),
            }
        }
        let scan_bytes = shared.scan_bytes(sequences.len());
        let sequence =
            |tables: Vec<_>| Self { tables: tables.into_iter(), scan_bytes, entries: None };
        sequences.into_iter().map(sequence).collect()
    }
}

impl<T: Tree> Iterator for Sequence<T> {
    type Item = Result<T::Entry, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.as_mut().and_then(Iterator::next) {
                return Some(entry);
            }
            self.entries = Some(T::entries(&self.tables.next()?, self.scan_bytes));
        }
    }
}

impl<T: Tree> Rewrite<T> {
    /// Begins to carry out `plan`, which is no mere move, over its tables, in any order. `kept` makes
    /// of their merged entries those that stay.
    ///
    /// # Panics
    /// If it is a move, or more than [`CARRIED_TABLES_MAX`] are carried.
    pub fn new<S>(
        tables: &Arc<Tables>,
        plan: Plan,
        inputs: &[Arc<T::Table>],
        options: RunOptions,
        carried: Vec<Carried>,
        kept: impl FnOnce(Merged<T>) -> S,
    ) -> Self
    where
        S: Sieve<T::Entry, TableError> + Send + 'static,
    {
        assert!(!plan.is_move, "a move writes nothing");
        let sequences = Sequence::all(tables, inputs);
        let read_bytes = sequences.iter().map(|sequence| sequence.scan_bytes).sum();
        let merged = Merge::new(sequences);
        let entries = Box::new(kept(merged));
        let metas = plan.inputs().map(|meta| TableMeta::clone(meta)).collect();
        let writer = RunWriter::new(tables, options, metas, carried);
        Self { plan, passed_count: 0, read_bytes, entries, writer }
    }

    /// Goes on by about `entry_count` entries, those that go among them; false if there are no more.
    ///
    /// # Errors
    /// Damage of a table that is read, or whatever the machine says; give it up then.
    pub fn step(&mut self, entry_count: u64) -> Result<bool, TableError> {
        for _ in 0..entry_count {
            let Some(sifted) = self.entries.sift() else { return Ok(false) };
            if let Some(entry) = sifted? {
                self.writer.push(&entry)?;
            }
            self.passed_count += 1;
        }
        Ok(true)
    }

    /// Bytes of memory that it takes now, about: what it has read of its sources, and what it gathers to
    /// write.
    pub fn memory_bytes(&self) -> u64 {
        self.read_bytes + self.writer.memory_bytes()
    }

    /// Entries that it has gone through, about.
    pub fn passed_count(&self) -> u64 {
        self.passed_count
    }

    /// The plan that it carries out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Of the plan's bytes, those that it has gone through, about: as if all entries were as long.
    pub fn done_bytes(&self) -> u64 {
        let bytes = self.plan.input_bytes();
        let counts = self.plan.inputs().map(|table| table.entry_count);
        let entry_count = counts.fold(0, u64::saturating_add);
        let share = self.passed_count as f64 / entry_count.max(1) as f64;
        whole_bytes(bytes as f64 * share).min(bytes)
    }

    /// Ends it: the edit that puts what was written in place of what was read. All of it is durable
    /// but for the names.
    ///
    /// # Errors
    /// Whatever the machine says; nothing of it is left then (X3).
    pub fn finish(self) -> Result<LevelEdit, TableError> {
        let outputs = self.writer.finish()?;
        Ok(self.plan.edit(outputs))
    }

    /// Gives it up and removes what it has written.
    pub fn abandon(self) {
        self.writer.abandon();
    }
}
