//! What the command line asks for.

use std::path::PathBuf;

use clap::Parser;

use crate::peers::Peer;
use crate::workload::Workload;

/// Lengths of values when nothing else is asked for.
const SIZES: [usize; 5] = [100, 1 << 10, 4 << 10, 64 << 10, 1 << 20];

/// The same work on Pinstone and on other engines, side by side, each cell in a process of its own.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Asked {
    /// Where the stores stand; the build's target directory otherwise. Not in memory
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Lengths of values: bytes, or with KiB or MiB
    #[arg(long, value_delimiter = ',', value_parser = bytes, value_name = "BYTES,...")]
    sizes: Vec<usize>,
    /// Workloads, all otherwise; what they read is loaded first
    #[arg(long, value_delimiter = ',', value_enum, value_name = "WORKLOAD,...")]
    pub(crate) only: Vec<Workload>,
    /// Engines beside Pinstone, all that were built in otherwise
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    peers: Vec<String>,
    /// Times that everything is run; the table has the medians
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) rounds: u64,
    /// Values of a load at most, in GiB
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
    /// Values of a load at most: a million, or 100,000 with --quick
    #[arg(long, value_parser = clap::value_parser!(u64).range(100..))]
    count: Option<u64>,
    /// Ten minutes at most: 1 KiB, and load and get of 4 KiB, with short cells
    #[arg(long)]
    quick: bool,
    /// Seconds that a cell measures for, at most: 20, or 2 with --quick; a load six times as many
    #[arg(long)]
    seconds: Option<f64>,
    /// Memory for every engine's caches and buffers
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    memory_mib: usize,
    /// Writes everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// One cell, as the program tells itself
    #[arg(long, hide = true)]
    pub(crate) cell: Option<String>,
}

impl Asked {
    /// Lengths of values that are loaded.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        match (self.sizes.is_empty(), self.quick) {
            (false, _) => self.sizes.clone(),
            (true, true) => vec![1 << 10, 4 << 10],
            (true, false) => SIZES.to_vec(),
        }
    }

    /// Whether a workload runs with values of this length: with `--quick` most run with 1 KiB only.
    pub(crate) fn runs(&self, workload: Workload, value_bytes: usize) -> bool {
        let short = matches!(workload, Workload::Load | Workload::GetWarm);
        !self.quick || !self.sizes.is_empty() || value_bytes == 1 << 10 || short
    }

    /// How many values of this length are loaded.
    pub(crate) fn value_count(&self, value_bytes: usize) -> u64 {
        let count = self.count.unwrap_or(if self.quick { 100_000 } else { 1_000_000 });
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a size")]
        let bytes = (self.gib * f64::from(1 << 30)) as u64;
        count.min(bytes / value_bytes as u64).max(100)
    }

    /// Seconds that a cell measures for, at most.
    pub(crate) fn seconds_max(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 2.0 } else { 20.0 }).max(0.1)
    }

    /// Bytes for caches and buffers.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_mib.max(16) << 20
    }

    /// The engines that run, ours first.
    pub(crate) fn engines(&self, all: Vec<Peer>) -> Result<Vec<Peer>, String> {
        for asked in &self.peers {
            match all.iter().find(|peer| peer.name == asked) {
                None => return Err(format!("there is no engine {asked}")),
                Some(peer) if peer.open.is_none() => {
                    return Err(format!("built without {asked}: add --features {asked}"));
                }
                Some(_) => {}
            }
        }
        let is_asked = |name: &str| {
            name == crate::peers::OURS
                || self.peers.is_empty()
                || self.peers.iter().any(|asked| asked == name)
        };
        Ok(all.into_iter().filter(|peer| peer.open.is_some() && is_asked(peer.name)).collect())
    }
}

/// A count of bytes, such as `100`, `64KiB` or `1MiB`.
fn bytes(text: &str) -> Result<usize, String> {
    let lower = text.trim().to_ascii_lowercase();
    let (number, shift) = match (lower.strip_suffix("kib"), lower.strip_suffix("mib")) {
        (Some(number), _) => (number, 10),
        (_, Some(number)) => (number, 20),
        _ => (lower.as_str(), 0),
    };
    let number: usize =
        number.trim().parse().map_err(|_| format!("{text} is no count of bytes"))?;
    let bytes = number << shift;
    if (64..=64 << 20).contains(&bytes) { Ok(bytes) } else { Err("from 64 bytes to 64 MiB".into()) }
}
