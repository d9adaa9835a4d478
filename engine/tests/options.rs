//! Every option has its bounds: beyond them it is refused, at them the store serves.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::sync::Arc;

use common::told;
use pinstone::{Batch, Digest, Error, Maintenance, Options, Result, Store, StoreBuilder};
use pinstone_disk::Disk;
use pinstone_disk::sim::SimDisk;

fn open_on(builder: StoreBuilder, disk: &Arc<SimDisk>) -> Result<Store> {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

#[test]
fn an_option_out_of_bounds_is_refused_by_its_name_and_the_bound() {
    let new = Store::builder;
    for (builder, text) in [
        (new().value_bytes_max(0), "value_bytes_max: 0 is under the least of 1"),
        (
            new().value_bytes_max((1 << 30) + 1),
            "value_bytes_max: 1073741825 is over the limit of 1073741824",
        ),
        (new().commit_bytes_max(0), "commit_bytes_max: 0 is under the least of 1"),
        (
            new().commit_bytes_max((256 << 20) + 1),
            "commit_bytes_max: 268435457 is over the limit of 268435456",
        ),
        (new().segment_bytes(4095), "segment_bytes: 4095 is under the least of 4096"),
        (
            new().segment_bytes((2 << 30) + 1),
            "segment_bytes: 2147483649 is over the limit of 2147483648",
        ),
        (
            new().pointer_segment_bytes(4095),
            "pointer_segment_bytes: 4095 is under the least of 4096",
        ),
        (
            new().pointer_segment_bytes((2 << 30) + 1),
            "pointer_segment_bytes: 2147483649 is over the limit of 2147483648",
        ),
        (
            new().reserve_bytes((1 << 40) + 1),
            "reserve_bytes: 1099511627777 is over the limit of 1099511627776",
        ),
        (new().append_buffer_bytes(1023), "append_buffer_bytes: 1023 is under the least of 1024"),
        (
            new().append_buffer_bytes((64 << 20) + 1),
            "append_buffer_bytes: 67108865 is over the limit of 67108864",
        ),
        (new().open_files_max(0), "open_files_max: 0 is under the least of 1"),
        (
            new().open_files_max((1 << 20) + 1),
            "open_files_max: 1048577 is over the limit of 1048576",
        ),
        (
            new().memory_bytes((16 << 20) - 1),
            "memory_bytes: 16777215 is under the least of 16777216",
        ),
        (
            new().memory_bytes((1 << 40) + 1),
            "memory_bytes: 1099511627777 is over the limit of 1099511627776",
        ),
        (new().memtable_entries_max(0), "memtable_entries_max: 0 is under the least of 1"),
        (new().level0_tables(0), "level0_tables: 0 is under the least of 1"),
        (new().level0_tables(65), "level0_tables: 65 is over the limit of 64"),
        (new().level_ratio(1), "level_ratio: 1 is under the least of 2"),
        (new().level_ratio(65), "level_ratio: 65 is over the limit of 64"),
        (new().table_bytes(4095), "table_bytes: 4095 is under the least of 4096"),
        (
            new().table_bytes((1 << 30) + 1),
            "table_bytes: 1073741825 is over the limit of 1073741824",
        ),
        (new().filter_levels(8), "filter_levels: 8 is over the limit of 7"),
        (
            new().compaction_bytes_per_second(0),
            "compaction_bytes_per_second: 0 is under the least of 1",
        ),
        (new().index_key_bits(0), "index_key_bits: 0 is under the least of 1"),
        (new().index_key_bits(57), "index_key_bits: 57 is over the limit of 56"),
    ] {
        let disk = SimDisk::new(1);
        let error = open_on(builder, &disk).unwrap_err();
        assert!(
            matches!(error, Error::Limit { .. } | Error::UnderLimit { .. }),
            "{}",
            told(&error)
        );
        assert_eq!(told(&error), text);
        assert_eq!(disk.names(), Vec::<String>::new());
    }
}

#[test]
fn options_at_their_least_make_a_store_that_serves() {
    let least = Store::builder()
        .value_bytes_max(1)
        .commit_bytes_max(100)
        .segment_bytes(4 << 10)
        .pointer_segment_bytes(4 << 10)
        .reserve_bytes(0)
        .append_buffer_bytes(1 << 10)
        .open_files_max(1)
        .memory_bytes(16 << 20)
        .memtable_entries_max(1)
        .level0_tables(1)
        .level_ratio(2)
        .table_bytes(4 << 10)
        .filter_levels(0)
        .compaction_bytes_per_second(1)
        .maintenance(Maintenance::Inline);
    let store = open_on(least, &SimDisk::new(1)).unwrap();
    for byte in 0..60u8 {
        let digest = store.put(&[byte]).unwrap().digest;
        store.commit(Batch::new().set([byte], digest)).unwrap();
    }
    assert_eq!(store.pointers_with_prefix("").count(), 60);
    assert_eq!(store.get(&Digest::of(&[7])).unwrap().as_deref(), Some(&[7][..]));
}

#[test]
fn all_options_can_be_set_at_once() {
    let mut options = Options::default();
    options.value_bytes_max = 10;
    let store = open_on(Store::builder().options(options), &SimDisk::new(1)).unwrap();
    let error = store.put(&[0; 11]).unwrap_err();
    assert_eq!(told(&error), "a value's length in bytes: 11 is over the limit of 10");
}

#[test]
fn what_is_known_to_be_bad_is_bounded_and_told() {
    let disk = SimDisk::new(1);
    let limit_bytes = Options::MEMORY_BYTES_MIN;
    let builder = Store::builder().memory_bytes(limit_bytes).maintenance(Maintenance::Inline);
    let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let mut digests = Vec::new();
    let values: Vec<_> = (0..50_000_u32).map(u32::to_le_bytes).collect();
    for values in values.chunks(10_000) {
        digests.extend(store.put_many(values).into_iter().map(|put| put.unwrap().digest));
    }
    store.sync().unwrap();
    for name in disk.names().into_iter().filter(|name| name.starts_with("blob-")) {
        disk.corrupt(&name, 4096, |bytes| {
            bytes.iter_mut().step_by(24).take(40_000).for_each(|byte| *byte ^= 0x55);
        });
    }
    let bad_count = digests.iter().filter(|digest| store.get(digest).is_err()).count();
    let told_bytes = store.stats().memory.bad_copies_bytes;
    println!("{told_bytes} bytes told, {bad_count} bad values");
    assert!(bad_count > 10_000 && told_bytes > 0, "{bad_count} {told_bytes}");
    assert!(told_bytes <= limit_bytes / 32, "{told_bytes} of {limit_bytes}");
}
