//! Reading a store as its last writer left it, and judging where its logs end. Changes nothing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::TableId;
use pinstone_disk::codec::size;
use pinstone_disk::{
    Disk, DiskError, DiskExt, Epoch, File, FileHeader, FileKind, FileName, FormatError,
    HEADER_BYTES, LogKind, OpenMode, Ordinal, StoreId,
};
use pinstone_wal::{
    CarriedFrames, FRAMES_START_BYTES, LastSealed, ListEntry, LogEnd, LogPosition, RecordKind,
    SEGMENT_BYTES_MAX, Scan, Sealer, SegmentFile, SegmentHeader, Synced, Verdict, corrupt,
    decode_header, judge, read_footer, read_header, read_list,
};

use super::look::{Found, SegmentName};
use crate::error::{Error, Result};
use crate::state::root::{RootState, Seal, SegmentState};
use crate::stats::Recovery;

/// The store as its last writer left it.
pub(super) struct Before {
    pub(super) store_id: StoreId,
    /// The log that CURRENT names; `None` if there was no store.
    pub(super) root_log: Option<Unsealed>,
    pub(super) root: RootState,
    pub(super) blob: LogBefore,
    pub(super) pointer: LogBefore,
    /// Files of other stores that lie in the directory: they are left alone.
    pub(super) strangers: BTreeSet<SegmentName>,
    /// The same, tables.
    pub(super) strange_tables: BTreeSet<TableId>,
    pub(super) recovery: Recovery,
}

/// One log as its last writer left it.
#[derive(Default)]
pub(super) struct LogBefore {
    pub(super) sealed: Vec<SealedSegment>,
    pub(super) unsealed: Vec<Unsealed>,
    /// Where the unsealed part ends; `None` if there is none.
    pub(super) end: Option<LogEnd>,
}

pub(super) struct SealedSegment {
    pub(super) ordinal: Ordinal,
    pub(super) state: SegmentState,
    /// What it holds, unless all of that stands in tables: then its file is not opened.
    pub(super) unflushed: Option<Unflushed>,
}

/// What is read of a sealed segment.
pub(super) struct Unflushed {
    pub(super) list: Vec<ListEntry>,
    /// Its header, and where its frames end: the pointer log's are read one segment at a time.
    pub(super) header: SegmentHeader,
    pub(super) frames_end_bytes: u64,
}

pub(super) struct Unsealed {
    pub(super) segment: SegmentFile,
    pub(super) scan: Scan,
    /// The file does not have all that the scan is of: the pointer log carries it.
    pub(super) is_laid: bool,
    /// What sealing its frames will write, once replay has gathered it: values are many.
    pub(super) sealer: Option<Sealer>,
}

impl Before {
    pub(super) fn nothing(store_id: StoreId) -> Self {
        Self {
            store_id,
            root_log: None,
            root: RootState::default(),
            blob: LogBefore::default(),
            pointer: LogBefore::default(),
            strangers: BTreeSet::new(),
            strange_tables: BTreeSet::new(),
            recovery: Recovery { created: true, ..Recovery::default() },
        }
    }

    /// CURRENT's content; `None` if there was no store.
    pub(super) fn root_header(&self) -> Option<&SegmentHeader> {
        self.root_log.as_ref().map(|log| &log.scan.header)
    }

    /// The epoch of the last open for writing that took the store over; `None` if there was no
    /// store.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.root_header().map(|header| header.epoch)
    }

    /// One log.
    pub(super) fn log(&mut self, log: LogKind) -> &mut LogBefore {
        match log {
            LogKind::Blob => &mut self.blob,
            LogKind::Pointer => &mut self.pointer,
            LogKind::Root => unreachable!("the root log is read before"),
        }
    }
}

impl LogBefore {
    fn scans(&self) -> Vec<&Scan> {
        self.unsealed.iter().map(|unsealed| &unsealed.scan).collect()
    }

    /// The unsealed segments up to the log's end.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Unsealed> {
        let last = self.end.map(|end| end.position.ordinal());
        self.unsealed.iter().filter(move |unsealed| Some(unsealed.scan.header.ordinal) <= last)
    }

    /// The same, to be changed.
    pub(super) fn kept_mut(&mut self) -> impl Iterator<Item = &mut Unsealed> {
        let last = self.end.map(|end| end.position.ordinal());
        self.unsealed.iter_mut().filter(move |unsealed| Some(unsealed.scan.header.ordinal) <= last)
    }

    /// What a commit may depend on: everything in sealed segments, and what is valid after them.
    pub(super) fn whole_upto(&self) -> LogPosition {
        match (self.end, self.sealed.last()) {
            (Some(end), _) => end.position,
            // No segment is longer.
            (None, Some(last)) => LogPosition::new(last.ordinal, u32::MAX),
            (None, None) => LogPosition::START,
        }
    }
}

/// Reads a store, and judges its logs; changes nothing.
pub(super) fn read_store(disk: &dyn Disk, found: &Found, current: SegmentHeader) -> Result<Before> {
    let nothing = CarriedFrames::default();
    let root_log = scan_segment(disk, current.file_name(), &current.store_id, &nothing)
        .map_err(|error| missing(error, "CURRENT"))?;
    let root_scan = &root_log.scan;
    let root = replay_root(root_scan)?;
    let read = |log, carried: &CarriedFrames| {
        read_log(disk, &root, log, &current.store_id, carried)
            .map_err(|error| damage_of_root(disk, found, root_scan).unwrap_or(error))
    };
    let mut pointer = read(LogKind::Pointer, &nothing)?;
    let carried = CarriedFrames::of(pointer.scans())?;
    let mut blob = read(LogKind::Blob, &carried)?;

    // Files that the root does not name are what a crash left, or what a damaged root forgot: in
    // the second case their frames testify against it. Those of a later epoch are what a recovery
    // left that did not complete: it had read what may be gone by now, so they prove nothing.
    let mut witnesses = Vec::new();
    let mut strangers = BTreeSet::new();
    for &name in &found.segments {
        let in_force = match name.log {
            LogKind::Root => None,
            log => root.log(log).segments.get(&name.ordinal).map(|segment| segment.epoch),
        };
        if in_force == Some(name.epoch) || name.file_name() == current.file_name() {
            continue;
        }
        let looked = match look_into(disk, name, &current) {
            Err(Error::Io { source })
                if source.is_unreadable_file() && is_done_with(name, &root, &current) =>
            {
                Unnamed::Remnant
            }
            looked => looked?,
        };
        match looked {
            Unnamed::Remnant | Unnamed::Leftover => {}
            Unnamed::Stranger => {
                strangers.insert(name);
            }
            Unnamed::Witness(scan) => witnesses.push(*scan),
        }
    }
    let strange_tables = strange_tables(disk, &root, found, &current)?;
    let closed = root.closed.map_or_else(Synced::default, |ends| Synced {
        blob: ends.blob,
        pointer: ends.pointer,
        root: LogPosition::START,
    });
    let verdict = Verdict {
        blob: &blob.scans(),
        pointer: &pointer.scans(),
        root: &[root_scan],
        others: &witnesses.iter().collect::<Vec<_>>(),
        sealed: LastSealed {
            blob: blob.sealed.last().map(|last| last.ordinal),
            pointer: pointer.sealed.last().map(|last| last.ordinal).max(flushed_upto(&root)),
        },
        closed,
    };
    let root_end = judge(&verdict, LogKind::Root)?;
    let blob_end = judge(&verdict, LogKind::Blob)?;
    let pointer_end = judge(&verdict, LogKind::Pointer)?;
    blob.end = blob_end;
    pointer.end = pointer_end;
    let cut = [root_end, blob_end, pointer_end].into_iter().flatten().map(|end| end.cut_bytes);
    let bytes_cut = cut.sum();
    // What a writer that was closing wrote after it had said so is not known to be durable.
    let is_at = |end: Option<LogEnd>, position| end.is_none_or(|end| end.position == position);
    let is_laid = |before: &LogBefore| before.unsealed.iter().any(|unsealed| unsealed.is_laid);
    let clean = bytes_cut == 0
        && !is_laid(&blob)
        && root
            .closed
            .is_some_and(|ends| is_at(blob_end, ends.blob) && is_at(pointer_end, ends.pointer));
    let recovery = Recovery { clean, bytes_cut, ..Recovery::default() };
    let store_id = current.store_id;
    Ok(Before {
        store_id,
        root_log: Some(root_log),
        root,
        blob,
        pointer,
        strangers,
        strange_tables,
        recovery,
    })
}

/// Segments of each log that are asked what they say of the root: of two, the newer says more, and of
/// the newest some may be empty.
const ASKED_SEGMENTS: usize = 4;

/// What was named and could not be read may be named by an end of the root's log that damage has made
/// the end: then that is what there is to tell. None if nothing says so.
fn damage_of_root(disk: &dyn Disk, found: &Found, root: &Scan) -> Option<Error> {
    let judge_with = |others: &[&Scan]| {
        let verdict = Verdict {
            blob: &[],
            pointer: &[],
            root: &[root],
            others,
            sealed: LastSealed::default(),
            closed: Synced::default(),
        };
        judge(&verdict, LogKind::Root).err().map(Error::from)
    };
    let newest = |log| {
        let of_log = move |name: &&SegmentName| name.log == log && name.epoch <= root.header.epoch;
        found.segments.iter().rev().filter(of_log).take(ASKED_SEGMENTS)
    };
    judge_with(&[]).or_else(|| {
        [LogKind::Pointer, LogKind::Blob].into_iter().flat_map(newest).find_map(|name| {
            let (file, store_id) = (name.file_name(), &root.header.store_id);
            let witness = scan_segment(disk, file, store_id, &CarriedFrames::default()).ok()?;
            judge_with(&[&witness.scan])
        })
    })
}

/// The last segment of the pointer log that is gone, because all of it stands in tables.
fn flushed_upto(root: &RootState) -> Option<Ordinal> {
    let below = root.names.flushed.below;
    (below > Ordinal::FIRST).then(|| Ordinal(below.0 - 1))
}

/// Tables that the root does not name and that are another store's. A writer makes tables only after
/// CURRENT was turned to its root: if CURRENT names an older one, somebody brought that back.
fn strange_tables(
    disk: &dyn Disk,
    root: &RootState,
    found: &Found,
    current: &SegmentHeader,
) -> Result<BTreeSet<TableId>> {
    let named = root.table_ids();
    let is_spent =
        |id: TableId| id.epoch <= current.epoch && id.ordinal < root.tree(id.table).next_ordinal;
    let mut strange = BTreeSet::new();
    for &id in found.tables.difference(&named) {
        let name = id.file_name();
        let opened = disk.open(name, OpenMode::Read);
        let bytes = match opened.and_then(|file| disk.read(&file, 0, HEADER_BYTES)) {
            // A reader of the store as it was before has let go of it meanwhile.
            Err(error) if error.is_not_found() => continue,
            // Its ordinal was given, by the root's own writers, to a table that is not among its tables now.
            Err(error) if error.is_unreadable_file() && is_spent(id) => continue,
            bytes => bytes?,
        };
        match FileHeader::decode(&name, &bytes) {
            Ok(header) if header == id.header(current.store_id) => {
                if id.epoch > current.epoch {
                    return Err(was_older(name));
                }
            }
            Ok(_) | Err(FormatError::Unsupported { .. }) => {
                strange.insert(id);
            }
            // What a crash left.
            Err(FormatError::Corrupt { .. }) => {}
        }
    }
    Ok(strange)
}

/// A file that the root does not name.
enum Unnamed {
    /// Of a writer that had taken the store over: it testifies.
    Witness(Box<Scan>),
    /// Of a later epoch: of a recovery that did not complete.
    Leftover,
    /// Another store's, or under another file's name: whoever put it here may want it.
    Stranger,
    /// It has no whole header: what a crash left of a creation. Or the root is done with it, and it cannot be read.
    Remnant,
}

/// Whether the root itself says that nothing of this file is needed, not even its testimony: then it may be that
/// it cannot be read. The root says so in a frame that is newer than all of the file's, and that testifies to
/// as much; so no damage behind that frame can have made it say so.
///
/// Of any other file it is not known what it would say. The end of the root's log may have been lost, and with
/// it all that names a segment of the pointer log from where names do not stand in tables, or of the blob log.
fn is_done_with(name: SegmentName, root: &RootState, current: &SegmentHeader) -> bool {
    let SegmentName { log, ordinal, epoch } = name;
    if log == LogKind::Root {
        // One that this one replaced.
        return epoch <= current.epoch && ordinal < current.ordinal;
    }
    let is_retired = log == LogKind::Pointer && ordinal < root.names.flushed.below;
    match root.log(log).segments.get(&ordinal) {
        // A recovery judged what it says, and copied it.
        Some(in_force) => epoch < in_force.epoch,
        None => epoch <= current.epoch && is_retired,
    }
}

fn look_into(disk: &dyn Disk, name: SegmentName, current: &SegmentHeader) -> Result<Unnamed> {
    let file = name.file_name();
    let opened = disk.open(file, OpenMode::Write)?;
    let bytes = disk.read(&opened, 0, HEADER_BYTES)?;
    match FileHeader::decode(&file, &bytes) {
        Ok(header) if header.store_id == current.store_id && is_of(&header, name) => {}
        // A crash leaves no sound header of another file, nor one of a later build.
        Ok(_) | Err(FormatError::Unsupported { .. }) => return Ok(Unnamed::Stranger),
        Err(FormatError::Corrupt { .. }) => return Ok(Unnamed::Remnant),
    }
    let scan = match scan_segment(disk, file, &current.store_id, &CarriedFrames::default()) {
        Ok(unnamed) => unnamed.scan,
        // What it would have said is not known: no reason to cut anything, or to remove it.
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(_) => return Ok(Unnamed::Remnant),
    };
    if name.epoch > current.epoch {
        was_not_in_force(&scan)?;
        return Ok(Unnamed::Leftover);
    }
    // The root's log is written anew now and then, under the next ordinal.
    if name.log == LogKind::Root && name.ordinal > current.ordinal {
        was_not_in_force(&scan)?;
    }
    Ok(Unnamed::Witness(Box::new(scan)))
}

fn is_of(header: &FileHeader, name: SegmentName) -> bool {
    let SegmentName { log, ordinal, epoch } = name;
    (header.kind, header.ordinal, header.epoch) == (FileKind::Log(log), ordinal, epoch)
}

/// Only after CURRENT was turned to it, durably, does a writer append a second frame to its root
/// log, or any to another log: what a recovery copies was composed in epochs before. If CURRENT names
/// an older root, somebody brought that back, and what came after would be lost.
fn was_not_in_force(scan: &Scan) -> Result<()> {
    let header = scan.header;
    let was_in_force = match header.log {
        LogKind::Root => scan.frames.len() > 1,
        _ => scan.frames.iter().any(|frame| frame.header.epoch == header.epoch),
    };
    if !was_in_force {
        return Ok(());
    }
    Err(was_older(header.file_name()))
}

/// CURRENT names an older root than there was.
fn was_older(newer: FileName) -> Error {
    let what = format!("it names an older root than there was: {newer} was written to since");
    corrupt(FileName::Current, 40, what).into()
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

/// Opens a segment and reads it whole, with what is carried of it.
fn scan_segment(
    disk: &dyn Disk,
    name: FileName,
    store_id: &StoreId,
    carried: &CarriedFrames,
) -> Result<Unsealed> {
    let file = disk.open(name, OpenMode::Write)?;
    let len_bytes = file.len_bytes()?;
    if len_bytes > SEGMENT_BYTES_MAX {
        return Err(corrupt(name, SEGMENT_BYTES_MAX, "a segment is shorter than 4 GiB").into());
    }
    let len_bytes = usize::try_from(len_bytes).expect("a segment fits the address space");
    let bytes = disk.read(&file, 0, len_bytes).or_else(|error| match name {
        // What cannot be read may be what is carried.
        FileName::Segment { log: LogKind::Blob, ordinal, .. } => {
            let mut parts = carried.around(ordinal, len_bytes as u64);
            parts.push(0..FRAMES_START_BYTES.min(len_bytes as u64));
            read_parts(disk, &file, &parts, len_bytes).map_err(|_| error)
        }
        _ => Err(error),
    })?;
    let header = decode_header(&bytes, &name)?;
    check_store(&header, store_id)?;
    let segment = SegmentFile { header, file };
    let (bytes, is_laid) = match header.log {
        LogKind::Blob => carried.lay(header.ordinal, bytes),
        LogKind::Pointer | LogKind::Root => (bytes, false),
    };
    Ok(Unsealed { segment, scan: Scan::of(header, bytes), is_laid, sealer: None })
}

/// These parts of a file, zeros between them, `len_bytes` in all.
fn read_parts(
    disk: &dyn Disk,
    file: &Arc<dyn File>,
    parts: &[Range<u64>],
    len_bytes: usize,
) -> Result<Bytes, DiskError> {
    let mut bytes = vec![0; len_bytes];
    for Range { start, end } in parts {
        let part = disk.read(file, *start, size(end - start))?;
        // The file may have become shorter.
        let start = size(*start);
        bytes[start..start + part.len()].copy_from_slice(&part);
    }
    Ok(bytes.into())
}

fn check_store(header: &SegmentHeader, store_id: &StoreId) -> Result<()> {
    if header.store_id == *store_id {
        return Ok(());
    }
    Err(corrupt(header.file_name(), 24, "it belongs to another store").into())
}

fn replay_root(scan: &Scan) -> Result<RootState> {
    let mut state = RootState::default();
    let mut failed = None;
    let mut record_count = 0;
    scan.records(scan.valid_end_bytes, |_, offset, record| {
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
            Err(corrupt(name, scan.valid_end_bytes, what).into())
        }
        None => Ok(state),
    }
}

/// Opens the segments of one log that the root names, but those whose content stands in tables.
fn read_log(
    disk: &dyn Disk,
    root: &RootState,
    log: LogKind,
    store_id: &StoreId,
    carried: &CarriedFrames,
) -> Result<LogBefore> {
    let mut before = LogBefore::default();
    let flushed_below = match log {
        LogKind::Blob => root.index.flushed.below,
        _ => root.names.flushed.below,
    };
    for (&ordinal, &state) in &root.log(log).segments {
        let name = FileName::Segment { log, ordinal, epoch: state.epoch };
        let gone = |error| missing(error, "the root");
        match state.seal {
            Some(seal) => {
                let unflushed = if ordinal < flushed_below {
                    None
                } else {
                    Some(read_sealed(disk, name, seal, store_id).map_err(gone)?)
                };
                before.sealed.push(SealedSegment { ordinal, state, unflushed });
            }
            None => {
                before.unsealed.push(scan_segment(disk, name, store_id, carried).map_err(gone)?);
            }
        }
    }
    Ok(before)
}

fn read_sealed(
    disk: &dyn Disk,
    name: FileName,
    seal: Seal,
    store_id: &StoreId,
) -> Result<Unflushed> {
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
        return Err(corrupt(name, footer.frames_end_bytes, what).into());
    }
    let list = read_list(disk, &segment, &footer)?;
    Ok(Unflushed { list, header, frames_end_bytes: footer.frames_end_bytes })
}
