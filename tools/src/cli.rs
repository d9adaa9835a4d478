//! What may be said on the command line, and which file answers it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use pinstone::Digest;
use tracing_subscriber::EnvFilter;

use crate::context::{Context, complain};
use crate::exit::{CliError, Exit, answer, outlive_file_size_limits};
use crate::text::{Expectation, NameArg, Reference};
use crate::{batch, check, compact, get, has, pointer, put, stats, transfer};

/// The variable that says what is traced.
const LOG_VARIABLE: &str = "PINSTONE_LOG";

const AFTER_HELP: &str = "\
The store is --store, else PINSTONE_STORE, else ./pinstone-data. put, pointer set, import and batch \
create it where the directory is absent or empty.

A REF is @NAME, for what the pointer NAME names, or a digest: 64 hex digits in any case.

Exit codes:
  0  done
  1  failed, damage found, no space, or the directory is no store
  2  not understood: usage, a malformed digest
  3  not found: the value, the pointer, or for a reading command the store
  4  a pointer is not what was expected
  5  locked by another process
  6  the store's format is not supported
  7  done, but incomplete: something was reported and left out";

const AFTER_LONG_HELP: &str = "\
With --json the answer is one JSON document on one line of stdout (each command's --help says which), \
and an error is one line {\"error\":{\"kind\":KIND,\"message\":TEXT,...}} on stderr, KIND being usage, \
bad_request (asked for what cannot be: a file as a directory), not_found (a value, pointer or file), \
store_absent, not_a_store, unsupported, locked, corrupt, no_space, poisoned, indeterminate, value_missing, \
precondition_failed, limit or io. What a command leaves out, and what else it tells while it goes on, is a \
line {\"notice\":{\"kind\":KIND,\"path\":PATH,\"message\":TEXT}} on stderr for each, KIND being left_out, \
store_left_out, rules_ignored, damaged, altered, setuid or unchecked. Names and paths that are not UTF-8 \
stand as \"name_base64\" and \"path_base64\" instead. Documents may gain fields, and KIND words.

PINSTONE_LOG says what is traced on stderr: error, warn, info, debug, trace, or directives such as \
pinstone=debug. Unset, nothing is. PINSTONE_IO says how reads, writes and syncs that can go at once are carried \
out: uring, positioned, or auto, which is uring where the kernel allows it. PINSTONE_MMAP=0 has no file mapped into memory.";

/// An immutable value store with mutable pointers: the command line of Pinstone.
#[derive(Debug, Parser)]
#[command(name = "pinstone", version, after_help = AFTER_HELP)]
#[command(after_long_help = format!("{AFTER_HELP}\n\n{AFTER_LONG_HELP}"))]
struct Cli {
    /// The store's directory
    #[arg(long, value_name = "DIR", global = true)]
    store: Option<PathBuf>,
    /// Answer with one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Put(PutArgs),
    Get(GetArgs),
    Has(HasArgs),
    #[command(subcommand)]
    Pointer(PointerCommand),
    Import(ImportArgs),
    Export(ExportArgs),
    Check(CheckArgs),
    Compact(CompactArgs),
    Stats(StatsArgs),
    Batch(BatchArgs),
}

/// Store files as values and print their digests
///
/// Prints a line `DIGEST<tab>PATH` for each file, in the order given, once all of them are on stable
/// storage. Paths are printed as `pointer list` prints names. A file that cannot be read or is
/// larger than a value may be (256 MiB) is reported, the others are stored all the same, and the
/// exit code is 1.
///
/// With --json: {"values":[{"digest":"...","path":"...","bytes":N,"new":true}]}
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// Files to store; `-`, or none, for stdin
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Write a value to stdout or into a file
///
/// FILE appears whole or not at all: the value is written beside it and then renamed. What is there
/// already and is no regular file (a device, a FIFO) is written to as it is. A symlink stays: the file
/// that it leads to is written, also if there was none. Nothing is written in the store's directory.
///
/// With --json: {"digest":"...","bytes":N,"data_base64":"..."}, with --output FILE
/// {"digest":"...","bytes":N,"path":"..."}
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// @NAME or a digest
    #[arg(value_name = "REF", value_parser = Reference::parser())]
    pub(crate) reference: Reference,
    /// Where to write it; `-` for stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Tell whether values are held
///
/// Prints a line `DIGEST yes` or `DIGEST no` for each. The exit code is 3 if any is absent. Of which it cannot be told,
/// because of damage or a failing device, stderr says why, and the exit code is 1: the others are told all the same.
///
/// With --json: {"values":[{"digest":"...","present":true}]}, without those of which it cannot be told
#[derive(Args, Debug)]
pub(crate) struct HasArgs {
    /// The values' digests
    #[arg(value_name = "DIGEST", required = true)]
    pub(crate) digests: Vec<Digest>,
}

/// Set, read, delete and list pointers
#[derive(Debug, Subcommand)]
pub(crate) enum PointerCommand {
    /// Point a name at a value that the store holds
    ///
    /// It is on stable storage when the command ends. With --json: {"commit":N}
    Set {
        /// The pointer: 1 to 1,024 bytes, any
        #[arg(value_name = "NAME", value_parser = NameArg::parser())]
        name: NameArg,
        /// The value's digest
        #[arg(value_name = "DIGEST")]
        digest: Digest,
        /// Only if it now points at this value; `none`: only if it is absent. Else exit code 4
        #[arg(long, value_name = "DIGEST|none")]
        expect: Option<Expectation>,
    },
    /// Print the digest of the value that a name points at
    ///
    /// With --json: {"name":"...","digest":"..."}
    Get {
        /// The pointer
        #[arg(value_name = "NAME", value_parser = NameArg::parser())]
        name: NameArg,
    },
    /// Delete a name; its value is kept
    ///
    /// The exit code is 3 if there is no such pointer. With --json: {"commit":N}
    Delete {
        /// The pointer
        #[arg(value_name = "NAME", value_parser = NameArg::parser())]
        name: NameArg,
        /// Only if it now points at this value, else exit code 4
        #[arg(long, value_name = "DIGEST")]
        expect: Option<Digest>,
    },
    /// List the names that begin with a prefix, in order of their bytes
    ///
    /// Prints a line `DIGEST<tab>NAME` for each. In names, as in C strings, a backslash is `\\`;
    /// newline, tab and carriage return are `\n`, `\t` and `\r`; each byte of another control
    /// character, and each byte that is not UTF-8, is a backslash and three octal digits. All else
    /// stands as it is.
    ///
    /// With --json: {"pointers":[{"name":"...","digest":"..."}]}
    /// It is printed as the names are read: an error leaves it without its end.
    #[command(verbatim_doc_comment)]
    List {
        /// What the names begin with; without it all are listed
        #[arg(value_name = "PREFIX")]
        prefix: Option<OsString>,
    },
}

/// Store a directory and all below it, and point a name at it
///
/// Each file becomes a value, each directory a value that lists what is in it; one commit then
/// points NAME at the root, whatever it named before. Symlinks, modes (setuid, setgid and sticky bits
/// among them), modification times and names that are not UTF-8 are kept; owners, extended attributes
/// and hard links are not. The store itself is left out. Sockets, FIFOs, devices and what cannot
/// be read are reported and left out, and the exit code is 7.
///
/// With --json: {"digest":"...","name":"...","files":N,"directories":N,"symlinks":N,"left_out":N,
/// "values_new":N,"values_known":N,"bytes_in":N,"bytes_stored":N,"seconds":N}; and on stderr a line
/// {"notice":{"kind":"left_out","path":"...","message":"..."}} for each entry left out
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The pointer that names it from now on
    #[arg(long = "as", value_name = "NAME", value_parser = NameArg::parser())]
    pub(crate) name: NameArg,
    /// Leave out what .gitignore files name, and .git
    #[arg(long)]
    pub(crate) gitignore: bool,
}

/// Make a directory of what import stored
///
/// All that import kept comes back; files belong to whoever exports them. Modes come back whole, as
/// restic, rsync -p and tar -p restore them, whoever runs it: a setuid or setgid program then runs as
/// its new owner or group. How many there are is told on stderr; --drop-setuid leaves these bits unset.
///
/// What is missing or damaged is reported and left out, and the exit code is 1; what the file system
/// does not take is reported, and the exit code is 7.
///
/// With --json: {"digest":"...","files":N,"directories":N,"symlinks":N,"bytes_out":N,"damaged":N,
/// "left_out":N,"altered":N,"setuid":N,"seconds":N}; and on stderr a line
/// {"notice":{"kind":"damaged","path":"...","message":"..."}}, or "left_out" or "altered", for each
/// entry reported
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// @NAME or the digest of a directory
    #[arg(value_name = "REF", value_parser = Reference::parser())]
    pub(crate) reference: Reference,
    /// The directory to make: absent or empty, and not in the store's
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Leave the setuid and setgid bits of files unset; directories keep theirs, and all their sticky bits
    #[arg(long)]
    pub(crate) drop_setuid: bool,
}

/// Look for damage
///
/// Prints a line for each thing that is wrong, with file and offset, and the exit code is 1; or the
/// line `ok`.
///
/// With --json: {"ok":true,"findings":[{"file":"...","offset":N,"what":"..."}],"file_count":N,
/// "value_count":N,"pointer_count":N,"bytes_read":N}; offset is null where a finding has no place
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Read every value and hash it again
    #[arg(long)]
    pub(crate) read_data: bool,
}

/// Rewrite the tables of each tree into one sorted level
///
/// Look-ups then read least, and no table has versions of a name that nobody can ask for. The store
/// keeps its tables in shape by itself: this is for stores that are mostly read from now on. What was
/// written last is not in tables yet, and stays as it is.
///
/// Prints a line for the index and one for the names: tables, entries and bytes, and the bytes that
/// were written.
///
/// With --json: {"index":{"table_count":N,"bytes":N,"entry_count":N,"written_bytes":N},"names":{...}}
#[derive(Args, Debug)]
pub(crate) struct CompactArgs {}

/// Print figures of the store
///
/// Prints a line `NAME VALUE` for each, and a table of the levels of the index, of those of the names,
/// and of what memory is used for. Counters begin at zero when a process opens the store.
///
/// With --json: the same figures, those of a log or of a kind in an object of their own
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {}

/// Answer requests, one JSON object a line, until stdin ends
///
/// Drives the store from any language. Each line of stdin is a request; for each, one compact line
/// with its reply is written and flushed, in the same order. The store is created if need be and
/// held until stdin ends. The exit code is then 0, also after bad lines, or 1 if the store takes no
/// more writes. If the store cannot be opened, nothing is written on stdout.
///
/// Requests, with their replies:
///
///   {"op":"put","data":"text"} or "data_base64"
///     {"ok":true,"digest":"...","new":true}
///   {"op":"put_many","data":["text"]} or "data_base64"
///     {"ok":true,"puts":[{"digest":"...","new":true}]}
///     At most 10,000 values. Each is stored or refused by itself: one that is refused has
///     {"error":{...}} in its place.
///   {"op":"commit","set":{"name":"digest"},"set_data":{"name":"base64"},"delete":["name"],
///    "require":{"name":"digest"},"changes":[...]}
///     {"ok":true,"commit":N} once durable
///     set points a name at a value held, set_data stores a value and points a name at it, and
///     require makes all of it depend on what a name points at, or with null on its absence. In
///     changes stand objects with "name" or "name_base64", and one of "set":"digest",
///     "set_data":"base64", "delete":true and "require":"digest" or null. No name may be changed
///     twice, and something must be changed. Deleting an absent name is ok.
///   {"op":"get","digest":"..."} or "pointer":"name" or "pointer_base64"
///     {"ok":true,"digest":"...","data_base64":"..."}
///   {"op":"get_many","digests":["..."]}
///     {"ok":true,"values":[{"data_base64":"..."}]}
///     At most 10,000 values. null stands for one that is absent, and {"error":{...}} for one that
///     cannot be read. Once the first ones have 64 MiB together, or the next might make them more
///     (a length is known up to an eighth), it and all after it are not read, and each has an error
///     of kind limit: ask for those again.
///   {"op":"has","digests":["..."]}
///     {"ok":true,"present":[true]}
///   {"op":"list","prefix":"","after":"","limit":1000} or "prefix_base64", "after_base64"
///     {"ok":true,"pointers":[{"name":"...","digest":"..."}],"next":"..."}
///     All fields are optional. At most limit names after the name after, and no more than 10,000.
///     next is what to pass as after to go on, or null at the end; where it is not UTF-8,
///     "next_base64" stands in its place, as "name_base64" does in the place of "name".
///   {"op":"sync"}
///     {"ok":true}, once all values put are durable
///   {"op":"stats"}
///     {"ok":true,"stats":{...}}
///   {"op":"check"} or "read_data":true
///     {"ok":true,"findings":[{"file":"...","offset":N,"what":"..."}]}
///
/// Anything wrong:
///     {"ok":false,"error":{"kind":"...","message":"..."}}
///     kind is one of bad_request, not_found, value_missing (with "digest"), precondition_failed
///     (with "name" or "name_base64", and "current", null if absent), no_space, corrupt (with "file"
///     and "offset"), poisoned, indeterminate, limit, io.
///
/// A field "id" of any JSON value comes back at the end of the reply, unless the line is no JSON
/// object or has two of them. Base64 has the standard alphabet and padding. Fields that are not
/// listed here, and keys that stand twice in one object, are refused. A line may have 4/3 of the
/// bytes of the largest value plus 64 KiB; a longer one is skipped and answered with limit.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct BatchArgs {}

/// Runs the command line that this process was given.
pub fn main() -> ExitCode {
    if let Err(error) = outlive_file_size_limits() {
        return end(Err(error), |error| complain(false, None, error));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(unparsed) => {
            let json = asks_for_json(std::env::args_os().skip(1));
            return end(answer(&unparsed, json), |error| complain(json, None, error));
        }
    };
    let mut context = Context::new(cli.store, cli.json);
    let result = trace().and_then(|()| run(&mut context, cli.command));
    let flushed = context.flush();
    let result = match result.and_then(|exit| flushed.map(|()| exit)) {
        Err(error) if error.is_broken_pipe() => Ok(context.outcome()),
        result => result,
    };
    end(result, |error| context.complain(error))
}

/// Whether the words ask for JSON, although they are no command.
fn asks_for_json(words: impl Iterator<Item = OsString>) -> bool {
    words.take_while(|word| word != "--").any(|word| word == "--json")
}

fn end(result: Result<Exit, CliError>, complain: impl FnOnce(&CliError)) -> ExitCode {
    let exit = result.unwrap_or_else(|error| {
        if error.exit() != Exit::Ok {
            complain(&error);
        }
        error.exit()
    });
    exit.into()
}

fn run(context: &mut Context, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Put(args) => put::run(context, &args),
        Command::Get(args) => get::run(context, &args),
        Command::Has(args) => has::run(context, &args),
        Command::Pointer(command) => pointer::run(context, &command),
        Command::Import(args) => transfer::import(context, &args),
        Command::Export(args) => transfer::export(context, &args),
        Command::Check(args) => check::run(context, &args),
        Command::Compact(args) => compact::run(context, &args),
        Command::Stats(StatsArgs {}) => stats::run(context),
        Command::Batch(BatchArgs {}) => batch::run(context),
    }
}

/// Starts tracing to stderr, if asked for.
fn trace() -> Result<(), CliError> {
    let Some(filter) = std::env::var_os(LOG_VARIABLE).filter(|filter| !filter.is_empty()) else {
        return Ok(());
    };
    let filter = EnvFilter::try_new(filter.to_string_lossy())
        .map_err(|error| CliError::Usage(format!("{LOG_VARIABLE}: {error}")))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn store_and_json_may_stand_before_or_after_the_command() {
        for words in [
            "pinstone --store s --json pointer list",
            "pinstone pointer list --store s --json",
            "pinstone pointer --store s list --json",
            "pinstone --json stats --store s",
        ] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            assert_eq!((cli.store, cli.json), (Some(PathBuf::from("s")), true), "{words}");
        }
    }

    #[test]
    fn json_is_asked_for_by_its_word_alone() {
        let asks = |words: &str| asks_for_json(words.split(' ').map(OsString::from));
        assert!(asks("get --json"));
        assert!(!asks("get json --jsonish -- --json"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let digest = Digest::of(b"").to_string();
        let short = &digest[1..];
        let long = "n".repeat(1025);
        let refused: &[&[&str]] = &[
            &[],
            &["unknown"],
            &["--store"],
            &["--store", "", "stats"],
            &["get"],
            &["get", "name"],
            &["get", "@"],
            &["get", short],
            &["get", &digest, &digest],
            &["has"],
            &["has", short],
            &["has", "xyz"],
            &["pointer"],
            &["pointer", "set", "name"],
            &["pointer", "set", "name", "xyz"],
            &["pointer", "set", "", &digest],
            &["pointer", "set", &long, &digest],
            &["pointer", "set", "name", &digest, "--expect", "None"],
            &["pointer", "get", ""],
            &["pointer", "delete", "name", "--expect", "none"],
            &["import", "."],
            &["import", ".", "--as", ""],
            &["import", "--as", "name"],
            &["export", "@name"],
            &["check", "now"],
            &["compact", "now"],
            &["stats", "--all"],
            &["batch", "file"],
        ];
        for words in refused {
            let words = ["pinstone"].iter().chain(*words);
            let error = Cli::try_parse_from(words.clone()).unwrap_err();
            assert!(error.use_stderr(), "{words:?}");
        }
    }
}
