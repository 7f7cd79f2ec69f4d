//! Limits that are met are named: more processes than there is room for, and processes that the
//! kernel does not show.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use memtrace_common::process::MAX_PROCESSES;
use tempfile::TempDir;

use crate::support::{Trace, Why, privileged, requires, skip, tool, trace};

/// Processes beyond the limit.
const BEYOND: u64 = 200;

/// Memory of the kernel for one process, with room to spare.
const PROCESS_BYTES: u64 = 64 << 10;

/// Processes that there may be besides.
const OTHER_PROCESSES: u64 = 8192;

/// Makes as many processes as it is told, which share its memory and wait until it ends.
const MANY: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK = 4096 };

static int wait_for_the_end(void *nothing) {
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    for (;;)
        syscall(SYS_pause);
    return nothing != 0;
}

int main(int count, char **arguments) {
    long many = count > 1 ? atol(arguments[1]) : 0;
    char *stacks = mmap(0, many * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long made = 0;
    while (made < many
           && clone(wait_for_the_end, stacks + (made + 1) * STACK, CLONE_VM | SIGCHLD, 0) > 0)
        made++;
    printf("%ld\n", made);
    fflush(stdout);
    getchar();
    return 0;
}
"#;

/// A process with many children.
struct Many {
    parent: Child,
    _folder: TempDir,
}

impl Many {
    /// With `children` children; where the machine does not permit so many, why.
    fn start(children: u64) -> Result<Self, Why> {
        privileged()?;
        tool("gcc")?;
        has_room(children)?;
        let folder = TempDir::new().expect("a temporary folder");
        let (source, program) = (folder.path().join("many.c"), folder.path().join("many"));
        fs::write(&source, MANY).expect("a source file");
        let built = Command::new("gcc")
            .args(["-O1", "-o"])
            .args([&program, &source])
            .status()
            .expect("the compiler runs");
        assert!(built.success());
        let mut parent = Command::new(&program)
            .arg(children.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut made = String::new();
        let output = parent.stdout.as_mut().expect("it is piped");
        BufReader::new(output)
            .read_line(&mut made)
            .expect("it tells how many");
        let many = Self {
            parent,
            _folder: folder,
        };
        if made.trim() == children.to_string() {
            Ok(many)
        } else {
            let made = made.trim();
            Err(Why::Unavailable(format!(
                "only {made} of {children} processes can be made here"
            )))
        }
    }

    fn pid(&self) -> u32 {
        self.parent.id()
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

/// Whether this machine has room for so many processes more.
fn has_room(processes: u64) -> Result<(), Why> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let pids: u64 = read("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(0);
    if pids < processes + OTHER_PROCESSES {
        let why = format!("kernel.pid_max is {pids}, which is too few for {processes} processes");
        return Err(Why::Unavailable(why));
    }
    let meminfo = read("/proc/meminfo");
    let available = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    match available {
        Some(kib) if kib << 10 > processes * PROCESS_BYTES => Ok(()),
        _ => Err(Why::Unavailable(format!(
            "there is not enough memory for {processes} processes"
        ))),
    }
}

#[test]
fn more_processes_than_there_is_room_for_are_a_limit_with_a_name() {
    let children = u64::from(MAX_PROCESSES) - 1 + BEYOND;
    let many = requires!(Many::start(children));
    let trace = Trace::attach(many.pid());
    let messages = trace.messages();
    let limit = format!("More than {MAX_PROCESSES} processes");
    assert!(messages.contains(&limit), "{messages}");
    let report = trace.finish();
    assert_eq!(report.0.totals.lost.processes, BEYOND, "each counted once");
    assert_eq!(report.0.processes.len(), MAX_PROCESSES as usize);
    assert!(report.0.warnings.iter().any(|text| text.contains(&limit)));
}

#[test]
fn a_process_that_the_kernel_does_not_show_is_named() {
    requires!(privileged());
    // Some kernels hide the first process from BPF's iterators; the others trace it.
    let output = Command::new(trace::path())
        .args(["--pid", "1", "--duration", "100ms"])
        .output()
        .expect("memtrace runs");
    let message = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let shown = "this kernel shows process 1 to BPF programs";
        return skip(&Why::Unavailable(shown.to_owned()));
    }
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("does not show process 1"), "{message}");
}

#[test]
fn more_than_a_thousand_processes_can_be_named() {
    const NAMED: u64 = 1500;
    let many = requires!(Many::start(NAMED));
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", many.pid()));
    let Ok(children) = children else {
        let why = "the kernel does not say which children a process has";
        return skip(&Why::Unavailable(why.to_owned()));
    };
    let pids: Vec<&str> = children.split_whitespace().collect();
    assert_eq!(pids.len() as u64, NAMED);
    let trace = Trace::with(["--pid", &pids.join(",")]);
    let report = trace.finish();
    assert_eq!(report.0.processes.len() as u64, NAMED);
}
