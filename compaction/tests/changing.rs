//! Tables whose bytes change under who reads them, as a device may change what it is asked for again; and
//! tables whose checksums agree, and whose entries are not in order. What was written is found, or the damage
//! is named: nothing is called absent, and nothing panics.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_types, reason = "a table is damaged from outside")]

mod common;

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use common::{STORE_ID, key_of_bits, tables};
use pinstone_compaction::merge::{Chosen, NameEntry, Readers, Sieve, Versions};
use pinstone_compaction::plan::Plan;
use pinstone_compaction::run::{Index, Merged, Names, Rewrite, RunOptions, Tree};
use pinstone_compaction::table::container::UNITS_START;
use pinstone_compaction::table::index::{IndexBuilder, IndexTable, PAGE_BYTES, PAGE_ROWS, Row};
use pinstone_compaction::table::name_block::{Block, BlockBuilder};
use pinstone_compaction::table::names::{NameBuilder, NameTable};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableError, TableId, TableMeta};
use pinstone_disk::checksum::Seed;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Epoch, IoOptions, Ordinal, StdDisk, TableKind};

const PAGES: usize = 20;

fn id(table: TableKind) -> TableId {
    TableId { table, ordinal: Ordinal(3), epoch: Epoch(2) }
}

/// Rows of some pages, of whose keys only some bits count.
fn rows(bits: u32) -> Vec<Row> {
    let row = |number: u64| Row::new(key_of_bits(number, bits), u128::from(number));
    let mut rows: Vec<Row> = (0..(PAGES * PAGE_ROWS) as u64).map(row).collect();
    rows.sort_unstable();
    rows
}

fn write(tables: &Arc<Tables>, rows: &[Row], with_filters: bool) -> TableMeta {
    let filter_seed = with_filters.then_some(5);
    let mut builder = IndexBuilder::create(tables, id(TableKind::Index), filter_seed).unwrap();
    rows.iter().for_each(|row| builder.push(*row).unwrap());
    builder.finish(Vec::new()).unwrap()
}

/// A mapped table in a directory of the machine, and its file for who changes it.
struct Mapped {
    _directory: tempfile::TempDir,
    tables: Arc<Tables>,
    meta: TableMeta,
    table: Arc<IndexTable>,
    file: File,
}

fn mapped(rows: &[Row], with_filters: bool) -> Mapped {
    let directory = tempfile::tempdir().unwrap();
    let io = IoOptions { mmap: Some(true), ..IoOptions::default() };
    let tables = Tables::new(StdDisk::open(directory.path(), io).unwrap(), STORE_ID, 4, 1 << 20);
    let meta = write(&tables, rows, with_filters);
    let table = Arc::new(IndexTable::open(&tables, meta.clone()).unwrap());
    let path = directory.path().join(meta.id.file_name().to_string());
    let file = File::options().read(true).write(true).open(path).unwrap();
    Mapped { _directory: directory, tables, meta, table, file }
}

/// Where a row stands in its table's file.
fn row_offset(at: usize) -> u64 {
    UNITS_START + (at / PAGE_ROWS * PAGE_BYTES + 16 * (1 + at % PAGE_ROWS)) as u64
}

fn find(table: &IndexTable, row: Row) -> Result<bool, TableError> {
    let is_it =
        |found| if found == row { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    Ok(table.find(row.key(), is_it)?.is_break())
}

/// Rewrites a table in steps; `between` comes after the first.
fn rewrite<T: Tree, S: Sieve<T::Entry, TableError> + Send + 'static>(
    tables: &Arc<Tables>,
    meta: &TableMeta,
    sieve: impl FnOnce(Merged<T>) -> S,
    between: impl FnOnce(),
) -> Result<Vec<TableMeta>, TableError> {
    let plan = Plan {
        source: 0,
        target: 6,
        source_tables: vec![Arc::new(meta.clone())],
        target_tables: Vec::new(),
        is_move: false,
        is_bottom: true,
    };
    let mut next = 100;
    let next_id = Box::new(move || {
        next += 1;
        Some(TableId { table: T::KIND, ordinal: Ordinal(next), epoch: Epoch(2) })
    });
    let options = RunOptions { table_bytes: 1 << 20, filter_seed: Some(5), next_id };
    let table = Arc::new(T::open(tables, meta.clone())?);
    let mut rewrite = Rewrite::<T>::new(tables, plan, &[table], options, Vec::new(), sieve);
    let stepped = (|| {
        let mut is_more = rewrite.step(100)?;
        between();
        while is_more {
            is_more = rewrite.step(100)?;
        }
        Ok(())
    })();
    if let Err(error) = stepped {
        rewrite.abandon();
        return Err(error);
    }
    Ok(rewrite.finish()?.added.into_iter().map(|(_, meta)| meta).collect())
}

fn all_rows(merged: Merged<Index>) -> impl Sieve<Row, TableError> + Send {
    Chosen::new(merged, |_: &Row| true)
}

#[test]
fn filters_that_change_after_they_were_read_hide_nothing() {
    let rows = rows(56);
    let Mapped { table, file, .. } = &mapped(&rows, true);
    assert!(rows.iter().all(|row| find(table, *row).unwrap()));
    let footer = table.file().footer();
    let len = usize::try_from(footer.filters_end - footer.units_end).unwrap();
    file.write_all_at(&vec![0; len], footer.units_end).unwrap();
    assert!(rows.iter().all(|row| find(table, *row).unwrap()));
}

#[test]
fn a_row_that_changes_while_a_mapped_table_is_rewritten_is_not_lost() {
    let rows = rows(56);
    for at in [0, PAGE_ROWS, 3 * PAGE_ROWS + 7, rows.len() - 1] {
        for with in [[0; 16], [0xff; 16], [0x55; 16]] {
            let Mapped { tables, meta, file, .. } = &mapped(&rows, false);
            let change = || file.write_all_at(&with, row_offset(at)).unwrap();
            let Ok(made) = rewrite::<Index, _>(tables, meta, all_rows, change) else { continue };
            let open = |meta| IndexTable::open(tables, meta).unwrap();
            let made: Vec<_> = made.into_iter().map(open).collect();
            let is_there = |row: &Row| made.iter().any(|table| find(table, *row).unwrap());
            assert!(rows.iter().all(is_there), "row {at}");
        }
    }
}

#[test]
fn a_page_that_is_right_again_after_it_was_searched_gives_what_it_has() {
    // Keys of few bits: some rows have the same.
    let rows = rows(10);
    let is_first = |at: &usize| rows[at - 1].key() < rows[*at].key();
    let at = (5 * PAGE_ROWS + 1..6 * PAGE_ROWS - 20).find(is_first).unwrap();
    let row = rows[at];
    let same: Vec<Row> = rows.iter().filter(|other| other.key() == row.key()).copied().collect();
    assert!(same.len() > 1);
    let Mapped { table, file, .. } = &mapped(&rows, false);
    // The first of them comes back as the row before it, and right once the page was searched.
    let (mut right, mut before) = ([0; 16], [0; 16]);
    file.read_exact_at(&mut right, row_offset(at)).unwrap();
    file.read_exact_at(&mut before, row_offset(at - 1)).unwrap();
    file.write_all_at(&before, row_offset(at)).unwrap();
    let mut found = Vec::new();
    let looked = table.find(row.key(), |found_row| {
        file.write_all_at(&right, row_offset(at)).unwrap();
        found.push(found_row);
        ControlFlow::Continue(())
    });
    assert!(looked.unwrap().is_continue());
    found.sort_unstable();
    assert_eq!(found, same, "all stood there when the page was checked, and each is given once");
}

/// A table whose first page is forged: other bytes, and a checksum that agrees with them.
fn with_forged_page(forge: impl FnOnce(&mut [u8])) -> (Arc<SimDisk>, TableMeta) {
    let disk = SimDisk::new(1);
    let (tables, rows) = (tables(&disk), rows(56));
    let meta = write(&tables, &rows, false);
    let seed = IndexTable::open(&tables, meta.clone()).unwrap().file().seed();
    let (name, start) = (meta.id.file_name().to_string(), UNITS_START);
    disk.corrupt(&name, start, |bytes| {
        let page = &mut bytes[..PAGE_BYTES];
        forge(page);
        let crc = seed.at(start, &[&page[4..]]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
    });
    (disk, meta)
}

#[test]
fn rows_out_of_order_and_beyond_what_the_footer_tells_are_damage() {
    let forgeries: [fn(&mut [u8]); 4] = [
        |page| {
            let (first, second) = page[16..48].split_at_mut(16);
            first.swap_with_slice(second);
        },
        |page| page.copy_within(16..32, 32),
        |page| page[16..32].fill(0),
        |page| page[PAGE_BYTES - 16..].fill(0xff),
    ];
    for (number, forge) in forgeries.into_iter().enumerate() {
        let (disk, meta) = with_forged_page(forge);
        let damage = rewrite::<Index, _>(&tables(&disk), &meta, all_rows, || {});
        assert!(matches!(damage, Err(TableError::Format(_))), "{number}: {damage:?}");
    }
    let (disk, meta) = with_forged_page(|_| {});
    rewrite::<Index, _>(&tables(&disk), &meta, all_rows, || {}).unwrap();
}

/// A table of names of which each block is made anew, its entries as `forge` has them, unless that is not as
/// long.
fn rewritten(forge: impl Fn(usize, NameEntry) -> NameEntry) -> Result<Vec<TableMeta>, TableError> {
    let disk = SimDisk::new(1);
    let shared = tables(&disk);
    let mut builder = NameBuilder::create(&shared, id(TableKind::Names), None).unwrap();
    for number in 0..400u64 {
        let name = format!("{number:05}-name");
        // The first name's versions go over some blocks.
        let versions = if number == 0 { 200 } else { 1 };
        for version in (0..versions).rev() {
            let to = Digest::of(&number.to_le_bytes());
            builder.push(name.as_bytes(), 1000 + version, Some(&to)).unwrap();
        }
    }
    let meta = builder.finish(Vec::new()).unwrap();
    let table = NameTable::open(&shared, meta.clone()).unwrap();
    let (seed, end) = (table.file().seed(), table.file().footer().units_end);
    let name = meta.id.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let (mut start, mut nth) = (UNITS_START, 0);
    while start < end {
        let (at, len) = (usize::try_from(start).unwrap(), block_bytes(&bytes, start, seed));
        let block = Block::open(bytes[at..at + len].to_vec().into(), seed, start);
        let block = Arc::new(block.unwrap());
        let mut builder = BlockBuilder::new();
        let mut cursor = block.first();
        while let Some(entry) = cursor.keep() {
            let entry = forge(nth, entry);
            builder.push(&entry.name, entry.commit, entry.to.as_ref());
            cursor.forward();
        }
        let forged = builder.finish(seed, start);
        if forged.len() == len {
            disk.corrupt(&name, start, |bytes| bytes[..len].copy_from_slice(&forged));
        }
        (start, nth) = (start + len as u64, nth + 1);
    }
    assert!(nth > 5, "{nth} blocks");
    let versions = |merged| Versions::new(merged, Readers::new(Vec::new(), u64::MAX), false);
    rewrite::<Names, _>(&tables(&disk), &meta, versions, || {})
}

#[test]
fn names_out_of_order_and_beyond_what_the_footer_tells_are_damage() {
    let renamed = |entry: NameEntry, first: u8| {
        let name = [&[first], &entry.name[1..]].concat().into();
        NameEntry { name, ..entry }
    };
    rewritten(|_, entry| entry).unwrap();
    for nth in 0..4 {
        for first in [b'!', b'9'] {
            let forge = |at, entry| if at == nth { renamed(entry, first) } else { entry };
            let damage = rewritten(forge);
            assert!(matches!(damage, Err(TableError::Format(_))), "{nth} {first}: {damage:?}");
        }
    }
    // The second block says of the first name what the first block said.
    let again = |at, entry: NameEntry| match at {
        1 => NameEntry { commit: entry.commit + 60, ..entry },
        _ => entry,
    };
    let damage = rewritten(again);
    assert!(matches!(damage, Err(TableError::Format(_))), "{damage:?}");
}

/// Bytes of the block that begins there.
fn block_bytes(bytes: &[u8], start: u64, seed: Seed) -> usize {
    let at = usize::try_from(start).unwrap();
    let is_block = |len: &usize| {
        let block = bytes[at..at + len].to_vec();
        Block::open(block.into(), seed, start).is_ok()
    };
    (100..8000).find(is_block).unwrap()
}
