//! The lock on a directory: the file `LOCK`, locked while it is held, with its holder's process id in
//! it.
//!
//! - S4: at most one lock on a directory, whichever processes or handles ask.

use std::fs::TryLockError;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::error::is_no_space;
use crate::vfs::Lock;

/// How often a held lock is tried before it counts as another's.
const LOCK_TRIES: u32 = 26;
/// The wait between two tries: 250 ms in all. The kernel may keep the files of a process that is
/// gone for some milliseconds when requests of its were still in flight.
const LOCK_WAIT: Duration = Duration::from_millis(10);
/// The longest text that is read back as a process id.
const PID_TEXT_BYTES_MAX: u64 = 20;

/// The lock file, locked. The lock belongs to the open file, so a second one in this process is
/// refused like any other (S4).
#[derive(Debug)]
#[expect(clippy::disallowed_types, reason = "the standard library's file has the portable lock")]
pub(super) struct StdLock {
    file: std::fs::File,
}

impl StdLock {
    /// Locks this file; or tells the process id in it, if another has it locked.
    ///
    /// # Errors
    /// The machine's.
    pub(super) fn of(file: OwnedFd) -> io::Result<Result<Self, Option<u32>>> {
        let lock = Self { file: file.into() };
        if !try_for_a_while(|| lock.file.try_lock(), wait_for_lock)? {
            return Ok(Err(lock.written_pid()));
        }
        lock.write_pid()?;
        Ok(Ok(lock))
    }

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

impl Lock for StdLock {}

impl Drop for StdLock {
    fn drop(&mut self) {
        // Closing would release it too, but not while a child process still has a copy of it.
        let _unlocked = self.file.unlock();
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

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
}
