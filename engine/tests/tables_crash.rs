//! Crashes and faults where the trees are at work: while memtables are flushed and tables rewritten,
//! while the root takes tables in and its log is written anew, and while files are removed.
//!
//! 1. A life is played once, to learn what each of its disk operations does, and to which file.
//! 2. Every operation of a life that makes many tables is chosen that is part of such work; of a
//!    longer one, those that write the root's log anew or remove an old one.
//! 3. At each the machine crashes, and the store is opened in several states of the disk.
//! 4. At each the operation fails: in the longer life in every way that it can, in the other in one of
//!    them by turns. The life goes on; what was acknowledged is read, and if writing has not ended, the store is as good as new. Then it is opened as it was
//!    when its process died, and after a crash.
//!
//! Crashes and faults are counted by the work that they befell: none of it may be missed.
//!
//! `PINSTONE_CRASH_BUDGET=N` tries N times as many random states of the disk, and N of the ways to fail
//! at each operation, so that with 4 it is all. A violation prints the
//! line which replays it: `PINSTONE_TABLES_REPLAY="..." cargo test -p pinstone --test tables_crash
//! cases_that`; kept in `seeds/tables_crash.txt`, it is replayed always.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod common;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;

use common::faults::{fault_named, name_of_fault};
use common::model::{Edit, Model};
use common::replay::{Words, lines, number};
use common::{Verdict, budget, caught, ensure, pool, script, tiny_tables, told};
use pinstone::{Digest, Maintenance, Store, StoreBuilder};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, Fault, SimDisk};

/// What replays a case.
const REPLAY: &str = "PINSTONE_TABLES_REPLAY";

/// Commits of a life that makes many tables.
const COMMITS: u64 = 24;

/// Commits of one whose root log grows so long that it is written anew.
const COMMITS_LONG: u64 = 420;

/// Commits after a fault.
const COMMITS_AFTER: u64 = 6;

fn builder() -> StoreBuilder {
    tiny_tables().maintenance(Maintenance::Inline)
}

fn open(disk: &Arc<SimDisk>) -> Verdict<Store> {
    let opened = builder().open_on(Arc::clone(disk) as Arc<dyn Disk>);
    opened.map_err(|error| format!("open: {}", told(&error)))
}

/// What an operation is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Flush,
    Rewrite,
    /// The root takes tables in.
    TakeIn,
    /// The root's log is written anew.
    RootRewrite,
    RemoveTable,
    RemoveSegment,
    RemoveRoot,
}

/// What a life of tables is about, and what one that is long is about besides.
const OF_TABLES: [Work; 5] =
    [Work::Flush, Work::Rewrite, Work::TakeIn, Work::RemoveTable, Work::RemoveSegment];
const OF_THE_ROOT: [Work; 2] = [Work::RootRewrite, Work::RemoveRoot];

/// An operation of a life.
#[derive(Clone, Debug)]
struct Chosen {
    commits: u64,
    work: Work,
    op: u64,
    /// What is done, and to which file.
    text: String,
}

/// What befalls one operation of a life.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    commits: u64,
    op: u64,
    /// None for a crash.
    fault: Option<Fault>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { commits, op, fault } = self;
        write!(f, "commits={commits} op={op}")?;
        fault.map_or(Ok(()), |fault| write!(f, " fault={}", name_of_fault(fault)))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(line: &str) -> Verdict<Self> {
        let mut words = Words::of(line)?;
        let case = Self {
            commits: number(words.need("commits")?)?,
            op: number(words.need("op")?)?,
            fault: words.take("fault").map(fault_named).transpose()?,
        };
        words.end()?;
        Ok(case)
    }
}

/// Plays the commit of that number: its names are long, so that each second one begins a segment.
fn play_one(store: &Store, model: &mut Model, number: u64, crashed: bool) -> Verdict {
    let id = u16::try_from(number.min(COMMITS)).unwrap();
    let value = script::value(id, 1500);
    let is_new = model.bytes(&Digest::of(&value)).is_none();
    if is_new {
        model.put(&value, &store.put(&value))?;
    }
    let long = |letter: char| format!("{letter}{}", "-".repeat(1000)).into_bytes();
    let short = |number: u64| format!("{number:04}").into_bytes();
    let to = Some(Digest::of(&value));
    let mut changes: Vec<_> = ['a', 'm', 'z'].map(|letter| (long(letter), to)).into();
    changes.push((short(number % 16), to));
    changes.push((short((number + 8) % 16), None));
    if (8..12).contains(&(number % COMMITS)) {
        // Names behind all others, that never stood: what is left of their tables is rewritten where it is.
        let absent = |at: u64| format!("~{number:04}{at}{}", "-".repeat(1000)).into_bytes();
        changes = (0..4).map(|at| (absent(at), None)).collect();
    }
    let edit = Edit { changes, requires: Vec::new() };
    let reply = store.commit(edit.batch());
    model.commit(&edit, &reply, crashed)
}

/// What each operation of a life does.
fn learn(commits: u64) -> Vec<(u64, String)> {
    let disk = SimDisk::new(1);
    let mut model = Model::default();
    let store = open(&disk).unwrap();
    let mut all: Vec<(u64, String)> = Vec::new();
    for number in 0..commits {
        let before = disk.op_count();
        play_one(&store, &mut model, number, false).unwrap();
        let lines = disk.trace();
        let lines = lines.iter().filter_map(|line| {
            let (op, text) = line.split_once(' ')?;
            Some((op.parse().ok()?, text.to_owned()))
        });
        let known = all.len();
        all.extend(lines.filter(|(op, _)| *op > before));
        let learnt = u64::try_from(all.len() - known).unwrap();
        assert_eq!(learnt, disk.op_count() - before, "the trace remembers one commit");
    }
    assert!(store.stats().names.thinning_count > 3, "a life in which little is thinned");
    all
}

/// The file that a line of a trace is about.
fn file_of(text: &str) -> &str {
    let is_file = |word: &&str| word.contains('.') || *word == "CURRENT";
    text.split_whitespace().find(is_file).unwrap_or("")
}

fn verb_of(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("")
}

/// What the operations of a life are part of, those that are part of something.
fn sort_out(ops: &[(u64, String)]) -> BTreeMap<Work, Vec<(u64, String)>> {
    let mut by_work: BTreeMap<Work, Vec<(u64, String)>> = BTreeMap::new();
    let mut written = String::new();
    let (mut reads_others, mut takes_in, mut rewrites_root) = (false, false, false);
    for (op, text) in ops {
        let file = file_of(text);
        let is_table = file.ends_with(".table");
        let is_root = file.starts_with("root-");
        let mut work = None;
        if text.starts_with("removing") {
            work = match file {
                _ if is_table => Some(Work::RemoveTable),
                _ if is_root => Some(Work::RemoveRoot),
                _ if file.starts_with("pointer-") => Some(Work::RemoveSegment),
                _ => None,
            };
        } else if is_root && text.starts_with("creating") {
            rewrites_root = true;
            work = Some(Work::RootRewrite);
        } else if rewrites_root {
            work = Some(Work::RootRewrite);
            // The directory is synced twice: with the new log's name, and with CURRENT's.
            rewrites_root = !text.starts_with("renaming");
            takes_in = false;
        } else if is_table && text.starts_with("creating") {
            written = file.to_owned();
            work = Some(if reads_others { Work::Rewrite } else { Work::Flush });
        } else if is_table && file != written {
            // What is rewritten is read before it is written.
            reads_others = file.starts_with("names-");
        } else if is_table {
            work = Some(if reads_others { Work::Rewrite } else { Work::Flush });
            takes_in = true;
        } else if takes_in && (is_root || text.starts_with("syncing the directory")) {
            work = Some(Work::TakeIn);
            if text.starts_with("syncing root-") {
                (takes_in, reads_others) = (false, false);
            }
        }
        if let Some(work) = work {
            by_work.entry(work).or_default().push((*op, text.clone()));
        }
    }
    by_work
}

/// The ways in which such an operation can fail.
fn faults(text: &str) -> &'static [Fault] {
    match verb_of(text) {
        "writing" => &[Fault::Eio, Fault::Enospc, Fault::ShortWrite],
        "creating" => &[Fault::Eio, Fault::Enospc, Fault::Emfile],
        "opening" => &[Fault::Eio, Fault::Emfile],
        "reading" => &[Fault::Eio, Fault::ShortRead],
        "reserving" => &[Fault::Eio, Fault::Enospc],
        "syncing" if !text.contains("directory") => {
            &[Fault::Eio, Fault::SyncFailsThenClean, Fault::SyncEnospc]
        }
        _ => &[Fault::Eio],
    }
}

/// How often what befell which work.
type Counts = BTreeMap<(Work, String), u64>;

#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    opened: u64,
    violations: Vec<String>,
}

/// Opens the store, compares it with the model and goes on.
fn survives(image: &Arc<SimDisk>, model: &Model) -> Verdict {
    let mut model = model.clone();
    model.die();
    let store = open(image)?;
    model.survey(&store)?;
    model.goes_on(&store)
}

fn crash(chosen: &Chosen, tally: &mut Tally) -> Verdict {
    let disk = SimDisk::new(1);
    let mut model = Model::default();
    let store = open(&disk)?;
    disk.crash_at(chosen.op);
    for number in 0..chosen.commits {
        if disk.crashed() {
            break;
        }
        play_one(&store, &mut model, number, disk.crashed())
            .or_else(|seen| if disk.crashed() { Ok(()) } else { Err(seen) })?;
    }
    ensure!(disk.crashed(), "no crash");
    *tally.counts.entry((chosen.work, "a crash".to_owned())).or_default() += 1;
    let states = [CrashState::Nothing, CrashState::Everything, CrashState::OneMissing(0)];
    let random = (0..3 * budget()).map(|seed| CrashState::Random(chosen.op + seed));
    for state in states.into_iter().chain(random) {
        survives(&disk.after_crash(state), &model).map_err(|seen| format!("{state:?}: {seen}"))?;
        tally.opened += 1;
    }
    Ok(())
}

fn fail(chosen: &Chosen, fault: Fault, tally: &mut Tally) -> Verdict {
    let disk = SimDisk::new(1);
    let mut model = Model::default();
    let store = open(&disk)?;
    disk.fail_at(chosen.op, fault);
    let mut after = 0;
    for number in 0..chosen.commits {
        play_one(&store, &mut model, number, false)?;
        after += u64::from(disk.op_count() >= chosen.op);
        if after > COMMITS_AFTER || store.stats().poisoned.is_some() {
            break;
        }
    }
    let counters = disk.counters();
    let hit = counters.eio
        + counters.enospc
        + counters.emfile
        + counters.short_writes
        + counters.short_reads
        + counters.failed_syncs;
    ensure!(hit > 0, "no fault");
    *tally.counts.entry((chosen.work, format!("{fault:?}"))).or_default() += 1;
    disk.heal();
    model.reads(&store)?;
    let (killed, crashed) = (disk.clean_reopen(), disk.after_crash(CrashState::Nothing));
    survives(&killed, &model).map_err(|seen| format!("killed: {seen}"))?;
    survives(&crashed, &model).map_err(|seen| format!("crashed: {seen}"))?;
    tally.opened += 2;
    if store.stats().poisoned.is_none() {
        let mut model = model.clone();
        model.goes_on(&store)?;
        store.maintain().map_err(|error| told(&error))?;
        model.reads(&store)?;
    }
    Ok(())
}

/// All operations of a life that are part of such work.
fn choose(commits: u64, works: &[Work]) -> Vec<Chosen> {
    let mut by_work = sort_out(&learn(commits));
    let mut chosen = Vec::new();
    for work in works {
        let ops = by_work.remove(work).unwrap_or_default();
        assert!(!ops.is_empty(), "a life without {work:?}");
        chosen.extend(ops.into_iter().map(|(op, text)| Chosen { commits, work: *work, op, text }));
    }
    chosen
}

fn try_case(chosen: &Chosen, fault: Option<Fault>, tally: &mut Tally) {
    let verdict = caught(|| match fault {
        None => crash(chosen, tally),
        Some(fault) => fail(chosen, fault, tally),
    });
    if let Err(seen) = verdict {
        let Chosen { commits, work, op, text } = chosen;
        let case = Case { commits: *commits, op: *op, fault };
        tally.violations.push(format!("{work:?}, at {text}: {seen}\n  {REPLAY}=\"{case}\""));
    }
}

/// As many ways to fail as are tried at that operation, others at the next.
fn some_of(faults: &[Fault], chosen: &Chosen) -> impl Iterator<Item = Fault> {
    let is_of_the_root = OF_THE_ROOT.contains(&chosen.work);
    let count = if is_of_the_root { faults.len() } else { usize::try_from(budget()).unwrap() };
    let turn = usize::try_from(chosen.op).unwrap();
    let from = move |at: usize| faults[(turn + at) % faults.len()];
    (0..count.min(faults.len())).map(from)
}

fn hunt(chosen: &[Chosen]) -> Tally {
    let tallies = pool::sweep(chosen, |tally: &mut Tally, chosen| {
        try_case(chosen, None, tally);
        for fault in some_of(faults(&chosen.text), chosen) {
            try_case(chosen, Some(fault), tally);
        }
        ControlFlow::Continue(())
    });
    let mut all = Tally::default();
    for tally in tallies {
        for (key, count) in tally.counts {
            *all.counts.entry(key).or_default() += count;
        }
        all.opened += tally.opened;
        all.violations.extend(tally.violations);
    }
    common::say(format_args!("{:?}, {} stores opened", all.counts, all.opened));
    all
}

fn befell(tally: &Tally, work: Work, what: &[&str]) {
    for what in what {
        let count = tally.counts.get(&(work, (*what).to_owned())).copied().unwrap_or(0);
        assert!(count > 0, "{what} never befell {work:?}: {:?}", tally.counts);
    }
}

#[test]
fn whatever_befalls_flushes_and_rewrites_nothing_acknowledged_is_lost() {
    use Work::{Flush, RemoveSegment, RemoveTable, Rewrite, TakeIn};
    let tally = hunt(&choose(COMMITS, &OF_TABLES));
    assert_eq!(tally.violations, [""; 0]);
    let written = ["a crash", "Eio", "Enospc", "ShortWrite"];
    befell(&tally, Flush, &written);
    befell(&tally, Rewrite, &written);
    befell(&tally, TakeIn, &["a crash", "Eio", "Enospc", "SyncFailsThenClean", "SyncEnospc"]);
    befell(&tally, RemoveTable, &["a crash", "Eio"]);
    befell(&tally, RemoveSegment, &["a crash", "Eio"]);
    assert!(tally.opened > 4000, "a harness that tries little: {}", tally.opened);
}

#[test]
fn whatever_befalls_the_rewriting_of_the_roots_log_one_of_both_is_in_force() {
    let tally = hunt(&choose(COMMITS_LONG, &OF_THE_ROOT));
    assert_eq!(tally.violations, [""; 0]);
    let all =
        ["a crash", "Eio", "Enospc", "Emfile", "ShortWrite", "SyncFailsThenClean", "SyncEnospc"];
    befell(&tally, Work::RootRewrite, &all);
    befell(&tally, Work::RemoveRoot, &["a crash", "Eio"]);
    assert!(tally.opened > 200, "a harness that tries little: {}", tally.opened);
}

#[test]
fn cases_that_ever_failed_hold() {
    for line in lines(include_str!("seeds/tables_crash.txt"), REPLAY) {
        let case: Case = line.parse().unwrap();
        let mut tally = Tally::default();
        for (work, ops) in sort_out(&learn(case.commits)) {
            let ops = ops.into_iter().filter(|(op, _)| *op == case.op);
            ops.for_each(|(op, text)| {
                let chosen = Chosen { commits: case.commits, work, op, text };
                try_case(&chosen, case.fault, &mut tally);
            });
        }
        assert_eq!(tally.violations, [""; 0]);
        assert!(tally.opened > 0, "{case}: no such operation");
    }
}

#[test]
fn a_case_prints_as_what_replays_it() {
    for fault in [None, Some(Fault::Eio), Some(Fault::SyncFailsThenClean)] {
        let case = Case { commits: 24, op: 77, fault };
        assert_eq!(case.to_string().parse(), Ok(case));
    }
    assert!("commits=24 op=77 fault=none".parse::<Case>().is_err());
}
