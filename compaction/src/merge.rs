//! Merging sorted runs, and dropping what nobody sees. No I/O.

use std::cmp::Ordering;

use bytes::Bytes;
use pinstone_disk::Digest;

/// One version of a name: what a commit made it point at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameEntry {
    /// The name.
    pub name: Bytes,
    /// The number of the commit.
    pub commit: u64,
    /// What the name points at from that commit on; `None` if the commit deleted it.
    pub to: Option<Digest>,
}

impl Ord for NameEntry {
    /// Names ascending, the newest version of each first. What is pointed at comes last, so that
    /// only equal entries compare equal; no two commits share a number.
    fn cmp(&self, other: &Self) -> Ordering {
        let names = self.name.cmp(&other.name);
        names.then(other.commit.cmp(&self.commit)).then_with(|| self.to.cmp(&other.to))
    }
}

impl PartialOrd for NameEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
