//! Tables from which something can go: drawings with the plans that they get, and that trees of names come to
//! rest, whoever reads.

use std::collections::BTreeMap;

use expect_test::expect;
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::{LEVELS_MAX, Levels};
use pinstone_compaction::merge::{NameEntry, Readers, Versions};
use pinstone_compaction::plan::{NO_DAMAGE, Plan, Shape, debt_bytes, full_bytes, plan, plan_full};
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::{Bytes, Digest, Epoch, Ordinal, TableKind};
use proptest::prelude::*;

use crate::drawings::{SHAPE, drawn, planned, planned_as_of_5, planned_full};

/// A deletion that hides nothing goes on the way down, if that is worth the rewriting.
#[test]
fn what_overlaps_nothing_is_rewritten_if_enough_of_it_goes() {
    planned(
        "L0: [k-l 4M 1/8] [m-n 4M] [o-p 4M] [q-r 4M]
         L6: [a-f 20M] [g-j 20M]",
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 56M
            merge 4M, L0 to L6, the bottom
              source 1:[k-l]
        "#]],
    );
    planned(
        "L0: [k-l 4M 1/9] [m-n 4M] [o-p 4M] [q-r 4M]
         L6: [a-f 20M] [g-j 20M]",
        expect![[r#"
            scores L0 1.00 L6 0.00; debt 56M
            move 4M, L0 to L6, the bottom
              source 1:[k-l]
        "#]],
    );
    // One entry would stay whatever it is.
    planned(
        "L0: [k-l 4M 1/1] [m-n 4M] [o-p 4M] [q-r 4M]",
        expect![[r#"
        scores L0 1.00; debt 16M
        move 4M, L0 to L6, the bottom
          source 1:[k-l]
    "#]],
    );
    // Of a run, all that would be moved counts.
    for (spare, is_move) in [("2/8", false), ("1/8", true)] {
        let levels = drawn(&format!(
            "L5: [a-c 16M] [d-f 16M {spare}] [g-i 16M 0/8] [s-z 16M]
             L6: [a-b 30M] [t-x 30M]",
        ));
        let plan = plan(&levels, &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
        assert_eq!((plan.source_tables.len(), plan.is_move), (2, is_move), "{plan:?}");
    }
}

#[test]
fn what_somebody_sees_is_moved() {
    planned_as_of_5(
        "L0: [k-l 4M 4/8 @5] [m-n 4M] [o-p 4M] [q-r 4M]",
        expect![[r#"
        scores L0 1.00; debt 16M
        merge 4M, L0 to L6, the bottom
          source 1:[k-l]
    "#]],
    );
    planned_as_of_5(
        "L0: [k-l 4M 4/8 @6] [m-n 4M] [o-p 4M] [q-r 4M]",
        expect![[r#"
        scores L0 1.00; debt 16M
        move 4M, L0 to L6, the bottom
          source 1:[k-l]
    "#]],
    );
}

#[test]
fn what_hides_something_is_moved() {
    planned(
        "L0: [k-l 4M 4/8] [m-n 4M] [o-p 4M] [q-r 4M]
         L5: [a-b 4M]
         L6: [a-z 100M]",
        expect![[r#"
            scores L0 1.00 L5 0.10 L6 0.00; debt 20M
            move 4M, L0 to L5
              source 1:[k-l]
        "#]],
    );
}

#[test]
fn at_rest_a_table_with_spare_entries_is_thinned_with_its_smaller_neighbour() {
    planned(
        "L6: [a-c 3M 0/8] [d-f 4M 4/8] [g-i 2M 0/8] [j-l 1M 0/8]",
        expect![[r#"
        scores L6 0.00; debt 6M
        thin 6M, in L6: 2:[d-f] 3:[g-i]
    "#]],
    );
    // What is due by size comes first.
    planned(
        "L5: [a-c 20M]
         L6: [d-f 4M 4/8] [g-i 2M 0/8]",
        expect![[r#"
            scores L5 1.25 L6 0.00; debt 11M
            move 20M, L5 to L6, the bottom
              source 1:[a-c]
        "#]],
    );
}

#[test]
fn a_table_with_few_spare_entries_is_left() {
    planned(
        "L6: [a-c 3M 0/8] [d-f 4M 1/9] [g-i 2M 0/8]",
        expect![[r#"
        scores L6 0.00; debt 0M
        at rest
    "#]],
    );
}

#[test]
fn a_neighbour_that_would_only_be_copied_is_left() {
    planned(
        "L6: [a-c 3M 0/99] [d-f 4M 4/8] [g-i 2M 0/99]",
        expect![[r#"
        scores L6 0.00; debt 4M
        thin 4M, in L6: 2:[d-f]
    "#]],
    );
}

#[test]
fn a_neighbour_beyond_the_bound_is_left() {
    planned(
        "L6: [a-c 199M 0/8] [d-f 4M 4/8]",
        expect![[r#"
        scores L6 0.00; debt 4M
        thin 4M, in L6: 2:[d-f]
    "#]],
    );
}

#[test]
fn what_can_not_go_is_left() {
    // It hides what is below.
    planned(
        "L5: [a-c 1M 4/8] [d-f 1M 4/8]
         L6: [c-d 20M]",
        expect![[r#"
            scores L5 0.12 L6 0.00; debt 0M
            at rest
        "#]],
    );
    // Somebody sees it.
    planned_as_of_5(
        "L6: [a-c 1M 4/8 @6] [d-f 1M 4/8 @7]",
        expect![[r#"
        scores L6 0.00; debt 0M
        at rest
    "#]],
    );
    // In level 0 order is not that of keys.
    planned(
        "L0: [a-c 1M 4/8]\nL6: [k-z 4M]",
        expect![[r#"
            scores L0 0.25 L6 0.00; debt 0M
            at rest
        "#]],
    );
}

#[test]
fn of_a_neighbour_only_what_nobody_sees_counts() {
    planned_as_of_5(
        "L6: [a-c 1M 1/8 @5] [d-f 1M 8/8 @6]",
        expect![[r#"
        scores L6 0.00; debt 1M
        thin 1M, in L6: 1:[a-c]
    "#]],
    );
    planned_as_of_5(
        "L6: [a-c 1M 2/8 @5] [d-f 1M 8/8 @6]",
        expect![[r#"
        scores L6 0.00; debt 2M
        thin 2M, in L6: 1:[a-c] 2:[d-f]
    "#]],
    );
}

#[test]
fn a_neighbour_with_something_below_or_between_is_left() {
    planned(
        "L5: [a-c 1M 4/8] [d-f 1M 4/8]
         L6: [e-e 20M]",
        expect![[r#"
            scores L5 0.12 L6 0.00; debt 1M
            thin 1M, in L5: 1:[a-c]
        "#]],
    );
    planned(
        "L5: [a-b 1M 4/8] [e-f 1M 4/8]
         L6: [c-d 20M]",
        expect![[r#"
            scores L5 0.12 L6 0.00; debt 2M
            thin 1M, in L5: 1:[a-b]
        "#]],
    );
}

#[test]
fn neighbours_that_can_be_thinned_go_together() {
    planned(
        "L6: [a-b 4M 0/8] [c-d 4M 1/8] [e-f 3M 8/8] [g-h 2M 4/8] [i-j 1M 0/8] [k-l 5M 4/8]",
        expect![[r#"
        scores L6 0.00; debt 15M
        thin 9M, in L6: 2:[c-d] 3:[e-f] 4:[g-h]
    "#]],
    );
    // One that would only be copied is not gone through.
    planned(
        "L6: [a-b 4M 4/8] [c-d 4M 4/8] [e-f 4M 1/9] [g-h 4M 4/8] [i-j 4M 4/8]",
        expect![[r#"
        scores L6 0.00; debt 16M
        thin 8M, in L6: 1:[a-b] 2:[c-d]
    "#]],
    );
    planned_full(
        "L6: [a-b 4M 0/9] [c-d 4M 4/8] [e-f 4M 1/9] [g-h 4M 1/99] [i-j 4M 0/9]",
        expect![[r#"
        scores L6 0.00; debt 8M
        thin 12M, in L6: 2:[c-d] 3:[e-f] 4:[g-h]
    "#]],
    );
}

#[test]
fn neighbours_that_can_be_thinned_go_together_up_to_the_bound() {
    planned(
        "L6: [a-b 100M 4/8] [c-d 99M 4/8] [e-f 1M 4/8] [g-h 1M 4/8] [i-j 1M 4/8]",
        expect![[r#"
        scores L6 0.00; debt 202M
        thin 200M, in L6: 1:[a-b] 2:[c-d] 3:[e-f]
    "#]],
    );
    // One that is larger goes alone.
    planned(
        "L6: [a-b 201M 4/8] [c-d 1M 4/8] [e-f 1M 4/8]",
        expect![[r#"
        scores L6 0.00; debt 203M
        thin 201M, in L6: 1:[a-b]
    "#]],
    );
    // By number.
    let many = (0..600).map(|at| format!("[{at:04}-{at:04}+ 0M 4/8]")).collect::<Vec<_>>();
    let levels = drawn(&format!("L6: {}", many.join(" ")));
    for plan in [
        plan(&levels, &SHAPE, u64::MAX, NO_DAMAGE),
        plan_full(&levels, &SHAPE, u64::MAX, NO_DAMAGE),
    ] {
        assert_eq!(plan.unwrap().source_tables, levels.tables(6).range(0..256).to_vec());
    }
}

#[test]
fn neighbours_that_can_be_thinned_go_together_up_to_one_that_cannot() {
    // Somebody sees it.
    planned_as_of_5(
        "L6: [a-b 4M 4/8 @5] [c-d 4M 4/8 @4] [e-f 4M 4/8 @6] [g-h 4M 4/8 @5]",
        expect![[r#"
        scores L6 0.00; debt 16M
        thin 8M, in L6: 1:[a-b] 2:[c-d]
    "#]],
    );
    // It hides what is below, or something is below what lies between.
    for below in ["f-f", "dd-de"] {
        let drawing = format!(
            "L5: [a-b 1M 4/8] [c-d 1M 4/8] [e-f 1M 4/8] [g-h 1M 4/8]
             L6: [{below} 20M]"
        );
        let plan = plan(&drawn(&drawing), &SHAPE, u64::MAX, NO_DAMAGE).unwrap();
        assert_eq!((plan.source_tables.len(), plan.source), (2, 5), "{below}: {plan:?}");
    }
}

/// What is left of tables of which all has gone is one deletion.
#[test]
fn single_deletions_go_together_and_with_little_else() {
    planned(
        "L6: [a-c 20M 0/99] [d-d 1M 1/1]",
        expect![[r#"
        scores L6 0.00; debt 0M
        at rest
    "#]],
    );
    planned(
        "L6: [a-c 20M 0/99] [d-d 1M 1/1] [e-e 1M 1/1] [f-z 20M 0/99]",
        expect![[r#"
        scores L6 0.00; debt 2M
        thin 2M, in L6: 2:[d-d] 3:[e-e]
    "#]],
    );
    planned(
        "L6: [d-d 1M 1/1]",
        expect![[r#"
        scores L6 0.00; debt 0M
        at rest
    "#]],
    );
}

#[test]
fn a_full_compaction_thins_whatever_can_be() {
    planned_full(
        "L6: [a-c 3M 0/99] [d-f 4M 1/99] [g-i 2M 0/99]",
        expect![[r#"
        scores L6 0.00; debt 0M
        thin 4M, in L6: 2:[d-f]
    "#]],
    );
    // With what stays, so that none of it does.
    planned_full(
        "L6: [a-c 3M 0/99] [d-d 1M 1/1] [g-i 2M 0/99]",
        expect![[r#"
        scores L6 0.00; debt 0M
        thin 3M, in L6: 2:[d-d] 3:[g-i]
    "#]],
    );
    planned_full(
        "L6: [d-d 1M 1/1]",
        expect![[r#"
        scores L6 0.00; debt 0M
        at rest
    "#]],
    );
    // Not before there is one level.
    planned_full(
        "L5: [a-c 3M 8/8]
         L6: [d-f 4M 8/8]",
        expect![[r#"
            scores L5 0.19 L6 0.00; debt 7M
            merge 3M, L5 to L6, the bottom
              source 1:[a-c]
        "#]],
    );
}

/// A tree of names whose tables are lists of versions in memory.
struct Tree {
    levels: Levels,
    shape: Shape,
    tables: BTreeMap<TableId, Vec<NameEntry>>,
    /// All that ever came.
    history: Vec<NameEntry>,
    /// Commits as of which somebody reads.
    pins: Vec<u64>,
    last_commit: u64,
    next_ordinal: u32,
    thinning_count: u64,
    flushed_bytes: u64,
    rewritten_bytes: u64,
}

/// An entry's bytes, however long its name is.
const ENTRY_BYTES: u64 = 2;

impl Tree {
    fn new(shape: Shape) -> Self {
        Self {
            levels: Levels::new(TableKind::Names),
            shape,
            tables: BTreeMap::new(),
            history: Vec::new(),
            pins: Vec::new(),
            last_commit: 0,
            next_ordinal: 1,
            thinning_count: 0,
            flushed_bytes: 0,
            rewritten_bytes: 0,
        }
    }

    fn readers(&self) -> Readers {
        Readers::new(self.pins.clone(), u64::MAX)
    }

    fn oldest_seen(&self) -> u64 {
        self.pins.iter().copied().min().unwrap_or(u64::MAX)
    }

    /// A table of these changes comes to level 0, each of a commit of its own.
    fn flush(&mut self, changes: &[(u16, bool)]) {
        let mut entries = Vec::new();
        for (name, stands) in changes {
            self.last_commit += 1;
            let name = Bytes::copy_from_slice(&name.to_be_bytes());
            let to = stands.then(|| Digest::of(&self.last_commit.to_le_bytes()));
            entries.push(NameEntry { name, commit: self.last_commit, to });
        }
        self.history.extend(entries.iter().cloned());
        entries.sort_unstable();
        let meta = self.write(kept(entries, self.readers(), false));
        self.flushed_bytes += meta.file_bytes;
        self.apply(&LevelEdit { added: vec![(0, meta)], ..LevelEdit::new(TableKind::Names) });
    }

    fn write(&mut self, entries: Vec<NameEntry>) -> TableMeta {
        let ordinal = Ordinal(self.next_ordinal);
        self.next_ordinal += 1;
        let id = TableId { table: TableKind::Names, ordinal, epoch: Epoch(1) };
        let names = entries.chunk_by(|a, b| a.name == b.name);
        let standing_count = names.filter(|versions| versions[0].to.is_some()).count();
        let meta = TableMeta {
            id,
            first: entries[0].name.clone(),
            last: entries[entries.len() - 1].name.clone(),
            entry_count: entries.len() as u64,
            spare_count: (entries.len() - standing_count) as u64,
            last_commit: entries.iter().map(|entry| entry.commit).max().unwrap(),
            file_bytes: entries.len() as u64 * ENTRY_BYTES,
            footer_hash: [0; 32],
        };
        self.tables.insert(id, entries);
        meta
    }

    fn apply(&mut self, edit: &LevelEdit) {
        self.levels = self.levels.apply(edit).unwrap();
    }

    fn carry_out(&mut self, plan: &Plan) {
        let before = self.measure();
        let mut outputs = Vec::new();
        if !plan.is_move {
            let inputs = plan.inputs().flat_map(|table| self.tables[&table.id].clone());
            let mut merged: Vec<_> = inputs.collect();
            merged.sort_unstable();
            merged.dedup();
            let mut run: Vec<NameEntry> = Vec::new();
            for entry in kept(merged, self.readers(), plan.is_bottom) {
                let is_full = run.len() as u64 * ENTRY_BYTES >= self.shape.table_bytes;
                if is_full && run.last().is_some_and(|last| last.name != entry.name) {
                    let run = std::mem::take(&mut run);
                    outputs.push(self.write(run));
                }
                run.push(entry);
            }
            outputs.push(self.write(run));
            self.rewritten_bytes += outputs.iter().map(|table| table.file_bytes).sum::<u64>();
        }
        self.apply(&plan.edit(outputs));
        if plan.source == plan.target {
            self.thinning_count += 1;
            let table_count = plan.source_tables.len();
            let is_small = plan.input_bytes() <= self.shape.input_bytes_max;
            assert!(table_count == 1 || (is_small && table_count <= 256), "P4: {plan:?}");
        }
        // P2.
        assert!(self.measure() < before, "{plan:?} brings {before:?} to {:?}", self.measure());
    }

    /// How far all entries are from the last level, and how many are spare.
    fn measure(&self) -> (u64, u64) {
        let above = |(level, table): (u8, &_)| {
            let table: &TableMeta = table;
            u64::from(LEVELS_MAX - 1 - level) * table.entry_count
        };
        let all = self.levels.all().map(|(level, table)| (level, &**table));
        (all.map(above).sum(), self.levels.total().spare_count)
    }

    fn rest(&mut self) {
        while let Some(plan) = plan(&self.levels, &self.shape, self.oldest_seen(), NO_DAMAGE) {
            let before_count = self.levels.total().entry_count;
            self.carry_out(&plan);
            let gone_count = before_count - self.levels.total().entry_count;
            let read_count: u64 = plan.inputs().map(|table| table.entry_count).sum();
            let is_worth_it = read_count <= 8 * gone_count;
            assert!(plan.source != plan.target || is_worth_it, "{gone_count} go: {plan:?}");
        }
    }

    fn rest_full(&mut self) {
        while let Some(plan) = plan_full(&self.levels, &self.shape, self.oldest_seen(), NO_DAMAGE) {
            let oldest_seen = self.oldest_seen();
            assert!(full_bytes(&self.levels, &self.shape, oldest_seen) > 0, "{plan:?}");
            self.carry_out(&plan);
        }
    }

    /// Everyone reads what was committed.
    fn reads_as_before(&self) -> bool {
        let entries = || self.levels.all().flat_map(|(_, table)| &self.tables[&table.id]);
        let mut views = self.pins.iter().chain([&u64::MAX]);
        views.all(|view| standing(entries(), *view) == standing(&self.history, *view))
    }
}

/// What stands as of a commit.
fn standing<'a>(
    entries: impl IntoIterator<Item = &'a NameEntry>,
    commit: u64,
) -> BTreeMap<&'a Bytes, Digest> {
    let mut newest: BTreeMap<&Bytes, &NameEntry> = BTreeMap::new();
    for entry in entries.into_iter().filter(|entry| entry.commit <= commit) {
        let known = newest.entry(&entry.name).or_insert(entry);
        if known.commit < entry.commit {
            *known = entry;
        }
    }
    newest.into_iter().filter_map(|(name, entry)| Some((name, entry.to?))).collect()
}

fn kept(entries: Vec<NameEntry>, readers: Readers, is_bottom: bool) -> Vec<NameEntry> {
    let entries = entries.into_iter().map(Ok::<_, ()>);
    Versions::new(entries, readers, is_bottom).map(Result::unwrap).collect()
}

#[derive(Clone, Debug)]
enum Act {
    /// Names near each other or anywhere, that are set or deleted.
    Flush(Vec<(u16, bool)>),
    Pin,
    Unpin(prop::sample::Index),
    Rest,
    Full,
}

fn an_act() -> impl Strategy<Value = Act> {
    let flush = (0..600u16, 1..300u16, 0..10u8).prop_flat_map(|(from, width, standing)| {
        let stands = (0..10u8).prop_map(move |dice| dice < standing);
        prop::collection::vec((from..from + width, stands), 1..40)
    });
    prop_oneof![
        6 => flush.prop_map(Act::Flush),
        1 => Just(Act::Pin),
        1 => any::<prop::sample::Index>().prop_map(Act::Unpin),
        4 => Just(Act::Rest),
        1 => Just(Act::Full),
    ]
}

proptest! {
    /// Each plan lessens what P2 says, which [`Tree::carry_out`] sees to.
    #[test]
    fn trees_of_names_come_to_rest_and_everyone_reads_as_before(
        (l0_tables, l0_bytes, size_ratio_max) in (1..6u32, 1..200u64, 1..6u32),
        (table_bytes, input_bytes_max) in (1..60u64, 0..400u64),
        acts in prop::collection::vec(an_act(), 1..60),
    ) {
        let shape = Shape { l0_tables, l0_bytes, size_ratio_max, table_bytes, input_bytes_max };
        let mut tree = Tree::new(shape);
        for act in acts {
            match act {
                Act::Flush(changes) => tree.flush(&changes),
                Act::Pin => tree.pins.push(tree.last_commit),
                Act::Unpin(at) if !tree.pins.is_empty() => {
                    tree.pins.swap_remove(at.index(tree.pins.len()));
                }
                Act::Unpin(_) => {}
                Act::Rest => {
                    tree.rest();
                    prop_assert_eq!(debt_bytes(&tree.levels, &shape, tree.oldest_seen(), NO_DAMAGE), 0);
                }
                Act::Full => {
                    tree.rest_full();
                    let oldest_seen = tree.oldest_seen();
                    prop_assert_eq!(full_bytes(&tree.levels, &shape, oldest_seen), 0);
                }
            }
            prop_assert_eq!(tree.levels.check(), []);
            prop_assert!(tree.reads_as_before());
        }
        // With room for any neighbour, nothing is left that nobody reads: but of anything something stays.
        tree.pins.clear();
        tree.shape.input_bytes_max = u64::MAX;
        tree.rest_full();
        let left = tree.levels.total();
        prop_assert!(left.spare_count == 0 || left.entry_count == 1, "{:?}", left);
        prop_assert!(tree.reads_as_before());
    }
}

/// Names come in order, and go before the next come; some others stand.
#[test]
fn deletions_in_order_go_and_little_is_rewritten_for_it() {
    let shape = Shape {
        l0_tables: 6,
        l0_bytes: 6 * 200 * ENTRY_BYTES,
        size_ratio_max: 4,
        table_bytes: 300 * ENTRY_BYTES,
        input_bytes_max: 10_000 * ENTRY_BYTES,
    };
    let mut tree = Tree::new(shape);
    for name in 0..10 {
        let others: Vec<_> = (0..200).map(|at| (60_000 + 200 * name + at, true)).collect();
        tree.flush(&others);
    }
    for first in (0..60_000).step_by(200) {
        let deletions: Vec<_> = (first..first + 200).map(|name| (name, false)).collect();
        tree.flush(&deletions);
        tree.rest();
    }
    let rewritten = tree.rewritten_bytes as f64 / tree.flushed_bytes as f64;
    let text = |tree: &Tree| {
        let (all, l0) = (tree.levels.total(), tree.levels.sums(0));
        let below = (all.table_count - l0.table_count, all.spare_count - l0.spare_count);
        format!("{} tables below level 0 with {} spare entries", below.0, below.1)
    };
    let thinnings = tree.thinning_count;
    let found = format!("{}; {thinnings} thinnings, {rewritten:.2} rewritten", text(&tree));
    expect!["11 tables below level 0 with 1 spare entries; 294 thinnings, 0.01 rewritten"]
        .assert_eq(&found);
    tree.rest_full();
    expect!["10 tables below level 0 with 0 spare entries"].assert_eq(&text(&tree));
    assert_eq!(tree.levels.total().entry_count, 2000);
}

/// As long as somebody reads them, versions stay; then they go, though nothing is written any more.
#[test]
fn versions_that_nobody_sees_any_more_go_at_rest() {
    let shape = Shape { l0_tables: 2, l0_bytes: 400, table_bytes: 300, ..SHAPE };
    let mut tree = Tree::new(shape);
    for _ in 0..20 {
        let names: Vec<_> = (0..100).map(|name| (name, true)).collect();
        tree.flush(&names);
        tree.pins.push(tree.last_commit);
        tree.rest();
    }
    tree.rest_full();
    assert_eq!(tree.levels.total().entry_count, 2000);
    let newest = tree.pins.pop().unwrap();
    tree.pins.drain(..19);
    tree.pins.push(newest);
    tree.rest();
    let left = tree.levels.total();
    assert_eq!((left.entry_count, left.spare_count), (100, 0));
    assert!(tree.thinning_count > 0);
}
