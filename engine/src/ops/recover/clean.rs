//! Removing what the root does not name: what unfinished recoveries left, and what was replaced.

use std::collections::BTreeSet;

use pinstone_compaction::TableId;
use pinstone_compaction::lingering::Lingering;
use pinstone_disk::{Disk, DiskExt, LogKind, OpenMode};

use super::look::{Found, SegmentName};
use super::read::Before;
use crate::error::Result;
use crate::state::root::{RootState, turn_current};
use crate::stats::Recovery;

/// Gives back the space of what recoveries left that did not complete. One name of the highest
/// epoch stays until CURRENT is turned, so that the epoch is not used again (R3). All of it is
/// durably gone or empty before CURRENT is turned (creating the root log syncs the names): under a
/// CURRENT of a later epoch it would testify, of bytes that these recoveries read and a crash took.
pub(super) fn remove_leftovers(
    disk: &dyn Disk,
    found: &Found,
    before: &Before,
    recovery: &mut Recovery,
) -> Result<()> {
    let ours = || found.segments.difference(&before.strangers);
    let leftovers = || ours().filter(|name| Some(name.epoch) > before.epoch());
    let kept = leftovers().max_by_key(|name| name.epoch);
    for name in leftovers() {
        if Some(name) == kept {
            let file = disk.open(name.file_name(), OpenMode::Write)?;
            file.set_len(0)?;
            disk.sync(&file)?;
        } else {
            disk.remove(name.file_name())?;
            recovery.files_removed += 1;
        }
    }
    Ok(())
}

/// The store's tables that the root does not name.
pub(super) fn unnamed_tables(
    found: &Found,
    before: &Before,
    state: &RootState,
) -> BTreeSet<TableId> {
    &(&found.tables - &before.strange_tables) - &state.table_ids()
}

/// Removes root logs that are older than the one in force. A recovery that was ended after it had turned CURRENT, and
/// before it had removed the older one, may have left no space but what that takes: it goes, once CURRENT is durably
/// what it is.
pub(super) fn remove_replaced(
    disk: &dyn Disk,
    found: &Found,
    before: &Before,
    recovery: &mut Recovery,
) -> Result<()> {
    let Some(current) = before.root_header() else { return Ok(()) };
    let replaced = |name: &&SegmentName| {
        let SegmentName { log, ordinal, epoch } = **name;
        log == LogKind::Root && (epoch, ordinal) < (current.epoch, current.ordinal)
    };
    let ours = found.segments.difference(&before.strangers);
    let replaced: Vec<_> = ours.filter(replaced).collect();
    if !replaced.is_empty() {
        // Anew: syncing names again after a sync that failed would prove nothing (D3).
        turn_current(disk, current)?;
    }
    for name in replaced {
        disk.remove(name.file_name())?;
        recovery.files_removed += 1;
    }
    Ok(())
}

/// Removes every file that the new root does not name. What cannot be removed now is tried again
/// at the next open: it takes room, and nothing else. Returns the tables that could not be removed.
pub(super) fn remove_unnamed(
    disk: &dyn Disk,
    found: &Found,
    before: &Before,
    state: &RootState,
    recovery: &mut Recovery,
) -> Result<Lingering> {
    for name in &before.strangers {
        tracing::warn!(file = %name.file_name(), "a file of another store lies among this one's");
    }
    for &name in found.segments.difference(&before.strangers) {
        let SegmentName { log, ordinal, epoch } = name;
        if log != LogKind::Root && state.names_segment(log, ordinal, epoch) {
            continue;
        }
        match disk.remove(name.file_name()) {
            Ok(()) => recovery.files_removed += 1,
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(%error, "a file that is not needed stays"),
        }
    }
    for id in &before.strange_tables {
        tracing::warn!(file = %id.file_name(), "a table of another store lies among this one's");
    }
    let mut lingering = Lingering::default();
    let mut tables_removed = 0;
    for id in unnamed_tables(found, before, state) {
        match disk.remove(id.file_name()) {
            Ok(()) => tables_removed += 1,
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::warn!(%error, "a file that is not needed stays");
                lingering.add_unknown(id);
            }
        }
    }
    recovery.files_removed += tables_removed;
    // Segments may come back with a crash, and the next open removes them again. Of tables it must be
    // known: those that replace them say so for as long as their files may be there.
    if tables_removed > 0 {
        // A failed sync is no warning: what a later one says would mean nothing (P6).
        disk.sync_dir()?;
    }
    Ok(lingering)
}
