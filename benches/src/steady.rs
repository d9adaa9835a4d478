//! A real directory of which everything is the same in every run: for counts, not for times.
//!
//! - Y1: chains of a batch are carried out one after the other by the caller, so that no count
//!   depends on which thread was there first.
//! - Y2: random bytes are drawn from a fixed seed, so that maps collide in the same places.
//!
//! Files are those of [`StdDisk`]: what counts is the store's own code and that of a real directory,
//! without the bookkeeping of a simulated disk. A directory in memory does as well.

use std::path::Path;
use std::sync::Arc;

use pinstone::{Disk, DiskError, IoEngine};
use pinstone_disk::env::Mutex;
use pinstone_disk::{File, FileName, IoOptions, Lock, Mapped, OpenMode, StdDisk};

use crate::data;

/// See the module.
#[derive(Debug)]
pub struct Steady {
    disk: Arc<StdDisk>,
    seed: Mutex<u64>,
}

impl Steady {
    /// The directory `path`, which is made if need be.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn create(path: &Path) -> Arc<Self> {
        let io = IoOptions { engine: IoEngine::Positioned, mmap: Some(true) };
        let disk = StdDisk::create(path, io).expect("a directory can be made there");
        Arc::new(Self { disk, seed: Mutex::new(1) })
    }
}

impl Disk for Steady {
    fn describe(&self) -> String {
        self.disk.describe()
    }

    fn engine(&self) -> &'static str {
        "one after the other"
    }

    fn mapped(&self) -> Mapped {
        self.disk.mapped()
    }

    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError> {
        self.disk.open(name, mode)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn rename(&self, from: FileName, to: FileName) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: FileName) -> Result<(), DiskError> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.disk.sync_dir()
    }

    fn lock(&self) -> Result<Result<Box<dyn Lock>, Option<u32>>, DiskError> {
        self.disk.lock()
    }

    fn random(&self) -> Result<[u8; 16], DiskError> {
        let mut seed = self.seed.lock();
        let mut bytes = [0; 16];
        for half in bytes.chunks_mut(8) {
            half.copy_from_slice(&data::next(&mut seed).to_le_bytes());
        }
        Ok(bytes)
    }
}
