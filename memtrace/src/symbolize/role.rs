//! What a native function is for, by its name.
//!
//! A function is recognised by its name only in a library that is known to have it; a program's own
//! `memset` is its own. Names that nobody else may use are recognised everywhere: those of
//! interpreters' functions ([`interpreter::role`]), of Rust's builtins, and of the C library's
//! functions for one kind of processor.

use crate::interpreter;
pub use crate::interpreter::Role;
use crate::profile::Frame;

/// Reads or writes a stream for its caller, or text in its caller's memory: the buffer is the
/// caller's business. Also with endings such as `_unlocked`, `_chk` or `_internal`, and the
/// functions of glibc's and musl's own that are called by these.
const STREAM: &[&str] = &[
    "asprintf",
    "clearerr",
    "dprintf",
    "fclose",
    "fdopen",
    "fflush",
    "fgetc",
    "fgets",
    "fgetwc",
    "fgetws",
    "fopen",
    "fopen64",
    "fprintf",
    "fputc",
    "fputs",
    "fputwc",
    "fputws",
    "fread",
    "freadx",
    "fscanf",
    "fseek",
    "fseeko",
    "fseeko64",
    "ftell",
    "fwprintf",
    "fwrite",
    "fwritex",
    "fwscanf",
    "getc",
    "getchar",
    "getdelim",
    "getline",
    "gets",
    "getwc",
    "getwchar",
    "itoa",
    "overflow",
    "perror",
    "printf",
    "putc",
    "putchar",
    "puts",
    "putw",
    "putwc",
    "putwchar",
    "rewind",
    "scanf",
    "setbuf",
    "setvbuf",
    "snprintf",
    "sprintf",
    "sscanf",
    "stdio",
    "strfmon",
    "strftime",
    "swprintf",
    "swscanf",
    "toread",
    "towrite",
    "uflow",
    "underflow",
    "ungetc",
    "ungetwc",
    "vasprintf",
    "vdprintf",
    "vfprintf",
    "vfscanf",
    "vfwprintf",
    "vfwscanf",
    "vprintf",
    "vscanf",
    "vsnprintf",
    "vsprintf",
    "vsscanf",
    "vstrfmon",
    "vswprintf",
    "vswscanf",
    "vwprintf",
    "vwscanf",
    "wcsftime",
    "woverflow",
    "wprintf",
    "wscanf",
    "wuflow",
    "wunderflow",
];

/// Writes memory for its caller; also with the ending `_chk` or a processor's.
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
    "strsep",
    "strtok",
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
    "bin_chunk",
    "brk",
    "calloc",
    "cfree",
    "detach_arena",
    "expand_heap",
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
    "malloc_alloc_meta",
    "malloc_allzerop",
    "malloc_atfork",
    "malloc_consolidate",
    "malloc_donate",
    "malloc_impl",
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
    "simple_malloc",
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

/// A library that a function can be passed over in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    /// The C library, or the dynamic linker, which has an allocator and string functions too.
    C,
    /// The C++ run time.
    Cpp,
    /// Nothing but an allocator.
    Allocator,
}

/// What the function of a native frame is for, by its name and library.
#[must_use]
pub fn role(frame: &Frame) -> Role {
    let library = frame.module.as_deref().and_then(library);
    let function = &*frame.function;
    match library {
        Some(Library::Allocator) => return Role::Allocator,
        _ if frame.unknown.is_some() => return Role::Other,
        Some(Library::C) if is_allocator(function) => return Role::Allocator,
        Some(Library::C) if is_string(function) || is_stream(function) => return Role::String,
        Some(Library::C) if is_lock(function) => return Role::Lock,
        Some(Library::Cpp) if is_operator(function) => return Role::Allocator,
        _ if is_reserved(function) && is_allocator(function) => return Role::Allocator,
        _ if is_of_a_known_allocator(function) => return Role::Allocator,
        // musl's, without a name that is reserved, but one that nobody else has.
        _ if function == "nontrivial_free" => return Role::Allocator,
        _ => {}
    }
    if let Some(role) = interpreter::role(function) {
        role
    } else if is_compiler_builtin(function) || is_processor_variant(function) {
        Role::String
    } else {
        Role::Other
    }
}

/// The library that a module is, by the name of its file.
pub(super) fn library(module: &str) -> Option<Library> {
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

/// The name without the version, the leading underscores and the prefixes that the C library adds.
pub(super) fn bare(function: &str) -> &str {
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

/// `fwrite`, `fputs_unlocked`, `__vfprintf_internal`, `_IO_file_xsputn`, `__isoc99_sscanf`.
fn is_stream(function: &str) -> bool {
    let bare = bare(function);
    if bare.starts_with("IO_") {
        return true;
    }
    let standard = ["isoc99_", "isoc23_"];
    let bare = standard
        .iter()
        .find_map(|prefix| bare.strip_prefix(prefix))
        .unwrap_or(bare);
    let name = bare.split(['_', '.']).next().unwrap_or_default();
    STREAM.binary_search(&name).is_ok()
}

/// Whether a function is the C library's.
#[must_use]
pub fn is_in_c_library(frame: &Frame) -> bool {
    frame.module.as_deref().and_then(library) == Some(Library::C)
}

/// Whether everything that a thread runs is called by this function: what programs begin with, and
/// what the C library does.
#[must_use]
pub fn is_start(frame: &Frame) -> bool {
    let function = &*frame.function;
    let starts = [
        "start",
        "start_main",
        "start_call_main",
        "start_thread",
        "clone",
        "clone3",
    ];
    let bare = bare(function);
    let bare = bare.strip_suffix("_impl").unwrap_or(bare);
    function == "_start" || is_in_c_library(frame) && starts.contains(&bare)
}

/// Whether a function of the C library's is its allocator's: `malloc`, `_int_malloc`, `__libc_free`,
/// `_int_malloc.part.0`.
#[must_use]
pub fn is_allocator(function: &str) -> bool {
    let bare = bare(function).split('.').next().unwrap_or_default();
    ALLOCATOR.binary_search(&bare).is_ok()
}

/// Whether a function is of an allocator that programs have in themselves, by what its names begin
/// with: jemalloc, also Rust's and Redis's, mimalloc, tcmalloc.
fn is_of_a_known_allocator(function: &str) -> bool {
    const BEGIN: [&str; 16] = [
        "_mi_",
        "_rjem_",
        "je_",
        "mi_calloc",
        "mi_free",
        "mi_heap_",
        "mi_malloc",
        "mi_page_",
        "mi_realloc",
        "mi_segment_",
        "tc_calloc",
        "tc_delete",
        "tc_free",
        "tc_malloc",
        "tc_new",
        "tc_realloc",
    ];
    function.starts_with("tcmalloc::") || BEGIN.iter().any(|begin| function.starts_with(begin))
}

/// Whether a function does nothing but count references, by the name that it has where it is inlined:
/// C++'s `shared_ptr`, Rust's `Arc` and `Rc`, CPython's macros.
#[must_use]
pub fn counts_references(function: &str) -> bool {
    const PYTHON: [&str; 6] = [
        "Py_DECREF",
        "Py_INCREF",
        "Py_NewRef",
        "Py_XDECREF",
        "Py_XINCREF",
        "Py_XNewRef",
    ];
    const CPP: [&str; 4] = [
        "_Sp_counted_base",
        "_M_add_ref_copy",
        "__exchange_and_add",
        "__atomic_add",
    ];
    let rust = |of: &str| function.starts_with('<') && function.contains(of);
    PYTHON.contains(&function.trim_start_matches('_'))
        || CPP.iter().any(|part| function.contains(part))
        || (rust("alloc::sync::Arc<") || rust("alloc::rc::Rc<"))
            && (function.ends_with("Clone>::clone") || function.ends_with("Drop>::drop"))
}

/// Whether a function's name is one that only the C library may use: in a program that is linked
/// statically, its functions are part of the program's file. `__libc_free`, `_int_malloc`.
fn is_reserved(function: &str) -> bool {
    function.starts_with("__") || function.starts_with("_int_")
}

/// `pthread_mutex_lock`, `__lll_lock_wait`, `sem_post@@GLIBC_2.34`.
fn is_lock(function: &str) -> bool {
    let bare = bare(function);
    ["pthread_", "lll_", "sem_", "mtx_", "cnd_"]
        .iter()
        .any(|prefix| bare.starts_with(prefix))
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
    use super::*;
    use crate::profile::Unknown;

    const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

    #[test]
    fn the_lists_are_sorted() {
        assert!(ALLOCATOR.is_sorted());
        assert!(STREAM.is_sorted());
        assert!(STRING.is_sorted());
    }

    #[test]
    fn a_name_means_something_only_in_the_library_that_has_it() {
        for (function, library, expected) in [
            ("malloc", LIBC, Role::Allocator),
            ("strcpy", LIBC, Role::String),
            ("pthread_mutex_lock", LIBC, Role::Lock),
            ("sem_post@@GLIBC_2.34", LIBC, Role::Lock),
            (
                "operator new(unsigned long)",
                "/usr/lib/libstdc++.so.6",
                Role::Allocator,
            ),
        ] {
            assert_eq!(
                role(&Frame::native(function, library)),
                expected,
                "{function}"
            );
            let own = Frame::native(function, "/srv/program");
            assert_eq!(role(&own), Role::Other, "{function}");
        }
    }

    #[test]
    fn a_c_library_in_a_programs_own_file_is_known_by_reserved_names() {
        for (function, expected) in [
            ("__libc_free", Role::Allocator),
            ("__libc_malloc_impl", Role::Allocator),
            ("__malloc_alloc_meta", Role::Allocator),
            ("__simple_malloc", Role::Allocator),
            ("_int_malloc", Role::Allocator),
            ("nontrivial_free", Role::Allocator),
            ("__libc_start_main", Role::Other),
            // A program may have these itself.
            ("free", Role::Other),
            ("alloc_slot", Role::Other),
            ("get_meta", Role::Other),
        ] {
            let frame = Frame::native(function, "/srv/program");
            assert_eq!(role(&frame), expected, "{function}");
        }
    }

    #[test]
    fn an_interpreters_functions_are_known_in_any_file() {
        for (function, expected) in [
            ("_PyObject_Malloc", Role::Allocator),
            ("pymalloc_free.isra.0", Role::Allocator),
            ("PyMem_RawFree", Role::Allocator),
            ("_PyMem_Realloc@@Base", Role::Allocator),
            ("PyMem_GetAllocator", Role::Other),
            ("PyObject_Call", Role::Other),
        ] {
            for file in ["/usr/bin/python3.11", "/srv/embeds", LIBC] {
                assert_eq!(role(&Frame::native(function, file)), expected, "{function}");
            }
        }
    }

    #[test]
    fn a_function_without_a_name_is_for_what_its_library_is_for() {
        let unnamed = |module| Frame {
            unknown: Some(Unknown::NoSymbol),
            ..Frame::native("x+0x1", module)
        };
        assert_eq!(role(&unnamed("/a/libjemalloc.so.2")), Role::Allocator);
        assert_eq!(role(&unnamed(LIBC)), Role::Other);
    }
}
