//! One stack out of native frames and those that an interpreter ran.
//!
//! The interpreter's loop is a native function that runs the functions of its scripts. Each time
//! that it was entered, it is in the native stack once, and it ran the script frames from the
//! innermost that no loop before it ran, up to the one that it was entered with. Those frames
//! replace it.

use crate::interpreter::ScriptCall;
use crate::profile::{Frame, Language};

/// How far native callers can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Native {
    /// They are right, as far as they go.
    Exact,
    /// Where code has no frame pointers they may be anything: only a stack in which every entry
    /// of the loop is found is believed.
    Guessed,
}

/// Puts script frames, innermost first, into the native stack, leaf first. `is_loop` says which
/// native functions, by name, are the loop of the interpreter that ran them.
///
/// Where too little of the native stack is known, the remaining script frames come after it.
#[must_use]
pub fn merge(
    native: Vec<Frame>,
    script: Vec<ScriptCall>,
    is_loop: impl Fn(&str) -> bool,
    trust: Native,
) -> Vec<Frame> {
    if script.is_empty() {
        return native;
    }
    let is_loop = |group: &[Frame]| {
        let outer = group.last();
        outer.is_some_and(|frame| frame.language == Language::Native && is_loop(&frame.function))
    };
    let entries = script.iter().filter(|call| call.is_entry).count();
    let loops = groups(&native).filter(|group| is_loop(group)).count();
    let keep = if loops >= entries || trust == Native::Exact {
        native.len()
    } else {
        // The leaf is what the kernel gave.
        groups(&native)
            .next()
            .filter(|group| !is_loop(group))
            .map_or(0, <[Frame]>::len)
    };
    let mut merged = Vec::with_capacity(native.len() + script.len());
    let mut script = script.into_iter().peekable();
    for group in groups(&native[..keep]) {
        if is_loop(group) && script.peek().is_some() {
            for call in script.by_ref() {
                merged.push(call.frame);
                if call.is_entry {
                    break;
                }
            }
        } else {
            merged.extend_from_slice(group);
        }
    }
    merged.extend(script.map(|left| left.frame));
    merged
}

/// Groups of frames with the same address: functions inlined at it, then the one that they are in.
fn groups(frames: &[Frame]) -> impl Iterator<Item = &[Frame]> {
    frames.chunk_by(|inner, _| inner.inlined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpreter::Instance as _;
    use crate::interpreter::toy::{LOOP, Toy};

    fn native(function: &str) -> Frame {
        Frame {
            module: None,
            ..Frame::native(function, "")
        }
    }

    fn inlined(function: &str) -> Frame {
        Frame {
            inlined: true,
            ..native(function)
        }
    }

    /// Names that end in `!` are entries.
    fn script(names: &[&str]) -> Vec<ScriptCall> {
        let call = |name: &&str| ScriptCall {
            frame: Frame {
                language: Language::Python,
                ..native(name.trim_end_matches('!'))
            },
            is_entry: name.ends_with('!'),
        };
        names.iter().map(call).collect()
    }

    /// The loop is the toy interpreter's.
    fn is_loop(function: &str) -> bool {
        Toy { address: 0 }.is_loop(function)
    }

    fn merged(native: Vec<Frame>, names: &[&str], trust: Native) -> String {
        let frames = merge(native, script(names), is_loop, trust);
        let names: Vec<_> = frames.iter().map(|frame| &*frame.function).collect();
        names.join(" ")
    }

    fn stack(names: &[&str]) -> Vec<Frame> {
        names.iter().map(|name| native(name)).collect()
    }

    #[test]
    fn each_loop_is_replaced_by_what_it_ran() {
        let native = stack(&["list_sort", LOOP, "partial_call", LOOP, "main"]);
        assert_eq!(
            merged(native, &["key", "helper!", "module!"], Native::Guessed),
            "list_sort key helper partial_call module main"
        );
    }

    #[test]
    fn what_is_inlined_into_the_loop_is_part_of_it() {
        let native = vec![
            inlined("Py_INCREF"),
            native(LOOP),
            inlined("run"),
            native("main"),
        ];
        assert_eq!(merged(native, &["walk!"], Native::Guessed), "walk run main");
    }

    #[test]
    fn behind_an_unknown_native_stack_come_the_script_frames() {
        let native = stack(&["memcpy", "garbage", "more"]);
        let names = ["inner!", "outer!"];
        assert_eq!(
            merged(native.clone(), &names, Native::Guessed),
            "memcpy inner outer"
        );
        assert_eq!(
            merged(native, &names, Native::Exact),
            "memcpy garbage more inner outer"
        );
    }

    #[test]
    fn a_guess_that_lacks_an_entry_is_not_believed() {
        let native = stack(&[LOOP, "call", "garbage"]);
        assert_eq!(
            merged(native.clone(), &["inner!", "outer!"], Native::Guessed),
            "inner outer"
        );
        assert_eq!(
            merged(native, &["inner!", "outer!"], Native::Exact),
            "inner call garbage outer"
        );
    }

    #[test]
    fn loops_whose_frames_were_cut_stay() {
        let native = stack(&[LOOP, "call", LOOP, "main"]);
        assert_eq!(
            merged(native, &["inner!"], Native::Guessed),
            format!("inner call {LOOP} main")
        );
    }

    #[test]
    fn the_loop_of_another_interpreter_stays() {
        let native = stack(&["f", "other_run", LOOP, "main"]);
        assert_eq!(
            merged(native, &["run!"], Native::Exact),
            "f other_run run main"
        );
    }

    #[test]
    fn without_script_frames_nothing_changes() {
        let native = stack(&["f", LOOP]);
        assert_eq!(merged(native, &[], Native::Guessed), format!("f {LOOP}"));
    }

    proptest::proptest! {
        #[test]
        fn no_script_frame_is_lost_or_repeated(
            shape in proptest::collection::vec(proptest::bool::ANY, 0..20),
            entries in proptest::collection::vec(proptest::bool::ANY, 0..20),
            exact in proptest::bool::ANY,
        ) {
            let native = shape
                .iter()
                .map(|&is_loop| native(if is_loop { LOOP } else { "f" }))
                .collect();
            let names: Vec<_> = entries
                .iter()
                .enumerate()
                .map(|(n, entry)| format!("p{n}{}", if *entry { "!" } else { "" }))
                .collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let trust = if exact { Native::Exact } else { Native::Guessed };
            let frames = merge(native, script(&names), is_loop, trust);
            let found: Vec<_> = frames
                .iter()
                .filter(|frame| frame.language.is_interpreted())
                .map(|frame| frame.function.to_string())
                .collect();
            let all: Vec<_> = names.iter().map(|name| name.trim_end_matches('!')).collect();
            proptest::prop_assert_eq!(found, all);
        }
    }
}
