//! A directory of the machine.
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
//! - S4: at most one lock on a directory: see `lock`.
//! - S5: a mapped file keeps no descriptor. What its map cannot give it is opened again for.

mod lock;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{self as sys, AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{DiskError, Operation};
use crate::file_name::FileName;
use crate::io_engine::{Engine, IoOptions};
use crate::map::{Map, MapCounters, Mapped};
use crate::vfs::{Batch, Disk, File, Lock, OpenMode};
use lock::StdLock;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;

/// What the kernel counts a file's space in.
const STAT_BLOCK_BYTES: u64 = 512;

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
    directory: Arc<OwnedFd>,
    engine: Engine,
    /// Counts what is mapped; none if nothing is to be.
    maps: Option<Arc<MapCounters>>,
}

impl StdDisk {
    /// Opens an existing directory; the path itself may be a link to it. Its files are
    /// read and written as `io` says.
    ///
    /// # Errors
    ///
    /// The machine's, such as that there is none; what the environment says of [`IoOptions`] is not understood, or refused.
    pub fn open(path: impl AsRef<Path>, io: IoOptions) -> Result<Arc<Self>, DiskError> {
        let path = path.as_ref();
        let directory = open_directory(path).map_err(|errno| {
            DiskError::new(Operation::OpenDirectory, path.display(), errno.into())
        })?;
        let engine = Engine::new(io.engine)?;
        let maps = io.maps()?.then(Arc::default);
        Ok(Arc::new(Self { path: path.to_owned(), directory: Arc::new(directory), engine, maps }))
    }

    /// Opens a directory, after making it and its missing parents. When it returns, the name of
    /// whatever it made is durable.
    ///
    /// # Errors
    ///
    /// The machine's, for the directory that could not be made, synced or opened.
    pub fn create(path: impl AsRef<Path>, io: IoOptions) -> Result<Arc<Self>, DiskError> {
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
        Self::open(path, io)
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

    /// Maps a sealed file; where that cannot be, it is read by positioned calls.
    fn map(&self, name: FileName, file: &OwnedFd) -> Option<Map> {
        let maps = self.maps.as_ref()?;
        let len_bytes = usize::try_from(sys::fstat(file).ok()?.st_size).ok()?;
        Map::new(file.as_fd(), len_bytes, maps).unwrap_or_else(|error| {
            tracing::debug!(file = %name, %error, "a file cannot be mapped");
            None
        })
    }
}

impl Disk for StdDisk {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn engine(&self) -> &'static str {
        self.engine.name()
    }

    fn mapped(&self) -> Mapped {
        self.maps.as_ref().map_or_else(Mapped::default, |maps| maps.mapped())
    }

    fn run(&self, batch: Batch) -> Vec<Result<Vec<Bytes>, DiskError>> {
        self.engine.run(batch)
    }

    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError> {
        let (operation, flags) = match mode {
            OpenMode::Read | OpenMode::Sealed => (Operation::Open, OFlags::RDONLY),
            OpenMode::Write => (Operation::Open, OFlags::RDWR),
            OpenMode::Create => (Operation::Create, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL),
        };
        let file = open_regular(&self.directory, name, flags)
            .map_err(|errno| DiskError::new(operation, name, errno.into()))?;
        if mode == OpenMode::Sealed
            && let Some(map) = self.map(name, &file)
        {
            let directory = Arc::clone(&self.directory);
            return Ok(Arc::new(MappedFile { name, directory, map }));
        }
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
        let file = open_regular(&self.directory, FileName::Lock, OFlags::RDWR | OFlags::CREATE)
            .map_err(|errno| failed(errno.into()))?;
        let locked = StdLock::of(file).map_err(failed)?;
        Ok(locked.map(|lock| Box::new(lock) as Box<dyn Lock>))
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

    fn allocated_bytes(&self) -> Result<u64, DiskError> {
        let stat = sys::fstat(&self.file).map_err(|errno| self.error(Operation::Length, errno))?;
        Ok(u64::try_from(stat.st_blocks).expect("a count is not negative") * STAT_BLOCK_BYTES)
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

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// A sealed file in memory (S5).
#[derive(Debug)]
struct MappedFile {
    name: FileName,
    directory: Arc<OwnedFd>,
    map: Map,
}

impl MappedFile {
    fn refused(&self, operation: Operation) -> DiskError {
        DiskError::new(operation, self.name, Errno::BADF.into())
    }
}

impl File for MappedFile {
    fn name(&self) -> FileName {
        self.name
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.map.len_bytes())
    }

    fn set_len(&self, _len_bytes: u64) -> Result<(), DiskError> {
        Err(self.refused(Operation::SetLength))
    }

    fn allocate(&self, _len_bytes: u64) -> Result<(), DiskError> {
        Err(self.refused(Operation::Allocate))
    }

    fn read_at(&self, offset_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let file = open_regular(&self.directory, self.name, OFlags::RDONLY)?;
        Ok(rustix::io::pread(&file, spare_capacity(buffer), offset_bytes)?)
    }

    fn write_at(&self, _offset_bytes: u64, _data: &[u8]) -> io::Result<usize> {
        Err(Errno::BADF.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(Errno::BADF.into())
    }

    fn map(&self) -> Option<&Map> {
        Some(&self.map)
    }
}

/// A file that stands in no directory and holds these bytes.
pub(crate) fn file_in_memory(bytes: &[u8]) -> io::Result<Arc<dyn File>> {
    let file = sys::memfd_create("pinstone", sys::MemfdFlags::CLOEXEC)?;
    let file = StdFile { name: FileName::Lock, file };
    crate::vfs::write_all_at(&file, 0, bytes).map_err(|error| error.source)?;
    Ok(Arc::new(file))
}

/// Opens a regular file of the directory without following links (S1).
fn open_regular(directory: &OwnedFd, name: FileName, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    // Without NONBLOCK, opening a pipe of that name would wait for its other end.
    let guarded = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = retry_on_intr(|| sys::openat(directory, name.to_string(), guarded, FILE_MODE))?;
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
