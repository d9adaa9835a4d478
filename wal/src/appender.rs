//! The end of a log that one caller at a time appends to: the pointer log and the root log.
//!
//! - A1: a frame that [`Appender::append`] refused is durably not there: its room was cut off
//!   and that cut synced, or writing has ended (P9, P6).
//! - A2: the log goes on in its segments in the order in which they were offered, and leaves none
//!   out: a segment without its last frame would end the log.
//! - A3: a sync that covers a frame is submitted after its write completed; that is the caller's.
//! - A4: what is written ahead is zeros, within what was reserved: a scan takes it for space that was never
//!   written.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Disk, DiskError, DiskExt, OpenMode};

use crate::error::WalError;
use crate::frame::{FRAME_HEADER_BYTES, FrameBuilder, FramePlace, frame_bytes};
use crate::poison::{Poison, chain};
use crate::position::LogPosition;
use crate::scan::position;
use crate::segment::{FRAMES_START_BYTES, Sealer, SegmentFile, SegmentHeader};
use crate::writer::Writer;

/// Creates the file of a segment: reserved up to `reserve_bytes`, its header written, file and
/// name durable on return.
///
/// # Errors
/// Whatever the machine says. The file is removed again if it can be.
pub fn create_segment(
    disk: &dyn Disk,
    header: SegmentHeader,
    reserve_bytes: u64,
) -> Result<SegmentFile, DiskError> {
    create_segment_with(disk, header, reserve_bytes, |_| Ok(()))
}

/// The same, of a segment with what `write` writes into it: all of it takes one sync of the file.
///
/// # Errors
/// Whatever the machine says, or `write`. The file is removed again if it can be.
pub fn create_segment_with<E: From<DiskError>>(
    disk: &dyn Disk,
    header: SegmentHeader,
    reserve_bytes: u64,
    write: impl FnOnce(&SegmentFile) -> Result<(), E>,
) -> Result<SegmentFile, E> {
    let name = header.file_name();
    let file = disk.open(name, OpenMode::Create)?;
    let segment = SegmentFile { header, file };
    let written = (|| {
        segment.file.allocate(reserve_bytes.max(FRAMES_START_BYTES))?;
        disk.write(&segment.file, 0, header.encode().to_vec().into())?;
        write(&segment)?;
        disk.sync(&segment.file)?;
        if planted::is(Bug::DirSyncSkipped) { Ok(()) } else { Ok(disk.sync_dir()?) }
    })();
    if let Err(error) = written {
        // Nothing names the file; what cannot be removed now is removed at the next open.
        let _ = disk.remove(name);
        return Err(error);
    }
    Ok(segment)
}

/// A segment that takes no more frames, on its way to be sealed.
#[derive(Debug)]
pub struct Closing {
    /// The segment.
    pub segment: SegmentFile,
    /// Where its frames end.
    pub frames_end_bytes: u64,
    /// What sealing writes.
    pub sealer: Sealer,
}

/// What sealing made of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its header.
    pub header: SegmentHeader,
    /// Its length from now on.
    pub file_bytes: u64,
    /// Its footer's hash.
    pub footer_hash: [u8; 32],
    /// Records in it.
    pub record_count: u64,
}

impl Closing {
    /// Where its frames end, as a position in the log.
    pub fn end(&self) -> LogPosition {
        position(self.segment.header.ordinal, self.frames_end_bytes)
    }

    /// Writes the footer, cuts what was reserved beyond it, syncs. May be tried again after a
    /// failure other than a failed sync.
    ///
    /// # Errors
    /// [`WalError::Disk`], after which it may be tried again; [`WalError::Poisoned`], also by a sync that
    /// fails here.
    pub fn seal(&mut self, disk: &dyn Disk, poison: &Poison) -> Result<Sealed, WalError> {
        // After a failed sync of these frames a sync of ours would succeed, and mean nothing (D3).
        poison.check()?;
        let header = self.segment.header;
        let file = &self.segment.file;
        let (bytes, footer_hash) = self.sealer.finish(header, self.frames_end_bytes);
        let file_bytes = self.frames_end_bytes + bytes.len() as u64;
        disk.write(file, self.frames_end_bytes, bytes)?;
        file.set_len(file_bytes)?;
        disk.sync(file).map_err(|error| poison.set(chain(&error)))?;
        let record_count = self.sealer.record_count();
        Ok(Sealed { header, file_bytes, footer_hash, record_count })
    }
}

/// The least and the most that [`Appender::write_ahead`] writes at a time. It is as much as the segment has
/// already, within these: a short log costs little, and a long one seldom waits.
const AHEAD_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 20;

/// The growing end of a log.
#[derive(Debug)]
pub struct Appender {
    writer: Writer,
    segment: SegmentFile,
    end_bytes: u64,
    /// Up to here the segment was written, if only zeros.
    ahead_bytes: u64,
    sealer: Sealer,
    /// Segments that a failed rotation left to be gone on in.
    spare: VecDeque<SegmentFile>,
}

impl Appender {
    /// Appends from `end_bytes` on to `segment`, whose frames so far `sealer` has noted.
    pub fn new(writer: Writer, segment: SegmentFile, end_bytes: u64, sealer: Sealer) -> Self {
        let ahead_bytes = end_bytes;
        Self { writer, segment, end_bytes, ahead_bytes, sealer, spare: VecDeque::new() }
    }

    /// The segment appended to.
    pub fn segment(&self) -> &SegmentFile {
        &self.segment
    }

    /// Where the next frame goes.
    pub fn end(&self) -> LogPosition {
        position(self.segment.header.ordinal, self.end_bytes)
    }

    /// Bytes of the segment if a frame with `body_bytes` were appended and it were then sealed.
    pub fn sealed_bytes_with(&self, body_bytes: usize) -> u64 {
        self.end_bytes
            + frame_bytes(body_bytes as u64)
            + FRAME_HEADER_BYTES as u64
            + self.sealer.seal_bytes(0)
    }

    /// No frame was appended to this segment yet.
    pub fn is_empty(&self) -> bool {
        self.end_bytes == FRAMES_START_BYTES
    }

    /// What sealing will write, for the log to add what its records mean.
    pub fn sealer(&mut self) -> &mut Sealer {
        &mut self.sealer
    }

    /// Sees to it that zeros stand where a frame with `body_bytes` is to go, or writes some behind it, as far as
    /// space is reserved. A sync of what is written over them has nothing to note in the file system's
    /// journal, which halves what it takes (decision 0015); the next sync takes longer once.
    ///
    /// # Errors
    /// [`WalError::Disk`] if the file's length cannot be had: nothing was done. [`WalError::Poisoned`]. Without
    /// space there is nothing ahead, and all is well.
    pub fn write_ahead(&mut self, body_bytes: usize) -> Result<(), WalError> {
        let frame_end_bytes = self.end_bytes + frame_bytes(body_bytes as u64);
        if frame_end_bytes <= self.ahead_bytes {
            return Ok(());
        }
        self.writer.poison.check()?;
        let file = &self.segment.file;
        // The frame itself is written before the next sync.
        let start_bytes = frame_end_bytes;
        let ahead_bytes = self.end_bytes.clamp(*AHEAD_BYTES.start(), *AHEAD_BYTES.end());
        let end_bytes = (frame_end_bytes + ahead_bytes).min(file.len_bytes()?);
        if end_bytes <= frame_end_bytes {
            return Ok(());
        }
        let zeros = Bytes::from(vec![0; size(end_bytes - start_bytes)]);
        match self.writer.disk.write(file, start_bytes, zeros) {
            Ok(()) => self.ahead_bytes = end_bytes,
            Err(error) if error.is_no_space() => {}
            Err(error) => return Err(self.writer.poison.set(chain(&error))),
        }
        Ok(())
    }

    /// Writes a frame at the end; it is not durable on return.
    ///
    /// # Errors
    /// [`WalError::Disk`]: nothing was appended, durably (A1). [`WalError::Poisoned`]: that could
    /// not be had; writing has ended.
    #[expect(
        clippy::missing_panics_doc,
        reason = "a frame has bytes, and a segment fewer than 2^32"
    )]
    pub fn append(&mut self, frame: FrameBuilder, last: bool) -> Result<(), WalError> {
        self.writer.poison.check()?;
        let place = FramePlace {
            epoch: self.writer.epoch,
            sequence: u32::try_from(self.sealer.frame_count()).expect("frames have bytes"),
            synced: self.writer.synced.now(),
            last,
        };
        let crcs = frame.record_crcs().to_vec();
        let body_bytes = frame.body_bytes();
        let (crc, bytes) = frame.finish(self.segment.header.seed(), self.end_bytes, &place);
        let len_bytes = bytes.len() as u64;
        if let Err(error) = self.writer.disk.write(&self.segment.file, self.end_bytes, bytes) {
            self.void(&error)?;
            return Err(error.into());
        }
        self.sealer.frame(crc, &crcs, body_bytes);
        self.end_bytes += len_bytes;
        Ok(())
    }

    /// Takes back what a failed write may have left beyond the end.
    fn void(&mut self, error: &DiskError) -> Result<(), WalError> {
        let file = &self.segment.file;
        self.ahead_bytes = self.end_bytes;
        let voided = if error.is_no_space() {
            file.set_len(self.end_bytes)
                .and_then(|()| self.writer.disk.sync(file))
                .map_err(|e| chain(&e))
        } else {
            Err(chain(error))
        };
        voided.map_err(|cause| self.writer.poison.set(cause))
    }

    /// A rotation that failed left a segment to go on in: the next needs no other.
    pub fn has_spare(&self) -> bool {
        !self.spare.is_empty()
    }

    /// As [`Appender::rotate`], into a segment that an earlier one left.
    ///
    /// # Errors
    /// As [`Appender::append`]; [`WalError::Poisoned`] also if the sync fails.
    ///
    /// # Panics
    /// If there is none.
    pub fn rotate_to_spare(&mut self) -> Result<Closing, WalError> {
        assert!(self.has_spare(), "an earlier rotation left a segment");
        self.append(FrameBuilder::with_capacity(0), true)?;
        let synced = self.writer.disk.sync(&self.segment.file);
        synced.map_err(|error| self.writer.poison.set(chain(&error)))?;
        self.writer.synced.raise(self.segment.header.log, self.end());
        let next = self.spare.pop_front().expect("asserted above");
        let closing = Closing {
            segment: std::mem::replace(&mut self.segment, next),
            frames_end_bytes: self.end_bytes,
            sealer: std::mem::take(&mut self.sealer),
        };
        self.end_bytes = FRAMES_START_BYTES;
        self.ahead_bytes = FRAMES_START_BYTES;
        Ok(closing)
    }

    /// Ends the segment with its last frame, syncs it, and goes on in `next`, or, if earlier
    /// rotations failed, in the oldest segment that they were given. The old one is yet to be
    /// sealed.
    ///
    /// Without the sync, frames in `next` could be acknowledged and then lost with the last frame
    /// that leads to them.
    ///
    /// # Errors
    /// As [`Appender::append`]; `next` is kept for the next rotation (A2).
    pub fn rotate(&mut self, next: SegmentFile) -> Result<Closing, WalError> {
        self.spare.push_back(next);
        self.rotate_to_spare()
    }
}
