//! The blob log's end: many threads append values, few writes carry them, fewer syncs.
//!
//! 1. A put prepares its record (hash, checksum) outside every lock, takes the append lock, and
//!    copies the record into the frame being gathered. A large record gets a frame to itself and
//!    goes straight through.
//! 2. When the frame is full, or someone needs it written, it is finished and queued; whoever
//!    holds the write lock writes what is queued, in order, without the append lock.
//! 3. A [`SyncRound`] writes everything out, notes where the log ends, and lets its owner sync the
//!    files; only then is that end known durable. Threads that want the same wait for the round
//!    in progress and then look again, so that many share one sync.
//! 4. A segment that is full ends with its last frame, and the next one, made ready before, goes
//!    on. [`BlobLog::take_closing`] hands out the full ones to be sealed, once they are durable.
//!
//! - B1: positions are given out in order, and every position below `written_upto` is written.
//! - B2: a position is durable only by a round that began after it was written.
//! - B3: nobody writes or syncs while holding the append lock.
//! - B4: a value that was refused is not in the log, now or later; one that was accepted is kept
//!   until written, however often the device is full (P9). A large value's header is written
//!   after all the rest of it, so that there is no whole frame of a value that was refused.
//! - B5: at most one frame is gathered; a gathered frame is queued, and a segment is ended, only
//!   when nothing, or only a frame that ended a segment, is queued before it.
//! - B6: no two syncs of one file are in flight. Of two, the machine may tell only one that bytes
//!   were lost (D3), and the other would vouch for them.
//!
//! Lock order: round, then write, then append.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::env::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Batch, Disk, DiskError, DiskExt, File, LogKind, Op};

use crate::appender::Closing;
use crate::error::WalError;
use crate::frame::{
    BodyCheck, FRAME_ALIGN, FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, FrameKind, FramePlace,
    SyncedUpto, encoded_crc, frame_bytes,
};
use crate::poison::{Poison, chain};
use crate::position::{LogPosition, Place, SizeClass};
use crate::record::{PreparedValue, StoreSeed};
use crate::scan::position;
use crate::segment::{FRAMES_START, ListEntry, Sealer, SegmentFile};

/// Bytes of a large value that one operation writes; as many are copied at a time.
const WRITE_BYTES: usize = 1 << 20;

/// The limits of a blob log.
#[derive(Clone, Copy, Debug)]
pub struct BlobLogOptions {
    /// Bytes of a sealed segment, unless one value needs more.
    pub segment_bytes: u64,
    /// Bytes of values gathered into one frame.
    pub buffer_bytes: usize,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The record stands here.
    At(Place),
    /// The value is known after all; nothing was appended.
    Known,
    /// There is no room: bring a segment by [`BlobLog::offer`], then try again.
    NeedsSegment,
}

/// The growing end of the blob log.
#[derive(Debug)]
pub struct BlobLog {
    disk: Arc<dyn Disk>,
    synced: Arc<SyncedUpto>,
    poison: Arc<Poison>,
    epoch: u32,
    store: StoreSeed,
    options: BlobLogOptions,
    round: Mutex<()>,
    write: Mutex<()>,
    append: Mutex<AppendState>,
    written_upto: AtomicU64,
    written_bytes: AtomicU64,
    due: AtomicBool,
    /// Something was appended since the log was opened: only then does it go on.
    appended: AtomicBool,
}

#[derive(Debug, Default)]
struct AppendState {
    active: Option<Active>,
    next: Option<SegmentFile>,
    queued: VecDeque<Arc<Queued>>,
    closing: VecDeque<Closing>,
    /// The memory of a frame that was written, for the next one: a fresh mebibyte costs more to
    /// map than to fill.
    spare: Vec<u8>,
    /// Files written since a round last took them.
    unsynced: BTreeMap<u32, Arc<dyn File>>,
    /// The log was trimmed, to be closed.
    trimmed: bool,
}

#[derive(Debug)]
struct Active {
    segment: SegmentFile,
    frame_start: u64,
    frame: FrameBuilder,
    sealer: Sealer,
}

/// A finished frame, to be written: these bytes, and nothing up to its end. A large value's has
/// none: it keeps the room until its thread has written it, which holds the write lock.
#[derive(Debug)]
struct Queued {
    segment: SegmentFile,
    offset_bytes: u64,
    end: u64,
    bytes: Bytes,
}

/// Whether a record can be appended.
enum Room {
    /// To the active segment.
    Is,
    /// Not before what is queued is written.
    Unwritten,
    /// Not before there is another segment.
    NeedsSegment,
}

impl BlobLog {
    /// The log that goes on from the end of `active`, if any, with the segments in `closing` yet
    /// to be sealed, oldest first. All of it is durable.
    #[expect(clippy::too_many_arguments, reason = "what recovery found, all at once")]
    pub fn new(
        disk: Arc<dyn Disk>,
        synced: Arc<SyncedUpto>,
        poison: Arc<Poison>,
        epoch: u32,
        store: StoreSeed,
        options: BlobLogOptions,
        active: Option<Closing>,
        closing: Vec<Closing>,
    ) -> Self {
        let active = active.map(|segment| Active {
            segment: segment.segment,
            frame_start: segment.frames_end,
            frame: FrameBuilder::with_capacity(0),
            sealer: segment.sealer,
        });
        let written = match (&active, closing.last()) {
            (Some(active), _) => active.start(),
            (None, Some(last)) => last.end(),
            (None, None) => LogPosition::START,
        };
        synced.raise(LogKind::Blob, written);
        let state = AppendState { active, closing: closing.into(), ..AppendState::default() };
        Self {
            disk,
            synced,
            poison,
            epoch,
            store,
            options,
            round: Mutex::new(()),
            write: Mutex::new(()),
            append: Mutex::new(state),
            written_upto: AtomicU64::new(written.number()),
            written_bytes: AtomicU64::new(0),
            due: AtomicBool::new(true),
            appended: AtomicBool::new(false),
        }
    }

    /// The seed of this store's records.
    pub fn store_seed(&self) -> StoreSeed {
        self.store
    }

    /// Appends a value unless `known` says that it is there already; `insert` is told its place
    /// once it can be read. No two threads append the same value: from the question to the
    /// insertion a lock is held that the other needs, too. Not durable on return.
    ///
    /// # Errors
    /// [`WalError::Disk`] with *no space*: nothing was appended. [`WalError::Poisoned`].
    pub fn append(
        &self,
        value: &PreparedValue<'_>,
        known: impl Fn() -> bool,
        insert: impl FnOnce(Place),
    ) -> Result<Appended, WalError> {
        if value.len_bytes() > self.options.buffer_bytes / 4 {
            return self.append_large(value, known, insert);
        }
        loop {
            self.poison.check()?;
            let mut state = self.append.lock();
            state.check_open()?;
            if known() {
                return Ok(Appended::Known);
            }
            match self.make_room(&mut state, value.len_bytes()) {
                Room::Is => {}
                Room::Unwritten => {
                    drop(state);
                    self.write_out()?;
                    continue;
                }
                Room::NeedsSegment => return Ok(Appended::NeedsSegment),
            }
            let active = state.active.as_mut().expect("there is room in it");
            if !active.takes(value.len_bytes(), self.options.buffer_bytes) {
                drop(state);
                self.write_full(value.len_bytes())?;
                continue;
            }
            let place = active.place(active.frame.len_bytes(), value);
            active.frame.push_raw(value.crc, &[value.header(), value.value]);
            active.sealer.value(entry(value, place));
            insert(place);
            self.note_due(&state);
            return Ok(Appended::At(place));
        }
    }

    /// Appends a value in a frame of its own, written before this returns. Holding the write lock
    /// all along, one large value at a time is on its way.
    fn append_large(
        &self,
        value: &PreparedValue<'_>,
        known: impl Fn() -> bool,
        insert: impl FnOnce(Place),
    ) -> Result<Appended, WalError> {
        let write = self.write.lock();
        let (large, place) = loop {
            if known() {
                return Ok(Appended::Known);
            }
            // What was gathered before goes first: if there is no room for it, there is none for
            // this.
            self.write_all(&write)?;
            let mut state = self.append.lock();
            state.check_open()?;
            match self.make_room(&mut state, value.len_bytes()) {
                Room::Is => {}
                Room::Unwritten => continue,
                Room::NeedsSegment => return Ok(Appended::NeedsSegment),
            }
            state.finish_frame(self);
            let active = state.active.as_mut().expect("there is room in it");
            let place = active.place(FRAME_HEADER_BYTES, value);
            let large = active.take_large(self, value);
            active.sealer.value(entry(value, place));
            state.queued.push_back(Arc::clone(&large.room));
            self.note_due(&state);
            break (large, place);
        };
        let written = self.write_queued(&write, Some(&large.room));
        if let Err(error) = written.and_then(|()| self.write_large(&large, value)) {
            self.void(&large, entry(value, place));
            return Err(error);
        }
        self.note_written(&large.room, large.room.end - large.room.offset_bytes);
        insert(place);
        Ok(Appended::At(place))
    }

    /// Writes a large value's frame, its header last (B4).
    fn write_large(&self, large: &Large, value: &PreparedValue<'_>) -> Result<(), WalError> {
        let Queued { segment, offset_bytes, end, .. } = &*large.room;
        let write = || {
            if *end > self.options.segment_bytes {
                segment.file.allocate(*end)?;
            }
            let mut at = offset_bytes + large.head.len() as u64;
            for part in value.value.chunks(WRITE_BYTES) {
                self.disk.write(&segment.file, at, Bytes::copy_from_slice(part))?;
                at += part.len() as u64;
            }
            let padding = Bytes::from_static(&[0; FRAME_ALIGN]).slice(..size(end - at));
            if !padding.is_empty() {
                self.disk.write(&segment.file, at, padding)?;
            }
            self.disk.write(&segment.file, *offset_bytes, large.head.clone())
        };
        write().map_err(|error| self.refused(error))
    }

    /// Replaces a large frame that could not be written by one that says so, to be written when
    /// the queue is; gives its room back if nothing was gathered after it. The write lock is held
    /// and something is queued, so its segment is the active one still.
    fn void(&self, large: &Large, listed: ListEntry) {
        let mut state = self.append.lock();
        let Queued { segment, offset_bytes, end, .. } = &*large.room;
        let active = state.active.as_mut().expect("a large value went to the active segment");
        assert_eq!(active.segment.header, segment.header, "nothing ends a segment meanwhile");
        let mut end = *end;
        if active.frame_start == end && active.frame.is_empty() {
            end = offset_bytes + frame_bytes(0);
            active.frame_start = end;
        }
        let header = FrameHeader {
            kind: FrameKind::Void,
            last: false,
            body_bytes: u32::try_from(end - offset_bytes - FRAME_HEADER_BYTES as u64)
                .expect("the frame it replaces had this length at least"),
            body_check: 0,
            epoch: self.epoch,
            sequence: large.sequence,
            synced: self.synced.now(),
        };
        let encoded = header.encode(segment.header.seed(), *offset_bytes);
        active.sealer.void(&header, encoded_crc(&encoded), listed);
        let void = Arc::new(Queued {
            segment: segment.clone(),
            offset_bytes: *offset_bytes,
            end,
            bytes: Bytes::copy_from_slice(&encoded),
        });
        let slot = state.queued.iter_mut().find(|queued| Arc::ptr_eq(queued, &large.room));
        *slot.expect("only its own thread takes it from the queue") = void;
    }

    /// Sees to it that the active segment has room for a record of `len_bytes`, going on in the
    /// next segment if need be.
    fn make_room(&self, state: &mut AppendState, len_bytes: usize) -> Room {
        if let Some(active) = &state.active {
            let fits = active.sealed_bytes_with(len_bytes) <= self.options.segment_bytes;
            if fits || active.is_untouched() {
                return Room::Is;
            }
        }
        if state.next.is_none() {
            return Room::NeedsSegment;
        }
        if !state.queued.is_empty() {
            return Room::Unwritten;
        }
        state.rotate(self);
        Room::Is
    }

    /// The log goes on in `next` when the active segment is full; refused if one waits already.
    pub fn offer(&self, next: SegmentFile) -> Result<(), SegmentFile> {
        let mut state = self.append.lock();
        if state.active.is_none() {
            let start = position(next.header.ordinal, FRAMES_START);
            self.written_upto.fetch_max(start.number(), Ordering::AcqRel);
            state.active = Some(Active::begin(next, Vec::new()));
            return Ok(());
        }
        if state.next.is_some() {
            return Err(next);
        }
        state.next = Some(next);
        Ok(())
    }

    /// A segment waits to follow the active one.
    pub fn has_next(&self) -> bool {
        self.append.lock().next.is_some()
    }

    /// The active segment is more than half full and none waits to follow it.
    pub fn wants_next(&self) -> bool {
        self.appended.load(Ordering::Relaxed) && self.is_half_full(&self.append.lock())
    }

    fn is_half_full(&self, state: &AppendState) -> bool {
        let half = self.options.segment_bytes / 2;
        state.next.is_none()
            && state.active.as_ref().is_some_and(|active| active.end().offset_bytes() > half)
    }

    fn note_due(&self, state: &AppendState) {
        self.appended.store(true, Ordering::Relaxed);
        if self.is_half_full(state) || !state.closing.is_empty() {
            self.due.store(true, Ordering::Relaxed);
        }
    }

    /// A segment is to be sealed, or the next to be offered, since this was last asked; costs no
    /// lock.
    pub fn take_due(&self) -> bool {
        self.due.load(Ordering::Relaxed) && self.due.swap(false, Ordering::Relaxed)
    }

    /// How many full segments are yet to be sealed.
    pub fn closing_count(&self) -> usize {
        self.append.lock().closing.len()
    }

    /// Takes the oldest full segment, to be sealed. All its frames are durable, and no round syncs
    /// its file any more (B6).
    ///
    /// # Errors
    /// As [`BlobLog::sync`].
    pub fn take_closing(&self) -> Result<Option<Closing>, WalError> {
        loop {
            let mut state = self.append.lock();
            let Some(oldest) = state.closing.front() else { return Ok(None) };
            let last = position(oldest.segment.header.ordinal, oldest.frames_end - 1);
            if self.synced.of(LogKind::Blob) > last {
                return Ok(state.closing.pop_front());
            }
            drop(state);
            self.sync(last)?;
        }
    }

    /// Gives back a segment that could not be sealed now.
    pub fn return_closing(&self, closing: Closing) {
        self.append.lock().closing.push_front(closing);
    }

    /// All values at positions below this are written.
    pub fn written_upto(&self) -> LogPosition {
        LogPosition::from_number(self.written_upto.load(Ordering::Acquire))
    }

    /// The bytes of a record that may not be written yet; `None` if it is.
    pub fn read_unwritten(&self, place: Place) -> Option<Bytes> {
        if place.position() < self.written_upto() {
            return None;
        }
        self.append.lock().read(place)
    }

    /// Bytes appended since the last round that succeeded, about.
    pub fn figures(&self) -> BlobLogFigures {
        let state = self.append.lock();
        let end = state.active.as_ref().map_or(LogPosition::START, Active::end);
        let durable = self.synced.of(LogKind::Blob);
        let unsynced_bytes = if end.ordinal() == durable.ordinal() {
            end.offset_bytes() - durable.offset_bytes()
        } else {
            let closing = state.closing.iter().map(|closing| closing.frames_end);
            end.offset_bytes() + closing.sum::<u64>()
        };
        BlobLogFigures {
            end,
            unsynced_bytes,
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        }
    }

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
    fn write_full(&self, len_bytes: usize) -> Result<(), WalError> {
        let write = self.write.lock();
        let takes = |active: &Active| active.takes(len_bytes, self.options.buffer_bytes);
        if self.append.lock().active.as_ref().is_some_and(takes) {
            return Ok(());
        }
        self.write_all(&write)
    }

    /// Writes what is queued, then what is gathered (B5).
    fn write_all(&self, write: &MutexGuard<'_, ()>) -> Result<(), WalError> {
        self.write_queued(write, None)?;
        self.append.lock().finish_frame(self);
        self.write_queued(write, None)
    }

    /// Writes what is queued before `until`, or all of it, in order.
    fn write_queued(
        &self,
        _write: &MutexGuard<'_, ()>,
        until: Option<&Arc<Queued>>,
    ) -> Result<(), WalError> {
        self.poison.check()?;
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
        self.disk.write(file, queued.offset_bytes, queued.bytes.clone())?;
        // A void frame's body may lie beyond what was reserved; the file has to reach its end.
        let written = queued.offset_bytes + queued.bytes.len() as u64;
        if written < queued.end && file.len_bytes()? < queued.end {
            file.set_len(queued.end)?;
        }
        Ok(())
    }

    /// The frame at the front of the queue is written.
    fn note_written(&self, written: &Arc<Queued>, bytes: u64) {
        let mut state = self.append.lock();
        let front = state.queued.pop_front();
        assert!(front.is_some_and(|front| Arc::ptr_eq(&front, written)), "frames go in order");
        let ordinal = written.segment.header.ordinal;
        state.unsynced.insert(ordinal, Arc::clone(&written.segment.file));
        let end = position(ordinal, written.end);
        self.written_upto.fetch_max(end.number(), Ordering::AcqRel);
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Keeps the memory of a written frame for the next, unless a reader holds on to it.
    fn recycle(&self, written: Arc<Queued>) {
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
    fn refused(&self, error: DiskError) -> WalError {
        if error.is_no_space() { error.into() } else { self.poison.set(chain(&error)) }
    }

    /// Begins a round: waits for the one in progress, writes everything out, and notes what must
    /// be synced for it to be durable.
    ///
    /// # Errors
    /// As [`BlobLog::write_out`].
    pub fn begin_round(&self) -> Result<SyncRound<'_>, WalError> {
        let guard = self.round.lock();
        self.write_out()?;
        Ok(self.round_holding(guard))
    }

    /// As [`BlobLog::begin_round`], for who needs only `position` and what is before it: a full
    /// device is no error if that much is written.
    ///
    /// # Errors
    /// As [`BlobLog::write_out`], unless `position` is written.
    pub fn begin_round_covering(&self, position: LogPosition) -> Result<SyncRound<'_>, WalError> {
        let guard = self.round.lock();
        self.write_out_to(position)?;
        Ok(self.round_holding(guard))
    }

    fn write_out_to(&self, position: LogPosition) -> Result<(), WalError> {
        match self.write_out() {
            Err(WalError::Disk(error)) if error.is_no_space() && self.written_upto() > position => {
                Ok(())
            }
            result => result,
        }
    }

    fn round_holding<'a>(&'a self, guard: MutexGuard<'a, ()>) -> SyncRound<'a> {
        let mut state = self.append.lock();
        // Between the writing and this lock more may have been written; it is in `unsynced` too,
        // and was written before the syncs to come are submitted.
        let upto = self.written_upto();
        let files = std::mem::take(&mut state.unsynced);
        SyncRound { log: self, files, upto, submitted: Cell::new(false), _guard: guard }
    }

    /// Returns once every position below and at `position`, which was given out, is durable.
    ///
    /// # Errors
    /// As [`BlobLog::begin_round_covering`]; a failed sync ends writing.
    pub fn sync(&self, position: LogPosition) -> Result<(), WalError> {
        self.share_round(position)?;
        assert!(self.synced.of(LogKind::Blob) > position, "a position that was given out");
        Ok(())
    }

    /// Waits for a round that began after `position`, unless that is durable.
    fn share_round(&self, position: LogPosition) -> Result<(), WalError> {
        if self.synced.of(LogKind::Blob) > position {
            return Ok(());
        }
        self.poison.check()?;
        let guard = self.round.lock();
        if self.synced.of(LogKind::Blob) > position {
            return Ok(());
        }
        self.write_out_to(position)?;
        let round = self.round_holding(guard);
        let results = self.disk.run(Batch { chains: round.chains() });
        let failed = results.into_iter().find_map(Result::err);
        round.finish(failed.map_or(Ok(()), Err))
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
        self.append.lock().trimmed = true;
        self.write_all(&write)?;
        let mut state = self.append.lock();
        let active = state.active.as_ref();
        let active = active.map(|active| (active.segment.clone(), active.frame_start));
        let next = state.next.as_ref().map(|next| (next.clone(), FRAMES_START));
        let cut: Vec<_> = active.into_iter().chain(next).collect();
        for (segment, _) in &cut {
            state.unsynced.insert(segment.header.ordinal, Arc::clone(&segment.file));
        }
        drop(state);
        for (segment, end) in cut {
            segment.file.set_len(end)?;
        }
        let round = self.round_holding(guard);
        let results = self.disk.run(Batch { chains: round.chains() });
        let failed = results.into_iter().find_map(Result::err);
        round.finish(failed.map_or(Ok(()), Err))
    }
}

/// Figures of the log's end.
#[derive(Clone, Copy, Debug)]
pub struct BlobLogFigures {
    /// Where the next record goes.
    pub end: LogPosition,
    /// Bytes of unsealed segments not known durable.
    pub unsynced_bytes: u64,
    /// Bytes written since the log was opened.
    pub written_bytes: u64,
}

/// Syncs on their way, and what they will make durable.
///
/// One that is dropped before its syncs leaves them to the next round. After that only
/// [`SyncRound::finish`] will do: dropped, it ends writing.
#[derive(Debug)]
#[must_use = "what is not finished is not durable"]
pub struct SyncRound<'a> {
    log: &'a BlobLog,
    files: BTreeMap<u32, Arc<dyn File>>,
    upto: LogPosition,
    submitted: Cell<bool>,
    _guard: MutexGuard<'a, ()>,
}

impl SyncRound<'_> {
    /// Where the log will be durable to.
    pub fn upto(&self) -> LogPosition {
        self.upto
    }

    /// The syncs to carry out, each in a chain of its own.
    pub fn chains(&self) -> Vec<Vec<Op>> {
        self.submitted.set(true);
        if planted::is(Bug::BlobSyncSkipped) {
            return Vec::new();
        }
        self.files.values().map(|file| vec![Op::Sync { file: Arc::clone(file) }]).collect()
    }

    /// Ends the round: durable if the syncs succeeded; otherwise writing ends (P6).
    pub fn finish(mut self, result: Result<(), DiskError>) -> Result<(), WalError> {
        self.files.clear();
        self.submitted.set(false);
        if let Err(error) = result {
            return Err(self.log.poison.set(chain(&error)));
        }
        let upto =
            if planted::is(Bug::JoinSyncInFlight) { self.log.written_upto() } else { self.upto };
        self.log.synced.raise(LogKind::Blob, upto);
        Ok(())
    }

    /// Gives the round up before its syncs: what it would have synced is left to the next.
    pub fn abandon(self) {
        drop(self);
    }
}

impl Drop for SyncRound<'_> {
    fn drop(&mut self) {
        if self.submitted.get() {
            let _ = self.log.poison.set("what became of a sync is not known");
            return;
        }
        self.log.append.lock().unsynced.append(&mut self.files);
    }
}

impl AppendState {
    fn check_open(&self) -> Result<(), WalError> {
        if self.trimmed {
            return Err(WalError::Poisoned { cause: "the log was trimmed to be closed".into() });
        }
        Ok(())
    }

    /// Finishes and queues the frame being gathered, if it holds anything.
    fn finish_frame(&mut self, log: &BlobLog) {
        if let Some(active) = &mut self.active
            && !active.frame.is_empty()
        {
            let spare = std::mem::take(&mut self.spare);
            let queued = active.finish_frame(log, false, spare);
            self.queued.push_back(Arc::new(queued));
        }
    }

    /// Ends the active segment and goes on in the next.
    fn rotate(&mut self, log: &BlobLog) {
        let next = self.next.take().expect("there is one");
        let next = Active::begin(next, std::mem::take(&mut self.spare));
        let mut full = self.active.replace(next).expect("the first segment is active at once");
        let queued = full.finish_frame(log, true, Vec::new());
        self.closing.push_back(Closing {
            segment: full.segment,
            frames_end: queued.end,
            sealer: full.sealer,
        });
        self.queued.push_back(Arc::new(queued));
    }

    /// The position of the last frame appended, gathered ones included.
    fn last_position(&self) -> Option<LogPosition> {
        let active = self.active.as_ref()?;
        let ordinal = active.segment.header.ordinal;
        if !active.frame.is_empty() {
            return Some(position(ordinal, active.frame_start));
        }
        if !active.is_untouched() {
            return Some(position(ordinal, active.frame_start - 1));
        }
        let closing = self.closing.back()?;
        Some(position(closing.segment.header.ordinal, closing.frames_end - 1))
    }

    fn read(&self, place: Place) -> Option<Bytes> {
        let offset = u64::from(place.offset_bytes);
        if let Some(active) = &self.active
            && active.segment.header.ordinal == place.ordinal
            && offset >= active.frame_start
        {
            let from = usize::try_from(offset - active.frame_start).ok()?;
            let len = usize::try_from(place.class.bytes_max()).ok()?;
            let rest = active.frame.bytes().get(from..)?;
            return Some(Bytes::copy_from_slice(&rest[..len.min(rest.len())]));
        }
        let queued = self.queued.iter().find(|queued| {
            queued.segment.header.ordinal == place.ordinal
                && (queued.offset_bytes..queued.end).contains(&offset)
        })?;
        let from = usize::try_from(offset - queued.offset_bytes).ok()?;
        (from < queued.bytes.len()).then(|| queued.bytes.slice(from..))
    }
}

impl Active {
    fn begin(segment: SegmentFile, spare: Vec<u8>) -> Self {
        Self {
            segment,
            frame_start: FRAMES_START,
            frame: FrameBuilder::reusing(spare),
            sealer: Sealer::default(),
        }
    }

    fn is_untouched(&self) -> bool {
        self.frame.is_empty() && self.frame_start == FRAMES_START
    }

    /// The frame being gathered has room for `len_bytes` more.
    fn takes(&self, len_bytes: usize, buffer_bytes: usize) -> bool {
        self.frame.is_empty() || self.frame.len_bytes() + len_bytes <= buffer_bytes
    }

    /// Where the frame being gathered begins.
    fn start(&self) -> LogPosition {
        position(self.segment.header.ordinal, self.frame_start)
    }

    /// Where the log ends, the frame being gathered included.
    fn end(&self) -> LogPosition {
        let gathered = if self.frame.is_empty() { 0 } else { self.frame.len_bytes() as u64 };
        position(self.segment.header.ordinal, self.frame_start + gathered)
    }

    /// Bytes of the segment if a record of `len_bytes` were added and it were then sealed.
    fn sealed_bytes_with(&self, len_bytes: usize) -> u64 {
        // A record may come into the frame being gathered or into one of its own.
        let gathered = u64::from(self.frame.body_bytes());
        self.frame_start
            + frame_bytes(gathered)
            + frame_bytes(len_bytes as u64)
            + frame_bytes(0)
            + self.sealer.seal_bytes(1)
    }

    fn place(&self, offset_in_frame: usize, value: &PreparedValue<'_>) -> Place {
        let offset_bytes = self.frame_start + offset_in_frame as u64;
        Place {
            ordinal: self.segment.header.ordinal,
            offset_bytes: u32::try_from(offset_bytes).expect("a segment is shorter than 4 GiB"),
            class: SizeClass::covering(value.len_bytes() as u64),
        }
    }

    fn frame_place(&self, log: &BlobLog, last: bool) -> FramePlace {
        FramePlace {
            epoch: log.epoch,
            sequence: u32::try_from(self.sealer.frame_count()).expect("frames have bytes"),
            synced: log.synced.now(),
            last,
        }
    }

    /// Finishes the frame being gathered, and begins the next in the memory of `spare`.
    fn finish_frame(&mut self, log: &BlobLog, last: bool, spare: Vec<u8>) -> Queued {
        let place = self.frame_place(log, last);
        let next = FrameBuilder::reusing(spare);
        let frame = std::mem::replace(&mut self.frame, next);
        let crcs = frame.record_crcs().to_vec();
        let body_bytes = frame.body_bytes();
        let (crc, bytes) = frame.finish(self.segment.header.seed(), self.frame_start, &place);
        self.sealer.frame(crc, &crcs, body_bytes);
        self.advance(bytes.len() as u64, bytes)
    }

    /// Takes the room of a large value's frame.
    fn take_large(&mut self, log: &BlobLog, value: &PreparedValue<'_>) -> Large {
        let place = self.frame_place(log, false);
        let mut check = BodyCheck::default();
        check.push(value.crc);
        let header = FrameHeader {
            kind: FrameKind::Records,
            last: false,
            body_bytes: u32::try_from(value.len_bytes()).expect("a value is at most 1 GiB"),
            body_check: check.value(),
            epoch: place.epoch,
            sequence: place.sequence,
            synced: place.synced,
        };
        let encoded = header.encode(self.segment.header.seed(), self.frame_start);
        let head = Bytes::from([&encoded, value.header()].concat());
        self.sealer.frame(encoded_crc(&encoded), &[value.crc], header.body_bytes);
        let room = Arc::new(self.advance(header.frame_bytes(), Bytes::new()));
        Large { room, head, sequence: header.sequence }
    }

    /// Takes the room of a frame.
    fn advance(&mut self, frame_bytes: u64, bytes: Bytes) -> Queued {
        let offset_bytes = self.frame_start;
        self.frame_start += frame_bytes;
        Queued { segment: self.segment.clone(), offset_bytes, end: self.frame_start, bytes }
    }
}

/// A large value's frame on its way.
struct Large {
    room: Arc<Queued>,
    /// What stands before the value's bytes.
    head: Bytes,
    sequence: u32,
}

fn entry(value: &PreparedValue<'_>, place: Place) -> ListEntry {
    ListEntry { digest: value.digest, offset_bytes: place.offset_bytes, class: place.class }
}

#[cfg(test)]
mod tests;
