//! What every command works with: the store's place, the streams, and the form of the answer.
//!
//! - C1: nothing but answers goes to stdout; a command that fails has printed none, or lines that
//!   are true by themselves, or a document without its end.
//! - C2: a JSON answer is one document on one line.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinstone::{Digest, Error, Store};
use serde::Serialize;

use crate::exit::{CliError, Exit, Report};
use crate::text::{self, Reference};
use crate::watch::Notice;

/// Where the store is if nobody says so.
const STORE_DEFAULT: &str = "pinstone-data";

/// The variable that says where the store is.
const STORE_VARIABLE: &str = "PINSTONE_STORE";

/// What to do where there is no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Make one, if the directory is absent or empty: writing commands.
    Create,
    /// Refuse: reading commands.
    Refuse,
}

/// What every command works with.
pub struct Context {
    store_path: PathBuf,
    json: bool,
    out: BufWriter<Stdout>,
    outcome: Exit,
}

impl Context {
    /// For the store at `store`, else where `PINSTONE_STORE` says, else in
    /// `./pinstone-data`.
    pub fn new(store: Option<PathBuf>, json: bool) -> Self {
        let store_path = store_path(store, std::env::var_os(STORE_VARIABLE));
        let out = BufWriter::new(io::stdout());
        Self { store_path, json, out, outcome: Exit::Ok }
    }

    /// The store's directory.
    pub fn store_path(&self) -> &Path {
        &self.store_path
    }

    /// Whether the answer is a JSON document.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Opens the store, with every limit at its default.
    ///
    /// # Errors
    /// Why there is no store, or none that opens, in words that name the directory.
    pub fn open(&self, absent: Absent) -> Result<Store, CliError> {
        let create = absent == Absent::Create;
        Store::builder().create(create).open(&self.store_path).map_err(|error| match error {
            Error::StoreAbsent { .. } | Error::NotAStore { .. } | Error::Io { .. } => {
                no_way(&self.store_path, error)
            }
            error => error.into(),
        })
    }

    /// What the command has come to, before it prints that: if nobody takes it, this is the exit code all the same.
    pub fn decide(&mut self, outcome: Exit) -> Exit {
        self.outcome = outcome;
        outcome
    }

    /// What was decided.
    pub fn outcome(&self) -> Exit {
        self.outcome
    }

    /// Prints a line.
    ///
    /// # Errors
    /// [`CliError::Output`] if nobody takes it.
    pub fn line(&mut self, line: impl fmt::Display) -> Result<(), CliError> {
        writeln!(self.out, "{line}").map_err(CliError::Output)
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// [`CliError::Output`] if nobody takes it.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes).map_err(CliError::Output)
    }

    /// Prints the JSON document that is the answer.
    ///
    /// # Errors
    /// [`CliError::Output`] if nobody takes it.
    pub fn document(&mut self, document: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.out, document)
            .map_err(|error| CliError::Output(error.into()))?;
        self.out.write_all(b"\n").map_err(CliError::Output)
    }

    /// Where answers are written.
    pub fn output(&mut self) -> &mut impl Write {
        &mut self.out
    }

    /// Hands over what was printed so far.
    ///
    /// # Errors
    /// [`CliError::Output`] if nobody takes it.
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::Output)
    }

    /// Closes the store after all that was asked for is done and durable. If that fails, the next
    /// open has more to do, and nothing is lost: it is told and changes no exit code.
    pub fn release(&self, store: Store) {
        if let Err(error) = store.close() {
            self.complain(&CliError::Store(error));
        }
    }

    /// Says on stderr what is no error.
    pub fn notice(&self, notice: &Notice<'_>) {
        notice.say(self.json);
    }

    /// Says on stderr what went wrong: `pinstone: message: cause`, or one line of JSON.
    pub fn complain(&self, error: &CliError) {
        complain(self.json, Some(&self.store_path), error);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("store_path", &self.store_path)
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

fn store_path(argument: Option<PathBuf>, variable: Option<OsString>) -> PathBuf {
    argument
        .or_else(|| variable.filter(|path| !path.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(STORE_DEFAULT))
}

/// Says what stands in the way of a store at `path`, if anything does; else the error itself.
fn no_way(path: &Path, error: Error) -> CliError {
    match obstacle(path) {
        Some(obstacle) => {
            let absent = matches!(error, Error::StoreAbsent { .. });
            CliError::NoWay { path: text::shown(path), obstacle, absent }
        }
        None => error.into(),
    }
}

/// What is no directory, and nothing that could become one, in or above the place `path`.
fn obstacle(path: &Path) -> Option<String> {
    for above in path.ancestors().filter(|above| !above.as_os_str().is_empty()) {
        let shown = text::shown(above);
        match (std::fs::metadata(above), std::fs::read_link(above)) {
            (Ok(there), _) if there.is_dir() || above == path => return None,
            (Ok(_), _) => return Some(format!("{shown} is no directory")),
            (Err(error), Ok(target)) if error.kind() == io::ErrorKind::NotFound => {
                let target = text::shown(&target);
                return Some(format!("{shown} is a symlink to {target}, which is not there"));
            }
            (Err(_), _) => {}
        }
    }
    None
}

/// Says on stderr what went wrong, with the store at `store` if that is known by then.
pub fn complain(json: bool, store: Option<&Path>, error: &CliError) {
    #[derive(Serialize)]
    struct Document<'a> {
        error: Report<'a>,
    }
    let mut report = error.report();
    if let Some(store) = store.filter(|_| error.names_store_file()) {
        report.message = format!("{}: {}", text::shown(store), report.message);
    }
    let line = if json {
        serde_json::to_string(&Document { error: report }).unwrap_or_else(|error| error.to_string())
    } else {
        format!("pinstone: {}", report.message)
    };
    // Nobody can be told that stderr is gone.
    let _ = writeln!(io::stderr(), "{line}");
}

/// The digest that a reference leads to.
///
/// # Errors
/// [`CliError::PointerAbsent`]; the store's.
pub fn resolve(store: &Store, reference: &Reference) -> Result<Digest, CliError> {
    match reference {
        Reference::Digest(digest) => Ok(*digest),
        Reference::Pointer(name) => {
            store.pointer(name)?.ok_or_else(|| CliError::PointerAbsent(name.clone()))
        }
    }
}

/// A bar of bytes done, drawn only where stderr is a terminal.
pub fn byte_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_the_argument_else_the_variable_else_the_default() {
        let path = |argument: Option<&str>, variable: Option<&str>| {
            store_path(argument.map(PathBuf::from), variable.map(OsString::from))
        };
        assert_eq!(path(Some("a"), Some("b")), Path::new("a"));
        assert_eq!(path(None, Some("b")), Path::new("b"));
        assert_eq!(path(None, Some("")), Path::new("pinstone-data"));
        assert_eq!(path(None, None), Path::new("pinstone-data"));
    }
}
