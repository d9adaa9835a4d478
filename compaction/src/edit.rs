//! Tables added to a tree and removed from it: what one edit of the root says of its levels.
//!
//! A table that moves to another level as it is, is removed and added. An edit is of one tree, which
//! it names once. It ends where its last field does: it says itself how long it is, and may stand
//! before others in one record. `docs/format.md` has the layout.
//!
//! - E1: what decodes, encodes to the same bytes: each number has one form, and order is kept.
//! - E2: decoding reserves no more than the bytes that are there can fill.
//! - E3: bytes cannot name a table of another tree than the edit's.
//!
//! Whether an edit fits a tree is said by [`Levels::apply`](crate::levels::Levels::apply).

use pinstone_disk::codec::{Malformed, Reader, put_varint, varint_bytes};
use pinstone_disk::{Epoch, Ordinal, TableKind};

use crate::levels::LEVELS_MAX;
use crate::table::{TableId, TableMeta, key, put_key};

/// One change of a tree's levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelEdit {
    /// The tree, and so that of every table below.
    pub tree: TableKind,
    /// Tables that come, with their levels. Those of level 0 come in this order.
    pub added: Vec<(u8, TableMeta)>,
    /// Tables that go.
    pub removed: Vec<TableId>,
}

/// Bytes of an id.
const ID_BYTES: usize = 8;

/// Fewest bytes of an added table: with two keys of one byte.
const ADDED_BYTES_MIN: usize = 1 + ID_BYTES + 4 * 8 + 32 + 2 + 2;

impl LevelEdit {
    /// An edit of this tree by which nothing comes and nothing goes.
    pub fn new(tree: TableKind) -> Self {
        Self { tree, added: Vec::new(), removed: Vec::new() }
    }

    /// Nothing comes and nothing goes.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Appends the edit's bytes to `out`.
    ///
    /// # Panics
    /// If the edit holds what no file may: a table of another tree, a level that does not exist, a
    /// table with no entries or more spare ones, or whose first key is above its last, a key that is none of the tree, an
    /// ordinal or epoch that is never given.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.tree as u8);
        put_varint(out, self.removed.len() as u64);
        for id in &self.removed {
            self.put_id(out, *id);
        }
        put_varint(out, self.added.len() as u64);
        for (level, table) in &self.added {
            assert!(*level < LEVELS_MAX, "there is no level {level}");
            assert!(table.entry_count > 0 && table.first <= table.last, "{table:?} is empty");
            assert!(table.spare_count <= table.entry_count, "{table:?} has too many spare entries");
            out.push(*level);
            self.put_id(out, table.id);
            let numbers =
                [table.entry_count, table.spare_count, table.last_commit, table.file_bytes];
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
            out.extend_from_slice(&table.footer_hash);
            put_key(self.tree, out, &table.first);
            put_key(self.tree, out, &table.last);
        }
    }

    /// Bytes that [`encode`](Self::encode) appends for an edit by which nothing goes, and so many tables come, which
    /// take `added_bytes`.
    pub(crate) fn encoded_bytes(added_count: u64, added_bytes: u64) -> u64 {
        (1 + varint_bytes(0) + varint_bytes(added_count)) as u64 + added_bytes
    }

    /// Bytes that a table takes in an edit by which it comes.
    pub(crate) fn added_bytes(table: &TableMeta) -> u64 {
        // Without the lengths of two keys, and a byte of each.
        let besides = ADDED_BYTES_MIN - 4;
        let key_bytes = |key: &[u8]| varint_bytes(key.len() as u64) + key.len();
        (besides + key_bytes(&table.first) + key_bytes(&table.last)) as u64
    }

    fn put_id(&self, out: &mut Vec<u8>, id: TableId) {
        assert!(is_given(id.ordinal.0) && is_given(id.epoch.0), "{id:?} is the id of no file");
        assert_eq!(id.table, self.tree, "E3: {id:?} is of another tree");
        out.extend_from_slice(&id.ordinal.0.to_le_bytes());
        out.extend_from_slice(&id.epoch.0.to_le_bytes());
    }

    /// Reads an edit, and leaves `reader` behind it.
    ///
    /// # Errors
    /// The bytes end, or are none that [`encode`](Self::encode) writes.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let unknown = reader.malformed("a known tree");
        let number = reader.u8("a tree")?;
        let tree = TableKind::ALL.into_iter().find(|kind| *kind as u8 == number).ok_or(unknown)?;
        let count = reader.varint_usize("a count of removed tables")?;
        let mut removed = Vec::with_capacity(count.min(reader.left() / ID_BYTES));
        for _ in 0..count {
            removed.push(id(tree, reader)?);
        }
        let count = reader.varint_usize("a count of added tables")?;
        let mut added = Vec::with_capacity(count.min(reader.left() / ADDED_BYTES_MIN));
        for _ in 0..count {
            added.push(added_table(tree, reader)?);
        }
        Ok(Self { tree, added, removed })
    }
}

fn id(tree: TableKind, reader: &mut Reader<'_>) -> Result<TableId, Malformed> {
    let ordinal = number(reader, "a table's ordinal")?;
    let epoch = number(reader, "a table's epoch")?;
    Ok(TableId { table: tree, ordinal: Ordinal(ordinal), epoch: Epoch(epoch) })
}

fn number(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, Malformed> {
    let malformed = reader.malformed(what);
    Some(reader.u32(what)?).filter(|number| is_given(*number)).ok_or(malformed)
}

/// Whether a file can have this ordinal or epoch: from 1, and another one can follow.
fn is_given(number: u32) -> bool {
    (1..u32::MAX).contains(&number)
}

fn added_table(tree: TableKind, reader: &mut Reader<'_>) -> Result<(u8, TableMeta), Malformed> {
    let malformed = reader.malformed("a level that exists");
    let level = reader.u8("a table's level")?;
    if level >= LEVELS_MAX {
        return Err(malformed);
    }
    let id = id(tree, reader)?;
    let malformed = reader.malformed("a table with entries");
    let entry_count = reader.u64("a table's count of entries")?;
    if entry_count == 0 {
        return Err(malformed);
    }
    let malformed = reader.malformed("no more spare entries than entries, and none in the index");
    let spare_count = reader.u64("a table's count of spare entries")?;
    if spare_count > if tree == TableKind::Names { entry_count } else { 0 } {
        return Err(malformed);
    }
    let malformed = reader.malformed("no commits in the index");
    let last_commit = reader.u64("a table's last commit")?;
    if tree == TableKind::Index && last_commit != 0 {
        return Err(malformed);
    }
    let file_bytes = reader.u64("a table's length")?;
    let footer_hash = reader.array("a footer's hash")?;
    let first = key(tree, reader)?;
    let malformed = reader.malformed("a last key that is not below the first");
    let last = key(tree, reader)?;
    if first > last {
        return Err(malformed);
    }
    let table = TableMeta {
        id,
        first,
        last,
        entry_count,
        spare_count,
        last_commit,
        file_bytes,
        footer_hash,
    };
    Ok((level, table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::key_bytes;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn bytes_of(edit: &LevelEdit) -> Vec<u8> {
        let mut out = Vec::new();
        edit.encode(&mut out);
        out
    }

    fn whole(bytes: &[u8]) -> Result<LevelEdit, Malformed> {
        let mut reader = Reader::new(bytes);
        let edit = LevelEdit::decode(&mut reader)?;
        reader.end("the end of the edit")?;
        Ok(edit)
    }

    fn an_id(table: TableKind) -> impl Strategy<Value = TableId> {
        (1..u32::MAX, 1..u32::MAX).prop_map(move |(ordinal, epoch)| TableId {
            table,
            ordinal: Ordinal(ordinal),
            epoch: Epoch(epoch),
        })
    }

    fn a_table(tree: TableKind) -> impl Strategy<Value = (u8, TableMeta)> {
        let lens = *key_bytes(tree).start()..=(*key_bytes(tree).end()).min(40);
        let key = || prop::collection::vec(any::<u8>(), lens.clone());
        let counts = (1..u64::MAX, any::<u64>(), any::<u64>(), any::<u64>());
        (0..LEVELS_MAX, an_id(tree), key(), key(), counts, any::<[u8; 32]>()).prop_map(
            move |(level, id, one, other, counts, footer_hash)| {
                let (first, last) = if one <= other { (one, other) } else { (other, one) };
                let (first, last) = (first.into(), last.into());
                let (entry_count, spare, commit, file_bytes) = counts;
                let (spare_count, last_commit) = match tree {
                    TableKind::Index => (0, 0),
                    TableKind::Names => (spare % (entry_count + 1), commit),
                };
                let table = TableMeta {
                    id,
                    first,
                    last,
                    entry_count,
                    spare_count,
                    last_commit,
                    file_bytes,
                    footer_hash,
                };
                (level, table)
            },
        )
    }

    fn an_edit() -> impl Strategy<Value = LevelEdit> {
        prop::sample::select(TableKind::ALL.to_vec()).prop_flat_map(|tree| {
            let added = prop::collection::vec(a_table(tree), 0..6);
            let removed = prop::collection::vec(an_id(tree), 0..6);
            (added, removed).prop_map(move |(added, removed)| LevelEdit { tree, added, removed })
        })
    }

    fn one_table() -> LevelEdit {
        let id = |ordinal| TableId {
            table: TableKind::Names,
            ordinal: Ordinal(ordinal),
            epoch: Epoch(3),
        };
        let table = TableMeta {
            id: id(7),
            first: Bytes::from_static(b"a"),
            last: Bytes::from_static(b"bc"),
            entry_count: 258,
            spare_count: 3,
            last_commit: 5,
            file_bytes: 4096,
            footer_hash: [0xee; 32],
        };
        LevelEdit { tree: TableKind::Names, added: vec![(2, table)], removed: vec![id(5)] }
    }

    #[test]
    fn the_bytes_are_those_that_are_laid_out() {
        let mut expected = vec![18, 1, 5, 0, 0, 0, 3, 0, 0, 0, 1, 2, 7, 0, 0, 0, 3, 0, 0, 0];
        expected.extend([2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([5, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
        expected.extend([0xee; 32]);
        expected.extend(*b"\x01a\x02bc");
        assert_eq!(bytes_of(&one_table()), expected);
        assert_eq!(bytes_of(&LevelEdit::new(TableKind::Index)), [17, 0, 0]);
    }

    #[test]
    fn what_no_table_can_be_is_malformed() {
        let bytes = bytes_of(&one_table());
        let refused = |at: usize, with: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            whole(&bytes).unwrap_err()
        };
        let malformed = |offset, what| Malformed { offset, what };
        assert_eq!(refused(0, &[16]), malformed(0, "a known tree"));
        assert_eq!(refused(2, &[0; 4]), malformed(2, "a table's ordinal"));
        assert_eq!(refused(6, &[0xff; 4]), malformed(6, "a table's epoch"));
        assert_eq!(refused(11, &[7]), malformed(11, "a level that exists"));
        assert_eq!(refused(20, &[0; 8]), malformed(20, "a table with entries"));
        let spare = "no more spare entries than entries, and none in the index";
        assert_eq!(refused(28, &[3, 1]), malformed(28, spare));
        assert_eq!(refused(85, b"x"), malformed(86, "a last key that is not below the first"));
        assert_eq!(refused(86, &[3]), malformed(87, "a key"));
        for at in [84, 86] {
            let malformed = malformed(at, "a name of 1 to 1,024 bytes");
            assert_eq!(refused(at, &[0]), malformed, "no name is empty");
            assert_eq!(refused(at, &[0x81, 8]), malformed, "nor has it 1,025 bytes");
        }
        let mut of_index = bytes;
        of_index[0] = TableKind::Index as u8;
        for (at, what) in [(28, spare), (36, "no commits in the index"), (84, "a key of 7 bytes")] {
            assert_eq!(whole(&of_index).unwrap_err(), malformed(at, what));
            of_index[at] = 0;
        }
    }

    #[test]
    #[should_panic(expected = "of another tree")]
    fn a_table_of_another_tree_is_not_encoded() {
        bytes_of(&LevelEdit { tree: TableKind::Index, ..one_table() });
    }

    #[test]
    #[should_panic(expected = "no key of the names tree")]
    fn a_key_that_no_table_can_have_is_not_encoded() {
        let mut edit = one_table();
        edit.added[0].1.last = Bytes::from(vec![b'z'; 1025]);
        bytes_of(&edit);
    }

    #[test]
    fn a_vast_count_reserves_nothing() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0, 0xff, 0x7f]]
        {
            assert!(whole(&[&[18], bytes].concat()).is_err());
        }
    }

    proptest! {
        #[test]
        fn edits_decode_as_encoded(edit in an_edit()) {
            let bytes = bytes_of(&edit);
            prop_assert_eq!(whole(&bytes), Ok(edit));
            for end in 0..bytes.len() {
                prop_assert!(whole(&bytes[..end]).is_err(), "cut at {}", end);
            }
        }

        #[test]
        fn a_damaged_edit_is_refused_or_is_another_edit(
            edit in an_edit(),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let mut bytes = bytes_of(&edit);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(other) = whole(&bytes) {
                prop_assert_eq!(bytes_of(&other), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Ok(edit) = whole(&bytes) {
                prop_assert_eq!(bytes_of(&edit), bytes);
            }
        }
    }
}
