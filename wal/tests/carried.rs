//! What commits may carry of the blob log, and laying it.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use common::{EPOCH, Rig, found, header, store, value};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Bytes, CommitId, LogKind, Operation, Ordinal};
use pinstone_wal::{
    CARRIED_BYTES_MAX, Carried, CarriedFrames, CommitRecord, FrameBuilder, FramePlace, LogPosition,
    RecordKind, Scan, Synced, WalError,
};

fn at(rig: &Rig, value: &[u8]) -> LogPosition {
    rig.place(value).unwrap().position()
}

fn carry(rig: &Rig, value: &[u8]) -> Option<Carried> {
    rig.log.carry(at(rig, value), CARRIED_BYTES_MAX).unwrap()
}

/// The bytes of the first segment, as a crash that kept nothing left them.
fn lost(disk: &SimDisk) -> Bytes {
    let name = header(LogKind::Blob, 1).file_name();
    common::file_bytes(&*disk.after_crash(CrashState::Nothing), name)
}

/// A segment of the pointer log with one frame for each of these; the last is the segment's last if
/// `is_complete`.
fn pointer_segment(ordinal: u32, frames: &[(&Carried, LogPosition)], is_complete: bool) -> Scan {
    let header = header(LogKind::Pointer, ordinal);
    let mut bytes = common::begun(header);
    for (sequence, (carried, depends_upto)) in (0..).zip(frames) {
        let mut frame = FrameBuilder::with_capacity(0);
        carried.push(store(), &mut frame);
        let id = CommitId(u64::from(sequence) + 1);
        let commit = CommitRecord { id, depends_upto: *depends_upto, changes: Vec::new() };
        let mut payload = Vec::new();
        commit.encode(&mut payload);
        frame.push(store(), RecordKind::Commit, &payload);
        let last = is_complete && sequence as usize + 1 == frames.len();
        let place = FramePlace { epoch: EPOCH, sequence, synced: Synced::default(), last };
        bytes.extend_from_slice(&frame.finish(header.seed(), bytes.len() as u64, &place).1);
    }
    Scan::of(header, bytes.into())
}

#[test]
fn a_commit_carries_what_is_written_and_neither_durable_nor_carried() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    rig.log.sync_all().unwrap();
    let synced = rig.synced.of(LogKind::Blob);
    assert_eq!(rig.log.safe_upto(), synced);

    rig.put(b"second").unwrap();
    rig.put(b"third").unwrap();
    let carried = carry(&rig, b"second").unwrap();
    assert_eq!((carried.from, carried.upto), (synced, rig.log.written_upto()));
    assert_eq!(carried.len_bytes(), 512);
    // Nobody says that it was made durable: it is carried again, with what comes after.
    rig.put(b"fourth").unwrap();
    let carried = carry(&rig, b"fourth").unwrap();
    assert_eq!((carried.from, carried.frames.len()), (synced, 2));
    let upto = carried.upto;
    rig.log.note_carried(carried);
    assert_eq!(rig.log.safe_upto(), upto);
    assert_eq!(rig.synced.of(LogKind::Blob), synced, "what is carried is not said to be synced");
    assert_eq!(found(&disk, CrashState::Nothing).values, [b"first"]);

    rig.put(b"fifth").unwrap();
    let carried = carry(&rig, b"fifth").unwrap();
    assert_eq!((carried.from, carried.frames.len()), (upto, 1));
    rig.log.sync_all().unwrap();
    assert_eq!(rig.log.safe_upto(), rig.log.written_upto());
    rig.put(b"sixth").unwrap();
    assert_eq!(carry(&rig, b"sixth").unwrap().from, rig.synced.of(LogKind::Blob));
}

#[test]
fn what_cannot_be_carried_is_left_to_a_round_and_what_follows_it_is_carried() {
    let large = value(1, 1000);
    let full = value(2, 200);
    type Make<'a> = &'a dyn Fn(&Rig) -> Vec<u8>;
    let cases: [(&str, Make<'_>); 3] = [
        ("a large value", &|rig| {
            rig.put(&large).unwrap();
            large.clone()
        }),
        ("more than the caller takes", &|rig| {
            rig.put(&full).unwrap();
            assert!(rig.log.carry(at(rig, &full), 511).unwrap().is_none());
            assert!(rig.log.carry(at(rig, &full), 512).unwrap().is_some());
            rig.put(&large).unwrap();
            full.clone()
        }),
        ("two segments", &|rig| {
            let mut last = Vec::new();
            for number in 0.. {
                last = value(100 + number, 400);
                rig.put(&last).unwrap();
                if at(rig, &last).ordinal() > Ordinal(1) {
                    break;
                }
                rig.log.write_out().unwrap();
            }
            last
        }),
    ];
    for (what, make) in cases {
        let disk = SimDisk::new(1);
        let rig = Rig::small(disk.clone());
        rig.put(b"first").unwrap();
        rig.log.sync_all().unwrap();
        let last = make(&rig);
        assert!(carry(&rig, &last).is_none(), "{what}");
        rig.log.sync(at(&rig, &last)).unwrap();
        rig.put(b"after").unwrap();
        let carried = carry(&rig, b"after").expect(what);
        assert_eq!(carried.from, rig.synced.of(LogKind::Blob), "{what}");
    }
}

#[test]
fn no_more_than_a_bound_is_carried_between_two_rounds() {
    let segment_bytes = 64 << 20;
    let rig = Rig::new(SimDisk::new(1), segment_bytes, 1 << 20);
    let mut carried_bytes = 0;
    for number in 0..100 {
        let value = value(number, 200 << 10);
        rig.put(&value).unwrap();
        match carry(&rig, &value) {
            Some(carried) => {
                carried_bytes += carried.len_bytes();
                rig.log.note_carried(carried);
            }
            None => break,
        }
    }
    assert!(((4 << 20) - (256 << 10)..=4 << 20).contains(&carried_bytes), "{carried_bytes}");
    rig.log.sync_all().unwrap();
    rig.put(b"after").unwrap();
    assert!(carry(&rig, b"after").is_some());
}

#[test]
fn what_is_carried_while_a_round_is_on_its_way_counts_for_the_next() {
    let rig = Rig::new(SimDisk::new(1), 64 << 20, 1 << 20);
    let carry = |number: u64| {
        let value = value(number, 200 << 10);
        rig.put(&value).unwrap();
        carry(&rig, &value).map(|carried| rig.log.note_carried(carried)).is_some()
    };
    assert!(carry(0));
    let round = rig.log.begin_round_covering(at(&rig, &value(0, 200 << 10))).unwrap();
    let count = (1..).take_while(|number| carry(*number)).count() as u64;
    assert!(count > 10);
    drop(round.chains());
    round.finish(Ok(())).unwrap();
    let _more = (100..).take_while(|number| carry(*number)).count();
    let unsynced = rig.log.safe_upto().number() - rig.synced.of(LogKind::Blob).number();
    assert!(unsynced <= 4 << 20, "{unsynced} bytes are carried and not synced");
}

#[test]
fn more_than_one_commit_carries_at_once_is_synced() {
    let rig = Rig::new(SimDisk::new(1), 64 << 20, 1 << 20);
    for number in 0..3 {
        rig.put(&value(number, 100 << 10)).unwrap();
        rig.log.write_out().unwrap();
    }
    assert!(carry(&rig, &value(2, 100 << 10)).is_none());
    assert!(rig.log.figures().gathered_bytes < 1 << 20, "what is let go of takes no memory");
}

#[test]
fn what_is_carried_is_synced_when_asked_for() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.log.sync_carried().unwrap();
    rig.put(b"first").unwrap();
    let carried = carry(&rig, b"first").unwrap();
    rig.log.note_carried(carried);
    rig.log.sync_carried().unwrap();
    assert_eq!(found(&disk, CrashState::Nothing).values, [b"first"]);
    let ops = disk.op_count();
    rig.log.sync_carried().unwrap();
    assert_eq!(disk.op_count(), ops, "it is durable");
    rig.put(b"second").unwrap();
    let carried = carry(&rig, b"second").unwrap();
    rig.log.note_carried(carried);
    disk.fail_when(Filter::any().operation(Operation::Sync), Fault::Eio);
    assert!(matches!(rig.log.sync_carried(), Err(WalError::Poisoned { .. })));
}

#[test]
fn what_is_carried_is_laid_over_whatever_the_file_has() {
    let disk = SimDisk::new(1);
    let rig = Rig::small(disk.clone());
    rig.put(b"first").unwrap();
    rig.log.sync_all().unwrap();
    rig.put(b"second").unwrap();
    let one = carry(&rig, b"second").unwrap();
    rig.log.note_carried(one.clone());
    rig.put(b"third").unwrap();
    let two = carry(&rig, b"third").unwrap();
    rig.log.note_carried(two.clone());

    // In two segments of the pointer log, of which the first goes on in the second.
    let pointers = [
        pointer_segment(1, &[(&one, one.upto)], true),
        pointer_segment(2, &[(&two, two.upto)], false),
    ];
    let carried = CarriedFrames::of(&pointers).unwrap();
    let values = |bytes: Bytes| {
        let (bytes, is_laid) = carried.lay(Ordinal(1), bytes);
        let scan = Scan::of(header(LogKind::Blob, 1), bytes);
        assert_eq!(scan.end(), rig.log.written_upto());
        let mut count = 0;
        scan.records(scan.valid_end_bytes, |_, _, _| count += 1);
        (count, is_laid)
    };
    let whole = common::file_bytes(&*disk, header(LogKind::Blob, 1).file_name());
    assert_eq!(values(whole.clone()), (3, false), "the file has it all");
    let lost = lost(&disk);
    assert_eq!(values(lost.clone()), (3, true), "the file has none of it");
    let from = usize::try_from(one.from.offset_bytes()).unwrap();
    assert_eq!(values(lost.slice(..from)), (3, true), "the file is shorter");
    for offset in (from..whole.len()).step_by(97) {
        let mut damaged = whole.to_vec();
        damaged[offset] ^= 0xff;
        if offset < usize::try_from(two.upto.offset_bytes()).unwrap() {
            assert_eq!(values(damaged.into()), (3, true), "damaged at {offset}");
        }
    }
    let (other, is_laid) = carried.lay(Ordinal(2), Bytes::from_static(b"other"));
    assert!(!is_laid && other == b"other"[..]);

    let (start, end) = (one.from.offset_bytes(), two.upto.offset_bytes());
    let around = |ordinal, len_bytes| {
        let parts = carried.around(Ordinal(ordinal), len_bytes).into_iter();
        parts.map(|part| (part.start, part.end)).collect::<Vec<_>>()
    };
    assert_eq!(around(1, end + 7), [(0, start), (end, end + 7)]);
    assert_eq!(around(1, end - 1), [(0, start)]);
    assert_eq!(around(1, start - 1), [(0, start - 1)]);
    assert_eq!(around(2, 5), [(0, 5)]);

    // Where the first goes on in none, the log ends there.
    let torn = [
        pointer_segment(1, &[(&one, one.upto)], false),
        pointer_segment(2, &[(&two, two.upto)], false),
    ];
    let (bytes, _) = CarriedFrames::of(&torn).unwrap().lay(Ordinal(1), lost);
    assert_eq!(Scan::of(header(LogKind::Blob, 1), bytes).end(), one.upto);
}

#[test]
fn what_no_commit_depends_on_is_not_carried() {
    let carried = Carried {
        from: LogPosition::new(Ordinal(1), 512),
        upto: LogPosition::new(Ordinal(1), 1024),
        frames: vec![vec![1; 512].into()],
    };
    let scan = pointer_segment(1, &[(&carried, carried.from)], false);
    assert_eq!(scan.frames.len(), 1);
    let error = CarriedFrames::of([&scan]).unwrap_err().to_string();
    assert!(error.contains("pointer-00000001") && error.contains("depend"), "{error}");
    // Nor is what is not whole sectors.
    let odd = Carried { frames: vec![vec![1; 500].into()], ..carried };
    let scan = pointer_segment(1, &[(&odd, odd.upto)], false);
    let error = CarriedFrames::of([&scan]).unwrap_err().to_string();
    assert!(error.contains("frames carried from a segment"), "{error}");
}

/// A crash may take it, and then what stands behind it is not found.
#[test]
fn what_stands_behind_a_value_that_cannot_be_carried_is_not_carried_before_that_is_synced() {
    let rig = Rig::small(SimDisk::new(1));
    rig.put(b"first").unwrap();
    rig.log.sync_all().unwrap();
    rig.put(&value(1, 1000)).unwrap();
    rig.put(b"behind").unwrap();
    assert!(carry(&rig, b"behind").is_none());
    rig.log.sync(rig.place(b"behind").unwrap().position()).unwrap();
    rig.put(b"last").unwrap();
    assert_eq!(carry(&rig, b"last").unwrap().from, rig.synced.of(LogKind::Blob));
}
