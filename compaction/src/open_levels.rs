//! One tree's levels with their tables open: what a look-up goes through.
//!
//! A view of this kind is never changed either: [`OpenLevels::apply`] makes the next one, which
//! shares every table that stays. A table is closed, and, if its owner said so, its file removed,
//! when the last view or iterator that holds it is gone.
//!
//! - O1: the open tables of each level stand in the order of their descriptions in [`Levels`].

use std::collections::BTreeMap;
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
    tables: [Arc<[Arc<T::Table>]>; LEVELS_MAX as usize],
}

impl<T: Tree> fmt::Debug for OpenLevels<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenLevels").field("levels", &self.levels).finish_non_exhaustive()
    }
}

impl<T: Tree> Clone for OpenLevels<T> {
    fn clone(&self) -> Self {
        Self { levels: self.levels.clone(), tables: self.tables.clone() }
    }
}

impl<T: Tree> OpenLevels<T> {
    /// A tree without tables.
    pub fn new() -> Self {
        let none: Arc<[Arc<T::Table>]> = Arc::from([]);
        Self { levels: Levels::new(T::KIND), tables: std::array::from_fn(|_| Arc::clone(&none)) }
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
            opened.tables[usize::from(level)] = open(level)?;
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
        self.tables.get(usize::from(level)).map_or(&[], |tables| tables)
    }

    /// All open tables with their levels, from level 0 down.
    pub fn all(&self) -> impl Iterator<Item = (u8, &Arc<T::Table>)> {
        (0..LEVELS_MAX).flat_map(|level| self.tables(level).iter().map(move |table| (level, table)))
    }

    /// The table with this id, if it is here.
    pub fn table(&self, id: TableId) -> Option<&Arc<T::Table>> {
        self.all().map(|(_, table)| table).find(|table| T::file(table).meta().id == id)
    }

    /// The tables that may hold `key`, with their levels: the newest of level 0 first, then one at
    /// most of each level. A look at each table of level 0, a binary search in the others.
    pub fn for_key<'a>(&'a self, key: &'a [u8]) -> ForKey<'a, T> {
        ForKey { levels: self, key, level: 0, left: self.tables(0).len() }
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
        let mut next = Self { levels, tables: self.tables.clone() };
        let here = self.all().map(|(_, table)| table).chain(opened);
        let by_id: BTreeMap<TableId, &Arc<T::Table>> =
            here.map(|table| (T::file(table).meta().id, table)).collect();
        for level in 0..LEVELS_MAX {
            let metas = next.levels.tables(level);
            if metas == self.levels.tables(level) {
                continue;
            }
            let find = |meta: &Arc<TableMeta>| {
                Arc::clone(by_id.get(&meta.id).expect("a table that is added was opened"))
            };
            next.tables[usize::from(level)] = metas.iter().map(find).collect();
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
    level: u8,
    /// Of level 0, tables that were not looked at.
    left: usize,
}

impl<'a, T: Tree> Iterator for ForKey<'a, T> {
    type Item = (u8, &'a Arc<T::Table>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Self { levels, key, .. } = *self;
        while self.left > 0 {
            self.left -= 1;
            if levels.levels.tables(0)[self.left].overlaps(key, key) {
                return Some((0, &levels.tables(0)[self.left]));
            }
        }
        while self.level + 1 < LEVELS_MAX {
            self.level += 1;
            let metas = levels.levels.tables(self.level);
            let at = metas.partition_point(|meta| meta.last[..] < *key);
            if metas.get(at).is_some_and(|meta| meta.first[..] <= *key) {
                return Some((self.level, &levels.tables(self.level)[at]));
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
