//! How much each level should hold: 2 and 3 of [`plan`](super).

use super::Shape;
use crate::levels::{LEVELS_MAX, Levels};

/// What the levels below level 0 should hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets {
    /// The level that level 0 goes to, if all goes well.
    pub(super) base: u8,
    /// The deepest level.
    last: u8,
    /// Of all below level 0.
    pub(super) held_bytes: u64,
    /// Of each level but the first and the last.
    bytes: [f64; LEVELS_MAX as usize],
    pub(super) ratio_max: f64,
}

impl Targets {
    /// Of levels 1 to `last`, if there are any.
    pub(super) fn new(levels: &Levels, shape: &Shape, last: u8) -> Self {
        let l0_bytes = shape.l0_bytes.max(1) as f64;
        let ratio_max = f64::from(shape.size_ratio_max.max(2));
        let sums = (1..=last).map(|level| levels.sums(level).file_bytes);
        let held_bytes = sums.fold(0, u64::saturating_add);
        let times = (held_bytes as f64 / l0_bytes).max(1.0);
        let (mut count, mut reach) = (1, ratio_max);
        while times > reach && count < last {
            count += 1;
            reach *= ratio_max;
        }
        let ratio = times.powf(1.0 / f64::from(count));
        let base = last.max(1) + 1 - count;
        let target = |level: u8| match i32::from(level) - i32::from(base) + 1 {
            _ if level >= last => f64::INFINITY,
            above @ ..=0 => l0_bytes * ratio_max.powi(above),
            below => l0_bytes * ratio.powi(below),
        };
        let bytes = std::array::from_fn(|level| target(u8::try_from(level).unwrap_or(last)));
        Self { base, last, held_bytes, bytes, ratio_max }
    }

    pub(super) fn bytes_of(&self, level: u8) -> f64 {
        self.bytes[usize::from(level)]
    }

    /// Where `bytes` go from `level`: to the first level that holds something already (P1), or
    /// that has room for them a few times, or to the base, or, from there, to the next.
    pub(super) fn below(&self, levels: &Levels, level: u8, bytes: u64) -> u8 {
        assert!(level < self.last, "nothing is below the last level");
        let room = bytes as f64 * self.ratio_max;
        let takes = |at: &u8| {
            *at >= self.base || !levels.tables(*at).is_empty() || self.bytes_of(*at) >= room
        };
        (level + 1..self.last).find(takes).unwrap_or(self.last)
    }
}
