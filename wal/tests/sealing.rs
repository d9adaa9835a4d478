//! Sealed segments: what is read back, and that no bit of them can change unseen.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::sync::Arc;

use common::{Rig, file_bytes, header, value};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{
    CommitId, Digest, Disk, FormatError, LogKind, OpenMode, Operation, Ordinal, Trailer,
};
use pinstone_wal::{Appender, CommitRecord, LogPosition, Writer};
use pinstone_wal::{
    DIGEST_PAGE_BYTES, FRAMES_START_BYTES, FrameBuilder, ListEntry, RecordKind, Scan, Sealed,
    Sealer, SegmentFile, SegmentHeader, SizeClass, ValueRecord, WalError, check_list,
    create_segment, read_footer, read_header, read_list,
};

fn open(disk: &dyn Disk, header: SegmentHeader) -> Result<SegmentFile, WalError> {
    let name = header.file_name();
    let file = disk.open(name, OpenMode::Read)?;
    Ok(SegmentFile { header: read_header(disk, &file, &name)?, file })
}

/// Everything that opening and checking a sealed segment looks at.
fn verify(disk: &dyn Disk, sealed: &Sealed) -> Result<Vec<ListEntry>, String> {
    let shown = |error: WalError| error.to_string();
    let segment = open(disk, sealed.header).map_err(shown)?;
    let bytes = file_bytes(disk, sealed.header.file_name());
    if bytes.len() as u64 != sealed.file_bytes {
        return Err("another length".into());
    }
    let (footer, footer_hash) = read_footer(disk, &segment).map_err(shown)?;
    if footer_hash != sealed.footer_hash {
        return Err("another footer".into());
    }
    let list = check_list(disk, &segment, &footer).map_err(shown)?;
    assert_eq!(read_list(disk, &segment, &footer).map_err(shown)?, list);
    let frames = bytes.slice(..usize::try_from(footer.frames_end_bytes).unwrap());
    let scan = Scan::of(segment.header, frames);
    if scan.valid_end_bytes != footer.frames_end_bytes {
        return Err("its frames end early".into());
    }
    let mut sealer = seal_again(&scan);
    if sealer.finish(segment.header, footer.frames_end_bytes).1 != footer_hash {
        return Err("other frames than were sealed".into());
    }
    Ok(list)
}

fn seal_again(scan: &Scan) -> Sealer {
    scan.sealer(scan.valid_end_bytes, |sealer, offset, record| {
        if record.kind == RecordKind::Commit as u8 {
            sealer.commit(CommitRecord::decode(record.payload).unwrap().id);
            return;
        }
        let value = ValueRecord::decode(record.payload).unwrap();
        sealer.value(ListEntry {
            digest: value.digest,
            offset_bytes: u32::try_from(offset).unwrap(),
            class: SizeClass::covering(record.len_bytes as u64),
        });
    })
}

/// A sealed segment with `count` values.
fn sealed(count: u64) -> (Arc<SimDisk>, Sealed, Vec<Vec<u8>>) {
    let disk = SimDisk::new(1);
    let rig = Rig::new(disk.clone(), count * 150 + 7000, 4096);
    let values: Vec<_> =
        (0..count).map(|n| value(n, usize::try_from(n % 50).unwrap() + 8)).collect();
    for value in &values {
        rig.put(value).unwrap();
    }
    let mut number = 1 << 32;
    let mut sealed = Vec::new();
    while sealed.is_empty() {
        rig.put(&value(number, 40)).unwrap();
        number += 1;
        sealed = rig.seal_all().unwrap();
    }
    let first = sealed.remove(0);
    let in_first = |value: &Vec<u8>| rig.place(value).unwrap().ordinal == first.header.ordinal;
    let values = values.into_iter().filter(in_first).collect();
    (disk, first, values)
}

#[test]
fn a_sealed_segment_lists_its_values() {
    let (disk, sealed, values) = sealed(400);
    let list = verify(&*disk, &sealed).unwrap();
    assert!(list.len() > 3 * 110, "several pages");
    assert_eq!(list.len() as u64, sealed.record_count);
    assert!(list.is_sorted());
    for value in &values {
        let digest = Digest::of(value);
        assert!(list.iter().any(|entry| entry.digest == digest));
    }
    let segment = open(&*disk, sealed.header).unwrap();
    let (footer, _) = read_footer(&*disk, &segment).unwrap();
    assert_eq!(footer.list_page_count, list.len().div_ceil(110) as u64);
    assert_eq!(footer.commits, (CommitId::NONE, CommitId::NONE));
    assert_eq!(footer.record_count, sealed.record_count);
}

#[test]
fn each_flipped_bit_of_a_sealed_segment_is_found() {
    let (disk, sealed, _) = sealed(3);
    let name = sealed.header.file_name().to_string();
    verify(&*disk, &sealed).unwrap();
    let len = usize::try_from(sealed.file_bytes).unwrap();
    assert!(len < 2 * DIGEST_PAGE_BYTES, "{len}");
    for at in 0..len {
        // Every bit of what is dense, one bit a byte of the digest page's empty rest.
        let bits = if at % 7 == 0 || at < 1200 || at + 300 > len { 0..8 } else { 3..4 };
        for bit in bits {
            disk.corrupt(&name, at as u64, |bytes| bytes[0] ^= 1u8 << bit);
            assert!(verify(&*disk, &sealed).is_err(), "bit {bit} of byte {at}");
            disk.corrupt(&name, at as u64, |bytes| bytes[0] ^= 1u8 << bit);
        }
    }
    verify(&*disk, &sealed).unwrap();
}

#[test]
fn each_length_of_a_sealed_segment_cut_short_is_found() {
    let (disk, sealed, _) = sealed(3);
    let name = sealed.header.file_name().to_string();
    let whole = disk.file_bytes(&name).unwrap();
    for len in 0..whole.len() {
        disk.put_file(&name, &whole[..len]);
        let segment = open(&*disk, sealed.header);
        let read = segment.and_then(|segment| read_footer(&*disk, &segment));
        assert!(matches!(read, Err(WalError::Format(FormatError::Corrupt { .. }))), "{len} bytes");
    }
}

#[test]
fn valid_parts_of_another_segment_are_found() {
    let (disk, sealed, _) = sealed(3);
    let (other_disk, other, _) = self::sealed(4);
    let bytes = other_disk.file_bytes(&other.header.file_name().to_string()).unwrap();
    disk.put_file(&sealed.header.file_name().to_string(), &bytes);
    assert_eq!(sealed.header, other.header, "same store, same log, same ordinal");
    assert!(verify(&*disk, &sealed).is_err());
}

/// Bytes of features, versions and digest kinds in a footer, and whether it is read all the same.
#[test]
fn a_footer_of_an_unknown_format_is_refused_by_name() {
    let (disk, sealed, _) = sealed(3);
    let name = sealed.header.file_name().to_string();
    let bytes = disk.file_bytes(&name).unwrap();
    let (start, end) = (bytes.len() - 240, bytes.len() - 64);
    for (at, byte, wanted) in [
        (12, 1, None),
        (8, 9, Some("version 9; this build knows 4")),
        (11, 2, Some("digest kind 2; this build knows 1, BLAKE3-256")),
        (
            16,
            4,
            Some(
                "feature bits 0x0 (incompatible), 0x4 (read-only compatible); this build knows none",
            ),
        ),
        (
            23,
            1,
            Some(
                "feature bits 0x1000000 (incompatible), 0x0 (read-only compatible); this build knows none",
            ),
        ),
    ] {
        let mut footer = bytes[start..end].to_vec();
        footer[at] = byte;
        let trailer = Trailer::of(&footer, start as u64).encode();
        disk.put_file(&name, [&bytes[..start], &footer, &trailer].concat().as_slice());
        let read = read_footer(&*disk, &open(&*disk, sealed.header).unwrap());
        let refused = read.err().map(|error| error.to_string());
        let wanted = wanted.map(|what| format!("{name} has an unsupported format: {what}"));
        assert_eq!(refused, wanted, "byte {at}");
    }
}

#[test]
fn a_list_without_a_directory_is_damage() {
    let (disk, sealed, _) = sealed(400);
    let name = sealed.header.file_name().to_string();
    let segment = open(&*disk, sealed.header).unwrap();
    let (footer, _) = read_footer(&*disk, &segment).unwrap();
    let pages_bytes = footer.list_page_count * DIGEST_PAGE_BYTES as u64;
    let pages_end = footer.list_offset_bytes + pages_bytes;
    let bytes = disk.file_bytes(&name).unwrap();
    let footer = &bytes[bytes.len() - 240..bytes.len() - 64];
    let without = [
        &bytes[..usize::try_from(pages_end).unwrap()],
        footer,
        &Trailer::of(footer, pages_end).encode(),
    ];
    disk.put_file(&name, without.concat().as_slice());
    let segment = open(&*disk, sealed.header).unwrap();
    let error = read_footer(&*disk, &segment).unwrap_err();
    let what = "its footer's offsets do not fit the file";
    assert_eq!(error.to_string(), format!("{name} is corrupt at offset {pages_end}: {what}"));
}

#[test]
fn segments_are_cut_by_what_sealing_adds_exactly() {
    for (count, pages) in [(0, 0), (1, 1), (110, 1), (111, 2), (220, 2), (221, 3), (5000, 46)] {
        let mut sealer = Sealer::default();
        let directory_bytes = if pages == 0 { 0 } else { 4 + 4 * pages };
        assert_eq!(sealer.seal_bytes(count), pages * 4096 + directory_bytes + 176 + 64);
        for n in 0..count {
            let digest = Digest::of(&n.to_le_bytes());
            sealer.value(ListEntry { digest, offset_bytes: 512, class: SizeClass(0) });
        }
        let (bytes, _) = sealer.finish(header(LogKind::Blob, 1), 1 << 20);
        assert_eq!(bytes.len() as u64, sealer.seal_bytes(0), "{count} values");
    }
}

#[test]
fn what_seals_a_segment_takes_memory_as_its_values_do() {
    let rig = Rig::new(SimDisk::new(1), 1 << 20, 4096);
    let memory_bytes = || rig.log.figures().sealer_memory_bytes;
    for n in 0..3000u64 {
        rig.put(&value(n, 20)).unwrap();
        // A vector grows to twice its length at most, or to a few entries at once.
        let needed = (n + 1) * 41;
        assert!(memory_bytes() <= 2 * needed + 1000, "{} for {n}", memory_bytes());
    }
    rig.log.write_out().unwrap();
    assert!(memory_bytes() >= 3000 * 41);
    let mut number = 3000;
    while rig.log.closing_count() == 0 {
        rig.put(&value(number, 20)).unwrap();
        number += 1;
    }
    rig.log.sync_all().unwrap();
    let before = memory_bytes();
    let closing = rig.log.take_closing().unwrap().unwrap();
    assert_eq!(closing.sealer.value_count(), number - 1);
    assert_eq!(closing.sealer.memory_bytes(), before - memory_bytes());
}

#[test]
fn sealing_may_be_tried_again_without_space_and_not_after_a_failed_sync() {
    let disk = SimDisk::new(2);
    let rig = Rig::new(disk.clone(), 8192, 512);
    for n in 0..120 {
        rig.put(&value(n, 64)).unwrap();
    }
    let mut closing = rig.log.take_closing().unwrap().unwrap();
    let filter = Filter::any().operation(Operation::Write);
    disk.fail_when(filter, Fault::Enospc);
    assert!(matches!(closing.seal(&*disk, &rig.poison), Err(WalError::Disk(_))));
    disk.heal();
    let sealed = closing.seal(&*disk, &rig.poison).unwrap();
    verify(&*disk, &sealed).unwrap();
    verify(&*disk.after_crash(CrashState::Nothing), &sealed).unwrap();

    let mut closing = rig.log.take_closing().unwrap().unwrap();
    disk.fail_when(Filter::any().operation(Operation::Sync), Fault::SyncEnospc);
    assert!(matches!(closing.seal(&*disk, &rig.poison), Err(WalError::Poisoned { .. })));
    disk.heal();
    // The next sync would succeed, and mean nothing.
    assert!(matches!(closing.seal(&*disk, &rig.poison), Err(WalError::Poisoned { .. })));
}

#[test]
fn what_an_unfinished_seal_left_is_written_anew() {
    for cut in [1, 100, 4096 + 100] {
        let disk = SimDisk::new(3);
        let rig = Rig::new(disk.clone(), 8192, 512);
        for n in 0..120 {
            rig.put(&value(n, 64)).unwrap();
        }
        let mut closing = rig.log.take_closing().unwrap().unwrap();
        let frames_end_bytes = closing.frames_end_bytes;
        let sealed = closing.seal(&*disk, &rig.poison).unwrap();
        let name = sealed.header.file_name().to_string();
        let whole = disk.file_bytes(&name).unwrap();
        let kept = usize::try_from(frames_end_bytes).unwrap() + cut;
        disk.put_file(&name, &whole[..kept.min(whole.len())]);
        let bytes = disk.file_bytes(&name).unwrap();
        let scan = Scan::of(sealed.header, bytes.into());
        assert!(scan.is_complete());
        let (again, hash) = seal_again(&scan).finish(sealed.header, scan.valid_end_bytes);
        assert_eq!(hash, sealed.footer_hash);
        assert_eq!(again, whole[usize::try_from(frames_end_bytes).unwrap()..]);
    }
}

#[test]
fn a_sealed_pointer_segment_names_its_commits() {
    let disk = SimDisk::new(4);
    let header = header(LogKind::Pointer, 1);
    let writer = Writer::new(disk.clone(), header.epoch, common::store());
    let segment = create_segment(&*disk, header, 4096).unwrap();
    let mut log = Appender::new(writer.clone(), segment, FRAMES_START_BYTES, Sealer::default());
    for id in (5..9).map(CommitId) {
        let commit = CommitRecord { id, depends_upto: LogPosition::START, changes: Vec::new() };
        let mut payload = Vec::new();
        commit.encode(&mut payload);
        let mut frame = FrameBuilder::with_capacity(0);
        frame.push(common::store(), RecordKind::Commit, &payload);
        log.append(frame, false).unwrap();
        log.sealer().commit(id);
    }
    let next = SegmentHeader { ordinal: Ordinal(2), ..header };
    let mut closing = log.rotate(create_segment(&*disk, next, 4096).unwrap()).unwrap();
    let sealed = closing.seal(&*disk, &writer.poison).unwrap();
    assert_eq!(verify(&*disk, &sealed).unwrap(), []);
    let (footer, _) = read_footer(&*disk, &open(&*disk, header).unwrap()).unwrap();
    assert_eq!(
        (footer.commits, footer.record_count, footer.list_page_count),
        ((CommitId(5), CommitId(8)), 4, 0)
    );
    assert_eq!(footer.frame_count, 5, "the last one is a witness");
}
