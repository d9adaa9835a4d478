//! Levels of many tables, which stand in parts that one view shares with the next: whatever comes and goes,
//! look-ups and scans are led to what a plain list of the tables leads to, and what is gone is let go of.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use common::tables;
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::{LEVELS_MAX, Levels};
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::name_scan::{NameRange, NameScan};
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::run::{Names, RunOptions, RunWriter, Tree};
use pinstone_compaction::table::names::NameTable;
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::env::{Mutex, Published};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Epoch, Ordinal};
use proptest::prelude::*;

/// As many as make several parts of a level.
const TABLES: usize = 1000;

/// How the names of the tables differ: look-ups compare the first eight bytes of a name before the rest.
const HEADS: [fn(usize) -> String; 3] = [
    |number| format!("all-same{number:05}"),
    |number| format!("{:08}{number:05}", number / 400),
    |number| format!("{number:08}-different"),
];

/// Tables of one or two names each, in order.
struct Pool {
    tables: Arc<Tables>,
    metas: Vec<TableMeta>,
    names: Vec<Vec<String>>,
}

impl Pool {
    fn new(head: fn(usize) -> String) -> Self {
        let tables = tables(&SimDisk::new(1));
        let names: Vec<_> = (0..TABLES)
            .map(|at| (2 * at..2 * at + 1 + at % 3 / 2).map(head).collect::<Vec<_>>())
            .collect();
        let metas = (1..).zip(&names).map(|(number, names)| write(&tables, number, names));
        let metas = metas.collect();
        Self { tables, metas, names }
    }

    fn open(&self, at: usize) -> Arc<NameTable> {
        Arc::new(Names::open(&self.tables, self.metas[at].clone()).unwrap())
    }
}

fn write(tables: &Arc<Tables>, number: u32, names: &[String]) -> TableMeta {
    let id = TableId { table: Names::KIND, ordinal: Ordinal(number), epoch: Epoch(1) };
    let id = Mutex::new(Some(id));
    let next_id = Box::new(move || id.lock().take());
    let options = RunOptions { table_bytes: u64::MAX, filter_seed: None, next_id };
    let mut writer = RunWriter::<Names>::new(tables, options, Vec::new(), Vec::new());
    for name in names {
        let to = Some(Digest::of(name.as_bytes()));
        writer.push(&NameEntry { name: Bytes::from(name.clone()), commit: 1, to }).unwrap();
    }
    writer.finish().unwrap().remove(0)
}

fn id(table: &Arc<NameTable>) -> TableId {
    Names::file(table).meta().id
}

/// A view, and in which level each table of the pool stands by a plain list, if in any.
#[derive(Clone)]
struct Held {
    view: OpenLevels<Names>,
    places: Vec<Option<u8>>,
}

impl Held {
    /// The tables of a level, or of all from level 1 down.
    fn expected<'a>(&'a self, pool: &'a Pool, level: u8) -> impl Iterator<Item = &'a TableMeta> {
        let all = pool.metas.iter().zip(&self.places);
        all.filter(move |(_, place)| **place == Some(level)).map(|(meta, _)| meta)
    }

    fn check(&self, pool: &Pool) {
        let Self { view, .. } = self;
        assert_eq!(view.levels().check(), []);
        for level in 0..LEVELS_MAX {
            let expected: Vec<_> = self.expected(pool, level).map(|meta| meta.id).collect();
            assert!(view.tables(level).map(id).eq(expected.iter().copied()));
            assert!(view.tables(level).rev().map(id).eq(expected.iter().rev().copied()));
        }
        for (at, meta) in pool.metas.iter().enumerate() {
            let beyond = [&meta.last[..], b"\0"].concat();
            let before_it = &meta.first[..meta.first.len() - 1];
            for key in [&meta.first[..], &meta.last, &beyond, before_it] {
                let below = (1..LEVELS_MAX).flat_map(|level| self.expected(pool, level));
                let expected = below.filter(|meta| meta.overlaps(key, key)).map(|meta| meta.id);
                assert!(view.for_key(key).map(id).eq(expected), "{at}: {key:x?}");
            }
        }
        let some: BTreeSet<_> = pool.metas.iter().step_by(7).map(|meta| meta.id).collect();
        let stand = |(at, _): &(usize, &TableMeta)| self.places[*at].is_some();
        let here = pool.metas.iter().enumerate().step_by(7).filter(stand);
        let found = view.tables_of(&some);
        assert!(found.keys().copied().eq(here.map(|(_, meta)| meta.id)));
        assert!(found.iter().all(|(key, table)| id(table) == *key));
        let whole = Levels::new(Names::KIND).apply(&view.levels().to_edit()).unwrap();
        assert_eq!(&whole, view.levels(), "other parts, the same tables");
    }

    /// Every name once, in order, from both ends.
    fn scan(&self, pool: &Pool) {
        let names = pool.names.iter().zip(&self.places).filter(|(_, place)| place.is_some());
        let expected: Vec<_> =
            names.flat_map(|(names, _)| names).map(|name| name.clone().into_bytes()).collect();
        let views = Arc::new(Published::new(Arc::new(self.view.clone())));
        let scan = || NameScan::new(Arc::clone(&views), NameRange::all(), 1);
        let forwards = scan().map(|pointer| pointer.unwrap().0.to_vec());
        assert!(forwards.eq(expected.iter().cloned()));
        let backwards = scan().rev().map(|pointer| pointer.unwrap().0.to_vec());
        assert!(backwards.eq(expected.into_iter().rev()));
    }
}

#[derive(Clone, Debug)]
enum Change {
    Come(u8),
    Go,
    Move(u8),
}

fn a_change() -> impl Strategy<Value = (usize, usize, usize, Change)> {
    let level = || prop::sample::select(vec![3u8, 5, 6]);
    let change = prop_oneof![
        3 => level().prop_map(Change::Come),
        1 => Just(Change::Go),
        1 => level().prop_map(Change::Move),
    ];
    let counts = prop::sample::select(vec![1, 3, 60, 300, TABLES]);
    (0..TABLES, counts, prop::sample::select(vec![1, 1, 2, 7]), change)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn tables_are_found_whatever_parts_they_stand_in(
        head in prop::sample::select(HEADS.to_vec()),
        changes in prop::collection::vec(a_change(), 12),
        held_at in 0..12usize,
    ) {
        let pool = Pool::new(head);
        let mut now = Held { view: OpenLevels::new(), places: vec![None; TABLES] };
        let mut held = now.clone();
        let mut opened_ever: Vec<Weak<NameTable>> = Vec::new();
        for (step, (from, count, by, change)) in changes.into_iter().enumerate() {
            let mut edit = LevelEdit::new(Names::KIND);
            let mut opened = Vec::new();
            // In no order.
            for at in (from..(from + count).min(TABLES)).step_by(by).rev() {
                let (meta, place) = (&pool.metas[at], &mut now.places[at]);
                match (&change, *place) {
                    (Change::Come(level), None) => {
                        edit.added.push((*level, meta.clone()));
                        opened.push(pool.open(at));
                        *place = Some(*level);
                    }
                    (Change::Go, Some(_)) => {
                        edit.removed.push(meta.id);
                        *place = None;
                    }
                    (Change::Move(level), Some(_)) => {
                        edit.removed.push(meta.id);
                        edit.added.push((*level, meta.clone()));
                        *place = Some(*level);
                    }
                    _ => {}
                }
            }
            now.view = now.view.apply(&edit, &opened).unwrap();
            opened_ever.extend(opened.iter().map(Arc::downgrade));
            drop(opened);
            now.check(&pool);
            if step == held_at {
                held = now.clone();
            }
            // No part keeps a table that no view has any more.
            let reached: BTreeSet<_> =
                [&now, &held].iter().flat_map(|held| held.view.all().map(|(_, table)| Arc::as_ptr(table))).collect();
            let alive: BTreeSet<_> =
                opened_ever.iter().filter_map(Weak::upgrade).map(|table| Arc::as_ptr(&table)).collect();
            prop_assert_eq!(reached, alive);
        }
        held.check(&pool);
        held.scan(&pool);
        now.scan(&pool);
        let opened = OpenLevels::open(&pool.tables, now.view.levels().clone()).unwrap();
        Held { view: opened, ..now }.check(&pool);
    }
}
