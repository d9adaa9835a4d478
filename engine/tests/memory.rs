//! One option bounds what a store takes of anonymous memory, and `stats` tells of it. A binary of its own:
//! it looks at the memory of the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use common::process::anonymous_bytes;
use pinstone::{Batch, MemoryStats, Options, Store};

fn told_bytes(memory: &MemoryStats) -> u64 {
    memory.index_memtable_bytes
        + memory.bad_copies_bytes
        + memory.names_memtable_bytes
        + memory.directory_bytes
        + memory.cache_bytes
        + memory.list_bytes
        + memory.sealer_bytes
        + memory.append_buffer_bytes
        + memory.compaction_bytes
        + memory.root_bytes
}

#[test]
fn a_store_takes_no_more_memory_than_it_may() {
    let limit_bytes = Options::MEMORY_BYTES_MIN;
    let directory = tempfile::tempdir().unwrap();
    let before_bytes = anonymous_bytes();
    let builder = Store::builder().memory_bytes(limit_bytes).segment_bytes(8 << 20);
    let store = builder.open(directory.path().join("store")).unwrap();
    let (mut most_bytes, mut most_told_bytes, mut batch) = (0, 0, Batch::new());
    for number in 0..400_000_u64 {
        let digest = store.put(&number.to_le_bytes().repeat(12)).unwrap().digest;
        if number % 4 == 0 {
            batch = batch.set(format!("service/{number:032}"), digest);
        }
        if number % 4000 == 3999 {
            store.commit(std::mem::take(&mut batch)).unwrap();
            // Look-ups fill caches.
            let known = (number.wrapping_mul(2_654_435_761) % number).to_le_bytes().repeat(12);
            assert!(!store.put(&known).unwrap().new);
            most_bytes = most_bytes.max(anonymous_bytes() - before_bytes);
            most_told_bytes = most_told_bytes.max(told_bytes(&store.stats().memory));
        }
    }
    let levels = store.stats().index.levels;
    assert!(levels.iter().map(|level| level.entry_count).sum::<u64>() > 200_000, "{levels:?}");
    println!("{most_bytes} bytes taken at most, {most_told_bytes} told, {limit_bytes} allowed");
    assert!(most_told_bytes <= limit_bytes, "{most_told_bytes} of {limit_bytes} told");
    assert!(most_bytes <= limit_bytes, "{most_bytes} of {limit_bytes} taken");
}
