//! The fields that tables and edits of levels alone have.

use std::convert::identity;
use std::fmt;

use pinstone_disk::TableKind;
use pinstone_disk::codec::{Malformed, Reader};
use pinstone_disk::dump::{Fields, digest_kind};

/// Bytes as hex digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes that are no text.
pub(super) fn hex(
    fields: &mut Fields<'_, '_>,
    field: &'static str,
    len: usize,
) -> Result<(), Malformed> {
    fields.field(field, |reader, what| reader.take(len, what), Hex).map(drop)
}

/// A 32-bit number of a row, which sorts as its bytes do.
pub(super) fn big_endian(
    fields: &mut Fields<'_, '_>,
    field: &'static str,
) -> Result<(), Malformed> {
    let read = |reader: &mut Reader<'_>, what| reader.array(what).map(u32::from_be_bytes);
    fields.field(field, read, identity).map(drop)
}

/// A key of this tree, and before it its length.
pub(super) fn key(
    fields: &mut Fields<'_, '_>,
    kind: TableKind,
    len_field: &'static str,
    field: &'static str,
) -> Result<(), Malformed> {
    let len = fields.varint(len_field)?;
    match kind {
        TableKind::Index => hex(fields, field, len),
        TableKind::Names => fields.text(field, len),
    }
}

/// As many entries as there are, and no more.
pub(super) fn name_entries(fields: &mut Fields<'_, '_>, entry_count: u32) -> Result<(), Malformed> {
    fields.structure = "name_entry";
    for _ in 0..entry_count {
        fields.varint("shared_bytes")?;
        let rest_bytes = fields.varint("rest_bytes")?;
        fields.field("commit", Reader::varint, identity)?;
        let kind = fields.u8("kind", |kind| match kind {
            0 => "0, delete".to_owned(),
            kind => digest_kind(kind),
        })?;
        fields.text("rest", rest_bytes)?;
        if kind != 0 {
            fields.digest("digest")?;
        }
    }
    fields.reader.end("the end of the entries")
}

pub(super) fn block_key(fields: &mut Fields<'_, '_>) -> Result<(), Malformed> {
    fields.structure = "block_key";
    fields.varint("block_bytes")?;
    fields.field("commit_plus_one", Reader::varint, |commit| match commit {
        0 => "0, the greatest".to_owned(),
        commit => commit.to_string(),
    })?;
    let name_bytes = fields.varint("name_bytes")?;
    fields.text("name", name_bytes)
}

pub(super) fn filter_ends(
    fields: &mut Fields<'_, '_>,
    filter_count: u32,
    ends: &mut Vec<u32>,
) -> Result<(), Malformed> {
    fields.structure = "filter_end";
    for _ in 0..filter_count {
        ends.push(fields.u32("end")?);
    }
    fields.reader.end("the directory's end")
}

pub(super) fn level_edit(fields: &mut Fields<'_, '_>) -> Result<(), Malformed> {
    let of_number = |number| TableKind::ALL.into_iter().find(|kind| *kind as u8 == number);
    let tree = fields.u8("tree", |tree| {
        format!("{tree}, {}", of_number(tree).map_or("unknown", TableKind::word))
    })?;
    // Keys of an unknown tree are shown as names are.
    let kind = of_number(tree).unwrap_or(TableKind::Names);
    let removed_count = fields.varint("removed_count")?;
    fields.structure = "removed_table";
    for _ in 0..removed_count {
        table_id(fields)?;
    }
    fields.structure = "level_edit";
    let added_count = fields.varint("added_count")?;
    fields.structure = "added_table";
    for _ in 0..added_count {
        fields.u8("level", |level| level.to_string())?;
        table_id(fields)?;
        for field in ["entry_count", "spare_count", "last_commit", "file_bytes"] {
            fields.u64(field)?;
        }
        fields.digest("footer_hash")?;
        key(fields, kind, "first_key_bytes", "first_key")?;
        key(fields, kind, "last_key_bytes", "last_key")?;
    }
    fields.structure = "level_edit";
    Ok(())
}

fn table_id(fields: &mut Fields<'_, '_>) -> Result<(), Malformed> {
    fields.u32("ordinal")?;
    fields.u32("epoch").map(drop)
}
