//! A machine that has few threads to give, or none: what needs one is refused, or done without it, and nothing waits
//! for one, or keeps one that is of no use.
//!
//! Each test runs again in a process of its own, since the limit is the whole process's; root is beyond it, and starts
//! that process as somebody else.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![expect(
    clippy::disallowed_methods,
    reason = "a process and its threads are looked at from outside"
)]

mod common;

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use common::told;
use pinstone::{Batch, Error, Maintenance, Store, StoreBuilder};
use pinstone_disk::env;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Set in a process that a test starts of itself: the directory to work in.
const CHILD: &str = "PINSTONE_TEST_CHILD";

/// How long a thread that should not wait for another is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether a thread has ended that was told to: some seconds' worth.
const LOOKS_MAX: u32 = 300_000;

/// Runs the test again in a process of its own, with `run` in a directory of its own.
fn in_a_process(test: &str, io_engine: &str, run: impl FnOnce(&Path)) {
    if let Some(directory) = std::env::var_os(CHILD) {
        return run(&PathBuf::from(directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).current_dir("/");
    command.env(CHILD, directory.path()).env("PINSTONE_IO", io_engine);
    if rustix::process::geteuid().is_root() {
        // Somebody who has no other threads, with which these would be counted.
        let somebody = 20_000 + std::process::id() % 40_000;
        chown(directory.path(), Some(somebody), Some(somebody)).unwrap();
        command.uid(somebody).gid(somebody);
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// From now on a thread more is to be had only while its user has fewer than this.
fn limit(thread_count: u64) {
    let whole = getrlimit(Resource::Nproc);
    setrlimit(Resource::Nproc, Rlimit { current: Some(thread_count), ..whole }).unwrap();
}

/// Threads of this process.
fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Whether this process has no more than so many threads, or soon will.
fn ends_with(threads: usize) -> bool {
    (0..LOOKS_MAX).any(|_| {
        env::yield_now();
        thread_count() <= threads
    })
}

fn tiny() -> StoreBuilder {
    Store::builder()
        .segment_bytes(64 << 10)
        .pointer_segment_bytes(64 << 10)
        .append_buffer_bytes(4 << 10)
        .reserve_bytes(0)
}

#[test]
fn an_open_that_is_refused_a_thread_leaves_none() {
    in_a_process("an_open_that_is_refused_a_thread_leaves_none", "positioned", |directory| {
        let before = thread_count();
        tiny().open(directory).unwrap().close().unwrap();
        assert!(ends_with(before), "closing ends the threads");
        let is_one_to_be_had = |thread_count: &u64| {
            limit(*thread_count);
            env::spawn("tried", || ()).is_ok_and(|thread| thread.join().is_ok())
        };
        let room_for_one = (0..).find(is_one_to_be_had).unwrap();
        assert!(ends_with(before));
        let mut refused = 0;
        for threads in room_for_one.. {
            limit(threads);
            match tiny().open(directory) {
                Ok(store) => {
                    store.close().unwrap();
                    break;
                }
                Err(error @ Error::Io { .. }) => {
                    assert!(told(&error).contains("a maintenance thread"), "{}", told(&error));
                    refused += 1;
                    assert!(ends_with(before), "{} threads, {before} before", thread_count());
                }
                Err(error) => panic!("{}", told(&error)),
            }
        }
        assert!(refused > 0, "no open was refused its second thread");
    });
}

#[test]
fn a_store_is_opened_and_goes_on_where_there_is_no_thread_to_give() {
    let test = "a_store_is_opened_and_goes_on_where_there_is_no_thread_to_give";
    in_a_process(test, "auto", |directory| {
        let open = |name: &str| {
            let builder = tiny().maintenance(Maintenance::Inline).mmap(false);
            builder.open(directory.join(name)).unwrap()
        };
        let store = open("opened before");
        let other = directory.join("opened later");
        let work = move || {
            limit(0);
            assert!(env::spawn("tried", || ()).is_err(), "the limit holds");
            goes_on(&store);
            let builder = tiny().maintenance(Maintenance::Inline).mmap(false);
            let store = builder.open(other).unwrap();
            assert_eq!(store.stats().io_engine, "positioned");
            goes_on(&store);
        };
        let (done, is_done) = sync_channel(1);
        let _thread = env::spawn("limited", move || {
            work();
            done.send(()).unwrap();
        });
        is_done.recv_timeout(PATIENCE).expect("it comes to its end, and waits for no thread");
    });
}

/// Commits, over several segments, and reads all at once.
fn goes_on(store: &Store) {
    let value = |number: u32| number.to_string().repeat(2000);
    let digests: Vec<_> = (0..100)
        .map(|number| {
            let digest = store.put(value(number).as_bytes()).unwrap().digest;
            store.commit(Batch::new().set("last", digest)).unwrap();
            digest
        })
        .collect();
    for (number, found) in (0..).zip(store.get_many(&digests)) {
        assert_eq!(found.unwrap().unwrap(), value(number).as_bytes());
    }
}
