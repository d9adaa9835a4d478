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
//!    on. [`BlobLog::take_closing`] hands out the full ones to be sealed.
//!
//! - B1: positions are given out in order, and every position below `written_upto` is written.
//! - B2: a position is durable only by a round that began after it was written.
//! - B3: nobody writes or syncs while holding the append lock.
//! - B4: a value that was refused is not in the log, now or later; one that was accepted is kept
//!   until written, however often the device is full (P9).
//! - B5: at most one frame is gathered, one is queued, and one a segment that ended in between.
//!
//! Lock order: round, then write, then append.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::env::{AtomicU64, Mutex, MutexGuard, Ordering};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Batch, Disk, DiskError, DiskExt, File, LogKind, Op};

use crate::appender::Closing;
use crate::error::WalError;
use crate::frame::{
    BodyCheck, FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, FrameKind, FramePlace, SyncedUpto,
    encoded_crc, frame_bytes,
};
use crate::poison::{Poison, chain};
use crate::position::{LogPosition, Place, SizeClass};
use crate::record::{PreparedValue, StoreSeed};
use crate::scan::position;
use crate::segment::{ListEntry, SEGMENT_HEADER_BYTES, Sealer, SegmentFile};

/// Bytes of a large value that one operation writes.
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
}

#[derive(Debug, Default)]
struct AppendState {
    active: Option<Active>,
    next: Option<SegmentFile>,
    queued: VecDeque<Arc<Queued>>,
    closing: VecDeque<Closing>,
    /// Files written since a round last took them.
    unsynced: BTreeMap<u32, Arc<dyn File>>,
}

#[derive(Debug)]
struct Active {
    segment: SegmentFile,
    frame_start: u64,
    frame: FrameBuilder,
    sealer: Sealer,
}

/// A finished frame, to be written.
#[derive(Debug)]
struct Queued {
    segment: SegmentFile,
    offset_bytes: u64,
    end: u64,
    parts: Vec<Bytes>,
}

impl BlobLog {
    /// The log that goes on from the end of `active`, if any, with the segments in `closing` yet
    /// to be sealed. All of it is durable up to `end`.
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
            frame: FrameBuilder::with_capacity(options.buffer_bytes),
            sealer: segment.sealer,
        });
        let written = active.as_ref().map_or(LogPosition::START, Active::start);
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
            if !self.make_room(&mut state, value.len_bytes()) {
                return Ok(Appended::NeedsSegment);
            }
            let active = state.active.as_mut().expect("make_room said that there is one");
            if active.frame.len_bytes() + value.len_bytes() > self.options.buffer_bytes
                && !active.frame.is_empty()
            {
                drop(state);
                self.write_out()?;
                continue;
            }
            if known() {
                return Ok(Appended::Known);
            }
            let place = active.place(active.frame.len_bytes(), value);
            active.frame.push_raw(value.crc, &[value.header(), value.value]);
            active.sealer.value(entry(value, place));
            insert(place);
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
        self.poison.check()?;
        let write = self.write.lock();
        if known() {
            return Ok(Appended::Known);
        }
        // What was gathered before goes first: if there is no room for it, there is none for this.
        self.write_queued(&write)?;
        let (queued, sequence, place) = {
            let mut state = self.append.lock();
            if !self.make_room(&mut state, value.len_bytes()) {
                return Ok(Appended::NeedsSegment);
            }
            state.finish_frame(self);
            let active = state.active.as_mut().expect("make_room said that there is one");
            let place = active.place(FRAME_HEADER_BYTES, value);
            let header = active.large_header(self, value);
            let queued = active.queue_large(&header, value);
            active.sealer.value(entry(value, place));
            state.queued.push_back(Arc::clone(&queued));
            (queued, header.sequence, place)
        };
        if let Err(error) = self.write_queued(&write) {
            self.void(&queued, sequence, entry(value, place));
            return Err(error);
        }
        insert(place);
        Ok(Appended::At(place))
    }

    /// Replaces a large frame that could not be written by one that says so, to be written when
    /// the queue is; gives its room back if nothing was appended after it. The write lock is held,
    /// so its segment was not sealed meanwhile.
    fn void(&self, refused: &Arc<Queued>, sequence: u32, listed: ListEntry) {
        let mut state = self.append.lock();
        let Some(slot) = state.queued.iter().position(|queued| Arc::ptr_eq(queued, refused)) else {
            return;
        };
        let segment = refused.segment.clone();
        let offset_bytes = refused.offset_bytes;
        let mut end = refused.end;
        if let Some(active) = &mut state.active
            && active.segment.header == segment.header
            && active.frame_start == end
            && active.frame.is_empty()
        {
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
            sequence,
            synced: self.synced.now(),
        };
        let encoded = header.encode(segment.header.seed(), offset_bytes);
        let sealer = state.sealer_of(segment.header.ordinal);
        sealer.expect("the segment is not sealed").void(&header, encoded_crc(&encoded), listed);
        let parts = vec![Bytes::copy_from_slice(&encoded)];
        state.queued[slot] = Arc::new(Queued { segment, offset_bytes, end, parts });
    }

    /// Sees to it that the active segment has room for a record of `len_bytes`, going on in the
    /// next segment if need be; false if there is none.
    fn make_room(&self, state: &mut AppendState, len_bytes: usize) -> bool {
        if let Some(active) = &state.active {
            let fits = active.sealed_bytes_with(len_bytes) <= self.options.segment_bytes;
            if fits || active.is_untouched() {
                return true;
            }
        }
        let Some(next) = state.next.take() else { return false };
        state.rotate(self, next);
        true
    }

    /// The log goes on in `next` when the active segment is full; refused if one waits already.
    pub fn offer(&self, next: SegmentFile) -> Result<(), SegmentFile> {
        let mut state = self.append.lock();
        if state.active.is_none() {
            let start = position(next.header.ordinal, SEGMENT_HEADER_BYTES as u64);
            self.written_upto.fetch_max(start.number(), Ordering::AcqRel);
            state.active = Some(Active::begin(next, self.options.buffer_bytes));
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
        let state = self.append.lock();
        let half = self.options.segment_bytes / 2;
        state.next.is_none()
            && state.active.as_ref().is_some_and(|active| active.end().offset_bytes() > half)
    }

    /// How many full segments are yet to be sealed.
    pub fn closing_count(&self) -> usize {
        self.append.lock().closing.len()
    }

    /// Takes the oldest full segment, all of it written, to be sealed.
    pub fn take_closing(&self) -> Result<Option<Closing>, WalError> {
        let state = self.append.lock();
        let Some(oldest) = state.closing.front() else { return Ok(None) };
        let end = position(oldest.segment.header.ordinal, oldest.frames_end);
        drop(state);
        if self.written_upto() < end {
            self.write_out()?;
        }
        Ok(self.append.lock().closing.pop_front())
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
        self.append.lock().finish_frame(self);
        self.write_queued(&write)
    }

    /// Writes what is queued, in order.
    fn write_queued(&self, _write: &MutexGuard<'_, ()>) -> Result<(), WalError> {
        self.poison.check()?;
        loop {
            let Some(queued) = self.append.lock().queued.front().cloned() else { return Ok(()) };
            if let Err(error) = self.write_one(&queued) {
                if error.is_no_space() {
                    return Err(error.into());
                }
                return Err(self.poison.set(chain(&error)));
            }
            let mut state = self.append.lock();
            state.queued.pop_front();
            let ordinal = queued.segment.header.ordinal;
            state.unsynced.insert(ordinal, Arc::clone(&queued.segment.file));
            let end = position(ordinal, queued.end);
            self.written_upto.fetch_max(end.number(), Ordering::AcqRel);
            let len_bytes = queued.parts.iter().map(|part| part.len() as u64).sum();
            self.written_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        }
    }

    fn write_one(&self, queued: &Queued) -> Result<(), DiskError> {
        let file = &queued.segment.file;
        if queued.end > self.options.segment_bytes {
            file.allocate(queued.end)?;
        }
        let mut chain = Vec::with_capacity(queued.parts.len());
        let mut offset_bytes = queued.offset_bytes;
        for part in &queued.parts {
            let data = part.clone();
            chain.push(Op::Write { file: Arc::clone(file), offset_bytes, data });
            offset_bytes += part.len() as u64;
        }
        self.disk.one(chain).map(drop)
    }

    /// Begins a round: waits for the one in progress, writes everything out, and notes what must
    /// be synced for it to be durable.
    ///
    /// # Errors
    /// As [`BlobLog::write_out`].
    pub fn begin_round(&self) -> Result<SyncRound<'_>, WalError> {
        let guard = self.round.lock();
        self.begin_round_holding(guard)
    }

    fn begin_round_holding<'a>(
        &'a self,
        guard: MutexGuard<'a, ()>,
    ) -> Result<SyncRound<'a>, WalError> {
        self.write_out()?;
        let mut state = self.append.lock();
        // Between the writing and this lock more may have been written; it is in `unsynced` too,
        // and was written before the syncs to come are submitted.
        let upto = self.written_upto();
        let files = std::mem::take(&mut state.unsynced);
        drop(state);
        Ok(SyncRound { log: self, files, upto, _guard: guard })
    }

    /// Returns once every position below and at `position` is durable.
    ///
    /// # Errors
    /// As [`BlobLog::write_out`]; a failed sync ends writing.
    pub fn sync(&self, position: LogPosition) -> Result<(), WalError> {
        loop {
            if self.synced.of(LogKind::Blob) > position {
                return Ok(());
            }
            self.poison.check()?;
            let guard = self.round.lock();
            if self.synced.of(LogKind::Blob) > position {
                return Ok(());
            }
            let round = self.begin_round_holding(guard)?;
            let mut results = self.disk.run(Batch { chains: round.chains() });
            let failed = results.drain(..).find_map(Result::err);
            round.finish(failed.map_or(Ok(()), Err))?;
        }
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
        last.map_or(Ok(()), |last| self.sync(last))
    }

    /// Cuts what was reserved beyond the end, once everything is written and synced.
    ///
    /// # Errors
    /// What cutting says.
    pub fn trim(&self) -> Result<(), WalError> {
        let state = self.append.lock();
        let active = state.active.as_ref();
        let active = active.map(|active| (&active.segment.file, active.frame_start));
        let next = state.next.as_ref().map(|next| (&next.file, SEGMENT_HEADER_BYTES as u64));
        for (file, end) in active.into_iter().chain(next) {
            file.set_len(end)?;
            self.disk.sync(file)?;
        }
        Ok(())
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
#[derive(Debug)]
#[must_use = "what is not finished is not durable"]
pub struct SyncRound<'a> {
    log: &'a BlobLog,
    files: BTreeMap<u32, Arc<dyn File>>,
    upto: LogPosition,
    _guard: MutexGuard<'a, ()>,
}

impl SyncRound<'_> {
    /// Where the log will be durable to.
    pub fn upto(&self) -> LogPosition {
        self.upto
    }

    /// The syncs to carry out, each in a chain of its own.
    pub fn chains(&self) -> Vec<Vec<Op>> {
        if planted::is(Bug::BlobSyncSkipped) {
            return Vec::new();
        }
        self.files.values().map(|file| vec![Op::Sync { file: Arc::clone(file) }]).collect()
    }

    /// Ends the round: durable if the syncs succeeded; otherwise writing ends (P6).
    pub fn finish(self, result: Result<(), DiskError>) -> Result<(), WalError> {
        if let Err(error) = result {
            return Err(self.log.poison.set(chain(&error)));
        }
        let upto =
            if planted::is(Bug::JoinSyncInFlight) { self.log.written_upto() } else { self.upto };
        self.log.synced.raise(LogKind::Blob, upto);
        Ok(())
    }

    /// Gives the round up before its syncs: what it would have synced is left to the next.
    pub fn abandon(mut self) {
        let mut state = self.log.append.lock();
        state.unsynced.append(&mut self.files);
    }
}

impl AppendState {
    /// Finishes and queues the frame being gathered, if it holds anything.
    fn finish_frame(&mut self, log: &BlobLog) {
        if let Some(active) = &mut self.active
            && !active.frame.is_empty()
        {
            let queued = active.finish_frame(log, false);
            self.queued.push_back(Arc::new(queued));
        }
    }

    /// Ends the active segment, if any, and goes on in `next`.
    fn rotate(&mut self, log: &BlobLog, next: SegmentFile) {
        let next = Active::begin(next, log.options.buffer_bytes);
        if let Some(mut full) = self.active.replace(next) {
            let queued = full.finish_frame(log, true);
            self.closing.push_back(Closing {
                segment: full.segment,
                frames_end: queued.end,
                sealer: full.sealer,
            });
            self.queued.push_back(Arc::new(queued));
        }
    }

    fn sealer_of(&mut self, ordinal: u32) -> Option<&mut Sealer> {
        let closing =
            self.closing.iter_mut().find(|closing| closing.segment.header.ordinal == ordinal);
        match closing {
            Some(closing) => Some(&mut closing.sealer),
            None => {
                let active = self.active.as_mut()?;
                (active.segment.header.ordinal == ordinal).then_some(&mut active.sealer)
            }
        }
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
        let frame = queued.parts.first()?;
        (from <= frame.len()).then(|| frame.slice(from..))
    }
}

impl Active {
    fn begin(segment: SegmentFile, buffer_bytes: usize) -> Self {
        Self {
            segment,
            frame_start: SEGMENT_HEADER_BYTES as u64,
            frame: FrameBuilder::with_capacity(buffer_bytes),
            sealer: Sealer::default(),
        }
    }

    fn is_untouched(&self) -> bool {
        self.frame.is_empty() && self.frame_start == SEGMENT_HEADER_BYTES as u64
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

    fn finish_frame(&mut self, log: &BlobLog, last: bool) -> Queued {
        let place = self.frame_place(log, last);
        let next = FrameBuilder::with_capacity(log.options.buffer_bytes);
        let frame = std::mem::replace(&mut self.frame, next);
        let crcs = frame.record_crcs().to_vec();
        let body_bytes = frame.body_bytes();
        let (crc, bytes) = frame.finish(self.segment.header.seed(), self.frame_start, &place);
        self.sealer.frame(crc, &crcs, body_bytes);
        self.advance(vec![bytes])
    }

    fn large_header(&self, log: &BlobLog, value: &PreparedValue<'_>) -> FrameHeader {
        let place = self.frame_place(log, false);
        let mut check = BodyCheck::default();
        check.push(value.crc);
        FrameHeader {
            kind: FrameKind::Records,
            last: false,
            body_bytes: u32::try_from(value.len_bytes()).expect("a value is at most 1 GiB"),
            body_check: check.value(),
            epoch: place.epoch,
            sequence: place.sequence,
            synced: place.synced,
        }
    }

    fn queue_large(&mut self, header: &FrameHeader, value: &PreparedValue<'_>) -> Arc<Queued> {
        let encoded = header.encode(self.segment.header.seed(), self.frame_start);
        let mut head = encoded.to_vec();
        head.extend_from_slice(value.header());
        let mut parts = vec![Bytes::from(head)];
        parts.extend(value.value.chunks(WRITE_BYTES).map(Bytes::copy_from_slice));
        let padding = size(header.frame_bytes()) - FRAME_HEADER_BYTES - value.len_bytes();
        parts.push(Bytes::from_static(&[0; 8][..padding]));
        self.sealer.frame(encoded_crc(&encoded), &[value.crc], header.body_bytes);
        Arc::new(self.advance(parts))
    }

    /// Takes the room of a frame made of `parts`.
    fn advance(&mut self, parts: Vec<Bytes>) -> Queued {
        let offset_bytes = self.frame_start;
        self.frame_start += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Queued { segment: self.segment.clone(), offset_bytes, end: self.frame_start, parts }
    }
}

fn entry(value: &PreparedValue<'_>, place: Place) -> ListEntry {
    ListEntry { digest: value.digest, offset_bytes: place.offset_bytes, class: place.class }
}
