//! What a value costs that is put alone, and among many; what its digest costs besides.
//!
//! `put_many_pace WAY BYTES COUNT` stores COUNT values of BYTES each, all new, and stores them again; WAY is
//! `put`, `put_many`, or `hash`, which only hashes them, twice. To count instructions of the first time and of the
//! second: `valgrind --tool=callgrind --toggle-collect='*first_time*'`, `...'*second_time*'`, divided by COUNT.
#![allow(clippy::unwrap_used, reason = "this measures")]

use std::hint::black_box;

use pinstone::{Digest, Maintenance, Store};

/// Values of one batch.
const BATCH_VALUES: usize = 1000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [way, len_bytes, count] = &args[..] else { panic!("WAY BYTES COUNT") };
    let (len_bytes, count) = (len_bytes.parse().unwrap(), count.parse().unwrap());
    let value = |number: u64| {
        let mut value = number.to_le_bytes().repeat(len_bytes / 8 + 1);
        value.truncate(len_bytes);
        value
    };
    let values: Vec<Vec<u8>> = (0..count).map(value).collect();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::builder().maintenance(Maintenance::Inline).open(dir.path()).unwrap();
    // What is done once is not counted.
    store.put(b"first").unwrap();
    first_time(&store, way, &values);
    second_time(&store, way, &values);
}

#[inline(never)]
fn first_time(store: &Store, way: &str, values: &[Vec<u8>]) {
    black_box(1);
    run(store, way, values);
}

#[inline(never)]
fn second_time(store: &Store, way: &str, values: &[Vec<u8>]) {
    black_box(2);
    run(store, way, values);
}

fn run(store: &Store, way: &str, values: &[Vec<u8>]) {
    match way {
        "put" => values.iter().for_each(|value| drop(black_box(store.put(value)))),
        "put_many" => values.chunks(BATCH_VALUES).for_each(|values| {
            drop(black_box(store.put_many(values)));
        }),
        "hash" => values.iter().for_each(|value| {
            black_box(Digest::of(value));
        }),
        other => panic!("{other}: no way"),
    }
}
