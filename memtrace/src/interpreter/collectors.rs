//! Functions of runtimes that are not read whose name says what they write: garbage collectors, and
//! those that do nothing but count references.
//!
//! A name counts in a file that is the runtime ([`Runtimes`]), or everywhere if nobody else may use
//! it. It ends in `*` where only its beginning is given. Of a stripped runtime few names are left:
//! [`entries`] has exported functions that call the collector and nothing else of their file, so
//! that what they call can be told without a name, and [`texts`] what only a collector's functions
//! name.

use super::runtimes::{Runtime, Runtimes};
use super::{Role, unsplit};

/// What the functions of a runtime are for.
struct Functions {
    runtime: Runtime,
    /// Mark, sweep, move or free objects, or note for the collector that one has changed.
    collectors: &'static [&'static str],
    /// Run what the program wrote, which a collector does for finalisers: whatever writes below
    /// them is not the collector.
    programs: &'static [&'static str],
    /// Exported functions, and how many calls deep what they call in their own file is the
    /// collector.
    entries: &'static [(&'static str, u32)],
}

const FUNCTIONS: &[Functions] = &[
    Functions {
        runtime: Runtime::Ruby,
        collectors: &[
            "garbage_collect*",
            "gc_aging",
            "gc_compact*",
            "gc_continue*",
            "gc_grey",
            "gc_mark*",
            "gc_move*",
            "gc_pin",
            "gc_ref_update*",
            "gc_rest",
            "gc_start*",
            "gc_sweep*",
            "gc_update_*",
            "gc_writebarrier*",
            "rb_gc",
            "rb_gc_impl_mark*",
            "rb_gc_impl_start",
            "rb_gc_impl_writebarrier*",
            "rb_gc_mark*",
            "rb_gc_start",
            "rb_gc_update_tbl_refs",
            "rb_gc_writebarrier*",
            "rb_mark_*",
            "rgengc_*",
        ],
        programs: &[
            "finalize_list",
            "rb_funcall*",
            "rb_proc_call*",
            "rb_vm_call*",
            "rb_vm_exec",
            "rb_vm_invoke_proc*",
            "rb_yield*",
            "run_final*",
            "vm_exec*",
        ],
        entries: &[("rb_gc", 2)],
    },
    Functions {
        runtime: Runtime::Php,
        collectors: &[
            "gc_collect_white*",
            "gc_compact",
            "gc_mark_*",
            "gc_possible_root*",
            "gc_remove_from_buffer",
            "gc_remove_nested_data_from_buffer*",
            "gc_scan*",
            "zend_gc_collect_cycles*",
        ],
        programs: &[
            "execute_ex",
            "zend_call_*",
            "zend_execute*",
            "zend_objects_destroy_object",
        ],
        entries: &[],
    },
    Functions {
        runtime: Runtime::Lua,
        collectors: &[
            "luaC_barrier*",
            "luaC_changemode",
            "luaC_fullgc",
            "luaC_step",
            "lua_gc",
        ],
        programs: &["luaD_call*", "luaD_pcall", "luaV_execute", "lua_*call*"],
        entries: &[("lua_gc", 1)],
    },
    Functions {
        runtime: Runtime::LuaJit,
        collectors: &["lj_gc_barrier*", "lj_gc_fullgc", "lj_gc_step*", "lua_gc"],
        programs: &["lj_vm_call*", "lj_vm_cpcall*", "lj_vm_pcall*", "lua_*call*"],
        entries: &[("lua_gc", 1)],
    },
    Functions {
        runtime: Runtime::R,
        collectors: &[
            "AgeNodeAndChildren",
            "R_gc",
            "R_gc_full_internal",
            "R_gc_internal*",
            "RunGenCollect*",
            "old_to_new",
        ],
        programs: &[
            "R_RunFinalizers",
            "R_RunPendingFinalizers",
            "R_RunWeakRefFinalizer",
            "R_execClosure",
            "Rf_applyClosure",
            "Rf_eval",
            "RunFinalizers",
        ],
        entries: &[("R_gc", 1)],
    },
    Functions {
        runtime: Runtime::Boehm,
        collectors: &[
            "GC_collect_a_little*",
            "GC_gcollect*",
            "GC_mark_*",
            "GC_push_*",
            "GC_reclaim_*",
            "GC_start_reclaim",
            "GC_stopped_mark",
            "GC_try_to_collect*",
        ],
        programs: &["GC_invoke_finalizers", "GC_notify_or_invoke_finalizers"],
        entries: &[],
    },
    Functions {
        runtime: Runtime::Beam,
        collectors: &[
            "do_minor*",
            "erts_garbage_collect*",
            "full_sweep_heaps*",
            "garbage_collect*",
            "major_collection*",
            "minor_collection*",
            "sweep_*",
        ],
        programs: &[],
        entries: &[],
    },
    Functions {
        runtime: Runtime::V8,
        collectors: &[],
        programs: &[
            "v8::internal::GlobalHandles::InvokeFirstPassWeakCallbacks",
            "v8::internal::GlobalHandles::InvokeSecondPassPhantomCallbacks",
            "v8::internal::Heap::CallGCEpilogueCallbacks",
            "v8::internal::Heap::CallGCPrologueCallbacks",
        ],
        entries: &[],
    },
];

/// Collectors' functions that nobody else may call so.
const COLLECTORS: &[&str] = &[
    "erts_garbage_collect*",
    "lj_gc_barrier*",
    "lj_gc_fullgc",
    "lj_gc_step*",
    "luaC_barrier*",
    "luaC_fullgc",
    "luaC_step",
    "zend_gc_collect_cycles*",
];

/// Classes of C++ of which all functions are the collector's, and that nobody else may call so.
const CLASSES: &[&str] = &[
    "v8::internal::ArrayBufferSweeper::",
    "v8::internal::ConcurrentMarking::",
    "v8::internal::Evacuator::",
    "v8::internal::Heap::CollectGarbage",
    "v8::internal::Heap::PerformGarbageCollection",
    "v8::internal::IncrementalMarking::",
    "v8::internal::MarkCompactCollector::",
    "v8::internal::MarkingBarrier::",
    "v8::internal::MinorMarkCompactCollector::",
    "v8::internal::MinorMarkSweepCollector::",
    "v8::internal::Scavenger::",
    "v8::internal::ScavengerCollector::",
    "v8::internal::Sweeper::",
];

/// The same for `HotSpot`'s, in a file that has it.
const JVM_CLASSES: &[&str] = &[
    "DefNewGeneration::collect",
    "G1CMTask::",
    "G1ConcurrentMark::",
    "G1FullCollector::",
    "G1ParScanThreadState::",
    "MarkSweep::",
    "PSParallelCompact::",
    "PSPromotionManager::",
    "PSScavenge::",
    "ParCompactionManager::",
];

/// Where functions of .NET's collector begin, of which others allocate.
const DOTNET: [&str; 2] = ["WKS::gc_heap::", "SVR::gc_heap::"];
const DOTNET_COLLECTORS: &[&str] = &[
    "background_*",
    "compact_*",
    "garbage_collect*",
    "gc1*",
    "mark_*",
    "plan_phase*",
    "relocate_*",
    "sweep_*",
];

/// Where functions of `PyPy`'s collector begin, of which others allocate; and what those that
/// collect have in their names.
const PYPY: &str = "pypy_g_IncrementalMiniMarkGC_";
const PYPY_COLLECTORS: &[&str] = &[
    "barrier",
    "collect",
    "drag_out",
    "free_unvisited",
    "mark",
    "remember_young",
    "sweep",
    "trace",
    "visit",
];

/// What a stripped `PyPy` calls the phases of its collector, in the functions that have them.
const PYPY_TEXTS: &[&str] = &[
    "gc-collect-done",
    "gc-collect-step",
    "gc-minor",
    "gc-minor-walkroots",
];

/// Functions that count a reference and write nothing else, of names that nobody else may use.
const COUNTS: &[&str] = &[
    "Perl_sv_newref",
    "PyPy_DecRef",
    "PyPy_IncRef",
    "Py_DecRef",
    "Py_IncRef",
    "_Py_DecRef",
    "_Py_IncRef",
    "g_atomic_ref_count_dec",
    "g_atomic_ref_count_inc",
    "g_ref_count_dec",
    "g_ref_count_inc",
];

/// What a function is for, by its name, in a file that has these runtimes.
#[must_use]
pub fn role(function: &str, there: Runtimes) -> Option<Role> {
    let function = function.split('@').next().unwrap_or(function);
    // A suffix of the compiler; names of C++ have points of other kinds.
    let plain = unsplit(function);
    let is_one_of = |names: &[&str]| names.iter().any(|name| matches(plain, name));
    let own = FUNCTIONS.iter().filter(|own| there.has(own.runtime));
    for own in own {
        if is_one_of(own.programs) {
            return Some(Role::Program);
        }
        if is_one_of(own.collectors) {
            return Some(Role::Collector);
        }
    }
    let classes = |classes: &[&str]| {
        let named = without_arguments(function);
        classes.iter().any(|class| mentions(named, class))
    };
    let collects = is_one_of(COLLECTORS)
        || function.contains("v8::internal::") && classes(CLASSES)
        || there.has(Runtime::Jvm) && classes(JVM_CLASSES)
        || is_of_pypy(plain)
        || is_of_dotnet(function);
    if collects {
        return Some(Role::Collector);
    }
    is_one_of(COUNTS).then_some(Role::Count)
}

/// The exported functions, of files with these runtimes, that call the collector, and how many
/// calls deep.
pub fn entries(there: Runtimes) -> impl Iterator<Item = (&'static str, u32)> {
    let own = FUNCTIONS.iter().filter(move |own| there.has(own.runtime));
    own.flat_map(|own| own.entries).copied()
}

/// Texts that only the collector's functions name, in files with these runtimes.
#[must_use]
pub fn texts(there: Runtimes) -> &'static [&'static str] {
    if there.has(Runtime::PyPy) {
        PYPY_TEXTS
    } else {
        &[]
    }
}

fn is_of_pypy(function: &str) -> bool {
    let rest = function.strip_prefix(PYPY);
    rest.is_some_and(|rest| PYPY_COLLECTORS.iter().any(|part| rest.contains(part)))
}

fn is_of_dotnet(function: &str) -> bool {
    let rest = DOTNET.iter().find_map(|class| function.strip_prefix(class));
    rest.is_some_and(|rest| DOTNET_COLLECTORS.iter().any(|name| matches(rest, name)))
}

/// Whether a name is `pattern`, or begins with what comes before its `*`. One in the middle stands
/// for anything.
fn matches(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name == pattern,
        Some((before, rest)) => name.strip_prefix(before).is_some_and(|left| {
            let middle = rest.trim_end_matches('*');
            left.contains(middle)
        }),
    }
}

/// A name of C++ without its parameters: `a::(anonymous namespace)::f<b>` of that with `(c)`
/// behind it.
fn without_arguments(function: &str) -> &str {
    let mut from = 0;
    while let Some(at) = function[from..].find('(') {
        let at = from + at;
        if !function[at..].starts_with("(anonymous namespace)") {
            return &function[..at];
        }
        from = at + 1;
    }
    function
}

/// Whether a name of C++ has `part`, from the beginning of a word on.
fn mentions(function: &str, part: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    function.match_indices(part).any(|(at, _)| {
        let before = function[..at].chars().next_back();
        !before.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(runtime: Runtime) -> Runtimes {
        Runtimes::from_iter([runtime])
    }

    #[test]
    fn names_of_a_runtime_count_in_its_file_only() {
        for (runtime, function, expected) in [
            (Runtime::Ruby, "gc_sweep_step.isra.0", Role::Collector),
            (Runtime::Ruby, "rb_gc_mark_movable", Role::Collector),
            (Runtime::Ruby, "rb_vm_exec", Role::Program),
            (Runtime::Php, "gc_mark_grey", Role::Collector),
            (Runtime::Php, "zend_call_known_function", Role::Program),
            (Runtime::Lua, "lua_gc@@LUA_5.4", Role::Collector),
            (Runtime::Lua, "lua_pcallk", Role::Program),
            (Runtime::LuaJit, "lua_gc", Role::Collector),
            (Runtime::R, "RunGenCollect", Role::Collector),
            (Runtime::R, "Rf_eval", Role::Program),
            (Runtime::Boehm, "GC_mark_from", Role::Collector),
            (Runtime::Beam, "do_minor", Role::Collector),
            (
                Runtime::Jvm,
                "void G1ParScanThreadState::trim_queue_to_threshold(unsigned int)",
                Role::Collector,
            ),
        ] {
            assert_eq!(role(function, with(runtime)), Some(expected), "{function}");
            assert_eq!(role(function, Runtimes::default()), None, "{function}");
            assert_eq!(role(function, with(Runtime::Perl)), None, "{function}");
        }
    }

    #[test]
    fn names_that_nobody_else_may_use_count_everywhere() {
        for (function, expected) in [
            ("luaC_step", Role::Collector),
            ("lj_gc_step_fixtop", Role::Collector),
            ("zend_gc_collect_cycles", Role::Collector),
            (
                "pypy_g_IncrementalMiniMarkGC__minor_collection",
                Role::Collector,
            ),
            (
                "v8::internal::MarkCompactCollector::MarkLiveObjects()",
                Role::Collector,
            ),
            (
                "v8::internal::(anonymous namespace)::v8::internal::Sweeper::RawSweep(int)",
                Role::Collector,
            ),
            (
                "WKS::gc_heap::mark_object_simple(unsigned char**)",
                Role::Collector,
            ),
            ("Perl_sv_newref", Role::Count),
            ("Py_IncRef", Role::Count),
        ] {
            assert_eq!(
                role(function, Runtimes::default()),
                Some(expected),
                "{function}"
            );
        }
    }

    #[test]
    fn what_allocates_or_does_more_is_no_collector_and_no_counter() {
        let all = with(Runtime::Ruby);
        for function in [
            "rb_gc_register_address",
            "rb_newobj_of",
            "gc_stat",
            "rb_gcd",
            "Perl_sv_free2",
            "Perl_sv_setsv_flags",
            "rc_dtor_func",
            "luaC_newobj",
            "pypy_g_IncrementalMiniMarkGC_malloc_fixedsize",
            "v8::internal::Heap::AllocateRaw(v8::internal::Scavenger::X)",
            "not_v8::internal::Scavenger::Run",
            "WKS::gc_heap::allocate_more_space(int)",
        ] {
            assert_eq!(role(function, all), None, "{function}");
        }
    }

    #[test]
    fn a_name_without_arguments_keeps_its_anonymous_namespaces() {
        for (name, expected) in [
            ("a::b(c)", "a::b"),
            (
                "a::(anonymous namespace)::b(c)",
                "a::(anonymous namespace)::b",
            ),
            ("a", "a"),
        ] {
            assert_eq!(without_arguments(name), expected);
        }
    }
}
