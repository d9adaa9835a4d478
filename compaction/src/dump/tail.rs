//! What a file is, and where its parts are, found out from its two ends.
//!
//! Nothing here believes bytes that are not there: whatever is found lies within the file, and the
//! header's 64 bytes are the header's.

use pinstone_disk::checksum::crc;
use pinstone_disk::codec::{Malformed, Reader, size};
use pinstone_disk::{
    AnyHeader, Epoch, FileHeader, FileKind, FileName, FormatError, HEADER_BYTES, Ordinal, REPEATED,
    StoreId, TRAILER_BYTES, TRAILER_MAGIC, TableKind, Trailer,
};

use crate::table::container::UNITS_START;
use crate::table::footer::FOOTER_MAGIC;

/// The tree whose table this is.
pub(super) fn table_kind(name: Option<&FileName>, bytes: &[u8]) -> Option<TableKind> {
    let of_number = |number| match FileKind::from_number(number) {
        Some(FileKind::Table(table)) => Some(table),
        _ => None,
    };
    match (AnyHeader::decode(&FileName::Current, bytes), name) {
        // What these hold means nothing.
        (_, Some(FileName::Lock | FileName::Reserve)) => None,
        (Ok(header), _) => of_number(header.kind),
        (Err(_), Some(FileName::Table { table, .. })) => Some(*table),
        (Err(_), Some(_)) => None,
        (Err(_), None) => of_number(header_as_it_stands(bytes)?.kind),
    }
}

/// What a header says, sound or not.
fn header_as_it_stands(bytes: &[u8]) -> Option<AnyHeader> {
    repeated_as_it_stands(bytes.get(REPEATED)?).ok()
}

/// What header and footer both say.
fn repeated_as_it_stands(repeated: &[u8]) -> Result<AnyHeader, Malformed> {
    let mut reader = Reader::new(repeated);
    reader.u16("version")?;
    let kind = reader.u8("file_kind")?;
    reader.take(13, "digest_kind and features")?;
    let store_id = StoreId(reader.array("store_id")?);
    let ordinal = Ordinal(reader.u32("ordinal")?);
    let epoch = Epoch(reader.u32("epoch")?);
    Ok(AnyHeader { store_id, kind, ordinal, epoch })
}

/// Whose file it is (step 1).
pub(super) fn identity(
    kind: TableKind,
    name: Option<&FileName>,
    bytes: &[u8],
    tail: &Tail<'_>,
) -> FileHeader {
    let table = |header: AnyHeader| FileHeader {
        store_id: header.store_id,
        kind: FileKind::Table(kind),
        ordinal: header.ordinal,
        epoch: header.epoch,
    };
    if let Ok(header) = AnyHeader::decode(&FileName::Current, bytes) {
        return table(header);
    }
    let footer = tail.footer.filter(|_| tail.is_confirmed()).map(|(_, footer)| footer);
    let copy = footer.and_then(|footer| repeated_as_it_stands(footer.get(REPEATED)?).ok());
    let copy = copy.filter(|copy| copy.kind == kind as u8);
    let mut header = table(copy.or_else(|| header_as_it_stands(bytes)).unwrap_or(AnyHeader {
        store_id: StoreId([0; 16]),
        kind: kind as u8,
        ordinal: Ordinal(0),
        epoch: Epoch(0),
    }));
    if let (None, Some(&FileName::Table { ordinal, epoch, .. })) = (copy, name) {
        (header.ordinal, header.epoch) = (ordinal, epoch);
    }
    header
}

/// What ends a table.
pub(super) struct Tail<'a> {
    /// Where the footer begins, and its bytes, if there is one.
    pub(super) footer: Option<(u64, &'a [u8])>,
    /// Where the trailer begins, if there is one.
    pub(super) trailer_start: Option<u64>,
    /// What it says, or what is wrong with it.
    pub(super) trailer: Result<Trailer, FormatError>,
}

impl<'a> Tail<'a> {
    pub(super) fn find(bytes: &'a [u8]) -> Self {
        let file_bytes = bytes.len() as u64;
        let trailer = Trailer::decode(&FileName::Current, file_bytes, bytes);
        let start = bytes.len().checked_sub(TRAILER_BYTES).filter(|start| *start >= HEADER_BYTES);
        let start = start.filter(|start| is_like_a_trailer(&bytes[*start..]));
        let footer_start = start
            .and_then(|start| said_footer_start(start, &bytes[start..]))
            .filter(|said| *said >= HEADER_BYTES)
            .or_else(|| last_footer_start(&bytes[..start.unwrap_or(bytes.len())]));
        let footer = footer_start.map(|footer_start| {
            (footer_start as u64, &bytes[footer_start..start.unwrap_or(bytes.len())])
        });
        Self { footer, trailer_start: start.map(|start| start as u64), trailer }
    }

    /// There is a footer, and it is the one that a sound trailer names.
    pub(super) fn is_confirmed(&self) -> bool {
        match (&self.trailer, self.footer) {
            (Ok(trailer), Some((_, footer))) => trailer.is_of(footer),
            _ => false,
        }
    }

    /// Where the last thing before footer and trailer ends at the latest.
    pub(super) fn start(&self) -> Option<u64> {
        self.footer.map(|(start, _)| start).or(self.trailer_start)
    }
}

/// One of its two marks is whole.
fn is_like_a_trailer(bytes: &[u8]) -> bool {
    let sum = bytes.get(52..56).is_some_and(|sum| *sum == crc(&bytes[..52]).to_le_bytes());
    sum || bytes.ends_with(&TRAILER_MAGIC)
}

/// Where the footer begins that the trailer at `start` tells of, if it ends there.
fn said_footer_start(start: usize, trailer: &[u8]) -> Option<usize> {
    let mut reader = Reader::new(trailer.get(32..44)?);
    let (offset, len) = (reader.u64("an offset").ok()?, reader.u32("a length").ok()?);
    (offset.checked_add(len.into()) == Some(start as u64)).then_some(size(offset))
}

/// Where the last footer of `bytes` begins that repeats their header, or else the last of all.
fn last_footer_start(bytes: &[u8]) -> Option<usize> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let repeats = |at: usize| {
        let copy = &rest[at + FOOTER_MAGIC.len()..];
        header[REPEATED].starts_with(&copy[..copy.len().min(REPEATED.len())])
    };
    let windows = rest.windows(FOOTER_MAGIC.len()).enumerate().rev();
    let mut starts = windows.filter(|(_, window)| *window == FOOTER_MAGIC).map(|(at, _)| at);
    let last = starts.next()?;
    let found = std::iter::once(last).chain(starts).find(|at| repeats(*at)).unwrap_or(last);
    Some(HEADER_BYTES + found)
}

/// Where the parts of a table end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) units_end: u64,
    pub(super) directory_end: u64,
    pub(super) filters_end: u64,
}

impl Parts {
    pub(super) fn ascend(&self) -> bool {
        [UNITS_START, self.units_end, self.directory_end, self.filters_end].is_sorted()
    }
}

/// Where the parts end, as a footer says.
pub(super) fn said_parts(footer: &[u8]) -> Option<Parts> {
    let mut reader = Reader::new(footer.get(64..88)?);
    let mut number = || reader.u64("an offset").ok();
    Some(Parts { units_end: number()?, directory_end: number()?, filters_end: number()? })
}
