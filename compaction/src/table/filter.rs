//! A static membership filter.
