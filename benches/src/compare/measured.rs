//! What a cell finds: named figures, and how they are taken.
//!
//! The names: `rate` (operations a second), `p50_us`, `p99_us`, `p999_us` (latencies of single
//! operations), `ms` (once), `memory_bytes` (anonymous memory at most, above what there was before the
//! engine was opened), `written` and `kept` (bytes for a byte of values), `read_bytes` (from the
//! device, for an operation), `values` (how many a load has put).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

use pinstone_benches::process::anonymous_bytes;
use pinstone_disk::env::monotonic;
use serde::{Deserialize, Serialize};

use crate::engine::Fallible;

/// Figures by name, and what a reader should know of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// By name.
    pub(crate) figures: BTreeMap<String, f64>,
    /// Such as that time ran out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) note: Option<String>,
}

/// What the process of a cell tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It was measured.
    Measured(Measured),
    /// It failed.
    Failed(String),
}

impl Measured {
    /// Of so many operations in so much time.
    pub(crate) fn rate(operations: u64, took: Duration) -> Self {
        Self::default().with("rate", operations as f64 / took.as_secs_f64().max(1e-9))
    }

    /// One figure more.
    pub(crate) fn with(mut self, name: &str, figure: f64) -> Self {
        self.figures.insert(name.to_owned(), figure);
        self
    }

    /// Percentiles of the latencies.
    pub(crate) fn with_latencies(self, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let Some(last) = latencies.len().checked_sub(1) else { return self };
        let at = |thousandths: usize| latencies[last * thousandths / 1000].as_secs_f64() * 1e6;
        let (median, high, highest) = (at(500), at(990), at(999));
        self.with("p50_us", median).with("p99_us", high).with("p999_us", highest)
    }

    /// With something that a reader should know.
    pub(crate) fn noted(mut self, note: String) -> Self {
        self.note = Some(note);
        self
    }
}

/// Says when a cell has measured enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    begun: Duration,
    max: Duration,
}

impl Watch {
    /// From now on.
    pub(crate) fn new(seconds_max: f64) -> Self {
        Self { begun: monotonic(), max: Duration::from_secs_f64(seconds_max) }
    }

    /// Since it began.
    pub(crate) fn elapsed(&self) -> Duration {
        monotonic() - self.begun
    }

    /// Its time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.elapsed() >= self.max
    }
}

/// Runs `work` on so many threads at once, each told its number; what they return, and how long it
/// took from the moment that all were ready to the moment that the last was done.
pub(crate) fn on_threads<T: Send>(
    threads: usize,
    work: impl Fn(usize) -> Fallible<T> + Sync,
) -> Fallible<(Vec<T>, Duration)> {
    let ready = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads)
            .map(|thread| {
                let (ready, work) = (&ready, &work);
                scope.spawn(move || {
                    ready.wait();
                    work(thread)
                })
            })
            .collect();
        ready.wait();
        let begun = monotonic();
        let mut results = Vec::with_capacity(threads);
        for thread in spawned {
            results.push(thread.join().map_err(|_| "a thread panicked")?);
        }
        let took = monotonic() - begun;
        Ok((results.into_iter().collect::<Fallible<Vec<T>>>()?, took))
    })
}

/// Samples this process' anonymous memory, 50 times a second.
pub(crate) struct MemoryGauge {
    base_bytes: u64,
    most: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    sampler: JoinHandle<()>,
}

impl MemoryGauge {
    /// What there is now is not counted.
    pub(crate) fn begin() -> Self {
        let base_bytes = anonymous_bytes();
        let most = Arc::new(AtomicU64::new(base_bytes));
        let done = Arc::new(AtomicBool::new(false));
        let (its_most, its_done) = (Arc::clone(&most), Arc::clone(&done));
        let sampler = std::thread::spawn(move || {
            while !its_done.load(Ordering::Relaxed) {
                its_most.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { base_bytes, most, done, sampler }
    }

    /// The most that was found above what there was.
    pub(crate) fn end(self) -> u64 {
        self.most.fetch_max(anonymous_bytes(), Ordering::Relaxed);
        self.done.store(true, Ordering::Relaxed);
        // It only reads; that it is gone is not waited for in vain.
        self.sampler.join().ok();
        self.most.load(Ordering::Relaxed).saturating_sub(self.base_bytes)
    }
}
