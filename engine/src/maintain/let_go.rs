//! What is done before a segment of the pointer log is sealed, which lets go of what it carries of the blob log
//! (decision 0015).
//!
//! 1. The blob log is synced beyond it (K2 of `carried` in `pinstone_wal`).
//! 2. What is carried is compared with the blob log's own bytes. Where they differ, cannot be compared, or are no whole
//!    frames, alike though they are, each value
//!    that stands there, by carried records, its segment's list or the index, is read by its digest: one of which
//!    the blob log has no good copy is put anew.
//! 3. What was put anew, by whomever, is synced. A segment with such bytes that is not sealed is ended and sealed: of
//!    a sealed one the next open reads the list, an unsealed one it would refuse, once nothing carries what is bad
//!    there.
//! 4. Where there is no space for that, what is carried is written once more where it stands in an unsealed segment,
//!    which takes none, unless the file system copies what is overwritten; of a frame that is bad in both logs, what
//!    they have of it together: header and records, each of the one that has it well, read
//!    sector by sector where a device cannot read all. What is not well by then stays, and is tried again by maintenance and when the store is closed: it keeps no segment of the pointer log from being
//!    sealed, since deletions, which make space, need the log to go on.
//! 5. Where anything else fails, and may not the next time, the segment is not sealed now. A value that cannot be read
//!    for that keeps no other from being put anew; one that cannot be put does.
//!
//! So it does not matter whether anybody noticed damage. What neither log has any more is let go of: reads tell of it.
//!
//! - L1: nothing that is put here begins maintenance, which would come here.

use std::ops::Range;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::env::{MutexGuard, Ordering};
use pinstone_disk::{LogKind, Ordinal};
use pinstone_wal::{ListEntry, LogPosition, frames_in, frames_of_both, records_in};

use super::{grow_blob_log, seal_next_of_blob};
use crate::error::{Error, Result};
use crate::ops::get::{self, NotKept};
use crate::options::Verify;
use crate::state::carried::{CarriedPlace, read_by_sector};
use crate::state::inner::Inner;

/// What is known of the values of a segment, beside what is carried.
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
        let list = || match get::read_twice(|| Ok(inner.segments.whole_list(of)?)) {
            Err(error) if !get::may_pass(&error) => {
                tracing::warn!(%error, "a segment's list cannot be read");
                Ok(None)
            }
            list => list,
        };
        let (mut values, is_list) = match list()? {
            Some(list) => (list, true),
            None => {
                let known = inner.index.list(of);
                // It may have been sealed since, and flushed.
                (list()?.unwrap_or(known), false)
            }
        };
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
        let are_whole = |carried: &[Bytes]| {
            run.iter().zip(carried).all(|(place, bytes)| is_whole(inner, place, bytes))
        };
        let is_well =
            |carried: Vec<Bytes>| is_there(inner, run[0].from, &carried) && are_whole(&carried);
        if carried.is_ok_and(is_well) {
            continue;
        }
        for place in run {
            // Alone: what cannot be read of one says nothing of the others.
            let bytes = place.read(&*inner.disk);
            let is_well = |bytes: Bytes| {
                is_whole(inner, place, &bytes) && is_there(inner, place.from, &[bytes])
            };
            if !bytes.is_ok_and(is_well) {
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
    'places: for place in places {
        let values = values(inner, place, &mut known).unwrap_or_else(|error| {
            failed = Err(error);
            Vec::new()
        });
        for value in values {
            match get::keep(inner, &value.digest, value.place(place.from.ordinal())) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(digest = %value.digest, "no copy can be read any more"),
                Err(NotKept::Unstored(Error::NoSpace { .. })) => all_kept = false,
                // The others are kept all the same.
                Err(NotKept::Unread(error)) => failed = Err(error),
                // It would keep any other from being put, and each try may write a table.
                Err(NotKept::Unstored(error)) => {
                    failed = Err(error);
                    break 'places;
                }
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
/// What is carried cannot be read now, or as [`Known::read`].
fn values(
    inner: &Inner,
    place: &CarriedPlace,
    known: &mut Option<Known>,
) -> Result<Vec<ListEntry>> {
    let bytes = place.read_left(&*inner.disk)?;
    let carried = || records_in(inner.trees.tables.store_id(), place.from, &bytes);
    if is_whole(inner, place, &bytes) {
        return Ok(carried());
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
        inner.begin_appending()?;
        grow_blob_log(inner)?;
        inner.blob.go_on()?;
    }
    while seal_next_of_blob(inner)? {}
    Ok(())
}

/// These are the place's bytes as they were written: whole frames.
fn is_whole(inner: &Inner, place: &CarriedPlace, bytes: &Bytes) -> bool {
    let frames = frames_in(inner.trees.tables.store_id(), place.from, bytes);
    let whole_bytes = frames.iter().map(|(_, frame)| frame.len() as u64).sum::<u64>();
    whole_bytes == place.range().end - place.range().start
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
///
/// # Errors
/// Some of it may be had the next time, and cannot now.
fn lay<'a>(inner: &Inner, places: &[&'a CarriedPlace]) -> Result<Vec<&'a CarriedPlace>> {
    // Nothing is sealed meanwhile.
    let _one_at_a_time = inner.maintaining.lock();
    let (mut staying, mut failed) = (Vec::new(), Ok(()));
    for &place in places {
        let frames = of_both(inner, place);
        match frames
            .and_then(|frames| frames.map(|frames| lay_frames(inner, place, &frames)).transpose())
        {
            Ok(Some(true)) => {}
            Ok(_) => staying.push(place),
            Err(error) => failed = Err(error),
        }
    }
    if !staying.is_empty() {
        tracing::warn!(
            "not all that the pointer log carried is kept: no space, or bad in both logs"
        );
    }
    failed.map(|()| staying)
}

/// The frames of a place as both logs have them together; none if something of them is well in neither.
///
/// # Errors
/// They cannot be read now; they may the next time.
fn of_both(inner: &Inner, place: &CarriedPlace) -> Result<Option<Bytes>> {
    let (ordinal, range) = (place.from.ordinal(), place.range());
    let carried = place.read_left(&*inner.disk)?;
    let own = read_by_sector(range.clone(), |offset_bytes, len_bytes| {
        Ok(inner.segments.read(ordinal, offset_bytes, len_bytes)?.unwrap_or_default())
    });
    let (store_id, len_bytes) = (inner.trees.tables.store_id(), size(range.end - range.start));
    let with = |own: &[u8]| frames_of_both(store_id, place.from, len_bytes, [&carried, own]);
    match own.map_err(Error::from) {
        Ok(own) => Ok(with(&own)),
        // What is carried may do without it.
        Err(error) => match with(&[]) {
            None if get::may_pass(&error) => Err(error),
            frames => Ok(frames),
        },
    }
}

/// Writes the frames of a place where they stand, unless they do, or it is sealed; says whether they stand there then.
///
/// # Errors
/// They cannot be written now, for want of something else than space.
fn lay_frames(inner: &Inner, place: &CarriedPlace, frames: &Bytes) -> Result<bool> {
    let is_there = || is_there(inner, place.from, std::slice::from_ref(frames));
    if !is_there() {
        match inner.blob.lay(&[(place.from, frames.clone())]).map_err(Error::from) {
            // Some file systems take space for what is overwritten.
            Err(error @ Error::NoSpace { .. }) => tracing::warn!(%error, "what is bad stays so"),
            laid => laid?,
        }
    }
    for value in records_in(inner.trees.tables.store_id(), place.from, frames) {
        // So that it is known to be well.
        let _found = get::find(inner, &value.digest, Verify::Digest);
    }
    Ok(is_there())
}
