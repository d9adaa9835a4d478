//! The walk of an import: it goes down the tree, hands out the entries, and makes tree values of what
//! comes back.
//!
//! A directory is pending from when it is listed until all its entries are known or left out; then it
//! becomes a tree value and thereby a known entry of its parent, and so on up.
//!
//! - W1: a directory is pending while one of its entries is unknown; each of these is in a job, in a
//!   pending directory below, or on the path still to be gone.
//! - W2: entries are kept by their place among the sorted names (I1).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use pinstone::Digest;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::read::{self, Kept, Refusal, Shared};
use super::rules::{self, Rules};
use super::{ImportError, ImportSummary, LeftOut};
use crate::dir_stack::{DirStack, FileId, file_type, open_dir_at};
use crate::text::escape;
use crate::tree::{self, Entry, Meta, Node, TreeBuilder, TreeError};
use crate::watch::{Notice, NoticeKind, Watch};

/// Entries of one job.
const JOB_ENTRIES: usize = 16;

/// Some entries of one directory, for a thread.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) directory: DirectoryId,
    pub(super) dir: Arc<OwnedFd>,
    pub(super) entries: Vec<(usize, Box<[u8]>, FileType)>,
}

/// What became of them.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) directory: DirectoryId,
    pub(super) entries: Vec<(usize, Result<Kept, Refusal>)>,
}

/// The number of a directory in the order of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DirectoryId(u64);

/// What a known entry is. The name stands beside it.
#[derive(Debug)]
enum Known {
    File { meta: Meta, len_bytes: u64, digest: Digest },
    Directory { digest: Digest },
    Symlink { meta: Meta, target: Box<[u8]> },
}

impl Known {
    fn node(&self) -> Node<'_> {
        match self {
            Self::File { meta, len_bytes, digest } => {
                Node::File { meta: *meta, len_bytes: *len_bytes, digest: *digest }
            }
            Self::Directory { digest } => Node::Directory { digest: *digest },
            Self::Symlink { meta, target } => Node::Symlink { meta: *meta, target },
        }
    }
}

/// A directory, some of whose entries are not yet known.
#[derive(Debug)]
struct Pending {
    /// The directory above, and this one's place in it.
    parent: Option<(DirectoryId, usize)>,
    meta: Meta,
    /// Sorted.
    names: Vec<Box<[u8]>>,
    /// Beside each name, what it is; `None` while unknown, and for what is left out.
    known: Vec<Option<Known>>,
    unknown_count: usize,
}

/// One directory on the path of the walk.
#[derive(Debug)]
struct Level {
    directory: DirectoryId,
    /// Places of the subdirectories to go to, the next one last.
    subdirectories: Vec<usize>,
    /// How long the path above it is.
    path_bytes: usize,
}

/// What is imported, and what of it is not.
pub(super) struct Source<'a> {
    /// The directory, as it was named.
    pub(super) dir: &'a Path,
    /// The store's own directory, if it can be told.
    pub(super) store_id: Option<FileId>,
    pub(super) rules: Option<Rules>,
}

/// See the head of this file.
pub(super) struct Walk<'a> {
    shared: &'a Shared<'a>,
    source: Source<'a>,
    /// `None` once all jobs are handed out.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    pending: BTreeMap<DirectoryId, Pending>,
    next_id: u64,
    /// From the imported directory to the deepest on the path, with a slash behind each name.
    path: Vec<u8>,
    /// The root's tree value, once it is known.
    root: Option<Digest>,
    summary: ImportSummary,
    watch: &'a mut dyn Watch,
}

impl<'a> Walk<'a> {
    /// A walk that has not begun, with the two ends of the threads' queues.
    pub(super) fn new(
        shared: &'a Shared<'a>,
        source: Source<'a>,
        jobs: SyncSender<Job>,
        done: Receiver<Done>,
        watch: &'a mut dyn Watch,
    ) -> Self {
        Self {
            shared,
            source,
            jobs: Some(jobs),
            done,
            pending: BTreeMap::new(),
            next_id: 0,
            path: Vec::new(),
            root: None,
            summary: ImportSummary::default(),
            watch,
        }
    }

    /// Goes through the tree below `root`, and gives its tree value and what was done.
    pub(super) fn run(
        mut self,
        root: OwnedFd,
        stat: &Stat,
    ) -> Result<(Digest, ImportSummary), ImportError> {
        let mut stack = DirStack::new(root, FileId::of(stat));
        let dir = stack.top().map_err(|source| self.root_error(source))?;
        let mut levels = vec![self.enter(&dir, stat, None, 0)?.map_err(|reason| match reason {
            LeftOut::Unreadable { source } => self.root_error(source),
            reason => self.root_left_out(&reason),
        })?];
        drop(dir);
        while let Some(level) = levels.last_mut() {
            let directory = level.directory;
            if let Some(place) = level.subdirectories.pop() {
                if let Some(level) = self.descend(&mut stack, (directory, place), levels.len())? {
                    levels.push(level);
                }
            } else {
                self.path.truncate(level.path_bytes);
                levels.pop();
                stack.pop();
                if let Some(rules) = &mut self.source.rules {
                    rules.leave(levels.len());
                }
            }
            while let Ok(done) = self.done.try_recv() {
                self.take_in(done)?;
            }
        }
        self.jobs = None;
        while let Ok(done) = self.done.recv() {
            self.take_in(done)?;
        }
        let root = self.root.ok_or_else(|| ImportError::Threads {
            source: io::Error::other("one ended before its work was done"),
        })?;
        Ok((root, self.summary))
    }

    /// Goes to the subdirectory at `place`, to become the level at `depth`; `None` if it is left
    /// out.
    fn descend(
        &mut self,
        stack: &mut DirStack,
        place: (DirectoryId, usize),
        depth: usize,
    ) -> Result<Option<Level>, ImportError> {
        let name = self.pending[&place.0].names[place.1].clone();
        let opened = stack.top().map_err(|source| LeftOut::Moved { source }).and_then(|above| {
            open_dir_at(&above, &name).map_err(|error| match error.raw_os_error() {
                Some(code) if code == Errno::NOENT.raw_os_error() => LeftOut::Vanished,
                Some(code)
                    if code == Errno::LOOP.raw_os_error()
                        || code == Errno::NOTDIR.raw_os_error() =>
                {
                    LeftOut::Changed
                }
                _ => LeftOut::Unreadable { source: error },
            })
        });
        let (opened, stat) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                self.leave_out(place.0, &name, &reason)?;
                self.resolve(place, None)?;
                return Ok(None);
            }
        };
        if self.source.store_id == Some(FileId::of(&stat)) {
            let path = self.whole_path(place.0, &name);
            let reason = "it is the store itself";
            self.watch.notice(&Notice::of(NoticeKind::StoreLeftOut, &path, reason));
            self.resolve(place, None)?;
            return Ok(None);
        }
        stack.push(&name, opened, FileId::of(&stat));
        let path_bytes = self.path.len();
        self.path.extend(&name);
        self.path.push(b'/');
        let entered = match stack.top() {
            Ok(dir) => self.enter(&dir, &stat, Some(place), depth)?,
            Err(source) => Err(LeftOut::Moved { source }),
        };
        match entered {
            Ok(level) => Ok(Some(Level { path_bytes, ..level })),
            Err(reason) => {
                self.path.truncate(path_bytes);
                stack.pop();
                self.leave_out(place.0, &name, &reason)?;
                self.resolve(place, None)?;
                Ok(None)
            }
        }
    }

    /// Lists a directory and hands out its files and symlinks.
    fn enter(
        &mut self,
        dir: &Arc<OwnedFd>,
        stat: &Stat,
        parent: Option<(DirectoryId, usize)>,
        depth: usize,
    ) -> Result<Result<Level, LeftOut>, ImportError> {
        let mut listed = match list(dir) {
            Ok(listed) => listed,
            Err(reason) => return Ok(Err(reason)),
        };
        let directory = DirectoryId(self.next_id);
        self.next_id += 1;
        self.apply_rules(dir, &mut listed, depth)?;

        // What cannot be kept is told here and has no place.
        let mut names = Vec::with_capacity(listed.len());
        let mut subdirectories = Vec::new();
        let mut entries = Vec::new();
        let mut refused = Vec::new();
        for (name, kind) in listed {
            match kind {
                Ok(FileType::Directory) => subdirectories.push(names.len()),
                Ok(kind) => entries.push((names.len(), name.clone(), kind)),
                Err(reason) => {
                    refused.push((name, reason));
                    continue;
                }
            }
            names.push(name);
        }
        subdirectories.reverse();
        let known = names.iter().map(|_| None).collect();
        let unknown_count = names.len();
        let meta = read::meta(stat);
        let pending = Pending { parent, meta, names, known, unknown_count };
        self.pending.insert(directory, pending);
        for (name, reason) in refused {
            self.leave_out(directory, &name, &reason)?;
        }
        if unknown_count == 0 {
            self.finish(directory)?;
        }
        self.hand_out(directory, dir, entries)?;
        Ok(Ok(Level { directory, subdirectories, path_bytes: 0 }))
    }

    fn hand_out(
        &mut self,
        directory: DirectoryId,
        dir: &Arc<OwnedFd>,
        entries: Vec<(usize, Box<[u8]>, FileType)>,
    ) -> Result<(), ImportError> {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let entries = entries.by_ref().take(JOB_ENTRIES).collect();
            let job = Job { directory, dir: Arc::clone(dir), entries };
            let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
            if !sent {
                let source = io::Error::other("all of them ended");
                return Err(ImportError::Threads { source });
            }
            while let Ok(done) = self.done.try_recv() {
                self.take_in(done)?;
            }
        }
        Ok(())
    }

    /// Reads the directory's own rules, and leaves out what the rules name.
    fn apply_rules(
        &mut self,
        dir: &OwnedFd,
        listed: &mut Listed,
        depth: usize,
    ) -> Result<(), ImportError> {
        let Some(mut rules) = self.source.rules.take() else { return Ok(()) };
        let is_rules = |(name, kind): &(Box<[u8]>, Result<FileType, LeftOut>)| {
            **name == *rules::FILE_NAME && matches!(kind, Ok(FileType::RegularFile))
        };
        if listed.iter().any(is_rules) {
            match read::small_file(dir, rules::FILE_NAME, rules::FILE_BYTES_MAX) {
                Ok(lines) => rules.enter(&lines, depth, self.path.len()),
                Err(reason) => {
                    let file = self.below_dir(&[&self.path, rules::FILE_NAME].concat());
                    refuse_shortage(&file, &reason)?;
                    let reason = reason.to_string();
                    self.watch.notice(&Notice::of(NoticeKind::RulesIgnored, &file, &reason));
                }
            }
        }
        let mut path = self.path.clone();
        listed.retain(|(name, kind)| {
            path.truncate(self.path.len());
            path.extend(name);
            !rules.leave_out(&path, matches!(kind, Ok(FileType::Directory)))
        });
        self.source.rules = Some(rules);
        Ok(())
    }

    /// Notes what a thread found.
    fn take_in(&mut self, done: Done) -> Result<(), ImportError> {
        for (slot, outcome) in done.entries {
            let known = match outcome {
                Ok(Kept::File { meta, len_bytes, digest, new }) => {
                    self.summary.files += 1;
                    self.summary.bytes_in += len_bytes;
                    self.count_value(new, len_bytes);
                    Some(Known::File { meta, len_bytes, digest })
                }
                Ok(Kept::Symlink { meta, target }) => {
                    self.summary.symlinks += 1;
                    Some(Known::Symlink { meta, target })
                }
                Err(Refusal::LeftOut(reason)) => {
                    let name = self.pending[&done.directory].names[slot].clone();
                    self.leave_out(done.directory, &name, &reason)?;
                    None
                }
                Err(Refusal::Store(error)) => return Err(error.into()),
            };
            self.resolve((done.directory, slot), known)?;
        }
        self.watch.progress(self.summary.files, self.summary.bytes_in);
        Ok(())
    }

    /// Notes that the entry at `place` is known or left out.
    fn resolve(
        &mut self,
        (directory, slot): (DirectoryId, usize),
        known: Option<Known>,
    ) -> Result<(), ImportError> {
        let pending = self.pending.get_mut(&directory);
        let pending = pending.expect("a directory is pending while one of its entries is unknown");
        pending.known[slot] = known;
        pending.unknown_count -= 1;
        if pending.unknown_count == 0 { self.finish(directory) } else { Ok(()) }
    }

    /// Stores the tree of a directory whose entries are all known; then of its parent if that was the
    /// last one unknown there, and so on up.
    fn finish(&mut self, mut directory: DirectoryId) -> Result<(), ImportError> {
        loop {
            let known = match self.store_tree(directory)? {
                Ok(digest) => Some(Known::Directory { digest }),
                Err(reason) => {
                    self.leave_out_directory(directory, &reason)?;
                    None
                }
            };
            let finished = self.pending.remove(&directory);
            let finished = finished.expect("a directory is pending until it is finished");
            let Some((parent, slot)) = finished.parent else {
                if let Some(Known::Directory { digest }) = known {
                    self.root = Some(digest);
                }
                return Ok(());
            };
            let pending = self.pending.get_mut(&parent);
            let pending = pending.expect("a directory is pending while a subdirectory is unknown");
            pending.known[slot] = known;
            pending.unknown_count -= 1;
            if pending.unknown_count > 0 {
                return Ok(());
            }
            directory = parent;
        }
    }

    fn store_tree(
        &mut self,
        directory: DirectoryId,
    ) -> Result<Result<Digest, LeftOut>, ImportError> {
        let pending = &self.pending[&directory];
        let bytes = match encode(pending) {
            Ok(bytes) => bytes,
            Err(source) => return Ok(Err(LeftOut::Unfit { source })),
        };
        let too_large = |found, max| Ok(Err(LeftOut::TreeTooLarge { found, max }));
        if bytes.len() as u64 > self.shared.value_bytes_max {
            return too_large(bytes.len() as u64, self.shared.value_bytes_max);
        }
        match self.shared.store.put(&bytes) {
            Ok(put) => {
                self.summary.directories += 1;
                self.count_value(put.new, bytes.len() as u64);
                Ok(Ok(put.digest))
            }
            Err(pinstone::Error::Limit { max, found, .. }) => too_large(found, max),
            Err(error) => Err(error.into()),
        }
    }

    fn count_value(&mut self, new: bool, len_bytes: u64) {
        if new {
            self.summary.values_new += 1;
            self.summary.bytes_stored += len_bytes;
        } else {
            self.summary.values_known += 1;
        }
    }

    /// Reports an entry that is left out.
    fn leave_out(
        &mut self,
        directory: DirectoryId,
        name: &[u8],
        reason: &LeftOut,
    ) -> Result<(), ImportError> {
        let path = self.whole_path(directory, name);
        refuse_shortage(&path, reason)?;
        self.watch.notice(&Notice::of(NoticeKind::LeftOut, &path, &reason.to_string()));
        self.summary.left_out += 1;
        Ok(())
    }

    /// Reports a directory that is still pending; the root cannot be left out.
    fn leave_out_directory(
        &mut self,
        directory: DirectoryId,
        reason: &LeftOut,
    ) -> Result<(), ImportError> {
        let Some((parent, slot)) = self.pending[&directory].parent else {
            return Err(self.root_left_out(reason));
        };
        let name = self.pending[&parent].names[slot].clone();
        self.leave_out(parent, &name, reason)
    }

    /// The path of an entry of a pending directory, as whoever named the imported one sees it.
    fn whole_path(&self, directory: DirectoryId, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = directory;
        while let Some((parent, slot)) = self.pending[&at].parent {
            names.push(&self.pending[&parent].names[slot]);
            at = parent;
        }
        names.reverse();
        self.below_dir(&names.join(&b'/'))
    }

    fn below_dir(&self, path: &[u8]) -> Vec<u8> {
        let dir = self.source.dir.as_os_str().as_bytes();
        let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
        [dir, slash, path].concat()
    }

    fn root_error(&self, source: io::Error) -> ImportError {
        ImportError::Root { path: self.source.dir.to_owned(), source }
    }

    fn root_left_out(&self, reason: &LeftOut) -> ImportError {
        ImportError::RootLeftOut { path: self.source.dir.to_owned(), reason: reason.to_string() }
    }
}

/// I4.
fn refuse_shortage(path: &[u8], reason: &LeftOut) -> Result<(), ImportError> {
    match reason.shortage() {
        Some(errno) => Err(ImportError::Shortage { path: escape(path), source: errno.into() }),
        None => Ok(()),
    }
}

fn encode(pending: &Pending) -> Result<Vec<u8>, TreeError> {
    let mut builder = TreeBuilder::new(&pending.meta)?;
    for (name, known) in pending.names.iter().zip(&pending.known) {
        if let Some(known) = known {
            builder.push(&Entry { name, node: known.node() })?;
        }
    }
    Ok(builder.finish())
}

/// The names in a directory, sorted, and what each is, or why it cannot be kept.
type Listed = Vec<(Box<[u8]>, Result<FileType, LeftOut>)>;

fn list(dir: &Arc<OwnedFd>) -> Result<Listed, LeftOut> {
    let unreadable = |source: io::Error| LeftOut::Unreadable { source };
    let own = dir.try_clone().map_err(unreadable)?;
    let stream = rustix::fs::Dir::new(own).map_err(|errno| unreadable(errno.into()))?;
    let mut listed = Listed::new();
    for entry in stream {
        let entry = entry.map_err(|errno| unreadable(errno.into()))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            _ if name.len() > tree::ENTRY_NAME_BYTES_MAX => {
                Err(LeftOut::NameLength { found: name.len() })
            }
            FileType::Unknown => read::stat_name(dir, name).map(|stat| file_type(&stat)),
            kind => Ok(kind),
        };
        let kind = kind.and_then(read::refuse_special);
        listed.push((Box::from(name), kind));
    }
    listed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    // A directory that changes while it is read may give a name twice.
    listed.dedup_by(|a, b| a.0 == b.0);
    Ok(listed)
}
