//! A process that is driven by lines and killed: what was written to it, what it replied.
//!
//! - C1: its replies are read all along by a thread, so that neither side waits for the other.
//! - C2: what it replied before it died counts, read or not: after the kill the pipe is emptied. A
//!   line without its newline was never a reply.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

const SIGKILL: i32 = 9;

/// A running process.
pub(crate) struct Child {
    process: Process,
    input: Option<ChildStdin>,
    replies: Receiver<String>,
}

impl Child {
    pub(crate) fn start(mut command: Command) -> Self {
        command
            .env_remove("PINSTONE_STORE")
            .env_remove("PINSTONE_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (send, replies) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|read| read > 0) {
                if !line.ends_with('\n') || send.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        Self { process, input, replies }
    }

    /// `pinstone batch` on the store at `path`.
    pub(crate) fn batch(path: &Path, bug: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinstone"));
        command.arg("--store").arg(path).arg("batch");
        match bug {
            Some(bug) => command.env("PINSTONE_PLANTED_BUG", bug),
            None => command.env_remove("PINSTONE_PLANTED_BUG"),
        };
        Self::start(command)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Writes a line; whether there was still somebody to take it.
    pub(crate) fn send(&mut self, line: &str) -> bool {
        let input = self.input.as_mut().expect("its input was not ended");
        input.write_all(format!("{line}\n").as_bytes()).is_ok()
    }

    /// The next reply; `None` if it ended without one.
    pub(crate) fn reply(&mut self) -> Option<String> {
        self.replies.recv().ok()
    }

    /// Waits for the next reply; how many turns of the loop that took, each of which gives way to
    /// others.
    pub(crate) fn await_reply(&mut self) -> Option<(String, u64)> {
        let mut turns = 0;
        loop {
            match self.replies.try_recv() {
                Ok(line) => return Some((line, turns)),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => std::thread::yield_now(),
            }
            turns += 1;
        }
    }

    /// Kills it, and returns the replies that came out before it died. It is an error if it was
    /// no longer there to be killed, or complained.
    pub(crate) fn kill(mut self) -> Result<Vec<String>, String> {
        self.process.kill().unwrap();
        let replies = self.replies.iter().collect();
        let status = self.process.wait().unwrap();
        let complaints = self.complaints();
        if status.signal() != Some(SIGKILL) {
            return Err(format!("the process ended by itself, with {status}: {complaints}"));
        }
        if !complaints.is_empty() {
            return Err(format!("the process complained: {complaints}"));
        }
        Ok(replies)
    }

    /// Ends its input, and lets it end in good order.
    pub(crate) fn end(mut self) -> Result<(), String> {
        self.input = None;
        let rest: Vec<String> = self.replies.iter().collect();
        let status = self.process.wait().unwrap();
        let complaints = self.complaints();
        if status.success() && rest.is_empty() && complaints.is_empty() {
            return Ok(());
        }
        Err(format!("the process ended with {status}, {rest:?}: {complaints}"))
    }

    fn complaints(&mut self) -> String {
        let mut text = Vec::new();
        self.process.stderr.take().unwrap().read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Child {
    /// A violation may leave it running.
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Runs `pinstone check --read-data`, which must say `ok` and nothing else.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinstone"));
    command.arg("--store").arg(path).args(["check", "--read-data"]).stdin(Stdio::null());
    command.env_remove("PINSTONE_STORE").env_remove("PINSTONE_LOG");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.lines().last() == Some("ok") {
        return Ok(());
    }
    Err(format!("check ended with {}: {text}{}", output.status, output.stderr.escape_ascii()))
}

/// Does nothing for some turns.
pub(crate) fn spin(turns: u64) {
    for _ in 0..turns {
        std::hint::spin_loop();
    }
}
