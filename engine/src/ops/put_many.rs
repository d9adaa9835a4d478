//! put_many: digests (caller's thread) -> which are known, asked for all -> blob log and index, several values
//! under one taking of the append lock.
//!
//! 1. A portion of the values is hashed, and looked up as [`lookup::intact_many`] does it.
//! 2. Records are made of those that are not known, and appended in their order, as many at a time as
//!    [`BlobLog::append_some`] takes. That asks of each once more, so a value that stands twice is stored once.
//! 3. What that stops at (the frame is full, a segment is needed, a long value, an error) is appended as a
//!    [`put`] does it; what may have come to be known meanwhile is put from the start. So all cases are
//!    decided in one place.
//!
//! [`BlobLog::append_some`]: pinstone_wal::BlobLog::append_some
//! [`put`]: crate::ops::put

use std::cell::OnceCell;

use pinstone_disk::Digest;
use pinstone_wal::{Appended, PreparedValue};

use crate::error::Result;
use crate::maintain;
use crate::ops::lookup;
use crate::ops::put::{
    Outcome, append, hash, is_known, is_not_to_append, note, outcome, oversize_bytes, store,
};
use crate::state::inner::Inner;
use crate::store::Put;

/// Values looked up before the first of them is appended, at most: what is kept of each is some 200 bytes.
const PORTION_VALUES_MAX: usize = 1024;

/// Stores these values, each as [`crate::ops::put::put`] does it.
pub(crate) fn put_many(inner: &Inner, values: &[impl AsRef<[u8]>]) -> Vec<Result<Put>> {
    let mut puts = Vec::with_capacity(values.len());
    for portion in values.chunks(PORTION_VALUES_MAX) {
        // Asked for once: what is hashed is what is stored.
        let portion: Vec<&[u8]> = portion.iter().map(AsRef::as_ref).collect();
        puts.append(&mut put_portion(inner, &portion));
    }
    puts
}

fn put_portion(inner: &Inner, values: &[&[u8]]) -> Vec<Result<Put>> {
    let hashed = |value| hash(inner, value).map(|digest| Put { digest, new: true });
    let mut puts: Vec<_> = values.iter().map(|value| hashed(value)).collect();
    let digests: Vec<Digest> = puts.iter().flatten().map(|put| put.digest).collect();
    // What is in tables is looked for now; under the append lock only what came since is.
    let asked = inner.index.view().flush_count();
    for (put, found) in puts.iter_mut().flatten().zip(lookup::intact_many(inner, &digests)) {
        put.new = !is_known(&put.digest, found);
    }
    let unknown: Vec<_> = puts
        .iter()
        .zip(values)
        .filter_map(|(put, value)| match put {
            Ok(Put { digest, new: true }) => {
                Some(PreparedValue::new(inner.writer.store, *digest, value))
            }
            _ => None,
        })
        .collect();
    let stored = store_all(inner, &unknown, asked);
    let of_unknown = puts.iter_mut().filter(|put| matches!(put, Ok(Put { new: true, .. })));
    for (put, stored) in of_unknown.zip(stored) {
        match (put, stored) {
            (Ok(put), Ok(new)) => put.new = new,
            (put, Err(error)) => *put = Err(error),
            (Err(_), Ok(_)) => unreachable!("what has no digest is not stored"),
        }
    }
    for (put, value) in puts.iter().zip(values) {
        if let Ok(put) = put {
            note(inner, *put, value);
        }
    }
    puts
}

/// Appends each value that did not come since the view with the flush count `asked`; says of each whether
/// it was new.
fn store_all(inner: &Inner, values: &[PreparedValue<'_>], asked: u64) -> Vec<Result<bool>> {
    let mut stored = Vec::with_capacity(values.len());
    while let Some(first) = values.get(stored.len()) {
        let rest = &values[stored.len()..];
        let outcomes = append_some(inner, rest, asked);
        if outcomes.is_empty() {
            stored.push(settled(inner, first, append(inner, first, asked)));
        }
        stored.extend(
            rest.iter().zip(outcomes).map(|(value, outcome)| settled(inner, value, Ok(outcome))),
        );
    }
    stored
}

/// Whether the value was new; stores it if it has to be asked again whether it is known.
fn settled(inner: &Inner, value: &PreparedValue<'_>, outcome: Result<Outcome>) -> Result<bool> {
    match outcome? {
        Outcome::New => Ok(true),
        Outcome::Known => Ok(false),
        Outcome::AskAgain => store(inner, value.digest, value.value),
    }
}

/// Appends the first of `values` at once, and says what became of them. None if the first has to be
/// appended alone, which also tells why.
fn append_some(inner: &Inner, values: &[PreparedValue<'_>], asked: u64) -> Vec<Outcome> {
    let short_count = values.iter().take_while(|value| oversize_bytes(inner, value) == 0).count();
    // Taken with the lock: while that is held, nobody else inserts what is gathered.
    let view = OnceCell::new();
    let view = || view.get_or_init(|| inner.index.view());
    let known = |value: &PreparedValue<'_>| is_not_to_append(inner, view(), &value.digest, asked);
    let insert = |value: &PreparedValue<'_>, place| view().insert(value.digest, place);
    let appended = match inner.begin_appending() {
        Ok(()) => inner.blob.append_some(&values[..short_count], known, insert).unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let new_count = appended.iter().filter(|appended| matches!(appended, Appended::At(_))).count();
    // The values are in; what maintenance meets is met again by whoever needs it done.
    if new_count > 0
        && let Err(error) = maintain::after_writes(inner, new_count as u64)
    {
        tracing::warn!(%error, "maintenance failed");
    }
    let outcome = |(value, appended): (&PreparedValue<'_>, Appended)| {
        outcome(inner, &value.digest, appended).expect("what needs a segment is not among them")
    };
    values.iter().zip(appended).map(outcome).collect()
}
