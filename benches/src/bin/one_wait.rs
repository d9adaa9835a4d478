//! How a durable commit of a value and its pointer may reach the disk: each way built small, of plain
//! files, and measured in turns with the others. What they decide stands in decisions 0004 and 0015.
//!
//! Every way has the same leader: who comes while nobody writes takes what all gathered, writes it, syncs, and
//! tells everyone. A frame takes whole sectors, as Pinstone's do.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a benchmark reads clocks")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use pinstone_benches::data::next;
use pinstone_benches::floor::{Floor, Ready};
use pinstone_benches::pairs::Pairs;
use pinstone_benches::place::Place;

/// How a durable commit may reach the disk, side by side.
#[derive(Parser)]
struct Asked {
    /// Where the files stand; the build's target directory otherwise.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds of each: the figures are medians.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Milliseconds of a round.
    #[arg(long, default_value_t = 200)]
    millis: u64,
}

const LENGTHS: [usize; 5] = [100, 1 << 10, 4 << 10, 16 << 10, 64 << 10];
const THREADS: [usize; 4] = [1, 4, 16, 64];

/// Bytes of a log's file: what all rounds write of such values, about. One that is full is made anew.
fn file_bytes(length: usize) -> u64 {
    if length > 4 << 10 { 384 << 20 } else { 64 << 20 }
}

/// Bytes of a value's record and of a pointer's, besides the value; of a frame's header.
const VALUE_RECORD_BYTES: usize = 42;
const POINTER_RECORD_BYTES: usize = 96;
const FRAME_BYTES: usize = 64;
const SECTOR_BYTES: usize = 512;

/// Values that ride in the pointer log are in the blob log, too, which is synced once so many are.
const RIDING_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Value, sync, pointer, sync.
    InTurn,
    /// Both, then both syncs at once.
    AtOnce,
    /// The same, the pointer log's space written before.
    AtOnceWritten,
    /// One log for both.
    OneLog,
    /// Values in the pointer log as well: its sync alone is waited for.
    Riding,
    /// The same, the pointer log's space written before.
    RidingWritten,
}

const WAYS: [(Way, &str); 6] = [
    (Way::AtOnce, "two logs, synced at once"),
    (Way::InTurn, "two logs, synced in turn"),
    (Way::AtOnceWritten, "at once, pointer log's space written before"),
    (Way::OneLog, "one log"),
    (Way::Riding, "values ride in the pointer log"),
    (Way::RidingWritten, "values ride, its space written before"),
];

/// What all committing threads share.
struct Logs {
    way: Way,
    gathered: Mutex<Gathered>,
    changed: Condvar,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Gathered {
    /// Commits that came, and those of them that are durable.
    count: u64,
    durable_count: u64,
    values: Vec<u8>,
    value_count: usize,
    is_led: bool,
}

struct Writer {
    blob: Arc<Mutex<Floor>>,
    pointer: Floor,
    riding_bytes: u64,
    to_sync: SyncSender<()>,
    synced: Receiver<()>,
    frame: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logs {
    fn new(place: &Place, way: Way, length: usize) -> Self {
        let ready = match way {
            Way::AtOnceWritten | Way::RidingWritten => Ready::Written,
            _ => Ready::Reserved,
        };
        let pointer =
            Floor::new(&place.fresh(&format!("pointer-{}", way as u8)), file_bytes(length), ready);
        let blob = Floor::new(
            &place.fresh(&format!("blob-{}", way as u8)),
            file_bytes(length),
            Ready::Reserved,
        );
        let blob = Arc::new(Mutex::new(blob));
        let (to_sync, asked) = sync_channel::<()>(1);
        let (done, synced) = sync_channel(1);
        let other = Arc::clone(&blob);
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                lock(&other).sync();
                if done.send(()).is_err() {
                    return;
                }
            }
        });
        let writer = Writer { blob, pointer, riding_bytes: 0, to_sync, synced, frame: Vec::new() };
        Self {
            way,
            gathered: Mutex::default(),
            changed: Condvar::new(),
            writer: Mutex::new(writer),
        }
    }

    fn commit(&self, value: &[u8]) {
        let mut gathered = lock(&self.gathered);
        let mine = gathered.count;
        gathered.count += 1;
        gathered.values.extend_from_slice(value);
        gathered.value_count += 1;
        while gathered.durable_count <= mine {
            if gathered.is_led {
                gathered = self.changed.wait(gathered).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            gathered.is_led = true;
            let upto = gathered.count;
            let values = std::mem::take(&mut gathered.values);
            let value_count = std::mem::take(&mut gathered.value_count);
            drop(gathered);
            lock(&self.writer).write(self.way, &values, value_count);
            gathered = lock(&self.gathered);
            gathered.durable_count = upto;
            gathered.is_led = false;
            self.changed.notify_all();
        }
    }
}

impl Writer {
    /// Makes so many values and their pointers durable.
    fn write(&mut self, way: Way, values: &[u8], count: usize) {
        let pointers_bytes = POINTER_RECORD_BYTES * count;
        let values_bytes = values.len() + VALUE_RECORD_BYTES * count;
        match way {
            Way::InTurn | Way::AtOnce | Way::AtOnceWritten => {
                self.frame(values, values_bytes);
                lock(&self.blob).write(&self.frame);
                if way == Way::InTurn {
                    lock(&self.blob).sync();
                }
                self.frame(&[], pointers_bytes);
                self.pointer.write(&self.frame);
                if way != Way::InTurn {
                    self.to_sync.send(()).expect("the thread lives");
                }
                self.pointer.sync();
                if way != Way::InTurn {
                    self.synced.recv().expect("the thread lives");
                }
            }
            Way::OneLog => {
                self.frame(values, values_bytes + pointers_bytes);
                self.pointer.write(&self.frame);
                self.pointer.sync();
            }
            Way::Riding | Way::RidingWritten => {
                self.frame(values, values_bytes + pointers_bytes);
                self.pointer.write(&self.frame);
                self.pointer.sync();
                // Nobody waits for this.
                self.frame(values, values_bytes);
                if let Ok(mut blob) = self.blob.try_lock() {
                    blob.write(&self.frame);
                }
                self.riding_bytes += values.len() as u64;
                let _synced = self.synced.try_recv();
                if self.riding_bytes >= RIDING_BYTES_MAX && self.to_sync.try_send(()).is_ok() {
                    self.riding_bytes = 0;
                }
            }
        }
    }

    /// Makes a frame of these bytes, and of as many as there are with them, in whole sectors.
    fn frame(&mut self, bytes: &[u8], all_bytes: usize) {
        self.frame.clear();
        self.frame.extend_from_slice(bytes);
        self.frame.resize((all_bytes + FRAME_BYTES).next_multiple_of(SECTOR_BYTES), 1);
    }
}

/// Commits a second by so many threads.
fn rate(logs: &Logs, value: &[u8], threads: usize, time: Duration) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    logs.commit(value);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

fn main() {
    let asked = Asked::parse();
    let place = asked.dir.as_deref().map_or_else(Place::new, Place::inside);
    println!(
        "Commits a second, by each way in ratios to two logs synced at once, medians of {}.",
        asked.rounds
    );
    println!();
    println!("| value | threads | {} |", WAYS.map(|(_, name)| name).join(" | "));
    println!("|{}", "---|".repeat(WAYS.len() + 2));
    for length in LENGTHS {
        let mut state = 7;
        let value: Vec<u8> = std::iter::repeat_with(|| next(&mut state).to_le_bytes())
            .flatten()
            .take(length)
            .collect();
        for threads in THREADS {
            let mut pairs = WAYS.map(|_| Pairs::default());
            let mut base_rates = Vec::new();
            let logs = WAYS.map(|(way, _)| Logs::new(&place, way, length));
            for _ in 0..asked.rounds {
                let time = Duration::from_millis(asked.millis);
                let rates = logs.each_ref().map(|logs| rate(logs, &value, threads, time));
                base_rates.push(rates[0]);
                for (pairs, rate) in pairs.iter_mut().zip(rates) {
                    let second = Duration::from_secs(1);
                    pairs.push(second.mul_f64(rate), second.mul_f64(rates[0]));
                }
            }
            base_rates.sort_by(f64::total_cmp);
            let base = base_rates[base_rates.len() / 2];
            let ratios = pairs[1..].iter().map(|pairs| format!("{:.2}", pairs.median()));
            println!(
                "| {length} B | {threads} | {base:.0}/s | {} |",
                ratios.collect::<Vec<_>>().join(" | ")
            );
        }
    }
}
