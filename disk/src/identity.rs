//! What tells one file of one store from every other: store, epoch, ordinal.
//!
//! A file's identity is (store id, kind, ordinal, epoch), and is never used again.

use std::fmt;

/// A store, drawn at random when it is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A file's place among those of its kind, from 1; never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ordinal(pub u32);

/// The number of an open for writing, from 1. Each is greater than all before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// No ordinal and no epoch, so that one can follow each that is found; see `docs/format.md`.
const NEVER_USED: u32 = u32::MAX;

macro_rules! numbered {
    ($name:ident) => {
        impl $name {
            /// The first one given.
            pub const FIRST: Self = Self(1);

            /// The one that follows; `None` after the last, or if there is no such number.
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).filter(|next| *next < NEVER_USED).map(Self)
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
        assert_eq!(format!("{:08}", Epoch(7)), "00000007");
    }
}
