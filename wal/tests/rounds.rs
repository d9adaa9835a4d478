//! Rounds misused, segments offered twice, appends racing the end.
#![allow(clippy::unwrap_used, reason = "this is test code")]
#![expect(clippy::disallowed_methods, reason = "threads of a test")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{EVERYTHING, Rig, SEGMENT_BYTES, find, finish, found, header, value};
use pinstone_disk::env::{AtomicU64, Mutex, Ordering};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Batch, Disk, LogKind, Operation, Ordinal};
use pinstone_wal::{WalError, create_segment};

fn panics(call: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_err()
}

#[test]
fn a_round_whose_syncs_nobody_took_makes_nothing_durable() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    assert!(panics(|| round.finish(Ok(())).unwrap()));
    let durable = rig.synced.of(LogKind::Blob);
    assert!(durable <= rig.place(b"first").unwrap().position());
    assert_eq!(found(&disk, CrashState::Nothing).values, [b""; 0]);
    // Its syncs are left to the next.
    rig.log.sync_all().unwrap();
    assert_eq!(found(&disk, CrashState::Nothing).values, [b"first"]);
}

#[test]
fn the_syncs_of_a_round_are_given_out_once() {
    let rig = Rig::small(SimDisk::new(1));
    rig.put(b"first").unwrap();
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    let _taken = round.chains();
    assert!(panics(|| drop(round.chains())));
    drop(round);
    assert!(matches!(rig.put(b"second"), Err(WalError::Poisoned { .. })));
}

#[test]
fn a_round_cannot_be_abandoned_once_its_syncs_are_on_their_way() {
    let rig = Rig::small(SimDisk::new(1));
    rig.put(b"first").unwrap();
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    let _taken = round.chains();
    round.abandon();
    assert!(matches!(rig.log.begin_round_covering(EVERYTHING), Err(WalError::Poisoned { .. })));
}

#[test]
fn a_round_with_nothing_to_sync_makes_durable_what_was() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    rig.log.sync_all().unwrap();
    let durable = rig.synced.of(LogKind::Blob);
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    assert!(round.chains().is_empty());
    round.finish(Ok(())).unwrap();
    assert_eq!(rig.synced.of(LogKind::Blob), durable);
}

#[test]
fn rounds_abandoned_over_several_segments_leave_all_their_syncs_to_the_next() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    let mut values = Vec::new();
    while rig.log.closing_count() < 3 {
        let value = value(values.len() as u64, 900);
        rig.put(&value).unwrap();
        values.push(value);
        rig.log.begin_round_covering(EVERYTHING).unwrap().abandon();
    }
    assert_eq!(rig.synced.of(LogKind::Blob).number(), 0);
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    let chains = round.chains();
    assert_eq!(chains.len(), 4);
    let results = disk.run(Batch { chains });
    finish(round, results);
    assert_eq!(found(&disk, CrashState::Nothing).values, values);
}

#[test]
fn segments_end_while_a_round_is_in_flight_and_are_the_next_ones_to_sync() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    let mut values = vec![value(0, 900)];
    rig.put(&values[0]).unwrap();
    let round = rig.log.begin_round_covering(EVERYTHING).unwrap();
    let results = disk.run(Batch { chains: round.chains() });
    while rig.log.closing_count() < 2 {
        let value = value(values.len() as u64, 900);
        rig.put(&value).unwrap();
        values.push(value);
    }
    let upto = round.upto();
    finish(round, results);
    assert_eq!(rig.synced.of(LogKind::Blob), upto);
    assert_eq!(found(&disk, CrashState::Nothing).values, values[..1]);
    while let Some(closing) = rig.log.take_closing().unwrap() {
        assert!(rig.synced.of(LogKind::Blob) >= closing.end());
    }
    rig.log.sync_all().unwrap();
    assert_eq!(found(&disk, CrashState::Nothing).values, values);
}

#[test]
fn of_two_segments_offered_the_second_is_given_back() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    rig.grow().unwrap();
    let third = || create_segment(&*disk, header(LogKind::Blob, 3), SEGMENT_BYTES).unwrap();
    let refused = rig.log.offer(third()).unwrap_err();
    assert_eq!(refused.header.ordinal, Ordinal(3));
    while rig.log.has_next() {
        rig.put(&value(disk.op_count(), 900)).unwrap();
    }
    rig.log.offer(refused).unwrap();
    assert!(rig.log.has_next());
    rig.log.sync_all().unwrap();
}

#[test]
fn a_segment_is_not_offered_out_of_order() {
    let disk = SimDisk::new(1);
    let segment =
        |ordinal| create_segment(&*disk, header(LogKind::Blob, ordinal), SEGMENT_BYTES).unwrap();
    let [first, second, third] = [1, 2, 3].map(segment);
    let rig = Rig::small(disk.clone());
    rig.log.offer(second.clone()).unwrap();
    for earlier in [first, second] {
        assert!(panics(|| drop(rig.log.offer(earlier))));
        assert!(!rig.log.has_next());
    }
    rig.log.offer(third).unwrap();
}

#[test]
fn what_was_accepted_before_the_end_is_durable_after_it_and_nothing_is_accepted_later() {
    let refused = AtomicU64::new(0);
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let rig = Rig::small(disk.clone());
        let accepted = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (rig, accepted, refused) = (&rig, &accepted, &refused);
                scope.spawn(move || {
                    for n in 0..200 {
                        let len = if n % 8 == thread { 3000 } else { 200 };
                        let value = value(thread << 32 | n, len);
                        match rig.put(&value) {
                            Ok(_) => accepted.lock().push(value),
                            Err(WalError::Poisoned { .. }) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                return;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let (rig, accepted) = (&rig, &accepted);
            scope.spawn(move || {
                while accepted.lock().len() < 20 + usize::try_from(seed).unwrap() * 10 {
                    std::thread::yield_now();
                }
                rig.log.trim().unwrap();
                assert!(matches!(rig.put(b"late"), Err(WalError::Poisoned { .. })));
            });
        });
        let found = find(&*disk.after_crash(CrashState::Nothing), LogKind::Blob).unwrap();
        for value in accepted.into_inner() {
            assert!(found.holds(&value), "seed {seed}");
        }
        assert_eq!(found.end.unwrap().position, rig.synced.of(LogKind::Blob));
        assert_eq!(found.end.unwrap().cut_bytes, 0);
    }
    assert!(refused.into_inner() > 30, "the ends came in the middle");
}

#[test]
fn an_end_that_was_refused_for_space_takes_nothing_more_and_can_be_had_later() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    rig.grow().unwrap();
    disk.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
    assert!(matches!(rig.log.trim(), Err(WalError::Disk(error)) if error.is_no_space()));
    disk.heal();
    for value in [b"late".to_vec(), value(1, 3000)] {
        assert!(matches!(rig.put(&value), Err(WalError::Poisoned { .. })));
    }
    assert_eq!(rig.get(b"first").unwrap(), b"first");
    rig.log.trim().unwrap();
    rig.log.trim().unwrap();
    let found = find(&*disk.after_crash(CrashState::Nothing), LogKind::Blob).unwrap();
    assert_eq!(found.values, [b"first"]);
    for scan in &found.scans {
        assert_eq!(scan.bytes.len() as u64, scan.valid_end_bytes);
    }
}
