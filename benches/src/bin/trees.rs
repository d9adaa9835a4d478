//! What the two trees cost at size: memory, disk, opening, reads of the device, bytes written,
//! latencies, look-ups and scans, each beside what it should be at most, or at least.
//!
//! `trees [--dir DIR] [--values N] [--pointers N] [--load-gib N] [--only PART]... [--rounds N]`: in DIR,
//! else in the build's target directory. Parts are `size`, `written`, `latency`, `warm` and `scan`. By
//! default all, once, with 20 million values of 100 bytes, 5 million pointers, and a load of 20 GiB: some
//! minutes and 30 GB. Of several rounds the medians come last. Values are incompressible and never equal.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use pinstone::{Batch, Digest, Store};
use pinstone_benches::data::{Pool, next};
use pinstone_benches::place::Place;
use pinstone_benches::process::{Io, allocated_bytes, anonymous_bytes, forget, io};
use pinstone_benches::work::plain_commits;
use pinstone_disk::env::monotonic;

/// Pointers of one commit while a store is filled.
const BATCH_POINTERS: u64 = 1000;

/// Look-ups that are averaged.
const LOOKUPS: u64 = 20_000;

/// Rounds of what is compared in turns.
const ROUNDS: usize = 5;

/// One part of the figures.
type Part = fn(&Place, &Asked, &mut Figures);

struct Asked {
    dir: Option<PathBuf>,
    values: u64,
    pointers: u64,
    load_gib: u64,
    only: Vec<String>,
    rounds: u64,
    /// A store to be opened, added to, and left as by SIGKILL: of a child of this program.
    dies_in: Option<PathBuf>,
}

fn main() -> ExitCode {
    let asked = match asked(std::env::args_os().skip(1)) {
        Ok(asked) => asked,
        Err(wrong) => {
            eprintln!("trees: {wrong}");
            return ExitCode::from(2);
        }
    };
    if let Some(path) = &asked.dies_in {
        die_in(path, &asked);
    }
    let place = asked.dir.as_deref().map_or_else(Place::new, Place::inside);
    let parts: [(&str, Part); 5] = [
        ("size", size),
        ("written", written),
        ("latency", latency),
        ("warm", warm),
        ("scan", scan),
    ];
    let mut figures = Figures::default();
    for _ in 0..asked.rounds {
        for (name, measure) in parts {
            if asked.only.is_empty() || asked.only.iter().any(|only| only == name) {
                measure(&place, &asked, &mut figures);
            }
        }
    }
    if asked.rounds > 1 {
        figures.say_medians();
    }
    ExitCode::SUCCESS
}

fn asked(mut args: impl Iterator<Item = std::ffi::OsString>) -> Result<Asked, String> {
    let mut asked = Asked {
        dir: None,
        values: 20_000_000,
        pointers: 5_000_000,
        load_gib: 20,
        only: Vec::new(),
        rounds: 1,
        dies_in: None,
    };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or("every option takes a value")?;
        let number = || {
            let text = value.to_str().and_then(|text| text.parse().ok());
            text.ok_or_else(|| format!("{} takes a number", flag.display()))
        };
        match flag.to_str() {
            Some("--dir") => asked.dir = Some(value.into()),
            Some("--values") => asked.values = number()?,
            Some("--pointers") => asked.pointers = number()?,
            Some("--load-gib") => asked.load_gib = number()?,
            Some("--rounds") => asked.rounds = number()?,
            Some("--only") => asked.only.push(value.to_string_lossy().into_owned()),
            Some("--dies-in") => asked.dies_in = Some(value.into()),
            _ => return Err(format!("unknown option {}", flag.display())),
        }
    }
    Ok(asked)
}

/// What was found in each round.
#[derive(Default)]
struct Figures(Vec<Figure>);

struct Figure {
    what: String,
    unit: Unit,
    target: &'static str,
    found: Vec<f64>,
}

/// How a figure is written.
type Unit = fn(f64) -> String;

impl Figures {
    /// One more round's, printed at once.
    fn say(&mut self, what: &str, found: f64, unit: Unit, target: &'static str) {
        println!("{what:<64} {:>14}   {target}", unit(found));
        match self.0.iter_mut().find(|figure| figure.what == what) {
            Some(figure) => figure.found.push(found),
            None => self.0.push(Figure { what: what.to_owned(), unit, target, found: vec![found] }),
        }
    }

    /// The median of all rounds of each, with the least and the most.
    fn say_medians(&mut self) {
        println!("medians:");
        for Figure { what, unit, target, found } in &mut self.0 {
            found.sort_unstable_by(f64::total_cmp);
            let [least, median, most] =
                [0, found.len() / 2, found.len() - 1].map(|at| unit(found[at]));
            println!(
                "{what:<64} {median:>14}   {target} ({least} to {most}, {} rounds)",
                found.len()
            );
        }
    }
}

fn whole(found: f64) -> String {
    format!("{found:.0}")
}

fn tenths(found: f64) -> String {
    format!("{found:.1}")
}

fn hundredths(found: f64) -> String {
    format!("{found:.2}")
}

fn thousandths(found: f64) -> String {
    format!("{found:.3}")
}

/// Value number `number`, which no other number gives.
fn value<'a>(pool: &Pool, number: u64, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    pool.stamped(number, buffer)
}

/// About 40 bytes.
fn name(number: u64) -> String {
    let mut state = number;
    format!("service/artifact/{:016x}/{:06}", next(&mut state), number % 1_000_000)
}

/// Puts these values, and points at them, `pointers` in all; samples memory.
fn fill(store: &Store, pool: &Pool, values: std::ops::Range<u64>, pointers: u64) -> u64 {
    let (mut buffer, mut batch, mut set) = (Vec::new(), Batch::new(), 0);
    let (count, mut memory) = (values.end - values.start, 0);
    for (at, number) in values.enumerate() {
        let digest = store.put(value(pool, number, &mut buffer)).expect("a put").digest;
        // As many pointers as are due by now.
        let due = (at as u64 + 1) * pointers / count;
        while set < due {
            batch = batch.set(name(set), digest);
            set += 1;
            if set.is_multiple_of(BATCH_POINTERS) || set == pointers {
                store.commit(std::mem::take(&mut batch)).expect("a commit");
            }
        }
        if number.is_multiple_of(65_536) {
            memory = memory.max(anonymous_bytes());
        }
    }
    memory.max(anonymous_bytes())
}

/// Memory, disk, opening and cold reads of a store with many small values and pointers.
fn size(place: &Place, asked: &Asked, figures: &mut Figures) {
    let path = place.fresh("size");
    let pool = Pool::new(100, 1 << 20);
    let store = Store::open(&path).expect("it opens");
    let begun = monotonic();
    let memory = fill(&store, &pool, 0..asked.values, asked.pointers);
    let took = monotonic() - begun;
    println!("{} values of 100 bytes, {} pointers:", asked.values, asked.pointers);
    let rate = asked.values as f64 / took.as_secs_f64();
    figures.say("load: values a second", rate, whole, "");
    figures.say("anonymous memory, most", memory as f64, mib, "under 512 MiB");
    store.maintain().expect("maintenance");
    let stats = store.stats();
    let index_bytes: u64 = stats.index.levels.iter().map(|level| level.bytes).sum();
    let index_bytes = per(index_bytes, asked.values);
    figures.say("index: bytes on disk a value", index_bytes, thousandths, "at most 20");
    for (tree, stats) in [("index", &stats.index), ("names", &stats.names)] {
        let amplification = stats.write_amplification.unwrap_or_default();
        figures.say(&format!("{tree}: write amplification"), amplification, hundredths, "");
    }
    let disk_bytes = per(allocated_bytes(&path), asked.values);
    figures.say("disk a value, all in all", disk_bytes, thousandths, "");
    store.close().expect("it closes");

    let open_cold = || {
        forget(&path);
        let begun = monotonic();
        let store = Store::open(&path).expect("it opens");
        (monotonic() - begun, store)
    };
    let opened = (0..ROUNDS).map(|_| {
        let (took, store) = open_cold();
        store.close().expect("it closes");
        took
    });
    figures.say("open after close, cold", median(opened.collect()), ms, "under 100 ms");
    // Reads are counted by their calls, and what is mapped cannot be forgotten.
    let store = Store::builder().mmap(false).open(&path).expect("it opens");
    println!("    {:?}", store.stats().recovery);
    cold(&store, &path, &pool, asked, figures);
    let resident = store.stats().memory.directory_bytes;
    let resident = per(resident, asked.values);
    figures.say("resident after look-ups: bytes a value", resident, thousandths, "at most 2");
    store.close().expect("it closes");

    let program = std::env::current_exe().expect("a program knows itself");
    let opened = (0..ROUNDS as u64).map(|round| {
        // Further values each time.
        let from = asked.values + round * asked.values / 10;
        let died = Command::new(&program)
            .args(["--dies-in".as_ref(), path.as_os_str()])
            .args(["--values", &from.to_string()])
            .args(["--pointers", &asked.pointers.to_string()])
            .status()
            .expect("a child runs");
        assert!(!died.success(), "the child was to die");
        let (took, store) = open_cold();
        println!("    {:?}", store.stats().recovery);
        store.close().expect("it closes");
        took
    });
    figures.say("open after SIGKILL, cold", median(opened.collect()), ms, "under 1000 ms");
    without_filters(place, &pool, asked, figures);
}

/// What look-ups keep in memory of a tenth of the values, in tables without filters.
fn without_filters(place: &Place, pool: &Pool, asked: &Asked, figures: &mut Figures) {
    let path = place.fresh("without filters");
    let count = asked.values / 10;
    let builder = Store::builder().filter_levels(0).memtable_entries_max(count / 20);
    let store = builder.open(&path).expect("it opens");
    fill(&store, pool, 0..count, 0);
    store.maintain().expect("maintenance");
    let mut buffer = Vec::new();
    for number in (0..count).step_by(100) {
        let digest = Digest::of(value(pool, number, &mut buffer));
        assert!(store.contains(&digest).expect("it is looked up"));
    }
    let stats = store.stats();
    let in_tables: u64 = stats.index.levels.iter().map(|level| level.entry_count).sum();
    let resident = stats.memory.directory_bytes;
    let resident = per(resident, in_tables);
    figures.say("resident without filters: bytes a value", resident, thousandths, "at most 0.2");
    store.close().expect("it closes");
    place.fresh("without filters");
}

/// The median of several times, in seconds; tells the least and the most.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let [least, median, most] =
        [0, times.len() / 2, times.len() - 1].map(|at| times[at].as_secs_f64());
    println!("    {} to {}", ms(least), ms(most));
    median
}

/// Adds a tail to the store, and dies.
fn die_in(path: &Path, asked: &Asked) -> ! {
    let pool = Pool::new(100, 1 << 20);
    let store = Store::open(path).expect("it opens");
    fill(&store, &pool, asked.values..asked.values + asked.values / 20, asked.pointers / 20);
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .expect("a process may end itself");
    unreachable!("it is dead")
}

/// Reads of the device for hits, misses and values put again.
fn cold(store: &Store, path: &Path, pool: &Pool, asked: &Asked, figures: &mut Figures) {
    let mut state = 7;
    let mut numbers = |from: u64, count: u64| -> Vec<u64> {
        (0..LOOKUPS).map(|_| from + next(&mut state) % count).collect()
    };
    let mut buffer = Vec::new();
    let mut digests = |numbers: &[u64]| -> Vec<Digest> {
        numbers.iter().map(|number| Digest::of(value(pool, *number, &mut buffer))).collect()
    };
    let (here, absent) = (numbers(0, asked.values), numbers(asked.values, 1 << 40));
    let (here, absent) = (digests(&here), digests(&absent));
    // What is derived is read once, and then stays: it is no part of a look-up.
    for digest in absent.iter().chain(&here[..2000]) {
        assert!(store.contains(digest).is_ok());
    }
    let again = numbers(0, asked.values);
    let mut measured = |what: &str, target: &'static str, act: &mut dyn FnMut(u64)| {
        forget(path);
        let before = io();
        (0..LOOKUPS).for_each(act);
        let after = io();
        let calls = |io: Io| io.read_calls;
        let reads = per(calls(after) - calls(before), LOOKUPS);
        figures.say(&format!("{what}: reads"), reads, thousandths, target);
        let bytes = after.device_read_bytes - before.device_read_bytes;
        let bytes = per(bytes, LOOKUPS);
        figures.say(&format!("{what}: bytes from the device"), bytes, whole, "");
    };
    measured("cold hit", "at most 2", &mut |at| {
        assert!(store.get(&here[usize::try_from(at).expect("few")]).expect("a get").is_some());
    });
    measured("cold miss", "at most 0.05", &mut |at| {
        assert!(store.get(&absent[usize::try_from(at).expect("few")]).expect("a get").is_none());
    });
    let mut buffer = Vec::new();
    measured("cold put of a known value", "at most 2", &mut |at| {
        let number = again[usize::try_from(at).expect("few")];
        assert!(!store.put(value(pool, number, &mut buffer)).expect("a put").new);
    });
    for level in &store.stats().index.levels {
        if level.table_count > 0 {
            println!(
                "    level {}: {} asked, {} filtered, {} found, {} reads",
                level.level,
                level.asked_count,
                level.filtered_count,
                level.found_count,
                level.device_read_count
            );
        }
    }
}

/// Bytes that go to the device for each byte of a value, at rest.
fn written(place: &Place, asked: &Asked, figures: &mut Figures) {
    for (value_bytes, target) in [(4096, "at most 1.06"), (1024, "at most 1.25")] {
        let path = place.fresh("written");
        let pool = Pool::new(value_bytes, 64 << 20);
        let count = (asked.load_gib << 30).min(4 << 30) / value_bytes as u64;
        let before = io();
        let store = Store::open(&path).expect("it opens");
        fill(&store, &pool, 0..count, count / 100);
        store.maintain().expect("maintenance");
        store.close().expect("it closes");
        let bytes = io().device_written_bytes - before.device_written_bytes;
        let what = format!("bytes written a byte, values of {value_bytes}, a pointer for 100");
        figures.say(&what, per(bytes, count * value_bytes as u64), thousandths, target);
    }
    place.fresh("written");
}

/// Latencies of puts and commits in a load at full speed.
fn latency(place: &Place, asked: &Asked, figures: &mut Figures) {
    let path = place.fresh("latency");
    let pool = Pool::new(1024, 64 << 20);
    let store = Store::open(&path).expect("it opens");
    let count = (asked.load_gib << 30) / 1024;
    let (mut puts, mut commits) = (Vec::new(), Vec::new());
    let mut buffer = Vec::new();
    let begun = monotonic();
    for number in 0..count {
        let stamped = value(&pool, number, &mut buffer);
        let before = monotonic();
        let digest = store.put(stamped).expect("a put").digest;
        puts.push(monotonic() - before);
        if number.is_multiple_of(PUTS_A_COMMIT as u64) {
            let before = monotonic();
            store.commit(Batch::new().set(name(number), digest)).expect("a commit");
            commits.push(monotonic() - before);
        }
    }
    let took = monotonic() - begun;
    println!("load of {} GiB in values of 1 KiB, a commit for 100:", asked.load_gib);
    let rate = (count << 10) as f64 / took.as_secs_f64() / f64::from(1 << 20);
    figures.say("load at full speed: MiB a second", rate, whole, "");
    figures.say_latencies("put", puts, "20 medians, or 3 syncs");
    figures.say_latencies("commit", commits, "20 medians, or 3 syncs");
    println!("    {:?}", store.stats().index);
    store.close().expect("it closes");
    place.fresh("latency");
    let plain = plain_commits(place, &pool, PUTS_A_COMMIT, (count / 400) as usize);
    figures.say_latencies("the commits' writes and syncs, no engine", plain, "");
}

/// Puts for each commit while latencies are measured.
const PUTS_A_COMMIT: usize = 100;

impl Figures {
    fn say_latencies(&mut self, what: &str, mut latencies: Vec<Duration>, target: &'static str) {
        latencies.sort_unstable();
        let last = latencies.len() - 1;
        let at = |at: usize| latencies[at].as_secs_f64();
        let [median, high, most] = [last / 2, last - last / 10_000, last].map(at);
        self.say(&format!("{what}: median"), median, us, "");
        self.say(&format!("{what}: 99.99th percentile"), high, us, target);
        self.say(&format!("{what}: the same, in medians"), high / median, tenths, "");
        self.say(&format!("{what}: most"), most, us, "");
    }
}

/// Look-ups of values in tables, against the same in memtables.
fn warm(place: &Place, _asked: &Asked, figures: &mut Figures) {
    let pool = Pool::new(100, 1 << 20);
    let count = 200_000;
    let open = |name: &str, entries: u64| {
        let store = Store::builder().memtable_entries_max(entries);
        let store = store.open(place.fresh(name)).expect("it opens");
        fill(&store, &pool, 0..count, 1);
        store.maintain().expect("maintenance");
        store
    };
    let (memtable, tables) = (open("memtable", u64::MAX), open("tables", count / 40));
    let mut buffer = Vec::new();
    let mut state = 3;
    let digests: Vec<Digest> = (0..count)
        .map(|_| Digest::of(value(&pool, next(&mut state) % count, &mut buffer)))
        .collect();
    let timed = |store: &Store| {
        let begun = monotonic();
        for digest in &digests {
            assert!(store.get(digest).expect("a get").is_some());
        }
        monotonic() - begun
    };
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| timed(&tables).as_secs_f64() / timed(&memtable).as_secs_f64())
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let in_tables: u64 = tables.stats().index.levels.iter().map(|level| level.entry_count).sum();
    println!("    {in_tables} of {count} values in tables");
    let what = "warm get of a value in tables, to one in memory";
    figures.say(what, ratios[ROUNDS / 2], hundredths, "at most 2.5");
}

/// Pointers scanned a second.
fn scan(place: &Place, _asked: &Asked, figures: &mut Figures) {
    let store = Store::open(place.fresh("scan")).expect("it opens");
    let digest = store.put(b"value").expect("a put").digest;
    let count: u64 = 1_000_000;
    for first in (0..count).step_by(10_000) {
        let mut batch = Batch::new();
        for number in first..first + 10_000 {
            batch = batch.set(name(number), digest);
        }
        store.commit(batch).expect("a commit");
    }
    store.maintain().expect("maintenance");
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = monotonic();
            let found = store.pointers_with_prefix("service/").map(Result::unwrap).count();
            assert_eq!(found as u64, count);
            count as f64 / (monotonic() - begun).as_secs_f64()
        })
        .collect();
    rates.sort_unstable_by(f64::total_cmp);
    let rate = rates[ROUNDS / 2] / 1e6;
    figures.say("prefix scan, warm: million pointers a second", rate, tenths, "at least 5");
}

fn per(total: u64, count: u64) -> f64 {
    total as f64 / count as f64
}

fn mib(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / f64::from(1 << 20))
}

fn ms(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

fn us(seconds: f64) -> String {
    format!("{:.1} us", seconds * 1e6)
}
