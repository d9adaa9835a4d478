//! What to rewrite next. Pure: the same levels, the same shape and the same readers give the same plan.
//!
//! 1. Level 0 is due when it has enough tables, or half as many bytes as all below it: look-ups ask
//!    each of its tables, and while little is below, little is rewritten for theirs. A level below it is
//!    due when it holds more bytes than its target. The last level has no target: it holds what it holds. [`score`]
//!    is the share of that which a level has reached; the highest of at least 1 is compacted, the upper one of
//!    equals.
//! 2. Targets follow from what the levels below level 0 hold in all, so that the last one holds
//!    most: levels are as few as the size ratio allows, and the ratios between them all equal. With
//!    *l* bytes in level 0 when it is due, *s* bytes in all, and the ratio at most *r*, there are
//!    *k* = ceil(log_r(s/l)) levels, each (s/l)^(1/k) times as large as the one above it. The
//!    uppermost is the base; while all fits r*l bytes, it is the last level.
//! 3. Level 0 goes to the base. If it holds far less than it should (a store that is closed often
//!    flushes small tables), rewriting the base would cost too much; there are small levels above
//!    the base, and it goes to the first that has room for it a few times.
//! 4. In level 0 tables overlap; those that are linked by overlaps, directly or through others,
//!    make a group. The group with the least to rewrite for its bytes goes down, whole.
//! 5. Below level 0, of all runs of neighbouring tables, the one with the least to rewrite for its
//!    bytes goes down, the longest of equals: a level of uniform keys goes down whole, as far as
//!    the bound of input allows, and does then not burden what comes next from above. Of a level of very many tables
//!    512 that stand side by side are looked at, now these, now those; all only if none of
//!    them can go. Some stay longer above than they did when all were looked at; no more is rewritten.
//! 6. What overlaps nothing in the level where it goes is moved as it is, but for small tables:
//!    those of level 0 go together if all are small, and a run of small ones is written as fewer.
//!    So tables do not stay as small as a store that is often closed flushes them.
//! 7. A table *can be thinned* where nothing is below it, and everyone who reads sees the newest version of
//!    each name in it: then its spare entries hide nothing, nobody sees them, and a rewriting leaves them out.
//!    Such tables are not moved but rewritten (6) if an eighth of them goes.
//! 8. When no level is due, tables below level 0 are that can be thinned, if an eighth of each is spare. They
//!    are rewritten in place: neighbours together, as many as one input may have (P4); one that has no such
//!    neighbour with the smaller of those that it has, if an eighth of both goes, so that tables do not become
//!    ever smaller; else alone. So no more than seven entries are written for one that goes. Of anything
//!    something stays (M3 of [`merge`](crate::merge)): what is left of tables of which all would go is one
//!    deletion, which goes with a neighbour that is as small, or by a full compaction.
//! 9. No plan has a table read that is known to be *damaged*, nor has anything go past one that overlaps it. It is moved
//!    as deep as it can go: past what it does not overlap, and with the levels from its own on where there is an empty
//!    one below. The levels above the first that has such a table are a tree of their own, with targets of their own:
//!    level 0 goes there. Of the lowest of them, and of those below, what overlaps nothing damaged goes down once there
//!    is as much of it as the level should hold in the whole tree. Where too few levels are left above for what they
//!    hold, or none is, or what is damaged cannot leave level 0, neighbouring levels without damage are merged below, so
//!    that others can be moved down.
//!
//! - P1: newer versions of a key stand above older ones. Both trees could do without (the index is
//!   a set; versions of names carry their commits), but readers of names may then stop at the first
//!   level that answers, and a deletion may go once nothing is below it. It holds because a group
//!   of level 0 goes down whole, or its oldest tables do, so that no newer table is left under an
//!   older one that it overlaps; and because no plan passes over a level that holds anything, or, if it moves
//!   a damaged table, anything that overlaps it.
//! - P2: plans come to an end. Each brings tables to a deeper level, and none to a higher one; or it rewrites
//!   in place, and then fewer entries are spare than before: of those that it was made for one stays at most,
//!   and only if others go; and no entry becomes spare that was not.
//! - P3: below level 0 a plan takes all tables of the target that overlap its keys.
//! - P4: a plan's input is bounded: by the shape's bound, but for one table and what it overlaps;
//!   from level 0 by that bound, or by what level 0 should hold, and what the base holds. By
//!   number, without exception: 256 tables of the source, but for levels that are moved whole (9), and [`INPUT_TABLES_MAX`] in all. What
//!   overlaps more waits until there is a plan that has fewer. Of a level that is due nothing comes
//!   near it: the next one holds a few times as much (2), in tables as large.
//!
//! Figures, by `compaction/tests/plan/simulation.rs`: bytes flushed and rewritten for a flushed
//! byte, uniform keys of 16 bytes a row in flushes of 13 MB, at rest; the rows in millions.
//!
//! | what is chosen | 20 | 100 | 300 |
//! |---|---|---|---|
//! | runs of least overlap: the default shape | 3.9 | 5.0 | 7.5 |
//! | ... with 4 tables in level 0 | 3.8 | 5.6 | 7.8 |
//! | ... with size ratio 8 | 3.9 | 6.1 | 9.5 |
//! | one table, of least overlap | 3.7 | 5.7 | 8.6 |
//! | one table, the oldest | 4.6 | 9.6 | 23.3 |
//! | one table of least overlap, levels of ten times | 3.4 | 6.9 | 10.0 |
//!
//! With tables of 100 kB instead of 16 MiB, so that levels have thousands, the 100 millions are 5.2, be it 256 of them
//! that are looked at, 512 or all.
//!
//! Where level 0 waited for its tables alone, the first line was 3.4, 4.9 and 7.4; a million values stood in
//! four tables then, and in two now, and whether one is held that is not took 1.44 times as long.
//!
//! A full compaction of 20 million rows after that makes it 4.9 in all. Names in order are moved,
//! never rewritten (1.0).
//!
//! The oldest table first (round robin, without state) is the worst of choices for uniform keys:
//! when the base has just been rewritten, its tables are as old as they stand by key, and it is the
//! low keys that go down each time, ever sparser, while the others pile up.
//!
//! How a plan is carried out, and at which rate, is not decided here.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use self::targets::Targets;
use crate::edit::LevelEdit;
use crate::levels::{LEVELS_MAX, LevelSums, LevelTables, Levels};
use crate::table::{TableId, TableMeta};

mod around;
mod targets;
mod thin;

/// The deepest level.
const LAST: u8 = LEVELS_MAX - 1;

/// Tables that a plan takes of its source at most. Looking for the best run costs this many steps a
/// table; and of level 0, where all may overlap, each table that is written names all of them.
const RUN_TABLES_MAX: usize = 256;

/// Tables among which the best run is looked for, in a level that has more: what a plan costs is bounded, too.
const LOOKED_TABLES_MAX: usize = 512;

/// Tables of a plan at most (P4): those that are written from it may have to name them all.
pub const INPUT_TABLES_MAX: usize = 16_000;

/// Level 0 is due, too, once what it holds is to what all below it hold as 1 to this.
const EARLY_DIVISOR: u64 = 2;

/// How large levels and tables should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tables in level 0 that make it due, whatever is below. Default 6: each look-up asks every one of them, and
    /// fewer make the base be rewritten more often.
    pub l0_tables: u32,
    /// Bytes that level 0 holds when it is due: the bytes of a flush times `l0_tables`. Levels are
    /// sized from it. Default 80 MiB: flushes of 13 MB.
    pub l0_bytes: u64,
    /// How many times as large as the level above it a level should be, at most; 2 at least.
    /// Default 4: less costs look-ups, more costs rewriting.
    pub size_ratio_max: u32,
    /// Bytes after which a compaction begins another table. Default 16 MiB: a million rows of the
    /// index. Write amplification hardly depends on it; less means more files, more a coarser
    /// choice.
    pub table_bytes: u64,
    /// Bytes that one compaction below level 0 reads, at most, unless a single table and what it
    /// overlaps have more. Default 512 MiB: more saves little rewriting, and takes as much free
    /// space and time while level 0 waits.
    pub input_bytes_max: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            l0_tables: 6,
            l0_bytes: 80 << 20,
            size_ratio_max: 4,
            table_bytes: 16 << 20,
            input_bytes_max: 512 << 20,
        }
    }
}

impl Shape {
    /// A table of fewer bytes is better written again with its neighbours than kept.
    fn small_bytes(&self) -> u64 {
        self.table_bytes / 2
    }
}

/// Tables of which it is known that they cannot be read.
pub type Damaged = BTreeSet<TableId>;

/// All tables can be read.
pub const NO_DAMAGE: &Damaged = &Damaged::new();

/// Tables to be merged or moved into a deeper level, or rewritten where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The level that gives.
    pub source: u8,
    /// The level that takes: below `source`, or `source` itself.
    pub target: u8,
    /// Tables of the source, in the order in which they stand there.
    pub source_tables: Vec<Arc<TableMeta>>,
    /// All tables of the target that overlap them, by key.
    pub target_tables: Vec<Arc<TableMeta>>,
    /// Nothing is to be merged: the source's tables go to the target as they are.
    pub is_move: bool,
    /// No level below the target overlaps the plan's keys: a deletion hides nothing any more.
    pub is_bottom: bool,
}

impl Plan {
    /// Down from `source` to `target`.
    fn down(view: &View<'_>, source: u8, target: u8, source_tables: Vec<Arc<TableMeta>>) -> Self {
        let levels = view.levels;
        let (first, last) = keys(&source_tables);
        let target_tables = levels.run(target, first, last).to_vec();
        let is_one = source_tables.len() == 1;
        // Tables of level 0 that go together overlap, or are small.
        let mean_bytes = bytes(&source_tables) / source_tables.len() as u64;
        let are_small = source == 0 || mean_bytes < view.shape.small_bytes();
        let all = keys(source_tables.iter().chain(&target_tables));
        let is_bottom = is_bottom(levels, target, all);
        let is_wasteful = is_bottom && view.is_wasteful(source_tables.iter());
        let is_move = target_tables.is_empty() && (is_one || !are_small) && !is_wasteful;
        let plan = Self { source, target, source_tables, target_tables, is_move, is_bottom };
        assert!(source < target && target < LEVELS_MAX, "P2: {source} to {target}");
        assert!((source + 1..target).all(|at| levels.tables(at).is_empty()), "P1: {plan:?}");
        plan
    }

    /// Moved as they are, past nothing that they overlap.
    fn sunk(view: &View<'_>, source: u8, target: u8, source_tables: Vec<Arc<TableMeta>>) -> Self {
        let is_bottom = is_bottom(view.levels, target, keys(&source_tables));
        Self { source, target, source_tables, target_tables: Vec::new(), is_move: true, is_bottom }
    }

    /// Neighbours at the bottom, rewritten where they are.
    fn in_place(level: u8, tables: LevelTables<'_>) -> Self {
        Self {
            source: level,
            target: level,
            source_tables: tables.to_vec(),
            target_tables: Vec::new(),
            is_move: false,
            is_bottom: true,
        }
    }

    /// Every table that the plan takes, of the source first.
    pub fn inputs(&self) -> impl Iterator<Item = &Arc<TableMeta>> {
        self.source_tables.iter().chain(&self.target_tables)
    }

    /// The first and the last key of its tables.
    pub fn keys(&self) -> (&[u8], &[u8]) {
        keys(self.inputs())
    }

    /// Bytes of its tables. A move reads none of them.
    pub fn input_bytes(&self) -> u64 {
        bytes(self.inputs())
    }

    /// The edit that puts `outputs` in place of the plan's tables; of a move, those themselves.
    ///
    /// # Panics
    /// If there are outputs of a move; if the plan has no tables, which is none that we make.
    pub fn edit(&self, outputs: Vec<TableMeta>) -> LevelEdit {
        assert!(!self.is_move || outputs.is_empty(), "a move writes nothing");
        let moved = self.source_tables.iter().filter(|_| self.is_move);
        let added = moved.map(|table| TableMeta::clone(table)).chain(outputs);
        LevelEdit {
            tree: self.source_tables.first().expect("a plan has tables").id.table,
            added: added.map(|table| (self.target, table)).collect(),
            removed: self.inputs().map(|table| table.id).collect(),
        }
    }
}

/// The next compaction that the levels need; `None` if they are at rest, or what is damaged leaves nothing to do.
/// `oldest_seen` is the oldest commit as of which anyone reads names, `u64::MAX` if all read the present.
///
/// Costs a few hundred steps for each table that is looked at in the level that is due, 512 at most, and a look at each
/// of those below that they overlap; from level 0 a look at each table below that it overlaps; if none is due, a look at
/// each of some tables that stand beside one of which much is spare; if any is damaged, a look at each table.
pub fn plan(levels: &Levels, shape: &Shape, oldest_seen: u64, damaged: &Damaged) -> Option<Plan> {
    let view = View::new(levels, shape, oldest_seen, damaged);
    if let Some(plan) = view.sinking() {
        return Some(plan);
    }
    let scores = view.scores();
    let score_of = |level: u8| scores[usize::from(level)];
    if score_of(0) >= 1.0
        && view.is_cramped()
        && let Some(plan) = view.room()
    {
        return Some(plan);
    }
    let mut due: Vec<u8> = (0..LAST).filter(|level| score_of(*level) >= 1.0).collect();
    due.sort_by(|a, b| score_of(*b).total_cmp(&score_of(*a)));
    let down = due.into_iter().find_map(|source| view.down(source, view.below(source)));
    let room = || if score_of(0) >= 1.0 { view.room() } else { None };
    down.or_else(room).or_else(|| view.in_place(false))
}

/// The next compaction on the way to a single sorted level in which nothing can be thinned; `None` if that is
/// what the levels are, or as near to it as what is damaged lets them come. It may stand anywhere, but is not
/// level 0. `oldest_seen` and `damaged` as for [`plan`].
pub fn plan_full(
    levels: &Levels,
    shape: &Shape,
    oldest_seen: u64,
    damaged: &Damaged,
) -> Option<Plan> {
    let view = View::new(levels, shape, oldest_seen, damaged);
    if let Some(plan) = view.sinking() {
        return Some(plan);
    }
    let filled = (0..LEVELS_MAX).filter(|level| !levels.tables(*level).is_empty());
    let filled: Vec<u8> = filled.collect();
    let target_of = |at: usize| match filled.get(at + 1) {
        Some(next) if filled[at] > 0 || *next <= view.last.max(1) => Some(*next),
        _ if filled[at] > 0 => None,
        _ => Some(view.targets.base),
    };
    let down = |at: usize| view.down(filled[at], target_of(at)?);
    if damaged.is_empty() {
        // Whatever keeps the uppermost from going down keeps all.
        return match filled[..] {
            [] => None,
            [only] if only > 0 => view.in_place(true),
            _ => down(0),
        };
    }
    let all = 0..filled.len();
    all.into_iter().find_map(down).or_else(|| view.in_place(true))
}

/// How due each level is: from 1 it is compacted. Of level 0 its tables to those that make it due, and 1 at least once
/// it holds half of what is below; of others their bytes to their target. The last level is never due. `damaged` as
/// for [`plan`]: what it keeps from going down does not count, but in level 0.
pub fn score(levels: &Levels, shape: &Shape, damaged: &Damaged) -> [f64; LEVELS_MAX as usize] {
    View::new(levels, shape, u64::MAX, damaged).scores()
}

/// About how many bytes will be read by compactions until the levels are at rest; as many are
/// written, less what is dropped; 0 if they are. `oldest_seen` and `damaged` as for [`plan`].
pub fn debt_bytes(levels: &Levels, shape: &Shape, oldest_seen: u64, damaged: &Damaged) -> u64 {
    if !damaged.is_empty() && plan(levels, shape, oldest_seen, damaged).is_none() {
        return 0;
    }
    let view = View::new(levels, shape, oldest_seen, damaged);
    let mut held = [0.0; LEVELS_MAX as usize];
    for level in 0..LEVELS_MAX {
        held[usize::from(level)] = levels.sums(level).file_bytes as f64;
    }
    let scores = view.scores();
    let mut debt =
        view.thinnings(false).map(|(_, tables)| bytes(tables.iter()) as f64).sum::<f64>();
    for level in 0..LAST {
        let here = held[usize::from(level)];
        let (is_due, excess) = match level {
            0 => (scores[0] >= 1.0, here),
            level => {
                let target = view.target_bytes(level);
                // What came from above counts, too.
                let is_due = scores[usize::from(level)] >= 1.0 || here / target >= 1.0;
                (is_due, (here - target).max(1.0))
            }
        };
        if !is_due || here == 0.0 {
            continue;
        }
        let target = usize::from(view.below(level));
        debt += excess + held[target] * excess / here;
        held[target] += excess;
    }
    whole_bytes(debt)
}

/// About how many bytes compactions read on the way to a single sorted level in which nothing can be thinned;
/// 0 if that is what the levels are. What can be thinned is counted once there is a single level.
/// `oldest_seen` as for [`plan`].
pub fn full_bytes(levels: &Levels, shape: &Shape, oldest_seen: u64) -> u64 {
    let mut filled = (0..LEVELS_MAX).filter(|level| !levels.tables(*level).is_empty());
    let bytes_of = |level: u8| levels.sums(level).file_bytes;
    let Some(first) = filled.next() else { return 0 };
    let (mut held, mut read) = (bytes_of(first), 0u64);
    for level in filled {
        held = held.saturating_add(bytes_of(level));
        read = read.saturating_add(held);
    }
    match (first, read) {
        (0, 0) => held,
        (_, 0) => {
            let view = View::new(levels, shape, oldest_seen, NO_DAMAGE);
            view.thinnings(true)
                .fold(0, |sum, (_, tables)| sum.saturating_add(bytes(tables.iter())))
        }
        _ => read,
    }
}

/// The nearest number that there is.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
pub(crate) fn whole_bytes(bytes: f64) -> u64 {
    bytes as u64
}

/// All that a plan follows from.
#[derive(Clone, Copy, Debug)]
struct View<'a> {
    levels: &'a Levels,
    shape: &'a Shape,
    /// The oldest commit as of which anyone reads.
    oldest_seen: u64,
    damaged: &'a Damaged,
    /// The level above the first with damaged tables below level 0; the last one if there is none.
    last: u8,
    /// Of the levels down to that one,
    targets: Targets,
    /// and of all.
    whole_targets: Targets,
}

impl<'a> View<'a> {
    fn new(levels: &'a Levels, shape: &'a Shape, oldest_seen: u64, damaged: &'a Damaged) -> Self {
        let mut below = 1..LEVELS_MAX;
        let has_damaged = |level: &u8| around::has_damaged(levels, damaged, *level);
        let last = below.find(has_damaged).map_or(LAST, |level| level - 1);
        let [targets, whole_targets] = [last, LAST].map(|last| Targets::new(levels, shape, last));
        Self { levels, shape, oldest_seen, damaged, last, targets, whole_targets }
    }

    fn scores(&self) -> [f64; LEVELS_MAX as usize] {
        std::array::from_fn(|level| match u8::try_from(level).unwrap_or(LAST) {
            0 if self.last == 0 => self.level0_score(self.whole_targets.held_bytes),
            0 => self.level0_score(self.targets.held_bytes),
            level => self.free_bytes(level) as f64 / self.target_bytes(level),
        })
    }

    fn level0_score(&self, below_bytes: u64) -> f64 {
        let level0 = self.levels.sums(0);
        let by_count = level0.table_count as f64 / f64::from(self.shape.l0_tables.max(1));
        let is_early = level0.table_count > 0 && level0.file_bytes >= below_bytes / EARLY_DIVISOR;
        if is_early { by_count.max(1.0) } else { by_count }
    }

    /// What the level should hold.
    fn target_bytes(&self, level: u8) -> f64 {
        let targets = if level < self.last { &self.targets } else { &self.whole_targets };
        targets.bytes_of(level)
    }

    /// Where the level goes that is due.
    fn below(&self, level: u8) -> u8 {
        let targets = if level < self.last { &self.targets } else { &self.whole_targets };
        targets.below(self.levels, level, self.levels.sums(level).file_bytes)
    }

    /// The best compaction from a level that holds something down to `target`, between which nothing is; or, if all have
    /// too many tables, to the deepest level above that from which they will have fewer, by parts.
    fn down(&self, source: u8, target: u8) -> Option<Plan> {
        let above = if self.damaged.is_empty() { source + 1 } else { target };
        (above..=target).rev().find_map(|target| plan_between(self, source, target))
    }
}

/// The best compaction from a level that holds something; none if all have too many tables.
fn plan_between(view: &View<'_>, source: u8, target: u8) -> Option<Plan> {
    let levels = view.levels;
    let tables = if source == 0 {
        l0_group(view, target)?
    } else {
        least_overlap(view, source, target)?.to_vec()
    };
    let (first, last) = keys(&tables);
    let input_count = tables.len() + levels.run(target, first, last).len();
    (input_count <= INPUT_TABLES_MAX).then(|| Plan::down(view, source, target, tables))
}

/// The group of level 0 that has the least to rewrite for its bytes, the oldest of equals; of a
/// vast one its oldest tables, as many as one input may hold. All that there is, if it is small. Of what is left by
/// damage: in each group what is older.
fn l0_group(view: &View<'_>, target: u8) -> Option<Vec<Arc<TableMeta>>> {
    let (levels, shape) = (view.levels, view.shape);
    let is_small = levels.sums(0).file_bytes <= shape.small_bytes();
    let has_damaged = view.has_damaged(0) || view.has_damaged(target);
    let mut group = if is_small && !has_damaged {
        levels.tables(0).to_vec()
    } else {
        let cost = |group: &Vec<Arc<TableMeta>>| {
            let (first, last) = keys(group);
            ratio(bytes(levels.run(target, first, last).iter()), bytes(group))
        };
        let groups =
            groups(&levels.tables(0).to_vec()).into_iter().map(|group| view.before_damage(group));
        let groups = groups.filter(|group| !group.is_empty() && view.is_free(group, target));
        groups.min_by(|a, b| cost(a).total_cmp(&cost(b)))?
    };
    let bytes_max = shape.input_bytes_max.max(shape.l0_bytes);
    let mut taken = 0u64;
    let fits = group.iter().take(RUN_TABLES_MAX).take_while(|table| {
        taken = taken.saturating_add(table.file_bytes);
        taken <= bytes_max
    });
    let count = fits.count().max(1);
    // P1: what is left is newer.
    group.truncate(count);
    Some(group)
}

/// The tables, parted so that none overlaps a table of another group. Order is kept.
fn groups(tables: &[Arc<TableMeta>]) -> Vec<Vec<Arc<TableMeta>>> {
    let mut by_key: Vec<usize> = (0..tables.len()).collect();
    by_key.sort_by(|a, b| tables[*a].first.cmp(&tables[*b].first));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut reached: Option<&[u8]> = None;
    for index in by_key {
        let table = &tables[index];
        match groups.last_mut() {
            Some(group) if reached >= Some(&table.first[..]) => group.push(index),
            _ => groups.push(vec![index]),
        }
        reached = reached.max(Some(&table.last[..]));
    }
    groups.iter_mut().for_each(|group| group.sort_unstable());
    groups.sort_unstable();
    let tables_of = |group: Vec<usize>| group.iter().map(|at| Arc::clone(&tables[*at])).collect();
    groups.into_iter().map(tables_of).collect()
}

/// The run of neighbours in level `source` with the fewest bytes in `target` to rewrite for a byte of its own, among
/// those that are looked at. None if each table of the level overlaps too many, or what is damaged.
fn least_overlap<'a>(view: &View<'a>, source: u8, target: u8) -> Option<LevelTables<'a>> {
    let tables = view.levels.tables(source);
    let run_in = |places: Range<usize>| {
        let looked = tables.range(places);
        let (first, last) = (looked.first()?, looked.last()?);
        let target = view.levels.run(target, &first.first, &last.last);
        Some(looked.range(least_overlap_in(looked, target, view)?))
    };
    let Some(passed_count) = tables.len().checked_sub(LOOKED_TABLES_MAX) else {
        return run_in(0..tables.len());
    };
    // Which changes with each edit of the level.
    let LevelSums { table_count, file_bytes, entry_count, .. } = view.levels.sums(source);
    let mixed = [table_count, file_bytes, entry_count].into_iter().fold(0u64, |mixed, number| {
        (mixed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
    });
    let from = mixed % (passed_count as u64 + 1);
    let from = usize::try_from(from).expect("no more than the tables");
    run_in(from..from + LOOKED_TABLES_MAX).or_else(|| run_in(0..tables.len()))
}

/// The run of neighbours in `source` with the fewest bytes in `target` to rewrite for a byte of
/// its own, among those that fit the bounds; the longest of equals, then the first by key. None if
/// each table alone overlaps too many, or what is damaged. `target` has all that `source` overlaps.
fn least_overlap_in(
    source: LevelTables<'_>,
    target: LevelTables<'_>,
    view: &View<'_>,
) -> Option<Range<usize>> {
    let shape = view.shape;
    // Bytes of all target tables before each, and which of them are damaged.
    let (mut before, mut damaged_before) = (vec![0u64], vec![0usize]);
    for table in target.iter() {
        before.push(before[before.len() - 1].saturating_add(table.file_bytes));
        let count = damaged_before[damaged_before.len() - 1];
        damaged_before.push(count + usize::from(view.damaged.contains(&table.id)));
    }
    // What each table overlaps: both levels are sorted, so that one walk tells of all.
    let (mut low, mut high) = (0, 0);
    let (mut passed, mut reached) = (target.iter().peekable(), target.iter().peekable());
    let mut looked = Vec::with_capacity(source.len());
    for table in source.iter() {
        while passed.next_if(|other| other.last < table.first).is_some() {
            low += 1;
        }
        while reached.next_if(|other| other.first <= table.last).is_some() {
            high += 1;
        }
        looked.push(Looked {
            bytes: table.file_bytes,
            is_damaged: view.damaged.contains(&table.id),
            tables: low..high,
            overlap: before[low]..before[high],
            damaged: damaged_before[low]..damaged_before[high],
        });
    }
    let mut best: Option<(f64, u64, Range<usize>)> = None;
    for from in 0..source.len() {
        let first = &looked[from];
        let mut bytes = 0u64;
        for (upto, last) in looked.iter().enumerate().skip(from).take(RUN_TABLES_MAX) {
            bytes = bytes.saturating_add(last.bytes);
            let overlap = last.overlap.end - first.overlap.start;
            let target_count = last.tables.end - first.tables.start;
            let is_too_many = upto - from + 1 + target_count > INPUT_TABLES_MAX;
            let is_too_much = bytes.saturating_add(overlap) > shape.input_bytes_max;
            let is_blocked = last.is_damaged || last.damaged.end > first.damaged.start;
            if is_too_many || is_blocked || (upto > from && is_too_much) {
                break;
            }
            let cost = ratio(overlap, bytes);
            let is_better = best
                .as_ref()
                .is_none_or(|(least, most, _)| cost < *least || (cost == *least && bytes > *most));
            if is_better {
                best = Some((cost, bytes, from..upto + 1));
            }
        }
    }
    best.map(|(_, _, run)| run)
}

/// A table that a run may have, and which tables of the target it overlaps: what each step of looking for the best run
/// needs stands together.
struct Looked {
    bytes: u64,
    is_damaged: bool,
    tables: Range<usize>,
    /// The bytes of target tables before these, and up to their end.
    overlap: Range<u64>,
    /// The same, damaged tables.
    damaged: Range<usize>,
}

fn ratio(bytes: u64, to_bytes: u64) -> f64 {
    bytes as f64 / to_bytes.max(1) as f64
}

fn bytes<'a>(tables: impl IntoIterator<Item = &'a Arc<TableMeta>>) -> u64 {
    tables.into_iter().fold(0, |sum, table| sum.saturating_add(table.file_bytes))
}

/// Nothing deeper than `level` overlaps the keys from the first of these to the last.
fn is_bottom(levels: &Levels, level: u8, (first, last): (&[u8], &[u8])) -> bool {
    (level + 1..LEVELS_MAX).all(|at| levels.run(at, first, last).is_empty())
}

fn keys<'a>(tables: impl IntoIterator<Item = &'a Arc<TableMeta>>) -> (&'a [u8], &'a [u8]) {
    let mut tables = tables.into_iter();
    let one = tables.next().expect("a plan has tables");
    tables.fold((&one.first, &one.last), |(first, last), table| {
        (first.min(&table.first), last.max(&table.last))
    })
}
