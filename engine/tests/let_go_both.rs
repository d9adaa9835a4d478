//! Letting go of what is carried where both logs are damaged, each elsewhere, or one of them cannot be read for a moment.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::small::{builder, lost, of_one_commit, open_as, segments, stands, value};
use common::told;
use pinstone::{Batch, Digest, Error, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{FileName, LogKind, Operation};

const VALUES: u32 = 20;

fn delete_much(store: &Store) {
    for number in 0..600 {
        let _done = store.commit(Batch::new().delete(format!("no such name {number}")));
    }
}

fn reads(name: FileName) -> Filter {
    Filter::any().operation(Operation::Read).file(name)
}

fn flip(disk: &SimDisk, name: FileName, at: u64) {
    disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
}

/// What is wrong, and where in the blob log it stands.
#[derive(Clone, Copy, Debug)]
enum Bad {
    Flipped(u64),
    /// The sector of it, in its file.
    Unreadable(u64),
}

impl Bad {
    /// In this file, where it stands so much further on.
    fn make(self, disk: &SimDisk, name: FileName, further: u64) {
        match self {
            Self::Flipped(at) => flip(disk, name, at + further),
            Self::Unreadable(at) => {
                let sector = (at + further) / 512 * 512;
                disk.fail_when(reads(name).bytes(sector..sector + 512), Fault::Eio);
            }
        }
    }
}

/// On a full device; after the segment of the pointer log has gone.
fn each_value_is_found(options: fn() -> StoreBuilder, own: Bad, carried: Bad) {
    for is_closed in [false, true] {
        let what = format!("{own:?} {carried:?} {is_closed}");
        let (disk, store) = of_one_commit(options());
        let (blob, at) = stands(&disk, LogKind::Blob, &value(1)).unwrap();
        let (pointer, carried_at) = stands(&disk, LogKind::Pointer, &value(1)).unwrap();
        own.make(&disk, blob, 0);
        carried.make(&disk, pointer, carried_at - at);
        disk.set_capacity(Some(disk.used_bytes()));
        delete_much(&store);
        assert!(!segments(&disk, LogKind::Pointer).contains(&pointer), "{what}");
        disk.heal();
        assert_eq!(lost(&store, 0..VALUES), [], "{what}");
        let disk = match is_closed {
            true => {
                store.close().unwrap();
                disk.clean_reopen()
            }
            false => disk.after_crash(CrashState::Everything),
        };
        let store = open_as(&disk, options());
        let store = store.unwrap_or_else(|error| panic!("{what}: {}", told(&error)));
        assert_eq!(lost(&store, 0..VALUES), [], "{what}");
    }
}

fn one_frame() -> StoreBuilder {
    builder().segment_bytes(256 << 10).reserve_bytes(1 << 20)
}

fn two_frames() -> StoreBuilder {
    one_frame().append_buffer_bytes(4 << 10)
}

/// Where values stand in the blob log.
fn offsets(options: StoreBuilder) -> Vec<u64> {
    let (disk, _store) = of_one_commit(options);
    (0..VALUES).map(|number| stands(&disk, LogKind::Blob, &value(number)).unwrap().1).collect()
}

/// In the header of the first frame.
const HEADER: u64 = 520;

#[test]
fn a_frame_that_is_bad_in_both_logs_is_put_together_of_what_is_well_in_either() {
    use Bad::{Flipped, Unreadable};
    let at = offsets(one_frame());
    let padding = at[19] + 400 + 3;
    let (of_three, of_twelve) = (at[3], at[12] + 200);
    for (own, carried) in [
        (Flipped(of_three), Unreadable(of_twelve)),
        (Unreadable(of_three), Flipped(of_twelve)),
        (Unreadable(of_three), Unreadable(of_twelve)),
        (Flipped(HEADER), Flipped(padding)),
        (Flipped(padding), Flipped(HEADER)),
        (Flipped(padding), Flipped(padding + 1)),
        (Flipped(HEADER), Unreadable(of_twelve)),
        (Unreadable(of_twelve), Flipped(HEADER)),
    ] {
        each_value_is_found(one_frame, own, carried);
    }
}

#[test]
fn each_frame_of_a_place_is_put_together_for_itself() {
    use Bad::{Flipped, Unreadable};
    let at = offsets(two_frames());
    // Behind it another frame begins.
    let last = (1..19).find(|number| at[number + 1] - at[*number] > 460).unwrap();
    let second_header = at[last + 1] / 512 * 512 + 8;
    let padding = at[last] + 400 + 2;
    assert!(second_header < at[last + 1] - 40 && padding < second_header);
    for (own, carried) in [
        (Flipped(second_header), Flipped(padding)),
        (Flipped(HEADER), Flipped(second_header)),
        (Flipped(second_header), Flipped(HEADER)),
        (Flipped(HEADER), Unreadable(second_header)),
    ] {
        each_value_is_found(two_frames, own, carried);
    }
}

/// In a sealed segment, no memtable has any of them.
fn flushed() -> (Arc<SimDisk>, Store) {
    let options = builder().segment_bytes(16 << 10).memtable_entries_max(1).mmap(false);
    let (disk, store) = of_one_commit(options);
    let others: Vec<_> = (20..60).map(value).collect();
    assert!(store.put_many(&others).iter().all(Result::is_ok));
    store.sync().unwrap();
    store.maintain().unwrap();
    let stats = store.stats();
    assert!(stats.index.memtable_entry_count < 40 && segments(&disk, LogKind::Pointer).len() == 1);
    (disk, store)
}

/// Its copy in the blob log is bad; the files of both logs, and where the segment's list is.
fn with_one_bad(disk: &SimDisk) -> (FileName, FileName, std::ops::Range<u64>) {
    let (blob, at) = stands(disk, LogKind::Blob, &value(7)).unwrap();
    let (pointer, _) = stands(disk, LogKind::Pointer, &value(7)).unwrap();
    flip(disk, blob, at);
    let len_bytes = disk.file_bytes(&blob.to_string()).unwrap().len() as u64;
    (blob, pointer, len_bytes - 300..len_bytes)
}

/// For want of memory, while the device does not read the segment's list.
#[test]
fn what_cannot_be_read_for_a_moment_is_not_let_go_of() {
    let (disk, store) = flushed();
    let (blob, pointer, list) = with_one_bad(&disk);
    disk.fail_when(reads(pointer), Fault::Enomem);
    disk.fail_when(reads(blob).bytes(list), Fault::Eio);
    delete_much(&store);
    disk.heal();
    store.maintain().unwrap();
    assert_eq!(lost(&store, 0..VALUES), []);
}

#[test]
fn nor_is_it_where_one_read_alone_fails_so() {
    for nth in 1..8 {
        let (disk, store) = flushed();
        let (blob, pointer, list) = with_one_bad(&disk);
        flip(&disk, blob, list.end - 10);
        let (_, at) = stands(&disk, LogKind::Pointer, &value(7)).unwrap();
        let sector = at / 512 * 512;
        let reads = reads(pointer).bytes(sector..sector + 512);
        disk.fail_when(reads.nth(nth), Fault::Enomem);
        delete_much(&store);
        disk.heal();
        delete_much(&store);
        store.maintain().unwrap();
        assert!(!segments(&disk, LogKind::Pointer).contains(&pointer));
        assert_eq!(lost(&store, 0..VALUES), [], "{nth}");
    }
}

/// The list, for want of memory first, and then as what the device does not read; nor does it read what is carried, for
/// a moment.
#[test]
fn nor_is_it_where_the_first_of_two_tries_fails_so() {
    for fail_count in 1..=4 {
        let (disk, store) = flushed();
        let (blob, pointer, list) = with_one_bad(&disk);
        let (_, at) = stands(&disk, LogKind::Pointer, &value(7)).unwrap();
        let sector = at / 512 * 512;
        for _ in 0..fail_count {
            // Of those that the others let pass.
            disk.fail_when(reads(pointer).bytes(sector..sector + 512).nth(1), Fault::Eio);
        }
        disk.fail_when(reads(blob).bytes(list.clone()).nth(1), Fault::Enomem);
        disk.fail_when(reads(blob).bytes(list), Fault::Eio);
        delete_much(&store);
        disk.heal();
        assert!(!segments(&disk, LogKind::Pointer).contains(&pointer));
        assert_eq!(lost(&store, 0..VALUES), [], "{fail_count}");
    }
}

/// It is not told for lost.
#[test]
fn a_get_tells_what_may_pass_though_the_next_try_says_otherwise() {
    let (disk, store) = of_one_commit(builder());
    let (_, pointer, _) = with_one_bad(&disk);
    disk.fail_when(reads(pointer).nth(1), Fault::Enomem);
    disk.fail_when(reads(pointer), Fault::Eio);
    let told = store.get(&Digest::of(&value(7)));
    assert!(matches!(told, Err(Error::Io { .. })), "{told:?}");
    disk.heal();
    assert_eq!(lost(&store, 0..VALUES), []);
}

#[test]
fn what_only_the_pointer_log_carries_is_held_though_the_list_is_damaged() {
    let (disk, store) = flushed();
    let (blob, _, list) = with_one_bad(&disk);
    flip(&disk, blob, list.end - 10);
    let digest = Digest::of(&value(7));
    assert!(store.contains(&digest).unwrap());
    assert_eq!(store.get(&digest).unwrap().unwrap(), value(7));
    assert!(store.contains(&digest).unwrap());
}

fn short_value(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(15)
}

/// Operations of one commit, at most, where so many values are carried and no file can be opened.
fn ops_without_descriptors(count: u32) -> u64 {
    let disk = SimDisk::new(1);
    let options = builder().segment_bytes(32 << 10).pointer_segment_bytes(1 << 20);
    let options = options.memtable_entries_max(100).mmap(false).open_files_max(1);
    let store = open_as(&disk, options.reserve_bytes(8 << 20)).unwrap();
    for some in 0..count / 20 {
        let mut batch = Batch::new();
        for number in some * 20..some * 20 + 20 {
            let digest = store.put(&short_value(number)).unwrap().digest;
            batch = batch.set(format!("name-{number}"), digest);
        }
        store.commit(batch).unwrap();
    }
    store.sync().unwrap();
    disk.fail_when(Filter::any().operation(Operation::Open), Fault::Emfile);
    assert!((100_000..200_000).any(|number| store.put(&short_value(number)).is_err()));
    let long = "-".repeat(900);
    let mut ops_max = 0;
    for number in 0..3000 {
        let before = disk.op_count();
        let done = store.commit(Batch::new().delete(format!("none {number} {long}")));
        ops_max = ops_max.max(disk.op_count() - before);
        if done.is_err() {
            break;
        }
    }
    ops_max
}

/// Each try would write a table, which cannot be opened.
#[test]
fn what_cannot_be_put_anew_keeps_no_commit_waiting_for_each_value() {
    // Whatever there is to be put, it is fewer than one for each.
    let op_count = ops_without_descriptors(800);
    assert!(op_count < 400, "{op_count}");
}

/// A value whose record ends within a sector, with others behind it.
fn long(number: u32) -> Vec<u8> {
    (number + 1).to_le_bytes().repeat(247)[..986].to_vec()
}

fn of_long_ones(options: StoreBuilder) -> (Arc<SimDisk>, Store) {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, options).unwrap();
    store.put(&[9; 350]).unwrap();
    let mut batch = Batch::new();
    for number in 0..12 {
        batch = batch.set(format!("{number}"), store.put(&long(number)).unwrap().digest);
    }
    store.commit(batch).unwrap();
    store.sync().unwrap();
    (disk, store)
}

/// The sector behind this value's record cannot be read.
fn fail_behind(disk: &SimDisk, log: LogKind, number: u32) -> Option<FileName> {
    let (name, at) = stands(disk, log, &long(number))?;
    let sector = (at + 986).next_multiple_of(512);
    disk.fail_when(reads(name).bytes(sector..sector + 512), Fault::Eio);
    Some(name)
}

#[test]
fn a_record_is_read_where_what_is_behind_it_cannot_be() {
    for number in 0..11 {
        let (disk, store) = of_long_ones(one_frame().mmap(false));
        delete_much(&store);
        store.maintain().unwrap();
        assert_eq!(stands(&disk, LogKind::Pointer, &long(number)), None);
        fail_behind(&disk, LogKind::Blob, number).unwrap();
        assert_eq!(store.get(&Digest::of(&long(number))).unwrap().unwrap(), long(number));
    }
}

/// Of a record that ends just before a sector does, no byte is behind it that is not in the next.
#[test]
fn however_short_a_record_is() {
    let mut tried = 0;
    for len in [4, 5, 7, 9, 13, 19, 20, 21, 25, 26, 61] {
        let value = |number: u32| {
            (number + 1).wrapping_mul(0x9e37_79b1).to_le_bytes().repeat(16)[..len].to_vec()
        };
        let disk = SimDisk::new(1);
        let store = open_as(&disk, one_frame().mmap(false)).unwrap();
        let values: Vec<_> = (0..200).map(value).collect();
        assert!(store.put_many(&values).iter().all(Result::is_ok));
        store.sync().unwrap();
        for value in values {
            let (name, at) = stands(&disk, LogKind::Blob, &value).unwrap();
            let sector = (at + len as u64).next_multiple_of(512);
            disk.fail_when(reads(name).bytes(sector..sector + 512), Fault::Eio);
            assert_eq!(store.get(&Digest::of(&value)).unwrap().unwrap(), value, "{len} at {at}");
            tried += u32::from(sector - at < 80);
            disk.heal();
        }
    }
    assert!(tried > 100, "{tried} records beside the end of a sector");
}

#[test]
fn what_is_carried_is_put_anew_where_what_is_behind_it_cannot_be_read() {
    for (number, gets) in (0..11).flat_map(|number| [(number, false), (number, true)]) {
        let (disk, store) = of_long_ones(one_frame().mmap(false));
        let (name, at) = stands(&disk, LogKind::Blob, &long(number)).unwrap();
        flip(&disk, name, at);
        let carried = fail_behind(&disk, LogKind::Pointer, number).unwrap();
        let found = || store.get(&Digest::of(&long(number)));
        if gets {
            assert_eq!(found().unwrap().unwrap(), long(number));
        }
        delete_much(&store);
        delete_much(&store);
        assert!(!segments(&disk, LogKind::Pointer).contains(&carried));
        assert_eq!(found().unwrap().unwrap(), long(number), "{number}");
    }
}

/// There is no space, one value's own record is bad, of the carried frame the header if that is said, and then something
/// lasts: what is carried stays until it can be told, and laid.
fn none_is_lost_on_a_full_device(
    what: &str,
    is_header_bad: bool,
    lasting: impl Fn(&SimDisk, [FileName; 2]),
) {
    for is_closed in [false, true] {
        let (disk, store) = of_one_commit(one_frame().mmap(false));
        let (own, at) = stands(&disk, LogKind::Blob, &value(3)).unwrap();
        let (carried, carried_at) = stands(&disk, LogKind::Pointer, &value(3)).unwrap();
        flip(&disk, own, at);
        if is_header_bad {
            flip(&disk, carried, HEADER + carried_at - at);
        }
        disk.set_capacity(Some(disk.used_bytes()));
        lasting(&disk, [own, carried]);
        delete_much(&store);
        if is_header_bad && segments(&disk, LogKind::Pointer).contains(&carried) {
            // A crash would find the frame well in neither log.
            disk.heal();
            delete_much(&store);
        }
        let disk = if is_closed {
            let _told = store.close();
            disk.clean_reopen()
        } else {
            disk.after_crash(CrashState::Everything)
        };
        let store = open_as(&disk, one_frame().mmap(false)).unwrap_or_else(|error| {
            panic!("{what}, closed {is_closed}: {}", told(&error));
        });
        assert_eq!(lost(&store, 0..VALUES), [], "{what}, closed {is_closed}");
    }
}

#[test]
fn what_cannot_be_read_for_want_of_memory_is_not_let_go_of_on_a_full_device() {
    for nth in 1..12 {
        none_is_lost_on_a_full_device(&format!("read {nth}"), false, |disk, [_, carried]| {
            disk.fail_when(reads(carried).from_nth(nth), Fault::Enomem);
        });
    }
    for nth in (1..60).step_by(3) {
        none_is_lost_on_a_full_device(&format!("own read {nth}"), true, |disk, [own, _]| {
            disk.fail_when(reads(own).from_nth(nth), Fault::Enomem);
        });
    }
}

#[test]
fn nor_is_what_cannot_be_written_once_more() {
    none_is_lost_on_a_full_device("writes", false, |disk, [own, _]| {
        disk.fail_when(Filter::any().operation(Operation::Write).file(own), Fault::Eio);
    });
}

/// The blob log's file cannot be opened any more; of one value, what is carried is bad, too.
#[test]
fn a_file_that_cannot_be_opened_ends_no_commits() {
    let options =
        || builder().segment_bytes(16 << 10).memtable_entries_max(1).mmap(false).open_files_max(1);
    let (disk, store) = of_one_commit(options());
    let others: Vec<_> = (VALUES..3 * VALUES).map(value).collect();
    assert!(store.put_many(&others).iter().all(Result::is_ok));
    store.sync().unwrap();
    store.maintain().unwrap();
    let disk = disk.after_crash(CrashState::Everything);
    drop(store);
    let store = open_as(&disk, options()).unwrap();
    let (own, _) = stands(&disk, LogKind::Blob, &value(7)).unwrap();
    let (carried, at) = stands(&disk, LogKind::Pointer, &value(7)).unwrap();
    flip(&disk, carried, at);
    disk.fail_when(Filter::any().operation(Operation::Open).file(own), Fault::Eio);
    for number in 0..600 {
        store.commit(Batch::new().delete(format!("no such name {number}"))).unwrap();
    }
    assert!(!segments(&disk, LogKind::Pointer).contains(&carried));
    let lost = lost(&store, 0..VALUES);
    assert_eq!(lost.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [7], "{lost:?}");
}

/// Memory that flipped a bit before both were written.
#[test]
fn what_is_bad_alike_in_both_logs_keeps_no_store_from_opening() {
    let (disk, _store) = of_one_commit(one_frame().mmap(false));
    let (blob, last) = stands(&disk, LogKind::Blob, &value(VALUES - 1)).unwrap();
    let padding = last + value(VALUES - 1).len() as u64 + 2;
    for at in [520, padding] {
        let (disk, store) = of_one_commit(one_frame().mmap(false));
        let (carried, first) = stands(&disk, LogKind::Pointer, &value(1)).unwrap();
        let (_, own) = stands(&disk, LogKind::Blob, &value(1)).unwrap();
        flip(&disk, blob, at);
        flip(&disk, carried, at + first - own);
        delete_much(&store);
        let store =
            open_as(&disk.after_crash(CrashState::Everything), one_frame().mmap(false)).unwrap();
        assert_eq!(lost(&store, 0..VALUES), [], "{at}");
    }
}
