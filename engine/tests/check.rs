//! What a check of a store tells, and what it does not.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::tiny_tables;
use pinstone::{Batch, CheckOptions, Digest, Maintenance, Result, Store};
use pinstone_disk::Disk;
use pinstone_disk::sim::{Fault, SimDisk};

fn value(number: u32) -> Vec<u8> {
    let len = 200 + usize::try_from(number % 5).unwrap() * 150;
    Digest::of(&number.to_le_bytes()).as_bytes().iter().copied().cycle().take(len).collect()
}

fn try_open(disk: &Arc<SimDisk>) -> Result<Store> {
    let builder = tiny_tables().memtable_entries_max(8).open_files_max(2);
    builder.maintenance(Maintenance::Inline).open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

fn open(disk: &Arc<SimDisk>) -> Store {
    try_open(disk).unwrap()
}

/// What the store has in memory of a table is no reason not to read it: the next open will.
#[test]
fn damage_at_a_tables_end_is_found_while_the_store_is_open() {
    let mut refused = 0;
    for tree in ["names-", "index-"] {
        for back in [1, 20, 60, 100, 200, 300] {
            let disk = SimDisk::new(1);
            let store = open(&disk);
            for number in 0..40 {
                let digest = store.put(&value(number)).unwrap().digest;
                store.commit(Batch::new().set(format!("{number:0300}"), digest)).unwrap();
            }
            let file = disk.names().into_iter().find(|name| name.starts_with(tree)).unwrap();
            let at = disk.file_bytes(&file).unwrap().len() as u64 - back;
            disk.corrupt(&file, at, |bytes| bytes[0] ^= 1);
            let found = store.check(&CheckOptions::default()).unwrap().findings;
            assert!(found.iter().all(|finding| finding.file == file), "{found:?}");
            let opens = store.close().is_ok() && try_open(&disk).is_ok();
            assert!(opens || !found.is_empty(), "byte {at} of {file}: nothing was found");
            refused += u32::from(!opens);
        }
    }
    assert!(refused > 6, "{refused} were refused by the next open");
}

/// Another file under a table's name, while the store has the table's own open.
#[test]
fn a_table_whose_file_was_exchanged_is_found_while_the_store_is_open() {
    for tree in ["names-", "index-"] {
        for kept_bytes in [0, 5000, usize::MAX] {
            let disk = SimDisk::new(1);
            let store = open(&disk);
            for number in 0..40 {
                let digest = store.put(&value(number)).unwrap().digest;
                store.commit(Batch::new().set(format!("{number:0300}"), digest)).unwrap();
            }
            let tables = || disk.names().into_iter().filter(|name| name.ends_with(".table"));
            let file = tables().find(|name| name.starts_with(tree)).unwrap();
            let mut other = disk.file_bytes(&tables().find(|name| *name != file).unwrap()).unwrap();
            other.truncate(kept_bytes);
            disk.remove(file.parse().unwrap()).unwrap();
            disk.put_file(&file, other);
            let found = store.check(&CheckOptions::default()).unwrap().findings;
            assert!(found.iter().any(|finding| finding.file == file), "{kept_bytes}: {found:?}");
        }
    }
}

#[test]
fn a_table_that_is_gone_is_found_while_the_store_is_open() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    for number in 0..40 {
        store.put(&value(number)).unwrap();
    }
    let file = disk.names().into_iter().find(|name| name.ends_with(".table")).unwrap();
    disk.remove(file.parse().unwrap()).unwrap();
    let found = store.check(&CheckOptions::default()).unwrap().findings;
    assert!(found.iter().any(|finding| finding.file == file), "{found:?}");
}

/// Each name that points there is a finding, and a store may have millions.
#[test]
fn of_many_findings_it_is_told_how_many_there_are() {
    let disk = SimDisk::new(1);
    let open = |disk: &Arc<SimDisk>| {
        let builder = Store::builder().segment_bytes(64 << 10).memtable_entries_max(64);
        let builder = builder.maintenance(Maintenance::Inline);
        builder.open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
    };
    let store = open(&disk);
    let digest = store.put(&value(0)).unwrap().digest;
    (1..200).for_each(|number| assert!(store.put(&[value(number), value(1)].concat()).is_ok()));
    for some in 0..12 {
        let batch = (0..1000)
            .fold(Batch::new(), |batch, number| batch.set(format!("name {some} {number}"), digest));
        store.commit(batch).unwrap();
    }
    store.maintain().unwrap();
    store.close().unwrap();
    let disk = disk.clean_reopen();
    let blob = disk.names().into_iter().find(|name| name.starts_with("blob-")).unwrap();
    disk.corrupt(&blob, disk.file_bytes(&blob).unwrap().len() as u64 - 1, |rest| rest[0] ^= 1);
    let found = open(&disk).check(&CheckOptions::default()).unwrap().findings;
    assert_eq!(found.len(), 10_001);
    assert!(found[10_000].what.ends_with("more findings are not listed"), "{}", found[10_000]);
}

/// What keeps a check from looking is an error, and no finding.
#[test]
fn a_failed_operation_is_no_damage() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    for number in 0..60 {
        let digest = store.put(&value(number)).unwrap().digest;
        store.commit(Batch::new().set(format!("name {}", number % 25), digest)).unwrap();
    }
    store.close().unwrap();
    for fault in [Fault::Eio, Fault::Emfile] {
        let (mut failed, mut passed) = (0, 0);
        for op in 1.. {
            let image = disk.clean_reopen();
            let store = open(&image);
            let op = image.op_count() + op;
            image.fail_at(op, fault);
            match store.check(&CheckOptions { read_data: true, ..CheckOptions::default() }) {
                Ok(report) => {
                    assert_eq!(report.findings, [], "{fault:?} of operation {op}");
                    passed += 1;
                }
                Err(_) => failed += 1,
            }
            if image.op_count() < op {
                break;
            }
        }
        assert!(failed > 100 && passed > 0, "{fault:?}: {failed} failed, {passed} passed");
    }
}
