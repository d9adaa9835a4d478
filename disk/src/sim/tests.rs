//! What the simulated disk does, effect by effect, and against a model of what it must not do.

use super::*;
use crate::file_name::LogKind;
use crate::identity::{Epoch, Ordinal};
use crate::vfs::{DiskExt, Op, write_all_at};
use proptest::collection::vec;
use proptest::prelude::*;

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
fn what_is_synced_is_the_same_in_every_state() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    write(&file, 100, &[7; 3000]);
    disk.sync(&file).unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.unsynced(), 0);
    let held = bytes(&disk, A);
    assert_eq!(held.as_ref().map(Vec::len), Some(3100));
    for state in ALL_STATES.into_iter().map(|state| disk.after_crash(state)) {
        assert_eq!(bytes(&state, A), held);
    }
    assert!(random_states(&disk).all(|state| bytes(&state, A) == held));
}

#[test]
fn a_name_that_was_not_synced_may_be_lost_though_its_bytes_were() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    write(&file, 0, b"abc");
    disk.sync(&file).unwrap();
    assert_eq!(disk.unsynced(), 1);
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A), None);
    assert_eq!(bytes(&disk.after_crash(CrashState::OneAlone(0)), A).unwrap(), b"abc");
    let sum = effects(&disk);
    assert!(sum.names_kept > 0 && sum.names_lost > 0);
}

#[test]
fn a_synced_name_does_not_make_the_bytes_durable() {
    let disk = SimDisk::new(1);
    let file = create(&disk, A);
    write(&file, 0, b"abc");
    disk.sync_dir().unwrap();
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), b"");
    assert_eq!(bytes(&disk.after_crash(CrashState::Everything), A).unwrap(), b"abc");
    // The sector stands before the length.
    assert_eq!(bytes(&disk.after_crash(CrashState::OneMissing(0)), A).unwrap(), b"\0\0\0");
    assert_eq!(bytes(&disk.after_crash(CrashState::OneMissing(1)), A).unwrap(), b"");
}

#[test]
fn an_unsynced_sector_becomes_old_new_between_zero_or_garbage() {
    let (disk, file) = disk_holding(A, &[b'o'; 512]);
    write(&file, 0, &[b'b'; 512]);
    write(&file, 0, &[b'n'; 512]);
    let mut seen = [0; 5];
    for state in random_states(&disk) {
        let held = bytes(&state, A).unwrap();
        assert_eq!(held.len(), 512);
        let kind = [b'o', b'b', b'n', 0].iter().position(|byte| held == [*byte; 512]);
        seen[kind.unwrap_or(4)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    let sum = effects(&disk);
    for count in [
        sum.sectors_old,
        sum.sectors_between,
        sum.sectors_new,
        sum.sectors_zero,
        sum.sectors_garbage,
    ] {
        assert!(count > 0, "{sum:?}");
    }
}

#[test]
fn sectors_of_one_write_fare_each_on_its_own() {
    let (disk, file) = disk_holding(A, &[b'o'; 1536]);
    write(&file, 0, &[b'n'; 1536]);
    let kinds: std::collections::BTreeSet<Vec<u8>> = random_states(&disk)
        .map(|state| bytes(&state, A).unwrap().into_iter().step_by(512).collect::<Vec<u8>>())
        .filter(|heads| heads.iter().all(|byte| b"on".contains(byte)))
        .collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
}

#[test]
fn durable_bytes_take_harm_where_their_sector_is_written_unless_the_device_spares_them() {
    let (disk, file) = disk_holding(A, &[b'o'; 1024]);
    write(&file, 100, &[b'n'; 10]);
    write(&file, 300, &[b'n'; 10]);
    assert!(random_states(&disk).any(|state| bytes(&state, A).unwrap()[0] != b'o'));
    let others = |state: Arc<SimDisk>| bytes(&state, A).unwrap()[512..] == [b'o'; 512];
    assert!(random_states(&disk).all(others), "the next sector was not written");
    disk.set_damages_whole_sectors(false);
    for state in random_states(&disk) {
        let held = bytes(&state, A).unwrap();
        for beside in [0..100, 110..300, 310..512] {
            assert!(held[beside].iter().all(|byte| *byte == b'o'));
        }
    }
}

#[test]
fn the_length_moves_apart_from_the_bytes() {
    let (disk, file) = disk_holding(A, b"");
    write(&file, 0, &[b'n'; 512]);
    file.allocate(8192).unwrap();
    let lengths: std::collections::BTreeSet<usize> =
        random_states(&disk).map(|state| bytes(&state, A).unwrap().len()).collect();
    for length in [0, 512, 4096, 8192] {
        assert!(lengths.contains(&length), "{lengths:?}");
    }
    let sum = effects(&disk);
    assert!(sum.lengths_old > 0 && sum.lengths_new > 0 && sum.lengths_between > 0);
    assert!(random_states(&disk).any(|state| {
        let held = bytes(&state, A).unwrap();
        held.len() == 8192 && held.iter().all(|byte| *byte == 0)
    }));
}

#[test]
fn what_was_cut_reads_as_zeros_when_the_file_grows_again() {
    let (disk, file) = disk_holding(A, &[b'o'; 2000]);
    file.set_len(600).unwrap();
    file.set_len(2000).unwrap();
    let expected: Vec<u8> = [vec![b'o'; 600], vec![0; 1400]].concat();
    assert_eq!(bytes(&disk, A).unwrap(), expected);
    disk.sync(&file).unwrap();
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), expected);
    write(&file, 5000, b"x");
    assert_eq!(disk.read(&file, 2000, 3000).unwrap(), vec![0; 3000]);
}

#[test]
fn a_lost_cut_leaves_the_length() {
    let (disk, file) = disk_holding(A, &[b'o'; 2000]);
    file.set_len(600).unwrap();
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), [b'o'; 2000]);
    assert_eq!(bytes(&disk.after_crash(CrashState::Everything), A).unwrap(), [b'o'; 600]);
}

#[test]
fn what_lay_beyond_a_lost_length_does_not_come_back() {
    let (disk, file) = disk_holding(A, b"old");
    write(&file, 3, &[b'n'; 1000]);
    // Only the first sector is kept; then the file grows over where the lost bytes were.
    let after = disk.after_crash(CrashState::OneAlone(0));
    let file = after.open(A, OpenMode::Write).unwrap();
    file.set_len(1003).unwrap();
    assert_eq!(bytes(&after, A).unwrap(), [b"old".to_vec(), vec![0; 1000]].concat());
}

#[test]
fn what_was_cut_before_a_sync_does_not_come_back_even_if_an_earlier_sync_failed() {
    let (disk, file) = disk_holding(A, &[b'o'; 1000]);
    file.set_len(10).unwrap();
    disk.fail_at(disk.op_count() + 1, Fault::SyncFailsThenClean);
    assert!(disk.sync(&file).is_err());
    disk.sync(&file).unwrap();
    file.set_len(1000).unwrap();
    disk.sync(&file).unwrap();
    let held = bytes(&disk.after_crash(CrashState::Nothing), A).unwrap();
    assert_eq!(held, [vec![b'o'; 10], vec![0; 990]].concat());
}

#[test]
fn some_states_keep_all_up_to_a_point() {
    let (disk, file) = disk_holding(A, &[b'o'; 64 * 512]);
    write(&file, 0, &[b'n'; 64 * 512]);
    let kept_before = |state: &SimDisk| {
        let heads: Vec<u8> = bytes(state, A).unwrap().into_iter().step_by(512).collect();
        let kept = heads.iter().take_while(|byte| **byte == b'n').count();
        let lost = heads.iter().rev().take_while(|byte| **byte == b'o').count();
        (kept > 3 && lost > 3 && kept + lost >= 63).then_some(kept)
    };
    let points: std::collections::BTreeSet<usize> =
        random_states(&disk).filter_map(|state| kept_before(&state)).collect();
    assert!(points.len() > 10, "{points:?}");
}

#[test]
fn things_keep_their_numbers_when_a_file_is_lost() {
    let (disk, file) = disk_holding(B, b"old");
    let lost = create(&disk, A);
    write(&lost, 0, b"lost");
    write(&file, 0, b"new");
    // The creation of A; then B's sector, for B is the older file; then A's sector and length.
    assert_eq!(disk.unsynced(), 4);
    let alone: Vec<_> = (0..4)
        .map(|number| disk.after_crash(CrashState::OneAlone(number)))
        .map(|after| (bytes(&after, A), bytes(&after, B).unwrap()))
        .collect();
    let with_b = |b: &[u8]| (None, b.to_vec());
    assert_eq!(alone[0], (Some(vec![]), b"old".to_vec()));
    assert_eq!(alone[1..], [with_b(b"new"), with_b(b"old"), with_b(b"old")]);

    let disk = SimDisk::new(1);
    let lost = create(&disk, A);
    write(&lost, 0, b"lost");
    disk.put_file(&B.to_string(), b"old");
    write(&disk.open(B, OpenMode::Write).unwrap(), 0, b"new");
    let last = disk.after_crash(CrashState::OneAlone(disk.unsynced() - 1));
    assert_eq!((bytes(&last, A), bytes(&last, B).unwrap()), (None, b"new".to_vec()));
}

#[test]
fn a_rename_may_be_durable_before_the_bytes_and_without_the_creation() {
    let (disk, _old) = disk_holding(FileName::Current, b"old");
    let file = create(&disk, FileName::CurrentTemp);
    write(&file, 0, b"new");
    disk.rename(FileName::CurrentTemp, FileName::Current).unwrap();
    assert_eq!(disk.names(), ["CURRENT"]);
    // Things in order: the creation, the rename, the sector, the length.
    let renamed = disk.after_crash(CrashState::OneAlone(1));
    assert_eq!(
        (renamed.names(), bytes(&renamed, FileName::Current).unwrap()),
        (vec!["CURRENT".into()], vec![])
    );
    let created = disk.after_crash(CrashState::OneAlone(0));
    assert_eq!(created.names(), ["CURRENT", "CURRENT.tmp"]);
    assert_eq!(bytes(&created, FileName::Current).unwrap(), b"old");
    assert!(effects(&disk).renames_halved > 0);
    for state in random_states(&disk) {
        assert!(bytes(&state, FileName::Current).is_some());
    }
}

#[test]
fn a_lost_removal_brings_the_file_back() {
    let (disk, file) = disk_holding(A, b"here");
    disk.remove(A).unwrap();
    assert_eq!(disk.read(&file, 0, 10).unwrap(), "here", "an open file stays readable");
    drop(file);
    assert!(disk.open(A, OpenMode::Read).unwrap_err().is_not_found());
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), b"here");
    assert_eq!(bytes(&disk.after_crash(CrashState::Everything), A), None);
    disk.sync_dir().unwrap();
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A), None);
}

#[test]
fn a_name_that_was_removed_and_made_anew_is_old_new_or_absent() {
    let (disk, _old) = disk_holding(A, b"old");
    disk.remove(A).unwrap();
    let file = create(&disk, A);
    write(&file, 0, b"new");
    disk.sync(&file).unwrap();
    let seen: std::collections::BTreeSet<Option<Vec<u8>>> =
        random_states(&disk).map(|state| bytes(&state, A)).collect();
    assert_eq!(seen, [None, Some(b"old".to_vec()), Some(b"new".to_vec())].into());
}

#[test]
fn a_crash_comes_in_place_of_its_operation() {
    let run = |disk: &SimDisk| -> Result<(), DiskError> {
        let file = disk.open(A, OpenMode::Create)?;
        disk.sync_dir()?;
        disk.write(&file, 0, Bytes::from_static(b"abc"))?;
        disk.sync(&file)?;
        disk.rename(A, B)
    };
    let whole = SimDisk::new(1);
    run(&whole).unwrap();
    assert_eq!((whole.op_count(), whole.mutation_count()), (5, 5));
    for op in 1..=5 {
        let disk = SimDisk::new(1);
        disk.crash_at(op);
        assert!(run(&disk).unwrap_err().is_crash());
        assert!(disk.crashed());
        assert_eq!(disk.op_count(), op);
        assert_eq!(disk.counters().crashes, 1);
        assert!(disk.list().unwrap_err().is_crash(), "nothing is carried out any more (M4)");
        let names = disk.after_crash(CrashState::Everything).names();
        assert_eq!(names.len(), usize::from(op > 1));
    }
    let disk = SimDisk::new(1);
    disk.crash_at(6);
    run(&disk).unwrap();
    assert!(!disk.crashed());
}

#[test]
fn a_crash_may_tear_the_write_it_meets() {
    let lengths: std::collections::BTreeSet<usize> = (0..100)
        .map(|seed| {
            let disk = SimDisk::new(seed);
            let file = create(&disk, A);
            disk.sync_dir().unwrap();
            disk.crash_at_mutation(3);
            assert!(file.len_bytes().is_ok());
            let error = file.write_at(0, b"abc").unwrap_err();
            assert!(is_crash(&error));
            bytes(&disk.after_crash(CrashState::Everything), A).unwrap().len()
        })
        .collect();
    assert_eq!(lengths, [0, 1, 2, 3].into());
}

#[test]
fn after_a_death_without_power_loss_all_is_there_but_the_locks() {
    let disk = SimDisk::new(1);
    let lock = disk.lock().unwrap().unwrap();
    let file = create(&disk, A);
    write(&file, 0, b"abc");
    disk.crash_now();
    assert!(disk.lock().unwrap_err().is_crash());
    let next = disk.clean_reopen();
    assert_eq!(bytes(&next, A).unwrap(), b"abc");
    assert_eq!(next.unsynced(), disk.unsynced());
    assert_eq!(bytes(&next.after_crash(CrashState::Nothing), A), None);
    let _next_lock = next.lock().unwrap().unwrap();
    drop(lock);
    assert_eq!(
        next.lock().unwrap().unwrap_err(),
        Some(SIM_PID),
        "the old handle frees no new lock"
    );
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
fn a_failed_sync_is_seen_by_reads_believed_by_syncs_and_lost_by_crashes() {
    let (disk, file) = disk_holding(A, b"old");
    write(&file, 0, b"new");
    disk.fail_when(Filter::any().operation(Operation::Sync).nth(1), Fault::SyncFailsThenClean);
    assert_eq!(disk.sync(&file).unwrap_err().source.raw_os_error(), Some(5));
    disk.sync(&file).unwrap();
    assert_eq!(bytes(&disk, A).unwrap(), b"new");
    assert_eq!(bytes(&disk.clean_reopen(), A).unwrap(), b"new");
    for state in ALL_STATES {
        assert_eq!(bytes(&disk.after_crash(state), A).unwrap(), b"old");
    }
    let seen: std::collections::BTreeSet<_> =
        random_states(&disk).map(|state| bytes(&state, A).unwrap()).collect();
    assert_eq!(seen, [b"old".to_vec(), b"\0\0\0".to_vec()].into());
    disk.drop_caches();
    assert_eq!(bytes(&disk, A).unwrap(), b"old");
    let counters = disk.counters();
    assert_eq!((counters.failed_syncs, counters.sectors_claimed, counters.eio), (1, 1, 1));
    assert_eq!(counters.sectors_reverted, 1);
}

#[test]
fn a_sync_covers_nothing_that_was_written_while_it_was_under_way() {
    let mut inode = inode::Inode::default();
    inode.write(1, 0, b"before");
    inode.write(2, 2, b"WHILE");
    inode.sync(1);
    assert_eq!((inode.bytes(), inode.unsynced()), (b"beWHILE".to_vec(), 2));
    inode.fail_sync(2);
    inode.drop_claimed();
    assert_eq!(inode.bytes(), b"before\0", "only the length is still to come");
}

#[test]
fn a_copy_written_after_a_failed_sync_is_durable() {
    let (disk, file) = disk_holding(A, b"old");
    write(&file, 0, b"new");
    disk.fail_at(3, Fault::SyncEnospc);
    assert!(disk.sync(&file).unwrap_err().is_no_space());
    let copy = create(&disk, B);
    let read = disk.read(&file, 0, 3).unwrap();
    disk.write(&copy, 0, read).unwrap();
    disk.sync(&copy).unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), B).unwrap(), b"new");
    write(&file, 0, b"NEW");
    disk.sync(&file).unwrap();
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), b"NEW");
}

#[test]
fn after_a_plain_eio_a_sync_can_still_succeed() {
    let (disk, file) = disk_holding(A, b"old");
    write(&file, 0, b"new");
    disk.fail_at(3, Fault::Eio);
    assert!(disk.sync(&file).is_err());
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), b"old");
    disk.sync(&file).unwrap();
    assert_eq!(bytes(&disk.after_crash(CrashState::Nothing), A).unwrap(), b"new");
}

#[test]
fn short_and_interrupted_transfers_are_finished_by_who_asks() {
    let disk = SimDisk::new(1);
    disk.fail_from(1, Fault::ShortWrite);
    disk.fail_from(1, Fault::Interrupted);
    disk.fail_from(1, Fault::ShortRead);
    let file = create(&disk, A);
    let data: Vec<u8> = (0..5000u32).map(|n| (n % 251) as u8).collect();
    disk.write(&file, 0, data.clone().into()).unwrap();
    disk.sync(&file).unwrap();
    assert_eq!(disk.read(&file, 0, 5000).unwrap(), data);
    let counters = disk.counters();
    assert!(counters.short_writes > 0 && counters.short_reads > 0 && counters.interrupts > 2);
}

#[test]
fn faults_meet_only_what_they_apply_to() {
    let disk = SimDisk::new(1);
    disk.fail_from(1, Fault::Emfile);
    assert_eq!(disk.open(A, OpenMode::Create).unwrap_err().source.raw_os_error(), Some(24));
    assert!(disk.list().is_err());
    assert!(disk.sync_dir().is_ok());
    disk.heal();
    let file = create(&disk, A);
    disk.fail_at(disk.op_count() + 1, Fault::Enospc);
    assert!(disk.read(&file, 0, 1).is_ok(), "a read needs no space");
    disk.fail_when(Filter::any().operation(Operation::Write).file(A).from_nth(2), Fault::Enospc);
    assert_eq!(file.write_at(0, b"a").unwrap(), 1);
    let other = create(&disk, B);
    assert!(disk.write(&other, 0, Bytes::from_static(b"b")).is_ok());
    for _ in 0..2 {
        assert!(disk.write(&file, 0, Bytes::from_static(b"a")).unwrap_err().is_no_space());
    }
    let trace = disk.trace();
    assert_eq!(
        trace.last().unwrap(),
        "10 writing blob-00000001-00000001.log at 0, 1 bytes: Enospc"
    );
}

#[test]
fn files_fill_the_capacity_and_give_it_back() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(10 * 512));
    let file = create(&disk, A);
    file.allocate(4 * 512).unwrap();
    assert_eq!(disk.used_bytes(), 5 * 512);
    assert!(file.allocate(10 * 512).unwrap_err().is_no_space());
    assert_eq!(
        file.len_bytes().unwrap(),
        4 * 512,
        "a refused allocation leaves the file as it was"
    );
    write(&file, 0, &[1; 4 * 512]);
    assert_eq!(disk.used_bytes(), 5 * 512, "writing what is reserved takes no more");
    let data = Bytes::from(vec![1; 6 * 512]);
    assert!(disk.write(&file, 4 * 512, data).unwrap_err().is_no_space());
    assert_eq!(file.len_bytes().unwrap(), 9 * 512, "a part was written");
    assert!(disk.open(B, OpenMode::Create).unwrap_err().is_no_space());
    write(&file, 0, &[2; 512]);
    file.set_len(512).unwrap();
    assert_eq!(disk.used_bytes(), 2 * 512);
    create(&disk, B);
    disk.remove(A).unwrap();
    assert_eq!(disk.used_bytes(), 3 * 512, "an open file keeps its space");
    drop(file);
    assert_eq!(disk.used_bytes(), 512);
    assert_eq!((disk.counters().enospc, disk.counters().short_writes), (3, 1));
    disk.heal();
    write(&create(&disk, A), 0, &[0; 100_000]);
}

#[test]
fn a_full_disk_can_still_be_locked() {
    let disk = SimDisk::new(1);
    disk.put_file("LOCK", b"");
    disk.set_capacity(Some(0));
    assert!(disk.lock().unwrap().is_ok());
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

/// One step of a random workload on two files.
#[derive(Clone, Debug)]
enum Step {
    Write { which: usize, offset: usize, len: usize, fill: u8 },
    SetLen { which: usize, len: usize },
    Allocate { which: usize, len: usize },
    Sync { which: usize },
    FailSync { which: usize },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 0..3000usize, 1..1500usize, 1..=255u8)
            .prop_map(|(which, offset, len, fill)| Step::Write { which, offset, len, fill }),
        2 => (0..2usize, 0..4000usize).prop_map(|(which, len)| Step::SetLen { which, len }),
        1 => (0..2usize, 0..6000usize).prop_map(|(which, len)| Step::Allocate { which, len }),
        2 => (0..2usize).prop_map(|which| Step::Sync { which }),
        1 => (0..2usize).prop_map(|which| Step::FailSync { which }),
        1 => Just(Step::Reopen),
    ]
}

/// What a file must read, and what of it must survive: the bytes as of the last sync, but for
/// the sectors in which any were written or cut since.
#[derive(Clone, Debug, Default)]
struct Model {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// For each byte up to the greatest length since the sync, whether it may be lost.
    at_risk: Vec<bool>,
    shortest_since: Option<usize>,
    failed: bool,
}

impl Model {
    /// Whatever shares a sector with these bytes may be lost with them.
    fn risk(&mut self, from: usize, to: usize) {
        let (from, to) = (from / 512 * 512, to.next_multiple_of(512));
        self.at_risk.resize(self.at_risk.len().max(to), false);
        self.at_risk[from..to].fill(true);
    }

    fn set_len(&mut self, len: usize) {
        if len < self.visible.len() {
            self.risk(len, self.visible.len());
        }
        self.visible.resize(len, 0);
        let shortest = self.shortest_since.unwrap_or(self.durable.len()).min(len);
        self.shortest_since = Some(shortest);
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.visible.len() {
            self.set_len(end);
        }
        self.visible[offset..end].copy_from_slice(data);
        self.risk(offset, end);
    }

    fn sync(&mut self) {
        if !self.failed {
            *self = Self {
                visible: self.visible.clone(),
                durable: self.visible.clone(),
                ..Self::default()
            };
        }
    }

    /// What the bytes that are not at risk must be.
    fn check(&self, held: &[u8]) {
        let sure = self.shortest_since.unwrap_or(self.durable.len()).min(self.durable.len());
        assert!(held.len() >= sure, "{} < {sure}", held.len());
        for (at, durable) in self.durable.iter().enumerate().take(held.len()) {
            if !self.at_risk.get(at).copied().unwrap_or(false) {
                assert_eq!(held[at], *durable, "at {at}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn reads_see_all_that_was_written_and_crashes_spare_what_is_durable(
        seed: u64,
        steps in vec(step(), 1..30),
    ) {
        const NAMES: [FileName; 2] = [A, B];
        let mut disk = SimDisk::new(seed);
        let mut files = NAMES.map(|name| create(&disk, name));
        disk.sync_dir().unwrap();
        let mut models = [Model::default(), Model::default()];
        for step in steps {
            match step {
                Step::Write { which, offset, len, fill } => {
                    let data = vec![fill; len];
                    write(&files[which], offset as u64, &data);
                    models[which].write(offset, &data);
                }
                Step::SetLen { which, len } => {
                    files[which].set_len(len as u64).unwrap();
                    models[which].set_len(len);
                }
                Step::Allocate { which, len } => {
                    files[which].allocate(len as u64).unwrap();
                    let len = models[which].visible.len().max(len);
                    models[which].set_len(len);
                }
                Step::Sync { which } => {
                    disk.sync(&files[which]).unwrap();
                    models[which].sync();
                }
                Step::FailSync { which } => {
                    disk.fail_at(disk.op_count() + 1, Fault::SyncFailsThenClean);
                    disk.sync(&files[which]).unwrap_err();
                    models[which].failed = true;
                }
                Step::Reopen => {
                    disk = disk.clean_reopen();
                    files = NAMES.map(|name| disk.open(name, OpenMode::Write).unwrap());
                }
            }
            for (name, model) in NAMES.into_iter().zip(&models) {
                assert_eq!(bytes(&disk, name).unwrap(), model.visible);
                for seed in 0..3 {
                    let after = disk.after_crash(CrashState::Random(seed));
                    let held = bytes(&after, name).unwrap();
                    model.check(&held);
                    assert_eq!(after.unsynced(), 0);
                    let again = after.after_crash(CrashState::Random(seed));
                    assert_eq!(bytes(&again, name).unwrap(), held);
                }
            }
        }
        let everything = disk.after_crash(CrashState::Everything);
        for (name, model) in NAMES.into_iter().zip(&models).filter(|(_, model)| !model.failed) {
            assert_eq!(bytes(&everything, name).unwrap(), model.visible);
            let nothing = disk.after_crash(CrashState::Nothing);
            assert_eq!(bytes(&nothing, name).unwrap(), model.durable);
        }
    }

    #[test]
    fn the_same_seed_and_calls_give_the_same_disk(seed: u64, steps in vec(step(), 1..20)) {
        let run = || {
            let disk = SimDisk::new(seed);
            disk.fail_from(5, Fault::ShortWrite);
            let files = [create(&disk, A), create(&disk, B)];
            disk.crash_at(15);
            for step in &steps {
                let _ = match *step {
                    Step::Write { which, offset, len, fill } => disk
                        .write(&files[which], offset as u64, vec![fill; len].into()),
                    Step::SetLen { which, len } => files[which].set_len(len as u64),
                    Step::Allocate { which, len } => files[which].allocate(len as u64),
                    Step::Sync { which } | Step::FailSync { which } => disk.sync(&files[which]),
                    Step::Reopen => disk.sync_dir(),
                };
            }
            let state = disk.after_crash(CrashState::Random(seed));
            let held = [A, B].map(|name| bytes(&state, name));
            (disk.trace(), disk.counters(), state.counters(), held)
        };
        assert_eq!(run(), run());
    }
}
