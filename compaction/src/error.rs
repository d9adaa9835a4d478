//! What can go wrong with tables.

use std::fmt;

use pinstone_disk::{DiskError, FormatError};

/// A failure of this crate.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The machine failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is not as we write them.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl TableError {
    /// The file that cannot be read, and will not be the next time: if that is what failed.
    pub fn unreadable_file(&self) -> Option<&str> {
        match self {
            Self::Disk(error) => error.is_unreadable_file().then_some(&error.file),
            Self::Format(error) => Some(error.file()),
        }
    }

    /// The bytes of `file` at this offset are not what was written there.
    pub fn corrupt(file: impl fmt::Display, offset_bytes: u64, what: impl fmt::Display) -> Self {
        FormatError::corrupt(file, offset_bytes, what).into()
    }
}
