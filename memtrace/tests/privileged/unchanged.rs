//! Which copied pages were compared with what they were copied from, and why others were not.

use memtrace::profile::{NotCompared, Unchanged};

use crate::claims::traced;
use crate::support::{Redis, Report, Trace, privileged, requires, signal, tool};

/// A child that opens a library after its fork. Nothing has ended, and nothing is unmapped.
const OPENS: &str = r#"
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
int main(void) {
    if (fork() == 0) {
        if (!dlopen("libstdc++.so.6", RTLD_NOW)) abort();
        sleep(6);
        _exit(0);
    }
    sleep(6);
    return 0;
}
"#;

/// A parent that writes while one child has the original, and then forks another.
const PARENT_WRITES: &str = r"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
enum { PAGE = 4096, N = 200 };
static char *data;
__attribute__((noinline)) static void same(void) { for (int i = 0; i < N; i++) data[i * PAGE] = 1; }
__attribute__((noinline)) static void other(void) { for (int i = N; i < 2 * N; i++) data[i * PAGE] = 2; }
__attribute__((noinline)) static void again(void) { for (int i = 2 * N; i < 3 * N; i++) data[i * PAGE] = 1; }
static int waiting(void) {
    int child = fork();
    if (child == 0) { sleep(6); _exit(0); }
    return child;
}
int main(void) {
    data = aligned_alloc(PAGE, 3 * N * PAGE);
    memset(data, 1, 3 * N * PAGE);
    int first = waiting();
    same();
    other();
    /* This one has what the parent has by now, apart from what comes next. */
    waiting();
    again();
    sleep(6);
    return first;
}
";

/// Children that write to 20 pages, one after the other, live a little, and end.
const SHORT_LIVED: &str = r"
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum { PAGE = 4096, N = 10, CHILDREN = 20 };
static char *data;
__attribute__((noinline)) static void same(void) { for (int i = 0; i < N; i++) data[i * PAGE] = 1; }
__attribute__((noinline)) static void other(void) { for (int i = N; i < 2 * N; i++) data[i * PAGE] = 2; }
int main(void) {
    data = aligned_alloc(PAGE, 2 * N * PAGE);
    memset(data, 1, 2 * N * PAGE);
    for (int i = 0; i < CHILDREN; i++) {
        if (fork() == 0) {
            same();
            other();
            usleep(20000);
            _exit(0);
        }
        wait(0);
    }
    usleep(200000); // what the last one had is compared with this process
    return 0;
}
";

/// A child that shares its parent's memory, which no copy of it is compared with.
const SHARES: &str = r"
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum { SIZE = 200 * 4096 };
static char *data;
__attribute__((noinline)) static void work(void) { for (int i = 0; i < SIZE; i += 4096) data[i] = 1; }
int main(void) {
    data = aligned_alloc(4096, SIZE);
    memset(data, 1, SIZE);
    int other = fork();
    if (other == 0) { sleep(6); _exit(0); }
    int child = vfork();
    if (child == 0) { work(); usleep(20000); _exit(0); }
    waitpid(child, 0, 0);
    return 0;
}
";

/// What was found of all processes.
fn found(report: &Report) -> (Unchanged, NotCompared) {
    let found = report.0.totals.unchanged.expect("pages were compared");
    let not = found.not_compared.expect("this version says why");
    (found, not)
}

/// Pages of the call sites in a function: unchanged, compared, and compared with a child's.
fn sample_of(report: &Report, function: &str) -> (u64, u64, u64) {
    let sites = report.sites_in(function).filter_map(|site| site.unchanged);
    sites.fold((0, 0, 0), |(unchanged, compared, with_child), found| {
        (
            unchanged + found.unchanged_pages,
            compared + found.compared_pages,
            with_child + found.compared_with_child_pages,
        )
    })
}

/// Whether this kernel says that a process ends while its memory is there.
fn ends_are_said_in_time() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    let numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: Vec<u32> = numbers.take(2).collect();
    version >= vec![6, 16]
}

#[test]
fn a_library_that_a_child_opened_was_mapped_after_the_fork() {
    requires!(privileged());
    requires!(tool("gcc"));
    let (report, text) = traced(OPENS, &["--duration", "2s"]);
    let (_, all) = found(&report);
    assert_eq!((all.ended, all.unmapped), (0, 0), "{all:?}");
    let first = report.0.processes[0].pid;
    let child = report.0.processes.iter().find(|row| row.ppid == first);
    let found = child.and_then(|child| child.unchanged);
    let found = found.expect("a child that copied");
    let not = found.not_compared.expect("this version says why");
    assert!(not.mapped_after_fork >= 10, "{found:?}");
    assert_eq!(not.no_relative, 0, "{found:?}");
    assert!(text.contains("mapped after the fork"), "{text}");
    assert!(!text.contains("had ended"), "{text}");
}

#[test]
fn what_a_parent_copied_is_compared_with_its_child() {
    requires!(privileged());
    requires!(tool("gcc"));
    let (report, text) = traced(PARENT_WRITES, &["--duration", "2s"]);
    for (function, is_same) in [("same", true), ("other", false), ("again", true)] {
        // What wrote is told by the instruction once its code is known, and until then by what is
        // mapped: those are two call sites, each with a sample.
        let sites: Vec<_> = report.sites_in(function).collect();
        let pages: u64 = sites.iter().map(|site| site.pages).sum();
        assert_eq!(pages, 200, "{function}");
        for site in sites {
            let found = site.unchanged.expect("pages were compared");
            let compared = site.pages.min(64);
            let unchanged = if is_same { compared } else { 0 };
            assert_eq!(found.compared_pages, compared, "{site:?}");
            assert_eq!(found.unchanged_pages, unchanged, "{site:?}");
            assert_eq!(found.compared_with_child_pages, compared, "{site:?}");
        }
    }
    let (found, _) = found(&report);
    assert!(found.compared_with_child_pages >= 600, "{found:?}");
    assert!((400..=420).contains(&found.unchanged_pages), "{found:?}");
    assert!(text.contains("a child's"), "{text}");
}

#[test]
fn children_that_end_are_compared_in_time_where_the_kernel_lets_us() {
    requires!(privileged());
    requires!(tool("gcc"));
    let (report, text) = traced(SHORT_LIVED, &[]);
    report.is_lossless();
    let (found, not) = found(&report);
    if ends_are_said_in_time() {
        // All 400 pages, and a few on the stack and in the C library's data.
        let at_exit = found.compared_at_exit_pages;
        assert!((400..=600).contains(&at_exit), "{found:?}");
        assert_eq!(found.compared_pages, at_exit, "{found:?}");
        assert!((200..=300).contains(&found.unchanged_pages), "{found:?}");
        // There are several call sites, by line.
        let same = sample_of(&report, "same");
        assert!(same.1 >= 64 && same.0 == same.1, "{same:?} {found:?}");
        let other = sample_of(&report, "other");
        assert!(other.1 >= 64 && other.0 == 0, "{other:?} {found:?}");
    } else {
        assert_eq!(found.compared_pages, 0, "{found:?}");
        assert!(not.ended >= 400, "{found:?}");
        assert!(text.contains("had ended"), "{text}");
    }
}

#[test]
fn a_child_that_shares_its_parents_memory_is_not_compared_with_it() {
    requires!(privileged());
    requires!(tool("gcc"));
    let (report, _) = traced(SHARES, &[]);
    assert_eq!(sample_of(&report, "work"), (0, 0, 0));
    let (found, _) = found(&report);
    assert!(found.gone_pages >= 200, "{found:?}");
    assert_eq!(found.compared_at_exit_pages, 0, "{found:?}");
}

/// Writes a byte to 5,000 values of a Redis while its child saves them; returns what was found.
fn redis_saves_while(byte: char, mut redis: Redis) -> Unchanged {
    redis.ask("DEBUG POPULATE 100000 key 100", "+OK");
    let trace = Trace::attach(redis.pid());
    // The child goes on saving until it is ended here.
    redis.ask("CONFIG SET rdb-key-save-delay 10000", "+OK");
    redis.ask("BGSAVE", "+Background");
    for key in (0..100_000).step_by(20) {
        redis.ask(&format!("SETRANGE key:{key} 0 {byte}"), ":100");
    }
    let report = trace.finish();
    let server = redis.pid();
    let children = report.0.processes.iter().filter(|row| row.ppid == server);
    children
        .filter(|row| row.exited_at_s.is_none())
        .for_each(|row| signal(row.pid, libc::SIGKILL));
    let found = report.process(server).unchanged;
    found.expect("the server copied pages")
}

#[test]
fn redis_is_compared_with_its_child_while_that_saves() {
    requires!(privileged());
    // Values begin with `value:`, so this writes what is there.
    let redis = Redis::start(requires!(tool("redis-server")));
    let same = redis_saves_while('v', redis);
    assert!(same.compared_with_child_pages >= 1000, "{same:?}");
    let (unchanged, compared) = (same.unchanged_pages, same.compared_pages);
    assert!(10 * unchanged >= 9 * compared, "{same:?}");
    let redis = Redis::start(requires!(tool("redis-server")));
    let other = redis_saves_while('x', redis);
    assert!(other.compared_with_child_pages >= 1000, "{other:?}");
    // The rest are pages of what leads to the values: the same pointers are written there again.
    let (unchanged, compared) = (other.unchanged_pages, other.compared_pages);
    assert!(10 * unchanged <= 3 * compared, "{other:?}");
}
