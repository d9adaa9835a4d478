//! `pinstone put`: files become values.
//!
//! - U1: a line is printed only for a value that is on stable storage.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pinstone::{Digest, Options};
use serde::Serialize;

use crate::cli::PutArgs;
use crate::context::{Absent, Context};
use crate::exit::{CliError, Exit};
use crate::text::{self, DigestText};

struct Stored<'a> {
    path: &'a Path,
    digest: Digest,
    len_bytes: u64,
    new: bool,
}

pub(crate) fn run(context: &mut Context, args: &PutArgs) -> Result<Exit, CliError> {
    let value_bytes_max = Options::default().value_bytes_max;
    let stdin = [Path::new("-").to_owned()];
    let paths = if args.files.is_empty() { &stdin[..] } else { &args.files };

    let store = context.open(Absent::Create)?;
    let mut stored = Vec::new();
    let mut failed = false;
    let mut refused = None;
    for path in paths {
        let value = match read(path, value_bytes_max) {
            Ok(value) => value,
            Err(error) => {
                context.complain(&error);
                failed = true;
                continue;
            }
        };
        match store.put(&value) {
            Ok(put) => {
                let len_bytes = value.len() as u64;
                stored.push(Stored { path, digest: put.digest, len_bytes, new: put.new });
            }
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let synced = store.sync();
    let outcome = context.decide(if failed { Exit::Failure } else { Exit::Ok });
    // The first error says why; that the sync fails too follows from it.
    match (refused, synced) {
        (None, Ok(())) => print(context, &stored)?,
        (Some(error), Ok(())) => {
            // Whether anybody takes what was stored or not.
            let printed = print(context, &stored).and_then(|()| context.flush());
            if let Some(unheard) = printed.err().filter(|error| !error.is_broken_pipe()) {
                context.complain(&unheard);
            }
            return Err(error.into());
        }
        (Some(error), Err(_)) | (None, Err(error)) => return Err(error.into()),
    }
    context.flush()?;
    context.release(store);
    Ok(outcome)
}

fn read(path: &Path, value_bytes_max: u64) -> Result<Vec<u8>, CliError> {
    let is_stdin = path == Path::new("-");
    let what = if is_stdin { Path::new("standard input") } else { path };
    let failed = |error| CliError::file("read", what, error);
    let too_large = || CliError::TooLarge { path: text::shown(what), max: value_bytes_max };
    let mut value = Vec::new();
    if is_stdin {
        read_to(&mut io::stdin().lock(), &mut value, value_bytes_max).map_err(failed)?;
    } else {
        let mut file = File::open(path).map_err(failed)?;
        let len_bytes = file.metadata().map_err(failed)?.len();
        if len_bytes > value_bytes_max {
            return Err(too_large());
        }
        value.reserve_exact(usize::try_from(len_bytes).map_err(|_| too_large())?);
        read_to(&mut file, &mut value, value_bytes_max).map_err(failed)?;
    }
    if value.len() as u64 > value_bytes_max { Err(too_large()) } else { Ok(value) }
}

/// Reads to the end, or to one byte more than a value may have.
fn read_to(from: &mut impl Read, value: &mut Vec<u8>, bytes_max: u64) -> io::Result<()> {
    from.take(bytes_max + 1).read_to_end(value).map(drop)
}

fn print(context: &mut Context, stored: &[Stored<'_>]) -> Result<(), CliError> {
    if context.json() {
        return context.document(&document(stored));
    }
    for Stored { path, digest, .. } in stored {
        context.line(format_args!("{digest}\t{}", text::shown(path)))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Document<'a> {
    values: Vec<Value<'a>>,
}

#[derive(Serialize)]
struct Value<'a> {
    digest: DigestText<'a>,
    #[serde(flatten)]
    path: text::Path<'a>,
    bytes: u64,
    new: bool,
}

fn document<'a>(stored: &'a [Stored<'a>]) -> Document<'a> {
    let value = |stored: &'a Stored<'a>| Value {
        digest: DigestText(&stored.digest),
        path: text::Path::of(stored.path.as_os_str().as_bytes()),
        bytes: stored.len_bytes,
        new: stored.new,
    };
    Document { values: stored.iter().map(value).collect() }
}
