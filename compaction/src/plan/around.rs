//! What is done about damaged tables: 9 of [`plan`](super), decision 0017.

use std::sync::Arc;

use super::{Damaged, INPUT_TABLES_MAX, LAST, Plan, View, keys, plan_between};
use crate::levels::{LEVELS_MAX, Levels};
use crate::table::TableMeta;

/// A table of the level is damaged.
pub(super) fn has_damaged(levels: &Levels, damaged: &Damaged, level: u8) -> bool {
    let mut tables = levels.tables(level).iter();
    !damaged.is_empty() && tables.any(|table| damaged.contains(&table.id))
}

impl View<'_> {
    pub(super) fn has_damaged(&self, level: u8) -> bool {
        has_damaged(self.levels, self.damaged, level)
    }

    /// Bytes of the level that can go down: all of one above the first with damage. Others go to the next one, but for
    /// what is damaged, and what overlaps that there.
    pub(super) fn free_bytes(&self, level: u8) -> u64 {
        let held_bytes = self.levels.sums(level).file_bytes;
        if level < self.last || level == LAST || self.damaged.is_empty() {
            return held_bytes;
        }
        let below = self.levels.tables(self.below(level)).iter();
        let damaged: Vec<_> = below.filter(|table| self.damaged.contains(&table.id)).collect();
        let is_free = |table: &&Arc<TableMeta>| {
            let is_blocked = |other: &&Arc<TableMeta>| other.overlaps(&table.first, &table.last);
            !self.damaged.contains(&table.id) && !damaged.iter().any(is_blocked)
        };
        let free = self.levels.tables(level).iter().filter(is_free);
        free.fold(0, |sum, table| sum.saturating_add(table.file_bytes))
    }

    /// Nothing damaged in the level overlaps these tables.
    pub(super) fn is_free(&self, tables: &[Arc<TableMeta>], level: u8) -> bool {
        let (first, last) = keys(tables);
        let mut below = self.levels.run(level, first, last).iter();
        self.damaged.is_empty() || below.all(|table| !self.damaged.contains(&table.id))
    }

    /// Damage leaves fewer levels above it than are needed between what level 0 gives and what they hold.
    pub(super) fn is_cramped(&self) -> bool {
        let level0_bytes = self.levels.sums(0).file_bytes as f64;
        let reach_bytes = level0_bytes * self.targets.ratio_max.powi(self.last.into());
        self.last < LAST && self.targets.held_bytes as f64 > reach_bytes
    }

    /// Of a group of level 0 what is older than its damaged tables.
    pub(super) fn before_damage(&self, mut group: Vec<Arc<TableMeta>>) -> Vec<Arc<TableMeta>> {
        let damaged_at = group.iter().position(|table| self.damaged.contains(&table.id));
        group.truncate(damaged_at.unwrap_or(group.len()));
        group
    }

    /// A damaged table that can go deeper; or a level that is in the way of others, and can.
    pub(super) fn sinking(&self) -> Option<Plan> {
        if self.damaged.is_empty() {
            return None;
        }
        let table = (0..LAST).rev().find_map(|level| {
            let tables = self.levels.tables(level);
            let damaged = (0..tables.len()).filter(|at| self.damaged.contains(&tables[*at].id));
            damaged.into_iter().find_map(|at| self.sinking_table(level, at))
        });
        table.or_else(|| self.sinking_level())
    }

    fn sinking_table(&self, level: u8, at: usize) -> Option<Plan> {
        let tables = self.levels.tables(level);
        let TableMeta { first, last, .. } = &*tables[at];
        // P1: in level 0 those before it are older.
        if level == 0 && tables.range(0..at).iter().any(|older| older.overlaps(first, last)) {
            return None;
        }
        let is_free = |below: &u8| self.levels.run(*below, first, last).is_empty();
        let target = (level + 1..LEVELS_MAX).take_while(is_free).last()?;
        Some(Plan::sunk(self, level, target, vec![Arc::clone(&tables[at])]))
    }

    fn sinking_level(&self) -> Option<Plan> {
        let first = if self.has_damaged(0) { 1 } else { self.last + 1 };
        let count_of = |level: u8| self.levels.tables(level).len();
        let can_sink = |level: &u8| {
            (1..=INPUT_TABLES_MAX).contains(&count_of(*level)) && count_of(level + 1) == 0
        };
        let level = (first..LAST).rev().find(can_sink)?;
        Some(Plan::sunk(self, level, level + 1, self.levels.tables(level).to_vec()))
    }

    /// A compaction of two neighbouring levels without damage which are below some, or keep it in level 0: once the
    /// upper one of them is empty, those above it sink.
    pub(super) fn room(&self) -> Option<Plan> {
        let first = if self.has_damaged(0) { 1 } else { self.last + 1 };
        let is_filled = |level: u8| !self.levels.tables(level).is_empty();
        let is_sound = |level: u8| is_filled(level) && !self.has_damaged(level);
        let are_sound = |level: &u8| is_sound(*level) && is_sound(level + 1);
        let mut sound = (first..LAST).filter(are_sound);
        sound.find_map(|level| plan_between(self, level, level + 1))
    }
}
