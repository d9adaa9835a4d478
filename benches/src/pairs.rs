//! Ratios of what was measured one right after the other.

use std::fmt;
use std::time::Duration;

/// Pairs of rates or times, as ratios.
#[derive(Clone, Debug, Default)]
pub struct Pairs(Vec<f64>);

impl Pairs {
    /// Adds a ratio.
    pub fn push(&mut self, measured: Duration, floor: Duration) {
        self.0.push(measured.as_secs_f64() / floor.as_secs_f64());
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The ratio that so many of a hundred do not exceed.
    ///
    /// # Panics
    /// If there is none.
    pub fn percentile(&self, of_hundred: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).expect("something was measured");
        sorted[last * of_hundred / 100]
    }

    /// The middle one.
    ///
    /// # Panics
    /// If there is none.
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }
}

/// The median, and between what half of the ratios lie.
impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, high] = [self.percentile(25), self.percentile(75)];
        write!(f, "{:.2} ({low:.2} to {high:.2}, {} pairs)", self.median(), self.count())
    }
}
