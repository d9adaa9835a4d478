//! Frames that are finished and not yet written, and whoever writes them.
//!
//! 1. A frame comes to the queue whole, its place and bytes settled; the oldest is written first.
//! 2. Whoever holds the write lock writes. The append lock is taken only to look at the front of
//!    the queue, and to take from it what is written; until then it can be read there.
//! 3. A write that fails for want of space leaves its frame at the front, to be tried again by the
//!    next who writes; any other failure ends writing.
//!
//! - B1: positions are given out in order, and every position below `written_upto` is written.
//! - B5: at most one frame is gathered; a gathered frame is queued, and a segment is ended, only
//!   when nothing, or only a frame that ended a segment, is queued before it.
//! - B7: a value that was accepted is kept until it is written, however often the device is full
//!   (P9).

use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::env::{MutexGuard, Ordering};
use pinstone_disk::{DiskError, DiskExt};

use super::BlobLog;
use super::active::Active;
use crate::error::WalError;
use crate::poison::chain;
use crate::scan::position;
use crate::segment::SegmentFile;

/// A finished frame, to be written: these bytes, and nothing up to its end. A large value's has
/// none: it keeps the room until its thread has written it, which holds the write lock.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) segment: SegmentFile,
    pub(super) offset_bytes: u64,
    pub(super) end_bytes: u64,
    pub(super) bytes: Bytes,
}

impl BlobLog {
    /// Writes out everything appended before the call.
    ///
    /// # Errors
    /// [`WalError::Disk`] with *no space*: what could not be written stays in memory, readable,
    /// and is tried again with the next call. [`WalError::Poisoned`].
    pub fn write_out(&self) -> Result<(), WalError> {
        let write = self.write.lock();
        self.write_all(&write)
    }

    /// Writes out what was gathered, unless there is room in the frame by now for `len_bytes` more.
    pub(super) fn write_full(&self, len_bytes: usize) -> Result<(), WalError> {
        let write = self.write.lock();
        let takes = |active: &Active| active.takes(len_bytes, self.options.buffer_bytes);
        if self.append.lock().active.as_ref().is_some_and(takes) {
            return Ok(());
        }
        self.write_all(&write)
    }

    /// Writes what is queued, then what is gathered (B5).
    pub(super) fn write_all(&self, write: &MutexGuard<'_, ()>) -> Result<(), WalError> {
        self.write_queued(write, None)?;
        self.append.lock().finish_frame(self);
        self.write_queued(write, None)
    }

    /// Writes what is queued before `until`, or all of it, in order.
    pub(super) fn write_queued(
        &self,
        _write: &MutexGuard<'_, ()>,
        until: Option<&Arc<Queued>>,
    ) -> Result<(), WalError> {
        self.writer.poison.check()?;
        loop {
            let Some(queued) = self.append.lock().queued.front().cloned() else { return Ok(()) };
            if until.is_some_and(|until| Arc::ptr_eq(until, &queued)) {
                return Ok(());
            }
            self.write_one(&queued).map_err(|error| self.refused(error))?;
            self.note_written(&queued, queued.bytes.len() as u64);
            self.recycle(queued);
        }
    }

    fn write_one(&self, queued: &Queued) -> Result<(), DiskError> {
        let file = &queued.segment.file;
        self.writer.disk.write(file, queued.offset_bytes, queued.bytes.clone())?;
        // A void frame's body may lie beyond what was reserved; the file has to reach its end.
        let written_end_bytes = queued.offset_bytes + queued.bytes.len() as u64;
        if written_end_bytes < queued.end_bytes && file.len_bytes()? < queued.end_bytes {
            file.set_len(queued.end_bytes)?;
        }
        Ok(())
    }

    /// The frame at the front of the queue is written.
    pub(super) fn note_written(&self, written: &Arc<Queued>, bytes: u64) {
        let mut state = self.append.lock();
        let front = state.queued.pop_front();
        assert!(front.is_some_and(|front| Arc::ptr_eq(&front, written)), "frames go in order");
        let ordinal = written.segment.header.ordinal;
        state.unsynced.insert(ordinal, Arc::clone(&written.segment.file));
        state.riding.note(written);
        let end = position(ordinal, written.end_bytes);
        self.written_upto.fetch_max(end.number(), Ordering::AcqRel);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Keeps the memory of a written frame for the next, unless a reader holds on to it.
    pub(super) fn recycle(&self, written: Arc<Queued>) {
        if let Ok(written) = Arc::try_unwrap(written)
            && written.bytes.is_unique()
        {
            let memory = Vec::from(written.bytes);
            let mut state = self.append.lock();
            if memory.capacity() > state.spare.capacity() {
                state.spare = memory;
            }
        }
    }

    /// What a failed write means: without space it can be tried again, else writing has ended.
    pub(super) fn refused(&self, error: DiskError) -> WalError {
        if error.is_no_space() { error.into() } else { self.writer.poison.set(chain(&error)) }
    }
}
