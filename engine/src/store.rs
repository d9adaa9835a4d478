//! The handle that services hold. Each method names the operation that does the work.

use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::{Digest, Disk};

use crate::batch::{Batch, CommitId};
use crate::error::Result;
use crate::options::{Maintenance, Options, Verify};
use crate::stats::{CheckOptions, CheckReport, Stats};

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The value's name from now on.
    pub digest: Digest,
    /// The value was not known before: its bytes were appended.
    pub new: bool,
}

/// An open store. Cheap to clone; clones share one store, from any number of threads.
#[derive(Clone, Debug)]
pub struct Store {}

/// Opens a store with other options than the defaults.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it opens a store"]
pub struct StoreBuilder {
    options: Options,
}

impl StoreBuilder {
    /// Opens or creates the store at `path`; see [`Store::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        unimplemented!()
    }

    /// The same on a disk of the caller's: the simulated one, in tests.
    pub fn open_on(self, disk: Arc<dyn Disk>) -> Result<Store> {
        unimplemented!()
    }

    /// Sets [`Options::create`].
    pub fn create(mut self, create: bool) -> Self {
        self.options.create = create;
        self
    }

    /// Sets [`Options::value_bytes_max`].
    pub fn value_bytes_max(mut self, bytes: u64) -> Self {
        self.options.value_bytes_max = bytes;
        self
    }

    /// Sets [`Options::commit_bytes_max`].
    pub fn commit_bytes_max(mut self, bytes: u64) -> Self {
        self.options.commit_bytes_max = bytes;
        self
    }

    /// Sets [`Options::segment_bytes`].
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.options.segment_bytes = bytes;
        self
    }

    /// Sets [`Options::pointer_segment_bytes`].
    pub fn pointer_segment_bytes(mut self, bytes: u64) -> Self {
        self.options.pointer_segment_bytes = bytes;
        self
    }

    /// Sets [`Options::append_buffer_bytes`].
    pub fn append_buffer_bytes(mut self, bytes: usize) -> Self {
        self.options.append_buffer_bytes = bytes;
        self
    }

    /// Sets [`Options::verify`].
    pub fn verify(mut self, verify: Verify) -> Self {
        self.options.verify = verify;
        self
    }

    /// Sets [`Options::maintenance`].
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.options.maintenance = maintenance;
        self
    }
}

impl Store {
    /// Opens the store at `path`, creating it where the directory is absent or empty.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// Opens with options.
    pub fn builder() -> StoreBuilder {
        StoreBuilder::default()
    }

    /// Stores `value` and returns its digest. Not durable on return.
    pub fn put(&self, value: &[u8]) -> Result<Put> {
        unimplemented!()
    }

    /// The value named `digest`, or `None` if the store does not hold it; checked as
    /// [`Options::verify`] says.
    pub fn get(&self, digest: &Digest) -> Result<Option<Bytes>> {
        unimplemented!()
    }

    /// The same, checked as `verify` says.
    pub fn get_verified(&self, digest: &Digest, verify: Verify) -> Result<Option<Bytes>> {
        unimplemented!()
    }

    /// Whether the store holds the value.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        unimplemented!()
    }

    /// Makes the batch's changes, all or none; durable on return.
    pub fn commit(&self, batch: Batch) -> Result<CommitId> {
        unimplemented!()
    }

    /// Where the pointer `name` points.
    pub fn pointer(&self, name: impl AsRef<[u8]>) -> Result<Option<Digest>> {
        unimplemented!()
    }

    /// The pointers with names in `range`, in order of their bytes, as they stand now; see
    /// [`Snapshot::pointers`].
    pub fn pointers<R: RangeBounds<[u8]>>(&self, range: R) -> Pointers {
        unimplemented!()
    }

    /// The pointers whose names begin with `prefix`.
    pub fn pointers_with_prefix(&self, prefix: impl AsRef<[u8]>) -> Pointers {
        unimplemented!()
    }

    /// A consistent view of the pointers as they stand now.
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }

    /// Makes all values put before durable.
    pub fn sync(&self) -> Result<()> {
        unimplemented!()
    }

    /// Looks for damage.
    pub fn check(&self, options: &CheckOptions) -> Result<CheckReport> {
        unimplemented!()
    }

    /// Figures of the store.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Ends writing, makes everything durable, and records that nothing is left to mend.
    pub fn close(self) -> Result<()> {
        unimplemented!()
    }
}

/// A consistent view of a store's pointers.
#[derive(Clone, Debug)]
pub struct Snapshot {}

impl Snapshot {
    /// The last commit that it sees.
    pub fn commit(&self) -> CommitId {
        unimplemented!()
    }

    /// Where the pointer `name` pointed.
    pub fn pointer(&self, name: impl AsRef<[u8]>) -> Result<Option<Digest>> {
        unimplemented!()
    }

    /// The pointers with names in `range`.
    pub fn pointers<R: RangeBounds<[u8]>>(&self, range: R) -> Pointers {
        unimplemented!()
    }

    /// The pointers whose names begin with `prefix`.
    pub fn pointers_with_prefix(&self, prefix: impl AsRef<[u8]>) -> Pointers {
        unimplemented!()
    }
}

/// Pointers in order of their names' bytes, from both ends.
#[derive(Debug)]
pub struct Pointers {}

impl Iterator for Pointers {
    type Item = Result<(Bytes, Digest)>;
    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}

impl DoubleEndedIterator for Pointers {
    fn next_back(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
