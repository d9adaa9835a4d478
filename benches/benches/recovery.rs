//! How long does opening take, for values of 1 KiB: after a clean close, and after a kill that
//! left a full segment unsealed, which is read, checked and copied?
//!
//! The kill is made of a copy of the files of a store that is still open.

use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pinstone::{Batch, Options, Store};
use pinstone_benches::data::Pool;
use pinstone_benches::place::{Place, copy_store};
use pinstone_disk::env::monotonic;

const VALUE_BYTES: usize = 1 << 10;

/// So much of a segment is filled; a little more, and it would be sealed.
const FILLED_OF_HUNDRED: u64 = 90;

/// A store with one segment of values, nearly full, and a pointer; all durable.
fn fill(path: &Path) -> Store {
    let bytes = Options::default().segment_bytes * FILLED_OF_HUNDRED / 100;
    let pool = Pool::new(VALUE_BYTES, usize::try_from(bytes).expect("less than memory"));
    let store = Store::open(path).expect("a fresh store opens");
    let mut last = None;
    for value in pool.values() {
        last = Some(store.put(value).expect("there is space").digest);
    }
    let last = last.expect("values were put");
    store.commit(Batch::new().set("last", last)).expect("there is space");
    store
}

fn opened(path: &Path) -> (Store, Duration) {
    let start = monotonic();
    let store = Store::open(path).expect("it opens");
    (store, monotonic() - start)
}

fn recovery(criterion: &mut Criterion) {
    let place = Place::new();
    let mut group = criterion.benchmark_group("recovery");
    let bytes = Options::default().segment_bytes * FILLED_OF_HUNDRED / 100;
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    let full = place.fresh("full");
    let store = fill(&full);
    group.bench_function("after a kill", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for _ in 0..iterations {
                let killed = place.fresh("killed");
                copy_store(&full, &killed);
                let (store, time) = opened(&killed);
                assert!(!store.stats().recovery.clean, "it was never closed");
                took += time;
            }
            took
        });
    });
    store.close().expect("it closes");
    group.bench_function("after a clean close", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for _ in 0..iterations {
                let (store, time) = opened(&full);
                assert!(store.stats().recovery.clean, "it was closed");
                took += time;
                store.close().expect("it closes");
            }
            took
        });
    });
}

criterion_group!(benches, recovery);
criterion_main!(benches);
