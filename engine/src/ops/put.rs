//! put: digest (caller's thread) -> known, intact? -> blob log -> index.

use pinstone_compaction::run::Index;
use pinstone_disk::Digest;
use pinstone_wal::{Appended, Place, PreparedValue};

use crate::error::{Error, Result};
use crate::maintain;
use crate::ops::lookup;
use crate::state::digest_index::IndexView;
use crate::state::inner::{Inner, count};
use crate::store::Put;

/// Stores `value`, unless it is held already; not durable on return.
pub(crate) fn put(inner: &Inner, value: &[u8]) -> Result<Put> {
    let digest = hash(inner, value)?;
    let put = Put { digest, new: store(inner, digest, value)? };
    note(inner, put, value);
    Ok(put)
}

/// The value's digest, if the store may take it.
pub(crate) fn hash(inner: &Inner, value: &[u8]) -> Result<Digest> {
    let (found, max) = (value.len() as u64, inner.options.value_bytes_max);
    if found > max {
        return Err(Error::Limit { what: "a value's length in bytes", max, found });
    }
    inner.writer.poison.check()?;
    Ok(Digest::of(value))
}

/// Appends the value, unless it is known; says whether it was new.
pub(crate) fn store(inner: &Inner, digest: Digest, value: &[u8]) -> Result<bool> {
    let is_new = store_alone(inner, digest, value)?;
    if is_new {
        after(inner);
    }
    Ok(is_new)
}

/// The same, and begins none of what became due: for what maintenance itself puts.
pub(crate) fn store_alone(inner: &Inner, digest: Digest, value: &[u8]) -> Result<bool> {
    loop {
        // What is in tables is looked for now; under the append lock only what came since is.
        let asked = inner.index.view().flush_count();
        if is_known(&digest, lookup::intact(inner, &digest)) {
            return Ok(false);
        }
        let prepared = PreparedValue::new(inner.writer.store, digest, value);
        match append_alone(inner, &prepared, Some(asked))? {
            Outcome::New => return Ok(true),
            Outcome::Known => return Ok(false),
            Outcome::AskAgain => {}
        }
    }
}

/// Appends the value, known or not, and begins none of what became due.
pub(crate) fn store_anew(inner: &Inner, digest: Digest, value: &[u8]) -> Result<()> {
    let prepared = PreparedValue::new(inner.writer.store, digest, value);
    while append_alone(inner, &prepared, None)? != Outcome::New {}
    Ok(())
}

/// Counts a put that is done.
pub(crate) fn note(inner: &Inner, put: Put, value: &[u8]) {
    count(&inner.counters.put, 1);
    count(&inner.counters.put_bytes, value.len() as u64);
    count(&inner.counters.put_known, u64::from(!put.new));
}

/// What became of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    New,
    /// Another thread was faster.
    Known,
    /// What memtables held stands in tables by now, or the reserve is not whole any more.
    AskAgain,
}

/// Whether a copy was found that a commit may rely on. Whether it is durable, the commit sees to;
/// one known to be damaged does not count, so that putting the value again heals it. Nor does one
/// that damage hides: what is written twice is not lost.
pub(crate) fn is_known(digest: &Digest, found: Result<Option<Place>>) -> bool {
    match found {
        Ok(place) => place.is_some(),
        Err(error) => {
            tracing::warn!(%error, %digest, "whether a value is known cannot be told");
            false
        }
    }
}

/// Whether memtables alone have one now.
fn is_in_memory(inner: &Inner, digest: &Digest) -> bool {
    has_intact(inner, &inner.index.view(), digest)
}

fn has_intact(inner: &Inner, view: &IndexView, digest: &Digest) -> bool {
    view.in_memory(digest).any(|place| !inner.index.is_bad(digest, place))
}

/// What a segment with one value has besides the value, at most: a header, a frame's, a record's.
const BESIDES_VALUE_BYTES: u64 = 4 << 10;

/// Appends the value, unless it came since the view with the flush count `asked`.
pub(crate) fn append(inner: &Inner, value: &PreparedValue<'_>, asked: u64) -> Result<Outcome> {
    let outcome = append_alone(inner, value, Some(asked))?;
    if outcome == Outcome::New {
        after(inner);
    }
    Ok(outcome)
}

/// The value is in; what maintenance meets is met again by whoever needs it done.
fn after(inner: &Inner) {
    if let Err(error) = maintain::after_writes(inner, 1) {
        tracing::warn!(%error, "maintenance failed");
    }
}

/// Appends the value, unless it came since the view with the flush count `asked`; if none was asked, even so.
fn append_alone(inner: &Inner, value: &PreparedValue<'_>, asked: Option<u64>) -> Result<Outcome> {
    inner.begin_appending()?;
    match oversize_bytes(inner, value) {
        0 => loop {
            match append_once(inner, value, asked)? {
                Some(outcome) => return Ok(outcome),
                None => maintain::grow_blob_log(inner)?,
            }
        },
        oversize_bytes => append_long(inner, value, asked, oversize_bytes),
    }
}

/// Bytes by which a segment with this value is longer than it should be; 0 if it is not.
pub(crate) fn oversize_bytes(inner: &Inner, value: &PreparedValue<'_>) -> u64 {
    let bytes = value.value.len() as u64 + BESIDES_VALUE_BYTES;
    bytes.saturating_sub(inner.options.segment_bytes)
}

/// Appends a value longer than a segment by so much: one at a time, and recovery has the space to
/// copy it before it is there.
fn append_long(
    inner: &Inner,
    value: &PreparedValue<'_>,
    asked: Option<u64>,
    oversize_bytes: u64,
) -> Result<Outcome> {
    loop {
        maintain::seal_behind::<Index>(inner)?;
        let growing = maintain::lock_growing(inner)?;
        if asked.is_some() && is_in_memory(inner, &value.digest) {
            return Ok(Outcome::Known);
        }
        inner.reserve.raise(oversize_bytes)?;
        let appended = loop {
            match append_once(inner, value, asked) {
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
fn append_once(
    inner: &Inner,
    value: &PreparedValue<'_>,
    asked: Option<u64>,
) -> Result<Option<Outcome>> {
    let known = || match asked {
        Some(asked) => is_not_to_append(inner, &inner.index.view(), &value.digest, asked),
        None => !inner.reserve.is_whole(),
    };
    let insert = |place| inner.index.insert(value.digest, place);
    let appended = inner.blob.append(value, known, insert)?;
    Ok(outcome(inner, &value.digest, appended))
}

/// The value came since the view with the flush count `asked`, or whether it did cannot be told in memory,
/// or recovery might lack the space to copy it. `view` was taken under the append lock, which is held since.
pub(crate) fn is_not_to_append(
    inner: &Inner,
    view: &IndexView,
    digest: &Digest,
    asked: u64,
) -> bool {
    view.flush_count() != asked || has_intact(inner, view, digest) || !inner.reserve.is_whole()
}

/// What an append that asked [`is_not_to_append`] came to; none if the log needs a segment first.
pub(crate) fn outcome(inner: &Inner, digest: &Digest, appended: Appended) -> Option<Outcome> {
    match appended {
        Appended::At(_) => Some(Outcome::New),
        Appended::Known if is_in_memory(inner, digest) => Some(Outcome::Known),
        Appended::Known => Some(Outcome::AskAgain),
        Appended::NeedsSegment => None,
    }
}
