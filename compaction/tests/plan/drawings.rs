//! Drawings of levels, and the plans that they get.
//!
//! A line is a level: `L1: [a-f 10M] [h-k 5M]` has two tables, with their first and last key and
//! their size. `[a-f 10M 3/8 @5]` says besides that three of its eight entries are spare, and that 5 is its
//! last commit: of a table without there is one entry, which is not spare, of commit 0. Tables are numbered as
//! they are drawn. Answers give the levels' scores, and the plan with all that it takes.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::{LEVELS_MAX, Levels};
use pinstone_compaction::plan::{
    Damaged, INPUT_TABLES_MAX, NO_DAMAGE, Plan, Shape, debt_bytes, plan, plan_full, score,
};
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::{Bytes, Epoch, Ordinal, TableKind};

/// Four tables of 4 MiB in level 0, levels four times as large as the one above.
pub(crate) const SHAPE: Shape = Shape {
    l0_tables: 4,
    l0_bytes: 16 << 20,
    size_ratio_max: 4,
    table_bytes: 4 << 20,
    input_bytes_max: 200 << 20,
};

pub(crate) fn drawn(drawing: &str) -> Levels {
    let mut edit = LevelEdit::new(TableKind::Names);
    for line in drawing.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (level, tables) = line.split_once(": ").unwrap();
        let level = level.strip_prefix('L').unwrap().parse().unwrap();
        for table in tables.split_terminator(']') {
            let mut words = table.trim().strip_prefix('[').unwrap().split(' ');
            let (keys, size) = (words.next().unwrap(), words.next().unwrap());
            let (spare, entries) = words.next().unwrap_or("0/1").split_once('/').unwrap();
            let commit = words.next().unwrap_or("@0").strip_prefix('@').unwrap();
            let (first, last) = keys.split_once('-').unwrap();
            let mib: u64 = size.strip_suffix('M').unwrap().parse().unwrap();
            let ordinal = Ordinal(u32::try_from(edit.added.len() + 1).unwrap());
            let meta = TableMeta {
                id: TableId { table: TableKind::Names, ordinal, epoch: Epoch(1) },
                first: Bytes::copy_from_slice(first.as_bytes()),
                last: Bytes::copy_from_slice(last.as_bytes()),
                entry_count: entries.parse().unwrap(),
                spare_count: spare.parse().unwrap(),
                last_commit: commit.parse().unwrap(),
                file_bytes: mib << 20,
                footer_hash: [0; 32],
            };
            edit.added.push((level, meta));
        }
    }
    Levels::new(TableKind::Names).apply(&edit).unwrap()
}

fn tables(tables: &[Arc<TableMeta>]) -> String {
    let text = tables.iter().map(|table| {
        let key = |key: &Bytes| String::from_utf8(key.to_vec()).unwrap();
        format!("{}:[{}-{}]", table.id.ordinal, key(&table.first), key(&table.last))
    });
    text.collect::<Vec<_>>().join(" ")
}

pub(crate) fn annotated(
    levels: &Levels,
    oldest_seen: u64,
    damaged: &Damaged,
    plan: Option<Plan>,
) -> String {
    let mut out = String::from("scores");
    let scores = score(levels, &SHAPE, damaged);
    for level in (0..LEVELS_MAX).filter(|level| !levels.tables(*level).is_empty()) {
        write!(out, " L{level} {:.2}", scores[usize::from(level)]).unwrap();
    }
    writeln!(out, "; debt {}M", debt_bytes(levels, &SHAPE, oldest_seen, damaged) >> 20).unwrap();
    let Some(plan) = plan else { return out + "at rest\n" };
    let mib = plan.input_bytes() >> 20;
    if plan.source == plan.target {
        writeln!(out, "thin {mib}M, in L{}: {}", plan.source, tables(&plan.source_tables)).unwrap();
        assert!(plan.is_bottom && !plan.is_move && plan.target_tables.is_empty());
        return out;
    }
    let verb = if plan.is_move { "move" } else { "merge" };
    let place = if plan.is_bottom { ", the bottom" } else { "" };
    writeln!(out, "{verb} {mib}M, L{} to L{}{place}", plan.source, plan.target).unwrap();
    writeln!(out, "  source {}", tables(&plan.source_tables)).unwrap();
    if !plan.target_tables.is_empty() {
        writeln!(out, "  target {}", tables(&plan.target_tables)).unwrap();
    }
    out
}

#[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
pub(crate) fn planned(drawing: &str, expected: Expect) {
    let (levels, all) = (drawn(drawing), u64::MAX);
    expected.assert_eq(&annotated(&levels, all, NO_DAMAGE, plan(&levels, &SHAPE, all, NO_DAMAGE)));
}

/// Where commit 5 is the oldest that anyone sees.
#[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
pub(crate) fn planned_as_of_5(drawing: &str, expected: Expect) {
    let levels = drawn(drawing);
    expected.assert_eq(&annotated(&levels, 5, NO_DAMAGE, plan(&levels, &SHAPE, 5, NO_DAMAGE)));
}

#[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
pub(crate) fn planned_full(drawing: &str, expected: Expect) {
    let (levels, all) = (drawn(drawing), u64::MAX);
    expected.assert_eq(&annotated(
        &levels,
        all,
        NO_DAMAGE,
        plan_full(&levels, &SHAPE, all, NO_DAMAGE),
    ));
}

#[test]
fn an_empty_tree_is_at_rest() {
    planned(
        "",
        expect![[r#"
        scores; debt 0M
        at rest
    "#]],
    );
    planned_full(
        "",
        expect![[r#"
        scores; debt 0M
        at rest
    "#]],
    );
}

#[test]
fn level_0_waits_until_it_has_enough_tables() {
    planned(
        "L0: [a-z 4M] [a-z 4M] [a-z 4M]
         L6: [a-m 30M] [n-z 30M]",
        expect![[r#"
            scores L0 0.75 L6 0.00; debt 0M
            at rest
        "#]],
    );
}

#[test]
fn level_0_does_not_wait_while_half_as_much_is_below() {
    planned(
        "L0: [a-z 4M]",
        expect![[r#"
        scores L0 1.00; debt 4M
        move 4M, L0 to L5, the bottom
          source 1:[a-z]
    "#]],
    );
    planned(
        "L0: [a-z 4M]
         L6: [a-m 4M] [n-z 4M]",
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 4M
            move 4M, L0 to L5
              source 1:[a-z]
        "#]],
    );
    planned(
        "L0: [a-z 4M]
         L5: [a-m 4M]
         L6: [n-z 5M]",
        expect![[r#"
            scores L0 0.25 L5 0.25 L6 0.00; debt 0M
            at rest
        "#]],
    );
}

#[test]
fn level_0_goes_down_whole_and_takes_what_it_overlaps() {
    planned(
        "L0: [b-y 4M] [c-z 4M] [b-y 4M] [b-x 4M]
         L6: [a-a 5M] [b-m 20M] [n-z 20M]",
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 61M
            merge 56M, L0 to L6, the bottom
              source 1:[b-y] 2:[c-z] 3:[b-y] 4:[b-x]
              target 6:[b-m] 7:[n-z]
        "#]],
    );
}

#[test]
fn the_first_compaction_of_level_0_has_nothing_below() {
    planned(
        "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]",
        expect![[r#"
        scores L0 1.00; debt 16M
        merge 16M, L0 to L6, the bottom
          source 1:[a-z] 2:[a-z] 3:[a-z] 4:[a-z]
    "#]],
    );
}

#[test]
fn tables_of_level_0_that_overlap_nothing_are_moved() {
    planned(
        "L0: [k-l 4M] [m-n 4M] [o-p 4M] [q-r 4M]
         L6: [a-f 20M] [g-j 20M]",
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 56M
            move 4M, L0 to L6, the bottom
              source 1:[k-l]
        "#]],
    );
}

#[test]
fn small_tables_are_written_as_fewer_instead_of_moved() {
    let small = Shape { table_bytes: 40 << 20, ..SHAPE };
    for drawing in
        ["L0: [k-l 4M] [m-n 4M] [o-p 4M] [q-r 4M]", "L5: [a-b 9M] [c-d 9M]\nL6: [x-z 9M]"]
    {
        let levels = drawn(drawing);
        for (shape, is_move) in [(SHAPE, true), (small, false)] {
            let plan = plan(&levels, &shape, u64::MAX, NO_DAMAGE).unwrap();
            assert_eq!(plan.is_move, is_move, "{plan:?}");
            assert!(is_move || plan.source_tables.len() == levels.tables(plan.source).len());
        }
    }
}

#[test]
fn of_level_0_the_group_with_least_to_rewrite_goes() {
    // 1, 3 and 5 are linked through 3; 2 and 4 by one key. 6 is alone, over a large table.
    planned(
        "L0: [a-c 4M] [p-r 4M] [b-f 4M] [r-t 4M] [e-h 4M] [w-w 4M]
         L6: [a-d 10M] [e-m 10M] [n-s 10M] [v-z 30M]",
        expect![[r#"
            scores L0 1.50 L6 0.00; debt 84M
            merge 18M, L0 to L6, the bottom
              source 2:[p-r] 4:[r-t]
              target 9:[n-s]
        "#]],
    );
}

#[test]
fn a_vast_group_gives_its_oldest_tables_first() {
    planned(
        "L0: [a-z 90M] [a-z 90M] [a-k 30M] [a-z 4M]
         L6: [a-m 20M]",
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 234M
            merge 200M, L0 to L6, the bottom
              source 1:[a-z] 2:[a-z]
              target 5:[a-m]
        "#]],
    );
}

#[test]
fn level_0_never_passes_over_a_level_that_holds_something() {
    planned(
        "L0: [a-e 4M] [a-e 4M] [a-e 4M] [a-e 4M]
         L3: [x-z 1M]
         L6: [a-z 30M]",
        expect![[r#"
            scores L0 1.00 L3 1.00 L6 0.00; debt 45M
            merge 16M, L0 to L3
              source 1:[a-e] 2:[a-e] 3:[a-e] 4:[a-e]
        "#]],
    );
}

#[test]
fn small_flushes_stop_above_a_large_base() {
    planned(
        "L0: [a-z 1M] [a-z 1M] [a-z 1M] [a-z 1M]
         L6: [a-m 20M] [n-z 20M]",
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 4M
            merge 4M, L0 to L5
              source 1:[a-z] 2:[a-z] 3:[a-z] 4:[a-z]
        "#]],
    );
}

#[test]
fn the_base_is_higher_the_more_there_is() {
    // 16, 64, 256: beyond 64 MiB in all there are two levels, beyond 256 three.
    for last in ["50M", "100M", "300M"] {
        let levels = drawn(&format!(
            "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]
             L6: [a-z {last}]"
        ));
        let plan = plan(&levels, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
        let base = match last {
            "50M" => 6,
            "100M" => 5,
            _ => 4,
        };
        assert_eq!(plan.target, base, "{last}");
    }
}

#[test]
fn a_level_of_uniform_keys_goes_down_whole() {
    planned(
        "L5: [a-f 16M] [g-l 16M] [m-r 16M] [s-z 16M]
         L6: [a-c 10M] [d-f 10M] [g-i 10M] [j-l 10M] [m-o 10M] [p-r 10M] [s-u 10M] [v-z 10M]",
        expect![[r#"
            scores L5 1.33 L6 0.00; debt 36M
            merge 144M, L5 to L6, the bottom
              source 1:[a-f] 2:[g-l] 3:[m-r] 4:[s-z]
              target 5:[a-c] 6:[d-f] 7:[g-i] 8:[j-l] 9:[m-o] 10:[p-r] 11:[s-u] 12:[v-z]
        "#]],
    );
}

#[test]
fn what_is_due_by_nothing_owes_something() {
    let levels = drawn(
        "L5: [a-c 16M]
         L6: [a-z 30M]",
    );
    assert!(plan(&levels, &SHAPE, u64::MAX, NO_DAMAGE).is_some());
    assert!(debt_bytes(&levels, &SHAPE, u64::MAX, NO_DAMAGE) > 0);
}

#[test]
fn a_run_is_cut_at_the_bound_of_input() {
    planned(
        "L5: [a-f 30M] [g-l 30M] [m-r 30M] [s-z 30M]
         L6: [a-c 15M] [d-f 15M] [g-i 15M] [j-l 15M] [m-o 15M] [p-r 15M] [s-u 15M] [v-z 15M]",
        expect![[r#"
            scores L5 1.94 L6 0.00; debt 116M
            merge 180M, L5 to L6, the bottom
              source 1:[a-f] 2:[g-l] 3:[m-r]
              target 5:[a-c] 6:[d-f] 7:[g-i] 8:[j-l] 9:[m-o] 10:[p-r]
        "#]],
    );
}

#[test]
fn a_table_beyond_the_bound_goes_alone() {
    planned(
        "L5: [a-z 150M]
         L6: [a-m 99M] [n-z 99M]",
        expect![[r#"
            scores L5 1.20 L6 0.00; debt 58M
            merge 348M, L5 to L6, the bottom
              source 1:[a-z]
              target 2:[a-m] 3:[n-z]
        "#]],
    );
}

#[test]
fn what_overlaps_nothing_below_is_moved() {
    planned(
        "L5: [a-c 16M] [d-f 16M] [g-i 16M] [s-z 16M]
         L6: [a-b 30M] [h-k 30M] [t-x 30M]",
        expect![[r#"
            scores L5 1.29 L6 0.00; debt 34M
            move 16M, L5 to L6, the bottom
              source 2:[d-f]
        "#]],
    );
}

#[test]
fn the_highest_score_goes_first() {
    planned(
        "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]
         L5: [a-m 60M] [n-z 60M]
         L6: [a-m 50M] [n-z 50M]",
        expect![[r#"
            scores L0 1.25 L5 2.02 L6 0.00; debt 278M
            merge 110M, L5 to L6, the bottom
              source 6:[a-m]
              target 8:[a-m]
        "#]],
    );
    planned(
        "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]
         L5: [a-m 60M] [n-z 60M]
         L6: [a-m 50M] [n-z 50M]",
        expect![[r#"
            scores L0 2.25 L5 2.02 L6 0.00; debt 314M
            merge 156M, L0 to L5
              source 1:[a-z] 2:[a-z] 3:[a-z] 4:[a-z] 5:[a-z] 6:[a-z] 7:[a-z] 8:[a-z] 9:[a-z]
              target 10:[a-m] 11:[n-z]
        "#]],
    );
}

#[test]
fn above_the_last_level_a_plan_is_at_the_bottom_only_where_nothing_is_below() {
    planned(
        "L4: [a-c 40M]
         L5: [a-b 10M]
         L6: [b-m 60M] [n-z 60M]",
        expect![[r#"
            scores L4 2.50 L5 0.19 L6 0.00; debt 30M
            merge 50M, L4 to L5
              source 1:[a-c]
              target 2:[a-b]
        "#]],
    );
    planned(
        "L4: [a-c 40M]
         L5: [a-b 10M]
         L6: [d-m 60M] [n-z 60M]",
        expect![[r#"
            scores L4 2.50 L5 0.19 L6 0.00; debt 30M
            merge 50M, L4 to L5, the bottom
              source 1:[a-c]
              target 2:[a-b]
        "#]],
    );
}

#[test]
fn a_full_compaction_takes_the_uppermost_level_that_is_not_alone() {
    planned_full(
        "L0: [a-z 4M]",
        expect![[r#"
            scores L0 1.00; debt 4M
            move 4M, L0 to L6, the bottom
              source 1:[a-z]
        "#]],
    );
    planned_full(
        "L0: [a-z 4M]
         L4: [a-c 1M]
         L6: [a-z 30M]",
        expect![[r#"
            scores L0 0.25 L4 0.25 L6 0.00; debt 0M
            merge 5M, L0 to L4
              source 1:[a-z]
              target 2:[a-c]
        "#]],
    );
    planned_full(
        "L4: [a-c 1M]
         L6: [a-z 30M]",
        expect![[r#"
            scores L4 0.25 L6 0.00; debt 0M
            merge 31M, L4 to L6, the bottom
              source 1:[a-c]
              target 2:[a-z]
        "#]],
    );
    planned_full(
        "L4: [a-c 4M] [d-e 1M]",
        expect![[r#"
            scores L4 1.25; debt 1M
            at rest
        "#]],
    );
}

fn table(ordinal: u32, first: u32, last: u32, file_bytes: u64) -> TableMeta {
    let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
    TableMeta {
        id: TableId { table: TableKind::Names, ordinal: Ordinal(ordinal), epoch: Epoch(1) },
        first: key(first),
        last: key(last),
        entry_count: 1,
        spare_count: 0,
        last_commit: 0,
        file_bytes,
        footer_hash: [0; 32],
    }
}

/// Far more tables than are ever drawn: their bytes alone would let all of them go.
#[test]
fn a_plan_has_a_bounded_number_of_tables() {
    let levels = |added| {
        let edit = LevelEdit { added, ..LevelEdit::new(TableKind::Names) };
        Levels::new(TableKind::Names).apply(&edit).unwrap()
    };
    let l0 = (1..=1000).map(|ordinal| (0, table(ordinal, 0, 9, 9000))).collect();
    let taken = plan(&levels(l0), &SHAPE, u64::MAX, NO_DAMAGE).unwrap().source_tables;
    let ordinals = taken.iter().map(|table| table.id.ordinal.0);
    assert!(ordinals.eq(1..=256), "the oldest");

    // Each of ten tables overlaps 1,700.
    let source = (0..10u32).map(|n| (5, table(n + 1, n * 1700, n * 1700 + 1699, 10 << 20)));
    let target = (0..17_000u32).map(|n| (6, table(n + 11, n, n, 10)));
    let nine = plan(&levels(source.chain(target).collect()), &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
    assert_eq!((nine.source, nine.source_tables.len()), (5, 9));
    assert!(nine.inputs().count() <= INPUT_TABLES_MAX);

    // One that overlaps too many alone is left, for others if there are any.
    let target = || (0..17_000u32).map(|n| (6, table(n + 11, n, n, 10)));
    let wide = (5, table(1, 0, 16_998, 100 << 20));
    let alone = levels([wide.clone()].into_iter().chain(target()).collect());
    assert_eq!(plan(&alone, &SHAPE, u64::MAX, NO_DAMAGE), None);
    assert_eq!(plan_full(&alone, &SHAPE, u64::MAX, NO_DAMAGE), None);
    let beside = [wide, (5, table(2, 16_999, 16_999, 1))].into_iter().chain(target());
    let narrow = plan(&levels(beside.collect()), &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
    assert_eq!(narrow.source_tables[0].id.ordinal, Ordinal(2));

    // What is behind those that it overlaps does not count.
    let apart = [(5, table(1, 0, 0, 100 << 20)), (5, table(2, 16_999, 16_999, 1))];
    let apart = levels(apart.into_iter().chain(target()).collect());
    let first = plan(&apart, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
    assert_eq!(first.source_tables[0].id.ordinal, Ordinal(1));
}

/// Of very many tables some are looked at, elsewhere after each edit; and all, if none of these can go.
#[test]
fn whatever_can_go_of_a_level_of_very_many_tables_goes_in_the_end() {
    let levels = |added| {
        let edit = LevelEdit { added, ..LevelEdit::new(TableKind::Names) };
        Levels::new(TableKind::Names).apply(&edit).unwrap()
    };
    // All but one overlap a table that cannot be read.
    let below = || (0..3000u32).map(|n| (6, table(n + 5000, n, n, 10)));
    for free in [0, 777, 1500, 2999] {
        let bytes = |n| if n == free { 10 << 30 } else { 10 };
        let above = (0..3000u32).map(|n| (5, table(n + 1, n, n, bytes(n))));
        let levels = levels(above.chain(below()).collect());
        let others = below().filter(|(_, other)| other.id.ordinal != Ordinal(free + 5000));
        let damaged = others.map(|(_, other)| other.id).collect();
        let one = plan(&levels, &SHAPE, u64::MAX, &damaged).unwrap();
        assert_eq!((one.source, one.target, one.source_tables.len()), (5, 6, 1));
        assert_eq!(one.source_tables[0].id.ordinal, Ordinal(free + 1));
    }

    let above = (0..20_000u32).map(|n| (5, table(n + 1, n, n, 16 << 20)));
    let mut levels = levels(above.chain([(6, table(30_000, 20_000, 20_000, 10))]).collect());
    let mut places = BTreeSet::new();
    for _ in 0..20 {
        let moved = plan(&levels, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
        assert!(moved.is_move && moved.source == 5, "{moved:?}");
        places.insert(moved.source_tables[0].id.ordinal.0 / 2000);
        levels = levels.apply(&moved.edit(Vec::new())).unwrap();
    }
    assert!(places.len() > 4, "{places:?}");
}

/// What level 0 gives overlaps more tables than one plan may take: it goes above them, and from there on by parts.
#[test]
fn level_0_goes_above_what_overlaps_it_in_too_many_tables() {
    let levels = |added| {
        let edit = LevelEdit { added, ..LevelEdit::new(TableKind::Names) };
        Levels::new(TableKind::Names).apply(&edit).unwrap()
    };
    let bottom = || (0..30_000u32).map(|n| (6, table(n + 100, n, n, 5 << 10)));
    let l0 = (1..=24).map(|ordinal| (0, table(ordinal, 0, 29_999, 8 << 20)));
    let high = levels(l0.chain(bottom()).collect());
    let parts = (0..12u32).map(|n| (5, table(n + 1, n * 2500, n * 2500 + 2499, 16 << 20)));
    let low = levels(parts.chain(bottom()).collect());
    for planned in [plan, plan_full] {
        let first = planned(&high, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
        assert_eq!((first.source, first.target, first.source_tables.len()), (0, 5, 24));
        assert!(first.target_tables.is_empty() && !first.is_bottom);
        let then = planned(&low, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
        assert_eq!((then.source, then.target), (5, 6));
        assert!(then.inputs().count() <= INPUT_TABLES_MAX);
    }
}
