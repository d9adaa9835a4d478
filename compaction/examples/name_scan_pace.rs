//! How fast names are scanned: `cargo run --release -p pinstone-compaction --example name_scan_pace`.
//!
//! A million names of about 40 bytes, all blocks in the cache: in one deep level, then with newer
//! tables above it. The least of some rounds of one thread. An argument says which line alone is to
//! be run, and how many rounds, so that instructions of two runs can be told apart.

#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "an example that measures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::name_scan::{NameRange, NameScan};
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::run::{Names, RunOptions, RunWriter, Tree};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableError, TableId};
use pinstone_disk::env::Published;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, Epoch, Ordinal, StoreId};

const NAMES: u64 = 1_000_000;
const ROUNDS: usize = 9;
const PREFIX: &str = "builds/project-1";

fn name(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("builds/project-{:03}/artifact/{mixed:016x}", number % 500)
}

/// The levels with a run of these names in this one.
fn with_run(
    tables: &Arc<Tables>,
    levels: &OpenLevels<Names>,
    level: u8,
    names: &[String],
) -> OpenLevels<Names> {
    let commit = levels.levels().total().table_count + 1;
    let mut ordinal = u32::try_from(commit).unwrap();
    let next_id = Box::new(move || {
        ordinal += 1;
        Some(TableId { table: Names::KIND, ordinal: Ordinal(ordinal), epoch: Epoch::FIRST })
    });
    let options = RunOptions { table_bytes: 16 << 20, filter_seed: Some(9), next_id };
    let mut writer = RunWriter::<Names>::new(tables, options, Vec::new(), Vec::new());
    for name in names {
        let to = Some(Digest::of(name.as_bytes()));
        writer.push(&NameEntry { name: name.clone().into(), commit, to }).unwrap();
    }
    let added: Vec<_> = writer.finish().unwrap().into_iter().map(|meta| (level, meta)).collect();
    let open = |(_, meta): &(u8, pinstone_compaction::TableMeta)| Names::open(tables, meta.clone());
    let opened: Vec<_> = added.iter().map(|added| Arc::new(open(added).unwrap())).collect();
    levels.apply(&LevelEdit { tree: Names::KIND, added, removed: Vec::new() }, &opened).unwrap()
}

/// Scans, and counts what it gives.
#[inline(never)]
fn count(scan: impl Iterator<Item = Result<(bytes::Bytes, Digest), TableError>>) -> u64 {
    let mut count = 0;
    for pointer in scan {
        black_box(pointer.unwrap());
        count += 1;
    }
    count
}

/// The same of names that are lent.
#[inline(never)]
fn count_lent(mut scan: NameScan<OpenLevels<Names>>, backwards: bool) -> u64 {
    let mut count = 0;
    loop {
        let next = if backwards { scan.next_back_ref() } else { scan.next_ref() };
        let Some(pointer) = next.unwrap() else { return count };
        black_box(pointer);
        count += 1;
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let only = arguments.next();
    let rounds = arguments.next().map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let tables = Tables::new(SimDisk::new(1) as Arc<dyn Disk>, StoreId([7; 16]), 16, 512 << 20);
    let mut names: Vec<String> = (0..NAMES).map(name).collect();
    names.sort();
    let deep = with_run(&tables, &OpenLevels::new(), 6, &names);
    let some = |of: usize| names.iter().step_by(of).cloned().collect::<Vec<_>>();
    let mut merged = with_run(&tables, &deep, 5, &some(4));
    for of in [60, 61, 67, 71, 73] {
        merged = with_run(&tables, &merged, 0, &some(of));
    }
    let prefix = NameRange { from: PREFIX.into(), until: Some("builds/project-2".into()) };
    for (what, levels) in [("at rest", deep), ("seven runs", merged)] {
        let levels = Arc::new(levels);
        for (range_name, range) in [("all", NameRange::all()), ("prefix", prefix.clone())] {
            for (backwards, lent) in [(false, false), (true, false), (false, true), (true, true)] {
                let direction = if backwards { "backwards" } else { "forwards" };
                let how = if lent { ", lent" } else { "" };
                let line = format!("{what}, {range_name}, {direction}{how}");
                if only.as_ref().is_some_and(|only| *only != line) {
                    continue;
                }
                let scan = || {
                    NameScan::new(
                        Arc::new(Published::new(Arc::clone(&levels))),
                        range.clone(),
                        u64::MAX,
                    )
                };
                let (mut least, mut found) = (f64::MAX, 0);
                for _ in 0..rounds {
                    let start = Instant::now();
                    found = match (lent, backwards) {
                        (true, _) => count_lent(scan(), backwards),
                        (false, true) => count(scan().rev()),
                        (false, false) => count(scan()),
                    };
                    least = least.min(start.elapsed().as_secs_f64());
                }
                println!(
                    "{line}: {:.1} ns a pointer, {:.1} million a second ({found} pointers)",
                    least * 1e9 / found as f64,
                    found as f64 / least / 1e6,
                );
            }
        }
    }
}
