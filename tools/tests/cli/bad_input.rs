//! What users do wrong and what machines do: each is told clearly, and nothing is lost.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use pinstone_disk::checksum;

use crate::harness::{Place, chmod, feed, files, logs, make, noise, pinstone};

/// Nobody's user and group id.
const NOBODY: u32 = 65_534;

#[test]
fn a_directory_that_is_no_store_is_refused_and_left_alone() {
    let place = Place::new();
    let other = place.path().join("other");
    make(&other, &[("letter.txt".to_owned(), b"dear".to_vec())]);
    let before = files(&other);
    let zeros = "0".repeat(64);
    for args in [
        "put letter",
        "stats",
        "check",
        "get @name",
        "pointer list",
        "pointer delete name",
        "batch",
        "import . --as name",
        &format!("has {zeros}"),
        &format!("pointer set name {zeros}"),
        "export @name copy",
    ] {
        place.file("letter", "dear");
        let error = place.words(&format!("{args} --store other")).failed(1);
        assert!(error.contains("other is no store"), "{args}: {error}");
        assert!(files(&other) == before, "{args}");
    }
}

#[test]
fn a_file_in_the_stores_place_is_refused() {
    let place = Place::new();
    place.file("file", "a file");
    for args in ["put file", "stats"] {
        let error = place.words(&format!("{args} --store file")).failed(1);
        assert!(error.contains("file"), "{error}");
    }
    assert_eq!(std::fs::read(place.path().join("file")).unwrap(), b"a file");
}

#[test]
fn what_stands_in_a_stores_way_is_named() {
    let place = Place::new();
    place.file("file", "a file");
    std::os::unix::fs::symlink("nowhere", place.path().join("dangling")).unwrap();
    std::os::unix::fs::symlink("ring", place.path().join("ring")).unwrap();
    let dangling = "dangling is a symlink to nowhere, which is not there\n";
    for (store, reading, obstacle) in [
        ("file/x", 1, "file is no directory\n"),
        ("file/x/y", 1, "file is no directory\n"),
        ("dangling", 3, dangling),
        ("dangling/x", 3, dangling),
    ] {
        for (args, code) in [("stats", reading), ("put file", 1)] {
            let error = place.words(&format!("{args} --store {store}")).failed(code);
            assert_eq!(error, format!("pinstone: no store at {store}: {obstacle}"), "{args}");
        }
    }
    for args in ["stats", "put file"] {
        let error = place.words(&format!("{args} --store ring")).failed(1);
        let why = "opening the directory ring: Too many levels of symbolic links (os error 40)";
        assert_eq!(error, format!("pinstone: {why}\n"));
    }
    assert!(!place.path().join("nowhere").exists());
}

#[test]
fn a_directory_in_a_files_place_is_told_with_the_stores_path() {
    let place = Place::new();
    place.store_value("head", b"value");
    for (file, _) in files(&place.store()) {
        let path = place.store().join(&file);
        let aside = place.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = place.words("get @head").failed(1);
        let (start, _) = error.split_once(&file).unwrap();
        assert!(start.starts_with("pinstone: pinstone-data: "), "{error}");
        assert!(!error.contains("input or output"), "{error}");
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
    }
    place.expect_value("head", b"value");
}

#[test]
fn writing_commands_create_the_store_and_reading_ones_do_not() {
    let zeros = "0".repeat(64);
    for args in [
        "stats",
        "check",
        "get @name",
        "pointer get name",
        "pointer list",
        "export @name copy",
        &format!("has {zeros}"),
        &format!("get {zeros}"),
    ] {
        let place = Place::new();
        let error = place.words(args).failed(3);
        assert!(error.starts_with("pinstone: no store at "), "{args}: {error}");
        assert!(!place.store().exists(), "{args}");
        std::fs::create_dir(place.store()).unwrap();
        place.words(args).failed(3);
        assert_eq!(files(&place.store()), [], "{args}");
    }
    for args in ["put", "batch", "import tree --as name"] {
        let place = Place::new();
        std::fs::create_dir(place.path().join("tree")).unwrap();
        assert_eq!(place.words(args).code, 0, "{args}");
        assert_eq!(place.words("check").ok(), "ok\n");
        let place = Place::new();
        std::fs::create_dir(place.path().join("tree")).unwrap();
        std::fs::create_dir(place.store()).unwrap();
        assert_eq!(place.words(args).code, 0, "{args}");
        assert_eq!(place.words("check").ok(), "ok\n");
    }
}

#[test]
fn a_store_of_an_unknown_format_is_refused_by_name() {
    // Version, digest kind, features that only readers may ignore, features that nobody may.
    for (at, bytes) in [(8, 999_u16), (11, 0x0009), (16, 1), (20, 0x8000)] {
        let place = Place::new();
        place.store_value("head", b"value");
        let current = place.store().join("CURRENT");
        let mut header = std::fs::read(&current).unwrap();
        if at == 11 {
            header[at] = 9;
        } else {
            header[at..at + 2].copy_from_slice(&bytes.to_le_bytes());
        }
        let sum = checksum::crc(&header[..60]);
        header[60..64].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(&current, header).unwrap();
        let before = files(&place.store());
        for args in ["stats", "put", "check", "batch", "get @head"] {
            let error = place.words(args).failed(6);
            assert!(error.contains("CURRENT has an unsupported format"), "{at} {args}: {error}");
        }
        assert!(files(&place.store()) == before, "{at}");
    }
}

#[test]
fn a_second_writer_is_refused_and_told_who_holds_the_store() {
    let place = Place::new();
    let mut batch = place.batch();
    batch.ask_ok(r#"{"op":"commit","set_data":{"head":"dmFsdWU="}}"#);
    for args in ["stats", "put", "get @head", "check", "batch", "pointer delete head"] {
        let error = place.words(args).failed(5);
        assert!(error.contains(&format!("is locked by process {}", batch.id())), "{args}: {error}");
    }
    let error = place.words("stats --json").failed(5);
    assert!(error.starts_with(r#"{"error":{"kind":"locked","message":""#), "{error}");
    batch.ask_ok(r#"{"op":"get","pointer":"head"}"#);
    assert_eq!(batch.end().code, 0);
    place.expect_value("head", b"value");
}

/// A copy of the program in a directory that everybody may enter, and a command that runs it as
/// somebody whom permissions bind.
fn powerless(place: &Place) -> impl Fn(&[&str]) -> std::process::Command {
    chmod(place.path(), 0o755);
    let copy = place.path().join("pinstone");
    std::fs::copy(pinstone(), &copy).unwrap();
    chmod(&copy, 0o755);
    let directory = place.path().to_owned();
    let root = rustix::process::geteuid().is_root();
    move |args| {
        let mut command = std::process::Command::new(&copy);
        command.args(args).current_dir(&directory);
        command.env_remove("PINSTONE_STORE").env_remove("PINSTONE_LOG");
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

#[test]
fn a_read_only_directory_is_told_and_left_alone() {
    let place = Place::new();
    let command = powerless(&place);
    place.store_value("head", b"value");
    for (file_mode, directory_mode) in [(0o444, 0o555), (0o666, 0o555)] {
        for entry in std::fs::read_dir(place.store()).unwrap() {
            chmod(&entry.unwrap().path(), file_mode);
        }
        chmod(&place.store(), directory_mode);
        let before = logs(&place.store());
        for args in [&["stats"][..], &["get", "@head"], &["check"], &["batch"]] {
            let run = feed(command(args), b"");
            // Who only reads needs no more than the lock.
            if file_mode == 0o666 {
                run.ok();
            } else {
                let error = run.failed(1);
                assert!(error.contains("Permission denied"), "{args:?}: {error}");
            }
        }
        let error = feed(command(&["put"]), b"another").failed(1);
        assert!(error.contains("Permission denied"), "{error}");
        assert!(logs(&place.store()) == before);
        chmod(&place.store(), 0o755);
        place.expect_value("head", b"value");
        assert_eq!(place.words("check --read-data").ok(), "ok\n");
    }
    // No directory at all, where none can be made.
    let error = feed(command(&["put", "--store", "new"]), b"value").failed(1);
    assert!(error.contains("Permission denied"), "{error}");
    assert!(!place.path().join("new").exists());
    // An empty one that cannot be written.
    let empty = place.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    chmod(&empty, 0o555);
    let error = feed(command(&["put", "--store", "empty"]), b"value").failed(1);
    assert!(error.contains("Permission denied"), "{error}");
    assert_eq!(files(&empty), []);
}

#[test]
fn files_that_may_not_be_read_are_told() {
    let place = Place::new();
    let command = powerless(&place);
    place.file("open", "open");
    chmod(&place.file("closed", "closed"), 0);
    let store = place.path().join("mine");
    std::fs::create_dir(&store).unwrap();
    chmod(&store, 0o777);
    let ran = feed(command(&["put", "closed", "open", "--store", "mine"]), b"");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.text().ends_with("\topen\n"), "{ran:?}");
    assert_eq!(ran.err, "pinstone: cannot read closed: Permission denied (os error 13)\n");
}

#[test]
fn a_value_over_the_limit_is_told_and_the_others_are_stored() {
    let place = Place::new();
    let sparse = place.file("sparse", "");
    let max = pinstone::Options::default().value_bytes_max;
    std::fs::File::options().write(true).open(sparse).unwrap().set_len(max + 1).unwrap();
    place.file("small", "small");
    let ran = place.words("put sparse small");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.text().ends_with("\tsmall\n"), "{ran:?}");
    assert_eq!(
        ran.err,
        format!("pinstone: sparse has more than {max} bytes, the most of a value\n")
    );
    let error = place.shell(&format!("head -c {} /dev/zero | $PINSTONE put --json", max + 1));
    assert_eq!(error.code, 1, "{error:?}");
    assert!(error.err.contains(r#""kind":"limit""#), "{error:?}");
}

#[test]
fn no_space_fails_that_write_and_loses_nothing() {
    let place = Place::new();
    place.store_value("head", b"value");
    place.file("small", "small");
    place.file("large", noise(1, 100 << 20));
    // Files may have 96 MiB.
    let limited = |command: &str| {
        place.shell(&format!("ulimit -f {}; $PINSTONE {command}", blocks(96 << 20)))
    };
    let ran = limited("put small large");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.starts_with("pinstone: pinstone-data: no space left: "), "{ran:?}");
    // The first value was stored and synced, or it was not printed.
    if ran.text().ends_with("\tsmall\n") {
        assert_eq!(ran.text().lines().count(), 1);
        let digest = &ran.text()[..64];
        assert_eq!(place.words(&format!("get {digest}")).ok(), "small");
    } else {
        assert_eq!(ran.text(), "");
    }
    assert_eq!(place.words("check --read-data").ok(), "ok\n");
    place.expect_value("head", b"value");
    assert_eq!(limited("put small").ok().split('\t').nth(1), Some("small\n"));
}

/// There are more lines than are kept to be printed at once.
#[test]
fn no_space_is_told_though_nobody_takes_what_was_stored() {
    let place = Place::new();
    place.store_value("head", b"value");
    place.file("small", "small");
    place.file("large", noise(1, 100 << 20));
    let put = format!("$PINSTONE put {} large", "small ".repeat(300));
    let limit = blocks(96 << 20);
    // The reader is gone before the command begins.
    let ran = place.shell(&format!(
        "ulimit -f {limit}; {{ sleep 0.2; {put} 2>err; echo $? >code; }} | true; cat err code"
    ));
    let told = ran.ok();
    assert!(told.starts_with("pinstone: pinstone-data: no space left: "), "{told}");
    assert!(told.lines().count() == 2 && told.ends_with("\n1\n"), "{told}");
}

/// A file size as the shell's `ulimit -f` counts it.
fn blocks(bytes: u64) -> u64 {
    bytes / 512
}

#[test]
fn a_store_on_a_full_machine_is_not_half_created() {
    let place = Place::new();
    let ran = place.shell("ulimit -f 0; echo value | $PINSTONE put");
    let error = ran.failed(1);
    assert!(error.starts_with("pinstone: pinstone-data: no space left: "), "{error}");
    // What is left counts as nothing: there is no store, and one can be made.
    place.words("stats").failed(3);
    place.store_value("head", b"value");
    place.expect_value("head", b"value");
}

#[test]
fn a_limit_on_file_sizes_fails_the_write_and_ends_nothing() {
    let place = Place::new();
    place.store_value("large", &noise(1, 1 << 20));
    for (command, limit, told) in [
        ("get @large > copy", 64 << 10, "pinstone: cannot write to standard output: "),
        ("get @large -o copy", 64 << 10, "pinstone: cannot write copy: "),
        ("--help > copy", 512, "pinstone: cannot write to standard output: "),
    ] {
        let script = format!("ulimit -f {}; $PINSTONE {command}", blocks(limit));
        let error = place.shell(&script).failed(1);
        assert_eq!(error, format!("{told}File too large (os error 27)\n"), "{command}");
    }
    assert_eq!(place.words("check --read-data").ok(), "ok\n");
}

#[test]
fn too_few_file_descriptors_are_told_and_lose_nothing() {
    let place = Place::new();
    place.store_value("head", b"value");
    let mut refused = 0;
    for count in 3..12 {
        let ran = place.shell(&format!("ulimit -n {count}; exec $PINSTONE get @head"));
        match ran.code {
            0 => assert_eq!(ran.text(), "value"),
            // So few that not even the program's libraries are found.
            127 => {}
            _ => {
                assert!(ran.failed(1).contains("Too many open files"));
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    place.expect_value("head", b"value");
    assert_eq!(place.words("check --read-data").ok(), "ok\n");
}

#[test]
fn an_import_with_too_few_file_descriptors_names_nothing() {
    let place = Place::new();
    place.store_value("tree", b"value");
    std::fs::create_dir_all(place.path().join("source/a/b/c/d/e/f/g/h")).unwrap();
    place.file("source/a/b/c/file", b"content");
    let mut refused = 0;
    for count in 8..64 {
        let import = "exec $PINSTONE import source --as tree";
        let ran = place.shell(&format!("ulimit -n {count}; {import}"));
        // Whole or not at all: never done with something left out.
        if ran.code == 0 {
            break;
        }
        assert!(ran.failed(1).contains("Too many open files"));
        place.expect_value("tree", b"value");
        refused += 1;
    }
    assert!((1..56).contains(&refused), "{refused}");
}

#[test]
fn the_store_may_not_be_a_symlinks_victim() {
    // A store is where its path leads; its files are not.
    let place = Place::new();
    place.store_value("head", b"value");
    let current = place.store().join("CURRENT");
    let elsewhere: PathBuf = place.path().join("elsewhere");
    std::fs::rename(&current, &elsewhere).unwrap();
    std::os::unix::fs::symlink(Path::new("../elsewhere"), &current).unwrap();
    let ran = place.words("get @head");
    assert_eq!((ran.code, ran.text().as_str()), (1, ""), "{ran:?}");
}
