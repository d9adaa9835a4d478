//! The tables, and the JSON: medians of the rounds, Pinstone beside the best of its peers and the floor.
//!
//! A ratio is how many times better Pinstone is than the best peer, by that figure: over 1 it wins,
//! under 1 it loses. *Of the floor* is the share of the floor's speed that Pinstone reaches.

use std::fmt::Write;

use comfy_table::Table;
use serde_json::{Map, Value, json};

use crate::asked::Asked;
use crate::measured::{Measured, Outcome};
use crate::peers::{OURS, Peer};
use crate::run::{FLOOR, Found, Key};
use crate::workload::{FloorKind, Ground, Stage, Work, Workload};

/// A figure as the table shows it.
struct Shown {
    figure: &'static str,
    words: &'static str,
    more_is_better: bool,
}

const fn shown(figure: &'static str, words: &'static str, more_is_better: bool) -> Shown {
    Shown { figure, words, more_is_better }
}

const RATE: Shown = shown("rate", "a second", true);
const MEDIAN: Shown = shown("p50_us", "median", false);
const HIGH: Shown = shown("p99_us", "99 %", false);
const HIGHEST: Shown = shown("p999_us", "99.9 %", false);
const ONCE: Shown = shown("ms", "time", false);
const WRITTEN: Shown = shown("written", "written a byte", false);
const KEPT: Shown = shown("kept", "kept a byte", false);
const MEMORY: Shown = shown("memory_bytes", "memory", false);

/// What is shown of a workload.
fn shown_of(workload: Workload) -> Vec<Shown> {
    match workload {
        Workload::Load => vec![RATE, WRITTEN, KEPT, MEMORY],
        Workload::GetWarm => vec![RATE, MEMORY],
        Workload::GetCold | Workload::BatchCold => vec![RATE, MEDIAN, HIGH],
        Workload::Reopen => vec![ONCE],
        Workload::Mixed => vec![RATE, HIGH],
        Workload::Commit => vec![RATE, MEDIAN, HIGH, HIGHEST],
        Workload::CompareAndSet => vec![RATE, MEDIAN],
        _ => vec![RATE],
    }
}

/// A figure with its unit.
fn text(figure: &str, value: f64) -> String {
    match figure {
        "rate" if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
        "rate" if value >= 1e3 => format!("{:.1} k/s", value / 1e3),
        "rate" => format!("{value:.1} /s"),
        "memory_bytes" => format!("{:.1} MiB", value / f64::from(1 << 20)),
        "ms" => format!("{value:.1} ms"),
        "written" | "kept" => format!("{value:.3}"),
        _ if value >= 1e4 => format!("{:.1} ms", value / 1e3),
        _ => format!("{value:.1} us"),
    }
}

fn size_text(value_bytes: usize) -> String {
    match value_bytes {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        bytes => format!("{bytes} B"),
    }
}

/// What was found, to be told.
pub(crate) struct Report<'a> {
    /// What was asked for.
    pub(crate) asked: &'a Asked,
    /// The engines that ran, ours first.
    pub(crate) engines: &'a [Peer],
    /// What was run.
    pub(crate) stages: &'a [Stage],
    /// What came of it.
    pub(crate) found: &'a Found,
}

/// One cell's place in the tables.
#[derive(Clone, Copy)]
struct Row {
    value_bytes: usize,
    workload: Workload,
    threads: usize,
}

impl Report<'_> {
    /// The tables, and below them what failed and how engines were set up.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        let mut tell = |title: &str, body: &str| {
            if !body.is_empty() {
                // Writing to a string cannot fail.
                writeln!(text, "{title}\n\n{body}\n").ok();
            }
        };
        tell(
            "Pinstone beside the best of its peers (a ratio over 1: Pinstone is better; *: a smaller store, its load ran out of time)",
            &self.ratios(),
        );
        tell("All engines", &self.everything());
        tell("Floors", &self.floors());
        tell("Failures and notes", &self.remarks());
        tell("Engines", &self.settings());
        text
    }

    fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.stages.iter().flat_map(|stage| {
            stage.workloads.iter().flat_map(|workload| {
                workload.threads().iter().map(|threads| Row {
                    value_bytes: stage.value_bytes,
                    workload: *workload,
                    threads: *threads,
                })
            })
        })
    }

    /// The median of a figure of a cell.
    fn figure(&self, key: &Key, name: &str) -> Option<f64> {
        let outcomes = self.found.get(key)?;
        let mut figures: Vec<f64> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Outcome::Measured(measured) => measured.figures.get(name).copied(),
                Outcome::Failed(_) => None,
            })
            .collect();
        figures.sort_unstable_by(f64::total_cmp);
        let upper = *figures.get(figures.len() / 2)?;
        let lower = figures[(figures.len() - 1) / 2];
        Some(f64::midpoint(lower, upper))
    }

    fn of_engine(&self, row: Row, engine: &str, name: &str) -> Option<f64> {
        let Row { value_bytes, workload, threads } = row;
        let (work, engine) = (Work::Engine(workload), engine.to_owned());
        self.figure(&Key { value_bytes, work, threads, engine }, name)
    }

    fn of_floor(
        &self,
        value_bytes: usize,
        kind: FloorKind,
        threads: usize,
        name: &str,
    ) -> Option<f64> {
        let (work, engine) = (Work::Floor(kind), FLOOR.to_owned());
        self.figure(&Key { value_bytes, work, threads, engine }, name)
    }

    /// The best peer by a figure.
    fn best(&self, row: Row, shown: &Shown) -> Option<(&'static str, f64)> {
        let figures =
            self.engines.iter().filter(|engine| engine.name != OURS).filter_map(|engine| {
                Some((engine.name, self.of_engine(row, engine.name, shown.figure)?))
            });
        let sign = if shown.more_is_better { 1.0 } else { -1.0 };
        figures.max_by(|left, right| f64::total_cmp(&(sign * left.1), &(sign * right.1)))
    }

    /// A star for an engine whose load ran out of time: it works on a smaller store than the others.
    fn short_mark(&self, row: Row, engine: &str) -> &'static str {
        let is_short = row.workload.ground() == Ground::Loaded
            && self
                .of_engine(Row { workload: Workload::Load, threads: 1, ..row }, engine, "values")
                .is_some_and(|values| {
                    let stage =
                        self.stages.iter().find(|stage| stage.value_bytes == row.value_bytes);
                    stage.is_some_and(|stage| values < stage.value_count as f64)
                });
        if is_short { "*" } else { "" }
    }

    fn ratios(&self) -> String {
        let mut table = table(&[
            "values",
            "workload",
            "threads",
            "figure",
            "pinstone",
            "best peer",
            "its",
            "ratio",
            "floor",
            "of the floor",
        ]);
        for row in self.rows() {
            for shown in shown_of(row.workload) {
                let ours = self.of_engine(row, OURS, shown.figure);
                let best = self.best(row, &shown);
                let floor = row.workload.floor(row.threads).and_then(|(kind, threads)| {
                    self.of_floor(row.value_bytes, kind, threads, shown.figure)
                });
                let better = |ours: f64, other: f64| {
                    let ratio = if shown.more_is_better { ours / other } else { other / ours };
                    if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() }
                };
                let pair = |other: Option<f64>| Some(better(ours?, other?));
                table.add_row([
                    size_text(row.value_bytes),
                    row.workload.name(),
                    row.threads.to_string(),
                    shown.words.to_owned(),
                    told(ours.map(|ours| text(shown.figure, ours))),
                    told(best.map(|best| best.0.to_owned() + self.short_mark(row, best.0))),
                    told(best.map(|best| text(shown.figure, best.1))),
                    told(pair(best.map(|best| best.1))),
                    told(floor.map(|floor| text(shown.figure, floor))),
                    told(pair(floor)),
                ]);
            }
        }
        finished(&table)
    }

    fn everything(&self) -> String {
        let mut header = vec!["values", "workload", "threads", "figure"];
        header.extend(self.engines.iter().map(|engine| engine.name));
        let mut table = table(&header);
        for row in self.rows() {
            for shown in shown_of(row.workload) {
                let mut cells = vec![
                    size_text(row.value_bytes),
                    row.workload.name(),
                    row.threads.to_string(),
                    shown.words.to_owned(),
                ];
                cells.extend(self.engines.iter().map(|engine| {
                    let figure = self.of_engine(row, engine.name, shown.figure);
                    figure.map_or_else(|| "failed".to_owned(), |it| text(shown.figure, it))
                }));
                table.add_row(cells);
            }
        }
        finished(&table)
    }

    fn floors(&self) -> String {
        let mut table = table(&["values", "floor", "threads", "a second", "median", "99 %"]);
        for stage in self.stages {
            for kind in &stage.floors {
                for threads in kind.threads() {
                    let figure = |name: &str| {
                        let found = self.of_floor(stage.value_bytes, *kind, *threads, name);
                        told(found.map(|figure| text(name, figure)))
                    };
                    table.add_row([
                        size_text(stage.value_bytes),
                        kind.name().to_owned(),
                        threads.to_string(),
                        figure("rate"),
                        figure("p50_us"),
                        figure("p99_us"),
                    ]);
                }
            }
        }
        finished(&table)
    }

    fn remarks(&self) -> String {
        let mut lines = String::new();
        for (key, outcomes) in self.found {
            let mut told: Vec<String> = outcomes.iter().filter_map(remark).collect();
            told.dedup();
            for remark in told {
                let Key { value_bytes, work, threads, engine } = key;
                let what = match work {
                    Work::Engine(workload) => workload.name(),
                    Work::Floor(kind) => kind.name().to_owned(),
                };
                let size = size_text(*value_bytes);
                writeln!(lines, "{engine}, {what} of {size}, {threads} threads: {remark}").ok();
            }
        }
        lines
    }

    fn settings(&self) -> String {
        let mut table = table(&["engine", "settings", "a get checks"]);
        for engine in self.engines {
            table.add_row([engine.name, engine.settings, engine.verifies]);
        }
        finished(&table)
    }

    /// Everything that was measured, and the medians.
    pub(crate) fn json(&self) -> Value {
        let cells = self.found.iter().map(|(key, outcomes)| {
            let measured = outcomes.iter().filter_map(|outcome| match outcome {
                Outcome::Measured(measured) => Some(measured),
                Outcome::Failed(_) => None,
            });
            let names = measured.flat_map(|Measured { figures, .. }| figures.keys());
            let medians: Map<String, Value> = names
                .filter_map(|name| Some((name.clone(), json!(self.figure(key, name)?))))
                .collect();
            json!({ "cell": key, "medians": medians, "rounds": outcomes })
        });
        let engines = self.engines.iter().map(|engine| {
            json!({ "name": engine.name, "settings": engine.settings, "verifies": engine.verifies })
        });
        let counts = self.stages.iter().map(
            |stage| json!({ "value_bytes": stage.value_bytes, "value_count": stage.value_count }),
        );
        json!({
            "rounds": self.asked.rounds,
            "memory_bytes": self.asked.memory_bytes(),
            "seconds_max": self.asked.seconds_max(),
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "engines": engines.collect::<Vec<_>>(),
            "values": counts.collect::<Vec<_>>(),
            "cells": cells.collect::<Vec<_>>(),
        })
    }
}

fn remark(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Failed(why) => Some(format!("failed: {why}")),
        Outcome::Measured(measured) => measured.note.clone(),
    }
}

fn told(text: Option<String>) -> String {
    text.unwrap_or_default()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(header);
    table
}

/// Empty if it has no rows.
fn finished(table: &Table) -> String {
    if table.row_count() == 0 { String::new() } else { table.trim_fmt() }
}
