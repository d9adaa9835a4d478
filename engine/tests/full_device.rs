//! P9: devices of every size, and devices that something else fills at the worst moment. A write
//! fails cleanly, reads and deletions go on, and a store can always be opened again.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::crash::recover;
use common::meddling::MeddlingDisk;
use common::model::Model;
use common::script::{World, filling};
use pinstone::{Batch, Bytes, Digest, Error, Maintenance, Store, StoreBuilder};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Epoch, FileName, LogKind, Operation, Ordinal};

#[test]
fn a_disk_of_any_size_fills_up_cleanly_and_goes_on_once_there_is_room() {
    let workload = filling();
    let mut whole = World::new(&workload, SimDisk::new(3), Model::default());
    whole.play_all(&workload.steps).unwrap();
    let most = whole.disk.used_bytes();
    let (mut refused_opens, mut refused_steps, mut resumed) = (0, 0, 0);
    for capacity in (0..most).step_by(512) {
        let context = |what: &str| format!("with {capacity} bytes of space, {what}");
        let mut world = World::new(&workload, SimDisk::new(3), Model::default());
        world.disk.set_capacity(Some(capacity));
        let mut error = world.open().unwrap().err();
        refused_opens += u64::from(error.is_some());
        for step in &workload.steps {
            if error.is_some() {
                break;
            }
            error = world.play(step).unwrap_or_else(|seen| panic!("{}", context(&seen)));
        }
        match error {
            Some(error) => {
                let told = context(&common::told(&error));
                assert!(matches!(error, Error::NoSpace { .. }), "{told}");
            }
            // There was no room for tables, which can wait.
            None => assert!(most - capacity < 64 << 10, "{}", context("nothing was refused")),
        }
        world.model.die();
        for state in [CrashState::Nothing, CrashState::Everything, CrashState::Random(capacity)] {
            let image = world.disk.after_crash(state);
            image.set_capacity(None);
            recover(&workload, &image, world.model.clone())
                .unwrap_or_else(|seen| panic!("{}, {state:?}: {seen}", context("after a crash")));
        }
        if let Some(store) = &world.store {
            refused_steps += 1;
            world.model.reads(store).unwrap_or_else(|seen| panic!("{}", context(&seen)));
            world.disk.set_capacity(None);
            world.model.goes_on(store).unwrap_or_else(|seen| panic!("{}", context(&seen)));
            resumed += 1;
        }
    }
    println!("{refused_opens} opens and {refused_steps} later calls refused, {resumed} resumed");
    assert!(refused_opens > 0 && refused_steps > 20 && resumed == refused_steps);
}

/// What a full store has left of the disk when it is opened: too little for a segment of each log,
/// up to several.
fn sizes() -> impl Iterator<Item = u64> {
    (352 << 10..448 << 10).step_by(512)
}

#[test]
fn a_full_disk_still_takes_deletions() {
    let mut deleted = 0;
    for size in sizes() {
        let (disk, store, mut names) = full(size);
        deleted += names.len();
        while let Some(name) = names.pop() {
            let reply = store.commit(Batch::new().delete(&name));
            reply.unwrap_or_else(|error| panic!("{size}, {name}: {}", common::told(&error)));
            assert_eq!(store.pointer(&name).unwrap(), None);
        }
        drop(store);
        let image = disk.after_crash(CrashState::Nothing);
        let store = filling().builder().open_on(image as Arc<dyn Disk>).unwrap();
        assert_eq!(store.pointers_with_prefix("").count(), 0);
    }
    assert!(deleted > 1000, "{deleted}: the disks were full at once");
}

#[test]
fn a_store_on_a_full_disk_opens_again() {
    let mut found = 0;
    for size in sizes() {
        let (disk, store, names) = full(size);
        // The process died, and the space is still what it was.
        let image = disk.clean_reopen();
        drop(store);
        let opened = filling().builder().open_on(Arc::clone(&image) as Arc<dyn Disk>);
        let store = opened.unwrap_or_else(|error| panic!("{size}: {}", common::told(&error)));
        for name in &names {
            let digest = store.pointer(name).unwrap().unwrap();
            assert_eq!(store.get(&digest).unwrap(), Some(Bytes::from(name.repeat(100))));
        }
        found += names.len();
        // What it holds can be deleted still, and with space again it goes on.
        for name in &names {
            let reply = store.commit(Batch::new().delete(name));
            reply.unwrap_or_else(|error| panic!("{size}, {name}: {}", common::told(&error)));
        }
        image.set_capacity(None);
        let digest = store.put(b"more").unwrap().digest;
        store.commit(Batch::new().set("more", digest)).unwrap();
    }
    assert!(found > 1000, "{found}: the disks were full at once");
}

/// Copying such a value takes more than the options set aside. Something else fills the device as
/// soon as it is there.
#[test]
fn a_store_with_values_longer_than_its_segments_opens_on_a_full_disk() {
    let lengths = [900, 100 << 10, 900, 7 << 10, 300 << 10, 200 << 10, 8 << 10, 900, 900];
    let disk = SimDisk::new(3);
    let open = |disk: &Arc<SimDisk>| filling().builder().open_on(Arc::clone(disk) as Arc<dyn Disk>);
    let store = open(&disk).unwrap();
    let opens_on_a_full_disk = |what: &str| {
        let image = disk.clean_reopen();
        image.set_capacity(Some(image.used_bytes()));
        let opened = open(&image);
        opened.unwrap_or_else(|error| panic!("{what}: {}", common::told(&error)))
    };
    let reserved = || disk.file_bytes("RESERVE").map_or(0, |bytes| bytes.len());
    let mut most = 0;
    for (id, len_bytes) in (0..).zip(lengths) {
        let value = vec![id; len_bytes];
        let digest = store.put(&value).unwrap().digest;
        opens_on_a_full_disk("put");
        store.commit(Batch::new().set([id + 1], digest)).unwrap();
        let again = opens_on_a_full_disk("committed");
        assert_eq!(again.get(&digest).unwrap().as_deref(), Some(&value[..]));
        most = most.max(reserved());
    }
    // Once they are sealed, their share goes back.
    store.maintain().unwrap();
    assert!(reserved() > 0 && reserved() + (200 << 10) < most, "{most}, then {}", reserved());
    let before = reserved();
    // Room for its share, and not for the value.
    disk.set_capacity(Some(disk.used_bytes() + (70 << 10)));
    for _ in 0..5 {
        let refused = store.put(&[7; 50 << 10]).unwrap_err();
        assert!(matches!(refused, Error::NoSpace { .. }), "{}", common::told(&refused));
        assert_eq!(reserved(), before, "a refused value takes no share");
        opens_on_a_full_disk("refused");
    }
}

#[test]
fn a_store_on_a_full_disk_opens_however_often_its_recovery_is_cut_short() {
    let mut cut_short = 0;
    for size in sizes().step_by(7) {
        let (disk, store, names) = full(size);
        let mut image = disk.clean_reopen();
        drop(store);
        for round in 0..12 {
            let last = image.clean_reopen();
            last.crash_at_mutation(5 + 3 * round);
            let opened = filling().builder().open_on(Arc::clone(&last) as Arc<dyn Disk>);
            if last.crashed() {
                cut_short += 1;
            } else if let Err(error) = opened {
                panic!("{size}, {round}: {}", common::told(&error));
            }
            drop(opened);
            image = last.after_crash(CrashState::Everything);
        }
        let opened = filling().builder().open_on(image as Arc<dyn Disk>);
        let store = opened.unwrap_or_else(|error| panic!("{size}: {}", common::told(&error)));
        assert_eq!(store.pointers_with_prefix("").count(), names.len());
    }
    assert!(cut_short > 100, "{cut_short} recoveries were cut short");
}

/// Something else filled the device while the store was closed.
#[test]
fn a_closed_store_on_a_device_that_filled_up_opens_reads_and_deletes() {
    let disk = SimDisk::new(3);
    let open = || filling().builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>);
    let store = open().unwrap();
    let names: Vec<String> = (0..12).map(|id| format!("name {id}")).collect();
    for name in &names {
        let digest = store.put(name.repeat(100).as_bytes()).unwrap().digest;
        store.commit(Batch::new().set(name, digest)).unwrap();
    }
    store.close().unwrap();
    for name in &names {
        disk.set_capacity(Some(disk.used_bytes()));
        let store = open().unwrap_or_else(|error| panic!("{name}: {}", common::told(&error)));
        let digest = store.pointer(name).unwrap().unwrap();
        assert_eq!(store.get(&digest).unwrap(), Some(Bytes::from(name.repeat(100))));
        let reply = store.commit(Batch::new().delete(name));
        reply.unwrap_or_else(|error| panic!("{name}: {}", common::told(&error)));
        store.close().unwrap_or_else(|error| panic!("{name}: {}", common::told(&error)));
    }
    disk.set_capacity(None);
    assert_eq!(open().unwrap().pointers_with_prefix("").count(), 0);
}

#[test]
fn a_store_that_is_only_read_never_grows() {
    let disk = SimDisk::new(3);
    let open = || filling().builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let store = open();
    // The active segment is more than half full.
    let digest = store.put(&[7; 6000]).unwrap().digest;
    store.commit(Batch::new().set("name", digest)).unwrap();
    store.close().unwrap();
    let logs = || disk.names().into_iter().filter(|name| !name.starts_with("root-"));
    let before: Vec<String> = logs().filter(|name| !name.ends_with("00000001.log")).collect();
    let count = logs().count();
    for _ in 0..3 {
        let store = open();
        assert!(store.get(&digest).unwrap().is_some());
        store.close().unwrap();
        let more: Vec<String> = logs().filter(|name| !name.ends_with("00000001.log")).collect();
        assert!(logs().count() <= count && more == before, "{more:?}");
    }
}

/// A store on a disk with so much space from its beginning on, filled by commits until it had none
/// left; and the names committed.
fn full(size: u64) -> (Arc<SimDisk>, Store, Vec<String>) {
    let disk = SimDisk::new(3);
    let store = filling().builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + size));
    let mut names = Vec::new();
    loop {
        let name = format!("name {}", names.len());
        let value = name.repeat(100);
        let digest = Digest::of(value.as_bytes());
        let reply = store
            .put(value.as_bytes())
            .and_then(|_put| store.commit(Batch::new().set(&name, digest)));
        match reply {
            Ok(_) => names.push(name),
            Err(Error::NoSpace { .. }) => return (disk, store, names),
            Err(error) => panic!("{size}: {}", common::told(&error)),
        }
        assert!(names.len() < 1000, "the disk does not fill up");
    }
}

fn larger() -> StoreBuilder {
    let (segment, pointer_segment) = (1 << 20, 64 << 10);
    Store::builder()
        .segment_bytes(segment)
        .pointer_segment_bytes(pointer_segment)
        .append_buffer_bytes(4 << 10)
        .reserve_bytes(2 * segment + 2 * pointer_segment + (64 << 10))
        .maintenance(Maintenance::Inline)
}

fn open_larger(disk: &Arc<SimDisk>) -> Result<Store, Error> {
    larger().open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

/// The device is full from here on, and the process is killed: the store opens all the same.
fn opens_after_a_kill(disk: &Arc<SimDisk>, what: &str) -> Store {
    let image = disk.clean_reopen();
    image.set_capacity(Some(image.used_bytes()));
    open_larger(&image).unwrap_or_else(|error| panic!("{what}: {}", common::told(&error)))
}

#[test]
fn who_is_killed_on_a_full_device_locks_nobody_out() {
    let disk = SimDisk::new(1);
    let store = open_larger(&disk).unwrap();
    let digest = store.put(&[7; 700 << 10]).unwrap().digest;
    store.commit(Batch::new().set("name", digest)).unwrap();
    store.close().unwrap();
    let mut image = disk;
    for round in 0..6 {
        image.set_capacity(Some(image.used_bytes()));
        let store = open_larger(&image).unwrap();
        assert!(store.get(&digest).unwrap().is_some());
        assert_eq!(store.stats().recovery.clean, round <= 3, "{round}");
        // Who only reads changes nothing; from the fourth on they take the store over, too.
        if round >= 3 {
            store.commit(Batch::new().delete("another")).unwrap();
        }
        let killed = image.clean_reopen();
        drop(store);
        image = killed;
    }
    let store = open_larger(&image).unwrap();
    store.commit(Batch::new().delete("name")).unwrap();
    opens_after_a_kill(&image, "deleted");
}

/// An open that was killed has given the reserve back, and others took most of it.
#[test]
fn who_opens_a_store_with_little_space_left_leaves_the_next_open_its_space() {
    let disk = SimDisk::new(1);
    let store = open_larger(&disk).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    store.commit(Batch::new().set("name", digest)).unwrap();
    store.close().unwrap();
    let cut_short = |mutation| {
        let image = disk.clean_reopen();
        // What is set aside is given back only where there is no other space.
        image.set_capacity(Some(image.used_bytes()));
        image.crash_at_mutation(mutation);
        let _ = open_larger(&image)
            .and_then(|store| store.commit(Batch::new().delete("another")).map(drop));
        image.after_crash(CrashState::Everything)
    };
    let has_none = |image: &Arc<SimDisk>| image.file_bytes("RESERVE").unwrap().is_empty();
    let killed = (1..1000).map(cut_short).find(has_none).unwrap();
    let (mut opened, mut deleted, mut closed) = (0, 0, 0);
    // With less than a block nothing can be set aside.
    for free in (4 << 10..400 << 10).step_by(512) {
        let disk = killed.clean_reopen();
        disk.set_capacity(Some(disk.used_bytes() + free));
        let Ok(store) = open_larger(&disk) else { continue };
        opened += 1;
        assert_eq!(store.pointer("name").unwrap(), Some(digest));
        opens_after_a_kill(&disk, &format!("{free}"));
        disk.set_capacity(Some(disk.used_bytes()));
        // What goes on with so much space goes on with more.
        let goes_on = |done: Result<(), Error>, before| match done {
            Ok(()) => before + 1,
            Err(error) if before > 0 => panic!("{free}: {}", common::told(&error)),
            Err(_) => 0,
        };
        deleted = goes_on(store.commit(Batch::new().delete("name")).map(drop), deleted);
        closed = goes_on(store.close(), closed);
        opens_after_a_kill(&disk, &format!("{free}, closed"));
    }
    assert!(opened > 700 && deleted > 600 && closed > 600, "{opened}, {deleted}, {closed}");
}

#[test]
fn a_store_takes_no_values_that_its_recovery_could_not_copy() {
    let mut taken = 0;
    for free in (0..5 << 20).step_by(300 << 10) {
        let disk = SimDisk::new(1);
        let store = open_larger(&disk).unwrap();
        let digest = store.put(b"first").unwrap().digest;
        store.commit(Batch::new().set("first", digest)).unwrap();
        store.close().unwrap();
        disk.set_capacity(Some(disk.used_bytes() + free));
        let store = open_larger(&disk).unwrap();
        for id in 0..1000u32 {
            let put = store.put(&id.to_le_bytes().repeat(500));
            match put.and_then(|put| store.commit(Batch::new().set("name", put.digest))) {
                Ok(_) => taken += 1,
                Err(Error::NoSpace { .. }) => break,
                Err(error) => panic!("{free}: {}", common::told(&error)),
            }
        }
        let again = opens_after_a_kill(&disk, &format!("{free}"));
        again.commit(Batch::new().delete("first")).unwrap();
    }
    assert!(taken > 1000, "{taken} commits");
}

#[test]
fn a_closed_store_of_many_segments_opens_on_a_full_device() {
    let open = |disk: &Arc<SimDisk>| {
        let builder = larger().segment_bytes(4 << 10).reserve_bytes(300 << 10);
        builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
    };
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    for id in 0..5000u32 {
        store.put(&id.to_le_bytes().repeat(600)).unwrap();
    }
    store.close().unwrap();
    for round in 0..3 {
        disk.set_capacity(Some(disk.used_bytes()));
        let store = open(&disk);
        let store = store.unwrap_or_else(|error| panic!("{round}: {}", common::told(&error)));
        assert!(store.stats().blob_log.segment_count > 4500);
        store.close().unwrap();
    }
}

/// Something else takes what a deletion gives back.
#[test]
fn a_deletion_gives_nothing_away_that_recovery_needs() {
    let disk = SimDisk::new(1);
    let store = open_larger(&disk).unwrap();
    disk.set_capacity(Some(disk.used_bytes() + (6 << 20)));
    let mut names = 0u32;
    let full = loop {
        let value = names.to_le_bytes().repeat(5000);
        let put = store.put(&value);
        match put.and_then(|put| store.commit(Batch::new().set(format!("{names}"), put.digest))) {
            Ok(_) => names += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::NoSpace { .. }), "{}", common::told(&full));
    for name in 0..names {
        disk.set_capacity(Some(disk.used_bytes()));
        store.commit(Batch::new().delete(format!("{name}"))).unwrap();
        opens_after_a_kill(&disk, &format!("{name}"));
    }
    assert!(names > 50);
}

/// While a put waits for what stands before it to be written, the device fills up, and deletions
/// are given of the reserve what recovery would not need without the put.
#[test]
fn a_put_on_its_way_takes_no_room_once_the_reserve_is_given_back() {
    // One that is gathered, and one in a frame of its own.
    for len_bytes in [900, 400 << 10] {
        let disk = SimDisk::new(1);
        let meddling = MeddlingDisk::new(&disk);
        let builder = larger().pointer_segment_bytes(4 << 10);
        let store = builder.open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        let name = |id: u32| format!("{id:0900}");
        for id in 0..8 {
            store.commit(Batch::new().set(name(id), digest)).unwrap();
        }
        store.maintain().unwrap();
        // Four of them fill a frame.
        for id in 0..4 {
            store.put(&[id; 900]).unwrap();
        }
        let (ordinal, epoch) = (Ordinal::FIRST, Epoch::FIRST);
        meddling.before_write(FileName::Segment { log: LogKind::Blob, ordinal, epoch }, {
            let (disk, store) = (Arc::clone(&disk), store.clone());
            move || {
                let reserved = || disk.file_bytes("RESERVE").unwrap().len() as u64;
                let before = reserved();
                disk.set_capacity(Some(disk.used_bytes() - before + (128 << 10)));
                let mut deletions =
                    (0..8).map(|id| store.commit(Batch::new().delete(name(id))).map(drop).unwrap());
                assert!(deletions.any(|()| reserved() < before));
            }
        });
        let value = vec![7; len_bytes];
        let put = store.put(&value);
        assert!(meddling.has_meddled());
        opens_after_a_kill(&disk, &format!("{len_bytes}"));
        let refused = put.unwrap_err();
        assert!(matches!(refused, Error::NoSpace { .. }), "{}", common::told(&refused));
        assert_eq!(store.get(&Digest::of(&value)).unwrap(), None);
        disk.set_capacity(None);
        assert!(store.put(&value).unwrap().new);
        opens_after_a_kill(&disk, &format!("{len_bytes}, with space again"));
    }
}

/// The closed store holds little; what is deleted then is not to be copied with all that stands
/// before it in the log.
#[test]
fn deletions_of_a_store_opened_on_a_full_device_lock_nobody_out() {
    let open = |disk: &Arc<SimDisk>| {
        let builder = Store::builder().maintenance(Maintenance::Inline);
        builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
    };
    for (commits, free) in [(500, 0), (2000, 0), (2000, 16 << 10)] {
        let disk = SimDisk::new(1);
        let store = open(&disk).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        for id in 0..commits {
            store.commit(Batch::new().set(format!("{id}"), digest)).unwrap();
        }
        store.close().unwrap();
        disk.set_capacity(Some(disk.used_bytes() + free));
        let store = open(&disk).unwrap();
        for id in 0..20 {
            store.commit(Batch::new().delete(format!("{id}"))).unwrap();
            let killed = disk.clean_reopen();
            killed.set_capacity(Some(killed.used_bytes()));
            let again = open(&killed)
                .unwrap_or_else(|error| panic!("{commits}, {id}: {}", common::told(&error)));
            assert_eq!(again.stats().pointer_count, commits - id - 1);
        }
    }
}

/// The root grows with the segments of the blob log.
#[test]
fn deletions_leave_the_next_root_its_space() {
    let open = |disk: &Arc<SimDisk>| {
        let builder = larger().segment_bytes(4 << 10).pointer_segment_bytes(4 << 10);
        builder.reserve_bytes(300 << 10).open_on(Arc::clone(disk) as Arc<dyn Disk>)
    };
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let name = |id: u32| format!("{id:0900}");
    for id in 0..400 {
        store.commit(Batch::new().set(name(id), digest)).unwrap();
    }
    for id in 0..1600u32 {
        store.put(&id.to_le_bytes().repeat(700)).unwrap();
    }
    assert!(store.stats().blob_log.segment_count > 1500);
    let mut deleted = 0;
    for id in 0..400 {
        disk.set_capacity(Some(disk.used_bytes()));
        match store.commit(Batch::new().delete(name(id))) {
            Ok(_) => deleted += 1,
            Err(Error::NoSpace { .. }) => break,
            Err(error) => panic!("{id}: {}", common::told(&error)),
        }
        if id % 10 == 0 {
            let killed = disk.clean_reopen();
            killed.set_capacity(Some(killed.used_bytes()));
            open(&killed).unwrap_or_else(|error| panic!("{id}: {}", common::told(&error)));
        }
    }
    assert!(deleted > 20, "{deleted} names were deleted");
}

#[test]
fn a_segment_that_cannot_be_sealed_ends_growth() {
    let disk = SimDisk::new(1);
    let store =
        larger().segment_bytes(64 << 10).open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let put = |id: u32| store.put(&id.to_le_bytes().repeat(500));
    // Only sealing cuts a segment.
    assert!((0..10).all(|id| put(id).is_ok()));
    let first =
        FileName::Segment { log: LogKind::Blob, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
    disk.fail_when(
        Filter::any().operation(Operation::SetLength).file(first).from_nth(1),
        Fault::Eio,
    );
    let refused = (10..3000).map(put).find_map(Result::err).unwrap();
    assert!(matches!(refused, Error::Io { .. }), "{}", common::told(&refused));
    let log = store.stats().blob_log;
    assert_eq!(log.segment_count - log.sealed_count, 2, "the full one and the next: {log:?}");
    disk.heal();
    opens_after_a_kill(&disk, "with a full segment unsealed");
    put(7000).unwrap();
    store.maintain().unwrap();
    assert!(store.stats().blob_log.sealed_count >= 2);
}

#[test]
fn a_segment_of_the_pointer_log_that_cannot_be_sealed_ends_its_growth() {
    let disk = SimDisk::new(1);
    let builder = larger().pointer_segment_bytes(8 << 10);
    let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    store.commit(Batch::new().set("name", digest)).unwrap();
    let first =
        FileName::Segment { log: LogKind::Pointer, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };
    disk.fail_when(
        Filter::any().operation(Operation::SetLength).file(first).from_nth(1),
        Fault::Eio,
    );
    let commit = |_| store.commit(Batch::new().set("name", digest));
    let refused = (0..1000).map(commit).find_map(Result::err).unwrap();
    assert!(matches!(refused, Error::Io { .. }), "{}", common::told(&refused));
    let log = store.stats().pointer_log;
    assert_eq!(log.segment_count - log.sealed_count, 2, "the full one and the next: {log:?}");
    disk.heal();
    commit(0).unwrap();
    store.maintain().unwrap();
    assert!(store.stats().pointer_log.sealed_count >= 1);
}

/// The same of commits longer than segments of the pointer log.
#[test]
fn what_long_commits_take_is_set_aside_for_their_copy() {
    let open = |disk: &Arc<SimDisk>| {
        let builder = larger().pointer_segment_bytes(8 << 10).reserve_bytes((2 << 20) + (32 << 10));
        builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
    };
    let disk = SimDisk::new(1);
    let store = open(&disk).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let mut names = 0;
    for count in [1, 12_000, 3, 2_000, 40, 6_000] {
        let batch = (names..names + count)
            .fold(Batch::new(), |batch, name: u32| batch.set(name.to_be_bytes(), digest));
        store.commit(batch).unwrap();
        names += count;
        let image = disk.clean_reopen();
        image.set_capacity(Some(image.used_bytes()));
        let again =
            open(&image).unwrap_or_else(|error| panic!("{count}: {}", common::told(&error)));
        assert_eq!(again.stats().pointer_count, u64::from(names));
    }
    // Once they are sealed, their share goes back.
    let reserved = || disk.file_bytes("RESERVE").unwrap().len();
    let before = reserved();
    assert!((0..100).all(|_| store.commit(Batch::new().set("one more", digest)).is_ok()));
    store.maintain().unwrap();
    assert!(reserved() + (200 << 10) < before, "{before}, then {}", reserved());
}

#[test]
fn a_power_loss_leaves_the_reserve() {
    let opens = |disk: &Arc<SimDisk>, what: &str| {
        let image = disk.after_crash(CrashState::Nothing);
        image.set_capacity(Some(image.used_bytes()));
        open_larger(&image).unwrap_or_else(|error| panic!("{what}: {}", common::told(&error)))
    };
    let disk = SimDisk::new(1);
    let store = open_larger(&disk).unwrap();
    for (id, len_bytes) in (0..).zip([900, 300 << 10, 1500 << 10, 900]) {
        let digest = store.put(&vec![id; len_bytes]).unwrap().digest;
        store.commit(Batch::new().set("name", digest)).unwrap();
        let again = opens(&disk, &format!("{len_bytes}"));
        assert_eq!(again.pointer("name").unwrap(), Some(digest));
    }
    store.close().unwrap();
    opens(&disk, "closed");
    // An open that cannot set all of it aside, and one that fails.
    let (image, free) = (disk.clean_reopen(), disk.used_bytes() + (400 << 10));
    image.set_capacity(Some(free));
    let store = open_larger(&image).unwrap();
    store.commit(Batch::new().delete("another")).unwrap();
    opens(&image, "opened");
    drop(store);
    let image = disk.after_crash(CrashState::Nothing);
    image.set_capacity(Some(image.used_bytes()));
    image.fail_when(Filter::any().operation(Operation::Rename), Fault::Eio);
    let store = open_larger(&image).unwrap();
    assert!(store.commit(Batch::new().delete("another")).is_err());
    image.heal();
    opens(&image, "not opened");
    // One that had none, and makes no segment in which to put values.
    let disk = SimDisk::new(1);
    let builder = larger().reserve_bytes(0);
    let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    store.put(b"value").unwrap();
    store.close().unwrap();
    let store = open_larger(&disk).unwrap();
    store.put(&[7; 300 << 10]).unwrap();
    store.sync().unwrap();
    opens(&disk, "with one from now on");
}

#[test]
fn a_failed_sync_of_a_reserve_that_grew_ends_writing() {
    let disk = SimDisk::new(1);
    let store = open_larger(&disk).unwrap();
    let syncs = Filter::any().operation(Operation::Sync).file(FileName::Reserve);
    disk.fail_when(syncs, Fault::Eio);
    let refused = store.put(b"value").unwrap_err();
    assert!(matches!(refused, Error::Poisoned { .. }), "{}", common::told(&refused));
    assert!(store.stats().poisoned.is_some());
    assert_eq!(store.stats().blob_log.segment_count, 0);
}

#[test]
fn a_failed_sync_of_the_reserve_ends_writing_as_any_other() {
    for fault in [Fault::Eio, Fault::SyncEnospc] {
        let disk = SimDisk::new(1);
        let store = open_larger(&disk).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        store.commit(Batch::new().set("name", digest)).unwrap();
        disk.set_capacity(Some(disk.used_bytes()));
        let syncs = Filter::any().operation(Operation::Sync).file(FileName::Reserve);
        disk.fail_when(syncs, fault);
        let mut deletions = (0..2000).map(|id| store.commit(Batch::new().delete(format!("{id}"))));
        let refused = deletions.find_map(Result::err).unwrap();
        assert!(!matches!(refused, Error::NoSpace { .. }), "{}", common::told(&refused));
        assert!(store.stats().poisoned.is_some());
        disk.set_capacity(None);
        assert!(matches!(store.put(b"more"), Err(Error::Poisoned { .. })));
    }
}

#[test]
fn the_next_segment_is_asked_for_once_ahead_of_need() {
    let disk = SimDisk::new(1);
    let store = open_larger(&disk).unwrap();
    store.put(b"the first segment is made").unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    let created = || disk.trace().iter().filter(|line| line.contains("creating")).count();
    let before = created();
    store.put(&[1; 600 << 10]).unwrap();
    assert_eq!(created(), before + 1, "ahead of need, in vain");
    for id in 0..100u32 {
        store.put(&id.to_le_bytes().repeat(100)).unwrap();
    }
    assert_eq!(created(), before + 1, "{:?}", disk.trace());
    // And ahead of need again once there was space for one that was needed.
    disk.set_capacity(None);
    let segments = || store.stats().blob_log.segment_count;
    let before = segments();
    store.put(&[2; 600 << 10]).unwrap();
    assert_eq!(segments(), before + 2, "the one needed, and the next");
}
