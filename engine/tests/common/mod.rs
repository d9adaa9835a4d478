//! What the harnesses share.
//!
//! - `model`: what a store must hold, in plain maps, judging every reply and every recovery.
//! - `script`: workloads as data, and the one runner that plays them against store and model.
//! - `crash`: crashes a workload at each disk operation, and its recovery again.
//! - `faults`: makes each disk operation of a workload fail.
//! - `replay`: hunts, violations, and the lines that replay them.
//! - `damage`: changes the bytes of a store at rest.
//! - `meddling`: a disk on which something else happens just before a write.
//! - `race`: threads on one store, and the check that their history is linearizable.
//! - `process`: what the system says of the process.
//! - `small`: small values that commits carry, on a simulated disk.
//! - `pool`: spreads independent cases over the machine's threads.
//!
//! Nothing here looks inside the engine: only its public interface, and the simulated disk.

#![allow(dead_code, unreachable_pub, reason = "each test binary takes what it needs")]

pub mod crash;
pub mod damage;
pub mod faults;
pub mod meddling;
pub mod model;
pub mod pool;
pub mod process;
pub mod race;
pub mod replay;
pub mod script;
pub mod small;

/// Options of a store with segments, memtables and tables so small that a few values make much of
/// each.
pub fn tiny_tables() -> pinstone::StoreBuilder {
    pinstone::Store::builder()
        .segment_bytes(4 << 10)
        .pointer_segment_bytes(4 << 10)
        .append_buffer_bytes(1 << 10)
        .reserve_bytes(32 << 10)
        .memtable_entries_max(1)
        .level0_tables(1)
        .level_ratio(2)
        .table_bytes(4 << 10)
}

/// Options of a store with tables of a few blocks, and memtables of a few of those.
pub fn small_tables() -> pinstone::StoreBuilder {
    pinstone::Store::builder()
        .segment_bytes(16 << 10)
        .pointer_segment_bytes(8 << 10)
        .append_buffer_bytes(1 << 10)
        .reserve_bytes(1 << 20)
        .memtable_entries_max(20)
        .level0_tables(2)
        .level_ratio(2)
        .table_bytes(4 << 10)
        .maintenance(pinstone::Maintenance::Inline)
}

/// A fact that holds, or what was seen instead.
pub type Verdict<T = ()> = Result<T, String>;

/// Ends the function with a violation unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// How much more than usual is asked for: `PINSTONE_CRASH_BUDGET`, 1 if unset.
pub fn budget() -> u64 {
    match std::env::var("PINSTONE_CRASH_BUDGET") {
        Ok(text) => text.parse().expect("PINSTONE_CRASH_BUDGET is a whole number"),
        Err(_) => 1,
    }
}

/// Says what a harness tried, on the stream itself: what is printed by the macros is kept by the test
/// runner, and shown for a failure alone.
pub fn say(text: impl std::fmt::Display) {
    use std::io::Write as _;
    // Without anyone to read it, the test is worth the same.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A well-mixed number from a few others: for choices that repeat from run to run.
pub fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A sequence of numbers that repeats from run to run.
#[derive(Clone, Debug)]
pub struct Dice {
    seed: u64,
    rolls: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self { seed, rolls: 0 }
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.rolls += 1;
        let roll = mix(&[self.seed, self.rolls]) % bound as u64;
        usize::try_from(roll).expect("it is below a usize")
    }

    /// True once in `count` times.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn one_of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Runs a case; a panic is a violation like any other.
pub fn caught<T>(run: impl FnOnce() -> Verdict<T>) -> Verdict<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without a message")))
    })
}

/// An error and all that lies behind it, on one line.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
