//! An immutable view of one tree: its levels, and the tables in them.
//!
//! A view is never changed: an edit makes the next one, and readers keep the one that they have.
//!
//! 1. Level 0 takes tables as they are flushed, in the order in which they come. They may overlap.
//! 2. Each level below it is one sorted run, cut into tables: a key is in one of them at most, and
//!    binary search finds it.
//! 3. [`Levels::apply`] checks what an edit does and makes the next view. Parts of levels that the edit does
//!    not touch are shared with the view before, tables always.
//!
//! What must hold of a view. What is computed here keeps it; what comes from a file is checked by
//! `apply`, and [`Levels::check`] tells what does not hold.
//!
//! - V1: every table is of this tree, and stands in the view once.
//! - V2: a table's first key is not above its last, and it is not empty.
//! - V3: below level 0, each table's first key is above the last key of the table before it.
//! - V4: a level's sums are those of its tables.
//!
//! What keys mean, and which level to rewrite, is not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinstone_disk::TableKind;

pub use self::parts::LevelTables;
use self::parts::{Level, Marks, Part, faults_of_order};
use crate::edit::LevelEdit;
use crate::table::{TableId, TableMeta};

mod parts;

/// Levels of a tree, level 0 included: as many as RocksDB's users know.
pub const LEVELS_MAX: u8 = 7;

/// Why an edit does not fit a view, or what is wrong with a view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LevelFault {
    /// V1: the table belongs to the other tree.
    #[error("{} is no table of the {} tree", .id.file_name(), .tree.word())]
    OtherTree {
        /// The table.
        id: TableId,
        /// The tree of the view.
        tree: TableKind,
    },
    /// The edit is one of the other tree.
    #[error("an edit of the {} tree does not fit the {} tree", .edit.word(), .tree.word())]
    OtherEdit {
        /// The tree of the edit.
        edit: TableKind,
        /// The tree of the view.
        tree: TableKind,
    },
    /// V1: the table is added, or removed, or there, twice.
    #[error("{} is there twice", .id.file_name())]
    Twice {
        /// The table.
        id: TableId,
    },
    /// The table to be removed is not there.
    #[error("{} is not there to be removed", .id.file_name())]
    Absent {
        /// The table.
        id: TableId,
    },
    /// There is no such level.
    #[error("{} stands in level {level}, and the last one is {}", .id.file_name(), LEVELS_MAX - 1)]
    LevelBeyond {
        /// The table.
        id: TableId,
        /// Its level.
        level: u8,
    },
    /// V2: the first key is above the last, or the table has no entries.
    #[error("{} holds nothing: no entries, or a first key above the last", .id.file_name())]
    Empty {
        /// The table.
        id: TableId,
    },
    /// V3: two tables of one level below level 0 share a key, or stand in the wrong order.
    #[error("{} reaches into {} in level {level}", .left.file_name(), .right.file_name())]
    Overlap {
        /// The level.
        level: u8,
        /// The table that stands first.
        left: TableId,
        /// The one after it.
        right: TableId,
    },
    /// V4: the sums are not those of the tables.
    #[error("the sums of level {level} are not those of its tables")]
    Sums {
        /// The level.
        level: u8,
    },
}

/// What a level holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelSums {
    /// Tables.
    pub table_count: u64,
    /// Bytes of their files.
    pub file_bytes: u64,
    /// Entries in them.
    pub entry_count: u64,
    /// Of these the spare ones; see [`TableMeta`].
    pub spare_count: u64,
}

impl LevelSums {
    fn of<'a>(tables: impl IntoIterator<Item = &'a Arc<TableMeta>>) -> Self {
        let one = |table: &Arc<TableMeta>| {
            let TableMeta { file_bytes, entry_count, spare_count, .. } = **table;
            Self { table_count: 1, file_bytes, entry_count, spare_count }
        };
        // What a file says may be anything; sums of it must not overflow.
        tables.into_iter().map(one).fold(Self::default(), Self::with)
    }

    fn with(self, other: Self) -> Self {
        Self {
            table_count: self.table_count + other.table_count,
            file_bytes: self.file_bytes.saturating_add(other.file_bytes),
            entry_count: self.entry_count.saturating_add(other.entry_count),
            spare_count: self.spare_count.saturating_add(other.spare_count),
        }
    }
}

/// One tree's levels.
#[derive(Clone, Debug)]
pub struct Levels {
    tree: TableKind,
    levels: [Arc<Level>; LEVELS_MAX as usize],
}

impl PartialEq for Levels {
    fn eq(&self, other: &Self) -> bool {
        let are_same = |level| self.tables(level) == other.tables(level);
        self.tree == other.tree && (0..LEVELS_MAX).all(are_same)
    }
}

impl Eq for Levels {}

impl Levels {
    /// A tree without tables.
    pub fn new(tree: TableKind) -> Self {
        let level = Arc::new(Level::default());
        Self { tree, levels: std::array::from_fn(|_| Arc::clone(&level)) }
    }

    /// Which tree.
    pub fn tree(&self) -> TableKind {
        self.tree
    }

    /// The tables of a level: of level 0 in the order in which they came, of the others by key.
    /// A level that does not exist has none.
    pub fn tables(&self, level: u8) -> LevelTables<'_> {
        let none = || self.levels[0].tables().range(0..0);
        self.levels.get(usize::from(level)).map_or_else(none, |level| level.tables())
    }

    /// All tables with their levels, from level 0 down.
    pub fn all(&self) -> impl Iterator<Item = (u8, &Arc<TableMeta>)> {
        (0..LEVELS_MAX).flat_map(|level| self.tables(level).iter().map(move |table| (level, table)))
    }

    /// What a level holds in all. Constant time.
    pub fn sums(&self, level: u8) -> LevelSums {
        self.levels.get(usize::from(level)).map_or(LevelSums::default(), |level| level.sums)
    }

    /// What the tree holds in all.
    pub fn total(&self) -> LevelSums {
        (0..LEVELS_MAX).map(|level| self.sums(level)).fold(LevelSums::default(), LevelSums::with)
    }

    /// The tables of a level that overlap the closed interval from `first` to `last`, in their
    /// order. Below level 0 two binary searches, on level 0 a look at each table.
    pub fn overlapping<'a>(
        &'a self,
        level: u8,
        first: &'a [u8],
        last: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = &'a Arc<TableMeta>> {
        let tables = if level == 0 { self.tables(0) } else { self.run(level, first, last) };
        tables.iter().filter(move |table| table.overlaps(first, last))
    }

    /// The same below level 0, where they stand side by side.
    ///
    /// # Panics
    /// On level 0.
    pub fn run(&self, level: u8, first: &[u8], last: &[u8]) -> LevelTables<'_> {
        assert!(level > 0, "tables of level 0 are not sorted");
        let tables = self.tables(level);
        let from = tables.partition_point(|table| table.last[..] < *first);
        let behind = tables.range(from..tables.len());
        behind.range(0..behind.partition_point(|table| table.first[..] <= *last))
    }

    /// The one table of a level below level 0 that may hold `key`. One binary search.
    ///
    /// # Panics
    /// On level 0.
    pub fn table_for(&self, level: u8, key: &[u8]) -> Option<&Arc<TableMeta>> {
        self.run(level, key, key).first()
    }

    /// The view that the edit makes of this one. Costs what it changes, and a look at the number of each table
    /// that is here.
    ///
    /// # Errors
    /// The edit asks for what is impossible; this view is as it was.
    pub fn apply(&self, edit: &LevelEdit) -> Result<Self, LevelFault> {
        if edit.tree != self.tree {
            return Err(LevelFault::OtherEdit { edit: edit.tree, tree: self.tree });
        }
        let mut removed = BTreeMap::new();
        for id in &edit.removed {
            if removed.insert(*id, false).is_some() {
                return Err(LevelFault::Twice { id: *id });
            }
        }
        let mut come: [Vec<Arc<TableMeta>>; LEVELS_MAX as usize] = Default::default();
        let mut added = BTreeSet::new();
        for (level, table) in &edit.added {
            table_is_sound(self.tree, *level, table)?;
            if !added.insert(table.id) {
                return Err(LevelFault::Twice { id: table.id });
            }
            come[usize::from(*level)].push(Arc::new(table.clone()));
        }
        let mut gone: [Vec<usize>; LEVELS_MAX as usize] = Default::default();
        let marks = Marks::of(edit.removed.iter().chain(&added));
        for (level, gone) in self.levels.iter().zip(&mut gone) {
            for (id, at) in level.marked(&marks) {
                match removed.get_mut(&id) {
                    Some(found) => {
                        *found = true;
                        gone.push(at);
                    }
                    None if added.contains(&id) => return Err(LevelFault::Twice { id }),
                    None => {}
                }
            }
        }
        if let Some((id, _)) = removed.iter().find(|(_, found)| !**found) {
            return Err(LevelFault::Absent { id: *id });
        }
        let mut next = self.clone();
        for (level, (come, gone)) in (0..LEVELS_MAX).zip(come.into_iter().zip(gone)) {
            if come.is_empty() && gone.is_empty() {
                continue;
            }
            let changed = &mut next.levels[usize::from(level)];
            *changed = Arc::new(match level {
                0 => changed.unsorted(&gone, come),
                _ => changed.sorted(level, &gone, come)?,
            });
        }
        Ok(next)
    }

    /// The level is shared with this other view: no edit between them touched it.
    pub(crate) fn shares(&self, other: &Self, level: u8) -> bool {
        let at = usize::from(level);
        Arc::ptr_eq(&self.levels[at], &other.levels[at])
    }

    /// The parts that a level is made of, which views share, in the order of its tables.
    pub(crate) fn parts(&self, level: u8) -> &[Arc<Part>] {
        self.levels[usize::from(level)].parts()
    }

    /// The places, from this one on, of a level's tables that have spare entries enough; if `is_full`, any.
    pub(crate) fn spare_places(
        &self,
        level: u8,
        from: usize,
        is_full: bool,
    ) -> impl Iterator<Item = usize> {
        self.levels[usize::from(level)].spare_places(from, is_full)
    }

    /// Where those of these tables stand that are here: their levels, and their places there. Costs a look at the number
    /// of each table that is here.
    pub(crate) fn places(&self, ids: &BTreeSet<TableId>) -> Vec<(TableId, u8, usize)> {
        let marks = Marks::of(ids.iter());
        let levels = (0..LEVELS_MAX).zip(&self.levels);
        let marked = levels
            .flat_map(|(level, tables)| tables.marked(&marks).map(move |(id, at)| (id, level, at)));
        marked.filter(|(id, _, _)| ids.contains(id)).collect()
    }

    /// The edit that makes this view of an empty one.
    pub fn to_edit(&self) -> LevelEdit {
        let added = self.all().map(|(level, table)| (level, TableMeta::clone(table))).collect();
        LevelEdit { tree: self.tree, added, removed: Vec::new() }
    }

    /// Bytes that [`to_edit`](Self::to_edit) has encoded. Constant time.
    pub fn edit_bytes(&self) -> u64 {
        let added_bytes = self.levels.iter().map(|level| level.edit_bytes).sum();
        LevelEdit::encoded_bytes(self.total().table_count, added_bytes)
    }

    /// What does not hold of this view; nothing, unless we have a bug.
    pub fn check(&self) -> Vec<LevelFault> {
        let mut faults = Vec::new();
        let mut seen = BTreeSet::new();
        for (level, table) in self.all() {
            faults.extend(table_is_sound(self.tree, level, table).err());
            if !seen.insert(table.id) {
                faults.push(LevelFault::Twice { id: table.id });
            }
        }
        for level in 0..LEVELS_MAX {
            let tables = self.tables(level);
            if level > 0 {
                let pairs = tables.iter().zip(tables.iter().skip(1)).map(|(a, b)| [&**a, &**b]);
                faults.extend(faults_of_order(level, pairs));
            }
            if self.sums(level) != LevelSums::of(tables.iter()) {
                faults.push(LevelFault::Sums { level });
            }
        }
        faults
    }
}

/// V1 and V2, as far as they can be told of one table.
fn table_is_sound(tree: TableKind, level: u8, table: &TableMeta) -> Result<(), LevelFault> {
    let id = table.id;
    if id.table != tree {
        return Err(LevelFault::OtherTree { id, tree });
    }
    if level >= LEVELS_MAX {
        return Err(LevelFault::LevelBeyond { id, level });
    }
    if table.first > table.last || table.entry_count == 0 {
        return Err(LevelFault::Empty { id });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinstone_disk::{Bytes, Epoch, Ordinal};
    use proptest::prelude::*;

    fn id(ordinal: u32) -> TableId {
        TableId { table: TableKind::Names, ordinal: Ordinal(ordinal), epoch: Epoch(1) }
    }

    fn table(ordinal: u32, first: &str, last: &str) -> TableMeta {
        let key = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        TableMeta {
            id: id(ordinal),
            first: key(first),
            last: key(last),
            entry_count: 10,
            spare_count: 2,
            last_commit: 0,
            file_bytes: 100,
            footer_hash: [0; 32],
        }
    }

    fn add(tables: impl IntoIterator<Item = (u8, TableMeta)>) -> LevelEdit {
        LevelEdit { added: tables.into_iter().collect(), ..LevelEdit::new(TableKind::Names) }
    }

    fn remove(ordinals: &[u32]) -> LevelEdit {
        let removed = ordinals.iter().map(|o| id(*o)).collect();
        LevelEdit { removed, ..LevelEdit::new(TableKind::Names) }
    }

    fn ids<'a>(tables: impl IntoIterator<Item = &'a Arc<TableMeta>>) -> Vec<u32> {
        tables.into_iter().map(|table| table.id.ordinal.0).collect()
    }

    /// Level 0: 1 (a-m), 2 (c-z). Level 2: 5 (b-d), 3 (f-h), 4 (k-k).
    fn view() -> Levels {
        let tables = [
            (0, table(1, "a", "m")),
            (2, table(4, "k", "k")),
            (0, table(2, "c", "z")),
            (2, table(3, "f", "h")),
            (2, table(5, "b", "d")),
        ];
        Levels::new(TableKind::Names).apply(&add(tables)).unwrap()
    }

    #[test]
    fn level_0_keeps_the_order_of_coming_and_the_others_that_of_keys() {
        let view = view();
        assert_eq!(ids(view.tables(0).iter()), [1, 2]);
        assert_eq!(ids(view.tables(2).iter()), [5, 3, 4]);
        let sums = |table_count, file_bytes, entry_count, spare_count| LevelSums {
            table_count,
            file_bytes,
            entry_count,
            spare_count,
        };
        assert_eq!(view.sums(2), sums(3, 300, 30, 6));
        assert_eq!(view.total(), sums(5, 500, 50, 10));
        assert!(view.tables(200).is_empty());
        assert!(view.check().is_empty());
    }

    #[test]
    fn both_ends_of_an_interval_count() {
        let view = view();
        let found = |level, first: &str, last: &str| {
            ids(view.overlapping(level, first.as_bytes(), last.as_bytes()))
        };
        assert_eq!(found(0, "a", "b"), [1]);
        assert_eq!(found(0, "m", "m"), [1, 2]);
        assert_eq!(found(0, "n", "o"), [2]);
        assert_eq!(found(2, "d", "f"), [5, 3]);
        assert_eq!(found(2, "da", "e"), []);
        assert_eq!(found(2, "", "a"), []);
        assert_eq!(found(2, "", "zz"), [5, 3, 4]);
        assert_eq!(found(2, "k", "k"), [4]);
        let for_key = |key: &str| view.table_for(2, key.as_bytes()).map(|t| t.id.ordinal.0);
        assert_eq!(for_key("b"), Some(5));
        assert_eq!(for_key("h"), Some(3));
        assert_eq!(for_key("i"), None);
        assert_eq!(for_key("z"), None);
    }

    #[test]
    fn levels_that_an_edit_does_not_touch_are_shared() {
        let view = view();
        let next = view.apply(&remove(&[1])).unwrap();
        assert!(Arc::ptr_eq(&view.levels[2], &next.levels[2]));
        assert!(!Arc::ptr_eq(&view.levels[0], &next.levels[0]));
        assert!(Arc::ptr_eq(&view.tables(0)[1], &next.tables(0)[0]));
    }

    #[test]
    fn a_move_is_a_removal_and_an_addition() {
        let mut edit = add([(3, table(3, "f", "h"))]);
        edit.removed.push(id(3));
        let next = view().apply(&edit).unwrap();
        assert_eq!((ids(next.tables(2).iter()), ids(next.tables(3).iter())), (vec![5, 4], vec![3]));
    }

    #[test]
    fn what_is_impossible_is_refused() {
        let view = view();
        let index = TableId { table: TableKind::Index, ..id(9) };
        let refused = |edit: LevelEdit| view.apply(&edit).unwrap_err();
        let added = |level, table| refused(add([(level, table)]));
        assert_eq!(refused(remove(&[9])), LevelFault::Absent { id: id(9) });
        assert_eq!(refused(remove(&[1, 1])), LevelFault::Twice { id: id(1) });
        assert_eq!(added(0, table(3, "x", "y")), LevelFault::Twice { id: id(3) });
        assert_eq!(
            refused(add([(0, table(9, "x", "y")), (1, table(9, "x", "y"))])),
            LevelFault::Twice { id: id(9) }
        );
        assert_eq!(added(7, table(9, "x", "y")), LevelFault::LevelBeyond { id: id(9), level: 7 });
        assert_eq!(added(0, table(9, "y", "x")), LevelFault::Empty { id: id(9) });
        let empty = TableMeta { entry_count: 0, ..table(9, "x", "y") };
        assert_eq!(added(0, empty), LevelFault::Empty { id: id(9) });
        let other = TableMeta { id: index, ..table(9, "x", "y") };
        assert_eq!(added(0, other), LevelFault::OtherTree { id: index, tree: TableKind::Names });
        let fault = refused(LevelEdit::new(TableKind::Index));
        assert_eq!(fault.to_string(), "an edit of the index tree does not fit the names tree");
        for (first, last) in [("d", "e"), ("e", "f"), ("a", "z"), ("c", "c")] {
            let fault = added(2, table(9, first, last));
            assert!(matches!(fault, LevelFault::Overlap { level: 2, .. }), "{fault}");
        }
        let fault = added(2, table(9, "h", "i"));
        assert_eq!(
            fault.to_string(),
            "names-00000003-00000001.table reaches into names-00000009-00000001.table in level 2"
        );
    }

    #[test]
    fn check_names_each_fault() {
        let twice = [Arc::new(table(1, "c", "d")), Arc::new(table(1, "b", "c"))];
        let mut view = view();
        let mut level = Level::default().unsorted(&[], twice.to_vec());
        level.sums = LevelSums::default();
        view.levels[2] = Arc::new(level);
        assert_eq!(
            view.check(),
            [
                LevelFault::Twice { id: id(1) },
                LevelFault::Twice { id: id(1) },
                LevelFault::Overlap { level: 2, left: id(1), right: id(1) },
                LevelFault::Sums { level: 2 },
            ]
        );
    }

    proptest! {
        /// Against a plain list of tables: whatever is applied fits, and is found again.
        #[test]
        fn any_edits_give_a_sound_view_or_are_refused(
            edits in prop::collection::vec(
                (
                    prop::collection::vec((0..8u8, 0..20u32, 0..40u8, 0..9u8), 0..4),
                    prop::collection::vec(0..20u32, 0..3),
                ),
                0..30,
            ),
            key in 0..50u8,
        ) {
            let mut view = Levels::new(TableKind::Names);
            let mut model: BTreeMap<u32, (u8, TableMeta)> = BTreeMap::new();
            for (added, removed) in edits {
                let added = added.into_iter().map(|(level, ordinal, first, more)| {
                    let first = Bytes::from(vec![first]);
                    let last = Bytes::from(vec![first[0] + more]);
                    (level, TableMeta { first, last, ..table(ordinal, "", "") })
                });
                let edit = LevelEdit {
                    tree: TableKind::Names,
                    added: added.collect(),
                    removed: removed.into_iter().map(id).collect(),
                };
                let Ok(next) = view.apply(&edit) else { continue };
                prop_assert_eq!(next.check(), []);
                for id in &edit.removed {
                    prop_assert!(model.remove(&id.ordinal.0).is_some());
                }
                for (level, table) in &edit.added {
                    let was = model.insert(table.id.ordinal.0, (*level, table.clone()));
                    prop_assert!(was.is_none());
                }
                view = next;
            }
            prop_assert_eq!(view.all().count(), model.len());
            for level in 0..LEVELS_MAX {
                let mut found = ids(view.overlapping(level, &[key], &[key]));
                found.sort_unstable();
                let expected = model.iter().filter(|(_, (at, table))| {
                    *at == level && table.overlaps(&[key], &[key])
                });
                prop_assert_eq!(found, expected.map(|(ordinal, _)| *ordinal).collect::<Vec<_>>());
            }
            let again = Levels::new(TableKind::Names).apply(&view.to_edit());
            prop_assert_eq!(again, Ok(view));
        }
    }
}
