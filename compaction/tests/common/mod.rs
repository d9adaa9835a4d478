//! The tests' store: its tables, keys of its index, and damage of its files.
#![allow(dead_code, unreachable_pub, reason = "each test binary takes what it needs")]

use std::sync::Arc;

use pinstone_compaction::TableError;
use pinstone_compaction::table::index::IndexKey;
use pinstone_compaction::table::shared::Tables;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, FormatError, StoreId};

pub const STORE_ID: StoreId = StoreId([7; 16]);

/// What the tables on this disk share, as who opens the store anew has it.
pub fn tables(disk: &Arc<SimDisk>) -> Arc<Tables> {
    Tables::new(Arc::clone(disk) as Arc<dyn Disk>, STORE_ID, 8, 1 << 20)
}

/// The key of a number's digest.
pub fn key(number: u64) -> IndexKey {
    key_of_bits(number, 56)
}

/// The same, of which only some bits count.
pub fn key_of_bits(number: u64, bits: u32) -> IndexKey {
    IndexKey::of(Digest::of(&number.to_le_bytes()).as_bytes(), bits)
}

/// The error is damage of the file of this name. Returns 1, for who counts them.
pub fn names(error: &TableError, name: &str) -> usize {
    let TableError::Format(FormatError::Corrupt { file, .. }) = error else {
        panic!("{error} is no damage");
    };
    assert_eq!(file, name);
    1
}
