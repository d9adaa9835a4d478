//! Where the unsealed segments of the pointer log carry what of the blob log (decision 0015), for who finds the
//! blob log's own copy bad.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::codec::size;
use pinstone_disk::env::Mutex;
use pinstone_disk::{Disk, DiskError, DiskExt as _, File, Ordinal};
use pinstone_wal::{Carried, FRAME_ALIGN_BYTES, LogPosition, SegmentFile, WalError};

/// Bytes of the pointer log that are read at once, unless a single place has more.
const READ_BYTES: u64 = 512 << 10;

/// What is carried in unsealed segments of the pointer log; in order.
#[derive(Debug, Default)]
pub(crate) struct CarriedPlaces(Mutex<Vec<CarriedPlace>>);

/// Bytes of one segment of the blob log, and where they stand in the pointer log.
#[derive(Clone, Debug)]
pub(crate) struct CarriedPlace {
    /// Where in the blob log they begin.
    pub(crate) from: LogPosition,
    upto: LogPosition,
    ordinal: Ordinal,
    file: Arc<dyn File>,
    offset_bytes: u64,
}

impl CarriedPlace {
    pub(crate) fn new(
        from: LogPosition,
        upto: LogPosition,
        segment: &SegmentFile,
        offset_bytes: u64,
    ) -> Self {
        let (ordinal, file) = (segment.header.ordinal, Arc::clone(&segment.file));
        Self { from, upto, ordinal, file, offset_bytes }
    }

    fn len_bytes(&self) -> u64 {
        self.upto.number() - self.from.number()
    }

    /// Where in its segment of the blob log it stands.
    pub(crate) fn range(&self) -> Range<u64> {
        self.from.offset_bytes()..self.upto.offset_bytes()
    }

    /// It begins where `before` ends in the blob log, and stands in the same file behind that.
    fn follows(&self, before: &Self) -> bool {
        self.from == before.upto && self.ordinal == before.ordinal
    }

    /// The bytes as the pointer log has them.
    ///
    /// # Errors
    /// The machine's.
    pub(crate) fn read(&self, disk: &dyn Disk) -> Result<Bytes, DiskError> {
        disk.read_own(&self.file, self.offset_bytes, size(self.len_bytes()))
    }

    /// The same, as far as the device can read them: see [`read_by_sector`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn read_left(&self, disk: &dyn Disk) -> Result<Bytes, WalError> {
        let range = self.offset_bytes..self.offset_bytes + self.len_bytes();
        read_by_sector(range, |offset_bytes, len_bytes| {
            Ok(disk.read_own(&self.file, offset_bytes, len_bytes)?)
        })
    }

    /// The first of these places that follow each other, as many as are read at once, with the bytes of each as the
    /// pointer log has them; and the other places.
    ///
    /// # Errors
    /// The machine's.
    pub(crate) fn read_first<'a>(
        disk: &dyn Disk,
        places: &'a [Self],
    ) -> (&'a [Self], &'a [Self], Result<Vec<Bytes>, DiskError>) {
        let first = &places[0];
        let reaches = |place: &Self| place.offset_bytes + place.len_bytes() - first.offset_bytes;
        let pairs = places.iter().zip(&places[1..]);
        let is_more = |(before, place): &(&Self, &Self)| {
            place.follows(before) && reaches(place) <= READ_BYTES
        };
        let (run, others) = places.split_at(1 + pairs.take_while(is_more).count());
        let len_bytes = size(reaches(&run[run.len() - 1]));
        let bytes = disk.read_own(&first.file, first.offset_bytes, len_bytes).map(|bytes| {
            let of = |place: &Self| {
                let start = size(place.offset_bytes - first.offset_bytes).min(bytes.len());
                bytes.slice(start..bytes.len().min(start + size(place.len_bytes())))
            };
            run.iter().map(of).collect()
        });
        (run, others, bytes)
    }
}

/// These bytes of a file; where the device cannot read some of them, all that it can, sector by sector, and zeros for
/// the others.
///
/// # Errors
/// They cannot be read for a reason that may pass.
pub(crate) fn read_by_sector(
    range: Range<u64>,
    read: impl Fn(u64, usize) -> Result<Bytes, WalError>,
) -> Result<Bytes, WalError> {
    let is_unreadable =
        |error: &WalError| matches!(error, WalError::Disk(error) if error.is_unreadable());
    let all = read(range.start, size(range.end - range.start));
    if !all.as_ref().is_err_and(is_unreadable) {
        return all;
    }
    let mut bytes = Vec::with_capacity(size(range.end - range.start));
    let mut at = range.start;
    while at < range.end {
        let end = (at + 1).next_multiple_of(FRAME_ALIGN_BYTES as u64).min(range.end);
        match read(at, size(end - at)) {
            Ok(sector) => bytes.extend_from_slice(&sector),
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Err(error),
        }
        bytes.resize(size(end - range.start), 0);
        at = end;
    }
    Ok(bytes.into())
}

impl CarriedPlaces {
    /// What the unsealed segments carry that the store was opened with, in order.
    pub(crate) fn of(places: Vec<CarriedPlace>) -> Self {
        Self(Mutex::new(places))
    }

    /// These bytes stand durably at `offset_bytes` of a segment of the pointer log.
    pub(crate) fn note(&self, carried: &Carried, segment: &SegmentFile, offset_bytes: u64) {
        self.0.lock().push(CarriedPlace::new(carried.from, carried.upto, segment, offset_bytes));
    }

    /// What this segment of the pointer log and those before it carry.
    pub(crate) fn upto(&self, ordinal: Ordinal) -> Vec<CarriedPlace> {
        let places = self.0.lock();
        places.iter().take_while(|place| place.ordinal <= ordinal).cloned().collect()
    }

    /// Bytes of memory of what is noted of this segment of the pointer log, which is the last.
    pub(crate) fn bytes_of(&self, ordinal: Ordinal) -> u64 {
        let places = self.0.lock();
        let before = places.partition_point(|place| place.ordinal < ordinal);
        ((places.len() - before) * size_of::<CarriedPlace>()) as u64
    }

    /// The first segment of the pointer log of which anything is noted.
    pub(crate) fn first(&self) -> Option<Ordinal> {
        self.0.lock().iter().map(|place| place.ordinal).min()
    }

    /// Lets go of what this segment of the pointer log and those before it carry, which the blob log has, but for
    /// `staying`.
    pub(crate) fn leave(&self, ordinal: Ordinal, staying: &[&CarriedPlace]) {
        let staying: BTreeSet<_> = staying.iter().map(|place| place.from).collect();
        let mut places = self.0.lock();
        places.retain(|place| place.ordinal > ordinal || staying.contains(&place.from));
        places.shrink_to(64);
    }

    /// Where what stands at `position` of the blob log is carried: the file, the offset, and bytes from there
    /// on.
    pub(crate) fn find(&self, position: LogPosition) -> Option<(Arc<dyn File>, u64, u64)> {
        let places = self.0.lock();
        let after = places.partition_point(|place| place.from <= position);
        let place = places[..after].last().filter(|place| position < place.upto)?;
        let skip_bytes = position.number() - place.from.number();
        let left_bytes = place.upto.number() - position.number();
        Some((Arc::clone(&place.file), place.offset_bytes + skip_bytes, left_bytes))
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.0.lock().capacity() * size_of::<CarriedPlace>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use pinstone_disk::sim::SimDisk;
    use pinstone_disk::{Epoch, LogKind, StoreId};
    use pinstone_wal::{SegmentHeader, create_segment};

    use super::*;

    #[test]
    fn a_place_is_found_by_what_it_carries_until_its_segment_is_sealed() {
        let disk = SimDisk::new(1);
        let segment = |ordinal| {
            let header = SegmentHeader {
                log: LogKind::Pointer,
                ordinal,
                epoch: Epoch::FIRST,
                store_id: StoreId(disk.random().unwrap()),
            };
            create_segment(&*disk, header, 0).unwrap()
        };
        let (first, second) = (segment(Ordinal(1)), segment(Ordinal(2)));
        let at = |offset| LogPosition::new(Ordinal(7), offset);
        let carried = |from, upto| Carried { from: at(from), upto: at(upto), frames: Vec::new() };
        let places = CarriedPlaces::default();
        places.note(&carried(512, 1024), &first, 600);
        places.note(&carried(1024, 2048), &second, 700);
        places.note(&carried(4096, 4608), &second, 9000);
        let found = |offset| {
            let (file, offset_bytes, left_bytes) = places.find(at(offset))?;
            Some((file.name() == second.file.name(), offset_bytes, left_bytes))
        };
        assert_eq!([found(0), found(511), found(2048), found(5000)], [None; 4]);
        assert_eq!(found(512), Some((false, 600, 512)));
        assert_eq!(found(1023), Some((false, 1111, 1)));
        assert_eq!(found(1100), Some((true, 776, 948)));
        assert_eq!(found(4096), Some((true, 9000, 512)));
        places.leave(Ordinal(1), &[]);
        assert_eq!((found(600), found(1100)), (None, Some((true, 776, 948))));
    }
}
