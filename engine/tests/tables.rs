//! Stores whose digest index has outgrown its memtables.

#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::sync::Arc;

use pinstone::{Batch, CheckOptions, Digest, Maintenance, Store, StoreBuilder, Verify};
use pinstone_disk::Disk;
use pinstone_disk::sim::SimDisk;

/// Small, so that little makes much happen.
fn small() -> StoreBuilder {
    Store::builder()
        .segment_bytes(16 << 10)
        .pointer_segment_bytes(8 << 10)
        .append_buffer_bytes(1 << 10)
        .reserve_bytes(1 << 20)
        .memtable_entries_max(20)
        .level0_tables(2)
        .level_ratio(2)
        .table_bytes(4 << 10)
        .maintenance(Maintenance::Inline)
}

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
        let open = || small().index_key_bits(bits).open_on(Arc::clone(&disk) as Arc<dyn Disk>);
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
