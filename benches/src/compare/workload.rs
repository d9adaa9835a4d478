//! What is measured: the workloads, the floors, and which of a cell's figures the table shows.
//!
//! A *cell* is one workload with one engine, one length of values and one count of threads.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::asked::Asked;

/// Bytes of the values that are committed and named.
pub(crate) const COMMIT_VALUE_BYTES: usize = 1 << 10;

/// Values that are asked for at once.
pub(crate) const BATCH_VALUES: usize = 64;

/// Names of a store that is asked for names.
pub(crate) const NAME_COUNT: u64 = 100_000;

/// Those of them that are asked for one by one.
pub(crate) const POINTER_NAMES: u64 = 16_000;

/// What an engine is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Puts of new values, synced at the end.
    Load,
    /// Puts of known values, after a pass of the same.
    ReputWarm,
    /// Puts of known values, random ones, nothing cached.
    ReputCold,
    /// Gets in random order, after a pass of the same.
    GetWarm,
    /// Gets of 64 values at once, after a pass of the same.
    BatchWarm,
    /// Whether values are there that are not.
    Absent,
    /// The same, 64 at once.
    AbsentBatch,
    /// Gets of random values, nothing cached.
    GetCold,
    /// Gets of 64 random values at once, nothing cached.
    BatchCold,
    /// Opening after a close, and the first get, nothing cached.
    Reopen,
    /// 95 % gets and 5 % durable commits, by two threads.
    Mixed,
    /// Durable commits of a new value and a pointer.
    Commit,
    /// Durable compare-and-set of one name.
    CompareAndSet,
    /// 100,000 names set, 1,000 at a time, durable at the end.
    Names,
    /// Pointers of random names, of 16,000.
    Pointer,
    /// All names with a prefix, of 100,000.
    Scan,
    /// What no engine can do without: BLAKE3, copies, plain files, the device.
    Floors,
}

/// The least that has to be done for a workload, without any engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FloorKind {
    /// BLAKE3 of the values.
    Hash,
    /// BLAKE3, and appending them 1 MiB at a time, synced at the end.
    HashAppend,
    /// BLAKE3, and a look-up in a hash map.
    HashProbe,
    /// Copies of the values in memory.
    Copy,
    /// A look-up in a hash map and a `pread`.
    MapRead,
    /// `pwrite` and `fdatasync` in a file of reserved space.
    WriteSync,
    /// The same in a file that was written before.
    WrittenSync,
    /// Random reads of a cold file past the page cache, by fio.
    Device,
}

/// A workload or a floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Of an engine.
    Engine(Workload),
    /// Of none.
    Floor(FloorKind),
}

/// The store that a workload runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// The one that its load left, shared by the workloads of one length of values.
    Loaded,
    /// One with 100,000 names, shared by the workloads of names.
    Named,
    /// One of its own, with nothing in it.
    Empty,
}

impl Workload {
    /// The store it runs on.
    pub(crate) fn ground(self) -> Ground {
        match self {
            Self::Commit | Self::CompareAndSet => Ground::Empty,
            Self::Names | Self::Pointer | Self::Scan => Ground::Named,
            _ => Ground::Loaded,
        }
    }

    /// Each with so many threads; for floors of the device, so many reads in flight.
    pub(crate) fn threads(self) -> &'static [usize] {
        match self {
            Self::GetWarm => &[1, 2],
            Self::Commit => &[1, 4, 16, 64],
            Self::Mixed => &[2],
            _ => &[1],
        }
    }

    /// Times that the cell runs in one round: those that measure once in a process.
    pub(crate) fn repeats(self) -> usize {
        if self == Self::Reopen { 5 } else { 1 }
    }

    /// What stands beside it in the table, with as many threads.
    pub(crate) fn floor(self, threads: usize) -> Option<(FloorKind, usize)> {
        match self {
            Self::Load => Some((FloorKind::HashAppend, 1)),
            Self::ReputWarm => Some((FloorKind::HashProbe, 1)),
            Self::GetWarm => Some((FloorKind::MapRead, threads)),
            Self::BatchWarm => Some((FloorKind::MapRead, 1)),
            Self::GetCold => Some((FloorKind::Device, 1)),
            Self::BatchCold => Some((FloorKind::Device, BATCH_VALUES)),
            Self::Commit if threads == 1 => Some((FloorKind::WriteSync, 1)),
            _ => None,
        }
    }

    /// As options and tables call it.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl FloorKind {
    /// As tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hash => "BLAKE3",
            Self::HashAppend => "BLAKE3 and append",
            Self::HashProbe => "BLAKE3 and hash map",
            Self::Copy => "memcpy",
            Self::MapRead => "hash map and pread",
            Self::WriteSync => "pwrite and fdatasync, reserved",
            Self::WrittenSync => "pwrite and fdatasync, written",
            Self::Device => "fio, random reads, direct",
        }
    }

    /// Each of these counts of threads, or of reads in flight.
    pub(crate) fn threads(self) -> &'static [usize] {
        match self {
            Self::MapRead => &[1, 2],
            Self::Device => &[1, BATCH_VALUES],
            _ => &[1],
        }
    }

    /// Those that belong to reads and loads, and to commits.
    pub(crate) const OF_VALUES: [Self; 6] =
        [Self::Hash, Self::HashAppend, Self::HashProbe, Self::Copy, Self::MapRead, Self::Device];
    /// Those of commits.
    pub(crate) const OF_COMMITS: [Self; 2] = [Self::WriteSync, Self::WrittenSync];
}

/// A cell, as its process is told of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Whose; of no engine if it is a floor.
    pub(crate) engine: String,
    /// What it does.
    pub(crate) work: Work,
    /// By how many threads.
    pub(crate) threads: usize,
    /// Bytes of each value.
    pub(crate) value_bytes: usize,
    /// Values that are to be loaded, or were.
    pub(crate) value_count: u64,
    /// Where its store, or its file, stands.
    pub(crate) dir: PathBuf,
    /// Bytes for caches and buffers.
    pub(crate) memory_bytes: usize,
    /// Seconds that it measures for, at most; a load takes [`LOAD_PATIENCE`] times as long.
    pub(crate) seconds_max: f64,
    /// Differs from round to round.
    pub(crate) seed: u64,
}

/// How much longer a load may take than another cell.
pub(crate) const LOAD_PATIENCE: f64 = 6.0;

/// Cells that share the stores of one length of values, in order.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// Bytes of each value.
    pub(crate) value_bytes: usize,
    /// How many there are.
    pub(crate) value_count: u64,
    /// In the order they run.
    pub(crate) workloads: Vec<Workload>,
    /// In the order they run, before the workloads.
    pub(crate) floors: Vec<FloorKind>,
}

/// What is to be run, in order.
pub(crate) fn plan(asked: &Asked) -> Vec<Stage> {
    let sizes = asked.sizes();
    let is_wanted = |workload: Workload| asked.only.is_empty() || asked.only.contains(&workload);
    let floors_wanted = is_wanted(Workload::Floors);
    let of = |value_bytes: usize, grounds: &[Ground], floors: &[FloorKind]| {
        let all = Workload::value_variants().iter().copied();
        let mut workloads: Vec<Workload> = all
            .filter(|workload| *workload != Workload::Floors)
            .filter(|workload| is_wanted(*workload) && grounds.contains(&workload.ground()))
            .filter(|workload| asked.runs(*workload, value_bytes))
            .collect();
        // What others read has to be there.
        for (ground, first) in [(Ground::Loaded, Workload::Load), (Ground::Named, Workload::Names)]
        {
            let needed = workloads.iter().any(|workload| workload.ground() == ground);
            if needed && !workloads.contains(&first) {
                workloads.insert(0, first);
            }
        }
        let floors = if floors_wanted { floors.to_vec() } else { Vec::new() };
        let value_count = asked.value_count(value_bytes);
        Stage { value_bytes, value_count, workloads, floors }
    };
    let mut stages: Vec<Stage> = sizes
        .iter()
        .map(|value_bytes| of(*value_bytes, &[Ground::Loaded], &FloorKind::OF_VALUES))
        .collect();
    let others = [Ground::Empty, Ground::Named];
    stages.push(of(COMMIT_VALUE_BYTES, &others, &FloorKind::OF_COMMITS));
    stages.retain(|stage| !stage.workloads.is_empty() || !stage.floors.is_empty());
    stages
}
