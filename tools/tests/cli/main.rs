//! The command line as its users see it: documented transcripts, exit codes, bad input.
//!
//! The transcripts in `transcripts/` are scripts and what they print; `SNAPSHOTS=overwrite` writes
//! them anew.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests damage files and start processes, and helpers of tests are tests"
)]

mod bad_input;
mod batch;
mod commands;
mod damage;
mod faults;
mod harness;
mod transcripts;
