//! Logs of several segments: where one ends and the next goes on, what is sealed, what the root forgot.

use expect_test::expect;

use crate::script::check;

#[test]
fn a_log_goes_on_in_the_next_segment_after_its_last_frame() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         blob 2 put fig
         blob 2 flip 1
         blob 3 begin",
        &expect![[r#"
            blob: whole to 2:1024, 57 bytes cut
        "#]],
    );
}

#[test]
fn a_segment_without_its_last_frame_ends_the_log() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         blob 2 put fig
         blob 1 zero 1",
        &expect![[r#"
            blob: whole to 1:1024, 1024 bytes cut
        "#]],
    );
}

#[test]
fn a_lost_last_frame_that_was_durable_is_corrupt() {
    check(
        "blob 1 put apple
         blob 1 last
         durable blob
         blob 2 put pear
         blob 1 zero 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: expected a frame's kind; the last good frame ends here, and the frame at 512 of blob-00000002-00000001.log says that the log was durable to 1:1536
        "#]],
    );
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         pointer 1 put x
         blob 1 zero 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: expected a frame's kind; the last good frame ends here, and the frame at 512 of pointer-00000001-00000001.log says that the log was durable to 2:1024
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn an_only_segment_that_the_root_forgot_is_corrupt_if_anything_testifies_to_it() {
    check(
        "blob 1 put apple
         durable blob
         pointer 1 put x
         pointer 1 put y
         remove blob 1",
        &expect![[r#"
            blob: pointer-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 1:1024, and the root names no segment of it
            pointer: whole to 1:1536
        "#]],
    );
    // Its own frames do.
    check(
        "blob 1 put apple
         durable blob
         blob 1 put pear
         forget blob 1",
        &expect![[r#"
            blob: blob-00000001-00000001.log is corrupt at offset 1024: the frame here says that the blob log was durable to 1:1024, and the root names no segment of it
        "#]],
    );
    check(
        "blob 1 put apple
         closed blob
         root 1 put x
         remove blob 1",
        &expect![[r#"
            blob: root-00000001-00000001.log is corrupt at offset 512: the root, when the store was closed, says that the blob log was durable to 1:1024, and the root names no segment of it
            root: whole to 1:1024
        "#]],
    );
}

#[test]
fn a_segment_after_the_sealed_ones_that_the_root_forgot_is_corrupt_if_anything_testifies_to_it() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         pointer 1 put x
         sealed blob 1
         remove blob 2",
        &expect![[r#"
            blob: pointer-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 2:1024, and the root names no segment of it after 1
            pointer: whole to 1:1024
        "#]],
    );
    // Its own frames do.
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         blob 2 put fig
         sealed blob 1
         forget blob 2",
        &expect![[r#"
            blob: blob-00000002-00000001.log is corrupt at offset 1024: the frame here says that the blob log was durable to 2:1024, and the root names no segment of it after 1
        "#]],
    );
    // The root's word at closing does, which stands in its last record.
    check(
        "pointer 1 put x
         pointer 1 last
         pointer 2 put y
         closed pointer
         root 1 put first
         root 1 put closing
         root 1 witness
         sealed pointer 1
         remove pointer 2",
        &expect![[r#"
            pointer: root-00000001-00000001.log is corrupt at offset 1024: the root, when the store was closed, says that the pointer log was durable to 2:1024, and the root names no segment of it after 1
            root: whole to 1:2048
        "#]],
    );
}

#[test]
fn a_segment_after_unsealed_ones_that_the_root_forgot_is_corrupt_if_anything_testifies_to_it() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         durable blob
         root 1 put x
         remove blob 2",
        &expect![[r#"
            blob: root-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 2:1024, and the root names no segment of it after 1
            root: whole to 1:1024
        "#]],
    );
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         blob 2 last
         blob 3 put fig
         durable blob
         root 1 put x
         sealed blob 1
         remove blob 3",
        &expect![[r#"
            blob: root-00000001-00000001.log is corrupt at offset 512: the frame here says that the blob log was durable to 3:1024, and the root names no segment of it after 2
            root: whole to 1:1024
        "#]],
    );
}

#[test]
fn what_the_root_does_not_name_and_nothing_testifies_to_is_not_missed() {
    check(
        "blob 1 put apple
         blob 1 last
         durable blob
         blob 2 put pear
         pointer 1 put x
         sealed blob 1
         forget blob 2",
        &expect![[r#"
            pointer: whole to 1:1024
        "#]],
    );
    check(
        "blob 1 put apple
         pointer 1 put x
         forget blob 1",
        &expect![[r#"
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn testimony_to_sealed_segments_is_met_by_their_being_sealed() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 put pear
         blob 2 last
         durable blob
         pointer 1 put x
         sealed blob 1
         sealed blob 2",
        &expect![[r#"
            pointer: whole to 1:1024
        "#]],
    );
}

#[test]
fn an_empty_segment_between_two_ends_the_log() {
    check(
        "blob 1 put apple
         blob 1 last
         blob 2 begin
         blob 3 put pear",
        &expect![[r#"
            blob: whole to 2:512, 512 bytes cut
        "#]],
    );
}

#[test]
fn what_stands_after_a_last_frame_is_not_torn() {
    check(
        "blob 1 put apple
         blob 1 last
         durable blob
         blob 1 garbage half-a-footer",
        &expect![[r#"
            blob: whole to 1:1536, complete
        "#]],
    );
    check(
        "blob 1 put apple
         blob 1 last
         blob 1 put pear",
        &expect![[r#"
            blob: whole to 1:1536, complete
        "#]],
    );
}
