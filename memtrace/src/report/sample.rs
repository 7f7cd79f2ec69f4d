//! One made-up profile that every report format is tested with: a Python web server with a master
//! and four workers, one of which died early, seen by a backend that tells causes apart.

use std::sync::Arc;

use crate::distribution::Distribution;
use crate::profile::{
    ByCause, ByOrigin, CallSite, CauseName, CommandExit, Frame, Host, Language, Lost, NotCopied,
    OriginName, Process, Profile, SCHEMA, Site, StackPages, Totals, Unknown,
};

const PAGE: u64 = 4096;
const LIBPYTHON: &str = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0";
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
const VIEWS: &str = "/srv/shop/app/views.py";

/// A profile that lost nothing.
pub(crate) fn sample() -> Profile {
    let call_sites = vec![
        garbage_collector(),
        view(),
        receive(),
        template(),
        deallocation(),
        without_symbol(),
        relocation(),
        hostile(),
    ];
    let processes = vec![
        process(4242, 1, "gunicorn", None, None),
        process(4243, 4242, "gunicorn: worke", None, None),
        process(4244, 4242, "gunicorn: worke", None, None),
        process(4245, 4242, "gunicorn: worke", Some(0.512), Some(6.25)),
        process(4246, 4242, "sh", Some(7.001), Some(7.019)),
        process(4247, 4242, "gunicorn", Some(9.998), None),
    ];
    summed(Profile {
        schema: SCHEMA.to_owned(),
        memtrace: "0.1.0".to_owned(),
        host: Host {
            kernel: "6.12.41-cloud-amd64".to_owned(),
            arch: "x86_64".to_owned(),
            page_size: PAGE,
            backend: "tracepoint".to_owned(),
            python: "auto".to_owned(),
            unwind: "fp".to_owned(),
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
            },
            ..Totals::default()
        },
        processes,
        call_sites,
        types: Vec::new(),
        advice: Vec::new(),
        warnings: Vec::new(),
    })
}

/// The same, of which the kernel side had to drop a part.
pub(crate) fn sample_with_losses() -> Profile {
    let mut profile = sample();
    let lost = |function: &str, unknown: Unknown| Frame {
        unknown: Some(unknown),
        ..frame(function, None, None)
    };
    profile.call_sites.push(call_site(
        CauseName::Unknown,
        OriginName::Fork,
        &[(4243, 1_000), (4244, 204)],
        vec![(1_204, vec![lost("[lost]", Unknown::FaultLost)])],
    ));
    profile.call_sites.push(call_site(
        CauseName::Unknown,
        OriginName::Fork,
        &[(4245, 31)],
        vec![(31, vec![lost("[unknown]", Unknown::StackLost)])],
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

/// Fills in every figure that follows from the call sites.
fn summed(mut profile: Profile) -> Profile {
    let total: u64 = profile.call_sites.iter().map(|site| site.pages).sum();
    let totals = &mut profile.totals;
    (totals.by_cause, totals.by_origin) = Default::default();
    for process in &mut profile.processes {
        (process.by_cause, process.by_origin) = Default::default();
        process.copied_pages = 0;
    }
    for site in &mut profile.call_sites {
        site.share = site.pages as f64 / total as f64;
        for (&pid, &pages) in &site.processes {
            let process = profile.processes.iter_mut().find(|p| p.pid == pid).unwrap();
            process.copied_pages += pages;
            *cause_of(&mut process.by_cause, site.cause) += pages;
            *cause_of(&mut totals.by_cause, site.cause) += pages;
            *origin_of(&mut process.by_origin, site.origin) += pages;
            *origin_of(&mut totals.by_origin, site.origin) += pages;
        }
    }
    for process in &mut profile.processes {
        process.copied_bytes = process.copied_pages * PAGE;
        process.copy_on_read_pages = process.by_cause.refcount + process.by_cause.gc;
    }
    totals.copied_pages = total;
    totals.copied_bytes = total * PAGE;
    totals.copy_on_read_pages = totals.by_cause.refcount + totals.by_cause.gc;
    profile
        .call_sites
        .sort_by_key(|site| std::cmp::Reverse(site.pages));
    profile
}

fn cause_of(by: &mut ByCause, cause: CauseName) -> &mut u64 {
    match cause {
        CauseName::Refcount => &mut by.refcount,
        CauseName::Gc => &mut by.gc,
        CauseName::Allocator => &mut by.allocator,
        CauseName::Object => &mut by.object,
        CauseName::Data => &mut by.data,
        CauseName::Kernel => &mut by.kernel,
        CauseName::Remote => &mut by.remote,
        CauseName::Unknown => &mut by.unknown,
    }
}

fn origin_of(by: &mut ByOrigin, origin: OriginName) -> &mut u64 {
    match origin {
        OriginName::Fork => &mut by.fork,
        OriginName::Ksm => &mut by.ksm,
        OriginName::File => &mut by.file,
        OriginName::Hugetlb => &mut by.hugetlb,
    }
}

fn garbage_collector() -> CallSite {
    let collect = native("gc_collect_main", "./Modules/gcmodule.c", 1202, LIBPYTHON);
    let inlined = |function: &str, line| Frame {
        inlined: true,
        ..native(function, "./Modules/gcmodule.c", line, LIBPYTHON)
    };
    let allocate = vec![
        inlined("update_refs", 390),
        inlined("deduce_unreachable", 1103),
        collect.clone(),
        native(
            "_PyObject_GC_Alloc",
            "./Modules/gcmodule.c",
            2283,
            LIBPYTHON,
        ),
        native("PyDict_Copy", "./Objects/dictobject.c", 2876, LIBPYTHON),
        python("context", "/srv/shop/app/context.py", 31),
        python("checkout", VIEWS, 88),
        python("dispatch_request", "/srv/shop/lib/flask/app.py", 1484),
        native(
            "_start",
            "../sysdeps/x86_64/start.S",
            115,
            "/usr/bin/python3.11",
        ),
    ];
    let explicit = vec![
        inlined("update_refs", 390),
        collect,
        python("idle", "/srv/shop/gunicorn.conf.py", 12),
    ];
    let mut site = call_site(
        CauseName::Gc,
        OriginName::Fork,
        &[(4243, 2_100), (4244, 2_050), (4245, 900)],
        vec![(4_123, allocate), (927, explicit)],
    );
    site.site = Site {
        function: "gc_collect_main".into(),
        file: Some("./Modules/gcmodule.c".into()),
        line: Some(1202),
        module: Some(LIBPYTHON.into()),
        language: Language::Native,
    };
    site
}

fn view() -> CallSite {
    let frames = vec![
        python("checkout", VIEWS, 91),
        python("dispatch_request", "/srv/shop/lib/flask/app.py", 1484),
    ];
    let mut site = call_site(
        CauseName::Refcount,
        OriginName::Fork,
        &[(4243, 700), (4244, 650)],
        vec![(1_350, frames)],
    );
    site.object_type = Some("decimal.Decimal".into());
    site
}

fn receive() -> CallSite {
    let frames = vec![
        native(
            "sock_recv_impl",
            "./Modules/socketmodule.c",
            3480,
            LIBPYTHON,
        ),
        python("recv", "/usr/lib/python3.11/socket.py", 706),
    ];
    let pages = [(4243, 300), (4244, 312)];
    call_site(
        CauseName::Kernel,
        OriginName::Fork,
        &pages,
        vec![(612, frames)],
    )
}

fn template() -> CallSite {
    let function = "std::_Hashtable<std::string, std::pair<std::string const, \
                    shop::pricing::Rule>, std::allocator<std::pair<std::string const, \
                    shop::pricing::Rule>>>::_M_insert_unique_node";
    let file = "/usr/include/c++/12/bits/hashtable.h";
    let frames = vec![
        native(function, file, 1719, "/srv/shop/lib/_pricing.so"),
        native(
            "shop::pricing::apply",
            "src/pricing.cc",
            77,
            "/srv/shop/lib/_pricing.so",
        ),
    ];
    call_site(
        CauseName::Data,
        OriginName::Fork,
        &[(4243, 400)],
        vec![(400, frames)],
    )
}

fn deallocation() -> CallSite {
    let frames = vec![native(
        "_PyObject_Free",
        "./Objects/obmalloc.c",
        1834,
        LIBPYTHON,
    )];
    call_site(
        CauseName::Allocator,
        OriginName::Fork,
        &[(4242, 120)],
        vec![(120, frames)],
    )
}

fn without_symbol() -> CallSite {
    let unnamed = Frame {
        module: Some(LIBSSL.into()),
        unknown: Some(Unknown::NoSymbol),
        ..frame("libssl.so.3+0x4a1f0", None, None)
    };
    let nowhere = Frame {
        unknown: Some(Unknown::Anonymous),
        ..frame("[unknown]", None, None)
    };
    let mut site = call_site(
        CauseName::Unknown,
        OriginName::File,
        &[(4245, 180)],
        vec![(180, vec![unnamed, nowhere])],
    );
    site.cause_reason = Some("the instruction could not be read".to_owned());
    site.stacks[0].truncated = true;
    site
}

fn relocation() -> CallSite {
    let frames = vec![native(
        "_dl_relocate_object",
        "./elf/dl-reloc.c",
        288,
        "/lib64/ld-linux-x86-64.so.2",
    )];
    let mut site = call_site(
        CauseName::Unknown,
        OriginName::File,
        &[(4246, 64)],
        vec![(64, frames)],
    );
    site.age_ms = Distribution::new();
    site
}

fn hostile() -> CallSite {
    let function = "evil\u{1b}[2J\u{202e}eman\nfunction";
    let frames = vec![native(
        function,
        "/tmp/日本語/\u{7}.c",
        1,
        "/tmp/日本語/a.out",
    )];
    let mut site = call_site(
        CauseName::Data,
        OriginName::Ksm,
        &[(4244, 9)],
        vec![(9, frames)],
    );
    site.latency_ns = Distribution::new();
    site
}

/// A call site whose blamed frame is the leaf of its first stack.
fn call_site(
    cause: CauseName,
    origin: OriginName,
    processes: &[(u32, u64)],
    stacks: Vec<(u64, Vec<Frame>)>,
) -> CallSite {
    let pages = processes.iter().map(|(_, pages)| pages).sum();
    let leaf = &stacks[0].1[0];
    let site = Site {
        function: Arc::clone(&leaf.function),
        file: leaf.file.clone(),
        line: leaf.line,
        module: leaf.module.clone(),
        language: leaf.language,
    };
    let (mut latency_ns, mut age_ms) = (Distribution::new(), Distribution::new());
    for n in 0..pages {
        latency_ns.record(1_100 + n * 37 % 2_000 + if n % 97 == 0 { n * 113 } else { 0 });
        age_ms.record(20 + n * 13 % 6_000);
    }
    CallSite {
        site,
        cause,
        cause_reason: None,
        evidence: None,
        origin,
        object_type: None,
        field_offset: None,
        pages,
        bytes: pages * PAGE,
        share: 0.0,
        processes: processes.iter().copied().collect(),
        latency_ns,
        age_ms,
        stacks: stacks
            .into_iter()
            .map(|(pages, frames)| StackPages {
                pages,
                truncated: false,
                frames: frames.into_iter().map(Arc::new).collect(),
            })
            .collect(),
    }
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
        },
        lost_faults: 0,
        unchanged: None,
        interpreter: None,
        memory: None,
    }
}

fn native(function: &str, file: &str, line: u32, module: &str) -> Frame {
    Frame {
        module: Some(module.into()),
        ..frame(function, Some(file), Some(line))
    }
}

fn python(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        language: Language::Python,
        address: 0,
        ..frame(function, Some(file), Some(line))
    }
}

fn frame(function: &str, file: Option<&str>, line: Option<u32>) -> Frame {
    Frame {
        function: function.into(),
        file: file.map(Into::into),
        line,
        module: None,
        address: 0x7f12_3456_0000 + u64::from(line.unwrap_or(0)),
        language: Language::Native,
        inlined: false,
        unknown: None,
    }
}
