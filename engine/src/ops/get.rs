//! get: index -> blob log: read, checksum, digest -> `Bytes`. A bad copy -> pointer log: is it carried there?

use std::ops::ControlFlow;

use bytes::{Buf as _, Bytes};
use pinstone_disk::codec::size;
use pinstone_disk::{Digest, DiskExt as _};
use pinstone_wal::{
    Place, RECORD_HEADER_BYTES_MAX, Record, RecordHeader, RecordKind, ValueRecord, WalError,
    corrupt,
};

use crate::error::{Error, Result};
use crate::ops::put;
use crate::options::Verify;
use crate::state::digest_index::IndexView;
use crate::state::inner::{Inner, count};

/// Records up to this length are read with one read, a little too much of it; of longer ones the
/// header is read first.
pub(crate) const ONE_READ_BYTES_MAX: u64 = 64 << 10;

/// The value named `digest`, or `None` if it is not held. All copies are tried (P4), those known to
/// be bad last. A value that only the pointer log has is put anew, durably: that copy leaves with its segment.
pub(crate) fn get(inner: &Inner, digest: &Digest, verify: Verify) -> Result<Option<Bytes>> {
    count(&inner.counters.get, 1);
    let found = read(inner, digest, verify)?;
    match &found {
        Some(value) => count(&inner.counters.get_bytes, value.len() as u64),
        None => count(&inner.counters.get_absent, 1),
    }
    Ok(found)
}

/// The same, uncounted.
pub(crate) fn read(inner: &Inner, digest: &Digest, verify: Verify) -> Result<Option<Bytes>> {
    let mut search = Search::new(inner, digest, verify);
    let found = search.all()?;
    if let Some(value) = found.as_ref().filter(|_| search.is_only_carried)
        && let Err(error) = put_anew(inner, digest, value)
    {
        tracing::warn!(%error, %digest, "only the pointer log has a good copy of this value");
    }
    Ok(found)
}

/// Durably: by the time that the copy in the pointer log is gone, nobody may have asked for a sync.
fn put_anew(inner: &Inner, digest: &Digest, value: &[u8]) -> Result<()> {
    put::store(inner, *digest, value)?;
    Ok(inner.blob.sync_all()?)
}

/// Why the blob log may have no good copy of a value.
pub(crate) enum NotKept {
    /// It cannot be told now what is left of the value, and it is not carried.
    Unread(Error),
    /// It could not be put anew.
    Unstored(Error),
}

/// Sees to it that the blob log has a good copy of this value, of which the pointer log carries what should stand at
/// `at`: puts it anew, if need be, and begins nothing of what becomes due then; not durable on return. False if
/// there is no copy any more that can be read.
pub(crate) fn keep(inner: &Inner, digest: &Digest, at: Place) -> Result<bool, NotKept> {
    let own = has_own(inner, digest, at);
    if matches!(own, Ok(true)) {
        return Ok(true);
    }
    let mut search = Search::new(inner, digest, Verify::Digest);
    let value = match search.carried(at, Said::Known) {
        Ok(Some(value)) => value,
        carried => match (search.all(), carried) {
            (Ok(Some(value)), _) => value,
            (Err(error), _) if may_pass(&error) => return Err(NotKept::Unread(error)),
            // It is not known to be lost.
            (_, Err(error)) => return Err(NotKept::Unread(error)),
            (_, Ok(_)) => return Ok(false),
        },
    };
    if own.is_err() {
        // What may pass may also last: nobody waits for it who has the value. It is put anew once.
        if !inner.index.is_bad(digest, at) {
            inner.index.mark_unreadable(digest, at);
        }
        put::store_alone(inner, *digest, &value).map_err(NotKept::Unstored)?;
        if has_own(inner, digest, at).map_err(NotKept::Unread)? {
            return Ok(true);
        }
    }
    // Whatever is known: that a copy is bad may be forgotten by now.
    put::store_anew(inner, *digest, &value).map_err(NotKept::Unstored)?;
    Ok(true)
}

/// The blob log itself has a copy that can be read, at `at` or elsewhere.
///
/// # Errors
/// It may the next time, and cannot be told now.
fn has_own(inner: &Inner, digest: &Digest, at: Place) -> Result<bool> {
    let new = Search::new(inner, digest, Verify::Digest);
    let mut search = Search { asks_carried: false, ..new };
    if search.copy(at, Said::Known).is_some() {
        return Ok(true);
    }
    match search.all() {
        Ok(found) => Ok(found.is_some()),
        Err(error) if may_pass(&error) => Err(error),
        Err(_) => Ok(false),
    }
}

/// The blob log's own bytes at `at` are this value's record, and well; or what the pointer log carries of them is. Notes
/// nothing.
pub(crate) fn stands_at(inner: &Inner, digest: &Digest, at: Place) -> bool {
    let search = Search::new(inner, digest, Verify::Digest);
    let is_there = |read| matches!(read, Ok(Some(_)));
    is_there(search.read_own(at, Said::Known)) || is_there(search.carried(at, Said::Known))
}

/// Reads one copy, and notes if it is bad, and how.
pub(crate) fn judge(inner: &Inner, digest: &Digest, at: Place) {
    let new = Search::new(inner, digest, Verify::Digest);
    let _found = Search { asks_carried: false, ..new }.copy(at, Said::Known);
}

/// As [`read`], and nothing is written.
pub(crate) fn find(inner: &Inner, digest: &Digest, verify: Verify) -> Result<Option<Bytes>> {
    Search::new(inner, digest, verify).all()
}

/// A search for a copy that can be read.
pub(crate) struct Search<'a> {
    inner: &'a Inner,
    digest: &'a Digest,
    verify: Verify,
    /// Copies known to be bad, passed over at first.
    passed: Vec<(Place, Said)>,
    /// Copies that could not be read.
    tried: Vec<Place>,
    /// Why the first of them could not, or the first for a reason that may pass.
    failed: Option<Error>,
    /// What the pointer log carries counts.
    asks_carried: bool,
    /// What was found the pointer log carries, and the blob log has no more where it stood.
    is_only_carried: bool,
}

/// Who says that a copy is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// Somebody who knows the whole digest.
    Known,
    /// A table: it may be another value's.
    Guessed,
}

impl<'a> Search<'a> {
    pub(crate) fn new(inner: &'a Inner, digest: &'a Digest, verify: Verify) -> Self {
        Self {
            inner,
            digest,
            verify,
            passed: Vec::new(),
            tried: Vec::new(),
            failed: None,
            asks_carried: true,
            is_only_carried: false,
        }
    }

    fn all(&mut self) -> Result<Option<Bytes>> {
        loop {
            let view = self.inner.index.view();
            let found = self.all_in(&view);
            if found.is_ok() {
                return found;
            }
            // Somebody may have put it anew since the index was looked at, and let go of what was carried; it may
            // stand in a table by now.
            let now = self.inner.index.view();
            let is_same = now.flush_count() == view.flush_count();
            if is_same && now.in_memory(self.digest).all(|place| self.tried.contains(&place)) {
                return found;
            }
        }
    }

    fn all_in(&mut self, view: &IndexView) -> Result<Option<Bytes>> {
        for place in view.in_memory(self.digest) {
            if let Some(value) = self.unless_bad(place, Said::Known) {
                return Ok(Some(value));
            }
        }
        let mut found = None;
        let looked = view.in_tables(self.digest, self.inner.index.key_bits(), |place| {
            found = self.unless_bad(place, Said::Guessed);
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if found.is_some() {
            return Ok(found);
        }
        for (place, said) in std::mem::take(&mut self.passed) {
            if let Some(value) = self.copy(place, said) {
                self.forget_if_well(place, said);
                return Ok(Some(value));
            }
        }
        // What could not be read may have been it, or have led to it.
        if let Err(error) = looked {
            self.note_failed(error.into());
        }
        self.failed.take().map_or(Ok(None), Err)
    }

    fn note_failed(&mut self, error: Error) {
        let is_first = self.failed.is_none();
        if is_first || (may_pass(&error) && !self.failed.as_ref().is_some_and(may_pass)) {
            self.failed = Some(error);
        }
    }

    /// What was known to be bad may be well again: written once more, or by a device that can read it by now.
    fn forget_if_well(&self, place: Place, said: Said) {
        if let Ok(Some(own)) = self.read_own(place, said)
            && Digest::of(&own) == *self.digest
        {
            self.inner.index.forget_bad(self.digest, place);
        }
    }

    fn unless_bad(&mut self, place: Place, said: Said) -> Option<Bytes> {
        if self.inner.index.is_bad(self.digest, place) {
            self.passed.push((place, said));
            return None;
        }
        self.copy(place, said)
    }

    /// Reads one copy; what that said against it is kept.
    fn copy(&mut self, place: Place, said: Said) -> Option<Bytes> {
        match self.read(place, said) {
            Ok(value) => value,
            Err(error) => {
                self.tried.push(place);
                self.note_failed(error);
                None
            }
        }
    }

    /// Reads and checks one copy; none if it is another value's. Who cannot read the blob log's own bytes, or
    /// finds them bad, asks what the pointer log carries of them.
    fn read(&mut self, place: Place, said: Said) -> Result<Option<Bytes>> {
        let read = self.read_own(place, said);
        if !matches!(read, Err(Error::Corrupt { .. } | Error::Io { .. })) {
            return read;
        }
        let carried = if self.asks_carried { self.carried(place, said) } else { Ok(None) };
        // What failed once is no reason to write a value again that stands there well.
        let again = self.read_own(place, said);
        let is_bad = match &again {
            Err(Error::Corrupt { .. }) => {
                self.inner.index.mark_bad(self.digest, place);
                true
            }
            Err(Error::Io { source }) if source.is_unreadable_file() => {
                self.inner.index.mark_unreadable(self.digest, place);
                true
            }
            _ => false,
        };
        match carried {
            Ok(Some(value)) => {
                self.is_only_carried |= is_bad;
                Ok(Some(value))
            }
            // It is not known to be lost.
            Err(error) if is_bad => Err(error),
            _ => again,
        }
    }

    /// Reads and checks the blob log's own bytes.
    fn read_own(&self, place: Place, said: Said) -> Result<Option<Bytes>> {
        match read_record(self.inner, place)? {
            Some(bytes) => self.checked(place, said, bytes),
            // The entry of a segment that has gone.
            None if said == Said::Guessed => Ok(None),
            None => {
                let name = format!("segment {}", place.ordinal);
                Err(corrupt(name, 0, "the index names it, the root does not").into())
            }
        }
    }

    /// The value as the pointer log carries it, if it does. It is hashed, since it may be put anew.
    ///
    /// # Errors
    /// It may the next time, and cannot be told now.
    fn carried(&self, place: Place, said: Said) -> Result<Option<Bytes>> {
        let Some(bytes) = self.carried_bytes(place)? else { return Ok(None) };
        let value = self.checked(place, said, bytes).ok().flatten();
        Ok(value.filter(|value| Digest::of(value) == *self.digest))
    }

    /// What the pointer log carries of this place, unchecked: the record, or more; none if it carries nothing, or what
    /// the device cannot read.
    ///
    /// # Errors
    /// As [`carried`](Self::carried).
    fn carried_bytes(&self, place: Place) -> Result<Option<Bytes>> {
        let carried = self.inner.carried.find(place.position());
        let Some((file, offset_bytes, left_bytes)) = carried else { return Ok(None) };
        let some = |len_bytes: u64| {
            let len_bytes = size(len_bytes.min(left_bytes));
            Ok(Some(self.inner.disk.read_own(&file, offset_bytes, len_bytes)?))
        };
        match read_twice(|| Ok(read_whole(place, some)?)) {
            Err(error) if !may_pass(&error) => Ok(None),
            read => read,
        }
    }

    /// The value in the record that these bytes begin with; none if it is another's.
    pub(crate) fn checked(
        &self,
        place: Place,
        said: Said,
        mut bytes: Bytes,
    ) -> Result<Option<Bytes>> {
        let Self { inner, digest, .. } = *self;
        let offset = u64::from(place.offset_bytes);
        let bad = |what: &str| -> Error {
            let name = inner.segments.name(place.ordinal);
            let name = name.map_or_else(|| format!("segment {}", place.ordinal), |n| n.to_string());
            corrupt(name, offset, format!("{what}, in the record of value {digest}")).into()
        };
        let read = Record::read(inner.writer.store, &bytes)
            .map_err(|error| format!("expected {}", error.what))
            .and_then(|record| match record.kind == RecordKind::Value as u8 {
                true => ValueRecord::decode(record.payload).map_err(|error| error.what.to_owned()),
                false => Err("expected a value".to_owned()),
            })
            .and_then(|value| match value.digest == *digest {
                true => Ok(value),
                false => Err("found another value".to_owned()),
            });
        let value = match read {
            Ok(value) => value,
            // Whose record should stand here, the segment's list says: a device may have put another's in
            // its place. If the list is damaged, it may be ours.
            Err(what) if said == Said::Guessed => match inner.segments.lists(digest, place) {
                Ok(false) => return Ok(None),
                Ok(true) | Err(WalError::Format(_)) => return Err(bad(&what)),
                Err(error) => return Err(error.into()),
            },
            Err(what) => return Err(bad(&what)),
        };
        if self.verify == Verify::Digest && Digest::of(value.value) != *digest {
            return Err(bad("its bytes have another digest"));
        }
        // As `Bytes::slice_ref`, but what is there is cut, and not shared and let go of.
        let start = value.value.as_ptr().addr() - bytes.as_ptr().addr();
        let len_bytes = value.value.len();
        bytes.advance(start);
        bytes.truncate(len_bytes);
        Ok(Some(bytes))
    }
}

/// What is read, at the second try if not at the first. Where both fail, what may pass is told.
pub(crate) fn read_twice<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    read().or_else(|first| read().map_err(|second| if may_pass(&first) { first } else { second }))
}

/// It says nothing of what is on the device, and may be otherwise the next time.
pub(crate) fn may_pass(error: &Error) -> bool {
    match error {
        Error::Io { source } => !source.is_unreadable_file(),
        error => !matches!(error, Error::Corrupt { .. } | Error::Unsupported { .. }),
    }
}

/// The bytes from a record's start to its end or beyond; none if the log does not have the segment.
fn read_record(inner: &Inner, place: Place) -> Result<Option<Bytes>> {
    if let Some(bytes) = inner.blob.read_unwritten(place) {
        return Ok(Some(bytes));
    }
    let offset_bytes = u64::from(place.offset_bytes);
    let read = |len_bytes| inner.segments.read(place.ordinal, offset_bytes, size(len_bytes));
    Ok(read_whole(place, read)?)
}

/// The same by `read`, which reads as many bytes from the record's start. What a device cannot read behind the record
/// does not matter.
fn read_whole(
    place: Place,
    read: impl Fn(u64) -> Result<Option<Bytes>, WalError>,
) -> Result<Option<Bytes>, WalError> {
    let class_bytes = place.class.bytes_max();
    if class_bytes <= ONE_READ_BYTES_MAX {
        match read(class_bytes) {
            Err(WalError::Disk(error)) if error.is_unreadable() => {}
            read => return read,
        }
    }
    // No record is shorter.
    let Some(head) = read(RECORD_HEADER_BYTES_MAX as u64)? else { return Ok(None) };
    let len_bytes = match RecordHeader::read(&head) {
        // A damaged length is no reason to read more than the class allows.
        Ok(header) => {
            (header.payload_bytes as u64).saturating_add(header.len_bytes as u64).min(class_bytes)
        }
        Err(_) => head.len() as u64,
    };
    read(len_bytes)
}
