//! What no compiler says: how the house is kept. Each test names the files that break its rule.
//!
//! 1. The files of the checkout are walked once, without `target`, hidden directories and the store.
//! 2. Rules about code look at words outside comments; a word is a run of letters, digits and `_`.
//!
//! Words that this file forbids are put together here, so that it keeps its own rules.

#![allow(clippy::disallowed_methods, reason = "a test, not the engine")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file: more cannot be read in a sitting.
const LINES_MAX: usize = 700;

/// Files that may hold unsafe code, one call a block: rings and maps; and a mapped peer of the benchmarks is
/// opened by it.
const UNSAFE_FILES: [&str; 3] =
    ["benches/src/compare/peers/lmdb.rs", "disk/src/map.rs", "disk/src/uring.rs"];

/// The workspace's crates, and those of them that each may depend on, in tests too.
const EDGES: [(&str, &str, &[&str]); 6] = [
    ("disk", "pinstone-disk", &[]),
    ("wal", "pinstone-wal", &["pinstone-disk"]),
    ("compaction", "pinstone-compaction", &["pinstone-disk"]),
    ("engine", "pinstone", &["pinstone-disk", "pinstone-wal", "pinstone-compaction"]),
    (
        "tools",
        "pinstone-tools",
        &["pinstone-disk", "pinstone-wal", "pinstone-compaction", "pinstone"],
    ),
    (
        "benches",
        "pinstone-benches",
        &["pinstone-disk", "pinstone-wal", "pinstone-compaction", "pinstone"],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace holds tools").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files, by their path from the root.
fn rust_files() -> BTreeMap<String, String> {
    let root = root();
    let mut files = BTreeMap::new();
    let mut left = vec![root.clone()];
    while let Some(dir) = left.pop() {
        let listed =
            fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for entry in listed {
            let entry = entry.expect("a listed entry");
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let kind = entry.file_type().expect("an entry has a type");
            if kind.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "pinstone-data" {
                    left.push(path);
                }
            } else if name.ends_with(".rs") {
                let relative = path.strip_prefix(&root).expect("it is below the root");
                files.insert(relative.to_string_lossy().into_owned(), read(&path));
            }
        }
    }
    assert!(files.contains_key("tools/tests/tidy.rs"), "the walk begins at the root");
    files
}

/// The lines of a file without its line comments, numbered from 1.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| {
        let code = if line.trim_start().starts_with("//") { "" } else { line };
        (index + 1, code.split(" // ").next().expect("splitting gives one part at least"))
    })
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn tidy(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = rust_files();
    let headless = files.iter().filter(|(_, text)| !text.starts_with("//! "));
    let broken: Vec<_> = headless.map(|(path, _)| path.clone()).collect();
    tidy("a file begins with its `//!` header", &broken);
}

#[test]
fn every_source_file_is_read_in_a_sitting() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        if path.contains("/src/") && lines > LINES_MAX {
            broken.push(format!("{path} has {lines} lines"));
        }
    }
    tidy(&format!("a source file has at most {LINES_MAX} lines"), &broken);
}

#[test]
fn nothing_is_left_to_be_done() {
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|parts| parts.concat());
    let calls =
        [["db", "g"], ["to", "do"], ["unimple", "mented"]].map(|parts| parts.concat() + "!");
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in (1..).zip(text.lines()) {
            let marked = words(line).any(|word| marks.iter().any(|mark| word == mark));
            if marked || calls.iter().any(|call| line.contains(call.as_str())) {
                broken.push(format!("{path}:{number}"));
            }
        }
    }
    tidy("no marks and no calls that stand for work to be done", &broken);
}

#[test]
fn unsafe_code_stands_where_it_is_expected() {
    let keyword = ["un", "safe"].concat();
    let rule = format!("{keyword} code stands in the listed files, and crates but disk forbid it");
    let forbid = format!("#![forbid({keyword}_code)]");
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (number, code) in code_lines(&text) {
            if !UNSAFE_FILES.contains(&&*path) && words(code).any(|word| word == keyword) {
                broken.push(format!("{path}:{number}"));
            }
        }
        let is_root = path.ends_with("/src/lib.rs") || path.contains("/src/bin/");
        if is_root && !path.starts_with("disk/") && !text.contains(&forbid) {
            broken.push(format!("{path} does not say {forbid}"));
        }
    }
    tidy(&rule, &broken);
}

#[test]
fn state_never_calls_back_into_ops() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        if !path.starts_with("engine/src/state/") {
            continue;
        }
        for (number, code) in code_lines(&text) {
            let mut before = "";
            for word in words(code) {
                // `std::ops` is the standard library's.
                if word == "ops" && !["std", "core"].contains(&before) {
                    broken.push(format!("{path}:{number}"));
                }
                before = word;
            }
        }
    }
    tidy("verbs use nouns: engine/src/state names nothing of ops", &broken);
}

#[test]
fn no_file_is_opened_for_appending() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (number, code) in code_lines(&text) {
            let flagged = words(code).any(|word| word == "APPEND" || word == "O_APPEND");
            if path.contains("/src/") && (flagged || code.contains(".append(true)")) {
                broken.push(format!("{path}:{number}"));
            }
        }
    }
    tidy("files are written at positions that we name", &broken);
}

/// The workspace's crates that a manifest names as dependencies of any sort.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies");
            // `[dependencies.name]` is a dependency, too.
            if let Some((table, name)) = section.rsplit_once('.')
                && table.ends_with("dependencies")
            {
                found.push(name.to_owned());
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            found.push(name.trim_matches('"').to_owned());
        }
    }
    found.retain(|name| name == "pinstone" || name.starts_with("pinstone-"));
    found
}

#[test]
fn crates_know_only_what_is_below_them() {
    let mut broken = Vec::new();
    let workspace = read(&root().join("Cargo.toml"));
    let members = workspace.lines().find(|line| line.starts_with("members"));
    let members = members.expect("the workspace lists its members").split('"');
    for member in members.skip(1).step_by(2) {
        let Some((_, name, below)) = EDGES.iter().find(|(dir, ..)| *dir == member) else {
            broken.push(format!("{member} has no place among the crates"));
            continue;
        };
        let manifest = read(&root().join(member).join("Cargo.toml"));
        if !manifest.contains(&format!("name = \"{name}\"")) {
            broken.push(format!("{member} is not {name}"));
        }
        for dependency in dependencies(&manifest) {
            if !below.contains(&&*dependency) {
                broken.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    tidy("disk <- { wal, compaction } <- pinstone <- { tools, benches }", &broken);
}

#[test]
fn a_manifest_is_read_in_all_its_forms() {
    let manifest = "[package]\nname = \"pinstone-x\"\n[dependencies]\npinstone-a.workspace = true\n\
        # pinstone-no = 1\npinstone = { path = \"..\" }\nother = \"1\"\n\
        [target.'cfg(unix)'.dependencies]\n\"pinstone-b\" = \"1\"\n\
        [dev-dependencies.pinstone-c]\nversion = \"1\"\n[features]\npinstone-d = []\n";
    assert_eq!(dependencies(manifest), ["pinstone-a", "pinstone", "pinstone-b", "pinstone-c"]);
}

#[test]
fn the_code_map_names_every_room() {
    let map = read(&root().join("docs/architecture.md"));
    let mut broken = Vec::new();
    for path in rust_files().into_keys() {
        let Some((place, inner)) = path.split_once("/src/") else { continue };
        let named = format!("`{inner}`");
        // A folder may have one line for all, but for the engine's two and the commands.
        let folder = match inner.split_once('/') {
            Some(("state" | "ops" | "bin", _)) | None => named.clone(),
            Some((folder, _)) => format!("`{folder}/`"),
        };
        let section = map.split(&format!("\n### `{place}`")).nth(1).unwrap_or("");
        let section = section.split("\n### ").next().expect("splitting gives one part at least");
        let dull = inner == "lib.rs" || inner.ends_with("/mod.rs") || inner.ends_with("/tests.rs");
        if !dull && !section.contains(&named) && !section.contains(&folder) {
            broken.push(format!("{named} of {place}"));
        }
    }
    tidy("docs/architecture.md has a line for each file", &broken);
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let listed = fs::read_dir(root().join("docs/decisions")).expect("there are decisions");
    let mut names: Vec<_> = listed
        .map(|entry| entry.expect("a listed entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut broken = Vec::new();
    for (number, name) in (1..).zip(&names) {
        let text = read(&root().join("docs/decisions").join(name));
        let numbered = name.starts_with(&format!("{number:04}-")) && name.ends_with(".md");
        if !numbered || !text.starts_with(&format!("# {number:04} ")) {
            broken.push(name.clone());
        }
    }
    tidy("NNNN-title.md, begun by `# NNNN title`", &broken);
}

#[test]
fn what_must_hold_is_asked_with_the_command_that_the_readme_gives() {
    let readme = read(&root().join("README.md"));
    let command = readme.lines().find(|line| line.starts_with("cargo test"));
    let command = command.expect("the README says how to run the tests");
    let ci = read(&root().join(".ci/run"));
    assert!(ci.lines().any(|line| line == command), ".ci/run does not run `{command}`");
}
