//! The logs written ahead of their tables: frames, segments, group sync, the blob log and the
//! pointer log. Layouts are described in `docs/format.md`, byte by byte.
//!
//! This crate knows nothing of tables, of the root's meaning, or of what pointers are for. Which
//! segments there are is decided by its user; it says what a segment's bytes mean.

#![forbid(unsafe_code)]

mod appender;
mod blob_log;
mod carried;
mod commit;
mod digest_list;
pub mod dump;
mod error;
mod frame;
mod poison;
mod position;
mod record;
mod scan;
mod segment;
mod writer;

pub use appender::{Appender, Closing, Sealed, create_segment, create_segment_with};
pub use blob_log::{
    Appended, BlobLog, BlobLogFigures, BlobLogOptions, CARRIED_BYTES_MAX, SyncRound,
    TAKING_BYTES_MAX, TAKING_VALUES_MAX, copy_bytes,
};
pub use carried::{Carried, CarriedFrames, CarriedRecord, frames_in, frames_of_both, records_in};
pub use commit::{Change, CommitRecord};
pub use digest_list::{DIGEST_PAGE_BYTES, DigestList, ListEntry, check_list, read_list};
pub use error::{WalError, corrupt};
pub use frame::{
    FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, FrameKind, FramePlace,
    Synced, SyncedUpto,
};
pub use poison::Poison;
pub use position::{LogPosition, Place, SIZE_CLASS_BYTES_MAX, SizeClass};
pub use record::{
    PreparedValue, RECORD_HEADER_BYTES_MAX, Record, RecordHeader, RecordKind, StoreSeed,
    VALUE_HEADER_BYTES_MAX, ValueRecord,
};
pub use scan::{Frame, LastSealed, LogEnd, SEGMENT_BYTES_MAX, Scan, Verdict, judge};
pub use segment::{
    FRAMES_START_BYTES, Footer, Sealer, SegmentFile, SegmentHeader, decode_header, read_footer,
    read_header,
};
pub use writer::Writer;
