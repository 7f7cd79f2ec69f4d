//! Which frame of a stack is the call site.
//!
//! The innermost Python frame where there is one, else the innermost native frame that is not
//! inside an allocator or the C library's string functions: that `memcpy` wrote is true of every
//! program, who called it tells where. A function is passed over for its name only in a library
//! that is known to have it; a program's own `memset` is its own. Wrappers of system calls are not
//! passed over, since a `read` into shared memory is a finding.

use std::sync::Arc;

use crate::profile::{Frame, Language, Site};

/// Writes memory for its caller; with the ending `_chk` or that of a processor also.
const STRING: &[&str] = &[
    "bcopy",
    "bzero",
    "explicit_bzero",
    "memccpy",
    "memcpy",
    "memfrob",
    "memmove",
    "mempcpy",
    "memset",
    "rawmemcpy",
    "stpcpy",
    "stpncpy",
    "strcat",
    "strcpy",
    "strdup",
    "strlcat",
    "strlcpy",
    "strncat",
    "strncpy",
    "strndup",
    "strxfrm",
    "swab",
    "wcpcpy",
    "wcpncpy",
    "wcscat",
    "wcscpy",
    "wcsdup",
    "wcslcat",
    "wcslcpy",
    "wcsncat",
    "wcsncpy",
    "wmemcpy",
    "wmemmove",
    "wmempcpy",
    "wmemset",
];

/// Allocates, or serves a function that does, in glibc or musl; without leading underscores.
const ALLOCATOR: &[&str] = &[
    "aligned_alloc",
    "alloc_new_heap",
    "alloc_perturb",
    "alloc_slot",
    "arena_get2",
    "arena_get_retry",
    "brk",
    "calloc",
    "cfree",
    "detach_arena",
    "free",
    "free_perturb",
    "get_free_list",
    "get_meta",
    "get_nominal_size",
    "grow_heap",
    "heap_trim",
    "int_calloc",
    "int_free",
    "int_free_chunk",
    "int_free_create_chunk",
    "int_free_maybe_consolidate",
    "int_free_maybe_trim",
    "int_free_merge_chunk",
    "int_malloc",
    "int_memalign",
    "int_realloc",
    "malloc",
    "malloc_consolidate",
    "malloc_trim",
    "malloc_usable_size",
    "mallopt",
    "memalign",
    "mid_memalign",
    "minimal_calloc",
    "minimal_free",
    "minimal_malloc",
    "minimal_realloc",
    "mremap_chunk",
    "mtrim",
    "munmap_chunk",
    "new_arena",
    "new_heap",
    "nontrivial_free",
    "posix_memalign",
    "ptmalloc_init",
    "pvalloc",
    "realloc",
    "reallocarray",
    "reused_arena",
    "rtld_calloc",
    "rtld_free",
    "rtld_malloc",
    "rtld_realloc",
    "sbrk",
    "shrink_heap",
    "sysmalloc",
    "sysmalloc_mmap",
    "sysmalloc_mmap_fallback",
    "systrim",
    "tcache_free_init",
    "tcache_get",
    "tcache_get_align",
    "tcache_get_n",
    "tcache_init",
    "tcache_key_initialize",
    "tcache_malloc_init",
    "tcache_put",
    "tcache_put_n",
    "tcache_thread_shutdown",
    "unlink_chunk",
    "valloc",
];

/// Where the sources of the languages' own libraries lie. What is inlined from there works for
/// whoever called it: the write through a pointer is not `write_volatile`'s.
const LIBRARY_SOURCES: [&str; 4] = [
    "/library/core/src/",
    "/library/alloc/src/",
    "/library/std/src/",
    "/include/c++/",
];

/// A library that a function can be passed over in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Library {
    /// The C library, or the dynamic linker, which has an allocator and string functions too.
    C,
    /// The C++ run time.
    Cpp,
    /// Nothing but an allocator.
    Allocator,
}

/// The call site of a stack, leaf first. When all its frames would be passed over it is the leaf;
/// of no frames it is one named `[no stack]`.
#[must_use]
pub fn blame(frames: &[Frame]) -> Site {
    let python = || {
        frames
            .iter()
            .find(|frame| frame.language == Language::Python)
    };
    let native = || {
        frames
            .iter()
            .find(|frame| is_code(frame) && !is_passed_over(frame))
    };
    let Some(frame) = python().or_else(native).or(frames.first()) else {
        return Site {
            function: Arc::from("[no stack]"),
            file: None,
            line: None,
            module: None,
            language: Language::Native,
        };
    };
    Site {
        function: Arc::clone(&frame.function),
        file: frame.file.clone(),
        line: frame.line,
        module: frame.module.clone(),
        language: frame.language,
    }
}

/// Whether a frame is known to be code: an address in no mapping was found by following something
/// that is no stack.
fn is_code(frame: &Frame) -> bool {
    frame.unknown.is_none() || frame.module.is_some()
}

/// What a function is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It manages memory for others.
    Allocator,
    /// It writes memory for its caller.
    String,
    /// It is the C library's and counts what is no reference: holders of a lock, a semaphore.
    Lock,
    /// Anything else.
    Other,
}

/// What the function of a native frame is there for, by its name and library.
#[must_use]
pub fn role(frame: &Frame) -> Role {
    let library = frame.module.as_deref().and_then(library);
    let function = &*frame.function;
    match library {
        Some(Library::Allocator) => return Role::Allocator,
        _ if frame.unknown.is_some() => return Role::Other,
        Some(Library::C) if is_allocator(function) => return Role::Allocator,
        Some(Library::C) if is_string(function) => return Role::String,
        Some(Library::C) if is_lock(function) => return Role::Lock,
        Some(Library::Cpp) if is_operator(function) => return Role::Allocator,
        _ => {}
    }
    if is_python_allocator(function) {
        Role::Allocator
    } else if is_compiler_builtin(function) || is_processor_variant(function) {
        Role::String
    } else {
        Role::Other
    }
}

fn is_passed_over(frame: &Frame) -> bool {
    if frame.language != Language::Native {
        return false;
    }
    let from_library = |file: &str| LIBRARY_SOURCES.iter().any(|dir| file.contains(dir));
    if frame.inlined && frame.file.as_deref().is_some_and(from_library) {
        return true;
    }
    matches!(role(frame), Role::Allocator | Role::String)
}

/// The library that a module is, by the name of its file.
fn library(module: &str) -> Option<Library> {
    let name = module.rsplit('/').next().unwrap_or(module);
    // `libc.so.6`, `libc-2.31.so` and `libc.musl-x86_64.so.1` are all the library `c`.
    let is = |library: &str| {
        name.strip_prefix(library)
            .is_some_and(|rest| rest.starts_with(['.', '-']) && rest.contains(".so"))
            || name.strip_prefix(library).is_some_and(|rest| rest == ".so")
    };
    if ["libc", "ld", "ld-linux", "ld-musl", "ld64"]
        .into_iter()
        .any(is)
    {
        return Some(Library::C);
    }
    if ["libstdc++", "libc++", "libc++abi"].into_iter().any(is) {
        return Some(Library::Cpp);
    }
    let allocators = [
        "libjemalloc",
        "libtcmalloc",
        "libmimalloc",
        "libhoard",
        "libsnmalloc",
    ];
    allocators
        .into_iter()
        .any(|allocator| name.starts_with(allocator) && name.contains(".so"))
        .then_some(Library::Allocator)
}

/// Without the version, the leading underscores and the prefixes that the C library adds.
fn bare(function: &str) -> &str {
    let mut bare = function.split('@').next().unwrap_or(function);
    loop {
        bare = bare.trim_start_matches('_');
        let Some(rest) = bare
            .strip_prefix("libc_")
            .or_else(|| bare.strip_prefix("GI_"))
        else {
            return bare;
        };
        bare = rest;
    }
}

/// `memcpy`, `__memcpy_chk`, `__memmove_avx_unaligned_erms`.
fn is_string(function: &str) -> bool {
    let bare = bare(function);
    STRING.iter().any(|&name| {
        bare.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

/// `malloc`, `_int_malloc`, `__libc_free`, `_int_malloc.part.0`.
fn is_allocator(function: &str) -> bool {
    let bare = bare(function).split('.').next().unwrap_or_default();
    ALLOCATOR.binary_search(&bare).is_ok()
}

/// `pthread_mutex_lock`, `__lll_lock_wait`, `sem_post@@GLIBC_2.34`.
fn is_lock(function: &str) -> bool {
    let bare = bare(function);
    ["pthread_", "lll_", "sem_", "mtx_", "cnd_"]
        .iter()
        .any(|prefix| bare.starts_with(prefix))
}

/// CPython's own: `_PyObject_Malloc`, `pymalloc_free.isra.0`, `PyMem_Free`. Nothing else may use
/// these names.
fn is_python_allocator(function: &str) -> bool {
    let bare = bare(function).split('.').next().unwrap_or_default();
    let rest = ["PyObject_", "PyMem_Raw", "PyMem_"]
        .iter()
        .find_map(|prefix| bare.strip_prefix(prefix));
    let called = |name: &str| ["Malloc", "Calloc", "Realloc", "Free", "Alloc"].contains(&name);
    rest.is_some_and(called) || bare.starts_with("pymalloc_")
}

/// `operator new(unsigned long)`, `_ZdlPv`.
fn is_operator(function: &str) -> bool {
    ["operator new", "operator delete"].iter().any(|operator| {
        function
            .strip_prefix(operator)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['(', '[']))
    }) || ["_Znw", "_Zna", "_Zdl", "_Zda"]
        .iter()
        .any(|mangled| function.starts_with(mangled))
}

/// Rust's own `memcpy` and its relatives, which are linked into the program.
fn is_compiler_builtin(function: &str) -> bool {
    function.starts_with("compiler_builtins::mem::")
}

/// A string function for one kind of processor, such as `__memset_avx2_erms`. The C library
/// picks it at run time, and no program has one of its own; in a program that is linked statically
/// it is part of the program's file.
fn is_processor_variant(function: &str) -> bool {
    const KINDS: &[&str] = &[
        "sse", "ssse3", "avx", "evex", "erms", "aarch64", "sve", "mops",
    ];
    function.starts_with("__")
        && is_string(function)
        && function
            .split('_')
            .any(|part| KINDS.iter().any(|kind| part.starts_with(kind)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::Unknown;

    fn frame(function: &str, module: &str) -> Frame {
        Frame {
            function: function.into(),
            file: Some("/src/a.c".into()),
            line: Some(7),
            module: Some(module.into()),
            address: 1,
            language: Language::Native,
            inlined: false,
            unknown: None,
        }
    }

    fn blamed(frames: &[(&str, &str)]) -> String {
        let frames: Vec<_> = frames
            .iter()
            .map(|(function, module)| frame(function, module))
            .collect();
        blame(&frames).function.to_string()
    }

    #[test]
    fn the_lists_are_sorted() {
        assert!(ALLOCATOR.is_sorted());
        assert!(STRING.is_sorted());
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
            ("strftime", "/usr/lib/libc.so.6"),
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
    fn the_innermost_python_frame_comes_first() {
        let mut python = frame("handler", "/app/views.py");
        python.language = Language::Python;
        let stack = [
            frame("dict_resize", "/bin/python3"),
            python,
            frame("main", "/bin/python3"),
        ];
        let site = blame(&stack);
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
        assert_eq!(blame(&[]).function.as_ref(), "[no stack]");
    }

    #[test]
    fn unnamed_code_is_passed_over_only_in_an_allocator() {
        for (module, expected) in [("/a/libc.so.6", "x+0x1"), ("/a/libjemalloc.so.2", "work")] {
            let mut unnamed = frame("x+0x1", module);
            unnamed.unknown = Some(Unknown::NoSymbol);
            let site = blame(&[unnamed, frame("work", "/bin/app")]);
            assert_eq!(site.function.as_ref(), expected);
        }
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
        (name, module, any::<bool>()).prop_map(|(name, module, python)| Frame {
            module: module.map(Into::into),
            language: if python {
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
            let site = blame(&frames);
            let chosen = frames.iter().position(|frame| {
                frame.function == site.function
                    && frame.module == site.module
                    && frame.language == site.language
            });
            let chosen = chosen.expect("the site is a frame of the stack");
            match frames.iter().position(|frame| frame.language == Language::Python) {
                Some(first) => prop_assert_eq!(chosen, first),
                None if frames.iter().all(is_passed_over) => prop_assert_eq!(chosen, 0),
                None => prop_assert!(frames[..chosen].iter().all(is_passed_over)),
            }
        }
    }
}
