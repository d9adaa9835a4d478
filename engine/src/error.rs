//! Why an operation did not do what it was asked. A variant exists if a caller can act on it.

use std::path::PathBuf;

use bytes::Bytes;
use pinstone_disk::{Digest, DiskError, Escaped, FormatError};

/// What every operation of a store returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation failed. Of a put or a commit nothing happened then, now or after a crash, unless the
/// error is [`Error::Indeterminate`]; what others did until they failed, they say themselves.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no store in this directory, and none was to be created.
    #[error("no store at {}", path.display())]
    StoreAbsent {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds other things than a store, or a store without its root.
    #[error("{} is no store: {reason}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// A file has a format version or an incompatible feature that this build does not know.
    #[error("{file} has an unsupported format: {what}")]
    Unsupported {
        /// The file.
        file: String,
        /// The version or the feature bits found, and those known.
        what: String,
    },
    /// Another opener holds the store.
    #[error("{} is locked by {}", path.display(), Holder(*holder))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, where known.
        holder: Option<u32>,
    },
    /// Bytes on disk are not what was written there. Nothing was changed.
    #[error("{file} is corrupt at offset {offset_bytes}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// The first bad place known.
        offset_bytes: u64,
        /// What was expected, and for a log where its last good frame ends.
        what: String,
    },
    /// The device is full, or a quota or a file-size limit is reached. Reads go on, and writes do
    /// too once there is space.
    #[error("no space left")]
    NoSpace {
        /// The operation that found out.
        #[source]
        source: DiskError,
    },
    /// An earlier failure ended writing until the store is opened anew. Reads go on.
    #[error("the store takes no more writes until it is reopened: {cause}")]
    Poisoned {
        /// The failure.
        cause: String,
    },
    /// The commit may be found after reopening, whole, or not at all; which cannot be known now.
    #[error("the commit may or may not have happened: {cause}")]
    Indeterminate {
        /// The failure.
        cause: String,
    },
    /// A commit points at a value that the store does not hold.
    #[error("the store holds no value {digest}")]
    ValueMissing {
        /// The value's digest.
        digest: Digest,
    },
    /// A pointer is not what the commit required.
    #[error(
        "pointer {} is {}, not {}",
        Escaped(name), OrAbsent(current.as_ref()), OrAbsent(expected.as_ref())
    )]
    PreconditionFailed {
        /// The pointer.
        name: Bytes,
        /// What was required; `None` for *absent*.
        expected: Option<Digest>,
        /// What it is, durably; `None` for *absent*.
        current: Option<Digest>,
    },
    /// A pointer's name is empty or too long.
    #[error("a pointer's name has 1 to {} bytes, this has {len_bytes}", crate::NAME_BYTES_MAX)]
    NameLength {
        /// Its length.
        len_bytes: usize,
    },
    /// A batch names one pointer in two changes, or changes nothing.
    #[error("{reason}")]
    BadBatch {
        /// Which of the two, and the name.
        reason: String,
    },
    /// Something exceeds the bound that an option sets it, or an option exceeds its own.
    #[error("{what}: {found} is over the limit of {max}")]
    Limit {
        /// What is bounded, and its unit.
        what: &'static str,
        /// The bound.
        max: u64,
        /// What was asked for.
        found: u64,
    },
    /// An option is less than it may be.
    #[error("{what}: {found} is under the least of {min}")]
    UnderLimit {
        /// The option.
        what: &'static str,
        /// The least that it may be.
        min: u64,
        /// What was asked for.
        found: u64,
    },
    /// The machine refused something else; nothing is lost. It says what the operation that failed
    /// says.
    #[error(transparent)]
    Io {
        /// The operation that failed.
        source: DiskError,
    },
}

struct OrAbsent<'a>(Option<&'a Digest>);

impl std::fmt::Display for OrAbsent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(digest) => write!(f, "{digest}"),
            None => f.write_str("absent"),
        }
    }
}

struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

impl From<DiskError> for Error {
    fn from(source: DiskError) -> Self {
        if source.is_no_space() { Self::NoSpace { source } } else { Self::Io { source } }
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Corrupt { file, offset_bytes, what } => {
                Self::Corrupt { file, offset_bytes, what }
            }
            FormatError::Unsupported { file, what } => Self::Unsupported { file, what },
        }
    }
}
