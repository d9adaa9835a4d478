//! What can go wrong with a log.

use std::fmt;

use pinstone_disk::DiskError;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The machine failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Bytes of a file are not what was written there.
    #[error("{file} is corrupt at offset {offset_bytes}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// The first bad place known.
        offset_bytes: u64,
        /// What was expected.
        what: String,
    },
    /// A file has a format version or an incompatible feature that this build does not know.
    #[error("{file} has an unsupported format: {what}")]
    Unsupported {
        /// The file.
        file: String,
        /// The version or the feature bits found, and those known.
        what: String,
    },
    /// The log takes no more appends: an earlier failure ended writing.
    #[error("the log takes no more writes: {cause}")]
    Poisoned {
        /// The failure.
        cause: String,
    },
}

/// A [`WalError::Corrupt`].
pub fn corrupt(file: impl fmt::Display, offset_bytes: u64, what: impl fmt::Display) -> WalError {
    WalError::Corrupt { file: file.to_string(), offset_bytes, what: what.to_string() }
}
