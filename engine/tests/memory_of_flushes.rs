//! What a flush takes of memory beside what it flushes. A binary of its own: it looks at the memory of the whole
//! process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use common::process::{forget_peak, peak_bytes};
use pinstone::{Batch, Maintenance, Store};

#[test]
fn a_flush_of_names_with_many_pinned_versions_copies_few_of_them_at_once() {
    // A real directory: a simulated disk would hold the table in memory.
    let directory = tempfile::tempdir().unwrap();
    let builder = Store::builder().pointer_segment_bytes(11 << 20).maintenance(Maintenance::Inline);
    let store = builder.open(directory.path().join("store")).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let mut snapshots = Vec::new();
    let grown_bytes = loop {
        let batch = (0..250).fold(Batch::new(), |batch, at| batch.set(format!("{at:03}"), digest));
        forget_peak();
        let before_bytes = peak_bytes();
        store.commit(batch).unwrap();
        if store.stats().names.flush_count > 0 {
            break peak_bytes().saturating_sub(before_bytes);
        }
        snapshots.push(store.snapshot());
    };
    println!("{} versions of each name, {grown_bytes} bytes taken by the flush", snapshots.len());
    assert!(snapshots.len() > 500 && grown_bytes < 8 << 20, "{} {grown_bytes}", snapshots.len());
}
