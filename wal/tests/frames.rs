//! A scan never takes changed bytes for what was written, whatever was changed.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use common::{STORE_ID, begun, header, store, value};
use pinstone_disk::{Digest, Epoch, FileName, FormatError, LogKind, Ordinal, StoreId};
use pinstone_wal::{
    FrameBuilder, FrameHeader, FrameKind, FramePlace, LogPosition, PreparedValue, RecordKind, Scan,
    SegmentHeader, Synced,
};
use proptest::prelude::*;

const START: usize = 512;

/// A segment with frames of one to three records, a witness, a void frame and a last one.
fn segment(payloads: &[Vec<u8>]) -> Vec<u8> {
    let header = header(LogKind::Blob, 7);
    let mut bytes = begun(header);
    let mut sequence = 0;
    let mut push = |bytes: &mut Vec<u8>, frame: FrameBuilder, last| {
        let synced = Synced { blob: LogPosition::new(Ordinal(7), 512), ..Synced::default() };
        let place = FramePlace { epoch: Epoch::FIRST, sequence, synced, last };
        let (_, encoded) = frame.finish(header.seed(), bytes.len() as u64, &place);
        bytes.extend_from_slice(&encoded);
        sequence += 1;
    };
    for (index, payload) in payloads.iter().enumerate() {
        let mut frame = FrameBuilder::with_capacity(0);
        for _ in 0..=index % 3 {
            frame.push(store(), RecordKind::Value, payload);
        }
        push(&mut bytes, frame, false);
        if index == 0 {
            push(&mut bytes, FrameBuilder::with_capacity(0), false);
        }
    }
    push(&mut bytes, FrameBuilder::with_capacity(0), true);
    bytes
}

fn scan(bytes: &[u8]) -> Scan {
    Scan::of(header(LogKind::Blob, 7), bytes.to_vec().into())
}

/// Every frame that the scan of `changed` accepts stands in `whole`, byte for byte, at its place.
fn accepts_only_what_was_written(whole: &[u8], changed: &[u8]) -> Result<(), String> {
    let (before, after) = (scan(whole), scan(changed));
    if after.frames.len() > before.frames.len() {
        return Err(format!("{} frames of {}", after.frames.len(), before.frames.len()));
    }
    let end = usize::try_from(after.valid_end_bytes).unwrap();
    if changed[START..end] != whole[START..end] {
        return Err(format!("changed bytes before {end} were accepted"));
    }
    Ok(())
}

#[test]
fn each_flipped_bit_ends_the_scan_before_its_frame() {
    let whole = segment(&[b"apple".to_vec(), vec![7; 30], Vec::new()]);
    let before = scan(&whole);
    assert!(before.is_complete());
    assert_eq!(before.valid_end_bytes, whole.len() as u64);
    for at in START..whole.len() {
        let frame = before.frames.iter().rev().find(|frame| frame.offset_bytes <= at as u64);
        let frame_start = frame.unwrap().offset_bytes;
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1u8 << bit;
            let after = scan(&changed);
            assert_eq!(after.valid_end_bytes, frame_start, "bit {bit} of byte {at}");
            accepts_only_what_was_written(&whole, &changed).unwrap();
        }
    }
}

#[test]
fn each_length_of_a_file_cut_short_keeps_the_whole_frames() {
    let whole = segment(&[b"apple".to_vec(), vec![7; 30]]);
    let before = scan(&whole);
    for len in START..whole.len() {
        let kept = before.frames.iter().filter(|frame| frame.end_bytes() <= len as u64).count();
        assert_eq!(scan(&whole[..len]).frames.len(), kept, "{len} bytes");
    }
}

#[test]
fn each_flipped_bit_of_a_segments_header_is_found() {
    let header = header(LogKind::Pointer, 3);
    for at in 0..64 {
        for bit in 0..8 {
            let mut bytes = header.encode();
            bytes[at] ^= 1u8 << bit;
            let read = SegmentHeader::decode(&header.file_name(), &bytes);
            assert!(matches!(read, Err(FormatError::Corrupt { .. })), "bit {bit} of byte {at}");
            let mut bytes = header.encode_current();
            bytes[at] ^= 1u8 << bit;
            let read = SegmentHeader::decode_current(&bytes);
            assert!(matches!(read, Err(FormatError::Corrupt { .. })), "bit {bit} of byte {at}");
        }
    }
    for len in 0..64 {
        let read = SegmentHeader::decode(&header.file_name(), &header.encode()[..len]);
        assert!(matches!(read, Err(FormatError::Corrupt { .. })), "{len} bytes");
    }
    assert!(SegmentHeader::decode_current(&header.encode()).is_err(), "a segment is no CURRENT");
    let current = header.encode_current();
    assert!(SegmentHeader::decode(&FileName::Current, &current).is_err(), "nor the reverse");
    assert!(SegmentHeader::decode_current(&[&current[..], b"x"].concat()).is_err());
}

/// A header of another version or with other features, and a checksum that is right.
fn reheaded(edit: impl FnOnce(&mut [u8; 64])) -> Result<SegmentHeader, FormatError> {
    let header = header(LogKind::Blob, 3);
    let mut bytes = header.encode();
    edit(&mut bytes);
    let crc = pinstone_disk::checksum::crc(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    SegmentHeader::decode(&header.file_name(), &bytes)
}

#[test]
fn unknown_formats_are_refused_by_name() {
    let refused = |edit: fn(&mut [u8; 64])| reheaded(edit).unwrap_err().to_string();
    expect_test::expect![[r#"
        blob-00000003-00000001.log has an unsupported format: version 1; this build knows 4
        blob-00000003-00000001.log has an unsupported format: digest kind 9; this build knows 1, BLAKE3-256
        blob-00000003-00000001.log has an unsupported format: feature bits 0x0 (incompatible), 0x1 (read-only compatible); this build knows none
        blob-00000003-00000001.log has an unsupported format: feature bits 0x80 (incompatible), 0x0 (read-only compatible); this build knows none
        blob-00000003-00000001.log is corrupt at offset 10: file kind 4 heads no segment
    "#]]
    .assert_eq(&format!(
        "{}\n{}\n{}\n{}\n{}\n",
        refused(|bytes| bytes[8] = 1),
        refused(|bytes| bytes[11] = 9),
        refused(|bytes| bytes[16] = 1),
        refused(|bytes| bytes[20] = 0x80),
        refused(|bytes| bytes[10] = 4),
    ));
    // Compatible features are for whoever knows them.
    assert!(reheaded(|bytes| bytes[12] = 1).is_ok());
}

#[test]
fn frames_are_bound_to_store_log_segment_and_offset() {
    let whole = segment(&[b"apple".to_vec()]);
    let here = header(LogKind::Blob, 7);
    assert!(Scan::of(here, whole.clone().into()).is_complete());
    for other in [
        SegmentHeader { ordinal: Ordinal(8), ..here },
        SegmentHeader { log: LogKind::Pointer, ..here },
        SegmentHeader { store_id: StoreId([1; 16]), ..here },
    ] {
        assert_eq!(Scan::of(other, whole.clone().into()).frames.len(), 0);
    }
    // The epoch is the file's, not the place's: recovery copies frames as they are.
    assert!(
        Scan::of(SegmentHeader { epoch: Epoch(9), ..here }, whole.clone().into()).is_complete()
    );
    let mut moved = whole.clone();
    moved.splice(START..START, [0; 512]);
    assert_eq!(scan(&moved).frames.len(), 0);
}

#[test]
fn a_void_frames_body_means_nothing() {
    let header = header(LogKind::Blob, 7);
    let mut bytes = begun(header);
    let void = FrameHeader {
        kind: FrameKind::Void,
        last: false,
        body_bytes: 512 - 48,
        body_check: 0,
        epoch: Epoch::FIRST,
        sequence: 0,
        synced: Synced::default(),
    };
    bytes.extend_from_slice(&void.encode(header.seed(), START as u64));
    bytes.resize(2 * START, b'x');
    let scan = scan(&bytes);
    assert_eq!((scan.frames.len(), scan.valid_end_bytes), (1, 2 * START as u64));
    scan.records(scan.valid_end_bytes, |_, _, record| panic!("{record:?}"));
}

#[test]
fn a_frame_that_would_leave_its_segment_ends_the_scan() {
    let header = header(LogKind::Blob, 7);
    let mut bytes = begun(header);
    let void = FrameHeader {
        kind: FrameKind::Void,
        last: false,
        body_bytes: u32::MAX - 600,
        body_check: 0,
        epoch: Epoch::FIRST,
        sequence: 0,
        synced: Synced::default(),
    };
    bytes.extend_from_slice(&void.encode(header.seed(), START as u64));
    assert_eq!(scan(&bytes).ended_by, "a frame within its segment");
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8)
}

proptest! {
    #[test]
    fn overwritten_bytes_are_never_accepted(
        payloads in payloads(),
        at: prop::sample::Index,
        with in prop::collection::vec(any::<u8>(), 1..100),
    ) {
        let whole = segment(&payloads);
        let mut changed = whole.clone();
        let at = START + at.index(whole.len() - START);
        let end = (at + with.len()).min(whole.len());
        changed[at..end].copy_from_slice(&with[..end - at]);
        prop_assert_eq!(accepts_only_what_was_written(&whole, &changed), Ok(()));
    }

    #[test]
    fn bytes_moved_within_a_segment_are_never_accepted(
        payloads in payloads(),
        from: prop::sample::Index,
        to: prop::sample::Index,
        len in 1..200usize,
    ) {
        let whole = segment(&payloads);
        let mut changed = whole.clone();
        let from = START + from.index((whole.len() - START) / 8) * 8;
        let to = START + to.index((whole.len() - START) / 8) * 8;
        let len = len.min(whole.len() - from.max(to));
        changed.copy_within(from..from + len, to);
        prop_assert_eq!(accepts_only_what_was_written(&whole, &changed), Ok(()));
    }

    #[test]
    fn any_bytes_scan_without_panic(tail: Vec<u8>) {
        let mut bytes = begun(header(LogKind::Blob, 7));
        bytes.extend_from_slice(&tail);
        prop_assert_eq!(scan(&bytes).frames.len(), 0);
    }

    #[test]
    fn a_scan_gives_back_what_was_written(payloads in payloads()) {
        let whole = segment(&payloads);
        let scan = scan(&whole);
        prop_assert!(scan.is_complete());
        let mut found = Vec::new();
        scan.records(scan.valid_end_bytes, |_, offset, record| {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(&whole[at..at + record.len_bytes][record.len_bytes - record.payload.len()..],
                record.payload);
            found.push(record.payload.to_vec());
        });
        let written: Vec<_> = payloads
            .iter()
            .enumerate()
            .flat_map(|(index, payload)| std::iter::repeat_n(payload.clone(), index % 3 + 1))
            .collect();
        prop_assert_eq!(found, written);
    }
}

#[test]
fn a_value_that_holds_a_whole_frame_is_a_value() {
    // Bytes of a user may be bytes of ours: at their own place, and there alone, they are frames.
    let inner = segment(&[b"apple".to_vec()]);
    let header = header(LogKind::Blob, 7);
    let mut frame = FrameBuilder::with_capacity(0);
    frame.push(store(), RecordKind::Value, &inner);
    let place =
        FramePlace { epoch: Epoch::FIRST, sequence: 0, synced: Synced::default(), last: false };
    let mut bytes = begun(header);
    bytes.extend_from_slice(&frame.finish(header.seed(), START as u64, &place).1);
    bytes[START] ^= 1;
    let scan = scan(&bytes);
    assert_eq!((scan.frames.len(), scan.valid_end_bytes), (0, START as u64));
}

#[test]
fn size_classes_cover_every_value() {
    for len in [0, 1, 100, 4096, 1 << 20, 256 << 20, 1 << 30] {
        let record_bytes = PreparedValue::record_bytes(len);
        let class = pinstone_wal::SizeClass::covering(record_bytes);
        assert!(class.bytes_max() >= record_bytes, "{len}");
    }
    let small = value(1, 100);
    let prepared = PreparedValue::new(store(), Digest::of(&small), &small);
    assert_eq!(prepared.len_bytes() as u64, PreparedValue::record_bytes(100));
    assert_eq!(STORE_ID.0.len(), 16);
}
