//! What is timed: puts and durable commits, and their floors. Each returns how long it took.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use pinstone::{Batch, Digest, Store};
use pinstone_disk::env::monotonic;

use crate::data::Pool;
use crate::floor::{Floor, Ready};
use crate::place::Place;

/// Bytes of the value of a durable commit.
pub const COMMIT_VALUE_BYTES: usize = 1 << 10;

/// Bytes that the floor of a put writes at once.
pub const BATCH_BYTES: usize = 1 << 20;

/// Names that one thread's commits go round.
const NAME_COUNT: u64 = 4096;

/// Bytes of a floor's file under durable commits.
const FLOOR_BYTES: u64 = 64 << 20;

/// Bytes after which plain commits begin their file of values anew, about as the blob log does.
const PLAIN_SEGMENT_BYTES: u64 = 32 << 20;

/// How long something took: by the clock, and of the processor by the thread that did it. The
/// second is the steadier one where others use the machine too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// By the clock.
    pub wall: Duration,
    /// Of the processor.
    pub cpu: Duration,
}

impl std::ops::AddAssign for Took {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

fn timed(work: impl FnOnce()) -> Took {
    let (wall, cpu) = (monotonic(), thread_cpu());
    work();
    Took { wall: monotonic() - wall, cpu: thread_cpu() - cpu }
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's time is not negative")
}

/// Puts the pool's first values into a store of their own, whose first segment is there; opening
/// and closing are not timed.
///
/// # Panics
/// If the store fails.
pub fn put(place: &Place, pool: &Pool, count: usize) -> Took {
    let store = Store::open(place.fresh("put-store")).expect("a fresh store opens");
    store.put(b"").expect("there is space");
    let took = timed(|| {
        for value in pool.values().take(count) {
            assert!(store.put(value).expect("there is space").new);
        }
    });
    drop(store);
    place.fresh("put-store");
    took
}

/// The same thread hashes the same values and writes them, [`BATCH_BYTES`] at a time, into a file
/// made ready; they lie one after the other in memory, so nothing is copied.
///
/// # Panics
/// If the machine refuses.
pub fn put_floor(place: &Place, pool: &Pool, count: usize) -> Took {
    let bytes = &pool.bytes()[..count * pool.value_bytes()];
    let mut floor = Floor::new(&place.fresh("put-floor"), bytes.len() as u64, Ready::Reserved);
    let took = timed(|| {
        for batch in bytes.chunks(BATCH_BYTES.max(pool.value_bytes())) {
            for value in batch.chunks(pool.value_bytes()) {
                black_box(blake3::hash(value));
            }
            floor.write(batch);
        }
    });
    drop(floor);
    place.fresh("put-floor");
    took
}

/// Durable commits of new values of [`COMMIT_VALUE_BYTES`], each named by one pointer.
#[derive(Debug)]
pub struct Commits {
    store: Store,
    pool: Pool,
    next: u64,
}

impl Commits {
    /// In a store of their own at `path`.
    ///
    /// # Panics
    /// If it does not open.
    pub fn new(path: PathBuf) -> Self {
        let store = Store::open(path).expect("a fresh store opens");
        Self { store, pool: Pool::new(COMMIT_VALUE_BYTES, 16 << 20), next: 0 }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// From so many threads at once, so many each.
    ///
    /// # Panics
    /// If the store fails.
    pub fn run(&mut self, threads: usize, each: u64) -> Duration {
        let (store, pool, first) = (&self.store, &self.pool, self.next);
        self.next += threads as u64 * each;
        together(threads, |thread| {
            let mut buffer = Vec::new();
            move || {
                for number in 0..each {
                    let value = pool.stamped(first + thread as u64 * each + number, &mut buffer);
                    let digest = store.put(value).expect("there is space").digest;
                    let batch = Batch::new().set(name(thread, number), digest);
                    store.commit(batch).expect("there is space");
                }
            }
        })
    }
}

/// Their floor: each thread writes the same bytes (value, name, digest) into a file of its own,
/// and syncs it.
#[derive(Debug)]
pub struct CommitFloors {
    floors: Vec<Floor>,
    pool: Pool,
}

impl CommitFloors {
    /// For up to so many threads.
    pub fn new(place: &Place, threads: usize, ready: Ready) -> Self {
        let file = |thread| place.fresh(&format!("commit-floor-{ready:?}-{thread}"));
        let len_bytes = FLOOR_BYTES / threads as u64;
        let floors = (0..threads).map(|thread| Floor::new(&file(thread), len_bytes, ready));
        Self { floors: floors.collect(), pool: Pool::new(COMMIT_VALUE_BYTES, 16 << 20) }
    }

    /// From all threads at once, so many times each.
    pub fn run(&mut self, each: u64) -> Duration {
        let (pool, threads) = (&self.pool, self.floors.len());
        let mut floors = self.floors.iter_mut();
        together(threads, |thread| {
            let floor = floors.next().expect("there is one for each thread");
            let mut buffer = Vec::new();
            move || {
                for number in 0..each {
                    pool.stamped(number, &mut buffer);
                    buffer.extend_from_slice(name(thread, number).as_bytes());
                    buffer.extend_from_slice(&[7; size_of::<Digest>()]);
                    floor.write(&buffer);
                    floor.sync();
                }
            }
        })
    }
}

/// The writes of commits that each name one of `put_count` new values of the pool, without an engine:
/// the values are hashed and written together to one file, a sector to another, and both files are
/// synced at once. How long each such pair of writes and syncs took.
///
/// # Panics
/// If the machine refuses.
pub fn plain_commits(place: &Place, pool: &Pool, put_count: usize, count: usize) -> Vec<Duration> {
    let [values, pointers] = ["plain-values", "plain-pointers"].map(|name| place.fresh(name));
    let mut values = Floor::new(&values, PLAIN_SEGMENT_BYTES, Ready::Reserved);
    let pointers = Floor::new(&pointers, FLOOR_BYTES, Ready::Reserved);
    let (pointers, begin, end) = (Mutex::new(pointers), Barrier::new(2), Barrier::new(2));
    let mut took = Vec::with_capacity(count);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..count {
                begin.wait();
                pointers.lock().expect("nobody panicked").sync();
                end.wait();
            }
        });
        let bytes = put_count * pool.value_bytes();
        for batch in pool.bytes().chunks_exact(bytes).cycle().take(count) {
            for value in batch.chunks(pool.value_bytes()) {
                black_box(blake3::hash(value));
            }
            let before = monotonic();
            values.write(batch);
            pointers.lock().expect("nobody panicked").write(&[7; 512]);
            begin.wait();
            values.sync();
            end.wait();
            took.push(monotonic() - before);
        }
    });
    place.fresh("plain-values");
    place.fresh("plain-pointers");
    took
}

fn name(thread: usize, number: u64) -> String {
    format!("service/{thread:02}/{:04}", number % NAME_COUNT)
}

/// Runs what `work` makes for each thread, all at once; from the moment that all are ready to the
/// moment that the last is done.
fn together<W: FnOnce() + Send>(threads: usize, mut work: impl FnMut(usize) -> W) -> Duration {
    let ready = Barrier::new(threads + 1);
    let mut start = Duration::ZERO;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (work, ready) = (work(thread), &ready);
            scope.spawn(move || {
                ready.wait();
                work();
            });
        }
        ready.wait();
        start = monotonic();
    });
    monotonic() - start
}
