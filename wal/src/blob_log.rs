//! The blob log's end: many threads append values, few writes carry them, fewer syncs.
//!
//! 1. A put prepares its record (hash, checksum) outside every lock, takes the append lock, and
//!    copies the record into the frame being gathered (`active.rs`). A large record gets a frame
//!    to itself and goes straight through (`large.rs`).
//! 2. When the frame is full, or someone needs it written, it is finished and queued; whoever
//!    holds the write lock writes what is queued, in order, without the append lock (`queue.rs`).
//!    Who brings many values appends several of them under one taking of the lock
//!    ([`BlobLog::append_some`]), no more than [`TAKING_VALUES_MAX`] and [`TAKING_BYTES_MAX`] allow.
//! 3. A [`SyncRound`] writes everything out, notes where the log ends, and lets its owner sync the
//!    files; only then is that end known durable (`round.rs`). Or, if it is little, a commit carries what
//!    is written (`carry.rs`).
//! 4. A segment that is full ends with its last frame, and the next one, made ready before, goes
//!    on. [`BlobLog::take_closing`] hands out the full ones to be sealed, once they are durable.
//!
//! - B3: nobody writes or syncs while holding the append lock.
//!
//! B1, B5 and B7 are in `queue.rs`, B2 and B6 in `round.rs`, B4 and B8 in `large.rs`, B9 in `carry.rs`.
//!
//! Lock order: round, then write, then append.

use bytes::Bytes;
use pinstone_disk::LogKind;
use pinstone_disk::env::{AtomicBool, AtomicU64, Mutex, Ordering};

use self::active::{Active, AppendState};
pub use self::carry::CARRIED_BYTES_MAX;
pub use self::round::SyncRound;
use crate::appender::Closing;
use crate::error::WalError;
use crate::frame::FrameBuilder;
use crate::position::{LogPosition, Place};
use crate::record::PreparedValue;
use crate::scan::position;
use crate::segment::{FRAMES_START_BYTES, Sealer, SegmentFile};
use crate::writer::Writer;

mod active;
mod carry;
mod large;
mod queue;
mod round;

/// Values that one taking of the append lock appends, at most: a fraction of a millisecond, so that whoever
/// brings many does not keep others waiting.
pub const TAKING_VALUES_MAX: usize = 256;

/// Bytes of records after which it appends no more.
pub const TAKING_BYTES_MAX: usize = 256 << 10;

/// Bytes that a copy of the segment whose frames end at `end` takes on a device, about; none if it
/// is known to be durable, because the log is said to be up to `told`.
pub fn copy_bytes(end: LogPosition, told: LogPosition) -> u64 {
    /// What files take is a multiple of this, on most file systems.
    const BLOCK_BYTES: u64 = 4096;
    if end <= told { 0 } else { end.offset_bytes().next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES }
}

/// The limits of a blob log.
#[derive(Clone, Copy, Debug)]
pub struct BlobLogOptions {
    /// Bytes of a sealed segment, unless one value needs more.
    pub segment_bytes: u64,
    /// Values of a segment, one at least: what is kept in memory of each until the segment is sealed
    /// is the same however short the value.
    pub segment_values_max: u64,
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
    writer: Writer,
    options: BlobLogOptions,
    round: Mutex<()>,
    write: Mutex<()>,
    append: Mutex<AppendState>,
    written_upto: AtomicU64,
    written_bytes: AtomicU64,
    /// The pointer log carries what was written and not synced, up to here.
    carried_upto: AtomicU64,
    /// Bytes carried since the last round.
    carried_bytes: AtomicU64,
    due: AtomicBool,
    /// Something was appended since the log was opened: only then does it go on.
    appended: AtomicBool,
}

/// Whether a record can be appended.
#[derive(Clone, Copy, PartialEq, Eq)]
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
    pub fn new(
        writer: Writer,
        options: BlobLogOptions,
        active: Option<Closing>,
        closing: Vec<Closing>,
    ) -> Self {
        let active = active.map(|segment| Active {
            segment: segment.segment,
            frame_start_bytes: segment.frames_end_bytes,
            frame: FrameBuilder::with_capacity(0),
            sealer: segment.sealer,
            is_dirty: false,
        });
        let written = match (&active, closing.last()) {
            (Some(active), _) => active.start(),
            (None, Some(last)) => last.end(),
            (None, None) => LogPosition::START,
        };
        writer.synced.raise(LogKind::Blob, written);
        let state = AppendState { active, closing: closing.into(), ..AppendState::default() };
        Self {
            writer,
            options,
            round: Mutex::new(()),
            write: Mutex::new(()),
            append: Mutex::new(state),
            written_upto: AtomicU64::new(written.number()),
            written_bytes: AtomicU64::new(0),
            carried_upto: AtomicU64::new(LogPosition::START.number()),
            carried_bytes: AtomicU64::new(0),
            due: AtomicBool::new(true),
            appended: AtomicBool::new(false),
        }
    }

    /// Appends a value unless `known` says that it is there already, or not to be appended for
    /// another reason; `insert` is told its place once it can be read. No two threads append the
    /// same value: from the question to the insertion a lock is held that the other needs, too. When
    /// the value takes its room, `known` has answered under the append lock, which is held since:
    /// [`BlobLog::copies_bytes`] counts it, or is asked before `known`. Not durable on return.
    ///
    /// # Errors
    /// [`WalError::Disk`] with *no space*: nothing was appended. [`WalError::Poisoned`].
    pub fn append(
        &self,
        value: &PreparedValue<'_>,
        known: impl Fn() -> bool,
        insert: impl FnOnce(Place),
    ) -> Result<Appended, WalError> {
        if self.is_large(value) {
            return self.append_large(value, known, insert);
        }
        loop {
            self.writer.poison.check()?;
            let mut state = self.append.lock();
            state.check_open()?;
            if known() {
                return Ok(Appended::Known);
            }
            match self.make_room(&mut state, value.len_bytes()) {
                Room::Is if self.takes(&state, value) => {
                    let place = state.gather(value);
                    insert(place);
                    self.note_due(&state);
                    return Ok(Appended::At(place));
                }
                Room::Is => {
                    drop(state);
                    self.write_full(value.len_bytes())?;
                }
                Room::Unwritten => {
                    drop(state);
                    self.write_out()?;
                }
                Room::NeedsSegment => return Ok(Appended::NeedsSegment),
            }
        }
    }

    /// Appends the first of `values` under one taking of the lock, in their order; says what became of
    /// each, for as many as it came to: until one has no room without something being written or brought,
    /// or is large, or [`TAKING_VALUES_MAX`] or [`TAKING_BYTES_MAX`] is reached. That may be none: then
    /// [`BlobLog::append`] is for the first. `known` and `insert` are told which value is meant, and are as
    /// there; a value that stands twice is known the second time, if `known` looks where `insert` puts it.
    /// Writes nothing.
    ///
    /// # Errors
    /// [`WalError::Poisoned`]: nothing was appended.
    pub fn append_some(
        &self,
        values: &[PreparedValue<'_>],
        known: impl Fn(&PreparedValue<'_>) -> bool,
        insert: impl Fn(&PreparedValue<'_>, Place),
    ) -> Result<Vec<Appended>, WalError> {
        let mut done = Vec::with_capacity(values.len().min(TAKING_VALUES_MAX));
        let mut bytes = 0;
        self.writer.poison.check()?;
        let mut state = self.append.lock();
        state.check_open()?;
        for value in values.iter().take(TAKING_VALUES_MAX) {
            if bytes >= TAKING_BYTES_MAX || self.is_large(value) {
                break;
            }
            if known(value) {
                done.push(Appended::Known);
                continue;
            }
            let room = self.make_room(&mut state, value.len_bytes());
            if room != Room::Is || !self.takes(&state, value) {
                break;
            }
            let place = state.gather(value);
            insert(value, place);
            done.push(Appended::At(place));
            bytes += value.len_bytes();
        }
        if bytes > 0 {
            self.note_due(&state);
        }
        Ok(done)
    }

    /// The value gets a frame to itself.
    fn is_large(&self, value: &PreparedValue<'_>) -> bool {
        value.len_bytes() > self.options.buffer_bytes / 4
    }

    /// The frame being gathered has room for the record.
    fn takes(&self, state: &AppendState, value: &PreparedValue<'_>) -> bool {
        let active = state.active.as_ref();
        active.is_some_and(|active| active.takes(value.len_bytes(), self.options.buffer_bytes))
    }

    /// Sees to it that the active segment has room for a record of `len_bytes`, going on in the
    /// next segment if need be.
    fn make_room(&self, state: &mut AppendState, len_bytes: usize) -> Room {
        if let Some(active) = &state.active {
            let fits = active.sealed_bytes_with(len_bytes) <= self.options.segment_bytes
                && active.sealer.value_count() < self.options.segment_values_max;
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

    /// The log goes on in `next` when the active segment is full.
    ///
    /// # Errors
    /// `next` itself, if one waits already.
    ///
    /// # Panics
    /// If `next` does not come after every segment that the log has (B1).
    pub fn offer(&self, next: SegmentFile) -> Result<(), SegmentFile> {
        let mut state = self.append.lock();
        assert!(state.last_ordinal() < Some(next.header.ordinal), "segments come in order");
        if state.active.is_none() {
            let start = position(next.header.ordinal, FRAMES_START_BYTES);
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

    /// Ends the active segment where it is and goes on in the next, so that the ended one can be sealed. False if
    /// there is no next, or nothing to end.
    ///
    /// # Errors
    /// As [`BlobLog::write_out`].
    pub fn go_on(&self) -> Result<bool, WalError> {
        loop {
            self.write_out()?;
            let mut state = self.append.lock();
            state.check_open()?;
            let has_frames = state.active.as_ref().is_some_and(|active| !active.is_untouched());
            if state.next.is_none() || !has_frames {
                return Ok(false);
            }
            // Others may have appended since.
            if state.queued.is_empty() {
                state.rotate(self);
                self.note_due(&state);
                return Ok(true);
            }
        }
    }

    /// A segment waits to follow the active one.
    pub fn has_next(&self) -> bool {
        self.append.lock().next.is_some()
    }

    /// The active segment is more than half full, by its bytes or its values, and none waits to
    /// follow it.
    pub fn wants_next(&self) -> bool {
        self.appended.load(Ordering::Relaxed) && self.is_half_full(&self.append.lock())
    }

    fn is_half_full(&self, state: &AppendState) -> bool {
        let BlobLogOptions { segment_bytes, segment_values_max, .. } = self.options;
        state.next.is_none()
            && state.active.as_ref().is_some_and(|active| {
                active.end().offset_bytes() > segment_bytes / 2
                    || active.sealer.value_count() > segment_values_max / 2
            })
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

    /// A full segment is yet to be sealed, or is being sealed.
    pub fn is_behind(&self) -> bool {
        let state = self.append.lock();
        !state.closing.is_empty() || state.sealing.is_some()
    }

    /// Bytes by which segments that are not sealed are longer than they should be, because of values
    /// that have one to themselves.
    pub fn oversize_bytes(&self) -> u64 {
        let state = self.append.lock();
        let ends = state.unsealed_ends().map(LogPosition::offset_bytes);
        ends.map(|end| end.saturating_sub(self.options.segment_bytes)).sum()
    }

    /// Bytes that copies of the unsealed segments take on a device, about, of those with anything
    /// beyond `told`, and of one in which something may stand past its frames.
    pub fn copies_bytes(&self, told: LogPosition) -> u64 {
        let state = self.append.lock();
        let dirty = state.active.as_ref().filter(|active| active.is_dirty).map(Active::end);
        let bytes =
            |end| copy_bytes(end, if dirty == Some(end) { LogPosition::START } else { told });
        state.unsealed_ends().map(bytes).sum()
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
            let last = position(oldest.segment.header.ordinal, oldest.frames_end_bytes - 1);
            if self.writer.synced.of(LogKind::Blob) > last {
                let closing = state.closing.pop_front();
                state.sealing = closing.as_ref().map(Closing::end);
                return Ok(closing);
            }
            drop(state);
            self.sync(last)?;
        }
    }

    /// Gives back a segment that could not be sealed now.
    pub fn return_closing(&self, closing: Closing) {
        let mut state = self.append.lock();
        state.sealing = None;
        state.closing.push_front(closing);
    }

    /// The segment taken last is sealed, and the root says so.
    pub fn note_sealed(&self) {
        self.append.lock().sealing = None;
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

    /// Figures of the log's end.
    pub fn figures(&self) -> BlobLogFigures {
        let state = self.append.lock();
        BlobLogFigures {
            end: state.active.as_ref().map_or(LogPosition::START, Active::end),
            unsealed_ends: state.unsealed_ends().collect(),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
            sealer_memory_bytes: state.sealers().map(Sealer::memory_bytes).sum(),
            gathered_bytes: state.gathered_bytes(),
        }
    }
}

/// Figures of the log's end.
#[derive(Clone, Debug)]
pub struct BlobLogFigures {
    /// Where the next record goes.
    pub end: LogPosition,
    /// Where the frames of each unsealed segment end, those gathered included. The next one, while
    /// it waits, has none.
    pub unsealed_ends: Vec<LogPosition>,
    /// Bytes written since the log was opened.
    pub written_bytes: u64,
    /// Bytes of memory that hold what will seal the active segment and those that are full, but for
    /// one that was taken to be sealed.
    pub sealer_memory_bytes: u64,
    /// Bytes of memory of frames that are not written yet, or may be carried, and of one that was.
    pub gathered_bytes: u64,
}

#[cfg(test)]
mod tests;
