//! Pinstone: an embedded storage engine. **Values are immutable and named by their content
//! (BLAKE3); names are mutable and point at values.** Put bytes, get a digest; point a name at it;
//! the engine never loses what a name can reach, and never returns bytes that are not the ones
//! asked for.
//!
//! ```
//! # fn main() -> pinstone::Result<()> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! # let path = dir.path();
//! use pinstone::{Batch, Store};
//!
//! let store = Store::open(path)?;
//! let first = store.put(b"a build's output")?.digest;
//! store.commit(Batch::new().set("builds/1", first).set("latest", first))?;
//!
//! // Compare-and-set: move `latest` only if it is where we saw it.
//! let second = store.put(b"the next one")?.digest;
//! store.commit(Batch::new().set("latest", second).require("latest", Some(first)))?;
//!
//! for pointer in store.pointers_with_prefix("builds/") {
//!     let (name, digest) = pointer?;
//!     assert_eq!((&name[..], digest), (&b"builds/1"[..], first));
//! }
//! store.close()
//! # }
//! ```
//!
//! | when this returns `Ok` | a crash after it |
//! |---|---|
//! | [`Store::put`] | may lose the value, never half of it |
//! | [`Store::sync`] | loses no value put before |
//! | [`Store::commit`] | loses neither its pointers nor any value they name |
//! | [`Store::close`] | loses nothing, and the next open has nothing to mend |

#![forbid(unsafe_code)]

mod batch;
pub mod dump;
mod error;
mod maintain;
mod ops;
mod options;
mod state;
mod stats;
mod store;

pub use batch::Batch;
pub use bytes::Bytes;
pub use error::{Error, Result};
pub use options::{IoEngine, Maintenance, NAME_BYTES_MAX, Options, Verify};
pub use pinstone_disk::{CommitId, Digest, DigestParseError, Disk, DiskError, Operation};
pub use stats::{
    CheckOptions, CheckReport, Counters, Finding, LevelStats, LogStats, MemoryStats, Recovery,
    Stats, TreeStats,
};
pub use store::{Pointers, Put, Snapshot, Store, StoreBuilder};

/// The README's example is compiled and run as one of ours.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
