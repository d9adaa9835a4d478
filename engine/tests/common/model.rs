//! What a store must hold: plain maps, and the rules of the promises. Knows nothing of logs.
//!
//! The model remembers the pointers after each commit that was acknowledged or may have happened,
//! and for each value what was promised of it. Every reply goes through it, and after each
//! opening [`Model::survey`] compares all that the store shows:
//!
//! - M1: the pointers are those after some commit between the last acknowledged and the last that
//!   may have happened, never a mixture, and the store tells that commit's number.
//! - M2: numbers are dense: the n-th commit that happened has number n.
//! - M3: what every pointer names is readable, with the right bytes.
//! - M4: a value that a successful sync or commit covers is there; any other is there with the
//!   right bytes, or wholly absent, in all ways of asking alike.
//! - M5: what an opened store shows has been made durable by opening it, so it counts as
//!   acknowledged from then on.

use std::collections::BTreeMap;
use std::sync::Arc;

use pinstone::{
    Batch, Bytes, CheckOptions, CommitId, Digest, Error, Put, Result, Snapshot, Store, Verify,
};

use super::{Verdict, ensure, told};

/// Names and where they point.
pub type Pointers = BTreeMap<Vec<u8>, Digest>;

/// A batch as plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    pub changes: Vec<(Vec<u8>, Option<Digest>)>,
    pub requires: Vec<(Vec<u8>, Option<Digest>)>,
}

impl Edit {
    pub fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        for (name, to) in &self.changes {
            batch = match to {
                Some(digest) => batch.set(name, *digest),
                None => batch.delete(name),
            };
        }
        for (name, current) in &self.requires {
            batch = batch.require(name, *current);
        }
        batch
    }

    pub fn holds_on(&self, pointers: &Pointers) -> bool {
        self.requires.iter().all(|(name, current)| pointers.get(name) == current.as_ref())
    }

    pub fn applied_to(&self, pointers: &Pointers) -> Pointers {
        let mut after = pointers.clone();
        for (name, to) in &self.changes {
            match to {
                Some(digest) => after.insert(name.clone(), *digest),
                None => after.remove(name),
            };
        }
        after
    }

    fn targets(&self) -> impl Iterator<Item = &Digest> {
        self.changes.iter().filter_map(|(_, to)| to.as_ref())
    }
}

/// What was promised of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Promise {
    /// The store said that it is not there.
    Absent,
    /// A put of it failed, or the process died after one.
    Maybe,
    /// It was put, and will be there while this process lives.
    WhileOpen,
    /// It will be there after any crash.
    Durable,
}

#[derive(Clone, Debug)]
struct Value {
    bytes: Bytes,
    promise: Promise,
}

/// What a store must hold.
#[derive(Clone, Debug)]
pub struct Model {
    /// After each commit that happened or may have, from none on.
    after: Vec<Arc<Pointers>>,
    /// The last commit that must be there.
    acknowledged: usize,
    values: BTreeMap<Digest, Value>,
}

impl Default for Model {
    fn default() -> Self {
        Self { after: vec![Arc::default()], acknowledged: 0, values: BTreeMap::new() }
    }
}

impl Model {
    /// The pointers as the living store must show them.
    pub fn pointers(&self) -> &Pointers {
        &self.after[self.acknowledged]
    }

    /// How many commits there must be at least.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// The value, if it was ever put.
    pub fn bytes(&self, digest: &Digest) -> Option<&Bytes> {
        self.values.get(digest).map(|value| &value.bytes)
    }

    /// A put of `bytes` was answered.
    pub fn put(&mut self, bytes: &Bytes, reply: &Result<Put>) -> Verdict {
        let promise = self.promise(&Digest::of(bytes));
        if let Ok(put) = reply {
            ensure!(
                !put.new || promise <= Promise::Maybe,
                "put of {}, which is {promise:?}, said new: true",
                put.digest
            );
        }
        self.put_again(bytes, reply)
    }

    /// The same, where what is there may have been written again.
    pub fn put_again(&mut self, bytes: &Bytes, reply: &Result<Put>) -> Verdict {
        let digest = Digest::of(bytes);
        let value = self
            .values
            .entry(digest)
            .or_insert_with(|| Value { bytes: bytes.clone(), promise: Promise::Absent });
        match reply {
            Ok(put) => {
                ensure!(put.digest == digest, "put of {digest} returned {}", put.digest);
                ensure!(
                    put.new || value.promise >= Promise::Maybe,
                    "put of {digest}, which is {:?}, said new: false",
                    value.promise
                );
                value.promise = value.promise.max(Promise::WhileOpen);
            }
            Err(_) => value.promise = value.promise.max(Promise::Maybe),
        }
        Ok(())
    }

    /// A sync was answered.
    pub fn sync(&mut self, reply: &Result<()>) {
        if reply.is_ok() {
            for value in self.values.values_mut() {
                if value.promise == Promise::WhileOpen {
                    value.promise = Promise::Durable;
                }
            }
        }
    }

    /// A commit was answered. `crashed`: nobody heard the answer if it was an error.
    pub fn commit(&mut self, edit: &Edit, reply: &Result<CommitId>, crashed: bool) -> Verdict {
        let now = Arc::clone(&self.after[self.acknowledged]);
        match reply {
            Ok(id) => {
                ensure!(edit.holds_on(&now), "commit {id} was made against its precondition");
                let expected = self.acknowledged + 1;
                ensure!(id.0 == expected as u64, "commit {id} should have number {expected}");
                ensure!(
                    self.after.len() == expected,
                    "commit {id} was acknowledged after one of unknown outcome"
                );
                for digest in edit.targets() {
                    let value = self.values.get_mut(digest);
                    let value = value.filter(|value| value.promise > Promise::Absent);
                    let Some(value) = value else {
                        return Err(format!("commit {id} names the absent value {digest}"));
                    };
                    value.promise = Promise::Durable;
                }
                self.after.push(Arc::new(edit.applied_to(&now)));
                self.acknowledged = expected;
            }
            Err(Error::PreconditionFailed { name, expected, current }) => {
                let asked = edit.requires.iter().any(|(n, e)| n == name && e == expected);
                ensure!(asked, "a precondition failed that was not asked for: {name:?}");
                ensure!(
                    now.get(&name[..]) == current.as_ref() && current != expected,
                    "precondition on {name:?}: {current:?} told, it is {:?}",
                    now.get(&name[..])
                );
            }
            Err(Error::ValueMissing { digest }) => {
                ensure!(edit.targets().any(|to| to == digest), "{digest} was not asked for");
                ensure!(
                    self.promise(digest) <= Promise::Maybe,
                    "{digest} is {:?} but was called missing",
                    self.promise(digest)
                );
            }
            Err(error) if crashed || matches!(error, Error::Indeterminate { .. }) => {
                // It cannot have happened if what it needs was not so.
                let known = edit.targets().all(|to| self.promise(to) > Promise::Absent);
                if edit.holds_on(&now) && known {
                    ensure!(
                        self.after.len() == self.acknowledged + 1,
                        "a second commit in a row is of unknown outcome: {}",
                        told(error)
                    );
                    self.may_commit(edit);
                }
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// This commit may have happened, and nobody knows.
    pub fn may_commit(&mut self, edit: &Edit) {
        let now = Arc::clone(&self.after[self.acknowledged]);
        self.after.push(Arc::new(edit.applied_to(&now)));
    }

    /// A value was read.
    pub fn got(&self, digest: &Digest, found: Option<&Bytes>) -> Verdict {
        let value = &self.values[digest];
        match found {
            Some(bytes) => ensure!(*bytes == value.bytes, "{digest} has wrong bytes"),
            None => {
                ensure!(value.promise <= Promise::Maybe, "{:?} {digest} is gone", value.promise);
            }
        }
        Ok(())
    }

    /// The process died, or a write failed that others waited behind: what was promised only
    /// while all goes well is open again.
    pub fn die(&mut self) {
        for value in self.values.values_mut() {
            if value.promise == Promise::WhileOpen {
                value.promise = Promise::Maybe;
            }
        }
    }

    /// Appends all that it judges by: two models judge alike that append the same.
    pub fn tell(&self, to: &mut Vec<u8>) {
        let Self { after, acknowledged, values } = self;
        to.extend(
            format!("\n{acknowledged} of {}, {} values\n", after.len(), values.len()).bytes(),
        );
        for pointers in after {
            to.extend(pointers.len().to_le_bytes());
            for (name, digest) in pointers.iter() {
                to.extend(name.len().to_le_bytes());
                to.extend(name);
                to.extend(digest.as_bytes());
            }
        }
        for (digest, value) in values {
            to.extend(digest.as_bytes());
            to.push(value.promise as u8);
        }
    }

    fn promise(&self, digest: &Digest) -> Promise {
        self.values.get(digest).map_or(Promise::Absent, |value| value.promise)
    }

    /// Compares a store just opened with the model (M1 to M4), and settles what was open (M5).
    pub fn survey(&mut self, store: &Store) -> Verdict {
        let snapshot = store.snapshot();
        let found = usize::try_from(snapshot.commit().0).expect("commits are few");
        ensure!(
            self.possible().contains(&found),
            "the last commit is {found}, not in {:?}",
            self.possible()
        );
        let pointers = shown(&snapshot)?;
        ensure!(
            pointers == *self.after[found],
            "after commit {found} there should be {:?}, there is {pointers:?}",
            self.after[found]
        );
        for name in self.after.iter().flat_map(|pointers| pointers.keys()) {
            let one = store.pointer(name).map_err(|error| told(&error))?;
            ensure!(one.as_ref() == pointers.get(name), "{name:?} alone points at {one:?}");
        }
        self.after.truncate(found + 1);
        self.acknowledged = found;
        for digest in pointers.values() {
            let value = self.values.get_mut(digest);
            value.ok_or(format!("a pointer names the unknown {digest}"))?.promise =
                Promise::Durable;
        }
        for (digest, value) in &mut self.values {
            value.promise = match read(store, digest)? {
                Some(bytes) => {
                    ensure!(bytes == value.bytes, "{digest} has wrong bytes");
                    Promise::Durable
                }
                None => {
                    ensure!(
                        value.promise <= Promise::Maybe,
                        "{:?} {digest} is gone",
                        value.promise
                    );
                    Promise::Absent
                }
            };
        }
        Ok(())
    }

    /// The commits that there may be.
    fn possible(&self) -> std::ops::Range<usize> {
        self.acknowledged..self.after.len()
    }

    /// The same comparison for a store with a damaged file: whatever is damaged is an error that
    /// names the file, and everything else is right. How many values are damaged.
    pub fn survey_damaged(&self, store: &Store, file: &str) -> Verdict<u64> {
        let snapshot = store.snapshot();
        let found = usize::try_from(snapshot.commit().0).expect("commits are few");
        ensure!(
            self.possible().contains(&found),
            "the last commit is {found}, not in {:?}",
            self.possible()
        );
        let pointers = &self.after[found];
        let mut damaged_count = damaged_pointers(&snapshot, pointers, file)
            .map_err(|seen| format!("after commit {found} {seen}"))?;
        for (digest, value) in &self.values {
            let needed = value.promise == Promise::Durable
                || pointers.values().any(|pointed| pointed == digest);
            for verify in [Verify::Checksum, Verify::Digest] {
                match store.get_verified(digest, verify) {
                    Ok(Some(bytes)) => ensure!(bytes == value.bytes, "{digest} has wrong bytes"),
                    Ok(None) => ensure!(!needed, "{digest} is silently gone"),
                    Err(Error::Corrupt { file: named, .. }) if named == file => damaged_count += 1,
                    Err(error) => return Err(format!("{digest}: {}", told(&error))),
                }
            }
        }
        Ok(damaged_count)
    }

    /// Compares a store that goes on living: all that was acknowledged must be readable.
    pub fn reads(&self, store: &Store) -> Verdict {
        let pointers = shown(&store.snapshot())?;
        ensure!(pointers == *self.pointers(), "{pointers:?} instead of {:?}", self.pointers());
        for digest in self.values.keys() {
            self.got(digest, read(store, digest)?.as_ref())?;
        }
        Ok(())
    }

    /// Puts and commits once more and asks the store to check itself: it is as good as new.
    pub fn goes_on(&mut self, store: &Store) -> Verdict {
        let bytes = Bytes::from(format!("after commit {}", self.acknowledged));
        let reply = store.put(&bytes);
        self.put(&bytes, &reply)?;
        reply.map_err(|error| format!("put: {}", told(&error)))?;
        let name = b"goes on".to_vec();
        let digest = Digest::of(&bytes);
        let current = self.pointers().get(&name).copied();
        let edit =
            Edit { changes: vec![(name.clone(), Some(digest))], requires: vec![(name, current)] };
        let reply = store.commit(edit.batch());
        self.commit(&edit, &reply, false)?;
        reply.map_err(|error| format!("commit: {}", told(&error)))?;
        sound(store)
    }
}

/// Lists pointers from both ends, and looks up each: they are these, but for what an error that names
/// the file keeps back. Returns how many did.
fn damaged_pointers(snapshot: &Snapshot, pointers: &Pointers, file: &str) -> Verdict<u64> {
    let mut damaged_count = 0;
    let is_of_file =
        |error: &Error| matches!(error, Error::Corrupt { file: named, .. } if named == file);
    let mut ahead = pointers.iter();
    let mut behind = pointers.iter().rev();
    for backwards in [false, true] {
        let mut listed = snapshot.pointers::<(_, _)>(EVERYTHING);
        loop {
            let (next, expected) = match backwards {
                false => (listed.next(), ahead.next()),
                true => (listed.next_back(), behind.next()),
            };
            match (next, expected) {
                (None, None) => break,
                (Some(Ok((name, to))), Some((known, digest)))
                    if name == known[..] && to == *digest => {}
                (Some(Err(error)), _) if is_of_file(&error) => {
                    damaged_count += 1;
                    break;
                }
                (next, expected) => {
                    return Err(format!("there is {next:?} instead of {expected:?}"));
                }
            }
        }
    }
    for (name, digest) in pointers {
        match snapshot.pointer(name) {
            Ok(Some(to)) if to == *digest => {}
            Err(error) if is_of_file(&error) => damaged_count += 1,
            other => return Err(format!("{name:?} is {other:?} instead of {digest}")),
        }
    }
    Ok(damaged_count)
}

/// The store's own check of everything finds nothing.
pub fn sound(store: &Store) -> Verdict {
    let options = CheckOptions { read_data: true, ..CheckOptions::default() };
    let report = store.check(&options).map_err(|error| format!("check: {}", told(&error)))?;
    ensure!(report.findings.is_empty(), "check finds {:?}", report.findings);
    Ok(())
}

/// All pointers of a snapshot.
pub fn shown(snapshot: &Snapshot) -> Verdict<Pointers> {
    let mut pointers = Pointers::new();
    for pointer in snapshot.pointers::<(_, _)>(EVERYTHING) {
        let (name, digest) = pointer.map_err(|error| format!("list: {}", told(&error)))?;
        ensure!(
            pointers.last_key_value().is_none_or(|(last, _)| last[..] < name[..]),
            "{name:?} is listed out of order"
        );
        pointers.insert(name.to_vec(), digest);
    }
    Ok(pointers)
}

/// The range of all names.
pub const EVERYTHING: (std::ops::Bound<&[u8]>, std::ops::Bound<&[u8]>) =
    (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);

/// A value, asked for in both ways.
fn read(store: &Store, digest: &Digest) -> Verdict<Option<Bytes>> {
    let fail = |error| format!("{digest}: {}", told(&error));
    let bytes = store.get_verified(digest, Verify::Digest).map_err(fail)?;
    let contains = store.contains(digest).map_err(fail)?;
    ensure!(contains == bytes.is_some(), "contains {digest}: {contains}; get says otherwise");
    Ok(bytes)
}
