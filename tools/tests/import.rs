//! Import and export give back every file, directory and symlink, byte for byte, with modes, times
//! and names; what cannot be kept is told; nothing leads out of the target; nothing is stored twice.
//!
//! The trees are compared by this file's own walk, which shares no code with the commands.
//! `PINSTONE_TEST_TREE` names a directory to be taken through import and export too.

#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a test, not the engine"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use pinstone::{Digest, Store};
use pinstone_tools::import::{ImportOptions, ImportSummary, import};
use pinstone_tools::tree::{Entry, Meta, Node, TreeBuilder};
use pinstone_tools::watch::{Notice, Watch};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

/// A directory that is removed at the end, however deep and whatever its modes.
struct Sandbox(PathBuf);

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !is_root() {
            let _ = Command::new("chmod").arg("-R").arg("u+rwx").arg(&self.0).output();
        }
        let _ = Command::new("rm").arg("-rf").arg(&self.0).output();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn pinstone<S: AsRef<OsStr>>(store: &Path, args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinstone"));
    command.env_remove("PINSTONE_STORE").arg("--store").arg(store).args(args);
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command with `--json` and gives its document.
fn json(store: &Path, code: i32, args: &[&OsStr]) -> serde_json::Value {
    let output = pinstone(store, [OsStr::new("--json")].iter().chain(args));
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn import_json(store: &Path, code: i32, dir: &Path) -> serde_json::Value {
    json(store, code, &["import".as_ref(), dir.as_ref(), "--as".as_ref(), "tree".as_ref()])
}

fn export_ok(store: &Path, reference: &str, dir: &Path) {
    let output = pinstone(store, ["export".as_ref(), OsStr::new(reference), dir.as_ref()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

// --- What is compared -------------------------------------------------------------------------

#[derive(Debug, PartialEq, Eq)]
enum Content {
    File { len_bytes: usize, digest: Digest },
    Directory,
    Symlink { target: Vec<u8> },
}

#[derive(Debug, PartialEq, Eq)]
struct Item {
    content: Content,
    mode: u32,
    mtime: (i64, i64),
}

/// Everything in `root` but `skipped`, and files that are neither regular, directory nor symlink.
fn manifest(root: &Path, skipped: &[&[u8]]) -> BTreeMap<Vec<u8>, Item> {
    let mut items = BTreeMap::new();
    let root = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let root = Rc::new(root);
    // The name is looked up in the directory only when its turn comes: few are open at a time.
    let mut todo: Vec<(Vec<u8>, Rc<OwnedFd>, Vec<u8>)> = vec![(Vec::new(), root, b".".to_vec())];
    while let Some((path, above, name)) = todo.pop() {
        if skipped.contains(&&*path) {
            continue;
        }
        let stat = rustix::fs::statat(&above, &*name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let content = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let file = rustix::fs::openat(&above, &*name, OFlags::RDONLY, Mode::empty());
                let mut file = std::fs::File::from(file.unwrap());
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                Content::File { len_bytes: bytes.len(), digest: Digest::of(&bytes) }
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let dir = rustix::fs::openat(&above, &*name, flags, Mode::empty()).unwrap();
                let dir = Rc::new(dir);
                for entry in rustix::fs::Dir::read_from(&dir).unwrap() {
                    let name = entry.unwrap().file_name().to_bytes().to_vec();
                    if name != b"." && name != b".." {
                        let mut path = path.clone();
                        if !path.is_empty() {
                            path.push(b'/');
                        }
                        path.extend(&name);
                        todo.push((path, Rc::clone(&dir), name));
                    }
                }
                Content::Directory
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&above, &*name, Vec::new()).unwrap();
                Content::Symlink { target: target.into_bytes() }
            }
            _ => continue,
        };
        let mtime = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap());
        items.insert(path, Item { content, mode: stat.st_mode & 0o7777, mtime });
    }
    items
}

fn assert_same(expected: &BTreeMap<Vec<u8>, Item>, found: &BTreeMap<Vec<u8>, Item>) {
    let mut differences = Vec::new();
    for path in expected.keys().chain(found.keys().filter(|path| !expected.contains_key(*path))) {
        let (expected, found) = (expected.get(path), found.get(path));
        if expected != found {
            let path = path.escape_ascii();
            differences.push(format!("{path}: expected {expected:?}, found {found:?}"));
        }
    }
    let count = differences.len();
    differences.truncate(20);
    assert!(count == 0, "{count} differences:\n{}", differences.join("\n"));
}

// --- The generated tree -----------------------------------------------------------------------

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

const FILES: usize = 50_000;

/// Seconds at which file systems and programs have been wrong. Not each file system keeps each.
const TIMES: [(i64, i64); 10] = [
    (0, 0),
    (-1, 999_999_999),
    (-1, 0),
    (-2_147_483_648, 1),
    (-2_000_000_000, 123_456_789),
    (1, 1),
    (2_147_483_647, 999_999_999),
    (2_147_483_648, 0),
    (4_294_967_296, 500_000_000),
    (15_032_385_535, 7),
];

fn times((seconds, nanos): (i64, i64)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
    }
}

fn open_dir(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn make_dir(dir: &OwnedFd, name: &[u8]) -> OwnedFd {
    rustix::fs::mkdirat(dir, name, Mode::RWXU).unwrap();
    rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn make_file(dir: &OwnedFd, name: &[u8], bytes: &[u8], mode: u32, time: (i64, i64)) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, bytes).unwrap();
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).unwrap();
    rustix::fs::futimens(&file, &times(time)).unwrap();
}

fn make_symlink(dir: &OwnedFd, name: &[u8], target: &[u8], time: (i64, i64)) {
    rustix::fs::symlinkat(target, dir, name).unwrap();
    rustix::fs::utimensat(dir, name, &times(time), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn finish_dir(dir: &OwnedFd, mode: u32, time: (i64, i64)) {
    rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)).unwrap();
    rustix::fs::futimens(dir, &times(time)).unwrap();
}

/// What only root may read is made by root only.
fn readable(mode: u32, always: u32) -> u32 {
    if is_root() { mode } else { mode | always }
}

/// Makes the tree in `root` and gives how many entries it has that cannot be kept.
fn generate(root: &Path) -> u64 {
    let mut numbers = Numbers(1);
    let mut files = 0;
    let top = open_dir(root);
    let some_time = |numbers: &mut Numbers| match numbers.below(4) {
        0 => TIMES[numbers.below(TIMES.len() as u64) as usize],
        _ => {
            let nanos = numbers.below(1_000_000_000) as i64;
            (1_600_000_000 + numbers.below(100_000_000) as i64, nanos)
        }
    };

    // Every mode a file can have, and many that a directory can.
    let modes = make_dir(&top, b"modes");
    for mode in 0..=0o7777 {
        let name = format!("{mode:04o}");
        make_file(&modes, name.as_bytes(), name.as_bytes(), readable(mode, 0o400), (9, 9));
        files += 1;
    }
    finish_dir(&modes, 0o755, (8, 8));
    let modes = make_dir(&top, b"directory modes");
    for mode in (0..=0o7777).step_by(13) {
        let name = format!("{mode:04o}");
        let dir = make_dir(&modes, name.as_bytes());
        make_file(&dir, b"in", b"in", 0o644, (9, 9));
        finish_dir(&dir, readable(mode, 0o500), TIMES[mode as usize % TIMES.len()]);
        files += 1;
    }
    finish_dir(&modes, readable(0o000, 0o500), (-8, 8));

    // Every byte that a name can hold, and names that programs trip over.
    let names = make_dir(&top, b"names");
    let mut odd: Vec<Vec<u8>> = (1..=255u8)
        .filter(|byte| *byte != b'/')
        .map(|byte| if byte == b'.' { b"...".to_vec() } else { vec![byte] })
        .collect();
    odd.extend([vec![b'x'; 255], vec![0xff; 255], b"-rf".to_vec(), b"..a".to_vec()]);
    odd.extend([b"two\nlines".to_vec(), b"\\x41".to_vec(), "ä\u{301}".into(), b"a ".to_vec()]);
    for name in &odd {
        make_file(&names, name, name, 0o640, some_time(&mut numbers));
        files += 1;
    }
    make_dir(&names, b"\xfe\xff dir\n");
    finish_dir(&names, 0o755, (7, 7));

    let links = make_dir(&top, b"links");
    make_file(&links, b"file", b"linked to", 0o600, (6, 6));
    files += 1;
    let long = [b'y'; 4095];
    for (index, (name, target)) in [
        (&b"relative"[..], &b"file"[..]),
        (b"dangling", b"no such file"),
        (b"absolute", b"/etc/passwd"),
        (b"out", b"../../../../../../../../tmp"),
        (b"self", b"self"),
        (b"one", b"two"),
        (b"two", b"one"),
        (b"directory", b"."),
        (b"up", b".."),
        (b"bytes\xff", b"\xfe\n\xff"),
        (b"long", &long[..4000]),
    ]
    .into_iter()
    .enumerate()
    {
        make_symlink(&links, name, target, TIMES[index % TIMES.len()]);
    }
    let empty = AtFlags::empty();
    rustix::fs::linkat(&links, "file", &links, "hard link", empty).unwrap();
    rustix::fs::linkat(&links, "file", &top, "hard link", empty).unwrap();
    files += 2;
    finish_dir(&links, 0o1777, (5, 5));

    // Deeper than a path can name.
    let mut dir = make_dir(&top, b"deep");
    for depth in 0..1_500 {
        make_file(&dir, b"f", format!("{depth}").as_bytes(), 0o644, (depth, 1));
        files += 1;
        let below = make_dir(&dir, b"dir");
        finish_dir(&dir, 0o700, (depth, 2));
        dir = below;
    }
    finish_dir(&dir, 0o755, (4, 4));

    let sizes = make_dir(&top, b"sizes");
    for size in [0, 1, 1023, 1024, 1025, 65_536, 1 << 20, (8 << 20) + 1, 9 << 20] {
        let bytes = numbers.bytes(size);
        make_file(&sizes, format!("{size}").as_bytes(), &bytes, 0o444, (3, 3));
        make_file(&sizes, format!("{size} zeros").as_bytes(), &vec![0; size], 0o444, (3, 3));
        files += 2;
    }
    finish_dir(&sizes, 0o555, (3, 4));

    let special = make_dir(&top, b"special");
    let mut left_out = 2;
    rustix::fs::mknodat(&special, "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("special/socket")).unwrap());
    let null = rustix::fs::makedev(1, 3);
    match rustix::fs::mknodat(&special, "null", FileType::CharacterDevice, Mode::RUSR, null) {
        Ok(()) => left_out += 1,
        Err(error) => eprintln!("without a device node: {error}"),
    }
    make_symlink(&special, b"to fifo", b"fifo", (1, 1));
    finish_dir(&special, 0o755, (2, 2));

    // The bulk: many small files, some of them equal.
    let bulk = make_dir(&top, b"bulk");
    let per_dir = 150;
    let mut index = 0;
    while files < FILES {
        let dir = make_dir(&bulk, format!("{index:03}").as_bytes());
        for number in 0..per_dir.min(FILES - files) {
            let bytes = match numbers.below(8) {
                0 => Vec::new(),
                1 => b"the same in many files\n".to_vec(),
                2 => numbers.bytes(2000),
                _ => {
                    let count = numbers.below(300) as usize;
                    numbers.bytes(count)
                }
            };
            let time = some_time(&mut numbers);
            make_file(&dir, format!("file {number}").as_bytes(), &bytes, 0o644, time);
            files += 1;
        }
        if index % 9 == 0 {
            make_dir(&dir, b"empty");
        }
        finish_dir(&dir, 0o755, some_time(&mut numbers));
        index += 1;
    }
    make_dir(&top, b"store is here");
    finish_dir(&top, 0o2750, (-77, 77));
    left_out
}

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

// --- What is left out -------------------------------------------------------------------------

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

// --- .gitignore -------------------------------------------------------------------------------

fn write_all(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// The files that an import of `source` with `--gitignore` keeps.
fn kept_files(sandbox: &Sandbox, source: &Path) -> Vec<String> {
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let args = [OsStr::new("import"), source.as_ref(), "--as".as_ref(), "tree".as_ref()];
    let output = pinstone(&store, args.iter().chain([&OsStr::new("--gitignore")]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    export_ok(&store, "@tree", &target);
    let found = manifest(&target, &[]).into_iter();
    found
        .filter(|(_, item)| item.content != Content::Directory)
        .map(|(path, _)| String::from_utf8(path).unwrap())
        .collect()
}

#[test]
fn gitignore_files_are_followed_outside_a_repository_too() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    write_all(
        &source,
        &[
            (".gitignore", "*.o\n/target\n!sub/keep.o\n# comment\nlogs/\n"),
            (".hidden", ""),
            (".git/config", ""),
            (".github/workflow", ""),
            ("a.o", ""),
            ("a.c", ""),
            ("target/x", ""),
            ("sub/.gitignore", "!b.o\n*.tmp\n"),
            ("sub/a.o", ""),
            ("sub/b.o", ""),
            ("sub/keep.o", ""),
            ("sub/target/x.tmp", ""),
            ("sub/target/y", ""),
            ("sub/logs/z", ""),
            ("sub/deep/logs", "a file"),
            ("x.tmp", ""),
        ],
    );
    assert_eq!(
        kept_files(&sandbox, &source),
        [
            ".github/workflow",
            ".gitignore",
            ".hidden",
            "a.c",
            "sub/.gitignore",
            "sub/b.o",
            "sub/deep/logs",
            "sub/keep.o",
            "sub/target/y",
            "x.tmp",
        ]
    );
}

#[test]
fn a_part_of_a_repository_follows_the_rules_above_it() {
    let sandbox = Sandbox::new();
    let above = sandbox.path("above");
    write_all(
        &above,
        &[
            (".gitignore", "*.c\n"),
            ("repository/.git/config", ""),
            ("repository/.gitignore", "*.o\n/part/one\n/two\n"),
            ("repository/part/one", ""),
            ("repository/part/two", ""),
            ("repository/part/a.o", ""),
            ("repository/part/a.c", ""),
        ],
    );
    assert_eq!(kept_files(&sandbox, &above.join("repository/part")), ["a.c", "two"]);
}

/// Whether a test that needs this program can run; in CI it must.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    let required = std::env::var_os("PINSTONE_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(found || !required, "{program} is not installed");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Parts of rules, and of names that they may be about.
const RULE_PARTS: [&str; 24] = [
    "a",
    "b",
    "1",
    "/",
    "*",
    "**",
    "***",
    "?",
    "[ab]",
    "[!a]",
    "[^a-c]",
    "[[:digit:]]",
    "[![:alpha:]]",
    "[]a]",
    "[\\]a]",
    "[a",
    "\\a",
    "\\*",
    "{a,b}",
    ".",
    "**/",
    "/**",
    "A",
    "\\ ",
];
const NAME_PARTS: [&str; 14] =
    ["a", "b", "c", "1", "ab", "a1", "]", "*", "{a,b}", ".a", "A", "a ", "[a", "\\"];

#[test]
fn an_import_keeps_what_git_would() {
    if !is_installed("git") {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    let mut numbers = Numbers(7);
    for _ in 0..300 {
        let depth = 1 + numbers.below(3);
        let mut path = source.clone();
        path.extend((0..depth).map(|_| NAME_PARTS[numbers.below(14) as usize]));
        // Some are directories already, or would lie below files.
        let made = std::fs::create_dir_all(path.parent().unwrap());
        let _ = made.and_then(|()| std::fs::write(&path, ""));
    }
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&source).args(args).envs(
            ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"].map(|variable| (variable, "/dev/null")),
        );
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    git(&["init", "--quiet"]);
    let mut left_out = 0;
    for round in 0..40 {
        let mut rules = String::new();
        for _ in 0..1 + numbers.below(4) {
            rules.push_str(["", "", "", "!"][numbers.below(4) as usize]);
            for _ in 0..1 + numbers.below(4) {
                rules.push_str(RULE_PARTS[numbers.below(24) as usize]);
            }
            rules.push('\n');
        }
        std::fs::write(source.join(".gitignore"), &rules).unwrap();
        let listed = git(&["ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]);
        let expected: BTreeSet<_> =
            listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
        left_out += usize::from(expected.len() < 100);

        let kept = kept_files(&sandbox, &source);
        std::fs::remove_dir_all(sandbox.path("target")).unwrap();
        let kept: BTreeSet<_> = kept.iter().map(String::as_bytes).collect();
        let difference = expected.symmetric_difference(&kept);
        let difference: Vec<_> = difference.map(|path| path.escape_ascii().to_string()).collect();
        assert!(difference.is_empty(), "round {round}: {difference:?} with the rules\n{rules}");
    }
    assert!(left_out > 3, "the rules were about something");
}

// --- Export -----------------------------------------------------------------------------------

const META: Meta = Meta { mode: 0o755, mtime_seconds: 5, mtime_nanos: 6 };

fn put(store: &Path, bytes: &[u8]) -> Digest {
    let store = Store::open(store).unwrap();
    let put = store.put(bytes).unwrap();
    store.sync().unwrap();
    store.close().unwrap();
    put.digest
}

fn export(store: &Path, digest: Digest, target: &Path) -> (Option<i32>, String) {
    let digest = digest.to_string();
    let output = pinstone(store, ["export".as_ref(), OsStr::new(&digest), target.as_ref()]);
    assert!(output.stdout.is_empty());
    (output.status.code(), stderr(&output))
}

#[test]
fn only_an_absent_or_empty_directory_is_exported_into() {
    let sandbox = Sandbox::new();
    let store = sandbox.path("store");
    let tree = put(&store, &TreeBuilder::new(&META).unwrap().finish());
    let target = sandbox.path("a/b/target");
    assert_eq!(export(&store, tree, &target).0, Some(0));
    assert_eq!(manifest(&target, &[])[&b""[..]].mtime, (5, 6));
    assert_eq!(export(&store, tree, &target).0, Some(0));
    std::fs::write(target.join("file"), "").unwrap();
    let (code, told) = export(&store, tree, &target);
    assert_eq!(code, Some(1));
    assert!(told.contains("is not empty"), "{told}");
    assert_eq!(export(&store, tree, &target.join("file")).0, Some(1));
}

#[test]
fn what_is_no_tree_is_not_exported() {
    let sandbox = Sandbox::new();
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let plain = put(&store, b"a plain value");
    let (code, told) = export(&store, plain, &target);
    assert_eq!(code, Some(1));
    assert!(told.contains("the value is no tree"), "{told}");
    assert_eq!(export(&store, Digest::of(b"absent"), &target).0, Some(3));
    assert!(!target.exists());
}

#[test]
fn a_hostile_tree_writes_nothing_outside() {
    let sandbox = Sandbox::new();
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let content = put(&store, b"content");
    for name in ["../out", "..", ".", "/tmp/out", "a/b", ""] {
        // A tree with a good name of the same length, and then the bad one in its place.
        let good = "n".repeat(name.len().max(1));
        let mut builder = TreeBuilder::new(&META).unwrap();
        let node = Node::File { meta: META, len_bytes: 7, digest: content };
        builder.push(&Entry { name: good.as_bytes(), node }).unwrap();
        let mut value = builder.finish();
        let at = 30;
        assert_eq!(&value[at..at + good.len()], good.as_bytes());
        value.splice(at..at + good.len(), name.bytes());
        value[at - 1] = name.len() as u8;
        let tree = put(&store, &value);
        let (code, told) = export(&store, tree, &target);
        assert_eq!(code, Some(1), "{name:?}");
        assert!(told.contains("malformed at offset 30"), "{told}");
        assert!(!target.exists());
    }
    assert!(!sandbox.path("out").exists());

    // A link out, and below it a directory of the same name: no such tree is ever read.
    let link = Node::Symlink { meta: META, target: sandbox.0.as_os_str().as_bytes() };
    let mut builder = TreeBuilder::new(&META).unwrap();
    builder.push(&Entry { name: b"n", node: link }).unwrap();
    assert!(builder.push(&Entry { name: b"n", node: link }).is_err());
}

#[test]
fn what_is_missing_is_told_and_the_rest_is_exported() {
    let sandbox = Sandbox::new();
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let content = put(&store, b"content");
    let mut builder = TreeBuilder::new(&META).unwrap();
    let file = |len_bytes, digest| Node::File { meta: META, len_bytes, digest };
    let absent = Digest::of(b"absent");
    for (name, node) in [
        ("absent", file(6, absent)),
        ("absent dir", Node::Directory { digest: absent }),
        ("good", file(7, content)),
        ("no dir", Node::Directory { digest: content }),
        ("other length", file(8, content)),
        ("zero link", Node::Symlink { meta: META, target: b"good" }),
    ] {
        builder.push(&Entry { name: name.as_bytes(), node }).unwrap();
    }
    let tree = put(&store, &builder.finish());
    let (code, told) = export(&store, tree, &target);
    assert_eq!(code, Some(1), "{told}");
    for name in ["absent", "absent dir", "no dir", "other length"] {
        assert!(told.contains(&format!("{}/{name}: left out: ", target.display())), "{told}");
    }
    let found: Vec<_> = manifest(&target, &[]).into_keys().collect();
    assert_eq!(found, ["", "good", "zero link"].map(|path| path.as_bytes().to_vec()));
}

#[test]
fn setuid_bits_come_back_and_are_told_or_are_dropped() {
    let sandbox = Sandbox::new();
    let (source, store) = (sandbox.path("source"), sandbox.path("store"));
    std::fs::create_dir(&source).unwrap();
    let dir = open_dir(&source);
    make_file(&dir, b"setgid", b"program", 0o2711, (1, 1));
    make_file(&dir, b"setuid", b"program", 0o4755, (1, 1));
    make_file(&dir, b"sticky", b"", 0o1644, (1, 1));
    finish_dir(&make_dir(&dir, b"shared"), 0o3775, (1, 1));
    import_json(&store, 0, &source);
    let names = ["setgid", "setuid", "shared", "sticky"].map(str::as_bytes);
    let modes = |target: &Path| {
        let found = manifest(target, &[]);
        names.map(|name| found[name].mode)
    };

    let kept = sandbox.path("kept");
    let output = pinstone(&store, ["export".as_ref(), OsStr::new("@tree"), kept.as_ref()]);
    assert_eq!(output.status.code(), Some(0));
    let told =
        "2 files are setuid or setgid and run as you (--drop-setuid leaves these bits unset)\n";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
    assert_eq!(modes(&kept), [0o2711, 0o4755, 0o3775, 0o1644]);

    let dropped = sandbox.path("dropped");
    let args = ["export".as_ref(), OsStr::new("@tree"), dropped.as_ref(), "--drop-setuid".as_ref()];
    let output = pinstone(&store, args);
    assert_eq!(output.status.code(), Some(0));
    assert!(!stderr(&output).contains("setuid"), "{}", stderr(&output));
    assert_eq!(modes(&dropped), [0o711, 0o755, 0o3775, 0o1644]);
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
