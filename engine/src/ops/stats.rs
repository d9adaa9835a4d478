//! stats: figures of the store now.

use pinstone_compaction::run::{Index, Names};
use pinstone_compaction::{TableError, plan};
use pinstone_disk::LogKind;
use pinstone_disk::env::{AtomicU64, Ordering};
use pinstone_wal::{Appender, Closing, FRAMES_START_BYTES, LogPosition};

use crate::ops::compact::StoreTree;
use crate::state::inner::{Counts, Inner, PointerLog};
use crate::state::root::LogState;
use crate::stats::{Counters, LevelStats, LogStats, MemoryStats, Stats, TreeStats};

/// Gathers the figures; each is exact, though not all of the same instant.
pub(crate) fn stats(inner: &Inner) -> Stats {
    // Before the root: a segment that is sealed meanwhile has its length from there.
    let blob_ends = inner.blob.figures().unsealed_ends;
    let pointer_ends = unsealed_ends(&inner.pointer_log.lock());
    let root_end = inner.root.end();
    let synced = inner.writer.synced.now();
    let root = inner.root.state();
    let header = inner.root.header();
    let mapped = inner.disk.mapped();
    Stats {
        store_id: header.store_id.to_string(),
        epoch: header.epoch.0,
        io_engine: inner.disk.engine(),
        mapped_bytes: mapped.mapped_bytes,
        pinned_bytes: mapped.pinned_bytes,
        last_commit: inner.pointers.last_commit().0,
        pointer_count: inner.pointers.entry_count_estimate(),
        value_count: inner.index.view().entry_count(),
        poisoned: inner.writer.poison.cause(),
        blob_log: log_stats(root.log(LogKind::Blob), &blob_ends, synced.blob),
        pointer_log: log_stats(root.log(LogKind::Pointer), &pointer_ends, synced.pointer),
        root_log: LogStats {
            segment_count: 1,
            bytes: root_end.offset_bytes(),
            ..LogStats::default()
        },
        index: tree_stats::<Index>(inner),
        names: tree_stats::<Names>(inner),
        memory: memory_stats(inner),
        since_open: counters(inner),
        recovery: inner.recovery.clone(),
    }
}

fn tree_stats<T: StoreTree>(inner: &Inner) -> TreeStats {
    let shape = inner.trees.shape(T::KIND);
    let (figures, damage) = {
        let mut work = inner.trees.work.lock();
        let work = T::work(&mut work);
        (work.figures.clone(), work.damage.clone())
    };
    let memtables = T::memtable_entries(inner);
    let open = T::levels(inner);
    let levels = open.levels();
    let scores = plan::score(levels, shape, &damage.tables());
    let amplification = |written_bytes: u64| rate(written_bytes, figures.flushed_bytes);
    let level_stats = |level: u8| {
        let (sums, at) = (levels.sums(level), usize::from(level));
        let flushed_bytes = if level == 0 { figures.flushed_bytes } else { 0 };
        let mut stats = LevelStats {
            level,
            table_count: sums.table_count,
            bytes: sums.file_bytes,
            entry_count: sums.entry_count,
            score: scores[at],
            read_bytes: figures.read_bytes[at],
            written_bytes: figures.written_bytes[at],
            write_amplification: amplification(figures.written_bytes[at] + flushed_bytes),
            ..LevelStats::default()
        };
        for table in open.tables(level) {
            let probes = T::file(table).figures();
            stats.asked_count += probes.asked;
            stats.filtered_count += probes.filtered;
            stats.found_count += probes.found;
            stats.device_read_count += probes.unit_reads;
        }
        stats
    };
    let last = levels.all().last().map(|(level, _)| level);
    let written_bytes = figures.flushed_bytes + figures.written_bytes.iter().sum::<u64>();
    let levels_stats: Vec<_> =
        last.map_or_else(Vec::new, |last| (0..=last).map(level_stats).collect());
    let sum = |count: fn(&LevelStats) -> u64| levels_stats.iter().map(count).sum::<u64>();
    let absent_count = sum(|level| level.asked_count.saturating_sub(level.found_count));
    TreeStats {
        memtable_count: memtables.len() as u64,
        memtable_entry_count: memtables.iter().sum(),
        filter_hit_rate: rate(sum(|level| level.filtered_count), absent_count),
        debt_bytes: plan::debt_bytes(levels, shape, T::oldest_seen(inner), &damage.tables()),
        damage: damage.first().map(TableError::to_string),
        flush_count: figures.flush_count,
        flushed_bytes: figures.flushed_bytes,
        rewrite_count: figures.rewrite_count,
        thinning_count: figures.thinning_count,
        move_count: figures.move_count,
        write_amplification: amplification(written_bytes),
        levels: levels_stats,
    }
}

/// So many for each of `all`, if there are any.
fn rate(count: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| count as f64 / all as f64)
}

fn memory_stats(inner: &Inner) -> MemoryStats {
    let (tables, blob) = (inner.trees.tables.figures(), inner.blob.figures());
    MemoryStats {
        limit_bytes: inner.options.memory_bytes,
        index_memtable_bytes: inner.index.memory_bytes(),
        bad_copies_bytes: inner.index.bad_bytes(),
        names_memtable_bytes: inner.pointers.memory_bytes() as u64,
        directory_bytes: tables.resident_bytes,
        cache_bytes: tables.cache_bytes,
        cache_asked_count: tables.unit_asks,
        cache_missed_count: tables.unit_reads,
        cache_hit_rate: rate(tables.unit_asks.saturating_sub(tables.unit_reads), tables.unit_asks),
        sealer_bytes: blob.sealer_memory_bytes + inner.carried.memory_bytes(),
        append_buffer_bytes: blob.gathered_bytes,
        compaction_bytes: inner.trees.work_bytes.load(Ordering::Relaxed),
        root_bytes: 2 * inner.root.record_bytes(),
        list_bytes: inner.segments.lists_bytes(),
        directories_rebuilt_count: tables.directories_rebuilt,
        filters_ignored_count: tables.filters_ignored,
        filters_left_out_count: tables.filters_left_out,
    }
}

/// Where the frames of each unsealed segment of the pointer log end.
fn unsealed_ends(log: &PointerLog) -> Vec<LogPosition> {
    let closing = log.closing.iter().map(Closing::end).chain(log.sealing);
    closing.chain(log.appender.as_ref().map(Appender::end)).collect()
}

/// Figures of a log whose unsealed segments have frames up to these `ends`.
fn log_stats(log: &LogState, ends: &[LogPosition], synced: LogPosition) -> LogStats {
    let bytes = log.segments.iter().map(|(ordinal, segment)| {
        let end = ends.iter().find(|end| end.ordinal() == *ordinal);
        // One without an end waits to be gone on in, and has a header.
        let frames_end_bytes = end.map_or(FRAMES_START_BYTES, |end| end.offset_bytes());
        segment.seal.map_or(frames_end_bytes, |seal| seal.file_bytes)
    });
    LogStats {
        segment_count: log.segments.len() as u64,
        sealed_count: log.segments.values().filter(|segment| segment.seal.is_some()).count() as u64,
        // Nobody opened all of these files: the root may say anything.
        bytes: bytes.fold(0, u64::saturating_add),
        unsynced_bytes: unsynced_bytes(ends, synced),
    }
}

/// Bytes of frames up to these `ends`, each of another segment, that are not known durable.
fn unsynced_bytes(ends: &[LogPosition], synced: LogPosition) -> u64 {
    let unsynced = ends.iter().filter(|end| **end > synced).map(|end| {
        let is_synced_in_part = end.ordinal() == synced.ordinal();
        let from = if is_synced_in_part { synced.offset_bytes() } else { FRAMES_START_BYTES };
        end.offset_bytes() - from
    });
    unsynced.sum()
}

fn counters(inner: &Inner) -> Counters {
    let sum = |counter: fn(&Counts) -> &AtomicU64| -> u64 {
        inner.counters.all().map(|counts| counter(counts).load(Ordering::Relaxed)).sum()
    };
    Counters {
        put_count: sum(|counts| &counts.put),
        put_known_count: sum(|counts| &counts.put_known),
        put_bytes: sum(|counts| &counts.put_bytes),
        get_count: sum(|counts| &counts.get),
        get_absent_count: sum(|counts| &counts.get_absent),
        get_bytes: sum(|counts| &counts.get_bytes),
        commit_count: sum(|counts| &counts.commit),
        commit_refused_count: sum(|counts| &counts.commit_refused),
        commit_group_count: sum(|counts| &counts.commit_group),
        written_bytes: inner.blob.figures().written_bytes,
        sealed_count: sum(|counts| &counts.sealed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::root::{Seal, SegmentState};
    use pinstone_disk::{Epoch, Ordinal};

    #[test]
    fn full_segments_that_wait_to_be_sealed_count() {
        let seal = Seal { file_bytes: 9000, record_count: 1, footer_hash: [0; 32] };
        let mut log = LogState::default();
        for (ordinal, seal) in [(1, Some(seal)), (2, None), (3, None), (4, None)] {
            log.insert(Ordinal(ordinal), SegmentState { epoch: Epoch::FIRST, seal });
        }
        // The first was sealed after it was looked at; the last waits to be gone on in.
        let ends = [(1, 8000), (2, 7000), (3, 6000)];
        let ends = ends.map(|(ordinal, offset)| LogPosition::new(Ordinal(ordinal), offset));
        let stats = log_stats(&log, &ends, LogPosition::new(Ordinal(2), 6500));
        assert_eq!((stats.segment_count, stats.sealed_count), (4, 1));
        assert_eq!(stats.bytes, 9000 + 7000 + 6000 + FRAMES_START_BYTES);
        assert_eq!(stats.unsynced_bytes, 500 + (6000 - FRAMES_START_BYTES));
        let whole = log_stats(&log, &ends, ends[2]);
        assert_eq!(whole.unsynced_bytes, 0);
    }
}
