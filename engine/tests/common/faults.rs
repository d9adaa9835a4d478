//! Makes each disk operation of a workload fail, once or from then on, and judges what the store
//! says of it, what it does afterwards, and what is found when it is opened again.
//!
//! 1. Play the workload while the disk fails. Each reply goes to the model, each error has the
//!    class that fits the fault, and after a failed sync nothing more is acknowledged (P6).
//! 2. Mend the disk. Reads go on; writes do too, unless the store said that they will not.
//! 3. From where that ended, each on a copy of the disk: a crash, in several states; the death of
//!    the process alone; the same, and the system's cache dropped. Open and survey each.
//! 4. After each of the last two: whatever the opened store shows is on stable storage, so drop
//!    the cache under it, read all again, go on, crash, open and survey.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use pinstone::Error;
use pinstone_disk::sim::{CrashState, Fault, SimCounters, SimDisk};

use super::crash::Known;
use super::model::Model;
use super::replay::{Tally, Violations, Words, number, op_count};
use super::script::{Failing, Step, Workload, World, workload};
use super::{Verdict, caught, ensure, mix, replay, told};

/// All that a disk can do wrong, with a name for each.
pub const FAULTS: [(&str, Fault); 9] = [
    ("eio", Fault::Eio),
    ("enospc", Fault::Enospc),
    ("emfile", Fault::Emfile),
    ("enomem", Fault::Enomem),
    ("short-write", Fault::ShortWrite),
    ("short-read", Fault::ShortRead),
    ("interrupted", Fault::Interrupted),
    ("sync-fails-then-clean", Fault::SyncFailsThenClean),
    ("sync-enospc", Fault::SyncEnospc),
];

/// What replays a case.
pub const REPLAY: &str = "PINSTONE_FAULT_REPLAY";

/// One failing disk under one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub workload: String,
    pub seed: u64,
    pub failing: Failing,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, seed, failing: Failing { op, fault, onward } } = self;
        let reach = if *onward { "from" } else { "at" };
        write!(f, "workload={workload} seed={seed} fault={} {reach}={op}", name_of_fault(*fault))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(line: &str) -> Verdict<Self> {
        let mut words = Words::of(line)?;
        let fault = fault_named(words.need("fault")?)?;
        let from = words.take("from");
        let case = Self {
            workload: words.need("workload")?.to_owned(),
            seed: number(words.need("seed")?)?,
            failing: Failing {
                op: number(from.map_or_else(|| words.need("at"), Ok)?)?,
                fault,
                onward: from.is_some(),
            },
        };
        words.end()?;
        Ok(case)
    }
}

pub fn name_of_fault(fault: Fault) -> &'static str {
    let known = FAULTS.iter().find(|(_, known)| *known == fault);
    known.expect("all faults are listed").0
}

pub fn fault_named(name: &str) -> Verdict<Fault> {
    let known = FAULTS.iter().find(|(known, _)| *known == name);
    known.map(|(_, fault)| *fault).ok_or(format!("{name}: not a fault"))
}

/// What a hunt tried and saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases in which the fault befell an operation, by its name and reach.
    pub fired: BTreeMap<(&'static str, &'static str), u64>,
    /// Errors that the store returned, by fault and class.
    pub errors: BTreeMap<(&'static str, &'static str), u64>,
    /// States of the disk that were recovered from afterwards, each once.
    pub recoveries: u64,
    /// What the disks did.
    pub effects: SimCounters,
    pub violations: Violations,
}

impl Tally for Report {
    fn add(&mut self, other: Self) {
        for (key, count) in other.fired {
            *self.fired.entry(key).or_default() += count;
        }
        for (key, count) in other.errors {
            *self.errors.entry(key).or_default() += count;
        }
        self.recoveries += other.recoveries;
        self.effects += other.effects;
        self.violations.add(other.violations);
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((fault, reach), count) in &self.fired {
            writeln!(f, "{count:>9} times {fault} {reach}")?;
        }
        for ((fault, class), count) in &self.errors {
            writeln!(f, "{count:>9} replies {class} for {fault}")?;
        }
        writeln!(f, "{:>9} recoveries", self.recoveries)?;
        writeln!(f, "{:?}", self.effects)?;
        write!(f, "{}", self.violations)
    }
}

/// Tries each of `faults` at the operations of each workload, at one in `ops_one_in` of them.
pub fn hunt(
    workloads: &[Workload],
    faults: &[Fault],
    ops_one_in: u64,
    until_first: bool,
) -> Report {
    let seed = 1;
    let mut report = Report::default();
    let mut cases = Vec::new();
    for workload in workloads {
        let count = match op_count(workload, seed) {
            Ok(count) => count,
            Err(seen) => {
                report.violations.note(|| seen);
                continue;
            }
        };
        for &fault in faults {
            for onward in [false, true] {
                let draw = |op: &u64| mix(&[seed, fault as u64, u64::from(onward), *op]);
                let ops = (1..=count).filter(|op| draw(op).is_multiple_of(ops_one_in));
                cases.extend(ops.map(|op| (workload, Failing { op, fault, onward })));
            }
        }
    }
    let known = Known::default();
    replay::hunt(&cases, until_first, &mut report, |(workload, failing), part| {
        let case = Case { workload: workload.name.clone(), seed, failing: *failing };
        try_case(workload, &case, &known, part);
    });
    report.recoveries += known.count();
    report
}

/// Tries one case again.
pub fn replay(case: &Case) -> Report {
    let workload = workload(&case.workload).expect("the case names a known workload");
    let mut report = Report::default();
    let known = Known::default();
    try_case(&workload, case, &known, &mut report);
    report.recoveries += known.count();
    report
}

fn try_case(workload: &Workload, case: &Case, known: &Known, report: &mut Report) {
    let mut disk = None;
    let seen = caught(|| {
        let (begun, model) = workload.begin(case.seed)?;
        disk = Some(Arc::clone(&begun));
        let mut world = World::new(workload, begun, model);
        world.failing = Some(case.failing);
        let before = fired(&world.disk, case.failing.fault);
        let lived = live(&mut world, case.failing, report);
        report.effects += world.disk.counters();
        if fired(&world.disk, case.failing.fault) > before {
            let reach = if case.failing.onward { "onward" } else { "once" };
            *report.fired.entry((name_of_fault(case.failing.fault), reach)).or_default() += 1;
        } else {
            // Any other such run is tried by the crash harness.
            return lived;
        }
        lived?;
        afterwards(world, case.failing, known, report)
    });
    if let Err(seen) = seen {
        report.violations.note_case(&seen, REPLAY, case, disk.as_deref());
    }
}

/// How often the disk did this wrong.
fn fired(disk: &SimDisk, fault: Fault) -> u64 {
    let counters = disk.counters();
    match fault {
        Fault::Eio => counters.eio,
        Fault::Enospc => counters.enospc,
        Fault::Emfile => counters.emfile,
        Fault::Enomem => counters.enomem,
        Fault::ShortWrite => counters.short_writes,
        Fault::ShortRead => counters.short_reads,
        Fault::Interrupted => counters.interrupts,
        Fault::SyncFailsThenClean | Fault::SyncEnospc => counters.failed_syncs,
        _ => panic!("a fault that nobody counts"),
    }
}

/// Plays the workload while the disk fails, then mends it and looks whether the store goes on.
fn live(world: &mut World<'_>, failing: Failing, report: &mut Report) -> Verdict {
    let mut judge = |world: &World<'_>, step: &dyn fmt::Debug, error: &Error| {
        *report.errors.entry((name_of_fault(failing.fault), class(error))).or_default() += 1;
        fits(world, failing, error).map_err(|seen| format!("{step:?}: {seen}"))
    };
    if let Err(error) = world.open()? {
        judge(world, &"open", &error)?;
    }
    for step in &world.workload.steps {
        if world.store.is_none() {
            break;
        }
        let ended = is_poisoned(world);
        let acknowledged = world.model.acknowledged();
        let error = world.play(step).map_err(|seen| format!("{step:?}: {seen}"))?;
        ensure!(
            !ended || world.model.acknowledged() == acknowledged,
            "{step:?} was acknowledged after writing had ended"
        );
        let Some(error) = error else { continue };
        judge(world, step, &error)?;
        world.model.die();
        if !failing.onward && world.store.is_some() {
            let reads = world.model.reads(world.store.as_ref().expect("it is open"));
            reads.map_err(|seen| format!("after {step:?} failed: {seen}"))?;
            if !is_poisoned(world) && !matches!(step, Step::Reopen) {
                world.put_targets(step)?;
                let again = world.play(step)?;
                let told = again.map(|error| told(&error));
                ensure!(told.is_none(), "{step:?} failed again, on a sound disk: {told:?}");
            }
        }
    }
    world.failing = None;
    world.disk.heal();
    let Some(store) = &world.store else { return Ok(()) };
    world.model.reads(store).map_err(|seen| format!("once mended: {seen}"))?;
    if !is_poisoned(world) {
        let goes_on = world.model.goes_on(store);
        goes_on.map_err(|seen| format!("once mended, without reopening: {seen}"))?;
    }
    Ok(())
}

fn is_poisoned(world: &World<'_>) -> bool {
    world.store.as_ref().is_some_and(|store| store.stats().poisoned.is_some())
}

fn class(error: &Error) -> &'static str {
    match error {
        Error::NoSpace { .. } => "NoSpace",
        Error::Io { .. } => "Io",
        Error::Indeterminate { .. } => "Indeterminate",
        Error::Poisoned { .. } => "Poisoned",
        _ => "of a wrong class",
    }
}

/// Whether the store may say this when the disk does that.
fn fits(world: &World<'_>, failing: Failing, error: &Error) -> Verdict {
    let fault = failing.fault;
    let syncs_fail = matches!(fault, Fault::SyncFailsThenClean | Fault::SyncEnospc);
    let ended = is_poisoned(world);
    let open = world.store.is_some();
    let fits = match error {
        Error::NoSpace { .. } => fault == Fault::Enospc || (fault == Fault::SyncEnospc && !open),
        Error::Io { .. } => matches!(fault, Fault::Eio | Fault::Emfile) || (syncs_fail && !open),
        Error::Indeterminate { .. } | Error::Poisoned { .. } => {
            (ended || !open) && (syncs_fail || matches!(fault, Fault::Eio | Fault::Enospc))
        }
        _ => false,
    };
    ensure!(fits, "{fault:?} became {} (writing ended: {ended})", told(error));
    ensure!(!(syncs_fail && open) || ended, "a sync failed and writing goes on: {}", told(error));
    Ok(())
}

/// What is found after a crash, after the process's death, and with the cache dropped.
fn afterwards(world: World<'_>, failing: Failing, known: &Known, report: &mut Report) -> Verdict {
    let World { workload, disk, mut model, store, .. } = world;
    model.die();
    let random = CrashState::Random(mix(&[failing.op]));
    for state in [CrashState::Nothing, CrashState::Everything, random] {
        let image = disk.after_crash(state);
        report.effects += image.counters();
        known
            .recover(workload, &image, &model)
            .map_err(|seen| format!("after a crash, {state:?}: {seen}"))?;
    }
    let images = [("with its cache", false), ("without its cache", true)]
        .map(|(what, dropped)| (what, dropped, disk.clean_reopen()));
    drop(store);
    for (what, dropped, image) in images {
        if dropped {
            image.drop_caches();
        }
        report.effects += image.counters();
        opened_is_durable(workload, image, model.clone(), known)
            .map_err(|seen| format!("after a kill, {what}: {seen}"))?;
    }
    Ok(())
}

/// Opens the store; whatever it then shows survives anything.
pub fn opened_is_durable(
    workload: &Workload,
    image: Arc<SimDisk>,
    model: Model,
    known: &Known,
) -> Verdict {
    let mut world = World::new(workload, image, model);
    world.open()?.map_err(|error| format!("open: {}", told(&error)))?;
    let store = world.store.as_ref().expect("it is open");
    let at_once = world.disk.after_crash(CrashState::Nothing);
    let mut model = world.model.clone();
    model.die();
    known
        .recover(workload, &at_once, &model)
        .map_err(|seen| format!("a crash once opened: {seen}"))?;
    world.disk.drop_caches();
    world.model.reads(store).map_err(|seen| format!("cache dropped once opened: {seen}"))?;
    world.model.goes_on(store)?;
    world.disk.drop_caches();
    world.model.reads(store).map_err(|seen| format!("cache dropped later: {seen}"))?;
    let later = world.disk.after_crash(CrashState::Nothing);
    world.model.die();
    known
        .recover(workload, &later, &world.model)
        .map(drop)
        .map_err(|seen| format!("a crash later: {seen}"))
}
