//! What the simulated disk does, effect by effect: here as a disk, below as one that crashes and
//! fails, and against a model of what it must not do.

mod crashes;
mod faults;
mod model;

use super::*;
use crate::file_name::LogKind;
use crate::identity::{Epoch, Ordinal};
use crate::vfs::{DiskExt, Op, write_all_at};

const A: FileName =
    FileName::Segment { log: LogKind::Blob, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
const B: FileName =
    FileName::Segment { log: LogKind::Pointer, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
const ALL_STATES: [CrashState; 2] = [CrashState::Nothing, CrashState::Everything];
/// So many random states reach every effect of the small workloads here.
const STATES: u64 = 400;

fn create(disk: &SimDisk, name: FileName) -> Arc<dyn File> {
    disk.open(name, OpenMode::Create).unwrap()
}

fn bytes(disk: &SimDisk, name: FileName) -> Option<Vec<u8>> {
    disk.file_bytes(&name.to_string())
}

/// A disk with a durable file of `old` bytes.
fn disk_holding(name: FileName, old: &[u8]) -> (Arc<SimDisk>, Arc<dyn File>) {
    let disk = SimDisk::new(1);
    disk.put_file(&name.to_string(), old);
    let file = disk.open(name, OpenMode::Write).unwrap();
    (disk, file)
}

fn write(file: &Arc<dyn File>, offset_bytes: u64, data: &[u8]) {
    write_all_at(&**file, offset_bytes, data).unwrap();
}

fn random_states(disk: &SimDisk) -> impl Iterator<Item = Arc<SimDisk>> {
    (0..STATES).map(|seed| disk.after_crash(CrashState::Random(seed)))
}

fn effects(disk: &SimDisk) -> SimCounters {
    let mut sum = SimCounters::default();
    random_states(disk).for_each(|state| sum += state.counters());
    sum
}

#[test]
fn a_lock_is_held_once_until_it_is_dropped() {
    let disk = SimDisk::new(1);
    let lock = disk.lock().unwrap().unwrap();
    assert_eq!(disk.lock().unwrap().unwrap_err(), Some(SIM_PID));
    drop(lock);
    assert!(disk.lock().unwrap().is_ok());
    assert_eq!(disk.names(), ["LOCK"]);
}

#[test]
fn corruption_is_visible_and_durable() {
    let (disk, _file) = disk_holding(A, &[1; 1000]);
    disk.corrupt(&A.to_string(), 600, |bytes| {
        assert_eq!(bytes.len(), 400);
        bytes[0] ^= 0x80;
    });
    let mut expected = vec![1; 1000];
    expected[600] = 0x81;
    assert_eq!(bytes(&disk, A).unwrap(), expected);
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), expected);
}

#[test]
fn files_put_and_removed_by_hand_are_durable() {
    let disk = SimDisk::new(1);
    disk.put_file("stranger.txt", b"x");
    assert_eq!(disk.unsynced(), 0);
    assert_eq!(disk.after_crash(CrashState::Nothing).names(), ["stranger.txt"]);
    disk.remove_file("stranger.txt");
    assert!(disk.after_crash(CrashState::Everything).names().is_empty());
}

#[test]
fn chains_of_a_batch_run_in_any_order_and_stop_at_an_error() {
    let orders: std::collections::BTreeSet<Vec<u8>> = (0..100)
        .map(|seed| {
            let disk = SimDisk::new(seed);
            let file = create(&disk, A);
            let write = |data: &'static [u8]| Op::Write {
                file: Arc::clone(&file),
                offset_bytes: 0,
                data: Bytes::from_static(data),
            };
            let read = || Op::Read { file: Arc::clone(&file), offset_bytes: 0, len_bytes: 1 };
            let chains = vec![vec![write(b"a"), read()], vec![write(b"b"), read()], vec![]];
            let results = disk.run(Batch { chains });
            results[..2].iter().map(|read| read.as_ref().unwrap()[0][0]).collect()
        })
        .collect();
    assert_eq!(orders, [b"aa".to_vec(), b"ab".to_vec(), b"bb".to_vec()].into());

    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    disk.fail_from(2, Fault::Eio);
    let write = Op::Write { file: Arc::clone(&file), offset_bytes: 0, data: Bytes::from("x") };
    let results = disk.run(Batch { chains: vec![vec![write, Op::Sync { file }]] });
    assert_eq!(results[0].as_ref().unwrap_err().operation, Operation::Write);
    assert_eq!(disk.op_count(), 2, "the sync was not started (D4)");
}

#[test]
fn a_handle_for_reading_does_not_write() {
    let (disk, _file) = disk_holding(A, b"old");
    let file = disk.open(A, OpenMode::Read).unwrap();
    assert!(file.write_at(0, b"x").is_err());
    assert!(file.set_len(0).is_err());
    assert!(file.allocate(10).is_err());
    assert!(disk.open(A, OpenMode::Create).is_err());
    assert!(disk.open(B, OpenMode::Write).unwrap_err().is_not_found());
    assert!(disk.rename(B, A).unwrap_err().is_not_found());
    assert!(disk.remove(B).unwrap_err().is_not_found());
    let writable = disk.open(A, OpenMode::Write).unwrap();
    assert!(writable.write_at(u64::MAX, b"x").is_err());
    assert!(writable.read_at(u64::MAX, &mut Vec::with_capacity(1)).is_ok_and(|count| count == 0));
}

#[test]
fn disks_that_go_on_draw_other_random_bytes() {
    let disk = SimDisk::new(1);
    let first = disk.random().unwrap();
    assert_eq!(first, SimDisk::new(1).random().unwrap());
    assert_ne!(first, disk.clean_reopen().random().unwrap());
    assert_ne!(first, disk.after_crash(CrashState::Nothing).random().unwrap());
    assert_ne!(first, SimDisk::new(2).random().unwrap());
}

#[test]
fn many_threads_may_use_one_disk() {
    let disk = SimDisk::new(1);
    let threads: Vec<_> = (1..=4)
        .map(|ordinal: u8| {
            let disk = Arc::clone(&disk);
            crate::env::spawn("sim-test", move || {
                let log = LogKind::Blob;
                let name =
                    FileName::Segment { log, ordinal: Ordinal(ordinal.into()), epoch: Epoch(2) };
                let file = disk.open(name, OpenMode::Create).unwrap();
                for number in 0..50 {
                    disk.write(&file, number * 100, vec![ordinal; 100].into()).unwrap();
                    disk.sync(&file).unwrap();
                }
                disk.sync_dir().unwrap();
            })
            .unwrap()
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let after = disk.after_crash(CrashState::Nothing);
    assert_eq!(after.names().len(), 4);
    assert!(after.names().iter().all(|name| after.file_bytes(name).unwrap().len() == 5000));
}
