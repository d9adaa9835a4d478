//! A tree whose tables are lists of keys in memory: flushes and plans are carried out on it.
//!
//! A key has the same bytes everywhere, so that a table's bytes follow from its keys; it may stand
//! for many rows. What is in a table is known to this model alone, the planner sees its meta.

use std::collections::{BTreeMap, BTreeSet};

use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::Levels;
use pinstone_compaction::plan::{Damaged, NO_DAMAGE, Plan, Shape};
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::{Bytes, Epoch, Ordinal, TableKind};

pub(crate) type Planner = fn(&Levels, &Shape, u64, &Damaged) -> Option<Plan>;

pub(crate) struct Tree {
    pub(crate) levels: Levels,
    pub(crate) shape: Shape,
    pub(crate) key_bytes: u64,
    pub(crate) flushed_bytes: u64,
    pub(crate) rewritten_bytes: u64,
    pub(crate) input_bytes_max: u64,
    pub(crate) plan_count: u64,
    tables: BTreeMap<TableId, Vec<u64>>,
    next_ordinal: u32,
}

impl Tree {
    pub(crate) fn new(shape: Shape, key_bytes: u64) -> Self {
        Self {
            levels: Levels::new(TableKind::Index),
            shape,
            key_bytes,
            flushed_bytes: 0,
            rewritten_bytes: 0,
            input_bytes_max: 0,
            plan_count: 0,
            tables: BTreeMap::new(),
            next_ordinal: 1,
        }
    }

    /// A table of these keys comes to level 0.
    pub(crate) fn flush(&mut self, keys: BTreeSet<u64>) {
        let meta = self.write(keys.into_iter().collect());
        self.flushed_bytes += meta.file_bytes;
        self.apply(&LevelEdit { added: vec![(0, meta)], ..LevelEdit::new(self.levels.tree()) });
    }

    /// Plans, until there is none.
    pub(crate) fn run(&mut self, planner: Planner) {
        let mut left = 100_000;
        while let Some(plan) = planner(&self.levels, &self.shape, u64::MAX, NO_DAMAGE) {
            self.carry_out(&plan);
            left -= 1;
            assert!(left > 0, "plans do not come to an end: {plan:?}");
        }
    }

    pub(crate) fn carry_out(&mut self, plan: &Plan) {
        self.plan_count += 1;
        let mut outputs = Vec::new();
        if !plan.is_move {
            self.input_bytes_max = self.input_bytes_max.max(plan.input_bytes());
            let ids = plan.inputs().map(|table| table.id);
            let mut merged: Vec<u64> = ids.flat_map(|id| self.tables[&id].clone()).collect();
            merged.sort_unstable();
            merged.dedup();
            let cut = self.shape.table_bytes.div_ceil(self.key_bytes);
            for keys in merged.chunks(usize::try_from(cut).unwrap()) {
                outputs.push(self.write(keys.to_vec()));
            }
            self.rewritten_bytes += outputs.iter().map(|table| table.file_bytes).sum::<u64>();
        }
        self.apply(&plan.edit(outputs));
    }

    /// All keys that any table holds.
    pub(crate) fn keys(&self) -> BTreeSet<u64> {
        self.levels.all().flat_map(|(_, table)| &self.tables[&table.id]).copied().collect()
    }

    /// The levels that hold something, with what they hold in MB.
    pub(crate) fn levels_in_mb(&self) -> String {
        let filled = self.levels.all().map(|(level, _)| level).collect::<BTreeSet<_>>();
        let text = |level| format!("L{level} {}", self.levels.sums(level).file_bytes / 1_000_000);
        filled.into_iter().map(text).collect::<Vec<_>>().join(", ")
    }

    fn write(&mut self, keys: Vec<u64>) -> TableMeta {
        let ordinal = Ordinal(self.next_ordinal);
        self.next_ordinal += 1;
        let id = TableId { table: TableKind::Index, ordinal, epoch: Epoch(1) };
        let key = |key: Option<&u64>| Bytes::copy_from_slice(&key.unwrap().to_be_bytes());
        let meta = TableMeta {
            id,
            first: key(keys.first()),
            last: key(keys.last()),
            entry_count: keys.len() as u64,
            spare_count: 0,
            last_commit: 0,
            file_bytes: keys.len() as u64 * self.key_bytes,
            footer_hash: [0; 32],
        };
        self.tables.insert(id, keys);
        meta
    }

    fn apply(&mut self, edit: &LevelEdit) {
        self.levels = self.levels.apply(edit).unwrap();
        for id in &edit.removed {
            if !edit.added.iter().any(|(_, table)| table.id == *id) {
                self.tables.remove(id).unwrap();
            }
        }
    }
}

/// Numbers that look random and are the same in every run (splitmix64).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
