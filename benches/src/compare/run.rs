//! Runs the plan: each cell in a process of its own, all engines in turn for one workload, so that the
//! machine's drift hits them alike.
//!
//! 1. For each length of values: the floors; then each workload, with each engine in turn. The first
//!    engine is another one in each round.
//! 2. Before a cell, what others have written is synced, so that no cell pays for the one before it.
//! 3. A cell that fails is noted, and what needs its store is not run; nothing ends the run.
//! 4. The stores of one length of values go when it is done: there are as many at once as engines.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use pinstone_benches::place::Place;
use serde::Serialize;

use crate::asked::Asked;
use crate::measured::{Measured, Outcome};
use crate::peers::Peer;
use crate::workload::{Ground, Stage, Task, Work, Workload};

/// Which cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Key {
    /// Bytes of each value.
    pub(crate) value_bytes: usize,
    /// What it does.
    pub(crate) work: Work,
    /// By how many threads.
    pub(crate) threads: usize,
    /// Whose; [`FLOOR`] for a floor.
    pub(crate) engine: String,
}

/// The engine of a floor.
pub(crate) const FLOOR: &str = "floor";

/// What was found of each cell, in each round.
pub(crate) type Found = BTreeMap<Key, Vec<Outcome>>;

/// Runs everything that is planned.
pub(crate) fn all(asked: &Asked, place: &Place, engines: &[Peer], stages: &[Stage]) -> Found {
    let mut run = Run { asked, place, found: Found::new() };
    for round in 0..asked.rounds {
        for stage in stages {
            run.stage(stage, engines, round);
        }
    }
    run.found
}

struct Run<'a> {
    asked: &'a Asked,
    place: &'a Place,
    found: Found,
}

impl Run<'_> {
    fn stage(&mut self, stage: &Stage, engines: &[Peer], round: u64) {
        let dir = self.place.fresh("stage");
        for kind in &stage.floors {
            for threads in kind.threads() {
                let work = Work::Floor(*kind);
                self.cell(&self.task(stage, FLOOR, work, *threads, dir.join(FLOOR), round));
            }
        }
        remove(&dir.join(FLOOR));
        // How many values each engine's load has put, if it has.
        let mut loaded: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        let first = usize::try_from(round).unwrap_or(0) % engines.len();
        for workload in &stage.workloads {
            for threads in workload.threads() {
                for engine in engines.iter().cycle().skip(first).take(engines.len()) {
                    let ground = dir.join(engine.name).join(match workload.ground() {
                        Ground::Loaded => "loaded",
                        Ground::Named => "named",
                        Ground::Empty => "empty",
                    });
                    let work = Work::Engine(*workload);
                    let mut task = self.task(stage, engine.name, work, *threads, ground, round);
                    let makes = matches!(workload, Workload::Load | Workload::Names);
                    if workload.ground() != Ground::Empty && !makes {
                        match loaded.get(engine.name).copied().flatten() {
                            Some(count) => task.value_count = count,
                            None => {
                                let why = "what it needs was not loaded".to_owned();
                                self.note(&task, Outcome::Failed(why));
                                continue;
                            }
                        }
                    }
                    for _ in 0..workload.repeats() {
                        let values = self.cell(&task);
                        if makes {
                            loaded.insert(engine.name, values);
                        }
                        task.seed += 1 << 10;
                    }
                    if workload.ground() == Ground::Empty {
                        remove(&task.dir);
                    }
                }
            }
            if *workload == Workload::Scan {
                // The last that needs names.
                engines.iter().for_each(|engine| remove(&dir.join(engine.name).join("named")));
            }
        }
        self.place.fresh("stage");
    }

    fn task(
        &self,
        stage: &Stage,
        engine: &str,
        work: Work,
        threads: usize,
        dir: PathBuf,
        round: u64,
    ) -> Task {
        Task {
            engine: engine.to_owned(),
            work,
            threads,
            value_bytes: stage.value_bytes,
            value_count: stage.value_count,
            dir,
            memory_bytes: self.asked.memory_bytes(),
            seconds_max: self.asked.seconds_max(),
            seed: round + 1,
        }
    }

    /// Runs one, and says how many values it has left, if it went well.
    fn cell(&mut self, task: &Task) -> Option<u64> {
        let synced = File::open(self.place.path()).map(rustix::fs::syncfs);
        debug_assert!(synced.is_ok(), "the place is there");
        let outcome = start(task);
        let values = match &outcome {
            Outcome::Measured(measured) => measured.figures.get("values").copied(),
            Outcome::Failed(_) => {
                self.note(task, outcome);
                return None;
            }
        };
        self.note(task, outcome);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is a count"
        )]
        Some(values.map_or(task.value_count, |values| values as u64))
    }

    fn note(&mut self, task: &Task, outcome: Outcome) {
        eprintln!("{}", line(task, &outcome));
        let Task { value_bytes, work, threads, .. } = *task;
        let key = Key { value_bytes, work, threads, engine: task.engine.clone() };
        self.found.entry(key).or_default().push(outcome);
    }
}

/// Of a cell, as it is done.
fn line(task: &Task, outcome: &Outcome) -> String {
    let what = match task.work {
        Work::Engine(workload) => workload.name(),
        Work::Floor(kind) => kind.name().to_owned(),
    };
    let found = match outcome {
        Outcome::Failed(why) => format!("failed: {why}"),
        Outcome::Measured(Measured { figures, note }) => {
            let figures: Vec<String> =
                figures.iter().map(|(name, figure)| format!("{name} {figure:.4}")).collect();
            let note = note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            figures.join(", ") + &note
        }
    };
    format!("{} B, {what}, {} threads, {}: {found}", task.value_bytes, task.threads, task.engine)
}

/// Starts this program again for one cell, and waits for what it tells.
fn start(task: &Task) -> Outcome {
    tell(task).unwrap_or_else(|error| Outcome::Failed(error.to_string()))
}

fn tell(task: &Task) -> crate::engine::Fallible<Outcome> {
    let program = std::env::current_exe()?;
    let output = Command::new(program).arg("--cell").arg(serde_json::to_string(task)?).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().last().filter(|_| output.status.success()) {
        return Ok(serde_json::from_str(line)?);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = errors.lines().filter(|line| !line.starts_with("note:")).collect();
    let last = lines[lines.len().saturating_sub(2)..].join(" ");
    Err(format!("{}: {last}", output.status).into())
}

fn remove(dir: &Path) {
    if dir.exists() {
        // What stays goes with the place.
        std::fs::remove_dir_all(dir).ok();
    }
}
