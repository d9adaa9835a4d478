//! The tree value: one directory as one immutable value, and nothing of the machine.
//!
//! `docs/format.md` holds the layout; this file is its only writer and its only reader. A
//! [`TreeBuilder`] takes the entries in order and gives the bytes; a [`Cursor`] reads them back,
//! one entry at a time, and can be kept beside the bytes while other trees are read.
//!
//! Invariants:
//! - T1: one directory has one encoding. Entries stand in ascending order of their names' bytes, no
//!   name twice, numbers in their shortest form, and what has no meaning is zero; so equal
//!   directories have equal digests.
//! - T2: reading refuses every byte sequence that the builder never gives, without panic, and never
//!   allocates by what the bytes claim.
//! - T3: no name is empty, `.` or `..`, nor holds `/` or NUL: a name read from a tree is one
//!   component below the directory it is made in, whoever wrote the tree.
//!
//! What a directory holds beyond this (owners, extended attributes, holes, hard links) is no part
//! of the format.

use pinstone::Digest;
use pinstone_disk::codec::{Malformed, Reader, put_varint};
use pinstone_disk::{DIGEST_BYTES, DigestKind};

/// The first bytes of every tree value.
pub const MAGIC: [u8; 7] = *b"\x89PINTRE";

/// The format's version, the byte after [`MAGIC`].
pub const VERSION: u8 = 1;

/// Bytes before the first entry.
pub const HEADER_BYTES: usize = 28;

/// Where the header's entry count stands.
const COUNT_OFFSET: usize = 24;

/// Bytes of the longest name of an entry: more than Linux's 255, as much as any file system served through
/// FUSE may have.
pub const ENTRY_NAME_BYTES_MAX: usize = 1024;

/// Bytes of the longest symlink target: the most that `symlink` takes.
pub const TARGET_BYTES_MAX: usize = 4095;

/// The mode bits that are kept: permissions, setuid, setgid, sticky.
pub const MODE_MASK: u16 = 0o7777;

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// What is kept of a file, directory or symlink beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, setuid, setgid and sticky: within [`MODE_MASK`].
    pub mode: u16,
    /// Last modification, in seconds since 1970, negative before.
    pub mtime_seconds: i64,
    /// Nanoseconds of the last modification after `mtime_seconds`: below 10^9.
    pub mtime_nanos: u32,
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// A regular file.
    File {
        /// Its mode and time.
        meta: Meta,
        /// Its length.
        len_bytes: u64,
        /// The value that holds its content.
        digest: Digest,
    },
    /// A directory; its mode and time stand in its own tree value.
    Directory {
        /// Its tree value.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Its mode and time.
        meta: Meta,
        /// Where it points: any bytes but NUL, at least one.
        target: &'a [u8],
    },
}

impl Node<'_> {
    /// The number written on disk for the kind.
    fn kind(&self) -> u8 {
        match self {
            Self::File { .. } => 1,
            Self::Directory { .. } => 2,
            Self::Symlink { .. } => 3,
        }
    }
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name: see T3.
    pub name: &'a [u8],
    /// What it stands for.
    pub node: Node<'a>,
}

/// Why bytes are not a tree value, or entries cannot become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The bytes do not begin as a tree value does.
    #[error("the value is no tree")]
    NotATree,
    /// The format's version is not known here.
    #[error("the tree has format version {version}, known is {VERSION}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// The digests are made by a function that is not known here.
    #[error("the tree names its values by digests of kind {kind}, which is not known")]
    DigestKind {
        /// The kind found.
        kind: u8,
    },
    /// The bytes begin as a tree value does but go on as none does.
    #[error("the tree is malformed at offset {offset}: {what}")]
    Malformed {
        /// Where, in the value.
        offset: usize,
        /// What was expected there.
        what: &'static str,
    },
    /// What was to be written cannot stand in a tree.
    #[error("a tree cannot hold this: {what}")]
    Unfit {
        /// The rule that it breaks.
        what: &'static str,
    },
}

impl From<Malformed> for TreeError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed { offset: malformed.offset, what: malformed.what }
    }
}

/// Writes one tree value.
#[derive(Clone, Debug)]
pub struct TreeBuilder {
    bytes: Vec<u8>,
    entry_count: u32,
    last_name: Vec<u8>,
}

impl TreeBuilder {
    /// Begins the tree of a directory with this mode and time.
    ///
    /// # Errors
    /// [`TreeError::Unfit`] if no tree can hold them.
    pub fn new(meta: &Meta) -> Result<Self, TreeError> {
        check_meta(meta)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.push(DigestKind::Blake3 as u8);
        bytes.push(0);
        put_meta(&mut bytes, meta);
        bytes.extend(0u32.to_le_bytes());
        debug_assert_eq!(bytes.len(), HEADER_BYTES);
        Ok(Self { bytes, entry_count: 0, last_name: Vec::new() })
    }

    /// Adds an entry, whose name must come after all those before.
    ///
    /// # Errors
    /// [`TreeError::Unfit`] if no tree can hold it there; nothing was added.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        check_name(entry.name).map_err(|what| TreeError::Unfit { what })?;
        if self.entry_count > 0 && self.last_name.as_slice() >= entry.name {
            return Err(TreeError::Unfit { what: NOT_ASCENDING });
        }
        match &entry.node {
            Node::File { meta, .. } => check_meta(meta)?,
            Node::Directory { .. } => {}
            Node::Symlink { meta, target } => {
                check_meta(meta)?;
                check_target(target).map_err(|what| TreeError::Unfit { what })?;
            }
        }
        self.entry_count = self
            .entry_count
            .checked_add(1)
            .ok_or(TreeError::Unfit { what: "at most 2^32 - 1 entries" })?;
        self.last_name.clear();
        self.last_name.extend(entry.name);

        let out = &mut self.bytes;
        out.push(entry.node.kind());
        put_varint(out, entry.name.len() as u64);
        out.extend(entry.name);
        match &entry.node {
            Node::File { meta, len_bytes, digest } => {
                put_meta(out, meta);
                put_varint(out, *len_bytes);
                out.extend(digest.as_bytes());
            }
            Node::Directory { digest } => out.extend(digest.as_bytes()),
            Node::Symlink { meta, target } => {
                put_meta(out, meta);
                put_varint(out, target.len() as u64);
                out.extend(*target);
            }
        }
        Ok(())
    }

    /// The value's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        let count = self.entry_count.to_le_bytes();
        self.bytes[COUNT_OFFSET..HEADER_BYTES].copy_from_slice(&count);
        self.bytes
    }
}

/// What stands before a tree's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The directory's own mode and time.
    pub meta: Meta,
    /// How many entries follow.
    pub entry_count: u32,
}

/// Whether `value` begins as tree values of any version do. A file of a user's may do so too: what
/// a digest stands for is said by the entry that names it.
pub fn looks_like_tree(value: &[u8]) -> bool {
    value.starts_with(&MAGIC)
}

/// Reads all of `value` and refuses it unless it is a tree value from end to end.
///
/// # Errors
/// Why it is none.
pub fn check(value: &[u8]) -> Result<Header, TreeError> {
    let (header, mut cursor) = Cursor::new(value)?;
    while cursor.next(value)?.is_some() {}
    Ok(header)
}

/// A place in a tree value. It does not hold the value: each call takes the same bytes again.
#[derive(Clone, Debug)]
pub struct Cursor {
    offset: usize,
    entries_left: u32,
    /// Where the last name stands, for the order.
    last_name: std::ops::Range<usize>,
}

impl Cursor {
    /// The header of `value`, and the place of its first entry.
    ///
    /// # Errors
    /// Why it is no tree value, as far as that is seen in the header.
    pub fn new(value: &[u8]) -> Result<(Header, Self), TreeError> {
        if !looks_like_tree(value) {
            return Err(TreeError::NotATree);
        }
        let mut reader = Reader::new(value);
        reader.take(MAGIC.len(), "a tree's magic")?;
        let version = reader.u8("a version")?;
        if version != VERSION {
            return Err(TreeError::Version { version });
        }
        let kind = reader.u8("a digest kind")?;
        if DigestKind::from_number(kind).is_none() {
            return Err(TreeError::DigestKind { kind });
        }
        let reserved = reader.malformed("a zero");
        if reader.u8("a zero")? != 0 {
            return Err(reserved.into());
        }
        let meta = read_meta(&mut reader)?;
        let entry_count = reader.u32("a count of entries")?;
        let cursor = Self { offset: reader.offset(), entries_left: entry_count, last_name: 0..0 };
        if entry_count == 0 {
            reader.end("the end of a tree without entries")?;
        }
        Ok((Header { meta, entry_count }, cursor))
    }

    /// The entry at this place of `value`, the bytes that the cursor was made for; the cursor moves
    /// past it. `None` at the end.
    ///
    /// # Errors
    /// [`TreeError::Malformed`].
    pub fn next<'a>(&mut self, value: &'a [u8]) -> Result<Option<Entry<'a>>, TreeError> {
        if self.entries_left == 0 {
            return Ok(None);
        }
        let base = self.offset.min(value.len());
        let mut reader = Reader::new(&value[base..]);
        let found = read_entry(&mut reader).and_then(|(entry, name_offset)| {
            let last = value.get(self.last_name.clone()).unwrap_or_default();
            // The empty range before the first entry sorts before every name.
            if last >= entry.name {
                return Err(Malformed { offset: name_offset, what: NOT_ASCENDING });
            }
            if self.entries_left == 1 {
                reader.end("the end after the last entry")?;
            }
            let name_start = base + name_offset;
            Ok((entry, name_start..name_start + entry.name.len()))
        });
        let (entry, name) = found.map_err(|malformed| TreeError::Malformed {
            offset: base + malformed.offset,
            what: malformed.what,
        })?;
        self.offset = base + reader.offset();
        self.entries_left -= 1;
        self.last_name = name;
        Ok(Some(entry))
    }
}

const NOT_ASCENDING: &str = "a name after the one before, in the order of their bytes";

/// Reads one entry; also gives where its name stands.
fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<(Entry<'a>, usize), Malformed> {
    let unknown = reader.malformed("a kind of entry: 1, 2 or 3");
    let kind = reader.u8("a kind of entry")?;
    if !(1..=3).contains(&kind) {
        return Err(unknown);
    }
    let name_bytes = reader.varint_usize("a name's length")?;
    let name_offset = reader.offset();
    let name = reader.take(name_bytes, "a name")?;
    check_name(name).map_err(|what| Malformed { offset: name_offset, what })?;
    let node = match kind {
        1 => {
            let meta = read_meta(reader)?;
            let len_bytes = reader.varint("a file's length")?;
            Node::File { meta, len_bytes, digest: read_digest(reader)? }
        }
        2 => Node::Directory { digest: read_digest(reader)? },
        _ => {
            let meta = read_meta(reader)?;
            let target_bytes = reader.varint_usize("a target's length")?;
            let target_offset = reader.offset();
            let target = reader.take(target_bytes, "a target")?;
            check_target(target).map_err(|what| Malformed { offset: target_offset, what })?;
            Node::Symlink { meta, target }
        }
    };
    Ok((Entry { name, node }, name_offset))
}

fn read_digest(reader: &mut Reader<'_>) -> Result<Digest, Malformed> {
    Ok(Digest::from_bytes(reader.array::<DIGEST_BYTES>("a digest")?))
}

fn read_meta(reader: &mut Reader<'_>) -> Result<Meta, Malformed> {
    let bad_mode = reader.malformed("a mode of 12 bits");
    let mode = reader.u16("a mode")?;
    if mode & !MODE_MASK != 0 {
        return Err(bad_mode);
    }
    let bad_nanos = reader.malformed("nanoseconds below 10^9");
    let mtime_nanos = reader.u32("nanoseconds")?;
    if mtime_nanos >= NANOS_PER_SECOND {
        return Err(bad_nanos);
    }
    let mtime_seconds = i64::from_le_bytes(reader.array("seconds")?);
    Ok(Meta { mode, mtime_seconds, mtime_nanos })
}

fn put_meta(out: &mut Vec<u8>, meta: &Meta) {
    out.extend(meta.mode.to_le_bytes());
    out.extend(meta.mtime_nanos.to_le_bytes());
    out.extend(meta.mtime_seconds.to_le_bytes());
}

fn check_meta(meta: &Meta) -> Result<(), TreeError> {
    if meta.mode & !MODE_MASK != 0 {
        return Err(TreeError::Unfit { what: "a mode of 12 bits" });
    }
    if meta.mtime_nanos >= NANOS_PER_SECOND {
        return Err(TreeError::Unfit { what: "nanoseconds below 10^9" });
    }
    Ok(())
}

/// T3; an error says what a name must be.
fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > ENTRY_NAME_BYTES_MAX {
        return Err("a name of 1 to 1024 bytes");
    }
    if name == b"." || name == b".." {
        return Err("a name other than . and ..");
    }
    if name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err("a name without / and NUL");
    }
    Ok(())
}

fn check_target(target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > TARGET_BYTES_MAX {
        return Err("a target of 1 to 4095 bytes");
    }
    if target.contains(&0) {
        return Err("a target without NUL");
    }
    Ok(())
}
