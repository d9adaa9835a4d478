//! Making the digest index and the pointer table again from what the logs hold.

use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{Disk, DiskExt, Escaped, OpenMode};
use pinstone_wal::{
    CommitRecord, ListEntry, LogEnd, LogPosition, Record, RecordKind, Scan, Sealer, SizeClass,
    ValueRecord, corrupt,
};

use super::read::{Before, LogBefore, Unflushed, Unsealed};
use crate::error::Result;
use crate::options::Options;
use crate::state::digest_index::DigestIndex;
use crate::state::pointers::PointerTable;
use crate::stats::Recovery;

/// Puts every value into the index, the oldest copy first.
pub(super) fn replay_values(
    before: &mut LogBefore,
    index: &DigestIndex,
    recovery: &mut Recovery,
) -> Result<()> {
    for sealed in &mut before.sealed {
        let Some(unflushed) = &mut sealed.unflushed else { continue };
        index.before_segment(sealed.ordinal);
        index.insert_all(sealed.ordinal, &std::mem::take(&mut unflushed.list));
    }
    for Unsealed { scan, sealer, .. } in before.kept_mut() {
        index.before_segment(scan.header.ordinal);
        let (mut list, mut failed) = (Vec::new(), None);
        let note =
            |sealer: &mut Sealer, offset, record: Record<'_>| match list_entry(offset, &record) {
                Ok(entry) => {
                    sealer.value(entry);
                    list.push(entry);
                }
                Err(what) => {
                    failed.get_or_insert((offset, what));
                }
            };
        *sealer = Some(scan.sealer(scan.valid_end_bytes, note));
        index.insert_all(scan.header.ordinal, &list);
        recovery.frames_replayed += scan.frames.len() as u64;
        recovery.values_replayed += list.len() as u64;
        if let Some((offset, what)) = failed {
            let name = scan.header.file_name();
            return Err(corrupt(name, offset, format!("expected {what}")).into());
        }
    }
    Ok(())
}

fn list_entry(offset: u64, record: &Record<'_>) -> Result<ListEntry, &'static str> {
    if record.kind != RecordKind::Value as u8 {
        return Err("a value's record");
    }
    let value = ValueRecord::decode(record.payload).map_err(|error| error.what)?;
    Ok(ListEntry {
        digest: value.digest,
        offset_bytes: u32::try_from(offset).expect("a segment is shorter than 4 GiB"),
        class: SizeClass::covering(record.len_bytes as u64),
    })
}

/// Applies every commit that counts; returns the last one's dependency. Where one does not, the
/// pointer log ends.
pub(super) fn replay_commits(
    disk: &dyn Disk,
    options: &Options,
    before: &mut Before,
    pointers: &PointerTable,
    index: &DigestIndex,
    recovery: &mut Recovery,
) -> Result<LogPosition> {
    let whole_upto = before.blob.whole_upto();
    let depends_upto = before.root.names.flushed.depends_upto;
    let mut replay = Replay { pointers, options, depends_upto, commits: 0 };
    for unflushed in before.pointer.sealed.iter().filter_map(|sealed| sealed.unflushed.as_ref()) {
        let scan = read_frames(disk, unflushed)?;
        if let Some(unmet) = replay.scan(&scan, whole_upto)? {
            let what = "a commit in a sealed segment depends on values that are gone";
            return Err(corrupt(scan.header.file_name(), unmet, what).into());
        }
    }
    let mut end = before.pointer.end;
    for unsealed in before.pointer.kept() {
        let scan = &unsealed.scan;
        recovery.frames_replayed += scan.frames.len() as u64;
        let Some(unmet) = replay.scan(scan, whole_upto)? else { continue };
        let offset = u32::try_from(unmet).expect("a segment is shorter than 4 GiB");
        let position = LogPosition::new(scan.header.ordinal, offset);
        if end.is_some_and(|end| position < end.durable_upto) {
            let what = "a commit that was durable depends on values that are gone";
            return Err(corrupt(scan.header.file_name(), unmet, what).into());
        }
        let cut = scan.valid_end_bytes - unmet;
        end = end.map(|end| LogEnd {
            position,
            cut_bytes: end.cut_bytes + cut,
            complete: false,
            ..end
        });
        recovery.bytes_cut += cut;
        break;
    }
    before.pointer.end = end;
    recovery.commits_replayed = replay.commits;
    // What stands in tables is not looked for: opening does not cost a read a pointer (P10).
    let has_tables = index.view().levels().levels().total().table_count > 0
        || pointers.levels().levels().total().table_count > 0;
    let standing = (!has_tables).then(|| pointers.standing());
    for pointer in standing.into_iter().flatten() {
        let (name, digest) = pointer?;
        if index.view().in_memory(&digest).next().is_none() {
            let what = format!("its value {digest} is in no segment");
            return Err(corrupt(format!("@{}", Escaped(&name)), 0, what).into());
        }
    }
    Ok(replay.depends_upto)
}

struct Replay<'a> {
    pointers: &'a PointerTable,
    options: &'a Options,
    depends_upto: LogPosition,
    commits: u64,
}

impl Replay<'_> {
    /// Applies a segment's commits; returns the offset of the first frame whose dependency is
    /// not met. The commits of one frame were acknowledged together, or not at all.
    fn scan(&mut self, scan: &Scan, whole_upto: LogPosition) -> Result<Option<u64>> {
        let ordinal = scan.header.ordinal;
        if self.pointers.is_worth_flushing(self.options, ordinal, 1) {
            self.pointers.freeze(ordinal, self.depends_upto);
        }
        let mut commits: Vec<(u64, u64, CommitRecord)> = Vec::new();
        let mut failed = None;
        scan.records(scan.valid_end_bytes, |frame, offset, record| {
            if record.kind == RecordKind::Carried as u8 {
                // Laid before the blob log was scanned.
                return;
            }
            let commit = if record.kind == RecordKind::Commit as u8 {
                CommitRecord::decode(record.payload).map_err(|error| error.what)
            } else {
                Err("a commit's record")
            };
            match commit {
                Ok(commit) => commits.push((frame.offset_bytes, offset, commit)),
                Err(what) => {
                    failed.get_or_insert((offset, what.to_owned()));
                }
            }
        });
        let unmet = commits.iter().find(|(_, _, commit)| commit.depends_upto > whole_upto);
        let unmet = unmet.map(|(frame, ..)| *frame);
        let unmet = if planted::is(Bug::DependencyIgnored) { None } else { unmet };
        for (frame, offset, commit) in commits {
            if failed.is_some() || unmet.is_some_and(|unmet| frame >= unmet) {
                break;
            }
            let next = self.pointers.last_commit().next();
            if commit.id != next || commit.depends_upto < self.depends_upto {
                failed = Some((offset, format!("commit {next}, found {}", commit.id)));
                break;
            }
            self.depends_upto = commit.depends_upto;
            self.commits += 1;
            self.pointers.apply(commit);
        }
        match failed {
            Some((offset, what)) => {
                let name = scan.header.file_name();
                Err(corrupt(name, offset, format!("expected {what}")).into())
            }
            None => Ok(unmet),
        }
    }
}

/// Reads the frames of a sealed segment, all of which must be whole.
fn read_frames(disk: &dyn Disk, sealed: &Unflushed) -> Result<Scan> {
    let name = sealed.header.file_name();
    let file = disk.open(name, OpenMode::Read)?;
    let end = usize::try_from(sealed.frames_end_bytes).expect("it fits the file");
    let scan = Scan::of(sealed.header, disk.read(&file, 0, end)?);
    if scan.valid_end_bytes != sealed.frames_end_bytes || !scan.is_complete() {
        let what = format!("expected {}, in a sealed segment", scan.ended_by);
        return Err(corrupt(name, scan.valid_end_bytes, what).into());
    }
    Ok(scan)
}
