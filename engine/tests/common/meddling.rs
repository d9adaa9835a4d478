//! A disk on which something else happens at a moment of the test's choice: just before the next
//! write to a file, after the next read of one, or before a table is next opened. It remembers which reads went at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use pinstone_disk::env::Mutex;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Batch, Bytes, Disk, DiskError, File, FileName, Lock, Op, OpenMode, TableKind};

pub struct MeddlingDisk {
    disk: Arc<SimDisk>,
    next: Arc<Mutex<Option<Meddling>>>,
    /// Of each batch that reads, the places that it read.
    reads: Mutex<Vec<Reads>>,
    handles_max: Mutex<usize>,
}

/// Places that were read: of which file, and where.
pub type Reads = Vec<(String, u64)>;

/// When, and what then happens.
type Meddling = (Moment, Box<dyn FnOnce() + Send>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before a write to this file.
    Write(FileName),
    /// After a read of this file.
    Read(FileName),
    /// Before a table of this tree is opened.
    Open(TableKind),
}

/// Meddles, if it is the moment.
fn meddle(next: &Mutex<Option<Meddling>>, now: Moment) {
    let due = next.lock().take_if(|(moment, _)| *moment == now);
    if let Some((_, meddle)) = due {
        meddle();
    }
}

impl MeddlingDisk {
    pub fn new(disk: &Arc<SimDisk>) -> Arc<Self> {
        Arc::new(Self {
            disk: Arc::clone(disk),
            next: Arc::default(),
            reads: Mutex::default(),
            handles_max: Mutex::default(),
        })
    }

    /// Runs `meddle` once, on the thread that next writes to `file`, before it does.
    pub fn before_write(&self, file: FileName, meddle: impl FnOnce() + Send + 'static) {
        *self.next.lock() = Some((Moment::Write(file), Box::new(meddle)));
    }

    /// Runs `meddle` once, on the thread that next reads `file`, after it did.
    pub fn after_read(&self, file: FileName, meddle: impl FnOnce() + Send + 'static) {
        *self.next.lock() = Some((Moment::Read(file), Box::new(meddle)));
    }

    /// Runs `meddle` once, on the thread that next opens a table of `tree`, before it does.
    pub fn before_open(&self, tree: TableKind, meddle: impl FnOnce() + Send + 'static) {
        *self.next.lock() = Some((Moment::Open(tree), Box::new(meddle)));
    }

    /// The batches of reads that `act` makes.
    pub fn reads(&self, act: impl FnOnce()) -> Vec<Reads> {
        self.reads.lock().clear();
        act();
        std::mem::take(&mut self.reads.lock())
    }

    /// So often one file was open for one batch of reads, at most.
    pub fn handles_max(&self) -> usize {
        *self.handles_max.lock()
    }

    /// Whether what was to happen did.
    pub fn has_meddled(&self) -> bool {
        self.next.lock().is_none()
    }
}

impl fmt::Debug for MeddlingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl Disk for MeddlingDisk {
    fn describe(&self) -> String {
        self.disk.describe()
    }

    fn engine(&self) -> &'static str {
        self.disk.engine()
    }

    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError> {
        if let FileName::Table { table, .. } = name {
            meddle(&self.next, Moment::Open(table));
        }
        let file = self.disk.open(name, mode)?;
        Ok(Arc::new(MeddlingFile { file, next: Arc::clone(&self.next) }))
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
        self.disk.random()
    }

    fn run(&self, batch: Batch) -> Vec<Result<Vec<Bytes>, DiskError>> {
        let place = |op: &Op| match op {
            Op::Read { file, offset_bytes, .. } => Some((file.name().to_string(), *offset_bytes)),
            _ => None,
        };
        let mut handles: BTreeMap<FileName, BTreeSet<usize>> = BTreeMap::new();
        for op in batch.chains.iter().flatten() {
            if let Op::Read { file, .. } = op {
                let handle = Arc::as_ptr(file).cast::<()>().addr();
                handles.entry(file.name()).or_default().insert(handle);
            }
        }
        let of_one = handles.values().map(BTreeSet::len).max().unwrap_or(0);
        let mut handles_max = self.handles_max.lock();
        *handles_max = of_one.max(*handles_max);
        drop(handles_max);
        let reads: Reads = batch.chains.iter().flatten().filter_map(place).collect();
        if !reads.is_empty() {
            self.reads.lock().push(reads);
        }
        self.disk.run(batch)
    }
}

struct MeddlingFile {
    file: Arc<dyn File>,
    next: Arc<Mutex<Option<Meddling>>>,
}

impl fmt::Debug for MeddlingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl File for MeddlingFile {
    fn name(&self) -> FileName {
        self.file.name()
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        self.file.len_bytes()
    }

    fn allocated_bytes(&self) -> Result<u64, DiskError> {
        self.file.allocated_bytes()
    }

    fn set_len(&self, len_bytes: u64) -> Result<(), DiskError> {
        self.file.set_len(len_bytes)
    }

    fn allocate(&self, len_bytes: u64) -> Result<(), DiskError> {
        self.file.allocate(len_bytes)
    }

    fn read_at(&self, offset_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let read = self.file.read_at(offset_bytes, buffer);
        meddle(&self.next, Moment::Read(self.file.name()));
        read
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        meddle(&self.next, Moment::Write(self.file.name()));
        self.file.write_at(offset_bytes, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
