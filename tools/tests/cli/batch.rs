//! The protocol of `pinstone batch`, row by row.

use std::io::{Read, Write};
use std::process::Stdio;

use pinstone::Digest;
use serde_json::{Value, json};

use crate::harness::{Place, feed, noise, pinstone};

fn hex(value: &[u8]) -> String {
    Digest::of(value).to_string()
}

#[test]
fn put_takes_text_or_base64_and_tells_what_is_new() {
    let place = Place::new();
    let mut batch = place.batch();
    let put = |new, value: &[u8]| format!(r#"{{"ok":true,"digest":"{}","new":{new}}}"#, hex(value));
    assert_eq!(batch.line(br#"{"op":"put","data":"text"}"#), put(true, b"text"));
    assert_eq!(batch.line(br#"{"op":"put","data_base64":"dGV4dA=="}"#), put(false, b"text"));
    assert_eq!(batch.line(br#"{"op":"put","data_base64":"/w=="}"#), put(true, b"\xff"));
    assert_eq!(batch.line(br#"{"op":"put","data":""}"#), put(true, b""));
    assert_eq!(batch.line(r#"{"op":"put","data":"\u00e9"}"#.as_bytes()), put(true, "é".as_bytes()));
    batch.ask_bad(r#"{"op":"put"}"#, "bad_request");
    batch.ask_bad(r#"{"op":"put","data":"a","data_base64":"YQ=="}"#, "bad_request");
    assert_eq!(batch.end().code, 0);
    place.words(&format!("has {} {}", hex(b"text"), hex(b""))).ok();
}

#[test]
fn put_many_answers_for_each() {
    let place = Place::new();
    let mut batch = place.batch();
    let put = |new, value: &[u8]| format!(r#"{{"digest":"{}","new":{new}}}"#, hex(value));
    let puts = |puts: &[String]| format!(r#"{{"ok":true,"puts":[{}]}}"#, puts.join(","));
    let reply = puts(&[put(true, b"one"), put(true, b""), put(false, b"one")]);
    assert_eq!(batch.line(br#"{"op":"put_many","data":["one","","one"]}"#), reply);
    let reply = puts(&[put(true, b"\xff"), put(false, b"one")]);
    assert_eq!(batch.line(br#"{"op":"put_many","data_base64":["/w==","b25l"]}"#), reply);
    assert_eq!(
        batch.line(br#"{"op":"put_many","data":[],"id":1}"#),
        r#"{"ok":true,"puts":[],"id":1}"#
    );
    // Refused as a whole, nothing of it is stored.
    batch.ask_bad(r#"{"op":"put_many","data":["two",2]}"#, "bad_request");
    let many = vec!["\"two\""; 10_001].join(",");
    batch.ask_bad(&format!(r#"{{"op":"put_many","data":[{many}]}}"#), "limit");
    let absent = batch.ask_ok(&format!(r#"{{"op":"has","digests":["{}"]}}"#, hex(b"two")));
    assert_eq!(absent["present"], json!([false]));
    batch.end().ok();
    place.words(&format!("has {} {} {}", hex(b"one"), hex(b""), hex(b"\xff"))).ok();
}

#[test]
fn get_many_answers_for_each_in_order() {
    let place = Place::new();
    let mut batch = place.batch();
    batch.ask_ok(r#"{"op":"put_many","data":["one","two",""]}"#);
    let [one, two, empty, absent] = [b"one", b"two", &b""[..], b"absent"].map(hex);
    let line =
        format!(r#"{{"op":"get_many","digests":["{two}","{absent}","{one}","{two}","{empty}"]}}"#);
    let [one, two, empty] =
        ["b25l", "dHdv", ""].map(|base64| format!(r#"{{"data_base64":"{base64}"}}"#));
    let reply = format!(r#"{{"ok":true,"values":[{two},null,{one},{two},{empty}]}}"#);
    assert_eq!(batch.line(line.as_bytes()), reply);
    assert_eq!(batch.line(br#"{"op":"get_many","digests":[]}"#), r#"{"ok":true,"values":[]}"#);
    batch.ask_bad(r#"{"op":"get_many","digests":["xyz"]}"#, "bad_request");
    let many = vec![format!("\"{absent}\""); 10_001].join(",");
    batch.ask_bad(&format!(r#"{{"op":"get_many","digests":[{many}]}}"#), "limit");
    batch.end().ok();
}

#[test]
fn commit_sets_stores_deletes_and_requires_at_once() {
    let place = Place::new();
    let mut batch = place.batch();
    let [one, two] = [hex(b"one"), hex(b"two")];
    batch.ask_ok(r#"{"op":"put","data":"one"}"#);
    let line = format!(r#"{{"op":"commit","set":{{"a":"{one}"}},"set_data":{{"b":"dHdv"}}}}"#);
    assert_eq!(batch.line(line.as_bytes()), r#"{"ok":true,"commit":1}"#);
    let line = format!(
        r#"{{"op":"commit","set":{{"c":"{two}"}},"delete":["a","nobody"],"require":{{"a":"{one}","b":"{two}","c":null}}}}"#
    );
    assert_eq!(batch.line(line.as_bytes()), r#"{"ok":true,"commit":2}"#);
    // The same again: a is gone.
    let error = batch.ask_bad(&line, "precondition_failed");
    assert_eq!((&error["name"], &error["current"]), (&json!("a"), &Value::Null));
    let line = r#"{"op":"commit","set_data":{"d":""},"require":{"b":null}}"#;
    let error = batch.ask_bad(line, "precondition_failed");
    assert_eq!((&error["name"], &error["current"]), (&json!("b"), &json!(two)));
    let listed = batch.ask_ok(r#"{"op":"list"}"#);
    let both = json!([{"name": "b", "digest": two}, {"name": "c", "digest": two}]);
    assert_eq!(listed["pointers"], both);
    // Deleting what is absent is a commit too.
    assert_eq!(batch.line(br#"{"op":"commit","delete":["nobody"]}"#), r#"{"ok":true,"commit":3}"#);
    batch.kill();

    // What was acknowledged is there.
    assert_eq!(place.words("pointer get b").ok(), format!("{two}\n"));
    assert_eq!(place.words("pointer get c").ok(), format!("{two}\n"));
    place.words("pointer get a").failed(3);
    place.words("pointer get d").failed(3);
}

#[test]
fn commit_takes_names_that_are_no_text() {
    let place = Place::new();
    let mut batch = place.batch();
    let one = hex(b"one");
    batch.ask_ok(r#"{"op":"put","data":"one"}"#);
    let set = format!(
        r#"{{"op":"commit","changes":[{{"name_base64":"/w==","set":"{one}"}},{{"name_base64":"/w==","require":null}},{{"name_base64":"YQ==","set_data":"b25l"}}]}}"#
    );
    batch.ask_ok(&set);
    let error = batch.ask_bad(&set, "precondition_failed");
    assert_eq!((&error["name_base64"], &error["current"]), (&json!("/w=="), &json!(one)));
    assert!(error.get("name").is_none());
    batch.ask_ok(r#"{"op":"get","pointer":"a"}"#);
    let got = batch.ask_ok(r#"{"op":"get","pointer_base64":"/w=="}"#);
    assert_eq!((&got["digest"], &got["data_base64"]), (&json!(one), &json!("b25l")));
    batch.ask_ok(
        r#"{"op":"commit","changes":[{"name_base64":"/w==","delete":true},{"name":"a","delete":true}]}"#,
    );
    assert_eq!(batch.ask_ok(r#"{"op":"list"}"#)["pointers"], json!([]));
    batch.end().ok();
}

#[test]
fn commit_refuses_what_cannot_be() {
    let place = Place::new();
    let mut batch = place.batch();
    let absent = hex(b"absent");
    let one = hex(b"one");
    batch.ask_ok(r#"{"op":"commit","set_data":{"a":"b25l"}}"#);
    let line = format!(r#"{{"op":"commit","set":{{"b":"{absent}"}},"delete":["a"]}}"#);
    assert_eq!(batch.ask_bad(&line, "value_missing")["digest"], json!(absent));
    let long = "n".repeat(1_025);
    for line in [
        r#"{"op":"commit"}"#.to_owned(),
        r#"{"op":"commit","set":{},"delete":[]}"#.to_owned(),
        format!(r#"{{"op":"commit","require":{{"a":"{one}"}}}}"#),
        format!(r#"{{"op":"commit","set":{{"b":"{one}"}},"delete":["b"]}}"#),
        format!(r#"{{"op":"commit","set":{{"b":"{one}"}},"set_data":{{"b":""}}}}"#),
        r#"{"op":"commit","set_data":{"b":""},"delete":["b"]}"#.to_owned(),
        r#"{"op":"commit","delete":["a","a"]}"#.to_owned(),
        format!(r#"{{"op":"commit","set":{{"b":"{one}","b":"{one}"}}}}"#),
        r#"{"op":"commit","delete":[""]}"#.to_owned(),
        format!(r#"{{"op":"commit","delete":["{long}"]}}"#),
        format!(r#"{{"op":"commit","delete":["a"],"require":{{"{long}":null}}}}"#),
        format!(r#"{{"op":"commit","set":{{"b":"{}"}}}}"#, &one[1..]),
    ] {
        batch.ask_bad(&line, "bad_request");
    }
    let listed = batch.ask_ok(r#"{"op":"list"}"#);
    assert_eq!(listed["pointers"], json!([{"name": "a", "digest": one}]));
    // The longest name there is.
    batch.ask_ok(&format!(r#"{{"op":"commit","set_data":{{"{}":""}}}}"#, &long[1..]));
    batch.ask_ok(&format!(r#"{{"op":"get","pointer":"{}"}}"#, &long[1..]));
    batch.end().ok();
}

#[test]
fn get_reads_by_digest_or_by_pointer() {
    let place = Place::new();
    let mut batch = place.batch();
    let one = hex(b"one");
    batch.ask_ok(r#"{"op":"commit","set_data":{"a":"b25l"}}"#);
    let reply = format!(r#"{{"ok":true,"digest":"{one}","data_base64":"b25l"}}"#);
    assert_eq!(batch.line(format!(r#"{{"op":"get","digest":"{one}"}}"#).as_bytes()), reply);
    let upper = one.to_uppercase();
    assert_eq!(batch.line(format!(r#"{{"op":"get","digest":"{upper}"}}"#).as_bytes()), reply);
    assert_eq!(batch.line(br#"{"op":"get","pointer":"a"}"#), reply);
    batch.ask_bad(&format!(r#"{{"op":"get","digest":"{}"}}"#, hex(b"absent")), "not_found");
    batch.ask_bad(r#"{"op":"get","pointer":"nobody"}"#, "not_found");
    batch.ask_bad(r#"{"op":"get"}"#, "bad_request");
    batch.ask_bad(&format!(r#"{{"op":"get","digest":"{one}","pointer":"a"}}"#), "bad_request");
    batch.ask_bad(r#"{"op":"get","digest":"xyz"}"#, "bad_request");
    batch.ask_bad(r#"{"op":"get","pointer":""}"#, "bad_request");
    batch.end().ok();
}

#[test]
fn has_answers_for_each() {
    let place = Place::new();
    let mut batch = place.batch();
    batch.ask_ok(r#"{"op":"put","data":"one"}"#);
    let (one, absent) = (hex(b"one"), hex(b"absent"));
    let line = format!(r#"{{"op":"has","digests":["{one}","{absent}","{one}"]}}"#);
    assert_eq!(batch.line(line.as_bytes()), r#"{"ok":true,"present":[true,false,true]}"#);
    assert_eq!(batch.line(br#"{"op":"has","digests":[]}"#), r#"{"ok":true,"present":[]}"#);
    batch.ask_bad(r#"{"op":"has","digests":["xyz"]}"#, "bad_request");
    batch.end().ok();
}

#[test]
fn list_goes_on_from_page_to_page() {
    let place = Place::new();
    let mut batch = place.batch();
    let names = ["a", "a/", "a/1", "a/2", "a/3", "a0", "b"];
    let pairs: Vec<String> = names.iter().map(|name| format!(r#""{name}":"""#)).collect();
    batch.ask_ok(&format!(r#"{{"op":"commit","set_data":{{{}}}}}"#, pairs.join(",")));
    batch.ask_ok(
        r#"{"op":"commit","changes":[{"name_base64":"/w==","set_data":""},{"name_base64":"//8=","set_data":""}]}"#,
    );
    let mut list = |fields: Value| {
        let mut request = json!({"op": "list"});
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut reply = batch.ask_ok(&request.to_string());
        let pointers = reply["pointers"].as_array().unwrap().iter();
        let names = pointers.map(|pointer| match pointer.get("name") {
            Some(name) => name.as_str().unwrap().to_owned(),
            None => format!("base64 {}", pointer["name_base64"].as_str().unwrap()),
        });
        (names.collect::<Vec<_>>(), reply["next"].take(), reply["next_base64"].take())
    };
    let none = || (Value::Null, Value::Null);
    let page =
        |(names, next, next_base64): (Vec<String>, _, _)| (names.join(" "), (next, next_base64));

    assert_eq!(
        page(list(json!({}))),
        ("a a/ a/1 a/2 a/3 a0 b base64 /w== base64 //8=".into(), none())
    );
    assert_eq!(page(list(json!({"prefix": "a/"}))), ("a/ a/1 a/2 a/3".into(), none()));
    assert_eq!(page(list(json!({"prefix": "a/", "limit": 4}))), ("a/ a/1 a/2 a/3".into(), none()));
    let next = |name: &str| (json!(name), Value::Null);
    assert_eq!(page(list(json!({"prefix": "a/", "limit": 2}))), ("a/ a/1".into(), next("a/1")));
    let on = json!({"prefix": "a/", "after": "a/1", "limit": 2});
    assert_eq!(page(list(on)), ("a/2 a/3".into(), none()));
    assert_eq!(page(list(json!({"prefix": "a/", "after": "a"}))).0, "a/ a/1 a/2 a/3");
    assert_eq!(page(list(json!({"prefix": "a/", "after": "a/15"}))).0, "a/2 a/3");
    assert_eq!(page(list(json!({"prefix": "a/", "after": "b"}))), (String::new(), none()));
    assert_eq!(page(list(json!({"prefix": "nobody"}))), (String::new(), none()));
    assert_eq!(page(list(json!({"after": "a0", "limit": 1}))), ("b".into(), next("b")));
    let base64 = (Value::Null, json!("/w=="));
    assert_eq!(page(list(json!({"after": "b", "limit": 1}))), ("base64 /w==".into(), base64));
    assert_eq!(page(list(json!({"after_base64": "/w=="}))), ("base64 //8=".into(), none()));
    assert_eq!(page(list(json!({"prefix_base64": "//8="}))), ("base64 //8=".into(), none()));

    for line in [
        r#"{"op":"list","limit":0}"#,
        r#"{"op":"list","limit":-1}"#,
        r#"{"op":"list","limit":1e99}"#,
        r#"{"op":"list","prefix":7}"#,
        r#"{"op":"list","after":"a","after_base64":"YQ=="}"#,
    ] {
        batch.ask_bad(line, "bad_request");
    }
    batch.end().ok();
}

#[test]
fn a_list_has_a_thousand_pointers_unless_asked_otherwise() {
    let place = Place::new();
    let mut batch = place.batch();
    let pairs: Vec<String> = (0..10_001).map(|n| format!(r#""{n:05}":"""#)).collect();
    batch.ask_ok(&format!(r#"{{"op":"commit","set_data":{{{}}}}}"#, pairs.join(",")));
    let mut list = |line| {
        let reply = batch.ask_ok(line);
        (reply["pointers"].as_array().unwrap().len(), reply["next"].clone())
    };
    assert_eq!(list(r#"{"op":"list"}"#), (1_000, json!("00999")));
    assert_eq!(list(r#"{"op":"list","limit":10000}"#), (10_000, json!("09999")));
    assert_eq!(list(r#"{"op":"list","limit":99999999}"#), (10_000, json!("09999")));
    assert_eq!(list(r#"{"op":"list","after":"09999"}"#), (1, Value::Null));
    batch.end().ok();
}

#[test]
fn sync_stats_and_check_answer() {
    let place = Place::new();
    let mut batch = place.batch();
    batch.ask_ok(r#"{"op":"put","data":"one"}"#);
    assert_eq!(batch.line(br#"{"op":"sync"}"#), r#"{"ok":true}"#);
    batch.ask_ok(r#"{"op":"commit","set_data":{"a":"b25l"}}"#);
    let stats = batch.ask_ok(r#"{"op":"stats"}"#);
    assert_eq!(stats["stats"]["pointer_count"], json!(1));
    assert_eq!(stats["stats"]["last_commit"], json!(1));
    assert_eq!(stats["stats"]["recovery"]["created"], json!(true));
    assert_eq!(stats["stats"]["poisoned"], Value::Null);
    assert_eq!(batch.line(br#"{"op":"check"}"#), r#"{"ok":true,"findings":[]}"#);
    let line = br#"{"op":"check","read_data":true}"#;
    assert_eq!(batch.line(line), r#"{"ok":true,"findings":[]}"#);
    batch.kill();
    place.words(&format!("has {}", hex(b"one"))).ok();
}

#[test]
fn an_id_comes_back_as_it_was() {
    let place = Place::new();
    let mut batch = place.batch();
    for id in
        ["1", "null", r#""x""#, r#"{"a": [1.0, -0]}"#, "123456789012345678901234567890", "1e2"]
    {
        let line = format!(r#"{{"id":{id},"op":"sync"}}"#);
        assert_eq!(batch.line(line.as_bytes()), format!(r#"{{"ok":true,"id":{id}}}"#));
        let line = format!(r#"{{"op":"stop","id":{id}}}"#);
        let reply = batch.line(line.as_bytes());
        assert!(reply.starts_with(r#"{"ok":false,"error":{"kind":"bad_request","#), "{reply}");
        assert!(reply.ends_with(&format!(r#"}},"id":{id}}}"#)), "{reply}");
    }
    let reply = batch.line(br#"{"op":"sync"}"#);
    assert_eq!(reply, r#"{"ok":true}"#);
    batch.end().ok();
}

#[test]
fn bad_lines_are_answered_in_order_and_end_nothing() {
    let place = Place::new();
    let mut batch = place.batch();
    let deep_array = "[".repeat(200_000);
    let deep_field = format!(r#"{{"op":"put","data":{}"#, r#"{"a":"#.repeat(100_000));
    let deep_id = format!(r#"{{"op":"sync","id":{}{}}}"#, "[".repeat(500), "]".repeat(500));
    let huge_number = format!(r#"{{"op":"list","limit":{}}}"#, "9".repeat(100_000));
    let huge_text = format!(r#"{{"op":"{}"}}"#, "x".repeat(1 << 20));
    let mut binary = noise(3, 4_096);
    binary.retain(|byte| *byte != b'\n');
    let lines: [&[u8]; 17] = [
        b"",
        b"   ",
        b"\r",
        b"not json",
        b"null",
        b"[]",
        b"\"op\"",
        b"{\"op\":\"sync\"",
        b"{\"op\":\"sync\"} {}",
        b"{\"op\":\"put\",\"data\":\"\xff\"}",
        b"\0\0\0",
        &binary,
        deep_array.as_bytes(),
        deep_field.as_bytes(),
        deep_id.as_bytes(),
        huge_number.as_bytes(),
        huge_text.as_bytes(),
    ];
    for line in lines {
        let reply: Value = serde_json::from_str(&batch.line(line)).unwrap();
        let shown = line[..line.len().min(80)].escape_ascii();
        assert_eq!(reply["ok"], json!(false), "{shown}");
        assert_eq!(reply["error"]["kind"], json!("bad_request"), "{shown}: {reply}");
        assert!(reply["error"]["message"].as_str().unwrap().len() < 4_000, "{shown}");
    }
    // A line that ends as some systems end lines.
    assert_eq!(batch.line(b"{\"op\":\"sync\"}\r"), r#"{"ok":true}"#);
    assert_eq!(batch.end().ok(), "");
}

#[test]
fn many_requests_at_once_are_answered_in_order() {
    let place = Place::new();
    let mut lines = String::new();
    let mut replies = String::new();
    for n in 0..500 {
        match n % 3 {
            0 => {
                lines.push_str(&format!("{{\"op\":\"put\",\"data\":\"{n}\",\"id\":{n}}}\n"));
                let digest = hex(n.to_string().as_bytes());
                replies.push_str(&format!(
                    "{{\"ok\":true,\"digest\":\"{digest}\",\"new\":true,\"id\":{n}}}\n"
                ));
            }
            1 => {
                lines.push_str(&format!("{{\"op\":\"get\",\"id\":{n},\"pointer\":\"nobody\"}}\n"));
                replies.push_str(&format!(
                    "{{\"ok\":false,\"error\":{{\"kind\":\"not_found\",\"message\":\"there is no \
                     pointer nobody\"}},\"id\":{n}}}\n"
                ));
            }
            _ => {
                lines.push_str(&format!("{{\"op\":\"sync\",\"id\":{n}}}\n"));
                replies.push_str(&format!("{{\"ok\":true,\"id\":{n}}}\n"));
            }
        }
    }
    // The last line lacks its newline.
    lines.pop();
    assert_eq!(place.run_with_stdin(&["batch"], lines.as_bytes()).ok(), replies);
}

#[test]
fn a_line_over_the_limit_is_skipped_and_answered() {
    let place = Place::new();
    let mut command = place.command(pinstone());
    command.arg("batch").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let max = pinstone::Options::default().value_bytes_max.div_ceil(3) * 4 + (64 << 10);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            input.write_all(b"{\"op\":\"sync\"}\n").unwrap();
            let mut left = max + 1;
            let part = vec![b'x'; 1 << 20];
            while left > 0 {
                let len = left.min(part.len() as u64);
                input.write_all(&part[..usize::try_from(len).unwrap()]).unwrap();
                left -= len;
            }
            input.write_all(b"\n{\"op\":\"sync\",\"id\":2}\n").unwrap();
        });
        let mut output = String::new();
        child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        let limit = format!(
            r#"{{"ok":false,"error":{{"kind":"limit","message":"a line has at most {max} bytes"}}}}"#
        );
        assert_eq!(output, format!("{{\"ok\":true}}\n{limit}\n{{\"ok\":true,\"id\":2}}\n"));
    });
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_value_of_a_mebibyte_goes_there_and_back() {
    let place = Place::new();
    let value = noise(4, 1 << 20);
    place.store_value("head", &value);
    let mut batch = place.batch();
    let got = batch.ask_ok(r#"{"op":"get","pointer":"head"}"#);
    let text = got["data_base64"].as_str().unwrap();
    let put = batch.ask_ok(&format!(r#"{{"op":"put","data_base64":"{text}"}}"#));
    assert_eq!((&put["digest"], &put["new"]), (&json!(hex(&value)), &json!(false)));
    batch.end().ok();
}

#[test]
fn a_store_that_does_not_open_is_answered_with_nothing() {
    let place = Place::new();
    std::fs::create_dir(place.store()).unwrap();
    std::fs::write(place.store().join("letter"), "dear").unwrap();
    let mut command = place.command(pinstone());
    command.arg("batch");
    let error = feed(command, b"{\"op\":\"sync\"}\n").failed(1);
    assert!(error.contains("is no store"), "{error}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    let mut command = place.command(pinstone());
    command.arg("batch").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{\"op\":\"put\",\"data\":\"one\"}\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    place.words("check").ok();
}
