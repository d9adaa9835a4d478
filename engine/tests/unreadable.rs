//! What the device cannot read, for good: other copies are taken, a put heals, a check goes on, and stores open.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::small::{builder, commit, open, open_as, sealed, segments, stands, value};
use common::told;
use pinstone::{Batch, CheckOptions, Digest, Error, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Epoch, FileName, LogKind, Operation, Ordinal, TableKind};

/// A disk after a kill, with values 0 to 2 in an unsealed segment; that segment, and the reads of a sector of it which the
/// pointer log carries.
fn killed() -> (Arc<SimDisk>, FileName, Filter) {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (0..3).for_each(|number| commit(&store, number));
    let disk = disk.after_crash(CrashState::Everything);
    let name = segments(&disk, LogKind::Blob)[0];
    let sector = Filter::any().operation(Operation::Read).file(name).bytes(1024..1536);
    (disk, name, sector)
}

/// All that the device cannot read of a file in turn: its header, what comes after it, and both.
const UNREADABLE: [std::ops::Range<u64>; 3] = [0..512, 4096..4608, 0..1 << 32];

fn fails_to_read(disk: &SimDisk, file: FileName, bytes: std::ops::Range<u64>) {
    let reads = Filter::any().operation(Operation::Read).file(file).bytes(bytes);
    disk.fail_when(reads, Fault::Eio);
}

/// The first file of which this holds.
fn first_file(disk: &SimDisk, is: impl Fn(&FileName) -> bool) -> FileName {
    disk.names().into_iter().filter_map(|name| name.parse().ok()).find(is).unwrap()
}

fn is_root(name: &FileName) -> bool {
    matches!(name, FileName::Segment { log: LogKind::Root, .. })
}

fn holds(store: &Store, count: u32) {
    for number in 0..count {
        assert_eq!(store.get(&Digest::of(&value(number))).unwrap().unwrap(), value(number));
    }
}

/// A recovery that read around a bad sector may be cut short when it has taken over.
#[test]
fn a_recovery_around_a_sector_that_cannot_be_read_may_crash_anywhere() {
    let (crashed, _, sector) = killed();
    let mut refused = Vec::new();
    for mutation in 0.. {
        let disk = crashed.clean_reopen();
        disk.fail_when(sector, Fault::Eio);
        disk.crash_at_mutation(disk.mutation_count() + mutation);
        let opened = open_as(&disk, builder());
        let is_over = !disk.crashed();
        for state in [CrashState::Nothing, CrashState::Everything, CrashState::Random(mutation)] {
            let disk = disk.after_crash(state);
            disk.fail_when(sector, Fault::Eio);
            match open_as(&disk, builder()) {
                Ok(store) => {
                    for number in 0..3 {
                        let read = store.get(&Digest::of(&value(number))).unwrap().unwrap();
                        assert_eq!(read, value(number));
                    }
                }
                Err(error) => refused.push((mutation, state, told(&error), disk.names())),
            }
        }
        drop(opened);
        if is_over {
            break;
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// The file with the bad sector may not go at once.
#[test]
fn a_file_that_could_not_be_removed_and_cannot_be_read_keeps_no_store_from_opening() {
    let (disk, name, sector) = killed();
    disk.fail_when(sector, Fault::Eio);
    disk.fail_when(Filter::any().operation(Operation::Remove).file(name), Fault::Eio);
    let store = open(&disk);
    (3..300).for_each(|number| commit(&store, number));
    store.maintain().unwrap();
    store.close().unwrap();
    let disk = disk.clean_reopen();
    disk.fail_when(sector, Fault::Eio);
    let store = open_as(&disk, builder());
    let store = store.unwrap_or_else(|error| panic!("{}: {:?}", told(&error), disk.names()));
    holds(&store, 300);
}

/// The removal of what was copied is not synced by an open.
#[test]
fn an_open_around_a_sector_that_cannot_be_read_survives_a_power_loss_after_it() {
    let (disk, _, sector) = killed();
    disk.fail_when(sector, Fault::Eio);
    let store = open(&disk);
    (3..10).for_each(|number| commit(&store, number));
    let disk = disk.after_crash(CrashState::Nothing);
    disk.fail_when(sector, Fault::Eio);
    let store = open_as(&disk, builder());
    let store = store.unwrap_or_else(|error| panic!("{}", told(&error)));
    holds(&store, 10);
}

/// A sector that the device cannot read, for good: the value is brought again.
#[test]
fn a_put_heals_what_the_device_cannot_read() {
    let (disk, store, digests, name) = sealed();
    let sector = Filter::any().operation(Operation::Read).file(name).bytes(512..1024);
    disk.fail_when(sector, Fault::Eio);
    for _ in 0..3 {
        assert!(store.get(&digests[0]).is_err());
    }
    // That may pass.
    assert!(store.contains(&digests[0]).unwrap());
    assert!(store.contains_many(&digests).into_iter().all(Result::unwrap));
    let put = store.put(&value(0)).unwrap();
    let committed = store.commit(Batch::new().set("name", digests[0]));
    let read = store.get(&digests[0]).map_err(|error| told(&error));
    assert_eq!(read, Ok(Some(value(0).into())), "{put:?}, {committed:?}");
}

/// Of a store with one sector that cannot be read a check tells what else is bad.
#[test]
fn a_check_goes_on_where_the_device_cannot_read() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().segment_bytes(4 << 10)).unwrap();
    (0..20).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    store.maintain().unwrap();
    let names = segments(&disk, LogKind::Blob);
    disk.corrupt(&names[1].to_string(), 700, |rest| rest[0] ^= 1);
    let sector = Filter::any().operation(Operation::Read).file(names[0]).bytes(512..1024);
    disk.fail_when(sector, Fault::Eio);
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = store.check(&options);
    let report = report.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert!(report.findings.len() > 1, "{report:?}");
}

#[test]
fn too_few_descriptors_make_no_copy_bad() {
    let disk = SimDisk::new(1);
    let options = builder()
        .segment_bytes(8 << 10)
        .open_files_max(1)
        .pointer_segment_bytes(1 << 20)
        .mmap(false);
    let store = open_as(&disk, options).unwrap();
    (0..60).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    store.maintain().unwrap();
    let number = (1..50).find(|number| stands(&disk, LogKind::Pointer, &value(*number)).is_some());
    let number = number.unwrap();
    disk.fail_when(Filter::any().operation(Operation::Open), Fault::Emfile);
    assert_eq!(store.get(&Digest::of(&value(number))).unwrap().unwrap(), value(number));
    disk.heal();
    store.put(&value(number)).unwrap();
    store.sync().unwrap();
    let copies: usize = segments(&disk, LogKind::Blob)
        .into_iter()
        .map(|name| {
            let bytes = disk.file_bytes(&name.to_string()).unwrap();
            bytes.windows(400).filter(|bytes| *bytes == value(number)).count()
        })
        .sum();
    assert_eq!(copies, 1, "{number}");
}

/// It cannot be read, and the file not be removed.
#[test]
fn the_header_of_a_file_that_was_copied_keeps_no_store_from_opening() {
    let (disk, name, _) = killed();
    disk.fail_when(Filter::any().operation(Operation::Remove).file(name), Fault::Eio);
    let store = open_as(&disk, builder()).unwrap();
    (3..30).for_each(|number| commit(&store, number));
    store.close().unwrap();
    let disk = disk.clean_reopen();
    assert!(segments(&disk, LogKind::Blob).contains(&name));
    disk.fail_when(Filter::any().operation(Operation::Read).file(name), Fault::Eio);
    let store = open_as(&disk, builder());
    let store = store.unwrap_or_else(|error| panic!("{}: {:?}", told(&error), disk.names()));
    holds(&store, 30);
}

#[test]
fn a_file_that_cannot_be_read_is_told_briefly() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().segment_bytes(256 << 10)).unwrap();
    (0..2000).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    store.maintain().unwrap();
    let name = segments(&disk, LogKind::Blob)[0];
    disk.fail_when(
        Filter::any().operation(Operation::Read).file(name).bytes(4096..200_000),
        Fault::Eio,
    );
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = store.check(&options).unwrap();
    let unreadable =
        report.findings.iter().filter(|finding| finding.what.contains("it cannot be read")).count();
    assert!(unreadable < 5, "{unreadable} of {}", report.findings.len());
}

#[test]
fn a_commit_does_not_call_missing_what_cannot_be_read_for_a_moment() {
    let (disk, store, digests, name) = sealed();
    disk.fail_when(Filter::any().operation(Operation::Read).file(name), Fault::Eio);
    assert!(store.get(&digests[0]).is_err());
    let committed = store.commit(Batch::new().set("name", digests[0]));
    let is_missing = matches!(committed, Err(Error::ValueMissing { .. }));
    assert!(!is_missing, "{committed:?}");
}

/// It may be there: that is no damage of the value, whatever became of its other copy.
#[test]
fn what_cannot_be_read_for_a_moment_is_not_called_damaged_for_another_copys_sake() {
    let disk = SimDisk::new(1);
    let options = || builder().segment_bytes(4 << 10).mmap(false).open_files_max(1);
    let store = open_as(&disk, options()).unwrap();
    let puts = |numbers: std::ops::Range<u32>| {
        let values: Vec<_> = numbers.map(value).collect();
        assert!(store.put_many(&values).iter().all(Result::is_ok));
        store.sync().unwrap();
        stands(&disk, LogKind::Blob, &value(100)).unwrap()
    };
    let flip = |(name, at): (FileName, u64)| {
        disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
    };
    let digest = store.put(&value(100)).unwrap().digest;
    let older = puts(1..40);
    flip(older);
    assert!(store.get(&digest).is_err());
    assert!(store.put(&value(100)).unwrap().new);
    let newer = puts(40..80);
    assert_ne!(older.0, newer.0);
    store.close().unwrap();
    flip(older);
    flip(newer);
    let store = open_as(&disk, options()).unwrap();
    disk.fail_when(Filter::any().operation(Operation::Open).file(older.0), Fault::Emfile);
    let failed = store.get(&digest).unwrap_err();
    assert!(matches!(failed, Error::Io { .. }), "{}", told(&failed));
    disk.heal();
    assert_eq!(store.get(&digest).unwrap().unwrap(), value(100));
}

/// A disk after a power loss that brought back the first segment of the pointer log, all of which stands in tables;
/// that segment, and the number of values.
fn retired() -> (Arc<SimDisk>, FileName, u32) {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().memtable_entries_max(1)).unwrap();
    commit(&store, 0);
    let first = segments(&disk, LogKind::Pointer)[0];
    let (mut count, mut removed) = (1, Vec::new());
    while let Some(bytes) = disk.file_bytes(&first.to_string()) {
        removed = bytes;
        commit(&store, count);
        count += 1;
        assert!(count < 3000, "nothing is flushed");
    }
    let disk = disk.after_crash(CrashState::Everything);
    disk.put_file(&first.to_string(), removed);
    (disk, first, count)
}

/// The store opens though this file cannot be read, holds as many values, and removes it.
fn is_opened_without(
    disk: &SimDisk,
    file: FileName,
    options: impl Fn() -> StoreBuilder,
    count: u32,
) {
    for bytes in UNREADABLE {
        let disk = disk.clean_reopen();
        fails_to_read(&disk, file, bytes.clone());
        let store = open_as(&disk, options());
        let store = store.unwrap_or_else(|error| panic!("{bytes:?}: {}", told(&error)));
        holds(&store, count);
        assert!(disk.names().iter().all(|name| *name != file.to_string()), "{bytes:?}");
    }
}

/// Nor can it be opened.
fn is_opened_without_opening(crashed: &SimDisk, file: FileName, options: StoreBuilder, count: u32) {
    let disk = crashed.clean_reopen();
    disk.fail_when(Filter::any().operation(Operation::Open).file(file), Fault::Eio);
    let store = open_as(&disk, options).unwrap_or_else(|error| panic!("{}", told(&error)));
    holds(&store, count);
}

/// The removal of what is flushed is not synced.
#[test]
fn a_retired_segment_that_is_back_and_cannot_be_read_keeps_no_store_from_opening() {
    let (crashed, first, count) = retired();
    is_opened_without(&crashed, first, || builder().memtable_entries_max(1), count);
    is_opened_without_opening(&crashed, first, builder().memtable_entries_max(1), count);
}

/// That may pass, and what it is told of is the machine.
#[test]
fn a_file_that_cannot_be_opened_is_told_whoever_needs_it() {
    let (disk, first, _) = retired();
    disk.fail_when(Filter::any().operation(Operation::Open).file(first), Fault::Emfile);
    let refused = open_as(&disk, builder()).map(drop);
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
}

/// Nor is the removal of an older root log synced.
#[test]
fn a_replaced_root_log_that_cannot_be_read_keeps_no_store_from_opening() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (0..10).for_each(|number| commit(&store, number));
    let root = first_file(&disk, is_root);
    let disk = disk.after_crash(CrashState::Nothing);
    drop(open(&disk));
    let crashed = disk.after_crash(CrashState::Nothing);
    assert_eq!(first_file(&crashed, is_root), root, "it is back");
    is_opened_without(&crashed, root, builder, 10);
    is_opened_without_opening(&crashed, root, builder(), 10);
}

/// It could not be removed, either.
#[test]
fn a_replaced_table_that_cannot_be_read_keeps_no_store_from_opening() {
    let disk = SimDisk::new(1);
    let options = || {
        let builder = builder().memtable_entries_max(1).segment_bytes(8 << 10);
        builder.level0_tables(1).level_ratio(2)
    };
    let store = open_as(&disk, options()).unwrap();
    (0..60).for_each(|number| commit(&store, number));
    let is_table =
        |name: &FileName| matches!(name, FileName::Table { table: TableKind::Index, .. });
    let table = first_file(&disk, is_table);
    disk.fail_when(Filter::any().operation(Operation::Remove).file(table), Fault::Eio);
    (60..120).for_each(|number| commit(&store, number));
    store.maintain().unwrap();
    store.compact().unwrap();
    store.close().unwrap();
    let closed = disk.clean_reopen();
    assert_eq!(first_file(&closed, is_table), table, "it stays");
    is_opened_without(&closed, table, options, 120);
    is_opened_without_opening(&closed, table, options(), 120);
}

/// What the root does not say it is done with may have testified, or be another store's.
#[test]
fn a_file_of_which_nothing_is_known_and_that_cannot_be_read_is_told() {
    let (disk, ..) = retired();
    drop(open(&disk));
    let crashed = disk.clean_reopen();
    let FileName::Segment { epoch, .. } = segments(&crashed, LogKind::Root)[0] else {
        unreachable!("it is a segment's")
    };
    let (ordinal, later) = (Ordinal(1_000), Epoch(epoch.0 + 1));
    let segment = |log| FileName::Segment { log, ordinal, epoch };
    let table = |ordinal, epoch| FileName::Table { table: TableKind::Names, ordinal, epoch };
    let unknown = [
        segment(LogKind::Pointer),
        segment(LogKind::Blob),
        segment(LogKind::Root),
        FileName::Segment { log: LogKind::Blob, ordinal: Ordinal::FIRST, epoch: later },
        FileName::Segment { log: LogKind::Pointer, ordinal: Ordinal::FIRST, epoch: later },
        FileName::Segment { log: LogKind::Root, ordinal: Ordinal::FIRST, epoch: later },
        table(ordinal, epoch),
        table(Ordinal::FIRST, later),
    ];
    for file in unknown {
        let disk = crashed.clean_reopen();
        disk.put_file(&file.to_string(), vec![0; 8192]);
        fails_to_read(&disk, file, 0..512);
        let names = disk.names();
        let refused = open_as(&disk, builder()).map(drop).map_err(|error| told(&error));
        let says = refused.expect_err(&file.to_string());
        assert!(says.contains(&file.to_string()), "{says}");
        assert_eq!(disk.names(), names, "nothing is changed");
    }
}

/// Damages each sector of the root in force, and lets each file in turn be unreadable besides: what is told is told
/// all the same. Returns in how many sectors damage is told.
fn told_of_root(crashed: &SimDisk) -> usize {
    let root = segments(crashed, LogKind::Root).pop().unwrap().to_string();
    let is_refused = |disk: &Arc<SimDisk>| open_as(disk, builder()).is_err();
    let len = crashed.file_bytes(&root).unwrap().len() as u64;
    let damaged = (512..len).step_by(512).map(|offset| {
        let disk = crashed.clean_reopen();
        disk.corrupt(&root, offset, |rest| rest[0] ^= 1);
        (offset, disk)
    });
    let mut told_count = 0;
    for (offset, damaged) in damaged.filter(|(_, disk)| is_refused(&disk.clean_reopen())) {
        told_count += 1;
        for file in damaged.names().into_iter().filter_map(|name| name.parse().ok()) {
            let disk = damaged.clean_reopen();
            fails_to_read(&disk, file, 0..1 << 32);
            assert!(is_refused(&disk), "{offset} of {root}, and {file}");
        }
    }
    told_count
}

/// What the root is done with says nothing of the root's end that no other file says.
#[test]
fn no_file_that_cannot_be_read_hides_damage_of_the_root() {
    let (crashed, _, count) = retired();
    assert!(told_of_root(&crashed) > 5);
    // A replaced root log is back.
    let store = open(&crashed);
    for number in count..count + 10 {
        commit(&store, number);
        store.maintain().unwrap();
    }
    let crashed = crashed.after_crash(CrashState::Nothing);
    assert!(segments(&crashed, LogKind::Root).len() > 1, "{:?}", crashed.names());
    assert!(told_of_root(&crashed) > 9);
}
