//! Tables that cannot be read stop no compaction: it goes around them, and nobody is told anything wrong.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use common::small_tables;
use pinstone::{Batch, CheckOptions, Digest, Error, Stats, Store, StoreBuilder, TreeStats};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation};

/// Small, so that little makes much happen.
fn small() -> StoreBuilder {
    small_tables().table_bytes(8 << 10)
}

/// Unlike small ones, these make the names' tables longer than their first block.
fn name(number: u32) -> String {
    format!("{:05}-{}", number * 7919 % 3001, "n".repeat(40))
}

/// A store, and what must be true of its pointers.
struct Held {
    disk: Arc<SimDisk>,
    store: Store,
    pointers: BTreeMap<String, Digest>,
}

impl Held {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let store = small().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        Self { disk, store, pointers: BTreeMap::new() }
    }

    fn reopen(&mut self) {
        self.store.clone().close().unwrap();
        self.store = small().open_on(Arc::clone(&self.disk) as Arc<dyn Disk>).unwrap();
    }

    /// Sets pointers to values of their own, and deletes every fifth of the ones before.
    fn commit(&mut self, numbers: Range<u32>) {
        numbers.for_each(|number| self.try_commit(number).unwrap());
    }

    fn try_commit(&mut self, number: u32) -> Result<(), Error> {
        let digest = self.store.put(&number.to_le_bytes())?.digest;
        let mut batch = Batch::new().set(name(number), digest);
        self.pointers.insert(name(number), digest);
        if number % 5 == 4 {
            batch = batch.delete(name(number - 2));
            self.pointers.remove(&name(number - 2));
        }
        self.store.commit(batch).map(drop)
    }

    fn tables(&self, word: &str) -> Vec<String> {
        self.disk.names().into_iter().filter(|file| file.starts_with(word)).collect()
    }

    /// What is harmed of it is nothing that an open reads.
    fn is_long(&self, file: &str) -> bool {
        self.disk.file_bytes(file).unwrap().len() > 4096 + 4200
    }

    fn undo(&self, files: &[String], harm: Harm) {
        match harm {
            Harm::Flipped => files.iter().for_each(|file| self.harm(file, harm)),
            Harm::Unreadable => self.disk.heal(),
        }
    }

    fn harm(&self, file: &str, harm: Harm) {
        match harm {
            Harm::Flipped => self.disk.corrupt(file, 4096 + 100, |bytes| bytes[0] ^= 1),
            Harm::Unreadable => {
                let file = file.parse().unwrap();
                let reads = Filter::any().operation(Operation::Read).file(file).bytes(4096..4200);
                self.disk.fail_when(reads, Fault::Eio);
            }
        }
    }

    /// Every answer is right, or names the damage; how many of the pointers are told rightly.
    fn holds(&self, numbers: Range<u32>) -> usize {
        let mut right = 0;
        for number in numbers {
            match self.store.pointer(name(number)) {
                Ok(found) => {
                    assert_eq!(found, self.pointers.get(&name(number)).copied(), "{number}");
                    right += 1;
                }
                Err(error) => assert!(is_told(&error), "{number}: {error}"),
            }
            let digest = Digest::of(&number.to_le_bytes());
            match self.store.get(&digest) {
                Ok(found) => assert_eq!(found.as_deref(), Some(&number.to_le_bytes()[..])),
                Err(error) => assert!(is_told(&error), "{number}: {error}"),
            }
        }
        right
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// A byte of it is another.
    Flipped,
    /// Some of it the device does not read.
    Unreadable,
}

fn is_told(error: &Error) -> bool {
    let text = error.to_string();
    (text.contains("names-") || text.contains("index-"))
        && matches!(error, Error::Corrupt { .. } | Error::Io { .. })
}

fn l0_count(tree: &TreeStats) -> u64 {
    tree.levels[0].table_count
}

fn tree_of<'a>(stats: &'a Stats, word: &str) -> &'a TreeStats {
    if word == "names-" { &stats.names } else { &stats.index }
}

#[test]
fn damaged_tables_keep_no_compaction_waiting() {
    let cases = ["names-", "index-"].map(|word| [(word, Harm::Flipped), (word, Harm::Unreadable)]);
    for (word, harm) in cases.into_iter().flatten() {
        let mut held = Held::new(6);
        held.commit(0..300);
        held.reopen();
        let files = held.tables(word);
        assert!(!files.is_empty());
        files.iter().for_each(|file| held.harm(file, harm));
        held.commit(300..1500);
        let stats = held.store.stats();
        assert!(l0_count(&stats.index) < 5, "{harm:?}: {:?}", stats.index);
        assert!(l0_count(&stats.names) < 5, "{harm:?}: {:?}", stats.names);
        let tree = tree_of(&stats, word);
        assert!(tree.damage.as_ref().unwrap().contains(word), "{:?}", tree.damage);
        held.store.maintain().unwrap();
        assert!(held.holds(0..1500) > 1000);
        files.iter().for_each(|file| assert!(held.tables(word).contains(file), "{file} is gone"));
    }
}

/// Tables of any level, one after another, while the store goes on and is opened again.
#[test]
fn whatever_table_is_damaged_when_nothing_is_told_wrongly_and_level_0_stays_short() {
    let mut harmed_count = 0;
    for seed in 0..40 {
        let word = if seed % 2 == 0 { "names-" } else { "index-" };
        let harm = if seed % 4 < 2 { Harm::Flipped } else { Harm::Unreadable };
        let mut held = Held::new(seed);
        let mut harmed = Vec::new();
        for round in 0..2 {
            let from = round * 400;
            held.commit(from..from + 300);
            let mut files = held.tables(word);
            files.retain(|file| held.is_long(file) && !harmed.contains(file));
            let drawn = Digest::of(&[seed.to_le_bytes(), u64::from(round).to_le_bytes()].concat());
            if !files.is_empty() {
                let file = files.swap_remove(usize::from(drawn.as_bytes()[0]) % files.len());
                held.harm(&file, harm);
                harmed.push(file);
                harmed_count += 1;
            }
            held.commit(from + 300..from + 400);
            let stats = held.store.stats();
            assert!(l0_count(&stats.index) < 5, "{seed}: {:?}", stats.index);
            assert!(l0_count(&stats.names) < 5, "{seed}: {:?}", stats.names);
            held.holds(0..from + 400);
            if drawn.as_bytes()[1].is_multiple_of(2) {
                held.reopen();
            }
        }
        // Compacted whole it tells what is damaged, and what it was told of before.
        let known = tree_of(&held.store.stats(), word).damage.clone();
        let left: Vec<_> = held.tables(word);
        harmed.retain(|file| left.contains(file));
        let compacted = held.store.compact();
        let told = tree_of(&held.store.stats(), word).damage.clone();
        assert_eq!(compacted.err().map(|error| error.to_string()), told, "{seed}");
        assert!(known.is_none() || told.is_some(), "{seed}: {known:?}");
        held.holds(0..800);
        held.undo(&harmed, harm);
        held.store.compact().unwrap();
        let stats = held.store.stats();
        assert_eq!((&stats.index.damage, &stats.names.damage), (&None, &None));
        for tree in [&stats.index, &stats.names] {
            assert_eq!(tree.levels.iter().filter(|level| level.table_count > 0).count(), 1);
        }
        assert_eq!(held.holds(0..800), 800, "{seed}");
        assert_eq!(held.store.check(&CheckOptions::default()).unwrap().findings, [], "{seed}");
    }
    assert!(harmed_count > 20, "{harmed_count}");
}

/// A store with damage in level 0 and below may crash whenever, moving what is damaged too: what was committed stands.
#[test]
fn going_around_may_crash_anywhere() {
    let damaged_store = || {
        let mut held = Held::new(3);
        held.commit(0..300);
        for word in ["names-", "index-"] {
            let files = held.tables(word);
            held.harm(files.first().unwrap(), Harm::Flipped);
            held.harm(files.last().unwrap(), Harm::Flipped);
        }
        held
    };
    let mut held = damaged_store();
    let before = held.disk.mutation_count();
    held.commit(300..500);
    let stats = held.store.stats();
    assert!(stats.names.damage.is_some() && stats.index.damage.is_some());
    assert!(stats.names.move_count > 0 && stats.index.move_count > 0, "{stats:?}");
    for mutation in (before..held.disk.mutation_count()).step_by(3) {
        let mut held = damaged_store();
        held.disk.crash_at_mutation(mutation);
        let (mut pointers, mut next) = (held.pointers.clone(), 300);
        while !held.disk.crashed() {
            pointers.clone_from(&held.pointers);
            if held.try_commit(next).is_ok() {
                pointers.clone_from(&held.pointers);
            }
            next += 1;
        }
        for state in [CrashState::Nothing, CrashState::Everything] {
            let disk = held.disk.after_crash(state);
            let store = small().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
            for name in (0..next).map(name) {
                match store.pointer(&name) {
                    // Of the commit that was not acknowledged all may stand.
                    Ok(found) => assert!(
                        found == pointers.get(&name).copied()
                            || found == held.pointers.get(&name).copied(),
                        "{mutation} {state:?}: {name}"
                    ),
                    Err(error) => assert!(is_told(&error), "{mutation} {state:?}: {error}"),
                }
            }
        }
    }
}

/// Names in order, so that often nothing overlaps the damage, and it is not met again.
#[test]
fn a_whole_compaction_tells_damage_that_it_does_not_meet() {
    let mut known_count = 0;
    for count in (60..400).step_by(14) {
        let disk = SimDisk::new(1);
        let builder = small().table_bytes(64 << 10);
        let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        let held = Held { disk, store, pointers: BTreeMap::new() };
        let digest = held.store.put(b"value").unwrap().digest;
        let set = |number: u32| {
            let name = format!("{number:06}-{}", "n".repeat(100));
            held.store.commit(Batch::new().set(name, digest)).unwrap();
        };
        (0..count).for_each(set);
        let Some(file) = held.tables("names-").pop() else { continue };
        if held.disk.file_bytes(&file).unwrap().len() < 4096 + 200 {
            continue;
        }
        held.harm(&file, Harm::Flipped);
        (count..count + 600).for_each(set);
        let known = held.store.stats().names.damage;
        known_count += u32::from(known.is_some());
        for _ in 0..2 {
            let told = held.store.compact().err().map(|error| error.to_string());
            assert_eq!(told, held.store.stats().names.damage, "{count}");
            assert!(told.is_some() || known.is_none(), "{count}: {known:?}");
        }
        // Nor is it hidden meanwhile.
        let _told = held.store.compact_watched(|_, _| {
            assert!(known.is_none() || held.store.stats().names.damage.is_some(), "{count}");
        });
        held.harm(&file, Harm::Flipped);
        held.store.compact().unwrap();
        assert_eq!(held.store.stats().names.damage, None, "{count}");
    }
    assert!(known_count > 3, "{known_count}");
}

/// Meanwhile the table can be read again, and another call finds it so.
#[test]
fn a_whole_compaction_tells_what_it_went_around_though_it_is_well_by_the_end() {
    let mut held = Held::new(3);
    held.commit(0..1000);
    let file = held.tables("names-").swap_remove(0);
    held.harm(&file, Harm::Flipped);
    held.commit(1000..2400);
    assert!(held.store.stats().names.damage.is_some());
    let index_bytes =
        || -> u64 { held.store.stats().index.levels.iter().map(|level| level.read_bytes).sum() };
    let (before_bytes, other) = (index_bytes(), Cell::new(None));
    let compacted = held.store.compact_watched(|_, _| {
        // The names are done with.
        if index_bytes() > before_bytes && other.get().is_none() {
            held.harm(&file, Harm::Flipped);
            other.set(Some(held.store.compact().is_ok()));
        }
    });
    assert_eq!(other.get(), Some(true));
    assert!(is_told(&compacted.unwrap_err()));
    held.store.compact().unwrap();
    assert_eq!(held.holds(0..2400), 2400);
}

#[test]
fn what_could_not_be_read_once_is_no_damage() {
    let mut met = 0;
    for nth in 1..6 {
        let mut held = Held::new(5);
        held.commit(0..300);
        for file in held.tables("names-") {
            let file = file.parse().unwrap();
            let reads = Filter::any().operation(Operation::Read).file(file).nth(nth);
            held.disk.fail_when(reads, Fault::Eio);
        }
        let _told = (300..400).map(|number| held.try_commit(number)).collect::<Vec<_>>();
        let failed_count = held.disk.counters().eio;
        held.disk.heal();
        assert_eq!(held.store.stats().names.damage, None, "read {nth}");
        met += u32::from(failed_count > 0);
    }
    assert!(met >= 2, "{met}");
}

#[test]
fn a_table_that_is_not_there_any_more_is_gone_around() {
    let disk = SimDisk::new(3);
    let builder = || small().mmap(false).open_files_max(1);
    let store = builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let mut held = Held { disk, store, pointers: BTreeMap::new() };
    held.commit(0..300);
    let files = held.tables("names-");
    files.iter().for_each(|file| held.disk.remove_file(file));
    held.commit(300..1200);
    let stats = held.store.stats();
    assert!(l0_count(&stats.names) < 5, "{:?}", stats.names);
    assert!(stats.names.damage.is_some());
    held.store.maintain().unwrap();
}

#[test]
fn a_table_that_is_not_there_when_a_store_is_opened_is_named() {
    let mut held = Held::new(7);
    held.commit(0..400);
    held.store.clone().close().unwrap();
    let closed = Arc::clone(&held.disk);
    for file in [held.tables("names-"), held.tables("index-")].concat() {
        held.disk = closed.clean_reopen();
        held.disk.remove_file(&file);
        let error = small().open_on(Arc::clone(&held.disk) as Arc<dyn Disk>).unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { .. }) && error.to_string().contains(&file),
            "{error}"
        );
    }
    held.disk = closed.clean_reopen();
    held.store = small().open_on(Arc::clone(&held.disk) as Arc<dyn Disk>).unwrap();
    assert_eq!(held.holds(0..400), 400);
}

/// Of the names beside a damaged table, what is deleted goes as ever.
#[test]
fn deletions_beside_a_damaged_table_go() {
    let mut held = Held::new(2);
    let named = |number: u32| format!("{:03}-{}", number % 800, "n".repeat(40));
    let round = |held: &mut Held, from: u32| {
        for number in from..from + 800 {
            let digest = held.store.put(&number.to_le_bytes()).unwrap().digest;
            held.store.commit(Batch::new().set(named(number * 7), digest)).unwrap();
            if number % 2 == 1 {
                held.store.commit(Batch::new().delete(named(number * 7))).unwrap();
            }
        }
    };
    let entries = |held: &Held| -> u64 {
        held.store.stats().names.levels.iter().map(|level| level.entry_count).sum()
    };
    round(&mut held, 0);
    held.store.compact().unwrap();
    let files = held.tables("names-");
    assert!(files.len() > 3, "{files:?}");
    held.harm(&files[files.len() / 2], Harm::Flipped);
    let mut counts = Vec::new();
    for from in 1..8 {
        round(&mut held, from * 800);
        counts.push(entries(&held));
    }
    assert!(held.store.stats().names.damage.is_some());
    assert!(counts[6] < 2 * counts[1], "{counts:?}");
}
