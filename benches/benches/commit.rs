//! How long does a durable commit take, of a new value of 1 KiB and the pointer to it, from 1, 4
//! and 16 threads at once? Beside each the floor: as many threads, each of which writes the same
//! bytes into a reserved file of its own and syncs it.
//!
//! Times are those of one commit: what passes, divided by all commits of all threads. After each
//! the ratio of commit to floor is printed, measured in turns within the same run.

use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use pinstone_benches::floor::Ready;
use pinstone_benches::pairs::Pairs;
use pinstone_benches::place::Place;
use pinstone_benches::work::{CommitFloors, Commits};

const THREADS: [usize; 3] = [1, 4, 16];

/// Shorter runs, which criterion makes to warm up, count in no ratio.
const PAIR_COUNT_MIN: u64 = 16;

/// The time of so many operations by all threads, at least one each.
fn of(iterations: u64, threads: usize, run: impl FnOnce(u64) -> Duration) -> Duration {
    let each = iterations.div_ceil(threads as u64);
    run(each).mul_f64(iterations as f64 / (each * threads as u64) as f64)
}

fn commit(criterion: &mut Criterion) {
    let place = Place::new();
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(1));
    for threads in THREADS {
        let mut commits = Commits::new(place.fresh("commit"));
        let mut floors = CommitFloors::new(&place, threads, Ready::Reserved);
        let mut pairs = Pairs::default();
        group.bench_function(BenchmarkId::new("store", threads), |bencher| {
            bencher.iter_custom(|iterations| {
                let floor = of(iterations, threads, |each| floors.run(each));
                let store = of(iterations, threads, |each| commits.run(threads, each));
                if iterations >= PAIR_COUNT_MIN {
                    pairs.push(store, floor);
                }
                store
            });
        });
        group.bench_function(BenchmarkId::new("floor", threads), |bencher| {
            bencher.iter_custom(|iterations| of(iterations, threads, |each| floors.run(each)));
        });
        if pairs.count() > 0 {
            println!("commit/{threads}: time, in floors: {pairs}");
        }
    }
}

criterion_group!(benches, commit);
criterion_main!(benches);
