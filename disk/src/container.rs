//! What begins and what ends our files: the header, the same 64 bytes in every version, and the
//! trailer that leads to the footer of a sealed file.
//!
//! - H1: a header whose checksum does not match is damage; only then is its version looked at, so
//!   that a flipped bit is never called another format.
//! - H2: a trailer holds its footer's hash: one read of a sealed file's tail opens it.

use std::fmt;

use crate::checksum::{self, Seed};
use crate::codec::{Malformed, Reader};
use crate::digest::DigestKind;
use crate::file_name::{FileKind, FileName};
use crate::identity::{Epoch, Ordinal, StoreId};

/// The version of every layout in `docs/format.md`.
pub const FORMAT_VERSION: u16 = 4;

/// Bytes of a file's header.
pub const HEADER_BYTES: usize = 64;

/// Where a header names its file's kind.
pub const KIND_OFFSET_BYTES: u64 = 10;

/// Bytes of a sealed file's trailer.
pub const TRAILER_BYTES: usize = 64;

/// Bytes of a header that a footer repeats: from the version to the epoch.
pub const REPEATED: std::ops::Range<usize> = 8..48;

/// What a trailer ends with.
pub const TRAILER_MAGIC: [u8; 8] = *b"PINSTAIL";

const MAGIC: [u8; 8] = *b"PINSTONE";

/// A file is not as we write them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Its bytes are not what was written there.
    #[error("{file} is corrupt at offset {offset_bytes}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// The first bad place known.
        offset_bytes: u64,
        /// What was expected.
        what: String,
    },
    /// It has a format version or an incompatible feature that this build does not know.
    #[error("{file} has an unsupported format: {what}")]
    Unsupported {
        /// The file.
        file: String,
        /// The version or the feature bits found, and those known.
        what: String,
    },
}

impl FormatError {
    /// The file.
    pub fn file(&self) -> &str {
        match self {
            Self::Corrupt { file, .. } | Self::Unsupported { file, .. } => file,
        }
    }

    /// A [`FormatError::Corrupt`].
    pub fn corrupt(file: impl fmt::Display, offset_bytes: u64, what: impl fmt::Display) -> Self {
        Self::Corrupt { file: file.to_string(), offset_bytes, what: what.to_string() }
    }

    fn unsupported(file: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self::Unsupported { file: file.to_string(), what: what.to_string() }
    }
}

/// What begins every file of a store but the lock: what it is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The store's id.
    pub store_id: StoreId,
    /// What the file is.
    pub kind: FileKind,
    /// Its place among those of its kind; in CURRENT, that of the root log which it names.
    pub ordinal: Ordinal,
    /// The epoch of the writer that created it; in CURRENT, of the root log's file.
    pub epoch: Epoch,
}

impl FileHeader {
    /// The seed of the file's checksums. The epoch is not part of it, so that the frames of a
    /// segment may be copied as they are into its next file.
    pub fn seed(&self) -> Seed {
        Seed::of_file(&self.store_id, self.kind, self.ordinal)
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[10] = self.kind.number();
        bytes[11] = DigestKind::Blake3 as u8;
        bytes[24..40].copy_from_slice(&self.store_id.0);
        bytes[40..44].copy_from_slice(&self.ordinal.0.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.epoch.0.to_le_bytes());
        let crc = checksum::crc(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Checks the copy of a header that a footer of `file` repeats, bytes [`REPEATED`] of it, which stand
    /// at this offset: it is of a known format, and of the file that this header is of.
    ///
    /// # Errors
    /// An unknown version, digest kind or feature, each named, as of a header; anything else is damage.
    pub fn check_copy(
        &self,
        file: &FileName,
        offset_bytes: u64,
        copy: &[u8],
    ) -> Result<(), FormatError> {
        let said =
            AnyHeader::decode_checked(file, &mut Reader::new(copy)).unwrap_or_else(|error| {
                Err(FormatError::corrupt(file, offset_bytes + error.offset as u64, error.what))
            })?;
        let Self { store_id, kind, ordinal, epoch } = *self;
        if said != (AnyHeader { store_id, kind: kind.number(), ordinal, epoch }) {
            return Err(FormatError::corrupt(file, offset_bytes, "its footer is another file's"));
        }
        Ok(())
    }

    /// Decodes the header that the bytes of `file` begin with.
    ///
    /// # Errors
    /// As [`AnyHeader::decode`]; an unknown kind is damage.
    pub fn decode(file: &FileName, bytes: &[u8]) -> Result<Self, FormatError> {
        let AnyHeader { store_id, kind, ordinal, epoch } = AnyHeader::decode(file, bytes)?;
        let Some(kind) = FileKind::from_number(kind) else {
            let what = format!("no file is of kind {kind}");
            return Err(FormatError::corrupt(file, KIND_OFFSET_BYTES, what));
        };
        Ok(Self { store_id, kind, ordinal, epoch })
    }
}

/// What a sound header of this version says, of whatever kind its file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnyHeader {
    /// See [`FileHeader::store_id`].
    pub store_id: StoreId,
    /// The number of the file's kind, known or not.
    pub kind: u8,
    /// See [`FileHeader::ordinal`].
    pub ordinal: Ordinal,
    /// See [`FileHeader::epoch`].
    pub epoch: Epoch,
}

impl AnyHeader {
    /// Decodes the header that the bytes of `file` begin with, for who knows which kinds it may be
    /// of.
    ///
    /// # Errors
    /// Damage; an unknown version, digest kind or feature, each named.
    #[expect(clippy::missing_panics_doc, reason = "a header has 64 bytes")]
    pub fn decode(file: &FileName, bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(FormatError::corrupt(
                file,
                bytes.len() as u64,
                "it ends within its header",
            ));
        };
        if bytes[..8] != MAGIC {
            return Err(FormatError::corrupt(file, 0, "it does not begin as our files do"));
        }
        let crc = u32::from_le_bytes(*bytes.last_chunk().expect("a header has 64 bytes"));
        if checksum::crc(&bytes[..60]) != crc {
            return Err(FormatError::corrupt(file, 60, "its header's checksum does not match"));
        }
        Self::decode_checked(file, &mut Reader::new(&bytes[8..])).unwrap_or_else(|error| {
            Err(FormatError::corrupt(file, 8 + error.offset as u64, error.what))
        })
    }

    /// Decodes what stands after the magic.
    fn decode_checked(
        file: &FileName,
        reader: &mut Reader<'_>,
    ) -> Result<Result<Self, FormatError>, Malformed> {
        let refuse = |what: String| Ok(Err(FormatError::unsupported(file, what)));
        let version = reader.u16("a version")?;
        if version != FORMAT_VERSION {
            return Ok(Err(unknown_version(file, version)));
        }
        let kind = reader.u8("a file kind")?;
        let digest_kind = reader.u8("a digest kind")?;
        if DigestKind::from_number(digest_kind).is_none() {
            return refuse(format!("digest kind {digest_kind}; this build knows 1, BLAKE3-256"));
        }
        let _compatible = reader.u32("feature bits")?;
        let read_only = reader.u32("feature bits")?;
        let incompatible = reader.u32("feature bits")?;
        if read_only != 0 || incompatible != 0 {
            return refuse(format!(
                "feature bits {incompatible:#x} (incompatible), {read_only:#x} (read-only \
                 compatible); this build knows none"
            ));
        }
        let store_id = StoreId(reader.array("a store id")?);
        let ordinal = Ordinal(reader.u32("an ordinal")?);
        let epoch = Epoch(reader.u32("an epoch")?);
        Ok(Ok(Self { store_id, kind, ordinal, epoch }))
    }
}

fn unknown_version(file: &FileName, version: u16) -> FormatError {
    let what = format!("version {version}; this build knows {FORMAT_VERSION}");
    FormatError::unsupported(file, what)
}

/// What ends a sealed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// BLAKE3 of the footer; the root holds it too.
    pub footer_hash: [u8; 32],
    /// Where the footer begins.
    pub footer_offset_bytes: u64,
    /// Its length.
    pub footer_bytes: u32,
}

impl Trailer {
    /// The trailer of `footer`, which begins at this offset.
    ///
    /// # Panics
    /// If the footer has 4 GiB or more.
    pub fn of(footer: &[u8], footer_offset_bytes: u64) -> Self {
        let footer_bytes = u32::try_from(footer.len()).expect("a footer is small");
        let footer_hash = *blake3::hash(footer).as_bytes();
        Self { footer_hash, footer_offset_bytes, footer_bytes }
    }

    /// The trailer's bytes.
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..32].copy_from_slice(&self.footer_hash);
        bytes[32..40].copy_from_slice(&self.footer_offset_bytes.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.footer_bytes.to_le_bytes());
        bytes[44..46].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let crc = checksum::crc(&bytes[..52]);
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        bytes[56..].copy_from_slice(&TRAILER_MAGIC);
        bytes
    }

    /// Decodes the last bytes of a file of `file_bytes`; `tail` is what it ends with, and holds the
    /// trailer at least.
    ///
    /// # Errors
    /// An unknown version is named; else [`FormatError::Corrupt`]: they are no trailer, or not of a file of
    /// this length.
    pub fn decode(file: &FileName, file_bytes: u64, tail: &[u8]) -> Result<Self, FormatError> {
        let offset_bytes = file_bytes.saturating_sub(TRAILER_BYTES as u64);
        let bad = |what| FormatError::corrupt(file, offset_bytes, what);
        let Some(bytes) = tail.last_chunk::<TRAILER_BYTES>() else {
            return Err(bad("it ends before its trailer"));
        };
        // H1: only what is sound is called another format.
        let version = u16::from_le_bytes([bytes[44], bytes[45]]);
        let is_sound = bytes[52..56] == checksum::crc(&bytes[..52]).to_le_bytes()
            && bytes[56..] == TRAILER_MAGIC;
        if is_sound && version != FORMAT_VERSION {
            return Err(unknown_version(file, version));
        }
        let mut reader = Reader::new(bytes);
        let read = (|| {
            let trailer = Self {
                footer_hash: reader.array("a hash")?,
                footer_offset_bytes: reader.u64("an offset")?,
                footer_bytes: reader.u32("a length")?,
            };
            Ok::<_, Malformed>(trailer)
        })();
        match read {
            // Encoded again it is the same, or something in it is not as we write it.
            Ok(trailer) if trailer.encode() == *bytes => {
                let end = trailer.footer_offset_bytes.checked_add(trailer.footer_bytes.into());
                if end == Some(offset_bytes) {
                    Ok(trailer)
                } else {
                    Err(bad("its trailer does not fit its length"))
                }
            }
            _ => Err(bad("its trailer is not one that we write")),
        }
    }

    /// Whether this is the footer that the trailer was made of.
    pub fn is_of(&self, footer: &[u8]) -> bool {
        *blake3::hash(footer).as_bytes() == self.footer_hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_name::{LogKind, TableKind};

    fn header(kind: FileKind) -> FileHeader {
        FileHeader { store_id: StoreId([7; 16]), kind, ordinal: Ordinal(3), epoch: Epoch(9) }
    }

    const FILE: FileName = FileName::Current;

    #[test]
    fn headers_of_every_kind_decode_as_encoded() {
        let kinds = [
            FileKind::Log(LogKind::Root),
            FileKind::Current,
            FileKind::Table(TableKind::Index),
            FileKind::Table(TableKind::Names),
        ];
        for kind in kinds {
            let header = header(kind);
            assert_eq!(FileHeader::decode(&FILE, &header.encode()), Ok(header));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_and_of_a_trailer_is_found() {
        let bytes = header(FileKind::Table(TableKind::Index)).encode();
        let trailer = Trailer::of(b"footer", 100).encode();
        assert!(Trailer::decode(&FILE, 170, &trailer).unwrap().is_of(b"footer"));
        for bit in 0..512 {
            let flipped = |mut bytes: [u8; 64]| {
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            let error = FileHeader::decode(&FILE, &flipped(bytes)).unwrap_err();
            assert!(matches!(error, FormatError::Corrupt { .. }), "{bit}: {error}");
            assert!(Trailer::decode(&FILE, 170, &flipped(trailer)).is_err(), "{bit}");
        }
    }

    #[test]
    fn another_version_kind_or_feature_is_refused_by_name() {
        let refused = |at: usize, byte: u8| {
            let mut bytes = header(FileKind::Current).encode();
            bytes[at] = byte;
            let crc = checksum::crc(&bytes[..60]);
            bytes[60..].copy_from_slice(&crc.to_le_bytes());
            FileHeader::decode(&FILE, &bytes).map_err(|error| error.to_string())
        };
        let what = "CURRENT has an unsupported format: ";
        for version in [1, 2, 99] {
            let what = format!("{what}version {version}; this build knows 4");
            assert_eq!(refused(8, version).unwrap_err(), what);
        }
        assert!(refused(11, 2).unwrap_err().contains("digest kind 2"));
        assert!(refused(12, 1).is_ok(), "a feature that may be ignored");
        assert!(refused(16, 1).unwrap_err().contains("0x1 (read-only compatible)"));
        assert!(refused(20, 1).unwrap_err().contains("0x1 (incompatible)"));
        assert!(refused(10, 60).unwrap_err().contains("no file is of kind 60"));
    }

    #[test]
    fn a_footers_copy_is_judged_as_a_header_is() {
        let header = header(FileKind::Table(TableKind::Index));
        let copy = header.encode()[REPEATED].to_vec();
        let judged = |at: usize, byte: u8| {
            let mut copy = copy.clone();
            copy[at - 8] = byte;
            header.check_copy(&FILE, 1000, &copy).map_err(|error| error.to_string())
        };
        assert_eq!(header.check_copy(&FILE, 1000, &copy), Ok(()));
        assert!(judged(12, 1).is_ok(), "a feature that may be ignored");
        assert!(judged(8, 9).unwrap_err().contains("unsupported format: version 9"));
        assert!(judged(11, 2).unwrap_err().contains("digest kind 2"));
        assert!(judged(16, 1).unwrap_err().contains("0x1 (read-only compatible)"));
        assert!(judged(20, 1).unwrap_err().contains("0x1 (incompatible)"));
        for at in [10, 24, 39, 40, 44] {
            let what = "CURRENT is corrupt at offset 1000: its footer is another file's";
            assert_eq!(judged(at, 0xee).unwrap_err(), what, "byte {at}");
        }
        let cut = header.check_copy(&FILE, 1000, &copy[..30]).unwrap_err();
        assert!(matches!(cut, FormatError::Corrupt { .. }), "{cut}");
    }

    #[test]
    fn a_trailer_of_another_version_is_refused_by_name() {
        let mut bytes = Trailer::of(b"footer", 100).encode();
        bytes[44] = 9;
        assert!(matches!(Trailer::decode(&FILE, 170, &bytes), Err(FormatError::Corrupt { .. })));
        let crc = checksum::crc(&bytes[..52]);
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        let refused = Trailer::decode(&FILE, 170, &bytes).unwrap_err().to_string();
        assert_eq!(refused, "CURRENT has an unsupported format: version 9; this build knows 4");
    }

    #[test]
    fn a_trailer_fits_one_length_only() {
        let trailer = Trailer::of(b"footer", 100).encode();
        for file_bytes in [0, 63, 64, 169, 171, u64::MAX] {
            assert!(Trailer::decode(&FILE, file_bytes, &trailer).is_err());
        }
        let vast = Trailer { footer_offset_bytes: u64::MAX, ..Trailer::of(b"", 0) }.encode();
        assert!(Trailer::decode(&FILE, 170, &vast).is_err());
    }
}
