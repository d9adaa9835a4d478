//! open: lock -> root -> segments -> torn or corrupt? -> replay -> copy the tails -> new root.
//!
//! 1. Refuse what is no store before anything is touched; lock; look again.
//! 2. CURRENT leads to the root log, the root log to the segments. Sealed segments are opened by
//!    their footers; unsealed ones are scanned, each to its first invalid byte and beyond.
//! 3. Judge: for each log, does anything testify that the first invalid byte was durable once?
//!    Then the store is corrupt, and nothing is changed. Otherwise the log ends there.
//! 4. Replay what does not stand in tables: values into the index, commits into the pointer table, up
//!    to the first whose dependency in the blob log is not met. Every pointer standing then must
//!    have its value.
//! 5. Copy the valid frames of each unsealed segment into a new file and sync it, unless something
//!    testifies that the segment was durable up to its last byte. What the page cache shows after a
//!    failed sync may not be on the device, and reading it again proves nothing; a rewritten copy
//!    does.
//! 6. Write a new root log with a new epoch, and turn CURRENT to it: one step that swaps all
//!    files. Then remove what the new root does not name.
//! 7. If there is no space for 5 or 6, give back the reserve, which is there for it, and begin anew. If
//!    that fails, or these fail otherwise, set aside again what was: what was begun has the rest, and
//!    the next open takes that away before it needs any.
//! 8. Of a store that was closed, and where nothing is to be sealed or removed, 5 and 6 are left to the first write
//!    (`state/take_over.rs`): it is *at rest*. So is one of which nothing is to be copied or sealed, where 7 found no
//!    space: it can be read.
//!
//! - R1: nothing is removed or changed before CURRENT is turned and that is durable, but the
//!   reserve, and what recoveries left that did not complete, or did not clean up: it holds nothing
//!   of its own, and may hold the space that this one needs.
//! - R2: a crash anywhere leaves the old root or the new one, each with all its files.
//! - R3: epochs and ordinals found in any file's name are not used again.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pinstone_compaction::lingering::Lingering;
use pinstone_compaction::open_levels::OpenLevels;
use pinstone_compaction::table::shared::Tables;
use pinstone_disk::env::{AtomicBool, AtomicU64, Mutex, NameSeed, Striped};
use pinstone_disk::{
    DirectoryState, Disk, Epoch, FileName, Lock, LogKind, Ordinal, StdDisk, StoreId, TableKind,
};
use pinstone_wal::{
    Appender, BlobLog, BlobLogOptions, LogPosition, SegmentHeader, StoreSeed, Writer,
};

use self::clean::{remove_leftovers, remove_replaced, remove_unnamed, unnamed_tables};
use self::look::{Found, SegmentName, look};
use self::read::{Before, Unsealed, read_store};
use self::replay::{replay_commits, replay_values};
use self::tails::{Tails, take_tails};
use crate::error::{Error, Result};
use crate::maintain;
use crate::ops::{commit, compact};
use crate::options::Options;
use crate::state::carried::CarriedPlaces;
use crate::state::digest_index::{DigestIndex, IndexOptions};
use crate::state::inner::{Access, CommitQueue, Inner, PointerLog};
use crate::state::pointers::PointerTable;
use crate::state::reserve::{Left, Reserve};
use crate::state::root::{Root, RootState, SegmentState, TreeState, none_can_follow, turn_current};
use crate::state::segments::{Segment, Segments};
use crate::state::take_over::{TakeOver, with_left};
use crate::state::trees::Trees;
use crate::stats::Recovery;

mod clean;
mod look;
mod read;
mod replay;
mod tails;

/// Opens or creates the store in the directory `path`.
pub(crate) fn open_path(path: &Path, options: Options) -> Result<Arc<Inner>> {
    options.check()?;
    let not_a_store =
        |reason: &str| Error::NotAStore { path: path.to_owned(), reason: reason.to_owned() };
    match StdDisk::directory_state(path)? {
        DirectoryState::NotADirectory => return Err(not_a_store("it is not a directory")),
        DirectoryState::Absent if !options.create => {
            return Err(Error::StoreAbsent { path: path.to_owned() });
        }
        DirectoryState::Absent => {}
        // A store that may be created here needs a directory that a crash does not take.
        DirectoryState::Holds(names) if names.contains(&FileName::Current.to_string()) => {
            return open(StdDisk::open(path, options.io_options())?, path.to_owned(), options);
        }
        DirectoryState::Empty | DirectoryState::Holds(_) => {}
    }
    let io = options.io_options();
    let disk = if options.create { StdDisk::create(path, io)? } else { StdDisk::open(path, io)? };
    open(disk, path.to_owned(), options)
}

/// Opens or creates the store on `disk`.
pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf, options: Options) -> Result<Arc<Inner>> {
    options.check()?;
    // Before the lock file is created: a directory that is no store is not touched.
    look(&*disk, &path, &options)?;
    let lock = match disk.lock()? {
        Ok(lock) => lock,
        Err(holder) => return Err(Error::Locked { path, holder }),
    };
    // Again under the lock: another process may have created, or left, a store meanwhile.
    let found = look(&*disk, &path, &options)?;
    let left = found.reserve.then(|| Left::open(&*disk)).transpose()?;
    let again = || -> Result<_> {
        let found = look(&*disk, &path, &options)?;
        let before = read(&disk, &options, &found)?;
        Ok((found, before))
    };
    let before = read(&disk, &options, &found)?;
    let mut first = Some((found, before));
    let opened = with_left(&*disk, left.as_ref(), Error::from, || {
        // What was begun has changed it.
        let (found, before) = first.take().map_or_else(again, Ok)?;
        let is_at_rest = is_at_rest(&found, &before);
        take_over(&disk, &options, &found, before, left.clone(), is_at_rest)
    });
    let (taken, reserve, take_over) = match opened {
        // That what an earlier try left cannot be done away with keeps nobody from reading.
        Err(error @ Error::NoSpace { .. }) => {
            let (found, mut read) = again()?;
            if !can_rest(&read) {
                return Err(error);
            }
            let (before, replayed) = &mut read;
            remove_leftovers(&*disk, &found, before, &mut replayed.recovery)?;
            tracing::warn!(%error, "the store can only be read, until there is space");
            take_over(&disk, &options, &found, read, left, true)?
        }
        opened => opened?,
    };
    let is_due = match &take_over {
        Some(take_over) => take_over.is_due(&taken.root)?,
        None => false,
    };
    let inner = Arc::new(begin(disk, path, options, lock, taken, reserve, take_over));
    if is_due {
        match inner.begin_writing() {
            Err(error @ Error::Poisoned { .. }) => return Err(error),
            // Reads go on, and who writes tries again.
            Err(error) => tracing::warn!(%error, "nothing is set aside"),
            Ok(()) => {}
        }
    }
    compact::note_pressure(&inner);
    maintain::start(&inner)?;
    Ok(inner)
}

/// Reads what was found. Changes nothing.
fn read(disk: &Arc<dyn Disk>, options: &Options, found: &Found) -> Result<(Before, Replayed)> {
    let mut before = match found.current {
        Some(current) => read_store(&**disk, found, current)?,
        None => Before::nothing(StoreId(disk.random()?)),
    };
    let named = before.root.table_ids();
    let has_stale = found.tables.difference(&named).any(|id| id.table == TableKind::Names);
    let replayed = replay(disk, options, &mut before, has_stale)?;
    Ok((before, replayed))
}

/// Takes over what was read, and sets space aside; or tells what is left to do of that, if what was read is at rest.
fn take_over(
    disk: &Arc<dyn Disk>,
    options: &Options,
    found: &Found,
    (mut before, replayed): (Before, Replayed),
    left: Option<Left>,
    is_at_rest: bool,
) -> Result<(Taken, Reserve, Option<TakeOver>)> {
    let taken = write_anew(disk, options, found, &mut before, replayed, is_at_rest)?;
    let Taken { writer, root, blob, pointer, .. } = &taken;
    let oversize_bytes = blob.oversize_bytes(options.segment_bytes)
        + pointer.oversize_bytes(options.pointer_segment_bytes);
    let reserve_bytes = options.reserve_bytes;
    let reserve = Reserve::new(writer.clone(), reserve_bytes, oversize_bytes, left.as_ref());
    let active =
        [(blob.active(), options.segment_bytes), (pointer.active(), options.pointer_segment_bytes)];
    let active = active.into_iter().filter_map(|(tail, bytes)| Some((tail?, bytes)));
    let take_over = TakeOver {
        left,
        is_unreserved: reserve_bytes == 0,
        tail_bytes: pointer.active().map_or(0, |active| commit::tail_bytes(active.end())),
        active: active.map(|(tail, bytes)| (Arc::clone(&tail.segment.file), bytes)).collect(),
    };
    if root.is_at_rest() {
        return Ok((taken, reserve, Some(take_over)));
    }
    take_over.set_aside(&**disk, root, &reserve)?;
    Ok((taken, reserve, None))
}

/// A store that was taken over: its new root is in force; or one that is at rest.
struct Taken {
    writer: Writer,
    root: Root,
    lingering: Lingering,
    segments: Segments,
    replayed: Replayed,
    blob: Tails,
    pointer: Tails,
}

/// What the logs hold.
struct Replayed {
    tables: Arc<Tables>,
    index: DigestIndex,
    pointers: PointerTable,
    /// The dependency of the last commit.
    depends_upto: LogPosition,
    recovery: Recovery,
}

/// Replays both logs, and finds where the pointer log ends. Changes nothing.
fn replay(
    disk: &Arc<dyn Disk>,
    options: &Options,
    before: &mut Before,
    has_stale: bool,
) -> Result<Replayed> {
    let budget = options.budget();
    let tables =
        Tables::new(Arc::clone(disk), before.store_id, options.open_files_max, budget.tables_bytes);
    let index_options = IndexOptions {
        memtable_entries: budget.memtable_entries,
        key_bits: options.index_key_bits,
        bad_copies_max: budget.bad_copies_max,
    };
    let TreeState { levels, flushed, .. } = &before.root.index;
    let levels = OpenLevels::open(&tables, levels.clone())?;
    let index = DigestIndex::new(disk.random()?, index_options, flushed.below, levels);
    let TreeState { levels, flushed, .. } = &before.root.names;
    let levels = OpenLevels::open(&tables, levels.clone())?;
    let seed = NameSeed::new(disk.random()?);
    let pointers = PointerTable::new(levels, flushed.commit, flushed.below, seed, has_stale);
    let mut recovery = std::mem::take(&mut before.recovery);
    replay_values(&mut before.blob, &index, &mut recovery)?;
    let depends_upto = replay_commits(&**disk, options, before, &pointers, &index, &mut recovery)?;
    Ok(Replayed { tables, index, pointers, depends_upto, recovery })
}

/// Copies the tails, turns CURRENT, cleans up; nothing of that for a store at rest.
fn write_anew(
    disk: &Arc<dyn Disk>,
    options: &Options,
    found: &Found,
    before: &mut Before,
    mut replayed: Replayed,
    is_at_rest: bool,
) -> Result<Taken> {
    let recovery = &mut replayed.recovery;
    let header = next_root(found, before)?;
    if !is_at_rest {
        if found.current_temp {
            disk.remove(FileName::CurrentTemp)?;
        }
        remove_replaced(&**disk, found, before, recovery)?;
        remove_leftovers(&**disk, found, before, recovery)?;
    }
    let store = StoreSeed::new(&header.store_id);
    let writer = Writer::new(Arc::clone(disk), header.epoch, store);
    let closed = before.root.closed.filter(|_| is_at_rest);
    let mut state = RootState { closed, ..RootState::default() };
    let [blob, pointer] = [LogKind::Blob, LogKind::Pointer].map(|log| -> Result<Tails> {
        let log_state = state.log_mut(log);
        log_state.next_ordinal = before.root.log(log).next_ordinal;
        for name in found.segments.iter().filter(|name| name.log == log) {
            log_state.spend(name.ordinal);
        }
        for sealed in &before.log(log).sealed {
            log_state.insert(sealed.ordinal, sealed.state);
        }
        let tails = take_tails(&**disk, before.log(log), header.epoch, recovery)?;
        for tail in &tails.all {
            let SegmentHeader { ordinal, epoch, .. } = tail.segment.header;
            log_state.insert(ordinal, SegmentState { epoch, seal: None });
        }
        if let Some(end) = before.log(log).end {
            writer.synced.raise(log, end.position);
        }
        Ok(tails)
    });
    let (blob, pointer) = (blob?, pointer?);
    for tree in TableKind::ALL {
        *state.tree_mut(tree) = before.root.tree(tree).clone();
    }
    for id in &found.tables {
        state.tree_mut(id.table).spend(id.ordinal);
    }

    let (root, lingering) = match before.root_log.take_if(|_| is_at_rest) {
        Some(Unsealed { segment, scan, .. }) => {
            let (writer, end_bytes) = (writer.clone(), scan.valid_end_bytes);
            let mut lingering = Lingering::default();
            unnamed_tables(found, before, &state)
                .into_iter()
                .for_each(|id| lingering.add_unknown(id));
            (Root::at_rest(writer, segment, end_bytes, header.ordinal, state), lingering)
        }
        None => {
            // Kept open, it would take its space for as long.
            before.root_log = None;
            let root = Root::create(writer.clone(), header, state)?;
            turn_current(&**disk, &header)?;
            let lingering = remove_unnamed(&**disk, found, before, &root.state(), recovery)?;
            (root, lingering)
        }
    };
    if lingering.is_empty() {
        replayed.pointers.has_no_stale();
    }

    let sealed = before.blob.sealed.iter().map(|sealed| {
        let seal = sealed.state.seal.expect("it is sealed");
        Segment::sealed(sealed.ordinal, sealed.state.epoch, seal.footer_hash)
    });
    let unsealed = blob.all.iter().map(|tail| Segment::unsealed(&tail.segment));
    let (all, lists_bytes) = (sealed.chain(unsealed).collect(), options.budget().lists_bytes);
    let segments =
        Segments::new(Arc::clone(disk), before.store_id, all, options.open_files_max, lists_bytes);
    Ok(Taken { writer, root, lingering, segments, replayed, blob, pointer })
}

/// The store was closed, and nothing is to be sealed or removed: it may stay as it is until something is written.
fn is_at_rest(found: &Found, read: &(Before, Replayed)) -> bool {
    let (before, _) = read;
    let is_named = |name: &SegmentName| match before.root_header() {
        Some(root) if name.log == LogKind::Root => name.file_name() == root.file_name(),
        _ => before.root.names_segment(name.log, name.ordinal, name.epoch),
    };
    can_rest(read)
        && !found.current_temp
        && found.segments.difference(&before.strangers).all(is_named)
        && unnamed_tables(found, before, &before.root).is_empty()
}

/// Nothing of it is to be mended or sealed. All that the root says is durable, since that the store was closed is said
/// last: if CURRENT is not, what it named before says the same, for who takes over a store at rest.
fn can_rest((before, replayed): &(Before, Replayed)) -> bool {
    replayed.recovery.clean && [&before.blob, &before.pointer].into_iter().all(tails::goes_on)
}

/// The header of the next root log. Whatever a file's name says was in use (R3).
fn next_root(found: &Found, before: &Before) -> Result<SegmentHeader> {
    let roots = found.segments.iter().filter(|name| name.log == LogKind::Root);
    let last_ordinal = roots.map(|name| name.ordinal).max();
    let tables = found.tables.iter().map(|id| id.epoch);
    let epochs = found.segments.iter().map(|name| name.epoch).chain(tables);
    let last_epoch = epochs.chain(before.epoch()).max();
    let next = (
        last_ordinal.map_or(Some(Ordinal::FIRST), Ordinal::next),
        last_epoch.map_or(Some(Epoch::FIRST), Epoch::next),
    );
    let (Some(ordinal), Some(epoch)) = next else {
        return Err(none_can_follow(FileName::Current).into());
    };
    Ok(SegmentHeader { store_id: before.store_id, log: LogKind::Root, ordinal, epoch })
}

/// Begins to serve.
fn begin(
    disk: Arc<dyn Disk>,
    path: PathBuf,
    options: Options,
    lock: Box<dyn Lock>,
    taken: Taken,
    reserve: Reserve,
    take_over: Option<TakeOver>,
) -> Inner {
    let Taken { writer, root, lingering, segments, replayed, .. } = taken;
    let Replayed { tables, index, pointers, depends_upto, recovery } = replayed;
    let trees = Trees::new(tables, &options, writer.epoch, &root.state(), lingering);

    // The root's first frame says so.
    let told = writer.synced.now();
    let blob_options = BlobLogOptions {
        segment_bytes: options.segment_bytes,
        segment_values_max: options.budget().segment_values_max,
        buffer_bytes: options.append_buffer_bytes,
    };
    let (active, closing) = taken.blob.split();
    let blob = BlobLog::new(writer.clone(), blob_options, active, closing);
    let mut pointer = taken.pointer;
    let carried = std::mem::take(&mut pointer.carried);
    let (active, closing) = pointer.split();
    let appender = active.map(|tail| {
        Appender::new(writer.clone(), tail.segment, tail.frames_end_bytes, tail.sealer)
    });
    let pointer_behind = !closing.is_empty();
    let pointer_log = PointerLog {
        appender,
        closing: VecDeque::from(closing),
        sealing: None,
        closed: false,
        depends_upto,
    };
    let epoch = writer.epoch;
    tracing::info!(path = %path.display(), %epoch, ?recovery, "store opened");
    Inner {
        path,
        options,
        disk,
        writer,
        root,
        reserve,
        blob,
        index,
        segments,
        pointers,
        trees,
        pointer_log: Mutex::new(pointer_log),
        commits: Mutex::new(CommitQueue::default()),
        pointer_due: AtomicBool::new(true),
        growing: Mutex::new(take_over),
        pointer_behind: AtomicBool::new(pointer_behind),
        letting_go: Mutex::new(()),
        to_end: AtomicU64::new(0),
        writing: AtomicBool::new(false),
        growth_refused: AtomicBool::new(false),
        maintaining: Mutex::new(()),
        signal: Arc::default(),
        compact_signal: Arc::default(),
        told_blob: AtomicU64::new(told.blob.number()),
        told_pointer: AtomicU64::new(told.pointer.number()),
        carried: CarriedPlaces::of(carried),
        counters: Striped::default(),
        recovery,
        lock: Mutex::new(Access::Locked(lock)),
    }
}
