//! Names and where they point, as one commit left them, from both ends of a range: a scan over
//! everything that holds versions of names.
//!
//! 1. A [`NameView`] gives the sources: what may hold names of the range. Each gives its names in
//!    order, and of each name the newest version that the commit sees, deletions too.
//! 2. [`NameMerge`] makes one run of them: of each name the newest version of all.
//! 3. [`NameScan`] has a merge for each end that is asked, begun where that end stands. It reads some
//!    pointers ahead, leaves deletions out, and ends where the ends meet.
//! 4. A source may be gone before it has given all: what it held stands elsewhere then. The scan goes on in
//!    the present view, from where it stands.
//!
//! - S1: what neither end has read is a range of its own; each read makes it shorter. So no name is
//!   given twice, and none is left out, whichever end is asked when.
//! - S2: an error comes after what was read before it, and is the last thing given.
//! - S3: what a scan holds is bounded: a chunk of names for each end, and what its sources hold.
//! - S4: what the commit sees, every view has for as long as the scan goes on: whoever publishes views
//!   sees to that.

mod level;
mod merge;

use std::fmt;
use std::iter::FusedIterator;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::Digest;
use pinstone_disk::env::Published;

use crate::error::TableError;
pub use level::LevelScan;
pub use merge::NameMerge;

/// Pointers read ahead at first: most scans that end early end soon.
const CHUNK_COUNT_MIN: usize = 16;

/// Pointers read ahead at once, at most.
const CHUNK_COUNT_MAX: usize = 256;

/// Bytes of names after which no more are read ahead. The names of a chunk share their memory.
const CHUNK_BYTES: usize = 16 << 10;

/// Names from the first to before another, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRange {
    /// The first name that may be in it.
    pub from: Vec<u8>,
    /// The first name behind it; none if all from `from` on are in it.
    pub until: Option<Vec<u8>>,
}

impl NameRange {
    /// The names between these bounds.
    pub fn new(from: Bound<&[u8]>, until: Bound<&[u8]>) -> Self {
        let from = match from {
            Bound::Unbounded => Vec::new(),
            Bound::Included(name) => name.to_vec(),
            Bound::Excluded(name) => after(name),
        };
        let until = match until {
            Bound::Unbounded => None,
            Bound::Included(name) => Some(after(name)),
            Bound::Excluded(name) => Some(name.to_vec()),
        };
        Self { from, until }
    }

    /// All names.
    pub fn all() -> Self {
        Self { from: Vec::new(), until: None }
    }

    /// No name can be in it.
    pub fn is_empty(&self) -> bool {
        self.until.as_ref().is_some_and(|until| *until <= self.from)
    }

    /// Whether `name` is not behind it.
    pub fn is_before_end(&self, name: &[u8]) -> bool {
        self.until.as_ref().is_none_or(|until| *name < until[..])
    }

    /// Takes the names up to `name` out of it, or from `name` on, if `backwards`.
    pub fn cut(&mut self, name: &[u8], backwards: bool) {
        let bound = if backwards { self.until.get_or_insert_default() } else { &mut self.from };
        bound.clear();
        bound.extend_from_slice(name);
        if !backwards {
            bound.push(0);
        }
    }
}

/// The first of all names behind this one.
fn after(name: &[u8]) -> Vec<u8> {
    [name, &[0]].concat()
}

/// A name, and the newest version of it that a reader sees in one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The name; empty before the first.
    pub name: Vec<u8>,
    /// The number of the commit.
    pub commit: u64,
    /// Where it points; `None` if the commit deleted it.
    pub to: Option<Digest>,
}

impl Head {
    /// Puts another in its place, and keeps its memory.
    #[inline]
    pub fn set(&mut self, name: &[u8], commit: u64, to: Option<Digest>) {
        self.name.clear();
        self.name.extend_from_slice(name);
        (self.commit, self.to) = (commit, to);
    }
}

/// Why a source gives no more, although it has not ended.
#[derive(Debug)]
pub enum Stop {
    /// Damage, or whatever the machine says.
    Failed(TableError),
    /// What it gave is elsewhere by now: later views lead there.
    Gone,
}

impl From<TableError> for Stop {
    fn from(error: TableError) -> Self {
        Self::Failed(error)
    }
}

/// Names in order, forwards or backwards, each once.
pub trait NameSource {
    /// Puts the next name that its reader sees in place of `head`, the one that it gave before.
    /// Says whether there was one; then, and after an error, it is not asked again.
    ///
    /// # Errors
    /// There may be more, but not from here.
    fn next(&mut self, head: &mut Head) -> Result<bool, Stop>;

    /// Gives name after name to `each`, with the commit and where it points, until `each` says that it is
    /// enough or for a while. `head` is the one given before, by [`next`](Self::next) or by this. Says whether
    /// there may be more.
    ///
    /// # Errors
    /// As `next`.
    #[inline]
    fn give<F>(&mut self, head: &mut Head, mut each: F) -> Result<bool, Stop>
    where
        F: FnMut(&[u8], u64, Option<&Digest>) -> bool,
    {
        while self.next(head)? {
            if !each(&head.name, head.commit, head.to.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What can be scanned: it does not change, as far as a commit sees it.
pub trait NameView {
    /// What holds versions of names.
    type Source: NameSource;

    /// What whoever scans is told of damage.
    type Error: From<TableError>;

    /// All that may hold names of `range`, as `commit` sees them. Each gives them in order, or in
    /// reverse order if `backwards`, and no others.
    fn sources(
        self: &Arc<Self>,
        range: &NameRange,
        commit: u64,
        backwards: bool,
    ) -> Vec<Self::Source>;
}

/// The pointers of a range as a commit left them, in order of their names' bytes, from both ends.
/// Owns what it reads. Names that were read together share their memory: some 16 KiB.
pub struct NameScan<V: NameView> {
    views: Arc<Published<V>>,
    commit: u64,
    /// What neither end has read (S1).
    range: NameRange,
    front: End<V::Source>,
    back: End<V::Source>,
    /// The range has no more.
    is_read: bool,
    is_ended: bool,
}

/// One end of a scan.
struct End<S> {
    /// It has taken names out of the range, or may have.
    has_read: bool,
    /// None until it is asked.
    merge: Option<NameMerge<S>>,
    chunk: Chunk,
    /// What comes after the chunk.
    error: Option<TableError>,
}

impl<S> Default for End<S> {
    fn default() -> Self {
        Self { has_read: false, merge: None, chunk: Chunk::default(), error: None }
    }
}

/// Pointers read ahead.
#[derive(Default)]
struct Chunk {
    /// All names, one after the other.
    names: Bytes,
    /// Where each name ends, and where it points.
    pointers: Vec<(usize, Digest)>,
    /// Those that were not given yet: from here,
    given: usize,
    /// to before this one.
    end: usize,
}

impl<V: NameView> fmt::Debug for NameScan<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameScan")
            .field("commit", &self.commit)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl<V: NameView> NameScan<V> {
    /// A scan of `range` as `commit` left it. Reads nothing, and holds nothing, until it is asked.
    pub fn new(views: Arc<Published<V>>, range: NameRange, commit: u64) -> Self {
        let is_read = range.is_empty();
        let (front, back) = (End::default(), End::default());
        Self { views, commit, range, front, back, is_read, is_ended: false }
    }

    /// The next pointer from the front, lent until the scan is asked again: nothing is copied but what was read
    /// ahead. None at the end, and after an error.
    ///
    /// # Errors
    /// What a source says; it is the last thing that the scan says.
    #[inline]
    pub fn next_ref(&mut self) -> Result<Option<(&[u8], &Digest)>, V::Error> {
        self.lend(false)
    }

    /// The same, from the back.
    ///
    /// # Errors
    /// As [`next_ref`](Self::next_ref).
    #[inline]
    pub fn next_back_ref(&mut self) -> Result<Option<(&[u8], &Digest)>, V::Error> {
        self.lend(true)
    }

    #[inline]
    fn lend(&mut self, backwards: bool) -> Result<Option<(&[u8], &Digest)>, V::Error> {
        match self.next_place(backwards) {
            Some(Ok((is_back, index))) => {
                let chunk = self.chunk(is_back);
                Ok(Some((&chunk.names[chunk.bounds(index)], &chunk.pointers[index].1)))
            }
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }

    #[inline]
    fn give(&mut self, backwards: bool) -> Option<Result<(Bytes, Digest), V::Error>> {
        match self.next_place(backwards)? {
            Ok((is_back, index)) => {
                let chunk = self.chunk(is_back);
                // Built where it is returned: each move of it on the way costs as much as finding it.
                Some(Ok((chunk.names.slice(chunk.bounds(index)), chunk.pointers[index].1)))
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn chunk(&self, is_back: bool) -> &Chunk {
        &if is_back { &self.back } else { &self.front }.chunk
    }

    /// Where what is given next stands, if there is more: in the chunk of which end, and where in that.
    #[inline]
    fn next_place(&mut self, backwards: bool) -> Option<Result<(bool, usize), V::Error>> {
        let chunk = &mut if backwards { &mut self.back } else { &mut self.front }.chunk;
        match chunk.take_first() {
            Some(index) => Some(Ok((backwards, index))),
            None => self.read_and_place(backwards),
        }
    }

    fn read_and_place(&mut self, backwards: bool) -> Option<Result<(bool, usize), V::Error>> {
        if self.is_ended {
            return None;
        }
        let pending = |end: &End<V::Source>| end.error.is_some();
        if !self.is_read && !pending(if backwards { &self.back } else { &self.front }) {
            self.read(backwards);
        }
        let (here, there) = match backwards {
            true => (&mut self.back, &mut self.front),
            false => (&mut self.front, &mut self.back),
        };
        if let Some(index) = here.chunk.take_first() {
            return Some(Ok((backwards, index)));
        }
        let mut error = here.error.take();
        if error.is_none() {
            // The ends have met: what the other one has read ahead.
            if let Some(index) = there.chunk.take_last() {
                return Some(Ok((!backwards, index)));
            }
            error = there.error.take();
        }
        self.is_ended = true;
        (self.front, self.back) = (End::default(), End::default());
        error.map(|error| Err(error.into()))
    }

    /// Reads the next chunk of an end that has given all it had.
    fn read(&mut self, backwards: bool) {
        while !self.read_chunk(backwards) {}
    }

    /// The same, from the sources that are left; says no if they are gone and gave nothing.
    fn read_chunk(&mut self, backwards: bool) -> bool {
        let (end, other) = match backwards {
            true => (&mut self.back, &self.front),
            false => (&mut self.front, &self.back),
        };
        end.has_read = true;
        let merge = end.merge.get_or_insert_with(|| {
            let sources = self.views.keep().sources(&self.range, self.commit, backwards);
            NameMerge::new(sources, backwards)
        });
        let chunk = &mut end.chunk;
        let count_max = (chunk.pointers.len() * 2).clamp(CHUNK_COUNT_MIN, CHUNK_COUNT_MAX);
        // Most are about as long as those before.
        let mut names = Vec::with_capacity(chunk.names.len() + chunk.names.len() / 8);
        let pointers = &mut chunk.pointers;
        pointers.clear();
        let mut is_full = false;
        // The last deleted name, if nothing stands behind it: where to go on if a source is gone.
        let mut last_deleted = Vec::new();
        let mut each = |name: &[u8], to: Option<&Digest>| {
            last_deleted.clear();
            if let Some(to) = to {
                names.extend_from_slice(name);
                pointers.push((names.len(), *to));
                is_full = pointers.len() >= count_max || names.len() >= CHUNK_BYTES;
            } else {
                last_deleted.extend_from_slice(name);
            }
            !is_full
        };
        // What the other end has read, this one's sources may have, too.
        let limit = match (other.has_read, backwards) {
            (false, _) => None,
            (true, true) => Some(&self.range.from[..]),
            (true, false) => self.range.until.as_deref(),
        };
        let stop = loop {
            match merge.give(limit, &mut each) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(stop) => break Some(stop),
            }
        };
        if stop.is_none() && !is_full {
            self.is_read = true;
        }
        chunk.names = Bytes::from(names);
        (chunk.given, chunk.end) = (0, chunk.pointers.len());
        if let Some(last) = chunk.end.checked_sub(1) {
            self.range.cut(&chunk.names[chunk.bounds(last)], backwards);
        }
        match stop {
            None => true,
            Some(Stop::Failed(error)) => {
                end.error = Some(error);
                true
            }
            Some(Stop::Gone) => {
                end.merge = None;
                if !last_deleted.is_empty() {
                    self.range.cut(&last_deleted, backwards);
                }
                end.chunk.end > 0
            }
        }
    }
}

impl Chunk {
    #[inline]
    fn bounds(&self, index: usize) -> std::ops::Range<usize> {
        let start = if index == 0 { 0 } else { self.pointers[index - 1].0 };
        start..self.pointers[index].0
    }

    /// Which is the first that was not given; it is now.
    #[inline]
    fn take_first(&mut self) -> Option<usize> {
        if self.given == self.end {
            return None;
        }
        self.given += 1;
        Some(self.given - 1)
    }

    /// The same of the last.
    fn take_last(&mut self) -> Option<usize> {
        if self.given == self.end {
            return None;
        }
        self.end -= 1;
        Some(self.end)
    }
}

impl<V: NameView> Iterator for NameScan<V> {
    type Item = Result<(Bytes, Digest), V::Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.give(false)
    }
}

impl<V: NameView> DoubleEndedIterator for NameScan<V> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.give(true)
    }
}

impl<V: NameView> FusedIterator for NameScan<V> {}
