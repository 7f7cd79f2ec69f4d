//! The call sites of the sample profile, and what they are put together from.

use std::sync::Arc;

use super::PAGE;
use crate::distribution::Distribution;
use crate::profile::{
    CallSite, CauseEvidence, CauseName, Frame, Language, OriginName, Phase, Site, StackPages,
    Truncated, Unknown,
};

const LIBPYTHON: &str = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0";
const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";
const PRICING: &str = "/srv/shop/lib/_pricing.so";
const VIEWS: &str = "/srv/shop/app/views.py";

/// All of them.
pub(super) fn all() -> Vec<CallSite> {
    [
        rendering(),
        collection(),
        fields(),
        vec![
            receive(),
            template(),
            shared_pointer(),
            deallocation(),
            without_symbol(),
            relocation(),
            hostile(),
        ],
    ]
    .concat()
}

/// A walk over objects that were loaded before the fork, at two lines of one function.
fn rendering() -> Vec<CallSite> {
    let at = |line, object_type: &str, processes: &[(u32, u64)]| {
        let leaf = [native("unicode_hash", "./Objects/unicodeobject.c", 11_230)];
        let frames = [
            &leaf[..],
            &eval(),
            &[python("Catalog.render", "/srv/shop/app/catalog.py", line)],
            &application(),
        ];
        let site = call_site(CauseName::Refcount, processes, frames.concat());
        of_type(object_type, site)
    };
    vec![
        at(212, "str", &[(4243, 1_120), (4244, 1_080), (4245, 300)]),
        at(212, "dict", &[(4243, 410), (4244, 377)]),
        at(212, "shop.models.Product", &[(4243, 160), (4244, 140)]),
        at(212, "tuple", &[(4243, 90), (4245, 25)]),
        at(219, "decimal.Decimal", &[(4243, 220), (4244, 205)]),
    ]
}

/// The collector, once called by an allocation and once by the program.
fn collection() -> Vec<CallSite> {
    let collect = |file: &str, function: &str, line, object_type: Option<&str>, processes: &_| {
        let inlined = |function: &str, line| Frame {
            inlined: true,
            ..native(function, "./Modules/gcmodule.c", line)
        };
        let leaf = [
            inlined("update_refs", 390),
            inlined("deduce_unreachable", 1103),
            native("gc_collect_main", "./Modules/gcmodule.c", 1202),
            native("_PyObject_GC_Alloc", "./Modules/gcmodule.c", 2283),
            native("PyDict_Copy", "./Objects/dictobject.c", 2876),
        ];
        let frames = [
            &leaf[..],
            &eval(),
            &[python(function, file, line)],
            &application(),
        ];
        let mut site = call_site(CauseName::Gc, processes, frames.concat());
        site.object_type = object_type.map(Into::into);
        site
    };
    let context = "/srv/shop/app/context.py";
    let config = "/srv/shop/gunicorn.conf.py";
    vec![
        collect(
            context,
            "context",
            31,
            Some("dict"),
            &[(4243, 380), (4244, 350)],
        ),
        collect(context, "context", 31, Some("function"), &[(4244, 240)]),
        collect(config, "idle", 12, None, &[(4245, 140)]),
    ]
}

/// Fields of objects: the program did write.
fn fields() -> Vec<CallSite> {
    let at = |object_type: &str, offset, pages| {
        let frames = [
            &eval()[..],
            &[python("Session.touch", "/srv/shop/app/sessions.py", 47)],
            &application(),
        ];
        let mut site = call_site(CauseName::Object, &[(4244, pages)], frames.concat());
        site.field_offset = Some(offset);
        of_type(object_type, site)
    };
    vec![at("dict", 24, 150), at("shop.sessions.Session", -8, 60)]
}

fn receive() -> CallSite {
    let socket = native("sock_recv_impl", "./Modules/socketmodule.c", 3480);
    let frames = [
        &[socket][..],
        &eval(),
        &[python("recv", "/usr/lib/python3.11/socket.py", 706)],
        &application(),
    ];
    let pages = [(4243, 300), (4244, 312)];
    let mut site = call_site(CauseName::Kernel, &pages, frames.concat());
    site.app = Some(site_of(&application()[0]));
    site
}

fn template() -> CallSite {
    let function = "std::_Hashtable<std::string, std::pair<std::string const, \
                    shop::pricing::Rule>, std::allocator<std::pair<std::string const, \
                    shop::pricing::Rule>>>::_M_insert_unique_node";
    let file = "/usr/include/c++/12/bits/hashtable.h";
    let frames = vec![
        within(PRICING, native(function, file, 1719)),
        within(
            PRICING,
            native("shop::pricing::apply", "src/pricing.cc", 77),
        ),
    ];
    call_site(CauseName::Data, &[(4243, 400)], frames)
}

/// A reference count of C++, which only the instruction tells.
fn shared_pointer() -> CallSite {
    let count = native(
        "std::_Sp_counted_base<(__gnu_cxx::_Lock_policy)2>::_M_add_ref_copy",
        "/usr/include/c++/12/bits/shared_ptr_base.h",
        152,
    );
    let frames = vec![
        within(PRICING, count),
        within(
            PRICING,
            native("shop::pricing::lookup", "src/pricing.cc", 141),
        ),
    ];
    let mut site = call_site(CauseName::Refcount, &[(4243, 130)], frames);
    site.evidence = Some(CauseEvidence::Instruction);
    site
}

fn deallocation() -> CallSite {
    let frames = vec![native("_PyObject_Free", "./Objects/obmalloc.c", 1834)];
    call_site(CauseName::Allocator, &[(4242, 120)], frames)
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
    let pages = [(4245, 180)];
    let mut site = call_site(CauseName::Unknown, &pages, vec![unnamed, nowhere]);
    site.origin = OriginName::File;
    site.cause_reason = Some("the instruction could not be read".to_owned());
    site.stacks[0].truncated = true;
    site.stacks[0].truncated_why = Some(Truncated::NoTables);
    site
}

fn relocation() -> CallSite {
    let relocate = native("_dl_relocate_object", "./elf/dl-reloc.c", 288);
    let frames = vec![within("/lib64/ld-linux-x86-64.so.2", relocate)];
    let mut site = call_site(CauseName::Data, &[(4246, 64)], frames);
    site.origin = OriginName::File;
    site.age_ms = Distribution::new();
    site
}

/// Names from somebody who means ill: they would clear the screen, turn the line around, hide,
/// break a page of HTML and fill the screen.
fn hostile() -> CallSite {
    let freed = Frame {
        unknown: Some(Unknown::CodeGone),
        ..python("[unknown]", "", 0)
    };
    let freed = Frame {
        file: None,
        line: None,
        ..freed
    };
    let function = "evil\u{1b}[2J\u{202e}eman\nfunction";
    let frames = vec![python(function, "/tmp/日本語/\u{7}.py", 1), freed];
    let mut site = call_site(CauseName::Refcount, &[(4244, 9)], frames);
    site.origin = OriginName::Ksm;
    site.latency_ns = Distribution::new();
    let name = "<script>alert(1)</script>\u{1b}]0;owned\u{7}\u{202e}epyt";
    of_type(&(name.to_owned() + &"é".repeat(200)), site)
}

/// The interpreter loop, below what it calls.
fn eval() -> [Frame; 1] {
    [native("_PyEval_EvalFrameDefault", "Python/ceval.c", 4_980)]
}

/// What calls the handlers: Python with native frames between, down to the start of the program.
fn application() -> Vec<Frame> {
    let sync = "/srv/shop/lib/gunicorn/workers/sync.py";
    let call = |function: &str, line| native(function, "Objects/call.c", line);
    vec![
        python("checkout", VIEWS, 91),
        python(
            "Flask.dispatch_request",
            "/srv/shop/lib/flask/app.py",
            1_484,
        ),
        call("_PyFunction_Vectorcall", 393),
        call("_PyObject_Call", 290),
        native("slot_tp_call", "Objects/typeobject.c", 7_494),
        call("_PyObject_MakeTpCall", 214),
        native("_PyEval_EvalFrameDefault", "Python/ceval.c", 4_774),
        python("SyncWorker.handle_request", sync, 177),
        python("SyncWorker.run", sync, 130),
        native("_PyEval_Vector", "Python/ceval.c", 6_435),
        native("Py_RunMain", "Modules/main.c", 680),
        within(
            "/usr/bin/python3.11",
            native("_start", "../sysdeps/x86_64/start.S", 115),
        ),
    ]
}

/// A call site of one stack, shared since a fork. Its innermost Python frame is blamed, or else
/// the leaf.
pub(super) fn call_site(
    cause: CauseName,
    processes: &[(u32, u64)],
    frames: Vec<Frame>,
) -> CallSite {
    let pages = processes.iter().map(|(_, pages)| pages).sum();
    let python = |frame: &&Frame| frame.language == Language::Python;
    let blamed = frames.iter().find(python).unwrap_or(&frames[0]);
    let site = site_of(blamed);
    let (mut latency_ns, mut age_ms) = (Distribution::new(), Distribution::new());
    for n in 0..pages {
        latency_ns.record(1_100 + n * 37 % 2_000 + if n % 97 == 0 { n * 113 } else { 0 });
        age_ms.record(20 + n * 13 % 6_000);
    }
    CallSite {
        site,
        app: None,
        caller: None,
        cause,
        cause_reason: None,
        evidence: evidence(cause),
        phase: Phase::Run,
        origin: OriginName::Fork,
        object_type: None,
        field_offset: None,
        pages,
        bytes: pages * PAGE,
        share: 0.0,
        processes: processes.iter().copied().collect(),
        latency_ns,
        age_ms,
        unchanged: None,
        stacks: vec![StackPages {
            pages,
            truncated: false,
            truncated_why: None,
            frames: frames.into_iter().map(Arc::new).collect(),
        }],
    }
}

fn site_of(frame: &Frame) -> Site {
    Site {
        function: Arc::clone(&frame.function),
        file: frame.file.clone(),
        line: frame.line,
        module: frame.module.clone(),
        language: frame.language,
    }
}

/// What a cause is usually concluded from.
fn evidence(cause: CauseName) -> Option<CauseEvidence> {
    match cause {
        CauseName::Refcount | CauseName::Gc | CauseName::Allocator | CauseName::Object => {
            Some(CauseEvidence::Structure)
        }
        CauseName::Data => Some(CauseEvidence::Mapping),
        CauseName::Kernel | CauseName::Remote => Some(CauseEvidence::Kernel),
        CauseName::Unknown | CauseName::Other(_) => None,
    }
}

pub(super) fn of_type(name: &str, site: CallSite) -> CallSite {
    CallSite {
        object_type: Some(name.into()),
        ..site
    }
}

fn within(module: &str, frame: Frame) -> Frame {
    Frame {
        module: Some(module.into()),
        ..frame
    }
}

fn native(function: &str, file: &str, line: u32) -> Frame {
    within(LIBPYTHON, frame(function, Some(file), Some(line)))
}

pub(super) fn python(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        language: Language::Python,
        address: 0,
        ..frame(function, Some(file), Some(line))
    }
}

pub(super) fn frame(function: &str, file: Option<&str>, line: Option<u32>) -> Frame {
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
