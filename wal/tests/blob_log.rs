//! The blob log under threads, full devices, failed syncs and crashes.
#![allow(clippy::unwrap_used, reason = "this is test code")]
#![expect(clippy::disallowed_methods, reason = "threads of a test")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{
    BUFFER_BYTES, EVERYTHING, Rig, SEGMENT_BYTES, find, finish, found, header, is_no_space, store,
    value,
};
use pinstone_disk::env::{AtomicU64, Ordering};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Batch, Digest, Disk, IoOptions, LogKind, OpenMode, Operation, StdDisk};
use pinstone_wal::{
    Appended, BlobLog, BlobLogOptions, Closing, FRAMES_START_BYTES, ListEntry, LogPosition,
    PreparedValue, Scan, SegmentFile, SizeClass, TAKING_BYTES_MAX, TAKING_VALUES_MAX, ValueRecord,
    WalError, Writer,
};

fn crashes() -> impl Iterator<Item = CrashState> {
    [CrashState::Nothing, CrashState::Everything].into_iter().chain((0..4).map(CrashState::Random))
}

/// Values small and large, so that frames, segments and large frames all come about.
fn mixed(count: u64) -> Vec<Vec<u8>> {
    let len = |n: u64| match n % 9 {
        7 => 3000,
        8 => 20_000,
        short => usize::try_from(short * 37 + n).unwrap() + 8,
    };
    (0..count).map(|n| value(n, len(n))).collect()
}

#[test]
fn a_value_can_be_read_as_soon_as_it_was_put() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk);
    let values = mixed(60);
    for (index, value) in values.iter().enumerate() {
        assert!(rig.put(value).unwrap());
        assert!(!rig.put(value).unwrap(), "it is known now");
        for earlier in &values[..=index] {
            assert_eq!(rig.get(earlier).as_ref(), Some(earlier));
        }
    }
    assert!(rig.log.closing_count() > 2);
}

#[test]
fn values_appended_together_stand_as_if_appended_one_by_one() {
    let mut values = mixed(120);
    // Some of them twice, next to each other and apart.
    values.insert(5, values[4].clone());
    values.extend_from_within(30..50);
    let [alone, together] = [false, true].map(|is_together| {
        let disk = SimDisk::new(1);
        let rig = Rig::small(disk.clone());
        if is_together {
            let takings = rig.put_many(&values).unwrap();
            assert!(takings.len() * 2 < values.len(), "hardly any were: {takings:?}");
            values.iter().for_each(|value| assert_eq!(rig.get(value).as_ref(), Some(value)));
        } else {
            values.iter().for_each(|value| assert!(rig.put(value).is_ok()));
        }
        rig.log.sync_all().unwrap();
        let names = disk.names();
        names.into_iter().map(|name| (disk.file_bytes(&name), name)).collect::<Vec<_>>()
    });
    assert!(alone.len() > 10);
    assert!(alone == together, "the files differ");
}

#[test]
fn one_taking_of_the_lock_appends_no_more_than_its_bounds() {
    let rig = || Rig::new(SimDisk::new(1), 64 << 20, 16 << 20);
    let takings = |len_bytes: usize, count: u64| {
        let values: Vec<_> = (0..count).map(|n| value(n, len_bytes)).collect();
        rig().put_many(&values).unwrap()
    };
    // The first finds no segment.
    assert_eq!(takings(20, 601), [1, TAKING_VALUES_MAX, TAKING_VALUES_MAX, 88]);
    // What is known counts, too.
    let known = rig();
    known.put(&value(0, 20)).unwrap();
    assert_eq!(known.put_many(&vec![value(0, 20); 300]).unwrap(), [TAKING_VALUES_MAX, 44]);
    // Each record has 42 bytes more.
    let each = TAKING_BYTES_MAX.div_ceil(10_042);
    assert_eq!(takings(10_000, 60), [1, each, each, 5]);
    assert_eq!(takings(TAKING_BYTES_MAX, 4), [1, 1, 1, 1]);
}

#[test]
fn a_taking_ends_where_something_has_to_be_written_or_brought() {
    let rig = Rig::small(SimDisk::new(1));
    let prepared = |value: &[u8]| {
        let value: &'static [u8] = value.to_vec().leak();
        PreparedValue::new(store(), Digest::of(value), value)
    };
    let append = |values: &[PreparedValue<'_>]| {
        let appended = rig.log.append_some(values, |_| false, |_, _| {}).unwrap();
        appended.len()
    };
    let short: Vec<_> = (0..10).map(|n| prepared(&value(n, 300))).collect();
    assert_eq!(append(&short), 0, "there is no segment");
    rig.grow().unwrap();
    assert_eq!(append(&[]), 0);
    // Six records of 342 bytes and a header of 64 do not fit into 2 KiB.
    assert_eq!(append(&short), 5);
    assert_eq!(append(&short), 0, "the frame is full");
    rig.log.write_out().unwrap();
    let large = prepared(&value(10, 1000));
    assert_eq!(append(&[prepared(&value(11, 20)), large, prepared(&value(12, 20))]), 1);
    rig.log.trim().unwrap();
    let after = rig.log.append_some(&short, |_| false, |_, _| {});
    assert!(matches!(after, Err(WalError::Poisoned { .. })));
}

#[test]
fn the_log_goes_on_in_the_next_segment_once_one_has_as_many_values_as_it_may() {
    for segment_values_max in [1, 2, 7] {
        let disk = SimDisk::new(1);
        let options = BlobLogOptions {
            segment_bytes: 1 << 20,
            segment_values_max,
            buffer_bytes: BUFFER_BYTES,
        };
        let rig = Rig::with(disk.clone(), options, FRAMES_START_BYTES);
        // A large value in the midst, of each sort of segment's end.
        let values: Vec<_> =
            (0..30).map(|n| value(n, if n % 5 == 3 { 3000 } else { 20 })).collect();
        let mut wanted = Vec::new();
        for (value, before) in values.iter().zip(0..) {
            rig.put(value).unwrap();
            let ordinal = 1 + before / segment_values_max;
            assert_eq!(u64::from(rig.place(value).unwrap().ordinal.0), ordinal);
            if rig.log.take_due() && rig.log.wants_next() {
                wanted.push(before % segment_values_max + 1);
            }
        }
        // Asked for as soon as more than half of what a segment may have is in one.
        assert!(!wanted.is_empty());
        assert!(wanted.iter().all(|count| *count > segment_values_max / 2), "{wanted:?}");
        assert!(wanted.contains(&(segment_values_max / 2 + 1)), "{wanted:?}");
        for sealed in rig.seal_all().unwrap() {
            assert_eq!(sealed.record_count, segment_values_max);
        }
        rig.log.sync_all().unwrap();
        assert_eq!(found(&disk, CrashState::Nothing).values, values);
    }
}

#[test]
fn a_recovered_segment_with_more_values_than_it_may_have_takes_no_more() {
    let disk = SimDisk::new(1);
    let before = Rig::small(disk.clone());
    let values: Vec<_> = (0..9).map(|n| value(n, 20)).collect();
    values.iter().for_each(|value| assert!(before.put(value).unwrap()));
    before.log.sync_all().unwrap();
    let header = header(LogKind::Blob, 1);
    let scan = Scan::of(header, common::file_bytes(&*disk, header.file_name()));
    let sealer = scan.sealer(scan.valid_end_bytes, |sealer, offset, record| {
        let digest = ValueRecord::decode(record.payload).unwrap().digest;
        let offset_bytes = u32::try_from(offset).unwrap();
        let class = SizeClass::covering(record.len_bytes as u64);
        sealer.value(ListEntry { digest, offset_bytes, class });
    });
    let file = disk.open(header.file_name(), OpenMode::Write).unwrap();
    let segment = SegmentFile { header, file };
    let active = Closing { segment, frames_end_bytes: scan.valid_end_bytes, sealer };
    let options = BlobLogOptions {
        segment_bytes: SEGMENT_BYTES,
        segment_values_max: 4,
        buffer_bytes: BUFFER_BYTES,
    };
    let writer = Writer::new(disk, common::EPOCH, store());
    let log = BlobLog::new(writer, options, Some(active), Vec::new());
    let value = value(99, 20);
    let prepared = PreparedValue::new(store(), Digest::of(&value), &value);
    let appended = log.append(&prepared, || false, |_| panic!("there is no room")).unwrap();
    assert_eq!(appended, Appended::NeedsSegment);
}

fn many_threads(disk: Arc<dyn Disk>, each: u64) {
    let rig = Rig::new(disk, 1 << 18, 8 << 10);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let rig = &rig;
            scope.spawn(move || {
                for n in 0..each {
                    // Every second value is one that all threads put.
                    let owner = if n % 2 == 0 { 0 } else { thread + 1 };
                    let len = if n % 64 == 63 { 5000 } else { 60 + (n % 500) };
                    let own = value(owner << 32 | n, usize::try_from(len).unwrap());
                    rig.put(&own).unwrap();
                    assert_eq!(rig.get(&own), Some(own.clone()));
                    if n % 97 == thread {
                        rig.log.sync(rig.place(&own).unwrap().position()).unwrap();
                    }
                    if n % 193 == thread {
                        rig.seal_all().unwrap();
                    }
                }
            });
        }
    });
    let shared = each.div_ceil(2);
    let places = rig.places();
    assert_eq!(places.len() as u64, shared + 8 * (each - shared));
    let starts: BTreeSet<LogPosition> = places.iter().map(|place| place.position()).collect();
    assert_eq!(starts.len(), places.len(), "no two stand in one place");
    rig.log.sync_all().unwrap();
    rig.seal_all().unwrap();
}

#[test]
fn many_threads_append_on_the_machines_disk() {
    let directory = tempfile::tempdir().unwrap();
    many_threads(StdDisk::create(directory.path().join("log"), IoOptions::default()).unwrap(), 600);
}

#[test]
fn many_threads_append_on_a_simulated_disk() {
    many_threads(SimDisk::new(1), 600);
}

#[test]
fn threads_that_append_the_same_values_append_each_once() {
    let rig = Rig::small(SimDisk::new(1));
    let values = mixed(80);
    let new = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for value in &values {
                    let was_new = rig.put(value).unwrap();
                    new.fetch_add(u64::from(was_new), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(new.into_inner(), 80);
    rig.log.sync_all().unwrap();
}

#[test]
fn what_was_synced_survives_the_worst_crash() {
    let disk = SimDisk::new(7);
    let rig = Rig::small(disk.clone());
    let values = mixed(70);
    for (index, value) in values.iter().enumerate() {
        rig.put(value).unwrap();
        if index % 5 != 4 {
            continue;
        }
        rig.log.sync(rig.place(value).unwrap().position()).unwrap();
        let found = found(&disk, CrashState::Nothing);
        for earlier in &values[..=index] {
            assert!(found.holds(earlier), "value {index}");
        }
    }
}

#[test]
fn all_of_it_is_durable_after_sync_all_even_if_a_full_segment_was_taken() {
    let disk = SimDisk::new(7);
    let rig = Rig::small(disk.clone());
    let values = mixed(20);
    let mut taken = Vec::new();
    for value in &values {
        rig.put(value).unwrap();
        while let Some(closing) = rig.log.take_closing().unwrap() {
            assert!(rig.synced.of(LogKind::Blob) >= closing.end(), "durable before it is sealed");
            taken.push(closing);
        }
        rig.log.sync_all().unwrap();
        assert!(found(&disk, CrashState::Nothing).holds(value));
    }
    assert!(taken.len() > 1);
}

#[test]
fn a_random_crash_leaves_a_prefix() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let rig = Rig::small(disk.clone());
        let values = mixed(30);
        let synced = usize::try_from(seed % 30).unwrap();
        for (index, value) in values.iter().enumerate() {
            rig.put(value).unwrap();
            if index == synced {
                rig.log.sync_all().unwrap();
            }
        }
        rig.log.write_out().unwrap();
        let found = found(&disk, CrashState::Random(seed));
        assert!(found.values.len() > synced);
        assert_eq!(found.values, values[..found.values.len()], "seed {seed}");
    }
}

#[test]
fn a_failed_sync_ends_writing() {
    for fault in [Fault::Eio, Fault::SyncFailsThenClean, Fault::SyncEnospc] {
        let disk = SimDisk::new(1);
        let rig = Rig::small(disk.clone());
        let values = mixed(20);
        values.iter().for_each(|value| assert!(rig.put(value).unwrap()));
        disk.fail_when(Filter::any().operation(Operation::Sync), fault);
        let durable = rig.synced.of(LogKind::Blob);
        assert!(matches!(rig.log.sync_all(), Err(WalError::Poisoned { .. })));
        disk.heal();
        assert_eq!(rig.synced.of(LogKind::Blob), durable, "nothing more is known durable");
        assert!(matches!(rig.log.sync_all(), Err(WalError::Poisoned { .. })));
        assert!(matches!(rig.log.take_closing(), Err(WalError::Poisoned { .. })));
        assert!(matches!(rig.log.trim(), Err(WalError::Poisoned { .. })));
        for len in [50, 3000] {
            assert!(matches!(rig.put(&value(99, len)), Err(WalError::Poisoned { .. })));
        }
        for value in &values {
            assert_eq!(rig.get(value).as_ref(), Some(value), "reads go on");
        }
    }
}

#[test]
fn a_failed_write_other_than_for_space_ends_writing() {
    for len in [50, 3000, 20_000] {
        let disk = SimDisk::new(1);
        let rig = Rig::small(disk.clone());
        rig.put(b"first").unwrap();
        rig.log.write_out().unwrap();
        rig.grow().unwrap();
        disk.fail_when(Filter::any().operation(Operation::Write), Fault::Eio);
        let failed = rig.put(&value(1, len)).and_then(|_| rig.log.write_out());
        assert!(matches!(failed, Err(WalError::Poisoned { .. })));
        disk.heal();
        assert!(matches!(rig.put(b"second"), Err(WalError::Poisoned { .. })));
        assert!(!found(&disk, CrashState::Everything).holds(&value(1, len)));
    }
}

/// Puts everything on a disk that fills up; what was accepted, and what was refused.
fn put_all(rig: &Rig, values: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for (index, value) in values.iter().enumerate() {
        match rig.put(value) {
            Ok(_) => accepted.push(value.clone()),
            Err(error) if is_no_space(&error) => refused.push(value.clone()),
            Err(error) => panic!("{error}"),
        }
        let more = match index % 4 {
            1 => rig.log.write_out(),
            2 => rig.log.sync_all(),
            3 => rig.seal_all().map(drop),
            _ => Ok(()),
        };
        assert!(more.is_ok() || more.is_err_and(|error| is_no_space(&error)));
    }
    (accepted, refused)
}

/// On a disk that was full: nothing accepted is lost, nothing refused is found, writing goes on.
fn holds_after_filling_up(disk: &SimDisk, rig: &Rig, values: &[Vec<u8>], case: &str) -> usize {
    let (mut accepted, refused) = put_all(rig, values);
    let check = |accepted: &[Vec<u8>]| {
        for value in accepted {
            assert_eq!(rig.get(value).as_ref(), Some(value), "{case}");
        }
        for state in crashes() {
            // Sealed segments are read by their lists; their frames are scanned all the same.
            let found = found(disk, state);
            for value in &refused {
                assert!(!found.holds(value), "{case}, {state:?}: a refused value was found");
            }
        }
    };
    check(&accepted);
    disk.heal();
    let late = value(1 << 40, 100);
    rig.put(&late).unwrap();
    accepted.push(late);
    rig.log.sync_all().unwrap();
    check(&accepted);
    let found = found(disk, CrashState::Nothing);
    for value in &accepted {
        assert!(found.holds(value), "{case}: an accepted value was lost");
    }
    refused.len()
}

#[test]
fn nothing_is_lost_and_nothing_refused_is_found_if_writes_fail_for_space_from_any_point() {
    let values = mixed(24);
    let run = |seed, from| {
        let disk = SimDisk::new(seed);
        let rig = Rig::small(disk.clone());
        if let Some(from) = from {
            disk.fail_from(from, Fault::Enospc);
        }
        let refused = holds_after_filling_up(&disk, &rig, &values, &format!("from {from:?}"));
        (disk.op_count(), refused)
    };
    let (ops, _) = run(1, None);
    let mut refused = 0;
    for from in 1..ops {
        refused += run(from, Some(from)).1;
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn nothing_is_lost_and_nothing_refused_is_found_if_one_write_fails_for_space() {
    let values = mixed(24);
    for at in 1..120 {
        let disk = SimDisk::new(at);
        let rig = Rig::small(disk.clone());
        disk.fail_at(at, Fault::Enospc);
        holds_after_filling_up(&disk, &rig, &values, &format!("at {at}"));
    }
}

#[test]
fn nothing_is_lost_and_nothing_refused_is_found_on_a_disk_of_any_size() {
    // Nothing is reserved, so that writes run out of space half done.
    let values = mixed(24);
    let mut refused = 0;
    for sectors in 4..200 {
        let disk = SimDisk::new(sectors);
        let rig = Rig::reserving(disk.clone(), SEGMENT_BYTES, BUFFER_BYTES, FRAMES_START_BYTES);
        disk.set_capacity(Some(sectors * 512));
        let case = format!("{sectors} sectors");
        refused += holds_after_filling_up(&disk, &rig, &values, &case);
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn what_waits_for_space_is_bounded() {
    let disk = SimDisk::new(1);
    let rig = Rig::new(disk.clone(), 1 << 20, BUFFER_BYTES);
    rig.put(b"first").unwrap();
    rig.log.write_out().unwrap();
    disk.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
    let mut accepted = 0;
    for n in 0..10_000 {
        accepted += u64::from(rig.put(&value(n, 64)).is_ok());
        assert!(is_no_space(&rig.log.write_out().unwrap_err()));
    }
    let record_bytes = 64 + 38;
    assert!(accepted * record_bytes <= 3 * BUFFER_BYTES as u64, "{accepted} were accepted");
    disk.heal();
    let before = disk.mutation_count();
    rig.log.write_out().unwrap();
    assert!(disk.mutation_count() - before <= 3, "a few frames");
}

#[test]
fn segments_do_not_end_faster_than_they_are_written() {
    // The buffer is larger than a segment, so that only the end of one finishes a frame.
    let disk = SimDisk::new(1);
    let rig = Rig::new(disk.clone(), 8192, 1 << 20);
    rig.put(b"first").unwrap();
    let first = header(LogKind::Blob, 1).file_name();
    disk.fail_when(Filter::any().operation(Operation::Write).file(first), Fault::Enospc);
    let accepted = (0..1000).filter(|n| rig.put(&value(*n, 100)).is_ok()).count();
    assert!(accepted * 138 < 2 * 8192, "{accepted} were accepted");
    disk.heal();
    rig.log.sync_all().unwrap();
    assert_eq!(found(&disk, CrashState::Nothing).values.len(), accepted + 1);
}

#[test]
fn a_written_value_can_be_synced_on_a_full_device() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    rig.log.write_out().unwrap();
    rig.put(b"second").unwrap();
    disk.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
    let [first, second] =
        [b"first".as_slice(), b"second"].map(|v| rig.place(v).unwrap().position());
    rig.log.sync(first).unwrap();
    assert!(found(&disk, CrashState::Nothing).holds(b"first"));
    assert!(is_no_space(&rig.log.sync(second).unwrap_err()));
    assert!(is_no_space(&rig.log.begin_round_covering(EVERYTHING).map(drop).unwrap_err()));
    assert!(rig.log.begin_round_covering(first).is_ok());
}

#[test]
fn an_abandoned_round_leaves_its_syncs_to_the_next() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    let upto = round.upto();
    round.abandon();
    assert!(rig.synced.of(LogKind::Blob) < upto);
    drop(rig.log.begin_round_covering(EVERYTHING).unwrap());
    rig.log.sync_all().unwrap();
    assert!(rig.synced.of(LogKind::Blob) >= upto);
    assert!(found(&disk, CrashState::Nothing).holds(b"first"));
}

#[test]
fn a_round_whose_syncs_are_forgotten_ends_writing() {
    let rig = Rig::small(SimDisk::new(1));
    rig.put(b"first").unwrap();
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    assert_eq!(round.chains().len(), 1);
    drop(round);
    assert!(matches!(rig.put(b"second"), Err(WalError::Poisoned { .. })));
}

#[test]
fn a_round_makes_durable_what_it_found_written_and_no_more() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    // Written while the syncs are on their way.
    let results = disk.run(Batch { chains: round.chains() });
    rig.put(b"second").unwrap();
    rig.log.write_out().unwrap();
    finish(round, results);
    assert!(rig.synced.of(LogKind::Blob) <= rig.place(b"second").unwrap().position());
    assert!(rig.synced.of(LogKind::Blob) < rig.log.written_upto());
    rig.log.sync_all().unwrap();
    assert!(found(&disk, CrashState::Nothing).holds(b"second"));
}

#[test]
fn a_trimmed_log_is_durable_and_takes_no_more() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    let values = mixed(30);
    for value in &values {
        rig.put(value).unwrap();
    }
    rig.grow().unwrap();
    rig.log.trim().unwrap();
    let disk = disk.after_crash(CrashState::Nothing);
    let found = find(&*disk, LogKind::Blob).unwrap();
    assert_eq!(found.values, values);
    let end = found.end.unwrap();
    assert_eq!(end.position, rig.synced.of(LogKind::Blob));
    assert_eq!(end.cut_bytes, 0);
    let last = &found.scans[found.scans.len() - 2];
    assert_eq!(last.bytes.len() as u64, last.valid_end_bytes);
    for len in [50, 3000] {
        assert!(matches!(rig.put(&value(99, len)), Err(WalError::Poisoned { .. })));
    }
}

#[test]
fn a_segment_is_ended_where_it_is_if_another_waits() {
    let rig = Rig::small(SimDisk::new(1));
    assert!(!rig.log.go_on().unwrap(), "it has no segment");
    rig.put(b"first").unwrap();
    assert!(!rig.log.go_on().unwrap(), "none waits");
    rig.grow().unwrap();
    assert!(rig.log.go_on().unwrap());
    assert!(!rig.log.go_on().unwrap(), "nothing stands in it");
    assert_eq!(rig.log.closing_count(), 1);
    rig.put(b"second").unwrap();
    assert_eq!(rig.place(b"second").unwrap().ordinal.0, rig.place(b"first").unwrap().ordinal.0 + 1);
    let full = rig.log.take_closing().unwrap().unwrap();
    assert_eq!(full.sealer.value_count(), 1);
    assert_eq!(
        [rig.get(b"first").unwrap(), rig.get(b"second").unwrap()],
        [&b"first"[..], b"second"]
    );
}
