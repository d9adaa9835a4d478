//! `pinstone import` and `pinstone export`, as commands: what they open, print and exit with. What they
//! do stands in `import.rs` and `export.rs`.
//!
//! What they did goes to stderr in words; on stdout `import` prints the root's digest and name,
//! `export` nothing. With `--json` stdout has one document with all of it.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use crate::cli::{ExportArgs, ImportArgs};
use crate::context::{Absent, Context, resolve};
use crate::exit::{CliError, Exit};
use crate::export::{ExportOptions, ExportSummary};
use crate::import::{ImportOptions, ImportSummary};
use crate::text::{DigestText, Name, escape};
use crate::watch::{Notice, NoticeKind, Terminal, Watch};

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
    let (name, store_path) = (&args.name.0, context.store_path());
    let mut terminal = Terminal::new(context.json());
    let done = crate::import::import(&store, store_path, &args.dir, name, &options, &mut terminal);
    drop(terminal);
    let (digest, summary) = done?;
    let outcome = if summary.left_out == 0 { Exit::Ok } else { Exit::Incomplete };
    context.decide(outcome);
    if context.json() {
        let (digest, name) = (DigestText(&digest), Name::of(name));
        context.document(&Imported { digest, name, summary: &summary })?;
        context.flush()?;
    } else {
        context.line(format_args!("{digest}\t{}", escape(name)))?;
        context.flush()?;
        say_imported(&summary);
    }
    context.release(store);
    Ok(outcome)
}

fn say_imported(summary: &ImportSummary) {
    let mut text = entries(summary.files, summary.directories, summary.symlinks);
    add(&mut text, summary.left_out, "left out");
    say(&format!(
        "{text}; {} new, {} known; {} in, {} stored; {:.2} s",
        counted(summary.values_new, "value", "values"),
        HumanCount(summary.values_known),
        HumanBytes(summary.bytes_in),
        HumanBytes(summary.bytes_stored),
        summary.seconds
    ));
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
    let options = ExportOptions { drop_setuid: args.drop_setuid };
    let mut terminal = Terminal::new(context.json());
    let store_path = context.store_path();
    let done =
        crate::export::export(&store, store_path, &digest, &args.dir, &options, &mut terminal);
    let summary = done?;
    if summary.setuid > 0 {
        let what = counted(
            summary.setuid,
            "file is setuid or setgid and runs",
            "files are setuid or setgid and run",
        );
        let what = format!("{what} as you (--drop-setuid leaves these bits unset)");
        let dir = args.dir.as_os_str().as_bytes();
        terminal.notice(&Notice::of(NoticeKind::Setuid, dir, &what));
    }
    drop(terminal);
    let outcome = match summary {
        ExportSummary { damaged: 1.., .. } => Exit::Failure,
        ExportSummary { left_out: 1.., .. } | ExportSummary { altered: 1.., .. } => {
            Exit::Incomplete
        }
        _ => Exit::Ok,
    };
    context.decide(outcome);
    if context.json() {
        context.document(&Exported { digest: DigestText(&digest), summary: &summary })?;
        context.flush()?;
    } else {
        say_exported(&summary);
    }
    context.release(store);
    Ok(outcome)
}

fn say_exported(summary: &ExportSummary) {
    let mut text = entries(summary.files, summary.directories, summary.symlinks);
    add(&mut text, summary.damaged, "missing or damaged");
    add(&mut text, summary.left_out, "left out");
    add(&mut text, summary.altered, "without their mode or time");
    say(&format!("{text}; {} out; {:.2} s", HumanBytes(summary.bytes_out), summary.seconds));
}

fn say(text: &str) {
    // Nobody can be told that stderr is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

fn entries(files: u64, directories: u64, symlinks: u64) -> String {
    format!(
        "{}, {}, {}",
        counted(files, "file", "files"),
        counted(directories, "directory", "directories"),
        counted(symlinks, "symlink", "symlinks")
    )
}

fn add(text: &mut String, count: u64, what: &str) {
    if count > 0 {
        text.push_str(&format!(", {} {what}", HumanCount(count)));
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", HumanCount(count), if count == 1 { one } else { many })
}
