//! Every kind of file that a store may contain: printing and parsing of its name.
//!
//! A name never leaves the store's directory: it is built from numbers alone. Whatever does not
//! parse is not ours, and is never touched.

use std::fmt;
use std::str::FromStr;

/// Which of the three logs a segment belongs to. The number is the one written on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LogKind {
    /// Values, each record carrying its digest.
    Blob = 1,
    /// Commits: atomic changes of pointers.
    Pointer = 2,
    /// Edits of the root.
    Root = 3,
}

impl LogKind {
    /// All three, in the order in which positions are written in frame headers.
    pub const ALL: [Self; 3] = [Self::Blob, Self::Pointer, Self::Root];

    /// The kind written on disk as `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The word that begins the names of this log's files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Pointer => "pointer",
            Self::Root => "root",
        }
    }
}

/// The name of a file of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// The lock file of the writing process.
    Lock,
    /// Names the root log in force.
    Current,
    /// The next CURRENT, before it is renamed.
    CurrentTemp,
    /// Space set aside while the store is open, so that recovery and deletions have some on a full
    /// device. Its content means nothing.
    Reserve,
    /// A segment of a log: its ordinal in that log, and the epoch of the writer that created it.
    Segment {
        /// The log it belongs to.
        log: LogKind,
        /// Its place in the log, from 1; never reused.
        ordinal: u32,
        /// The writer epoch in which the file was created.
        epoch: u32,
    },
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock => f.write_str("LOCK"),
            Self::Current => f.write_str("CURRENT"),
            Self::CurrentTemp => f.write_str("CURRENT.tmp"),
            Self::Reserve => f.write_str("RESERVE"),
            Self::Segment { log, ordinal, epoch } => {
                write!(f, "{}-{ordinal:08}-{epoch:08}.log", log.word())
            }
        }
    }
}

/// The name is not one of a store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a store's file")]
pub struct NotOurs;

impl FromStr for FileName {
    type Err = NotOurs;

    fn from_str(name: &str) -> Result<Self, NotOurs> {
        match name {
            "LOCK" => return Ok(Self::Lock),
            "CURRENT" => return Ok(Self::Current),
            "CURRENT.tmp" => return Ok(Self::CurrentTemp),
            "RESERVE" => return Ok(Self::Reserve),
            _ => {}
        }
        let mut parts = name.strip_suffix(".log").ok_or(NotOurs)?.split('-');
        let word = parts.next().ok_or(NotOurs)?;
        let log = LogKind::ALL.into_iter().find(|log| log.word() == word).ok_or(NotOurs)?;
        let ordinal = number(parts.next())?;
        let epoch = number(parts.next())?;
        let parsed = Self::Segment { log, ordinal, epoch };
        // Only the one spelling that we print is ours.
        if parts.next().is_none() && parsed.to_string() == name { Ok(parsed) } else { Err(NotOurs) }
    }
}

fn number(part: Option<&str>) -> Result<u32, NotOurs> {
    part.and_then(|part| part.parse().ok()).ok_or(NotOurs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for name in [
            FileName::Lock,
            FileName::Current,
            FileName::CurrentTemp,
            FileName::Reserve,
            FileName::Segment { log: LogKind::Blob, ordinal: 1, epoch: 2 },
            FileName::Segment { log: LogKind::Pointer, ordinal: u32::MAX, epoch: u32::MAX },
            FileName::Segment { log: LogKind::Root, ordinal: 123_456_789, epoch: 0 },
        ] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "",
            "lock",
            "CURRENT.tmp~",
            "blob-1-2.log",
            "blob-00000001-00000002.log.bak",
            "blob-00000001-00000002-00000003.log",
            "tree-00000001-00000002.log",
            "../LOCK",
            "blob-+0000001-00000002.log",
            "blob-00000001-4294967296.log",
        ] {
            assert_eq!(name.parse::<FileName>(), Err(NotOurs), "{name}");
        }
    }
}
