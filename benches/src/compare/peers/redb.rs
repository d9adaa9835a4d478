//! redb: a copy-on-write B-tree in one file, read through a cache of its own.
//!
//! - Values and names in two tables, keys of 32 bytes in the first. No compression: it has none.
//! - Its cache has all the memory of the settings (its default is 1 GiB); the system caches the file
//!   as well.
//! - A load goes through write transactions of 1,000 values without durability
//!   (`Durability::None`), and ends with a commit that is durable (`Durability::Immediate`).
//! - A commit is one durable write transaction over both tables: one phase, one sync, its default. Write
//!   transactions take turns: it has no group commit.
//! - Reads go through tables that a read transaction has opened, which is kept until the next commit:
//!   beginning one and opening a table costs about as much as a look-up.
//! - It checks nothing when it reads: its checksums of pages are for repair.

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use pinstone::Digest;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::{GROUP_BYTES, GROUP_VALUES, after_prefix};
use crate::engine::{Engine, Fallible, Settings, Sink};
use crate::feed::Feed;

type Key = &'static [u8; 32];
type Bytes = &'static [u8];

const VALUES: TableDefinition<'static, Key, Bytes> = TableDefinition::new("values");
const NAMES: TableDefinition<'static, Bytes, Key> = TableDefinition::new("names");

/// What the last commit has left, for readers.
struct Tables {
    values: ReadOnlyTable<Key, Bytes>,
    names: ReadOnlyTable<Bytes, Key>,
}

struct Redb {
    database: Database,
    tables: RwLock<Arc<Tables>>,
}

/// Opens a store.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Fallible<Box<dyn Engine>> {
    let path = dir.join("store.redb");
    let fresh = !path.exists();
    let database = Database::builder().set_cache_size(settings.memory_bytes).create(path)?;
    if fresh {
        let write = database.begin_write()?;
        write.open_table(VALUES)?;
        write.open_table(NAMES)?;
        write.commit()?;
    }
    let tables = RwLock::new(Arc::new(tables(&database)?));
    Ok(Box::new(Redb { database, tables }))
}

fn tables(database: &Database) -> Fallible<Tables> {
    let read = database.begin_read()?;
    Ok(Tables { values: read.open_table(VALUES)?, names: read.open_table(NAMES)? })
}

impl Redb {
    fn current(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// After a commit: what it has left is what readers see.
    fn renew(&self) -> Fallible<()> {
        // Begun under the lock: so the last one kept is the newest.
        let mut kept = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        *kept = Arc::new(tables(&self.database)?);
        Ok(())
    }
}

impl Engine for Redb {
    fn load(&self, values: &mut Feed) -> Fallible<u64> {
        let mut new_count = 0;
        loop {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            let (mut seen, mut new, mut bytes) = (0, 0, 0);
            {
                let mut table = write.open_table(VALUES)?;
                while let Some(value) =
                    (seen < GROUP_VALUES && bytes < GROUP_BYTES).then(|| values.next()).flatten()
                {
                    seen += 1;
                    let digest = Digest::of(value);
                    if table.get(digest.as_bytes())?.is_none() {
                        table.insert(digest.as_bytes(), value)?;
                        new += 1;
                        bytes += value.len();
                    }
                }
            }
            if new == 0 {
                write.abort()?;
            } else {
                write.commit()?;
            }
            new_count += new;
            if seen == 0 {
                self.renew()?;
                return Ok(new_count);
            }
        }
    }

    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
        let value = self.current().values.get(digest.as_bytes())?;
        Ok(value.is_some_and(|value| {
            sink.take(value.value());
            true
        }))
    }

    fn get_many(&self, digests: &[Digest], sink: &mut Sink) -> Fallible<usize> {
        let (tables, mut found) = (self.current(), 0);
        for digest in digests {
            if let Some(value) = tables.values.get(digest.as_bytes())? {
                sink.take(value.value());
                found += 1;
            }
        }
        Ok(found)
    }

    fn contains(&self, digest: &Digest) -> Fallible<bool> {
        Ok(self.current().values.get(digest.as_bytes())?.is_some())
    }

    fn commit(&self, value: &[u8], name: &str) -> Fallible<()> {
        let digest = Digest::of(value);
        let write = self.database.begin_write()?;
        {
            let mut values = write.open_table(VALUES)?;
            if values.get(digest.as_bytes())?.is_none() {
                values.insert(digest.as_bytes(), value)?;
            }
            write.open_table(NAMES)?.insert(name.as_bytes(), digest.as_bytes())?;
        }
        write.commit()?;
        self.renew()
    }

    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()> {
        for group in names.chunks(GROUP_VALUES) {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::None)?;
            {
                let mut table = write.open_table(NAMES)?;
                for name in group {
                    table.insert(name.as_bytes(), digest.as_bytes())?;
                }
            }
            write.commit()?;
        }
        self.sync()?;
        self.renew()
    }

    fn pointer(&self, name: &str) -> Fallible<Option<Digest>> {
        let digest = self.current().names.get(name.as_bytes())?;
        Ok(digest.map(|digest| Digest::from_bytes(*digest.value())))
    }

    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool> {
        let write = self.database.begin_write()?;
        let same = {
            let mut table = write.open_table(NAMES)?;
            let same = table.get(name.as_bytes())?.is_some_and(|is| is.value() == old.as_bytes());
            if same {
                table.insert(name.as_bytes(), new.as_bytes())?;
            }
            same
        };
        if same {
            write.commit()?;
            self.renew()?;
        } else {
            write.abort()?;
        }
        Ok(same)
    }

    fn scan(&self, prefix: &str) -> Fallible<u64> {
        let (tables, end, mut count) = (self.current(), after_prefix(prefix), 0);
        let range = (Bound::Included(prefix.as_bytes()), Bound::Excluded(&end[..]));
        for pointer in tables.names.range::<&[u8]>(range)? {
            let (name, digest) = pointer?;
            std::hint::black_box((name.value(), digest.value()));
            count += 1;
        }
        Ok(count)
    }

    fn sync(&self) -> Fallible<()> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        Ok(write.commit()?)
    }

    fn close(self: Box<Self>) -> Fallible<()> {
        let Self { database, tables } = *self;
        drop(tables);
        drop(database);
        Ok(())
    }
}
