//! One entry of a directory: opened, read, stored. This is what the import's threads do.
//!
//! A name may be anything by the time it is opened. So:
//! 1. what the directory said about its kind decides only whether it is opened at all (opening a
//!    device may do things);
//! 2. it is opened without following a link, without waiting for a FIFO's other end, and without
//!    making a terminal ours;
//! 3. what was opened says itself what it is.
//!
//! A file's content is taken as one instant's: if its length or times change while it is read, it is
//! read again, a few times; then it is left out. (Changes within one tick of the file system's clock
//! that keep the length cannot be seen; no program that reads files can see them.)

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use pinstone::{Digest, Store};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::LeftOut;
use crate::dir_stack::{FileId, file_type};
use crate::tree::{MODE_MASK, Meta, TARGET_BYTES_MAX};

/// Files longer than this are read by one thread at a time, so that memory stays near one largest
/// value however many threads there are.
const LARGE_FILE_BYTES: u64 = 8 << 20;

/// How often a file that changes while it is read is read.
const ATTEMPTS_MAX: usize = 3;

/// What an entry became.
#[derive(Debug)]
pub(super) enum Kept {
    /// A regular file, stored.
    File { meta: Meta, len_bytes: u64, digest: Digest, new: bool },
    /// A symlink.
    Symlink { meta: Meta, target: Box<[u8]> },
}

/// Why an entry was not kept, or why nothing can be any more.
#[derive(Debug)]
pub(super) enum Refusal {
    /// This one is left out.
    LeftOut(LeftOut),
    /// The store takes no more.
    Store(pinstone::Error),
}

impl From<LeftOut> for Refusal {
    fn from(reason: LeftOut) -> Self {
        Self::LeftOut(reason)
    }
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    pub(super) store: &'a Store,
    pub(super) value_bytes_max: u64,
    /// Held while a large file is in memory.
    pub(super) large: Mutex<()>,
}

/// Keeps the entry `name` of `dir`, which the directory says is of `kind`: a file or a symlink.
pub(super) fn keep(
    shared: &Shared<'_>,
    dir: &OwnedFd,
    name: &[u8],
    kind: FileType,
    buffer: &mut Vec<u8>,
) -> Result<Kept, Refusal> {
    match kind {
        FileType::Symlink => Ok(keep_symlink(dir, name)?),
        _ => keep_file(shared, dir, name, buffer),
    }
}

/// Lets through what may be opened or followed down: files, directories, symlinks.
pub(super) fn refuse_special(kind: FileType) -> Result<FileType, LeftOut> {
    let what = match kind {
        FileType::RegularFile | FileType::Directory | FileType::Symlink => return Ok(kind),
        FileType::Socket => "a socket",
        FileType::Fifo => "a FIFO",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "a file of unknown kind",
    };
    Err(LeftOut::Kind { what })
}

/// The content of the file `name` of `dir`, if it is one and has at most `bytes_max`.
pub(super) fn small_file(dir: &OwnedFd, name: &[u8], bytes_max: usize) -> Result<Vec<u8>, LeftOut> {
    let file = open_file(dir, name)?;
    let stat = stat_open(&file)?;
    if file_type(&stat) != FileType::RegularFile {
        return Err(LeftOut::Changed);
    }
    if size(&stat) > bytes_max as u64 {
        return Err(LeftOut::TooLarge { found: size(&stat), max: bytes_max as u64 });
    }
    let mut content = Vec::new();
    read_whole(&file, &stat, &mut content)?;
    Ok(content)
}

fn keep_file(
    shared: &Shared<'_>,
    dir: &OwnedFd,
    name: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<Kept, Refusal> {
    let file = open_file(dir, name)?;
    let mut before = stat_open(&file)?;
    if file_type(&before) != FileType::RegularFile {
        return Err(LeftOut::Changed.into());
    }
    let len_bytes = size(&before);
    let limit = |found| LeftOut::TooLarge { found, max: shared.value_bytes_max };
    if len_bytes > shared.value_bytes_max {
        return Err(limit(len_bytes).into());
    }
    // A panic of another thread ends the import elsewhere; the lock guards no data.
    let large = (len_bytes > LARGE_FILE_BYTES)
        .then(|| shared.large.lock().unwrap_or_else(PoisonError::into_inner));

    let mut attempt = 1;
    let kept = loop {
        read_whole(&file, &before, buffer)?;
        let after = stat_open(&file)?;
        if is_same(&before, &after) && size(&after) == buffer.len() as u64 {
            let put = shared.store.put(buffer).map_err(|error| match error {
                pinstone::Error::Limit { max, found, .. } => {
                    Refusal::LeftOut(LeftOut::TooLarge { found, max })
                }
                error => Refusal::Store(error),
            })?;
            let len_bytes = buffer.len() as u64;
            break Kept::File { meta: meta(&after), len_bytes, digest: put.digest, new: put.new };
        }
        if size(&after) > shared.value_bytes_max {
            return Err(limit(size(&after)).into());
        }
        if is_same(&before, &after) {
            let (expected, found) = (size(&after), buffer.len() as u64);
            return Err(LeftOut::WrongLength { expected, found }.into());
        }
        if attempt == ATTEMPTS_MAX || (large.is_none() && size(&after) > LARGE_FILE_BYTES) {
            return Err(LeftOut::Changed.into());
        }
        attempt += 1;
        before = after;
    };
    if large.is_some() {
        *buffer = Vec::new();
    }
    Ok(kept)
}

fn open_file(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, LeftOut> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|errno| match errno {
        // It is a symlink or a socket by now.
        Errno::LOOP | Errno::NXIO => LeftOut::Changed,
        errno => gone_or_unreadable(errno),
    })
}

/// Reads the file from its start, up to one byte more than `stat` says that it has.
fn read_whole(file: &OwnedFd, stat: &Stat, buffer: &mut Vec<u8>) -> Result<(), LeftOut> {
    buffer.clear();
    // The caller has seen that the length is within the limit of a value.
    let wanted = usize::try_from(size(stat)).unwrap_or(usize::MAX).saturating_add(1);
    buffer.reserve_exact(wanted);
    while buffer.len() < wanted {
        let offset = buffer.len() as u64;
        let room = rustix::buffer::spare_capacity(buffer);
        match rustix::io::pread(file, room, offset) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(LeftOut::Unreadable { source: errno.into() }),
        }
    }
    Ok(())
}

fn keep_symlink(dir: &OwnedFd, name: &[u8]) -> Result<Kept, LeftOut> {
    let before = stat_name(dir, name)?;
    if file_type(&before) != FileType::Symlink {
        return Err(LeftOut::Changed);
    }
    let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|errno| match errno {
        Errno::INVAL => LeftOut::Changed,
        errno => gone_or_unreadable(errno),
    })?;
    // A link is never rewritten, only replaced: if it is the same one, this is its target.
    let after = stat_name(dir, name)?;
    if FileId::of(&before) != FileId::of(&after) || !is_same(&before, &after) {
        return Err(LeftOut::Changed);
    }
    let target = target.into_bytes();
    if target.is_empty() || target.len() > TARGET_BYTES_MAX {
        return Err(LeftOut::TargetLength { found: target.len() });
    }
    Ok(Kept::Symlink { meta: meta(&after), target: target.into_boxed_slice() })
}

/// Metadata of the entry itself, not of what a link points at.
pub(super) fn stat_name(dir: &OwnedFd, name: &[u8]) -> Result<Stat, LeftOut> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(gone_or_unreadable)
}

/// The reason that an error on a name in a directory gives.
pub(super) fn gone_or_unreadable(errno: Errno) -> LeftOut {
    match errno {
        Errno::NOENT => LeftOut::Vanished,
        errno => LeftOut::Unreadable { source: errno.into() },
    }
}

fn stat_open(file: &OwnedFd) -> Result<Stat, LeftOut> {
    rustix::fs::fstat(file).map_err(|errno| LeftOut::Unreadable { source: errno.into() })
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn is_same(a: &Stat, b: &Stat) -> bool {
    a.st_size == b.st_size
        && (a.st_mtime, a.st_mtime_nsec) == (b.st_mtime, b.st_mtime_nsec)
        && (a.st_ctime, a.st_ctime_nsec) == (b.st_ctime, b.st_ctime_nsec)
}

/// What a tree keeps of `stat`.
pub(crate) fn meta(stat: &Stat) -> Meta {
    // The types differ between systems. Twelve bits fit; nanoseconds are below 10^9 by POSIX, and
    // where a file system breaks that, the time is not worth an error.
    #[allow(clippy::unnecessary_cast, clippy::cast_possible_truncation)]
    Meta {
        mode: (stat.st_mode & u32::from(MODE_MASK)) as u16,
        mtime_seconds: stat.st_mtime as i64,
        mtime_nanos: (stat.st_mtime_nsec as u64).min(999_999_999) as u32,
    }
}
