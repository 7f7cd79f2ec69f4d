//! What the head of a report says of programs that nobody here has seen: small ones, each with
//! something that looks like something else.

use memtrace::profile::{CauseName, Phase};

use crate::support::{Report, Trace, privileged, requires, tool};

/// A worker that counts: data of its own, added to in place.
const COUNTS: &str = r"
#include <stdlib.h>
#include <unistd.h>
enum { N = 1 << 20 };
static unsigned *hits;
__attribute__((noinline)) static void count(unsigned key) { hits[key]++; }
int main(void) {
    hits = malloc(N * sizeof *hits);
    for (unsigned i = 0; i < N; i++) hits[i] = i;
    if (fork() == 0) {
        for (unsigned i = 0; i < N; i += 512) count(i);
        sleep(30);
        _exit(0);
    }
    sleep(30);
    return 0;
}
";

/// Children that write and then become something else, and one that only writes.
const BECOMES: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
enum { SIZE = 200 * 4096 };
static char *data;
__attribute__((noinline)) static void prepare(void) { for (int i = 0; i < SIZE; i += 4096) data[i] = 2; }
__attribute__((noinline)) static void work(void) { for (int i = 0; i < SIZE; i += 4096) data[i] = 3; }
int main(void) {
    data = aligned_alloc(4096, SIZE);
    memset(data, 1, SIZE);
    for (int i = 0; i < 3; i++) {
        if (fork() == 0) {
            prepare();
            execl("/bin/true", "true", (char *)0);
            _exit(1);
        }
        wait(0);
    }
    if (fork() == 0) {
        work();
        _exit(0);
    }
    wait(0);
    return 0;
}
"#;

/// The report of a program in C, traced from its start, and the same as text in one line: where lines
/// end depends on the figures.
pub fn traced(source: &str, options: &[&str]) -> (Report, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, program, text) = (path("program.c"), path("program"), path("report.txt"));
    std::fs::write(&file, source).expect("the source is written");
    let mut compiler = tool("gcc").expect("it was asked for");
    let status = compiler.args(["-O1", "-g", "-o", &program, &file]).status();
    assert!(status.expect("gcc runs").success());
    let command = ["--output", &text]
        .into_iter()
        .chain(options.iter().copied());
    let report = Trace::with(command.chain(["--", &program])).report();
    let text = std::fs::read_to_string(text).expect("the text was written");
    let words: Vec<&str> = text.split_whitespace().collect();
    (report, words.join(" "))
}

#[test]
fn a_counter_of_the_programs_own_is_no_reference_count() {
    requires!(privileged());
    requires!(tool("gcc"));
    let (report, text) = traced(COUNTS, &["--duration", "1500ms"]);
    let sites: Vec<_> = report.sites_in("count").collect();
    let pages: u64 = sites.iter().map(|site| site.pages).sum();
    // The allocation's header shifts the counters, so the last page is another one.
    assert!((1023..=1025).contains(&pages), "{sites:?}");
    // A few may be copied before the code is known.
    let site = sites.iter().max_by_key(|site| site.pages);
    let site = site.expect("pages were copied there");
    assert_eq!(site.cause, CauseName::Refcount);
    let found = site.unchanged.expect("it was compared");
    assert_eq!((found.unchanged_pages, found.compared_pages), (0, 64));
    assert!(text.contains("was counted in place"), "{text}");
    assert!(!text.contains("of what was copied was only read"), "{text}");
}

#[test]
fn what_is_copied_between_fork_and_exec_has_its_phase() {
    requires!(privileged());
    requires!(tool("gcc"));
    let (report, text) = traced(BECOMES, &[]);
    for (function, pages, phase) in [
        ("prepare", 600, Phase::BeforeExec),
        ("work", 200, Phase::Run),
    ] {
        let sites: Vec<_> = report.sites_in(function).collect();
        let copied: u64 = sites.iter().map(|site| site.pages).sum();
        assert_eq!(copied, pages, "{function}: {sites:?}");
        assert!(sites.iter().all(|site| site.phase == phase), "{sites:?}");
    }
    assert!(text.contains("was copied between fork and exec"), "{text}");
}
