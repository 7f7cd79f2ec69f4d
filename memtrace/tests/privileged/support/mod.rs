//! Finds the programs, runs them together, and compares what they say.

mod bpf;
pub mod fixture;
pub mod interpreters;
mod redis;
pub mod report;
pub mod served;
pub mod trace;

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub use bpf::BpfObjects;
pub use fixture::{Fixture, Truth};
pub use interpreters::Python;
pub use redis::Redis;
pub use report::Report;
pub use trace::Trace;

use crate::skipped::skipped;

/// The programs that tests run, with their packages: `cargo xtask` reads the same list.
const PROGRAMS: &str = include_str!("../../programs.txt");

/// How long anything may take: the machine may be slow, or emulated.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Returns from the test, saying why, when `$need` is an `Err(why)`; see [`skip`].
macro_rules! requires {
    ($need:expr) => {
        match $need {
            Ok(got) => got,
            Err(why) => return $crate::support::skip(&why),
        }
    };
}
pub(crate) use requires;

/// Why a test cannot run.
#[derive(Debug)]
pub enum Why {
    /// This user or this machine as a whole does not permit tracing.
    Unprivileged(String),
    /// The kernel, or a program that the test runs, lacks what the way needs.
    Unavailable(String),
    /// A program is not installed that `cargo xtask test` installs.
    NoTool(String),
}

/// Says on standard error that the running test is skipped. On a machine that can run the tests,
/// CI must have the tools, so that nothing is skipped for good without anyone noticing.
pub fn skip(why: &Why) {
    let (Why::Unprivileged(text) | Why::Unavailable(text) | Why::NoTool(text)) = why;
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(
        !(ci && matches!(why, Why::NoTool(_)) && privileged().is_ok()),
        "{name} must run in CI, and cannot: {text}"
    );
    skipped(text);
}

/// Whether tracing is possible: root, and a kernel with BPF and its type information.
pub fn privileged() -> Result<(), Why> {
    // SAFETY: only asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        return Err(Why::Unprivileged("not root".into()));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Why::Unprivileged("this kernel has no BTF".into()));
    }
    // SAFETY: BPF_PROG_GET_NEXT_ID with a zeroed attribute only asks for a number.
    let answer = unsafe {
        let mut attribute = [0_u32; 4];
        libc::syscall(
            libc::SYS_bpf,
            11,
            attribute.as_mut_ptr(),
            size_of_val(&attribute),
        )
    };
    let error = std::io::Error::last_os_error();
    if answer < 0 && error.raw_os_error() != Some(libc::ENOENT) {
        return Err(Why::Unprivileged(format!(
            "this kernel does not permit BPF: {error}"
        )));
    }
    Ok(())
}

/// A program that is installed, as a command. It is called by the name that is asked for, even
/// where only another name of the same program is there.
pub fn tool(name: &str) -> Result<Command, Why> {
    let listed = listed(name);
    let names = std::iter::once(name).chain(listed.get(1).copied());
    for found in names {
        if is_installed(found) {
            let mut command = Command::new(found);
            command.arg0(name);
            return Ok(command);
        }
    }
    Err(Why::NoTool(match listed.first() {
        Some(package) => format!("{name} is not installed (apt-get install {package})"),
        None => format!("{name} is not installed"),
    }))
}

/// What the list says of a program: its package, and another name of the program, if it has one.
fn listed(name: &str) -> Vec<&'static str> {
    let mut lines = PROGRAMS.lines().map(str::split_whitespace);
    let line = lines.find(|line| line.clone().next() == Some(name));
    line.into_iter().flatten().skip(1).collect()
}

/// Whether a program is in `PATH`.
pub fn is_installed(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).exists()))
}

/// Copies a program, in a process of its own: what is forked meanwhile by other tests would have the
/// copy open for writing, and then it cannot be run.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

/// Waits until `done` gives something, and fails the test when that takes too long.
pub fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(got) = done() {
            return got;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: the process is a child of the test that has not been waited for.
    let sent = unsafe { libc::kill(pid.cast_signed(), signal) };
    assert_eq!(sent, 0, "kill {pid}: {}", std::io::Error::last_os_error());
}
