//! The command `sstdump`: what each byte of a store's file means. It reads files and nothing else:
//! it takes no lock and needs no store.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a command line reads files")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pinstone_tools::exit::{CliError, Exit, answer, chain, outlive_file_size_limits};
use pinstone_tools::text::shown;

/// Shows what each byte of a file of a Pinstone store means.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every field of each file, one a line: offset, bytes, name, value. Exits with 1 if a file
    /// cannot be read or holds anything invalid.
    Raw {
        /// Files of a store: segments, tables, CURRENT.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| complain(&error)).into()
}

fn run() -> Result<Exit, CliError> {
    outlive_file_size_limits()?;
    let Command::Raw { files } = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(unparsed) => return answer(&unparsed, false),
    };
    let mut exit = Exit::Ok;
    for file in &files {
        match raw(file, files.len() > 1) {
            Ok(true) => {}
            Ok(false) => exit = Exit::Failure,
            // Nothing more can be printed.
            Err(error @ CliError::Output(_)) => return Err(error),
            Err(error) => exit = complain(&error),
        }
    }
    Ok(exit)
}

fn complain(error: &CliError) -> Exit {
    if error.exit() != Exit::Ok {
        eprintln!("sstdump: {}", chain(error));
    }
    error.exit()
}

/// Prints the dump of one file; false if something in it is invalid.
fn raw(path: &Path, titled: bool) -> Result<bool, CliError> {
    let bytes = std::fs::read(path).map_err(|error| CliError::file("read", path, error))?;
    let name = path.file_name().and_then(|name| name.to_str()?.parse().ok());
    let dump = pinstone::dump::dump_file(name.as_ref(), &bytes);
    let title = if titled { format!("{}:\n", shown(path)) } else { String::new() };
    let mut out = io::stdout().lock();
    out.write_all(title.as_bytes())
        .and_then(|()| out.write_all(dump.render(&bytes).as_bytes()))
        .and_then(|()| out.flush())
        .map_err(CliError::Output)?;
    Ok(dump.rows().iter().all(|row| row.field != "invalid"))
}
