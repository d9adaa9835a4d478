//! What leads to the blocks of a table of names.
//!
//! 1. Each block has a key: as few of its first name's bytes as tell it from the block before, or, where a
//!    name's versions go over several blocks, the name and a commit. The last block whose key is not above
//!    what is looked for is the one to look in.
//! 2. Names of one table often begin alike. What all keys but the first begin with stands in memory once; the
//!    first key has one byte of a name.
//! 3. Of what is left of each key the first eight bytes stand in an array of numbers: where these differ,
//!    keys are compared by them alone.
//!
//! - K1: a directory that was read and one that was made again from the blocks have the same keys.
//! - K2: keys whose first eight bytes differ are in the order of these, taken as a number.

use std::cmp::Ordering;
use std::ops::Range;

use pinstone_disk::codec::{Malformed, Reader, size};

use crate::table::container::{Resident, UNITS_START};
use crate::table::filter_set::FilterSet;
use crate::table::name_block::{NAME_BYTES_MAX, equal_bytes, order};
use crate::table::names::FILTER_BLOCKS;

/// What leads to the blocks and to their filters.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Where each block ends in the file.
    pub(crate) ends: Box<[u64]>,
    keys: FoundKeys,
    pub(crate) filters: FilterSet,
}

impl Resident for Directory {
    fn resident_bytes(&self) -> usize {
        8 * self.ends.len() + self.keys.resident_bytes() + 4 * self.filters.len()
    }
}

impl Directory {
    /// Of blocks that end at `ends`, with these keys.
    pub(crate) fn new(ends: Vec<u64>, keys: &Keys, filters: FilterSet) -> Self {
        Self { ends: ends.into(), keys: FoundKeys::new(keys), filters }
    }

    pub(crate) fn range(&self, block: usize) -> Range<u64> {
        let start = if block == 0 { UNITS_START } else { self.ends[block - 1] };
        start..self.ends[block]
    }

    /// The block to look in for (`name`, `commit`); `None` if it stands before all of them.
    pub(crate) fn block_of(&self, name: &[u8], commit: u64) -> Option<usize> {
        self.keys.find(name, commit)
    }

    /// Decodes a directory whose checksum agrees, of blocks that end at `units_end`.
    pub(crate) fn decode(
        bytes: &[u8],
        units_end: u64,
        filters_bytes: u64,
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        reader.u32("a checksum")?;
        let count = size(reader.u32("a count of blocks")?.into());
        let filter_count = reader.u32("a count of filters")?;
        // A block takes three bytes at least.
        let capacity = count.min(reader.left() / 3);
        let (mut ends, mut keys) = (Vec::with_capacity(capacity), Keys::default());
        let mut end = UNITS_START;
        for index in 0..count {
            let malformed = reader.clone();
            let malformed = |what| Err(malformed.malformed(what));
            let len = reader.varint("a block's length")?;
            let commit = reader.varint("a commit's number")?.wrapping_sub(1);
            let name_bytes = reader.varint_usize("a key's length")?;
            if name_bytes > NAME_BYTES_MAX {
                return malformed("a key no longer than names are");
            }
            let name = reader.take(name_bytes, "a key")?;
            end = match end.checked_add(len) {
                Some(end) if len > 0 && end <= units_end => end,
                _ => return malformed("a block within the table"),
            };
            let in_order = index == 0
                || order((keys.name(index - 1), keys.commits[index - 1]), (name, commit)).is_lt();
            if !in_order {
                return malformed("a key that comes after the one before");
            }
            ends.push(end);
            keys.push(name, commit);
        }
        if end != units_end {
            return Err(reader.malformed("blocks up to the directory"));
        }
        let part_count = count.div_ceil(FILTER_BLOCKS);
        let filters = FilterSet::decode(&mut reader, filter_count, part_count, filters_bytes)?;
        Ok(Self::new(ends, &keys, filters))
    }
}

/// The keys of blocks, as they are gathered: names, shortened, each with a commit.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    names: Vec<u8>,
    /// Where each name ends.
    ends: Vec<u32>,
    commits: Vec<u64>,
}

impl Keys {
    /// Adds the key of a block whose first version is that of `name` by `commit`; `last` is the name before
    /// it, empty before the first of all.
    pub(crate) fn push_block(&mut self, last: &[u8], name: &[u8], commit: u64) {
        if *name == *last {
            return self.push(name, commit);
        }
        self.push(&name[..name.len().min(equal_bytes(name, last) + 1)], u64::MAX);
    }

    fn push(&mut self, name: &[u8], commit: u64) {
        self.names.extend_from_slice(name);
        let end = u32::try_from(self.names.len()).expect("a table's keys have less than 4 GiB");
        self.ends.push(end);
        self.commits.push(commit);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The name of one, and its commit; `u64::MAX` unless the block begins within a name's versions.
    pub(crate) fn get(&self, index: usize) -> (&[u8], u64) {
        (self.name(index), self.commits[index])
    }

    fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.names[start as usize..self.ends[index] as usize]
    }

    /// Bytes of memory that they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.names.capacity() + 4 * self.ends.capacity() + 8 * self.commits.capacity()
    }
}

/// The keys of blocks, as they are looked up.
#[derive(Debug)]
struct FoundKeys {
    /// What all names but the first begin with.
    shared: Box<[u8]>,
    /// The first name; of each other, what stands after that.
    rests: Box<[u8]>,
    /// Where each of these ends.
    ends: Box<[u32]>,
    /// What each of these begins with (K2).
    beginnings: Box<[u64]>,
    /// Of blocks that begin within a name's versions: which one, and its key's commit.
    commits: Box<[(u32, u64)]>,
}

impl FoundKeys {
    fn new(keys: &Keys) -> Self {
        let others = || (1..keys.len()).map(|index| keys.name(index));
        let first_other = others().next().unwrap_or(&[]);
        let is_within_versions = |(_, commit): &(u32, u64)| *commit != u64::MAX;
        let shared_bytes = others().map(|name| equal_bytes(first_other, name)).min().unwrap_or(0);
        let mut rests = Vec::with_capacity(keys.names.len() - shared_bytes * others().count());
        let mut ends = Vec::with_capacity(keys.len());
        let mut beginnings = Vec::with_capacity(keys.len());
        for index in 0..keys.len() {
            let left_out = if index == 0 { 0 } else { shared_bytes };
            let rest = &keys.name(index)[left_out..];
            rests.extend_from_slice(rest);
            beginnings.push(beginning(rest));
            ends.push(u32::try_from(rests.len()).expect("they are no longer than the names"));
        }
        Self {
            shared: first_other[..shared_bytes].into(),
            rests: rests.into(),
            ends: ends.into(),
            beginnings: beginnings.into(),
            commits: (0..).zip(keys.commits.iter().copied()).filter(is_within_versions).collect(),
        }
    }

    fn resident_bytes(&self) -> usize {
        self.shared.len()
            + self.rests.len()
            + (4 + 8) * self.ends.len()
            + size_of::<(u32, u64)>() * self.commits.len()
    }

    fn rest(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.rests[start as usize..self.ends[index] as usize]
    }

    fn commit(&self, index: usize) -> u64 {
        let at = self.commits.binary_search_by_key(&index, |(block, _)| *block as usize);
        at.map_or(u64::MAX, |at| self.commits[at].1)
    }

    /// The last block whose key is not above (`name`, `commit`), if any.
    fn find(&self, name: &[u8], commit: u64) -> Option<usize> {
        let is_above = |index: usize, rest: &[u8]| {
            self.rest(index).cmp(rest).then_with(|| commit.cmp(&self.commit(index))).is_gt()
        };
        if self.ends.is_empty() || is_above(0, name) {
            return None;
        }
        let (shared, rest) = name.split_at(name.len().min(self.shared.len()));
        match shared.cmp(&self.shared) {
            Ordering::Less => return Some(0),
            Ordering::Greater => return Some(self.ends.len() - 1),
            Ordering::Equal => {}
        }
        let sought = beginning(rest);
        let others = &self.beginnings[1..];
        let mut low = 1 + others.partition_point(|beginning| *beginning < sought);
        // Most often no key begins alike.
        let mut high = match self.beginnings.get(low) {
            Some(beginning) if *beginning == sought => {
                low + self.beginnings[low..].partition_point(|beginning| *beginning == sought)
            }
            _ => low,
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if is_above(middle, rest) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(low - 1)
    }
}

/// The first eight bytes as a number, zeros after the last: of two names whose beginnings differ, the lesser
/// one has the lesser beginning (K2).
fn beginning(name: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = name.len().min(first.len());
    first[..len].copy_from_slice(&name[..len]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_the_last_key_that_is_not_above() {
        let rests: &[&[u8]] = &[
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"a\0",
            b"a\0\0\0\0\0\0\0",
            b"a\0\0\0\0\0\0\0\0",
            b"abcdefg",
            b"abcdefgh",
            b"abcdefgh\0",
            b"abcdefghi",
            b"abcdefghij",
            b"abcdefgi",
            b"b",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for shared in [&b""[..], b"\0", b"user/"] {
            let names: Vec<Vec<u8>> = rests
                .iter()
                .map(|rest| [shared, rest].concat())
                .filter(|n| !n.is_empty())
                .collect();
            // A block more where a name's versions go on; and each key in turn left out.
            for left_out in 0..=names.len() {
                let mut keys = Keys::default();
                let mut kept: Vec<(&[u8], u64)> = Vec::new();
                for (index, name) in names.iter().enumerate().filter(|(at, _)| *at != left_out) {
                    kept.push((name, u64::MAX));
                    if index % 3 == 0 {
                        kept.push((name, 9));
                        kept.push((name, 5));
                    }
                }
                kept.iter().for_each(|(name, commit)| keys.push(name, *commit));
                let found = FoundKeys::new(&keys);
                let sought =
                    names.iter().map(|name| &name[..]).chain([&b"\xff"[..], b"u", b"userz"]);
                for (name, commit) in
                    sought.flat_map(|name| [u64::MAX, 10, 9, 6, 5, 1].map(|commit| (name, commit)))
                {
                    let last = kept.iter().rposition(|key| order(*key, (name, commit)).is_le());
                    assert_eq!(found.find(name, commit), last, "{name:?} {commit}");
                }
            }
        }
    }
}
