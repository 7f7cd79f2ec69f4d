//! Where the stack of a coroutine begins.
//!
//! A coroutine has a stack of its own, or a part of its thread's that is put back when it goes on.
//! What lies behind its first function belongs to somebody else or to nobody: whoever follows it
//! finds functions that did not call it.

use crate::profile::Frame;

/// The first functions of a greenlet, innermost first: what runs a greenlet's function, and what it
/// was started in. The part of the stack that a greenlet keeps ends with the second one's frame.
const GREENLET: [&str; 2] = ["inner_bootstrap", "g_initialstub"];

/// What Boost.Context, and with its code PHP's fibers, have the first function of a context return
/// to: a part of the function that makes contexts. Nobody else has this name.
const MAKE_CONTEXT: &str = "make_fcontext";

/// How many frames, leaf first, are those of the coroutine that they ran in; `None` when none was
/// recognised.
#[must_use]
pub fn frames_of_coroutine(frames: &[Frame]) -> Option<usize> {
    let made = |frame: &Frame| *frame.function == *MAKE_CONTEXT;
    let context = frames.iter().position(made).map(|at| at + 1);
    let greenlet = frames_of_greenlet(frames);
    greenlet.into_iter().chain(context).min()
}

fn frames_of_greenlet(frames: &[Frame]) -> Option<usize> {
    let first = frames.iter().position(starts_greenlet)?;
    // Both are one where the compiler has made one of them; a greenlet in a greenlet is another.
    let rest = &frames[first..];
    let stub = rest
        .iter()
        .take(GREENLET.len())
        .rposition(starts_greenlet)
        .unwrap_or(0);
    let whole = rest[stub..].iter().position(|frame| !frame.inlined);
    Some(first + stub + whole.unwrap_or(0) + 1)
}

/// Whether a frame is of one of greenlet's own functions that start one: by its name, and by the
/// module that it is in.
fn starts_greenlet(frame: &Frame) -> bool {
    let module = frame.module.as_deref().unwrap_or_default();
    let file = module.rsplit('/').next().unwrap_or(module);
    let name = frame.function.split('(').next().unwrap_or_default();
    let name = name.rsplit("::").next().unwrap_or(name);
    file.contains("greenlet") && GREENLET.contains(&name)
}

/// What glibc's `__start_context` begins with, which a context's function returns to: it takes the
/// stack pointer from `rbx`, and from there the context that goes on.
const START_CONTEXT: [u8; 7] = [0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24];

/// `endbr64`, which may come before.
const LANDING: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Bytes of code that [`starts_context`] wants to see.
pub const START_CONTEXT_SIZE: usize = START_CONTEXT.len() + LANDING.len();

/// Whether code at the return address of a stack's last function is what `makecontext` has made
/// its function return to, so that the stack ends there.
#[must_use]
pub fn starts_context(code: &[u8]) -> bool {
    let code = code.strip_prefix(&LANDING).unwrap_or(code);
    cfg!(target_arch = "x86_64") && code.starts_with(&START_CONTEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "/site-packages/greenlet/_greenlet.cpython-311-x86_64-linux-gnu.so";

    fn stack(frames: &[(&str, &str, bool)]) -> Vec<Frame> {
        let frame = |&(name, module, inlined): &(&str, &str, bool)| Frame {
            inlined,
            ..Frame::native(name, module)
        };
        frames.iter().map(frame).collect()
    }

    #[test]
    fn a_greenlets_stack_ends_where_it_was_started() {
        let new = stack(&[
            ("list_iter", "/python", false),
            (
                "greenlet::UserGreenlet::inner_bootstrap(_greenlet*, _object*)",
                MODULE,
                false,
            ),
            (
                "greenlet::UserGreenlet::g_initialstub(void*)",
                MODULE,
                false,
            ),
            ("greenlet::UserGreenlet::g_switch()", MODULE, false),
            ("anything", "/python", false),
        ]);
        assert_eq!(frames_of_coroutine(&new), Some(3));
        let inlined = stack(&[
            ("list_iter", "/python", false),
            ("greenlet::UserGreenlet::inner_bootstrap", MODULE, true),
            ("greenlet::UserGreenlet::g_initialstub", MODULE, false),
            ("anything", "/python", false),
        ]);
        assert_eq!(frames_of_coroutine(&inlined), Some(3));
        let old = stack(&[
            ("list_iter", "/python", false),
            ("g_initialstub", MODULE, false),
            ("anything", "/python", false),
            ("g_initialstub", MODULE, false),
        ]);
        assert_eq!(frames_of_coroutine(&old), Some(2));
    }

    #[test]
    fn a_fibers_stack_ends_in_what_made_it() {
        let fiber = stack(&[
            ("zend_array_dup", "/usr/bin/php8.2", false),
            ("execute_ex", "/usr/bin/php8.2", false),
            ("make_fcontext", "/usr/bin/php8.2", false),
            ("anything", "/usr/bin/php8.2", false),
        ]);
        assert_eq!(frames_of_coroutine(&fiber), Some(3));
        assert_eq!(frames_of_coroutine(&fiber[..2]), None);
    }

    #[test]
    fn other_functions_of_that_name_and_other_stacks_are_left_as_they_are() {
        let own = stack(&[("g_initialstub", "/srv/program", false)]);
        assert_eq!(frames_of_coroutine(&own), None);
        let switching = stack(&[("greenlet::UserGreenlet::g_switch()", MODULE, false)]);
        assert_eq!(frames_of_coroutine(&switching), None);
        assert_eq!(frames_of_coroutine(&[]), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_end_of_a_context_is_known_by_its_code() {
        let code = [&START_CONTEXT[..], &[0x48, 0x85, 0xff, 0x74]].concat();
        assert!(starts_context(&code));
        assert!(starts_context(&[&LANDING[..], &START_CONTEXT].concat()));
        assert!(!starts_context(&code[1..]));
        assert!(!starts_context(&code[..3]));
    }
}
