//! `pinstone pointer`: names are set, read, deleted and listed.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use pinstone::{Batch, CommitId, Digest, Pointers};
use serde::Serialize;

use crate::cli::PointerCommand;
use crate::context::{Absent, Context};
use crate::exit::{CliError, Exit};
use crate::text::{self, Expectation, Pointer};

pub(crate) fn run(context: &mut Context, command: &PointerCommand) -> Result<Exit, CliError> {
    match command {
        PointerCommand::Set { name, digest, expect } => {
            set(context, &name.0, *digest, expect.as_ref())
        }
        PointerCommand::Get { name } => get(context, &name.0),
        PointerCommand::Delete { name, expect } => delete(context, &name.0, *expect),
        PointerCommand::List { prefix } => {
            list(context, prefix.as_ref().map_or(b"", |prefix| prefix.as_bytes()))
        }
    }
}

#[derive(Serialize)]
struct Committed {
    commit: u64,
}

fn set(
    context: &mut Context,
    name: &[u8],
    digest: Digest,
    expect: Option<&Expectation>,
) -> Result<Exit, CliError> {
    let store = context.open(Absent::Create)?;
    let mut batch = Batch::new().set(name, digest);
    if let Some(Expectation(current)) = expect {
        batch = batch.require(name, *current);
    }
    let commit = store.commit(batch)?;
    print(context, commit)?;
    context.release(store);
    Ok(Exit::Ok)
}

fn get(context: &mut Context, name: &[u8]) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let digest = store.pointer(name)?.ok_or_else(|| CliError::PointerAbsent(name.to_vec()))?;
    if context.json() {
        context.document(&Pointer::of(name, &digest))?;
    } else {
        context.line(digest)?;
    }
    context.flush()?;
    context.release(store);
    Ok(Exit::Ok)
}

/// Deletes what stands. No store is created for it: there is nothing to delete where there is none.
fn delete(context: &mut Context, name: &[u8], expect: Option<Digest>) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    // The lock is held: nobody else changes the pointer between here and the commit.
    if store.pointer(name)?.is_none() {
        return Err(CliError::PointerAbsent(name.to_vec()));
    }
    let mut batch = Batch::new().delete(name);
    if let Some(digest) = expect {
        batch = batch.require(name, Some(digest));
    }
    let commit = store.commit(batch)?;
    print(context, commit)?;
    context.release(store);
    Ok(Exit::Ok)
}

fn print(context: &mut Context, commit: CommitId) -> Result<(), CliError> {
    if context.json() {
        context.document(&Committed { commit: commit.0 })?;
    }
    context.flush()
}

fn list(context: &mut Context, prefix: &[u8]) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let pointers = store.pointers_with_prefix(prefix);
    if context.json() {
        write_document(context.output(), pointers)?;
    } else {
        for pointer in pointers {
            let (name, digest) = pointer?;
            context.line(format_args!("{digest}\t{}", text::escape(&name)))?;
        }
    }
    context.flush()?;
    context.release(store);
    Ok(Exit::Ok)
}

/// Writes the document as the pointers are read: there may be more of them than memory has room for. An
/// error leaves it without its end.
fn write_document(out: &mut impl Write, pointers: Pointers) -> Result<(), CliError> {
    let mut before = r#"{"pointers":["#;
    for pointer in pointers {
        let (name, digest) = pointer?;
        let pointer = serde_json::to_string(&Pointer::of(&name, &digest));
        let pointer = pointer.map_err(|error| CliError::Output(error.into()))?;
        write!(out, "{before}{pointer}").map_err(CliError::Output)?;
        before = ",";
    }
    let head = if before == "," { "" } else { before };
    writeln!(out, "{head}]}}").map_err(CliError::Output)
}
