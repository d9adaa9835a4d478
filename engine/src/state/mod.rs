//! What a store consists of. Nothing here knows the operations on it.

pub(crate) mod carried;
pub(crate) mod digest_index;
pub(crate) mod inner;
pub(crate) mod pointers;
pub(crate) mod reserve;
pub(crate) mod root;
pub(crate) mod segments;
pub(crate) mod take_over;
pub(crate) mod trees;
