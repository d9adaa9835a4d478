//! An open store: what all handles to it share.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use pinstone_compaction::TableError;
use pinstone_disk::env::{Announced, AtomicBool, AtomicU64, Mutex, Ordering, Striped};
use pinstone_disk::{CommitId, Disk, Lock};
use pinstone_wal::{Appender, BlobLog, Closing, LogPosition, WalError, Writer, copy_bytes};

use crate::batch::Parts;
use crate::error::{Error, Result};
use crate::maintain;
use crate::options::Options;
use crate::state::carried::CarriedPlaces;
use crate::state::digest_index::DigestIndex;
use crate::state::pointers::PointerTable;
use crate::state::reserve::Reserve;
use crate::state::root::Root;
use crate::state::segments::Segments;
use crate::state::take_over::TakeOver;
use crate::state::trees::Trees;
use crate::stats::Recovery;

/// The parts of an open store.
///
/// Lock order, outermost first: `lock`, `letting_go`, the work on trees, `maintaining`, `pointer_log`, `growing`, the
/// blob log's for rounds, the reserve's, the blob log's for writing and appending, the root's. The
/// commit queue (and below it a gathering), the pointer table and the index are each locked alone and briefly.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) path: PathBuf,
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    /// What its logs share.
    pub(crate) writer: Writer,
    pub(crate) root: Root,
    pub(crate) reserve: Reserve,
    pub(crate) blob: BlobLog,
    pub(crate) index: DigestIndex,
    pub(crate) segments: Segments,
    pub(crate) pointers: PointerTable,
    pub(crate) trees: Trees,
    pub(crate) pointer_log: Mutex<PointerLog>,
    pub(crate) commits: Mutex<CommitQueue>,
    /// A segment of the pointer log became full since this was last looked at.
    pub(crate) pointer_due: AtomicBool,
    /// Held while a segment is added to the blob log, so that one is added, not one a thread. What must be done
    /// before anything is written, if it is yet to be done.
    pub(crate) growing: Mutex<Option<TakeOver>>,
    /// A full segment of the pointer log is yet to be sealed, or is being sealed.
    pub(crate) pointer_behind: AtomicBool,
    /// Held by who sees to it that the blob log has what a segment of the pointer log carries.
    pub(crate) letting_go: Mutex<()>,
    /// The last segment of the blob log with bytes that are bad and that nothing carries: unsealed, it would keep the
    /// store from opening. 0 if there is none.
    pub(crate) to_end: AtomicU64,
    /// Something may have been written since the store was opened.
    pub(crate) writing: AtomicBool,
    /// The next segment was asked for ahead of need, and there was no space for it.
    pub(crate) growth_refused: AtomicBool,
    /// Held during a step of maintenance.
    pub(crate) maintaining: Mutex<()>,
    pub(crate) signal: Arc<maintain::Signal>,
    /// Wakes the thread that flushes and compacts.
    pub(crate) compact_signal: Arc<maintain::Signal>,
    /// How far the root's last frame says that the logs are durable.
    pub(crate) told_blob: AtomicU64,
    pub(crate) told_pointer: AtomicU64,
    pub(crate) carried: CarriedPlaces,
    pub(crate) counters: Striped<Counts>,
    pub(crate) recovery: Recovery,
    /// Held while the store is being closed: that happens once.
    pub(crate) lock: Mutex<Access>,
}

/// Whether the directory is ours.
#[derive(Debug)]
pub(crate) enum Access {
    Locked(#[expect(dead_code, reason = "held, not used")] Box<dyn Lock>),
    /// The store is closed; why that failed, if it did.
    Closed {
        failure: Option<String>,
    },
}

/// The end of the pointer log: locked by the leader of a group of commits, and by maintenance.
#[derive(Debug)]
pub(crate) struct PointerLog {
    /// None until the first commit.
    pub(crate) appender: Option<Appender>,
    /// Full segments, to be sealed.
    pub(crate) closing: VecDeque<Closing>,
    /// Where the frames end of the segment that is being sealed, outside of `closing`.
    pub(crate) sealing: Option<LogPosition>,
    /// The store is being closed, or is: no commit is taken.
    pub(crate) closed: bool,
    /// The dependency of the last commit; never decreases.
    pub(crate) depends_upto: LogPosition,
}

impl PointerLog {
    /// A full segment is yet to be sealed, or is being sealed.
    pub(crate) fn is_behind(&self) -> bool {
        !self.closing.is_empty() || self.sealing.is_some()
    }

    /// Where the frames of each unsealed segment end.
    fn unsealed_ends(&self) -> impl Iterator<Item = LogPosition> {
        let closing = self.closing.iter().map(Closing::end);
        closing.chain(self.sealing).chain(self.appender.as_ref().map(Appender::end))
    }

    /// Bytes by which they are longer than they should be, because of commits that have one to
    /// themselves.
    pub(crate) fn oversize_bytes(&self, segment_bytes: u64) -> u64 {
        let ends = self.unsealed_ends();
        ends.map(|end| end.offset_bytes().saturating_sub(segment_bytes)).sum()
    }

    /// Bytes that copies of its unsealed segments take on a device, about, of those with anything
    /// beyond `told`.
    pub(crate) fn copies_bytes(&self, told: LogPosition) -> u64 {
        self.unsealed_ends().map(|end| copy_bytes(end, told)).sum()
    }
}

impl Inner {
    /// Sees to it that the store is taken over, and that recovery has the space to copy what is appended: before
    /// anything but a deletion is.
    pub(crate) fn begin_appending(&self) -> Result<()> {
        self.begin_writing()?;
        if !self.reserve.is_whole() {
            maintain::hold_reserve(self)?;
        }
        Ok(())
    }

    /// Sees to it that the store is taken over: before anything is written.
    pub(crate) fn begin_writing(&self) -> Result<()> {
        if !self.writing.load(Ordering::Acquire) {
            let mut growing = self.growing.lock();
            // Closing holds that lock, too: what it told the root stays the last word.
            self.writer.poison.check()?;
            if let Some(take_over) = &*growing {
                take_over.carry_out(&*self.disk, &self.root, &self.reserve)?;
                *growing = None;
            }
            self.root.begin_writing()?;
            self.writing.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// Commits that wait for a leader.
#[derive(Debug, Default)]
pub(crate) struct CommitQueue {
    pub(crate) waiting: VecDeque<Ticket>,
    pub(crate) leading: bool,
    /// Where the threads of those wait that join now, until the next group is taken.
    pub(crate) gathering: Arc<Announced<Gathering>>,
    /// So many have joined it.
    pub(crate) joined: usize,
}

/// One commit on its way.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) parts: Parts,
    /// The last of its values' positions in the blob log.
    pub(crate) depends: LogPosition,
    /// Where its thread waits.
    pub(crate) gathering: Arc<Announced<Gathering>>,
    /// Its number there.
    pub(crate) place: usize,
}

/// What the threads wait for whose commits joined the queue between two groups: mostly they are one group, and
/// are told at once.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    /// By place; taken by whom it is for.
    pub(crate) results: Vec<Option<Result<CommitId>>>,
    /// One of them is to lead the next group.
    pub(crate) lead: bool,
    /// The thread panicked that led: what is not answered will not be.
    pub(crate) panicked: bool,
}

/// What was done since the store was opened; [`crate::Counters`] says what each means.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) put: AtomicU64,
    pub(crate) put_known: AtomicU64,
    pub(crate) put_bytes: AtomicU64,
    pub(crate) get: AtomicU64,
    pub(crate) get_absent: AtomicU64,
    pub(crate) get_bytes: AtomicU64,
    pub(crate) commit: AtomicU64,
    pub(crate) commit_refused: AtomicU64,
    pub(crate) commit_group: AtomicU64,
    pub(crate) sealed: AtomicU64,
}

/// Counts; nothing is ordered by it.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Disk(source) => source.into(),
            TableError::Format(error) => error.into(),
            other => Self::Poisoned { cause: other.to_string() },
        }
    }
}

impl From<WalError> for Error {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Disk(source) => source.into(),
            WalError::Format(error) => error.into(),
            WalError::Poisoned { cause } => Self::Poisoned { cause },
            other => Self::Poisoned { cause: other.to_string() },
        }
    }
}
