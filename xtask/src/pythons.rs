//! `cargo xtask pythons`: interpreters and Python programs that tests run, none of them in the
//! machine's own places.
//!
//! Other Debian suites have other versions of CPython, static and stripped. Their packages are
//! fetched with the machine's apt, but with lists, cache and status of our own and the mirror of
//! the machine's own sources, and unpacked into a folder that tests enter by chroot: the machine's
//! apt stays as it is. All is kept under `target/`.

pub mod free_threaded;
pub mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::setup::{Choice, Plan, Wanted};
use crate::{host, tools};

/// The folder under `target/`.
const FOLDER: &str = "pythons";

/// Get interpreters and Python programs that tests run.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    setup: Choice,
}

/// Gets what is missing, and says what is there.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.setup.shows(Wanted::Pythons)? {
        return Ok(ExitCode::SUCCESS);
    }
    let complete = args.setup.no_install || Plan::find(Wanted::Pythons)?.carry_out()?;
    let suites = suite::SUITES.iter();
    let parts = [("python-tools", tools::is_complete())]
        .into_iter()
        .chain(suites.map(|suite| (suite.name, suite.is_there())))
        .chain([(free_threaded::NAME, free_threaded::is_there())]);
    for (what, is_there) in parts {
        println!("{what}: {}", if is_there { "there" } else { "not there" });
    }
    if complete {
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

/// Where the interpreters are.
pub fn folder() -> Result<PathBuf> {
    Ok(host::target_directory()?.join(FOLDER))
}
