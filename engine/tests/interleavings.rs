//! Threads of a store under a scheduler that decides who goes on, thousands of times: P1 to P3, and
//! that nobody waits for ever (the scheduler tells).
//!
//! `cargo test -p pinstone --features shuttle --test interleavings`; so many schedules each as
//! `PINSTONE_SCHEDULES` says. A failure prints its schedule, for `pinstone_disk::env::replay`.

#![cfg(feature = "shuttle")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::tiny_tables;
use pinstone::{Batch, Bytes, CheckOptions, CommitId, Digest, Error, Maintenance, Pointers, Store};
use pinstone_disk::Disk;
use pinstone_disk::env::{Mutex, explore, spawn, yield_now};
use pinstone_disk::sim::{CrashState, SimDisk};

fn schedules() -> usize {
    std::env::var("PINSTONE_SCHEDULES").map_or(600, |count| count.parse().unwrap())
}

fn open(disk: &Arc<SimDisk>, maintenance: Maintenance) -> Store {
    Store::builder()
        .segment_bytes(16 << 10)
        .pointer_segment_bytes(4 << 10)
        .append_buffer_bytes(4 << 10)
        .reserve_bytes(64 << 10)
        .maintenance(maintenance)
        .open_on(Arc::clone(disk) as Arc<dyn Disk>)
        .unwrap()
}

/// Runs these at once, and returns once all have ended.
fn at_once<const N: usize>(threads: [Box<dyn FnOnce() + Send>; N]) {
    let threads = threads.map(|thread| spawn("racer", thread).unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// What the counter's pointer names, and how much that is.
fn counted(store: &Store) -> (Option<Digest>, u32) {
    let current = store.pointer("counter").unwrap();
    let count = |digest| {
        let value = store.get(&digest).unwrap().unwrap();
        u32::from_le_bytes((*value).try_into().unwrap())
    };
    (current, current.map_or(0, count))
}

/// Counts up by compare-and-set, until it was the one who did.
fn count_up(store: &Store, won: &Mutex<Vec<(CommitId, u32)>>) {
    loop {
        let (current, count) = counted(store);
        let next = store.put(&(count + 1).to_le_bytes()).unwrap().digest;
        let batch = Batch::new().require("counter", current).set("counter", next);
        match store.commit(batch) {
            Ok(commit) => return won.lock().push((commit, count + 1)),
            Err(Error::PreconditionFailed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn compare_and_set_counts_each_once_and_a_crash_keeps_what_was_acknowledged() {
    explore(schedules(), || {
        let disk = SimDisk::new(1);
        let store = open(&disk, Maintenance::Inline);
        let won = Arc::new(Mutex::new(Vec::new()));
        let counting = || -> Box<dyn FnOnce() + Send> {
            let (store, won) = (store.clone(), Arc::clone(&won));
            Box::new(move || count_up(&store, &won))
        };
        let crashing: Box<dyn FnOnce() + Send> = {
            let (store, disk, won) = (store.clone(), Arc::clone(&disk), Arc::clone(&won));
            Box::new(move || {
                let mut last = 0;
                while last < 3 {
                    let acknowledged = u32::try_from(won.lock().len()).unwrap();
                    // What is seen of a commit no crash undoes.
                    let seen = counted(&store).1;
                    if acknowledged.max(seen) > last {
                        last = acknowledged.max(seen);
                        let image = disk.after_crash(CrashState::Nothing);
                        let found = counted(&open(&image, Maintenance::Inline)).1;
                        assert!(found >= last, "{found} of {acknowledged}, {seen} seen");
                    }
                    yield_now();
                }
            })
        };
        at_once([counting(), counting(), counting(), crashing]);
        let mut won = won.lock().clone();
        won.sort_unstable();
        assert_eq!(won, [(CommitId(1), 1), (CommitId(2), 2), (CommitId(3), 3)]);
    });
}

#[test]
fn a_close_that_succeeded_leaves_nothing_to_mend() {
    explore(schedules(), || {
        let disk = SimDisk::new(1);
        // At rest, so that the first of the threads to write takes it over, beside the close.
        open(&disk, Maintenance::Inline).close().unwrap();
        let store = open(&disk, Maintenance::Thread);
        let committed = Arc::new(Mutex::new(0));
        let writing = |name: &'static str| -> Box<dyn FnOnce() + Send> {
            let (store, committed) = (store.clone(), Arc::clone(&committed));
            Box::new(move || {
                for id in 0..3u8 {
                    let Ok(put) = store.put(&[id, name.as_bytes()[0]].repeat(2500)) else { return };
                    match store.commit(Batch::new().set(name, put.digest)) {
                        Ok(_) => *committed.lock() += 1,
                        Err(_) => return,
                    }
                }
            })
        };
        let closing: Box<dyn FnOnce() + Send> = {
            let store = store.clone();
            Box::new(move || store.close().unwrap())
        };
        at_once([writing("a"), writing("b"), closing]);
        drop(store);
        let again = open(&disk, Maintenance::Inline);
        assert!(again.stats().recovery.clean);
        assert_eq!(again.stats().last_commit, *committed.lock());
    });
}

/// Whoever puts what meanwhile: what is set aside after a close would stay so.
#[test]
fn a_close_leaves_no_more_set_aside_than_the_next_open_needs() {
    let left_bytes = |value_put_meanwhile: Option<Vec<u8>>| {
        let disk = SimDisk::new(1);
        let store = open(&disk, Maintenance::Inline);
        store.put(b"value").unwrap();
        let putting = store.clone();
        let putting = move || {
            if let Some(value) = value_put_meanwhile {
                drop(putting.put(&value));
            }
        };
        at_once([Box::new(putting), Box::new(move || store.close().unwrap())]);
        disk.file_bytes("RESERVE").unwrap().len()
    };
    explore(schedules(), move || {
        // Longer than a segment.
        assert_eq!(left_bytes(Some(vec![7; 40_000])), left_bytes(None));
    });
}

#[test]
fn a_view_stays_as_it_was_while_names_come_and_go() {
    explore(schedules(), || {
        let disk = SimDisk::new(1);
        let store = open(&disk, Maintenance::Inline);
        let digests: Vec<Digest> = (0..3u8).map(|id| store.put(&[id]).unwrap().digest).collect();
        let all = |digest| Batch::new().set("a", digest).set("b", digest);
        store.commit(all(digests[0])).unwrap();
        let changing: Box<dyn FnOnce() + Send> = {
            let (store, digests) = (store.clone(), digests.clone());
            Box::new(move || {
                store.commit(all(digests[1])).unwrap();
                store.commit(Batch::new().delete("a").delete("b")).unwrap();
                store.commit(all(digests[2])).unwrap();
            })
        };
        let viewing = || -> Box<dyn FnOnce() + Send> {
            let store = store.clone();
            Box::new(move || {
                let view = store.snapshot();
                let seen = [view.pointer("a").unwrap(), view.pointer("b").unwrap()];
                assert_eq!(seen[0], seen[1], "both names change at once");
                let scanned: Vec<Digest> =
                    view.pointers_with_prefix("").map(|pointer| pointer.unwrap().1).collect();
                assert_eq!(scanned.len(), if seen[0].is_some() { 2 } else { 0 });
                assert!(scanned.iter().all(|digest| Some(*digest) == seen[0]));
            })
        };
        at_once([changing, viewing(), viewing()]);
        assert_eq!(store.pointers_with_prefix("").count(), 2);
    });
}

#[test]
fn equal_values_put_at_once_are_stored_once() {
    explore(schedules(), || {
        let disk = SimDisk::new(1);
        let store = open(&disk, Maintenance::Inline);
        let new = Arc::new(Mutex::new(0));
        let putting = |len_bytes: usize| -> Box<dyn FnOnce() + Send> {
            let (store, new) = (store.clone(), Arc::clone(&new));
            Box::new(move || {
                let put = store.put(&vec![7; len_bytes]).unwrap();
                *new.lock() += u32::from(put.new);
                assert!(store.get(&put.digest).unwrap().is_some());
            })
        };
        // Small ones are gathered, long ones go straight through.
        at_once([putting(100), putting(100), putting(3000), putting(3000)]);
        assert_eq!(*new.lock(), 2);
        assert_eq!(store.stats().value_count, 2);
    });
}

#[test]
fn equal_batches_put_at_once_beside_a_commit_are_stored_once() {
    explore(schedules(), || {
        let disk = SimDisk::new(1);
        let store = open(&disk, Maintenance::Inline);
        let new = Arc::new(Mutex::new(0));
        // Gathered, straight through, gathered again, twice.
        let values = [vec![1; 100], vec![2; 3000], vec![3; 100], vec![1; 100]];
        let putting = |from: usize| -> Box<dyn FnOnce() + Send> {
            let (store, new, values) = (store.clone(), Arc::clone(&new), values[from..].to_vec());
            Box::new(move || {
                let puts = store.put_many(&values);
                let puts: Vec<_> = puts.into_iter().map(Result::unwrap).collect();
                *new.lock() += puts.iter().filter(|put| put.new).count();
                let batch = Batch::new().set([b'a'], puts[0].digest).set([b'b'], puts[1].digest);
                store.commit(batch).unwrap();
            })
        };
        at_once([putting(0), putting(1), putting(0)]);
        assert_eq!(*new.lock(), 3);
        assert_eq!(store.stats().value_count, 3);
        drop(store);
        let store = open(&disk.after_crash(CrashState::Nothing), Maintenance::Inline);
        assert_eq!(read_all(&store, store.pointers_with_prefix("")).len(), 2);
    });
}

/// With segments, memtables and tables so small that a few values make much of each.
fn open_tiny(disk: &Arc<SimDisk>, maintenance: Maintenance) -> Store {
    tiny_tables().maintenance(maintenance).open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
}

/// So few of them fit into a segment that each second one begins another.
fn large(name: u8, id: u8) -> Vec<u8> {
    [name, id].repeat(900)
}

fn maintaining(store: &Store) -> Box<dyn FnOnce() + Send> {
    let store = store.clone();
    Box::new(move || (0..4).for_each(|_| store.maintain().unwrap()))
}

fn is_sound(store: &Store) {
    let report = store.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).unwrap();
    assert_eq!(report.findings, []);
}

/// Asks in one thread alone: who looks into a segment's list while another thread loads it waits by a
/// lock of the cache's own, which the scheduler does not know.
fn asking<T: Clone + Send + 'static>(
    known: &Arc<Mutex<Vec<T>>>,
    count: usize,
    ask: impl Fn(&T) + Send + 'static,
) -> Box<dyn FnOnce() + Send> {
    let known = Arc::clone(known);
    Box::new(move || {
        loop {
            let all = known.lock().clone();
            // Those of late are on their way from memory to tables.
            all.iter().rev().take(4).for_each(&ask);
            if all.len() == count {
                return;
            }
            yield_now();
        }
    })
}

#[test]
fn a_value_is_found_at_every_moment_of_a_flush() {
    for maintenance in [Maintenance::Inline, Maintenance::Thread] {
        explore(schedules() / 2, move || {
            let disk = SimDisk::new(1);
            let store = open_tiny(&disk, maintenance);
            let known = Arc::new(Mutex::new(Vec::<Digest>::new()));
            let putting = |of: u8| -> Box<dyn FnOnce() + Send> {
                let (store, known) = (store.clone(), Arc::clone(&known));
                Box::new(move || {
                    for id in 0..5 {
                        let digest = store.put(&large(of, id)).unwrap().digest;
                        known.lock().push(digest);
                    }
                })
            };
            let ask = {
                let store = store.clone();
                move |digest: &Digest| assert!(store.contains(digest).unwrap(), "it was put")
            };
            at_once([putting(1), putting(2), asking(&known, 10, ask), maintaining(&store)]);
            let stats = store.stats();
            assert!(stats.index.flush_count > 0, "nothing was flushed");
            assert_eq!(stats.value_count, 10);
            is_sound(&store);
        });
    }
}

#[test]
fn a_name_is_found_at_every_moment_of_a_flush() {
    for maintenance in [Maintenance::Inline, Maintenance::Thread] {
        explore(schedules() / 2, move || {
            let disk = SimDisk::new(1);
            let store = open_tiny(&disk, maintenance);
            let digest = store.put(&[7]).unwrap().digest;
            let known = Arc::new(Mutex::new(Vec::<String>::new()));
            let committing: Box<dyn FnOnce() + Send> = {
                let (store, known) = (store.clone(), Arc::clone(&known));
                Box::new(move || {
                    for id in 0..10 {
                        let name = format!("{id}{}", "-".repeat(900));
                        store.commit(Batch::new().set(&name, digest)).unwrap();
                        known.lock().push(name);
                    }
                })
            };
            let ask = {
                let store = store.clone();
                move |name: &String| assert_eq!(store.pointer(name).unwrap(), Some(digest))
            };
            at_once([committing, asking(&known, 10, ask), maintaining(&store)]);
            assert!(store.stats().names.flush_count > 0, "nothing was flushed");
            is_sound(&store);
        });
    }
}

/// All that stands there, each value of which can be read.
fn read_all(store: &Store, pointers: Pointers) -> Vec<(Bytes, Digest)> {
    let read = |pointer: pinstone::Result<(Bytes, Digest)>| {
        let (name, digest) = pointer.unwrap();
        assert_eq!(Digest::of(&store.get(&digest).unwrap().unwrap()), digest);
        (name, digest)
    };
    pointers.map(read).collect()
}

/// One thread reads, as in [`asking`]; and all files stay open, for the same reason.
#[test]
fn a_scan_a_get_and_a_snapshot_go_on_while_tables_come_and_go() {
    for maintenance in [Maintenance::Inline, Maintenance::Thread] {
        explore(schedules() / 4, move || {
            let disk = SimDisk::new(1);
            let store = open_tiny(&disk, maintenance);
            let add = |store: &Store, id: u8| {
                let digest = store.put(&large(1, id)).unwrap().digest;
                // So long that each second commit begins a segment.
                let names = [format!("{id}"), "x".repeat(1000), "y".repeat(1000)];
                let batch = names.iter().fold(Batch::new(), |batch, name| batch.set(name, digest));
                store.commit(batch).unwrap();
            };
            (0..4).for_each(|id| add(&store, id));
            let count = Arc::new(Mutex::new(4));
            let adding: Box<dyn FnOnce() + Send> = {
                let (store, count) = (store.clone(), Arc::clone(&count));
                Box::new(move || {
                    for id in 4..8 {
                        add(&store, id);
                        *count.lock() += 1;
                    }
                })
            };
            let reading: Box<dyn FnOnce() + Send> = {
                let store = store.clone();
                Box::new(move || {
                    let held = store.snapshot();
                    let then = read_all(&store, held.pointers_with_prefix(""));
                    for _ in 0..2 {
                        let known = *count.lock();
                        let now = read_all(&store, store.pointers_with_prefix(""));
                        assert!(now.len() >= known + 2, "{} pointers, {known} commits", now.len());
                    }
                    assert_eq!(read_all(&store, held.pointers_with_prefix("")), then);
                })
            };
            let before = store.stats();
            at_once([adding, reading, maintaining(&store)]);
            let after = store.stats();
            assert!(
                after.names.rewrite_count > before.names.rewrite_count,
                "no table was replaced"
            );
            assert!(after.index.flush_count > before.index.flush_count, "nothing was flushed");
            is_sound(&store);
        });
    }
}
