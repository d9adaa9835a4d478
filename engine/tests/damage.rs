//! P5: files of stores at rest, damaged: each damage is told, or changes no answer. `common::damage` is how.
//!
//! Damage is tried at one in so many bytes of the larger stores, at N times as many with
//! `PINSTONE_CRASH_BUDGET=N`, at all from 17 on.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use common::budget;
use common::damage::{Harm, Report, all_harms, closed, dirty, hunt};
use common::script::workload;

fn assert_sound(what: &str, report: &Report) {
    common::say(format_args!("{what}: {report}"));
    assert_eq!(report.violations.count, 0, "{what}: {report}");
    assert!(report.refused > 0, "{what}: nothing was refused: {report}");
}

/// One in so many lengths and bytes is tried; all of them from this budget on.
fn stride(usual: usize) -> usize {
    let budget = usize::try_from(budget()).expect("a budget is small");
    (usual / budget).max(1)
}

#[test]
fn a_damaged_file_of_a_small_closed_store_is_told_and_nothing_is_silently_lost() {
    for name in ["creation", "close-and-reopen", "deletes"] {
        let rest = closed(workload(name).unwrap()).unwrap();
        let report = hunt(&rest, &all_harms(&rest.disk, 1), false);
        assert_sound(name, &report);
    }
}

#[test]
fn a_damaged_file_of_a_closed_store_with_sealed_segments_is_told() {
    let rest = closed(workload("rotation").unwrap()).unwrap();
    let report = hunt(&rest, &all_harms(&rest.disk, stride(13)), false);
    assert_sound("rotation", &report);
    assert!(report.told > 0, "no damage was found on reading: {report}");
}

#[test]
fn a_damaged_file_of_a_store_that_was_not_closed_loses_no_more_than_its_last_batch() {
    for (name, usual) in [("old-values", 3), ("rotation", 13), ("large-values", 17)] {
        let rest = dirty(workload(name).unwrap(), false).unwrap();
        let mut harms = all_harms(&rest.disk, stride(usual));
        harms.retain(|(_, harm)| !matches!(harm, Harm::Cut(_)));
        assert_sound(name, &hunt(&rest, &harms, false));
    }
}

#[test]
fn a_damaged_file_of_a_store_that_rested_loses_no_more_than_what_came_later() {
    for (name, usual) in [("old-values", 3), ("rotation", 13), ("large-values", 17)] {
        let rest = dirty(workload(name).unwrap(), true).unwrap();
        let harms = all_harms(&rest.disk, stride(usual));
        assert_sound(name, &hunt(&rest, &harms, false));
    }
}

#[test]
fn a_lost_lock_file_loses_nothing() {
    let rest = closed(workload("deletes").unwrap()).unwrap();
    let harms: Vec<_> = [Harm::Remove, Harm::Cut(0)].map(|harm| ("LOCK".to_owned(), harm)).into();
    let report = hunt(&rest, &harms, false);
    assert_eq!((report.violations.count, report.harmless), (0, 2), "{report}");
}
