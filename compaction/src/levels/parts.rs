//! The tables of one level, in parts that one view shares with the next: an edit costs what it changes, and a look
//! at a few bytes of each part and each table beside it.
//!
//! - P1: level 0 is one part. Of others no part has more than [`PART_TABLES_MAX`] tables, and but for the last one
//!   none less than [`PART_TABLES_MIN`]: so the parts are few beside the tables. None is empty.
//! - P2: what is summed up of a part, and of the level, is that of its tables.

use std::collections::BTreeMap;
use std::ops::{Index, Range};
use std::sync::Arc;

use super::{LevelFault, LevelSums};
use crate::edit::LevelEdit;
use crate::table::{TableId, TableMeta};

/// Tables of a part, at most, below level 0: that many are copied for one that comes or goes; and of the parts
/// the list.
const PART_TABLES_MAX: usize = 256;

/// A part of fewer tables takes in the one after it, when it is made.
const PART_TABLES_MIN: usize = PART_TABLES_MAX / 4;

/// Some tables of a level that stand side by side. Never changed.
#[derive(Debug)]
pub(crate) struct Part {
    tables: Vec<Arc<TableMeta>>,
    /// Theirs, in the same order: found without a look at each table.
    ids: Vec<TableId>,
    sums: LevelSums,
    /// Bytes that they take in an edit.
    edit_bytes: u64,
    /// Some are worth a rewriting, for what is spare in them.
    has_wasteful: bool,
}

impl Part {
    fn new(tables: Vec<Arc<TableMeta>>) -> Arc<Self> {
        let ids = tables.iter().map(|table| table.id).collect();
        let sums = LevelSums::of(&tables);
        let edit_bytes = tables.iter().map(|table| LevelEdit::added_bytes(table)).sum();
        let has_wasteful = tables.iter().any(|table| table.has_spare(false));
        Arc::new(Self { tables, ids, sums, edit_bytes, has_wasteful })
    }

    pub(crate) fn tables(&self) -> &[Arc<TableMeta>] {
        &self.tables
    }

    /// The last key of its last table.
    fn last(&self) -> &[u8] {
        &self.tables[self.tables.len() - 1].last
    }
}

/// All tables of a level.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    parts: Vec<Arc<Part>>,
    /// How many tables stand before each part.
    starts: Vec<usize>,
    len: usize,
    pub(super) sums: LevelSums,
    /// Bytes that they take in an edit.
    pub(super) edit_bytes: u64,
}

impl Level {
    fn of_parts(parts: Vec<Arc<Part>>) -> Self {
        let mut level = Self::default();
        for part in &parts {
            level.starts.push(level.len);
            level.len += part.tables.len();
            level.sums = level.sums.with(part.sums);
            level.edit_bytes += part.edit_bytes;
        }
        Self { parts, ..level }
    }

    pub(super) fn tables(&self) -> LevelTables<'_> {
        LevelTables { level: self, from: 0, upto: self.len }
    }

    pub(super) fn parts(&self) -> &[Arc<Part>] {
        &self.parts
    }

    /// Which part the table at this place is in, and where there.
    fn place(&self, at: usize) -> (usize, usize) {
        let part = self.starts.partition_point(|start| *start <= at) - 1;
        (part, at - self.starts[part])
    }

    /// The places of those that are marked, by id.
    pub(super) fn marked<'a>(
        &'a self,
        marks: &'a Marks,
    ) -> impl Iterator<Item = (TableId, usize)> + 'a {
        let starts = self.starts.iter();
        self.parts.iter().zip(starts).flat_map(move |(part, start)| {
            let ids = part.ids.iter().enumerate().filter(|(_, id)| marks.may_have(**id));
            ids.map(move |(at, id)| (*id, start + at))
        })
    }

    /// The places, from this one on, of tables that have spare entries enough. Parts without such are passed over.
    pub(super) fn spare_places(&self, from: usize, is_full: bool) -> impl Iterator<Item = usize> {
        let parts = self.parts.iter().zip(&self.starts).filter(move |(part, start)| {
            let has_some = part.has_wasteful || (is_full && part.sums.spare_count > 0);
            has_some && **start + part.tables.len() > from
        });
        parts.flat_map(move |(part, start)| {
            let places = (*start..).zip(&part.tables).filter(move |(at, _)| *at >= from);
            places.filter(move |(_, table)| table.has_spare(is_full)).map(|(at, _)| at)
        })
    }

    /// Level 0 once those at these places, in ascending order, have gone, and these have come.
    pub(super) fn unsorted(&self, gone: &[usize], come: Vec<Arc<TableMeta>>) -> Self {
        let mut tables = self.without(0..self.len, gone);
        tables.extend(come);
        let parts = if tables.is_empty() { Vec::new() } else { vec![Part::new(tables)] };
        Self::of_parts(parts)
    }

    /// The same of a level below level 0.
    ///
    /// # Errors
    /// Two tables overlap; this is level `level`.
    pub(super) fn sorted(
        &self,
        level: u8,
        gone: &[usize],
        come: Vec<Arc<TableMeta>>,
    ) -> Result<Self, LevelFault> {
        let mut changes: BTreeMap<usize, Vec<Arc<TableMeta>>> = BTreeMap::new();
        for at in gone {
            changes.entry(self.place(*at).0).or_default();
        }
        let last = self.parts.len().saturating_sub(1);
        for table in come {
            let before = |part: &Arc<Part>| *part.last() < table.first[..];
            let at = self.parts.partition_point(before).min(last);
            changes.entry(at).or_default().push(table);
        }
        let mut next = Vec::with_capacity(self.parts.len() + changes.len());
        let mut pending: Vec<Arc<TableMeta>> = Vec::new();
        for at in 0..self.parts.len().max(1) {
            let change = changes.remove(&at);
            let is_small = (1..PART_TABLES_MIN).contains(&pending.len());
            if change.is_none() && !is_small {
                put_parts(level, &mut next, &mut pending)?;
                next.extend(self.parts.get(at).cloned());
                continue;
            }
            if let Some(part) = self.parts.get(at) {
                let start = self.starts[at];
                pending.extend(self.without(start..start + part.tables.len(), gone));
            }
            pending.extend(change.unwrap_or_default());
        }
        put_parts(level, &mut next, &mut pending)?;
        let bounds = next.windows(2).map(|pair| {
            let left = pair[0].tables.last().expect("P1: no part is empty");
            [left, &pair[1].tables[0]].map(|table| &**table)
        });
        faults_of_order(level, bounds).next().map_or(Ok(()), Err)?;
        Ok(Self::of_parts(next))
    }

    /// Of the tables at these places those that are not gone.
    fn without(&self, places: Range<usize>, gone: &[usize]) -> Vec<Arc<TableMeta>> {
        let low = gone.partition_point(|at| *at < places.start);
        let mut gone = gone[low..].iter().peekable();
        let all = places.clone().zip(self.tables().range(places).iter());
        all.filter(|(at, _)| gone.next_if_eq(&at).is_none())
            .map(|(_, table)| table)
            .cloned()
            .collect()
    }
}

/// Puts these tables of a level into parts, in order, and leaves none.
fn put_parts(
    level: u8,
    parts: &mut Vec<Arc<Part>>,
    tables: &mut Vec<Arc<TableMeta>>,
) -> Result<(), LevelFault> {
    // Mostly sorted already, which this sort makes use of.
    tables.sort_by(|a, b| a.first.cmp(&b.first));
    let pairs = tables.windows(2).map(|pair| [&*pair[0], &*pair[1]]);
    faults_of_order(level, pairs).next().map_or(Ok(()), Err)?;
    let mut count = tables.len().div_ceil(PART_TABLES_MAX);
    let mut left = tables.drain(..);
    while count > 0 {
        let part_len = left.len().div_ceil(count);
        parts.push(Part::new(left.by_ref().take(part_len).collect()));
        count -= 1;
    }
    Ok(())
}

/// V3, of neighbours in a level below level 0.
pub(super) fn faults_of_order<'a>(
    level: u8,
    pairs: impl Iterator<Item = [&'a TableMeta; 2]>,
) -> impl Iterator<Item = LevelFault> {
    pairs
        .filter(|[left, right]| left.last >= right.first)
        .map(move |[left, right]| LevelFault::Overlap { level, left: left.id, right: right.id })
}

/// Which tables are looked for: tells of most others by a bit.
pub(super) struct Marks {
    bits: [u64; Self::WORDS],
}

impl Marks {
    const WORDS: usize = 64;

    pub(super) fn of<'a>(ids: impl Iterator<Item = &'a TableId>) -> Self {
        let mut bits = [0; Self::WORDS];
        for id in ids {
            let (word, bit) = Self::place(*id);
            bits[word] |= bit;
        }
        Self { bits }
    }

    /// It may be one of them.
    fn may_have(&self, id: TableId) -> bool {
        let (word, bit) = Self::place(id);
        self.bits[word] & bit != 0
    }

    fn place(id: TableId) -> (usize, u64) {
        let number = id.ordinal.0 as usize;
        (number / 64 % Self::WORDS, 1 << (number % 64))
    }
}

/// Tables of a level that stand side by side, in their order. A copy costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct LevelTables<'a> {
    level: &'a Level,
    from: usize,
    upto: usize,
}

impl<'a> LevelTables<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.upto - self.from
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one at this place, from 0. A binary search of the level's parts.
    pub fn get(&self, at: usize) -> Option<&'a Arc<TableMeta>> {
        let at = Some(self.from + at).filter(|at| *at < self.upto)?;
        let (part, at) = self.level.place(at);
        Some(&self.level.parts[part].tables[at])
    }

    /// The first.
    pub fn first(&self) -> Option<&'a Arc<TableMeta>> {
        self.get(0)
    }

    /// The last.
    pub fn last(&self) -> Option<&'a Arc<TableMeta>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// Those at these places.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn range(&self, places: Range<usize>) -> Self {
        assert!(places.start <= places.end && places.end <= self.len(), "{places:?} are there");
        Self { level: self.level, from: self.from + places.start, upto: self.from + places.end }
    }

    /// One after the other.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a Arc<TableMeta>> + Clone + use<'a> {
        let Self { level, from, upto } = *self;
        let parts = match self.is_empty() {
            true => 0..0,
            false => level.place(from).0..level.place(upto - 1).0 + 1,
        };
        let slices = parts.map(move |at| {
            let (part, start) = (&level.parts[at], level.starts[at]);
            &part.tables[from.saturating_sub(start)..part.tables.len().min(upto - start)]
        });
        slices.flatten()
    }

    /// All of them.
    pub fn to_vec(&self) -> Vec<Arc<TableMeta>> {
        self.iter().cloned().collect()
    }

    /// How many of the first ones this is true of; it is true of none after one that it is not true of. A binary
    /// search, of which each step looks for the table's part.
    pub fn partition_point(&self, mut is_before: impl FnMut(&Arc<TableMeta>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle) {
                Some(table) if is_before(table) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

impl Index<usize> for LevelTables<'_> {
    type Output = Arc<TableMeta>;

    fn index(&self, at: usize) -> &Arc<TableMeta> {
        self.get(at).expect("a table is there")
    }
}

impl PartialEq for LevelTables<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for LevelTables<'_> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::levels::Levels;
    use pinstone_disk::{Bytes, Epoch, Ordinal, TableKind};
    use proptest::prelude::*;

    /// The table that has the keys `ordinal` * 2 to `ordinal` * 2 + 1, and so many spare entries of ten.
    fn table(ordinal: u32, spare_count: u64) -> TableMeta {
        let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
        TableMeta {
            id: TableId { table: TableKind::Names, ordinal: Ordinal(ordinal), epoch: Epoch(1) },
            first: key(ordinal * 2),
            last: key(ordinal * 2 + 1),
            entry_count: 10,
            spare_count,
            last_commit: 0,
            file_bytes: u64::from(ordinal),
            footer_hash: [0; 32],
        }
    }

    fn edit(level: u8, added: &BTreeSet<u32>, removed: &BTreeSet<u32>) -> LevelEdit {
        LevelEdit {
            added: added.iter().map(|at| (level, table(*at, u64::from(at % 5 / 2)))).collect(),
            removed: removed.iter().map(|at| table(*at, 0).id).collect(),
            ..LevelEdit::new(TableKind::Names)
        }
    }

    /// The level has tables of these numbers, in this order, whatever it is asked.
    fn check(levels: &Levels, level: u8, expected: &[u32], at: usize) {
        let (tables, parts) = (levels.tables(level), levels.parts(level));
        let number = |table: &Arc<TableMeta>| table.id.ordinal.0;
        assert!(tables.iter().map(number).eq(expected.iter().copied()));
        assert!(tables.iter().rev().map(number).eq(expected.iter().rev().copied()));
        assert_eq!(levels.check(), []);
        // P1, P2.
        for (number, part) in (1..).zip(parts) {
            let least = if number < parts.len() && level > 0 { PART_TABLES_MIN } else { 1 };
            let most = if level > 0 { PART_TABLES_MAX } else { usize::MAX };
            assert!((least..=most).contains(&part.tables.len()), "{number} of {}", parts.len());
            assert!(part.ids.iter().eq(part.tables.iter().map(|table| &table.id)));
            assert_eq!(part.has_wasteful, part.tables.iter().any(|table| table.has_spare(false)));
        }
        let mut encoded = Vec::new();
        levels.to_edit().encode(&mut encoded);
        assert_eq!(levels.edit_bytes(), encoded.len() as u64);
        assert_eq!((tables.len(), tables.is_empty()), (expected.len(), expected.is_empty()));
        let (first, last) = (expected.first(), expected.last());
        assert_eq!(
            (tables.first().map(number), tables.last().map(number)),
            (first.copied(), last.copied())
        );
        assert_eq!(tables.get(at).map(number), expected.get(at).copied());
        let at = at.min(expected.len());
        let (behind, behind_expected) = (tables.range(at..tables.len()), &expected[at..]);
        assert!(behind.iter().map(number).eq(behind_expected.iter().copied()));
        let half = behind.len() / 2;
        assert_eq!(
            behind.partition_point(
                |table| number(table) < behind_expected.get(half).copied().unwrap_or(0)
            ),
            half
        );
        for all in [false, true] {
            let has_spare =
                |at: &usize| expected[*at] % 5 / 2 > 0 && (all || expected[*at] % 5 / 2 * 8 >= 10);
            assert!(levels.spare_places(level, at, all).eq((at..expected.len()).filter(has_spare)));
        }
        let some: BTreeSet<_> = expected.iter().step_by(7).map(|at| table(*at, 0).id).collect();
        for (id, found, at) in levels.places(&some) {
            assert_eq!((found, expected[at]), (level, id.ordinal.0));
        }
        assert_eq!(levels.places(&some).len(), some.len());
    }

    /// How many parts of a level this view has that the other one has not.
    fn new_parts(levels: &Levels, other: &Levels, level: u8) -> usize {
        let is_new =
            |part: &&Arc<Part>| !other.parts(level).iter().any(|old| Arc::ptr_eq(old, part));
        levels.parts(level).iter().filter(is_new).count()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Runs of tables come and go.
        #[test]
        fn a_level_in_parts_is_a_list(
            first in 0..3000u32,
            changes in prop::collection::vec((0..4000u32, 1..700u32, 1..9u32, any::<bool>()), 1..12),
            at in 0..4000usize,
        ) {
            let mut here: BTreeSet<u32> = (1..first).collect();
            let mut levels = Levels::new(TableKind::Names).apply(&edit(3, &here, &BTreeSet::new())).unwrap();
            for (from, count, step, comes) in changes {
                let places: BTreeSet<_> = (from.max(1)..from + count).step_by(step as usize).collect();
                let (added, removed) = match comes {
                    true => (&places - &here, BTreeSet::new()),
                    false => (BTreeSet::new(), &places & &here),
                };
                here = &(&here | &added) - &removed;
                let next = levels.apply(&edit(3, &added, &removed)).unwrap();
                // Each touches a part, and one after it at most.
                let changed = (count as usize).div_ceil(PART_TABLES_MIN) + 3;
                prop_assert!(new_parts(&next, &levels, 3) <= changed, "{}", next.parts(3).len());
                levels = next;
                check(&levels, 3, &here.iter().copied().collect::<Vec<_>>(), at);
            }
            prop_assert!(levels.apply(&edit(3, &here, &BTreeSet::new())).is_err() || here.is_empty());
            let moved = LevelEdit { removed: edit(3, &here, &here).removed, ..edit(4, &here, &here) };
            check(&levels.apply(&moved).unwrap(), 4, &here.iter().copied().collect::<Vec<_>>(), at);
        }
    }

    #[test]
    fn one_table_among_many_touches_few_parts() {
        let all: BTreeSet<u32> = (1..40_000).step_by(2).collect();
        let levels = Levels::new(TableKind::Names).apply(&edit(6, &all, &BTreeSet::new())).unwrap();
        assert_eq!(levels.parts(6).len(), 20_000_usize.div_ceil(PART_TABLES_MAX));
        for place in [2, 778, 20_000, 40_000] {
            let (added, removed) = (BTreeSet::from([place]), BTreeSet::from([place - 1]));
            let next = levels.apply(&edit(6, &added, &removed)).unwrap();
            assert_eq!(new_parts(&next, &levels, 6), 1, "{place}");
            let next = levels.apply(&edit(6, &added, &BTreeSet::new())).unwrap();
            assert!(new_parts(&next, &levels, 6) <= 2, "{place}: a full part is halved");
        }
    }

    #[test]
    fn parts_do_not_become_ever_smaller() {
        let mut here: BTreeSet<u32> = (1..5000).collect();
        let mut levels =
            Levels::new(TableKind::Names).apply(&edit(6, &here, &BTreeSet::new())).unwrap();
        // Of each part in turn all but one table, or but a few less or more than a part has at least.
        for step in 0..60 {
            let parts = levels.parts(6);
            let kept = [1, PART_TABLES_MIN - 1, PART_TABLES_MIN, 3][step % 4];
            let part = &parts[step * 7 % parts.len()];
            let gone: BTreeSet<u32> = part.ids.iter().skip(kept).map(|id| id.ordinal.0).collect();
            levels = levels.apply(&edit(6, &BTreeSet::new(), &gone)).unwrap();
            here = &here - &gone;
            check(&levels, 6, &here.iter().copied().collect::<Vec<_>>(), step);
        }
    }

    #[test]
    fn overlaps_between_parts_are_refused() {
        let all: BTreeSet<u32> = (1..4000).step_by(2).collect();
        let levels = Levels::new(TableKind::Names).apply(&edit(6, &all, &BTreeSet::new())).unwrap();
        for part in 1..levels.parts(6).len() {
            let before = &levels.parts(6)[part - 1];
            let (left, right) =
                (&before.tables[before.tables.len() - 1], &levels.parts(6)[part].tables[0]);
            let between =
                TableMeta { last: right.first.clone(), ..table(left.id.ordinal.0 + 1, 0) };
            let added =
                LevelEdit { added: vec![(6, between.clone())], ..LevelEdit::new(TableKind::Names) };
            let fault = LevelFault::Overlap { level: 6, left: between.id, right: right.id };
            assert_eq!(levels.apply(&added), Err(fault.clone()));
            // Only the bounds of parts tell of this one: it comes in place of the last table of its part.
            let across = TableMeta { first: left.first.clone(), ..between.clone() };
            let added = vec![(6, across)];
            let removed = vec![left.id];
            let edit = LevelEdit { added, removed, ..LevelEdit::new(TableKind::Names) };
            assert_eq!(levels.apply(&edit), Err(fault));
            let fits = TableMeta { last: between.first.clone(), ..between };
            let added = LevelEdit { added: vec![(6, fits)], ..LevelEdit::new(TableKind::Names) };
            assert_eq!(levels.apply(&added).unwrap().tables(6).len(), all.len() + 1);
        }
    }
}
