//! Torn or corrupt: small logs made by scripts, damaged, and judged.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "this is test code")]

#[path = "../common/mod.rs"]
mod common;
mod script;
mod segments;
mod tails;
