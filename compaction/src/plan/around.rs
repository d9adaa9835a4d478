//! What is done about damaged tables: 9 of [`plan`](super).

use std::sync::Arc;

use super::{Damaged, INPUT_TABLES_MAX, LAST, Plan, View, plan_between};
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
        if level == 0 && tables[..at].iter().any(|older| older.overlaps(first, last)) {
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

    /// If level 0 has nowhere to go, a compaction of levels below that have no damaged tables: once one of them is
    /// empty, those above it sink.
    pub(super) fn room(&self) -> Option<Plan> {
        let has_none = self.last == 0 || self.has_damaged(0);
        let is_filled = |level: u8| !self.levels.tables(level).is_empty();
        let is_sound = |level: u8| is_filled(level) && !self.has_damaged(level);
        let are_sound = |level: &u8| is_sound(*level) && is_sound(level + 1);
        let mut sound = (1..LAST).filter(|_| has_none && is_filled(1)).filter(are_sound);
        sound.find_map(|level| plan_between(self, level, level + 1))
    }
}
