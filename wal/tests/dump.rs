//! The dumper: what it shows, that it sees damage, and that nothing makes it panic.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::sync::Arc;

use common::{Rig, header, value};
use expect_test::expect;
use pinstone_disk::dump::Dump;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Epoch, FileName, LogKind, Ordinal};
use pinstone_wal::dump::{dump_file, opaque_payload};
use proptest::prelude::*;

fn dump(name: Option<&FileName>, bytes: &[u8]) -> Dump {
    dump_file(name, bytes, &opaque_payload)
}

fn is_sound(bytes: &[u8]) -> bool {
    dump(None, bytes).rows().iter().all(|row| row.field != "invalid" && row.field != "undecoded")
}

/// A sealed segment, and one that is not.
fn segments() -> (Vec<u8>, Vec<u8>) {
    let disk = SimDisk::new(1);
    let rig = Rig::new(disk.clone(), 12 << 10, 1024);
    for n in 0..90 {
        rig.put(&value(n, 60)).unwrap();
    }
    rig.log.sync_all().unwrap();
    let sealed = rig.seal_all().unwrap();
    let read = |ordinal| {
        let name = FileName::Segment {
            log: LogKind::Blob,
            ordinal: Ordinal(ordinal),
            epoch: Epoch::FIRST,
        };
        disk.file_bytes(&name.to_string()).unwrap()
    };
    assert_eq!(sealed.len(), 1);
    (read(1), read(2))
}

#[test]
fn a_segment_is_shown_field_by_field() {
    let rig = Rig::reserving(SimDisk::new(1), 1 << 20, 1024, 2048);
    rig.put(b"apple").unwrap();
    rig.log.sync_all().unwrap();
    let name =
        FileName::Segment { log: LogKind::Blob, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
    let bytes = common::file_bytes(&*rig.disk, name);
    expect![[r#"
        00000000  50494e53544f4e45  header.magic                 "PINSTONE"
        00000008  0400              header.version               4
        0000000a  01                header.file_kind             1, blob log
        0000000b  01                header.digest_kind           1, BLAKE3-256
        0000000c  00000000          header.compatible            0x00000000
        00000010  00000000          header.read_only_compatible  0x00000000
        00000014  00000000          header.incompatible          0x00000000
        00000018  612073746f72..    header.store_id              612073746f726520666f722074657374
        00000028  01000000          header.ordinal               1
        0000002c  01000000          header.epoch                 1
        00000030  000000000000..    header.reserved              12 bytes
        0000003c  6275e53a          header.header_crc            0x3ae57562
        00000040  000000000000..    padding.zeros                448 bytes
        00000200  dac771f0          frame.crc                    0xf071c7da
        00000204  2b000000          frame.body_bytes             43
        00000208  01                frame.kind                   1, records
        00000209  00                frame.flags                  0
        0000020a  0000              frame.reserved               0
        0000020c  9688ac2c          frame.body_check             0x2cac8896
        00000210  01000000          frame.epoch                  1
        00000214  00000000          frame.sequence               0
        00000218  0000000000000000  frame.synced_blob            0:0
        00000220  0000000000000000  frame.synced_pointer         0:0
        00000228  0000000000000000  frame.synced_root            0:0
        00000230  3f31831f          record.crc                   0x1f83313f
        00000234  01                record.kind                  1, value
        00000235  25                record.payload_bytes         37
        00000236  553bcf297bd9..    value.digest                 553bcf297bd9b9fb7c8987a2070fdfb722b98c1665b6461ff345a9a1c0ffb9b3
        00000256  6170706c65        value.bytes                  5 bytes
        0000025b  000000000000..    padding.zeros                421 bytes
        00000400  000000000000..    gap.zeros                    1024 bytes
    "#]].assert_eq(&dump(None, &bytes).render(&bytes));
}

#[test]
fn damage_is_shown_and_gone_past() {
    let (_, mut bytes) = segments();
    bytes[512 + 60] ^= 1;
    bytes[1536..1600].fill(0);
    let dump = dump(None, &bytes);
    let shown: String = dump
        .rows()
        .iter()
        .filter(|row| ["invalid", "undecoded", "sequence"].contains(&row.field))
        .map(|row| format!("{:04x} {}.{}: {}\n", row.offset, row.structure, row.field, row.value))
        .collect();
    expect![[r#"
        0214 frame.sequence: 0
        0230 record.invalid: expected a record's checksum
        0236 value.invalid: its bytes have another digest
        0608 frame.invalid: expected a frame's kind
        0608 gap.undecoded: 1016 bytes
        0a00 frame.invalid: expected sequence 1
        0a14 frame.sequence: 2
        0e14 frame.sequence: 3
    "#]]
    .assert_eq(&shown);
}

#[test]
fn each_flipped_bit_is_shown() {
    let (sealed, unsealed) = segments();
    assert!(is_sound(&sealed) && is_sound(&unsealed));
    for (whole, step) in [(sealed, 5), (unsealed, 3)] {
        for at in (0..whole.len()).step_by(step).chain(0..64).chain(whole.len() - 240..whole.len())
        {
            let mut bytes = whole.clone();
            bytes[at] ^= 1u8 << (at % 8);
            assert!(!is_sound(&bytes), "byte {at}");
        }
    }
}

#[test]
fn a_damaged_header_is_replaced_by_the_files_name_as_far_as_that_goes() {
    let (_, mut bytes) = segments();
    let name = FileName::Segment { log: LogKind::Blob, ordinal: Ordinal(2), epoch: Epoch::FIRST };
    bytes[10] = 77;
    bytes[40] = 9;
    let values = |dump: &Dump| dump.rows().iter().filter(|row| row.structure == "value").count();
    assert_eq!(values(&dump(None, &bytes)), 0);
    assert!(values(&dump(Some(&name), &bytes)) > 0);
}

#[test]
fn other_files_are_shown_for_what_they_are() {
    let current = header(LogKind::Root, 3).encode_current();
    assert!(is_sound(&current));
    assert!(!is_sound(&[&current[..], b"x"].concat()));
    assert!(!is_sound(&current[..40]));
    let lock = dump(Some(&FileName::Lock), b"4242\n");
    assert_eq!(lock.render(b"4242\n"), "00000000  343234320a  lock.pid  4242\\n\n");
    assert!(!is_sound(b"a text"));
}

proptest! {
    #[test]
    fn any_bytes_are_dumped_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        headed: bool,
        kind in 1u8..4,
    ) {
        let mut bytes = bytes;
        if headed {
            let log = LogKind::from_number(kind).unwrap();
            bytes.splice(0..64.min(bytes.len()), header(log, 1).encode());
        }
        let name = FileName::Segment { log: LogKind::Pointer, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
        for name in [None, Some(&name), Some(&FileName::Current), Some(&FileName::Reserve)] {
            dump(name, &bytes).render(&bytes);
        }
    }

    #[test]
    fn damaged_segments_are_dumped_without_panic(
        at: prop::sample::Index,
        with in prop::collection::vec(any::<u8>(), 1..200),
        cut: prop::sample::Index,
        sealed: bool,
    ) {
        let segments = SEGMENTS.get_or_init(|| Arc::new(segments()));
        let mut bytes = if sealed { segments.0.clone() } else { segments.1.clone() };
        let at = at.index(bytes.len());
        let end = (at + with.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&with[..end - at]);
        if sealed && with.len() % 3 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dump = dump(None, &bytes);
        let covered: usize = dump.rows().iter().map(|row| row.len).sum();
        prop_assert!(covered >= bytes.len(), "every byte is in a row");
        dump.render(&bytes);
    }
}

static SEGMENTS: std::sync::OnceLock<Arc<(Vec<u8>, Vec<u8>)>> = std::sync::OnceLock::new();
