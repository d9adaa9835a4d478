//! What export makes of good, damaged, missing and hostile values.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pinstone::{Digest, Store};
use pinstone_tools::tree::{Entry, Meta, Node, TreeBuilder};

use crate::generated::{finish_dir, make_dir, make_file, open_dir};
use crate::harness::{Sandbox, import_json, manifest, pinstone, stderr};

const META: Meta = Meta { mode: 0o755, mtime_seconds: 5, mtime_nanos: 6 };

pub(crate) fn put(store: &Path, bytes: &[u8]) -> Digest {
    let store = Store::open(store).unwrap();
    let put = store.put(bytes).unwrap();
    store.sync().unwrap();
    store.close().unwrap();
    put.digest
}

fn export(store: &Path, digest: Digest, target: &Path) -> (Option<i32>, String) {
    let digest = digest.to_string();
    let output = pinstone(store, ["export".as_ref(), OsStr::new(&digest), target.as_ref()]);
    assert!(output.stdout.is_empty());
    (output.status.code(), stderr(&output))
}

#[test]
fn only_an_absent_or_empty_directory_is_exported_into() {
    let sandbox = Sandbox::new();
    let store = sandbox.path("store");
    let tree = put(&store, &TreeBuilder::new(&META).unwrap().finish());
    let target = sandbox.path("a/b/target");
    assert_eq!(export(&store, tree, &target).0, Some(0));
    assert_eq!(manifest(&target, &[])[&b""[..]].mtime, (5, 6));
    assert_eq!(export(&store, tree, &target).0, Some(0));
    std::fs::write(target.join("file"), "").unwrap();
    let (code, told) = export(&store, tree, &target);
    assert_eq!(code, Some(1));
    assert!(told.contains("is not empty"), "{told}");
    assert_eq!(export(&store, tree, &target.join("file")).0, Some(1));
}

#[test]
fn what_is_no_tree_is_not_exported() {
    let sandbox = Sandbox::new();
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let plain = put(&store, b"a plain value");
    let (code, told) = export(&store, plain, &target);
    assert_eq!(code, Some(1));
    assert!(told.contains("the value is no tree"), "{told}");
    assert_eq!(export(&store, Digest::of(b"absent"), &target).0, Some(3));
    assert!(!target.exists());
}

#[test]
fn a_hostile_tree_writes_nothing_outside() {
    let sandbox = Sandbox::new();
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let content = put(&store, b"content");
    for name in ["../out", "..", ".", "/tmp/out", "a/b", ""] {
        // A tree with a good name of the same length, and then the bad one in its place.
        let good = "n".repeat(name.len().max(1));
        let mut builder = TreeBuilder::new(&META).unwrap();
        let node = Node::File { meta: META, len_bytes: 7, digest: content };
        builder.push(&Entry { name: good.as_bytes(), node }).unwrap();
        let mut value = builder.finish();
        let at = 30;
        assert_eq!(&value[at..at + good.len()], good.as_bytes());
        value.splice(at..at + good.len(), name.bytes());
        value[at - 1] = name.len() as u8;
        let tree = put(&store, &value);
        let (code, told) = export(&store, tree, &target);
        assert_eq!(code, Some(1), "{name:?}");
        assert!(told.contains("malformed at offset 30"), "{told}");
        assert!(!target.exists());
    }
    assert!(!sandbox.path("out").exists());

    // A link out, and below it a directory of the same name: no such tree is ever read.
    let link = Node::Symlink { meta: META, target: sandbox.0.as_os_str().as_bytes() };
    let mut builder = TreeBuilder::new(&META).unwrap();
    builder.push(&Entry { name: b"n", node: link }).unwrap();
    assert!(builder.push(&Entry { name: b"n", node: link }).is_err());
}

#[test]
fn what_is_missing_is_told_and_the_rest_is_exported() {
    let sandbox = Sandbox::new();
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let content = put(&store, b"content");
    let mut builder = TreeBuilder::new(&META).unwrap();
    let file = |len_bytes, digest| Node::File { meta: META, len_bytes, digest };
    let absent = Digest::of(b"absent");
    for (name, node) in [
        ("absent", file(6, absent)),
        ("absent dir", Node::Directory { digest: absent }),
        ("good", file(7, content)),
        ("no dir", Node::Directory { digest: content }),
        ("other length", file(8, content)),
        ("zero link", Node::Symlink { meta: META, target: b"good" }),
    ] {
        builder.push(&Entry { name: name.as_bytes(), node }).unwrap();
    }
    let tree = put(&store, &builder.finish());
    let (code, told) = export(&store, tree, &target);
    assert_eq!(code, Some(1), "{told}");
    for name in ["absent", "absent dir", "no dir", "other length"] {
        assert!(told.contains(&format!("{}/{name}: left out: ", target.display())), "{told}");
    }
    let found: Vec<_> = manifest(&target, &[]).into_keys().collect();
    assert_eq!(found, ["", "good", "zero link"].map(|path| path.as_bytes().to_vec()));
}

#[test]
fn setuid_bits_come_back_and_are_told_or_are_dropped() {
    let sandbox = Sandbox::new();
    let (source, store) = (sandbox.path("source"), sandbox.path("store"));
    std::fs::create_dir(&source).unwrap();
    let dir = open_dir(&source);
    make_file(&dir, b"setgid", b"program", 0o2711, (1, 1));
    make_file(&dir, b"setuid", b"program", 0o4755, (1, 1));
    make_file(&dir, b"sticky", b"", 0o1644, (1, 1));
    finish_dir(&make_dir(&dir, b"shared"), 0o3775, (1, 1));
    import_json(&store, 0, &source);
    let names = ["setgid", "setuid", "shared", "sticky"].map(str::as_bytes);
    let modes = |target: &Path| {
        let found = manifest(target, &[]);
        names.map(|name| found[name].mode)
    };

    let kept = sandbox.path("kept");
    let output = pinstone(&store, ["export".as_ref(), OsStr::new("@tree"), kept.as_ref()]);
    assert_eq!(output.status.code(), Some(0));
    let told =
        "2 files are setuid or setgid and run as you (--drop-setuid leaves these bits unset)\n";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
    assert_eq!(modes(&kept), [0o2711, 0o4755, 0o3775, 0o1644]);

    let dropped = sandbox.path("dropped");
    let args = ["export".as_ref(), OsStr::new("@tree"), dropped.as_ref(), "--drop-setuid".as_ref()];
    let output = pinstone(&store, args);
    assert_eq!(output.status.code(), Some(0));
    assert!(!stderr(&output).contains("setuid"), "{}", stderr(&output));
    assert_eq!(modes(&dropped), [0o711, 0o755, 0o3775, 0o1644]);
}
