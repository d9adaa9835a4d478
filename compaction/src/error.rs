//! What can go wrong with tables.

use std::fmt;

use pinstone_disk::{DiskError, FormatError};

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
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
    /// The bytes of `file` at this offset are not what was written there.
    pub fn corrupt(file: impl fmt::Display, offset_bytes: u64, what: impl fmt::Display) -> Self {
        FormatError::corrupt(file, offset_bytes, what).into()
    }
}
