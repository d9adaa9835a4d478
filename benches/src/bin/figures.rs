//! The three figures that Pinstone is held to, each as a ratio to a floor measured in turns with
//! it, in one run: median of the rounds, what half of them lie between, and the target.
//!
//! `figures [--dir DIR] [--rounds N]`: in DIR, else in the build's target directory.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use pinstone_benches::data::Pool;
use pinstone_benches::floor::Ready;
use pinstone_benches::pairs::Pairs;
use pinstone_benches::place::Place;
use pinstone_benches::work::{self, CommitFloors, Commits};

/// Durable commits by one thread in a round.
const COMMIT_COUNT: u64 = 200;

const THREADS: usize = 16;

/// The same by each of [`THREADS`].
const COMMIT_COUNT_EACH: u64 = 50;

/// Bytes of values put in a round.
const PUT_BYTES: usize = 96 << 20;

/// Bytes of each.
const PUT_VALUE_BYTES: usize = 4 << 10;

struct Asked {
    dir: Option<PathBuf>,
    rounds: usize,
}

fn main() -> ExitCode {
    match asked(std::env::args_os().skip(1)) {
        Ok(asked) => {
            let place = asked.dir.map_or_else(Place::new, |dir| Place::inside(&dir));
            measure(&place, asked.rounds);
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("figures: {wrong}\nusage: figures [--dir DIR] [--rounds N]");
            ExitCode::from(2)
        }
    }
}

fn asked(mut args: impl Iterator<Item = std::ffi::OsString>) -> Result<Asked, String> {
    let mut asked = Asked { dir: None, rounds: 11 };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or("every option takes a value")?;
        match flag.to_str() {
            Some("--dir") => asked.dir = Some(value.into()),
            Some("--rounds") => {
                let rounds = value.to_str().and_then(|text| text.parse().ok());
                let rounds = rounds.filter(|rounds| *rounds > 0);
                asked.rounds = rounds.ok_or("--rounds takes a number, at least 1")?;
            }
            _ => return Err(format!("unknown option {}", flag.display())),
        }
    }
    Ok(asked)
}

/// What was measured in each round.
#[derive(Default)]
struct Rounds {
    /// One thread's commits, in floors of reserved space.
    commit: Pairs,
    /// The same, in floors of written space.
    commit_of_written: Pairs,
    /// Commits a second of many threads, by those of one.
    threads: Pairs,
    /// Rate of puts, by the floor's.
    put: Pairs,
    /// The same by the processor's time.
    put_cpu: Pairs,
    last: Vec<(&'static str, f64)>,
}

fn measure(place: &Place, rounds: usize) {
    let mut commits = Commits::new(place.fresh("commits"));
    let mut reserved = CommitFloors::new(place, 1, Ready::Reserved);
    let mut written = CommitFloors::new(place, 1, Ready::Written);
    let pool = Pool::new(PUT_VALUE_BYTES, PUT_BYTES);
    let each = |took: Duration, count: u64| took.as_secs_f64() * 1e6 / count as f64;
    let mut all = Rounds::default();
    // The first round warms up.
    for round in 0..=rounds {
        let floor = reserved.run(COMMIT_COUNT);
        let one = commits.run(1, COMMIT_COUNT);
        let floor_written = written.run(COMMIT_COUNT);
        let many = commits.run(THREADS, COMMIT_COUNT_EACH);
        let put_floor = work::put_floor(place, &pool, pool.count());
        let put = work::put(place, &pool, pool.count());
        if round == 0 {
            continue;
        }
        let many_count = THREADS as u64 * COMMIT_COUNT_EACH;
        all.commit.push(one, floor);
        all.commit_of_written.push(one, floor_written);
        // As if one thread had made as many.
        all.threads.push(one.mul_f64(many_count as f64 / COMMIT_COUNT as f64), many);
        all.put.push(put_floor.wall, put.wall);
        all.put_cpu.push(put_floor.cpu, put.cpu);
        all.last = vec![
            ("pwrite + fdatasync, reserved, us", each(floor, COMMIT_COUNT)),
            ("pwrite + fdatasync, written, us", each(floor_written, COMMIT_COUNT)),
            ("commit, 1 thread, us", each(one, COMMIT_COUNT)),
            ("commit, 16 threads, us", each(many, many_count)),
            ("hash + pwrite of 4 KiB, us", each(put_floor.wall, pool.count() as u64)),
            ("put of 4 KiB, us", each(put.wall, pool.count() as u64)),
        ];
    }
    report(&all);
}

fn report(all: &Rounds) {
    let met = |met: bool| if met { "met" } else { "NOT met" };
    println!("commit of 1 KiB and its pointer, 1 thread, in floors:    {}", all.commit);
    println!("  target: at most 1.25: {}", met(all.commit.median() <= 1.25));
    println!("  the same, in floors of space written before:           {}", all.commit_of_written);
    println!("commits a second, 16 threads by 1:                       {}", all.threads);
    println!("  target: at least 4: {}", met(all.threads.median() >= 4.0));
    println!("put of 4 KiB, of the rate of hash + pwrite:              {}", all.put);
    println!("  target: at least 0.60: {}", met(all.put.median() >= 0.60));
    println!("  the same, by the thread's time of the processor:       {}", all.put_cpu);
    println!("in the last round:");
    for (what, figure) in &all.last {
        println!("  {figure:9.2}  {what}");
    }
}
