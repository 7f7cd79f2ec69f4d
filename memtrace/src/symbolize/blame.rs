//! Which frame of a stack a copy is put down to.

use std::sync::Arc;

use crate::profile::{Frame, Language, Site};

/// Beginnings of the file names of C libraries and allocators, whose helpers work for whoever
/// called them.
const HELPER_MODULES: [&str; 9] = [
    "libc.",
    "libc-",
    "ld-",
    "ld.",
    "libstdc++.",
    "libc++.",
    "libjemalloc.",
    "libtcmalloc",
    "libmimalloc.",
];

/// Parts of the names of string and allocator functions, without leading underscores.
const HELPER_PREFIXES: [&str; 32] = [
    "memcpy",
    "memmove",
    "mempcpy",
    "memset",
    "memccpy",
    "bcopy",
    "bzero",
    "strcpy",
    "strncpy",
    "stpcpy",
    "stpncpy",
    "strcat",
    "strncat",
    "strdup",
    "strndup",
    "wmemcpy",
    "wmemset",
    "malloc",
    "calloc",
    "realloc",
    "free",
    "memalign",
    "posix_memalign",
    "aligned_alloc",
    "int_malloc",
    "int_free",
    "int_realloc",
    "int_memalign",
    "libc_malloc",
    "libc_calloc",
    "libc_free",
    "libc_realloc",
];

/// Names that are helpers wherever they stand: parts of the allocator whose names say nothing, and
/// C++ allocation functions.
const HELPER_NAMES: [&str; 16] = [
    "sysmalloc",
    "systrim",
    "arena_get2",
    "tcache_init",
    "tcache_get",
    "tcache_put",
    "unlink_chunk",
    "alloc_perturb",
    "ptmalloc_init",
    "new_heap",
    "grow_heap",
    "heap_trim",
    "sysmalloc_mmap",
    "libc_memalign",
    "libc_reallocarray",
    "reallocarray",
];

/// Where the sources of the languages' own libraries lie. What is inlined from there works for
/// whoever called it: the write through a pointer is not `write_volatile`'s.
const LIBRARY_SOURCES: [&str; 4] = [
    "/library/core/src/",
    "/library/alloc/src/",
    "/library/std/src/",
    "/include/c++/",
];

/// The call site of a copy with this stack: the innermost Python frame; without one the innermost
/// native frame that is no helper of the C library or an allocator; when there is none, the leaf.
#[must_use]
pub fn blame(frames: &[Frame]) -> Site {
    let python = frames
        .iter()
        .find(|frame| frame.language == Language::Python);
    let blamed = python
        .or_else(|| {
            frames
                .iter()
                .find(|frame| !is_helper(frame) && is_code(frame))
        })
        .or_else(|| frames.first());
    blamed.map_or_else(no_stack, |frame| Site {
        function: Arc::clone(&frame.function),
        file: frame.file.clone(),
        line: frame.line,
        module: frame.module.clone(),
        language: frame.language,
    })
}

fn no_stack() -> Site {
    Site {
        function: "[no stack]".into(),
        file: None,
        line: None,
        module: None,
        language: Language::Native,
    }
}

/// Whether a frame is known to be code at all.
fn is_code(frame: &Frame) -> bool {
    frame.unknown.is_none() || frame.module.is_some()
}

/// Whether a frame only works for its caller. An application's own `memset` counts as its own,
/// unless it is the compiler's.
fn is_helper(frame: &Frame) -> bool {
    if frame.unknown.is_some() {
        return false;
    }
    let function = frame.function.as_ref();
    let from_library = |file: &str| LIBRARY_SOURCES.iter().any(|sources| file.contains(sources));
    if frame.inlined && frame.file.as_deref().is_some_and(from_library) {
        return true;
    }
    if function.starts_with("compiler_builtins::mem::")
        || function.starts_with("operator new")
        || function.starts_with("operator delete")
    {
        return true;
    }
    let module = frame
        .module
        .as_deref()
        .and_then(|path| path.rsplit('/').next());
    let in_library =
        module.is_some_and(|name| HELPER_MODULES.iter().any(|helper| name.starts_with(helper)));
    let bare = function.trim_start_matches('_');
    in_library
        && (HELPER_NAMES.contains(&bare)
            || HELPER_PREFIXES
                .iter()
                .any(|prefix| bare.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Unknown;
    use proptest::prelude::*;

    fn frame(function: &str, module: &str) -> Frame {
        Frame {
            function: function.into(),
            file: None,
            line: None,
            module: Some(module.into()),
            address: 0,
            language: Language::Native,
            inlined: false,
            unknown: None,
        }
    }

    fn blamed(frames: &[Frame]) -> String {
        blame(frames).function.to_string()
    }

    #[test]
    fn helpers_of_the_c_library_are_passed_over() {
        let libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
        let stack = [
            frame("__memmove_avx_unaligned_erms", libc),
            frame("_int_malloc", libc),
            frame("malloc", libc),
            frame("operator new(unsigned long)", "/usr/lib/libstdc++.so.6"),
            frame("std::vector<int>::push_back(int const&)", "/srv/app"),
            frame("main", "/srv/app"),
        ];
        assert_eq!(blamed(&stack), "std::vector<int>::push_back(int const&)");
    }

    #[test]
    fn system_calls_and_qsort_are_not() {
        let libc = "/lib/libc.so.6";
        assert_eq!(
            blamed(&[frame("__read", libc), frame("main", "/srv/app")]),
            "__read"
        );
        assert_eq!(
            blamed(&[frame("qsort_r", libc), frame("main", "/srv/app")]),
            "qsort_r"
        );
    }

    #[test]
    fn what_is_inlined_from_the_languages_library_is_passed_over() {
        let inlined = |function: &str, file: &str| Frame {
            file: Some(file.into()),
            inlined: true,
            ..frame(function, "/srv/app")
        };
        let stack = [
            inlined("write<u64>", "/rustc/0123/library/core/src/ptr/mod.rs"),
            inlined(
                "std::vector<int>::push_back",
                "/usr/include/c++/12/bits/stl_vector.h",
            ),
            inlined("store", "/srv/src/store.rs"),
            frame("handle", "/srv/app"),
        ];
        assert_eq!(blamed(&stack), "store");
    }

    #[test]
    fn an_applications_own_memset_is_blamed() {
        let stack = [frame("memset", "/srv/app"), frame("main", "/srv/app")];
        assert_eq!(blamed(&stack), "memset");
    }

    #[test]
    fn the_innermost_python_frame_comes_first() {
        let python = Frame {
            language: Language::Python,
            ..frame("walk", "app.py")
        };
        let stack = [
            frame("PyObject_Call", "/usr/bin/python3"),
            python,
            frame("main", "/x"),
        ];
        assert_eq!(blamed(&stack), "walk");
    }

    #[test]
    fn an_unknown_frame_is_blamed_rather_than_its_caller() {
        let unknown = Frame {
            unknown: Some(Unknown::NoSymbol),
            ..frame("libc.so.6+0x1234", "/lib/libc.so.6")
        };
        assert_eq!(
            blamed(&[unknown, frame("main", "/srv/app")]),
            "libc.so.6+0x1234"
        );
    }

    #[test]
    fn what_is_no_code_is_not_blamed_for_its_helpers() {
        let nothing = Frame {
            unknown: Some(Unknown::NoMapping),
            module: None,
            ..frame("[unknown]", "")
        };
        assert_eq!(
            blamed(&[frame("malloc", "/lib/libc.so.6"), nothing]),
            "malloc"
        );
    }

    proptest! {
        #[test]
        fn one_of_the_frames_is_always_blamed(names in proptest::collection::vec("[a-z_]{1,12}", 1..20)) {
            let frames: Vec<Frame> = names.iter().map(|name| frame(name, "libc.so.6")).collect();
            let site = blame(&frames);
            prop_assert!(frames.iter().any(|frame| frame.function == site.function));
        }
    }

    #[test]
    fn without_frames_the_site_says_so() {
        assert_eq!(blamed(&[]), "[no stack]");
    }
}
