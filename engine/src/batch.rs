//! What one commit changes, and on what condition.

use std::collections::BTreeMap;

use bytes::Bytes;
use pinstone_disk::{Digest, Escaped};

use crate::error::{Error, Result};
use crate::options::NAME_BYTES_MAX;

/// An atomic change of pointers: sets and deletions, made only if all that it requires holds.
///
/// ```
/// # fn main() -> pinstone::Result<()> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// use pinstone::{Batch, Store};
/// let store = Store::open(dir.path())?;
/// let old = store.put(b"one")?.digest;
/// store.commit(Batch::new().set("head", old).require("head", None))?;
/// let new = store.put(b"two")?.digest;
/// store.commit(Batch::new().set("head", new).require("head", Some(old)))?;
/// # store.close()
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    changes: BTreeMap<Bytes, Option<Digest>>,
    requires: Vec<(Bytes, Option<Digest>)>,
    fault: Option<Fault>,
}

#[derive(Clone, Debug)]
enum Fault {
    NameLength(usize),
    Twice(Bytes),
}

impl Batch {
    /// A batch that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Points `name` (1 to 1,024 bytes, any) at `digest`, whose value the store must hold.
    pub fn set(self, name: impl AsRef<[u8]>, digest: Digest) -> Self {
        self.change(name.as_ref(), Some(digest))
    }

    /// Deletes `name`; to delete an absent name is no error.
    pub fn delete(self, name: impl AsRef<[u8]>) -> Self {
        self.change(name.as_ref(), None)
    }

    /// Makes the whole batch depend on `name` pointing at `current`, or being absent for `None`.
    pub fn require(mut self, name: impl AsRef<[u8]>, current: Option<Digest>) -> Self {
        let name = self.name(name.as_ref());
        self.requires.push((name, current));
        self
    }

    /// How many pointers it changes.
    pub fn change_count(&self) -> usize {
        self.changes.len()
    }

    fn change(mut self, name: &[u8], to: Option<Digest>) -> Self {
        let name = self.name(name);
        if self.changes.insert(name.clone(), to).is_some() {
            self.fault.get_or_insert(Fault::Twice(name));
        }
        self
    }

    fn name(&mut self, name: &[u8]) -> Bytes {
        if !is_name(name) {
            self.fault.get_or_insert(Fault::NameLength(name.len()));
            return Bytes::new();
        }
        Bytes::copy_from_slice(name)
    }

    /// Its parts, if it can be committed at all.
    pub(crate) fn into_parts(self) -> Result<Parts> {
        match self.fault {
            Some(Fault::NameLength(len_bytes)) => return Err(Error::NameLength { len_bytes }),
            Some(Fault::Twice(name)) => {
                let reason = format!("the batch changes {} twice", Escaped(&name));
                return Err(Error::BadBatch { reason });
            }
            None => {}
        }
        if self.changes.is_empty() {
            return Err(Error::BadBatch { reason: "the batch changes nothing".to_owned() });
        }
        Ok(Parts { changes: self.changes, requires: self.requires })
    }
}

/// The name, if a pointer can have it.
pub(crate) fn checked_name(name: &[u8]) -> Result<&[u8]> {
    if is_name(name) { Ok(name) } else { Err(Error::NameLength { len_bytes: name.len() }) }
}

fn is_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}

/// A batch that was found sound: changes sorted by name, no name twice, at least one.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) changes: BTreeMap<Bytes, Option<Digest>>,
    pub(crate) requires: Vec<(Bytes, Option<Digest>)>,
}
