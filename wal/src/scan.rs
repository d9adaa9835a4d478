//! Reading back an unsealed segment, and the one rule for torn versus corrupt.
//!
//! 1. [`Scan::of`] walks frames from the start to the first invalid byte, then reads on to the
//!    end for later valid frames, and keeps what they testify.
//! 2. [`judge`] lays the scans of all logs side by side. A valid frame whose `synced` lies beyond
//!    the first invalid byte of its log proves that this byte was durable once: corrupt.
//!    Otherwise the log ends there: torn. If that position lies in a segment after all that the
//!    root names, the root has forgotten one: corrupt, whether there are unsealed segments or not.
//!
//! - T1: later valid bytes alone prove nothing; devices reorder.
//! - T2: testimony is taken from every valid frame, also from those that are then cut.

use std::fmt;

use bytes::Bytes;
use pinstone_disk::codec::{Malformed, size};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{FileName, LogKind, Ordinal};

use crate::error::{WalError, corrupt};
use crate::frame::{
    FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Synced, check_body, each_record,
    encoded_crc,
};
use crate::position::LogPosition;
use crate::record::{Record, StoreSeed};
use crate::segment::{FRAMES_START_BYTES, Sealer, SegmentHeader};

/// A valid frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where it begins.
    pub offset_bytes: u64,
    /// Its header.
    pub header: FrameHeader,
}

impl Frame {
    /// Where the next one begins.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.header.frame_bytes()
    }
}

/// What an unsealed segment holds.
#[derive(Debug)]
pub struct Scan {
    /// Its header.
    pub header: SegmentHeader,
    /// All its bytes, as read.
    pub bytes: Bytes,
    /// The valid frames from its start on.
    pub frames: Vec<Frame>,
    /// Where they end.
    pub valid_end_bytes: u64,
    /// What the first bytes past the end should have been.
    pub ended_by: &'static str,
    /// Past the end there is something else than zeros.
    pub dirty_tail: bool,
    /// Where the last byte ends that is not zero; `valid_end_bytes` if there is none past it.
    pub dirty_end_bytes: u64,
    /// The furthest durable position of each log that any valid frame names.
    testified: Synced,
    /// The frame that testifies it, by log, for messages.
    witness_offsets_bytes: [u64; 3],
}

impl Scan {
    /// Scans `bytes`, the whole file of the segment with this header.
    pub fn of(header: SegmentHeader, bytes: Bytes) -> Self {
        let seed = header.seed();
        let store = StoreSeed::new(&header.store_id);
        let file = bytes.clone();
        let mut scan = Self {
            header,
            bytes,
            frames: Vec::new(),
            valid_end_bytes: FRAMES_START_BYTES,
            ended_by: "a frame's header",
            dirty_tail: false,
            dirty_end_bytes: 0,
            testified: Synced::default(),
            witness_offsets_bytes: [0; 3],
        };
        loop {
            let at = scan.valid_end_bytes;
            let rest = file.get(size(at)..).unwrap_or(&[]);
            let frame = FrameHeader::decode(seed, at, rest).and_then(|frame| {
                if at + frame.frame_bytes() > SEGMENT_BYTES_MAX {
                    return Err(Malformed { offset: 4, what: "a frame within its segment" });
                }
                check_body(store, &frame, &rest[FRAME_HEADER_BYTES..])?;
                Ok(frame)
            });
            match frame {
                Ok(frame) if scan.is_complete() => {
                    scan.testify(at, &frame);
                    scan.ended_by = "nothing after a segment's last frame";
                    break;
                }
                Ok(frame) if frame.sequence as usize == scan.frames.len() => scan.push(at, frame),
                Ok(frame) => {
                    // Valid here, yet not the next one: it testifies, and ends the run.
                    scan.testify(at, &frame);
                    scan.ended_by = "a frame's sequence";
                    break;
                }
                Err(error) => {
                    scan.ended_by = error.what;
                    break;
                }
            }
        }
        scan.read_on();
        scan
    }

    fn push(&mut self, offset_bytes: u64, header: FrameHeader) {
        self.testify(offset_bytes, &header);
        self.frames.push(Frame { offset_bytes, header });
        self.valid_end_bytes = offset_bytes + header.frame_bytes();
    }

    fn testify(&mut self, offset_bytes: u64, header: &FrameHeader) {
        for (index, log) in LogKind::ALL.into_iter().enumerate() {
            if header.synced.of(log) > self.testified.of(log) {
                self.witness_offsets_bytes[index] = offset_bytes;
                let position = header.synced.of(log);
                match log {
                    LogKind::Blob => self.testified.blob = position,
                    LogKind::Pointer => self.testified.pointer = position,
                    LogKind::Root => self.testified.root = position,
                }
            }
        }
    }

    /// Looks for valid frames past the end. A header alone testifies: it is bound to its place
    /// and was composed by us, whatever became of its body.
    fn read_on(&mut self) {
        let bytes = self.bytes.clone();
        let seed = self.header.seed();
        self.dirty_end_bytes = self.valid_end_bytes;
        let mut at = size(self.valid_end_bytes).min(bytes.len());
        while let Some(skip) = nonzero(&bytes[at..]) {
            let dirty = at + skip;
            // The first bytes of a header, a checksum and a length, can all be zero.
            at = dirty / FRAME_ALIGN_BYTES * FRAME_ALIGN_BYTES;
            if let Ok(header) = FrameHeader::decode(seed, at as u64, &bytes[at..]) {
                self.testify(at as u64, &header);
            }
            let next = (at + FRAME_ALIGN_BYTES).min(bytes.len());
            if let Some(last) = bytes[at..next].iter().rposition(|byte| *byte != 0) {
                self.dirty_tail = true;
                self.dirty_end_bytes = (at + last) as u64 + 1;
            }
            at = next;
        }
    }

    /// The last frame of the segment is there.
    pub fn is_complete(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.header.last)
    }

    /// Where the valid frames end, as a position in the log.
    pub fn end(&self) -> LogPosition {
        position(self.header.ordinal, self.valid_end_bytes)
    }

    /// Calls `each` with every record of the frames that begin before `end_bytes`: its frame, its
    /// offset in the segment, and itself.
    pub fn records(&self, end_bytes: u64, mut each: impl FnMut(&Frame, u64, Record<'_>)) {
        for frame in self.frames.iter().filter(|frame| frame.offset_bytes < end_bytes) {
            let body = &self.bytes[size(frame.offset_bytes) + FRAME_HEADER_BYTES..];
            each_record(&frame.header, body, |offset, record| {
                each(frame, frame.offset_bytes + offset as u64, record);
            });
        }
    }

    /// What sealing needs to know of the frames that begin before `end_bytes`; `note` adds what the
    /// log's own records mean.
    pub fn sealer(
        &self,
        end_bytes: u64,
        mut note: impl FnMut(&mut Sealer, u64, Record<'_>),
    ) -> Sealer {
        let seed = self.header.seed();
        let mut sealer = Sealer::default();
        for frame in self.frames.iter().filter(|frame| frame.offset_bytes < end_bytes) {
            let mut crcs = Vec::new();
            let body = &self.bytes[size(frame.offset_bytes) + FRAME_HEADER_BYTES..];
            each_record(&frame.header, body, |offset, record| {
                crcs.push(record.crc);
                note(&mut sealer, frame.offset_bytes + offset as u64, record);
            });
            let encoded = frame.header.encode(seed, frame.offset_bytes);
            sealer.frame(encoded_crc(&encoded), &crcs, frame.header.body_bytes);
        }
        sealer
    }
}

/// Bytes of the longest segment: positions have 32 bits for the offset in it.
pub const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64;

/// Where the first byte that is not zero stands. Whole blocks are compared first: what was reserved
/// and not written is long.
fn nonzero(bytes: &[u8]) -> Option<usize> {
    static ZEROS: [u8; 4096] = [0; 4096];
    let zeros = bytes.chunks_exact(ZEROS.len()).take_while(|block| **block == ZEROS).count();
    let skip = zeros * ZEROS.len();
    bytes[skip..].iter().position(|byte| *byte != 0).map(|at| skip + at)
}

/// A position in segment `ordinal`.
pub(crate) fn position(ordinal: Ordinal, offset_bytes: u64) -> LogPosition {
    let offset_bytes = u32::try_from(offset_bytes).expect("a segment is shorter than 4 GiB");
    LogPosition::new(ordinal, offset_bytes)
}

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// The first position that holds nothing valid.
    pub position: LogPosition,
    /// Bytes cut, in this and later segments: from the log's end, or the first frame's place, to
    /// the last byte that is not zero.
    pub cut_bytes: u64,
    /// The segment in which it ends has its last frame: the next append needs another.
    pub complete: bool,
    /// The log is known to have been durable to here; not beyond its end.
    pub durable_upto: LogPosition,
}

impl LogEnd {
    fn of(scan: &Scan, cut_bytes: u64) -> Self {
        // Past the last frame may stand what an unfinished seal left: it is written anew.
        let torn = scan.dirty_tail && !scan.is_complete();
        Self {
            position: scan.end(),
            cut_bytes: cut_bytes
                + if torn { scan.dirty_end_bytes - scan.valid_end_bytes } else { 0 },
            complete: scan.is_complete(),
            durable_upto: LogPosition::START,
        }
    }
}

/// The last segment of each log that the root names as sealed; `None` if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastSealed {
    /// The blob log's ordinal.
    pub blob: Option<Ordinal>,
    /// The pointer log's ordinal.
    pub pointer: Option<Ordinal>,
}

impl LastSealed {
    fn of(&self, log: LogKind) -> Option<Ordinal> {
        match log {
            LogKind::Blob => self.blob,
            LogKind::Pointer => self.pointer,
            LogKind::Root => None,
        }
    }
}

/// The unsealed segments of the three logs, as scanned, each log's in order of ordinals; and what
/// the root testifies beyond what frames do.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// The blob log's.
    pub blob: &'a [&'a Scan],
    /// The pointer log's.
    pub pointer: &'a [&'a Scan],
    /// The root log's.
    pub root: &'a [&'a Scan],
    /// Files of writers that did take the store over, which the root does not name: they only
    /// testify.
    pub others: &'a [&'a Scan],
    /// The segments before the unsealed ones.
    pub sealed: LastSealed,
    /// Positions that the root says are durable: the logs' ends at the last close.
    pub closed: Synced,
}

/// The furthest durable position of a log that anything names, and what names it.
struct Testimony {
    durable: LogPosition,
    file: FileName,
    offset_bytes: u64,
    /// It is the root's word at closing, not what a frame's header says.
    is_closing: bool,
}

impl fmt::Display for Testimony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_closing {
            return f.write_str("the root, when the store was closed,");
        }
        write!(f, "the frame at {} of {}", self.offset_bytes, self.file)
    }
}

impl<'a> Verdict<'a> {
    fn scans(&self, log: LogKind) -> &'a [&'a Scan] {
        match log {
            LogKind::Blob => self.blob,
            LogKind::Pointer => self.pointer,
            LogKind::Root => self.root,
        }
    }

    fn testimony(&self, log: LogKind) -> Testimony {
        let mut furthest = self.closing(log);
        for scan in [self.blob, self.pointer, self.root, self.others].into_iter().flatten() {
            let durable = scan.testified.of(log);
            if durable > furthest.durable {
                furthest = Testimony {
                    durable,
                    file: scan.header.file_name(),
                    offset_bytes: scan.witness_offsets_bytes[log as usize - 1],
                    is_closing: false,
                };
            }
        }
        furthest
    }

    /// What the root said at closing. Any later edit takes that back, so it stands in the last
    /// frame of the root log that has records.
    fn closing(&self, log: LogKind) -> Testimony {
        let frames = |scan: &'a Scan| scan.frames.iter().rev().map(move |frame| (scan, frame));
        let is_records = |&(_, frame): &(&Scan, &Frame)| frame.header.kind == FrameKind::Records;
        let (file, offset_bytes) =
            match self.root.iter().rev().flat_map(|s| frames(s)).find(is_records) {
                Some((scan, frame)) => (scan.header.file_name(), frame.offset_bytes),
                // Who read no root can say only what leads to it.
                None => (FileName::Current, 0),
            };
        Testimony { durable: self.closed.of(log), file, offset_bytes, is_closing: true }
    }
}

/// Where the unsealed part of `log` ends, `None` if it has none; or that the log is corrupt.
///
/// # Errors
/// [`pinstone_disk::FormatError::Corrupt`] at the first invalid byte, naming the frame that proves that it was
/// durable; or at that frame, if what it proves durable lies in a segment after all that the root
/// names: the root has forgotten one.
#[expect(clippy::missing_panics_doc, reason = "the end lies in a scanned segment")]
pub fn judge(verdict: &Verdict<'_>, log: LogKind) -> Result<Option<LogEnd>, WalError> {
    let scans = verdict.scans(log);
    let testimony = verdict.testimony(log);
    let mut end: Option<LogEnd> = None;
    for scan in scans {
        match &mut end {
            // A segment goes on in the next if its last frame says so, and only then.
            Some(end) if end.complete => {
                *end = LogEnd::of(scan, end.cut_bytes);
            }
            Some(end) => end.cut_bytes += scan.dirty_end_bytes - FRAMES_START_BYTES,
            None => end = Some(LogEnd::of(scan, 0)),
        }
    }
    if planted::is(Bug::TornRuleDropped) {
        return Ok(end);
    }
    // The root log is one file, which CURRENT names: there is nothing that it could forget.
    if log != LogKind::Root {
        let last_named = scans.last().map(|scan| scan.header.ordinal).max(verdict.sealed.of(log));
        // An empty log is durable up to its start, which lies in no segment.
        if testimony.durable > LogPosition::START && last_named < Some(testimony.durable.ordinal())
        {
            return Err(forgotten(log, last_named, &testimony));
        }
    }
    let Some(end) = end else { return Ok(None) };
    if testimony.durable > end.position {
        let scan = scans
            .iter()
            .find(|scan| scan.header.ordinal == end.position.ordinal())
            .expect("the end lies in a scanned segment");
        return Err(proven(scan, &testimony));
    }
    Ok(Some(LogEnd { durable_upto: testimony.durable, ..end }))
}

fn proven(scan: &Scan, testimony: &Testimony) -> WalError {
    corrupt(
        scan.header.file_name(),
        scan.valid_end_bytes,
        format!(
            "expected {}; the last good frame ends here, and {testimony} says that the log was \
             durable to {}",
            scan.ended_by, testimony.durable
        ),
    )
}

fn forgotten(log: LogKind, last_named: Option<Ordinal>, testimony: &Testimony) -> WalError {
    let witness = if testimony.is_closing {
        "the root, when the store was closed,"
    } else {
        "the frame here"
    };
    let after = last_named.map_or_else(String::new, |ordinal| format!(" after {ordinal}"));
    corrupt(
        testimony.file,
        testimony.offset_bytes,
        format!(
            "{witness} says that the {} log was durable to {}, and the root names no segment of \
             it{after}",
            log.word(),
            testimony.durable
        ),
    )
}
