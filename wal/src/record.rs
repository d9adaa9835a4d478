//! One record: the unit inside a frame that can be read and verified alone.
//!
//! A record is a checksum, a kind, a length and a payload. Its checksum is seeded with the store's
//! id alone, so that it can be computed before the record's place is known, outside every lock;
//! the frame around it is what binds it to a place. A value's record is confirmed by its digest.

use pinstone_disk::codec::{Malformed, Reader, put_varint, varint_bytes};
use pinstone_disk::{DIGEST_BYTES, Digest, StoreId, checksum};

/// Most bytes before a record's payload.
pub const RECORD_HEADER_BYTES_MAX: usize = 4 + 1 + 5;

/// Most bytes before the bytes of a value.
pub const VALUE_HEADER_BYTES_MAX: usize = RECORD_HEADER_BYTES_MAX + DIGEST_BYTES;

/// What a record holds. The number is the one written on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A value, stored plain: its digest, then its bytes.
    Value = 1,
    /// A commit: see [`crate::CommitRecord`].
    Commit = 16,
    /// Frames of the blob log: see [`crate::CarriedRecord`].
    Carried = 17,
    /// An edit of the root; its meaning is the root's.
    RootEdit = 32,
}

impl RecordKind {
    /// The kind written on disk as `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Value, Self::Commit, Self::Carried, Self::RootEdit];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Begins the checksum of every record of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSeed(u32);

impl StoreSeed {
    /// The seed of the store with this id.
    pub fn new(store_id: &StoreId) -> Self {
        Self(checksum::crc(&store_id.0))
    }

    pub(crate) fn crc(self, parts: &[&[u8]]) -> u32 {
        parts.iter().fold(self.0, |crc, part| checksum::append(crc, part))
    }
}

/// A record as read, its checksum verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its checksum.
    pub crc: u32,
    /// The kind's number, known or not.
    pub kind: u8,
    /// What it holds.
    pub payload: &'a [u8],
    /// Bytes of the whole record.
    pub len_bytes: usize,
}

/// What stands before a record's payload, not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The record's checksum.
    pub crc: u32,
    /// The kind's number, known or not.
    pub kind: u8,
    /// Bytes of what the record holds.
    pub payload_bytes: usize,
    /// Bytes of the header itself.
    pub len_bytes: usize,
}

impl RecordHeader {
    /// Reads the header that `bytes` begins with; nothing is verified.
    ///
    /// # Errors
    /// The bytes end within it, or its length is not one.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let crc = reader.u32("a record's checksum")?;
        let kind = reader.u8("a record's kind")?;
        let payload_bytes = reader.varint_usize("a record's length")?;
        Ok(Self { crc, kind, payload_bytes, len_bytes: reader.offset() })
    }
}

impl<'a> Record<'a> {
    /// Reads the record that `bytes` begins with.
    ///
    /// # Errors
    /// The bytes end within it, or its checksum does not match.
    pub fn read(seed: StoreSeed, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let record = Self::read_unverified(bytes)?;
        let header_bytes = record.len_bytes - record.payload.len();
        if seed.crc(&[&bytes[4..header_bytes], record.payload]) != record.crc {
            return Err(Malformed { offset: 0, what: "a record's checksum" });
        }
        Ok(record)
    }

    /// Reads the record that `bytes` begins with; its checksum was verified before.
    pub(crate) fn read_unverified(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header = RecordHeader::read(bytes)?;
        let mut reader = Reader::new(&bytes[header.len_bytes..]);
        let payload = reader.take(header.payload_bytes, "a record's payload")?;
        let len_bytes = header.len_bytes + header.payload_bytes;
        Ok(Self { crc: header.crc, kind: header.kind, payload, len_bytes })
    }

    /// Appends a record to `out`; returns its checksum.
    pub fn write(seed: StoreSeed, kind: RecordKind, payload: &[u8], out: &mut Vec<u8>) -> u32 {
        Self::write_parts(seed, kind, &[payload], out)
    }

    /// The same, of a payload in parts.
    pub(crate) fn write_parts(
        seed: StoreSeed,
        kind: RecordKind,
        payload: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> u32 {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.push(kind as u8);
        put_varint(out, payload.iter().map(|part| part.len() as u64).sum());
        for part in payload {
            out.extend_from_slice(part);
        }
        let crc = seed.crc(&[&out[start + 4..]]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        crc
    }
}

/// A value's record, ready to be appended: all that can be computed outside the append lock.
#[derive(Debug)]
pub struct PreparedValue<'a> {
    /// The value's digest.
    pub digest: Digest,
    /// The value.
    pub value: &'a [u8],
    pub(crate) crc: u32,
    header: [u8; VALUE_HEADER_BYTES_MAX],
    header_bytes: usize,
}

impl<'a> PreparedValue<'a> {
    /// The record of `value`, whose digest is `digest`.
    pub fn new(seed: StoreSeed, digest: Digest, value: &'a [u8]) -> Self {
        let payload_bytes = (DIGEST_BYTES + value.len()) as u64;
        let mut built = Vec::with_capacity(VALUE_HEADER_BYTES_MAX);
        built.extend_from_slice(&[0; 4]);
        built.push(RecordKind::Value as u8);
        put_varint(&mut built, payload_bytes);
        built.extend_from_slice(digest.as_bytes());
        let crc = seed.crc(&[&built[4..], value]);
        built[..4].copy_from_slice(&crc.to_le_bytes());
        let mut header = [0; VALUE_HEADER_BYTES_MAX];
        header[..built.len()].copy_from_slice(&built);
        Self { digest, value, crc, header, header_bytes: built.len() }
    }

    /// What precedes the value's bytes.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header[..self.header_bytes]
    }

    /// Bytes of the whole record.
    pub fn len_bytes(&self) -> usize {
        self.header_bytes + self.value.len()
    }

    /// Bytes of the record of a value of `value_bytes`.
    pub fn record_bytes(value_bytes: u64) -> u64 {
        let payload_bytes = DIGEST_BYTES as u64 + value_bytes;
        5 + varint_bytes(payload_bytes) as u64 + payload_bytes
    }
}

/// The payload of a [`RecordKind::Value`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueRecord<'a> {
    /// The value's digest.
    pub digest: Digest,
    /// The value.
    pub value: &'a [u8],
}

impl<'a> ValueRecord<'a> {
    /// Decodes the payload of a value's record.
    ///
    /// # Errors
    /// The payload ends within the digest.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let digest = Digest::from_bytes(reader.array("a value's digest")?);
        Ok(Self { digest, value: reader.take(reader.left(), "a value")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prepared_value_reads_back(value: Vec<u8>) {
            let seed = StoreSeed::new(&StoreId([7; 16]));
            let digest = Digest::of(&value);
            let prepared = PreparedValue::new(seed, digest, &value);
            let mut bytes = prepared.header().to_vec();
            bytes.extend_from_slice(&value);
            prop_assert_eq!(bytes.len(), prepared.len_bytes());
            prop_assert_eq!(bytes.len() as u64, PreparedValue::record_bytes(value.len() as u64));
            let record = Record::read(seed, &bytes).unwrap();
            prop_assert_eq!(record.len_bytes, bytes.len());
            let read = ValueRecord::decode(record.payload).unwrap();
            prop_assert_eq!((read.digest, read.value), (digest, &value[..]));
        }

        #[test]
        fn a_flipped_bit_is_seen(value: Vec<u8>, at: prop::sample::Index, bit in 0..8) {
            let seed = StoreSeed::new(&StoreId([7; 16]));
            let mut bytes = Vec::new();
            Record::write(seed, RecordKind::Commit, &value, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert!(Record::read(seed, &bytes).is_err());
        }
    }
}
