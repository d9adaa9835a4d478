//! What commits may carry: frames that were written, and are not known durable. They are kept until a
//! round has synced them, or the pointer log carries them (decision 0015).
//!
//! - B9: what is kept ends where the log is written to, and has no gap. Where something cannot be carried
//!   (a large value, a frame that means nothing, too much of it), what was kept before is let go of, and
//!   the next commit that depends on it takes a round.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::env::Ordering;
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{DiskExt as _, LogKind};

use super::BlobLog;
use super::queue::Queued;
use crate::carried::Carried;
use crate::error::WalError;
use crate::position::LogPosition;
use crate::scan::position;

/// Bytes of frames that one group of commits carries, at most: more is not quicker than a second sync.
pub const CARRIED_BYTES_MAX: u64 = 256 << 10;

/// Bytes that are carried between two rounds, at most: what recovery would have to lay, and what a sync
/// then has to write.
const CARRIED_UNSYNCED_BYTES_MAX: u64 = 4 << 20;

/// Frames that were written last, in order.
#[derive(Debug, Default)]
pub(super) struct Riding {
    frames: VecDeque<Arc<Queued>>,
    bytes: u64,
    /// Where the last frame ends that was let go of.
    left_upto: LogPosition,
}

impl Queued {
    fn end(&self) -> LogPosition {
        position(self.segment.header.ordinal, self.end_bytes)
    }

    fn room_bytes(&self) -> u64 {
        self.end_bytes - self.offset_bytes
    }
}

impl Riding {
    /// Notes the frame that was written last.
    pub(super) fn note(&mut self, written: &Arc<Queued>) {
        let is_whole = written.bytes.len() as u64 == written.room_bytes();
        if !is_whole || self.bytes + written.room_bytes() > CARRIED_BYTES_MAX {
            self.frames.clear();
            (self.bytes, self.left_upto) = (0, written.end());
            return;
        }
        self.bytes += written.room_bytes();
        self.frames.push_back(Arc::clone(written));
    }

    /// Lets go of what ends at or before `upto`; returns the last of it.
    pub(super) fn leave(&mut self, upto: LogPosition) -> Option<Arc<Queued>> {
        let mut left = None;
        while self.frames.front().is_some_and(|front| front.end() <= upto) {
            left = self.frames.pop_front();
            self.bytes -= left.as_ref().map_or(0, |left| left.room_bytes());
        }
        self.left_upto = left.as_ref().map_or(self.left_upto, |left| left.end());
        left
    }

    /// Bytes of memory of the frames.
    pub(super) fn memory_bytes(&self) -> usize {
        size(self.bytes)
    }

    /// All frames that are kept, if all before them is safe, which is so up to `safe_upto`, and they stand
    /// in one segment.
    fn all(&self, safe_upto: LogPosition) -> Option<Carried> {
        let (first, last) = (self.frames.front()?, self.frames.back()?);
        let from = position(first.segment.header.ordinal, first.offset_bytes);
        if self.left_upto > safe_upto || last.end().ordinal() != from.ordinal() {
            return None;
        }
        let frames = self.frames.iter().map(|frame| frame.bytes.clone()).collect();
        Some(Carried { from, upto: last.end(), frames })
    }
}

impl BlobLog {
    /// What is before this is in no crash lost: the log is durable so far, or the pointer log carries what
    /// it lacks.
    pub fn safe_upto(&self) -> LogPosition {
        let carried = LogPosition::from_number(self.carried_upto.load(Ordering::Acquire));
        self.writer.synced.of(LogKind::Blob).max(carried)
    }

    /// Writes everything out, and returns the frames from [`BlobLog::safe_upto`] on, `position` in them, for
    /// a commit to carry; `None` if there are more than `bytes_max`, or they cannot be carried otherwise:
    /// then they are to be synced ([`BlobLog::begin_round_covering`]). One caller at a time.
    ///
    /// # Errors
    /// As [`BlobLog::begin_round_covering`].
    ///
    /// # Panics
    /// If the position was never given out.
    pub fn carry(
        &self,
        position: LogPosition,
        bytes_max: u64,
    ) -> Result<Option<Carried>, WalError> {
        self.write_out_to(position)?;
        let mut state = self.append.lock();
        let safe_upto = self.safe_upto();
        state.riding.leave(safe_upto);
        let unsynced_bytes = self.carried_bytes.load(Ordering::Relaxed);
        Ok(state.riding.all(safe_upto).filter(|carried| {
            assert!(carried.upto > position, "a position that was given out");
            let len_bytes = carried.len_bytes();
            len_bytes <= bytes_max && unsynced_bytes + len_bytes <= CARRIED_UNSYNCED_BYTES_MAX
        }))
    }

    /// The pointer log durably has these frames now.
    pub fn note_carried(&self, carried: Carried) {
        self.carried_upto.fetch_max(carried.upto.number(), Ordering::AcqRel);
        self.carried_bytes.fetch_add(carried.len_bytes(), Ordering::Relaxed);
        let upto = carried.upto;
        drop(carried);
        let last = self.append.lock().riding.leave(upto);
        if let Some(last) = last {
            self.recycle(last);
        }
    }

    /// Writes these frames, as they stood there durably, once more where they stand, and syncs them: the bytes there
    /// have gone bad. Takes no space. What stands in a sealed segment is passed over: none of that is written any more.
    /// No segment may be being sealed meanwhile.
    ///
    /// # Errors
    /// What writing says; a failed sync ends writing.
    pub fn lay(&self, frames: &[(LogPosition, Bytes)]) -> Result<(), WalError> {
        let guard = self.round.lock();
        let write = self.write.lock();
        self.writer.poison.check()?;
        let mut written = Ok(());
        for (from, bytes) in frames {
            let mut state = self.append.lock();
            state.check_open()?;
            let Some(segment) = state.unsealed(from.ordinal()).cloned() else {
                continue;
            };
            state.unsynced.insert(from.ordinal(), Arc::clone(&segment.file));
            drop(state);
            written = self.writer.disk.write(&segment.file, from.offset_bytes(), bytes.clone());
            if written.is_err() {
                break;
            }
        }
        drop(write);
        // Whatever came of it: no later round is to sync what may be sealed by then (B6).
        self.round_holding(guard).carry_out()?;
        Ok(written?)
    }

    /// Sees to it that the log itself is durable beyond everything that is carried (K2).
    ///
    /// # Errors
    /// As [`BlobLog::sync`].
    #[expect(clippy::missing_panics_doc, reason = "what is carried ends after a segment's start")]
    pub fn sync_carried(&self) -> Result<(), WalError> {
        let carried = LogPosition::from_number(self.carried_upto.load(Ordering::Acquire));
        if self.writer.synced.of(LogKind::Blob) >= carried || planted::is(Bug::CarriedNotSynced) {
            return Ok(());
        }
        let last = carried.number().checked_sub(1).expect("something is carried");
        self.share_round(LogPosition::from_number(last))
    }
}
