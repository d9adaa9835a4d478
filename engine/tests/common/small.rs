//! Small values that commits carry, on a simulated disk: for tests of what becomes of their copies.

use std::sync::Arc;

use pinstone::{Batch, Digest, Maintenance, Store, StoreBuilder};
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Disk, FileName, LogKind};

use super::told;

/// Options of a store whose pointer log goes on in a further segment soon.
pub fn builder() -> StoreBuilder {
    Store::builder()
        .segment_bytes(1 << 20)
        .pointer_segment_bytes(64 << 10)
        .maintenance(Maintenance::Inline)
}

pub fn open_as(disk: &Arc<SimDisk>, builder: StoreBuilder) -> pinstone::Result<Store> {
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>)
}

pub fn open(disk: &Arc<SimDisk>) -> Store {
    open_as(disk, builder()).expect("it opens")
}

pub fn value(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(100)
}

/// Puts a value, and names it.
pub fn commit(store: &Store, number: u32) {
    let digest = store.put(&value(number)).expect("it is put").digest;
    store.commit(Batch::new().set(format!("name-{number}"), digest)).expect("it is committed");
}

/// Values 0 to 19, put together and named by one commit.
pub fn of_one_commit(options: StoreBuilder) -> (Arc<SimDisk>, Store) {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, options).expect("it opens");
    let values: Vec<_> = (0..20).map(value).collect();
    let mut batch = Batch::new();
    for (number, put) in store.put_many(&values).into_iter().enumerate() {
        batch = batch.set(format!("name-{number}"), put.expect("it is put").digest);
    }
    store.commit(batch).expect("it is committed");
    store.sync().expect("it is synced");
    (disk, store)
}

/// Values that a reading does not find as they were put, and what it finds.
pub fn lost(store: &Store, numbers: impl IntoIterator<Item = u32>) -> Vec<(u32, String)> {
    let lost = |number| match store.get(&Digest::of(&value(number))) {
        Ok(Some(found)) if found == value(number) => None,
        Ok(_) => Some((number, "absent or wrong".to_owned())),
        Err(error) => Some((number, told(&error))),
    };
    numbers.into_iter().filter_map(lost).collect()
}

/// The files of a log's segments, the oldest first.
pub fn segments(disk: &SimDisk, log: LogKind) -> Vec<FileName> {
    let names = disk.names().into_iter().filter_map(|name| name.parse().ok());
    let is_of_log =
        |name: &FileName| matches!(name, FileName::Segment { log: of, .. } if *of == log);
    names.filter(is_of_log).collect()
}

/// Where a value's bytes stand first in a log.
pub fn stands(disk: &SimDisk, log: LogKind, value: &[u8]) -> Option<(FileName, u64)> {
    segments(disk, log).into_iter().find_map(|name| {
        let bytes = disk.file_bytes(&name.to_string()).expect("it is there");
        let at = bytes.windows(value.len()).position(|bytes| bytes == value)?;
        Some((name, at as u64))
    })
}

/// Values 0 to 19, most of them in sealed segments; their digests, and the first segment.
pub fn sealed() -> (Arc<SimDisk>, Store, Vec<Digest>, FileName) {
    let disk = SimDisk::new(1);
    let store = open_as(&disk, builder().segment_bytes(4 << 10)).expect("it opens");
    let put = |number| store.put(&value(number)).expect("it is put").digest;
    let digests = (0..20).map(put).collect();
    store.sync().expect("it is synced");
    store.maintain().expect("what is full is sealed");
    let first = segments(&disk, LogKind::Blob)[0];
    (disk, store, digests, first)
}
