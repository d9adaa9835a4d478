//! What is rewritten in place, because of spare entries: 7 and 8 of [`plan`](super).

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use super::{Plan, RUN_TABLES_MAX, View, bytes, is_bottom};
use crate::levels::{LEVELS_MAX, LevelTables};
use crate::table::{READ_FOR_ONE_MAX, TableMeta};

impl<'a> View<'a> {
    /// The first rewriting in place, if any; `is_full`: for the least that goes.
    pub(super) fn in_place(self, is_full: bool) -> Option<Plan> {
        self.thinnings(is_full).next().map(|(level, tables)| Plan::in_place(level, tables))
    }

    /// What is to be rewritten in place: levels with neighbours, one run after the other.
    pub(super) fn thinnings(self, is_full: bool) -> impl Iterator<Item = (u8, LevelTables<'a>)> {
        let levels = (1..LEVELS_MAX).filter(move |at| self.levels.sums(*at).spare_count > 0);
        levels.flat_map(move |level| {
            let tables = self.levels.tables(level);
            let mut passed = 0;
            iter::from_fn(move || {
                let mut places = self.levels.spare_places(level, passed, is_full);
                let run = places.find_map(|at| self.thinning(level, at, is_full))?;
                passed = run.end;
                Some((level, tables.range(run)))
            })
        })
    }

    /// With which of its neighbours this table of the level is thinned, if it can be and is to be.
    fn thinning(&self, level: u8, at: usize, is_full: bool) -> Option<Range<usize>> {
        let tables = self.levels.tables(level);
        if !self.has_enough(&tables[at], is_full) || !self.is_bottom(level, &(at..at + 1)) {
            return None;
        }
        let run = match self.with_followers(level, at, is_full) {
            alone if alone.len() == 1 => self.with_smaller(level, at, is_full).unwrap_or(alone),
            run => run,
        };
        let thinned = tables.range(run.clone());
        let is_due =
            if is_full { self.going(thinned.iter()) > 0 } else { self.is_wasteful(thinned.iter()) };
        is_due.then_some(run)
    }

    /// This table of the level, and those that follow it and can be thinned, too.
    fn with_followers(&self, level: u8, at: usize, is_full: bool) -> Range<usize> {
        let tables = self.levels.tables(level);
        let mut run_bytes = tables[at].file_bytes;
        let ends = (at + 2..=tables.len()).take(RUN_TABLES_MAX - 1);
        let fitting = ends.take_while(|end| {
            let last = &tables[end - 1];
            run_bytes = run_bytes.saturating_add(last.file_bytes);
            self.has_enough(last, is_full)
                && run_bytes <= self.shape.input_bytes_max
                && self.is_bottom(level, &(at..*end))
        });
        at..fitting.last().unwrap_or(at + 1)
    }

    /// This table of the level and the smaller of its neighbours, if that is worth it.
    fn with_smaller(&self, level: u8, at: usize, is_full: bool) -> Option<Range<usize>> {
        let tables = self.levels.tables(level);
        let of = |run: &Range<usize>| tables.range(run.clone()).iter();
        let fits = |pair: &Range<usize>| {
            pair.end <= tables.len()
                && of(pair).all(|table| !self.damaged.contains(&table.id))
                && bytes(of(pair)) <= self.shape.input_bytes_max
                && self.is_bottom(level, pair)
        };
        let firsts = [at.checked_sub(1), Some(at)].into_iter().flatten();
        let pairs = firsts.map(|first| first..first + 2).filter(fits);
        let smaller = pairs.min_by_key(|pair| bytes(of(pair)))?;
        let needs_other = is_full && tables[at].spare_count == tables[at].entry_count;
        (needs_other || self.is_wasteful(of(&smaller))).then_some(smaller)
    }

    /// Nothing is below these neighbours of the level, nor below what lies between them.
    fn is_bottom(&self, level: u8, run: &Range<usize>) -> bool {
        let tables = self.levels.tables(level);
        let ends = (&tables[run.start].first[..], &tables[run.end - 1].last[..]);
        is_bottom(self.levels, level, ends)
    }

    /// Everyone sees the newest versions in this table, and enough of it is spare.
    fn has_enough(&self, table: &TableMeta, is_full: bool) -> bool {
        let can_be_read = !self.damaged.contains(&table.id);
        let is_seen = table.last_commit <= self.oldest_seen;
        table.has_spare(is_full) && can_be_read && is_seen
    }

    /// Of these tables' entries enough go if they are rewritten at the bottom.
    pub(super) fn is_wasteful<'t>(
        &self,
        tables: impl Iterator<Item = &'t Arc<TableMeta>> + Clone,
    ) -> bool {
        let entry_count =
            tables.clone().fold(0u64, |sum, table| sum.saturating_add(table.entry_count));
        let going = self.going(tables);
        going > 0 && going.saturating_mul(READ_FOR_ONE_MAX) >= entry_count
    }

    /// Of these tables' entries so many go, at least, if they are rewritten at the bottom: M3 of
    /// [`merge`](crate::merge) keeps one.
    fn going<'t>(&self, tables: impl Iterator<Item = &'t Arc<TableMeta>>) -> u64 {
        let (mut spare, mut entries) = (0u64, 0u64);
        for table in tables {
            entries = entries.saturating_add(table.entry_count);
            if table.last_commit <= self.oldest_seen {
                spare = spare.saturating_add(table.spare_count);
            }
        }
        spare.min(entries.saturating_sub(1))
    }
}
