//! put: digest (caller's thread) -> known, intact? -> blob log -> index.

use pinstone_compaction::run::Index;
use pinstone_disk::Digest;
use pinstone_wal::{Appended, PreparedValue};

use crate::error::{Error, Result};
use crate::maintain;
use crate::ops::lookup;
use crate::state::inner::{Inner, count};
use crate::store::Put;

/// Stores `value`, unless it is held already; not durable on return.
pub(crate) fn put(inner: &Inner, value: &[u8]) -> Result<Put> {
    let (found, max) = (value.len() as u64, inner.options.value_bytes_max);
    if found > max {
        return Err(Error::Limit { what: "a value's length in bytes", max, found });
    }
    inner.writer.poison.check()?;
    let digest = Digest::of(value);
    let new = loop {
        // What is in tables is looked for now; under the append lock only what came since is.
        let asked = inner.index.view().flush_count();
        if is_known(inner, &digest) {
            break false;
        }
        match append(inner, digest, value, asked)? {
            Outcome::New => break true,
            Outcome::Known => break false,
            Outcome::AskAgain => {}
        }
    };
    count(&inner.counters.put, 1);
    count(&inner.counters.put_bytes, found);
    count(&inner.counters.put_known, u64::from(!new));
    Ok(Put { digest, new })
}

/// What became of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    New,
    /// Another thread was faster.
    Known,
    /// What memtables held stands in tables by now, or the reserve is not whole any more.
    AskAgain,
}

/// Whether a copy is there that a commit may rely on. Whether it is durable, the commit sees to;
/// one known to be damaged does not count, so that putting the value again heals it. Nor does one
/// that damage hides: what is written twice is not lost.
fn is_known(inner: &Inner, digest: &Digest) -> bool {
    match lookup::intact(inner, digest) {
        Ok(place) => place.is_some(),
        Err(error) => {
            tracing::warn!(%error, %digest, "whether a value is known cannot be told");
            false
        }
    }
}

/// The same of memtables alone.
fn is_in_memory(inner: &Inner, digest: &Digest) -> bool {
    let view = inner.index.view();
    view.in_memory(digest).any(|place| !inner.index.is_bad(digest, place))
}

/// What a segment with one value has besides the value, at most: a header, a frame's, a record's.
const BESIDES_VALUE_BYTES: u64 = 4 << 10;

/// Appends the value, unless it came since the view with the flush count `asked`.
fn append(inner: &Inner, digest: Digest, value: &[u8], asked: u64) -> Result<Outcome> {
    inner.begin_writing()?;
    let bytes = value.len() as u64 + BESIDES_VALUE_BYTES;
    let outcome = match bytes.checked_sub(inner.options.segment_bytes) {
        None | Some(0) => loop {
            match append_once(inner, digest, value, asked)? {
                Some(outcome) => break outcome,
                None => maintain::grow_blob_log(inner)?,
            }
        },
        Some(oversize_bytes) => append_long(inner, digest, value, asked, oversize_bytes)?,
    };
    // The value is in; what maintenance meets is met again by whoever needs it done.
    if outcome == Outcome::New
        && let Err(error) = maintain::after_write(inner)
    {
        tracing::warn!(%error, "maintenance failed");
    }
    Ok(outcome)
}

/// Appends a value longer than a segment by so much: one at a time, and recovery has the space to
/// copy it before it is there.
fn append_long(
    inner: &Inner,
    digest: Digest,
    value: &[u8],
    asked: u64,
    oversize_bytes: u64,
) -> Result<Outcome> {
    loop {
        maintain::seal_behind::<Index>(inner)?;
        let growing = maintain::lock_growing(inner)?;
        if is_in_memory(inner, &digest) {
            return Ok(Outcome::Known);
        }
        inner.reserve.raise(oversize_bytes)?;
        let appended = loop {
            match append_once(inner, digest, value, asked) {
                Ok(None) if !inner.blob.is_behind() => {
                    if let Err(error) = maintain::grow_blob_log_holding(inner, &growing) {
                        break Err(error);
                    }
                }
                appended => break appended,
            }
        };
        if !matches!(appended, Ok(Some(Outcome::New)))
            && let Err(error) = inner.reserve.lower(oversize_bytes)
        {
            tracing::warn!(%error, "more space is set aside than is needed");
        }
        if let Some(outcome) = appended? {
            return Ok(outcome);
        }
    }
}

/// Appends the value, or none if the log needs a segment first. Under the append lock it is asked
/// once more whether it may: what was true when the put began may have changed while it waited.
fn append_once(inner: &Inner, digest: Digest, value: &[u8], asked: u64) -> Result<Option<Outcome>> {
    let prepared = PreparedValue::new(inner.writer.store, digest, value);
    let is_stale = || inner.index.view().flush_count() != asked;
    let known = || is_in_memory(inner, &digest) || is_stale() || !inner.reserve.is_whole();
    let insert = |place| inner.index.insert(digest, place);
    Ok(match inner.blob.append(&prepared, known, insert)? {
        Appended::At(_) => Some(Outcome::New),
        Appended::Known if is_in_memory(inner, &digest) => Some(Outcome::Known),
        Appended::Known => Some(Outcome::AskAgain),
        Appended::NeedsSegment => None,
    })
}
