//! What filters cost: one for a whole table against one for each 65,280 keys.
//!
//! `filter_pace COUNT PART` measures filters of PART keys each over COUNT keys in all.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "this measures by the clock")]

use std::hint::black_box;
use std::time::Instant;

use pinstone_compaction::table::filter::{Filter, digest_key, name_key};
use pinstone_disk::checksum::Seed;
use pinstone_disk::{FileKind, Ordinal, StoreId, TableKind};

const PROBES: u64 = 4_000_000;

fn key(number: u64) -> u64 {
    let bits = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^ (bits >> 31)
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().unwrap());
    let (count, part) = (args.next().unwrap_or(4_000_000), args.next().unwrap_or(65_280));
    let mut keys: Vec<u64> = (0..count).map(key).collect();
    keys.sort_unstable();

    let mut part_keys = Vec::new();
    let mut slowest = 0f64;
    let start = Instant::now();
    let filters: Vec<(u64, Filter)> = keys
        .chunks(usize::try_from(part).unwrap())
        .map(|chunk| {
            part_keys.clear();
            part_keys.extend(chunk.iter().map(|key| digest_key(*key, 77)));
            let start = Instant::now();
            let filter = Filter::build(&mut part_keys).unwrap();
            slowest = slowest.max(start.elapsed().as_secs_f64());
            (chunk[0], filter)
        })
        .collect();
    let build_ns = start.elapsed().as_secs_f64() * 1e9 / count as f64;
    let seed = Seed::of_file(&StoreId([1; 16]), FileKind::Table(TableKind::Index), Ordinal(1));
    let bytes: usize = filters.iter().map(|(_, filter)| filter.encode(seed, 0).len()).sum();
    println!(
        "{count} keys in {} filters: {:.3} bits a key, built in {build_ns:.0} ns a key, the slowest \
         in {:.1} ms",
        filters.len(),
        bytes as f64 * 8. / count as f64,
        slowest * 1e3
    );

    let probe = |key: u64| {
        let at = filters.partition_point(|(first, _)| *first <= key);
        at > 0 && filters[at - 1].1.may_contain(digest_key(key, 77))
    };
    for (what, offset) in [("keys of the set", 0), ("strangers", count)] {
        let start = Instant::now();
        let mut passed = 0;
        for n in 0..PROBES {
            let number = if offset == 0 { key(n) % count } else { offset + n };
            passed += u64::from(probe(black_box(key(number))));
        }
        println!(
            "  {what}: {:.1} ns a probe, {:.4} % pass",
            start.elapsed().as_secs_f64() * 1e9 / PROBES as f64,
            passed as f64 * 100. / PROBES as f64
        );
    }
    let name = b"builds/project-123/artifact/0123456789abcdef";
    let start = Instant::now();
    for n in 0..PROBES {
        black_box(name_key(black_box(name), n));
    }
    println!("  name_key: {:.1} ns", start.elapsed().as_secs_f64() * 1e9 / PROBES as f64);
}
