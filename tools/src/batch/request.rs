//! A line is decoded into a request, or refused.
//!
//! 1. The line must be one JSON object. Its fields are cut out of it as they stand, no key twice.
//! 2. `op` says which fields are meant; each is decoded by its type, and none may be left.
//! 3. What cannot be asked at all (a name changed twice, nothing to do) is refused here.
//!
//! - R1: a key that stands twice, in any object of the line, is refused, also within `id`.
//! - R2: memory is a small multiple of the line: the number of fields, of changes and of values is bounded
//!   ([`FIELDS_MAX`], [`CHANGES_MAX`], [`VALUES_MAX`]), and nesting by the JSON parser (128 levels).
//! - R3: `id` comes back whenever the line is an object that has exactly one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use pinstone::Digest;
use serde::Deserialize;
use serde::de::{
    self, DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::reply::Fault;
use crate::text;

/// More fields than any request has.
const FIELDS_MAX: usize = 16;

/// More changes, and more requirements, than the largest commit can hold.
const CHANGES_MAX: usize = 1 << 19;

/// The same in `changes`, where requirements count too.
const ITEMS_MAX: usize = 2 * CHANGES_MAX;

/// Values of one `put_many` or `get_many`, at most.
pub(crate) const VALUES_MAX: usize = 10_000;

/// Pointers in a reply to `list`, unless asked otherwise, and at most.
const LIST_DEFAULT: u64 = 1_000;
const LIST_MAX: u64 = 10_000;

/// What the store is asked.
#[derive(Debug, PartialEq)]
pub(crate) enum Request<'a> {
    Put(Cow<'a, [u8]>),
    PutMany(Vec<Vec<u8>>),
    Commit(Commit),
    Get(Target),
    GetMany(Vec<Digest>),
    Has(Vec<Digest>),
    List(List),
    Sync,
    Stats,
    Check { read_data: bool },
}

/// Changes of pointers, no name twice, and what they depend on.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Commit {
    pub(crate) changes: BTreeMap<Vec<u8>, Change>,
    pub(crate) requires: Vec<(Vec<u8>, Option<Digest>)>,
}

/// One of them.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    Set(Digest),
    SetData(Vec<u8>),
    Delete,
}

/// Which value.
#[derive(Debug, PartialEq)]
pub(crate) enum Target {
    Digest(Digest),
    Pointer(Vec<u8>),
}

/// Which pointers.
#[derive(Debug, PartialEq)]
pub(crate) struct List {
    pub(crate) prefix: Vec<u8>,
    pub(crate) after: Vec<u8>,
    pub(crate) limit: usize,
}

/// The line's `id`, if it has one, and what it asks.
pub(crate) fn decode(line: &[u8]) -> (Option<&RawValue>, Result<Request<'_>, Fault>) {
    match Fields::cut(line) {
        Ok(mut fields) => (fields.id, fields.request()),
        Err(fault) => (None, Err(fault)),
    }
}

/// The fields of a line, as they stand in it.
#[derive(Default)]
struct Fields<'a> {
    id: Option<&'a RawValue>,
    fields: Vec<(String, &'a RawValue)>,
    /// What was wrong with them first.
    fault: Option<String>,
}

impl<'a> Fields<'a> {
    fn cut(line: &'a [u8]) -> Result<Self, Fault> {
        let line = std::str::from_utf8(line)
            .map_err(|error| Fault::bad_request(format!("the line is not UTF-8: {error}")))?;
        let no_object = |error| Fault::bad_request(format!("the line is no JSON object: {error}"));
        let mut parser = serde_json::Deserializer::from_str(line);
        let mut fields = parser.deserialize_map(FieldsVisitor).map_err(no_object)?;
        parser.end().map_err(no_object)?;
        if let Some(id) = fields.id
            && let Err(error) = serde_json::from_str::<Strict>(id.get())
        {
            fields.id = None;
            fields.refuse(format!("id: {}", told(&error)));
        }
        Ok(fields)
    }

    fn refuse(&mut self, reason: String) {
        self.fault.get_or_insert(reason);
    }

    fn request(&mut self) -> Result<Request<'a>, Fault> {
        if let Some(reason) = self.fault.take() {
            return Err(Fault::bad_request(reason));
        }
        let op: Text<'_> = self.take("op")?.ok_or_else(|| Fault::bad_request("op is missing"))?;
        let request = match &*op.0 {
            "put" => self.put(),
            "put_many" => self.put_many().map(Request::PutMany),
            "commit" => self.commit().map(Request::Commit),
            "get" => self.get().map(Request::Get),
            "get_many" => self.get_many().map(Request::GetMany),
            "has" => self.has().map(Request::Has),
            "list" => self.list().map(Request::List),
            "sync" => Ok(Request::Sync),
            "stats" => Ok(Request::Stats),
            "check" => {
                let read_data = self.take("read_data")?.unwrap_or(false);
                Ok(Request::Check { read_data })
            }
            op => return Err(Fault::bad_request(format!("unknown operation {op:?}"))),
        }?;
        match self.fields.first() {
            Some((field, _)) => {
                Err(Fault::bad_request(format!("unknown field {field:?} of {}", op.0)))
            }
            None => Ok(request),
        }
    }

    fn put(&mut self) -> Result<Request<'a>, Fault> {
        let data = self.take("data")?.map(|Text(text)| match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        });
        let bytes = self.take("data_base64")?.map(|Bytes64(bytes)| Cow::Owned(bytes));
        one("data, data_base64", [data, bytes]).map(Request::Put)
    }

    fn put_many(&mut self) -> Result<Vec<Vec<u8>>, Fault> {
        let data: Option<Items<TextBytes, VALUES_MAX>> = self.take("data")?;
        let bytes: Option<Items<Bytes64, VALUES_MAX>> = self.take("data_base64")?;
        let data = data.map(|items| items.0.into_iter().map(|TextBytes(value)| value).collect());
        let bytes = bytes.map(|items| items.0.into_iter().map(|Bytes64(value)| value).collect());
        one("data, data_base64", [data, bytes]).and_then(few)
    }

    fn get_many(&mut self) -> Result<Vec<Digest>, Fault> {
        let digests: Option<Items<DigestHex, VALUES_MAX>> = self.take("digests")?;
        let digests = digests.ok_or_else(|| Fault::bad_request("digests is missing"))?;
        few(digests.0.into_iter().map(|DigestHex(digest)| digest).collect())
    }

    fn get(&mut self) -> Result<Target, Fault> {
        let digest = self.take("digest")?.map(|DigestHex(digest)| Target::Digest(digest));
        let pointer = self.take("pointer")?.map(|NameText(name)| Target::Pointer(name));
        let bytes = self.take("pointer_base64")?.map(|Name64(name)| Target::Pointer(name));
        one("digest, pointer, pointer_base64", [digest, pointer, bytes])
    }

    fn has(&mut self) -> Result<Vec<Digest>, Fault> {
        let digests: Vec<DigestHex> =
            self.take("digests")?.ok_or_else(|| Fault::bad_request("digests is missing"))?;
        Ok(digests.into_iter().map(|DigestHex(digest)| digest).collect())
    }

    fn list(&mut self) -> Result<List, Fault> {
        let prefix = self.text_or_bytes("prefix", "prefix_base64")?;
        let after = self.text_or_bytes("after", "after_base64")?;
        let limit = self.take("limit")?.unwrap_or(LIST_DEFAULT).min(LIST_MAX);
        if limit == 0 {
            return Err(Fault::bad_request("limit: at least 1"));
        }
        let limit =
            usize::try_from(limit).map_err(|error| Fault::bad_request(error.to_string()))?;
        Ok(List { prefix, after, limit })
    }

    fn text_or_bytes(&mut self, text: &str, base64: &str) -> Result<Vec<u8>, Fault> {
        let as_text = self.take(text)?.map(|Text(text)| text.into_owned().into_bytes());
        let as_bytes = self.take(base64)?.map(|Bytes64(bytes)| bytes);
        match (as_text, as_bytes) {
            (Some(_), Some(_)) => Err(Fault::bad_request(format!("both {text} and {base64}"))),
            (text, bytes) => Ok(text.or(bytes).unwrap_or_default()),
        }
    }

    fn commit(&mut self) -> Result<Commit, Fault> {
        let mut commit = Commit::default();
        let set: Option<Pairs<DigestHex>> = self.take("set")?;
        let set_data: Option<Pairs<Bytes64>> = self.take("set_data")?;
        let delete: Option<Items<NameText, ITEMS_MAX>> = self.take("delete")?;
        let require: Option<Pairs<Option<DigestHex>>> = self.take("require")?;
        let changes: Option<Items<ChangeObject, ITEMS_MAX>> = self.take("changes")?;
        for (name, DigestHex(digest)) in set.into_iter().flat_map(|pairs| pairs.0) {
            commit.change(name, Change::Set(digest))?;
        }
        for (name, Bytes64(value)) in set_data.into_iter().flat_map(|pairs| pairs.0) {
            commit.change(name, Change::SetData(value))?;
        }
        for NameText(name) in delete.into_iter().flat_map(|items| items.0) {
            commit.change(name, Change::Delete)?;
        }
        for (name, digest) in require.into_iter().flat_map(|pairs| pairs.0) {
            commit.require(name, digest.map(|DigestHex(digest)| digest))?;
        }
        for object in changes.into_iter().flat_map(|items| items.0) {
            match object.decode()? {
                (name, Action::Change(change)) => commit.change(name, change)?,
                (name, Action::Require(current)) => commit.require(name, current)?,
            }
        }
        if commit.changes.is_empty() {
            return Err(Fault::bad_request("nothing to change"));
        }
        Ok(commit)
    }

    fn take<T: Deserialize<'a>>(&mut self, name: &str) -> Result<Option<T>, Fault> {
        let Some(place) = self.fields.iter().position(|(field, _)| field == name) else {
            return Ok(None);
        };
        let (_, value) = self.fields.swap_remove(place);
        serde_json::from_str(value.get())
            .map(Some)
            .map_err(|error| Fault::bad_request(format!("{name}: {}", told(&error))))
    }
}

impl Commit {
    fn change(&mut self, name: Vec<u8>, change: Change) -> Result<(), Fault> {
        if self.changes.len() == CHANGES_MAX {
            return Err(too_many());
        }
        if self.changes.contains_key(&name) {
            let name = text::escape(&name);
            return Err(Fault::bad_request(format!("the pointer {name} is changed twice")));
        }
        self.changes.insert(name, change);
        Ok(())
    }

    fn require(&mut self, name: Vec<u8>, current: Option<Digest>) -> Result<(), Fault> {
        if self.requires.len() == CHANGES_MAX {
            return Err(too_many());
        }
        self.requires.push((name, current));
        Ok(())
    }
}

fn too_many() -> Fault {
    Fault::limit(format!("a commit has at most {CHANGES_MAX} changes and as many requirements"))
}

/// No more than one request may have.
fn few<T>(values: Vec<T>) -> Result<Vec<T>, Fault> {
    if values.len() > VALUES_MAX {
        return Err(Fault::limit(format!("a request has at most {VALUES_MAX} values")));
    }
    Ok(values)
}

/// The one that is there, of alternatives.
fn one<T, const N: usize>(names: &str, alternatives: [Option<T>; N]) -> Result<T, Fault> {
    let mut given = alternatives.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Fault::bad_request(format!("exactly one is needed of {names}"))),
    }
}

/// What the parser says of a part of the line, without a place that counts from the part's begin.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Fields::default();
        let mut id_count = 0;
        while let Some(key) = map.next_key::<String>()? {
            if key == "id" {
                let value = map.next_value()?;
                id_count += 1;
                fields.id = (id_count == 1).then_some(value);
                if id_count > 1 {
                    fields.refuse("the key \"id\" stands twice".to_owned());
                }
            } else if fields.fields.iter().any(|(field, _)| *field == key) {
                map.next_value::<IgnoredAny>()?;
                fields.refuse(format!("the key {key:?} stands twice"));
            } else if fields.fields.len() == FIELDS_MAX {
                map.next_value::<IgnoredAny>()?;
                fields.refuse(format!("unknown field {key:?}"));
            } else {
                fields.fields.push((key, map.next_value()?));
            }
        }
        Ok(fields)
    }
}

/// Any JSON value without a key that stands twice; read and forgotten.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StrictVisitor;

        impl<'de> Visitor<'de> for StrictVisitor {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
                while seq.next_element::<Strict>()?.is_some() {}
                Ok(Strict)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut keys = BTreeSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    map.next_value::<Strict>()?;
                    if let Some(key) = keys.replace(key) {
                        return Err(A::Error::custom(twice(&key)));
                    }
                }
                Ok(Strict)
            }
        }

        deserializer.deserialize_any(StrictVisitor)
    }
}

fn twice(key: &str) -> String {
    format!("the key {key:?} stands twice")
}

/// A text; borrowed from the line where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What a text stands for.
trait FromText: Sized {
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;
}

fn decode_text<'de, T: FromText, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct TextVisitor<T>(PhantomData<T>);

    impl<T: FromText> Visitor<'_> for TextVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            T::from_text(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(TextVisitor(PhantomData))
}

macro_rules! text_types {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $expected:literal, $from:expr;)*) => {$(
        $(#[$doc])*
        struct $name($inner);

        impl FromText for $name {
            const EXPECTED: &'static str = $expected;

            fn from_text(text: &str) -> Result<Self, String> {
                $from(text).map(Self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                decode_text(deserializer)
            }
        }
    )*};
}

text_types! {
    /// A digest in hex.
    DigestHex(Digest), "a digest in hex", digest_of;
    /// Bytes in base64.
    Bytes64(Vec<u8>), "base64", bytes_of;
    /// A text's bytes.
    TextBytes(Vec<u8>), "a text", |text: &str| Ok::<_, String>(text.as_bytes().to_vec());
    /// A pointer's name as it stands.
    NameText(Vec<u8>), "a pointer's name", |text: &str| name_of(text.as_bytes().to_vec());
    /// A pointer's name in base64.
    Name64(Vec<u8>), "a pointer's name in base64", |text| bytes_of(text).and_then(name_of);
}

fn digest_of(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|error: pinstone::DigestParseError| error.to_string())
}

fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    text::base64_decode(text).map_err(|error| format!("malformed base64: {error}"))
}

fn name_of(name: Vec<u8>) -> Result<Vec<u8>, String> {
    text::name_of(name).map_err(|error| error.to_string())
}

/// An object from names to something, no name twice.
struct Pairs<V>(Vec<(Vec<u8>, V)>);

impl<'de, V: DeserializeOwned> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor<V>(PhantomData<V>);

        impl<'de, V: DeserializeOwned> Visitor<'de> for PairsVisitor<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with pointers' names as keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some(NameText(name)) = map.next_key()? {
                    if pairs.contains_key(&name) {
                        return Err(A::Error::custom(twice(&text::escape(&name))));
                    }
                    if pairs.len() > CHANGES_MAX {
                        // One too many is kept, so that it is refused as such.
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    pairs.insert(name, map.next_value()?);
                }
                Ok(Pairs(pairs.into_iter().collect()))
            }
        }

        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

/// An array, of which no more is kept than shows that it is longer than `MAX`.
struct Items<T, const MAX: usize>(Vec<T>);

impl<'de, T: DeserializeOwned, const MAX: usize> Deserialize<'de> for Items<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: DeserializeOwned, const MAX: usize> Visitor<'de> for ItemsVisitor<T, MAX> {
            type Value = Items<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() <= MAX {
                    match seq.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Items(items)),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Items(items))
            }
        }

        deserializer.deserialize_seq(ItemsVisitor(PhantomData))
    }
}

/// One of `changes`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeObject {
    #[serde(default, deserialize_with = "given")]
    name: Option<NameText>,
    #[serde(default, deserialize_with = "given")]
    name_base64: Option<Name64>,
    #[serde(default, deserialize_with = "given")]
    set: Option<DigestHex>,
    #[serde(default, deserialize_with = "given")]
    set_data: Option<Bytes64>,
    #[serde(default, deserialize_with = "given")]
    delete: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    require: Option<Option<DigestHex>>,
}

/// A field that is there, `null` or not.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

enum Action {
    Change(Change),
    Require(Option<Digest>),
}

impl ChangeObject {
    fn decode(self) -> Result<(Vec<u8>, Action), Fault> {
        let as_text = self.name.map(|NameText(name)| name);
        let as_bytes = self.name_base64.map(|Name64(name)| name);
        let name = one("name, name_base64", [as_text, as_bytes])?;
        let delete = match self.delete {
            Some(false) => return Err(Fault::bad_request("delete: only true means something")),
            Some(true) => Some(Action::Change(Change::Delete)),
            None => None,
        };
        let action = one(
            "set, set_data, delete, require",
            [
                self.set.map(|DigestHex(digest)| Action::Change(Change::Set(digest))),
                self.set_data.map(|Bytes64(value)| Action::Change(Change::SetData(value))),
                delete,
                self.require
                    .map(|current| Action::Require(current.map(|DigestHex(digest)| digest))),
            ],
        )?;
        Ok((name, action))
    }
}

#[cfg(test)]
mod tests;
