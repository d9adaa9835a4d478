//! Merged runs are sorted and whole; what is dropped of names, nobody could read.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::collections::BTreeSet;
use std::convert::Infallible;

use expect_test::{Expect, expect};
use pinstone_compaction::merge::{Merge, NameEntry, Readers, Sieve, Versions, WAITING_MAX};
use pinstone_disk::{Bytes, Digest};
use proptest::prelude::*;

type Item = Result<u32, &'static str>;

fn merged(sources: &[&[Item]]) -> Vec<Item> {
    Merge::new(sources.iter().map(|source| source.iter().copied()).collect()).collect()
}

#[test]
fn equal_items_are_given_once() {
    assert_eq!(merged(&[]), []);
    assert_eq!(merged(&[&[], &[]]), []);
    let items = merged(&[&[Ok(1), Ok(1), Ok(4)], &[Ok(1), Ok(3), Ok(4), Ok(4)], &[Ok(0)]]);
    assert_eq!(items, [Ok(0), Ok(1), Ok(3), Ok(4)]);
}

#[test]
fn an_error_comes_after_what_is_before_it_and_ends_the_merge() {
    assert_eq!(merged(&[&[Ok(5)], &[Err("a"), Ok(6)]]), [Err("a")]);
    let sources: [&[Item]; 2] = [&[Ok(1), Ok(3), Err("b"), Ok(5)], &[Ok(2), Ok(4), Ok(9)]];
    assert_eq!(merged(&sources), [Ok(1), Ok(2), Ok(3), Err("b")]);
    // While a duplicate is passed.
    assert_eq!(merged(&[&[Ok(1), Err("c")], &[Ok(1), Ok(2)]]), [Ok(1), Err("c")]);
}

#[test]
fn nothing_is_asked_of_a_source_before_the_first_item_is() {
    let asked = std::cell::Cell::new(0);
    let source = std::iter::from_fn(|| {
        asked.set(asked.get() + 1);
        None::<Item>
    });
    let mut merge = Merge::new(vec![source]);
    assert_eq!(asked.get(), 0);
    assert_eq!(merge.next(), None);
    assert_eq!(asked.get(), 1);
}

/// `a9 a7- b3`: name a was set by commit 9 and deleted by 7, name b set by 3.
fn entries(text: &str) -> Vec<NameEntry> {
    let entry = |word: &str| {
        let (name, commit) = word.split_at(1);
        let set = commit.strip_suffix('-');
        NameEntry {
            name: Bytes::copy_from_slice(name.as_bytes()),
            commit: set.unwrap_or(commit).parse().unwrap(),
            to: set.is_none().then(|| Digest::of(word.as_bytes())),
        }
    };
    text.split_whitespace().map(entry).collect()
}

fn words(entries: &[NameEntry]) -> String {
    let word = |entry: &NameEntry| {
        let mark = if entry.to.is_some() { "" } else { "-" };
        format!("{}{}{mark}", String::from_utf8_lossy(&entry.name), entry.commit)
    };
    entries.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn filtered(entries: Vec<NameEntry>, readers: &Readers, is_bottom: bool) -> Vec<NameEntry> {
    let entries = entries.into_iter().map(Ok::<_, Infallible>);
    Versions::new(entries, readers.clone(), is_bottom).map(Result::unwrap).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "an expectation is written in place")]
fn kept(text: &str, views: &[u64], keep_from: Option<u64>, expected: Expect) {
    let readers = Readers::new(views.to_vec(), keep_from.unwrap_or(u64::MAX));
    let above = words(&filtered(entries(text), &readers, false));
    let bottom = words(&filtered(entries(text), &readers, true));
    expected.assert_eq(&format!("{above}\n{bottom}\n"));
}

// Expectations: what stays above the bottom, then what stays at the bottom.

#[test]
fn without_views_the_present_stays() {
    kept(
        "a9 a7 a5- b3- b2 c8-",
        &[],
        None,
        expect![[r#"
        a9 b3- c8-
        a9
    "#]],
    );
}

#[test]
fn what_a_view_sees_stays_and_what_hides_it_from_others() {
    // Views see what is not above them: 6 sees a5, 2 sees b2, and nothing of c and d.
    kept(
        "a9- a7 a5 a3 b4- b2 c7 d9- d7",
        &[2, 6],
        None,
        expect![[r#"
        a9- a5 b4- b2 c7 d9-
        a9- a5 b4- b2 c7
    "#]],
    );
}

#[test]
fn a_deletion_that_only_a_view_sees_goes_at_the_bottom() {
    kept(
        "a9 a5- a3",
        &[6],
        None,
        expect![[r#"
        a9 a5-
        a9
    "#]],
    );
    kept(
        "a9 a5- a3",
        &[6, 4],
        None,
        expect![[r#"
        a9 a5- a3
        a9 a5- a3
    "#]],
    );
}

#[test]
fn history_stays_from_its_floor_on_and_so_does_what_was_there_then() {
    kept(
        "a9 a7- a5 a3 b9 b6 c8 c6- c4 d2-",
        &[],
        Some(6),
        expect![[r#"
        a9 a7- a5 b9 b6 c8 c6- d2-
        a9 a7- a5 b9 b6 c8
    "#]],
    );
    kept(
        "a9 a7- a5 a3 b1-",
        &[],
        Some(0),
        expect![[r#"
        a9 a7- a5 a3 b1-
        a9 a7- a5 a3
    "#]],
    );
}

#[test]
fn of_many_deletions_a_bounded_number_waits() {
    let count = WAITING_MAX as u64 * 3;
    let deletion = |commit| NameEntry { name: Bytes::from_static(b"a"), commit, to: None };
    let deletions: Vec<_> = (1..=count).rev().map(deletion).collect();
    let readers = Readers::new(Vec::new(), 0);
    let first = filtered(deletions.clone(), &readers, true);
    assert_eq!(first, deletions[..2 * WAITING_MAX]);
    // One older version, and all of them stay, in order.
    let mut older = deletions;
    older.extend(entries("a0"));
    assert_eq!(filtered(older.clone(), &readers, true), older);
}

#[test]
fn each_entry_is_told_of_whatever_becomes_of_it() {
    let mut told = String::new();
    let entries = entries("a9- a7 b5- b4- b3 c2 c1 d6-").into_iter().map(Ok::<_, Infallible>);
    let mut versions = Versions::new(entries, Readers::new(vec![3], u64::MAX), true);
    while let Some(Ok(sifted)) = versions.sift() {
        told += &sifted.map_or_else(|| ".".to_owned(), |entry| words(&[entry]));
        told += " ";
    }
    // Deletions wait, and some are then given behind the entry for which they stay.
    expect![". . . . b5- b3 c2 . . "].assert_eq(&told);
}

#[test]
fn an_error_ends_the_filter() {
    let mut items: Vec<Result<_, &str>> = entries("a2 b2-").into_iter().map(Ok).collect();
    items.push(Err("torn"));
    items.extend(entries("b1").into_iter().map(Ok));
    let readers = Readers::new(Vec::new(), 0);
    let given: Vec<_> = Versions::new(items.into_iter(), readers, true).collect();
    assert_eq!(given, [Ok(entries("a2").remove(0)), Err("torn")]);
}

/// What a reader of `commit` sees of each name: its newest version not above it.
fn read(entries: &[&[NameEntry]], name: &Bytes, commit: u64) -> Option<Digest> {
    let all = entries.iter().copied().flatten();
    let seen = all.filter(|entry| entry.name == *name && entry.commit <= commit);
    seen.max_by_key(|entry| entry.commit)?.to
}

/// The rule, as it is said, for all entries at once.
fn kept_by_rule(
    entries: &[NameEntry],
    views: &[u64],
    keep_from: u64,
    is_bottom: bool,
) -> Vec<NameEntry> {
    let versions = |name: &Bytes| entries.iter().filter(|e| e.name == *name).collect::<Vec<_>>();
    let stays = |entry: &&NameEntry| {
        let commits = versions(&entry.name).into_iter().map(|e| e.commit);
        let Some(newer) = commits.filter(|c| *c > entry.commit).min() else { return true };
        let seen = |view: u64| entry.commit <= view && view < newer;
        views.iter().any(|view| seen(*view)) || entry.commit >= keep_from || seen(keep_from)
    };
    let kept: Vec<_> = entries.iter().filter(stays).cloned().collect();
    let hides = |entry: &NameEntry| {
        let older = |e: &NameEntry| e.name == entry.name && e.commit < entry.commit;
        !is_bottom || kept.iter().any(|e| older(e) && e.to.is_some())
    };
    let given: Vec<_> =
        kept.iter().filter(|entry| entry.to.is_some() || hides(entry)).cloned().collect();
    // Of anything something stays.
    if given.is_empty() { kept.last().cloned().into_iter().collect() } else { given }
}

proptest! {
    #[test]
    fn merged_is_sorted_and_without_duplicates(sources: Vec<Vec<u8>>) {
        let mut sources = sources;
        sources.iter_mut().for_each(|source| source.sort_unstable());
        let expected: BTreeSet<u8> = sources.iter().flatten().copied().collect();
        let iterators = sources.into_iter().map(|s| s.into_iter().map(Ok::<_, Infallible>));
        let merged: Vec<u8> = Merge::new(iterators.collect()).map(Result::unwrap).collect();
        prop_assert_eq!(merged, expected.into_iter().collect::<Vec<_>>());
    }

    /// Commits change names; for each name the newest of them are above what is compacted, the
    /// oldest below it, unless it is the bottom. The compacted come from several tables, some twice.
    #[test]
    fn every_reader_reads_as_before(
        commits in prop::collection::vec((0..4u8, any::<bool>(), 1..8u8), 0..40),
        cuts in prop::collection::vec((0..40u64, 0..40u64), 4),
        views in prop::collection::vec(0..44u64, 0..5),
        keep_from in prop_oneof![Just(u64::MAX), 0..44u64],
        is_bottom: bool,
    ) {
        let (mut above, mut below, mut here) = (Vec::new(), Vec::new(), Vec::new());
        let mut tables = vec![Vec::new(); 3];
        for (commit, (name, is_set, places)) in (1u64..).zip(commits) {
            let (cut, other) = cuts[usize::from(name)];
            let to = is_set.then(|| Digest::of(&commit.to_le_bytes()));
            let entry = NameEntry { name: Bytes::from(vec![name]), commit, to };
            if commit > cut.max(other) {
                above.push(entry);
            } else if commit < cut.min(other) && !is_bottom {
                below.push(entry);
            } else {
                here.push(entry.clone());
                // Into the tables of these bits, so that duplicates occur.
                for table in (0..3).filter(|table| places >> table & 1 == 1) {
                    tables[table].push(entry.clone());
                }
            }
        }
        here.sort();
        tables.iter_mut().for_each(|table| table.sort());
        let sources = tables.into_iter().map(|table| table.into_iter().map(Ok::<_, Infallible>));
        let readers = Readers::new(views.clone(), keep_from);
        let versions = Versions::new(Merge::new(sources.collect()), readers, is_bottom);
        let kept: Vec<_> = versions.map(Result::unwrap).collect();

        prop_assert_eq!(&kept, &kept_by_rule(&here, &views, keep_from, is_bottom));
        let history = (0..46).filter(|commit| *commit >= keep_from);
        for reader in views.into_iter().chain([u64::MAX]).chain(history) {
            for name in (0..4u8).map(|name| Bytes::from(vec![name])) {
                let before = read(&[&above, &here, &below], &name, reader);
                let after = read(&[&above, &kept, &below], &name, reader);
                prop_assert_eq!(before, after, "{:?} at {}", name, reader);
            }
        }
    }
}
