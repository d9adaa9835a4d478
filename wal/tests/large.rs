//! Large values in the blob log: frames of their own, refused and voided at every place of a segment.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::sync::Arc;

use common::hooked::{Hooked, take};
use common::{BUFFER_BYTES, Rig, SEGMENT_BYTES, found, is_no_space, value};
use pinstone_disk::env::Mutex;
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, LogKind, OpenMode, Operation, Ordinal};
use pinstone_wal::{
    CARRIED_BYTES_MAX, FRAMES_START_BYTES, FrameKind, Scan, Sealed, SegmentFile, ValueRecord,
    read_footer, read_list,
};

/// A large value is refused while `puts` happen, which come to stand behind it.
fn refused_while(puts: &[Vec<u8>], large: &[u8], reserve_bytes: u64) -> (Arc<SimDisk>, Rig) {
    refused_between(&[b"first".to_vec()], puts, large, reserve_bytes)
}

/// As `refused_while`, after what is put `before`, which is written.
fn refused_between(
    before: &[Vec<u8>],
    puts: &[Vec<u8>],
    large: &[u8],
    reserve_bytes: u64,
) -> (Arc<SimDisk>, Rig) {
    let sim = SimDisk::new(1);
    let disk = Arc::new(Hooked { inner: sim.clone(), before_write: Mutex::new(None) });
    let hooked = Arc::clone(&disk);
    let rig = Arc::new(Rig::reserving(disk, SEGMENT_BYTES, BUFFER_BYTES, reserve_bytes));
    rig.grow().unwrap();
    for value in before {
        rig.put(value).unwrap();
    }
    rig.log.write_out().unwrap();
    let (inner, puts, during) = (sim.clone(), puts.to_vec(), Arc::clone(&rig));
    *hooked.before_write.lock() = Some(Box::new(move || {
        for value in &puts {
            during.put(value).unwrap();
        }
        inner.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
    }));
    assert!(is_no_space(&rig.put(large).unwrap_err()));
    assert!(take(&hooked.before_write).is_none(), "the write was hooked");
    sim.heal();
    let rig = Arc::into_inner(rig).expect("the hook is gone");
    (sim, rig)
}

#[test]
fn what_was_put_behind_a_refused_large_value_stays_where_it_was() {
    let behind = vec![value(1, 100), value(2, 200)];
    let large = value(3, 3000);
    for reserve_bytes in [FRAMES_START_BYTES, SEGMENT_BYTES] {
        let (disk, rig) = refused_while(&behind, &large, reserve_bytes);
        for value in &behind {
            assert_eq!(rig.get(value).as_ref(), Some(value));
        }
        // Only what voids the large one can be written, as yet.
        disk.fail_when(Filter::any().operation(Operation::Write).from_nth(2), Fault::Enospc);
        assert!(is_no_space(&rig.log.write_out().unwrap_err()));
        let written = rig.log.written_upto();
        rig.log.sync(rig.place(b"first").unwrap().position()).unwrap();
        let found_then = found(&disk, CrashState::Nothing);
        assert!(found_then.end.unwrap().position >= rig.synced.of(LogKind::Blob));
        disk.heal();
        rig.log.sync_all().unwrap();
        assert!(rig.synced.of(LogKind::Blob) > written);
        let found = found(&disk, CrashState::Nothing);
        assert!(behind.iter().all(|value| found.holds(value)));
        assert!(!found.holds(&large));
        let kinds: Vec<_> = found.scans[0].frames.iter().map(|frame| frame.header.kind).collect();
        assert_eq!(kinds, [FrameKind::Records, FrameKind::Void, FrameKind::Records]);
        assert!(rig.put(&large).unwrap(), "there is room now");
        rig.log.sync_all().unwrap();
    }
}

#[test]
fn a_frame_that_means_nothing_is_not_carried() {
    let behind = vec![value(1, 100)];
    let (disk, rig) = refused_while(&behind, &value(3, 3000), SEGMENT_BYTES);
    disk.heal();
    let position = rig.place(&behind[0]).unwrap().position();
    assert!(rig.log.carry(position, CARRIED_BYTES_MAX).unwrap().is_none());
    rig.log.sync(position).unwrap();
    rig.put(b"after").unwrap();
    let position = rig.place(b"after").unwrap().position();
    assert!(rig.log.carry(position, CARRIED_BYTES_MAX).unwrap().is_some());
    assert!(found(&disk, CrashState::Nothing).holds(&behind[0]));
}

#[test]
fn a_refused_large_value_with_nothing_behind_it_gives_its_room_back() {
    let large = value(3, 3000);
    let (disk, rig) = refused_while(&[], &large, SEGMENT_BYTES);
    rig.put(b"second").unwrap();
    rig.log.sync_all().unwrap();
    assert!(u64::from(rig.place(b"second").unwrap().offset_bytes) < 3000);
    assert_eq!(found(&disk, CrashState::Nothing).values, [b"first".to_vec(), b"second".to_vec()]);
}

#[test]
fn a_segment_with_a_voided_frame_is_sealed_as_it_is() {
    let behind = vec![value(1, 100)];
    let (disk, rig) = refused_while(&behind, &value(3, 3000), SEGMENT_BYTES);
    let mut number = 10;
    while rig.log.closing_count() == 0 {
        rig.put(&value(number, 400)).unwrap();
        number += 1;
    }
    let sealed = rig.seal_all().unwrap().remove(0);
    let scan = sealed_as_scanned(&disk, &sealed);
    assert!(scan.frames.iter().any(|frame| frame.header.kind == FrameKind::Void));
}

/// Its list and footer are those of the frames that its file holds; the scan of these.
fn sealed_as_scanned(disk: &SimDisk, sealed: &Sealed) -> Scan {
    let name = sealed.header.file_name();
    let file = disk.open(name, OpenMode::Read).unwrap();
    let segment = SegmentFile { header: sealed.header, file };
    let (footer, hash) = read_footer(disk, &segment).unwrap();
    assert_eq!(hash, sealed.footer_hash);
    let list = read_list(disk, &segment, &footer).unwrap();
    assert_eq!(list.len() as u64, footer.record_count);
    let bytes = disk.file_bytes(&name.to_string()).unwrap();
    let scan = Scan::of(sealed.header, bytes.into());
    assert_eq!(scan.valid_end_bytes, footer.frames_end_bytes);
    let mut sealer = scan.sealer(scan.valid_end_bytes, |sealer, offset, record| {
        let value = ValueRecord::decode(record.payload).unwrap();
        let entry = list.iter().find(|entry| entry.digest == value.digest).unwrap();
        assert_eq!(u64::from(entry.offset_bytes), offset);
        sealer.value(*entry);
    });
    assert_eq!(sealer.finish(sealed.header, footer.frames_end_bytes).1, hash);
    scan
}

/// The large value is refused once `before_count` values stand before it and while so many come to
/// stand behind it; then the log goes on. How the frames before the third segment are voided.
fn goes_on_after_a_refusal(before_count: u64, behind_count: u64, large_bytes: usize) -> Vec<bool> {
    let case = format!("{before_count} before, {behind_count} behind, {large_bytes} bytes");
    let many = |from: u64, count| (from..from + count).map(|n| value(n, 300)).collect::<Vec<_>>();
    let (before, behind) = (many(100, before_count), many(200, behind_count));
    let large = value(3, large_bytes);
    let (disk, rig) = refused_between(&before, &behind, &large, SEGMENT_BYTES);
    assert!(!found(&disk, CrashState::Everything).holds(&large), "{case}");
    let mut accepted = [before, behind].concat();
    while rig.log.closing_count() < 2 {
        let value = value(300 + accepted.len() as u64, 300);
        rig.put(&value).unwrap();
        accepted.push(value);
    }
    rig.log.sync_all().unwrap();
    let found = found(&disk, CrashState::Nothing);
    assert_eq!(found.values, accepted, "{case}");
    let sealed = rig.seal_all().unwrap();
    assert!(sealed.iter().all(|sealed| sealed.file_bytes <= SEGMENT_BYTES), "{case}");
    let scans = sealed.iter().map(|sealed| sealed_as_scanned(&disk, sealed));
    let frames = scans.flat_map(|scan| scan.frames);
    frames.map(|frame| frame.header.kind == FrameKind::Void).collect()
}

#[test]
fn a_value_is_refused_at_each_place_of_a_segment() {
    // Whether the segment has room for it or not.
    for before_count in 0..34 {
        let is_void = goes_on_after_a_refusal(before_count, 0, 3000);
        assert_eq!(is_void, vec![false; is_void.len()], "nothing stood behind it");
        goes_on_after_a_refusal(before_count, 0, 20_000);
    }
    let mut places = Vec::new();
    // What stands behind it has room in the segment.
    for before_count in 0..12 {
        for behind_count in 1..5 {
            let is_void = goes_on_after_a_refusal(before_count, behind_count, 3000);
            assert_eq!(is_void.iter().filter(|is_void| **is_void).count(), 1);
            places.extend(is_void.iter().position(|is_void| *is_void));
        }
    }
    places.dedup();
    assert!(places.len() > 3 && places[0] == 0, "{places:?}");
}

#[test]
fn a_value_refused_at_the_head_of_the_next_segment_waits_for_the_end_of_the_last() {
    // The frame that ends the first segment is refused, and with it the value behind.
    let before: Vec<_> = (100..130).map(|n| value(n, 300)).collect();
    for behind in [vec![], vec![value(1, 100)]] {
        let large = value(3, 3000);
        let (disk, rig) = refused_between(&before, &behind, &large, SEGMENT_BYTES);
        assert_eq!(rig.log.closing_count(), 1);
        for value in &behind {
            assert_eq!(rig.place(value).unwrap().ordinal, Ordinal(2));
        }
        rig.put(b"last").unwrap();
        rig.log.sync_all().unwrap();
        let found = found(&disk, CrashState::Nothing);
        assert_eq!(found.values, [&before[..], &behind[..], &[b"last".to_vec()]].concat());
        assert!(rig.put(&large).unwrap());
    }
}

#[test]
fn a_value_that_is_refused_again_and_again_uses_up_no_room() {
    // The second one is larger than a segment.
    for len in [3000, 300_000] {
        let disk = SimDisk::new(1);
        let rig = Rig::reserving(disk.clone(), SEGMENT_BYTES, BUFFER_BYTES, FRAMES_START_BYTES);
        rig.put(b"first").unwrap();
        rig.log.sync_all().unwrap();
        disk.set_capacity(Some(disk.used_bytes() + 2048));
        let large = value(3, len);
        for _ in 0..20 {
            assert!(is_no_space(&rig.put(&large).unwrap_err()));
        }
        rig.put(b"second").unwrap();
        rig.log.sync_all().unwrap();
        assert!(disk.names().len() <= 2, "{:?}", disk.names());
        let (first, second) = (rig.place(b"first").unwrap(), rig.place(b"second").unwrap());
        let away = second.offset_bytes.saturating_sub(first.offset_bytes);
        assert!(
            away <= 512 || second.ordinal == Ordinal(2) && second.offset_bytes < 1024,
            "{second:?}"
        );
        disk.set_capacity(None);
        assert!(rig.put(&large).unwrap());
        rig.log.sync_all().unwrap();
        let expected = [b"first".to_vec(), b"second".to_vec(), large];
        assert_eq!(found(&disk, CrashState::Nothing).values, expected);
    }
}

/// A segment with one short value, and one that is as long as this; the ordinals of both.
fn two_values(disk: &Arc<SimDisk>, len: usize) -> (Rig, [u32; 2]) {
    let rig = Rig::small(disk.clone());
    let values = [value(1, 8), value(2, len)];
    values.iter().for_each(|value| assert!(rig.put(value).unwrap()));
    let ordinals = values.each_ref().map(|value| rig.place(value).unwrap().ordinal.0);
    rig.log.sync_all().unwrap();
    assert_eq!(found(disk, CrashState::Nothing).values, values);
    (rig, ordinals)
}

#[test]
fn a_value_that_fills_its_segment_to_the_last_byte_stands_in_it_and_one_more_byte_does_not() {
    let is_in_first = |len| two_values(&SimDisk::new(1), len).1 == [1, 1];
    let (mut fits, mut too_long) = (1000, usize::try_from(SEGMENT_BYTES).unwrap());
    assert!(is_in_first(fits) && !is_in_first(too_long));
    while fits + 1 < too_long {
        let middle = usize::midpoint(fits, too_long);
        if is_in_first(middle) { fits = middle } else { too_long = middle }
    }
    for (len, ordinals) in [(fits, [1, 1]), (too_long, [1, 2])] {
        let disk = SimDisk::new(1);
        let (rig, found_ordinals) = two_values(&disk, len);
        assert_eq!(found_ordinals, ordinals);
        while rig.log.closing_count() == 0 {
            rig.put(&value(100 + disk.op_count(), 3000)).unwrap();
        }
        let sealed = rig.seal_all().unwrap().remove(0);
        assert!(sealed.file_bytes <= SEGMENT_BYTES);
        if len == fits {
            assert!(SEGMENT_BYTES - sealed.file_bytes < 1024, "{} bytes", sealed.file_bytes);
        }
        sealed_as_scanned(&disk, &sealed);
    }
}

#[test]
fn a_value_longer_than_a_segment_has_one_to_itself() {
    for before in [vec![], vec![b"first".to_vec()]] {
        let disk = SimDisk::new(1);
        let rig = Rig::small(disk.clone());
        let values = [before, vec![value(1, 50_000), value(2, 50_000), b"last".to_vec()]].concat();
        values.iter().for_each(|value| assert!(rig.put(value).unwrap()));
        let ordinals: Vec<_> = values.iter().map(|v| rig.place(v).unwrap().ordinal.0).collect();
        let expected: Vec<_> = (1..=u32::try_from(values.len()).unwrap()).collect();
        assert_eq!(ordinals, expected);
        rig.log.sync_all().unwrap();
        assert_eq!(found(&disk, CrashState::Nothing).values, values);
        for sealed in rig.seal_all().unwrap() {
            sealed_as_scanned(&disk, &sealed);
        }
    }
}
