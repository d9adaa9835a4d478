//! What a directory holds, and whether that is a store, or may become one. Changes nothing.

use std::collections::BTreeSet;
use std::path::Path;

use pinstone_compaction::TableId;
use pinstone_disk::{Disk, Epoch, FileName, LogKind, Ordinal};
use pinstone_wal::SegmentHeader;

use crate::error::{Error, Result};
use crate::options::Options;
use crate::state::root::{none_can_follow, read_current};

/// What the directory holds.
pub(super) struct Found {
    /// CURRENT's content, if there is one.
    pub(super) current: Option<SegmentHeader>,
    /// Every segment's file.
    pub(super) segments: BTreeSet<SegmentName>,
    /// Every table's file.
    pub(super) tables: BTreeSet<TableId>,
    /// There is a CURRENT that was not renamed.
    pub(super) current_temp: bool,
    /// There is a reserve.
    pub(super) reserve: bool,
}

/// A segment's file, by what its name says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) log: LogKind,
    pub(super) ordinal: Ordinal,
    pub(super) epoch: Epoch,
}

impl SegmentName {
    pub(super) fn file_name(self) -> FileName {
        let Self { log, ordinal, epoch } = self;
        FileName::Segment { log, ordinal, epoch }
    }
}

/// Looks at the directory without changing it, and refuses what is not a store, and not to become
/// one.
pub(super) fn look(disk: &dyn Disk, path: &Path, options: &Options) -> Result<Found> {
    let mut found = Found {
        current: None,
        segments: BTreeSet::new(),
        tables: BTreeSet::new(),
        current_temp: false,
        reserve: false,
    };
    let mut has_current = false;
    let mut stranger = None;
    for name in disk.list()? {
        match name.parse() {
            Ok(FileName::Lock) => {}
            Ok(FileName::Current) => has_current = true,
            Ok(FileName::CurrentTemp) => found.current_temp = true,
            Ok(FileName::Reserve) => found.reserve = true,
            Ok(name @ FileName::Segment { log, ordinal, epoch }) => {
                check_numbers(name, ordinal, epoch)?;
                found.segments.insert(SegmentName { log, ordinal, epoch });
            }
            Ok(name @ FileName::Table { table, ordinal, epoch }) => {
                check_numbers(name, ordinal, epoch)?;
                found.tables.insert(TableId { table, ordinal, epoch });
            }
            Err(_) => stranger = Some(name),
        }
    }
    if has_current {
        let current = read_current(disk)?;
        check_numbers(FileName::Current, current.ordinal, current.epoch)?;
        found.current = Some(current);
        return Ok(found);
    }
    let refused = |reason| Err(Error::NotAStore { path: path.to_owned(), reason });
    if let Some(stranger) = stranger {
        return refused(format!("it holds other files, such as {stranger:?}"));
    }
    // A creation that was interrupted leaves a root log at most: other segments come after CURRENT.
    let segment = found.segments.iter().find(|name| name.log != LogKind::Root);
    let table = found.tables.first().map(TableId::file_name);
    let reserve = found.reserve.then_some(FileName::Reserve);
    if let Some(name) = segment.map(|name| name.file_name()).or(table).or(reserve) {
        return refused(format!("it holds {name} of a store, but no CURRENT"));
    }
    if options.create { Ok(found) } else { Err(Error::StoreAbsent { path: path.to_owned() }) }
}

/// Each open takes an epoch greater than all, and a root log's ordinal: there must be one.
fn check_numbers(name: FileName, ordinal: Ordinal, epoch: Epoch) -> Result<()> {
    match (ordinal.next(), epoch.next()) {
        (Some(_), Some(_)) => Ok(()),
        _ => Err(none_can_follow(name).into()),
    }
}
