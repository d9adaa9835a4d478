//! What is done before a segment of the pointer log is sealed, which lets go of what it carries of the blob log
//! (decision 0015).
//!
//! 1. The blob log is synced beyond it (K2 of `carried` in `pinstone_wal`).
//! 2. What is carried is compared with the blob log's own bytes. Where they differ, each value there is read by its
//!    digest: one of which the blob log has no good copy is put anew.
//! 3. What was put anew, by whomever, is synced. A segment in which bytes differ, and that is not sealed, is ended
//!    and sealed: of a sealed one the next open reads the list, an unsealed one it would refuse, once nothing carries
//!    what is bad there. If that cannot be had now, it is tried again, at the latest when the store is closed.
//! 4. Where there is no space for that, what is carried is written once more where it stands in an unsealed segment,
//!    which takes none.
//!
//! So it does not matter whether anybody noticed damage. A value of a sealed segment for which there is no space keeps
//! no segment of the pointer log from being sealed: deletions, which make space, need it to go on. Its copy there is
//! read, and the next segment tries to put it anew again, until the store is closed.
//!
//! - L1: nothing that is put here begins maintenance, which would come here.

use bytes::Bytes;
use pinstone_disk::env::Ordering;
use pinstone_disk::{LogKind, Ordinal};
use pinstone_wal::{LogPosition, WalError, frames_in};

use super::{grow_blob_log, seal_next_of_blob};
use crate::error::Result;
use crate::ops::get;
use crate::options::Verify;
use crate::state::carried::CarriedPlace;
use crate::state::inner::Inner;

/// Sees to it that the blob log has what this segment of the pointer log and those before it carry; then that is
/// no more looked for there.
///
/// # Errors
/// The blob log cannot be synced.
pub(super) fn keep_carried(inner: &Inner, ordinal: Ordinal) -> Result<()> {
    let _one_at_a_time = inner.letting_go.lock();
    inner.blob.sync_carried()?;
    let places = inner.carried.upto(ordinal);
    let (bad, mut has_all) = differing(inner, &places);
    if let Some(last_bad) = bad.iter().map(|(place, _)| place.from.ordinal()).max() {
        for (place, frames) in &bad {
            has_all &= put_anew(inner, place.from, frames);
        }
        match inner.blob.sync_all() {
            Err(WalError::Disk(error)) if error.is_no_space() => has_all = false,
            synced => synced?,
        }
        inner.to_end.fetch_max(last_bad.0.into(), Ordering::AcqRel);
        if !end_bad(inner) || !has_all {
            has_all = lay(inner, &bad)?;
        }
    }
    if has_all {
        inner.carried.leave(ordinal);
    }
    Ok(())
}

/// What the blob log has otherwise, with the bytes that are carried; and whether all that is carried could be read.
fn differing<'a>(
    inner: &Inner,
    places: &'a [CarriedPlace],
) -> (Vec<(&'a CarriedPlace, Bytes)>, bool) {
    let (mut bad, mut is_read, mut left) = (Vec::new(), true, places);
    while !left.is_empty() {
        let (run, others, carried) = CarriedPlace::read_first(&*inner.disk, left);
        left = others;
        if carried.is_ok_and(|carried| is_there(inner, run[0].from, &carried)) {
            continue;
        }
        for place in run {
            // Alone: what cannot be read of one says nothing of the others.
            match place.read(&*inner.disk) {
                Ok(frames) if is_there(inner, place.from, std::slice::from_ref(&frames)) => {}
                Ok(frames) => bad.push((place, frames)),
                Err(error) => {
                    tracing::warn!(%error, "what the pointer log carries cannot be read");
                    is_read = false;
                }
            }
        }
    }
    (bad, is_read)
}

/// Sees to it that no segment with bad bytes is unsealed; false if one is, for now.
pub(crate) fn end_bad(inner: &Inner) -> bool {
    let to_end = inner.to_end.load(Ordering::Acquire);
    let Ok(last_bad) = u32::try_from(to_end).map(Ordinal) else { return true };
    if to_end == 0 || last_bad < inner.root.sealed_below(LogKind::Blob) {
        return true;
    }
    let ended = end_segment(inner, last_bad);
    if let Err(error) = &ended {
        tracing::warn!(%error, "a segment in which a copy is bad stays unsealed");
    }
    ended.is_ok()
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

/// Puts those values in these frames anew of which the blob log has no good copy; whether it has one of all now.
fn put_anew(inner: &Inner, from: LogPosition, frames: &Bytes) -> bool {
    tracing::warn!(position = %from, "the blob log has not what the pointer log carries of it");
    let mut has_all = true;
    for (.., digests) in frames_in(inner.trees.tables.store_id(), from, frames) {
        for digest in digests {
            has_all &= get::keep(inner, &digest).unwrap_or_else(|error| {
                tracing::warn!(%error, %digest, "a value has no good copy that stays");
                false
            });
        }
    }
    has_all
}

/// Writes what is carried where it stands, as far as that is not sealed; whether all of it stands there now.
fn lay(inner: &Inner, bad: &[(&CarriedPlace, Bytes)]) -> Result<bool> {
    // Nothing is sealed meanwhile.
    let _one_at_a_time = inner.maintaining.lock();
    let mut is_laid = true;
    for (place, bytes) in bad {
        let frames = frames_in(inner.trees.tables.store_id(), place.from, bytes);
        let written: Vec<_> =
            frames.iter().map(|(from, frame, _)| (*from, frame.clone())).collect();
        match inner.blob.lay(&written) {
            Ok(()) => {}
            Err(error @ WalError::Poisoned { .. }) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "bad bytes could not be written once more"),
        }
        for digest in frames.iter().flat_map(|(.., digests)| digests) {
            // So that it is known to be well.
            let _found = get::find(inner, digest, Verify::Digest);
        }
        is_laid &= is_there(inner, place.from, std::slice::from_ref(bytes));
    }
    if !is_laid {
        tracing::warn!("there is no space to keep all that the pointer log carried");
    }
    Ok(is_laid)
}

/// Has the blob log end this segment, if it is the last, and seals it and those before it.
fn end_segment(inner: &Inner, ordinal: Ordinal) -> Result<()> {
    if inner.blob.figures().end.ordinal() == ordinal {
        inner.begin_writing()?;
        grow_blob_log(inner)?;
        inner.blob.go_on()?;
    }
    while seal_next_of_blob(inner)? {}
    Ok(())
}
