//! One made-up profile that every report format is tested with: a Python web server with a master
//! and three workers, one of which died early, a shell, and a program of a Python that cannot be
//! read; of every cause that the tracepoint backend can tell.

use std::sync::Arc;

use super::{
    BackendName, ByCause, ByOrigin, CallSite, CauseName, CommandExit, Frame, Host, InterpreterSeen,
    Lost, ModuleUnwind, NotCompared, NotCopied, OriginName, Process, Profile, Python, SCHEMA,
    Totals, Truncated, Unchanged, Unknown, Unrecorded, Unwind, UnwoundBy, type_rows,
};

mod memory;
mod sites;

pub(crate) use memory::sample_with_memory;

const PAGE: u64 = 4096;

/// A profile that lost nothing.
pub(crate) fn sample() -> Profile {
    let worker = "gunicorn: worke";
    let python = |unchanged, process| Process {
        unchanged,
        interpreter: Some(seen("CPython 3.11", None)),
        runtimes: Vec::new(),
        unopened: Vec::new(),
        ..process
    };
    let compared = |unchanged_pages, compared_pages, comparable_pages, gone_pages| {
        Some(Unchanged {
            unchanged_pages,
            compared_pages,
            comparable_pages,
            gone_pages,
            compared_with_child_pages: 0,
            compared_at_exit_pages: 0,
            not_compared: Some(NotCompared {
                ended: gone_pages,
                beyond_budget: comparable_pages - compared_pages,
                ..NotCompared::default()
            }),
        })
    };
    let processes = vec![
        python(None, process(4242, 1, "gunicorn", None, None)),
        python(
            compared(2_150, 2_560, 3_120, 30),
            process(4243, 4242, worker, None, None),
        ),
        python(
            compared(1_967, 2_440, 2_880, 23),
            process(4244, 4242, worker, None, None),
        ),
        python(
            compared(0, 0, 0, 645),
            process(4245, 4242, worker, Some(0.512), Some(6.25)),
        ),
        process(4246, 4242, "sh", Some(7.001), Some(7.019)),
        Process {
            interpreter: Some(seen(
                "CPython 3.15",
                Some("its layout is not known to this memtrace"),
            )),
            ..process(4247, 4242, "report.py", Some(9.998), None)
        },
    ];
    summed(Profile {
        modules: modules(),
        schema: SCHEMA.to_owned(),
        memtrace: "0.1.0".to_owned(),
        host: Host {
            kernel: "6.12.41-cloud-amd64".to_owned(),
            arch: "x86_64".to_owned(),
            page_size: PAGE,
            backend: BackendName::Tracepoint,
            python: Python::Auto.into(),
            unwind: Unwind::FramePointers.into(),
            unwind_why: None,
            blind_spots: vec![
                "Pages that another process writes through ptrace, /proc/PID/mem or \
                 process_vm_writev, and pages that a device writes by direct I/O, are copied \
                 without an exception, so they are not counted."
                    .to_owned(),
                "Copies of hugetlb pages are counted as reuse.".to_owned(),
            ],
        },
        command: ["wrk", "-d", "10", "http://localhost:8000/"]
            .map(str::to_owned)
            .to_vec(),
        command_exit: Some(CommandExit {
            status: Some(0),
            signal: None,
        }),
        started_at: "2026-03-14T15:09:26Z".to_owned(),
        duration_s: 10.25,
        totals: Totals {
            not_copied: NotCopied {
                reuse: Some(12_345),
                zero: Some(678),
                first_touch: Some(90_123),
                split: None,
                settled_elsewhere: Some(27),
            },
            // The pages of the worker that has died could not be compared.
            unchanged: compared(4_117, 5_000, 6_000, 698),
            unchanged_pages: Some(4_117),
            ..Totals::default()
        },
        processes,
        call_sites: sites::all(),
        types: Vec::new(),
        advice: Vec::new(),
        roles: Vec::new(),
        timeline: None,
        sampling: None,
        no_cache: None,
        warnings: Vec::new(),
    })
}

/// The same, of which the kernel side had to drop a part.
pub(crate) fn sample_with_losses() -> Profile {
    let mut profile = sample();
    profile.call_sites.push(lost(
        "[lost]",
        Unknown::FaultLost,
        "the record of the copy was lost",
        &[(4243, 1_000), (4244, 204)],
    ));
    profile.call_sites.push(lost(
        "[unknown]",
        Unknown::StackLost,
        "the instruction could not be read",
        &[(4245, 31)],
    ));
    profile.processes[1].lost_faults = 1_000;
    profile.processes[2].lost_faults = 204;
    profile.totals.lost = Lost {
        faults: 1_204,
        stacks: 31,
        processes: 2,
        threads: 1,
    };
    profile.warnings =
        vec!["The symbols of 3 programs could not be read: CAP_SYS_ADMIN is missing.".to_owned()];
    profile.command_exit = Some(CommandExit {
        status: None,
        signal: Some(9),
    });
    summed(profile)
}

/// The same, made while tracing went on: of some copies the records had not been read yet.
pub(crate) fn sample_pending() -> Profile {
    let mut profile = sample();
    let processes = [(4243, 150), (4244, 100)].into();
    let mut pending = CallSite::unrecorded(Unrecorded::Pending, OriginName::Fork, processes);
    pending.bytes = pending.pages * PAGE;
    profile.totals.pending = pending.pages;
    profile.call_sites.push(pending);
    summed(profile)
}

/// A profile of two call sites of which stacks are not whole: one was not taken beyond the function
/// that wrote and what is inlined into it, of the other a part of Python's frames is missing.
pub(crate) fn sample_cut() -> Profile {
    let mut profile = sample_of(&[
        (200, CauseName::Data, "store", None),
        (100, CauseName::Refcount, "Catalog.render", Some("str")),
    ]);
    let inlined = Frame {
        inlined: true,
        ..sites::frame("copy_nonoverlapping", Some("src/copy.rs"), Some(7))
    };
    let writer = sites::frame("store", Some("src/store.rs"), Some(70));
    let caller = sites::python("checkout", "/srv/app/views.py", 91);
    let render = Arc::clone(&profile.call_sites[1].stacks[0].frames[0]);
    let cut = |site: &mut CallSite, why, frames: [Arc<Frame>; 2]| {
        site.stacks[0].truncated = true;
        site.stacks[0].truncated_why = Some(why);
        site.stacks[0].frames = frames.into();
    };
    let [store, walk, ..] = &mut profile.call_sites[..] else {
        unreachable!("two were asked for");
    };
    let frames = [Arc::new(inlined), Arc::new(writer)];
    cut(store, Truncated::NotTaken, frames);
    cut(walk, Truncated::Python, [render, Arc::new(caller)]);
    profile
}

fn lost(function: &str, unknown: Unknown, reason: &str, processes: &[(u32, u64)]) -> CallSite {
    let frame = Frame {
        unknown: Some(unknown),
        ..sites::frame(function, None, None)
    };
    let mut site = sites::call_site(CauseName::Unknown, processes, vec![frame]);
    site.cause_reason = Some(reason.to_owned());
    site
}

fn seen(name: &str, why: Option<&str>) -> InterpreterSeen {
    InterpreterSeen {
        name: name.to_owned(),
        why: why.map(str::to_owned),
    }
}

/// The sample with the call sites of `pages`, cause, function and type given, all of one process;
/// nothing was compared.
pub(crate) fn sample_of(copies: &[(u64, CauseName, &str, Option<&str>)]) -> Profile {
    let mut profile = sample();
    profile.totals.unchanged = None;
    profile.totals.unchanged_pages = None;
    profile.processes.truncate(1);
    profile.call_sites = copies
        .iter()
        .map(|&(pages, cause, function, object_type)| {
            let frames = vec![sites::python(function, "/srv/app/app.py", 28)];
            let mut site = sites::call_site(cause, &[(4242, pages)], frames);
            site.object_type = object_type.map(Into::into);
            site.cause_reason =
                (cause == CauseName::Unknown).then(|| "the page was gone".to_owned());
            site
        })
        .collect();
    summed(profile)
}

/// Fills in every figure that follows from the call sites.
fn summed(mut profile: Profile) -> Profile {
    let total: u64 = profile.call_sites.iter().map(|site| site.pages).sum();
    let totals = &mut profile.totals;
    (totals.by_cause, totals.by_origin) = Default::default();
    for process in &mut profile.processes {
        (process.by_cause, process.by_origin) = Default::default();
        (process.copied_pages, process.copy_on_read_pages) = (0, 0);
    }
    for site in &mut profile.call_sites {
        site.share = site.pages as f64 / total.max(1) as f64;
        for (&pid, &pages) in &site.processes {
            let process = profile.processes.iter_mut().find(|p| p.pid == pid).unwrap();
            process.copied_pages += pages;
            if site.is_copy_on_read() {
                process.copy_on_read_pages += pages;
            }
            process.by_cause.add(site.cause, pages);
            totals.by_cause.add(site.cause, pages);
            process.by_origin.add(site.origin, pages);
            totals.by_origin.add(site.origin, pages);
        }
    }
    for process in &mut profile.processes {
        process.copied_bytes = process.copied_pages * PAGE;
    }
    totals.copied_pages = total;
    totals.copied_bytes = total * PAGE;
    let read = profile.processes.iter().map(|p| p.copy_on_read_pages);
    totals.copy_on_read_pages = read.sum();
    profile
        .call_sites
        .sort_by_key(|site| std::cmp::Reverse(site.pages));
    profile.types = type_rows(&profile.call_sites);
    profile
}

fn process(pid: u32, parent: u32, comm: &str, forked: Option<f64>, exited: Option<f64>) -> Process {
    Process {
        pid,
        ppid: parent,
        comm: comm.to_owned(),
        cmdline: vec![comm.to_owned()],
        forked_at_s: forked,
        exited_at_s: exited,
        copied_pages: 0,
        copied_bytes: 0,
        copy_on_read_pages: 0,
        by_origin: ByOrigin::default(),
        by_cause: ByCause::default(),
        not_copied: NotCopied {
            reuse: Some(u64::from(pid) * 3 - 12_500),
            zero: Some(113),
            first_touch: Some(15_020),
            split: None,
            settled_elsewhere: Some(9),
        },
        lost_faults: 0,
        unchanged: None,
        interpreter: None,
        runtimes: Vec::new(),
        unopened: Vec::new(),
        memory: None,
        role: None,
        container: None,
        copying_s: None,
        cpu_s: None,
        cache: None,
        before: Vec::new(),
        stands_for: None,
    }
}

/// One of each kind.
fn modules() -> Vec<ModuleUnwind> {
    let module = |path: &str, unwind, source: Option<&str>, rows, why: Option<&str>| ModuleUnwind {
        path: path.into(),
        build_id: source.map(|_| "0a1b2c3d".to_owned()),
        unwind,
        source: source.map(str::to_owned),
        rows,
        code_rows: 0,
        why: why.map(str::to_owned),
    };
    vec![
        module(
            "/usr/bin/python3.13",
            UnwoundBy::Tables,
            Some(".eh_frame"),
            64_575,
            None,
        ),
        module(
            "/opt/engine.so",
            UnwoundBy::FramePointers,
            None,
            0,
            Some("it has no unwind tables"),
        ),
        module(
            "/opt/huge.so",
            UnwoundBy::Nothing,
            Some(".eh_frame and .debug_frame"),
            9_000_000,
            Some("there was no room for its tables"),
        ),
    ]
}
