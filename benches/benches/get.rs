//! How fast is a value read whose bytes are in the page cache, and what does it cost to hash it
//! again (`Verify::Digest`) beside its checksum alone (`Verify::Checksum`)?
//!
//! The store was closed and opened again, so that nothing comes from what a put left in memory;
//! values are asked for in random order.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pinstone::{Digest, Store, Verify};
use pinstone_benches::data::{self, Pool};
use pinstone_benches::place::Place;

const SIZES: [(&str, usize); 4] =
    [("256 B", 256), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)];

/// Bytes of values in the store.
const STORE_BYTES: usize = 64 << 20;

fn get(criterion: &mut Criterion) {
    let place = Place::new();
    let mut group = criterion.benchmark_group("get");
    group.sample_size(20);
    for (name, value_bytes) in SIZES {
        let pool = Pool::new(value_bytes, STORE_BYTES);
        let path = place.fresh("get");
        let store = Store::open(&path).expect("a fresh store opens");
        let put = |value| store.put(value).expect("there is space").digest;
        let digests: Vec<Digest> = pool.values().map(put).collect();
        store.close().expect("it closes");
        let store = Store::open(&path).expect("what was closed opens");
        group.throughput(Throughput::Bytes(value_bytes as u64));
        for verify in [Verify::Checksum, Verify::Digest] {
            let mut state = 1;
            group.bench_function(BenchmarkId::new(format!("{verify:?}"), name), |bencher| {
                bencher.iter(|| {
                    let digest = &digests[below(&mut state, digests.len())];
                    let value = store.get_verified(digest, verify).expect("it can be read");
                    black_box(value.expect("it was put"))
                });
            });
        }
    }
}

fn below(state: &mut u64, count: usize) -> usize {
    usize::try_from(data::next(state) % count as u64).expect("less than a usize")
}

criterion_group!(benches, get);
criterion_main!(benches);
