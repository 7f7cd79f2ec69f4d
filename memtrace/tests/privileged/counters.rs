//! Reference counts outside of CPython, told by the instruction that writes them.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use memtrace::profile::{CauseEvidence, CauseName};

use crate::support::{Report, Trace, privileged, requires, tool};

/// A child takes and gives back a reference to each of its parent's objects. Sleeps a little, so
/// that what identifies it is read while it lives.
const PERL: &str = r"
my @objects = map { { number => $_ } } 1 .. 60000;
my $pid = fork // die;
if ($pid == 0) {
    sub touch { my $object = $_[0]; return }
    touch($_) for @objects;
    select undef, undef, undef, 0.2;
    require POSIX;
    POSIX::_exit(0);
}
waitpid $pid, 0;
";

/// A child copies and drops a shared pointer to each of its parent's objects, one object to a cache
/// line.
const CPP: &str = r#"
#include <memory>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

struct Wide { long words[8]; };

__attribute__((noinline)) void take(const std::shared_ptr<Wide> &object)
{
    std::shared_ptr<Wide> copy = object;
    __asm__ volatile("" : : "r"(copy.get()) : "memory");
}

int main()
{
    std::vector<std::shared_ptr<Wide>> objects;
    for (int n = 0; n < 100000; n++)
        objects.push_back(std::make_shared<Wide>());
    pid_t child = fork();
    if (child == 0) {
        for (const auto &object : objects)
            take(object);
        usleep(200000);
        _exit(0);
    }
    waitpid(child, nullptr, 0);
}
"#;

/// Traces a program from its start; returns the share of its child's copies that are reference
/// counts by their instruction.
fn counted(program: &Path, arguments: &[&str]) -> f64 {
    let command = ["--".as_ref(), program.as_os_str()];
    let arguments = arguments.iter().map(OsStr::new);
    let report = Trace::with(command.into_iter().chain(arguments)).report();
    let Report(profile) = &report;
    let child = profile
        .processes
        .iter()
        .find(|process| process.forked_at_s.is_some())
        .expect("the child was traced");
    assert!(child.copied_pages > 1000, "{} pages", child.copied_pages);
    let sites = profile.call_sites.iter().filter(|site| {
        site.cause == CauseName::Refcount && site.evidence == Some(CauseEvidence::Instruction)
    });
    let pages: u64 = sites
        .filter_map(|site| site.processes.get(&child.pid))
        .sum();
    pages as f64 / child.copied_pages as f64
}

#[test]
fn perl_counts_references() {
    requires!(privileged());
    requires!(tool("perl"));
    let share = counted("perl".as_ref(), &["-e", PERL]);
    assert!(share > 0.7, "{share}");
}

#[test]
fn shared_pointers_count_references() {
    requires!(privileged());
    requires!(tool("c++"));
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let source = folder.path().join("counted.cc");
    let program = folder.path().join("counted");
    std::fs::write(&source, CPP).expect("a source file");
    let built = Command::new("c++")
        .args(["-O2", "-pthread", "-o"])
        .args([&program, &source])
        .status()
        .expect("the compiler runs");
    assert!(built.success());
    let share = counted(&program, &[]);
    assert!(share > 0.9, "{share}");
}
