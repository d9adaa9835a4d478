//! What it takes of memory to let go of what is carried where all of it is in doubt. A binary of its own: it looks at
//! the memory of the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "a device gone bad")]

mod common;

use std::os::unix::fs::FileExt as _;

use common::process::{forget_peak, peak_bytes};
use pinstone::{Batch, Maintenance, Options, Store};

#[test]
fn what_is_in_doubt_is_looked_at_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let builder = Store::builder().memory_bytes(Options::MEMORY_BYTES_MIN).mmap(false);
    let builder = builder.segment_bytes(8 << 20).pointer_segment_bytes(64 << 20);
    let store = builder.maintenance(Maintenance::Inline).open(&path).unwrap();
    let segments = || {
        let names = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("pointer"));
        names.sort();
        names
    };
    let mut number = 0u64;
    let mut commit = || {
        let put = |number: u64| store.put(&number.to_le_bytes().repeat(500)).unwrap().digest;
        let digests: Vec<_> = (number..number + 56).map(put).collect();
        number += 56;
        store.commit(Batch::new().set("name", digests[55])).unwrap();
    };
    (0..225).for_each(|_| commit());
    let first = segments()[0].clone();
    assert_eq!(segments().len(), 1);
    let file = std::fs::File::options().read(true).write(true).open(path.join(first)).unwrap();
    for at in (100_000..file.metadata().unwrap().len()).step_by(100_000) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
    forget_peak();
    let before_bytes = peak_bytes();
    while segments().len() == 1 {
        commit();
    }
    store.maintain().unwrap();
    let more_bytes = peak_bytes() - before_bytes;
    println!("{more_bytes} bytes more");
    assert!(more_bytes < Options::MEMORY_BYTES_MIN, "{more_bytes} bytes more");
}
