//! Stacks have names, wherever the program is, and whether it still is.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::report::is;
use crate::support::{Fixture, Report, Trace, eventually, fixture, privileged, requires, tool};

/// Traces a fixture on the way `chain`, and checks the chain of calls.
fn shows_its_chain(mut fixture: Fixture) -> Report {
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    fixture.exit();
    report.is(&truth);
    let chain = ["chain_leaf", "chain_inner", "chain_middle", "chain_outer"];
    let mut pages = 0;
    for stack in report.sites_in("chain_leaf").flat_map(|site| &site.stacks) {
        // What is before the leaf was inlined into it.
        let leaf = stack.frames.iter().position(|frame| is(frame, chain[0]));
        let frames = &stack.frames[leaf.expect("it was looked for")..];
        for (frame, function) in frames.iter().zip(chain) {
            assert!(
                is(frame, function),
                "{function} is not in its place: {frames:#?}"
            );
            assert_eq!(frame.inlined, function == "chain_inner", "{frame:?}");
            let file = frame.file.as_deref().expect("its source file is known");
            assert!(file.ends_with("chain.rs"), "{frame:?}");
            assert!(frame.line.is_some(), "{frame:?}");
        }
        assert!(
            frames.len() > chain.len(),
            "the chain does not come from nowhere: {frames:#?}"
        );
        pages += stack.pages;
    }
    assert_eq!(pages, truth.copied);
    report
}

#[test]
fn a_known_chain_with_an_inlined_function_is_shown() {
    let fixture = requires!(Fixture::start(&["chain"]));
    let report = shows_its_chain(fixture);
    for site in report.sites_in("chain_leaf") {
        assert!(site.site.function.contains("chain_leaf"), "{:?}", site.site);
    }
}

/// Copies a program, in a process of its own: what is forked meanwhile by other tests would have the
/// file open for writing, and then it cannot be run.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

#[test]
fn a_deleted_program_is_symbolized() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("deleted");
    copy(fixture::path(), &program);
    let fixture = requires!(Fixture::run(Command::new(&program).arg("chain")));
    std::fs::remove_file(&program).expect("it was there");
    shows_its_chain(fixture);
}

/// A program that was deleted and replaced by another one must not be read from its path.
#[test]
fn a_replaced_program_is_symbolized_by_what_runs() {
    requires!(privileged());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("replaced");
    copy(fixture::path(), &program);
    let fixture = requires!(Fixture::run(Command::new(&program).arg("chain")));
    std::fs::remove_file(&program).expect("it was there");
    copy(Path::new("/bin/sh"), &program);
    shows_its_chain(fixture);
}

#[test]
fn a_program_in_another_mount_namespace_is_symbolized() {
    requires!(privileged());
    requires!(tool("unshare"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script =
        "mount -t tmpfs none \"$1\" && cp \"$2\" \"$1/elsewhere\" && exec \"$1/elsewhere\" chain";
    let fixture = requires!(Fixture::run(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .args([folder.path(), fixture::path()])
    ));
    assert!(
        !folder.path().join("elsewhere").exists(),
        "it is only there in its namespace"
    );
    shows_its_chain(fixture);
}

#[test]
fn a_program_in_a_chroot_is_symbolized() {
    requires!(privileged());
    requires!(tool("unshare"));
    let root = tempfile::tempdir().expect("a temporary folder");
    for file in needed_files() {
        let inside = root
            .path()
            .join(file.strip_prefix("/").expect("it is absolute"));
        std::fs::create_dir_all(inside.parent().expect("it is in a folder")).expect("a folder");
        copy(&file, &inside);
    }
    copy(fixture::path(), &root.path().join("inside"));
    std::fs::create_dir(root.path().join("proc")).expect("a folder");
    let script = "mount -t proc proc \"$1/proc\" && exec chroot \"$1\" /inside chain";
    let fixture = requires!(Fixture::run(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(root.path())
    ));
    shows_its_chain(fixture);
}

/// The shared libraries of the fixture and its loader, as this very test has them mapped or ldd
/// tells.
fn needed_files() -> Vec<std::path::PathBuf> {
    let output = Command::new("ldd")
        .arg(fixture::path())
        .output()
        .expect("ldd runs");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(Path::new)
        .filter(|word| word.is_absolute() && word.exists())
        .map(Path::to_owned)
        .collect()
}

#[test]
fn a_process_that_has_exited_is_symbolized() {
    let mut fixture = requires!(Fixture::start(&["children", "--children", "3"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    let report = trace.finish();
    report.is(&truth);
    let mut sites = report.sites_in("dirty_in_short_lived").peekable();
    assert!(sites.peek().is_some());
    for site in sites {
        assert!(
            site.site.function.contains("dirty_in_short_lived"),
            "{:?}",
            site.site
        );
        let file = site.site.file.as_deref().expect("its source file is known");
        assert!(file.ends_with("dirty.rs"), "{file}");
    }
}

/// A program that was stripped, and exports two functions: what is beside them is not called like
/// them. It waits until its files are known.
const STRIPPED: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum { PAGES = 500, PAGE = 4096 };
static char *data;
__attribute__((noinline)) static void hidden(void) {
    for (volatile int n = 0; n < PAGES; n++) data[n * PAGE] = 1;
}
__attribute__((noinline)) void exported(void) {
    hidden();
    for (int n = PAGES; n < 2 * PAGES; n++) snprintf(data + n * PAGE, 100, "page %d", n);
}
__attribute__((noinline)) static void after(void) {
    for (volatile int n = 2 * PAGES; n < 3 * PAGES; n++) data[n * PAGE] = 1;
}
int main(void) {
    data = aligned_alloc(PAGE, 3 * PAGES * PAGE);
    memset(data, 2, 3 * PAGES * PAGE);
    sleep(2);
    if (fork() == 0) {
        exported();
        after();
        _exit(0);
    }
    wait(NULL);
    return 0;
}
"#;

#[test]
fn a_stripped_function_is_shown_with_its_caller_and_by_no_other_name() {
    requires!(privileged());
    requires!(tool("gcc"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, program) = (folder.path().join("made.c"), folder.path().join("made"));
    std::fs::write(&source, STRIPPED).expect("it can be written");
    let compiler = Command::new("gcc")
        .args(["-O1", "-s", "-rdynamic", "-o"])
        .args([&program, &source])
        .status()
        .expect("gcc runs");
    assert!(compiler.success());
    let report = Trace::with(["--".as_ref(), program.as_os_str()]).report();
    let pages = |function: &str, caller: Option<&str>| -> u64 {
        let sites = report.0.call_sites.iter();
        let is_meant = |site: &&memtrace::profile::CallSite| {
            let by = site.caller.as_ref().map(|caller| &*caller.function);
            site.site.function.starts_with(function) && by == caller
        };
        sites.filter(is_meant).map(|site| site.pages).sum()
    };
    for (function, caller) in [
        ("made+0x", Some("exported")),
        // What snprintf writes is its caller's.
        ("exported", None),
        ("made+0x", Some("main")),
    ] {
        let pages = pages(function, caller);
        assert!(
            (500..520).contains(&pages),
            "{pages} pages of {function} in {caller:?}\n{:#?}",
            report
                .0
                .call_sites
                .iter()
                .map(|site| &site.site)
                .collect::<Vec<_>>()
        );
    }
}

/// What the kernel says of the processes of memtrace that were started with one argument like this.
fn servants(memtrace: u32, begins: &str) -> BTreeMap<String, String> {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{memtrace}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let children = tasks.flat_map(|task| {
        let children = read(format!("{}/children", task.path().display()));
        let pids = children.split_whitespace().map(str::to_owned);
        pids.collect::<Vec<_>>()
    });
    let servants = children.filter_map(|pid| {
        let command = read(format!("/proc/{pid}/cmdline"));
        let argument = command.split('\0').nth(1)?.to_owned();
        let status = read(format!("/proc/{pid}/status"));
        argument.starts_with(begins).then_some((argument, status))
    });
    servants.collect()
}

#[test]
fn who_looks_into_files_may_do_nothing_else() {
    requires!(privileged());
    let mut fixture = requires!(Fixture::start(&["chain"]));
    let trace = Trace::attach(fixture.pid);
    fixture.go();
    let truth = fixture.truth();
    for kind in ["__facts", "__tables", "__symbolize"] {
        // Functions are named, and whoever does that is started, when there is time for it.
        let status = eventually(kind, || {
            let mut found = servants(trace.pid(), kind);
            let status = found.remove(kind)?;
            // It answers only when it has given up everything.
            status.contains("Seccomp:\t2").then_some(status)
        });
        let of = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{status}")).trim()
        };
        for (name, expected) in [
            ("Uid", "65534\t65534\t65534\t65534"),
            ("Gid", "65534\t65534\t65534\t65534"),
            ("Groups", ""),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("NoNewPrivs", "1"),
        ] {
            assert_eq!(of(name), expected, "{kind} {name}");
        }
    }
    let report = trace.finish();
    fixture.exit();
    report.is(&truth);
}
