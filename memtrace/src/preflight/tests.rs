use std::io;
use std::time::Duration;

use anyhow::Context as _;

use super::facts::Own;
use super::*;
use crate::options::{Backend, FileReport, Format, Output, Python, Target, Unwind};
use crate::probe::backend::Backend as _;
use crate::probe::backend::tracepoint::Tracepoint;

const ALL_CAPABILITIES: u64 = (1 << 41) - 1;

/// A machine and user that permit everything, and one process.
fn good() -> Facts {
    Facts {
        arch: "x86_64".to_owned(),
        kernel: "6.12.41-cloud-amd64".to_owned(),
        uid: 0,
        capabilities: ALL_CAPABILITIES,
        initial_user_namespace: Some(true),
        initial_pid_namespace: Some(true),
        btf: true,
        lockdown: Some("none".to_owned()),
        perf_event_paranoid: Some(2),
        has_loop: true,
        own: Own {
            pid: 500,
            ancestors: vec![400, 1],
        },
        pids: vec![(4242, PidState::Running { uid: 33 })],
    }
}

fn trace() -> TraceOptions {
    TraceOptions {
        target: Target::Attach {
            pids: vec![4242],
            load: None,
        },
        follow: true,
        duration: Some(Duration::from_secs(1)),
        backend: Backend::Auto,
        unwind: Unwind::FramePointers,
        python: Python::Auto,
        user: None,
        arguments: true,
        talk: crate::options::Talk::Progress,
        unchanged: true,
        memory: None,
    }
}

/// What is wrong with the machine, including what the backend that needs least lacks.
fn of_machine(facts: &Facts) -> Vec<Problem> {
    let mut problems = Tracepoint.missing(facts);
    problems.extend(machine_problems(facts));
    problems
}

fn only(problems: &[Problem]) -> String {
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

fn machine(change: impl FnOnce(&mut Facts)) -> String {
    let mut facts = good();
    change(&mut facts);
    only(&of_machine(&facts))
}

fn pid(pid: u32, state: PidState) -> String {
    only(&pid_problems(&Facts {
        pids: vec![(pid, state)],
        ..good()
    }))
}

#[test]
fn a_good_machine_has_no_problem_and_nothing_to_note() {
    assert_eq!(of_machine(&good()), []);
    assert_eq!(pid_problems(&good()), []);
    assert_eq!(notes(&good(), &trace()), Vec::<String>::new());
    let unknown = Facts {
        kernel: "next".to_owned(),
        initial_user_namespace: None,
        initial_pid_namespace: None,
        ..good()
    };
    assert_eq!(of_machine(&unknown), []);
}

#[test]
fn each_problem_of_the_machine_has_its_own_message() {
    insta::assert_snapshot!(machine(|f| f.arch = "aarch64".into()), @"
    this machine's architecture is not supported
      found:  aarch64; needed: x86_64
      effect: copies cannot be seen: only x86-64 kernels have the tracepoints of page faults
      remedy: run memtrace on an x86-64 machine
    ");
    insta::assert_snapshot!(machine(|f| f.kernel = "6.5.13-generic".into()), @"
    this kernel is too old
      found:  Linux 6.5.13-generic; needed: 6.6 or newer
      effect: copies of file pages cannot be told from others: older kernels batch the counters that show it
      remedy: boot a kernel 6.6 or newer
    ");
    insta::assert_snapshot!(machine(|f| f.btf = false), @"
    the kernel does not describe its types (BTF)
      found:  no /sys/kernel/btf/vmlinux; needed: that file
      effect: memtrace's programs cannot be fitted to this kernel
      remedy: boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of the large distributions are; in a container, mount /sys
    ");
    insta::assert_snapshot!(machine(|f| f.initial_user_namespace = Some(false)), @"
    memtrace runs in a user namespace
      found:  root and capabilities of a user namespace; needed: those of the host
      effect: the kernel permits tracing only to the host's root
      remedy: run memtrace on the host, or in a container without a user namespace of its own
    ");
    insta::assert_snapshot!(machine(|f| f.initial_pid_namespace = Some(false)), @"
    memtrace runs in a PID namespace
      found:  the process ids of a container; needed: those of the host
      effect: the kernel reports the host's process ids, which mean other processes here
      remedy: run memtrace on the host, or in a container with its process ids (docker run --pid=host, hostPID: true)
    ");
    insta::assert_snapshot!(machine(|f| (f.uid, f.capabilities) = (1000, 0)), @"
    CAP_BPF and CAP_PERFMON are missing
      found:  user 1000 with no capability of use; needed: root, or CAP_BPF and CAP_PERFMON
      effect: without them memtrace cannot load programs into the kernel and cannot attach programs to page faults
      remedy: run the same command with sudo, or as root
    ");
    insta::assert_snapshot!(machine(|f| (f.uid, f.capabilities) = (1000, 1 << 39 | 1 << 19)), @"
    CAP_PERFMON is missing
      found:  user 1000 with CAP_BPF, CAP_SYS_PTRACE; needed: root, or CAP_BPF and CAP_PERFMON
      effect: without it memtrace cannot attach programs to page faults
      remedy: run the same command with sudo, or as root
    ");
}

#[test]
fn cap_sys_admin_stands_for_what_was_split_off_from_it() {
    let facts = Facts {
        capabilities: 1 << 21,
        ..good()
    };
    assert_eq!(of_machine(&facts), []);
    assert!(facts.can(Capability::CheckpointRestore));
    assert!(!facts.can(Capability::SysPtrace));
}

#[test]
fn each_problem_of_a_process_has_its_own_message() {
    insta::assert_snapshot!(pid(500, PidState::Running { uid: 0 }), @"
    process 500 is memtrace itself
      found:  memtrace's own process id; needed: another process
      effect: tracing its own copies would make memtrace copy more of them
      remedy: name the process that you want to see
    ");
    insta::assert_snapshot!(pid(77, PidState::Missing), @"
    there is no process 77
      found:  no /proc/77; needed: a running process
      effect: there is nothing to trace; it may have ended already
      remedy: look it up again, such as with pgrep or ps
    ");
    insta::assert_snapshot!(pid(78, PidState::ThreadOf { process: 70 }), @"
    78 is a thread, not a process
      found:  a thread of process 70; needed: a running process
      effect: copies are counted by process: threads share their memory
      remedy: use --pid 70
    ");
    insta::assert_snapshot!(pid(2, PidState::KernelThread { comm: "kthreadd".into() }), @"
    process 2 is a kernel thread
      found:  [kthreadd]; needed: a running process
      effect: it has no memory of its own, so it copies nothing
      remedy: name the program that you want to see
    ");
    insta::assert_snapshot!(pid(79, PidState::Zombie { comm: "uwsgi".into() }), @"
    process 79 has ended
      found:  a zombie, uwsgi, which its parent has not waited for; needed: a running process
      effect: it has no memory any more, so it copies nothing
      remedy: look up the process that took its place
    ");
    insta::assert_snapshot!(pid(80, PidState::Unreadable { why: "permission denied".into() }), @"
    process 80 cannot be looked at
      found:  /proc/80: permission denied; needed: read access
      effect: its memory map cannot be read, so its functions cannot be named
      remedy: run memtrace as root; where /proc is mounted with hidepid, remount it without
    ");
}

/// What is said of a report to `path`.
fn refused(path: impl Into<PathBuf>) -> String {
    let output = Output {
        files: vec![FileReport {
            path: path.into(),
            format: Format::JSON,
        }],
        ..Output::plain()
    };
    let refused = Destinations::open(&output, true).map(drop).unwrap_err();
    let (path, why) = &refused[0];
    let effect = "the figures of the trace would be lost";
    outputs::output_problem(path.as_ref(), why, effect).to_string()
}

#[test]
fn a_report_that_cannot_be_written_is_known_before_the_trace() {
    insta::assert_snapshot!(refused("/no/such/directory/report.json"), @"
    no report can be written to '/no/such/directory/report.json'
      found:  there is no such directory; needed: a directory that can be written to
      effect: the figures of the trace would be lost
      remedy: name another file, or make its directory
    ");
    insta::assert_snapshot!(refused("/"), @"
    no report can be written to '/'
      found:  it is a directory; needed: the name of a file
      effect: the figures of the trace would be lost
      remedy: name a file in it: '/memtrace.json'
    ");
    insta::assert_snapshot!(refused("/dev/full"), @"
    no report can be written to '/dev/full'
      found:  it accepts nothing: No space left on device (os error 28); needed: one that can be written to
      effect: the figures of the trace would be lost
      remedy: name another file
    ");
    let long = refused(format!("/tmp/{}.json", "n".repeat(300)));
    assert!(
        long.contains("found:  the name has 305 bytes, more than the file system permits; needed:"),
        "{long}"
    );
}

/// What is said of a command.
fn cannot_run(program: &str) -> String {
    let command = vec![program.into()];
    let problem = outputs::command_problem(&Target::Launch { command });
    problem.unwrap().to_string()
}

#[test]
fn a_command_that_cannot_be_run_is_known_before_the_trace() {
    insta::assert_snapshot!(cannot_run("no-such-program-anywhere"), @"
    `no-such-program-anywhere` cannot be run
      found:  it is in no folder of PATH; needed: a program
      effect: there is nothing to trace
      remedy: check its name, install it, or give its path: ./NAME for one in this folder
    ");
    insta::assert_snapshot!(cannot_run("/etc/passwd"), @"
    `/etc/passwd` cannot be run
      found:  it may not be executed; needed: a program
      effect: there is nothing to trace
      remedy: make it executable (chmod +x), or run it by its interpreter: -- python3 FILE
    ");
    let load = Target::Attach {
        pids: vec![1],
        load: Some(vec!["/no/wrk".into()]),
    };
    insta::assert_snapshot!(outputs::command_problem(&load).unwrap(), @"
    `/no/wrk` cannot be run
      found:  there is no such file; needed: a program
      effect: there is no load, which the trace would last for
      remedy: check its name, or install it
    ");
}

#[test]
fn what_limits_the_report_is_noted() {
    let facts = Facts {
        capabilities: 1 << 39 | 1 << 38,
        own: Own {
            ancestors: vec![4242, 1],
            ..good().own
        },
        ..good()
    };
    assert_eq!(of_machine(&facts), []);
    insta::assert_snapshot!(notes(&facts, &trace()).join("\n"), @"
    CAP_SYS_PTRACE is missing, so the memory of other users' processes cannot be read, nor, on some kernels, their memory maps: Python's frames and types stay unknown, and functions may have no names. Run memtrace as root to see them.
    CAP_DAC_READ_SEARCH is missing, so the memory of other users' processes cannot be read, nor files that only their owners may read: Python's frames and types stay unknown, and functions in those files without names. Run memtrace as root to see them.
    CAP_CHECKPOINT_RESTORE is missing, so files that were deleted or that are in containers cannot be opened: functions in them stay without names. Run memtrace as root to see them.
    Process 4242 is an ancestor of memtrace, so memtrace's own copies are in the report. Use --no-follow, or name a process below it.
    ");
    let trace = TraceOptions {
        follow: false,
        ..trace()
    };
    assert_eq!(
        notes(
            &Facts {
                capabilities: ALL_CAPABILITIES,
                ..facts
            },
            &trace
        )
        .len(),
        0
    );
}

#[test]
fn all_problems_are_told_at_once() {
    let facts = Facts {
        btf: false,
        kernel: "5.10.0".into(),
        ..good()
    };
    let text = Problems(of_machine(&facts)).to_string();
    assert!(text.contains("too old") && text.contains("(BTF)"));
    assert_eq!(text.matches("remedy:").count(), 2);
}

fn explained(errno: i32, change: impl FnOnce(&mut Facts)) -> Option<String> {
    let mut facts = good();
    change(&mut facts);
    let error: anyhow::Result<()> =
        Err(io::Error::from_raw_os_error(errno)).context("cannot load `page_fault_user`");
    explain_load_error(&error.unwrap_err(), &facts).map(|problem| problem.to_string())
}

#[test]
fn what_the_kernel_refuses_is_explained() {
    insta::assert_snapshot!(explained(libc::EPERM, |f| f.capabilities = 1 << 38).unwrap(), @"
    CAP_BPF is missing
      found:  user 0 with CAP_PERFMON; needed: root, or CAP_BPF and CAP_PERFMON
      effect: without it memtrace cannot load programs into the kernel
      remedy: run the same command with sudo, or as root
    ");
    insta::assert_snapshot!(
        explained(libc::EPERM, |f| f.lockdown = Some("confidentiality".into())).unwrap(),
        @"
    the kernel does not permit memtrace's programs
      found:  EPERM from the kernel: cannot load `page_fault_user`; lockdown is confidentiality
      effect: copies cannot be seen
      remedy: lockdown should permit them, so look for a seccomp filter or security module first (journalctl -k, the audit log); else boot with lockdown=none, which may take turning off Secure Boot
    "
    );
    insta::assert_snapshot!(explained(libc::EPERM, |_| ()).unwrap(), @"
    the kernel does not permit memtrace's programs
      found:  EPERM from the kernel: cannot load `page_fault_user`; kernel.perf_event_paranoid is 2
      effect: copies cannot be seen
      remedy: a container's seccomp filter or a security module forbids bpf() or perf_event_open(): run memtrace on the host, or the container with --privileged; the audit log says who it was
    ");
    insta::assert_snapshot!(
        explained(libc::EACCES, |f| f.perf_event_paranoid = Some(4)).unwrap(),
        @"
    the kernel's verifier refused memtrace's programs, or perf events are forbidden
      found:  EACCES from the kernel: cannot load `page_fault_user`; kernel.perf_event_paranoid is 4
      effect: copies cannot be seen
      remedy: run as root; if that is so already, report this with the output of memtrace -vv: the programs should pass on every supported kernel
    "
    );
    insta::assert_snapshot!(explained(libc::EINVAL, |_| ()).unwrap(), @"
    this kernel does not know something that memtrace's programs use
      found:  EINVAL from the kernel: cannot load `page_fault_user`; Linux 6.12.41-cloud-amd64
      effect: copies cannot be seen
      remedy: boot a kernel built with CONFIG_BPF_SYSCALL, CONFIG_BPF_EVENTS, CONFIG_PERF_EVENTS and CONFIG_DEBUG_INFO_BTF; if this one is, report it with the output of memtrace -vv
    ");
    insta::assert_snapshot!(explained(libc::ENOSYS, |_| ()).unwrap(), @"
    this kernel has no BPF, or no perf events
      found:  ENOSYS from the kernel: cannot load `page_fault_user`; Linux 6.12.41-cloud-amd64
      effect: copies cannot be seen
      remedy: boot a kernel built with CONFIG_BPF_SYSCALL and CONFIG_PERF_EVENTS
    ");
    insta::assert_snapshot!(explained(libc::ENOENT, |_| ()).unwrap(), @"
    this kernel lacks a tracepoint or type that memtrace's programs attach to
      found:  ENOENT from the kernel: cannot load `page_fault_user`; Linux 6.12.41-cloud-amd64
      effect: copies cannot be seen
      remedy: boot a kernel built with CONFIG_TRACEPOINTS and CONFIG_DEBUG_INFO_BTF
    ");
    insta::assert_snapshot!(explained(libc::EMFILE, |_| ()).unwrap(), @"
    there are too many open files
      found:  EMFILE from the kernel: cannot load `page_fault_user`
      effect: the programs cannot be attached on every CPU, which takes two files each
      remedy: raise the limit (ulimit -n 65536) and start memtrace again
    ");
    insta::assert_snapshot!(explained(libc::ENOMEM, |_| ()).unwrap(), @"
    the kernel has no memory for memtrace's tables
      found:  ENOMEM from the kernel: cannot load `page_fault_user`
      effect: copies cannot be recorded
      remedy: free memory, or raise the memory limit of the control group that memtrace runs in
    ");
    assert_eq!(explained(libc::EEXIST, |_| ()), None);
}
