//! The names of one level's tables that a commit sees, forwards or backwards, table after table. A table of
//! level 0 is a run of its own.
//!
//! Of one name, versions stand newest first, all in one table. Forwards the first one that is not
//! newer than the commit is what it sees; backwards the last one.
//!
//! - L1: no table is entered that cannot hold names of the range, and none before it is needed.

use std::ops::Range;
use std::sync::Arc;

use pinstone_disk::Digest;

use crate::error::TableError;
use crate::levels::LEVELS_MAX;
use crate::name_scan::{Head, NameRange, NameSource, NameView, Stop};
use crate::open_levels::OpenLevels;
use crate::run::Names;
use crate::table::name_walk::Walk;
use crate::table::names::{NameTable, TableCursor};

/// Names of the tables of a level, or of one table of level 0.
#[derive(Debug)]
pub struct LevelScan {
    levels: Arc<OpenLevels<Names>>,
    level: u8,
    /// Tables yet to be entered.
    left: Range<usize>,
    /// In a table that was entered: forwards,
    walk: Option<Walk>,
    /// or backwards.
    cursor: Option<TableCursor>,
    range: NameRange,
    commit: u64,
    backwards: bool,
}

impl LevelScan {
    /// All that may hold names of `range` in these levels: of level 0 each table, of others the
    /// level. Costs a look at each table of level 0, and two binary searches a level.
    pub fn all(
        levels: &Arc<OpenLevels<Names>>,
        range: &NameRange,
        commit: u64,
        backwards: bool,
    ) -> Vec<Self> {
        let scan = |level, left| Self {
            levels: Arc::clone(levels),
            level,
            left,
            walk: None,
            cursor: None,
            range: range.clone(),
            commit,
            backwards,
        };
        let mut all = Vec::new();
        for level in 0..LEVELS_MAX {
            let metas = levels.levels().tables(level);
            if level == 0 {
                let holds = |index: &usize| {
                    metas[*index].last[..] >= range.from[..]
                        && range.is_before_end(&metas[*index].first)
                };
                all.extend((0..metas.len()).filter(holds).map(|index| scan(0, index..index + 1)));
            } else {
                let start = metas.partition_point(|meta| meta.last[..] < range.from[..]);
                let end = metas.partition_point(|meta| range.is_before_end(&meta.first));
                if start < end {
                    all.push(scan(level, start..end));
                }
            }
        }
        all
    }

    /// The next table.
    fn next_table(&mut self) -> Option<&Arc<NameTable>> {
        let index = if self.backwards { self.left.next_back()? } else { self.left.next()? };
        Some(self.levels.table_at(self.level, index))
    }

    /// Enters the next table backwards, at its last entry in the range. Says whether there was one.
    fn enter_last(&mut self) -> Result<bool, TableError> {
        while let Some(mut cursor) = self.next_table().map(NameTable::cursor) {
            match &self.range.until {
                Some(until) => drop(cursor.seek(until, u64::MAX)?),
                None => cursor.seek_end()?,
            }
            let is_on = cursor.back()?;
            self.cursor = Some(cursor);
            if is_on {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives name after name to `each`, until it says that it is enough. Says whether it did.
    #[inline]
    fn forward(
        &mut self,
        mut each: impl FnMut(&[u8], u64, Option<&Digest>) -> bool,
    ) -> Result<bool, TableError> {
        loop {
            if let Some(walk) = &mut self.walk
                && walk.give(self.commit, &mut each)?
            {
                return Ok(true);
            }
            let Some(table) = self.next_table().map(Arc::clone) else { return Ok(false) };
            self.walk = Some(Walk::new(&table, &self.range));
        }
    }

    /// The cursor stands before the names that were given: on the next one, or on none.
    #[inline]
    fn back(&mut self, head: &mut Head) -> Result<bool, TableError> {
        loop {
            let is_on = self.cursor.as_ref().is_some_and(|cursor| cursor.entry().is_some());
            if !is_on && !self.enter_last()? {
                return Ok(false);
            }
            let cursor = self.cursor.as_mut().expect("it was entered");
            if cursor.entry().is_some_and(|entry| *entry.name < self.range.from[..]) {
                return Ok(false);
            }
            let mut is_seen = false;
            let mut is_first = true;
            while let Some(entry) = cursor.entry()
                && (is_first || *entry.name == head.name[..])
            {
                if is_first {
                    head.set(entry.name, entry.commit, entry.to);
                    is_seen = entry.commit <= self.commit;
                } else if entry.commit <= self.commit {
                    // Newer than the ones before it, and seen.
                    (head.commit, head.to, is_seen) = (entry.commit, entry.to, true);
                }
                is_first = false;
                cursor.back()?;
            }
            if is_seen {
                return Ok(true);
            }
        }
    }
}

impl NameSource for LevelScan {
    fn next(&mut self, head: &mut Head) -> Result<bool, Stop> {
        if self.backwards {
            return Ok(self.back(head)?);
        }
        Ok(self.forward(|name, commit, to| {
            head.set(name, commit, to.copied());
            false
        })?)
    }

    #[inline]
    fn give<F>(&mut self, head: &mut Head, mut each: F) -> Result<bool, Stop>
    where
        F: FnMut(&[u8], u64, Option<&Digest>) -> bool,
    {
        if !self.backwards {
            return Ok(self.forward(each)?);
        }
        while self.back(head)? {
            if !each(&head.name, head.commit, head.to.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl NameView for OpenLevels<Names> {
    type Source = LevelScan;
    type Error = TableError;

    fn sources(
        self: &Arc<Self>,
        range: &NameRange,
        commit: u64,
        backwards: bool,
    ) -> Vec<LevelScan> {
        LevelScan::all(self, range, commit, backwards)
    }
}
