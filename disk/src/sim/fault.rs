//! What can go wrong: faults of operations, which operations they meet, and the error of a machine
//! that has crashed.

use std::io;
use std::ops::Range;

use rustix::io::Errno;

use crate::error::Operation;
use crate::file_name::{FileName, TableKind};

/// What can go wrong with one operation, short of a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Any operation: it does nothing and fails. After a sync that failed so, the bytes are still
    /// to be synced.
    Eio,
    /// Creations, writes and allocations: no space, nothing done.
    Enospc,
    /// Opens, creations, locks and lists: too many open files.
    Emfile,
    /// Reads: nothing done, for want of memory.
    Enomem,
    /// Writes of more than one byte: a part is written.
    ShortWrite,
    /// Reads of more than one byte: a part is read.
    ShortRead,
    /// Reads, writes and syncs: nothing done, to be tried again. Never twice running, so that
    /// whoever retries comes to an end.
    Interrupted,
    /// Syncs of files: fails, and calls the unsynced bytes clean. Reads see them, later syncs
    /// succeed without writing them, a crash or [`SimDisk::drop_caches`](super::SimDisk::drop_caches) loses them.
    SyncFailsThenClean,
    /// As [`Self::SyncFailsThenClean`], for lack of space found only when space was allotted.
    SyncEnospc,
}

impl Fault {
    pub(super) fn applies_to(self, operation: Operation) -> bool {
        use Operation as O;
        match self {
            Self::Eio => true,
            Self::Enospc => matches!(operation, O::Create | O::Write | O::Allocate),
            Self::Emfile => matches!(operation, O::Open | O::Create | O::Lock | O::List),
            Self::ShortWrite => operation == O::Write,
            Self::Enomem | Self::ShortRead => operation == O::Read,
            Self::Interrupted => matches!(operation, O::Read | O::Write | O::Sync),
            Self::SyncFailsThenClean | Self::SyncEnospc => operation == O::Sync,
        }
    }

    pub(super) fn errno(self) -> Errno {
        match self {
            Self::Eio | Self::SyncFailsThenClean => Errno::IO,
            Self::Enospc | Self::SyncEnospc => Errno::NOSPC,
            Self::Emfile => Errno::MFILE,
            Self::Enomem => Errno::NOMEM,
            Self::ShortWrite | Self::ShortRead | Self::Interrupted => Errno::INTR,
        }
    }
}

/// Which operations a fault meets: those of a kind, on a file, from the n-th such on.
///
/// ```
/// use pinstone_disk::{Operation, sim::Filter};
/// let third_sync = Filter::any().operation(Operation::Sync).nth(3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    pub(super) operation: Option<Operation>,
    pub(super) file: Option<FileName>,
    pub(super) tables: Option<TableKind>,
    pub(super) bytes: Option<(u64, u64)>,
    pub(super) nth: u64,
    pub(super) last: u64,
}

impl Filter {
    /// All operations.
    pub fn any() -> Self {
        Self { operation: None, file: None, tables: None, bytes: None, nth: 1, last: u64::MAX }
    }

    /// Only those of this kind.
    #[must_use]
    pub fn operation(self, operation: Operation) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Only those on this file; a rename is one on the old name.
    #[must_use]
    pub fn file(self, file: FileName) -> Self {
        Self { file: Some(file), ..self }
    }

    /// Only those on the tables of this tree.
    #[must_use]
    pub fn tables(self, tree: TableKind) -> Self {
        Self { tables: Some(tree), ..self }
    }

    /// Only those on any of these bytes of a file: reads, writes and what sets its length.
    #[must_use]
    pub fn bytes(self, bytes: Range<u64>) -> Self {
        Self { bytes: Some((bytes.start, bytes.end)), ..self }
    }

    /// Only the n-th such from now, counted from 1.
    #[must_use]
    pub fn nth(self, nth: u64) -> Self {
        Self { nth, last: nth, ..self }
    }

    /// Only the n-th such from now and all after it.
    #[must_use]
    pub fn from_nth(self, nth: u64) -> Self {
        Self { nth, last: u64::MAX, ..self }
    }
}

/// The error of an operation on a crashed [`SimDisk`](super::SimDisk).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulated machine has crashed")]
pub struct Crashed;

/// Whether `error` comes from a crashed [`SimDisk`](super::SimDisk).
pub fn is_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Crashed>())
}
