//! The root: which segments make up the store, and the log of edits that says so.
//!
//! 1. CURRENT names a root log. Its first record is the whole root, each further record an edit.
//! 2. Every opener writes a new root log, with a new epoch, and turns CURRENT to it, before it writes anything else.
//!    Until then the root is *at rest*: as the opener before it left it.
//! 3. An edit is appended and synced before anyone relies on it, and only then shown here.
//! 4. A log that has grown long is written anew as an open would, with the next ordinal: it is read
//!    whole at each open, and what it says in the end is short.
//!
//! - E1: a segment is named by the root before a frame is appended to it.
//! - E2: an ordinal that was given to a file is not given again, even if that came to nothing.
//!
//! What edits are and what they make is in `root/edit.rs`.

use pinstone_disk::env::Mutex;
use pinstone_disk::{
    Disk, DiskError, DiskExt, File, FileName, HEADER_BYTES, LogKind, OpenMode, Operation, Ordinal,
    TableKind,
};
use pinstone_wal::{
    Appender, FRAMES_START_BYTES, FrameBuilder, LogPosition, RecordKind, Sealed, Sealer,
    SegmentFile, SegmentHeader, WalError, Writer, corrupt, create_segment, create_segment_with,
};

use self::edit::encode;
pub(crate) use self::edit::{
    CLOSED, Edit, Ends, FLUSHED, Flushed, LEVELS, LogState, NEXT_ORDINAL, NEXT_TABLE, OPEN, RETIRE,
    RootState, SEAL, Seal, SegmentState, TreeState, check_record,
};

mod edit;

/// The root in force, and the log that its edits go to.
#[derive(Debug)]
pub(crate) struct Root {
    writer: Writer,
    inner: Mutex<RootInner>,
}

#[derive(Debug)]
struct RootInner {
    state: RootState,
    log: Appender,
    /// Bytes of the log's first record.
    first_bytes: u64,
    /// The last ordinal that was given to a root log, whatever became of it (E2).
    spent: Ordinal,
    /// Root logs that are not in force, and could not be removed.
    left: Vec<FileName>,
    /// The root says that the store is closed, and nothing is to take that back.
    is_closed: bool,
}

impl RootInner {
    /// The ordinal for the next root log, if another can follow that.
    fn next_ordinal(&self) -> Option<Ordinal> {
        self.spent.next().filter(|ordinal| ordinal.next().is_some())
    }

    fn is_at_rest(&self, writer: &Writer) -> bool {
        self.log.segment().header.epoch != writer.epoch
    }

    fn check_open(&self) -> Result<(), WalError> {
        if self.is_closed {
            return Err(WalError::Poisoned { cause: "it was closed".to_owned() });
        }
        Ok(())
    }

    /// Removes a root log that is not in force, and those that could not be removed before; what cannot be
    /// removed now is tried again with the next one, or is gone with the next open.
    fn leave(&mut self, disk: &dyn Disk, name: FileName) {
        self.left.push(name);
        self.left.retain(|name| disk.remove(*name).is_err_and(|error| !error.is_not_found()));
    }
}

/// Bytes reserved for a root log beyond its first record, so that edits can be written when the
/// device is full later.
const RESERVE_BYTES: u64 = 64 << 10;

/// Bytes of a few frames: names of segments, testimony, closing.
const FRAMES_BYTES: u64 = 8 << 10;

/// A root log longer than this, and than a few times its first record, is written anew.
const LOG_BYTES_MAX: u64 = 1 << 20;

impl Root {
    /// The root as it was found, for who may write nothing: `log` ends at `end_bytes`. Ordinals up to `spent` are not
    /// given again.
    pub(crate) fn at_rest(
        writer: Writer,
        log: SegmentFile,
        end_bytes: u64,
        spent: Ordinal,
        state: RootState,
    ) -> Self {
        assert_ne!(log.header.epoch, writer.epoch, "another writer wrote it");
        let log = Appender::new(writer.clone(), log, end_bytes, Sealer::default());
        let (first_bytes, left, is_closed) = (end_bytes, Vec::new(), false);
        let inner = Mutex::new(RootInner { state, log, first_bytes, spent, left, is_closed });
        Self { writer, inner }
    }

    /// The root log is another writer's, as it was found: nothing was written since.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.inner.lock().is_at_rest(&self.writer)
    }

    /// The store has values.
    pub(crate) fn has_values(&self) -> bool {
        !self.inner.lock().state.blob.segments.is_empty()
    }

    /// Writes a new root log with this header and state, synced; CURRENT does not name it yet.
    pub(crate) fn create(
        writer: Writer,
        header: SegmentHeader,
        state: RootState,
    ) -> Result<Self, WalError> {
        assert_eq!(header.epoch, writer.epoch, "a writer writes a root log of its own");
        let (log, first_bytes) = create_log(&writer, header, &state)?;
        writer.synced.raise(LogKind::Root, log.end());
        let spent = header.ordinal;
        let inner = Mutex::new(RootInner {
            state,
            log,
            first_bytes,
            spent,
            left: Vec::new(),
            is_closed: false,
        });
        Ok(Self { writer, inner })
    }

    /// Reserves space for edits; on a full device each of them finds out by itself.
    pub(crate) fn reserve(&self) -> Result<(), DiskError> {
        let log = &self.inner.lock().log;
        reserve(&*log.segment().file, log.end().offset_bytes() + RESERVE_BYTES)
    }

    /// Reserves space for a few frames, of testimony and of closing.
    ///
    /// # Errors
    /// *No space*: it is not there.
    pub(crate) fn reserve_frames(&self) -> Result<(), DiskError> {
        let log = &self.inner.lock().log;
        log.segment().file.allocate(log.end().offset_bytes() + FRAMES_BYTES)
    }

    /// The header of its log.
    pub(crate) fn header(&self) -> SegmentHeader {
        self.inner.lock().log.segment().header
    }

    /// Where its log ends.
    pub(crate) fn end(&self) -> LogPosition {
        self.inner.lock().log.end()
    }

    /// What it says now.
    pub(crate) fn state(&self) -> RootState {
        self.inner.lock().state.clone()
    }

    /// All segments of the log below this one are sealed.
    pub(crate) fn sealed_below(&self, log: LogKind) -> Ordinal {
        self.inner.lock().state.log(log).sealed_below()
    }

    /// What segments below this one say stands in tables of the tree.
    pub(crate) fn flushed_below(&self, tree: TableKind) -> Ordinal {
        self.inner.lock().state.tree(tree).flushed.below
    }

    /// The log has this segment.
    pub(crate) fn has_segment(&self, log: LogKind, ordinal: Ordinal) -> bool {
        self.inner.lock().state.log(log).segments.contains_key(&ordinal)
    }

    /// The segments of the log below this one, and their files.
    pub(crate) fn segments_below(&self, log: LogKind, below: Ordinal) -> Vec<(Ordinal, FileName)> {
        let inner = self.inner.lock();
        let segments = inner.state.log(log).segments.range(..below);
        let name = |(&ordinal, segment): (&Ordinal, &SegmentState)| {
            (ordinal, FileName::Segment { log, ordinal, epoch: segment.epoch })
        };
        segments.map(name).collect()
    }

    /// Bytes of the record that the next root log begins with, about.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.inner.lock().state.record_bytes()
    }

    /// The same once these edits were made, at most.
    pub(crate) fn record_bytes_with(&self, edits: &[Edit]) -> u64 {
        self.record_bytes() + encode(edits).len() as u64
    }

    /// Ends what a clean close said: something is about to be written. Durable on return.
    pub(crate) fn begin_writing(&self) -> Result<(), WalError> {
        let mut inner = self.inner.lock();
        if inner.state.closed.is_none() {
            return Ok(());
        }
        // Whatever follows it, the store is not closed.
        let log = LogKind::Blob;
        let ordinal = inner.state.log(log).next_ordinal;
        self.append(&mut inner, &[Edit::NextOrdinal { log, ordinal }])
    }

    /// Creates the next segment of `log`, reserved up to `reserve_bytes`, and names it.
    ///
    /// # Errors
    /// Whatever the machine says; no segment was added then. A failed sync ends writing.
    pub(crate) fn add_segment(
        &self,
        log: LogKind,
        reserve_bytes: u64,
    ) -> Result<SegmentFile, WalError> {
        let mut inner = self.inner.lock();
        self.writer.poison.check()?;
        let ordinal = inner.state.log(log).next_ordinal;
        if ordinal.next().is_none() {
            let what = format!("the {} log has no ordinal left", log.word());
            let root = inner.log.segment().name();
            return Err(corrupt(root, inner.log.end().offset_bytes(), what));
        }
        let header = SegmentHeader { log, ordinal, ..inner.log.segment().header };
        // E2: the ordinal is spent from here on, whatever becomes of it.
        inner.state.log_mut(log).spend(ordinal);
        let segment = create_segment(&*self.writer.disk, header, reserve_bytes)
            .map_err(|error| self.writer.poison.after(error))?;
        let edit = Edit::Open { log, ordinal, epoch: header.epoch };
        if let Err(error) = self.append(&mut inner, &[edit]) {
            // If the edit is not there, nothing names the file; what cannot be removed now is
            // removed at the next open. If it may be there, the file must stay.
            if matches!(error, WalError::Disk(_)) {
                let _ = self.writer.disk.remove(header.file_name());
            }
            return Err(error);
        }
        Ok(segment)
    }

    /// Records that a segment is sealed.
    pub(crate) fn seal_segment(&self, sealed: &Sealed) -> Result<(), WalError> {
        let SegmentHeader { log, ordinal, epoch, .. } = sealed.header;
        let seal = Seal {
            file_bytes: sealed.file_bytes,
            record_count: sealed.record_count,
            footer_hash: sealed.footer_hash,
        };
        self.append(&mut self.inner.lock(), &[Edit::Seal { log, ordinal, epoch, seal }])
    }

    /// Records that the store is closed, with the logs durable to these ends. Nothing is appended after
    /// that: it stays the last word.
    pub(crate) fn close(&self, ends: Ends) -> Result<(), WalError> {
        let mut inner = self.inner.lock();
        self.append(&mut inner, &[Edit::Closed(ends)])?;
        inner.is_closed = true;
        // What was reserved is zeros, there or not: this needs no sync.
        Ok(inner.log.segment().file.set_len(inner.log.end().offset_bytes())?)
    }

    /// Appends a frame that only tells what is durable.
    pub(crate) fn testify(&self) -> Result<(), WalError> {
        self.append(&mut self.inner.lock(), &[])
    }

    /// Makes these changes in one step; durable on return. Files that they name are durable with
    /// their names before.
    ///
    /// # Errors
    /// Whatever the machine says: nothing has changed. A failed sync ends writing.
    ///
    /// # Panics
    /// If an edit of levels does not fit them.
    pub(crate) fn edit(&self, edits: &[Edit]) -> Result<(), WalError> {
        self.append(&mut self.inner.lock(), edits)
    }

    /// Writes the log anew, if it is long: a crash leaves the old one in force, or the new one.
    ///
    /// # Errors
    /// Whatever the machine says; the old log goes on then. If it cannot be told which of the two is
    /// in force, writing ends.
    pub(crate) fn rewrite(&self) -> Result<(), WalError> {
        match self.shorten(LOG_BYTES_MAX, 4)? {
            true => Ok(self.reserve()?),
            false => Ok(()),
        }
    }

    /// Writes the log anew, if it is longer than so many bytes, and than so many times its first record; whether it
    /// was.
    ///
    /// # Errors
    /// As [`Root::rewrite`].
    pub(crate) fn shorten(&self, bytes_max: u64, times: u64) -> Result<bool, WalError> {
        let mut inner = self.inner.lock();
        let is_long = inner.log.end().offset_bytes() > bytes_max.max(times * inner.first_bytes);
        if !is_long || inner.is_at_rest(&self.writer) {
            return Ok(false);
        }
        self.writer.poison.check()?;
        inner.check_open()?;
        let Some(ordinal) = inner.next_ordinal() else { return Ok(false) };
        let state = RootState { closed: None, ..inner.state.clone() };
        self.replace(&mut inner, ordinal, state)?;
        Ok(true)
    }

    /// Ends the rest that the store was found at: writes the log anew, with this writer's epoch; it still says that the
    /// store is closed, so that a crash leaves one that can be at rest. Does nothing if that was done.
    ///
    /// # Errors
    /// As [`Root::rewrite`]. *Corrupt*: CURRENT names another root than was found; or no ordinal is left.
    pub(crate) fn take_over(&self) -> Result<(), WalError> {
        let mut inner = self.inner.lock();
        self.writer.poison.check()?;
        inner.check_open()?;
        if !inner.is_at_rest(&self.writer) {
            return Ok(());
        }
        // Whoever turned it has taken the store over, whatever became of the lock.
        if read_current(&*self.writer.disk)? != inner.log.segment().header {
            let what = "another writer has taken the store over since it was opened";
            return Err(corrupt(FileName::Current, 0, what));
        }
        let ordinal = inner.next_ordinal().ok_or_else(|| none_can_follow(FileName::Current))?;
        let state = inner.state.clone();
        self.replace(&mut inner, ordinal, state)
    }

    /// Writes the log anew with this ordinal and state.
    fn replace(
        &self,
        inner: &mut RootInner,
        ordinal: Ordinal,
        state: RootState,
    ) -> Result<(), WalError> {
        let old = inner.log.segment().header;
        inner.spent = ordinal;
        let header = SegmentHeader { ordinal, epoch: self.writer.epoch, ..old };
        let disk = &*self.writer.disk;
        let (log, first_bytes) =
            create_log(&self.writer, header, &state).map_err(|error| match error {
                WalError::Disk(error) => self.writer.poison.after(error),
                other => other,
            })?;
        if let Err(error) = turn_current(disk, &header) {
            if let Operation::Rename | Operation::SyncDirectory = error.operation {
                return Err(self.writer.poison.set(format_args!("{error}: {}", error.source)));
            }
            let _ = disk.remove(FileName::CurrentTemp);
            match inner.is_at_rest(&self.writer) {
                // No other name says that the epoch was given: it stays, empty, until another log has it.
                true => {
                    let _ = log.segment().file.set_len(0);
                    inner.left.push(header.file_name());
                }
                false => inner.leave(disk, header.file_name()),
            }
            return Err(self.writer.poison.after(error));
        }
        self.writer.synced.raise(LogKind::Root, log.end());
        (inner.state, inner.log, inner.first_bytes) = (state, log, first_bytes);
        inner.leave(disk, old.file_name());
        Ok(())
    }

    fn append(&self, inner: &mut RootInner, edits: &[Edit]) -> Result<(), WalError> {
        inner.check_open()?;
        assert!(!inner.is_at_rest(&self.writer), "a writer writes a root log of its own");
        let mut state = inner.state.clone();
        for edit in edits {
            state.apply(edit).expect("an edit that we made fits");
        }
        let mut frame = FrameBuilder::with_capacity(0);
        if !edits.is_empty() {
            frame.push(self.writer.store, RecordKind::RootEdit, &encode(edits));
        }
        inner.log.append(frame, false)?;
        self.writer
            .disk
            .sync(&inner.log.segment().file)
            .map_err(|error| self.writer.poison.set(format_args!("{error}: {}", error.source)))?;
        self.writer.synced.raise(LogKind::Root, inner.log.end());
        inner.state = state;
        Ok(())
    }
}

/// Writes a log that begins with `state`, synced. If that fails, nothing names the file, and it is
/// removed if it can be.
fn create_log(
    writer: &Writer,
    header: SegmentHeader,
    state: &RootState,
) -> Result<(Appender, u64), WalError> {
    let mut frame = FrameBuilder::with_capacity(0);
    frame.push(writer.store, RecordKind::RootEdit, &encode(&state.edits()));
    let reserve_bytes = frame.len_bytes() as u64;
    let mut log = None;
    create_segment_with(&*writer.disk, header, reserve_bytes, |segment| {
        let (writer, segment) = (writer.clone(), segment.clone());
        let begun = Appender::new(writer, segment, FRAMES_START_BYTES, Sealer::default());
        log.insert(begun).append(frame, false).map(|_| ())
    })?;
    let log = log.expect("it was made to write the first frame");
    let first_bytes = log.end().offset_bytes();
    Ok((log, first_bytes))
}

/// The header of the root log that CURRENT names.
pub(crate) fn read_current(disk: &dyn Disk) -> Result<SegmentHeader, WalError> {
    let file = disk.open(FileName::Current, OpenMode::Read)?;
    Ok(SegmentHeader::decode_current(&disk.read(&file, 0, HEADER_BYTES + 1)?)?)
}

/// No number is left for what would follow this file.
pub(crate) fn none_can_follow(name: FileName) -> WalError {
    corrupt(name, 0, "its ordinal or epoch is one that none can follow")
}

/// Makes CURRENT name this root log; durable on return.
pub(crate) fn turn_current(disk: &dyn Disk, header: &SegmentHeader) -> Result<(), DiskError> {
    let create = || disk.open(FileName::CurrentTemp, OpenMode::Create);
    let file = match create() {
        // Of a try that failed.
        Err(error) if error.source.kind() == std::io::ErrorKind::AlreadyExists => {
            disk.remove(FileName::CurrentTemp)?;
            create()?
        }
        created => created?,
    };
    disk.write(&file, 0, header.encode_current().to_vec().into())?;
    disk.sync(&file)?;
    disk.rename(FileName::CurrentTemp, FileName::Current)?;
    disk.sync_dir()
}

/// Reserves space up to `bytes`, if there is so much.
pub(crate) fn reserve(file: &dyn File, bytes: u64) -> Result<(), DiskError> {
    match file.allocate(bytes) {
        Err(error) if error.is_no_space() => Ok(()),
        allocated => allocated,
    }
}
