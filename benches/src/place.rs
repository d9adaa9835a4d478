//! Where stores and floors stand: a directory of its own on a real file system.
//!
//! - L1: a file system in memory is refused: its syncs cost nothing, so every figure would lie.
//! - L2: the directory goes when its owner does.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Says where, if not in the build's target directory.
const VARIABLE: &str = "PINSTONE_BENCH_DIR";

/// `statfs`'s name for tmpfs.
const TMPFS: i64 = 0x0102_1994;

/// A directory that is removed when dropped.
#[derive(Debug)]
pub struct Place(TempDir);

impl Place {
    /// In `PINSTONE_BENCH_DIR`, else in the target directory.
    ///
    /// # Panics
    /// If it cannot be made, or is in memory.
    pub fn new() -> Self {
        let given = std::env::var_os(VARIABLE).map(PathBuf::from);
        Self::inside(&given.unwrap_or_else(target))
    }

    /// In this directory.
    ///
    /// # Panics
    /// As [`Place::new`].
    pub fn inside(parent: &Path) -> Self {
        std::fs::create_dir_all(parent).expect("the place for benchmarks can be made");
        let stat = rustix::fs::statfs(parent).expect("its file system has a name");
        assert!(stat.f_type != TMPFS, "{} is in memory (L1)", parent.display());
        let place = tempfile::Builder::new().prefix("pinstone-bench-").tempdir_in(parent);
        Self(place.expect("a directory can be made there"))
    }

    /// A path in it where nothing stands: what stood there is removed.
    ///
    /// # Panics
    /// If it cannot be removed.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).expect("what we made, we can remove");
        } else if path.exists() {
            std::fs::remove_file(&path).expect("what we made, we can remove");
        }
        path
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// The target directory that this program was built into.
fn target() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows where it is");
    let target = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    target.map_or_else(|| PathBuf::from("target"), Path::to_owned)
}

/// Copies a store as a kill would leave it: the files as they are now, without the lock.
///
/// # Panics
/// If a file cannot be copied.
pub fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("nothing stands there");
    for entry in std::fs::read_dir(from).expect("a store is a directory") {
        let entry = entry.expect("its names can be read");
        if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("its files can be read");
        }
    }
}
