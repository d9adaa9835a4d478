//! fjall 3, with key-value separation: an LSM tree of digests, values in blob files.
//!
//! - Values in a keyspace with key-value separation from 512 bytes on (its default is 1 KiB; the values
//!   of 1 KiB are to be separated), names in another keyspace, without.
//! - No compression: the crate is built without it.
//! - The block cache has all the memory of the settings. Memtables (64 MiB each, its default) come on
//!   top: to make them smaller would only cost it compactions. Bloom filters as by default: it puts
//!   more bits where they pay.
//! - A load goes through batches of 1,000 values, whose journal stays in the process' buffer until the
//!   sync at the end (`PersistMode::SyncAll`). Its journal holds each value once more than its blob
//!   files; it has no bulk load that takes unsorted keys.
//! - A commit is one batch over both keyspaces with `PersistMode::SyncAll`, which returns when it is on
//!   the device. Batches are made durable one at a time: it has no group commit.
//! - Compare-and-set holds a lock of this process: cheaper than its transactional kind of database, which
//!   would make every other operation pay.
//! - It checks a block's or blob's checksum when it reads it from a file, not when its cache has it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable,
};
use pinstone::Digest;

use super::{GROUP_BYTES, GROUP_VALUES};
use crate::engine::{Engine, Fallible, Settings, Sink};
use crate::feed::Feed;

/// Values from this length on are kept apart from their keys.
const SEPARATED_BYTES: u32 = 512;

struct Fjall {
    database: Database,
    values: Keyspace,
    names: Keyspace,
    one_at_a_time: Mutex<()>,
}

/// Opens a store.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Fallible<Box<dyn Engine>> {
    let database = Database::builder(dir)
        .cache_size(settings.memory_bytes as u64)
        .manual_journal_persist(settings.bulk)
        .open()?;
    let separation = KvSeparationOptions::default().separation_threshold(SEPARATED_BYTES);
    let values = database.keyspace("values", || {
        KeyspaceCreateOptions::default().with_kv_separation(Some(separation))
    })?;
    let names = database.keyspace("names", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { database, values, names, one_at_a_time: Mutex::new(()) }))
}

impl Engine for Fjall {
    fn load(&self, values: &mut Feed) -> Fallible<u64> {
        let mut new_count = 0;
        loop {
            let mut batch = self.database.batch();
            let (mut seen, mut bytes) = (0, 0);
            while let Some(value) =
                (seen < GROUP_VALUES && bytes < GROUP_BYTES).then(|| values.next()).flatten()
            {
                seen += 1;
                let digest = Digest::of(value);
                if !self.values.contains_key(digest.as_bytes())? {
                    bytes += value.len();
                    batch.insert(&self.values, &digest.as_bytes()[..], value);
                }
            }
            new_count += batch.len() as u64;
            batch.commit()?;
            if seen == 0 {
                return Ok(new_count);
            }
        }
    }

    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
        let value = self.values.get(digest.as_bytes())?;
        Ok(value.is_some_and(|value| {
            sink.take(&value);
            true
        }))
    }

    fn contains(&self, digest: &Digest) -> Fallible<bool> {
        Ok(self.values.contains_key(digest.as_bytes())?)
    }

    fn commit(&self, value: &[u8], name: &str) -> Fallible<()> {
        let digest = Digest::of(value);
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        if !self.values.contains_key(digest.as_bytes())? {
            batch.insert(&self.values, &digest.as_bytes()[..], value);
        }
        batch.insert(&self.names, name, &digest.as_bytes()[..]);
        Ok(batch.commit()?)
    }

    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()> {
        for group in names.chunks(GROUP_VALUES) {
            let mut batch = self.database.batch();
            for name in group {
                batch.insert(&self.names, name.as_str(), &digest.as_bytes()[..]);
            }
            batch.commit()?;
        }
        self.sync()
    }

    fn pointer(&self, name: &str) -> Fallible<Option<Digest>> {
        self.names.get(name)?.map(|bytes| digest_of(&bytes)).transpose()
    }

    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool> {
        let _alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pointer(name)? != Some(*old) {
            return Ok(false);
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.names, name, &new.as_bytes()[..]);
        batch.commit()?;
        Ok(true)
    }

    fn scan(&self, prefix: &str) -> Fallible<u64> {
        let mut count = 0;
        for pointer in self.database.snapshot().prefix(&self.names, prefix) {
            std::hint::black_box(pointer.into_inner()?);
            count += 1;
        }
        Ok(count)
    }

    fn sync(&self) -> Fallible<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn close(self: Box<Self>) -> Fallible<()> {
        self.sync()
    }
}

fn digest_of(bytes: &[u8]) -> Fallible<Digest> {
    Ok(Digest::from_bytes(bytes.try_into()?))
}
