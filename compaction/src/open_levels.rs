//! One tree's levels with their tables open: what a look-up goes through.
//!
//! A view of this kind is never changed either: [`OpenLevels::apply`] makes the next one, which
//! shares every table that stays. A table is closed, and, if its owner said so, its file removed,
//! when the last view or iterator that holds it is gone.
//!
//! - O1: the open tables of each level stand in the order of their descriptions in [`Levels`], and so do the
//!   heads of their bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::edit::LevelEdit;
use crate::error::TableError;
use crate::levels::{LEVELS_MAX, LevelFault, Levels};
use crate::run::Tree;
use crate::table::shared::Tables;
use crate::table::{TableId, TableMeta};

/// A tree's levels, their tables open.
pub struct OpenLevels<T: Tree> {
    levels: Levels,
    open: [OpenLevel<T>; LEVELS_MAX as usize],
    /// A bit for each level that has tables: look-ups pass over the others.
    filled: u8,
}

/// A level's tables, open. A clone shares them.
struct OpenLevel<T: Tree> {
    tables: Arc<[Arc<T::Table>]>,
    /// Of each the first bytes of its first key and its last: mostly they tell, and stand together.
    heads: Arc<[[u64; 2]]>,
}

impl<T: Tree> OpenLevel<T> {
    fn new(tables: Arc<[Arc<T::Table>]>) -> Self {
        let heads = tables.iter().map(|table| {
            let TableMeta { first, last, .. } = T::file(table).meta();
            [head(first), head(last)]
        });
        let heads = heads.collect();
        Self { tables, heads }
    }
}

impl<T: Tree> Clone for OpenLevel<T> {
    fn clone(&self) -> Self {
        Self { tables: Arc::clone(&self.tables), heads: Arc::clone(&self.heads) }
    }
}

/// The first bytes of a key, and zeros behind a shorter one: in the order of the keys, where they differ.
#[inline]
fn head(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(head)
        }
    }
}

impl<T: Tree> fmt::Debug for OpenLevels<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenLevels").field("levels", &self.levels).finish_non_exhaustive()
    }
}

impl<T: Tree> Clone for OpenLevels<T> {
    fn clone(&self) -> Self {
        Self { levels: self.levels.clone(), open: self.open.clone(), filled: self.filled }
    }
}

impl<T: Tree> OpenLevels<T> {
    /// A tree without tables.
    pub fn new() -> Self {
        let none = OpenLevel::new(Arc::from([]));
        Self {
            levels: Levels::new(T::KIND),
            open: std::array::from_fn(|_| OpenLevel::clone(&none)),
            filled: 0,
        }
    }

    /// Puts a level's open tables in their place.
    fn fill(&mut self, level: u8, tables: Arc<[Arc<T::Table>]>) {
        let bit = 1 << level;
        self.filled = if tables.is_empty() { self.filled & !bit } else { self.filled | bit };
        self.open[usize::from(level)] = OpenLevel::new(tables);
    }

    /// Opens all tables of `levels`: one read of a few kilobytes each.
    ///
    /// # Errors
    /// The first table that is missing or damaged, by name; whatever the machine says.
    ///
    /// # Panics
    /// If they are another tree's.
    pub fn open(tables: &Arc<Tables>, levels: Levels) -> Result<Self, TableError> {
        assert_eq!(levels.tree(), T::KIND, "levels of this tree");
        let open = |level: u8| -> Result<Arc<[Arc<T::Table>]>, TableError> {
            let metas = levels.tables(level).iter();
            metas.map(|meta| Ok(Arc::new(T::open(tables, TableMeta::clone(meta))?))).collect()
        };
        let mut opened = Self::new();
        for level in 0..LEVELS_MAX {
            opened.fill(level, open(level)?);
        }
        Ok(Self { levels, ..opened })
    }

    /// What is known of the tables.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// The open tables of a level: of level 0 in the order in which they came, of the others by
    /// key.
    pub fn tables(&self, level: u8) -> &[Arc<T::Table>] {
        self.open.get(usize::from(level)).map_or(&[], |open| &open.tables)
    }

    /// All open tables with their levels, from level 0 down.
    pub fn all(&self) -> impl Iterator<Item = (u8, &Arc<T::Table>)> {
        (0..LEVELS_MAX).flat_map(|level| self.tables(level).iter().map(move |table| (level, table)))
    }

    /// The table with this id, if it is here. A look at each table.
    pub fn table(&self, id: TableId) -> Option<&Arc<T::Table>> {
        self.tables_of(&BTreeSet::from([id])).pop_first().map(|(_, table)| table)
    }

    /// Of the tables with these ids those that are here. A look at each table.
    pub fn tables_of(&self, ids: &BTreeSet<TableId>) -> BTreeMap<TableId, &Arc<T::Table>> {
        let of_level = |level| self.levels.tables(level).iter().zip(self.tables(level));
        let all = (0..LEVELS_MAX).flat_map(of_level);
        let chosen = all.filter(|(meta, _)| ids.contains(&meta.id));
        chosen.map(|(meta, table)| (meta.id, table)).collect()
    }

    /// The tables that may hold `key`: the newest of level 0 first, then one at most of each level, from
    /// level 1 down. A look at each table of level 0, a binary search in the others.
    pub fn for_key<'a>(&'a self, key: &'a [u8]) -> ForKey<'a, T> {
        let below = self.filled & !1;
        ForKey { levels: self, key, head: head(key), below, left: self.open[0].tables.len() }
    }

    /// The view that the edit makes of this one. `opened` are the tables that it adds, open; those
    /// that it only moves are here already.
    ///
    /// # Errors
    /// The edit asks for what is impossible.
    ///
    /// # Panics
    /// If a table that is added is neither among `opened` nor here.
    pub fn apply(&self, edit: &LevelEdit, opened: &[Arc<T::Table>]) -> Result<Self, LevelFault> {
        let levels = self.levels.apply(edit)?;
        let mut next = Self { levels, ..self.clone() };
        let moved = self.tables_of(&edit.removed.iter().copied().collect());
        let id = |table: &Arc<T::Table>| T::file(table).meta().id;
        let come: BTreeMap<_, _> =
            opened.iter().chain(moved.values().copied()).map(|table| (id(table), table)).collect();
        for level in 0..LEVELS_MAX {
            let (metas, before) = (next.levels.tables(level), self.levels.tables(level));
            if next.levels.shares(&self.levels, level) {
                continue;
            }
            // What stays, stays in its order.
            let mut stayed = before.iter().zip(self.tables(level));
            let find = |meta: &Arc<TableMeta>| match come.get(&meta.id) {
                Some(table) => Arc::clone(table),
                None => {
                    let here = stayed.find(|(before, _)| before.id == meta.id);
                    Arc::clone(here.expect("a table that is added was opened").1)
                }
            };
            let tables = metas.iter().map(find).collect();
            next.fill(level, tables);
        }
        Ok(next)
    }
}

impl<T: Tree> Default for OpenLevels<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Tables that may hold a key; see [`OpenLevels::for_key`].
pub struct ForKey<'a, T: Tree> {
    levels: &'a OpenLevels<T>,
    key: &'a [u8],
    head: u64,
    /// A bit for each level below level 0 that has tables and was not looked at.
    below: u8,
    /// Of level 0, tables that were not looked at.
    left: usize,
}

impl<'a, T: Tree> Iterator for ForKey<'a, T> {
    type Item = &'a Arc<T::Table>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Self { levels, key, head, .. } = *self;
        while self.left > 0 {
            self.left -= 1;
            let OpenLevel { tables, heads } = &levels.open[0];
            let ([first, last], table) = (heads[self.left], &tables[self.left]);
            let may_overlap = first <= head && head <= last;
            let is_sure = first < head && head < last;
            if may_overlap && (is_sure || T::file(table).meta().overlaps(key, key)) {
                return Some(table);
            }
        }
        while self.below != 0 {
            let level = self.below.trailing_zeros();
            self.below &= self.below - 1;
            let OpenLevel { tables, heads } = &levels.open[level as usize];
            let mut at = heads.partition_point(|[_, last]| *last < head);
            if heads.get(at).is_some_and(|[_, last]| *last == head) {
                let is_below = |table: &Arc<T::Table>| T::file(table).meta().last[..] < *key;
                at += tables[at..].partition_point(is_below);
            }
            let Some([first, _]) = heads.get(at) else { continue };
            if *first < head || (*first == head && T::file(&tables[at]).meta().first[..] <= *key) {
                return Some(&tables[at]);
            }
        }
        None
    }
}

impl<T: Tree> fmt::Debug for ForKey<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForKey").field("key", &self.key).finish_non_exhaustive()
    }
}
