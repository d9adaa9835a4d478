//! Threads on one store, a record of every call, and the check that the record is linearizable:
//! that all calls could have happened one after the other, each at some instant between its
//! beginning and its end, with these replies.
//!
//! Commits carry their number, so the order of the successful ones is known and only has to be
//! checked; what is searched is the place of commits whose reply was lost, of which each thread
//! has at most one.
//!
//! 1. Fill the numbers from 1 to the last that the store tells: with the commits that were
//!    acknowledged under them, and gaps with commits whose reply was lost.
//! 2. Each commit's requirements hold in its place, none begins after a later one has ended, and
//!    the last pointers are those that the store shows.
//! 3. Each read, and each failed requirement, is true after some number of commits: not fewer than
//!    had ended before it began or than a read saw that ended before it began, not more than had
//!    begun before it ended. The least such number is the best choice, since reads change nothing.
//!    There is none beyond the last: what was told survived (P2).

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of the harness, on the machine's own scheduler"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pinstone::{Digest, Error, Store, StoreBuilder, Verify};
use pinstone_disk::Disk;
use pinstone_disk::sim::{CrashState, SimDisk};

use super::model::{Edit, Pointers, shown};
use super::{Dice, Verdict, ensure, told};

/// One call and its reply. Instants are drawn from one counter.
#[derive(Clone, Debug)]
pub struct Call {
    pub begin: u64,
    pub end: u64,
    pub did: Did,
}

/// What a call did, by its reply.
#[derive(Clone, Debug)]
pub enum Did {
    /// A commit, acknowledged under this number.
    Committed { id: u64, edit: Edit },
    /// A commit that may have happened at any time since its beginning.
    Lost { edit: Edit },
    /// A commit that was refused because of this pointer.
    Refused { name: Vec<u8>, expected: Option<Digest>, current: Option<Digest> },
    /// A read of one pointer.
    Saw { name: Vec<u8>, current: Option<Digest> },
    /// A read of all, and of the number of the last commit.
    SawAll { id: u64, pointers: Pointers },
}

const NAMES: [&[u8]; 3] = [b"a", b"b", b"c"];

/// Lets threads race until each has made so many calls or met an error. `acknowledged` is told the
/// number of each commit as soon as it is known, by the thread that made it.
pub fn race(
    store: &Store,
    seed: u64,
    thread_count: u64,
    call_count: u64,
    acknowledged: &(dyn Fn(u64) -> Verdict + Sync),
) -> Verdict<Vec<Call>> {
    let clock = AtomicU64::new(0);
    let clock = &clock;
    std::thread::scope(|scope| {
        let racers: Vec<_> = (0..thread_count)
            .map(|thread| {
                let racer = Racer {
                    store,
                    acknowledged,
                    clock,
                    thread,
                    dice: Dice::new(super::mix(&[seed, thread])),
                    seen: BTreeMap::new(),
                };
                scope.spawn(move || super::caught(|| racer.run(call_count)))
            })
            .collect();
        let mut history = Vec::new();
        for racer in racers {
            history.extend(racer.join().map_err(|_| "a racer panicked".to_owned())??);
        }
        Ok(history)
    })
}

struct Racer<'a> {
    store: &'a Store,
    acknowledged: &'a (dyn Fn(u64) -> Verdict + Sync),
    clock: &'a AtomicU64,
    thread: u64,
    dice: Dice,
    /// What each pointer was when this thread last knew.
    seen: BTreeMap<Vec<u8>, Option<Digest>>,
}

impl Racer<'_> {
    fn run(mut self, call_count: u64) -> Verdict<Vec<Call>> {
        let mut calls = Vec::new();
        for number in 0..call_count {
            let begin = self.now();
            let Some(did) = self.call(number)? else { break };
            let lost = matches!(did, Did::Lost { .. });
            // A commit whose reply was lost has not ended as long as anyone can tell.
            let end = if lost { u64::MAX } else { self.now() };
            if let Did::Committed { id, .. } = did {
                (self.acknowledged)(id)?;
            }
            calls.push(Call { begin, end, did });
            if lost {
                break;
            }
        }
        Ok(calls)
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// `None`: an error ended this thread's work before it began anything.
    fn call(&mut self, number: u64) -> Verdict<Option<Did>> {
        match self.dice.below(10) {
            0..=5 => self.commit(number),
            6..=8 => {
                let name = self.dice.one_of(&NAMES).to_vec();
                let current = match self.store.pointer(&name) {
                    Ok(current) => current,
                    Err(error) => return crashed(&told(&error)),
                };
                self.seen.insert(name.clone(), current);
                Ok(Some(Did::Saw { name, current }))
            }
            _ => {
                let snapshot = self.store.snapshot();
                let pointers = match shown(&snapshot) {
                    Ok(pointers) => pointers,
                    Err(seen) => return crashed(&seen),
                };
                for name in NAMES {
                    self.seen.insert(name.to_vec(), pointers.get(name).copied());
                }
                Ok(Some(Did::SawAll { id: snapshot.commit().0, pointers }))
            }
        }
    }

    /// Sets or deletes one pointer or two, mostly on condition that they are what was last seen.
    fn commit(&mut self, number: u64) -> Verdict<Option<Did>> {
        // Some are so long that they are written at once, while others sync.
        let times = if self.dice.once_in(3) { 40 } else { 1 };
        let value = format!("value {number} of thread {}", self.thread).repeat(times);
        let Ok(put) = self.store.put(value.as_bytes()) else { return Ok(None) };
        let mut edit = Edit::default();
        let first = self.dice.below(NAMES.len());
        for name in NAMES.iter().cycle().skip(first).take(1 + self.dice.below(2)) {
            let to = if self.dice.once_in(6) { None } else { Some(put.digest) };
            edit.changes.push((name.to_vec(), to));
            if !self.dice.once_in(4) {
                let seen = self.seen.get(*name).copied().flatten();
                edit.requires.push((name.to_vec(), seen));
            }
        }
        match self.store.commit(edit.batch()) {
            Ok(id) => {
                self.seen.extend(edit.changes.iter().cloned());
                Ok(Some(Did::Committed { id: id.0, edit }))
            }
            Err(Error::PreconditionFailed { name, expected, current }) => {
                self.seen.insert(name.to_vec(), current);
                let asked = edit.requires.iter().any(|(n, e)| *n == name[..] && *e == expected);
                ensure!(asked, "a precondition failed that was not asked for: {name:?}");
                Ok(Some(Did::Refused { name: name.to_vec(), expected, current }))
            }
            Err(error @ Error::ValueMissing { .. }) => Err(told(&error)),
            Err(_) => Ok(Some(Did::Lost { edit })),
        }
    }
}

/// A read that failed ends a thread's work if the machine is gone; otherwise it must not.
fn crashed(seen: &str) -> Verdict<Option<Did>> {
    ensure!(seen.contains("the simulated machine has crashed"), "a read failed: {seen}");
    Ok(None)
}

/// Whether a commit is there after a power loss at this instant that takes all it can, with all
/// that pointers name.
pub fn survives(id: u64, disk: &SimDisk, builder: StoreBuilder) -> Verdict {
    if disk.crashed() {
        return Ok(());
    }
    let image = disk.after_crash(CrashState::Nothing);
    let store = builder.open_on(image as Arc<dyn Disk>).map_err(|error| told(&error))?;
    let snapshot = store.snapshot();
    ensure!(
        snapshot.commit().0 >= id,
        "commit {id} was acknowledged; a crash just then leaves {}",
        snapshot.commit()
    );
    for digest in shown(&snapshot)?.values() {
        let found = store.get_verified(digest, Verify::Digest).map_err(|error| told(&error))?;
        ensure!(found.is_some(), "a pointer dangles: {digest}");
    }
    Ok(())
}

/// Whether these calls can have happened one after the other, ending in `pointers` after commit
/// number `last`.
pub fn check(history: &[Call], last: u64, pointers: &Pointers) -> Verdict {
    let mut acknowledged = BTreeMap::new();
    let mut lost = Vec::new();
    for call in history {
        match &call.did {
            Did::Committed { id, edit } => {
                ensure!(*id <= last, "commit {id} was acknowledged; the store ends at {last}");
                let other = acknowledged.insert(*id, (call, edit));
                ensure!(other.is_none(), "two commits have number {id}");
            }
            Did::Lost { edit } => lost.push((call, edit)),
            _ => {}
        }
    }
    let search = Search { history, acknowledged, lost, last, pointers };
    let mut order = Order { after: vec![Pointers::new()], calls: Vec::new() };
    let mut why = "no order explains the history".to_owned();
    if search.fill(&mut order, &mut BTreeSet::new(), &mut why) { Ok(()) } else { Err(why) }
}

struct Search<'a> {
    history: &'a [Call],
    acknowledged: BTreeMap<u64, (&'a Call, &'a Edit)>,
    lost: Vec<(&'a Call, &'a Edit)>,
    last: u64,
    pointers: &'a Pointers,
}

/// Commits in order of their numbers, and the pointers before the first and after each.
struct Order<'a> {
    after: Vec<Pointers>,
    calls: Vec<&'a Call>,
}

impl<'a> Search<'a> {
    /// Places the commit after those that `order` has, in all ways that there are.
    fn fill(&self, order: &mut Order<'a>, used: &mut BTreeSet<usize>, why: &mut String) -> bool {
        if order.calls.len() as u64 == self.last {
            return match self.judge(order) {
                Ok(()) => true,
                Err(seen) => {
                    *why = seen;
                    false
                }
            };
        }
        let number = order.calls.len() as u64 + 1;
        if let Some((call, edit)) = self.acknowledged.get(&number) {
            return self.place(order, call, edit, used, why);
        }
        (0..self.lost.len()).any(|index| {
            let (call, edit) = self.lost[index];
            if !used.insert(index) {
                return false;
            }
            let placed = self.place(order, call, edit, used, why);
            used.remove(&index);
            placed
        })
    }

    fn place(
        &self,
        order: &mut Order<'a>,
        call: &'a Call,
        edit: &Edit,
        used: &mut BTreeSet<usize>,
        why: &mut String,
    ) -> bool {
        let now = order.after.last().expect("it begins with one");
        let number = order.after.len();
        if !edit.holds_on(now) {
            *why = format!("commit {number} required what was not so: {edit:?} on {now:?}");
            return false;
        }
        if let Some(later) = order.calls.iter().position(|earlier| call.end < earlier.begin) {
            let earlier = later + 1;
            *why = format!("commit {number} ended before commit {earlier} began");
            return false;
        }
        order.after.push(edit.applied_to(now));
        order.calls.push(call);
        let filled = self.fill(order, used, why);
        order.after.pop();
        order.calls.pop();
        filled
    }

    /// Whether the end and all reads agree with this order.
    fn judge(&self, order: &Order<'_>) -> Verdict {
        let end = order.after.last().expect("it begins with one");
        ensure!(end == self.pointers, "the end is {:?}, it should be {end:?}", self.pointers);
        let mut reads: Vec<&Call> = self
            .history
            .iter()
            .filter(|call| !matches!(call.did, Did::Committed { .. } | Did::Lost { .. }))
            .collect();
        reads.sort_unstable_by_key(|call| call.begin);
        let mut seen: Vec<(u64, usize)> = Vec::new();
        for read in reads {
            let ended = order.calls.iter().rposition(|call| call.end < read.begin);
            let begun = order.calls.iter().position(|call| call.begin > read.end);
            let earlier = seen.iter().filter(|(end, _)| *end < read.begin).map(|(_, at)| *at).max();
            let from = ended.map_or(0, |index| index + 1).max(earlier.unwrap_or(0));
            let to = begun.unwrap_or(order.calls.len());
            let place = (from..=to).find(|at| is_true(&read.did, *at, &order.after[*at]));
            let Some(place) = place else {
                return Err(format!("{read:?} is not so after any of the commits {from} to {to}"));
            };
            seen.push((read.end, place));
        }
        Ok(())
    }
}

/// Whether a read is true after so many commits.
fn is_true(did: &Did, after: usize, pointers: &Pointers) -> bool {
    match did {
        Did::Saw { name, current } => pointers.get(name) == current.as_ref(),
        Did::Refused { name, expected, current } => {
            expected != current && pointers.get(name) == current.as_ref()
        }
        Did::SawAll { id, pointers: all } => *id == after as u64 && all == pointers,
        Did::Committed { .. } | Did::Lost { .. } => true,
    }
}
