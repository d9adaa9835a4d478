//! How fast blocks of names are read and written, against a copy of the same bytes.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "this measures by the clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::table::name_block::{Block, BlockBuilder, Cursor};
use pinstone_compaction::table::name_find::{Found, Sought};
use pinstone_disk::checksum::Seed;
use pinstone_disk::{Digest, FileKind, Ordinal, StoreId, TableKind};

const NAMES: u64 = 1_000_000;
const ROUNDS: usize = 7;
const SEEKS: u64 = 100_000;

fn seed() -> Seed {
    Seed::of_file(&StoreId([7; 16]), FileKind::Table(TableKind::Names), Ordinal(3))
}

/// Names of about 40 bytes.
fn names(scattered: bool) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = (0..NAMES)
        .map(|n| {
            let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if scattered {
                format!("{mixed:016x}/build/artifact-{:08}", n % 10_000_000).into_bytes()
            } else {
                format!("builds/project-{:03}/artifact/{:016x}", n % 500, mixed).into_bytes()
            }
        })
        .collect();
    names.sort();
    names
}

/// The least time of some rounds, in nanoseconds an item.
fn time(items: u64, mut work: impl FnMut() -> u64) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(work());
        least = least.min(start.elapsed().as_secs_f64());
    }
    least * 1e9 / items as f64
}

fn main() {
    for (scattered, block_bytes) in [(false, 4096), (false, 16384), (true, 4096), (true, 16384)] {
        let names = names(scattered);
        let digest = Digest::of(b"value");
        let build = || {
            let mut builder = BlockBuilder::new();
            let mut blocks: Vec<Bytes> = Vec::new();
            for (n, name) in names.iter().enumerate() {
                builder.push(name, n as u64 + 1_000_000, Some(&digest));
                if builder.len_bytes() >= block_bytes {
                    blocks.push(builder.finish(seed(), 0).into());
                }
            }
            if !builder.is_empty() {
                blocks.push(builder.finish(seed(), 0).into());
            }
            blocks
        };
        let built = build();
        let bytes: usize = built.iter().map(Bytes::len).sum();
        println!(
            "names {}, blocks of {block_bytes}: {:.1} bytes an entry, names {:.1}",
            if scattered { "scattered" } else { "under prefixes" },
            bytes as f64 / NAMES as f64,
            names.iter().map(Vec::len).sum::<usize>() as f64 / NAMES as f64,
        );
        let open = |bytes: &Bytes| Arc::new(Block::open(bytes.clone(), seed(), 0).unwrap());
        let blocks: Vec<_> = built.iter().map(open).collect();

        let mut target = Vec::with_capacity(1 << 20);
        let copy = time(NAMES, || {
            for bytes in &built {
                target.clear();
                target.extend_from_slice(bytes);
                black_box(&target);
            }
            target.len() as u64
        });
        println!("  copy            {copy:6.1} ns an entry");
        let show = |what, ns: f64| println!("  {what:15} {ns:6.1} ns, {:5.1} copies", ns / copy);
        show("build", time(NAMES, || build().len() as u64));
        show("open", time(NAMES, || built.iter().map(|b| open(b).entry_count() as u64).sum()));
        let forward = || {
            let mut cursor = Cursor::new(blocks[0].clone());
            let mut sum = 0;
            for block in &blocks {
                cursor.enter(block.clone());
                while cursor.forward() {
                    let entry = cursor.entry().unwrap();
                    sum += entry.commit + entry.name.len() as u64 + u64::from(entry.name[0]);
                    black_box(entry.to);
                }
            }
            sum
        };
        show("forward", time(NAMES, forward));
        let backward = || {
            let mut cursor = Cursor::new(blocks[0].clone());
            let mut sum = 0;
            for block in blocks.iter().rev() {
                cursor.enter_at_end(block.clone());
                while cursor.back() {
                    let entry = cursor.entry().unwrap();
                    sum += entry.commit + entry.name.len() as u64 + u64::from(entry.name[0]);
                    black_box(entry.to);
                }
            }
            sum
        };
        show("backward", time(NAMES, backward));
        let opened = || {
            let mut cursor = Cursor::new(blocks[0].clone());
            let mut sum = 0;
            for bytes in &built {
                cursor.enter(open(bytes));
                while cursor.forward() {
                    sum += cursor.entry().unwrap().commit;
                }
            }
            sum
        };
        show("open, forward", time(NAMES, opened));
        let kept = || {
            let mut cursor = Cursor::new(blocks[0].clone());
            let mut entries: Vec<NameEntry> = Vec::with_capacity(1024);
            for block in &blocks {
                cursor.enter(block.clone());
                entries.clear();
                while cursor.forward() {
                    entries.extend(cursor.keep());
                }
                black_box(&entries);
            }
            0
        };
        show("forward, kept", time(NAMES, kept));
        let first_of = |block: &Arc<Block>| block.first().keep().unwrap().name;
        let firsts: Vec<_> = blocks.iter().map(first_of).collect();
        let mut cursor = Cursor::new(blocks[0].clone());
        let seeks = |fresh: bool, cursor: &mut Cursor| {
            let mut found = 0;
            for n in 0..SEEKS {
                // Within what the caches of a processor hold, in no order.
                let at = usize::try_from(n * 7919 % 10_000).unwrap();
                let block = &blocks[firsts[..400.min(firsts.len())]
                    .partition_point(|first| *first <= names[at])
                    - 1];
                if fresh {
                    let version = block.find(&Sought::new(&names[at], 7), u64::MAX);
                    found += u64::from(matches!(version, Found::Version(..)));
                } else {
                    cursor.enter(block.clone());
                    found += u64::from(cursor.seek(&names[at], u64::MAX));
                }
            }
            assert_eq!(found, SEEKS);
            found
        };
        show("find", time(SEEKS, || seeks(true, &mut cursor)));
        show("seek", time(SEEKS, || seeks(false, &mut cursor)));
    }
}
