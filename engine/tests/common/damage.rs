//! Changes the bytes of a store at rest, and judges what opening it and reading all of it says:
//! the right answers, or an error that names the file; never wrong bytes, never a silent loss.
//!
//! A store that was closed testifies to everything in it. One whose process died testifies to all
//! but its last batch: of that one no later frame says that it was durable, so damage there may
//! count as torn, and the last commit may be gone. A cut takes away the later frames too, and with
//! them what they testify; so it is judged only where the store had a moment of rest before its
//! last commit, and wrote down elsewhere how far its logs were durable.

use std::fmt;
use std::sync::Arc;

use pinstone::{CheckOptions, Error};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, SimDisk};

use super::model::Model;
use super::replay::{Tally, Violations};
use super::script::{Step, Workload, World};
use super::{Verdict, caught, ensure, mix, replay, told};

/// How near to a byte that is not zero every byte is tried.
const NEAR_BYTES: usize = 8;
/// One in so many of the other bytes is tried.
const ZEROS_STRIDE: usize = 61;

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The file is removed.
    Remove,
    /// It is cut to this length.
    Cut(usize),
    /// One bit of one byte is flipped.
    Flip { offset: usize, bit: u8 },
    /// A byte range is overwritten with zeros.
    Zero { offset: usize, len_bytes: usize },
}

/// A store at rest, and what it must hold.
#[derive(Debug)]
pub struct Rest {
    pub workload: Workload,
    pub disk: Arc<SimDisk>,
    pub model: Model,
}

/// Plays the workload and closes the store.
pub fn closed(workload: Workload) -> Verdict<Rest> {
    let (disk, model) = workload.begin(1)?;
    let mut world = World::new(&workload, Arc::clone(&disk), model);
    world.play_all(&workload.steps)?;
    let reply = world.store.take().expect("it is open").close();
    world.model.sync(&reply);
    reply.map_err(|error| told(&error))?;
    let model = world.model;
    Ok(Rest { workload, disk, model })
}

/// Plays the workload, which ends in a commit, and cuts the power. `rested`: before that commit
/// the store was given a moment of rest.
pub fn dirty(workload: Workload, rested: bool) -> Verdict<Rest> {
    let (last, steps) = workload.steps.split_last().ok_or("there are no steps")?;
    let (disk, model) = workload.begin(1)?;
    let mut world = World::new(&workload, Arc::clone(&disk), model);
    world.play_all(steps)?;
    if rested {
        let store = world.store.as_ref().ok_or("it is not open")?;
        store.maintain().map_err(|error| told(&error))?;
    }
    let mut model = world.model.clone();
    let Step::Commit(changes) = last else { return Err("the last step is no commit".to_owned()) };
    let error = world.play(last)?;
    ensure!(error.is_none(), "the last commit: {error:?}");
    model.die();
    model.may_commit(&workload.edit(changes));
    let disk = disk.after_crash(CrashState::Nothing);
    Ok(Rest { workload, disk, model })
}

/// What a hunt tried and saw.
#[derive(Debug, Default)]
pub struct Report {
    pub tried: u64,
    /// Opening was refused.
    pub refused: u64,
    /// Opened, and some value or the check told of damage.
    pub told: u64,
    /// The damage changed no answer.
    pub harmless: u64,
    pub violations: Violations,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, refused, told, harmless, violations } = self;
        writeln!(
            f,
            "{tried} damaged stores: {refused} refused, {told} told on reading, {harmless} harmless"
        )?;
        write!(f, "{violations}")
    }
}

impl Tally for Report {
    fn add(&mut self, other: Self) {
        self.tried += other.tried;
        self.refused += other.refused;
        self.told += other.told;
        self.harmless += other.harmless;
        self.violations.add(other.violations);
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

/// Every file removed; cut to each length; and of each byte one bit flipped; sector by sector
/// zeroed. `stride` leaves out all lengths and bytes but every so-manieth. Of those far from any
/// byte that is not zero (padding, and what is only reserved) one in [`ZEROS_STRIDE`] is tried.
pub fn all_harms(disk: &SimDisk, stride: usize) -> Vec<(String, Harm)> {
    let mut harms = Vec::new();
    for file in disk.names() {
        let bytes = disk.file_bytes(&file).expect("it is listed");
        let len_bytes = bytes.len();
        let mut add = |harm| harms.push((file.clone(), harm));
        add(Harm::Remove);
        let is_near = |at: usize| {
            let near = at.saturating_sub(NEAR_BYTES)..(at + NEAR_BYTES).min(len_bytes);
            bytes[near].iter().any(|byte| *byte != 0)
        };
        let offsets = (0..len_bytes).filter(|at| is_near(*at) || at.is_multiple_of(ZEROS_STRIDE));
        for offset in offsets.step_by(stride) {
            add(Harm::Cut(offset));
            let bit = u8::try_from(mix(&[offset as u64]) % 8).expect("it is below 8");
            add(Harm::Flip { offset, bit });
        }
        for offset in (0..len_bytes).step_by(512) {
            add(Harm::Zero { offset, len_bytes: 512.min(len_bytes - offset) });
        }
    }
    harms
}

/// Tries each of these.
pub fn hunt(rest: &Rest, harms: &[(String, Harm)], until_first: bool) -> Report {
    let mut report = Report::default();
    replay::hunt(harms, until_first, &mut report, |(file, harm), part: &mut Report| {
        part.tried += 1;
        match caught(|| try_one(rest, file, *harm)) {
            Ok(Outcome::Refused) => part.refused += 1,
            Ok(Outcome::Told) => part.told += 1,
            Ok(Outcome::Harmless) => part.harmless += 1,
            Err(seen) => {
                let name = &rest.workload.name;
                part.violations.note(|| format!("{name}, {file}, {harm:?}: {seen}"));
            }
        }
    });
    report
}

enum Outcome {
    Refused,
    Told,
    Harmless,
}

fn try_one(rest: &Rest, file: &str, harm: Harm) -> Verdict<Outcome> {
    let disk = rest.disk.clean_reopen();
    inflict(&disk, file, harm);
    let before = contents(&disk);
    let store = match rest.workload.builder().open_on(Arc::clone(&disk) as Arc<dyn Disk>) {
        Ok(store) => store,
        Err(error) => {
            let text = told(&error);
            let class = matches!(
                error,
                Error::Corrupt { .. } | Error::NotAStore { .. } | Error::Unsupported { .. }
            );
            ensure!(class, "refused with the wrong class: {text}");
            ensure!(text.contains(file), "the refusal does not name the file: {text}");
            ensure!(contents(&disk) == before, "refused, but it changed something: {text}");
            return Ok(Outcome::Refused);
        }
    };
    let mut damaged_count = rest.model.survey_damaged(&store, file)?;
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = store.check(&options).map_err(|error| format!("check: {}", told(&error)))?;
    for finding in &report.findings {
        ensure!(finding.file == file || finding.file.starts_with('@'), "check blames {finding}");
    }
    ensure!(damaged_count == 0 || !report.findings.is_empty(), "check sees nothing");
    damaged_count += report.findings.len() as u64;
    Ok(if damaged_count > 0 { Outcome::Told } else { Outcome::Harmless })
}

/// All files but the lock's, which every opening writes.
fn contents(disk: &SimDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let names = disk.names().into_iter().filter(|name| name != "LOCK");
    names.map(|name| (name.clone(), disk.file_bytes(&name))).collect()
}

pub fn inflict(disk: &SimDisk, file: &str, harm: Harm) {
    match harm {
        Harm::Remove => disk.remove_file(file),
        Harm::Cut(len_bytes) => {
            let bytes = disk.file_bytes(file).expect("there is such a file");
            disk.put_file(file, &bytes[..len_bytes]);
        }
        Harm::Flip { offset, bit } => disk.corrupt(file, offset as u64, |b| b[0] ^= 1 << bit),
        Harm::Zero { offset, len_bytes } => {
            disk.corrupt(file, offset as u64, |bytes| bytes[..len_bytes].fill(0));
        }
    }
}
