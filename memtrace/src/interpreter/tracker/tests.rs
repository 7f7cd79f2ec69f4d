//! Processes that are this one again and again, with an interpreter that does what it is told.

use std::sync::Arc;

use memtrace_common::process::{Counters, NO_SLOT, ProcessSlot, SLOT_LIVE};

use super::super::toy::{ABSENT, Control, NOT_YET, REFUSED, Toy};
use super::super::wanted;
use super::*;
use crate::process::processes::Said;

/// Tables, processes and a tracker of them; and what says what their interpreter does.
struct World {
    tables: Tables,
    processes: Processes,
    tracker: Tracker,
    control: Control,
}

impl World {
    fn new(state: u64) -> Self {
        let tables = Tables::in_memory(1);
        let control = Control::new(state);
        Self {
            tracker: Tracker::new(control.loaders(), tables.clone()),
            processes: Processes::looking_for(wanted(&control.loaders())),
            tables,
            control,
        }
    }

    /// A process that is found in `slot`, or that the one in the slot `parent` has forked. It has
    /// its parent's interpreter, as the kernel side does it.
    fn add(&mut self, slot: u32, parent: Option<u32>) -> ProcessId {
        let inherited = parent.map_or(0, |parent| self.in_kernel(parent));
        self.add_with(slot, parent, inherited)
    }

    fn add_with(&mut self, slot: u32, parent: Option<u32>, interpreter: u64) -> ProcessId {
        let now = clock::monotonic_ns();
        let entry = ProcessSlot {
            state: SLOT_LIVE,
            threads: 1,
            pid: std::process::id(),
            parent_pid: 1,
            parent_slot: parent.unwrap_or(NO_SLOT),
            execs: 0,
            forked_ns: parent.map_or(0, |_| now),
            exited_ns: 0,
            start_boottime_ns: clock::boottime_ns(),
            interpreter,
            mappings: 0,
            program: 0,
            comm: [0; 16],
            counters: Counters::ZERO,
            cpu_ns: 0,
            resident: [0; 4],
        };
        self.tables.processes.set(slot, &entry);
        let process = self.processes.add(slot, &entry);
        self.tracker.process_added(slot, process, &self.processes);
        process
    }

    fn exec(&mut self, slot: u32, process: ProcessId) {
        let entry = self.tables.processes.read(slot as usize).unwrap();
        self.processes.execed(process, Said::now(&entry));
        self.tracker.process_execed(slot, process, &self.processes);
    }

    fn end(&mut self, slot: u32, process: ProcessId) {
        self.tracker.process_ended(process);
        let entry = self.tables.processes.read(slot as usize).unwrap();
        self.processes.exited(process, &entry);
    }

    /// Goes on as if it were so much later.
    fn tick_in(&mut self, later: Duration) {
        self.tracker
            .tick(Instant::now() + later, &mut self.processes);
    }

    /// The process's mappings are found to have changed.
    fn remap(&mut self, slot: u32, process: ProcessId) {
        let entry = self.tables.processes.read(slot as usize).unwrap();
        // What is known of them is dropped, and they are read.
        self.processes.execed(process, Said::now(&entry));
        self.tracker.processes_remapped(&mut self.processes);
    }

    fn in_kernel(&self, slot: u32) -> u64 {
        self.tables
            .processes
            .read(slot as usize)
            .unwrap()
            .interpreter
    }

    /// Where the interpreter is that the kernel side finds for the process in a slot.
    fn walked(&self, slot: u32) -> Option<u64> {
        let handle = Handle::from_slot(self.in_kernel(slot));
        handle.kind()?;
        let layout = self.tables.pythons.read(handle.index() as usize)?;
        assert!(self.tracker.instance(handle).is_some());
        Some(layout.runtime)
    }

    fn interpreter(&self, process: ProcessId) -> Option<InterpreterSeen> {
        self.tracker.seen(process)?.interpreter
    }

    /// Names and versions of the runtimes that are not read.
    fn runtimes(&self, process: ProcessId) -> Vec<String> {
        let seen = self.tracker.seen(process).and_then(|seen| seen.runtimes);
        let all = seen.iter().flat_map(|seen| seen.iter());
        all.map(|one| format!("{} {}", one.name, one.version.clone().unwrap_or_default()))
            .collect()
    }

    fn why(&self, process: ProcessId) -> Option<String> {
        self.interpreter(process).unwrap().why
    }
}

const SOON: Duration = Duration::from_millis(50);

#[test]
fn a_process_that_is_found_has_its_interpreter() {
    let mut world = World::new(0x7000);
    let process = world.add(3, None);
    assert_eq!(world.walked(3), Some(0x7000));
    let seen = world.interpreter(process).unwrap();
    assert_eq!((seen.name.as_str(), seen.why), ("Toy 1", None));
    assert_eq!(
        world.tracker.next_due(),
        None,
        "there is nothing to wait for"
    );
}

#[test]
fn without_loaders_no_process_is_looked_at() {
    let mut world = World::new(0x7000);
    world.tracker = Tracker::new(Vec::new(), world.tables.clone());
    let process = world.add(3, None);
    world.exec(3, process);
    world.tracker.processes_remapped(&mut world.processes);
    assert_eq!(world.walked(3), None);
    assert_eq!(world.tracker.next_due(), None);
    assert!(world.interpreter(process).is_none());
}

#[test]
fn a_child_inherits_its_parents_interpreter() {
    let mut world = World::new(0x7000);
    let parent = world.add(3, None);
    // Looking at the child would not find it.
    world.control.set(ABSENT);
    let child = world.add(4, Some(3));
    assert_eq!(world.walked(4), Some(0x7000));
    assert_eq!(world.in_kernel(4), world.in_kernel(3));
    let ids = [parent, child].map(|process| world.tracker.of(process).unwrap().id);
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_child_forked_just_before_its_parents_interpreter_was_known_gets_it_too() {
    let mut world = World::new(0x7000);
    world.add(3, None);
    world.add_with(4, Some(3), 0);
    assert_eq!(world.walked(4), Some(0x7000));
}

#[test]
fn an_exec_clears_the_interpreter() {
    let mut world = World::new(0x7000);
    let parent = world.add(3, None);
    let child = world.add(4, Some(3));
    world.control.set(ABSENT);
    world.exec(4, child);
    assert_eq!(world.in_kernel(4), 0);
    assert!(world.tracker.of(child).is_none() && world.interpreter(child).is_none());
    assert_eq!(world.walked(3), Some(0x7000), "the parent's stays");
    // The new program starts another one.
    world.control.set(0x8000);
    world.tick_in(SOON);
    assert_eq!(world.walked(4), Some(0x8000));
    let ids = [parent, child].map(|process| world.tracker.of(process).unwrap().id);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn an_interpreter_that_initialises_late_is_found_on_a_later_tick() {
    let mut world = World::new(NOT_YET);
    let process = world.add(3, None);
    assert_eq!(world.why(process).unwrap(), "it had not initialised");
    assert!(world.tracker.next_due().unwrap() <= Instant::now() + FIRST_PAUSE);
    world.tick_in(SOON);
    assert_eq!(world.walked(3), None);
    // It is waited for however long that takes.
    world.tick_in(10 * PATIENCE);
    assert!(world.tracker.next_due().is_some());
    world.control.set(0x7000);
    world.tick_in(20 * PATIENCE);
    assert_eq!(world.walked(3), Some(0x7000));
    assert_eq!(world.why(process), None);
    assert_eq!(world.tracker.next_due(), None);
}

#[test]
fn pauses_grow_up_to_a_bound_while_a_program_starts() {
    let mut world = World::new(NOT_YET);
    world.add(3, None);
    let start = Instant::now();
    let mut now = start;
    let mut looks = 0;
    while now < start + PATIENCE {
        let due = world.tracker.next_due().unwrap();
        assert!(due > now && due <= now.max(Instant::now()) + START_PAUSE);
        now = due;
        world.tracker.tick(now, &mut world.processes);
        looks += 1;
    }
    let at_most = PATIENCE.as_millis() / START_PAUSE.as_millis() + 10;
    assert!((20..=at_most).contains(&looks), "{looks} looks");
    let due = world.tracker.next_due().unwrap();
    assert!(
        due >= now + LONG_PAUSE,
        "after that it is looked for rarely"
    );
}

#[test]
fn a_program_without_an_interpreter_is_given_up_after_a_while() {
    for state in [ABSENT, REFUSED] {
        let mut world = World::new(state);
        let process = world.add(3, None);
        assert!(world.tracker.next_due().is_some());
        world.tick_in(SOON);
        assert!(world.tracker.next_due().is_some());
        world.tick_in(2 * PATIENCE);
        assert_eq!(world.tracker.next_due(), None);
        let why = world.interpreter(process).map(|seen| seen.why.unwrap());
        let expected = (state == REFUSED).then(|| "it is broken".to_owned());
        assert_eq!(why, expected);
        // But a library that it loads later is looked at.
        world.control.set(0x7000);
        world.remap(3, process);
        assert_eq!(world.walked(3), Some(0x7000));
    }
}

#[test]
fn a_child_of_a_parent_that_still_starts_is_looked_at_itself() {
    let mut world = World::new(NOT_YET);
    let parent = world.add(3, None);
    let child = world.add(4, Some(3));
    world.end(3, parent);
    world.control.set(0x7000);
    world.tick_in(SOON);
    assert_eq!(world.walked(4), Some(0x7000));
    assert!(world.tracker.of(child).is_some());
}

#[test]
fn what_a_report_says_of_a_process_that_has_ended_is_all_that_is_left() {
    let mut world = World::new(0x7000);
    let process = world.add(3, None);
    let seen = world.tracker.process_ended(process).unwrap();
    let seen = seen.interpreter.unwrap();
    assert_eq!((seen.name.as_str(), seen.why), ("Toy 1", None));
    assert!(world.tracker.of(process).is_none());
    assert!(world.tracker.states.is_empty());
}

#[test]
fn a_full_table_refuses_until_a_process_ends() {
    let mut world = World::new(0x7000);
    // Strangers, each with an entry of its own. Faster than adding as many processes.
    for address in 1..u64::from(MAX_INTERPRETERS) {
        let stranger = Arc::new(Toy { address });
        let handle = world.tracker.entries.find_or_add(stranger, None).unwrap();
        world.tracker.entries.add_user(handle);
    }
    let last = world.add(3, None);
    assert_eq!(world.walked(3), Some(0x7000));
    let child = world.add(4, Some(3));
    let refused = world.add(5, None);
    let why = world.why(refused).unwrap();
    assert_eq!(why, "too many interpreters are traced at once");
    assert_eq!(world.in_kernel(5), 0);
    world.end(3, last);
    world.tick_in(SOON);
    assert!(
        world.why(refused).is_some(),
        "the child still uses the entry"
    );
    world.end(4, child);
    world.control.set(0x8000);
    world.tick_in(2 * SOON);
    assert_eq!(world.walked(5), Some(0x8000));
    assert_eq!(world.why(refused), None);
}

/// A loaded library that exports what only Lua does. Other tests see it too.
struct Lua(*mut libc::c_void);

impl Lua {
    /// `None`, and said, without a compiler.
    fn load() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("lua.c");
        let library = directory.path().join("liblua.so");
        let code = "const char lua_ident[] = \"$LuaVersion: Lua 5.4.9  Copyright\";
                    void lua_newstate(void) {} void lua_gc(void) {}";
        std::fs::write(&source, code).unwrap();
        let built = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .status();
        if !built.is_ok_and(|status| status.success()) {
            crate::skipped::skipped("there is no C compiler `cc` (apt-get install gcc)");
            return None;
        }
        let library = std::ffi::CString::new(library.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: the path is a C string, and no code of the library runs when it is loaded.
        let loaded = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
        assert!(!loaded.is_null());
        Some(Self(loaded))
    }

    fn unload(self) {
        // SAFETY: it was loaded once, and nothing of it is used.
        assert_eq!(unsafe { libc::dlclose(self.0) }, 0);
    }
}

#[test]
fn runtimes_are_inherited_by_a_fork_and_reset_by_an_exec() {
    // One is found whether or not an interpreter is, and where none is looked for.
    for (state, has_loaders) in [(ABSENT, true), (0x7000, true), (0x7000, false)] {
        let Some(lua) = Lua::load() else {
            return;
        };
        let mut world = World::new(state);
        if !has_loaders {
            world.tracker = Tracker::new(Vec::new(), world.tables.clone());
        }
        let parent = world.add(3, None);
        lua.unload();
        let child = world.add(4, Some(3));
        for process in [parent, child] {
            let is_read = has_loaders && state != ABSENT;
            assert_eq!(world.interpreter(process).is_some(), is_read);
            assert_eq!(world.runtimes(process), ["Lua 5.4.9"]);
        }
        world.exec(4, child);
        assert!(world.runtimes(child).is_empty());
        assert_eq!(world.runtimes(parent), ["Lua 5.4.9"]);
        let lua = Lua::load().unwrap();
        world.remap(3, parent);
        lua.unload();
        // What was unloaded has been there.
        world.remap(3, parent);
        assert_eq!(world.runtimes(parent), ["Lua 5.4.9"]);
        let ended = world.tracker.process_ended(parent).unwrap();
        assert!(ended.runtimes.is_some() && world.tracker.seen(parent).is_none());
    }
}
