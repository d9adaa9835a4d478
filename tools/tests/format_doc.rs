//! Holds `docs/format.md` to the code: the tables are read, and compared with what the dumper finds
//! in a store's files, in sorted tables and in edits of their levels, and with the bytes of a tree
//! value.
//!
//! - F1: every field of every structure found stands where its table says, as long as it says, in
//!   the table's order, under the table's name.
//! - F2: every structure that has a table is found, and every one that is found has a table.

#![allow(clippy::disallowed_methods, reason = "a test, not the engine")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pinstone::{Batch, Maintenance, Options, Store};
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::table::footer::Replaced;
use pinstone_compaction::table::index::{IndexBuilder, IndexKey, Row as IndexRow};
use pinstone_compaction::table::names::NameBuilder;
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::dump::{Dump, Row};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, Epoch, FileName, LogKind, Ordinal, StoreId, TableKind};
use pinstone_tools::tree::{Entry, Meta, Node, TreeBuilder};
use pinstone_wal::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, Scan, SegmentHeader};

/// A line of a table.
#[derive(Clone, Debug)]
struct Field {
    offset: Option<usize>,
    bytes: Bytes,
    name: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Bytes {
    Count(usize),
    /// There, or not.
    Optional(usize),
    Varint,
    /// As many as this field says.
    Of(String),
    Rest,
    /// Other structures, as many as there are.
    Structures(Vec<String>),
}

/// The tables by the structure in the heading above them.
fn tables() -> BTreeMap<String, Vec<Field>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut tables: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    let mut heading = None;
    let mut in_table = false;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('#') {
            let title = title.trim_start_matches('#').trim();
            heading = title.strip_prefix('`').and_then(|title| title.strip_suffix('`'));
        } else if line == "| offset | bytes | field | meaning |" {
            let structure = heading.unwrap_or_else(|| panic!("a table without its structure"));
            assert!(!tables.contains_key(structure), "{structure} has two tables");
            tables.insert(structure.to_owned(), Vec::new());
            in_table = true;
        } else if !line.starts_with('|') {
            in_table = false;
        } else if in_table && !line.starts_with("|---") {
            tables.get_mut(heading.unwrap()).unwrap().push(field(line));
        }
    }
    tables
}

fn field(line: &str) -> Field {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [offset, bytes, name, _meaning] = cells[..] else { panic!("not four cells: {line}") };
    let structures =
        || bytes.split(", ").map(|name| name.trim_matches('`').to_owned()).collect::<Vec<_>>();
    let bytes = match bytes {
        "varint" => Bytes::Varint,
        "rest" => Bytes::Rest,
        _ if bytes.starts_with('`') => Bytes::Structures(structures()),
        _ => match (bytes.strip_prefix("0 or "), bytes.parse()) {
            (Some(count), _) => Bytes::Optional(count.parse().unwrap()),
            (None, Ok(count)) => Bytes::Count(count),
            (None, Err(_)) => Bytes::Of(bytes.to_owned()),
        },
    };
    let offset = if offset.is_empty() { None } else { Some(offset.parse().unwrap()) };
    Field { offset, bytes, name: name.to_owned() }
}

/// One structure found: its rows in order.
fn instances(dump: &Dump, tables: &BTreeMap<String, Vec<Field>>) -> Vec<Vec<Row>> {
    let mut open: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    let mut found = Vec::new();
    for row in dump.rows() {
        assert!(!["invalid", "undecoded"].contains(&row.field), "{row:?}");
        if row.structure == "gap" {
            continue;
        }
        let table = tables.get(row.structure).unwrap_or_else(|| panic!("no table: {row:?}"));
        let rows = open.entry(row.structure).or_default();
        if row.field == table[0].name {
            found.push(std::mem::take(rows));
        }
        rows.push(row.clone());
    }
    found.extend(open.into_values());
    found.retain(|rows| !rows.is_empty());
    found
}

fn check(rows: &[Row], table: &[Field]) {
    let structure = rows[0].structure;
    let mut values: BTreeMap<&str, &str> = BTreeMap::new();
    let mut left = rows.iter().peekable();
    for field in table {
        if matches!(field.bytes, Bytes::Structures(_)) {
            continue;
        }
        let row = left.next_if(|row| row.field == field.name);
        let Some(row) = row else {
            let optional = matches!(field.bytes, Bytes::Optional(_));
            assert!(optional, "{structure}.{} is missing, found {:?}", field.name, left.peek());
            continue;
        };
        if let Some(offset) = field.offset {
            assert_eq!(row.offset - rows[0].offset, offset as u64, "offset of {row:?}");
        }
        match &field.bytes {
            Bytes::Count(count) | Bytes::Optional(count) => assert_eq!(row.len, *count, "{row:?}"),
            Bytes::Varint => assert!((1..=10).contains(&row.len), "{row:?}"),
            Bytes::Of(other) => assert_eq!(row.len.to_string(), values[other.as_str()], "{row:?}"),
            Bytes::Rest => {}
            Bytes::Structures(_) => unreachable!("left out above"),
        }
        values.insert(row.field, &row.value);
    }
    assert_eq!(left.next(), None, "{structure} has a field that its table has not");
}

/// A store with everything in it: sealed segments and open ones, commits, one of which carries its
/// value, a void frame, edits of all kinds.
fn store_files() -> Vec<(String, Vec<u8>)> {
    let disk = SimDisk::new(1);
    let store = Store::builder()
        .segment_bytes(*Options::SEGMENT_BYTES.start() * 4)
        .pointer_segment_bytes(*Options::SEGMENT_BYTES.start())
        .append_buffer_bytes(*Options::APPEND_BUFFER_BYTES.start())
        .memtable_entries_max(5)
        .maintenance(Maintenance::Inline)
        .open_on(disk.clone())
        .unwrap();
    for number in 0..150u32 {
        let digest = store.put(format!("{number:0100}").as_bytes()).unwrap().digest;
        let batch = Batch::new().set(format!("name/{number}"), digest).delete("gone");
        if number % 10 == 0 {
            store.commit(batch).unwrap();
        }
    }
    store.put(b"the last").unwrap();
    store.sync().unwrap();
    let digest = store.put(b"the very last").unwrap().digest;
    store.commit(Batch::new().set("carried", digest)).unwrap();
    let mut files = files(&disk);
    let voided =
        files.iter().map(|(name, bytes)| (name.clone(), with_last_frame_void(name, bytes)));
    let voided: Vec<_> = voided.collect();
    files.extend(voided);
    store.close().unwrap();
    files.extend(self::files(&disk));
    files
}

/// The file as it were if the record of its last frame had been refused while others were put behind
/// it; the file itself if it has no such frame.
fn with_last_frame_void(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Ok(name @ FileName::Segment { log: LogKind::Blob, .. }) = name.parse() else {
        return bytes;
    };
    let header = SegmentHeader::decode(&name, &bytes).unwrap();
    let scan = Scan::of(header, bytes.clone().into());
    let Some(last) = scan.frames.last() else { return bytes };
    let void = FrameHeader { kind: FrameKind::Void, ..last.header };
    let offset = usize::try_from(last.offset_bytes).unwrap();
    bytes[offset..][..FRAME_HEADER_BYTES]
        .copy_from_slice(&void.encode(header.seed(), last.offset_bytes));
    bytes
}

fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.names().into_iter().filter(|name| name != "RESERVE");
    names.map(|name| (name.clone(), disk.file_bytes(&name).unwrap())).collect()
}

/// A table of each tree, with several units and all that a table may have; and the edits that add
/// them.
fn sorted_tables() -> (Vec<(String, Vec<u8>)>, [LevelEdit; 2]) {
    let disk = SimDisk::new(1);
    let tables = Tables::new(Arc::clone(&disk) as Arc<dyn Disk>, StoreId([7; 16]), 4, 1 << 20);
    let id = |table| TableId { table, ordinal: Ordinal(2), epoch: Epoch(1) };
    let replaced = || {
        let (first, until) = ((&b"key aaa"[..]).into(), Some((&b"key bbb"[..]).into()));
        vec![Replaced { ordinal: Ordinal(1), epoch: Epoch(1), first, until }]
    };
    let digests = (0..600u32).map(|number| Digest::of(&number.to_le_bytes()));
    let mut rows: Vec<IndexRow> = digests
        .zip(0u128..)
        .map(|(digest, payload)| IndexRow::new(IndexKey::of(digest.as_bytes(), 56), payload))
        .collect();
    rows.sort_unstable();
    let mut index = IndexBuilder::create(&tables, id(TableKind::Index), Some(4)).unwrap();
    rows.iter().for_each(|row| index.push(*row).unwrap());
    let index = index.finish(replaced()).unwrap();
    let mut names = NameBuilder::create(&tables, id(TableKind::Names), Some(4)).unwrap();
    for number in 0..200u64 {
        let name = format!("name/{number:0200}");
        names.push(name.as_bytes(), 2 * number + 300, None).unwrap();
        names.push(name.as_bytes(), number + 1, Some(&Digest::of(b"value"))).unwrap();
    }
    let names = names.finish(replaced()).unwrap();
    let edit = |table: TableMeta| LevelEdit {
        tree: table.id.table,
        removed: vec![table.id],
        added: vec![(6, table)],
    };
    (files(&disk), [index, names].map(edit))
}

#[test]
fn the_documented_layout_is_what_the_dumper_finds() {
    let tables = tables();
    let mut found = BTreeSet::new();
    let (sorted_tables, edits) = sorted_tables();
    let files = store_files().into_iter().chain(sorted_tables);
    let dumps =
        files.map(|(name, bytes)| pinstone::dump::dump_file(Some(&name.parse().unwrap()), &bytes));
    let edit_dumps = edits.map(|edit| {
        let (mut bytes, mut dump) = (Vec::new(), Dump::new());
        edit.encode(&mut bytes);
        pinstone_compaction::dump::level_edit(&mut dump, 0, &bytes);
        dump
    });
    for dump in dumps.chain(edit_dumps) {
        for rows in instances(&dump, &tables) {
            check(&rows, &tables[rows[0].structure]);
            found.insert(rows[0].structure.to_owned());
        }
    }
    let documented: BTreeSet<String> = tables.into_keys().collect();
    let trees = documented.iter().filter(|name| name.starts_with("tree")).cloned();
    found.extend(trees);
    assert_eq!(found, documented, "every structure is documented, and every documented one found");
}

#[test]
fn tables_name_structures_that_have_tables() {
    let tables = tables();
    for (structure, fields) in &tables {
        for field in fields {
            if let Bytes::Structures(named) = &field.bytes {
                for name in named {
                    assert!(tables.contains_key(name), "{structure} names {name}");
                }
            }
        }
        let mut offset = Some(0);
        for field in fields {
            assert_eq!(field.offset, offset, "{structure}.{} stands elsewhere", field.name);
            offset = match (offset, &field.bytes) {
                (Some(offset), Bytes::Count(count)) => Some(offset + count),
                _ => None,
            };
        }
    }
}

/// Reads a structure of known fields by its table alone; where other structures follow it stops.
fn read_by_table<'a>(
    table: &[Field],
    bytes: &'a [u8],
    at: &mut usize,
) -> BTreeMap<String, &'a [u8]> {
    let mut fields: BTreeMap<String, &[u8]> = BTreeMap::new();
    for field in table {
        let len = match &field.bytes {
            Bytes::Count(count) => *count,
            Bytes::Varint => 1 + bytes[*at..].iter().position(|byte| byte & 0x80 == 0).unwrap(),
            Bytes::Of(other) => usize::try_from(number(fields[other])).unwrap(),
            Bytes::Structures(_) => break,
            other => panic!("{other:?}"),
        };
        fields.insert(field.name.clone(), &bytes[*at..*at + len]);
        *at += len;
    }
    fields
}

/// The number that a varint of one byte or of two says.
fn number(varint: &[u8]) -> u64 {
    let bits = varint.iter().rev().map(|byte| u64::from(byte & 0x7f));
    bits.fold(0, |number, bits| number << 7 | bits)
}

#[test]
fn a_tree_value_reads_back_by_the_tables_alone() {
    let tables = tables();
    let meta = Meta { mode: 0o4755, mtime_seconds: -5, mtime_nanos: 123_456_789 };
    let digest = Digest::of(b"content");
    let target = vec![b't'; 300];
    let nodes = [
        ("directory", Node::Directory { digest }),
        ("file", Node::File { meta, len_bytes: 70_000, digest }),
        ("symlink", Node::Symlink { meta, target: &target }),
    ];
    let mut builder = TreeBuilder::new(&meta).unwrap();
    for (name, node) in nodes {
        builder.push(&Entry { name: name.as_bytes(), node }).unwrap();
    }
    let bytes = builder.finish();
    let check_meta = |fields: &BTreeMap<String, &[u8]>| {
        assert_eq!(fields["mode"], 0o4755u16.to_le_bytes());
        assert_eq!(fields["mtime_nanos"], 123_456_789u32.to_le_bytes());
        assert_eq!(fields["mtime_seconds"], (-5i64).to_le_bytes());
    };
    let mut at = 0;
    let header = read_by_table(&tables["tree"], &bytes, &mut at);
    check_meta(&header);
    assert_eq!(header["magic"], b"\x89PINTRE");
    assert_eq!((header["version"], header["digest_kind"]), (&[1][..], &[1][..]));
    assert_eq!(header["entry_count"], 3u32.to_le_bytes());
    for (name, _) in nodes {
        let entry = read_by_table(&tables["tree_entry"], &bytes, &mut at);
        assert_eq!(entry["name"], name.as_bytes());
        let node = read_by_table(&tables[&format!("tree_{name}")], &bytes, &mut at);
        match entry["kind"] {
            [1] => {
                check_meta(&node);
                assert_eq!(number(node["value_bytes"]), 70_000);
                assert_eq!(node["digest"], digest.as_bytes());
            }
            [2] => assert_eq!(node["digest"], digest.as_bytes()),
            [3] => {
                check_meta(&node);
                assert_eq!(node["target"], target);
            }
            kind => panic!("{kind:?}"),
        }
    }
    assert_eq!(at, bytes.len());
}
