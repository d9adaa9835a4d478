//! Pinstone, with the options that it has by default.
//!
//! Reads check the record's CRC-32C (`Verify::Checksum`). A commit is a put and a batch that sets the
//! pointer; a load is puts one by one, since Pinstone gathers them itself.

use std::path::Path;

use pinstone::{Batch, Digest, Error, Options, Store, Verify};

use super::GROUP_VALUES;
use crate::engine::{Engine, Fallible, Settings, Sink};
use crate::feed::Feed;

struct Pinstone(Store);

/// Opens a store.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Fallible<Box<dyn Engine>> {
    let memory_bytes = (settings.memory_bytes as u64).max(Options::MEMORY_BYTES_MIN);
    let builder = Store::builder().memory_bytes(memory_bytes).verify(Verify::Checksum);
    Ok(Box::new(Pinstone(builder.open(dir)?)))
}

impl Engine for Pinstone {
    fn load(&self, values: &mut Feed) -> Fallible<u64> {
        let mut new_count = 0;
        while let Some(value) = values.next() {
            new_count += u64::from(self.0.put(value)?.new);
        }
        Ok(new_count)
    }

    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
        let value = self.0.get(digest)?;
        Ok(value.is_some_and(|value| {
            sink.take(&value);
            true
        }))
    }

    fn get_many(&self, digests: &[Digest], sink: &mut Sink) -> Fallible<usize> {
        let mut found = 0;
        for value in self.0.get_many(digests) {
            if let Some(value) = value? {
                sink.take(&value);
                found += 1;
            }
        }
        Ok(found)
    }

    fn contains(&self, digest: &Digest) -> Fallible<bool> {
        Ok(self.0.contains(digest)?)
    }

    fn contains_many(&self, digests: &[Digest]) -> Fallible<usize> {
        let mut found = 0;
        for is_held in self.0.contains_many(digests) {
            found += usize::from(is_held?);
        }
        Ok(found)
    }

    fn commit(&self, value: &[u8], name: &str) -> Fallible<()> {
        let digest = self.0.put(value)?.digest;
        self.0.commit(Batch::new().set(name, digest))?;
        Ok(())
    }

    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()> {
        for group in names.chunks(GROUP_VALUES) {
            let batch = group.iter().fold(Batch::new(), |batch, name| batch.set(name, *digest));
            self.0.commit(batch)?;
        }
        Ok(())
    }

    fn pointer(&self, name: &str) -> Fallible<Option<Digest>> {
        Ok(self.0.pointer(name)?)
    }

    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool> {
        let batch = Batch::new().set(name, *new).require(name, Some(*old));
        match self.0.commit(batch) {
            Ok(_) => Ok(true),
            Err(Error::PreconditionFailed { .. }) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    fn scan(&self, prefix: &str) -> Fallible<u64> {
        let mut count = 0;
        let mut pointers = self.0.pointers_with_prefix(prefix);
        while let Some(pointer) = pointers.next_ref()? {
            std::hint::black_box(pointer);
            count += 1;
        }
        Ok(count)
    }

    fn sync(&self) -> Fallible<()> {
        Ok(self.0.sync()?)
    }

    fn close(self: Box<Self>) -> Fallible<()> {
        Ok(self.0.close()?)
    }
}
