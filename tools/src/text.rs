//! What is read from the command line and printed on it: digests, names, references, bytes.
//!
//! - N1: what [`escape`] prints is one line without control characters, and different bytes print
//!   differently.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use clap::builder::{OsStringValueParser, TypedValueParser};
use pinstone::{Digest, DigestParseError, NAME_BYTES_MAX};
use pinstone_disk::Escaped;
use serde::{Serialize, Serializer};

/// Bytes as text on one line: see [`Escaped`].
pub fn escape(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

/// A path as text on one line: see [`escape`].
pub fn shown(path: &std::path::Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// What `get` and `export` are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `@NAME`: whatever the pointer names.
    Pointer(Vec<u8>),
    /// The value itself.
    Digest(Digest),
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not begin with `@` and is no digest either.
    #[error("neither @NAME nor a digest: {0}")]
    NotADigest(DigestParseError),
    /// The name after `@` is empty or too long.
    #[error(transparent)]
    Name(NameError),
}

impl Reference {
    /// Reads `@NAME` or a digest.
    ///
    /// # Errors
    /// It is neither, or the name is empty or too long.
    pub fn parse(text: &OsStr) -> Result<Self, ReferenceError> {
        match text.as_bytes().strip_prefix(b"@") {
            Some(name) => name_of(name.to_vec()).map(Self::Pointer).map_err(ReferenceError::Name),
            None => Digest::from_str(&text.to_string_lossy())
                .map(Self::Digest)
                .map_err(ReferenceError::NotADigest),
        }
    }

    /// Reads it from an argument.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text| Self::parse(&text))
    }
}

/// A pointer's name has a length that no name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pointer's name has 1 to {NAME_BYTES_MAX} bytes, this has {found}")]
pub struct NameError {
    found: usize,
}

/// A pointer's name from an argument: any bytes that the system passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameArg(pub Vec<u8>);

impl NameArg {
    /// Reads it from an argument.
    pub fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(|text: OsString| name_of(text.into_vec()).map(Self))
    }
}

/// The name, if it has a length that a name may have.
///
/// # Errors
/// It is empty or too long.
pub fn name_of(name: Vec<u8>) -> Result<Vec<u8>, NameError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(NameError { found: name.len() });
    }
    Ok(name)
}

/// What a pointer is expected to be: a digest, or absent for `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation(pub Option<Digest>);

impl FromStr for Expectation {
    type Err = DigestParseError;

    fn from_str(text: &str) -> Result<Self, DigestParseError> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|digest| Self(Some(digest))) }
    }
}

/// A digest in JSON: 64 lowercase hex digits.
#[derive(Clone, Copy, Debug)]
pub struct DigestText<'a>(pub &'a Digest);

impl Serialize for DigestText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// Bytes in JSON: base64 with the standard alphabet and padding.
#[derive(Clone, Copy, Debug)]
pub struct Base64<'a>(pub &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// The bytes that a text stands for in base64: standard alphabet, padded, nothing else.
///
/// # Errors
/// The text is anything else.
pub fn base64_decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text)
}

/// A name in JSON: `"name"` where it is UTF-8, else `"name_base64"`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Name<'a> {
    /// It is text.
    Text {
        /// The name.
        name: &'a str,
    },
    /// It is not.
    Bytes {
        /// The name.
        name_base64: Base64<'a>,
    },
}

impl<'a> Name<'a> {
    /// The JSON of a name.
    pub fn of(name: &'a [u8]) -> Self {
        match std::str::from_utf8(name) {
            Ok(name) => Self::Text { name },
            Err(_) => Self::Bytes { name_base64: Base64(name) },
        }
    }
}

/// A path in JSON: `"path"` where it is UTF-8, else `"path_base64"`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Path<'a> {
    /// It is text.
    Text {
        /// The path.
        path: &'a str,
    },
    /// It is not.
    Bytes {
        /// The path.
        path_base64: Base64<'a>,
    },
}

impl<'a> Path<'a> {
    /// The JSON of a path.
    pub fn of(path: &'a [u8]) -> Self {
        match std::str::from_utf8(path) {
            Ok(path) => Self::Text { path },
            Err(_) => Self::Bytes { path_base64: Base64(path) },
        }
    }

    /// The path.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Text { path } => path.as_bytes(),
            Self::Bytes { path_base64: Base64(path) } => path,
        }
    }
}

/// A pointer in JSON: its name, and the digest of its value.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pointer<'a> {
    #[serde(flatten)]
    name: Name<'a>,
    digest: DigestText<'a>,
}

impl<'a> Pointer<'a> {
    /// The JSON of a pointer.
    pub fn of(name: &'a [u8], digest: &'a Digest) -> Self {
        Self { name: Name::of(name), digest: DigestText(digest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_name_after_an_at_or_a_digest_in_any_case() {
        let digest = Digest::of(b"x");
        let parse = |text: &[u8]| Reference::parse(OsStr::from_bytes(text));
        assert_eq!(parse(b"@a"), Ok(Reference::Pointer(b"a".to_vec())));
        assert_eq!(parse(b"@@\xff"), Ok(Reference::Pointer(b"@\xff".to_vec())));
        let lower = digest.to_string();
        assert_eq!(parse(lower.as_bytes()), Ok(Reference::Digest(digest)));
        assert_eq!(parse(lower.to_uppercase().as_bytes()), Ok(Reference::Digest(digest)));
        let long = [b"@".as_slice(), &[b'n'; NAME_BYTES_MAX + 1]].concat();
        for text in [b"".as_slice(), b"@", b"name", b"\xff", &lower.as_bytes()[1..], &long] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&long[..=NAME_BYTES_MAX]).is_ok());
    }

    #[test]
    fn an_expectation_is_a_digest_or_none() {
        let digest = Digest::of(b"x");
        assert_eq!("none".parse(), Ok(Expectation(None)));
        assert_eq!(digest.to_string().parse(), Ok(Expectation(Some(digest))));
        assert!("None".parse::<Expectation>().is_err());
        assert!("".parse::<Expectation>().is_err());
    }

    #[test]
    fn base64_is_standard_and_padded_and_nothing_else() {
        assert_eq!(base64_decode(""), Ok(Vec::new()));
        assert_eq!(base64_decode("+/8="), Ok(vec![0xfb, 0xff]));
        for text in ["+/8", "-_8=", "+/9=", "+/8=\n", " +/8=", "+/8==", "=", "A"] {
            assert!(base64_decode(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_that_is_no_text_is_told_in_base64() {
        let digest = Digest::of(b"");
        let json = |name| serde_json::to_string(&Pointer::of(name, &digest)).unwrap();
        assert_eq!(json(b"a\n"), format!(r#"{{"name":"a\n","digest":"{digest}"}}"#));
        assert_eq!(json(b"\xff"), format!(r#"{{"name_base64":"/w==","digest":"{digest}"}}"#));
    }
}
