//! What long commands say while they run: notices, and a bar where somebody looks.
//!
//! All of it goes to stderr; the bar is drawn on a terminal only, and notices are printed above it.
//! A notice is no error: the command goes on, and its exit code tells in the end whether something
//! was left out.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::text::{Path, escape};

/// Told what a long command does.
pub trait Watch {
    /// Something the user should read.
    fn notice(&mut self, notice: &Notice<'_>);

    /// How far the command is: files and their bytes.
    fn progress(&mut self, file_count: u64, bytes: u64);
}

/// What a notice is about. The words are what programs see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// An entry is left out: it cannot be kept, or the file system does not take it.
    LeftOut,
    /// The store that is imported into is left out.
    StoreLeftOut,
    /// A file of rules counts as empty.
    RulesIgnored,
    /// An entry is left out: its value is missing or damaged.
    Damaged,
    /// An entry has another mode or time than it had.
    Altered,
    /// Programs among the files run as whoever exported them.
    Setuid,
    /// What was not looked at.
    Unchecked,
}

/// Something the user should read: a line of text, or with `--json` a line
/// `{"notice":{"kind":KIND,"path":PATH,"message":TEXT}}`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Notice<'a> {
    /// What it is about.
    pub kind: NoticeKind,
    /// The file or directory that it is about, if any.
    #[serde(flatten)]
    pub path: Option<Path<'a>>,
    /// What is to be told of it.
    pub message: &'a str,
}

impl<'a> Notice<'a> {
    /// A notice about the entry at `path`.
    pub fn of(kind: NoticeKind, path: &'a [u8], message: &'a str) -> Self {
        Self { kind, path: Some(Path::of(path)), message }
    }

    /// Says it on stderr.
    pub fn say(&self, json: bool) {
        #[derive(Serialize)]
        struct Document<'a> {
            notice: &'a Notice<'a>,
        }
        let line = if json {
            serde_json::to_string(&Document { notice: self })
                .unwrap_or_else(|error| error.to_string())
        } else {
            format!("pinstone: {self}")
        };
        // Nobody can be told that stderr is gone.
        let _ = writeln!(io::stderr(), "{line}");
    }
}

impl fmt::Display for Notice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path {
            write!(f, "{}: ", escape(path.bytes()))?;
        }
        f.write_str(match self.kind {
            NoticeKind::LeftOut | NoticeKind::StoreLeftOut | NoticeKind::Damaged => "left out: ",
            NoticeKind::RulesIgnored => "its rules were ignored: ",
            NoticeKind::Altered => "mode or time not kept: ",
            NoticeKind::Setuid | NoticeKind::Unchecked => "",
        })?;
        f.write_str(self.message)
    }
}

/// Watches from the terminal, if stderr is one.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    json: bool,
}

impl Terminal {
    /// Begins to watch; notices are lines of JSON if asked for.
    pub fn new(json: bool) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), json };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} in {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, json }
    }
}

impl Watch for Terminal {
    fn notice(&mut self, notice: &Notice<'_>) {
        self.bar.suspend(|| notice.say(self.json));
    }

    fn progress(&mut self, file_count: u64, bytes: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_message(format!(
                "{} files, {}",
                HumanCount(file_count),
                HumanBytes(bytes)
            ));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_one_line_of_text_or_json() {
        let json = |notice: &Notice<'_>| serde_json::to_string(notice).unwrap();
        let notice = Notice::of(NoticeKind::LeftOut, b"a\nb", "it is a FIFO");
        assert_eq!(notice.to_string(), r"a\nb: left out: it is a FIFO");
        assert_eq!(json(&notice), r#"{"kind":"left_out","path":"a\nb","message":"it is a FIFO"}"#);
        let notice = Notice::of(NoticeKind::Altered, b"\xff", "why");
        assert_eq!(notice.to_string(), r"\377: mode or time not kept: why");
        assert_eq!(json(&notice), r#"{"kind":"altered","path_base64":"/w==","message":"why"}"#);
        let notice = Notice { kind: NoticeKind::Unchecked, path: None, message: "what" };
        assert_eq!(
            (notice.to_string(), json(&notice)),
            ("what".into(), r#"{"kind":"unchecked","message":"what"}"#.into())
        );
    }
}
