//! Dumps of tables and of level edits: small ones as text, every byte once, damage at its place,
//! and nothing that panics.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use common::{STORE_ID, key, tables};
use expect_test::{Expect, expect};
use pinstone_compaction::dump::{dump_file, level_edit};
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::table::footer::Replaced;
use pinstone_compaction::table::index::{IndexBuilder, IndexTable, Row};
use pinstone_compaction::table::names::{NameBuilder, NameTable};
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::dump::{Dump, Row as DumpRow};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Epoch, FileName, Ordinal, TableKind};
use proptest::prelude::*;

const INDEX: TableId = TableId { table: TableKind::Index, ordinal: Ordinal(3), epoch: Epoch(2) };
const NAMES: TableId = TableId { table: TableKind::Names, ordinal: Ordinal(5), epoch: Epoch(2) };

/// The file that `write` makes on a disk of its own.
fn file(id: TableId, write: impl FnOnce(&Arc<Tables>) -> TableMeta) -> (TableMeta, Vec<u8>) {
    let disk = SimDisk::new(1);
    let meta = write(&tables(&disk));
    (meta, disk.file_bytes(&id.file_name().to_string()).unwrap())
}

fn replaced(first: &'static [u8], until: &'static [u8]) -> Vec<Replaced> {
    let of = |ordinal, first: &'static [u8], until: Option<&'static [u8]>| Replaced {
        ordinal: Ordinal(ordinal),
        epoch: Epoch(1),
        first: first.into(),
        until: until.map(Into::into),
    };
    vec![of(1, first, Some(until)), of(2, first, None)]
}

fn index(row_count: u64, filter_seed: Option<u64>) -> (TableMeta, Vec<u8>) {
    file(INDEX, |tables| {
        let mut rows: Vec<Row> = (0..row_count)
            .map(|number| Row::new(key(number), (9 << 64) | (1 << 32) | (u128::from(number) * 512)))
            .collect();
        rows.sort_unstable();
        let mut builder = IndexBuilder::create(tables, INDEX, filter_seed).unwrap();
        rows.iter().for_each(|row| builder.push(*row).unwrap());
        builder.finish(replaced(b"key aaa", b"key bbb")).unwrap()
    })
}

fn names(name_count: u64, filter_seed: Option<u64>) -> (TableMeta, Vec<u8>) {
    file(NAMES, |tables| {
        let mut builder = NameBuilder::create(tables, NAMES, filter_seed).unwrap();
        for number in 0..name_count {
            let name = format!("name/{number:04}");
            let digest = Digest::of(name.as_bytes());
            // Each third one has a version more, which deleted it.
            if number % 3 == 0 {
                builder.push(name.as_bytes(), number + 2, None).unwrap();
            }
            builder.push(name.as_bytes(), number + 1, Some(&digest)).unwrap();
        }
        builder.finish(replaced(b"a", b"bc")).unwrap()
    })
}

/// Versions of one name over several blocks.
fn one_name(version_count: u64) -> (TableMeta, Vec<u8>) {
    file(NAMES, |tables| {
        let mut builder = NameBuilder::create(tables, NAMES, Some(4)).unwrap();
        for commit in (1..=version_count).rev() {
            builder.push(b"name", commit, Some(&Digest::of(b"value"))).unwrap();
        }
        builder.finish(Vec::new()).unwrap()
    })
}

/// Tables of several units and filters of both kinds.
fn large() -> Vec<(TableMeta, Vec<u8>)> {
    vec![
        index(600, Some(4)),
        index(255, None),
        names(300, Some(4)),
        names(300, None),
        one_name(300),
    ]
}

fn dump(bytes: &[u8]) -> Dump {
    dump_file(None, bytes).expect("its header says that it is a table")
}

fn invalid(dump: &Dump) -> Vec<&DumpRow> {
    dump.rows().iter().filter(|row| row.field == "invalid").collect()
}

/// Each byte is in one row.
fn tiles(dump: &Dump, bytes: &[u8]) {
    let mut end = 0;
    for row in dump.rows().iter().filter(|row| row.len > 0) {
        assert_eq!(row.offset, end, "{row:?}");
        end += row.len as u64;
    }
    assert_eq!(end, bytes.len() as u64);
}

fn is_dumped_as(bytes: &[u8], expected: &Expect) {
    expected.assert_eq(&dump(bytes).render(bytes));
}

#[test]
fn a_small_table_of_the_index() {
    is_dumped_as(
        &index(2, Some(4)).1,
        &expect![[r#"
            00000000  50494e53544f4e45  header.magic                       "PINSTONE"
            00000008  0400              header.version                     4
            0000000a  11                header.file_kind                   17, index table
            0000000b  01                header.digest_kind                 1, BLAKE3-256
            0000000c  00000000          header.compatible                  0x00000000
            00000010  00000000          header.read_only_compatible        0x00000000
            00000014  00000000          header.incompatible                0x00000000
            00000018  070707070707..    header.store_id                    07070707070707070707070707070707
            00000028  03000000          header.ordinal                     3
            0000002c  02000000          header.epoch                       2
            00000030  000000000000..    header.reserved                    12 bytes
            0000003c  3caeca35          header.header_crc                  0x35caae3c
            00000040  000000000000..    padding.zeros                      4032 bytes
            00001000  0a6de3be          index_page.crc                     0xbee36d0a
            00001004  0200              index_page.row_count               2
            00001006  000000000000..    index_page.reserved                10 bytes
            00001010  1a0d12016999e4    index_row.key                      1a0d12016999e4
            00001017  09                index_row.size_class               9
            00001018  00000001          index_row.ordinal                  1
            0000101c  00000200          index_row.offset                   512
            00001020  71e0a991735649    index_row.key                      71e0a991735649
            00001027  09                index_row.size_class               9
            00001028  00000001          index_row.ordinal                  1
            0000102c  00000000          index_row.offset                   0
            00001030  000000000000..    index_page.unused                  4048 bytes
            00002000  bd304a75          index_directory.crc                0x754a30bd
            00002004  01000000          index_directory.page_count         1
            00002008  01000000          index_directory.filter_count       1
            0000200c  00000000          index_directory.reserved           0
            00002010  01120d1a          page_key.top                       0x1a0d1201
            00002014  24000000          filter_end.end                     36
            00002018  99b175d5          filter.crc                         0xd575b199
            0000201c  01                filter.kind                        1
            0000201d  02                filter.segment_bits                2
            0000201e  0000              filter.reserved                    0
            00002020  01000000          filter.segment_count               1
            00002024  02000000          filter.key_count                   2
            00002028  c15c0289ec2d0a91  filter.seed                        10451216379200822465
            00002030  000000000000..    filter.fingerprints                12 bytes
            0000203c  50494e53464f4f54  table_footer.magic                 "PINSFOOT"
            00002044  0400              table_footer.version               4
            00002046  11                table_footer.file_kind             17, index table
            00002047  01                table_footer.digest_kind           1, BLAKE3-256
            00002048  00000000          table_footer.compatible            0x00000000
            0000204c  00000000          table_footer.read_only_compatible  0x00000000
            00002050  00000000          table_footer.incompatible          0x00000000
            00002054  070707070707..    table_footer.store_id              07070707070707070707070707070707
            00002064  03000000          table_footer.ordinal               3
            00002068  02000000          table_footer.epoch                 2
            0000206c  0200000000000000  table_footer.entry_count           2
            00002074  0100000000000000  table_footer.unit_count            1
            0000207c  0020000000000000  table_footer.units_end             8192
            00002084  1820000000000000  table_footer.directory_end         8216
            0000208c  3c20000000000000  table_footer.filters_end           8252
            00002094  0400000000000000  table_footer.filter_seed           4
            0000209c  0000000000000000  table_footer.first_commit          0
            000020a4  0000000000000000  table_footer.last_commit           0
            000020ac  0000000000000000  table_footer.spare_count           0
            000020b4  3cc5f66757bb..    table_footer.units_hash            3cc5f66757bb3338593f68b5f5f5e00d7c40141070839450cd16915767806bc7
            000020d4  2884b5d37c7c..    table_footer.derived_hash          2884b5d37c7cce010229027aedb7a865c1716df7245a0d3accf459b78d81482e
            000020f4  07                table_footer.first_key_bytes       7
            000020f5  1a0d12016999e4    table_footer.first_key             1a0d12016999e4
            000020fc  07                table_footer.last_key_bytes        7
            000020fd  71e0a991735649    table_footer.last_key              71e0a991735649
            00002104  02                table_footer.replaced_count        2
            00002105  01000000          replaced_table.ordinal             1
            00002109  01000000          replaced_table.epoch               1
            0000210d  07                replaced_table.first_key_bytes     7
            0000210e  6b657920616161    replaced_table.first_key           6b657920616161
            00002115  07                replaced_table.until_key_bytes     7
            00002116  6b657920626262    replaced_table.until_key           6b657920626262
            0000211d  02000000          replaced_table.ordinal             2
            00002121  01000000          replaced_table.epoch               1
            00002125  07                replaced_table.first_key_bytes     7
            00002126  6b657920616161    replaced_table.first_key           6b657920616161
            0000212d  00                replaced_table.until_key_bytes     0
            0000212e                    replaced_table.until_key
            0000212e  9fbf81c53379..    trailer.footer_hash                9fbf81c53379f2ab072ad58d92bffed5b8d8d1414f9bcad0925a502c1ee6c9f5
            0000214e  3c20000000000000  trailer.footer_offset              8252
            00002156  f2000000          trailer.footer_bytes               242
            0000215a  0400              trailer.version                    4
            0000215c  000000000000      trailer.reserved                   6 bytes
            00002162  aa90ea10          trailer.trailer_crc                0x10ea90aa
            00002166  50494e535441494c  trailer.magic                      "PINSTAIL"
        "#]],
    );
}

#[test]
fn a_small_table_of_names() {
    is_dumped_as(
        &names(2, Some(4)).1,
        &expect![[r#"
            00000000  50494e53544f4e45  header.magic                       "PINSTONE"
            00000008  0400              header.version                     4
            0000000a  12                header.file_kind                   18, names table
            0000000b  01                header.digest_kind                 1, BLAKE3-256
            0000000c  00000000          header.compatible                  0x00000000
            00000010  00000000          header.read_only_compatible        0x00000000
            00000014  00000000          header.incompatible                0x00000000
            00000018  070707070707..    header.store_id                    07070707070707070707070707070707
            00000028  05000000          header.ordinal                     5
            0000002c  02000000          header.epoch                       2
            00000030  000000000000..    header.reserved                    12 bytes
            0000003c  98f3aba1          header.header_crc                  0xa1abf398
            00000040  000000000000..    padding.zeros                      4032 bytes
            00001000  14e12d8f          name_block.crc                     0x8f2de114
            00001004  00                name_entry.shared_bytes            0
            00001005  09                name_entry.rest_bytes              9
            00001006  02                name_entry.commit                  2
            00001007  00                name_entry.kind                    0, delete
            00001008  6e616d652f30..    name_entry.rest                    "name/0000"
            00001011  09                name_entry.shared_bytes            9
            00001012  00                name_entry.rest_bytes              0
            00001013  01                name_entry.commit                  1
            00001014  01                name_entry.kind                    1, BLAKE3-256
            00001015                    name_entry.rest                    ""
            00001015  df79e6ba6aab..    name_entry.digest                  df79e6ba6aaba3888abbfa7a8065b33562cb91d2b5d3a2a5e91a1aeeb564bd20
            00001035  08                name_entry.shared_bytes            8
            00001036  01                name_entry.rest_bytes              1
            00001037  02                name_entry.commit                  2
            00001038  01                name_entry.kind                    1, BLAKE3-256
            00001039  31                name_entry.rest                    "1"
            0000103a  065f0f3903e6..    name_entry.digest                  065f0f3903e691a66085dc4c169a820bc3c0fb33dae6ab1f97640fa78d9a3aa4
            0000105a  04000000          run_offset.offset                  4
            0000105e  03000000          name_block.entry_count             3
            00001062  d4ffdc48          name_directory.crc                 0x48dcffd4
            00001066  01000000          name_directory.block_count         1
            0000106a  01000000          name_directory.filter_count        1
            0000106e  62                block_key.block_bytes              98
            0000106f  00                block_key.commit_plus_one          0, the greatest
            00001070  01                block_key.name_bytes               1
            00001071  6e                block_key.name                     "n"
            00001072  24000000          filter_end.end                     36
            00001076  acbb1dae          filter.crc                         0xae1dbbac
            0000107a  01                filter.kind                        1
            0000107b  02                filter.segment_bits                2
            0000107c  0000              filter.reserved                    0
            0000107e  01000000          filter.segment_count               1
            00001082  02000000          filter.key_count                   2
            00001086  c15c0289ec2d0a91  filter.seed                        10451216379200822465
            0000108e  0000f7000000..    filter.fingerprints                12 bytes
            0000109a  50494e53464f4f54  table_footer.magic                 "PINSFOOT"
            000010a2  0400              table_footer.version               4
            000010a4  12                table_footer.file_kind             18, names table
            000010a5  01                table_footer.digest_kind           1, BLAKE3-256
            000010a6  00000000          table_footer.compatible            0x00000000
            000010aa  00000000          table_footer.read_only_compatible  0x00000000
            000010ae  00000000          table_footer.incompatible          0x00000000
            000010b2  070707070707..    table_footer.store_id              07070707070707070707070707070707
            000010c2  05000000          table_footer.ordinal               5
            000010c6  02000000          table_footer.epoch                 2
            000010ca  0300000000000000  table_footer.entry_count           3
            000010d2  0100000000000000  table_footer.unit_count            1
            000010da  6210000000000000  table_footer.units_end             4194
            000010e2  7610000000000000  table_footer.directory_end         4214
            000010ea  9a10000000000000  table_footer.filters_end           4250
            000010f2  0400000000000000  table_footer.filter_seed           4
            000010fa  0100000000000000  table_footer.first_commit          1
            00001102  0200000000000000  table_footer.last_commit           2
            0000110a  0200000000000000  table_footer.spare_count           2
            00001112  dfa1885c5fac..    table_footer.units_hash            dfa1885c5fac12e2a20271d5c92bbd6e40dd23435368c04d1be8dc07594c4957
            00001132  a2e6e4bf66a8..    table_footer.derived_hash          a2e6e4bf66a839707ca34c419acb518cffe0da7abd0c542121dcb96f5a05ac6f
            00001152  09                table_footer.first_key_bytes       9
            00001153  6e616d652f30..    table_footer.first_key             "name/0000"
            0000115c  09                table_footer.last_key_bytes        9
            0000115d  6e616d652f30..    table_footer.last_key              "name/0001"
            00001166  02                table_footer.replaced_count        2
            00001167  01000000          replaced_table.ordinal             1
            0000116b  01000000          replaced_table.epoch               1
            0000116f  01                replaced_table.first_key_bytes     1
            00001170  61                replaced_table.first_key           "a"
            00001171  02                replaced_table.until_key_bytes     2
            00001172  6263              replaced_table.until_key           "bc"
            00001174  02000000          replaced_table.ordinal             2
            00001178  01000000          replaced_table.epoch               1
            0000117c  01                replaced_table.first_key_bytes     1
            0000117d  61                replaced_table.first_key           "a"
            0000117e  00                replaced_table.until_key_bytes     0
            0000117f                    replaced_table.until_key           ""
            0000117f  33f9287d20a0..    trailer.footer_hash                33f9287d20a08687f988abc8b59be2d5cc9906581bcb5e85269c1ca176132982
            0000119f  9a10000000000000  trailer.footer_offset              4250
            000011a7  e5000000          trailer.footer_bytes               229
            000011ab  0400              trailer.version                    4
            000011ad  000000000000      trailer.reserved                   6 bytes
            000011b3  8f19fa6f          trailer.trailer_crc                0x6ffa198f
            000011b7  50494e535441494c  trailer.magic                      "PINSTAIL"
        "#]],
    );
}

#[test]
fn a_level_edit() {
    let moved = index(2, None).0;
    let later = TableMeta { id: TableId { ordinal: Ordinal(9), ..INDEX }, ..moved.clone() };
    let added = vec![(0, moved), (6, later)];
    let edit = LevelEdit { tree: TableKind::Index, added, removed: vec![INDEX] };
    let mut bytes = Vec::new();
    edit.encode(&mut bytes);
    let edit_bytes = bytes.len();
    bytes.extend_from_slice(b"more");
    let mut dump = Dump::starting_at(0x100);
    assert_eq!(level_edit(&mut dump, 0x100, &bytes), edit_bytes);
    tiles_from(0x100, &dump, edit_bytes);
    expect![[r#"
        00000100  11                level_edit.tree              17, index
        00000101  01                level_edit.removed_count     1
        00000102  03000000          removed_table.ordinal        3
        00000106  02000000          removed_table.epoch          2
        0000010a  02                level_edit.added_count       2
        0000010b  00                added_table.level            0
        0000010c  03000000          added_table.ordinal          3
        00000110  02000000          added_table.epoch            2
        00000114  0200000000000000  added_table.entry_count      2
        0000011c  0000000000000000  added_table.spare_count      0
        00000124  0000000000000000  added_table.last_commit      0
        0000012c  4621000000000000  added_table.file_bytes       8518
        00000134  a692c6c08b5b..    added_table.footer_hash      a692c6c08b5b983e802ca61e6534f6ccc5955673abd089e3953c0fcd639982c9
        00000154  07                added_table.first_key_bytes  7
        00000155  1a0d12016999e4    added_table.first_key        1a0d12016999e4
        0000015c  07                added_table.last_key_bytes   7
        0000015d  71e0a991735649    added_table.last_key         71e0a991735649
        00000164  06                added_table.level            6
        00000165  09000000          added_table.ordinal          9
        00000169  02000000          added_table.epoch            2
        0000016d  0200000000000000  added_table.entry_count      2
        00000175  0000000000000000  added_table.spare_count      0
        0000017d  0000000000000000  added_table.last_commit      0
        00000185  4621000000000000  added_table.file_bytes       8518
        0000018d  a692c6c08b5b..    added_table.footer_hash      a692c6c08b5b983e802ca61e6534f6ccc5955673abd089e3953c0fcd639982c9
        000001ad  07                added_table.first_key_bytes  7
        000001ae  1a0d12016999e4    added_table.first_key        1a0d12016999e4
        000001b5  07                added_table.last_key_bytes   7
        000001b6  71e0a991735649    added_table.last_key         71e0a991735649
    "#]].assert_eq(&dump.render(&bytes));
}

fn tiles_from(mut end: u64, dump: &Dump, len: usize) {
    let wanted = end + len as u64;
    for row in dump.rows().iter().filter(|row| row.len > 0) {
        assert_eq!(row.offset, end, "{row:?}");
        end += row.len as u64;
    }
    assert_eq!(end, wanted);
}

#[test]
fn an_edit_that_ends_within_a_number_is_shown_up_to_it() {
    let mut dump = Dump::new();
    assert_eq!(level_edit(&mut dump, 0, &[17, 0, 0x80]), 2);
    tiles_from(0, &dump, 2);
    assert_eq!(invalid(&dump).len(), 1);
}

#[test]
fn every_byte_of_a_sound_table_has_one_field() {
    for (_, bytes) in large() {
        let dump = dump(&bytes);
        assert_eq!(invalid(&dump), Vec::<&DumpRow>::new());
        assert!(dump.rows().iter().all(|row| row.structure != "gap"));
        tiles(&dump, &bytes);
    }
}

/// Where the structures begin that have a checksum of their own.
fn structure_starts(sound: &Dump) -> Vec<u64> {
    let firsts = [
        ("header", "magic"),
        ("padding", "zeros"),
        ("index_page", "crc"),
        ("name_block", "crc"),
        ("index_directory", "crc"),
        ("name_directory", "crc"),
        ("filter", "crc"),
        ("table_footer", "magic"),
        ("trailer", "footer_hash"),
    ];
    let starts = sound.rows().iter().filter(|row| firsts.contains(&(row.structure, row.field)));
    starts.map(|row| row.offset).collect()
}

#[test]
fn a_flipped_byte_is_shown_where_it_is_and_nowhere_else() {
    for bytes in [index(300, Some(4)).1, names(150, Some(4)).1, names(150, None).1] {
        let sound = dump(&bytes);
        let starts = structure_starts(&sound);
        let footer_start = starts[starts.len() - 2];
        let structures = |dump: &Dump, start: u64, end: u64| {
            let is_elsewhere = |row: &&DumpRow| row.len > 0 && !(start..end).contains(&row.offset);
            let rows = dump.rows().iter().filter(is_elsewhere);
            rows.map(|row| (row.offset, row.len, row.structure, row.field)).collect::<Vec<_>>()
        };
        // All bytes of small structures, some of the large ones.
        let tried =
            (0..bytes.len()).filter(|at| *at < 80 || bytes.len() - at < 600 || at % 37 == 0);
        for at in tried {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x55;
            let dump = dump_file(Some(&name_of(&bytes)), &flipped).unwrap();
            tiles(&dump, &flipped);
            let after = starts.partition_point(|start| *start <= at as u64);
            let (start, end) = (starts[after - 1], *starts.get(after).unwrap_or(&u64::MAX));
            let shown = invalid(&dump);
            let is_here = |row: &&DumpRow| (start..end).contains(&row.offset);
            assert!(shown.iter().any(is_here), "{at}: {shown:#?}");
            // The footer has a hash of the units' checksums and a copy of the header. A length
            // that is wrong may only be noticed where its structure ends.
            let others = shown.iter().filter(|row| !is_here(row) && row.offset != end);
            let others: Vec<_> = others.filter(|row| row.offset != footer_start).collect();
            assert!(others.is_empty(), "{at}: {others:#?}");
            // What stands before and after it is found as if nothing were wrong.
            let (found, wanted) = (structures(&dump, start, end), structures(&sound, start, end));
            assert_eq!(found, wanted, "{at}");
        }
    }
}

fn name_of(bytes: &[u8]) -> FileName {
    if bytes[10] == 17 { INDEX.file_name() } else { NAMES.file_name() }
}

#[test]
fn a_cut_table_is_dumped_up_to_where_it_ends() {
    for (_, bytes) in large() {
        let sound = dump(&bytes);
        for end in (0..bytes.len()).filter(|end| *end < 100 || end % 61 == 0) {
            let cut = &bytes[..end];
            let name = name_of(&bytes);
            let dump = dump_file(Some(&name), cut).unwrap();
            tiles(&dump, cut);
            assert!(!invalid(&dump).is_empty(), "cut at {end}");
            // All whole units are there.
            let whole = |dump: &Dump| {
                let rows = dump.rows().iter().filter(|row| row.structure == "index_row");
                rows.filter(|row| row.offset + 4096 <= end as u64).count()
            };
            assert_eq!(whole(&dump), whole(&sound), "cut at {end}");
        }
    }
}

#[test]
fn without_its_directory_a_table_shows_its_units() {
    for (_, bytes) in large() {
        let sound = dump(&bytes);
        let directory = sound.rows().iter().find(|row| row.structure.ends_with("_directory"));
        let at = usize::try_from(directory.unwrap().offset).unwrap();
        let mut damaged = bytes.clone();
        damaged[at..at + 12].fill(0xff);
        let dump = dump(&damaged);
        tiles(&dump, &damaged);
        assert_eq!(entries(&dump), entries(&sound));
    }
}

#[test]
fn what_is_no_table_is_left_to_others() {
    assert_eq!(dump_file(None, &[]), None);
    assert_eq!(dump_file(None, &[0; 100]), None);
    assert_eq!(dump_file(Some(&FileName::Reserve), &index(1, None).1), None);
    assert!(dump_file(Some(&FileName::Current), &index(1, None).1).is_some());
    assert!(dump_file(Some(&NAMES.file_name()), &[]).is_some());
}

/// Rows for less than a file's bytes, and the bytes that were not understood.
fn is_bounded(dump: &Dump, bytes: &[u8]) {
    tiles(dump, bytes);
    assert!(dump.rows().len() <= 3 * bytes.len() + 20);
}

/// Makes the checksum right of what begins at `start` and ends where `bytes` do.
fn sum_again(bytes: &mut [u8], id: TableId, start: usize) {
    let crc = id.header(STORE_ID).seed().at(start as u64, &[&bytes[start + 4..]]);
    bytes[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the trailer right for the footer that begins at `footer`; returns its hash.
fn hash_again(bytes: &mut [u8], footer: usize) -> [u8; 32] {
    let trailer = bytes.len() - 64;
    let hash = *Digest::of(&bytes[footer..trailer]).as_bytes();
    bytes[trailer..trailer + 32].copy_from_slice(&hash);
    let crc = pinstone_disk::checksum::crc(&bytes[trailer..trailer + 52]);
    bytes[trailer + 52..trailer + 56].copy_from_slice(&crc.to_le_bytes());
    hash
}

fn entries(dump: &Dump) -> Vec<DumpRow> {
    let structures = ["index_row", "name_entry", "filter"];
    dump.rows().iter().filter(|row| structures.contains(&row.structure)).cloned().collect()
}

#[test]
fn a_footer_or_a_directory_that_lies_hides_no_entry() {
    for (meta, bytes) in large() {
        let sound = dump(&bytes);
        let starts = structure_starts(&sound);
        let footer = usize::try_from(starts[starts.len() - 2]).unwrap();
        for part_end in [64, 72, 80] {
            let mut lying = bytes.clone();
            lying[footer + part_end + 7] = 1;
            hash_again(&mut lying, footer);
            let dump = dump(&lying);
            let told = invalid(&dump);
            assert!(told.iter().any(|row| row.value == "its offsets do not fit the file"));
            assert_eq!(entries(&dump), entries(&sound));
        }
        let mut rows = sound.rows().iter().rev();
        let Some(row) = rows.find(|row| row.field == "block_bytes") else { continue };
        let start = sound.rows().iter().find(|row| row.structure == "name_directory").unwrap();
        let mut lying = bytes.clone();
        lying[usize::try_from(row.offset).unwrap()] ^= 1;
        let end =
            sound.rows().iter().find(|row| ["filter", "table_footer"].contains(&row.structure));
        let end = usize::try_from(end.unwrap().offset).unwrap();
        sum_again(&mut lying[..end], meta.id, start.offset.try_into().unwrap());
        let dump = dump(&lying);
        let told = invalid(&dump).into_iter().map(|row| row.structure);
        assert_eq!(told.collect::<Vec<_>>(), ["name_directory", "table_footer"]);
        assert_eq!(entries(&dump), entries(&sound));
    }
}

#[test]
fn what_is_false_though_its_checksum_agrees_is_shown_at_its_place() {
    let (index, names) = (index(300, None).1, names(150, None).1);
    let block_end = 4096 + {
        let directory = dump(&names);
        let mut rows = directory.rows().iter();
        let first = rows.find(|row| row.field == "block_bytes").unwrap();
        first.value.parse::<usize>().unwrap()
    };
    let shown = |table: &[u8], id, end, at: usize, lie: &[u8]| {
        let mut bytes = table.to_vec();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        sum_again(&mut bytes[..end], id, 4096);
        let dump = dump(&bytes);
        tiles(&dump, &bytes);
        let first = (*invalid(&dump).first().unwrap()).clone();
        format!("{} {}: {}", first.offset, first.structure, first.value)
    };
    let page = |at, lie: &[u8]| shown(&index, INDEX, 8192, at, lie);
    let block = |at, lie: &[u8]| shown(&names, NAMES, block_end, at, lie);
    assert_eq!(page(4100, &[0, 0]), "4100 index_page: expected 1 to 255 rows");
    assert_eq!(page(4100, &[0, 1]), "4100 index_page: expected 1 to 255 rows");
    assert_eq!(page(4102, &[1]), "4102 index_page: expected zeros");
    assert_eq!(page(4111, &[1]), "4111 index_page: expected zeros");
    let out_of_order = "index_row: expected a row that comes after the one before";
    let last_page = |at, lie: &[u8]| {
        let mut bytes = index.clone();
        bytes[at..at + lie.len()].copy_from_slice(lie);
        sum_again(&mut bytes[..12_288], INDEX, 8192);
        invalid(&dump(&bytes))[0].offset
    };
    let behind_rows = 8192 + 16 + 45 * 16;
    assert_eq!(last_page(behind_rows, &[1]), behind_rows as u64);
    assert_eq!(page(4112, &[0xff; 16]), format!("4128 {out_of_order}"));
    assert_eq!(page(8192 - 16, &[0xff; 16]), format!("8208 {out_of_order}"));
    assert_eq!(block(4100, &[1]), "4100 name_block: expected bytes shared with the name before");
    assert_eq!(block(4103, &[2]), "4100 name_block: expected a digest kind that this build knows");
    // The last name of the first block becomes greater than the first one of the next.
    let sound = dump(&names);
    let mut rows = sound.rows().iter().rev();
    let rest = rows.find(|row| row.field == "rest" && row.offset < block_end as u64).unwrap();
    assert_eq!(rest.len, 1);
    assert_eq!(
        block(rest.offset.try_into().unwrap(), b"~"),
        format!("{} name_entry: expected an entry that comes after the one before", block_end + 4)
    );
    let entry_count = u32::MAX.to_le_bytes();
    assert_eq!(
        block(block_end - 4, &entry_count),
        format!("{} name_block: expected a count of the entries that there are", block_end - 4)
    );
}

/// A reader finds something wrong with the table.
fn is_refused(meta: TableMeta, bytes: &[u8]) -> bool {
    let disk = SimDisk::new(1);
    disk.put_file(&meta.id.file_name().to_string(), bytes);
    let tables = tables(&disk);
    let checked = match meta.id.table {
        TableKind::Index => {
            IndexTable::open(&tables, meta).and_then(|table| Arc::new(table).check(drop))
        }
        TableKind::Names => {
            NameTable::open(&tables, meta).and_then(|table| Arc::new(table).check(|_| ()))
        }
    };
    checked.is_err()
}

proptest! {
    #[test]
    fn any_bytes_are_dumped(bytes in prop::collection::vec(any::<u8>(), 0..6000), names: bool) {
        let id = if names { NAMES } else { INDEX };
        is_bounded(&dump_file(Some(&id.file_name()), &bytes).unwrap(), &bytes);
        let mut dump = Dump::new();
        prop_assert!(level_edit(&mut dump, 0, &bytes) <= bytes.len());
    }

    #[test]
    fn any_damage_of_a_table_is_dumped(
        which in 0..5usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..8usize), 1..6),
        from_end in any::<bool>(),
        cut in 0..5000usize,
    ) {
        let (_, mut bytes) = large().swap_remove(which);
        let name = name_of(&bytes);
        // Where most structures are.
        let base = if from_end { bytes.len().saturating_sub(700) } else { 0 };
        for (at, byte, len) in damage {
            let at = base + at.index(bytes.len() - base);
            let end = (at + len).min(bytes.len());
            bytes[at..end].fill(byte);
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(4500));
        is_bounded(&dump_file(Some(&name), &bytes).unwrap(), &bytes);
    }

    /// As a stranger would make them: what is false has sums that agree.
    #[test]
    fn tables_that_lie_are_dumped(
        which in 0..5usize,
        structure in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        from_end in any::<bool>(),
        lie in prop::sample::select(vec![0u8, 1, 0x7f, 0x80, 0xff]),
        len in 1..9usize,
    ) {
        let (mut meta, mut bytes) = large().swap_remove(which);
        let name = name_of(&bytes);
        let starts: Vec<usize> =
            structure_starts(&dump(&bytes)).into_iter().map(|start| start.try_into().unwrap()).collect();
        let footer = starts[starts.len() - 2];
        // Past header and padding; the trailer is made again below.
        let structure = 2 + structure.index(starts.len() - 3);
        let (start, end) = (starts[structure] + 4, starts[structure + 1]);
        let place = at.index((end - start).min(160));
        let at = if from_end { end - 1 - place } else { start + place };
        bytes[at..(at + len).min(end)].fill(lie);
        if start < footer {
            sum_again(&mut bytes[..end], meta.id, start - 4);
        }
        meta.footer_hash = hash_again(&mut bytes, footer);
        let dump = dump_file(Some(&name), &bytes).unwrap();
        is_bounded(&dump, &bytes);
        if is_refused(meta, &bytes) {
            prop_assert!(!invalid(&dump).is_empty(), "{at} of {start}..{end}");
        }
    }

    #[test]
    fn a_damaged_edit_is_dumped(at in any::<prop::sample::Index>(), byte: u8, end: prop::sample::Index) {
        let edit = LevelEdit {
            tree: TableKind::Names,
            added: vec![(1, names(2, None).0)],
            removed: vec![NAMES, TableId { ordinal: Ordinal(9), ..NAMES }],
        };
        let mut bytes = Vec::new();
        edit.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(end.index(bytes.len() + 1));
        let mut dump = Dump::new();
        let taken = level_edit(&mut dump, 0, &bytes);
        tiles_from(0, &dump, taken);
        let decoded = LevelEdit::decode(&mut pinstone_disk::codec::Reader::new(&bytes));
        prop_assert_eq!(invalid(&dump).is_empty(), decoded.is_ok());
    }
}
