//! memtrace: which code paths make the shared memory of a prefork server private.
//!
//! See ARCHITECTURE.md for the way from a fault to a report.

mod advice;
mod cause;
mod choice;
pub mod cli;
mod clock;
mod collect;
mod command;
mod diff;
mod distribution;
mod elf;
mod fold;
mod foreign;
mod gate;
mod host;
pub mod inspection;
mod intake;
mod interpreter;
mod keeper;
#[cfg_attr(not(feature = "live"), path = "live/absent.rs")]
mod live;
#[cfg(test)]
mod made_up;
mod memory;
pub mod notices;
mod options;
mod plan;
mod preflight;
mod probe;
mod process;
pub mod profile;
mod report;
mod session;
pub mod signals;
mod summarize;
mod symbolize;
mod targets;
mod unchanged;
mod unwind;
mod user;
mod views;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[cfg(test)]
#[path = "../tests/skipped/mod.rs"]
mod skipped;

use anyhow::{Context as _, Result};

use crate::gate::Verdict;
use crate::live::{Live, Terminal};
use crate::options::Talk;
pub use crate::options::{DiffOptions, Options, ReportOptions, Task};
use crate::plan::Plan;
use crate::preflight::Facts;
pub use crate::process::opener;
use crate::profile::CommandExit;
use crate::report::Destinations;
use crate::session::{Session, Step};
use crate::summarize::Snapshot;
pub use crate::unwind::inspect as unwind_tables;
use crate::views::progress::Progress;
use crate::views::{Audience, View};

/// Listens for the signals that end memtrace. Must be called before anything else.
///
/// # Errors
/// When the system has no descriptors or no threads left.
pub fn hear_signals() -> std::io::Result<()> {
    signals::install(|| {
        report::remove_unfinished();
        live::restore();
    })
}

/// Traces as `options` say and writes the reports. For the exit code, see `--help`.
///
/// # Errors
/// When the machine does not permit it, the target is not there, or a report cannot be written;
/// each error says what to do. [`signals::Interrupted`] when a signal came before tracing began.
pub fn run(options: &Options) -> Result<ExitCode> {
    // First, since nothing of it depends on what is traced.
    let screen = (options.trace.talk == Talk::View).then(Terminal::open);
    let screen = screen.transpose()?;
    wait(options)?;
    let options = &choice::made(options)?;
    let facts = Facts::gather(options.trace.target.pids());
    let (plan, missing) = match Plan::of(&options.trace, options.verbosity, &facts) {
        Ok(plan) => (Some(plan), Vec::new()),
        Err(missing) => (None, missing),
    };
    let destinations = Destinations::open(&options.output, facts.owns_all());
    let (notes, destinations) = preflight::check(&options.trace, destinations, &facts, &missing)?;
    let plan = plan.context("this machine has nothing that copies can be seen by")?;
    signals::check()?;
    let profile = trace(options, &plan, notes, screen)?.profile();
    profile::sums::check(&profile)
        .context("memtrace has miscounted, which is a fault of its own")?;
    report::render(&profile, &options.output, &destinations)?;
    let verdict = options.gate.map(|limit| limit.check(&profile));
    let is_broken = matches!(verdict, Some(Verdict::Broken(_) | Verdict::Unknown(_)));
    let code = exit_code(verdict);
    if options.exit_as_command && !is_broken {
        return Ok(exit_code_of(profile.command_exit.as_ref()));
    }
    Ok(code)
}

/// The exit status of COMMAND, as a shell has it; success where it was still running.
fn exit_code_of(command: Option<&CommandExit>) -> ExitCode {
    let code = match command {
        Some(CommandExit {
            status: Some(status),
            ..
        }) => *status,
        Some(CommandExit {
            signal: Some(signal),
            ..
        }) => 128 + signal,
        _ => 0,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Waits as long as was asked for.
fn wait(options: &Options) -> Result<()> {
    let Some(delay) = options.delay else {
        return Ok(());
    };
    if options.trace.talk != Talk::Warnings {
        let delay = humantime::format_duration(delay);
        let _ = writeln!(std::io::stderr(), "memtrace: tracing begins in {delay}");
    }
    let until = Instant::now() + delay;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        signals::check()?;
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

/// Compares two reports as `options` say. For the exit code, see `--help`.
///
/// # Errors
/// When one of them cannot be read, or the comparison cannot be written; each error says what to do.
pub fn compare(options: &DiffOptions) -> Result<ExitCode> {
    let owns_all = Facts::gather(&[]).owns_all();
    let destinations = preflight::destinations(
        options.output.open(owns_all),
        "the comparison would be lost",
    )?;
    let [base, new] = [&options.base, &options.new].map(|path| read(path));
    let (base, new) = (base?, new?);
    signals::check()?;
    let names = [&options.base, &options.new].map(|path| path.display().to_string());
    let difference = diff::compare((&base, &names[0]), (&new, &names[1]));
    options.output.write(&difference, &destinations)?;
    let verdict = options.gate.map(|growth| growth.check(&difference));
    Ok(exit_code(verdict))
}

/// Shows a saved report as `options` say.
///
/// # Errors
/// When it cannot be read, or shown; each error says what to do.
pub fn show(options: &ReportOptions) -> Result<()> {
    let owns_all = Facts::gather(&[]).owns_all();
    let destinations = Destinations::open(&options.output, owns_all);
    let destinations = preflight::destinations(destinations, "nothing is written")?;
    let profile = read(&options.file)?;
    signals::check()?;
    report::render_again(&profile, &options.output, &destinations)?;
    Ok(())
}

/// Reads a saved report.
fn read(path: &Path) -> Result<profile::Profile> {
    let shown = foreign::shown(path.as_os_str().as_encoded_bytes(), foreign::MAX_PATH);
    let file = File::open(path).with_context(|| {
        format!("cannot open '{shown}'; name a report that memtrace has written as JSON")
    })?;
    profile::read(file).with_context(|| format!("cannot use '{shown}'"))
}

/// Says what came of a limit, on standard error, and with which status to leave.
fn exit_code(verdict: Option<Verdict>) -> ExitCode {
    let (text, code) = match verdict {
        None | Some(Verdict::Kept(None)) => return ExitCode::SUCCESS,
        Some(Verdict::Kept(Some(text))) => (text, ExitCode::SUCCESS),
        Some(Verdict::Broken(text)) => (text, ExitCode::from(1)),
        Some(Verdict::Unknown(text)) => (format!("error: {text}"), ExitCode::from(2)),
    };
    // Standard error may be a terminal that has been closed.
    let _ = writeln!(std::io::stderr(), "memtrace: {text}");
    code
}

/// Traces until something ends it.
fn trace(
    options: &Options,
    plan: &Plan,
    notes: Vec<String>,
    screen: Option<Terminal>,
) -> Result<Snapshot> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let started = Session::start(&options.trace, plan, notes);
        if started.is_err() {
            // Ctrl-C also reaches COMMAND at its gate, and that it ended is not the reason then.
            signals::check()?;
        }
        let mut session = started?;
        let mut audience = Audience::new(views(options, screen)?);
        let ended = loop {
            match session.next().await {
                Ok(Step::Tick) => {
                    if audience.is_waiting(session.is_calm()) {
                        audience.show(|| session.snapshot());
                    }
                }
                Ok(Step::Ended(why)) => break Ok(why),
                Err(error) => break Err(error),
            }
        };
        audience.leave();
        let finished = session.finish(ended?).await;
        notices::say_output();
        finished
    })
}

/// What is shown meanwhile.
fn views(options: &Options, screen: Option<Terminal>) -> Result<Vec<Box<dyn View>>> {
    let view: Option<Box<dyn View>> = match (options.trace.talk, screen) {
        (Talk::View, Some(screen)) => Some(Box::new(Live::start(screen, &options.output)?)),
        (Talk::Progress, _) => Progress::on_terminal().map(|line| Box::new(line) as _),
        (Talk::View | Talk::Warnings, _) => None,
    };
    Ok(view.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::profile::Profile;
    use crate::profile::sample::sample;
    use crate::report::difference::{DiffFormat, DiffOutput};
    use crate::report::{Color, Format, Output};

    /// Writes a profile as the report that its name asks for.
    fn write(profile: &Profile, path: &Path) {
        let output = Output::plain();
        let report = Format::of_file(path).unwrap().report(&output);
        report
            .write(profile, &mut File::create(path).unwrap())
            .unwrap();
    }

    /// The sample, of which each call site copied so many times as much.
    fn times(factor: u64) -> Profile {
        let mut profile = sample();
        for site in &mut profile.call_sites {
            site.bytes *= factor;
        }
        for row in &mut profile.types {
            row.bytes *= factor;
        }
        for process in &mut profile.processes {
            process.copied_bytes *= factor;
        }
        profile.totals.copied_bytes *= factor;
        profile
    }

    /// [`times`], seen from a single process: without workers much is needed, and there is much.
    fn single(factor: u64) -> Profile {
        let mut profile = times(factor);
        for process in &mut profile.processes {
            process.ppid = 1;
        }
        profile
    }

    fn options(dir: &Path, gate: Option<&str>) -> DiffOptions {
        DiffOptions {
            base: dir.join("base.json"),
            new: dir.join("new.json.gz"),
            output: DiffOutput {
                files: vec![
                    (dir.join("diff.txt"), DiffFormat::Text),
                    (dir.join("diff.json"), DiffFormat::Json),
                ],
                stdout: DiffFormat::Text,
                color: Color::Auto,
                top: 20,
            },
            gate: gate.map(|gate| gate.parse().unwrap()),
        }
    }

    fn status(compared: Result<ExitCode>) -> String {
        format!("{:?}", compared.unwrap())
    }

    #[test]
    fn two_files_are_compared_into_files_and_a_broken_limit_is_the_status() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        write(&single(1), &path("base.json"));
        write(&single(100), &path("new.json.gz"));
        let of = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(status(compare(&options(dir.path(), None))), of(0));
        let kept = options(dir.path(), Some("+10000%"));
        assert_eq!(status(compare(&kept)), of(0));
        fs::remove_file(path("diff.json")).unwrap();
        let broken = options(dir.path(), Some("+10%"));
        assert_eq!(status(compare(&broken)), of(1));
        // The comparison is written in any case.
        let json = fs::read_to_string(path("diff.json")).unwrap();
        assert!(json.contains("\"schema\": \"memtrace-diff/1\""));
        let text = fs::read_to_string(path("diff.txt")).unwrap();
        assert!(text.contains("new.json.gz"), "{text}");
    }

    #[test]
    fn a_file_that_is_no_report_is_named() {
        let dir = tempfile::tempdir().unwrap();
        write(&single(1), &dir.path().join("base.json"));
        let said = || {
            let error = compare(&options(dir.path(), None)).unwrap_err();
            let text = format!("{error:#}");
            text.replace(&dir.path().display().to_string(), "DIR")
        };
        insta::assert_snapshot!(said(), @"cannot open 'DIR/new.json.gz'; name a report that memtrace has written as JSON: No such file or directory (os error 2)");
        fs::write(dir.path().join("new.json.gz"), "{}").unwrap();
        insta::assert_snapshot!(said(), @"cannot use 'DIR/new.json.gz': this is not a whole report of memtrace, so there is nothing to show; give a file that memtrace has written as JSON: missing field `schema` at line 1 column 2");
        assert!(!dir.path().join("diff.txt").exists());
    }
}
