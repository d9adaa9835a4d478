//! LMDB, by `heed`: a copy-on-write B-tree in one mapped file.
//!
//! - Values and names in two named databases. A map of 64 GiB: an address space, not memory. It has no
//!   cache of its own; what is mapped is the system's page cache, so the memory of the settings is not
//!   used, and its own anonymous memory is next to nothing.
//! - `NORDAHEAD` for values under 64 KiB: what the system would read ahead of a random page are other
//!   values. Larger ones are read ahead. `NOMEMINIT`: pages need not be zeroed. Not `WRITEMAP`: with
//!   it a stray write would damage the file, and syncs of a sparse map are slower.
//! - A load goes through write transactions of 1,000 values with `NOSYNC`, and ends with a forced sync.
//!   `NO_OVERWRITE` asks whether a value is known and inserts it in one descent.
//! - A commit is one write transaction over both databases, durable by two syncs (the pages, then the
//!   meta page: its default). Write transactions take turns: it has no group commit.
//! - Read transactions are without thread-local slots (`NOTLS`), kept and used again until the next
//!   commit: beginning one takes a lock, and heed does not renew them.
//! - It checks nothing when it reads: it has no checksums.
//!
//! The map is valid as long as nobody else truncates the file, which stands in a directory that this
//! program made; that is what its `unsafe` calls ask for.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use heed::types::Bytes;
use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, PutFlags, RoTxn, WithoutTls,
};
use pinstone::Digest;

use super::shelf::Shelf;
use super::{GROUP_BYTES, GROUP_VALUES};
use crate::engine::{Engine, Fallible, Settings, Sink};
use crate::feed::Feed;

/// Addresses set aside for the file.
const MAP_BYTES: usize = 64 << 30;

/// Values from this length on profit from reading ahead.
const READ_AHEAD_BYTES: usize = 64 << 10;

/// Read transactions at once.
const READERS_MAX: u32 = 256;

type Table = Database<'static, Bytes, Bytes>;

/// A read transaction, and which commit it was begun after.
struct Reader {
    transaction: RoTxn<'static, WithoutTls>,
    commit: u64,
}

struct Lmdb {
    readers: Shelf<Reader>,
    commit: AtomicU64,
    values: Table,
    names: Table,
    /// For the rest of the process, which opens one store.
    environment: &'static Env<WithoutTls>,
}

/// Opens a store.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Fallible<Box<dyn Engine>> {
    let environment: &'static Env<WithoutTls> = Box::leak(Box::new(environment(dir, settings)?));
    let read = environment.read_txn()?;
    let there = environment.open_databases_and_commit(read, |opener, read| -> heed::Result<_> {
        let [values, names] = [Some("values"), Some("names")];
        let pair = (opener.open_database(read, values)?, opener.open_database(read, names)?);
        Ok(CommitOrAbort::<_, ()>::Commit(pair))
    })?;
    let (values, names) = match there {
        CommitOrAbort::Commit((Some(values), Some(names))) => (values, names),
        _ => create(environment)?,
    };
    let (readers, commit) = (Shelf::new(), AtomicU64::new(0));
    Ok(Box::new(Lmdb { readers, commit, values, names, environment }))
}

#[expect(unsafe_code, reason = "heed's callers answer for the mapped file")]
fn environment(dir: &Path, settings: &Settings) -> Fallible<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_BYTES).max_dbs(2).max_readers(READERS_MAX);
    let mut flags = EnvFlags::NO_MEM_INIT;
    flags.set(EnvFlags::NO_READ_AHEAD, settings.value_bytes < READ_AHEAD_BYTES);
    flags.set(EnvFlags::NO_SYNC, settings.bulk);
    // SAFETY: none of the flags lets others than this process write to the map. What they risk is
    // durability before the sync at the end, which is a load's bargain (E2).
    unsafe { options.flags(flags) };
    // SAFETY: the file stands in a directory of this program's own, and nobody truncates it.
    Ok(unsafe { options.open(dir) }?)
}

fn create(environment: &'static Env<WithoutTls>) -> Fallible<(Table, Table)> {
    let write = environment.write_txn()?;
    let made =
        environment.create_databases_and_commit(write, |opener, write| -> heed::Result<_> {
            let [values, names] = [Some("values"), Some("names")];
            let pair =
                (opener.create_database(write, values)?, opener.create_database(write, names)?);
            Ok(CommitOrAbort::<_, ()>::Commit(pair))
        })?;
    made.commit().ok_or_else(|| "it was committed".into())
}

impl Lmdb {
    /// Runs `act` in a read transaction that sees all commits that have returned.
    fn read<T>(&self, act: impl FnOnce(&RoTxn<'static, WithoutTls>) -> Fallible<T>) -> Fallible<T> {
        // Looked at before the transaction is begun: at worst it is held to be older than it is.
        let commit = self.commit.load(Ordering::Acquire);
        let kept = self.readers.take().filter(|reader| reader.commit == commit);
        let reader = match kept {
            Some(reader) => reader,
            None => Reader { transaction: self.environment.read_txn()?, commit },
        };
        let result = act(&reader.transaction);
        self.readers.put(reader);
        result
    }

    /// After a commit: older read transactions are not used again.
    fn committed(&self) {
        self.commit.fetch_add(1, Ordering::Release);
        self.readers.clear();
    }

    fn get_in(
        &self,
        read: &RoTxn<'_, WithoutTls>,
        digest: &Digest,
        sink: &mut Sink,
    ) -> Fallible<bool> {
        let value = self.values.get(read, digest.as_bytes())?;
        Ok(value.is_some_and(|value| {
            sink.take(value);
            true
        }))
    }
}

/// Whether it was new.
fn insert(
    table: &Table,
    write: &mut heed::RwTxn<'_>,
    digest: &Digest,
    value: &[u8],
) -> Fallible<bool> {
    match table.put_with_flags(write, PutFlags::NO_OVERWRITE, digest.as_bytes(), value) {
        Ok(()) => Ok(true),
        Err(heed::Error::Mdb(MdbError::KeyExist)) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

impl Engine for Lmdb {
    fn load(&self, values: &mut Feed) -> Fallible<u64> {
        let mut new_count = 0;
        loop {
            let mut write = self.environment.write_txn()?;
            let (mut seen, mut new, mut bytes) = (0, 0, 0);
            while let Some(value) =
                (seen < GROUP_VALUES && bytes < GROUP_BYTES).then(|| values.next()).flatten()
            {
                seen += 1;
                if insert(&self.values, &mut write, &Digest::of(value), value)? {
                    new += 1;
                    bytes += value.len();
                }
            }
            if new == 0 {
                write.abort();
            } else {
                write.commit()?;
            }
            new_count += new;
            if seen == 0 {
                self.committed();
                return Ok(new_count);
            }
        }
    }

    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
        self.read(|read| self.get_in(read, digest, sink))
    }

    fn get_many(&self, digests: &[Digest], sink: &mut Sink) -> Fallible<usize> {
        self.read(|read| {
            let mut found = 0;
            for digest in digests {
                found += usize::from(self.get_in(read, digest, sink)?);
            }
            Ok(found)
        })
    }

    fn contains(&self, digest: &Digest) -> Fallible<bool> {
        self.read(|read| Ok(self.values.get(read, digest.as_bytes())?.is_some()))
    }

    fn contains_many(&self, digests: &[Digest]) -> Fallible<usize> {
        self.read(|read| {
            let mut found = 0;
            for digest in digests {
                found += usize::from(self.values.get(read, digest.as_bytes())?.is_some());
            }
            Ok(found)
        })
    }

    fn commit(&self, value: &[u8], name: &str) -> Fallible<()> {
        let digest = Digest::of(value);
        let mut write = self.environment.write_txn()?;
        insert(&self.values, &mut write, &digest, value)?;
        self.names.put(&mut write, name.as_bytes(), digest.as_bytes())?;
        write.commit()?;
        self.committed();
        Ok(())
    }

    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()> {
        for group in names.chunks(GROUP_VALUES) {
            let mut write = self.environment.write_txn()?;
            for name in group {
                self.names.put(&mut write, name.as_bytes(), digest.as_bytes())?;
            }
            write.commit()?;
        }
        self.committed();
        self.sync()
    }

    fn pointer(&self, name: &str) -> Fallible<Option<Digest>> {
        self.read(|read| {
            let bytes = self.names.get(read, name.as_bytes())?;
            Ok(bytes.map(<[u8; 32]>::try_from).transpose()?.map(Digest::from_bytes))
        })
    }

    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool> {
        let mut write = self.environment.write_txn()?;
        if self.names.get(&write, name.as_bytes())? != Some(&old.as_bytes()[..]) {
            return Ok(false);
        }
        self.names.put(&mut write, name.as_bytes(), new.as_bytes())?;
        write.commit()?;
        self.committed();
        Ok(true)
    }

    fn scan(&self, prefix: &str) -> Fallible<u64> {
        self.read(|read| {
            let mut count = 0;
            for pointer in self.names.prefix_iter(read, prefix.as_bytes())? {
                std::hint::black_box(pointer?);
                count += 1;
            }
            Ok(count)
        })
    }

    fn sync(&self) -> Fallible<()> {
        Ok(self.environment.force_sync()?)
    }

    fn close(self: Box<Self>) -> Fallible<()> {
        self.readers.clear();
        self.sync()
    }
}
