//! What a root says, and the edits that it is made of: a pure codec, and how edits add up.
//!
//! - E3: what decodes can be applied, or is refused: a state is made by edits that fit it.

use std::collections::{BTreeMap, BTreeSet};

use pinstone_compaction::TableId;
use pinstone_compaction::edit::LevelEdit;
use pinstone_compaction::levels::{LevelFault, Levels};
use pinstone_disk::codec::{Malformed, Reader, put_varint};
use pinstone_disk::{CommitId, Epoch, LogKind, Ordinal, TableKind};
use pinstone_wal::LogPosition;

/// What a root says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootState {
    /// The blob log's segments.
    pub(crate) blob: LogState,
    /// The pointer log's segments.
    pub(crate) pointer: LogState,
    /// The digest index's tables.
    pub(crate) index: TreeState,
    /// The pointer table's tables.
    pub(crate) names: TreeState,
    /// The last writer closed the store, with the logs ending here.
    pub(crate) closed: Option<Ends>,
}

/// Where the logs ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) blob: LogPosition,
    pub(crate) pointer: LogPosition,
}

impl Default for RootState {
    fn default() -> Self {
        Self {
            blob: LogState::default(),
            pointer: LogState::default(),
            index: TreeState::new(TableKind::Index),
            names: TreeState::new(TableKind::Names),
            closed: None,
        }
    }
}

/// The tables of one tree, and what of its log they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeState {
    /// Its tables.
    pub(crate) levels: Levels,
    /// The next table's ordinal.
    pub(crate) next_ordinal: Ordinal,
    /// What stands in them.
    pub(crate) flushed: Flushed,
}

/// What of a log stands in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Everything in segments below this one.
    pub(crate) below: Ordinal,
    /// The last commit of them, of the pointer log; else [`CommitId::NONE`].
    pub(crate) commit: CommitId,
    /// That commit's dependency; else [`LogPosition::START`].
    pub(crate) depends_upto: LogPosition,
}

impl Flushed {
    /// Nothing.
    pub(crate) const NOTHING: Self =
        Self { below: Ordinal::FIRST, commit: CommitId::NONE, depends_upto: LogPosition::START };
}

impl TreeState {
    fn new(tree: TableKind) -> Self {
        let levels = Levels::new(tree);
        Self { levels, next_ordinal: Ordinal::FIRST, flushed: Flushed::NOTHING }
    }

    /// Notes that the ordinal was given to a table (E2).
    pub(crate) fn spend(&mut self, ordinal: Ordinal) {
        self.next_ordinal = self.next_ordinal.max(ordinal.next().unwrap_or(ordinal));
    }
}

/// The segments of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogState {
    /// By ordinal.
    pub(crate) segments: BTreeMap<Ordinal, SegmentState>,
    /// The next segment's ordinal.
    pub(crate) next_ordinal: Ordinal,
}

impl Default for LogState {
    fn default() -> Self {
        Self { segments: BTreeMap::new(), next_ordinal: Ordinal::FIRST }
    }
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentState {
    /// The epoch in its file's name.
    pub(crate) epoch: Epoch,
    /// What sealing made of it, if it is sealed.
    pub(crate) seal: Option<Seal>,
}

/// What the root knows of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) file_bytes: u64,
    pub(crate) record_count: u64,
    pub(crate) footer_hash: [u8; 32],
}

/// One change of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The log has this segment, unsealed.
    Open { log: LogKind, ordinal: Ordinal, epoch: Epoch },
    /// The segment is sealed.
    Seal { log: LogKind, ordinal: Ordinal, epoch: Epoch, seal: Seal },
    /// The next ordinal of the log is at least this.
    NextOrdinal { log: LogKind, ordinal: Ordinal },
    /// The store was closed.
    Closed(Ends),
    /// Tables come to a tree, and go.
    Levels(LevelEdit),
    /// The next ordinal of the tree's tables is at least this.
    NextTable { tree: TableKind, ordinal: Ordinal },
    /// So much of the tree's log stands in its tables.
    Flushed { tree: TableKind, flushed: Flushed },
    /// The segment is no part of the log any more.
    Retire { log: LogKind, ordinal: Ordinal },
}

pub(crate) const OPEN: u8 = 1;
pub(crate) const SEAL: u8 = 2;
pub(crate) const NEXT_ORDINAL: u8 = 3;
pub(crate) const CLOSED: u8 = 4;
pub(crate) const LEVELS: u8 = 5;
pub(crate) const NEXT_TABLE: u8 = 6;
pub(crate) const FLUSHED: u8 = 7;
pub(crate) const RETIRE: u8 = 8;

/// The greatest number of a commit that a root may name: as many can follow it.
const COMMIT_MAX: CommitId = CommitId(u64::MAX / 2);

impl RootState {
    /// One log's segments.
    pub(crate) fn log(&self, log: LogKind) -> &LogState {
        match log {
            LogKind::Blob => &self.blob,
            LogKind::Pointer => &self.pointer,
            LogKind::Root => unreachable!("the root log is one file, which CURRENT names"),
        }
    }

    /// One log's segments, to be changed.
    pub(crate) fn log_mut(&mut self, log: LogKind) -> &mut LogState {
        match log {
            LogKind::Blob => &mut self.blob,
            LogKind::Pointer => &mut self.pointer,
            LogKind::Root => unreachable!("the root log is one file, which CURRENT names"),
        }
    }

    /// One tree's tables.
    pub(crate) fn tree(&self, tree: TableKind) -> &TreeState {
        match tree {
            TableKind::Index => &self.index,
            TableKind::Names => &self.names,
        }
    }

    /// One tree's tables, to be changed.
    pub(crate) fn tree_mut(&mut self, tree: TableKind) -> &mut TreeState {
        match tree {
            TableKind::Index => &mut self.index,
            TableKind::Names => &mut self.names,
        }
    }

    /// This file is one of the log's segments.
    pub(crate) fn names_segment(&self, log: LogKind, ordinal: Ordinal, epoch: Epoch) -> bool {
        self.log(log).segments.get(&ordinal).is_some_and(|segment| segment.epoch == epoch)
    }

    /// Both trees' tables.
    pub(crate) fn table_ids(&self) -> BTreeSet<TableId> {
        let levels = TableKind::ALL.into_iter().map(|tree| &self.tree(tree).levels);
        levels.flat_map(|levels| levels.all()).map(|(_, meta)| meta.id).collect()
    }

    /// Makes one change.
    ///
    /// # Errors
    /// It does not fit (E3).
    pub(super) fn apply(&mut self, edit: &Edit) -> Result<(), LevelFault> {
        // Only the last edit says that the store is closed.
        self.closed = None;
        match *edit {
            Edit::Levels(ref edit) => {
                let state = self.tree_mut(edit.tree);
                state.levels = state.levels.apply(edit)?;
                edit.added.iter().for_each(|(_, table)| state.spend(table.id.ordinal));
            }
            Edit::NextTable { tree, ordinal } => {
                let state = self.tree_mut(tree);
                state.next_ordinal = state.next_ordinal.max(ordinal);
            }
            Edit::Flushed { tree, flushed } => self.tree_mut(tree).flushed = flushed,
            Edit::Retire { log, ordinal } => {
                self.log_mut(log).segments.remove(&ordinal);
            }
            Edit::Open { log, ordinal, epoch } => {
                self.log_mut(log).insert(ordinal, SegmentState { epoch, seal: None });
            }
            Edit::Seal { log, ordinal, epoch, seal } => {
                self.log_mut(log).insert(ordinal, SegmentState { epoch, seal: Some(seal) });
            }
            Edit::NextOrdinal { log, ordinal } => {
                let log = self.log_mut(log);
                log.next_ordinal = log.next_ordinal.max(ordinal);
            }
            Edit::Closed(ends) => self.closed = Some(ends),
        }
        Ok(())
    }

    /// The edits that make this state from nothing.
    pub(crate) fn edits(&self) -> Vec<Edit> {
        self.edits_with(|tree| self.tree(tree).levels.to_edit())
    }

    /// The same, with these of the levels.
    fn edits_with(&self, levels: impl Fn(TableKind) -> LevelEdit) -> Vec<Edit> {
        let mut edits = Vec::new();
        for log in [LogKind::Blob, LogKind::Pointer] {
            let state = self.log(log);
            edits.push(Edit::NextOrdinal { log, ordinal: state.next_ordinal });
            edits.extend(state.segments.iter().map(|(&ordinal, segment)| {
                let epoch = segment.epoch;
                match segment.seal {
                    Some(seal) => Edit::Seal { log, ordinal, epoch, seal },
                    None => Edit::Open { log, ordinal, epoch },
                }
            }));
        }
        for tree in TableKind::ALL {
            let state = self.tree(tree);
            edits.push(Edit::NextTable { tree, ordinal: state.next_ordinal });
            edits.push(Edit::Flushed { tree, flushed: state.flushed });
            edits.push(Edit::Levels(levels(tree)));
        }
        edits.extend(self.closed.map(Edit::Closed));
        edits
    }

    /// Bytes of the record that a new root log begins with. A look at each segment.
    pub(crate) fn record_bytes(&self) -> u64 {
        let mut bytes = encode(&self.edits_with(LevelEdit::new)).len() as u64;
        for tree in TableKind::ALL {
            bytes -= Levels::new(tree).edit_bytes();
            bytes += self.tree(tree).levels.edit_bytes();
        }
        bytes
    }

    /// Applies the edits of one record.
    pub(crate) fn apply_record(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        read_record(payload, |edit| self.apply(&edit))
    }
}

impl LogState {
    /// All segments below this one are sealed, and those named from here on are not.
    pub(crate) fn sealed_below(&self) -> Ordinal {
        let unsealed = |(_, segment): &(&Ordinal, &SegmentState)| segment.seal.is_none();
        let first = self.segments.iter().rev().take_while(unsealed).last();
        first.map_or(self.next_ordinal, |(ordinal, _)| *ordinal)
    }

    /// The log has this segment, in place of any other of its ordinal.
    pub(crate) fn insert(&mut self, ordinal: Ordinal, segment: SegmentState) {
        self.segments.insert(ordinal, segment);
        self.spend(ordinal);
    }

    /// Notes that the ordinal was given to a file (E2). The last one has no next: no segment can
    /// be added after it.
    pub(crate) fn spend(&mut self, ordinal: Ordinal) {
        self.next_ordinal = self.next_ordinal.max(ordinal.next().unwrap_or(ordinal));
    }
}

/// Whether a record's payload is edits, whatever state they are of.
pub(crate) fn check_record(payload: &[u8]) -> Result<(), Malformed> {
    read_record(payload, |_| Ok(()))
}

fn read_record(
    payload: &[u8],
    mut each: impl FnMut(Edit) -> Result<(), LevelFault>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(payload);
    let count = reader.varint("a count of edits")?;
    for _ in 0..count {
        let misfit = reader.malformed("an edit that fits the tables");
        each(decode(&mut reader)?).map_err(|_| misfit)?;
    }
    reader.end("the end of the edits")
}

/// The payload of a record with these edits.
pub(super) fn encode(edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, edits.len() as u64);
    for edit in edits {
        let head = |out: &mut Vec<u8>, tag, log: LogKind, ordinal: Ordinal| {
            out.extend_from_slice(&[tag, log as u8]);
            out.extend_from_slice(&ordinal.0.to_le_bytes());
        };
        match *edit {
            Edit::Open { log, ordinal, epoch } => {
                head(&mut out, OPEN, log, ordinal);
                out.extend_from_slice(&epoch.0.to_le_bytes());
            }
            Edit::Seal { log, ordinal, epoch, seal } => {
                head(&mut out, SEAL, log, ordinal);
                out.extend_from_slice(&epoch.0.to_le_bytes());
                out.extend_from_slice(&seal.file_bytes.to_le_bytes());
                out.extend_from_slice(&seal.record_count.to_le_bytes());
                out.extend_from_slice(&seal.footer_hash);
            }
            Edit::NextOrdinal { log, ordinal } => head(&mut out, NEXT_ORDINAL, log, ordinal),
            Edit::Closed(ends) => {
                out.push(CLOSED);
                out.extend_from_slice(&ends.blob.number().to_le_bytes());
                out.extend_from_slice(&ends.pointer.number().to_le_bytes());
            }
            Edit::Levels(ref edit) => {
                out.push(LEVELS);
                edit.encode(&mut out);
            }
            Edit::NextTable { tree, ordinal } => {
                out.extend_from_slice(&[NEXT_TABLE, tree as u8]);
                out.extend_from_slice(&ordinal.0.to_le_bytes());
            }
            Edit::Flushed { tree, flushed } => {
                out.extend_from_slice(&[FLUSHED, tree as u8]);
                out.extend_from_slice(&flushed.below.0.to_le_bytes());
                out.extend_from_slice(&flushed.commit.0.to_le_bytes());
                out.extend_from_slice(&flushed.depends_upto.number().to_le_bytes());
            }
            Edit::Retire { log, ordinal } => head(&mut out, RETIRE, log, ordinal),
        }
    }
    out
}

fn decode(reader: &mut Reader<'_>) -> Result<Edit, Malformed> {
    let tag = reader.u8("an edit's kind")?;
    if tag == CLOSED {
        let blob = LogPosition::from_number(reader.u64("the blob log's end")?);
        let pointer = LogPosition::from_number(reader.u64("the pointer log's end")?);
        return Ok(Edit::Closed(Ends { blob, pointer }));
    }
    match tag {
        OPEN | SEAL | NEXT_ORDINAL | RETIRE => decode_of_log(reader, tag),
        LEVELS => Ok(Edit::Levels(LevelEdit::decode(reader)?)),
        NEXT_TABLE | FLUSHED => decode_of_tree(reader, tag),
        _ => Err(reader.malformed("an edit of a known kind")),
    }
}

fn ordinal(reader: &mut Reader<'_>) -> Result<Ordinal, Malformed> {
    Ordinal::from_number(reader.u32("an ordinal")?)
        .ok_or_else(|| reader.malformed("an ordinal that another can follow"))
}

fn decode_of_tree(reader: &mut Reader<'_>, tag: u8) -> Result<Edit, Malformed> {
    let number = reader.u8("an edit's tree")?;
    let tree = TableKind::ALL.into_iter().find(|tree| *tree as u8 == number);
    let tree = tree.ok_or_else(|| reader.malformed("an edit of a known tree"))?;
    match tag {
        NEXT_TABLE => Ok(Edit::NextTable { tree, ordinal: ordinal(reader)? }),
        _ => {
            let below = ordinal(reader)?;
            let malformed = reader.malformed("a commit's number that others can follow");
            let commit = CommitId(reader.u64("a commit's number")?);
            if commit > COMMIT_MAX {
                return Err(malformed);
            }
            let number = reader.u64("a commit's dependency")?;
            let depends_upto = LogPosition::from_number(number);
            Ok(Edit::Flushed { tree, flushed: Flushed { below, commit, depends_upto } })
        }
    }
}

fn decode_of_log(reader: &mut Reader<'_>, tag: u8) -> Result<Edit, Malformed> {
    let log = match LogKind::from_number(reader.u8("an edit's log")?) {
        Some(log @ (LogKind::Blob | LogKind::Pointer)) => log,
        _ => return Err(reader.malformed("an edit of a known log")),
    };
    let ordinal = ordinal(reader)?;
    match tag {
        NEXT_ORDINAL => return Ok(Edit::NextOrdinal { log, ordinal }),
        RETIRE => return Ok(Edit::Retire { log, ordinal }),
        _ => {}
    }
    let epoch = Epoch(reader.u32("an epoch")?);
    if tag == OPEN {
        return Ok(Edit::Open { log, ordinal, epoch });
    }
    let seal = Seal {
        file_bytes: reader.u64("a segment's length")?,
        record_count: reader.u64("a segment's count of records")?,
        footer_hash: reader.array("a footer's hash")?,
    };
    Ok(Edit::Seal { log, ordinal, epoch, seal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinstone_compaction::{TableId, TableMeta};
    use proptest::prelude::*;

    #[test]
    fn a_root_is_made_again_from_its_edits() {
        let mut state = RootState::default();
        let seal = Seal { file_bytes: 9, record_count: 3, footer_hash: [7; 32] };
        let id = TableId { table: TableKind::Names, ordinal: Ordinal(6), epoch: Epoch(3) };
        let meta = TableMeta {
            id,
            first: "a".into(),
            last: "b".repeat(200).into(),
            entry_count: 2,
            spare_count: 1,
            last_commit: 9,
            file_bytes: 5000,
            footer_hash: [9; 32],
        };
        let names = LevelEdit { added: vec![(0, meta)], ..LevelEdit::new(TableKind::Names) };
        let flushed = Flushed {
            below: Ordinal(9),
            commit: CommitId(77),
            depends_upto: LogPosition::new(Ordinal(5), 64),
        };
        let edits = [
            Edit::Open { log: LogKind::Blob, ordinal: Ordinal(1), epoch: Epoch(2) },
            Edit::Seal { log: LogKind::Blob, ordinal: Ordinal(1), epoch: Epoch(2), seal },
            Edit::Open { log: LogKind::Blob, ordinal: Ordinal(5), epoch: Epoch(2) },
            Edit::Open { log: LogKind::Pointer, ordinal: Ordinal(1), epoch: Epoch(3) },
            Edit::NextOrdinal { log: LogKind::Pointer, ordinal: Ordinal(8) },
            Edit::Open { log: LogKind::Pointer, ordinal: Ordinal(9), epoch: Epoch(3) },
            Edit::Levels(names),
            Edit::NextTable { tree: TableKind::Index, ordinal: Ordinal(4) },
            Edit::Flushed { tree: TableKind::Names, flushed },
            Edit::Retire { log: LogKind::Pointer, ordinal: Ordinal(1) },
            Edit::Closed(Ends {
                blob: LogPosition::new(Ordinal(5), 64),
                pointer: LogPosition::new(Ordinal(1), 72),
            }),
        ];
        state.apply_record(&encode(&edits)).unwrap();
        assert_eq!(state.blob.next_ordinal, Ordinal(6));
        assert_eq!(state.pointer.next_ordinal, Ordinal(10));
        assert_eq!(state.pointer.segments.keys().copied().collect::<Vec<_>>(), [Ordinal(9)]);
        assert_eq!(state.names.next_ordinal, Ordinal(7));
        assert_eq!((state.names.flushed, state.index.flushed), (flushed, Flushed::NOTHING));
        let mut again = RootState::default();
        let record = encode(&state.edits());
        again.apply_record(&record).unwrap();
        assert_eq!(again, state);
        assert_eq!(state.record_bytes(), record.len() as u64);
    }

    /// Numbers as nobody would write them, and some that do fit.
    fn number() -> impl Strategy<Value = u64> {
        let ends = vec![0, 1 << 32, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX];
        prop_oneof![1..5_u64, prop::sample::select(ends)]
    }

    fn ordinal() -> impl Strategy<Value = Ordinal> {
        let ends = vec![0, u32::MAX - 2, u32::MAX - 1, u32::MAX];
        prop_oneof![8 => 1..9_u32, 1 => prop::sample::select(ends)].prop_map(Ordinal)
    }

    fn epoch() -> impl Strategy<Value = Epoch> {
        prop::sample::select(vec![1, 2, 0, u32::MAX]).prop_map(Epoch)
    }

    fn log() -> impl Strategy<Value = LogKind> {
        prop::sample::select(vec![LogKind::Blob, LogKind::Pointer])
    }

    /// Its identity can be a file's: no other is encoded.
    fn table() -> impl Strategy<Value = TableMeta> {
        let ordinal = prop_oneof![8 => 1..9_u32, 1 => Just(u32::MAX - 2)].prop_map(Ordinal);
        let epoch = (1..3_u32).prop_map(Epoch);
        let keys =
            ("[a-e]{1,3}", "[a-e]{1,3}").prop_map(|(a, b)| (a.clone().min(b.clone()), a.max(b)));
        let counts = (number(), number(), number(), number());
        (ordinal, epoch, keys, counts).prop_map(
            |(ordinal, epoch, (first, last), (entries, spare, last_commit, file_bytes))| {
                TableMeta {
                    id: TableId { table: TableKind::Names, ordinal, epoch },
                    first: first.into(),
                    last: last.into(),
                    entry_count: entries.max(1),
                    spare_count: spare.min(entries),
                    last_commit,
                    file_bytes,
                    footer_hash: [9; 32],
                }
            },
        )
    }

    fn levels() -> impl Strategy<Value = LevelEdit> {
        let added = prop::collection::vec((0..7_u8, table()), 0..3);
        let removed = prop::collection::vec(table().prop_map(|table| table.id), 0..2);
        let tree = TableKind::Names;
        (added, removed).prop_map(move |(added, removed)| LevelEdit { tree, added, removed })
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let tree = || prop::sample::select(TableKind::ALL.to_vec());
        let seal = (number(), number()).prop_map(|(file_bytes, record_count)| {
            let footer_hash = [7; 32];
            Seal { file_bytes, record_count, footer_hash }
        });
        let position = || number().prop_map(LogPosition::from_number);
        let flushed = (ordinal(), number().prop_map(CommitId), position())
            .prop_map(|(below, commit, depends_upto)| Flushed { below, commit, depends_upto });
        prop_oneof![
            (log(), ordinal(), epoch()).prop_map(|(log, ordinal, epoch)| Edit::Open {
                log,
                ordinal,
                epoch
            }),
            (log(), ordinal(), epoch(), seal).prop_map(|(log, ordinal, epoch, seal)| Edit::Seal {
                log,
                ordinal,
                epoch,
                seal
            }),
            (log(), ordinal()).prop_map(|(log, ordinal)| Edit::NextOrdinal { log, ordinal }),
            (log(), ordinal()).prop_map(|(log, ordinal)| Edit::Retire { log, ordinal }),
            (position(), position())
                .prop_map(|(blob, pointer)| Edit::Closed(Ends { blob, pointer })),
            levels().prop_map(Edit::Levels),
            (tree(), ordinal()).prop_map(|(tree, ordinal)| Edit::NextTable { tree, ordinal }),
            (tree(), flushed).prop_map(|(tree, flushed)| Edit::Flushed { tree, flushed }),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_applied_without_panic(bytes: Vec<u8>) {
            let _ = RootState::default().apply_record(&bytes);
        }

        /// What is applied is a root like any other: others can follow what it names.
        #[test]
        fn any_edits_are_refused_or_make_a_root(edits in prop::collection::vec(edit(), 0..12)) {
            let mut state = RootState::default();
            for edit in edits {
                let before = state.clone();
                if state.apply_record(&encode(&[edit])).is_err() {
                    state = before;
                }
            }
            let mut again = RootState::default();
            again.apply_record(&encode(&state.edits())).unwrap();
            prop_assert_eq!(&again, &state);
            prop_assert_eq!(state.record_bytes(), encode(&state.edits()).len() as u64);
            for log in [LogKind::Blob, LogKind::Pointer] {
                prop_assert!(state.log(log).sealed_below() <= state.log(log).next_ordinal);
            }
            for tree in TableKind::ALL {
                let tree = state.tree(tree);
                prop_assert!(tree.flushed.commit.next() > tree.flushed.commit);
                prop_assert!(tree.levels.total().table_count < 24);
            }
        }
    }
}
