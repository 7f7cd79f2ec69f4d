//! The machine that a trace is made on.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::foreign::escaped;
use crate::options::Target;
use crate::plan::Plan;
use crate::profile::Host;

/// Describes this machine and how copies are seen.
#[must_use]
pub fn describe(plan: &Plan) -> Host {
    let (kernel, arch) = uname();
    let backend = plan.backend.value;
    Host {
        kernel,
        arch,
        page_size: page_size(),
        backend: backend.name(),
        unwind: plan.unwind.value.into(),
        unwind_why: plan.unwind.why.clone(),
        python: plan.python.value.into(),
        blind_spots: backend
            .blind_spots()
            .iter()
            .map(|&spot| spot.to_owned())
            .collect(),
    }
}

/// The COMMAND of a run, escaped, with its arguments if these are wanted; empty when there is none.
#[must_use]
pub fn command_line(target: &Target, arguments: bool) -> Vec<String> {
    let shown = if arguments { usize::MAX } else { 1 };
    target
        .command()
        .iter()
        .take(shown)
        .map(|arg| escaped(arg.as_bytes()))
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
    // SAFETY: `names` is valid for writing.
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
