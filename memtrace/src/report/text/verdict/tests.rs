use super::*;
use crate::profile::sample::{sample, sample_of};

const TERMINAL: Screen = Screen {
    width: 80,
    shorten: true,
    color: false,
};

use CauseName::{Allocator, Data, Gc, Kernel, Object, Refcount, Remote, Unknown};

/// The sentences on what the given copies were: pages, cause, function and type.
fn said(copies: &[(u64, CauseName, &str, Option<&str>)]) -> String {
    sentences(&sample_of(copies), TERMINAL).join("\n")
}

#[test]
fn the_example_of_the_documentation() {
    let copies = [
        (500, Refcount, "walk_list", Some("str")),
        (80, Refcount, "walk_list", Some("dict")),
        (130, Gc, "walk_list", None),
        (290, Data, "store", None),
    ];
    insta::assert_snapshot!(said(&copies), @"71% of what was copied was only read: 58% reference counts (mostly `str`, in `walk_list`, app.py:28), 13% garbage collection.");
}

#[test]
fn nothing_is_said_of_nothing() {
    assert_eq!(said(&[]), "");
}

#[test]
fn the_largest_part_is_named_first() {
    let copies = [
        (20, Refcount, "walk", Some("str")),
        (70, Gc, "walk", Some("dict")),
        (10, Data, "walk", None),
    ];
    insta::assert_snapshot!(said(&copies), @"90% of what was copied was only read: 70% garbage collection, 20% reference counts (mostly `str`, in `walk`, app.py:28).");
}

#[test]
fn the_only_part_is_not_counted_twice() {
    insta::assert_snapshot!(said(&[(71, Gc, "idle", None), (29, Data, "store", None)]), @"71% of what was copied was only read: garbage collection.");
    insta::assert_snapshot!(said(&[(7, Refcount, "walk", Some("str"))]), @"100% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28).");
}

#[test]
fn parts_add_up_to_the_whole_that_is_said() {
    // 33.3%, 33.3% and 33.3%: rounded alone, the parts would be 66.
    let copies = [
        (1, Refcount, "walk", Some("str")),
        (1, Gc, "walk", None),
        (1, Data, "store", None),
    ];
    insta::assert_snapshot!(said(&copies), @"67% of what was copied was only read: 34% reference counts (mostly `str`, in `walk`, app.py:28), 33% garbage collection.");
}

#[test]
fn little_is_not_nothing_and_much_is_not_all() {
    let rest = (9_990, Data, "store", None);
    insta::assert_snapshot!(said(&[(10, Refcount, "walk", Some("str")), rest]), @"Less than 1% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28).");
    let both = [
        (6, Refcount, "walk", Some("str")),
        (4, Gc, "walk", None),
        rest,
    ];
    insta::assert_snapshot!(said(&both), @"Less than 1% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28), garbage collection.");
    let most = [
        (9_996, Refcount, "walk", Some("str")),
        (4, Data, "store", None),
    ];
    insta::assert_snapshot!(said(&most), @"99% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28).");
    let collected = [
        (9_996, Refcount, "walk", Some("str")),
        (4, Gc, "walk", None),
    ];
    insta::assert_snapshot!(said(&collected), @"100% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28), <1% garbage collection.");
}

#[test]
fn types_of_which_none_has_half_are_not_called_most() {
    let copies = [
        (40, Refcount, "walk", Some("dict")),
        (35, Refcount, "walk", Some("str")),
        (25, Refcount, "walk", Some("tuple")),
    ];
    insta::assert_snapshot!(said(&copies), @"100% of what was copied was only read: reference counts (most often `dict` and `str`, in `walk`, app.py:28).");
    let copies = [
        (45, Refcount, "walk", Some("dict")),
        (55, Refcount, "walk", None),
    ];
    insta::assert_snapshot!(said(&copies), @"100% of what was copied was only read: reference counts (object types mostly not known, in `walk`, app.py:28).");
    let copies = [
        (45, Refcount, "walk", Some("dict")),
        (40, Refcount, "walk", None),
        (15, Refcount, "walk", Some("str")),
    ];
    insta::assert_snapshot!(said(&copies), @"100% of what was copied was only read: reference counts (most often `dict` and `str`, in `walk`, app.py:28).");
    insta::assert_snapshot!(said(&[(5, Refcount, "walk", None)]), @"100% of what was copied was only read: reference counts (in `walk`, app.py:28).");
}

#[test]
fn a_place_that_has_less_than_half_is_one_of_many() {
    let copies = [
        (40, Refcount, "walk", Some("str")),
        (35, Refcount, "render", Some("str")),
        (25, Refcount, "encode", Some("str")),
    ];
    insta::assert_snapshot!(said(&copies), @"100% of what was copied was only read: reference counts (mostly `str`, in 3 places, the most in `walk`, app.py:28).");
    let copies = [
        (30, Refcount, "walk", Some("str")),
        (30, Refcount, "walk", Some("dict")),
        (40, Refcount, "encode", Some("tuple")),
    ];
    insta::assert_snapshot!(said(&copies), @"100% of what was copied was only read: reference counts (most often `tuple` and `dict`, mostly in `walk`, app.py:28).");
    insta::assert_snapshot!(said(&[(5, Refcount, "[unknown]", Some("str"))]), @"100% of what was copied was only read: reference counts (mostly `str`, in a function that is not known).");
}

#[test]
fn a_function_without_a_file_has_its_module() {
    let mut profile = sample_of(&[(5, Refcount, "shop::lookup", None)]);
    let site = &mut profile.call_sites[0].site;
    (site.file, site.line) = (None, None);
    site.module = Some("/srv/shop/lib/_pricing.so".into());
    insta::assert_snapshot!(sentences(&profile, TERMINAL)[0], @"100% of what was copied was only read: reference counts (in `shop::lookup`, _pricing.so).");
    profile.call_sites[0].site.function = "_pricing.so+0x12".into();
    insta::assert_snapshot!(sentences(&profile, TERMINAL)[0], @"100% of what was copied was only read: reference counts (in `_pricing.so+0x12`).");
}

#[test]
fn what_only_the_instruction_tells_is_said_to_be() {
    let mut profile = sample_of(&[(5, Refcount, "shop::lookup", None)]);
    profile.call_sites[0].evidence = Some(CauseEvidence::Instruction);
    insta::assert_snapshot!(sentences(&profile, TERMINAL)[0], @"100% of what was copied was only read: reference counts (judged by the instruction that wrote, in `shop::lookup`, app.py:28).");
}

#[test]
fn without_copy_on_read_it_says_what_was_written() {
    let copies = [
        (930, Data, "store", None),
        (40, Object, "store", Some("dict")),
        (20, Kernel, "recv", None),
        (6, Allocator, "store", None),
        (4, Remote, "store", None),
    ];
    insta::assert_snapshot!(said(&copies), @"Nothing of what was copied was only read: 93% was data, 4% fields of objects, 2% written by the kernel, 1% something else.");
    insta::assert_snapshot!(said(&[(930, Data, "store", None)]), @"Nothing of what was copied was only read: all of it was data.");
    let copies = [(60, Unknown, "store", None), (40, Data, "store", None)];
    insta::assert_snapshot!(said(&copies), @"Nothing of what was copied is known to have been only read: 40% was data; for 60% it is not known.");
}

#[test]
fn what_is_not_known_is_said_to_be() {
    insta::assert_snapshot!(said(&[(60, Unknown, "store", None)]), @"What was written is not known: the page was gone.");
    let mut profile = sample_of(&[(6, Unknown, "store", None), (5, Unknown, "walk", None)]);
    profile.call_sites[0].cause_reason = Some("the record of the copy was lost".to_owned());
    insta::assert_snapshot!(sentences(&profile, TERMINAL)[0], @"What was written is not known; the reasons stand below.");
    let copies = [
        (865, Refcount, "walk", Some("str")),
        (135, Unknown, "store", None),
    ];
    insta::assert_snapshot!(said(&copies), @"87% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28); for 13% it is not known.");
}

#[test]
fn hostile_names_are_escaped_and_short() {
    let copies = [(
        5,
        Refcount,
        "\u{1b}[2J\u{202e}<b>\n",
        Some("very.long.name.of.a.type\u{7}.that.has.no.end.in.sight.at.all"),
    )];
    insta::assert_snapshot!(said(&copies), @r"100% of what was copied was only read: reference counts (mostly `very.long.name.of.a.…end.in.sight.at.all`, in `\u{1b}[2J\u{202e}<b>\n`, app.py:28).");
    // The letters of a script that runs to the left are its own; only what turns the line goes.
    insta::assert_snapshot!(said(&[(5, Refcount, "\u{5e9}\u{200f}", None)]), @r"100% of what was copied was only read: reference counts (in `ש\u{200f}`, app.py:28).");
    let whole = sentences(&sample_of(&copies), Screen::of_a_file());
    assert!(whole[0].contains("`very.long.name.of.a.type\\u{7}.that.has.no.end.in.sight.at.all`"));
}

/// The sentence on `unchanged_pages` of `compared` of `comparable`, and `gone`.
fn compared(unchanged_pages: u64, compared: u64, comparable: u64, gone: u64) -> String {
    let sentence = unchanged(Unchanged {
        unchanged_pages,
        compared_pages: compared,
        comparable_pages: comparable,
        gone_pages: gone,
    });
    sentence.unwrap_or_default()
}

#[test]
fn what_was_copied_for_nothing_is_proven() {
    insta::assert_snapshot!(compared(4_994, 5_117, 5_117, 0), @"Of 5,117 copied pages, 4,994 (98%) still equal the parent's: they were copied for nothing.");
    insta::assert_snapshot!(compared(4_994, 5_117, 40_000, 0), @"Of a sample of 5,117 of 40,000 copied pages, 4,994 (98%) still equal the parent's: they were copied for nothing.");
    insta::assert_snapshot!(compared(4_994, 5_117, 5_117, 1_200), @"Of 5,117 copied pages, 4,994 (98%) still equal the parent's: they were copied for nothing. 1,200 pages could not be compared: a process had ended, or they were unmapped.");
    insta::assert_snapshot!(compared(1, 5_117, 5_117, 1), @"Of 5,117 copied pages, 1 (<1%) still equals the parent's: it was copied for nothing. 1 page could not be compared: a process had ended, or it was unmapped.");
    insta::assert_snapshot!(compared(0, 5_117, 5_117, 0), @"Of 5,117 copied pages, none still equals the parent's.");
    insta::assert_snapshot!(compared(1, 1, 1, 0), @"Of 1 copied page, 1 (100%) still equals the parent's: it was copied for nothing.");
    insta::assert_snapshot!(compared(0, 0, 0, 12), @"12 copied pages could not be compared: a process had ended, or they were unmapped.");
    assert_eq!(compared(0, 0, 0, 0), "");
}

#[test]
fn what_was_not_compared_is_not_mentioned() {
    let mut profile = sample();
    profile.totals.unchanged = None;
    assert_eq!(sentences(&profile, TERMINAL).len(), 1);
}
