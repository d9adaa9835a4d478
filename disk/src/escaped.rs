//! Bytes as text on one line, for messages and lists.

use std::fmt::{self, Write};

/// Prints bytes as in a C string: a backslash is `\\`; newline, tab and carriage return are `\n`, `\t`
/// and `\r`; each byte of another control character, and each that is not UTF-8, is a backslash and
/// three octal digits. All else stands as it is.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    _ if character.is_control() => {
                        octal(f, character.encode_utf8(&mut [0; 4]).as_bytes())?;
                    }
                    _ => f.write_char(character)?,
                }
            }
            octal(f, chunk.invalid())?;
        }
        Ok(())
    }
}

fn octal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\{byte:03o}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_bytes_are_one_line_of_c() {
        let table: [(&[u8], &str); 8] = [
            (b"plain name", "plain name"),
            ("na\u{ef}ve \u{1f980}".as_bytes(), "na\u{ef}ve \u{1f980}"),
            (b"a\\b", r"a\\b"),
            (b"a\nb\tc\rd", r"a\nb\tc\rd"),
            (b"\x00\x1b[0m\x7f", r"\000\033[0m\177"),
            (b"\xff7", r"\3777"),
            (b"\xe2\x82", r"\342\202"),
            ("\u{85}".as_bytes(), r"\302\205"),
        ];
        for (bytes, text) in table {
            assert_eq!(Escaped(bytes).to_string(), text);
        }
    }
}
