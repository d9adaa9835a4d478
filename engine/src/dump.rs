//! The annotated dump of a store's file: `pinstone_compaction`'s of a table, else `pinstone_wal`'s,
//! with the root's edits decoded.

use pinstone_compaction::edit::LevelEdit;
use pinstone_disk::codec::{Malformed, Reader};
use pinstone_disk::dump::Dump;
use pinstone_disk::{Digest, FileName, LogKind, TableKind};
use pinstone_wal::LogPosition;

use crate::state::root::{
    CLOSED, FLUSHED, LEVELS, NEXT_ORDINAL, NEXT_TABLE, OPEN, RETIRE, SEAL, check_record,
};

/// Dumps a segment, a table or CURRENT, every field beside its bytes; `name` helps where the file's header
/// is damaged. Reads nothing but `bytes`, and never panics on them.
///
/// Cost: linear in `bytes`, values are hashed; memory for a row a field.
pub fn dump_file(name: Option<&FileName>, bytes: &[u8]) -> Dump {
    pinstone_compaction::dump::dump_file(name, bytes)
        .unwrap_or_else(|| pinstone_wal::dump::dump_file(name, bytes, &root_edits))
}

/// Adds rows for the payload of a root edit's record, standing at `origin`.
fn root_edits(dump: &mut Dump, origin: u64, payload: &[u8]) {
    let mut walk = Walk { dump, origin, payload, reader: Reader::new(payload) };
    let walked = walk.edits().and_then(|()| check_record(payload));
    if let Err(error) = walked {
        let at = origin + error.offset as u64;
        dump.note(at, "root_edit", "invalid", format_args!("expected {}", error.what));
    }
}

struct Walk<'a, 'd> {
    dump: &'d mut Dump,
    origin: u64,
    payload: &'a [u8],
    reader: Reader<'a>,
}

impl Walk<'_, '_> {
    fn show(
        &mut self,
        start: usize,
        structure: &'static str,
        field: &'static str,
        value: impl std::fmt::Display,
    ) {
        let len = self.reader.offset() - start;
        self.dump.push(self.origin + start as u64, len, structure, field, value);
    }

    fn edits(&mut self) -> Result<(), Malformed> {
        let edit_count = self.reader.varint("edit_count")?;
        self.show(0, "root_edit", "edit_count", edit_count);
        for _ in 0..edit_count {
            self.edit()?;
        }
        self.reader.end("the end of the edits")
    }

    fn edit(&mut self) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let kind = self.reader.u8("kind")?;
        let (structure, say) = match kind {
            OPEN => ("open_edit", "open"),
            SEAL => ("seal_edit", "seal"),
            NEXT_ORDINAL => ("next_ordinal_edit", "next ordinal"),
            CLOSED => ("closed_edit", "closed"),
            LEVELS => ("levels_edit", "levels"),
            NEXT_TABLE => ("next_table_edit", "next table"),
            FLUSHED => ("flushed_edit", "flushed"),
            RETIRE => ("retire_edit", "retire"),
            _ => ("root_edit", "unknown"),
        };
        self.show(start, structure, "kind", format_args!("{kind}, {say}"));
        match kind {
            CLOSED => {
                self.position(structure, "blob_end")?;
                self.position(structure, "pointer_end")
            }
            OPEN | SEAL | NEXT_ORDINAL | RETIRE => self.segment(kind, structure),
            LEVELS => self.levels(),
            NEXT_TABLE => {
                self.tree(structure)?;
                self.u32(structure, "ordinal")
            }
            FLUSHED => {
                self.tree(structure)?;
                self.u32(structure, "below")?;
                self.u64(structure, "commit")?;
                self.position(structure, "depends_upto")
            }
            _ => Err(Malformed { offset: start, what: "an edit of a known kind" }),
        }
    }

    fn segment(&mut self, kind: u8, structure: &'static str) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let log = self.reader.u8("log")?;
        let word = LogKind::from_number(log).map_or("unknown", LogKind::word);
        self.show(start, structure, "log", format_args!("{log}, {word}"));
        self.u32(structure, "ordinal")?;
        if kind == NEXT_ORDINAL || kind == RETIRE {
            return Ok(());
        }
        self.u32(structure, "epoch")?;
        if kind == OPEN {
            return Ok(());
        }
        self.u64(structure, "file_bytes")?;
        self.u64(structure, "record_count")?;
        let start = self.reader.offset();
        let hash = Digest::from_bytes(self.reader.array("footer_hash")?);
        self.show(start, structure, "footer_hash", hash);
        Ok(())
    }

    /// An edit of a tree's levels, which says itself how long it is.
    fn levels(&mut self) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let rest = &self.payload[start..];
        LevelEdit::decode(&mut self.reader)?;
        pinstone_compaction::dump::level_edit(self.dump, self.origin + start as u64, rest);
        Ok(())
    }

    fn tree(&mut self, structure: &'static str) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u8("tree")?;
        let tree = TableKind::ALL.into_iter().find(|tree| *tree as u8 == number);
        let word = tree.map_or("unknown", TableKind::word);
        self.show(start, structure, "tree", format_args!("{number}, {word}"));
        Ok(())
    }

    fn u32(&mut self, structure: &'static str, field: &'static str) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u32(field)?;
        self.show(start, structure, field, number);
        Ok(())
    }

    fn u64(&mut self, structure: &'static str, field: &'static str) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let number = self.reader.u64(field)?;
        self.show(start, structure, field, number);
        Ok(())
    }

    fn position(&mut self, structure: &'static str, field: &'static str) -> Result<(), Malformed> {
        let start = self.reader.offset();
        let position = LogPosition::from_number(self.reader.u64(field)?);
        self.show(start, structure, field, position);
        Ok(())
    }
}
