//! stats: figures of the store now.

use pinstone_disk::env::{AtomicU64, Ordering};

use crate::state::inner::Inner;
use crate::state::root::LogState;
use crate::stats::{Counters, LogStats, Stats};

/// Gathers the figures; each is exact, though not all of the same instant.
pub(crate) fn stats(inner: &Inner) -> Stats {
    let root = inner.root.state();
    let blob = inner.blob.figures();
    let pointer_log = inner.pointer_log.lock();
    let pointer_end = pointer_log.appender.as_ref().map(|appender| appender.end());
    drop(pointer_log);
    let header = inner.root.header();
    Stats {
        store_id: header.store_id.to_string(),
        epoch: header.epoch.0,
        io_engine: inner.disk.engine(),
        last_commit: inner.pointers.last_commit().0,
        pointer_count: inner.pointers.len(),
        value_count: inner.index.len(),
        poisoned: inner.writer.poison.cause(),
        blob_log: LogStats {
            unsynced_bytes: blob.unsynced_bytes,
            ..log_stats(&root.blob, blob.end.offset_bytes())
        },
        pointer_log: log_stats(&root.pointer, pointer_end.map_or(0, |end| end.offset_bytes())),
        root_log: LogStats {
            segment_count: 1,
            bytes: inner.root.end().offset_bytes(),
            ..LogStats::default()
        },
        since_open: counters(inner),
        recovery: inner.recovery.clone(),
    }
}

fn log_stats(log: &LogState, open_bytes: u64) -> LogStats {
    let seals = log.segments.values().filter_map(|segment| segment.seal);
    LogStats {
        segment_count: log.segments.len() as u64,
        sealed_count: seals.clone().count() as u64,
        bytes: open_bytes + seals.map(|seal| seal.file_bytes).sum::<u64>(),
        unsynced_bytes: 0,
    }
}

fn counters(inner: &Inner) -> Counters {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &inner.counters;
    Counters {
        put_count: read(&counters.put),
        put_known_count: read(&counters.put_known),
        put_bytes: read(&counters.put_bytes),
        get_count: read(&counters.get),
        get_absent_count: read(&counters.get_absent),
        get_bytes: read(&counters.get_bytes),
        commit_count: read(&counters.commit),
        commit_refused_count: read(&counters.commit_refused),
        commit_group_count: read(&counters.commit_group),
        written_bytes: inner.blob.figures().written_bytes,
        sealed_count: read(&counters.sealed),
    }
}
