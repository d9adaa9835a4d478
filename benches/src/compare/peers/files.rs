//! A directory of files, as build caches and Git's loose objects have it.
//!
//! - A value is a file named by its digest in hexadecimal, under two levels of 256 directories that are
//!   made as they are needed. It is written to a temporary file and renamed, so that a name never
//!   stands for half a value.
//! - A load ends with `syncfs`: one call, where a million would be needed otherwise.
//! - A commit syncs the value's file, renames it, and syncs its directory; then it does the same with a
//!   file that holds the pointer. A crash between the two leaves a value without a pointer, which is
//!   what any crash before the commit leaves; a pointer without its value it never leaves.
//! - A pointer is a file of 32 bytes in one directory, with `/` in its name written as `%`. So a prefix
//!   scan lists the directory, sorts, and reads each file.
//! - Compare-and-set holds a lock of this process. Nothing is checked on reads.
//! - Nothing is cached but by the system; directories that are known to be there are remembered.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pinstone::Digest;

use crate::engine::{Engine, Fallible, Settings, Sink};
use crate::feed::Feed;

/// Directories of values.
const FAN_OUT: usize = 1 << 16;

struct Files {
    values: PathBuf,
    names: PathBuf,
    temporary: PathBuf,
    temporary_count: AtomicU64,
    /// Those of the [`FAN_OUT`] that are known to be there, and to be durable.
    made: Vec<AtomicBool>,
    one_at_a_time: Mutex<()>,
}

/// Opens a store.
pub(crate) fn open(dir: &Path, _settings: &Settings) -> Fallible<Box<dyn Engine>> {
    let [values, names, temporary] = ["values", "names", "tmp"].map(|part| dir.join(part));
    for part in [&values, &names, &temporary] {
        fs::create_dir_all(part)?;
    }
    sync_directory(dir)?;
    let made = (0..FAN_OUT).map(|_| AtomicBool::new(false)).collect();
    let (temporary_count, one_at_a_time) = (AtomicU64::new(0), Mutex::new(()));
    Ok(Box::new(Files { values, names, temporary, temporary_count, made, one_at_a_time }))
}

impl Files {
    fn value_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        // One allocation, whatever the parts.
        let mut path = PathBuf::with_capacity(self.values.as_os_str().len() + 72);
        path.push(&self.values);
        path.push(&hex[..2]);
        path.push(&hex[2..4]);
        path.push(&hex[4..]);
        path
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.names.join(name.replace('/', "%"))
    }

    /// Writes a file beside, and renames it.
    fn write(&self, path: &Path, bytes: &[u8], durable: bool) -> Fallible<()> {
        let number = self.temporary_count.fetch_add(1, Ordering::Relaxed);
        let temporary = self.temporary.join(number.to_string());
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_data()?;
        }
        drop(file);
        fs::rename(&temporary, path)?;
        if durable {
            sync_directory(path.parent().ok_or("a file is in a directory")?)?;
        }
        Ok(())
    }

    /// The digest, and whether the value was new.
    fn put(&self, value: &[u8], durable: bool) -> Fallible<(Digest, bool)> {
        let digest = Digest::of(value);
        let path = self.value_path(&digest);
        if exists(&path)? {
            return Ok((digest, false));
        }
        let directory = path.parent().ok_or("a value is in a directory")?;
        let [high, low, ..] = *digest.as_bytes();
        let made = &self.made[usize::from(high) << 8 | usize::from(low)];
        if !made.load(Ordering::Acquire) {
            fs::create_dir_all(directory)?;
            if durable {
                sync_directory(directory.parent().ok_or("two levels")?)?;
                sync_directory(&self.values)?;
            }
            made.store(true, Ordering::Release);
        }
        self.write(&path, value, durable)?;
        Ok((digest, true))
    }
}

impl Engine for Files {
    fn load(&self, values: &mut Feed) -> Fallible<u64> {
        let mut new_count = 0;
        while let Some(value) = values.next() {
            new_count += u64::from(self.put(value, false)?.1);
        }
        Ok(new_count)
    }

    fn get(&self, digest: &Digest, sink: &mut Sink) -> Fallible<bool> {
        let mut file = match File::open(self.value_path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut value = Vec::new();
        // Asks for its length first, and so reads all of it at once.
        file.read_to_end(&mut value)?;
        sink.take(&value);
        Ok(true)
    }

    fn contains(&self, digest: &Digest) -> Fallible<bool> {
        exists(&self.value_path(digest))
    }

    fn commit(&self, value: &[u8], name: &str) -> Fallible<()> {
        let (digest, _) = self.put(value, true)?;
        self.write(&self.name_path(name), digest.as_bytes(), true)
    }

    fn set_names(&self, names: &[String], digest: &Digest) -> Fallible<()> {
        for name in names {
            self.write(&self.name_path(name), digest.as_bytes(), false)?;
        }
        self.sync()
    }

    fn pointer(&self, name: &str) -> Fallible<Option<Digest>> {
        pointer_in(&self.name_path(name))
    }

    fn compare_and_set(&self, name: &str, old: &Digest, new: &Digest) -> Fallible<bool> {
        let _alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.name_path(name);
        if pointer_in(&path)? != Some(*old) {
            return Ok(false);
        }
        self.write(&path, new.as_bytes(), true)?;
        Ok(true)
    }

    fn scan(&self, prefix: &str) -> Fallible<u64> {
        let prefix = prefix.replace('/', "%");
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.names)? {
            let name = entry?.file_name();
            if name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        for name in &names {
            std::hint::black_box(pointer_in(&self.names.join(name))?);
        }
        Ok(names.len() as u64)
    }

    fn sync(&self) -> Fallible<()> {
        Ok(rustix::fs::syncfs(File::open(&self.values)?)?)
    }

    fn close(self: Box<Self>) -> Fallible<()> {
        Ok(())
    }
}

fn exists(path: &Path) -> Fallible<bool> {
    Ok(path.try_exists()?)
}

fn pointer_in(path: &Path) -> Fallible<Option<Digest>> {
    let mut bytes = [0; 32];
    match File::open(path) {
        Ok(mut file) => file.read_exact(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    Ok(Some(Digest::from_bytes(bytes)))
}

fn sync_directory(path: &Path) -> Fallible<()> {
    Ok(File::open(path)?.sync_all()?)
}
