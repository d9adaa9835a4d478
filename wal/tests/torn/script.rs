//! Torn or corrupt: small logs made by scripts, damaged, and judged.
//!
//! A script's lines run in order. `durable LOG` is a sync that succeeded: frames composed from then
//! on testify that the log is durable to where it ended then. `sealed LOG ORDINAL`: the root names
//! that segment as sealed, so it is not scanned. `forget LOG ORDINAL`: the root does not name that
//! segment any more, its file is there; `remove LOG ORDINAL`: nor is that.
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use expect_test::{Expect, expect};
use pinstone_disk::{Epoch, FormatError, LogKind, Ordinal, StoreId};
use pinstone_wal::{
    FRAMES_START_BYTES, FrameBuilder, FramePlace, LastSealed, LogPosition, RecordKind, Scan,
    SegmentHeader, StoreSeed, Synced, SyncedUpto, Verdict, WalError, judge,
};

const STORE_ID: StoreId = StoreId([9; 16]);

#[derive(Default)]
struct World {
    /// Bytes, and where each frame begins.
    segments: BTreeMap<(LogKind, u32), (Vec<u8>, Vec<usize>)>,
    synced: SyncedUpto,
    /// Files that the root does not name.
    forgotten: Vec<(SegmentHeader, Vec<u8>)>,
    sealed: LastSealed,
    closed: Synced,
}

fn log(word: &str) -> LogKind {
    LogKind::ALL.into_iter().find(|log| log.word() == word).expect("a log's name")
}

fn header(log: LogKind, ordinal: u32) -> SegmentHeader {
    SegmentHeader { store_id: STORE_ID, log, ordinal: Ordinal(ordinal), epoch: Epoch::FIRST }
}

/// A segment without frames.
fn begun(header: SegmentHeader) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    bytes.resize(usize::try_from(FRAMES_START_BYTES).unwrap(), 0);
    bytes
}

impl World {
    fn segment(&mut self, log: LogKind, ordinal: u32) -> &mut (Vec<u8>, Vec<usize>) {
        self.segments
            .entry((log, ordinal))
            .or_insert_with(|| (begun(header(log, ordinal)), Vec::new()))
    }

    fn end(&self, log: LogKind) -> LogPosition {
        let last = self.segments.iter().rev().find(|((of, _), _)| *of == log);
        last.map_or(LogPosition::START, |((_, ordinal), (bytes, _))| {
            LogPosition::new(Ordinal(*ordinal), u32::try_from(bytes.len()).unwrap())
        })
    }

    fn frame(&mut self, log: LogKind, ordinal: u32, record: Option<&str>, last: bool) {
        let synced = self.synced.now();
        let (bytes, frames) = self.segment(log, ordinal);
        let mut frame = FrameBuilder::with_capacity(0);
        if let Some(record) = record {
            frame.push(StoreSeed::new(&STORE_ID), RecordKind::Value, record.as_bytes());
        }
        let sequence = u32::try_from(frames.len()).unwrap();
        let place = FramePlace { epoch: Epoch::FIRST, sequence, synced, last };
        let at = bytes.len();
        frames.push(at);
        let (_, encoded) = frame.finish(header(log, ordinal).seed(), at as u64, &place);
        bytes.extend_from_slice(&encoded);
    }

    fn play(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["durable", word] => self.synced.raise(log(word), self.end(log(word))),
            ["closed", word] => match log(word) {
                LogKind::Blob => self.closed.blob = self.end(LogKind::Blob),
                LogKind::Pointer => self.closed.pointer = self.end(LogKind::Pointer),
                LogKind::Root => self.closed.root = self.end(LogKind::Root),
            },
            ["sealed", word, ordinal] => {
                let ordinal = ordinal.parse().unwrap();
                self.segments.remove(&(log(word), ordinal)).expect("it was written");
                match log(word) {
                    LogKind::Blob => self.sealed.blob = Some(Ordinal(ordinal)),
                    LogKind::Pointer => self.sealed.pointer = Some(Ordinal(ordinal)),
                    LogKind::Root => panic!("{line}"),
                }
            }
            [verb @ ("forget" | "remove"), word, ordinal] => {
                let ordinal = ordinal.parse().unwrap();
                let removed = self.segments.remove(&(log(word), ordinal));
                let (bytes, _) = removed.expect("it was written");
                if verb == "forget" {
                    self.forgotten.push((header(log(word), ordinal), bytes));
                }
            }
            [word, ordinal, ref rest @ ..] => {
                self.segment_line(log(word), ordinal.parse().unwrap(), rest);
            }
            _ => panic!("{line}"),
        }
    }

    fn segment_line(&mut self, log: LogKind, ordinal: u32, rest: &[&str]) {
        match *rest {
            ["begin"] => drop(self.segment(log, ordinal).0.len()),
            ["put", text] => self.frame(log, ordinal, Some(text), false),
            ["witness"] => self.frame(log, ordinal, None, false),
            ["last"] => self.frame(log, ordinal, None, true),
            ["reserve", count] => {
                let count: usize = count.parse().unwrap();
                let bytes = &mut self.segment(log, ordinal).0;
                bytes.resize(bytes.len() + count, 0);
            }
            ["garbage", text] => {
                self.segment(log, ordinal).0.extend_from_slice(text.as_bytes());
            }
            // Damage to the n-th frame: a bit of its last byte, zeros for it, or the file ends in it.
            [damage, frame] => {
                let frame: usize = frame.parse().unwrap();
                let (bytes, frames) = self.segment(log, ordinal);
                let start = frames[frame];
                let end = frames.get(frame + 1).copied().unwrap_or(bytes.len());
                match damage {
                    "flip" => bytes[start + 50.min(end - start - 1)] ^= 1,
                    "zero" => bytes[start..end].fill(0),
                    "cut" => bytes.truncate(start + 20),
                    _ => panic!("{damage}"),
                }
            }
            _ => panic!("{rest:?}"),
        }
    }

    fn judge(&self) -> String {
        let scans: Vec<Scan> = self
            .segments
            .iter()
            .map(|((log, ordinal), (bytes, _))| {
                Scan::of(header(*log, *ordinal), bytes.clone().into())
            })
            .collect();
        let of = |log| scans.iter().filter(|scan| scan.header.log == log).collect::<Vec<_>>();
        let [blob, pointer, root] = LogKind::ALL.map(of);
        let others: Vec<Scan> = self
            .forgotten
            .iter()
            .map(|(header, bytes)| Scan::of(*header, bytes.clone().into()))
            .collect();
        let verdict = Verdict {
            blob: &blob,
            pointer: &pointer,
            root: &root,
            others: &others.iter().collect::<Vec<_>>(),
            sealed: self.sealed,
            closed: self.closed,
        };
        let mut out = String::new();
        for log in LogKind::ALL {
            let line = match judge(&verdict, log) {
                Ok(None) => continue,
                Ok(Some(end)) => {
                    let complete = if end.complete { ", complete" } else { "" };
                    let cut = match end.cut_bytes {
                        0 => String::new(),
                        count => format!(", {count} bytes cut"),
                    };
                    format!("{}: whole to {}{cut}{complete}", log.word(), end.position)
                }
                Err(error @ WalError::Format(FormatError::Corrupt { .. })) => {
                    format!("{}: {error}", log.word())
                }
                Err(error) => panic!("{error}"),
            };
            writeln!(out, "{line}").unwrap();
        }
        out
    }
}

fn check(script: &str, expected: &Expect) {
    let mut world = World::default();
    script.lines().for_each(|line| world.play(line));
    expected.assert_eq(&world.judge());
}

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
fn a_log_goes_on_in_the_next_segment_after_its_last_frame() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         blob 2 put fig
         blob 2 flip 1
         blob 3 begin",
        &expect![[r#"
            blob: whole to 2:1024, 57 bytes cut
        "#]],
    );
}

#[test]
fn a_segment_without_its_last_frame_ends_the_log() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         blob 2 put fig
         blob 1 zero 1",
        &expect![[r#"
            blob: whole to 1:1024, 1024 bytes cut
        "#]],
    );
}

#[test]
fn a_lost_last_frame_that_was_durable_is_corrupt() {
    check(
        "blob 1 put apple
         blob 1 last
         durable blob
         blob 2 put pear
         blob 1 zero 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: expected a frame's kind; the last good frame ends here, and the frame at 512 of blob-00000002-00000001.log says that the log was durable to 1:1536
        "#]],
    );
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         pointer 1 put x
         blob 1 zero 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: expected a frame's kind; the last good frame ends here, and the frame at 512 of pointer-00000001-00000001.log says that the log was durable to 2:1024
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn an_only_segment_that_the_root_forgot_is_corrupt_if_anything_testifies_to_it() {
    check(
        "blob 1 put apple
         durable blob
         pointer 1 put x
         pointer 1 put y
         remove blob 1",
        &expect![[r#"
            blob: pointer-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 1:1024, and the root names no segment of it
            pointer: whole to 1:1536
        "#]],
    );
    // Its own frames do.
    check(
        "blob 1 put apple
         durable blob
         blob 1 put pear
         forget blob 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: the frame here says that the blob log was durable to 1:1024, and the root names no segment of it
        "#]],
    );
    check(
        "blob 1 put apple
         closed blob
         root 1 put x
         remove blob 1",
        &expect![[r#"
            blob: root-00000001-00000001.log is corrupt at offset 512: the root, when the store was closed, says that the blob log was durable to 1:1024, and the root names no segment of it
            root: whole to 1:1024
        "#]],
    );
}

#[test]
fn a_segment_after_the_sealed_ones_that_the_root_forgot_is_corrupt_if_anything_testifies_to_it() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         pointer 1 put x
         sealed blob 1
         remove blob 2",
        &expect![[r#"
            blob: pointer-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 2:1024, and the root names no segment of it after 1
            pointer: whole to 1:1024
        "#]],
    );
    // Its own frames do.
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         blob 2 put fig
         sealed blob 1
         forget blob 2",
        &expect![[r#"
            blob: blob-00000002-00000001.log is corrupt at offset 1024: the frame here says that the blob log was durable to 2:1024, and the root names no segment of it after 1
        "#]],
    );
    // The root's word at closing does, which stands in its last record.
    check(
        "pointer 1 put x
         pointer 1 last
         pointer 2 put y
         closed pointer
         root 1 put first
         root 1 put closing
         root 1 witness
         sealed pointer 1
         remove pointer 2",
        &expect![[r#"
            pointer: root-00000001-00000001.log is corrupt at offset 1024: the root, when the store was closed, says that the pointer log was durable to 2:1024, and the root names no segment of it after 1
            root: whole to 1:2048
        "#]],
    );
}

#[test]
fn a_segment_after_unsealed_ones_that_the_root_forgot_is_corrupt_if_anything_testifies_to_it() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         root 1 put x
         remove blob 2",
        &expect![[r#"
            blob: root-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 2:1024, and the root names no segment of it after 1
            root: whole to 1:1024
        "#]],
    );
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         blob 2 last
         blob 3 put fig
         durable blob
         root 1 put x
         sealed blob 1
         remove blob 3",
        &expect![[r#"
            blob: root-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 3:1024, and the root names no segment of it after 2
            root: whole to 1:1024
        "#]],
    );
}

#[test]
fn what_the_root_does_not_name_and_nothing_testifies_to_is_not_missed() {
    check(
        "blob 1 put apple
         blob 1 last
         durable blob
         blob 2 put pear
         pointer 1 put x
         sealed blob 1
         forget blob 2",
        &expect![[r#"
            pointer: whole to 1:1024
        "#]],
    );
    check(
        "blob 1 put apple
         pointer 1 put x
         forget blob 1",
        &expect![[r#"
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn testimony_to_sealed_segments_is_met_by_their_being_sealed() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         blob 2 last
         durable blob
         pointer 1 put x
         sealed blob 1
         sealed blob 2",
        &expect![[r#"
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn an_empty_segment_between_two_ends_the_log() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 begin
         blob 3 put pear",
        &expect![[r#"
            blob: whole to 2:512, 512 bytes cut
        "#]],
    );
}

#[test]
fn what_stands_after_a_last_frame_is_not_torn() {
    check(
        "blob 1 put apple
         blob 1 last
         durable blob
         blob 1 garbage half-a-footer",
        &expect![[r#"
            blob: whole to 1:1536, complete
        "#]],
    );
    check(
        "blob 1 put apple
         blob 1 last
         blob 1 put pear",
        &expect![[r#"
            blob: whole to 1:1536, complete
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
