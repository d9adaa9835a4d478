//! Values that the pointer log carries: one sync a commit, and nothing is lost for it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::meddling::MeddlingDisk;
use common::{tiny_tables, told};
use pinstone::{Batch, CheckOptions, Digest, Error, Maintenance, Options, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, FileName, LogKind, OpenMode, Operation};
use pinstone_wal::{
    Carried, CarriedRecord, CommitRecord, FrameBuilder, FramePlace, LogPosition, RecordKind, Scan,
    StoreSeed, read_header,
};

fn builder() -> StoreBuilder {
    Store::builder()
        .segment_bytes(1 << 20)
        .pointer_segment_bytes(1 << 20)
        .maintenance(Maintenance::Inline)
}

fn open(disk: &Arc<SimDisk>) -> Store {
    open_as(disk, builder()).unwrap()
}

fn open_as(disk: &Arc<SimDisk>, builder: StoreBuilder) -> pinstone::Result<Store> {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

fn value(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(100)
}

fn commit(store: &Store, number: u32) {
    let digest = store.put(&value(number)).unwrap().digest;
    store.commit(Batch::new().set(format!("name-{number}"), digest)).unwrap();
}

fn reads(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let digest = store.pointer(format!("name-{number}")).unwrap().unwrap();
        assert_eq!(store.get(&digest).unwrap().unwrap(), value(number), "{number}");
    }
}

fn holds(store: &Store, numbers: std::ops::Range<u32>) {
    reads(store, numbers);
    let report = store.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

/// The segments of a log, as their files stand.
fn scans(disk: &SimDisk, log: LogKind) -> Vec<Scan> {
    let mut scans = Vec::new();
    for name in segments(disk, log) {
        let file = disk.open(name, OpenMode::Read).unwrap();
        let header = read_header(disk, &file, &name).unwrap();
        let bytes = disk.file_bytes(&name.to_string()).unwrap();
        scans.push(Scan::of(header, bytes.into()));
    }
    scans
}

fn segments(disk: &SimDisk, log: LogKind) -> Vec<FileName> {
    let names = disk.names().into_iter().filter_map(|name| name.parse().ok());
    let is_of_log =
        |name: &FileName| matches!(name, FileName::Segment { log: of, .. } if *of == log);
    names.filter(is_of_log).collect()
}

/// From now on no sync of the blob log's segments succeeds.
fn fail_blob_syncs(disk: &SimDisk) {
    for name in segments(disk, LogKind::Blob) {
        disk.fail_when(Filter::any().operation(Operation::Sync).file(name), Fault::Eio);
    }
}

/// Of each frame of the pointer log the bytes that it carries.
fn carried(disk: &SimDisk) -> Vec<u64> {
    let mut lens = Vec::new();
    for scan in scans(disk, LogKind::Pointer) {
        let mut of = vec![0; scan.frames.len()];
        scan.records(scan.valid_end_bytes, |frame, _, record| {
            if record.kind == RecordKind::Carried as u8 {
                let carried = CarriedRecord::decode(record.payload).unwrap();
                of[frame.header.sequence as usize] += carried.bytes.len() as u64;
            }
        });
        lens.extend(of);
    }
    lens
}

#[test]
fn a_commit_of_little_takes_one_sync() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commit(&store, 0);
    commit(&store, 1);
    // Only the blob log's sync would fail.
    fail_blob_syncs(&disk);
    for number in 2..100 {
        commit(&store, number);
    }
    // A known value that was carried needs no more than one that is durable.
    let known = store.put(&value(50)).unwrap();
    assert!(!known.new);
    store.commit(Batch::new().set("again", known.digest)).unwrap();
    let crashed = disk.after_crash(CrashState::Nothing);
    assert_eq!(carried(&crashed), [[512; 100].as_slice(), &[0]].concat());
    holds(&open(&crashed), 0..100);
    assert!(store.sync().is_err(), "the sync of the blob log fails");
}

#[test]
fn what_is_much_is_synced_and_not_carried() {
    let disk = SimDisk::new(1);
    let large_segments = || builder().segment_bytes(32 << 20);
    let store = open_as(&disk, large_segments()).unwrap();
    commit(&store, 0);
    let large = vec![7; 300 << 10];
    let digest = store.put(&large).unwrap().digest;
    store.commit(Batch::new().set("large", digest)).unwrap();
    for number in 1..2000 {
        store.put(&value(number)).unwrap();
    }
    commit(&store, 2000);
    commit(&store, 2001);
    let crashed = disk.after_crash(CrashState::Nothing);
    assert_eq!(carried(&crashed), [512, 0, 0, 512]);
    let store = open_as(&crashed, large_segments()).unwrap();
    holds(&store, 2000..2002);
    assert_eq!(store.get(&digest).unwrap().unwrap(), large);
}

#[test]
fn what_was_carried_is_durable_in_the_blob_log_once_the_store_is_open_again() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (0..10).for_each(|number| commit(&store, number));
    let mut disk = disk.after_crash(CrashState::Nothing);
    for round in 1..5 {
        let store = open(&disk);
        assert!(store.stats().recovery.bytes_copied > 0, "round {round}");
        holds(&store, 0..10 * round);
        (10 * round..10 * (round + 1)).for_each(|number| commit(&store, number));
        disk = disk.after_crash(CrashState::Nothing);
    }
    let store = open(&disk);
    // What the pointer log carries is not needed any more.
    let blob = scans(&disk.after_crash(CrashState::Nothing), LogKind::Blob);
    let values = |scan: &Scan| {
        let mut count = 0;
        scan.records(scan.valid_end_bytes, |_, _, _| count += 1);
        count
    };
    assert_eq!(blob.iter().map(values).max(), Some(50));
    holds(&store, 0..50);
}

#[test]
fn whatever_became_of_the_blob_logs_file_what_is_carried_is_found() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (0..20).for_each(|number| commit(&store, number));
    for state in (0..50).map(CrashState::Random) {
        let crashed = disk.after_crash(state);
        let name = crashed.names().into_iter().find(|name| name.starts_with("blob-")).unwrap();
        holds(&open(&crashed.clean_reopen()), 0..20);
        // A bad sector: there is another copy.
        let CrashState::Random(number) = state else { unreachable!("all are") };
        let offset = 512 + number * 200;
        if offset < crashed.file_bytes(&name).unwrap().len() as u64 {
            crashed.corrupt(&name, offset, |rest| rest.iter_mut().take(9).for_each(|b| *b ^= 0x55));
        }
        holds(&open(&crashed), 0..20);
    }
}

#[test]
fn before_a_segment_of_the_pointer_log_is_sealed_the_blob_log_has_what_it_carries() {
    let disk = SimDisk::new(1);
    let tiny = || tiny_tables().segment_bytes(1 << 20).maintenance(Maintenance::Inline);
    let store = open_as(&disk, tiny()).unwrap();
    for number in 0..60 {
        commit(&store, number);
        let crashed = disk.after_crash(CrashState::Nothing);
        holds(&open_as(&crashed, tiny()).unwrap(), 0..number + 1);
    }
    assert!(
        store.stats().names.levels.iter().any(|level| level.table_count > 0),
        "some are flushed"
    );
    // It cannot be: the segment stays, and nothing is lost.
    fail_blob_syncs(&disk);
    let mut committed = 60;
    loop {
        let digest = store.put(&value(committed));
        let Ok(digest) = digest.map(|put| put.digest) else { break };
        if store.commit(Batch::new().set(format!("name-{committed}"), digest)).is_err() {
            break;
        }
        committed += 1;
    }
    assert!(committed < 100, "writing ends");
    let crashed = disk.after_crash(CrashState::Nothing);
    holds(&open_as(&crashed, tiny()).unwrap(), 0..committed);
}

/// Damage that leaves each frame valid cannot come from a crash.
#[test]
fn a_durable_commit_whose_values_are_gone_is_corrupt() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commit(&store, 0);
    commit(&store, 1);
    store.maintain().unwrap();
    let crashed = disk.after_crash(CrashState::Nothing);
    holds(&open(&crashed.clean_reopen()), 0..2);

    let scan = scans(&crashed, LogKind::Pointer).remove(0);
    let frame = scan.frames[1];
    let seed = StoreSeed::new(&scan.header.store_id);
    let mut forged = FrameBuilder::with_capacity(0);
    scan.records(scan.valid_end_bytes, |of, _, record| {
        if of.offset_bytes != frame.offset_bytes {
            return;
        }
        if record.kind == RecordKind::Commit as u8 {
            assert!(CommitRecord::decode(record.payload).is_ok());
            return forged.push(seed, RecordKind::Commit, record.payload);
        }
        // Over the first value, in place of the second's.
        let carried = CarriedRecord::decode(record.payload).unwrap();
        let bytes = carried.bytes.to_vec();
        let from = LogPosition::new(carried.from.ordinal(), 512);
        let upto = LogPosition::new(carried.from.ordinal(), 1024);
        Carried { from, upto, frames: vec![bytes.into()] }.push(seed, &mut forged);
    });
    let place = FramePlace {
        epoch: frame.header.epoch,
        sequence: frame.header.sequence,
        synced: frame.header.synced,
        last: false,
    };
    let (_, bytes) = forged.finish(scan.header.seed(), frame.offset_bytes, &place);
    let name = scan.header.file_name().to_string();
    crashed.corrupt(&name, frame.offset_bytes, |rest| rest[..bytes.len()].copy_from_slice(&bytes));
    let error = told(&open_as(&crashed, builder()).unwrap_err());
    assert!(error.contains(&name) && error.contains("values that are gone"), "{error}");
}

/// What is carried the blob log does not testify of; the root does, soon.
#[test]
fn damage_takes_no_more_than_the_root_does_not_testify_to_yet() {
    const COUNT: u32 = 100;
    const TESTIFY: u64 = 8 << 10;
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().testify_bytes(TESTIFY)).unwrap();
    (0..COUNT).for_each(|number| commit(&store, number));
    let image = disk.after_crash(CrashState::Nothing);
    let name = segments(&image, LogKind::Pointer)[0].to_string();
    let all = image.file_bytes(&name).unwrap();
    let end = all.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let frame_bytes = end / u64::from(COUNT);
    let (mut refused, mut lost_max) = (0, 0);
    for cut in (512..end).step_by(512) {
        let copy = image.clean_reopen();
        copy.put_file(&name, &all[..usize::try_from(cut).unwrap()]);
        match open_as(&copy, builder()) {
            Ok(store) => lost_max = lost_max.max(u64::from(COUNT) - store.snapshot().commit().0),
            Err(error) => {
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
    // And the commit that was on its way when the root was told.
    assert!((lost_max - 1) * frame_bytes <= TESTIFY, "{lost_max} commits of {frame_bytes} bytes");
}

#[test]
fn a_value_of_an_acknowledged_commit_is_readable_after_the_blob_logs_sync_failed() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commit(&store, 0);
    let digest = Digest::of(&value(0));
    disk.fail_when(Filter::any().operation(Operation::Sync).nth(1), Fault::SyncFailsThenClean);
    assert!(store.sync().is_err());
    disk.heal();
    // The file system's memory was all that had it.
    disk.drop_caches();
    assert_eq!(store.get(&digest).unwrap().unwrap(), value(0));
    assert_eq!(store.get_many(&[digest])[0].as_ref().unwrap().as_ref().unwrap(), &value(0));
    drop(store);
    holds(&open(&disk.clean_reopen()), 0..1);
}

/// What a device answers with wrong bytes, and what it cannot read at all.
#[test]
fn a_bad_copy_is_read_as_the_pointer_log_carries_it_and_is_written_anew() {
    for unreadable in [false, true] {
        let disk = SimDisk::new(1);
        let builder = || builder().pointer_segment_bytes(64 << 10);
        let store = open_as(&disk, builder()).unwrap();
        (0..3).for_each(|number| commit(&store, number));
        let name = segments(&disk, LogKind::Blob)[0];
        for number in 0..3 {
            disk.corrupt(&name.to_string(), 512 * (1 + number) + 100, |rest| rest[0] ^= 1);
        }
        if unreadable {
            disk.fail_when(Filter::any().operation(Operation::Read).file(name), Fault::Eio);
        }
        for number in 0..3 {
            let digest = Digest::of(&value(number));
            assert_eq!(store.get(&digest).unwrap().unwrap(), value(number));
            assert!(store.contains(&digest).unwrap());
            store.commit(Batch::new().set(format!("again-{number}"), digest)).unwrap();
            assert!(!store.put(&value(number)).unwrap().new);
        }
        disk.heal();
        // The segment leaves that carries them.
        (3..200).for_each(|number| commit(&store, number));
        store.maintain().unwrap();
        reads(&store, 0..200);
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let findings = store.check(&options).unwrap().findings;
        assert!(findings.iter().all(|finding| finding.file == name.to_string()), "{findings:?}");
    }
}

/// Nobody syncs what a read puts anew, but the read itself.
#[test]
fn a_value_that_a_read_put_anew_is_durable_before_the_pointer_log_lets_go_of_its_copy() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commit(&store, 7);
    let name = segments(&disk, LogKind::Blob)[0].to_string();
    disk.corrupt(&name, 612, |rest| rest[0] ^= 1);
    let digest = Digest::of(&value(7));
    assert_eq!(store.get(&digest).unwrap().unwrap(), value(7));
    // No segment of the pointer log is asked: it may be sealed by now.
    let bytes = disk.after_crash(CrashState::Nothing).file_bytes(&name).unwrap();
    let good = bytes.windows(400).filter(|bytes| *bytes == value(7)).count();
    assert_eq!(good, 1, "behind the bad copy");
}

/// A sector that the device cannot read is no reason to refuse a store in which it is carried.
#[test]
fn what_cannot_be_read_when_a_store_is_opened_is_taken_from_what_carries_it() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (0..3).for_each(|number| commit(&store, number));
    let crashed = disk.after_crash(CrashState::Everything);
    let name = segments(&crashed, LogKind::Blob)[0];
    let unreadable = |bytes| {
        let disk = crashed.clean_reopen();
        disk.fail_when(
            Filter::any().operation(Operation::Read).file(name).bytes(bytes),
            Fault::Eio,
        );
        disk
    };
    for number in 0..3 {
        let disk = unreadable(512 * (1 + number)..512 * (2 + number));
        let store = open(&disk);
        let recovery = store.stats().recovery;
        assert_eq!(recovery.segments_laid, 1);
        assert!(recovery.bytes_copied > 0, "a file without it takes its place");
        holds(&store, 0..3);
    }
    // Nothing carries the file's header, nor what is behind: whether that is anything nobody knows.
    let end = 512 * 4;
    for bytes in [0..1, end..end + 1] {
        let disk = unreadable(bytes);
        let names = disk.names();
        let error = open_as(&disk, builder()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && told(&error).contains(&name.to_string()));
        assert_eq!(disk.names(), names);
    }
}

/// However long the pointer log is: a reader of each bad copy would have all of it in memory.
#[test]
fn of_a_bad_copy_the_record_is_read_that_carries_it_and_nothing_else() {
    let disk = SimDisk::new(1);
    let meddling = MeddlingDisk::new(&disk);
    let store = builder().open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
    (0..50).for_each(|number| commit(&store, number));
    let name = segments(&disk, LogKind::Blob)[0].to_string();
    disk.corrupt(&name, 512 * 41 + 100, |rest| rest[0] ^= 1);
    let digest = Digest::of(&value(40));
    let batches = meddling.reads(|| assert_eq!(store.get(&digest).unwrap().unwrap(), value(40)));
    let pointer = segments(&disk, LogKind::Pointer)[0].to_string();
    let of_pointers: Vec<_> =
        batches.into_iter().flatten().filter(|(file, _)| *file == pointer).collect();
    let [(_, offset_bytes)] = of_pointers[..] else { panic!("{of_pointers:?}") };
    let bytes = disk.file_bytes(&pointer).unwrap();
    let at = bytes.windows(400).position(|bytes| *bytes == value(40)).unwrap() as u64;
    assert!(offset_bytes <= at && at < offset_bytes + 512, "{offset_bytes}, not {at}");
}

#[test]
fn what_no_commit_carries_has_no_other_copy() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commit(&store, 0);
    let digest = store.put(&value(9)).unwrap().digest;
    store.sync().unwrap();
    let name = segments(&disk, LogKind::Blob)[0].to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let at = bytes.windows(400).position(|bytes| *bytes == value(9)).unwrap();
    disk.corrupt(&name, at as u64, |rest| rest[0] ^= 1);
    assert!(told(&store.get(&digest).unwrap_err()).contains(&name));
}

/// A check changes nothing, and finds what a read would mend.
#[test]
fn a_check_tells_of_a_bad_copy_that_is_carried_and_it_is_held_still() {
    for is_synced in [false, true] {
        let disk = SimDisk::new(1);
        let store = open(&disk);
        (1..4).for_each(|number| commit(&store, number));
        if is_synced {
            store.sync().unwrap();
        }
        let name = segments(&disk, LogKind::Blob)[0].to_string();
        disk.corrupt(&name, 512 + 612, |rest| rest[0] ^= 1);
        let mutations = disk.mutation_count();
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        let findings = store.check(&options).unwrap().findings;
        assert!(!findings.is_empty(), "nothing was found");
        assert!(findings.iter().all(|finding| finding.file == name), "{findings:?}");
        assert_eq!(disk.mutation_count(), mutations);
        let digest = Digest::of(&value(2));
        assert!(store.contains(&digest).unwrap());
        assert!(store.contains_many(&[digest])[0].as_ref().unwrap());
        // That writes it anew.
        store.commit(Batch::new().set("again", digest)).unwrap();
        assert!(disk.mutation_count() > mutations);
        reads(&store, 1..4);
    }
}

/// A check has told of it; whoever is told may do nothing.
#[test]
fn what_a_check_found_bad_is_written_anew_before_the_pointer_log_lets_go_of_it() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().pointer_segment_bytes(64 << 10)).unwrap();
    (1..4).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    let name = segments(&disk, LogKind::Blob)[0].to_string();
    for number in 0..3 {
        disk.corrupt(&name, 512 * number + 612, |rest| rest[0] ^= 1);
    }
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    assert!(!store.check(&options).unwrap().findings.is_empty());
    (4..200).for_each(|number| commit(&store, number));
    assert!(store.stats().pointer_log.sealed_count > 0 || store.stats().names.flush_count > 0);
    reads(&store, 1..200);
}

/// What read badly once may read well again, and there may be no space to write it anew.
#[test]
fn a_commit_of_a_value_that_was_found_bad_says_what_is_so() {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().segment_bytes(8 << 10)).unwrap();
    (1..4).for_each(|number| commit(&store, number));
    let name = segments(&disk, LogKind::Blob)[0].to_string();
    let flip = || disk.corrupt(&name, 512 + 612, |rest| rest[0] ^= 1);
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    flip();
    assert!(!store.check(&options).unwrap().findings.is_empty());
    flip();
    let digest = Digest::of(&value(2));
    store.commit(Batch::new().set("well", digest)).unwrap();
    assert!(!store.put(&value(2)).unwrap().new, "it has a good copy");

    let digest = Digest::of(&value(3));
    disk.corrupt(&name, 2 * 512 + 612, |rest| rest[0] ^= 1);
    assert!(!store.check(&options).unwrap().findings.is_empty());
    disk.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
    let refused = store.commit(Batch::new().set("full", digest));
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    disk.heal();
    store.commit(Batch::new().set("full", digest)).unwrap();
    reads(&store, 1..4);
}

#[test]
fn a_value_that_a_poisoned_store_reads_from_the_pointer_log_it_holds() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commit(&store, 1);
    let digest = Digest::of(&value(1));
    disk.fail_when(Filter::any().operation(Operation::Sync).nth(1), Fault::SyncFailsThenClean);
    assert!(store.sync().is_err());
    disk.heal();
    disk.drop_caches();
    for _ in 0..2 {
        assert!(store.contains(&digest).unwrap());
        assert!(store.contains_many(&[digest])[0].as_ref().unwrap());
        assert_eq!(store.get(&digest).unwrap().unwrap(), value(1));
    }
}

#[test]
fn one_read_that_failed_makes_no_good_copy_a_bad_one() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    (0..20).for_each(|number| commit(&store, number));
    store.sync().unwrap();
    let name = segments(&disk, LogKind::Blob)[0];
    let bytes = store.stats().blob_log.bytes;
    for number in 0..20 {
        let reads = Filter::any().operation(Operation::Read).file(name);
        disk.fail_when(reads.nth(1), Fault::Eio);
        assert_eq!(store.get(&Digest::of(&value(number))).unwrap().unwrap(), value(number));
        disk.heal();
    }
    assert_eq!(store.stats().blob_log.bytes, bytes, "what stands there well was written again");
}

#[test]
fn a_bad_copy_is_read_as_the_pointer_log_carries_it_after_a_reopening_too() {
    let disk = SimDisk::new(1);
    let builder = || builder().segment_bytes(16 << 10);
    let store = open_as(&disk, builder()).unwrap();
    (1..90).for_each(|number| commit(&store, number));
    store.maintain().unwrap();
    assert!(store.stats().blob_log.sealed_count > 2, "the value's segment is sealed");
    let stands = |name: &FileName| {
        let bytes = disk.file_bytes(&name.to_string()).unwrap();
        bytes.windows(400).position(|bytes| *bytes == value(1))
    };
    let name = segments(&disk, LogKind::Blob).into_iter().find(|name| stands(name).is_some());
    let (name, at) = (name.unwrap().to_string(), stands(&name.unwrap()).unwrap());
    for is_closed in [false, true] {
        let disk = disk.clean_reopen();
        if is_closed {
            open_as(&disk, builder()).unwrap().close().unwrap();
        }
        disk.corrupt(&name, at as u64, |rest| rest[0] ^= 1);
        let store = open_as(&disk, builder()).unwrap();
        assert_eq!(store.get(&Digest::of(&value(1))).unwrap().unwrap(), value(1));
    }
}

/// However long a segment of the pointer log may be.
#[test]
fn what_is_remembered_of_what_is_carried_is_bounded() {
    let disk = SimDisk::new(1);
    let small = builder().memory_bytes(Options::MEMORY_BYTES_MIN).append_buffer_bytes(1 << 10);
    let store = open_as(&disk, small.pointer_segment_bytes(64 << 20).reserve_bytes(0)).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    store.commit(Batch::new().set("name", digest)).unwrap();
    let most_bytes = (0..30_000_u32).map(|number| {
        let digest = store.put(&number.to_le_bytes()).unwrap().digest;
        store.commit(Batch::new().set("name", digest)).unwrap();
        if number.is_multiple_of(1000) { store.stats().memory.sealer_bytes } else { 0 }
    });
    let most_bytes = most_bytes.max().unwrap();
    assert!(most_bytes < 1 << 20, "{most_bytes}");
}

#[test]
fn a_closed_store_that_had_to_be_mended_does_not_open_as_clean() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    commit(&store, 0);
    store.close().unwrap();
    let sound = open(&disk.clean_reopen());
    assert!(sound.stats().recovery.clean);
    let name = segments(&disk, LogKind::Blob)[0].to_string();
    disk.corrupt(&name, 700, |rest| rest[0] ^= 1);
    let mended = open(&disk);
    let recovery = mended.stats().recovery;
    assert!(!recovery.clean && recovery.bytes_copied > 0, "{recovery:?}");
    holds(&mended, 0..1);
}
