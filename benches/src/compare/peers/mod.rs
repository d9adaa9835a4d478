//! The engines, each in a file of its own: how it is set up, and why so.
//!
//! - P1: no engine compresses: the values do not compress, so it would only cost time.
//! - P2: caches and buffers have the same bytes of memory (`--memory-mib`, 256 by default, Pinstone's
//!   own default), except in engines that leave caching to the system's page cache.
//! - P3: each is loaded in groups of the size that suits it, and asked through read transactions that
//!   are kept and used again where it has such.

mod files;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "lmdb")]
mod lmdb;
mod pinstone;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(any(feature = "lmdb", feature = "sqlite"))]
mod shelf;
#[cfg(feature = "sqlite")]
mod sqlite;

use crate::engine::Open;

/// Values of one write transaction, or batch, while a store is loaded.
pub(crate) const GROUP_VALUES: usize = 1000;

/// Bytes of values of one, at most.
#[cfg(any(
    feature = "fjall",
    feature = "rocksdb",
    feature = "lmdb",
    feature = "sqlite",
    feature = "redb"
))]
pub(crate) const GROUP_BYTES: usize = 64 << 20;

/// An engine, and what a reader of the table should know of it.
pub(crate) struct Peer {
    /// As `--peers` and the table call it.
    pub(crate) name: &'static str,
    /// How it was set up, in a line.
    pub(crate) settings: &'static str,
    /// What a get checks of the bytes that it returns.
    pub(crate) verifies: &'static str,
    /// `None`: this program was built without it.
    pub(crate) open: Option<Open>,
}

/// The engine that the others are compared with.
pub(crate) const OURS: &str = "pinstone";

macro_rules! if_built {
    ($feature:literal, $open:path) => {{
        #[cfg(feature = $feature)]
        let open: Option<Open> = Some($open);
        #[cfg(not(feature = $feature))]
        let open: Option<Open> = None;
        open
    }};
}

/// All engines, ours first.
pub(crate) fn all() -> Vec<Peer> {
    vec![
        Peer {
            name: OURS,
            settings: "default options, Verify::Checksum",
            verifies: "CRC-32C of the record, on every read",
            open: Some(pinstone::open),
        },
        Peer {
            name: "rocksdb",
            settings: "BlobDB from 512 B, Bloom filters, no compression, load without WAL then flush, \
                       commits with a synced WAL",
            verifies: "checksums of blocks and blobs when they are read from files, not from its cache",
            open: if_built!("rocksdb", rocksdb::open),
        },
        Peer {
            name: "fjall",
            settings: "key-value separation from 512 B, Bloom filters, no compression, SyncAll",
            verifies: "checksums of blocks and blobs when they are read from files, not from its cache",
            open: if_built!("fjall", fjall::open),
        },
        Peer {
            name: "redb",
            settings: "load without durability, then one durable commit; cached read transaction",
            verifies: "nothing on a get (its checksums are for repair)",
            open: if_built!("redb", redb::open),
        },
        Peer {
            name: "lmdb",
            settings: "NOTLS, NORDAHEAD under 64 KiB, NOMEMINIT, load with NOSYNC then a sync; \
                       read transactions used again",
            verifies: "nothing (it has no checksums)",
            open: if_built!("lmdb", lmdb::open),
        },
        Peer {
            name: "sqlite",
            settings: "WAL, synchronous FULL (NORMAL while loading, then a checkpoint), mmap, \
                       cached statements",
            verifies: "nothing (it has no checksums by default)",
            open: if_built!("sqlite", sqlite::open),
        },
        Peer {
            name: "files",
            settings: "two levels of 256 directories, temporary file and rename; load ends with syncfs",
            verifies: "nothing",
            open: Some(files::open),
        },
    ]
}

/// The least text above all those that begin with `prefix`, which must not be empty or end in the
/// highest byte.
#[cfg(any(feature = "redb", feature = "sqlite", feature = "rocksdb"))]
fn after_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
