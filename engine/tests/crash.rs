//! P1 to P5 under power loss: a crash at every disk operation of every workload, in several states
//! of the disk each, and again during the recovery from it. `common::crash` is how.
//!
//! `PINSTONE_CRASH_BUDGET=N` tries N times as much. A violation prints the line which replays it:
//! `PINSTONE_CRASH_REPLAY="..." cargo test -p pinstone --test crash points_that`; kept in
//! `seeds/crash.txt`, it is replayed always.

mod common;

use std::sync::Arc;

use common::crash::{Plan, Point, REPLAY, hunt, replay};
use common::model::Model;
use common::replay::lines;
use common::script::{World, workload, workloads};
use pinstone::{Batch, CheckOptions, Maintenance, Store};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, SimDisk};

/// How many states the usual hunt is known to try at least.
const RECOVERIES_MIN: u64 = 20_000;

#[test]
fn every_crash_leaves_what_was_promised() {
    let workloads = workloads();
    let report = hunt(&workloads, &Plan::usual(common::budget()));
    common::say(&report);
    assert_eq!(report.violations.count, 0, "{report}");
    assert!(report.recoveries >= RECOVERIES_MIN, "a harness that tries little: {report}");
    assert_eq!(report.points.len(), workloads.len(), "a workload without a crash: {report}");
    assert_eq!(report.states.len(), 5, "a kind of state that was never tried: {report}");
    assert!(report.points_again > 0, "no recovery was crashed: {report}");
    let effects = report.effects;
    for (effect, count) in [
        ("crashes", effects.crashes),
        ("torn writes", effects.torn_writes),
        ("sectors left old", effects.sectors_old),
        ("sectors kept", effects.sectors_new),
        ("sectors between two writes", effects.sectors_between),
        ("sectors zeroed", effects.sectors_zero),
        ("sectors of garbage", effects.sectors_garbage),
        ("lengths left old", effects.lengths_old),
        ("lengths kept", effects.lengths_new),
        ("lengths between", effects.lengths_between),
        ("names kept", effects.names_kept),
        ("names lost", effects.names_lost),
        ("renames halved", effects.renames_halved),
    ] {
        assert!(count > 0, "the disk never left {effect}: {report}");
    }
}

#[test]
fn points_that_ever_failed_hold() {
    for line in lines(include_str!("seeds/crash.txt"), REPLAY) {
        let point: Point = line.parse().unwrap();
        if let Err(seen) = replay(&point) {
            panic!("{point}: {seen}");
        }
    }
}

#[test]
fn a_point_prints_as_what_replays_it() {
    let again = Some((7, CrashState::OneMissing(3)));
    for state in [
        CrashState::Nothing,
        CrashState::Everything,
        CrashState::OneMissing(0),
        CrashState::OneAlone(12),
        CrashState::Random(u64::MAX),
    ] {
        for again in [None, again] {
            let point = Point { workload: "rotation".to_owned(), seed: 5, op: 40, state, again };
            assert_eq!(point.to_string().parse(), Ok(point));
        }
    }
    assert!("workload=rotation op=4".parse::<Point>().is_err());
    assert!("workload=rotation op=x state=nothing".parse::<Point>().is_err());
}

#[test]
fn a_workload_makes_the_same_disk_operations_every_time() {
    for workload in workloads() {
        let run = || {
            let (disk, model) = workload.begin(1).unwrap();
            let mut world = World::new(&workload, Arc::clone(&disk), model);
            world.play_all(&workload.steps).unwrap();
            (disk.op_count(), disk.trace())
        };
        assert_eq!(run(), run(), "{}", workload.name);
    }
}

/// The model is only worth something if it can say no.
#[test]
fn the_model_sees_a_commit_that_is_gone() {
    let workload = workload("puts-and-commits").unwrap();
    let mut world = World::new(&workload, SimDisk::new(1), Model::default());
    world.play_all(&workload.steps[..2]).unwrap();
    let early = world.disk.after_crash(CrashState::Everything);
    for step in &workload.steps[2..] {
        assert!(world.play(step).unwrap().is_none());
    }
    world.model.die();
    let mut rolled_back = World::new(&workload, early, world.model);
    let seen = rolled_back.open().map(drop).unwrap_err();
    assert!(seen.contains("the last commit is 1"), "{seen}");
}

/// A recovery that a crash cuts short had read what another crash may take. What it left says so,
/// and must not be believed by any later one.
#[test]
fn what_an_unfinished_recovery_read_proves_nothing_later() {
    let open = |disk: &Arc<SimDisk>| {
        let small = Store::builder().segment_bytes(16 << 10).reserve_bytes(0);
        small.maintenance(Maintenance::Inline).open_on(Arc::clone(disk) as Arc<dyn Disk>)
    };
    let disk = SimDisk::new(9);
    let store = open(&disk).unwrap();
    let kept = store.put(b"kept").unwrap().digest;
    store.commit(Batch::new().set("kept", kept)).unwrap();
    store.put(b"written, and in no commit").unwrap();
    // A check writes out what it is to look at, and syncs nothing.
    store.check(&CheckOptions::default()).unwrap();
    let died = disk.clean_reopen();
    drop(store);

    let mut tried = 0;
    for first in 1.. {
        let disk = died.clean_reopen();
        disk.crash_at_mutation(first);
        drop(open(&disk));
        if !disk.crashed() {
            break;
        }
        let left = disk.after_crash(CrashState::Nothing);
        for second in 1.. {
            let disk = left.clean_reopen();
            disk.crash_at_mutation(second);
            drop(open(&disk));
            if !disk.crashed() {
                break;
            }
            let alone = (0..disk.unsynced()).map(CrashState::OneAlone);
            let states = [CrashState::Nothing, CrashState::Everything].into_iter().chain(alone);
            for state in states {
                let opened = open(&disk.after_crash(state));
                let store = opened.unwrap_or_else(|error| {
                    panic!("{first}, {second}, {state:?}: {}", common::told(&error))
                });
                assert_eq!(store.pointer("kept").unwrap(), Some(kept));
                tried += 1;
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}
