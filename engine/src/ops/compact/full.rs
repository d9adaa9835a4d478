//! compact: what is full is sealed, what can be is flushed, and each tree is rewritten until it is
//! one sorted level of which nothing can be left out.
//!
//! 1. What is rewritten is what stands in tables after these flushes. Tables that are flushed later
//!    stay in level 0, so that it is not others' writing that decides when the work ends.
//! 2. It goes in steps like those of the work that is always due, under the same lock, which is let go
//!    between two steps. What one begins, the other may go on with.
//!
//! - W1: nothing is sealed that is not full: memtables stay whose segments are not sealed.
//! - W2: at rest it writes nothing.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use pinstone_compaction::TableId;
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::Levels;
use pinstone_compaction::plan::{self, INPUT_TABLES_MAX, NO_DAMAGE};
use pinstone_compaction::run::{CARRIED_TABLES_MAX, Index, Names, Rewrite};
use pinstone_disk::env::{self, MutexGuard};

use super::{STEP_ENTRIES, StoreTree, attempt, begin_rewrite, step_flush, step_rewrite};
use crate::error::{Error, Result};
use crate::maintain;
use crate::state::inner::Inner;
use crate::state::trees::Work;

/// Compacts both trees whole; `progress` is told the bytes read, and about how many are to be read
/// in all.
pub(crate) fn compact(inner: &Inner, progress: impl Fn(u64, u64)) -> Result<()> {
    inner.writer.poison.check()?;
    while maintain::seal_next(inner)? {}
    let flushed = (flush::<Names>(inner), flush::<Index>(inner));
    read_damaged::<Names>(inner);
    read_damaged::<Index>(inner);
    let (names, index) = {
        let mut work = inner.trees.work.lock();
        (Goal::<Names>::new(inner, &mut work), Goal::<Index>::new(inner, &mut work))
    };
    let told = |mut work: MutexGuard<'_, Work>| {
        let done_bytes = names.done_bytes(&mut work) + index.done_bytes(&mut work);
        let ahead_bytes = names.ahead_bytes(inner, &mut work) + index.ahead_bytes(inner, &mut work);
        drop(work);
        progress(done_bytes, done_bytes + ahead_bytes);
    };
    // That one tree cannot be compacted stops nothing of the other's.
    let reached = (
        flushed.0.and_then(|()| names.reach(inner, told)),
        flushed.1.and_then(|()| index.reach(inner, told)),
    );
    inner.root.rewrite()?;
    reached.0.and(reached.1)
}

/// Reads again the tables that could not be read: what can be now is no damage.
fn read_damaged<T: StoreTree>(inner: &Inner) {
    let damaged = T::work(&mut inner.trees.work.lock()).damage.tables();
    let scan_bytes = inner.trees.tables.scan_bytes(1);
    for id in damaged {
        let levels = T::levels(inner);
        let is_well = |table| T::entries(table, scan_bytes).all(|entry| entry.is_ok());
        if levels.table(id).is_none_or(is_well) {
            T::work(&mut inner.trees.work.lock()).damage.forget(id);
        }
    }
}

/// Flushes as many memtables as wait now, but those that wait for their segments.
pub(super) fn flush<T: StoreTree>(inner: &Inner) -> Result<()> {
    let flush_count = |work: &mut Work| T::work(work).figures.flush_count;
    let until = flush_count(&mut inner.trees.work.lock()) + T::frozen_count(inner);
    loop {
        let mut work = inner.trees.work.lock();
        let step = |work: &mut Work| step_flush::<T>(inner, work, STEP_ENTRIES);
        let goes_on = attempt::<T>(inner, &mut work, step)?;
        if !goes_on || flush_count(&mut work) >= until {
            return Ok(());
        }
        drop(work);
        env::yield_now();
    }
}

/// One sorted level of what a tree has in tables.
struct Goal<T> {
    /// The tables of level 0 that are to go into it.
    level0: BTreeSet<TableId>,
    /// Bytes that rewrites had read by then.
    before_bytes: u64,
    tree: PhantomData<T>,
}

impl<T: StoreTree> Goal<T> {
    fn new(inner: &Inner, work: &mut Work) -> Self {
        let level0 = T::levels(inner).levels().tables(0).iter().map(|table| table.id).collect();
        Self { level0, before_bytes: read_bytes::<T>(work), tree: PhantomData }
    }

    /// The tree without what came to level 0 since.
    fn levels(&self, inner: &Inner) -> Levels {
        let levels = T::levels(inner).levels().clone();
        let newer = levels.tables(0).iter().map(|table| table.id);
        let removed: Vec<_> = newer.filter(|id| !self.level0.contains(id)).collect();
        if removed.is_empty() {
            return levels;
        }
        let edit = LevelEdit { removed, ..LevelEdit::new(T::KIND) };
        levels.apply(&edit).expect("what is there can go")
    }

    /// Goes on until it is reached, and flushes meanwhile what waits; `told` is told after each step.
    fn reach(&self, inner: &Inner, told: impl Fn(MutexGuard<'_, Work>)) -> Result<()> {
        loop {
            let mut work = inner.trees.work.lock();
            // Once for both: a snapshot may end between them.
            let oldest_seen = T::oldest_seen(inner);
            let goes_on = attempt::<T>(inner, &mut work, |work| {
                let flushed = step_flush::<T>(inner, work, STEP_ENTRIES)?;
                Ok(flushed || self.step(inner, work, oldest_seen)?)
            })?;
            if !goes_on {
                return self.check_reached(inner, &mut work, oldest_seen);
            }
            told(work);
            env::yield_now();
        }
    }

    /// Does a little of it; false if there is nothing left to do, or it must wait.
    fn step(&self, inner: &Inner, work: &mut Work, oldest_seen: u64) -> Result<bool> {
        if T::work(work).rewrite.is_some() {
            return step_rewrite::<T>(inner, work, STEP_ENTRIES);
        }
        let (levels, shape) = (self.levels(inner), inner.trees.shape(T::KIND));
        match plan::plan_full(&levels, shape, oldest_seen, &T::work(work).damage.tables()) {
            Some(plan) => begin_rewrite::<T>(inner, work, &T::levels(inner), &plan),
            None => Ok(false),
        }
    }

    /// Nothing is left to do.
    ///
    /// # Errors
    /// What it waits for; or why the first of the tables that cannot be read cannot be: it came as near as that lets it.
    fn check_reached(&self, inner: &Inner, work: &mut Work, oldest_seen: u64) -> Result<()> {
        if let Some(error) = T::work(work).damage.first() {
            return Err(error.clone().into());
        }
        let (levels, shape) = (self.levels(inner), inner.trees.shape(T::KIND));
        if plan::full_bytes(&levels, shape, oldest_seen) == 0 {
            return Ok(());
        }
        let (what, max, found) = match plan::plan_full(&levels, shape, oldest_seen, NO_DAMAGE) {
            Some(_) => {
                let found = work.lingering.len() as u64;
                ("replaced tables that readers hold on to", CARRIED_TABLES_MAX, found)
            }
            None => {
                let found = levels.total().table_count;
                ("tables of a tree that overlap one another", INPUT_TABLES_MAX, found)
            }
        };
        Err(Error::Limit { what, max: max as u64, found })
    }

    fn done_bytes(&self, work: &mut Work) -> u64 {
        read_bytes::<T>(work).saturating_sub(self.before_bytes)
    }

    fn ahead_bytes(&self, inner: &Inner, work: &mut Work) -> u64 {
        let done_bytes = T::work(work).rewrite.as_ref().map_or(0, Rewrite::done_bytes);
        let (levels, shape) = (self.levels(inner), inner.trees.shape(T::KIND));
        plan::full_bytes(&levels, shape, T::oldest_seen(inner)).saturating_sub(done_bytes)
    }
}

/// Bytes that rewrites of the tree have read since the store was opened.
fn read_bytes<T: StoreTree>(work: &mut Work) -> u64 {
    let work = T::work(work);
    let begun_bytes: u64 = work.figures.read_bytes.iter().sum();
    let ahead = |rewrite: &Rewrite<T>| rewrite.plan().input_bytes() - rewrite.done_bytes();
    begun_bytes - work.rewrite.as_ref().map_or(0, ahead)
}
