//! How much is rewritten: flushes of uniform keys and of names in order, for what was chosen and
//! for what was not. These are the figures that `compaction/src/plan.rs` gives as its reasons.
//!
//! One key of the model stands for 1250 rows of 16 bytes; a flush has 13 MB, and every compaction
//! that is due is carried out before the next. Write amplification is the bytes flushed and
//! rewritten for each byte flushed.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use expect_test::expect;
use pinstone_compaction::TableMeta;
use pinstone_compaction::levels::{LEVELS_MAX, Levels};
use pinstone_compaction::plan::{Damaged, Plan, Shape, plan, plan_full};

use crate::model::{Draw, Planner, Tree};

const KEY_BYTES: u64 = 20_000;
const KEYS_PER_FLUSH: usize = 650;
/// 20, 100 and 300 million rows.
const FLUSHES: [usize; 3] = [25, 123, 369];
const LAST: u8 = LEVELS_MAX - 1;

fn amplification(tree: &Tree) -> f64 {
    (tree.flushed_bytes + tree.rewritten_bytes) as f64 / tree.flushed_bytes as f64
}

/// Flushes what `keys` gives for each flush, and carries out what is due after each.
fn load(
    shape: Shape,
    flushes: usize,
    planner: Planner,
    mut keys: impl FnMut() -> BTreeSet<u64>,
) -> Tree {
    let mut tree = Tree::new(shape, KEY_BYTES);
    for _ in 0..flushes {
        tree.flush(keys());
        let l0_tables = tree.levels.sums(0).table_count;
        assert!(l0_tables <= u64::from(shape.l0_tables), "level 0 has {l0_tables} tables");
        tree.run(planner);
    }
    tree
}

fn uniform(seed: u64) -> impl FnMut() -> BTreeSet<u64> {
    let mut draw = Draw(seed);
    move || (0..KEYS_PER_FLUSH).map(|_| draw.next()).collect()
}

/// Keys in order, but that of 100 so many are drawn from those before.
fn in_order(old_percent: u64) -> impl FnMut() -> BTreeSet<u64> {
    let (mut draw, mut next) = (Draw(7), 1u64);
    let mut key = move || {
        if draw.next() % 100 < old_percent {
            return draw.next() % next;
        }
        next += 1 << 16;
        next
    };
    move || (0..KEYS_PER_FLUSH).map(|_| key()).collect()
}

#[test]
fn uniform_keys_are_rewritten_less_than_by_other_choices() {
    let shape = Shape::default();
    let one_table = Shape { input_bytes_max: 0, ..shape };
    let choices: [(&str, Shape, Planner); 6] = [
        ("runs of least overlap: the default shape", shape, plan),
        ("... with 4 tables in level 0", Shape { l0_tables: 4, l0_bytes: 52 << 20, ..shape }, plan),
        ("... with size ratio 8", Shape { size_ratio_max: 8, ..shape }, plan),
        ("one table, of least overlap", one_table, plan),
        ("one table, the oldest", one_table, the_oldest),
        ("one table of least overlap, levels of ten times", shape, tenfold),
    ];
    let mut table = String::new();
    for (name, shape, planner) in choices {
        write!(table, "| {name}").unwrap();
        for flushes in FLUSHES {
            let tree = load(shape, flushes, planner, uniform(1));
            write!(table, " | {:.1}", amplification(&tree)).unwrap();
        }
        table.push_str(" |\n");
    }
    expect![[r#"
        | runs of least overlap: the default shape | 3.9 | 5.0 | 7.5 |
        | ... with 4 tables in level 0 | 3.8 | 5.6 | 7.8 |
        | ... with size ratio 8 | 3.9 | 6.1 | 9.5 |
        | one table, of least overlap | 3.7 | 5.7 | 8.6 |
        | one table, the oldest | 4.6 | 9.6 | 23.3 |
        | one table of least overlap, levels of ten times | 3.4 | 6.9 | 10.0 |
    "#]]
    .assert_eq(&table);
}

#[test]
fn levels_of_thousands_of_tables_are_rewritten_as_little() {
    let shape = Shape { table_bytes: 100_000, ..Shape::default() };
    let tree = load(shape, FLUSHES[1], plan, uniform(1));
    let text = format!("{:.1}; {} tables", amplification(&tree), tree.levels.total().table_count);
    expect!["5.2; 15603 tables"].assert_eq(&text);
}

#[test]
fn most_of_a_large_tree_is_in_its_last_level() {
    let mut table = String::new();
    for flushes in FLUSHES {
        let tree = load(Shape::default(), flushes, plan, uniform(2));
        let input_mb = tree.input_bytes_max / 1_000_000;
        writeln!(table, "{}; largest input {input_mb} MB", tree.levels_in_mb()).unwrap();
    }
    expect![[r#"
        L0 13, L6 312; largest input 312 MB
        L0 39, L4 156, L5 344, L6 1059; largest input 402 MB
        L0 39, L4 307, L5 1124, L6 3326; largest input 486 MB
    "#]]
    .assert_eq(&table);
}

#[test]
fn twenty_million_rows_come_to_full_rest_cheaply() {
    let mut tree = load(Shape::default(), 25, plan, uniform(3));
    tree.run(plan_full);
    assert!(amplification(&tree) < 5.0, "{}", amplification(&tree));
    let text = format!("{:.2}; {}", amplification(&tree), tree.levels_in_mb());
    expect!["4.88; L6 325"].assert_eq(&text);
}

#[test]
fn names_in_order_are_moved_and_what_is_overwritten_is_rewritten() {
    let mut table = String::new();
    for old_percent in [0, 10, 50] {
        let tree = load(Shape::default(), 200, plan, in_order(old_percent));
        let (amplification, levels) = (amplification(&tree), tree.levels_in_mb());
        writeln!(table, "{old_percent}% old: {amplification:.1}; {levels}").unwrap();
    }
    expect![[r#"
        0% old: 1.0; L0 65, L4 208, L5 650, L6 1677
        10% old: 3.8; L0 26, L4 151, L5 740, L6 1682
        50% old: 5.0; L0 26, L4 167, L5 805, L6 1600
    "#]]
    .assert_eq(&table);
}

#[test]
fn small_flushes_do_not_rewrite_a_large_base() {
    let mut tree = load(Shape::default(), 25, plan, uniform(4));
    let before = (tree.flushed_bytes, tree.rewritten_bytes);
    let mut draw = Draw(5);
    for _ in 0..1000 {
        tree.flush((0..5).map(|_| draw.next()).collect());
        tree.run(plan);
    }
    let flushed = tree.flushed_bytes - before.0;
    let rewritten = tree.rewritten_bytes - before.1;
    let amplification = (flushed + rewritten) as f64 / flushed as f64;
    let text = format!("{amplification:.1}; {}", tree.levels_in_mb());
    expect!["11.9; L0 0, L2 2, L4 70, L5 39, L6 312"].assert_eq(&text);
}

#[test]
fn small_flushes_in_order_do_not_leave_as_many_tables() {
    let mut tree = Tree::new(Shape::default(), KEY_BYTES);
    for key in 0..5000 {
        tree.flush(BTreeSet::from([key]));
        tree.run(plan);
    }
    let table_count = tree.levels.total().table_count;
    let text =
        format!("{:.1}; {}; {table_count} tables", amplification(&tree), tree.levels_in_mb());
    expect!["3.9; L0 0, L2 0, L4 9, L6 90; 23 tables"].assert_eq(&text);
}

/// Where the planner would take a run of tables, the one with the lowest ordinal alone.
fn the_oldest(levels: &Levels, shape: &Shape, oldest_seen: u64, damaged: &Damaged) -> Option<Plan> {
    let plan = plan(levels, shape, oldest_seen, damaged)?;
    if plan.source == 0 {
        return Some(plan);
    }
    let oldest = levels.tables(plan.source).iter().min_by_key(|table| table.id.ordinal)?;
    Some(of_one_table(levels, plan.source, plan.target, oldest))
}

/// Levels as RocksDB sizes them from the last one: each a tenth of the next, as long as more than
/// 256 MB are left.
fn tenfold(levels: &Levels, shape: &Shape, _oldest_seen: u64, _damaged: &Damaged) -> Option<Plan> {
    let mut base = LAST;
    let mut targets = [f64::INFINITY; LEVELS_MAX as usize];
    let held = |level| levels.sums(level).file_bytes as f64;
    let mut target = (1..LEVELS_MAX).map(held).fold(0.0, f64::max);
    while target > 256e6 && base > 1 {
        target /= 10.0;
        base -= 1;
        targets[usize::from(base)] = target;
    }
    let l0_score = levels.sums(0).table_count as f64 / f64::from(shape.l0_tables);
    let scores = (base..LAST).map(|level| (level, held(level) / targets[usize::from(level)]));
    let due = [(0, l0_score)].into_iter().chain(scores).filter(|(_, score)| *score >= 1.0);
    let (source, _) = due.max_by(|a, b| a.1.total_cmp(&b.1))?;
    if source == 0 {
        let mut tables = levels.tables(0).to_vec();
        let target_tables = levels.tables(base).to_vec();
        tables.sort_by_key(|table| table.id);
        return Some(Plan {
            source: 0,
            target: base,
            source_tables: tables,
            target_tables,
            is_move: false,
            is_bottom: false,
        });
    }
    let overlap = |table: &TableMeta| {
        let run = levels.run(source + 1, &table.first, &table.last);
        run.iter().map(|other| other.file_bytes).sum::<u64>() as f64 / table.file_bytes as f64
    };
    let least = levels.tables(source).iter().min_by(|a, b| overlap(a).total_cmp(&overlap(b)))?;
    Some(of_one_table(levels, source, source + 1, least))
}

fn of_one_table(levels: &Levels, source: u8, target: u8, table: &Arc<TableMeta>) -> Plan {
    let target_tables = levels.run(target, &table.first, &table.last).to_vec();
    Plan {
        source,
        target,
        source_tables: vec![Arc::clone(table)],
        is_move: target_tables.is_empty(),
        target_tables,
        is_bottom: false,
    }
}
