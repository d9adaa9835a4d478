//! What every engine under comparison can do, whatever it calls it, and what it is given.
//!
//! - E1: a `put` computes the BLAKE3 digest of the value, asks whether it is known, and stores the
//!   value if it is not: all of it inside the timed part, for every engine.
//! - E2: after `load` and `sync` everything is on stable storage; after `commit` and
//!   `compare_and_set` the value and the pointer are, and no crash leaves the one without the other.
//! - E3: a get hands the value to a [`Sink`], wherever the engine has it (a map, a cache, a buffer of
//!   its own). The sink reads 8 bytes of each 64, one of each cache line, so that an engine that
//!   hands out a reference pays for the bytes as the one that copies does.
//! - E4: a value of the wrong length is counted, and a cell in which one was found has failed.

use std::path::Path;

use pinstone::Digest;

use crate::feed::Feed;

/// What went right, or why it did not, as text for a table.
pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What an engine may know of the work ahead.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "what of it is read depends on the engines that are built in")]
pub(crate) struct Settings {
    /// Bytes of each value.
    pub(crate) value_bytes: usize,
    /// Bytes of memory for caches and buffers, the same for every engine.
    pub(crate) memory_bytes: usize,
    /// The store is opened to be loaded and synced at the end, and for nothing else.
    pub(crate) bulk: bool,
}

/// Opens or creates a store of some engine in a directory that exists.
pub(crate) type Open = fn(&Path, &Settings) -> Fallible<Box<dyn Engine>>;

/// An open store, used by many threads.
pub(crate) trait Engine: Send + Sync {
    /// Puts what comes (E1), grouped as the engine likes it best. How many values were new. Durable
    /// once [`Engine::sync`] has returned.
    fn load(&self, values: &mut Feed) -> Fallible<u64>;

    /// Whether the value is there; it is handed to `sink`.
    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool>;

    /// How many of these values are there; they are handed to `sink`, in any order.
    fn get_many(&self, digests: &[Digest], sink: &mut Sink) -> Fallible<usize> {
        let mut found = 0;
        for digest in digests {
            found += usize::from(self.get(digest, sink)?);
        }
        Ok(found)
    }

    /// Whether the value is there.
    fn contains(&self, digest: &Digest) -> Fallible<bool>;

    /// How many of these values are there.
    fn contains_many(&self, digests: &[Digest]) -> Fallible<usize> {
        let mut found = 0;
        for digest in digests {
            found += usize::from(self.contains(digest)?);
        }
        Ok(found)
    }

    /// Puts a value and points `name` at it, durably and atomically (E2).
    fn commit(&self, value: &[u8], name: &str) -> Fallible<()>;

    /// Points all these names at a value that is there; durable on return.
    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()>;

    /// Where `name` points.
    fn pointer(&self, name: &str) -> Fallible<Option<Digest>>;

    /// Points `name` at `new` if it points at `old`; both values are there. Durable on return.
    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool>;

    /// How many names begin with `prefix`; each name and its digest are looked at.
    fn scan(&self, prefix: &str) -> Fallible<u64>;

    /// Everything that was put is on stable storage when this returns.
    fn sync(&self) -> Fallible<()>;

    /// As a service would at its end.
    fn close(self: Box<Self>) -> Fallible<()>;
}

/// Reads some of every value (E3), and counts those of a wrong length (E4).
#[derive(Debug)]
pub(crate) struct Sink {
    value_bytes: usize,
    sum: u64,
    wrong_count: u64,
}

impl Sink {
    /// For values of this length.
    pub(crate) fn new(value_bytes: usize) -> Self {
        Self { value_bytes, sum: 0, wrong_count: 0 }
    }

    /// Reads 8 bytes of each 64.
    pub(crate) fn take(&mut self, value: &[u8]) {
        self.wrong_count += u64::from(value.len() != self.value_bytes);
        let mut sum = self.sum;
        for line in value.chunks(64) {
            if let Some(word) = line.first_chunk() {
                sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
        self.sum = sum;
    }

    /// Refuses if a value had a wrong length.
    pub(crate) fn finish(self) -> Fallible<()> {
        std::hint::black_box(self.sum);
        match self.wrong_count {
            0 => Ok(()),
            wrong => Err(format!("{wrong} values had a wrong length").into()),
        }
    }
}
