//! The name of a value: BLAKE3-256 of its uncompressed bytes, always compared in full.

use std::fmt;
use std::str::FromStr;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

/// Which function made a digest. The number is the one written on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DigestKind {
    /// BLAKE3 with 256 bits of output, no key, no context.
    Blake3 = 1,
}

impl DigestKind {
    /// The kind written on disk as `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        (number == Self::Blake3 as u8).then_some(Self::Blake3)
    }
}

/// The digest of a value.
///
/// ```
/// use pinstone_disk::Digest;
/// let digest = Digest::of(b"");
/// assert_eq!(
///     digest.to_string(),
///     "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
/// );
/// assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; DIGEST_BYTES]);

impl Digest {
    /// Hashes `value`. About 1 us per KiB for small values, less for large ones.
    pub fn of(value: &[u8]) -> Self {
        Self(*blake3::hash(value).as_bytes())
    }

    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; DIGEST_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; DIGEST_BYTES] {
        &self.0
    }

    /// The first eight bytes as a big-endian number, so that numbers sort as digests do.
    #[expect(clippy::missing_panics_doc, reason = "a digest has 32 bytes")]
    pub fn prefix(&self) -> u64 {
        u64::from_be_bytes(*self.0.first_chunk().expect("a digest has 32 bytes"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestParseError {
    /// It has another length.
    #[error("a digest has 64 hex digits, this has {found}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// It holds something else than hex digits.
    #[error("a digest has only hex digits, this has another byte at {position}")]
    Character {
        /// Where, from 0.
        position: usize,
    },
}

impl FromStr for Digest {
    type Err = DigestParseError;

    fn from_str(text: &str) -> Result<Self, DigestParseError> {
        // Characters first: "xyz" is better told that it is no hex than that it is too short.
        if let Some(position) = text.bytes().position(|byte| !byte.is_ascii_hexdigit()) {
            return Err(DigestParseError::Character { position });
        }
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| DigestParseError::Length { found: text.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_digest_says_why() {
        assert_eq!("".parse::<Digest>(), Err(DigestParseError::Length { found: 0 }));
        assert_eq!("ab".parse::<Digest>(), Err(DigestParseError::Length { found: 2 }));
        let long = "a".repeat(65);
        assert_eq!(long.parse::<Digest>(), Err(DigestParseError::Length { found: 65 }));
        let odd = format!("{}g", "a".repeat(63));
        assert_eq!(odd.parse::<Digest>(), Err(DigestParseError::Character { position: 63 }));
    }

    #[test]
    fn prefixes_sort_as_digests_do() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(a.cmp(&b), a.prefix().cmp(&b.prefix()));
    }
}
