//! The segment appended to, and the frame being gathered in it. All of it is protected by the
//! append lock, and none of it does I/O (B3).
//!
//! 1. [`Active`] gives out places in the frame that it gathers, and notes for the sealer what they
//!    hold. Finished, a frame is bytes that are queued to be written (`queue.rs`).
//! 2. [`AppendState`] goes on in the next segment when one is full, and keeps the full one, whose
//!    last frame says that there is a next, to be sealed.
//! 3. What is gathered or queued can be read here; what is written, from its file.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::{File, Ordinal};

use super::BlobLog;
use super::carry::Riding;
use super::queue::Queued;
use crate::appender::Closing;
use crate::digest_list::ListEntry;
use crate::error::WalError;
use crate::frame::{FrameBuilder, FramePlace, frame_bytes};
use crate::position::{LogPosition, Place, SizeClass};
use crate::record::PreparedValue;
use crate::scan::position;
use crate::segment::{FRAMES_START_BYTES, Sealer, SegmentFile};

#[derive(Debug, Default)]
pub(super) struct AppendState {
    pub(super) active: Option<Active>,
    pub(super) next: Option<SegmentFile>,
    pub(super) queued: VecDeque<Arc<Queued>>,
    pub(super) closing: VecDeque<Closing>,
    /// Where the frames end of the segment that is being sealed, outside of `closing`.
    pub(super) sealing: Option<LogPosition>,
    /// The memory of a frame that was written, for the next one: a fresh mebibyte costs more to
    /// map than to fill.
    pub(super) spare: Vec<u8>,
    /// What was written last and may be carried.
    pub(super) riding: Riding,
    /// Files written since a round last took them.
    pub(super) unsynced: BTreeMap<Ordinal, Arc<dyn File>>,
    /// The log was trimmed, to be closed.
    pub(super) trimmed: bool,
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: SegmentFile,
    pub(super) frame_start_bytes: u64,
    pub(super) frame: FrameBuilder,
    pub(super) sealer: Sealer,
    /// Past its frames may stand what a refused value left: recovery copies such a segment, whatever is
    /// known to be durable.
    pub(super) is_dirty: bool,
}

impl AppendState {
    /// Where the frames of each unsealed segment end, those gathered included.
    pub(super) fn unsealed_ends(&self) -> impl Iterator<Item = LogPosition> {
        let closing = self.closing.iter().map(Closing::end);
        closing.chain(self.sealing).chain(self.active.as_ref().map(Active::end))
    }

    /// Bytes of memory of frames that are not written yet, or may be carried, and of the one whose memory is
    /// kept.
    pub(super) fn gathered_bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.frame.capacity_bytes());
        let queued: usize = self.queued.iter().map(|queued| queued.bytes.len()).sum();
        (active + queued + self.riding.memory_bytes() + self.spare.capacity()) as u64
    }

    /// A segment that is not sealed, nor being sealed.
    pub(super) fn unsealed(&self, ordinal: Ordinal) -> Option<&SegmentFile> {
        let closing = self.closing.iter().map(|closing| &closing.segment);
        let mut all = closing.chain(self.active.as_ref().map(|active| &active.segment));
        all.find(|segment| segment.header.ordinal == ordinal)
    }

    /// What will seal the unsealed segments, but for the one that is being sealed.
    pub(super) fn sealers(&self) -> impl Iterator<Item = &Sealer> {
        let closing = self.closing.iter().map(|closing| &closing.sealer);
        closing.chain(self.active.as_ref().map(|active| &active.sealer))
    }

    pub(super) fn check_open(&self) -> Result<(), WalError> {
        if self.trimmed {
            return Err(WalError::Poisoned { cause: "the log was trimmed to be closed".into() });
        }
        Ok(())
    }

    /// Copies a record into the frame being gathered, which has room for it.
    pub(super) fn gather(&mut self, value: &PreparedValue<'_>) -> Place {
        let active = self.active.as_mut().expect("room was made in it, under the same lock");
        let place = active.place(active.frame.len_bytes(), value);
        active.frame.push_raw(value.crc, &[value.header(), value.value]);
        active.sealer.value(entry(value, place));
        place
    }

    /// Finishes and queues the frame being gathered, if it holds anything.
    pub(super) fn finish_frame(&mut self, log: &BlobLog) {
        if let Some(active) = &mut self.active
            && !active.frame.is_empty()
        {
            let spare = std::mem::take(&mut self.spare);
            let queued = active.finish_frame(log, false, spare);
            self.queued.push_back(Arc::new(queued));
        }
    }

    /// Ends the active segment and goes on in the next.
    pub(super) fn rotate(&mut self, log: &BlobLog) {
        let next = self.next.take().expect("the caller looked, under the same lock");
        let next = Active::begin(next, std::mem::take(&mut self.spare));
        let mut full = self.active.replace(next).expect("the first segment is active at once");
        let queued = full.finish_frame(log, true, Vec::new());
        self.closing.push_back(Closing {
            segment: full.segment,
            frames_end_bytes: queued.end_bytes,
            sealer: full.sealer,
        });
        self.queued.push_back(Arc::new(queued));
    }

    /// The last segment that the log has, but for what only waits to be sealed elsewhere.
    pub(super) fn last_ordinal(&self) -> Option<Ordinal> {
        let active = self.active.as_ref().map(|active| active.segment.header.ordinal);
        let next = self.next.as_ref().map(|next| next.header.ordinal);
        let closing = self.closing.back().map(|closing| closing.segment.header.ordinal);
        next.or(active).or(closing)
    }

    /// The position of the last frame appended, gathered ones included.
    pub(super) fn last_position(&self) -> Option<LogPosition> {
        let active = self.active.as_ref()?;
        let ordinal = active.segment.header.ordinal;
        if !active.frame.is_empty() {
            return Some(position(ordinal, active.frame_start_bytes));
        }
        if !active.is_untouched() {
            return Some(position(ordinal, active.frame_start_bytes - 1));
        }
        let closing = self.closing.back()?;
        Some(position(closing.segment.header.ordinal, closing.frames_end_bytes - 1))
    }

    pub(super) fn read(&self, place: Place) -> Option<Bytes> {
        let offset = u64::from(place.offset_bytes);
        if let Some(active) = &self.active
            && active.segment.header.ordinal == place.ordinal
            && offset >= active.frame_start_bytes
        {
            let from = usize::try_from(offset - active.frame_start_bytes).ok()?;
            let len = usize::try_from(place.class.bytes_max()).ok()?;
            let rest = active.frame.bytes().get(from..)?;
            return Some(Bytes::copy_from_slice(&rest[..len.min(rest.len())]));
        }
        let queued = self.queued.iter().find(|queued| {
            queued.segment.header.ordinal == place.ordinal
                && (queued.offset_bytes..queued.end_bytes).contains(&offset)
        })?;
        let from = usize::try_from(offset - queued.offset_bytes).ok()?;
        (from < queued.bytes.len()).then(|| queued.bytes.slice(from..))
    }
}

impl Active {
    pub(super) fn begin(segment: SegmentFile, spare: Vec<u8>) -> Self {
        Self {
            segment,
            frame_start_bytes: FRAMES_START_BYTES,
            frame: FrameBuilder::reusing(spare),
            sealer: Sealer::default(),
            is_dirty: false,
        }
    }

    pub(super) fn is_untouched(&self) -> bool {
        self.frame.is_empty() && self.frame_start_bytes == FRAMES_START_BYTES
    }

    /// The frame being gathered has room for `len_bytes` more.
    pub(super) fn takes(&self, len_bytes: usize, buffer_bytes: usize) -> bool {
        self.frame.is_empty() || self.frame.len_bytes() + len_bytes <= buffer_bytes
    }

    /// Where the frame being gathered begins.
    pub(super) fn start(&self) -> LogPosition {
        position(self.segment.header.ordinal, self.frame_start_bytes)
    }

    /// Where the log ends, the frame being gathered included.
    pub(super) fn end(&self) -> LogPosition {
        let gathered = if self.frame.is_empty() { 0 } else { self.frame.len_bytes() as u64 };
        position(self.segment.header.ordinal, self.frame_start_bytes + gathered)
    }

    /// Bytes of the segment if a record of `len_bytes` were added and it were then sealed.
    pub(super) fn sealed_bytes_with(&self, len_bytes: usize) -> u64 {
        // A record may come into the frame being gathered or into one of its own.
        let gathered = u64::from(self.frame.body_bytes());
        self.frame_start_bytes
            + frame_bytes(gathered)
            + frame_bytes(len_bytes as u64)
            + frame_bytes(0)
            + self.sealer.seal_bytes(1)
    }

    pub(super) fn place(&self, offset_in_frame: usize, value: &PreparedValue<'_>) -> Place {
        let offset_bytes = self.frame_start_bytes + offset_in_frame as u64;
        Place {
            ordinal: self.segment.header.ordinal,
            offset_bytes: u32::try_from(offset_bytes).expect("a segment is shorter than 4 GiB"),
            class: SizeClass::covering(value.len_bytes() as u64),
        }
    }

    pub(super) fn frame_place(&self, log: &BlobLog, last: bool) -> FramePlace {
        FramePlace {
            epoch: log.writer.epoch,
            sequence: u32::try_from(self.sealer.frame_count()).expect("frames have bytes"),
            synced: log.writer.synced.now(),
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
        let (crc, bytes) = frame.finish(self.segment.header.seed(), self.frame_start_bytes, &place);
        self.sealer.frame(crc, &crcs, body_bytes);
        self.advance(bytes.len() as u64, bytes)
    }

    /// Takes the room of a frame.
    pub(super) fn advance(&mut self, frame_bytes: u64, bytes: Bytes) -> Queued {
        let offset_bytes = self.frame_start_bytes;
        self.frame_start_bytes += frame_bytes;
        Queued {
            segment: self.segment.clone(),
            offset_bytes,
            end_bytes: self.frame_start_bytes,
            bytes,
        }
    }
}

/// What a segment lists of a value.
pub(super) fn entry(value: &PreparedValue<'_>, place: Place) -> ListEntry {
    ListEntry { digest: value.digest, offset_bytes: place.offset_bytes, class: place.class }
}
