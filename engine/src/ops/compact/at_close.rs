//! What is flushed before the store is closed, so that an open has not to fill memtables with it.
//!
//! 1. Memtables that wait are flushed, as ever.
//! 2. Of the digest index' last one, which takes what comes, that is flushed which stands in sealed segments, if
//!    it is much. It stays as it is: what it holds is found twice then, which is legal, until the store is closed.
//!    So nobody who still puts has to wait for it. The pointer table's last one ends with its segment: see
//!    [`commit::end_segment`](crate::ops::commit::end_segment).
//!
//! 3. Where level 0 has as many tables by then as make it due, it is rewritten: a store that is closed before its
//!    threads come to that would have ever more of them.
//!
//! What little is left an open takes from the logs; a table for every few values would cost look-ups more.

use pinstone_compaction::merge::Chosen;
use pinstone_compaction::run::{Index, Names, RunWriter};
use pinstone_compaction::table::index::Row;
use pinstone_disk::{LogKind, TableKind};

use super::{StoreTree, attempt, full, step_flush, step_rewrite};
use crate::error::Result;
use crate::state::digest_index::place_of;
use crate::state::inner::Inner;
use crate::state::root::Flushed;
use crate::state::trees::Flush;

/// The share of what is enough for a table, 1 : this, that is flushed: an open takes less from the logs in
/// milliseconds.
pub(crate) const CLOSE_DIVISOR: u64 = 16;

/// Flushes what would keep the next open waiting.
///
/// # Errors
/// Why it cannot be flushed, or rewritten. Nothing is lost by that.
pub(crate) fn flush(inner: &Inner) -> Result<()> {
    let names = full::flush::<Names>(inner).and_then(|()| rewrite::<Names>(inner));
    full::flush::<Index>(inner)?;
    flush_last(inner)?;
    rewrite::<Index>(inner)?;
    names
}

/// Rewrites until level 0 has fewer tables than make it due.
fn rewrite<T: StoreTree>(inner: &Inner) -> Result<()> {
    let tables_max = u64::from(inner.trees.shape(T::KIND).l0_tables);
    while T::levels(inner).levels().sums(0).table_count >= tables_max {
        let mut work = inner.trees.work.lock();
        if !attempt::<T>(inner, &mut work, |work| step_rewrite::<T>(inner, work, u64::MAX))? {
            break;
        }
    }
    Ok(())
}

fn flush_last(inner: &Inner) -> Result<()> {
    let mut work = inner.trees.work.lock();
    // First: what is sealed now stands in the memtables of any later view, if in no table.
    let below = inner.root.sealed_below(LogKind::Blob);
    // Those before the last one go first, and wait for segments that could not be sealed.
    let Some(memtable) = inner.index.only() else { return Ok(()) };
    let many = inner.index.memtable_entries() / CLOSE_DIVISOR;
    if memtable.entry_count() < many {
        return Ok(());
    }
    let mut rows = memtable.rows(inner.index.key_bits());
    rows.retain(|row| place_of(*row).ordinal < below);
    if rows.is_empty() || (rows.len() as u64) < many {
        return Ok(());
    }
    attempt::<Index>(inner, &mut work, |work| {
        let options = inner.trees.run_options(TableKind::Index, 0, u64::MAX)?;
        let entries = Chosen::new(rows.into_iter().map(Ok), |_: &Row| true);
        work.index.flush = Some(Flush {
            memtable,
            is_whole: false,
            flushed: Flushed { below, ..Flushed::NOTHING },
            entries: Box::new(entries),
            writer: RunWriter::new(&inner.trees.tables, options, Vec::new(), Vec::new()),
        });
        step_flush::<Index>(inner, work, u64::MAX)
    })?;
    Ok(())
}
