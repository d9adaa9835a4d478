//! Before the pointer log lets go of what it carries, the blob log has it: whoever found a copy bad, or nobody.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::small::{builder, commit, open, open_as, segments, value};
use common::{Dice, caught, say, told};
use pinstone::{Batch, CheckOptions, Digest, Maintenance, Store, StoreBuilder, Verify};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, FileName, LogKind, OpenMode, Operation};
use pinstone_wal::{FrameBuilder, FramePlace, RecordKind, Scan, StoreSeed, read_header};

/// Commits that depend on no value.
fn delete(store: &Store, count: u32) {
    for number in 0..count {
        store.commit(Batch::new().delete(format!("no-such-name-{number}"))).unwrap();
    }
}

fn check(store: &Store) -> usize {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    store.check(&options).unwrap().findings.len()
}

/// Puts other bytes into the blob log under the digest of `value(number)`; every checksum agrees.
fn forge(disk: &SimDisk, number: u32, bytes: &[u8]) {
    let name = segments(disk, LogKind::Blob)[0];
    let file = disk.open(name, OpenMode::Read).unwrap();
    let header = read_header(disk, &file, &name).unwrap();
    let scan = Scan::of(header, disk.file_bytes(&name.to_string()).unwrap().into());
    let digest = Digest::of(&value(number));
    let mut found = None;
    scan.records(scan.valid_end_bytes, |frame, _, record| {
        if record.payload.starts_with(digest.as_bytes()) {
            found = Some(*frame);
        }
    });
    let frame = found.unwrap();
    let mut forged = FrameBuilder::with_capacity(0);
    let payload = [&digest.as_bytes()[..], bytes].concat();
    forged.push(StoreSeed::new(&header.store_id), RecordKind::Value, &payload);
    let place = FramePlace {
        epoch: frame.header.epoch,
        sequence: frame.header.sequence,
        synced: frame.header.synced,
        last: false,
    };
    let (_, bytes) = forged.finish(header.seed(), frame.offset_bytes, &place);
    disk.corrupt(&name.to_string(), frame.offset_bytes, |rest| {
        rest[..bytes.len()].copy_from_slice(&bytes);
    });
}

/// A copy whose digest a check found wrong is bad, whatever its checksum says.
#[test]
fn a_commit_writes_no_bytes_anew_that_a_check_found_to_be_another_values() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (1..4).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    forge(&disk, 2, &[0x55; 400]);
    assert!(check(&store) > 0);
    let digest = Digest::of(&value(2));
    let committed = store.commit(Batch::new().set("again", digest));
    // The owner of the value brings it: that is what heals it.
    let put = store.put(&value(2)).unwrap();
    let read = store.get(&digest);
    assert_eq!(read.unwrap().unwrap(), value(2), "{committed:?}, {put:?}");
}

/// The same where nothing carries the value any more, but something else is carried.
#[test]
fn a_put_heals_what_a_check_found_to_be_another_values_whoever_committed_it_since() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let digest = store.put(&value(2)).unwrap().digest;
    store.sync().unwrap();
    commit(&store, 1);
    forge(&disk, 2, &[0x55; 400]);
    assert!(check(&store) > 0);
    let committed = store.commit(Batch::new().set("again", digest));
    let put = store.put(&value(2)).unwrap();
    let read = store.get_verified(&digest, Verify::Digest);
    assert!(put.new, "{committed:?}, {put:?}, then {read:?}");
}

#[test]
fn what_a_check_found_by_its_digest_is_written_anew_before_its_good_copy_leaves() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (1..4).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    forge(&disk, 2, &[0x55; 400]);
    assert!(check(&store) > 0);
    let digest = Digest::of(&value(2));
    let carried = disk.clean_reopen();
    // There is a good copy.
    let bytes = carried.file_bytes(&segments(&carried, LogKind::Pointer)[0].to_string()).unwrap();
    assert!(bytes.windows(400).any(|bytes| *bytes == value(2)));
    store.maintain().unwrap();
    (4..200).for_each(|number| commit(&store, number));
    let read = store.get_verified(&digest, Verify::Digest);
    assert_eq!(read.map_err(|error| told(&error)), Ok(Some(value(2).into())));
}

/// Nobody syncs what a put heals.
#[test]
fn what_a_put_heals_is_durable_before_the_pointer_log_lets_go_of_the_good_copy() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().segment_bytes(16 << 10)).unwrap();
    (1..40).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    store.maintain().unwrap();
    let digest = Digest::of(&value(2));
    let stands = |name: &FileName| {
        let bytes = disk.file_bytes(&name.to_string()).unwrap();
        bytes.windows(400).position(|bytes| *bytes == value(2))
    };
    let name = segments(&disk, LogKind::Blob).into_iter().find(|name| stands(name).is_some());
    let at = stands(&name.unwrap()).unwrap() as u64;
    disk.corrupt(&name.unwrap().to_string(), at, |rest| rest[0] ^= 1);
    assert!(check(&store) > 0);
    assert!(store.put(&value(2)).unwrap().new);
    // The good copy is there until a segment of the pointer log is sealed.
    let before = disk.after_crash(CrashState::Nothing);
    let reopened = open_as(&before, builder().segment_bytes(16 << 10)).unwrap();
    assert_eq!(reopened.get(&digest).unwrap().unwrap(), value(2));
    store.maintain().unwrap();
    delete(&store, 200);
    store.maintain().unwrap();
    let after = disk.after_crash(CrashState::Nothing);
    let reopened = open_as(&after, builder().segment_bytes(16 << 10)).unwrap();
    assert!(reopened.pointer("name-2").unwrap().is_some());
    let read = reopened.get(&digest);
    assert_eq!(read.map_err(|error| told(&error)), Ok(Some(value(2).into())));
}

/// What was read as the pointer log carries it, and was written anew, is no reason to refuse the store later.
#[test]
fn a_store_that_healed_all_that_was_bad_opens_again() {
    for is_closed in [true, false] {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        (0..3).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        let name = segments(&disk, LogKind::Blob)[0];
        disk.corrupt(&name.to_string(), 512 + 100, |rest| rest[0] ^= 1);
        assert_eq!(store.get(&Digest::of(&value(0))).unwrap().unwrap(), value(0));
        // It opens now.
        open(&disk.after_crash(CrashState::Nothing));
        // The segment leaves that carries it.
        (3..200).for_each(|number| commit(&store, number));
        store.maintain().unwrap();
        for number in 0..200 {
            assert_eq!(store.get(&Digest::of(&value(number))).unwrap().unwrap(), value(number));
        }
        let disk = if is_closed {
            store.close().unwrap();
            disk.clean_reopen()
        } else {
            disk.after_crash(CrashState::Nothing)
        };
        let store = open_as(&disk, builder());
        let store = store.unwrap_or_else(|error| panic!("closed: {is_closed}: {}", told(&error)));
        for number in 0..200 {
            assert_eq!(store.get(&Digest::of(&value(number))).unwrap().unwrap(), value(number));
        }
    }
}

/// The same where the device cannot read it.
#[test]
fn a_store_that_healed_what_the_device_cannot_read_opens_again() {
    for is_closed in [true, false] {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        (0..3).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        let name = segments(&disk, LogKind::Blob)[0];
        let sector = Filter::any().operation(Operation::Read).file(name).bytes(512..1024);
        disk.fail_when(sector, Fault::Eio);
        assert_eq!(store.get(&Digest::of(&value(0))).unwrap().unwrap(), value(0));
        (3..200).for_each(|number| commit(&store, number));
        store.maintain().unwrap();
        let disk = if is_closed {
            store.close().unwrap();
            disk.clean_reopen()
        } else {
            disk.after_crash(CrashState::Nothing)
        };
        disk.fail_when(sector, Fault::Eio);
        let store = open_as(&disk, builder());
        let store = store.unwrap_or_else(|error| panic!("closed: {is_closed}: {}", told(&error)));
        for number in 0..200 {
            assert_eq!(store.get(&Digest::of(&value(number))).unwrap().unwrap(), value(number));
        }
    }
}

/// The blob log may need a further segment while values are written anew.
#[test]
fn all_that_a_check_found_bad_is_written_anew_though_it_takes_several_segments() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().segment_bytes(8 << 10)).unwrap();
    (1..60).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    store.maintain().unwrap();
    let carried = disk.file_bytes(&segments(&disk, LogKind::Pointer)[0].to_string()).unwrap();
    let is_carried = |number: &u32| carried.windows(400).any(|bytes| *bytes == value(*number));
    for name in segments(&disk, LogKind::Blob) {
        let bytes = disk.file_bytes(&name.to_string()).unwrap();
        for number in (1..60).filter(is_carried) {
            if let Some(at) = bytes.windows(400).position(|bytes| *bytes == value(number)) {
                disk.corrupt(&name.to_string(), at as u64 + 9, |rest| rest[0] ^= 1);
            }
        }
    }
    assert!(check(&store) >= 40);
    (60..200).for_each(|number| commit(&store, number));
    store.maintain().unwrap();
    let lost: Vec<_> =
        (1..60).filter(|number| store.get(&Digest::of(&value(*number))).is_err()).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// `count` values go bad that the pointer log's only segment carries, and a check finds out.
fn many_bad(segment_bytes: u64) -> (Arc<SimDisk>, Store, Vec<u32>) {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().segment_bytes(segment_bytes)).unwrap();
    let count = 50;
    (1..count).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    store.maintain().unwrap();
    let carried = disk.file_bytes(&segments(&disk, LogKind::Pointer)[0].to_string()).unwrap();
    let is_carried = |number: &u32| carried.windows(400).any(|bytes| *bytes == value(*number));
    let bad: Vec<_> = (1..count).filter(is_carried).collect();
    assert!(bad.len() > 25, "{bad:?}");
    for name in segments(&disk, LogKind::Blob) {
        let bytes = disk.file_bytes(&name.to_string()).unwrap();
        for number in &bad {
            if let Some(at) = bytes.windows(400).position(|bytes| *bytes == value(*number)) {
                disk.corrupt(&name.to_string(), at as u64 + 9, |rest| rest[0] ^= 1);
            }
        }
    }
    assert!(check(&store) >= bad.len());
    (disk, store, bad)
}

/// Until the pointer log goes on in a further segment.
fn delete_until_sealed(disk: &SimDisk, store: &Store) {
    while segments(disk, LogKind::Pointer).len() == 1 {
        store.commit(Batch::new().delete("no such name")).unwrap();
    }
}

fn lost(store: &Store, of: &[u32]) -> Vec<u32> {
    let is_lost = |number: &&u32| store.get(&Digest::of(&value(**number))).is_err();
    of.iter().filter(is_lost).copied().collect()
}

/// What is put anew makes more due: that may seal nothing which carries what is yet to be put anew.
#[test]
fn what_is_written_anew_by_maintenance_begins_none_that_lets_go_of_the_rest() {
    let (disk, store, bad) = many_bad(64 << 10);
    delete_until_sealed(&disk, &store);
    assert_eq!(lost(&store, &bad), [0_u32; 0]);
}

/// What is put anew may need a further segment of the blob log.
#[test]
fn what_is_written_anew_by_maintenance_takes_no_segment_at_the_cost_of_the_rest() {
    let (disk, store, bad) = many_bad(8 << 10);
    delete_until_sealed(&disk, &store);
    assert_eq!(lost(&store, &bad), [0_u32; 0]);
}

/// What a close seals the next open does not mend of what is carried, and nobody knows then what a check found.
#[test]
fn what_a_check_found_bad_is_written_anew_before_a_close_seals_it() {
    for commits in [4, 100] {
        let disk = SimDisk::new(1);
        let builder = || builder().segment_bytes(128 << 10).pointer_segment_bytes(256 << 10);
        let store = open_as(&disk, builder()).unwrap();
        (1..commits).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        let name = segments(&disk, LogKind::Blob)[0].to_string();
        disk.corrupt(&name, 512 + 612, |rest| rest[0] ^= 1);
        assert!(check(&store) > 0);
        store.close().unwrap();
        let store = open_as(&disk, builder()).unwrap();
        (100..500).for_each(|number| commit(&store, number));
        store.maintain().unwrap();
        let read = store.get(&Digest::of(&value(2)));
        let read = read.map_err(|error| format!("{commits} commits: {}", told(&error)));
        assert_eq!(read, Ok(Some(value(2).into())));
    }
}

/// There may be no space to write it anew when the segment is sealed that carries it.
#[test]
fn a_value_for_which_there_was_no_space_is_read_and_put_anew_once_there_is_some() {
    let (disk, store, bad) = many_bad(8 << 10);
    for name in segments(&disk, LogKind::Blob) {
        disk.fail_when(Filter::any().operation(Operation::Write).file(name), Fault::Enospc);
    }
    delete_until_sealed(&disk, &store);
    let before = disk.names();
    assert_eq!(lost(&store, &bad), [0_u32; 0]);
    disk.heal();
    // The next segment that is sealed has it put anew.
    while segments(&disk, LogKind::Pointer).iter().any(|name| before.contains(&name.to_string())) {
        store.commit(Batch::new().delete("no such name")).unwrap();
        store.maintain().unwrap();
    }
    let reopened = open(&disk.after_crash(CrashState::Nothing));
    assert_eq!(lost(&reopened, &bad), [0_u32; 0]);
}

/// Sizes that make much happen.
fn drawn(dice: &mut Dice) -> StoreBuilder {
    Store::builder()
        .maintenance(Maintenance::Inline)
        .segment_bytes(*dice.one_of(&[4 << 10, 8 << 10, 64 << 10, 1 << 20]))
        .pointer_segment_bytes(*dice.one_of(&[4 << 10, 8 << 10, 16 << 10, 64 << 10]))
        .testify_bytes(*dice.one_of(&[4 << 10, 16 << 10, 256 << 10]))
        .append_buffer_bytes(*dice.one_of(&[1 << 10, 4 << 10, 64 << 10]))
        .reserve_bytes(*dice.one_of(&[0, 0, 0, 64 << 10]))
        .memtable_entries_max(*dice.one_of(&[1, 10, 1000]))
        .level0_tables(*dice.one_of(&[1, 2, 6]))
        .level_ratio(2)
        .table_bytes(4 << 10)
}

/// What names point at, as it should be.
type Named = BTreeMap<String, Vec<u8>>;

fn all_are_there(store: &Store, named: &Named) {
    for (name, value) in named {
        let digest = store.pointer(name).unwrap().unwrap();
        assert_eq!(digest, Digest::of(value), "{name}");
        let read = store.get(&digest);
        assert!(read.as_ref().is_ok_and(|read| *read == Some(value.clone().into())), "{read:?}");
    }
}

/// Flips a bit of the blob log's only copy of a value that the pointer log's last segment carries, if it does.
fn flip(disk: &SimDisk, value: &[u8], dice: &mut Dice) -> bool {
    let stands = |name: &FileName| {
        let bytes = disk.file_bytes(&name.to_string()).unwrap();
        bytes.windows(value.len()).position(|bytes| bytes == value)
    };
    let last = segments(disk, LogKind::Pointer).pop().unwrap();
    let blobs = segments(disk, LogKind::Blob);
    let found: Vec<_> = blobs.iter().filter_map(|name| Some((name, stands(name)?))).collect();
    let ([(name, at)], Some(_)) = (&found[..], stands(&last)) else { return false };
    let at = (at + dice.below(value.len())) as u64;
    disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
    true
}

/// Copies go bad, one of several comes to know, or nobody does; commits, crashes and closes. Returns how many went bad.
fn live(seed: u64) -> usize {
    let (mut dice, mut disk) = (Dice::new(seed), SimDisk::new(seed));
    let (mut named, mut number, mut flip_count) = (Named::new(), 0_u32, 0);
    for life in 0..3 {
        let store = open_as(&disk, drawn(&mut Dice::new(seed * 31 + life * (seed % 2)))).unwrap();
        if dice.once_in(2) {
            all_are_there(&store, &named);
        }
        for _ in 0..10 + dice.below(80) {
            number += 1;
            let value = number.to_le_bytes().repeat(10 + number as usize % 7 * 11);
            let digest = store.put(&value).unwrap().digest;
            let name = format!("name-{}", dice.below(12));
            store.commit(Batch::new().set(&name, digest)).unwrap();
            named.insert(name, value.clone());
            if dice.once_in(6) {
                store.sync().unwrap();
            }
            if dice.once_in(8) {
                store.maintain().unwrap();
            }
            if dice.once_in(5) && flip(&disk, &value, &mut dice) {
                flip_count += 1;
                match dice.below(5) {
                    0 => assert_eq!(store.get(&digest).unwrap().unwrap(), value),
                    1 => {}
                    2 => drop(check(&store)),
                    3 => {
                        check(&store);
                        store.put(&value).unwrap();
                    }
                    _ => {
                        check(&store);
                        store.commit(Batch::new().set("again", digest)).unwrap();
                        named.insert("again".to_owned(), value);
                    }
                }
            }
            if dice.once_in(10) {
                delete(&store, u32::try_from(dice.below(40)).unwrap());
            }
            if dice.once_in(15) {
                all_are_there(&store, &named);
            }
            if dice.once_in(40) {
                store.compact().unwrap();
            }
        }
        disk = match dice.below(6) {
            0 => disk.after_crash(CrashState::Nothing),
            1 => disk.after_crash(CrashState::Everything),
            2 => disk.after_crash(CrashState::Random(seed)),
            _ => {
                store.close().unwrap();
                disk.clean_reopen()
            }
        };
    }
    all_are_there(&open_as(&disk, drawn(&mut Dice::new(seed))).unwrap(), &named);
    flip_count
}

#[test]
fn what_goes_bad_while_it_is_carried_is_there_whoever_notices_and_whatever_happens() {
    let flips = |seed| caught(|| Ok(live(seed))).unwrap_or_else(|what| panic!("{seed}: {what}"));
    let flip_count: usize = (0..100).map(flips).sum();
    say(format!("{flip_count} copies went bad"));
    assert!(flip_count > 1000, "{flip_count}");
}
