//! `pinstone compact`: rewrites the tables of both trees into one level each.

use pinstone::{Stats, TreeStats};
use serde::Serialize;

use crate::cli::CompactArgs;
use crate::context::{Absent, Context, byte_bar};
use crate::exit::{CliError, Exit};

#[derive(Serialize)]
struct Document {
    index: Tree,
    names: Tree,
}

/// What a tree has in tables, and what was written for that.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Tree {
    table_count: u64,
    bytes: u64,
    entry_count: u64,
    written_bytes: u64,
}

pub(crate) fn run(context: &mut Context, _args: &CompactArgs) -> Result<Exit, CliError> {
    let store = context.open(Absent::Refuse)?;
    let bar = byte_bar();
    let compacted = store.compact_watched(|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    compacted?;
    let Stats { index, names, .. } = store.stats();
    let document = Document { index: Tree::of(&index), names: Tree::of(&names) };
    if context.json() {
        context.document(&document)?;
    } else {
        for (name, tree) in [("index", &document.index), ("names", &document.names)] {
            let Tree { table_count, bytes, entry_count, written_bytes } = tree;
            context.line(format_args!(
                "{name} {table_count} tables, {entry_count} entries, {bytes} bytes, \
                 {written_bytes} written"
            ))?;
        }
    }
    context.flush()?;
    context.release(store);
    Ok(Exit::Ok)
}

impl Tree {
    fn of(stats: &TreeStats) -> Self {
        let mut tree = Self { written_bytes: stats.flushed_bytes, ..Self::default() };
        for level in &stats.levels {
            tree.table_count += level.table_count;
            tree.bytes += level.bytes;
            tree.entry_count += level.entry_count;
            tree.written_bytes += level.written_bytes;
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use pinstone::LevelStats;

    use super::*;

    #[test]
    fn a_tree_is_all_its_levels_and_flushes_are_written_too() {
        let mut level = LevelStats::default();
        (level.table_count, level.bytes, level.entry_count, level.written_bytes) = (1, 20, 3, 400);
        let mut stats = TreeStats::default();
        stats.flushed_bytes = 5;
        stats.levels = vec![level.clone(), level];
        let whole = Tree { table_count: 2, bytes: 40, entry_count: 6, written_bytes: 805 };
        assert_eq!(Tree::of(&stats), whole);
    }
}
