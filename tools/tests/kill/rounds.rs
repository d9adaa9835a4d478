//! Rounds of `pinstone batch` on one store: requests in flight, a kill, kills during the opening,
//! a survey.
//!
//! 1. Requests are written ahead of their replies, up to a window chosen for the round, and each
//!    reply is compared with the oracle's. After so many replies some more requests are written, an
//!    empty loop turns a few times, and the process is killed.
//! 2. At times it is started again and killed before it can answer. How long an opening takes is
//!    counted in turns of the loop that waits for it, and the kill comes at a random one of them.
//! 3. At times `pinstone check --read-data` is the first to open the store.
//! 4. A fresh process opens it. All pointers, the last commit, every value named, every value
//!    promised, and some of the others are compared with the oracle; `check` reads everything. The
//!    process goes on as the next round's.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Random;
use crate::child::{self, Child};
use crate::oracle::{self, Oracle};
use crate::request::{Blob, Request};

/// Rounds after which a fresh store is taken, so that the cost of a survey stays bounded.
const ROUNDS_PER_STORE: u64 = 20;

/// Values beyond those named or promised whose bytes a survey reads.
const SAMPLE_COUNT: u64 = 24;

/// Digests in one question.
const HAS_COUNT: usize = 500;

/// What to run.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    /// Deceive the oracle, until it notices.
    pub(crate) lie: Option<Lie>,
    /// The bug to be planted in the process.
    pub(crate) bug: Option<&'static str>,
}

/// A way to make the store a liar: each stands for a kind of bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// What was sent counts as acknowledged, though no reply came.
    AcknowledgedTooEarly,
    /// After the kill, the store's files are those of a while ago.
    OldCopy,
    /// After the kill there is a commit that nobody sent.
    ForeignCommit,
    /// After the kill, a bit is flipped in each log.
    Damage,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rounds: u64,
    pub(crate) requests: u64,
    pub(crate) replies: u64,
    pub(crate) commits: u64,
    pub(crate) kills: u64,
    /// Kills of a process that held the store's lock and had not answered yet.
    pub(crate) kills_in_open: u64,
    /// Requests in flight that a kill left done.
    pub(crate) unanswered_done: u64,
    pub(crate) unanswered: u64,
    pub(crate) values_read: u64,
    pub(crate) violations: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds, {} requests, {} answered, {} commits acknowledged; {} kills, {} of them \
             during an opening; {} requests in flight at a kill, {} of them found done; {} values \
             read back; {} violations",
            self.rounds,
            self.requests,
            self.replies,
            self.commits,
            self.kills,
            self.kills_in_open,
            self.unanswered,
            self.unanswered_done,
            self.values_read,
            self.violations.len(),
        )?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// Runs the rounds; with a lie or a bug, until it is noticed.
pub(crate) fn run(plan: &Plan) -> Report {
    let mut report = Report::default();
    let mut from = 0;
    while from < plan.rounds {
        let upto = plan.rounds.min(from + ROUNDS_PER_STORE);
        let mut aging = Aging::new(plan);
        if let Err(violation) = aging.rounds(from..upto, &mut report) {
            let Plan { seed, .. } = plan;
            report.violations.push(format!("seed {seed}, round {}: {violation}", report.rounds));
            if plan.lie.is_some() || plan.bug.is_some() {
                break;
            }
        }
        from = upto;
    }
    report
}

/// One store and all that happened to it.
struct Aging<'a> {
    plan: &'a Plan,
    place: TempDir,
    oracle: Oracle,
    /// Turns of the waiting loop that the last opening took.
    open_turns: u64,
}

impl<'a> Aging<'a> {
    fn new(plan: &'a Plan) -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { plan, place, oracle: Oracle::default(), open_turns: 0 }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("store")
    }

    fn start(&self) -> Child {
        Child::batch(&self.path(), self.plan.bug)
    }

    fn rounds(&mut self, rounds: std::ops::Range<u64>, report: &mut Report) -> Result<(), String> {
        let mut child = self.open()?;
        for round in rounds {
            let mut random = Random::new(self.plan.seed, round);
            let copy = (self.plan.lie == Some(Lie::OldCopy)).then(|| self.copy());
            self.ask_and_kill(child, &mut random, report)?;
            self.lie(copy)?;
            for _ in 0..random.skewed(3) {
                self.kill_in_open(&mut random, report)?;
            }
            if random.one_in(3) {
                child::check(&self.path())?;
            }
            child = self.open()?;
            self.survey(&mut child, &mut random, report)?;
            report.rounds += 1;
        }
        child.end()?;
        child::check(&self.path())
    }

    /// Starts a process, and counts how long it takes to answer.
    fn open(&mut self) -> Result<Child, String> {
        let mut child = self.start();
        child.send(r#"{"op":"has","digests":[]}"#);
        let Some((reply, turns)) = child.await_reply() else {
            return Err(child.end().err().unwrap_or_else(|| "it ended without a reply".into()));
        };
        self.open_turns = turns;
        if reply.trim_end() == r#"{"ok":true,"present":[]}"# { Ok(child) } else { Err(reply) }
    }

    /// Requests, replies, and the kill.
    fn ask_and_kill(
        &mut self,
        mut child: Child,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), String> {
        let window = 1 + random.skewed(5) as usize;
        let replies = random.skewed(10);
        let more = random.skewed(5);
        let turns = random.skewed(18);
        let mut alive = true;
        for _ in 0..replies {
            while alive && self.oracle.in_flight() < window {
                alive = self.ask(&mut child, random, report);
            }
            match child.reply() {
                Some(line) => self.replied(&line, report)?,
                None => break,
            }
        }
        for _ in 0..more {
            alive = alive && self.ask(&mut child, random, report);
        }
        child::spin(turns);
        for line in child.kill()? {
            self.replied(&line, report)?;
        }
        report.kills += 1;
        Ok(())
    }

    fn ask(&mut self, child: &mut Child, random: &mut Random, report: &mut Report) -> bool {
        let request = Request::choose(random, &self.oracle.ahead);
        let sent = child.send(&request.line());
        self.oracle.sent(request);
        report.requests += 1;
        sent
    }

    fn replied(&mut self, line: &str, report: &mut Report) -> Result<(), String> {
        let before = self.oracle.answered.last_commit;
        self.oracle.replied(line)?;
        report.replies += 1;
        report.commits += self.oracle.answered.last_commit - before;
        Ok(())
    }

    fn kill_in_open(&mut self, random: &mut Random, report: &mut Report) -> Result<(), String> {
        let mut child = self.start();
        child.send(r#"{"op":"sync"}"#);
        let id = child.id();
        for _ in 0..random.below(self.open_turns + self.open_turns / 8 + 1) {
            std::thread::yield_now();
        }
        let replies = child.kill()?;
        report.kills += 1;
        let holder = std::fs::read_to_string(self.path().join("LOCK")).unwrap_or_default();
        if replies.is_empty() && holder.trim() == id.to_string() {
            report.kills_in_open += 1;
        }
        Ok(())
    }

    /// Compares all that the store shows with what it must.
    fn survey(
        &mut self,
        child: &mut Child,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), String> {
        let list = ask(child, &json!({"op": "list", "limit": 10_000}))?;
        let stats = ask(child, &json!({"op": "stats"}))?;
        let last_commit = stats["stats"]["last_commit"].as_u64().ok_or("no last commit")?;
        report.unanswered += self.oracle.in_flight() as u64;
        report.unanswered_done += self.oracle.reopened(&list, last_commit)? as u64;
        self.find_values(child)?;
        self.read_values(child, random, report)?;
        let checked = ask(child, &json!({"op": "check", "read_data": true}))?;
        if checked != json!({"ok": true, "findings": []}) {
            return Err(format!("check: {checked}"));
        }
        Ok(())
    }

    /// Which of all values ever put are there; those promised must be.
    fn find_values(&mut self, child: &mut Child) -> Result<(), String> {
        let values: Vec<(Blob, bool)> = self.oracle.answered.values().collect();
        for some in values.chunks(HAS_COUNT) {
            let digests: Vec<String> = some.iter().map(|(b, _)| b.digest.to_string()).collect();
            let reply = ask(child, &json!({"op": "has", "digests": digests}))?;
            let present = reply["present"].as_array().ok_or("no answer to has")?;
            for ((blob, promised), there) in some.iter().zip(present) {
                let there = there.as_bool().ok_or("has answers with booleans")?;
                if *promised && !there {
                    return Err(format!("the promised value {} is gone", blob.digest));
                }
                self.oracle.found(*blob, there);
            }
        }
        Ok(())
    }

    /// Reads what every pointer names, by the pointer, and some of the other values.
    fn read_values(
        &self,
        child: &mut Child,
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), String> {
        let state = &self.oracle.answered;
        let named = state.pointers.keys().map(|name| Request::GetPointer(name.clone()));
        let sample = (0..SAMPLE_COUNT).filter_map(|_| state.any_present(random));
        let sample: Vec<_> = sample.map(Request::GetDigest).collect();
        for request in named.chain(sample) {
            let reply = ask_line(child, &request.line())?;
            let digest = match &request {
                Request::GetPointer(name) => state.pointers[name],
                Request::GetDigest(digest) => *digest,
                _ => unreachable!("only values are asked for"),
            };
            let blob = state.blob(&digest).expect("every digest comes from the oracle");
            oracle::is_value(&reply, &blob).map_err(|wrong| format!("{request:?}: {wrong}"))?;
            report.values_read += 1;
        }
        Ok(())
    }

    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.path(), copy.path());
        copy
    }

    fn lie(&mut self, copy: Option<TempDir>) -> Result<(), String> {
        match self.plan.lie {
            None => {}
            Some(Lie::AcknowledgedTooEarly) => self.oracle.claim_all(),
            Some(Lie::OldCopy) => {
                std::fs::remove_dir_all(self.path()).unwrap();
                std::fs::create_dir(self.path()).unwrap();
                copy_files(copy.expect("it was made before the round").path(), &self.path());
            }
            Some(Lie::ForeignCommit) => {
                let mut child = self.open()?;
                let list = ask(&mut child, &json!({"op": "list", "limit": 1}))?;
                if let Some(name) = list["pointers"][0]["name"].as_str() {
                    ask(&mut child, &json!({"op": "commit", "delete": [name]}))?;
                }
                child.kill()?;
            }
            Some(Lie::Damage) => damage(&self.path()),
        }
        Ok(())
    }
}

/// The files of a store as they are while a process may be writing them.
fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Flips a bit some way into every file that is larger than a header.
fn damage(path: &Path) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(byte) = bytes.get_mut(4200) {
            *byte ^= 4;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

/// The reply to one request, which must be ok.
fn ask(child: &mut Child, request: &Value) -> Result<Value, String> {
    ask_line(child, &request.to_string())
}

fn ask_line(child: &mut Child, line: &str) -> Result<Value, String> {
    child.send(line);
    let shown: String = line.chars().take(200).collect();
    let reply = child.reply().ok_or_else(|| format!("no reply to {shown}"))?;
    let reply: Value = serde_json::from_str(&reply).map_err(|error| error.to_string())?;
    if reply["ok"] != true {
        return Err(format!("{shown} is answered by {reply}"));
    }
    Ok(reply)
}
