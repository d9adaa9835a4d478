//! open: lock -> root -> segments -> torn or corrupt? -> replay -> copy the tails -> new root.
//!
//! 1. Refuse what is no store before anything is touched; lock; look again.
//! 2. CURRENT leads to the root log, the root log to the segments. Sealed segments are opened by
//!    their footers; unsealed ones are scanned, each to its first invalid byte and beyond.
//! 3. Judge: for each log, does anything testify that the first invalid byte was durable once?
//!    Then the store is corrupt, and nothing is changed. Otherwise the log ends there.
//! 4. Replay: values into the index, commits into the pointer table, up to the first whose
//!    dependency in the blob log is not met. Every pointer standing then must have its value.
//! 5. Unless the store was closed: copy the valid frames of each unsealed segment into a new file
//!    and sync it. What the page cache shows after a failed sync may not be on the device, and
//!    reading it again proves nothing; a rewritten copy does.
//! 6. Write a new root log with a new epoch, and turn CURRENT to it: one step that swaps all
//!    files. Then remove what the new root does not name.
//!
//! - R1: nothing is removed or changed before CURRENT is turned and that is durable, but what
//!   recoveries left that did not complete: it holds nothing of its own, and may hold the space
//!   that this one needs.
//! - R2: a crash anywhere leaves the old root or the new one, each with all its files.
//! - R3: epochs and ordinals found in any file's name are not used again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::env::{AtomicBool, AtomicU64, Mutex};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{
    DirectoryState, Disk, DiskExt, FileName, Lock, LogKind, OpenMode, Operation, StdDisk,
};
use pinstone_wal::{
    Appender, BlobLog, BlobLogOptions, Closing, CommitRecord, FRAMES_START, ListEntry, LogEnd,
    LogPosition, Poison, Record, RecordKind, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, Scan,
    SegmentFile, SegmentHeader, SizeClass, StoreSeed, Synced, SyncedUpto, ValueRecord, Verdict,
    corrupt, create_segment, judge, read_footer, read_header, read_list,
};

use crate::error::{Error, Result};
use crate::maintain;
use crate::options::Options;
use crate::state::digest_index::DigestIndex;
use crate::state::inner::{CommitQueue, Counters, Inner, PointerLog};
use crate::state::pointers::PointerTable;
use crate::state::reserve::Reserve;
use crate::state::root::{NUMBER_NEVER_USED, Root, RootState, Seal, SegmentState, reserve};
use crate::state::segments::Segments;
use crate::stats::Recovery;

/// Opens or creates the store in the directory `path`.
pub(crate) fn open_path(path: &Path, options: Options) -> Result<Arc<Inner>> {
    options.check()?;
    let not_a_store =
        |reason: &str| Error::NotAStore { path: path.to_owned(), reason: reason.to_owned() };
    match StdDisk::directory_state(path)? {
        DirectoryState::NotADirectory => return Err(not_a_store("it is not a directory")),
        DirectoryState::Absent if !options.create => {
            return Err(Error::StoreAbsent { path: path.to_owned() });
        }
        DirectoryState::Absent => {}
        // A store that may be created here needs a directory that a crash does not take.
        DirectoryState::Holds(names) if names.iter().any(|name| name == "CURRENT") => {
            return open(StdDisk::open(path)?, path.to_owned(), options);
        }
        DirectoryState::Empty | DirectoryState::Holds(_) => {}
    }
    let disk = if options.create { StdDisk::create(path)? } else { StdDisk::open(path)? };
    open(disk, path.to_owned(), options)
}

/// Opens or creates the store on `disk`.
pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf, options: Options) -> Result<Arc<Inner>> {
    options.check()?;
    // Before the lock file is created: a directory that is no store is not touched.
    look(&*disk, &path, &options)?;
    let lock = match disk.lock()? {
        Ok(lock) => lock,
        Err(holder) => return Err(Error::Locked { path, holder }),
    };
    // Again under the lock: another process may have created, or left, a store meanwhile.
    let found = look(&*disk, &path, &options)?;
    let was_there = match found.current {
        Some(current) => read_store(&*disk, &found.segments, current)?,
        None => Before::nothing(disk.random()?),
    };
    let inner = take_over(disk, path, options, lock, &found, was_there)?;
    maintain::start(&inner)?;
    Ok(inner)
}

/// What the directory holds.
struct Found {
    /// CURRENT's content, if there is one.
    current: Option<SegmentHeader>,
    /// Every segment's file.
    segments: BTreeSet<SegmentName>,
    /// There is a CURRENT that was not renamed.
    current_temp: bool,
    /// There is a reserve.
    reserve: bool,
}

/// A segment's file, by what its name says.
type SegmentName = (LogKind, u32, u32);

fn file_name((log, ordinal, epoch): SegmentName) -> FileName {
    FileName::Segment { log, ordinal, epoch }
}

/// Looks at the directory without changing it, and refuses what is not a store, and not to become
/// one.
fn look(disk: &dyn Disk, path: &Path, options: &Options) -> Result<Found> {
    let mut found =
        Found { current: None, segments: BTreeSet::new(), current_temp: false, reserve: false };
    let mut has_current = false;
    let mut stranger = None;
    for name in disk.list()? {
        match name.parse() {
            Ok(FileName::Lock) => {}
            Ok(FileName::Current) => has_current = true,
            Ok(FileName::CurrentTemp) => found.current_temp = true,
            Ok(FileName::Reserve) => found.reserve = true,
            Ok(name @ FileName::Segment { log, ordinal, epoch }) => {
                check_numbers(name, ordinal, epoch)?;
                found.segments.insert((log, ordinal, epoch));
            }
            Err(_) => stranger = Some(name),
        }
    }
    if has_current {
        let file = disk.open(FileName::Current, OpenMode::Read)?;
        let bytes = disk.read(&file, 0, SEGMENT_HEADER_BYTES + 1)?;
        let current = SegmentHeader::decode_current(&bytes)?;
        check_numbers(FileName::Current, current.ordinal, current.epoch)?;
        found.current = Some(current);
        return Ok(found);
    }
    let refused = |reason| Err(Error::NotAStore { path: path.to_owned(), reason });
    if let Some(stranger) = stranger {
        return refused(format!("it holds other files, such as {stranger:?}"));
    }
    // A creation that was interrupted leaves a root log at most: other segments come after CURRENT.
    let segment = found.segments.iter().find(|name| name.0 != LogKind::Root);
    let reserve = found.reserve.then_some(FileName::Reserve);
    if let Some(name) = segment.map(|name| file_name(*name)).or(reserve) {
        return refused(format!("it holds {name} of a store, but no CURRENT"));
    }
    if options.create { Ok(found) } else { Err(Error::StoreAbsent { path: path.to_owned() }) }
}

/// Each open takes an epoch greater than all, and a root log's ordinal: there must be one.
fn check_numbers(name: FileName, ordinal: u32, epoch: u32) -> Result<()> {
    if ordinal.max(epoch) < NUMBER_NEVER_USED - 1 {
        return Ok(());
    }
    Err(corrupt(name, 0, "its ordinal or epoch is one that none can follow").into())
}

/// The store as its last writer left it.
struct Before {
    store_id: [u8; 16],
    /// CURRENT's content; `None` if there was no store.
    root_header: Option<SegmentHeader>,
    root: RootState,
    blob: LogBefore,
    pointer: LogBefore,
    recovery: Recovery,
}

/// One log as its last writer left it.
#[derive(Default)]
struct LogBefore {
    sealed: Vec<SealedSegment>,
    unsealed: Vec<Unsealed>,
    /// Where the unsealed part ends; `None` if there is none.
    end: Option<LogEnd>,
}

struct SealedSegment {
    ordinal: u32,
    state: SegmentState,
    list: Vec<ListEntry>,
    /// Its header, and where its frames end: the pointer log's are read one segment at a time.
    header: SegmentHeader,
    frames_end: u64,
}

struct Unsealed {
    segment: SegmentFile,
    scan: Scan,
}

impl Before {
    fn nothing(store_id: [u8; 16]) -> Self {
        Self {
            store_id,
            root_header: None,
            root: RootState::default(),
            blob: LogBefore::default(),
            pointer: LogBefore::default(),
            recovery: Recovery { created: true, ..Recovery::default() },
        }
    }

    fn log(&self, log: LogKind) -> &LogBefore {
        match log {
            LogKind::Blob => &self.blob,
            LogKind::Pointer => &self.pointer,
            LogKind::Root => unreachable!("the root log is read before"),
        }
    }
}

/// Reads a store, and judges its logs; changes nothing.
fn read_store(
    disk: &dyn Disk,
    names: &BTreeSet<SegmentName>,
    current: SegmentHeader,
) -> Result<Before> {
    let root_scan = scan_segment(disk, current.file_name(), &current.store_id)
        .map_err(|error| missing(error, "CURRENT"))?
        .scan;
    let root = replay_root(&root_scan)?;
    let mut logs = [LogKind::Blob, LogKind::Pointer].map(|_| LogBefore::default());
    for (before, log) in logs.iter_mut().zip([LogKind::Blob, LogKind::Pointer]) {
        *before = read_log(disk, &root, log, &current.store_id)?;
    }
    let [mut blob, mut pointer] = logs;

    // Files that the root does not name are what a crash left, or what a damaged root forgot: in
    // the second case their frames testify against it. Those of a later epoch are what a recovery
    // left that did not complete: it had read what may be gone by now, so they prove nothing.
    let mut witnesses = Vec::new();
    for &name in names.iter().filter(|name| name.2 <= current.epoch) {
        let named = match name.0 {
            LogKind::Root => file_name(name) == current.file_name(),
            log => root.log(log).segments.get(&name.1).is_some_and(|s| s.epoch == name.2),
        };
        if named {
            continue;
        }
        match scan_segment(disk, file_name(name), &current.store_id) {
            Ok(witness) => witnesses.push(witness.scan),
            // What it would have said is not known: no reason to cut anything.
            Err(Error::Io { source }) if source.operation != Operation::Open => {
                return Err(source.into());
            }
            Err(_) => {}
        }
    }
    let closed = root.closed.map_or_else(Synced::default, |ends| Synced {
        blob: ends.blob,
        pointer: ends.pointer,
        root: LogPosition::START,
    });
    let verdict = Verdict {
        blob: &blob.scans(),
        pointer: &pointer.scans(),
        root: &[&root_scan],
        others: &witnesses.iter().collect::<Vec<_>>(),
        closed,
    };
    let root_end = judge(&verdict, LogKind::Root)?;
    let blob_end = judge(&verdict, LogKind::Blob)?;
    let pointer_end = judge(&verdict, LogKind::Pointer)?;
    blob.end = blob_end;
    pointer.end = pointer_end;
    let cut = [root_end, blob_end, pointer_end].into_iter().flatten().map(|end| end.bytes_cut);
    let bytes_cut = cut.sum();
    // What a writer that was closing wrote after it had said so is not known to be durable.
    let is_at = |end: Option<LogEnd>, position| end.is_none_or(|end| end.position == position);
    let clean = bytes_cut == 0
        && root
            .closed
            .is_some_and(|ends| is_at(blob_end, ends.blob) && is_at(pointer_end, ends.pointer));
    let recovery = Recovery { clean, bytes_cut, ..Recovery::default() };
    let store_id = current.store_id;
    Ok(Before { store_id, root_header: Some(current), root, blob, pointer, recovery })
}

/// A file that is not there, although `by` names it, is damage and no failure of the machine.
fn missing(error: Error, by: &str) -> Error {
    match error {
        Error::Io { source } if source.is_not_found() => {
            corrupt(source.file, 0, format!("{by} names it, and it is not there")).into()
        }
        error => error,
    }
}

/// Opens a segment and reads it whole.
fn scan_segment(disk: &dyn Disk, name: FileName, store_id: &[u8; 16]) -> Result<Unsealed> {
    let file = disk.open(name, OpenMode::Write)?;
    let header = read_header(disk, &file, &name)?;
    check_store(&header, store_id)?;
    let len_bytes = file.len_bytes()?;
    if len_bytes > SEGMENT_BYTES_MAX {
        return Err(corrupt(name, SEGMENT_BYTES_MAX, "a segment is shorter than 4 GiB").into());
    }
    let len_bytes = usize::try_from(len_bytes).expect("a segment fits the address space");
    let bytes = disk.read(&file, 0, len_bytes)?;
    Ok(Unsealed { segment: SegmentFile { header, file }, scan: Scan::of(header, bytes) })
}

fn check_store(header: &SegmentHeader, store_id: &[u8; 16]) -> Result<()> {
    if header.store_id == *store_id {
        return Ok(());
    }
    Err(corrupt(header.file_name(), 24, "it belongs to another store").into())
}

fn replay_root(scan: &Scan) -> Result<RootState> {
    let mut state = RootState::default();
    let mut failed = None;
    let mut record_count = 0;
    scan.records(scan.valid_end, |_, offset, record| {
        record_count += 1;
        let applied = if record.kind == RecordKind::RootEdit as u8 {
            state.apply_record(record.payload)
        } else {
            Err(pinstone_disk::codec::Malformed { offset: 4, what: "an edit of the root" })
        };
        if let Err(error) = applied {
            failed.get_or_insert((offset, error.what));
        }
    });
    let name = scan.header.file_name();
    match failed {
        Some((offset, what)) => Err(corrupt(name, offset, format!("expected {what}")).into()),
        // The first record is synced before CURRENT names the file.
        None if record_count == 0 => {
            let what = format!("expected {}; the root's first record is gone", scan.ended_by);
            Err(corrupt(name, scan.valid_end, what).into())
        }
        None => Ok(state),
    }
}

/// Opens all segments of one log that the root names.
fn read_log(
    disk: &dyn Disk,
    root: &RootState,
    log: LogKind,
    store_id: &[u8; 16],
) -> Result<LogBefore> {
    let mut before = LogBefore::default();
    for (&ordinal, &state) in &root.log(log).segments {
        let name = FileName::Segment { log, ordinal, epoch: state.epoch };
        let gone = |error| missing(error, "the root");
        match state.seal {
            Some(seal) => {
                let sealed = read_sealed(disk, name, ordinal, state, seal, store_id);
                before.sealed.push(sealed.map_err(gone)?);
            }
            None => before.unsealed.push(scan_segment(disk, name, store_id).map_err(gone)?),
        }
    }
    Ok(before)
}

fn read_sealed(
    disk: &dyn Disk,
    name: FileName,
    ordinal: u32,
    state: SegmentState,
    seal: Seal,
    store_id: &[u8; 16],
) -> Result<SealedSegment> {
    let file = disk.open(name, OpenMode::Read)?;
    let header = read_header(disk, &file, &name)?;
    check_store(&header, store_id)?;
    let len_bytes = file.len_bytes()?;
    if len_bytes != seal.file_bytes {
        let what = format!("it has {len_bytes} bytes, the root says {}", seal.file_bytes);
        return Err(corrupt(name, len_bytes.min(seal.file_bytes), what).into());
    }
    if len_bytes > SEGMENT_BYTES_MAX {
        return Err(corrupt(name, SEGMENT_BYTES_MAX, "a segment is shorter than 4 GiB").into());
    }
    let segment = SegmentFile { header, file };
    let (footer, footer_hash) = read_footer(disk, &segment)?;
    if footer_hash != seal.footer_hash {
        let what = "its footer is not the one that the root names";
        return Err(corrupt(name, footer.frames_end, what).into());
    }
    let list = read_list(disk, &segment, &footer)?;
    Ok(SealedSegment { ordinal, state, list, header, frames_end: footer.frames_end })
}

/// Reads the frames of a sealed segment, all of which must be whole.
fn read_frames(disk: &dyn Disk, sealed: &SealedSegment) -> Result<Scan> {
    let name = sealed.header.file_name();
    let file = disk.open(name, OpenMode::Read)?;
    let end = usize::try_from(sealed.frames_end).expect("it fits the file");
    let scan = Scan::of(sealed.header, disk.read(&file, 0, end)?);
    if scan.valid_end != sealed.frames_end || !scan.is_complete() {
        let what = format!("expected {}, in a sealed segment", scan.ended_by);
        return Err(corrupt(name, scan.valid_end, what).into());
    }
    Ok(scan)
}

/// Replays, copies, turns CURRENT, cleans up.
fn take_over(
    disk: Arc<dyn Disk>,
    path: PathBuf,
    options: Options,
    lock: Box<dyn Lock>,
    found: &Found,
    mut before: Before,
) -> Result<Arc<Inner>> {
    let store = StoreSeed::new(&before.store_id);
    let index = DigestIndex::new(disk.random()?);
    let mut recovery = std::mem::take(&mut before.recovery);
    replay_values(&mut before.blob, &index, &mut recovery)?;
    let pointers = PointerTable::default();
    let depends_upto = replay_commits(&*disk, &mut before, &pointers, &index, &mut recovery)?;
    if found.reserve {
        // The copies and the new root may need the space. It holds nothing, so R1 stands.
        Reserve::release_left(&*disk)?;
    }

    // R3: whatever a name says was in use.
    let root_epoch = before.root_header.map_or(0, |header| header.epoch);
    let epoch = found.segments.iter().map(|name| name.2).fold(root_epoch, u32::max) + 1;
    let root_ordinal = found.segments.iter().filter(|name| name.0 == LogKind::Root);
    let root_ordinal = root_ordinal.map(|name| name.1).fold(0, u32::max) + 1;
    let header = SegmentHeader {
        store_id: before.store_id,
        log: LogKind::Root,
        ordinal: root_ordinal,
        epoch,
    };

    remove_leftovers(&*disk, found, root_epoch, &mut recovery)?;
    if found.current_temp {
        disk.remove(FileName::CurrentTemp)?;
    }

    let mut state = RootState::default();
    let poison = Arc::new(Poison::default());
    let synced = Arc::new(SyncedUpto::default());
    let mut tails = BTreeMap::new();
    for log in [LogKind::Blob, LogKind::Pointer] {
        let used = found.segments.iter().filter(|name| name.0 == log).map(|name| name.1 + 1);
        let log_state = state.log_mut(log);
        log_state.next_ordinal = used.fold(before.root.log(log).next_ordinal, u32::max);
        for sealed in &before.log(log).sealed {
            log_state.segments.insert(sealed.ordinal, sealed.state);
        }
        let taken = take_tails(&*disk, before.log(log), epoch, &mut recovery)?;
        for tail in &taken.all {
            let SegmentHeader { ordinal, epoch, .. } = tail.segment.header;
            log_state.segments.insert(ordinal, SegmentState { epoch, seal: None });
        }
        if let Some(end) = before.log(log).end {
            synced.raise(log, end.position);
        }
        tails.insert(log, taken);
    }

    let root =
        Root::create(Arc::clone(&disk), Arc::clone(&synced), Arc::clone(&poison), header, state)?;
    turn_current(&*disk, &header)?;
    remove_unnamed(&*disk, found, &root, &mut recovery);
    // Files that are gone give their space back once they are closed.
    before.blob.unsealed.clear();
    before.pointer.unsealed.clear();
    root.reserve()?;
    for (log, bytes) in
        [(LogKind::Blob, options.segment_bytes), (LogKind::Pointer, options.pointer_segment_bytes)]
    {
        if let Some(active) = tails.get(&log).and_then(Tails::active) {
            reserve(&*active.segment.file, bytes)?;
        }
    }
    let reserve = Reserve::new(Arc::clone(&disk), options.reserve_bytes);
    if !root.state().blob.segments.is_empty()
        && let Err(error) = reserve.hold()
    {
        // Reads and deletions need none; the blob log asks again before it grows.
        tracing::warn!(%error, "no space is set aside");
    }

    let segments = Segments::new(Arc::clone(&disk), options.open_files_max);
    for sealed in &before.blob.sealed {
        segments.add_sealed(sealed.ordinal, sealed.state.epoch);
    }
    let blob_tails = tails.remove(&LogKind::Blob).expect("both logs' tails were taken");
    let pointer_tails = tails.remove(&LogKind::Pointer).expect("both logs' tails were taken");
    for tail in &blob_tails.all {
        segments.add_unsealed(tail.segment.clone());
    }
    let blob_options = BlobLogOptions {
        segment_bytes: options.segment_bytes,
        buffer_bytes: options.append_buffer_bytes,
    };
    let (blob_active, blob_closing) = blob_tails.split();
    let blob = BlobLog::new(
        Arc::clone(&disk),
        Arc::clone(&synced),
        Arc::clone(&poison),
        epoch,
        store,
        blob_options,
        blob_active,
        blob_closing,
    );
    let (pointer_active, pointer_closing) = pointer_tails.split();
    let appender = pointer_active.map(|tail| {
        Appender::new(
            Arc::clone(&disk),
            Arc::clone(&synced),
            Arc::clone(&poison),
            epoch,
            tail.segment,
            tail.frames_end,
            tail.sealer,
        )
    });
    let pointer_log = PointerLog {
        appender,
        closing: VecDeque::from(pointer_closing),
        closed: false,
        depends_upto,
    };
    tracing::info!(path = %path.display(), epoch, ?recovery, "store opened");
    Ok(Arc::new(Inner {
        path,
        options,
        disk,
        poison,
        synced,
        root,
        reserve,
        blob,
        index,
        segments,
        pointers,
        pointer_log: Mutex::new(pointer_log),
        commits: Mutex::new(CommitQueue::default()),
        pointer_due: AtomicBool::new(true),
        growing: Mutex::new(()),
        maintaining: Mutex::new(()),
        signal: Arc::default(),
        told_blob: AtomicU64::new(0),
        told_pointer: AtomicU64::new(0),
        counters: Counters::default(),
        recovery,
        lock: Mutex::new(Some(lock)),
    }))
}

/// Puts every value into the index, the oldest copy first.
fn replay_values(
    before: &mut LogBefore,
    index: &DigestIndex,
    recovery: &mut Recovery,
) -> Result<()> {
    for sealed in &mut before.sealed {
        for entry in std::mem::take(&mut sealed.list) {
            index.insert(entry.digest, entry.place(sealed.ordinal));
        }
    }
    for unsealed in before.kept() {
        let scan = &unsealed.scan;
        let mut failed = None;
        recovery.frames_replayed += scan.frames.len() as u64;
        scan.records(scan.valid_end, |_, offset, record| match list_entry(offset, &record) {
            Ok(entry) => {
                recovery.values_replayed += 1;
                index.insert(entry.digest, entry.place(scan.header.ordinal));
            }
            Err(what) => {
                failed.get_or_insert((offset, what));
            }
        });
        if let Some((offset, what)) = failed {
            let name = scan.header.file_name();
            return Err(corrupt(name, offset, format!("expected {what}")).into());
        }
    }
    Ok(())
}

fn list_entry(offset: u64, record: &Record<'_>) -> Result<ListEntry, &'static str> {
    if record.kind != RecordKind::Value as u8 {
        return Err("a value's record");
    }
    let value = ValueRecord::decode(record.payload).map_err(|error| error.what)?;
    Ok(ListEntry {
        digest: value.digest,
        offset_bytes: u32::try_from(offset).expect("a segment is shorter than 4 GiB"),
        class: SizeClass::covering(record.len_bytes as u64),
    })
}

impl LogBefore {
    fn scans(&self) -> Vec<&Scan> {
        self.unsealed.iter().map(|unsealed| &unsealed.scan).collect()
    }

    /// The unsealed segments up to the log's end.
    fn kept(&self) -> impl Iterator<Item = &Unsealed> {
        let last = self.end.map_or(0, |end| end.position.ordinal());
        self.unsealed.iter().filter(move |unsealed| unsealed.scan.header.ordinal <= last)
    }

    /// What a commit may depend on: everything in sealed segments, and what is valid after them.
    fn whole_upto(&self) -> LogPosition {
        match (self.end, self.sealed.last()) {
            (Some(end), _) => end.position,
            (None, Some(last)) => LogPosition::new(last.ordinal + 1, 0),
            (None, None) => LogPosition::START,
        }
    }
}

/// Applies every commit that counts; returns the last one's dependency. Where one does not, the
/// pointer log ends.
fn replay_commits(
    disk: &dyn Disk,
    before: &mut Before,
    pointers: &PointerTable,
    index: &DigestIndex,
    recovery: &mut Recovery,
) -> Result<LogPosition> {
    let whole_upto = before.blob.whole_upto();
    let mut replay = Replay { pointers, depends_upto: LogPosition::START, commits: 0 };
    for sealed in &before.pointer.sealed {
        let scan = read_frames(disk, sealed)?;
        if let Some(unmet) = replay.scan(&scan, whole_upto)? {
            let what = "a commit in a sealed segment depends on values that are gone";
            return Err(corrupt(scan.header.file_name(), unmet, what).into());
        }
    }
    let mut end = before.pointer.end;
    for unsealed in before.pointer.kept() {
        let scan = &unsealed.scan;
        recovery.frames_replayed += scan.frames.len() as u64;
        let Some(unmet) = replay.scan(scan, whole_upto)? else { continue };
        let offset = u32::try_from(unmet).expect("a segment is shorter than 4 GiB");
        let position = LogPosition::new(scan.header.ordinal, offset);
        let cut = scan.valid_end - unmet;
        end = end.map(|end| LogEnd { position, bytes_cut: end.bytes_cut + cut, complete: false });
        recovery.bytes_cut += cut;
        break;
    }
    before.pointer.end = end;
    recovery.commits_replayed = replay.commits;
    for (name, digest) in pointers.standing() {
        if index.find(&digest).is_none() {
            let what = format!("its value {digest} is in no segment");
            return Err(corrupt(format!("@{}", name.escape_ascii()), 0, what).into());
        }
    }
    Ok(replay.depends_upto)
}

struct Replay<'a> {
    pointers: &'a PointerTable,
    depends_upto: LogPosition,
    commits: u64,
}

impl Replay<'_> {
    /// Applies a segment's commits; returns the offset of the first frame whose dependency is
    /// not met. The commits of one frame were acknowledged together, or not at all.
    fn scan(&mut self, scan: &Scan, whole_upto: LogPosition) -> Result<Option<u64>> {
        let mut commits: Vec<(u64, u64, CommitRecord)> = Vec::new();
        let mut failed = None;
        scan.records(scan.valid_end, |frame, offset, record| {
            let commit = if record.kind == RecordKind::Commit as u8 {
                CommitRecord::decode(record.payload).map_err(|error| error.what)
            } else {
                Err("a commit's record")
            };
            match commit {
                Ok(commit) => commits.push((frame.offset_bytes, offset, commit)),
                Err(what) => {
                    failed.get_or_insert((offset, what.to_owned()));
                }
            }
        });
        let unmet = commits.iter().find(|(_, _, commit)| commit.depends_upto > whole_upto);
        let unmet = unmet.map(|(frame, ..)| *frame);
        let unmet = if planted::is(Bug::DependencyIgnored) { None } else { unmet };
        for (frame, offset, commit) in commits {
            if failed.is_some() || unmet.is_some_and(|unmet| frame >= unmet) {
                break;
            }
            let next = self.pointers.last_commit() + 1;
            if commit.id != next || commit.depends_upto < self.depends_upto {
                failed = Some((offset, format!("commit {next}, found {}", commit.id)));
                break;
            }
            self.depends_upto = commit.depends_upto;
            self.commits += 1;
            self.pointers.apply(commit);
        }
        match failed {
            Some((offset, what)) => {
                let name = scan.header.file_name();
                Err(corrupt(name, offset, format!("expected {what}")).into())
            }
            None => Ok(unmet),
        }
    }
}

/// The unsealed segments that the store goes on with.
struct Tails {
    all: Vec<Closing>,
    /// The last one takes no more frames.
    complete: bool,
}

impl Tails {
    /// The one to append to, if any.
    fn active(&self) -> Option<&Closing> {
        if self.complete { None } else { self.all.last() }
    }

    /// The one to append to, if any, and those to be sealed.
    fn split(mut self) -> (Option<Closing>, Vec<Closing>) {
        let active = if self.complete { None } else { self.all.pop() };
        (active, self.all)
    }
}

/// The unsealed segments of a log up to its end: copied into new files, or, if the store was
/// closed and so every byte is known to be durable, as they are.
fn take_tails(
    disk: &dyn Disk,
    before: &LogBefore,
    epoch: u32,
    recovery: &mut Recovery,
) -> Result<Tails> {
    let mut tails = Tails { all: Vec::new(), complete: false };
    let Some(end) = before.end else { return Ok(tails) };
    tails.complete = end.complete;
    for unsealed in before.kept() {
        let scan = &unsealed.scan;
        let is_last = scan.header.ordinal == end.position.ordinal();
        let frames_end = if is_last { end.position.offset_bytes() } else { scan.valid_end };
        let segment = if recovery.clean || planted::is(Bug::TailNotCopied) {
            unsealed.segment.clone()
        } else {
            copy(disk, unsealed, frames_end, epoch, recovery)?
        };
        let sealer = scan.sealer(frames_end, |sealer, offset, record| {
            if let Ok(entry) = list_entry(offset, &record) {
                sealer.value(entry);
            } else if let Ok(commit) = CommitRecord::decode(record.payload) {
                sealer.commit(commit.id);
            }
        });
        tails.all.push(Closing { segment, frames_end, sealer });
    }
    Ok(tails)
}

fn copy(
    disk: &dyn Disk,
    unsealed: &Unsealed,
    frames_end: u64,
    epoch: u32,
    recovery: &mut Recovery,
) -> Result<SegmentFile> {
    let header = SegmentHeader { epoch, ..unsealed.scan.header };
    let segment = create_segment(disk, header, frames_end)?;
    let start = usize::try_from(FRAMES_START).expect("it is small");
    let end = usize::try_from(frames_end).expect("the file was read whole");
    let frames: Bytes = unsealed.scan.bytes.slice(start..end);
    recovery.bytes_copied += frames.len() as u64;
    disk.write(&segment.file, FRAMES_START, frames)?;
    disk.sync(&segment.file)?;
    Ok(segment)
}

/// Makes CURRENT name this root log; durable on return.
fn turn_current(disk: &dyn Disk, header: &SegmentHeader) -> Result<()> {
    let file = disk.open(FileName::CurrentTemp, OpenMode::Create)?;
    disk.write(&file, 0, header.encode_current().to_vec().into())?;
    disk.sync(&file)?;
    disk.rename(FileName::CurrentTemp, FileName::Current)?;
    disk.sync_dir()?;
    Ok(())
}

/// Gives back the space of what recoveries left that did not complete. One name of the highest
/// epoch stays until CURRENT is turned, so that the epoch is not used again (R3). All of it is
/// durably gone or empty before CURRENT is turned (creating the root log syncs the names): under a
/// CURRENT of a later epoch it would testify, of bytes that these recoveries read and a crash took.
fn remove_leftovers(
    disk: &dyn Disk,
    found: &Found,
    root_epoch: u32,
    recovery: &mut Recovery,
) -> Result<()> {
    let leftovers = || found.segments.iter().filter(|name| name.2 > root_epoch);
    let kept = leftovers().max_by_key(|name| name.2);
    for name in leftovers() {
        let file = match disk.open(file_name(*name), OpenMode::Write) {
            Ok(file) => file,
            Err(error) => {
                // What cannot be opened does not testify.
                tracing::warn!(%error, "a file that is not needed stays");
                continue;
            }
        };
        if Some(name) == kept {
            file.set_len(0)?;
            disk.sync(&file)?;
        } else {
            disk.remove(file_name(*name))?;
            recovery.files_removed += 1;
        }
    }
    Ok(())
}

/// Removes every file that the new root does not name. What cannot be removed now is tried again
/// at the next open: it takes room, and nothing else.
fn remove_unnamed(disk: &dyn Disk, found: &Found, root: &Root, recovery: &mut Recovery) {
    let state = root.state();
    for &name in &found.segments {
        let named = match name.0 {
            LogKind::Root => false,
            log => state.log(log).segments.get(&name.1).is_some_and(|s| s.epoch == name.2),
        };
        if named {
            continue;
        }
        match disk.remove(file_name(name)) {
            Ok(()) => recovery.files_removed += 1,
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(%error, "a file that is not needed stays"),
        }
    }
    if recovery.files_removed > 0
        && let Err(error) = disk.sync_dir()
    {
        tracing::warn!(%error, "files that are not needed may stay");
    }
}
