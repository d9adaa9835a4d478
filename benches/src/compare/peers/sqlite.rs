//! SQLite, by `rusqlite` with SQLite's own sources: one file and a write-ahead log.
//!
//! - `blobs (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, value BLOB NOT NULL)`: values are
//!   appended in the order they come, and only the index of digests is written at random. (A table
//!   `WITHOUT ROWID` would sort the values themselves, which SQLite advises against for long rows.)
//!   `names (name BLOB PRIMARY KEY, digest BLOB) WITHOUT ROWID`: short rows, in order of their names.
//! - WAL mode; `synchronous=FULL`: a commit syncs the log before it returns. While loading, `NORMAL`,
//!   which syncs at checkpoints only, and a full checkpoint at the end; transactions of 1,000 values.
//!   A checkpoint is due after 64 MiB of log, not after 4 MiB as by default: pages of the index are
//!   written again and again, and fewer checkpoints write each of them less often.
//! - Pages of 4 KiB for values under 4 KiB, else of 16 KiB, as SQLite's own measurements for blobs say.
//! - The file is mapped for reading (`mmap_size` 2 GiB, the most that it takes), so that a get copies
//!   a value once. The writer's cache has half the memory of the settings, each reader's 16 MiB: pages
//!   that are mapped do not go through it.
//! - One connection writes, under a lock; readers have connections of their own, used again, with
//!   statements prepared once. Many gets at once are one read transaction. It has no group commit.
//! - It checks nothing of the values that it reads: it has no checksums, unless an extension is loaded.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pinstone::Digest;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::shelf::Shelf;
use super::{GROUP_BYTES, GROUP_VALUES, after_prefix};
use crate::engine::{Engine, Fallible, Settings, Sink};
use crate::feed::Feed;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS blobs
        (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, value BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS names (name BLOB PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;
";
const GET: &str = "SELECT value FROM blobs WHERE digest = ?1";
const CONTAINS: &str = "SELECT 1 FROM blobs WHERE digest = ?1";
const INSERT: &str = "INSERT INTO blobs (digest, value) VALUES (?1, ?2)";
const SET: &str = "INSERT INTO names (name, digest) VALUES (?1, ?2)
    ON CONFLICT (name) DO UPDATE SET digest = excluded.digest";
const SET_IF: &str = "UPDATE names SET digest = ?3 WHERE name = ?1 AND digest = ?2";
const POINTER: &str = "SELECT digest FROM names WHERE name = ?1";
const SCAN: &str = "SELECT name, digest FROM names WHERE name >= ?1 AND name < ?2 ORDER BY name";

/// Bytes of log after which it is moved into the file.
const CHECKPOINT_BYTES: usize = 64 << 20;

/// Bytes of the cache of a connection that reads.
const READER_CACHE_BYTES: usize = 16 << 20;

struct Sqlite {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Shelf<Connection>,
}

/// Opens a store.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Fallible<Box<dyn Engine>> {
    let path = dir.join("store.sqlite");
    let writer = Connection::open(&path)?;
    let page_bytes: usize = if settings.value_bytes < 4 << 10 { 4 << 10 } else { 16 << 10 };
    writer.pragma_update(None, "page_size", i64::try_from(page_bytes)?)?;
    writer.pragma_update(None, "journal_mode", "WAL")?;
    let pages = i64::try_from(CHECKPOINT_BYTES / page_bytes)?;
    writer.pragma_update(None, "wal_autocheckpoint", pages)?;
    writer.pragma_update(None, "synchronous", if settings.bulk { "NORMAL" } else { "FULL" })?;
    prepare(&writer, settings.memory_bytes / 2)?;
    writer.execute_batch(SCHEMA)?;
    Ok(Box::new(Sqlite { path, writer: Mutex::new(writer), readers: Shelf::new() }))
}

/// What every connection is told.
fn prepare(connection: &Connection, cache_bytes: usize) -> Fallible<()> {
    let kib = i64::try_from(cache_bytes >> 10)?;
    // Negative: in KiB, not in pages.
    connection.pragma_update(None, "cache_size", -kib)?;
    connection.pragma_update(None, "mmap_size", 2_i64 << 30)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(16);
    Ok(())
}

impl Sqlite {
    fn read<T>(&self, act: impl FnOnce(&Connection) -> Fallible<T>) -> Fallible<T> {
        let reader = match self.readers.take() {
            Some(reader) => reader,
            None => {
                let reader = Connection::open(&self.path)?;
                prepare(&reader, READER_CACHE_BYTES)?;
                reader
            }
        };
        let result = act(&reader);
        self.readers.put(reader);
        result
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn get_in(reader: &Connection, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
    let mut statement = reader.prepare_cached(GET)?;
    let mut rows = statement.query([&digest.as_bytes()[..]])?;
    let Some(row) = rows.next()? else { return Ok(false) };
    // As SQLite has it: copied by SQLite if it lies on many pages, and not once more.
    match row.get_ref(0)? {
        ValueRef::Blob(value) => sink.take(value),
        _ => return Err("a value is a blob".into()),
    }
    Ok(true)
}

fn contains_in(connection: &Connection, digest: &Digest) -> Fallible<bool> {
    Ok(connection.prepare_cached(CONTAINS)?.exists([&digest.as_bytes()[..]])?)
}

/// Whether it was new.
fn insert(connection: &Connection, digest: &Digest, value: &[u8]) -> Fallible<bool> {
    // Asked first: an insertion would copy the value before it found the digest.
    if contains_in(connection, digest)? {
        return Ok(false);
    }
    connection.prepare_cached(INSERT)?.execute((&digest.as_bytes()[..], value))?;
    Ok(true)
}

fn set(connection: &Connection, name: &str, digest: &Digest) -> Fallible<()> {
    connection.prepare_cached(SET)?.execute((name.as_bytes(), &digest.as_bytes()[..]))?;
    Ok(())
}

impl Engine for Sqlite {
    fn load(&self, values: &mut Feed) -> Fallible<u64> {
        let mut writer = self.writer();
        let mut new_count = 0;
        loop {
            let write = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let (mut seen, mut bytes) = (0, 0);
            while let Some(value) =
                (seen < GROUP_VALUES && bytes < GROUP_BYTES).then(|| values.next()).flatten()
            {
                seen += 1;
                if insert(&write, &Digest::of(value), value)? {
                    new_count += 1;
                    bytes += value.len();
                }
            }
            write.commit()?;
            if seen == 0 {
                return Ok(new_count);
            }
        }
    }

    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
        self.read(|reader| get_in(reader, digest, sink))
    }

    fn get_many(&self, digests: &[Digest], sink: &mut Sink) -> Fallible<usize> {
        self.read(|reader| {
            let read = reader.unchecked_transaction()?;
            let mut found = 0;
            for digest in digests {
                found += usize::from(get_in(&read, digest, sink)?);
            }
            read.commit()?;
            Ok(found)
        })
    }

    fn contains(&self, digest: &Digest) -> Fallible<bool> {
        self.read(|reader| contains_in(reader, digest))
    }

    fn contains_many(&self, digests: &[Digest]) -> Fallible<usize> {
        self.read(|reader| {
            let read = reader.unchecked_transaction()?;
            let mut found = 0;
            for digest in digests {
                found += usize::from(contains_in(&read, digest)?);
            }
            read.commit()?;
            Ok(found)
        })
    }

    fn commit(&self, value: &[u8], name: &str) -> Fallible<()> {
        let digest = Digest::of(value);
        let mut writer = self.writer();
        let write = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert(&write, &digest, value)?;
        set(&write, name, &digest)?;
        Ok(write.commit()?)
    }

    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()> {
        let mut writer = self.writer();
        for group in names.chunks(GROUP_VALUES) {
            let write = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for name in group {
                set(&write, name, digest)?;
            }
            write.commit()?;
        }
        Ok(())
    }

    fn pointer(&self, name: &str) -> Fallible<Option<Digest>> {
        self.read(|reader| {
            let mut statement = reader.prepare_cached(POINTER)?;
            let bytes: Option<[u8; 32]> =
                statement.query_row([name.as_bytes()], |row| row.get(0)).optional()?;
            Ok(bytes.map(Digest::from_bytes))
        })
    }

    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool> {
        let writer = self.writer();
        // A statement by itself is a transaction.
        let mut statement = writer.prepare_cached(SET_IF)?;
        let (old, new) = (&old.as_bytes()[..], &new.as_bytes()[..]);
        Ok(statement.execute((name.as_bytes(), old, new))? == 1)
    }

    fn scan(&self, prefix: &str) -> Fallible<u64> {
        self.read(|reader| {
            let mut statement = reader.prepare_cached(SCAN)?;
            let mut rows = statement.query((prefix.as_bytes(), after_prefix(prefix)))?;
            let mut count = 0;
            while let Some(row) = rows.next()? {
                std::hint::black_box((row.get_ref(0)?, row.get_ref(1)?));
                count += 1;
            }
            Ok(count)
        })
    }

    /// Moves all of the log into the file, which syncs both.
    fn sync(&self) -> Fallible<()> {
        let writer = self.writer();
        let busy: i64 =
            writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy == 0 { Ok(()) } else { Err("a reader held up the checkpoint".into()) }
    }

    fn close(self: Box<Self>) -> Fallible<()> {
        self.readers.clear();
        let writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        writer.close().map_err(|(_, error)| error.into())
    }
}
