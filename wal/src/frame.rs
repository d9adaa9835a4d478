//! One frame: a header with a checksum of its own, then whole records, then zeros to the end of
//! the sector. No I/O.
//!
//! The header's checksum covers the segment (store, log, ordinal) and the frame's offset, so that
//! a frame is valid in one place only, and a damaged length cannot misframe what follows. The
//! header names its records through `body_check`, a checksum of their checksums.
//!
//! - F1: a frame is valid if its header is, its records tile its body and each is valid,
//!   `body_check` agrees, and the padding is zero.
//! - F2: `synced` is what was known durable when the header was composed, never more.

use bytes::Bytes;
use pinstone_disk::checksum::{self, Seed};
use pinstone_disk::codec::{Malformed, Reader, size};
use pinstone_disk::env::{AtomicU64, Ordering};
use pinstone_disk::{Epoch, LogKind};

use crate::position::LogPosition;
use crate::record::{Record, RecordKind, StoreSeed};

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 48;

/// Frames begin at multiples of this, and so does what seals a segment: a sector. A crash may
/// leave anything in a sector that was being written, so no later write may touch one that holds
/// a durable frame.
pub const FRAME_ALIGN_BYTES: usize = 512;

/// What a frame is. The number is the one written on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Records.
    Records = 1,
    /// No records: it only tells what is durable.
    Witness = 2,
    /// Room that was taken and given up: the body means nothing, whatever it holds.
    Void = 3,
}

impl FrameKind {
    /// The kind written on disk as `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Records, Self::Witness, Self::Void].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// How far each log is known to be durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// The blob log.
    pub blob: LogPosition,
    /// The pointer log.
    pub pointer: LogPosition,
    /// The root log.
    pub root: LogPosition,
}

impl Synced {
    /// How far one log is.
    pub fn of(&self, log: LogKind) -> LogPosition {
        match log {
            LogKind::Blob => self.blob,
            LogKind::Pointer => self.pointer,
            LogKind::Root => self.root,
        }
    }
}

/// What is known durable now, shared by the three logs of a store.
#[derive(Debug, Default)]
pub struct SyncedUpto {
    blob: AtomicU64,
    pointer: AtomicU64,
    root: AtomicU64,
}

impl SyncedUpto {
    /// Notes that `log` is durable up to `position`; never goes back.
    pub fn raise(&self, log: LogKind, position: LogPosition) {
        self.cell(log).fetch_max(position.number(), Ordering::AcqRel);
    }

    /// How far `log` is known durable.
    pub fn of(&self, log: LogKind) -> LogPosition {
        LogPosition::from_number(self.cell(log).load(Ordering::Acquire))
    }

    /// All three. What a log's records rely on is asked after it: whoever testifies commits
    /// testifies their values, too, and whoever testifies values or commits, their segments.
    pub fn now(&self) -> Synced {
        let pointer = self.of(LogKind::Pointer);
        let blob = self.of(LogKind::Blob);
        let root = self.of(LogKind::Root);
        Synced { blob, pointer, root }
    }

    fn cell(&self, log: LogKind) -> &AtomicU64 {
        match log {
            LogKind::Blob => &self.blob,
            LogKind::Pointer => &self.pointer,
            LogKind::Root => &self.root,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// It is the last of its segment: the log goes on in the next.
    pub last: bool,
    /// Bytes of its records, padding not counted.
    pub body_bytes: u32,
    /// The checksum of its records' checksums, in order.
    pub body_check: u32,
    /// The epoch of the writer that composed it.
    pub epoch: Epoch,
    /// Its place among the segment's frames, from 0.
    pub sequence: u32,
    /// What was known durable when it was composed.
    pub synced: Synced,
}

impl FrameHeader {
    /// Bytes from this frame's start to the next frame's.
    pub fn frame_bytes(&self) -> u64 {
        frame_bytes(u64::from(self.body_bytes))
    }

    /// Its bytes at `offset_bytes` of the segment with this seed.
    pub fn encode(&self, seed: Seed, offset_bytes: u64) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[8] = self.kind as u8;
        bytes[9] = u8::from(self.last);
        bytes[12..16].copy_from_slice(&self.body_check.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.synced.blob.number().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.synced.pointer.number().to_le_bytes());
        bytes[40..48].copy_from_slice(&self.synced.root.number().to_le_bytes());
        let crc = seed.at(offset_bytes, &[&bytes[4..]]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header that `bytes` begins with, standing at `offset_bytes`.
    ///
    /// # Errors
    /// The bytes are no header that was written there.
    pub fn decode(seed: Seed, offset_bytes: u64, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let header = reader.take(FRAME_HEADER_BYTES, "a frame's header")?;
        // Cheap refusals first: the search for later frames tries every aligned offset.
        let kind = FrameKind::from_number(header[8])
            .ok_or(Malformed { offset: 8, what: "a frame's kind" })?;
        if header[9] > 1 || header[10..12] != [0; 2] {
            return Err(Malformed { offset: 9, what: "a frame's flags" });
        }
        let mut reader = Reader::new(header);
        let crc = reader.u32("a frame's checksum")?;
        if seed.at(offset_bytes, &[&header[4..]]) != crc {
            return Err(Malformed { offset: 0, what: "a frame header's checksum" });
        }
        let body_bytes = reader.u32("a frame's length")?;
        reader.take(4, "a frame's kind")?;
        Ok(Self {
            kind,
            last: header[9] == 1,
            body_bytes,
            body_check: reader.u32("a frame's body check")?,
            epoch: Epoch(reader.u32("a frame's epoch")?),
            sequence: reader.u32("a frame's sequence")?,
            synced: Synced {
                blob: LogPosition::from_number(reader.u64("a blob log position")?),
                pointer: LogPosition::from_number(reader.u64("a pointer log position")?),
                root: LogPosition::from_number(reader.u64("a root log position")?),
            },
        })
    }
}

/// Bytes of a frame whose records have `body_bytes`.
pub(crate) fn frame_bytes(body_bytes: u64) -> u64 {
    (FRAME_HEADER_BYTES as u64 + body_bytes).next_multiple_of(FRAME_ALIGN_BYTES as u64)
}

/// The checksums of a frame's records, folded as they come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BodyCheck(u32);

impl BodyCheck {
    pub(crate) fn push(&mut self, record_crc: u32) {
        self.0 = checksum::append(self.0, &record_crc.to_le_bytes());
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

/// Gathers records into one frame; the header goes before them at the end.
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    check: BodyCheck,
    crcs: Vec<u32>,
}

impl FrameBuilder {
    /// An empty frame with room for `capacity_bytes`.
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity_bytes.max(FRAME_HEADER_BYTES));
        bytes.resize(FRAME_HEADER_BYTES, 0);
        Self { bytes, check: BodyCheck::default(), crcs: Vec::new() }
    }

    /// An empty frame in the memory of `bytes`, of which nothing is kept.
    pub(crate) fn reusing(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(FRAME_HEADER_BYTES, 0);
        Self { bytes, check: BodyCheck::default(), crcs: Vec::new() }
    }

    /// No record was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEADER_BYTES
    }

    /// Bytes of memory that it takes.
    pub(crate) fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Bytes of header and records so far, without padding.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the records so far.
    ///
    /// # Panics
    /// If the records have 4 GiB or more, which the options on values and commits prevent.
    pub fn body_bytes(&self) -> u32 {
        u32::try_from(self.bytes.len() - FRAME_HEADER_BYTES)
            .expect("a frame is bounded by the options on values and commits")
    }

    /// The bytes so far; the header's are not there yet.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The checksums of the records, in order.
    pub(crate) fn record_crcs(&self) -> &[u32] {
        &self.crcs
    }

    /// Adds a record.
    pub fn push(&mut self, seed: StoreSeed, kind: RecordKind, payload: &[u8]) {
        self.push_parts(seed, kind, &[payload]);
    }

    /// Adds a record with a payload in parts.
    pub(crate) fn push_parts(&mut self, seed: StoreSeed, kind: RecordKind, payload: &[&[u8]]) {
        let crc = Record::write_parts(seed, kind, payload, &mut self.bytes);
        self.note(crc);
    }

    /// Adds a record's bytes; returns its offset from the frame's start.
    pub(crate) fn push_raw(&mut self, crc: u32, parts: &[&[u8]]) -> usize {
        let offset = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.note(crc);
        offset
    }

    fn note(&mut self, crc: u32) {
        self.check.push(crc);
        self.crcs.push(crc);
    }

    /// The whole frame, for `offset_bytes` of the segment with this seed, and its header's
    /// checksum.
    pub fn finish(mut self, seed: Seed, offset_bytes: u64, place: &FramePlace) -> (u32, Bytes) {
        let header = FrameHeader {
            kind: if self.is_empty() { FrameKind::Witness } else { FrameKind::Records },
            body_bytes: self.body_bytes(),
            body_check: self.check.value(),
            last: place.last,
            epoch: place.epoch,
            sequence: place.sequence,
            synced: place.synced,
        };
        let encoded = header.encode(seed, offset_bytes);
        self.bytes[..FRAME_HEADER_BYTES].copy_from_slice(&encoded);
        self.bytes.resize(self.bytes.len().next_multiple_of(FRAME_ALIGN_BYTES), 0);
        (encoded_crc(&encoded), Bytes::from(self.bytes))
    }
}

/// What a frame's header says beside what its records say.
#[derive(Clone, Copy, Debug)]
pub struct FramePlace {
    /// See [`FrameHeader::epoch`].
    pub epoch: Epoch,
    /// See [`FrameHeader::sequence`].
    pub sequence: u32,
    /// See [`FrameHeader::synced`].
    pub synced: Synced,
    /// See [`FrameHeader::last`].
    pub last: bool,
}

/// The checksum that an encoded header begins with.
pub(crate) fn encoded_crc(encoded: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    u32::from_le_bytes(*encoded.first_chunk().expect("a header begins with its checksum"))
}

/// Checks F1 for the frame with this header, of which `body` holds what follows the header to the
/// end of the file.
pub(crate) fn check_body(
    seed: StoreSeed,
    header: &FrameHeader,
    body: &[u8],
) -> Result<(), Malformed> {
    let body_bytes = header.body_bytes as usize;
    let malformed = |offset: usize, what| Malformed { offset: FRAME_HEADER_BYTES + offset, what };
    let padded = size(header.frame_bytes()) - FRAME_HEADER_BYTES;
    let body = body.get(..padded).ok_or(malformed(0, "a whole frame"))?;
    if header.kind == FrameKind::Void {
        return Ok(());
    }
    if (header.kind == FrameKind::Witness) != (body_bytes == 0) {
        return Err(malformed(0, "records, and only in a frame for them"));
    }
    let mut check = BodyCheck::default();
    let mut at = 0;
    while at < body_bytes {
        let record = Record::read(seed, &body[at..body_bytes])
            .map_err(|error| malformed(at + error.offset, error.what))?;
        check.push(record.crc);
        at += record.len_bytes;
    }
    if check.value() != header.body_check {
        return Err(malformed(0, "the records that the frame's header names"));
    }
    if body[body_bytes..].iter().any(|byte| *byte != 0) {
        return Err(malformed(body_bytes, "zeros after a frame"));
    }
    Ok(())
}

/// Calls `each` with every record of a frame whose body was found to be right, and the record's
/// offset from the frame's start.
pub(crate) fn each_record<'a>(
    header: &FrameHeader,
    body: &'a [u8],
    mut each: impl FnMut(usize, Record<'a>),
) {
    let body_bytes = match header.kind {
        FrameKind::Records => header.body_bytes as usize,
        FrameKind::Witness | FrameKind::Void => 0,
    };
    let mut at = 0;
    while at < body_bytes {
        let record = Record::read_unverified(&body[at..body_bytes])
            .expect("the frame was found to be right, and its bytes are in memory");
        each(FRAME_HEADER_BYTES + at, record);
        at += record.len_bytes;
    }
}
