//! Closing: what each of several handles is told.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::sync::Arc;

use pinstone::{Batch, Error, Maintenance, Store};
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation};

fn open(disk: &Arc<SimDisk>) -> Store {
    let builder = Store::builder().maintenance(Maintenance::Inline);
    builder.open_on(Arc::clone(disk) as Arc<dyn Disk>).unwrap()
}

#[test]
fn who_closes_second_is_told_what_became_of_the_first() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let other = store.clone();
    store.close().unwrap();
    other.close().unwrap();

    let store = open(&disk);
    let (other, third) = (store.clone(), store.clone());
    let digest = store.put(b"value").unwrap().digest;
    disk.fail_when(Filter::any().operation(Operation::Sync), Fault::Eio);
    assert!(store.close().is_err());
    disk.heal();
    assert!(matches!(other.close(), Err(Error::Poisoned { .. })));
    assert!(third.put(b"another").is_err());
    assert_eq!(third.get(&digest).unwrap().unwrap(), &b"value"[..]);

    // The lock is free, and what the closed one still does touches nothing.
    let reopened = open(&disk);
    let names = disk.names();
    assert!(third.commit(Batch::new().set("name", digest)).is_err());
    assert!(third.sync().is_err());
    assert!(third.maintain().is_err());
    drop(third);
    assert_eq!(disk.names(), names);
    reopened.close().unwrap();
}
