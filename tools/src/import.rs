//! `pinstone import`: a directory and all below it become values, and one pointer names the root.
//!
//! 1. The walk (`import/walk.rs`) goes down the tree, depth first, one open directory to the next (never
//!    by path, never through a symlink). It lists a directory, hands its files and symlinks to the threads in
//!    small jobs, and goes on with its subdirectories.
//! 2. The threads open, read and put (`import/read.rs`), and give back what each entry became.
//! 3. A directory whose entries are all known becomes a tree value, and thereby a known entry of its
//!    parent; the walk does not wait for that.
//! 4. When the root is known, one commit points the name at it. Whoever is killed before that has
//!    changed no pointer.
//!
//! Invariants:
//! - I1: what is kept does not depend on the number of threads or on their order: entries are kept by
//!   their place among the sorted names.
//! - I2: memory holds the directories on the path and those with files in the threads' hands (at most
//!   `QUEUE_JOBS_PER_THREAD` jobs a thread wait), not the tree.
//! - I3: nothing is left out silently, but for the store itself and what rules for leaving out name.
//! - I4: a shortage of the machine's (file descriptors, memory) says nothing of what was to be read:
//!   it ends the import, and no pointer changes.
//!
//! The walk crosses mount points: what is seen below the directory is what is kept.

mod read;
mod rules;
mod walk;

pub(crate) use self::read::meta as meta_of;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use pinstone::{Batch, Digest, Store};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use self::read::Shared;
use self::rules::Rules;
use self::walk::{Done, Job, Source, Walk};
use crate::dir_stack::FileId;
use crate::text::shown;
use crate::tree::{self, TreeError};
use crate::watch::Watch;

/// More threads than this do not help: by then it is the disk that is waited for.
const THREADS_MAX: usize = 8;

/// Jobs that may wait for each thread.
const QUEUE_JOBS_PER_THREAD: usize = 4;

/// What to import and how.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Leave out what `.gitignore` files name, and `.git`.
    pub gitignore: bool,
    /// The longest value that the store takes.
    pub value_bytes_max: u64,
    /// Threads that read and store; 0 for as many as the machine runs at once.
    pub threads: usize,
}

impl Default for ImportOptions {
    fn default() -> Self {
        let value_bytes_max = pinstone::Options::default().value_bytes_max;
        Self { gitignore: false, value_bytes_max, threads: 0 }
    }
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct ImportSummary {
    /// Regular files kept, each name counted.
    pub files: u64,
    /// Directories kept, the root included.
    pub directories: u64,
    /// Symlinks kept.
    pub symlinks: u64,
    /// Entries reported and left out; what lies below a directory left out is not counted.
    pub left_out: u64,
    /// Values that the store did not hold before: contents and trees.
    pub values_new: u64,
    /// Values that it held already.
    pub values_known: u64,
    /// Bytes of the files kept.
    pub bytes_in: u64,
    /// Bytes of the new values: contents and trees.
    pub bytes_stored: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The directory itself cannot be read.
    #[error("cannot read the directory {}", shown(path))]
    Root {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory is the one that the store lies in.
    #[error("cannot import {}: it is the store itself", shown(path))]
    StoreItself {
        /// The directory.
        path: PathBuf,
    },
    /// The directory itself cannot be kept.
    #[error("cannot import {}: {reason}", shown(path))]
    RootLeftOut {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The machine is short of something that reading takes, such as file descriptors.
    #[error("cannot read {path}")]
    Shortage {
        /// What was to be read, for reading.
        path: String,
        /// What there is too little of.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] pinstone::Error),
    /// A thread could not be started or ended early.
    #[error("the import's threads failed")]
    Threads {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why an entry is not in the tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeftOut {
    #[error("it is {what}")]
    Kind { what: &'static str },
    #[error("it cannot be read: {source}")]
    Unreadable { source: io::Error },
    #[error("it changed while it was read")]
    Changed,
    #[error("it says that it has {expected} bytes, but has {found} or more")]
    WrongLength { expected: u64, found: u64 },
    #[error("it vanished while the directory was read")]
    Vanished,
    #[error("its directory was moved or replaced while it was read: {source}")]
    Moved { source: io::Error },
    #[error("it has {found} bytes, a value at most {max}")]
    TooLarge { found: u64, max: u64 },
    #[error("the tree value of this directory would have {found} bytes, a value at most {max}")]
    TreeTooLarge { found: u64, max: u64 },
    #[error("its name has {found} bytes, at most {} can be kept", tree::ENTRY_NAME_BYTES_MAX)]
    NameLength { found: usize },
    #[error("its target has {found} bytes, 1 to {} can be kept", tree::TARGET_BYTES_MAX)]
    TargetLength { found: usize },
    #[error("{source}")]
    Unfit { source: TreeError },
}

impl LeftOut {
    /// What the machine is short of, if that is all: it says nothing of the entry.
    fn shortage(&self) -> Option<Errno> {
        let (Self::Unreadable { source } | Self::Moved { source }) = self else { return None };
        let short = |errno: &Errno| matches!(*errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM);
        Errno::from_io_error(source).filter(short)
    }
}

/// Imports `dir` into `store`, whose files lie in `store_dir`, and points `name` at its tree value.
/// The values and the pointer are on stable storage when it returns.
///
/// # Errors
/// See [`ImportError`]; `name` points where it did, unless the store says that this is not known.
pub fn import(
    store: &Store,
    store_dir: &Path,
    dir: &Path,
    name: &[u8],
    options: &ImportOptions,
    watch: &mut dyn Watch,
) -> Result<(Digest, ImportSummary), ImportError> {
    let start = Instant::now();
    // The commit would refuse the name too, but only after all the work.
    if name.is_empty() || name.len() > pinstone::NAME_BYTES_MAX {
        return Err(pinstone::Error::NameLength { len_bytes: name.len() }.into());
    }
    let root_error = |source| ImportError::Root { path: dir.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| root_error(errno.into()))?;
    let stat = rustix::fs::fstat(&opened).map_err(|errno| root_error(errno.into()))?;
    let store_id = FileId::at(store_dir);
    if store_id == Some(FileId::of(&stat)) {
        return Err(ImportError::StoreItself { path: dir.to_owned() });
    }
    let rules = options.gitignore.then(|| Rules::above(dir));

    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if options.threads == 0 { available() } else { options.threads };
    let threads = threads.clamp(1, THREADS_MAX);
    let shared =
        Shared { store, value_bytes_max: options.value_bytes_max, large: Mutex::default() };
    let stop = AtomicBool::new(false);
    let (jobs, jobs_out) = sync_channel(threads * QUEUE_JOBS_PER_THREAD);
    let jobs_out = Mutex::new(jobs_out);
    let (done_in, done) = channel();

    let (root, mut summary) = std::thread::scope(|scope| {
        // Also on an early return: the threads end once the queue's sender is dropped.
        for index in 0..threads {
            let (shared, jobs_out, stop, done_in) = (&shared, &jobs_out, &stop, done_in.clone());
            std::thread::Builder::new()
                .name(format!("import-{index}"))
                .spawn_scoped(scope, move || work(shared, jobs_out, stop, &done_in))
                .map_err(|source| ImportError::Threads { source })?;
        }
        drop(done_in);
        let walk = Walk::new(&shared, Source { dir, store_id, rules }, jobs, done, watch);
        let result = walk.run(opened, &stat);
        stop.store(true, Ordering::Relaxed);
        result
    })?;

    store.commit(Batch::new().set(name, root))?;
    summary.seconds = start.elapsed().as_secs_f64();
    Ok((root, summary))
}

/// What each thread does until the jobs end.
fn work(shared: &Shared<'_>, jobs: &Mutex<Receiver<Job>>, stop: &AtomicBool, done: &Sender<Done>) {
    let mut buffer = Vec::new();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if stop.load(Ordering::Relaxed) {
            continue;
        }
        let keep = |(slot, name, kind): (usize, Box<[u8]>, FileType)| {
            (slot, read::keep(shared, &job.dir, &name, kind, &mut buffer))
        };
        let entries = job.entries.into_iter().map(keep).collect();
        if done.send(Done { directory: job.directory, entries }).is_err() {
            return;
        }
    }
}
