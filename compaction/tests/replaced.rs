//! Tables that were replaced and whose files are still there, over many lives of a tree: each of their
//! keys is named as replaced by tables that stand, by few more than the one that took its place, and where they
//! have no keys they are not named (X1, X4; L1).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use common::tables;
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::Levels;
use pinstone_compaction::lingering::Lingering;
use pinstone_compaction::merge::{NameEntry, Readers, Versions};
use pinstone_compaction::plan::{NO_DAMAGE, Plan, Shape, plan, plan_full};
use pinstone_compaction::run::{Names, Rewrite, RunOptions, RunWriter, Tree};
use pinstone_compaction::table::footer::Replaced;
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::env::{AtomicU64, Ordering};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, Epoch, Ordinal, TableKind};

/// Choices that repeat from run to run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 += 1;
        let digest = Digest::of(&self.0.to_le_bytes());
        u64::from_le_bytes(*digest.as_bytes().first_chunk().unwrap()) % bound
    }

    fn one_of<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[usize::try_from(self.below(N as u64)).unwrap()]
    }
}

/// A table that was replaced, and its keys.
struct Stale {
    meta: TableMeta,
    keys: BTreeSet<Bytes>,
}

struct Life {
    dice: Dice,
    disk: Arc<SimDisk>,
    tables: Arc<Tables>,
    shape: Shape,
    levels: Levels,
    next_ordinal: Arc<AtomicU64>,
    /// Whose files are there yet; and what is known of them.
    stale: BTreeMap<TableId, Stale>,
    lingering: Lingering,
    last_commit: u64,
    rewrites: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed << 32);
        let shape = Shape {
            l0_tables: dice.one_of([1, 2, 4]),
            l0_bytes: 4 << 10,
            size_ratio_max: dice.one_of([2, 4]),
            table_bytes: dice.one_of([1 << 10, 4 << 10, 8 << 10]),
            input_bytes_max: dice.one_of([8 << 10, 64 << 10, 1 << 20]),
        };
        let disk = SimDisk::new(seed);
        Self {
            dice,
            tables: tables(&disk),
            disk,
            shape,
            levels: Levels::new(TableKind::Names),
            next_ordinal: Arc::new(AtomicU64::new(1)),
            stale: BTreeMap::new(),
            lingering: Lingering::default(),
            last_commit: 0,
            rewrites: 0,
        }
    }

    fn options(&self, table_bytes: u64) -> RunOptions {
        let next = Arc::clone(&self.next_ordinal);
        let next_id = Box::new(move || {
            let ordinal = u32::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
            Some(TableId { table: TableKind::Names, ordinal: Ordinal(ordinal), epoch: Epoch(1) })
        });
        RunOptions { table_bytes, filter_seed: None, next_id }
    }

    fn flush(&mut self, space: u64) {
        let count = 1 + self.dice.below(120);
        let (from, width) = (self.dice.below(space), self.dice.one_of([space, 1 + space / 8]));
        let mut entries = BTreeSet::new();
        for _ in 0..count {
            self.last_commit += 1;
            let number = (from + self.dice.below(width)) % space;
            let stands = self.dice.below(10) >= 3;
            entries.insert(NameEntry {
                name: Bytes::from(format!("{number:05}")),
                commit: self.last_commit,
                to: stands.then(|| Digest::of(&self.last_commit.to_le_bytes())),
            });
        }
        let options = self.options(u64::MAX);
        let mut writer = RunWriter::<Names>::new(&self.tables, options, Vec::new(), Vec::new());
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        let added = writer.finish().unwrap().into_iter().map(|meta| (0, meta)).collect();
        let edit = LevelEdit { added, ..LevelEdit::new(TableKind::Names) };
        self.levels = self.levels.apply(&edit).unwrap();
    }

    fn compact(&mut self, whole: bool) {
        loop {
            let plan = match whole {
                true => plan_full(&self.levels, &self.shape, u64::MAX, NO_DAMAGE),
                false => plan(&self.levels, &self.shape, u64::MAX, NO_DAMAGE),
            };
            let Some(plan) = plan else { return };
            match plan.is_move {
                true => self.levels = self.levels.apply(&plan.edit(Vec::new())).unwrap(),
                false => self.rewrite(&plan),
            }
        }
    }

    fn rewrite(&mut self, plan: &Plan) {
        let open = |meta: &Arc<TableMeta>| {
            Arc::new(Names::open(&self.tables, TableMeta::clone(meta)).unwrap())
        };
        let inputs: Vec<_> = plan.inputs().map(open).collect();
        let metas: Vec<&TableMeta> = inputs.iter().map(|table| table.file().meta()).collect();
        let carried = self.lingering.carried(TableKind::Names, metas.iter().copied());
        let (options, is_bottom) = (self.options(self.shape.table_bytes), plan.is_bottom);
        let kept = |merged| Versions::new(merged, Readers::new(Vec::new(), u64::MAX), is_bottom);
        let mut rewrite =
            Rewrite::<Names>::new(&self.tables, plan.clone(), &inputs, options, carried, kept);
        while rewrite.step(50).unwrap() {}
        let edit = rewrite.finish().unwrap();
        self.levels = self.levels.apply(&edit).unwrap();
        let outputs: Vec<_> = edit.added.into_iter().map(|(_, meta)| meta).collect();
        self.lingering.replace(&metas, &outputs);
        self.rewrites += 1;
        for table in inputs {
            let meta = table.file().meta().clone();
            let keys = table.entries().map(|entry| entry.unwrap().name).collect();
            self.stale.insert(meta.id, Stale { meta, keys });
        }
        // Readers let go of some.
        let all: Vec<_> = self.stale.keys().copied().collect();
        for id in all {
            if self.dice.below(20) == 0 {
                self.stale.remove(&id);
                self.lingering.forget(id);
                self.disk.remove(id.file_name()).unwrap();
            }
        }
    }

    /// What footers say, read from the device.
    fn named(&self) -> BTreeMap<TableId, Vec<Replaced>> {
        let mut named: BTreeMap<_, Vec<Replaced>> = BTreeMap::new();
        for (_, meta) in self.levels.all() {
            let table = Names::open(&tables(&self.disk), TableMeta::clone(meta)).unwrap();
            let replaced = table.file().replaced().unwrap();
            let ids: BTreeSet<TableId> = replaced.iter().map(id).collect();
            assert_eq!(ids.len(), replaced.len(), "a table names another once");
            for replaced in replaced {
                named.entry(id(&replaced)).or_default().push(replaced);
            }
        }
        named
    }

    /// Keys that were checked, and how often they are named in all.
    fn check(&self, context: &str) -> (usize, usize) {
        let named = self.named();
        let (mut checked, mut times) = (0, 0);
        for (id, Stale { meta, keys }) in &self.stale {
            let says = named.get(id).map_or(&[][..], |says| says);
            for key in keys {
                let holds = |says: &&Replaced| {
                    says.first <= *key && says.until.as_ref().is_none_or(|until| key < until)
                };
                let count = says.iter().filter(holds).count();
                assert!(count > 0, "{context}: nothing names {key:?} of {id:?}");
                checked += 1;
                times += count;
            }
            for says in says {
                let has_keys = says.first <= meta.last
                    && says.until.as_ref().is_none_or(|until| *until > meta.first);
                assert!(has_keys, "{context}: {says:?} names no key of {meta:?}");
            }
        }
        (checked, times)
    }
}

fn id(replaced: &Replaced) -> TableId {
    let Replaced { ordinal, epoch, .. } = *replaced;
    TableId { table: TableKind::Names, ordinal, epoch }
}

#[test]
fn each_key_of_a_replaced_table_is_named_and_none_beyond() {
    let (mut checked, mut times, mut rewrites) = (0, 0, 0);
    for seed in 1..=24 {
        let mut life = Life::new(seed);
        let space = life.dice.one_of([50, 400, 3000]);
        for flush in 0..40 {
            life.flush(space);
            let whole = life.dice.below(15) == 0;
            life.compact(whole);
            let found = life.check(&format!("life {seed}, flush {flush}"));
            (checked, times) = (checked + found.0, times + found.1);
        }
        rewrites += life.rewrites;
    }
    assert!(checked > 100_000 && rewrites > 500, "{checked} keys, {rewrites} rewrites");
    // By one each, were it not that shares of different runs overlap.
    assert!(times < 2 * checked, "{times} times {checked} keys are named");
}
