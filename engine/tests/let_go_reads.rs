//! Letting go of what is carried while operations fail that may go the next time, beside bad copies, and while others
//! read.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::meddling::MeddlingDisk;
use common::small::{
    builder, commit, lost, of_one_commit, open, open_as, sealed, segments, stands, value,
};
use common::told;
use pinstone::{Batch, CheckOptions, Digest, Error, Put, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Epoch, FileName, LogKind, Operation, Ordinal, TableKind, env};

const COMMITS_MAX: u32 = 20_000;

/// Commits that depend on no value, until the pointer log's segment is not the only one or has left, or a commit fails.
fn delete_until_sealed(disk: &SimDisk, store: &Store) {
    let deletion = || store.commit(Batch::new().delete("no such name"));
    let before = segments(disk, LogKind::Pointer);
    let is_alone = || before.len() == 1 && segments(disk, LogKind::Pointer) == before;
    let count = (0..COMMITS_MAX).take_while(|_| is_alone() && deletion().is_ok()).count();
    assert!(count < COMMITS_MAX as usize);
}

fn make_bad(disk: &SimDisk, log: LogKind, number: u32) -> FileName {
    let (name, at) = stands(disk, log, &value(number)).unwrap();
    disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
    name
}

/// Reads of what a sector has that a value begins in.
fn sector_reads(disk: &SimDisk, log: LogKind, number: u32) -> Filter {
    let (name, at) = stands(disk, log, &value(number)).unwrap();
    let sector = (at + 200) / 512 * 512;
    Filter::any().operation(Operation::Read).file(name).bytes(sector..sector + 512)
}

/// The store after a crash, and after a close.
fn ended(disk: &SimDisk, store: Store, is_closed: bool, options: StoreBuilder) -> Store {
    let disk = match is_closed {
        true => {
            store.close().unwrap();
            disk.clean_reopen()
        }
        false => disk.after_crash(CrashState::Everything),
    };
    let opened = open_as(&disk, options);
    opened.unwrap_or_else(|error| panic!("closed: {is_closed}: {}", told(&error)))
}

/// Of what carries a value whose copy is bad, of its place, of its record.
#[test]
fn one_read_that_fails_once_or_twice_loses_no_value_and_ends_no_store() {
    for (nth, is_closed) in (1..9).flat_map(|nth| [(nth, false), (nth, true)]) {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        (0..60).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        make_bad(&disk, LogKind::Blob, 30);
        let (name, at) = stands(&disk, LogKind::Pointer, &value(30)).unwrap();
        let reads = Filter::any().operation(Operation::Read).file(name).bytes(at..at + 400);
        disk.fail_when(reads.nth(nth), Fault::Eio);
        delete_until_sealed(&disk, &store);
        store.maintain().unwrap();
        disk.heal();
        let store = ended(&disk, store, is_closed, builder());
        assert_eq!(lost(&store, 0..60), [], "{nth}, {is_closed}");
    }
}

/// The value cannot be looked up for a moment.
#[test]
fn one_table_that_cannot_be_opened_once_loses_no_value() {
    let options = || {
        let small = builder().segment_bytes(8 << 10).pointer_segment_bytes(16 << 10);
        let small = small.reserve_bytes(64 << 10).append_buffer_bytes(4 << 10);
        small.memtable_entries_max(4).mmap(false).open_files_max(1)
    };
    for nth in 1..30 {
        let disk = SimDisk::new(3);
        let store = open_as(&disk, options()).unwrap();
        (0..8).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        for number in [1, 5, 6] {
            make_bad(&disk, LogKind::Blob, number);
        }
        let opens = Filter::any().operation(Operation::Open).tables(TableKind::Index);
        disk.fail_when(opens.nth(nth), Fault::Emfile);
        let first = segments(&disk, LogKind::Pointer)[0];
        let is_there = || segments(&disk, LogKind::Pointer).contains(&first);
        (100..160).take_while(|_| is_there()).for_each(|number| commit(&store, number));
        disk.heal();
        let store = ended(&disk, store, true, options());
        assert_eq!(lost(&store, 0..8), [], "{nth}");
    }
}

/// Nothing can be compared then.
#[test]
fn too_few_descriptors_for_a_moment_lose_no_value() {
    let disk = SimDisk::new(1);
    let options = builder().segment_bytes(8 << 10).open_files_max(1).mmap(false);
    let store = open_as(&disk, options).unwrap();
    (0..50).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    store.maintain().unwrap();
    assert_eq!(segments(&disk, LogKind::Pointer).len(), 1);
    let is_carried = |number: &u32| stands(&disk, LogKind::Pointer, &value(*number)).is_some();
    let name = make_bad(&disk, LogKind::Blob, (1..50).find(is_carried).unwrap());
    disk.fail_when(Filter::any().operation(Operation::Open).file(name), Fault::Emfile);
    delete_until_sealed(&disk, &store);
    disk.heal();
    assert_eq!(lost(&store, 0..50), []);
    delete_until_sealed(&disk, &store);
    assert_eq!(lost(&store, 0..50), []);
}

/// Each value has a good copy: one carried, the other where it was put.
#[test]
fn a_carried_sector_that_cannot_be_read_ends_no_store_and_costs_no_other_value() {
    for is_closed in [false, true] {
        let (disk, store) = of_one_commit(builder());
        make_bad(&disk, LogKind::Blob, 12);
        disk.fail_when(sector_reads(&disk, LogKind::Pointer, 3), Fault::Eio);
        delete_until_sealed(&disk, &store);
        store.maintain().unwrap();
        assert_eq!(lost(&store, 0..20), []);
        let store = ended(&disk, store, is_closed, builder());
        assert_eq!(lost(&store, 0..20), []);
    }
}

#[test]
fn a_bad_carried_record_costs_no_other_value_of_its_frame() {
    let (disk, store) = of_one_commit(builder());
    one_bad_of_each_log_costs_nothing(&disk, &store);
}

fn one_bad_of_each_log_costs_nothing(disk: &SimDisk, store: &Store) {
    make_bad(disk, LogKind::Pointer, 3);
    make_bad(disk, LogKind::Blob, 7);
    delete_until_sealed(disk, store);
    assert_eq!(lost(store, 0..20), []);
}

/// Nor does the store refuse to open once that segment of the pointer log has left.
#[test]
fn nor_does_it_on_a_full_device() {
    // In the blob log a value of the frame is bad, or what the frame begins with.
    let bad = [true, false].into_iter().flat_map(|is_value| {
        [(false, false), (false, true), (true, false), (true, true)]
            .map(|(is_closed, has_space)| (is_value, is_closed, has_space))
    });
    for (is_value, is_closed, has_space) in bad {
        let options = || builder().segment_bytes(256 << 10).reserve_bytes(1 << 20);
        let (disk, store) = of_one_commit(options());
        let first = segments(&disk, LogKind::Pointer)[0];
        if is_value {
            make_bad(&disk, LogKind::Blob, 12);
        } else {
            let (name, at) = stands(&disk, LogKind::Blob, &value(1)).unwrap();
            assert!((512..1536).contains(&at));
            disk.corrupt(&name.to_string(), 520, |rest| rest[0] ^= 1);
        }
        make_bad(&disk, LogKind::Pointer, 3);
        disk.set_capacity(Some(disk.used_bytes()));
        for number in 0..600 {
            let _done = store.commit(Batch::new().delete(format!("no such name {number}")));
        }
        assert!(!segments(&disk, LogKind::Pointer).contains(&first));
        if has_space {
            disk.set_capacity(None);
            store.maintain().unwrap();
        }
        let store = ended(&disk, store, is_closed, options());
        assert_eq!(lost(&store, 0..20), [], "{is_value} {is_closed} {has_space}");
    }
}

/// No memtable has the values of such a segment.
#[test]
fn nor_does_it_where_the_segment_stands_in_tables() {
    let (disk, store) = of_one_commit(builder().segment_bytes(16 << 10).memtable_entries_max(1));
    let others: Vec<_> = (20..60).map(value).collect();
    assert!(store.put_many(&others).iter().all(Result::is_ok));
    store.sync().unwrap();
    store.maintain().unwrap();
    let stats = store.stats();
    assert!(stats.index.memtable_entry_count < 40 && segments(&disk, LogKind::Pointer).len() == 1);
    one_bad_of_each_log_costs_nothing(&disk, &store);
}

#[test]
fn what_is_written_once_more_says_nothing_of_what_could_not_be_read() {
    let disk = SimDisk::new(1);
    let options = builder().segment_bytes(256 << 10).reserve_bytes(1 << 20);
    let store = open_as(&disk, options).unwrap();
    (0..30).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    for number in [7, 20] {
        make_bad(&disk, LogKind::Blob, number);
    }
    disk.fail_when(sector_reads(&disk, LogKind::Pointer, 7).nth(2), Fault::Eio);
    disk.set_capacity(Some(disk.used_bytes()));
    delete_until_sealed(&disk, &store);
    disk.set_capacity(None);
    disk.heal();
    assert_eq!(lost(&store, 0..30), []);
}

/// In a sealed segment, where nothing is written once more.
#[test]
fn a_value_that_there_was_no_space_for_is_put_anew_once_there_is() {
    for is_closed in [false, true] {
        let options = || builder().segment_bytes(8 << 10);
        let disk = SimDisk::new(1);
        let store = open_as(&disk, options()).unwrap();
        (1..50).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        store.maintain().unwrap();
        let is_carried = |number: &u32| stands(&disk, LogKind::Pointer, &value(*number)).is_some();
        let number = (1..50).find(is_carried).unwrap();
        make_bad(&disk, LogKind::Blob, number);
        disk.set_capacity(Some(disk.used_bytes()));
        delete_until_sealed(&disk, &store);
        store.maintain().unwrap();
        assert_eq!(lost(&store, [number]), []);
        disk.set_capacity(None);
        if !is_closed {
            store.maintain().unwrap();
        }
        let store = ended(&disk, store, is_closed, options());
        assert_eq!(lost(&store, [number]), [], "{is_closed}");
    }
}

/// Names of a megabyte are deleted that were never there.
fn delete_much(store: &Store, nth: u32) -> pinstone::Result<()> {
    let long = "-".repeat(900);
    let name = |number: u32| format!("{nth:03}-{number:04}{long}");
    store.commit((0..1000).map(name).fold(Batch::new(), Batch::delete)).map(drop)
}

/// One that could not be let go of when its segment of the pointer log was full, and one of the next segment: then
/// there is no space for either.
#[test]
fn nor_are_values_forgotten_that_several_segments_carried() {
    for (is_closed, is_one_unread) in [(false, false), (true, false), (true, true)] {
        let options = || {
            let builder = builder().segment_bytes(8 << 10).pointer_segment_bytes(8 << 20);
            builder.open_files_max(1).mmap(false).testify_bytes(1 << 30)
        };
        let disk = SimDisk::new(1);
        let store = open_as(&disk, options()).unwrap();
        let fill = |from: u32| {
            (from..from + 40).for_each(|number| assert!(store.put(&value(number)).unwrap().new));
            store.sync().unwrap();
            let _sealed = store.maintain();
        };
        (1..4).for_each(|number| commit(&store, number));
        fill(1000);
        let held = make_bad(&disk, LogKind::Blob, 2);
        let (first, at) = stands(&disk, LogKind::Pointer, &value(2)).unwrap();
        disk.fail_when(Filter::any().operation(Operation::Open).file(held), Fault::Emfile);
        let sector = at / 512 * 512..at / 512 * 512 + 512;
        let unread = Filter::any().operation(Operation::Read).file(first).bytes(sector);
        disk.fail_when(unread, Fault::Eio);
        let count = || segments(&disk, LogKind::Pointer).len();
        let deleted =
            (0..20).take_while(|_| count() == 1).all(|nth| delete_much(&store, nth).is_ok());
        assert!(deleted && count() == 2);
        (11..40).for_each(|number| commit(&store, number));
        let carrier =
            |number: u32| stands(&disk, LogKind::Pointer, &value(number)).map(|(name, _)| name);
        let other = (11..40).find(|number| carrier(*number).is_some()).unwrap();
        assert_ne!(carrier(other), Some(first));
        fill(2000);
        make_bad(&disk, LogKind::Blob, other);
        disk.heal();
        disk.set_capacity(Some(disk.used_bytes()));
        assert!((3000..4000).any(|number| store.put(&value(number)).is_err()));
        // Both are sealed.
        for nth in 100..114 {
            let _done = delete_much(&store, nth);
        }
        for number in 0..300 {
            let _done = store.commit(Batch::new().delete(format!("no such name {number}")));
        }
        let has_own = |number: u32| stands(&disk, LogKind::Blob, &value(number)).is_some();
        assert_eq!((has_own(2), has_own(other)), (false, false));
        assert_eq!(lost(&store, [2, other]), []);
        disk.set_capacity(None);
        if !is_closed {
            store.maintain().unwrap();
        }
        if is_one_unread {
            // That says nothing of the other.
            disk.fail_when(Filter::any().operation(Operation::Open).file(held), Fault::Emfile);
            disk.fail_when(unread, Fault::Eio);
        }
        let store = ended(&disk, store, is_closed, options());
        let kept = if is_one_unread { vec![other] } else { vec![2, other] };
        assert_eq!(lost(&store, kept), [], "{is_closed} {is_one_unread}");
    }
}

/// What is let go of beside it goes: it is not read again with each further segment.
#[test]
fn a_sector_that_cannot_be_read_does_not_keep_what_is_carried_later() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().memtable_entries_max(1)).unwrap();
    (0..20).for_each(|number| commit(&store, number));
    disk.fail_when(sector_reads(&disk, LogKind::Pointer, 3), Fault::Eio);
    let mut op_counts = Vec::new();
    for some in 0..5 {
        let before = disk.op_count();
        (0..600).for_each(|number| commit(&store, 20 + some * 600 + number));
        store.maintain().unwrap();
        op_counts.push(disk.op_count() - before);
    }
    assert!(segments(&disk, LogKind::Pointer)[0].to_string().as_str() > "pointer-00000020");
    assert!(op_counts[4] < op_counts[0] * 5 / 4, "{op_counts:?}");
}

fn check(store: &Store) {
    store.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).unwrap();
}

/// Lets go of what is carried; then, if `is_flushed`, fills so many segments that what was put anew stands in a table.
fn let_go(store: &Store, is_flushed: bool) {
    for number in 0..300 {
        store.commit(Batch::new().delete(format!("none-{number}"))).unwrap();
    }
    store.maintain().unwrap();
    if is_flushed {
        (1000..1060).for_each(|number| assert!(store.put(&value(number)).unwrap().new));
        store.sync().unwrap();
        store.maintain().unwrap();
        assert!(store.stats().index.flush_count > 0);
    }
}

/// What another thread does after the first read of a bad copy.
fn racing(act: impl Fn(&Store, &Digest)) {
    for is_flushed in [false, true] {
        let disk = SimDisk::new(1);
        let meddling = MeddlingDisk::new(&disk);
        let small = builder().segment_bytes(8 << 10).memtable_entries_max(1);
        let store = small.open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
        (0..8).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        let name = make_bad(&disk, LogKind::Blob, 2);
        check(&store);
        let other = store.clone();
        let let_go = move || let_go(&other, is_flushed);
        let on_another_thread = || env::spawn("let-go", let_go).unwrap().join().unwrap();
        meddling.after_read(name, on_another_thread);
        act(&store, &Digest::of(&value(2)));
        assert!(meddling.has_meddled());
    }
}

#[test]
fn a_get_finds_what_was_put_anew_while_it_read() {
    racing(|store, digest| {
        let found = store.get(digest).map_err(|error| told(&error));
        assert_eq!(found, Ok(Some(value(2).into())));
    });
}

#[test]
fn a_commit_finds_what_was_put_anew_while_it_read() {
    racing(|store, digest| {
        let committed = store.commit(Batch::new().set("again", *digest));
        assert!(committed.is_ok(), "{}", told(&committed.unwrap_err()));
    });
}

/// While it reads a table, its copy is put anew, and no more carried; and it is flushed, or not.
#[test]
fn what_is_put_anew_while_a_table_is_read_is_held() {
    [false, true].into_iter().for_each(is_held_though_its_copy_moves);
}

fn is_held_though_its_copy_moves(is_flushed: bool) {
    let disk = SimDisk::new(1);
    let meddling = MeddlingDisk::new(&disk);
    let small = builder().segment_bytes(8 << 10).memtable_entries_max(1).mmap(false);
    let store = small.open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
    (0..5).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    make_bad(&disk, LogKind::Blob, 2);
    check(&store);
    (2000..2040).for_each(|number| assert!(store.put(&value(number)).unwrap().new));
    store.sync().unwrap();
    store.maintain().unwrap();
    let is_index =
        |name: &FileName| matches!(name, FileName::Table { table: TableKind::Index, .. });
    let mut names = disk.names().into_iter().filter_map(|name| name.parse().ok());
    let other = store.clone();
    let let_go = move || let_go(&other, is_flushed);
    let on_another_thread = || env::spawn("let-go", let_go).unwrap().join().unwrap();
    meddling.after_read(names.find(is_index).unwrap(), on_another_thread);
    let found = store.contains(&Digest::of(&value(2)));
    assert!(meddling.has_meddled());
    assert!(found.unwrap());
}

/// A check finds zeros where the device does not answer.
#[test]
fn after_a_check_what_cannot_be_read_is_held_still() {
    let (disk, store, digests, name) = sealed();
    let reads = Filter::any().operation(Operation::Read).file(name).bytes(512..1024);
    disk.fail_when(reads, Fault::Eio);
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    assert!(!store.check(&options).unwrap().findings.is_empty());
    assert!(store.get(&digests[0]).is_err());
    assert!(store.contains(&digests[0]).unwrap());
    disk.heal();
    assert!(store.contains(&digests[0]).unwrap());
}

/// For as long as the store lives, and though all that it holds can be read.
#[test]
fn a_segment_that_cannot_be_opened_any_more_keeps_no_commit_waiting() {
    for fault in [Fault::Emfile, Fault::Eio] {
        let disk = SimDisk::new(1);
        let options = builder().segment_bytes(8 << 10).open_files_max(1).mmap(false);
        let store = open_as(&disk, options).unwrap();
        (0..50).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        store.maintain().unwrap();
        let name = segments(&disk, LogKind::Blob)[0];
        disk.fail_when(Filter::any().operation(Operation::Open).file(name), fault);
        delete_until_sealed(&disk, &store);
        store.commit(Batch::new().delete("no such name")).unwrap();
        assert_eq!(lost(&store, 0..50), [], "{fault:?}");
        store.maintain().unwrap();
        store.close().unwrap();
    }
}

/// Of two values of one frame one is bad where it was put, the other where it is carried.
#[test]
fn one_list_that_cannot_be_read_once_loses_no_value() {
    let options = || {
        let small = builder().segment_bytes(8 << 10).pointer_segment_bytes(16 << 10);
        let small = small.reserve_bytes(64 << 10).append_buffer_bytes(4 << 10);
        small.memtable_entries_max(4).mmap(false).open_files_max(1)
    };
    let faults = [(Operation::Open, Fault::Emfile), (Operation::Read, Fault::Eio)];
    for (operation, fault, nth) in
        faults.iter().flat_map(|(of, fault)| (1..30).map(move |nth| (*of, *fault, nth)))
    {
        let disk = SimDisk::new(3);
        let store = open_as(&disk, options()).unwrap();
        let digests = [1, 2].map(|number| store.put(&value(number)).unwrap().digest);
        store.commit(Batch::new().set("a", digests[0]).set("b", digests[1])).unwrap();
        // Until its segment is sealed, and stands in a table.
        (3..20).for_each(|number| drop(store.put(&value(number))));
        store.sync().unwrap();
        store.maintain().unwrap();
        let name = make_bad(&disk, LogKind::Blob, 1);
        make_bad(&disk, LogKind::Pointer, 2);
        disk.fail_when(Filter::any().operation(operation).file(name).nth(nth), fault);
        delete_until_sealed(&disk, &store);
        disk.heal();
        delete_until_sealed(&disk, &store);
        assert_eq!(lost(&store, [1, 2]), [], "{operation:?} {nth}");
    }
}

/// In each of two segments one value is bad, and another one's carried record.
#[test]
fn each_segments_own_list_is_asked() {
    let disk = SimDisk::new(3);
    let options = builder().segment_bytes(8 << 10).append_buffer_bytes(4 << 10);
    let store = open_as(&disk, options.memtable_entries_max(4)).unwrap();
    for first in [1, 51] {
        let puts = store.put_many(&[value(first), value(first + 1)]);
        let set = |batch: Batch, (at, put): (usize, pinstone::Result<Put>)| {
            batch.set(format!("{first}-{at}"), put.unwrap().digest)
        };
        store.commit(puts.into_iter().enumerate().fold(Batch::new(), set)).unwrap();
        (first + 2..first + 32).for_each(|number| assert!(store.put(&value(number)).unwrap().new));
        store.sync().unwrap();
        store.maintain().unwrap();
    }
    for first in [1, 51] {
        make_bad(&disk, LogKind::Blob, first);
        make_bad(&disk, LogKind::Pointer, first + 1);
    }
    delete_until_sealed(&disk, &store);
    store.maintain().unwrap();
    assert_eq!(lost(&store, [1, 2, 51, 52]), []);
}

/// Value 90, whose older copy stands in the first file. It was bad when the newer one was put, in the second; that is
/// forgotten, it is well again, and the newer one is bad.
fn of_two_copies(is_named: bool) -> (Arc<SimDisk>, Store, [FileName; 2]) {
    let options = || builder().segment_bytes(8 << 10).mmap(false).open_files_max(1);
    let disk = SimDisk::new(1);
    let store = open_as(&disk, options()).unwrap();
    let fill = |from: u32| {
        (from..from + 30).for_each(|number| assert!(store.put(&value(number)).unwrap().new));
        store.sync().unwrap();
        store.maintain().unwrap();
    };
    let flip = |disk: &SimDisk, (name, at): (FileName, u64)| {
        disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
        name
    };
    let stands = |disk: &SimDisk| stands(disk, LogKind::Blob, &value(90)).unwrap();
    let digest = store.put(&value(90)).unwrap().digest;
    fill(100);
    let older = stands(&disk);
    flip(&disk, older);
    assert!(store.get(&digest).is_err());
    commit(&store, 99);
    assert!(store.put(&value(90)).unwrap().new);
    if is_named {
        commit(&store, 90);
    }
    fill(200);
    drop(store);
    let disk = disk.after_crash(CrashState::Everything);
    let store = open_as(&disk, options()).unwrap();
    let newer = stands(&disk);
    (disk.clone(), store, [flip(&disk, older), flip(&disk, newer)])
}

/// What may pass is told, and not what lasts.
#[test]
fn a_good_copy_that_cannot_be_opened_for_a_moment_is_not_told_to_be_bad() {
    let (disk, store, [older, _]) = of_two_copies(false);
    disk.fail_when(Filter::any().operation(Operation::Open).file(older), Fault::Emfile);
    let told = store.get(&Digest::of(&value(90)));
    assert!(matches!(told, Err(Error::Io { .. })), "{told:?}");
    disk.heal();
    assert_eq!(lost(&store, [90]), []);
}

/// The older copy, or what is carried of the newer one.
#[test]
fn a_good_copy_that_cannot_be_read_for_a_moment_is_waited_for() {
    for (is_carried_read, is_older_bad) in
        [(true, false), (true, true), (false, false), (false, true)]
    {
        let (disk, store, [older, _]) = of_two_copies(true);
        let (carried, _) = stands(&disk, LogKind::Pointer, &value(90)).unwrap();
        if is_older_bad {
            make_bad(&disk, LogKind::Blob, 90);
        }
        disk.fail_when(Filter::any().operation(Operation::Open).file(older), Fault::Emfile);
        if !is_carried_read {
            disk.fail_when(sector_reads(&disk, LogKind::Pointer, 90), Fault::Eio);
        }
        let delete = |number: u32| {
            store.commit(Batch::new().delete(format!("no such name {number}"))).map(drop)
        };
        let _done: Vec<_> = (0..400).map(delete).collect();
        disk.heal();
        assert!((0..400).map(delete).all(|done| done.is_ok()));
        store.maintain().unwrap();
        assert!(!segments(&disk, LogKind::Pointer).contains(&carried));
        assert_eq!(lost(&store, [90]), [], "{is_carried_read} {is_older_bad}");
    }
}

/// Neither its values nor their list, and no memtable has them any more; and of what is carried one value is bad.
#[test]
fn a_segment_that_cannot_be_read_at_all_costs_no_value_that_is_carried_well() {
    for is_list_bad in [false, true] {
        let options = builder().segment_bytes(16 << 10).pointer_segment_bytes(256 << 10);
        let (disk, store) = of_one_commit(options.memtable_entries_max(1));
        (1000..1100).for_each(|number| assert!(store.put(&value(number)).unwrap().new));
        store.sync().unwrap();
        store.maintain().unwrap();
        let (blob, _) = stands(&disk, LogKind::Blob, &value(3)).unwrap();
        make_bad(&disk, LogKind::Pointer, 3);
        if is_list_bad {
            (0..20).for_each(|number| assert_eq!(make_bad(&disk, LogKind::Blob, number), blob));
            let digest = Digest::of(&value(5));
            let bytes = disk.file_bytes(&blob.to_string()).unwrap();
            let listed = bytes.windows(32).rposition(|bytes| bytes == digest.as_bytes()).unwrap();
            disk.corrupt(&blob.to_string(), listed as u64, |rest| rest[0] ^= 1);
        } else {
            disk.fail_when(Filter::any().file(blob).operation(Operation::Read), Fault::Eio);
        }
        delete_until_sealed(&disk, &store);
        store.maintain().unwrap();
        let lost = lost(&store, 0..20);
        assert!(lost.iter().all(|(number, _)| *number == 3), "{is_list_bad} {lost:?}");
    }
}

/// While several are looked for, what was thought to be bad is found to be well.
#[test]
fn what_is_found_to_be_well_again_is_held_by_who_looks_for_many() {
    let disk = SimDisk::new(1);
    let meddling = MeddlingDisk::new(&disk);
    let small = builder().segment_bytes(8 << 10).memtable_entries_max(1).mmap(false);
    let store = small.open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
    (0..100).for_each(|number| assert!(store.put(&value(number)).unwrap().new));
    store.sync().unwrap();
    store.maintain().unwrap();
    let (name, at) = stands(&disk, LogKind::Blob, &value(2)).unwrap();
    let digests = [2, 60].map(|number| Digest::of(&value(number)));
    disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
    assert!(store.get(&digests[0]).is_err());
    disk.corrupt(&name.to_string(), at, |rest| rest[0] ^= 1);
    let (elsewhere, _) = stands(&disk, LogKind::Blob, &value(60)).unwrap();
    assert_ne!(elsewhere, name);
    let other = store.clone();
    let get = move || assert!(other.get(&digests[0]).unwrap().is_some());
    meddling.after_read(elsewhere, || env::spawn("get", get).unwrap().join().unwrap());
    let found: Vec<_> = store.contains_many(&digests).into_iter().map(Result::unwrap).collect();
    assert!(meddling.has_meddled());
    assert_eq!(found, [true, true]);
}

/// For want of memory, say.
#[test]
fn what_is_carried_and_cannot_be_read_for_a_moment_is_waited_for() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().pointer_segment_bytes(32 << 10)).unwrap();
    (0..8).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    make_bad(&disk, LogKind::Blob, 3);
    let carried = segments(&disk, LogKind::Pointer)[0];
    disk.fail_when(Filter::any().operation(Operation::Read).file(carried), Fault::Enomem);
    let delete = |number: u32| store.commit(Batch::new().delete(format!("no such name {number}")));
    let _done: Vec<_> = (0..200).map(delete).collect();
    let told = store.get(&Digest::of(&value(3)));
    assert!(matches!(told, Err(Error::Io { .. })), "{told:?}");
    disk.heal();
    store.maintain().unwrap();
    (200..400).for_each(|number| assert!(delete(number).is_ok()));
    assert!(!segments(&disk, LogKind::Pointer).contains(&carried));
    assert_eq!(lost(&store, 0..8), []);
}

/// Nothing of the blob log can be read for long, and of what is carried not all.
#[test]
fn what_cannot_be_told_to_be_bad_is_put_anew_once() {
    for segment_bytes in [16 << 10, 1 << 20] {
        let disk = SimDisk::new(1);
        let options = builder().mmap(false).segment_bytes(segment_bytes);
        let store = open_as(&disk, options.pointer_segment_bytes(128 << 10)).unwrap();
        (0..100).for_each(|number| commit(&store, number));
        store.sync().unwrap();
        make_bad(&disk, LogKind::Pointer, 3);
        let blobs = || segments(&disk, LogKind::Blob);
        for blob in blobs().into_iter().chain((1..200).map(|more| FileName::Segment {
            log: LogKind::Blob,
            ordinal: Ordinal(more),
            epoch: Epoch::FIRST,
        })) {
            disk.fail_when(Filter::any().operation(Operation::Read).file(blob), Fault::Enomem);
        }
        let delete =
            |number: u32| store.commit(Batch::new().delete(format!("no such name {number}")));
        let before = disk.used_bytes();
        let refused = (0..100).filter(|number| delete(*number).is_err()).count();
        let _done = store.maintain();
        let more_bytes = disk.used_bytes() - before;
        assert!(refused > 20 && more_bytes < 3 << 20, "{refused} refused, {more_bytes} bytes more");
        disk.heal();
        (0..300).for_each(|number| assert!(delete(number).is_ok()));
        assert_eq!(lost(&store, 0..100), []);
    }
}
