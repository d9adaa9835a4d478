//! Tables added to a tree and removed from it.
