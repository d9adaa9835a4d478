//! Letting go of what is carried while more goes wrong than a bad copy: full devices, crashes, failed reads, thousands of
//! bad copies.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::small::{builder, commit, open_as, segments, stands, value};
use common::{say, told};
use pinstone::{Batch, Digest, Maintenance, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{LogKind, Operation};

fn short(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(5)
}

fn delete_until_sealed(disk: &SimDisk, store: &Store) {
    while segments(disk, LogKind::Pointer).len() == 1 {
        store.commit(Batch::new().delete("no such name")).unwrap();
    }
}

/// The short value whose bytes stand there, if any.
fn short_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = |nth: usize| &bytes[at + nth * 4..at + nth * 4 + 4];
    let number = u32::from_le_bytes(word(0).try_into().unwrap());
    (number < 1 << 20 && (1..5).all(|nth| word(nth) == word(0))).then_some(number)
}

/// Puts values, and commits, a hundred at a time.
fn commit_all(store: &Store, numbers: impl Iterator<Item = u32>) {
    for some in numbers.collect::<Vec<_>>().chunks(100) {
        let digests: Vec<_> =
            some.iter().map(|number| store.put(&short(*number)).unwrap().digest).collect();
        let last = *digests.last().unwrap();
        store.commit(Batch::new().set("name", last)).unwrap();
    }
}

/// The short values that the first segment of the pointer log carries.
fn carried(disk: &SimDisk) -> BTreeSet<u32> {
    let bytes = disk.file_bytes(&segments(disk, LogKind::Pointer)[0].to_string()).unwrap();
    (0..bytes.len() - 20)
        .filter_map(|at| short_at(&bytes, at))
        .filter(|number| *number > 0)
        .collect()
}

/// All copies of these in the blob log go bad.
fn make_bad(disk: &SimDisk, numbers: &BTreeSet<u32>) {
    for name in segments(disk, LogKind::Blob) {
        disk.corrupt(&name.to_string(), 0, |bytes| {
            for at in 0..bytes.len().saturating_sub(20) {
                if short_at(bytes, at).is_some_and(|number| numbers.contains(&number)) {
                    bytes[at + 1] ^= 0x40;
                }
            }
        });
    }
}

/// `count` short values, carried, all of which go bad in the blob log.
fn all_bad(builder: StoreBuilder, count: u32) -> (Arc<SimDisk>, Store) {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder).unwrap();
    commit_all(&store, 0..count);
    let is_carried = carried(&disk);
    assert!(is_carried.len() > count as usize * 9 / 10);
    make_bad(&disk, &is_carried);
    (disk, store)
}

fn lost_short(store: &Store, count: u32) -> usize {
    let read = |number: &u32| store.get(&Digest::of(&short(*number)));
    (0..count).filter(|number| read(number).is_err()).count()
}

#[test]
fn the_stack_does_not_grow_with_what_is_put_anew() {
    let count = 4500;
    let (disk, store) = all_bad(builder().pointer_segment_bytes(2 << 20), count);
    delete_until_sealed(&disk, &store);
    assert_eq!(lost_short(&store, count), 0);
}

#[test]
fn more_is_put_anew_than_may_be_known_to_be_bad() {
    let count = 6000;
    let builder = builder()
        .memory_bytes(16 << 20)
        .segment_bytes(8 << 20)
        .pointer_segment_bytes(2 << 20)
        .maintenance(Maintenance::Thread);
    let (disk, store) = all_bad(builder, count);
    delete_until_sealed(&disk, &store);
    store.maintain().unwrap();
    assert_eq!(lost_short(&store, count), 0);
}

/// Of some values two copies are bad, and of which that is known is forgotten.
#[test]
fn what_is_bad_twice_is_put_anew_though_it_was_forgotten_to_be_bad() {
    // In an unsealed segment, or in sealed ones.
    [8 << 20, 64 << 10].into_iter().for_each(is_put_anew_though_forgotten);
}

fn is_put_anew_though_forgotten(segment_bytes: u64) {
    let options = || {
        let builder = builder().memory_bytes(16 << 20).segment_bytes(segment_bytes);
        builder.pointer_segment_bytes(4 << 20)
    };
    let disk = SimDisk::new(1);
    let store = open_as(&disk, options()).unwrap();
    let twice: BTreeSet<u32> = (6001..=8000).collect();
    twice.iter().for_each(|number| assert!(store.put(&short(*number)).unwrap().new));
    store.sync().unwrap();
    make_bad(&disk, &twice);
    assert!(twice.iter().all(|number| store.get(&Digest::of(&short(*number))).is_err()));
    commit_all(&store, 1..=8000);
    let is_carried = carried(&disk);
    assert!(is_carried.len() > 7000);
    make_bad(&disk, &is_carried);
    delete_until_sealed(&disk, &store);
    store.maintain().unwrap();
    for store in [Some(store), None] {
        let again = || open_as(&disk.after_crash(CrashState::Everything), options()).unwrap();
        let store = store.unwrap_or_else(again);
        let is_lost = |number: &&u32| store.get(&Digest::of(&short(**number))).is_err();
        assert_eq!(is_carried.iter().filter(is_lost).count(), 0);
    }
}

/// At one place, or once.
#[test]
fn what_cannot_be_read_of_what_is_carried_costs_no_other_value() {
    for is_once in [false, true] {
        let disk = SimDisk::new(1);
        let store = open_as(&disk, builder()).unwrap();
        (0..60).for_each(|number| commit(&store, number));
        let (name, at) = stands(&disk, LogKind::Blob, &value(30)).unwrap();
        disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
        let (pointer, at) = stands(&disk, LogKind::Pointer, &value(3)).unwrap();
        let sector = Filter::any().operation(Operation::Read).file(pointer);
        if is_once {
            disk.fail_when(sector.nth(0), Fault::Eio);
        } else {
            disk.fail_when(sector.bytes(at / 512 * 512..at / 512 * 512 + 512), Fault::Eio);
        }
        delete_until_sealed(&disk, &store);
        let read = store.get(&Digest::of(&value(30)));
        assert_eq!(
            read.map_err(|error| format!("{is_once} {}", told(&error))),
            Ok(Some(value(30).into()))
        );
    }
}

/// A full device, a bad copy in the last segment that only the pointer log makes good, deletions.
fn full_with_a_bad_copy(options: impl Fn() -> StoreBuilder) -> (Arc<SimDisk>, Store) {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, options()).unwrap();
    (0..30).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    let (name, at) = stands(&disk, LogKind::Blob, &value(7)).unwrap();
    disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
    disk.set_capacity(Some(disk.used_bytes()));
    for number in 0..3000 {
        store.commit(Batch::new().delete(format!("name-{}", 10 + number % 20))).unwrap();
    }
    (disk, store)
}

fn full() -> StoreBuilder {
    builder().segment_bytes(256 << 10).reserve_bytes(1 << 20)
}

#[test]
fn a_full_device_and_a_bad_copy_lose_no_value() {
    let (_disk, store) = full_with_a_bad_copy(full);
    // Written once more where it stood, and known to be well.
    assert!(store.contains(&Digest::of(&value(7))).unwrap());
    assert!(!store.put(&value(7)).unwrap().new);
    let read = store.get(&Digest::of(&value(7))).map_err(|error| told(&error));
    assert!(read == Ok(Some(value(7).into())), "{}", read.unwrap_err());
}

#[test]
fn a_full_device_and_a_bad_copy_do_not_end_the_store() {
    let mut failed = Vec::new();
    for has_end in ["crash", "close", "crash, with space", "close, with space"] {
        let (disk, store) = full_with_a_bad_copy(full);
        if has_end.ends_with("space") {
            disk.set_capacity(None);
            store.maintain().unwrap();
        }
        let disk = if has_end.starts_with("close") {
            let _closed = store.close();
            disk.clean_reopen()
        } else {
            disk.after_crash(CrashState::Nothing)
        };
        disk.set_capacity(None);
        match open_as(&disk, full()) {
            Ok(_) => {}
            Err(error) => failed.push((has_end, told(&error))),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_full_device_and_a_sector_that_cannot_be_read_do_not_end_the_store() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, full()).unwrap();
    (0..30).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    let (name, at) = stands(&disk, LogKind::Blob, &value(7)).unwrap();
    let sector = Filter::any()
        .operation(Operation::Read)
        .file(name)
        .bytes(at / 512 * 512..at / 512 * 512 + 512);
    disk.fail_when(sector, Fault::Eio);
    disk.set_capacity(Some(disk.used_bytes()));
    for number in 0..3000 {
        store.commit(Batch::new().delete(format!("name-{}", 10 + number % 20))).unwrap();
    }
    disk.set_capacity(None);
    store.maintain().unwrap();
    store.close().unwrap();
    let disk = disk.clean_reopen();
    disk.fail_when(sector, Fault::Eio);
    let opened = open_as(&disk, full());
    assert!(opened.is_ok(), "{}", told(&opened.unwrap_err()));
}

/// Commits three bad copies among ten, and deletes until the segment has gone that carries them, or until the disk
/// crashes at this mutation. Says how many deletions were made, and whether it crashed.
fn let_go_until(
    disk: &Arc<SimDisk>,
    is_full: bool,
    has_synced: bool,
    mutation: u64,
) -> (u32, bool) {
    let store = open_as(disk, small()).unwrap();
    (0..10).for_each(|number| commit(&store, number));
    if has_synced {
        store.sync().unwrap();
    }
    for number in [2, 3, 7] {
        let (name, at) = stands(disk, LogKind::Blob, &value(number)).unwrap();
        disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
    }
    if is_full {
        disk.set_capacity(Some(disk.used_bytes()));
    }
    disk.crash_at_mutation(disk.mutation_count() + 1 + mutation);
    let (name, mut count) = (segments(disk, LogKind::Pointer)[0], 0);
    while !disk.crashed() && segments(disk, LogKind::Pointer).contains(&name) && count < 600 {
        let _done = store.commit(Batch::new().delete(format!("no such name {count}")));
        count += 1;
    }
    (count, disk.crashed())
}

fn small() -> StoreBuilder {
    full().pointer_segment_bytes(16 << 10)
}

#[test]
fn a_crash_anywhere_while_values_are_put_anew_loses_none() {
    let mut tried = 0;
    for (is_full, has_synced) in [(false, false), (false, true), (true, false), (true, true)] {
        for mutation in 0.. {
            let disk = SimDisk::new(mutation);
            let (count, has_crashed) = let_go_until(&disk, is_full, has_synced, mutation);
            for state in [CrashState::Nothing, CrashState::Everything, CrashState::Random(mutation)]
            {
                tried += 1;
                let what = || format!("{is_full} {has_synced} {mutation} {state:?}");
                let disk = disk.after_crash(state);
                disk.set_capacity(None);
                let store = open_as(&disk, small());
                let store = store.unwrap_or_else(|error| panic!("{}: {}", what(), told(&error)));
                for number in 0..10 {
                    let read = store.get(&Digest::of(&value(number)));
                    let read = read.map_err(|error| told(&error));
                    assert!(read == Ok(Some(value(number).into())), "{}: {number}", what());
                }
            }
            if !has_crashed {
                assert!(count > 20, "{count} deletions");
                break;
            }
        }
    }
    say(format!("{tried} crashes tried"));
    assert!(tried > 1000, "{tried}");
}
