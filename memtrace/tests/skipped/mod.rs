//! How a test says that it does not run: for the unit tests and for those of `tests/privileged`.

use std::io::Write as _;

/// The file in which `cargo xtask test` reads which tests skipped themselves.
const FILE: &str = "MEMTRACE_SKIPS";

/// Says on standard error that the running test, or a part of it, is skipped, and why: what this
/// machine lacks, and how to get it.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    // Not eprintln, which the test harness swallows when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
    if let Some(path) = std::env::var_os(FILE) {
        let line = format!("{name}\t{}\n", why.replace(['\n', '\t'], " "));
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        // At once, so that lines of tests that run at the same time stay whole.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
