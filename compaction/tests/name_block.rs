//! Blocks of a name table against a sorted list, and against bytes that no builder wrote.
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::table::name_block::{
    BLOCK_BYTES_MAX, Block, BlockBuilder, Cursor, RUN_ENTRIES,
};
use pinstone_compaction::table::name_find::{Found, Sought};
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::{Malformed, put_varint};
use pinstone_disk::{Digest, FileKind, Ordinal, StoreId, TableKind};
use proptest::collection::vec;
use proptest::prelude::*;

const OFFSET_BYTES: u64 = 12_288;
const FILTER_SEED: u64 = 0x5eed;

fn seed() -> Seed {
    Seed::of_file(&StoreId([7; 16]), FileKind::Table(TableKind::Names), Ordinal(3))
}

fn entry(name: &[u8], commit: u64, deleted: bool) -> NameEntry {
    let to = (!deleted).then(|| Digest::of(&[name, &commit.to_le_bytes()].concat()));
    NameEntry { name: Bytes::copy_from_slice(name), commit, to }
}

/// Sorted, each version once.
fn sorted(mut entries: Vec<NameEntry>) -> Vec<NameEntry> {
    entries.sort();
    entries.dedup_by(|a, b| (&a.name, a.commit) == (&b.name, b.commit));
    entries
}

fn encode(entries: &[NameEntry]) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for entry in entries {
        builder.push(&entry.name, entry.commit, entry.to.as_ref());
    }
    let len_bytes = builder.len_bytes();
    let bytes = builder.finish(seed(), OFFSET_BYTES);
    assert_eq!(bytes.len(), len_bytes);
    assert!(builder.is_empty());
    bytes
}

fn open(bytes: Vec<u8>) -> Result<Arc<Block>, Malformed> {
    Block::open(bytes.into(), seed(), OFFSET_BYTES).map(Arc::new)
}

/// The block as the checksum of whoever made it would have it.
fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some((crc, rest)) = bytes.split_first_chunk_mut() {
        *crc = seed().at(OFFSET_BYTES, &[rest]).to_le_bytes();
    }
    bytes
}

/// What the cursor is on, and all after it.
fn rest_forward(mut cursor: Cursor) -> Vec<NameEntry> {
    let mut entries = Vec::new();
    while let Some(entry) = cursor.keep() {
        entries.push(entry);
        cursor.forward();
    }
    assert!(!cursor.forward(), "past the end is past the end");
    entries
}

/// What the cursor is on, and all before it.
fn rest_back(mut cursor: Cursor) -> Vec<NameEntry> {
    let mut entries = Vec::new();
    while let Some(entry) = cursor.keep() {
        entries.push(entry);
        cursor.back();
    }
    assert!(!cursor.back(), "before the start is before the start");
    entries.reverse();
    entries
}

/// Seeks the target anew and with a cursor that was elsewhere, and walks both ways from there.
fn check_seek(
    block: &Arc<Block>,
    entries: &[NameEntry],
    used: &mut Cursor,
    name: &[u8],
    commit: u64,
) {
    let before = |entry: &NameEntry| {
        (&entry.name[..], std::cmp::Reverse(entry.commit)) < (name, std::cmp::Reverse(commit))
    };
    let index = entries.partition_point(before);
    let found = match entries.get(index) {
        Some(entry) if *entry.name == *name => Found::Version(entry.commit, entry.to),
        Some(_) => Found::Nothing,
        None => Found::End,
    };
    assert_eq!(block.find(&Sought::new(name, FILTER_SEED), commit), found);
    let mut cursor = Cursor::new(Arc::clone(block));
    cursor.seek(name, commit);
    assert_eq!(used.seek(name, commit), index < entries.len());
    assert_eq!(used.keep(), entries.get(index).cloned());
    assert_eq!(rest_forward(cursor.clone()), entries[index..]);
    let mut back = cursor;
    assert_eq!(back.back(), index > 0);
    assert_eq!(rest_back(back.clone()), entries[..index]);
    assert_eq!(back.forward(), index < entries.len());
}

fn check(entries: &[NameEntry]) {
    let block = open(encode(entries)).unwrap();
    assert_eq!(block.entry_count(), entries.len());
    assert_eq!(rest_forward(block.first()), entries);
    assert_eq!(rest_back(block.last()), entries);
    let mut used = block.last();
    check_seek(&block, entries, &mut used, b"", u64::MAX);
    check_seek(&block, entries, &mut used, &[0xff; 1025], 0);
    for NameEntry { name, commit, .. } in entries {
        for commit in [*commit, commit.saturating_add(1), commit.saturating_sub(1), 0, u64::MAX] {
            check_seek(&block, entries, &mut used, name, commit);
        }
        let longer = [name, &b"\0"[..]].concat();
        check_seek(&block, entries, &mut used, &longer, u64::MAX);
        check_seek(&block, entries, &mut used, &name[..name.len() - 1], 0);
    }
}

/// Names as they come: under few prefixes, binary, of any length up to the limit.
fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => "(refs/|refs/heads/|r|)[ab]{1,6}".prop_map(String::into_bytes),
        4 => vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..5),
        1 => vec(Just(b'x'), 1..=1024),
        1 => vec(any::<u8>(), 1024),
    ]
}

fn entries(count_max: usize) -> impl Strategy<Value = Vec<NameEntry>> {
    let commit = prop_oneof![3 => 0..6u64, 1 => any::<u64>()];
    let one = (names(), commit, any::<bool>());
    vec(one.prop_map(|(name, commit, deleted)| entry(&name, commit, deleted)), 1..count_max)
        .prop_map(sorted)
}

/// Entries as the tests below take them: shared bytes, the rest, the commit, the kind.
type Raw<'a> = (u64, &'a [u8], u64, u8);

/// A block of these entries, whatever they are, with a checksum that matches.
fn raw_block(raws: &[Raw<'_>]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    let mut run_offsets = Vec::new();
    for (index, (shared_bytes, rest, commit, kind)) in raws.iter().enumerate() {
        if index % RUN_ENTRIES == 0 {
            run_offsets.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
        }
        put_varint(&mut bytes, *shared_bytes);
        put_varint(&mut bytes, rest.len() as u64);
        put_varint(&mut bytes, *commit);
        bytes.push(*kind);
        bytes.extend_from_slice(rest);
        bytes.resize(bytes.len() + if *kind == 0 { 0 } else { 32 }, 9);
    }
    bytes.extend_from_slice(&run_offsets);
    bytes.extend_from_slice(&u32::try_from(raws.len()).unwrap().to_le_bytes());
    mended(bytes)
}

fn refusal(bytes: Vec<u8>) -> &'static str {
    open(mended(bytes)).map(|_| ()).unwrap_err().what
}

/// Bytes that someone made with a checksum that matches: refused, or just what the builder writes.
fn check_hostile(bytes: Vec<u8>) {
    let Ok(block) = open(mended(bytes.clone())) else { return };
    let entries = rest_forward(block.first());
    assert_eq!(entries.len(), block.entry_count());
    assert_eq!(rest_back(block.last()), entries);
    assert_eq!(encode(&entries), mended(bytes), "a block has one encoding");
}

proptest! {
    #[test]
    fn a_block_gives_back_its_entries(entries in entries(80)) {
        check(&entries);
    }

    #[test]
    fn a_cursor_goes_where_an_index_goes(entries in entries(60), steps in vec(0..7u8, 1..200)) {
        let block = open(encode(&entries)).unwrap();
        let mut cursor = Cursor::new(block);
        let mut place = 0;
        for step in steps {
            let stands = match step {
                0..3 => { place = (place + 1).min(entries.len() + 1); cursor.forward() }
                3..6 => { place = place.saturating_sub(1); cursor.back() }
                _ => {
                    let target = &entries[(place * 7 + 3) % entries.len()];
                    place = 1 + entries.iter().position(|entry| entry == target).unwrap();
                    cursor.seek(&target.name, target.commit)
                }
            };
            let expected = place.checked_sub(1).and_then(|index| entries.get(index)).cloned();
            prop_assert_eq!(stands, expected.is_some());
            prop_assert_eq!(cursor.keep(), expected);
        }
    }

    #[test]
    fn random_bytes_are_refused_or_are_a_block(bytes in vec(any::<u8>(), 0..300)) {
        check_hostile(bytes);
    }

    #[test]
    fn changed_bytes_are_refused_or_are_a_block(
        entries in entries(40),
        changes in vec((any::<prop::sample::Index>(), prop_oneof![0..4u8, any::<u8>()]), 1..4),
    ) {
        let mut bytes = encode(&entries);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        check_hostile(bytes);
    }

    #[test]
    fn bytes_put_in_or_taken_out_are_refused_or_are_a_block(
        entries in entries(40),
        at: prop::sample::Index,
        removed in 0..40usize,
        put in vec(prop_oneof![0..4u8, any::<u8>()], 0..40),
    ) {
        let mut bytes = encode(&entries);
        let at = at.index(bytes.len());
        let end = (at + removed).min(bytes.len());
        bytes.splice(at..end, put);
        check_hostile(bytes);
    }
}

/// Some of everything, in little more than three runs.
fn mixed() -> Vec<NameEntry> {
    let mut entries: Vec<_> = (0..40u64)
        .map(|n| entry(format!("refs/heads/{:03}", n / 2).as_bytes(), n * 99, n % 7 == 0))
        .collect();
    entries.push(entry(b"\0", 1, false));
    entries.extend((0..9).map(|n| entry(b"many", 1 << (n * 7), n == 4)));
    entries.push(entry(&[0xff; 1024], u64::MAX, false));
    sorted(entries)
}

#[test]
fn many_versions_of_one_name_are_found_each() {
    let versions: Vec<_> = (1..=100).map(|n| entry(b"name", n * 3, n % 5 == 0)).collect();
    check(&sorted(versions));
}

#[test]
fn names_of_one_byte_are_found_each() {
    check(&sorted((0..=255).map(|byte| entry(&[byte], 5, byte % 2 == 0)).collect()));
}

#[test]
fn names_of_1024_bytes_are_found_each() {
    let long = |n: u8| [&[b'n'; 1023][..], &[n]].concat();
    check(&sorted((0..70).map(|n| entry(&long(n), 5, false)).collect()));
}

#[test]
fn names_that_begin_with_each_other_are_found_each() {
    check(&sorted((1..=90).map(|n| entry(&vec![b'a'; n], n as u64, false)).collect()));
}

/// Each tag is some ten names', and most names share bytes with several before them.
#[test]
fn names_with_one_tag_are_told_apart() {
    let name = |number: u32| format!("{:b}/{number}", number.wrapping_mul(0x9e37_79b1) >> 16);
    let all = sorted((0..2_500).map(|number| entry(name(number).as_bytes(), 9, false)).collect());
    let block = open(encode(&all)).unwrap();
    for entry in &all {
        let found = block.find(&Sought::new(&entry.name, FILTER_SEED), 9);
        assert_eq!(found, Found::Version(9, entry.to));
    }
    for number in 2_500..10_000 {
        let found = block.find(&Sought::new(name(number).as_bytes(), FILTER_SEED), 9);
        assert!(matches!(found, Found::Nothing | Found::End), "{number}: {found:?}");
    }
}

#[test]
fn whole_and_broken_runs_are_walked() {
    for count in [1, 15, 16, 17, 31, 32, 33, 48] {
        check(&sorted((0..count).map(|n| entry(format!("n{n}").as_bytes(), 1, false)).collect()));
    }
}

#[test]
fn a_cursor_goes_on_in_the_next_block() {
    let entries = mixed();
    let (left, right) = entries.split_at(21);
    let mut builder = BlockBuilder::new();
    let mut blocks = Vec::new();
    for half in [left, right] {
        half.iter().for_each(|entry| builder.push(&entry.name, entry.commit, entry.to.as_ref()));
        let block = Block::open(builder.finish(seed(), 0).into(), seed(), 0).unwrap();
        blocks.push(Arc::new(block));
    }
    let mut cursor = Cursor::new(blocks[0].clone());
    cursor.seek(&entries[18].name, entries[18].commit);
    cursor.enter(blocks[1].clone());
    assert_eq!(cursor.keep(), None);
    assert!(cursor.forward());
    assert_eq!(rest_forward(cursor.clone()), right);
    cursor.enter_at_end(blocks[0].clone());
    assert!(cursor.back());
    assert_eq!(rest_back(cursor), left);
}

#[test]
fn a_finished_builder_makes_the_next_block_as_a_new_one_would() {
    let entries = mixed();
    let mut builder = BlockBuilder::new();
    for _ in 0..2 {
        entries.iter().for_each(|entry| builder.push(&entry.name, entry.commit, entry.to.as_ref()));
        assert_eq!(builder.finish(seed(), OFFSET_BYTES), encode(&entries));
    }
}

#[test]
fn the_layout_is_as_described() {
    let mut builder = BlockBuilder::new();
    builder.push(b"ab", 300, Some(&Digest::from_bytes([0xdd; 32])));
    builder.push(b"ab", 7, None);
    builder.push(b"ax", 0, None);
    let bytes = builder.finish(seed(), OFFSET_BYTES);
    let mut expected = seed().at(OFFSET_BYTES, &[&bytes[4..]]).to_le_bytes().to_vec();
    expected.extend_from_slice(&[0, 2, 0xac, 0x02, 1, b'a', b'b']);
    expected.extend_from_slice(&[0xdd; 32]);
    expected.extend_from_slice(&[2, 0, 7, 0]);
    expected.extend_from_slice(&[1, 1, 0, 0, b'x']);
    expected.extend_from_slice(&[4, 0, 0, 0]);
    expected.extend_from_slice(&[3, 0, 0, 0]);
    assert_eq!(bytes, expected);
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = encode(&mixed());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let what = open(flipped).unwrap_err().what;
        assert_eq!(what, "the checksum of the block's bytes", "bit {bit}");
    }
}

#[test]
fn every_truncation_is_found() {
    let bytes = encode(&mixed());
    for len_bytes in 0..bytes.len() {
        assert!(open(bytes[..len_bytes].to_vec()).is_err(), "{len_bytes}");
        check_hostile(bytes[..len_bytes].to_vec());
    }
}

#[test]
fn a_block_elsewhere_is_not_this_block() {
    let bytes = Bytes::from(encode(&mixed()));
    assert!(Block::open(bytes.clone(), seed(), OFFSET_BYTES + 1).is_err());
    let other = Seed::of_file(&StoreId([7; 16]), FileKind::Table(TableKind::Names), Ordinal(4));
    assert!(Block::open(bytes, other, OFFSET_BYTES).is_err());
}

#[test]
fn what_no_builder_writes_is_refused_by_name() {
    let order = "an entry that comes after the one before";
    let name = "a name of 1 to 1024 bytes";
    let shared = "bytes shared with the name before";
    let long = [b'x'; 1024];
    let too_long = [b'x'; 1025];
    let cases: &[(&[Raw<'_>], &str)] = &[
        (&[], "a count of the entries that there are"),
        (&[(0, b"", 1, 0)], name),
        (&[(0, &too_long, 1, 0)], name),
        (&[(0, &long, 1, 0), (1024, b"x", 1, 0)], name),
        (&[(1, b"a", 1, 0)], shared),
        (&[(0, b"a", 1, 0), (2, b"a", 1, 0)], shared),
        (&[(0, b"a", 1, 0), (u64::MAX, b"a", 1, 0)], shared),
        (&[(0, b"b", 1, 0), (0, b"a", 1, 0)], order),
        (&[(0, b"ab", 1, 0), (1, b"", 1, 0)], order),
        (&[(0, b"a", 1, 0), (1, b"", 1, 0)], order),
        (&[(0, b"a", 1, 0), (1, b"", 2, 0)], order),
        // In order, but with fewer shared bytes than are equal.
        (&[(0, b"aa", 1, 0), (0, b"ab", 1, 0)], order),
        (&[(0, b"a", 2, 0), (0, b"a", 1, 0)], order),
        (&[(0, b"a", 1, 2)], "a digest kind that this build knows"),
    ];
    for (raws, what) in cases {
        assert_eq!(refusal(raw_block(raws)), *what, "{raws:?}");
    }
    let names: Vec<[u8; 1]> = (0..17).map(|n| [n]).collect();
    let mut run: Vec<Raw<'_>> = names.iter().map(|name| (0, &name[..], 1, 0)).collect();
    assert!(open(raw_block(&run)).is_ok());
    run[16] = (0, &[3], 1, 0);
    assert_eq!(refusal(raw_block(&run)), order, "across the start of a run");
    run[16] = (1, &[3], 1, 0);
    assert_eq!(refusal(raw_block(&run)), shared, "at the start of a run");
}

#[test]
fn an_end_that_does_not_fit_the_entries_is_refused_by_name() {
    let bytes = raw_block(&[(0, b"a", 1, 0), (0, b"b", 1, 1)]);
    let end = bytes.len();
    let changed = |at: usize, put: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + put.len()].copy_from_slice(put);
        bytes
    };
    let misplaced = "an entry that begins a run where the block's end says";
    assert_eq!(refusal(changed(end - 8, &[5])), misplaced);
    assert_eq!(refusal(changed(end - 8, &[0xff; 4])), misplaced);
    let left_over = "nothing between the entries and the offsets of runs";
    assert_eq!(refusal(changed(end - 4, &[1])), left_over);
    assert_eq!(refusal(changed(end - 4, &[3])), "how many bytes are shared");
    let count = "a count of the entries that there are";
    assert_eq!(refusal(changed(end - 4, &[0xff; 4])), count);
    assert_eq!(refusal(changed(end - 4, &[0])), count);
    assert_eq!(refusal(changed(5, &[0x80, 0])), "how many bytes follow");
    assert_eq!(refusal(changed(5, &[0x7f])), "a name's bytes");
    assert_eq!(refusal(vec![0; 3]), "a block's checksum");
    assert_eq!(refusal(vec![0; 6]), "a count of entries");
    assert_eq!(refusal(vec![0; BLOCK_BYTES_MAX + 1]), "a block of at most 16 MiB");
}

#[test]
#[should_panic(expected = "entries are pushed in order")]
fn an_older_version_does_not_come_first() {
    let mut builder = BlockBuilder::new();
    builder.push(b"a", 1, None);
    builder.push(b"a", 2, None);
}

#[test]
#[should_panic(expected = "entries are pushed in order")]
fn a_lesser_name_does_not_come_later() {
    let mut builder = BlockBuilder::new();
    builder.push(b"ab", 1, None);
    builder.push(b"aa", 1, None);
}
