//! Files of tables alone tell which names stand, whatever could not be made, could not be removed, or was
//! brought back by a crash (P12): each key of a stale table is named by one that counts.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Dice, told};
use pinstone::{Batch, Digest, Error, Maintenance, Pointers, Store, StoreBuilder};
use pinstone_compaction::merge::NameEntry;
use pinstone_compaction::table::footer::Replaced;
use pinstone_compaction::table::names::NameTable;
use pinstone_compaction::table::shared::Tables;
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::sim::{CrashState, Fault, Filter, SimDisk};
use pinstone_disk::{Bytes, Disk, FileHeader, FileName, Operation, TableKind, Trailer};

/// What stands after a commit.
type Standing = BTreeMap<Vec<u8>, Digest>;

/// A table, as who has only its file knows it.
struct Lying {
    id: TableId,
    entries: Vec<NameEntry>,
    replaced: Vec<Replaced>,
}

/// The table in a file, unless it is none or was not finished.
fn lying(image: &Arc<SimDisk>, file: &str) -> Option<Lying> {
    let name: FileName = file.parse().ok()?;
    let FileName::Table { table: TableKind::Names, ordinal, epoch } = name else { return None };
    let bytes = image.file_bytes(file)?;
    let header = FileHeader::decode(&name, &bytes).ok()?;
    let trailer = Trailer::decode(&name, bytes.len() as u64, &bytes).ok()?;
    let start = usize::try_from(trailer.footer_offset_bytes).unwrap();
    let footer = &bytes[start..start + usize::try_from(trailer.footer_bytes).unwrap()];
    if !trailer.is_of(footer) {
        return None;
    }
    let number = |at: usize| u64::from_le_bytes(*footer[at..].first_chunk().unwrap());
    // As in format.md; names here are at least 128 bytes long, and a length then takes two.
    let key = |at: usize| {
        let len = usize::from(footer[at] & 0x7f) | usize::from(footer[at + 1]) << 7;
        (Bytes::copy_from_slice(&footer[at + 2..at + 2 + len]), at + 2 + len)
    };
    let (first, last_at) = key(184);
    let id = TableId { table: TableKind::Names, ordinal, epoch };
    let meta = TableMeta {
        id,
        first,
        last: key(last_at).0,
        entry_count: number(48),
        spare_count: number(112),
        last_commit: number(104),
        file_bytes: bytes.len() as u64,
        footer_hash: trailer.footer_hash,
    };
    let disk = Arc::clone(image) as Arc<dyn Disk>;
    let tables = Tables::new(disk, header.store_id, 8, 1 << 20);
    let table = Arc::new(NameTable::open(&tables, meta).ok()?);
    let mut entries = Vec::new();
    table.check(|entry| entries.push(entry.clone())).ok()?;
    Some(Lying { id, entries, replaced: table.file().replaced().ok()? })
}

/// A newer table says that this one is stale, and is not stale itself, for this name.
fn is_stale(newest_first: &[Lying], index: usize, name: &[u8]) -> bool {
    let id = newest_first[index].id;
    let names = |replaced: &Replaced| {
        (replaced.ordinal, replaced.epoch) == (id.ordinal, id.epoch)
            && replaced.first <= *name
            && replaced.until.as_ref().is_none_or(|until| *name < **until)
    };
    let newer = newest_first[..index].iter().enumerate();
    let mut naming = newer.filter(|(_, table)| table.replaced.iter().any(names));
    naming.any(|(newer, _)| !is_stale(newest_first, newer, name))
}

/// What stands by the files, and the last commit that they tell of.
fn found(image: &Arc<SimDisk>) -> (Standing, u64) {
    let names = image.names();
    let mut tables: Vec<Lying> = names.iter().filter_map(|file| lying(image, file)).collect();
    tables.sort_by_key(|table| std::cmp::Reverse((table.id.epoch, table.id.ordinal)));
    let mut newest: BTreeMap<&[u8], &NameEntry> = BTreeMap::new();
    for (index, table) in tables.iter().enumerate() {
        for entry in &table.entries {
            let known = newest.get(&entry.name[..]).map_or(0, |known| known.commit);
            if entry.commit > known && !is_stale(&tables, index, &entry.name) {
                newest.insert(&entry.name, entry);
            }
        }
    }
    let last = newest.values().map(|entry| entry.commit).max().unwrap_or(0);
    let standing = |(name, entry): (&&[u8], &&NameEntry)| Some((name.to_vec(), entry.to?));
    (newest.iter().filter_map(standing).collect(), last)
}

fn builder() -> StoreBuilder {
    let builder = Store::builder().segment_bytes(16 << 10).pointer_segment_bytes(4 << 10);
    let builder = builder.append_buffer_bytes(1 << 10).reserve_bytes(0).table_bytes(4 << 10);
    let builder = builder.memtable_entries_max(1).level0_tables(1).level_ratio(2);
    builder.maintenance(Maintenance::Inline)
}

fn name(number: usize) -> String {
    format!("{number:04}{}", "-".repeat(300))
}

/// Sets and deletes names while tables cannot be made or removed now and then, readers hold old ones, and the
/// process dies. Returns how many tables could not be made, and how often tables were thinned.
fn live(seed: u64) -> (u64, u64) {
    let mut dice = Dice::new(seed);
    let (space, mut disk) = (*dice.one_of(&[20, 80]), SimDisk::new(seed));
    let mut after: Vec<Standing> = vec![Standing::new()];
    let (mut failed, mut thinned) = (0, 0);
    for _ in 0..3 {
        let builder = builder();
        let of_names = || Filter::any().tables(TableKind::Names);
        let removals = || of_names().operation(Operation::Remove);
        let mut removals_fail = dice.once_in(2);
        if removals_fail {
            disk.fail_when(removals(), Fault::Eio);
        }
        let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
        let digest = store.put(b"value").unwrap().digest;
        let mut readers: Vec<Pointers> = Vec::new();
        for step in 0..60 {
            removals_fail ^= dice.once_in(12);
            disk.heal();
            if removals_fail {
                disk.fail_when(removals(), Fault::Eio);
            }
            if dice.once_in(4) {
                let nth = 1 + dice.below(4) as u64;
                let made = of_names().operation(Operation::Create).from_nth(nth);
                disk.fail_when(made, Fault::Enospc);
            }
            let count = 1 + dice.below(8);
            let changes: BTreeMap<String, bool> =
                (0..count).map(|_| (name(dice.below(space)), dice.once_in(2))).collect();
            let (mut batch, mut standing) = (Batch::new(), after.last().unwrap().clone());
            for (name, is_set) in changes {
                if is_set {
                    batch = batch.set(&name, digest);
                    standing.insert(name.into_bytes(), digest);
                } else {
                    batch = batch.delete(&name);
                    standing.remove(name.as_bytes());
                }
            }
            let commit = match store.commit(batch) {
                Ok(commit) => commit,
                // No memtable that waits could be flushed.
                Err(Error::NoSpace { .. }) => continue,
                Err(error) => panic!("{}", told(&error)),
            };
            after.push(standing);
            assert_eq!(commit.0, after.len() as u64 - 1);
            if dice.once_in(10) {
                readers.push(store.pointers(..));
                readers.last_mut().unwrap().next();
            }
            if dice.once_in(10) && !readers.is_empty() {
                readers.swap_remove(dice.below(readers.len()));
            }
            failed += u64::from(dice.once_in(20) && store.compact().is_err());
            let state = *dice.one_of(&[CrashState::Everything, CrashState::Random(seed + step)]);
            let (standing, last) = found(&disk.after_crash(state));
            // Of what is newer the log tells, and deletions may have been dropped.
            let from = usize::try_from(last).unwrap();
            let is_right = after[from..].contains(&standing);
            assert!(is_right, "seed {seed}, {commit:?}: files tell of no commit from {last} on");
        }
        thinned += store.stats().names.thinning_count;
        disk.crash_now();
        disk = disk.after_crash(CrashState::Random(seed));
    }
    (failed, thinned)
}

#[test]
fn no_deleted_name_comes_back_and_none_is_lost_in_what_files_tell() {
    let lives: Vec<_> = (1..=8).map(live).collect();
    let (failed, thinned) = lives.iter().fold((0, 0), |sum, life| (sum.0 + life.0, sum.1 + life.1));
    assert!(failed > 8, "{failed} rewritings failed");
    assert!(thinned > 8, "{thinned} rewritings in place");
}

/// A life that dies before its `end`th change of the disk, perhaps between a table of names and the root that is
/// to name it; then one in which that table cannot be removed, memtables are larger, and every name goes.
/// Returns how many there were; `None` if the first life came to its end.
fn deleted_beside_a_table_that_nobody_names(end: u64) -> Option<usize> {
    let disk = SimDisk::new(1);
    disk.crash_at_mutation(end);
    let first_life = || -> pinstone::Result<()> {
        let store = builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>)?;
        let digest = store.put(b"value")?.digest;
        (0..40)
            .try_for_each(|number| store.commit(Batch::new().set(name(number), digest)).map(drop))
    };
    if first_life().is_ok() {
        return None;
    }
    let disk = disk.after_crash(CrashState::Everything);
    let removals = Filter::any().tables(TableKind::Names).operation(Operation::Remove);
    disk.fail_when(removals, Fault::Eio);
    let builder = builder().memtable_entries_max(50);
    let store = builder.open_on(Arc::clone(&disk) as Arc<dyn Disk>).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    let names: Vec<_> = store.pointers(..).map(|pointer| pointer.unwrap().0).collect();
    let mut deleted_at = BTreeMap::new();
    for name in &names {
        deleted_at.insert(name, store.commit(Batch::new().delete(name)).unwrap().0);
    }
    for number in 100..180 {
        store.commit(Batch::new().set(name(number), digest)).unwrap();
        // Where the files tell of commits after the deletion, the log of these is gone.
        let (standing, last) = found(&disk.after_crash(CrashState::Everything));
        let is_back =
            |(name, at): &(&&Bytes, &u64)| **at <= last && standing.contains_key(&name[..]);
        let back = deleted_at.iter().filter(|(name, at)| is_back(&(name, at))).count();
        assert_eq!(back, 0, "crash at {end}: names that were deleted are back");
    }
    Some(names.len())
}

#[test]
fn a_deletion_stays_while_a_table_that_nobody_names_may_have_the_name() {
    let most = (1..).map_while(deleted_beside_a_table_that_nobody_names).max();
    assert!(most > Some(30), "{most:?}");
}
