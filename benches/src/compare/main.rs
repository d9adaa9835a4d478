//! The same work on Pinstone and on its peers, side by side, in one run on one file system.
//!
//! `compare [--quick] [--sizes ...] [--only ...] [--peers ...] [--json FILE]`: `--help` tells all.
//! Peers are features of this package: `--features peers` is all but RocksDB, `--features all-peers` is
//! with it; a directory of files is always there.
//!
//! - `asked.rs`: the command line. `workload.rs`: what is measured, and the plan.
//! - `engine.rs`: what every engine has to do. `peers/`: each engine, and how it is set up.
//! - `feed.rs`: values and digests. `cells.rs`: one workload, timed. `floors.rs`: one floor, timed.
//! - `measured.rs`: figures. `run.rs`: the processes, in order. `report.rs`: tables and JSON.
//!
//! Each cell is a process of its own: this program starts itself again with `--cell`, and the child
//! prints one line of JSON. So nothing that one engine has cached, allocated or left running helps or
//! hinders the next.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the bans keep the engine deterministic; a benchmark reads clocks, files and threads"
)]

mod asked;
mod cells;
mod engine;
mod feed;
mod floors;
mod measured;
mod peers;
mod report;
mod run;
mod workload;

use std::process::ExitCode;

use clap::Parser;
use pinstone_benches::place::Place;

use crate::asked::Asked;
use crate::engine::Fallible;
use crate::measured::{Measured, Outcome};
use crate::workload::{Task, Work};

fn main() -> ExitCode {
    let asked = Asked::parse();
    let result = match &asked.cell {
        Some(task) => tell(task),
        None => compare(&asked),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(asked: &Asked) -> Fallible<()> {
    let engines = asked.engines(peers::all())?;
    let place = asked.dir.as_deref().map_or_else(Place::new, Place::inside);
    let stages = workload::plan(asked);
    let found = run::all(asked, &place, &engines, &stages);
    let report = report::Report { asked, engines: &engines, stages: &stages, found: &found };
    println!("{}", report.tables());
    if let Some(path) = &asked.json {
        std::fs::write(path, serde_json::to_string_pretty(&report.json())? + "\n")?;
    }
    Ok(())
}

/// Runs one cell, and prints what came of it.
fn tell(task: &str) -> Fallible<()> {
    let task: Task = serde_json::from_str(task)?;
    let outcome =
        measure(&task).map_or_else(|error| Outcome::Failed(error.to_string()), Outcome::Measured);
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn measure(task: &Task) -> Fallible<Measured> {
    match task.work {
        Work::Floor(kind) => floors::run(kind, task),
        Work::Engine(workload) => {
            let peer = peers::all().into_iter().find(|peer| peer.name == task.engine);
            let open = peer.and_then(|peer| peer.open).ok_or("there is no such engine")?;
            cells::run(workload, open, task)
        }
    }
}
