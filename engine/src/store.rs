//! The handle that services hold. Each method names the operation that does the work.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::name_scan::NameRange;
use pinstone_disk::{CommitId, Digest, Disk};

use crate::batch::{Batch, checked_name};
use crate::error::Result;
use crate::maintain;
use crate::ops;
use crate::options::{IoEngine, Maintenance, Options, Verify};
use crate::state::inner::Inner;
use crate::state::pointers::NameScan;
use crate::stats::{CheckOptions, CheckReport, Stats};

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The value's name from now on.
    pub digest: Digest,
    /// The value was not known before: its bytes were appended.
    pub new: bool,
}

/// An open store. Cheap to clone; clones share one store, from any number of threads.
///
/// When the last clone is dropped, and the last [`Snapshot`] and [`Pointers`] taken from one, the
/// store is closed; [`Store::close`] does it at once and tells of failures.
///
/// ```
/// # fn main() -> pinstone::Result<()> {
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # let path = dir.path();
/// use pinstone::{Batch, Store};
/// let store = Store::open(path)?;
/// let put = store.put(b"immutable")?;
/// store.commit(Batch::new().set("latest", put.digest))?; // durable from here on
/// let digest = store.pointer("latest")?.expect("it was set");
/// assert_eq!(store.get(&digest)?.as_deref(), Some(&b"immutable"[..]));
/// store.close()
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Open>,
}

/// What closes the store when the last of those who use it is gone. The maintenance thread is not
/// one of them: it holds only what lies beneath.
struct Open(Arc<Inner>);

impl std::ops::Deref for Open {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        ops::close::close_unasked(&self.0);
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

/// Opens a store with other options than the defaults.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it opens a store"]
pub struct StoreBuilder {
    options: Options,
}

impl StoreBuilder {
    /// Opens or creates the store at `path`; see [`Store::open`].
    ///
    /// # Errors
    /// As [`Store::open`]; [`crate::Error::StoreAbsent`] if it is not there and
    /// [`Options::create`] is off; [`crate::Error::Limit`] and [`crate::Error::UnderLimit`] if an
    /// option is out of bounds.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let inner = ops::recover::open_path(path.as_ref(), self.options)?;
        Ok(Store { inner: Arc::new(Open(inner)) })
    }

    /// The same on a disk of the caller's: the simulated one, in tests.
    ///
    /// # Errors
    /// As [`StoreBuilder::open`].
    pub fn open_on(self, disk: Arc<dyn Disk>) -> Result<Store> {
        let path = PathBuf::from(disk.describe());
        let inner = ops::recover::open(disk, path, self.options)?;
        Ok(Store { inner: Arc::new(Open(inner)) })
    }

    /// Sets all options.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Sets [`Options::create`].
    pub fn create(mut self, create: bool) -> Self {
        self.options.create = create;
        self
    }

    /// Sets [`Options::value_bytes_max`].
    pub fn value_bytes_max(mut self, bytes: u64) -> Self {
        self.options.value_bytes_max = bytes;
        self
    }

    /// Sets [`Options::commit_bytes_max`].
    pub fn commit_bytes_max(mut self, bytes: u64) -> Self {
        self.options.commit_bytes_max = bytes;
        self
    }

    /// Sets [`Options::segment_bytes`].
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.options.segment_bytes = bytes;
        self
    }

    /// Sets [`Options::pointer_segment_bytes`].
    pub fn pointer_segment_bytes(mut self, bytes: u64) -> Self {
        self.options.pointer_segment_bytes = bytes;
        self
    }

    /// Sets [`Options::append_buffer_bytes`].
    pub fn append_buffer_bytes(mut self, bytes: usize) -> Self {
        self.options.append_buffer_bytes = bytes;
        self
    }

    /// Sets [`Options::verify`].
    pub fn verify(mut self, verify: Verify) -> Self {
        self.options.verify = verify;
        self
    }

    /// Sets [`Options::maintenance`].
    pub fn maintenance(mut self, maintenance: Maintenance) -> Self {
        self.options.maintenance = maintenance;
        self
    }

    /// Sets [`Options::io`].
    pub fn io(mut self, io: IoEngine) -> Self {
        self.options.io = io;
        self
    }

    /// Sets [`Options::mmap`].
    pub fn mmap(mut self, maps: bool) -> Self {
        self.options.mmap = Some(maps);
        self
    }

    /// Sets [`Options::reserve_bytes`].
    pub fn reserve_bytes(mut self, bytes: u64) -> Self {
        self.options.reserve_bytes = bytes;
        self
    }

    /// Sets [`Options::testify_bytes`].
    pub fn testify_bytes(mut self, bytes: u64) -> Self {
        self.options.testify_bytes = bytes;
        self
    }

    /// Sets [`Options::memory_bytes`].
    pub fn memory_bytes(mut self, bytes: u64) -> Self {
        self.options.memory_bytes = bytes;
        self
    }

    /// Sets [`Options::memtable_entries_max`].
    pub fn memtable_entries_max(mut self, entries: u64) -> Self {
        self.options.memtable_entries_max = entries;
        self
    }

    /// Sets [`Options::level0_tables`].
    pub fn level0_tables(mut self, tables: u32) -> Self {
        self.options.level0_tables = tables;
        self
    }

    /// Sets [`Options::level_ratio`].
    pub fn level_ratio(mut self, ratio: u32) -> Self {
        self.options.level_ratio = ratio;
        self
    }

    /// Sets [`Options::table_bytes`].
    pub fn table_bytes(mut self, bytes: u64) -> Self {
        self.options.table_bytes = bytes;
        self
    }

    /// Sets [`Options::filter_levels`].
    pub fn filter_levels(mut self, levels: u8) -> Self {
        self.options.filter_levels = levels;
        self
    }

    /// Sets [`Options::compaction_bytes_per_second`].
    pub fn compaction_bytes_per_second(mut self, bytes: u64) -> Self {
        self.options.compaction_bytes_per_second = bytes;
        self
    }

    /// Sets [`Options::index_key_bits`].
    #[doc(hidden)]
    pub fn index_key_bits(mut self, bits: u32) -> Self {
        self.options.index_key_bits = bits;
        self
    }

    /// Sets [`Options::open_files_max`].
    pub fn open_files_max(mut self, files: usize) -> Self {
        self.options.open_files_max = files;
        self
    }
}

impl Store {
    /// Opens the store at `path`, creating it where the directory is absent or empty, and mends
    /// what a crash left. Costs reading the root log, the end of each table, and of both logs what
    /// is not in tables yet: digest lists of sealed segments, commits, and segments that are not
    /// sealed; and a few syncs. That grows with the count of tables, not of values. After a crash,
    /// also a copy of those unsealed segments that are not known to be durable.
    ///
    /// # Errors
    /// [`crate::Error::Locked`] if it is open already, here or in another process;
    /// [`crate::Error::NotAStore`] if the directory holds anything else;
    /// [`crate::Error::Unsupported`], [`crate::Error::Corrupt`], [`crate::Error::NoSpace`],
    /// [`crate::Error::Io`]. Whatever the error, nothing in the directory was lost.
    ///
    /// A process under a limit on file sizes (`RLIMIT_FSIZE`) has to ignore the signal `SIGXFSZ`,
    /// which ends it otherwise; writes beyond the limit are then refused with `NoSpace`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// Opens with options.
    pub fn builder() -> StoreBuilder {
        StoreBuilder::default()
    }

    /// Stores `value`, unless it is held already, and returns its digest. Not durable on return:
    /// a commit that points at it, or [`Store::sync`], makes it so. Costs hashing the value, copying
    /// it once if it is new, and the look-up of [`Store::contains`]: reads of the device for what is
    /// held already, hardly any for what is new.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] if it is longer than [`Options::value_bytes_max`];
    /// [`crate::Error::NoSpace`] and [`crate::Error::Io`], such as too few file descriptors for
    /// the next segment, after which it is not stored; [`crate::Error::Poisoned`];
    /// [`crate::Error::Corrupt`], naming the root log, if it needs a segment and no ordinal is left.
    pub fn put(&self, value: &[u8]) -> Result<Put> {
        ops::put::put(&self.inner, value)
    }

    /// Stores these values, in their order, each as [`Store::put`] does it, with errors of its own: one that
    /// is refused keeps no other from being stored. A value that stands twice among them is stored once, and
    /// new the first time. Not durable on return.
    ///
    /// Costs hashing each value, and copying it once if it is new. Which of them are held already is looked up
    /// as [`Store::contains_many`] does it, a thousand at a time, before they are stored. Locks that other writers
    /// need are taken once for up to 256 values, and no further ones after 256 KiB of them: gains where values
    /// are small, or many of them are held already. A large value costs what it costs alone.
    ///
    /// ```
    /// # fn main() -> pinstone::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// use pinstone::{Batch, Put, Store};
    /// let store = Store::open(dir.path())?;
    /// let lines: Vec<&str> = "one\ntwo\none".lines().collect();
    /// let puts: Vec<Put> = store.put_many(&lines).into_iter().collect::<Result<_, _>>()?;
    /// assert_eq!(puts.iter().map(|put| put.new).collect::<Vec<_>>(), [true, true, false]);
    /// let named = puts.iter().zip(1u32..);
    /// let batch = named.fold(Batch::new(), |batch, (put, n)| batch.set(n.to_string(), put.digest));
    /// store.commit(batch)?; // durable from here on
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_many(&self, values: &[impl AsRef<[u8]>]) -> Vec<Result<Put>> {
        ops::put_many::put_many(&self.inner, values)
    }

    /// The value named `digest`, or `None` if the store does not hold it; checked as
    /// [`Options::verify`] says. Costs a read of the log, or two for a value over 64 KiB, and one more where a
    /// segment is opened for the first time; none of what is still in memory or mapped into it. If the value
    /// stands in tables, besides that a read of a page for each table that may hold it, where the page is not
    /// in the cache: filters leave one, or none for a value that is absent. Of a copy that cannot be read, or is
    /// bad, it reads what the pointer log carries; if only that is good, it puts the value anew and
    /// syncs it.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if no copy can be read as it was written; [`crate::Error::Io`].
    pub fn get(&self, digest: &Digest) -> Result<Option<Bytes>> {
        self.get_verified(digest, self.inner.options.verify)
    }

    /// The same, checked as `verify` says.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_verified(&self, digest: &Digest, verify: Verify) -> Result<Option<Bytes>> {
        ops::get::get(&self.inner, digest, verify)
    }

    /// Whether the store holds the value, in a copy that is not known to be damaged, or that the pointer log
    /// carries. Reads nothing
    /// of the value itself; costs at most two reads of the device, a page of a table and a part of the
    /// list of a segment, or a few more where several tables may hold it, or where the segment's list is not at
    /// hand yet, which takes three; none if memory or the cache tell, and hardly ever one for a value that is
    /// absent.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if it was not found, and damage may have hidden it;
    /// [`crate::Error::Io`].
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        ops::lookup::is_readable(&self.inner, digest)
    }

    /// The values of these digests, in their order, each as [`Store::get`] has it, with errors of its own.
    /// Costs what the slowest of the reads costs that go at once: pages of tables that are not cached, then
    /// records, each in the order of their places.
    pub fn get_many(&self, digests: &[Digest]) -> Vec<Result<Option<Bytes>>> {
        self.get_many_within(digests, u64::MAX)
    }

    /// The same of the first of these digests, as many as have together at most `bytes_max` bytes in the log,
    /// rounded up; one at least. Fewer answers than digests: the others were not read. Of values that damage
    /// hides the length is not known; they count as nothing.
    ///
    /// ```
    /// # fn main() -> pinstone::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let store = pinstone::Store::open(dir.path())?;
    /// let digests = [[1; 1000], [2; 1000], [3; 1000]].map(|value| store.put(&value));
    /// let digests = digests.into_iter().map(|put| Ok(put?.digest)).collect::<pinstone::Result<Vec<_>>>()?;
    /// let first = store.get_many_within(&digests, 2500);
    /// assert_eq!(first.len(), 2);
    /// assert_eq!(store.get_many_within(&digests[first.len()..], 2500).len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many_within(
        &self,
        digests: &[Digest],
        bytes_max: u64,
    ) -> Vec<Result<Option<Bytes>>> {
        let verify = self.inner.options.verify;
        ops::get_many::get_many(&self.inner, digests, verify, bytes_max)
    }

    /// Whether the store holds these values, in their order, each as [`Store::contains`] has it, with errors of
    /// its own. Pages of tables that are not cached are read at once, and then those of the lists of segments, each
    /// in the order of their places.
    pub fn contains_many(&self, digests: &[Digest]) -> Vec<Result<bool>> {
        ops::lookup::are_readable(&self.inner, digests)
    }

    /// Makes the batch's changes, all or none. On return they, and every value that they point
    /// at, are on stable storage. Concurrent commits share their syncs. Costs besides that the look-up
    /// of [`Store::contains`] for each value (one of which only the pointer log has a good copy is read and put
    /// anew), and of [`Store::pointer`] for each requirement.
    ///
    /// # Errors
    /// Nothing happened: [`crate::Error::PreconditionFailed`] (and what it tells of is durable),
    /// [`crate::Error::ValueMissing`], [`crate::Error::NameLength`], [`crate::Error::BadBatch`],
    /// [`crate::Error::Limit`], [`crate::Error::NoSpace`], [`crate::Error::Poisoned`],
    /// [`crate::Error::Io`]; [`crate::Error::Corrupt`] if damage hides a value that it points at, or
    /// what a pointer is that it requires something of, if a table that had to be written first is bad, or if the
    /// pointer log has no ordinal left for a segment that it needs. [`crate::Error::Indeterminate`]: it may be
    /// found after reopening, whole, or not.
    pub fn commit(&self, batch: Batch) -> Result<CommitId> {
        let change_count = batch.change_count() as u64;
        let committed = ops::commit::commit(&self.inner, batch);
        // One that was refused put nothing behind.
        if committed.is_ok() {
            ops::commit::after(&self.inner, change_count);
        }
        committed
    }

    /// Where the pointer `name` points. Costs nothing of the device if the name was changed since the
    /// last flush; else a look at the filters of the tables that may have it, and at most a read of one
    /// block, or two, for each that its filter does not rule out, the newest first, until one has it.
    ///
    /// # Errors
    /// [`crate::Error::NameLength`] if no pointer can have that name; [`crate::Error::Corrupt`] if a
    /// table that may have it is damaged; [`crate::Error::Io`].
    pub fn pointer(&self, name: impl AsRef<[u8]>) -> Result<Option<Digest>> {
        self.inner.pointers.current(checked_name(name.as_ref())?)
    }

    /// The pointers with names in `range`, in order of their bytes, as they stand now; see
    /// [`Snapshot::pointers`], also for what it costs.
    pub fn pointers<R: RangeBounds<[u8]>>(&self, range: R) -> Pointers {
        self.snapshot().pointers(range)
    }

    /// The pointers whose names begin with `prefix`.
    pub fn pointers_with_prefix(&self, prefix: impl AsRef<[u8]>) -> Pointers {
        self.snapshot().pointers_with_prefix(prefix)
    }

    /// A consistent view of the pointers as they stand now. Blocks nobody; costs nothing until
    /// pointers that it sees are changed, and then a few bytes each.
    pub fn snapshot(&self) -> Snapshot {
        let pin = Pin { commit: self.inner.pointers.pin(), inner: Arc::clone(&self.inner) };
        Snapshot { pin: Arc::new(pin) }
    }

    /// Makes all values put before durable. Concurrent calls share their syncs.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`]: what could not be written is kept in memory and tried again;
    /// [`crate::Error::Poisoned`], whatever is durable by then.
    pub fn sync(&self) -> Result<()> {
        self.inner.writer.poison.check()?;
        Ok(self.inner.blob.sync_all()?)
    }

    /// Carries out what is due in the background, on this thread, until nothing is. Then writes
    /// down how far the logs are durable, if that was not yet, also where something of that could not
    /// be done: from then on even damage to the very last commit is told from the torn tail of a crash.
    /// For moments of rest.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`], [`crate::Error::Poisoned`], [`crate::Error::Io`];
    /// [`crate::Error::Corrupt`], naming the root log, if the blob log has no ordinal left.
    pub fn maintain(&self) -> Result<()> {
        let done = maintain::all(&self.inner);
        let told = maintain::testify(&self.inner);
        done.and(told)
    }

    /// Rewrites the tables of the digest index and of the pointer table until each tree is one
    /// sorted level: the fewest reads for a look-up, and no version of a name that no snapshot sees, nor a
    /// deletion; but in tables with later commits than that of the oldest snapshot some of these may stay.
    /// On return that is durable.
    ///
    /// Seals what is full and flushes what is sealed, and nothing else: what was put and committed
    /// since stays in memtables, and tables that others flush meanwhile stay above that level. Reads,
    /// writes and commits go on, as beside any compaction. Costs reading and writing tables level by
    /// level, with 16 bytes for a value; a second call writes nothing. Of use before a store is mostly
    /// read, or copied: else levels keep themselves in shape.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`], [`crate::Error::Io`]: what was rewritten by then stays so, and the rest is as it
    /// was. [`crate::Error::Corrupt`] if a table is damaged, or [`crate::Error::Io`] if it cannot be read: the first
    /// of them, after all was rewritten that can be without them. [`crate::Error::Poisoned`], also if another handle closes the store meanwhile;
    /// [`crate::Error::Limit`] if more than 16,000 tables would have to be rewritten at once, or that
    /// many which were replaced are still read.
    pub fn compact(&self) -> Result<()> {
        self.compact_watched(|_done, _all| {})
    }

    /// The same. `progress` is told now and then how far it is: bytes read, and about how many are
    /// to be read in all.
    ///
    /// # Errors
    /// As [`Store::compact`].
    pub fn compact_watched(&self, progress: impl Fn(u64, u64)) -> Result<()> {
        ops::compact::full::compact(&self.inner, progress)
    }

    /// Looks for damage, and mends none. Reads all metadata, and every value if asked.
    ///
    /// Values that are only in memory are written first, not synced, so that there is something to
    /// look at; on a full device they stay in memory and are left out. Copies of values that are
    /// found damaged are marked so in memory: reads try others first, and putting the value again
    /// writes it anew.
    ///
    /// # Errors
    /// [`crate::Error::Poisoned`] if another handle closed the store, before or meanwhile: its files
    /// may be another opener's by now. [`crate::Error::Io`] if it cannot look. Damage is in the
    /// report.
    pub fn check(&self, options: &CheckOptions) -> Result<CheckReport> {
        ops::check::check(&self.inner, options)
    }

    /// Figures of the store. Waits while a group of commits is made durable, and while an edit of
    /// the root is: their ends are read under the same locks.
    pub fn stats(&self) -> Stats {
        ops::stats::stats(&self.inner)
    }

    /// Ends writing for all clones, makes everything durable, and records that nothing is left to
    /// mend. So that the next open is quick, memtables are written as tables where they hold much: that takes some
    /// 100 ns for each value in them, and more for a name; where level 0 of a tree then has all the tables that it may,
    /// it is rewritten, too, as by compaction. Reads through other clones go on; but
    /// once the store is open again,
    /// in this process or another, that opener removes tables that it has rewritten. A clone that does not hold
    /// such a table open, as where there are more than [`StoreBuilder::open_files_max`] allows, cannot read what
    /// it leads to from then on: that is [`crate::Error::Io`], never another answer.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`], [`crate::Error::Poisoned`], [`crate::Error::Io`]: the store is
    /// closed all the same, and the next open mends it.
    pub fn close(self) -> Result<()> {
        ops::close::close(&self.inner)
    }
}

/// Keeps what a commit sees.
struct Pin {
    inner: Arc<Open>,
    commit: CommitId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.inner.pointers.unpin(self.commit);
    }
}

/// A consistent view of a store's pointers, for as long as it is held. Owns what it needs: it
/// outlives the handle it came from.
#[derive(Clone)]
pub struct Snapshot {
    pin: Arc<Pin>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("commit", &self.pin.commit).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The last commit that it sees; 0 before the first.
    pub fn commit(&self) -> CommitId {
        self.pin.commit
    }

    /// Where the pointer `name` pointed.
    ///
    /// # Errors
    /// As [`Store::pointer`].
    pub fn pointer(&self, name: impl AsRef<[u8]>) -> Result<Option<Digest>> {
        self.pin.inner.pointers.at(checked_name(name.as_ref())?, self.pin.commit)
    }

    /// The pointers with names in `range`, in order of their bytes, forwards and backwards. The
    /// iterator holds the snapshot, and reads ahead some hundred pointers. With long names, what it holds of
    /// memtables and blocks adds up to some 300 KiB, and more the more tables are in level 0. Names that were
    /// read together share their memory: one that is kept keeps some 16 KiB, unless it is copied.
    ///
    /// Costs finding the range's ends in each table of level 0 and in one table of each level below, and
    /// then reading the blocks that hold the range, in each of them, once.
    ///
    /// An error ([`crate::Error::Corrupt`] where a table is damaged, [`crate::Error::Io`]) is an item,
    /// and the last one; what came before it is as it should be.
    ///
    /// A range of all names is `..`; bounds are slices, as in
    /// `(Bound::Included(&b"a"[..]), Bound::Unbounded)`.
    pub fn pointers<R: RangeBounds<[u8]>>(&self, range: R) -> Pointers {
        self.scan(NameRange::new(range.start_bound(), range.end_bound()))
    }

    /// The pointers whose names begin with `prefix`.
    pub fn pointers_with_prefix(&self, prefix: impl AsRef<[u8]>) -> Pointers {
        let prefix = prefix.as_ref();
        let end = prefix.iter().rposition(|byte| *byte != u8::MAX).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        });
        self.scan(NameRange { from: prefix.to_vec(), until: end })
    }

    fn scan(&self, range: NameRange) -> Pointers {
        let scan = self.pin.inner.pointers.scan(range, self.pin.commit);
        Pointers { scan, snapshot: self.clone() }
    }
}

/// Pointers in order of their names' bytes, from both ends; see [`Snapshot::pointers`].
#[derive(Debug)]
pub struct Pointers {
    scan: NameScan,
    /// Keeps what the scan sees.
    snapshot: Snapshot,
}

impl Pointers {
    /// The snapshot that they are of.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The next pointer, its name lent until the next one is asked for. Takes half of the time that [`Iterator::next`] takes, which
    /// gives a name that owns its bytes; both may be used in turns. None at the end, and after an error.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let store = pinstone::Store::open(directory.path().join("store"))?;
    /// # let digest = store.put(b"value")?.digest;
    /// # store.commit(pinstone::Batch::new().set("builds/1", digest))?;
    /// let mut pointers = store.pointers_with_prefix("builds/");
    /// while let Some((name, digest)) = pointers.next_ref()? {
    ///     println!("{digest} {}", name.escape_ascii());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] where a table is damaged, [`crate::Error::Io`]; what came before it is as it should be.
    #[inline]
    pub fn next_ref(&mut self) -> Result<Option<(&[u8], &Digest)>> {
        self.scan.next_ref()
    }

    /// The same from the back, as [`DoubleEndedIterator::next_back`].
    ///
    /// # Errors
    /// As [`Pointers::next_ref`].
    #[inline]
    pub fn next_back_ref(&mut self) -> Result<Option<(&[u8], &Digest)>> {
        self.scan.next_back_ref()
    }
}

impl Iterator for Pointers {
    type Item = Result<(Bytes, Digest)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.scan.next()
    }
}

impl DoubleEndedIterator for Pointers {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        self.scan.next_back()
    }
}

impl FusedIterator for Pointers {}
