//! What is known of a table without opening it.

pub mod builder;
pub mod container;
pub mod filter;
pub mod filter_set;
pub mod footer;
pub mod index;
pub mod name_block;
pub(crate) mod name_directory;
pub mod name_find;
pub(crate) mod name_walk;
pub mod names;
pub mod probes;
pub mod shared;

use std::ops::RangeInclusive;

use bytes::Bytes;
use pinstone_disk::codec::{Malformed, Reader, put_varint};
use pinstone_disk::{Epoch, FileHeader, FileKind, FileName, Ordinal, StoreId, TableKind};

/// Bytes read at once by who reads all entries of a table.
pub const SCAN_BYTES: u64 = 256 << 10;

/// A table: its tree, its ordinal among that tree's tables, the epoch of its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// The tree it belongs to.
    pub table: TableKind,
    /// Its number; never reused.
    pub ordinal: Ordinal,
    /// The epoch of the writer that created it.
    pub epoch: Epoch,
}

impl TableId {
    /// Its file's name.
    pub fn file_name(&self) -> FileName {
        FileName::Table { table: self.table, ordinal: self.ordinal, epoch: self.epoch }
    }

    /// Its file's header.
    pub fn header(&self, store_id: StoreId) -> FileHeader {
        let kind = FileKind::Table(self.table);
        FileHeader { store_id, kind, ordinal: self.ordinal, epoch: self.epoch }
    }
}

/// What the root says of a table: enough to plan, and to know the file when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMeta {
    /// Which table.
    pub id: TableId,
    /// Its first key.
    pub first: Bytes,
    /// Its last key; not below `first`. No table is empty.
    pub last: Bytes,
    /// Entries in it.
    pub entry_count: u64,
    /// Of these the *spare* ones: all but the newest versions of the names that stand by them. They go if the
    /// table is rewritten where nothing is below it, and nobody sees what is older than it. 0 in the index.
    pub spare_count: u64,
    /// The greatest number of a commit in it; 0 in the index.
    pub last_commit: u64,
    /// Its file's length.
    pub file_bytes: u64,
    /// The footer's hash, as in the file's trailer.
    pub footer_hash: [u8; 32],
}

/// Of so many entries one goes at least, or it is not worth the rewriting.
pub(crate) const READ_FOR_ONE_MAX: u64 = 8;

impl TableMeta {
    /// So many of its entries are spare that it is worth a rewriting; if `is_full`, any are.
    pub(crate) fn has_spare(&self, is_full: bool) -> bool {
        let read_count = self.spare_count.saturating_mul(READ_FOR_ONE_MAX);
        self.spare_count > 0 && (is_full || read_count >= self.entry_count)
    }

    /// The table's keys overlap the closed interval from `first` to `last`.
    pub fn overlaps(&self, first: &[u8], last: &[u8]) -> bool {
        self.first[..] <= *last && *first <= self.last[..]
    }
}

/// Bytes that a key of this tree has.
pub fn key_bytes(tree: TableKind) -> RangeInclusive<usize> {
    match tree {
        TableKind::Index => index::IndexKey::BYTES..=index::IndexKey::BYTES,
        TableKind::Names => 1..=name_block::NAME_BYTES_MAX,
    }
}

/// The least key that there may be in this tree.
pub(crate) fn least_key(tree: TableKind) -> Bytes {
    const ZEROS: &[u8] = &[0; index::IndexKey::BYTES];
    Bytes::from_static(&ZEROS[..*key_bytes(tree).start()])
}

/// Appends a key of this tree, and its length before it.
///
/// # Panics
/// If no key of the tree is as long.
pub(crate) fn put_key(tree: TableKind, out: &mut Vec<u8>, key: &[u8]) {
    assert!(key_bytes(tree).contains(&key.len()), "{key:?} is no key of the {} tree", tree.word());
    put_varint(out, key.len() as u64);
    out.extend_from_slice(key);
}

/// Reads what [`put_key`] writes.
pub(crate) fn key(tree: TableKind, reader: &mut Reader<'_>) -> Result<Bytes, Malformed> {
    let malformed = reader.malformed(match tree {
        TableKind::Index => "a key of 7 bytes",
        TableKind::Names => "a name of 1 to 1,024 bytes",
    });
    let len_bytes = reader.varint_usize("a key's length")?;
    if !key_bytes(tree).contains(&len_bytes) {
        return Err(malformed);
    }
    Ok(Bytes::copy_from_slice(reader.take(len_bytes, "a key")?))
}
