//! What a request is answered with: one line of JSON, `ok` first and `id` last.

use std::io::{self, Write};

use pinstone::{Bytes, Digest, Error, Finding, Stats};
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use serde_json::value::RawValue;

use crate::exit::{CliError, Report};
use crate::text::{Base64, DigestText, Pointer};

/// Characters of a message that may repeat what was sent.
const MESSAGE_CHARS_MAX: usize = 400;

/// What the store answered.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    Put(Stored),
    PutMany {
        puts: Vec<Each<Stored>>,
    },
    Commit {
        commit: u64,
    },
    Get {
        #[serde(serialize_with = "digest_text")]
        digest: Digest,
        #[serde(rename = "data_base64", serialize_with = "base64_text")]
        value: Bytes,
    },
    GetMany {
        values: Vec<Each<Option<Value>>>,
    },
    Has {
        present: Vec<bool>,
    },
    List(Listed),
    Done {},
    Stats {
        stats: Box<Stats>,
    },
    Checked {
        findings: Vec<Finding>,
    },
}

/// What a put did.
#[derive(Serialize)]
pub(crate) struct Stored {
    #[serde(serialize_with = "digest_text")]
    pub(crate) digest: Digest,
    pub(crate) new: bool,
}

/// One value of several.
#[derive(Serialize)]
pub(crate) struct Value {
    #[serde(rename = "data_base64", serialize_with = "base64_text")]
    pub(crate) value: Bytes,
}

/// What is answered of one value of several: an object with `error` if it failed.
pub(crate) struct Each<T>(pub(crate) Result<T, Fault>);

impl<T: Serialize> Serialize for Each<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(answer) => answer.serialize(serializer),
            Err(fault) => Failed { error: fault.report() }.serialize(serializer),
        }
    }
}

fn digest_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    DigestText(digest).serialize(serializer)
}

fn base64_text<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    Base64(bytes).serialize(serializer)
}

/// One page of a list.
pub(crate) struct Listed {
    pub(crate) pointers: Vec<(Bytes, Digest)>,
    /// There are names after the last one.
    pub(crate) more: bool,
}

impl Serialize for Listed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Listed", 2)?;
        let pointers = self.pointers.iter().map(|(name, digest)| Pointer::of(name, digest));
        fields.serialize_field("pointers", &pointers.collect::<Vec<_>>())?;
        let last = self.pointers.last().filter(|_| self.more).map(|(name, _)| name);
        match last.map(|name| std::str::from_utf8(name).map_err(|_| name)) {
            None => fields.serialize_field("next", &None::<&str>)?,
            Some(Ok(name)) => fields.serialize_field("next", name)?,
            Some(Err(name)) => fields.serialize_field("next_base64", &Base64(name))?,
        }
        fields.end()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The request is at fault.
    Request { kind: &'static str, message: String },
    /// The store failed or refused.
    Store(Error),
}

impl Fault {
    /// The line is not exactly a request.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::Request { kind: "bad_request", message: message.into() }
    }

    /// Something is larger than it may be.
    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self::Request { kind: "limit", message: message.into() }
    }

    /// What was asked for is not there.
    pub(crate) fn not_found(error: &CliError) -> Self {
        Self::Request { kind: "not_found", message: error.message() }
    }

    fn report(&self) -> Report<'_> {
        match self {
            Self::Request { kind, message } => Report::new(kind, shortened(message)),
            Self::Store(error) => Report::of(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}

#[derive(Serialize)]
struct Reply<'a, T> {
    ok: bool,
    #[serde(flatten)]
    body: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Failed<'a> {
    error: Report<'a>,
}

/// Writes the reply's line and flushes it.
pub(crate) fn write(
    output: &mut impl Write,
    id: Option<&RawValue>,
    answer: &Result<Answer, Fault>,
) -> io::Result<()> {
    match answer {
        Ok(body) => serde_json::to_writer(&mut *output, &Reply { ok: true, body, id })?,
        Err(fault) => {
            let body = Failed { error: fault.report() };
            serde_json::to_writer(&mut *output, &Reply { ok: false, body, id })?;
        }
    }
    output.write_all(b"\n")?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: Option<&str>, answer: &Result<Answer, Fault>) -> String {
        let id = id.map(|id| serde_json::from_str::<&RawValue>(id).unwrap());
        let mut line = Vec::new();
        write(&mut line, id, answer).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn each_reply_is_one_compact_line() {
        let digest = Digest::of(b"");
        let listed = |names: &[&'static [u8]], more| {
            let pointers = names.iter().map(|name| (Bytes::from_static(name), digest)).collect();
            Answer::List(Listed { pointers, more })
        };
        let findings = vec![
            Finding { file: "CURRENT".into(), offset_bytes: Some(3), what: "w".into() },
            Finding { file: "@a".into(), offset_bytes: None, what: "w".into() },
        ];
        let table = [
            (
                Answer::Put(Stored { digest, new: true }),
                format!(r#"{{"ok":true,"digest":"{digest}","new":true}}"#),
            ),
            (
                Answer::PutMany {
                    puts: vec![
                        Each(Ok(Stored { digest, new: false })),
                        Each(Err(Fault::limit("m"))),
                    ],
                },
                format!(
                    r#"{{"ok":true,"puts":[{{"digest":"{digest}","new":false}},{{"error":{{"kind":"limit","message":"m"}}}}]}}"#
                ),
            ),
            (
                Answer::GetMany {
                    values: vec![
                        Each(Ok(Some(Value { value: Bytes::from_static(b"\xfb\xff") }))),
                        Each(Ok(None)),
                        Each(Err(Fault::limit("m"))),
                    ],
                },
                r#"{"ok":true,"values":[{"data_base64":"+/8="},null,{"error":{"kind":"limit","message":"m"}}]}"#.into(),
            ),
            (Answer::Commit { commit: 7 }, r#"{"ok":true,"commit":7}"#.into()),
            (
                Answer::Get { digest, value: Bytes::from_static(b"\xfb\xff") },
                format!(r#"{{"ok":true,"digest":"{digest}","data_base64":"+/8="}}"#),
            ),
            (
                Answer::Has { present: vec![true, false] },
                r#"{"ok":true,"present":[true,false]}"#.into(),
            ),
            (listed(&[], false), r#"{"ok":true,"pointers":[],"next":null}"#.into()),
            (
                listed(&[b"a"], true),
                format!(
                    r#"{{"ok":true,"pointers":[{{"name":"a","digest":"{digest}"}}],"next":"a"}}"#
                ),
            ),
            (
                listed(&[b"\xff"], true),
                format!(
                    r#"{{"ok":true,"pointers":[{{"name_base64":"/w==","digest":"{digest}"}}],"next_base64":"/w=="}}"#
                ),
            ),
            (Answer::Done {}, r#"{"ok":true}"#.into()),
            (
                Answer::Checked { findings },
                concat!(
                    r#"{"ok":true,"findings":[{"file":"CURRENT","offset":3,"what":"w"},"#,
                    r#"{"file":"@a","offset":null,"what":"w"}]}"#
                )
                .into(),
            ),
        ];
        for (answer, expected) in table {
            assert_eq!(line(None, &Ok(answer)), expected + "\n");
        }
    }

    #[test]
    fn the_id_comes_back_as_it_was_written() {
        let id = r#"{"a": [1.50, 12345678901234567890123, "\u00e9"]}"#;
        assert_eq!(line(Some(id), &Ok(Answer::Done {})), format!("{{\"ok\":true,\"id\":{id}}}\n"));
        assert_eq!(line(Some("null"), &Ok(Answer::Done {})), "{\"ok\":true,\"id\":null}\n");
        assert_eq!(
            line(Some("1"), &Err(Fault::bad_request("no"))),
            "{\"ok\":false,\"error\":{\"kind\":\"bad_request\",\"message\":\"no\"},\"id\":1}\n"
        );
    }

    #[test]
    fn a_message_does_not_repeat_a_huge_request() {
        let reply = line(None, &Err(Fault::bad_request("\u{e9}".repeat(100_000))));
        assert!(reply.len() < 2_000);
    }
}
