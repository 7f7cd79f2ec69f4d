//! Finds the programs, runs them together, and compares what they say.

pub mod fixture;
pub mod interpreters;
pub mod report;
pub mod trace;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

pub use fixture::{Fixture, Truth};
pub use interpreters::Python;
pub use report::Report;
pub use trace::Trace;

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
    /// Tracing is not possible for this user or on this machine.
    Unprivileged(String),
    /// The kernel lacks what the way needs.
    Unavailable(String),
    /// A tool is not installed.
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
    // Not eprintln, which the test harness swallows when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {text}");
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
            "this kernel permits no BPF: {error}"
        )));
    }
    Ok(())
}

/// Whether a command is installed.
pub fn tool(name: &str) -> Result<(), Why> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).exists()));
    if found {
        Ok(())
    } else {
        Err(Why::NoTool(format!("{name} is not installed")))
    }
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
