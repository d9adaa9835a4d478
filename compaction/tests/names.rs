//! Tables of names: what was written is found and walked through in both directions, in whatever
//! state the file is, or the damage is named.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{STORE_ID, names, tables};
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::table::container::UNITS_START;
use pinstone_compaction::table::names::{NameBuilder, NameTable, TableCursor};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableError, TableId, TableMeta};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, Epoch, Ordinal, TRAILER_BYTES, TableKind, Trailer};
use proptest::prelude::*;

const ID: TableId = TableId { table: TableKind::Names, ordinal: Ordinal(3), epoch: Epoch(2) };

fn entry(name: impl Into<Bytes>, commit: u64) -> NameEntry {
    let to = (!commit.is_multiple_of(5)).then(|| Digest::of(&commit.to_le_bytes()));
    NameEntry { name: name.into(), commit, to }
}

fn write(disk: &Arc<SimDisk>, entries: &[NameEntry], filter_seed: Option<u64>) -> TableMeta {
    let mut builder = NameBuilder::create(&tables(disk), ID, filter_seed).unwrap();
    for entry in entries {
        builder.push(&entry.name, entry.commit, entry.to.as_ref()).unwrap();
    }
    builder.finish(Vec::new()).unwrap()
}

fn open(disk: &Arc<SimDisk>, meta: &TableMeta) -> Arc<NameTable> {
    Arc::new(NameTable::open(&tables(disk), meta.clone()).unwrap())
}

/// What a look-up should find.
fn wanted(entries: &[NameEntry], name: &[u8], commit: u64) -> Option<(u64, Option<Digest>)> {
    let found = entries.iter().find(|entry| entry.name == name && entry.commit <= commit)?;
    Some((found.commit, found.to))
}

/// Entries but those that are the newest of their names, and no deletions.
fn spare_count(entries: &[NameEntry]) -> u64 {
    let stands = |entry: &&NameEntry| {
        let newest = entries.iter().find(|newest| newest.name == entry.name);
        entry.to.is_some() && newest.is_some_and(|newest| newest == *entry)
    };
    (entries.len() - entries.iter().filter(stands).count()) as u64
}

fn here(cursor: &TableCursor) -> Option<NameEntry> {
    cursor.entry().map(NameEntry::from)
}

/// Names of many kinds, a hundred of them with many versions.
fn entries(count: u64) -> Vec<NameEntry> {
    let mut entries: Vec<NameEntry> = (0..count)
        .map(|number| match number % 4 {
            0 => entry(format!("services/registry/{:06}/current", number * 7), number + 1),
            1 => entry(Digest::of(&number.to_le_bytes()).as_bytes().to_vec(), number + 1),
            2 => entry(format!("many versions/{}", number % 100), number + 1),
            _ => entry([b"x".repeat(length(number)), vec![0, 0xff]].concat(), number + 1),
        })
        .collect();
    entries.sort_unstable();
    entries
}

fn length(number: u64) -> usize {
    usize::try_from(number * 37 % 1021).unwrap()
}

#[test]
fn every_version_is_found_and_nothing_else() {
    for (count, seed) in [(1, None), (2, Some(1)), (300, None), (4000, Some(9))] {
        let disk = SimDisk::new(1);
        let entries = entries(count);
        let meta = write(&disk, &entries, seed);
        assert_eq!(meta.entry_count, count);
        let table = open(&disk, &meta);
        for NameEntry { name, commit, to } in &entries {
            assert_eq!(table.find(name, *commit).unwrap(), Some((*commit, *to)));
            for commit in [0, commit - 1, commit + 1, u64::MAX] {
                let found = table.find(name, commit).unwrap();
                assert_eq!(found, wanted(&entries, name, commit), "{name:?} {commit}");
            }
            for absent in [[&name[..], b"\0"].concat(), name[..name.len() - 1].to_vec()] {
                let wanted = wanted(&entries, &absent, u64::MAX);
                assert_eq!(table.find(&absent, u64::MAX).unwrap(), wanted, "{absent:?}");
            }
        }
        let read: Vec<NameEntry> = table.entries().map(Result::unwrap).collect();
        assert_eq!(read, entries);
        let mut checked = Vec::new();
        table.check(|entry| checked.push(entry.clone())).unwrap();
        assert_eq!(checked, entries);
        let (footer, spare_count) = (table.file().footer(), spare_count(&entries));
        assert_eq!((footer.commits, footer.spare_count), ((1, count), spare_count));
        assert_eq!((meta.last_commit, meta.spare_count), (count, spare_count));
    }
}

#[test]
fn a_cursor_goes_both_ways_from_anywhere() {
    let disk = SimDisk::new(1);
    let entries = entries(1500);
    let table = open(&disk, &write(&disk, &entries, None));
    let mut cursor = table.cursor();
    let mut walked = Vec::new();
    assert_eq!(here(&cursor), None);
    while cursor.forward().unwrap() {
        walked.push(here(&cursor).unwrap());
    }
    assert_eq!(walked, entries);
    assert!(!cursor.forward().unwrap(), "past the end it stays");
    walked.clear();
    while cursor.back().unwrap() {
        walked.push(here(&cursor).unwrap());
    }
    walked.reverse();
    assert_eq!(walked, entries);
    assert!(!cursor.back().unwrap(), "before the first it stays");
    cursor.seek_end().unwrap();
    assert!(cursor.back().unwrap());
    assert_eq!(here(&cursor).as_ref(), entries.last());
    for (index, wanted) in entries.iter().enumerate().step_by(13) {
        assert!(cursor.seek(&wanted.name, wanted.commit).unwrap());
        assert_eq!(here(&cursor).as_ref(), Some(wanted));
        assert_eq!(cursor.back().unwrap(), index > 0);
        assert_eq!(here(&cursor).as_ref(), index.checked_sub(1).map(|before| &entries[before]));
        assert!(cursor.forward().unwrap());
        assert_eq!(here(&cursor).as_ref(), Some(wanted));
        // A name that is not there leads to the next one.
        let absent = [&wanted.name[..], b"\0"].concat();
        let next = entries.iter().position(|entry| *entry.name > absent[..]);
        assert_eq!(cursor.seek(&absent, u64::MAX).unwrap(), next.is_some());
        assert_eq!(here(&cursor).as_ref(), next.map(|next| &entries[next]));
    }
    assert!(!cursor.seek(&[0xff; 1024], 0).unwrap());
    assert!(cursor.back().unwrap());
    assert_eq!(here(&cursor).as_ref(), entries.last());
}

#[test]
fn absent_names_are_filtered() {
    let disk = SimDisk::new(1);
    let entries: Vec<NameEntry> =
        (0..20_000).map(|number| entry(format!("name {number:06}"), number + 1)).collect();
    let tables = tables(&disk);
    let meta = write(&disk, &entries, Some(77));
    let table = NameTable::open(&tables, meta).unwrap();
    for number in 0..10_000 {
        assert_eq!(table.find(format!("name {number:06}x").as_bytes(), 1 << 40).unwrap(), None);
    }
    let asks = tables.figures().unit_asks;
    assert!(asks < 10_000 / 50, "{asks} blocks were read");
    let figures = table.figures();
    assert_eq!((figures.asked, figures.found), (10_000, 0));
    assert!(figures.filtered >= 10_000 - asks, "{figures:?}");
    assert!(table.find(b"name 000000", 1).unwrap().is_some());
    assert_eq!(table.find(b"name 000000", 0).unwrap(), None, "it is newer");
    let after = table.figures();
    assert_eq!((after.asked, after.found, after.filtered), (10_002, 1, figures.filtered));
    assert!((1..=tables.figures().unit_asks).contains(&after.unit_reads));
}

#[test]
fn every_changed_byte_is_found_and_no_look_up_lies() {
    let disk = SimDisk::new(1);
    let entries = entries(250);
    let meta = write(&disk, &entries, Some(3));
    let name = ID.file_name().to_string();
    let (mut refused, mut answered) = (0, 0);
    for offset in (0..meta.file_bytes).step_by(11).chain(meta.file_bytes - 300..meta.file_bytes) {
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 0x04);
        match NameTable::open(&tables(&disk), meta.clone()).map(Arc::new) {
            Err(error) => refused += names(&error, &name),
            Ok(table) => {
                for entry in entries.iter().step_by(40) {
                    match table.find(&entry.name, entry.commit) {
                        Ok(found) => assert_eq!(found, Some((entry.commit, entry.to)), "{offset}"),
                        Err(error) => refused += names(&error, &name),
                    }
                    answered += 1;
                }
                let read: Result<Vec<NameEntry>, TableError> = table.entries().collect();
                match read {
                    Ok(read) => assert_eq!(read, entries, "{offset}"),
                    Err(error) => refused += names(&error, &name),
                }
                names(&table.check(|_| {}).unwrap_err(), &name);
            }
        }
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 0x04);
    }
    assert!(refused > 500 && answered > 10_000, "{refused} {answered}");
}

#[test]
fn a_damaged_directory_is_made_again_and_a_damaged_filter_done_without() {
    let disk = SimDisk::new(1);
    let entries = entries(1000);
    let meta = write(&disk, &entries, Some(3));
    let name = ID.file_name().to_string();
    let units_end = open(&disk, &meta).file().footer().units_end;
    for (offset, wanted) in [(units_end + 9, (1, 0)), (meta.file_bytes - 600, (0, 1))] {
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 0x04);
        let tables = tables(&disk);
        let table = Arc::new(NameTable::open(&tables, meta.clone()).unwrap());
        for entry in &entries {
            let found = table.find(&entry.name, entry.commit).unwrap();
            assert_eq!(found, Some((entry.commit, entry.to)));
        }
        let read: Vec<NameEntry> = table.entries().map(Result::unwrap).collect();
        assert_eq!(read, entries);
        let figures = tables.figures();
        assert_eq!((figures.directories_rebuilt, figures.filters_ignored), wanted);
        disk.corrupt(&name, offset, |bytes| bytes[0] ^= 0x04);
    }
}

#[test]
fn a_directory_made_again_leads_to_all_that_the_one_before_led_to() {
    let disk = SimDisk::new(1);
    let entries = entries(3000);
    let meta = write(&disk, &entries, None);
    let before = open(&disk, &meta);
    assert!(before.find(&entries[0].name, u64::MAX).unwrap().is_some());
    disk.corrupt(&ID.file_name().to_string(), before.file().footer().units_end, |bytes| {
        bytes[0] ^= 0x04;
    });
    let shared = tables(&disk);
    let table = Arc::new(NameTable::open(&shared, meta).unwrap());
    let (mut cursor, mut whole) = (table.cursor(), before.cursor());
    for NameEntry { name, commit, .. } in &entries {
        let around =
            [name.clone(), name.slice(..name.len() - 1), [name, &b"\0"[..]].concat().into()];
        for name in around {
            for commit in [0, commit - 1, *commit, commit + 1, u64::MAX] {
                let found = table.find(&name, commit).unwrap();
                assert_eq!(found, wanted(&entries, &name, commit), "{name:?} {commit}");
                let is_on = cursor.seek(&name, commit).unwrap();
                assert_eq!(is_on, whole.seek(&name, commit).unwrap());
                assert_eq!(here(&cursor), here(&whole), "{name:?} {commit}");
            }
        }
    }
    assert_eq!(shared.figures().directories_rebuilt, 1);
    let bytes = |table: &NameTable| table.file().resident_bytes();
    assert_eq!(bytes(&table), bytes(&before), "its keys are as long");
}

#[test]
fn what_all_keys_of_a_directory_begin_with_takes_memory_once() {
    let shared = "a/long/beginning/".repeat(50);
    let (before, behind) = (entry("a", 1), entry("b", 2));
    let long = (0..16_000).map(|number| entry(format!("{shared}{number:06}"), number + 3));
    for entries in [
        long.clone().collect::<Vec<_>>(),
        std::iter::once(before).chain(long.clone()).collect(),
        long.chain([behind]).collect(),
    ] {
        let disk = SimDisk::new(1);
        let meta = write(&disk, &entries, None);
        let table = open(&disk, &meta);
        for entry in &entries {
            let found = table.find(&entry.name, u64::MAX).unwrap();
            assert_eq!(found, Some((entry.commit, entry.to)));
        }
        for absent in [&shared[..], &shared[1..], &shared[..9], "a/longer", "a", "b"] {
            let found = table.find(absent.as_bytes(), u64::MAX).unwrap();
            assert_eq!(found, wanted(&entries, absent.as_bytes(), u64::MAX), "{absent}");
        }
        let blocks = table.file().footer().unit_count;
        assert!(blocks > 200, "{blocks} blocks");
        let most = blocks * (8 + 4 + 8 + 7) + shared.len() as u64;
        assert!(table.file().resident_bytes() <= most, "{} bytes", table.file().resident_bytes());
    }
}

/// Forged so that all hashes agree, and its directory's checksum does or does not.
#[test]
fn a_table_without_blocks_is_damage() {
    let disk = SimDisk::new(1);
    let meta = write(&disk, &entries(3), None);
    let name = ID.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let trailer = Trailer::decode(&ID.file_name(), bytes.len() as u64, &bytes).unwrap();
    let footer_start = usize::try_from(trailer.footer_offset_bytes).unwrap();
    let start = 4096_u64;
    // No blocks, and no filters.
    let counts = [0; 8];
    let crc = ID.header(STORE_ID).seed().at(start, &[&counts]);
    let end = start + 12;
    for crc in [crc, !crc] {
        let mut footer = bytes[footer_start..bytes.len() - TRAILER_BYTES].to_vec();
        for (at, number) in [(56, 0), (64, start), (72, end), (80, end)] {
            footer[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let trailer = Trailer::of(&footer, end);
        let parts = [&bytes[..4096], &crc.to_le_bytes(), &counts, &footer, &trailer.encode()];
        let forged = parts.concat();
        let (footer_hash, file_bytes) = (trailer.footer_hash, forged.len() as u64);
        disk.put_file(&name, forged);
        let meta = TableMeta { footer_hash, file_bytes, ..meta.clone() };
        let opened = NameTable::open(&tables(&disk), meta).map(Arc::new);
        let error = opened.and_then(|table| table.cursor().seek_end()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{name} is corrupt at offset {end}: its counts do not agree")
        );
    }
}

/// Forged so that all hashes agree, and the root says the same.
#[test]
fn a_table_that_miscounts_its_spare_entries_is_found() {
    let disk = SimDisk::new(1);
    let entries = entries(300);
    let meta = write(&disk, &entries, None);
    let name = ID.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let trailer = Trailer::decode(&ID.file_name(), bytes.len() as u64, &bytes).unwrap();
    let footer_start = usize::try_from(trailer.footer_offset_bytes).unwrap();
    assert!(0 < meta.spare_count && meta.spare_count < 300, "{meta:?}");
    let says = |spare_count: u64| {
        let mut footer = bytes[footer_start..bytes.len() - TRAILER_BYTES].to_vec();
        footer[112..120].copy_from_slice(&spare_count.to_le_bytes());
        let trailer = Trailer::of(&footer, footer_start as u64);
        disk.put_file(&name, [&bytes[..footer_start], &footer, &trailer.encode()].concat());
        let meta = TableMeta { footer_hash: trailer.footer_hash, ..meta.clone() };
        let opened = NameTable::open(&tables(&disk), meta.clone());
        let said = opened.map(drop).map_err(|error| error.to_string());
        let meta = TableMeta { spare_count, ..meta };
        let checked = NameTable::open(&tables(&disk), meta)
            .and_then(|table| Arc::new(table).check(|_| ()))
            .map_err(|error| error.to_string());
        (said, checked)
    };
    assert_eq!(says(meta.spare_count), (Ok(()), Ok(())));
    for spare_count in [0, meta.spare_count - 1, meta.spare_count + 1, 300, 301] {
        let (said, checked) = says(spare_count);
        let (said, checked) = (said.unwrap_err(), checked.unwrap_err());
        if spare_count <= 300 {
            assert!(said.contains("does not say what the root says"), "{said}");
            assert!(checked.contains("does not say what its blocks hold"), "{checked}");
        } else {
            let at = format!("at offset {}: ", footer_start + 112);
            assert!(checked.contains(&at) && said == checked, "{said}, {checked}");
        }
    }
}

/// Forged so that all hashes agree, and the root says the same.
#[test]
fn a_table_that_counts_more_entries_than_its_blocks_have_room_for_is_damage() {
    let disk = SimDisk::new(1);
    let meta = write(&disk, &[entry("a", 1)], None);
    let name = ID.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let trailer = Trailer::decode(&ID.file_name(), bytes.len() as u64, &bytes).unwrap();
    let footer_start = usize::try_from(trailer.footer_offset_bytes).unwrap();
    let blocks_bytes = NameTable::open(&tables(&disk), meta.clone()).unwrap();
    let blocks_bytes = blocks_bytes.file().footer().units_end - UNITS_START;
    for (entry_count, is_possible) in [
        (blocks_bytes / 4, true),
        (blocks_bytes / 4 + 1, false),
        (1 << 63, false),
        (u64::MAX, false),
    ] {
        let mut footer = bytes[footer_start..bytes.len() - TRAILER_BYTES].to_vec();
        footer[48..56].copy_from_slice(&entry_count.to_le_bytes());
        let trailer = Trailer::of(&footer, footer_start as u64);
        disk.put_file(&name, [&bytes[..footer_start], &footer, &trailer.encode()].concat());
        let meta = TableMeta { entry_count, footer_hash: trailer.footer_hash, ..meta.clone() };
        let opened = NameTable::open(&tables(&disk), meta).map(drop);
        let opened = opened.map_err(|error| error.to_string());
        let what = "its blocks do not hold as many entries as it counts";
        let refused = format!("{name} is corrupt at offset {footer_start}: {what}");
        assert_eq!(opened, if is_possible { Ok(()) } else { Err(refused) }, "{entry_count}");
    }
}

#[test]
fn what_directories_take_the_cache_leaves() {
    let disk = SimDisk::new(1);
    // Long names that begin differently: so do the keys of the directory.
    let name = |number: u64| format!("{:03}{}{number:04}", number / 50, "x".repeat(1000));
    let entries: Vec<_> = (0..2000).map(|number| entry(name(number), number + 1)).collect();
    let meta = write(&disk, &entries, None);
    let memory_bytes = 128 << 10;
    let shared = Tables::new(Arc::clone(&disk) as Arc<dyn Disk>, STORE_ID, 8, memory_bytes);
    let table = Arc::new(NameTable::open(&shared, meta).unwrap());
    for entry in &entries {
        assert!(table.find(&entry.name, u64::MAX).unwrap().is_some());
    }
    let figures = shared.figures();
    assert!(figures.resident_bytes > memory_bytes / 4, "{figures:?}");
    assert!(figures.cache_bytes > memory_bytes / 4, "{figures:?}");
    assert!(figures.resident_bytes + figures.cache_bytes <= memory_bytes, "{figures:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Few letters and few commits, so that names share much and versions go over blocks.
    #[test]
    fn look_ups_and_walks_agree_with_a_sorted_list(
        drawn in proptest::collection::btree_set(("[ab]{1,4}", 1..300u64), 1..1200),
        long in proptest::collection::btree_set((1..40usize, 300..330u64), 0..40),
        asked in proptest::collection::vec(("[abc]{0,5}", 0..310u64), 30),
    ) {
        let long = long.into_iter().map(|(len, commit)| ("b".repeat(25 * len), commit));
        let all = drawn.into_iter().chain(long);
        let mut entries: Vec<NameEntry> =
            all.map(|(name, commit)| entry(name.into_bytes(), commit)).collect();
        entries.sort_unstable();
        let disk = SimDisk::new(1);
        let meta = write(&disk, &entries, Some(8));
        prop_assert_eq!(meta.spare_count, spare_count(&entries));
        let table = open(&disk, &meta);
        let mut cursor = table.cursor();
        for (name, commit) in asked {
            let name = name.as_bytes();
            prop_assert_eq!(table.find(name, commit).unwrap(), wanted(&entries, name, commit));
            cursor.seek(name, commit).unwrap();
            let next = entries.iter().find(|entry| {
                (&entry.name[..], std::cmp::Reverse(entry.commit))
                    >= (name, std::cmp::Reverse(commit))
            });
            prop_assert_eq!(here(&cursor), next.cloned());
        }
        table.check(|_| {}).unwrap();
    }
}
