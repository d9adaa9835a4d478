//! A blob log with what its user must provide: segments, an index, and reading back.
#![allow(dead_code, unreachable_pub, reason = "each test binary takes what it needs")]

pub mod hooked;

use std::collections::BTreeMap;
use std::sync::Arc;

use pinstone_disk::env::Mutex;
use pinstone_disk::sim::{CrashState, SimDisk};
use pinstone_disk::{
    Bytes, Digest, Disk, DiskError, DiskExt, Epoch, FileName, LogKind, OpenMode, Ordinal, StoreId,
};
use pinstone_wal::{
    Appended, BlobLog, BlobLogOptions, FRAMES_START_BYTES, LastSealed, LogEnd, LogPosition, Place,
    Poison, PreparedValue, Record, Scan, Sealed, SegmentFile, SegmentHeader, StoreSeed, SyncRound,
    Synced, SyncedUpto, ValueRecord, Verdict, WalError, Writer, create_segment, judge, read_header,
};

pub const STORE_ID: StoreId = StoreId(*b"a store for test");
pub const EPOCH: Epoch = Epoch::FIRST;

/// A position after all others: who needs it has everything written.
pub const EVERYTHING: LogPosition = LogPosition::new(Ordinal(u32::MAX), u32::MAX);

/// Of most logs here: a few values fill a frame, a few frames a segment.
pub const SEGMENT_BYTES: u64 = 16 << 10;
pub const BUFFER_BYTES: usize = 2 << 10;

/// The header of a segment of the tests' store.
pub fn header(log: LogKind, ordinal: u32) -> SegmentHeader {
    SegmentHeader { store_id: STORE_ID, log, ordinal: Ordinal(ordinal), epoch: EPOCH }
}

/// The seed of the tests' store.
pub fn store() -> StoreSeed {
    StoreSeed::new(&STORE_ID)
}

/// A segment without frames.
pub fn begun(header: SegmentHeader) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    bytes.resize(usize::try_from(FRAMES_START_BYTES).unwrap(), 0);
    bytes
}

/// A blob log, and what a store would add to it.
pub struct Rig {
    pub disk: Arc<dyn Disk>,
    pub log: BlobLog,
    pub synced: Arc<SyncedUpto>,
    pub poison: Arc<Poison>,
    /// Bytes reserved for each segment.
    reserve_bytes: u64,
    places: Mutex<BTreeMap<Digest, Place>>,
    segments: Mutex<BTreeMap<Ordinal, SegmentFile>>,
    growing: Mutex<u32>,
}

impl Rig {
    /// An empty log of small segments, reserved as a store does it.
    pub fn small(disk: Arc<dyn Disk>) -> Self {
        Self::new(disk, SEGMENT_BYTES, BUFFER_BYTES)
    }

    /// An empty log whose segments are reserved as a store does it.
    pub fn new(disk: Arc<dyn Disk>, segment_bytes: u64, buffer_bytes: usize) -> Self {
        Self::reserving(disk, segment_bytes, buffer_bytes, segment_bytes)
    }

    /// An empty log; `reserve_bytes` are reserved for each segment.
    pub fn reserving(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        buffer_bytes: usize,
        reserve_bytes: u64,
    ) -> Self {
        let options = BlobLogOptions { segment_bytes, segment_values_max: u64::MAX, buffer_bytes };
        Self::with(disk, options, reserve_bytes)
    }

    /// An empty log with these options; `reserve_bytes` are reserved for each segment.
    pub fn with(disk: Arc<dyn Disk>, options: BlobLogOptions, reserve_bytes: u64) -> Self {
        let writer = Writer::new(Arc::clone(&disk), EPOCH, store());
        let log = BlobLog::new(writer.clone(), options, None, Vec::new());
        let Writer { synced, poison, .. } = writer;
        Self {
            disk,
            log,
            synced,
            poison,
            reserve_bytes,
            places: Mutex::default(),
            segments: Mutex::default(),
            growing: Mutex::new(1),
        }
    }

    /// Appends a value unless it is there; says whether it was new.
    pub fn put(&self, value: &[u8]) -> Result<bool, WalError> {
        let digest = Digest::of(value);
        let prepared = PreparedValue::new(store(), digest, value);
        loop {
            let known = || self.places.lock().contains_key(&digest);
            let insert = |place| {
                let before = self.places.lock().insert(digest, place);
                assert_eq!(before, None, "equal values are appended once");
            };
            match self.log.append(&prepared, known, insert)? {
                Appended::At(_) => return Ok(true),
                Appended::Known => return Ok(false),
                Appended::NeedsSegment => self.grow()?,
            }
        }
    }

    /// Appends values as [`Rig::put`] does, as many at a time as the log takes. Says of how many that was
    /// each time, with 1 for what had to be appended alone.
    pub fn put_many(&self, values: &[Vec<u8>]) -> Result<Vec<usize>, WalError> {
        let prepare = |value| PreparedValue::new(store(), Digest::of(value), value);
        let prepared: Vec<_> = values.iter().map(|value| prepare(value)).collect();
        let known = |value: &PreparedValue<'_>| self.places.lock().contains_key(&value.digest);
        let insert = |value: &PreparedValue<'_>, place| {
            let before = self.places.lock().insert(value.digest, place);
            assert_eq!(before, None, "equal values are appended once");
        };
        let (mut at, mut takings) = (0, Vec::new());
        while at < values.len() {
            let appended = self.log.append_some(&prepared[at..], known, insert)?;
            for (value, appended) in prepared[at..].iter().zip(&appended) {
                let place = self.places.lock()[&value.digest];
                assert!([Appended::At(place), Appended::Known].contains(appended));
            }
            if appended.is_empty() {
                self.put(&values[at])?;
            }
            takings.push(appended.len().max(1));
            at += appended.len().max(1);
        }
        Ok(takings)
    }

    /// Makes the next segment ready.
    pub fn grow(&self) -> Result<(), WalError> {
        let mut next_ordinal = self.growing.lock();
        if self.log.has_next() {
            return Ok(());
        }
        let ordinal = *next_ordinal;
        *next_ordinal += 1;
        let segment =
            create_segment(&*self.disk, header(LogKind::Blob, ordinal), self.reserve_bytes)
                .map_err(|error| self.poison.after(error))?;
        self.segments.lock().insert(segment.header.ordinal, segment.clone());
        self.log.offer(segment).expect("none waits");
        Ok(())
    }

    /// The place of a value.
    pub fn place(&self, value: &[u8]) -> Option<Place> {
        self.places.lock().get(&Digest::of(value)).copied()
    }

    /// All places.
    pub fn places(&self) -> Vec<Place> {
        self.places.lock().values().copied().collect()
    }

    /// Reads a value by its place, from memory or from its file.
    pub fn get(&self, value: &[u8]) -> Option<Vec<u8>> {
        let place = self.place(value)?;
        let bytes = self.log.read_unwritten(place).unwrap_or_else(|| {
            let file = Arc::clone(&self.segments.lock()[&place.ordinal].file);
            let len = usize::try_from(place.class.bytes_max()).unwrap();
            self.disk.read(&file, u64::from(place.offset_bytes), len).unwrap()
        });
        let record = Record::read(store(), &bytes).unwrap();
        let read = ValueRecord::decode(record.payload).unwrap();
        assert_eq!(read.digest, Digest::of(value));
        Some(read.value.to_vec())
    }

    /// Takes and seals every full segment.
    pub fn seal_all(&self) -> Result<Vec<Sealed>, WalError> {
        let mut sealed = Vec::new();
        while let Some(mut closing) = self.log.take_closing()? {
            sealed.push(closing.seal(&*self.disk, &self.poison)?);
        }
        Ok(sealed)
    }
}

/// What is found of a log of which nothing is sealed.
#[derive(Debug)]
pub struct Found {
    pub scans: Vec<Scan>,
    pub end: Option<LogEnd>,
    /// The values up to the log's end.
    pub values: Vec<Vec<u8>>,
}

impl Found {
    pub fn holds(&self, value: &[u8]) -> bool {
        self.values.iter().any(|found| found == value)
    }
}

/// What is found of the blob log after a crash.
pub fn found(disk: &SimDisk, state: CrashState) -> Found {
    find(&*disk.after_crash(state), LogKind::Blob).unwrap()
}

/// Scans all segments of a log that `disk` holds, and judges them.
pub fn find(disk: &dyn Disk, log: LogKind) -> Result<Found, WalError> {
    let mut scans = Vec::new();
    for name in disk.list()? {
        let Ok(name @ FileName::Segment { log: of, .. }) = name.parse() else { continue };
        if of != log {
            continue;
        }
        let file = disk.open(name, OpenMode::Read)?;
        // What was created and never named may be in any state.
        let Ok(header) = read_header(disk, &file, &name) else { continue };
        let len = usize::try_from(file.len_bytes()?).unwrap();
        scans.push(Scan::of(header, disk.read(&file, 0, len)?));
    }
    let by_log = scans.iter().collect::<Vec<_>>();
    let of = |kind| if kind == log { &by_log[..] } else { &[] };
    let verdict = Verdict {
        blob: of(LogKind::Blob),
        pointer: of(LogKind::Pointer),
        root: of(LogKind::Root),
        others: &[],
        sealed: LastSealed::default(),
        closed: Synced::default(),
    };
    let end = judge(&verdict, log)?;
    let last = end.map_or(LogPosition::START, |end| end.position);
    let mut values = Vec::new();
    for scan in scans.iter().filter(|scan| scan.header.ordinal <= last.ordinal()) {
        scan.records(scan.valid_end_bytes, |_, offset, record| {
            if let Ok(value) = ValueRecord::decode(record.payload) {
                assert_eq!(Digest::of(value.value), value.digest, "at {offset}");
                values.push(value.value.to_vec());
            }
        });
    }
    Ok(Found { scans, end, values })
}

/// A value of `len_bytes` that no other number makes.
pub fn value(number: u64, len_bytes: usize) -> Vec<u8> {
    let seed = blake3_of(number);
    let mut bytes: Vec<u8> = seed.iter().copied().cycle().take(len_bytes).collect();
    let tag = number.to_le_bytes();
    let tagged = tag.len().min(bytes.len());
    bytes[..tagged].copy_from_slice(&tag[..tagged]);
    bytes
}

fn blake3_of(number: u64) -> [u8; 32] {
    *Digest::of(&number.to_le_bytes()).as_bytes()
}

pub fn is_no_space(error: &WalError) -> bool {
    matches!(error, WalError::Disk(error) if error.is_no_space())
}

/// Ends a round whose chains came to these results.
pub fn finish(round: SyncRound<'_>, results: Vec<Result<Vec<Bytes>, DiskError>>) {
    round.finish(results.into_iter().find_map(Result::err).map_or(Ok(()), Err)).unwrap();
}

/// A disk's file, whole.
pub fn file_bytes(disk: &dyn Disk, name: FileName) -> Bytes {
    let file = disk.open(name, OpenMode::Read).unwrap();
    let len = usize::try_from(file.len_bytes().unwrap()).unwrap();
    disk.read(&file, 0, len).unwrap()
}
