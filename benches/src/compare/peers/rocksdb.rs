//! RocksDB with BlobDB: an LSM tree of digests, values in blob files.
//!
//! - Values in a column family with blob files from 512 bytes on, names in another, without. No
//!   compression of either; collection of blobs off, since values are never deleted.
//! - Bloom filters of ten bits a key, a hash index in data blocks (the keys are only looked up), and a
//!   cache of all the memory of the settings for blocks and blobs, with indexes and filters in it.
//!   Two memtables of 64 MiB, its default, come on top.
//! - As many background jobs as there are processors, and at least two.
//! - A load goes through batches of 1,000 values without the WAL, and ends with a flush of all memtables,
//!   which syncs what it has written: each value is written once.
//! - A commit is one batch over both families with a synced WAL (`WriteOptions::set_sync`); concurrent
//!   ones share their syncs, by RocksDB itself.
//! - Whether a value is known is a get, which asks the filters first, and of a value that is there reads
//!   the blob too, for it has no other exact look-up. Known values of 512 bytes and more so cost it more than
//!   they would have to.
//! - Many gets at once are one `multi_get`, which gathers the reads of a block. Its asynchronous reads
//!   need a build with folly, and are left out.
//! - Compare-and-set holds a lock of this process: cheaper than its transactional kinds of database.
//! - It checks the checksums of blocks and blobs that it reads from files, not those in its cache.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use pinstone::Digest;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DataBlockIndexType, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::{GROUP_BYTES, GROUP_VALUES, after_prefix};
use crate::engine::{Engine, Fallible, Settings, Sink};
use crate::feed::Feed;

/// Values from this length on are kept apart from their keys.
const SEPARATED_BYTES: u64 = 512;

/// Bits of a filter for each key.
const FILTER_BITS: f64 = 10.0;

const VALUES: &str = "values";
const NAMES: &str = "names";

struct RocksDb {
    database: DB,
    bulk: bool,
    one_at_a_time: Mutex<()>,
}

/// Opens a store.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Fallible<Box<dyn Engine>> {
    let cache = Cache::new_lru_cache(settings.memory_bytes);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let processors = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    options.increase_parallelism(i32::try_from(processors)?);

    let mut values = family(&cache);
    values.set_enable_blob_files(true);
    values.set_min_blob_size(SEPARATED_BYTES);
    values.set_blob_compression_type(DBCompressionType::None);
    values.set_blob_cache(&cache);
    let families = [
        ColumnFamilyDescriptor::new(VALUES, values),
        ColumnFamilyDescriptor::new(NAMES, family(&cache)),
    ];
    let database = DB::open_cf_descriptors(&options, dir, families)?;
    Ok(Box::new(RocksDb { database, bulk: settings.bulk, one_at_a_time: Mutex::new(()) }))
}

/// What both families are told.
fn family(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(FILTER_BITS, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    let mut family = Options::default();
    family.set_block_based_table_factory(&blocks);
    family.set_compression_type(DBCompressionType::None);
    family
}

impl RocksDb {
    fn family(&self, name: &str) -> Fallible<&ColumnFamily> {
        self.database.cf_handle(name).ok_or_else(|| "both families were made at opening".into())
    }

    fn is_known(&self, values: &ColumnFamily, digest: &Digest) -> Fallible<bool> {
        Ok(self.database.get_pinned_cf(values, digest.as_bytes())?.is_some())
    }

    fn write(&self, batch: WriteBatch, how: &WriteOptions) -> Fallible<()> {
        Ok(self.database.write_opt(batch, how)?)
    }
}

/// Durable on return.
fn synced() -> WriteOptions {
    let mut how = WriteOptions::default();
    how.set_sync(true);
    how
}

impl Engine for RocksDb {
    fn load(&self, values: &mut Feed) -> Fallible<u64> {
        let family = self.family(VALUES)?;
        let mut how = WriteOptions::default();
        how.disable_wal(self.bulk);
        let mut new_count = 0;
        loop {
            let mut batch = WriteBatch::default();
            let (mut seen, mut bytes) = (0, 0);
            while let Some(value) =
                (seen < GROUP_VALUES && bytes < GROUP_BYTES).then(|| values.next()).flatten()
            {
                seen += 1;
                let digest = Digest::of(value);
                if !self.is_known(family, &digest)? {
                    batch.put_cf(family, digest.as_bytes(), value);
                    new_count += 1;
                    bytes += value.len();
                }
            }
            self.write(batch, &how)?;
            if seen == 0 {
                return Ok(new_count);
            }
        }
    }

    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
        let value = self.database.get_pinned_cf(self.family(VALUES)?, digest.as_bytes())?;
        Ok(value.is_some_and(|value| {
            sink.take(&value);
            true
        }))
    }

    fn get_many(&self, digests: &[Digest], sink: &mut Sink) -> Fallible<usize> {
        let family = self.family(VALUES)?;
        let mut sorted: Vec<&[u8; 32]> = digests.iter().map(Digest::as_bytes).collect();
        sorted.sort_unstable();
        let mut found = 0;
        for value in self.database.batched_multi_get_cf(family, sorted, true) {
            if let Some(value) = value? {
                sink.take(&value);
                found += 1;
            }
        }
        Ok(found)
    }

    fn contains(&self, digest: &Digest) -> Fallible<bool> {
        self.is_known(self.family(VALUES)?, digest)
    }

    fn commit(&self, value: &[u8], name: &str) -> Fallible<()> {
        let digest = Digest::of(value);
        let values = self.family(VALUES)?;
        let mut batch = WriteBatch::default();
        if !self.is_known(values, &digest)? {
            batch.put_cf(values, digest.as_bytes(), value);
        }
        batch.put_cf(self.family(NAMES)?, name, digest.as_bytes());
        self.write(batch, &synced())
    }

    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()> {
        let family = self.family(NAMES)?;
        for group in names.chunks(GROUP_VALUES) {
            let mut batch = WriteBatch::default();
            for name in group {
                batch.put_cf(family, name, digest.as_bytes());
            }
            self.write(batch, &WriteOptions::default())?;
        }
        Ok(self.database.flush_wal(true)?)
    }

    fn pointer(&self, name: &str) -> Fallible<Option<Digest>> {
        let bytes = self.database.get_pinned_cf(self.family(NAMES)?, name)?;
        Ok(bytes.map(|bytes| <[u8; 32]>::try_from(&bytes[..])).transpose()?.map(Digest::from_bytes))
    }

    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool> {
        let _alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pointer(name)? != Some(*old) {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(NAMES)?, name, new.as_bytes());
        self.write(batch, &synced())?;
        Ok(true)
    }

    fn scan(&self, prefix: &str) -> Fallible<u64> {
        let mut how = ReadOptions::default();
        how.set_iterate_lower_bound(prefix.as_bytes());
        how.set_iterate_upper_bound(after_prefix(prefix));
        let family = self.family(NAMES)?;
        // The raw one hands out names and digests where they lie, and copies nothing.
        let mut pointers = self.database.raw_iterator_cf_opt(family, how);
        let mut count = 0;
        pointers.seek_to_first();
        while let Some(pointer) = pointers.item() {
            std::hint::black_box(pointer);
            count += 1;
            pointers.next();
        }
        pointers.status()?;
        Ok(count)
    }

    fn sync(&self) -> Fallible<()> {
        self.database.flush_cf(self.family(VALUES)?)?;
        Ok(self.database.flush_cf(self.family(NAMES)?)?)
    }

    fn close(self: Box<Self>) -> Fallible<()> {
        self.sync()?;
        self.database.cancel_all_background_work(true);
        Ok(())
    }
}
