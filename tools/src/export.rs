//! `pinstone export`: a tree value becomes a directory again, with all below it.
//!
//! 1. The root's tree value is read and checked before anything is created.
//! 2. The walk goes down the tree, depth first. A directory is made with mode 0700, opened, filled,
//!    and gets its own mode and time when all in it is done; so a directory that may not be written
//!    is filled too, and its time is the one that was kept.
//! 3. Files are created, written, and then get their mode and time; symlinks get their time.
//!
//! Invariants:
//! - E1: whatever the values hold, nothing is created, changed or opened outside the directory: every
//!   name is one component (T3 of the tree format), every call is relative to an open directory that
//!   the export made itself, files are created with `O_EXCL` and directories opened with
//!   `O_NOFOLLOW`.
//! - E2: what was read is hashed again before it is written.
//! - E3: what is missing or damaged is reported and left out, with all below it, and the export goes
//!   on: of a damaged store one wants what there is. The end tells that something is missing.
//! - E4: no file is there in part: one that could not be written whole is removed.
//!
//! Nothing is synced: like `cp` and `tar`, the export is on stable storage once the system has
//! written it out (`sync -f DIR` waits for that).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pinstone::{Bytes, Digest, Store, Verify};
use rustix::fs::{AtFlags, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::dir_stack::{DirStack, FileId, is_within, open_dir_at};
use crate::exit::chain;
use crate::import::meta_of;
use crate::text::{escape, shown};
use crate::tree::{self, Cursor, Entry, Meta, Node, TreeError};
use crate::watch::{Notice, NoticeKind, Watch};

/// setuid and setgid: what makes a program run as its owner.
const SETID_BITS: u16 = 0o6000;

/// How to export.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Leave the setuid and setgid bits of files unset. Owners are not kept, so that with these bits
    /// a program runs as whoever exported it.
    pub drop_setuid: bool,
}

/// What an export did.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct ExportSummary {
    /// Regular files made.
    pub files: u64,
    /// Directories made, the root included.
    pub directories: u64,
    /// Symlinks made.
    pub symlinks: u64,
    /// Bytes of the files.
    pub bytes_out: u64,
    /// Entries left out because a value is missing or damaged.
    pub damaged: u64,
    /// Entries left out because the file system did not take them.
    pub left_out: u64,
    /// Entries made whose mode or time the file system did not take.
    pub altered: u64,
    /// Files made with a setuid or setgid bit.
    pub setuid: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Why an export did not begin or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The store does not hold the value.
    #[error("the store holds no value {digest}")]
    ValueAbsent {
        /// The digest asked for.
        digest: Digest,
    },
    /// The value asked for is no directory's.
    #[error("{digest} is no directory")]
    NotATree {
        /// The digest asked for.
        digest: Digest,
        /// What is wrong with it as one.
        #[source]
        source: TreeError,
    },
    /// The target directory holds something.
    #[error("{} is not empty", shown(path))]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The target is the store's directory, or lies in it.
    #[error("cannot export into {}: it is the store, or lies in it", shown(path))]
    InStore {
        /// The directory.
        path: PathBuf,
    },
    /// The machine refused.
    #[error("cannot {what} {path}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With what, for reading.
        path: String,
        /// Why it could not be done.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] pinstone::Error),
}

/// Makes `dir` (absent or empty, and not in `store_dir`, where the store's files lie) and fills it
/// with what the tree value `root` names.
///
/// # Errors
/// See [`ExportError`]; what was made so far stays.
pub fn export(
    store: &Store,
    store_dir: &Path,
    root: &Digest,
    dir: &Path,
    options: &ExportOptions,
    watch: &mut dyn Watch,
) -> Result<ExportSummary, ExportError> {
    let start = Instant::now();
    let value = store.get_verified(root, Verify::Digest)?;
    let value = value.ok_or(ExportError::ValueAbsent { digest: *root })?;
    let not_a_tree = |source| ExportError::NotATree { digest: *root, source };
    tree::check(&value).map_err(not_a_tree)?;
    let (header, cursor) = Cursor::new(&value).map_err(not_a_tree)?;
    let (opened, stat) = open_target(dir, FileId::at(store_dir))?;

    let mut walk = Walk {
        store,
        dir,
        options,
        stack: DirStack::new(opened, FileId::of(&stat)),
        levels: vec![Level { name: Box::default(), meta: header.meta, value, cursor }],
        summary: ExportSummary::default(),
        watch,
    };
    walk.run()?;
    let mut summary = walk.summary;
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

/// Makes the directory that is to be filled, or makes sure that it is empty.
fn open_target(dir: &Path, store_id: Option<FileId>) -> Result<(OwnedFd, Stat), ExportError> {
    let failed = |what: &'static str| {
        let path = shown(dir);
        move |source: io::Error| ExportError::Io { what, path, source }
    };
    let refuse_store = |there: OwnedFd| -> Result<(), ExportError> {
        match store_id.map(|id| is_within(there, id)) {
            Some(Ok(true)) => Err(ExportError::InStore { path: dir.to_owned() }),
            Some(Err(source)) => Err(failed("look above the directory")(source)),
            Some(Ok(false)) | None => Ok(()),
        }
    };
    refuse_store(nearest(dir).map_err(failed("open the directory above"))?)?;
    if let Some(parent) = dir.parent()
        && !parent.as_os_str().is_empty()
    {
        std::fs::create_dir_all(parent).map_err(failed("create the directory above"))?;
    }
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("create the directory")(errno.into())),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || -> io::Result<(OwnedFd, Stat, bool)> {
        let opened = rustix::fs::open(dir, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&opened)?;
        let mut is_empty = true;
        for entry in rustix::fs::Dir::new(opened.try_clone()?)? {
            is_empty &= matches!(entry?.file_name().to_bytes(), b"." | b"..");
        }
        Ok((opened, stat, is_empty))
    };
    let (opened, stat, is_empty) = open().map_err(failed("open the directory"))?;
    // It may have been reached by links that were made meanwhile.
    refuse_store(opened.try_clone().map_err(failed("open the directory"))?)?;
    if !is_empty {
        return Err(ExportError::NotEmpty { path: dir.to_owned() });
    }
    Ok((opened, stat))
}

/// The directory, or what there is of those above it.
fn nearest(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let named = dir.ancestors().filter(|above| !above.as_os_str().is_empty());
    for above in named {
        match rustix::fs::open(above, flags, Mode::empty()) {
            Ok(opened) => return Ok(opened),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(rustix::fs::open(".", flags, Mode::empty())?)
}

/// One directory on the path of the walk.
struct Level {
    name: Box<[u8]>,
    meta: Meta,
    value: Bytes,
    cursor: Cursor,
}

struct Walk<'a> {
    store: &'a Store,
    dir: &'a Path,
    options: &'a ExportOptions,
    stack: DirStack,
    levels: Vec<Level>,
    summary: ExportSummary,
    watch: &'a mut dyn Watch,
}

/// Why one entry was not made, or why none will be.
enum Refusal {
    /// Its value is missing or damaged.
    Damaged(String),
    /// The file system does not take it.
    LeftOut(Errno),
    /// The export ends here.
    Fatal(ExportError),
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), ExportError> {
        while let Some(mut level) = self.levels.pop() {
            let value = level.value.clone();
            // The whole value was checked before its first entry was made.
            let entry = level
                .cursor
                .next(&value)
                .map_err(|source| ExportError::NotATree { digest: Digest::of(&value), source })?;
            let Some(entry) = entry else {
                self.leave(&level)?;
                continue;
            };
            self.levels.push(level);
            match self.make(&entry) {
                Ok(()) => self.watch.progress(self.summary.files, self.summary.bytes_out),
                Err(Refusal::Damaged(what)) => {
                    self.report(NoticeKind::Damaged, entry.name, &what);
                    self.summary.damaged += 1;
                }
                Err(Refusal::LeftOut(errno)) => {
                    let why = io::Error::from(errno).to_string();
                    self.report(NoticeKind::LeftOut, entry.name, &why);
                    self.summary.left_out += 1;
                }
                Err(Refusal::Fatal(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn make(&mut self, entry: &Entry<'_>) -> Result<(), Refusal> {
        match entry.node {
            Node::File { meta, len_bytes, digest } => {
                let value = self.read(&digest)?;
                if value.len() as u64 != len_bytes {
                    let what = format!(
                        "the tree says {len_bytes} bytes, its value {digest} has {}",
                        value.len()
                    );
                    return Err(Refusal::Damaged(what));
                }
                self.make_file(entry.name, &meta, &value)
            }
            Node::Directory { digest } => {
                let value = self.read(&digest)?;
                let damaged =
                    |error: TreeError| Refusal::Damaged(format!("its value {digest}: {error}"));
                tree::check(&value).map_err(damaged)?;
                let (header, cursor) = Cursor::new(&value).map_err(damaged)?;
                self.make_directory(entry.name, header.meta, value, cursor)
            }
            Node::Symlink { meta, target } => self.make_symlink(entry.name, &meta, target),
        }
    }

    fn make_file(&mut self, name: &[u8], meta: &Meta, content: &[u8]) -> Result<(), Refusal> {
        let dir = self.top()?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.refused("create", name, errno))?;
        if let Err(errno) = write_all(&file, content) {
            drop(file);
            // What stands there is ours, and a part is worth nothing; the first error is told.
            let _ = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
            return Err(self.refused("write", name, errno));
        }
        let mut meta = *meta;
        if self.options.drop_setuid {
            meta.mode &= !SETID_BITS;
        }
        let kept = set_meta(&file, &meta);
        self.note_altered(name, kept);
        if meta.mode & SETID_BITS != 0 {
            self.summary.setuid += 1;
        }
        self.summary.files += 1;
        self.summary.bytes_out += content.len() as u64;
        Ok(())
    }

    fn make_directory(
        &mut self,
        name: &[u8],
        meta: Meta,
        value: Bytes,
        cursor: Cursor,
    ) -> Result<(), Refusal> {
        let dir = self.top()?;
        rustix::fs::mkdirat(&dir, name, Mode::RWXU)
            .map_err(|errno| self.refused("create", name, errno))?;
        let (opened, stat) = open_dir_at(&dir, name)
            .map_err(|source| Refusal::Fatal(self.failed("open", name, source)))?;
        self.stack.push(name, opened, FileId::of(&stat));
        self.levels.push(Level { name: name.into(), meta, value, cursor });
        Ok(())
    }

    fn make_symlink(&mut self, name: &[u8], meta: &Meta, target: &[u8]) -> Result<(), Refusal> {
        let dir = self.top()?;
        rustix::fs::symlinkat(target, &dir, name)
            .map_err(|errno| self.refused("create", name, errno))?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let kept = rustix::fs::utimensat(&dir, name, &times(meta), flags)
            .and_then(|()| rustix::fs::statat(&dir, name, flags))
            .map(|stat| Meta { mode: meta.mode, ..meta_of(&stat) } == *meta);
        self.note_altered(name, kept);
        self.summary.symlinks += 1;
        Ok(())
    }

    /// Gives the deepest directory, whose level was taken off already, its own mode and time.
    fn leave(&mut self, level: &Level) -> Result<(), ExportError> {
        let dir = self.stack.top();
        let dir = dir.map_err(|source| self.failed("open again", &level.name, source))?;
        let kept = set_meta(&dir, &level.meta);
        self.note_altered(&level.name, kept);
        self.stack.pop();
        self.summary.directories += 1;
        Ok(())
    }

    /// The value, hashed again.
    fn read(&self, digest: &Digest) -> Result<Bytes, Refusal> {
        match self.store.get_verified(digest, Verify::Digest) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Refusal::Damaged(format!("the store holds no value {digest}"))),
            Err(error @ (pinstone::Error::Corrupt { .. } | pinstone::Error::Io { .. })) => {
                Err(Refusal::Damaged(format!("its value {digest}: {}", chain(&error))))
            }
            Err(error) => Err(Refusal::Fatal(error.into())),
        }
    }

    fn top(&mut self) -> Result<std::sync::Arc<OwnedFd>, Refusal> {
        let dir = self.stack.top();
        dir.map_err(|source| Refusal::Fatal(self.failed("open again", b"", source)))
    }

    /// What an error on one entry means for the rest.
    fn refused(&self, what: &'static str, name: &[u8], errno: Errno) -> Refusal {
        match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO | Errno::NFILE | Errno::MFILE => {
                Refusal::Fatal(self.failed(what, name, errno.into()))
            }
            errno => Refusal::LeftOut(errno),
        }
    }

    fn failed(&self, what: &'static str, name: &[u8], source: io::Error) -> ExportError {
        ExportError::Io { what, path: escape(&self.whole_path(name)), source }
    }

    fn report(&mut self, kind: NoticeKind, name: &[u8], what: &str) {
        let path = self.whole_path(name);
        self.watch.notice(&Notice::of(kind, &path, what));
    }

    /// Says the first time that the file system did not take a mode or time.
    fn note_altered(&mut self, name: &[u8], kept: Result<bool, Errno>) {
        let why = match kept {
            Ok(true) => return,
            Ok(false) => "the file system did not take it as it is".to_owned(),
            Err(errno) => io::Error::from(errno).to_string(),
        };
        if self.summary.altered == 0 {
            let why = format!("{why} (more of the same are counted, not told)");
            self.report(NoticeKind::Altered, name, &why);
        }
        self.summary.altered += 1;
    }

    /// The path of an entry of the deepest directory, as whoever named the target sees it.
    fn whole_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.dir.as_os_str().as_bytes().to_vec();
        let above = self.levels.iter().skip(1).map(|level| &*level.name);
        for name in above.chain((!name.is_empty()).then_some(name)) {
            if !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend(name);
        }
        path
    }
}

fn write_all(file: &OwnedFd, mut content: &[u8]) -> Result<(), Errno> {
    while !content.is_empty() {
        match rustix::io::write(file, content) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => content = &content[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sets mode and time, and says whether they are now as wanted. The access time is left alone.
fn set_meta(file: &OwnedFd, meta: &Meta) -> Result<bool, Errno> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(RawMode::from(meta.mode)))?;
    rustix::fs::futimens(file, &times(meta))?;
    Ok(meta_of(&rustix::fs::fstat(file)?) == *meta)
}

fn times(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: meta.mtime_seconds,
            tv_nsec: meta.mtime_nanos.into(),
        },
    }
}
