//! The one error of this crate: which operation failed, on which file, where, and why.

use std::{fmt, io};

use rustix::io::Errno;

/// What was being done when the machine said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is the name of the operation")]
pub enum Operation {
    Open,
    Create,
    CreateDirectory,
    OpenDirectory,
    List,
    Lock,
    Length,
    SetLength,
    Allocate,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDirectory,
    ChooseEngine,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "opening",
            Self::Create => "creating",
            Self::CreateDirectory => "creating the directory",
            Self::OpenDirectory => "opening the directory",
            Self::List => "listing",
            Self::Lock => "locking",
            Self::Length => "measuring",
            Self::SetLength => "changing the length of",
            Self::Allocate => "reserving space for",
            Self::Read => "reading",
            Self::Write => "writing",
            Self::Sync => "syncing",
            Self::Rename => "renaming",
            Self::Remove => "removing",
            Self::SyncDirectory => "syncing the directory",
            Self::ChooseEngine => "choosing the I/O engine by",
        })
    }
}

/// A failed operation on a file or on the store's directory. `Display` says what was being done;
/// the source says why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {file}{}", At(*offset_bytes))]
pub struct DiskError {
    /// The operation that failed.
    pub operation: Operation,
    /// The file's name, or the directory's path.
    pub file: String,
    /// Where in the file, for reads and writes.
    pub offset_bytes: Option<u64>,
    /// What the machine answered.
    pub source: io::Error,
}

struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset_bytes) => write!(f, " at offset {offset_bytes}"),
            None => Ok(()),
        }
    }
}

/// For each of several callers that it concerns: of an error that is no code of the machine's, the kind and
/// the text.
impl Clone for DiskError {
    fn clone(&self) -> Self {
        let source = match self.source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None if self.is_crash() => io::Error::other(crate::sim::Crashed),
            None => io::Error::new(self.source.kind(), self.source.to_string()),
        };
        let Self { operation, ref file, offset_bytes, .. } = *self;
        Self { operation, file: file.clone(), offset_bytes, source }
    }
}

impl DiskError {
    /// An error of `operation` on `file`.
    pub fn new(operation: Operation, file: impl fmt::Display, source: io::Error) -> Self {
        Self { operation, file: file.to_string(), offset_bytes: None, source }
    }

    /// The same error, at an offset.
    #[must_use]
    pub fn at(mut self, offset_bytes: u64) -> Self {
        self.offset_bytes = Some(offset_bytes);
        self
    }

    /// The device, the quota or the file-size limit is exhausted; nothing else is wrong.
    pub fn is_no_space(&self) -> bool {
        is_no_space(&self.source)
    }

    /// What stands there cannot be read: so says the device, or the file system, which may check what it reads.
    pub fn is_unreadable(&self) -> bool {
        self.operation == Operation::Read && self.is_said_to_be_unreadable()
    }

    /// The same of a file, which may not even be opened.
    pub fn is_unreadable_file(&self) -> bool {
        let is_asked = matches!(self.operation, Operation::Open | Operation::Read);
        is_asked && self.is_said_to_be_unreadable()
    }

    fn is_said_to_be_unreadable(&self) -> bool {
        const SAID: [Errno; 5] =
            [Errno::IO, Errno::BADMSG, Errno::NODATA, Errno::REMOTEIO, Errno::UCLEAN];
        Errno::from_io_error(&self.source).is_some_and(|said| SAID.contains(&said))
    }

    /// A [`crate::sim::SimDisk`] had crashed by then.
    pub fn is_crash(&self) -> bool {
        crate::sim::is_crash(&self.source)
    }

    /// The file or directory is not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Whether the machine answered that there is no room.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_says_and_is_the_same() {
        let sources = [
            io::Error::from_raw_os_error(28),
            io::ErrorKind::WriteZero.into(),
            io::Error::other(crate::sim::Crashed),
        ];
        for source in sources {
            let error = DiskError::new(Operation::Write, "LOCK", source).at(7);
            let clone = error.clone();
            assert_eq!(clone.to_string(), "writing LOCK at offset 7");
            assert_eq!(clone.source.to_string(), error.source.to_string());
            assert_eq!(clone.is_no_space(), error.is_no_space());
            assert_eq!(clone.is_crash(), error.is_crash());
        }
    }
}
