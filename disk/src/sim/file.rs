//! Open files of the simulated disk, and its lock. Each call on a file is an operation, which the
//! machine may refuse, do in part, or crash at.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::fault::Fault;
use super::inode::{FILE_BYTES_MAX, SECTOR_BYTES};
use super::state::{Call, State, Verdict};
use crate::env::{Arc, Mutex, MutexGuard, yield_now};
use crate::error::{DiskError, Operation};
use crate::file_name::FileName;
use crate::vfs::{File, Lock};

static ZERO_BLOCK: [u8; 64 * 1024] = [0; 64 * 1024];

/// The lock, held until this is dropped.
pub(super) struct SimLock {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimLock")
    }
}

impl SimLock {
    /// Of a machine of which it is locked by now.
    pub(super) fn new(state: &Arc<Mutex<State>>) -> Self {
        Self { state: Arc::clone(state) }
    }
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.state.lock().locked = false;
    }
}

/// An open file.
pub(super) struct SimFile {
    state: Arc<Mutex<State>>,
    name: FileName,
    inode: u64,
    writable: bool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.name)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.state.lock().drop_handle(self.inode);
    }
}

impl SimFile {
    /// A handle that the machine counts among those of the inode.
    pub(super) fn new(
        state: &Arc<Mutex<State>>,
        name: FileName,
        inode: u64,
        writable: bool,
    ) -> Self {
        Self { state: Arc::clone(state), name, inode, writable }
    }

    fn begin(&self, call: Call) -> Result<MutexGuard<'_, State>, io::Error> {
        let mut state = self.state.lock();
        match state.begin(call) {
            Verdict::Go => self.check(call).map(|()| state),
            verdict => Err(verdict.error()),
        }
    }

    /// Refuses what the handle or the simulation is not made for.
    fn check(&self, call: Call) -> io::Result<()> {
        use Operation as O;
        let writes = matches!(call.operation, O::SetLength | O::Allocate | O::Write);
        if writes && !self.writable {
            return Err(Errno::BADF.into());
        }
        if writes && call.end().is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(Errno::FBIG.into());
        }
        Ok(())
    }
}

impl File for SimFile {
    fn name(&self) -> FileName {
        self.name
    }

    fn len_bytes(&self) -> Result<u64, DiskError> {
        let call = Call::on(Operation::Length, self.name);
        let state = self.begin(call).map_err(|error| call.failed(error))?;
        Ok(state.inode(self.inode).len())
    }

    fn allocated_bytes(&self) -> Result<u64, DiskError> {
        let call = Call::on(Operation::Length, self.name);
        let state = self.begin(call).map_err(|error| call.failed(error))?;
        Ok(state.inode(self.inode).taken_sectors() * SECTOR_BYTES as u64)
    }

    fn set_len(&self, len_bytes: u64) -> Result<(), DiskError> {
        let call = Call::on(Operation::SetLength, self.name).of(0, len_bytes);
        let mut state = self.begin(call).map_err(|error| call.failed(error))?;
        let sequence = state.next_sequence();
        state.inode_mut(self.inode).set_len(sequence, len_bytes);
        Ok(())
    }

    fn allocate(&self, len_bytes: u64) -> Result<(), DiskError> {
        let call = Call::on(Operation::Allocate, self.name).of(0, len_bytes);
        let mut state = self.begin(call).map_err(|error| call.failed(error))?;
        let inode = state.inode(self.inode);
        let more = inode.taken_sectors_with(len_bytes).saturating_sub(inode.taken_sectors());
        state.make_room(more).map_err(|errno| call.failed(errno.into()))?;
        let sequence = state.next_sequence();
        state.inode_mut(self.inode).allocate(sequence, len_bytes);
        Ok(())
    }

    fn read_at(&self, offset_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let spare = buffer.capacity() - buffer.len();
        let call = Call::on(Operation::Read, self.name).of(offset_bytes, spare as u64);
        let mut state = self.state.lock();
        let verdict = state.begin(call);
        let inode = state.inode(self.inode);
        let left = usize::try_from(inode.len().saturating_sub(offset_bytes)).unwrap_or(usize::MAX);
        let mut count = spare.min(left);
        match verdict {
            Verdict::Go => {}
            Verdict::Injected(Fault::ShortRead) => count = state.short_read_of(count),
            verdict => return Err(verdict.error()),
        }
        let start = buffer.len();
        extend_by_zeros(buffer, count);
        state.inode(self.inode).read(offset_bytes, &mut buffer[start..]);
        Ok(count)
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
        let call = Call::on(Operation::Write, self.name).of(offset_bytes, data.len() as u64);
        let mut state = self.state.lock();
        let verdict = state.begin(call);
        self.check(call)?;
        let count = match verdict {
            Verdict::Go => data.len(),
            Verdict::Injected(Fault::ShortWrite) => state.short_write_of(data.len()),
            Verdict::CrashesNow => {
                let torn = state.torn_write_of(data.len());
                if let Ok(torn) = state.fitting_part_of(self.inode, offset_bytes, torn) {
                    let sequence = state.next_sequence();
                    state.inode_mut(self.inode).write(sequence, offset_bytes, &data[..torn]);
                }
                return Err(verdict.error());
            }
            verdict => return Err(verdict.error()),
        };
        let count = state.fitting_part_of(self.inode, offset_bytes, count)?;
        let sequence = state.next_sequence();
        state.inode_mut(self.inode).write(sequence, offset_bytes, &data[..count]);
        Ok(count)
    }

    /// What is written while it is under way is not part of it, as on a real disk.
    fn sync_data(&self) -> io::Result<()> {
        let call = Call::on(Operation::Sync, self.name);
        let began = {
            let mut state = self.state.lock();
            match state.begin(call) {
                Verdict::Go => state.sequence,
                verdict => {
                    if matches!(
                        verdict,
                        Verdict::Injected(Fault::SyncFailsThenClean | Fault::SyncEnospc)
                    ) {
                        state.fail_sync(self.inode);
                    }
                    return Err(verdict.error());
                }
            }
        };
        yield_now();
        let mut state = self.state.lock();
        if state.crashed {
            return Err(Verdict::Crashed.error());
        }
        state.inode_mut(self.inode).sync(began);
        Ok(())
    }
}

/// As `resize`, by block copies: unoptimised builds, in which tests run, resize byte by byte.
fn extend_by_zeros(buffer: &mut Vec<u8>, count: usize) {
    let end = buffer.len() + count;
    while buffer.len() < end {
        let part = (end - buffer.len()).min(ZERO_BLOCK.len());
        buffer.extend_from_slice(&ZERO_BLOCK[..part]);
    }
}
