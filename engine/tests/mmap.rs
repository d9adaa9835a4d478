//! Values of sealed segments are handed out of the files' maps, and keep them.
#![allow(clippy::unwrap_used, reason = "this is test code")]
#![expect(clippy::disallowed_methods, reason = "a store's files are removed from outside")]

use std::path::PathBuf;

use pinstone::{Bytes, Digest, Error, Store};

const VALUE_BYTES: usize = 10_000;

/// A store of small segments, with some values in sealed ones.
fn store(maps: bool) -> (tempfile::TempDir, Store, Vec<Digest>) {
    let directory = tempfile::tempdir().unwrap();
    let builder = Store::builder().segment_bytes(64 << 10).mmap(maps);
    let store = builder.open(directory.path().join("store")).unwrap();
    let digests = (0..40).map(|at| store.put(&value(at)).unwrap().digest).collect();
    store.maintain().unwrap();
    (directory, store, digests)
}

fn value(at: u8) -> Vec<u8> {
    let mut value = vec![at; VALUE_BYTES];
    value[0] = 255;
    value
}

fn get_all(store: &Store, digests: &[Digest]) -> Vec<Bytes> {
    digests.iter().map(|digest| store.get(digest).unwrap().unwrap()).collect()
}

#[test]
fn a_value_read_twice_is_the_same_memory() {
    let (_directory, store, digests) = store(true);
    let first = get_all(&store, &digests);
    let mapped_bytes = store.stats().mapped_bytes;
    assert!(mapped_bytes > 5 * (64 << 10), "{mapped_bytes} bytes of seven segments are mapped");
    let second = get_all(&store, &digests);
    assert_eq!(first, (0..40).map(value).collect::<Vec<_>>());
    assert_eq!(first, second);
    let is_same = |(first, second): (&Bytes, &Bytes)| first.as_ptr() == second.as_ptr();
    let same_count = first.iter().zip(&second).filter(|pair| is_same(*pair)).count();
    assert!(same_count >= 30, "{same_count} of 40 values were not copied");
    assert_eq!(store.stats().pinned_bytes, 0, "no segment's file was closed");
}

#[test]
fn values_outlive_the_store() {
    let (directory, store, digests) = store(true);
    let values = get_all(&store, &digests);
    store.close().unwrap();
    std::fs::remove_dir_all(directory.path()).unwrap();
    assert_eq!(values, (0..40).map(value).collect::<Vec<_>>());
}

#[test]
fn mapped_files_take_no_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let builder = Store::builder().segment_bytes(64 << 10).memtable_entries_max(4).mmap(true);
    let store = builder.open_files_max(1).open(&path).unwrap();
    let digests: Vec<_> = (0..40).map(|at| store.put(&value(at)).unwrap().digest).collect();
    store.maintain().unwrap();
    let values = get_all(&store, &digests);
    let stats = store.stats();
    assert!(stats.mapped_bytes >= 5 * (64 << 10) && stats.pinned_bytes == 0, "{stats:?}");
    assert!(stats.index.levels.iter().any(|level| level.table_count > 0), "{stats:?}");
    let opened = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let target = std::fs::read_link(entry.unwrap().path()).ok()?;
        target.strip_prefix(&path).ok().map(|name| name.to_string_lossy().into_owned())
    });
    let opened: Vec<_> =
        opened.filter(|name| name.contains("blob") || name.contains("index")).collect();
    // The active segment, the next one, and one that is not mapped.
    assert!(opened.len() <= 3, "{opened:?}");
    drop(values);
}

#[test]
fn nothing_is_mapped_where_that_is_not_wanted() {
    let (_directory, store, digests) = store(false);
    assert_eq!(get_all(&store, &digests), (0..40).map(value).collect::<Vec<_>>());
    assert_eq!(store.stats().mapped_bytes, 0);
}

/// That a value is held, a page shows that nobody checks; that it is not, only one that is sound.
#[test]
fn a_damaged_list_hides_no_value_that_it_shows_and_denies_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    // What tables know of a digest leads to many others.
    let builder = || {
        let small = Store::builder().segment_bytes(64 << 10).memtable_entries_max(4);
        small.mmap(true).index_key_bits(2)
    };
    let store = builder().open(&path).unwrap();
    let digests: Vec<_> = (0..40).map(|at| store.put(&value(at)).unwrap().digest).collect();
    store.maintain().unwrap();
    store.close().unwrap();
    let names = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |name: &PathBuf| name.to_string_lossy().contains("/blob-");
    let mut segments: Vec<_> = names.filter(is_segment).collect();
    segments.sort();
    // The last are read when the store is opened.
    for segment in &segments[..5] {
        let mut bytes = std::fs::read(segment).unwrap();
        let is_listed = |bytes: &[u8]| digests.iter().any(|digest| bytes == digest.as_bytes());
        // Behind what a page lists, which is little here, its bytes are nothing but checked.
        let last = bytes.windows(32).rposition(is_listed).unwrap();
        bytes[last + 200] ^= 1;
        std::fs::write(segment, bytes).unwrap();
    }
    let store = builder().open(&path).unwrap();
    let many = store.contains_many(&digests);
    let mut refused = 0;
    for (digest, many) in digests.iter().zip(many) {
        assert!(store.contains(digest).unwrap() && many.unwrap());
    }
    for number in 0..100_u32 {
        let absent = Digest::of(&number.to_le_bytes());
        let answers = [store.contains(&absent), store.contains_many(&[absent]).pop().unwrap()];
        for answer in answers {
            match answer {
                Ok(is_held) => assert!(!is_held),
                Err(error) => refused += usize::from(matches!(error, Error::Corrupt { .. })),
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
