//! The pointer log's record: one commit, whole, so that the log can be shipped as it is.

use bytes::Bytes;
use pinstone_disk::codec::{Malformed, Reader, put_varint};
use pinstone_disk::{CommitId, DIGEST_BYTES, Digest, DigestKind, NAME_BYTES_MAX};

use crate::position::LogPosition;

/// One pointer's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The pointer's name, 1 to 1,024 bytes.
    pub name: Bytes,
    /// Where it points from now on; `None` if it is deleted.
    pub to: Option<Digest>,
}

/// One atomic change of pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRecord {
    /// Its number.
    pub id: CommitId,
    /// It counts only if the blob log is whole up to here.
    pub depends_upto: LogPosition,
    /// Sorted by name, each name once.
    pub changes: Vec<Change>,
}

const DELETE: u8 = 0;

impl CommitRecord {
    /// Bytes before the changes, at most.
    pub const HEAD_BYTES_MAX: usize = 8 + 8 + 1 + 10;

    /// Bytes of one change with a name of `name_bytes`, at most.
    pub const fn change_bytes_max(name_bytes: usize) -> usize {
        1 + 2 + name_bytes + DIGEST_BYTES
    }

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0.to_le_bytes());
        out.extend_from_slice(&self.depends_upto.number().to_le_bytes());
        // No flags yet: a note and a caller's time will each have one.
        out.push(0);
        put_varint(out, self.changes.len() as u64);
        for change in &self.changes {
            out.push(change.to.map_or(DELETE, |_| DigestKind::Blake3 as u8));
            put_varint(out, change.name.len() as u64);
            out.extend_from_slice(&change.name);
            if let Some(digest) = &change.to {
                out.extend_from_slice(digest.as_bytes());
            }
        }
    }

    /// Decodes a payload.
    ///
    /// # Errors
    /// The bytes are no commit's, or an unknown flag is set.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let id = CommitId(reader.u64("a commit's number")?);
        let depends_upto = LogPosition::from_number(reader.u64("a commit's dependency")?);
        if reader.u8("a commit's flags")? != 0 {
            return Err(Malformed { offset: reader.offset() - 1, what: "a commit's known flags" });
        }
        let change_count = reader.varint_usize("a commit's count of changes")?;
        let mut again = reader.clone();
        // Read to the end before any memory is taken: a change is many times as long in memory as
        // the three bytes that one can be claimed with.
        let mut last_name: &[u8] = &[];
        for _ in 0..change_count {
            let (name, _) = read_change(&mut reader)?;
            if name <= last_name {
                return Err(reader.malformed("names in order"));
            }
            last_name = name;
        }
        reader.end("the commit's end")?;
        let mut changes = Vec::with_capacity(change_count);
        for _ in 0..change_count {
            let (name, to) = read_change(&mut again)?;
            changes.push(Change { name: Bytes::copy_from_slice(name), to });
        }
        Ok(Self { id, depends_upto, changes })
    }
}

/// Reads one change: the pointer's name, and where it points.
fn read_change<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], Option<Digest>), Malformed> {
    let kind = reader.u8("a change's kind")?;
    if kind != DELETE && DigestKind::from_number(kind).is_none() {
        return Err(reader.malformed("a change's known kind"));
    }
    let name_bytes = reader.varint_usize("a name's length")?;
    if name_bytes == 0 || name_bytes > NAME_BYTES_MAX {
        return Err(reader.malformed("a name of 1 to 1024 bytes"));
    }
    let name = reader.take(name_bytes, "a name")?;
    let to = match kind {
        DELETE => None,
        _ => Some(Digest::from_bytes(reader.array("a digest")?)),
    };
    Ok((name, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_commit_reads_back(
            id: u64,
            position: u64,
            changes in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..40), any::<Option<[u8; 32]>>(), 0..20),
        ) {
            let changes = changes.into_iter().map(|(name, to)| Change {
                name: name.into(),
                to: to.map(Digest::from_bytes),
            });
            let commit = CommitRecord {
                id: CommitId(id),
                depends_upto: LogPosition::from_number(position),
                changes: changes.collect(),
            };
            let mut bytes = Vec::new();
            commit.encode(&mut bytes);
            let bound = commit.changes.iter().map(|c| CommitRecord::change_bytes_max(c.name.len()));
            prop_assert!(bytes.len() <= CommitRecord::HEAD_BYTES_MAX + bound.sum::<usize>());
            prop_assert_eq!(CommitRecord::decode(&bytes), Ok(commit));
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _ = CommitRecord::decode(&bytes);
        }
    }
}
