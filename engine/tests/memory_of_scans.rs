//! What an iterator over pointers holds is bounded, however long names are. A binary of its own: it looks at
//! the memory of the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::sync::Arc;

use common::process::anonymous_bytes;
use pinstone::{Batch, Maintenance, Pointers, Store};
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation, TableKind};

/// Commits until three memtables wait and cannot be flushed. Each name is followed by one of another, so that a
/// scan has some of each at hand.
fn with_full_memtables() -> Store {
    let disk = SimDisk::new(1);
    let tables = Filter::any().operation(Operation::Create).tables(TableKind::Names);
    disk.fail_when(tables, Fault::Eio);
    let builder = Store::builder().pointer_segment_bytes(1 << 20).memtable_entries_max(1);
    let builder = builder.maintenance(Maintenance::Inline);
    let store = builder.open_on(disk as Arc<dyn Disk>).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let mut counts = [0; 4];
    loop {
        let memtable = usize::try_from(store.stats().names.memtable_count - 1).unwrap();
        let mut batch = Batch::new();
        for nth in counts[memtable]..counts[memtable] + 100 {
            batch = batch.set(format!("{nth:06} {memtable} {}", "n".repeat(1000)), digest);
        }
        counts[memtable] += 100;
        if store.commit(batch).is_err() {
            break;
        }
    }
    assert!(counts[..3].iter().all(|count| *count > 500), "{counts:?}");
    store
}

#[test]
fn an_iterator_over_long_names_holds_little_of_each_memtable() {
    let store = with_full_memtables();
    let begun = || -> Pointers {
        let mut pointers = store.pointers_with_prefix("");
        for _ in 0..500 {
            assert!(pointers.next().unwrap().is_ok() && pointers.next_back().unwrap().is_ok());
        }
        pointers
    };
    let first = begun();
    let before_bytes = anonymous_bytes();
    let others: Vec<Pointers> = (0..40).map(|_| begun()).collect();
    let each_bytes = anonymous_bytes().saturating_sub(before_bytes) / others.len() as u64;
    drop((first, others));
    println!("{each_bytes} bytes each");
    assert!(each_bytes > 16 << 10, "{each_bytes} bytes each, as if they held nothing");
    assert!(each_bytes < 400 << 10, "{each_bytes} bytes each");
}
