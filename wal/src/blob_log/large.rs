//! A large value: a frame of its own, written by the thread that puts it.
//!
//! 1. Under the write and the append lock the frame takes its room in the segment and in the queue,
//!    so that what is put meanwhile comes to stand behind it.
//! 2. Under the write lock alone, what is queued before it is written, then the value from the
//!    caller's memory, a part at a time; its header last.
//! 3. If that fails, the room is given back; or, if something was put behind it meanwhile, a frame
//!    that means nothing takes its place in the queue and in what will seal the segment. So a value
//!    that is refused again and again uses up neither segments nor space.
//!
//! - B4: a value that was refused is not in the log, now or later. A large value's header is
//!   written after all the rest of it, so that there is no whole frame of a value that was refused.
//! - B8: the write lock is held until `insert` has returned. So of a segment that
//!   [`BlobLog::take_closing`] gives out every value was told: who wrote its last frame had that lock
//!   later.

use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::DiskExt;
use pinstone_disk::codec::size;

use super::active::{Active, AppendState, entry};
use super::queue::Queued;
use super::{Appended, BlobLog, Room};
use crate::digest_list::ListEntry;
use crate::error::WalError;
use crate::frame::{
    BodyCheck, FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameHeader, FrameKind, encoded_crc,
};
use crate::position::Place;
use crate::record::PreparedValue;

/// Bytes of a large value that one operation writes; as many are copied at a time.
const WRITE_BYTES: usize = 1 << 20;

/// A large value's frame on its way.
pub(super) struct Large {
    pub(super) room: Arc<Queued>,
    /// What stands before the value's bytes.
    pub(super) head: Bytes,
    pub(super) sequence: u32,
}

impl BlobLog {
    /// Appends a value in a frame of its own, written before this returns. Holding the write lock
    /// all along, one large value at a time is on its way.
    pub(super) fn append_large(
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
            // Again: writing may have taken long.
            if known() {
                return Ok(Appended::Known);
            }
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
            self.take_back(&large, entry(value, place));
            return Err(error);
        }
        self.note_written(&large.room, large.room.end_bytes - large.room.offset_bytes);
        insert(place);
        Ok(Appended::At(place))
    }

    /// Writes a large value's frame, its header last (B4). Without space for it, the file is as
    /// long as it was.
    fn write_large(&self, large: &Large, value: &PreparedValue<'_>) -> Result<(), WalError> {
        let Queued { segment, offset_bytes, end_bytes, .. } = &*large.room;
        let file = &segment.file;
        let write = || {
            if *end_bytes > self.options.segment_bytes {
                file.allocate(*end_bytes)?;
            }
            let mut at = offset_bytes + large.head.len() as u64;
            for part in value.value.chunks(WRITE_BYTES) {
                self.writer.disk.write(file, at, Bytes::copy_from_slice(part))?;
                at += part.len() as u64;
            }
            let padding = Bytes::from_static(&[0; FRAME_ALIGN_BYTES]).slice(..size(end_bytes - at));
            if !padding.is_empty() {
                self.writer.disk.write(file, at, padding)?;
            }
            self.writer.disk.write(file, *offset_bytes, large.head.clone())
        };
        let len_before_bytes = file.len_bytes();
        write().map_err(|error| {
            if error.is_no_space()
                && let Ok(len_before_bytes) = len_before_bytes
            {
                // What was had of the space is of use to others. Should this fail, too, the space
                // is had back when the segment is sealed.
                let _ = file.set_len(len_before_bytes);
            }
            self.refused(error)
        })
    }

    /// Gives back the room of a large frame that could not be written; if something was put behind
    /// it, replaces the frame by one that says so, to be written when the queue is. The write lock
    /// is held and something is queued, so its segment is the active one still.
    pub(super) fn take_back(&self, large: &Large, listed: ListEntry) {
        let mut state = self.append.lock();
        let AppendState { active, queued, .. } = &mut *state;
        let Queued { segment, offset_bytes, end_bytes, .. } = &*large.room;
        let active = active.as_mut().expect("a large value went to the active segment");
        active.is_dirty = true;
        assert_eq!(active.segment.header, segment.header, "nothing ends a segment meanwhile");
        let slot = queued.iter().position(|queued| Arc::ptr_eq(queued, &large.room));
        let slot = slot.expect("only its own thread takes it from the queue");
        if active.frame_start_bytes == *end_bytes && active.frame.is_empty() {
            assert_eq!(slot + 1, queued.len(), "frames are queued in order");
            queued.pop_back();
            active.frame_start_bytes = *offset_bytes;
            active.sealer.take_back(listed);
            return;
        }
        let header = FrameHeader {
            kind: FrameKind::Void,
            last: false,
            body_bytes: u32::try_from(end_bytes - offset_bytes - FRAME_HEADER_BYTES as u64)
                .expect("the frame it replaces had this length at least"),
            body_check: 0,
            epoch: self.writer.epoch,
            sequence: large.sequence,
            synced: self.writer.synced.now(),
        };
        let encoded = header.encode(segment.header.seed(), *offset_bytes);
        active.sealer.void(&header, encoded_crc(&encoded), listed);
        queued[slot] = Arc::new(Queued {
            segment: segment.clone(),
            offset_bytes: *offset_bytes,
            end_bytes: *end_bytes,
            bytes: Bytes::copy_from_slice(&encoded),
        });
    }
}

impl Active {
    /// Takes the room of a large value's frame.
    pub(super) fn take_large(&mut self, log: &BlobLog, value: &PreparedValue<'_>) -> Large {
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
        let encoded = header.encode(self.segment.header.seed(), self.frame_start_bytes);
        let head = Bytes::from([&encoded, value.header()].concat());
        self.sealer.frame(encoded_crc(&encoded), &[value.crc], header.body_bytes);
        let room = Arc::new(self.advance(header.frame_bytes(), Bytes::new()));
        Large { room, head, sequence: header.sequence }
    }
}
