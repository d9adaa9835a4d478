//! Tables that are stale and whose files may be there yet: which of them a rewriting goes on naming. No I/O.
//!
//! 1. What a rewriting has replaced lingers until its file is durably gone. Until then each of its keys is
//!    named by a table that stands, so that whoever finds only files can tell that it is stale (X1, X4 of
//!    [`run`](crate::run)).
//! 2. A table that a rewriting has written has a *share* of the keys: from its first key, or the least of all
//!    that was rewritten, to the first of the table after it, or the greatest of all that was. What it names,
//!    it names for its share.
//! 3. A rewriting of tables that have shares goes on naming what lingers between the least key of these and
//!    the greatest.
//! 4. Of some tables it is not known which keys they have, and nothing names them yet: those that were there
//!    before the store was opened, and those that were given up, and could not be removed. Every rewriting
//!    names them, whatever its keys.
//!
//! - L1: each key of a table that lingers stands in the share of a table that names it; but that of a table of
//!   4 in every share from the next rewriting on.
//! - L2: what is kept in memory grows with the tables that linger and those that stand, not with how many of
//!   the former the latter name. Nothing is kept where nothing lingers.

use std::collections::BTreeMap;

use bytes::Bytes;
use pinstone_disk::TableKind;

use crate::run::Carried;
use crate::table::{TableId, TableMeta};

/// Keys from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The least.
    pub first: Bytes,
    /// The greatest; not below `first`.
    pub last: Bytes,
}

impl KeyRange {
    /// From the first key of a table to its last.
    pub fn of(meta: &TableMeta) -> Self {
        Self { first: meta.first.clone(), last: meta.last.clone() }
    }

    /// The least range that has all of both.
    fn with(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// What both have.
    fn within(&self, other: &Self) -> Option<Self> {
        let first = (&self.first).max(&other.first);
        let last = (&self.last).min(&other.last);
        (first <= last).then(|| Self { first: first.clone(), last: last.clone() })
    }
}

/// The tables of a store that are stale and may be there yet.
#[derive(Debug, Default)]
pub struct Lingering {
    /// With their keys, where these are known.
    tables: BTreeMap<TableId, Option<KeyRange>>,
    /// The share of each table that may name one of those whose keys are known.
    shares: BTreeMap<TableId, KeyRange>,
}

impl Lingering {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// A table may be there that nothing names; its keys are not known.
    pub fn add_unknown(&mut self, id: TableId) {
        self.tables.entry(id).or_insert(None);
    }

    /// A rewriting that carried on what it had to has replaced `inputs` by `outputs`.
    ///
    /// # Panics
    /// If these do not come in the order of keys.
    pub fn replace(&mut self, inputs: &[&TableMeta], outputs: &[TableMeta]) {
        assert!(outputs.is_sorted_by(|a, b| a.last < b.first), "outputs come in order");
        let shares = inputs.iter().filter_map(|input| self.shares.remove(&input.id));
        let ranges = inputs.iter().map(|input| KeyRange::of(input));
        let Some(all) = shares.chain(ranges).reduce(KeyRange::with) else { return };
        for input in inputs {
            self.tables.insert(input.id, Some(KeyRange::of(input)));
        }
        for (index, output) in outputs.iter().enumerate() {
            let first = if index == 0 { &all.first } else { &output.first };
            let last = outputs.get(index + 1).map_or(&all.last, |next| &next.first);
            let share = KeyRange { first: first.clone(), last: last.clone() };
            self.shares.insert(output.id, share);
        }
        if outputs.is_empty() {
            // Nothing was written that could name them.
            let kind = inputs[0].id.table;
            for (_, keys) in self.tables.iter_mut().filter(|(id, _)| id.table == kind) {
                drop(keys.take_if(|keys| keys.within(&all).is_some()));
            }
        }
    }

    /// Its file is durably gone.
    pub fn forget(&mut self, id: TableId) {
        self.tables.remove(&id);
        if self.tables.is_empty() {
            self.shares.clear();
        }
    }

    /// What a rewriting of these tables of a tree is to name beside them.
    pub fn carried<'a>(
        &self,
        tree: TableKind,
        inputs: impl IntoIterator<Item = &'a TableMeta>,
    ) -> Vec<Carried> {
        let shares = inputs.into_iter().filter_map(|input| self.shares.get(&input.id).cloned());
        let all = shares.reduce(KeyRange::with);
        let carried = |(&id, keys): (&TableId, &Option<KeyRange>)| match keys {
            None => Some(Carried { id, keys: None }),
            Some(keys) => Some(Carried { id, keys: Some(keys.within(all.as_ref()?)?) }),
        };
        self.tables.iter().filter(|(id, _)| id.table == tree).filter_map(carried).collect()
    }
}
