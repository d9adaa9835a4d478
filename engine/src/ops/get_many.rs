//! get_many: what memory knows -> pages of tables, in flight together -> records, in flight together ->
//! each checked as a get checks it.
//!
//! 1. Values that no memtable knows are looked up in tables: filters first, then the pages that are not
//!    cached, all at once, in the order of their places.
//! 2. The records of the places found are read likewise. Where segments are mapped, each is asked for as soon as
//!    its place is found, while pages that others need are waited for.
//! 3. Whatever is not plain (another value's record, damage, a long value, a copy known to be bad) is left to
//!    [`get`], which knows all cases. So this can be slower than it has to be, and never wrong.

use bytes::Bytes;
use pinstone_disk::{Batch, Digest, InTurn, Op};
use pinstone_wal::Place;

use crate::error::Result;
use crate::ops::get::{ONE_READ_BYTES_MAX, Said, Search, get};
use crate::ops::lookup::{self, LOOK_UPS_MAX, Sight};
use crate::options::Verify;
use crate::state::inner::{Inner, count};

/// The values of these digests, each as [`get`] has it, up to the last before which their records have no
/// more than `bytes_max`, as far as the index tells; of one at least.
pub(crate) fn get_many(
    inner: &Inner,
    digests: &[Digest],
    verify: Verify,
    bytes_max: u64,
) -> Vec<Result<Option<Bytes>>> {
    let (mut answers, mut bytes_left) = (Vec::with_capacity(digests.len()), bytes_max);
    for some in digests.chunks(LOOK_UPS_MAX) {
        let mut ahead_bytes = bytes_left;
        let sights = lookup::sight_many(inner, some, |place| {
            let class_bytes = place.class.bytes_max();
            if class_bytes <= ONE_READ_BYTES_MAX.min(ahead_bytes) {
                ahead_bytes -= class_bytes;
                let _is_mapped = inner.segments.will_read(place);
            }
        });
        let least = usize::from(answers.is_empty());
        let count = count_within(&sights, &mut bytes_left).max(least);
        answers.extend(get_seen(inner, &some[..count], &sights, verify));
        if count < some.len() {
            break;
        }
    }
    answers
}

/// The values of digests that were looked for.
fn get_seen(
    inner: &Inner,
    digests: &[Digest],
    sights: &[Sight],
    verify: Verify,
) -> Vec<Result<Option<Bytes>>> {
    let mut found: Vec<Option<Bytes>> = vec![None; digests.len()];
    let (mut wanted, mut mapped) = (Vec::new(), Vec::new());
    for (at, (digest, sight)) in digests.iter().zip(sights).enumerate() {
        let Some((place, said)) = likely_place(*sight) else { continue };
        match inner.blob.read_unwritten(place) {
            Some(bytes) => found[at] = checked(inner, digest, verify, place, said, bytes),
            None if place.class.bytes_max() > ONE_READ_BYTES_MAX => {}
            None if inner.segments.will_read(place) => mapped.push((place, said, at)),
            None => wanted.push((place, said, at)),
        }
    }
    wanted.sort_unstable_by_key(|(place, ..)| place.position());
    for wanted in inner.segments.of_few_files(&wanted, |(place, ..)| *place) {
        let (mut chains, mut read) = (Vec::with_capacity(wanted.len()), Vec::new());
        let mut files = InTurn::default();
        for (place, said, at) in &*wanted {
            let open = || inner.segments.file(place.ordinal).ok().flatten();
            if let Some(file) = files.file(place.ordinal, open) {
                let (offset_bytes, len_bytes) = (place.offset_bytes.into(), record_bytes(*place));
                chains.push(vec![Op::Read { file, offset_bytes, len_bytes }]);
                read.push((*place, *said, *at));
            }
        }
        for ((place, said, at), bytes) in read.into_iter().zip(inner.disk.run(Batch { chains })) {
            let bytes = bytes.ok().and_then(|mut bytes| bytes.pop());
            found[at] =
                bytes.and_then(|bytes| checked(inner, &digests[at], verify, place, said, bytes));
        }
    }
    for (place, said, at) in mapped {
        let offset_bytes = place.offset_bytes.into();
        let read = inner.segments.read(place.ordinal, offset_bytes, record_bytes(place));
        let bytes = read.ok().flatten();
        found[at] =
            bytes.and_then(|bytes| checked(inner, &digests[at], verify, place, said, bytes));
    }
    let answer = |(digest, found): (&Digest, Option<Bytes>)| match found {
        Some(value) => {
            count(&inner.counters.get, 1);
            count(&inner.counters.get_bytes, value.len() as u64);
            Ok(Some(value))
        }
        None => get(inner, digest, verify),
    };
    digests.iter().zip(found).map(answer).collect()
}

/// How many of these, from the first on, are answered by about so many bytes, which are taken off.
fn count_within(sights: &[Sight], bytes_left: &mut u64) -> usize {
    let exceeds = |sight: &Sight| {
        let class_bytes = likely_place(*sight).map_or(0, |(place, _)| place.class.bytes_max());
        let left = bytes_left.checked_sub(class_bytes);
        *bytes_left = left.unwrap_or(*bytes_left);
        left.is_none()
    };
    sights.iter().position(exceeds).unwrap_or(sights.len())
}

/// Where a value probably stands.
fn likely_place(sight: Sight) -> Option<(Place, Said)> {
    match sight {
        Sight::InMemory(place) => Some((place, Said::Known)),
        Sight::InTables(place) => Some((place, Said::Guessed)),
        Sight::Absent | Sight::Unclear => None,
    }
}

/// Bytes of a record that is read at once, at most.
fn record_bytes(place: Place) -> usize {
    usize::try_from(place.class.bytes_max()).expect("it is short")
}

/// The value, if these bytes at its place are its record.
fn checked(
    inner: &Inner,
    digest: &Digest,
    verify: Verify,
    place: Place,
    said: Said,
    bytes: Bytes,
) -> Option<Bytes> {
    Search::new(inner, digest, verify).checked(place, said, bytes).ok().flatten()
}
