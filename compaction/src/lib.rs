//! Sorted tables, and the levels that they form: their place, with nothing in it yet.

#![forbid(unsafe_code)]
