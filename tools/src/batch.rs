//! `pinstone batch`: JSON lines drive the store, from any language. The protocol stands in its `--help`.
//!
//! 1. A line is read (`batch/line.rs`), never more of it than the longest request needs.
//! 2. It is decoded (`batch/request.rs`); whatever is not exactly a request is refused before the
//!    store is asked.
//! 3. The store answers, and one line of JSON is written and flushed (`batch/reply.rs`).
//!
//! - B1: one line in, one line out, in order, each written before the next request is begun.
//! - B2: no line ends the process; only the end of stdin, or a stream that fails, does.
//! - B3: a request that is refused as `bad_request` or `limit` before it reached the store has
//!   stored nothing.

mod line;
mod reply;
mod request;

use std::io::{self, BufRead, BufReader, Write};
use std::ops::Bound;
use std::path::Path;

use pinstone::{Batch, CheckOptions, Digest, Error, Options, Put, Store};

use self::line::{Line, LineReader};
use self::reply::{Answer, Each, Fault, Listed, Stored, Value};
use self::request::{Change, Commit, List, Request, Target};
use crate::context::{Absent, Context, complain};
use crate::exit::{CliError, Exit};

/// Bytes read from stdin at a time.
const INPUT_BYTES: usize = 64 << 10;

/// Bytes of the values in a reply to `get_many`, at most, or those of the largest value if these are fewer;
/// a reply always has the first one.
const GET_MANY_BYTES_MAX: u64 = 64 << 20;

/// What a line may have beside the base64 of a value.
const ENVELOPE_BYTES: u64 = 64 << 10;

pub(crate) fn run(context: &mut Context) -> Result<Exit, CliError> {
    let store = context.open(Absent::Create)?;
    let input = BufReader::with_capacity(INPUT_BYTES, io::stdin().lock());
    let value_bytes_max = Options::default().value_bytes_max;
    let (json, store_path) = (context.json(), context.store_path().to_owned());
    let remark = |error: &CliError| complain(json, Some(&store_path), error);
    serve_and_close(store, input, context.output(), value_bytes_max, remark)
}

/// Answers each line of `input` on `output`, until `input` ends, and closes the store. A store that
/// takes no more writes is an error then; one that does not close although all in it is durable is
/// told to `remark`.
///
/// # Errors
/// What cannot be answered in a reply: the input or the output failed, or the store takes no more
/// writes.
pub fn serve_and_close(
    store: Store,
    input: impl BufRead,
    output: &mut impl Write,
    value_bytes_max: u64,
    remark: impl FnOnce(&CliError),
) -> Result<Exit, CliError> {
    let served = serve(&store, input, output, value_bytes_max);
    let poisoned = store.stats().poisoned;
    // Values may have been put that nobody asked to sync.
    let synced = store.sync();
    let closed = store.close();
    // That nobody takes the replies is no failure, and hides none of the store's.
    let heard = match served {
        Err(error) if error.is_broken_pipe() => Err(error),
        served => Ok(served?),
    };
    if let Some(cause) = poisoned {
        return Err(Error::Poisoned { cause }.into());
    }
    synced?;
    if let Err(error) = closed {
        remark(&error.into());
    }
    heard.map(|()| Exit::Ok)
}

/// Answers each line of `input` on `output`, until `input` ends.
fn serve(
    store: &Store,
    input: impl BufRead,
    output: &mut impl Write,
    value_bytes_max: u64,
) -> Result<(), CliError> {
    let mut lines = LineReader::new(input, line_bytes_max(value_bytes_max));
    let bytes_max = GET_MANY_BYTES_MAX.min(value_bytes_max);
    let unread = |error| CliError::file("read", Path::new("standard input"), error);
    while let Some(line) = lines.next().map_err(unread)? {
        match line {
            Line::Whole(line) => {
                let (id, request) = request::decode(line);
                let answer = request.and_then(|request| answer(store, request, bytes_max));
                reply::write(output, id, &answer)
            }
            Line::TooLong => {
                let message = format!("a line has at most {} bytes", lines.bytes_max());
                reply::write(output, None, &Err(Fault::limit(message)))
            }
        }
        .map_err(CliError::Output)?;
    }
    Ok(())
}

/// Bytes of the longest line: the base64 of the largest value, and an envelope.
fn line_bytes_max(value_bytes_max: u64) -> u64 {
    value_bytes_max.div_ceil(3) * 4 + ENVELOPE_BYTES
}

fn answer(store: &Store, request: Request<'_>, bytes_max: u64) -> Result<Answer, Fault> {
    match request {
        Request::Put(value) => Ok(Answer::Put(stored(store.put(&value)?))),
        Request::PutMany(values) => {
            let puts = store.put_many(&values).into_iter();
            Ok(Answer::PutMany {
                puts: puts.map(|put| Each(put.map(stored).map_err(Fault::from))).collect(),
            })
        }
        Request::Commit(request) => commit(store, request),
        Request::Get(target) => get(store, &target),
        Request::GetMany(digests) => Ok(get_many(store, &digests, bytes_max)),
        Request::Has(digests) => {
            let present = store.contains_many(&digests).into_iter();
            Ok(Answer::Has { present: present.collect::<Result<_, _>>()? })
        }
        Request::List(request) => list(store, &request),
        Request::Sync => {
            store.sync()?;
            Ok(Answer::Done {})
        }
        Request::Stats => Ok(Answer::Stats { stats: Box::new(store.stats()) }),
        Request::Check { read_data } => {
            let report = store.check(&CheckOptions { read_data, progress: None })?;
            Ok(Answer::Checked { findings: report.findings })
        }
    }
}

fn stored(put: Put) -> Stored {
    Stored { digest: put.digest, new: put.new }
}

fn commit(store: &Store, request: Commit) -> Result<Answer, Fault> {
    let mut batch = Batch::new();
    for (name, change) in request.changes {
        batch = match change {
            Change::Set(digest) => batch.set(name, digest),
            Change::SetData(value) => batch.set(name, store.put(&value)?.digest),
            Change::Delete => batch.delete(name),
        };
    }
    for (name, current) in request.requires {
        batch = batch.require(name, current);
    }
    Ok(Answer::Commit { commit: store.commit(batch)?.0 })
}

fn get(store: &Store, target: &Target) -> Result<Answer, Fault> {
    let digest = match target {
        Target::Digest(digest) => *digest,
        Target::Pointer(name) => {
            let absent = || CliError::PointerAbsent(name.clone());
            store.pointer(name)?.ok_or_else(|| Fault::not_found(&absent()))?
        }
    };
    let value =
        store.get(&digest)?.ok_or_else(|| Fault::not_found(&CliError::ValueAbsent(digest)))?;
    Ok(Answer::Get { digest, value })
}

/// The first of these values, as many as a reply may have; the others are refused, and not read.
fn get_many(store: &Store, digests: &[Digest], bytes_max: u64) -> Answer {
    let read = store.get_many_within(digests, bytes_max);
    let refused_count = digests.len() - read.len();
    let answered = read.into_iter().map(|value| {
        let value = value.map_err(Fault::from)?;
        Ok(value.map(|value| Value { value }))
    });
    let refused = || {
        let message = format!("the values of a reply have at most {bytes_max} bytes: ask again");
        Err(Fault::limit(message))
    };
    let refused = std::iter::repeat_with(refused).take(refused_count);
    Answer::GetMany { values: answered.chain(refused).map(Each).collect() }
}

fn list(store: &Store, request: &List) -> Result<Answer, Fault> {
    let List { prefix, after, limit } = request;
    // Names below the prefix are skipped, those above it end the list.
    let from = if after.as_slice() < prefix.as_slice() {
        Bound::Included(prefix.as_slice())
    } else {
        Bound::Excluded(after.as_slice())
    };
    let mut pointers = Vec::new();
    let mut more = false;
    for pointer in store.pointers::<(Bound<&[u8]>, Bound<&[u8]>)>((from, Bound::Unbounded)) {
        let (name, digest) = pointer?;
        if !name.starts_with(prefix) {
            break;
        }
        if pointers.len() == *limit {
            more = true;
            break;
        }
        pointers.push((name, digest));
    }
    Ok(Answer::List(Listed { pointers, more }))
}
