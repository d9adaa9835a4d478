//! `pinstone get`: a value goes to stdout or into a file.
//!
//! - G1: a regular file appears whole or not at all: the value is written and synced beside it, and
//!   then renamed over it.
//! - G2: nothing is written among the store's files, whatever path leads there.
//! - G3: what was asked to go to stdout by any path of its (`/dev/stdout`) goes on where stdout
//!   stands, and replaces nothing.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::Serialize;

use crate::cli::GetArgs;
use crate::context::{Absent, Context, resolve};
use crate::dir_stack::{FileId, is_within};
use crate::exit::{CliError, Exit};
use crate::text::{self, Base64, DigestText};

/// setuid and setgid: what makes a program run as its owner.
const SETID_BITS: u32 = 0o6000;

/// Links that lead from one to the next: as many as the system follows.
const LINKS_MAX: usize = 40;

#[derive(Serialize)]
struct Document<'a> {
    digest: DigestText<'a>,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<Base64<'a>>,
    #[serde(flatten)]
    path: Option<text::Path<'a>>,
}

pub(crate) fn run(context: &mut Context, args: &GetArgs) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let digest = resolve(&store, &args.reference)?;
    let value = store.get(&digest)?.ok_or(CliError::ValueAbsent(digest))?;
    let output = args.output.as_deref().filter(|path| !is_stdout(path));
    if let Some(path) = output {
        write(path, &value, FileId::at(context.store_path()))?;
    }
    if context.json() {
        context.document(&Document {
            digest: DigestText(&digest),
            bytes: value.len(),
            data_base64: output.is_none().then_some(Base64(&value)),
            path: output.map(|path| text::Path::of(path.as_os_str().as_bytes())),
        })?;
    } else if output.is_none() {
        context.bytes(&value)?;
    }
    context.flush()?;
    context.release(store);
    Ok(Exit::Ok)
}

fn is_stdout(path: &Path) -> bool {
    let id = |stat: Stat| FileId::of(&stat);
    path == Path::new("-")
        || rustix::fs::stat(path)
            .is_ok_and(|there| rustix::fs::fstat(io::stdout()).map(id) == Ok(id(there)))
}

/// What a path leads to.
enum Target {
    /// A regular file, with its mode if it is there.
    File(PathBuf, Option<u32>),
    /// A device, a FIFO or a socket.
    Special,
}

impl Target {
    /// Symlinks stay: it is what they lead to that is written, there or not.
    fn at(path: &Path) -> io::Result<Self> {
        match std::fs::metadata(path) {
            Ok(there) if there.is_file() => {
                Ok(Self::File(std::fs::canonicalize(path)?, Some(there.permissions().mode())))
            }
            Ok(there) if there.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => Ok(Self::Special),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::File(end_of_links(path)?, None))
            }
            Err(error) => Err(error),
        }
    }
}

/// Where symlinks lead that lead to nothing.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        path = match std::fs::read_link(&path) {
            Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
            Err(error) => {
                return match error.kind() {
                    // Nothing is there, or no link.
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => Ok(path),
                    _ => Err(error),
                };
            }
        };
    }
    Err(Errno::LOOP.into())
}

fn write(path: &Path, value: &[u8], store_id: Option<FileId>) -> Result<(), CliError> {
    let failed = |error| CliError::file("write", path, error);
    match Target::at(path).map_err(failed)? {
        Target::File(file, mode) => {
            let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
            let dir = dir.unwrap_or(Path::new("."));
            if lies_in(dir, store_id).map_err(failed)? {
                return Err(CliError::InStore { path: text::shown(path) });
            }
            replace(dir, &file, mode, value).map_err(failed)
        }
        Target::Special => {
            let opened = File::options().write(true).open(path);
            opened.and_then(|mut file| file.write_all(value)).map_err(failed)
        }
    }
}

fn lies_in(dir: &Path, store_id: Option<FileId>) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty())?;
    store_id.map_or(Ok(false), |id| is_within(opened, id))
}

/// Writes `file` of `dir` beside itself, and renames it.
fn replace(dir: &Path, file: &Path, mode: Option<u32>, value: &[u8]) -> io::Result<()> {
    // What the umask leaves of these is what any new file has.
    let new = Permissions::from_mode(0o666);
    let mut builder = tempfile::Builder::new();
    let beside = builder.prefix(".pinstone-").permissions(new).tempfile_in(dir);
    // Said without the name of a file that nobody asked for.
    let mut beside = beside.map_err(|error| io::Error::from(error.kind()))?;
    if let Some(mode) = mode {
        // The file will be ours, whosever it was: it must not run as us.
        beside.as_file().set_permissions(Permissions::from_mode(mode & !SETID_BITS))?;
    }
    beside.as_file_mut().write_all(value)?;
    beside.as_file().sync_all()?;
    beside.persist(file).map(drop).map_err(|failed| failed.error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        write(&file, b"one", None).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o6711)).unwrap();
        write(&file, b"two", None).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o711);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symlink_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, b"one").unwrap();
        symlink("file", &link).unwrap();
        write(&link, b"two", None).unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
    }

    #[test]
    fn a_symlink_to_nothing_stays_one_and_leads_to_the_file_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("sub")).unwrap();
        symlink("sub/second", path("first")).unwrap();
        symlink("../file", path("sub/second")).unwrap();
        write(&path("first"), b"value", None).unwrap();
        assert_eq!(std::fs::read(path("file")).unwrap(), b"value");
        assert!(path("first").is_symlink() && path("sub/second").is_symlink());

        symlink("nowhere/file", path("lost")).unwrap();
        assert!(write(&path("lost"), b"value", None).is_err());
        symlink("ring", path("ring")).unwrap();
        assert!(write(&path("ring"), b"value", None).is_err());
        assert!(path("lost").is_symlink() && path("ring").is_symlink());
    }

    #[test]
    fn a_device_stays_one_and_a_directory_is_refused() {
        write(Path::new("/dev/null"), b"value", None).unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
        let dir = tempfile::tempdir().unwrap();
        let refused = write(dir.path(), b"value", None).unwrap_err();
        assert!(
            matches!(refused, CliError::File { source, .. } if source.kind() == io::ErrorKind::IsADirectory)
        );
    }

    #[test]
    fn a_refusal_names_no_file_that_nobody_asked_for() {
        let refused = write(Path::new("/proc/value"), b"value", None).unwrap_err();
        let refused = crate::exit::chain(&refused);
        assert!(!refused.contains(".pinstone-"), "{refused}");
    }
}
