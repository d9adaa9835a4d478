//! The seam to the machine: [`Disk`], [`File`], and [`Batch`]es of operations in flight together.
//!
//! A disk is one directory, the store's; files in it are known by [`FileName`] alone.
//!
//! What *durable* means, and what every implementation may do to what is not:
//!
//! - D1: bytes written and a length set are durable once a [`Op::Sync`] of that file, submitted
//!   after they completed, has succeeded. Before that, each 512-byte sector of which anything was
//!   written is old, new, zero or garbage after a crash, what was durable in it too; and the length
//!   moves apart from the bytes.
//! - D2: a name created, renamed or removed is durable once [`Disk::sync_dir`], called after it,
//!   has succeeded. Before that each change is kept or lost on its own.
//! - D3: a failed sync promises nothing about any byte written since the last one that succeeded,
//!   and a later sync that succeeds does not mend that.
//! - D4: no order holds between chains of a batch; in a chain an operation starts when the one
//!   before it has wholly succeeded, and is not started otherwise.
//! - D5: an operation in flight owns its buffer and its file until it completes.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{AtomicUsize, Ordering};
use crate::error::{DiskError, Operation};
use crate::file_name::FileName;
use crate::map::{Map, Mapped};

/// How [`Disk::open`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file that is sealed, so that nobody changes it any more, for reading: it may be mapped
    /// into memory.
    Sealed,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing, mode 0600.
    Create,
}

/// One operation of a chain.
#[derive(Debug)]
pub enum Op {
    /// Reads up to `len_bytes` from `offset_bytes`; fewer only where the file ends.
    Read {
        /// The file to read.
        file: Arc<dyn File>,
        /// Where to begin.
        offset_bytes: u64,
        /// How much to read.
        len_bytes: usize,
    },
    /// Writes all of `data` at `offset_bytes`.
    Write {
        /// The file to write.
        file: Arc<dyn File>,
        /// Where to begin.
        offset_bytes: u64,
        /// What to write.
        data: Bytes,
    },
    /// Makes the file's bytes and length durable (`fdatasync`).
    Sync {
        /// The file to sync.
        file: Arc<dyn File>,
    },
}

impl Op {
    /// The file that it is on.
    pub fn file(&self) -> &Arc<dyn File> {
        match self {
            Self::Read { file, .. } | Self::Write { file, .. } | Self::Sync { file } => file,
        }
    }
}

/// Chains of operations to be in flight together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each chain runs in its own order; none waits for another.
    pub chains: Vec<Vec<Op>>,
}

/// Files that batches of reads may have open at once, all threads' together; each batch has one at least.
#[derive(Debug)]
pub struct FewFiles {
    count_max: usize,
    free: AtomicUsize,
}

/// What is read at once of what is to be read.
#[derive(Debug)]
pub struct Part<'a, T> {
    items: &'a [T],
    taken: usize,
    of: &'a FewFiles,
}

impl<T> std::ops::Deref for Part<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.items
    }
}

impl<T> Drop for Part<'_, T> {
    fn drop(&mut self) {
        self.of.free.fetch_add(self.taken, Ordering::Relaxed);
    }
}

impl FewFiles {
    /// So many.
    pub fn new(count_max: usize) -> Self {
        Self { count_max, free: AtomicUsize::new(count_max) }
    }

    /// Cuts what is to be read into parts: whoever reads them part by part has few files open. What is of one
    /// file stands together in `sorted`; `file` says none of what takes no descriptor.
    pub fn parts<'a, T, F: PartialEq>(
        &'a self,
        sorted: &'a [T],
        file: impl Fn(&T) -> Option<F> + 'a,
    ) -> impl Iterator<Item = Part<'a, T>> {
        let mut left = sorted;
        std::iter::from_fn(move || {
            let end_of = |count_max: usize| {
                left.first()?;
                let (mut last, mut count) = (None, 0);
                let is_too_much = |item: &T| {
                    let this = file(item);
                    if this.is_some() {
                        count += usize::from(this != last);
                        last = this;
                    }
                    count > count_max
                };
                let end = left.iter().position(is_too_much).unwrap_or(left.len());
                Some((end, count.min(count_max)))
            };
            let (_, wanted) = end_of(self.count_max.max(1))?;
            let take = |free: usize| Some(free - free.min(wanted));
            let free = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
            let taken = free.map_or(0, |free| free.min(wanted));
            let (end, _) = end_of(taken.max(1))?;
            let (items, rest) = left.split_at(end);
            left = rest;
            Some(Part { items, taken, of: self })
        })
    }
}

/// Opens files in turn, each once for all that is read of it: between two reads another thread may take its place
/// among those that are kept open.
#[derive(Debug)]
pub struct InTurn<K>(Option<(K, Arc<dyn File>)>);

impl<K> Default for InTurn<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq> InTurn<K> {
    /// The file with this key: the one of the call before, or the one that `open` opens, if any.
    pub fn file(
        &mut self,
        key: K,
        open: impl FnOnce() -> Option<Arc<dyn File>>,
    ) -> Option<Arc<dyn File>> {
        if self.0.as_ref().is_none_or(|(last, _)| *last != key) {
            self.0 = open().map(|file| (key, file));
        }
        self.0.as_ref().map(|(_, file)| Arc::clone(file))
    }
}

/// Keeps a lock file locked until dropped.
pub trait Lock: Send + Sync + fmt::Debug {}

/// An open file. Positioned access only: there is no cursor.
pub trait File: Send + Sync + fmt::Debug {
    /// Its name.
    fn name(&self) -> FileName;

    /// Its length in bytes.
    ///
    /// # Errors
    /// The machine's.
    fn len_bytes(&self) -> Result<u64, DiskError>;

    /// Bytes that it takes on the device, written or reserved, about; its length, where that is not known.
    ///
    /// # Errors
    /// The machine's.
    fn allocated_bytes(&self) -> Result<u64, DiskError> {
        self.len_bytes()
    }

    /// Cuts or extends it; what is added reads as zeros. Durable by D1.
    ///
    /// # Errors
    /// The machine's.
    fn set_len(&self, len_bytes: u64) -> Result<(), DiskError>;

    /// Reserves space for, and extends the file to, `len_bytes`; never shortens. Where the file
    /// system cannot reserve, only extends. `NoSpace` leaves the file as it was.
    ///
    /// # Errors
    /// The machine's; *no space* if there is not so much.
    fn allocate(&self, len_bytes: u64) -> Result<(), DiskError>;

    /// Reads into the spare capacity of `buffer` and extends it; returns how many bytes, 0 at the
    /// end of the file. May be short; may be interrupted.
    ///
    /// # Errors
    /// The machine's; *interrupted* is to be tried again.
    fn read_at(&self, offset_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<usize>;

    /// Writes a prefix of `data`; returns its length. May be short; may be interrupted.
    ///
    /// # Errors
    /// The machine's; *interrupted* is to be tried again.
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<usize>;

    /// `fdatasync`.
    ///
    /// # Errors
    /// The machine's: what was written since the last one may be lost, whatever a later one says (D3).
    fn sync_data(&self) -> io::Result<()>;

    /// What the machine knows it by, if it is a file of the machine.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Its bytes in memory, if it is mapped: reads are slices of it.
    fn map(&self) -> Option<&Map> {
        None
    }
}

/// A store's directory on some machine.
pub trait Disk: Send + Sync + fmt::Debug {
    /// What to call the directory in messages.
    fn describe(&self) -> String;

    /// The I/O engine in use, for `stats`.
    fn engine(&self) -> &'static str;

    /// What is mapped of its files.
    fn mapped(&self) -> Mapped {
        Mapped::default()
    }

    /// Opens or creates a file, without following links. A creation is durable by D2.
    ///
    /// # Errors
    /// The machine's, such as that it is not there, or is there already and was to be created.
    fn open(&self, name: FileName, mode: OpenMode) -> Result<Arc<dyn File>, DiskError>;

    /// All names in the directory, ours or not, sorted.
    ///
    /// # Errors
    /// The machine's.
    fn list(&self) -> Result<Vec<String>, DiskError>;

    /// Renames, replacing `to`. Durable by D2.
    ///
    /// # Errors
    /// The machine's.
    fn rename(&self, from: FileName, to: FileName) -> Result<(), DiskError>;

    /// Removes a name. Durable by D2.
    ///
    /// # Errors
    /// The machine's, such as that there is none.
    fn remove(&self, name: FileName) -> Result<(), DiskError>;

    /// Makes all names durable.
    ///
    /// # Errors
    /// The machine's: names may be lost, whatever a later call says.
    fn sync_dir(&self) -> Result<(), DiskError>;

    /// Takes the exclusive lock on [`FileName::Lock`], creating the file if need be and writing
    /// this process's id into it; tries for a bounded time. `Ok(Err(pid))` if another holds it.
    ///
    /// # Errors
    /// The machine's; that another holds the lock is none.
    fn lock(&self) -> Result<Result<Box<dyn Lock>, Option<u32>>, DiskError>;

    /// Random bytes for identities; seeded in simulation.
    ///
    /// # Errors
    /// The machine's.
    fn random(&self) -> Result<[u8; 16], DiskError>;

    /// Carries out all chains; returns when each has completed or failed. For each chain, what its
    /// reads returned in order, or its first error.
    fn run(&self, batch: Batch) -> Vec<Result<Vec<Bytes>, DiskError>> {
        batch.chains.into_iter().map(run_chain).collect()
    }
}

/// What can be said with one operation.
pub trait DiskExt: Disk {
    /// Reads up to `len_bytes`; fewer only where the file ends.
    ///
    /// # Errors
    /// The machine's, with the offset.
    fn read(
        &self,
        file: &Arc<dyn File>,
        offset_bytes: u64,
        len_bytes: usize,
    ) -> Result<Bytes, DiskError> {
        if let Some(bytes) = read_mapped(&**file, offset_bytes, len_bytes) {
            return Ok(bytes);
        }
        let op = Op::Read { file: Arc::clone(file), offset_bytes, len_bytes };
        let mut read = self.one(vec![op])?;
        Ok(read.pop().expect("a chain of one read returns one buffer"))
    }

    /// As [`DiskExt::read`], bytes that stay what they are. Those of a map may be fetched anew at any time: who
    /// checks them first and relies on them after wants these.
    ///
    /// # Errors
    /// As there.
    fn read_own(
        &self,
        file: &Arc<dyn File>,
        offset_bytes: u64,
        len_bytes: usize,
    ) -> Result<Bytes, DiskError> {
        let bytes = self.read(file, offset_bytes, len_bytes)?;
        Ok(if file.map().is_some() { Bytes::copy_from_slice(&bytes) } else { bytes })
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// The machine's, with the offset; some of it may be written.
    fn write(&self, file: &Arc<dyn File>, offset_bytes: u64, data: Bytes) -> Result<(), DiskError> {
        self.one(vec![Op::Write { file: Arc::clone(file), offset_bytes, data }]).map(drop)
    }

    /// Makes the file's bytes and length durable.
    ///
    /// # Errors
    /// The machine's; see [`File::sync_data`].
    fn sync(&self, file: &Arc<dyn File>) -> Result<(), DiskError> {
        self.one(vec![Op::Sync { file: Arc::clone(file) }]).map(drop)
    }

    /// Runs one chain.
    ///
    /// # Errors
    /// The first of the chain's.
    fn one(&self, chain: Vec<Op>) -> Result<Vec<Bytes>, DiskError> {
        self.run(Batch { chains: vec![chain] }).pop().expect("one result a chain")
    }
}

impl<D: Disk + ?Sized> DiskExt for D {}

/// Carries out one chain by the file's own positioned calls.
pub(crate) fn run_chain(chain: Vec<Op>) -> Result<Vec<Bytes>, DiskError> {
    let mut read = Vec::new();
    for op in chain {
        read.extend(run_op(op)?);
    }
    Ok(read)
}

/// Carries out one operation; returns what it read, if it is a read.
pub(crate) fn run_op(op: Op) -> Result<Option<Bytes>, DiskError> {
    match op {
        Op::Read { file, offset_bytes, len_bytes } => {
            if let Some(bytes) = read_mapped(&*file, offset_bytes, len_bytes) {
                return Ok(Some(bytes));
            }
            read_all_at(&*file, offset_bytes, len_bytes).map(Some)
        }
        Op::Write { file, offset_bytes, data } => {
            write_all_at(&*file, offset_bytes, &data).map(|()| None)
        }
        Op::Sync { file } => {
            let mut synced = retry(|| file.sync_data());
            if synced.is_err() && crate::planted::is(crate::planted::Bug::SyncRetried) {
                synced = retry(|| file.sync_data());
            }
            synced
                .map(|()| None)
                .map_err(|source| DiskError::new(Operation::Sync, file.name(), source))
        }
    }
}

/// A slice of the file's map, if it has one and the kernel can fetch the bytes.
fn read_mapped(file: &dyn File, offset_bytes: u64, len_bytes: usize) -> Option<Bytes> {
    file.map()?.read(offset_bytes, len_bytes).ok()
}

fn read_all_at(file: &dyn File, offset_bytes: u64, len_bytes: usize) -> Result<Bytes, DiskError> {
    let mut buffer = Vec::with_capacity(len_bytes);
    while buffer.len() < len_bytes {
        let at = offset_bytes + buffer.len() as u64;
        let count = retry(|| file.read_at(at, &mut buffer))
            .map_err(|source| DiskError::new(Operation::Read, file.name(), source).at(at))?;
        if count == 0 {
            break;
        }
    }
    // The allocator may have given more room than was asked for, and a read fills what there is.
    buffer.truncate(len_bytes);
    Ok(Bytes::from(buffer))
}

/// Writes all of `data`, whatever short counts the file returns.
///
/// # Errors
/// The machine's, with the offset; what is before that is written.
pub fn write_all_at(file: &dyn File, offset_bytes: u64, data: &[u8]) -> Result<(), DiskError> {
    let mut done = 0;
    while done < data.len() {
        let at = offset_bytes + done as u64;
        let count = retry(|| file.write_at(at, &data[done..])).and_then(|count| {
            if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
        });
        done +=
            count.map_err(|source| DiskError::new(Operation::Write, file.name(), source).at(at))?;
        if crate::planted::is(crate::planted::Bug::ShortWriteIgnored) {
            break;
        }
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{AtomicU64, Ordering};

    /// Answers each call with less than was asked, or with an interruption.
    #[derive(Debug, Default)]
    struct Grudging {
        calls: AtomicU64,
    }

    impl Grudging {
        fn interrupted(&self) -> io::Result<()> {
            match self.calls.fetch_add(1, Ordering::Relaxed) % 2 {
                0 => Err(io::ErrorKind::Interrupted.into()),
                _ => Ok(()),
            }
        }
    }

    impl File for Grudging {
        fn name(&self) -> FileName {
            FileName::Current
        }
        fn len_bytes(&self) -> Result<u64, DiskError> {
            Ok(10)
        }
        fn set_len(&self, _len_bytes: u64) -> Result<(), DiskError> {
            Ok(())
        }
        fn allocate(&self, _len_bytes: u64) -> Result<(), DiskError> {
            Ok(())
        }
        fn read_at(&self, offset_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<usize> {
            self.interrupted()?;
            if offset_bytes >= 10 {
                return Ok(0);
            }
            buffer.push(b'0' + u8::try_from(offset_bytes).unwrap());
            Ok(1)
        }
        fn write_at(&self, offset_bytes: u64, data: &[u8]) -> io::Result<usize> {
            self.interrupted()?;
            if offset_bytes >= 10 { Ok(0) } else { Ok(data.len().min(3)) }
        }
        fn sync_data(&self) -> io::Result<()> {
            self.interrupted()
        }
    }

    #[test]
    fn parts_have_no_more_files_than_they_may() {
        let parts = |count_max| {
            let files = FewFiles::new(count_max);
            let parts = files.parts(b"aabcccd", |file| Some(*file)).map(|part| part.to_vec());
            parts.collect::<Vec<_>>()
        };
        assert_eq!(parts(1), [&b"aa"[..], b"b", b"ccc", b"d"]);
        assert_eq!(parts(2), [&b"aab"[..], b"cccd"]);
        assert_eq!(parts(4), [&b"aabcccd"[..]]);
        assert_eq!(parts(0), parts(1));
        assert_eq!(FewFiles::new(3).parts(b"", |file: &u8| Some(*file)).count(), 0);
    }

    #[test]
    fn parts_that_are_read_at_once_share_the_files() {
        let files = FewFiles::new(4);
        let taken = |sorted: &'static [u8]| files.parts(sorted, |file| Some(*file)).next().unwrap();
        let (three, one) = (taken(b"abbc"), taken(b"abbc"));
        assert_eq!((&*three, &*one), (&b"abbc"[..], &b"a"[..]));
        // Nothing is left: one each.
        assert_eq!((&*taken(b"aab"), &*taken(b"aab")), (&b"aa"[..], &b"aa"[..]));
        drop(three);
        assert_eq!(&*taken(b"abcd"), b"abc");
        drop(one);
        assert_eq!(&*taken(b"abcd"), b"abcd");
    }

    fn grudging() -> Arc<dyn File> {
        Arc::new(Grudging::default())
    }

    fn run(op: Op) -> Result<Vec<Bytes>, DiskError> {
        run_chain(vec![op])
    }

    #[test]
    fn short_and_interrupted_calls_are_gone_on_with() {
        let read = run(Op::Read { file: grudging(), offset_bytes: 7, len_bytes: 9 });
        assert_eq!(read.unwrap(), ["789"]);
        let data = Bytes::from_static(b"123456789");
        assert!(run(Op::Write { file: grudging(), offset_bytes: 0, data }).is_ok());
        assert!(run(Op::Sync { file: grudging() }).is_ok());
    }

    #[test]
    fn a_write_that_does_not_move_is_an_error_and_says_where() {
        let data = Bytes::from_static(b"123456");
        let error = run(Op::Write { file: grudging(), offset_bytes: 8, data }).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::WriteZero);
        assert_eq!(error.to_string(), "writing CURRENT at offset 11");
    }
}
