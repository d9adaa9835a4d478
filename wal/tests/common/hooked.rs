//! A simulated disk at which a test can do something in the middle of another's write.

use std::sync::Arc;

use pinstone_disk::env::Mutex;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Batch, Bytes, Disk, DiskError, File, FileName, Lock, Op, OpenMode};

/// A disk that calls back once, before it writes.
pub struct Hooked {
    pub inner: Arc<SimDisk>,
    pub before_write: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Disk for Hooked {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn engine(&self) -> &'static str {
        self.inner.engine()
    }
    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError> {
        self.inner.open(name, mode)
    }
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.inner.list()
    }
    fn rename(&self, from: FileName, to: FileName) -> Result<(), DiskError> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: FileName) -> Result<(), DiskError> {
        self.inner.remove(name)
    }
    fn sync_dir(&self) -> Result<(), DiskError> {
        self.inner.sync_dir()
    }
    fn lock(&self) -> Result<Result<Box<dyn Lock>, Option<u32>>, DiskError> {
        self.inner.lock()
    }
    fn random(&self) -> Result<[u8; 16], DiskError> {
        self.inner.random()
    }
    fn run(&self, batch: Batch) -> Vec<Result<Vec<Bytes>, DiskError>> {
        for op in batch.chains.iter().flatten() {
            if let Op::Write { .. } = op
                && let Some(hook) = take(&self.before_write)
            {
                hook();
            }
        }
        self.inner.run(batch)
    }
}

/// What is there, once.
pub fn take<T>(from: &Mutex<Option<T>>) -> Option<T> {
    from.lock().take()
}
