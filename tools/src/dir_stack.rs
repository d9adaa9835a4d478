//! Which directory is which, and the open ones on the path from a root to the place being read or
//! written.
//!
//! Everything below the root is reached by one name at a time, relative to an open directory and
//! never through a symlink: so a path may be longer than the system's limit, and nobody who renames
//! or replaces directories meanwhile can lead the walk elsewhere.
//!
//! Invariants:
//! - D1: at most [`OPEN_MAX`] directories and the root are held open here, however deep the path. One
//!   that was closed is opened again by its names from the nearest open one.
//! - D2: a directory opened again is the one that was closed (device and inode), else it is an error.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// How many levels above the deepest are kept open, beside the root.
const OPEN_MAX: usize = 64;

/// A file or directory, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of what `path` leads to; `None` if that cannot be told.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        rustix::fs::stat(path).ok().map(|stat| Self::of(&stat))
    }

    /// Of the file that `stat` tells of.
    pub(crate) fn of(stat: &Stat) -> Self {
        // The types differ between systems; both are numbers that are only compared.
        #[allow(clippy::unnecessary_cast)]
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

#[derive(Debug)]
struct Level {
    name: Box<[u8]>,
    id: FileId,
    dir: Option<Arc<OwnedFd>>,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct DirStack {
    levels: Vec<Level>,
}

impl DirStack {
    /// A path that consists of its root.
    pub(crate) fn new(root: OwnedFd, id: FileId) -> Self {
        Self { levels: vec![Level { name: Box::default(), id, dir: Some(Arc::new(root)) }] }
    }

    /// Adds the directory `name` of the deepest one.
    pub(crate) fn push(&mut self, name: &[u8], dir: OwnedFd, id: FileId) {
        self.levels.push(Level { name: name.into(), id, dir: Some(Arc::new(dir)) });
        let closing = self.levels.len().saturating_sub(1 + OPEN_MAX);
        if closing > 0 {
            self.levels[closing].dir = None;
        }
    }

    /// Leaves the deepest directory.
    pub(crate) fn pop(&mut self) {
        self.levels.pop();
    }

    /// The deepest directory.
    pub(crate) fn top(&mut self) -> io::Result<Arc<OwnedFd>> {
        let nearest = self.levels.iter().rposition(|level| level.dir.is_some());
        let nearest = nearest.ok_or_else(|| io::Error::other("no directory is open"))?;
        let depth = self.levels.len();
        let mut current = self.levels[nearest].dir.clone();
        for index in nearest + 1..depth {
            let above = current.ok_or_else(|| io::Error::other("no directory is open"))?;
            let level = &mut self.levels[index];
            let (dir, stat) = open_dir_at(&above, &level.name)?;
            if FileId::of(&stat) != level.id {
                return Err(io::Error::other("another directory took its place"));
            }
            let dir = Arc::new(dir);
            if index + OPEN_MAX >= depth {
                level.dir = Some(Arc::clone(&dir));
            }
            current = Some(dir);
        }
        current.ok_or_else(|| io::Error::other("no directory is open"))
    }
}

/// Opens the directory `name` in `dir`; a symlink is refused.
pub(crate) fn open_dir_at(dir: &OwnedFd, name: &[u8]) -> io::Result<(OwnedFd, Stat)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    Ok((opened, stat))
}

/// Whether the directory is the one that `id` names, or lies below it, by whatever path it was opened.
/// What lies above a directory that may not be passed through counts as another.
pub(crate) fn is_within(dir: OwnedFd, id: FileId) -> io::Result<bool> {
    let mut here = (FileId::of(&rustix::fs::fstat(&dir)?), dir);
    while here.0 != id {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = match rustix::fs::openat(&here.1, "..", flags, Mode::empty()) {
            Ok(above) => (FileId::of(&rustix::fs::fstat(&above)?), above),
            Err(Errno::ACCESS) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        // Above the top of all directories is the top itself.
        if above.0 == here.0 {
            return Ok(false);
        }
        here = above;
    }
    Ok(true)
}

/// What kind of file `stat` tells of.
pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_within_itself_and_those_above_it() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for dir in ["a/b/c", "a2"] {
            std::fs::create_dir_all(path(dir)).unwrap();
        }
        std::os::unix::fs::symlink("a/b", path("link")).unwrap();
        let id = FileId::at(&path("a")).unwrap();
        for (dir, expected) in [
            ("a", true),
            ("a/b/c", true),
            ("link", true),
            ("link/../../a", true),
            ("a2", false),
            (".", false),
        ] {
            let opened = rustix::fs::open(path(dir), OFlags::PATH, Mode::empty()).unwrap();
            assert_eq!(is_within(opened, id).unwrap(), expected, "{dir}");
        }
    }

    #[test]
    fn a_closed_directory_is_opened_again_or_refused() {
        let root = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = rustix::fs::open(root.path(), flags, Mode::empty()).unwrap();
        let id = FileId::of(&rustix::fs::fstat(&opened).unwrap());
        let mut stack = DirStack::new(opened, id);
        let mut ids = vec![id];
        for _ in 0..3 * OPEN_MAX {
            let top = stack.top().unwrap();
            rustix::fs::mkdirat(&top, "d", Mode::RWXU).unwrap();
            let (dir, stat) = open_dir_at(&top, b"d").unwrap();
            ids.push(FileId::of(&stat));
            stack.push(b"d", dir, FileId::of(&stat));
            assert!(stack.levels.iter().filter(|l| l.dir.is_some()).count() <= OPEN_MAX + 1);
        }
        for &id in ids[OPEN_MAX..].iter().rev() {
            let top = stack.top().unwrap();
            assert_eq!(FileId::of(&rustix::fs::fstat(&top).unwrap()), id);
            assert!(stack.levels.iter().filter(|l| l.dir.is_some()).count() <= OPEN_MAX + 1);
            stack.pop();
        }
        // All below the root are closed or soon will be; another directory takes the first's place.
        for level in &mut stack.levels[1..] {
            level.dir = None;
        }
        rustix::fs::rename(root.path().join("d"), root.path().join("e")).unwrap();
        rustix::fs::mkdir(root.path().join("d"), Mode::RWXU).unwrap();
        assert!(stack.top().is_err());
    }
}
