//! Commits that join while another is on its way: each of them is answered, whether their group is
//! taken whole, in parts, or never.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::meddling::MeddlingDisk;
use common::{tiny_tables, told};
use pinstone::{Batch, CommitId, Error, Maintenance, Result, Store};
use pinstone_disk::env::{Announced, JoinHandle, Mutex, spawn};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Disk, Epoch, FileName, LogKind, Ordinal, TableKind};

/// Threads that commit at once.
const THREADS: u8 = 9;

/// Names of a commit of about 1 MiB: four of them are what a group takes.
const LONG: u32 = 1000;

fn deletions(thread: u8, count: u32) -> Batch {
    (0..count).map(|id| format!("{thread}-{id:01000}")).fold(Batch::new(), Batch::delete)
}

/// What became of a commit: of the one that leads, which does `meddle` before it writes, and of those that
/// joined the queue before, each deleting so many names.
#[expect(clippy::disallowed_methods, reason = "a thread that waits in a queue says so to nobody")]
fn race(
    count: u32,
    meddle: impl FnOnce() + Send + 'static,
) -> (Store, Arc<SimDisk>, Vec<std::thread::Result<Result<CommitId>>>) {
    let disk = SimDisk::new(1);
    let meddling = MeddlingDisk::new(&disk);
    let builder = Store::builder().maintenance(Maintenance::Inline);
    let store = builder.open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
    store.commit(deletions(0, 1)).unwrap();
    let begun: Arc<Mutex<Vec<JoinHandle<_>>>> = Arc::default();
    let (ordinal, epoch) = (Ordinal::FIRST, Epoch::FIRST);
    meddling.before_write(FileName::Segment { log: LogKind::Pointer, ordinal, epoch }, {
        let (store, begun) = (store.clone(), Arc::clone(&begun));
        move || {
            let joining = Arc::new(Announced::<u8>::default());
            for thread in 1..THREADS {
                let (store, joining) = (store.clone(), Arc::clone(&joining));
                let commit = move || {
                    let batch = deletions(thread, count);
                    joining.tell_all(|joining| *joining += 1);
                    store.commit(batch)
                };
                begun.lock().push(spawn("commits", commit).unwrap());
            }
            joining.wait(|joining| (*joining == THREADS - 1).then_some(()));
            // They are about to join.
            std::thread::sleep(Duration::from_millis(100));
            meddle();
        }
    });
    let leader = spawn("leads", {
        let store = store.clone();
        move || store.commit(deletions(0, 1))
    });
    let mut told = vec![leader.unwrap().join()];
    told.extend(begun.lock().drain(..).map(JoinHandle::join));
    (store, disk, told)
}

/// Rounds until all threads have joined in time, at most.
const ROUNDS: usize = 20;

#[test]
fn commits_that_waited_are_made_in_one_group_or_in_as_many_as_they_fill() {
    // One is the first commit's, one that of the commit which the others waited for.
    for (count, groups) in [(1, 3), (LONG, 4)] {
        let group_count = || {
            let (store, disk, told) = race(count, || {});
            let mut ids: Vec<u64> = told.into_iter().map(|told| told.unwrap().unwrap().0).collect();
            ids.sort_unstable();
            assert_eq!(ids, (2..2 + u64::from(THREADS)).collect::<Vec<_>>());
            let group_count = store.stats().since_open.commit_group_count;
            assert!(group_count >= groups, "{group_count} groups");
            store.close().unwrap();
            let store = Store::builder().open_on(disk.clean_reopen() as Arc<dyn Disk>).unwrap();
            assert_eq!(store.snapshot().commit().0, 1 + u64::from(THREADS));
            group_count
        };
        let is_met = (0..ROUNDS).any(|_| group_count() == groups);
        assert!(is_met, "{count} names each are never {groups} groups");
    }
}

#[test]
fn who_waits_for_a_thread_that_panics_is_told_and_writing_has_ended() {
    for count in [1, LONG] {
        let have_all_waited = || {
            let (store, _, mut told) = race(count, || panic!("as the test wants it"));
            assert!(told.remove(0).is_err(), "it panicked");
            assert!(matches!(store.commit(deletions(0, 1)), Err(Error::Poisoned { .. })));
            assert!(store.pointer("0").unwrap().is_none(), "it is read all the same");
            let is_ended = |told: &_| matches!(told, Err(Error::Poisoned { .. }));
            let is_unclear = |told: &_| matches!(told, Err(Error::Indeterminate { .. }));
            let told: Vec<_> = told.into_iter().map(|told| told.unwrap()).collect();
            assert!(told.iter().all(|told| is_ended(told) || is_unclear(told)), "{told:?}");
            told.iter().all(is_unclear)
        };
        assert!((0..ROUNDS).any(|_| have_all_waited()), "{count} names each never waited");
    }
}

/// Each table of names that is opened from now on is bad.
fn harm_tables(meddling: &Arc<MeddlingDisk>, disk: &Arc<SimDisk>) {
    let (again, image) = (Arc::clone(meddling), Arc::clone(disk));
    meddling.before_open(TableKind::Names, move || {
        if let Some(newest) =
            image.names().into_iter().filter(|name| name.starts_with("names-")).max()
        {
            let len_bytes = image.file_bytes(&newest).unwrap().len() as u64;
            image.corrupt(&newest, len_bytes - 70, |rest| rest[0] ^= 1);
        }
        harm_tables(&again, &image);
    });
}

#[test]
fn a_commit_that_a_bad_table_stops_is_told_so_and_writing_goes_on() {
    let disk = SimDisk::new(1);
    let meddling = MeddlingDisk::new(&disk);
    let builder = tiny_tables().maintenance(Maintenance::Inline);
    let store = builder.open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    harm_tables(&meddling, &disk);
    let set = |number: u32| Batch::new().set(format!("{number:0300}"), digest);
    let refused = (0..200).find_map(|number| store.commit(set(number)).err()).unwrap();
    assert!(told(&refused).contains("names-"), "{refused:?}");
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused:?}");
    assert_eq!(store.stats().poisoned, None);
    meddling.before_open(TableKind::Index, || {});
    store.commit(set(1000)).unwrap();
}
