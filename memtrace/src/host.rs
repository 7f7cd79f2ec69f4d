//! The machine that a trace is made on.

use std::ffi::CStr;
use std::time::SystemTime;

use crate::options::{Python, Target, Unwind};
use crate::profile::{BackendName, Host};
use crate::report::escape::escape;

/// Copies that the tracepoint backend cannot see.
const BLIND_SPOTS: [&str; 4] = [
    "copies made by another process or without a fault of the process itself: ptrace, \
     /proc/PID/mem, process_vm_writev, O_DIRECT reads, io_uring's registered buffers",
    "copies of pages of a hugetlb pool: they look like reuse, and are counted there",
    "whether a shared page was one that KSM had merged: it is counted as origin fork",
    "what the kernel writes for a process's last thread while it ends",
];

/// Describes this machine and how copies are seen.
#[must_use]
pub fn describe((unwind, unwind_why): (Unwind, Option<String>), python: Python) -> Host {
    let (kernel, arch) = uname();
    Host {
        kernel,
        arch,
        page_size: page_size(),
        backend: BackendName::Tracepoint,
        unwind: unwind.into(),
        unwind_why,
        python: python.into(),
        blind_spots: BLIND_SPOTS.map(str::to_owned).to_vec(),
    }
}

/// Now, as RFC 3339 with seconds, in UTC.
#[must_use]
pub fn now_rfc3339() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// The COMMAND of a run, escaped; empty when there is none.
#[must_use]
pub fn command_line(target: &Target) -> Vec<String> {
    let command = match target {
        Target::Attach { load, .. } => load.as_deref().unwrap_or_default(),
        Target::Launch { command } => command,
    };
    command
        .iter()
        .map(|arg| escape(&arg.to_string_lossy()).into_owned())
        .collect()
}

/// Bytes in a page.
#[must_use]
pub fn page_size() -> u64 {
    // SAFETY: no pointers are passed.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Kernel release and architecture.
fn uname() -> (String, String) {
    // SAFETY: all-zero bytes are a value of this type.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `names` is there to be written.
    if unsafe { libc::uname(&raw mut names) } != 0 {
        return ("unknown".to_owned(), "unknown".to_owned());
    }
    let text = |field: &[libc::c_char]| {
        // SAFETY: the kernel ends each field with a NUL, within the array.
        unsafe { CStr::from_ptr(field.as_ptr()) }
            .to_string_lossy()
            .into_owned()
    };
    (text(&names.release), text(&names.machine))
}
