//! `pinstone get`: a value goes to stdout or into a file.
//!
//! - G1: a regular file appears whole or not at all: the value is written and synced beside it, and
//!   then renamed over it.
//! - G2: what was asked to go to stdout by any path of its (`/dev/stdout`) goes on where stdout
//!   stands, and replaces nothing.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Stat;
use serde::Serialize;

use crate::cli::GetArgs;
use crate::context::{Absent, Context, resolve};
use crate::dir_stack::FileId;
use crate::exit::{CliError, Exit};
use crate::text::{self, Base64, DigestText};

/// setuid and setgid: what makes a program run as its owner.
const SETID_BITS: u32 = 0o6000;

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
        write(path, &value).map_err(|error| CliError::file("write", path, error))?;
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

fn write(path: &Path, value: &[u8]) -> io::Result<()> {
    // A symlink stays one: its target is replaced.
    let (path, permissions) = match std::fs::metadata(path) {
        // The file will be ours, whosever it was: it must not run as us.
        Ok(there) if there.is_file() => {
            let mode = there.permissions().mode() & !SETID_BITS;
            (std::fs::canonicalize(path)?, Some(Permissions::from_mode(mode)))
        }
        Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => return File::options().write(true).open(path)?.write_all(value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
        Err(error) => return Err(error),
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Said of the directory, not of a file in it that nobody asked for.
    std::fs::metadata(dir)?;
    // What the umask leaves of these is what any new file has.
    let new = Permissions::from_mode(0o666);
    let mut builder = tempfile::Builder::new();
    let file = builder.prefix(".pinstone-").permissions(new).tempfile_in(dir);
    let mut file = file.map_err(|error| io::Error::from(error.kind()))?;
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions)?;
    }
    file.as_file_mut().write_all(value)?;
    file.as_file().sync_all()?;
    file.persist(&path).map(drop).map_err(|failed| failed.error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        write(&file, b"one").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o6711)).unwrap();
        write(&file, b"two").unwrap();
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
        write(&link, b"two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
    }

    #[test]
    fn a_device_stays_one_and_a_directory_is_refused() {
        write(Path::new("/dev/null"), b"value").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
        let dir = tempfile::tempdir().unwrap();
        let refused = write(dir.path(), b"value").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_refusal_names_no_file_that_nobody_asked_for() {
        let refused = write(Path::new("/proc/value"), b"value").unwrap_err().to_string();
        assert!(!refused.contains(".pinstone-"), "{refused}");
    }
}
