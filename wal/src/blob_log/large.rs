//! A large value: a frame of its own, written by the thread that puts it.
//!
//! 1. Under the write and the append lock the frame takes its room in the segment and in the queue,
//!    so that what is put meanwhile comes to stand behind it.
//! 2. Under the write lock alone, what is queued before it is written, then the value from the
//!    caller's memory, a part at a time; its header last.
//! 3. If that fails, a frame that means nothing takes its place in the queue and in what will seal
//!    the segment.
//!
//! - B4: a value that was refused is not in the log, now or later. A large value's header is
//!   written after all the rest of it, so that there is no whole frame of a value that was refused.

use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::DiskExt;
use pinstone_disk::codec::size;

use super::active::{Active, entry};
use super::queue::Queued;
use super::{Appended, BlobLog, Room};
use crate::error::WalError;
use crate::frame::{
    BodyCheck, FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, FrameKind, encoded_crc, frame_bytes,
};
use crate::position::Place;
use crate::record::PreparedValue;
use crate::segment::ListEntry;

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
    pub(super) fn void(&self, large: &Large, listed: ListEntry) {
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
        let encoded = header.encode(self.segment.header.seed(), self.frame_start);
        let head = Bytes::from([&encoded, value.header()].concat());
        self.sealer.frame(encoded_crc(&encoded), &[value.crc], header.body_bytes);
        let room = Arc::new(self.advance(header.frame_bytes(), Bytes::new()));
        Large { room, head, sequence: header.sequence }
    }
}
