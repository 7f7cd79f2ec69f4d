//! Whether a stack is that of a process on its way out.
//!
//! What is written there lives for milliseconds: exit handlers run, a language destroys its
//! objects, libraries tidy up. It looks like reading and is none, so it has a phase of its own.
//!
//! As elsewhere, a name only counts where no other program can have it: in the library that it
//! belongs to, or because it is nobody else's.

use memtrace_common::record::Origin;

use super::role::{Library, bare, library};
use crate::interpreter::unsplit;
use crate::profile::{Frame, Language};

/// Functions of the C library that end the process; without leading underscores.
const ENDS_PROCESS: &[&str] = &["exit", "Exit", "quick_exit"];

/// Called by these functions of the C library only, which nobody else has: in a program that is
/// linked statically there is no library.
const EXIT_HANDLERS: &[&str] = &[
    "__funcs_on_exit",
    "__libc_exit_fini",
    "__run_exit_handlers",
    "_dl_fini",
];

/// Ends of language runtimes, which nobody else has.
const RUNTIME_ENDS: &[&str] = &[
    // CPython; what nobody caught keeps its frames, and what they have, until it is handled
    "_Py_HandleSystemExit",
    "_Py_HandleSystemExitAndKeyboardInterrupt",
    "handle_system_exit",
    "Py_Exit",
    "Py_Finalize",
    "Py_FinalizeEx",
    "_Py_Finalize",
    // JVM
    "JNI_DestroyJavaVM",
    "jni_DestroyJavaVM",
    // Perl
    "perl_destruct",
    "perl_free",
    // PHP
    "php_module_shutdown",
    // R
    "R_CleanUp",
    "Rstd_CleanUp",
    // Ruby
    "rb_ec_cleanup",
    "rb_ec_teardown",
    "ruby_cleanup",
    "ruby_finalize",
    "ruby_stop",
    "ruby_vm_destruct",
];

/// What CPython calls while there is nothing of the program's own to run, and then goes on.
const WAITS_FOR_INPUT: &[&str] = &[
    "PyRun_InteractiveLoop",
    "PyRun_InteractiveLoopFlags",
    "PyRun_InteractiveOne",
    "PyRun_InteractiveOneFlags",
    "PyRun_InteractiveOneObject",
];

/// Whether a process was on its way out, as far as a stack tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Leaving {
    /// It was not, or nothing says so.
    #[default]
    No,
    /// It was, if what it wrote to was shared with a process that had been forked: its interpreter
    /// has begun the program, and has nothing of it to run. So it is before or behind the program,
    /// and before it nothing has been forked.
    IfForked,
    /// It was.
    Yes,
}

impl Leaving {
    /// What a stack tells. `is_silent`: an interpreter was looked at, and had no frame.
    #[must_use]
    pub fn of(frames: &[Frame], is_silent: bool) -> Self {
        let native = |frame: &&Frame| frame.language == Language::Native && frame.unknown.is_none();
        let mut native = frames.iter().filter(native);
        if native.clone().any(ends_process) {
            return Self::Yes;
        }
        let waits = |frame: &Frame| WAITS_FOR_INPUT.contains(&unsplit(&frame.function));
        if is_silent
            && !native.clone().any(waits)
            && native.any(|frame| unsplit(&frame.function) == "Py_RunMain")
        {
            return Self::IfForked;
        }
        Self::No
    }

    /// Whether the process was on its way out when it copied a page of this origin.
    #[must_use]
    pub fn holds(self, origin: Origin) -> bool {
        match self {
            Self::No => false,
            Self::IfForked => origin == Origin::Fork,
            Self::Yes => true,
        }
    }
}

fn ends_process(frame: &Frame) -> bool {
    let function = unsplit(&frame.function);
    EXIT_HANDLERS.contains(&function)
        || RUNTIME_ENDS.contains(&function)
        || ENDS_PROCESS.contains(&bare(function)) && is_of_c_library(frame)
        || ends_script(function, frame)
}

fn is_of_c_library(frame: &Frame) -> bool {
    frame.module.as_deref().and_then(library) == Some(Library::C)
}

/// What a runtime does at the end of a script, where the process is there for one script only:
/// servers that embed it do the same after each request.
fn ends_script(function: &str, frame: &Frame) -> bool {
    let program = frame.module.as_deref().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let is = |name: &str| {
        let version = program.strip_prefix(name);
        version.is_some_and(|rest| {
            rest.bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        })
    };
    match function {
        "php_request_shutdown" => is("php"),
        "lua_close" => is("lua") || is("luajit-"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Unknown;

    const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

    fn leaves(function: &str, module: &str) -> bool {
        let frames = [
            Frame::native("subtype_dealloc", "/usr/bin/python3.11"),
            Frame::native(function, module),
            Frame::native("__libc_start_call_main", LIBC),
        ];
        Leaving::of(&frames, false) == Leaving::Yes
    }

    #[test]
    fn a_process_leaves_by_its_c_library_or_its_language() {
        for (function, module) in [
            ("exit", LIBC),
            ("__GI_exit", LIBC),
            ("_exit", LIBC),
            ("_Exit", "/lib/ld-musl-x86_64.so.1"),
            ("__run_exit_handlers", "/bin/static"),
            ("__funcs_on_exit", "/bin/static"),
            ("_dl_fini", "/lib64/ld-linux-x86-64.so.2"),
            ("Py_FinalizeEx", "/usr/bin/python3.11"),
            ("_Py_Finalize.constprop.0", "/opt/embeds"),
            ("handle_system_exit", "/usr/bin/python3.8"),
            ("ruby_cleanup", "/usr/lib/libruby-3.1.so.3.1.2"),
            ("perl_destruct", "/usr/bin/perl"),
            ("php_request_shutdown", "/usr/bin/php8.2"),
            ("lua_close", "/usr/bin/lua5.4"),
            ("lua_close", "/usr/bin/luajit-2.1.0"),
        ] {
            assert!(leaves(function, module), "{function} in {module}");
        }
    }

    #[test]
    fn others_of_these_names_go_on() {
        for (function, module) in [
            ("exit", "/srv/shop"),
            ("_exit", "/srv/shop"),
            ("exit_group_of_mine", LIBC),
            ("pthread_exit", LIBC),
            ("__cxa_finalize", LIBC),
            ("Py_EndInterpreter", "/usr/bin/python3.11"),
            ("php_request_shutdown", "/usr/sbin/php-fpm8.2"),
            (
                "php_request_shutdown",
                "/usr/lib/apache2/modules/libphp8.2.so",
            ),
            ("lua_close", "/usr/bin/redis-check-rdb"),
            ("PyRun_SimpleFileExFlags", "/usr/bin/python3.11"),
        ] {
            assert!(!leaves(function, module), "{function} in {module}");
        }
    }

    #[test]
    fn what_has_no_name_or_is_a_script_says_nothing() {
        let unnamed = Frame {
            unknown: Some(Unknown::NoSymbol),
            ..Frame::native("exit", LIBC)
        };
        let script = Frame {
            language: Language::Python,
            ..Frame::native("Py_FinalizeEx", "/srv/app.py")
        };
        assert_eq!(Leaving::of(&[unnamed, script], true), Leaving::No);
        assert_eq!(Leaving::of(&[], true), Leaving::No);
    }

    #[test]
    fn a_program_that_has_been_begun_and_has_no_frame_is_over() {
        const PYTHON: &str = "/usr/bin/python3.13";
        let run = [
            Frame::native("PyObject_ClearManagedDict", PYTHON),
            Frame::native("Py_RunMain", PYTHON),
        ];
        assert_eq!(Leaving::of(&run, false), Leaving::No);
        let over = Leaving::of(&run, true);
        assert_eq!(over, Leaving::IfForked);
        assert!(over.holds(Origin::Fork) && !over.holds(Origin::File));
        assert_eq!(Leaving::of(&run[..1], true), Leaving::No);
        let waits = [
            Frame::native("readline", "/lib/libreadline.so.8"),
            Frame::native("PyRun_InteractiveLoopFlags", PYTHON),
            Frame::native("Py_RunMain", PYTHON),
        ];
        assert_eq!(Leaving::of(&waits, true), Leaving::No);
    }
}
