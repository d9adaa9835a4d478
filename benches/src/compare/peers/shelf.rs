//! Things that are costly to make and that one thread uses at a time: connections, read transactions.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Those that nobody uses now.
#[derive(Debug)]
pub(crate) struct Shelf<T>(Mutex<Vec<T>>);

impl<T> Shelf<T> {
    /// With nothing on it.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// One that lay there.
    pub(crate) fn take(&self) -> Option<T> {
        self.lock().pop()
    }

    /// Lays one there.
    pub(crate) fn put(&self, thing: T) {
        self.lock().push(thing);
    }

    /// Drops what lies there.
    pub(crate) fn clear(&self) {
        let things = std::mem::take(&mut *self.lock());
        drop(things);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
