//! How fast are new values put, by one thread, without syncs? Beside each size the floor: the same
//! thread hashes the same values and writes them in batches of 1 MiB into a reserved file.
//!
//! Each pass fills a fresh store with as much as the pool holds. After each size the ratio of put
//! to floor is printed, measured in turns within the same run, in time by the clock and in time of
//! the processor.

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use pinstone_benches::data::Pool;
use pinstone_benches::pairs::Pairs;
use pinstone_benches::place::Place;
use pinstone_benches::work::{self, Took};

const SIZES: [(&str, usize); 4] =
    [("256 B", 256), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)];

/// Bytes put into one store, at most.
const PASS_BYTES: usize = 96 << 20;

/// Shorter runs, which criterion makes to warm up, count in no ratio.
const PAIR_BYTES_MIN: u64 = 4 << 20;

/// As many fresh stores or files as it takes for so many values.
fn passes(pool: &Pool, iterations: u64, pass: impl Fn(usize) -> Took) -> Took {
    let mut left = usize::try_from(iterations).expect("criterion asks for what fits in memory");
    let mut took = Took::default();
    while left > 0 {
        let count = left.min(pool.count());
        took += pass(count);
        left -= count;
    }
    took
}

fn put(criterion: &mut Criterion) {
    let place = Place::new();
    let mut group = criterion.benchmark_group("put");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, value_bytes) in SIZES {
        let pool = Pool::new(value_bytes, PASS_BYTES);
        group.throughput(Throughput::Bytes(value_bytes as u64));
        let (mut wall, mut cpu) = (Pairs::default(), Pairs::default());
        group.bench_function(BenchmarkId::new("store", name), |bencher| {
            bencher.iter_custom(|iterations| {
                let floor = passes(&pool, iterations, |n| work::put_floor(&place, &pool, n));
                let store = passes(&pool, iterations, |n| work::put(&place, &pool, n));
                if iterations * value_bytes as u64 >= PAIR_BYTES_MIN {
                    wall.push(floor.wall, store.wall);
                    cpu.push(floor.cpu, store.cpu);
                }
                store.wall
            });
        });
        group.bench_function(BenchmarkId::new("floor", name), |bencher| {
            bencher.iter_custom(|iterations| {
                passes(&pool, iterations, |n| work::put_floor(&place, &pool, n)).wall
            });
        });
        if wall.count() > 0 {
            println!("put/{name}: rate, of the floor's: {wall}; by the processor: {cpu}");
        }
    }
}

criterion_group!(benches, put);
criterion_main!(benches);
