//! One simulated file, apart from its names: what the device holds, and what only memory holds.
//!
//! A file is sparse: sectors that were never written are zeros and take no memory. Sectors are
//! shared between disks and copied only when written, so copying a file costs its count of sectors.
//!
//! Three layers, the upper hiding the lower:
//!
//! 1. `pending`: all versions of a sector written since the last sync; the last one is visible.
//! 2. `claimed`: what a failed sync called clean without writing it. Visible until the caches are
//!    dropped, never written by a later sync, gone after a crash.
//! 3. `durable`: what the device holds.
//!
//! - N1: visible bytes beyond the visible length are zeros.
//! - N2: a sync makes durable what was written before it began, and nothing that was written since.
//! - N3: a crash changes no byte that was not written since the last sync that succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use super::crash::{Chooser, Fate};

/// What a device writes as a whole, if it does.
pub(super) const SECTOR_BYTES: usize = 512;
/// The longest file, short of which no sum of an offset and a length overflows.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 40;
const SECTOR: u64 = SECTOR_BYTES as u64;

pub(super) type Sector = Arc<[u8; SECTOR_BYTES]>;

/// The sector that a cut leaves: known by its address, so that it takes no space.
static ZEROS: LazyLock<Sector> = LazyLock::new(|| Arc::new([0; SECTOR_BYTES]));

/// What a sector became at some moment, and which of its bytes were written then.
#[derive(Clone, Debug)]
struct Version {
    sequence: u64,
    bytes: Sector,
    written: Range<usize>,
}

#[derive(Clone, Debug)]
struct Claimed {
    bytes: Sector,
    written: Vec<Range<usize>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    durable: BTreeMap<u64, Sector>,
    durable_len: u64,
    claimed: BTreeMap<u64, Claimed>,
    pending: BTreeMap<u64, Vec<Version>>,
    /// All lengths since the last sync, with the sequence that set them; the last one is visible.
    lengths: Vec<(u64, u64)>,
    /// The space reserved from the start of the file, written or not.
    reserved_len: u64,
}

impl Inode {
    /// A file whose bytes are all durable.
    pub(super) fn holding(bytes: &[u8]) -> Self {
        let mut inode = Self::default();
        inode.write(0, 0, bytes);
        inode.sync(0);
        inode
    }

    pub(super) fn len(&self) -> u64 {
        self.lengths.last().map_or(self.durable_len, |(_, len)| *len)
    }

    /// Nothing of it would be lost by a crash.
    pub(super) fn is_durable(&self) -> bool {
        self.pending.is_empty() && self.claimed.is_empty() && self.lengths.is_empty()
    }

    /// How many things a crash state chooses: sectors, and the length.
    pub(super) fn unsynced(&self) -> usize {
        self.pending.len() + usize::from(!self.lengths.is_empty())
    }

    /// Fills `buffer`, which holds zeros, with what is visible at `offset`.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) {
        if buffer.is_empty() {
            return;
        }
        let end = offset + buffer.len() as u64;
        let sectors = offset / SECTOR..=(end - 1) / SECTOR;
        let mut put = |index: u64, bytes: &[u8; SECTOR_BYTES]| {
            let start = index * SECTOR;
            let from = start.max(offset);
            let to = (start + SECTOR).min(end);
            buffer[small(from - offset)..small(to - offset)]
                .copy_from_slice(&bytes[small(from - start)..small(to - start)]);
        };
        for (index, bytes) in self.durable.range(sectors.clone()) {
            put(*index, bytes);
        }
        for (index, claimed) in self.claimed.range(sectors.clone()) {
            put(*index, &claimed.bytes);
        }
        for (index, versions) in self.pending.range(sectors) {
            put(*index, &last(versions).bytes);
        }
    }

    /// All that is visible.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; small(self.len())];
        self.read(0, &mut bytes);
        bytes
    }

    pub(super) fn write(&mut self, sequence: u64, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let from = small(at % SECTOR);
            let count = (SECTOR_BYTES - from).min(data.len() - done);
            self.write_sector(sequence, at / SECTOR, from, &data[done..done + count]);
            done += count;
        }
        if !data.is_empty() && end > self.len() {
            self.lengths.push((sequence, end));
        }
    }

    fn write_sector(&mut self, sequence: u64, index: u64, from: usize, data: &[u8]) {
        let written = from..from + data.len();
        let bytes = match <&[u8; SECTOR_BYTES]>::try_from(data) {
            Ok(whole) => Arc::new(*whole),
            Err(_) => {
                let mut bytes = self.visible(index).map_or([0; SECTOR_BYTES], |old| **old);
                bytes[written.clone()].copy_from_slice(data);
                Arc::new(bytes)
            }
        };
        self.pending.entry(index).or_default().push(Version { sequence, bytes, written });
    }

    /// Cuts or extends. What a cut takes away reads as zeros when the file grows again; so a cut
    /// counts as a write of zeros there.
    pub(super) fn set_len(&mut self, sequence: u64, len: u64) {
        if len == self.len() {
            return;
        }
        if len < self.len() {
            for index in self.sectors_from(len / SECTOR) {
                self.zero_sector_tail(sequence, index, small(len.saturating_sub(index * SECTOR)));
            }
            self.reserved_len = self.reserved_len.min(len);
        }
        self.lengths.push((sequence, len));
    }

    fn zero_sector_tail(&mut self, sequence: u64, index: u64, from: usize) {
        let Some(old) = self.visible(index) else { return };
        if old[from..].iter().all(|byte| *byte == 0) && !(from == 0 && self.holds(index)) {
            return;
        }
        let bytes = if from == 0 {
            Arc::clone(&ZEROS)
        } else {
            let mut bytes = **old;
            bytes[from..].fill(0);
            Arc::new(bytes)
        };
        let version = Version { sequence, bytes, written: from..SECTOR_BYTES };
        self.pending.entry(index).or_default().push(version);
    }

    /// Reserves space and extends; never shortens.
    pub(super) fn allocate(&mut self, sequence: u64, len: u64) {
        self.reserved_len = self.reserved_len.max(len);
        if len > self.len() {
            self.lengths.push((sequence, len));
        }
    }

    /// Makes durable what was written up to `sequence` (N2).
    pub(super) fn sync(&mut self, sequence: u64) {
        let lengths = take_until(&mut self.lengths, |(set, _)| *set <= sequence);
        if let Some(shortest) = lengths.iter().map(|(_, len)| *len).min()
            && shortest < self.durable_len
        {
            self.durable_len = shortest;
            self.cut_durable();
        }
        if let Some((_, len)) = lengths.last() {
            self.durable_len = *len;
        }
        let (durable, claimed) = (&mut self.durable, &mut self.claimed);
        self.pending.retain(|index, versions| {
            if let Some(version) = take_until(versions, |v| v.sequence <= sequence).pop() {
                claimed.remove(index);
                if Arc::ptr_eq(&version.bytes, &ZEROS) {
                    durable.remove(index);
                } else {
                    durable.insert(*index, version.bytes);
                }
            }
            !versions.is_empty()
        });
    }

    /// Calls clean, without writing it, what was written up to `sequence`. The length stays to be
    /// synced: it is metadata, and goes to the device by another way.
    pub(super) fn fail_sync(&mut self, sequence: u64) -> u64 {
        let claimed = &mut self.claimed;
        let mut count = 0;
        self.pending.retain(|index, versions| {
            let taken = take_until(versions, |v| v.sequence <= sequence);
            if let Some(newest) = taken.last() {
                count += 1;
                let bytes = Arc::clone(&newest.bytes);
                let before = claimed.remove(index).map_or(Vec::new(), |claimed| claimed.written);
                let since = taken.into_iter().map(|version| version.written);
                let written = before.into_iter().chain(since).collect();
                claimed.insert(*index, Claimed { bytes, written });
            }
            !versions.is_empty()
        });
        count
    }

    pub(super) fn has_claimed(&self) -> bool {
        !self.claimed.is_empty()
    }

    /// Forgets what a failed sync called clean; returns how many sectors that were.
    pub(super) fn drop_claimed(&mut self) -> u64 {
        std::mem::take(&mut self.claimed).len() as u64
    }

    /// Whether writing the sector takes no more space.
    pub(super) fn has_space_for(&self, index: u64) -> bool {
        index < self.reserved_len.div_ceil(SECTOR) || self.holds(index)
    }

    /// How many sectors of space it takes.
    pub(super) fn taken_sectors(&self) -> u64 {
        let reserved = self.reserved_len.div_ceil(SECTOR);
        let written = self.sectors_from(reserved).into_iter().filter(|index| self.holds(*index));
        reserved + written.count() as u64
    }

    /// How many sectors it would take with `len` bytes reserved.
    pub(super) fn taken_sectors_with(&self, len: u64) -> u64 {
        let reserved = self.reserved_len.max(len).div_ceil(SECTOR);
        let written = self.sectors_from(reserved).into_iter().filter(|index| self.holds(*index));
        reserved + written.count() as u64
    }

    /// Replaces the visible bytes from `offset` by `bytes`, on the device too.
    pub(super) fn patch(&mut self, offset: u64, bytes: &[u8]) {
        let mut old = vec![0; bytes.len()];
        self.read(offset, &mut old);
        for (at, byte) in
            (offset..).zip(bytes).filter(|(at, byte)| old[small(at - offset)] != **byte)
        {
            let index = at / SECTOR;
            let mut patched = self.visible(index).map_or([0; SECTOR_BYTES], |old| **old);
            patched[small(at % SECTOR)] = *byte;
            self.pending.remove(&index);
            self.claimed.remove(&index);
            self.durable.insert(index, Arc::new(patched));
        }
    }

    /// Some sector at or after `index`, or else any.
    pub(super) fn some_sector(&self, index: u64) -> Option<&Sector> {
        self.durable.range(index..).chain(self.durable.range(..)).next().map(|(_, bytes)| bytes)
    }

    /// The file after a crash, as `chooser` decides for each unsynced sector and for the length.
    pub(super) fn settle(&self, chooser: &mut Chooser<'_>) -> Self {
        let mut settled = Self { durable: self.durable.clone(), ..Self::default() };
        chooser.begin_file(self.pending.len());
        for (order, (index, versions)) in self.pending.iter().enumerate() {
            let fate = chooser.sector(order, versions.len());
            if let Some(bytes) = self.settled_sector(*index, versions, fate, chooser) {
                settled.durable.insert(*index, bytes);
            }
        }
        for (index, claimed) in &self.claimed {
            if !self.pending.contains_key(index) && chooser.claimed_is_zeroed() {
                let mut bytes = self.durable.get(index).map_or([0; SECTOR_BYTES], |old| **old);
                overwrite(&mut bytes, &ZEROS, claimed.written.iter());
                settled.durable.insert(*index, Arc::new(bytes));
            }
        }
        settled.durable_len = match self.lengths.is_empty() {
            true => self.durable_len,
            false => chooser.length(self.durable_len, self.lengths.iter().map(|(_, len)| *len)),
        };
        settled.reserved_len = self.reserved_len.min(settled.durable_len);
        settled.cut_durable();
        settled
    }

    fn settled_sector(
        &self,
        index: u64,
        versions: &[Version],
        fate: Fate,
        chooser: &mut Chooser<'_>,
    ) -> Option<Sector> {
        let old = self.durable.get(&index).unwrap_or(&ZEROS);
        let damaged = match fate {
            Fate::Old => return None,
            Fate::Version(which) => return Some(Arc::clone(&versions[which].bytes)),
            Fate::Zeros => **ZEROS,
            Fate::Garbage => chooser.garbage(old, &last(versions).bytes),
        };
        if chooser.whole_sectors() {
            return Some(Arc::new(damaged));
        }
        let claimed = self.claimed.get(&index).into_iter().flat_map(|claimed| &claimed.written);
        let mut bytes = **old;
        overwrite(&mut bytes, &damaged, versions.iter().map(|v| &v.written).chain(claimed));
        Some(Arc::new(bytes))
    }

    /// Makes N1 true of what is durable.
    fn cut_durable(&mut self) {
        self.durable.split_off(&self.durable_len.div_ceil(SECTOR));
        let tail = small(self.durable_len % SECTOR);
        if tail > 0
            && let Some(bytes) = self.durable.get_mut(&(self.durable_len / SECTOR))
            && bytes[tail..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(bytes)[tail..].fill(0);
        }
    }

    fn visible(&self, index: u64) -> Option<&Sector> {
        match self.pending.get(&index) {
            Some(versions) => Some(&last(versions).bytes),
            None => match self.claimed.get(&index) {
                Some(claimed) => Some(&claimed.bytes),
                None => self.durable.get(&index),
            },
        }
    }

    /// Whether the sector was written and not cut since.
    fn holds(&self, index: u64) -> bool {
        self.visible(index).is_some_and(|bytes| !Arc::ptr_eq(bytes, &ZEROS))
    }

    fn sectors_from(&self, index: u64) -> BTreeSet<u64> {
        let durable = self.durable.range(index..).map(|(index, _)| *index);
        let claimed = self.claimed.range(index..).map(|(index, _)| *index);
        let pending = self.pending.range(index..).map(|(index, _)| *index);
        durable.chain(claimed).chain(pending).collect()
    }
}

fn last(versions: &[Version]) -> &Version {
    versions.last().expect("a sector is pending only with a version")
}

/// Takes the first elements that fit; they are in order.
fn take_until<T>(all: &mut Vec<T>, fits: impl Fn(&T) -> bool) -> Vec<T> {
    let count = all.partition_point(fits);
    all.drain(..count).collect()
}

/// Takes over the bytes of `source` that stand in `ranges`.
fn overwrite<'a>(
    target: &mut [u8; SECTOR_BYTES],
    source: &[u8; SECTOR_BYTES],
    ranges: impl Iterator<Item = &'a Range<usize>>,
) {
    for range in ranges {
        target[range.clone()].copy_from_slice(&source[range.clone()]);
    }
}

/// A length or distance within a simulated file, which is in memory.
fn small(number: u64) -> usize {
    usize::try_from(number).expect("a simulated file fits the address space")
}
