//! The command line of Pinstone: one file a command, thin over the public API of the engine.
//!
//! - `cli.rs`: what may be said on the command line, and which file answers it.
//! - `context.rs`: the store's place, the streams, `--json`. `exit.rs`: errors and exit codes, the
//!   only place where an engine's error becomes either.
//! - `put get has pointer check stats`: commands. `batch.rs` and `batch/`: JSON lines.
//! - `transfer.rs`: commands `import` and `export`, over `import.rs`, `export.rs` and `tree.rs`.
//!
//! Habits: data on stdout, all else on stderr; quiet on success; a broken pipe is no error.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the bans keep the engine deterministic; a command line reads files, clocks and threads"
)]

pub mod batch;
mod check;
pub mod cli;
mod compact;
pub mod context;
mod dir_stack;
pub mod exit;
pub mod export;
mod get;
mod has;
pub mod import;
mod pointer;
mod put;
mod stats;
pub mod text;
mod transfer;
pub mod tree;
pub mod watch;
