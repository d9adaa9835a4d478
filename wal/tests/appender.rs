//! The appender: what it refused is durably not there, and rotation leaves no segment out.
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::sync::Arc;

use common::{find, header, store};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Digest, LogKind, Operation};
use pinstone_wal::{
    Appender, FRAMES_START_BYTES, FrameBuilder, Poison, PreparedValue, RecordKind, Sealer,
    SegmentFile, SyncedUpto, WalError, Writer, create_segment,
};

struct Rig {
    disk: Arc<SimDisk>,
    poison: Arc<Poison>,
    synced: Arc<SyncedUpto>,
    log: Appender,
    next_ordinal: u32,
}

impl Rig {
    fn new(seed: u64, reserve_bytes: u64) -> Self {
        let disk = SimDisk::new(seed);
        let header = header(LogKind::Pointer, 1);
        let segment = create_segment(&*disk, header, reserve_bytes).unwrap();
        let writer = Writer::new(disk.clone(), header.epoch, store());
        let log = Appender::new(writer.clone(), segment, FRAMES_START_BYTES, Sealer::default());
        let Writer { poison, synced, .. } = writer;
        Self { disk, poison, synced, log, next_ordinal: 2 }
    }

    fn append(&mut self, text: &str) -> Result<(), WalError> {
        self.log.append(frame(text), false)
    }

    fn sync(&self) {
        use pinstone_disk::DiskExt;
        self.disk.sync(&self.log.segment().file).unwrap();
        self.synced.raise(LogKind::Pointer, self.log.end());
    }

    fn next(&mut self) -> SegmentFile {
        let header = header(LogKind::Pointer, self.next_ordinal);
        self.next_ordinal += 1;
        create_segment(&*self.disk, header, 512).unwrap()
    }

    /// What each of several crashes leaves.
    fn after_crashes(&self) -> Vec<Vec<String>> {
        let states = (0..20).map(CrashState::Random);
        let states = [CrashState::Nothing, CrashState::Everything].into_iter().chain(states);
        states.map(|state| texts(&*self.disk.after_crash(state))).collect()
    }
}

/// A value's record stands for any other.
fn frame(text: &str) -> FrameBuilder {
    let mut frame = FrameBuilder::with_capacity(0);
    let payload = [Digest::of(text.as_bytes()).as_bytes(), text.as_bytes()].concat();
    frame.push(store(), RecordKind::Value, &payload);
    assert_eq!(frame.body_bytes() as u64, PreparedValue::record_bytes(text.len() as u64));
    frame
}

fn texts(disk: &dyn pinstone_disk::Disk) -> Vec<String> {
    let found = find(disk, LogKind::Pointer).unwrap();
    found.values.into_iter().map(|value| String::from_utf8(value).unwrap()).collect()
}

#[test]
fn a_refused_append_leaves_no_trace() {
    for capacity in (1024..3000).step_by(64) {
        let mut rig = Rig::new(capacity, 0);
        rig.append("first").unwrap();
        rig.sync();
        rig.disk.set_capacity(Some(rig.disk.used_bytes().max(capacity)));
        let mut kept = vec!["first".to_owned()];
        let refused = loop {
            let text = format!("{:0200}", kept.len());
            match rig.append(&text) {
                Ok(()) => kept.push(text),
                Err(WalError::Disk(error)) if error.is_no_space() => break text,
                Err(error) => panic!("{error}"),
            }
        };
        for found in rig.after_crashes() {
            assert!(!found.contains(&refused), "capacity {capacity}");
            assert!(kept.starts_with(&found), "capacity {capacity}");
        }
        rig.disk.set_capacity(None);
        rig.append("after").unwrap();
        rig.sync();
        kept.push("after".into());
        for found in rig.after_crashes() {
            assert_eq!(found, kept, "capacity {capacity}");
        }
    }
}

#[test]
fn a_refusal_that_cannot_be_made_durable_ends_writing() {
    for operation in [Operation::SetLength, Operation::Sync] {
        let mut rig = Rig::new(1, 0);
        rig.append("first").unwrap();
        rig.disk.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
        rig.disk.fail_when(Filter::any().operation(operation), Fault::Eio);
        assert!(matches!(rig.append("second"), Err(WalError::Poisoned { .. })));
        rig.disk.heal();
        assert!(matches!(rig.append("third"), Err(WalError::Poisoned { .. })));
    }
}

#[test]
fn a_failed_write_other_than_for_space_ends_writing() {
    let mut rig = Rig::new(1, 0);
    rig.disk.fail_when(Filter::any().operation(Operation::Write), Fault::Eio);
    let error = rig.append("first").unwrap_err();
    assert!(error.to_string().contains("pointer-00000001"), "{error}");
    assert_eq!(rig.poison.check().unwrap_err().to_string(), error.to_string());
}

#[test]
fn a_rotation_that_was_refused_leaves_no_segment_out() {
    let mut rig = Rig::new(1, 512);
    rig.append("first").unwrap();
    rig.sync();
    for _ in 0..2 {
        let next = rig.next();
        rig.disk.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
        assert!(matches!(rig.log.rotate(next), Err(WalError::Disk(_))));
        rig.disk.heal();
        assert!(rig.log.has_spare());
    }
    // Offered another, it goes on in the first that it was given.
    let next = rig.next();
    rig.log.rotate(next).unwrap();
    rig.append("second").unwrap();
    rig.sync();
    rig.log.rotate_to_spare().unwrap();
    rig.append("third").unwrap();
    rig.sync();
    for found in rig.after_crashes() {
        assert_eq!(found, ["first", "second", "third"]);
    }
    assert!(rig.log.has_spare());
}

#[test]
fn what_was_appended_before_a_rotation_is_durable_after_it() {
    let mut rig = Rig::new(1, 512);
    rig.append("first").unwrap();
    let next = rig.next();
    let closing = rig.log.rotate(next).unwrap();
    assert_eq!(rig.synced.of(LogKind::Pointer), closing.end());
    assert!(rig.log.is_empty());
    rig.append("second").unwrap();
    for found in rig.after_crashes() {
        assert_eq!(found[0], "first");
    }
}

#[test]
fn a_failed_sync_in_a_rotation_ends_writing() {
    let mut rig = Rig::new(1, 512);
    rig.append("first").unwrap();
    let next = rig.next();
    rig.disk.fail_when(Filter::any().operation(Operation::Sync), Fault::SyncFailsThenClean);
    assert!(matches!(rig.log.rotate(next), Err(WalError::Poisoned { .. })));
    rig.disk.heal();
    assert!(matches!(rig.append("second"), Err(WalError::Poisoned { .. })));
    assert_eq!(rig.synced.of(LogKind::Pointer).number(), 0);
}

#[test]
fn a_segment_that_cannot_be_created_leaves_no_file() {
    for fault in [Fault::Enospc, Fault::Eio, Fault::SyncFailsThenClean] {
        for op in 1..6 {
            let disk = SimDisk::new(op);
            disk.fail_at(op, fault);
            let made = create_segment(&*disk, header(LogKind::Blob, 1), 4096);
            assert_eq!(made.is_err(), disk.names().is_empty(), "{fault:?} at {op}");
        }
    }
}

#[test]
fn what_is_written_ahead_is_zeros_within_what_is_reserved() {
    let mut rig = Rig::new(1, 256 << 10);
    let name = rig.log.segment().header.file_name().to_string();
    rig.disk.corrupt(&name, 4096, |rest| rest[..1024].fill(7));
    rig.log.write_ahead(100).unwrap();
    let bytes = rig.disk.file_bytes(&name).unwrap();
    assert_eq!(bytes.len(), 256 << 10);
    assert!(bytes[512..].iter().all(|byte| *byte == 0), "what was there was written over");
    let (mut kept, mut writes) = (Vec::new(), 0);
    for number in 0..1000 {
        let text = format!("{number:0100}");
        let ops = rig.disk.op_count();
        if rig.log.sealed_bytes_with(200) > 256 << 10 {
            break;
        }
        rig.log.write_ahead(frame(&text).body_bytes() as usize).unwrap();
        writes += u32::from(rig.disk.op_count() > ops);
        rig.append(&text).unwrap();
        rig.sync();
        kept.push(text);
        assert_eq!(rig.disk.file_bytes(&name).unwrap().len(), 256 << 10);
    }
    assert!(kept.len() > 200 && (1..20).contains(&writes), "{} {writes}", kept.len());
    for found in rig.after_crashes() {
        assert_eq!(found, kept);
    }
}

#[test]
fn nothing_is_written_ahead_where_nothing_is_reserved() {
    let mut rig = Rig::new(1, 0);
    rig.append("first").unwrap();
    let used = rig.disk.used_bytes();
    rig.log.write_ahead(100).unwrap();
    assert_eq!(rig.disk.used_bytes(), used);
}

#[test]
fn a_crash_while_zeros_are_written_ahead_cuts_only_what_was_not_synced() {
    for seed in 0..20 {
        let mut rig = Rig::new(seed, 1 << 20);
        rig.log.write_ahead(100).unwrap();
        rig.append("first").unwrap();
        rig.sync();
        let long = 70 << 10;
        rig.log.write_ahead(long).unwrap();
        for found in rig.after_crashes() {
            assert_eq!(found, ["first"]);
        }
        rig.append(&"x".repeat(long - 100)).unwrap();
        for found in rig.after_crashes() {
            assert_eq!(found[0], "first");
        }
    }
}

#[test]
fn zeros_that_cannot_be_written_are_done_without_or_end_writing() {
    let mut rig = Rig::new(1, 64 << 10);
    rig.disk.fail_when(Filter::any().operation(Operation::Write), Fault::Enospc);
    rig.log.write_ahead(100).unwrap();
    rig.disk.heal();
    rig.append("first").unwrap();
    rig.disk.fail_when(Filter::any().operation(Operation::Write), Fault::Eio);
    assert!(matches!(rig.log.write_ahead(100), Err(WalError::Poisoned { .. })));
    rig.disk.heal();
    assert!(matches!(rig.append("second"), Err(WalError::Poisoned { .. })));
}
