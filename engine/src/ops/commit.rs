//! commit: targets resolved (caller's thread) -> a group -> both logs written -> one sync, of the pointer
//! log with what it carries, or both synced with one wait -> published -> everyone told.
//!
//! 1. A commit joins the queue. If nobody leads, its thread does; otherwise it waits until a
//!    leader has its result, or one of those who wait is to lead. Who joined between two groups is told at once.
//! 2. The leader takes the queue as one group and decides each commit in turn against what is
//!    durable and what the group changes so far. Nothing else changes pointers meanwhile, so no
//!    commit ever observes what could still be undone (P2).
//! 3. It writes the blob log out, and appends one frame with all the group's commits to the pointer log.
//!    What the commits depend on and is not safe yet the frame carries, if it is little: then one sync,
//!    of the pointer log, does. Otherwise both logs are synced at once; the frame says how far the blob
//!    log must be whole for it to count, so the syncs need no order.
//! 4. It publishes the group and tells everyone, refused ones included: what they observed is
//!    durable now.
//!
//! - C1: a commit is acknowledged, and seen by readers, only after these syncs.
//! - C2: commits are numbered densely, in the order of the log.
//! - C3: a group fails as one, and then changed nothing: `NoSpace` if that is durable, else
//!   `Indeterminate`, and writing has ended (P6).

mod frame;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pinstone_compaction::run::Names;
use pinstone_disk::codec::size;
use pinstone_disk::env::{Announced, MutexGuard};
use pinstone_disk::planted::{self, Bug};
use pinstone_disk::{CommitId, Digest};
use pinstone_wal::{
    Appender, CARRIED_BYTES_MAX, Carried, Change, CommitRecord, LogPosition, SyncRound, WalError,
};

use self::frame::{Appended, ahead_bytes, append, sync};
pub(crate) use self::frame::{end_segment, tail_bytes, testify};
use crate::batch::{Batch, Parts};
use crate::error::{Error, Result};
use crate::maintain;
use crate::ops::{compact, get, lookup, put};
use crate::options::Verify;
use crate::state::inner::{CommitQueue, Gathering, Inner, PointerLog, Ticket, count};

/// Bytes of commits after which a group takes no more.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Makes the batch's changes, all or none; durable on return.
pub(crate) fn commit(inner: &Inner, batch: Batch) -> Result<CommitId> {
    let parts = batch.into_parts()?;
    let (max, found) = (inner.options.commit_bytes_max, encoded_bytes(&parts) as u64);
    if found > max {
        return Err(Error::Limit { what: "a commit's length in bytes", max, found });
    }
    inner.writer.poison.check()?;
    let depends = resolve(inner, &parts)?;
    if parts.changes.values().any(Option::is_some) {
        inner.begin_appending()?;
    }
    let (gathering, place, mut leads) = join(inner, parts, depends);
    loop {
        if leads {
            lead(inner);
        }
        if let Some(result) = wait(&gathering, place) {
            return result;
        }
        leads = true;
    }
}

/// Joins the queue: where to wait, the place there, and whether to lead first.
fn join(
    inner: &Inner,
    parts: Parts,
    depends: LogPosition,
) -> (Arc<Announced<Gathering>>, usize, bool) {
    let mut queue = inner.commits.lock();
    let (gathering, place) = (Arc::clone(&queue.gathering), queue.joined);
    queue.joined += 1;
    let ticket = Ticket { parts, depends, gathering: Arc::clone(&gathering), place };
    queue.waiting.push_back(ticket);
    (gathering, place, !std::mem::replace(&mut queue.leading, true))
}

/// Bytes of the commit's record, at most.
fn encoded_bytes(parts: &Parts) -> usize {
    let changes = parts.changes.keys().map(|name| CommitRecord::change_bytes_max(name.len()));
    CommitRecord::HEAD_BYTES_MAX + changes.sum::<usize>()
}

/// The position of the last value that the batch points at.
fn resolve(inner: &Inner, parts: &Parts) -> Result<LogPosition> {
    let mut depends = LogPosition::START;
    for digest in parts.changes.values().flatten() {
        let mut found = lookup::intact(inner, digest);
        if !matches!(found, Ok(Some(_))) {
            match get::read(inner, digest, Verify::Digest) {
                // No copy is to be relied on but one that it takes anew: hashed, as what is put is.
                Ok(Some(value)) => {
                    put::store(inner, *digest, &value)?;
                    found = lookup::intact(inner, digest);
                }
                // It is held, and cannot be had now.
                Err(error @ Error::Io { .. }) => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        let place = found?.ok_or(Error::ValueMissing { digest: *digest })?;
        depends = depends.max(place.position());
    }
    Ok(depends)
}

/// Waits for the result of the commit that has this place; `None` if its thread is to lead.
fn wait(gathering: &Announced<Gathering>, place: usize) -> Option<Result<CommitId>> {
    gathering.wait(|state| {
        if let Some(result) = state.results.get_mut(place).and_then(Option::take) {
            return Some(Some(result));
        }
        if state.panicked {
            return Some(Some(Err(Error::Indeterminate { cause: PANICKED.to_owned() })));
        }
        std::mem::take(&mut state.lead).then_some(None)
    })
}

const PANICKED: &str = "a commit panicked";

/// Answers everyone if the leader's thread panics: what it was doing is not known, and nobody else
/// would lead.
struct Leading<'a> {
    inner: &'a Inner,
    /// Where those wait whom its group consists of.
    gatherings: Vec<Arc<Announced<Gathering>>>,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let _ = self.inner.writer.poison.set(PANICKED);
        // At once: who joins after this leads, and finds that writing has ended.
        let waiting = {
            let mut queue = self.inner.commits.lock();
            queue.leading = false;
            queue.begin_gathering();
            std::mem::take(&mut queue.waiting)
        };
        let waiting = waiting.into_iter().map(|ticket| ticket.gathering);
        for gathering in self.gatherings.drain(..).chain(waiting) {
            gathering.tell_all(|state| state.panicked = true);
        }
    }
}

/// Commits one group, then hands the lead on.
fn lead(inner: &Inner) {
    let mut leading = Leading { inner, gatherings: Vec::new() };
    let (mut log, has_room) = lock_log(inner);
    let mut group = Group::take(inner);
    leading.gatherings = group.gatherings();
    let mut outcome = match has_room.and_then(|()| group.ask_for_reserve(inner)) {
        Ok(()) => group.commit(inner, &mut log),
        Err(error) => Err(error.into()),
    };
    if let Err(GroupError::NotHappened(Error::NoSpace { .. })) = outcome {
        // Deletions go on with what is set aside for them.
        let deletions = group.take_deletions();
        group.tell(inner, &outcome);
        group = deletions;
        outcome = group.commit_with_reserve(inner, &mut log);
    }
    drop(log);
    group.tell(inner, &outcome);
    let mut queue = inner.commits.lock();
    match queue.waiting.front() {
        Some(next) => next.gathering.tell_one(|state| state.lead = true),
        None => queue.leading = false,
    }
}

/// The pointer log, and whether it may go on in a further segment if a group needs one: not while a
/// full one is unsealed, which is sealed first, or too many memtables wait, which are flushed.
fn lock_log(inner: &Inner) -> (MutexGuard<'_, PointerLog>, Result<()>) {
    loop {
        let log = inner.pointer_log.lock();
        let is_behind = log.is_behind() || inner.pointers.frozen_count() >= compact::FROZEN_MAX;
        if !is_behind || !is_nearly_full(inner, &log) {
            return (log, Ok(()));
        }
        drop(log);
        if let Err(error) = maintain::seal_behind::<Names>(inner) {
            return (inner.pointer_log.lock(), Err(error));
        }
    }
}

/// A group may need a further segment of the pointer log.
fn is_nearly_full(inner: &Inner, log: &PointerLog) -> bool {
    let max = inner.options.pointer_segment_bytes;
    let group_bytes = GROUP_BYTES_MAX + size(CARRIED_BYTES_MAX);
    let is_full = |appender: &Appender| {
        let active = appender.segment().header.ordinal;
        appender.sealed_bytes_with(group_bytes) > max || frame::is_memory_full(inner, active)
    };
    log.appender.as_ref().is_some_and(is_full)
}

/// Commits decided and made durable together.
struct Group {
    members: Vec<Member>,
    /// What the group changes so far.
    changed: BTreeMap<Bytes, Option<Digest>>,
    depends: LogPosition,
    /// Nothing is reserved ahead of what is written.
    is_frugal: bool,
}

/// How the values that a group depends on become safe.
enum Values<'a> {
    /// They are.
    Safe,
    /// The group's frame carries them.
    Carried(Carried),
    /// Their files are synced beside the pointer log's.
    Synced(SyncRound<'a>),
}

struct Member {
    ticket: Ticket,
    /// Decided: its number, or why not.
    decision: Result<CommitId>,
}

impl Group {
    fn take(inner: &Inner) -> Self {
        let mut group = Self::of(Vec::new());
        let mut bytes = 0;
        let mut queue = inner.commits.lock();
        while bytes < GROUP_BYTES_MAX
            && let Some(ticket) = queue.waiting.pop_front()
        {
            bytes += encoded_bytes(&ticket.parts);
            group.members.push(Member { ticket, decision: Ok(CommitId::NONE) });
        }
        queue.begin_gathering();
        group
    }

    /// Who sets pointers asked for the reserve before it joined the queue; a group of deletions before
    /// this one may have been given some of it since. Whoever gives back holds the pointer log's lock,
    /// as this does.
    fn ask_for_reserve(&self, inner: &Inner) -> Result<()> {
        let sets = |member: &Member| member.ticket.parts.changes.values().any(Option::is_some);
        if !inner.reserve.is_whole() && self.members.iter().any(sets) {
            maintain::hold_reserve(inner)?;
        }
        Ok(())
    }

    /// The members that only delete, as a group of their own.
    fn take_deletions(&mut self) -> Self {
        let deletes =
            |member: &mut Member| member.ticket.parts.changes.values().all(|to| to.is_none());
        let members = self.members.extract_if(.., deletes).collect();
        Self::of(members)
    }

    fn of(members: Vec<Member>) -> Self {
        let (changed, depends) = (BTreeMap::new(), LogPosition::START);
        Self { members, changed, depends, is_frugal: false }
    }

    /// As [`Group::commit`], with what recovery would not need of the reserve if there is no space
    /// otherwise. What it commits recovery does not need to copy, since it is testified to.
    fn commit_with_reserve(
        &mut self,
        inner: &Inner,
        log: &mut PointerLog,
    ) -> Result<(), GroupError> {
        self.is_frugal = true;
        let group_bytes =
            self.members.iter().map(|member| encoded_bytes(&member.ticket.parts)).sum();
        let ahead_bytes = |log: &PointerLog| ahead_bytes(log, group_bytes);
        maintain::with_reserve(inner, log, ahead_bytes, |log| {
            self.changed.clear();
            match self.commit(inner, log) {
                Err(GroupError::NotHappened(error)) => Err(error),
                outcome => Ok(outcome),
            }
        })?
    }

    /// Decides, writes, syncs and publishes; an error is every accepted member's.
    fn commit(&mut self, inner: &Inner, log: &mut PointerLog) -> Result<(), GroupError> {
        self.decide(inner);
        if self.accepted().next().is_none() {
            return Ok(());
        }
        inner.writer.poison.check()?;
        if log.closed {
            return Err(Error::Poisoned { cause: "it was closed".to_owned() }.into());
        }
        inner.begin_writing()?;
        let (values, upto) = self.values(inner)?;
        let depends_upto = log.depends_upto.max(upto);
        let records = self.records(depends_upto);
        let (carried, round) = match values {
            Values::Safe => (None, None),
            Values::Carried(carried) => (Some(carried), None),
            Values::Synced(round) => (None, Some(round)),
        };
        let unwritten = planted::is(Bug::AckBeforeWrite);
        let appended = if unwritten {
            Ok(Appended { is_tight: false, carried_upto_bytes: 0 })
        } else {
            append(inner, log, &records, carried.as_ref(), self.is_frugal)
        };
        let Appended { is_tight, carried_upto_bytes } = match appended {
            Ok(appended) => appended,
            Err(error) => {
                if let Some(round) = round {
                    round.abandon();
                }
                return Err(error);
            }
        };
        if unwritten || planted::is(Bug::AckBeforeSync) {
            if let Some(round) = round {
                round.abandon();
            }
            self.publish(inner, records);
            return Ok(());
        }
        sync(inner, log, round)?;
        if let Some(carried) = carried {
            let appender = log.appender.as_ref().expect("the frame is in it");
            let offset_bytes = carried_upto_bytes - carried.len_bytes();
            inner.carried.note(&carried, appender.segment(), offset_bytes);
            inner.blob.note_carried(carried);
        }
        if is_tight || !inner.reserve.is_whole() {
            // It is durable; and the space to copy it may not be there later.
            if let Err(error) =
                maintain::with_reserve(inner, log, |_| 0, |_| maintain::testify(inner))
            {
                tracing::warn!(%error, "a deletion is not testified to");
            }
        }
        log.depends_upto = depends_upto;
        self.publish(inner, records);
        Ok(())
    }

    /// How the values that the group depends on become safe, and the position up to which the blob log must
    /// be whole then.
    fn values<'a>(&self, inner: &'a Inner) -> Result<(Values<'a>, LogPosition), GroupError> {
        if self.depends == LogPosition::START {
            return Ok((Values::Safe, LogPosition::START));
        }
        let safe_upto = inner.blob.safe_upto();
        if safe_upto > self.depends {
            return Ok((Values::Safe, safe_upto));
        }
        // Not what would make the frame longer than a segment should be, nor where space is short.
        let share_bytes = inner.options.pointer_segment_bytes / 4;
        let may_carry = !self.is_frugal
            && inner.reserve.is_whole()
            && self
                .members
                .iter()
                .map(|member| encoded_bytes(&member.ticket.parts) as u64)
                .sum::<u64>()
                <= share_bytes;
        if may_carry
            && let Some(carried) =
                inner.blob.carry(self.depends, CARRIED_BYTES_MAX.min(share_bytes))?
        {
            let upto = carried.upto;
            return Ok((Values::Carried(carried), upto));
        }
        let round = inner.blob.begin_round_covering(self.depends)?;
        let upto = round.upto();
        Ok((Values::Synced(round), upto))
    }

    fn accepted(&self) -> impl Iterator<Item = (&Member, CommitId)> {
        self.members.iter().filter_map(|member| Some((member, *member.decision.as_ref().ok()?)))
    }

    /// Decides each commit in turn: those before it in the group count as made.
    fn decide(&mut self, inner: &Inner) {
        let mut id = inner.pointers.last_commit();
        for member in &mut self.members {
            let current = |name: &Bytes| match self.changed.get(name) {
                Some(changed) => Ok(*changed),
                None => inner.pointers.current(name),
            };
            let failed = member.ticket.parts.requires.iter().find_map(|(name, expected)| {
                let expected = *expected;
                match current(name) {
                    Ok(current) if current == expected => None,
                    Ok(current) => {
                        let name = name.clone();
                        Some(Error::PreconditionFailed { name, expected, current })
                    }
                    Err(error) => Some(error),
                }
            });
            if let Some(error) = failed {
                member.decision = Err(error);
                continue;
            }
            id = id.next();
            member.decision = Ok(id);
            self.depends = self.depends.max(member.ticket.depends);
            let changes = member.ticket.parts.changes.iter().map(|(name, to)| (name.clone(), *to));
            self.changed.extend(changes);
        }
    }

    fn records(&self, depends_upto: LogPosition) -> Vec<CommitRecord> {
        let record = |(member, id): (&Member, CommitId)| CommitRecord {
            id,
            depends_upto,
            changes: member
                .ticket
                .parts
                .changes
                .iter()
                .map(|(name, to)| Change { name: name.clone(), to: *to })
                .collect(),
        };
        self.accepted().map(record).collect()
    }

    fn publish(&self, inner: &Inner, records: Vec<CommitRecord>) {
        count(&inner.counters.commit_group, 1);
        count(&inner.counters.commit, records.len() as u64);
        for record in records {
            inner.pointers.apply(record);
        }
    }

    fn tell(self, inner: &Inner, outcome: &Result<(), GroupError>) {
        if outcome.is_ok() {
            let is_refused =
                |member: &&Member| matches!(member.decision, Err(Error::PreconditionFailed { .. }));
            let refused_count = self.members.iter().filter(is_refused).count();
            count(&inner.counters.commit_refused, refused_count as u64);
        }
        let mut members = self.members.into_iter().peekable();
        while let Some(first) = members.next() {
            let gathering = Arc::clone(&first.ticket.gathering);
            gathering.tell_all(|state| {
                state.answer(first, outcome);
                let is_here = |member: &Member| Arc::ptr_eq(&member.ticket.gathering, &gathering);
                while let Some(member) = members.next_if(is_here) {
                    state.answer(member, outcome);
                }
            });
        }
    }

    /// Where its members' threads wait, mostly at one place.
    fn gatherings(&self) -> Vec<Arc<Announced<Gathering>>> {
        let mut gatherings: Vec<_> =
            self.members.iter().map(|member| Arc::clone(&member.ticket.gathering)).collect();
        gatherings.dedup_by(|next, last| Arc::ptr_eq(next, last));
        gatherings
    }
}

impl Gathering {
    fn answer(&mut self, member: Member, outcome: &Result<(), GroupError>) {
        let result = match (outcome, member.decision) {
            // What a refused commit observed may be what the group failed to make durable.
            (Err(error), _) => Err(error.for_one()),
            (Ok(()), decision) => decision,
        };
        let place = member.ticket.place;
        if self.results.len() <= place {
            self.results.resize_with(place + 1, || None);
        }
        self.results[place] = Some(result);
    }
}

impl CommitQueue {
    /// Who joins from here on is told together.
    fn begin_gathering(&mut self) {
        self.gathering = Arc::default();
        self.joined = 0;
    }
}

/// Why a group failed.
enum GroupError {
    /// None of it happened.
    NotHappened(Error),
    /// It may be found after reopening, or not.
    Indeterminate { cause: String },
}

impl GroupError {
    fn from_append(error: WalError) -> Self {
        match error {
            WalError::Disk(_) => Self::NotHappened(error.into()),
            // Its bytes may be there, and could not be taken back.
            error => Self::indeterminate(error),
        }
    }

    fn indeterminate(error: WalError) -> Self {
        match error {
            WalError::Poisoned { cause } => Self::Indeterminate { cause },
            error => Self::Indeterminate { cause: error.to_string() },
        }
    }

    /// The error for one of the group's members.
    fn for_one(&self) -> Error {
        match self {
            Self::Indeterminate { cause } => Error::Indeterminate { cause: cause.clone() },
            Self::NotHappened(error) => error.clone(),
        }
    }
}

impl<E: Into<Error>> From<E> for GroupError {
    fn from(error: E) -> Self {
        Self::NotHappened(error.into())
    }
}

/// After a commit of so many changes: full segments of the pointer log are maintenance's.
pub(crate) fn after(inner: &Inner, change_count: u64) {
    if let Err(error) = maintain::after_writes(inner, change_count) {
        tracing::warn!(%error, "maintenance failed");
    }
}
