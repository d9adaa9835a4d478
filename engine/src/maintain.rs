//! What need not be done at once: sealing full segments, making the next one ready, testifying.
//! The only file that starts a thread.
//!
//! - M1: a step either completes or leaves things as they were, to be tried again.
//! - M2: no clock: the thread sleeps until something is due, and works until nothing is.

use std::sync::{Arc, Weak};

use pinstone_disk::LogKind;
use pinstone_disk::env::{self, Condvar, Mutex, MutexGuard, Ordering};
use pinstone_wal::{Closing, Sealed};

use crate::error::Result;
use crate::options::Maintenance;
use crate::state::inner::{Inner, count};

/// Full segments that may wait to be sealed; a writer that finds more lends a hand, so that
/// unsealed bytes, and with them recovery and the reserve that it needs, stay bounded.
const CLOSING_MAX: usize = 1;

/// A root log longer than this takes no more testimony, only edits: it is read whole at open.
const ROOT_LOG_BYTES_MAX: u64 = 16 << 20;

/// Wakes the maintenance thread.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SignalState {
    due: bool,
    stop: bool,
}

impl Signal {
    fn due(&self) {
        self.state.lock().due = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_one();
    }

    /// Waits until something is due; false once there is nothing more to wait for.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.due && !state.stop {
            self.changed.wait(&mut state);
        }
        state.due = false;
        !state.stop
    }
}

/// Starts the thread, if the options ask for one.
pub(crate) fn start(inner: &Arc<Inner>) -> Result<()> {
    if inner.options.maintenance != Maintenance::Thread {
        return Ok(());
    }
    let signal = Arc::clone(&inner.signal);
    let weak = Arc::downgrade(inner);
    env::spawn("pinstone-maintain", move || run(&signal, &weak)).map(drop).map_err(|source| {
        crate::Error::Io {
            source: pinstone_disk::DiskError::new(
                pinstone_disk::Operation::Open,
                "the maintenance thread",
                source,
            ),
        }
    })?;
    // What recovery left to be sealed; a store that is only read has nothing due.
    if inner.blob.closing_count() > 0 || !inner.pointer_log.lock().closing.is_empty() {
        inner.signal.due();
    }
    Ok(())
}

fn run(signal: &Signal, weak: &Weak<Inner>) {
    while signal.wait() {
        let Some(inner) = weak.upgrade() else { return };
        // The writer whose operation needs it meets the same failure, and reports it.
        if let Err(error) = all(&inner).and_then(|()| testify(&inner)) {
            tracing::warn!(%error, "maintenance failed");
        }
    }
}

/// After a write: has done, or has the thread do, what became due.
pub(crate) fn after_write(inner: &Inner) -> Result<()> {
    let pointer_due = inner.pointer_due.load(Ordering::Relaxed)
        && inner.pointer_due.swap(false, Ordering::Relaxed);
    if !inner.blob.take_due() && !pointer_due {
        return Ok(());
    }
    let closing = inner.blob.closing_count();
    match inner.options.maintenance {
        Maintenance::Inline => all(inner),
        Maintenance::Thread if closing > CLOSING_MAX => all(inner),
        Maintenance::Thread => {
            inner.signal.due();
            Ok(())
        }
    }
}

/// Steps until nothing is due.
pub(crate) fn all(inner: &Inner) -> Result<()> {
    while step(inner)? {}
    Ok(())
}

/// Carries out the next thing that is due; false if nothing was.
fn step(inner: &Inner) -> Result<bool> {
    if seal_next(inner)? {
        return Ok(true);
    }
    let grows = inner.blob.wants_next() && !inner.growth_refused.load(Ordering::Relaxed);
    if grows {
        let _one_at_a_time = inner.maintaining.lock();
        let grown = grow_blob_log(inner);
        // Whoever needs the segment tries again; until then nobody has to.
        inner.growth_refused.store(grown.is_err(), Ordering::Relaxed);
        grown?;
    }
    Ok(grows)
}

/// Before a log grows: seals what is full, unless the maintenance thread keeps up with that.
///
/// # Errors
/// Why it cannot be sealed. What is unsealed stays bounded: the log does not grow then.
pub(crate) fn bound_unsealed(inner: &Inner) -> Result<()> {
    let is_over = || {
        inner.blob.closing_count() > CLOSING_MAX
            || inner.pointer_closing.load(Ordering::Relaxed) > CLOSING_MAX
    };
    while is_over() && seal_next(inner)? {}
    Ok(())
}

/// Sets aside what recovery may need, if it is not.
///
/// # Errors
/// *No space*: it is not there.
pub(crate) fn hold_reserve(inner: &Inner) -> Result<()> {
    let _growing = inner.growing.lock();
    // What is set aside after a close would stay so.
    inner.writer.poison.check()?;
    Ok(inner.reserve.hold(inner.root.record_bytes())?)
}

/// Seals the oldest full segment; false if there is none.
pub(crate) fn seal_next(inner: &Inner) -> Result<bool> {
    let _one_at_a_time = inner.maintaining.lock();
    inner.writer.poison.check()?;
    if let Some(mut closing) = inner.blob.take_closing()? {
        match seal(inner, &mut closing) {
            Ok(sealed) => {
                inner.segments.add_sealed(sealed.header.ordinal, sealed.header.epoch);
                inner.blob.note_sealed();
                // Not while a long value is between its share of the reserve and its segment.
                let _growing = inner.growing.lock();
                inner.reserve.settle(|| inner.blob.oversize_bytes())?;
            }
            Err(error) => {
                inner.blob.return_closing(closing);
                return Err(error);
            }
        }
        return Ok(true);
    }
    let Some(mut closing) = take_pointer_closing(inner) else { return Ok(false) };
    let sealed = seal(inner, &mut closing);
    let mut log = inner.pointer_log.lock();
    log.sealing = None;
    if let Err(error) = sealed {
        log.closing.push_front(closing);
        inner.pointer_closing.store(log.closing.len(), Ordering::Relaxed);
        inner.pointer_due.store(true, Ordering::Relaxed);
        return Err(error);
    }
    Ok(true)
}

fn take_pointer_closing(inner: &Inner) -> Option<Closing> {
    let mut log = inner.pointer_log.lock();
    let closing = log.closing.pop_front()?;
    log.sealing = Some(closing.end());
    inner.pointer_closing.store(log.closing.len(), Ordering::Relaxed);
    Some(closing)
}

fn seal(inner: &Inner, closing: &mut Closing) -> Result<Sealed> {
    let sealed = closing.seal(&*inner.disk, &inner.writer.poison)?;
    inner.root.seal_segment(&sealed)?;
    count(&inner.counters.sealed, 1);
    tracing::debug!(
        file = %sealed.header.file_name(), bytes = sealed.file_bytes, "segment sealed"
    );
    Ok(sealed)
}

/// Adds a segment for the blob log to go on in, unless one waits already.
pub(crate) fn grow_blob_log(inner: &Inner) -> Result<()> {
    grow_blob_log_holding(inner, &inner.growing.lock())
}

/// As [`grow_blob_log`], for who holds that lock.
pub(crate) fn grow_blob_log_holding(inner: &Inner, _growing: &MutexGuard<'_, ()>) -> Result<()> {
    // Before anything is made in the directory, which may be another process's once we are closed.
    inner.writer.poison.check()?;
    if inner.blob.has_next() {
        return Ok(());
    }
    inner.reserve.hold(inner.root.record_bytes())?;
    let segment = inner.root.add_segment(LogKind::Blob, inner.options.segment_bytes)?;
    inner.segments.add_unsealed(segment.clone());
    inner.blob.offer(segment).expect("none waits, and only this function offers");
    Ok(())
}

/// Writes down how far the logs are durable, if something became durable since that was last
/// written: from then on damage to the last commits is told from a torn tail.
pub(crate) fn testify(inner: &Inner) -> Result<()> {
    let now = inner.writer.synced.now();
    let told =
        (inner.told_blob.load(Ordering::Acquire), inner.told_pointer.load(Ordering::Acquire));
    let is_told = told == (now.blob.number(), now.pointer.number());
    if is_told || inner.root.end().offset_bytes() > ROOT_LOG_BYTES_MAX {
        return Ok(());
    }
    inner.root.testify()?;
    inner.told_blob.store(now.blob.number(), Ordering::Release);
    inner.told_pointer.store(now.pointer.number(), Ordering::Release);
    Ok(())
}
