//! What long commands say while they run: lines, and a bar where somebody looks.
//!
//! All of it goes to stderr; the bar is drawn on a terminal only, and lines are printed above it.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Told what a long command does.
pub trait Watch {
    /// Something the user should read.
    fn line(&mut self, line: &str);

    /// How far the command is: files and their bytes.
    fn progress(&mut self, file_count: u64, bytes: u64);
}

/// Watches from the terminal, if stderr is one.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    /// Begins to watch.
    pub fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} in {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch for Terminal {
    fn line(&mut self, line: &str) {
        // Nobody can be told that stderr is gone.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "pinstone: {line}")));
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
