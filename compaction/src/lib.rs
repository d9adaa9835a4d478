//! Sorted tables, the levels they form, and the rewriting that keeps them in shape.
//!
//! Two trees are built of these: the digest index and the pointer table. What their keys mean is
//! their owner's affair; a key is bytes here, compared as bytes.

#![forbid(unsafe_code)]

pub mod dump;
pub mod edit;
mod error;
pub mod levels;
pub mod lingering;
pub mod merge;
pub mod name_scan;
pub mod open_levels;
pub mod plan;
pub mod run;
pub mod table;

pub use error::TableError;
pub use table::{TableId, TableMeta};
