//! Which frame of a stack is the call site.
//!
//! The innermost interpreted frame where there is one, else the innermost native frame that is not
//! inside an allocator or the C library's string functions ([`role`]): that `memcpy` wrote is true
//! of every program, while its caller tells where. Wrappers of system calls are not passed over,
//! since a `read` into shared memory is a finding.

use std::sync::Arc;

use super::role::{Role, role};
use crate::profile::{Frame, Language, Site};

/// Where the sources of the languages' own libraries are. What is inlined from there works for its
/// caller: the write through a pointer is not `write_volatile`'s.
const LIBRARY_SOURCES: [&str; 4] = [
    "/library/core/src/",
    "/library/alloc/src/",
    "/library/std/src/",
    "/include/c++/",
];

/// The call site of a stack, leaf first. When all its frames would be passed over it is the leaf;
/// without frames it is one named `[no stack]`.
#[must_use]
pub fn blame(frames: &[Frame]) -> Site {
    let interpreted = || frames.iter().find(|frame| frame.language.is_interpreted());
    let native = || {
        frames
            .iter()
            .find(|frame| is_code(frame) && !is_passed_over(frame))
    };
    let Some(frame) = interpreted().or_else(native).or(frames.first()) else {
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
/// that is not a stack.
fn is_code(frame: &Frame) -> bool {
    frame.unknown.is_none() || frame.module.is_some()
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
        blame(&frames).function.to_string()
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
    fn the_innermost_interpreted_frame_comes_first() {
        let mut handler = frame("handler", "/app/views.py");
        handler.language = Language::Python;
        let stack = [
            frame("dict_resize", "/bin/python3"),
            handler,
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
            let site = blame(&frames);
            let chosen = frames.iter().position(|frame| {
                frame.function == site.function
                    && frame.module == site.module
                    && frame.language == site.language
            });
            let chosen = chosen.expect("the site is a frame of the stack");
            match frames.iter().position(|frame| frame.language.is_interpreted()) {
                Some(first) => prop_assert_eq!(chosen, first),
                None if frames.iter().all(is_passed_over) => prop_assert_eq!(chosen, 0),
                None => prop_assert!(frames[..chosen].iter().all(is_passed_over)),
            }
        }
    }
}
