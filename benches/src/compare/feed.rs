//! The values that are put, one after the other, made in place, until they or the time are at an end;
//! and the digests that are asked for.
//!
//! Value number N is the same in every process: so a store that one process loads, another reads.

use std::time::Duration;

use pinstone::Digest;
use pinstone_benches::data::{Pool, next};
use pinstone_disk::env::monotonic;

/// Bytes of the pool that values are made in: more than the processor's caches nearest to it.
const POOL_BYTES: usize = 16 << 20;

/// Bytes of values after which the clock is looked at.
const WATCH_BYTES: usize = 64 << 10;

/// Numbers from here on are of values that nobody puts.
pub(crate) const ABSENT: u64 = 1 << 40;

/// Numbers from here on are of values that commits put.
pub(crate) const COMMITTED: u64 = 1 << 41;

/// Values of one length.
pub(crate) fn pool(value_bytes: usize) -> Pool {
    Pool::new(value_bytes, POOL_BYTES.max(4 * value_bytes))
}

/// The values with some numbers, as long as there is time.
pub(crate) struct Feed {
    pool: Pool,
    numbers: Box<dyn Iterator<Item = u64> + Send>,
    until: Option<Duration>,
    fed_count: u64,
}

impl Feed {
    /// These values.
    pub(crate) fn new(
        value_bytes: usize,
        numbers: impl Iterator<Item = u64> + Send + 'static,
    ) -> Self {
        let pool = pool(value_bytes);
        Self { pool, numbers: Box::new(numbers), until: None, fed_count: 0 }
    }

    /// No more of them after so many seconds from now.
    pub(crate) fn stop_after(&mut self, seconds: f64) {
        self.until = Some(monotonic() + Duration::from_secs_f64(seconds));
    }

    /// The next value.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let each = (WATCH_BYTES / self.pool.value_bytes()).max(1) as u64;
        if self.fed_count.is_multiple_of(each)
            && self.until.is_some_and(|until| monotonic() > until)
        {
            return None;
        }
        let number = self.numbers.next()?;
        self.fed_count += 1;
        Some(self.pool.stamp(number))
    }

    /// How many there have been.
    pub(crate) fn fed_count(&self) -> u64 {
        self.fed_count
    }
}

/// The digests of the values with these numbers.
pub(crate) fn digests(value_bytes: usize, numbers: impl Iterator<Item = u64>) -> Vec<Digest> {
    let mut pool = pool(value_bytes);
    numbers.map(|number| Digest::of(pool.stamp(number))).collect()
}

/// The numbers below `count`, in an order that depends on the seed.
pub(crate) fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut state = seed;
    for last in (1..numbers.len()).rev() {
        let bound = last as u64 + 1;
        let at = usize::try_from(next(&mut state) % bound).expect("less than a length");
        numbers.swap(last, at);
    }
    numbers
}

/// A name of some 40 bytes.
pub(crate) fn name(number: u64) -> String {
    let mut state = number;
    format!("service/artifact/{:016x}/{:06}", next(&mut state), number % 1_000_000)
}
