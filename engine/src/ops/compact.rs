//! flush and compact: a memtable, or tables by plan -> tables, synced -> names synced -> space for a
//! longer root -> one edit of the root -> published -> what was replaced goes with its last reader.
//!
//! 1. [`step`] does a little of what is due, under one lock: whoever calls it decides how fast the
//!    work goes. A thread of the store's own does; while the work is behind, each writer does a
//!    little of it too, so that writers slow down smoothly and never stop.
//! 2. Flushing goes before rewriting: it gives memory back.
//! 3. What was written is opened before the root names it: a look-up never finds a table that cannot
//!    be opened.
//!
//! [`full`] has it all done at once.
//!
//! - F1: nothing refers to a table before its bytes and its name are durable.
//! - F2: an edit that takes tables in says in the same step what of the log they hold; only then is
//!   that left out at open.
//! - F3: whatever fails, the levels are as they were; it is tried again when there is more to do. A table that cannot
//!   be read twice is gone around: else each flush would have as much read in vain, and level 0 would grow.

use std::collections::BTreeSet;
use std::sync::Arc;

use pinstone_compaction::TableError;
use pinstone_compaction::TableMeta;
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::merge::{Chosen, Readers, Sieve, Versions};
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::plan::{self, Plan};
use pinstone_compaction::run::{
    CARRIED_TABLES_MAX, Index, Merged, Names, Rewrite, RunWriter, Tree,
};
use pinstone_compaction::table::container::TableFile;
use pinstone_compaction::table::index::Row;
use pinstone_disk::env::Ordering;
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{FileName, LogKind, TableKind};

use crate::error::{Error, Result};
use crate::maintain;
use crate::state::digest_index::{Memtable, place_of};
use crate::state::inner::Inner;
use crate::state::pointers::NameMemtable;
use crate::state::root::{Edit, Flushed};
use crate::state::trees::{Entries, Flush, TreeWork, Work};

pub(crate) mod at_close;
pub(crate) mod full;

/// Memtables of a tree that wait to be written, at most: a log whose values would need another waits.
pub(crate) const FROZEN_MAX: u64 = 3;

/// Entries that one flushes or rewrites before others may do some: a fraction of a millisecond.
const STEP_ENTRIES: u64 = 2048;

/// Entries that a writer rewrites for each it adds, for each measure by which the work is behind:
/// more than compaction multiplies what is written, so that it catches up.
const PRESSURE_ENTRIES: u64 = 8;

/// A tree of the store.
pub(crate) trait StoreTree: Tree {
    /// What is flushed.
    type Memtable: std::fmt::Debug + Send + Sync;
    /// The entries of a merge that stay.
    type Kept: Sieve<Self::Entry, TableError> + Send + 'static;

    /// Its work.
    fn work(work: &mut Work) -> &mut TreeWork<Self, Self::Memtable>
    where
        Self: Sized;

    /// The oldest memtable, if it is to be flushed, and what stands in tables then.
    fn to_flush(inner: &Inner) -> Option<(Arc<Self::Memtable>, Flushed)>;

    /// Memtables that wait.
    fn frozen_count(inner: &Inner) -> u64;

    /// Entries of each memtable, the oldest first.
    fn memtable_entries(inner: &Inner) -> Vec<u64>;

    /// A memtable's entries that are to stand in tables, in order. `is_alone`: no table lingers, which
    /// those of a flush do not name.
    fn in_order(inner: &Inner, memtable: &Arc<Self::Memtable>, is_alone: bool) -> Entries<Self>
    where
        Self: Sized;

    /// Its tables now.
    fn levels(inner: &Inner) -> OpenLevels<Self>
    where
        Self: Sized;

    /// Publishes other tables, and withdraws the memtable that they were made from.
    fn publish(inner: &Inner, levels: OpenLevels<Self>, flushed: Option<&Arc<Self::Memtable>>)
    where
        Self: Sized;

    /// The oldest commit as of which anyone reads the tables.
    fn oldest_seen(inner: &Inner) -> u64;

    /// What of a merge stays.
    fn kept(inner: &Inner, plan: &Plan, merged: Merged<Self>) -> Self::Kept
    where
        Self: Sized;
}

impl StoreTree for Index {
    type Memtable = Memtable;
    type Kept = KeptRows;

    fn work(work: &mut Work) -> &mut TreeWork<Self, Memtable> {
        &mut work.index
    }

    fn to_flush(inner: &Inner) -> Option<(Arc<Memtable>, Flushed)> {
        if inner.index.frozen_count() == 0 {
            return None;
        }
        let sealed_below = inner.root.sealed_below(LogKind::Blob);
        let (memtable, below) = inner.index.to_flush(sealed_below)?;
        let too_far = || below.next().filter(|_| planted::is(Bug::FlushedTooFar));
        let below = too_far().unwrap_or(below);
        // What stands in sealed segments was inserted before they were sealed.
        Some((memtable, Flushed { below, ..Flushed::NOTHING }))
    }

    fn frozen_count(inner: &Inner) -> u64 {
        inner.index.frozen_count()
    }

    fn memtable_entries(inner: &Inner) -> Vec<u64> {
        inner.index.view().memtables().iter().map(|memtable| memtable.entry_count()).collect()
    }

    fn in_order(inner: &Inner, memtable: &Arc<Memtable>, _is_alone: bool) -> Entries<Self> {
        // What a close flushed of it, if others went on putting meanwhile.
        let flushed_below = inner.root.flushed_below(TableKind::Index);
        let rows = memtable.rows(inner.index.key_bits()).into_iter();
        let is_left = move |row: &Row| place_of(*row).ordinal >= flushed_below;
        Box::new(Chosen::new(rows.map(Ok), is_left))
    }

    fn levels(inner: &Inner) -> OpenLevels<Self> {
        inner.index.view().levels().clone()
    }

    fn publish(inner: &Inner, levels: OpenLevels<Self>, flushed: Option<&Arc<Memtable>>) {
        inner.index.publish(levels, flushed);
    }

    fn oldest_seen(_inner: &Inner) -> u64 {
        u64::MAX
    }

    fn kept(inner: &Inner, _plan: &Plan, merged: Merged<Self>) -> KeptRows {
        // Sorted.
        let ordinals = inner.segments.ordinals();
        let stays = move |row: &Row| ordinals.binary_search(&place_of(*row).ordinal).is_ok();
        Chosen::new(merged, Box::new(stays))
    }
}

impl StoreTree for Names {
    type Memtable = NameMemtable;
    type Kept = Versions<Merged<Self>>;

    fn work(work: &mut Work) -> &mut TreeWork<Self, NameMemtable> {
        &mut work.names
    }

    fn to_flush(inner: &Inner) -> Option<(Arc<NameMemtable>, Flushed)> {
        let oldest = inner.pointers.oldest_frozen()?;
        let flushed = oldest.flushed().expect("it is frozen");
        (flushed.below <= inner.root.sealed_below(LogKind::Pointer)).then_some((oldest, flushed))
    }

    fn frozen_count(inner: &Inner) -> u64 {
        inner.pointers.frozen_count()
    }

    fn memtable_entries(inner: &Inner) -> Vec<u64> {
        inner.pointers.memtable_entries()
    }

    fn in_order(inner: &Inner, memtable: &Arc<NameMemtable>, is_alone: bool) -> Entries<Self> {
        let table_count = inner.pointers.levels().levels().total().table_count;
        let is_bottom = is_alone && table_count == 0;
        Box::new(Versions::new(memtable.entries().map(Ok), readers(inner), is_bottom))
    }

    fn levels(inner: &Inner) -> OpenLevels<Self> {
        OpenLevels::clone(&inner.pointers.levels())
    }

    fn publish(inner: &Inner, levels: OpenLevels<Self>, flushed: Option<&Arc<NameMemtable>>) {
        match flushed {
            Some(memtable) => inner.pointers.flushed(memtable, levels),
            None => inner.pointers.compacted(levels),
        }
    }

    fn oldest_seen(inner: &Inner) -> u64 {
        inner.pointers.oldest_seen()
    }

    fn kept(inner: &Inner, plan: &Plan, merged: Merged<Self>) -> Self::Kept {
        Versions::new(merged, readers(inner), plan.is_bottom)
    }
}

/// Who may read versions that are not the newest.
fn readers(inner: &Inner) -> Readers {
    Readers::new(inner.pointers.views(), u64::MAX)
}

/// Rows that lead to segments which the log has.
pub(crate) type KeptRows = Chosen<Merged<Index>, Box<dyn Fn(&Row) -> bool + Send>>;

/// Does about as much of what is due as [`STEP_ENTRIES`] are; false if nothing is due.
///
/// # Errors
/// Why the work cannot go on now. It waits until [`begin_again`].
pub(crate) fn step(inner: &Inner) -> Result<bool> {
    let mut work = inner.trees.work.lock();
    step_holding(inner, &mut work, STEP_ENTRIES)
}

/// Does as much of what is due as `entry_count` entries are, in as many steps as that takes; a step counts as
/// an entry at least, and tables that are moved as the entries they have.
///
/// # Errors
/// As [`step`].
pub(crate) fn help(inner: &Inner, entry_count: u64) -> Result<()> {
    let mut left = entry_count;
    while left > 0 {
        let mut work = inner.trees.work.lock();
        let before = work.entry_count;
        if !step_holding(inner, &mut work, left.min(STEP_ENTRIES))? {
            break;
        }
        left = left.saturating_sub((work.entry_count - before).max(1));
    }
    Ok(())
}

fn step_holding(inner: &Inner, work: &mut Work, entry_count: u64) -> Result<bool> {
    inner.writer.poison.check()?;
    let has_stepped = is_stepped::<Names>(inner, work, step_flush::<Names>, entry_count)
        || is_stepped::<Index>(inner, work, step_flush::<Index>, entry_count)
        || is_stepped::<Names>(inner, work, step_rewrite::<Names>, entry_count)
        || is_stepped::<Index>(inner, work, step_rewrite::<Index>, entry_count);
    match work.failure.take_if(|_| !has_stepped) {
        Some(error) => Err(error),
        None => Ok(has_stepped),
    }
}

type Step = fn(&Inner, &mut Work, u64) -> Result<bool>;

/// Does a little of a tree's work, if there is any and it has not failed. That it fails stops nothing
/// of the other tree's.
fn is_stepped<T: StoreTree>(inner: &Inner, work: &mut Work, step: Step, entry_count: u64) -> bool {
    if T::work(work).has_failed {
        return false;
    }
    match attempt::<T>(inner, work, |work| step(inner, work, entry_count)) {
        Ok(has_stepped) => has_stepped,
        Err(error) => {
            tracing::warn!(%error, tree = T::KIND.word(), "flushing or compaction waits");
            work.failure.get_or_insert(error);
            false
        }
    }
}

/// Does some work of a tree. If it fails, what is under way there is given up, and waits (F3).
fn attempt<T: StoreTree>(
    inner: &Inner,
    work: &mut Work,
    act: impl FnOnce(&mut Work) -> Result<bool>,
) -> Result<bool> {
    let done = inner.writer.poison.check().map_err(Error::from).and_then(|()| act(work));
    if done.is_err() {
        let work = T::work(work);
        abandon_tree(work);
        work.has_failed = true;
    }
    inner.trees.work_bytes.store(work.memory_bytes(), Ordering::Relaxed);
    done
}

/// Has the work go on after a failure.
pub(crate) fn begin_again(inner: &Inner) {
    let mut work = inner.trees.work.lock();
    (work.index.has_failed, work.names.has_failed, work.failure) = (false, false, None);
}

/// Gives up what is under way: nothing of it stays.
pub(crate) fn abandon(work: &mut Work) {
    abandon_tree(&mut work.index);
    abandon_tree(&mut work.names);
}

fn abandon_tree<T: Tree, M>(work: &mut TreeWork<T, M>) {
    if let Some(flush) = work.flush.take() {
        flush.writer.abandon();
    }
    if let Some(rewrite) = work.rewrite.take() {
        rewrite.abandon();
    }
}

/// Flushes until fewer memtables of a tree wait than may.
///
/// # Errors
/// Why they cannot be flushed.
pub(crate) fn flush_behind<T: StoreTree>(inner: &Inner) -> Result<()> {
    while T::frozen_count(inner) >= FROZEN_MAX {
        let mut work = inner.trees.work.lock();
        if !attempt::<T>(inner, &mut work, |work| step_flush::<T>(inner, work, u64::MAX))? {
            // It waits for segments to be sealed.
            break;
        }
    }
    Ok(())
}

/// Says how much each writer has to help from now on.
pub(crate) fn note_pressure(inner: &Inner) {
    let entry_count = pressure::<Index>(inner) + pressure::<Names>(inner);
    inner.trees.pressure.store(entry_count, Ordering::Relaxed);
}

fn pressure<T: StoreTree>(inner: &Inner) -> u64 {
    let l0_tables = T::levels(inner).levels().sums(0).table_count;
    let times = l0_tables / u64::from(inner.trees.shape(T::KIND).l0_tables.max(1));
    let measures = times.saturating_sub(1) + T::frozen_count(inner).saturating_sub(1);
    PRESSURE_ENTRIES * measures
}

fn step_flush<T: StoreTree>(inner: &Inner, work: &mut Work, entry_count: u64) -> Result<bool> {
    if T::work(work).flush.is_none() {
        let Some((memtable, flushed)) = T::to_flush(inner) else { return Ok(false) };
        inner.begin_writing()?;
        let entries = T::in_order(inner, &memtable, work.lingering.is_empty());
        let options = inner.trees.run_options(T::KIND, 0, u64::MAX)?;
        let writer = RunWriter::new(&inner.trees.tables, options, Vec::new(), Vec::new());
        T::work(work).flush = Some(Flush { memtable, is_whole: true, flushed, entries, writer });
    }
    let flush = T::work(work).flush.as_mut().expect("it was just begun");
    for done in 0..entry_count {
        match flush.entries.sift() {
            Some(sifted) => {
                let push = |entry: T::Entry| flush.writer.push(&entry);
                let pushed = sifted.and_then(|entry| entry.map_or(Ok(()), push));
                pushed.map_err(|error| after(inner, error))?;
            }
            None => {
                work.entry_count += done;
                return finish_flush::<T>(inner, work).map(|()| true);
            }
        }
    }
    work.entry_count += entry_count;
    Ok(true)
}

fn finish_flush<T: StoreTree>(inner: &Inner, work: &mut Work) -> Result<()> {
    let Flush { memtable, is_whole, flushed, writer, .. } =
        T::work(work).flush.take().expect("it is under way");
    let metas = writer.finish().map_err(|error| after(inner, error))?;
    let bytes: u64 = metas.iter().map(|meta| meta.file_bytes).sum();
    let added = metas.into_iter().map(|meta| (0, meta)).collect();
    let edit = LevelEdit { added, ..LevelEdit::new(T::KIND) };
    let retired = match T::KIND {
        TableKind::Index => Vec::new(),
        TableKind::Names => inner.root.segments_below(LogKind::Pointer, flushed.below),
    };
    let mut also = vec![Edit::Flushed { tree: T::KIND, flushed }];
    also.extend(
        retired
            .iter()
            .map(|(ordinal, _)| Edit::Retire { log: LogKind::Pointer, ordinal: *ordinal }),
    );
    let mut retired: Vec<_> = retired.into_iter().map(|(_, name)| name).collect();
    if planted::is(Bug::RetiredTooEarly) {
        remove_retired(inner, &mut retired.clone());
    }
    take_in::<T>(inner, work, &edit, also, is_whole.then_some(&memtable))?;
    work.retired.append(&mut retired);
    remove_retired(inner, &mut work.retired);
    let figures = &mut T::work(work).figures;
    figures.flush_count += 1;
    figures.flushed_bytes += bytes;
    tracing::debug!(tree = T::KIND.word(), bytes, below = %flushed.below, "memtable flushed");
    Ok(())
}

/// Removes these files, and leaves those that cannot be removed now: they are tried again with the next
/// flush, or are gone with the next open.
fn remove_retired(inner: &Inner, files: &mut Vec<FileName>) {
    files.retain(|name| match inner.disk.remove(*name) {
        Err(error) if !error.is_not_found() => {
            tracing::warn!(%error, "a segment that is not needed any more stays");
            true
        }
        _ => false,
    });
}

fn step_rewrite<T: StoreTree>(inner: &Inner, work: &mut Work, entry_count: u64) -> Result<bool> {
    if T::work(work).rewrite.is_none() {
        let levels = T::levels(inner);
        let (shape, oldest_seen) = (inner.trees.shape(T::KIND), T::oldest_seen(inner));
        let damaged = T::work(work).damage.tables();
        let Some(plan) = plan::plan(levels.levels(), shape, oldest_seen, &damaged) else {
            return Ok(false);
        };
        return begin_rewrite::<T>(inner, work, &levels, &plan);
    }
    let rewrite = T::work(work).rewrite.as_mut().expect("it is under way");
    let (before_bytes, before) = (rewrite.done_bytes(), rewrite.passed_count());
    let goes_on = match rewrite.step(entry_count) {
        Ok(goes_on) => goes_on,
        Err(error) => {
            let is_noted = note_unreadable(T::work(work), &error);
            return if is_noted { Ok(true) } else { Err(after(inner, error)) };
        }
    };
    let bytes = rewrite.done_bytes() - before_bytes;
    work.entry_count += rewrite.passed_count() - before;
    inner.trees.compacted_bytes.fetch_add(bytes, Ordering::Relaxed);
    if !goes_on {
        finish_rewrite::<T>(inner, work)?;
    }
    Ok(true)
}

/// If this is what keeps a table from being read that is rewritten, gives that up: it is tried once more, and then gone
/// around.
fn note_unreadable<T: StoreTree>(work: &mut TreeWork<T, T::Memtable>, error: &TableError) -> bool {
    let Some(file) = error.unreadable_file() else { return false };
    let inputs = work.rewrite.iter().flat_map(|rewrite| rewrite.plan().inputs());
    let Some(id) = inputs.map(|meta| meta.id).find(|id| id.file_name().to_string() == file) else {
        return false;
    };
    tracing::warn!(%error, tree = T::KIND.word(), "compaction could not read a table");
    work.damage.note(id, error);
    if let Some(rewrite) = work.rewrite.take() {
        rewrite.abandon();
    }
    true
}

/// Begins to carry out a plan, or carries it out, if it only moves tables; false if it must wait.
fn begin_rewrite<T: StoreTree>(
    inner: &Inner,
    work: &mut Work,
    levels: &OpenLevels<T>,
    plan: &Plan,
) -> Result<bool> {
    inner.begin_writing()?;
    if plan.is_move {
        let edit = plan.edit(Vec::new());
        take_in::<T>(inner, work, &edit, Vec::new(), None)?;
        work.entry_count += plan.inputs().map(|meta| meta.entry_count).sum::<u64>();
        T::work(work).figures.move_count += 1;
        return Ok(true);
    }
    let tables = levels.tables_of(&plan.inputs().map(|meta| meta.id).collect());
    let open = |meta: &Arc<TableMeta>| {
        Arc::clone(tables.get(&meta.id).expect("a plan is made of tables that are there"))
    };
    let inputs: Vec<_> = plan.inputs().map(open).collect();
    if !work.lingering.is_empty() || inner.trees.tables.has_removals() {
        // Readers may have let go of them since; and of what was given up it must be known whether it is gone.
        sync_names(inner, work)?;
    }
    let metas = plan.inputs().map(|meta| &**meta);
    let carried = work.lingering.carried(T::KIND, metas);
    if carried.len() > CARRIED_TABLES_MAX {
        // Readers hold on to that many; once they let go, it goes on.
        return Ok(false);
    }
    let table_bytes = inner.trees.shape(T::KIND).table_bytes;
    let options = inner.trees.run_options(T::KIND, plan.target, table_bytes)?;
    let kept = |merged| T::kept(inner, plan, merged);
    let rewrite = Rewrite::new(&inner.trees.tables, plan.clone(), &inputs, options, carried, kept);
    let figures = &mut T::work(work).figures;
    figures.rewrite_count += 1;
    figures.thinning_count += u64::from(plan.source == plan.target);
    figures.read_bytes[usize::from(plan.target)] += plan.input_bytes();
    T::work(work).rewrite = Some(rewrite);
    Ok(true)
}

fn finish_rewrite<T: StoreTree>(inner: &Inner, work: &mut Work) -> Result<()> {
    let rewrite = T::work(work).rewrite.take().expect("it is under way");
    let edit = rewrite.finish().map_err(|error| after(inner, error))?;
    let (level, bytes) = (
        edit.added.first().map_or(0, |(level, _)| usize::from(*level)),
        edit.added.iter().map(|(_, meta)| meta.file_bytes).sum::<u64>(),
    );
    take_in::<T>(inner, work, &edit, Vec::new(), None)?;
    T::work(work).figures.written_bytes[level] += bytes;
    T::work(work).damage.note_read();
    tracing::debug!(tree = T::KIND.word(), bytes, level, "tables rewritten");
    Ok(())
}

/// Makes an edit of a tree durable and publishes it. If that fails, the files that it would have
/// added are removed, unless the root may name them.
fn take_in<T: StoreTree>(
    inner: &Inner,
    work: &mut Work,
    edit: &LevelEdit,
    also: Vec<Edit>,
    flushed: Option<&Arc<T::Memtable>>,
) -> Result<()> {
    let before = T::levels(inner);
    // What only moves is removed and added.
    let (removed, added): (BTreeSet<_>, BTreeSet<_>) = (
        edit.removed.iter().copied().collect(),
        edit.added.iter().map(|(_, meta)| meta.id).collect(),
    );
    let is_new = |(_, meta): &&(u8, TableMeta)| !removed.contains(&meta.id);
    let new: Vec<TableMeta> =
        edit.added.iter().filter(is_new).map(|(_, meta)| meta.clone()).collect();
    let opened = match make_durable::<T>(inner, work, &new, edit, also) {
        Ok(opened) => opened,
        Err(error) => {
            if !matches!(error, Error::Poisoned { .. } | Error::Indeterminate { .. }) {
                for meta in &new {
                    inner.trees.tables.remove(meta.id);
                }
            }
            return Err(error);
        }
    };
    let after = before.apply(edit, &opened).expect("the root took this edit");
    T::publish(inner, after, flushed);
    let tables = before.tables_of(&(&removed - &added));
    let gone = edit.removed.iter().filter_map(|id| tables.get(id)).map(|table| T::file(table));
    let gone: Vec<_> = gone.inspect(|file| file.doom()).map(TableFile::meta).collect();
    work.lingering.replace(&gone, &new);
    note_pressure(inner);
    Ok(())
}

/// Opens the new tables, makes their names durable, and then the edit (F1, F2), once an open has the
/// space for the root that this makes.
fn make_durable<T: StoreTree>(
    inner: &Inner,
    work: &mut Work,
    new: &[TableMeta],
    edit: &LevelEdit,
    also: Vec<Edit>,
) -> Result<Vec<Arc<T::Table>>> {
    let open = |meta: &TableMeta| T::open(&inner.trees.tables, meta.clone()).map(Arc::new);
    let opened = new.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    sync_names(inner, work)?;
    let mut edits = vec![Edit::Levels(edit.clone())];
    edits.extend(also);
    let root_bytes = inner.root.record_bytes_with(&edits);
    let edited =
        maintain::cover_root(inner, root_bytes).and_then(|()| Ok(inner.root.edit(&edits)?));
    inner.reserve.root_is_done();
    edited.map(|()| opened)
}

/// Makes the names of files durable, and what was removed before that durably gone.
fn sync_names(inner: &Inner, work: &mut Work) -> Result<()> {
    let removed = inner.trees.tables.take_removed();
    if !planted::is(Bug::TableNamesNotSynced) {
        inner.disk.sync_dir().map_err(|error| inner.writer.poison.after(error))?;
    }
    for id in removed {
        work.lingering.forget(id);
    }
    for id in inner.trees.tables.not_removed() {
        work.lingering.add_unknown(id);
    }
    Ok(())
}

/// What a failure of the machine while tables were written means: a failed sync ends writing.
fn after(inner: &Inner, error: TableError) -> Error {
    match error {
        TableError::Disk(error) => inner.writer.poison.after(error).into(),
        error => error.into(),
    }
}
