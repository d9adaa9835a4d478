//! Holds the instruction counts of the bench `instructions` to the baseline `instructions.json`.
//!
//! `instructions [--move]`:
//!
//! 1. Runs the bench by cargo, which needs valgrind and gungraun-runner, and reads its JSON: a line for
//!    each bench, with its name, the operations it carries out (the number in `of_64`) and its
//!    instructions.
//! 2. Prints them beside the baseline, an operation at a time.
//! 3. Fails if a bench takes over 5 % more than its line, or has no line, or a line has no bench; with
//!    `--move` writes the baseline anew instead.
//!
//! - C1: counts are compared only under the conditions that the baseline was made under: compiler, target
//!   and the processor's vectors, which choose how digests are computed. Under others nothing is
//!   checked, and the program says so, and succeeds.
//!
//! Exit status: 0, 1 if it is over the line, 2 if nothing could be measured.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "the bans are the engine's; this reads a text file")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A bench may take so many hundredths of its line, and no more.
const OF_HUNDRED_MAX: u64 = 105;

/// What counts depend on besides the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Conditions {
    /// The compiler's release, as `rustc -vV` says it.
    rustc: String,
    /// What it compiles for.
    target: String,
    /// The widest vectors of the processor that valgrind passes on.
    vectors: String,
}

/// Instructions of all operations of each bench, by its name and their number: `put_known_1_kib/of_1024`.
type Counts = BTreeMap<String, u64>;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    conditions: Conditions,
    instructions: Counts,
}

/// What came of comparing.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Each bench is within its line.
    Within,
    /// The conditions are others: nothing was checked.
    Unchecked,
    /// These are not, and why.
    Over(Vec<String>),
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let moves = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--move"] => true,
        _ => {
            eprintln!("usage: instructions [--move]");
            return ExitCode::from(2);
        }
    };
    match run(moves) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(wrong) => {
            eprintln!("instructions: {wrong}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
fn run(moves: bool) -> Result<bool, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let baseline = read(&path)?;
    let now = Baseline { conditions: conditions()?, instructions: measure()? };
    println!("{}", table(baseline.as_ref().map(|line| &line.instructions), &now.instructions));
    if moves {
        let text = serde_json::to_string_pretty(&now).expect("counts are JSON");
        std::fs::write(&path, text + "\n")
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("The line is moved: {}", path.display());
        return Ok(true);
    }
    let baseline = baseline.ok_or("there is no baseline: make one with --move")?;
    Ok(match verdict(&baseline, &now) {
        Verdict::Within => {
            println!("No bench takes over {OF_HUNDRED_MAX} of 100 of its line.");
            true
        }
        Verdict::Unchecked => {
            let (line, now) = (&baseline.conditions, &now.conditions);
            println!("NOTHING WAS CHECKED: the line is of {line}, this is {now}.");
            true
        }
        Verdict::Over(over) => {
            over.iter().for_each(|what| println!("{what}"));
            println!("If it is meant: `instructions --move`, and why, in the commit.");
            false
        }
    })
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rustc {} for {} with {}", self.rustc, self.target, self.vectors)
    }
}

fn verdict(line: &Baseline, now: &Baseline) -> Verdict {
    if line.conditions != now.conditions {
        return Verdict::Unchecked;
    }
    let mut over = Vec::new();
    for (bench, count) in &now.instructions {
        match line.instructions.get(bench) {
            Some(was) if count * 100 > was * OF_HUNDRED_MAX => {
                over.push(format!("{bench}: {} of its line", ratio(*count, *was)));
            }
            Some(_) => {}
            None => over.push(format!("{bench}: it has no line")),
        }
    }
    let gone = line.instructions.keys().filter(|bench| !now.instructions.contains_key(*bench));
    over.extend(gone.map(|bench| format!("{bench}: there is a line, but no bench")));
    if over.is_empty() { Verdict::Within } else { Verdict::Over(over) }
}

fn read(path: &Path) -> Result<Option<Baseline>, String> {
    let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| in_file(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(in_file(&error)),
    }
}

fn conditions() -> Result<Conditions, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = output(Command::new(rustc).arg("-vV"))?;
    let of = |key: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        found.map(str::to_owned).ok_or(format!("rustc -vV has no {key}"))
    };
    Ok(Conditions { rustc: of("release")?, target: of("host")?, vectors: vectors().to_owned() })
}

/// Valgrind passes on no wider ones than AVX2.
#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx2") { "avx2" } else { "no avx2" }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    "the target's vectors"
}

/// Runs the bench.
fn measure() -> Result<Counts, String> {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let bench = ["bench", "--locked", "-p", env!("CARGO_PKG_NAME"), "--bench", "instructions"];
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(bench)
        .args(["--features", "instructions"]);
    counts(&output(command.args(["--", "--output-format=json"]))?)
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stderr(Stdio::inherit()).output();
    let done = done.map_err(|error| format!("{name}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{name}: {}", done.status));
    }
    String::from_utf8(done.stdout).map_err(|error| format!("{name}: {error}"))
}

/// What gungraun said: a JSON value for each bench.
fn counts(said: &str) -> Result<Counts, String> {
    let mut counts = Counts::new();
    for summary in serde_json::Deserializer::from_str(said).into_iter::<Value>() {
        let summary = summary.map_err(|error| format!("gungraun's output: {error}"))?;
        let text = |key: &str| summary[key].as_str().map(str::to_owned);
        let count = &summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"];
        let (function, id) = text("function_name").zip(text("id")).ok_or("a bench has no name")?;
        let name = format!("{function}/{id}");
        let count = count.as_u64().filter(|count| *count > 0);
        counts.insert(name.clone(), count.ok_or(format!("{name} has no instructions"))?);
    }
    if counts.is_empty() { Err("no bench was run".to_owned()) } else { Ok(counts) }
}

fn table(line: Option<&Counts>, now: &Counts) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["bench", "instructions an operation", "its line", "ratio"]);
    for (bench, count) in now {
        let (name, operations) = operations(bench);
        let was = line.and_then(|line| line.get(bench));
        table.add_row([
            name.to_owned(),
            (count / operations).to_string(),
            was.map_or_else(|| "none".to_owned(), |was| (was / operations).to_string()),
            was.map_or_else(String::new, |was| ratio(*count, *was)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The bench and how many operations it carries out: `put_known_1_kib/of_1024`.
fn operations(bench: &str) -> (&str, u64) {
    let parts = bench.split_once("/of_");
    let parsed = parts.and_then(|(name, count)| Some((name, count.parse().ok()?)));
    parsed.filter(|(_, count)| *count > 0).unwrap_or((bench, 1))
}

fn ratio(count: u64, was: u64) -> String {
    format!("{:.3}", count as f64 / was as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(rustc: &str, counts: &[(&str, u64)]) -> Baseline {
        let instructions = counts.iter().map(|(bench, count)| ((*bench).to_owned(), *count));
        let conditions =
            Conditions { rustc: rustc.to_owned(), target: "t".to_owned(), vectors: "v".to_owned() };
        Baseline { conditions, instructions: instructions.collect() }
    }

    #[test]
    fn over_five_of_hundred_is_over_the_line() {
        let line = made("1", &[("put/of_2", 1000), ("get/of_2", 1000)]);
        let within = made("1", &[("put/of_2", 1050), ("get/of_2", 10)]);
        assert_eq!(verdict(&line, &within), Verdict::Within);
        let over = made("1", &[("put/of_2", 1051), ("get/of_2", 1000)]);
        let said = vec!["put/of_2: 1.051 of its line".to_owned()];
        assert_eq!(verdict(&line, &over), Verdict::Over(said));
    }

    #[test]
    fn a_bench_without_a_line_and_a_line_without_a_bench_are_told() {
        let verdict = verdict(&made("1", &[("put/of_2", 9)]), &made("1", &[("put/of_4", 9)]));
        let said = ["put/of_4: it has no line", "put/of_2: there is a line, but no bench"];
        assert_eq!(verdict, Verdict::Over(said.map(str::to_owned).to_vec()));
    }

    #[test]
    fn another_compiler_is_not_checked() {
        let now = made("2", &[("put/of_2", 2000)]);
        assert_eq!(verdict(&made("1", &[("put/of_2", 1000)]), &now), Verdict::Unchecked);
    }

    #[test]
    fn what_gungraun_says_is_read() {
        let bench = |metrics: &str| {
            format!(
                r#"{{"function_name":"put","id":"of_2","profiles":[{{"data":{{"total":{{"metrics":{metrics}}}}}}}]}}"#
            )
        };
        let said = bench(r#"{"Ir":{"values":{"new":1000,"old":7}}}"#);
        assert_eq!(counts(&said), Ok(Counts::from([("put/of_2".to_owned(), 1000)])));
        assert!(counts(&bench("{}")).is_err(), "a bench that was not counted");
        assert!(counts("").is_err(), "no bench at all");
    }
}
