//! Lines of a stream, with a bound.
//!
//! - L1: no more of a line is held than its bound and a byte.
//! - L2: a line that is too long is skipped to its newline, and the next one is read as if nothing
//!   had happened.

use std::io::{self, BufRead, Read};

/// What is kept of the buffer between lines.
const KEPT_BYTES: usize = 1 << 20;

/// A line without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

/// Reads lines.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    input: R,
    line: Vec<u8>,
    bytes_max: u64,
}

impl<R: BufRead> LineReader<R> {
    /// Reads lines of at most `bytes_max` bytes, their newlines not counted.
    pub(crate) fn new(input: R, bytes_max: u64) -> Self {
        Self { input, line: Vec::new(), bytes_max }
    }

    /// The bound.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The next line; the last one may lack its newline.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        self.line.shrink_to(KEPT_BYTES);
        let with_newline = self.bytes_max + 1;
        let read = self.input.by_ref().take(with_newline).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if read as u64 == with_newline {
            self.line = Vec::new();
            self.input.skip_until(b'\n')?;
            return Ok(Some(Line::TooLong));
        }
        Ok(Some(Line::Whole(&self.line)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(text: &[u8], bytes_max: u64) -> Vec<Option<Vec<u8>>> {
        // The stream's own buffer is smaller than a line, and then larger.
        let read = |capacity| {
            let mut reader = LineReader::new(BufReader::with_capacity(capacity, text), bytes_max);
            let mut lines = Vec::new();
            while let Some(line) = reader.next().unwrap() {
                lines.push(match line {
                    Line::Whole(line) => Some(line.to_vec()),
                    Line::TooLong => None,
                });
            }
            lines
        };
        let lines = read(2);
        assert_eq!(lines, read(1 << 10));
        lines
    }

    fn whole(line: &str) -> Option<Vec<u8>> {
        Some(line.into())
    }

    #[test]
    fn lines_end_with_a_newline_or_with_the_stream() {
        assert_eq!(lines(b"", 4), []);
        assert_eq!(lines(b"\n", 4), [whole("")]);
        assert_eq!(lines(b"a\n\nbc", 4), [whole("a"), whole(""), whole("bc")]);
        assert_eq!(lines(b"a\nbc\n", 4), [whole("a"), whole("bc")]);
    }

    #[test]
    fn a_line_over_the_bound_is_skipped_to_its_newline() {
        assert_eq!(lines(b"abcd\nabcde\nf\n", 4), [whole("abcd"), None, whole("f")]);
        assert_eq!(lines(b"abcdefghijkl\nabcd", 4), [None, whole("abcd")]);
        assert_eq!(lines(b"abcd", 4), [whole("abcd")]);
        assert_eq!(lines(b"abcde", 4), [None]);
        assert_eq!(lines(b"abcdefghi", 4), [None]);
        assert_eq!(lines(b"abcde\n", 4), [None]);
    }

    #[test]
    fn an_endless_line_takes_no_more_memory_than_the_bound() {
        let endless = io::repeat(b'x').take(64 << 20);
        let mut reader = LineReader::new(BufReader::new(endless), 1 << 10);
        assert_eq!(reader.next().unwrap(), Some(Line::TooLong));
        assert!(reader.line.capacity() <= 2 << 10);
        assert_eq!(reader.next().unwrap(), None);
    }
}
