//! The blob log's files, for reading: those not yet sealed are kept open, sealed ones stay mapped into
//! memory; of those that cannot be mapped as many are open as the options allow. And the lists of the
//! sealed ones: what they hold, by digest.
//!
//! - S1: which segments there are is published whole, and read without a lock: a get asks for nothing else.
//! - S2: a file of a format that this build does not know is refused where it is opened (P13): what it holds may
//!   mean something else. One whose header is damaged, or cannot be read then, is not: that hides no value (P4).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use pinstone_disk::codec::size;
use pinstone_disk::env::{Mutex, Published};
use pinstone_disk::{
    Batch, Bytes, Digest, Disk, DiskError, DiskExt as _, Epoch, FewFiles, File, FileName,
    FormatError, InTurn, LogKind, OpenMode, Ordinal, Part, StoreId,
};
use pinstone_wal::{
    DigestList, Footer, ListEntry, Place, SegmentFile, SegmentHeader, WalError, corrupt,
    read_footer, read_header, read_list,
};

/// Reads up to this length are asked for as they are.
const UNCAPPED_READ_BYTES: usize = 1 << 20;

/// What lists' directories take in memory.
#[derive(Clone, Debug)]
struct ByListBytes;

impl quick_cache::Weighter<Ordinal, Arc<DigestList>> for ByListBytes {
    fn weight(&self, _ordinal: &Ordinal, list: &Arc<DigestList>) -> u64 {
        list.memory_bytes() + 64
    }
}

/// Pages of lists that are read at once, at most; as many files are open meanwhile at most.
const LIST_PAGES_MAX: usize = 256;

/// A page of a list that is to be read.
struct Wanted {
    list: Arc<DigestList>,
    ordinal: Ordinal,
    page: usize,
    /// Who asks for it, by number.
    asking: Vec<usize>,
}

/// Files by ordinal.
#[derive(Debug)]
pub(crate) struct Segments {
    disk: Arc<dyn Disk>,
    store_id: StoreId,
    /// Ascending.
    all: Published<Vec<Arc<Segment>>>,
    /// Held while another list of them is made.
    changing: Mutex<()>,
    open: quick_cache::sync::Cache<Ordinal, Arc<dyn File>>,
    few_files: FewFiles,
    lists: quick_cache::sync::Cache<Ordinal, Arc<DigestList>, ByListBytes>,
}

/// One segment of the blob log.
#[derive(Debug)]
pub(crate) struct Segment {
    ordinal: Ordinal,
    epoch: Epoch,
    /// The file, if it stays open: that of a segment which is not sealed, or one that is mapped.
    file: OnceLock<Arc<dyn File>>,
    /// Its header was read, and is none of an unknown format (S2).
    is_known: OnceLock<()>,
    /// The hash of its footer, if it is sealed.
    footer_hash: Option<[u8; 32]>,
}

impl Segment {
    /// One that is not sealed.
    pub(crate) fn unsealed(segment: &SegmentFile) -> Self {
        let SegmentHeader { ordinal, epoch, .. } = segment.header;
        let file = OnceLock::from(Arc::clone(&segment.file));
        Self { file, footer_hash: None, ..Self::sealed(ordinal, epoch, [0; 32]) }
    }

    /// One that is sealed, with the hash of its footer.
    pub(crate) fn sealed(ordinal: Ordinal, epoch: Epoch, footer_hash: [u8; 32]) -> Self {
        let (file, is_known) = (OnceLock::new(), OnceLock::new());
        Self { ordinal, epoch, file, is_known, footer_hash: Some(footer_hash) }
    }

    fn name(&self) -> FileName {
        FileName::Segment { log: LogKind::Blob, ordinal: self.ordinal, epoch: self.epoch }
    }

    fn header(&self, store_id: StoreId) -> SegmentHeader {
        SegmentHeader { store_id, log: LogKind::Blob, ordinal: self.ordinal, epoch: self.epoch }
    }
}

impl Segments {
    /// These files; at most `open_files_max` that are sealed and not mapped are open at once, and about
    /// `lists_bytes` of memory are taken for what leads to the pages of their lists.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        store_id: StoreId,
        mut all: Vec<Segment>,
        open_files_max: usize,
        lists_bytes: u64,
    ) -> Self {
        let list_count = usize::try_from(lists_bytes >> 10).unwrap_or(usize::MAX).max(1);
        all.sort_unstable_by_key(|segment| segment.ordinal);
        Self {
            disk,
            store_id,
            all: Published::new(Arc::new(all.into_iter().map(Arc::new).collect())),
            changing: Mutex::new(()),
            open: quick_cache::sync::Cache::new(open_files_max),
            few_files: FewFiles::new(open_files_max),
            lists: quick_cache::sync::Cache::with_weighter(list_count, lists_bytes, ByListBytes),
        }
    }

    /// Adds a segment, or says of one that is there that it is sealed. Copies the list of all.
    pub(crate) fn add(&self, segment: Segment) {
        let _changing = self.changing.lock();
        let mut all = Vec::clone(&self.all.read());
        let at = all.partition_point(|other| other.ordinal < segment.ordinal);
        let is_there = all.get(at).is_some_and(|other| other.ordinal == segment.ordinal);
        let replaced = at..at + usize::from(is_there);
        all.splice(replaced, [Arc::new(segment)]);
        self.all.publish(Arc::new(all));
    }

    /// What `with` makes of a segment; `None` if there is no such segment.
    fn with<T>(&self, ordinal: Ordinal, with: impl FnOnce(&Segment) -> T) -> Option<T> {
        let all = self.all.read();
        // Where it stands if none is missing.
        let guess = ordinal.0.checked_sub(all.first()?.ordinal.0)? as usize;
        if let Some(segment) = all.get(guess)
            && segment.ordinal == ordinal
        {
            return Some(with(segment));
        }
        let at = all.binary_search_by_key(&ordinal, |segment| segment.ordinal).ok()?;
        Some(with(&all[at]))
    }

    /// The name of a segment's file.
    pub(crate) fn name(&self, ordinal: Ordinal) -> Option<FileName> {
        self.with(ordinal, Segment::name)
    }

    /// The open file of a segment; `None` if there is no such segment.
    ///
    /// # Errors
    /// The file is gone, or of an unknown format; whatever the machine says.
    pub(crate) fn file(&self, ordinal: Ordinal) -> Result<Option<Arc<dyn File>>, WalError> {
        self.with(ordinal, |segment| self.with_file(segment, Arc::clone)).transpose()
    }

    /// What `with` makes of a segment's file.
    fn with_file<T>(
        &self,
        segment: &Segment,
        with: impl FnOnce(&Arc<dyn File>) -> T,
    ) -> Result<T, WalError> {
        self.with_file_for(segment, 0..0, with)
    }

    /// The same, for these bytes of it: if it has to be opened, they are fetched while that is done.
    fn with_file_for<T>(
        &self,
        segment: &Segment,
        range: Range<u64>,
        with: impl FnOnce(&Arc<dyn File>) -> T,
    ) -> Result<T, WalError> {
        if let Some(file) = segment.file.get() {
            return Ok(with(file));
        }
        let open = || self.open_sealed(segment, range);
        let file = self.open.get_or_insert_with(&segment.ordinal, open)?;
        if file.map().is_some() {
            // It may be there: another thread was faster.
            let _set = segment.file.set(Arc::clone(&file));
            self.open.remove(&segment.ordinal);
        }
        Ok(with(&file))
    }

    fn open_sealed(&self, segment: &Segment, range: Range<u64>) -> Result<Arc<dyn File>, WalError> {
        let name = segment.name();
        let missing = |error: DiskError| match error.is_not_found() {
            true => corrupt(name, 0, "the root names it, and it is not there"),
            false => error.into(),
        };
        let file = self.disk.open(name, OpenMode::Sealed).map_err(missing)?;
        if let Some(map) = file.map() {
            map.will_read(range.start, size(range.end - range.start));
        }
        if segment.is_known.get().is_none() {
            match read_header(&*self.disk, &file, &name) {
                Err(error @ WalError::Format(FormatError::Unsupported { .. })) => {
                    return Err(error);
                }
                // A header that is damaged, or cannot be read, hides no value (P4).
                Err(WalError::Disk(_)) => {}
                _ => {
                    segment.is_known.get_or_init(|| ());
                }
            }
        }
        Ok(file)
    }

    /// Up to `len_bytes` of a segment's file, fewer only where it ends; `None` if there is no such
    /// segment.
    ///
    /// # Errors
    /// As [`Segments::file`].
    pub(crate) fn read(
        &self,
        ordinal: Ordinal,
        offset_bytes: u64,
        len_bytes: usize,
    ) -> Result<Option<Bytes>, WalError> {
        let read = |file: &Arc<dyn File>| {
            // An unchecked row may lead here: no memory is taken for more than there is.
            let len_bytes = match len_bytes {
                0..=UNCAPPED_READ_BYTES => len_bytes,
                _ => len_bytes.min(size(file.len_bytes()?.saturating_sub(offset_bytes))),
            };
            self.disk.read(file, offset_bytes, len_bytes)
        };
        let range =
            offset_bytes..offset_bytes.saturating_add(len_bytes.min(UNCAPPED_READ_BYTES) as u64);
        let read = |segment: &Segment| Ok(self.with_file_for(segment, range, read)??);
        self.with(ordinal, read).transpose()
    }

    /// Cuts places, sorted, into parts of as many segments as may be open at once.
    pub(crate) fn of_few_files<'a, T>(
        &'a self,
        sorted: &'a [T],
        place: impl Fn(&T) -> Place + 'a,
    ) -> impl Iterator<Item = Part<'a, T>> {
        self.few_files.parts(sorted, move |item| self.not_at_hand(place(item).ordinal))
    }

    /// Has what stands at a place fetched, where the segment is mapped, and does not wait for it; whether it is.
    pub(crate) fn will_read(&self, place: Place) -> bool {
        let ask = |segment: &Segment| {
            let map = segment.file.get().and_then(|file| file.map());
            map.map(|map| map.will_read(place.offset_bytes.into(), size(place.class.bytes_max())))
        };
        self.with(place.ordinal, ask).flatten().is_some()
    }

    /// The segment, unless its file stays open, or is mapped, so that a read of it takes no descriptor.
    fn not_at_hand(&self, ordinal: Ordinal) -> Option<Ordinal> {
        let is_at_hand = self.with(ordinal, |segment| segment.file.get().is_some());
        (is_at_hand != Some(true)).then_some(ordinal)
    }

    /// All segments that the log has, ascending.
    pub(crate) fn ordinals(&self) -> Vec<Ordinal> {
        self.all.read().iter().map(|segment| segment.ordinal).collect()
    }

    /// Whether the sealed segment lists this value at this place. A segment that is not sealed, or
    /// that the log does not have, lists nothing.
    ///
    /// # Errors
    /// Damage of the list; whatever the machine says.
    pub(crate) fn lists(&self, digest: &Digest, place: Place) -> Result<bool, WalError> {
        let is_listed = self.with(place.ordinal, |segment| {
            let Some(list) = self.list(segment)? else { return Ok(false) };
            let offset_bytes = place.offset_bytes;
            let lists = |file: &Arc<dyn File>| list.lists(&*self.disk, file, digest, offset_bytes);
            self.with_file(segment, lists)?
        });
        is_listed.unwrap_or(Ok(false))
    }

    /// What a segment lists; none of one that is not sealed.
    fn list(&self, segment: &Segment) -> Result<Option<Arc<DigestList>>, WalError> {
        let Some(sealed_hash) = segment.footer_hash else { return Ok(None) };
        let open = || {
            let (segment, footer) = self.read_footer(segment, sealed_hash)?;
            DigestList::open(&*self.disk, &segment, &footer).map(Arc::new)
        };
        self.lists.get_or_insert_with(&segment.ordinal, open).map(Some)
    }

    /// All that the sealed segment lists, read from its file; none of one that is not sealed.
    ///
    /// # Errors
    /// As [`Segments::lists`].
    pub(crate) fn whole_list(&self, ordinal: Ordinal) -> Result<Option<Vec<ListEntry>>, WalError> {
        let list = self.with(ordinal, |segment| {
            let Some(sealed_hash) = segment.footer_hash else { return Ok(None) };
            let (segment, footer) = self.read_footer(segment, sealed_hash)?;
            read_list(&*self.disk, &segment, &footer).map(Some)
        });
        list.unwrap_or(Ok(None))
    }

    /// A sealed segment's file and its footer, which must be the one with this hash.
    fn read_footer(
        &self,
        segment: &Segment,
        sealed_hash: [u8; 32],
    ) -> Result<(SegmentFile, Footer), WalError> {
        let file = self.with_file(segment, Arc::clone)?;
        let segment = SegmentFile { header: segment.header(self.store_id), file };
        let (footer, footer_hash) = read_footer(&*self.disk, &segment)?;
        if footer_hash != sealed_hash {
            let what = "its footer is not the one that the root names";
            return Err(corrupt(segment.name(), footer.frames_end_bytes, what));
        }
        Ok((segment, footer))
    }

    /// The same as [`Segments::lists`] of each: the pages of lists are read in flight together, in the order
    /// of their places. None where that does not tell: more than one page may list the value, or what leads
    /// to it cannot be read as it was written.
    pub(crate) fn lists_many(&self, asked: &[(Digest, Place)]) -> Vec<Option<bool>> {
        let mut told = vec![None; asked.len()];
        let mut wanted = BTreeMap::new();
        for (at, (digest, place)) in asked.iter().enumerate() {
            let list = self.with(place.ordinal, |segment| self.list(segment));
            let Ok(list) = list.unwrap_or(Ok(None)) else { continue };
            let pages = list.as_ref().map_or(0..0, |list| list.pages(digest));
            match list {
                Some(list) if pages.len() == 1 => {
                    let key = (place.ordinal, pages.start);
                    let new = || Wanted { list, ordinal: key.0, page: key.1, asking: Vec::new() };
                    wanted.entry(key).or_insert_with(new).asking.push(at);
                }
                _ if pages.is_empty() => told[at] = Some(false),
                _ => {}
            }
        }
        let wanted: Vec<_> = wanted.into_values().collect();
        for group in self.few_files.parts(&wanted, |wanted| self.not_at_hand(wanted.ordinal)) {
            for (wanted, bytes) in
                group.chunks(LIST_PAGES_MAX).flat_map(|pages| self.read_list_pages(pages))
            {
                for &at in &wanted.asking {
                    let (digest, place) = &asked[at];
                    let Wanted { list, page, .. } = wanted;
                    told[at] = list.page_lists(*page, &bytes, digest, place.offset_bytes).ok();
                }
            }
        }
        told
    }

    /// Reads these pages at once, but for those that cannot be read. Their bytes are unchecked.
    fn read_list_pages<'a>(&self, wanted: &'a [Wanted]) -> Vec<(&'a Wanted, Bytes)> {
        let (mut chains, mut read) = (Vec::with_capacity(wanted.len()), Vec::new());
        let mut files = InTurn::default();
        for wanted in wanted {
            let open = || self.file(wanted.ordinal).ok().flatten();
            if let Some(file) = files.file(wanted.ordinal, open) {
                chains.push(vec![wanted.list.page_read(file, wanted.page)]);
                read.push(wanted);
            }
        }
        let bytes = self.disk.run(Batch { chains }).into_iter();
        let pages = read.into_iter().zip(bytes);
        pages.filter_map(|(wanted, bytes)| Some((wanted, bytes.ok()?.pop()?))).collect()
    }

    /// Bytes of memory that the directories of lists take.
    pub(crate) fn lists_bytes(&self) -> u64 {
        self.lists.weight()
    }
}
