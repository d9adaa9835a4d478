//! One file of a log: its header, and the footer and trailer that seal it.
//!
//! ```text
//! header | frame | frame | ... | digest list | footer | trailer
//!                              '-------- when sealed ---------'
//! ```
//!
//! - S1: a sealed file never changes; one read of its tail opens it.
//! - S2: the footer holds a hash of all checksums in the file, so that nothing in it can be
//!   exchanged for other valid bytes; the trailer holds the footer's hash, and the root holds it
//!   too.
//! - S3: the digest list has every value of the segment; `digest_list.rs` knows its bytes.

use std::sync::Arc;

use bytes::Bytes;
use pinstone_disk::checksum::Seed;
use pinstone_disk::codec::size;
use pinstone_disk::{
    AnyHeader, CommitId, Disk, DiskExt, Epoch, File, FileHeader, FileKind, FileName, FormatError,
    HEADER_BYTES, KIND_OFFSET_BYTES, LogKind, Ordinal, REPEATED, StoreId, TRAILER_BYTES, Trailer,
};

use crate::digest_list::{self, EncodedEntry, ListEntry};
use crate::error::{WalError, corrupt};
use crate::frame::{FRAME_ALIGN_BYTES, FrameHeader};

/// Where a segment's first frame begins: the header has a sector to itself.
pub const FRAMES_START_BYTES: u64 = FRAME_ALIGN_BYTES as u64;

pub(crate) const FOOTER_BYTES: usize = 176;
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"PINSFOOT";
const _: () = assert!(HEADER_BYTES <= FRAME_ALIGN_BYTES);

/// What a segment's header says: a [`FileHeader`] of a log; and what CURRENT says of the root log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store's id.
    pub store_id: StoreId,
    /// The log.
    pub log: LogKind,
    /// The segment's ordinal in it.
    pub ordinal: Ordinal,
    /// The epoch of the writer that created the file.
    pub epoch: Epoch,
}

impl SegmentHeader {
    /// The name of the file that this heads.
    pub fn file_name(&self) -> FileName {
        FileName::Segment { log: self.log, ordinal: self.ordinal, epoch: self.epoch }
    }

    /// The seed of this segment's frame checksums.
    pub fn seed(&self) -> Seed {
        self.file_header().seed()
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        self.file_header().encode()
    }

    /// The bytes of a CURRENT that names this root log.
    pub fn encode_current(&self) -> [u8; HEADER_BYTES] {
        FileHeader { kind: FileKind::Current, ..self.file_header() }.encode()
    }

    fn file_header(&self) -> FileHeader {
        FileHeader {
            store_id: self.store_id,
            kind: FileKind::Log(self.log),
            ordinal: self.ordinal,
            epoch: self.epoch,
        }
    }

    /// Decodes the header of a segment called `file`.
    ///
    /// # Errors
    /// Damage, or a format that is not known.
    pub fn decode(file: &FileName, bytes: &[u8]) -> Result<Self, FormatError> {
        let header = AnyHeader::decode(file, bytes)?;
        let log = LogKind::from_number(header.kind).ok_or_else(|| {
            let what = format!("file kind {} heads no segment", header.kind);
            FormatError::corrupt(file, KIND_OFFSET_BYTES, what)
        })?;
        Ok(Self::of(log, &header))
    }

    /// Decodes CURRENT.
    ///
    /// # Errors
    /// As [`SegmentHeader::decode`].
    pub fn decode_current(bytes: &[u8]) -> Result<Self, FormatError> {
        let file = FileName::Current;
        let header = AnyHeader::decode(&file, bytes)?;
        if header.kind != FileKind::Current.number() {
            let what = format!("file kind {} is not CURRENT's", header.kind);
            return Err(FormatError::corrupt(file, KIND_OFFSET_BYTES, what));
        }
        if bytes.len() != HEADER_BYTES {
            return Err(FormatError::corrupt(file, 64, "there are bytes after its end"));
        }
        Ok(Self::of(LogKind::Root, &header))
    }

    /// What this header says, as that of a segment of `log`.
    pub(crate) fn of(log: LogKind, header: &AnyHeader) -> Self {
        let AnyHeader { store_id, ordinal, epoch, .. } = *header;
        Self { store_id, log, ordinal, epoch }
    }
}

/// An open segment.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// What its header says.
    pub header: SegmentHeader,
    /// The file.
    pub file: Arc<dyn File>,
}

impl SegmentFile {
    /// Its name.
    pub fn name(&self) -> FileName {
        self.header.file_name()
    }
}

/// What seals a segment: counts, places, and hashes of all checksums that the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The header of the file that it seals.
    pub header: SegmentHeader,
    /// Frames.
    pub frame_count: u64,
    /// Records in them.
    pub record_count: u64,
    /// Where the frames end.
    pub frames_end_bytes: u64,
    /// Bytes of the frames' bodies.
    pub body_bytes: u64,
    /// The first and last commit, in a pointer log; [`CommitId::NONE`] elsewhere.
    pub commits: (CommitId, CommitId),
    /// Where the digest list begins, with its pages.
    pub list_offset_bytes: u64,
    /// How many pages it has.
    pub list_page_count: u64,
    /// BLAKE3 of all frame headers' and records' checksums, in order.
    pub frames_hash: [u8; 32],
    /// BLAKE3 of the checksums of all digest pages, in order, and of their directory.
    pub list_hash: [u8; 32],
}

impl Footer {
    fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&FOOTER_MAGIC);
        // Version, kinds, feature bits, store, ordinal and epoch stand as in the header.
        bytes[REPEATED].copy_from_slice(&self.header.encode()[REPEATED]);
        let numbers = [
            self.frame_count,
            self.record_count,
            self.frames_end_bytes,
            self.body_bytes,
            self.commits.0.0,
            self.commits.1.0,
            self.list_offset_bytes,
            self.list_page_count,
        ];
        for (slot, number) in bytes[48..112].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes[112..144].copy_from_slice(&self.frames_hash);
        bytes[144..176].copy_from_slice(&self.list_hash);
        bytes
    }
}

/// Gathers, as frames are composed, what sealing will write.
#[derive(Debug, Default)]
pub struct Sealer {
    frames: Vec<FrameChecks>,
    /// The checksums of all frames' records, in order.
    record_crcs: Vec<u32>,
    body_bytes: u64,
    commits: (CommitId, CommitId),
    list: Vec<EncodedEntry>,
}

#[derive(Debug)]
struct FrameChecks {
    header_crc: u32,
    body_bytes: u32,
    record_count: u32,
}

impl Sealer {
    /// Notes a frame: its header's checksum, its records' checksums, and the bytes of its body.
    ///
    /// # Panics
    /// If there are as many records as no frame has bytes for.
    pub fn frame(&mut self, header_crc: u32, record_crcs: &[u32], body_bytes: u32) {
        let record_count = u32::try_from(record_crcs.len()).expect("a frame is below 4 GiB");
        self.frames.push(FrameChecks { header_crc, body_bytes, record_count });
        self.record_crcs.extend_from_slice(record_crcs);
        self.body_bytes += u64::from(body_bytes);
    }

    /// Notes that a frame with one value was voided, its header and that one's checksum now.
    pub fn void(&mut self, header: &FrameHeader, header_crc: u32, value: ListEntry) {
        let (before, rest) = self.frames.split_at_mut(header.sequence as usize);
        let frame = &mut rest[0];
        let start: usize = before.iter().map(|frame| frame.record_count as usize).sum();
        self.record_crcs.drain(start..start + frame.record_count as usize);
        self.body_bytes -= u64::from(frame.body_bytes);
        self.body_bytes += u64::from(header.body_bytes);
        *frame = FrameChecks { header_crc, body_bytes: header.body_bytes, record_count: 0 };
        self.unlist(&value);
    }

    /// Takes back the last frame noted, with its only value.
    pub(crate) fn take_back(&mut self, value: ListEntry) {
        let frame = self.frames.pop().expect("the frame taken back was noted last");
        self.record_crcs.truncate(self.record_crcs.len() - frame.record_count as usize);
        self.body_bytes -= u64::from(frame.body_bytes);
        self.unlist(&value);
    }

    fn unlist(&mut self, value: &ListEntry) {
        let value = value.encode();
        self.list.retain(|listed| *listed != value);
    }

    /// Notes a value.
    pub fn value(&mut self, entry: ListEntry) {
        self.list.push(entry.encode());
    }

    /// Notes a commit.
    pub fn commit(&mut self, id: CommitId) {
        if self.commits.0 == CommitId::NONE {
            self.commits.0 = id;
        }
        self.commits.1 = id;
    }

    /// Frames noted: the next frame's sequence.
    pub fn frame_count(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Values noted.
    pub fn value_count(&self) -> u64 {
        self.list.len() as u64
    }

    /// Records noted.
    pub fn record_count(&self) -> u64 {
        self.record_crcs.len() as u64
    }

    /// Bytes of memory that it takes: 41 a value and 12 a frame, and what the vectors that hold them
    /// have room for beyond that, at most as much again. While it seals, [`Sealer::finish`] takes
    /// [`Sealer::seal_bytes`] beside it.
    pub fn memory_bytes(&self) -> u64 {
        let frames_bytes = self.frames.capacity() * size_of::<FrameChecks>();
        let crcs_bytes = self.record_crcs.capacity() * size_of::<u32>();
        let list_bytes = self.list.capacity() * size_of::<EncodedEntry>();
        (size_of::<Self>() + frames_bytes + crcs_bytes + list_bytes) as u64
    }

    /// Bytes that sealing adds once `more` further values are noted.
    #[expect(clippy::missing_panics_doc, reason = "what is in memory is short enough for a file")]
    pub fn seal_bytes(&self, more: usize) -> u64 {
        let pages = digest_list::page_count(self.list.len() + more);
        let list_bytes = digest_list::list_bytes(pages).expect("a list in memory is short enough");
        list_bytes + (FOOTER_BYTES + TRAILER_BYTES) as u64
    }

    /// The bytes that seal a segment whose frames end at `frames_end_bytes`, and the footer's hash.
    #[expect(clippy::missing_panics_doc, reason = "both are of one list")]
    pub fn finish(&mut self, header: SegmentHeader, frames_end_bytes: u64) -> (Bytes, [u8; 32]) {
        digest_list::sort(&mut self.list);
        let mut bytes = Vec::with_capacity(size(self.seal_bytes(0)));
        let mut frames_hasher = blake3::Hasher::new();
        let mut record_crcs = self.record_crcs.iter();
        for frame in &self.frames {
            frames_hasher.update(&frame.header_crc.to_le_bytes());
            for crc in record_crcs.by_ref().take(frame.record_count as usize) {
                frames_hasher.update(&crc.to_le_bytes());
            }
        }
        let list_hash =
            digest_list::encode(header.seed(), frames_end_bytes, &self.list, &mut bytes);
        let footer = Footer {
            header,
            frame_count: self.frame_count(),
            record_count: self.record_count(),
            frames_end_bytes,
            body_bytes: self.body_bytes,
            commits: self.commits,
            list_offset_bytes: frames_end_bytes,
            list_page_count: digest_list::page_count(self.list.len()),
            frames_hash: *frames_hasher.finalize().as_bytes(),
            list_hash,
        };
        let encoded = footer.encode();
        let trailer = Trailer::of(&encoded, frames_end_bytes + bytes.len() as u64);
        bytes.extend_from_slice(&encoded);
        bytes.extend_from_slice(&trailer.encode());
        assert_eq!(bytes.len() as u64, self.seal_bytes(0), "segments are cut by what sealing adds");
        (Bytes::from(bytes), trailer.footer_hash)
    }
}

/// Reads and checks the header of the open segment `name`.
///
/// # Errors
/// [`WalError::Format`] if it is damaged, of an unknown format, or another file's; [`WalError::Disk`].
pub fn read_header(
    disk: &dyn Disk,
    file: &Arc<dyn File>,
    name: &FileName,
) -> Result<SegmentHeader, WalError> {
    decode_header(&disk.read_own(file, 0, size(FRAMES_START_BYTES))?, name)
}

/// The header of the segment `name`, of which these are the first bytes, if it has so many.
///
/// # Errors
/// As [`read_header`].
pub fn decode_header(bytes: &[u8], name: &FileName) -> Result<SegmentHeader, WalError> {
    let bytes = &bytes[..bytes.len().min(size(FRAMES_START_BYTES))];
    let header = SegmentHeader::decode(name, bytes)?;
    if header.file_name() != *name {
        return Err(corrupt(name, 0, format!("it is another file: {}", header.file_name())));
    }
    if bytes.len() as u64 != FRAMES_START_BYTES {
        return Err(corrupt(name, bytes.len() as u64, "it ends before its first frame"));
    }
    if let Some(at) = bytes[HEADER_BYTES..].iter().position(|byte| *byte != 0) {
        let offset = (HEADER_BYTES + at) as u64;
        return Err(corrupt(name, offset, "expected zeros up to its first frame"));
    }
    Ok(header)
}

/// Reads and checks the trailer and footer of a sealed segment; also returns the footer's hash.
///
/// # Errors
/// [`WalError::Format`] if they are damaged, another file's, or of an unknown format; [`WalError::Disk`].
#[expect(clippy::missing_panics_doc, reason = "the slices have the lengths that are taken")]
pub fn read_footer(disk: &dyn Disk, segment: &SegmentFile) -> Result<(Footer, [u8; 32]), WalError> {
    let name = segment.name();
    let file_bytes = segment.file.len_bytes()?;
    let tail_bytes = FOOTER_BYTES + TRAILER_BYTES;
    let Some(start) = file_bytes.checked_sub(tail_bytes as u64) else {
        return Err(corrupt(name, file_bytes, "it ends before its footer"));
    };
    let tail = disk.read_own(&segment.file, start, tail_bytes)?;
    if tail.len() != tail_bytes {
        return Err(corrupt(name, start + tail.len() as u64, "it ends within its footer"));
    }
    let trailer = Trailer::decode(&name, file_bytes, &tail)?;
    let encoded: &[u8; FOOTER_BYTES] = tail.first_chunk().expect("it has a footer's length, too");
    if trailer.footer_offset_bytes != start || !trailer.is_of(encoded) {
        return Err(corrupt(name, start, "its footer and trailer do not match"));
    }
    if encoded[..8] != FOOTER_MAGIC {
        return Err(corrupt(name, start, "no footer stands where its trailer says"));
    }
    let header = segment.header.file_header();
    header.check_copy(&name, start + REPEATED.start as u64, &encoded[REPEATED])?;
    let number = |index: usize| {
        let at = 48 + 8 * index;
        u64::from_le_bytes(encoded[at..at + 8].try_into().expect("eight bytes"))
    };
    let footer = Footer {
        header: segment.header,
        frame_count: number(0),
        record_count: number(1),
        frames_end_bytes: number(2),
        body_bytes: number(3),
        commits: (CommitId(number(4)), CommitId(number(5))),
        list_offset_bytes: number(6),
        list_page_count: number(7),
        frames_hash: encoded[112..144].try_into().expect("32 bytes"),
        list_hash: encoded[144..176].try_into().expect("32 bytes"),
    };
    let list_offset = footer.list_offset_bytes;
    let ends_at_footer =
        |bytes: Option<u64>| bytes.and_then(|bytes| list_offset.checked_add(bytes)) == Some(start);
    let is_tiled = ends_at_footer(digest_list::list_bytes(footer.list_page_count));
    if !is_tiled || footer.frames_end_bytes != list_offset {
        return Err(corrupt(name, start, "its footer's offsets do not fit the file"));
    }
    Ok((footer, trailer.footer_hash))
}
