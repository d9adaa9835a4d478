//! Little-endian integers, varints and byte strings: a reader that never panics on what it reads,
//! and the functions that write what it reads.

/// The bytes end, or do not mean what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes at {offset}: {what}")]
pub struct Malformed {
    /// Where, counted from the start of what was being decoded.
    pub offset: usize,
    /// What was expected there.
    pub what: &'static str,
}

/// Longest varint of a 64-bit number.
pub const VARINT_BYTES_MAX: usize = 10;

/// Reads forward through a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error at the present place.
    pub fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { offset: self.at, what }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// The bytes end before: `what` was expected there.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or(Malformed { offset: self.at, what })?;
        self.at += count;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// The bytes end before: `what` was expected there.
    #[expect(clippy::missing_panics_doc, reason = "what was taken has that many bytes")]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        Ok(self.take(N, what)?.try_into().expect("take returned N bytes"))
    }

    /// One byte.
    ///
    /// # Errors
    /// The bytes end before: `what` was expected there.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    /// A 16-bit number.
    ///
    /// # Errors
    /// The bytes end before: `what` was expected there.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// The bytes end before: `what` was expected there.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// The bytes end before: `what` was expected there.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A varint: seven bits a byte, low bits first, the top bit says that more follow. Only the
    /// shortest form of a number is accepted.
    ///
    /// # Errors
    /// The bytes end before, or are no number of 64 bits in its shortest form.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let malformed = Malformed { offset: self.at, what };
        let mut number = 0u64;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * index;
            if shift == 63 && bits > 1 {
                return Err(malformed);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && index > 0 { Err(malformed) } else { Ok(number) };
            }
        }
        Err(malformed)
    }

    /// A varint that fits a `usize`.
    ///
    /// # Errors
    /// As [`Reader::varint`].
    pub fn varint_usize(&mut self, what: &'static str) -> Result<usize, Malformed> {
        let malformed = Malformed { offset: self.at, what };
        usize::try_from(self.varint(what)?).map_err(|_| malformed)
    }

    /// Says that nothing is left.
    ///
    /// # Errors
    /// Something is left: `what` was expected there.
    pub fn end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.left() == 0 { Ok(()) } else { Err(self.malformed(what)) }
    }
}

/// Appends `number` as a varint.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(low_bits(number) | 0x80);
        number >>= 7;
    }
    out.push(low_bits(number));
}

/// A number of bytes in memory. Nothing is lost: Pinstone builds for 64-bit machines alone.
#[expect(clippy::cast_possible_truncation, reason = "a usize has 64 bits, as asserted")]
pub const fn size(number: u64) -> usize {
    const { assert!(usize::BITS == u64::BITS) };
    number as usize
}

fn low_bits(number: u64) -> u8 {
    (number & 0x7f) as u8
}

/// Bytes that [`put_varint`] writes for `number`.
pub fn varint_bytes(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_read_back(number: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            prop_assert_eq!(out.len(), varint_bytes(number));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint("n"), Ok(number));
            prop_assert_eq!(reader.end("end"), Ok(()));
        }

        #[test]
        fn any_bytes_read_without_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.varint("n").is_ok() {}
        }
    }

    #[test]
    fn a_varint_has_one_form() {
        for bytes in [&[0x80, 0x00][..], &[0x81, 0x80, 0x00], &[0xff; 11], &[0x80]] {
            assert!(Reader::new(bytes).varint("n").is_err(), "{bytes:?}");
        }
    }
}
