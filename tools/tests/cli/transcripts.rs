//! Scripts and what they print.
//!
//! A transcript is a file of lines. Each that begins with `$ ` is run by `sh`, in one directory for
//! the whole file, with `pinstone` on the path. Below it stand the lines that it printed, those on
//! stderr behind `! `, and its exit code behind `? ` unless it is 0; an empty one that it printed is
//! `|`. Empty lines and those that begin with `# ` are for the reader. `[..]` stands for anything
//! within a line.

use std::path::Path;

use snapbox::{Assert, Data};

use crate::harness::{Place, pinstone};

#[track_caller]
fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/transcripts").join(name);
    let script = std::fs::read_to_string(&path).unwrap();
    let place = Place::new();
    let mut actual = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            actual.push_str(line);
            actual.push('\n');
            run(&place, command, &mut actual);
        } else if line.is_empty() || line.starts_with("# ") {
            actual.push_str(line);
            actual.push('\n');
        }
    }
    // Backslashes are what is printed, not separators of paths.
    let assert =
        Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV).normalize_paths(false);
    assert.eq(actual, Data::read_from(&path, None));
}

fn run(place: &Place, command: &str, transcript: &mut String) {
    let bin = pinstone().parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut shell = place.command("sh");
    let output = shell.args(["-c", command]).env("PATH", path).output().unwrap();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        transcript.push_str(if line.is_empty() { "|" } else { line });
        transcript.push('\n');
    }
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        transcript.push_str(format!("! {line}").trim_end());
        transcript.push('\n');
    }
    match output.status.code() {
        Some(0) => {}
        code => transcript.push_str(&format!("? {}\n", code.unwrap_or(128))),
    }
}

macro_rules! transcripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"));
        }
    )*};
}

transcripts! {
    values
    pointers
    figures
    json
    usage
    protocol
    directories
}
