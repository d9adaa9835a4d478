//! Many values put at once are the same as put one by one: answers, bytes in the log, counts; and so they are
//! when devices are full, fail, or lose what was not synced.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![expect(clippy::disallowed_methods, reason = "threads of a test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Dice, budget, mix, tiny_tables};
use pinstone::{
    Batch, CheckOptions, Counters, Digest, Error, Maintenance, Put, Store, StoreBuilder,
};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation};

fn open(builder: StoreBuilder, disk: &Arc<SimDisk>) -> Store {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
}

/// Small segments and tables, so that a few hundred values make many of each.
fn small() -> StoreBuilder {
    Store::builder()
        .segment_bytes(64 << 10)
        .append_buffer_bytes(8 << 10)
        .reserve_bytes(0)
        .memtable_entries_max(100)
        .level0_tables(2)
        .table_bytes(8 << 10)
        .maintenance(Maintenance::Inline)
}

/// Some of every length: none, a few bytes, more than is gathered, more than a segment.
fn value(number: u64) -> Vec<u8> {
    let lengths = [0, 7, 100, 100, 900, 3000, 70_000];
    let len = lengths[usize::try_from(mix(&[number]) % 97 % 7).unwrap()];
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + len, 1);
    value
}

fn put_alone(store: &Store, values: &[Vec<u8>]) -> Vec<Result<Put, String>> {
    let put = |value: &Vec<u8>| store.put(value).map_err(|error| error.to_string());
    values.iter().map(put).collect()
}

fn put_together(store: &Store, values: &[Vec<u8>]) -> Vec<Result<Put, String>> {
    let puts = store.put_many(values);
    puts.into_iter().map(|put| put.map_err(|error| error.to_string())).collect()
}

fn is_sound(store: &Store) {
    let report = store.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).unwrap();
    assert_eq!(report.findings, []);
}

#[test]
fn many_are_put_as_each_is() {
    for bits in [56, 8] {
        let [alone, together] = [(), ()]
            .map(|()| open(small().value_bytes_max(60_000).index_key_bits(bits), &SimDisk::new(1)));
        let mut dice = Dice::new(bits.into());
        for count in [0, 1, 2, 30, 700, 1500, 40, 40, 40] {
            // Of late ones, and of what stands in tables by now.
            let number = |dice: &mut Dice| dice.below(1200) as u64;
            let values: Vec<_> = (0..count).map(|_| value(number(&mut dice))).collect();
            assert_eq!(put_together(&together, &values), put_alone(&alone, &values), "{count}");
            let counted = |store: &Store| {
                let Counters { put_count, put_bytes, put_known_count, .. } =
                    store.stats().since_open;
                (put_count, put_bytes, put_known_count)
            };
            assert_eq!(counted(&together), counted(&alone));
        }
        let refused = put_together(&together, &(0..1200).map(value).collect::<Vec<_>>());
        assert!(refused.iter().filter(|put| put.is_err()).count() > 50, "none was too long");
        let stats = together.stats();
        assert!(stats.index.flush_count > 3, "{:?}", stats.index);
        is_sound(&together);
    }
}

#[test]
fn the_log_is_what_it_is_after_puts_one_by_one() {
    let values: Vec<_> = (0..400).map(value).filter(|value| value.len() < 60_000).collect();
    let [alone, together] = [put_alone, put_together].map(|put| {
        let disk = SimDisk::new(1);
        let store = open(Store::builder().maintenance(Maintenance::Inline), &disk);
        put(&store, &values).into_iter().for_each(|put| assert!(put.is_ok()));
        store.close().unwrap();
        let names = disk.names().into_iter().filter(|name| name.starts_with("blob-"));
        names.map(|name| (disk.file_bytes(&name), name)).collect::<Vec<_>>()
    });
    assert!(!alone.is_empty() && alone == together, "the files differ");
}

#[test]
fn a_value_that_stands_twice_is_stored_once_and_new_the_first_time() {
    let store = open(small(), &SimDisk::new(1));
    // Gathered, written straight through, longer than a segment; next to each other, and apart.
    for len_bytes in [10, 5000, 100_000] {
        let [one, other] = [vec![1; len_bytes], vec![2; len_bytes]];
        let values = [&one[..], &one, &other, &[3], &one, &other].map(<[u8]>::to_vec);
        let before = store.stats().value_count;
        let puts: Vec<_> = store.put_many(&values).into_iter().map(Result::unwrap).collect();
        let new: Vec<_> = puts.iter().map(|put| put.new).collect();
        assert_eq!(new, [true, false, true, len_bytes == 10, false, false]);
        assert!(puts.iter().zip(&values).all(|(put, value)| put.digest == Digest::of(value)));
        assert_eq!(
            store.stats().value_count,
            before + new.iter().filter(|new| **new).count() as u64
        );
    }
}

#[test]
fn one_that_is_too_long_is_refused_alone() {
    let store = open(small().value_bytes_max(100), &SimDisk::new(1));
    let values = [vec![1; 100], vec![2; 101], vec![3; 7], vec![2; 101]];
    let puts = store.put_many(&values);
    let refused =
        |put: &pinstone::Result<Put>| matches!(put, Err(Error::Limit { max: 100, found: 101, .. }));
    assert_eq!(puts.iter().map(refused).collect::<Vec<_>>(), [false, true, false, true]);
    assert!(puts[0].is_ok() && puts[2].is_ok());
    assert!(!store.contains(&Digest::of(&values[1])).unwrap());
    assert_eq!(store.stats().value_count, 2);
}

#[test]
fn a_copy_known_to_be_damaged_is_healed() {
    let disk = SimDisk::new(1);
    let store = open(small(), &disk);
    let values: Vec<_> = (0..300).map(value).collect();
    put_together(&store, &values);
    store.maintain().unwrap();
    for name in disk.names().into_iter().filter(|name| name.starts_with("blob-")) {
        disk.corrupt(&name, 700, |bytes| bytes[0] ^= 1);
    }
    store.check(&CheckOptions { read_data: true, ..CheckOptions::default() }).unwrap();
    let new = store.put_many(&values).into_iter().filter(|put| put.as_ref().unwrap().new).count();
    assert!(new > 0 && new < 100, "{new}");
    for value in &values {
        assert_eq!(store.get(&Digest::of(value)).unwrap().as_deref(), Some(&value[..]));
    }
}

#[test]
fn writing_that_has_ended_refuses_each() {
    let disk = SimDisk::new(1);
    let store = open(small(), &disk);
    store.put(b"before").unwrap();
    disk.fail_when(Filter::any().operation(Operation::Sync), Fault::Eio);
    store.sync().unwrap_err();
    disk.heal();
    let puts = store.put_many(&["before", "after"]);
    assert!(puts.iter().all(|put| matches!(put, Err(Error::Poisoned { .. }))), "{puts:?}");
}

/// What was answered, by digest.
fn answers(values: &[Vec<u8>], puts: &[Result<Put, Error>]) -> BTreeMap<Digest, bool> {
    let mut answers = BTreeMap::new();
    for (value, put) in values.iter().zip(puts) {
        // One of two equal ones may be refused, and the other one not.
        *answers.entry(Digest::of(value)).or_default() |= put.is_ok();
    }
    answers
}

#[test]
fn on_a_full_device_what_was_taken_is_there_and_what_was_refused_is_not() {
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..60 * budget() {
        let disk = SimDisk::new(seed);
        let builder = || small().reserve_bytes(128 << 10);
        let store = open(builder(), &disk);
        let first = store.put(b"first").unwrap();
        store.sync().unwrap();
        let mut dice = Dice::new(seed);
        disk.set_capacity(Some(disk.used_bytes() + dice.below(300 << 10) as u64));
        let values: Vec<_> = (0..300).map(|_| value(dice.below(250) as u64)).collect();
        let puts = store.put_many(&values);
        for put in &puts {
            assert!(matches!(put, Ok(_) | Err(Error::NoSpace { .. })), "seed {seed}: {put:?}");
        }
        let answers = answers(&values, &puts);
        let are_there = |store: &Store, what: &str| {
            for (digest, is_there) in &answers {
                let found = store.get(digest).unwrap().is_some();
                assert_eq!(found, *is_there, "seed {seed}, {what}: {digest}");
            }
        };
        are_there(&store, "at once");
        // With space again it goes on without reopening.
        disk.set_capacity(None);
        let last = store.put(b"last").unwrap();
        let batch = answers.iter().filter(|(_, is_there)| **is_there);
        let batch =
            batch.fold(Batch::new(), |batch, (digest, _)| batch.set(digest.to_string(), *digest));
        store.commit(batch.set("first", first.digest).set("last", last.digest)).unwrap();
        drop(store);
        for state in [CrashState::Nothing, CrashState::Random(seed)] {
            let store = open(builder(), &disk.after_crash(state));
            are_there(&store, "after a crash");
            is_sound(&store);
        }
        taken += answers.values().filter(|taken| **taken).count();
        refused += answers.values().filter(|taken| !**taken).count();
    }
    assert!(taken > 1000 && refused > 1000, "{taken} taken, {refused} refused");
}

#[test]
fn threads_that_put_the_same_batches_store_each_value_once() {
    for maintenance in [Maintenance::Inline, Maintenance::Thread] {
        let disk = SimDisk::new(1);
        let builder = || tiny_tables().segment_bytes(32 << 10).maintenance(maintenance);
        let store = open(builder(), &disk);
        let values: Vec<_> = (0..600).map(value).filter(|value| value.len() < 4000).collect();
        let new: usize = std::thread::scope(|scope| {
            let putting = |thread: usize| {
                let (store, values) = (&store, &values);
                scope.spawn(move || {
                    // Each its own way through all of them, some alone and some together.
                    let turned = [&values[thread * 90..], &values[..thread * 90]].concat();
                    let mut new = 0;
                    for values in turned.chunks(1 + thread * 70) {
                        let puts = store.put_many(values).into_iter().map(Result::unwrap);
                        let puts: Vec<_> = puts.collect();
                        let batch = Batch::new().set(format!("{thread}"), puts[0].digest);
                        store.commit(batch).unwrap();
                        new += puts.iter().filter(|put| put.new).count();
                    }
                    new
                })
            };
            let maintaining = scope.spawn(|| (0..20).for_each(|_| store.maintain().unwrap()));
            let putting: Vec<_> = (0..4).map(putting).collect();
            let new = putting.into_iter().map(|thread| thread.join().unwrap()).sum();
            maintaining.join().unwrap();
            new
        });
        assert_eq!(new, values.len());
        assert!(store.stats().index.flush_count > 2);
        store.close().unwrap();
        let store = open(builder(), &disk);
        assert_eq!(store.stats().value_count, values.len() as u64);
        for value in &values {
            assert_eq!(store.get(&Digest::of(value)).unwrap().as_deref(), Some(&value[..]));
        }
        is_sound(&store);
    }
}
