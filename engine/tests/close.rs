//! Closing: what each of several handles is told.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::meddling::MeddlingDisk;
use common::{tiny_tables, told};
use pinstone::{Batch, CheckOptions, Digest, Error, Maintenance, Store};
use pinstone_disk::env::{self, AtomicBool, Mutex, Ordering};
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Epoch, FileName, LogKind, Operation, Ordinal, TableKind};

fn open(disk: &Arc<SimDisk>) -> Store {
    let builder = Store::builder().maintenance(Maintenance::Inline);
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
}

#[test]
fn who_closes_second_is_told_what_became_of_the_first() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let other = store.clone();
    store.close().unwrap();
    other.close().unwrap();

    let store = open(&disk);
    let (other, third) = (store.clone(), store.clone());
    let digest = store.put(b"value").unwrap().digest;
    disk.fail_when(Filter::any().operation(Operation::Sync), Fault::Eio);
    assert!(store.close().is_err());
    disk.heal();
    assert!(matches!(other.close(), Err(Error::Poisoned { .. })));
    assert!(third.put(b"another").is_err());
    assert_eq!(third.get(&digest).unwrap().unwrap(), &b"value"[..]);

    // The lock is free, and what the closed one still does touches nothing.
    let reopened = open(&disk);
    let names = disk.names();
    assert!(third.commit(Batch::new().set("name", digest)).is_err());
    assert!(third.sync().is_err());
    assert!(third.maintain().is_err());
    drop(third);
    assert_eq!(disk.names(), names);
    reopened.close().unwrap();
}

/// Of a store that was killed: what was closed before has nothing to be written.
#[test]
fn who_closes_a_store_second_that_was_only_read_is_told_too() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.put(b"value").unwrap();
    store.sync().unwrap();
    for operation in [Operation::Sync, Operation::Write] {
        let disk = disk.clean_reopen();
        let store = open(&disk);
        let (second, third) = (store.clone(), store.clone());
        disk.fail_when(Filter::any().operation(operation), Fault::Eio);
        let failed = store.close().unwrap_err();
        disk.heal();
        for other in [second, third] {
            let told = other.close().unwrap_err();
            assert!(matches!(told, Error::Poisoned { .. }), "{}", common::told(&told));
            let cause = |error| common::told(error).rsplit(": ").next().unwrap().to_owned();
            assert_eq!(cause(&told), cause(&failed));
        }
        open(&disk).close().unwrap();
    }
}

#[test]
fn a_closed_handle_does_not_check_what_may_be_anothers() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    store.put(b"value").unwrap();
    let other = store.clone();
    store.close().unwrap();
    let again = open(&disk);
    let refused = other.check(&CheckOptions::default());
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    assert!(again.check(&CheckOptions::default()).unwrap().findings.is_empty());
}

/// While a close writes a table of what is sealed, the memtable fills up, and is flushed whole by who waited.
#[test]
fn what_is_flushed_by_a_close_is_not_flushed_once_more_by_others() {
    let sim = SimDisk::new(1);
    let open = |disk: Arc<dyn Disk>| {
        let builder = Store::builder().segment_bytes(64 << 10).memtable_entries_max(160);
        let builder = builder.level0_tables(64).append_buffer_bytes(4 << 10);
        builder.open_on(disk).unwrap()
    };
    let put_all = |store: &Store, numbers: std::ops::Range<u32>| {
        numbers
            .for_each(|number| assert!(store.put(&number.to_le_bytes().repeat(150)).unwrap().new));
    };
    let store = open(Arc::clone(&sim) as Arc<dyn Disk>);
    // Much below, so that level 0 is not due early.
    put_all(&store, 0..6000);
    store.compact().unwrap();
    store.close().unwrap();
    let disk = MeddlingDisk::new(&sim);
    let store = open(Arc::clone(&disk) as Arc<dyn Disk>);
    put_all(&store, 10_000..10_100);
    store.maintain().unwrap();
    let (other, begins) = (store.clone(), Arc::new(AtomicBool::new(false)));
    let (thread, is_begun) = (Arc::new(Mutex::new(None)), Arc::clone(&begins));
    let started = Arc::clone(&thread);
    let put_and_flush = move || {
        put_all(&other, 20_000..20_170);
        begins.store(true, Ordering::Release);
        let _flushed = other.maintain();
    };
    disk.before_open(TableKind::Index, move || {
        *started.lock() = Some(env::spawn("put", put_and_flush).unwrap());
        while !is_begun.load(Ordering::Acquire) {
            env::yield_now();
        }
        // It is to wait for the lock by now.
        (0..50_000).for_each(|_| env::yield_now());
    });
    store.close().unwrap();
    assert!(disk.has_meddled());
    thread.lock().take().unwrap().join().unwrap();
    drop(disk);
    let store = open(Arc::clone(&sim) as Arc<dyn Disk>);
    let report = store.check(&CheckOptions { read_data: true, ..CheckOptions::default() });
    assert_eq!(report.unwrap().findings, []);
}

/// Threads put and name, segments fill up and memtables are flushed, while one closes.
#[test]
fn a_close_that_succeeded_leaves_nothing_to_mend_and_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let builder = Store::builder().segment_bytes(16 << 10).append_buffer_bytes(4 << 10);
        let builder = builder.pointer_segment_bytes(16 << 10).memtable_entries_max(200);
        builder.reserve_bytes(1 << 20).open(dir.path()).unwrap()
    };
    let value = |round: u64, thread: u64, id: u64| {
        [round, thread, id].map(u64::to_le_bytes).concat().repeat(80)
    };
    let (mut put_count, mut flush_count) = (0, 0);
    for round in 0..40u64 {
        let store = open();
        let putting = |thread: u64| {
            let store = store.clone();
            move || {
                let put_one = |id: &u64| {
                    let put = store.put(&value(round, thread, *id));
                    put.is_ok_and(|put| {
                        let name = format!("{round}-{thread}-{id}");
                        let commit = || store.commit(Batch::new().set(name, put.digest));
                        thread > 0 || commit().is_ok()
                    })
                };
                (0..).take_while(put_one).count() as u64
            }
        };
        let start = |thread| env::spawn("put", putting(thread)).unwrap();
        let threads: Vec<_> = (0..4).map(start).collect();
        while store.stats().since_open.put_count < 20 * (round % 7) {
            env::yield_now();
        }
        let open_handle = store.clone();
        let before = open_handle.stats().names.flush_count;
        store.close().unwrap();
        flush_count += open_handle.stats().names.flush_count - before;
        drop(open_handle);
        let counts = threads.into_iter().map(|thread| thread.join().unwrap());
        let counts: Vec<_> = (0..).zip(counts).collect();
        let store = open();
        assert!(store.stats().recovery.clean, "round {round}");
        for (thread, count) in counts {
            put_count += count;
            for id in 0..count {
                let digest = Digest::of(&value(round, thread, id));
                assert!(store.contains(&digest).unwrap(), "{round}, {thread}, {id}");
                let found = store.pointer(format!("{round}-{thread}-{id}")).unwrap();
                assert_eq!(found, (thread == 0).then_some(digest), "{round}, {thread}, {id}");
            }
        }
        assert!(store.check(&CheckOptions::default()).unwrap().findings.is_empty(), "{round}");
    }
    assert!(put_count > 1000 && flush_count > 5, "{put_count}, {flush_count}");
}

/// An open then fills no memtable from the logs; and a store that is closed often has no table for each close.
#[test]
fn a_close_flushes_what_is_much() {
    let open = |disk: &Arc<SimDisk>| {
        let builder = Store::builder().maintenance(Maintenance::Inline).segment_bytes(64 << 10);
        let builder = builder.memtable_entries_max(1600).append_buffer_bytes(4 << 10);
        builder.open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
    };
    let disk = SimDisk::new(1);
    let digest = |number: u32| Digest::of(&number.to_le_bytes().repeat(20));
    let mut put_count = 0_u32;
    for (count, is_much) in [(60, false), (60, true), (60, false), (1000, true), (3000, true)] {
        let store = open(&disk);
        let before = store.stats();
        for number in put_count..put_count + count {
            let digest = store.put(&number.to_le_bytes().repeat(20)).unwrap().digest;
            store.commit(Batch::new().set(number.to_string(), digest)).unwrap();
        }
        put_count += count;
        store.close().unwrap();

        let names = disk.names();
        let store = open(&disk);
        let stats = store.stats();
        assert!(stats.recovery.clean);
        for (tree, before) in [(&stats.index, &before.index), (&stats.names, &before.names)] {
            let in_tables = |levels: &[pinstone::LevelStats]| {
                levels.iter().map(|level| level.entry_count).sum::<u64>()
            };
            let more = in_tables(&tree.levels) - in_tables(&before.levels);
            // Of the index that stays which is in the last segment, if that is short.
            let left = tree.memtable_entry_count;
            assert_eq!(more > 0, is_much, "{count}: {more}, {left}");
            assert_eq!(u64::from(put_count), in_tables(&tree.levels) + left, "{count}");
            assert!(left < 100, "{count}: {left}");
        }
        for number in 0..put_count {
            assert_eq!(store.pointer(number.to_string()).unwrap(), Some(digest(number)));
            assert!(store.get(&digest(number)).unwrap().is_some());
        }
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        assert!(store.check(&options).unwrap().findings.is_empty());
        // Nothing was written: nothing is flushed, and no segment begun.
        store.close().unwrap();
        let logs = |names: &[String]| {
            let is_log = |name: &&String| !name.starts_with("root-");
            names.iter().filter(is_log).cloned().collect::<Vec<_>>()
        };
        assert_eq!(logs(&disk.names()), logs(&names), "{count}");
    }
}

/// No segment is sealed before the close, so that nobody comes to compaction.
#[test]
fn a_store_that_is_closed_often_has_few_tables_in_level_0() {
    let disk = SimDisk::new(1);
    let open = || {
        let builder = Store::builder().memtable_entries_max(1600);
        builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap()
    };
    let mut tables_max = 0;
    for session in 0..60_u32 {
        let store = open();
        let digest = store.put(&session.to_le_bytes()).unwrap().digest;
        let name = |number: u32| (session * 120 + number).wrapping_mul(0x9e37_79b1).to_string();
        let batch = (0..120).fold(Batch::new(), |batch, number| batch.set(name(number), digest));
        store.commit(batch).unwrap();
        store.close().unwrap();
        let levels = open().stats().names.levels;
        tables_max = levels.first().map_or(0, |level| level.table_count).max(tables_max);
    }
    assert!((1..6).contains(&tables_max), "{tables_max}");
}

/// What a close writes for the next open's sake may fail.
#[test]
fn a_store_whose_memtables_cannot_be_flushed_is_closed_all_the_same() {
    let next = FileName::Segment { log: LogKind::Pointer, ordinal: Ordinal(2), epoch: Epoch(1) };
    let at = |operation| Filter::any().operation(operation);
    // And which trees are flushed all the same.
    let faults = [
        (at(Operation::Create).tables(TableKind::Names), Fault::Eio, [true, false]),
        (at(Operation::Write).tables(TableKind::Names), Fault::Enospc, [true, false]),
        (at(Operation::Write).tables(TableKind::Index), Fault::Enospc, [false, true]),
        (at(Operation::Create).file(next), Fault::Enospc, [true, false]),
        (at(Operation::Write).file(next), Fault::Enospc, [true, false]),
    ];
    for (filter, fault, flushed) in faults {
        let builder = || {
            let builder = Store::builder().maintenance(Maintenance::Inline);
            builder.segment_bytes(64 << 10).memtable_entries_max(160)
        };
        let open =
            |disk: &Arc<SimDisk>| builder().open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap();
        let disk = SimDisk::new(1);
        let store = open(&disk);
        let values = (0..100_u32).map(|number| number.to_le_bytes().repeat(150));
        let digests: Vec<_> = values.map(|value| store.put(&value).unwrap().digest).collect();
        for (number, digest) in digests.iter().enumerate() {
            store.commit(Batch::new().set(number.to_string(), *digest)).unwrap();
        }
        disk.fail_when(filter, fault);
        store.close().unwrap();
        disk.heal();
        let store = open(&disk);
        let stats = store.stats();
        assert!(stats.recovery.clean, "{fault:?}");
        let has_tables = [!stats.index.levels.is_empty(), !stats.names.levels.is_empty()];
        assert_eq!(has_tables, flushed, "{fault:?}");
        for (number, digest) in digests.iter().enumerate() {
            assert_eq!(store.pointer(number.to_string()).unwrap(), Some(*digest), "{fault:?}");
            assert!(store.get(digest).unwrap().is_some(), "{fault:?}");
        }
        assert!(store.check(&CheckOptions::default()).unwrap().findings.is_empty(), "{fault:?}");
    }
}

/// A list is read when the store is opened, and not the values.
#[test]
fn a_close_leaves_little_unsealed_and_seals_nothing_short() {
    let segment_bytes = 64 << 10;
    let builder = || Store::builder().maintenance(Maintenance::Inline).segment_bytes(segment_bytes);
    let open = |disk: &Arc<SimDisk>| builder().open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap();
    let values = |from: u32, count: u32| (from..from + count).map(|n| n.to_le_bytes().repeat(250));
    let disk = SimDisk::new(1);
    let mut put_count = 0;
    for (count, are_sealed) in [(5, false), (5, true), (1, false), (20, true), (130, true)] {
        let store = open(&disk);
        let before = store.stats().blob_log;
        for value in values(put_count, count) {
            store.put(&value).unwrap();
        }
        put_count += count;
        store.close().unwrap();
        let store = open(&disk);
        let after = store.stats().blob_log;
        assert_eq!(after.sealed_count > before.sealed_count, are_sealed, "{count} values");
        assert_eq!(store.stats().recovery.values_replayed == 0, are_sealed, "{count} values");
        assert!(store.stats().recovery.clean);
        for value in values(0, put_count) {
            assert_eq!(store.get(&Digest::of(&value)).unwrap().unwrap(), value);
        }
        // Nothing was written: nothing is sealed.
        store.close().unwrap();
        assert_eq!(open(&disk).stats().blob_log.sealed_count, after.sealed_count);
    }
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    assert!(open(&disk).check(&options).unwrap().findings.is_empty());
}

#[test]
fn a_store_whose_last_segment_cannot_be_sealed_is_closed_all_the_same() {
    let faults = [
        (Filter::any().operation(Operation::Allocate), Fault::Enospc),
        (Filter::any().operation(Operation::Create), Fault::Eio),
        (Filter::any().operation(Operation::Create), Fault::Emfile),
    ];
    for (filter, fault) in faults {
        let small = tiny_tables().maintenance(Maintenance::Inline).segment_bytes(64 << 10);
        let disk = SimDisk::new(1);
        let store = small.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        let values = (0..20_u32).map(|number| number.to_le_bytes().repeat(250));
        let digests: Vec<_> = values.map(|value| store.put(&value).unwrap().digest).collect();
        disk.fail_when(filter, fault);
        store.close().unwrap();
        disk.heal();
        let store = open(&disk);
        let stats = store.stats();
        assert!(stats.recovery.clean && stats.blob_log.sealed_count == 0, "{fault:?}");
        assert!(digests.iter().all(|digest| store.get(digest).unwrap().is_some()), "{fault:?}");
    }
}

/// What a close asks for, it does not take from what has to be written: neither a further segment nor a table.
#[test]
fn a_close_takes_no_space_from_what_was_put_that_it_could_do_without() {
    let builder = || {
        let builder = Store::builder().segment_bytes(64 << 10).pointer_segment_bytes(64 << 10);
        let builder = builder.memtable_entries_max(64);
        builder.reserve_bytes(0).maintenance(Maintenance::Inline)
    };
    let open = |disk: &Arc<SimDisk>| builder().open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap();
    let value = |number: u32| number.to_le_bytes().repeat(100);
    let disk = SimDisk::new(1);
    let store = open(&disk);
    for number in 0..5 {
        let digest = store.put(&value(number)).unwrap().digest;
        store.commit(Batch::new().set(format!("name-{number}"), digest)).unwrap();
    }
    store.close().unwrap();
    let mut refused = Vec::new();
    for more in (56_u64..112).step_by(4) {
        let disk = disk.clean_reopen();
        // Nearly full when it is opened, and less so later.
        disk.set_capacity(Some(disk.used_bytes() + (48 << 10)));
        let store = open(&disk);
        store.commit(Batch::new().delete("another")).unwrap();
        disk.set_capacity(Some(disk.used_bytes() + (more << 10)));
        let digests: Vec<_> =
            (100..140).map(|number| store.put(&value(number)).unwrap().digest).collect();
        if let Err(error) = store.close() {
            refused.push((more, told(&error)));
        } else {
            let store = open(&disk);
            assert!(digests.iter().all(|digest| store.get(digest).unwrap().is_some()));
        }
    }
    assert!(refused.is_empty(), "{refused:?}");
}

/// What it writes for the next open's sake would take the space that others count on.
#[test]
fn a_close_flushes_nothing_without_a_reserve() {
    for reserve_bytes in [0, 1 << 20] {
        let disk = SimDisk::new(1);
        let small = flushing().reserve_bytes(reserve_bytes);
        let store = small.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        for number in 0..100_u32 {
            let digest = store.put(&number.to_le_bytes().repeat(200)).unwrap().digest;
            store.commit(Batch::new().set(number.to_string(), digest)).unwrap();
        }
        store.close().unwrap();
        let table_count = disk.names().iter().filter(|name| name.ends_with(".table")).count();
        assert_eq!(table_count, if reserve_bytes == 0 { 0 } else { 2 });
    }
}

/// A root that is cut where it cannot have been cut by a crash: it is told, or all names are there.
fn damaged_roots_are_told(disk: &SimDisk, digests: &[Digest], what: &str) {
    let is_root = |name: &String| name.starts_with("root-");
    for file in disk.names().into_iter().filter(is_root) {
        let bytes = disk.file_bytes(&file).unwrap();
        for cut in (0..bytes.len()).step_by(64) {
            let disk = disk.clean_reopen();
            disk.put_file(&file, &bytes[..cut]);
            let opened = flushing().open_on(Arc::clone(&disk) as Arc<dyn Disk>);
            for (number, digest) in digests.iter().enumerate().take_while(|_| opened.is_ok()) {
                let found = opened.as_ref().unwrap().pointer(number.to_string()).unwrap();
                assert_eq!(found, Some(*digest), "{what}: {file} cut at {cut}");
            }
        }
    }
}

fn flushing() -> pinstone::StoreBuilder {
    let builder = Store::builder().maintenance(Maintenance::Inline);
    builder.segment_bytes(64 << 10).memtable_entries_max(160)
}

/// Names that are flushed take the frames with them that testify to the root, and the index has yet to be flushed.
#[test]
fn whatever_fails_while_a_close_flushes_something_testifies_to_the_root() {
    let filled = || {
        let disk = SimDisk::new(1);
        let open = || flushing().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        let store = open();
        let values = (0..100_u32).map(|number| number.to_le_bytes().repeat(150));
        let digests: Vec<_> = values.map(|value| store.put(&value).unwrap().digest).collect();
        // It stays in the index' memtable.
        let writes = Filter::any().operation(Operation::Write).tables(TableKind::Index);
        disk.fail_when(writes, Fault::Enospc);
        store.close().unwrap();
        disk.heal();
        let store = open();
        for (number, digest) in digests.iter().enumerate() {
            store.commit(Batch::new().set(number.to_string(), *digest)).unwrap();
        }
        (disk, digests, store)
    };
    let (disk, digests, store) = filled();
    let before = disk.op_count();
    store.close().unwrap();
    let after = disk.op_count();
    damaged_roots_are_told(&disk, &digests, "nothing");
    let mut closed_count = 0;
    for (op, fault) in (before..=after)
        .flat_map(|op| [Fault::Eio, Fault::Enospc, Fault::Emfile].map(|fault| (op, fault)))
    {
        let (disk, digests, store) = filled();
        disk.fail_at(op, fault);
        let is_closed = store.close().is_ok();
        disk.heal();
        if is_closed {
            closed_count += 1;
            damaged_roots_are_told(&disk.clean_reopen(), &digests, &format!("{op} {fault:?}"));
        }
    }
    assert!(closed_count > 10, "{closed_count}");
}
