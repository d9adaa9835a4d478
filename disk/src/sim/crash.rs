//! What a crash leaves: decides for each unsynced thing whether it is kept, lost or damaged.
//!
//! The things are numbered from 0: first the changes of names, in order, then for each file its
//! sectors and its length. [`CrashState`] says how to decide.
//!
//! Independent coins for hundreds of sectors would nearly always leave a mix in which nothing is
//! whole. So a random state first draws a habit for each file (all kept, all lost, kept up to a
//! point, or independent with some probability) and one for the names, and then decides by it.

use super::counters::SimCounters;
use super::inode::{SECTOR_BYTES, Sector};
use super::random::Random;

/// Which of the states that a crash could leave. Unsynced things are numbered from 0 up to
/// [`SimDisk::unsynced`](super::SimDisk::unsynced): changes of names first, then each file's sectors and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashState {
    /// All that was unsynced is lost.
    Nothing,
    /// All is kept, but for what a failed sync called clean.
    Everything,
    /// All is kept but this one.
    OneMissing(usize),
    /// All is lost but this one.
    OneAlone(usize),
    /// Each is kept, lost or damaged, as this seed says.
    Random(u64),
}

/// What becomes of an unsynced sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// What the device held before.
    Old,
    /// One of the versions written since, by its order.
    Version(usize),
    /// Zeros where it was written.
    Zeros,
    /// Anything where it was written.
    Garbage,
}

/// What becomes of a change of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameFate {
    Lost,
    Kept,
    /// A rename that left the old name too.
    Half,
}

/// How a file's sectors fare in a random state.
#[derive(Clone, Copy, Debug)]
enum Habit {
    AllKept,
    AllLost,
    /// The sectors before this one, in order of their place, are kept; it itself is anything.
    KeptBefore(usize),
    /// Each is kept so many times of 16.
    Independent(u64),
}

/// Draws bytes that may lie on a device: some other sector of it.
pub(super) type Stale<'a> = &'a dyn Fn(&mut Random) -> Option<Sector>;

pub(super) struct Chooser<'a> {
    state: CrashState,
    /// The number of the next thing.
    next: usize,
    random: Random,
    habit: Habit,
    names_kept_of_4: u64,
    whole_sectors: bool,
    stale: Stale<'a>,
    pub(super) counters: SimCounters,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(
        state: CrashState,
        disk_seed: u64,
        whole_sectors: bool,
        stale: Stale<'a>,
    ) -> Self {
        let seed = if let CrashState::Random(seed) = state { seed } else { 0 };
        let mut random = Random::derived(disk_seed, seed);
        let names_kept_of_4 = random.below(5);
        let habit = Habit::AllKept;
        let counters = SimCounters::default();
        Self { state, next: 0, random, habit, names_kept_of_4, whole_sectors, stale, counters }
    }

    pub(super) fn whole_sectors(&self) -> bool {
        self.whole_sectors
    }

    /// Passes over the things of a file that no name leads to any more.
    pub(super) fn skip(&mut self, count: usize) {
        self.next += count;
    }

    pub(super) fn name(&mut self, is_rename: bool) -> NameFate {
        let kept = match self.fixed() {
            Some(kept) => kept,
            None => self.random.chance(self.names_kept_of_4, 4),
        };
        if !kept {
            self.counters.names_lost += 1;
            return NameFate::Lost;
        }
        self.counters.names_kept += 1;
        if is_rename && self.is_random() && self.random.chance(1, 4) {
            self.counters.renames_halved += 1;
            return NameFate::Half;
        }
        NameFate::Kept
    }

    pub(super) fn begin_file(&mut self, sector_count: usize) {
        if !self.is_random() {
            return;
        }
        self.habit = match self.random.below(8) {
            0 | 1 => Habit::AllKept,
            2 => Habit::AllLost,
            3 | 4 if sector_count > 0 => Habit::KeptBefore(self.random.index(sector_count)),
            5 => Habit::Independent(1),
            6 => Habit::Independent(15),
            _ => Habit::Independent(8),
        };
    }

    /// Decides for the file's sector number `order`, of which there are `version_count` versions.
    pub(super) fn sector(&mut self, order: usize, version_count: usize) -> Fate {
        let newest = Fate::Version(version_count - 1);
        let fate = match (self.fixed(), self.habit) {
            (Some(true), _) | (None, Habit::AllKept) => newest,
            (Some(false), _) | (None, Habit::AllLost) => Fate::Old,
            (None, Habit::KeptBefore(point)) if order < point => newest,
            (None, Habit::KeptBefore(point)) if order > point => Fate::Old,
            (None, Habit::KeptBefore(_)) => self.any_fate(version_count),
            (None, Habit::Independent(kept)) if self.random.chance(kept, 16) => newest,
            (None, Habit::Independent(_)) => self.lost_fate(version_count),
        };
        let counter = match fate {
            Fate::Old => &mut self.counters.sectors_old,
            Fate::Zeros => &mut self.counters.sectors_zero,
            Fate::Garbage => &mut self.counters.sectors_garbage,
            fate if fate == newest => &mut self.counters.sectors_new,
            Fate::Version(_) => &mut self.counters.sectors_between,
        };
        *counter += 1;
        fate
    }

    fn any_fate(&mut self, version_count: usize) -> Fate {
        match self.random.chance(1, 4) {
            true => Fate::Version(version_count - 1),
            false => self.lost_fate(version_count),
        }
    }

    fn lost_fate(&mut self, version_count: usize) -> Fate {
        match self.random.below(8) {
            0 | 1 => Fate::Zeros,
            2 => Fate::Garbage,
            3 | 4 if version_count > 1 => Fate::Version(self.random.index(version_count - 1)),
            _ => Fate::Old,
        }
    }

    /// Whether a sector that a failed sync called clean is now zeros instead of old.
    pub(super) fn claimed_is_zeroed(&mut self) -> bool {
        self.counters.sectors_forgotten += 1;
        self.is_random() && self.random.chance(1, 4)
    }

    /// Decides the length among the old one, those set since (at least one), and what lies between.
    pub(super) fn length(&mut self, old: u64, since: impl Iterator<Item = u64>) -> u64 {
        let since: Vec<u64> = since.collect();
        let newest = *since.last().expect("the caller has at least one");
        let length = match self.fixed() {
            Some(true) => newest,
            Some(false) => old,
            None => match self.random.below(8) {
                0..=3 => newest,
                4 | 5 => old,
                6 => since[self.random.index(since.len())],
                _ => self.between(old, newest),
            },
        };
        let counter = match length {
            length if length == newest => &mut self.counters.lengths_new,
            length if length == old => &mut self.counters.lengths_old,
            _ => &mut self.counters.lengths_between,
        };
        *counter += 1;
        length
    }

    /// A length that growing or cutting by sectors passes through.
    fn between(&mut self, old: u64, newest: u64) -> u64 {
        let sector = SECTOR_BYTES as u64;
        let (low, high) = (old.min(newest), old.max(newest));
        (low + self.random.below(high - low + 1)).next_multiple_of(sector).min(high)
    }

    /// What may stand in a sector that held `old` and was being overwritten by `new`: a mix of
    /// both, what another sector holds, or noise.
    pub(super) fn garbage(
        &mut self,
        old: &[u8; SECTOR_BYTES],
        new: &[u8; SECTOR_BYTES],
    ) -> [u8; SECTOR_BYTES] {
        let mut bytes = *old;
        match self.random.below(3) {
            0 => {
                let torn = self.random.index(SECTOR_BYTES + 1);
                let from_start = self.random.chance(1, 2);
                let part = if from_start { 0..torn } else { torn..SECTOR_BYTES };
                bytes[part.clone()].copy_from_slice(&new[part]);
            }
            1 => match (self.stale)(&mut self.random) {
                Some(sector) => bytes = *sector,
                None => self.random.fill(&mut bytes),
            },
            _ => self.random.fill(&mut bytes),
        }
        bytes
    }

    fn is_random(&self) -> bool {
        matches!(self.state, CrashState::Random(_))
    }

    /// Counts the next thing; whether it is kept, unless that is for the dice.
    fn fixed(&mut self) -> Option<bool> {
        let number = self.next;
        self.next += 1;
        match self.state {
            CrashState::Nothing => Some(false),
            CrashState::Everything => Some(true),
            CrashState::OneMissing(missing) => Some(number != missing),
            CrashState::OneAlone(alone) => Some(number == alone),
            CrashState::Random(_) => None,
        }
    }
}
