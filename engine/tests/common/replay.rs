//! What the harnesses that try case after case on simulated disks share: hunts, violations, and the
//! lines that replay them.
//!
//! 1. A hunt plays each workload to its end, to learn how many disk operations there are to be
//!    harmed ([`op_count`]), makes cases of them, and tries these on all threads, to the end or to
//!    the first violation ([`hunt`]).
//! 2. A violation is counted; the first few are told in full, each with the line that names its case
//!    and the last operations of its disk ([`Violations`]).
//! 3. Such a line, kept among the seeds or given in the environment, is read ([`lines`], [`Words`])
//!    and its case tried again.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;

use pinstone_disk::sim::SimDisk;

use super::script::{Workload, World};
use super::{Verdict, caught, ensure, pool};

/// How many violations are told in full.
const VIOLATIONS_MAX: usize = 8;
/// How many of a disk's last operations are told with a violation.
const TRACE_LINES_MAX: usize = 60;

/// What a hunt counts; each thread keeps a tally of its own.
pub trait Tally: Default + Send {
    /// Adds another thread's.
    fn add(&mut self, other: Self);

    /// What was seen that must not be.
    fn violations(&self) -> &Violations;
}

/// Tries every case; `until_first` ends the hunt at the first violation.
pub fn hunt<T: Sync, R: Tally>(
    cases: &[T],
    until_first: bool,
    report: &mut R,
    try_case: impl Fn(&T, &mut R) + Sync,
) {
    let parts = pool::sweep(cases, |part: &mut R, case| {
        try_case(case, part);
        if until_first && part.violations().count > 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    parts.into_iter().for_each(|part| report.add(part));
}

/// How many disk operations the workload makes when nothing goes wrong.
pub fn op_count(workload: &Workload, seed: u64) -> Verdict<u64> {
    caught(|| {
        let (disk, model) = workload.begin(seed)?;
        let mut world = World::new(workload, Arc::clone(&disk), model);
        world.play_all(&workload.steps)?;
        Ok(disk.op_count())
    })
    .map_err(|seen| format!("{}, unharmed: {seen}", workload.name))
}

/// What was seen that must not be.
#[derive(Debug, Default)]
pub struct Violations {
    pub count: u64,
    /// The first few.
    told: Vec<String>,
}

impl Violations {
    pub fn add(&mut self, other: Self) {
        self.count += other.count;
        self.told.extend(other.told);
        self.told.truncate(VIOLATIONS_MAX);
    }

    /// Counts what was seen, and tells it if there is room.
    pub fn note(&mut self, seen: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < VIOLATIONS_MAX {
            self.told.push(seen());
        }
    }

    /// The same, of a case that `variable` replays, on a disk, if it came to that.
    pub fn note_case(
        &mut self,
        seen: &str,
        variable: &str,
        case: &impl fmt::Display,
        disk: Option<&SimDisk>,
    ) {
        self.note(|| {
            let trace = disk.map(SimDisk::trace).unwrap_or_default();
            let last = &trace[trace.len().saturating_sub(TRACE_LINES_MAX)..];
            format!("{seen}\n  {variable}=\"{case}\"\n    {}", last.join("\n    "))
        });
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>9} violations", self.count)?;
        self.told.iter().try_for_each(|violation| writeln!(f, "\n{violation}"))
    }
}

/// The lines of a file of seeds that name cases, and the one that the environment gives.
pub fn lines(seeds: &str, variable: &str) -> impl Iterator<Item = String> {
    let given = std::env::var(variable).ok();
    let lines = seeds.lines().map(str::to_owned).chain(given);
    lines.filter(|line| !line.starts_with('#') && !line.trim().is_empty())
}

/// A line of words KEY=VALUE, taken one by one.
pub struct Words<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Words<'a> {
    pub fn of(line: &'a str) -> Verdict<Self> {
        let words = line
            .split_whitespace()
            .map(|word| word.split_once('=').ok_or(format!("{word}: not KEY=VALUE")));
        Ok(Self(words.collect::<Verdict<_>>()?))
    }

    /// The value of `key`, if it is there.
    pub fn take(&mut self, key: &str) -> Option<&'a str> {
        self.0.remove(key)
    }

    /// The value of `key`, which must be there.
    pub fn need(&mut self, key: &str) -> Verdict<&'a str> {
        self.take(key).ok_or(format!("no {key}"))
    }

    /// Nothing else is there.
    pub fn end(self) -> Verdict {
        ensure!(self.0.is_empty(), "unknown words: {:?}", self.0);
        Ok(())
    }
}

/// The number that `text` is.
pub fn number<N: FromStr>(text: &str) -> Verdict<N> {
    text.parse().map_err(|_| format!("{text}: not a number"))
}
