//! Tables of the digest index: what was written is found, in whatever state the file is, or the
//! damage is named.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::disallowed_types, reason = "a table is damaged from outside")]

mod common;

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use common::{STORE_ID, key, key_of_bits, names, tables};
use pinstone_compaction::table::container::UNITS_START;
use pinstone_compaction::table::footer::Replaced;
use pinstone_compaction::table::index::{
    FILTER_PAGES, IndexBuilder, IndexKey, IndexTable, PAGE_BYTES, PAGE_ROWS, Row,
};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableError, TableId, TableMeta};
use pinstone_disk::sim::{Fault, SimDisk};
use pinstone_disk::{
    Disk, Epoch, IoOptions, Ordinal, StdDisk, StoreId, TRAILER_BYTES, TableKind, Trailer,
};
use proptest::prelude::*;

const ID: TableId = TableId { table: TableKind::Index, ordinal: Ordinal(3), epoch: Epoch(2) };

/// Rows of the first `count` numbers' digests, of whose keys only some bits count.
fn rows(count: u64, bits: u32) -> Vec<Row> {
    let row = |number: u64| Row::new(key_of_bits(number, bits), u128::from(number));
    let mut rows: Vec<Row> = (0..count).map(row).collect();
    rows.sort_unstable();
    rows
}

fn write(tables: &Arc<Tables>, rows: &[Row], with_filters: bool) -> TableMeta {
    let mut builder = IndexBuilder::create(tables, ID, with_filters.then_some(5)).unwrap();
    for row in rows {
        builder.push(*row).unwrap();
    }
    builder.finish(Vec::new()).unwrap()
}

fn find(table: &IndexTable, key: IndexKey) -> Result<Vec<Row>, TableError> {
    let mut found = Vec::new();
    let all = table.find(key, |row| {
        found.push(row);
        ControlFlow::Continue(())
    })?;
    assert!(all.is_continue());
    Ok(found)
}

/// What a look-up should find.
fn wanted(rows: &[Row], key: IndexKey) -> &[Row] {
    let start = rows.partition_point(|row| row.key() < key);
    let end = rows.partition_point(|row| row.key() <= key);
    &rows[start..end]
}

fn finds_all(table: &IndexTable, rows: &[Row], absent: &[Row]) {
    for row in rows.iter().chain(absent) {
        assert_eq!(find(table, row.key()).unwrap(), wanted(rows, row.key()));
    }
}

#[test]
fn every_row_is_found_and_no_other_key() {
    let page = PAGE_ROWS as u64;
    let counts = [1, 2, page - 1, page, page + 1, 10_000, (FILTER_PAGES as u64 + 1) * page + 7];
    for (count, with_filters) in
        counts.into_iter().flat_map(|count| [(count, true), (count, false)])
    {
        let disk = SimDisk::new(1);
        let tables = tables(&disk);
        let rows = rows(count, 56);
        let meta = write(&tables, &rows, with_filters);
        let file_bytes = disk.file_bytes(&ID.file_name().to_string()).unwrap().len();
        assert_eq!((meta.entry_count, meta.file_bytes), (count, file_bytes as u64));
        let table = Arc::new(IndexTable::open(&tables, meta).unwrap());
        let mut absent = self::rows(count + 1000, 56);
        absent.retain(|row| row.payload() >= u128::from(count));
        finds_all(&table, &rows, &absent);
        let read: Vec<Row> = table.rows().map(Result::unwrap).collect();
        assert_eq!(read, rows);
        let mut checked = Vec::new();
        table.check(|row| checked.push(row)).unwrap();
        assert_eq!(checked, rows);
    }
}

#[test]
fn a_look_up_that_a_filter_rules_out_is_not_due_and_counts_as_made() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let rows = rows(100_000, 56);
    let table = Arc::new(IndexTable::open(&tables, write(&tables, &rows, true)).unwrap());
    let numbers: Vec<u64> = (99_500..100_500).collect();
    let look_ups = numbers.iter().map(|number| (&table, key(*number)));
    let due = IndexTable::prefetch(&tables, look_ups);
    assert_eq!(due.len(), numbers.len());
    let due: Vec<_> = due.into_iter().map(Result::unwrap).collect();
    let ruled_out = due.iter().filter(|pages| pages.is_none()).count();
    assert!((490..=500).contains(&ruled_out), "{ruled_out}");
    let figures = table.figures();
    assert_eq!((figures.asked, figures.filtered), (ruled_out as u64, ruled_out as u64));
    for (number, pages) in numbers.iter().zip(due) {
        let found = find(&table, key(*number)).unwrap();
        assert_eq!(found, wanted(&rows, key(*number)));
        let mut in_pages = Vec::new();
        if let Some(pages) = pages {
            let each = |row| {
                in_pages.push(row);
                ControlFlow::Continue(())
            };
            assert!(table.find_in(pages, key(*number), each).unwrap().is_continue());
        }
        assert_eq!(in_pages, found, "{number}");
    }
}

#[test]
fn a_filter_spares_nearly_every_read_for_absent_keys() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let rows = rows(100_000, 56);
    let table = IndexTable::open(&tables, write(&tables, &rows, true)).unwrap();
    let before = tables.figures().unit_asks;
    for number in 200_000..220_000u64 {
        assert_eq!(find(&table, key(number)).unwrap(), []);
    }
    let asks = tables.figures().unit_asks - before;
    assert!(asks < 20_000 / 100, "{asks} pages were read");
    let figures = table.figures();
    assert_eq!((figures.asked, figures.found), (20_000, 0));
    assert_eq!(figures.filtered + asks, 20_000);
    assert_eq!(figures.unit_reads, tables.figures().unit_reads);
    assert!((1..=asks).contains(&figures.unit_reads));
    let resident_bytes = tables.figures().resident_bytes;
    assert!(resident_bytes > 0 && resident_bytes == table.file().resident_bytes());
    drop(table);
    assert_eq!(tables.figures().resident_bytes, 0);
}

/// A table of these rows in a directory of the machine, mapped.
fn mapped(rows: &[Row]) -> (tempfile::TempDir, Arc<Tables>, Arc<IndexTable>) {
    let directory = tempfile::tempdir().unwrap();
    let io = IoOptions { mmap: Some(true), ..IoOptions::default() };
    let disk = StdDisk::open(directory.path(), io).unwrap();
    let tables = Tables::new(disk, STORE_ID, 4, 1 << 20);
    let table = IndexTable::open(&tables, write(&tables, rows, false)).unwrap();
    (directory, tables, Arc::new(table))
}

#[test]
fn a_mapped_table_finds_the_same_and_caches_nothing() {
    let rows = rows(20 * PAGE_ROWS as u64 + 3, 56);
    let (_directory, tables, table) = mapped(&rows);
    let mut absent = self::rows(9000, 56);
    absent.retain(|row| row.payload() >= rows.len() as u128);
    finds_all(&table, &rows, &absent);
    let figures = tables.figures();
    assert_eq!((figures.unit_asks, figures.cache_bytes), (0, 0));
    // But for the last one, which may have come with the footer.
    assert!((20..=21).contains(&table.figures().unit_reads), "each page is fetched once");
    assert!(tables.disk().mapped().mapped_bytes > 21 * PAGE_BYTES as u64);
    let read: Vec<Row> = table.rows().map(Result::unwrap).collect();
    assert_eq!(read, rows);
    table.check(|_| ()).unwrap();
}

#[test]
fn what_a_mapped_page_lost_since_it_was_read_is_damage_and_not_absent() {
    let rows = rows(3 * PAGE_ROWS as u64, 56);
    for at in [0, 1, 100, PAGE_ROWS - 1] {
        let (directory, _tables, table) = mapped(&rows);
        finds_all(&table, &rows, &[]);
        // Somebody, or the device, changes the page beneath the map.
        let path = directory.path().join(ID.file_name().to_string());
        let start = UNITS_START + PAGE_BYTES as u64 + 16 * (1 + at as u64);
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0x55; 7], start).unwrap();
        let page = &rows[PAGE_ROWS..2 * PAGE_ROWS];
        for (number, row) in page.iter().enumerate() {
            match table.find(row.key(), |found| {
                assert_eq!(found, *row);
                ControlFlow::Break(())
            }) {
                Ok(flow) => assert!(flow.is_break() && number != at, "row {number} is absent"),
                Err(error) => {
                    assert_eq!(
                        error.to_string(),
                        format!(
                            "{} is corrupt at offset {}: a checksum does not match",
                            ID.file_name(),
                            UNITS_START + PAGE_BYTES as u64
                        )
                    );
                }
            }
            // Who wants all rows has the page checked.
            assert!(find(&table, row.key()).is_err());
        }
        // But for a key that may end the page before.
        finds_all(&table, &rows[2 * PAGE_ROWS + 1..], &[]);
    }
}

#[test]
fn the_cache_has_what_directories_and_filters_leave() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let rows = rows(200 * PAGE_ROWS as u64, 56);
    let meta = write(&tables, &rows, false);
    let table = IndexTable::open(&tables, meta.clone()).unwrap();
    let reads_of_all = || {
        let before = table.figures().unit_reads;
        let one_a_page = rows.iter().skip(7).step_by(PAGE_ROWS);
        one_a_page.for_each(|row| drop(find(&table, row.key()).unwrap()));
        (table.figures().unit_reads - before, tables.figures().cache_bytes)
    };
    // All 200 pages go into the megabyte that it was made for.
    assert_eq!(reads_of_all().0, 200);
    assert_eq!(reads_of_all().0, 0);
    for cache_bytes in [400 << 10, 100 << 10, 0, 1 << 20, 700 << 10] {
        let other = IndexTable::open(&tables, meta.clone()).unwrap();
        other.file().note_resident((1 << 20) - cache_bytes);
        let cache_bytes = cache_bytes as u64;
        assert!(tables.figures().cache_bytes <= cache_bytes, "at once");
        let (reads, cached_bytes) = reads_of_all();
        assert!(cached_bytes <= cache_bytes, "{cached_bytes} of {cache_bytes}");
        assert!(cached_bytes >= cache_bytes * 3 / 4, "{cached_bytes} of {cache_bytes}");
        assert!(reads > 0 && (cache_bytes > 0 || reads == 200), "{reads} with {cache_bytes}");
    }
    // Less than a step more or less leaves the cache alone.
    let before = reads_of_all().1;
    table.file().note_resident(1);
    assert_eq!(tables.figures().cache_bytes, before);
}

#[test]
fn keys_that_collide_by_the_thousand_are_all_found() {
    for bits in [1, 3, 8] {
        let disk = SimDisk::new(1);
        let tables = tables(&disk);
        let mut rows = rows(5000, bits);
        // One of the keys is absent.
        let gone = rows[2500].key();
        rows.retain(|row| row.key() != gone);
        let table = IndexTable::open(&tables, write(&tables, &rows, true)).unwrap();
        let mut keys: Vec<Row> = rows.clone();
        keys.dedup_by_key(|row| row.key());
        finds_all(&table, &rows, &keys);
        assert_eq!(find(&table, gone).unwrap(), []);
        // A caller that has enough is not told more.
        let mut told = 0;
        let ended = table.find(rows[0].key(), |_| {
            told += 1;
            if told == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(ended.unwrap().is_break() && told == 3);
    }
}

#[test]
fn every_changed_byte_is_found_and_no_look_up_lies() {
    let disk = SimDisk::new(1);
    let rows = rows(1000, 56);
    let meta = write(&tables(&disk), &rows, true);
    let name = ID.file_name().to_string();
    let (mut refused, mut answered) = (0, 0);
    for offset in (0..meta.file_bytes).step_by(7).chain(meta.file_bytes - 400..meta.file_bytes) {
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 0x10);
        let tables = tables(&disk);
        match IndexTable::open(&tables, meta.clone()).map(Arc::new) {
            Err(error) => refused += names(&error, &name),
            Ok(table) => {
                for row in rows.iter().step_by(50) {
                    match find(&table, row.key()) {
                        Ok(found) => assert_eq!(found, [*row], "the byte at {offset} changed"),
                        Err(error) => refused += names(&error, &name),
                    }
                    answered += 1;
                }
                names(&table.check(|_| {}).unwrap_err(), &name);
            }
        }
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 0x10);
    }
    assert!(refused > 500 && answered > 10_000, "{refused} {answered}");
}

#[test]
fn a_file_that_is_missing_cut_or_another_table_is_refused_by_name() {
    let disk = SimDisk::new(1);
    let rows = rows(3000, 56);
    let meta = write(&tables(&disk), &rows, true);
    let name = ID.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let refused = |meta: &TableMeta| {
        let error = IndexTable::open(&tables(&disk), meta.clone()).unwrap_err();
        names(&error, &name);
        error.to_string()
    };
    for len in [0, 1, 63, 64, 4096, bytes.len() - 1, bytes.len() + 1] {
        let mut cut = bytes.clone();
        cut.resize(len, 0);
        disk.put_file(&name, cut);
        assert!(refused(&meta).contains("bytes, the root says"));
    }
    disk.put_file(&name, &bytes);
    let other = TableMeta { footer_hash: [1; 32], ..meta.clone() };
    assert!(refused(&other).contains("not the table that the root names"));
    let other = TableMeta { entry_count: 2999, ..meta.clone() };
    assert!(refused(&other).contains("does not say what the root says"));
    disk.remove_file(&name);
    assert!(refused(&meta).contains("is not there"));
    // A table of another store with the same name and bytes, its root's word taken.
    disk.put_file(&name, &bytes);
    let stranger = Tables::new(Arc::clone(&disk) as Arc<dyn Disk>, StoreId([8; 16]), 4, 1 << 20);
    names(&IndexTable::open(&stranger, meta).unwrap_err(), &name);
}

/// Opens the table in these bytes once its footer was changed, and everything that vouches for that.
fn open_forged(
    disk: &Arc<SimDisk>,
    meta: &TableMeta,
    bytes: &[u8],
    change: impl FnOnce(&mut [u8]),
) -> Result<IndexTable, TableError> {
    let trailer = Trailer::decode(&ID.file_name(), bytes.len() as u64, bytes).unwrap();
    let start = usize::try_from(trailer.footer_offset_bytes).unwrap();
    let mut footer = bytes[start..bytes.len() - TRAILER_BYTES].to_vec();
    change(&mut footer);
    let trailer = Trailer::of(&footer, start as u64);
    let forged = [&bytes[..start], &footer, &trailer.encode()].concat();
    disk.put_file(&ID.file_name().to_string(), forged);
    let meta = TableMeta { footer_hash: trailer.footer_hash, ..meta.clone() };
    IndexTable::open(&tables(disk), meta)
}

#[test]
fn a_footer_whose_counts_do_not_agree_is_damage() {
    let disk = SimDisk::new(1);
    let rows = rows(3000, 56);
    let meta = write(&tables(&disk), &rows, true);
    let name = ID.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let pages = IndexTable::open(&tables(&disk), meta.clone()).unwrap().file().footer().unit_count;
    for unit_count in [0, pages - 1, pages + 1, (1 << 52) - 1, 1 << 52, u64::MAX] {
        let opened = open_forged(&disk, &meta, &bytes, |footer| {
            footer[56..64].copy_from_slice(&unit_count.to_le_bytes());
        });
        let said = opened.unwrap_err().to_string();
        assert!(said.contains(&name) && said.contains("counts do not agree"), "{said}");
    }
}

#[test]
fn a_footer_of_an_unknown_format_is_refused_by_name() {
    let disk = SimDisk::new(1);
    let rows = rows(3000, 56);
    let meta = write(&tables(&disk), &rows, true);
    let name = ID.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    for (at, byte, wanted) in [
        (12, 1, None),
        (8, 9, Some("version 9")),
        (11, 2, Some("digest kind 2")),
        (16, 4, Some("0x4 (read-only compatible)")),
        (20, 1, Some("0x1 (incompatible)")),
    ] {
        match (open_forged(&disk, &meta, &bytes, |footer| footer[at] = byte), wanted) {
            (Ok(table), None) => finds_all(&table, &rows, &[]),
            (Err(error), Some(what)) => {
                let said = error.to_string();
                assert!(said.starts_with(&format!("{name} has an unsupported format")), "{said}");
                assert!(said.contains(what), "{said}");
            }
            (opened, wanted) => panic!("byte {at}: {opened:?}, not {wanted:?}"),
        }
    }
}

#[test]
fn filters_that_have_no_room_in_memory_are_done_without() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let rows = rows(2000, 56);
    let meta = write(&tables, &rows[..1000], true);
    let table = IndexTable::open(&tables, meta).unwrap();
    tables.set_resident_bytes_max(1);
    // The directory is needed in any case; the filter is not read.
    finds_all(&table, &rows[..1000], &rows[1000..]);
    let figures = tables.figures();
    assert!(figures.filters_left_out > 0 && table.file().figures().filtered == 0, "{figures:?}");
    tables.set_resident_bytes_max(u64::MAX);
    finds_all(&table, &rows[..1000], &rows[1000..]);
    assert!(tables.figures().resident_bytes > figures.resident_bytes);
    assert!(table.file().figures().filtered > 0);
}

#[test]
fn a_damaged_directory_is_made_again_and_a_damaged_filter_done_without() {
    let disk = SimDisk::new(1);
    let rows = rows(5000, 56);
    let meta = write(&tables(&disk), &rows, true);
    let name = ID.file_name().to_string();
    let units_end = 4096 + 5000u64.div_ceil(PAGE_ROWS as u64) * PAGE_BYTES as u64;
    let sound = IndexTable::open(&tables(&disk), meta.clone()).unwrap();
    let directory_end = sound.file().footer().directory_end;
    finds_all(&sound, &rows, &[]);
    for offset in [units_end, units_end + 4, units_end + 20, meta.file_bytes - 1000] {
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 1);
        let tables = tables(&disk);
        let table = Arc::new(IndexTable::open(&tables, meta.clone()).unwrap());
        finds_all(&table, &rows, &self::rows(100, 55));
        assert!(table.check(|_| {}).is_err());
        let figures = tables.figures();
        let wanted = if offset < directory_end { (1, 0) } else { (0, 1) };
        assert_eq!((figures.directories_rebuilt, figures.filters_ignored), wanted);
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 1);
    }
}

#[test]
fn what_a_table_replaces_stands_in_its_footer() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let replaced: Vec<Replaced> = (0..600)
        .map(|number| Replaced {
            ordinal: Ordinal(number),
            epoch: Epoch(1),
            first: vec![1; 7].into(),
            until: (number % 2 == 0).then(|| vec![9; 7].into()),
        })
        .collect();
    let mut builder = IndexBuilder::create(&tables, ID, Some(5)).unwrap();
    builder.push(rows(1, 56)[0]).unwrap();
    let meta = builder.finish(replaced.clone()).unwrap();
    let table = IndexTable::open(&tables, meta).unwrap();
    assert_eq!(table.file().replaced().unwrap(), replaced);
}

#[test]
fn a_doomed_table_goes_with_its_last_reader() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let rows = rows(2000, 56);
    let table = Arc::new(IndexTable::open(&tables, write(&tables, &rows, true)).unwrap());
    let mut reader = table.rows();
    assert_eq!(reader.next().unwrap().unwrap(), rows[0]);
    table.file().doom();
    drop(table);
    assert_eq!(reader.by_ref().count(), 1999, "the reader has it still");
    assert_eq!(tables.take_removed(), []);
    drop(reader);
    assert_eq!((tables.take_removed(), disk.names()), (vec![ID], Vec::new()));
    assert_eq!(tables.take_removed(), [], "it was told");
}

#[test]
fn a_file_that_could_not_be_removed_is_told_of_once_it_is() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let table = IndexTable::open(&tables, write(&tables, &rows(10, 56), true)).unwrap();
    table.file().doom();
    disk.fail_at(disk.op_count() + 1, Fault::Eio);
    drop(table);
    disk.fail_at(disk.op_count() + 1, Fault::Eio);
    assert_eq!((tables.take_removed(), disk.names().len()), (Vec::new(), 1));
    assert_eq!((tables.take_removed(), disk.names()), (vec![ID], Vec::new()));
}

#[test]
fn what_is_given_up_leaves_no_file() {
    let disk = SimDisk::new(1);
    let tables = tables(&disk);
    let mut builder = IndexBuilder::create(&tables, ID, Some(5)).unwrap();
    builder.push(rows(1, 56)[0]).unwrap();
    builder.abandon();
    assert!(disk.names().is_empty());
    // Nor does what fails.
    disk.set_capacity(Some(100 << 10));
    let mut builder = IndexBuilder::create(&tables, ID, Some(5)).unwrap();
    for row in rows(10_000, 56) {
        builder.push(row).unwrap();
    }
    let error = builder.finish(Vec::new()).unwrap_err();
    assert!(matches!(&error, TableError::Disk(error) if error.is_no_space()), "{error}");
    assert!(disk.names().is_empty());
}

/// A checksum that agrees hides nothing of what a writer leaves zero.
#[test]
fn what_should_be_zero_is_refused_at_its_place() {
    let disk = SimDisk::new(1);
    let rows = rows(300, 56);
    let meta = write(&tables(&disk), &rows, true);
    let name = ID.file_name().to_string();
    let seed = ID.header(STORE_ID).seed();
    let bytes = disk.file_bytes(&name).unwrap();
    let footer = IndexTable::open(&tables(&disk), meta.clone()).unwrap().file().footer().clone();
    let part = |range: std::ops::Range<u64>| (range.start, usize::try_from(range.end).unwrap());
    let second_page = part(8192..12_288);
    let directory = part(footer.units_end..footer.directory_end);
    let lies = [(second_page, 6), (second_page, 15), (second_page, 16 + 45 * 16)];
    for ((start, end), at) in lies.into_iter().chain([(second_page, 4095), (directory, 15)]) {
        let mut lying = bytes.clone();
        let from = usize::try_from(start).unwrap();
        lying[from + at] = 1;
        let crc = seed.at(start, &[&lying[from + 4..end]]);
        lying[from..from + 4].copy_from_slice(&crc.to_le_bytes());
        disk.put_file(&name, lying);
        let tables = tables(&disk);
        let table = Arc::new(IndexTable::open(&tables, meta.clone()).unwrap());
        let wanted = format!("{name} is corrupt at offset {}: zeros", start + at as u64);
        assert_eq!(table.check(|_| {}).unwrap_err().to_string(), wanted);
        let found = find(&table, rows[299].key());
        if (start, end) == directory {
            assert_eq!(found.unwrap(), [rows[299]]);
            assert_eq!(tables.figures().directories_rebuilt, 1);
        } else {
            assert_eq!(found.unwrap_err().to_string(), wanted);
            assert_eq!(table.rows().find_map(Result::err).unwrap().to_string(), wanted);
        }
    }
    // Before the first unit nothing is read but by a check.
    for (at, told) in [(50, 60), (64, 64), (4095, 4095)] {
        let mut lying = bytes.clone();
        lying[at] = 1;
        disk.put_file(&name, lying);
        let table = Arc::new(IndexTable::open(&tables(&disk), meta.clone()).unwrap());
        assert_eq!(find(&table, rows[299].key()).unwrap(), [rows[299]]);
        let error = table.check(|_| {}).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name} is corrupt at offset {told}: ")), "{error}");
    }
}

/// Their checksums agree, and they are not the table's.
#[test]
fn a_directory_or_a_filter_of_another_table_is_found_by_check() {
    let disk = SimDisk::new(1);
    let name = ID.file_name().to_string();
    let mut made = [5, 6].map(|seed| {
        let tables = tables(&disk);
        let mut builder = IndexBuilder::create(&tables, ID, Some(seed)).unwrap();
        rows(5000, 56).into_iter().for_each(|row| builder.push(row).unwrap());
        let meta = builder.finish(Vec::new()).unwrap();
        let footer = IndexTable::open(&tables, meta.clone()).unwrap().file().footer().clone();
        let bytes = disk.file_bytes(&name).unwrap();
        disk.remove_file(&name);
        (meta, footer, bytes)
    });
    let (_, other_footer, other) = made[1].clone();
    let (meta, footer, bytes) = &mut made[0];
    let filters = usize::try_from(footer.directory_end).unwrap()
        ..usize::try_from(footer.filters_end).unwrap();
    assert_eq!(footer.units_hash, other_footer.units_hash);
    assert_eq!(footer.filters_end, other_footer.filters_end, "filters of the same length");
    assert_ne!(bytes[filters.clone()], other[filters.clone()]);
    let check = |bytes: &[u8]| {
        disk.put_file(&name, bytes);
        Arc::new(IndexTable::open(&tables(&disk), meta.clone()).unwrap()).check(|_| {})
    };
    check(bytes).unwrap();
    bytes[filters.clone()].copy_from_slice(&other[filters]);
    let error = check(bytes).unwrap_err();
    names(&error, &name);
    assert!(error.to_string().contains("directory and filters are not the ones"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Keys that are anything but uniform.
    #[test]
    fn look_ups_agree_with_a_sorted_list(
        keys in proptest::collection::vec((any::<u8>(), 0..8u32), 1..3000),
        asked in proptest::collection::vec((any::<u8>(), 0..8u32), 1..50),
    ) {
        let key = |(byte, zeros): (u8, u32)| {
            let mut digest = [byte; 32];
            digest[..zeros as usize].fill(0);
            IndexKey::of(&digest, 56)
        };
        let numbered = keys.into_iter().zip(0u128..);
        let mut rows: Vec<Row> = numbered.map(|(drawn, number)| Row::new(key(drawn), number)).collect();
        rows.sort_unstable();
        let disk = SimDisk::new(1);
        let tables = tables(&disk);
        let table = IndexTable::open(&tables, write(&tables, &rows, true)).unwrap();
        for drawn in asked {
            prop_assert_eq!(find(&table, key(drawn)).unwrap(), wanted(&rows, key(drawn)));
        }
    }
}
