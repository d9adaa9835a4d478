//! What a store must hold, and what it must reply: plain maps, fed by the requests.
//!
//! - O1: requests are answered one after the other, so each reply can be foretold to the byte.
//! - O2: after a kill, what the store shows is the state after some number of the requests sent,
//!   never fewer than were answered, and no mixture: pointers and the commit's number agree.
//! - O3: a value is promised by an acknowledged commit that points at it, and by an acknowledged
//!   sync; any other may be there, wholly, or be gone.
//! - O4: what an opened store shows was made durable by opening it.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinstone::Digest;
use serde_json::{Value, json};

use crate::Random;
use crate::request::{Blob, Edit, Request, To};

/// What is known of a value that was once put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// Survives a kill.
    Durable,
    /// Is there while this process lives.
    WhileOpen,
    /// Is not there.
    Absent,
}

/// A store at one instant.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) pointers: BTreeMap<Vec<u8>, Digest>,
    pub(crate) last_commit: u64,
    values: BTreeMap<Digest, (Blob, Promise)>,
}

/// The reply that a request must get.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Exactly this.
    Reply(Value),
    /// The value of this digest.
    Value(Blob),
    /// An error of this kind.
    Error(&'static str),
    /// A refusal that names one of these, and what it points at.
    Refused(Vec<(Vec<u8>, Option<Digest>)>),
}

impl State {
    /// Carries the request out.
    fn apply(&mut self, request: &Request) -> Expected {
        match request {
            Request::Put(blob) => {
                let new = self.put(blob);
                let digest = blob.digest.to_string();
                Expected::Reply(json!({"ok": true, "digest": digest, "new": new}))
            }
            Request::Commit(edit) => self.commit(edit),
            Request::GetPointer(name) => match self.pointers.get(name) {
                Some(digest) => Expected::Value(self.values[digest].0),
                None => Expected::Error("not_found"),
            },
            Request::GetDigest(digest) if self.is_present(digest) => {
                Expected::Value(self.values[digest].0)
            }
            Request::GetDigest(_) => Expected::Error("not_found"),
            Request::Has(digests) => {
                let present: Vec<bool> = digests.iter().map(|d| self.is_present(d)).collect();
                Expected::Reply(json!({"ok": true, "present": present}))
            }
            Request::List(prefix) => Expected::Reply(self.list(prefix.as_bytes())),
            Request::Sync => {
                for (_, promise) in self.values.values_mut() {
                    if *promise == Promise::WhileOpen {
                        *promise = Promise::Durable;
                    }
                }
                Expected::Reply(json!({"ok": true}))
            }
        }
    }

    fn put(&mut self, blob: &Blob) -> bool {
        let new = !self.is_present(&blob.digest);
        if new {
            self.values.insert(blob.digest, (*blob, Promise::WhileOpen));
        }
        new
    }

    fn commit(&mut self, edit: &Edit) -> Expected {
        // Its values are put before anything else can refuse it.
        for to in edit.changes.values() {
            if let To::Data(blob) = to {
                self.put(blob);
            }
        }
        let target = |to: &To| match to {
            To::Digest(digest) => Some(*digest),
            To::Data(blob) => Some(blob.digest),
            To::Delete => None,
        };
        let targets: Vec<_> = edit.changes.values().filter_map(target).collect();
        if targets.iter().any(|digest| !self.is_present(digest)) {
            return Expected::Error("value_missing");
        }
        let current = |name: &Vec<u8>| self.pointers.get(name).copied();
        let failing: Vec<_> = edit
            .requires
            .iter()
            .filter(|(name, required)| current(name) != **required)
            .map(|(name, _)| (name.clone(), current(name)))
            .collect();
        if !failing.is_empty() {
            return Expected::Refused(failing);
        }
        for digest in &targets {
            self.values.get_mut(digest).expect("it is present").1 = Promise::Durable;
        }
        for (name, to) in &edit.changes {
            match target(to) {
                Some(digest) => self.pointers.insert(name.clone(), digest),
                None => self.pointers.remove(name),
            };
        }
        self.last_commit += 1;
        Expected::Reply(json!({"ok": true, "commit": self.last_commit}))
    }

    /// The reply to a list of all names with this prefix.
    pub(crate) fn list(&self, prefix: &[u8]) -> Value {
        let pointers = self.pointers.iter().filter(|(name, _)| name.starts_with(prefix));
        let pointer = |(name, digest): (&Vec<u8>, &Digest)| match std::str::from_utf8(name) {
            Ok(name) => json!({"name": name, "digest": digest.to_string()}),
            Err(_) => json!({"name_base64": STANDARD.encode(name), "digest": digest.to_string()}),
        };
        let pointers: Vec<_> = pointers.map(pointer).collect();
        json!({"ok": true, "pointers": pointers, "next": null})
    }

    fn is_present(&self, digest: &Digest) -> bool {
        self.values.get(digest).is_some_and(|(_, promise)| *promise != Promise::Absent)
    }

    /// The value that was once put under this digest.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<Blob> {
        self.values.get(digest).map(|(blob, _)| *blob)
    }

    /// Any value that was once put.
    pub(crate) fn any_blob(&self, random: &mut Random) -> Option<Blob> {
        let at = Digest::of(&random.next().to_le_bytes());
        let next = self.values.range(at..).next().or_else(|| self.values.iter().next());
        next.map(|(_, (blob, _))| *blob)
    }

    /// Any value that is there.
    pub(crate) fn any_present(&self, random: &mut Random) -> Option<Digest> {
        self.any_blob(random).map(|blob| blob.digest).filter(|digest| self.is_present(digest))
    }

    /// Every value that was once put, and whether it must be there after a kill.
    pub(crate) fn values(&self) -> impl Iterator<Item = (Blob, bool)> {
        self.values.values().map(|(blob, promise)| (*blob, *promise == Promise::Durable))
    }

    /// A value turned out to be there after opening, or not (O4).
    pub(crate) fn found(&mut self, blob: Blob, there: bool) {
        let promise = if there { Promise::Durable } else { Promise::Absent };
        self.values.insert(blob.digest, (blob, promise));
    }
}

/// The requests in flight, and the states before and after them.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// After all that was answered.
    pub(crate) answered: State,
    /// After all that was sent.
    pub(crate) ahead: State,
    pending: VecDeque<Request>,
}

impl Oracle {
    /// A request was sent.
    pub(crate) fn sent(&mut self, request: Request) {
        self.ahead.apply(&request);
        self.pending.push_back(request);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// A reply came: it belongs to the oldest request.
    pub(crate) fn replied(&mut self, line: &str) -> Result<Request, String> {
        let request = self.pending.pop_front().ok_or_else(|| format!("a reply to none: {line}"))?;
        let expected = self.answered.apply(&request);
        expected.check(line).map_err(|wrong| {
            let shown: String = request.line().chars().take(400).collect();
            let line: String = line.chars().take(400).collect();
            format!("{shown} is answered by {line}: {wrong}")
        })?;
        Ok(request)
    }

    /// The harness claims a reply that never came (a lie).
    pub(crate) fn claim_all(&mut self) {
        while let Some(request) = self.pending.pop_front() {
            self.answered.apply(&request);
        }
    }

    /// The process died. Finds how many of the unanswered requests the store shows, whose pointers
    /// were listed so and whose last commit is this; from then on, that is the state.
    pub(crate) fn reopened(&mut self, list: &Value, last_commit: u64) -> Result<usize, String> {
        let mut state = self.answered.clone();
        let mut done = 0;
        let shows = |state: &State| state.last_commit == last_commit && state.list(b"") == *list;
        while !shows(&state) {
            let Some(request) = self.pending.get(done) else {
                return Err(format!(
                    "the store shows commit {last_commit}; {} was acknowledged, {} requests were \
                     in flight; {}",
                    self.answered.last_commit,
                    self.pending.len(),
                    difference(&self.answered.list(b""), list),
                ));
            };
            state.apply(request);
            done += 1;
        }
        // Values of requests beyond may be there too, promised by nobody.
        for (blob, _) in self.ahead.values() {
            state.values.entry(blob.digest).or_insert((blob, Promise::WhileOpen));
        }
        self.pending.clear();
        self.ahead = state.clone();
        self.answered = state;
        Ok(done)
    }

    /// A value turned out to be there after opening, or not.
    pub(crate) fn found(&mut self, blob: Blob, there: bool) {
        self.answered.found(blob, there);
        self.ahead.found(blob, there);
    }
}

/// Pointers in one list that are not in the other; some of them, if there are many.
fn difference(acknowledged: &Value, shown: &Value) -> String {
    const SHOWN_MAX: usize = 4;
    let all = |list: &Value| list["pointers"].as_array().cloned().unwrap_or_default();
    let (acknowledged, shown) = (all(acknowledged), all(shown));
    let beyond = |these: &[Value], those: &[Value]| {
        let beyond: Vec<_> = these.iter().filter(|pointer| !those.contains(pointer)).collect();
        let some: Vec<_> = beyond.iter().take(SHOWN_MAX).map(|p| p.to_string()).collect();
        format!("{} of {}: {}", beyond.len(), these.len(), some.join(" "))
    };
    format!(
        "pointers that only the acknowledged have, {}; that only the store has, {}",
        beyond(&acknowledged, &shown),
        beyond(&shown, &acknowledged)
    )
}

impl Expected {
    fn check(&self, line: &str) -> Result<(), String> {
        let reply: Value =
            serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
        match self {
            Self::Reply(expected) if reply == *expected => Ok(()),
            Self::Reply(expected) => Err(format!("expected {expected}")),
            Self::Value(blob) => is_value(&reply, blob),
            Self::Error(kind) if reply["error"]["kind"] == **kind => Ok(()),
            Self::Error(kind) => Err(format!("expected the error {kind}")),
            Self::Refused(failing) => {
                let error = &reply["error"];
                let names = |(name, current): &(Vec<u8>, Option<Digest>)| {
                    let named = match std::str::from_utf8(name) {
                        Ok(name) => error["name"] == *name,
                        Err(_) => error["name_base64"] == STANDARD.encode(name),
                    };
                    let current = current.map(|digest| digest.to_string());
                    named && error.get("current") == Some(&json!(current))
                };
                if error["kind"] == "precondition_failed" && failing.iter().any(names) {
                    return Ok(());
                }
                Err(format!("expected a refusal for one of {failing:?}"))
            }
        }
    }
}

/// The reply holds this value: digest, bytes, and the bytes' own digest.
pub(crate) fn is_value(reply: &Value, blob: &Blob) -> Result<(), String> {
    if reply["digest"] != blob.digest.to_string() {
        return Err(format!("expected the value {}", blob.digest));
    }
    let text = reply["data_base64"].as_str().ok_or("expected data_base64")?;
    let bytes = STANDARD.decode(text).map_err(|error| format!("base64: {error}"))?;
    if Digest::of(&bytes) != blob.digest || bytes != blob.bytes() {
        return Err(format!("wrong bytes for {}", blob.digest));
    }
    Ok(())
}
