//! Which compactions are planned: drawings with the plans that they get, what must hold of any
//! tree, and how much is rewritten.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "this is test code")]

mod around;
mod drawings;
mod model;
mod properties;
mod simulation;
mod thinning;
