//! The present commit, and the commits that are pinned.
//!
//! - N4: a pin is of the present commit, and is taken under the lock under which versions are dropped
//!   and the present goes on. So no version is dropped that a pin sees.

use std::collections::BTreeMap;

use pinstone_disk::CommitId;
use pinstone_disk::env::{AtomicU64, Mutex, Ordering};

/// Which commits are pinned, and how often.
pub(super) type Pins = BTreeMap<CommitId, u64>;

/// The present, and what is pinned.
#[derive(Debug)]
pub(super) struct Pinned {
    /// Changed under the lock of the pins.
    last_commit: AtomicU64,
    pins: Mutex<Pins>,
}

impl Pinned {
    pub(super) fn new(last_commit: CommitId) -> Self {
        Self { last_commit: AtomicU64::new(last_commit.0), pins: Mutex::new(Pins::new()) }
    }

    pub(super) fn last_commit(&self) -> CommitId {
        CommitId(self.last_commit.load(Ordering::Acquire))
    }

    /// Makes `commit` the present one once `apply` has applied it. Nothing is pinned meanwhile.
    pub(super) fn go_on(&self, commit: CommitId, apply: impl FnOnce(&Pins)) {
        let pins = self.pins.lock();
        apply(&pins);
        self.last_commit.store(commit.0, Ordering::Release);
    }

    pub(super) fn pin(&self) -> CommitId {
        let mut pins = self.pins.lock();
        let commit = self.last_commit();
        *pins.entry(commit).or_default() += 1;
        commit
    }

    pub(super) fn unpin(&self, commit: CommitId) {
        let mut pins = self.pins.lock();
        let count = pins.get_mut(&commit).expect("a pin ends once");
        *count -= 1;
        if *count == 0 {
            pins.remove(&commit);
        }
    }

    /// The oldest commit that is pinned.
    pub(super) fn oldest(&self) -> Option<CommitId> {
        self.pins.lock().keys().next().copied()
    }

    /// The pinned commits, ascending.
    pub(super) fn views(&self) -> Vec<u64> {
        self.pins.lock().keys().map(|commit| commit.0).collect()
    }
}
