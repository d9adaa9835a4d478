//! The root: which segments make up the store, and the log of edits that says so.
//!
//! 1. CURRENT names a root log. Its first record is the whole root, each further record an edit.
//! 2. Every open for writing writes a new root log, with a new epoch, and turns CURRENT to it.
//! 3. An edit is appended and synced before anyone relies on it, and only then shown here.
//!
//! - E1: a segment is named by the root before a frame is appended to it.
//! - E2: an ordinal that was given to a file is not given again, even if that came to nothing.

use std::collections::BTreeMap;

use pinstone_disk::codec::{Malformed, Reader, put_varint};
use pinstone_disk::env::Mutex;
use pinstone_disk::{DiskError, DiskExt, Epoch, File, LogKind, Ordinal};
use pinstone_wal::{
    Appender, FRAMES_START_BYTES, FrameBuilder, LogPosition, RecordKind, Sealed, Sealer,
    SegmentFile, SegmentHeader, WalError, Writer, corrupt, create_segment,
};

/// What a root says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RootState {
    /// The blob log's segments.
    pub(crate) blob: LogState,
    /// The pointer log's segments.
    pub(crate) pointer: LogState,
    /// The last writer closed the store, with the logs ending here.
    pub(crate) closed: Option<Ends>,
}

/// Where the logs ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) blob: LogPosition,
    pub(crate) pointer: LogPosition,
}

/// The segments of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    /// By ordinal.
    pub(crate) segments: BTreeMap<Ordinal, SegmentState>,
    /// The next segment's ordinal.
    pub(crate) next_ordinal: Ordinal,
}

impl Default for LogState {
    fn default() -> Self {
        Self { segments: BTreeMap::new(), next_ordinal: Ordinal::FIRST }
    }
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentState {
    /// The epoch in its file's name.
    pub(crate) epoch: Epoch,
    /// What sealing made of it, if it is sealed.
    pub(crate) seal: Option<Seal>,
}

/// What the root knows of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) file_bytes: u64,
    pub(crate) record_count: u64,
    pub(crate) footer_hash: [u8; 32],
}

/// One change of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The log has this segment, unsealed.
    Open { log: LogKind, ordinal: Ordinal, epoch: Epoch },
    /// The segment is sealed.
    Seal { log: LogKind, ordinal: Ordinal, epoch: Epoch, seal: Seal },
    /// The next ordinal of the log is at least this.
    NextOrdinal { log: LogKind, ordinal: Ordinal },
    /// The store was closed.
    Closed(Ends),
}

pub(crate) const OPEN: u8 = 1;
pub(crate) const SEAL: u8 = 2;
pub(crate) const NEXT_ORDINAL: u8 = 3;
pub(crate) const CLOSED: u8 = 4;

impl RootState {
    /// One log's segments.
    pub(crate) fn log(&self, log: LogKind) -> &LogState {
        match log {
            LogKind::Blob => &self.blob,
            LogKind::Pointer => &self.pointer,
            LogKind::Root => unreachable!("the root log is one file, which CURRENT names"),
        }
    }

    /// One log's segments, to be changed.
    pub(crate) fn log_mut(&mut self, log: LogKind) -> &mut LogState {
        match log {
            LogKind::Blob => &mut self.blob,
            LogKind::Pointer => &mut self.pointer,
            LogKind::Root => unreachable!("the root log is one file, which CURRENT names"),
        }
    }

    fn apply(&mut self, edit: &Edit) {
        // Only the last edit says that the store is closed.
        self.closed = None;
        match *edit {
            Edit::Open { log, ordinal, epoch } => {
                self.log_mut(log).insert(ordinal, SegmentState { epoch, seal: None });
            }
            Edit::Seal { log, ordinal, epoch, seal } => {
                self.log_mut(log).insert(ordinal, SegmentState { epoch, seal: Some(seal) });
            }
            Edit::NextOrdinal { log, ordinal } => {
                let log = self.log_mut(log);
                log.next_ordinal = log.next_ordinal.max(ordinal);
            }
            Edit::Closed(ends) => self.closed = Some(ends),
        }
    }

    /// The edits that make this state from nothing.
    pub(crate) fn edits(&self) -> Vec<Edit> {
        let mut edits = Vec::new();
        for log in [LogKind::Blob, LogKind::Pointer] {
            let state = self.log(log);
            edits.push(Edit::NextOrdinal { log, ordinal: state.next_ordinal });
            edits.extend(state.segments.iter().map(|(&ordinal, segment)| {
                let epoch = segment.epoch;
                match segment.seal {
                    Some(seal) => Edit::Seal { log, ordinal, epoch, seal },
                    None => Edit::Open { log, ordinal, epoch },
                }
            }));
        }
        edits.extend(self.closed.map(Edit::Closed));
        edits
    }

    /// Bytes of the record that a new root log begins with.
    pub(crate) fn record_bytes(&self) -> u64 {
        encode(&self.edits()).len() as u64
    }

    /// Applies the edits of one record.
    pub(crate) fn apply_record(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(payload);
        let count = reader.varint("a count of edits")?;
        for _ in 0..count {
            self.apply(&decode(&mut reader)?);
        }
        reader.end("the end of the edits")
    }
}

impl LogState {
    /// The log has this segment, in place of any other of its ordinal.
    pub(crate) fn insert(&mut self, ordinal: Ordinal, segment: SegmentState) {
        self.segments.insert(ordinal, segment);
        self.spend(ordinal);
    }

    /// Notes that the ordinal was given to a file (E2). The last one has no next: no segment can
    /// be added after it.
    pub(crate) fn spend(&mut self, ordinal: Ordinal) {
        self.next_ordinal = self.next_ordinal.max(ordinal.next().unwrap_or(ordinal));
    }
}

fn encode(edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, edits.len() as u64);
    for edit in edits {
        let head = |out: &mut Vec<u8>, tag, log: LogKind, ordinal: Ordinal| {
            out.extend_from_slice(&[tag, log as u8]);
            out.extend_from_slice(&ordinal.0.to_le_bytes());
        };
        match *edit {
            Edit::Open { log, ordinal, epoch } => {
                head(&mut out, OPEN, log, ordinal);
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
            Edit::Seal { log, ordinal, epoch, seal } => {
                head(&mut out, SEAL, log, ordinal);
                out.extend_from_slice(&epoch.0.to_le_bytes());
                out.extend_from_slice(&seal.file_bytes.to_le_bytes());
                out.extend_from_slice(&seal.record_count.to_le_bytes());
                out.extend_from_slice(&seal.footer_hash);
            }
            Edit::NextOrdinal { log, ordinal } => head(&mut out, NEXT_ORDINAL, log, ordinal),
            Edit::Closed(ends) => {
                out.push(CLOSED);
                out.extend_from_slice(&ends.blob.number().to_le_bytes());
                out.extend_from_slice(&ends.pointer.number().to_le_bytes());
            }
        }
    }
    out
}

fn decode(reader: &mut Reader<'_>) -> Result<Edit, Malformed> {
    let tag = reader.u8("an edit's kind")?;
    if tag == CLOSED {
        let blob = LogPosition::from_number(reader.u64("the blob log's end")?);
        let pointer = LogPosition::from_number(reader.u64("the pointer log's end")?);
        return Ok(Edit::Closed(Ends { blob, pointer }));
    }
    if ![OPEN, SEAL, NEXT_ORDINAL].contains(&tag) {
        return Err(reader.malformed("an edit of a known kind"));
    }
    let log = match LogKind::from_number(reader.u8("an edit's log")?) {
        Some(log @ (LogKind::Blob | LogKind::Pointer)) => log,
        _ => return Err(reader.malformed("an edit of a known log")),
    };
    let ordinal = Ordinal::from_number(reader.u32("an ordinal")?)
        .ok_or_else(|| reader.malformed("an ordinal that another can follow"))?;
    if tag == NEXT_ORDINAL {
        return Ok(Edit::NextOrdinal { log, ordinal });
    }
    let epoch = Epoch(reader.u32("an epoch")?);
    if tag == OPEN {
        return Ok(Edit::Open { log, ordinal, epoch });
    }
    let seal = Seal {
        file_bytes: reader.u64("a segment's length")?,
        record_count: reader.u64("a segment's count of records")?,
        footer_hash: reader.array("a footer's hash")?,
    };
    Ok(Edit::Seal { log, ordinal, epoch, seal })
}

/// The root in force, and the log that its edits go to.
#[derive(Debug)]
pub(crate) struct Root {
    writer: Writer,
    header: SegmentHeader,
    inner: Mutex<RootInner>,
}

#[derive(Debug)]
struct RootInner {
    state: RootState,
    log: Appender,
}

/// Bytes reserved for a root log beyond its first record, so that edits can be written when the
/// device is full later.
const RESERVE_BYTES: u64 = 64 << 10;

impl Root {
    /// Writes a new root log with this header and state, synced; CURRENT does not name it yet.
    pub(crate) fn create(
        writer: Writer,
        header: SegmentHeader,
        state: RootState,
    ) -> Result<Self, WalError> {
        assert_eq!(header.epoch, writer.epoch, "a writer writes a root log of its own");
        let mut frame = FrameBuilder::with_capacity(0);
        frame.push(writer.store, RecordKind::RootEdit, &encode(&state.edits()));
        let segment = create_segment(&*writer.disk, header, frame.len_bytes() as u64)?;
        let mut log = Appender::new(writer.clone(), segment, FRAMES_START_BYTES, Sealer::default());
        log.append(frame, false)?;
        writer.disk.sync(&log.segment().file)?;
        writer.synced.raise(LogKind::Root, log.end());
        let inner = Mutex::new(RootInner { state, log });
        Ok(Self { writer, header, inner })
    }

    /// Reserves space for edits; on a full device each of them finds out by itself.
    pub(crate) fn reserve(&self) -> Result<(), DiskError> {
        let log = &self.inner.lock().log;
        reserve(&*log.segment().file, log.end().offset_bytes() + RESERVE_BYTES)
    }

    /// The header of its log.
    pub(crate) fn header(&self) -> SegmentHeader {
        self.header
    }

    /// Where its log ends.
    pub(crate) fn end(&self) -> LogPosition {
        self.inner.lock().log.end()
    }

    /// What it says now.
    pub(crate) fn state(&self) -> RootState {
        self.inner.lock().state.clone()
    }

    /// Bytes of the record that the next root log begins with, about.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.inner.lock().state.record_bytes()
    }

    /// Ends what a clean close said: something is about to be appended. Durable on return.
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
            return Err(corrupt(self.header.file_name(), inner.log.end().offset_bytes(), what));
        }
        let header = SegmentHeader { log, ordinal, ..self.header };
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

    /// Records that the store is closed, with the logs durable to these ends.
    pub(crate) fn close(&self, ends: Ends) -> Result<(), WalError> {
        let mut inner = self.inner.lock();
        self.append(&mut inner, &[Edit::Closed(ends)])?;
        // What was reserved is zeros, there or not: this needs no sync.
        Ok(inner.log.segment().file.set_len(inner.log.end().offset_bytes())?)
    }

    /// Appends a frame that only tells what is durable.
    pub(crate) fn testify(&self) -> Result<(), WalError> {
        self.append(&mut self.inner.lock(), &[])
    }

    fn append(&self, inner: &mut RootInner, edits: &[Edit]) -> Result<(), WalError> {
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
        for edit in edits {
            inner.state.apply(edit);
        }
        Ok(())
    }
}

/// Reserves space up to `bytes`, if there is so much.
pub(crate) fn reserve(file: &dyn File, bytes: u64) -> Result<(), DiskError> {
    match file.allocate(bytes) {
        Err(error) if error.is_no_space() => Ok(()),
        allocated => allocated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_root_is_made_again_from_its_edits() {
        let mut state = RootState::default();
        let seal = Seal { file_bytes: 9, record_count: 3, footer_hash: [7; 32] };
        let edits = [
            Edit::Open { log: LogKind::Blob, ordinal: Ordinal(1), epoch: Epoch(2) },
            Edit::Seal { log: LogKind::Blob, ordinal: Ordinal(1), epoch: Epoch(2), seal },
            Edit::Open { log: LogKind::Blob, ordinal: Ordinal(5), epoch: Epoch(2) },
            Edit::Open { log: LogKind::Pointer, ordinal: Ordinal(1), epoch: Epoch(3) },
            Edit::NextOrdinal { log: LogKind::Pointer, ordinal: Ordinal(8) },
            Edit::Closed(Ends {
                blob: LogPosition::new(Ordinal(5), 64),
                pointer: LogPosition::new(Ordinal(1), 72),
            }),
        ];
        state.apply_record(&encode(&edits)).unwrap();
        assert_eq!(state.blob.next_ordinal, Ordinal(6));
        assert_eq!(state.pointer.next_ordinal, Ordinal(8));
        let mut again = RootState::default();
        again.apply_record(&encode(&state.edits())).unwrap();
        assert_eq!(again, state);
    }

    proptest! {
        #[test]
        fn any_bytes_are_applied_without_panic(bytes: Vec<u8>) {
            let _ = RootState::default().apply_record(&bytes);
        }
    }
}
