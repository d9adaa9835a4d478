//! Files of every kind, damaged in every way: it is told, or it harmed nothing.
//!
//! - D1: what a command prints of a damaged store is what was stored, or it fails and names the file.
//! - D2: a command that refuses a damaged store leaves it as it found it.

use crate::harness::{Files, Place, files, logs, make, noise};

/// A store closed in good order: sealed and unsealed values, several commits.
fn store() -> (Files, Vec<(&'static str, Vec<u8>)>) {
    let place = Place::new();
    let values = vec![("small", b"small".to_vec()), ("empty", vec![]), ("large", noise(1, 40_000))];
    for (name, value) in &values {
        place.store_value(name, value);
    }
    (files(&place.store()), values)
}

/// Ways to damage a file; `None` where the bytes do not allow it.
fn damages(bytes: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut damages = vec![("missing".to_owned(), None)];
    if bytes.is_empty() {
        return damages;
    }
    damages.push(("zero-length".to_owned(), Some(vec![])));
    for keep in [1, bytes.len() / 2, bytes.len() - 1] {
        damages.push((format!("truncated to {keep}"), Some(bytes[..keep].to_vec())));
    }
    let last = bytes.len() - 1;
    for at in [0, 9, 45, bytes.len() / 3, bytes.len() / 2, last.saturating_sub(40), last] {
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 0x10;
            damages.push((format!("bit-flipped at {at}"), Some(flipped)));
        }
    }
    let mut longer = bytes.to_vec();
    longer.extend_from_slice(b"tail");
    damages.push(("longer".to_owned(), Some(longer)));
    damages
}

#[test]
fn a_damaged_file_is_told_or_harms_nothing() {
    let (sound, values) = store();
    let mut told = 0;
    for (file, bytes) in &sound {
        let mut told_of_file = 0;
        for (damage, damaged) in damages(bytes) {
            let what = format!("{file} {damage}");
            let place = Place::new();
            make(&place.store(), &sound);
            let path = place.store().join(file);
            match &damaged {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let before = logs(&place.store());
            let mut harmless = true;
            for (name, value) in &values {
                let ran = place.words(&format!("get @{name}"));
                if ran.code == 0 {
                    assert!(
                        ran.out == *value && ran.err.is_empty(),
                        "{what}: wrong bytes of {name}"
                    );
                } else {
                    harmless = false;
                    assert_eq!((ran.code, ran.out.len()), (1, 0), "{what}: {ran:?}");
                    assert!(ran.err.contains(file) || damaged.is_none(), "{what}: {ran:?}");
                }
            }
            let check = place.words("check --read-data");
            if harmless {
                assert!(check.code <= 1, "{what}: {check:?}");
            } else {
                assert_eq!(check.code, 1, "{what}: {check:?}");
                assert_ne!(check.text(), "ok\n", "{what}");
                told_of_file += 1;
                if place.words("stats").code != 0 {
                    assert!(logs(&place.store()) == before, "{what}");
                }
            }
        }
        if file != "LOCK" && file != "RESERVE" {
            assert!(told_of_file > 0, "no damage to {file} was told");
        }
        told += told_of_file;
    }
    println!("{} files, {told} damages told", sound.len());
}

#[test]
fn check_says_where_the_damage_is() {
    let (sound, _) = store();
    let place = Place::new();
    make(&place.store(), &sound);
    let (file, bytes) = sound.iter().find(|(name, _)| name.starts_with("blob")).unwrap();
    let at = bytes.windows(5).position(|bytes| bytes == b"small").unwrap();
    let mut bytes = bytes.clone();
    bytes[at] ^= 1;
    std::fs::write(place.store().join(file), bytes).unwrap();

    let ran = place.words("check --read-data");
    assert_eq!(ran.code, 1, "{ran:?}");
    let text = ran.text();
    assert!(text.starts_with(&format!("{file} at offset ")), "{text}");
    assert!(!text.contains("ok\n"), "{text}");

    let ran = place.words("check --read-data --json");
    let report: serde_json::Value = serde_json::from_str(&ran.text()).unwrap();
    assert_eq!((ran.code, &report["ok"]), (1, &false.into()), "{report}");
    assert_eq!(report["findings"][0]["file"], file.as_str());
    assert!(report["findings"][0]["offset"].as_u64().unwrap() <= at as u64, "{report}");
}

#[test]
fn a_store_without_its_root_is_an_error_and_never_a_fresh_store() {
    let (sound, _) = store();
    let place = Place::new();
    make(&place.store(), &sound);
    std::fs::remove_file(place.store().join("CURRENT")).unwrap();
    for args in ["put", "stats", "check", "batch", "pointer list"] {
        let ran = place.words(args);
        assert_eq!(ran.code, 1, "{args}: {ran:?}");
    }
    let kept = logs(&place.store());
    assert!(kept.iter().all(|file| sound.contains(file)));
    let log_count = |files: &[(String, Vec<u8>)]| {
        files.iter().filter(|(name, _)| name.ends_with(".log")).count()
    };
    assert_eq!(log_count(&kept), log_count(&sound));
}

#[test]
fn a_list_gives_what_stands_before_damage_and_then_the_error() {
    let place = Place::new();
    let builder =
        pinstone::Store::builder().pointer_segment_bytes(64 << 10).memtable_entries_max(1);
    let store = builder.maintenance(pinstone::Maintenance::Inline).open(place.store()).unwrap();
    let digest = store.put(b"value").unwrap().digest;
    for first in (0..5000).step_by(100) {
        let name = |number| format!("name {number:05}");
        let names = (first..first + 100).map(name);
        store.commit(names.fold(pinstone::Batch::new(), |to, name| to.set(name, digest))).unwrap();
    }
    store.compact().unwrap();
    store.close().unwrap();
    // A block in the middle of the largest table.
    let tables = files(&place.store()).into_iter().filter(|(name, _)| name.starts_with("names-"));
    let (file, mut bytes) = tables.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(place.store().join(&file), bytes).unwrap();

    let (lines, document) = (place.words("pointer list"), place.words("pointer list --json"));
    for ran in [&lines, &document] {
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains(&file), "{}", ran.err);
    }
    let (lines, document) = (lines.text(), document.text());
    assert!((100..5000).contains(&lines.lines().count()), "{} lines", lines.lines().count());
    assert!(document.ends_with('}'), "a pointer is there whole, and nothing behind it");
    let listed: serde_json::Value = serde_json::from_str(&format!("{document}]}}")).unwrap();
    let of_document = listed["pointers"].as_array().unwrap().iter();
    let of_document: Vec<_> =
        of_document.map(|pointer| pointer["name"].as_str().unwrap()).collect();
    let of_lines: Vec<_> = lines.lines().map(|line| line.split_once('\t').unwrap().1).collect();
    assert_eq!(of_document, of_lines);
}
