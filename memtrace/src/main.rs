//! The `memtrace` command.

use std::io::Write as _;
use std::process::ExitCode;

use env_logger::Target;
use log::LevelFilter;
use memtrace::notices::Notices;
use memtrace::signals::Interrupted;
use memtrace::{Task, cli, compare, hear_signals, inspection, opener, run, show, signals};

fn main() -> ExitCode {
    // Foreign files are looked into in processes of their own, which are this program again.
    if let Some(kind) = inspection::requested() {
        // It has inherited what memtrace blocks.
        signals::restore();
        return inspection::serve(kind);
    }
    // They are opened in another one, since a file system may not answer.
    if opener::is_requested() {
        signals::restore();
        return opener::serve();
    }
    if let Err(error) = hear_signals() {
        complain(&format!(
            "cannot listen for signals, so Ctrl-C would lose the trace: {error}; see whether too \
             many files are open"
        ));
        return ExitCode::from(2);
    }
    let task = match cli::parse() {
        Ok(task) => task,
        Err(error) => {
            // clap begins with "error: ", as everything does that `complain` says.
            if error.use_stderr() {
                let _ = write!(std::io::stderr(), "memtrace: ");
            }
            error.exit()
        }
    };
    let verbosity = match &task {
        Task::Trace(options) => options.verbosity,
        Task::Diff(_) | Task::Report(_) => 0,
    };
    let level = match verbosity {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    env_logger::Builder::new()
        // Libraries log warnings and errors only.
        .filter_level(LevelFilter::Warn)
        .filter_module("memtrace", level)
        // A view may have the terminal.
        .target(Target::Pipe(Box::new(Notices)))
        .init();
    let done = match &task {
        Task::Trace(options) => run(options),
        Task::Diff(options) => compare(options),
        Task::Report(options) => show(options).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            if let Some(signal) = error.downcast_ref::<Interrupted>() {
                // Somebody wanted that.
                say(&format!("{error:#}"));
                return ExitCode::from(signal.exit_status());
            }
            complain(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Says what went wrong.
fn complain(error: &str) {
    say(&format!("error: {error}"));
}

/// Writes to standard error, which may be a terminal that has been closed.
fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "memtrace: {message}");
}
