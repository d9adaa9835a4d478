//! P2 among real threads: what racing commits, failed preconditions and reads were told is
//! consistent with one order of commits, which a crash cannot shorten below what anyone was told.
//! `common::race` is how histories are recorded and checked.
//!
//! `PINSTONE_CRASH_BUDGET=N` tries N times as many rounds.

mod common;

use std::sync::Arc;

use common::model::{Edit, Pointers, shown};
use common::race::{Call, Did, check, race, survives};
use common::script::workload;
use common::{budget, mix};
use pinstone::{Digest, Maintenance, Store, Verify};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, SimDisk};

const THREADS: u64 = 4;

#[test]
fn threads_on_a_real_disk_see_one_order_of_commits() {
    for round in 0..2 * budget() {
        for maintenance in [Maintenance::Inline, Maintenance::Thread] {
            let dir = tempfile::tempdir().unwrap();
            let builder = || Store::builder().segment_bytes(16 << 10).maintenance(maintenance);
            let store = builder().open(dir.path()).unwrap();
            let history = race(&store, round, THREADS, 60, &|_| Ok(())).unwrap();
            let end = shown(&store.snapshot()).unwrap();
            let last = store.snapshot().commit().0;
            assert!(last > 10, "hardly a commit succeeded");
            check(&history, last, &end).unwrap();
            store.close().unwrap();
            let store = builder().open(dir.path()).unwrap();
            assert_eq!((store.snapshot().commit().0, shown(&store.snapshot())), (last, Ok(end)));
        }
    }
}

#[test]
fn a_crash_takes_back_nothing_that_any_thread_was_told() {
    let (mut lost, mut refused, mut survived) = (0, 0, 0);
    for round in 0..400 * budget() {
        let workload = workload("rotation").unwrap();
        let disk = SimDisk::new(round);
        let store = workload.builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        disk.crash_at(disk.op_count() + 1 + mix(&[round]) % 400);
        let history = race(&store, round, THREADS, 40, &|_| Ok(())).unwrap();
        disk.crash_now();
        drop(store);
        for state in [CrashState::Nothing, CrashState::Everything, CrashState::Random(round)] {
            let image = disk.after_crash(state);
            let store = workload.builder().open_on(image as Arc<dyn Disk>).unwrap();
            let end = shown(&store.snapshot()).unwrap();
            let last = store.snapshot().commit().0;
            if let Err(seen) = check(&history, last, &end) {
                panic!("round {round}, {state:?}: {seen}\n{}", disk.trace().join("\n"));
            }
            for digest in end.values() {
                assert!(store.get_verified(digest, Verify::Digest).unwrap().is_some());
            }
            survived += last;
        }
        lost += history.iter().filter(|call| matches!(call.did, Did::Lost { .. })).count();
        refused += history.iter().filter(|call| matches!(call.did, Did::Refused { .. })).count();
    }
    common::say(format_args!(
        "{lost} commits cut off by crashes, {refused} refused, {survived} survivors"
    ));
    assert!(lost > 0 && refused > 0 && survived > 0);
}

#[test]
fn what_a_thread_was_told_survives_a_crash_at_that_instant() {
    for round in 0..60 * budget() {
        for name in ["puts-and-commits", "rotation"] {
            let mut workload = workload(name).unwrap();
            workload.buffer_bytes = 1 << 10;
            let disk = SimDisk::new(round);
            let store = workload.builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
            let acknowledged = |id| survives(id, &disk, workload.builder());
            if let Err(seen) = race(&store, round, THREADS, 30, &acknowledged) {
                panic!("round {round}: {seen}\n{}", disk.trace().join("\n"));
            }
        }
    }
}

// The checker is only worth something if it can say no.

fn digest(number: u8) -> Digest {
    Digest::of(&[number])
}

fn set(name: &str, number: u8, required: Option<Option<u8>>) -> Edit {
    let name = name.as_bytes().to_vec();
    let requires = required.map(|current| (name.clone(), current.map(digest)));
    Edit { changes: vec![(name, Some(digest(number)))], requires: requires.into_iter().collect() }
}

fn call(begin: u64, end: u64, did: Did) -> Call {
    Call { begin, end, did }
}

fn committed(id: u64, edit: Edit) -> Did {
    Did::Committed { id, edit }
}

fn saw(name: &str, number: Option<u8>) -> Did {
    Did::Saw { name: name.as_bytes().to_vec(), current: number.map(digest) }
}

fn pointers(all: &[(&str, u8)]) -> Pointers {
    all.iter().map(|(name, number)| (name.as_bytes().to_vec(), digest(*number))).collect()
}

#[test]
fn the_checker_accepts_overlapping_calls_in_either_order() {
    for seen in [None, Some(1)] {
        let history = [call(0, 3, committed(1, set("a", 1, None))), call(1, 2, saw("a", seen))];
        assert_eq!(check(&history, 1, &pointers(&[("a", 1)])), Ok(()));
    }
}

#[test]
fn the_checker_sees_a_stale_read() {
    let history = [call(0, 1, committed(1, set("a", 1, None))), call(2, 3, saw("a", None))];
    assert!(check(&history, 1, &pointers(&[("a", 1)])).is_err());
}

#[test]
fn the_checker_sees_time_run_backwards_between_reads() {
    let history = [
        call(0, 9, committed(1, set("a", 1, None))),
        call(1, 2, saw("a", Some(1))),
        call(3, 4, saw("a", None)),
    ];
    assert!(check(&history, 1, &pointers(&[("a", 1)])).is_err());
}

#[test]
fn the_checker_sees_a_read_of_the_future() {
    let history = [call(0, 1, saw("a", Some(1))), call(2, 3, committed(1, set("a", 1, None)))];
    assert!(check(&history, 1, &pointers(&[("a", 1)])).is_err());
}

#[test]
fn the_checker_sees_a_requirement_that_did_not_hold() {
    let history = [
        call(0, 3, committed(1, set("a", 1, Some(None)))),
        call(1, 2, committed(2, set("a", 2, Some(None)))),
    ];
    assert!(check(&history, 2, &pointers(&[("a", 2)])).is_err());
}

#[test]
fn the_checker_sees_numbers_against_the_order_of_time() {
    let history =
        [call(0, 1, committed(2, set("a", 1, None))), call(2, 3, committed(1, set("b", 2, None)))];
    assert!(check(&history, 2, &pointers(&[("a", 1), ("b", 2)])).is_err());
}

#[test]
fn the_checker_sees_a_commit_that_is_gone() {
    let history = [call(0, 1, committed(1, set("a", 1, None)))];
    assert!(check(&history, 0, &Pointers::new()).is_err());
}

#[test]
fn the_checker_sees_a_refusal_because_of_a_commit_that_is_gone() {
    let refused = || Did::Refused { name: b"a".to_vec(), expected: None, current: Some(digest(1)) };
    let lost = || call(0, u64::MAX, Did::Lost { edit: set("a", 1, None) });
    let history = [lost(), call(1, 2, refused())];
    assert!(check(&history, 0, &Pointers::new()).is_err());
    assert_eq!(check(&history, 1, &pointers(&[("a", 1)])), Ok(()));
}

#[test]
fn the_checker_finds_the_place_of_a_commit_whose_reply_was_lost() {
    let history = [
        call(0, 9, committed(1, set("a", 1, None))),
        call(1, u64::MAX, Did::Lost { edit: set("a", 2, Some(Some(1))) }),
        call(2, 9, committed(3, set("b", 3, None))),
    ];
    assert_eq!(check(&history, 3, &pointers(&[("a", 2), ("b", 3)])), Ok(()));
    assert!(check(&history, 3, &pointers(&[("a", 1), ("b", 3)])).is_err());
}

#[test]
fn the_checker_sees_half_a_commit() {
    let mut both = set("a", 1, None);
    both.changes.push((b"b".to_vec(), Some(digest(1))));
    let history = [call(0, u64::MAX, Did::Lost { edit: both })];
    assert_eq!(check(&history, 1, &pointers(&[("a", 1), ("b", 1)])), Ok(()));
    assert!(check(&history, 1, &pointers(&[("a", 1)])).is_err());
}
