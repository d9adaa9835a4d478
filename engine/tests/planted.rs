//! Mistakes planted on purpose, each of which one of the harnesses must catch, and the same harness
//! run without it must not: what cannot see is worth nothing.
//!
//! A planted bug holds for the whole process. The tests of this file take turns, and the other
//! files are other processes.

#![cfg(feature = "planted-bugs")]

mod common;

use std::sync::Arc;

use common::crash::{self, Plan};
use common::damage;
use common::faults;
use common::race;
use common::script::{Workload, workload, workloads};
use common::tiny_tables;
use pinstone::{Batch, Digest, Maintenance};
use pinstone_disk::Disk;
use pinstone_disk::env::Mutex;
use pinstone_disk::planted::{BUGS, Bug, plant};
use pinstone_disk::sim::{Fault, SimDisk};

/// Whose turn it is, and the hunts that were seen to find nothing without a bug: once will do.
static TURN: Mutex<Vec<Hunt>> = Mutex::new(Vec::new());

/// What a harness says: how much it tried, and what it saw first.
type Hunt = fn() -> Option<String>;

fn caught(bug: Bug, hunt: Hunt) {
    let mut clean = TURN.lock();
    if !clean.iter().any(|known| std::ptr::fn_addr_eq(*known, hunt)) {
        plant(None);
        assert_eq!(hunt(), None, "without a bug");
        clean.push(hunt);
    }
    plant(Some(bug));
    let seen = hunt();
    plant(None);
    println!("{}", seen.as_deref().unwrap_or("nothing"));
    assert!(seen.is_some(), "the harness does not see {bug:?}");
}

fn crashes() -> Option<String> {
    let plan = Plan { until_first: true, points_one_in: 12, again_one_in: 200, ..Plan::usual(1) };
    let report = crash::hunt(&workloads(), &plan);
    (report.violations.count > 0).then(|| report.to_string())
}

fn failing(fault: Fault) -> Option<String> {
    let names = ["puts-and-commits", "compare-and-set", "old-values"];
    let workloads: Vec<Workload> = names.iter().filter_map(|name| workload(name)).collect();
    let report = faults::hunt(&workloads, &[fault], 1, true);
    (report.violations.count > 0).then(|| report.to_string())
}

fn short_writes() -> Option<String> {
    failing(Fault::ShortWrite)
}

fn failed_syncs() -> Option<String> {
    failing(Fault::SyncFailsThenClean)
}

fn damaged() -> Option<String> {
    let rest = damage::dirty(workload("old-values")?, true).ok()?;
    let harms = damage::all_harms(&rest.disk, 7);
    let report = damage::hunt(&rest, &harms, true);
    (report.violations.count > 0).then(|| report.to_string())
}

/// Threads race, and what one is told must survive a crash at that instant.
fn racing() -> Option<String> {
    (0..100u64).find_map(|round| {
        let mut workload = workload("puts-and-commits").expect("there is such a workload");
        workload.buffer_bytes = 1 << 10;
        let disk = SimDisk::new(round);
        let opened = workload.builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>);
        let store = opened.expect("a sound disk opens");
        let acknowledged = |id| race::survives(id, &disk, workload.builder());
        race::race(&store, round, 4, 30, &acknowledged).err()
    })
}

/// All keys are one of a few: what is absent collides with what is held.
fn colliding() -> Option<String> {
    let disk = SimDisk::new(1);
    let builder = tiny_tables().index_key_bits(3).maintenance(Maintenance::Inline);
    let store = builder.open_on(disk as Arc<dyn Disk>).expect("a sound disk opens");
    (0..60u32).find_map(|number| {
        let value = number.to_le_bytes().repeat(50);
        let is_held = store.contains(&Digest::of(&value)).expect("a sound disk is read");
        let is_new = store.put(&value).expect("there is space").new;
        (is_held || !is_new).then(|| format!("value {number}: held {is_held}, new {is_new}"))
    })
}

/// Readers go on while what they read is replaced.
fn reading_on() -> Option<String> {
    let disk = SimDisk::new(1);
    let builder = tiny_tables().open_files_max(1).maintenance(Maintenance::Inline);
    let store = builder.open_on(disk as Arc<dyn Disk>).expect("a sound disk opens");
    let digest = store.put(b"value").expect("there is space").digest;
    let commit = |round: u32| {
        let names =
            (0..100).map(|number| format!("{:060}", (round * 100 + number) * 7919 % 10_000));
        let batch = names.fold(Batch::new(), |batch, name| batch.set(name, digest));
        store.commit(batch).expect("there is space");
    };
    (0..15).for_each(commit);
    // All of it in tables: who reads a memtable that goes looks for its names in the present tables.
    store.compact().expect("there is space");
    let mut reader = store.pointers_with_prefix("");
    let first = reader.next();
    (15..30).for_each(commit);
    store.compact().expect("there is space");
    let mut count = 0;
    for pointer in first.into_iter().chain(reader) {
        match pointer {
            Ok(_) => count += 1,
            Err(error) => return Some(common::told(&error)),
        }
    }
    (count != 1500).then(|| format!("{count} of 1500 pointers"))
}

#[test]
fn a_skipped_sync_of_the_blob_log_is_caught() {
    caught(Bug::BlobSyncSkipped, crashes);
}

#[test]
fn a_skipped_sync_of_the_pointer_log_is_caught() {
    caught(Bug::PointerSyncSkipped, crashes);
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    caught(Bug::AckBeforeSync, crashes);
}

#[test]
fn an_acknowledgement_before_the_write_is_caught() {
    caught(Bug::AckBeforeWrite, crashes);
}

#[test]
fn a_short_write_ignored_is_caught() {
    caught(Bug::ShortWriteIgnored, crashes);
    caught(Bug::ShortWriteIgnored, short_writes);
}

#[test]
fn damage_taken_for_a_torn_tail_is_caught() {
    caught(Bug::TornRuleDropped, damaged);
}

#[test]
fn a_skipped_sync_of_the_directory_is_caught() {
    caught(Bug::DirSyncSkipped, crashes);
}

#[test]
fn joining_a_sync_in_flight_is_caught() {
    caught(Bug::JoinSyncInFlight, racing);
}

#[test]
fn going_on_with_a_tail_that_was_not_rewritten_is_caught() {
    caught(Bug::TailNotCopied, failed_syncs);
}

#[test]
fn replaying_a_record_whose_value_is_not_there_is_caught() {
    caught(Bug::DependencyIgnored, crashes);
}

#[test]
fn a_failed_sync_tried_again_is_caught() {
    caught(Bug::SyncRetried, failed_syncs);
}

#[test]
fn tables_named_before_their_names_are_durable_are_caught() {
    caught(Bug::TableNamesNotSynced, crashes);
}

#[test]
fn segments_removed_before_the_root_lets_them_go_are_caught() {
    caught(Bug::RetiredTooEarly, crashes);
}

#[test]
fn a_flush_that_says_too_much_is_caught() {
    caught(Bug::FlushedTooFar, crashes);
}

#[test]
fn a_truncated_key_that_is_believed_is_caught() {
    caught(Bug::TruncatedKeyBelieved, colliding);
}

#[test]
fn a_table_removed_under_a_reader_is_caught() {
    caught(Bug::TableRemovedAtOnce, reading_on);
}

#[test]
fn values_that_are_carried_and_not_laid_are_caught() {
    caught(Bug::CarriedNotLaid, crashes);
}

#[test]
fn a_segment_sealed_before_the_blob_log_has_what_it_carries_is_caught() {
    caught(Bug::CarriedNotSynced, crashes);
}

#[test]
fn every_planted_bug_has_its_test() {
    let tests = include_str!("planted.rs");
    for (_, bug) in BUGS {
        assert!(tests.contains(&format!("caught(Bug::{bug:?}, ")), "nothing catches {bug:?}");
    }
}
