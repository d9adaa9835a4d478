//! P1 to P6 and P9 on a disk that fails: every operation of several workloads, each way of failing
//! that applies to it, once and from then on; and disks of every size. `common::faults` is how.
//!
//! A violation prints the line which replays it:
//! `PINSTONE_FAULT_REPLAY="..." cargo test -p pinstone --test faults cases_that`; kept in
//! `seeds/faults.txt`, it is replayed always.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::crash::recover;
use common::faults::{Case, FAULTS, Report, hunt, opened_is_durable, replay};
use common::model::Model;
use common::script::{Change, Failing, Step, Workload, World, workload};
use pinstone::{Batch, Bytes, Digest, Error, Store};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, Fault, SimDisk};

fn of_names(names: &[&str]) -> Vec<Workload> {
    names.iter().map(|name| workload(name).expect("there is such a workload")).collect()
}

/// Hunts for faults of one kind through all that the workloads have in them.
fn every_operation_fails_with(fault: Fault) -> Report {
    let report = hunt(
        &of_names(&[
            "puts-and-commits",
            "compare-and-set",
            "close-and-reopen",
            "large-values",
            "after-a-kill",
            "after-a-torn-tail-2",
        ]),
        &[fault],
        false,
    );
    println!("{report}");
    assert_eq!(report.violation_count, 0, "{report}");
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
    let kept = include_str!("seeds/faults.txt").lines().map(str::to_owned);
    let given = std::env::var("PINSTONE_FAULT_REPLAY").ok();
    for line in kept.chain(given) {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let report = replay(&line.parse().unwrap());
        assert_eq!(report.violation_count, 0, "{report}");
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
        opened_is_durable(&workload, world.disk.clean_reopen(), world.model).unwrap();
    }
    assert!(found_count > 0, "no commit of unknown outcome was ever found");
}

/// A workload of equal commits, each with a value of its own.
fn filling() -> Workload {
    let name = |id: u16| ["a", "b", "c", "d", "e", "f"][usize::from(id) % 6];
    let steps =
        (0..40).flat_map(|id| [Step::Put(id, 900), Step::Commit(vec![Change::Set(name(id), id)])]);
    let mut workload = Workload::new("filling", steps.collect());
    workload.segment_bytes = 8 << 10;
    workload
}

#[test]
fn a_disk_of_any_size_fills_up_cleanly_and_goes_on_once_there_is_room() {
    let workload = filling();
    let mut whole = World::new(&workload, SimDisk::new(3), Model::default());
    whole.play_all(&workload.steps).unwrap();
    let most = whole.disk.used_bytes();
    let (mut refused_opens, mut refused_steps, mut resumed) = (0, 0, 0);
    for capacity in (0..most).step_by(512) {
        let context = |what: &str| format!("with {capacity} bytes of space, {what}");
        let mut world = World::new(&workload, SimDisk::new(3), Model::default());
        world.disk.set_capacity(Some(capacity));
        let mut error = world.open().unwrap().err();
        refused_opens += u64::from(error.is_some());
        for step in &workload.steps {
            if error.is_some() {
                break;
            }
            error = world.play(step).unwrap_or_else(|seen| panic!("{}", context(&seen)));
        }
        let Some(error) = error else { panic!("{}", context("nothing was refused")) };
        assert!(matches!(error, Error::NoSpace { .. }), "{}", context(&common::told(&error)));
        world.model.die();
        for state in [CrashState::Nothing, CrashState::Everything, CrashState::Random(capacity)] {
            let image = world.disk.after_crash(state);
            image.set_capacity(None);
            recover(&workload, &image, world.model.clone())
                .unwrap_or_else(|seen| panic!("{}, {state:?}: {seen}", context("after a crash")));
        }
        if let Some(store) = &world.store {
            refused_steps += 1;
            world.model.reads(store).unwrap_or_else(|seen| panic!("{}", context(&seen)));
            world.disk.set_capacity(None);
            world.model.goes_on(store).unwrap_or_else(|seen| panic!("{}", context(&seen)));
            resumed += 1;
        }
    }
    println!("{refused_opens} opens and {refused_steps} later calls refused, {resumed} resumed");
    assert!(refused_opens > 0 && refused_steps > 20 && resumed == refused_steps);
}

/// What a full store has left of the disk when it is opened: too little for a segment of each log,
/// up to several.
fn sizes() -> impl Iterator<Item = u64> {
    (280 << 10..376 << 10).step_by(512)
}

#[test]
fn a_full_disk_still_takes_deletions() {
    let mut deleted = 0;
    for size in sizes() {
        let (disk, store, mut names) = full(size);
        deleted += names.len();
        while let Some(name) = names.pop() {
            let reply = store.commit(Batch::new().delete(&name));
            reply.unwrap_or_else(|error| panic!("{size}, {name}: {}", common::told(&error)));
            assert_eq!(store.pointer(&name).unwrap(), None);
        }
        drop(store);
        let image = disk.after_crash(CrashState::Nothing);
        let store = filling().builder().open_on(image as Arc<dyn Disk>).unwrap();
        assert_eq!(store.pointers_with_prefix("").count(), 0);
    }
    assert!(deleted > 1000, "the disks were full at once");
}

#[test]
fn a_store_on_a_full_disk_opens_again() {
    let mut found = 0;
    for size in sizes() {
        let (disk, store, names) = full(size);
        // The process died, and the space is still what it was.
        let image = disk.clean_reopen();
        drop(store);
        let opened = filling().builder().open_on(Arc::clone(&image) as Arc<dyn Disk>);
        let store = opened.unwrap_or_else(|error| panic!("{size}: {}", common::told(&error)));
        for name in &names {
            let digest = store.pointer(name).unwrap().unwrap();
            assert_eq!(store.get(&digest).unwrap(), Some(Bytes::from(name.repeat(100))));
        }
        found += names.len();
        // What it holds can be deleted still, and with space again it goes on.
        for name in &names {
            let reply = store.commit(Batch::new().delete(name));
            reply.unwrap_or_else(|error| panic!("{size}, {name}: {}", common::told(&error)));
        }
        image.set_capacity(None);
        let digest = store.put(b"more").unwrap().digest;
        store.commit(Batch::new().set("more", digest)).unwrap();
    }
    assert!(found > 1000, "the disks were full at once");
}

/// Copying such a value takes more than the options set aside. Something else fills the device as
/// soon as it is there.
#[test]
fn a_store_with_values_longer_than_its_segments_opens_on_a_full_disk() {
    let lengths = [900, 100 << 10, 900, 7 << 10, 300 << 10, 200 << 10, 8 << 10, 900, 900];
    let disk = SimDisk::new(3);
    let open = |disk: &Arc<SimDisk>| filling().builder().open_on(Arc::clone(disk) as Arc<dyn Disk>);
    let store = open(&disk).unwrap();
    let opens_on_a_full_disk = |what: &str| {
        let image = disk.clean_reopen();
        image.set_capacity(Some(image.used_bytes()));
        let opened = open(&image);
        opened.unwrap_or_else(|error| panic!("{what}: {}", common::told(&error)))
    };
    let reserved = || disk.file_bytes("RESERVE").map_or(0, |bytes| bytes.len());
    let mut most = 0;
    for (id, len_bytes) in (0..).zip(lengths) {
        let value = vec![id; len_bytes];
        let digest = store.put(&value).unwrap().digest;
        opens_on_a_full_disk("put");
        store.commit(Batch::new().set([id + 1], digest)).unwrap();
        let again = opens_on_a_full_disk("committed");
        assert_eq!(again.get(&digest).unwrap().as_deref(), Some(&value[..]));
        most = most.max(reserved());
    }
    // Once they are sealed, their share goes back.
    store.maintain().unwrap();
    assert!(reserved() > 0 && reserved() + (200 << 10) < most, "{most}, then {}", reserved());
    let before = reserved();
    // Room for its share, and not for the value.
    disk.set_capacity(Some(disk.used_bytes() + (70 << 10)));
    for _ in 0..5 {
        let refused = store.put(&[7; 50 << 10]).unwrap_err();
        assert!(matches!(refused, Error::NoSpace { .. }), "{}", common::told(&refused));
        assert_eq!(reserved(), before, "a refused value takes no share");
        opens_on_a_full_disk("refused");
    }
}

#[test]
fn a_store_on_a_full_disk_opens_however_often_its_recovery_is_cut_short() {
    let mut cut_short = 0;
    for size in sizes().step_by(7) {
        let (disk, store, names) = full(size);
        let mut image = disk.clean_reopen();
        drop(store);
        for round in 0..12 {
            let last = image.clean_reopen();
            last.crash_at_mutation(5 + 3 * round);
            let opened = filling().builder().open_on(Arc::clone(&last) as Arc<dyn Disk>);
            if last.crashed() {
                cut_short += 1;
            } else if let Err(error) = opened {
                panic!("{size}, {round}: {}", common::told(&error));
            }
            drop(opened);
            image = last.after_crash(CrashState::Everything);
        }
        let opened = filling().builder().open_on(image as Arc<dyn Disk>);
        let store = opened.unwrap_or_else(|error| panic!("{size}: {}", common::told(&error)));
        assert_eq!(store.pointers_with_prefix("").count(), names.len());
    }
    assert!(cut_short > 100, "{cut_short} recoveries were cut short");
}

/// Something else filled the device while the store was closed.
#[test]
fn a_closed_store_on_a_device_that_filled_up_opens_reads_and_deletes() {
    let disk = SimDisk::new(3);
    let open = || filling().builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>);
    let store = open().unwrap();
    let names: Vec<String> = (0..12).map(|id| format!("name {id}")).collect();
    for name in &names {
        let digest = store.put(name.repeat(100).as_bytes()).unwrap().digest;
        store.commit(Batch::new().set(name, digest)).unwrap();
    }
    store.close().unwrap();
    for name in &names {
        disk.set_capacity(Some(disk.used_bytes()));
        let store = open().unwrap_or_else(|error| panic!("{name}: {}", common::told(&error)));
        let digest = store.pointer(name).unwrap().unwrap();
        assert_eq!(store.get(&digest).unwrap(), Some(Bytes::from(name.repeat(100))));
        let reply = store.commit(Batch::new().delete(name));
        reply.unwrap_or_else(|error| panic!("{name}: {}", common::told(&error)));
        store.close().unwrap_or_else(|error| panic!("{name}: {}", common::told(&error)));
    }
    disk.set_capacity(None);
    assert_eq!(open().unwrap().pointers_with_prefix("").count(), 0);
}

#[test]
fn a_store_that_is_only_read_never_grows() {
    let disk = SimDisk::new(3);
    let open = || filling().builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let store = open();
    // The active segment is more than half full.
    let digest = store.put(&[7; 6000]).unwrap().digest;
    store.commit(Batch::new().set("name", digest)).unwrap();
    store.close().unwrap();
    let logs = || disk.names().into_iter().filter(|name| !name.starts_with("root-"));
    let before: Vec<String> = logs().filter(|name| !name.ends_with("00000001.log")).collect();
    let count = logs().count();
    for _ in 0..3 {
        let store = open();
        assert!(store.get(&digest).unwrap().is_some());
        store.close().unwrap();
        let more: Vec<String> = logs().filter(|name| !name.ends_with("00000001.log")).collect();
        assert!(logs().count() <= count && more == before, "{more:?}");
    }
}

/// A store on a disk with so much space from its beginning on, filled by commits until it had none
/// left; and the names committed.
fn full(size: u64) -> (Arc<SimDisk>, Store, Vec<String>) {
    let disk = SimDisk::new(3);
    let store = filling().builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + size));
    let mut names = Vec::new();
    loop {
        let name = format!("name {}", names.len());
        let value = name.repeat(100);
        let digest = Digest::of(value.as_bytes());
        let reply = store
            .put(value.as_bytes())
            .and_then(|_put| store.commit(Batch::new().set(&name, digest)));
        match reply {
            Ok(_) => names.push(name),
            Err(Error::NoSpace { .. }) => return (disk, store, names),
            Err(error) => panic!("{size}: {}", common::told(&error)),
        }
        assert!(names.len() < 1000, "the disk does not fill up");
    }
}
