//! How a command ends: its exit code, and what it says when it fails.
//!
//! - X1: each error becomes an exit code in [`CliError::exit`], and a kind in [`CliError::report`] (an
//!   engine's error in [`kind`]), and nowhere else.
//! - X2: a closed pipe on stdout is no failure: whoever reads has what it wanted.
//! - X3: a write beyond the limit on file sizes fails as any other does, and ends nothing by itself.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use pinstone::{Digest, Error};
use pinstone_disk::Operation;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::export::ExportError;
use crate::import::ImportError;
use crate::text;

/// How a command ended. The numbers are what scripts see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked.
    Ok = 0,
    /// It failed, or found damage, or there is no space, or the store takes no more writes, or the
    /// directory is no store.
    Failure = 1,
    /// It was not asked in a way that it understands.
    Usage = 2,
    /// The value, the pointer or the store is not there.
    NotFound = 3,
    /// A pointer is not what was expected.
    PreconditionFailed = 4,
    /// Another process holds the store.
    Locked = 5,
    /// The store has a format that this build does not know.
    Unsupported = 6,
    /// It did its work, but for what it reported.
    Incomplete = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] Error),
    /// It was not asked in a way that it understands.
    #[error("{0}")]
    Usage(String),
    /// The store holds no such value.
    #[error("the store holds no value {0}")]
    ValueAbsent(Digest),
    /// There is no such pointer.
    #[error("there is no pointer {}", text::escape(.0))]
    PointerAbsent(Vec<u8>),
    /// A file could not be read or written.
    #[error("cannot {what} {path}")]
    File {
        /// What was to be done.
        what: &'static str,
        /// With which file, for reading.
        path: String,
        /// Why it could not be done.
        #[source]
        source: io::Error,
    },
    /// A file is longer than a value may be.
    #[error("{path} has more than {max} bytes, the most of a value")]
    TooLarge {
        /// The file, for reading.
        path: String,
        /// The bound.
        max: u64,
    },
    /// A file was to be written where the store's files lie.
    #[error("cannot write {path}: it lies in the store's directory")]
    InStore {
        /// The file, for reading.
        path: String,
    },
    /// What was to be printed could not be.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// There is no store where it was looked for, and there can be none.
    #[error("no store at {path}: {obstacle}")]
    NoWay {
        /// Where it was looked for, for reading.
        path: String,
        /// What stands in the way.
        obstacle: String,
        /// It was only looked for, not to be created.
        absent: bool,
    },
    /// A directory was not imported.
    #[error(transparent)]
    Import(ImportError),
    /// A directory was not exported.
    #[error(transparent)]
    Export(ExportError),
    /// Something else, with its own cause.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl From<ImportError> for CliError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => Self::Store(error),
            error => Self::Import(error),
        }
    }
}

impl From<ExportError> for CliError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Store(error) => Self::Store(error),
            ExportError::ValueAbsent { digest } => Self::ValueAbsent(digest),
            error => Self::Export(error),
        }
    }
}

impl CliError {
    /// An error of doing `what` with the file at `path`.
    pub fn file(what: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::File { what, path: text::shown(path), source }
    }

    /// Nobody takes what is printed.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NoWay { absent, .. } if *absent => Exit::NotFound,
            Self::NoWay { .. } => Exit::Failure,
            Self::ValueAbsent(_) | Self::PointerAbsent(_) => Exit::NotFound,
            Self::File { .. } | Self::TooLarge { .. } | Self::InStore { .. } => Exit::Failure,
            Self::Import(_) | Self::Export(_) | Self::Other(_) => Exit::Failure,
            Self::Output(_) if self.is_broken_pipe() => Exit::Ok,
            Self::Output(_) => Exit::Failure,
            Self::Store(error) => match error {
                Error::StoreAbsent { .. } | Error::ValueMissing { .. } => Exit::NotFound,
                Error::PreconditionFailed { .. } => Exit::PreconditionFailed,
                Error::Locked { .. } => Exit::Locked,
                Error::Unsupported { .. } => Exit::Unsupported,
                Error::NameLength { .. } => Exit::Usage,
                _ => Exit::Failure,
            },
        }
    }

    /// The error as a JSON object: see [`Report`].
    pub fn report(&self) -> Report<'_> {
        let (kind, store) = match self {
            Self::Store(error) => (kind(error), Some(error)),
            Self::Usage(_) => ("usage", None),
            Self::ValueAbsent(_) | Self::PointerAbsent(_) => ("not_found", None),
            Self::TooLarge { .. } => ("limit", None),
            Self::InStore { .. } => ("bad_request", None),
            Self::NoWay { absent: true, .. } => ("store_absent", None),
            Self::NoWay { absent: false, .. } => ("not_a_store", None),
            Self::File { source, .. } | Self::Output(source) => (kind_of_io(source), None),
            Self::Import(error) => (kind_of_import(error), None),
            Self::Export(error) => (kind_of_export(error), None),
            Self::Other(_) => ("io", None),
        };
        Report { kind, message: self.message(), store }
    }

    /// What it and its causes say.
    pub fn message(&self) -> String {
        match self {
            Self::Store(error) => chain(error),
            error => chain(error),
        }
    }

    /// Whether it tells of a file of the store by its name alone.
    pub fn names_store_file(&self) -> bool {
        let Self::Store(error) = self else { return false };
        match error {
            Error::Io { source } | Error::NoSpace { source } => !matches!(
                source.operation,
                Operation::CreateDirectory
                    | Operation::OpenDirectory
                    | Operation::List
                    | Operation::SyncDirectory
            ),
            Error::Corrupt { .. } | Error::Unsupported { .. } => true,
            Error::Poisoned { .. } | Error::Indeterminate { .. } => true,
            _ => false,
        }
    }
}

/// Makes X3 true of this process: the signal that comes with such a write ends a process that does
/// not take it. To be called before anything is written.
///
/// # Errors
/// The machine's.
pub fn outlive_file_size_limits() -> Result<(), CliError> {
    // Nobody reads the flag: the write itself tells what happened.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())
        .map(drop)
        .map_err(|error| CliError::Other(error.into()))
}

/// Prints what the command line is answered with if it is no command: help and the version on
/// stdout; errors of usage, which are left to the caller if JSON is asked for, on stderr.
///
/// # Errors
/// [`CliError::Usage`] if JSON is asked for; [`CliError::Output`] if nobody takes it.
pub fn answer(unparsed: &clap::Error, json: bool) -> Result<Exit, CliError> {
    if json && unparsed.use_stderr() {
        return Err(CliError::Usage(usage_message(&unparsed.to_string())));
    }
    let printed = unparsed.print().and_then(|()| io::stdout().flush());
    if unparsed.use_stderr() {
        // If stderr is gone, nobody can be told.
        return Ok(Exit::Usage);
    }
    printed.map(|()| Exit::Ok).map_err(CliError::Output)
}

/// What is wrong, in one line, without advice.
fn usage_message(text: &str) -> String {
    let Some(text) = text.strip_prefix("error: ") else {
        // It is the help of a command whose subcommand is missing.
        return "no command is given".to_owned();
    };
    let what = text.split("\n\n").next().unwrap_or(text);
    what.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the error and its causes say, from the outermost inwards.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The word by which programs know an engine's error.
pub fn kind(error: &Error) -> &'static str {
    match error {
        Error::StoreAbsent { .. } => "store_absent",
        Error::NotAStore { .. } => "not_a_store",
        Error::Unsupported { .. } => "unsupported",
        Error::Locked { .. } => "locked",
        Error::Corrupt { .. } => "corrupt",
        Error::NoSpace { .. } => "no_space",
        Error::Poisoned { .. } => "poisoned",
        Error::Indeterminate { .. } => "indeterminate",
        Error::ValueMissing { .. } => "value_missing",
        Error::PreconditionFailed { .. } => "precondition_failed",
        Error::NameLength { .. } | Error::BadBatch { .. } => "bad_request",
        Error::Limit { .. } | Error::UnderLimit { .. } => "limit",
        _ => "io",
    }
}

/// The word for what the machine answered about a file of the user's.
fn kind_of_io(error: &io::Error) -> &'static str {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "not_found",
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => "bad_request",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => "no_space",
        _ => "io",
    }
}

fn kind_of_import(error: &ImportError) -> &'static str {
    match error {
        ImportError::Root { source, .. } => kind_of_io(source),
        ImportError::StoreItself { .. } => "bad_request",
        _ => "io",
    }
}

fn kind_of_export(error: &ExportError) -> &'static str {
    match error {
        ExportError::NotATree { .. }
        | ExportError::NotEmpty { .. }
        | ExportError::InStore { .. } => "bad_request",
        ExportError::Io { source, .. } => kind_of_io(source),
        _ => "io",
    }
}

/// An error as programs read it: `kind`, `message`, and what else its kind tells: `name` (or
/// `name_base64`) and `current` of `precondition_failed`, `file` and `offset` of `corrupt`,
/// `digest` of `value_missing`.
#[derive(Debug)]
pub struct Report<'a> {
    kind: &'static str,
    /// What is said of it.
    pub message: String,
    store: Option<&'a Error>,
}

impl Report<'static> {
    /// An error that is not the store's.
    pub fn new(kind: &'static str, message: String) -> Self {
        Self { kind, message, store: None }
    }
}

impl<'a> Report<'a> {
    /// An error of the store's.
    pub fn of(error: &'a Error) -> Self {
        Self { kind: kind(error), message: chain(error), store: Some(error) }
    }
}

impl Serialize for Report<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.kind)?;
        map.serialize_entry("message", &self.message)?;
        match self.store {
            Some(Error::PreconditionFailed { name, current, .. }) => {
                match std::str::from_utf8(name) {
                    Ok(name) => map.serialize_entry("name", name)?,
                    Err(_) => map.serialize_entry("name_base64", &text::Base64(name))?,
                }
                map.serialize_entry("current", &current.as_ref().map(text::DigestText))?;
            }
            Some(Error::Corrupt { file, offset_bytes, .. }) => {
                map.serialize_entry("file", file)?;
                map.serialize_entry("offset", offset_bytes)?;
            }
            Some(Error::ValueMissing { digest }) => {
                map.serialize_entry("digest", &text::DigestText(digest))?;
            }
            _ => {}
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use pinstone_disk::DiskError;

    use super::*;

    fn disk_error() -> DiskError {
        DiskError::new(Operation::Write, "blob-00000001-00000001.log", io::Error::other("broken"))
    }

    #[test]
    fn each_engine_error_has_its_exit_code_and_kind() {
        let digest = Digest::of(b"value");
        let path = PathBuf::from("store");
        let table = [
            (Error::StoreAbsent { path: path.clone() }, 3, "store_absent"),
            (Error::NotAStore { path: path.clone(), reason: "x".into() }, 1, "not_a_store"),
            (Error::Unsupported { file: "CURRENT".into(), what: "x".into() }, 6, "unsupported"),
            (Error::Locked { path, holder: Some(7) }, 5, "locked"),
            (
                Error::Corrupt { file: "CURRENT".into(), offset_bytes: 3, what: "x".into() },
                1,
                "corrupt",
            ),
            (Error::NoSpace { source: disk_error() }, 1, "no_space"),
            (Error::Poisoned { cause: "x".into() }, 1, "poisoned"),
            (Error::Indeterminate { cause: "x".into() }, 1, "indeterminate"),
            (Error::ValueMissing { digest }, 3, "value_missing"),
            (
                Error::PreconditionFailed {
                    name: "head".into(),
                    expected: None,
                    current: Some(digest),
                },
                4,
                "precondition_failed",
            ),
            (Error::NameLength { len_bytes: 0 }, 2, "bad_request"),
            (Error::BadBatch { reason: "x".into() }, 1, "bad_request"),
            (Error::Limit { what: "x", max: 1, found: 2 }, 1, "limit"),
            (Error::UnderLimit { what: "x", min: 2, found: 1 }, 1, "limit"),
            (Error::Io { source: disk_error() }, 1, "io"),
        ];
        for (error, exit, name) in table {
            assert_eq!(kind(&error), name);
            assert_eq!(CliError::Store(error).exit() as u8, exit, "{name}");
        }
    }

    #[test]
    fn a_message_is_the_chain_of_causes_each_said_once() {
        let error = CliError::Store(Error::NoSpace { source: disk_error() });
        assert_eq!(error.message(), "no space left: writing blob-00000001-00000001.log: broken");
        let error = CliError::Store(Error::Io { source: disk_error() });
        assert_eq!(error.message(), "writing blob-00000001-00000001.log: broken");
    }

    #[test]
    fn an_error_of_usage_is_one_line() {
        let text = "error: these were not provided:\n  <REF>\n\nUsage: pinstone get <REF>\n";
        assert_eq!(usage_message(text), "these were not provided: <REF>");
        assert_eq!(usage_message("Usage: pinstone"), "no command is given");
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(CliError::Output(broken).exit(), Exit::Ok);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(CliError::Output(full).exit(), Exit::Failure);
    }

    #[test]
    fn a_report_tells_what_its_kind_promises() {
        let json = |error: &Error| serde_json::to_string(&Report::of(error)).unwrap();
        let failed = |name: &'static [u8], current| Error::PreconditionFailed {
            name: name.into(),
            expected: None,
            current,
        };
        let digest = Digest::of(b"");
        let with = json(&failed(b"head", Some(digest)));
        assert!(with.contains(r#""kind":"precondition_failed""#), "{with}");
        assert!(with.ends_with(&format!(r#","name":"head","current":"{digest}"}}"#)), "{with}");
        let without = json(&failed(b"\xff", None));
        assert!(
            without.contains(r#""message":"pointer \\377 is absent, not absent""#),
            "{without}"
        );
        assert!(without.ends_with(r#","name_base64":"/w==","current":null}"#), "{without}");
        let corrupt = Error::Corrupt { file: "CURRENT".into(), offset_bytes: 60, what: "x".into() };
        assert!(json(&corrupt).ends_with(r#","file":"CURRENT","offset":60}"#));
    }
}
