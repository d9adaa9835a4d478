//! What need not be done at once: sealing full segments, making the next one ready, testifying,
//! flushing and compacting. The only file that starts threads: one for the logs, one for the trees,
//! so that no segment waits for a compaction.
//!
//! - M1: a step either completes or leaves things as they were, to be tried again.
//! - M2: threads sleep until something is due, and work until nothing is. What is right never depends on
//!   a clock: it only bounds the rate of compaction, if the options do.
//! - M3: what cannot be done keeps no commit from being testified to.

pub(crate) mod let_go;

use std::sync::{Arc, Weak};
use std::time::Duration;

use pinstone_compaction::run::Index;
use pinstone_disk::env::{self, Condvar, Mutex, MutexGuard, Ordering};
use pinstone_disk::{LogKind, TableKind};
use pinstone_wal::{Closing, LogPosition, Sealed, SegmentHeader};

use crate::error::{Error, Result};
use crate::ops::compact::{self, StoreTree};
use crate::options::Maintenance;
use crate::state::inner::{Inner, PointerLog, count};
use crate::state::segments::Segment;
use crate::state::take_over::TakeOver;

/// Bytes of the reserve that are given back at first, for what goes on without other space.
const RELEASE_BYTES: u64 = 16 << 10;

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

impl Signal {
    /// Waits until then, unless writers have to help meanwhile, or it is to stop.
    fn rest(&self, inner: &Inner, until: Duration) {
        let mut state = self.state.lock();
        while !state.stop && inner.trees.pressure.load(Ordering::Relaxed) == 0 {
            let Some(left) = until.checked_sub(env::monotonic()).filter(|left| !left.is_zero())
            else {
                return;
            };
            self.changed.wait_for(&mut state, left.min(REST_MAX));
        }
    }
}

/// How long the thread rests before it looks whether it may.
const REST_MAX: Duration = Duration::from_millis(100);

/// Starts the threads, if the options ask for them: both, or none that goes on.
pub(crate) fn start(inner: &Arc<Inner>) -> Result<()> {
    if inner.options.maintenance != Maintenance::Thread {
        return Ok(());
    }
    start_thread("pinstone-maintain", inner, &inner.signal, maintain_logs)?;
    // Without it, nobody closes the store, which would end the other.
    start_thread("pinstone-compact", inner, &inner.compact_signal, maintain_trees)
        .inspect_err(|_| inner.signal.stop())?;
    // What recovery left to be sealed; a store that is only read has nothing due.
    if inner.blob.closing_count() > 0 || !inner.pointer_log.lock().closing.is_empty() {
        inner.signal.due();
    }
    Ok(())
}

fn start_thread(
    name: &str,
    inner: &Arc<Inner>,
    signal: &Arc<Signal>,
    work: fn(&Inner) -> Result<()>,
) -> Result<()> {
    let (signal, weak) = (Arc::clone(signal), Arc::downgrade(inner));
    let run = move || run(&signal, &weak, work);
    env::spawn(name, run).map(drop).map_err(|source| Error::Io {
        source: pinstone_disk::DiskError::new(
            pinstone_disk::Operation::Open,
            "a maintenance thread",
            source,
        ),
    })
}

fn run(signal: &Signal, weak: &Weak<Inner>, work: fn(&Inner) -> Result<()>) {
    while signal.wait() {
        let Some(inner) = weak.upgrade() else { return };
        // The writer whose operation needs it meets the same failure, and reports it.
        if let Err(error) = work(&inner) {
            tracing::warn!(%error, "maintenance failed");
        }
    }
}

fn maintain_logs(inner: &Inner) -> Result<()> {
    let done = logs(inner);
    // M3.
    let told = testify(inner);
    done.and(told)
}

fn maintain_trees(inner: &Inner) -> Result<()> {
    compact::begin_again(inner);
    let compacted = || inner.trees.compacted_bytes.load(Ordering::Relaxed);
    let (begun, mut own_bytes) = (env::monotonic(), 0);
    loop {
        let before = compacted();
        if !compact::step(inner)? {
            return Ok(());
        }
        // What others do meanwhile is theirs, but for what falls into these moments.
        own_bytes += compacted() - before;
        env::yield_now();
        let rate = inner.options.compaction_bytes_per_second;
        let until = begun + Duration::from_secs_f64(own_bytes as f64 / rate as f64);
        inner.compact_signal.rest(inner, until);
    }
}

/// After so many values or names were written: has done, or has the thread do, what became due, with a share for each
/// in what is behind.
pub(crate) fn after_writes(inner: &Inner, write_count: u64) -> Result<()> {
    let pointer_due = inner.pointer_due.load(Ordering::Relaxed)
        && inner.pointer_due.swap(false, Ordering::Relaxed);
    if inner.blob.take_due() || pointer_due {
        match inner.options.maintenance {
            Maintenance::Inline => {
                let done = all(inner);
                let told = if is_untold(inner) { testify(inner) } else { Ok(()) };
                return done.and(told);
            }
            Maintenance::Thread => inner.signal.due(),
        }
    }
    let entry_count = inner.trees.pressure.load(Ordering::Relaxed);
    if entry_count > 0 && inner.options.maintenance == Maintenance::Thread {
        // What fails here, the thread has met too, or will.
        let _ = compact::help(inner, entry_count.saturating_mul(write_count));
    }
    Ok(())
}

/// Steps until nothing is due.
pub(crate) fn all(inner: &Inner) -> Result<()> {
    logs(inner)?;
    compact::begin_again(inner);
    while compact::step(inner)? {}
    inner.root.rewrite()?;
    Ok(())
}

/// Seals what is full, and makes the next segment ready.
fn logs(inner: &Inner) -> Result<()> {
    while step(inner)? {}
    Ok(inner.root.rewrite()?)
}

/// Carries out the next thing that is due; false if nothing was.
fn step(inner: &Inner) -> Result<bool> {
    if seal_next(inner)? {
        return Ok(true);
    }
    let_go::keep_left(inner);
    let is_behind = inner.index.frozen_count() >= compact::FROZEN_MAX;
    let is_refused = inner.growth_refused.load(Ordering::Relaxed);
    // Who only reads needs none.
    let writes = inner.writing.load(Ordering::Acquire);
    if !inner.blob.wants_next() || is_behind || is_refused || !writes {
        return Ok(false);
    }
    let _one_at_a_time = inner.maintaining.lock();
    let growing = lock_growing(inner)?;
    if inner.blob.is_behind() || !inner.blob.wants_next() {
        // The log went on meanwhile: look again.
        return Ok(true);
    }
    let grown = grow_blob_log_holding(inner, &growing);
    if grown.is_err() {
        // Whoever needs the segment tries again; until then nobody has to.
        inner.growth_refused.store(true, Ordering::Relaxed);
    }
    grown.map(|()| true)
}

/// Before the log grows whose entries go to this tree: returns once nothing full of it is unsealed, and few of
/// the tree's memtables wait to be written. Of each log at most two segments are unsealed then, the one
/// that is full by now and the next: what recovery copies, and what is set aside for that, stay bounded. For the
/// blob log nothing of the pointer log is sealed: that may need the blob log to grow.
///
/// # Errors
/// Why it cannot be sealed, or written; the log must not grow then.
pub(crate) fn seal_behind<T: StoreTree>(inner: &Inner) -> Result<()> {
    compact::flush_behind::<T>(inner)?;
    let is_blob = T::KIND == TableKind::Index;
    while inner.blob.is_behind() || (!is_blob && inner.pointer_behind.load(Ordering::Acquire)) {
        // What another thread seals, this waits for.
        let is_sealed = if is_blob { seal_next_of_blob(inner)? } else { seal_next(inner)? };
        if !is_sealed {
            break;
        }
    }
    Ok(())
}

/// For who sets space aside, or adds a segment to the blob log: not once the store is closed. What is
/// set aside would stay so, and the directory may be another process's. Closing takes this lock, too.
///
/// # Errors
/// Writing has ended.
pub(crate) fn lock_growing(inner: &Inner) -> Result<MutexGuard<'_, Option<TakeOver>>> {
    let growing = inner.growing.lock();
    inner.writer.poison.check()?;
    Ok(growing)
}

/// Sets aside what recovery may need, if it is not.
///
/// # Errors
/// *No space*: it is not there.
pub(crate) fn hold_reserve(inner: &Inner) -> Result<()> {
    let _growing = lock_growing(inner)?;
    Ok(inner.reserve.hold(inner.root.record_bytes())?)
}

/// Does what must be possible on a full device: if there is no space otherwise, with a little of what is
/// set aside, and then more, but with nothing that recovery needs if `ahead_bytes` are appended.
pub(crate) fn with_reserve<T>(
    inner: &Inner,
    log: &mut PointerLog,
    ahead_bytes: impl Fn(&PointerLog) -> u64,
    mut act: impl FnMut(&mut PointerLog) -> Result<T>,
) -> Result<T> {
    let mut step_bytes = RELEASE_BYTES;
    loop {
        let outcome = act(log);
        if !matches!(outcome, Err(Error::NoSpace { .. })) {
            return outcome;
        }
        let needed_bytes = || copies_bytes(inner, log) + ahead_bytes(log);
        if !inner.reserve.release(step_bytes, needed_bytes, inner.root.record_bytes())? {
            return outcome;
        }
        step_bytes = step_bytes.saturating_mul(2);
    }
}

/// Sees to it that recovery has the space for what it needs, with `ahead_bytes` that are about to be
/// appended, even if not all is set aside that should be.
///
/// # Errors
/// *No space*: it is not there.
pub(crate) fn cover(inner: &Inner, log: &PointerLog, ahead_bytes: u64) -> Result<()> {
    let copies_bytes = copies_bytes(inner, log) + ahead_bytes;
    Ok(inner.reserve.cover(copies_bytes, inner.root.record_bytes())?)
}

/// The same, for a root that is about to have up to `root_bytes`; if not all is set aside then, whoever
/// writes next sets aside what is missing.
///
/// # Errors
/// As [`cover`].
pub(crate) fn cover_root(inner: &Inner, root_bytes: u64) -> Result<()> {
    inner.reserve.expect_root(root_bytes)?;
    if inner.reserve.is_whole() {
        return Ok(());
    }
    // What recovery would copy is counted once nothing takes room unasked (V2).
    let copies_bytes = copies_bytes(inner, &inner.pointer_log.lock());
    Ok(inner.reserve.cover(copies_bytes, root_bytes)?)
}

/// Bytes that copies of what is unsealed, and not testified to, take.
fn copies_bytes(inner: &Inner, log: &PointerLog) -> u64 {
    let [blob, pointer] = [&inner.told_blob, &inner.told_pointer]
        .map(|told| LogPosition::from_number(told.load(Ordering::Acquire)));
    inner.blob.copies_bytes(blob) + log.copies_bytes(pointer)
}

/// Seals the oldest full segment of either log; false if there is none.
pub(crate) fn seal_next(inner: &Inner) -> Result<bool> {
    Ok(seal_next_of_blob(inner)? || seal_next_of_pointer(inner)?)
}

/// Seals the blob log's oldest full segment; false if there is none.
fn seal_next_of_blob(inner: &Inner) -> Result<bool> {
    let _one_at_a_time = inner.maintaining.lock();
    inner.writer.poison.check()?;
    let Some(mut closing) = inner.blob.take_closing()? else { return Ok(false) };
    if let Err(error) = seal(inner, &mut closing) {
        inner.blob.return_closing(closing);
        return Err(error);
    }
    inner.blob.note_sealed();
    inner.compact_signal.due();
    settle_reserve(inner)?;
    Ok(true)
}

/// The same of the pointer log, which then carries nothing of that segment.
fn seal_next_of_pointer(inner: &Inner) -> Result<bool> {
    let next = || Some(inner.pointer_log.lock().closing.front()?.end().ordinal());
    let kept = next();
    if let Some(ordinal) = kept {
        let_go::keep_carried(inner, ordinal)?;
    }
    let _one_at_a_time = inner.maintaining.lock();
    inner.writer.poison.check()?;
    let now = next();
    if now != kept || kept.is_none() {
        // Another thread sealed it, or filled one.
        return Ok(now != kept);
    }
    let mut closing = take_pointer_closing(inner).expect("nobody else takes it");
    let sealed = seal(inner, &mut closing);
    let mut log = inner.pointer_log.lock();
    log.sealing = None;
    if sealed.is_err() {
        log.closing.push_front(closing);
        inner.pointer_due.store(true, Ordering::Relaxed);
    }
    inner.pointer_behind.store(log.is_behind(), Ordering::Release);
    drop(log);
    sealed?;
    inner.compact_signal.due();
    settle_reserve(inner)?;
    Ok(true)
}

fn take_pointer_closing(inner: &Inner) -> Option<Closing> {
    let mut log = inner.pointer_log.lock();
    let closing = log.closing.pop_front()?;
    log.sealing = Some(closing.end());
    Some(closing)
}

/// What is set aside for what is longer than a segment is given back once that is sealed.
fn settle_reserve(inner: &Inner) -> Result<()> {
    if !inner.reserve.has_oversize() {
        return Ok(());
    }
    // Not while something long is between its share of the reserve and its segment.
    let log = inner.pointer_log.lock();
    let _growing = inner.growing.lock();
    let pointer = log.oversize_bytes(inner.options.pointer_segment_bytes);
    Ok(inner.reserve.settle(inner.blob.oversize_bytes() + pointer)?)
}

fn seal(inner: &Inner, closing: &mut Closing) -> Result<Sealed> {
    let sealed = closing.seal(&*inner.disk, &inner.writer.poison)?;
    let SegmentHeader { log, ordinal, epoch, .. } = sealed.header;
    if log == LogKind::Blob {
        // Before the root says so: from then on what the segment holds may stand in tables, and is
        // confirmed at its list.
        inner.segments.add(Segment::sealed(ordinal, epoch, sealed.footer_hash));
    }
    inner.root.seal_segment(&sealed)?;
    count(&inner.counters.sealed, 1);
    tracing::debug!(
        file = %sealed.header.file_name(), bytes = sealed.file_bytes, "segment sealed"
    );
    Ok(sealed)
}

/// Adds a segment for the blob log to go on in, unless one waits already; first seals what is full.
pub(crate) fn grow_blob_log(inner: &Inner) -> Result<()> {
    loop {
        seal_behind::<Index>(inner)?;
        let growing = lock_growing(inner)?;
        if inner.blob.has_next() || !inner.blob.is_behind() {
            return grow_blob_log_holding(inner, &growing);
        }
    }
}

/// As [`grow_blob_log`], for who holds that lock, when nothing full is unsealed.
pub(crate) fn grow_blob_log_holding(
    inner: &Inner,
    _growing: &MutexGuard<'_, Option<TakeOver>>,
) -> Result<()> {
    if inner.blob.has_next() {
        return Ok(());
    }
    inner.reserve.hold(inner.root.record_bytes())?;
    let segment = inner.root.add_segment(LogKind::Blob, inner.options.segment_bytes)?;
    inner.segments.add(Segment::unsealed(&segment));
    inner.index.before_segment(segment.header.ordinal);
    compact::note_pressure(inner);
    inner.blob.offer(segment).expect("none waits, and only this function offers");
    inner.growth_refused.store(false, Ordering::Relaxed);
    Ok(())
}

/// So much of the pointer log is durable that nothing outside of it testifies to, that the root is to. The
/// segments before its last one the root testified to when it named that.
pub(crate) fn is_untold(inner: &Inner) -> bool {
    let synced = inner.writer.synced.of(LogKind::Pointer);
    let told = LogPosition::from_number(inner.told_pointer.load(Ordering::Acquire));
    let told_bytes = if told.ordinal() == synced.ordinal() { told.offset_bytes() } else { 0 };
    synced.offset_bytes().saturating_sub(told_bytes) > inner.options.testify_bytes
}

/// Writes down how far the logs are durable, if something became durable since that was last
/// written: from then on damage to the last commits is told from a torn tail.
pub(crate) fn testify(inner: &Inner) -> Result<()> {
    let now = inner.writer.synced.now();
    let told =
        (inner.told_blob.load(Ordering::Acquire), inner.told_pointer.load(Ordering::Acquire));
    if told == (now.blob.number(), now.pointer.number()) {
        return Ok(());
    }
    inner.root.testify()?;
    inner.told_blob.store(now.blob.number(), Ordering::Release);
    inner.told_pointer.store(now.pointer.number(), Ordering::Release);
    Ok(())
}
