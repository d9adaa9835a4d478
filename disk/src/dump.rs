//! Annotated dumps: what each byte of a file means, one row a field.
//!
//! A decoder pushes rows while it walks bytes, most of them by [`Fields`]; [`Dump::render`] sets them
//! beside the bytes. What is wrong with a structure is a row `invalid` that takes no bytes. The same
//! dump serves the command-line tools and the tests' expectations.
//!
//! - U1: rows come out in the order in which they were pushed.
//! - U2: a dump of the same bytes is the same text, whatever the machine.

mod fields;

pub use fields::{Fields, digest_kind};

use std::fmt::{self, Write as _};

use crate::codec::Malformed;
use crate::container::FormatError;

/// The most bytes that a row shows in full.
const SHOWN_BYTES_MAX: usize = 8;
/// How many bytes a row shows of more than [`SHOWN_BYTES_MAX`].
const ABBREVIATED_BYTES: usize = 6;

/// One field: where it stands, what it is, what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Where it stands in the file.
    pub offset: u64,
    /// How many bytes it takes; 0 for what is said of the file and stands nowhere.
    pub len: usize,
    /// The structure it belongs to.
    pub structure: &'static str,
    /// The field's name.
    pub field: &'static str,
    /// Its value, decoded.
    pub value: String,
}

/// Rows in the making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    origin: u64,
    rows: Vec<Row>,
}

impl Dump {
    /// A dump of bytes that begin a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A dump of bytes that stand at `origin` of a file.
    pub fn starting_at(origin: u64) -> Self {
        Self { origin, rows: Vec::new() }
    }

    /// Adds a field of `len` bytes at `offset` of the file.
    pub fn push(
        &mut self,
        offset: u64,
        len: usize,
        structure: &'static str,
        field: &'static str,
        value: impl fmt::Display,
    ) {
        self.rows.push(Row { offset, len, structure, field, value: value.to_string() });
    }

    /// Adds a field of `len` bytes at `offset` of the file, of which the row says only how many they
    /// are.
    pub fn push_count(
        &mut self,
        offset: u64,
        len: usize,
        structure: &'static str,
        field: &'static str,
    ) {
        self.push(offset, len, structure, field, count(len));
    }

    /// Adds `bytes` at `offset` of the file, all of which should be zeros; nothing if there are none.
    pub fn push_padding(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            self.invalid(offset + at as u64, "padding", "expected zeros");
        }
        self.push_count(offset, bytes.len(), "padding", "zeros");
    }

    /// Adds what is said of the file and stands nowhere in it, such as why decoding ended.
    pub fn note(
        &mut self,
        offset: u64,
        structure: &'static str,
        field: &'static str,
        value: impl fmt::Display,
    ) {
        self.push(offset, 0, structure, field, value);
    }

    /// Says what is wrong with a structure, at this offset of the file.
    pub fn invalid(&mut self, offset: u64, structure: &'static str, why: impl fmt::Display) {
        self.note(offset, structure, "invalid", why);
    }

    /// Says why a structure could not be decoded that was read from this offset of the file on.
    pub fn malformed(&mut self, origin: u64, structure: &'static str, error: Malformed) {
        let at = origin.saturating_add(error.offset as u64);
        self.invalid(at, structure, format_args!("expected {}", error.what));
    }

    /// Says why a structure was refused: where the error says, or else at this offset of the file.
    pub fn refused(&mut self, offset: u64, structure: &'static str, error: &FormatError) {
        match error {
            FormatError::Corrupt { offset_bytes, what, .. } => {
                self.invalid(*offset_bytes, structure, what);
            }
            FormatError::Unsupported { what, .. } => self.invalid(offset, structure, what),
        }
    }

    /// Adds a row for each stretch of `bytes` that no row covers yet, and sorts all by offset.
    pub fn push_gaps(&mut self, bytes: &[u8]) {
        self.rows.sort_by_key(|row| row.offset);
        let mut gaps = Vec::new();
        let mut covered = self.origin;
        let end = self.origin + bytes.len() as u64;
        for (offset, len) in self.rows.iter().map(|row| (row.offset, row.len)).chain([(end, 0)]) {
            if offset > covered {
                gaps.push(covered..offset.min(end));
            }
            covered = covered.max(offset + len as u64);
        }
        for gap in gaps {
            let gap_bytes = self.bytes_of(bytes, gap.start, usize_of(gap.end - gap.start));
            let zeros = gap_bytes.iter().all(|byte| *byte == 0);
            let field = if zeros { "zeros" } else { "undecoded" };
            self.push_count(gap.start, gap_bytes.len(), "gap", field);
        }
        self.rows.sort_by_key(|row| row.offset);
    }

    /// The rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows as lines `offset  bytes  structure.field  value`. `bytes` are those that were
    /// walked, from the offset at which the dump starts.
    pub fn render(&self, bytes: &[u8]) -> String {
        let names: Vec<String> =
            self.rows.iter().map(|row| format!("{}.{}", row.structure, row.field)).collect();
        let hexes: Vec<String> =
            self.rows.iter().map(|row| hex(self.bytes_of(bytes, row.offset, row.len))).collect();
        let name_width = names.iter().map(String::len).max().unwrap_or(0);
        let hex_width = hexes.iter().map(String::len).max().unwrap_or(0);
        let mut out = String::new();
        for ((row, name), hex) in self.rows.iter().zip(&names).zip(&hexes) {
            let (offset, value) = (row.offset, &row.value);
            let line = format!("{offset:08x}  {hex:<hex_width$}  {name:<name_width$}  {value}");
            writeln!(out, "{}", line.trim_end()).expect("a string takes all that is written to it");
        }
        out
    }

    /// The bytes of a row, as many as there are.
    fn bytes_of<'a>(&self, bytes: &'a [u8], offset: u64, len: usize) -> &'a [u8] {
        let Some(start) = offset.checked_sub(self.origin) else { return &[] };
        let start = usize_of(start).min(bytes.len());
        &bytes[start..start.saturating_add(len).min(bytes.len())]
    }
}

fn count(len: usize) -> String {
    format!("{len} bytes")
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn hex(bytes: &[u8]) -> String {
    let shown = if bytes.len() > SHOWN_BYTES_MAX { &bytes[..ABBREVIATED_BYTES] } else { bytes };
    let mut out = String::with_capacity(2 * SHOWN_BYTES_MAX);
    for byte in shown {
        write!(out, "{byte:02x}").expect("a string takes all that is written to it");
    }
    if shown.len() < bytes.len() {
        out.push_str("..");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn decode(bytes: &[u8], origin: u64) -> Dump {
        let mut dump = Dump::starting_at(origin);
        let mut fields = Fields::new(&mut dump, "header", origin, bytes);
        fields.hex32("magic").unwrap();
        fields.text("name", 12).unwrap();
        fields.varint("entry_count").unwrap();
        dump
    }

    const BYTES: &[u8] = b"PIN1twelve bytes\xac\x02\0\0\0\0xy";

    #[test]
    fn a_dump_sets_fields_beside_their_bytes() {
        let mut dump = decode(BYTES, 0);
        dump.note(18, "walk", "end", "nothing more was decoded");
        expect![[r#"
            00000000  50494e31        header.magic        0x314e4950
            00000004  7477656c7665..  header.name         "twelve bytes"
            00000010  ac02            header.entry_count  300
            00000012                  walk.end            nothing more was decoded
        "#]]
        .assert_eq(&dump.render(BYTES));
    }

    #[test]
    fn a_field_that_cannot_be_read_has_no_row() {
        let mut dump = Dump::new();
        let mut fields = Fields::new(&mut dump, "header", 0, &BYTES[..6]);
        fields.u32("magic").unwrap();
        let error = fields.text("name", 12).unwrap_err();
        assert_eq!(fields.u16("rest"), Ok(0x7774), "what could not be read is still there");
        dump.malformed(0, "header", error);
        expect![[r#"
            00000000  50494e31  header.magic    827214160
            00000004  7477      header.rest     30580
            00000004            header.invalid  expected name
        "#]]
        .assert_eq(&dump.render(BYTES));
    }

    #[test]
    fn a_dump_may_start_inside_a_file() {
        expect![[r#"
            00001000  50494e31        header.magic        0x314e4950
            00001004  7477656c7665..  header.name         "twelve bytes"
            00001010  ac02            header.entry_count  300
        "#]]
        .assert_eq(&decode(BYTES, 0x1000).render(BYTES));
    }

    #[test]
    fn gaps_are_shown() {
        let mut dump = Dump::new();
        dump.push(22, 1, "footer", "x", 'x');
        dump.push(0, 4, "header", "magic", "PIN1");
        dump.push(16, 2, "header", "entry_count", 300);
        dump.push_gaps(BYTES);
        expect![[r#"
            00000000  50494e31        header.magic        PIN1
            00000004  7477656c7665..  gap.undecoded       12 bytes
            00000010  ac02            header.entry_count  300
            00000012  00000000        gap.zeros           4 bytes
            00000016  78              footer.x            x
            00000017  79              gap.undecoded       1 bytes
        "#]]
        .assert_eq(&dump.render(BYTES));
    }

    #[test]
    fn rows_beyond_the_bytes_show_none() {
        let mut dump = Dump::starting_at(100);
        dump.push(99, 4, "a", "before", 1);
        dump.push(101, 4, "a", "cut", 2);
        dump.push(u64::MAX, usize::MAX, "a", "far", 3);
        expect![[r#"
            00000063      a.before  1
            00000065  62  a.cut     2
            ffffffffffffffff      a.far     3
        "#]]
        .assert_eq(&dump.render(b"ab"));
    }
}
