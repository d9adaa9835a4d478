//! close: everything synced -> logs cut at their ends -> the root says so -> unlock.

use pinstone_disk::DiskExt;
use pinstone_wal::LogPosition;

use crate::error::Result;
use crate::state::inner::Inner;
use crate::state::root::Ends;
use crate::{Error, maintain};

/// Ends writing, for every handle. The lock is given back even if something fails; the next open
/// then has something to mend.
pub(crate) fn close(inner: &Inner) -> Result<()> {
    let Some(lock) = inner.lock.lock().take() else { return Ok(()) };
    inner.signal.stop();
    let closed = settle(inner);
    let _ = inner.poison.set("it was closed");
    drop(lock);
    closed
}

fn settle(inner: &Inner) -> Result<()> {
    maintain::all(inner)?;
    let _maintaining = inner.maintaining.lock();
    let mut log = inner.pointer_log.lock();
    inner.poison.check()?;
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
    inner.root.close(Ends { blob: inner.blob.figures().end, pointer })?;
    if let Err(error) = inner.reserve.remove() {
        tracing::warn!(%error, "the reserve stays");
    }
    tracing::debug!(path = %inner.path.display(), "store closed");
    Ok(())
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = close(self)
            && !matches!(error, Error::Poisoned { .. })
        {
            tracing::warn!(%error, path = %self.path.display(), "closing failed");
        }
    }
}
