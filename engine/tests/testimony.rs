//! The root testifies to commits, and is written anew, whatever else cannot be done.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::told;
use pinstone::{Batch, Error, Maintenance, Result, Store, StoreBuilder};
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Epoch, FileName, LogKind, Operation, Ordinal, TableKind};

/// Bytes of a root log that is to be written anew.
const LONG: u64 = 1 << 20;

const TESTIFY: u64 = 4 << 10;

fn builder() -> StoreBuilder {
    common::tiny_tables()
        .pointer_segment_bytes(64 << 10)
        .testify_bytes(TESTIFY)
        .maintenance(Maintenance::Inline)
}

fn open(disk: &Arc<SimDisk>) -> Result<Store> {
    builder().open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

/// A store whose next edits of the root make that long.
fn with_long_root(disk: &Arc<SimDisk>) -> Store {
    let store = open(disk).unwrap();
    let mut number = 0;
    while store.stats().root_log.bytes < LONG - (16 << 10) {
        put(&store, number);
        number += 1;
    }
    store
}

/// A value that fills a segment: sealing and flushing it makes edits.
fn put(store: &Store, number: u32) {
    store.put(&number.to_le_bytes().repeat(900)).unwrap();
}

/// The root grows until it is to be written anew.
fn grow_root(store: &Store) {
    (10_000..10_040).for_each(|number| put(store, number));
    assert!(store.stats().root_log.bytes > LONG, "{:?}", store.stats().root_log);
}

/// Commits that fill no segment, of which the device loses the last.
fn the_loss_of_commits_is_told(disk: &Arc<SimDisk>, store: &Store) {
    let digest = store.put(b"value").unwrap().digest;
    for number in 0..40 {
        store.commit(Batch::new().set(format!("name {number}"), digest)).unwrap();
    }
    assert_eq!(store.stats().last_commit, 40);
    let died = disk.clean_reopen();
    let mut segments = died.names().into_iter().filter(|name| name.starts_with("pointer-"));
    let segment = segments.next().unwrap();
    assert_eq!(segments.next(), None, "all of them stand in one segment");
    let mut bytes = died.file_bytes(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[end - 3 * usize::try_from(TESTIFY).unwrap()..].fill(0);
    died.put_file(&segment, bytes);
    match open(&died) {
        Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{}", told(&error)),
        Ok(store) => panic!("{} of 40 commits, and no error", store.stats().last_commit),
    }
}

#[test]
fn the_root_testifies_to_commits_while_there_is_no_space_to_write_it_anew() {
    let disk = SimDisk::new(1);
    let store = with_long_root(&disk);
    let current = Filter::any().operation(Operation::Create).file(FileName::CurrentTemp);
    disk.fail_when(current, Fault::Enospc);
    grow_root(&store);
    assert!(matches!(store.maintain(), Err(Error::NoSpace { .. })));
    the_loss_of_commits_is_told(&disk, &store);
}

#[test]
fn the_root_testifies_to_commits_while_no_table_can_be_written() {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    let tables = Filter::any().operation(Operation::Create).tables(TableKind::Index);
    disk.fail_when(tables, Fault::Eio);
    (0..2).for_each(|number| put(&store, number));
    assert!(matches!(store.maintain(), Err(Error::Io { .. })));
    the_loss_of_commits_is_told(&disk, &store);
}

/// The first try fails, and what it wrote of the log cannot be removed.
#[test]
fn a_root_log_that_could_not_be_written_anew_is_once_the_disk_is_well() {
    let disk = SimDisk::new(1);
    let store = with_long_root(&disk);
    let next = FileName::Segment { log: LogKind::Root, ordinal: Ordinal(2), epoch: Epoch(1) };
    for operation in [Operation::Write, Operation::Remove] {
        disk.fail_when(Filter::any().operation(operation).file(next), Fault::Eio);
    }
    let mut numbers = 10_000..10_040;
    while !disk.names().contains(&next.to_string()) {
        put(&store, numbers.next().unwrap());
    }
    disk.heal();
    store.maintain().unwrap();
    assert!(store.stats().root_log.bytes < LONG / 4, "{:?}", store.stats().root_log);
}

#[test]
fn a_root_log_that_could_not_be_removed_goes_with_the_next() {
    let disk = SimDisk::new(1);
    let builder = common::tiny_tables().maintenance(Maintenance::Inline);
    let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let root_logs = || disk.names().into_iter().filter(|name| name.starts_with("root-")).count();
    let mut numbers = 0u32..;
    // Until the root has been written anew.
    let mut write_anew = || {
        let mut last_bytes = store.stats().root_log.bytes;
        loop {
            store.put(&numbers.next().unwrap().to_le_bytes().repeat(900)).unwrap();
            let bytes = store.stats().root_log.bytes;
            if std::mem::replace(&mut last_bytes, bytes) > bytes {
                return;
            }
        }
    };
    for ordinal in [1, 2] {
        let (log, epoch) = (LogKind::Root, Epoch::FIRST);
        let name = FileName::Segment { log, ordinal: Ordinal(ordinal), epoch };
        let removed = Filter::any().operation(Operation::Remove).file(name);
        disk.fail_when(removed, Fault::Eio);
    }
    write_anew();
    write_anew();
    assert_eq!(root_logs(), 3);
    disk.heal();
    write_anew();
    assert_eq!(root_logs(), 1);
}
