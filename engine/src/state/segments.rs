//! The blob log's files, for reading: those not yet sealed are kept open, sealed ones as many as
//! the options allow. And the lists of the sealed ones: what they hold, by digest.

use std::ops::ControlFlow;
use std::sync::Arc;

use pinstone_disk::env::{HashMap, RwLock};
use pinstone_disk::{Digest, Disk, Epoch, File, FileName, LogKind, OpenMode, Ordinal, StoreId};
use pinstone_wal::{DigestList, Place, SegmentFile, SegmentHeader, WalError, corrupt, read_footer};

/// What lists' directories take in memory.
#[derive(Clone, Debug)]
struct ByListBytes;

impl quick_cache::Weighter<Ordinal, Arc<DigestList>> for ByListBytes {
    fn weight(&self, _ordinal: &Ordinal, list: &Arc<DigestList>) -> u64 {
        list.memory_bytes() + 64
    }
}

/// Files by ordinal.
#[derive(Debug)]
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    store_id: StoreId,
    names: RwLock<HashMap<Ordinal, Known>>,
    open: quick_cache::sync::Cache<Ordinal, Arc<dyn File>>,
    lists: quick_cache::sync::Cache<Ordinal, Arc<DigestList>, ByListBytes>,
}

#[derive(Clone, Debug)]
enum Known {
    Unsealed(SegmentFile),
    Sealed { epoch: Epoch, footer_hash: [u8; 32] },
}

impl Segments {
    /// No files yet; at most `open_files_max` sealed ones are open at once, and about `lists_bytes`
    /// of memory are taken for what leads to the pages of their lists.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        store_id: StoreId,
        open_files_max: usize,
        lists_bytes: u64,
    ) -> Self {
        let list_count = usize::try_from(lists_bytes >> 10).unwrap_or(usize::MAX).max(1);
        Self {
            disk,
            store_id,
            names: RwLock::default(),
            open: quick_cache::sync::Cache::new(open_files_max),
            lists: quick_cache::sync::Cache::with_weighter(list_count, lists_bytes, ByListBytes),
        }
    }

    /// Adds a segment that is not sealed.
    pub(crate) fn add_unsealed(&self, segment: SegmentFile) {
        self.names.write().insert(segment.header.ordinal, Known::Unsealed(segment));
    }

    /// The segment is sealed from now on.
    pub(crate) fn add_sealed(&self, ordinal: Ordinal, epoch: Epoch, footer_hash: [u8; 32]) {
        self.names.write().insert(ordinal, Known::Sealed { epoch, footer_hash });
    }

    /// The name of a segment's file.
    pub(crate) fn name(&self, ordinal: Ordinal) -> Option<FileName> {
        let epoch = match self.names.read().get(&ordinal)? {
            Known::Unsealed(segment) => segment.header.epoch,
            Known::Sealed { epoch, .. } => *epoch,
        };
        Some(FileName::Segment { log: LogKind::Blob, ordinal, epoch })
    }

    /// The open file of a segment; `None` if there is no such segment.
    ///
    /// # Errors
    /// The file is gone; whatever the machine says.
    pub(crate) fn file(&self, ordinal: Ordinal) -> Result<Option<Arc<dyn File>>, WalError> {
        let epoch = match self.names.read().get(&ordinal) {
            None => return Ok(None),
            Some(Known::Unsealed(segment)) => return Ok(Some(Arc::clone(&segment.file))),
            Some(Known::Sealed { epoch, .. }) => *epoch,
        };
        let name = FileName::Segment { log: LogKind::Blob, ordinal, epoch };
        let open = || self.disk.open(name, OpenMode::Sealed);
        self.open.get_or_insert_with(&ordinal, open).map(Some).map_err(|error| {
            if error.is_not_found() {
                return corrupt(name, 0, "the root names it, and it is not there");
            }
            error.into()
        })
    }

    /// All segments that the log has, ascending.
    pub(crate) fn ordinals(&self) -> Vec<Ordinal> {
        let mut ordinals: Vec<_> = self.names.read().keys().copied().collect();
        ordinals.sort_unstable();
        ordinals
    }

    /// Whether the log has the segment.
    pub(crate) fn has(&self, ordinal: Ordinal) -> bool {
        self.names.read().contains_key(&ordinal)
    }

    /// Whether the sealed segment lists this value at this place. A segment that is not sealed, or
    /// that the log does not have, lists nothing.
    ///
    /// # Errors
    /// Damage of the list; whatever the machine says.
    pub(crate) fn lists(&self, digest: &Digest, place: Place) -> Result<bool, WalError> {
        let (name, sealed_hash) = match self.names.read().get(&place.ordinal) {
            Some(Known::Sealed { epoch, footer_hash }) => {
                let (log, ordinal) = (LogKind::Blob, place.ordinal);
                (FileName::Segment { log, ordinal, epoch: *epoch }, *footer_hash)
            }
            _ => return Ok(false),
        };
        let file = self.file(place.ordinal)?;
        let file = file.ok_or_else(|| corrupt(name, 0, "the index names it, the root does not"))?;
        let list = self.lists.get_or_insert_with(&place.ordinal, || {
            let FileName::Segment { log, ordinal, epoch } = name else {
                unreachable!("it was made as one")
            };
            let header = SegmentHeader { store_id: self.store_id, log, ordinal, epoch };
            let segment = SegmentFile { header, file: Arc::clone(&file) };
            let (footer, footer_hash) = read_footer(&*self.disk, &segment)?;
            if footer_hash != sealed_hash {
                let what = "its footer is not the one that the root names";
                return Err(corrupt(name, footer.frames_end_bytes, what));
            }
            DigestList::open(&*self.disk, &segment, &footer).map(Arc::new)
        })?;
        let mut is_listed = false;
        let _ = list.find(&*self.disk, &file, digest, |entry| {
            is_listed |= entry.offset_bytes == place.offset_bytes;
            if is_listed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(is_listed)
    }

    /// Bytes of memory that the directories of lists take.
    pub(crate) fn lists_bytes(&self) -> u64 {
        self.lists.weight()
    }
}
