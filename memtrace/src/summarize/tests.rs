use std::time::Instant;

use memtrace_common::record::Origin;
use proptest::prelude::*;

use super::*;
use crate::made_up::Fate::{self, Arrives, Lost};
use crate::made_up::MadeUp;
use crate::profile::Unknown;

fn over() -> Moment {
    Moment::Over {
        unchanged: HashMap::default(),
    }
}

fn pages_of(profile: &Profile, function: &str) -> u64 {
    let sites = profile.call_sites.iter();
    sites
        .filter(|site| &*site.site.function == function)
        .map(|site| site.pages)
        .sum()
}

#[test]
fn what_has_not_been_read_yet_is_pending_and_not_lost() {
    let mut kernel = MadeUp::new();
    let mut intake = kernel.intake();
    let slot = kernel.fork(None, Arrives);
    kernel.copy(slot, Origin::Fork, 2, [Arrives; 2]);
    kernel.copy(slot, Origin::File, 2, [Arrives; 2]);
    kernel.copy(slot, Origin::Fork, 2, [Arrives, Lost]);
    // The process, the stack and the first copy have been read.
    kernel.drain(3, |event| intake.record(event));
    intake.targets.update_counters();
    intake.name_all_stacks();
    let running = kernel.profile(&intake, &Moment::Running);
    assert_eq!(running.totals.copied_pages, 3);
    assert_eq!(running.totals.pending, 1);
    assert_eq!(running.totals.lost.faults, 1);
    assert_eq!(pages_of(&running, "[pending]"), 1);
    assert_eq!(pages_of(&running, "[lost]"), 1);
    let pending = running
        .call_sites
        .iter()
        .find(|site| &*site.site.function == "[pending]");
    let frame = &pending.unwrap().stacks[0].frames[0];
    assert_eq!(frame.unknown, Some(Unknown::Pending));

    // At the end, the same difference is a loss.
    let ended = kernel.profile(&intake, &over());
    assert_eq!((ended.totals.pending, ended.totals.lost.faults), (0, 2));

    kernel.drain(1, |event| intake.record(event));
    let running = kernel.profile(&intake, &Moment::Running);
    assert_eq!((running.totals.pending, running.totals.lost.faults), (0, 1));
}

#[test]
fn copies_whose_stack_has_no_name_yet_are_pending() {
    let mut kernel = MadeUp::new();
    let mut intake = kernel.intake();
    let slot = kernel.fork(None, Arrives);
    kernel.copy(slot, Origin::Fork, 2, [Arrives; 2]);
    kernel.drain(usize::MAX, |event| intake.record(event));
    intake.targets.update_counters();
    let running = kernel.profile(&intake, &Moment::Running);
    assert_eq!(running.totals.pending, 1);
    assert_eq!(running.call_sites.len(), 1);
    intake.name_all_stacks();
    let running = kernel.profile(&intake, &Moment::Running);
    assert_eq!(running.totals.pending, 0);
    assert_eq!(pages_of(&running, "[pending]"), 0);
}

#[test]
fn a_reason_for_another_way_to_unwind_is_said_once() {
    let mut run = crate::made_up::run();
    run.host.unwind_why = Some("this kernel has no bpf_loop".to_owned());
    run.notes = vec!["a note".to_owned()];
    let progress = Progress::default();
    let profile = summarize(&Gathered::default(), &run, &progress, &Moment::Running);
    assert_eq!(profile.warnings, ["this kernel has no bpf_loop", "a note"]);
}

#[test]
fn splits_are_counted_only_where_they_are_seen() {
    let kernel = MadeUp::new();
    let profile = kernel.profile(&kernel.intake(), &over());
    assert_eq!(profile.totals.not_copied.split, None);
    let run = Run {
        arguments: true,
        sees_splits: true,
        ..crate::made_up::run()
    };
    let progress = Progress::default();
    let profile = summarize(&Gathered::default(), &run, &progress, &over());
    assert_eq!(profile.totals.not_copied.split, Some(0));
}

#[test]
fn a_lost_stack_is_counted_by_its_pages() {
    let mut kernel = MadeUp::new();
    let mut intake = kernel.intake();
    let slot = kernel.fork(None, Arrives);
    kernel.copy(slot, Origin::Fork, 2, [Lost, Arrives]);
    kernel.copy(slot, Origin::Fork, 2, [Lost, Arrives]);
    kernel.drain(usize::MAX, |event| intake.record(event));
    intake.targets.update_counters();
    intake.name_all_stacks();
    let profile = kernel.profile(&intake, &over());
    assert_eq!(profile.totals.lost.stacks, 2);
}

/// What can happen next.
#[derive(Clone, Debug)]
enum Act {
    Fork {
        parent: usize,
        fate: Fate,
    },
    Exec {
        which: usize,
        fate: Fate,
    },
    Exit {
        which: usize,
        fate: Fate,
    },
    Copy {
        which: usize,
        file: bool,
        stack: u64,
        fates: [Fate; 2],
    },
    Drain(usize),
    Name,
    CatchUp,
    Look,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![5 => Just(Arrives), 1 => Just(Lost)]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (any::<usize>(), fate()).prop_map(|(parent, fate)| Act::Fork { parent, fate }),
        1 => (any::<usize>(), fate()).prop_map(|(which, fate)| Act::Exec { which, fate }),
        2 => (any::<usize>(), fate()).prop_map(|(which, fate)| Act::Exit { which, fate }),
        12 => (any::<usize>(), any::<bool>(), 1..9u64, fate(), fate()).prop_map(
            |(which, file, stack, one, other)| Act::Copy { which, file, stack, fates: [one, other] }
        ),
        4 => (0..12usize).prop_map(Act::Drain),
        2 => Just(Act::Name),
        1 => Just(Act::CatchUp),
        3 => Just(Act::Look),
    ];
    proptest::collection::vec(act, 0..120)
}

/// One of the processes that live, if any does.
fn pick(live: &[u32], which: usize) -> Option<u32> {
    (!live.is_empty()).then(|| live[which % live.len()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sums hold whatever the BPF side does, in any order, and whenever somebody looks.
    #[test]
    fn sums_hold_at_any_moment(acts in acts()) {
        let mut kernel = MadeUp::new();
        let mut intake = kernel.intake();
        kernel.fork(None, Arrives);
        for act in acts {
            let live = kernel.live();
            match act {
                Act::Fork { parent, fate } if live.len() < 16 => {
                    kernel.fork(pick(&live, parent), fate);
                }
                Act::Exec { which, fate } => {
                    if let Some(slot) = pick(&live, which) {
                        kernel.exec(slot, fate);
                    }
                }
                Act::Exit { which, fate } => {
                    if let Some(slot) = pick(&live, which) {
                        kernel.exit(slot, fate);
                    }
                }
                Act::Copy { which, file, stack, fates } => {
                    let origin = if file { Origin::File } else { Origin::Fork };
                    if let Some(slot) = pick(&live, which) {
                        kernel.copy(slot, origin, stack, fates);
                    }
                }
                Act::Drain(most) => {
                    kernel.drain(most, |event| intake.record(event));
                }
                Act::Name => intake.name_all_stacks(),
                // The table may say that a process has ended only when no record is left.
                Act::CatchUp if kernel.ring.is_empty() => intake.targets.catch_up(u64::MAX),
                Act::Look => {
                    intake.targets.update_counters();
                    let profile = kernel.profile(&intake, &Moment::Running);
                    let totals = &profile.totals;
                    prop_assert!(totals.copied_pages <= kernel.counted);
                    prop_assert!(totals.lost.faults <= kernel.lost);
                    prop_assert!(totals.pending <= totals.copied_pages);
                }
                Act::Fork { .. } | Act::CatchUp => {}
            }
        }
        kernel.drain(usize::MAX, |event| intake.record(event));
        intake.targets.catch_up(u64::MAX);
        intake.targets.update_counters();
        intake.name_all_stacks();
        let running = kernel.profile(&intake, &Moment::Running);
        let ended = kernel.profile(&intake, &over());
        for totals in [&running.totals, &ended.totals] {
            prop_assert_eq!(totals.copied_pages, kernel.counted);
            prop_assert_eq!(totals.lost.faults, kernel.lost);
            prop_assert_eq!(totals.pending, 0);
        }
        let copied: u64 = ended.processes.iter().map(|process| process.copied_pages).sum();
        prop_assert_eq!(copied, kernel.counted);
    }
}

/// Prints what a snapshot of 10,000 stacks costs the thread that traces, and the one that makes the
/// profile. `cargo test --release -p memtrace --lib -- --ignored --nocapture a_snapshot_costs`.
#[test]
#[ignore = "a measurement"]
fn a_snapshot_costs() {
    let mut kernel = MadeUp::new();
    let mut intake = kernel.intake();
    let slots: Vec<u32> = (0..16).map(|_| kernel.fork(None, Arrives)).collect();
    for round in 0..5 {
        for stack in 1..=10_000 {
            let slot = slots[(stack as usize + round) % slots.len()];
            kernel.copy(slot, Origin::Fork, stack, [Arrives; 2]);
        }
    }
    kernel.drain(usize::MAX, |event| intake.record(event));
    intake.name_all_stacks();
    for _ in 0..5 {
        let start = Instant::now();
        intake.targets.update_counters();
        let gathered = intake.gathered();
        let taken = start.elapsed();
        let start = Instant::now();
        let progress = Progress::default();
        let profile = summarize(
            &gathered,
            &crate::made_up::run(),
            &progress,
            &Moment::Running,
        );
        println!(
            "{} stacks, {} call sites: taken in {taken:?}, made in {:?}",
            gathered.tally.stacks.len(),
            profile.call_sites.len(),
            start.elapsed()
        );
    }
}

#[test]
fn an_exec_whose_record_was_lost_is_told_by_the_next_copy() {
    let mut kernel = MadeUp::new();
    let mut intake = kernel.intake();
    let slot = kernel.fork(None, Arrives);
    kernel.exec(slot, Lost);
    kernel.copy(slot, Origin::Fork, 2, [Arrives; 2]);
    kernel.drain(1, |event| intake.record(event));
    let process = intake.targets.processes.by_slot(slot).unwrap();
    assert_eq!(intake.targets.processes.execs(process), 0);
    kernel.drain(usize::MAX, |event| intake.record(event));
    assert_eq!(intake.targets.processes.execs(process), 1);
    assert_eq!(intake.targets.processes.get(process).name.before.len(), 1);
}

#[test]
fn a_copy_of_a_program_that_was_replaced_before_its_process_was_known_has_no_mappings() {
    let mut kernel = MadeUp::new();
    let mut intake = kernel.intake();
    let slot = kernel.fork(None, Lost);
    kernel.copy(slot, Origin::Fork, 2, [Arrives; 2]);
    kernel.exec(slot, Arrives);
    kernel.copy(slot, Origin::Fork, 2, [Arrives; 2]);
    kernel.drain(usize::MAX, |event| intake.record(event));
    intake.targets.update_counters();
    intake.name_all_stacks();
    let process = intake.targets.processes.by_slot(slot).unwrap();
    assert_eq!(intake.targets.processes.execs(process), 1);
    let profile = kernel.profile(&intake, &over());
    assert_eq!(profile.totals.copied_pages, 2);
    assert_eq!((profile.totals.pending, profile.totals.lost.faults), (0, 0));
}
