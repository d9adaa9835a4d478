//! What tells one file of one store from every other: store, epoch, ordinal; and what tells one
//! commit from every other.
//!
//! A file's identity is (store id, kind, ordinal, epoch), and is never used again.
//!
//! The numbers of commits and the bound of names stand here, below all that read or write them: logs,
//! tables, the engine.

use std::fmt;

/// A store, drawn at random when it is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A file's place among those of its kind, from 1; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(pub u32);

/// The number of an open for writing, from 1. Each is greater than all before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// The number of a commit: 1 for a store's first, then dense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub u64);

impl CommitId {
    /// Before the first commit; the default.
    pub const NONE: Self = Self(0);

    /// The one that follows.
    #[expect(clippy::missing_panics_doc, reason = "nobody commits 2^64 times")]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("nobody commits 2^64 times"))
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Bytes of the longest name of a pointer. Later stores (object storage, PostgreSQL, etcd) take names
/// of this length, so it is no option.
pub const NAME_BYTES_MAX: usize = 1024;

/// No ordinal and no epoch, so that one can follow each that is found; see `docs/format.md`.
const NEVER_USED: u32 = u32::MAX;

macro_rules! numbered {
    ($name:ident) => {
        impl $name {
            /// The first one given.
            pub const FIRST: Self = Self(1);

            /// The one written on disk as `number`; `None` if that is the one never used.
            pub fn from_number(number: u32) -> Option<Self> {
                (number != NEVER_USED).then_some(Self(number))
            }

            /// The one that follows; `None` after the last, or if there is no such number.
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).and_then(Self::from_number)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // With the width and fill that the caller asks for.
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

numbered!(Ordinal);
numbered!(Epoch);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_never_reached() {
        assert_eq!(Ordinal::FIRST.next(), Some(Ordinal(2)));
        assert_eq!(Ordinal(NEVER_USED - 2).next(), Some(Ordinal(NEVER_USED - 1)));
        assert_eq!(Ordinal(NEVER_USED - 1).next(), None);
        assert_eq!(Ordinal(NEVER_USED).next(), None);
        assert_eq!(Epoch::from_number(NEVER_USED - 1), Some(Epoch(NEVER_USED - 1)));
        assert_eq!(Epoch::from_number(NEVER_USED), None);
        assert_eq!(format!("{:08}", Epoch(7)), "00000007");
    }
}
