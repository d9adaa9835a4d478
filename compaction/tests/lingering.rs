//! Which stale tables a rewriting goes on naming, and for which keys (L1).
#![forbid(unsafe_code)]

use bytes::Bytes;
use pinstone_compaction::lingering::Lingering;
use pinstone_compaction::{TableId, TableMeta};
use pinstone_disk::{Epoch, Ordinal, TableKind};

fn id(ordinal: u32) -> TableId {
    TableId { table: TableKind::Names, ordinal: Ordinal(ordinal), epoch: Epoch(1) }
}

/// A table with keys from the first letter to the last.
fn table(ordinal: u32, keys: &'static str) -> TableMeta {
    let (first, last) = keys.split_at(1);
    let (first, last) = (Bytes::from_static(first.as_bytes()), Bytes::from_static(last.as_bytes()));
    let id = id(ordinal);
    let (entry_count, spare_count, last_commit, file_bytes) = (1, 0, 1, 1);
    let footer_hash = [0; 32];
    TableMeta { id, first, last, entry_count, spare_count, last_commit, file_bytes, footer_hash }
}

/// What a rewriting of these tables carries on: `1:ap`, or `1:` where the keys are not known.
fn carried(lingering: &Lingering, inputs: &[TableMeta]) -> String {
    let carried = lingering.carried(TableKind::Names, inputs);
    let word = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
    let one = |carried: &pinstone_compaction::run::Carried| {
        let keys = carried.keys.as_ref().map(|keys| word(&keys.first) + &word(&keys.last));
        format!("{}:{}", carried.id.ordinal, keys.unwrap_or_default())
    };
    carried.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Tables of `az`, `bc`, `lm` and `xz` became two, of `dk` and `ps`: what else they had is deleted.
fn rewritten() -> (Lingering, [TableMeta; 2]) {
    let mut lingering = Lingering::default();
    let inputs = [table(1, "az"), table(2, "bc"), table(3, "lm"), table(4, "xz")];
    let outputs = [table(5, "dk"), table(6, "ps")];
    lingering.replace(&inputs.each_ref(), &outputs);
    (lingering, outputs)
}

#[test]
fn what_stands_between_two_tables_is_the_former_ones_to_name() {
    let (lingering, [first, second]) = rewritten();
    assert_eq!(carried(&lingering, std::slice::from_ref(&first)), "1:ap 2:bc 3:lm");
    assert_eq!(carried(&lingering, std::slice::from_ref(&second)), "1:pz 4:xz");
    assert_eq!(carried(&lingering, &[first, second]), "1:az 2:bc 3:lm 4:xz");
    assert_eq!(carried(&lingering, &[table(7, "az")]), "", "it was not written by a rewriting");
}

#[test]
fn shares_go_on_with_the_keys_that_they_had() {
    let (mut lingering, [first, second]) = rewritten();
    let other = table(7, "ju");
    let outputs = [table(8, "ef"), table(9, "tu")];
    lingering.replace(&[&first, &other], &outputs);
    assert_eq!(carried(&lingering, &outputs[..1]), "1:at 2:bc 3:lm 5:dk 7:jt");
    assert_eq!(carried(&lingering, &outputs[1..]), "1:tu 7:tu");
    assert_eq!(carried(&lingering, &[second]), "1:pz 4:xz 7:pu");
}

#[test]
fn a_table_whose_keys_are_not_known_is_named_by_every_rewriting() {
    let (mut lingering, [first, _]) = rewritten();
    lingering.add_unknown(id(9));
    lingering.add_unknown(id(2));
    assert_eq!(carried(&lingering, &[table(7, "az")]), "9:");
    assert_eq!(carried(&lingering, &[first]), "1:ap 2:bc 3:lm 9:");
    let other = lingering.carried(TableKind::Index, &[table(7, "az")]);
    assert_eq!(other, [], "another tree's");
}

#[test]
fn where_nothing_was_written_every_rewriting_names_what_was_replaced() {
    let (mut lingering, [first, second]) = rewritten();
    lingering.replace(&[&first], &[]);
    assert_eq!(carried(&lingering, &[table(7, "az")]), "1: 2: 3: 5:");
    assert_eq!(carried(&lingering, &[second]), "1: 2: 3: 4:xz 5:");
}

#[test]
fn nothing_is_kept_where_nothing_lingers() {
    let (mut lingering, [first, _]) = rewritten();
    (1..=4).for_each(|ordinal| lingering.forget(id(ordinal)));
    assert!(lingering.is_empty());
    lingering.replace(&[&table(7, "az")], &[table(8, "az")]);
    assert_eq!(carried(&lingering, &[first]), "", "its share is forgotten");
}
