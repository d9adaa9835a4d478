//! What to rewrite next. Pure.
