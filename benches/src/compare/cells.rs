//! One cell of an engine, in a process of its own: the work that is timed, and what has to be there
//! before and after.
//!
//! - C1: values, digests and their order are made before anything is timed, except that a put hashes
//!   its value (E1).
//! - C2: what was found is counted: a value that should be there and is not, or the other way round,
//!   fails the cell.
//! - C3: *warm* is after a pass of the same operations in the same process; *cold* is after the page
//!   cache has forgotten the store's files, in a process that has not opened the store before.
//! - C4: a cell ends when its operations or its seconds do; passes are repeated for at least
//!   [`SECONDS_MIN`], so that no figure stands on a moment.

use std::path::Path;
use std::time::Duration;

use pinstone::Digest;
use pinstone_benches::data::next;
use pinstone_benches::process::{allocated_tree_bytes, forget_tree, io};
use pinstone_disk::env::monotonic;

use crate::engine::{Engine, Fallible, Open, Settings, Sink};
use crate::feed::{ABSENT, COMMITTED, Feed, digests, name, pool, shuffled};
use crate::measured::{Measured, MemoryGauge, Watch, on_threads};
use crate::workload::{BATCH_VALUES, LOAD_PATIENCE, NAME_COUNT, POINTER_NAMES, Task, Workload};

/// Seconds that a warm cell measures for, at least, if it may.
const SECONDS_MIN: f64 = 1.0;

/// Operations of a cold cell, at least if there are enough values, and at most.
const COLD_MIN: u64 = 200;
const COLD_MAX: u64 = 10_000;

/// One value of so many is asked for in a cold cell, so that few find their neighbours read already; of
/// batches more, or there would be too few.
const COLD_SHARE: u64 = 100;
const COLD_BATCH_SHARE: u64 = 20;

/// Batches of a cold cell, at least if there are enough values.
const COLD_BATCHES_MIN: u64 = 10;

/// Values that are absent, at most.
const ABSENT_MAX: u64 = 200_000;

/// Operations between looks at the clock, in cells that are not timed one by one.
const LOOK_EVERY: usize = 16;

/// Names that commits of one thread go round.
const COMMIT_NAMES: u64 = 4096;

/// One operation of so many is a commit, in a mixed load.
const MIXED_SHARE: u64 = 20;

/// Runs a cell.
pub(crate) fn run(workload: Workload, open: Open, task: &Task) -> Fallible<Measured> {
    let cell = Cell { open, task };
    std::fs::create_dir_all(&task.dir)?;
    match workload {
        Workload::Load => cell.load(),
        Workload::ReputWarm => cell.reput_warm(),
        Workload::ReputCold => cell.reput_cold(),
        Workload::GetWarm => cell.get_warm(1),
        Workload::BatchWarm => cell.get_warm(BATCH_VALUES),
        Workload::Absent => cell.absent(1),
        Workload::AbsentBatch => cell.absent(BATCH_VALUES),
        Workload::GetCold => cell.get_cold(1),
        Workload::BatchCold => cell.get_cold(BATCH_VALUES),
        Workload::Reopen => cell.reopen(),
        Workload::Mixed => cell.mixed(),
        Workload::Commit => cell.commit(),
        Workload::CompareAndSet => cell.compare_and_set(),
        Workload::Names => cell.names(),
        Workload::Pointer => cell.pointer(),
        Workload::Scan => cell.scan(),
        Workload::Floors => Err("floors are of no engine".into()),
    }
}

struct Cell<'a> {
    open: Open,
    task: &'a Task,
}

impl Cell<'_> {
    fn open(&self, bulk: bool) -> Fallible<Box<dyn Engine>> {
        let Task { value_bytes, memory_bytes, .. } = *self.task;
        (self.open)(&self.task.dir, &Settings { value_bytes, memory_bytes, bulk })
    }

    fn dir(&self) -> &Path {
        &self.task.dir
    }

    fn load(&self) -> Fallible<Measured> {
        let Task { value_bytes, value_count, seconds_max, .. } = *self.task;
        let mut feed = Feed::new(value_bytes, 0..value_count);
        let gauge = MemoryGauge::begin();
        let before = io();
        let engine = self.open(true)?;
        let watch = Watch::new(seconds_max);
        feed.stop_after(seconds_max * LOAD_PATIENCE);
        let new_count = engine.load(&mut feed)?;
        engine.sync()?;
        let took = watch.elapsed();
        let memory_bytes = gauge.end();
        engine.close()?;
        let written = io().device_written_bytes - before.device_written_bytes;
        let fed_count = feed.fed_count();
        same("new values", new_count, fed_count)?;
        let user_bytes = (fed_count * value_bytes as u64) as f64;
        let measured = Measured::rate(fed_count, took)
            .with("values", fed_count as f64)
            .with("mib_per_second", user_bytes / f64::from(1 << 20) / took.as_secs_f64())
            .with("memory_bytes", memory_bytes as f64)
            .with("written", written as f64 / user_bytes)
            .with("kept", allocated_tree_bytes(self.dir()) as f64 / user_bytes);
        Ok(if fed_count < value_count {
            measured.noted(format!("time ran out after {fed_count} of {value_count} values"))
        } else {
            measured
        })
    }

    fn reput_warm(&self) -> Fallible<Measured> {
        let Task { value_bytes, value_count, seconds_max, .. } = *self.task;
        let engine = self.open(false)?;
        let pass = |seconds: f64| -> Fallible<(u64, Duration)> {
            let mut feed = Feed::new(value_bytes, 0..value_count);
            let watch = Watch::new(seconds);
            feed.stop_after(seconds);
            same("new values", engine.load(&mut feed)?, 0)?;
            Ok((feed.fed_count(), watch.elapsed()))
        };
        pass(seconds_max * LOAD_PATIENCE)?;
        let (mut count, mut took) = (0, Duration::ZERO);
        while took.as_secs_f64() < SECONDS_MIN.min(seconds_max) {
            let (some, longer) = pass(seconds_max - took.as_secs_f64())?;
            count += some;
            took += longer;
        }
        engine.close()?;
        Ok(Measured::rate(count, took))
    }

    fn reput_cold(&self) -> Fallible<Measured> {
        let numbers = self.cold_numbers(1);
        let count = numbers.len() as u64;
        let mut feed = Feed::new(self.task.value_bytes, numbers.into_iter());
        forget_tree(self.dir());
        let engine = self.open(false)?;
        let (before, watch) = (io(), Watch::new(self.task.seconds_max));
        feed.stop_after(self.task.seconds_max);
        same("new values", engine.load(&mut feed)?, 0)?;
        let took = watch.elapsed();
        let read_bytes = io().device_read_bytes - before.device_read_bytes;
        let fed_count = feed.fed_count();
        engine.close()?;
        let measured = Measured::rate(fed_count, took)
            .with("read_bytes", read_bytes as f64 / fed_count.max(1) as f64);
        Ok(self.short_of(measured, fed_count, count))
    }

    /// Values for a cold cell, in random order, whole batches of them.
    fn cold_numbers(&self, batch: usize) -> Vec<u64> {
        let Task { value_count, seed, .. } = *self.task;
        let batch = batch as u64;
        let (share, least) = match batch {
            1 => (COLD_SHARE, COLD_MIN),
            _ => (COLD_BATCH_SHARE, COLD_BATCHES_MIN * batch),
        };
        let operations = (value_count / share).clamp(least, COLD_MAX).min(value_count / 2);
        let operations = (operations / batch).max(1) * batch;
        let mut numbers = shuffled(value_count, seed);
        numbers.truncate(usize::try_from(operations).unwrap_or(usize::MAX));
        numbers
    }

    fn short_of(&self, measured: Measured, done: u64, planned: u64) -> Measured {
        if done < planned {
            measured.noted(format!("time ran out after {done} of {planned} operations"))
        } else {
            measured
        }
    }

    fn get_warm(&self, batch: usize) -> Fallible<Measured> {
        let Task { value_bytes, value_count, threads, seconds_max, seed, .. } = *self.task;
        let digests = digests(value_bytes, shuffled(value_count, seed).into_iter());
        let gauge = MemoryGauge::begin();
        let engine = self.open(false)?;
        // Asked for in turn: so each thread has its own, and all together they are all of them.
        let shares: Vec<Vec<Digest>> = (0..threads)
            .map(|thread| digests.iter().skip(thread).step_by(threads).copied().collect())
            .collect();
        let each = batch.max(LOOK_EVERY);
        let passes = |share: &[Digest], seconds_min: f64, seconds_max: f64| -> Fallible<u64> {
            let (mut count, mut sink) = (0, Sink::new(value_bytes));
            let (enough, watch) = (Watch::new(seconds_min), Watch::new(seconds_max));
            'all: loop {
                for some in share.chunks(each) {
                    let found = if batch == 1 {
                        some.iter().try_fold(0, |found, digest| -> Fallible<usize> {
                            Ok(found + usize::from(engine.get(digest, &mut sink)?))
                        })?
                    } else {
                        engine.get_many(some, &mut sink)?
                    };
                    same("values found", found as u64, some.len() as u64)?;
                    count += found as u64;
                    if watch.is_over() {
                        break 'all;
                    }
                }
                if enough.is_over() {
                    break;
                }
            }
            sink.finish()?;
            Ok(count)
        };
        on_threads(threads, |thread| passes(&shares[thread], 0.0, 3.0 * seconds_max))?;
        let (counts, took) =
            on_threads(threads, |thread| passes(&shares[thread], SECONDS_MIN, seconds_max))?;
        let memory_bytes = gauge.end();
        engine.close()?;
        let measured = Measured::rate(counts.iter().sum(), took);
        Ok(measured.with("memory_bytes", memory_bytes as f64))
    }

    fn absent(&self, batch: usize) -> Fallible<Measured> {
        let Task { value_bytes, value_count, seconds_max, seed, .. } = *self.task;
        let from = ABSENT + (seed << 20);
        let absent = digests(value_bytes, from..from + value_count.min(ABSENT_MAX));
        let engine = self.open(false)?;
        let each = batch.max(LOOK_EVERY);
        let passes = |seconds_min: f64| -> Fallible<u64> {
            let (mut count, watch) = (0, Watch::new(seconds_max));
            let enough = Watch::new(seconds_min);
            loop {
                for some in absent.chunks(each) {
                    let found = if batch == 1 {
                        some.iter().try_fold(0, |found, digest| -> Fallible<usize> {
                            Ok(found + usize::from(engine.contains(digest)?))
                        })?
                    } else {
                        engine.contains_many(some)?
                    };
                    same("absent values found", found as u64, 0)?;
                    count += some.len() as u64;
                    if watch.is_over() {
                        return Ok(count);
                    }
                }
                if enough.is_over() {
                    return Ok(count);
                }
            }
        };
        passes(0.0)?;
        let begun = monotonic();
        let count = passes(SECONDS_MIN)?;
        let took = monotonic() - begun;
        engine.close()?;
        Ok(Measured::rate(count, took))
    }

    fn get_cold(&self, batch: usize) -> Fallible<Measured> {
        let numbers = self.cold_numbers(batch);
        let asked = digests(self.task.value_bytes, numbers.into_iter());
        forget_tree(self.dir());
        let engine = self.open(false)?;
        let mut sink = Sink::new(self.task.value_bytes);
        let (mut latencies, mut count) = (Vec::with_capacity(asked.len()), 0);
        let (before, watch) = (io(), Watch::new(self.task.seconds_max));
        for some in asked.chunks(batch) {
            let begun = monotonic();
            let found = match some {
                [digest] => usize::from(engine.get(digest, &mut sink)?),
                many => engine.get_many(many, &mut sink)?,
            };
            latencies.push(monotonic() - begun);
            same("values found", found as u64, some.len() as u64)?;
            count += found as u64;
            if watch.is_over() {
                break;
            }
        }
        let took = watch.elapsed();
        let read_bytes = io().device_read_bytes - before.device_read_bytes;
        sink.finish()?;
        engine.close()?;
        let measured = Measured::rate(count, took)
            .with_latencies(latencies)
            .with("read_bytes", read_bytes as f64 / count as f64);
        Ok(self.short_of(measured, count, asked.len() as u64))
    }

    fn reopen(&self) -> Fallible<Measured> {
        let Task { value_bytes, value_count, seed, .. } = *self.task;
        let mut state = seed;
        let asked = digests(value_bytes, std::iter::once(next(&mut state) % value_count));
        forget_tree(self.dir());
        let gauge = MemoryGauge::begin();
        let mut sink = Sink::new(value_bytes);
        let begun = monotonic();
        let engine = self.open(false)?;
        let found = engine.get(&asked[0], &mut sink)?;
        let took = monotonic() - begun;
        let memory_bytes = gauge.end();
        same("values found", u64::from(found), 1)?;
        sink.finish()?;
        engine.close()?;
        let measured = Measured::default().with("ms", took.as_secs_f64() * 1e3);
        Ok(measured.with("memory_bytes", memory_bytes as f64))
    }

    fn mixed(&self) -> Fallible<Measured> {
        let Task { value_bytes, value_count, threads, seconds_max, seed, .. } = *self.task;
        let digests = digests(value_bytes, 0..value_count);
        let engine = self.open(false)?;
        let seconds = seconds_max.min(10.0);
        let (done, took) = on_threads(threads, |thread| {
            let mut pool = pool(value_bytes);
            let mut sink = Sink::new(value_bytes);
            let mut state = seed << 8 | thread as u64;
            let (mut gets, mut commits) = (Vec::new(), Vec::new());
            let first = self.committed_from(thread);
            let watch = Watch::new(seconds);
            while !watch.is_over() {
                let random = next(&mut state);
                let begun = monotonic();
                if random.is_multiple_of(MIXED_SHARE) {
                    let number = first + commits.len() as u64;
                    engine.commit(pool.stamp(number), &name(number % COMMIT_NAMES))?;
                    commits.push(monotonic() - begun);
                } else {
                    let at = usize::try_from((random >> 8) % value_count)?;
                    same("values found", engine.get(&digests[at], &mut sink)?.into(), 1)?;
                    gets.push(monotonic() - begun);
                }
            }
            sink.finish()?;
            Ok((gets, commits))
        })?;
        engine.close()?;
        let (gets, commits): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        let (gets, commits) = (gets.concat(), commits.concat());
        let measured = Measured::rate((gets.len() + commits.len()) as u64, took);
        let commits = Measured::default().with_latencies(commits);
        let commit_us = commits.figures.get("p50_us").copied().unwrap_or_default();
        Ok(measured.with_latencies(gets).with("commit_p50_us", commit_us))
    }

    /// Numbers of values that only this thread commits, in this round.
    fn committed_from(&self, thread: usize) -> u64 {
        COMMITTED + (self.task.seed << 36) + ((thread as u64) << 28)
    }

    fn commit(&self) -> Fallible<Measured> {
        let Task { value_bytes, threads, seconds_max, .. } = *self.task;
        let engine = self.open(false)?;
        // The first makes what a store has but once.
        engine.commit(&vec![7; value_bytes], "first")?;
        let seconds = seconds_max.min(10.0);
        let (latencies, took) = on_threads(threads, |thread| {
            let mut pool = pool(value_bytes);
            let names: Vec<String> =
                (0..COMMIT_NAMES).map(|at| name((thread as u64) << 32 | at)).collect();
            let first = self.committed_from(thread);
            let mut latencies = Vec::new();
            let watch = Watch::new(seconds);
            for (number, name) in (first..).zip(names.iter().cycle()) {
                let begun = monotonic();
                engine.commit(pool.stamp(number), name)?;
                latencies.push(monotonic() - begun);
                if watch.is_over() {
                    break;
                }
            }
            Ok(latencies)
        })?;
        engine.close()?;
        let latencies = latencies.concat();
        Ok(Measured::rate(latencies.len() as u64, took).with_latencies(latencies))
    }

    fn compare_and_set(&self) -> Fallible<Measured> {
        let Task { value_bytes, seconds_max, .. } = *self.task;
        let engine = self.open(false)?;
        let mut pool = pool(value_bytes);
        let both = digests(value_bytes, 0..2);
        engine.commit(pool.stamp(1), "other")?;
        engine.commit(pool.stamp(0), "head")?;
        let mut latencies = Vec::new();
        let watch = Watch::new(seconds_max.min(10.0));
        let mut at = 0;
        while !watch.is_over() {
            let begun = monotonic();
            let moved = engine.compare_and_set("head", &both[at], &both[1 - at])?;
            latencies.push(monotonic() - begun);
            same("names moved", moved.into(), 1)?;
            at = 1 - at;
        }
        let took = watch.elapsed();
        // The name has moved: what it no longer points at is refused.
        let stale = engine.compare_and_set("head", &both[1 - at], &both[at])?;
        same("names moved from where they were not", stale.into(), 0)?;
        engine.close()?;
        Ok(Measured::rate(latencies.len() as u64, took).with_latencies(latencies))
    }

    fn names(&self) -> Fallible<Measured> {
        let names: Vec<String> = (0..NAME_COUNT).map(name).collect();
        let engine = self.open(false)?;
        engine.commit(pool(self.task.value_bytes).stamp(0), &names[0])?;
        let digest = digests(self.task.value_bytes, 0..1)[0];
        let begun = monotonic();
        engine.set_names(&names, &digest)?;
        let took = monotonic() - begun;
        engine.close()?;
        Ok(Measured::rate(NAME_COUNT, took))
    }

    fn pointer(&self) -> Fallible<Measured> {
        let numbers = shuffled(POINTER_NAMES, self.task.seed);
        let names: Vec<String> = numbers.into_iter().map(name).collect();
        let digest = digests(self.task.value_bytes, 0..1)[0];
        let engine = self.open(false)?;
        let pass = || -> Fallible<()> {
            for name in &names {
                if engine.pointer(name)? != Some(digest) {
                    return Err(format!("{name} is not where it was").into());
                }
            }
            Ok(())
        };
        pass()?;
        let (mut count, watch) = (0, Watch::new(SECONDS_MIN.min(self.task.seconds_max)));
        while !watch.is_over() {
            pass()?;
            count += POINTER_NAMES;
        }
        let took = watch.elapsed();
        engine.close()?;
        Ok(Measured::rate(count, took))
    }

    fn scan(&self) -> Fallible<Measured> {
        let engine = self.open(false)?;
        let pass = || same("names found", engine.scan("service/")?, NAME_COUNT);
        pass()?;
        let (mut count, watch) = (0, Watch::new(SECONDS_MIN.min(self.task.seconds_max)));
        while !watch.is_over() {
            pass()?;
            count += NAME_COUNT;
        }
        let took = watch.elapsed();
        engine.close()?;
        Ok(Measured::rate(count, took))
    }
}

/// Fails the cell if two counts differ.
fn same(what: &str, found: u64, expected: u64) -> Fallible<()> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found}, where {expected} were expected").into())
    }
}
