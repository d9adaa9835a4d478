//! The least that any engine would have to do: `pwrite`, and `fdatasync`, on a file made ready.
//!
//! A file can be made ready in two ways, and a sync of what was written costs differently in them:
//! space that was only reserved (`fallocate`) has to be marked as written in the file system's
//! journal; space that once was written does not.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags};

/// How a floor's file was made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// By `fallocate`, as Pinstone's logs are.
    Reserved,
    /// By writing zeros, and a sync.
    Written,
}

/// A file that is written from its beginning to its end, and then made anew.
#[derive(Debug)]
pub struct Floor {
    path: PathBuf,
    ready: Ready,
    len_bytes: u64,
    file: OwnedFd,
    at: u64,
}

impl Floor {
    /// A file of this length.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(path: &Path, len_bytes: u64, ready: Ready) -> Self {
        let file = make(path, len_bytes, ready);
        Self { path: path.to_owned(), ready, len_bytes, file, at: 0 }
    }

    /// Writes at the end of what was written.
    ///
    /// # Panics
    /// If the machine refuses.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.at + bytes.len() as u64 > self.len_bytes {
            self.file = make(&self.path, self.len_bytes, self.ready);
            self.at = 0;
        }
        write_at(&self.file, self.at, bytes);
        self.at += bytes.len() as u64;
    }

    /// `fdatasync`.
    ///
    /// # Panics
    /// If the machine refuses.
    pub fn sync(&self) {
        rustix::fs::fdatasync(&self.file).expect("the file system can sync");
    }
}

fn make(path: &Path, len_bytes: u64, ready: Ready) -> OwnedFd {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).expect("it can be made");
    let reserved = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, len_bytes);
    reserved.expect("there is space, and the file system can reserve it");
    if ready == Ready::Written {
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        while at < len_bytes {
            let part = zeros.len().min(usize::try_from(len_bytes - at).unwrap_or(usize::MAX));
            write_at(&file, at, &zeros[..part]);
            at += part as u64;
        }
    }
    rustix::fs::fsync(&file).expect("the file system can sync");
    file
}

fn write_at(file: &OwnedFd, mut at: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, at).expect("there is space");
        bytes = &bytes[written..];
        at += written as u64;
    }
}
