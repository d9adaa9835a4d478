//! How often one table was asked, and what that cost: counts of each table of either kind, which its
//! owner adds up by level.
//!
//! - P1: counts only rise. Figures taken while others look something up may be of different moments.

use pinstone_disk::env::{AtomicU64, Ordering};

/// How often a table was asked since it was opened, and what its filters spared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeFigures {
    /// Look-ups that came to this table: of an index key, or of a name.
    pub asked: u64,
    /// Of these, spared by a filter.
    pub filtered: u64,
    /// Of these, that found a row, or a version.
    pub found: u64,
    /// Units read from the device because they were not in the cache, by look-ups and cursors.
    pub unit_reads: u64,
}

/// The counts behind the figures.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    pub(crate) asked: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) found: AtomicU64,
    pub(crate) unit_reads: AtomicU64,
}

impl Probes {
    pub(crate) fn figures(&self) -> ProbeFigures {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ProbeFigures {
            asked: load(&self.asked),
            filtered: load(&self.filtered),
            found: load(&self.found),
            unit_reads: load(&self.unit_reads),
        }
    }
}

/// One more.
pub(crate) fn count(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
