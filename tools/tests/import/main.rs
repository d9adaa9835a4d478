//! Import and export give back every file, directory and symlink, byte for byte, with modes, times
//! and names; what cannot be kept is told; nothing leads out of the target; nothing is stored twice.
//!
//! The trees are compared by the tests' own walk (`harness.rs`), which shares no code with the commands.
//! `PINSTONE_TEST_TREE` names a directory to be taken through import and export too.

#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a test, not the engine"
)]

mod export;
mod generated;
mod gitignore;
mod harness;

use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pinstone::{Digest, Store};
use pinstone_tools::import::{ImportOptions, ImportSummary, import};
use pinstone_tools::watch::{Notice, Watch};
use rustix::fs::{FileType, Mode};

use crate::export::put;
use crate::generated::{FILES, generate, open_dir};
use crate::harness::{
    Content, Sandbox, assert_same, export_ok, import_json, is_root, manifest, pinstone, stderr,
};

#[test]
fn fifty_thousand_files_with_every_oddity_come_back() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let left_out = generate(&source);
    // The store lies in the imported directory; it is left out.
    let store = source.join("store is here/store");

    let first = import_json(&store, 7, &source);
    let expected = manifest(&source, &[b"store is here/store"]);
    let count = |is: fn(&Content) -> bool| {
        expected.values().filter(|item| is(&item.content)).count() as u64
    };
    let files = count(|content| matches!(content, Content::File { .. }));
    assert_eq!(files, FILES as u64);
    assert_eq!(first["files"], files);
    assert_eq!(first["directories"], count(|content| matches!(content, Content::Directory)));
    assert_eq!(first["symlinks"], count(|content| matches!(content, Content::Symlink { .. })));
    assert_eq!(first["left_out"], left_out);

    let second = import_json(&store, 7, &source);
    assert_eq!(second["digest"], first["digest"]);
    assert_eq!(second["values_new"], 0);
    assert_eq!(second["bytes_stored"], 0);
    assert_eq!(second["bytes_in"], first["bytes_in"]);

    let target = sandbox.path("target");
    export_ok(&store, "@tree", &target);
    assert_same(&expected, &manifest(&target, &[]));

    // What was exported is the same tree.
    let third = import_json(&store, 0, &target);
    assert_eq!(third["digest"], first["digest"]);
    assert_eq!(third["values_new"], 0);
}

#[test]
fn a_real_source_tree_comes_back() {
    let source = std::env::var_os("PINSTONE_TEST_TREE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(), PathBuf::from);
    let sandbox = Sandbox::new();
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let first = import_json(&store, 0, &source);
    export_ok(&store, first["digest"].as_str().unwrap(), &target);
    assert_same(&manifest(&source, &[]), &manifest(&target, &[]));
    let second = import_json(&store, 0, &source);
    assert_eq!(second["digest"], first["digest"]);
    assert_eq!(second["values_new"], 0);
    assert_eq!(second["bytes_stored"], 0);
}

#[test]
fn what_cannot_be_kept_is_told_and_the_rest_is_imported() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir_all(source.join("sub")).unwrap();
    std::fs::write(source.join("sub/kept"), "kept").unwrap();
    let dir = open_dir(&source);
    rustix::fs::mknodat(&dir, "a\nfifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(source.join("sub/socket")).unwrap());

    let store = sandbox.path("store");
    let args = ["import".as_ref(), source.as_os_str(), "--as".as_ref(), "name".as_ref()];
    let output = pinstone(&store, args);
    assert_eq!(output.status.code(), Some(7));
    let told = stderr(&output);
    let source_shown = source.display();
    assert!(told.contains(&format!("{source_shown}/a\\nfifo: left out: it is a FIFO\n")), "{told}");
    assert!(
        told.contains(&format!("{source_shown}/sub/socket: left out: it is a socket\n")),
        "{told}"
    );
    let json = pinstone(&store, [OsStr::new("--json")].iter().chain(&args));
    let notices = stderr(&json);
    let mut notices: Vec<_> = notices.lines().collect();
    notices.sort_unstable();
    let notice = |path: &str, message: &str| {
        let path = serde_json::Value::from(format!("{source_shown}/{path}"));
        format!(r#"{{"notice":{{"kind":"left_out","path":{path},"message":"{message}"}}}}"#)
    };
    assert_eq!(
        notices,
        [notice("a\nfifo", "it is a FIFO"), notice("sub/socket", "it is a socket")]
    );

    let stdout = String::from_utf8(output.stdout).unwrap();
    let (digest, name) = stdout.trim_end().split_once('\t').unwrap();
    assert_eq!((digest.len(), name), (64, "name"));

    export_ok(&store, digest, &sandbox.path("target"));
    let found = manifest(&sandbox.path("target"), &[]);
    assert_same(&manifest(&source, &[]), &found);
    assert_eq!(found.len(), 3);
}

/// Run as another user where this one may read everything.
#[test]
fn what_may_not_be_read_is_told_and_left_out() {
    let sandbox = Sandbox::new();
    std::fs::set_permissions(&sandbox.0, PermissionsExt::from_mode(0o777)).unwrap();
    let source = sandbox.path("source");
    for dir in ["no list", "no search", "open"] {
        std::fs::create_dir_all(source.join(dir)).unwrap();
        std::fs::write(source.join(dir).join("file"), dir).unwrap();
    }
    std::fs::write(source.join("secret"), "secret").unwrap();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(source.join(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    mode("secret", 0o000);
    mode("no list", 0o311);
    mode("no search", 0o644);
    let program = sandbox.path("pinstone");
    std::fs::copy(env!("CARGO_BIN_EXE_pinstone"), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();

    let run = |args: &[&OsStr]| {
        let mut command = Command::new(&program);
        command.current_dir("/").arg("--store").arg(sandbox.path("store")).args(args);
        if is_root() {
            command.uid(65_534).gid(65_534);
        }
        command.output().unwrap()
    };
    let output = run(&["import".as_ref(), source.as_ref(), "--as".as_ref(), "tree".as_ref()]);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{told}");
    for path in ["secret", "no list", "no search/file"] {
        let line = format!("{}/{path}: left out: it cannot be read: ", source.display());
        assert!(told.contains(&line), "{told}");
    }
    let target = sandbox.path("target");
    let output = run(&["export".as_ref(), "@tree".as_ref(), target.as_ref()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    mode("no search", 0o755);
    std::fs::set_permissions(target.join("no search"), PermissionsExt::from_mode(0o755)).unwrap();
    let found: Vec<_> = manifest(&target, &[]).into_keys().collect();
    let expected = ["", "no search", "open", "open/file"].map(|path| path.as_bytes().to_vec());
    assert_eq!(found, expected);
}

#[test]
fn a_file_whose_length_is_not_what_it_says_is_left_out() {
    // Files there have length 0 and content. Elsewhere than on Linux there is nothing of the kind.
    let random = Path::new("/proc/sys/kernel/random");
    if !random.exists() {
        eprintln!("skipped: no {}", random.display());
        return;
    }
    let sandbox = Sandbox::new();
    let args = ["import".as_ref(), random.as_os_str(), "--as".as_ref(), "tree".as_ref()];
    let output = pinstone(&sandbox.path("store"), args);
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(7), "{told}");
    assert!(told.contains("/uuid: left out: it says that it has 0 bytes"), "{told}");
}

#[test]
fn what_is_no_directory_is_not_imported() {
    let sandbox = Sandbox::new();
    let store = sandbox.path("store");
    std::fs::write(sandbox.path("file"), "file").unwrap();
    let code = |dir: &Path, name: &str| {
        let args = ["import".as_ref(), dir.as_os_str(), "--as".as_ref(), name.as_ref()];
        let output = pinstone(&store, args);
        assert!(output.stdout.is_empty());
        assert!(!output.stderr.is_empty());
        output.status.code()
    };
    assert_eq!(code(&sandbox.path("absent"), "name"), Some(1));
    assert!(!store.exists(), "a mistyped directory leaves no store behind");
    put(&store, b"");
    assert_eq!(code(&sandbox.path("file"), "name"), Some(1));
    assert_eq!(code(&store, "name"), Some(1));
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    assert_ne!(code(&sandbox.path("empty"), &"n".repeat(1025)), Some(0));
    assert_ne!(code(&sandbox.path("empty"), ""), Some(0));
}

/// Keeps the lines.
#[derive(Default)]
struct Lines(Vec<String>);

impl Watch for Lines {
    fn notice(&mut self, notice: &Notice<'_>) {
        self.0.push(notice.to_string());
    }

    fn progress(&mut self, _file_count: u64, _bytes: u64) {}
}

fn import_with(
    store: &Path,
    source: &Path,
    options: &ImportOptions,
) -> (Result<(Digest, ImportSummary), String>, Vec<String>) {
    let mut lines = Lines::default();
    let opened = Store::builder().value_bytes_max(options.value_bytes_max).open(store).unwrap();
    let result = import(&opened, store, source, b"tree", options, &mut lines);
    let result = result.map_err(|error| error.to_string());
    opened.close().unwrap();
    (result, lines.0)
}

#[test]
fn what_exceeds_the_limit_of_a_value_is_left_out() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir_all(source.join("many")).unwrap();
    for number in 0..30 {
        std::fs::write(source.join(format!("many/{number}")), "").unwrap();
    }
    std::fs::write(source.join("fits"), [1; 1000]).unwrap();
    std::fs::write(source.join("too long"), [1; 1001]).unwrap();
    let options = ImportOptions { value_bytes_max: 1000, ..ImportOptions::default() };
    let store = sandbox.path("store");
    let (result, mut lines) = import_with(&store, &source, &options);
    let (_, summary) = result.unwrap();
    assert_eq!((summary.files, summary.directories, summary.left_out), (31, 1, 2));
    lines.sort();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("many: left out: the tree value of this directory would have"));
    assert!(lines[1].contains("too long: left out: it has 1001 bytes, a value at most 1000"));

    let (result, _) = import_with(&store, &source.join("many"), &options);
    assert!(result.unwrap_err().contains("the tree value of this directory would have"));
}

#[test]
fn the_digest_does_not_depend_on_the_threads() {
    let sandbox = Sandbox::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut digests = Vec::new();
    for threads in [1, 2, 7] {
        let options = ImportOptions { threads, ..ImportOptions::default() };
        let store = sandbox.path(&format!("store {threads}"));
        digests.push(import_with(&store, source, &options).0.unwrap().0);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn an_imported_link_is_never_followed() {
    let sandbox = Sandbox::new();
    let (source, store) = (sandbox.path("source"), sandbox.path("store"));
    std::fs::create_dir_all(source.join("dir")).unwrap();
    std::fs::write(source.join("dir/file"), "file").unwrap();
    symlink(&source, source.join("dir/loop")).unwrap();
    symlink("dir", source.join("again")).unwrap();
    let first = import_json(&store, 0, &source);
    assert_eq!((&first["files"], &first["symlinks"]), (&1.into(), &2.into()));
    // The directory that is named may itself be reached through a link.
    symlink(&source, sandbox.path("link")).unwrap();
    assert_eq!(import_json(&store, 0, &sandbox.path("link"))["digest"], first["digest"]);
}
