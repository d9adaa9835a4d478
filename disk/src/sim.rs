//! The simulated disk: in memory, seeded, and as hostile as [`Disk`] allows a disk to be.
//!
//! How it is used:
//!
//! 1. Run a workload once on [`SimDisk::new`] and note [`SimDisk::op_count`].
//! 2. Run it again with [`SimDisk::crash_at`] each operation, or [`SimDisk::fail_at`].
//! 3. Open each [`SimDisk::after_crash`] (power was lost) and the [`SimDisk::clean_reopen`] (the
//!    process died, the machine did not), and check what was promised.
//! 4. Ask [`SimDisk::counters`] whether the effects that were to be survived did occur.
//!
//! Operations are numbered from 1: the operation number `n` is the one that raises `op_count` to
//! `n`. Each call on a [`Disk`] or [`File`] that touches the machine is one; `name`, `describe`,
//! `engine` and `random` are none.
//!
//! - M1: on one thread the same seed and the same calls give the same answers, states and counts.
//! - M2: what is durable by D1 and D2 of `vfs.rs` survives every crash unchanged.
//! - M3: what is not may be kept, lost or damaged, each thing on its own: a file's sectors, its
//!   length, and each change of names. A rename may become durable before the file's bytes.
//! - M4: a crashed disk carries out nothing more.
//! - M5: making another disk from one changes neither, then or later; they share bytes by
//!   copy-on-write.
//!
//! What it leaves out: damage to what is durable (see [`SimDisk::corrupt`]), and names that a
//! journaling file system would not lose apart, such as both names of a renamed file.

mod counters;
mod crash;
mod fault;
mod file;
mod inode;
mod random;
mod state;
#[cfg(test)]
mod tests;

pub use counters::SimCounters;
pub use crash::CrashState;
pub use fault::{Crashed, Fault, Filter, is_crash};

use std::fmt;

use rustix::io::Errno;

use crate::env::{Arc, Mutex, MutexGuard, yield_now};
use crate::error::{DiskError, Operation};
use crate::file_name::FileName;
use crate::vfs::{Batch, Disk, File, Lock, OpenMode, run_op};
use bytes::Bytes;
use file::{SimFile, SimLock};
use state::{Call, Space, State, Verdict};

/// The process id that simulated processes write into their lock file.
pub const SIM_PID: u32 = 4242;

/// A simulated disk. See the module for how it is used and what it promises.
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl SimDisk {
    /// An empty disk. Whatever is left to chance is drawn from `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        Self::of(State::new(seed))
    }

    fn of(state: State) -> Arc<Self> {
        Arc::new(Self { state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// How many operations there were.
    pub fn op_count(&self) -> u64 {
        self.state().ops
    }

    /// How many of them could change something: all but reads, lengths, lists, and opens of what
    /// exists.
    pub fn mutation_count(&self) -> u64 {
        self.state().mutations
    }

    /// Crashes in place of the operation number `op`, or of the next one if that is past. If it is
    /// a write, part of it may have happened.
    pub fn crash_at(&self, op: u64) {
        self.state().crash_at = Some(op);
    }

    /// Crashes in place of the operation that would be number `mutation` of those that change
    /// something, or of the next such if that is past.
    pub fn crash_at_mutation(&self, mutation: u64) {
        self.state().crash_at_mutation = Some(mutation);
    }

    /// Whether it has crashed. Then every operation fails with [`Crashed`].
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Crashes between two operations.
    pub fn crash_now(&self) {
        self.state().crash();
    }

    /// Injects `fault` into the operation number `op`, if the fault applies to its kind.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        self.state().add_rule(op..=op, Filter::any(), fault);
    }

    /// Injects `fault` into the operation number `op` and all later ones to which it applies.
    pub fn fail_from(&self, op: u64, fault: Fault) {
        self.state().add_rule(op..=u64::MAX, Filter::any(), fault);
    }

    /// Injects `fault` into the operations that `filter` lets pass and to which it applies.
    pub fn fail_when(&self, filter: Filter, fault: Fault) {
        self.state().add_rule(1..=u64::MAX, filter, fault);
    }

    /// Takes all faults away, and the bound on space. A crash stays.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.capacity_sectors = None;
    }

    /// Bounds the space that files take, from now on, in whole sectors of 512 bytes; `None` lifts
    /// the bound. Each file takes one sector, each written or reserved one takes another.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_sectors = bytes.map(|bytes| bytes / inode::SECTOR_BYTES as u64);
    }

    /// The space that files take, as [`Self::set_capacity`] counts it.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_sectors() * inode::SECTOR_BYTES as u64
    }

    /// Whether a crash damages whole sectors of which only a part was written since the last sync,
    /// as devices without power-safe overwrite do; or else only what was written. On at first, as
    /// [`Disk`] demands; handed on to the disks that are made from this one.
    pub fn set_damages_whole_sectors(&self, damages: bool) {
        self.state().whole_sectors = damages;
    }

    /// A disk as the power loss at this point could leave it: everything on it durable, no locks,
    /// no faults, not crashed. This one stays, to make other states from.
    ///
    /// Cost: linear in the sectors of files that have unsynced ones.
    pub fn after_crash(&self, state: CrashState) -> Arc<Self> {
        Self::of(self.state().after_crash(state))
    }

    /// How many unsynced things [`CrashState`] ranges over.
    pub fn unsynced(&self) -> usize {
        self.state().unsynced()
    }

    /// The disk as the next process finds it when this one died and the machine did not: all that
    /// was written is visible, what was unsynced still is, locks are gone. No faults, not crashed.
    pub fn clean_reopen(&self) -> Arc<Self> {
        Self::of(self.state().clean_reopen())
    }

    /// Lets the machine forget what it may: bytes that a failed sync called clean turn back to what
    /// the device holds. Bytes that are to be synced stay.
    pub fn drop_caches(&self) {
        self.state().drop_caches();
    }

    /// Damages what is visible and durable: `edit` gets the bytes from `offset` to the end. What it
    /// changes counts as durable from now on.
    ///
    /// # Panics
    ///
    /// If there is no such file, or it ends before `offset`.
    pub fn corrupt(&self, name: &str, offset: u64, edit: impl FnOnce(&mut [u8])) {
        let mut state = self.state();
        let inode = state.named_mut(name).unwrap_or_else(|| panic!("there is no file {name}"));
        let mut bytes = inode.bytes();
        let from = usize::try_from(offset).expect("offsets of simulated files fit a usize");
        edit(&mut bytes[from..]);
        inode.patch(offset, &bytes[from..]);
    }

    /// The visible bytes of a file.
    pub fn file_bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.state().named(name).map(inode::Inode::bytes)
    }

    /// Puts a durable file there, in place of one of that name.
    pub fn put_file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.state().put_file(name, bytes.as_ref());
    }

    /// Removes a file durably, if it is there.
    pub fn remove_file(&self, name: &str) {
        self.state().remove_file(name);
    }

    /// The visible names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state().visible_names()
    }

    /// The first name of the file that has this name: another one if a crash left a rename half done.
    pub fn first_name(&self, name: &str) -> Option<String> {
        self.state().first_name(name)
    }

    /// What has occurred so far on this disk.
    pub fn counters(&self) -> SimCounters {
        self.state().counters
    }

    /// The last few hundred operations, for the report of a failure.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace_lines()
    }

    /// Begins an operation that is either carried out or fails as a whole.
    fn begin(&self, call: Call) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.state();
        match state.begin(call) {
            Verdict::Go => Ok(state),
            verdict => Err(call.failed(verdict.error())),
        }
    }
}

impl Disk for SimDisk {
    fn describe(&self) -> String {
        format!("simulated disk {}", self.state().seed)
    }

    fn engine(&self) -> &'static str {
        "simulated"
    }

    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError> {
        let operation = match mode {
            OpenMode::Create => Operation::Create,
            OpenMode::Read | OpenMode::Sealed | OpenMode::Write => Operation::Open,
        };
        let call = Call::on(operation, name);
        let mut state = self.begin(call)?;
        let text = name.to_string();
        let inode = match (mode, state.lookup(&text)) {
            (OpenMode::Create, Some(_)) => return Err(call.failed(Errno::EXIST.into())),
            (OpenMode::Create, None) => {
                state.make_room(1).map_err(|errno| call.failed(errno.into()))?;
                state.create(&text)
            }
            (_, Some(inode)) => inode,
            (_, None) => return Err(call.failed(Errno::NOENT.into())),
        };
        state.add_handle(inode);
        let writable = matches!(mode, OpenMode::Write | OpenMode::Create);
        Ok(Arc::new(SimFile::new(&self.state, name, inode, writable)))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.begin(Call::plain(Operation::List))?.visible_names())
    }

    fn rename(&self, from: FileName, to: FileName) -> Result<(), DiskError> {
        let call = Call::rename(from, to);
        let renamed = self.begin(call)?.rename(&from.to_string(), &to.to_string());
        renamed.map_err(|errno| call.failed(errno.into()))
    }

    fn remove(&self, name: FileName) -> Result<(), DiskError> {
        let call = Call::on(Operation::Remove, name);
        let removed = self.begin(call)?.remove(&name.to_string());
        removed.map_err(|errno| call.failed(errno.into()))
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        let call = Call::plain(Operation::SyncDirectory);
        let began = self.begin(call)?.sequence;
        yield_now();
        let mut state = self.state();
        if state.crashed {
            return Err(call.failed(Verdict::Crashed.error()));
        }
        state.sync_names(began);
        Ok(())
    }

    fn lock(&self) -> Result<Result<Box<dyn Lock>, Option<u32>>, DiskError> {
        let call = Call::on(Operation::Lock, FileName::Lock);
        let mut state = self.begin(call)?;
        let text = FileName::Lock.to_string();
        let inode = match state.lookup(&text) {
            Some(inode) => inode,
            None => {
                state.make_room(1).map_err(|errno| call.failed(errno.into()))?;
                state.create(&text)
            }
        };
        if state.locked {
            let pid = String::from_utf8_lossy(&state.inode(inode).bytes()).trim().parse().ok();
            return Ok(Err(pid));
        }
        state.locked = true;
        // For lack of space the text may be missing: it only serves messages.
        let text = format!("{SIM_PID}\n");
        if state.space_for_write(inode, 0, text.len()) == Space::All {
            let sequence = state.next_sequence();
            state.inode_mut(inode).write(sequence, 0, text.as_bytes());
            state.inode_mut(inode).set_len(sequence, text.len() as u64);
        }
        Ok(Ok(Box::new(SimLock::new(&self.state))))
    }

    fn random(&self) -> Result<[u8; 16], DiskError> {
        let mut bytes = [0; 16];
        self.state().random.fill(&mut bytes);
        Ok(bytes)
    }

    /// Runs the chains interleaved, in an order that the seed decides.
    fn run(&self, batch: Batch) -> Vec<Result<Vec<Bytes>, DiskError>> {
        let mut results: Vec<_> = batch.chains.iter().map(|_| Ok(Vec::new())).collect();
        let mut chains: Vec<_> = batch.chains.into_iter().map(Vec::into_iter).enumerate().collect();
        let mut reordered = false;
        while !chains.is_empty() {
            let picked = match chains.len() {
                1 => 0,
                count => self.state().random.index(count),
            };
            reordered |= picked > 0;
            let (index, chain) = &mut chains[picked];
            let result = &mut results[*index];
            match chain.next().map(run_op) {
                Some(Ok(read)) => {
                    result.as_mut().expect("a failed chain is not run").extend(read);
                    continue;
                }
                Some(Err(error)) => *result = Err(error),
                None => {}
            }
            chains.remove(picked);
        }
        if reordered {
            self.state().counters.batches_reordered += 1;
        }
        results
    }
}
