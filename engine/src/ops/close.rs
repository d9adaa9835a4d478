//! close: each log's last segment ended, if an open would have much to take from it -> full segments sealed ->
//! memtables of many entries flushed -> a long root log written anew -> half-written tables given up -> logs cut
//! at their ends, and synced -> the root says so -> unlock. A store at rest is unlocked as it is.

use pinstone_disk::DiskExt;
use pinstone_disk::env::Ordering;
use pinstone_wal::LogPosition;

use crate::error::Result;
use crate::ops::compact::at_close;
use crate::ops::{commit, compact};
use crate::state::inner::{Access, Inner};
use crate::state::root::Ends;
use crate::{Error, maintain};

/// Ends writing, for every handle. The lock is given back even if something fails; the next open
/// then has something to mend. Closed already, it tells whether that went well.
pub(crate) fn close(inner: &Inner) -> Result<()> {
    // Held to the end: who closes meanwhile is told of the outcome, too.
    let mut access = inner.lock.lock();
    if let Access::Closed { failure } = &*access {
        return failure.clone().map_or(Ok(()), |cause| Err(Error::Poisoned { cause }));
    }
    inner.signal.stop();
    inner.compact_signal.stop();
    maintain::let_go::keep_left(inner);
    let has_written = inner.writing.load(Ordering::Acquire) && inner.writer.poison.check().is_ok();
    // What is written for the next open's sake does not take what this close needs.
    let may_write = has_written && inner.options.reserve_bytes > 0 && inner.reserve.is_whole();
    end_long_segments(inner, has_written, may_write);
    let closed = seal_all(inner).and_then(|()| {
        if may_write {
            if let Err(error) = at_close::flush(inner) {
                tracing::warn!(%error, "memtables stay unflushed");
            }
            if let Err(error) = inner.root.shorten(SHORT_ROOT_BYTES, 2) {
                tracing::warn!(%error, "the root's log stays long");
            }
        }
        settle(inner)
    });
    let _ = inner.writer.poison.set("it was closed");
    wait_until_quiet(inner);
    // The lock is given back here.
    *access = Access::Closed { failure: closed.as_ref().err().map(cause) };
    closed
}

/// What is told to who closes a store that somebody failed to close.
fn cause(error: &Error) -> String {
    if let Error::Poisoned { cause } = error {
        return cause.clone();
    }
    let chain =
        std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Returns once nothing is on its way that passed the switch before it was turned: whoever takes
/// the lock next finds files that nobody writes.
fn wait_until_quiet(inner: &Inner) {
    // Also where closing failed before it came to that. It is begun anew after the next open.
    compact::abandon(&mut inner.trees.work.lock());
    drop(inner.maintaining.lock());
    drop(inner.growing.lock());
    drop(inner.pointer_log.lock());
    inner.blob.wait_until_quiet();
    let _ = inner.root.end();
}

/// A root log that is no longer than this an open reads as fast as a short one.
const SHORT_ROOT_BYTES: u64 = 8 << 10;

/// The share of a segment from which on it is not left unsealed: an open would read all of it, and reads a list
/// instead. So an open and a close that add less make no segment of their own.
const LONG_SHARE: u64 = 8;

/// Has the blob log go on in a further segment, if the next open would have much to read of the last, and the
/// pointer log, if there are many names to be flushed. Where that cannot be had, the store is closed as it is.
fn end_long_segments(inner: &Inner, has_written: bool, may_write: bool) {
    let end_bytes = inner.blob.figures().end.offset_bytes();
    if has_written && end_bytes > inner.options.segment_bytes / LONG_SHARE {
        let ended = maintain::grow_blob_log(inner).and_then(|()| Ok(inner.blob.go_on()?));
        if let Err(error) = ended {
            tracing::warn!(%error, "the last segment stays unsealed");
        }
    }
    let mut log = inner.pointer_log.lock();
    if may_write
        && !log.closed
        && !log.is_behind()
        && let Err(error) = commit::end_segment(inner, &mut log, at_close::CLOSE_DIVISOR)
    {
        tracing::warn!(%error, "the last segment of names stays unsealed");
    }
}

/// Seals what is full. What cannot be sealed for want of space is whole all the same, and is sealed
/// by the next writer.
fn seal_all(inner: &Inner) -> Result<()> {
    loop {
        match maintain::seal_next(inner) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error @ Error::NoSpace { .. }) => {
                tracing::warn!(%error, "full segments stay unsealed");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Ends both logs and tells the root. What could add to them, to the root or to the reserve waits
/// meanwhile, and then finds that writing has ended.
fn settle(inner: &Inner) -> Result<()> {
    // Compaction adds to the root, too, and what it has half written takes space.
    let mut work = inner.trees.work.lock();
    compact::abandon(&mut work);
    let _maintaining = inner.maintaining.lock();
    let mut log = inner.pointer_log.lock();
    let _growing = inner.growing.lock();
    inner.writer.poison.check()?;
    if inner.root.is_at_rest() {
        // Nothing was written: it is closed as it was.
        let _ = inner.writer.poison.set("it was closed");
        return Ok(());
    }
    let has_written = inner.writing.load(Ordering::Acquire);
    if has_written && let Err(error) = commit::testify(inner, &mut log) {
        tracing::warn!(%error, "no frame testifies to what was flushed");
    }
    inner.writer.poison.check()?;
    // From here on neither log takes anything: what the root is told stays true.
    log.closed = true;
    inner.blob.trim()?;
    let mut pointer = LogPosition::START;
    if let Some(appender) = &log.appender {
        let file = &appender.segment().file;
        file.set_len(appender.end().offset_bytes())?;
        inner.disk.sync(file)?;
        pointer = appender.end();
    }
    let ends = Ends { blob: inner.blob.figures().end, pointer };
    maintain::with_reserve(inner, &mut log, |_| 0, |_| Ok(inner.root.close(ends)?))?;
    if let Err(error) = inner.reserve.rest(inner.root.record_bytes(), commit::tail_bytes(pointer)) {
        tracing::warn!(%error, "the reserve stays as it is");
    }
    tracing::debug!(path = %inner.path.display(), "store closed");
    // Before the locks are let go.
    let _ = inner.writer.poison.set("it was closed");
    Ok(())
}

/// Closes a store whose last user is gone, if it was not closed before.
pub(crate) fn close_unasked(inner: &Inner) {
    if let Err(error) = close(inner)
        && !matches!(error, Error::Poisoned { .. })
    {
        tracing::warn!(%error, path = %inner.path.display(), "closing failed");
    }
}
