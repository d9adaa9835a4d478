//! P9: whatever grows while the store is open, recovery has the space that it needs on a device that is
//! full by then, and deletions go on with what recovery does not need.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::meddling::MeddlingDisk;
use pinstone::{Batch, CommitId, Digest, Error, Maintenance, Result, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, SimDisk};
use pinstone_disk::{Disk, Epoch, FileName, LogKind, Ordinal};

/// With a reserve as the documentation says: two segments of each log, and what is gathered.
fn store(segment_bytes: u64, pointer_segment_bytes: u64) -> StoreBuilder {
    Store::builder()
        .segment_bytes(segment_bytes)
        .pointer_segment_bytes(pointer_segment_bytes)
        .append_buffer_bytes(4 << 10)
        .reserve_bytes(2 * segment_bytes + 2 * pointer_segment_bytes + (4 << 10))
        .maintenance(Maintenance::Inline)
}

/// With tables so small that names as long as may be make the root long.
fn long_root() -> StoreBuilder {
    let builder = store(64 << 10, 16 << 10).memory_bytes(16 << 20).table_bytes(4 << 10);
    builder.level0_tables(2).level_ratio(2)
}

/// Sets four names a commit.
fn commit_long_names(store: &Store, commit: u32, digest: Digest) {
    let names = (0..4).map(|number| long_name(4 * commit + number));
    store.commit(names.fold(Batch::new(), |batch, name| batch.set(name, digest))).unwrap();
}

fn open(builder: StoreBuilder, disk: &Arc<SimDisk>) -> Result<Store> {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

/// Opens it, and writes something.
fn takes_over(builder: StoreBuilder, disk: &Arc<SimDisk>) -> Result<CommitId> {
    open(builder, disk)?.commit(Batch::new().delete("another"))
}

/// Killed now, on a device without any space left, it opens again.
fn opens_after_a_kill(builder: StoreBuilder, disk: &SimDisk, context: &str) {
    let image = disk.after_crash(CrashState::Everything);
    image.set_capacity(Some(image.used_bytes()));
    let opened = open(builder, &image);
    let told = opened.as_ref().err().map(|error| common::told(error)).unwrap_or_default();
    assert!(opened.is_ok(), "{context}: {told}");
    // What it does when it is dropped is another life's.
    image.crash_now();
}

/// With ten values, and a name for each.
fn filled(builder: StoreBuilder, disk: &Arc<SimDisk>) -> Store {
    let store = open(builder, disk).unwrap();
    for number in 0..10_u32 {
        let digest = store.put(&noise(number.into(), 20_000)).unwrap().digest;
        store.commit(Batch::new().set(number.to_string(), digest)).unwrap();
    }
    store
}

/// What a kill left of that.
fn killed(builder: StoreBuilder) -> Arc<SimDisk> {
    let disk = SimDisk::new(7);
    let _store = filled(builder, &disk);
    let killed = disk.after_crash(CrashState::Everything);
    disk.crash_now();
    killed
}

/// Incompressible.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let words = (0..).flat_map(|at| common::mix(&[seed, at]).to_le_bytes());
    words.take(len).collect()
}

/// As long as names may be.
fn long_name(number: u32) -> Vec<u8> {
    let mut name = format!("{:08x}", number.wrapping_mul(2_654_435_761)).into_bytes();
    name.resize(1024, b'n');
    name
}

#[test]
fn the_reserve_follows_a_root_that_grows_by_commits_alone() {
    let builder = long_root;
    let disk = SimDisk::new(7);
    let store = open(builder(), &disk).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    for commit in 0..400_u32 {
        commit_long_names(&store, commit, digest);
        if commit % 20 == 19 {
            opens_after_a_kill(builder(), &disk, &format!("after {commit} commits"));
        }
    }
    assert!(store.stats().names.levels.iter().map(|level| level.table_count).sum::<u64>() > 300);
}

#[test]
fn a_deletion_longer_than_a_segment_goes_on_without_space() {
    for (pointer_segment_bytes, names, free_bytes) in
        [(4 << 10, 6, 0), (4 << 10, 6, 8 << 10), (16 << 10, 10, 0), (16 << 10, 20, 0)]
    {
        let builder = || store(64 << 10, pointer_segment_bytes);
        let context = format!("{names} names, segments of {pointer_segment_bytes}, {free_bytes}");
        let disk = SimDisk::new(7);
        let store = open(builder(), &disk).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        for number in 0..names {
            store.commit(Batch::new().set(long_name(number), digest)).unwrap();
        }
        store.maintain().unwrap();
        disk.set_capacity(Some(disk.used_bytes() + free_bytes));
        let before = disk.op_count();
        let deletions = (0..names).map(long_name);
        let deleted = store.commit(deletions.fold(Batch::new(), Batch::delete));
        let told = deleted.as_ref().err().map(|error| common::told(error)).unwrap_or_default();
        assert!(deleted.is_ok(), "{context}: {told}");
        assert!(disk.op_count() - before < 100, "{context}: the reserve went to and fro");
        opens_after_a_kill(builder(), &disk, &context);
    }
}

#[test]
fn each_crash_of_a_long_deletion_without_space_leaves_a_store_that_opens() {
    let builder = || store(64 << 10, 4 << 10);
    let made = SimDisk::new(7);
    let store = open(builder(), &made).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    for number in 0..40 {
        store.commit(Batch::new().set(long_name(number), digest)).unwrap();
    }
    store.close().unwrap();
    let mut crashed = 0;
    for mutation in 1.. {
        let disk = made.clean_reopen();
        let store = open(builder(), &disk).unwrap();
        // The reserve is there, and nothing else.
        store.put(b"another").unwrap();
        store.maintain().unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        disk.crash_at_mutation(disk.mutation_count() + mutation);
        let deleted = store.commit((0..40).map(long_name).fold(Batch::new(), Batch::delete));
        if let Err(error) = &deleted {
            assert!(!matches!(error, Error::NoSpace { .. }), "{}", common::told(error));
        }
        for state in [CrashState::Everything, CrashState::Nothing, CrashState::Random(mutation)] {
            let image = disk.after_crash(state);
            image.set_capacity(Some(image.used_bytes()));
            let opened = open(builder(), &image);
            let told = opened.as_ref().err().map(|error| common::told(error)).unwrap_or_default();
            assert!(opened.is_ok(), "crash at {mutation}, {state:?}: {told}");
            let left = opened.unwrap().pointers_with_prefix("").count();
            assert!(left == 0 || left == 40 && deleted.is_err(), "{mutation}: {left} names");
            image.crash_now();
        }
        if deleted.is_ok() {
            break;
        }
        crashed += 1;
    }
    assert!(crashed > 10, "{crashed}");
}

#[test]
fn what_a_refused_value_left_is_counted_as_to_be_copied() {
    let disk = SimDisk::new(7);
    let first = open(store(256 << 10, 16 << 10), &disk).unwrap();
    for number in 0..12_u32 {
        let digest = first.put(&noise(number.into(), 10_000)).unwrap().digest;
        first.commit(Batch::new().set(number.to_string(), digest)).unwrap();
    }
    first.maintain().unwrap();
    let disk = {
        let dead = disk.clean_reopen();
        disk.crash_now();
        dead
    };
    // The segment is reserved for less than is written to it now, and there is no space for more.
    let builder = || store(1 << 20, 16 << 10);
    let used_bytes = {
        let image = disk.clean_reopen();
        let _store = open(builder(), &image).unwrap();
        image.used_bytes()
    };
    disk.set_capacity(Some(used_bytes - (300 << 10)));
    let second = open(builder(), &disk).unwrap();
    let refused = second.put(&noise(99, 700_000));
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    for round in 0..200_u32 {
        // Others take what is given back.
        disk.set_capacity(Some(disk.used_bytes()));
        if second.commit(Batch::new().delete((round % 12).to_string())).is_err() {
            break;
        }
    }
    opens_after_a_kill(builder(), &disk, "after deletions");
}

/// Others take what is given back, until nothing is; then a few sectors at a time are free, and taken.
#[test]
fn deletions_that_find_no_space_leave_what_recovery_needs() {
    let builder = || {
        let segment_bytes = 4 << 10;
        store(segment_bytes, 64 << 10).reserve_bytes(2 * segment_bytes + (136 << 10))
    };
    let (mut refused, mut deleted) = (0, 0);
    for skipped in (0..64).step_by(5) {
        let disk = SimDisk::new(skipped);
        let store = open(builder(), &disk).unwrap();
        for number in 0..3 {
            let digest = store.put(&noise(number, 5000)).unwrap().digest;
            store.commit(Batch::new().set("name", digest)).unwrap();
        }
        store.maintain().unwrap();
        let (mut is_tight, mut tries) = (false, 0);
        for commit in 0_u64.. {
            let free_bytes = match (is_tight, commit < skipped) {
                (true, _) => 512 * (1 + (tries + skipped) % 4),
                (false, true) => 1 << 20,
                (false, false) => 0,
            };
            disk.set_capacity(Some(disk.used_bytes() + free_bytes));
            let outcome = store.commit(Batch::new().delete("name"));
            is_tight |= outcome.is_err();
            if is_tight {
                tries += 1;
                refused += u32::from(outcome.is_err());
                deleted += u32::from(outcome.is_ok());
                opens_after_a_kill(builder(), &disk, &format!("{skipped} skipped, try {tries}"));
            }
            if tries > 150 {
                break;
            }
        }
    }
    assert!(refused > 100 && deleted > 50, "{refused} refused, {deleted} deleted");
}

/// A recovery that is killed has used what was set aside for it: what it leaves has room for the next.
#[test]
fn a_recovery_that_is_killed_leaves_the_next_its_space_however_long_the_root() {
    let builder = long_root;
    let disk = SimDisk::new(7);
    let store = open(builder(), &disk).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    for commit in 0..200_u32 {
        commit_long_names(&store, commit, digest);
    }
    store.close().unwrap();
    let root_bytes = |disk: &SimDisk| {
        let roots = disk.names().into_iter().filter(|name| name.starts_with("root-"));
        roots.map(|name| disk.file_bytes(&name).unwrap().len()).sum::<usize>()
    };
    assert!(root_bytes(&disk) > 300 << 10, "{}", root_bytes(&disk));
    let capacity = disk.used_bytes();
    let mut killed = 0;
    for mutation in 1.. {
        let image = disk.clean_reopen();
        image.set_capacity(Some(capacity));
        image.crash_at_mutation(mutation);
        let is_open = takes_over(builder(), &image).is_ok();
        let mut image = image.after_crash(CrashState::Everything);
        image.set_capacity(Some(capacity));
        // The same again, twice.
        for _ in 0..2 {
            let next = image.clean_reopen();
            next.set_capacity(Some(capacity));
            next.crash_at_mutation(mutation);
            let _ = takes_over(builder(), &next);
            image = next.after_crash(CrashState::Everything);
            image.set_capacity(Some(capacity));
        }
        let opened = open(builder(), &image);
        let told = opened.as_ref().err().map(|error| common::told(error)).unwrap_or_default();
        assert!(opened.is_ok(), "killed at {mutation}: {told}");
        image.crash_now();
        killed += 1;
        if is_open {
            break;
        }
    }
    assert!(killed > 10, "{killed}");
}

/// Others take what an open that failed leaves free: it sets aside again what it was given.
#[test]
fn an_open_that_fails_keeps_what_the_next_one_needs() {
    let builder = || store(256 << 10, 16 << 10);
    let made = killed(builder());
    let capacity = made.used_bytes();
    let mut failed = 0;
    for fault in [Fault::Eio, Fault::Emfile, Fault::Enospc, Fault::SyncEnospc] {
        for op in 1.. {
            let disk = made.clean_reopen();
            disk.set_capacity(Some(capacity));
            let op = disk.op_count() + op;
            disk.fail_at(op, fault);
            let opened = open(builder(), &disk);
            let has_begun = disk.op_count() < op;
            match opened {
                Ok(_store) => disk.crash_now(),
                Err(error) => {
                    failed += 1;
                    let context = format!("{fault:?} of operation {op}: {}", common::told(&error));
                    opens_after_a_kill(builder(), &disk, &context);
                }
            }
            if has_begun {
                break;
            }
        }
    }
    assert!(failed > 50, "{failed}");
}

/// From some operation of an open on, the process has no file left to open, and so it is when it tries
/// again: what an open has given back by then is set aside again, however often.
#[test]
fn opens_that_run_out_of_files_keep_what_the_next_one_needs() {
    let builder = || store(16 << 10, 4 << 10);
    // Most of the reserve is there for one value, and much else is not.
    let made = {
        let disk = SimDisk::new(7);
        let store = open(builder(), &disk).unwrap();
        let digest = store.put(&noise(7, 480 << 10)).unwrap().digest;
        store.commit(Batch::new().set("name", digest)).unwrap();
        let killed = disk.after_crash(CrashState::Everything);
        disk.crash_now();
        killed
    };
    let capacity = made.used_bytes();
    // Whether the open failed, and whether it came that far.
    let open_from = |disk: &Arc<SimDisk>, op: u64| {
        let at = disk.op_count() + op;
        disk.fail_from(at, Fault::Emfile);
        let opened = open(builder(), disk).map(|_store| disk.crash_now());
        let was_met = disk.op_count() >= at;
        disk.heal();
        // Others take what is free.
        disk.set_capacity(Some(disk.used_bytes()));
        (opened.is_err(), was_met)
    };
    let mut failed = 0;
    'all: for op in 1.. {
        for again in (1..=op).step_by(2) {
            let disk = made.clean_reopen();
            disk.set_capacity(Some(capacity));
            match open_from(&disk, op) {
                (_, false) => break 'all,
                (false, true) => break,
                (true, true) => {}
            }
            if let (true, _) = open_from(&disk, again) {
                failed += 1;
                opens_after_a_kill(builder(), &disk, &format!("from {op}, then from {again}"));
            }
        }
    }
    assert!(failed > 300, "{failed}");
}

/// An open on a full device gives the reserve back, and then has as much of it as there is, whatever it
/// meets meanwhile; or it fails.
#[test]
fn an_open_that_meets_a_fault_on_a_full_device_has_what_deletions_need() {
    let builder = || store(64 << 10, 16 << 10);
    let closed = {
        let disk = SimDisk::new(7);
        filled(builder(), &disk).close().unwrap();
        disk
    };
    let mut met = 0;
    for made in [killed(builder()), closed] {
        for fault in [Fault::Emfile, Fault::Eio] {
            met += deletes_after_opens(builder, &made, |disk, op| disk.fail_at(op, fault));
            met += deletes_after_opens(builder, &made, |disk, op| disk.fail_from(op, fault));
        }
    }
    assert!(met > 20, "{met}");
}

/// Has each operation of opening it on a full device fail as `fail` says; how many opened all the same.
fn deletes_after_opens(
    builder: fn() -> StoreBuilder,
    made: &SimDisk,
    fail: impl Fn(&SimDisk, u64),
) -> u32 {
    let mut met = 0;
    for op in 1.. {
        let disk = made.clean_reopen();
        disk.set_capacity(Some(disk.used_bytes()));
        let at = disk.op_count() + op;
        fail(&disk, at);
        let Ok(store) = open(builder(), &disk) else { continue };
        if disk.op_count() < at {
            break;
        }
        met += 1;
        disk.heal();
        // Others take what is free.
        disk.set_capacity(Some(disk.used_bytes()));
        let context = format!("a fault at {op}");
        for name in 0..3 {
            let deleted = store.commit(Batch::new().delete(name.to_string()));
            let told = deleted.as_ref().err().map(|error| common::told(error)).unwrap_or_default();
            assert!(deleted.is_ok(), "{context}: {told}");
        }
        opens_after_a_kill(builder(), &disk, &context);
        store.close().unwrap();
    }
    met
}

/// A deletion longer than a segment, made while not all is set aside, is counted once all is.
#[test]
fn a_long_deletion_made_while_space_was_short_is_counted_later() {
    let builder = || store(256 << 10, 4 << 10);
    let mut crashed = 0;
    for mutation in 1.. {
        let disk = SimDisk::new(7);
        let store = open(builder(), &disk).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        store.commit(Batch::new().set("name", digest)).unwrap();
        store.maintain().unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        let refused = store.put(&noise(5, 800 << 10));
        assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
        disk.set_capacity(None);
        store.commit((0..600).map(long_name).fold(Batch::new(), Batch::delete)).unwrap();
        store.maintain().unwrap();
        let digest = store.put(&noise(6, 120 << 10)).unwrap().digest;
        disk.crash_at_mutation(disk.mutation_count() + mutation);
        let is_done = store.commit(Batch::new().set("another", digest)).is_ok();
        opens_after_a_kill(builder(), &disk, &format!("killed at {mutation}"));
        if is_done {
            break;
        }
        crashed += 1;
    }
    assert!(crashed > 5, "{crashed}");
}

/// While a long deletion, made while space is short, waits for the pointer log to go on, another thread
/// has what is set aside made whole, or cut: it is counted by then.
#[test]
fn a_long_deletion_is_counted_before_the_log_goes_on_for_it() {
    // One that is stored, and one that is refused.
    for (value_bytes, free_bytes) in [(480_000, 100 << 20), (3 << 20, 2200 << 10)] {
        let mut crashed = 0;
        for mutation in 1.. {
            let disk = SimDisk::new(7);
            let deleted = delete_beside_a_put(&disk, mutation, value_bytes, free_bytes);
            let context = format!("{value_bytes} bytes, killed at {mutation}");
            opens_after_a_kill(store_of_long_deletions(), &disk, &context);
            if deleted.is_ok() {
                break;
            }
            crashed += 1;
        }
        assert!(crashed > 3, "{crashed}");
    }
}

fn store_of_long_deletions() -> StoreBuilder {
    store(1 << 20, 4 << 10)
}

/// Killed at so many mutations after the put.
fn delete_beside_a_put(
    disk: &Arc<SimDisk>,
    mutation: u64,
    value_bytes: usize,
    free_bytes: u64,
) -> Result<CommitId> {
    let meddling = MeddlingDisk::new(disk);
    let builder = store_of_long_deletions();
    let store = builder.open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    store.commit(Batch::new().set("name", digest)).unwrap();
    store.maintain().unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    let refused = store.put(&noise(5, 3 << 20));
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    disk.set_capacity(None);
    let (ordinal, epoch) = (Ordinal::FIRST, Epoch::FIRST);
    // The last frame of the segment that is gone on from.
    meddling.before_write(FileName::Segment { log: LogKind::Pointer, ordinal, epoch }, {
        let (disk, store) = (Arc::clone(disk), store.clone());
        move || {
            disk.set_capacity(Some(disk.used_bytes() + free_bytes));
            let put = store.put(&noise(6, value_bytes));
            assert_eq!(put.is_ok(), value_bytes < 1 << 20, "{put:?}");
            disk.set_capacity(None);
            disk.crash_at_mutation(disk.mutation_count() + mutation);
        }
    });
    let deleted = store.commit((0..2500).map(long_name).fold(Batch::new(), Batch::delete));
    assert!(meddling.has_meddled());
    deleted
}

/// A store that was closed with a long segment of the pointer log, and opened on a full device.
#[test]
fn each_crash_of_a_deletion_behind_a_long_segment_leaves_a_store_that_opens() {
    let builder = || store(64 << 10, 1 << 20);
    let made = SimDisk::new(7);
    let first = open(builder(), &made).unwrap();
    let digest = first.put(b"value").unwrap().digest;
    for number in 0..200 {
        first.commit(Batch::new().set(long_name(number), digest)).unwrap();
    }
    first.close().unwrap();
    let mut crashed = 0;
    for mutation in 1.. {
        let disk = made.clean_reopen();
        disk.set_capacity(Some(disk.used_bytes()));
        let second = open(builder(), &disk).unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        disk.crash_at_mutation(disk.mutation_count() + mutation);
        let deleted = second.commit(Batch::new().delete(long_name(3)));
        if let Err(error) = &deleted {
            assert!(!matches!(error, Error::NoSpace { .. }), "{}", common::told(error));
        }
        opens_after_a_kill(builder(), &disk, &format!("killed at {mutation}"));
        if deleted.is_ok() {
            break;
        }
        crashed += 1;
    }
    assert!(crashed > 5, "{crashed}");
}
