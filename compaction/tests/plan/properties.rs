//! What must hold of every tree, whatever is flushed and however it is shaped.

use std::collections::BTreeSet;

use pinstone_compaction::levels::LEVELS_MAX;
use pinstone_compaction::plan::{NO_DAMAGE, Shape, debt_bytes, full_bytes, plan, plan_full, score};
use proptest::prelude::*;

use crate::model::Tree;

pub(crate) fn a_shape() -> impl Strategy<Value = Shape> {
    (1..6u32, 1..200u64, 1..6u32, 1..60u64, 0..400u64).prop_map(
        |(l0_tables, l0_bytes, size_ratio_max, table_bytes, input_bytes_max)| Shape {
            l0_tables,
            l0_bytes,
            size_ratio_max,
            table_bytes,
            input_bytes_max,
        },
    )
}

/// Keys near each other or anywhere, few or many.
pub(crate) fn a_flush() -> impl Strategy<Value = BTreeSet<u64>> {
    (0..1000u64, 1..1000u64)
        .prop_flat_map(|(from, width)| prop::collection::btree_set(from..from + width, 1..40))
}

proptest! {
    /// The model applies each edit, which refuses overlaps, and tables that come or go twice.
    #[test]
    fn every_tree_comes_to_rest_and_keeps_its_keys(
        shape in a_shape(),
        flushes in prop::collection::vec((a_flush(), any::<bool>(), 0..20u8), 1..60),
    ) {
        let mut tree = Tree::new(shape, 2);
        let mut keys = BTreeSet::new();
        for (flush, to_rest, full) in flushes {
            keys.extend(&flush);
            tree.flush(flush);
            if to_rest {
                tree.run(plan);
                prop_assert!(score(&tree.levels, &shape, NO_DAMAGE).iter().all(|score| *score < 1.0));
                prop_assert_eq!(debt_bytes(&tree.levels, &shape, u64::MAX, NO_DAMAGE), 0);
                prop_assert!(tree.levels.sums(0).table_count < u64::from(shape.l0_tables));
            }
            if full == 0 {
                tree.run(plan_full);
                let levels: BTreeSet<_> = tree.levels.all().map(|(level, _)| level).collect();
                prop_assert!(levels.len() == 1 && !levels.contains(&0), "{:?}", levels);
            }
            let is_one_level = plan_full(&tree.levels, &shape, u64::MAX, NO_DAMAGE).is_none();
            prop_assert_eq!(full_bytes(&tree.levels, &shape, u64::MAX) == 0, is_one_level);
            prop_assert_eq!(tree.levels.check(), []);
            prop_assert_eq!(&tree.keys(), &keys);
        }
    }

    #[test]
    fn a_plan_takes_all_that_its_keys_touch_and_nothing_twice(
        shape in a_shape(),
        flushes in prop::collection::vec((a_flush(), any::<bool>()), 1..40),
    ) {
        let mut tree = Tree::new(shape, 2);
        for (flush, step) in flushes {
            tree.flush(flush);
            let Some(plan) = plan(&tree.levels, &shape, u64::MAX, NO_DAMAGE).filter(|_| step) else { continue };
            prop_assert!(debt_bytes(&tree.levels, &shape, u64::MAX, NO_DAMAGE) > 0);
            let levels = &tree.levels;
            let ids: BTreeSet<_> = plan.inputs().map(|table| table.id).collect();
            prop_assert_eq!(ids.len(), plan.inputs().count());
            // P1: whatever stays above is newer, whatever is passed over is empty.
            if plan.source == 0 {
                let newest = plan.source_tables.iter().map(|table| table.id).max();
                for table in levels.tables(0).iter().filter(|table| !ids.contains(&table.id)) {
                    let mut taken = plan.source_tables.iter();
                    let is_linked = taken.any(|other| other.overlaps(&table.first, &table.last));
                    prop_assert!(!is_linked || Some(table.id) > newest);
                }
            }
            for between in plan.source + 1..plan.target {
                prop_assert!(levels.tables(between).is_empty());
            }
            // P3, and what is said of the levels below.
            for table in &plan.source_tables {
                for other in levels.overlapping(plan.target, &table.first, &table.last) {
                    prop_assert!(ids.contains(&other.id));
                }
            }
            let (first, last) = plan.keys();
            let is_empty = |level| levels.overlapping(level, first, last).next().is_none();
            prop_assert_eq!(plan.is_bottom, (plan.target + 1..LEVELS_MAX).all(is_empty));
            let keys = tree.keys();
            tree.carry_out(&plan);
            prop_assert_eq!(keys, tree.keys());
        }
    }

    /// P4.
    #[test]
    fn an_input_is_bounded(
        shape in a_shape(),
        flushes in prop::collection::vec(a_flush(), 1..60),
    ) {
        let mut tree = Tree::new(shape, 2);
        for flush in flushes {
            tree.flush(flush);
            while let Some(plan) = plan(&tree.levels, &shape, u64::MAX, NO_DAMAGE) {
                let given: u64 = plan.source_tables.iter().map(|table| table.file_bytes).sum();
                let bounded = match plan.source {
                    _ if plan.source_tables.len() == 1 => true,
                    0 => given <= shape.input_bytes_max.max(shape.l0_bytes),
                    _ => plan.is_move || plan.input_bytes() <= shape.input_bytes_max,
                };
                prop_assert!(bounded, "{:?}", plan);
                tree.carry_out(&plan);
            }
        }
    }
}
