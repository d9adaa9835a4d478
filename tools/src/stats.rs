//! `pinstone stats`: figures of the store.
//!
//! As JSON they stand as the engine has them. As text the levels of each tree are a table, and so is
//! what memory is used for; every other figure is a line of its own.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{HumanBytes, HumanCount};
use pinstone::{LevelStats, MemoryStats, Stats, TreeStats};
use serde_json::Value;

use crate::context::{Absent, Context};
use crate::exit::{CliError, Exit};

pub(crate) fn run(context: &mut Context) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let stats = store.stats();
    if context.json() {
        context.document(&stats)?;
    } else {
        context.line(text(&stats)?)?;
    }
    context.flush()?;
    context.release(store);
    Ok(Exit::Ok)
}

/// The figures, in parts with an empty line between them.
fn text(stats: &Stats) -> Result<String, CliError> {
    let value =
        |stats: serde_json::Result<Value>| stats.map_err(|error| CliError::Other(error.into()));
    let mut document = value(serde_json::to_value(stats))?;
    let mut take = |field: &str| document.as_object_mut().and_then(|fields| fields.remove(field));
    let [index, names, memory] = ["index", "names", "memory"].map(&mut take);
    let mut parts = vec![lines(&document, "")];
    for (name, tree, value) in [("index", &stats.index, index), ("names", &stats.names, names)] {
        parts.push(levels(name, tree));
        let mut value = value.unwrap_or_default();
        value.as_object_mut().and_then(|fields| fields.remove("levels"));
        parts.push(lines(&value, name));
    }
    parts.push(uses(&stats.memory));
    let mut value = memory.unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|field, _| !field.ends_with("_bytes"));
    }
    parts.push(lines(&value, "memory"));
    Ok(parts.join("\n\n"))
}

/// The levels of a tree that hold anything, or that anything was done for.
fn levels(name: &str, tree: &TreeStats) -> String {
    let mut table = table(&[
        name,
        "tables",
        "bytes",
        "entries",
        "score",
        "read",
        "written",
        "amplified",
        "look-ups",
        "filtered",
        "found",
        "device reads",
    ]);
    let mut row = |what: String, score: String, level: &LevelStats| {
        let bytes = |bytes| HumanBytes(bytes).to_string();
        let count = |count| HumanCount(count).to_string();
        table.add_row([
            what,
            count(level.table_count),
            bytes(level.bytes),
            count(level.entry_count),
            score,
            bytes(level.read_bytes),
            bytes(level.written_bytes),
            level.write_amplification.map_or_else(|| "-".to_owned(), |times| format!("{times:.2}")),
            count(level.asked_count),
            count(level.filtered_count),
            count(level.found_count),
            count(level.device_read_count),
        ]);
    };
    for level in &tree.levels {
        if level.table_count + level.read_bytes + level.written_bytes > 0 {
            row(format!("level {}", level.level), format!("{:.2}", level.score), level);
        }
    }
    row("all levels".to_owned(), String::new(), &sum(&tree.levels));
    shown(&table)
}

/// All levels together.
fn sum(levels: &[LevelStats]) -> LevelStats {
    levels.iter().fold(LevelStats::default(), |mut sum, level| {
        sum.table_count += level.table_count;
        sum.bytes += level.bytes;
        sum.entry_count += level.entry_count;
        sum.read_bytes += level.read_bytes;
        sum.written_bytes += level.written_bytes;
        let amplifications = [sum.write_amplification, level.write_amplification];
        sum.write_amplification = amplifications.into_iter().flatten().reduce(|a, b| a + b);
        sum.asked_count += level.asked_count;
        sum.filtered_count += level.filtered_count;
        sum.found_count += level.found_count;
        sum.device_read_count += level.device_read_count;
        sum
    })
}

/// What memory is used for.
fn uses(memory: &MemoryStats) -> String {
    let mut table = table(&["memory", "bytes", "of the limit"]);
    let uses = [
        ("memtables of the index", memory.index_memtable_bytes),
        ("copies known to be bad", memory.bad_copies_bytes),
        ("memtables of names", memory.names_memtable_bytes),
        ("directories and filters of tables", memory.directory_bytes),
        ("cached pages and blocks", memory.cache_bytes),
        ("directories of digest lists", memory.list_bytes),
        ("what sealing will write", memory.sealer_bytes),
        ("values that are not written yet", memory.append_buffer_bytes),
        ("what compaction works on", memory.compaction_bytes),
        ("the root", memory.root_bytes),
    ];
    let used_bytes = uses.iter().map(|(_, bytes)| bytes).sum();
    for (what, bytes) in uses.into_iter().chain([("in use", used_bytes)]) {
        let share = Rate(bytes, memory.limit_bytes).to_string();
        table.add_row([what.to_owned(), HumanBytes(bytes).to_string(), share]);
    }
    table.add_row(["limit".to_owned(), HumanBytes(memory.limit_bytes).to_string(), String::new()]);
    shown(&table)
}

/// Words on the left, figures on the right.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((u16::from(at > 0) * 2, 0));
        let alignment = if at == 0 { CellAlignment::Left } else { CellAlignment::Right };
        column.set_cell_alignment(alignment);
    }
    table
}

fn shown(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// So many of so many.
struct Rate(u64, u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(_, 0) => f.write_str("-"),
            Self(of, all) => write!(f, "{:.1} %", of as f64 / all as f64 * 100.0),
        }
    }
}

/// The figures of a document, a line for each: `NAME VALUE`.
fn lines(document: &Value, name: &str) -> String {
    let mut figures = Vec::new();
    flatten(document, name, &mut figures);
    let width = figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): (String, String)| format!("{name:width$} {value}");
    figures.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The figures in a document, each with a dotted name.
fn flatten(value: &Value, name: &str, figures: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(value, &format!("{name}{dot}{field}"), figures);
            }
        }
        Value::Null => figures.push((name.to_owned(), "-".to_owned())),
        Value::String(text) => figures.push((name.to_owned(), text.clone())),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(0.0);
            let is_rate = name.ends_with("_rate");
            let text =
                if is_rate { format!("{:.1} %", number * 100.0) } else { format!("{number:.2}") };
            figures.push((name.to_owned(), text));
        }
        value => figures.push((name.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_line_of_its_own() {
        let stats = serde_json::to_value(Stats::default()).unwrap();
        let mut figures = Vec::new();
        flatten(&stats, "", &mut figures);
        let find = |name: &str| figures.iter().find(|(found, _)| found == name).unwrap().1.clone();
        assert_eq!(find("last_commit"), "0");
        assert_eq!(find("blob_log.segment_count"), "0");
        assert_eq!(find("recovery.clean"), "false");
        assert_eq!(find("poisoned"), "-");
    }

    fn level(number: u8, times: u64) -> LevelStats {
        let mut level = LevelStats::default();
        level.level = number;
        level.table_count = 2 * times;
        level.bytes = 20_480 * times;
        level.entry_count = 1_250 * times;
        level.score = 0.125;
        level.written_bytes = 4_096 * times;
        level.write_amplification = Some(1.5);
        level.asked_count = 1_000;
        level.filtered_count = 300 * times;
        level.found_count = 100;
        level.device_read_count = 7;
        level
    }

    #[test]
    fn levels_and_memory_are_tables() {
        let mut stats = Stats::default();
        stats.index.levels = vec![level(0, 1), LevelStats::default(), level(2, 2)];
        stats.index.write_amplification = Some(3.0);
        stats.index.filter_hit_rate = Some(0.5);
        stats.memory.limit_bytes = 1 << 20;
        stats.memory.cache_bytes = 1 << 18;
        (stats.memory.cache_asked_count, stats.memory.cache_missed_count) = (1_000, 25);
        stats.memory.cache_hit_rate = Some(0.975);
        let json = serde_json::to_value(&stats).unwrap();
        assert_eq!(json["index"]["filter_hit_rate"], 0.5);
        assert_eq!(json["index"]["levels"][2]["write_amplification"], 1.5);
        assert_eq!(json["memory"]["cache_hit_rate"], 0.975);
        let text = text(&stats).unwrap();
        let after = |from: &str| &text[text.find(from).unwrap()..];
        snapbox::assert_data_eq!(
            after("\nindex "),
            snapbox::str![[r#"

index       tables      bytes  entries  score  read    written  amplified  look-ups  filtered  found  device reads
level 0          2  20.00 KiB    1,250   0.12   0 B   4.00 KiB       1.50     1,000       300    100             7
level 2          4  40.00 KiB    2,500   0.12   0 B   8.00 KiB       1.50     1,000       600    100             7
all levels       6  60.00 KiB    3,750          0 B  12.00 KiB       3.00     2,000       900    200            14

index.damage               -
index.debt_bytes           0
index.filter_hit_rate      50.0 %
index.flush_count          0
index.flushed_bytes        0
index.memtable_count       0
index.memtable_entry_count 0
index.move_count           0
index.rewrite_count        0
index.thinning_count       0
index.write_amplification  3.00

names       tables  bytes  entries  score  read  written  amplified  look-ups  filtered  found  device reads
all levels       0    0 B        0          0 B      0 B          -         0         0      0             0

names.damage               -
names.debt_bytes           0
names.filter_hit_rate      -
names.flush_count          0
names.flushed_bytes        0
names.memtable_count       0
names.memtable_entry_count 0
names.move_count           0
names.rewrite_count        0
names.thinning_count       0
names.write_amplification  -

memory                                  bytes  of the limit
memtables of the index                    0 B         0.0 %
copies known to be bad                    0 B         0.0 %
memtables of names                        0 B         0.0 %
directories and filters of tables         0 B         0.0 %
cached pages and blocks            256.00 KiB        25.0 %
directories of digest lists               0 B         0.0 %
what sealing will write                   0 B         0.0 %
values that are not written yet           0 B         0.0 %
what compaction works on                  0 B         0.0 %
the root                                  0 B         0.0 %
in use                             256.00 KiB        25.0 %
limit                                1.00 MiB

memory.cache_asked_count         1000
memory.cache_hit_rate            97.5 %
memory.cache_missed_count        25
memory.directories_rebuilt_count 0
memory.filters_ignored_count     0
memory.filters_left_out_count    0
"#]]
        );
    }
}
