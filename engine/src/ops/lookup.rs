//! Where a value stands: memtables know, tables guess, the log confirms.
//!
//! Of many values at once the pages of tables are read in flight together, and then those of segments' lists,
//! each in the order of their places. Whatever is not plain after that (the first copy that tables lead to is
//! another value's, damage, a failed read) is looked up alone: that can be slower than it has to be, and never
//! wrong.

use std::ops::ControlFlow;

use pinstone_compaction::table::index::{IndexKey, IndexTable};
use pinstone_disk::Digest;
use pinstone_disk::planted::{self, Bug};
use pinstone_wal::Place;

use crate::error::{Error, Result};
use crate::ops::get;
use crate::state::digest_index::{IndexView, place_of};
use crate::state::inner::Inner;

/// Values looked up at once, at most: as many pages are in flight and in memory, or a few times as many
/// where several tables may have a value.
pub(crate) const LOOK_UPS_MAX: usize = 1024;

/// A copy that is not known to be damaged: it may be relied on for *already here*. What tables lead
/// to is confirmed at its segment's list, where the whole digest stands.
///
/// # Errors
/// No such copy was found, and damage, or the machine, kept us from looking everywhere.
pub(crate) fn intact(inner: &Inner, digest: &Digest) -> Result<Option<Place>> {
    copy(inner, digest, |place| !inner.index.is_bad(digest, *place))
}

/// Whether a copy is held that is not known to be damaged, or that the pointer log carries. One that the device
/// could not read is held: that may pass.
///
/// # Errors
/// As [`intact`].
pub(crate) fn is_readable(inner: &Inner, digest: &Digest) -> Result<bool> {
    let is_good = |place: &Place| {
        !inner.index.is_damaged(digest, *place) || inner.carried.find(place.position()).is_some()
    };
    copy(inner, digest, is_good)
        .map_or_else(|error| is_read(inner, digest, error), |found| Ok(found.is_some()))
}

/// Where a list is damaged the record may be well. If it is not, it may be another value's.
#[cold]
fn is_read(inner: &Inner, digest: &Digest, error: Error) -> Result<bool> {
    let mut is_there = false;
    let _looked = inner.index.view().in_tables(digest, inner.index.key_bits(), |place| {
        is_there = get::stands_at(inner, digest, place);
        if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if is_there { Ok(true) } else { Err(error) }
}

/// The same of each.
pub(crate) fn are_readable(inner: &Inner, digests: &[Digest]) -> Vec<Result<bool>> {
    look_up_many(inner, digests, |found| found.is_some(), |digest| is_readable(inner, digest))
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
    loop {
        let mut is_any_bad = false;
        let view = inner.index.view();
        let found = copy_in(inner, &view, digest, |place| {
            let is_intact = is_intact(place);
            is_any_bad |= !is_intact;
            is_intact
        });
        if !is_any_bad || matches!(found, Ok(Some(_))) {
            return found;
        }
        // Its value may have been put anew since the index was looked at, and may stand in a table by now.
        let now = inner.index.view();
        if now.flush_count() == view.flush_count()
            && !now.in_memory(digest).any(|place| is_intact(&place))
        {
            return found;
        }
    }
}

#[inline]
fn copy_in(
    inner: &Inner,
    view: &IndexView,
    digest: &Digest,
    mut is_intact: impl FnMut(&Place) -> bool,
) -> Result<Option<Place>> {
    if let Some(place) = view.in_memory(digest).find(&mut is_intact) {
        return Ok(Some(place));
    }
    let (mut found, mut failed) = (None, None);
    let looked = view.in_tables(digest, inner.index.key_bits(), |place| {
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

/// The same as [`intact`] of each.
pub(crate) fn intact_many(inner: &Inner, digests: &[Digest]) -> Vec<Result<Option<Place>>> {
    look_up_many(inner, digests, |found| found, |digest| intact(inner, digest))
}

/// What `of` makes of each value's copy, or of none; those that are not plain are looked up `alone`.
fn look_up_many<T>(
    inner: &Inner,
    digests: &[Digest],
    of: impl Fn(Option<Place>) -> T,
    alone: impl Fn(&Digest) -> Result<T>,
) -> Vec<Result<T>> {
    let mut found = Vec::with_capacity(digests.len());
    for digests in digests.chunks(LOOK_UPS_MAX) {
        let sights = sight_many(inner, digests, |_| {});
        let guessed = digests.iter().zip(&sights).filter_map(|(digest, sight)| match sight {
            Sight::InTables(place) => Some((*digest, *place)),
            _ => None,
        });
        let mut listed = inner.segments.lists_many(&guessed.collect::<Vec<_>>()).into_iter();
        found.extend(digests.iter().zip(sights).map(|(digest, sight)| match sight {
            Sight::InMemory(place) => Ok(of(Some(place))),
            Sight::InTables(place) if listed.next() == Some(Some(true)) => Ok(of(Some(place))),
            Sight::Absent => Ok(of(None)),
            Sight::InTables(_) | Sight::Unclear => alone(digest),
        }));
    }
    found
}

/// What is found out of one value among many before the log is asked.
#[derive(Clone, Copy)]
pub(crate) enum Sight {
    /// The newest copy in memory.
    InMemory(Place),
    /// The first copy that tables lead to: it may be another value's.
    InTables(Place),
    Absent,
    /// It was not found, and damage, or the machine, kept us from looking everywhere; or a copy was found that is known
    /// to be bad.
    Unclear,
}

/// Looks for values in memory and in tables; pages of these are read at once. Calls `each` with places as they are
/// found: while one page is waited for, what others lead to may be read.
pub(crate) fn sight_many(
    inner: &Inner,
    digests: &[Digest],
    mut each: impl FnMut(Place),
) -> Vec<Sight> {
    let index = &inner.index;
    let view = index.keep();
    let key = |digest: &Digest| IndexKey::of(digest.as_bytes(), index.key_bits());
    let keys: Vec<_> = digests.iter().map(|digest| key(digest).number().to_be_bytes()).collect();
    let (mut sights, mut look_ups) = (Vec::with_capacity(digests.len()), Vec::new());
    for (at, (digest, bytes)) in digests.iter().zip(&keys).enumerate() {
        let mut sight = Sight::Absent;
        let in_memory = view.in_memory(digest).find(|place| {
            let is_bad = index.is_bad(digest, *place);
            sight = if is_bad { Sight::Unclear } else { Sight::InMemory(*place) };
            !is_bad
        });
        sights.push(sight);
        in_memory.map(&mut each);
        if in_memory.is_none() {
            let tables = view.levels().for_key(&bytes[8 - IndexKey::BYTES..]);
            look_ups.extend(tables.map(|table| (at, table, key(digest))));
        }
    }
    let in_tables = look_ups.iter().map(|(_, table, key)| (*table, *key));
    let due = IndexTable::prefetch(&inner.trees.tables, in_tables);
    for ((at, table, key), pages) in look_ups.into_iter().zip(due) {
        let (digest, sight) = (&digests[at], &mut sights[at]);
        if matches!(sight, Sight::InTables(_)) {
            continue;
        }
        let Some(pages) = pages.transpose() else { continue };
        let find = |pages| {
            table.find_in(pages, key, |row| {
                let place = place_of(row);
                if index.is_bad(digest, place) {
                    *sight = Sight::Unclear;
                    return ControlFlow::Continue(());
                }
                *sight = Sight::InTables(place);
                each(place);
                ControlFlow::Break(())
            })
        };
        if pages.and_then(find).is_err() {
            *sight = Sight::Unclear;
        }
    }
    sights
}
