//! Which names `.gitignore` files leave out.
//!
//! As git has it: the deepest file with a rule for a path decides, in it the last such rule; what
//! lies below a directory left out is never looked at, so no rule can bring it back. Rules of the
//! directories above the imported one count up to the top of the git repository that it lies in, and
//! not at all outside of one. Rules outside the tree (`info/exclude`, `core.excludesFile`) and what
//! git already tracks play no part: the result depends on the tree alone.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Bytes of the longest `.gitignore` that is read.
pub(super) const FILE_BYTES_MAX: usize = 16 << 20;

/// The name of the files with rules.
pub(super) const FILE_NAME: &[u8] = b".gitignore";

/// What git keeps its own things in: always left out.
const GIT_NAME: &[u8] = b".git";

/// The rules that hold at one place of the walk.
#[derive(Debug, Default)]
pub(super) struct Rules {
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    rules: Gitignore,
    place: Place,
}

/// Where a level's file lies.
#[derive(Debug)]
enum Place {
    /// Above the imported directory, which from there has this path.
    Above(Vec<u8>),
    /// In the imported directory or below it: at this depth, and paths from the imported directory
    /// go on behind this many bytes.
    Inside { depth: usize, prefix_bytes: usize },
}

impl Rules {
    /// The rules above `dir`, from the repository that it lies in, if any. Rules that cannot be
    /// understood go to `warn`.
    pub(super) fn above(dir: &Path, warn: &mut dyn FnMut(String)) -> Self {
        let Ok(dir) = dir.canonicalize() else { return Self::default() };
        let git = Path::new(std::ffi::OsStr::from_bytes(GIT_NAME));
        let is_top = |dir: &Path| dir.join(git).symlink_metadata().is_ok();
        if is_top(&dir) || !dir.ancestors().skip(1).any(is_top) {
            return Self::default();
        }
        let mut levels = Vec::new();
        for above in dir.ancestors().skip(1) {
            let file = above.join(".gitignore");
            let is_file = file.symlink_metadata().is_ok_and(|meta| meta.is_file());
            let lines = if is_file { std::fs::read(&file).ok() } else { None };
            if let (Some(lines), Ok(below)) = (lines, dir.strip_prefix(above)) {
                let mut place = below.as_os_str().as_bytes().to_vec();
                place.push(b'/');
                let rules = parse(&lines, &mut |what| warn(format!("{}: {what}", file.display())));
                levels.push(Level { rules, place: Place::Above(place) });
            }
            if is_top(above) {
                break;
            }
        }
        levels.reverse();
        Self { levels }
    }

    /// Adds the rules in `lines`, the file in the directory at `depth` whose entries' paths go on
    /// behind `prefix_bytes`.
    pub(super) fn enter(
        &mut self,
        lines: &[u8],
        depth: usize,
        prefix_bytes: usize,
        warn: &mut dyn FnMut(String),
    ) {
        let rules = parse(lines, warn);
        if !rules.is_empty() {
            self.levels.push(Level { rules, place: Place::Inside { depth, prefix_bytes } });
        }
    }

    /// Drops the rules of the directory at `depth`, and of any below.
    pub(super) fn leave(&mut self, depth: usize) {
        while let Some(Level { place: Place::Inside { depth: last, .. }, .. }) = self.levels.last()
            && *last >= depth
        {
            self.levels.pop();
        }
    }

    /// Whether the entry at `path` from the imported directory is left out.
    pub(super) fn leave_out(&self, path: &[u8], is_dir: bool) -> bool {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        if name == GIT_NAME {
            return true;
        }
        for level in self.levels.iter().rev() {
            let from_level = match &level.place {
                Place::Above(dir) => [dir, path].concat(),
                Place::Inside { prefix_bytes, .. } => {
                    path.get(*prefix_bytes..).unwrap_or_default().to_vec()
                }
            };
            let from_level = Path::new(std::ffi::OsStr::from_bytes(&from_level));
            match level.rules.matched(from_level, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

fn parse(lines: &[u8], warn: &mut dyn FnMut(String)) -> Gitignore {
    let mut builder = GitignoreBuilder::new("");
    let lines = lines.strip_prefix(b"\xef\xbb\xbf").unwrap_or(lines);
    for (index, line) in lines.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Ok(line) = std::str::from_utf8(line) else {
            warn(format!("line {} is not UTF-8 and was ignored", index + 1));
            continue;
        };
        let Some(line) = without_alternatives(line) else {
            warn(format!("line {} was ignored: a bracket in it is not closed", index + 1));
            continue;
        };
        if let Err(error) = builder.add_line(None, &line) {
            warn(format!("line {} was ignored: {error}", index + 1));
        }
    }
    builder.build().unwrap_or_else(|error| {
        warn(format!("its rules were ignored: {error}"));
        Gitignore::empty()
    })
}

/// The rule for a matcher that knows alternatives in braces, which git does not: braces stand for
/// themselves; and that drops a protected space at the end if others follow. `None` if a bracket is
/// not closed: to git, such a rule names nothing.
fn without_alternatives(line: &str) -> Option<String> {
    let mut rule = String::with_capacity(line.len());
    let is_comment = line.starts_with('#');
    let bare = line.trim_end_matches(' ');
    let backslash_count = bare.len() - bare.trim_end_matches('\\').len();
    let protected = backslash_count % 2 == 1 && bare.len() < line.len();
    let mut rest = if protected { &line[..=bare.len()] } else { bare };
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            _ if is_comment => rest.len(),
            // With what it protects, if there is anything behind it.
            '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            '[' => {
                // A bracket that comes first, also behind a negation, closes nothing.
                let inside = rest[1..].strip_prefix(['!', '^']).unwrap_or(&rest[1..]);
                let before = rest.len() - inside.len() + usize::from(inside.starts_with(']'));
                before + rest[before..].find(']')? + 1
            }
            first => first.len_utf8(),
        };
        if matches!(first, '{' | '}') && !is_comment {
            rule.push('\\');
        }
        rule.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(what: String) {
        drop(what);
        panic!("every line is a rule");
    }

    #[test]
    fn the_deepest_rule_decides_and_the_last_in_its_file() {
        let mut rules = Rules::default();
        rules.enter(b"*.log\n/build\n!keep.log\ndir/\n", 0, 0, &mut never);
        assert!(rules.leave_out(b"a.log", false));
        assert!(rules.leave_out(b"x/a.log", false));
        assert!(!rules.leave_out(b"x/keep.log", false));
        assert!(rules.leave_out(b"build", true));
        assert!(!rules.leave_out(b"x/build", true));
        assert!(rules.leave_out(b"dir", true));
        assert!(!rules.leave_out(b"dir", false));
        rules.enter(b"!a.log\r\n/only\n", 1, 2, &mut never);
        assert!(!rules.leave_out(b"x/a.log", false));
        assert!(rules.leave_out(b"x/only", false));
        assert!(!rules.leave_out(b"x/y/only", false));
        rules.leave(1);
        assert!(rules.leave_out(b"x/a.log", false));
        assert!(rules.leave_out(b".git", true));
        assert!(rules.leave_out(b"x/.git", false));
        assert!(!rules.leave_out(b".github", true));
    }

    #[test]
    fn lines_that_are_no_rules_are_told_and_skipped() {
        let mut told = Vec::new();
        let mut rules = Rules::default();
        rules.enter(b"\xff\na[b\n*.o\n# [\n", 0, 0, &mut |what| told.push(what));
        assert!(rules.leave_out(b"x.o", false));
        assert!(!rules.leave_out(b"a[b", false));
        assert!(told[0].starts_with("line 1 is not UTF-8"), "{told:?}");
        assert!(told[1].starts_with("line 2 was ignored: a bracket"), "{told:?}");
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn a_protected_space_at_the_end_stays() {
        let mut rules = Rules::default();
        rules.enter(b"a\\ \nb\\   \nc  \nd\\\\ \n", 0, 0, &mut never);
        for name in [b"a ".as_slice(), b"b ", b"c", b"d\\"] {
            assert!(rules.leave_out(name, false), "{}", String::from_utf8_lossy(name));
        }
        for name in [b"a".as_slice(), b"b", b"b   ", b"c  ", b"d\\ "] {
            assert!(!rules.leave_out(name, false), "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn braces_stand_for_themselves() {
        let mut rules = Rules::default();
        rules.enter(b"*.{c,h}\n{a\nb}\n\\{d\n[{x]e\n[]{]f\n[!{]g\n", 0, 0, &mut never);
        for name in [b"a.{c,h}".as_slice(), b"{a", b"b}", b"{d", b"{e", b"xe", b"{f", b"]f", b"xg"]
        {
            assert!(rules.leave_out(name, false), "{}", String::from_utf8_lossy(name));
        }
        for name in [b"a.c".as_slice(), b"a.h", b"a", b"\\e", b"\\f", b"{g"] {
            assert!(!rules.leave_out(name, false), "{}", String::from_utf8_lossy(name));
        }
    }
}
