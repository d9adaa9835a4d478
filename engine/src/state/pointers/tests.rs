//! The pointer table alone: versions in memory here, with tables in `tests/levels.rs`.

mod levels;

use pinstone_compaction::merge::NameEntry;
use pinstone_wal::{Change, LogPosition};

use super::*;

fn target(id: u64) -> Digest {
    Digest::of(&id.to_le_bytes())
}

fn apply(table: &PointerTable, id: u64, changes: &[(&[u8], Option<Digest>)]) {
    let change = |(name, to): &(&[u8], _)| Change { name: Bytes::copy_from_slice(name), to: *to };
    let changes = changes.iter().map(change).collect();
    table.apply(CommitRecord { id: CommitId(id), depends_upto: LogPosition::START, changes });
}

fn commit(table: &PointerTable, id: u64) {
    apply(table, id, &[(b"name", Some(target(id)))]);
}

fn delete(table: &PointerTable, id: u64) {
    apply(table, id, &[(b"name", None)]);
}

/// How many versions are kept.
fn version_count(table: &PointerTable) -> u64 {
    table.active().entry_count()
}

fn at(table: &PointerTable, commit: CommitId) -> Option<Digest> {
    table.at(b"name", commit).unwrap()
}

#[test]
fn a_name_that_is_set_often_keeps_what_is_seen_of_it() {
    let table = PointerTable::default();
    commit(&table, 1);
    let (first, mut later) = (table.pin(), CommitId::NONE);
    for id in 2..=1000 {
        commit(&table, id);
        if id == 500 {
            later = table.pin();
        }
    }
    assert_eq!(version_count(&table), 3);
    assert_eq!(table.views(), [1, 500]);
    assert_eq!(at(&table, first), Some(target(1)));
    assert_eq!(at(&table, later), Some(target(500)));
    table.unpin(first);
    commit(&table, 1001);
    assert_eq!(version_count(&table), 2);
    table.unpin(later);
    commit(&table, 1002);
    assert_eq!(version_count(&table), 1);
}

/// Whichever commits change the name: each of them, or some at any distance.
#[test]
fn a_change_of_a_name_with_many_pinned_versions_goes_through_few_of_them() {
    for distance in [1, 2, 3, 64, 144, 1000, 6765, 1 << 32] {
        let is_swept = |count, nth| memtable::is_swept(count, CommitId(1 + nth * distance));
        // None is ever dropped.
        let swept = (0..20_000).filter(|count| is_swept(*count, *count as u64)).sum::<usize>();
        assert!(swept < 4 * 20_000, "{swept} of 20,000 versions at each {distance}th commit");
        for count in [16, 100, 5000] {
            let mut last = 0;
            for nth in (0..200_000).filter(|nth| is_swept(count, *nth)) {
                assert!(nth - last < 20 * count as u64, "{count} at each {distance}th commit");
                last = nth;
            }
            assert!(last > 100_000, "{count} at each {distance}th commit");
        }
    }
}

#[test]
fn of_many_versions_those_go_that_only_ended_pins_saw() {
    let table = PointerTable::default();
    let mut pins = Vec::new();
    for id in 1..=2000 {
        commit(&table, id);
        pins.push(table.pin());
    }
    commit(&table, 2001);
    assert_eq!(version_count(&table), 2001);
    assert!(pins.iter().all(|pin| at(&table, *pin) == Some(target(pin.0))));
    for pin in pins.drain(1..) {
        table.unpin(pin);
    }
    (2002..20_000).for_each(|id| commit(&table, id));
    assert_eq!(version_count(&table), 2);
    assert_eq!(at(&table, pins[0]), Some(target(1)));
}

#[test]
fn all_versions_of_a_frozen_memtable_are_given_in_order_however_many_a_name_has() {
    for counts in [[255, 1, 2], [256, 256, 1], [257, 3, 700], [1, 511, 513]] {
        let (table, mut pins, mut wanted) = (PointerTable::default(), Vec::new(), Vec::new());
        let mut id = 0;
        for (name, count) in ["a", "ab", "b"].into_iter().zip(counts) {
            let first = id + 1;
            for _ in 0..count {
                id += 1;
                apply(&table, id, &[(name.as_bytes(), Some(target(id)))]);
                pins.push(table.pin());
            }
            wanted.extend((first..=id).rev().map(|commit| (name, commit, Some(target(commit)))));
        }
        let memtable = table.active();
        table.freeze(Ordinal::FIRST, LogPosition::START);
        let entries: Vec<_> = memtable.entries().collect();
        let given = entries
            .iter()
            .map(|entry| (std::str::from_utf8(&entry.name).unwrap(), entry.commit, entry.to));
        assert!(given.eq(wanted), "{counts:?}");
        for pin in [0, 100, pins.len() - 1] {
            let commit = pins[pin.min(pins.len() - 1)];
            let found = ["a", "ab", "b"].map(|name| table.at(name.as_bytes(), commit).unwrap());
            let newest = |name| {
                let seen = wanted_until(&entries, name, commit);
                seen.and_then(|entry| entry.to)
            };
            assert_eq!(found, ["a", "ab", "b"].map(newest), "{counts:?} {commit:?}");
        }
    }
}

/// The newest of these versions of a name that the commit sees.
fn wanted_until<'a>(
    entries: &'a [NameEntry],
    name: &str,
    commit: CommitId,
) -> Option<&'a NameEntry> {
    entries.iter().find(|entry| *entry.name == *name.as_bytes() && entry.commit <= commit.0)
}

#[test]
fn deletions_leave_nothing_once_nobody_sees_what_they_hide() {
    let table = PointerTable::default();
    commit(&table, 1);
    delete(&table, 2);
    // Room for a name.
    let empty = table.memory_bytes();
    commit(&table, 3);
    let first = table.pin();
    delete(&table, 4);
    let second = table.pin();
    delete(&table, 5);
    assert_eq!(version_count(&table), 3);
    assert!(table.memory_bytes() > empty);
    table.unpin(first);
    table.unpin(second);
    delete(&table, 6);
    assert_eq!((version_count(&table), table.memory_bytes()), (0, empty));
    delete(&table, 7);
    assert_eq!((version_count(&table), table.memory_bytes()), (0, empty));
}

#[test]
fn names_that_come_and_go_under_an_old_pin_leave_nothing() {
    let table = PointerTable::default();
    let oldest = table.pin();
    for round in 0..1000 {
        commit(&table, 4 * round + 1);
        let pinned = table.pin();
        commit(&table, 4 * round + 2);
        table.unpin(pinned);
        delete(&table, 4 * round + 3);
        delete(&table, 4 * round + 4);
        assert_eq!(version_count(&table), 0);
    }
    table.unpin(oldest);
}

#[test]
fn versions_stay_until_their_last_pin_ends() {
    let table = PointerTable::default();
    for id in 1..=3 {
        commit(&table, id);
        assert_eq!((table.pin().0, table.pin().0), (id, id));
    }
    for (nth, id) in [2, 1, 3].into_iter().enumerate() {
        table.unpin(CommitId(id));
        commit(&table, 4 + 2 * nth as u64);
        assert_eq!(at(&table, CommitId(id)), Some(target(id)));
        table.unpin(CommitId(id));
        commit(&table, 5 + 2 * nth as u64);
        assert_eq!(version_count(&table), 3 - nth as u64, "after the pins of {id}");
    }
}

#[test]
fn a_deletion_stays_while_anything_is_below() {
    let table = PointerTable::default();
    commit(&table, 1);
    table.freeze(Ordinal::FIRST, LogPosition::START);
    delete(&table, 2);
    apply(&table, 3, &[(b"never", None)]);
    assert_eq!(version_count(&table), 2);
    assert_eq!(table.current(b"name").unwrap(), None);
    assert_eq!(table.standing().count(), 0);
    assert_eq!(table.entry_count_estimate(), 1);
}

#[test]
fn what_stands_is_counted_exactly_while_it_is_in_memory() {
    let table = PointerTable::default();
    let names: Vec<[u8; 1]> = (0..50).map(|name| [name]).collect();
    for id in 1..400u64 {
        let name = &names[usize::from(target(id).as_bytes()[0]) % names.len()][..];
        apply(&table, id, &[(name, (id % 3 > 0).then(|| target(id)))]);
        if id % 37 == 0 {
            table.pin();
        }
        assert_eq!(table.entry_count_estimate(), table.standing().count() as u64);
    }
    for pinned in table.views() {
        table.unpin(CommitId(pinned));
    }
    for (name, id) in names.iter().zip(400..) {
        apply(&table, id, &[(name, None)]);
    }
    assert_eq!(table.entry_count_estimate(), 0);
    let empty = table.memory_bytes();
    for (name, id) in names.iter().zip(450..) {
        apply(&table, id, &[(name, None)]);
    }
    assert_eq!((table.entry_count_estimate(), table.memory_bytes()), (0, empty));
    for (name, id) in names.iter().zip(500..) {
        apply(&table, id, &[(name, Some(target(id)))]);
    }
    assert!(table.memory_bytes() > empty);
    for (name, id) in names.iter().zip(550..) {
        apply(&table, id, &[(name, None)]);
    }
    assert_eq!((table.entry_count_estimate(), table.memory_bytes()), (0, empty));
}

#[test]
fn a_frozen_memtable_gives_its_versions_in_the_order_of_tables() {
    let table = PointerTable::default();
    let names: Vec<String> = (0..1000).map(|name| format!("{name:04}")).collect();
    let mut expected = Vec::new();
    for id in 1..=3u64 {
        let changes: Vec<(&[u8], _)> =
            names.iter().map(|name| (name.as_bytes(), Some(target(id)))).collect();
        apply(&table, id, &changes);
        table.pin();
        let entry = |(name, to): (&[u8], _)| NameEntry {
            name: Bytes::copy_from_slice(name),
            commit: id,
            to,
        };
        expected.extend(changes.into_iter().map(entry));
    }
    expected.sort();
    assert!(table.oldest_frozen().is_none());
    table.freeze(Ordinal::FIRST, LogPosition::START);
    let frozen = table.oldest_frozen().unwrap();
    assert_eq!(frozen.entries().collect::<Vec<_>>(), expected);
    assert_eq!((frozen.last_commit(), frozen.entry_count()), (CommitId(3), 3000));
    assert_eq!((table.active().last_commit(), version_count(&table)), (CommitId(3), 0));
}

#[test]
fn a_scan_goes_on_while_commits_change_what_it_has_yet_to_read() {
    let table = PointerTable::default();
    let names: Vec<String> = (0..2000).map(|name| format!("{name:04}")).collect();
    let all = |to| names.iter().map(|name| (name.as_bytes(), to)).collect::<Vec<_>>();
    apply(&table, 1, &all(Some(target(1))));
    let pinned = table.pin();
    let mut scan = table.scan(NameRange::all(), pinned);
    let mut read = 0;
    for (id, to) in [(2, Some(target(2))), (3, None), (4, Some(target(4))), (5, None)] {
        apply(&table, id, &all(to));
        for (nth, pointer) in scan.by_ref().take(400).enumerate() {
            let (name, digest) = pointer.unwrap();
            assert_eq!((&name[..], digest), (names[read + nth].as_bytes(), target(1)));
        }
        read += 400;
        if id == 3 {
            table.freeze(Ordinal::FIRST, LogPosition::START);
        }
    }
    assert_eq!(scan.count(), 400);
}

#[test]
fn memtables_that_take_turns_give_every_name_once_however_long_the_turns_are() {
    // Turns of the frozen memtable and the active one: short, long, and short again.
    let turns = [1, 1, 2, 1, 15, 1, 16, 17, 1, 40, 300, 1, 600, 3, 1, 1, 1, 1, 20, 1, 1, 270];
    let mut changes = [Vec::new(), Vec::new()];
    let mut expected = Vec::new();
    for (turn, count) in turns.into_iter().enumerate() {
        for _ in 0..count {
            let name = format!("{:05}", expected.len());
            changes[turn % 2].push(name.clone());
            // In its turn the frozen one has names that the active one deleted.
            let is_deleted = turn % 2 == 0 && expected.len() % 7 == 3;
            expected.push((name, is_deleted));
        }
    }
    let table = PointerTable::default();
    for (id, names) in (1..).zip(&changes) {
        let set = |name: &String| (name.clone(), Some(target(id)));
        let mut all: Vec<_> = names.iter().map(set).collect();
        if id == 2 {
            table.freeze(Ordinal::FIRST, LogPosition::START);
            let deleted = expected.iter().filter(|(_, is_deleted)| *is_deleted);
            all.extend(deleted.map(|(name, _)| (name.clone(), None)));
        }
        let all: Vec<(&[u8], _)> = all.iter().map(|(name, to)| (name.as_bytes(), *to)).collect();
        apply(&table, id, &all);
    }
    let names = expected.iter().filter(|(_, is_deleted)| !is_deleted).map(|(name, _)| name);
    let names: Vec<&[u8]> = names.map(|name| name.as_bytes()).collect();
    for from_back in [0, 1, 100, 700, names.len()] {
        let mut scan = table.scan(NameRange::all(), CommitId(2)).map(|pointer| pointer.unwrap().0);
        let mut back: Vec<Bytes> = scan.by_ref().rev().take(from_back).collect();
        back.reverse();
        assert!(scan.chain(back).eq(names.iter().copied()), "{from_back} from the back");
    }
}
