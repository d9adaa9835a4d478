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

/// Tables of these entries, from this ordinal on.
fn write(
    tables: &Arc<Tables>,
    mut ordinal: u32,
    table_bytes: u64,
    entries: impl IntoIterator<Item = NameEntry>,
) -> Vec<TableMeta> {
    let next_id = Box::new(move || {
        ordinal += 1;
        Some(TableId { table: Names::KIND, ordinal: Ordinal(ordinal), epoch: Epoch(1) })
    });
    let options = RunOptions { table_bytes, filter_seed: None, next_id };
    let mut writer = RunWriter::<Names>::new(tables, options, Vec::new(), Vec::new());
    entries.into_iter().for_each(|entry| writer.push(&entry).unwrap());
    writer.finish().unwrap()
}

/// A run of tables of a few blocks each, in a deep level.
fn levels() -> (Arc<Tables>, Arc<OpenLevels<Names>>) {
    let tables = tables(&SimDisk::new(1));
    let entries = (0..NAMES).map(|number| {
        let to = Some(Digest::of(name(number).as_bytes()));
        NameEntry { name: name(number).into(), commit: 1, to }
    });
    let metas = write(&tables, 0, 16 << 10, entries);
    let added: Vec<(u8, TableMeta)> = metas.into_iter().map(|meta| (6, meta)).collect();
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
    for meta in metas.range(1..metas.len() - 1).iter() {
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

#[test]
fn what_a_commit_sees_of_several_tables_is_what_it_saw_when_it_was_made() {
    // Of some names many versions, over several blocks; deletions; names with which others begin.
    let mut entries = Vec::new();
    let ends = ["", "\0", "\0\0", "x", "xy", "y"];
    for (number, end) in (0..900u64).zip(ends.iter().cycle()) {
        let (versions, apart) = if number % 97 == 5 { (190, 1) } else { (1 + number % 3, 65) };
        for nth in (0..versions).rev() {
            let commit = 1 + number * 37 % (200 - apart * (versions - 1)).min(70) + nth * apart;
            let to = (commit % 5 > 0).then(|| Digest::of(&(number + commit).to_le_bytes()));
            entries.push(NameEntry { name: format!("{:03}{end}", number / 6).into(), commit, to });
        }
    }
    entries.sort();
    let tables = tables(&SimDisk::new(1));
    let (mut added, mut opened) = (Vec::new(), Vec::new());
    // A level below, and two tables of level 0: names of a run, or each other one, stand in all of them.
    for (level, commits, ordinal) in [(6, 0..80, 0), (0, 80..150, 50), (0, 150..201, 51)] {
        let held = entries.iter().filter(|entry| commits.contains(&entry.commit)).cloned();
        for meta in write(&tables, ordinal, if level == 0 { 1 << 20 } else { 8 << 10 }, held) {
            opened.push(Arc::new(Names::open(&tables, meta.clone()).unwrap()));
            added.push((level, meta));
        }
    }
    let edit = LevelEdit { tree: Names::KIND, added, removed: Vec::new() };
    let levels = Arc::new(OpenLevels::new().apply(&edit, &opened).unwrap());
    assert_eq!(levels.levels().tables(0).len(), 2);
    assert!(levels.levels().tables(6).len() > 2);
    let bounds =
        ["", "0", "000\0", "001", "002\0\0", "016x", "077", "077xz", "101xx", "149y", "149z"];
    for commit in [0, 1, 60, 79, 80, 130, 155, 199, 200, u64::MAX] {
        let mut seen: Vec<&NameEntry> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.commit <= commit) {
            if seen.last().is_none_or(|last| last.name != entry.name) {
                seen.push(entry);
            }
        }
        seen.retain(|entry| entry.to.is_some());
        for (nth, from) in bounds.iter().enumerate() {
            for until in bounds[nth..].iter().map(Some).chain([None]) {
                let until = until.map(|until| until.as_bytes().to_vec());
                let range = NameRange { from: from.as_bytes().to_vec(), until };
                let is_in = |entry: &&&NameEntry| {
                    entry.name >= range.from && range.is_before_end(&entry.name)
                };
                let wanted: Vec<_> = seen
                    .iter()
                    .filter(is_in)
                    .map(|entry| (entry.name.clone(), entry.to.unwrap()))
                    .collect();
                let views = || Arc::new(Published::new(Arc::clone(&levels)));
                let scan = || NameScan::new(views(), range.clone(), commit).map(Result::unwrap);
                assert_eq!(scan().collect::<Vec<_>>(), wanted, "{range:?} {commit}");
                let mut backwards: Vec<_> = scan().rev().collect();
                backwards.reverse();
                assert_eq!(backwards, wanted, "{range:?} {commit}");
            }
        }
    }
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
