//! put: digest (caller's thread) -> known, intact? -> blob log -> index.

use pinstone_disk::Digest;
use pinstone_wal::{Appended, PreparedValue};

use crate::error::{Error, Result};
use crate::maintain;
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
    let new = !is_known(inner, &digest) && append(inner, digest, value)?;
    count(&inner.counters.put, 1);
    count(&inner.counters.put_bytes, found);
    count(&inner.counters.put_known, u64::from(!new));
    Ok(Put { digest, new })
}

/// Whether a copy is there that a commit may rely on. Whether it is durable, the commit sees to;
/// one known to be damaged does not count, so that putting the value again heals it.
fn is_known(inner: &Inner, digest: &Digest) -> bool {
    inner.index.intact(digest).is_some()
}

/// What a segment with one value has besides the value, at most: a header, a frame's, a record's.
const BESIDES_VALUE_BYTES: u64 = 4 << 10;

/// Appends the value; false if another thread was faster.
fn append(inner: &Inner, digest: Digest, value: &[u8]) -> Result<bool> {
    inner.begin_writing()?;
    let bytes = value.len() as u64 + BESIDES_VALUE_BYTES;
    let is_new = match bytes.checked_sub(inner.options.segment_bytes) {
        None | Some(0) => loop {
            match append_once(inner, digest, value)? {
                Some(is_new) => break is_new,
                None => maintain::grow_blob_log(inner)?,
            }
        },
        Some(oversize_bytes) => append_long(inner, digest, value, oversize_bytes)?,
    };
    // The value is in; what maintenance meets is met again by whoever needs it done.
    if is_new && let Err(error) = maintain::after_write(inner) {
        tracing::warn!(%error, "maintenance failed");
    }
    Ok(is_new)
}

/// Appends a value longer than a segment by so much: one at a time, and recovery has the space to
/// copy it before it is there.
fn append_long(inner: &Inner, digest: Digest, value: &[u8], oversize_bytes: u64) -> Result<bool> {
    loop {
        maintain::seal_behind(inner)?;
        let growing = inner.growing.lock();
        if is_known(inner, &digest) {
            return Ok(false);
        }
        inner.reserve.raise(oversize_bytes)?;
        let appended = loop {
            match append_once(inner, digest, value) {
                Ok(None) if !inner.blob.is_behind() => {
                    if let Err(error) = maintain::grow_blob_log_holding(inner, &growing) {
                        break Err(error);
                    }
                }
                appended => break appended,
            }
        };
        if !matches!(appended, Ok(Some(true)))
            && let Err(error) = inner.reserve.lower(oversize_bytes)
        {
            tracing::warn!(%error, "more space is set aside than is needed");
        }
        if let Some(is_new) = appended? {
            return Ok(is_new);
        }
    }
}

/// Appends the value: whether it is new, or none if the log needs a segment first.
fn append_once(inner: &Inner, digest: Digest, value: &[u8]) -> Result<Option<bool>> {
    let prepared = PreparedValue::new(inner.writer.store, digest, value);
    let known = || is_known(inner, &digest);
    let insert = |place| inner.index.insert(digest, place);
    Ok(match inner.blob.append(&prepared, known, insert)? {
        Appended::At(_) => Some(true),
        Appended::Known => Some(false),
        Appended::NeedsSegment => None,
    })
}
