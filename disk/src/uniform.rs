//! Searching among keys that are spread evenly, as digests are: from where a key would be.

use std::ops::Range;

use crate::codec::size;

/// About how many of `count` numbers, spread evenly over `range`, are below `key`: at most `count`, unless the
/// key is beyond the range.
///
/// ```
/// use pinstone_disk::uniform::rank;
/// assert_eq!(rank(150, 100..200, 64), 32);
/// assert_eq!(rank(50, 100..200, 64), 0);
/// ```
pub fn rank(key: u32, range: Range<u64>, count: usize) -> usize {
    let len = range.end.saturating_sub(range.start).max(1);
    let offset = u64::from(key).saturating_sub(range.start);
    size(offset.saturating_mul(count as u64) / len)
}

/// How many of `len` numbers `is_before` holds for, which are the first ones: looked for from a guess, in
/// growing steps, then by halves. So a good guess looks at neighbours, and a bad one costs a logarithm.
///
/// ```
/// use pinstone_disk::uniform::boundary;
/// let numbers = [1, 3, 3, 7, 9];
/// for guess in 0..9 {
///     assert_eq!(boundary(numbers.len(), guess, |at| numbers[at] < 7), 3);
/// }
/// ```
pub fn boundary(len: usize, guess: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let guess = guess.min(len.saturating_sub(1));
    let (mut low, mut high, mut step) = (0, len, 1);
    if guess < len && is_before(guess) {
        low = guess + 1;
        while low < len {
            let probe = (low + step - 1).min(len - 1);
            if !is_before(probe) {
                high = probe;
                break;
            }
            low = probe + 1;
            step *= 2;
        }
    } else {
        high = guess;
        while high > 0 {
            let probe = high.saturating_sub(step);
            if is_before(probe) {
                low = probe + 1;
                break;
            }
            high = probe;
            step *= 2;
        }
    }
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
