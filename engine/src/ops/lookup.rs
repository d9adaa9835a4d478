//! Where a value stands: memtables know, tables guess, the log confirms.

use std::ops::ControlFlow;

use pinstone_disk::Digest;
use pinstone_disk::planted::{self, Bug};
use pinstone_wal::Place;

use crate::error::{Error, Result};
use crate::state::inner::Inner;

/// A copy that is not known to be damaged: it may be relied on for *already here*. What tables lead
/// to is confirmed at its segment's list, where the whole digest stands.
///
/// # Errors
/// No such copy was found, and damage, or the machine, kept us from looking everywhere.
pub(crate) fn intact(inner: &Inner, digest: &Digest) -> Result<Option<Place>> {
    copy(inner, digest, |place| !inner.index.is_bad(digest, *place))
}

/// Whether any copy is held, damaged or not.
///
/// # Errors
/// As [`intact`].
pub(crate) fn is_held(inner: &Inner, digest: &Digest) -> Result<bool> {
    Ok(copy(inner, digest, |_| true)?.is_some())
}

fn copy(
    inner: &Inner,
    digest: &Digest,
    is_intact: impl Fn(&Place) -> bool,
) -> Result<Option<Place>> {
    let index = &inner.index;
    let view = index.view();
    if let Some(place) = view.in_memory(digest).find(&is_intact) {
        return Ok(Some(place));
    }
    let (mut found, mut failed) = (None, None);
    let looked = view.in_tables(digest, index.key_bits(), |place| {
        if !is_intact(&place) {
            return ControlFlow::Continue(());
        }
        match inner.segments.lists(digest, place) {
            Ok(is_listed) if is_listed || planted::is(Bug::TruncatedKeyBelieved) => {
                found = Some(place);
                return ControlFlow::Break(());
            }
            Ok(_) => {}
            Err(error) => {
                failed.get_or_insert(Error::from(error));
            }
        }
        ControlFlow::Continue(())
    });
    match (found, looked, failed) {
        (Some(place), ..) => Ok(Some(place)),
        (None, Err(error), _) => Err(error.into()),
        (None, Ok(_), Some(error)) => Err(error),
        (None, Ok(_), None) => Ok(None),
    }
}
