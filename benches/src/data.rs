//! Values that do not compress and are never equal, made before anything is timed.

/// Bytes, cut into values of one length.
#[derive(Debug)]
pub struct Pool {
    bytes: Vec<u8>,
    value_bytes: usize,
}

impl Pool {
    /// As many values of `value_bytes` as go into `total_bytes`.
    pub fn new(value_bytes: usize, total_bytes: usize) -> Self {
        let mut bytes = vec![0; total_bytes / value_bytes * value_bytes];
        let mut state = 0x5049_4e53_544f_4e45_u64;
        for chunk in bytes.chunks_mut(8) {
            let word = next(&mut state).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Self { bytes, value_bytes }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.bytes.len() / self.value_bytes
    }

    /// Bytes of each.
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// The values, which lie one after the other in memory.
    pub fn values(&self) -> std::slice::ChunksExact<'_, u8> {
        self.bytes.chunks_exact(self.value_bytes)
    }

    /// All their bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A value that no other number gives, in `buffer`: a copy of one with the number in it.
    ///
    /// # Panics
    /// If the pool's values are shorter than a number.
    pub fn stamped<'a>(&self, number: u64, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        let count = self.count() as u64;
        let at = usize::try_from(number % count).expect("less than the pool's length");
        buffer.clear();
        buffer.extend_from_slice(&self.bytes[at * self.value_bytes..][..self.value_bytes]);
        buffer[..8].copy_from_slice(&number.to_le_bytes());
        buffer
    }

    /// The same value, made in its place in the pool: nothing is copied.
    ///
    /// # Panics
    /// As [`Pool::stamped`].
    pub fn stamp(&mut self, number: u64) -> &[u8] {
        let count = self.count() as u64;
        let at = usize::try_from(number % count).expect("less than the pool's length");
        let value = &mut self.bytes[at * self.value_bytes..][..self.value_bytes];
        value[..8].copy_from_slice(&number.to_le_bytes());
        value
    }
}

/// The next of a sequence of random numbers.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
