//! Space set aside, so that a full device does not stop what must go on (P9).
//!
//! 1. While the store is open and has values, as much is set aside as recovery may have to write:
//!    what the options say for copies of unsealed segments, the length of each unsealed value that
//!    is longer than a segment, and the next root log.
//! 2. While that much is not set aside, the store takes no values and sets no pointers: what it
//!    took would be what recovery cannot copy. Reads and deletions go on.
//! 3. Deletions, and closing, may use what recovery would not need now, a little at a time, for
//!    others may take what is given back.
//! 4. What recovery will need more of is set aside before it is there, even while not all is that
//!    should be: for a longer root, and for what a deletion appends until that is testified to.
//! 5. While the store is closed there is nothing to copy: what the next root log needs stays, and a
//!    share for deletions; and, since the first of these may go on from a long segment of the pointer
//!    log, room for a copy of that. An open leaves it as it is, unless it finds no other space, and has
//!    as much of it back then as there is, or fails.
//! 6. The file is opened before anything is changed, and stays open for as long as the store is: who
//!    has run out of files meanwhile sets aside again all the same.
//!
//! - V1: what is given back leaves what recovery needs, unless the last open left it: then recovery
//!   is what it is given back to.
//! - V2: who takes room in the blob log asks under its append lock whether all of it is set aside.
//!   Before any is given back that is denied, and then what recovery would copy is counted under the
//!   same lock: whatever takes room is counted, or asks again. In the pointer log, what is longer than
//!   a segment is counted before anything is written for it.
//! - V3: what counts as set aside is durable, and the file's name: a power loss leaves it. The file's
//!   length is only what is wanted, until its space was asked for.

use std::sync::Arc;

use pinstone_disk::env::{AtomicBool, Mutex, Ordering};
use pinstone_disk::{Disk, DiskError, DiskExt, File, FileName, OpenMode};
use pinstone_wal::{WalError, Writer};

/// What an open writes beyond copies and the root's first record: CURRENT, names, headers of files; and
/// the copy of one short segment of the pointer log, whose last frame is written before anything
/// testifies to it.
const OPEN_BYTES: u64 = (32 << 10) + (40 << 10);

/// The share of deletions: a few hundred frames, and what testifies to them.
const DELETIONS_BYTES: u64 = 224 << 10;

/// Space is set aside in steps of this at least: a block of most file systems.
const STEP_BYTES_MIN: u64 = 4 << 10;

/// The reserve of an open store.
#[derive(Debug)]
pub(crate) struct Reserve {
    writer: Writer,
    /// What the options ask for; 0 for no reserve at all.
    copies_bytes: u64,
    held: Mutex<Held>,
    is_whole: AtomicBool,
}

#[derive(Debug)]
struct Held {
    /// Opened with the store, if it was there, or else made when it was first needed; none once the
    /// store is closed.
    file: Option<Arc<dyn File>>,
    /// What it has, as far as that was asked for.
    bytes: u64,
    /// Its name is durable, if it is there.
    is_named: bool,
    /// Bytes wanted beyond what the options say.
    oversize_bytes: u64,
    /// Bytes wanted for the root.
    root_bytes: u64,
    /// Bytes that the root is about to have at most; 0 if it is not about to grow.
    root_ahead_bytes: u64,
}

impl Held {
    /// Notes the bytes of the root.
    fn set_root(&mut self, root_bytes: u64) {
        self.root_bytes = root_bytes.max(self.root_ahead_bytes);
    }

    fn wanted_bytes(&self, copies_bytes: u64) -> u64 {
        copies_bytes + self.oversize_bytes + besides_bytes(self.root_bytes)
    }
}

/// What stays while nothing is to be copied, if the root's first record has `root_bytes`.
fn besides_bytes(root_bytes: u64) -> u64 {
    open_bytes(root_bytes) + DELETIONS_BYTES
}

/// What an open takes if nothing is to be copied.
fn open_bytes(root_bytes: u64) -> u64 {
    OPEN_BYTES + root_bytes.next_multiple_of(STEP_BYTES_MIN)
}

/// What the last open left held, until this one has taken the store over.
#[derive(Debug, Clone)]
pub(crate) struct Left {
    file: Arc<dyn File>,
    bytes: u64,
}

impl Left {
    pub(crate) fn open(disk: &dyn Disk) -> Result<Self, DiskError> {
        let file = disk.open(FileName::Reserve, OpenMode::Write)?;
        let bytes = file.len_bytes()?;
        Ok(Self { file, bytes })
    }

    /// It is what a closed store holds whose next root's first record has `root_bytes`, and whose pointer log ends
    /// in a segment of which a copy takes `tail_bytes`, if that is long.
    pub(crate) fn is_whole(&self, root_bytes: u64, tail_bytes: u64) -> Result<bool, DiskError> {
        Ok(self.file.allocated_bytes()? >= besides_bytes(root_bytes) + tail_bytes)
    }

    /// Gives back all of it. Nothing in the file means anything, so its being cut changes nothing of
    /// the store.
    pub(crate) fn give_back(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        self.file.set_len(0)?;
        disk.sync(&self.file)
    }

    /// After an open that failed: sets it aside again, or as much as there is. What that open began to
    /// write has the rest, until the next one takes that away; the length says that it is wanted, too.
    pub(crate) fn hold_again(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        fill(disk, &self.file, self.bytes)?;
        self.file.set_len(self.bytes)?;
        disk.sync(&self.file)
    }
}

impl Reserve {
    /// A reserve for copies of `bytes`, and of `oversize_bytes` more until [`Reserve::settle`] says
    /// otherwise; not held yet. None at all if `bytes` is 0.
    pub(crate) fn new(
        writer: Writer,
        bytes: u64,
        oversize_bytes: u64,
        left: Option<&Left>,
    ) -> Self {
        let held = Held {
            file: left.filter(|_| bytes > 0).map(|left| Arc::clone(&left.file)),
            bytes: 0,
            is_named: true,
            oversize_bytes,
            root_bytes: 0,
            root_ahead_bytes: 0,
        };
        let held = Mutex::new(held);
        Self { writer, copies_bytes: bytes, held, is_whole: AtomicBool::new(bytes == 0) }
    }

    /// All of it is set aside. Costs no lock.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Sets all of it aside, if it is not, for a root of `root_bytes`.
    ///
    /// # Errors
    /// *No space*: it is not there. A failed sync ends writing.
    pub(crate) fn hold(&self, root_bytes: u64) -> Result<(), WalError> {
        if self.copies_bytes == 0 {
            return Ok(());
        }
        let mut held = self.held.lock();
        held.set_root(root_bytes);
        self.fill_up(&mut held)
    }

    /// Sets all of it aside; or else, as much as there is, what `left` says that the last open wanted, or
    /// what the next one needs, with `tail_bytes` for a copy that going on in the pointer log needs for a
    /// moment.
    ///
    /// # Errors
    /// Not all that there is could be set aside. A failed sync ends writing.
    pub(crate) fn hold_what_there_is(
        &self,
        root_bytes: u64,
        tail_bytes: u64,
        left: Option<&Left>,
    ) -> Result<(), WalError> {
        match self.hold(root_bytes) {
            // Reads and deletions need no more than there is; who writes asks again.
            Err(WalError::Disk(error)) => tracing::warn!(%error, "not all is set aside"),
            held => return held,
        }
        let mut held = self.held.lock();
        let left_bytes = left.map_or(0, |left| left.bytes);
        let wanted_bytes = (besides_bytes(held.root_bytes) + tail_bytes).max(left_bytes);
        match self.fill_with_what_there_is(&mut held, wanted_bytes) {
            // Not even for a file.
            Err(error) if error.is_no_space() => Ok(()),
            filled => filled.map_err(|error| self.after(error)),
        }
    }

    fn fill_with_what_there_is(&self, held: &mut Held, wanted_bytes: u64) -> Result<(), DiskError> {
        let file = self.file(held)?;
        held.bytes = fill(&*self.writer.disk, &file, wanted_bytes)?;
        self.sync_name(held)
    }

    /// The root's first record is about to have `root_bytes`, until [`Reserve::root_is_done`]. If all is
    /// set aside, so is the room for that now, which writers need not wait for; else, or if it is not
    /// there, whoever writes next asks for it.
    ///
    /// # Errors
    /// A failed sync, which ends writing.
    pub(crate) fn expect_root(&self, root_bytes: u64) -> Result<(), WalError> {
        let mut held = self.held.lock();
        held.root_ahead_bytes = root_bytes;
        held.set_root(root_bytes);
        if self.copies_bytes == 0 || !self.is_whole() {
            return Ok(());
        }
        match self.fill_up(&mut held) {
            Err(WalError::Disk(_)) => Ok(()),
            filled => filled,
        }
    }

    /// The root is what it was to be, or stays as it was.
    pub(crate) fn root_is_done(&self) {
        self.held.lock().root_ahead_bytes = 0;
    }

    /// What this failure of the file's means: a failed sync ends writing.
    pub(crate) fn after(&self, error: DiskError) -> WalError {
        self.writer.poison.after(error)
    }

    fn deny_unless_whole(&self, held: &Held) {
        if self.copies_bytes > 0 && held.bytes < held.wanted_bytes(self.copies_bytes) {
            self.is_whole.store(false, Ordering::Release);
        }
    }

    /// A commit that is longer than a segment by `bytes` is about to be appended without their being
    /// set aside, since [`Reserve::cover`] sees to what it needs by itself: from now on they are wanted.
    pub(crate) fn count_oversize(&self, bytes: u64) {
        let mut held = self.held.lock();
        held.oversize_bytes += bytes;
        self.deny_unless_whole(&held);
    }

    /// Sees to it that so much is set aside as recovery needs if it has `copies_bytes` to copy and a
    /// root of `root_bytes` to write, whatever else is not.
    ///
    /// # Errors
    /// *No space*: it is not there. A failed sync ends writing.
    pub(crate) fn cover(&self, copies_bytes: u64, root_bytes: u64) -> Result<(), WalError> {
        if self.copies_bytes == 0 {
            return Ok(());
        }
        let mut held = self.held.lock();
        held.set_root(root_bytes);
        let needed_bytes = copies_bytes + open_bytes(held.root_bytes);
        if held.bytes >= needed_bytes {
            return Ok(());
        }
        self.grow(&mut held, needed_bytes).map_err(|error| self.after(error))
    }

    /// Something unsealed is longer than a segment.
    pub(crate) fn has_oversize(&self) -> bool {
        self.held.lock().oversize_bytes > 0
    }

    /// Sets aside `bytes` more, for a value or a commit that is longer than a segment by so much.
    ///
    /// # Errors
    /// *No space*: they are not there, and nothing changed. A failed sync ends writing.
    pub(crate) fn raise(&self, bytes: u64) -> Result<(), WalError> {
        if self.copies_bytes == 0 {
            return Ok(());
        }
        let mut held = self.held.lock();
        held.oversize_bytes += bytes;
        let filled = self.fill_up(&mut held);
        if filled.is_err() {
            held.oversize_bytes -= bytes;
        }
        filled
    }

    fn fill_up(&self, held: &mut Held) -> Result<(), WalError> {
        let wanted_bytes = held.wanted_bytes(self.copies_bytes);
        if held.bytes < wanted_bytes
            && let Err(error) = self.grow(held, wanted_bytes)
        {
            self.is_whole.store(false, Ordering::Release);
            return Err(self.after(error));
        }
        // The last open may have wanted more.
        let cut = self.file(held).and_then(|file| match file.len_bytes()? > held.bytes {
            true => file.set_len(held.bytes),
            false => Ok(()),
        });
        cut.map_err(|error| self.after(error))?;
        self.is_whole.store(true, Ordering::Release);
        Ok(())
    }

    /// Durable on return (V3).
    fn grow(&self, held: &mut Held, wanted_bytes: u64) -> Result<(), DiskError> {
        let file = self.file(held)?;
        file.allocate(wanted_bytes).map_err(|error| DiskError {
            file: format!(
                "{} ({} MiB, for recovery and deletions on a full device)",
                error.file,
                wanted_bytes.div_ceil(1 << 20)
            ),
            ..error
        })?;
        held.bytes = wanted_bytes;
        self.writer.disk.sync(&file)?;
        self.sync_name(held)
    }

    fn file(&self, held: &mut Held) -> Result<Arc<dyn File>, DiskError> {
        if let Some(file) = &held.file {
            return Ok(Arc::clone(file));
        }
        let file = match self.writer.disk.open(FileName::Reserve, OpenMode::Create) {
            // It was made, and that failed later.
            Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
                self.writer.disk.open(FileName::Reserve, OpenMode::Write)?
            }
            created => created?,
        };
        held.is_named = false;
        held.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn sync_name(&self, held: &mut Held) -> Result<(), DiskError> {
        if !held.is_named {
            self.writer.disk.sync_dir()?;
            held.is_named = true;
        }
        Ok(())
    }

    /// Takes back a [`Reserve::raise`]: what it was for was refused.
    pub(crate) fn lower(&self, bytes: u64) -> Result<(), DiskError> {
        let mut held = self.held.lock();
        held.oversize_bytes = held.oversize_bytes.saturating_sub(bytes);
        self.cut_down(&mut held)
    }

    /// Unsealed segments are longer than they should be by so much only: gives back the rest.
    pub(crate) fn settle(&self, oversize_bytes: u64) -> Result<(), DiskError> {
        let mut held = self.held.lock();
        held.oversize_bytes = oversize_bytes;
        self.cut_down(&mut held)
    }

    fn cut_down(&self, held: &mut Held) -> Result<(), DiskError> {
        let wanted_bytes = held.wanted_bytes(self.copies_bytes);
        if let Some(file) = &held.file
            && held.bytes > wanted_bytes
        {
            file.set_len(wanted_bytes)?;
            held.bytes = wanted_bytes;
        }
        Ok(())
    }

    /// Gives back about `bytes`, but nothing that recovery needs if it has `copies_bytes` to copy
    /// and a root of `root_bytes` to write (V1). It asks for the former when nothing takes room
    /// unasked any more (V2). True if there was any. A failed sync ends writing.
    pub(crate) fn release(
        &self,
        bytes: u64,
        copies_bytes: impl FnOnce() -> u64,
        root_bytes: u64,
    ) -> Result<bool, WalError> {
        let mut held = self.held.lock();
        held.set_root(root_bytes);
        let Some(file) = held.file.clone() else { return Ok(false) };
        let was_whole = self.is_whole.swap(false, Ordering::AcqRel);
        let needed_bytes = copies_bytes() + open_bytes(held.root_bytes);
        let left_bytes = held.bytes.saturating_sub(bytes).max(needed_bytes);
        if left_bytes >= held.bytes {
            self.is_whole.store(was_whole, Ordering::Release);
            return Ok(false);
        }
        file.set_len(left_bytes)?;
        held.bytes = left_bytes;
        // A failed sync ends writing, whatever the file is.
        self.writer.disk.sync(&file).map_err(|error| self.after(error))?;
        Ok(true)
    }

    /// Gives back all but what the next open needs, for a root of `root_bytes`, on a device that is
    /// full by then. If there is less, as much is set aside as there is.
    pub(crate) fn rest(&self, root_bytes: u64, tail_bytes: u64) -> Result<(), DiskError> {
        self.is_whole.store(self.copies_bytes == 0, Ordering::Release);
        let mut held = self.held.lock();
        let Some(file) = held.file.take() else { return Ok(()) };
        let wanted_bytes = besides_bytes(root_bytes) + tail_bytes;
        if held.bytes > wanted_bytes {
            return file.set_len(wanted_bytes);
        }
        fill(&*self.writer.disk, &file, wanted_bytes).map(drop)
    }
}

/// Has the file take `wanted_bytes`, or as much as there is, and says how much that is; durable on
/// return (V3). What its length says that it takes already is asked for again: a crash may leave a
/// length and no space.
fn fill(disk: &dyn Disk, file: &Arc<dyn File>, wanted_bytes: u64) -> Result<u64, DiskError> {
    let mut bytes = 0;
    let mut step = wanted_bytes;
    while step >= STEP_BYTES_MIN && bytes < wanted_bytes {
        match file.allocate((bytes + step).min(wanted_bytes)) {
            Ok(()) => bytes = (bytes + step).min(wanted_bytes),
            Err(error) if error.is_no_space() => {}
            Err(error) => return Err(error),
        }
        step /= 2;
    }
    if file.len_bytes()? > bytes {
        file.set_len(bytes)?;
    }
    disk.sync(file)?;
    Ok(bytes)
}
