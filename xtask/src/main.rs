//! What memtrace's developers run: `cargo xtask ...`.
//!
//! Each command is a module: [`ebpf`] builds the committed BPF object.

mod ebpf;
mod host;

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
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Ebpf(args) => ebpf::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}
