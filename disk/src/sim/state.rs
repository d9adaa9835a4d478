//! The simulated machine behind the lock: its files, their names, the faults to come, the counts.
//!
//! Names point at inodes. The visible names are one map, the durable ones another, and between
//! them stands the list of changes since the last sync of the directory.
//!
//! - A1: an inode exists while a visible name, a durable name, a change or a handle leads to it.
//! - A2: space is taken by inodes that a visible name or a handle leads to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use rustix::io::Errno;

use super::counters::SimCounters;
use super::crash::{Chooser, CrashState, NameFate};
use super::fault::{Crashed, Fault, Filter};
use super::inode::{Inode, SECTOR_BYTES, Sector};
use super::random::Random;
use crate::error::{DiskError, Operation};
use crate::file_name::FileName;

/// How many operations the trace remembers.
const TRACE_MAX: usize = 400;

/// An operation as it is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    name: Option<FileName>,
    to: Option<FileName>,
    range: Option<(u64, u64)>,
}

impl Call {
    pub(super) fn plain(operation: Operation) -> Self {
        Self { operation, name: None, to: None, range: None }
    }

    pub(super) fn on(operation: Operation, name: FileName) -> Self {
        Self { operation, name: Some(name), to: None, range: None }
    }

    pub(super) fn rename(from: FileName, to: FileName) -> Self {
        Self { operation: Operation::Rename, name: Some(from), to: Some(to), range: None }
    }

    pub(super) fn of(self, offset: u64, len: u64) -> Self {
        Self { range: Some((offset, len)), ..self }
    }

    /// Where its range ends; `None` if that is beyond all numbers.
    pub(super) fn end(self) -> Option<u64> {
        self.range.map_or(Some(0), |(offset, len)| offset.checked_add(len))
    }

    pub(super) fn failed(self, source: io::Error) -> DiskError {
        match self.name {
            Some(name) => DiskError::new(self.operation, name, source),
            None => DiskError::new(self.operation, "the simulated disk", source),
        }
    }

    fn changes_something(self) -> bool {
        use Operation as O;
        !matches!(self.operation, O::Read | O::Length | O::List | O::Open)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if let Some(name) = self.name {
            write!(f, " {name}")?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        match self.range {
            Some((offset, len)) => write!(f, " at {offset}, {len} bytes"),
            None => Ok(()),
        }
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    Injected(Fault),
    CrashesNow,
    Crashed,
}

impl Verdict {
    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Injected(fault) => fault.errno().into(),
            Self::CrashesNow | Self::Crashed => io::Error::other(Crashed),
            Self::Go => unreachable!("what goes on does not fail"),
        }
    }
}

/// Whether a write finds room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    All,
    Part(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    ops: RangeInclusive<u64>,
    filter: Filter,
    passed: u64,
    fault: Fault,
}

impl Rule {
    fn meets(&mut self, op: u64, call: Call) -> bool {
        let Filter { operation, file, tables, bytes, nth, last } = self.filter;
        let tree = match call.name {
            Some(FileName::Table { table, .. }) => Some(table),
            _ => None,
        };
        let passes = self.ops.contains(&op)
            && self.fault.applies_to(call.operation)
            && operation.is_none_or(|operation| operation == call.operation)
            && file.is_none_or(|file| Some(file) == call.name)
            && tables.is_none_or(|tables| Some(tables) == tree)
            && bytes.is_none_or(|(start, end)| {
                call.range
                    .is_some_and(|(offset, len)| offset < end && start < offset.saturating_add(len))
            });
        self.passed += u64::from(passes);
        passes && (nth..=last).contains(&self.passed)
    }
}

#[derive(Clone, Debug)]
enum Change {
    Create { name: Arc<str>, inode: u64 },
    Rename { from: Arc<str>, to: Arc<str>, inode: u64 },
    Remove { name: Arc<str> },
}

impl Change {
    fn inode(&self) -> Option<u64> {
        match self {
            Self::Create { inode, .. } | Self::Rename { inode, .. } => Some(*inode),
            Self::Remove { .. } => None,
        }
    }

    fn concerns(&self, sought: &str) -> bool {
        match self {
            Self::Create { name, .. } | Self::Remove { name } => &**name == sought,
            Self::Rename { from, to, .. } => &**from == sought || &**to == sought,
        }
    }

    fn apply(&self, names: &mut Names, fate: NameFate) {
        match (self, fate) {
            (_, NameFate::Lost) => {}
            (Self::Create { name, inode }, _) => {
                names.insert(Arc::clone(name), *inode);
            }
            (Self::Remove { name }, _) => {
                names.remove(name);
            }
            (Self::Rename { from, to, inode }, fate) => {
                if fate == NameFate::Kept && names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(Arc::clone(to), *inode);
            }
        }
    }
}

type Names = BTreeMap<Arc<str>, u64>;

#[derive(Clone, Debug, Default)]
struct Slot {
    inode: Arc<Inode>,
    handles: u32,
    linked: bool,
    /// What [`Inode::taken_sectors`] says, if it was asked since the last change.
    taken: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) ops: u64,
    pub(super) mutations: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crash_at_mutation: Option<u64>,
    pub(super) crashed: bool,
    pub(super) rules: Vec<Rule>,
    interrupted_last: bool,
    pub(super) capacity_sectors: Option<u64>,
    pub(super) whole_sectors: bool,
    pub(super) locked: bool,
    pub(super) counters: SimCounters,
    /// Raised by every change of a file or a name.
    pub(super) sequence: u64,
    inodes: BTreeMap<u64, Slot>,
    next_inode: u64,
    names: Names,
    durable_names: Names,
    changes: Vec<(u64, Change)>,
    trace: VecDeque<(u64, Call, Verdict)>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Random::derived(seed, 0),
            ops: 0,
            mutations: 0,
            crash_at: None,
            crash_at_mutation: None,
            crashed: false,
            rules: Vec::new(),
            interrupted_last: false,
            capacity_sectors: None,
            whole_sectors: true,
            locked: false,
            counters: SimCounters::default(),
            sequence: 0,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: Names::new(),
            durable_names: Names::new(),
            changes: Vec::new(),
            trace: VecDeque::new(),
        }
    }

    /// An empty machine that goes on from this one.
    fn successor(&self, purpose: u64) -> Self {
        // The successor draws other random bytes, or it would repeat this one's identities.
        let seed = Random::derived(self.seed ^ self.ops.rotate_left(17), purpose).next();
        Self {
            capacity_sectors: self.capacity_sectors,
            whole_sectors: self.whole_sectors,
            sequence: self.sequence,
            next_inode: self.next_inode,
            ..Self::new(seed)
        }
    }

    // Operations: their counting and their faults.

    /// Counts an operation and says what becomes of it.
    pub(super) fn begin(&mut self, call: Call) -> Verdict {
        if self.crashed {
            return Verdict::Crashed;
        }
        self.ops += 1;
        let mutates = call.changes_something();
        self.mutations += u64::from(mutates);
        let verdict = self.verdict(call, mutates);
        self.count(verdict);
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back((self.ops, call, verdict));
        verdict
    }

    fn verdict(&mut self, call: Call, mutates: bool) -> Verdict {
        let by_op = self.crash_at.is_some_and(|op| self.ops >= op);
        let by_mutation = self.crash_at_mutation.is_some_and(|op| mutates && self.mutations >= op);
        if by_op || by_mutation {
            self.crash();
            return Verdict::CrashesNow;
        }
        let was_interrupted = std::mem::take(&mut self.interrupted_last);
        for rule in &mut self.rules {
            if rule.fault == Fault::Interrupted && was_interrupted {
                continue;
            }
            if rule.meets(self.ops, call) {
                self.interrupted_last = rule.fault == Fault::Interrupted;
                return Verdict::Injected(rule.fault);
            }
        }
        Verdict::Go
    }

    fn count(&mut self, verdict: Verdict) {
        let counters = &mut self.counters;
        let Verdict::Injected(fault) = verdict else { return };
        match fault {
            Fault::Eio | Fault::SyncFailsThenClean => counters.eio += 1,
            Fault::Enospc | Fault::SyncEnospc => counters.enospc += 1,
            Fault::Emfile => counters.emfile += 1,
            Fault::Enomem => counters.enomem += 1,
            Fault::Interrupted => counters.interrupts += 1,
            // Counted where it is known whether there was a part to leave out.
            Fault::ShortWrite | Fault::ShortRead => {}
        }
    }

    pub(super) fn crash(&mut self) {
        if !self.crashed {
            self.crashed = true;
            self.counters.crashes += 1;
        }
    }

    pub(super) fn add_rule(&mut self, ops: RangeInclusive<u64>, filter: Filter, fault: Fault) {
        self.rules.push(Rule { ops, filter, passed: 0, fault });
    }

    pub(super) fn trace_lines(&self) -> Vec<String> {
        let line = |(op, call, verdict): &(u64, Call, Verdict)| match verdict {
            Verdict::Go => format!("{op} {call}"),
            Verdict::Injected(fault) => format!("{op} {call}: {fault:?}"),
            Verdict::CrashesNow | Verdict::Crashed => format!("{op} {call}: crash"),
        };
        self.trace.iter().map(line).collect()
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    // Partial transfers and space.

    /// How much of a short read takes place: less than all and more than nothing, if it can be.
    pub(super) fn short_read_of(&mut self, len: usize) -> usize {
        let part = self.part_of(len);
        self.counters.short_reads += u64::from(part < len);
        part
    }

    /// As [`Self::short_read_of`], for a write.
    pub(super) fn short_write_of(&mut self, len: usize) -> usize {
        let part = self.part_of(len);
        self.counters.short_writes += u64::from(part < len);
        part
    }

    /// How much of a write has happened when the crash comes: often nothing, seldom all.
    pub(super) fn torn_write_of(&mut self, len: usize) -> usize {
        let part = if self.random.chance(1, 2) { 0 } else { self.random.index(len + 1) };
        self.counters.torn_writes += u64::from(part > 0);
        part
    }

    fn part_of(&mut self, len: usize) -> usize {
        if len > 1 { 1 + self.random.index(len - 1) } else { len }
    }

    pub(super) fn used_sectors(&mut self) -> u64 {
        let mut used = 0;
        for slot in self.inodes.values_mut().filter(|slot| slot.linked || slot.handles > 0) {
            used += 1 + *slot.taken.get_or_insert_with(|| slot.inode.taken_sectors());
        }
        used
    }

    fn free_sectors(&mut self) -> Option<u64> {
        self.capacity_sectors.map(|capacity| capacity.saturating_sub(self.used_sectors()))
    }

    /// Refuses, and counts that, if so many sectors are not free.
    pub(super) fn make_room(&mut self, sectors: u64) -> Result<(), Errno> {
        match self.free_sectors() {
            Some(free) if free < sectors => {
                self.counters.enospc += 1;
                Err(Errno::NOSPC)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn space_for_write(&mut self, id: u64, offset: u64, len: usize) -> Space {
        let Some(mut free) = self.free_sectors() else { return Space::All };
        let inode = self.inode(id);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            if !inode.has_space_for(at / SECTOR_BYTES as u64) {
                if free == 0 {
                    return Space::Part(done);
                }
                free -= 1;
            }
            let in_sector = at % SECTOR_BYTES as u64;
            done += SECTOR_BYTES - usize::try_from(in_sector).expect("it is below a sector");
        }
        Space::All
    }

    /// How much of a write there is room for; no room at all is an error.
    pub(super) fn fitting_part_of(
        &mut self,
        id: u64,
        offset: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        match self.space_for_write(id, offset, len) {
            Space::All => Ok(len),
            Space::Part(0) => {
                self.counters.enospc += 1;
                Err(Errno::NOSPC)
            }
            Space::Part(part) => {
                self.counters.short_writes += 1;
                Ok(part)
            }
        }
    }

    // Files.

    pub(super) fn inode(&self, id: u64) -> &Inode {
        &self.inodes.get(&id).expect("a handle or a name keeps its inode (A1)").inode
    }

    pub(super) fn inode_mut(&mut self, id: u64) -> &mut Inode {
        let slot = self.inodes.get_mut(&id).expect("a handle or a name keeps its inode (A1)");
        slot.taken = None;
        Arc::make_mut(&mut slot.inode)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Inode> {
        self.lookup(name).map(|id| self.inode(id))
    }

    pub(super) fn named_mut(&mut self, name: &str) -> Option<&mut Inode> {
        self.lookup(name).map(|id| self.inode_mut(id))
    }

    pub(super) fn add_handle(&mut self, id: u64) {
        self.inodes.get_mut(&id).expect("the name was just looked up").handles += 1;
    }

    pub(super) fn drop_handle(&mut self, id: u64) {
        self.inodes.get_mut(&id).expect("a handle keeps its inode (A1)").handles -= 1;
        self.collect();
    }

    pub(super) fn fail_sync(&mut self, id: u64) {
        let sequence = self.sequence;
        self.counters.failed_syncs += 1;
        self.counters.sectors_claimed += self.inode_mut(id).fail_sync(sequence);
    }

    pub(super) fn drop_caches(&mut self) {
        for slot in self.inodes.values_mut().filter(|slot| slot.inode.has_claimed()) {
            slot.taken = None;
            self.counters.sectors_reverted += Arc::make_mut(&mut slot.inode).drop_claimed();
        }
    }

    fn add_inode(&mut self, inode: Inode) -> u64 {
        let id = self.next_inode;
        self.next_inode += 1;
        let slot = Slot { inode: Arc::new(inode), handles: 0, linked: true, taken: None };
        self.inodes.insert(id, slot);
        id
    }

    /// Drops the inodes that nothing leads to (A1).
    fn collect(&mut self) {
        if self.inodes.values().all(|slot| slot.linked || slot.handles > 0) {
            return;
        }
        let kept: BTreeSet<u64> = self.reachable_after_crash();
        self.inodes.retain(|id, slot| slot.linked || slot.handles > 0 || kept.contains(id));
    }

    // Names.

    pub(super) fn lookup(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    pub(super) fn first_name(&self, name: &str) -> Option<String> {
        let file = self.names.get(name)?;
        self.names.iter().find(|(_, other)| *other == file).map(|(first, _)| first.to_string())
    }

    pub(super) fn visible_names(&self) -> Vec<String> {
        self.names.keys().map(ToString::to_string).collect()
    }

    /// Makes an empty file under a name that is free.
    pub(super) fn create(&mut self, name: &str) -> u64 {
        let inode = self.add_inode(Inode::default());
        self.change(Change::Create { name: name.into(), inode });
        inode
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), Errno> {
        let inode = self.lookup(from).ok_or(Errno::NOENT)?;
        if from != to {
            self.change(Change::Rename { from: from.into(), to: to.into(), inode });
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), Errno> {
        self.lookup(name).ok_or(Errno::NOENT)?;
        self.change(Change::Remove { name: name.into() });
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names, NameFate::Kept);
        let sequence = self.next_sequence();
        self.changes.push((sequence, change));
        self.relink();
    }

    pub(super) fn sync_names(&mut self, sequence: u64) {
        let count = self.changes.partition_point(|(changed, _)| *changed <= sequence);
        for (_, change) in self.changes.drain(..count) {
            change.apply(&mut self.durable_names, NameFate::Kept);
        }
        self.collect();
    }

    fn relink(&mut self) {
        let linked: BTreeSet<u64> = self.names.values().copied().collect();
        for (id, slot) in &mut self.inodes {
            slot.linked = linked.contains(id);
        }
        self.collect();
    }

    pub(super) fn put_file(&mut self, name: &str, bytes: &[u8]) {
        self.changes.retain(|(_, change)| !change.concerns(name));
        let inode = self.add_inode(Inode::holding(bytes));
        self.names.insert(name.into(), inode);
        self.durable_names.insert(name.into(), inode);
        self.relink();
    }

    pub(super) fn remove_file(&mut self, name: &str) {
        self.changes.retain(|(_, change)| !change.concerns(name));
        self.names.remove(name);
        self.durable_names.remove(name);
        self.relink();
    }

    // What follows a crash.

    /// The inodes that a crash could leave a name of.
    fn reachable_after_crash(&self) -> BTreeSet<u64> {
        let changed = self.changes.iter().filter_map(|(_, change)| change.inode());
        self.durable_names.values().copied().chain(changed).collect()
    }

    pub(super) fn unsynced(&self) -> usize {
        let reachable = self.reachable_after_crash();
        let in_files: usize = reachable.iter().map(|id| self.inode(*id).unsynced()).sum();
        self.changes.len() + in_files
    }

    pub(super) fn after_crash(&self, state: CrashState) -> Self {
        let stale = |random: &mut Random| self.some_sector(random);
        let mut chooser = Chooser::new(state, self.seed, self.whole_sectors, &stale);
        let mut names = self.durable_names.clone();
        for (_, change) in &self.changes {
            let fate = chooser.name(matches!(change, Change::Rename { .. }));
            change.apply(&mut names, fate);
        }
        let named: BTreeSet<u64> = names.values().copied().collect();
        let mut inodes = BTreeMap::new();
        for id in self.reachable_after_crash() {
            let slot = &self.inodes[&id];
            if !named.contains(&id) {
                chooser.skip(slot.inode.unsynced());
                continue;
            }
            let inode = match slot.inode.is_durable() {
                true => Arc::clone(&slot.inode),
                false => Arc::new(slot.inode.settle(&mut chooser)),
            };
            inodes.insert(id, Slot { inode, handles: 0, linked: true, taken: None });
        }
        let counters = chooser.counters;
        let purpose = match state {
            CrashState::Nothing => 1,
            CrashState::Everything => 2,
            CrashState::OneMissing(which) => 3 + 4 * which as u64,
            CrashState::OneAlone(which) => 4 + 4 * which as u64,
            CrashState::Random(seed) => seed.rotate_left(32) ^ 5,
        };
        let durable_names = names.clone();
        Self { names, durable_names, inodes, counters, ..self.successor(purpose) }
    }

    pub(super) fn clean_reopen(&self) -> Self {
        let mut reopened = Self {
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            changes: self.changes.clone(),
            inodes: self.inodes.clone(),
            ..self.successor(6)
        };
        for slot in reopened.inodes.values_mut() {
            slot.handles = 0;
        }
        reopened.collect();
        reopened
    }

    fn some_sector(&self, random: &mut Random) -> Option<Sector> {
        let slot = self.inodes.values().nth(random.index(self.inodes.len().max(1)))?;
        let index = random.below(slot.inode.len().div_ceil(SECTOR_BYTES as u64).max(1));
        slot.inode.some_sector(index).cloned()
    }
}
