//! `batch` on a disk that fails: each kind of error is told, and what can go on does.

use std::io::{self, Write};
use std::sync::Arc;

use pinstone::{Digest, Error, Maintenance, Store};
use pinstone_disk::sim::{Fault, Filter, SimDisk};
use pinstone_disk::{Disk, Operation};
use pinstone_tools::batch::serve_and_close;
use pinstone_tools::exit::{CliError, Exit};
use serde_json::{Value, json};

const VALUE_BYTES_MAX: u64 = 1_000;

fn open(disk: &Arc<SimDisk>) -> Store {
    let disk: Arc<dyn Disk> = disk.clone();
    Store::builder()
        .value_bytes_max(VALUE_BYTES_MAX)
        .maintenance(Maintenance::Inline)
        .open_on(disk)
        .unwrap()
}

/// Serves the lines.
fn serve(disk: &Arc<SimDisk>, lines: &[&str]) -> (Vec<Value>, Result<Exit, CliError>) {
    serve_failing(disk, lines, || {})
}

fn kind(reply: &Value) -> &str {
    if reply["ok"] == json!(true) { "ok" } else { reply["error"]["kind"].as_str().unwrap() }
}

const COMMIT: &str = r#"{"op":"commit","set_data":{"a":"b25l"}}"#;

#[test]
fn a_failed_sync_is_indeterminate_and_then_no_more_is_written() {
    let disk = SimDisk::new(1);
    let lines = [
        COMMIT,
        "# the next sync fails",
        r#"{"op":"commit","set_data":{"b":"dHdv"}}"#,
        r#"{"op":"commit","set_data":{"c":"dHdv"}}"#,
        r#"{"op":"put","data":"three"}"#,
        r#"{"op":"sync"}"#,
        r#"{"op":"get","pointer":"a"}"#,
        r#"{"op":"stats"}"#,
    ];
    let (replies, end) = serve_failing(&disk, &lines, || {
        disk.fail_when(Filter::any().operation(Operation::Sync).nth(1), Fault::SyncFailsThenClean);
    });
    let kinds: Vec<_> = replies.iter().map(kind).collect();
    assert_eq!(kinds, ["ok", "indeterminate", "poisoned", "poisoned", "poisoned", "ok", "ok"]);
    assert_eq!(replies[5]["data_base64"], json!("b25l"));
    assert!(replies[6]["stats"]["poisoned"].is_string());
    assert_eq!(end.unwrap_err().exit(), Exit::Failure);

    // Opened anew, it takes writes again, and what was acknowledged is there.
    let (replies, end) = serve(
        &disk.after_crash(pinstone_disk::sim::CrashState::Nothing),
        &[r#"{"op":"get","pointer":"a"}"#, r#"{"op":"commit","set_data":{"c":"dHdv"}}"#],
    );
    assert_eq!(replies.iter().map(kind).collect::<Vec<_>>(), ["ok", "ok"]);
    assert_eq!(end.unwrap(), Exit::Ok);
}

#[test]
fn no_space_refuses_a_write_until_there_is_some() {
    let disk = SimDisk::new(2);
    let lines = [
        COMMIT,
        "# the disk fills up",
        r#"{"op":"commit","set_data":{"b":"dHdv"}}"#,
        r#"{"op":"get","pointer":"a"}"#,
        r#"{"op":"get","pointer":"b"}"#,
        "# and is emptied",
        r#"{"op":"commit","set_data":{"b":"dHdv"}}"#,
        r#"{"op":"get","pointer":"b"}"#,
    ];
    let mut full = false;
    let (replies, end) = serve_failing(&disk, &lines, || {
        if full {
            disk.heal();
        } else {
            full = true;
            for operation in [Operation::Write, Operation::Allocate, Operation::Create] {
                disk.fail_when(Filter::any().operation(operation), Fault::Enospc);
            }
        }
    });
    let kinds: Vec<_> = replies.iter().map(kind).collect();
    assert_eq!(kinds, ["ok", "no_space", "ok", "not_found", "ok", "ok"]);
    assert_eq!(end.unwrap(), Exit::Ok);
}

#[test]
fn of_values_put_together_each_is_refused_for_itself() {
    let disk = SimDisk::new(3);
    let long = "x".repeat(usize::try_from(VALUE_BYTES_MAX).unwrap() + 1);
    let line = format!(r#"{{"op":"put_many","data":["one","{long}","{}"]}}"#, &long[1..]);
    let (replies, end) = serve(&disk, &[&line]);
    let puts = replies[0]["puts"].as_array().unwrap();
    assert_eq!((&puts[0]["new"], &puts[2]["new"]), (&json!(true), &json!(true)));
    assert_eq!(puts[1]["error"]["kind"], json!("limit"));
    assert!(puts[1].get("digest").is_none());
    assert_eq!(end.unwrap(), Exit::Ok);
}

#[test]
fn get_many_refuses_what_would_make_its_reply_too_long() {
    let disk = SimDisk::new(3);
    // The largest value, with what its record has besides, is longer than a reply may be, and answered alone.
    let values: Vec<String> = [300, 400, 100, 300, 1000].map(|len| "v".repeat(len)).to_vec();
    let digests: Vec<_> =
        values.iter().map(|value| Digest::of(value.as_bytes()).to_string()).collect();
    let put = format!(r#"{{"op":"put_many","data":{}}}"#, json!(values));
    let get = |from: usize| format!(r#"{{"op":"get_many","digests":{}}}"#, json!(digests[from..]));
    let lines = [put, get(0), get(2), get(4)];
    let (replies, _) = serve(&disk, &lines.each_ref().map(|line| &line[..]));
    let answered = |reply: &Value| {
        let values = reply["values"].as_array().unwrap().iter();
        let kinds = values.map(|value| match value["error"]["kind"].as_str() {
            Some(kind) => kind.to_owned(),
            None => value["data_base64"].as_str().unwrap().len().to_string(),
        });
        kinds.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(answered(&replies[1]), "400 536 136 limit limit");
    assert_eq!(answered(&replies[2]), "136 400 limit");
    assert_eq!(answered(&replies[3]), "1336");
    let message = replies[2]["values"][2]["error"]["message"].as_str().unwrap();
    assert_eq!(message, "the values of a reply have at most 1000 bytes: ask again");
}

#[test]
fn a_store_that_does_not_close_is_no_failure_once_all_is_durable() {
    let disk = SimDisk::new(6);
    let put = r#"{"op":"put","data":"value"}"#;
    let (replies, end) = serve_failing(&disk, &[put, COMMIT, put, "# no file is cut"], || {
        disk.fail_when(Filter::any().operation(Operation::SetLength), Fault::Eio);
    });
    assert_eq!(replies.iter().map(kind).collect::<Vec<_>>(), ["ok", "ok", "ok"]);
    assert_eq!(end.unwrap(), Exit::Ok);
    disk.heal();
    let (replies, _) = serve(&disk, &[r#"{"op":"get","pointer":"a"}"#, put]);
    assert_eq!(replies.iter().map(kind).collect::<Vec<_>>(), ["ok", "ok"]);
    assert_eq!(replies[1]["new"], json!(false));
}

#[test]
fn damage_is_told_with_its_place() {
    let disk = SimDisk::new(3);
    let value = "only once in the log";
    let put = format!(r#"{{"op":"put","data":"{value}"}}"#);
    let digest = Digest::of(value.as_bytes());
    let get = format!(r#"{{"op":"get","digest":"{digest}"}}"#);
    let lines = [
        put.as_str(),
        r#"{"op":"sync"}"#,
        COMMIT,
        "# a bit flips",
        &get,
        r#"{"op":"get","pointer":"a"}"#,
    ];
    let mut damaged = String::new();
    let (replies, _) = serve_failing(&disk, &lines, || {
        let find = |name: &String| {
            let bytes = disk.file_bytes(name).unwrap();
            bytes.windows(value.len()).position(|bytes| bytes == value.as_bytes())
        };
        let names = disk.names();
        damaged = names.iter().find(|name| find(name).is_some()).unwrap().clone();
        disk.corrupt(&damaged, find(&damaged).unwrap() as u64, |bytes| bytes[0] ^= 1);
    });
    let kinds: Vec<_> = replies.iter().map(kind).collect();
    assert_eq!(kinds, ["ok", "ok", "ok", "corrupt", "ok"]);
    assert_eq!(replies[3]["error"]["file"], json!(damaged));
    assert!(replies[3]["error"]["offset"].is_u64(), "{}", replies[3]);
}

#[test]
fn limits_are_told() {
    let disk = SimDisk::new(4);
    let over = "x".repeat(1_001);
    let put = format!(r#"{{"op":"put","data":"{over}"}}"#);
    let most = format!(r#"{{"op":"put","data":"{}"}}"#, &over[1..]);
    // 4/3 of a value's bytes and 64 KiB.
    let longest = r#"{"op":"sync"}"#.to_owned() + &" ".repeat(1_336 + (64 << 10) - 13);
    let longer = format!("{longest} ");
    let lines = [&put, &most, &longest, &longer, r#"{"op":"sync"}"#];
    let (replies, end) = serve(&disk, &lines);
    let kinds: Vec<_> = replies.iter().map(kind).collect();
    assert_eq!(kinds, ["limit", "ok", "ok", "limit", "ok"]);
    assert_eq!(end.unwrap(), Exit::Ok);
}

#[test]
fn what_the_machine_refuses_otherwise_is_told() {
    let disk = SimDisk::new(5);
    // A value that is still in memory is not read from the disk.
    let (_, end) = serve(&disk, &[COMMIT]);
    assert_eq!(end.unwrap(), Exit::Ok);
    let lines = [
        "# reads fail",
        r#"{"op":"get","pointer":"a"}"#,
        "# and work",
        r#"{"op":"get","pointer":"a"}"#,
    ];
    let mut failing = false;
    let (replies, end) = serve_failing(&disk, &lines, || {
        if failing {
            disk.heal();
        } else {
            failing = true;
            disk.fail_when(Filter::any().operation(Operation::Read), Fault::Eio);
        }
    });
    let kinds: Vec<_> = replies.iter().map(kind).collect();
    assert_eq!(kinds, ["io", "ok"]);
    assert_eq!(end.unwrap(), Exit::Ok);
}

/// Nobody takes the replies.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn a_broken_pipe_hides_no_failure_of_the_store() {
    let put = &b"{\"op\":\"put\",\"data\":\"one\"}\n"[..];
    let disk = SimDisk::new(7);
    let end = serve_and_close(open(&disk), put, &mut Closed, VALUE_BYTES_MAX, |_| {});
    assert!(end.unwrap_err().is_broken_pipe());
    // The last sync fails.
    let store = open(&disk);
    disk.fail_when(Filter::any().operation(Operation::Sync), Fault::Eio);
    let put = &b"{\"op\":\"put\",\"data\":\"two\"}\n"[..];
    let end = serve_and_close(store, put, &mut Closed, VALUE_BYTES_MAX, |_| {});
    assert_eq!(end.unwrap_err().exit(), Exit::Failure);
    // The store takes no more writes by then.
    disk.heal();
    let store = open(&disk);
    disk.fail_when(Filter::any().operation(Operation::Sync), Fault::Eio);
    assert!(store.put(b"three").and_then(|_| store.sync()).is_err());
    let end = serve_and_close(store, put, &mut Closed, VALUE_BYTES_MAX, |_| {});
    assert!(matches!(end, Err(CliError::Store(Error::Poisoned { .. }))), "{end:?}");
}

/// Serves the lines, and acts where one begins with `#`: when the reader comes to it, all before it
/// are answered.
fn serve_failing(
    disk: &Arc<SimDisk>,
    lines: &[&str],
    act: impl FnMut(),
) -> (Vec<Value>, Result<Exit, CliError>) {
    let lines = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut output = Vec::new();
    let input = Script { lines, next: 0, current: Vec::new(), act };
    let input = io::BufReader::with_capacity(1, input);
    let end = serve_and_close(open(disk), input, &mut output, VALUE_BYTES_MAX, |_| {});
    let replies = String::from_utf8(output).unwrap();
    (replies.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), end)
}

struct Script<F> {
    lines: Vec<String>,
    next: usize,
    current: Vec<u8>,
    act: F,
}

impl<F: FnMut()> io::Read for Script<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(line) = self.lines.get(self.next) else { return Ok(0) };
            self.next += 1;
            if line.starts_with('#') {
                (self.act)();
            } else {
                self.current = line.as_bytes().to_vec();
            }
        }
        buffer[0] = self.current.remove(0);
        Ok(1)
    }
}
