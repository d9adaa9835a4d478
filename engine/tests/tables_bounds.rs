//! What work on tables leaves behind is bounded: space after failures, memory while readers hold on, tables
//! of level 0.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::VecDeque;
use std::sync::Arc;

use pinstone::{Batch, Error, Maintenance, Store, StoreBuilder};
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Disk, FileName, LogKind, Operation, TableKind};

fn small() -> StoreBuilder {
    Store::builder()
        .segment_bytes(16 << 10)
        .pointer_segment_bytes(8 << 10)
        .append_buffer_bytes(1 << 10)
        .reserve_bytes(64 << 10)
        .level_ratio(2)
        .maintenance(Maintenance::Inline)
}

fn open(builder: StoreBuilder, disk: &Arc<SimDisk>) -> Store {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
}

/// Names of some 900 bytes, set again and again; each commit's number.
fn set_long_names(store: &Store, commits: std::ops::Range<u32>) {
    let digest = store.put(b"value").unwrap().digest;
    for commit in commits {
        let name = |at: u32| format!("{:04}-{}", (commit * 8 + at) * 7 % 1000, "n".repeat(900));
        let batch = (0..8).fold(Batch::new(), |batch, at| batch.set(name(at), digest));
        store.commit(batch).unwrap();
    }
}

#[test]
fn compaction_that_fails_behind_its_new_tables_keeps_no_space() {
    let disk = SimDisk::new(1);
    let builder = small().memtable_entries_max(60).level0_tables(64).table_bytes(1 << 20);
    let store = open(builder, &disk);
    for number in 0..3000_u32 {
        store.put(&number.to_le_bytes().repeat(10)).unwrap();
    }
    let root = disk
        .names()
        .iter()
        .filter_map(|name| name.parse().ok())
        .find(|name| matches!(name, FileName::Segment { log: LogKind::Root, .. }));
    let (names, used_bytes) = (disk.names(), disk.used_bytes());
    for _ in 0..5 {
        // The root's edit names tables that were opened by then.
        let writes = Filter::any().operation(Operation::Write).file(root.unwrap());
        disk.fail_when(writes, Fault::Enospc);
        assert!(matches!(store.compact(), Err(Error::NoSpace { .. })));
        disk.heal();
        assert_eq!(disk.names(), names);
        assert!(disk.used_bytes() <= used_bytes, "{} of {used_bytes}", disk.used_bytes());
    }
    store.compact().unwrap();
    assert!(disk.used_bytes() < used_bytes);
}

#[test]
fn level_0_is_bounded_where_each_flush_has_one_key() {
    let disk = SimDisk::new(1);
    let builder = small().memtable_entries_max(1).level0_tables(2).table_bytes(4 << 10);
    let builder = builder.segment_bytes(4 << 10).maintenance(Maintenance::Thread);
    let store = open(builder, &disk);
    let mut most = 0;
    for number in 0..200_u32 {
        store.put(&number.to_le_bytes().repeat(1250)).unwrap();
        let levels = store.stats().index.levels;
        most = most.max(levels.first().map_or(0, |level| level.table_count));
    }
    assert!(most <= 8, "{most} tables in level 0");
}

#[test]
fn what_footers_name_takes_no_memory_while_readers_hold_old_tables() {
    let disk = SimDisk::new(1);
    let builder = small().memtable_entries_max(100).level0_tables(2).table_bytes(16 << 10);
    let store = open(builder.memory_bytes(16 << 20), &disk);
    let mut readers = VecDeque::new();
    for round in 0..12 {
        set_long_names(&store, round * 50..(round + 1) * 50);
        let mut reader = store.pointers_with_prefix("");
        reader.next().unwrap().unwrap();
        readers.push_back(reader);
        readers.truncate(8);
    }
    let stats = store.stats();
    let table_bytes: u64 = stats.names.levels.iter().map(|level| level.bytes).sum();
    assert!(table_bytes > 1 << 20, "{stats:?}");
    let held_bytes = stats.memory.directory_bytes;
    assert!(held_bytes < 1 << 20, "{held_bytes} bytes of directories and filters");
}

/// Nothing but the next open needs a footer once its table is open.
#[test]
fn a_footer_that_is_damaged_while_readers_hold_old_tables_stops_no_compaction() {
    let disk = SimDisk::new(1);
    let builder = small().memtable_entries_max(100).level0_tables(2).table_bytes(16 << 10);
    let store = open(builder, &disk);
    set_long_names(&store, 0..60);
    let mut reader = store.pointers_with_prefix("");
    reader.next().unwrap().unwrap();
    set_long_names(&store, 60..90);
    let tables = disk.names().into_iter().filter(|name| name.starts_with("names-"));
    let newest = tables.max().unwrap();
    let at = disk.file_bytes(&newest).unwrap().len() as u64 - 200;
    disk.corrupt(&newest, at, |bytes| bytes[0] ^= 1);
    set_long_names(&store, 90..200);
    store.compact().unwrap();
    let levels = store.stats().names.levels;
    assert_eq!(levels.first().map(|level| level.table_count), Some(0), "{levels:?}");
    assert_eq!(store.pointers_with_prefix("").map(Result::unwrap).count(), 1000);
}

#[test]
fn what_could_not_be_removed_goes_later() {
    let disk = SimDisk::new(1);
    let builder = small().memtable_entries_max(100).level0_tables(2).table_bytes(16 << 10);
    let store = open(builder, &disk);
    let removals = Filter::any().operation(Operation::Remove).tables(TableKind::Names);
    disk.fail_when(removals, Fault::Eio);
    set_long_names(&store, 0..200);
    let table_count = || {
        let stats = store.stats();
        let levels = stats.names.levels.iter().chain(&stats.index.levels);
        levels.map(|level| level.table_count).sum::<u64>()
    };
    let file_count = || disk.names().iter().filter(|name| name.ends_with(".table")).count() as u64;
    assert!(file_count() > table_count() + 10, "{} files", file_count());
    disk.heal();
    set_long_names(&store, 200..220);
    store.compact().unwrap();
    store.maintain().unwrap();
    assert!(file_count() <= table_count() + 1, "{} of {}", file_count(), table_count());
}

#[test]
fn a_segment_that_could_not_be_removed_goes_later() {
    let disk = SimDisk::new(1);
    let store = open(small().memtable_entries_max(100), &disk);
    disk.fail_when(Filter::any().operation(Operation::Remove), Fault::Eio);
    set_long_names(&store, 0..100);
    let left = || {
        let files = disk.names().into_iter().filter(|name| name.starts_with("pointer-"));
        files.count() as u64 - store.stats().pointer_log.segment_count
    };
    assert!(left() > 10, "{} segments", left());
    disk.heal();
    set_long_names(&store, 100..110);
    assert_eq!(left(), 0);
}

#[test]
fn what_a_failed_rewriting_wrote_and_could_not_be_removed_goes_later() {
    let disk = SimDisk::new(1);
    let builder = small().memtable_entries_max(100).level0_tables(64).table_bytes(16 << 10);
    let store = open(builder, &disk);
    set_long_names(&store, 0..60);
    let files = || disk.names().into_iter().filter(|name| name.ends_with(".table")).count();
    let before = files();
    for failed in 1..=4 {
        let of_names = || Filter::any().tables(TableKind::Names);
        let fourth = of_names().operation(Operation::Create).from_nth(4);
        disk.fail_when(fourth, Fault::Enospc);
        disk.fail_when(of_names().operation(Operation::Remove), Fault::Eio);
        assert!(matches!(store.compact(), Err(Error::NoSpace { .. })));
        assert_eq!(files(), before + 3 * failed, "three tables stay of each");
        disk.heal();
    }
    store.compact().unwrap();
    store.maintain().unwrap();
    let stats = store.stats();
    let levels = stats.names.levels.iter().chain(&stats.index.levels);
    let table_count: u64 = levels.map(|level| level.table_count).sum();
    assert!(files() as u64 <= table_count + 1, "{} of {table_count}", files());
}
