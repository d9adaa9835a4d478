//! Rounds: who makes what is written durable.
//!
//! 1. A round begins by writing everything out, then notes where the log ends and takes the files
//!    written since the last round.
//! 2. Its owner syncs them, with other files' syncs if it likes, and says how that went.
//! 3. Who waits for a position takes the round lock and looks again, so that many share one round.
//!
//! - B2: a position is durable only by a round that began after it was written.
//! - B6: no two syncs of one file are in flight. Of two, the machine may tell only one that bytes
//!   were lost (D3), and the other would vouch for them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use pinstone_disk::env::{MutexGuard, Ordering};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Batch, DiskError, File, LogKind, Op, Ordinal};

use super::BlobLog;
use crate::error::WalError;
use crate::poison::chain;
use crate::position::LogPosition;
use crate::segment::FRAMES_START_BYTES;

/// Syncs on their way, and what they will make durable.
///
/// One that is dropped before its syncs leaves them to the next round. After that only
/// [`SyncRound::finish`] will do: dropped, it ends writing.
#[derive(Debug)]
#[must_use = "what is not finished is not durable"]
pub struct SyncRound<'a> {
    log: &'a BlobLog,
    files: BTreeMap<Ordinal, Arc<dyn File>>,
    upto: LogPosition,
    /// Bytes that were carried before it began, and were not durable.
    carried_bytes: u64,
    submitted: Cell<bool>,
    _guard: MutexGuard<'a, ()>,
}

impl BlobLog {
    /// Begins a round: waits for the one in progress, writes everything out, and notes what must
    /// be synced for it to be durable. Who begins it needs only `position` and what is before it: a
    /// full device is no error if that much is written.
    ///
    /// # Errors
    /// As [`BlobLog::write_out`], unless `position` is written.
    pub fn begin_round_covering(&self, position: LogPosition) -> Result<SyncRound<'_>, WalError> {
        let guard = self.round.lock();
        self.write_out_to(position)?;
        Ok(self.round_holding(guard))
    }

    pub(super) fn write_out_to(&self, position: LogPosition) -> Result<(), WalError> {
        match self.write_out() {
            Err(WalError::Disk(error)) if error.is_no_space() && self.written_upto() > position => {
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn round_holding<'a>(&'a self, guard: MutexGuard<'a, ()>) -> SyncRound<'a> {
        let mut state = self.append.lock();
        // Between the writing and this lock more may have been written; it is in `unsynced` too,
        // and was written before the syncs to come are submitted.
        let upto = self.written_upto();
        let files = std::mem::take(&mut state.unsynced);
        let carried_bytes = self.carried_bytes.load(Ordering::Relaxed);
        let submitted = Cell::new(false);
        SyncRound { log: self, files, upto, carried_bytes, submitted, _guard: guard }
    }

    /// Returns once every position below and at `position`, which was given out, is durable.
    ///
    /// # Errors
    /// As [`BlobLog::begin_round_covering`]; a failed sync ends writing.
    ///
    /// # Panics
    /// If the position was never given out.
    pub fn sync(&self, position: LogPosition) -> Result<(), WalError> {
        self.share_round(position)?;
        assert!(self.writer.synced.of(LogKind::Blob) > position, "a position that was given out");
        Ok(())
    }

    /// Waits for a round that began after `position`, unless that is durable.
    pub(super) fn share_round(&self, position: LogPosition) -> Result<(), WalError> {
        if self.writer.synced.of(LogKind::Blob) > position {
            return Ok(());
        }
        self.writer.poison.check()?;
        let guard = self.round.lock();
        if self.writer.synced.of(LogKind::Blob) > position {
            return Ok(());
        }
        self.write_out_to(position)?;
        self.round_holding(guard).carry_out()
    }

    /// Makes everything appended before the call durable.
    ///
    /// # Errors
    /// As [`BlobLog::sync`].
    pub fn sync_all(&self) -> Result<(), WalError> {
        let last = {
            let state = self.append.lock();
            state.last_position()
        };
        // It may be in room that a large value gives back: then nothing is there to be durable.
        last.map_or(Ok(()), |last| self.share_round(last))
    }

    /// Returns once every write and sync that is on its way has ended.
    pub fn wait_until_quiet(&self) {
        let _round = self.round.lock();
        let _write = self.write.lock();
    }

    /// Ends writing in good order: writes everything out, cuts what was reserved beyond it, and
    /// syncs. Nothing can be appended any more, whatever this returns.
    ///
    /// # Errors
    /// As [`BlobLog::write_out`], or what cutting says; a failed sync ends writing.
    pub fn trim(&self) -> Result<(), WalError> {
        let guard = self.round.lock();
        let write = self.write.lock();
        let unused: Vec<_> = {
            let mut state = self.append.lock();
            state.trimmed = true;
            let active = state.active.as_ref().filter(|active| active.is_untouched());
            active.map(|active| &active.segment).into_iter().chain(&state.next).cloned().collect()
        };
        // Before what was gathered is written: there may be no other space for it.
        for segment in unused {
            segment.file.set_len(FRAMES_START_BYTES)?;
        }
        self.write_all(&write)?;
        let mut state = self.append.lock();
        let active = state.active.as_ref();
        let active = active.map(|active| (active.segment.clone(), active.frame_start_bytes));
        let next = state.next.as_ref().map(|next| (next.clone(), FRAMES_START_BYTES));
        let cut: Vec<_> = active.into_iter().chain(next).collect();
        for (segment, _) in &cut {
            state.unsynced.insert(segment.header.ordinal, Arc::clone(&segment.file));
        }
        drop(state);
        for (segment, end_bytes) in cut {
            segment.file.set_len(end_bytes)?;
        }
        self.round_holding(guard).carry_out()
    }
}

impl SyncRound<'_> {
    /// Where the log will be durable to.
    pub fn upto(&self) -> LogPosition {
        self.upto
    }

    /// The syncs to carry out, each in a chain of its own; given out once (B6).
    ///
    /// # Panics
    /// If they were given out before.
    pub fn chains(&self) -> Vec<Vec<Op>> {
        assert!(!self.submitted.replace(true), "a round's syncs are carried out once");
        if planted::is(Bug::BlobSyncSkipped) {
            return Vec::new();
        }
        self.files.values().map(|file| vec![Op::Sync { file: Arc::clone(file) }]).collect()
    }

    /// Ends the round: durable if the syncs succeeded; otherwise writing ends (P6).
    ///
    /// # Panics
    /// If the syncs were never taken: they cannot have been carried out.
    ///
    /// # Errors
    /// [`WalError::Poisoned`] if a sync failed.
    pub fn finish(mut self, result: Result<(), DiskError>) -> Result<(), WalError> {
        assert!(self.submitted.replace(false), "what became of syncs that nobody took");
        self.files.clear();
        if let Err(error) = result {
            return Err(self.log.writer.poison.set(chain(&error)));
        }
        let upto =
            if planted::is(Bug::JoinSyncInFlight) { self.log.written_upto() } else { self.upto };
        self.log.writer.synced.raise(LogKind::Blob, upto);
        // What was carried since it began is not durable by it.
        self.log.carried_bytes.fetch_sub(self.carried_bytes, Ordering::Relaxed);
        self.log.append.lock().riding.leave(upto);
        Ok(())
    }

    /// Gives the round up before its syncs: what it would have synced is left to the next.
    pub fn abandon(self) {
        drop(self);
    }

    pub(super) fn carry_out(self) -> Result<(), WalError> {
        let results = self.log.writer.disk.run(Batch { chains: self.chains() });
        let failed = results.into_iter().find_map(Result::err);
        self.finish(failed.map_or(Ok(()), Err))
    }
}

impl Drop for SyncRound<'_> {
    fn drop(&mut self) {
        if self.submitted.get() {
            let _ = self.log.writer.poison.set("what became of a sync is not known");
            return;
        }
        self.log.append.lock().unsynced.append(&mut self.files);
    }
}
