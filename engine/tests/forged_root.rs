//! A root whose checksums agree and whose numbers nobody wrote: it is refused, or what it says is told.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::{tiny_tables, told};
use pinstone::{Batch, CheckOptions, Error, Maintenance, Store};
use pinstone_disk::Disk;
use pinstone_disk::sim::SimDisk;
use pinstone_wal::{FrameBuilder, FramePlace, RecordKind, Scan, SegmentHeader, StoreSeed};

fn open(disk: &Arc<SimDisk>) -> pinstone::Result<Store> {
    let builder = tiny_tables().maintenance(Maintenance::Inline);
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

/// The disk of a closed store with sealed segments of both logs.
fn closed() -> Arc<SimDisk> {
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    for number in 0..30_u32 {
        let digest = store.put(&number.to_le_bytes().repeat(100)).unwrap().digest;
        store.commit(Batch::new().set(format!("name {number}"), digest)).unwrap();
    }
    store.close().unwrap();
    disk.clean_reopen()
}

/// Appends a record with this edit to the root log in force; says how that file is called.
fn forge(disk: &SimDisk, edit: &[&[u8]]) -> String {
    let header = SegmentHeader::decode_current(&disk.file_bytes("CURRENT").unwrap()).unwrap();
    let name = header.file_name().to_string();
    let mut bytes = disk.file_bytes(&name).unwrap();
    let scan = Scan::of(header, bytes.clone().into());
    let last = scan.frames.last().unwrap().header;
    let mut frame = FrameBuilder::with_capacity(0);
    let payload = [&[1], edit.concat().as_slice()].concat();
    frame.push(StoreSeed::new(&header.store_id), RecordKind::RootEdit, &payload);
    let place = FramePlace {
        epoch: last.epoch,
        sequence: last.sequence + 1,
        synced: last.synced,
        last: false,
    };
    let (_, frame) = frame.finish(header.seed(), scan.valid_end_bytes, &place);
    bytes.truncate(usize::try_from(scan.valid_end_bytes).unwrap());
    disk.put_file(&name, [&bytes[..], &frame].concat());
    name
}

#[test]
fn a_commit_that_no_other_can_follow_is_damage() {
    for number in [u64::MAX, 1 << 63] {
        let disk = closed();
        // A flushed_edit of the names, of whose log nothing else stands in tables.
        let file_named =
            forge(&disk, &[&[7, 18], &1_u32.to_le_bytes(), &number.to_le_bytes(), &[0; 8]]);
        let error = open(&disk).map(drop).unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt { file, .. } if *file == file_named),
            "{}",
            told(&error)
        );
    }
}

#[test]
fn lengths_of_segments_that_add_up_to_more_than_any_are_told() {
    let disk = closed();
    for ordinal in 1..3_u32 {
        // A seal_edit of a segment of the blob log of which all stands in tables: no open reads it.
        let (ordinal, epoch) = (ordinal.to_le_bytes(), 1_u32.to_le_bytes());
        forge(&disk, &[&[2, 1], &ordinal, &epoch, &[0xff; 8], &[1; 8], &[7; 32]]);
    }
    let store = open(&disk).unwrap();
    assert_eq!(store.stats().blob_log.bytes, u64::MAX);
    let report = store.check(&CheckOptions::default()).unwrap();
    assert!(report.findings.len() >= 2, "{report:?}");
}
