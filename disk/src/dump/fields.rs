//! Reads fields one after the other, and pushes a row for each: numbers, texts, digests, and what all
//! our files begin and end with. What only one dumper's structures have, it reads by [`Fields::field`].
//!
//! - U3: a row covers what was read for it, and no more. A field that cannot be read has none.

use std::convert::identity;
use std::fmt;

use super::{Dump, count};
use crate::codec::{Malformed, Reader};
use crate::container::AnyHeader;
use crate::digest::{Digest, DigestKind};
use crate::file_name::FileKind;
use crate::identity::{Epoch, Ordinal, StoreId};

/// Fields in the making, each behind the one before.
#[derive(Debug)]
pub struct Fields<'a, 'd> {
    /// The structure that the next fields belong to.
    pub structure: &'static str,
    /// What is yet to be read. What is read here, not by a method of `Fields`, has no row.
    pub reader: Reader<'a>,
    origin: u64,
    dump: &'d mut Dump,
}

impl<'a, 'd> Fields<'a, 'd> {
    /// Fields of `bytes`, which stand at `origin` of the file.
    pub fn new(dump: &'d mut Dump, structure: &'static str, origin: u64, bytes: &'a [u8]) -> Self {
        Self { structure, reader: Reader::new(bytes), origin, dump }
    }

    /// A field that `read` reads, and that reads as `say` says.
    ///
    /// # Errors
    /// What `read` says.
    pub fn field<T: Copy, S: fmt::Display>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Reader<'a>, &'static str) -> Result<T, Malformed>,
        say: impl FnOnce(T) -> S,
    ) -> Result<T, Malformed> {
        let start = self.reader.offset();
        let value = read(&mut self.reader, field)?;
        let (at, len) = (self.origin + start as u64, self.reader.offset() - start);
        self.dump.push(at, len, self.structure, field, say(value));
        Ok(value)
    }

    /// One byte, and what `say` calls it.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn u8(
        &mut self,
        field: &'static str,
        say: impl FnOnce(u8) -> String,
    ) -> Result<u8, Malformed> {
        self.field(field, Reader::u8, say)
    }

    /// A 16-bit number.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.field(field, Reader::u16, identity)
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.field(field, Reader::u32, identity)
    }

    /// A 32-bit number whose bits matter, such as a checksum.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn hex32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.field(field, Reader::u32, |number| format!("{number:#010x}"))
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.field(field, Reader::u64, identity)
    }

    /// A varint: a count or a length.
    ///
    /// # Errors
    /// The bytes end before, or are none that fits a `usize`.
    pub fn varint(&mut self, field: &'static str) -> Result<usize, Malformed> {
        self.field(field, Reader::varint_usize, identity)
    }

    /// Text of `len` bytes, in quotes.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn text(&mut self, field: &'static str, len: usize) -> Result<(), Malformed> {
        let read = |reader: &mut Reader<'a>, what| reader.take(len, what);
        self.field(field, read, |text| format!("\"{}\"", text.escape_ascii())).map(drop)
    }

    /// `len` bytes, of which the row says only how many they are.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], Malformed> {
        self.field(field, |reader, what| reader.take(len, what), |bytes| count(bytes.len()))
    }

    /// A digest, or another hash.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn digest(&mut self, field: &'static str) -> Result<Digest, Malformed> {
        let read = |reader: &mut Reader<'a>, what| reader.array(what).map(Digest::from_bytes);
        self.field(field, read, identity)
    }

    /// A file's header, sound or not. Kinds of files that `knows` denies are called unknown.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn header(&mut self, knows: impl FnOnce(FileKind) -> bool) -> Result<AnyHeader, Malformed> {
        self.text("magic", 8)?;
        let repeated = self.repeated(knows)?;
        self.bytes("reserved", 12)?;
        self.hex32("header_crc")?;
        Ok(repeated)
    }

    /// The fields of a header that a footer repeats; `knows` as for [`Self::header`].
    ///
    /// # Errors
    /// The bytes end before.
    pub fn repeated(
        &mut self,
        knows: impl FnOnce(FileKind) -> bool,
    ) -> Result<AnyHeader, Malformed> {
        self.u16("version")?;
        let kind = self.u8("file_kind", |kind| {
            match FileKind::from_number(kind).filter(|kind| knows(*kind)) {
                Some(FileKind::Log(log)) => format!("{kind}, {} log", log.word()),
                Some(FileKind::Current) => format!("{kind}, CURRENT"),
                Some(FileKind::Table(table)) => format!("{kind}, {} table", table.word()),
                None => format!("{kind}, unknown"),
            }
        })?;
        self.u8("digest_kind", digest_kind)?;
        self.hex32("compatible")?;
        self.hex32("read_only_compatible")?;
        self.hex32("incompatible")?;
        let read = |reader: &mut Reader<'a>, what| reader.array(what).map(StoreId);
        let store_id = self.field("store_id", read, identity)?;
        let (ordinal, epoch) = (Ordinal(self.u32("ordinal")?), Epoch(self.u32("epoch")?));
        Ok(AnyHeader { store_id, kind, ordinal, epoch })
    }

    /// A trailer. Its fields belong to a structure of their own.
    ///
    /// # Errors
    /// The bytes end before.
    pub fn trailer(&mut self) -> Result<(), Malformed> {
        self.structure = "trailer";
        self.digest("footer_hash")?;
        self.u64("footer_offset")?;
        self.u32("footer_bytes")?;
        self.u16("version")?;
        self.bytes("reserved", 6)?;
        self.hex32("trailer_crc")?;
        self.text("magic", 8)
    }
}

/// A digest's kind, as it is written on disk.
pub fn digest_kind(kind: u8) -> String {
    match DigestKind::from_number(kind) {
        Some(DigestKind::Blake3) => format!("{kind}, BLAKE3-256"),
        None => format!("{kind}, unknown"),
    }
}
