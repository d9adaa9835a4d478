//! What is done before a segment of the pointer log is sealed, which lets go of what it carries of the blob log
//! (decision 0015).
//!
//! 1. The blob log is synced beyond it (K2 of `carried` in `pinstone_wal`).
//! 2. What is carried is compared with the blob log's own bytes. Where they differ, or cannot be compared, each value
//!    that stands there, by carried records, its segment's list or the index, is read by its digest: one of which
//!    the blob log has no good copy is put anew.
//! 3. What was put anew, by whomever, is synced. A segment with such bytes that is not sealed is ended and sealed: of
//!    a sealed one the next open reads the list, an unsealed one it would refuse, once nothing carries what is bad
//!    there.
//! 4. Where there is no space for that, what is carried is written once more where it stands in an unsealed segment,
//!    which takes none; of a frame that is bad in both logs, what they have of it together. What is not well by then stays, and is tried again by maintenance and when the store is
//!    closed: it keeps no segment of the pointer log from being sealed, since deletions, which make space, need the
//!    log to go on.
//! 5. Where anything else fails, and may not the next time, the segment is not sealed now.
//!
//! So it does not matter whether anybody noticed damage. What neither log has any more is let go of: reads tell of it.
//!
//! - L1: nothing that is put here begins maintenance, which would come here.

use std::ops::Range;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::env::{MutexGuard, Ordering};
use pinstone_disk::{LogKind, Ordinal};
use pinstone_wal::{ListEntry, LogPosition, WalError, frames_in, records_in};

use super::{grow_blob_log, seal_next_of_blob};
use crate::error::{Error, Result};
use crate::ops::get;
use crate::options::Verify;
use crate::state::carried::CarriedPlace;
use crate::state::inner::Inner;

/// What one of the logs has of a place where the other has something else, or that cannot be compared.
struct Doubt {
    /// As they can be read, well or not; none if they cannot.
    bytes: Bytes,
    /// They are whole frames.
    is_whole: bool,
    /// The values whose records are as they were written, each with the record's length.
    values: Vec<(ListEntry, usize)>,
}

impl Doubt {
    /// As the pointer log carries it.
    fn carried(inner: &Inner, place: &CarriedPlace) -> Self {
        Self::new(inner, place, place.read(&*inner.disk).unwrap_or_default())
    }

    /// As the blob log has it.
    fn own(inner: &Inner, place: &CarriedPlace) -> Self {
        let (ordinal, range) = (place.from.ordinal(), place.range());
        let read = inner.segments.read(ordinal, range.start, size(range.end - range.start));
        Self::new(inner, place, read.ok().flatten().unwrap_or_default())
    }

    fn new(inner: &Inner, place: &CarriedPlace, bytes: Bytes) -> Self {
        let (store_id, from, range) = (inner.trees.tables.store_id(), place.from, place.range());
        let frames = frames_in(store_id, from, &bytes);
        let whole_bytes = frames.iter().map(|(_, frame)| frame.len() as u64).sum::<u64>();
        let values = records_in(store_id, from, &bytes);
        Self { bytes, is_whole: whole_bytes == range.end - range.start, values }
    }

    /// These bytes, but for the records which only `other` has well.
    fn with(&self, other: &Self, place: &CarriedPlace) -> Bytes {
        let mut bytes = self.bytes.to_vec();
        let has = |value: &ListEntry| self.values.iter().any(|(own, _)| own == value);
        for (value, len_bytes) in other.values.iter().filter(|(value, _)| !has(value)) {
            let start = size(u64::from(value.offset_bytes) - place.range().start);
            let record = start..start + len_bytes;
            if let Some(target) = bytes.get_mut(record.clone()) {
                target.copy_from_slice(&other.bytes[record]);
            }
        }
        bytes.into()
    }
}

/// What else is known of the values of a segment.
struct Known {
    of: Ordinal,
    /// By offset.
    values: Vec<ListEntry>,
    /// All that the segment has.
    is_list: bool,
}

impl Known {
    /// By the segment's list, or, if it has none, or a damaged one, by memtables.
    ///
    /// # Errors
    /// The list cannot be read now; it may the next time.
    fn read(inner: &Inner, of: Ordinal) -> Result<Self> {
        let read = || inner.segments.whole_list(of);
        let list = match read().or_else(|_| read()) {
            Ok(list) => list,
            Err(WalError::Disk(error)) if !error.is_unreadable() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "a segment's list cannot be read");
                None
            }
        };
        let is_list = list.is_some();
        let mut values = list.unwrap_or_else(|| {
            let known = inner.index.list(of);
            // It may have been sealed since, and flushed.
            read().ok().flatten().unwrap_or(known)
        });
        values.sort_unstable_by_key(|value| value.offset_bytes);
        Ok(Self { of, values, is_list })
    }

    fn within(&self, range: &Range<u64>) -> &[ListEntry] {
        let before = |offset: u64| {
            self.values.partition_point(|value| u64::from(value.offset_bytes) < offset)
        };
        &self.values[before(range.start)..before(range.end)]
    }
}

/// Sees to it that the blob log has what this segment of the pointer log and those before it carry; then that is
/// no more looked for there.
///
/// # Errors
/// The blob log cannot be synced; or a value may be had the next time, and cannot now.
pub(super) fn keep_carried(inner: &Inner, ordinal: Ordinal) -> Result<()> {
    let letting_go = inner.letting_go.lock();
    keep_holding(inner, ordinal, &letting_go)
}

fn keep_holding(inner: &Inner, ordinal: Ordinal, _lock: &MutexGuard<'_, ()>) -> Result<()> {
    inner.blob.sync_carried()?;
    let places = inner.carried.upto(ordinal);
    let doubtful = doubtful(inner, &places);
    let staying = if doubtful.is_empty() { Vec::new() } else { keep(inner, &doubtful)? };
    inner.carried.leave(ordinal, &staying);
    Ok(())
}

/// Tries again what there was no space for.
pub(crate) fn keep_left(inner: &Inner) {
    let letting_go = inner.letting_go.lock();
    let ended = end_bad(inner);
    let sealed_below = inner.root.sealed_below(LogKind::Pointer);
    let kept = match sealed_below.0.checked_sub(1).map(Ordinal) {
        Some(last_sealed) if inner.carried.first().is_some_and(|first| first <= last_sealed) => {
            keep_holding(inner, last_sealed, &letting_go)
        }
        _ => Ok(()),
    };
    if let Err(error) = ended.and(kept) {
        tracing::warn!(%error, "what is bad in the blob log cannot be mended now");
    }
}

/// Which of these places are in doubt.
fn doubtful<'a>(inner: &Inner, places: &'a [CarriedPlace]) -> Vec<&'a CarriedPlace> {
    let (mut doubtful, mut left) = (Vec::new(), places);
    while !left.is_empty() {
        let (run, others, carried) = CarriedPlace::read_first(&*inner.disk, left);
        left = others;
        if carried.is_ok_and(|carried| is_there(inner, run[0].from, &carried)) {
            continue;
        }
        for place in run {
            // Alone: what cannot be read of one says nothing of the others.
            let bytes = place.read(&*inner.disk);
            if !bytes.is_ok_and(|bytes| is_there(inner, place.from, &[bytes])) {
                tracing::warn!(position = %place.from, "the blob log may not have what is carried");
                doubtful.push(place);
            }
        }
    }
    doubtful
}

/// Sees to it that the blob log has what is in doubt; returns what has to stay, for want of space.
fn keep<'a>(inner: &Inner, places: &[&'a CarriedPlace]) -> Result<Vec<&'a CarriedPlace>> {
    let (mut known, mut all_kept, mut failed) = (None, true, Ok(()));
    for place in places {
        let doubt = Doubt::carried(inner, place);
        let values = values(inner, place, &doubt, &mut known).unwrap_or_else(|error| {
            failed = Err(error);
            Vec::new()
        });
        for value in values {
            match get::keep(inner, &value.digest, value.place(place.from.ordinal())) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(digest = %value.digest, "no copy can be read any more"),
                Err(Error::NoSpace { .. }) => all_kept = false,
                // The others are kept all the same.
                Err(error) => failed = Err(error),
            }
        }
    }
    let synced = inner.blob.sync_all().map_err(Error::from);
    let bad = places.iter().map(|place| place.from.ordinal()).max();
    inner.to_end.fetch_max(bad.map_or(0, |last| last.0.into()), Ordering::AcqRel);
    let ended = synced.and_then(|()| end_bad(inner));
    failed?;
    match ended {
        Ok(()) if all_kept => Ok(Vec::new()),
        Ok(()) | Err(Error::NoSpace { .. }) => lay(inner, places),
        Err(error) => Err(error),
    }
}

/// The values that stand in a place: those that are carried, if all can be read; else by what is known of its segment,
/// too.
///
/// # Errors
/// As [`Known::read`].
fn values(
    inner: &Inner,
    place: &CarriedPlace,
    doubt: &Doubt,
    known: &mut Option<Known>,
) -> Result<Vec<ListEntry>> {
    let carried = || doubt.values.iter().map(|(value, _)| *value);
    if doubt.is_whole {
        return Ok(carried().collect());
    }
    let ordinal = place.from.ordinal();
    let known = match known {
        Some(known) if known.of == ordinal => known,
        known => known.insert(Known::read(inner, ordinal)?),
    };
    let mut values = known.within(&place.range()).to_vec();
    if !known.is_list {
        values.extend(carried());
    }
    Ok(values)
}

/// Sees to it that no segment with bad bytes is unsealed.
///
/// # Errors
/// One is, for now.
fn end_bad(inner: &Inner) -> Result<()> {
    let to_end = inner.to_end.load(Ordering::Acquire);
    let last_bad = Ordinal(u32::try_from(to_end).expect("it was an ordinal"));
    if to_end == 0 || last_bad < inner.root.sealed_below(LogKind::Blob) {
        return Ok(());
    }
    if inner.blob.figures().end.ordinal() == last_bad {
        inner.begin_writing()?;
        grow_blob_log(inner)?;
        inner.blob.go_on()?;
    }
    while seal_next_of_blob(inner)? {}
    Ok(())
}

/// These bytes, one after the other, stand in the blob log from this position on.
fn is_there(inner: &Inner, from: LogPosition, carried: &[Bytes]) -> bool {
    let len_bytes = carried.iter().map(Bytes::len).sum();
    match inner.segments.read(from.ordinal(), from.offset_bytes(), len_bytes) {
        Ok(Some(own)) if own.len() == len_bytes => {
            let mut at = 0;
            carried.iter().all(|bytes| {
                at += bytes.len();
                own[at - bytes.len()..at] == **bytes
            })
        }
        _ => false,
    }
}

/// Writes what is carried where it stands, as far as that is not sealed; or, where it is bad in both logs, what they have
/// together. Returns what does not stand there even so.
fn lay<'a>(inner: &Inner, places: &[&'a CarriedPlace]) -> Result<Vec<&'a CarriedPlace>> {
    // Nothing is sealed meanwhile.
    let _one_at_a_time = inner.maintaining.lock();
    let mut staying = Vec::new();
    for &place in places {
        let (carried, own) = (Doubt::carried(inner, place), Doubt::own(inner, place));
        let of_both = || [carried.with(&own, place), own.with(&carried, place)].into_iter();
        let laid = match (carried.is_whole, own.is_whole) {
            (true, _) => Some(carried.bytes.clone()),
            (false, true) => None,
            (false, false) => {
                of_both().find(|bytes| Doubt::new(inner, place, bytes.clone()).is_whole)
            }
        };
        let written = laid.clone().map(|bytes| (place.from, bytes));
        match inner.blob.lay(written.as_slice()) {
            Ok(()) => {}
            Err(error @ WalError::Poisoned { .. }) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "bad bytes could not be written once more"),
        }
        for (value, _) in carried.values.iter().chain(&own.values) {
            // So that it is known to be well.
            let _found = get::find(inner, &value.digest, Verify::Digest);
        }
        let is_well = match laid {
            Some(laid) => is_there(inner, place.from, &[laid]),
            None => own.is_whole,
        };
        if !is_well {
            staying.push(place);
        }
    }
    if !staying.is_empty() {
        tracing::warn!("there is no space to keep all that the pointer log carried");
    }
    Ok(staying)
}
