//! Mistakes on purpose, to prove that the harnesses see: compiled in by the feature
//! `planted-bugs` alone, chosen at run time by `PINSTONE_PLANTED_BUG` or `plant`.

/// A mistake that some harness must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The blob log is not synced before a commit is acknowledged.
    BlobSyncSkipped = 1,
    /// The pointer log is not synced before a commit is acknowledged.
    PointerSyncSkipped = 2,
    /// A commit is acknowledged and published before its sync.
    AckBeforeSync = 3,
    /// The rest of a short write is not written.
    ShortWriteIgnored = 4,
    /// Damage in the middle of a log is taken for a torn tail.
    TornRuleDropped = 5,
    /// The directory is not synced after a segment is created.
    DirSyncSkipped = 6,
    /// A sync that is already in flight is taken for ours.
    JoinSyncInFlight = 7,
    /// Recovery goes on appending to the file it found instead of a synced copy.
    TailNotCopied = 8,
    /// A record whose dependency is unmet is replayed all the same.
    DependencyIgnored = 9,
    /// A failed sync is tried again instead of ending writing.
    SyncRetried = 10,
    /// A commit is acknowledged and published before its frame is written.
    AckBeforeWrite = 11,
    /// The directory is not synced before the root names tables.
    TableNamesNotSynced = 12,
    /// Segments of the pointer log are removed before the root says that tables hold what they held.
    RetiredTooEarly = 13,
    /// A flush says that a segment more stands in tables than does.
    FlushedTooFar = 14,
    /// What a truncated key leads to is taken for the value that is asked for.
    TruncatedKeyBelieved = 15,
    /// A replaced table's file is removed while somebody reads it.
    TableRemovedAtOnce = 16,
    /// Recovery does not lay what the pointer log carries of the blob log.
    CarriedNotLaid = 17,
    /// A segment of the pointer log is sealed before the blob log has what it carries.
    CarriedNotSynced = 18,
}

/// All of them, with the names that `PINSTONE_PLANTED_BUG` takes.
pub const BUGS: [(&str, Bug); 18] = [
    ("blob-sync-skipped", Bug::BlobSyncSkipped),
    ("pointer-sync-skipped", Bug::PointerSyncSkipped),
    ("ack-before-sync", Bug::AckBeforeSync),
    ("short-write-ignored", Bug::ShortWriteIgnored),
    ("torn-rule-dropped", Bug::TornRuleDropped),
    ("dir-sync-skipped", Bug::DirSyncSkipped),
    ("join-sync-in-flight", Bug::JoinSyncInFlight),
    ("tail-not-copied", Bug::TailNotCopied),
    ("dependency-ignored", Bug::DependencyIgnored),
    ("sync-retried", Bug::SyncRetried),
    ("ack-before-write", Bug::AckBeforeWrite),
    ("table-names-not-synced", Bug::TableNamesNotSynced),
    ("retired-too-early", Bug::RetiredTooEarly),
    ("flushed-too-far", Bug::FlushedTooFar),
    ("truncated-key-believed", Bug::TruncatedKeyBelieved),
    ("table-removed-at-once", Bug::TableRemovedAtOnce),
    ("carried-not-laid", Bug::CarriedNotLaid),
    ("carried-not-synced", Bug::CarriedNotSynced),
];

#[cfg(not(feature = "planted-bugs"))]
mod chosen {
    /// Never: this build has no planted bugs.
    #[inline(always)]
    pub fn is(_bug: super::Bug) -> bool {
        false
    }
}

#[cfg(feature = "planted-bugs")]
#[expect(clippy::disallowed_types, reason = "which bug is planted is no part of what is explored")]
mod chosen {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::{BUGS, Bug};

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants one bug for the whole process, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }

    /// Whether `bug` is the one planted.
    ///
    /// # Panics
    /// If the environment names a bug that is none.
    pub fn is(bug: Bug) -> bool {
        static FROM_ENVIRONMENT: OnceLock<()> = OnceLock::new();
        FROM_ENVIRONMENT.get_or_init(|| {
            if let Ok(name) = std::env::var("PINSTONE_PLANTED_BUG") {
                let found = BUGS.iter().find(|(known, _)| *known == name);
                plant(Some(found.expect("PINSTONE_PLANTED_BUG names a known bug").1));
            }
        });
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }
}

pub use chosen::is;
#[cfg(feature = "planted-bugs")]
pub use chosen::plant;
