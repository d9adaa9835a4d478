//! check: every file of the store, every value if asked, every pointer; nothing is changed. The index
//! is held against the lists that it was made from.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::TableError;
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::run::{Index, Names, Tree};
use pinstone_compaction::table::shared::Tables;
use pinstone_disk::codec::size;
use pinstone_disk::env::Mutex;
use pinstone_disk::{
    Digest, DiskError, DiskExt, Escaped, File, FileName, FormatError, HEADER_BYTES, LogKind,
    OpenMode, Ordinal,
};
use pinstone_wal::{
    CarriedRecord, CommitRecord, FRAMES_START_BYTES, ListEntry, RecordKind, Scan, Sealer,
    SegmentFile, SegmentHeader, SizeClass, ValueRecord, WalError, check_list, corrupt, read_footer,
    read_header,
};

use crate::error::{Error, Result};
use crate::ops::get;
use crate::state::digest_index::IndexView;
use crate::state::inner::{Access, Inner};
use crate::state::root::{Seal, SegmentState};
use crate::stats::{CheckOptions, CheckReport, Finding};

/// Looks at everything; what is wrong is in the report, what prevents looking is an error.
pub(crate) fn check(inner: &Inner, options: &CheckOptions) -> Result<CheckReport> {
    refuse_if_closed(inner)?;
    // What is only in memory has no bytes to check. A full disk is no damage.
    match inner.blob.write_out() {
        Ok(()) | Err(WalError::Disk(_) | WalError::Poisoned { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    // Together: what tables hold, and which segments that is.
    let (state, index, names) = {
        let _work = inner.trees.work.lock();
        (inner.root.state(), inner.index.keep(), inner.pointers.levels())
    };
    let segments = |log| {
        let named = move |(&ordinal, &state): (&Ordinal, &SegmentState)| (log, ordinal, state);
        state.log(log).segments.iter().map(named)
    };
    let all: Vec<_> = segments(LogKind::Blob).chain(segments(LogKind::Pointer)).collect();
    let sizes = all.iter().map(|(.., state)| state.seal.map_or(0, |seal| seal.file_bytes));
    let mut check = Check {
        inner,
        options,
        report: CheckReport::default(),
        // Of a forged root, any.
        bytes_total: sizes.fold(0, u64::saturating_add),
        bad: BTreeSet::new(),
        index: &index,
        names: &names,
        flushed_below: state.index.flushed.below,
        is_index_whole: true,
        listed_count: 0,
        left_out_count: 0,
    };
    check.root()?;
    check.tables()?;
    for (log, ordinal, state) in all {
        check.segment(log, ordinal, state)?;
    }
    check.index_rows();
    check.pointers()?;
    let report = check.told();
    refuse_if_closed(inner)?;
    Ok(report)
}

/// The files may be another opener's by now, or may have been while they were looked at.
fn refuse_if_closed(inner: &Inner) -> Result<()> {
    match *inner.lock.lock() {
        Access::Locked(_) => Ok(()),
        Access::Closed { .. } => Err(Error::Poisoned { cause: "it was closed".to_owned() }),
    }
}

struct Check<'a> {
    inner: &'a Inner,
    options: &'a CheckOptions,
    report: CheckReport,
    bytes_total: u64,
    /// Values of which a copy was found damaged.
    bad: BTreeSet<Digest>,
    index: &'a IndexView,
    names: &'a OpenLevels<Names>,
    /// What segments below this one list stands in tables.
    flushed_below: Ordinal,
    /// No damage was found in the index' tables.
    is_index_whole: bool,
    /// Entries of the lists of those segments.
    listed_count: u64,
    /// Findings beyond those that are listed.
    left_out_count: u64,
}

/// Findings that are listed. Where a segment cannot be read each pointer to its values is one.
const FINDINGS_MAX: usize = 10_000;

/// Bytes that are read at once where the device cannot read all of a file.
const AROUND_BYTES: usize = 4096;

impl Check<'_> {
    /// Notes damage; passes on what is not damage.
    fn note<T>(&mut self, result: Result<T, WalError>) -> Result<Option<T>> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(WalError::Format(error)) => {
                self.note_damage(error);
                Ok(None)
            }
            Err(WalError::Disk(error)) if error.is_not_found() => {
                self.find(error.file, None, "the root names it, and it is not there".to_owned());
                Ok(None)
            }
            Err(WalError::Disk(error)) if error.is_unreadable() => {
                self.note_unreadable(error)?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn note_damage(&mut self, error: FormatError) {
        match error {
            FormatError::Corrupt { file, offset_bytes, what } => {
                self.find(file, Some(offset_bytes), what);
            }
            FormatError::Unsupported { file, what } => self.find(file, None, what),
        }
    }

    /// Notes what of a file cannot be read, from where a read failed on.
    ///
    /// # Errors
    /// All of it can be read now: an operation that failed once is no damage.
    fn note_unreadable(&mut self, error: DiskError) -> Result<()> {
        let known = self.found_count();
        if let Ok(name) = error.file.parse::<FileName>()
            && let Ok(file) = self.inner.disk.open(name, OpenMode::Read)
        {
            let len_bytes = size(file.len_bytes()?);
            let from = size(error.offset_bytes.unwrap_or(0)).min(len_bytes);
            self.read_around(&file, from..len_bytes)?;
        }
        if self.found_count() == known { Err(error.into()) } else { Ok(()) }
    }

    fn find(&mut self, file: impl Into<Place>, offset_bytes: Option<u64>, what: String) {
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding { file: file.into().0, offset_bytes, what });
        } else {
            self.left_out_count += 1;
        }
    }

    fn found_count(&self) -> u64 {
        self.report.findings.len() as u64 + self.left_out_count
    }

    /// All that was found but for so many.
    fn forget(&mut self, known: u64) {
        self.left_out_count = known.saturating_sub(self.report.findings.len() as u64);
        self.report.findings.truncate(size(known));
    }

    /// What was found, and, if that is much, how much more.
    fn told(mut self) -> CheckReport {
        if self.left_out_count > 0 {
            let what = format!("{} more findings are not listed", self.left_out_count);
            let file = "the store".to_owned();
            self.report.findings.push(Finding { file, offset_bytes: None, what });
        }
        self.report
    }

    fn read_whole(&mut self, name: FileName) -> Result<Option<(SegmentFile, Bytes)>> {
        let opened = self.open(name);
        let Some(segment) = self.note(opened)? else { return Ok(None) };
        let len_bytes = segment.file.len_bytes()?;
        let len = usize::try_from(len_bytes).expect("a file fits the address space");
        let bytes = match self.inner.disk.read(&segment.file, 0, len) {
            Err(error) if error.is_unreadable() => self.read_around(&segment.file, 0..len)?,
            read => read?,
        };
        self.progress(bytes.len() as u64);
        Ok(Some((segment, bytes)))
    }

    /// The bytes of a file in this range, with zeros where the device cannot read them, which is noted.
    fn read_around(&mut self, file: &Arc<dyn File>, range: Range<usize>) -> Result<Bytes> {
        let mut bytes = vec![0; range.len()];
        // Blocks that follow each other are told together: of a dead device there are very many.
        let mut before_failed = false;
        for (nth, block) in bytes.chunks_mut(AROUND_BYTES).enumerate() {
            let offset_bytes = (range.start + nth * AROUND_BYTES) as u64;
            match self.inner.disk.read(file, offset_bytes, block.len()) {
                Ok(read) => {
                    block[..read.len()].copy_from_slice(&read);
                    before_failed = false;
                }
                Err(error) if error.is_unreadable() => {
                    if !std::mem::replace(&mut before_failed, true) {
                        let what = format!("from here on it cannot be read: {}", error.source);
                        self.find(error.file, Some(offset_bytes), what);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes.into())
    }

    fn open(&mut self, name: FileName) -> Result<SegmentFile, WalError> {
        self.report.file_count += 1;
        let disk = &*self.inner.disk;
        let file = disk.open(name, OpenMode::Read)?;
        let header = read_header(disk, &file, &name)?;
        if header.store_id != self.inner.root.header().store_id {
            return Err(corrupt(name, 24, "it belongs to another store"));
        }
        Ok(SegmentFile { header, file })
    }

    fn progress(&mut self, bytes: u64) {
        self.report.bytes_read += bytes;
        if let Some(progress) = &self.options.progress {
            progress(self.report.bytes_read, self.bytes_total.max(self.report.bytes_read));
        }
    }

    /// CURRENT, and the root log that it names: again, if that is written anew meanwhile.
    fn root(&mut self) -> Result<()> {
        loop {
            let header = self.inner.root.header();
            let known = self.found_count();
            self.root_log(header)?;
            if self.found_count() == known || self.inner.root.header() == header {
                return Ok(());
            }
            self.forget(known);
        }
    }

    fn root_log(&mut self, header: SegmentHeader) -> Result<()> {
        let disk = &*self.inner.disk;
        let end = self.inner.root.end();
        let current = disk
            .open(FileName::Current, OpenMode::Read)
            .and_then(|file| disk.read(&file, 0, HEADER_BYTES + 1))
            .map_err(WalError::from)
            .and_then(|bytes| Ok(SegmentHeader::decode_current(&bytes)?));
        self.report.file_count += 1;
        if let Some(current) = self.note(current)?
            && current != header
        {
            let what = format!("it names {}, not {}", current.file_name(), header.file_name());
            self.find(FileName::Current, Some(40), what);
        }
        if let Some((_, bytes)) = self.read_whole(header.file_name())? {
            let end = if end.ordinal() == header.ordinal { end.offset_bytes() } else { 0 };
            self.frames(&Scan::of(header, bytes), end);
        }
        Ok(())
    }

    /// Every table of both trees, and how they stand in their levels.
    fn tables(&mut self) -> Result<()> {
        let (index, names) = (self.index, self.names);
        self.is_index_whole = self.tree::<Index>(index.levels(), |table| table.check(|_row| {}))?;
        self.tree::<Names>(names, |table| table.check(|_entry| {}))?;
        Ok(())
    }

    fn tree<T: Tree>(
        &mut self,
        levels: &OpenLevels<T>,
        check: impl Fn(&Arc<T::Table>) -> Result<(), TableError>,
    ) -> Result<bool> {
        let mut is_whole = true;
        for fault in levels.levels().check() {
            is_whole = false;
            self.find(self.inner.root.header().file_name(), None, fault.to_string());
        }
        let store_id = self.inner.root.header().store_id;
        let anew = Tables::new(Arc::clone(&self.inner.disk), store_id, 1, 0);
        for (_, table) in levels.all() {
            self.report.file_count += 1;
            let meta = T::file(table).meta();
            // By its name, as the next open will: not through what is open, or in memory.
            let opened = T::open(&anew, meta.clone());
            let checked = opened.and_then(|table| check(&Arc::new(table)));
            self.progress(T::file(table).meta().file_bytes);
            match checked {
                Ok(()) => {}
                Err(TableError::Format(error)) => {
                    is_whole = false;
                    self.note_damage(error);
                }
                Err(TableError::Disk(error)) if error.is_unreadable() => {
                    is_whole = false;
                    self.note_unreadable(error)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(is_whole)
    }

    /// The index leads to every entry of a sealed segment's list.
    fn is_led_to(&mut self, name: FileName, ordinal: Ordinal, list: &[ListEntry]) -> Result<()> {
        if ordinal < self.flushed_below {
            self.listed_count += list.len() as u64;
        }
        if !self.is_index_whole {
            return Ok(());
        }
        let index = &self.inner.index;
        for entry in list {
            let place = entry.place(ordinal);
            let mut is_found = self.index.in_memory(&entry.digest).any(|found| found == place);
            if !is_found {
                let looked = self.index.in_tables(&entry.digest, index.key_bits(), |found| {
                    is_found |= found == place;
                    if is_found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                match looked {
                    Ok(_) => {}
                    Err(_) if is_found => {}
                    // It came since the tables were looked at.
                    Err(TableError::Format(error)) => {
                        self.is_index_whole = false;
                        self.note_damage(error);
                        return Ok(());
                    }
                    Err(TableError::Disk(error)) if error.is_unreadable() => {
                        self.is_index_whole = false;
                        return self.note_unreadable(error);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            // What was appended since the index was looked at is in what it is now.
            if !is_found && !index.view().in_memory(&entry.digest).any(|found| found == place) {
                let what = format!("the index does not lead to value {}", entry.digest);
                self.find(name, Some(u64::from(entry.offset_bytes)), what);
            }
        }
        Ok(())
    }

    /// Tables have no more rows than the lists have entries.
    fn index_rows(&mut self) {
        let row_count = self.index.levels().levels().total().entry_count;
        if self.is_index_whole && self.report.findings.is_empty() && row_count != self.listed_count
        {
            let what = format!(
                "the index' tables have {row_count} rows, the lists that they were made from {}",
                self.listed_count
            );
            self.find(self.inner.root.header().file_name(), None, what);
        }
    }

    /// The frames of a segment are whole up to `end`.
    fn frames(&mut self, scan: &Scan, end: u64) -> bool {
        if scan.valid_end_bytes < end {
            let what = format!("expected {}; the last good frame ends here", scan.ended_by);
            self.find(scan.header.file_name(), Some(scan.valid_end_bytes), what);
        }
        scan.valid_end_bytes >= end
    }

    fn segment(&mut self, log: LogKind, ordinal: Ordinal, state: SegmentState) -> Result<()> {
        let name = FileName::Segment { log, ordinal, epoch: state.epoch };
        let known = self.found_count();
        match state.seal {
            Some(seal) => self.sealed(name, seal)?,
            None => self.unsealed(name)?,
        }
        if self.found_count() > known && !self.inner.root.has_segment(log, ordinal) {
            // It has left the log meanwhile, because what it holds stands in tables.
            self.forget(known);
        }
        Ok(())
    }

    fn unsealed(&mut self, name: FileName) -> Result<()> {
        let FileName::Segment { log, ordinal, .. } = name else { return Ok(()) };
        // Before the file is read: what is durable now must be in it, and of the blob log what commits carry
        // instead, which was written.
        let durable = match log {
            LogKind::Blob => self.inner.blob.safe_upto(),
            _ => self.inner.writer.synced.of(log),
        };
        let written_upto = self.inner.blob.written_upto();
        let Some((segment, bytes)) = self.read_whole(name)? else { return Ok(()) };
        let known = self.found_count();
        let scan = Scan::of(segment.header, bytes);
        let end = if durable.ordinal() == ordinal { durable.offset_bytes() } else { 0 };
        self.frames(&scan, end);
        if durable.ordinal() > ordinal && !scan.is_complete() {
            let what = format!("expected {}, before its last frame", scan.ended_by);
            self.find(name, Some(scan.valid_end_bytes), what);
        }
        self.records(&scan);
        if log == LogKind::Blob && self.found_count() > known {
            // Behind the damage there is no list yet: by the index.
            let mut list = self.inner.index.list(ordinal);
            list.retain(|entry| {
                let place = entry.place(ordinal).position();
                u64::from(entry.offset_bytes) >= scan.valid_end_bytes && place < written_upto
            });
            self.listed(&list, &scan.bytes, &scan.header);
        }
        Ok(())
    }

    fn sealed(&mut self, name: FileName, seal: Seal) -> Result<()> {
        let opened = self.open(name);
        let Some(segment) = self.note(opened)? else { return Ok(()) };
        let len_bytes = segment.file.len_bytes()?;
        if len_bytes != seal.file_bytes {
            let what = format!("it has {len_bytes} bytes, the root says {}", seal.file_bytes);
            self.find(name, Some(len_bytes.min(seal.file_bytes)), what);
            return Ok(());
        }
        let disk = &*self.inner.disk;
        let footer = read_footer(disk, &segment);
        let Some((footer, footer_hash)) = self.note(footer)? else { return Ok(()) };
        if footer_hash != seal.footer_hash {
            let what = "its footer is not the one that the root names".to_owned();
            self.find(name, Some(footer.frames_end_bytes), what);
        }
        let list = check_list(disk, &segment, &footer);
        let Some(list) = self.note(list)? else { return Ok(()) };
        if name_log(name) == LogKind::Blob {
            self.is_led_to(name, segment.header.ordinal, &list)?;
        }
        if !self.options.read_data {
            self.report.value_count += list.len() as u64;
            self.progress(len_bytes - footer.frames_end_bytes);
            return Ok(());
        }
        drop(segment);
        let Some((_, bytes)) = self.read_whole(name)? else { return Ok(()) };
        let end = usize::try_from(footer.frames_end_bytes).expect("a file fits the address space");
        // It may have been cut since it was opened by its footer.
        let scan = Scan::of(footer.header, bytes.slice(..end.min(bytes.len())));
        if !self.frames(&scan, footer.frames_end_bytes) {
            // The values behind the damage are found by the list.
            self.listed(&list, &bytes, &footer.header);
            return Ok(());
        }
        let sealer = self.records(&scan);
        let (_, sealed_hash) = { sealer }.finish(footer.header, footer.frames_end_bytes);
        if sealed_hash != footer_hash {
            let what = "its frames are not the ones sealed".to_owned();
            self.find(name, Some(FRAMES_START_BYTES), what);
        }
        Ok(())
    }

    /// Hashes every value of whole frames; returns what sealing them would write.
    fn records(&mut self, scan: &Scan) -> Sealer {
        let name = scan.header.file_name();
        let ordinal = scan.header.ordinal;
        let findings = Mutex::new(Vec::new());
        let (mut value_count, mut bad) = (0, Vec::new());
        let sealer = scan.sealer(scan.valid_end_bytes, |sealer, offset, record| {
            let find = |what: String| findings.lock().push((offset, what));
            if record.kind == RecordKind::Commit as u8 {
                match CommitRecord::decode(record.payload) {
                    Ok(commit) => sealer.commit(commit.id),
                    Err(error) => find(format!("expected {}", error.what)),
                }
                return;
            }
            if record.kind == RecordKind::Carried as u8 {
                if let Err(error) = CarriedRecord::decode(record.payload) {
                    find(format!("expected {}", error.what));
                }
                return;
            }
            let Ok(value) = ValueRecord::decode(record.payload) else {
                return find("expected a value".to_owned());
            };
            value_count += 1;
            let entry = ListEntry {
                digest: value.digest,
                offset_bytes: u32::try_from(offset).expect("a segment is shorter than 4 GiB"),
                class: SizeClass::covering(record.len_bytes as u64),
            };
            if self.options.read_data && Digest::of(value.value) != value.digest {
                find(format!("the bytes of value {} have another digest", value.digest));
                bad.push(entry);
            }
            sealer.value(entry);
        });
        self.report.value_count += value_count;
        for entry in bad {
            self.note_bad(&entry, ordinal);
        }
        for (offset, what) in findings.into_inner() {
            self.find(name, Some(offset), what);
        }
        sealer
    }

    /// A copy cannot be read as written: putting the value anew heals it.
    fn note_bad(&mut self, entry: &ListEntry, ordinal: Ordinal) {
        self.bad.insert(entry.digest);
        get::judge(self.inner, &entry.digest, entry.place(ordinal));
    }

    /// Reads each value of a damaged segment by its list.
    fn listed(&mut self, list: &[ListEntry], bytes: &Bytes, header: &SegmentHeader) {
        let name = header.file_name();
        let seed = self.inner.writer.store;
        for entry in list {
            let rest = bytes.get(entry.offset_bytes as usize..).unwrap_or(&[]);
            let read = pinstone_wal::Record::read(seed, rest)
                .and_then(|record| ValueRecord::decode(record.payload));
            self.report.value_count += 1;
            if !read.is_ok_and(|value| Digest::of(value.value) == entry.digest) {
                let what = format!("value {} cannot be read", entry.digest);
                self.find(name, Some(u64::from(entry.offset_bytes)), what);
                self.note_bad(entry, header.ordinal);
            }
        }
    }

    /// Every pointer's value is held, in a copy that can be read if values were read.
    fn pointers(&mut self) -> Result<()> {
        let inner = self.inner;
        for pointer in inner.pointers.standing() {
            let (name, digest) = match pointer {
                Ok(pointer) => pointer,
                // Where it ends, the rest cannot be looked at.
                Err(Error::Corrupt { file, offset_bytes, what }) => {
                    self.find(file, Some(offset_bytes), what);
                    return Ok(());
                }
                Err(Error::Io { source }) if source.is_unreadable() => {
                    return self.note_unreadable(source);
                }
                Err(error) => return Err(error),
            };
            self.report.pointer_count += 1;
            let pointer = || format!("@{}", Escaped(&name));
            let what = match damage(|| super::lookup::is_held(inner, &digest))? {
                Ok(false) => format!("its value {digest} is not held"),
                Err(error) => format!("its value cannot be looked up: {}", Chain(&error)),
                Ok(true) if self.bad.contains(&digest) => {
                    match damage(|| get::find(inner, &digest, crate::Verify::Digest))? {
                        Ok(_) => continue,
                        Err(error) => format!("its value cannot be read: {}", Chain(&error)),
                    }
                }
                Ok(true) => continue,
            };
            self.find(pointer(), None, what);
        }
        Ok(())
    }
}

/// What was found, or why it is damaged; what prevents looking is an error. What the device cannot read is asked
/// for again.
fn damage<T>(look: impl Fn() -> Result<T>) -> Result<Result<T>> {
    let is_unreadable =
        |looked: &Result<T>| matches!(looked, Err(Error::Io { source }) if source.is_unreadable());
    let mut looked = look();
    if is_unreadable(&looked) {
        looked = look();
    }
    match looked {
        Err(Error::Corrupt { .. } | Error::Unsupported { .. }) | Ok(_) => Ok(looked),
        Err(_) if is_unreadable(&looked) => Ok(looked),
        Err(error) => Err(error),
    }
}

fn name_log(name: FileName) -> LogKind {
    match name {
        FileName::Segment { log, .. } => log,
        _ => unreachable!("a segment's name is one"),
    }
}

/// What a finding is about.
struct Place(String);

impl From<String> for Place {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl From<FileName> for Place {
    fn from(name: FileName) -> Self {
        Self(name.to_string())
    }
}

struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut error: &dyn std::error::Error = self.0;
        write!(f, "{error}")?;
        while let Some(source) = error.source() {
            write!(f, ": {source}")?;
            error = source;
        }
        Ok(())
    }
}
