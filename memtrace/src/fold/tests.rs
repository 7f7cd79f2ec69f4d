use std::time::{Duration, Instant};

use foldhash::HashMap;
use proptest::prelude::*;

use super::*;
use crate::cause::Write;
use crate::profile::Site;
use crate::symbolize::blame;
use crate::symbolize::leaving::Leaving;
use crate::symbolize::role::Role;

const SEEN: Observation = Observation {
    cause: Cause::Refcount,
    evidence: Evidence::Refcount,
    origin: Origin::Fork,
    phase: Phase::Run,
    area: None,
    object_type: None,
    field_offset: None,
};

const WRITER: Writer = Writer {
    write: Write::Store,
    role: Role::Other,
    no_end: false,
    leaves: Leaving::No,
};

fn copy(process: ProcessId, seen: Observation) -> Copy {
    Copy {
        process,
        seen,
        latency_ns: Some(1000),
        time_ns: 0,
        age_ms: 5,
        page: None,
    }
}

fn key(id: u64) -> StackKey {
    StackKey::Taken { id, ip: id }
}

fn named(functions: &[&str]) -> Named {
    let frames: Vec<_> = functions
        .iter()
        .map(|function| Frame::native(function, "/bin/app"))
        .collect();
    Named {
        site: blame(&frames, 0),
        frames,
        places: Vec::new(),
        truncated: None,
        writer: WRITER,
        lost: false,
    }
}

fn add(fold: &mut Fold, id: u64) -> StackIndex {
    fold.find_or_add_stack(SpaceId::Snapshot(0), key(id), AddressSpace::gone)
}

/// A stack of a library that this function of the application called.
fn named_for(app: &str) -> Named {
    let mut named = named(&["iterrows", app]);
    named.site.app = Some(Site {
        function: app.into(),
        ..named.site.site.clone()
    });
    named
}

#[test]
fn a_library_that_was_called_for_two_is_two_call_sites() {
    let mut fold = Fold::default();
    for (id, app) in [(1, "worker"), (2, "export"), (3, "worker")] {
        let stack = add(&mut fold, id);
        fold.count(stack, &copy(0, SEEN));
        let handle = fold.take_unnamed(1)[0].handle;
        fold.set_name(handle, named_for(app));
    }
    let tally = fold.tally();
    let apps: Vec<_> = (tally.sites.iter())
        .filter_map(|site| Some(&*site.app.as_ref()?.function))
        .collect();
    assert_eq!(apps, ["worker", "export"]);
    let pages: Vec<u64> = (0..2)
        .map(|site| {
            let mut sums = tally.site_sums.iter();
            let (_, &sum) = sums.find(|((of, _), _)| *of == site).unwrap();
            tally.sums[sum].processes[&0]
        })
        .collect();
    assert_eq!(pages, [2, 1]);
}

#[test]
fn beyond_a_bound_what_led_to_a_call_site_is_left_out() {
    let mut fold = Fold::default();
    add(&mut fold, 1);
    let handle = fold.take_unnamed(1)[0].handle;
    fold.set_name(handle, named_for("worker"));
    let (known, new) = (named_for("worker").site, named_for("export").site);
    assert_eq!(fold.bounded(new.clone(), 2), new);
    assert_eq!(fold.bounded(known.clone(), 1), known);
    let bounded = fold.bounded(new.clone(), 1);
    assert_eq!((bounded.site, bounded.app), (new.site, None));
}

#[test]
fn copies_go_to_the_call_site_when_their_stack_is_named() {
    let mut fold = Fold::default();
    let (one, other) = (add(&mut fold, 1), add(&mut fold, 2));
    fold.count(one, &copy(0, SEEN));
    fold.count(other, &copy(1, SEEN));
    assert!(fold.tally().site_sums.is_empty());
    for unnamed in fold.take_unnamed(10) {
        fold.set_name(unnamed.handle, named(&["walk", "main"]));
    }
    // After it was named, its copies go there at once.
    fold.count(one, &copy(0, SEEN));
    let tally = fold.tally();
    assert_eq!(tally.sites.len(), 1);
    let (_, &sum) = tally.site_sums.iter().next().unwrap();
    assert_eq!(
        tally.sums[sum].processes,
        HashMap::from_iter([(0, 2), (1, 1)])
    );
    assert_eq!(tally.sums[sum].latency.count(), 3);
    assert_eq!(tally.sums[sum].age.count(), 3);
}

#[test]
fn stacks_with_the_same_functions_are_one() {
    let mut fold = Fold::default();
    for id in 0..3 {
        let stack = add(&mut fold, id);
        fold.count(stack, &copy(id as usize, SEEN));
    }
    let stacks = [["walk", "main"], ["walk", "main"], ["walk", "start"]];
    let unnamed = fold.take_unnamed(3).into_iter();
    for (address, (unnamed, functions)) in unnamed.zip(stacks).enumerate() {
        let mut name = named(&functions);
        // The same code is elsewhere in another process.
        name.frames[1].address = address as u64;
        fold.set_name(unnamed.handle, name);
    }
    let find = |id| fold.find_stack(SpaceId::Snapshot(0), key(id)).unwrap();
    assert_eq!(find(0), find(1));
    assert_ne!(find(0), find(2));
    let tally = fold.tally();
    let frames = |stack: usize| tally.stacks[stack].name.unwrap().frames;
    assert_eq!(tally.frame_lists.len(), 2);
    let [one, other] = [0, 2].map(|id| &tally.frame_lists[frames(find(id))]);
    assert!(Arc::ptr_eq(&one[0], &other[0]), "one frame is one object");
    let cells = &tally.stacks[find(0)].cells;
    assert_eq!(cells.len(), 1);
    assert_eq!(tally.cells[cells[0]].pages, 2);
    // Its place is used again.
    assert_eq!(add(&mut fold, 9), 1);
}

#[test]
fn the_same_functions_that_write_in_another_way_are_another_stack() {
    let mut fold = Fold::default();
    for id in 0..2 {
        add(&mut fold, id);
    }
    for (unnamed, write) in fold
        .take_unnamed(2)
        .into_iter()
        .zip([Write::Store, Write::Count])
    {
        let mut name = named(&["walk"]);
        name.writer.write = write;
        fold.set_name(unnamed.handle, name);
    }
    let find = |id| fold.find_stack(SpaceId::Snapshot(0), key(id)).unwrap();
    assert_ne!(find(0), find(1));
}

/// Pages by the functions of their stack, joined.
fn pages_by_stack(tally: &Tally) -> HashMap<String, u64> {
    let mut found = HashMap::default();
    for stack in &tally.stacks {
        let Some(name) = stack.name else { continue };
        let frames = tally.frame_lists[name.frames].iter();
        let names: Vec<&str> = frames.map(|frame| &*frame.function).collect();
        let pages: u64 = stack
            .cells
            .iter()
            .map(|&cell| tally.cells[cell].pages)
            .sum();
        *found.entry(names.join(" < ")).or_default() += pages;
    }
    found
}

#[test]
fn places_in_one_function_are_told_apart() {
    let mut fold = Fold::default();
    for id in 0..3 {
        add(&mut fold, id);
    }
    for (unnamed, place) in fold.take_unnamed(3).into_iter().zip([16, 32, 16]) {
        let mut name = named(&["walk", "main"]);
        name.frames[1].address = 0x1000 + place;
        name.places = vec![8, place];
        fold.set_name(unnamed.handle, name);
    }
    let find = |id| fold.find_stack(SpaceId::Snapshot(0), key(id)).unwrap();
    assert_eq!(find(0), find(2));
    assert_ne!(find(0), find(1));
    let tally = fold.tally();
    let frames = |id| &tally.frame_lists[tally.stacks[find(id)].name.unwrap().frames];
    assert_eq!([0, 1].map(|id| frames(id)[1].address), [0x1010, 0x1020]);
}

#[test]
fn the_rarest_stacks_are_added_up_at_their_call_site() {
    let mut fold = Fold::default();
    for id in 0..12 {
        let stack = add(&mut fold, id);
        for _ in 0..=id {
            fold.count(stack, &copy(0, SEEN));
        }
    }
    for (id, unnamed) in fold.take_unnamed(12).into_iter().enumerate() {
        let caller = format!("caller{id}");
        let site = if id % 2 == 0 { "even" } else { "odd" };
        fold.set_name(unnamed.handle, named(&[site, &caller]));
    }
    fold.keep_most(12, 0);
    assert_eq!(fold.tally().folded, 0, "there is room for them");
    fold.keep_most(4, 2);
    assert_eq!(fold.tally().folded, 8);
    let found = pages_by_stack(fold.tally());
    let expected = [
        ("even", 1 + 3 + 5 + 7),
        ("odd", 2 + 4 + 6 + 8),
        ("even < caller8", 9),
        ("odd < caller9", 10),
        ("even < caller10", 11),
        ("odd < caller11", 12),
    ];
    assert_eq!(
        found,
        expected
            .map(|(name, pages)| (name.to_owned(), pages))
            .into_iter()
            .collect()
    );
    // Later copies on a stack that was added up go where it went.
    let stack = add(&mut fold, 0);
    fold.count(stack, &copy(0, SEEN));
    assert!(!fold.has_unnamed());
    assert_eq!(pages_by_stack(fold.tally())["even"], 17);
    let lists = fold.tally().frame_lists.iter();
    assert_eq!(lists.filter(|list| !list.is_empty()).count(), 6);
}

#[test]
fn processes_that_are_added_up_keep_their_pages() {
    let mut fold = Fold::default();
    let (one, other) = (add(&mut fold, 1), add(&mut fold, 2));
    for process in 0..4 {
        fold.count(one, &copy(process, SEEN));
        fold.count(other, &copy(process, SEEN));
    }
    for unnamed in fold.take_unnamed(1) {
        fold.set_name(unnamed.handle, named(&["walk"]));
    }
    fold.add_up(&[0, 2]);
    let pages = HashMap::from_iter([(1, 1), (3, 1), (OTHERS, 2)]);
    let tally = fold.tally();
    let (_, &sum) = tally.site_sums.iter().next().unwrap();
    assert_eq!(tally.sums[sum].processes, pages);
    let unnamed = tally.unnamed_pages();
    assert_eq!(unnamed[&OTHERS], [2, 0, 0, 0]);
}

#[test]
fn one_stack_in_other_mappings_is_another() {
    let mut fold = Fold::default();
    let one = add(&mut fold, 1);
    let other = fold.find_or_add_stack(SpaceId::Snapshot(1), key(1), AddressSpace::gone);
    assert_ne!(one, other);
    assert_eq!(fold.find_stack(SpaceId::Snapshot(1), key(1)), Some(other));
    assert_eq!(fold.find_stack(SpaceId::Unread(1), key(1)), None);
}

#[test]
fn a_sum_that_was_merged_is_used_again() {
    let mut sums = Sums::default();
    let (one, other) = (sums.add(), sums.add());
    sums[one].age.record(3);
    sums.merge(one, other);
    assert_eq!(sums.add(), one);
    assert!(sums[one].age.is_empty());
    assert_eq!(sums[other].age.count(), 1);
    // Merging a sum into itself moves nothing and does not free it.
    sums.merge(other, other);
    assert_eq!(sums[other].age.count(), 1);
    assert_ne!(sums.add(), other);
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let mut fold = Fold::default();
    let stack = add(&mut fold, 1);
    fold.count(stack, &copy(0, SEEN));
    let before = fold.tally().clone();
    fold.count(stack, &copy(0, SEEN));
    let unnamed = fold.take_unnamed(1).remove(0);
    fold.set_name(unnamed.handle, named(&["walk"]));
    assert_eq!(
        before.unnamed_pages(),
        HashMap::from_iter([(0, [1, 0, 0, 0])])
    );
    assert!(fold.tally().unnamed_pages().is_empty());
}

/// Pages by phase, of stacks that have a name.
fn pages_by_phase(fold: &Fold) -> HashMap<Phase, u64> {
    let mut pages = HashMap::default();
    for ((_, kind), sum) in &fold.tally().site_sums {
        let sum = &fold.tally().sums[*sum];
        let copied: u64 = sum.processes.values().sum();
        assert_eq!(sum.latency.count(), copied);
        *pages.entry(kind.phase).or_default() += copied;
    }
    pages
}

fn name_all(fold: &mut Fold, leaves: Leaving) {
    for unnamed in fold.take_unnamed(usize::MAX) {
        let writer = Writer { leaves, ..WRITER };
        let named = named(&["walk"]);
        fold.set_name(unnamed.handle, Named { writer, ..named });
    }
}

#[test]
fn what_a_child_copied_is_decided_when_it_execs_or_goes_on() {
    let young = |process| Observation {
        phase: Phase::Young(process),
        ..SEEN
    };
    let mut fold = Fold::default();
    let (one, other) = (add(&mut fold, 1), add(&mut fold, 2));
    for process in 1..4 {
        fold.count(one, &copy(process, young(process)));
        fold.count(other, &copy(process, young(process)));
    }
    fold.count(one, &copy(0, SEEN));
    // Before its stacks have names, and after.
    fold.settle(1, Fate::Execed);
    name_all(&mut fold, Leaving::No);
    fold.settle(2, Fate::Execed);
    let by_phase = pages_by_phase(&fold);
    assert_eq!(by_phase[&Phase::BeforeExec], 4);
    assert_eq!((by_phase[&Phase::Young(3)], by_phase[&Phase::Run]), (2, 1));
    fold.settle_old(|process| process == 3);
    assert!(fold.is_open(3));
    fold.settle_old(|_| false);
    let expected = HashMap::from_iter([(Phase::BeforeExec, 4), (Phase::Run, 3)]);
    assert_eq!(pages_by_phase(&fold), expected);
    assert!(!fold.is_open(3));
}

#[test]
fn a_stack_of_a_process_that_leaves_says_so_for_all_that_end() {
    let mut fold = Fold::default();
    let stack = add(&mut fold, 1);
    for (process, phase) in [(1, Phase::Run), (2, Phase::Young(2)), (3, Phase::Run)] {
        fold.count(stack, &copy(process, Observation { phase, ..SEEN }));
    }
    // One ends before its stack has a name.
    fold.settle(3, Fate::Ended);
    name_all(&mut fold, Leaving::Yes);
    let settled = |fold: &Fold| {
        let phases = pages_by_phase(fold).into_iter();
        let mut pages: HashMap<Phase, u64> = HashMap::default();
        for (phase, copied) in phases {
            *pages.entry(phase.settled()).or_default() += copied;
        }
        pages
    };
    // Until they have ended, they are what they seem to be.
    let all = HashMap::from_iter([(Phase::Exit, 3)]);
    assert_eq!(settled(&fold), all);
    assert_eq!(pages_by_phase(&fold)[&Phase::Leaving(1)], 1);
    fold.settle(1, Fate::Ended);
    fold.settle_old(|_| false);
    assert!(fold.is_open(2));
    fold.settle(2, Fate::Ended);
    assert_eq!(pages_by_phase(&fold), all);
    assert!(!fold.is_open(1) && !fold.is_open(2));
}

#[test]
fn who_seems_to_leave_and_stays_went_on_with_its_program() {
    let mut fold = Fold::default();
    let stack = add(&mut fold, 1);
    name_all(&mut fold, Leaving::Yes);
    fold.count(stack, &copy(1, SEEN));
    fold.count(stack, &copy(2, SEEN));
    let soon = Instant::now() + Duration::from_secs(4);
    fold.settle_old_at(soon, |_| false);
    assert_eq!(pages_by_phase(&fold)[&Phase::Leaving(1)], 1);
    fold.settle(2, Fate::Ended);
    let later = Instant::now() + Duration::from_secs(6);
    fold.settle_old_at(later, |_| false);
    let expected = HashMap::from_iter([(Phase::Run, 1), (Phase::Exit, 1)]);
    assert_eq!(pages_by_phase(&fold), expected);
    // What it copies from now on it copies with its program, too, on stacks without a name as well.
    fold.count(stack, &copy(1, SEEN));
    let new = add(&mut fold, 2);
    fold.count(new, &copy(1, SEEN));
    name_all(&mut fold, Leaving::Yes);
    let expected = HashMap::from_iter([(Phase::Run, 3), (Phase::Exit, 1)]);
    assert_eq!(pages_by_phase(&fold), expected);
    // It may replace its program, and then leave.
    fold.settle(1, Fate::Execed);
    fold.count(stack, &copy(1, SEEN));
    fold.settle(1, Fate::Ended);
    assert_eq!(pages_by_phase(&fold)[&Phase::Exit], 2);
}

#[derive(Clone, Debug)]
enum Act {
    Copy {
        stack: u64,
        process: usize,
        kind: u8,
    },
    Name(usize),
    /// What becomes of a process.
    Settle(usize, Fate),
    /// Time passes, in seconds.
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let copy = (0..12u64, 0..4usize, 0..6u8).prop_map(|(stack, process, kind)| Act::Copy {
        stack,
        process,
        kind,
    });
    let name = (1..5usize).prop_map(Act::Name);
    let fate = prop_oneof![Just(Fate::Ended), Just(Fate::Execed)];
    let settle = (0..4usize, fate).prop_map(|(process, fate)| Act::Settle(process, fate));
    let wait = (0..10u64).prop_map(Act::Wait);
    let act = prop_oneof![6 => copy, 1 => name, 1 => settle, 1 => wait];
    proptest::collection::vec(act, 0..200)
}

fn seen(kind: u8) -> Observation {
    Observation {
        cause: if kind.is_multiple_of(2) {
            Cause::Gc
        } else {
            Cause::Unknown
        },
        origin: if kind < 3 { Origin::Fork } else { Origin::File },
        ..SEEN
    }
}

proptest! {
    #[test]
    fn no_copy_is_lost_or_counted_twice(acts in acts()) {
        let mut fold = Fold::default();
        let mut expected: HashMap<usize, u64> = HashMap::default();
        let name = |fold: &mut Fold, most| {
            for unnamed in fold.take_unnamed(most) {
                let StackKey::Taken { id, .. } = unnamed.handle.key else { continue };
                // Some stacks get the same functions.
                let leaf = format!("f{}", id / 2);
                let leaves = if id % 3 == 0 { Leaving::Yes } else { Leaving::No };
                let writer = Writer { leaves, ..WRITER };
                let named = named(&[&leaf, "main"]);
                fold.set_name(unnamed.handle, Named { writer, ..named });
            }
        };
        for act in acts {
            match act {
                Act::Copy { stack, process, kind } => {
                    let stack = add(&mut fold, stack);
                    // Some of the copies of some processes are those of a child.
                    let phase = match (process, kind) {
                        (0, _) | (_, 5) => Phase::Run,
                        _ => Phase::Young(process),
                    };
                    let seen = Observation { phase, ..seen(kind) };
                    fold.count(stack, &copy(process, seen));
                    *expected.entry(process).or_default() += 1;
                }
                Act::Name(most) => name(&mut fold, most),
                Act::Wait(seconds) => {
                    let now = Instant::now() + Duration::from_secs(seconds);
                    fold.settle_old_at(now, |process| process == 3);
                }
                Act::Settle(process, fate) => {
                    fold.settle(process, fate);
                    prop_assert!(!fold.is_open(process));
                    let open = [
                        Phase::Young,
                        Phase::YoungLeaving,
                        Phase::Unnamed,
                        Phase::Leaving,
                    ];
                    let open = open.map(|phase| phase(process));
                    let is_open = |phase| open.contains(&phase);
                    let cells = fold.tally().cells.iter().filter(|cell| cell.pages > 0);
                    prop_assert!(!cells.into_iter().any(|cell| is_open(cell.seen.phase)));
                    let kinds = fold.tally().site_sums.keys();
                    prop_assert!(!kinds.into_iter().any(|(_, kind)| is_open(kind.phase)));
                }
            }
            let tally = fold.tally();
            let mut found: HashMap<usize, u64> = HashMap::default();
            for sum in tally.site_sums.values() {
                for (&process, &pages) in &tally.sums[*sum].processes {
                    *found.entry(process).or_default() += pages;
                }
            }
            for (process, pages) in tally.unnamed_pages() {
                *found.entry(process).or_default() += pages.iter().sum::<u64>();
            }
            prop_assert_eq!(&found, &expected);
            let cells: u64 = tally.cells.iter().map(|cell| cell.pages).sum();
            prop_assert_eq!(cells, expected.values().sum::<u64>());
        }
        name(&mut fold, usize::MAX);
        prop_assert!(!fold.has_unnamed());
        let latencies: u64 = fold
            .tally()
            .site_sums
            .values()
            .map(|&sum| fold.tally().sums[sum].latency.count())
            .sum();
        prop_assert_eq!(latencies, expected.values().sum::<u64>());
    }
}
