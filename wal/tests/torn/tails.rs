//! Where the frames of a segment end, and what testifies that they went on.

use expect_test::expect;
use pinstone_disk::{Epoch, LogKind};
use pinstone_wal::{
    FrameBuilder, FramePlace, LastSealed, LogPosition, Scan, SegmentHeader, Synced, Verdict, judge,
};

use crate::common::{begun, header};
use crate::script::{World, check};

#[test]
fn whole_logs_end_where_they_end() {
    check(
        "blob 1 put apple
         blob 1 put pear
         durable blob
         pointer 1 put x
         blob 1 reserve 4096",
        &expect![[r#"
            blob: whole to 1:1536
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn a_torn_last_frame_is_cut() {
    check(
        "blob 1 put apple
         durable blob
         blob 1 put pear
         pointer 1 put x
         blob 1 flip 1
         blob 1 reserve 4096",
        &expect![[r#"
            blob: whole to 1:1024, 58 bytes cut
            pointer: whole to 1:1024
        "#]],
    );
    check(
        "blob 1 put apple
         blob 1 put pear
         blob 1 cut 1",
        &expect![[r#"
            blob: whole to 1:1024, 17 bytes cut
        "#]],
    );
}

#[test]
fn a_hole_before_a_frame_that_testifies_is_corrupt() {
    check(
        "blob 1 put apple
         blob 1 put pear
         durable blob
         blob 1 put fig
         blob 1 zero 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: expected a frame's kind; the last good frame ends here, and the frame at 1536 of blob-00000001-00000001.log says that the log was durable to 1:1536
        "#]],
    );
}

#[test]
fn a_flipped_bit_before_a_frame_that_testifies_is_corrupt() {
    check(
        "blob 1 put apple
         durable blob
         blob 1 put pear
         blob 1 flip 0",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 512: expected a record's checksum; the last good frame ends here, and the frame at 1024 of blob-00000001-00000001.log says that the log was durable to 1:1024
        "#]],
    );
}

#[test]
fn a_file_cut_short_of_what_was_durable_is_corrupt() {
    check(
        "blob 1 put apple
         durable blob
         pointer 1 put x
         blob 1 cut 0",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 512: expected a frame's header; the last good frame ends here, and the frame at 512 of pointer-00000001-00000001.log says that the log was durable to 1:1024
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn later_valid_bytes_alone_prove_nothing() {
    check(
        "blob 1 put apple
         durable blob
         blob 1 put pear
         blob 1 put fig
         blob 1 put plum
         blob 1 zero 1",
        &expect![[r#"
            blob: whole to 1:1024, 1082 bytes cut
        "#]],
    );
}

#[test]
fn another_log_testifies() {
    check(
        "blob 1 put apple
         blob 1 put pear
         durable blob
         root 1 put x
         root 1 put y
         blob 1 flip 1
         root 1 flip 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: expected a record's checksum; the last good frame ends here, and the frame at 512 of root-00000001-00000001.log says that the log was durable to 1:1536
            root: whole to 1:1024, 55 bytes cut
        "#]],
    );
}

#[test]
fn a_frame_that_is_cut_itself_testifies_all_the_same() {
    check(
        "blob 1 put apple
         durable blob
         pointer 1 put x
         pointer 1 put y
         blob 1 zero 0
         pointer 1 zero 0",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 512: expected a frame's kind; the last good frame ends here, and the frame at 1024 of pointer-00000001-00000001.log says that the log was durable to 1:1024
            pointer: whole to 1:512, 567 bytes cut
        "#]],
    );
}

#[test]
fn a_header_whose_records_are_damaged_testifies() {
    check(
        "blob 1 put apple
         durable blob
         pointer 1 put x
         blob 1 zero 0
         pointer 1 flip 0",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 512: expected a frame's kind; the last good frame ends here, and the frame at 512 of pointer-00000001-00000001.log says that the log was durable to 1:1024
            pointer: whole to 1:512, 55 bytes cut
        "#]],
    );
}

#[test]
fn the_roots_word_at_closing_testifies() {
    check(
        "blob 1 put apple
         pointer 1 put x
         closed blob
         closed pointer
         root 1 put x
         pointer 1 flip 0",
        &expect![[r#"
            blob: whole to 1:1024
            pointer: pointer-00000001-00000001.log is corrupt at offset 512: expected a record's checksum; the last good frame ends here, and the root, when the store was closed, says that the log was durable to 1:1024
            root: whole to 1:1024
        "#]],
    );
    check(
        "blob 1 put apple
         closed blob
         blob 1 put pear
         blob 1 flip 1",
        &expect![[r#"
            blob: whole to 1:1024, 58 bytes cut
        "#]],
    );
}

#[test]
fn damage_in_the_very_last_batch_is_taken_for_torn_until_something_testifies() {
    let acknowledged = "blob 1 put apple
        durable blob";
    check(
        &format!("{acknowledged}\nblob 1 flip 0"),
        &expect![[r#"
        blob: whole to 1:512, 59 bytes cut
    "#]],
    );
    check(
        &format!("{acknowledged}\nroot 1 witness\nblob 1 flip 0"),
        &expect![[r#"
        blob: blob-00000001-00000001.log is corrupt at offset 512: expected a record's checksum; the last good frame ends here, and the frame at 512 of root-00000001-00000001.log says that the log was durable to 1:1024
        root: whole to 1:1024
    "#]],
    );
}

#[test]
fn bytes_cut_are_counted_to_the_last_that_is_not_zero() {
    check(
        "blob 1 put apple
         blob 1 reserve 100
         blob 1 garbage abc
         blob 1 reserve 10000",
        &expect![[r#"
            blob: whole to 1:1024, 103 bytes cut
        "#]],
    );
}

#[test]
fn a_frame_out_of_sequence_ends_the_log() {
    let mut world = World::default();
    for line in ["blob 1 put apple", "blob 1 put pear"] {
        world.play(line);
    }
    // As if a frame had been written twice: bound to its place, and yet not the next one.
    world.segment(LogKind::Blob, 1).1.push(0);
    world.play("blob 1 put fig");
    expect![[r#"
        blob: whole to 1:1536, 57 bytes cut
    "#]]
    .assert_eq(&world.judge());
}

/// A root position with which the header of a witness at `offset` has the checksum 0: checksums are
/// linear, so that is a system of 32 equations with 64 unknowns.
fn position_with_checksum_zero(header: SegmentHeader, offset: u64) -> LogPosition {
    let crc = |number: u64| witness(header, offset, number).0;
    let zero = crc(0);
    // Each row: what a set of bits does to the checksum, and the set.
    let mut rows: Vec<(u32, u64)> = Vec::new();
    let reduce = |rows: &[(u32, u64)], mut row: (u32, u64)| {
        for kept in rows {
            if row.0 & (1 << kept.0.ilog2()) != 0 {
                row = (row.0 ^ kept.0, row.1 ^ kept.1);
            }
        }
        row
    };
    // The high bits first, for a position that is far.
    for bit in (0..64).rev() {
        let row = reduce(&rows, (crc(1 << bit) ^ zero, 1 << bit));
        if row.0 != 0 {
            rows.push(row);
        }
    }
    let (left, number) = reduce(&rows, (zero, 0));
    assert_eq!((left, crc(number)), (0, 0));
    LogPosition::from_number(number)
}

fn witness(header: SegmentHeader, offset: u64, root: u64) -> (u32, bytes::Bytes) {
    let synced = Synced { root: LogPosition::from_number(root), ..Synced::default() };
    let place = FramePlace { epoch: Epoch::FIRST, sequence: 0, synced, last: false };
    FrameBuilder::with_capacity(0).finish(header.seed(), offset, &place)
}

#[test]
fn a_frame_that_begins_with_zeros_is_found_after_a_hole() {
    let blob = header(LogKind::Blob, 1);
    let mut bytes = begun(blob);
    let hole = bytes.len() as u64 + 4096;
    bytes.resize(usize::try_from(hole).unwrap(), 0);
    let position = position_with_checksum_zero(blob, hole);
    let (_, frame) = witness(blob, hole, position.number());
    assert_eq!(frame[..8], [0; 8]);
    bytes.extend_from_slice(&frame);
    let blob = Scan::of(blob, bytes.into());
    let root = header(LogKind::Root, 1);
    let root = Scan::of(root, begun(root).into());
    let verdict = Verdict {
        blob: &[&blob],
        pointer: &[],
        root: &[&root],
        others: &[],
        sealed: LastSealed::default(),
        closed: Synced::default(),
    };
    assert!(judge(&verdict, LogKind::Blob).is_ok());
    assert!(judge(&verdict, LogKind::Root).is_err(), "it testifies that the root log was durable");
}
