//! Scans of names over levels: what is read for them, and in which order the ends meet. What they
//! find among versions is tested by the pointer table, against a model.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::ops::Bound;
use std::sync::Arc;

use common::tables;
use pinstone_compaction::TableError;
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::name_scan::{Head, NameRange, NameScan, NameSource, NameView, Stop};
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::run::{Names, RunOptions, RunWriter, Tree};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::env::{AtomicU64, Ordering, Published};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Epoch, Ordinal};

const NAMES: usize = 3000;

fn name(number: usize) -> String {
    format!("{number:05}")
}

/// A run of tables of a few blocks each, in a deep level.
fn levels() -> (Arc<Tables>, Arc<OpenLevels<Names>>) {
    let tables = tables(&SimDisk::new(1));
    let mut ordinal = 0;
    let next_id = Box::new(move || {
        ordinal += 1;
        Some(TableId { table: Names::KIND, ordinal: Ordinal(ordinal), epoch: Epoch(1) })
    });
    let options = RunOptions { table_bytes: 16 << 10, filter_seed: None, next_id };
    let mut writer = RunWriter::<Names>::new(&tables, options, Vec::new(), Vec::new());
    for number in 0..NAMES {
        let to = Some(Digest::of(name(number).as_bytes()));
        writer.push(&NameEntry { name: name(number).into(), commit: 1, to }).unwrap();
    }
    let added: Vec<(u8, TableMeta)> =
        writer.finish().unwrap().into_iter().map(|meta| (6, meta)).collect();
    let open = |(_, meta): &(u8, TableMeta)| Names::open(&tables, meta.clone()).unwrap();
    let opened: Vec<_> = added.iter().map(|added| Arc::new(open(added))).collect();
    assert!(opened.len() > 5);
    let edit = LevelEdit { tree: Names::KIND, added, removed: Vec::new() };
    let levels = OpenLevels::new().apply(&edit, &opened).unwrap();
    (tables, Arc::new(levels))
}

#[test]
fn a_scan_enters_no_table_that_has_nothing_of_its_range() {
    let (tables, levels) = levels();
    let metas = levels.levels().tables(6);
    for meta in &metas[1..metas.len() - 1] {
        let bounds = (Bound::Included(&meta.first[..]), Bound::Included(&meta.last[..]));
        let range = NameRange::new(bounds.0, bounds.1);
        let scan =
            || NameScan::new(Arc::new(Published::new(Arc::clone(&levels))), range.clone(), 1);
        let before = tables.figures().unit_asks;
        assert_eq!(scan().count() as u64, meta.entry_count);
        let forwards = tables.figures().unit_asks - before;
        assert_eq!(scan().rev().count() as u64, meta.entry_count);
        let backwards = tables.figures().unit_asks - before - forwards;
        let blocks = levels.table(meta.id).unwrap().file().footer().unit_count;
        // Where to begin may have to be looked for in a block more.
        assert!((blocks..=blocks + 1).contains(&forwards), "{forwards} of {blocks}");
        assert!((blocks..=blocks + 1).contains(&backwards), "{backwards} of {blocks}");
    }
}

#[test]
fn ends_meet_wherever_they_stand_and_give_every_name_once() {
    let (_, levels) = levels();
    for from_back in [0, 1, 15, 16, 17, 700, NAMES - 1, NAMES, NAMES + 1] {
        let mut scan =
            NameScan::new(Arc::new(Published::new(Arc::clone(&levels))), NameRange::all(), 1);
        let back = scan.by_ref().rev().take(from_back).map(|pointer| pointer.unwrap().0);
        let mut names: Vec<_> = back.collect();
        names.reverse();
        let front: Vec<_> = scan.by_ref().map(|pointer| pointer.unwrap().0).collect();
        let all: Vec<_> = front.into_iter().chain(names).collect();
        assert!(all.iter().map(|name| &name[..]).eq((0..NAMES).map(name).map(String::into_bytes)));
        assert!(scan.next().is_none() && scan.next_back().is_none());
    }
}

#[test]
fn ranges_without_names_read_nothing() {
    let (tables, levels) = levels();
    let ranges = [
        (Bound::Included(&b"5"[..]), Bound::Excluded(&b"5"[..])),
        (Bound::Excluded(b"00010"), Bound::Excluded(b"00010\0")),
        (Bound::Included(b"2"), Bound::Included(b"1")),
        (Bound::Included(b"9"), Bound::Unbounded),
    ];
    for (from, until) in ranges {
        let mut scan = NameScan::new(
            Arc::new(Published::new(Arc::clone(&levels))),
            NameRange::new(from, until),
            1,
        );
        assert!(scan.next().is_none() && scan.next_back().is_none());
    }
    assert_eq!(tables.figures().unit_asks, 0);
}

/// Deleted names alone, in sources that are gone after some of them.
#[derive(Debug, Default)]
struct Fleeting {
    begun: AtomicU64,
    given: AtomicU64,
}

struct FleetingSource {
    view: Arc<Fleeting>,
    names: Vec<String>,
    left: usize,
}

impl NameSource for FleetingSource {
    fn next(&mut self, head: &mut Head) -> Result<bool, Stop> {
        if self.names.is_empty() {
            return Ok(false);
        }
        self.left = self.left.checked_sub(1).ok_or(Stop::Gone)?;
        head.set(self.names.pop().unwrap().as_bytes(), 1, None);
        self.view.given.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}

impl NameView for Fleeting {
    type Source = FleetingSource;
    type Error = TableError;

    fn sources(self: &Arc<Self>, range: &NameRange, _: u64, backwards: bool) -> Vec<Self::Source> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let is_left = |name: &String| {
            name.as_bytes() >= &range.from[..] && range.is_before_end(name.as_bytes())
        };
        let mut names: Vec<String> = (0..NAMES).map(name).filter(is_left).collect();
        if !backwards {
            names.reverse();
        }
        vec![FleetingSource { view: Arc::clone(self), names, left: 400 }]
    }
}

#[test]
fn a_scan_whose_source_is_gone_goes_on_behind_the_deleted_names_that_it_passed() {
    for backwards in [false, true] {
        let view = Arc::new(Fleeting::default());
        let views = Arc::new(Published::new(Arc::clone(&view)));
        let mut scan = NameScan::new(views, NameRange::all(), 1);
        let given = if backwards { scan.next_back() } else { scan.next() };
        assert!(given.is_none());
        assert_eq!(view.begun.load(Ordering::Relaxed), (NAMES as u64).div_ceil(400));
        assert_eq!(view.given.load(Ordering::Relaxed), NAMES as u64);
    }
}
