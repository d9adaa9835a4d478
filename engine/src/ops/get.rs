//! get: index -> blob log: read, checksum, digest -> `Bytes`.

use bytes::Bytes;
use pinstone_disk::{Digest, DiskExt};
use pinstone_wal::{Place, Record, RecordHeader, RecordKind, ValueRecord, corrupt};

use crate::error::{Error, Result};
use crate::options::Verify;
use crate::state::inner::{Inner, count};

/// Records up to this length are read with one read, a little too much of it; of longer ones the
/// header is read first.
const ONE_READ_BYTES_MAX: u64 = 64 << 10;

/// Enough for any record's header.
const HEADER_READ_BYTES: usize = 64;

/// The value named `digest`, or `None` if it is not held. All copies are tried (P4).
pub(crate) fn get(inner: &Inner, digest: &Digest, verify: Verify) -> Result<Option<Bytes>> {
    count(&inner.counters.get, 1);
    let Some(copies) = inner.index.find(digest) else {
        count(&inner.counters.get_absent, 1);
        return Ok(None);
    };
    let mut first_error = None;
    for place in copies.places() {
        match read(inner, place, digest, verify) {
            Ok(value) => {
                count(&inner.counters.get_bytes, value.len() as u64);
                return Ok(Some(value));
            }
            Err(error) => {
                if matches!(error, Error::Corrupt { .. }) {
                    inner.index.mark_bad(digest, place);
                }
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.expect("an entry of the index has at least one copy"))
}

/// Reads and checks one copy.
fn read(inner: &Inner, place: Place, digest: &Digest, verify: Verify) -> Result<Bytes> {
    let bytes = read_record(inner, place)?;
    let offset = u64::from(place.offset_bytes);
    let bad = |what: &str| -> Error {
        let name = inner.segments.name(place.ordinal);
        let name = name.map_or_else(|| format!("segment {}", place.ordinal), |n| n.to_string());
        corrupt(name, offset, format!("{what}, in the record of value {digest}")).into()
    };
    let record = Record::read(inner.writer.store, &bytes)
        .map_err(|error| bad(&format!("expected {}", error.what)))?;
    if record.kind != RecordKind::Value as u8 {
        return Err(bad("expected a value"));
    }
    let value = ValueRecord::decode(record.payload).map_err(|error| bad(error.what))?;
    if value.digest != *digest {
        return Err(bad("found another value"));
    }
    if verify == Verify::Digest && Digest::of(value.value) != *digest {
        return Err(bad("its bytes have another digest"));
    }
    Ok(bytes.slice_ref(value.value))
}

/// The bytes from a record's start to its end or beyond.
fn read_record(inner: &Inner, place: Place) -> Result<Bytes> {
    if let Some(bytes) = inner.blob.read_unwritten(place) {
        return Ok(bytes);
    }
    let missing = || -> Error {
        corrupt(format!("segment {}", place.ordinal), 0, "the index names it, the root does not")
            .into()
    };
    let file = match inner.segments.file(place.ordinal) {
        Err(error) if error.is_not_found() => {
            return Err(corrupt(error.file, 0, "the root names it, and it is not there").into());
        }
        file => file?.ok_or_else(missing)?,
    };
    let offset = u64::from(place.offset_bytes);
    let class_bytes = place.class.bytes_max();
    let len_bytes = if class_bytes <= ONE_READ_BYTES_MAX {
        class_bytes
    } else {
        let head = inner.disk.read(&file, offset, HEADER_READ_BYTES)?;
        match RecordHeader::read(&head) {
            // A damaged length is no reason to read more than the class allows.
            Ok(header) => (header.payload_bytes as u64)
                .saturating_add(header.len_bytes as u64)
                .min(class_bytes),
            Err(_) => head.len() as u64,
        }
    };
    let len_bytes = usize::try_from(len_bytes).expect("a record is shorter than memory");
    Ok(inner.disk.read(&file, offset, len_bytes)?)
}
