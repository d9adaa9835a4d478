//! One block of a name table.
