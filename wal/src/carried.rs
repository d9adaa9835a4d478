//! What a frame of the pointer log carries of the blob log, so that one sync makes commits and their values
//! durable (decision 0015).
//!
//! 1. A leader whose group depends on frames of the blob log that are written and not known durable puts
//!    these frames' bytes, as they stand there, into the frame with the commits ([`Carried::push`]).
//! 2. Recovery lays them where they stand, in unsealed segments, before it looks for frames there
//!    ([`CarriedFrames::lay`]); who finds the blob log's own copy bad meanwhile reads the carried one.
//!
//! - K1: what is carried begins where the blob log is durable, or carried already, and reaches to the
//!   frame's `depends_upto`. So what frames up to some point carry leaves no gap.
//! - K2: a segment of the pointer log is sealed only when the blob log is durable beyond what it carries;
//!   of sealed ones nothing needs to be laid.
//! - K3: `synced_upto` never counts what is carried: a lost tail of the blob log's own file stays a torn
//!   one.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, Reader, size};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Epoch, LogKind, Ordinal, StoreId};

use crate::commit::CommitRecord;
use crate::digest_list::ListEntry;
use crate::error::{WalError, corrupt};
use crate::frame::{FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, check_body};
use crate::position::{LogPosition, SizeClass};
use crate::record::{Record, RecordKind, StoreSeed, ValueRecord};
use crate::scan::{Frame, SEGMENT_BYTES_MAX, Scan};
use crate::segment::{FRAMES_START_BYTES, SegmentHeader};

/// Frames of one segment of the blob log, as they stand there one after the other.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Where the first begins.
    pub from: LogPosition,
    /// Where the last ends, in the same segment.
    pub upto: LogPosition,
    /// Their bytes.
    pub frames: Vec<Bytes>,
}

impl Carried {
    /// Bytes of the frames.
    pub fn len_bytes(&self) -> u64 {
        self.upto.offset_bytes() - self.from.offset_bytes()
    }

    /// Adds the record that carries them.
    pub fn push(&self, seed: StoreSeed, frame: &mut FrameBuilder) {
        let from = self.from.number().to_le_bytes();
        let parts: Vec<&[u8]> =
            std::iter::once(&from[..]).chain(self.frames.iter().map(|frame| &frame[..])).collect();
        frame.push_parts(seed, RecordKind::Carried, &parts);
    }
}

/// The payload of a [`RecordKind::Carried`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedRecord<'a> {
    /// Where in the blob log the bytes stand.
    pub from: LogPosition,
    /// Whole frames.
    pub bytes: &'a [u8],
}

impl<'a> CarriedRecord<'a> {
    /// Decodes a payload.
    ///
    /// # Errors
    /// It carries no whole sectors of a segment's frames.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let from = LogPosition::from_number(reader.u64("the place of carried bytes")?);
        let bytes = reader.take(reader.left(), "carried bytes")?;
        let is_whole = |bytes: u64| bytes.is_multiple_of(FRAME_ALIGN_BYTES as u64);
        let offset = from.offset_bytes();
        if offset < FRAMES_START_BYTES
            || !is_whole(offset)
            || !is_whole(bytes.len() as u64)
            || bytes.is_empty()
            || offset + bytes.len() as u64 > SEGMENT_BYTES_MAX
        {
            return Err(Malformed { offset: 0, what: "frames carried from a segment" });
        }
        Ok(Self { from, bytes })
    }

    /// Where the bytes end.
    pub fn upto(&self) -> LogPosition {
        // Decoding has seen to it that the segment goes so far.
        LogPosition::from_number(self.from.number() + self.bytes.len() as u64)
    }
}

/// The frames that stand from `from` on in the blob log of this store, each with where it begins there; those that are
/// not as they were written are left out.
pub fn frames_in(
    store_id: StoreId,
    from: LogPosition,
    frames: &Bytes,
) -> Vec<(LogPosition, Bytes)> {
    let seed = seed_of(store_id, from);
    let (store, mut found, mut at) = (StoreSeed::new(&store_id), Vec::new(), 0);
    while let Some(rest) = frames.get(at..).filter(|rest| !rest.is_empty())
        && let Ok(header) = FrameHeader::decode(seed, from.offset_bytes() + at as u64, rest)
    {
        let frame_bytes = size(header.frame_bytes());
        if check_body(store, &header, &rest[FRAME_HEADER_BYTES..]).is_ok()
            && frame_bytes <= rest.len()
        {
            let start = LogPosition::from_number(from.number() + at as u64);
            found.push((start, frames.slice(at..at + frame_bytes)));
        }
        at += frame_bytes;
    }
    found
}

fn seed_of(store_id: StoreId, from: LogPosition) -> Seed {
    let log = LogKind::Blob;
    SegmentHeader { log, ordinal: from.ordinal(), epoch: Epoch::FIRST, store_id }.seed()
}

/// Whole frames of `len_bytes` in all, put together from two copies of what stands from `from` on in the blob log of this
/// store: a frame's header, and each of its records, are those of the one that has them well, of the first if both have;
/// behind the records are zeros. Zeros may stand for what of a copy cannot be read. None if a header, or a record,
/// is well in neither.
pub fn frames_of_both(
    store_id: StoreId,
    from: LogPosition,
    len_bytes: usize,
    [first, second]: [&[u8]; 2],
) -> Option<Bytes> {
    let (store, seed) = (StoreSeed::new(&store_id), seed_of(store_id, from));
    let mut frames = Vec::with_capacity(len_bytes);
    while frames.len() < len_bytes {
        let at = frames.len();
        let put_together = |copies: [&[u8]; 2]| {
            let rest = copies.map(|copy| copy.get(at..).unwrap_or_default());
            let offset_bytes = from.offset_bytes() + at as u64;
            frame_of_both(store, seed, offset_bytes, len_bytes - at, rest)
        };
        // A record that is well may be another's.
        let frame = put_together([first, second]).or_else(|| put_together([second, first]))?;
        frames.extend_from_slice(&frame);
    }
    Some(frames.into())
}

/// The frame at this offset, which has at most so many bytes.
fn frame_of_both(
    store: StoreSeed,
    seed: Seed,
    offset_bytes: u64,
    bytes_max: usize,
    copies: [&[u8]; 2],
) -> Option<Vec<u8>> {
    let (header, encoded) = copies.iter().find_map(|copy| {
        let header = FrameHeader::decode(seed, offset_bytes, copy).ok()?;
        Some((header, &copy[..FRAME_HEADER_BYTES]))
    })?;
    let frame_bytes = size(header.frame_bytes());
    if frame_bytes > bytes_max {
        return None;
    }
    let body_end = FRAME_HEADER_BYTES + header.body_bytes as usize;
    let mut frame = Vec::with_capacity(frame_bytes);
    frame.extend_from_slice(encoded);
    while frame.len() < body_end {
        let record = copies.iter().find_map(|copy| {
            let rest = copy.get(frame.len()..body_end)?;
            let record = Record::read(store, rest).ok()?;
            Some(&rest[..record.len_bytes])
        })?;
        frame.extend_from_slice(record);
    }
    frame.resize(frame_bytes, 0);
    check_body(store, &header, &frame[FRAME_HEADER_BYTES..]).is_ok().then_some(frame)
}

/// The values whose records stand somewhere in these bytes, which stand from `from` on in the blob log of this store,
/// of frames that are bad, too. Records are told by their checksums; looks at each byte that is of none.
pub fn records_in(store_id: StoreId, from: LogPosition, bytes: &[u8]) -> Vec<ListEntry> {
    const KIND_AT: usize = 4;
    let (store, mut found, mut at) = (StoreSeed::new(&store_id), Vec::new(), 0);
    while let Some(kind) = bytes.get(at + KIND_AT) {
        let record = Some(&bytes[at..])
            .filter(|_| *kind == RecordKind::Value as u8)
            .and_then(|rest| Record::read(store, rest).ok());
        let value = record.and_then(|record| ValueRecord::decode(record.payload).ok());
        if let (Some(record), Some(value)) = (record, value)
            && let Ok(offset_bytes) = u32::try_from(from.offset_bytes() + at as u64)
        {
            let class = SizeClass::covering(record.len_bytes as u64);
            found.push(ListEntry { digest: value.digest, offset_bytes, class });
            at += record.len_bytes;
        } else {
            at += 1;
        }
    }
    found
}

/// What the unsealed segments of a pointer log carry, by the segment of the blob log.
#[derive(Debug, Default)]
pub struct CarriedFrames(BTreeMap<Ordinal, Vec<(u64, Bytes)>>);

impl CarriedFrames {
    /// What these segments carry: all that are not sealed, in order.
    ///
    /// # Errors
    /// [`pinstone_disk::FormatError::Corrupt`]: what is carried is not what a commit of the frame depends on.
    pub fn of<'a>(scans: impl IntoIterator<Item = &'a Scan>) -> Result<Self, WalError> {
        let mut carried = Self::default();
        for scan in scans {
            carried.add(scan)?;
            if !scan.is_complete() {
                // The log ends here.
                break;
            }
        }
        Ok(carried)
    }

    fn add(&mut self, scan: &Scan) -> Result<(), WalError> {
        let mut failed = None;
        let mut last: Option<(u64, u64, LogPosition)> = None;
        scan.records(scan.valid_end_bytes, |frame: &Frame, offset, record| {
            match RecordKind::from_number(record.kind) {
                Some(RecordKind::Carried) => match CarriedRecord::decode(record.payload) {
                    Ok(carried) => {
                        last = Some((frame.offset_bytes, offset, carried.upto()));
                        let end = size(offset) + record.len_bytes;
                        let bytes = scan.bytes.slice(end - carried.bytes.len()..end);
                        let of = self.0.entry(carried.from.ordinal()).or_default();
                        of.push((carried.from.offset_bytes(), bytes));
                    }
                    Err(error) => {
                        failed.get_or_insert((offset, error.what));
                    }
                },
                Some(RecordKind::Commit) => {
                    // Replay says what else may be wrong with it.
                    if let Some((at, offset, upto)) = last
                        && at == frame.offset_bytes
                        && let Ok(commit) = CommitRecord::decode(record.payload)
                        && commit.depends_upto < upto
                    {
                        failed.get_or_insert((offset, "what its commits depend on"));
                    }
                }
                _ => {}
            }
        });
        match failed {
            Some((offset, what)) => {
                Err(corrupt(scan.header.file_name(), offset, format!("expected {what}")))
            }
            None => Ok(()),
        }
    }

    /// Lays what is carried of a segment over its file's `bytes`; true if that changed them: the file itself
    /// does not have it, then.
    pub fn lay(&self, ordinal: Ordinal, bytes: Bytes) -> (Bytes, bool) {
        let Some(carried) = self.0.get(&ordinal) else { return (bytes, false) };
        if planted::is(Bug::CarriedNotLaid) {
            return (bytes, false);
        }
        let is_there = |(offset, carried): &(u64, Bytes)| {
            let start = size(*offset);
            bytes.get(start..start + carried.len()).is_some_and(|there| *there == carried[..])
        };
        if carried.iter().all(is_there) {
            return (bytes, false);
        }
        let mut laid = Vec::from(bytes);
        for (offset, carried) in carried {
            let (start, end) = (size(*offset), size(*offset) + carried.len());
            if laid.len() < end {
                laid.resize(end, 0);
            }
            laid[start..end].copy_from_slice(carried);
        }
        (laid.into(), true)
    }

    /// The bytes of a segment's file that have to be read of it, if what is carried need not be: ranges of
    /// offsets up to `len_bytes`, in order.
    pub fn around(&self, ordinal: Ordinal, len_bytes: u64) -> Vec<Range<u64>> {
        let carried = self.0.get(&ordinal).into_iter().flatten();
        let mut carried: Vec<_> =
            carried.map(|(start, bytes)| *start..*start + bytes.len() as u64).collect();
        carried.sort_unstable_by_key(|range| range.start);
        let (mut around, mut upto) = (Vec::new(), 0);
        for range in carried.into_iter().chain(std::iter::once(len_bytes..len_bytes)) {
            let start = range.start.min(len_bytes);
            if upto < start {
                around.push(upto..start);
            }
            upto = upto.max(range.end);
        }
        around
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FramePlace, Synced};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(payload: Vec<u8>) {
            if let Ok(carried) = CarriedRecord::decode(&payload) {
                prop_assert_eq!(carried.from.ordinal(), carried.upto().ordinal());
            }
        }
    }

    const STORE_ID: StoreId = StoreId([7; 16]);
    const FROM: LogPosition = LogPosition::new(Ordinal(3), 512);

    /// Three frames of three values each, and where in them units end that are well or not: headers, records, zeros.
    fn frames() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for sequence in 0..3 {
            let mut frame = FrameBuilder::with_capacity(0);
            ends.push(bytes.len() + FRAME_HEADER_BYTES);
            for number in 0..3 {
                let payload = vec![number; 32 + 100 * usize::from(number) + 40];
                frame.push(StoreSeed::new(&STORE_ID), RecordKind::Value, &payload);
                ends.push(bytes.len() + frame.len_bytes());
            }
            let synced = Synced::default();
            let place = FramePlace { epoch: Epoch::FIRST, sequence, synced, last: false };
            let offset_bytes = FROM.offset_bytes() + bytes.len() as u64;
            let (_, frame) = frame.finish(seed_of(STORE_ID, FROM), offset_bytes, &place);
            bytes.extend_from_slice(&frame);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn of_both(copies: [&[u8]; 2]) -> Option<Bytes> {
        let frames = frames_of_both(STORE_ID, FROM, frames().0.len(), copies)?;
        let whole = frames_in(STORE_ID, FROM, &frames);
        assert_eq!(whole.iter().map(|(_, frame)| frame.len()).sum::<usize>(), frames.len());
        Some(frames)
    }

    proptest! {
        #[test]
        fn of_two_copies_frames_come_that_are_well_in_either(
            own: prop::sample::Index,
            carried: prop::sample::Index,
            change in 1u8..,
        ) {
            let (frames, ends) = frames();
            let bad = [carried, own].map(|at| at.index(frames.len()));
            let copies = bad.map(|at| {
                let mut copy = frames.clone();
                copy[at] ^= change;
                copy
            });
            let unit = bad.map(|at| ends.partition_point(|end| *end <= at));
            let is_zeros = unit[0] % 5 == 4;
            let found = of_both([&copies[0], &copies[1]]);
            let expected = (unit[0] != unit[1] || is_zeros).then_some(Bytes::from(frames));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_copy_may_be_cut_or_lacking_where_the_other_is_well() {
        let (frames, _) = frames();
        let cut = &frames[..700];
        assert_eq!(of_both([cut, &frames]).unwrap(), frames);
        assert_eq!(of_both([&frames, &[]]).unwrap(), frames);
        assert_eq!(of_both([cut, &[]]), None);
        assert_eq!(of_both([&[], &[]]), None);
    }

    #[test]
    fn only_whole_sectors_after_the_header_are_carried() {
        let decode = |offset: u32, len: usize| {
            let from = LogPosition::new(Ordinal(3), offset).number().to_le_bytes();
            CarriedRecord::decode(&[&from[..], &vec![1; len]].concat())
                .map(|carried| carried.upto())
        };
        assert_eq!(decode(512, 1024).unwrap(), LogPosition::new(Ordinal(3), 1536));
        for (offset, len) in [(0, 512), (513, 512), (512, 0), (512, 511), (u32::MAX - 511, 512)] {
            assert!(decode(offset, len).is_err(), "{offset} {len}");
        }
    }
}
