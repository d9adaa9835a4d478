//! Merging sorted runs, and dropping what nobody sees. No I/O.
