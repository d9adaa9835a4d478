//! Looking one name up in a block.
//!
//! 1. Mostly the newest version is wanted of a name that is there. `NameTags` have a byte of each name's
//!    hash, one after the other, and where each entry begins: few entries have the byte that is sought.
//! 2. Whether one of these is the name is seen from its end: what stands with it first, then what it shares
//!    with the entries before it, where that stands.
//! 3. What is not found so is looked for by its place: the run by bisection, then entry after entry. So is a
//!    version older than the newest in the block.
//!
//! Tags are made when a block is first asked: scans and merges do without.
//!
//! - T1: equal names have equal tags. So the first entry that has the name has its newest version.
//! - T2: strangers choose names: tags are of the hash that filters take, under the table's seed.

use pinstone_disk::{DIGEST_BYTES, Digest};

use crate::table::filter::name_key;
use crate::table::name_block::{Block, DELETED, Head, RUN_ENTRIES, equal_bytes};

/// What a block has of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A version: its commit, and where it points; `None` if that deleted the name.
    Version(u64, Option<Digest>),
    /// None that is seen: what follows is another name's.
    Nothing,
    /// All that it has is before: if there is one, it is in the next block.
    End,
}

/// A name that is looked for, and its hash.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    name: &'a [u8],
    seed: u64,
    key: u64,
}

impl<'a> Sought<'a> {
    /// Hashes the name with the seed of the table that is asked.
    pub fn new(name: &'a [u8], seed: u64) -> Self {
        Self { name, seed, key: name_key(name, seed) }
    }

    /// Its key in the table's filters.
    pub fn key(&self) -> u64 {
        self.key
    }
}

/// A byte of each name's hash, and where its entry begins.
#[derive(Debug)]
pub(super) struct NameTags {
    tags: Box<[u8]>,
    /// Counted from where its run begins: a run is shorter than 64 KiB.
    starts: Box<[u16]>,
}

impl NameTags {
    /// Bytes of memory for each entry.
    pub(super) const ENTRY_BYTES: usize = 3;

    fn new(block: &Block, seed: u64) -> Self {
        let capacity = block.entry_count();
        let (mut tags, mut starts) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let (mut name, mut run_offset) = (Vec::new(), 0);
        let mut offset = block.run_offset(0);
        while let Some(entry) = block.stored(offset) {
            if tags.len().is_multiple_of(RUN_ENTRIES) {
                run_offset = offset;
            }
            name.truncate(entry.shared_bytes);
            name.extend_from_slice(entry.rest);
            tags.push(tag(name_key(&name, seed)));
            let start = u16::try_from(offset - run_offset);
            starts.push(start.expect("sixteen names make a run"));
            offset = entry.end;
        }
        Self { tags: tags.into(), starts: starts.into() }
    }
}

impl Block {
    /// The newest version of a name that is not newer than `commit`. No name is put together, and nothing
    /// allocated but the tags, once.
    pub fn find(&self, sought: &Sought<'_>, commit: u64) -> Found {
        match self.newest(sought) {
            Some((newest, to)) if newest <= commit => Found::Version(newest, to),
            _ => self.find_by_place(sought.name, commit),
        }
    }

    /// The newest version of a name that the block has, if its tag leads to one.
    #[inline]
    fn newest(&self, sought: &Sought<'_>) -> Option<(u64, Option<Digest>)> {
        let tags = self.tags.get_or_init(|| NameTags::new(self, sought.seed));
        // T1: the first one.
        memchr::memchr_iter(tag(sought.key), &tags.tags)
            .find_map(|index| self.version_of(sought.name, tags, index))
    }

    /// The entry with this index, if it is a version of the name.
    #[inline]
    fn version_of(
        &self,
        name: &[u8],
        tags: &NameTags,
        index: usize,
    ) -> Option<(u64, Option<Digest>)> {
        let run = index / RUN_ENTRIES;
        let entries = &self.entries()[self.run_offset(run)..];
        let starts = &tags.starts[run * RUN_ENTRIES..=index];
        let (last, before) = starts.split_last().expect("an entry is of a run");
        let entry = Head::read(entries, usize::from(*last));
        if entry.shared_bytes + entry.rest_bytes != name.len() {
            return None;
        }
        let rest_end = entry.rest_at + entry.rest_bytes;
        let mut shared_bytes = entry.shared_bytes;
        if entries[entry.rest_at..rest_end] != name[shared_bytes..] {
            return None;
        }
        // What it shares with the entry before stands there, but for what that shares in its turn.
        for start in before.iter().rev() {
            if shared_bytes == 0 {
                break;
            }
            let head = Head::read(entries, usize::from(*start));
            if let Some(bytes) = name[..shared_bytes].get(head.shared_bytes..) {
                if !entries[head.rest_at..].starts_with(bytes) {
                    return None;
                }
                shared_bytes = head.shared_bytes;
            }
        }
        let digest = entries[rest_end..].first_chunk().filter(|_| entry.kind != DELETED);
        Some((entry.commit, digest.copied().map(Digest::from_bytes)))
    }

    /// The same, looked for by comparing: each entry from where it may differ. Of the name before it is known
    /// how far it agrees with `name`, and of itself, how far it agrees with the name before.
    fn find_by_place(&self, name: &[u8], commit: u64) -> Found {
        let bytes = self.entries();
        let mut next_offset = self.run_offset(self.run_of(name, commit));
        let mut equal = 0;
        while next_offset < bytes.len() {
            let head = Head::read(bytes, next_offset);
            let rest_end = head.rest_at + head.rest_bytes;
            next_offset = rest_end + if head.kind == DELETED { 0 } else { DIGEST_BYTES };
            // What shares more than was equal differs where the name before did, and so is before, too.
            if head.shared_bytes > equal {
                continue;
            }
            let (rest, left) = (&bytes[head.rest_at..rest_end], &name[head.shared_bytes..]);
            let more = equal_bytes(rest, left);
            match (rest.get(more), left.get(more)) {
                (None, None) if head.commit <= commit => {
                    let digest = bytes[rest_end..next_offset].first_chunk();
                    return Found::Version(head.commit, digest.copied().map(Digest::from_bytes));
                }
                (next, sought) if next > sought => return Found::Nothing,
                _ => {}
            }
            equal = head.shared_bytes + more;
        }
        Found::End
    }
}

fn tag(key: u64) -> u8 {
    key.to_le_bytes()[0]
}
