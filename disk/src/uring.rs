//! Batches by io_uring: the chains of a batch in flight together, driven by the caller's own thread.
//!
//! 1. A batch borrows a ring that nobody uses, or makes one, up to [`RINGS_MAX`]. If there is none to be
//!    had, the caller carries the chains out otherwise.
//! 2. The first operation of each chain is submitted, up to [`DEPTH`] at once. What completes makes room
//!    for what comes next: the rest of a short read or write, the same again if it was interrupted, the
//!    chain's next, or another chain's first.
//! 3. The batch returns when none of it is in flight.
//!
//! - U1: an operation in flight owns its buffer and its file. Both are in its batch's [`Flight`]s, which
//!   are dropped only when nothing is in flight; should the ring fail before, or this code panic, they are
//!   leaked.
//! - U2: no operation is linked to another in the kernel: the next one of a chain is submitted when the one
//!   before it has wholly succeeded (D4), so a sync never overtakes the rest of a short write.
//! - U3: a ring on which anything went wrong is closed, not lent again.
//!
//! The residual risk is the kernel's: that it writes to a buffer after it said that it was done.

#![expect(unsafe_code, reason = "the kernel is handed pointers to what this file keeps alive: U1")]

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use bytes::Bytes;
use io_uring::squeue::Entry;
use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

use crate::env::{self, AtomicUsize, Mutex, Ordering};
use crate::error::{DiskError, Operation};
use crate::vfs::{Batch, File, Op, run_chain};

/// Rings of one disk: as many batches can be in flight at once by io_uring.
const RINGS_MAX: usize = 16;

/// Operations of a batch in flight at once: what a fast device needs to be busy.
const DEPTH: u32 = 64;

/// What one operation of the kernel moves at most: its results are 32 bits with a sign.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

type Answer = Result<Vec<Bytes>, DiskError>;

/// The rings of a disk.
#[derive(Debug)]
pub(crate) struct Rings {
    idle: Mutex<Vec<Ring>>,
    made: AtomicUsize,
}

impl Rings {
    /// Tries whether the kernel lets us, by a read through a ring.
    ///
    /// # Errors
    /// That it does not, and why.
    pub(crate) fn probe() -> io::Result<Self> {
        let mut ring = Ring::new()?;
        let file = crate::std_disk::file_in_memory(b"probe")?;
        let read = Op::Read { file, offset_bytes: 0, len_bytes: 16 };
        let answers = ring.run(Batch { chains: vec![vec![read]] });
        let read = answers.into_iter().next().expect("one answer a chain");
        if let Some(error) = ring.broken.take() {
            return Err(error);
        }
        if read.map_err(|error| error.source)? != [&b"probe"[..]] {
            return Err(io::Error::other("a read by io_uring returned something else"));
        }
        Ok(Self { idle: Mutex::new(vec![ring]), made: AtomicUsize::new(1) })
    }

    /// Carries out all chains, or gives the batch back if there is no ring to be had.
    pub(crate) fn run(&self, batch: Batch) -> Result<Vec<Answer>, Batch> {
        let has_files = |op: &Op| op.file().descriptor().is_some();
        if !batch.chains.iter().flatten().all(has_files) {
            return Err(batch);
        }
        let Some(mut ring) = self.borrow() else { return Err(batch) };
        let answers = ring.run(batch);
        if ring.broken.is_some() {
            self.made.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.idle.lock().push(ring);
        }
        Ok(answers)
    }

    fn borrow(&self) -> Option<Ring> {
        if let Some(ring) = self.idle.lock().pop() {
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

    fn run(&mut self, batch: Batch) -> Vec<Answer> {
        let flights = batch.chains.into_iter().map(Flight::new).collect();
        let mut flights: ManuallyDrop<Vec<Flight>> = ManuallyDrop::new(flights);
        let mut ready: VecDeque<usize> = (0..flights.len()).collect();
        let mut traffic = Traffic::default();
        self.broken = self.drive(&mut flights, &mut ready, &mut traffic).err();
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

    /// Submits and reaps until nothing is left, or the ring fails.
    fn drive(
        &mut self,
        flights: &mut [Flight],
        ready: &mut VecDeque<usize>,
        traffic: &mut Traffic,
    ) -> io::Result<()> {
        loop {
            while traffic.queued + traffic.in_kernel < DEPTH as usize
                && let Some(at) = ready.pop_front()
            {
                let Some(entry) = flights[at].entry() else { continue };
                let entry = entry.user_data(at as u64);
                // SAFETY: U1: what the entry points to lives until its completion was seen.
                let pushed = unsafe { self.uring.submission().push(&entry) };
                pushed.expect("the queue has room for all that may be in flight");
                traffic.queued += 1;
            }
            if traffic.queued + traffic.in_kernel == 0 {
                return Ok(());
            }
            match self.uring.submit_and_wait(1) {
                Ok(count) => traffic.submitted(count),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::INTR) => {}
                    // Short of memory, or of room for completions: what is in flight makes some.
                    Some(Errno::AGAIN | Errno::BUSY) if traffic.in_kernel > 0 => env::yield_now(),
                    _ => return Err(error),
                },
            }
            for completion in self.uring.completion() {
                traffic.in_kernel -= 1;
                let at = usize::try_from(completion.user_data()).expect("it is a flight's number");
                if flights[at].completed(completion.result()) {
                    ready.push_back(at);
                }
            }
        }
    }
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
}

/// The operation of a chain that is in flight, or is next.
#[derive(Debug)]
enum Current {
    Read { file: Arc<dyn File>, offset_bytes: u64, len_bytes: usize, buffer: Vec<u8> },
    Write { file: Arc<dyn File>, offset_bytes: u64, data: Bytes, done_bytes: usize },
    Sync { file: Arc<dyn File> },
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
            Op::Sync { file } => Self::Sync { file },
        }
    }

    fn file(&self) -> &Arc<dyn File> {
        match self {
            Self::Read { file, .. } | Self::Write { file, .. } | Self::Sync { file } => file,
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
            Self::Sync { file } => (Op::Sync { file }, Vec::new()),
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
        Self { chain, current, read: Vec::new(), failed: None }
    }

    /// What is to be submitted next; none if the chain is done.
    fn entry(&mut self) -> Option<Entry> {
        self.current.as_mut().map(Current::entry)
    }

    /// Takes in what the kernel answered; true if there is more to submit.
    fn completed(&mut self, result: i32) -> bool {
        let current = self.current.as_mut().expect("what completes was submitted");
        let moved = match usize::try_from(result) {
            Ok(count) => current.moved(count),
            Err(_) => match Errno::from_raw_os_error(-result) {
                // It did not happen.
                Errno::INTR | Errno::AGAIN | Errno::CANCELED => Ok(false),
                errno => Err(errno.into()),
            },
        };
        match moved {
            Ok(false) => true,
            Ok(true) => {
                if let Some(Current::Read { buffer, .. }) = self.current.take() {
                    self.read.push(Bytes::from(buffer));
                }
                self.current = self.chain.next().map(Current::new);
                self.current.is_some()
            }
            Err(source) => {
                self.failed = Some(current.error(source));
                self.current = None;
                false
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
