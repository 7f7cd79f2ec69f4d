//! Every way to copy pages, and not to copy them: counted exactly.

use memtrace::profile::{CauseName, Unwind};

use crate::support::{Fixture, Report, Trace, Truth, Why, requires};

/// Traces the fixture on one of its ways.
fn traced(arguments: &[&str]) -> Result<(Report, Truth), Why> {
    let mut fixture = Fixture::start(arguments)?;
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    fixture.exit();
    Ok((report, truth))
}

macro_rules! exact {
    ($($name:ident: $($argument:literal)+ => $copied:literal,)+) => {$(
        #[test]
        fn $name() {
            let (report, truth) = requires!(traced(&[$($argument),+]));
            assert_eq!(truth.copied, $copied, "the fixture does what it is meant to");
            report.is(&truth);
        }
    )+};
}

exact! {
    a_child_copies_its_parents_pages: "fork-child" => 10_000,
    a_child_forked_before_the_trace_copies: "fork-child" "--early" => 10_000,
    a_parent_copies_while_a_child_holds_the_pages: "fork-parent" => 10_000,
    a_grandchild_copies: "fork-grandchild" => 10_000,
    a_parent_reuses_after_its_child_exited: "reuse" => 0,
    an_orphan_reuses_the_pages_of_its_dead_parent: "reuse-orphan" => 0,
    the_second_writer_reuses: "second-writer" => 10_000,
    zero_pages_are_replaced: "zero" => 0,
    absent_pages_are_touched: "first-touch" => 0,
    present_pages_of_a_private_file_are_copied: "private-file" => 10_000,
    absent_pages_of_a_private_file_are_copied: "private-file" "--absent" => 10_000,
    uncached_pages_of_a_private_file_are_copied: "private-file" "--absent" "--cold" => 10_000,
    present_pages_of_a_private_memory_file_are_copied: "private-file" "--memfd" => 10_000,
    absent_pages_of_a_private_memory_file_are_copied: "private-file" "--memfd" "--absent" => 10_000,
    a_shared_file_is_touched: "shared-file" => 0,
    a_shared_file_is_notified: "shared-file" "--notify" => 0,
    shared_anonymous_pages_are_touched: "shared-anonymous" => 0,
    shared_anonymous_pages_are_written_to_by_a_child: "shared-anonymous-fork" => 0,
    merged_pages_are_copied: "ksm" => 10_000,
    failed_faults_leave_nothing_behind: "segv" => 0,
    dropped_pages_are_not_copied: "mix" => 2_500,
    racing_threads_copy_each_page_once: "race" => 10_000,
    threads_racing_for_single_pages_copy_each_once: "race" "--batch" "1" => 10_000,
}

#[test]
fn huge_pages_are_copied_as_small_ones() {
    let (report, truth) = requires!(traced(&["huge"]));
    assert_eq!(truth.copied, 20 * 512);
    report.is(&truth);
    if let Some(split) = report.0.totals.not_copied.split {
        assert_eq!(split, 20);
    }
}

/// The call's copies have the cause `kernel`.
fn kernel_writes(call: &str) -> Result<(), Why> {
    let (report, truth) = traced(&["kernel-write", "--call", call])?;
    assert_eq!(truth.copied, 10_000);
    report.is(&truth);
    for site in report.sites_in("dirty_by_kernel") {
        assert_eq!(site.cause, CauseName::Kernel, "{:?}", site.site);
    }
    assert!(report.0.totals.by_cause.kernel >= truth.copied);
    Ok(())
}

#[test]
fn the_kernel_copies_for_read() {
    requires!(kernel_writes("read"));
}

#[test]
fn the_kernel_copies_for_pread() {
    requires!(kernel_writes("pread"));
}

#[test]
fn the_kernel_copies_for_recv() {
    requires!(kernel_writes("recv"));
}

/// futex(2) writes with page faults disabled and then forces the fault, whose end is not seen: the
/// copies count, but may have no stack.
#[test]
fn the_kernel_copies_for_futex() {
    let (report, truth) = requires!(traced(&["kernel-write", "--call", "futex"]));
    assert_eq!(truth.copied, 10_000);
    report.is_lossless().counts_processes(&truth);
    assert!(report.0.totals.by_cause.kernel >= truth.copied);
}

#[test]
fn swapped_pages_are_copied_when_shared() {
    let _swap = requires!(swap::some());
    let (report, truth) = requires!(traced(&["swap"]));
    assert_eq!(truth.copied, 2_000);
    report.is(&truth);
}

#[test]
fn swapped_pages_are_not_copied_for_their_only_owner() {
    let _swap = requires!(swap::some());
    let (report, truth) = requires!(traced(&["swap", "--exclusive"]));
    assert_eq!(truth.copied, 0);
    report.is(&truth);
}

#[test]
fn without_stacks_the_counts_are_the_same() {
    let mut fixture = requires!(Fixture::start(&["fork-child"]));
    let trace = Trace::with(["--unwind", "off", "--pid", &fixture.pid.to_string()]);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    assert_eq!(truth.copied, 10_000);
    report.is_lossless().counts_processes(&truth);
    assert_eq!(report.0.host.unwind, Unwind::Off);
}

#[test]
fn two_targets_are_traced_at_once() {
    let mut first = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let mut second = requires!(Fixture::start(&["fork-parent", "--pages", "2000"]));
    let trace = Trace::with(["--pid", &format!("{},{}", first.pid, second.pid)]);
    first.go();
    second.go();
    let (a, b) = (first.truth(), second.truth());
    let report = trace.finish();
    assert_eq!((a.copied, b.copied), (1000, 2000));
    for truth in [&a, &b] {
        for (function, copied) in truth.by_function() {
            assert_eq!(
                report.pages_in(function).values().sum::<u64>(),
                copied,
                "{function}"
            );
        }
    }
}

#[test]
fn a_bystander_is_not_counted() {
    let mut traced = requires!(Fixture::start(&["fork-child", "--pages", "1000"]));
    let mut bystander = requires!(Fixture::start(&["fork-parent", "--pages", "2000"]));
    let trace = Trace::attach(traced.pid);
    traced.go();
    bystander.go();
    let (truth, _) = (traced.truth(), bystander.truth());
    let report = trace.finish();
    report.is(&truth);
    assert!(report.pages_in("dirty_in_parent").is_empty());
}

/// Swap, for as long as a test needs it.
mod swap {
    use std::process::Command;
    use std::sync::{Mutex, MutexGuard};

    use tempfile::NamedTempFile;

    use crate::support::{Why, privileged, tool};

    /// Tests in one process take turns, so that none turns off what another one uses.
    static TURN: Mutex<()> = Mutex::new(());

    /// Swap that was there, or that the test made.
    pub struct Swap {
        made: Option<NamedTempFile>,
        _turn: MutexGuard<'static, ()>,
    }

    /// Makes some when there is none.
    pub fn some() -> Result<Swap, Why> {
        privileged()?;
        let turn = TURN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let there = std::fs::read_to_string("/proc/swaps").is_ok_and(|s| s.lines().count() > 1);
        if there {
            return Ok(Swap {
                made: None,
                _turn: turn,
            });
        }
        for name in ["mkswap", "swapon", "swapoff", "dd"] {
            tool(name)?;
        }
        let file = NamedTempFile::new().map_err(|error| Why::Unavailable(error.to_string()))?;
        let path = file.path().display().to_string();
        for command in [
            vec![
                "dd",
                "if=/dev/zero",
                &format!("of={path}"),
                "bs=1M",
                "count=64",
                "status=none",
            ],
            vec!["mkswap", "--quiet", &path],
            vec!["swapon", &path],
        ] {
            let ran = Command::new(command[0]).args(&command[1..]).output();
            if !ran.as_ref().is_ok_and(|output| output.status.success()) {
                return Err(Why::Unavailable(format!("{command:?}: {ran:?}")));
            }
        }
        Ok(Swap {
            made: Some(file),
            _turn: turn,
        })
    }

    impl Drop for Swap {
        fn drop(&mut self) {
            if let Some(file) = &self.made {
                let _ = Command::new("swapoff").arg(file.path()).status();
            }
        }
    }
}
