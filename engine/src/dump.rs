//! The annotated dump of a store's file: `pinstone_compaction`'s of a table, else `pinstone_wal`'s,
//! with the root's edits decoded.

use std::convert::identity;

use pinstone_compaction::edit::LevelEdit;
pub use pinstone_disk::FileName;
use pinstone_disk::codec::{Malformed, Reader};
pub use pinstone_disk::dump::Dump;
use pinstone_disk::dump::Fields;
use pinstone_disk::{LogKind, TableKind};
use pinstone_wal::LogPosition;

use crate::state::root::{
    CLOSED, FLUSHED, LEVELS, NEXT_ORDINAL, NEXT_TABLE, OPEN, RETIRE, SEAL, check_record,
};

/// Dumps a segment, a table or CURRENT, every field beside its bytes; `name` helps where the file's
/// header is damaged. Reads nothing but `bytes`, and never panics on them.
///
/// Cost: linear in `bytes`, values are hashed; memory for a row a field.
pub fn dump_file(name: Option<&FileName>, bytes: &[u8]) -> Dump {
    pinstone_compaction::dump::dump_file(name, bytes)
        .unwrap_or_else(|| pinstone_wal::dump::dump_file(name, bytes, &root_edits))
}

/// Adds rows for the payload of a root edit's record, standing at `origin`.
fn root_edits(dump: &mut Dump, origin: u64, payload: &[u8]) {
    if let Err(error) = edits(dump, origin, payload).and_then(|()| check_record(payload)) {
        dump.malformed(origin, "root_edit", error);
    }
}

fn edits(dump: &mut Dump, origin: u64, payload: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::new(dump, "root_edit", origin, payload);
    let edit_count = fields.varint("edit_count")?;
    let mut reader = fields.reader;
    for _ in 0..edit_count {
        let mut fields = Fields::new(dump, "root_edit", origin, payload);
        fields.reader = reader;
        let kind = edit(&mut fields)?;
        reader = fields.reader;
        if kind == LEVELS {
            // It says itself how long it is.
            let start = reader.offset();
            LevelEdit::decode(&mut reader)?;
            pinstone_compaction::dump::level_edit(dump, origin + start as u64, &payload[start..]);
        }
    }
    reader.end("the end of the edits")
}

/// An edit; returns its kind. Of one of levels only that is shown.
fn edit(fields: &mut Fields<'_, '_>) -> Result<u8, Malformed> {
    let start = fields.reader.offset();
    let kind = fields.reader.clone().u8("kind")?;
    let (structure, word) = match kind {
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
    fields.structure = structure;
    fields.u8("kind", |kind| format!("{kind}, {word}"))?;
    match kind {
        CLOSED => {
            position(fields, "blob_end")?;
            position(fields, "pointer_end")?;
        }
        OPEN | SEAL | NEXT_ORDINAL | RETIRE => segment(fields, kind)?,
        LEVELS => {}
        NEXT_TABLE => {
            tree(fields)?;
            fields.u32("ordinal")?;
        }
        FLUSHED => {
            tree(fields)?;
            fields.u32("below")?;
            fields.u64("commit")?;
            position(fields, "depends_upto")?;
        }
        _ => return Err(Malformed { offset: start, what: "an edit of a known kind" }),
    }
    Ok(kind)
}

fn segment(fields: &mut Fields<'_, '_>, kind: u8) -> Result<(), Malformed> {
    let word = |log| LogKind::from_number(log).map_or("unknown", LogKind::word);
    fields.u8("log", |log| format!("{log}, {}", word(log)))?;
    fields.u32("ordinal")?;
    if kind == NEXT_ORDINAL || kind == RETIRE {
        return Ok(());
    }
    fields.u32("epoch")?;
    if kind == OPEN {
        return Ok(());
    }
    fields.u64("file_bytes")?;
    fields.u64("record_count")?;
    fields.digest("footer_hash").map(drop)
}

fn tree(fields: &mut Fields<'_, '_>) -> Result<(), Malformed> {
    let of_number = |number| TableKind::ALL.into_iter().find(|tree| *tree as u8 == number);
    let word = |number| of_number(number).map_or("unknown", TableKind::word);
    fields.u8("tree", |number| format!("{number}, {}", word(number))).map(drop)
}

fn position(fields: &mut Fields<'_, '_>, field: &'static str) -> Result<(), Malformed> {
    let read = |reader: &mut Reader<'_>, what| reader.u64(what).map(LogPosition::from_number);
    fields.field(field, read, identity).map(drop)
}
