//! Places, the command, and what two trees are compared by.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use pinstone::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

/// A directory that is removed at the end, however deep and whatever its modes.
pub(crate) struct Sandbox(pub(crate) PathBuf);

impl Sandbox {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
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

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn pinstone<S: AsRef<OsStr>>(store: &Path, args: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinstone"));
    command.env_remove("PINSTONE_STORE").arg("--store").arg(store).args(args);
    command.output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command with `--json` and gives its document.
pub(crate) fn json(store: &Path, code: i32, args: &[&OsStr]) -> serde_json::Value {
    let output = pinstone(store, [OsStr::new("--json")].iter().chain(args));
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn import_json(store: &Path, code: i32, dir: &Path) -> serde_json::Value {
    json(store, code, &["import".as_ref(), dir.as_ref(), "--as".as_ref(), "tree".as_ref()])
}

pub(crate) fn export_ok(store: &Path, reference: &str, dir: &Path) {
    let output = pinstone(store, ["export".as_ref(), OsStr::new(reference), dir.as_ref()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    File { len_bytes: usize, digest: Digest },
    Directory,
    Symlink { target: Vec<u8> },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) content: Content,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, i64),
}

/// Everything in `root` but `skipped`, and files that are neither regular, directory nor symlink.
pub(crate) fn manifest(root: &Path, skipped: &[&[u8]]) -> BTreeMap<Vec<u8>, Item> {
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

pub(crate) fn assert_same(expected: &BTreeMap<Vec<u8>, Item>, found: &BTreeMap<Vec<u8>, Item>) {
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
