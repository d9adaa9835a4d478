//! Scripts that make logs, damage them, and have them judged.
//!
//! A script's lines run in order. `durable LOG` is a sync that succeeded: frames composed from then
//! on testify that the log is durable to where it ended then. `sealed LOG ORDINAL`: the root names
//! that segment as sealed, so it is not scanned. `forget LOG ORDINAL`: the root does not name that
//! segment any more, its file is there; `remove LOG ORDINAL`: nor is that.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use expect_test::Expect;
use pinstone_disk::{Epoch, FormatError, LogKind, Ordinal};
use pinstone_wal::{
    FrameBuilder, FramePlace, LastSealed, LogPosition, RecordKind, Scan, SegmentHeader, Synced,
    SyncedUpto, Verdict, WalError, judge,
};

use crate::common::{begun, header, store};

/// Logs in the making, and what the root says of them.
#[derive(Default)]
pub(crate) struct World {
    /// Bytes, and where each frame begins.
    segments: BTreeMap<(LogKind, u32), (Vec<u8>, Vec<usize>)>,
    synced: SyncedUpto,
    /// Files that the root does not name.
    forgotten: Vec<(SegmentHeader, Vec<u8>)>,
    sealed: LastSealed,
    closed: Synced,
}

fn log(word: &str) -> LogKind {
    LogKind::ALL.into_iter().find(|log| log.word() == word).expect("a log's name")
}

impl World {
    pub(crate) fn segment(&mut self, log: LogKind, ordinal: u32) -> &mut (Vec<u8>, Vec<usize>) {
        self.segments
            .entry((log, ordinal))
            .or_insert_with(|| (begun(header(log, ordinal)), Vec::new()))
    }

    fn end(&self, log: LogKind) -> LogPosition {
        let last = self.segments.iter().rev().find(|((of, _), _)| *of == log);
        last.map_or(LogPosition::START, |((_, ordinal), (bytes, _))| {
            LogPosition::new(Ordinal(*ordinal), u32::try_from(bytes.len()).unwrap())
        })
    }

    fn frame(&mut self, log: LogKind, ordinal: u32, record: Option<&str>, last: bool) {
        let synced = self.synced.now();
        let (bytes, frames) = self.segment(log, ordinal);
        let mut frame = FrameBuilder::with_capacity(0);
        if let Some(record) = record {
            frame.push(store(), RecordKind::Value, record.as_bytes());
        }
        let sequence = u32::try_from(frames.len()).unwrap();
        let place = FramePlace { epoch: Epoch::FIRST, sequence, synced, last };
        let at = bytes.len();
        frames.push(at);
        let (_, encoded) = frame.finish(header(log, ordinal).seed(), at as u64, &place);
        bytes.extend_from_slice(&encoded);
    }

    pub(crate) fn play(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["durable", word] => self.synced.raise(log(word), self.end(log(word))),
            ["closed", word] => match log(word) {
                LogKind::Blob => self.closed.blob = self.end(LogKind::Blob),
                LogKind::Pointer => self.closed.pointer = self.end(LogKind::Pointer),
                LogKind::Root => self.closed.root = self.end(LogKind::Root),
            },
            ["sealed", word, ordinal] => {
                let ordinal = ordinal.parse().unwrap();
                self.segments.remove(&(log(word), ordinal)).expect("it was written");
                match log(word) {
                    LogKind::Blob => self.sealed.blob = Some(Ordinal(ordinal)),
                    LogKind::Pointer => self.sealed.pointer = Some(Ordinal(ordinal)),
                    LogKind::Root => panic!("{line}"),
                }
            }
            [verb @ ("forget" | "remove"), word, ordinal] => {
                let ordinal = ordinal.parse().unwrap();
                let removed = self.segments.remove(&(log(word), ordinal));
                let (bytes, _) = removed.expect("it was written");
                if verb == "forget" {
                    self.forgotten.push((header(log(word), ordinal), bytes));
                }
            }
            [word, ordinal, ref rest @ ..] => {
                self.segment_line(log(word), ordinal.parse().unwrap(), rest);
            }
            _ => panic!("{line}"),
        }
    }

    fn segment_line(&mut self, log: LogKind, ordinal: u32, rest: &[&str]) {
        match *rest {
            ["begin"] => drop(self.segment(log, ordinal).0.len()),
            ["put", text] => self.frame(log, ordinal, Some(text), false),
            ["witness"] => self.frame(log, ordinal, None, false),
            ["last"] => self.frame(log, ordinal, None, true),
            ["reserve", count] => {
                let count: usize = count.parse().unwrap();
                let bytes = &mut self.segment(log, ordinal).0;
                bytes.resize(bytes.len() + count, 0);
            }
            ["garbage", text] => {
                self.segment(log, ordinal).0.extend_from_slice(text.as_bytes());
            }
            // Damage to the n-th frame: a bit of its last byte, zeros for it, or the file ends in it.
            [damage, frame] => {
                let frame: usize = frame.parse().unwrap();
                let (bytes, frames) = self.segment(log, ordinal);
                let start = frames[frame];
                let end = frames.get(frame + 1).copied().unwrap_or(bytes.len());
                match damage {
                    "flip" => bytes[start + 50.min(end - start - 1)] ^= 1,
                    "zero" => bytes[start..end].fill(0),
                    "cut" => bytes.truncate(start + 20),
                    _ => panic!("{damage}"),
                }
            }
            _ => panic!("{rest:?}"),
        }
    }

    pub(crate) fn judge(&self) -> String {
        let scans: Vec<Scan> = self
            .segments
            .iter()
            .map(|((log, ordinal), (bytes, _))| {
                Scan::of(header(*log, *ordinal), bytes.clone().into())
            })
            .collect();
        let of = |log| scans.iter().filter(|scan| scan.header.log == log).collect::<Vec<_>>();
        let [blob, pointer, root] = LogKind::ALL.map(of);
        let others: Vec<Scan> = self
            .forgotten
            .iter()
            .map(|(header, bytes)| Scan::of(*header, bytes.clone().into()))
            .collect();
        let verdict = Verdict {
            blob: &blob,
            pointer: &pointer,
            root: &root,
            others: &others.iter().collect::<Vec<_>>(),
            sealed: self.sealed,
            closed: self.closed,
        };
        let mut out = String::new();
        for log in LogKind::ALL {
            let line = match judge(&verdict, log) {
                Ok(None) => continue,
                Ok(Some(end)) => {
                    let complete = if end.complete { ", complete" } else { "" };
                    let cut = match end.cut_bytes {
                        0 => String::new(),
                        count => format!(", {count} bytes cut"),
                    };
                    format!("{}: whole to {}{cut}{complete}", log.word(), end.position)
                }
                Err(error @ WalError::Format(FormatError::Corrupt { .. })) => {
                    format!("{}: {error}", log.word())
                }
                Err(error) => panic!("{error}"),
            };
            writeln!(out, "{line}").unwrap();
        }
        out
    }
}

/// Plays the script; what is then found of each log is as expected.
pub(crate) fn check(script: &str, expected: &Expect) {
    let mut world = World::default();
    script.lines().for_each(|line| world.play(line));
    expected.assert_eq(&world.judge());
}
