//! Where something stands: a position in a log, a value's place, and the class of its size.

use std::fmt;

use pinstone_disk::Ordinal;

/// A position in a log: a segment's ordinal and an offset in it. Positions of one log are ordered
/// as its bytes were appended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPosition(u64);

impl LogPosition {
    /// Before everything.
    pub const START: Self = Self(0);

    /// `offset_bytes` of segment `ordinal`.
    pub const fn new(ordinal: Ordinal, offset_bytes: u32) -> Self {
        Self((ordinal.0 as u64) << 32 | offset_bytes as u64)
    }

    /// The position written on disk as `number`.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// As written on disk.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The segment.
    pub fn ordinal(self) -> Ordinal {
        Ordinal((self.0 >> 32) as u32)
    }

    /// The offset in the segment.
    pub fn offset_bytes(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

impl fmt::Debug for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ordinal(), self.offset_bytes())
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The most that a size class covers.
pub const SIZE_CLASS_BYTES_MAX: u64 = 15 << 31;

/// An upper bound of a record's length in one byte, at most an eighth too high: eight classes an
/// octave. A reader that knows the class needs one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SizeClass(pub u8);

impl SizeClass {
    /// The smallest class that covers `len_bytes`, at most [`SIZE_CLASS_BYTES_MAX`].
    ///
    /// # Panics
    /// If `len_bytes` is more than that.
    pub fn covering(len_bytes: u64) -> Self {
        assert!(len_bytes <= SIZE_CLASS_BYTES_MAX, "a record is bounded");
        let octave = 64 - (len_bytes.max(8) >> 4).leading_zeros();
        let mantissa = len_bytes.max(8).div_ceil(1 << octave);
        // Rounding up may carry into the next octave: a step of 8 is its first class.
        let class = u64::from(octave) * 8 + (mantissa - 8);
        Self(u8::try_from(class).expect("a bounded length has a class below 256"))
    }

    /// The most that this class covers, in bytes.
    pub fn bytes_max(self) -> u64 {
        u64::from(8 + self.0 % 8) << (self.0 / 8)
    }
}

/// Where a value's record stands in the blob log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The segment.
    pub ordinal: Ordinal,
    /// The record's offset in it.
    pub offset_bytes: u32,
    /// A bound of the record's length.
    pub class: SizeClass,
}

impl Place {
    /// The position of the record's first byte.
    pub fn position(self) -> LogPosition {
        LogPosition::new(self.ordinal, self.offset_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_covers_its_length_closely() {
        let around = (0..35).flat_map(|bit| {
            let power = 1u64 << bit;
            [power - 1, power, power + 1, power + power / 3, power + power / 8]
        });
        for len in (0..5000).chain(around).filter(|len| *len <= SIZE_CLASS_BYTES_MAX) {
            let bound = SizeClass::covering(len).bytes_max();
            assert!(bound >= len, "{len} {bound}");
            assert!(bound <= len.max(8) + len / 8 + 1, "{len} {bound}");
        }
    }

    #[test]
    fn positions_sort_by_segment_then_offset() {
        assert!(LogPosition::new(Ordinal(1), u32::MAX) < LogPosition::new(Ordinal(2), 0));
        let position = LogPosition::new(Ordinal(7), 9);
        assert_eq!((position.ordinal(), position.offset_bytes()), (Ordinal(7), 9));
        assert_eq!(LogPosition::from_number(position.number()), position);
    }
}
