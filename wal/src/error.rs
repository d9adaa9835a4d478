//! What can go wrong with a log.

use std::fmt;

use pinstone_disk::{DiskError, FormatError};

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The machine failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is not as we write them.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The log takes no more appends: an earlier failure ended writing.
    #[error("the log takes no more writes: {cause}")]
    Poisoned {
        /// The failure.
        cause: String,
    },
}

/// A [`FormatError::Corrupt`].
pub fn corrupt(file: impl fmt::Display, offset_bytes: u64, what: impl fmt::Display) -> WalError {
    FormatError::corrupt(file, offset_bytes, what).into()
}
