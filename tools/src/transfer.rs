//! `pinstone import` and `pinstone export`, as commands: what they open, print and exit with. What they
//! do stands in `import.rs` and `export.rs`.

use serde::Serialize;

use crate::cli::{ExportArgs, ImportArgs};
use crate::context::{Absent, Context, resolve};
use crate::exit::{CliError, Exit};
use crate::export::{ExportError, ExportOptions, ExportSummary};
use crate::import::{ImportError, ImportOptions, ImportSummary};
use crate::text::{self, DigestText, Name};
use crate::watch::Terminal;

#[derive(Serialize)]
struct Imported<'a> {
    digest: DigestText<'a>,
    #[serde(flatten)]
    name: Name<'a>,
    #[serde(flatten)]
    summary: &'a ImportSummary,
}

pub(crate) fn import(context: &mut Context, args: &ImportArgs) -> Result<Exit, CliError> {
    // A directory mistyped is told before a store is created.
    std::fs::read_dir(&args.dir).map_err(|error| CliError::file("read", &args.dir, error))?;
    let store = context.open(Absent::Create)?;
    let options = ImportOptions { gitignore: args.gitignore, ..ImportOptions::default() };
    let name = &args.name.0;
    let mut terminal = Terminal::new();
    let done = crate::import::import(
        &store,
        context.store_path(),
        &args.dir,
        name,
        &options,
        &mut terminal,
    );
    drop(terminal);
    let (digest, summary) = done.map_err(|error| match error {
        ImportError::Store(error) => CliError::Store(error),
        error => CliError::Other(error.into()),
    })?;
    if context.json() {
        let (digest, name) = (DigestText(&digest), Name::of(name));
        context.document(&Imported { digest, name, summary: &summary })?;
    } else {
        context.line(format_args!("{digest}\t{}", text::escape(name)))?;
        context.line(format_args!(
            "files {}, directories {}, symlinks {}, left out {}",
            summary.files, summary.directories, summary.symlinks, summary.left_out
        ))?;
        context.line(format_args!(
            "values new {}, known {}",
            summary.values_new, summary.values_known
        ))?;
        context
            .line(format_args!("bytes in {}, stored {}", summary.bytes_in, summary.bytes_stored))?;
        context.line(format_args!("seconds {:.2}", summary.seconds))?;
    }
    context.flush()?;
    context.release(store);
    Ok(if summary.left_out == 0 { Exit::Ok } else { Exit::Incomplete })
}

#[derive(Serialize)]
struct Exported<'a> {
    digest: DigestText<'a>,
    #[serde(flatten)]
    summary: &'a ExportSummary,
}

pub(crate) fn export(context: &mut Context, args: &ExportArgs) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let digest = resolve(&store, &args.reference)?;
    let mut terminal = Terminal::new();
    let done =
        crate::export::export(&store, &digest, &args.dir, &ExportOptions::default(), &mut terminal);
    drop(terminal);
    let summary = done.map_err(|error| match error {
        ExportError::ValueAbsent { digest } => CliError::ValueAbsent(digest),
        ExportError::Store(error) => CliError::Store(error),
        error => CliError::Other(error.into()),
    })?;
    if context.json() {
        context.document(&Exported { digest: DigestText(&digest), summary: &summary })?;
    } else {
        context.line(format_args!(
            "files {}, directories {}, symlinks {}, damaged {}, left out {}, altered {}",
            summary.files,
            summary.directories,
            summary.symlinks,
            summary.damaged,
            summary.left_out,
            summary.altered
        ))?;
        context.line(format_args!("bytes out {}", summary.bytes_out))?;
        context.line(format_args!("seconds {:.2}", summary.seconds))?;
    }
    context.flush()?;
    context.release(store);
    Ok(match summary {
        ExportSummary { damaged: 1.., .. } => Exit::Failure,
        ExportSummary { left_out: 1.., .. } | ExportSummary { altered: 1.., .. } => {
            Exit::Incomplete
        }
        _ => Exit::Ok,
    })
}
