//! Batches by io_uring: the chains of a batch in flight together, driven by the caller's own thread.
//!
//! 1. A batch borrows a ring that nobody uses, or makes one, up to [`RINGS_MAX`]. If there is none to be
//!    had, the caller carries the chains out otherwise.
//! 2. The first operation of each chain is submitted, up to [`DEPTH`] at once. What completes makes room
//!    for what comes next: the rest of a short read or write, the same again if it was interrupted, the
//!    chain's next, or another chain's first.
//! 3. The batch returns when none of it is in flight. What the kernel refused for want of a thread or of memory,
//!    and all that was to come after that, the caller has carried out by then, by positioned calls.
//!
//! - U1: an operation in flight owns its buffer and its file. Both are in its batch's [`Flight`]s, which
//!   are dropped only when nothing is in flight; should the ring fail before, or this code panic, they are
//!   leaked.
//! - U2: no operation of a chain is linked to another in the kernel: the next one is submitted when the one
//!   before it has wholly succeeded (D4), so a sync never overtakes the rest of a short write.
//! - U3: a ring on which anything went wrong is closed, and its disk lends and makes no other until it is opened
//!   again. What goes wrong is mostly a limit on threads: it is seldom lifted soon, each try would cost a batch
//!   the 50 ms after which the kernel gives up, and all that is lost is speed (decision 0013).
//! - U4: a sync that was begun is made once, whatever comes of it but `EINTR`, which says that it did not
//!   happen. The kernel says `ECANCELED` of an operation that it found no thread for; but it hands on what a file
//!   system says of a sync that failed, and that may be `ECANCELED` too. So a sync goes linked behind a guard, which
//!   does nothing in just such a thread: what is linked behind something that failed is not begun
//!   (`io_uring_enter(2)`, `IOSQE_IO_LINK`). If the guard failed, and the sync was cancelled, the caller makes it;
//!   else, and where the kernel may have taken the two apart, what is said of the sync is the sync's own answer.
//!   Reads and writes are done again without harm: the same bytes, at the same place.
//!
//! The residual risks are the kernel's: that it writes to a buffer after it said that it was done; and that it
//! tries without end to make a thread, as some before 6.11 do, so that a batch waits until there is room for one.

#![expect(unsafe_code, reason = "the kernel is handed pointers to what this file keeps alive: U1")]

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

use crate::env::{self, AtomicUsize, Mutex, Ordering};
use crate::error::{DiskError, Operation};
use crate::vfs::{Batch, File, Op, run_chain};

/// Rings of one disk: as many batches can be in flight at once by io_uring.
const RINGS_MAX: usize = 16;

/// Operations of a batch in flight at once: what a fast device needs to be busy.
const DEPTH: u32 = 64;

/// Entries of one operation at most: a sync has a guard.
const ENTRIES_MAX: usize = 2;

/// How often a chain's operations are submitted again that the kernel was short of memory for.
const AGAIN_MAX: u32 = 8;

/// How long the first read is waited for: it is one of memory.
const PROBE_WAIT: Duration = Duration::from_secs(5);

/// In the user data of a completion, beside the number of its flight: it is a guard's (U4).
const GUARD: u64 = 1 << 63;

/// What one operation of the kernel moves at most: its results are 32 bits with a sign.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

type Answer = Result<Vec<Bytes>, DiskError>;

/// The rings of a disk.
#[derive(Debug)]
pub(crate) struct Rings {
    /// Those that nobody uses; none once something went wrong (U3).
    idle: Mutex<Option<Vec<Ring>>>,
    made: AtomicUsize,
}

impl Rings {
    /// Tries whether the kernel lets us, by a read through a ring. The read is of a file in memory, which takes a
    /// thread of the kernel's: so this also tries whether there is one to be had.
    ///
    /// # Errors
    /// That it does not, and why.
    pub(crate) fn probe() -> io::Result<Self> {
        let mut ring = Ring::new()?;
        let file = crate::std_disk::file_in_memory(b"probe")?;
        let read = Op::Read { file, offset_bytes: 0, len_bytes: 16 };
        let answers = ring.run(Batch { chains: vec![vec![read]] }, Some(PROBE_WAIT));
        let read = answers.into_iter().next().expect("one answer a chain");
        if let Some(error) = ring.broken.take() {
            return Err(error);
        }
        if read.map_err(|error| error.source)? != [&b"probe"[..]] {
            return Err(io::Error::other("a read by io_uring returned something else"));
        }
        Ok(Self { idle: Mutex::new(Some(vec![ring])), made: AtomicUsize::new(1) })
    }

    /// Carries out all chains, or gives the batch back if there is no ring to be had.
    pub(crate) fn run(&self, batch: Batch) -> Result<Vec<Answer>, Batch> {
        let has_files = |op: &Op| op.file().descriptor().is_some();
        if !batch.chains.iter().flatten().all(has_files) {
            return Err(batch);
        }
        let Some(mut ring) = self.borrow() else { return Err(batch) };
        let answers = ring.run(batch, None);
        if let Some(error) = &ring.broken {
            self.end(error);
        } else if let Some(idle) = &mut *self.idle.lock() {
            idle.push(ring);
        }
        Ok(answers)
    }

    /// Whether batches go by rings.
    pub(crate) fn are_in_use(&self) -> bool {
        self.idle.lock().is_some()
    }

    /// Lends and makes no more (U3).
    fn end(&self, error: &io::Error) {
        let idle = self.idle.lock().take();
        if idle.is_some() {
            tracing::warn!(%error, "io_uring fails: positioned I/O is used from now on");
        }
    }

    fn borrow(&self) -> Option<Ring> {
        if let Some(ring) = self.idle.lock().as_mut()?.pop() {
            return Some(ring);
        }
        if self.made.fetch_add(1, Ordering::Relaxed) < RINGS_MAX
            && let Ok(ring) = Ring::new()
        {
            return Some(ring);
        }
        self.made.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// One ring.
struct Ring {
    uring: IoUring,
    /// What went wrong on it.
    broken: Option<io::Error>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("broken", &self.broken).finish_non_exhaustive()
    }
}

impl Ring {
    fn new() -> io::Result<Self> {
        // Completions are looked for when the thread asks for them, not by interrupting it (Linux 5.19).
        let cooperative = IoUring::builder().dontfork().setup_coop_taskrun().build(DEPTH);
        let uring = cooperative.or_else(|error| match error.raw_os_error() {
            Some(code) if code == Errno::INVAL.raw_os_error() => {
                IoUring::builder().dontfork().build(DEPTH)
            }
            _ => Err(error),
        })?;
        Ok(Self { uring, broken: None })
    }

    /// Carries out all chains. If the kernel is silent for as long as `patience`, the ring is broken.
    fn run(&mut self, batch: Batch, patience: Option<Duration>) -> Vec<Answer> {
        let flights = batch.chains.into_iter().map(Flight::new).collect();
        let mut flights: ManuallyDrop<Vec<Flight>> = ManuallyDrop::new(flights);
        let mut ready: VecDeque<usize> = (0..flights.len()).collect();
        let mut traffic = Traffic::default();
        self.broken = self.drive(&mut flights, &mut ready, &mut traffic, patience).err();
        if let Some(error) = &self.broken
            && traffic.in_kernel > 0
        {
            // U1: the kernel may use their buffers yet.
            return flights.iter_mut().map(|flight| flight.answer_of_broken(error)).collect();
        }
        // Nothing is in flight (U1).
        let flights = ManuallyDrop::into_inner(flights);
        flights.into_iter().map(Flight::answer).collect()
    }

    /// Submits and reaps until nothing is left, or the ring fails. Once the kernel has refused something, nothing
    /// more is submitted.
    fn drive(
        &mut self,
        flights: &mut [Flight],
        ready: &mut VecDeque<usize>,
        traffic: &mut Traffic,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        let mut refused = Ok(());
        loop {
            while refused.is_ok()
                && traffic.queued + traffic.in_kernel + ENTRIES_MAX <= DEPTH as usize
                && let Some(at) = ready.pop_front()
            {
                for entry in flights[at].entries(at as u64) {
                    // SAFETY: U1: what the entry points to lives until its completion was seen.
                    let pushed = unsafe { self.uring.submission().push(&entry) };
                    pushed.expect("the queue has room for all that may be in flight");
                    traffic.queued += 1;
                }
            }
            if traffic.queued + traffic.in_kernel == 0 {
                return refused;
            }
            match self.submit_and_wait(patience) {
                Ok(count) => {
                    traffic.submitted(count);
                    if traffic.queued > 0 {
                        // A guard may have gone without its sync, and links end with a submission.
                        flights.iter_mut().for_each(|flight| flight.is_apart = true);
                    }
                }
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // Short of memory, or of room for completions: what is in flight makes some.
                    Some(Errno::AGAIN | Errno::BUSY) if traffic.in_kernel > 0 => env::yield_now(),
                    _ => return Err(error),
                },
            }
            for completion in self.uring.completion() {
                traffic.in_kernel -= 1;
                let (at, is_guard) =
                    (completion.user_data() & !GUARD, completion.user_data() & GUARD != 0);
                let at = usize::try_from(at).expect("it is a flight's number");
                match flights[at].completed(is_guard, completion.result()) {
                    Now::Submit => ready.push_back(at),
                    Now::Rest => {}
                    Now::Refused(errno) => {
                        let what = format!("the kernel has no thread or no memory for it: {errno}");
                        refused = Err(io::Error::other(what));
                    }
                }
            }
        }
    }

    /// Submits what is queued, and waits for a completion.
    fn submit_and_wait(&self, patience: Option<Duration>) -> io::Result<usize> {
        match patience {
            Some(patience) if self.uring.params().is_feature_ext_arg() => {
                let patience = types::Timespec::from(patience);
                let args = types::SubmitArgs::new().timespec(&patience);
                self.uring.submitter().submit_with_args(1, &args)
            }
            _ => self.uring.submit_and_wait(1),
        }
    }
}

/// What the ring is to do for a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    /// Submit its current operation.
    Submit,
    /// Nothing: it is done, or has failed, or is not wholly answered.
    Rest,
    /// Nothing more: the current operation did not happen, and no other is to be tried.
    Refused(Errno),
}

/// Operations that are not done.
#[derive(Debug, Default)]
struct Traffic {
    /// In the submission queue.
    queued: usize,
    /// The kernel's.
    in_kernel: usize,
}

impl Traffic {
    fn submitted(&mut self, count: usize) {
        self.queued -= count;
        self.in_kernel += count;
    }
}

/// A chain on its way.
#[derive(Debug)]
struct Flight {
    /// What comes after the current operation.
    chain: std::vec::IntoIter<Op>,
    current: Option<Current>,
    read: Vec<Bytes>,
    failed: Option<DiskError>,
    /// How often the kernel was short of memory.
    again_count: u32,
    /// A sync may have been submitted apart from its guard.
    is_apart: bool,
}

/// The operation of a chain that is in flight, or is next.
#[derive(Debug)]
enum Current {
    Read {
        file: Arc<dyn File>,
        offset_bytes: u64,
        len_bytes: usize,
        buffer: Vec<u8>,
    },
    Write {
        file: Arc<dyn File>,
        offset_bytes: u64,
        data: Bytes,
        done_bytes: usize,
    },
    /// `guarded` and `synced` are what was said of the guard and of the sync, of what is in flight.
    Sync {
        file: Arc<dyn File>,
        guarded: Option<i32>,
        synced: Option<i32>,
    },
}

impl Current {
    fn new(op: Op) -> Self {
        match op {
            Op::Read { file, offset_bytes, len_bytes } => {
                Self::Read { file, offset_bytes, len_bytes, buffer: Vec::with_capacity(len_bytes) }
            }
            Op::Write { file, offset_bytes, data } => {
                Self::Write { file, offset_bytes, data, done_bytes: 0 }
            }
            Op::Sync { file } => Self::Sync { file, guarded: None, synced: None },
        }
    }

    fn file(&self) -> &Arc<dyn File> {
        match self {
            Self::Read { file, .. } | Self::Write { file, .. } | Self::Sync { file, .. } => file,
        }
    }

    fn entry(&mut self) -> Entry {
        let descriptor = self.file().descriptor().expect("every file of the batch has one");
        let file = types::Fd(descriptor.as_raw_fd());
        match self {
            Self::Read { offset_bytes, len_bytes, buffer, .. } => {
                let at = *offset_bytes + buffer.len() as u64;
                let left = *len_bytes - buffer.len();
                let spare = &mut buffer.spare_capacity_mut()[..left];
                opcode::Read::new(file, spare.as_mut_ptr().cast(), transfer(left))
                    .offset(at)
                    .build()
            }
            Self::Write { offset_bytes, data, done_bytes, .. } => {
                let at = *offset_bytes + *done_bytes as u64;
                let rest = &data[*done_bytes..];
                opcode::Write::new(file, rest.as_ptr(), transfer(rest.len())).offset(at).build()
            }
            Self::Sync { .. } => {
                opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build()
            }
        }
    }

    /// Takes in that so many bytes were moved; true if that is all.
    fn moved(&mut self, count: usize) -> io::Result<bool> {
        match self {
            Self::Read { len_bytes, buffer, .. } => {
                let len = buffer.len() + count;
                assert!(len <= *len_bytes, "the kernel read more than it was asked for");
                // SAFETY: the kernel has written `count` bytes behind those that were there, within
                // the capacity; the completion says so.
                unsafe { buffer.set_len(len) };
                Ok(count == 0 || len == *len_bytes)
            }
            Self::Write { data, done_bytes, .. } => {
                *done_bytes += count;
                if count == 0 && *done_bytes < data.len() {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(*done_bytes == data.len())
            }
            Self::Sync { .. } => Ok(true),
        }
    }

    fn error(&self, source: io::Error) -> DiskError {
        let name = self.file().name();
        match self {
            Self::Read { offset_bytes, buffer, .. } => {
                let at = *offset_bytes + buffer.len() as u64;
                DiskError::new(Operation::Read, name, source).at(at)
            }
            Self::Write { offset_bytes, done_bytes, .. } => {
                let at = *offset_bytes + *done_bytes as u64;
                DiskError::new(Operation::Write, name, source).at(at)
            }
            Self::Sync { .. } => DiskError::new(Operation::Sync, name, source),
        }
    }

    /// What is left of it, to be carried out otherwise, and what it read until now.
    fn rest(self) -> (Op, Vec<u8>) {
        match self {
            Self::Read { file, offset_bytes, len_bytes, buffer } => {
                let offset_bytes = offset_bytes + buffer.len() as u64;
                let len_bytes = len_bytes - buffer.len();
                (Op::Read { file, offset_bytes, len_bytes }, buffer)
            }
            Self::Write { file, offset_bytes, mut data, done_bytes } => {
                let data = data.split_off(done_bytes);
                let offset_bytes = offset_bytes + done_bytes as u64;
                (Op::Write { file, offset_bytes, data }, Vec::new())
            }
            Self::Sync { file, .. } => (Op::Sync { file }, Vec::new()),
        }
    }
}

fn transfer(len_bytes: usize) -> u32 {
    u32::try_from(len_bytes.min(TRANSFER_BYTES_MAX)).expect("the most is less than 4 GiB")
}

impl Flight {
    fn new(chain: Vec<Op>) -> Self {
        let mut chain = chain.into_iter();
        let current = chain.next().map(Current::new);
        Self { chain, current, read: Vec::new(), failed: None, again_count: 0, is_apart: false }
    }

    /// What is to be submitted next, under this number; nothing if the chain is done.
    fn entries(&mut self, at: u64) -> impl Iterator<Item = Entry> {
        let is_guarded = matches!(self.current, Some(Current::Sync { .. }));
        let guard = || opcode::Nop::new().build().flags(Flags::ASYNC | Flags::IO_LINK);
        let guard = is_guarded.then(guard).map(|guard| guard.user_data(GUARD | at));
        let entry = self.current.as_mut().map(|current| current.entry().user_data(at));
        guard.into_iter().chain(entry)
    }

    /// Takes in what the kernel answered.
    fn completed(&mut self, is_guard: bool, mut result: i32) -> Now {
        let current = self.current.as_mut().expect("what completes was submitted");
        let (mut is_sync, mut may_be_begun) = (false, false);
        if let Current::Sync { guarded, synced, .. } = current {
            *(if is_guard { &mut *guarded } else { &mut *synced }) = Some(result);
            let (Some(guard), Some(sync)) = (*guarded, *synced) else { return Now::Rest };
            (*guarded, *synced) = (None, None);
            (is_sync, may_be_begun, result) = (true, guard >= 0 || self.is_apart, sync);
        }
        let moved = match usize::try_from(result) {
            Ok(count) => current.moved(count),
            Err(_) => match Errno::from_raw_os_error(-result) {
                Errno::INTR => Ok(false),
                Errno::CANCELED if !may_be_begun => return Now::Refused(Errno::CANCELED),
                Errno::AGAIN if !is_sync => {
                    self.again_count += 1;
                    if self.again_count > AGAIN_MAX {
                        return Now::Refused(Errno::AGAIN);
                    }
                    Ok(false)
                }
                errno => Err(errno.into()),
            },
        };
        match moved {
            Ok(false) => Now::Submit,
            Ok(true) => {
                if let Some(Current::Read { buffer, .. }) = self.current.take() {
                    self.read.push(Bytes::from(buffer));
                }
                self.current = self.chain.next().map(Current::new);
                if self.current.is_some() { Now::Submit } else { Now::Rest }
            }
            Err(source) => {
                self.failed = Some(current.error(source));
                self.current = None;
                Now::Rest
            }
        }
    }

    /// Its answer if the ring failed while something, of this chain or another, was in flight.
    fn answer_of_broken(&mut self, error: &io::Error) -> Answer {
        match (&self.current, self.failed.take()) {
            (_, Some(failed)) => Err(failed),
            (None, None) => Ok(std::mem::take(&mut self.read)),
            (Some(current), None) => {
                let what = format!("the ring failed: {error}");
                Err(current.error(io::Error::new(error.kind(), what)))
            }
        }
    }

    /// Its answer; if the ring failed while nothing was in flight, what is left is done without it.
    fn answer(mut self) -> Answer {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let Some(current) = self.current else { return Ok(self.read) };
        let (op, mut begun) = current.rest();
        let is_read = matches!(op, Op::Read { .. });
        let mut rest = run_chain(std::iter::once(op).chain(self.chain).collect())?.into_iter();
        if is_read {
            begun.extend_from_slice(&rest.next().expect("a read returns bytes"));
            self.read.push(Bytes::from(begun));
        }
        self.read.extend(rest);
        Ok(self.read)
    }
}

#[cfg(test)]
mod tests;
