//! A report, and what must hold in it.

use std::collections::BTreeMap;

use memtrace::profile::{self, CallSite, CauseName, Frame, NotCopied, Phase, Process, Profile};

use super::Truth;

/// Copies that a process makes apart from the tested ones: on its stack, in the C library's data.
pub const NOISE_PER_PROCESS: u64 = 24;

/// A report whose sums hold.
pub struct Report(pub Profile);

impl Report {
    /// Reads a JSON report, and checks its sums.
    pub fn read(text: &str) -> Self {
        Self::read_bytes(text.as_bytes())
    }

    /// Does what [`Report::read`] does, for a report that may be compressed.
    pub fn read_bytes(bytes: &[u8]) -> Self {
        let profile = profile::read(bytes).expect("a report by the schema");
        let report = Self(profile);
        report.sums_hold();
        report
    }

    fn sums_hold(&self) {
        let Profile {
            totals,
            processes,
            call_sites,
            host,
            ..
        } = &self.0;
        let copied = totals.copied_pages;
        assert_eq!(self.0.schema, "memtrace/1");
        assert_eq!(totals.copied_bytes, copied * host.page_size, "bytes");
        assert_eq!(totals.by_origin.total(), copied, "by origin");
        assert_eq!(totals.by_cause.total(), copied, "by cause");
        assert_eq!(sum(processes, |p| p.copied_pages), copied, "over processes");
        assert_eq!(
            sum(processes, |p| p.copied_bytes),
            totals.copied_bytes,
            "bytes of processes"
        );
        assert_eq!(
            sum(processes, |p| p.lost_faults),
            totals.lost.faults,
            "lost"
        );
        assert_eq!(sum(call_sites, |s| s.pages), copied, "over call sites");
        let is_read = |site: &&CallSite| {
            let causes = [CauseName::Refcount, CauseName::Gc];
            causes.contains(&site.cause) && site.phase == Phase::Run
        };
        let read: u64 = call_sites.iter().filter(is_read).map(|s| s.pages).sum();
        assert_eq!(totals.copy_on_read_pages, read, "copy-on-read");
        let of_processes = sum(processes, |p| p.copy_on_read_pages);
        assert_eq!(of_processes, read, "copy-on-read of processes");
        for process in processes {
            assert_eq!(
                process.by_origin.total(),
                process.copied_pages,
                "{process:?}"
            );
            assert_eq!(
                process.by_cause.total(),
                process.copied_pages,
                "{process:?}"
            );
        }
        for site in call_sites {
            assert_eq!(
                site.processes.values().sum::<u64>(),
                site.pages,
                "{:?}",
                site.site
            );
            assert_eq!(
                sum(&site.stacks, |stack| stack.pages),
                site.pages,
                "{:?}",
                site.site
            );
            assert_eq!(site.bytes, site.pages * host.page_size, "{:?}", site.site);
        }
        let kinds: [fn(&NotCopied) -> Option<u64>; 5] = [
            |n| n.reuse,
            |n| n.zero,
            |n| n.first_touch,
            |n| n.split,
            |n| n.settled_elsewhere,
        ];
        for kind in kinds {
            let known: Option<u64> = processes.iter().map(|p| kind(&p.not_copied)).sum();
            if !processes.is_empty() {
                assert_eq!(known, kind(&totals.not_copied), "not copied");
            }
        }
    }

    /// Asserts that nothing was lost.
    pub fn is_lossless(&self) -> &Self {
        let lost = &self.0.totals.lost;
        assert_eq!(
            (lost.faults, lost.stacks, lost.processes, lost.threads),
            (0, 0, 0, 0)
        );
        self
    }

    /// Copied pages whose stack has a frame of `function`, by origin.
    pub fn pages_in(&self, function: &str) -> BTreeMap<String, u64> {
        let mut pages = BTreeMap::new();
        for site in self
            .0
            .call_sites
            .iter()
            .filter(|site| counts(site, function))
        {
            for stack in &site.stacks {
                if stack.frames.iter().any(|frame| is(frame, function)) {
                    *pages.entry(site.origin.name().to_owned()).or_default() += stack.pages;
                }
            }
        }
        pages
    }

    /// Copied pages of call sites in `function`, by process.
    pub fn pages_by_process(&self, function: &str) -> BTreeMap<u32, u64> {
        let mut pages = BTreeMap::new();
        for site in self.sites_in(function) {
            for (&pid, &count) in &site.processes {
                *pages.entry(pid).or_default() += count;
            }
        }
        pages
    }

    /// Call sites all of whose stacks have a frame of `function`.
    pub fn sites_in(&self, function: &str) -> impl Iterator<Item = &CallSite> {
        self.0.call_sites.iter().filter(move |site| {
            counts(site, function)
                && site
                    .stacks
                    .iter()
                    .all(|stack| stack.frames.iter().any(|frame| is(frame, function)))
        })
    }

    /// The row of a process.
    pub fn process(&self, pid: u32) -> &Process {
        let mut rows = self.0.processes.iter().filter(|process| process.pid == pid);
        let row = rows
            .next()
            .unwrap_or_else(|| panic!("no process {pid} in the report"));
        assert!(rows.next().is_none(), "process {pid} has two rows");
        row
    }

    /// The copies of the tested range are exactly the truth: in all, by function, by origin and by
    /// process, and little else was copied.
    pub fn is(&self, truth: &Truth) -> &Self {
        self.is_lossless();
        let mut by_origin = BTreeMap::new();
        for (function, copied) in truth.by_function() {
            let seen = self.pages_in(function);
            assert_eq!(
                seen.values().sum::<u64>(),
                copied,
                "in {function}: {seen:?}\n{truth:#?}"
            );
            for (origin, pages) in seen {
                *by_origin.entry(origin).or_default() += pages;
            }
        }
        let mut expected = truth.by_origin.clone();
        expected.retain(|_, pages| *pages > 0);
        if self.tells_ksm() {
            assert_eq!(by_origin, expected, "by origin");
        } else {
            assert_eq!(
                merged_as_fork(by_origin),
                merged_as_fork(expected),
                "by origin"
            );
        }
        self.counts_processes(truth);
        self.counts_not_copied(truth);
        self
    }

    /// Whether this kernel showed which pages KSM had merged; reports count them as `fork` where it
    /// does not.
    fn tells_ksm(&self) -> bool {
        self.0.totals.by_origin.ksm > 0
    }

    /// Each process of the truth has its copies, and little else was copied.
    pub fn counts_processes(&self, truth: &Truth) {
        // A thread's first allocations touch the C library's data.
        let noise = NOISE_PER_PROCESS * (1 + truth.threads());
        let mut by_pid: BTreeMap<u32, u64> = BTreeMap::new();
        for process in &truth.processes {
            *by_pid.entry(process.pid).or_default() += process.copied;
        }
        for (pid, copied) in by_pid {
            let all = self.process(pid).copied_pages;
            assert!(
                (copied..=copied + noise).contains(&all),
                "process {pid}: {all} copied in all, {copied} of them in the range"
            );
        }
    }

    fn counts_not_copied(&self, truth: &Truth) {
        let seen = self.0.totals.not_copied;
        // A fork makes the whole process read-only, so each later write of its own is a reuse.
        let noise = NOISE_PER_PROCESS * self.0.processes.len() as u64;
        // Each fault of racing threads that was no copy was settled by another of them. Which of
        // the two counters has it depends on how far the other one was: see docs/counting.md.
        let faults = truth.extra.get("faults");
        let lost_races = faults.and_then(serde_json::Value::as_u64).map(|faults| {
            faults
                .checked_sub(truth.copied + truth.zero + truth.first_touch)
                .expect("each page took a fault")
        });
        let or_reuse = seen.reuse.zip(seen.settled_elsewhere).map(|(a, b)| a + b);
        // The kernel counts reads among a thread's faults too: of its code, say, that was taken out
        // of memory meanwhile. Hardly one thread has one.
        let settled = match lost_races {
            Some(lost) => (
                "reuse or settled elsewhere",
                or_reuse,
                lost.saturating_sub(truth.threads())..=lost,
            ),
            None => ("reuse", seen.reuse, truth.reuse..=truth.reuse),
        };
        for (name, seen, expected) in [
            settled,
            ("zero", seen.zero, truth.zero..=truth.zero),
            (
                "first_touch",
                seen.first_touch,
                truth.first_touch..=truth.first_touch,
            ),
            (
                "settled elsewhere",
                seen.settled_elsewhere.filter(|_| lost_races.is_none()),
                0..=0,
            ),
        ] {
            let Some(seen) = seen else { continue };
            assert!(
                (*expected.start()..=expected.end() + noise).contains(&seen),
                "{name}: {seen} seen, {expected:?} in the range\n{truth:#?}"
            );
        }
    }
}

/// Whether a call site's copies can be from the tested range. The kernel also writes where a thread
/// is preempted or gets a signal, whatever function it is in: to the thread's own area and its
/// stack.
fn counts(site: &CallSite, function: &str) -> bool {
    function == "dirty_by_kernel" || site.cause != CauseName::Kernel
}

/// Whether a frame is of `function`, whatever its path.
pub fn is(frame: &Frame, function: &str) -> bool {
    frame.function.split("::").any(|part| part == function)
}

fn merged_as_fork(mut by_origin: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    if let Some(ksm) = by_origin.remove("ksm") {
        *by_origin.entry("fork".into()).or_default() += ksm;
    }
    by_origin
}

fn sum<T>(rows: &[T], of: impl Fn(&T) -> u64) -> u64 {
    rows.iter().map(of).sum()
}
