//! What a crash may leave, and what not; when it comes.

use super::*;

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
