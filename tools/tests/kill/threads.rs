//! Threads that commit at once, in a process that is killed, on segments so small that they fill.
//!
//! The process is this test program again, running one test, which commits until it is killed. For
//! each thread `t` and each number `i` from 1 there is one commit: it points `t/last` and
//! `t/slot/(i mod 8)` at a value that says `t`, `i`, and for every third `i` moves `shared` to it,
//! too, by compare-and-set. It is announced on stdout once acknowledged.
//!
//! - T1: of each thread, what was announced is there, and at most one commit more for each process
//!   that was killed; of each commit, all of it or nothing.
//! - T2: commits are numbered densely: the last one's number is the number of all that are there.
//! - T3: `shared` is moved by the last announced that moved it, or by one that was in flight.
//! - T4: what a refused compare-and-set tells of is there after the kill (P2).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use pinstone::{Batch, Digest, Error, Store, Verify};

use crate::child::{Child, spin};
use crate::rounds::Report;
use crate::{Random, given, noise};

const THREAD_COUNT: usize = 4;

/// Slots that a thread's commits go round.
const SLOT_COUNT: u64 = 8;

/// Rounds after which a fresh store is taken.
const ROUNDS_PER_STORE: u64 = 20;

/// Tells the process where its store is.
const STORE_VARIABLE: &str = "PINSTONE_KILL_CHILD_STORE";

fn open(path: &Path) -> pinstone::Result<Store> {
    Store::builder()
        .segment_bytes(256 << 10)
        .pointer_segment_bytes(16 << 10)
        .append_buffer_bytes(64 << 10)
        .reserve_bytes(0)
        .open(path)
}

/// The value of a thread's i-th commit: what it is, and noise of some length.
fn value(thread: usize, number: u64) -> Vec<u8> {
    let seed = (thread as u64) << 32 | number;
    let mut value = format!("{thread} {number} ").into_bytes();
    value.extend(noise(seed, Random::new(seed, 2).skewed(15) as usize));
    value
}

/// Which commit a value belongs to.
fn parse(value: &[u8]) -> Option<(usize, u64)> {
    let mut words = value.splitn(3, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    Some((word()?.parse().ok()?, word()?.parse().ok()?))
}

/// The commit that a pointer's value belongs to; its bytes are compared, too.
fn commit_at(store: &Store, name: &str) -> Result<Option<(usize, u64)>, String> {
    let pointer = store.pointer(name).map_err(|error| error.to_string())?;
    pointer.map(|digest| commit_of(store, &digest)).transpose().map_err(|e| format!("{name}: {e}"))
}

fn commit_of(store: &Store, digest: &Digest) -> Result<(usize, u64), String> {
    let bytes = store.get_verified(digest, Verify::Digest).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or_else(|| format!("its value {digest} is not there"))?;
    let commit = parse(&bytes).filter(|(thread, number)| value(*thread, *number) == bytes);
    commit.ok_or_else(|| format!("{digest} has wrong bytes"))
}

fn moves_shared(number: u64) -> bool {
    number.is_multiple_of(3)
}

/// What was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// This thread's commit has this number, as commit so and so.
    Done(usize, u64, u64),
    /// A refusal told of this one.
    Saw(usize, u64),
}

impl Told {
    fn line(self) -> String {
        match self {
            Self::Done(thread, number, id) => format!("done {thread} {number} {id}\n"),
            Self::Saw(thread, number) => format!("saw {thread} {number}\n"),
        }
    }

    /// The test program says other things, too.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        // Its own first words may stand before ours, on the same line.
        let verb = words.find(|word| ["done", "saw"].contains(word))?;
        let thread = words.next()?.parse().ok()?;
        let number = words.next()?.parse().ok()?;
        match verb {
            "done" => Some(Self::Done(thread, number, words.next()?.parse().ok()?)),
            _ => Some(Self::Saw(thread, number)),
        }
    }
}

/// One thread's commits, up to `upto`.
fn commit_until(store: &Store, thread: usize, upto: u64, tell: &(impl Fn(Told) + Sync)) {
    let last = commit_at(store, &format!("{thread}/last")).unwrap();
    let mut number = last.map_or(0, |(_, number)| number);
    while number < upto {
        number += 1;
        let digest = store.put(&value(thread, number)).unwrap().digest;
        loop {
            let mut batch = Batch::new()
                .set(format!("{thread}/last"), digest)
                .set(format!("{thread}/slot/{}", number % SLOT_COUNT), digest);
            if moves_shared(number) {
                let current = store.pointer("shared").unwrap();
                batch = batch.require("shared", current).set("shared", digest);
            }
            match store.commit(batch) {
                Ok(id) => break tell(Told::Done(thread, number, id.0)),
                Err(Error::PreconditionFailed { current: Some(current), .. }) => {
                    let (thread, number) = commit_of(store, &current).unwrap();
                    tell(Told::Saw(thread, number));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn commit_from_threads(store: &Store, upto: u64, tell: impl Fn(Told) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..THREAD_COUNT {
            let tell = &tell;
            scope.spawn(move || commit_until(store, thread, upto, tell));
        }
    });
}

/// What must be there.
#[derive(Debug, Default)]
struct Promised {
    /// Each thread's last commit that was announced, or seen by another.
    last: [u64; THREAD_COUNT],
    /// Each thread's last commit that the last survey found, and what was announced since. Commits
    /// that were in flight when a process was killed are missing among these, wherever.
    surveyed: [u64; THREAD_COUNT],
    announced: BTreeSet<(usize, u64)>,
    /// The last announced that moved `shared`: the commit's number, the thread and its number.
    shared: Option<(u64, usize, u64)>,
    last_id: u64,
    /// Processes killed since the last survey: each may have been opened, even one that was to be
    /// killed before that.
    killed: u64,
}

impl Promised {
    fn told(&mut self, told: Told) {
        match told {
            Told::Done(thread, number, id) => {
                self.last[thread] = self.last[thread].max(number);
                self.announced.insert((thread, number));
                self.last_id = self.last_id.max(id);
                if moves_shared(number) {
                    self.shared = self.shared.max(Some((id, thread, number)));
                }
            }
            Told::Saw(thread, number) => self.last[thread] = self.last[thread].max(number),
        }
    }

    /// Compares with what is there, which is promised from then on.
    fn survey(&mut self, store: &Store) -> Result<(), String> {
        let last_id = store.snapshot().commit().0;
        let mut found = [0; THREAD_COUNT];
        for (thread, found) in found.iter_mut().enumerate() {
            *found = commit_at(store, &format!("{thread}/last"))?.map_or(0, |(_, number)| number);
            let told = self.last[thread];
            if !(told..=told + self.killed).contains(found) {
                return Err(format!("thread {thread} announced {told}, {found} is there (T1)"));
            }
            for slot in 0..SLOT_COUNT {
                let there = commit_at(store, &format!("{thread}/slot/{slot}"))?;
                let newest = (1..=*found).rev().find(|number| number % SLOT_COUNT == slot);
                if there != newest.map(|number| (thread, number)) {
                    return Err(format!(
                        "thread {thread} came to {found}, slot {slot} holds {there:?} (T1)"
                    ));
                }
            }
        }
        let count: u64 = found.iter().sum();
        if last_id != count || last_id < self.last_id {
            return Err(format!(
                "{count} commits are there, {} were numbered, the last one is {last_id} (T2)",
                self.last_id
            ));
        }
        let shared = commit_at(store, "shared")?;
        let told = self.shared.map(|(_, thread, number)| (thread, number));
        let in_flight = |(thread, number): (usize, u64)| {
            let new = self.surveyed[thread] + 1..=found[thread];
            new.contains(&number)
                && moves_shared(number)
                && !self.announced.contains(&(thread, number))
        };
        if shared != told && !shared.is_some_and(in_flight) {
            return Err(format!("shared was moved by {told:?}, and is {shared:?} (T3)"));
        }
        let checked = store.check(&pinstone::CheckOptions { read_data: true, progress: None });
        let checked = checked.map_err(|error| error.to_string())?;
        if let Some(finding) = checked.findings.first() {
            return Err(format!("check: {finding}"));
        }
        (self.last, self.surveyed) = (found, found);
        self.announced.clear();
        self.last_id = last_id;
        self.killed = 0;
        self.shared = shared.map(|(thread, number)| (last_id, thread, number));
        Ok(())
    }
}

/// Runs the rounds.
pub(crate) fn run(seed: u64, rounds: u64) -> Report {
    let mut report = Report::default();
    let mut from = 0;
    while from < rounds {
        let upto = rounds.min(from + ROUNDS_PER_STORE);
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("store");
        let mut promised = Promised::default();
        for round in from..upto {
            let mut random = Random::new(seed, round ^ 1 << 63);
            let survived = survive(&path, &mut random, &mut promised, &mut report);
            report.rounds += 1;
            if let Err(violation) = survived {
                report.violations.push(format!("seed {seed}, round {round}: {violation}"));
                break;
            }
        }
        from = upto;
    }
    report
}

/// One round: commits, the kill, kills during the opening, the survey.
fn survive(
    path: &Path,
    random: &mut Random,
    promised: &mut Promised,
    report: &mut Report,
) -> Result<(), String> {
    let mut child = start(path);
    let announcements = random.skewed(10);
    let (mut heard, mut turns_to_first) = (0, 0);
    while heard < announcements {
        let Some((line, turns)) = child.await_reply() else { break };
        turns_to_first += if heard == 0 { turns } else { 0 };
        heard += u64::from(hear(&line, promised, report));
    }
    spin(random.skewed(18));
    kill(child, promised, report)?;
    for _ in 0..random.skewed(3) {
        let child = start(path);
        let id = child.id();
        for _ in 0..random.below(turns_to_first + 1) {
            std::thread::yield_now();
        }
        let before = report.commits;
        kill(child, promised, report)?;
        let holder = std::fs::read_to_string(path.join("LOCK")).unwrap_or_default();
        if report.commits == before && holder.trim() == id.to_string() {
            report.kills_in_open += 1;
        }
    }
    let store = open(path).map_err(|error| format!("opening: {error}"))?;
    let told: u64 = promised.last.iter().sum();
    promised.survey(&store)?;
    report.unanswered_done += promised.last.iter().sum::<u64>() - told;
    report.unanswered += THREAD_COUNT as u64;
    report.values_read += THREAD_COUNT as u64 * SLOT_COUNT;
    // Half of the time the next process finds a store that was closed in good order.
    if random.one_in(2) {
        store.close().map_err(|error| format!("closing: {error}"))?;
    }
    Ok(())
}

fn start(path: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["threads::threads_commit_at_once", "--exact", "--nocapture", "--test-threads=1"])
        .env(STORE_VARIABLE, path);
    Child::start(command)
}

/// Whether the line was an announcement.
fn hear(line: &str, promised: &mut Promised, report: &mut Report) -> bool {
    let Some(told) = Told::parse(line) else { return false };
    promised.told(told);
    report.replies += 1;
    report.commits += u64::from(matches!(told, Told::Done(..)));
    true
}

fn kill(child: Child, promised: &mut Promised, report: &mut Report) -> Result<(), String> {
    for line in child.kill()? {
        hear(&line, promised, report);
    }
    promised.killed += 1;
    report.kills += 1;
    Ok(())
}

/// What the process runs; by itself, a round without a kill.
#[test]
fn threads_commit_at_once() {
    if let Some(path) = std::env::var_os(STORE_VARIABLE) {
        let store = open(Path::new(&path)).unwrap();
        commit_from_threads(&store, u64::MAX, |told| {
            // One write a line: what comes out is whole or nothing.
            let mut out = std::io::stdout().lock();
            out.write_all(told.line().as_bytes()).unwrap();
        });
    }
    let place = tempfile::tempdir().unwrap();
    let store = open(place.path()).unwrap();
    let promised = std::sync::Mutex::new(Promised::default());
    let upto = given("PINSTONE_KILL_ROUNDS", 20);
    commit_from_threads(&store, upto, |told| promised.lock().unwrap().told(told));
    let mut promised = promised.into_inner().unwrap();
    assert_eq!(promised.last, [upto; THREAD_COUNT]);
    promised.survey(&store).unwrap();
    store.close().unwrap();
    promised.survey(&open(place.path()).unwrap()).unwrap();
}
