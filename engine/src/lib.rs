//! Being written.
#![allow(clippy::all, unused, dead_code, clippy::unimplemented, unreachable_pub)]

mod batch;
mod error;
mod options;
mod stats;
mod store;

pub use batch::{Batch, CommitId};
pub use bytes::Bytes;
pub use error::{Error, Result};
pub use options::{Maintenance, NAME_BYTES_MAX, Options, Verify};
pub use pinstone_disk::{Digest, DigestParseError};
pub use stats::{CheckOptions, CheckReport, Counters, Finding, LogStats, Recovery, Stats};
pub use store::{Pointers, Put, Snapshot, Store, StoreBuilder};
