//! `cargo xtask pythons`: interpreters and Python programs that tests run, none of them in the
//! machine's own places.
//!
//! Other Debian suites have other versions of CPython, static and stripped. Their packages are
//! fetched with the machine's apt, but with lists, cache and status of our own and the mirror of
//! the machine's own sources, and unpacked into a folder that tests enter by chroot: the machine's
//! apt stays as it is. All is kept under `target/`.

mod free_threaded;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::{host, tools};

/// The folder under `target/`.
const FOLDER: &str = "pythons";

/// Get interpreters and Python programs that tests run.
#[derive(clap::Args)]
pub struct Args {
    /// Get what is missing, without which this only says what is there
    #[arg(long)]
    install: bool,
    /// Also build CPython without the GIL from Debian's source, which takes minutes
    #[arg(long)]
    free_threaded: bool,
}

/// Says what is there, or gets it.
pub fn run(args: &Args) -> ExitCode {
    let mut complete = true;
    if args.install {
        complete = install(args.free_threaded);
    }
    for (what, there) in [("python-tools", tools::is_complete())]
        .into_iter()
        .chain(
            suite::SUITES
                .iter()
                .map(|suite| (suite.name, suite.is_there())),
        )
        .chain([(free_threaded::NAME, free_threaded::is_there())])
    {
        println!("{what}: {}", if there { "there" } else { "not there" });
    }
    if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Gets what is missing; whether all could be had. What could not is said, and the tests that need
/// it skip themselves.
pub fn install(free_threaded: bool) -> bool {
    let mut complete = said("Python programs", &tools::install());
    for suite in &suite::SUITES {
        complete &= said(suite.name, &suite.install());
    }
    if free_threaded {
        complete &= said(free_threaded::NAME, &free_threaded::install());
    }
    complete
}

/// Where the interpreters are.
pub fn folder() -> Result<PathBuf> {
    Ok(host::target_directory()?.join(FOLDER))
}

fn said(what: &str, result: &Result<()>) -> bool {
    if let Err(error) = result {
        eprintln!("xtask: {what}: {error:#}");
    }
    result.is_ok()
}
