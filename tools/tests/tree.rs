//! The tree value: what is built is read back, and nothing else is read.

#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a test, not the engine"
)]

use pinstone::Digest;
use pinstone_tools::tree::{
    Cursor, ENTRY_NAME_BYTES_MAX, Entry, HEADER_BYTES, Header, Meta, Node, TARGET_BYTES_MAX,
    TreeBuilder, TreeError, check, looks_like_tree,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// An [`Entry`]'s node that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
enum OwnedNode {
    File { meta: Meta, len_bytes: u64, digest: Digest },
    Directory { digest: Digest },
    Symlink { meta: Meta, target: Vec<u8> },
}

impl OwnedNode {
    fn node(&self) -> Node<'_> {
        match self {
            Self::File { meta, len_bytes, digest } => {
                Node::File { meta: *meta, len_bytes: *len_bytes, digest: *digest }
            }
            Self::Directory { digest } => Node::Directory { digest: *digest },
            Self::Symlink { meta, target } => Node::Symlink { meta: *meta, target },
        }
    }

    fn of(node: &Node<'_>) -> Self {
        match *node {
            Node::File { meta, len_bytes, digest } => Self::File { meta, len_bytes, digest },
            Node::Directory { digest } => Self::Directory { digest },
            Node::Symlink { meta, target } => Self::Symlink { meta, target: target.to_vec() },
        }
    }
}

type Entries = Vec<(Vec<u8>, OwnedNode)>;

fn build(meta: &Meta, entries: &Entries) -> Result<Vec<u8>, TreeError> {
    let mut builder = TreeBuilder::new(meta)?;
    for (name, node) in entries {
        builder.push(&Entry { name, node: node.node() })?;
    }
    Ok(builder.finish())
}

fn read(value: &[u8]) -> Result<(Header, Entries), TreeError> {
    let (header, mut cursor) = Cursor::new(value)?;
    let mut entries = Vec::new();
    while let Some(entry) = cursor.next(value)? {
        entries.push((entry.name.to_vec(), OwnedNode::of(&entry.node)));
    }
    Ok((header, entries))
}

fn any_meta() -> impl Strategy<Value = Meta> {
    (0..=0o7777u16, any::<i64>(), 0..1_000_000_000u32)
        .prop_map(|(mode, mtime_seconds, mtime_nanos)| Meta { mode, mtime_seconds, mtime_nanos })
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("not in names", |byte| !matches!(byte, b'/' | 0)), 1..40)
        .prop_filter("not names", |name| name != b"." && name != b"..")
}

fn any_node() -> impl Strategy<Value = OwnedNode> {
    prop_oneof![
        (any_meta(), any::<u64>(), any_digest())
            .prop_map(|(meta, len_bytes, digest)| OwnedNode::File { meta, len_bytes, digest }),
        any_digest().prop_map(|digest| OwnedNode::Directory { digest }),
        (any_meta(), vec(1..=255u8, 1..200))
            .prop_map(|(meta, target)| OwnedNode::Symlink { meta, target }),
    ]
}

fn any_tree() -> impl Strategy<Value = (Meta, Entries)> {
    let entries = btree_map(any_name(), any_node(), 0..20);
    (any_meta(), entries.prop_map(|entries| entries.into_iter().collect()))
}

proptest! {
    #[test]
    fn what_is_built_is_read_back((meta, entries) in any_tree()) {
        let value = build(&meta, &entries).unwrap();
        prop_assert!(looks_like_tree(&value));
        let (header, found) = read(&value).unwrap();
        prop_assert_eq!(header.meta, meta);
        prop_assert_eq!(header.entry_count as usize, entries.len());
        prop_assert_eq!(found, entries);
    }

    /// T1 and T2: what a reader accepts is what the builder gives, byte for byte.
    #[test]
    fn damaged_bytes_are_refused_or_another_tree(
        (meta, entries) in any_tree(),
        flips in vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        cut in any::<prop::sample::Index>(),
        cut_it: bool,
    ) {
        let mut value = build(&meta, &entries).unwrap();
        for (at, with) in flips {
            let at = at.index(value.len());
            value[at] ^= with;
        }
        if cut_it {
            value.truncate(cut.index(value.len()));
        }
        match read(&value) {
            Ok((header, found)) => {
                prop_assert_eq!(check(&value), Ok(header));
                prop_assert_eq!(build(&header.meta, &found).unwrap(), value);
            }
            Err(error) => prop_assert_eq!(check(&value), Err(error)),
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>, as_tree: bool) {
        let mut value = bytes;
        if as_tree {
            let mut begun = build(&meta(0o755, 0, 0), &Vec::new()).unwrap();
            begun[24] = 3;
            begun.extend(&value);
            value = begun;
        }
        if let Ok((header, found)) = read(&value) {
            prop_assert_eq!(build(&header.meta, &found).unwrap(), value);
        }
    }

    /// A cursor given other bytes than its own errs; it does not panic.
    #[test]
    fn a_cursor_on_other_bytes_does_not_panic((meta, entries) in any_tree(), other: Vec<u8>) {
        let value = build(&meta, &entries).unwrap();
        let (_, mut cursor) = Cursor::new(&value).unwrap();
        let _ = cursor.next(&value);
        for _ in 0..3 {
            let _ = cursor.next(&other);
        }
    }
}

fn meta(mode: u16, mtime_seconds: i64, mtime_nanos: u32) -> Meta {
    Meta { mode, mtime_seconds, mtime_nanos }
}

fn file(len_bytes: u64) -> OwnedNode {
    OwnedNode::File { meta: meta(0o644, 1, 2), len_bytes, digest: Digest::of(b"") }
}

#[test]
fn a_tree_has_these_bytes() {
    let entries = vec![
        (
            b"a\xff".to_vec(),
            OwnedNode::File { meta: meta(0o4755, -1, 5), len_bytes: 300, digest: Digest::of(b"a") },
        ),
        (b"d".to_vec(), OwnedNode::Directory { digest: Digest::of(b"d") }),
        (
            b"l".to_vec(),
            OwnedNode::Symlink { meta: meta(0o777, 2, 999_999_999), target: b"../x".to_vec() },
        ),
    ];
    let value = build(&meta(0o1777, 1_000_000_000, 7), &entries).unwrap();
    let mut expected = Vec::new();
    expected.extend(b"\x89PINTRE\x01\x01\x00");
    expected.extend(b"\xff\x03\x07\0\0\0\x00\xca\x9a\x3b\0\0\0\0");
    expected.extend(b"\x03\0\0\0");
    expected.extend(b"\x01\x02a\xff");
    expected.extend(b"\xed\x09\x05\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    expected.extend(b"\xac\x02");
    expected.extend(Digest::of(b"a").as_bytes());
    expected.extend(b"\x02\x01d");
    expected.extend(Digest::of(b"d").as_bytes());
    expected.extend(b"\x03\x01l");
    expected.extend(b"\xff\x01\xff\xc9\x9a\x3b\x02\0\0\0\0\0\0\0");
    expected.extend(b"\x04../x");
    assert_eq!(value.escape_ascii().to_string(), expected.escape_ascii().to_string());
    assert_eq!(HEADER_BYTES, 28);
}

#[test]
fn the_builder_refuses_what_no_tree_holds() {
    let ok = meta(0o755, 0, 0);
    let refused = |entries: Entries| {
        assert!(matches!(build(&ok, &entries), Err(TreeError::Unfit { .. })), "{entries:?}");
    };
    for name in [&b""[..], b".", b"..", b"/", b"a/b", b"a\0", &[b'x'; ENTRY_NAME_BYTES_MAX + 1]] {
        refused(vec![(name.to_vec(), file(0))]);
    }
    for name in [&b"..."[..], b".a", b"..a", b"a.", &[b'x'; ENTRY_NAME_BYTES_MAX]] {
        let entries = vec![(name.to_vec(), file(0))];
        assert_eq!(read(&build(&ok, &entries).unwrap()).unwrap().1, entries);
    }
    refused(vec![(b"a".to_vec(), file(0)), (b"a".to_vec(), file(0))]);
    refused(vec![(b"b".to_vec(), file(0)), (b"a".to_vec(), file(0))]);
    for target in [&b""[..], b"a\0b", &[b'x'; TARGET_BYTES_MAX + 1]] {
        let target = target.to_vec();
        refused(vec![(b"l".to_vec(), OwnedNode::Symlink { meta: ok, target })]);
    }
    assert!(TreeBuilder::new(&meta(0o10000, 0, 0)).is_err());
    assert!(TreeBuilder::new(&meta(0, 0, 1_000_000_000)).is_err());
}

#[test]
fn other_formats_are_refused_by_name() {
    let value = build(&meta(0o755, 0, 0), &vec![(b"a".to_vec(), file(1))]).unwrap();
    let changed = |at: usize, to: u8| {
        let mut value = value.clone();
        value[at] = to;
        check(&value)
    };
    assert_eq!(check(b""), Err(TreeError::NotATree));
    assert_eq!(check(b"hello"), Err(TreeError::NotATree));
    assert_eq!(changed(0, b'P'), Err(TreeError::NotATree));
    assert_eq!(changed(7, 2), Err(TreeError::Version { version: 2 }));
    assert_eq!(changed(8, 9), Err(TreeError::DigestKind { kind: 9 }));
    assert!(matches!(changed(9, 1), Err(TreeError::Malformed { offset: 9, .. })));
    assert!(matches!(changed(11, 0x10), Err(TreeError::Malformed { offset: 10, .. })));
    assert!(matches!(changed(24, 0), Err(TreeError::Malformed { offset: 28, .. })));
    assert!(matches!(changed(24, 2), Err(TreeError::Malformed { .. })));
    assert!(matches!(changed(28, 4), Err(TreeError::Malformed { offset: 28, .. })));
    let mut longer = value.clone();
    longer.push(0);
    assert!(matches!(check(&longer), Err(TreeError::Malformed { .. })));
}

/// The figures of the format's section on limits.
#[test]
fn a_million_entries_fit() {
    let limit = pinstone::Options::default().value_bytes_max as usize;
    let mut builder = TreeBuilder::new(&meta(0o755, 0, 0)).unwrap();
    let node = file(100_000);
    for number in 0..1_000_000 {
        let name = format!("{number:020}");
        builder.push(&Entry { name: name.as_bytes(), node: node.node() }).unwrap();
    }
    let value = builder.finish();
    assert!(value.len() < limit / 3, "{}", value.len());
    assert_eq!(check(&value).unwrap().entry_count, 1_000_000);
    let entry_bytes = |name_bytes: usize| {
        let entries = vec![(vec![b'x'; name_bytes], file(100_000))];
        build(&meta(0o755, 0, 0), &entries).unwrap().len() - HEADER_BYTES
    };
    assert_eq!((entry_bytes(20), limit / entry_bytes(20) / 100_000), (71, 37));
    assert_eq!((entry_bytes(255), limit / entry_bytes(255) / 10_000), (307, 87));
}
