//! A directory of the machine, looked at from inside and from outside.
#![expect(clippy::disallowed_methods, reason = "what the disk did is looked at from outside")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::file_name::LogKind;
use crate::identity::{Epoch, Ordinal};
use crate::vfs::{Batch, DiskExt as _, Op};

const A: FileName =
    FileName::Segment { log: LogKind::Blob, ordinal: Ordinal::FIRST, epoch: Epoch::FIRST };

fn disk() -> (TempDir, Arc<StdDisk>) {
    let directory = tempfile::tempdir().unwrap();
    let disk = StdDisk::open(directory.path(), IoOptions::default()).unwrap();
    (directory, disk)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_written_is_read() {
    let (_directory, disk) = disk();
    let file = disk.open(A, OpenMode::Create).unwrap();
    disk.write(&file, 5, Bytes::from_static(b"hello")).unwrap();
    disk.sync(&file).unwrap();
    disk.sync_dir().unwrap();
    let reader = disk.open(A, OpenMode::Read).unwrap();
    assert_eq!(reader.name(), A);
    assert_eq!(reader.len_bytes().unwrap(), 10);
    assert_eq!(disk.read(&reader, 0, 10).unwrap(), &b"\0\0\0\0\0hello"[..]);
    assert_eq!(disk.read(&reader, 8, 10).unwrap(), "lo", "a read ends where the file does");
    assert_eq!(disk.read(&reader, 11, 10).unwrap(), "");
    assert_eq!(disk.read(&reader, 3, 0).unwrap(), "");
    assert!(reader.write_at(0, b"x").is_err());
    file.set_len(6).unwrap();
    assert_eq!(disk.read(&reader, 5, 10).unwrap(), "h");
}

#[test]
fn a_read_keeps_what_the_buffer_holds_and_fills_no_more_than_its_room() {
    let (_directory, disk) = disk();
    let file = disk.open(A, OpenMode::Create).unwrap();
    disk.write(&file, 0, Bytes::from(vec![7; 10_000])).unwrap();
    let mut buffer = Vec::with_capacity(100);
    buffer.extend_from_slice(b"kept");
    let room = buffer.capacity() - buffer.len();
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), room);
    assert_eq!(&buffer[..5], b"kept\x07");
    assert_eq!(disk.read(&file, 0, 10).unwrap().len(), 10);
}

#[test]
fn chains_run_and_the_failed_one_says_where() {
    let (_directory, disk) = disk();
    let file = disk.open(A, OpenMode::Create).unwrap();
    let reader = disk.open(A, OpenMode::Read).unwrap();
    let write = |file: &Arc<dyn File>| Op::Write {
        file: Arc::clone(file),
        offset_bytes: 3,
        data: Bytes::from_static(b"abc"),
    };
    let read = Op::Read { file: Arc::clone(&file), offset_bytes: 3, len_bytes: 3 };
    let chains = vec![vec![write(&file), Op::Sync { file }, read], vec![write(&reader)]];
    let results = disk.run(Batch { chains });
    assert_eq!(results[0].as_ref().unwrap(), &[Bytes::from_static(b"abc")]);
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.to_string(), "writing blob-00000001-00000001.log at offset 3");
}

#[test]
fn files_and_directories_are_for_their_owner_alone() {
    let (directory, _disk) = disk();
    let path = directory.path().join("one/two/three");
    let disk = StdDisk::create(&path, IoOptions::default()).unwrap();
    disk.open(A, OpenMode::Create).unwrap();
    let _lock = disk.lock().unwrap().unwrap();
    assert_eq!(mode(&directory.path().join("one")), 0o700);
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join(A.to_string())), 0o600);
    assert_eq!(mode(&path.join("LOCK")), 0o600);
}

#[test]
fn creating_what_exists_opens_it() {
    let (directory, disk) = disk();
    disk.open(A, OpenMode::Create).unwrap();
    let again = StdDisk::create(directory.path(), IoOptions::default()).unwrap();
    assert_eq!(again.list().unwrap(), [A.to_string()]);
    assert_eq!(again.device_and_inode().unwrap(), disk.device_and_inode().unwrap());
    assert_eq!(again.path(), directory.path());
    let error =
        StdDisk::create(directory.path().join(A.to_string()), IoOptions::default()).unwrap_err();
    assert_eq!(error.operation, Operation::OpenDirectory);
    assert!(
        StdDisk::create(directory.path().join(A.to_string()).join("below"), IoOptions::default())
            .is_err()
    );
}

#[test]
fn a_created_file_must_not_exist_and_an_opened_one_must() {
    let (_directory, disk) = disk();
    assert!(disk.open(A, OpenMode::Write).unwrap_err().is_not_found());
    assert!(disk.open(A, OpenMode::Read).unwrap_err().is_not_found());
    disk.open(A, OpenMode::Create).unwrap();
    let error = disk.open(A, OpenMode::Create).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(error.operation, Operation::Create);
}

#[test]
fn links_are_refused() {
    let (directory, disk) = disk();
    let target = directory.path().join("target");
    fs::write(&target, "text").unwrap();
    symlink(&target, directory.path().join(A.to_string())).unwrap();
    symlink(&target, directory.path().join("LOCK")).unwrap();
    for mode in [OpenMode::Read, OpenMode::Write, OpenMode::Create] {
        assert!(disk.open(A, mode).is_err());
    }
    assert!(disk.lock().is_err());
    assert_eq!(fs::read(&target).unwrap(), b"text");
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let (directory, disk) = disk();
    let path = directory.path().join(A.to_string());
    let flags = Mode::RUSR | Mode::WUSR;
    sys::mknodat(sys::CWD, &path, FileType::Fifo, flags, 0).unwrap();
    assert!(disk.open(A, OpenMode::Read).is_err());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(disk.open(A, OpenMode::Read).is_err());
}

#[test]
fn a_store_may_be_reached_through_a_link_and_renamed_while_open() {
    let (directory, disk) = disk();
    let link = directory.path().join("link");
    let store = directory.path().join("store");
    StdDisk::create(&store, IoOptions::default()).unwrap();
    symlink(&store, &link).unwrap();
    let linked = StdDisk::open(&link, IoOptions::default()).unwrap();
    fs::rename(&store, directory.path().join("moved")).unwrap();
    linked.open(A, OpenMode::Create).unwrap();
    assert_eq!(linked.list().unwrap(), [A.to_string()]);
    assert_ne!(linked.device_and_inode().unwrap(), disk.device_and_inode().unwrap());
    assert!(StdDisk::open(&link, IoOptions::default()).unwrap_err().is_not_found());
}

#[test]
fn names_are_listed_sorted_changed_and_removed() {
    let (directory, disk) = disk();
    for name in ["z", "LOCK", "a b"] {
        fs::write(directory.path().join(name), "").unwrap();
    }
    disk.open(FileName::CurrentTemp, OpenMode::Create).unwrap();
    assert_eq!(disk.list().unwrap(), ["CURRENT.tmp", "LOCK", "a b", "z"]);
    assert_eq!(disk.list().unwrap().len(), 4, "listing twice lists the same");
    disk.rename(FileName::CurrentTemp, FileName::Current).unwrap();
    disk.remove(FileName::Lock).unwrap();
    assert_eq!(disk.list().unwrap(), ["CURRENT", "a b", "z"]);
    assert!(disk.remove(FileName::Lock).unwrap_err().is_not_found());
    let error = disk.rename(FileName::CurrentTemp, A).unwrap_err();
    assert_eq!(error.to_string(), "renaming CURRENT.tmp");
}

#[test]
fn an_allocated_file_has_its_length_and_its_space() {
    let (directory, disk) = disk();
    let file = disk.open(A, OpenMode::Create).unwrap();
    disk.write(&file, 0, Bytes::from_static(b"abc")).unwrap();
    file.allocate(1 << 20).unwrap();
    assert_eq!(file.len_bytes().unwrap(), 1 << 20);
    file.allocate(4096).unwrap();
    file.allocate(0).unwrap();
    assert_eq!(file.len_bytes().unwrap(), 1 << 20, "an allocation never shortens");
    assert_eq!(disk.read(&file, 0, 5).unwrap(), "abc\0\0");
    let blocks = fs::metadata(directory.path().join(A.to_string())).unwrap().blocks();
    // Where the file system cannot reserve, only what was written takes blocks.
    assert!(blocks * 512 >= 1 << 20 || blocks * 512 <= 1 << 16, "{blocks}");
}

#[test]
fn an_allocation_that_cannot_be_had_leaves_the_file_as_it_was() {
    let (_directory, disk) = disk();
    let file = disk.open(A, OpenMode::Create).unwrap();
    disk.write(&file, 0, Bytes::from_static(b"abc")).unwrap();
    let error = file.allocate(i64::MAX.unsigned_abs()).unwrap_err();
    assert_eq!(error.operation, Operation::Allocate);
    assert!(error.is_no_space(), "{}", error.source);
    assert_eq!(file.len_bytes().unwrap(), 3);
}

#[test]
fn a_second_lock_is_refused_and_names_the_holder() {
    let (directory, disk) = disk();
    let other = StdDisk::open(directory.path(), IoOptions::default()).unwrap();
    fs::write(directory.path().join("LOCK"), "a longer text that stood there before\n").unwrap();
    let lock = disk.lock().unwrap().unwrap();
    let pid = std::process::id();
    let text = fs::read(directory.path().join("LOCK")).unwrap();
    assert_eq!(text, format!("{pid}\n").into_bytes());
    assert_eq!(disk.lock().unwrap().unwrap_err(), Some(pid));
    assert_eq!(other.lock().unwrap().unwrap_err(), Some(pid));
    drop(lock);
    let lock = other.lock().unwrap().unwrap();
    fs::write(directory.path().join("LOCK"), "no number").unwrap();
    assert_eq!(disk.lock().unwrap().unwrap_err(), None);
    drop(lock);
}

#[test]
fn a_path_is_absent_empty_full_or_no_directory() {
    let (directory, disk) = disk();
    let state = |path: &Path| StdDisk::directory_state(path).unwrap();
    let path = directory.path();
    assert_eq!(state(path), DirectoryState::Empty);
    disk.open(A, OpenMode::Create).unwrap();
    disk.open(FileName::Current, OpenMode::Create).unwrap();
    let names = vec!["CURRENT".to_owned(), A.to_string()];
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(state(path), DirectoryState::Holds(sorted));
    assert_eq!(state(&path.join("none")), DirectoryState::Absent);
    assert_eq!(state(&path.join("none/below")), DirectoryState::Absent);
    assert_eq!(state(&path.join("CURRENT")), DirectoryState::NotADirectory);
    assert_eq!(state(&path.join("CURRENT/below")), DirectoryState::NotADirectory);
}

#[test]
fn the_parent_of_a_plain_name_is_here() {
    assert_eq!(parent(Path::new("store")), Path::new("."));
    assert_eq!(parent(Path::new("a/store")), Path::new("a"));
    assert_eq!(parent(Path::new("/")), Path::new("/"));
}

#[test]
fn identities_are_random() {
    let (_directory, disk) = disk();
    assert_ne!(disk.random().unwrap(), disk.random().unwrap());
    assert!(!disk.describe().is_empty());
}
