//! Stores whose digest index has outgrown its memtables.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::meddling::MeddlingDisk;
use common::small_tables;
use pinstone::{Batch, CheckOptions, Digest, Error, Maintenance, Stats, Store, TreeStats, Verify};
use pinstone_disk::env::{AtomicBool, Ordering};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation, TableKind};

fn value(number: u32) -> Vec<u8> {
    let len = 20 + usize::try_from(number % 7).unwrap() * 90;
    Digest::of(&number.to_le_bytes()).as_bytes().iter().copied().cycle().take(len).collect()
}

fn all_are_found(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let (value, digest) = (value(number), Digest::of(&value(number)));
        let found = store.get_verified(&digest, Verify::Digest).unwrap();
        assert_eq!(found.as_deref(), Some(&value[..]), "value {number}");
        assert!(store.contains(&digest).unwrap());
        assert!(!store.put(&value).unwrap().new, "value {number} is known");
    }
}

fn none_are_found(store: &Store, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let digest = Digest::of(&value(number));
        assert_eq!(store.get(&digest).unwrap(), None);
        assert!(!store.contains(&digest).unwrap());
    }
}

fn is_sound(store: &Store) {
    let report = store.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn values_in_tables_are_found_and_others_are_not() {
    let disk = SimDisk::new(1);
    for (bits, count) in [(56, 1000), (9, 800), (1, 200)] {
        let disk = if bits == 56 { disk.clone() } else { SimDisk::new(u64::from(bits)) };
        let open =
            || small_tables().index_key_bits(bits).open_on(Arc::clone(&disk) as Arc<dyn Disk>);
        let store = open().unwrap();
        for number in 0..count {
            assert!(store.put(&value(number)).unwrap().new);
        }
        store.commit(Batch::new().set("last", Digest::of(&value(count - 1)))).unwrap();
        let stats = store.stats();
        assert!(stats.index.levels.len() > 1, "{stats:?}");
        assert!(stats.index.flush_count > 3 && stats.index.rewrite_count > 1, "{stats:?}");
        assert_eq!(stats.value_count, u64::from(count));
        all_are_found(&store, 0..count);
        none_are_found(&store, count..count + 300);
        is_sound(&store);
        store.close().unwrap();

        let store = open().unwrap();
        assert_eq!(store.stats().value_count, u64::from(count));
        all_are_found(&store, 0..count);
        none_are_found(&store, count..count + 300);
        is_sound(&store);
    }
}

fn changes(names: u32, commit: u32) -> Vec<(String, Option<Digest>)> {
    let name = |at: u32| format!("dir{}/name {:05}", at % 7, at % names);
    vec![
        (name(commit), Some(Digest::of(&value(commit % 50)))),
        (name(commit * 31 + 1), Some(Digest::of(&value(commit % 40)))),
        (name(commit * 17 + 5), (!commit.is_multiple_of(3)).then(|| Digest::of(&value(1)))),
    ]
}

fn batch(changes: Vec<(String, Option<Digest>)>) -> Option<Batch> {
    let names: BTreeSet<_> = changes.iter().map(|(name, _)| name).collect();
    if names.len() < changes.len() {
        return None;
    }
    let mut batch = Batch::new();
    for (name, to) in changes {
        batch = match to {
            Some(digest) => batch.set(name, digest),
            None => batch.delete(name),
        };
    }
    Some(batch)
}

fn holds(store: &Store, expected: &BTreeMap<String, Digest>) {
    let scanned = |backwards: bool| -> Vec<(String, Digest)> {
        let text = |(name, digest): (pinstone::Bytes, Digest)| {
            (String::from_utf8(name.to_vec()).unwrap(), digest)
        };
        let all = store.pointers_with_prefix("");
        if backwards {
            let mut all: Vec<_> = all.rev().map(|one| text(one.unwrap())).collect();
            all.reverse();
            all
        } else {
            all.map(|one| text(one.unwrap())).collect()
        }
    };
    let expected: Vec<_> = expected.iter().map(|(name, to)| (name.clone(), *to)).collect();
    assert_eq!(scanned(false), expected);
    assert_eq!(scanned(true), expected);
    for (name, to) in &expected {
        assert_eq!(store.pointer(name).unwrap(), Some(*to));
    }
    assert_eq!(store.pointer("absent").unwrap(), None);
}

#[test]
fn pointers_in_tables_stand_and_their_log_goes() {
    let disk = SimDisk::new(2);
    let open = || small_tables().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let store = open();
    for number in 0..50 {
        store.put(&value(number)).unwrap();
    }
    let (names, commits) = (200, 3000);
    let (mut made, mut standing) = (0, BTreeMap::new());
    let mut snapshot = None;
    for commit in 0..commits {
        let changes = changes(names, commit);
        let Some(batch) = batch(changes.clone()) else { continue };
        store.commit(batch).unwrap();
        made += 1;
        for (name, to) in changes {
            match to {
                Some(digest) => drop(standing.insert(name, digest)),
                None => drop(standing.remove(&name)),
            }
        }
        if commit == commits / 2 {
            snapshot = Some((store.snapshot(), standing.clone()));
        }
    }
    assert_eq!(store.stats().last_commit, made);
    let stats = store.stats();
    assert!(stats.names.flush_count > 5 && stats.names.rewrite_count > 1, "{stats:?}");
    assert!(stats.pointer_log.segment_count < 8, "{stats:?}");
    holds(&store, &standing);
    let (snapshot, then) = snapshot.unwrap();
    let seen: Vec<_> = snapshot.pointers_with_prefix("").map(Result::unwrap).collect();
    assert_eq!(seen.len(), then.len());
    for ((name, to), (then, its)) in seen.iter().zip(&then) {
        assert_eq!((&name[..], to), (then.as_bytes(), its));
        assert_eq!(snapshot.pointer(name).unwrap(), Some(*to));
    }
    drop(snapshot);
    is_sound(&store);
    store.close().unwrap();

    let store = open();
    assert_eq!(store.stats().last_commit, made);
    assert!(store.stats().recovery.commits_replayed < made / 2);
    holds(&store, &standing);
    is_sound(&store);
}

/// Sums over the levels of the index.
fn asked(store: &Store) -> (u64, u64) {
    let levels = store.stats().index.levels;
    let sum = |of: fn(&pinstone::LevelStats) -> u64| levels.iter().map(of).sum();
    (sum(|level| level.asked_count), sum(|level| level.filtered_count))
}

#[test]
fn filters_stand_where_the_options_have_them() {
    for levels in [0, 1, 7] {
        let builder = small_tables().filter_levels(levels);
        let store = builder.open_on(SimDisk::new(3) as Arc<dyn Disk>).unwrap();
        for number in 0..600 {
            store.put(&value(number)).unwrap();
        }
        let before = asked(&store);
        none_are_found(&store, 1000..1300);
        let (asked, filtered) = asked(&store);
        let (asked, filtered) = (asked - before.0, filtered - before.1);
        assert!(asked > 600, "{asked}");
        match levels {
            0 => assert_eq!(filtered, 0),
            1 => assert!(filtered < asked, "{filtered} of {asked}"),
            _ => assert!(filtered > asked * 9 / 10, "{filtered} of {asked}"),
        }
    }
}

#[test]
fn a_bounded_rate_of_compaction_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || small_tables().maintenance(Maintenance::Thread).compaction_bytes_per_second(1);
    let store = builder().open(dir.path()).unwrap();
    for number in 0..400 {
        store.put(&value(number)).unwrap();
    }
    all_are_found(&store, 0..400);
    store.close().unwrap();
    let store = builder().open(dir.path()).unwrap();
    all_are_found(&store, 0..400);
}

/// Each change of a commit has its share in what is behind: however many there are, level 0 does not grow with them.
#[test]
fn a_commit_of_many_names_does_as_much_of_what_is_behind_as_many_commits() {
    let disk = SimDisk::new(1);
    let open = |disk: &Arc<SimDisk>, level0_tables, maintenance| {
        let builder = small_tables().level0_tables(level0_tables).maintenance(maintenance);
        builder.open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
    };
    let store = open(&disk, 64, Maintenance::Inline);
    let digest = store.put(b"value").unwrap().digest;
    let batch = |from: u32, upto: u32| {
        let names = (from..upto).map(|number| format!("{:08x}", number.wrapping_mul(0x9e37_79b1)));
        names.fold(Batch::new(), |batch, name| batch.set(name, digest))
    };
    let level0 =
        |store: &Store| store.stats().names.levels.first().map_or(0, |level| level.table_count);
    let mut next = 0;
    while level0(&store) < 30 {
        store.commit(batch(next, next + 50)).unwrap();
        next += 50;
    }
    let crashed = disk.after_crash(CrashState::Everything);
    // What no thread was told of.
    let store = open(&crashed, 1, Maintenance::Thread);
    assert_eq!(level0(&store), 30);
    store.commit(batch(next, next + 100)).unwrap();
    let left = level0(&store);
    assert!(left < 8, "{left} tables");
}

#[test]
fn a_name_that_is_set_again_and_again_does_not_keep_its_log() {
    let disk = SimDisk::new(4);
    let open = || {
        let builder = small_tables().memtable_entries_max(1000);
        builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap()
    };
    let store = open();
    for number in 0..1000 {
        let digest = store.put(&value(number % 10)).unwrap().digest;
        let batch = Batch::new().set("head", digest).delete(format!("gone {number}"));
        store.commit(batch).unwrap();
    }
    let stats = store.stats();
    assert!(stats.pointer_log.segment_count < 12, "{:?}", stats.pointer_log);
    store.close().unwrap();
    let store = open();
    let recovery = store.stats().recovery;
    assert!(recovery.commits_replayed < 200, "{recovery:?}");
    assert_eq!(store.pointer("head").unwrap(), Some(Digest::of(&value(999 % 10))));
    assert_eq!(store.stats().last_commit, 1000);
    is_sound(&store);
}

#[test]
fn a_check_finds_nothing_wrong_where_segments_are_flushed_and_go_meanwhile() {
    let disk = SimDisk::new(5);
    let store = small_tables().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let commit = |store: &Store, numbers: std::ops::Range<u32>| {
        for number in numbers {
            let digest = store.put(&value(number)).unwrap().digest;
            store.commit(Batch::new().set(format!("{number}"), digest)).unwrap();
        }
    };
    commit(&store, 0..50);
    let begun = AtomicBool::new(false);
    let busy = store.clone();
    let progress = move |_read: u64, _of: u64| {
        // Once, in the midst of it.
        if !begun.swap(true, Ordering::SeqCst) {
            commit(&busy, 50..200);
        }
    };
    let flushes = store.stats().names.flush_count;
    let options = CheckOptions { read_data: true, progress: Some(Arc::new(progress)) };
    assert_eq!(store.check(&options).unwrap().findings, []);
    assert!(store.stats().names.flush_count > flushes + 2);
}

/// A store whose trees have several levels, and a snapshot from half-way with what it sees.
struct Grown {
    disk: Arc<SimDisk>,
    store: Store,
    snapshot: pinstone::Snapshot,
    then: BTreeMap<String, Digest>,
    standing: BTreeMap<String, Digest>,
}

const GROWN_VALUES: u32 = 500;

fn grown(seed: u64) -> Grown {
    let disk = SimDisk::new(seed);
    let store = small_tables().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    for number in 0..GROWN_VALUES {
        store.put(&value(number)).unwrap();
    }
    let mut standing = BTreeMap::new();
    let mut half = None;
    for commit in 0..1500 {
        let changes = changes(200, commit);
        let Some(batch) = batch(changes.clone()) else { continue };
        store.commit(batch).unwrap();
        for (name, to) in changes {
            match to {
                Some(digest) => drop(standing.insert(name, digest)),
                None => drop(standing.remove(&name)),
            }
        }
        if commit == 700 {
            half = Some((store.snapshot(), standing.clone()));
        }
    }
    let stats = store.stats();
    assert!(filled(&stats.index).len() > 1 && filled(&stats.names).len() > 1, "{stats:?}");
    let (snapshot, then) = half.unwrap();
    Grown { disk, store, snapshot, then, standing }
}

impl Grown {
    fn holds(&self) {
        holds(&self.store, &self.standing);
        let seen = self.snapshot.pointers_with_prefix("").map(|one| {
            let (name, to) = one.unwrap();
            (String::from_utf8(name.to_vec()).unwrap(), to)
        });
        assert_eq!(seen.collect::<BTreeMap<_, _>>(), self.then);
        all_are_found(&self.store, 0..GROWN_VALUES);
        none_are_found(&self.store, GROWN_VALUES..GROWN_VALUES + 100);
        is_sound(&self.store);
    }
}

/// The levels that hold anything.
fn filled(tree: &TreeStats) -> Vec<u8> {
    let filled = tree.levels.iter().filter(|level| level.table_count > 0);
    filled.map(|level| level.level).collect()
}

fn written_bytes(stats: &Stats) -> u64 {
    let of = |tree: &TreeStats| {
        tree.flushed_bytes + tree.levels.iter().map(|level| level.written_bytes).sum::<u64>()
    };
    of(&stats.index) + of(&stats.names)
}

#[test]
fn a_whole_compaction_leaves_one_level_of_each_tree() {
    let grown = grown(3);
    let before = grown.store.stats();
    let told = RefCell::new(Vec::new());
    grown.store.compact_watched(|done, all| told.borrow_mut().push((done, all))).unwrap();
    let stats = grown.store.stats();
    for tree in [&stats.index, &stats.names] {
        assert!(matches!(filled(tree)[..], [level] if level > 0), "{tree:?}");
        assert_eq!(tree.debt_bytes, 0);
        let by_level: f64 = tree.levels.iter().filter_map(|level| level.write_amplification).sum();
        assert!(tree.levels[0].write_amplification >= Some(1.0), "what is flushed goes to level 0");
        assert!((by_level - tree.write_amplification.unwrap()).abs() < 1e-9, "{tree:?}");
    }
    // What is not sealed stays in memory.
    assert_eq!(stats.value_count, before.value_count);
    assert!(stats.index.memtable_entry_count > 0 && stats.names.memtable_entry_count > 0);
    let told = told.into_inner();
    assert!(told.iter().all(|(done, all)| done <= all), "{told:?}");
    assert!(told.is_sorted_by_key(|(done, _)| *done), "{told:?}");
    let (done, all) = told.last().unwrap();
    assert!(*done > 0 && done == all, "{told:?}");
    grown.holds();

    let (mutations, stats) = (grown.disk.mutation_count(), grown.store.stats());
    grown.store.compact().unwrap();
    assert_eq!(grown.disk.mutation_count(), mutations, "a second one writes nothing");
    assert_eq!(written_bytes(&grown.store.stats()), written_bytes(&stats));

    let Grown { disk, store, snapshot, standing, .. } = grown;
    drop(snapshot);
    store.close().unwrap();
    let store = small_tables().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    store.compact().unwrap();
    holds(&store, &standing);
    all_are_found(&store, 0..GROWN_VALUES);
    is_sound(&store);
}

/// Whichever write it is that finds no space.
#[test]
fn a_whole_compaction_without_space_leaves_a_store_that_serves() {
    let mut refused = 0;
    for nth in (1..).step_by(7) {
        let grown = grown(4);
        grown
            .disk
            .fail_when(Filter::any().operation(Operation::Write).from_nth(nth), Fault::Enospc);
        let outcome = grown.store.compact();
        grown.disk.heal();
        let Err(error) = outcome else { break };
        assert!(matches!(error, Error::NoSpace { .. }), "write {nth}: {error}");
        refused += 1;
        assert_eq!(grown.store.stats().poisoned, None);
        grown.holds();
        grown.store.commit(Batch::new().set("after", Digest::of(&value(1)))).unwrap();
        grown.store.compact().unwrap();
        let stats = grown.store.stats();
        assert_eq!((filled(&stats.index).len(), filled(&stats.names).len()), (1, 1), "write {nth}");
    }
    assert!(refused > 5, "{refused}");
}

#[test]
fn a_whole_compaction_ends_when_the_store_is_closed_and_stops_nobody() {
    let grown = grown(5);
    let calls = Cell::new(0);
    let error = grown.store.compact_watched(|_, _| {
        calls.set(calls.get() + 1);
        match calls.get() {
            // No lock is held by now that anything needs.
            2 => {
                let digest = grown.store.put(b"meanwhile").unwrap().digest;
                grown.store.commit(Batch::new().set("meanwhile", digest)).unwrap();
                is_sound(&grown.store);
            }
            3 => grown.store.clone().close().unwrap(),
            _ => {}
        }
    });
    assert!(matches!(error, Err(Error::Poisoned { .. })), "{error:?}");
    assert_eq!(calls.get(), 3);
    let closed = grown.store.compact();
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    let store = small_tables().open_on(Arc::clone(&grown.disk) as Arc<dyn Disk>).unwrap();
    assert!(store.stats().recovery.clean);
    assert_eq!(store.pointer("meanwhile").unwrap(), Some(Digest::of(b"meanwhile")));
    is_sound(&store);
}

/// A device may put one record's bytes in another's place, or a file in another's: what is read there
/// is whole, and another value's.
#[test]
fn a_value_in_whose_place_another_record_stands_is_never_said_to_be_absent() {
    const COUNT: u32 = 120;
    let fixed = |number: u32| {
        let digest = Digest::of(&number.to_le_bytes());
        digest.as_bytes().iter().copied().cycle().take(200).collect::<Vec<_>>()
    };
    let disk = SimDisk::new(1);
    let open = |disk: &Arc<SimDisk>| {
        let builder = small_tables().memtable_entries_max(1).level0_tables(1);
        builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
    };
    let store = open(&disk).unwrap();
    for number in 0..COUNT {
        let digest = store.put(&fixed(number)).unwrap().digest;
        store.commit(Batch::new().set(number.to_string(), digest)).unwrap();
    }
    store.close().unwrap();

    let judge = |disk: &Arc<SimDisk>| {
        let store = open(disk).unwrap();
        let mut damaged = 0;
        for number in 0..COUNT {
            let digest = store.pointer(number.to_string()).unwrap().unwrap();
            for verify in [Verify::Checksum, Verify::Digest] {
                match store.get_verified(&digest, verify) {
                    Ok(Some(bytes)) => assert_eq!(bytes, fixed(number)),
                    Err(Error::Corrupt { .. }) => damaged += 1,
                    found => panic!("value {number}: {found:?}"),
                }
            }
        }
        damaged
    };
    let blobs: Vec<_> = disk.names().into_iter().filter(|name| name.starts_with("blob-")).collect();
    let bytes = disk.file_bytes(&blobs[0]).unwrap();
    let place_of = |number| bytes.windows(200).position(|window| window == fixed(number));
    let places: Vec<_> = (0..COUNT).filter_map(place_of).collect();
    let mut whole = 0;
    for head_bytes in 36..48 {
        let image = disk.clean_reopen();
        let from = bytes[places[1] - head_bytes..places[1] + 200].to_vec();
        let to = (places[0] - head_bytes) as u64;
        image.corrupt(&blobs[0], to, |bytes| bytes[..from.len()].copy_from_slice(&from));
        whole += u32::from(judge(&image) == 2);
    }
    assert!(whole > 1, "no record was moved whole");
    let image = disk.clean_reopen();
    image.put_file(&blobs[1], disk.file_bytes(&blobs[0]).unwrap());
    assert!(judge(&image) > 10);
}

/// A tree whose tables cannot be made holds up the log that needs them, and not the other.
#[test]
fn values_go_on_where_names_cannot_be_flushed() {
    for maintenance in [Maintenance::Inline, Maintenance::Thread] {
        let disk = SimDisk::new(1);
        let builder = small_tables().pointer_segment_bytes(4 << 10).maintenance(maintenance);
        let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        let name = |number: u32| format!("{:0200}", number * 7919 % 1000);
        let go = |numbers: std::ops::Range<u32>| {
            let mut refused = 0;
            for number in numbers {
                let digest = store.put(&value(number)).unwrap().digest;
                if number % 8 == 0 {
                    let committed = store.commit(Batch::new().set(name(number), digest));
                    refused += u32::from(committed.is_err());
                }
            }
            refused
        };
        assert_eq!(go(0..300), 0);
        disk.fail_when(
            Filter::any().operation(Operation::Create).tables(TableKind::Names),
            Fault::Eio,
        );
        let before = store.stats().index.flush_count;
        assert!(go(300..1800) > 0, "names were flushed");
        assert!(store.stats().index.flush_count > before + 10);
        let failed = store.compact();
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        assert_eq!(filled(&store.stats().index).len(), 1, "the index is compacted all the same");
        disk.heal();
        assert_eq!(go(1800..2200), 0);
        all_are_found(&store, 0..2200);
        is_sound(&store);
    }
}

/// Tables that readers hold on to are named by those that replaced them, and no more often however
/// often these are rewritten.
#[test]
fn readers_of_old_tables_do_not_make_new_ones_grow() {
    let bytes_an_entry = |held: bool| {
        let disk = SimDisk::new(1);
        let store = small_tables().pointer_segment_bytes(16 << 10).memtable_entries_max(100);
        let store = store.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        let mut readers = std::collections::VecDeque::new();
        let mut level0_count = 0;
        for commit in 0..600_u32 {
            let mut batch = Batch::new();
            for number in 0..20_u32 {
                let number = (commit * 20 + number).wrapping_mul(2_654_435_761) % 5000;
                batch = batch.set(format!("{number:040}"), digest);
            }
            store.commit(batch).unwrap();
            if held && commit % 50 == 0 {
                let mut reader = store.pointers_with_prefix("");
                reader.next().unwrap().unwrap();
                readers.push_back(reader);
                readers.truncate(8);
            }
            let level0 = store.stats().names.levels.first().map_or(0, |level| level.table_count);
            level0_count = level0.max(level0_count);
        }
        assert!(level0_count <= 4, "{level0_count} tables in level 0");
        let levels = store.stats().names.levels;
        let sums = levels.iter().map(|level| (level.bytes, level.entry_count));
        let (bytes, entries) = sums.fold((0, 0), |sum, level| (sum.0 + level.0, sum.1 + level.1));
        drop(readers);
        store.compact().unwrap();
        let live = store.stats();
        let live = live.names.levels.iter().chain(&live.index.levels);
        let live: u64 = live.map(|level| level.table_count).sum();
        let files = disk.names().iter().filter(|name| name.ends_with(".table")).count();
        assert_eq!(files as u64, live, "what nobody reads any more goes");
        bytes / entries
    };
    let (alone, held) = (bytes_an_entry(false), bytes_an_entry(true));
    assert!(held < 2 * alone, "{held} bytes an entry with readers, {alone} without");
}

/// A reader that outlives the store's close holds on to tables that the next open finds, and may let go
/// of them while it looks at them.
#[test]
fn a_store_opens_while_a_reader_of_its_last_life_lets_go() {
    let disk = SimDisk::new(1);
    let builder = || small_tables().memtable_entries_max(1).level0_tables(1).reserve_bytes(0);
    let store = builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let fill = || {
        for number in 0..400 {
            store.commit(Batch::new().set(format!("{number:04}"), digest)).unwrap();
        }
    };
    fill();
    let mut reader = store.pointers_with_prefix("");
    reader.next().unwrap().unwrap();
    fill();
    store.compact().unwrap();
    store.clone().close().unwrap();
    let meddling = MeddlingDisk::new(&disk);
    let before = disk.names().len();
    meddling.before_open(TableKind::Names, move || drop((reader, store)));
    let next = builder().open_on(Arc::clone(&meddling) as Arc<dyn Disk>).unwrap();
    assert!(meddling.has_meddled() && disk.names().len() < before);
    assert_eq!(next.pointers_with_prefix("").count(), 400);
}
