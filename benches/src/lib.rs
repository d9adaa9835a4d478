//! What all benchmarks share: a place on a real file system, values that do not compress, the
//! floors that Pinstone is compared with, and the arithmetic of pairs.
//!
//! - `place.rs`: where stores and floors stand; removed afterwards.
//! - `data.rs`: values, made up front.
//! - `floor.rs`: the least that any engine would have to do: plain `pwrite` and `fdatasync`.
//! - `work.rs`: what is timed, on either side.
//! - `pairs.rs`: a figure is the median of the ratios of pairs that were measured one right after
//!   the other, so that the machine's drift hits both.
//! - `steady.rs`: a directory of which everything is the same in every run, for counts.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the bans keep the engine deterministic; a benchmark reads clocks and copies files"
)]
#![allow(clippy::missing_panics_doc, reason = "whatever goes wrong in a benchmark ends it")]

pub mod data;
pub mod floor;
pub mod pairs;
pub mod place;
pub mod process;
pub mod steady;
pub mod work;
