//! What the system says of this process, and forgetting what it has cached of files.

use std::fs;
use std::path::Path;

/// Bytes of anonymous memory that are resident now; mapped files are not among them.
///
/// # Panics
/// If `/proc` does not say.
pub fn anonymous_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("the system tells of processes");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()).and_then(|kib| kib.parse().ok());
    let kib: u64 = kib.expect("the system tells of anonymous memory");
    kib << 10
}

/// What the process has asked of files since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Io {
    /// Calls that read.
    pub read_calls: u64,
    /// Bytes that had to come from a device.
    pub device_read_bytes: u64,
    /// Bytes that went, or will go, to a device.
    pub device_written_bytes: u64,
}

/// What it has asked until now.
///
/// # Panics
/// If `/proc` does not say.
pub fn io() -> Io {
    let text = fs::read_to_string("/proc/self/io").expect("the system counts what processes do");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().parse().ok()).expect("a count")
    };
    Io {
        read_calls: field("syscr:"),
        device_read_bytes: field("read_bytes:"),
        device_written_bytes: field("write_bytes:"),
    }
}

/// Drops what the page cache has of the files in this directory, once they are written.
///
/// # Panics
/// If a file cannot be opened or synced.
pub fn forget(dir: &Path) {
    for entry in fs::read_dir(dir).expect("the directory can be read") {
        let path = entry.expect("it can be listed").path();
        let file = fs::File::open(path).expect("our file opens");
        file.sync_all().expect("it can be synced");
        let advice = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&file, 0, None, advice).expect("the system takes advice");
    }
}

/// Drops what the page cache has of the files in this directory and in those beneath it, once all of
/// the file system is written. Names and attributes of files stay cached: only the administrator can
/// drop those, and for everybody.
///
/// # Panics
/// If a file cannot be opened, or the file system not synced.
pub fn forget_tree(dir: &Path) {
    rustix::fs::syncfs(fs::File::open(dir).expect("our directory opens"))
        .expect("it can be synced");
    each_file(dir, &mut |path| {
        let file = fs::File::open(path).expect("our file opens");
        let advice = rustix::fs::Advice::DontNeed;
        rustix::fs::fadvise(&file, 0, None, advice).expect("the system takes advice");
    });
}

/// Bytes that the files in this directory and in those beneath it take on the device.
///
/// # Panics
/// If it cannot be read.
pub fn allocated_tree_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    each_file(dir, &mut |path| {
        bytes += fs::metadata(path).expect("a file has a size").blocks() * 512;
    });
    bytes
}

fn each_file(dir: &Path, act: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).expect("the directory can be read") {
        let entry = entry.expect("it can be listed");
        if entry.file_type().expect("it is of some kind").is_dir() {
            each_file(&entry.path(), act);
        } else {
            act(&entry.path());
        }
    }
}

/// Bytes that the files in this directory take on the device.
///
/// # Panics
/// If it cannot be read.
pub fn allocated_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).expect("the directory can be read");
    let blocks = entries.map(|entry| entry.and_then(|entry| entry.metadata()).map(|m| m.blocks()));
    blocks.map(|blocks| blocks.expect("a file has a size")).sum::<u64>() * 512
}
