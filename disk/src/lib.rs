//! The only door to the machine: files and their names, batches of I/O, the simulated disk, and
//! the small things that every layer above shares (digests, checksums, byte codecs, dumps).
//!
//! This is the only crate of the engine that makes system calls, reads clocks or draws random
//! bytes. It knows nothing of logs, tables or pointers.

pub mod checksum;
pub mod codec;
mod container;
mod digest;
pub mod dump;
pub mod env;
mod error;
mod escaped;
mod file_name;
mod helper;
mod identity;
mod io_engine;
mod map;
pub mod planted;
pub mod sim;
mod std_disk;
pub mod uniform;
mod uring;
mod vfs;

pub use bytes::Bytes;
pub use container::{
    AnyHeader, FORMAT_VERSION, FileHeader, FormatError, HEADER_BYTES, KIND_OFFSET_BYTES, REPEATED,
    TRAILER_BYTES, TRAILER_MAGIC, Trailer,
};
pub use digest::{DIGEST_BYTES, Digest, DigestKind, DigestParseError};
pub use error::{DiskError, Operation};
pub use escaped::Escaped;
pub use file_name::{FileKind, FileName, LogKind, TableKind};
pub use identity::{CommitId, Epoch, NAME_BYTES_MAX, Ordinal, StoreId};
pub use io_engine::{IO_VARIABLE, IoEngine, IoOptions, MMAP_VARIABLE};
pub use map::{Map, Mapped};
pub use std_disk::{DirectoryState, StdDisk};
pub use vfs::{
    Batch, Disk, DiskExt, FewFiles, File, InTurn, Lock, Op, OpenMode, Part, write_all_at,
};
