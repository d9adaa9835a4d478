//! Everything that a store may be given and cannot use: each has an error of its own, which names
//! what is wrong, and nothing is lost by it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests spoil real directories, from outside the store"
)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::damage::{Rest, closed};
use common::script::workload;
use common::{tiny_tables, told};
use pinstone::{Batch, CheckOptions, Digest, Error, Maintenance, Store, StoreBuilder};
use pinstone_disk::sim::{SIM_PID, SimDisk};
use pinstone_disk::{Disk, checksum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn tiny() -> StoreBuilder {
    Store::builder().segment_bytes(4 << 10).pointer_segment_bytes(4 << 10).append_buffer_bytes(1024)
}

fn open_on(builder: StoreBuilder, disk: &Arc<SimDisk>) -> pinstone::Result<Store> {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

/// Puts a value for each number and points a pointer of that name at it.
fn fill(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let digest = store.put(number.to_string().repeat(100).as_bytes()).unwrap().digest;
        store.commit(Batch::new().set(format!("{number}"), digest)).unwrap();
    }
}

fn assert_holds(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let digest = store.pointer(format!("{number}")).unwrap().expect("it was committed");
        let value = store.get(&digest).unwrap().expect("a pointer's value is there");
        assert_eq!(value, number.to_string().repeat(100).as_bytes());
    }
}

/// The names and bytes of a directory's files.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
        .collect();
    all.sort();
    all
}

// Directories.

#[test]
fn a_directory_that_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "not a store").unwrap();
    let before = contents(dir.path());
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NotAStore { .. }), "{}", told(&error));
    assert!(told(&error).contains(dir.path().to_str().unwrap()), "{}", told(&error));
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn a_file_in_the_place_of_the_directory_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fs::write(&path, "a file").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::NotAStore { .. }), "{}", told(&error));
    assert!(told(&error).contains(path.to_str().unwrap()), "{}", told(&error));
    assert_eq!(fs::read(&path).unwrap(), b"a file");
}

#[test]
fn a_store_is_created_only_where_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("absent"), dir.path().to_owned()] {
        let error = Store::builder().create(false).open(&path).unwrap_err();
        assert!(matches!(error, Error::StoreAbsent { .. }), "{}", told(&error));
        assert!(told(&error).contains(path.to_str().unwrap()), "{}", told(&error));
    }
    assert_eq!(contents(dir.path()), []);
    Store::open(dir.path()).unwrap().close().unwrap();
    Store::builder().create(false).open(dir.path()).unwrap().close().unwrap();
}

#[test]
fn a_store_without_its_root_is_refused_and_never_taken_for_an_empty_directory() {
    let disk = SimDisk::new(1);
    let store = open_on(tiny(), &disk).unwrap();
    fill(&store, 0..5);
    store.close().unwrap();
    let names = disk.names();
    let kept = |remove: &dyn Fn(&str) -> bool| {
        let disk = disk.clean_reopen();
        names.iter().filter(|name| remove(name)).for_each(|name| disk.remove_file(name));
        disk
    };
    for (what, disk) in [
        ("no CURRENT", kept(&|name| name == "CURRENT")),
        ("no root log", kept(&|name| name.starts_with("root-"))),
        ("only values", kept(&|name| !name.starts_with("blob-"))),
        ("only commits", kept(&|name| !name.starts_with("pointer-"))),
    ] {
        let left = disk.names();
        let error = open_on(tiny(), &disk).map(drop).unwrap_err();
        let class = matches!(error, Error::NotAStore { .. } | Error::Corrupt { .. });
        assert!(class, "{what}: {}", told(&error));
        let missing = names.iter().find(|name| !left.contains(name)).unwrap();
        assert!(left.iter().all(|name| disk.names().contains(name)), "{what}, {missing}");
    }
}

#[test]
fn a_store_of_an_unknown_format_is_refused_by_name() {
    let Rest { workload, disk, .. } = closed(workload("close-and-reopen").unwrap()).unwrap();
    // Version, kind of digest, and the two sets of feature bits that may not be passed over.
    let unknown: [(u64, u8); 4] = [(8, 0xee), (11, 0xee), (16, 0x80), (20, 0x01)];
    let mut tried = 0;
    let has_header = |name: &String| {
        // Tables say what they are at their ends: see the tests of `pinstone_compaction`.
        name != "LOCK" && name != "RESERVE" && !name.ends_with(".table")
    };
    for file in disk.names().into_iter().filter(has_header) {
        assert!(!disk.file_bytes(&file).unwrap().ends_with(b"PINSTAIL"), "{file} is sealed");
        for (offset, byte) in unknown {
            let disk = disk.clean_reopen();
            disk.corrupt(&file, offset, |bytes| bytes[0] = byte);
            disk.corrupt(&file, 0, |bytes| {
                let crc = checksum::crc(&bytes[..60]);
                bytes[60..64].copy_from_slice(&crc.to_le_bytes());
            });
            let error = open_on(workload.builder(), &disk).map(drop).unwrap_err();
            let Error::Unsupported { file: named, .. } = &error else {
                panic!("{file} at {offset}: {}", told(&error));
            };
            assert_eq!(*named, file);
            tried += 1;
        }
    }
    assert!(tried >= 4 * 4, "CURRENT and a segment of each log");
}

/// In the header of a segment whose values stand in tables: opening reads none of it.
#[test]
fn a_sealed_segment_of_an_unknown_format_is_refused_by_name_where_it_is_read() {
    let builder = || tiny_tables().maintenance(Maintenance::Inline);
    let disk = SimDisk::new(1);
    let store = open_on(builder(), &disk).unwrap();
    fill(&store, 0..50);
    store.close().unwrap();
    let sealed = |file: &String| {
        file.starts_with("blob-") && disk.file_bytes(file).unwrap().ends_with(b"PINSTAIL")
    };
    let file = disk.names().into_iter().filter(sealed).min().unwrap();
    let first = Digest::of("0".repeat(100).as_bytes());
    // Version, kind of digest, the two sets of feature bits; and one that may be passed over.
    for (offset, byte, is_known) in
        [(8, 9, false), (11, 9, false), (16, 0x80, false), (20, 1, false), (12, 1, true)]
    {
        for is_damage in [false, true] {
            let disk = disk.clean_reopen();
            disk.corrupt(&file, offset, |bytes| bytes[0] = byte);
            if !is_damage {
                disk.corrupt(&file, 0, |bytes| {
                    let crc = checksum::crc(&bytes[..60]);
                    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
                });
            }
            let store = open_on(builder(), &disk).unwrap();
            for answer in [store.get(&first), store.get_many(&[first]).remove(0)] {
                match answer {
                    Err(Error::Unsupported { file: named, .. }) if !is_known && !is_damage => {
                        assert_eq!(named, file);
                    }
                    Ok(Some(value)) if is_known || is_damage => {
                        assert_eq!(value, "0".repeat(100).as_bytes());
                    }
                    other => panic!("{offset}, {is_damage}: {:?}", other.map_err(|e| told(&e))),
                }
            }
            assert_holds(&store, 40..50);
        }
    }
}

#[test]
fn numbers_that_none_can_follow_are_refused() {
    let Rest { workload, disk, .. } = closed(workload("close-and-reopen").unwrap()).unwrap();
    let header = disk.file_bytes("CURRENT").unwrap();
    let refused = |disk: &Arc<SimDisk>, named: &str| {
        let names = disk.names();
        let error = open_on(workload.builder(), disk).map(drop).unwrap_err();
        let Error::Corrupt { file, .. } = &error else { panic!("{named}: {}", told(&error)) };
        assert_eq!(file, named);
        assert_eq!(disk.names(), names, "{named}");
    };
    for number in [u32::MAX - 1, u32::MAX] {
        for log in ["blob", "pointer", "root"] {
            for name in
                [format!("{log}-00000001-{number}.log"), format!("{log}-{number}-00000001.log")]
            {
                let disk = disk.clean_reopen();
                disk.put_file(&name, b"");
                refused(&disk, &name);
            }
        }
        for field in [40, 44] {
            let mut header = header.clone();
            header[field..field + 4].copy_from_slice(&number.to_le_bytes());
            let crc = checksum::crc(&header[..60]);
            header[60..].copy_from_slice(&crc.to_le_bytes());
            let disk = disk.clean_reopen();
            disk.put_file("CURRENT", header);
            refused(&disk, "CURRENT");
        }
    }
}

#[test]
fn a_segment_longer_than_any_is_refused_without_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = tiny().open(dir.path()).unwrap();
    fill(&store, 0..30);
    store.close().unwrap();
    let before = contents(dir.path());
    let segments = before.iter().filter(|(path, _)| path.extension().is_some());
    let mut tried = 0;
    for (path, bytes) in segments {
        let file = fs::File::options().write(true).open(path).unwrap();
        // As much as no machine has memory for.
        file.set_len(1 << 43).unwrap();
        let error = tiny().open(dir.path()).map(drop).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{}", told(&error));
        file.set_len(bytes.len() as u64).unwrap();
        tried += 1;
    }
    assert!(tried > 5, "some are sealed, some are not");
    let store = tiny().open(dir.path()).unwrap();
    assert_holds(&store, 0..30);
}

// Locks.

/// Set in a process that a test starts of itself: the directory to work on.
const CHILD: &str = "PINSTONE_TEST_CHILD";
/// What such a process prints when it has come to its end.
const DONE: &str = "the child is done";

fn child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// The same test again, in a process of its own.
fn again(test: &str, dir: &Path) -> Command {
    // By this link, so that it can be found without any permission on the way to it.
    let mut command = Command::new("/proc/self/exe");
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, dir).current_dir("/");
    command
}

fn runs_to_its_end(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(DONE), "{text}\n{error}");
}

#[test]
fn a_second_opener_in_this_process_is_refused_and_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    let Error::Locked { holder, .. } = &error else { panic!("{}", told(&error)) };
    assert_eq!(*holder, Some(std::process::id()));
    fill(&store, 0..3);
    let clone = store.clone();
    drop(store);
    assert!(Store::open(dir.path()).is_err(), "a clone holds the store too");
    drop(clone);
    assert_holds(&Store::open(dir.path()).unwrap(), 0..3);

    let disk = SimDisk::new(1);
    let _store = open_on(tiny(), &disk).unwrap();
    let error = open_on(tiny(), &disk).unwrap_err();
    assert!(matches!(error, Error::Locked { holder: Some(SIM_PID), .. }), "{}", told(&error));
}

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_store() {
    if let Some(dir) = child() {
        let error = Store::open(&dir).unwrap_err();
        let Error::Locked { path, holder } = &error else { panic!("{}", told(&error)) };
        assert_eq!(*path, dir);
        assert_eq!(*holder, Some(std::os::unix::process::parent_id()));
        return println!("{DONE}");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let test = "a_second_process_is_refused_and_told_who_holds_the_store";
    runs_to_its_end(&mut again(test, dir.path()));
    fill(&store, 0..3);
    store.close().unwrap();
}

#[test]
fn a_process_that_died_holds_no_store() {
    if let Some(dir) = child() {
        let store = Store::open(&dir).unwrap();
        fill(&store, 0..3);
        println!("{DONE}");
        std::process::abort();
    }
    let dir = tempfile::tempdir().unwrap();
    let output = again("a_process_that_died_holds_no_store", dir.path()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains(DONE));
    assert_holds(&Store::open(dir.path()).unwrap(), 0..3);
}

// Permissions and limits of the machine.

#[test]
fn a_directory_that_may_not_be_written_is_refused_and_left_alone() {
    let test = "a_directory_that_may_not_be_written_is_refused_and_left_alone";
    if let Some(dir) = child() {
        for path in [dir.join("store"), dir.join("absent"), dir.join("empty")] {
            let error = Store::open(&path).unwrap_err();
            let Error::Io { source } = &error else { panic!("{path:?}: {}", told(&error)) };
            let kind = source.source.kind();
            assert_eq!(kind, std::io::ErrorKind::PermissionDenied, "{}", told(&error));
        }
        return println!("{DONE}");
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let opened = Store::open(&store).unwrap();
    fill(&opened, 0..3);
    opened.close().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    fs::remove_file(store.join("LOCK")).unwrap();
    let before = contents(&store);
    let mut command = again(test, dir.path());
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere, so somebody else tries; the files are theirs to read.
        const NOBODY: u32 = 65534;
        for path in fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path()) {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    let set_mode = |mode| {
        for path in [&store, &dir.path().join("empty"), dir.path()] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set_mode(0o555);
    runs_to_its_end(&mut command);
    set_mode(0o755);
    assert_eq!(contents(&store), before);
    assert_eq!(contents(&dir.path().join("empty")), []);
    assert_holds(&Store::open(&store).unwrap(), 0..3);
}

/// An older state of the store, put over the newer one.
#[test]
fn an_older_root_brought_back_is_refused_and_nothing_newer_removed() {
    for step in ["nothing more", "maintain", "a segment"] {
        let disk = SimDisk::new(1);
        let store = open_on(tiny(), &disk).unwrap();
        fill(&store, 0..2);
        let older = disk.clean_reopen();
        drop(store);
        let newer = older.clean_reopen();
        let store = open_on(tiny(), &newer).unwrap();
        fill(&store, 2..3);
        match step {
            "maintain" => store.maintain().unwrap(),
            "a segment" => fill(&store, 3..40),
            _ => {}
        }
        let killed = newer.clean_reopen();
        drop(store);
        for name in older.names() {
            killed.put_file(&name, older.file_bytes(&name).unwrap());
        }
        let names = killed.names();
        let error = open_on(tiny(), &killed).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { file, .. } if file == "CURRENT"), "{step}");
        assert!(told(&error).contains("an older root"), "{step}: {}", told(&error));
        assert_eq!(killed.names(), names, "{step}");
    }
}

/// A file of another store, and one of a format that is yet to come, among this one's.
#[test]
fn files_of_others_are_left_where_they_are() {
    let disk = SimDisk::new(1);
    let store = open_on(tiny(), &disk).unwrap();
    fill(&store, 0..2);
    store.close().unwrap();
    let other = SimDisk::new(2);
    let store = open_on(tiny(), &other).unwrap();
    fill(&store, 0..2);
    drop(store);
    let mut bytes = other.file_bytes("blob-00000001-00000001.log").unwrap();
    disk.put_file("blob-00000070-00000001.log", &bytes);
    disk.put_file("blob-00000071-00000090.log", &bytes);
    // The version, and the header's checksum mended.
    bytes[8] = 99;
    let crc = checksum::crc(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    disk.put_file("blob-00000072-00000001.log", &bytes);
    for _ in 0..3 {
        let store = open_on(tiny(), &disk).unwrap();
        assert_holds(&store, 0..2);
        store.close().unwrap();
        let left = |name: &&String| name.starts_with("blob-0000007");
        assert_eq!(disk.names().iter().filter(left).count(), 3);
    }
}

/// What check finds in a segment that is not sealed is known to be bad, as in one that is.
#[test]
fn a_value_that_check_found_damaged_is_healed_by_putting_it_again() {
    for seals in [false, true] {
        let disk = SimDisk::new(1);
        let store = open_on(tiny(), &disk).unwrap();
        let value = [9; 700];
        let digest = store.put(&value).unwrap().digest;
        store.put(&[8; 500]).unwrap();
        store.sync().unwrap();
        if seals {
            fill(&store, 0..60);
            store.maintain().unwrap();
        }
        let name = "blob-00000001-00000001.log";
        let bytes = disk.file_bytes(name).unwrap();
        let at = bytes.windows(600).position(|bytes| *bytes == [9; 600]).unwrap();
        disk.corrupt(name, at as u64, |bytes| bytes[0] ^= 1);
        let options = CheckOptions { read_data: true, ..CheckOptions::default() };
        assert!(!store.check(&options).unwrap().findings.is_empty());
        assert!(store.put(&value).unwrap().new, "{seals}");
        store.commit(Batch::new().set("name", digest)).unwrap();
        assert_eq!(store.get(&digest).unwrap().as_deref(), Some(&value[..]));
    }
}

#[test]
fn too_few_descriptors_are_told_and_nothing_is_lost() {
    if let Some(dir) = child() {
        few_descriptors(&dir);
        return println!("{DONE}");
    }
    let dir = tempfile::tempdir().unwrap();
    runs_to_its_end(&mut again("too_few_descriptors_are_told_and_nothing_is_lost", dir.path()));
    assert_holds(&tiny().open(dir.path()).unwrap(), 0..100);
}

/// In a process of its own, since the limit is the whole process's.
fn few_descriptors(dir: &Path) {
    let whole = getrlimit(Resource::Nofile);
    let limit = |current| setrlimit(Resource::Nofile, Rlimit { current, ..whole }).unwrap();
    let open = || tiny().maintenance(Maintenance::Inline).open(dir);
    let store = open().unwrap();
    fill(&store, 0..50);
    store.close().unwrap();
    let (mut refused, mut opened) = (0, 0);
    for current in 0..64 {
        limit(Some(current));
        let result = open();
        limit(whole.current);
        match result {
            Ok(store) => {
                assert_holds(&store, 0..50);
                opened += 1;
            }
            Err(error @ Error::Io { .. }) => {
                assert!(told(&error).contains("open files"), "{}", told(&error));
                refused += 1;
            }
            Err(error) => panic!("{current}: {}", told(&error)),
        }
    }
    assert!(refused > 0 && opened > 0, "{refused} refused, {opened} opened");
    let store = open().unwrap();
    let mut refused = 0;
    for number in 50..100u32 {
        let value = number.to_string().repeat(100);
        let batch = || Batch::new().set(format!("{number}"), Digest::of(value.as_bytes()));
        limit(Some(0));
        let result = store.put(value.as_bytes()).and_then(|_put| store.commit(batch()));
        limit(whole.current);
        if let Err(error) = result {
            assert!(matches!(error, Error::Io { .. }), "{}", told(&error));
            refused += 1;
            store.put(value.as_bytes()).unwrap();
            store.commit(batch()).unwrap();
        }
    }
    assert!(refused > 0, "no segment was begun without a descriptor for it");
    assert_holds(&store, 0..100);
    store.close().unwrap();
}

// Arguments.

#[test]
fn names_have_1_to_1024_bytes() {
    let store = open_on(tiny(), &SimDisk::new(1)).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    for len_bytes in [0, 1025, 5000] {
        let name = vec![b'n'; len_bytes];
        for batch in [
            Batch::new().set(&name, digest),
            Batch::new().delete(&name),
            Batch::new().set("good", digest).require(&name, None),
        ] {
            let error = store.commit(batch).unwrap_err();
            let right = matches!(error, Error::NameLength { len_bytes: told } if told == len_bytes);
            assert!(right, "{len_bytes}: {}", told(&error));
        }
        for asked in [store.pointer(&name), store.snapshot().pointer(&name)] {
            let error = asked.unwrap_err();
            let right = matches!(error, Error::NameLength { len_bytes: told } if told == len_bytes);
            assert!(right, "{len_bytes}: {}", told(&error));
        }
    }
    for len_bytes in [1, 1024] {
        let name = vec![b'n'; len_bytes];
        store.commit(Batch::new().set(&name, digest)).unwrap();
        assert_eq!(store.pointer(&name).unwrap(), Some(digest));
    }
    assert_eq!(store.pointers_with_prefix("").count(), 2);
    assert_eq!(store.snapshot().commit().0, 2, "what was refused takes no number");
}

#[test]
fn a_value_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let store = open_on(tiny().value_bytes_max(10_000), &SimDisk::new(1)).unwrap();
    let value = vec![7; 10_001];
    let error = store.put(&value).unwrap_err();
    assert!(matches!(error, Error::Limit { max: 10_000, found: 10_001, .. }), "{}", told(&error));
    let digest = store.put(&value[1..]).unwrap().digest;
    store.commit(Batch::new().set("a", digest)).unwrap();
    assert_eq!(store.get(&digest).unwrap().unwrap(), value[1..]);
    assert!(!store.contains(&Digest::of(&value)).unwrap());
}

#[test]
fn a_commit_over_the_limit_is_refused_whole() {
    let store = open_on(tiny().commit_bytes_max(4096), &SimDisk::new(1)).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let batch = |count: u32| {
        (0..count).fold(Batch::new(), |batch, number| batch.set(format!("name {number}"), digest))
    };
    let error = store.commit(batch(1000)).unwrap_err();
    assert!(matches!(error, Error::Limit { max: 4096, .. }), "{}", told(&error));
    assert_eq!(store.pointers_with_prefix("").count(), 0);
    store.commit(batch(20)).unwrap();
    assert_eq!(store.pointers_with_prefix("").count(), 20);
}

#[test]
fn a_precondition_on_an_absent_pointer_tells_that_it_is_absent() {
    let store = open_on(tiny(), &SimDisk::new(1)).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let batch = Batch::new().set("a", digest).require("absent", Some(digest));
    let error = store.commit(batch).unwrap_err();
    let Error::PreconditionFailed { name, expected, current } = &error else {
        panic!("{}", told(&error));
    };
    assert_eq!((&name[..], *expected, *current), (&b"absent"[..], Some(digest), None));
    assert_eq!(store.pointer("a").unwrap(), None);
    assert!(told(&error).contains("absent"), "{}", told(&error));
}

#[test]
fn a_pointer_at_a_value_that_is_not_held_is_refused_whole() {
    let store = open_on(tiny(), &SimDisk::new(1)).unwrap();
    let held = store.put(b"held").unwrap().digest;
    let absent = Digest::of(b"never put");
    let error = store.commit(Batch::new().set("a", held).set("b", absent)).unwrap_err();
    assert!(
        matches!(error, Error::ValueMissing { digest } if digest == absent),
        "{}",
        told(&error)
    );
    assert_eq!(store.pointers_with_prefix("").count(), 0);
    assert_eq!(store.snapshot().commit().0, 0);
}

#[test]
fn a_batch_that_changes_nothing_or_one_pointer_twice_is_refused() {
    let store = open_on(tiny(), &SimDisk::new(1)).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    for batch in [
        Batch::new(),
        Batch::new().require("a", None),
        Batch::new().set("a", digest).set("a", digest),
        Batch::new().set("a", digest).delete("a"),
    ] {
        let error = store.commit(batch).unwrap_err();
        assert!(matches!(error, Error::BadBatch { .. }), "{}", told(&error));
    }
    assert_eq!(store.pointers_with_prefix("").count(), 0);
}
