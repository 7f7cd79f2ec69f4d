use super::*;
use crate::profile::sample::{sample, sample_of};
use crate::profile::{Phase, RuntimeSeen, SampleUnchanged, UnopenedFile};

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
    insta::assert_snapshot!(said(&copies), @"
    71% of what was copied was only read: 58% reference counts (mostly `str`, in `walk_list`, app.py:28), 13% garbage collection.
    29% was data.
    ");
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
    insta::assert_snapshot!(said(&copies), @"
    90% of what was copied was only read: 70% garbage collection, 20% reference counts (mostly `str`, in `walk`, app.py:28).
    10% was data.
    ");
}

#[test]
fn the_only_part_is_not_counted_twice() {
    insta::assert_snapshot!(said(&[(71, Gc, "idle", None), (29, Data, "store", None)]), @"
    71% of what was copied was only read: garbage collection.
    29% was data.
    ");
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
    insta::assert_snapshot!(said(&copies), @"
    67% of what was copied was only read: 34% reference counts (mostly `str`, in `walk`, app.py:28), 33% garbage collection.
    33% was data.
    ");
}

#[test]
fn little_is_not_nothing_and_much_is_not_all() {
    let rest = (9_990, Data, "store", None);
    insta::assert_snapshot!(said(&[(10, Refcount, "walk", Some("str")), rest]), @"
    99% was data.
    Less than 1% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28).
    ");
    let both = [
        (6, Refcount, "walk", Some("str")),
        (4, Gc, "walk", None),
        rest,
    ];
    insta::assert_snapshot!(said(&both), @"
    99% was data.
    Less than 1% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28), garbage collection.
    ");
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

/// The sentences of a profile whose first call site is changed.
fn said_of(
    copies: &[(u64, CauseName, &str, Option<&str>)],
    change: impl FnOnce(&mut CallSite),
) -> String {
    let mut profile = sample_of(copies);
    let site = profile
        .call_sites
        .iter_mut()
        .find(|site| &*site.site.function == copies[0].2);
    change(site.unwrap());
    let read = profile
        .call_sites
        .iter()
        .filter(|site| site.is_copy_on_read());
    profile.totals.copy_on_read_pages = read.map(|site| site.pages).sum();
    sentences(&profile, TERMINAL).join("\n")
}

fn compared(site: &mut CallSite, unchanged_pages: u64, compared_pages: u64) {
    site.unchanged = Some(SampleUnchanged {
        unchanged_pages,
        compared_pages,
        ..SampleUnchanged::default()
    });
}

#[test]
fn what_only_the_way_of_writing_tells_is_not_claimed() {
    use CauseEvidence::{Function, Instruction};
    let by = |evidence, found: Option<(u64, u64)>| {
        said_of(&[(100, Refcount, "shop::lookup", None)], |site| {
            site.evidence = Some(evidence);
            if let Some((same, all)) = found {
                compared(site, same, all);
            }
        })
    };
    insta::assert_snapshot!(by(Instruction, None), @"100% was perhaps only read (in `shop::lookup`, app.py:28): it was written as reference counts are, and a counter of the program's own would look the same.");
    insta::assert_snapshot!(by(Instruction, Some((0, 64))), @"100% was counted in place (in `shop::lookup`, app.py:28): counters of the program's own, or references that it still holds; of 64 compared pages, none still equals the parent's.");
    insta::assert_snapshot!(by(Instruction, Some((40, 64))), @"100% was perhaps only read (in `shop::lookup`, app.py:28): it was written as reference counts are, and of 64 compared pages, 40 still equal the parent's.");
    insta::assert_snapshot!(by(Function, Some((62, 64))), @"100% of what was copied was only read: reference counts (in `shop::lookup`, app.py:28).");
}

#[test]
fn what_is_copied_on_the_way_out_is_not_called_read() {
    let copies = [
        (92, Refcount, "subtype_dealloc", Some("dict")),
        (5, Refcount, "walk", Some("str")),
        (3, Data, "store", None),
    ];
    let at = |phase| said_of(&copies, |site| site.phase = phase);
    insta::assert_snapshot!(at(Phase::Exit), @"
    92% was copied while processes exited (destroying objects): it lives for milliseconds; `os._exit`, or a worker that is not recycled, avoids it.
    5% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28).
    ");
    insta::assert_snapshot!(at(Phase::BeforeExec), @"
    92% was copied between fork and exec, and lives until the exec: `posix_spawn` or `vfork`, which share memory until then, avoid it.
    5% of what was copied was only read: reference counts (mostly `str`, in `walk`, app.py:28).
    ");
    insta::assert_snapshot!(said_of(&[(9, Data, "__do_global_dtors_aux", None)], |site| {
        site.phase = Phase::Exit;
    }), @"100% was copied while processes exited: it lives for milliseconds; `_exit`, or a worker that is not recycled, avoids it.");
}

#[test]
fn a_language_that_is_not_read_is_named() {
    let mut profile = sample_of(&[(90, Data, "zend_mm_alloc", None), (10, Gc, "gc_mark", None)]);
    profile.call_sites[1].evidence = Some(CauseEvidence::Function);
    compared(&mut profile.call_sites[1], 10, 10);
    // What was on the stack is not known.
    profile.call_sites[0].stacks.clear();
    for process in &mut profile.processes {
        process.interpreter = None;
        process.runtimes = vec![RuntimeSeen {
            name: "PHP".to_owned(),
            version: None,
        }];
    }
    insta::assert_snapshot!(sentences(&profile, TERMINAL).join("\n"), @"
    90% was data in processes with PHP, whose objects memtrace does not read: whether it was only read is not known.
    10% of what was copied was only read: garbage collection; where only the way of writing says so, 10 of 10 compared pages still equal the parent's.
    ");
    profile.processes[0]
        .runtimes
        .extend(["R", "Lua", "Perl"].map(|name| RuntimeSeen {
            name: name.to_owned(),
            version: None,
        }));
    let pid = profile.processes[0].pid;
    for site in &mut profile.call_sites {
        site.processes = [(pid, site.pages)].into();
    }
    insta::assert_snapshot!(sentences(&profile, TERMINAL)[0], @"90% was data in processes with Lua, PHP, Perl, others, whose objects memtrace does not read: whether it was only read is not known.");
}

#[test]
fn of_a_program_that_could_not_be_opened_nothing_is_claimed() {
    let said = |copies: &[(u64, CauseName, &str, Option<&str>)], paths: &[&str]| {
        let mut profile = sample_of(copies);
        for process in &mut profile.processes {
            process.copied_pages = 1;
            let file = |path: &&str| UnopenedFile {
                path: (*path).to_owned(),
                why: "permission denied (13)".to_owned(),
            };
            process.unopened = paths.iter().map(file).collect();
        }
        sentences(&profile, TERMINAL).join("\n")
    };
    let python = "/home/x/venv/bin/python3";
    let copies = [(90, Data, "store", None), (10, Allocator, "malloc", None)];
    insta::assert_snapshot!(said(&copies, &[python]), @"
    90% was copied by processes of which not all could be looked at (cannot open /home/x/venv/bin/python3: permission denied (13)): whether it was only read is not known.
    10% was bookkeeping of a memory allocator.
    ");
    let long = format!("/a/{}/lib.so", "x".repeat(1000));
    let two = said(&copies[1..], &[&long, python]);
    assert!(two.len() < 300, "{two}");
    let two = two.replace('x', "");
    insta::assert_snapshot!(two, @"Nothing of what was copied is known to have been only read, and not everything could be looked at (cannot open …/lib.so: permission denied (13), and 1 more): all of it was bookkeeping of a memory allocator.");
}

#[test]
fn without_looking_nothing_is_denied() {
    let mut profile = sample_of(&[(93, Data, "store", None), (7, Kernel, "recv", None)]);
    profile.host.python = crate::profile::Python::Off.into();
    insta::assert_snapshot!(sentences(&profile, TERMINAL)[0], @"Nothing of what was copied is known to have been only read, and Python was not looked at: 93% was data, 7% written by the kernel.");
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
    insta::assert_snapshot!(said(&copies), @r"
    For 60% it is not known what was written.
    40% was data.
    ");
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

#[test]
fn what_was_not_compared_is_not_mentioned() {
    let mut profile = sample();
    profile.totals.unchanged = None;
    let said = sentences(&profile, TERMINAL).join("\n");
    assert!(!said.contains("compared"), "{said}");
}
