//! Merging sorted runs, and dropping the versions of names that nobody sees. No I/O.
//!
//! [`Merge`] makes one ascending run of several:
//!
//! 1. Each source has its next item in a heap; the least of them is taken, and the source asked for
//!    the one after it.
//! 2. Sources whose next item is equal are moved past it.
//! 3. An error is given after what was taken before it, and is the last thing given.
//!
//! A [`Sieve`] lets some of these entries stay, and gives a sign of each: whoever asks so many times has
//! gone through about so many entries, whatever became of them. [`Chosen`] asks of each by itself.
//!
//! [`Versions`] takes entries of the names tree, names ascending and the newest version of each
//! first, and drops what nobody can read. A reader of commit *r* sees of a name its newest version
//! whose commit is not above *r*. So a version of commit *c*, with a next newer one of commit *n*,
//! is what readers from *c* to before *n* see, and it stays if any of these may come:
//!
//! 1. There is no newer one here: it may be the present.
//! 2. A view *v* has *c* <= *v* < *n*.
//! 3. All history from `keep_from` on can be read: *n* > `keep_from`. That is every version from
//!    `keep_from` on, and the one that was there at `keep_from`.
//!
//! A deletion that stays by these rules hides what is older. At the bottom nothing older is but
//! what comes after it here; so it waits, until an older version of its name stays too, and is
//! given before that one, or until there is none, and is dropped.
//!
//! - M1: what stays keeps its order, and every reader that may come reads as before. This rests on
//!   newer versions of a name standing above older ones: nothing below is newer than what is here.
//! - M2: of a name with any number of versions, [`WAITING_MAX`] deletions are held, and nothing
//!   else. If more would wait, the newest stays: a deletion that hides nothing costs only space.
//! - M3: of anything something stays. If all would go, the last deletion does not: the table that
//!   it stands in names those that were merged, and so tells that they are stale.
//!
//! Which views there are, and what is at the bottom, is told by others.

use std::cmp::{Ordering, Reverse};
use std::collections::VecDeque;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::iter::FusedIterator;

use bytes::Bytes;
use pinstone_disk::Digest;

/// One version of a name: what a commit made it point at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameEntry {
    /// The name.
    pub name: Bytes,
    /// The number of the commit.
    pub commit: u64,
    /// What the name points at from that commit on; `None` if the commit deleted it.
    pub to: Option<Digest>,
}

impl Ord for NameEntry {
    /// Names ascending, the newest version of each first. What is pointed at comes last, so that
    /// only equal entries compare equal; no two commits share a number.
    fn cmp(&self, other: &Self) -> Ordering {
        let names = self.name.cmp(&other.name);
        names.then(other.commit.cmp(&self.commit)).then_with(|| self.to.cmp(&other.to))
    }
}

impl PartialOrd for NameEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The items of several ascending sources, ascending, equal ones once.
///
/// Takes one item of each source at a time; each step costs about log2(sources) comparisons. If a
/// source is not ascending, neither is what comes out.
#[derive(Debug)]
pub struct Merge<I, T, E> {
    sources: Vec<I>,
    heads: BinaryHeap<Reverse<Head<T>>>,
    /// Sources were asked for their first items.
    is_begun: bool,
    /// What ended the merge, not given yet.
    error: Option<E>,
}

/// The next item of a source.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head<T> {
    item: T,
    source: usize,
}

impl<I: Iterator<Item = Result<T, E>>, T: Ord, E> Merge<I, T, E> {
    /// Merges `sources`, of which nothing is asked yet.
    pub fn new(sources: Vec<I>) -> Self {
        let heads = BinaryHeap::with_capacity(sources.len());
        Self { sources, heads, is_begun: false, error: None }
    }

    fn begin(&mut self) -> Result<(), E> {
        for (source, items) in self.sources.iter_mut().enumerate() {
            if let Some(item) = items.next() {
                self.heads.push(Reverse(Head { item: item?, source }));
            }
        }
        Ok(())
    }

    /// Takes the least item, and the next one of its source into the heap.
    fn take(&mut self) -> Option<T> {
        let mut least = self.heads.peek_mut()?;
        match self.sources[least.0.source].next() {
            // The heap is put in order as `least` goes.
            Some(Ok(next)) => Some(std::mem::replace(&mut least.0.item, next)),
            None => Some(PeekMut::pop(least).0.item),
            Some(Err(error)) => {
                self.error = Some(error);
                Some(PeekMut::pop(least).0.item)
            }
        }
    }

    fn end(&mut self, error: E) -> Option<Result<T, E>> {
        self.heads.clear();
        self.sources.clear();
        Some(Err(error))
    }
}

impl<I: Iterator<Item = Result<T, E>>, T: Ord, E> Iterator for Merge<I, T, E> {
    type Item = Result<T, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if !std::mem::replace(&mut self.is_begun, true)
            && let Err(error) = self.begin()
        {
            return self.end(error);
        }
        if let Some(error) = self.error.take() {
            return self.end(error);
        }
        let item = self.take()?;
        while self.error.is_none() && self.heads.peek().is_some_and(|head| head.0.item == item) {
            self.take();
        }
        Some(Ok(item))
    }
}

impl<I: Iterator<Item = Result<T, E>>, T: Ord, E> FusedIterator for Merge<I, T, E> {}

/// Entries that are gone through, some of which stay.
pub trait Sieve<T, E> {
    /// Goes through one entry at most. Gives one that stays; or `None`, if the entry that was gone through
    /// goes or waits. At the end it gives nothing.
    fn sift(&mut self) -> Option<Result<Option<T>, E>>;
}

impl<T, E, S: Sieve<T, E> + ?Sized> Sieve<T, E> for Box<S> {
    fn sift(&mut self) -> Option<Result<Option<T>, E>> {
        (**self).sift()
    }
}

/// The entries that are chosen, each for itself.
#[derive(Debug)]
pub struct Chosen<I, F> {
    entries: I,
    stays: F,
}

impl<I, F> Chosen<I, F> {
    /// Of `entries` those that stay.
    pub fn new(entries: I, stays: F) -> Self {
        Self { entries, stays }
    }
}

impl<T, E, I, F> Sieve<T, E> for Chosen<I, F>
where
    I: Iterator<Item = Result<T, E>>,
    F: FnMut(&T) -> bool,
{
    fn sift(&mut self) -> Option<Result<Option<T>, E>> {
        let entry = self.entries.next()?;
        Some(entry.map(|entry| (self.stays)(&entry).then_some(entry)))
    }
}

/// Who may still read old versions of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readers {
    /// Ascending.
    views: Vec<u64>,
    keep_from: u64,
}

impl Readers {
    /// Views of these commits, in any order, and of every commit from `keep_from` on; `u64::MAX`
    /// for none of those. The present is always read.
    pub fn new(mut views: Vec<u64>, keep_from: u64) -> Self {
        views.sort_unstable();
        views.dedup();
        Self { views, keep_from }
    }

    /// Whether anyone may see a version of commit `commit` that one of commit `newer` follows.
    fn may_see(&self, commit: u64, newer: u64) -> bool {
        let view = self.views.partition_point(|view| *view < commit);
        newer > self.keep_from || self.views.get(view).is_some_and(|view| *view < newer)
    }
}

/// Deletions of one name that wait for an older version, at most.
pub const WAITING_MAX: usize = 1024;

/// The entries that someone may read, of entries in the order of the names tree.
#[derive(Debug)]
pub struct Versions<I> {
    entries: I,
    readers: Readers,
    is_bottom: bool,
    /// Name and commit of the entry before.
    newer: Option<(Bytes, u64)>,
    /// Deletions that may go: of one name, the newest first. Empty unless at the bottom.
    waiting: VecDeque<NameEntry>,
    /// An entry that stays, behind deletions that stay with it.
    next: Option<NameEntry>,
    /// While nothing was given: a deletion that went.
    last_gone: Option<NameEntry>,
    has_given: bool,
    is_ended: bool,
}

impl<I, E> Versions<I>
where
    I: Iterator<Item = Result<NameEntry, E>>,
{
    /// Of `entries`, what `readers` may read. `is_bottom`: there is nothing older of their names
    /// but what is among them.
    pub fn new(entries: I, readers: Readers, is_bottom: bool) -> Self {
        let waiting = VecDeque::new();
        Self {
            entries,
            readers,
            is_bottom,
            newer: None,
            waiting,
            next: None,
            last_gone: None,
            has_given: false,
            is_ended: false,
        }
    }

    /// Whether an entry stays, deletions at the bottom apart.
    fn stays(&mut self, entry: &NameEntry) -> bool {
        let newer = self.newer.as_ref().filter(|(name, _)| *name == entry.name);
        let stays = newer.is_none_or(|(_, newer)| self.readers.may_see(entry.commit, *newer));
        if newer.is_none() {
            self.drop_waiting();
        }
        self.newer = Some((entry.name.clone(), entry.commit));
        stays
    }

    /// The next name, or none, follows: deletions that waited hide nothing.
    fn drop_waiting(&mut self) {
        if !self.has_given {
            self.last_gone = self.waiting.pop_back().or_else(|| self.last_gone.take());
        }
        self.waiting.clear();
    }

    /// The next of what stays. M1: the deletions that an entry makes stay are newer.
    fn give(&mut self) -> Option<NameEntry> {
        self.next.as_ref()?;
        self.waiting.pop_front().or_else(|| self.next.take())
    }

    fn step(&mut self) -> Option<Result<Option<NameEntry>, E>> {
        if let Some(entry) = self.give() {
            return Some(Ok(Some(entry)));
        }
        if self.is_ended {
            return None;
        }
        match self.entries.next() {
            Some(Ok(entry)) if !self.stays(&entry) => Some(Ok(None)),
            Some(Ok(entry)) if self.is_bottom && entry.to.is_none() => {
                self.waiting.push_back(entry);
                let is_full = self.waiting.len() > WAITING_MAX;
                // M2.
                Some(Ok(is_full.then(|| self.waiting.pop_front()).flatten()))
            }
            Some(Ok(entry)) => {
                self.next = Some(entry);
                Some(Ok(self.give()))
            }
            Some(Err(error)) => {
                self.is_ended = true;
                self.has_given = true;
                Some(Err(error))
            }
            None => {
                self.is_ended = true;
                self.drop_waiting();
                // M3.
                let last_gone = self.last_gone.take().filter(|_| !self.has_given)?;
                Some(Ok(Some(last_gone)))
            }
        }
    }
}

impl<I, E> Sieve<NameEntry, E> for Versions<I>
where
    I: Iterator<Item = Result<NameEntry, E>>,
{
    fn sift(&mut self) -> Option<Result<Option<NameEntry>, E>> {
        let given = self.step();
        self.has_given |= matches!(given, Some(Ok(Some(_))));
        given
    }
}

impl<I, E> Iterator for Versions<I>
where
    I: Iterator<Item = Result<NameEntry, E>>,
{
    type Item = Result<NameEntry, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(given) = self.sift()?.transpose() {
                return Some(given);
            }
        }
    }
}

impl<I, E> FusedIterator for Versions<I> where I: Iterator<Item = Result<NameEntry, E>> {}
