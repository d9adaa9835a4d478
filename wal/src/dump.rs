//! The annotated dump of a file: every field of `docs/format.md` beside its bytes.
//!
//! 1. The file's header says what it is. If it is damaged, the file's name stands in for it.
//! 2. A sealed segment's end says where its frames end; without it they end where the file does.
//! 3. Frames are walked as a scan walks them. Where one is invalid, a row says so, and the walk
//!    goes on at the next place that holds a valid header.
//! 4. What no row covers is shown as zeros or as undecoded.
//!
//! - P1: any bytes can be dumped; nothing here panics on them or believes a length of theirs.
//! - P2: names of structures and fields are those of `docs/format.md`.
//!
//! What an edit of the root means is the root's: its user decodes that payload.

use std::convert::identity;

use pinstone_disk::codec::{Malformed, Reader, size};
use pinstone_disk::dump::{Dump, Fields, digest_kind};
use pinstone_disk::{
    AnyHeader, Digest, FileKind, FileName, HEADER_BYTES, StoreId, TRAILER_BYTES, TRAILER_MAGIC,
    Trailer,
};

use crate::carried::CarriedRecord;
use crate::digest_list::{
    DIGEST_ENTRY_BYTES, DIGEST_PAGE_BYTES, DIGEST_PAGE_HEADER_BYTES, ENTRIES_A_PAGE, list_bytes,
};
use crate::frame::{FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameHeader, FrameKind, frame_bytes};
use crate::position::{LogPosition, SizeClass};
use crate::record::{Record, RecordKind, StoreSeed};
use crate::segment::{FOOTER_BYTES, FOOTER_MAGIC, FRAMES_START_BYTES, SegmentHeader};

/// Adds rows for the payload of a root's edit that stands at an offset of the file.
pub type DumpPayload<'a> = &'a dyn Fn(&mut Dump, u64, &[u8]);

/// Shows a payload as so many bytes.
pub fn opaque_payload(dump: &mut Dump, offset: u64, payload: &[u8]) {
    dump.push_count(offset, payload.len(), "record", "payload");
}

/// Dumps a segment, sealed or not, or CURRENT: whatever begins as our files do, or is called like
/// one. What is damaged is shown as far as it can be, with an `invalid` row beside it.
pub fn dump_file(name: Option<&FileName>, bytes: &[u8], root_edit: DumpPayload<'_>) -> Dump {
    let mut walk = Walk { dump: Dump::new(), bytes, root_edit };
    match name {
        Some(FileName::Lock) => {
            if !bytes.is_empty() {
                walk.dump.push(0, bytes.len(), "lock", "pid", bytes.escape_ascii());
            }
            return walk.dump;
        }
        Some(FileName::Reserve) => {
            walk.dump.push_count(0, bytes.len(), "reserve", "space");
            return walk.dump;
        }
        _ => {}
    }
    let header = walk.header();
    let kind = header.and_then(|header| FileKind::from_number(header.kind));
    match (kind, header, name) {
        (Some(FileKind::Current), ..)
        | (_, None, Some(FileName::Current | FileName::CurrentTemp)) => {
            if bytes.len() > HEADER_BYTES {
                walk.dump.invalid(HEADER_BYTES as u64, "header", "expected the file's end");
            }
        }
        (Some(FileKind::Log(log)), Some(header), _) => {
            walk.segment(SegmentHeader::of(log, &header));
        }
        (_, header, Some(&FileName::Segment { log, ordinal, epoch })) => {
            let store_id = header.map_or(StoreId([0; 16]), |header| header.store_id);
            walk.segment(SegmentHeader { store_id, log, ordinal, epoch });
        }
        _ => walk.dump.invalid(0, "file", "it is none of a store's"),
    }
    walk.dump.push_gaps(bytes);
    walk.dump
}

struct Walk<'a> {
    dump: Dump,
    bytes: &'a [u8],
    root_edit: DumpPayload<'a>,
}

/// Whether a file of this kind may be dumped here.
fn is_ours(kind: FileKind) -> bool {
    !matches!(kind, FileKind::Table(_))
}

fn position(fields: &mut Fields<'_, '_>, field: &'static str) -> Result<LogPosition, Malformed> {
    let read = |reader: &mut Reader<'_>, what| reader.u64(what).map(LogPosition::from_number);
    fields.field(field, read, identity)
}

impl<'a> Walk<'a> {
    fn fields(&mut self, structure: &'static str, origin: u64) -> Fields<'a, '_> {
        let bytes = self.bytes.get(size(origin)..).unwrap_or(&[]);
        self.fields_of(structure, origin, bytes)
    }

    fn fields_of<'b>(
        &mut self,
        structure: &'static str,
        origin: u64,
        bytes: &'b [u8],
    ) -> Fields<'b, '_> {
        Fields::new(&mut self.dump, structure, origin, bytes)
    }

    /// The file's header as it stands: its kind, and whose file it is. `None` if it is not there.
    fn header(&mut self) -> Option<AnyHeader> {
        match self.fields("header", 0).header(is_ours) {
            Ok(header) => {
                let name = FileName::Current;
                if let Err(error) = AnyHeader::decode(&name, self.bytes) {
                    // The error names a file; the reader knows which one it dumps.
                    let text = error.to_string();
                    let why = text.strip_prefix("CURRENT ").unwrap_or(&text).to_owned();
                    self.dump.invalid(0, "header", why);
                }
                Some(header)
            }
            Err(error) => {
                self.dump.malformed(0, "header", error);
                None
            }
        }
    }

    fn segment(&mut self, header: SegmentHeader) {
        self.padding(HEADER_BYTES as u64, FRAMES_START_BYTES);
        let frames_end_bytes = self.seal(header).unwrap_or(self.bytes.len() as u64);
        self.frames(header, frames_end_bytes);
    }

    /// Zeros from `start` to `end`, as far as the file goes.
    fn padding(&mut self, start: u64, end: u64) {
        let end = end.min(self.bytes.len() as u64);
        let zeros = self.bytes.get(size(start)..size(end)).unwrap_or(&[]);
        self.dump.push_padding(start, zeros);
    }

    fn frames(&mut self, header: SegmentHeader, frames_end_bytes: u64) {
        let seed = header.seed();
        let mut at = FRAMES_START_BYTES;
        let mut sequence = 0;
        while at < frames_end_bytes {
            let rest = self.bytes.get(size(at)..size(frames_end_bytes)).unwrap_or(&[]);
            match FrameHeader::decode(seed, at, rest) {
                Ok(frame) => {
                    if frame.sequence != sequence {
                        self.dump.invalid(
                            at,
                            "frame",
                            format_args!("expected sequence {sequence}"),
                        );
                    }
                    sequence = frame.sequence.wrapping_add(1);
                    at = self.frame(header, at, &frame, frames_end_bytes);
                }
                Err(error) => {
                    let Some(dirty) = rest.iter().position(|byte| *byte != 0) else { return };
                    self.dump.malformed(at, "frame", error);
                    // On to the next place with a valid header, if there is one.
                    let mut next = at + (dirty / FRAME_ALIGN_BYTES * FRAME_ALIGN_BYTES) as u64;
                    next = next.max(at + FRAME_ALIGN_BYTES as u64);
                    while next < frames_end_bytes {
                        let rest =
                            self.bytes.get(size(next)..size(frames_end_bytes)).unwrap_or(&[]);
                        if FrameHeader::decode(seed, next, rest).is_ok() {
                            break;
                        }
                        next += FRAME_ALIGN_BYTES as u64;
                    }
                    at = next;
                }
            }
        }
    }

    /// Dumps the frame with this header; returns where the next one begins.
    fn frame(&mut self, header: SegmentHeader, at: u64, frame: &FrameHeader, limit: u64) -> u64 {
        let mut fields = self.fields("frame", at);
        // Its bytes were decoded once.
        let _shown = (|| {
            fields.hex32("crc")?;
            fields.u32("body_bytes")?;
            fields.u8("kind", |kind| match FrameKind::from_number(kind) {
                Some(FrameKind::Records) => format!("{kind}, records"),
                Some(FrameKind::Witness) => format!("{kind}, witness"),
                Some(FrameKind::Void) => format!("{kind}, void"),
                None => format!("{kind}, unknown"),
            })?;
            fields.u8("flags", |flags| {
                format!("{flags}{}", if flags & 1 == 1 { ", last of its segment" } else { "" })
            })?;
            fields.u16("reserved")?;
            fields.hex32("body_check")?;
            fields.u32("epoch")?;
            fields.u32("sequence")?;
            position(&mut fields, "synced_blob")?;
            position(&mut fields, "synced_pointer")?;
            position(&mut fields, "synced_root")
        })();
        let body_start = at + FRAME_HEADER_BYTES as u64;
        let body_end = body_start + u64::from(frame.body_bytes);
        let end = at + frame_bytes(u64::from(frame.body_bytes));
        if end > limit {
            self.dump.invalid(
                at,
                "frame",
                format_args!("it ends at {end}, past its segment's end"),
            );
        }
        let body = self.bytes.get(size(body_start)..size(body_end.min(limit))).unwrap_or(&[]);
        if frame.kind == FrameKind::Void {
            let len = size(end.min(limit).saturating_sub(body_start));
            self.dump.push_count(body_start, len, "void", "body");
            return end;
        }
        self.records(header, body_start, body, frame);
        self.padding(body_end, end.min(limit));
        end
    }

    fn records(&mut self, header: SegmentHeader, start: u64, body: &[u8], frame: &FrameHeader) {
        let seed = StoreSeed::new(&header.store_id);
        let mut check = crate::frame::BodyCheck::default();
        let mut at = 0;
        while at < body.len() {
            let offset = start + at as u64;
            let Some(len_bytes) = self.record(seed, offset, &body[at..]) else { return };
            let Some(crc) = body[at..].first_chunk() else { return };
            check.push(u32::from_le_bytes(*crc));
            at += len_bytes;
        }
        if check.value() != frame.body_check {
            self.dump.invalid(start, "frame", "its records are not the ones that its header names");
        }
    }

    /// Dumps the record that `bytes` begins with; returns its length, if that makes sense.
    fn record(&mut self, seed: StoreSeed, offset: u64, bytes: &[u8]) -> Option<usize> {
        let mut fields = self.fields_of("record", offset, bytes);
        let head = (|| {
            fields.hex32("crc")?;
            let kind = fields.u8("kind", |kind| match RecordKind::from_number(kind) {
                Some(RecordKind::Value) => format!("{kind}, value"),
                Some(RecordKind::Commit) => format!("{kind}, commit"),
                Some(RecordKind::Carried) => format!("{kind}, carried"),
                Some(RecordKind::RootEdit) => format!("{kind}, root edit"),
                None => format!("{kind}, unknown"),
            })?;
            let payload_bytes = fields.varint("payload_bytes")?;
            let payload_at = fields.reader.offset();
            Ok((kind, payload_at, fields.reader.take(payload_bytes, "a record's payload")?))
        })();
        let (kind, payload_at, payload) = match head {
            Ok(head) => head,
            Err(error) => {
                self.dump.malformed(offset, "record", error);
                return None;
            }
        };
        if let Err(error) = Record::read(seed, bytes) {
            self.dump.malformed(offset, "record", error);
        }
        let payload_offset = offset + payload_at as u64;
        match RecordKind::from_number(kind) {
            Some(RecordKind::Value) => self.value(payload_offset, payload),
            Some(RecordKind::Commit) => self.commit(payload_offset, payload),
            Some(RecordKind::Carried) => self.carried(payload_offset, payload),
            Some(RecordKind::RootEdit) => {
                (self.root_edit)(&mut self.dump, payload_offset, payload);
            }
            None => opaque_payload(&mut self.dump, payload_offset, payload),
        }
        Some(payload_at + payload.len())
    }

    fn value(&mut self, offset: u64, payload: &[u8]) {
        let mut fields = self.fields_of("value", offset, payload);
        match fields.digest("digest") {
            Ok(digest) => {
                let len = fields.reader.left();
                let value = fields.bytes("bytes", len).unwrap_or(&[]);
                if Digest::of(value) != digest {
                    self.dump.invalid(offset, "value", "its bytes have another digest");
                }
            }
            Err(error) => self.dump.malformed(offset, "value", error),
        }
    }

    fn commit(&mut self, offset: u64, payload: &[u8]) {
        let mut fields = self.fields_of("commit", offset, payload);
        let shown = (|| {
            fields.u64("id")?;
            position(&mut fields, "depends_upto")?;
            fields.u8("flags", |flags| flags.to_string())?;
            let change_count = fields.varint("change_count")?;
            fields.structure = "change";
            for _ in 0..change_count {
                let kind = fields.u8("kind", |kind| match kind {
                    0 => "0, delete".to_owned(),
                    kind => digest_kind(kind),
                })?;
                let name_bytes = fields.varint("name_bytes")?;
                fields.text("name", name_bytes)?;
                if kind != 0 {
                    fields.digest("digest")?;
                }
            }
            fields.reader.end("the commit's end")
        })();
        let structure = fields.structure;
        if let Err(error) = shown.and_then(|()| crate::CommitRecord::decode(payload).map(drop)) {
            self.dump.malformed(offset, structure, error);
        }
    }

    fn carried(&mut self, offset: u64, payload: &[u8]) {
        let mut fields = self.fields_of("carried", offset, payload);
        let shown = (|| {
            position(&mut fields, "from")?;
            let len = fields.reader.left();
            fields.bytes("frames", len).map(drop)
        })();
        if let Err(error) = shown.and_then(|()| CarriedRecord::decode(payload).map(drop)) {
            self.dump.malformed(offset, "carried", error);
        }
    }

    /// What seals a segment, if this one looks sealed; returns where its frames end.
    fn seal(&mut self, header: SegmentHeader) -> Option<u64> {
        let tail_bytes = FOOTER_BYTES + TRAILER_BYTES;
        let start = self.bytes.len().checked_sub(tail_bytes)?;
        let (footer, trailer) = self.bytes[start..].split_at(FOOTER_BYTES);
        if footer[..8] != FOOTER_MAGIC && trailer[TRAILER_BYTES - 8..] != TRAILER_MAGIC {
            return None;
        }
        let start = start as u64;
        let mut fields = self.fields("footer", start);
        // Its bytes are there: only a meaning can be wrong.
        let shown = (|| {
            fields.text("magic", 8)?;
            let of = fields.repeated(is_ours)?;
            fields.u64("frame_count")?;
            fields.u64("record_count")?;
            let frames_end_bytes = fields.u64("frames_end")?;
            fields.u64("body_bytes")?;
            fields.u64("first_commit")?;
            fields.u64("last_commit")?;
            let list_offset_bytes = fields.u64("list_offset")?;
            let list_page_count = fields.u64("list_pages")?;
            fields.digest("frames_hash")?;
            fields.digest("list_hash")?;
            fields.trailer()?;
            Ok::<_, Malformed>((of, frames_end_bytes, list_offset_bytes, list_page_count))
        })();
        let (of, frames_end_bytes, list_offset_bytes, list_page_count) = shown.ok()?;
        match Trailer::decode(&header.file_name(), self.bytes.len() as u64, trailer) {
            Ok(trailer) if trailer.footer_offset_bytes == start && trailer.is_of(footer) => {}
            Ok(_) => self.dump.invalid(start, "footer", "it is not the one that its trailer names"),
            Err(error) => self.dump.refused(start, "trailer", &error),
        }
        if of.kind != header.log as u8 || SegmentHeader::of(header.log, &of) != header {
            self.dump.invalid(start, "footer", "it is another file's");
        }
        let list_end =
            list_bytes(list_page_count).and_then(|bytes| list_offset_bytes.checked_add(bytes));
        if frames_end_bytes != list_offset_bytes || list_end != Some(start) {
            self.dump.invalid(start, "footer", "its offsets do not fit the file");
            return Some(start);
        }
        let pages = (0..list_page_count).map(|page| page * DIGEST_PAGE_BYTES as u64);
        let tops = pages.map(|page| self.digest_page(header, list_offset_bytes + page)).collect();
        if list_page_count > 0 {
            let offset = list_offset_bytes + list_page_count * DIGEST_PAGE_BYTES as u64;
            self.list_directory(header, offset, start, tops);
        }
        Some(frames_end_bytes)
    }

    /// Dumps a page; returns the top bits of its first digest, if the page is sound.
    fn digest_page(&mut self, header: SegmentHeader, offset: u64) -> Option<u32> {
        let page = self.bytes.get(size(offset)..size(offset) + DIGEST_PAGE_BYTES)?;
        let mut fields = self.fields_of("digest_page", offset, page);
        let shown = (|| {
            let crc = fields.hex32("crc")?;
            let entry_count = fields.u16("entry_count")?;
            fields.u16("reserved")?;
            fields.structure = "digest_entry";
            let entries = usize::from(entry_count).min(ENTRIES_A_PAGE);
            for _ in 0..entries {
                fields.digest("digest")?;
                fields.u32("offset")?;
                fields.u8("size_class", |class| {
                    format!("{class}, at most {} bytes", SizeClass(class).bytes_max())
                })?;
            }
            fields.structure = "digest_page";
            let unused =
                DIGEST_PAGE_BYTES - DIGEST_PAGE_HEADER_BYTES - entries * DIGEST_ENTRY_BYTES;
            fields.bytes("unused", unused)?;
            Ok::<_, Malformed>(crc)
        })();
        if shown.is_ok_and(|crc| header.seed().at(offset, &[&page[4..]]) != crc) {
            self.dump.invalid(offset, "digest_page", "its checksum does not match");
            return None;
        }
        page[DIGEST_PAGE_HEADER_BYTES..].first_chunk().map(|top| u32::from_be_bytes(*top))
    }

    /// Dumps the directory of pages that begin so, as far as these are sound.
    fn list_directory(
        &mut self,
        header: SegmentHeader,
        offset: u64,
        end: u64,
        tops: Vec<Option<u32>>,
    ) {
        let Some(directory) = self.bytes.get(size(offset)..size(end)) else { return };
        let mut fields = self.fields_of("list_directory", offset, directory);
        let mut others = Vec::new();
        let shown = (|| {
            let crc = fields.hex32("crc")?;
            fields.structure = "page_key";
            for top in tops {
                let at = offset + fields.reader.offset() as u64;
                let shown = fields.hex32("top")?;
                if top.is_some_and(|top| top != shown) {
                    others.push(at);
                }
            }
            Ok::<_, Malformed>(crc)
        })();
        if shown.is_ok_and(|crc| header.seed().at(offset, &[&directory[4..]]) != crc) {
            self.dump.invalid(offset, "list_directory", "its checksum does not match");
        }
        for at in others {
            self.dump.invalid(at, "page_key", "its page begins with another digest");
        }
    }
}
