//! Which names `.gitignore` files leave out.
//!
//! As git has it: the deepest file with a rule for a path decides, in it the last such rule; what
//! lies below a directory left out is never looked at, so no rule can bring it back. Rules of the
//! directories above the imported one count up to the top of the git repository that it lies in, and
//! not at all outside of one. Rules outside the tree (`info/exclude`, `core.excludesFile`) and what
//! git already tracks play no part: the result depends on the tree alone.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gix_ignore::glob::wildmatch::Mode;
use gix_ignore::glob::{Pattern, pattern, wildmatch};

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
    /// In the order of their lines.
    rules: Vec<Pattern>,
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
    /// The rules above `dir`, from the repository that it lies in, if any.
    pub(super) fn above(dir: &Path) -> Self {
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
                levels.push(Level { rules: parse(&lines), place: Place::Above(place) });
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
    pub(super) fn enter(&mut self, lines: &[u8], depth: usize, prefix_bytes: usize) {
        let rules = parse(lines);
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
            let matches = |rule: &&Pattern| names(rule, &from_level, name, is_dir);
            if let Some(rule) = level.rules.iter().rev().find(matches) {
                return !rule.is_negative();
            }
        }
        false
    }
}

/// Whether the rule is about the entry at `path` from the rule's directory, whose last part is `name`.
fn names(rule: &Pattern, path: &[u8], name: &[u8], is_dir: bool) -> bool {
    let is_of_names = rule.mode.contains(pattern::Mode::NO_SUB_DIR)
        && !rule.mode.contains(pattern::Mode::ABSOLUTE);
    if rule.mode.contains(pattern::Mode::MUST_BE_DIR) && !is_dir {
        false
    } else if is_of_names {
        wildmatch(rule.text.as_slice().into(), name.into(), Mode::NO_MATCH_SLASH_LITERAL)
    } else {
        // What stands before the first wildcard is compared, and what follows is matched by itself:
        // so to git `a**/b` names `ab`, too.
        let (literal, rest) =
            rule.text.split_at(rule.first_wildcard_pos.unwrap_or(rule.text.len()));
        let below = path.strip_prefix(literal);
        below
            .is_some_and(|below| wildmatch(rest.into(), below.into(), Mode::NO_MATCH_SLASH_LITERAL))
    }
}

fn parse(lines: &[u8]) -> Vec<Pattern> {
    // Git takes the last line for one that ends, too.
    let lines = [lines, b"\n"].concat();
    gix_ignore::parse(&lines, false).map(|(rule, _line, _kind)| rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_rule_decides_and_the_last_in_its_file() {
        let mut rules = Rules::default();
        rules.enter(b"*.log\n/build\n!keep.log\ndir/\n", 0, 0);
        assert!(rules.leave_out(b"a.log", false));
        assert!(rules.leave_out(b"x/a.log", false));
        assert!(!rules.leave_out(b"x/keep.log", false));
        assert!(rules.leave_out(b"build", true));
        assert!(!rules.leave_out(b"x/build", true));
        assert!(rules.leave_out(b"dir", true));
        assert!(!rules.leave_out(b"dir", false));
        rules.enter(b"!a.log\r\n/only\n", 1, 2);
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
    fn a_bracket_that_is_not_closed_names_nothing() {
        let mut rules = Rules::default();
        rules.enter(b"\xef\xbb\xbf*.c\na[b\n*.o\n# [\n\xff[\xfe]\r\nlast\r", 0, 0);
        for name in [b"x.o".as_slice(), b"x.c", b"\xff\xfe", b"last"] {
            assert!(rules.leave_out(name, false), "{}", name.escape_ascii());
        }
        for name in [b"a[b".as_slice(), b"ab", b"# [", b"\xff", b"\xff\xff"] {
            assert!(!rules.leave_out(name, false), "{}", name.escape_ascii());
        }
    }

    #[test]
    fn classes_and_stars_are_those_of_git() {
        for (rule, named, not_named) in [
            ("[[:digit:]]x", &["1x", "d/9x"][..], &["x", "ax", ":x", "d]x"][..]),
            ("[^[:upper:]_]", &["a", "1"], &["A", "_"]),
            (r"[\]a]", &["]", "a"], &["\\", "\\]", "a]"]),
            ("[]-]", &["]", "-"], &["[", "a"]),
            ("a***b", &["ab", "axxb", "d/ab"], &["a/b", "a/x/b"]),
            ("d/***/f", &["d/f", "d/x/y/f"], &["f", "x/d/f"]),
            ("a**/b", &["ab", "a/b", "ax/b"], &["a", "ax", "x/ab"]),
            ("d/**/f", &["d/f", "d/x/f", "d/x/y/f"], &["f", "x/d/f"]),
        ] {
            let mut rules = Rules::default();
            rules.enter(rule.as_bytes(), 0, 0);
            for name in named {
                assert!(rules.leave_out(name.as_bytes(), false), "{rule} {name}");
            }
            for name in not_named {
                assert!(!rules.leave_out(name.as_bytes(), false), "{rule} {name}");
            }
        }
    }

    #[test]
    fn a_protected_space_at_the_end_stays() {
        let mut rules = Rules::default();
        rules.enter(b"a\\ \nb\\   \nc  \nd\\\\ \n", 0, 0);
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
        rules.enter(b"*.{c,h}\n{a\nb}\n\\{d\n[{x]e\n[]{]f\n[!{]g\n", 0, 0);
        for name in [b"a.{c,h}".as_slice(), b"{a", b"b}", b"{d", b"{e", b"xe", b"{f", b"]f", b"xg"]
        {
            assert!(rules.leave_out(name, false), "{}", String::from_utf8_lossy(name));
        }
        for name in [b"a.c".as_slice(), b"a.h", b"a", b"\\e", b"\\f", b"{g"] {
            assert!(!rules.leave_out(name, false), "{}", String::from_utf8_lossy(name));
        }
    }
}
