//! Plans for trees with tables that are damaged: drawn as in [`drawings`](crate::drawings), and whatever is flushed.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use pinstone_compaction::levels::{LEVELS_MAX, Levels};
use pinstone_compaction::plan::{Damaged, Plan, Shape, plan, plan_full};
use pinstone_compaction::{TableId, TableMeta};
use proptest::prelude::*;

use crate::drawings::{SHAPE, annotated, drawn};
use crate::model::{Draw, Tree};
use crate::properties::{a_flush, a_shape};

/// The tables drawn with these numbers.
fn numbered(levels: &Levels, numbers: &[u32]) -> Damaged {
    let ids = levels.all().map(|(_, table)| table.id);
    ids.filter(|id| numbers.contains(&id.ordinal.0)).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
fn planned(drawing: &str, damaged: &[u32], expected: Expect) {
    let levels = drawn(drawing);
    let damaged = numbered(&levels, damaged);
    let plan = plan(&levels, &SHAPE, u64::MAX, &damaged);
    expected.assert_eq(&annotated(&levels, u64::MAX, &damaged, plan));
}

#[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
fn planned_full(drawing: &str, damaged: &[u32], expected: Expect) {
    let levels = drawn(drawing);
    let damaged = numbered(&levels, damaged);
    let plan = plan_full(&levels, &SHAPE, u64::MAX, &damaged);
    expected.assert_eq(&annotated(&levels, u64::MAX, &damaged, plan));
}

#[test]
fn level_0_goes_above_a_level_with_damage() {
    planned(
        "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]
         L6: [a-m 20M] [n-z 20M]",
        &[5],
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 16M
            merge 16M, L0 to L5
              source 1:[a-z] 2:[a-z] 3:[a-z] 4:[a-z]
        "#]],
    );
}

#[test]
fn what_cannot_go_down_past_damage_makes_no_level_due() {
    planned(
        "L0: [a-z 4M]
         L5: [a-m 40M] [n-z 40M]
         L6: [a-m 20M] [n-z 20M]",
        &[4],
        expect![[r#"
            scores L0 0.25 L5 0.91 L6 0.00; debt 0M
            at rest
        "#]],
    );
}

#[test]
fn levels_above_damage_are_a_tree_of_their_own() {
    // As if nothing were below, where it is due, and where it goes.
    planned(
        "L0: [a-z 4M]
         L6: [a-m 10000M] [n-z 10000M]",
        &[2],
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 4M
            move 4M, L0 to L4
              source 1:[a-z]
        "#]],
    );
    planned(
        "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]
         L4: [a-c 20M] [d-f 9M]
         L5: [a-m 40M] [n-z 40M]
         L6: [a-m 20M] [n-z 20M]",
        &[9],
        expect![[r#"
            scores L0 1.00 L4 0.69 L5 0.82 L6 0.00; debt 104M
            merge 45M, L0 to L4
              source 1:[a-z] 2:[a-z] 3:[a-z] 4:[a-z]
              target 5:[a-c] 6:[d-f]
        "#]],
    );
    planned(
        "L4: [a-c 40M] [d-f 39M]
         L5: [a-m 40M] [n-z 40M]
         L6: [a-m 20M] [n-z 20M]",
        &[5],
        expect![[r#"
            scores L4 1.57 L5 0.71 L6 0.00; debt 128M
            merge 119M, L4 to L5
              source 1:[a-c] 2:[d-f]
              target 3:[a-m]
        "#]],
    );
}

#[test]
fn what_is_damaged_in_level_0_is_moved_when_it_is_the_oldest_and_before_it_what_is_older() {
    let drawing = "L0: [a-m 4M] [a-p 4M] [c-z 4M] [x-z 4M]
                   L6: [a-m 20M] [n-z 20M]";
    planned(
        drawing,
        &[1],
        expect![[r#"
        scores L0 1.00 L6 0.00; debt 56M
        move 4M, L0 to L5
          source 1:[a-m]
    "#]],
    );
    planned(
        drawing,
        &[3],
        expect![[r#"
        scores L0 1.00 L6 0.00; debt 56M
        merge 48M, L0 to L6, the bottom
          source 1:[a-m] 2:[a-p]
          target 5:[a-m] 6:[n-z]
    "#]],
    );
    planned(
        drawing,
        &[4],
        expect![[r#"
        scores L0 1.00 L6 0.00; debt 56M
        merge 52M, L0 to L6, the bottom
          source 1:[a-m] 2:[a-p] 3:[c-z]
          target 5:[a-m] 6:[n-z]
    "#]],
    );
}

#[test]
fn what_is_damaged_goes_past_what_it_does_not_overlap() {
    planned(
        "L1: [a-c 1M] [d-f 1M]
         L4: [a-c 9M]
         L5: [a-b 9M] [m-z 9M]
         L6: [d-e 20M]",
        &[2],
        expect![[r#"
            scores L1 16.00 L4 2.25 L5 1.12 L6 0.00; debt 45M
            move 1M, L1 to L5
              source 2:[d-f]
        "#]],
    );
}

#[test]
fn levels_go_down_with_what_is_damaged_in_them_where_there_is_room_below() {
    planned(
        "L1: [a-c 1M] [d-f 1M]
         L2: [a-z 4M]
         L5: [a-z 9M]",
        &[1],
        expect![[r#"
            scores L1 16.00 L2 16.00 L5 0.56; debt 20M
            move 9M, L5 to L6, the bottom
              source 4:[a-z]
        "#]],
    );
    planned(
        "L1: [a-c 1M] [d-f 1M]
         L2: [a-z 4M]
         L6: [a-z 9M]",
        &[1],
        expect![[r#"
            scores L1 16.00 L2 16.00 L6 0.00; debt 11M
            move 4M, L2 to L3
              source 3:[a-z]
        "#]],
    );
}

#[test]
fn sound_levels_are_merged_where_level_0_has_nowhere_to_go() {
    let all_filled = "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]
         L1: [a-z 1M]
         L2: [a-z 1M]
         L3: [a-z 1M]
         L4: [a-z 1M]
         L5: [a-m 9M] [n-z 9M]
         L6: [a-m 20M] [n-z 20M]";
    planned(
        all_filled,
        &[5],
        expect![[r#"
            scores L0 1.00 L1 0.00 L2 4.00 L3 1.00 L4 0.25 L5 1.12 L6 0.00; debt 138M
            merge 2M, L2 to L3
              source 6:[a-z]
              target 7:[a-z]
        "#]],
    );
    planned(
        all_filled,
        &[5, 6, 8],
        expect![[r#"
            scores L0 1.00 L1 0.00 L2 0.00 L3 0.00 L4 0.00 L5 1.12 L6 0.00; debt 138M
            merge 58M, L5 to L6, the bottom
              source 9:[a-m] 10:[n-z]
              target 11:[a-m] 12:[n-z]
        "#]],
    );
    planned(
        all_filled,
        &[1],
        expect![[r#"
        scores L0 1.00 L1 16.00 L2 4.00 L3 1.00 L4 0.25 L5 1.12 L6 0.00; debt 138M
        merge 2M, L1 to L2
          source 5:[a-z]
          target 6:[a-z]
    "#]],
    );
    // Where nothing else is due.
    let at_rest = all_filled.replace(" 20M", " 10000M");
    planned(
        &at_rest,
        &[1],
        expect![[r#"
        scores L0 1.00 L1 0.02 L2 0.01 L3 0.00 L4 0.00 L5 0.00 L6 0.00; debt 17M
        merge 2M, L1 to L2
          source 5:[a-z]
          target 6:[a-z]
    "#]],
    );
    // Nothing can be done: one of any two levels cannot be read.
    planned(
        all_filled,
        &[5, 7, 9],
        expect![[r#"
            scores L0 1.00 L1 0.00 L2 0.00 L3 0.00 L4 0.00 L5 0.56 L6 0.00; debt 0M
            at rest
        "#]],
    );
}

#[test]
fn levels_make_room_for_what_is_damaged_in_level_0() {
    planned(
        "L0: [a-z 4M]
         L1: [a-z 1M]
         L2: [a-z 1M]
         L5: [a-m 9M] [n-z 9M]
         L6: [a-m 10000M] [n-z 10000M]",
        &[1],
        expect![[r#"
            scores L0 0.25 L1 0.02 L2 0.01 L5 0.00 L6 0.00; debt 0M
            move 1M, L2 to L3
              source 3:[a-z]
        "#]],
    );
}

#[test]
fn what_does_not_overlap_damage_leaves_level_0_without_it() {
    planned(
        "L0: [a-f 0M] [g-k 0M] [g-k 0M] [g-k 0M]
         L1: [a-c 1M]
         L2: [a-c 1M]
         L3: [a-c 1M]
         L4: [a-c 1M]
         L5: [a-c 1M]
         L6: [a-m 10000M] [n-z 10000M]",
        &[1],
        expect![[r#"
            scores L0 1.00 L1 0.02 L2 0.01 L3 0.00 L4 0.00 L5 0.00 L6 0.00; debt 0M
            merge 0M, L0 to L1
              source 2:[g-k] 3:[g-k] 4:[g-k]
        "#]],
    );
}

#[test]
fn of_level_0_what_overlaps_nothing_damaged_goes_beside_it() {
    let drawing = "L0: [a-c 0M] [x-z 0M] [x-z 0M] [x-z 0M]
         L1: [a-c 1M]
         L2: [a-c 1M]
         L3: [a-c 1M]
         L4: [a-c 1M]
         L5: [a-c 1M]
         L6: [a-m 10000M] [n-z 10000M]";
    planned(
        drawing,
        &[5, 7, 9],
        expect![[r#"
        scores L0 1.00 L1 0.00 L2 0.00 L3 0.00 L4 0.00 L5 0.00 L6 0.00; debt 0M
        merge 0M, L0 to L1
          source 2:[x-z] 3:[x-z] 4:[x-z]
    "#]],
    );
    planned_full(
        drawing,
        &[5, 7, 9],
        expect![[r#"
        scores L0 1.00 L1 0.00 L2 0.00 L3 0.00 L4 0.00 L5 0.00 L6 0.00; debt 0M
        merge 0M, L0 to L1
          source 2:[x-z] 3:[x-z] 4:[x-z]
    "#]],
    );
}

#[test]
fn levels_make_no_room_before_level_0_is_due() {
    planned(
        "L1: [a-z 70M]
         L2: [a-z 4M]
         L3: [a-z 60M]
         L4: [a-z 200M]
         L5: [a-z 200M]
         L6: [a-z 3000M]",
        &[2],
        expect![[r#"
            scores L1 0.00 L2 0.00 L3 0.97 L4 0.84 L5 0.22 L6 0.00; debt 0M
            at rest
        "#]],
    );
    planned(
        "L0: [a-z 1M]
         L1: [a-z 4M]
         L2: [a-z 1M]
         L3: [a-z 1M]
         L4: [a-z 1M]
         L5: [a-z 1M]
         L6: [a-z 3000M]",
        &[2],
        expect![[r#"
            scores L0 0.25 L1 0.00 L2 0.06 L3 0.02 L4 0.00 L5 0.00 L6 0.00; debt 0M
            at rest
        "#]],
    );
}

#[test]
fn nothing_damaged_is_thinned_nor_taken_with_what_is() {
    let drawing = "L6: [a-c 20M 3/8] [d-f 4M 3/8] [g-i 4M] [j-k 3M 1/2]";
    planned(
        drawing,
        &[1, 2, 4],
        expect![[r#"
            scores L6 0.00; debt 0M
            at rest
        "#]],
    );
    planned(
        drawing,
        &[2],
        expect![[r#"
            scores L6 0.00; debt 27M
            thin 20M, in L6: 1:[a-c]
        "#]],
    );
}

#[test]
fn what_overlaps_nothing_damaged_goes_down_beside_it() {
    planned(
        "L5: [a-f 1900M] [g-l 1900M] [m-z 1900M]
         L6: [a-f 2000M] [g-l 2000M] [m-z 2000M]",
        &[5],
        expect![[r#"
            scores L5 1.21 L6 0.00; debt 5277M
            merge 3900M, L5 to L6, the bottom
              source 1:[a-f]
              target 4:[a-f]
        "#]],
    );
    // The rest does not make it due.
    planned(
        "L5: [a-f 90M] [g-l 5000M] [m-z 90M]
         L6: [a-f 2000M] [g-l 2000M] [m-z 2000M]",
        &[5],
        expect![[r#"
            scores L5 0.06 L6 0.00; debt 0M
            at rest
        "#]],
    );
    // Neighbours do not go past it together, though that would cost less.
    planned(
        "L5: [a-f 900M] [m-z 900M]
         L6: [a-f 100M] [g-l 20M] [m-z 100M]",
        &[4],
        expect![[r#"
            scores L5 2.99 L6 0.00; debt 1343M
            merge 1000M, L5 to L6, the bottom
              source 1:[a-f]
              target 3:[a-f]
        "#]],
    );
}

#[test]
fn sound_levels_are_merged_where_too_few_are_left_above_damage() {
    let drawing = "L0: [a-z 4M] [a-z 4M] [a-z 4M] [a-z 4M]
         L1: [a-z 70M]
         L2: [a-z 4M]
         L3: [a-z 60M]
         L4: [a-z 200M]
         L5: [a-z 200M]
         L6: [a-z 3000M]";
    planned(
        drawing,
        &[6],
        expect![[r#"
        scores L0 1.00 L1 0.00 L2 0.00 L3 0.97 L4 0.84 L5 0.22 L6 0.00; debt 517M
        merge 260M, L3 to L4
          source 7:[a-z]
          target 8:[a-z]
    "#]],
    );
    planned(
        &drawing.replace("70M", "60M"),
        &[6],
        expect![[r#"
        scores L0 1.00 L1 0.00 L2 0.00 L3 0.97 L4 0.84 L5 0.22 L6 0.00; debt 451M
        merge 76M, L0 to L1
          source 1:[a-z] 2:[a-z] 3:[a-z] 4:[a-z]
          target 5:[a-z]
    "#]],
    );
    // What level 0 gives is what counts.
    let small = drawing.replace("4M", "1M").replace("70M", "20M");
    planned(
        &small,
        &[6],
        expect![[r#"
        scores L0 1.00 L1 0.00 L2 0.00 L3 0.98 L4 0.85 L5 0.22 L6 0.00; debt 78M
        merge 260M, L3 to L4
          source 7:[a-z]
          target 8:[a-z]
    "#]],
    );
}

#[test]
fn a_full_compaction_comes_as_near_as_damage_lets_it() {
    planned_full(
        "L2: [a-z 1M]
         L3: [a-z 4M]
         L4: [a-c 20M] [d-f 9M]
         L5: [a-m 40M] [n-z 40M]
         L6: [a-m 20M] [n-z 20M]",
        &[1],
        expect![[r#"
            scores L2 0.00 L3 1.00 L4 1.81 L5 1.61 L6 0.00; debt 110M
            merge 33M, L3 to L4
              source 2:[a-z]
              target 3:[a-c] 4:[d-f]
        "#]],
    );
    planned_full(
        "L0: [a-m 1M]
         L1: [a-m 1M]
         L2: [a-m 1M]
         L3: [a-m 1M]
         L4: [a-m 1M]
         L5: [a-m 1M]
         L6: [a-m 20M] [n-q 20M 3/8] [r-s 100M 3/8]",
        &[2, 4, 6],
        expect![[r#"
            scores L0 0.25 L1 0.00 L2 0.00 L3 0.00 L4 0.00 L5 0.00 L6 0.00; debt 122M
            thin 120M, in L6: 8:[n-q] 9:[r-s]
        "#]],
    );
    planned_full(
        "L0: [a-z 4M]
         L4: [a-c 20M] [d-f 9M]
         L5: [a-m 40M] [n-z 40M]
         L6: [a-m 20M] [n-z 20M]",
        &[4],
        expect![[r#"
            scores L0 0.25 L4 0.00 L5 0.82 L6 0.00; debt 0M
            merge 33M, L0 to L4
              source 1:[a-z]
              target 2:[a-c] 3:[d-f]
        "#]],
    );
    planned_full(
        "L4: [a-c 20M] [d-f 9M]
         L5: [a-m 40M] [n-z 40M]
         L6: [a-m 20M] [n-z 20M]",
        &[4],
        expect![[r#"
            scores L4 1.81 L5 0.82 L6 0.00; debt 112M
            merge 69M, L4 to L5
              source 1:[a-c] 2:[d-f]
              target 3:[a-m]
        "#]],
    );
}

/// Bytes written for a flushed byte, in each of some spans of time after this level's last table was damaged, and the
/// most that a plan read: uniform keys, in flushes of so many.
fn written_after_damage(keys: usize, damaged_in: Option<u8>) -> (Vec<f64>, u64) {
    let shape =
        Shape { l0_bytes: 8 << 20, table_bytes: 2 << 20, input_bytes_max: 64 << 20, ..SHAPE };
    let mut tree = Tree::new(shape, 20_000);
    let (mut draw, mut damaged) = (Draw(1), Damaged::new());
    let mut go_on = |tree: &mut Tree, damaged: &Damaged, flush_count: u32, keys: usize| {
        for _ in 0..flush_count {
            tree.flush((0..keys).map(|_| draw.next()).collect());
            let mut left = 100_000;
            while let Some(plan) = plan(&tree.levels, &shape, u64::MAX, damaged) {
                tree.carry_out(&plan);
                left -= 1;
                assert!(left > 0, "plans do not come to an end: {plan:?}");
            }
        }
    };
    go_on(&mut tree, &damaged, 300, 100);
    go_on(&mut tree, &damaged, 40, keys);
    if let Some(level) = damaged_in {
        if level == 0 {
            tree.flush((0..100).map(|at| at * (u64::MAX / 100)).collect());
        }
        damaged.extend(tree.levels.tables(level).last().map(|table| table.id));
        assert_eq!(damaged.len(), 1, "{}", tree.levels_in_mb());
    }
    let mut written = |tree: &mut Tree| {
        let before = (tree.flushed_bytes, tree.rewritten_bytes);
        go_on(tree, &damaged, 300, keys);
        let flushed_bytes = tree.flushed_bytes - before.0;
        (flushed_bytes + tree.rewritten_bytes - before.1) as f64 / flushed_bytes as f64
    };
    tree.input_bytes_max = 0;
    let written = (0..6).map(|_| written(&mut tree)).collect();
    (written, tree.input_bytes_max)
}

#[test]
fn one_damaged_table_multiplies_what_is_rewritten_by_little_for_however_long() {
    for keys in [100, 2] {
        let (sound, sound_max) = written_after_damage(keys, None);
        let most = sound.iter().copied().fold(0.0, f64::max);
        for damaged_in in [0, 4, 5, 6] {
            let (written, input_bytes_max) = written_after_damage(keys, Some(damaged_in));
            // At first, sound levels below are merged, once.
            let is_little = written[1..].iter().all(|times| *times < 2.0 * most);
            assert!(is_little, "{keys}, {damaged_in}: {written:?}, {sound:?}");
            assert!(
                input_bytes_max < 3 * sound_max,
                "{keys}, {damaged_in}: {input_bytes_max}, {sound_max}"
            );
        }
    }
}

/// Nothing damaged is read, and nothing newer comes below it.
fn check_plan(tree: &Tree, plan: &Plan, damaged: &Damaged) -> Result<(), TestCaseError> {
    let ids: BTreeSet<_> = plan.inputs().map(|table| table.id).collect();
    prop_assert!(plan.is_move || damaged.is_disjoint(&ids), "{:?}", plan);
    if plan.source == 0 {
        let left = tree.levels.tables(0).iter().filter(|table| !ids.contains(&table.id));
        for left in left {
            let overlaps =
                |table: &&std::sync::Arc<TableMeta>| left.overlaps(&table.first, &table.last);
            let taken = plan.source_tables.iter().filter(overlaps).map(|table| table.id).max();
            prop_assert!(taken.is_none_or(|taken| taken < left.id), "{:?}", plan);
        }
    }
    let (first, last) = plan.keys();
    let is_empty = |level| tree.levels.overlapping(level, first, last).next().is_none();
    prop_assert_eq!(plan.is_bottom, (plan.target + 1..LEVELS_MAX).all(is_empty));
    for table in &plan.source_tables {
        for between in plan.source + 1..plan.target {
            let passed = tree.levels.overlapping(between, &table.first, &table.last).next();
            prop_assert!(passed.is_none(), "{:?}", plan);
        }
        for other in tree.levels.overlapping(plan.target, &table.first, &table.last) {
            prop_assert!(ids.contains(&other.id), "{:?}", plan);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_is_damaged_is_not_read_and_keeps_no_other_waiting(
        shape in a_shape(),
        flushes in prop::collection::vec((a_flush(), any::<bool>(), 0..20u8), 1..60),
        places in prop::collection::vec((any::<prop::sample::Index>(), 0..60usize), 1..4),
    ) {
        let mut tree = Tree::new(shape, 2);
        let (mut keys, mut damaged) = (BTreeSet::new(), BTreeSet::<TableId>::new());
        for (at, (flush, to_rest, full)) in flushes.into_iter().enumerate() {
            keys.extend(&flush);
            tree.flush(flush);
            let harmed = places.iter().filter(|(_, when)| *when == at);
            let tables: Vec<_> = tree.levels.all().map(|(_, table)| table.id).collect();
            damaged.extend(harmed.map(|(which, _)| *which.get(&tables)));
            let planner = if full == 0 { plan_full } else { plan };
            let mut left = 100_000;
            while let Some(plan) = planner(&tree.levels, &shape, u64::MAX, &damaged)
                .filter(|_| to_rest || full == 0)
            {
                check_plan(&tree, &plan, &damaged)?;
                tree.carry_out(&plan);
                left -= 1;
                prop_assert!(left > 0, "plans do not come to an end: {:?}", plan);
            }
            prop_assert_eq!(tree.levels.check(), []);
            prop_assert_eq!(&tree.keys(), &keys);
            if to_rest && has_way(&tree.levels, &damaged) {
                let l0_count = tree.levels.sums(0).table_count;
                prop_assert!(l0_count < u64::from(shape.l0_tables), "{} in level 0", l0_count);
            }
        }
    }
}

/// There are two neighbouring levels without damage, or one that is empty.
fn has_way(levels: &Levels, damaged: &Damaged) -> bool {
    let has_none =
        |level: u8| levels.tables(level).iter().all(|table| !damaged.contains(&table.id));
    let is_empty = |level: u8| levels.tables(level).is_empty();
    has_none(0)
        && (1..LEVELS_MAX).any(|level| {
            is_empty(level) || (level + 1 < LEVELS_MAX && has_none(level) && has_none(level + 1))
        })
}
