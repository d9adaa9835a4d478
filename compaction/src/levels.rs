//! An immutable view of one tree: its levels, and the tables in them.
