//! Filters never deny a key of their set, let through one stranger in 256, and are made of bytes
//! that stay what they are.
#![allow(clippy::unwrap_used, reason = "this is test code")]

use bytes::Bytes;
use pinstone_compaction::table::filter::{
    FILTER_HEADER_BYTES, FILTER_KEYS_MAX, Filter, digest_key, name_key,
};
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::Malformed;
use pinstone_disk::{Digest, FileKind, Ordinal, StoreId, TableKind};
use proptest::collection::vec;
use proptest::prelude::*;

const OFFSET_BYTES: u64 = 40_960;

fn seed() -> Seed {
    Seed::of_file(&StoreId([7; 16]), FileKind::Table(TableKind::Index), Ordinal(3))
}

/// Keys without an order, each number another one.
fn key(number: u64) -> u64 {
    split_mix(number.wrapping_add(1).wrapping_mul(GOLDEN))
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn split_mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn build(keys: impl IntoIterator<Item = u64>) -> Filter {
    Filter::build(&mut keys.into_iter().collect()).unwrap()
}

fn encode(filter: &Filter) -> Vec<u8> {
    filter.encode(seed(), OFFSET_BYTES)
}

fn decode(bytes: Vec<u8>) -> Result<Filter, Malformed> {
    Filter::decode(&bytes.into(), seed(), OFFSET_BYTES)
}

/// The filter's bytes as the checksum of whoever made them would have them.
fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some((crc, rest)) = bytes.split_first_chunk_mut() {
        *crc = seed().at(OFFSET_BYTES, &[rest]).to_le_bytes();
    }
    bytes
}

/// All keys of the set pass, also once the filter was written and read.
fn check(keys: &[u64]) -> Filter {
    let filter = build(keys.iter().copied());
    let read = decode(encode(&filter)).unwrap();
    assert_eq!(read, filter);
    for key in keys {
        assert!(read.may_contain(*key), "{key:#x} of {} keys", keys.len());
    }
    filter
}

proptest! {
    #[test]
    fn no_key_is_denied(keys in vec(any::<u64>(), 1..600)) {
        check(&keys);
    }

    #[test]
    fn no_key_is_denied_however_alike_they_are(
        base: u64, shift in 0..64u32, count in 1..300u64, step in 1..40u64,
    ) {
        let alike = |n: u64| base.wrapping_add((n * step).rotate_left(shift));
        check(&(0..count).map(alike).collect::<Vec<_>>());
    }

    #[test]
    fn the_order_of_keys_and_how_often_they_come_are_nothing(
        mut keys in vec(any::<u64>(), 1..200),
        repeated in vec(any::<prop::sample::Index>(), 0..50),
    ) {
        let filter = encode(&build(keys.iter().copied()));
        for index in repeated {
            keys.push(keys[index.index(keys.len())]);
        }
        keys.reverse();
        prop_assert_eq!(encode(&build(keys)), filter);
    }

    #[test]
    fn bytes_that_someone_made_are_refused_or_answer(
        header in vec(prop_oneof![0..4u8, any::<u8>()], FILTER_HEADER_BYTES),
        fingerprints in vec(any::<u8>(), 0..200),
        keys in vec(any::<u64>(), 20),
    ) {
        let mut bytes = [header, fingerprints].concat();
        bytes[4] = 1;
        bytes[6..8].fill(0);
        if let Ok(filter) = decode(mended(bytes)) {
            keys.iter().for_each(|key| { filter.may_contain(*key); });
        }
    }

    #[test]
    fn fields_that_someone_changed_are_refused_or_answer(
        count in 1..400u64,
        at in 4..FILTER_HEADER_BYTES,
        byte: u8,
    ) {
        let mut bytes = encode(&build((0..count).map(key)));
        bytes[at] = byte;
        if let Ok(filter) = decode(mended(bytes)) {
            for number in [0, u64::MAX].into_iter().chain((0..200).map(key)) {
                filter.may_contain(number);
            }
        }
    }
}

#[test]
fn every_small_set_has_a_filter() {
    for count in 1..=1500 {
        check(&(0..count).map(key).collect::<Vec<_>>());
    }
}

#[test]
fn strangers_pass_once_in_256() {
    const STRANGERS: u64 = 400_000;
    // What is expected, and six standard deviations.
    let (expected, most_off) = (STRANGERS / 256, 240);
    for count in [1, 2, 100, 65_280, 1_000_000u64] {
        let keys: Vec<_> = (0..count).map(key).collect();
        let filter = check(&keys);
        assert_eq!(u64::from(filter.key_count()), count);
        let strangers = (count..count + STRANGERS).map(key);
        let passed = strangers.filter(|key| filter.may_contain(*key)).count() as u64;
        assert!(passed.abs_diff(expected) < most_off, "{passed} passed a filter of {count} keys");
    }
}

#[test]
fn large_filters_take_little_more_than_nine_bits_a_key() {
    for (count, bits_max) in [(100, 21.), (1_000, 12.5), (65_280, 9.6), (1_000_000, 9.1)] {
        let filter = build((0..count).map(key));
        let bits = encode(&filter).len() as f64 * 8. / count as f64;
        assert!(bits > 9. && bits < bits_max, "{bits} bits a key of {count}");
        assert!(filter.memory_bytes() < encode(&filter).len() + 64);
    }
}

type Make = fn(u64) -> u64;

#[test]
fn keys_that_differ_in_few_bits_are_told_apart() {
    // What is not in the set passes as rarely as any stranger, though it is much like the keys.
    let sets: [(&str, Make); 5] = [
        ("low bits", |n| n),
        ("high bits", |n| n << 48),
        ("the low byte", |n| 0x0123_4567_89ab_cd00 | n),
        ("a middle byte", |n| 0x0123_4500_89ab_cdef | (n << 32)),
        ("every other bit", |n| n.wrapping_mul(0x0001_0001_0001_0001)),
    ];
    for (what, make) in sets {
        let keys: Vec<_> = (0..256).map(make).collect();
        let filter = check(&keys[..128]);
        let passed = keys[128..].iter().filter(|key| filter.may_contain(**key)).count();
        assert!(passed < 6, "{passed} of 128 passed that differ in {what}");
    }
    for (what, make) in [("low bits", sets[0].1), ("high bits", sets[1].1)] {
        let keys: Vec<_> = (0..60_000).map(make).collect();
        let filter = check(&keys[..20_000]);
        let passed = keys[20_000..].iter().filter(|key| filter.may_contain(**key)).count();
        assert!(passed.abs_diff(156) < 76, "{passed} of 40000 passed that differ in {what}");
    }
}

#[test]
fn the_key_that_the_first_seed_turns_into_zero_is_no_exception() {
    let first_seed = seed_of(&build([1]));
    for count in [1, 2, 3, 100, 5000] {
        let zero = 0u64.wrapping_sub(first_seed);
        check(&[zero].into_iter().chain((1..count).map(key)).collect::<Vec<_>>());
    }
}

/// The hash's mixing, backwards.
fn unmix(mut bits: u64) -> u64 {
    let inverse = |factor: u64| {
        (0..6).fold(factor, |inverse: u64, _| {
            inverse.wrapping_mul(2u64.wrapping_sub(factor.wrapping_mul(inverse)))
        })
    };
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(inverse(0xc4ce_b9fe_1a85_ec53));
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(inverse(0xff51_afd7_ed55_8ccd));
    bits ^ (bits >> 33)
}

#[test]
fn keys_made_to_fail_have_no_filter_but_fail_nothing_once_they_are_seeded() {
    // Against each seed that the construction tries, two keys with the same three places.
    let mut keys = Vec::new();
    for number in 0..1000u64 {
        let seed = split_mix((number + 1).wrapping_mul(GOLDEN).wrapping_add(1));
        let hash = key(1_000_000 + number);
        keys.extend([hash, hash ^ (1 << 40)].map(|hash| unmix(hash).wrapping_sub(seed)));
    }
    assert_eq!(Filter::build(&mut keys.clone()), None);
    check(&keys.iter().map(|key| digest_key(*key, 0x5eed_5eed_5eed_5eed)).collect::<Vec<_>>());
}

fn seed_of(filter: &Filter) -> u64 {
    u64::from_le_bytes(encode(filter)[16..24].try_into().unwrap())
}

#[test]
fn a_set_of_none_or_too_many_has_no_filter() {
    assert_eq!(Filter::build(&mut Vec::new()), None);
    assert_eq!(Filter::build(&mut (0..=FILTER_KEYS_MAX as u64).collect()), None);
    assert!(Filter::build(&mut vec![5; FILTER_KEYS_MAX + 1]).is_some(), "one key, often");
}

/// If this fails, the crate that constructs now chooses otherwise: bytes differ from those of earlier
/// builds, and nothing is wrong with either.
#[test]
fn equal_keys_make_these_bytes() {
    let filter = build([1, 2, 3]);
    assert_eq!(hex(&encode(&filter)), THREE_KEYS);
    let many = encode(&build((0..65_280).map(key)));
    assert_eq!(Digest::of(&many).to_string(), MANY_KEYS);
}

/// If this fails, filters on disk deny their keys: the format was changed.
#[test]
fn these_bytes_hold_these_keys() {
    let bytes: Vec<_> = THREE_KEYS
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let filter = decode(bytes).unwrap();
    let passing: Vec<_> = (0..1_000).filter(|key| filter.may_contain(*key)).collect();
    assert_eq!(passing, THREE_KEYS_PASSING);
}

const THREE_KEYS: &str = "5816e0e2010300000100000003000000c15c0289ec2d0a91000000ca000000000000000000000000b800000000bb0000";
const THREE_KEYS_PASSING: &[u64] = &[1, 2, 3, 406, 477, 581, 641, 730];
const MANY_KEYS: &str = "b5b6b31f315bd46f42bcafb1f42a8409e5aa6013993cc91aef197d0c0f8636b9";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// If this fails, tables on disk deny their names: the format was changed.
#[test]
fn names_have_these_keys() {
    let long: Vec<u8> = (0..=255).cycle().take(1024).collect();
    for (name, seed, expected) in [
        (&b""[..], 0, 0xd1fb_a762_150c_532c),
        (b"a", 0, 0x4074_48d2_b89b_1813),
        (b"refs/heads/main", 0, 0x125e_6d7d_be35_b011),
        (b"refs/heads/main", 1, 0xbe55_89b7_9649_9ce6),
        (b"refs/heads/main", u64::MAX, 0xb5c3_fe1e_3f2f_6150),
        (&long, 0x0123_4567_89ab_cdef, 0x3365_c7ad_ec62_8107),
    ] {
        assert_eq!(name_key(name, seed), expected, "{:#x}", name_key(name, seed));
    }
    assert_eq!(digest_key(0x0123_4567_89ab_cdef, 0xff), 0x0123_4567_89ab_cd10);
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = encode(&build((0..300).map(key)));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_found() {
    let bytes = encode(&build((0..300).map(key)));
    for len_bytes in 0..bytes.len() {
        assert!(decode(bytes[..len_bytes].to_vec()).is_err(), "{len_bytes}");
        assert!(decode(mended(bytes[..len_bytes].to_vec())).is_err(), "{len_bytes}, mended");
    }
    assert!(decode(mended([bytes, vec![0]].concat())).is_err());
}

#[test]
fn a_filter_elsewhere_is_not_this_filter() {
    let bytes = Bytes::from(encode(&build((0..300).map(key))));
    assert!(Filter::decode(&bytes, seed(), OFFSET_BYTES + 1).is_err());
    let other = Seed::of_file(&StoreId([7; 16]), FileKind::Table(TableKind::Index), Ordinal(4));
    assert!(Filter::decode(&bytes, other, OFFSET_BYTES).is_err());
}

#[test]
fn fields_that_do_not_fit_are_refused_by_name() {
    let bytes = encode(&build((0..300).map(key)));
    let refusal = |at: usize, put: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + put.len()].copy_from_slice(put);
        decode(mended(bytes)).unwrap_err().what
    };
    assert_eq!(refusal(4, &[0]), "a kind of filter that this build knows");
    assert_eq!(refusal(4, &[2]), "a kind of filter that this build knows");
    for bits in [0, 1, 19, 63, 64, 255] {
        assert_eq!(refusal(5, &[bits]), "a segment of 4 to 262,144 fingerprints");
    }
    let fingerprints = "as many fingerprints as the segments have";
    assert_eq!(refusal(5, &[bytes[5] + 1]), fingerprints);
    assert_eq!(refusal(6, &[1]), "zeros");
    assert_eq!(refusal(7, &[1]), "zeros");
    assert_eq!(refusal(8, &[0; 4]), fingerprints);
    assert_eq!(refusal(8, &[0xff; 4]), fingerprints);
    let mut two_segments = bytes[..FILTER_HEADER_BYTES].to_vec();
    two_segments[5] = 2;
    two_segments[8..12].fill(0);
    two_segments.resize(FILTER_HEADER_BYTES + 8, 0);
    assert_eq!(decode(mended(two_segments)).unwrap_err().what, fingerprints, "no first places");
    let keys = "a count of keys that the fingerprints can tell apart";
    assert_eq!(refusal(12, &[0; 4]), keys);
    assert_eq!(refusal(12, &[0xff; 4]), keys);
}
