//! Every kind of file that a store may contain: printing and parsing of its name.
//!
//! A name never leaves the store's directory: it is built from numbers alone. Whatever does not
//! parse is not ours, and is never touched.

use std::fmt;
use std::str::FromStr;

use crate::identity::{Epoch, Ordinal};

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

/// Which of the two trees a table belongs to. The number is the one written on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TableKind {
    /// The digest index: digest to place.
    Index = 17,
    /// The pointer table: name to digest.
    Names = 18,
}

impl TableKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Index, Self::Names];

    /// The word that begins the names of this tree's files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Names => "names",
        }
    }
}

/// What a file is, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A segment of this log.
    Log(LogKind),
    /// CURRENT.
    Current,
    /// A table of this tree.
    Table(TableKind),
}

impl FileKind {
    /// As written on disk.
    pub fn number(self) -> u8 {
        match self {
            Self::Log(log) => log as u8,
            Self::Current => 16,
            Self::Table(table) => table as u8,
        }
    }

    /// The kind written on disk as `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        let table = TableKind::ALL.into_iter().find(|table| *table as u8 == number);
        match number {
            16 => Some(Self::Current),
            _ => LogKind::from_number(number).map(Self::Log).or(table.map(Self::Table)),
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
        ordinal: Ordinal,
        /// The writer epoch in which the file was created.
        epoch: Epoch,
    },
    /// A sorted table of a tree: its ordinal among that tree's, and the epoch of its writer.
    Table {
        /// The tree it belongs to.
        table: TableKind,
        /// Its number; never reused.
        ordinal: Ordinal,
        /// The writer epoch in which the file was created.
        epoch: Epoch,
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
            Self::Table { table, ordinal, epoch } => {
                write!(f, "{}-{ordinal:08}-{epoch:08}.table", table.word())
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
        let (stem, _) = name.rsplit_once('.').ok_or(NotOurs)?;
        let mut parts = stem.split('-');
        let word = parts.next().ok_or(NotOurs)?;
        let ordinal = Ordinal(number(parts.next())?);
        let epoch = Epoch(number(parts.next())?);
        let log = LogKind::ALL.into_iter().find(|log| log.word() == word);
        let table = TableKind::ALL.into_iter().find(|table| table.word() == word);
        let parsed = match (log, table) {
            (Some(log), _) => Self::Segment { log, ordinal, epoch },
            (None, Some(table)) => Self::Table { table, ordinal, epoch },
            (None, None) => return Err(NotOurs),
        };
        // Only the one spelling that we print is ours.
        if parsed.to_string() == name { Ok(parsed) } else { Err(NotOurs) }
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
        let segment = |log, ordinal, epoch| FileName::Segment {
            log,
            ordinal: Ordinal(ordinal),
            epoch: Epoch(epoch),
        };
        for name in [
            FileName::Lock,
            FileName::Current,
            FileName::CurrentTemp,
            FileName::Reserve,
            segment(LogKind::Blob, 1, 2),
            segment(LogKind::Pointer, u32::MAX, u32::MAX),
            segment(LogKind::Root, 123_456_789, 0),
            FileName::Table { table: TableKind::Index, ordinal: Ordinal(1), epoch: Epoch(2) },
            FileName::Table { table: TableKind::Names, ordinal: Ordinal(7), epoch: Epoch(1 << 30) },
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
            "blob-00000001-00000002.table",
            "index-00000001-00000002.log",
            "index-00000001-00000002",
        ] {
            assert_eq!(name.parse::<FileName>(), Err(NotOurs), "{name}");
        }
    }
}
