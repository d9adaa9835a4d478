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
    /// The file that cannot be read, or is not there, if that is what failed: no want of memory, nor of descriptors.
    pub fn unreadable_file(&self) -> Option<&str> {
        match self {
            Self::Disk(error) => {
                let is_unreadable = error.is_unreadable_file() || error.is_not_found();
                is_unreadable.then_some(&error.file)
            }
            Self::Format(error) => Some(error.file()),
        }
    }

    /// The bytes of `file` at this offset are not what was written there.
    pub fn corrupt(file: impl fmt::Display, offset_bytes: u64, what: impl fmt::Display) -> Self {
        FormatError::corrupt(file, offset_bytes, what).into()
    }
}
