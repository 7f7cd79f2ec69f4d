//! Interpreters that are at hand, run as children and read as a traced process is.

use std::any::Any;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use foldhash::HashSet;
use memtrace_common::interpreter::python::{
    ENTRY_BYTE, FREE_THREADED, Layout, NO_FIELD, SHIM_FRAMES,
};

use super::Python;
use crate::interpreter::recognise::Recogniser;
use crate::interpreter::{LOADERS, Recognised};
use crate::process::maps::AddressSpace;
use crate::process::memory::{ProcessMemory, ReadMemory};
use crate::process::modules::Modules;

/// Waits in `inner`, called by `outer`; and in `waiting`, in a thread of its own.
const PROGRAM: &str = "
import sys, _thread
lock = _thread.allocate_lock()
lock.acquire()
started = _thread.allocate_lock()
started.acquire()
def waiting():
    started.release()
    lock.acquire()
_thread.start_new_thread(waiting, ())
def inner():
    print('ready', flush=True)
    sys.stdin.read()
def outer():
    inner()
started.acquire()
outer()
";

/// Forks in a thread that is not the main one; the child waits in `inner`.
const FORKING: &str = "
import os, _thread
def inner():
    os.write(1, b'%d\\n' % os.getpid())
    os.read(0, 1)
    os._exit(0)
def forks():
    if os.fork() == 0:
        inner()
_thread.start_new_thread(forks, ())
os.read(0, 1)
";

/// A child that ends when it is dropped, and its children with it: their standard input closes.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn python(executable: &Path, program: &str) -> Self {
        Self::start(Command::new(executable).args(["-S", "-c", program]))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn recognise(pid: u32) -> Recognised {
    let modules = &mut Modules::looking_for(crate::interpreter::wanted(LOADERS));
    let space = AddressSpace::read(pid, modules).unwrap();
    Recogniser::new(LOADERS.to_vec()).recognise(&space, &ProcessMemory::new(pid))
}

fn instance(pid: u32) -> Python {
    match recognise(pid) {
        Recognised::Runs(instance) => {
            let python: Option<&Python> = (&*instance as &dyn Any).downcast_ref();
            python.expect("it is a CPython").clone()
        }
        other => panic!("{other:?}"),
    }
}

/// Names more interpreters, as `PATH` names directories.
const MORE: &str = "MEMTRACE_TEST_PYTHONS";

/// Interpreters that are here: where, and the version that their place says, if it does.
fn interpreters() -> Vec<(PathBuf, Option<String>)> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let mut found = Vec::new();
    for version in root
        .iter()
        .filter_map(|root| fs::read_dir(root.join("versions")).ok())
        .flatten()
        .filter_map(Result::ok)
    {
        let path = version.path().join("bin/python");
        if path.exists() {
            found.push((path, version.file_name().into_string().ok()));
        }
    }
    if found.is_empty() {
        crate::skipped::skipped("pyenv has no interpreters (pyenv install 3.12)");
    }
    if let Some(more) = std::env::var_os(MORE) {
        found.extend(std::env::split_paths(&more).map(|path| (path, None)));
    }
    let system = Path::new("/usr/bin/python3");
    if system.exists() {
        found.push((system.to_owned(), None));
    } else {
        crate::skipped::skipped("there is no python3 of the system (apt-get install python3)");
    }
    found
}

fn supported(version: &str) -> bool {
    let minor = version
        .strip_prefix("3.")
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    minor.is_some_and(|minor: u32| (8..=14).contains(&minor))
}

/// Interpreters whose frames can be read.
fn readable() -> impl Iterator<Item = PathBuf> {
    let readable = |version: Option<&String>| version.is_none_or(|version| supported(version));
    interpreters()
        .into_iter()
        .filter(move |(_, version)| readable(version.as_ref()))
        .map(|(path, _)| path)
}

/// What `sys.version_info` says.
fn version_of(python: &Path) -> String {
    let print = "import sys; print('.'.join(map(str, sys.version_info[:3])))";
    let output = Command::new(python).args(["-S", "-c", print]).output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

/// What is at an offset of something in a process.
struct Walk<'instance> {
    layout: &'instance Layout,
    memory: ProcessMemory,
}

impl Walk<'_> {
    fn word(&self, base: u64, offset: u32) -> u64 {
        let value = self.memory.word(base + u64::from(offset));
        value.unwrap_or_else(|| panic!("nothing at {base:#x}+{offset}"))
    }

    /// Thread states, each checked to be what its thread has under the runtime's key.
    fn threads(&self) -> Vec<u64> {
        let layout = self.layout;
        let mut threads = Vec::new();
        let interpreter = self.word(layout.runtime, layout.interpreters_head);
        let mut thread = self.word(interpreter, layout.threads_head);
        while thread != 0 {
            let id = self.word(thread, layout.thread_id);
            assert_ne!(layout.thread_local, NO_FIELD);
            assert_eq!(self.word(id, layout.thread_local), thread);
            threads.push(thread);
            thread = self.word(thread, layout.thread_next);
        }
        threads
    }

    /// Names of the functions that a thread runs, innermost first.
    fn names(&self, thread: u64) -> Vec<String> {
        let layout = self.layout;
        let mut names = Vec::new();
        let mut frame = self.word(thread, layout.frame);
        if layout.frame_indirect != NO_FIELD {
            frame = self.word(frame, layout.frame_indirect);
        }
        let mut entered = false;
        while frame != 0 {
            let mut owner = [0];
            if layout.frame_owner != NO_FIELD {
                assert!(
                    self.memory
                        .read(frame + u64::from(layout.frame_owner), &mut owner)
                );
            }
            let owner = u32::from(owner[0]);
            let shim = layout.flags & SHIM_FRAMES != 0 && owner >= layout.owner_shim;
            if shim {
                entered = true;
            } else {
                names.push(self.name(frame));
                entered = layout.flags & ENTRY_BYTE != 0 && owner != 0;
            }
            frame = self.word(frame, layout.frame_previous);
        }
        let says = layout.flags & (SHIM_FRAMES | ENTRY_BYTE) != 0;
        assert_eq!(entered, says, "the outermost frame entered the loop");
        names
    }

    fn name(&self, frame: u64) -> String {
        let layout = self.layout;
        let code = self.word(frame, layout.frame_code) & !7;
        assert_eq!(self.word(code, layout.object_type), layout.code_type);
        if layout.code_bytecode != NO_FIELD {
            let bytecode = code + u64::from(layout.code_bytecode);
            let instruction = self.word(frame, layout.frame_instruction);
            assert!((bytecode..bytecode + 512).contains(&instruction));
        }
        let name = self.text(self.word(code, layout.code_name));
        assert_eq!(self.text(self.word(code, layout.code_qualname)), name);
        assert_eq!(self.text(self.word(code, layout.code_filename)), "<string>");
        let line = self
            .memory
            .half(code + u64::from(layout.code_first_line))
            .unwrap();
        assert!((1..30).contains(&line), "{line}");
        let lines = self.word(code, layout.code_lines);
        assert_eq!(self.type_name(lines), "bytes");
        name
    }

    fn type_name(&self, object: u64) -> String {
        let kind = self.word(object, self.layout.object_type);
        let meta = self.word(kind, self.layout.object_type);
        assert_eq!(meta, self.layout.type_type);
        let name = self.word(kind, self.layout.type_name);
        String::from_utf8(self.memory.c_string(name, 32).unwrap()).unwrap()
    }

    fn text(&self, object: u64) -> String {
        assert_eq!(self.type_name(object), "str");
        let layout = self.layout;
        let start = match (layout.flags & FREE_THREADED, layout.version) {
            (0, ..0x030c) => 48,
            (0, _) => 40,
            _ => 56,
        };
        String::from_utf8(self.memory.c_string(object + start, 64).unwrap()).unwrap()
    }
}

/// The functions of each thread, and that type flags are where they should be.
fn chains(pid: u32, instance: &Python) -> HashSet<Vec<String>> {
    let walk = Walk {
        layout: &instance.layout,
        memory: ProcessMemory::new(pid),
    };
    let flags = walk.word(instance.layout.type_type, instance.layout.type_flags);
    assert_ne!(flags & 1 << 31, 0, "type is a subclass of type");
    assert_eq!(walk.type_name(instance.layout.code_type), "type");
    walk.threads().iter().map(|&at| walk.names(at)).collect()
}

fn chain(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn the_frames_of_each_thread_are_found_in_every_version() {
    for python in readable() {
        let mut running = Running::python(&python, PROGRAM);
        assert_eq!(running.line(), "ready");
        let pid = running.child.id();
        let instance = instance(pid);
        let full = version_of(&python);
        let expected = if instance.layout.version < 0x030b {
            format!("CPython {}", full.rsplit_once('.').unwrap().0)
        } else {
            format!("CPython {full}")
        };
        assert_eq!(instance.name, expected);
        let found = chains(pid, &instance);
        let expected = [chain(&["inner", "outer", "<module>"]), chain(&["waiting"])];
        assert_eq!(found, HashSet::from_iter(expected), "{}", instance.name);
    }
}

#[test]
fn a_child_forked_by_a_thread_has_the_same_layout() {
    for python in readable() {
        let mut running = Running::python(&python, FORKING);
        let child = running.line().parse().unwrap();
        let parent = instance(running.child.id());
        let instance = instance(child);
        assert_eq!(instance, parent);
        let expected = chain(&["inner", "forks"]);
        assert_eq!(chains(child, &instance), HashSet::from_iter([expected]));
    }
}

#[test]
fn other_versions_are_refused_and_named() {
    for (python, version) in interpreters() {
        let Some(version) = version.filter(|version| !supported(version)) else {
            continue;
        };
        let program = "import sys; print('ready'); sys.stdout.flush(); sys.stdin.read()";
        let mut running = Running::python(&python, program);
        assert_eq!(running.line(), "ready");
        let Recognised::Refused { name, why } = recognise(running.child.id()) else {
            panic!("{version}");
        };
        let expected = match &version[..3] {
            "2.7" => "CPython 2",
            "3.6" => "CPython 3.6 or older",
            "3.7" => "CPython 3.7",
            _ => panic!("{name}"),
        };
        assert_eq!(name, expected);
        assert!(why.contains("is older"), "{why}");
    }
}

#[test]
fn a_program_without_an_interpreter_has_none() {
    let running = Running::start(&mut Command::new("cat"));
    // Until it is `cat`, it is this program, which has none either.
    let found = recognise(running.child.id());
    assert!(matches!(found, Recognised::None), "{found:?}");
}

/// A program that embeds Python and waits before it starts it. It uses types directly, so where it
/// is not position-independent it has copies of them, which are used instead of the library's.
const EMBEDDING: &str = r#"
#include <Python.h>
#include <stdio.h>
int main(void) {
    if (PyType_Type.tp_basicsize == 0 || PyCode_Type.tp_basicsize == 0)
        return 1;
    puts("before");
    fflush(stdout);
    getchar();
    Py_InitializeEx(0);
    return PyRun_SimpleString("import sys\n"
        "def inner():\n  print('ready', flush=True); sys.stdin.read()\n"
        "def outer():\n  inner()\n"
        "outer()\n");
}
"#;

#[test]
fn a_program_that_embeds_a_shared_library_is_recognised_once_it_has_started_it() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("embedding.c");
    fs::write(&source, EMBEDDING).unwrap();
    let mut tried = 0;
    for python in readable() {
        let home = python.parent().and_then(Path::parent).unwrap();
        let full = version_of(&python);
        let version = full.rsplit_once('.').unwrap().0;
        let headers = home.join(format!("include/python{version}"));
        let library = home.join("lib");
        if !headers.join("Python.h").exists()
            || !library.join(format!("libpython{version}.so")).exists()
        {
            continue;
        }
        for position in ["-no-pie", "-pie"] {
            let program = directory.path().join(format!("{version}{position}"));
            let built = Command::new("cc")
                .arg(position)
                .arg(if position == "-pie" {
                    "-fPIE"
                } else {
                    "-fno-pie"
                })
                .arg("-I")
                .arg(&headers)
                .arg(&source)
                .arg("-o")
                .arg(&program)
                .arg("-L")
                .arg(&library)
                .arg(format!("-lpython{version}"))
                .arg(format!("-Wl,-rpath,{}", library.display()))
                .status();
            if !built.is_ok_and(|status| status.success()) {
                continue;
            }
            embedded(&program, home, &full);
            tried += 1;
        }
    }
    if tried == 0 {
        crate::skipped::skipped(
            "there is no Python with headers and a shared library beside it, or no C compiler \
             (env PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.12; apt-get install gcc)",
        );
    }
}

fn embedded(program: &Path, home: &Path, version: &str) {
    let mut running = Running::start(Command::new(program).env("PYTHONHOME", home));
    let pid = running.child.id();
    assert_eq!(running.line(), "before");
    let Recognised::NotYet { name } = recognise(pid) else {
        panic!("{version}: {:?}", recognise(pid));
    };
    assert!(format!("CPython {version}").starts_with(&name), "{name}");
    let input = running.child.stdin.as_mut().unwrap();
    std::io::Write::write_all(input, b"\n").unwrap();
    assert_eq!(running.line(), "ready");
    let instance = instance(pid);
    assert_eq!(instance.name, name);
    let expected = chain(&["inner", "outer", "<module>"]);
    assert_eq!(chains(pid, &instance), HashSet::from_iter([expected]));
}

/// The files that the dynamic linker loads for a program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let words = output.split_whitespace();
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

#[test]
fn an_interpreter_in_a_chroot_is_recognised() {
    // SAFETY: asks for a number; it cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        crate::skipped::skipped("only root may chroot");
        return;
    }
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        crate::skipped::skipped("there is no python3 of the system (apt-get install python3)");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let inside = |path: &Path| {
        let path = root.path().join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for file in libraries(python)
        .iter()
        .map(PathBuf::as_path)
        .chain([python])
    {
        // In a process of its own: what is forked meanwhile by other tests would have the file open
        // for writing, and then it cannot be run.
        let copied = Command::new("cp").args([file, &inside(file)]).status();
        assert!(copied.unwrap().success());
    }
    let print = "import codecs, os; print(os.path.dirname(codecs.__file__))";
    let output = Command::new(python)
        .args(["-S", "-c", print])
        .output()
        .unwrap();
    let library = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    // What the interpreter starts with is in modules of its own and in one package.
    for directory in [library.clone(), library.join("encodings")] {
        for entry in fs::read_dir(directory).unwrap().filter_map(Result::ok) {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "py") {
                fs::copy(&path, inside(&path)).unwrap();
            }
        }
    }
    let mut command = Command::new("chroot");
    command.arg(root.path()).arg(python);
    let mut running = Running::start(command.args(["-S", "-c", PROGRAM]));
    assert_eq!(running.line(), "ready");
    let pid = running.child.id();
    let instance = instance(pid);
    let expected = [chain(&["inner", "outer", "<module>"]), chain(&["waiting"])];
    assert_eq!(chains(pid, &instance), HashSet::from_iter(expected));
}
