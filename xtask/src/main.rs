//! What memtrace's developers run: `cargo xtask ...`.
//!
//! Each command is a module: [`ebpf`] builds the committed BPF object, [`test`] runs every test,
//! [`pythons`] gets what its tests of Python run, [`demo`] shows memtrace at work, [`story`] mends a
//! service with it, [`formats`] opens its reports in the tools that they are for, [`bench`] measures
//! it, [`dist`] makes what is given to users. They share [`host`] (this machine), [`setup`] (what tests
//! need of it), [`install`], [`tools`], [`tracing`] (a memtrace that runs) and [`progress`] (what long
//! work shows).

mod bench;
mod demo;
mod dist;
mod ebpf;
mod formats;
mod host;
mod install;
mod progress;
mod pythons;
mod schema;
mod setup;
mod story;
mod test;
mod tools;
mod tracing;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What memtrace's developers run.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the BPF object that is committed beside the loader
    Ebpf(ebpf::Args),
    /// Run every test, those that need root too
    Test(test::Args),
    /// Get interpreters and Python programs that tests run
    Pythons(pythons::Args),
    /// Trace a small prefork server of our own and show the report
    Demo(demo::Args),
    /// Find and mend copy-on-read in a service of uWSGI and Django, step by step
    Story(story::Args),
    /// Make completions, the manual, a Debian package and a tarball
    Dist(dist::Args),
    /// Write docs/report-schema.md from the comments on the report's types
    Schema(schema::Args),
    /// Open reports of every format in the tools that they are for
    Formats(formats::Args),
    /// Measure what tracing costs
    Bench(bench::Args),
    /// What the demo traces where there is no python3
    #[command(hide = true)]
    DemoServer(demo::native::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Ebpf(args) => ebpf::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Pythons(args) => pythons::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Story(args) => story::run(&args),
        Task::Dist(args) => dist::run(&args),
        Task::Schema(args) => schema::run(&args),
        Task::Formats(args) => formats::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::DemoServer(args) => demo::native::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;

    #[test]
    fn the_commands_arguments_fit_together() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
