//! Crashes a workload at each of its disk operations, in several states of the disk each, and the
//! recovery from that again; then opens the store, compares it with the model, and goes on.
//!
//! 1. Play the workload to its end, to learn how many disk operations it makes.
//! 2. For each operation: play again, crash there, and list the states that the disk may be in.
//! 3. For each state: open, survey, put and commit and check, close, open, survey, check.
//! 4. For some of them: crash that opening at each of its own operations that change something,
//!    and do step 3 for several states each.
//!
//! Many of these states are the same: the same files, to be recovered by the same rules. Each such is
//! recovered from once ([`Known`]), for a second time would go as the first did; of some of them that is tried.
//!
//! A [`Point`] names one such case and prints as one line, which replays it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use pinstone::Digest;
use pinstone_disk::Disk;
use pinstone_disk::env::Mutex;
use pinstone_disk::sim::{CrashState, SimCounters, SimDisk};

use super::model::{Model, sound};
use super::replay::{Tally, Violations, Words, number, op_count};
use super::script::{Workload, World, workload};
use super::{Verdict, caught, ensure, mix, replay, told};

/// How many changes of a disk are kept or lost one at a time, at most.
const SINGLES_MAX: usize = 12;
/// What replays a point.
pub const REPLAY: &str = "PINSTONE_CRASH_REPLAY";

/// One crash, and perhaps one more in the recovery from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub workload: String,
    pub seed: u64,
    pub op: u64,
    pub state: CrashState,
    pub again: Option<(u64, CrashState)>,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, seed, op, state, again } = self;
        write!(f, "workload={workload} seed={seed} op={op} state={}", StateText(*state))?;
        match again {
            Some((op, state)) => write!(f, " again={op} then={}", StateText(*state)),
            None => Ok(()),
        }
    }
}

struct StateText(CrashState);

impl fmt::Display for StateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            CrashState::Nothing => f.write_str("nothing"),
            CrashState::Everything => f.write_str("everything"),
            CrashState::OneMissing(index) => write!(f, "missing:{index}"),
            CrashState::OneAlone(index) => write!(f, "alone:{index}"),
            CrashState::Random(seed) => write!(f, "random:{seed}"),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(line: &str) -> Verdict<Self> {
        let mut words = Words::of(line)?;
        let point = Self {
            workload: words.need("workload")?.to_owned(),
            seed: words.take("seed").map_or(Ok(1), number)?,
            op: number(words.need("op")?)?,
            state: state(words.need("state")?)?,
            again: match words.take("again") {
                Some(op) => Some((number(op)?, state(words.need("then")?)?)),
                None => None,
            },
        };
        words.end()?;
        Ok(point)
    }
}

fn state(text: &str) -> Verdict<CrashState> {
    match text.split_once(':') {
        None if text == "nothing" => Ok(CrashState::Nothing),
        None if text == "everything" => Ok(CrashState::Everything),
        Some(("missing", index)) => Ok(CrashState::OneMissing(number(index)?)),
        Some(("alone", index)) => Ok(CrashState::OneAlone(number(index)?)),
        Some(("random", seed)) => Ok(CrashState::Random(number(seed)?)),
        _ => Err(format!("{text}: not a state")),
    }
}

/// How much a hunt tries.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    /// One in so many operations is crashed at.
    pub points_one_in: u64,
    /// Random states at each operation.
    pub random_states: u64,
    /// The recovery from one state in so many is crashed again.
    pub again_one_in: u64,
    /// The hunt ends at the first violation.
    pub until_first: bool,
}

impl Plan {
    /// So much that tens of thousands of states are tried, times the budget.
    pub fn usual(budget: u64) -> Self {
        Self {
            seed: 1,
            points_one_in: 1,
            random_states: 4 * budget,
            again_one_in: (40 / budget).max(1),
            until_first: false,
        }
    }
}

/// What a hunt tried and saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Disk operations that were crashed at, by workload.
    pub points: BTreeMap<String, u64>,
    /// Disk operations of recoveries that were crashed at.
    pub points_again: u64,
    /// Pairs of a crash and a state, by the kind of the state.
    pub states: BTreeMap<&'static str, u64>,
    /// Those that differ from all others before them, each recovered from.
    pub recoveries: u64,
    /// What the crashes did.
    pub effects: SimCounters,
    pub violations: Violations,
}

impl Tally for Report {
    fn add(&mut self, other: Self) {
        for (name, count) in other.points {
            *self.points.entry(name).or_default() += count;
        }
        for (kind, count) in other.states {
            *self.states.entry(kind).or_default() += count;
        }
        self.points_again += other.points_again;
        self.effects += other.effects;
        self.violations.add(other.violations);
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (workload, count) in &self.points {
            writeln!(f, "{count:>9} crash points in {workload}")?;
        }
        writeln!(f, "{:>9} crash points in recovery", self.points_again)?;
        for (kind, count) in &self.states {
            writeln!(f, "{count:>9} states: {kind}")?;
        }
        writeln!(f, "{:>9} recoveries", self.recoveries)?;
        writeln!(f, "{:?}", self.effects)?;
        write!(f, "{}", self.violations)
    }
}

/// Crashes each workload everywhere.
pub fn hunt(workloads: &[Workload], plan: &Plan) -> Report {
    let mut report = Report::default();
    let mut cases = Vec::new();
    for (index, workload) in workloads.iter().enumerate() {
        match op_count(workload, plan.seed) {
            // The last of them crashes after the last operation.
            Ok(count) => {
                let draw = |op: &u64| mix(&[plan.seed, index as u64, *op]);
                let chosen = |op: &u64| draw(op).is_multiple_of(plan.points_one_in);
                cases.extend((1..=count + 1).filter(chosen).map(|op| (workload, op)));
            }
            Err(seen) => report.violations.note(|| seen),
        }
    }
    let known = Known::default();
    replay::hunt(&cases, plan.until_first, &mut report, |(workload, op), part| {
        crash_at(workload, *op, plan, &known, part);
    });
    report.recoveries = known.count();
    report
}

/// The states that were recovered from without a violation: a digest of the workload, the model and the
/// files, and how many operations that change something the opening made.
///
/// Two disks with the same files behave alike but for what their seeds decide: the order of a batch's
/// operations, which nobody sees on a disk that neither fails nor crashes; how short a write falls; and the seeds
/// of maps and filters. Of a workload whose disk fails no two states are the same, therefore.
#[derive(Default)]
pub struct Known(Mutex<Recoveries>);

/// Of so many known states one is recovered from again, to see that it goes as it did.
const KNOWN_AGAIN_ONE_IN: u64 = 64;

#[derive(Default)]
struct Recoveries {
    sound: BTreeMap<Digest, u64>,
    /// How many were tried.
    count: u64,
    /// How many were known.
    known_count: u64,
}

impl Recoveries {
    /// What is known of such a state, unless it is to be tried.
    fn known(&mut self, fingerprint: Digest) -> Option<u64> {
        let known = *self.sound.get(&fingerprint)?;
        self.known_count += 1;
        (!self.known_count.is_multiple_of(KNOWN_AGAIN_ONE_IN)).then_some(known)
    }
}

impl Known {
    /// Recovers from a state, unless it is known; how many operations that change something the opening
    /// made.
    pub fn recover(
        &self,
        workload: &Workload,
        image: &Arc<SimDisk>,
        model: &Model,
    ) -> Verdict<u64> {
        let fingerprint = workload.failing.is_none().then(|| fingerprint(workload, image, model));
        {
            let mut recoveries = self.0.lock();
            if let Some(known) = fingerprint.and_then(|key| recoveries.known(key)) {
                return Ok(known);
            }
            recoveries.count += 1;
        }
        let opening_mutations = caught(|| recover(workload, image, model.clone()))?;
        if let Some(key) = fingerprint {
            let before = self.0.lock().sound.insert(key, opening_mutations);
            ensure!(
                before.is_none_or(|before| before == opening_mutations),
                "the same files were opened by {before:?} changes and by {opening_mutations}"
            );
        }
        Ok(opening_mutations)
    }

    /// How many recoveries were tried.
    pub fn count(&self) -> u64 {
        self.0.lock().count
    }
}

/// A digest of all that decides how a recovery goes on a disk that works.
fn fingerprint(workload: &Workload, image: &SimDisk, model: &Model) -> Digest {
    let mut told = workload.name.clone().into_bytes();
    model.tell(&mut told);
    for name in image.names() {
        let bytes = image.file_bytes(&name).expect("it is listed");
        // What is written to a file of two names is seen by both.
        let first_name = image.first_name(&name).expect("it is listed");
        told.extend(format!("\n{name} {first_name} {}\n", bytes.len()).into_bytes());
        told.extend(bytes);
    }
    Digest::of(&told)
}

/// Crashes one workload at one operation, in all states.
fn crash_at(workload: &Workload, op: u64, plan: &Plan, known: &Known, report: &mut Report) {
    *report.points.entry(workload.name.clone()).or_default() += 1;
    let mut point = Point {
        workload: workload.name.clone(),
        seed: plan.seed,
        op,
        state: CrashState::Nothing,
        again: None,
    };
    let (crashed, model) = match caught(|| live(workload, plan.seed, op)) {
        Ok(lived) => lived,
        Err(seen) => return report.violation(&point, &seen, None),
    };
    report.effects += crashed.counters();
    for (index, state) in states(&crashed, plan, op).into_iter().enumerate() {
        point.state = state;
        let image = crashed.after_crash(state);
        report.tried(state, &image);
        let opening_mutations = match known.recover(workload, &image, &model) {
            Ok(count) => count,
            Err(seen) => {
                report.violation(&point, &seen, Some(&crashed));
                continue;
            }
        };
        let chosen = mix(&[plan.seed, op, index as u64]).is_multiple_of(plan.again_one_in);
        if chosen && !(plan.until_first && report.violations.count > 0) {
            for again in 1..=opening_mutations {
                crash_again(workload, &crashed, &model, &point, again, known, report);
            }
        }
    }
}

/// Crashes the recovery from `point` in place of one of its operations that change something.
fn crash_again(
    workload: &Workload,
    crashed: &Arc<SimDisk>,
    model: &Model,
    point: &Point,
    op: u64,
    known: &Known,
    report: &mut Report,
) {
    report.points_again += 1;
    let again = match half_recovered(workload, crashed, point.state, op) {
        Ok(again) => again,
        Err(seen) => {
            let point = Point { again: Some((op, CrashState::Nothing)), ..point.clone() };
            return report.violation(&point, &seen, Some(crashed));
        }
    };
    let random = CrashState::Random(mix(&[point.op, op]));
    for state in [CrashState::Nothing, CrashState::Everything, random] {
        let image = again.after_crash(state);
        report.tried(state, &image);
        if let Err(seen) = known.recover(workload, &image, model) {
            let point = Point { again: Some((op, state)), ..point.clone() };
            report.violation(&point, &seen, Some(&again));
        }
    }
}

impl Report {
    fn violation(&mut self, point: &Point, seen: &str, disk: Option<&SimDisk>) {
        self.violations.note_case(seen, REPLAY, point, disk);
    }

    fn tried(&mut self, state: CrashState, image: &SimDisk) {
        self.effects += image.counters();
        *self.states.entry(kind(state)).or_default() += 1;
    }
}

fn kind(state: CrashState) -> &'static str {
    match state {
        CrashState::Nothing => "nothing kept",
        CrashState::Everything => "everything kept",
        CrashState::OneMissing(_) => "one missing",
        CrashState::OneAlone(_) => "one alone",
        CrashState::Random(_) => "random",
    }
}

/// Plays the workload to its crash.
fn live(workload: &Workload, seed: u64, op: u64) -> Verdict<(Arc<SimDisk>, Model)> {
    let (disk, model) = workload.begin(seed)?;
    disk.crash_at(op);
    let mut world = World::new(workload, Arc::clone(&disk), model);
    world.play_all(&workload.steps)?;
    if !disk.crashed() {
        ensure!(disk.op_count() + 1 == op, "operation {op} was not reached");
        disk.crash_now();
    }
    world.model.die();
    Ok((disk, world.model))
}

/// What the disk may hold now.
fn states(disk: &SimDisk, plan: &Plan, op: u64) -> Vec<CrashState> {
    let unsynced = disk.unsynced();
    let mut states = vec![CrashState::Nothing];
    if unsynced > 0 {
        states.push(CrashState::Everything);
    }
    if unsynced > 1 {
        let step = unsynced.div_ceil(SINGLES_MAX);
        states.extend((0..unsynced).step_by(step).map(CrashState::OneMissing));
        states.extend((0..unsynced).step_by(step).map(CrashState::OneAlone));
    }
    if unsynced > 0 {
        let random = |draw| CrashState::Random(mix(&[plan.seed, op, draw]));
        states.extend((0..plan.random_states).map(random));
    }
    states
}

/// Opens what the crash left, goes on, closes, opens again. How many operations that change something
/// the first opening made.
pub fn recover(workload: &Workload, image: &Arc<SimDisk>, model: Model) -> Verdict<u64> {
    let mut world = World::new(workload, Arc::clone(image), model);
    world.open()?.map_err(|error| format!("open: {}", told(&error)))?;
    let opening_mutations = world.opened_at_mutation;
    let store = world.store.as_ref().expect("it is open");
    world.model.goes_on(store)?;
    let error = world.play(&super::script::Step::Reopen)?;
    ensure!(error.is_none(), "close and open: {error:?}");
    sound(world.store.as_ref().expect("it is open"))?;
    Ok(opening_mutations)
}

/// A recovery cut short at one of its operations.
fn half_recovered(
    workload: &Workload,
    crashed: &Arc<SimDisk>,
    state: CrashState,
    op: u64,
) -> Verdict<Arc<SimDisk>> {
    let image = crashed.after_crash(state);
    image.crash_at_mutation(op);
    let disk = Arc::clone(&image) as Arc<dyn Disk>;
    let opened = caught(|| Ok(workload.builder().open_on(disk)))?;
    image.crash_now();
    // Whatever it says, nobody hears it.
    drop(opened);
    Ok(image)
}

/// Tries one point.
pub fn replay(point: &Point) -> Verdict {
    let workload =
        workload(&point.workload).ok_or(format!("no workload is named {}", point.workload))?;
    let (crashed, model) = live(&workload, point.seed, point.op)?;
    let mut image = crashed.after_crash(point.state);
    if let Some((op, state)) = point.again {
        image = half_recovered(&workload, &crashed, point.state, op)?.after_crash(state);
    }
    caught(|| recover(&workload, &image, model)).map(drop)
}
