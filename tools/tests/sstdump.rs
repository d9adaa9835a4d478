//! The command `sstdump`, run as users run it.

#![allow(clippy::disallowed_methods, reason = "a test, not the engine")]
#![allow(clippy::unwrap_used, reason = "this is test code")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use pinstone::{Batch, Store};
use pinstone_compaction::TableId;
use pinstone_compaction::table::names::NameBuilder;
use pinstone_compaction::table::shared::Tables;
use pinstone_disk::sim::SimDisk;
use pinstone_disk::{Digest, Disk, Epoch, Ordinal, StoreId, TableKind};

fn sstdump() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sstdump"))
}

fn raw(files: &[&Path]) -> Output {
    sstdump().arg("raw").args(files).output().unwrap()
}

fn store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = store.put(b"a value").unwrap().digest;
    store.commit(Batch::new().set("a name", digest)).unwrap();
    store.close().unwrap();
    dir
}

#[test]
fn each_file_of_a_store_is_dumped() {
    let dir = store();
    let mut shown = String::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let output = raw(&[&entry.unwrap().path()]);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        shown += &String::from_utf8(output.stdout).unwrap();
    }
    for field in ["value.digest", "\"a name\"", "closed_edit.blob_end", "16, CURRENT", "lock.pid"] {
        assert!(shown.contains(field), "{field} in\n{shown}");
    }
}

#[test]
fn a_table_is_known_by_its_header() {
    let disk = SimDisk::new(1);
    let tables = Tables::new(Arc::clone(&disk) as Arc<dyn Disk>, StoreId([7; 16]), 4, 1 << 20);
    let id = TableId { table: TableKind::Names, ordinal: Ordinal(1), epoch: Epoch(1) };
    let mut table = NameBuilder::create(&tables, id, Some(1)).unwrap();
    table.push(b"a name", 1, Some(&Digest::of(b"a value"))).unwrap();
    table.finish(Vec::new()).unwrap();
    let mut bytes = disk.file_bytes(&id.file_name().to_string()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copied");
    std::fs::write(&file, &bytes).unwrap();
    let output = raw(&[&file]);
    assert_eq!(output.status.code(), Some(0));
    let shown = String::from_utf8(output.stdout).unwrap();
    for field in ["18, names table", "name_entry.rest", "table_footer.units_hash", "filter.seed"] {
        assert!(shown.contains(field), "{field} in\n{shown}");
    }
    bytes[4100] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let output = raw(&[&file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("name_block.invalid"));
}

#[test]
fn several_files_have_their_names_above_them() {
    let dir = store();
    let current = dir.path().join("CURRENT");
    let output = raw(&[&current, &current]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown.matches(&format!("{}:\n", current.display())).count(), 2);
}

#[test]
fn damage_is_shown_and_is_a_failure() {
    let dir = store();
    let file = dir.path().join("blob-00000001-00000001.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let output = raw(&[&file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains(".invalid"));
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_dumped() {
    let dir = store();
    let output = raw(&[&dir.path().join("absent"), &dir.path().join("CURRENT")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("sstdump: cannot read "));
    assert!(String::from_utf8(output.stdout).unwrap().contains("header.magic"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = store();
    // More than a pipe holds, so that the write meets the closed end.
    let files = vec![dir.path().join("CURRENT"); 200];
    let mut child = sstdump().arg("raw").args(files).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_full_device_on_stdout_is_a_failure() {
    let dir = store();
    let current = dir.path().join("CURRENT");
    for args in [&["--help".as_ref()][..], &["raw".as_ref(), current.as_os_str()]] {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" > /dev/full", env!("CARGO_BIN_EXE_sstdump")]);
        let output = shell.args(args).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.starts_with("sstdump: cannot write to standard output: "), "{told}");
    }
}

#[test]
fn what_it_does_not_understand_is_a_usage_error() {
    for args in [&["raw"][..], &["cooked", "CURRENT"], &[]] {
        assert_eq!(sstdump().args(args).output().unwrap().status.code(), Some(2));
    }
}
