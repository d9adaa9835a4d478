//! Space set aside, so that a full device does not stop what must go on (P9).
//!
//! Whoever needs the space releases it, by cutting the file; the blob log grows no further until
//! it is whole again, so what is released serves recovery and deletions, not more values. While the
//! store is closed a little stays set aside: opening it writes a new root.
//!
//! The options say how much. A value longer than a segment, until it is sealed, has its own length
//! set aside too: recovery may have to copy it.

use std::sync::Arc;

use pinstone_disk::env::Mutex;
use pinstone_disk::{Disk, DiskError, DiskExt, File, FileName, OpenMode};

/// Set aside beyond what the options say: for what recovery writes besides copies (a root log,
/// CURRENT, names), and for the edits of the root that follow.
const BESIDES_BYTES: u64 = 256 << 10;

/// Less than this is not worth setting aside: a block of most file systems.
const STEP_BYTES_MIN: u64 = 4 << 10;

/// The reserve of an open store.
#[derive(Debug)]
pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    /// What the options ask for, and what goes beside it; 0 for no reserve at all.
    bytes: u64,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// None if the space is not set aside.
    file: Option<Arc<dyn File>>,
    /// Bytes wanted beyond what the options say.
    oversize_bytes: u64,
}

impl Reserve {
    /// A reserve for copies of `bytes`, and of `oversize_bytes` more until [`Reserve::settle`] says
    /// otherwise; not held yet. None at all if `bytes` is 0.
    pub(crate) fn new(disk: Arc<dyn Disk>, bytes: u64, oversize_bytes: u64) -> Self {
        let bytes = if bytes == 0 { 0 } else { bytes + BESIDES_BYTES };
        Self { disk, bytes, held: Mutex::new(Held { file: None, oversize_bytes }) }
    }

    /// Gives back what a crash left held. Nothing in the file means anything, so its being cut
    /// changes nothing of the store.
    pub(crate) fn release_left(disk: &dyn Disk) -> Result<(), DiskError> {
        let file = disk.open(FileName::Reserve, OpenMode::Write)?;
        file.set_len(0)?;
        disk.sync(&file)
    }

    /// Sets the space aside, if it is not.
    ///
    /// # Errors
    /// *No space*: it is not there.
    pub(crate) fn hold(&self) -> Result<(), DiskError> {
        let mut held = self.held.lock();
        if held.file.is_none() && self.bytes > 0 {
            let file = self.take(held.oversize_bytes)?;
            held.file = Some(file);
        }
        Ok(())
    }

    /// Sets aside `bytes` more, for a value that is longer than a segment by so much.
    ///
    /// # Errors
    /// *No space*: they are not there, and nothing changed.
    pub(crate) fn raise(&self, bytes: u64) -> Result<(), DiskError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let mut held = self.held.lock();
        let file = self.take(held.oversize_bytes + bytes)?;
        *held = Held { file: Some(file), oversize_bytes: held.oversize_bytes + bytes };
        Ok(())
    }

    /// Takes back a [`Reserve::raise`]: the value was refused.
    pub(crate) fn lower(&self, bytes: u64) -> Result<(), DiskError> {
        if self.bytes == 0 {
            return Ok(());
        }
        let mut held = self.held.lock();
        held.oversize_bytes = held.oversize_bytes.saturating_sub(bytes);
        self.cut(&held)
    }

    /// Unsealed segments are longer than they should be by so much only: gives back the rest.
    pub(crate) fn settle(&self, oversize_bytes: impl FnOnce() -> u64) -> Result<(), DiskError> {
        let mut held = self.held.lock();
        if held.oversize_bytes == 0 {
            return Ok(());
        }
        held.oversize_bytes = oversize_bytes();
        self.cut(&held)
    }

    fn cut(&self, held: &Held) -> Result<(), DiskError> {
        match &held.file {
            Some(file) => file.set_len(self.bytes + held.oversize_bytes),
            None => Ok(()),
        }
    }

    fn take(&self, oversize_bytes: u64) -> Result<Arc<dyn File>, DiskError> {
        let file = match self.disk.open(FileName::Reserve, OpenMode::Create) {
            Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
                self.disk.open(FileName::Reserve, OpenMode::Write)?
            }
            opened => opened?,
        };
        let bytes = self.bytes + oversize_bytes;
        file.allocate(bytes).map_err(|error| DiskError {
            file: format!(
                "{} ({} MiB, for recovery and deletions on a full device)",
                error.file,
                bytes.div_ceil(1 << 20)
            ),
            ..error
        })?;
        Ok(file)
    }

    /// Gives the space back to the device; true if there was any to give.
    pub(crate) fn release(&self) -> Result<bool, DiskError> {
        let Some(file) = self.held.lock().file.take() else { return Ok(false) };
        file.set_len(0)?;
        self.disk.sync(&file)?;
        Ok(true)
    }

    /// Gives back all but what the next open needs on a device that is full by then. If the device
    /// was too full for the reserve, as much of that is set aside as there is.
    pub(crate) fn rest(&self) -> Result<(), DiskError> {
        if let Some(file) = self.held.lock().file.take() {
            return file.set_len(BESIDES_BYTES);
        }
        let file = match self.disk.open(FileName::Reserve, OpenMode::Write) {
            Err(error) if error.is_not_found() => return Ok(()),
            opened => opened?,
        };
        let mut bytes = file.len_bytes()?;
        let mut step = BESIDES_BYTES;
        while step >= STEP_BYTES_MIN && bytes < BESIDES_BYTES {
            match file.allocate(bytes + step) {
                Ok(()) => bytes += step,
                Err(error) if error.is_no_space() => {}
                Err(error) => return Err(error),
            }
            step /= 2;
        }
        Ok(())
    }
}
