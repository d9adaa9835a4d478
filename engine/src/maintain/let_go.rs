//! What is done before a segment of the pointer log is sealed, which lets go of what it carries of the blob log
//! (decision 0015).
//!
//! 1. The blob log is synced beyond it (K2 of `carried` in `pinstone_wal`).
//! 2. What is carried is compared with the blob log's own bytes. Where they differ, each value there is read as
//!    its owner would read it, by its digest: one of which the blob log has no good copy is put anew.
//! 3. What was put anew, by whomever, is synced. A segment in which bytes differ, and that is not sealed, is ended
//!    and sealed: of a sealed one the next open reads the list, an unsealed one it would refuse, once nothing carries
//!    what is bad there.
//!
//! So it does not matter whether anybody noticed damage. A value for which there is no space keeps no segment from
//! being sealed: deletions, which make space, need the pointer log to go on. Its copy there is read, and the next
//! segment tries to put it anew again, until the store is closed.

use bytes::Bytes;
use pinstone_disk::{LogKind, Ordinal};
use pinstone_wal::{LogPosition, digests_in};

use super::{grow_blob_log, seal_next_of_blob};
use crate::error::Result;
use crate::ops::{get, lookup};
use crate::options::Verify;
use crate::state::carried::CarriedPlace;
use crate::state::inner::Inner;

/// Sees to it that the blob log has what this segment of the pointer log and those before it carry; then that is
/// no more looked for there.
///
/// # Errors
/// The blob log cannot be synced.
pub(super) fn keep_carried(inner: &Inner, ordinal: Ordinal) -> Result<()> {
    inner.blob.sync_carried()?;
    let (places, mut last_bad, mut has_all) = (inner.carried.upto(ordinal), None, true);
    let mut left = &places[..];
    while !left.is_empty() {
        let (run, others, carried) = CarriedPlace::read_first(&*inner.disk, left);
        left = others;
        match carried {
            Ok(carried) if is_there(inner, run[0].from, &carried) => {}
            Ok(carried) => {
                for (place, frames) in run.iter().zip(carried) {
                    if !is_there(inner, place.from, std::slice::from_ref(&frames)) {
                        last_bad = last_bad.max(Some(place.from.ordinal()));
                        has_all &= put_anew(inner, place.from, &frames);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "what the pointer log carries cannot be read"),
        }
    }
    if let Some(last_bad) = last_bad {
        inner.blob.sync_all()?;
        leave_unsealed(inner, last_bad);
    }
    if has_all {
        inner.carried.leave(ordinal);
    }
    Ok(())
}

/// A segment in which bytes are bad does not stay unsealed, if that can be had.
fn leave_unsealed(inner: &Inner, last_bad: Ordinal) {
    if last_bad >= inner.root.sealed_below(LogKind::Blob)
        && let Err(error) = end_segment(inner, last_bad)
    {
        tracing::warn!(%error, "a segment in which a copy is bad stays unsealed");
    }
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

/// Reads each value in these frames, which has those put anew of which the blob log has no good copy; whether it has
/// one of all now.
fn put_anew(inner: &Inner, from: LogPosition, frames: &[u8]) -> bool {
    tracing::warn!(position = %from, "the blob log has not what the pointer log carries of it");
    let mut has_all = true;
    for digest in digests_in(inner.trees.tables.store_id(), from, frames) {
        if let Err(error) = get::read(inner, &digest, Verify::Digest) {
            tracing::warn!(%error, %digest, "no copy of a value can be read");
        }
        has_all &= matches!(lookup::intact(inner, &digest), Ok(Some(_)));
    }
    has_all
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
