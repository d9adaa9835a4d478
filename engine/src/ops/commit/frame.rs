//! The frame of a group: appended to the pointer log, in a further segment if this one is full, and synced.

use std::sync::Arc;

use pinstone_disk::codec::size;
use pinstone_disk::env::Ordering;
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Batch as IoBatch, DiskError, LogKind, Op, Ordinal};
use pinstone_wal::{
    Appender, Carried, CommitRecord, FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FRAMES_START_BYTES,
    FrameBuilder, LogPosition, RecordKind, Sealer, SyncRound, WalError, copy_bytes,
};

use super::GroupError;
use crate::error::Result;
use crate::maintain;
use crate::state::inner::{Inner, PointerLog};

/// What a frame has besides its records, at most: a header, and what it is filled up with.
const FRAME_BESIDES_BYTES: u64 = 1 << 10;

/// While space is short, a segment of the pointer log is no longer than about this.
const TIGHT_SEGMENT_BYTES: u64 = 32 << 10;

/// A frame that was written.
pub(super) struct Appended {
    /// It is to be testified to, because space was short.
    pub(super) is_tight: bool,
    /// Where what it carries ends in the segment, if anything.
    pub(super) carried_upto_bytes: u64,
}

/// Appends the group's frame, with what it carries, to the pointer log, in a further segment if this one is
/// full.
pub(super) fn append(
    inner: &Inner,
    log: &mut PointerLog,
    records: &[CommitRecord],
    carried: Option<&Carried>,
    is_frugal: bool,
) -> Result<Appended, GroupError> {
    let carried_bytes = carried.map_or(0, Carried::len_bytes);
    let mut frame = FrameBuilder::with_capacity(1024 + size(carried_bytes));
    if let Some(carried) = carried {
        carried.push(inner.writer.store, &mut frame);
    }
    let carried_len_bytes = frame.len_bytes() as u64;
    let mut payload = Vec::new();
    for record in records {
        payload.clear();
        record.encode(&mut payload);
        frame.push(inner.writer.store, RecordKind::Commit, &payload);
    }
    let max = inner.options.pointer_segment_bytes;
    let is_tight = is_frugal || !inner.reserve.is_whole();
    // It has the segment to itself, and recovery has the space to copy it before it is there: whoever
    // sets space aside meanwhile, or gives some back, reckons with it (V2).
    let oversize_bytes = sealed_bytes_alone(frame.body_bytes() as usize).saturating_sub(max);
    let is_long = oversize_bytes > 0;
    if is_long {
        match is_tight {
            true => inner.reserve.count_oversize(oversize_bytes),
            false => inner.reserve.raise(oversize_bytes)?,
        }
    }
    let appended = append_frame(inner, log, frame, is_tight);
    if is_long
        && matches!(appended, Err(GroupError::NotHappened(_)))
        && let Err(error) = inner.reserve.lower(oversize_bytes)
    {
        tracing::warn!(%error, "more space is set aside than is needed");
    }
    let start_bytes = appended?;
    let appender = log.appender.as_mut().expect("the frame is in it");
    for record in records {
        appender.sealer().commit(record.id);
    }
    Ok(Appended { is_tight, carried_upto_bytes: start_bytes + carried_len_bytes })
}

/// Appends a frame, which is counted if it is longer than a segment; returns where it begins in its segment.
fn append_frame(
    inner: &Inner,
    log: &mut PointerLog,
    frame: FrameBuilder,
    is_tight: bool,
) -> Result<u64, GroupError> {
    let body_bytes = frame.body_bytes() as usize;
    let max = inner.options.pointer_segment_bytes;
    let end = log.appender.as_ref().map(Appender::end);
    let full = log.appender.as_ref().is_none_or(|appender| {
        let active = appender.segment().header.ordinal;
        let is_full = appender.sealed_bytes_with(body_bytes) > max || is_memory_full(inner, active);
        !appender.is_empty() && is_full
    });
    // Whatever is written next must be copied after a crash, and all of its segment with it: if
    // there may be no space for that, it goes to a segment of its own.
    let is_long = end.is_some_and(|end| tail_bytes(end) > 0);
    if is_tight {
        // It will be testified to, and recovery has the space to copy it until then, before it is
        // there.
        inner.root.reserve_frames()?;
        maintain::cover(inner, log, ahead_bytes(log, body_bytes))?;
    }
    if full || (is_tight && is_long) {
        go_on(inner, log, if is_tight { 0 } else { max }, 1)?;
        if is_tight && end.is_some() {
            maintain::testify(inner)?;
        }
    }
    let appender = log.appender.as_mut().expect("there is one now");
    let counted_bytes = max.max(sealed_bytes_alone(body_bytes));
    assert!(appender.sealed_bytes_with(body_bytes) <= counted_bytes, "what is longer is counted");
    if !is_tight {
        appender.write_ahead(body_bytes).map_err(GroupError::from_append)?;
    }
    let start = appender.end();
    appender.append(frame, false).map_err(GroupError::from_append)?;
    Ok(start.offset_bytes())
}

/// What is kept in memory of the commits of `active` is as much as may be: the log goes on in the next.
pub(super) fn is_memory_full(inner: &Inner, active: Ordinal) -> bool {
    inner.pointers.is_full(&inner.options, inner.carried.bytes_of(active))
}

/// Bytes of a sealed segment of the pointer log in which a frame of `body_bytes` is alone.
fn sealed_bytes_alone(body_bytes: usize) -> u64 {
    let frame_bytes = (FRAME_HEADER_BYTES + body_bytes).next_multiple_of(FRAME_ALIGN_BYTES) as u64;
    FRAMES_START_BYTES + frame_bytes + FRAME_HEADER_BYTES as u64 + Sealer::default().seal_bytes(0)
}

/// Bytes that a copy takes of the segment to which a frame of `body_bytes` goes while space is short, or
/// of that which is gone on from and gets its last frame, if that is longer.
pub(super) fn ahead_bytes(log: &PointerLog, body_bytes: usize) -> u64 {
    let end = log.appender.as_ref().map(Appender::end);
    let start_bytes = end.filter(|end| tail_bytes(*end) == 0).map(LogPosition::offset_bytes);
    let end_bytes =
        start_bytes.unwrap_or(FRAMES_START_BYTES) + FRAME_BESIDES_BYTES + body_bytes as u64;
    let end_bytes = u32::try_from(end_bytes).expect("a group of commits is shorter than 4 GiB");
    let copy = copy_bytes(LogPosition::new(Ordinal::FIRST, end_bytes), LogPosition::START);
    copy.max(end.map_or(0, tail_bytes))
}

/// Bytes that a copy takes of the pointer log's segment that ends here, if it is too long to be added to
/// while space is short. Until its last frame is testified to, recovery may have to make one.
pub(crate) fn tail_bytes(end: LogPosition) -> u64 {
    let is_long = end.offset_bytes() > TIGHT_SEGMENT_BYTES;
    if is_long { copy_bytes(end, LogPosition::START) } else { 0 }
}

/// Ends the pointer log's segment, so that it can be sealed, and the memtable, so that it can be flushed, if that
/// holds this share of what is enough for a table, 1 : `divisor`.
pub(crate) fn end_segment(inner: &Inner, log: &mut PointerLog, divisor: u64) -> Result<()> {
    let has_frames = log.appender.as_ref().is_some_and(|appender| !appender.is_empty());
    match has_frames && inner.pointers.holds_share(&inner.options, divisor) {
        true => go_on(inner, log, 0, divisor),
        false => Ok(()),
    }
}

/// Appends a frame that only testifies to a segment of the pointer log that is empty, and syncs it. What was said
/// of the log's other segments, which may be gone, is then not taken for a tail of the root that a crash tore off.
pub(crate) fn testify(inner: &Inner, log: &mut PointerLog) -> Result<()> {
    let is_empty = log.appender.as_ref().is_some_and(Appender::is_empty);
    if !is_empty {
        return Ok(());
    }
    let append = |log: &mut PointerLog| match &mut log.appender {
        Some(appender) => Ok(appender.append(FrameBuilder::with_capacity(0), false)?),
        None => Ok(()),
    };
    maintain::with_reserve(inner, log, |log| ahead_bytes(log, 0), append)?;
    sync(inner, log, None).map_err(|error| error.for_one())
}

/// Has the pointer log go on in a further segment, and names in a further memtable if that share of what is
/// enough for a table is there.
fn go_on(inner: &Inner, log: &mut PointerLog, reserve_bytes: u64, divisor: u64) -> Result<()> {
    let add = || inner.root.add_segment(LogKind::Pointer, reserve_bytes);
    let Some(appender) = &mut log.appender else {
        let (writer, sealer) = (inner.writer.clone(), Sealer::default());
        log.appender = Some(Appender::new(writer, add()?, FRAMES_START_BYTES, sealer));
        return Ok(());
    };
    let full =
        if appender.has_spare() { appender.rotate_to_spare()? } else { appender.rotate(add()?)? };
    let next = appender.segment().header.ordinal;
    if inner.pointers.is_worth_flushing(&inner.options, next, divisor) {
        inner.pointers.freeze(next, log.depends_upto);
    }
    log.closing.push_back(full);
    inner.pointer_behind.store(true, Ordering::Release);
    inner.pointer_due.store(true, Ordering::Relaxed);
    Ok(())
}

/// Syncs the pointer log, and the blob log if it is to be, with one wait. A failure ends writing, and nobody knows what
/// it left behind.
pub(super) fn sync(
    inner: &Inner,
    log: &mut PointerLog,
    round: Option<SyncRound<'_>>,
) -> Result<(), GroupError> {
    let appender = log.appender.as_ref().expect("the group's frame is in it");
    let end = appender.end();
    let mut chains = round.as_ref().map_or_else(Vec::new, SyncRound::chains);
    if !planted::is(Bug::PointerSyncSkipped) {
        chains.push(vec![Op::Sync { file: Arc::clone(&appender.segment().file) }]);
    }
    let mut results = inner.disk.run(IoBatch { chains });
    let pointer = if planted::is(Bug::PointerSyncSkipped) { None } else { results.pop() };
    let blob = results.into_iter().find_map(|result| result.err());
    let blob = round.map_or(Ok(()), |round| round.finish(blob.map_or(Ok(()), Err)));
    let pointer =
        pointer.map_or(Ok(()), |result| result.map(drop).map_err(|error| ended(inner, &error)));
    blob.and(pointer).map_err(GroupError::indeterminate)?;
    inner.writer.synced.raise(LogKind::Pointer, end);
    if maintain::is_untold(inner) {
        inner.pointer_due.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn ended(inner: &Inner, error: &DiskError) -> WalError {
    inner.writer.poison.set(format_args!("{error}: {}", error.source))
}
