//! The blob log's files, for reading: those not yet sealed are kept open, sealed ones as many as
//! the options allow.

use std::sync::Arc;

use pinstone_disk::env::{HashMap, RwLock};
use pinstone_disk::{Disk, DiskError, Epoch, File, FileName, LogKind, OpenMode, Ordinal};
use pinstone_wal::SegmentFile;

/// Files by ordinal.
#[derive(Debug)]
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    names: RwLock<HashMap<Ordinal, Known>>,
    open: quick_cache::sync::Cache<Ordinal, Arc<dyn File>>,
}

#[derive(Clone, Debug)]
enum Known {
    Unsealed(SegmentFile),
    Sealed { epoch: Epoch },
}

impl Segments {
    /// No files yet; at most `open_files_max` sealed ones are open at once.
    pub(crate) fn new(disk: Arc<dyn Disk>, open_files_max: usize) -> Self {
        Self { disk, names: RwLock::default(), open: quick_cache::sync::Cache::new(open_files_max) }
    }

    /// Adds a segment that is not sealed.
    pub(crate) fn add_unsealed(&self, segment: SegmentFile) {
        self.names.write().insert(segment.header.ordinal, Known::Unsealed(segment));
    }

    /// The segment is sealed from now on.
    pub(crate) fn add_sealed(&self, ordinal: Ordinal, epoch: Epoch) {
        self.names.write().insert(ordinal, Known::Sealed { epoch });
    }

    /// The name of a segment's file.
    pub(crate) fn name(&self, ordinal: Ordinal) -> Option<FileName> {
        let epoch = match self.names.read().get(&ordinal)? {
            Known::Unsealed(segment) => segment.header.epoch,
            Known::Sealed { epoch } => *epoch,
        };
        Some(FileName::Segment { log: LogKind::Blob, ordinal, epoch })
    }

    /// The open file of a segment; `None` if there is no such segment.
    pub(crate) fn file(&self, ordinal: Ordinal) -> Result<Option<Arc<dyn File>>, DiskError> {
        let epoch = match self.names.read().get(&ordinal) {
            None => return Ok(None),
            Some(Known::Unsealed(segment)) => return Ok(Some(Arc::clone(&segment.file))),
            Some(Known::Sealed { epoch }) => *epoch,
        };
        let name = FileName::Segment { log: LogKind::Blob, ordinal, epoch };
        let open = || self.disk.open(name, OpenMode::Read);
        self.open.get_or_insert_with(&ordinal, open).map(Some)
    }
}
