//! How many instructions does each operation take? Counted by callgrind, so that neither the clock
//! nor who else uses the machine matters; the program `instructions` runs this and holds the counts
//! to a baseline.
//!
//! 1. Each bench is a process of its own: it makes a store with default options but where stated, in a
//!    directory that is the same in every run (`steady.rs`), with `Maintenance::Inline`: what the
//!    operation makes due is counted, and no thread beside it exists.
//! 2. Values and names are made, and what shall be warm is read once, before counting begins; stores
//!    are closed after it ended.
//! 3. Then so many operations are counted as the bench's id says: `of_64` is 64 of them. A batch
//!    counts as one; a put, a commit and a scan too.

#![allow(
    missing_docs,
    unused_qualifications,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "gungraun's macros make items like these"
)]

use std::hint::black_box;

use gungraun::prelude::*;
use pinstone::{Batch, Digest, Maintenance, Store, StoreBuilder};
use pinstone_benches::data::{Pool, next};
use pinstone_benches::steady::Steady;
use tempfile::TempDir;

/// Bytes of a value, unless a bench says otherwise.
const VALUE_BYTES: usize = 1 << 10;

/// Values of the stores that are read.
const STORE_VALUES: usize = 4096;

/// Entries of a memtable where values stand in tables, so that there are levels of them.
const MEMTABLE_ENTRIES: u64 = 512;

/// Bytes of a segment there: what is in the last one is in no table.
const SEGMENT_BYTES: u64 = 256 << 10;

/// Names of the store that is scanned, with [`GROUP_NAMES`] under each prefix.
const STORE_NAMES: usize = 8000;

const GROUP_NAMES: usize = 1000;

/// Pointers of a large commit.
const COMMIT_POINTERS: usize = 100;

/// Values of `get_many` and `put_many`.
const MANY: usize = 64;

/// A store, what is asked of it, and where it stands. The fields are dropped in this order.
struct Ready<T> {
    store: Store,
    asked: T,
    _place: TempDir,
}

fn ready<T>(
    options: impl FnOnce(StoreBuilder) -> StoreBuilder,
    fill: impl FnOnce(&Store) -> T,
) -> Ready<T> {
    let place = tempfile::tempdir().expect("a temporary directory");
    let disk = Steady::create(&place.path().join("store"));
    let builder = options(Store::builder()).maintenance(Maintenance::Inline);
    let store = builder.open_on(disk).expect("a fresh store opens");
    // What is done once, such as making the first segment, is not counted.
    let first = store.put(b"first").expect("there is space").digest;
    store.commit(Batch::new().set("first", first)).expect("there is space");
    let asked = fill(&store);
    Ready { store, asked, _place: place }
}

fn defaults(builder: StoreBuilder) -> StoreBuilder {
    builder
}

fn small_tables(builder: StoreBuilder) -> StoreBuilder {
    let builder = builder.memtable_entries_max(MEMTABLE_ENTRIES).segment_bytes(SEGMENT_BYTES);
    builder.pointer_segment_bytes(SEGMENT_BYTES / 4)
}

fn pool(value_bytes: usize, count: usize) -> Pool {
    Pool::new(value_bytes, value_bytes * count)
}

fn put_all(store: &Store, pool: &Pool) -> Vec<Digest> {
    pool.values().map(|value| store.put(value).expect("there is space").digest).collect()
}

/// So many of them, in an order that is the same in every run, each read once.
fn warmed(store: &Store, digests: &[Digest], count: usize) -> Vec<Digest> {
    let mut state = 1;
    let below = |state: &mut u64| next(state) % digests.len() as u64;
    let index = |number| usize::try_from(number).expect("less than a length");
    let asked: Vec<_> = (0..count).map(|_| digests[index(below(&mut state))]).collect();
    for digest in &asked {
        assert!(store.get(digest).expect("it can be read").is_some());
    }
    asked
}

fn new_values(value_bytes: usize, count: usize) -> Ready<Pool> {
    ready(defaults, |_| pool(value_bytes, count))
}

fn known_values(count: usize) -> Ready<Pool> {
    ready(defaults, |store| {
        let pool = pool(VALUE_BYTES, count);
        put_all(store, &pool);
        pool
    })
}

fn values_in_memtables(count: usize) -> Ready<Vec<Digest>> {
    ready(defaults, |store| {
        let digests = put_all(store, &pool(VALUE_BYTES, STORE_VALUES));
        store.sync().expect("there is space");
        warmed(store, &digests, count)
    })
}

fn values_in_tables(count: usize) -> Ready<Vec<Digest>> {
    ready(small_tables, |store| {
        let digests = put_all(store, &pool(VALUE_BYTES, STORE_VALUES));
        store.compact().expect("there is space");
        // The first ones: the last ones are in no table yet.
        warmed(store, &digests[..STORE_VALUES / 2], count)
    })
}

fn absent(count: usize) -> Ready<Vec<Digest>> {
    let Ready { store, _place, .. } = values_in_tables(count);
    let asked = (0..count).map(|number| Digest::of(&number.to_le_bytes())).collect();
    Ready { store, asked, _place }
}

fn many_known(count: usize) -> Ready<Vec<Vec<Digest>>> {
    let Ready { store, asked, _place } = values_in_tables(count * MANY);
    Ready { store, asked: asked.chunks(MANY).map(<[_]>::to_vec).collect(), _place }
}

/// New values, each with its name.
fn named_values(count: usize) -> Ready<(Pool, Vec<String>)> {
    let names = (0..count).map(|number| format!("service/{number:04}")).collect();
    ready(defaults, |_| (pool(VALUE_BYTES, count), names))
}

fn batches(count: usize) -> Ready<Vec<Batch>> {
    ready(defaults, |store| {
        let digest = store.put(b"value").expect("there is space").digest;
        store.sync().expect("there is space");
        (0..count).map(|number| batch(number * COMMIT_POINTERS, digest)).collect()
    })
}

/// A commit of the names from this one on.
fn batch(first: usize, digest: Digest) -> Batch {
    (first..first + COMMIT_POINTERS)
        .fold(Batch::new(), |batch, number| batch.set(name(number), digest))
}

fn name(number: usize) -> String {
    format!("group/{:02}/name/{:05}", number / GROUP_NAMES, number % GROUP_NAMES)
}

/// Names, those first committed in tables, and the ones that are asked for.
fn names(count: usize) -> Ready<Vec<String>> {
    ready(small_tables, |store| {
        let digest = store.put(b"value").expect("there is space").digest;
        for first in (0..STORE_NAMES).step_by(COMMIT_POINTERS) {
            store.commit(batch(first, digest)).expect("there is space");
        }
        store.compact().expect("there is space");
        // A prime step goes all about.
        let asked: Vec<_> = (0..count).map(|number| name(number * 2711 % STORE_NAMES)).collect();
        for name in &asked {
            assert_eq!(store.pointer(name).expect("it can be read"), Some(digest));
        }
        asked
    })
}

fn prefixes(count: usize) -> Ready<Vec<String>> {
    let Ready { store, _place, .. } = names(1);
    let asked: Vec<_> = (0..count).map(|number| format!("group/{number:02}/")).collect();
    for prefix in &asked {
        assert_eq!(store.pointers_with_prefix(prefix).count(), GROUP_NAMES);
    }
    Ready { store, asked, _place }
}

#[library_benchmark(setup = new_values)]
#[bench::of_2048(100, 2048)]
fn put_new_100_bytes(ready: Ready<Pool>) -> Ready<Pool> {
    put_each(ready, true)
}

#[library_benchmark(setup = new_values)]
#[bench::of_2048(VALUE_BYTES, 2048)]
fn put_new_1_kib(ready: Ready<Pool>) -> Ready<Pool> {
    put_each(ready, true)
}

#[library_benchmark(setup = known_values)]
#[bench::of_1024(1024)]
fn put_known_1_kib(ready: Ready<Pool>) -> Ready<Pool> {
    put_each(ready, false)
}

fn put_each(ready: Ready<Pool>, new: bool) -> Ready<Pool> {
    for value in ready.asked.values() {
        assert_eq!(black_box(ready.store.put(value)).expect("there is space").new, new);
    }
    ready
}

#[library_benchmark(setup = new_values)]
#[bench::of_32(VALUE_BYTES, 32 * MANY)]
fn put_many_64_new_1_kib(ready: Ready<Pool>) -> Ready<Pool> {
    let values: Vec<_> = ready.asked.values().collect();
    for many in values.chunks(MANY) {
        for put in black_box(ready.store.put_many(many)) {
            assert!(put.expect("there is space").new);
        }
    }
    ready
}

#[library_benchmark(setup = values_in_memtables)]
#[bench::of_1024(1024)]
fn get_1_kib_in_memtable(ready: Ready<Vec<Digest>>) -> Ready<Vec<Digest>> {
    get_each(ready)
}

#[library_benchmark(setup = values_in_tables)]
#[bench::of_1024(1024)]
fn get_1_kib_in_tables(ready: Ready<Vec<Digest>>) -> Ready<Vec<Digest>> {
    get_each(ready)
}

fn get_each(ready: Ready<Vec<Digest>>) -> Ready<Vec<Digest>> {
    for digest in &ready.asked {
        let value = black_box(ready.store.get(digest)).expect("it can be read");
        assert_eq!(value.expect("it was put").len(), VALUE_BYTES);
    }
    ready
}

#[library_benchmark(setup = many_known)]
#[bench::of_32(32)]
fn get_many_64_1_kib_in_tables(ready: Ready<Vec<Vec<Digest>>>) -> Ready<Vec<Vec<Digest>>> {
    for many in &ready.asked {
        for value in black_box(ready.store.get_many(many)) {
            assert!(value.expect("it can be read").is_some());
        }
    }
    ready
}

#[library_benchmark(setup = absent)]
#[bench::of_1024(1024)]
fn contains_absent(ready: Ready<Vec<Digest>>) -> Ready<Vec<Digest>> {
    for digest in &ready.asked {
        assert!(!black_box(ready.store.contains(digest)).expect("it can be read"));
    }
    ready
}

#[library_benchmark(setup = named_values)]
#[bench::of_64(64)]
fn commit_value_and_pointer(ready: Ready<(Pool, Vec<String>)>) -> Ready<(Pool, Vec<String>)> {
    let (pool, names) = &ready.asked;
    for (value, name) in pool.values().zip(names) {
        let digest = ready.store.put(value).expect("there is space").digest;
        ready.store.commit(Batch::new().set(name, digest)).expect("there is space");
    }
    ready
}

#[library_benchmark(setup = batches)]
#[bench::of_16(16)]
fn commit_100_pointers(mut ready: Ready<Vec<Batch>>) -> Ready<Vec<Batch>> {
    for batch in ready.asked.drain(..) {
        ready.store.commit(batch).expect("there is space");
    }
    ready
}

#[library_benchmark(setup = names)]
#[bench::of_1024(1024)]
fn pointer_get(ready: Ready<Vec<String>>) -> Ready<Vec<String>> {
    for name in &ready.asked {
        assert!(black_box(ready.store.pointer(name)).expect("it can be read").is_some());
    }
    ready
}

#[library_benchmark(setup = prefixes)]
#[bench::of_4(4)]
fn scan_1000_names(ready: Ready<Vec<String>>) -> Ready<Vec<String>> {
    for prefix in &ready.asked {
        for pointer in ready.store.pointers_with_prefix(prefix) {
            black_box(pointer.expect("it can be read"));
        }
    }
    ready
}

#[library_benchmark(setup = prefixes)]
#[bench::of_4(4)]
fn scan_1000_names_lent(ready: Ready<Vec<String>>) -> Ready<Vec<String>> {
    for prefix in &ready.asked {
        let mut pointers = ready.store.pointers_with_prefix(prefix);
        while let Some(pointer) = pointers.next_ref().expect("it can be read") {
            black_box(pointer);
        }
    }
    ready
}

library_benchmark_group!(
    name = instructions,
    benchmarks = [
        put_new_100_bytes,
        put_new_1_kib,
        put_known_1_kib,
        put_many_64_new_1_kib,
        get_1_kib_in_memtable,
        get_1_kib_in_tables,
        get_many_64_1_kib_in_tables,
        contains_absent,
        commit_value_and_pointer,
        commit_100_pointers,
        pointer_get,
        scan_1000_names,
        scan_1000_names_lent,
    ]
);

main!(
    config = LibraryBenchmarkConfig::default().pass_through_env("TMPDIR"),
    library_benchmark_groups = instructions
);
