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
    inner.poison.check()?;
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

/// Appends the value; false if another thread was faster.
fn append(inner: &Inner, digest: Digest, value: &[u8]) -> Result<bool> {
    let prepared = PreparedValue::new(inner.blob.store_seed(), digest, value);
    loop {
        let known = || is_known(inner, &digest);
        let insert = |place| inner.index.insert(digest, place);
        match inner.blob.append(&prepared, known, insert)? {
            Appended::At(_) => {
                // The value is in; what maintenance meets is met again by whoever needs it done.
                if let Err(error) = maintain::after_write(inner) {
                    tracing::warn!(%error, "maintenance failed");
                }
                return Ok(true);
            }
            Appended::Known => return Ok(false),
            Appended::NeedsSegment => maintain::grow_blob_log(inner)?,
        }
    }
}
