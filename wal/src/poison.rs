//! Whether writing has ended, and why: one switch shared by all that writes in a store (P6).

use pinstone_disk::env::{AtomicBool, Mutex, Ordering};
use pinstone_disk::{DiskError, Operation};

use crate::error::WalError;

/// Set once, by the first failure after which nothing written can be vouched for.
#[derive(Debug, Default)]
pub struct Poison {
    set: AtomicBool,
    cause: Mutex<Option<String>>,
}

impl Poison {
    /// Ends writing; the first cause stays.
    pub fn set(&self, cause: impl std::fmt::Display) -> WalError {
        let mut kept = self.cause.lock();
        let cause = kept.get_or_insert_with(|| cause.to_string()).clone();
        self.set.store(true, Ordering::Release);
        WalError::Poisoned { cause }
    }

    /// What a failure other than of an append means: that of a sync ends writing, another does not.
    pub fn after(&self, error: DiskError) -> WalError {
        match error.operation {
            Operation::Sync | Operation::SyncDirectory => self.set(chain(&error)),
            _ => error.into(),
        }
    }

    /// An error if writing has ended.
    ///
    /// # Errors
    /// [`WalError::Poisoned`] with the first cause.
    pub fn check(&self) -> Result<(), WalError> {
        match self.cause() {
            Some(cause) => Err(WalError::Poisoned { cause }),
            None => Ok(()),
        }
    }

    /// Why writing has ended, if it has.
    pub fn cause(&self) -> Option<String> {
        if self.set.load(Ordering::Acquire) { self.cause.lock().clone() } else { None }
    }
}

/// An error and all its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
