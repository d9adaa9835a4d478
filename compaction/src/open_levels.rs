//! One tree's levels with their tables open: what a look-up goes through.
//!
//! A view of this kind is never changed either: [`OpenLevels::apply`] makes the next one, which
//! shares every table that stays. A table is closed, and, if its owner said so, its file removed,
//! when the last view or iterator that holds it is gone.
//!
//! - O1: the open tables of each level stand in the order, and in the parts, of their descriptions in [`Levels`];
//!   and the heads of their bounds in that order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::edit::LevelEdit;
use crate::error::TableError;
use crate::levels::{LEVELS_MAX, LevelFault, Levels};
use crate::run::Tree;
use crate::table::container::TableFile;
use crate::table::shared::Tables;
use crate::table::{TableId, TableMeta};

/// Tables whose tails are fetched while the one before them is opened.
const OPENED_AHEAD: usize = 16;

/// A tree's levels, their tables open.
pub struct OpenLevels<T: Tree> {
    levels: Levels,
    open: [OpenLevel<T>; LEVELS_MAX as usize],
    /// A bit for each level that has tables: look-ups pass over the others.
    filled: u8,
}

/// A level's tables, open. A clone shares them.
struct OpenLevel<T: Tree> {
    /// In the parts of the level, which are shared as those are.
    parts: Arc<[OpenPart<T>]>,
    /// Of each the first bytes of its first key and its last: mostly they tell, and stand together.
    heads: Arc<[[u64; 2]]>,
}

/// Open tables that stand side by side.
struct OpenPart<T: Tree> {
    /// How many stand before them in their level.
    start: usize,
    tables: Arc<[Arc<T::Table>]>,
}

impl<T: Tree> OpenLevel<T> {
    fn none() -> Self {
        Self { parts: Arc::from([]), heads: Arc::from([]) }
    }

    /// The table at this place.
    #[inline]
    fn table(&self, at: usize) -> &Arc<T::Table> {
        let part = match &*self.parts {
            [part] => part,
            parts => &parts[parts.partition_point(|part| part.start <= at) - 1],
        };
        &part.tables[at - part.start]
    }

    fn heads_of(table: &Arc<T::Table>) -> [u64; 2] {
        let TableMeta { first, last, .. } = T::file(table).meta();
        [head(first), head(last)]
    }
}

impl<T: Tree> Clone for OpenLevel<T> {
    fn clone(&self) -> Self {
        Self { parts: Arc::clone(&self.parts), heads: Arc::clone(&self.heads) }
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
        let levels = Levels::new(T::KIND);
        Self { levels, open: std::array::from_fn(|_| OpenLevel::none()), filled: 0 }
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
        let metas: Vec<_> = levels.all().map(|(_, meta)| Arc::clone(meta)).collect();
        let mut left = metas.iter();
        let mut ahead = |count| {
            left.by_ref().take(count).for_each(|meta| TableFile::will_open(tables, meta));
        };
        ahead(OPENED_AHEAD);
        Self::new().to(levels, |meta| {
            ahead(1);
            Ok(Arc::new(T::open(tables, meta.clone())?))
        })
    }

    /// The view of these levels. What parts they share with this one's is here; `open` gives the other tables.
    fn to<E>(
        &self,
        levels: Levels,
        mut open: impl FnMut(&TableMeta) -> Result<Arc<T::Table>, E>,
    ) -> Result<Self, E> {
        let mut next = Self { levels, ..self.clone() };
        for level in (0..LEVELS_MAX).filter(|level| !next.levels.shares(&self.levels, *level)) {
            let before = &self.open[usize::from(level)];
            let known = self.levels.parts(level).iter().map(Arc::as_ptr).zip(&*before.parts);
            let known: BTreeMap<_, _> = known.collect();
            let metas = next.levels.parts(level);
            let (mut parts, mut heads) = (Vec::with_capacity(metas.len()), Vec::new());
            for part in metas {
                let start = heads.len();
                let tables = match known.get(&Arc::as_ptr(part)) {
                    Some(OpenPart { start, tables }) => {
                        heads.extend_from_slice(&before.heads[*start..start + tables.len()]);
                        Arc::clone(tables)
                    }
                    None => {
                        let tables = part.tables().iter().map(|meta| open(meta));
                        let tables = tables.collect::<Result<Arc<[_]>, E>>()?;
                        heads.extend(tables.iter().map(OpenLevel::<T>::heads_of));
                        tables
                    }
                };
                parts.push(OpenPart { start, tables });
            }
            let bit = 1 << level;
            next.filled = if heads.is_empty() { next.filled & !bit } else { next.filled | bit };
            next.open[usize::from(level)] = OpenLevel { parts: parts.into(), heads: heads.into() };
        }
        Ok(next)
    }

    /// The tables of parts that these levels do not have any more.
    fn left(&self, levels: &Levels) -> BTreeMap<TableId, &Arc<T::Table>> {
        let mut left = BTreeMap::new();
        for level in (0..LEVELS_MAX).filter(|level| !levels.shares(&self.levels, *level)) {
            let kept: BTreeSet<_> = levels.parts(level).iter().map(Arc::as_ptr).collect();
            let parts = self.levels.parts(level).iter().zip(&*self.open[usize::from(level)].parts);
            for (_, open) in parts.filter(|(part, _)| !kept.contains(&Arc::as_ptr(part))) {
                left.extend(open.tables.iter().map(|table| (T::file(table).meta().id, table)));
            }
        }
        left
    }

    /// What is known of the tables.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// The open tables of a level: of level 0 in the order in which they came, of the others by
    /// key.
    pub fn tables(&self, level: u8) -> impl DoubleEndedIterator<Item = &Arc<T::Table>> {
        self.open[usize::from(level)].parts.iter().flat_map(|part| part.tables.iter())
    }

    /// The open table of a level at this place in it.
    ///
    /// # Panics
    /// If none is there.
    pub(crate) fn table_at(&self, level: u8, at: usize) -> &Arc<T::Table> {
        self.open[usize::from(level)].table(at)
    }

    /// All open tables with their levels, from level 0 down.
    pub fn all(&self) -> impl Iterator<Item = (u8, &Arc<T::Table>)> {
        (0..LEVELS_MAX).flat_map(|level| self.tables(level).map(move |table| (level, table)))
    }

    /// The table with this id, if it is here. A look at the number of each table.
    pub fn table(&self, id: TableId) -> Option<&Arc<T::Table>> {
        self.tables_of(&BTreeSet::from([id])).pop_first().map(|(_, table)| table)
    }

    /// Of the tables with these ids those that are here. A look at the number of each table.
    pub fn tables_of(&self, ids: &BTreeSet<TableId>) -> BTreeMap<TableId, &Arc<T::Table>> {
        let places = self.levels.places(ids).into_iter();
        places.map(|(id, level, at)| (id, self.table_at(level, at))).collect()
    }

    /// The tables that may hold `key`: the newest of level 0 first, then one at most of each level, from
    /// level 1 down. A look at each table of level 0, a binary search in the others.
    pub fn for_key<'a>(&'a self, key: &'a [u8]) -> ForKey<'a, T> {
        let below = self.filled & !1;
        ForKey { levels: self, key, head: head(key), below, left: self.open[0].heads.len() }
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
        let mut known = self.left(&levels);
        known.extend(opened.iter().map(|table| (T::file(table).meta().id, table)));
        let find = |meta: &TableMeta| {
            Ok::<_, LevelFault>(Arc::clone(
                known.get(&meta.id).expect("a table that is added was opened"),
            ))
        };
        self.to(levels, find)
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
            let open = &levels.open[0];
            let [first, last] = open.heads[self.left];
            if head < first || last < head {
                continue;
            }
            let table = open.table(self.left);
            let is_sure = first < head && head < last;
            if is_sure || T::file(table).meta().overlaps(key, key) {
                return Some(table);
            }
        }
        while self.below != 0 {
            let level = self.below.trailing_zeros();
            self.below &= self.below - 1;
            let open = &levels.open[level as usize];
            let heads = &*open.heads;
            let mut at = heads.partition_point(|[_, last]| *last < head);
            if heads.get(at).is_some_and(|[_, last]| *last == head) {
                let mut high = at + heads[at..].partition_point(|[first, _]| *first <= head);
                while at < high {
                    let middle = at.midpoint(high);
                    match T::file(open.table(middle)).meta().last[..] < *key {
                        true => at = middle + 1,
                        false => high = middle,
                    }
                }
            }
            let Some([first, _]) = heads.get(at) else { continue };
            let table = open.table(at);
            if *first < head || (*first == head && T::file(table).meta().first[..] <= *key) {
                return Some(table);
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
