//! What only the blob log's own insides can show: instants between two steps of another thread.

use std::sync::Arc;

use super::active::entry;
use super::*;
use crate::appender::create_segment;
use crate::frame::FRAME_HEADER_BYTES;
use crate::record::StoreSeed;
use crate::segment::SegmentHeader;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, Epoch, Ordinal, StoreId};

#[test]
fn a_sync_that_began_before_room_was_given_back_syncs_what_is_there() {
    let disk: Arc<dyn Disk> = SimDisk::new(1);
    let header = SegmentHeader {
        store_id: StoreId([7; 16]),
        log: LogKind::Blob,
        ordinal: Ordinal::FIRST,
        epoch: Epoch::FIRST,
    };
    let store = StoreSeed::new(&header.store_id);
    let writer = Writer::new(Arc::clone(&disk), header.epoch, store);
    let options =
        BlobLogOptions { segment_bytes: 1 << 16, segment_values_max: u64::MAX, buffer_bytes: 4096 };
    let log = BlobLog::new(writer.clone(), options, None, Vec::new());
    log.offer(create_segment(&*disk, header, 1 << 16).unwrap()).unwrap();
    let bytes = [7; 3000];
    let value = PreparedValue::new(store, Digest::of(&bytes), &bytes);
    let (large, listed, last) = {
        let mut state = log.append.lock();
        let active = state.active.as_mut().unwrap();
        let listed = entry(&value, active.place(FRAME_HEADER_BYTES, &value));
        let large = active.take_large(&log, &value);
        active.sealer.value(listed);
        state.queued.push_back(Arc::clone(&large.room));
        (large, listed, state.last_position().unwrap())
    };
    log.take_back(&large, listed);
    log.share_round(last).unwrap();
    assert_eq!(writer.synced.of(LogKind::Blob), LogPosition::new(Ordinal::FIRST, 512));
    assert!(last > LogPosition::new(Ordinal::FIRST, 512));
}
