//! Reads fields one after the other, and pushes a row for each.

use std::fmt;

use pinstone_disk::codec::{Malformed, Reader};
use pinstone_disk::dump::Dump;
use pinstone_disk::{Digest, FileKind, StoreId, TableKind};

pub(super) fn count(len: usize) -> String {
    format!("{len} bytes")
}

/// Bytes as hex digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads fields one after the other and pushes a row for each.
pub(super) struct Fields<'a, 'd> {
    pub(super) dump: &'d mut Dump,
    pub(super) structure: &'static str,
    pub(super) origin: u64,
    pub(super) reader: Reader<'a>,
}

impl<'a> Fields<'a, '_> {
    fn show(&mut self, start: usize, field: &'static str, value: impl fmt::Display) {
        let at = self.origin + start as u64;
        self.dump.push(at, self.reader.offset() - start, self.structure, field, value);
    }

    pub(super) fn u8(
        &mut self,
        field: &'static str,
        say: impl Fn(u8) -> String,
    ) -> Result<u8, Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u8(field)?;
        self.show(start, field, say(number));
        Ok(number)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u16(field)?;
        self.show(start, field, number);
        Ok(number)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u32(field)?;
        self.show(start, field, number);
        Ok(number)
    }

    pub(super) fn big_endian(&mut self, field: &'static str) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let number = u32::from_be_bytes(self.reader.array(field)?);
        self.show(start, field, number);
        Ok(())
    }

    pub(super) fn hex32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u32(field)?;
        self.show(start, field, format_args!("{number:#010x}"));
        Ok(number)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u64(field)?;
        self.show(start, field, number);
        Ok(number)
    }

    pub(super) fn varint(&mut self, field: &'static str) -> Result<usize, Malformed> {
        let start = self.reader.offset();
        let number = self.reader.varint_usize(field)?;
        self.show(start, field, number);
        Ok(number)
    }

    pub(super) fn text(&mut self, field: &'static str, len: usize) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let text = self.reader.take(len, field)?;
        self.show(start, field, format_args!("\"{}\"", text.escape_ascii()));
        Ok(())
    }

    pub(super) fn hex(&mut self, field: &'static str, len: usize) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let bytes = self.reader.take(len, field)?;
        self.show(start, field, Hex(bytes));
        Ok(())
    }

    pub(super) fn digest(&mut self, field: &'static str) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let digest = Digest::from_bytes(self.reader.array(field)?);
        self.show(start, field, digest);
        Ok(())
    }

    pub(super) fn bytes(&mut self, field: &'static str, len: usize) -> Result<(), Malformed> {
        let start = self.reader.offset();
        self.reader.take(len, field)?;
        self.show(start, field, count(len));
        Ok(())
    }

    /// The fields that header and footer have in common.
    pub(super) fn repeated(&mut self) -> Result<(), Malformed> {
        self.u16("version")?;
        self.u8("file_kind", |kind| match FileKind::from_number(kind) {
            Some(FileKind::Table(table)) => format!("{kind}, {} table", table.word()),
            Some(FileKind::Log(log)) => format!("{kind}, {} log", log.word()),
            Some(FileKind::Current) => format!("{kind}, CURRENT"),
            None => format!("{kind}, unknown"),
        })?;
        self.u8("digest_kind", |kind| match kind {
            1 => "1, BLAKE3-256".to_owned(),
            kind => format!("{kind}, unknown"),
        })?;
        self.hex32("compatible")?;
        self.hex32("read_only_compatible")?;
        self.hex32("incompatible")?;
        let start = self.reader.offset();
        let store_id = StoreId(self.reader.array("store_id")?);
        self.show(start, "store_id", store_id);
        self.u32("ordinal")?;
        self.u32("epoch").map(drop)
    }

    /// A key of this tree, and before it its length.
    pub(super) fn key(
        &mut self,
        kind: TableKind,
        len_field: &'static str,
        field: &'static str,
    ) -> Result<(), Malformed> {
        let len = self.varint(len_field)?;
        match kind {
            TableKind::Index => self.hex(field, len),
            TableKind::Names => self.text(field, len),
        }
    }

    /// As many entries as there are, and no more.
    pub(super) fn name_entries(&mut self, entry_count: u32) -> Result<(), Malformed> {
        self.structure = "name_entry";
        for _ in 0..entry_count {
            self.varint("shared_bytes")?;
            let rest_bytes = self.varint("rest_bytes")?;
            let start = self.reader.offset();
            let commit = self.reader.varint("commit")?;
            self.show(start, "commit", commit);
            let kind = self.u8("kind", |kind| match kind {
                0 => "0, delete".to_owned(),
                1 => "1, BLAKE3-256".to_owned(),
                kind => format!("{kind}, unknown"),
            })?;
            self.text("rest", rest_bytes)?;
            if kind != 0 {
                self.digest("digest")?;
            }
        }
        self.reader.end("the end of the entries")
    }

    pub(super) fn block_key(&mut self) -> Result<(), Malformed> {
        self.structure = "block_key";
        self.varint("block_bytes")?;
        let start = self.reader.offset();
        let commit = self.reader.varint("commit_plus_one")?;
        match commit {
            0 => self.show(start, "commit_plus_one", "0, the greatest"),
            commit => self.show(start, "commit_plus_one", commit),
        }
        let name_bytes = self.varint("name_bytes")?;
        self.text("name", name_bytes)
    }

    pub(super) fn filter_ends(
        &mut self,
        filter_count: u32,
        ends: &mut Vec<u32>,
    ) -> Result<(), Malformed> {
        self.structure = "filter_end";
        for _ in 0..filter_count {
            ends.push(self.u32("end")?);
        }
        self.reader.end("the directory's end")
    }

    pub(super) fn level_edit(&mut self) -> Result<(), Malformed> {
        let of_number = |number| TableKind::ALL.into_iter().find(|kind| *kind as u8 == number);
        let tree = self.u8("tree", |tree| {
            format!("{tree}, {}", of_number(tree).map_or("unknown", TableKind::word))
        })?;
        // Keys of an unknown tree are shown as names are.
        let kind = of_number(tree).unwrap_or(TableKind::Names);
        let removed_count = self.varint("removed_count")?;
        self.structure = "removed_table";
        for _ in 0..removed_count {
            self.table_id()?;
        }
        self.structure = "level_edit";
        let added_count = self.varint("added_count")?;
        self.structure = "added_table";
        for _ in 0..added_count {
            self.u8("level", |level| level.to_string())?;
            self.table_id()?;
            self.u64("entry_count")?;
            self.u64("file_bytes")?;
            self.digest("footer_hash")?;
            self.key(kind, "first_key_bytes", "first_key")?;
            self.key(kind, "last_key_bytes", "last_key")?;
        }
        self.structure = "level_edit";
        Ok(())
    }

    fn table_id(&mut self) -> Result<(), Malformed> {
        self.u32("ordinal")?;
        self.u32("epoch").map(drop)
    }
}
