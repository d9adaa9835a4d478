//! The unsealed segments that a store goes on with: copied, or, if all that is in them is known to
//! be durable, as they are.

use bytes::Bytes;
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Disk, DiskExt, Epoch, LogKind};
use pinstone_wal::{
    CarriedRecord, Closing, CommitRecord, FRAMES_START_BYTES, LogEnd, LogPosition, RecordKind,
    Scan, SegmentFile, SegmentHeader, create_segment_with,
};

use super::read::{LogBefore, Unsealed};
use crate::error::Result;
use crate::state::carried::CarriedPlace;
use crate::stats::Recovery;

/// The unsealed segments that the store goes on with.
pub(super) struct Tails {
    pub(super) all: Vec<Closing>,
    /// The last one takes no more frames.
    complete: bool,
    /// What they carry of the blob log.
    pub(super) carried: Vec<CarriedPlace>,
}

impl Tails {
    /// Bytes by which they are longer than `segment_bytes` each.
    pub(super) fn oversize_bytes(&self, segment_bytes: u64) -> u64 {
        self.all.iter().map(|tail| tail.frames_end_bytes.saturating_sub(segment_bytes)).sum()
    }

    /// The one to append to, if any.
    pub(super) fn active(&self) -> Option<&Closing> {
        if self.complete { None } else { self.all.last() }
    }

    /// The one to append to, if any, and those to be sealed.
    pub(super) fn split(mut self) -> (Option<Closing>, Vec<Closing>) {
        let active = if self.complete { None } else { self.all.pop() };
        (active, self.all)
    }
}

/// The log goes on where it ends, in its one unsealed segment, if it has any, as it is: nothing of it is to be sealed
/// or copied.
pub(super) fn goes_on(before: &LogBefore) -> bool {
    match (before.end, &before.unsealed[..]) {
        (None, []) => true,
        (Some(end), [last]) => {
            !end.complete
                && end.position == position(&last.scan, last.scan.valid_end_bytes)
                && is_durable(last, last.scan.valid_end_bytes, end)
        }
        _ => false,
    }
}

/// The segment, of which the log has this much, was synced up to its last byte, with success, and has all that is
/// carried.
fn is_durable(unsealed: &Unsealed, frames_end_bytes: u64, end: LogEnd) -> bool {
    let scan = &unsealed.scan;
    position(scan, frames_end_bytes) <= end.durable_upto
        && frames_end_bytes == scan.valid_end_bytes
        && !unsealed.is_laid
        && (scan.is_complete() || !scan.dirty_tail)
}

/// The unsealed segments of a log up to its end: copied into new files, or as they are if something
/// testifies that they were synced up to their last byte, with success, and they have all that is carried.
pub(super) fn take_tails(
    disk: &dyn Disk,
    before: &mut LogBefore,
    epoch: Epoch,
    recovery: &mut Recovery,
) -> Result<Tails> {
    let mut tails = Tails { all: Vec::new(), complete: false, carried: Vec::new() };
    let Some(end) = before.end else { return Ok(tails) };
    tails.complete = end.complete;
    for unsealed in before.kept_mut() {
        let scan = &unsealed.scan;
        recovery.segments_laid += u64::from(unsealed.is_laid);
        let is_last = scan.header.ordinal == end.position.ordinal();
        let frames_end_bytes =
            if is_last { end.position.offset_bytes() } else { scan.valid_end_bytes };
        let is_durable = is_durable(unsealed, frames_end_bytes, end);
        let segment = if is_durable || planted::is(Bug::TailNotCopied) {
            unsealed.segment.clone()
        } else {
            copy(disk, unsealed, frames_end_bytes, epoch, recovery)?
        };
        if scan.header.log == LogKind::Pointer {
            scan.records(frames_end_bytes, |_, offset, record| {
                if record.kind == RecordKind::Carried as u8
                    && let Ok(carried) = CarriedRecord::decode(record.payload)
                {
                    let end_bytes = offset + record.len_bytes as u64;
                    let offset_bytes = end_bytes - carried.bytes.len() as u64;
                    let (from, upto) = (carried.from, carried.upto());
                    tails.carried.push(CarriedPlace::new(from, upto, &segment, offset_bytes));
                }
            });
        }
        let sealer = unsealed.sealer.take().unwrap_or_else(|| {
            scan.sealer(frames_end_bytes, |sealer, _, record| {
                if record.kind == RecordKind::Commit as u8
                    && let Ok(commit) = CommitRecord::decode(record.payload)
                {
                    sealer.commit(commit.id);
                }
            })
        });
        tails.all.push(Closing { segment, frames_end_bytes, sealer });
    }
    Ok(tails)
}

fn position(scan: &Scan, offset_bytes: u64) -> LogPosition {
    let offset_bytes = u32::try_from(offset_bytes).expect("a segment is shorter than 4 GiB");
    LogPosition::new(scan.header.ordinal, offset_bytes)
}

fn copy(
    disk: &dyn Disk,
    unsealed: &Unsealed,
    frames_end_bytes: u64,
    epoch: Epoch,
    recovery: &mut Recovery,
) -> Result<SegmentFile> {
    let header = SegmentHeader { epoch, ..unsealed.scan.header };
    let start = usize::try_from(FRAMES_START_BYTES).expect("it is small");
    let end = usize::try_from(frames_end_bytes).expect("the file was read whole");
    let frames: Bytes = unsealed.scan.bytes.slice(start..end);
    recovery.bytes_copied += frames.len() as u64;
    Ok(create_segment_with(disk, header, frames_end_bytes, |copy| {
        disk.write(&copy.file, FRAMES_START_BYTES, frames)
    })?)
}
