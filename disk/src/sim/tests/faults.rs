//! Operations that fail, do a part, or find no space.

use super::*;

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
