//! What is a request, and what is not.

use super::*;

fn digest() -> Digest {
    Digest::of(b"value")
}

/// The request in `line`, in which `D` stands for a digest.
fn accepted(line: &str) -> Request<'static> {
    let line = line.replace("\"D\"", &format!("\"{}\"", digest()));
    // A test's lines may live on.
    match decode(line.leak().as_bytes()).1 {
        Ok(request) => request,
        Err(fault) => panic!("{fault:?}"),
    }
}

/// The kind, the message and the id with which a line is refused.
fn refused(line: &[u8]) -> (&'static str, String, Option<String>) {
    let (id, request) = decode(line);
    match request {
        Err(Fault::Request { kind, message }) => (kind, message, id.map(|id| id.get().to_owned())),
        other => panic!("{}: {other:?}", text::escape(line)),
    }
}

fn bad(line: &str) -> String {
    let line = line.replace("\"D\"", &format!("\"{}\"", digest()));
    let (kind, message, _) = refused(line.as_bytes());
    assert_eq!(kind, "bad_request", "{line}");
    message
}

#[test]
fn every_operation_is_understood() {
    assert_eq!(accepted(r#"{"op":"put","data":""}"#), Request::Put(b"".into()));
    assert_eq!(
        accepted(r#"{"op":"put","data":"a\n\u00e9"}"#),
        Request::Put("a\n\u{e9}".as_bytes().into())
    );
    assert_eq!(accepted(r#"{"data_base64":"/w==","op":"put"}"#), Request::Put(b"\xff".into()));
    let upper = digest().to_string().to_uppercase();
    assert_eq!(
        accepted(&format!(r#"{{"op":"get","digest":"{upper}"}}"#)),
        Request::Get(Target::Digest(digest()))
    );
    assert_eq!(
        accepted(r#"{"op":"get","pointer":"a"}"#),
        Request::Get(Target::Pointer(b"a".into()))
    );
    assert_eq!(
        accepted(r#"{"op":"get","pointer_base64":"/w=="}"#),
        Request::Get(Target::Pointer(b"\xff".into()))
    );
    let put_many = |values: &[&[u8]]| Request::PutMany(values.iter().map(|v| v.to_vec()).collect());
    assert_eq!(accepted(r#"{"op":"put_many","data":[]}"#), put_many(&[]));
    assert_eq!(accepted(r#"{"op":"put_many","data":["","a\n"]}"#), put_many(&[b"", b"a\n"]));
    assert_eq!(accepted(r#"{"op":"put_many","data_base64":["/w=="]}"#), put_many(&[b"\xff"]));
    assert_eq!(accepted(r#"{"op":"get_many","digests":[]}"#), Request::GetMany(vec![]));
    let both = Request::GetMany(vec![digest(); 2]);
    assert_eq!(accepted(r#"{"op":"get_many","digests":["D","D"]}"#), both);
    assert_eq!(accepted(r#"{"op":"has","digests":[]}"#), Request::Has(vec![]));
    assert_eq!(accepted(r#"{"op":"has","digests":["D","D"]}"#), Request::Has(vec![digest(); 2]));
    assert_eq!(accepted(r#"{"op":"sync"}"#), Request::Sync);
    assert_eq!(accepted(r#"{"op":"stats"}"#), Request::Stats);
    assert_eq!(accepted(r#"{"op":"check"}"#), Request::Check { read_data: false });
    let check = r#" {"op" : "check", "read_data" : true} "#;
    assert_eq!(accepted(check), Request::Check { read_data: true });
    assert_eq!(accepted("{\"op\":\"sync\"}\r"), Request::Sync);
    assert_eq!(accepted(r#"{"\u006fp":"sync"}"#), Request::Sync);
}

#[test]
fn a_list_has_defaults_and_a_cap() {
    let list = |line| match accepted(line) {
        Request::List(List { prefix, after, limit }) => (prefix, after, limit),
        other => panic!("{other:?}"),
    };
    assert_eq!(list(r#"{"op":"list"}"#), (vec![], vec![], 1_000));
    assert_eq!(
        list(r#"{"op":"list","prefix":"a/","after":"a/b","limit":2}"#),
        (b"a/".to_vec(), b"a/b".to_vec(), 2)
    );
    assert_eq!(
        list(r#"{"op":"list","prefix_base64":"/w==","after_base64":"//8="}"#),
        (b"\xff".to_vec(), b"\xff\xff".to_vec(), 1_000)
    );
    assert_eq!(list(r#"{"op":"list","limit":18446744073709551615}"#).2, 10_000);
}

#[test]
fn a_commit_gathers_all_its_forms() {
    let request = accepted(
        r#"{"op":"commit","set":{"a":"D"},"set_data":{"b":"/w=="},"delete":["c"],
            "require":{"a":null,"z":"D"},"changes":[{"name_base64":"/w==","set":"D"},
            {"name_base64":"/g==","delete":true},{"name":"d","set_data":""},
            {"name_base64":"/w==","require":null},{"require":"D","name":"y"}]}"#
            .replace('\n', " ")
            .as_str(),
    );
    let changes = BTreeMap::from([
        (b"a".to_vec(), Change::Set(digest())),
        (b"b".to_vec(), Change::SetData(b"\xff".to_vec())),
        (b"c".to_vec(), Change::Delete),
        (b"d".to_vec(), Change::SetData(vec![])),
        (b"\xfe".to_vec(), Change::Delete),
        (b"\xff".to_vec(), Change::Set(digest())),
    ]);
    let requires = vec![
        (b"a".to_vec(), None),
        (b"z".to_vec(), Some(digest())),
        (b"\xff".to_vec(), None),
        (b"y".to_vec(), Some(digest())),
    ];
    assert_eq!(request, Request::Commit(Commit { changes, requires }));
}

#[test]
fn what_is_no_json_object_is_refused_without_an_id() {
    let deep = "[".repeat(100_000);
    let lines: &[&[u8]] = &[
        b"",
        b" ",
        b"\r",
        b"null",
        b"7",
        b"\"op\"",
        b"[]",
        b"{",
        b"{\"op\"",
        b"{\"op\":\"sync\"",
        b"{\"op\":\"sync\",}",
        b"{\"op\":\"sync\"} x",
        b"{\"op\":\"sync\"}{\"op\":\"sync\"}",
        b"{'op':'sync'}",
        b"{\"op\":\"sync\",\"id\":01}",
        b"{\"op\":\"sync\",\"id\":NaN}",
        b"{\"id\":7,\"op\":\"put\",\"data\":\"\xff\"}",
        b"\xff\xfe{\x00}\x00",
        b"\x00",
        b"{\"id\":7,\"op\":\"put\",\"data\":\"a\x01\"}",
        deep.as_bytes(),
    ];
    for line in lines {
        let (kind, message, id) = refused(line);
        assert_eq!((kind, id), ("bad_request", None), "{}", text::escape(line));
        assert!(message.starts_with("the line is n"), "{message}");
    }
}

#[test]
fn an_id_comes_back_with_a_refusal() {
    for (line, id) in [
        (r#"{"id":1}"#, "1"),
        (r#"{"id":"x","op":"unknown"}"#, r#""x""#),
        (r#"{"op":"sync","more":0,"id":[1, {"a":null}]}"#, r#"[1, {"a":null}]"#),
        (r#"{"op":"sync","op":"sync","id":null}"#, "null"),
        (r#"{"op":5,"id":1.0}"#, "1.0"),
        (r#"{"op":"get","digest":"xyz","id":-0}"#, "-0"),
        (r#"{"op":"put","data":"\ud800","id":2}"#, "2"),
    ] {
        let (kind, _, found) = refused(line.as_bytes());
        assert_eq!((kind, found.as_deref()), ("bad_request", Some(id)), "{line}");
    }
    let many: String = (0..40).map(|n| format!("\"f{n}\":{n},")).collect();
    let (kind, _, id) = refused(format!("{{{many}\"id\":9}}").as_bytes());
    assert_eq!((kind, id.as_deref()), ("bad_request", Some("9")));
}

#[test]
fn an_id_that_cannot_come_back_is_refused() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for id in ["1,\"id\":2", "{\"a\":1,\"a\":2}", "[{\"a\":{\"b\":1,\"b\":1}}]", "1e999", &deep] {
        let (kind, _, found) = refused(format!(r#"{{"op":"sync","id":{id}}}"#).as_bytes());
        assert_eq!((kind, found), ("bad_request", None), "{id}");
    }
    let large = r#"{"op":"sync","id":123456789012345678901234567890}"#;
    let (id, request) = decode(large.as_bytes());
    assert_eq!(id.map(RawValue::get), Some("123456789012345678901234567890"));
    assert!(matches!(request, Ok(Request::Sync)));
}

#[test]
fn unknown_operations_and_fields_are_refused() {
    assert!(bad(r#"{}"#).contains("op is missing"));
    assert!(bad(r#"{"op":"PUT","data":""}"#).contains("unknown operation"));
    assert!(bad(r#"{"op":null}"#).starts_with("op: "));
    for line in [
        r#"{"op":"put","data":"","x":1}"#,
        r#"{"op":"sync","data":""}"#,
        r#"{"op":"stats","all":true}"#,
        r#"{"op":"has","digests":[],"digest":"D"}"#,
        r#"{"op":"put_many","data":[],"x":1}"#,
        r#"{"op":"get_many","digests":[],"pointers":[]}"#,
        r#"{"op":"list","Prefix":""}"#,
        r#"{"op":"commit","set":{"a":"D"},"if":{}}"#,
        r#"{"op":"commit","changes":[{"name":"a","delete":true,"x":1}]}"#,
    ] {
        assert!(bad(line).contains("unknown field"), "{line}");
    }
}

#[test]
fn a_key_twice_is_refused_at_every_level() {
    for line in [
        r#"{"op":"sync","op":"sync"}"#,
        r#"{"op":"put","data":"a","data":"a"}"#,
        r#"{"op":"put","data":"a","d\u0061ta":"a"}"#,
        r#"{"op":"commit","set":{"a":"D","a":"D"}}"#,
        r#"{"op":"commit","set":{"a":"D","\u0061":"D"}}"#,
        r#"{"op":"commit","set_data":{"a":"","a":""}}"#,
        r#"{"op":"commit","set":{"b":"D"},"require":{"a":null,"a":"D"}}"#,
    ] {
        assert!(bad(line).contains("twice"), "{line}");
    }
    let line = r#"{"op":"commit","changes":[{"name":"a","delete":true,"delete":true}]}"#;
    assert!(bad(line).contains("duplicate field"));
}

#[test]
fn a_name_may_be_changed_once() {
    for line in [
        r#"{"op":"commit","set":{"a":"D"},"set_data":{"a":""}}"#,
        r#"{"op":"commit","set":{"a":"D"},"delete":["a"]}"#,
        r#"{"op":"commit","set_data":{"a":""},"delete":["a"]}"#,
        r#"{"op":"commit","delete":["a","a"]}"#,
        r#"{"op":"commit","set":{"a":"D"},"changes":[{"name_base64":"YQ==","set":"D"}]}"#,
    ] {
        assert!(bad(line).contains("changed twice"), "{line}");
    }
}

#[test]
fn a_commit_changes_something() {
    for line in [
        r#"{"op":"commit"}"#,
        r#"{"op":"commit","set":{},"set_data":{},"delete":[],"changes":[]}"#,
        r#"{"op":"commit","require":{"a":null}}"#,
        r#"{"op":"commit","changes":[{"name":"a","require":null}]}"#,
    ] {
        assert_eq!(bad(line), "nothing to change", "{line}");
    }
}

#[test]
fn a_field_of_another_type_is_refused() {
    for line in [
        r#"{"op":"put"}"#,
        r#"{"op":"put","data":"a","data_base64":"YQ=="}"#,
        r#"{"op":"put","data":7}"#,
        r#"{"op":"put","data":null}"#,
        r#"{"op":"put","data_base64":"YQ"}"#,
        r#"{"op":"put","data_base64":"YQ==\n"}"#,
        r#"{"op":"put","data_base64":"_w=="}"#,
        r#"{"op":"put","data_base64":"YR=="}"#,
        r#"{"op":"put_many"}"#,
        r#"{"op":"put_many","data":"a"}"#,
        r#"{"op":"put_many","data":["a",7]}"#,
        r#"{"op":"put_many","data":["a"],"data_base64":["YQ=="]}"#,
        r#"{"op":"put_many","data_base64":["YQ=="," "]}"#,
        r#"{"op":"get_many"}"#,
        r#"{"op":"get_many","digests":"D"}"#,
        r#"{"op":"get_many","digests":["D",null]}"#,
        r#"{"op":"get"}"#,
        r#"{"op":"get","digest":"D","pointer":"a"}"#,
        r#"{"op":"get","digest":""}"#,
        r#"{"op":"get","digest":"abc"}"#,
        r#"{"op":"get","digest":7}"#,
        r#"{"op":"get","pointer":""}"#,
        r#"{"op":"has"}"#,
        r#"{"op":"has","digests":"D"}"#,
        r#"{"op":"has","digests":["D",null]}"#,
        r#"{"op":"list","limit":0}"#,
        r#"{"op":"list","limit":-1}"#,
        r#"{"op":"list","limit":1.5}"#,
        r#"{"op":"list","limit":1e3}"#,
        r#"{"op":"list","limit":18446744073709551616}"#,
        r#"{"op":"list","limit":"1"}"#,
        r#"{"op":"list","after":null}"#,
        r#"{"op":"list","after":"a","after_base64":"YQ=="}"#,
        r#"{"op":"check","read_data":1}"#,
        r#"{"op":"commit","set":["a"]}"#,
        r#"{"op":"commit","set":{"a":null}}"#,
        r#"{"op":"commit","set":{"a":"xyz"}}"#,
        r#"{"op":"commit","set":{"":"D"}}"#,
        r#"{"op":"commit","set_data":{"a":"%"}}"#,
        r#"{"op":"commit","delete":{"a":true}}"#,
        r#"{"op":"commit","delete":[""]}"#,
        r#"{"op":"commit","changes":{}}"#,
        r#"{"op":"commit","changes":[{}]}"#,
        r#"{"op":"commit","changes":[{"name":"a"}]}"#,
        r#"{"op":"commit","changes":[{"delete":true}]}"#,
        r#"{"op":"commit","changes":[{"name":"a","delete":false}]}"#,
        r#"{"op":"commit","changes":[{"name":"a","set":null}]}"#,
        r#"{"op":"commit","changes":[{"name":"a","set":"D","require":null}]}"#,
        r#"{"op":"commit","changes":[{"name":"a","name_base64":"YQ==","delete":true}]}"#,
        r#"{"op":"commit","changes":[{"name_base64":"YQ","delete":true}]}"#,
    ] {
        bad(line);
    }
    let long = "n".repeat(1_025);
    let line = format!(r#"{{"op":"commit","set":{{"{long}":"D"}}}}"#);
    assert!(bad(&line).contains("1 to 1024 bytes, this has 1025"));
    accepted(&line.replace(&long, &long[1..]));
}

#[test]
fn a_commit_of_too_many_changes_is_over_a_limit() {
    let names: Vec<String> = (0..=CHANGES_MAX).map(|n| format!("\"{n}\"")).collect();
    let line = format!(r#"{{"op":"commit","delete":[{}]}}"#, names.join(","));
    assert_eq!(refused(line.as_bytes()).0, "limit");
    let pairs: Vec<String> = names.iter().map(|name| format!("{name}:\"\"")).collect();
    let line = format!(r#"{{"op":"commit","set_data":{{{}}}}}"#, pairs.join(","));
    assert_eq!(refused(line.as_bytes()).0, "limit");
}

#[test]
fn more_values_than_a_request_may_have_are_over_a_limit() {
    for (op, item) in [
        (r#""op":"put_many","data""#, "\"\"".to_owned()),
        (r#""op":"put_many","data_base64""#, "\"\"".to_owned()),
        (r#""op":"get_many","digests""#, format!("\"{}\"", digest())),
    ] {
        let line = |count: usize| format!("{{{op}:[{}]}}", vec![&item[..]; count].join(","));
        let (kind, message, _) = refused(line(VALUES_MAX + 1).as_bytes());
        assert_eq!((kind, &*message), ("limit", "a request has at most 10000 values"));
        assert!(decode(line(VALUES_MAX).as_bytes()).1.is_ok(), "{op}");
    }
}
