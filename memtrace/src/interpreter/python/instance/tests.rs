//! Recognition in memory that is made up.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const RUNTIME: u64 = 0x1_0000;
const INTERPRETER: u64 = 0x2_0000;
const THREAD: u64 = 0x3_0000;
const ID: u64 = 0x4_0000;
const TYPE: u64 = 0x5_0000;
const VERSION: u64 = 0x6_0000;

/// Words at addresses; what is not there reads as 0 up to `END`.
#[derive(Clone, Default)]
struct Words {
    words: BTreeMap<u64, u64>,
    reads: Cell<usize>,
}

const END: u64 = 0x10_0000;

impl ReadMemory for Words {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        if address >= END {
            return false;
        }
        for (at, byte) in (address..).zip(buffer) {
            let word = self.words.get(&(at & !7)).copied().unwrap_or(0);
            *byte = word.to_le_bytes()[(at & 7) as usize];
        }
        true
    }
}

/// A 3.11.7 with one thread, which has its thread state under key 3.
fn python_3_11() -> (Exports, Words) {
    let mut memory = Words::default();
    memory.words.extend([
        (VERSION, 0x030b_07f0),
        (RUNTIME + 40, INTERPRETER),
        (RUNTIME + 592, 3 << 32 | 1),
        (INTERPRETER + 16, THREAD),
        (THREAD + 16, INTERPRETER),
        (THREAD + 152, ID),
        (ID + 0x310 + 3 * 16 + 8, THREAD),
        (TYPE + 8, TYPE),
    ]);
    let exports = Exports {
        runtime: RUNTIME,
        type_type: Some(TYPE),
        code_type: Some(TYPE + 0x800),
        version: Some(VERSION),
        api: Some(0x030a),
    };
    (exports, memory)
}

fn refusal(exports: &Exports, memory: &Words) -> (String, String) {
    match recognise(exports, memory) {
        Recognised::Refused { name, why } => (name, why),
        other => panic!("{other:?}"),
    }
}

fn python(exports: &Exports, memory: &Words) -> Python {
    match recognise(exports, memory) {
        Recognised::Runs(instance) => {
            let python: Option<&Python> = (&*instance as &dyn Any).downcast_ref();
            python.expect("it is a CPython").clone()
        }
        other => panic!("{other:?}"),
    }
}

fn not_yet(exports: &Exports, memory: &Words) -> String {
    match recognise(exports, memory) {
        Recognised::NotYet { name } => name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_initialised_runtime_is_an_instance() {
    let (exports, memory) = python_3_11();
    let instance = python(&exports, &memory);
    assert_eq!(instance.name, "CPython 3.11.7");
    let layout = instance.layout;
    assert_eq!((layout.runtime, layout.type_type), (RUNTIME, TYPE));
    assert_eq!(layout.code_type, TYPE + 0x800);
    assert_eq!(layout.thread_local, 0x310 + 3 * 16 + 8);
}

#[test]
fn a_key_that_no_thread_shows_is_not_used() {
    for (at, value) in [
        (RUNTIME + 592, 3 << 32),
        (RUNTIME + 592, 32 << 32 | 1),
        (ID + 0x310 + 3 * 16 + 8, THREAD + 8),
    ] {
        let (exports, mut memory) = python_3_11();
        memory.words.insert(at, value);
        let instance = python(&exports, &memory);
        assert_eq!(instance.layout.thread_local, NO_FIELD, "{at:#x}");
    }
}

#[test]
fn a_runtime_without_interpreter_or_bound_thread_is_not_there_yet() {
    for at in [RUNTIME + 40, INTERPRETER + 16, THREAD + 152] {
        let (exports, mut memory) = python_3_11();
        memory.words.remove(&at);
        assert_eq!(not_yet(&exports, &memory), "CPython 3.11.7");
    }
}

#[test]
fn damaged_memory_is_refused_with_a_reason() {
    for (at, value, expected) in [
        (
            THREAD + 16,
            TYPE,
            "a thread state is not of its interpreter",
        ),
        (
            RUNTIME + 40,
            END,
            "a list of interpreters or threads leads nowhere",
        ),
        (TYPE + 8, 0, "its type of types is none"),
        (VERSION, 0x030d_00f0, "its table of offsets is not there"),
        (
            VERSION,
            0x7777_7777,
            "its version cannot be right: 0x77777777",
        ),
    ] {
        let (exports, mut memory) = python_3_11();
        memory.words.insert(at, value);
        let (_, why) = refusal(&exports, &memory);
        assert!(why.ends_with(expected), "{why}");
    }
    let (exports, memory) = python_3_11();
    let elsewhere = Exports {
        runtime: END,
        ..exports
    };
    let (name, why) = refusal(&elsewhere, &memory);
    assert_eq!(name, "CPython");
    assert!(why.contains("cannot be read"), "{why}");
}

#[test]
fn versions_that_are_not_known_are_refused() {
    for (hex, name, expected) in [
        (0x030f_00f0, "CPython 3.15.0", TOO_NEW),
        (0x0307_10f0, "CPython 3.7.16", TOO_OLD),
        (0x030b_00a3, "CPython 3.11.0a3", "alpha and beta"),
    ] {
        let (exports, mut memory) = python_3_11();
        memory.words.insert(VERSION, hex);
        let (found, why) = refusal(&exports, &memory);
        assert_eq!(found, name);
        assert!(why.contains(expected), "{why}");
        // The same in a table of offsets, which later versions keep.
        memory
            .words
            .insert(RUNTIME, u64::from_le_bytes(debug_offsets::COOKIE));
        memory.words.insert(RUNTIME + 8, hex);
        assert_eq!(refusal(&exports, &memory), (found, why));
    }
}

#[test]
fn the_api_tells_the_version_where_the_runtime_does_not() {
    let (exports, memory) = python_3_11();
    let exports = |api| Exports {
        version: None,
        api,
        ..exports
    };
    let (name, _) = refusal(&exports(Some(0x0307)), &memory);
    assert_eq!(name, "CPython 3.7");
    let name = not_yet(&exports(Some(0x0309)), &memory);
    assert_eq!(name, "CPython 3.9");
    let (name, why) = refusal(&exports(None), &memory);
    assert_eq!(name, "CPython");
    assert!(why.contains("nothing that tells its version"), "{why}");
}

#[test]
fn lists_without_end_are_cut() {
    let (exports, mut memory) = python_3_11();
    memory.words.insert(THREAD + 8, THREAD);
    memory.words.insert(INTERPRETER, INTERPRETER);
    let found = recognise(&exports, &memory);
    assert!(matches!(found, Recognised::Runs(_)), "{found:?}");
    assert!(memory.reads.get() < 5000, "{} reads", memory.reads.get());
}

proptest! {
    #[test]
    fn any_memory_is_survived(
        words in proptest::collection::vec((0_u64..0x1_0000, 0_u64..END), 0..64),
        version in any::<u32>(),
    ) {
        let (exports, mut memory) = python_3_11();
        for (at, value) in words {
            memory.words.insert(0x1_0000 + at * 8, value);
        }
        let _ = recognise(&exports, &memory);
        memory.words.insert(RUNTIME, u64::from_le_bytes(debug_offsets::COOKIE));
        for version in [u64::from(version), 0x030d_00f0, 0x030e_00f0] {
            memory.words.insert(RUNTIME + 8, version);
            memory.words.insert(RUNTIME + 16, 0);
            let _ = recognise(&exports, &memory);
        }
        prop_assert!(memory.reads.get() < 20_000);
    }
}
