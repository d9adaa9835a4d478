//! Many values at once are the same values as one by one.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::meddling::MeddlingDisk;
use common::mix;
use pinstone::{Bytes, Digest, Maintenance, Store, StoreBuilder};
use pinstone_disk::env::spawn;
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation};

fn small() -> StoreBuilder {
    Store::builder()
        .segment_bytes(256 << 10)
        .append_buffer_bytes(1 << 10)
        .reserve_bytes(0)
        .memtable_entries_max(100)
        .level0_tables(2)
        .table_bytes(8 << 10)
        .maintenance(Maintenance::Inline)
}

/// Some of every length: none, a few bytes, more than is read at once.
fn value(number: u32) -> Vec<u8> {
    let len = [0, 7, 100, 900, 5000, 70_000][usize::try_from(number % 97 % 6).unwrap()];
    let mut value = number.to_le_bytes().to_vec();
    value.resize(4 + len, 1);
    value
}

/// Digests of values held and not held, in no order, some twice.
fn digests(seed: u32, count: u32) -> Vec<Digest> {
    let number = |at: u32| (at * 31 + seed).wrapping_mul(2_654_435_761) % 1000;
    (0..count).map(|at| Digest::of(&value(number(at)))).collect()
}

/// A store with the values below 700, in tables, in memtables, and not written yet.
fn fill(store: &Store) {
    for number in 0..700 {
        store.put(&value(number)).unwrap();
    }
    let index = store.stats().index;
    let in_tables: u64 = index.levels.iter().map(|level| level.entry_count).sum();
    assert!(in_tables > 300 && index.memtable_entry_count > 0, "{index:?}");
}

/// What each of the digests gave, errors as text.
fn agrees(store: &Store, digests: &[Digest]) -> (usize, usize) {
    let many = store.get_many(digests);
    let (mut found, mut failed) = (0, 0);
    for (digest, one_of_many) in digests.iter().zip(many) {
        let text = |error: pinstone::Error| error.to_string();
        let alone = store.get(digest).map_err(text);
        failed += usize::from(alone.is_err());
        found += usize::from(matches!(alone, Ok(Some(_))));
        assert_eq!(one_of_many.map_err(text), alone);
    }
    for (digest, one_of_many) in digests.iter().zip(store.contains_many(digests)) {
        let text = |error: pinstone::Error| error.to_string();
        assert_eq!(one_of_many.map_err(text), store.contains(digest).map_err(text));
    }
    (found, failed)
}

#[test]
fn many_are_what_each_is() {
    for bits in [56, 8] {
        let disk = SimDisk::new(1);
        let open = || small().index_key_bits(bits).open_on(Arc::clone(&disk) as Arc<dyn Disk>);
        let store = open().unwrap();
        fill(&store);
        assert!(store.get_many(&[]).is_empty());
        for (seed, count) in [(1, 1), (2, 2), (3, 64), (4, 500)] {
            let (found, failed) = agrees(&store, &digests(seed, count));
            assert_eq!(failed, 0);
            assert!(count < 64 || found > 0 && found < digests(seed, count).len());
        }
        store.close().unwrap();
        agrees(&open().unwrap(), &digests(5, 300));
    }
}

#[test]
fn whether_many_are_there_is_read_at_once_in_order_of_place() {
    let disk = MeddlingDisk::new(&SimDisk::new(1));
    // All of it in tables, all lists at hand, no value with another's key.
    let store = small().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    fill(&store);
    let in_tables: Vec<_> = (0..500)
        .map(|number| Digest::of(&value(number)))
        .filter(|digest| disk.reads(|| assert!(store.contains(digest).unwrap())).len() == 1)
        .collect();
    assert!(in_tables.len() > 200, "{} in tables", in_tables.len());
    let values: Vec<_> =
        (0..500).map(value).filter(|value| in_tables.contains(&Digest::of(value))).collect();

    let many = || assert!(store.contains_many(&in_tables).into_iter().all(Result::unwrap));
    let puts = || assert!(store.put_many(&values).into_iter().all(|put| !put.unwrap().new));
    for reads in [disk.reads(many), disk.reads(puts)] {
        let [reads] = &reads[..] else { panic!("{} batches of reads", reads.len()) };
        assert!(reads.iter().all(|(name, _)| name.starts_with("blob-")), "{reads:?}");
        assert!(reads.is_sorted_by(|a, b| a < b), "out of order, or twice: {reads:?}");
        assert!(reads.len() > 10, "{} pages", reads.len());
    }
    // What is in memory, or in no table, is told by no read.
    let absent: Vec<_> = (2000..2100).map(|number| Digest::of(&value(number))).collect();
    assert!(disk.reads(|| drop(store.contains_many(&absent))).len() <= 2);
}

#[test]
fn no_more_is_read_than_was_asked_for() {
    let disk = MeddlingDisk::new(&SimDisk::new(1));
    let store = small().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    fill(&store);
    let all = digests(9, 400);
    let whole = store.get_many(&all);
    let record_bytes = |got: &pinstone::Result<Option<Bytes>>| match got {
        // A record has up to 42 bytes more, and is known to an eighth of its length.
        Ok(Some(value)) => (value.len() as u64 + 42) * 9 / 8,
        _ => 0,
    };
    for bytes_max in [0, 1, 100, 3000, 20_000, 300_000, u64::MAX] {
        let mut got = Vec::new();
        let reads = disk.reads(|| got = store.get_many_within(&all, bytes_max));
        let count = got.len();
        assert!(count >= 1 && (count < 400 || bytes_max == u64::MAX), "{count} for {bytes_max}");
        for (one, other) in got.iter().zip(&whole) {
            assert_eq!(one.as_ref().unwrap(), other.as_ref().unwrap());
        }
        // As much as could be had; and what was not answered was not read.
        let answered: u64 = got.iter().map(record_bytes).sum();
        let next = whole.get(count).map_or(u64::MAX, record_bytes);
        assert!(answered.saturating_add(next) > bytes_max || count == 400, "{bytes_max}");
        let read = reads.iter().flatten().filter(|(name, _)| name.starts_with("blob-")).count();
        assert!(read <= 2 * count, "{read} reads for {count} values");
    }
    assert!(store.get_many_within(&[], 0).is_empty());
}

#[test]
fn a_batch_has_no_more_files_and_pages_than_the_options_allow() {
    let disk = MeddlingDisk::new(&SimDisk::new(1));
    // Hardly anything is cached, and there are many more files than may be open.
    let builder = small().segment_bytes(16 << 10).table_bytes(4 << 10).memory_bytes(16 << 20);
    let store = builder.open_files_max(3).open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let values: Vec<_> = (0..3000_u32).map(|number| [number.to_le_bytes(); 250].concat()).collect();
    let digests: Vec<_> = values.iter().map(|value| store.put(value).unwrap().digest).collect();
    store.maintain().unwrap();
    assert!(store.stats().blob_log.segment_count > 100);
    let asked: [fn(&Store, &[Digest]); 2] = [
        |store, digests| assert!(store.get_many(digests).iter().all(|got| got.is_ok())),
        |store, digests| assert!(store.contains_many(digests).iter().all(|got| got.is_ok())),
    ];
    for ask in asked {
        let (mut file_count, mut read_count) = (0, 0);
        for batch in disk.reads(|| ask(&store, &digests)) {
            let files: std::collections::BTreeSet<_> = batch.iter().map(|(name, _)| name).collect();
            file_count = file_count.max(files.len());
            read_count = read_count.max(batch.len());
        }
        assert_eq!(file_count, 3);
        assert!((3..=1024).contains(&read_count), "{read_count} reads in one batch");
    }
}

/// Others' reads take the file's place among those that are kept open.
#[test]
fn a_batch_opens_each_file_once() {
    let disk = MeddlingDisk::new(&SimDisk::new(1));
    let builder = small().segment_bytes(32 << 10).open_files_max(1);
    let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let number = |at: u32| format!("{at:060}");
    let all: Vec<Digest> =
        (0..4000).map(|at| store.put(number(at).as_bytes()).unwrap().digest).collect();
    let threads: Vec<_> = (0..3)
        .map(|thread| {
            let (store, all) = (store.clone(), all.clone());
            let ask = move || {
                for round in 0..100 {
                    let at = |n: u64| mix(&[thread, round, n]) % 3000;
                    let some: Vec<Digest> =
                        (0..400).map(|n| all[usize::try_from(at(n)).unwrap()]).collect();
                    match round % 2 {
                        0 => assert!(store.get_many(&some).into_iter().all(|it| it.is_ok())),
                        _ => assert!(store.contains_many(&some).into_iter().all(|it| it.unwrap())),
                    }
                    for digest in &some[..20] {
                        store.get(digest).unwrap().unwrap();
                    }
                }
            };
            spawn("asks", ask).unwrap()
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(disk.handles_max(), 1);
}

#[test]
fn values_are_held_whose_lists_are_damaged() {
    let disk = SimDisk::new(1);
    let store = small().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    fill(&store);
    store.maintain().unwrap();
    let all: Vec<_> = (0..800).map(|number| Digest::of(&value(number))).collect();
    let mut damaged = 0;
    for name in disk.names().into_iter().filter(|name| name.starts_with("blob-")) {
        let bytes = disk.file_bytes(&name).unwrap();
        let is_listed = |bytes: &[u8]| all.iter().any(|digest| bytes == digest.as_bytes());
        let Some(last) = bytes.windows(32).rposition(is_listed) else { continue };
        let (at, page_bytes) = (last as u64, bytes.len() as u64 - last as u64);
        // Where a page lists it, and what its neighbours need not.
        disk.corrupt(&name, at + 20, |bytes| bytes[0] ^= 1);
        damaged += usize::from(page_bytes > 300);
    }
    agrees(&store, &all);
    // Most records are well.
    let is_read = |digest: &Digest| store.get(digest).is_ok_and(|value| value.is_some());
    let read: Vec<_> = all.iter().copied().filter(is_read).collect();
    assert!(damaged > 20 && read.len() > 600, "{damaged} {}", read.len());
    assert!(store.contains_many(&read).into_iter().all(|found| found.unwrap()));
}

#[test]
fn damage_and_failures_stay_with_their_values() {
    let disk = SimDisk::new(1);
    let store = small().open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    fill(&store);
    store.maintain().unwrap();
    for name in disk.names().into_iter().filter(|name| name.starts_with("blob-")) {
        for at in [9000, 40_000, 90_000, 150_000] {
            disk.corrupt(&name, at, |bytes| bytes[0] ^= 1);
        }
    }
    let (found, failed) = agrees(&store, &digests(6, 1000));
    assert!(failed > 0 && found > failed, "{found} found, {failed} damaged");
    // A read that fails once is made again, alone; one that fails for good is its value's error.
    disk.fail_when(Filter::any().operation(Operation::Read).nth(40), Fault::Eio);
    let sound = digests(7, 200);
    let failed = |store: &Store| store.get_many(&sound).iter().filter(|got| got.is_err()).count();
    let before = failed(&store);
    disk.heal();
    assert_eq!(before, failed(&store));
}

#[test]
fn values_of_a_real_directory_come_by_rings_maps_and_positioned_calls() {
    for (maps, engine) in [
        (true, pinstone::IoEngine::Auto),
        (false, pinstone::IoEngine::Auto),
        (false, pinstone::IoEngine::Positioned),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = small().mmap(maps).io(engine).open(directory.path().join("store")).unwrap();
        fill(&store);
        for seed in 0..5 {
            let (found, failed) = agrees(&store, &digests(seed, 300));
            assert!(found > 100 && failed == 0);
        }
    }
}

#[test]
fn a_get_of_a_segment_that_is_not_held_open_reads_the_log_once() {
    let disk = MeddlingDisk::new(&SimDisk::new(1));
    let builder = Store::builder().segment_bytes(16 << 10).append_buffer_bytes(1 << 10);
    let builder = builder.reserve_bytes(0).open_files_max(3).maintenance(Maintenance::Inline);
    let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let value = |number: u32| number.to_le_bytes().repeat(250);
    let digests: Vec<_> =
        (0..500).map(|number| store.put(&value(number)).unwrap().digest).collect();
    // Each segment is opened once, and its format known from then on.
    digests.iter().for_each(|digest| assert!(store.get(digest).unwrap().is_some()));
    for digest in digests.iter().step_by(37) {
        let reads = disk.reads(|| assert!(store.get(digest).unwrap().is_some()));
        let of_log = reads.iter().flatten().filter(|(name, _)| name.starts_with("blob-"));
        assert_eq!(of_log.count(), 1, "{reads:?}");
    }
}
