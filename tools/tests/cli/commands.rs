//! What a transcript cannot show: streams that close, arguments that are no text, exit codes of
//! commands that were killed before.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use pinstone::Digest;

use crate::harness::{Place, noise, pinstone};

#[test]
fn a_broken_pipe_is_silent_and_ok() {
    let place = Place::new();
    place.store_value("large", &noise(1, 4 << 20));
    for args in ["get @large", "--json get @large", "--help", "stats", "--json pointer list"] {
        let args: Vec<_> = args.split(' ').collect();
        let mut command = place.command(pinstone());
        command.args(&args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // The reader is gone before anything was printed, or after the first byte.
        let mut reader = child.stdout.take().unwrap();
        if args.contains(&"@large") {
            reader.read_exact(&mut [0]).unwrap();
        }
        drop(reader);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
    let ran = place.shell("echo '{\"op\":\"stats\"}' | $PINSTONE batch 2>err | true; cat err");
    assert_eq!((ran.code, ran.text().as_str()), (0, ""));
}

/// What the command came to is known before anything is printed.
#[test]
fn a_broken_pipe_hides_no_outcome() {
    let place = Place::new();
    place.store_value("head", b"value");
    let code = |command: &str| {
        // The reader is gone before the command begins.
        let words = format!("{{ sleep 0.2; {command}; echo $? >code; }} | true; cat code");
        place.shell(&words).ok()
    };
    let absent = Digest::of(b"absent");
    assert_eq!(code(&format!("$PINSTONE has {absent}")), "3\n");
    assert_eq!(code(&format!("$PINSTONE --json has {absent}")), "3\n");
    assert_eq!(code("echo x >file; $PINSTONE put file absent 2>err"), "1\n");
    assert_eq!(code("$PINSTONE put file"), "0\n");
    assert_eq!(
        code("mkdir -p tree; mkfifo tree/pipe; $PINSTONE import tree --as tree 2>err"),
        "7\n"
    );
}

#[test]
fn the_environment_chooses_the_io_engine() {
    let place = Place::new();
    place.store_value("head", b"value");
    let engine = |choice: &str| {
        place.shell(&format!("PINSTONE_IO={choice} $PINSTONE stats | sed -n 's,io_engine *,,p'"))
    };
    assert_eq!(engine("positioned").ok(), "positioned\n");
    let chosen = engine("auto").ok();
    assert_eq!(engine("").ok(), chosen);
    if chosen.ends_with("io_uring\n") {
        assert_eq!(engine("uring").ok(), chosen);
    }
    let refused = place.shell("PINSTONE_IO=Uring $PINSTONE stats").failed(1);
    let why = "choosing the I/O engine by PINSTONE_IO: expected auto, uring or positioned, found \"Uring\"";
    assert!(refused.contains(why), "{refused}");
}

#[test]
fn a_full_device_on_stdout_is_a_failure() {
    let place = Place::new();
    let digest = place.store_value("head", b"value");
    let answers = ["--help", "--version", "get --help", "help batch"];
    for args in ["get @head", "pointer list", "stats", "check"].into_iter().chain(answers) {
        let ran = place.shell(&format!("$PINSTONE {args} > /dev/full"));
        assert!(ran.failed(1).starts_with("pinstone: cannot write to standard output: "), "{args}");
    }
    let told = place.shell("$PINSTONE pointer list --json > /dev/full").failed(1);
    assert!(told.contains("cannot write to standard output: "), "{told}");
    // What it was asked to do is done all the same.
    let ran = place.shell(&format!("$PINSTONE pointer set other {digest} --json > /dev/full"));
    ran.failed(1);
    place.expect_value("other", b"value");
}

#[test]
fn names_may_be_no_text() {
    let place = Place::new();
    let digest = place.store_value("head", b"value").to_string();
    let name = OsStr::from_bytes(b"\xff\xfe");
    let reference = OsStr::from_bytes(b"@\xff\xfe");
    let word = OsStr::new;
    place.run(&[word("pointer"), word("set"), name, word(&digest)]).ok();
    assert_eq!(place.run(&[word("get"), reference]).ok(), "value");
    let listed = place.run(&[word("pointer"), word("list"), OsStr::from_bytes(b"\xff")]).ok();
    assert_eq!(listed, format!("{digest}\t\\377\\376\n"));
    place.run(&[word("pointer"), word("delete"), name]).ok();
    place.run(&[word("pointer"), word("get"), name]).failed(3);
}

#[test]
fn a_value_is_any_bytes() {
    let place = Place::new();
    let every: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for value in [&b""[..], b"\0", b"no newline", &every] {
        let digest = place.store_value("head", value);
        place.expect_value("head", value);
        place.words(&format!("get {digest} -o copy")).ok();
        assert_eq!(std::fs::read(place.path().join("copy")).unwrap(), value);
    }
}

#[test]
fn a_failed_get_leaves_the_file_as_it_was() {
    let place = Place::new();
    place.store_value("head", b"value");
    let file = place.file("file", "before");
    place.words("get @nobody -o file").failed(3);
    assert_eq!(std::fs::read(&file).unwrap(), b"before");
    place.words("get @head -o file").ok();
    assert_eq!(std::fs::read(&file).unwrap(), b"value");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
}

#[test]
fn nothing_is_written_among_the_stores_files() {
    let place = Place::new();
    place.store_value("head", b"value");
    std::fs::create_dir(place.path().join("tree")).unwrap();
    assert_eq!(place.words("import tree --as tree").code, 0);
    std::fs::create_dir(place.store().join("empty")).unwrap();
    std::os::unix::fs::symlink("pinstone-data", place.path().join("link")).unwrap();
    let current = place.store().join("CURRENT");
    std::os::unix::fs::symlink(&current, place.path().join("current")).unwrap();
    std::os::unix::fs::symlink("link/new", place.path().join("new")).unwrap();
    let listed = || {
        let entries = std::fs::read_dir(place.store()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        // Each open has a root log of its own.
        names.retain(|name| !name.to_string_lossy().starts_with("root-"));
        names.sort();
        (names, std::fs::read(&current).unwrap().len())
    };
    let before = listed();
    for command in [
        "get @head -o pinstone-data/CURRENT",
        "get @head -o link/new",
        "get @head -o current",
        "get @head -o new",
        "get @head -o pinstone-data/empty/new",
        "export @tree pinstone-data",
        "export @tree pinstone-data/empty",
        "export @tree link/empty/../new/newer",
        "export @tree tree/../link/new",
        "export @tree link/",
    ] {
        let error = place.words(command).failed(1);
        assert!(
            error.contains("in the store's directory") || error.contains("is the store"),
            "{error}"
        );
        assert_eq!(listed(), before, "{command}");
    }
    // Beside it all is well.
    place.words("get @head -o pinstone-data/../copy").ok();
    assert_eq!(place.words("export @tree pinstone-data/../tree").code, 0);
}

#[test]
fn what_recovery_did_is_traced_and_among_the_figures() {
    let place = Place::new();
    let mut batch = place.batch();
    batch.ask_ok(r#"{"op":"commit","set_data":{"head":"dmFsdWU="}}"#);
    batch.ask_ok(r#"{"op":"commit","set_data":{"other":"b3RoZXI="}}"#);
    batch.kill();
    tear(&place, "blob-", 10);
    tear(&place, "pointer-", 7);
    let mut command = place.command(pinstone());
    let output = command.args(["--json", "stats"]).env("PINSTONE_LOG", "info").output().unwrap();
    let trace = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{trace}");
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (figure, value) in [
        ("created", "false"),
        ("clean", "false"),
        ("frames_replayed", "4"),
        ("values_replayed", "2"),
        ("commits_replayed", "2"),
        ("bytes_cut", "17"),
    ] {
        assert_eq!(stats["recovery"][figure].to_string(), value, "{figure}");
        assert!(trace.contains(&format!("{figure}: {value}")), "{figure}: {trace}");
    }
    assert_eq!(place.words("check").ok(), "ok\n");
    place.expect_value("head", b"value");
    place.expect_value("other", b"other");
}

/// Writes that many bytes behind the last frame of the last segment of a log, where a frame would begin.
fn tear(place: &Place, log: &str, count: usize) {
    let entries = std::fs::read_dir(place.store()).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(log));
    let path = paths.iter().max().unwrap();
    let bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0xff; count], end.next_multiple_of(512) as u64).unwrap();
}

#[test]
fn an_unreadable_file_does_not_keep_the_others_out() {
    let place = Place::new();
    place.file("one", "one");
    place.file("two", "two");
    let ran = place.words("put one missing two");
    let lines = format!("{}\tone\n{}\ttwo\n", Digest::of(b"one"), Digest::of(b"two"));
    assert_eq!((ran.code, ran.text()), (1, lines));
    assert_eq!(ran.err, "pinstone: cannot read missing: No such file or directory (os error 2)\n");
    place.words(&format!("has {} {}", Digest::of(b"one"), Digest::of(b"two"))).ok();
}
