//! A directory of the machine, by positioned I/O.
//!
//! Files are opened relative to the directory's descriptor, so a store that is renamed while open
//! stays the same store. A name that is a link, or anything but a regular file, is refused.
//!
//! - S1: nothing is opened through a link, nothing created over another file, nothing appended by
//!   the kernel's own cursor.
//! - S2: files are made 0600, directories 0700.
//! - S3: a directory that [`StdDisk::create`] returns is named durably: each directory's parent is
//!   synced before the next one is made in it, so a death on the way leaves at most the last one
//!   unsynced, and that one's parent is synced by the next call.
//! - S4: at most one lock on a directory, whichever processes or handles ask.

use std::fs::TryLockError;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{self as sys, AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{DiskError, Operation, is_no_space};
use crate::file_name::FileName;
use crate::helper::Helper;
use crate::vfs::{Batch, Disk, File, Lock, OpenMode};

/// How often a held lock is tried before it counts as another's.
const LOCK_TRIES: u32 = 26;
/// The wait between two tries: 250 ms in all. The kernel may keep the files of a process that is
/// gone for some milliseconds when requests of its were still in flight.
const LOCK_WAIT: Duration = Duration::from_millis(10);
/// The longest text that is read back as a process id.
const PID_TEXT_BYTES_MAX: u64 = 20;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;

/// What stands at a path where a store might be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    /// Nothing.
    Absent,
    /// A directory without entries.
    Empty,
    /// Something else than a directory.
    NotADirectory,
    /// A directory with these entries, sorted.
    Holds(Vec<String>),
}

/// A directory of the machine.
#[derive(Debug)]
pub struct StdDisk {
    path: PathBuf,
    directory: OwnedFd,
    helper: Helper,
}

impl StdDisk {
    /// Opens an existing directory; the path itself may be a link to it.
    ///
    /// # Errors
    ///
    /// The machine's, such as that there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, DiskError> {
        let path = path.as_ref();
        let directory = open_directory(path).map_err(|errno| {
            DiskError::new(Operation::OpenDirectory, path.display(), errno.into())
        })?;
        Ok(Arc::new(Self { path: path.to_owned(), directory, helper: Helper::default() }))
    }

    /// Opens a directory, after making it and its missing parents. When it returns, the name of
    /// whatever it made is durable.
    ///
    /// # Errors
    ///
    /// The machine's, for the directory that could not be made, synced or opened.
    pub fn create(path: impl AsRef<Path>) -> Result<Arc<Self>, DiskError> {
        let path = path.as_ref();
        let mut missing = Vec::new();
        let mut existing = path;
        while !exists(existing)? {
            missing.push(existing);
            existing = parent(existing);
        }
        // The last directory that exists may be one that an earlier call made and did not live to
        // sync. Where its parent may not be read, that call could not have made it.
        match sync_directory(parent(existing)) {
            Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {}
            result => result?,
        }
        for directory in missing.into_iter().rev() {
            match retry_on_intr(|| sys::mkdirat(sys::CWD, directory, DIRECTORY_MODE)) {
                Ok(()) | Err(Errno::EXIST) => sync_directory(parent(directory))?,
                Err(errno) => {
                    let operation = Operation::CreateDirectory;
                    return Err(DiskError::new(operation, directory.display(), errno.into()));
                }
            }
        }
        Self::open(path)
    }

    /// Looks at a path without changing anything.
    ///
    /// # Errors
    ///
    /// The machine's, when it may not be looked at.
    pub fn directory_state(path: impl AsRef<Path>) -> Result<DirectoryState, DiskError> {
        let path = path.as_ref();
        match open_directory(path) {
            Err(Errno::NOENT) => Ok(DirectoryState::Absent),
            Err(Errno::NOTDIR) => Ok(DirectoryState::NotADirectory),
            Err(errno) => {
                Err(DiskError::new(Operation::OpenDirectory, path.display(), errno.into()))
            }
            Ok(directory) => {
                let names = list(&directory).map_err(|errno| {
                    DiskError::new(Operation::List, path.display(), errno.into())
                })?;
                if names.is_empty() {
                    Ok(DirectoryState::Empty)
                } else {
                    Ok(DirectoryState::Holds(names))
                }
            }
        }
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells this directory from all others on the machine, whatever its path.
    #[cfg(test)]
    fn device_and_inode(&self) -> Result<(u64, u64), DiskError> {
        let stat = sys::fstat(&self.directory)
            .map_err(|errno| self.error(Operation::OpenDirectory, errno))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn error(&self, operation: Operation, errno: Errno) -> DiskError {
        DiskError::new(operation, self.path.display(), errno.into())
    }

    /// Opens a regular file of the directory without following links (S1).
    fn open_regular(&self, name: FileName, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // Without NONBLOCK, opening a pipe of that name would wait for its other end.
        let guarded = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file =
            retry_on_intr(|| sys::openat(&self.directory, name.to_string(), guarded, FILE_MODE))?;
        let stat = sys::fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            // A device, a pipe, a socket.
            _ => return Err(Errno::NXIO),
        }
        // Some I/O engines take NONBLOCK to heart even on regular files.
        sys::fcntl_setfl(&file, OFlags::empty())?;
        Ok(file)
    }
}

impl Disk for StdDisk {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn engine(&self) -> &'static str {
        "positioned"
    }

    fn run(&self, batch: Batch) -> Vec<Result<Vec<Bytes>, DiskError>> {
        self.helper.run(batch)
    }

    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError> {
        let (operation, flags) = match mode {
            OpenMode::Read => (Operation::Open, OFlags::RDONLY),
            OpenMode::Write => (Operation::Open, OFlags::RDWR),
            OpenMode::Create => (Operation::Create, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL),
        };
        let file = self
            .open_regular(name, flags)
            .map_err(|errno| DiskError::new(operation, name, errno.into()))?;
        Ok(Arc::new(StdFile { name, file }))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        list(&self.directory).map_err(|errno| self.error(Operation::List, errno))
    }

    fn rename(&self, from: FileName, to: FileName) -> Result<(), DiskError> {
        let (from_text, to_text) = (from.to_string(), to.to_string());
        retry_on_intr(|| sys::renameat(&self.directory, &from_text, &self.directory, &to_text))
            .map_err(|errno| DiskError::new(Operation::Rename, from, errno.into()))
    }

    fn remove(&self, name: FileName) -> Result<(), DiskError> {
        retry_on_intr(|| sys::unlinkat(&self.directory, name.to_string(), AtFlags::empty()))
            .map_err(|errno| DiskError::new(Operation::Remove, name, errno.into()))
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        retry_on_intr(|| sys::fsync(&self.directory))
            .map_err(|errno| self.error(Operation::SyncDirectory, errno))
    }

    fn lock(&self) -> Result<Result<Box<dyn Lock>, Option<u32>>, DiskError> {
        let failed = |source| DiskError::new(Operation::Lock, FileName::Lock, source);
        let file = self
            .open_regular(FileName::Lock, OFlags::RDWR | OFlags::CREATE)
            .map_err(|errno| failed(errno.into()))?;
        let lock = StdLock { file: file.into() };
        if !try_for_a_while(|| lock.file.try_lock(), wait_for_lock).map_err(failed)? {
            return Ok(Err(lock.written_pid()));
        }
        lock.write_pid().map_err(failed)?;
        Ok(Ok(Box::new(lock)))
    }

    fn random(&self) -> Result<[u8; 16], DiskError> {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            let rest = &mut bytes[filled..];
            filled += retry_on_intr(|| rustix::rand::getrandom(&mut *rest, flags))
                .map_err(|errno| self.error(Operation::Read, errno))?;
        }
        Ok(bytes)
    }
}

#[derive(Debug)]
struct StdFile {
    name: FileName,
    file: OwnedFd,
}

impl StdFile {
    fn error(&self, operation: Operation, errno: Errno) -> DiskError {
        DiskError::new(operation, self.name, errno.into())
    }

    fn extend(&self, len_bytes: u64) -> rustix::io::Result<()> {
        if self.stat_len()? < len_bytes {
            retry_on_intr(|| sys::ftruncate(&self.file, len_bytes))?;
        }
        Ok(())
    }

    fn stat_len(&self) -> rustix::io::Result<u64> {
        let stat = sys::fstat(&self.file)?;
        Ok(u64::try_from(stat.st_size).expect("a length is not negative"))
    }
}

impl File for StdFile {
    fn name(&self) -> FileName {
        self.name
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        self.stat_len().map_err(|errno| self.error(Operation::Length, errno))
    }

    fn set_len(&self, len_bytes: u64) -> Result<(), DiskError> {
        retry_on_intr(|| sys::ftruncate(&self.file, len_bytes))
            .map_err(|errno| self.error(Operation::SetLength, errno))
    }

    fn allocate(&self, len_bytes: u64) -> Result<(), DiskError> {
        let failed = |errno| self.error(Operation::Allocate, errno);
        if len_bytes == 0 {
            return Ok(());
        }
        let before = self.stat_len().map_err(failed)?;
        let allocated =
            retry_on_intr(|| sys::fallocate(&self.file, FallocateFlags::empty(), 0, len_bytes));
        match allocated {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.extend(len_bytes).map_err(failed),
            Err(errno) => {
                // Some file systems have by now grown the file by what they did find. If it cannot
                // be cut back, the first error is still the one to tell.
                let _cut = retry_on_intr(|| sys::ftruncate(&self.file, before));
                Err(failed(errno))
            }
        }
    }

    fn read_at(&self, offset_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
        Ok(rustix::io::pread(&self.file, spare_capacity(buffer), offset_bytes)?)
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::pwrite(&self.file, data, offset_bytes)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(sys::fdatasync(&self.file)?)
    }
}

/// The lock file, locked. The lock belongs to the open file, so a second one in this process is
/// refused like any other (S4).
#[derive(Debug)]
#[expect(clippy::disallowed_types, reason = "the standard library's file has the portable lock")]
struct StdLock {
    file: std::fs::File,
}

impl Lock for StdLock {}

impl Drop for StdLock {
    fn drop(&mut self) {
        // Closing would release it too, but not while a child process still has a copy of it.
        let _unlocked = self.file.unlock();
    }
}

impl StdLock {
    /// Writes before it cuts, so that the block which the file already has is used again: on a full
    /// disk there may be no other. The text only serves messages, so a lack of space is no failure.
    fn write_pid(&self) -> io::Result<()> {
        let text = format!("{}\n", std::process::id());
        let written = self
            .file
            .write_all_at(text.as_bytes(), 0)
            .and_then(|()| self.file.set_len(text.len() as u64));
        match written {
            Err(error) if is_no_space(&error) => Ok(()),
            written => written,
        }
    }

    fn written_pid(&self) -> Option<u32> {
        let mut text = String::new();
        (&self.file).take(PID_TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
        text.lines().next()?.parse().ok()
    }
}

/// Tries a bounded number of times, waiting in between; whether it was had.
fn try_for_a_while(
    mut try_lock: impl FnMut() -> Result<(), TryLockError>,
    mut wait: impl FnMut(),
) -> io::Result<bool> {
    for attempt in 0..LOCK_TRIES {
        if attempt > 0 {
            wait();
        }
        match try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

#[expect(clippy::disallowed_methods, reason = "nothing tells of a lock's release")]
fn wait_for_lock() {
    std::thread::sleep(LOCK_WAIT);
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry_on_intr(|| sys::openat(sys::CWD, path, flags, Mode::empty()))
}

fn exists(path: &Path) -> Result<bool, DiskError> {
    match sys::statat(sys::CWD, path, AtFlags::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(DiskError::new(Operation::OpenDirectory, path.display(), errno.into())),
    }
}

/// The directory that holds the last name of `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn sync_directory(path: &Path) -> Result<(), DiskError> {
    open_directory(path)
        .and_then(|directory| retry_on_intr(|| sys::fsync(&directory)))
        .map_err(|errno| DiskError::new(Operation::SyncDirectory, path.display(), errno.into()))
}

/// All names but `.` and `..`, sorted.
fn list(directory: impl AsFd) -> rustix::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in sys::Dir::read_from(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
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
        let disk = StdDisk::open(directory.path()).unwrap();
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
        let disk = StdDisk::create(&path).unwrap();
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
        let again = StdDisk::create(directory.path()).unwrap();
        assert_eq!(again.list().unwrap(), [A.to_string()]);
        assert_eq!(again.device_and_inode().unwrap(), disk.device_and_inode().unwrap());
        assert_eq!(again.path(), directory.path());
        let error = StdDisk::create(directory.path().join(A.to_string())).unwrap_err();
        assert_eq!(error.operation, Operation::OpenDirectory);
        assert!(StdDisk::create(directory.path().join(A.to_string()).join("below")).is_err());
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
        StdDisk::create(&store).unwrap();
        symlink(&store, &link).unwrap();
        let linked = StdDisk::open(&link).unwrap();
        fs::rename(&store, directory.path().join("moved")).unwrap();
        linked.open(A, OpenMode::Create).unwrap();
        assert_eq!(linked.list().unwrap(), [A.to_string()]);
        assert_ne!(linked.device_and_inode().unwrap(), disk.device_and_inode().unwrap());
        assert!(StdDisk::open(&link).unwrap_err().is_not_found());
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
        let other = StdDisk::open(directory.path()).unwrap();
        fs::write(directory.path().join("LOCK"), "a longer text that stood there before\n")
            .unwrap();
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
    fn a_held_lock_is_tried_again_a_bounded_number_of_times() {
        let interrupted = || TryLockError::Error(io::ErrorKind::Interrupted.into());
        let mut answers =
            vec![Ok(()), Err(TryLockError::WouldBlock), Err(interrupted())].into_iter().rev();
        let mut waits = 0;
        assert!(try_for_a_while(|| answers.next().unwrap(), || waits += 1).unwrap());
        assert_eq!(waits, 2);

        let (mut tries, mut waits) = (0, 0);
        let held = || {
            tries += 1;
            Err(TryLockError::WouldBlock)
        };
        assert!(!try_for_a_while(held, || waits += 1).unwrap());
        assert_eq!((tries, waits), (LOCK_TRIES, LOCK_TRIES - 1));

        let broken = || Err(TryLockError::Error(Errno::NOLCK.into()));
        assert!(try_for_a_while(broken, || ()).is_err());
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
        assert_eq!(disk.engine(), "positioned");
        assert!(!disk.describe().is_empty());
    }
}
