//! `cargo xtask dist`: what is given to those who use memtrace, in `target/dist/`.
//!
//! [`describe`] writes what follows from the command line: completions and [`manual`] pages.
//! [`deb`] makes a package for Debian of them and of the program, [`tarball`] an archive for any
//! distribution. [`check`] tries what was made.

mod check;
mod deb;
mod describe;
mod manual;
mod tarball;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::host;
use crate::install::{self, Step};
use crate::progress::Progress;

/// The file of `target/xtask/` that keeps what the commands print.
const LOG: &str = "dist";

/// Make completions, the manual, a Debian package and a tarball, in target/dist/
#[derive(clap::Args)]
pub struct Args {
    /// Try what was made: lintian, the shells, man, and a short trace with each program
    #[arg(long)]
    check: bool,
    /// Install what is missing: Debian packages, and cargo-deb into target/
    #[arg(long)]
    install: bool,
}

/// What there is to give.
struct Made {
    /// Completions of shells.
    completions: describe::Completions,
    /// Pages of the manual.
    pages: Vec<PathBuf>,
    /// The package for Debian.
    package: PathBuf,
    /// The archive.
    tarball: PathBuf,
}

/// Makes everything, and tries it.
pub fn run(args: &Args) -> Result<ExitCode> {
    prepare(args)?;
    let folder = host::target_directory()?.join("dist");
    if folder.exists() {
        // What an earlier version was made of must not be taken for this one's.
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let mut progress = Progress::new(LOG, 4)?;
    let (completions, pages) = progress.step("writing completions and the manual", |_| {
        Ok((describe::completions(&folder)?, describe::manual(&folder)?))
    })?;
    progress.step("building memtrace", |log| {
        log.run(&mut deb::build())?;
        log.run(&mut tarball::build())
    })?;
    let package = progress.step("making the Debian package", |log| {
        deb::make(&folder, &pages, log)
    })?;
    let tarball = progress.step("making the tarball", |log| {
        tarball::make(&folder, &completions, &pages, log)
    })?;
    drop(progress);
    let made = Made {
        completions,
        pages,
        package,
        tarball,
    };
    for file in [&made.package, &made.tarball] {
        let bytes = file.metadata()?.len();
        println!("{} {:.1} MB", file.display(), bytes as f64 / 1e6);
    }
    if args.check {
        check::run(&made)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing, or says how that is done.
fn prepare(args: &Args) -> Result<()> {
    let mut missing = deb::missing()?;
    missing.extend(tarball::missing()?);
    if args.check {
        missing.extend(install::apt_steps(&check::PACKAGES)?.unwrap_or_default());
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !args.install {
        let steps: &[Step] = &missing;
        bail!(
            "making packages needs more than is here. `cargo xtask dist --install` gets it, or, \
             by hand:\n{}",
            install::show_steps(steps)
        );
    }
    install::run_steps("dist-install", missing)
}

/// The version that is given.
fn version() -> String {
    let command = memtrace::cli::command();
    command.get_version().unwrap_or_default().to_owned()
}
