//! What a table's footer says, and its bytes, whatever the table's entries. Its layout is in
//! `docs/format.md`.
//!
//! 1. The footer names the sections, the first and last key, and the tables that this one stands for
//!    instead, each with the keys that it replaces of it.
//! 2. What the header says of whose file it is the footer repeats.
//!
//! - T2: the footer holds a hash of all units' checksums, and one of those of the directory and of
//!   the filters, so that none can be exchanged for another that is valid. They are two, so that the
//!   units can be told to be right whatever became of what is derived from them.

use bytes::Bytes;
use pinstone_disk::codec::{Malformed, Reader, put_varint};
use pinstone_disk::{Epoch, FileHeader, Ordinal, REPEATED, TableKind};

use crate::table::name_block::NAME_BYTES_MAX;
use crate::table::{key, put_key};

pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"PINSFOOT";

/// Bytes of the longest footer: two keys of a kilobyte for each table that this one replaces.
pub(crate) const FOOTER_BYTES_MAX: u32 = 64 << 20;

/// Most bytes of a key, its length before it, and of a replaced table.
const KEY_BYTES_MAX: usize = 2 + NAME_BYTES_MAX;
const REPLACED_BYTES_MAX: usize = 4 + 4 + 2 * KEY_BYTES_MAX;

/// Tables that a footer can name at most, however long their keys are. Those who write tables keep to
/// it: [`run`](crate::run) says how.
pub const REPLACED_TABLES_MAX: usize = 32_000;
const _: () = assert!(
    FIRST_KEY_OFFSET + 2 * KEY_BYTES_MAX + 10 + REPLACED_TABLES_MAX * REPLACED_BYTES_MAX
        <= FOOTER_BYTES_MAX as usize
);

/// Where a footer's keys begin.
const FIRST_KEY_OFFSET: usize = 184;

/// Fewest bytes of a replaced table: two numbers, a key of one byte, no other key.
const REPLACED_BYTES_MIN: usize = 4 + 4 + 2 + 1;

/// The length that stands for no key.
const NO_KEY: u8 = 0;

/// Where a footer has the least and the greatest number of a commit.
const COMMITS_OFFSET: usize = 96;

/// Where it has the number of spare entries.
const SPARE_COUNT_OFFSET: usize = 112;

/// A table for which another one stands instead, and the keys of it that the other one replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its ordinal, in the same tree.
    pub ordinal: Ordinal,
    /// Its writer's epoch.
    pub epoch: Epoch,
    /// The first key that is replaced.
    pub first: Bytes,
    /// The first key that is not; none if all from `first` on are.
    pub until: Option<Bytes>,
}

/// What a table's footer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Entries.
    pub entry_count: u64,
    /// Pages or blocks.
    pub unit_count: u64,
    /// Where the units end and the directory begins.
    pub units_end: u64,
    /// Where the directory ends and the filters begin.
    pub directory_end: u64,
    /// Where the filters end and the footer begins.
    pub filters_end: u64,
    /// The seed under which keys are hashed for the filters; 0 if there are none.
    pub filter_seed: u64,
    /// The lowest and the highest number of a commit in it; 0 where entries have none.
    pub commits: (u64, u64),
    /// Spare entries, no more than there are entries; see [`TableMeta`](super::TableMeta). 0 in the index.
    pub spare_count: u64,
    /// BLAKE3 of all units' checksums, in order.
    pub units_hash: [u8; 32],
    /// BLAKE3 of the directory's checksum and of all filters', in order.
    pub derived_hash: [u8; 32],
    /// The first key.
    pub first: Bytes,
    /// The last key.
    pub last: Bytes,
    /// The tables that this one was made from, and those that these replaced, unless their files were
    /// durably gone by then.
    pub replaced: Vec<Replaced>,
}

impl Footer {
    /// Bytes of all filters.
    pub(crate) fn filters_bytes(&self) -> u64 {
        self.filters_end - self.directory_end
    }

    /// The footer's bytes, of a table of this tree with this header.
    ///
    /// # Panics
    /// If a key is none of the tree.
    pub(crate) fn encode(&self, tree: TableKind, header: &FileHeader) -> Vec<u8> {
        let mut bytes = FOOTER_MAGIC.to_vec();
        // Version, kinds, feature bits, store, ordinal and epoch stand as in the header.
        bytes.extend_from_slice(&header.encode()[REPEATED]);
        let numbers = [
            self.entry_count,
            self.unit_count,
            self.units_end,
            self.directory_end,
            self.filters_end,
            self.filter_seed,
            self.commits.0,
            self.commits.1,
            self.spare_count,
        ];
        for number in numbers {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.units_hash);
        bytes.extend_from_slice(&self.derived_hash);
        assert_eq!(bytes.len(), FIRST_KEY_OFFSET);
        put_key(tree, &mut bytes, &self.first);
        put_key(tree, &mut bytes, &self.last);
        put_varint(&mut bytes, self.replaced.len() as u64);
        for replaced in &self.replaced {
            bytes.extend_from_slice(&replaced.ordinal.0.to_le_bytes());
            bytes.extend_from_slice(&replaced.epoch.0.to_le_bytes());
            put_key(tree, &mut bytes, &replaced.first);
            match &replaced.until {
                Some(until) => put_key(tree, &mut bytes, until),
                // No key is empty, so that this says that there is none.
                None => bytes.push(NO_KEY),
            }
        }
        bytes
    }

    /// Decodes a footer of a table of this tree, but for the header's copy, which its file's header judges
    /// ([`FileHeader::check_copy`]).
    pub(crate) fn decode(tree: TableKind, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let magic = reader.take(8, "a footer's magic")?;
        if magic != FOOTER_MAGIC {
            return Err(Malformed { offset: 0, what: "a footer's magic" });
        }
        reader.take(REPEATED.len(), "a header's copy")?;
        let mut number = || reader.u64("a number");
        let (entry_count, unit_count) = (number()?, number()?);
        let (units_end, directory_end, filters_end) = (number()?, number()?, number()?);
        let filter_seed = number()?;
        let commits = (number()?, number()?);
        if tree == TableKind::Index && commits != (0, 0) {
            return Err(Malformed { offset: COMMITS_OFFSET, what: "no commits in the index" });
        }
        let spare_count = reader.u64("a number")?;
        let (spare_max, what) = match tree {
            TableKind::Index => (0, "no spare entries in the index"),
            TableKind::Names => (entry_count, "no more spare entries than entries"),
        };
        if spare_count > spare_max {
            return Err(Malformed { offset: SPARE_COUNT_OFFSET, what });
        }
        let (units_hash, derived_hash) = (reader.array("a hash")?, reader.array("a hash")?);
        let (first, last) = (key(tree, &mut reader)?, key(tree, &mut reader)?);
        let count = reader.varint_usize("a count of tables")?;
        let mut replaced = Vec::with_capacity(count.min(reader.left() / REPLACED_BYTES_MIN));
        for _ in 0..count {
            let ordinal = Ordinal(reader.u32("an ordinal")?);
            let epoch = Epoch(reader.u32("an epoch")?);
            let first = key(tree, &mut reader)?;
            let until = match reader.clone().u8("a key's length")? {
                NO_KEY => reader.u8("no key").map(|_| None)?,
                _ => Some(key(tree, &mut reader)?),
            };
            replaced.push(Replaced { ordinal, epoch, first, until });
        }
        reader.end("the footer's end")?;
        Ok(Self {
            entry_count,
            unit_count,
            units_end,
            directory_end,
            filters_end,
            filter_seed,
            commits,
            spare_count,
            units_hash,
            derived_hash,
            first,
            last,
            replaced,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinstone_disk::{FileKind, StoreId};

    fn header(tree: TableKind) -> FileHeader {
        let kind = FileKind::Table(tree);
        let store_id = StoreId([7; 16]);
        FileHeader { store_id, kind, ordinal: Ordinal(3), epoch: Epoch(1) }
    }

    fn footer(first: &'static [u8], last: &'static [u8]) -> Footer {
        let of = |ordinal, until| Replaced {
            ordinal: Ordinal(ordinal),
            epoch: Epoch(1),
            first: first.into(),
            until,
        };
        Footer {
            entry_count: 1,
            unit_count: 1,
            units_end: 8192,
            directory_end: 8200,
            filters_end: 8200,
            filter_seed: 0,
            commits: (0, 0),
            spare_count: 0,
            units_hash: [1; 32],
            derived_hash: [2; 32],
            first: first.into(),
            last: last.into(),
            replaced: vec![of(1, Some(last.into())), of(2, None)],
        }
    }

    #[test]
    fn keys_of_footers_have_their_trees_length() {
        let cases = [
            (TableKind::Index, footer(b"key aaa", b"key bbb"), "a key of 7 bytes"),
            (TableKind::Names, footer(b"a", b"name"), "a name of 1 to 1,024 bytes"),
        ];
        for (tree, footer, what) in cases {
            let header = header(tree);
            let bytes = footer.encode(tree, &header);
            let decode = |bytes: &[u8]| Footer::decode(tree, bytes);
            assert_eq!(decode(&bytes), Ok(footer.clone()));
            let (first, last) = (footer.first.len(), footer.last.len());
            let last_at = 184 + 1 + first;
            let replaced_at = last_at + 1 + last + 1;
            let until_at = replaced_at + 8 + 1 + first;
            for at in [184, last_at, replaced_at + 8, until_at] {
                // 0 is no key where there may be none: then what follows is no table's.
                let lens: &[&[u8]] =
                    if at == until_at { &[&[0x81, 8]] } else { &[&[0], &[0x81, 8]] };
                for len in lens {
                    let mut lying = bytes.clone();
                    lying[at..at + len.len()].copy_from_slice(len);
                    assert_eq!(decode(&lying), Err(Malformed { offset: at, what }), "{tree:?}");
                }
            }
            let (spare_max, what) = match tree {
                TableKind::Index => (0, "no spare entries in the index"),
                TableKind::Names => (1, "no more spare entries than entries"),
            };
            for spare_count in 0..3u8 {
                let mut lying = bytes.clone();
                lying[112] = spare_count;
                let refused = Err(Malformed { offset: 112, what });
                let wanted = if spare_count > spare_max { refused } else { Ok(spare_count.into()) };
                assert_eq!(decode(&lying).map(|footer| footer.spare_count), wanted, "{tree:?}");
            }
            let places = (0..bytes.len()).filter(|at| !REPEATED.contains(at));
            for (at, byte) in places.flat_map(|at| [(at, 0), (at, 0x7f), (at, 0xff)]) {
                let mut lying = bytes.clone();
                lying[at] = byte;
                if let Ok(other) = decode(&lying) {
                    assert_eq!(other.encode(tree, &header), lying);
                }
                assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }
}
