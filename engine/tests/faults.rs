//! P1 to P6 and P9 on a disk that fails: every operation of several workloads, each way of failing
//! that applies to it, once and from then on. `common::faults` is how.
//!
//! Of the workload that flushes and compacts most, one operation in [`ROTATION_OPS_ONE_IN`] fails;
//! `PINSTONE_CRASH_BUDGET=N` has N times as many fail, and by that number all. Of the kinds of work that
//! `tables_crash` knows all operations fail there, always.
//!
//! A violation prints the line which replays it:
//! `PINSTONE_FAULT_REPLAY="..." cargo test -p pinstone --test faults cases_that`; kept in
//! `seeds/faults.txt`, it is replayed always.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::crash::Known;
use common::faults::{Case, FAULTS, REPLAY, Report, hunt, opened_is_durable, replay};
use common::model::Model;
use common::replay::{Tally as _, lines};
use common::script::{Failing, Workload, World, filling, workload};
use pinstone::Batch;
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation};

fn of_names(names: &[&str]) -> Vec<Workload> {
    names.iter().map(|name| workload(name).expect("there is such a workload")).collect()
}

/// Of so many operations of `rotation` one fails, unless more is asked for.
const ROTATION_OPS_ONE_IN: u64 = 16;

/// Hunts for faults of one kind through all that the workloads have in them.
fn every_operation_fails_with(fault: Fault) -> Report {
    let workloads = of_names(&[
        "puts-and-commits",
        "compare-and-set",
        "close-and-reopen",
        "deletes",
        "known-values",
        "large-values",
        "after-a-kill",
        "after-a-torn-tail-2",
    ]);
    let mut report = hunt(&workloads, &[fault], 1, false);
    let ops_one_in = (ROTATION_OPS_ONE_IN / common::budget()).max(1);
    report.add(hunt(&of_names(&["rotation"]), &[fault], ops_one_in, false));
    common::say(&report);
    assert_eq!(report.violations.count, 0, "{report}");
    assert_eq!(report.fired.len(), 2, "a reach that never befell anything: {report}");
    assert!(report.fired.values().all(|count| *count > 10), "a disk that hardly fails: {report}");
    report
}

#[test]
fn input_or_output_errors_lose_nothing() {
    let report = every_operation_fails_with(Fault::Eio);
    assert!(report.effects.eio > 0);
    for class in ["Io", "Indeterminate", "Poisoned"] {
        assert!(report.errors.contains_key(&("eio", class)), "never {class}: {report}");
    }
}

#[test]
fn a_full_disk_refuses_and_nothing_refused_is_ever_found() {
    let report = every_operation_fails_with(Fault::Enospc);
    assert!(report.effects.enospc > 0);
    assert!(report.errors.contains_key(&("enospc", "NoSpace")), "never NoSpace: {report}");
}

#[test]
fn too_few_descriptors_lose_nothing() {
    let report = every_operation_fails_with(Fault::Emfile);
    assert!(report.effects.emfile > 0);
    assert!(report.errors.contains_key(&("emfile", "Io")), "never told: {report}");
}

#[test]
fn short_writes_are_finished() {
    let report = every_operation_fails_with(Fault::ShortWrite);
    assert!(report.effects.short_writes > 0);
    assert!(report.errors.is_empty(), "a short write is no error: {report}");
}

#[test]
fn short_reads_are_finished() {
    let report = every_operation_fails_with(Fault::ShortRead);
    assert!(report.effects.short_reads > 0);
    assert!(report.errors.is_empty(), "a short read is no error: {report}");
}

#[test]
fn interrupted_calls_are_made_again() {
    let report = every_operation_fails_with(Fault::Interrupted);
    assert!(report.effects.interrupts > 0);
    assert!(report.errors.is_empty(), "an interruption is no error: {report}");
}

#[test]
fn a_failed_sync_ends_writing_and_what_is_found_later_is_durable() {
    let report = every_operation_fails_with(Fault::SyncFailsThenClean);
    assert!(report.effects.failed_syncs > 0);
    assert!(report.effects.sectors_claimed > 0, "{report}");
    assert!(report.effects.sectors_reverted > 0, "no cache was ever dropped: {report}");
    assert!(report.effects.sectors_forgotten > 0, "no crash ever lost such bytes: {report}");
    for class in ["Indeterminate", "Poisoned"] {
        let key = ("sync-fails-then-clean", class);
        assert!(report.errors.contains_key(&key), "never {class}: {report}");
    }
}

#[test]
fn a_sync_without_space_ends_writing_too() {
    let report = every_operation_fails_with(Fault::SyncEnospc);
    assert!(report.effects.failed_syncs > 0);
    assert!(report.errors.contains_key(&("sync-enospc", "Indeterminate")), "{report}");
}

#[test]
fn cases_that_ever_failed_hold() {
    for line in lines(include_str!("seeds/faults.txt"), REPLAY) {
        let report = replay(&line.parse().unwrap());
        assert_eq!(report.violations.count, 0, "{report}");
    }
}

#[test]
fn a_case_prints_as_what_replays_it() {
    for (_, fault) in FAULTS {
        for onward in [false, true] {
            let failing = Failing { op: 31, fault, onward };
            let case = Case { workload: "rotation".to_owned(), seed: 1, failing };
            assert_eq!(case.to_string().parse(), Ok(case));
        }
    }
}

/// The rewritten tail: after a failed sync the system shows the new bytes, calls the next sync a
/// success, and brings the old ones back when it drops its cache.
#[test]
fn a_commit_found_after_a_failed_sync_stays() {
    let workload = workload("puts-and-commits").unwrap();
    let mut found_count = 0;
    for op in 1..200 {
        let mut world = World::new(&workload, SimDisk::new(7), Model::default());
        world.failing = Some(Failing { op, fault: Fault::SyncFailsThenClean, onward: true });
        let mut opened = world.open().unwrap().is_ok();
        for step in &workload.steps {
            opened = opened && world.play(step).unwrap().is_none();
        }
        if opened {
            break;
        }
        world.model.die();
        let acknowledged = world.model.acknowledged();
        let image = world.disk.clean_reopen();
        let mut reopened = World::new(&workload, Arc::clone(&image), world.model.clone());
        reopened.open().unwrap().unwrap();
        found_count += reopened.model.acknowledged() - acknowledged;
        drop(reopened);
        opened_is_durable(&workload, world.disk.clean_reopen(), world.model, &Known::default())
            .unwrap();
    }
    assert!(found_count > 0, "no commit of unknown outcome was ever found");
}

/// What a recovery that did not complete left, and that could not be opened for want of descriptors,
/// would testify under a later CURRENT, of bytes that a crash took.
#[test]
fn too_few_descriptors_at_one_moment_leave_no_false_witness() {
    let open = |disk: &Arc<SimDisk>| filling().builder().open_on(Arc::clone(disk) as Arc<dyn Disk>);
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    let digest = store.put(b"first").unwrap().digest;
    store.commit(Batch::new().set("first", digest)).unwrap();
    for id in 0..20u32 {
        store.put(&id.to_le_bytes().repeat(500)).unwrap();
    }
    let killed = disk.clean_reopen();
    let last = {
        let whole = killed.clean_reopen();
        drop(open(&whole).unwrap());
        whole.mutation_count()
    };
    let mut tried = 0;
    for first in 1..last {
        let once = killed.clean_reopen();
        once.crash_at_mutation(first);
        drop(open(&once));
        for nth in 1..10 {
            for second in (1..last + 6).step_by(3) {
                let twice = once.after_crash(CrashState::Nothing);
                twice.fail_when(Filter::any().operation(Operation::Open).nth(nth), Fault::Emfile);
                twice.crash_at_mutation(second);
                drop(open(&twice));
                for state in [CrashState::Nothing, CrashState::Everything] {
                    let image = twice.after_crash(state);
                    let opened = open(&image).map(drop);
                    let told = opened.map_err(|error| common::told(&error));
                    assert_eq!(told, Ok(()), "{first}, {nth}, {second}, {state:?}");
                    tried += 1;
                }
            }
        }
    }
    common::say(format_args!("{tried} stores opened"));
    assert!(tried > 1000);
}
