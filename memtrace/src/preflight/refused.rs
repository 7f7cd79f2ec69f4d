//! What the kernel refuses when memtrace loads and attaches its programs.

use std::io;

use super::{Facts, Problem, capabilities, problem};

/// Says what an error of loading or attaching means on this machine; `None` when its chain has no
/// error number of the kernel, or one that adds nothing to the error's own text.
#[must_use]
pub fn explain_load_error(error: &anyhow::Error, facts: &Facts) -> Option<Problem> {
    let errno = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)?;
    let found = |name: &str| format!("{name} from the kernel: {error}");
    let explained = match errno {
        libc::EPERM => not_permitted(facts, &found("EPERM")),
        libc::EACCES => problem(
            "the kernel's verifier refused memtrace's programs, or perf events are forbidden",
            format!("{}; {}", found("EACCES"), paranoid(facts)),
            "copies cannot be seen",
            "run as root; if that is so already, report this with the output of memtrace -vv: \
             the programs should pass on every supported kernel",
        ),
        libc::EINVAL => problem(
            "this kernel does not know something that memtrace's programs use",
            format!("{}; Linux {}", found("EINVAL"), facts.kernel),
            "copies cannot be seen",
            "boot a kernel built with CONFIG_BPF_SYSCALL, CONFIG_BPF_EVENTS, CONFIG_PERF_EVENTS \
             and CONFIG_DEBUG_INFO_BTF; if this one is, report it with the output of memtrace -vv",
        ),
        libc::ENOSYS => problem(
            "this kernel has no BPF, or no perf events",
            format!("{}; Linux {}", found("ENOSYS"), facts.kernel),
            "copies cannot be seen",
            "boot a kernel built with CONFIG_BPF_SYSCALL and CONFIG_PERF_EVENTS",
        ),
        libc::ENOENT | libc::ESRCH => problem(
            "this kernel lacks a tracepoint or type that memtrace's programs attach to",
            format!(
                "{}; Linux {}",
                found(if errno == libc::ENOENT {
                    "ENOENT"
                } else {
                    "ESRCH"
                }),
                facts.kernel
            ),
            "copies cannot be seen",
            "boot a kernel built with CONFIG_TRACEPOINTS and CONFIG_DEBUG_INFO_BTF",
        ),
        libc::EMFILE | libc::ENFILE => problem(
            "there are too many open files",
            found(if errno == libc::EMFILE {
                "EMFILE"
            } else {
                "ENFILE"
            }),
            "the programs cannot be attached on every CPU, which takes two files each",
            "raise the limit (ulimit -n 65536) and start memtrace again",
        ),
        libc::ENOMEM => problem(
            "the kernel has no memory for memtrace's tables",
            found("ENOMEM"),
            "copies cannot be recorded",
            "free memory, or raise the memory limit of the control group that memtrace runs in",
        ),
        _ => return None,
    };
    Some(explained)
}

/// The first of these that can be the reason: capabilities, lockdown, or somebody else's rule.
fn not_permitted(facts: &Facts, found: &str) -> Problem {
    if let Some(missing) = capabilities(facts) {
        return missing;
    }
    if let Some(mode) = facts.lockdown.as_deref().filter(|mode| *mode != "none") {
        return problem(
            "the kernel does not permit memtrace's programs",
            format!("{found}; lockdown is {mode}"),
            "copies cannot be seen",
            "lockdown should permit them, so look for a seccomp filter or security module first \
             (journalctl -k, the audit log); else boot with lockdown=none, which may take turning \
             off Secure Boot",
        );
    }
    problem(
        "the kernel does not permit memtrace's programs",
        format!("{found}; {}", paranoid(facts)),
        "copies cannot be seen",
        "a container's seccomp filter or a security module forbids bpf() or perf_event_open(): \
         run memtrace on the host, or the container with --privileged; the audit log says who it \
         was",
    )
}

fn paranoid(facts: &Facts) -> String {
    facts.perf_event_paranoid.map_or_else(
        || "kernel.perf_event_paranoid cannot be read".to_owned(),
        |level| format!("kernel.perf_event_paranoid is {level}"),
    )
}
