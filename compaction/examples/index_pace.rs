//! What a table of the digest index costs, and how fast it answers:
//! `cargo run --release -p pinstone-compaction --example index_pace`.
//!
//! A million rows, all pages in the cache; single figures of one thread, which swing on a busy machine.

#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "an example that measures")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use pinstone_compaction::TableId;
use pinstone_compaction::table::index::{IndexBuilder, IndexKey, IndexTable, Row};
use pinstone_compaction::table::shared::Tables;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, Epoch, Ordinal, StoreId, TableKind};

const ROWS: u64 = 1 << 20;

fn key(number: u64) -> IndexKey {
    IndexKey::of(Digest::of(&number.to_le_bytes()).as_bytes(), 56)
}

fn main() {
    let disk = SimDisk::new(1) as Arc<dyn Disk>;
    let tables = Tables::new(disk, StoreId([7; 16]), 4, 64 << 20);
    let mut rows: Vec<Row> = (0..ROWS).map(|n| Row::new(key(n), u128::from(n))).collect();
    rows.sort_unstable();
    let id = TableId { table: TableKind::Index, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
    let start = Instant::now();
    let mut builder = IndexBuilder::create(&tables, id, Some(9)).unwrap();
    rows.iter().for_each(|row| builder.push(*row).unwrap());
    let meta = builder.finish(Vec::new()).unwrap();
    let each = |start: Instant| start.elapsed().as_nanos() as f64 / ROWS as f64;
    println!(
        "written: {:.0} ns a row, {:.2} bytes a row",
        each(start),
        meta.file_bytes as f64 / ROWS as f64
    );
    let table = Arc::new(IndexTable::open(&tables, meta).unwrap());
    let start = Instant::now();
    assert_eq!(table.rows().map(Result::unwrap).count() as u64, ROWS);
    println!("read through: {:.0} ns a row", each(start));
    for (what, from) in [("hits, first", 0), ("hits, cached", 0), ("misses", ROWS)] {
        let keys: Vec<IndexKey> = (from..from + ROWS).map(key).collect();
        let mut found = 0u64;
        let start = Instant::now();
        for key in keys {
            let counted = table.find(key, |_| {
                found += 1;
                ControlFlow::Continue(())
            });
            assert!(counted.is_ok());
        }
        println!("{what}: {:.0} ns each, {found} rows found", each(start));
    }
    let figures = tables.figures();
    println!(
        "resident: {:.2} bytes a row; {figures:?}",
        figures.resident_bytes as f64 / ROWS as f64
    );
}
