//! Going forwards through a table of names, as a scan does.
//!
//! Each name is put together in one place, from what it shares with the one before: only the rest is copied.
//! Blocks are read through the cache, each when it is needed.
//!
//! - W1: of one name the newest version is given that the commit sees, and no other.
//! - W2: only in the last block that may have names of the range are names behind it.

use std::sync::Arc;

use pinstone_disk::Digest;

use crate::error::TableError;
use crate::name_scan::NameRange;
use crate::table::name_block::Block;
use crate::table::names::NameTable;

/// A place in a table, between two entries. Holds what it reads.
#[derive(Debug)]
pub(crate) struct Walk {
    table: Arc<NameTable>,
    /// Names before this one are not given.
    from: Option<Vec<u8>>,
    /// Nor are this one and those behind it.
    until: Option<Vec<u8>>,
    /// None before the first entry, until it moves.
    block: Option<Arc<Block>>,
    next_block: usize,
    /// It has entered the last block that may have names of the range (W2).
    is_in_last: bool,
    next_offset: usize,
    /// The name of the last entry; empty before the first.
    name: Vec<u8>,
    /// A version of it was given (W1).
    is_given: bool,
}

impl Walk {
    /// Before the first name of `range`. Reads nothing yet.
    pub(crate) fn new(table: &Arc<NameTable>, range: &NameRange) -> Self {
        Self {
            table: Arc::clone(table),
            from: Some(range.from.clone()),
            until: range.until.clone(),
            block: None,
            next_block: 0,
            is_in_last: false,
            next_offset: 0,
            name: Vec::new(),
            is_given: false,
        }
    }

    /// Gives name after name of the range to `each`, as `commit` sees it, until `each` says that it is enough. Says
    /// whether it did; else the table has no more.
    ///
    /// # Errors
    /// Damage, or whatever the machine says.
    #[inline]
    pub(crate) fn give(
        &mut self,
        commit: u64,
        mut each: impl FnMut(&[u8], u64, Option<&Digest>) -> bool,
    ) -> Result<bool, TableError> {
        loop {
            if let Some(block) = &self.block {
                let until = self.until.as_deref().filter(|_| self.is_in_last);
                while let Some(entry) = block.stored(self.next_offset) {
                    self.next_offset = entry.end;
                    // N1 of blocks: a name that shares all of another and adds nothing is the same one.
                    let is_same = match entry.shared_bytes {
                        0 => *entry.rest == self.name[..],
                        _ => entry.rest.is_empty(),
                    };
                    if !is_same {
                        self.name.truncate(entry.shared_bytes);
                        self.name.extend_from_slice(entry.rest);
                        self.is_given = false;
                    }
                    if self.is_given || entry.commit > commit {
                        continue;
                    }
                    if let Some(from) = &self.from {
                        if self.name < *from {
                            continue;
                        }
                        self.from = None;
                    }
                    if until.is_some_and(|until| self.name[..] >= *until) {
                        return Ok(false);
                    }
                    self.is_given = true;
                    if !each(&self.name, entry.commit, entry.to.as_ref()) {
                        return Ok(true);
                    }
                }
            }
            if !self.enter_next()? {
                return Ok(false);
            }
        }
    }

    /// Enters the next block, the first one where the names begin that are to be given. Says whether there was
    /// one.
    fn enter_next(&mut self) -> Result<bool, TableError> {
        let directory = self.table.directory()?;
        let sought = self.from.as_deref().filter(|_| self.block.is_none());
        if let Some(from) = sought {
            self.next_block = directory.block_of(from, u64::MAX).unwrap_or(0);
        } else if self.is_in_last {
            return Ok(false);
        }
        let last_block = match &self.until {
            // Names behind it may have the key of the next block.
            Some(until) => directory.block_of(until, u64::MAX).unwrap_or(0),
            None => directory.ends.len() - 1,
        };
        self.is_in_last = self.next_block >= last_block;
        let block = self.table.block(directory, self.next_block)?;
        self.next_offset = block.start_for(sought.unwrap_or(&[]));
        self.block = Some(block);
        self.next_block += 1;
        Ok(true)
    }
}
