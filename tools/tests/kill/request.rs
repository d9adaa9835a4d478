//! What the process is asked: requests as data, how they are chosen, and their lines.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pinstone::Digest;
use serde_json::{Value, json};

use crate::oracle::State;
use crate::{Random, noise};

/// Names that requests use.
const NAME_COUNT: u64 = 48;

/// A value, by what it is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blob {
    pub(crate) seed: u64,
    pub(crate) len_bytes: usize,
    pub(crate) digest: Digest,
}

impl Blob {
    pub(crate) fn new(seed: u64, len_bytes: usize) -> Self {
        Self { seed, len_bytes, digest: Digest::of(&noise(seed, len_bytes)) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        noise(self.seed, self.len_bytes)
    }
}

/// What a commit does to one name.
#[derive(Clone, Debug)]
pub(crate) enum To {
    Digest(Digest),
    Data(Blob),
    Delete,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Put(Blob),
    Commit(Edit),
    GetPointer(Vec<u8>),
    GetDigest(Digest),
    Has(Vec<Digest>),
    List(String),
    Sync,
}

/// What a commit changes and requires.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    pub(crate) changes: BTreeMap<Vec<u8>, To>,
    pub(crate) requires: BTreeMap<Vec<u8>, Option<Digest>>,
    /// As a list of changes, whatever the names.
    listed: bool,
}

/// The n-th name: every eighth is no text.
fn name(number: u64) -> Vec<u8> {
    let mut name = format!("name/{number:02}").into_bytes();
    if number % 8 == 7 {
        name.push(0xff);
    }
    name
}

impl Request {
    /// The next request to a store in this state.
    pub(crate) fn choose(random: &mut Random, state: &State) -> Self {
        match random.below(100) {
            0..25 => Self::Put(choose_blob(random, state)),
            25..75 => Self::Commit(choose_edit(random, state)),
            75..83 => Self::GetPointer(name(random.below(NAME_COUNT))),
            83..88 => Self::GetDigest(choose_digest(random, state)),
            88..92 => Self::Has((0..4).map(|_| choose_digest(random, state)).collect()),
            92..95 => Self::List(["", "name/", "name/1", "other"][random.below(4) as usize].into()),
            _ => Self::Sync,
        }
    }

    /// Its line.
    pub(crate) fn line(&self) -> String {
        let request = match self {
            Self::Put(blob) if blob.len_bytes == 0 => json!({"op": "put", "data": ""}),
            Self::Put(blob) => json!({"op": "put", "data_base64": STANDARD.encode(blob.bytes())}),
            Self::Commit(edit) => edit.json(),
            Self::GetPointer(name) => match std::str::from_utf8(name) {
                Ok(name) => json!({"op": "get", "pointer": name}),
                Err(_) => json!({"op": "get", "pointer_base64": STANDARD.encode(name)}),
            },
            Self::GetDigest(digest) => json!({"op": "get", "digest": digest.to_string()}),
            Self::Has(digests) => {
                let digests: Vec<String> = digests.iter().map(Digest::to_string).collect();
                json!({"op": "has", "digests": digests})
            }
            Self::List(prefix) => json!({"op": "list", "prefix": prefix}),
            Self::Sync => json!({"op": "sync"}),
        };
        request.to_string()
    }
}

impl Edit {
    fn json(&self) -> Value {
        let mut names = self.changes.keys().chain(self.requires.keys());
        let listed = self.listed || names.any(|name| std::str::from_utf8(name).is_err());
        if listed { self.as_list() } else { self.as_maps() }
    }

    fn as_maps(&self) -> Value {
        let mut maps = json!({"op": "commit"});
        let mut deleted = Vec::new();
        let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
        for (name, to) in &self.changes {
            match to {
                To::Digest(digest) => maps["set"][text(name)] = json!(digest.to_string()),
                To::Data(blob) => {
                    maps["set_data"][text(name)] = json!(STANDARD.encode(blob.bytes()));
                }
                To::Delete => deleted.push(text(name)),
            }
        }
        if !deleted.is_empty() {
            maps["delete"] = json!(deleted);
        }
        for (name, current) in &self.requires {
            maps["require"][text(name)] = json!(current.map(|digest| digest.to_string()));
        }
        maps
    }

    fn as_list(&self) -> Value {
        let mut list = Vec::new();
        for (name, to) in &self.changes {
            let name_base64 = STANDARD.encode(name);
            list.push(match to {
                To::Digest(digest) => {
                    json!({"name_base64": name_base64, "set": digest.to_string()})
                }
                To::Data(blob) => {
                    json!({"name_base64": name_base64, "set_data": STANDARD.encode(blob.bytes())})
                }
                To::Delete => json!({"name_base64": name_base64, "delete": true}),
            });
        }
        for (name, current) in &self.requires {
            let current = current.map(|digest| digest.to_string());
            list.push(json!({"name_base64": STANDARD.encode(name), "require": current}));
        }
        json!({"op": "commit", "changes": list})
    }
}

/// Mostly new, and small; at times known, empty, or so large that it is written straight through.
fn choose_blob(random: &mut Random, state: &State) -> Blob {
    if random.one_in(6)
        && let Some(known) = state.any_blob(random)
    {
        return known;
    }
    let len_bytes = match random.below(100) {
        0 => 0,
        1..80 => random.below(3 << 10),
        80..98 => random.below(48 << 10),
        _ => (250 << 10) + random.below(200 << 10),
    };
    Blob::new(random.next(), len_bytes as usize)
}

/// Usually of a value that was put at some time; at times of none.
fn choose_digest(random: &mut Random, state: &State) -> Digest {
    match state.any_blob(random) {
        Some(known) if !random.one_in(8) => known.digest,
        _ => Digest::of(&random.next().to_le_bytes()),
    }
}

fn choose_edit(random: &mut Random, state: &State) -> Edit {
    let mut edit = Edit { listed: random.one_in(4), ..Edit::default() };
    for _ in 0..1 + random.skewed(3) {
        let to = match random.below(100) {
            0..45 => To::Data(choose_blob(random, state)),
            45..80 => match state.any_present(random) {
                Some(digest) => To::Digest(digest),
                None => To::Data(choose_blob(random, state)),
            },
            80..98 => To::Delete,
            _ => To::Digest(choose_digest(random, state)),
        };
        edit.changes.insert(name(random.below(NAME_COUNT)), to);
    }
    let require_count = if random.one_in(2) { 0 } else { 1 + random.below(2) };
    for number in 0..require_count {
        let of_changes = edit.changes.keys().next().filter(|_| number == 0).cloned();
        let name = of_changes.unwrap_or_else(|| name(random.below(NAME_COUNT)));
        let current = state.pointers.get(&name).copied();
        let current = if random.one_in(8) { Some(choose_digest(random, state)) } else { current };
        edit.requires.insert(name, current);
    }
    edit
}
