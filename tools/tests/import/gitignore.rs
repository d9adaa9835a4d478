//! What `import --gitignore` leaves out: as documented, and as git itself has it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::generated::Numbers;
use crate::harness::{Content, Sandbox, export_ok, manifest, pinstone, stderr};

fn write_all(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// The files that an import of `source` with `--gitignore` keeps.
fn kept_files(sandbox: &Sandbox, source: &Path) -> Vec<String> {
    let (store, target) = (sandbox.path("store"), sandbox.path("target"));
    let args = [OsStr::new("import"), source.as_ref(), "--as".as_ref(), "tree".as_ref()];
    let output = pinstone(&store, args.iter().chain([&OsStr::new("--gitignore")]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    export_ok(&store, "@tree", &target);
    let found = manifest(&target, &[]).into_iter();
    found
        .filter(|(_, item)| item.content != Content::Directory)
        .map(|(path, _)| String::from_utf8(path).unwrap())
        .collect()
}

#[test]
fn gitignore_files_are_followed_outside_a_repository_too() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    write_all(
        &source,
        &[
            (".gitignore", "*.o\n/target\n!sub/keep.o\n# comment\nlogs/\n"),
            (".hidden", ""),
            (".git/config", ""),
            (".github/workflow", ""),
            ("a.o", ""),
            ("a.c", ""),
            ("target/x", ""),
            ("sub/.gitignore", "!b.o\n*.tmp\n"),
            ("sub/a.o", ""),
            ("sub/b.o", ""),
            ("sub/keep.o", ""),
            ("sub/target/x.tmp", ""),
            ("sub/target/y", ""),
            ("sub/logs/z", ""),
            ("sub/deep/logs", "a file"),
            ("x.tmp", ""),
        ],
    );
    assert_eq!(
        kept_files(&sandbox, &source),
        [
            ".github/workflow",
            ".gitignore",
            ".hidden",
            "a.c",
            "sub/.gitignore",
            "sub/b.o",
            "sub/deep/logs",
            "sub/keep.o",
            "sub/target/y",
            "x.tmp",
        ]
    );
}

#[test]
fn a_part_of_a_repository_follows_the_rules_above_it() {
    let sandbox = Sandbox::new();
    let above = sandbox.path("above");
    write_all(
        &above,
        &[
            (".gitignore", "*.c\n"),
            ("repository/.git/config", ""),
            ("repository/.gitignore", "*.o\n/part/one\n/two\n"),
            ("repository/part/one", ""),
            ("repository/part/two", ""),
            ("repository/part/a.o", ""),
            ("repository/part/a.c", ""),
        ],
    );
    assert_eq!(kept_files(&sandbox, &above.join("repository/part")), ["a.c", "two"]);
}

/// Whether a test that needs this program can run; in CI it must.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    let required = std::env::var_os("PINSTONE_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(found || !required, "{program} is not installed");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Parts of rules, and of names that they may be about.
const RULE_PARTS: [&str; 24] = [
    "a",
    "b",
    "1",
    "/",
    "*",
    "**",
    "***",
    "?",
    "[ab]",
    "[!a]",
    "[^a-c]",
    "[[:digit:]]",
    "[![:alpha:]]",
    "[]a]",
    "[\\]a]",
    "[a",
    "\\a",
    "\\*",
    "{a,b}",
    ".",
    "**/",
    "/**",
    "A",
    "\\ ",
];
const NAME_PARTS: [&str; 14] =
    ["a", "b", "c", "1", "ab", "a1", "]", "*", "{a,b}", ".a", "A", "a ", "[a", "\\"];

#[test]
fn an_import_keeps_what_git_would() {
    if !is_installed("git") {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    let mut numbers = Numbers(7);
    for _ in 0..300 {
        let depth = 1 + numbers.below(3);
        let mut path = source.clone();
        path.extend((0..depth).map(|_| NAME_PARTS[numbers.below(14) as usize]));
        // Some are directories already, or would lie below files.
        let made = std::fs::create_dir_all(path.parent().unwrap());
        let _ = made.and_then(|()| std::fs::write(&path, ""));
    }
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&source).args(args).envs(
            ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"].map(|variable| (variable, "/dev/null")),
        );
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    git(&["init", "--quiet"]);
    let mut left_out = 0;
    for round in 0..40 {
        let mut rules = String::new();
        for _ in 0..1 + numbers.below(4) {
            rules.push_str(["", "", "", "!"][numbers.below(4) as usize]);
            for _ in 0..1 + numbers.below(4) {
                rules.push_str(RULE_PARTS[numbers.below(24) as usize]);
            }
            rules.push('\n');
        }
        std::fs::write(source.join(".gitignore"), &rules).unwrap();
        let listed = git(&["ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]);
        let expected: BTreeSet<_> =
            listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
        left_out += usize::from(expected.len() < 100);

        let kept = kept_files(&sandbox, &source);
        std::fs::remove_dir_all(sandbox.path("target")).unwrap();
        let kept: BTreeSet<_> = kept.iter().map(String::as_bytes).collect();
        let difference = expected.symmetric_difference(&kept);
        let difference: Vec<_> = difference.map(|path| path.escape_ascii().to_string()).collect();
        assert!(difference.is_empty(), "round {round}: {difference:?} with the rules\n{rules}");
    }
    assert!(left_out > 3, "the rules were about something");
}
