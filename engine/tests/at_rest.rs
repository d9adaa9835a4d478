//! A store that was closed stays as it is until something is written (decision 0018).

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{small_tables, told};
use pinstone::{Batch, CheckOptions, Digest, Error, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, FileName, Operation};

fn open(disk: &Arc<SimDisk>) -> Store {
    open_as(small_tables(), disk).unwrap()
}

fn open_as(builder: StoreBuilder, disk: &Arc<SimDisk>) -> pinstone::Result<Store> {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

fn value(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(100)
}

fn name(number: u32) -> String {
    format!("name-{number:03}")
}

const COUNT: u32 = 60;

/// So many values, each with a name.
fn fill(store: &Store, count: u32) {
    for number in 0..count {
        let digest = store.put(&value(number)).unwrap().digest;
        store.commit(Batch::new().set(name(number), digest)).unwrap();
    }
}

/// Values, each with a name, in tables and in logs; closed.
fn closed() -> Arc<SimDisk> {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    fill(&store, COUNT);
    store.compact().unwrap();
    for number in 0..3 {
        let digest = store.put(&value(COUNT + number)).unwrap().digest;
        store.commit(Batch::new().set(name(number), digest)).unwrap();
    }
    store.close().unwrap();
    // What the close flushed may have made something due.
    let store = open(&disk);
    store.maintain().unwrap();
    store.close().unwrap();
    disk
}

fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.names().into_iter();
    names.map(|name| (name.clone(), disk.file_bytes(&name).unwrap())).collect()
}

fn has_all(store: &Store) {
    for number in 0..COUNT {
        let newest = if number < 3 { COUNT + number } else { number };
        let digest = Digest::of(&value(newest));
        assert_eq!(store.pointer(name(number)).unwrap(), Some(digest), "{number}");
        assert_eq!(store.get(&digest).unwrap().unwrap(), value(newest), "{number}");
    }
}

#[test]
fn who_only_reads_writes_nothing() {
    let disk = closed();
    let before = files(&disk);
    let mutation_count = disk.mutation_count();
    let store = open(&disk);
    has_all(&store);
    let digests: Vec<_> = (0..COUNT).map(|number| Digest::of(&value(number))).collect();
    assert!(store.get_many(&digests).into_iter().all(|value| value.unwrap().is_some()));
    assert!(store.contains_many(&digests).into_iter().all(|held| held.unwrap()));
    assert_eq!(
        store.pointers::<std::ops::RangeFull>(..).map(Result::unwrap).count(),
        COUNT as usize
    );
    assert_eq!(store.snapshot().pointer(name(7)).unwrap(), Some(digests[7]));
    // Of what is known nothing is stored, and a refused commit changes nothing.
    assert_eq!(store.put(&value(7)).unwrap().digest, digests[7]);
    assert!(store.commit(Batch::new().require(name(7), None).delete(name(8))).is_err());
    assert!(store.commit(Batch::new().set(name(7), Digest::of(b"none"))).is_err());
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    assert!(store.check(&options).unwrap().findings.is_empty());
    store.sync().unwrap();
    store.maintain().unwrap();
    let stats = store.stats();
    assert!(stats.recovery.clean && stats.root_log.unsynced_bytes == 0);
    // Killed now, it is as it was.
    assert!(open(&disk.clean_reopen()).stats().recovery.clean);
    store.clone().close().unwrap();
    assert!(matches!(store.put(b"another"), Err(Error::Poisoned { .. })));
    // The lock.
    assert_eq!(disk.mutation_count(), mutation_count + 1);
    assert_eq!(files(&disk), before);
    assert_eq!(open(&disk).stats().epoch, stats.epoch);
}

/// Something that is written.
type Write = fn(&Store) -> pinstone::Result<()>;

const WRITES: [(&str, Write); 5] = [
    ("put", |store| store.put(b"another").map(drop)),
    ("put_many", |store| store.put_many(&[b"one", b"two"]).remove(1).map(drop)),
    ("set", |store| store.commit(Batch::new().set("name", Digest::of(&value(5)))).map(drop)),
    ("delete", |store| store.commit(Batch::new().delete("name")).map(drop)),
    ("compact", |store| store.compact()),
];

#[test]
fn the_first_write_takes_the_store_over() {
    let made = closed();
    let root_of = |disk: &SimDisk| {
        let mut roots = disk.names();
        roots.retain(|name| name.starts_with("root-"));
        assert_eq!(roots.len(), 1, "{roots:?}");
        roots.remove(0)
    };
    for (what, write) in WRITES {
        let disk = made.clean_reopen();
        let store = open(&disk);
        let (epoch, root) = (store.stats().epoch, root_of(&disk));
        write(&store).unwrap();
        assert_eq!(store.stats().epoch, epoch + 1, "{what}");
        assert_ne!(root_of(&disk), root, "{what}");
        let killed = open(&disk.clean_reopen());
        has_all(&killed);
        assert_eq!(killed.pointer("name").unwrap().is_some(), what == "set");
        store.close().unwrap();
        let again = open(&disk);
        assert!(again.stats().recovery.clean && again.stats().epoch == epoch + 1, "{what}");
        has_all(&again);
    }
}

#[test]
fn what_was_written_after_a_clean_open_is_not_taken_for_clean() {
    let disk = closed();
    let store = open(&disk);
    assert!(store.stats().recovery.clean);
    store.commit(Batch::new().set("name", Digest::of(&value(5)))).unwrap();
    let again = open(&disk.clean_reopen());
    assert!(!again.stats().recovery.clean && again.stats().recovery.bytes_copied > 0);
    assert!(again.pointer("name").unwrap().is_some());
}

#[test]
fn each_failure_of_the_first_write_leaves_a_store_that_goes_on_or_opens_again() {
    let made = closed();
    let mut failed = 0;
    for (what, write) in WRITES {
        let faults = [Fault::Eio, Fault::Enospc, Fault::Emfile, Fault::SyncEnospc];
        for (fault, is_full) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)])
        {
            for op in 1.. {
                let disk = made.clean_reopen();
                if is_full {
                    disk.set_capacity(Some(disk.used_bytes()));
                }
                let store = open(&disk);
                let op = disk.op_count() + op;
                disk.fail_at(op, fault);
                let first = write(&store);
                if disk.op_count() < op {
                    break;
                }
                has_all(&store);
                disk.set_capacity(None);
                let context = format!("{what}, {fault:?} at {op}: {:?}", first.as_ref().err());
                failed += u32::from(first.is_err());
                match write(&store) {
                    Ok(()) => {}
                    Err(Error::Poisoned { .. }) => assert!(store.stats().poisoned.is_some()),
                    Err(error) => panic!("{context}: then {}", told(&error)),
                }
                let closed = store.clone().close();
                assert!(closed.is_ok() || store.stats().poisoned.is_some(), "{context}");
                let again = open(&disk);
                has_all(&again);
                write(&again).unwrap();
                drop(again);
                has_all(&open(&disk.after_crash(CrashState::Nothing)));
            }
        }
    }
    assert!(failed > 100, "{failed}");
}

/// Nobody else has opened it for writing, as long as the lock is one. A directory copied over it is no lock's business.
#[test]
fn who_finds_that_another_took_it_over_writes_nothing() {
    let disk = closed();
    let store = open(&disk);
    let other = disk.clean_reopen();
    let another = open(&other);
    another.put(b"another").unwrap();
    another.close().unwrap();
    disk.put_file("CURRENT", other.file_bytes("CURRENT").unwrap());
    let before = files(&disk);
    for (what, write) in WRITES {
        match write(&store).unwrap_err() {
            Error::Corrupt { file, .. } => assert_eq!(file, "CURRENT", "{what}"),
            error => panic!("{what}: {}", told(&error)),
        }
    }
    assert_eq!(files(&disk), before);
    has_all(&store);
}

#[test]
fn what_is_closed_rests_however_much_it_holds() {
    for count in (0..200).step_by(13) {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        fill(&store, count);
        store.close().unwrap();
        let before = files(&disk);
        let store = open(&disk);
        for number in 0..count {
            assert_eq!(store.get(&Digest::of(&value(number))).unwrap().unwrap(), value(number));
        }
        store.close().unwrap();
        assert_eq!(files(&disk), before, "{count} values");
    }
}

/// Whatever the last one left set aside, and this one asks for.
#[test]
fn a_failed_sync_while_a_store_is_taken_over_ends_writing() {
    let mut failed = 0;
    for (reserve_bytes, is_full) in [(0, false), (1 << 20, true), (0, true), (1 << 20, false)] {
        for op in 1.. {
            let disk = closed();
            if is_full {
                disk.set_capacity(Some(disk.used_bytes()));
            }
            let store = open_as(small_tables().reserve_bytes(reserve_bytes), &disk).unwrap();
            let op = disk.op_count() + op;
            disk.fail_at(op, Fault::SyncFailsThenClean);
            let first = store.commit(Batch::new().delete(name(7)));
            if disk.op_count() < op {
                break;
            }
            let Err(error) = first else { continue };
            let has_synced = told(&error).contains("syncing");
            assert_eq!(has_synced, store.stats().poisoned.is_some(), "{}", told(&error));
            failed += u32::from(has_synced);
        }
    }
    assert!(failed > 20, "{failed}");
}

/// A recovery that copied what it found, and was ended before CURRENT was durably turned to it, on a device that is full
/// by then: what its copies say may be gone with a power loss.
#[test]
fn what_is_read_on_a_full_device_is_durable() {
    let set = |store: &Store, name: &str, value: &[u8]| {
        let digest = store.put(value).unwrap().digest;
        store.commit(Batch::new().set(name, digest))
    };
    let mut opened = 0;
    for reserve_bytes in [0, 64 << 10, 1 << 20] {
        let builder = || small_tables().reserve_bytes(reserve_bytes);
        for op in 1.. {
            let disk = SimDisk::new(1);
            let store = open_as(builder(), &disk).unwrap();
            set(&store, "first", b"value").unwrap();
            disk.fail_when(Filter::any().operation(Operation::Sync), Fault::SyncFailsThenClean);
            set(&store, "second", b"another value").unwrap_err();
            let image = disk.clean_reopen();
            let op = image.op_count() + op;
            image.fail_at(op, Fault::Eio);
            let ended = open_as(builder(), &image);
            if image.op_count() < op {
                break;
            }
            if ended.is_ok() {
                continue;
            }
            let image = image.clean_reopen();
            if reserve_bytes > 0 && image.names().contains(&"RESERVE".to_owned()) {
                // As if it had been given back.
                image.put_file("RESERVE", b"");
            }
            for free_bytes in [0, 512, 1024, 2048] {
                let full = image.clean_reopen();
                full.set_capacity(Some(full.used_bytes() + free_bytes));
                let Ok(store) = open_as(builder(), &full) else { continue };
                opened += 1;
                let found = store.pointer("second").unwrap();
                let after = full.after_crash(CrashState::Nothing);
                after.set_capacity(None);
                let again = open_as(builder(), &after).unwrap();
                assert!(again.pointer("first").unwrap().is_some());
                if found.is_some() {
                    assert_eq!(again.pointer("second").unwrap(), found, "{reserve_bytes}, {op}");
                }
            }
        }
    }
    assert!(opened > 20, "{opened}");
}

/// An opener on a full device gave back what was set aside, and others took it: its length is all that is left.
#[test]
fn what_is_set_aside_by_its_length_alone_is_set_aside_anew() {
    let disk = closed();
    let store = open(&disk);
    disk.fail_when(Filter::any().operation(Operation::Create), Fault::Enospc);
    let reserve = Filter::any().operation(Operation::Allocate).file(FileName::Reserve);
    disk.fail_when(reserve, Fault::Enospc);
    assert!(matches!(store.commit(Batch::new().delete(name(7))), Err(Error::NoSpace { .. })));
    disk.heal();
    store.close().unwrap();
    open(&disk).close().unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    let store = open(&disk);
    has_all(&store);
    store.commit(Batch::new().delete(name(7))).unwrap();
}

/// An opener gave back what was set aside, and was killed; now nothing can be written, for whatever reason.
#[test]
fn what_keeps_space_from_being_set_aside_keeps_nobody_from_reading() {
    let disk = closed();
    disk.put_file("RESERVE", b"");
    disk.fail_when(Filter::any().operation(Operation::Create), Fault::Eio);
    let store = open(&disk);
    has_all(&store);
    store.put(b"another").unwrap_err();
    disk.heal();
    store.put(b"another").unwrap();
}

/// Whatever became of the logs that they began, no two openers give files the same name.
#[test]
fn who_fails_to_take_a_store_over_spends_the_epoch() {
    let disk = closed();
    let roots = || -> BTreeSet<String> {
        disk.names().into_iter().filter(|name| name.starts_with("root-")).collect()
    };
    let mut seen = roots();
    let turns = Filter::any().operation(Operation::Write).file(FileName::CurrentTemp);
    disk.fail_when(turns, Fault::Eio);
    for _ in 0..4 {
        open_as(small_tables(), &disk).and_then(|store| store.put(b"another")).unwrap_err();
        let left: Vec<_> = roots().into_iter().filter(|name| seen.insert(name.clone())).collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
    disk.heal();
    has_all(&open(&disk));
    assert_eq!(roots().len(), 1);
}
