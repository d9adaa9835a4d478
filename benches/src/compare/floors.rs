//! What no engine can do without, measured in the same run: one floor, in a process of its own.
//!
//! 1. BLAKE3 alone; with appending to a file, 1 MiB at a time, synced at the end; with a look-up of
//!    each digest in a hash map.
//! 2. Copies of the values, in random order, within memory.
//! 3. A hash map of digests and a `pread` of a file that the page cache has.
//! 4. `pwrite` and `fdatasync` of a value, a name and a digest, in a file made ready.
//! 5. Random reads of a large file past the page cache, by fio, with as many in flight as gets are
//!    asked for at once.
//!
//! What the append writes, the `pread`s read: the file stays until the length of values is done.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use pinstone::Digest;
use pinstone_benches::data::next;
use pinstone_benches::floor::{Floor, Ready};
use pinstone_disk::env::{DigestMap, DigestSeed, monotonic};

use crate::engine::{Fallible, Sink};
use crate::feed::{Feed, digests, name, pool, shuffled};
use crate::measured::{Measured, Watch, on_threads};
use crate::workload::{FloorKind, LOAD_PATIENCE, Task};

/// Bytes that are appended at once.
const APPEND_BYTES: usize = 1 << 20;

/// Seconds that a floor measures for, at most: they are steadier than engines.
const SECONDS_MAX: f64 = 3.0;

/// Bytes of the memory that values are copied within, at most.
const COPY_BYTES_MAX: u64 = 256 << 20;

/// Bytes of the file that is made ready for commits.
const COMMIT_FILE_BYTES: u64 = 64 << 20;

/// Bytes of the file that fio reads: at least, and at most.
const DEVICE_BYTES_MIN: u64 = 256 << 20;
const DEVICE_BYTES_MAX: u64 = 1 << 30;

/// What a read past the page cache must be a multiple of.
const DEVICE_BLOCK_BYTES: usize = 4 << 10;

/// Runs a floor.
pub(crate) fn run(kind: FloorKind, task: &Task) -> Fallible<Measured> {
    std::fs::create_dir_all(&task.dir)?;
    let appended = task.dir.join("appended");
    match kind {
        FloorKind::Hash => hash(task),
        FloorKind::HashAppend => hash_append(task, &appended),
        FloorKind::HashProbe => hash_probe(task),
        FloorKind::Copy => copy(task),
        FloorKind::MapRead => map_read(task, &appended),
        FloorKind::WriteSync => write_sync(task, Ready::Reserved),
        FloorKind::WrittenSync => write_sync(task, Ready::Written),
        FloorKind::Device => device(task, &task.dir.join("device")),
    }
}

fn seconds(task: &Task) -> f64 {
    task.seconds_max.min(SECONDS_MAX)
}

fn hash(task: &Task) -> Fallible<Measured> {
    let mut feed = Feed::new(task.value_bytes, (0..task.value_count).cycle());
    feed.stop_after(seconds(task).min(1.0));
    let begun = monotonic();
    while let Some(value) = feed.next() {
        black_box(Digest::of(value));
    }
    Ok(Measured::rate(feed.fed_count(), monotonic() - begun))
}

fn hash_append(task: &Task, path: &Path) -> Fallible<Measured> {
    let mut feed = Feed::new(task.value_bytes, 0..task.value_count);
    feed.stop_after(task.seconds_max * LOAD_PATIENCE);
    let mut gathered = Vec::with_capacity(APPEND_BYTES + task.value_bytes);
    let mut file = File::create(path)?;
    let begun = monotonic();
    while let Some(value) = feed.next() {
        black_box(Digest::of(value));
        gathered.extend_from_slice(value);
        if gathered.len() >= APPEND_BYTES {
            file.write_all(&gathered)?;
            gathered.clear();
        }
    }
    file.write_all(&gathered)?;
    file.sync_data()?;
    Ok(Measured::rate(feed.fed_count(), monotonic() - begun))
}

/// Digests to the numbers of their values.
fn map_of(task: &Task, count: u64) -> DigestMap<u64> {
    let mut map = DigestMap::with_hasher(DigestSeed::new([7; 16]));
    map.extend(digests(task.value_bytes, 0..count).into_iter().zip(0..));
    map
}

fn hash_probe(task: &Task) -> Fallible<Measured> {
    let map = map_of(task, task.value_count);
    let mut feed = Feed::new(task.value_bytes, (0..task.value_count).cycle());
    feed.stop_after(seconds(task).min(1.0));
    let begun = monotonic();
    while let Some(value) = feed.next() {
        if !map.contains_key(&Digest::of(value)) {
            return Err("a map holds what was put into it".into());
        }
    }
    Ok(Measured::rate(feed.fed_count(), monotonic() - begun))
}

fn copy(task: &Task) -> Fallible<Measured> {
    let value_bytes = task.value_bytes;
    let bytes = (task.value_count * value_bytes as u64).min(COPY_BYTES_MAX);
    let count = usize::try_from(bytes)? / value_bytes;
    let source = vec![7_u8; count * value_bytes];
    let mut target = vec![0_u8; value_bytes];
    let order = shuffled(count as u64, task.seed);
    let (mut copied, watch) = (0, Watch::new(seconds(task).min(1.0)));
    while !watch.is_over() {
        for number in &order {
            let at = usize::try_from(*number)? * value_bytes;
            target.copy_from_slice(&source[at..][..value_bytes]);
            black_box(&target);
        }
        copied += order.len() as u64;
    }
    Ok(Measured::rate(copied, watch.elapsed()))
}

fn map_read(task: &Task, path: &Path) -> Fallible<Measured> {
    let Task { value_bytes, threads, seed, .. } = *task;
    let file = File::open(path)?;
    let count = file.metadata()?.len() / value_bytes as u64;
    let map = map_of(task, count);
    let asked = digests(value_bytes, shuffled(count, seed).into_iter());
    let pass = |thread: usize| -> Fallible<u64> {
        let (mut read, mut sink) = (0, Sink::new(value_bytes));
        let mut buffer = vec![0; value_bytes];
        let watch = Watch::new(seconds(task).min(1.0));
        loop {
            for digest in asked.iter().skip(thread).step_by(threads) {
                let number = map.get(digest).ok_or("a map holds what was put into it")?;
                file.read_exact_at(&mut buffer, number * value_bytes as u64)?;
                sink.take(&buffer);
                read += 1;
            }
            if watch.is_over() {
                break;
            }
        }
        sink.finish()?;
        Ok(read)
    };
    on_threads(threads, pass)?;
    let (counts, took) = on_threads(threads, pass)?;
    Ok(Measured::rate(counts.iter().sum(), took))
}

fn write_sync(task: &Task, ready: Ready) -> Fallible<Measured> {
    let mut floor = Floor::new(&task.dir.join("commits"), COMMIT_FILE_BYTES, ready);
    let mut pool = pool(task.value_bytes);
    let (mut latencies, mut buffer) = (Vec::new(), Vec::new());
    let watch = Watch::new(seconds(task));
    while !watch.is_over() {
        let number = latencies.len() as u64;
        let begun = monotonic();
        let value = pool.stamp(number);
        buffer.clear();
        buffer.extend_from_slice(value);
        buffer.extend_from_slice(name(number).as_bytes());
        buffer.extend_from_slice(Digest::of(value).as_bytes());
        floor.write(&buffer);
        floor.sync();
        latencies.push(monotonic() - begun);
    }
    let took = watch.elapsed();
    Ok(Measured::rate(latencies.len() as u64, took).with_latencies(latencies))
}

fn device(task: &Task, path: &Path) -> Fallible<Measured> {
    if Command::new("fio").arg("--version").output().is_err() {
        return Err("fio is not installed".into());
    }
    let all_bytes = task.value_count * task.value_bytes as u64;
    let file_bytes = all_bytes.clamp(DEVICE_BYTES_MIN, DEVICE_BYTES_MAX);
    if !path.exists() {
        make(path, file_bytes)?;
    }
    let mut refusal = String::new();
    for engine in ["io_uring", "libaio"] {
        match fio(task, path, file_bytes, engine) {
            Ok(measured) => return Ok(measured),
            Err(error) => refusal = error.to_string(),
        }
    }
    Err(refusal.into())
}

/// A file of so many bytes, none of them holes.
fn make(path: &Path, file_bytes: u64) -> Fallible<()> {
    let mut file = File::create(path)?;
    let mut state = file_bytes;
    let chunk: Vec<u8> =
        (0..APPEND_BYTES / 8).flat_map(|_| next(&mut state).to_le_bytes()).collect();
    for _ in 0..file_bytes.div_ceil(APPEND_BYTES as u64) {
        file.write_all(&chunk)?;
    }
    Ok(file.sync_all()?)
}

fn fio(task: &Task, path: &Path, file_bytes: u64, engine: &str) -> Fallible<Measured> {
    let block_bytes = task.value_bytes.next_multiple_of(DEVICE_BLOCK_BYTES);
    let output = Command::new("fio")
        .args(["--name=floor", "--rw=randread", "--direct=1", "--time_based", "--norandommap"])
        .args(["--output-format=json", "--thread", "--invalidate=1"])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--size={file_bytes}"))
        .arg(format!("--bs={block_bytes}"))
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--iodepth={}", task.threads))
        .arg(format!("--runtime={}", seconds(task).ceil()))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let read = &found["jobs"][0]["read"];
    let number = |value: &serde_json::Value| value.as_f64().ok_or("fio tells a number");
    let percentiles = &read["clat_ns"]["percentile"];
    let measured = Measured::default()
        .with("rate", number(&read["iops"])?)
        .with("p50_us", number(&percentiles["50.000000"])? / 1e3)
        .with("p99_us", number(&percentiles["99.000000"])? / 1e3)
        .with("p999_us", number(&percentiles["99.900000"])? / 1e3);
    Ok(if block_bytes == task.value_bytes {
        measured.noted(engine.to_owned())
    } else {
        measured.noted(format!("{engine}, reads of {block_bytes} bytes"))
    })
}
