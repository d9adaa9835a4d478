//! CRC-32C over bytes and over what is known of their place.
//!
//! A checksum is seeded with what the reader knows without reading (store, kind, ordinal, offset),
//! so that bytes which are valid elsewhere are not valid here, and nothing of it goes to disk.

use crate::file_name::FileKind;
use crate::identity::{Ordinal, StoreId};

/// The state of a checksum over what identifies a file; see [`Seed::at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// The seed of one file: its store, kind and ordinal. The epoch is not part of it, so that
    /// frames may be copied as they are into a segment's next file.
    pub fn of_file(store: &StoreId, kind: FileKind, ordinal: Ordinal) -> Self {
        let crc = crc32c::crc32c(&store.0);
        let crc = crc32c::crc32c_append(crc, &[kind.number()]);
        Self(crc32c::crc32c_append(crc, &ordinal.0.to_le_bytes()))
    }

    /// The checksum of `parts`, one after the other, standing at `offset_bytes` of the file.
    pub fn at(self, offset_bytes: u64, parts: &[&[u8]]) -> u32 {
        let seed = crc32c::crc32c_append(self.0, &offset_bytes.to_le_bytes());
        parts.iter().fold(seed, |crc, part| crc32c::crc32c_append(crc, part))
    }
}

/// The plain checksum of `bytes`.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The checksum of what `crc` is the checksum of, followed by `bytes`.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_name::LogKind;

    #[test]
    fn a_checksum_is_bound_to_its_place() {
        let of = |store, log, ordinal| {
            Seed::of_file(&StoreId([store; 16]), FileKind::Log(log), Ordinal(ordinal))
        };
        let here = of(1, LogKind::Blob, 7);
        let sum = here.at(64, &[b"ab", b"c"]);
        assert_eq!(sum, here.at(64, &[b"abc"]));
        assert_ne!(sum, here.at(72, &[b"abc"]));
        assert_ne!(sum, of(1, LogKind::Blob, 8).at(64, &[b"abc"]));
        assert_ne!(sum, of(1, LogKind::Root, 7).at(64, &[b"abc"]));
        assert_ne!(sum, of(2, LogKind::Blob, 7).at(64, &[b"abc"]));
    }
}
