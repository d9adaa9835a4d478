//! How often one table was asked, and what that cost: counts of each table of either kind, which its
//! owner adds up by level.
//!
//! - P1: counts only rise. Figures taken while others look something up may be of different moments.

use pinstone_disk::env::{AtomicU64, Ordering, Striped};

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

/// The counts behind the figures: few threads' in each place, for there may be many tables.
pub(crate) type Probes = Striped<Counts, 4>;

/// A thread's.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Look-ups in units, and those that a filter spared: one count for each look-up.
    pub(crate) searched: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) found: AtomicU64,
    pub(crate) unit_reads: AtomicU64,
}

/// What they come to.
pub(crate) fn figures(probes: &Probes) -> ProbeFigures {
    let sum = |count: fn(&Counts) -> &AtomicU64| sum(probes.all().map(count));
    let filtered = sum(|counts| &counts.filtered);
    ProbeFigures {
        asked: sum(|counts| &counts.searched) + filtered,
        filtered,
        found: sum(|counts| &counts.found),
        unit_reads: sum(|counts| &counts.unit_reads),
    }
}

/// What threads have counted.
pub(crate) fn sum<'a>(counts: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    counts.map(|count| count.load(Ordering::Relaxed)).sum()
}

/// One more.
pub(crate) fn count(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
