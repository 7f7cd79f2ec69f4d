//! The `memtrace` command.

use std::process::ExitCode;

use log::LevelFilter;
use memtrace::{cli, helper, opener, run};

fn main() -> ExitCode {
    // Foreign files are parsed in a process of its own, which is this program again.
    if helper::is_requested() {
        return helper::serve();
    }
    // They are opened in another one, since a file system may not answer.
    if opener::is_requested() {
        return opener::serve();
    }
    let options = match cli::parse() {
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    let level = match options.verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    env_logger::Builder::new()
        // Libraries log warnings and errors only.
        .filter_level(LevelFilter::Warn)
        .filter_module("memtrace", level)
        .init();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("memtrace: {error:#}");
            ExitCode::from(2)
        }
    }
}
