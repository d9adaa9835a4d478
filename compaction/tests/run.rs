//! Plans carried out on tables of both kinds: nothing is lost or doubled, whatever fails leaves
//! nothing behind, and files alone tell which of them are stale.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use common::{key, tables};
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::{LEVELS_MAX, Levels};
use pinstone_compaction::merge::{Chosen, NameEntry, Readers, Sieve, Versions};
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::plan::{NO_DAMAGE, Plan, Shape, plan, plan_full};
use pinstone_compaction::run::{
    CARRIED_TABLES_MAX, Carried, Index, Merged, Names, Rewrite, RunOptions, RunWriter, Tree,
};
use pinstone_compaction::table::SCAN_BYTES;
use pinstone_compaction::table::footer::Replaced;
use pinstone_compaction::table::index::Row;
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableError, TableId, TableMeta};
use pinstone_disk::env::{AtomicU64, Ordering};
use pinstone_disk::sim::{Fault, SimDisk};
use pinstone_disk::{Digest, Epoch, Ordinal, TableKind};

/// A tree on a disk, as its owner would keep it.
struct Grown {
    disk: Arc<SimDisk>,
    tables: Arc<Tables>,
    levels: Levels,
    next_ordinal: Arc<AtomicU64>,
}

/// Small, so that little makes much happen.
const SHAPE: Shape = Shape {
    l0_tables: 3,
    l0_bytes: 48 << 10,
    size_ratio_max: 3,
    table_bytes: 16 << 10,
    input_bytes_max: 256 << 10,
};

impl Grown {
    fn new(kind: TableKind) -> Self {
        let disk = SimDisk::new(1);
        let tables = tables(&disk);
        let next_ordinal = Arc::new(AtomicU64::new(1));
        Self { disk, tables, levels: Levels::new(kind), next_ordinal }
    }

    fn options<T: Tree>(&self) -> RunOptions {
        let next = Arc::clone(&self.next_ordinal);
        let next_id = Box::new(move || {
            let ordinal = u32::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
            Some(TableId { table: T::KIND, ordinal: Ordinal(ordinal), epoch: Epoch(1) })
        });
        RunOptions { table_bytes: SHAPE.table_bytes, filter_seed: Some(5), next_id }
    }

    fn flush<T: Tree>(&mut self, entries: &[T::Entry]) -> Result<(), TableError> {
        let options = self.options::<T>();
        let mut writer = RunWriter::<T>::new(&self.tables, options, Vec::new(), Vec::new());
        for entry in entries {
            if let Err(error) = writer.push(entry) {
                writer.abandon();
                return Err(error);
            }
        }
        let added = writer.finish()?.into_iter().map(|meta| (0, meta)).collect();
        self.levels = self.levels.apply(&LevelEdit { added, ..LevelEdit::new(T::KIND) }).unwrap();
        Ok(())
    }
}

/// What the two trees differ in here.
trait Kept: Tree {
    fn kept(
        merged: Merged<Self>,
        is_bottom: bool,
    ) -> Box<dyn Sieve<Self::Entry, TableError> + Send>
    where
        Self: Sized;
}

impl Kept for Index {
    fn kept(merged: Merged<Self>, _is_bottom: bool) -> Box<dyn Sieve<Row, TableError> + Send> {
        Box::new(Chosen::new(merged, |_: &Row| true))
    }
}

impl Kept for Names {
    fn kept(merged: Merged<Self>, is_bottom: bool) -> Box<dyn Sieve<NameEntry, TableError> + Send> {
        Box::new(Versions::new(merged, Readers::new(Vec::new(), u64::MAX), is_bottom))
    }
}

fn open<T: Tree>(tables: &Arc<Tables>, meta: &TableMeta) -> Result<Arc<T::Table>, TableError> {
    T::open(tables, meta.clone()).map(Arc::new)
}

impl Grown {
    /// Carries a plan out, in steps; the tables it replaces are doomed, or left lying about.
    fn carry_out<T: Kept>(&mut self, plan: &Plan, dooms: bool) -> Result<(), TableError> {
        let open = |meta: &Arc<TableMeta>| open::<T>(&self.tables, meta);
        let inputs = plan.inputs().map(open).collect::<Result<Vec<_>, _>>()?;
        let edit = if plan.is_move {
            plan.edit(Vec::new())
        } else {
            let is_bottom = plan.is_bottom;
            let mut rewrite = Rewrite::<T>::new(
                &self.tables,
                plan.clone(),
                &inputs,
                self.options::<T>(),
                Vec::new(),
                |merged| T::kept(merged, is_bottom),
            );
            loop {
                match rewrite.step(100) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        rewrite.abandon();
                        return Err(error);
                    }
                }
            }
            rewrite.finish()?
        };
        self.levels = self.levels.apply(&edit).unwrap();
        if dooms && !plan.is_move {
            inputs.iter().for_each(|table| T::file(table).doom());
        }
        Ok(())
    }

    fn rest<T: Kept>(&mut self, dooms: bool) {
        while let Some(plan) = plan(&self.levels, &SHAPE, u64::MAX, NO_DAMAGE) {
            let before = OpenLevels::<T>::open(&self.tables, self.levels.clone()).unwrap();
            self.carry_out::<T>(&plan, dooms).unwrap();
            let ids = |levels: &Levels| {
                levels.all().map(|(level, meta)| (level, meta.id)).collect::<Vec<_>>()
            };
            let (old, new) = (ids(before.levels()), ids(&self.levels));
            let gone = |(level, meta): &(u8, &Arc<TableMeta>)| {
                self.levels.tables(*level).iter().all(|other| other != *meta)
            };
            let come = |(level, meta): &(u8, &Arc<TableMeta>)| {
                before.levels().tables(*level).iter().all(|other| other != *meta)
            };
            assert_ne!(old, new, "a plan changes something");
            let removed = before.levels().all().filter(gone).map(|(_, meta)| meta.id).collect();
            let added = self.levels.all().filter(come);
            let added = added.map(|(level, meta)| (level, TableMeta::clone(meta))).collect();
            agree(&before, &LevelEdit { tree: T::KIND, added, removed }, &self.tables);
        }
    }

    fn entries<T: Kept>(&self, meta: &TableMeta) -> Vec<T::Entry> {
        T::entries(&open::<T>(&self.tables, meta).unwrap(), SCAN_BYTES)
            .map(Result::unwrap)
            .collect()
    }

    fn all<T: Kept>(&self) -> Vec<T::Entry> {
        let metas = self.levels.all().map(|(_, meta)| meta);
        let mut all: Vec<_> = metas.flat_map(|meta| self.entries::<T>(meta)).collect();
        all.sort();
        all
    }

    /// Every table's file is there, and no other.
    fn has_no_other_files(&self) {
        let named = self.levels.all().map(|(_, meta)| meta.id.file_name().to_string());
        let named: BTreeSet<String> = named.collect();
        assert_eq!(self.disk.names().into_iter().collect::<BTreeSet<_>>(), named);
        assert_eq!(self.levels.check(), []);
    }
}

/// An open view that goes on by an edit is the one that is opened afterwards.
fn agree<T: Kept>(before: &OpenLevels<T>, edit: &LevelEdit, tables: &Arc<Tables>) {
    let added = edit.added.iter().filter(|(_, meta)| before.table(meta.id).is_none());
    let opened: Vec<_> = added.map(|(_, meta)| open::<T>(tables, meta).unwrap()).collect();
    let after = before.apply(edit, &opened).unwrap();
    let metas = |level| after.tables(level).map(|table| T::file(table).meta());
    for level in 0..LEVELS_MAX {
        assert!(metas(level).eq(after.levels().tables(level).iter().map(|meta| &**meta)));
    }
    leads_where_keys_are(before);
    leads_where_keys_are(&after);
    for (_, table) in after.all() {
        assert_eq!(
            before.table(T::file(table).meta().id).is_none(),
            opened.iter().any(|o| Arc::ptr_eq(o, table))
        );
    }
}

/// Look-ups are led to every table that may have the key, the newest first, and to no other.
fn leads_where_keys_are<T: Kept>(levels: &OpenLevels<T>) {
    let holds = |meta: &TableMeta, key: &[u8]| meta.overlaps(key, key);
    let newest_first = levels.tables(0).rev();
    let below = (1..LEVELS_MAX).flat_map(|level| levels.tables(level));
    let in_order: Vec<_> =
        newest_first.chain(below).map(|table| T::file(table).meta().clone()).collect();
    for (_, meta) in levels.levels().all() {
        // What tables hold, what is just beyond, and what is shorter than any.
        let beyond = [&meta.last[..], b"\0"].concat();
        let before_it = &meta.first[..meta.first.len() - 1];
        for key in [&meta.first[..], &meta.last, &beyond, before_it, b"", &[0xff; 8], &[0xff; 9]] {
            let led_to = levels.for_key(key).map(|table| T::file(table).meta().id);
            let expected = in_order.iter().filter(|meta| holds(meta, key)).map(|meta| meta.id);
            assert!(led_to.eq(expected), "{key:x?}");
        }
    }
}

fn rows(flush: u64) -> Vec<Row> {
    let row = |number: u64| Row::new(key(number), u128::from(number));
    // Some of each flush stand in the one before it, too.
    let mut rows: Vec<Row> = (flush * 700..flush * 700 + 800).map(row).collect();
    rows.sort();
    rows
}

#[test]
fn flushes_of_rows_come_to_rest_with_nothing_lost() {
    let mut tree = Grown::new(TableKind::Index);
    let mut expected = BTreeSet::new();
    for flush in 0..60 {
        let rows = rows(flush);
        expected.extend(rows.iter().copied());
        tree.flush::<Index>(&rows).unwrap();
        tree.rest::<Index>(true);
        tree.has_no_other_files();
    }
    let all: BTreeSet<Row> = tree.all::<Index>().into_iter().collect();
    assert_eq!(all, expected);
    while let Some(plan) = plan_full(&tree.levels, &SHAPE, u64::MAX, NO_DAMAGE) {
        tree.carry_out::<Index>(&plan, true).unwrap();
    }
    assert_eq!(tree.all::<Index>(), expected.into_iter().collect::<Vec<_>>());
    tree.has_no_other_files();
    // Tables are as long as they should be, but for those that end a rewriting.
    let (total, rows_a_table) = (tree.levels.total(), 4 * 255);
    assert!(total.table_count <= 2 * total.entry_count / rows_a_table, "{total:?}");
    assert!(tree.levels.total().table_count > 10);
}

/// Each flush sets and deletes some of two hundred names.
fn changes(flush: u64) -> Vec<NameEntry> {
    let change = |number: u64| {
        let commit = flush * 40 + number + 1;
        let name =
            Bytes::from(format!("a name {:03}", Digest::of(&commit.to_le_bytes()).as_bytes()[0]));
        let to = (!commit.is_multiple_of(3)).then(|| Digest::of(&commit.to_le_bytes()));
        NameEntry { name, commit, to }
    };
    let mut changes: Vec<NameEntry> = (0..40).map(change).collect();
    changes.sort();
    changes
}

/// What stands after all of these entries, some of which may be there twice.
fn standing(entries: impl IntoIterator<Item = NameEntry>) -> BTreeMap<Bytes, Digest> {
    let mut newest: BTreeMap<Bytes, NameEntry> = BTreeMap::new();
    for entry in entries {
        match newest.get(&entry.name) {
            Some(known) if known.commit >= entry.commit => {}
            _ => drop(newest.insert(entry.name.clone(), entry)),
        }
    }
    newest.into_iter().filter_map(|(name, entry)| Some((name, entry.to?))).collect()
}

#[test]
fn flushes_of_names_come_to_rest_and_files_alone_tell_what_stands() {
    let mut tree = Grown::new(TableKind::Names);
    let mut made = Vec::new();
    for flush in 0..80 {
        let changes = changes(flush);
        made.extend(changes.iter().cloned());
        tree.flush::<Names>(&changes).unwrap();
        // What is replaced lies about for ever.
        tree.rest::<Names>(false);
        assert_eq!(standing(tree.all::<Names>()), standing(made.clone()));
        assert_eq!(standing(found(&tree)), standing(made.clone()), "after flush {flush}");
    }
    // All names go, and with them everything but what tells so.
    let names: BTreeSet<Bytes> = made.iter().map(|entry| entry.name.clone()).collect();
    let deletion = |(name, commit)| NameEntry { name, commit, to: None };
    let deletions: Vec<_> = names.into_iter().zip(10_000..).map(deletion).collect();
    tree.flush::<Names>(&deletions).unwrap();
    while let Some(plan) = plan_full(&tree.levels, &SHAPE, u64::MAX, NO_DAMAGE) {
        tree.carry_out::<Names>(&plan, false).unwrap();
    }
    assert_eq!(tree.levels.total().entry_count, 1, "one deletion");
    assert_eq!(standing(tree.all::<Names>()), BTreeMap::new());
    assert_eq!(standing(found(&tree)), BTreeMap::new(), "a deleted name was brought back");
}

/// What the files hold, stale ones left out by what others say that they replace.
fn found(tree: &Grown) -> Vec<NameEntry> {
    // Whoever finds files knows of each what its own footer says: as the tree does, here.
    let mut metas = KNOWN.with_borrow(|known| known.clone());
    for (_, meta) in tree.levels.all() {
        metas.insert(meta.id, TableMeta::clone(meta));
    }
    KNOWN.with_borrow_mut(|known| known.clone_from(&metas));
    let tables: Vec<_> =
        metas.values().map(|meta| open::<Names>(&tree.tables, meta).unwrap()).collect();
    let replaced: Vec<Replaced> =
        tables.iter().flat_map(|table| table.file().replaced().unwrap()).collect();
    let is_stale = |id: TableId, name: &Bytes| {
        replaced.iter().any(|replaced| {
            replaced.ordinal == id.ordinal
                && replaced.first <= *name
                && replaced.until.as_ref().is_none_or(|until| name < until)
        })
    };
    let mut found = Vec::new();
    for table in &tables {
        let id = table.file().meta().id;
        found.extend(table.entries().map(Result::unwrap).filter(|e| !is_stale(id, &e.name)));
    }
    found
}

thread_local! {
    /// Every table that ever was.
    static KNOWN: std::cell::RefCell<BTreeMap<TableId, TableMeta>> =
        const { std::cell::RefCell::new(BTreeMap::new()) };
}

/// Each operation of a flush and of a compaction fails in turn.
#[test]
fn what_fails_leaves_nothing_behind_and_can_be_tried_again() {
    for fault in [Fault::Eio, Fault::Enospc] {
        let (mut failed, mut is_whole) = (0, false);
        for nth in 1.. {
            let mut tree = Grown::new(TableKind::Index);
            for flush in 0..3 {
                tree.flush::<Index>(&rows(flush)).unwrap();
            }
            let before = tree.all::<Index>();
            let plan = plan(&tree.levels, &SHAPE, u64::MAX, NO_DAMAGE).expect("level 0 is due");
            assert!(plan.inputs().count() >= 3);
            let op = tree.disk.op_count() + nth;
            tree.disk.fail_at(op, fault);
            let outcome = tree.carry_out::<Index>(&plan, true);
            tree.disk.heal();
            if outcome.is_err() {
                failed += 1;
                tree.has_no_other_files();
                assert_eq!(tree.all::<Index>(), before);
                tree.carry_out::<Index>(&plan, true).unwrap();
                tree.has_no_other_files();
            } else {
                // The removal that failed is made up for at the next open.
                let tables = usize::try_from(tree.levels.total().table_count).unwrap();
                assert!(tree.disk.names().len() <= tables + 1);
            }
            is_whole = tree.disk.op_count() < op;
            if is_whole {
                break;
            }
        }
        assert!(is_whole, "every operation was tried");
        println!("{fault:?}: {failed} operations failed");
        assert!(failed > 5);
    }
}

#[test]
#[should_panic(expected = "X2: 16001 tables are carried")]
fn no_more_tables_are_carried_on_than_a_footer_can_name() {
    let tree = Grown::new(TableKind::Index);
    let id = TableId { table: TableKind::Index, ordinal: Ordinal(1), epoch: Epoch(1) };
    let carried = Carried { id, keys: None };
    let carried = vec![carried; CARRIED_TABLES_MAX + 1];
    RunWriter::<Index>::new(&tree.tables, tree.options::<Index>(), Vec::new(), carried);
}

/// So many tables as there may be are not in memory at once: those of a level follow one another.
#[test]
fn a_rewriting_reads_the_tables_of_a_level_one_after_the_other() {
    let mut tree = Grown::new(TableKind::Index);
    let row = |number: u64| Row::new(key(number), u128::from(number));
    let mut flush = |numbers: std::ops::Range<u64>| {
        let mut rows: Vec<_> = numbers.map(row).collect();
        rows.sort();
        tree.flush::<Index>(&rows).unwrap();
    };
    flush(0..20_000);
    flush(20_000..21_000);
    let first = plan_full(&tree.levels, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
    tree.carry_out::<Index>(&first, true).unwrap();
    let rows: BTreeSet<_> = (30_000..31_000).map(row).collect();
    tree.flush::<Index>(&rows.into_iter().collect::<Vec<_>>()).unwrap();
    let plan = plan_full(&tree.levels, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
    assert!(plan.inputs().count() > 10, "{plan:?}");

    let inputs = plan.inputs().map(|meta| open::<Index>(&tree.tables, meta).unwrap());
    let inputs: Vec<_> = inputs.collect();
    let options = tree.options::<Index>();
    let kept = |merged| Index::kept(merged, plan.is_bottom);
    let before = tree.disk.trace().len();
    let mut rewrite =
        Rewrite::<Index>::new(&tree.tables, plan.clone(), &inputs, options, Vec::new(), kept);
    assert!(rewrite.step(1).unwrap());
    let read: BTreeSet<String> = tree.disk.trace()[before..]
        .iter()
        .filter(|line| line.contains("reading"))
        .flat_map(|line| line.split_whitespace().map(str::to_owned))
        .filter(|word| word.ends_with(".table"))
        .collect();
    assert!((1..=3).contains(&read.len()), "{read:?}");
    rewrite.abandon();
}

/// Whatever becomes of its entries, a step goes through as many as it is told to.
fn goes_on_by_steps<T: Tree, S>(tree: &Grown, kept: impl FnOnce(Merged<T>) -> S)
where
    S: Sieve<T::Entry, TableError> + Send + 'static,
{
    let plan =
        plan_full(&tree.levels, &Shape { input_bytes_max: u64::MAX, ..SHAPE }, u64::MAX, NO_DAMAGE)
            .unwrap();
    assert!(plan.is_bottom);
    let inputs = plan.inputs().map(|meta| open::<T>(&tree.tables, meta).unwrap());
    let inputs: Vec<_> = inputs.collect();
    let (options, input_bytes) = (tree.options::<T>(), plan.input_bytes());
    let mut rewrite = Rewrite::<T>::new(&tree.tables, plan, &inputs, options, Vec::new(), kept);
    let (mut done_bytes, mut op_count) = (0, tree.disk.op_count());
    while rewrite.step(100).unwrap() {
        let step_bytes = rewrite.done_bytes() - done_bytes;
        assert!((1..input_bytes / 20).contains(&step_bytes), "{step_bytes} of {input_bytes} bytes");
        let ops = tree.disk.op_count() - op_count;
        // The first opens a table of each source.
        assert!(ops <= 30, "{ops} operations");
        (done_bytes, op_count) = (rewrite.done_bytes(), tree.disk.op_count());
    }
    // Of rows that stand in several tables one is gone through.
    assert!(done_bytes > input_bytes / 10 * 8, "{done_bytes} of {input_bytes} bytes");
    rewrite.abandon();
}

#[test]
fn a_step_counts_the_names_that_go() {
    let mut tree = Grown::new(TableKind::Names);
    for (commit, to) in [(1, Some(Digest::of(b"value"))), (2, None)] {
        let name = |number: u64| Bytes::from(format!("name {number:05}"));
        let entry = |number| NameEntry { name: name(number), commit, to };
        tree.flush::<Names>(&(0..4000).map(entry).collect::<Vec<_>>()).unwrap();
    }
    goes_on_by_steps::<Names, _>(&tree, |merged| {
        Versions::new(merged, Readers::new(Vec::new(), u64::MAX), true)
    });
}

#[test]
fn a_step_counts_the_rows_that_go() {
    let mut tree = Grown::new(TableKind::Index);
    (0..12).for_each(|flush| tree.flush::<Index>(&rows(flush)).unwrap());
    goes_on_by_steps::<Index, _>(&tree, |merged| Chosen::new(merged, |_: &Row| false));
}
