//! What can be done with a store: one operation a file, readable from top to bottom.

pub(crate) mod check;
pub(crate) mod close;
pub(crate) mod commit;
pub(crate) mod compact;
pub(crate) mod get;
pub(crate) mod get_many;
pub(crate) mod lookup;
pub(crate) mod put;
pub(crate) mod put_many;
pub(crate) mod recover;
pub(crate) mod stats;
