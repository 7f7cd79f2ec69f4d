//! Which frame of a stack is the call site.
//!
//! The innermost interpreted frame where there is one, else the innermost native frame that is not
//! inside an allocator, a function that only counts references, or the C library's string and stream
//! functions ([`role`]): that `memcpy` or `fwrite` wrote is true of every program, while its caller tells where. A function of theirs that
//! has lost its name is passed over with its caller. Wrappers of system calls are not passed over,
//! since a `read` into shared memory is a finding.
//!
//! An interpreter that runs no script is blamed by what it does: in `Py_FinalizeEx`, rather than in
//! whichever of its functions wrote.
//!
//! A person acts on code of their own and on what has a name. So where the call site is in a library
//! of its language, there is the innermost frame of the application beside it; and where it has no
//! name, the nearest caller that has one.

use std::sync::Arc;

use super::role::{Role, counts_references, is_in_c_library, is_start, role};
use crate::interpreter;
use crate::profile::{Frame, Language, Site, Unknown};

/// What is blamed for copies with a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Blamed {
    /// The call site.
    pub site: Site,
    /// The application's frame that led there, where the call site is in a library.
    pub app: Option<Site>,
    /// The nearest caller that has a name, where the call site has none.
    pub caller: Option<Site>,
}

/// Where the sources of the languages' own libraries are. What is inlined from there works for its
/// caller: the write through a pointer is not `write_volatile`'s.
const LIBRARY_SOURCES: [&str; 4] = [
    "/library/core/src/",
    "/library/alloc/src/",
    "/library/std/src/",
    "/include/c++/",
];

/// What is blamed for a stack, leaf first, of which the first `allocators` frames are known to be an
/// allocator's without a name saying so. When all its frames would be passed over it is the leaf;
/// without frames it is one named `[no stack]`.
#[must_use]
pub fn blame(frames: &[Frame], allocators: usize) -> Blamed {
    let script = frames
        .iter()
        .position(|frame| frame.language.is_interpreted());
    if let Some(at) = script {
        return Blamed {
            site: site(&frames[at]),
            app: app(&frames[at..]).map(site),
            caller: None,
        };
    }
    let rest = allocators.min(frames.len())..frames.len();
    let mut native = rest.filter(|&at| is_code(&frames[at]) && !is_passed_over(frames, at));
    let at = native.next().unwrap_or(0);
    let Some(innermost) = frames.get(at) else {
        return Blamed {
            site: Site {
                function: Arc::from("[no stack]"),
                file: None,
                line: None,
                module: None,
                language: Language::Native,
            },
            app: None,
            caller: None,
        };
    };
    let callers = &frames[at + 1..];
    let blamed = activity(innermost, callers).unwrap_or(innermost);
    let named = |frame: &&Frame| frame.unknown.is_none() && !is_start(frame);
    let caller = blamed.unknown.and_then(|_| callers.iter().find(named));
    Blamed {
        site: site(blamed),
        app: None,
        caller: caller.map(site),
    }
}

fn site(frame: &Frame) -> Site {
    Site {
        function: Arc::clone(&frame.function),
        file: frame.file.clone(),
        line: frame.line,
        module: frame.module.clone(),
        language: frame.language,
    }
}

/// The innermost frame of the application, where the first of `frames` is of a library.
fn app(frames: &[Frame]) -> Option<&Frame> {
    let first = frames.first()?;
    let language = first.language;
    if !interpreter::is_library(language, first.file.as_deref()?) {
        return None;
    }
    let script = frames.iter().filter(|frame| frame.language == language);
    let files: Vec<_> = script.clone().map(|frame| frame.file.as_deref()).collect();
    script
        .clone()
        .nth(interpreter::application(language, &files)?)
}

/// The function that says best what the interpreter does that `innermost` is a part of, or that
/// called it where it is one of the C library without a name; of several that say the same the
/// outermost.
fn activity<'a>(innermost: &'a Frame, callers: &'a [Frame]) -> Option<&'a Frame> {
    let frames = std::iter::once(innermost).chain(callers);
    let part = frames
        .clone()
        .find(|frame| frame.unknown.is_none() || !is_in_c_library(frame))?;
    let same = frames
        .rev()
        .filter(|frame| frame.unknown.is_none() && frame.module == part.module);
    let saying = same.filter_map(|frame| Some((interpreter::activity(&frame.function)?, frame)));
    let (_, frame) = saying.min_by_key(|&(rank, _)| rank)?;
    Some(frame)
}

/// Whether a frame is known to be code: an address in no mapping was found by following something
/// that is not a stack.
fn is_code(frame: &Frame) -> bool {
    frame.unknown.is_none() || frame.module.is_some()
}

fn is_passed_over(frames: &[Frame], at: usize) -> bool {
    let frame = &frames[at];
    if frame.language != Language::Native {
        return false;
    }
    let from_library = |file: &str| LIBRARY_SOURCES.iter().any(|dir| file.contains(dir));
    if frame.inlined && frame.file.as_deref().is_some_and(from_library) {
        return true;
    }
    // An inlined function is part of the one that it is in.
    let whole = frames[at..].iter().position(|frame| !frame.inlined);
    let whole = at + whole.unwrap_or(0);
    let role = role_at(frames, whole);
    matches!(role, Role::Allocator | Role::String | Role::Count)
        || frame.inlined && counts_references(&frame.function)
}

/// What a frame's function is for. One without a name has the role of the nearest caller that has
/// one, if all between them are of one module: the static functions of a stripped C library.
fn role_at(frames: &[Frame], at: usize) -> Role {
    let frame = &frames[at];
    let own = role(frame);
    if own != Role::Other || frame.unknown != Some(Unknown::NoSymbol) {
        return own;
    }
    let mut callers = frames[at + 1..]
        .iter()
        .take_while(|caller| caller.module == frame.module);
    let named = callers.find(|caller| caller.unknown.is_none());
    named.map_or(Role::Other, role)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::Unknown;

    fn frame(function: &str, module: &str) -> Frame {
        Frame {
            file: Some("/src/a.c".into()),
            line: Some(7),
            ..Frame::native(function, module)
        }
    }

    fn blamed(frames: &[(&str, &str)]) -> String {
        let frames: Vec<_> = frames
            .iter()
            .map(|(function, module)| frame(function, module))
            .collect();
        blame(&frames, 0).site.function.to_string()
    }

    fn unnamed(module: &str) -> Frame {
        Frame {
            unknown: Some(Unknown::NoSymbol),
            ..frame("x+0x1", module)
        }
    }

    fn python(function: &str, file: &str) -> Frame {
        Frame {
            file: Some(file.into()),
            language: Language::Python,
            ..frame(function, "")
        }
    }

    #[test]
    fn what_is_inlined_is_part_of_what_it_is_in() {
        let libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
        let inlined = |function, module| Frame {
            inlined: true,
            ..frame(function, module)
        };
        let printed = [
            inlined("outstring_func", libc),
            frame("__vfprintf_internal", libc),
            frame("render", "/srv/shop"),
        ];
        assert_eq!(&*blame(&printed, 0).site.function, "render");
        let shared = [
            inlined("_M_add_ref_copy", "/srv/shop"),
            inlined("shared_ptr", "/srv/shop"),
            frame("keep", "/srv/shop"),
        ];
        assert_eq!(&*blame(&shared, 0).site.function, "shared_ptr");
    }

    #[test]
    fn what_is_known_to_be_an_allocators_is_passed_over() {
        let musl = "/lib/ld-musl-x86_64.so.1";
        let frames = [unnamed(musl), unnamed(musl), frame("render", "/srv/shop")];
        assert_eq!(&*blame(&frames, 2).site.function, "render");
        assert_eq!(&*blame(&frames, 0).site.function, "x+0x1");
        assert_eq!(&*blame(&frames[..2], 2).site.function, "x+0x1");
    }

    #[test]
    fn allocators_and_string_functions_are_passed_over() {
        let libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
        for function in [
            "__memmove_avx_unaligned_erms",
            "__memset_evex_unaligned",
            "memcpy",
            "__memcpy_chk",
            "__strcpy_sse2_unaligned",
            "_int_malloc",
            "__libc_malloc",
            "__GI___libc_free",
            "malloc@@GLIBC_2.2.5",
            "arena_get2",
            "arena_get2.part.0",
            "sysmalloc",
            "cfree",
            "__libc_calloc",
            "_int_free_merge_chunk",
            "tcache_init.part.0",
            "__strdup",
            "malloc_consolidate",
            "unlink_chunk.constprop.0",
            "__stpcpy_evex",
            "__bzero",
            "fwrite",
            "_IO_fwrite",
            "puts",
            "fputs_unlocked",
            "__printf_chk",
            "__vfprintf_internal",
            "__printf_buffer_write",
            "_itoa_word",
            "_IO_file_xsputn@@GLIBC_2.2.5",
            "_IO_new_file_overflow",
            "__isoc99_sscanf",
            "__isoc23_fscanf",
            "__overflow",
            "getdelim",
            "__getdelim",
            "printf_core",
            "__fwritex",
            "__stdio_write",
            "strftime",
            "__strftime_internal.isra.0",
            "strtok_r",
        ] {
            assert_eq!(
                blamed(&[(function, libc), ("work", "/bin/app")]),
                "work",
                "{function}"
            );
        }
        for (function, module) in [
            (
                "operator new(unsigned long)",
                "/usr/lib/libstdc++.so.6.0.30",
            ),
            ("operator delete[](void*)", "/usr/lib/libc++abi.so.1"),
            ("_Znwm", "/usr/lib/libstdc++.so.6"),
            ("je_arena_bin_malloc_hard", "/usr/lib/libjemalloc.so.2"),
            ("tc_malloc", "/usr/lib/libtcmalloc_minimal.so.4"),
            ("malloc", "/lib64/ld-linux-x86-64.so.2"),
            ("memcpy", "/lib/ld-musl-x86_64.so.1"),
            ("malloc", "/lib/x86_64-linux-gnu/libc-2.31.so"),
            ("compiler_builtins::mem::memcpy", "/bin/app"),
            ("__memset_avx2_unaligned_erms", "/bin/static"),
        ] {
            assert_eq!(
                blamed(&[(function, module), ("work", "/bin/app")]),
                "work",
                "{function}"
            );
        }
    }

    #[test]
    fn all_other_functions_are_blamed() {
        for (function, module) in [
            ("memset", "/bin/app"),
            ("operator new(unsigned long)", "/bin/app"),
            ("read", "/usr/lib/libc.so.6"),
            ("__read", "/usr/lib/libc.so.6"),
            ("qsort_r", "/usr/lib/libc.so.6"),
            ("getenv", "/usr/lib/libc.so.6"),
            ("pthread_mutex_lock", "/usr/lib/libc.so.6"),
            ("write", "/usr/lib/libc.so.6"),
            ("puts", "/bin/app"),
            ("_IO_puts", "/bin/app"),
            ("_dl_fixup", "/lib64/ld-linux-x86-64.so.2"),
            ("memcpy", "/opt/libcopy.so"),
            ("malloc", "/opt/libc++malloc"),
            ("operator newer(int)", "/usr/lib/libstdc++.so.6"),
            ("malloc_stats_of_mine", "/usr/lib/libc.so.6"),
            ("my_memset_avx2", "/bin/app"),
        ] {
            assert_eq!(
                blamed(&[(function, module), ("work", "/bin/app")]),
                function
            );
        }
    }

    #[test]
    fn the_innermost_interpreted_frame_comes_first() {
        let mut handler = frame("handler", "/app/views.py");
        handler.language = Language::Python;
        let stack = [
            frame("dict_resize", "/bin/python3"),
            handler,
            frame("main", "/bin/python3"),
        ];
        let Blamed { site, app, caller } = blame(&stack, 0);
        assert_eq!((app, caller), (None, None));
        assert_eq!(
            (site.function.as_ref(), site.language),
            ("handler", Language::Python)
        );
        assert_eq!(
            (site.file.as_deref(), site.line),
            (Some("/src/a.c"), Some(7))
        );
    }

    #[test]
    fn a_stack_of_nothing_else_blames_its_leaf() {
        assert_eq!(
            blamed(&[("memcpy", "/lib/libc.so.6"), ("malloc", "/lib/libc.so.6")]),
            "memcpy"
        );
    }

    #[test]
    fn no_stack_has_a_site_of_its_own() {
        assert_eq!(blame(&[], 0).site.function.as_ref(), "[no stack]");
    }

    #[test]
    fn unnamed_code_is_passed_over_only_in_an_allocator() {
        for (module, expected) in [("/a/libc.so.6", "x+0x1"), ("/a/libjemalloc.so.2", "work")] {
            let blamed = blame(&[unnamed(module), frame("work", "/bin/app")], 0);
            assert_eq!(blamed.site.function.as_ref(), expected);
        }
    }

    #[test]
    fn unnamed_code_of_the_c_library_is_for_what_its_caller_is_for() {
        let libc = "/lib/libc.so.6";
        let in_libc = |caller| {
            let stack = [
                unnamed(libc),
                unnamed(libc),
                frame(caller, libc),
                frame("work", "/bin/app"),
            ];
            blame(&stack, 0).site.function.to_string()
        };
        for caller in ["malloc", "printf", "memcpy"] {
            assert_eq!(in_libc(caller), "work", "{caller}");
        }
        assert_eq!(in_libc("qsort"), "x+0x1");
        // It is another's that the function calls.
        let stack = [unnamed("/bin/app"), frame("malloc", libc)];
        assert_eq!(&*blame(&stack, 0).site.function, "x+0x1");
    }

    fn caller_of(frames: &[Frame]) -> Option<String> {
        let caller = blame(frames, 0).caller?;
        Some(caller.function.to_string())
    }

    #[test]
    fn what_has_no_name_has_the_nearest_caller_that_has_one() {
        let lua = "/usr/bin/lua";
        let stack = [
            unnamed(lua),
            unnamed(lua),
            frame("lua_gc", lua),
            frame("main", lua),
        ];
        assert_eq!(caller_of(&stack).as_deref(), Some("lua_gc"));
        assert_eq!(caller_of(&stack[2..]), None, "it has a name");
        assert_eq!(caller_of(&stack[..2]), None, "nobody has a name");
        // Everything is called by that.
        let start = frame("__libc_start_main", "/lib/libc.so.6");
        assert_eq!(caller_of(&[unnamed(lua), start]), None);
        // What was passed over is inside of it.
        let stack = [
            frame("free", "/lib/libc.so.6"),
            unnamed(lua),
            frame("f", lua),
        ];
        assert_eq!(caller_of(&stack).as_deref(), Some("f"));
    }

    #[test]
    fn a_library_has_the_frame_of_the_application_beside_it() {
        let app_of = |frames: &[Frame]| {
            let app = blame(frames, 0).app?;
            Some((app.function.to_string(), app.line))
        };
        let pandas = "/srv/venv/lib/python3.11/site-packages/pandas/frame.py";
        let pool = "/usr/lib/python3.11/concurrent/futures/thread.py";
        let stack = [
            frame("dict_resize", "/bin/python3"),
            python("DataFrame.iterrows", pandas),
            frame("list_sort", "/bin/python3"),
            python("worker", "/srv/pd_it.py"),
            python("_worker", pool),
            python("main", "/srv/pd_it.py"),
        ];
        assert_eq!(&*blame(&stack, 0).site.function, "DataFrame.iterrows");
        assert_eq!(app_of(&stack), Some(("worker".to_owned(), Some(7))));
        assert_eq!(
            app_of(&stack[3..]),
            None,
            "the application is the call site"
        );
        assert_eq!(app_of(&stack[4..5]), None, "there is nothing else");
        assert_eq!(app_of(&stack[4..]), Some(("main".to_owned(), Some(7))));
        // What begins a package's program is not the application either, and a program in another
        // `bin` may be.
        let run = "/srv/venv/lib/python3.11/site-packages/gunicorn/app/wsgiapp.py";
        let begun_by = |script| [python("run", run), python("<module>", script)];
        assert_eq!(app_of(&begun_by("/srv/venv/bin/gunicorn")), None);
        let own = Some(("<module>".to_owned(), Some(7)));
        assert_eq!(app_of(&begun_by("/srv/shop/bin/serve")), own);
        // Whose function it is that could not be read is not known.
        let gone = Frame {
            language: Language::Python,
            ..Frame::placeholder("[unknown]", Unknown::CodeGone)
        };
        let stack = [stack[1].clone(), gone.clone(), stack[3].clone()];
        assert_eq!(app_of(&stack), Some(("worker".to_owned(), Some(7))));
        assert_eq!(app_of(&[gone, stack[2].clone()]), None);
    }

    #[test]
    fn an_interpreter_is_blamed_by_what_it_does() {
        let binary = "/usr/bin/python3.11";
        let libc = "/lib/libc.so.6";
        let doing = |names: &[&str]| {
            let leaf = [frame("free", libc), unnamed(binary)];
            let rest = names.iter().map(|name| frame(name, binary));
            let frames: Vec<_> = leaf.into_iter().chain(rest).collect();
            blame(&frames, 0).site.function.to_string()
        };
        for (names, expected) in [
            (
                &[
                    "dict_dealloc",
                    "gc_collect_main",
                    "Py_FinalizeEx",
                    "Py_RunMain",
                ][..],
                "Py_FinalizeEx",
            ),
            (
                &["gc_collect_main", "PyType_GenericAlloc"],
                "gc_collect_main",
            ),
            (
                &["PyImport_ImportModule", "PyRun_String"],
                "PyImport_ImportModule",
            ),
            (
                &["Py_InitializeFromConfig", "Py_BytesMain"],
                "Py_InitializeFromConfig",
            ),
            (&["PyObject_Call"], "x+0x1"),
        ] {
            assert_eq!(doing(names), expected);
        }
        // The C library's functions without a name work for whoever called them.
        let stack = [
            unnamed(libc),
            unnamed(binary),
            frame("Py_FinalizeEx", binary),
        ];
        assert_eq!(&*blame(&stack, 0).site.function, "Py_FinalizeEx");
        // A library that it calls is not a part of it.
        let stack = [
            frame("array_dealloc", "/srv/_multiarray.so"),
            frame("Py_FinalizeEx", binary),
        ];
        assert_eq!(&*blame(&stack, 0).site.function, "array_dealloc");
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let name = prop_oneof![
            Just("memcpy".to_owned()),
            Just("malloc".to_owned()),
            Just("__".to_owned()),
            Just("operator new".to_owned()),
            ".{0,12}",
        ];
        let module = prop_oneof![
            Just(None),
            Just(Some("/lib/libc.so.6".to_owned())),
            Just(Some("/lib/libjemalloc.so.2".to_owned())),
            ".{0,12}".prop_map(Some),
        ];
        (name, module, any::<bool>()).prop_map(|(name, module, interpreted)| Frame {
            module: module.map(Into::into),
            language: if interpreted {
                Language::Python
            } else {
                Language::Native
            },
            ..frame(&name, "")
        })
    }

    proptest! {
        #[test]
        fn the_site_is_one_of_the_frames(frames in proptest::collection::vec(any_frame(), 1..8)) {
            let site = blame(&frames, 0).site;
            let chosen = frames.iter().position(|frame| {
                frame.function == site.function
                    && frame.module == site.module
                    && frame.language == site.language
            });
            let chosen = chosen.expect("the site is a frame of the stack");
            match frames.iter().position(|frame| frame.language.is_interpreted()) {
                Some(first) => prop_assert_eq!(chosen, first),
                None if (0..frames.len()).all(|at| is_passed_over(&frames, at)) => {
                    prop_assert_eq!(chosen, 0);
                }
                None => prop_assert!((0..chosen).all(|at| is_passed_over(&frames, at))),
            }
        }
    }
}
