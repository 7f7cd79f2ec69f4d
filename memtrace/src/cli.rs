//! The command line: what can be typed, and its conversion into a [`Task`].
//!
//! Options and a COMMAND trace; the name of another task in the first place, such as `diff`, does
//! that.
//!
//! Everything that can be found wrong by looking at the arguments alone is found here, in
//! [`TryFrom`], before anything else happens; what depends on the machine is [`preflight`]'s.
//!
//! [`preflight`]: crate::preflight

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{
    ArgAction, Args, Command, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint,
};

use self::diff::DiffArgs;
use self::help::{Help, LAYOUT, OTHER, REPORTS, TAKE, TRACE};
use self::report::ReportArgs;
use self::reports::Reports;
use crate::options::{
    Backend, Choice, Limit, MemoryOptions, Options, Python, Talk, Target, Task, TraceOptions,
    Unwind,
};

use crate::user::User;

mod diff;
mod help;
mod report;
mod reports;

/// The shortest time between two looks at memory.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(10);

const LONG_ABOUT: &str = "\
Shows which code paths turn the shared memory of a prefork server private.

Processes forked from one another share their memory until somebody writes to it; then the kernel \
copies the page. memtrace watches a running tree of processes, counts every page that the kernel \
copies for it, and reports which process copied how much, at which call site, on which stack, how \
long each copy took and how old the process was.

memtrace needs root, or the capabilities CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE.";

const EXAMPLES: &str = "\
Examples:
  Watch a server and its workers for 30 seconds, under the load it has:
    sudo memtrace --name gunicorn --duration 30s

  Watch it while a load generator runs, and keep the figures:
    sudo memtrace -p 4242 -o profile.json -- wrk -d 10 http://localhost:8000/

  Start a program and watch it from its first instruction:
    sudo memtrace -- python3 server.py

  Which source files copy, the 50 largest:
    sudo memtrace -p 4242 -d 10s --by file --top 50

  A saved report as a flame graph, and for go tool pprof:
    memtrace report profile.json -o profile.svg -o profile.pb.gz

  What a change has done to it, of two reports:
    memtrace diff before.json.gz after.json.gz";

const ENDS: &str = "\
Press Ctrl-C once to finish and see the report, twice to leave at once.
Exit status: 0 done, 1 over the limit of --fail-over, 2 an error, 130 left at once or before tracing
began.";

/// The arguments as they were typed.
#[derive(Debug, Parser)]
#[command(
    name = "memtrace",
    version,
    about = "Shows which code paths turn the shared memory of a prefork server private",
    long_about = LONG_ABOUT,
    before_help = EXAMPLES,
    after_help = ENDS,
    help_template = LAYOUT,
    // Of the tasks, too: each has `Help`.
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "memtrace [OPTIONS] --pid PID [-- COMMAND...]\n       memtrace [OPTIONS] --name NAME [-- COMMAND...]\n       memtrace [OPTIONS] -- COMMAND...\n       memtrace report [OPTIONS] FILE\n       memtrace diff [OPTIONS] BASE NEW",
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    other: Option<Other>,

    #[command(flatten)]
    trace: Trace,
}

/// Tasks other than to trace.
#[derive(Debug, Subcommand)]
enum Other {
    Report(ReportArgs),
    Diff(DiffArgs),
}

/// The arguments of a trace.
#[derive(Debug, Args)]
struct Trace {
    /// Trace this process and all its descendants, present and future
    ///
    /// May be given several times, and takes several ids separated by commas or white space, such
    /// as the output of pgrep. With COMMAND, tracing lasts while COMMAND runs; else until Ctrl-C,
    /// the end of --duration, or the end of the last process.
    #[arg(help_heading = TRACE, short, long = "pid", value_name = "PID", value_parser = parse_pids, action = ArgAction::Append,
        allow_negative_numbers = true, value_hint = ValueHint::Other)]
    pids: Vec<Pids>,

    #[command(flatten)]
    chosen: Chosen,

    /// Trace only the processes that are named, not their descendants
    #[arg(help_heading = TRACE, long)]
    no_follow: bool,

    /// Begin to trace only after this time, as when a server has started: 500ms, 30s
    #[arg(help_heading = TAKE, long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    delay: Option<Duration>,

    /// Stop after this time: 500ms, 30s, 5m, "1m 30s"
    #[arg(help_heading = TAKE, short, long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true)]
    duration: Option<Duration>,

    #[command(flatten)]
    reports: Reports,

    /// Exit with status 1 when more was copied: 500MiB, 10MiB/worker, 4MB/worker:copy-on-read
    ///
    /// The limit is for all processes together, or with /worker for each process that a traced one
    /// has forked and that goes on with its program. With :copy-on-read only what was copied though
    /// it was only read counts. Reports are written in any case.
    #[arg(help_heading = REPORTS, long, value_name = "LIMIT", allow_hyphen_values = true)]
    fail_over: Option<Limit>,

    /// Run COMMAND as this user, and not as root
    #[arg(help_heading = TRACE, long, value_name = "USER", value_hint = ValueHint::Username, requires = "command")]
    user: Option<User>,

    /// Which exit status to leave with: that of memtrace, or that of COMMAND
    ///
    /// That of COMMAND is 128 and the signal's number where a signal ended it, and 0 where it was still
    /// running. An error of memtrace, or a limit that was exceeded, comes first.
    #[arg(help_heading = OTHER, long, value_name = "WHOSE", default_value = "memtrace")]
    exit_code: ExitCodeOf,

    /// Leave arguments of processes out of the report: they may hold secrets
    #[arg(help_heading = TAKE, long)]
    no_cmdline: bool,

    /// How call stacks are found
    ///
    /// "auto" uses the unwind tables that compilers put into programs and libraries for
    /// exceptions, and frame pointers through code that has none, such as a JIT's. "dwarf" and
    /// "fp" use one of the two; a stack ends where that leads no further. "off" names the faulting
    /// function only and costs least.
    #[arg(help_heading = TAKE, long, value_name = "MODE", default_value = "auto")]
    unwind: Unwind,

    /// Whether Python frames are taken, and what Python wrote is looked at
    ///
    /// "auto" does so in every process that runs CPython 3.8 to 3.14. "off" costs less, and leaves
    /// causes to what the faulting instruction tells.
    #[arg(help_heading = TAKE, long, value_name = "MODE", default_value = "auto")]
    python: Python,

    /// Do not compare copied pages with the ancestor's at the end
    ///
    /// The comparison finds pages that were copied and then not changed. It only reads, and reads
    /// a sample where there are very many.
    #[arg(help_heading = TAKE, long)]
    no_unchanged: bool,

    #[command(flatten)]
    memory: Memory,

    /// How copies are seen
    #[arg(help_heading = TAKE, long, value_name = "NAME", default_value = "auto")]
    backend: Backend,

    #[command(flatten)]
    said: Said,

    /// With --pid, --name or --cgroup: the load, run while tracing. Without: the program to trace
    #[arg(help_heading = TRACE, last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// The arguments that choose running processes by something else than their pids.
#[derive(Debug, Args)]
struct Chosen {
    /// Trace the process that is called NAME and all its descendants
    ///
    /// NAME is that of the process or of its program, or the script or module that its interpreter
    /// runs: gunicorn, postgres, worker.py. May be given several times, and beside --pid. Where
    /// several are called so that do not descend from one another, they are listed, and nothing is
    /// traced; name one of them with --pid, or give --all.
    #[arg(help_heading = TRACE, long = "name", value_name = "NAME", action = ArgAction::Append)]
    names: Vec<OsString>,

    /// Trace all processes of this control group, and those below it
    ///
    /// PATH is a folder under /sys/fs/cgroup, or the path in /proc/PID/cgroup, or its end: the name
    /// of a unit (gunicorn.service), or the id of a container, whole or shortened. With --name, only
    /// processes of this group are looked at; with --pid too, and PID may be what the container
    /// itself sees.
    #[arg(help_heading = TRACE, long, value_name = "PATH", value_hint = ValueHint::DirPath)]
    cgroup: Option<OsString>,

    /// With --name: trace all that are called so
    #[arg(help_heading = TRACE, long, requires = "names")]
    all: bool,
}

/// The arguments about memory.
#[derive(Debug, Args)]
struct Memory {
    /// How often to look at how much memory processes have: 1s, 500ms; 0 for at the start and end, off
    ///
    /// Shared and private memory are read from `smaps_rollup`, on a thread of its own that takes at most
    /// 1% of a processor: with much memory the looks come less often, and the report says how often.
    #[arg(
        help_heading = TAKE,
        long,
        value_name = "TIME",
        default_value = "1s",
        allow_hyphen_values = true
    )]
    sample: String,

    /// Count how often the processor's last cache is asked and missed, where it has counters for that
    ///
    /// Memory that is copied is in no cache. The kernel switches the counters with every thread, so this
    /// costs the traced processes a little.
    #[arg(help_heading = TAKE, long)]
    cache: bool,
}

/// The arguments that say what is said beside the report.
#[derive(Debug, Args)]
struct Said {
    /// Watch the trace on the terminal while it runs: who copies, where, and how fast
    ///
    /// Keys sort, group and filter the table, open a row's stack, freeze the picture, and write a report
    /// without an end of the trace; ? lists them. It is drawn on the terminal itself, so standard output
    /// may be redirected. --by says what it begins with.
    #[arg(help_heading = REPORTS, long)]
    live: bool,

    /// Say nothing but warnings and errors beside the report
    #[arg(help_heading = OTHER, short, long, conflicts_with = "verbose")]
    quiet: bool,

    /// Log progress; -vv also logs the BPF side
    #[arg(help_heading = OTHER, short, long, action = ArgAction::Count)]
    verbose: u8,

    #[command(flatten)]
    _help: Help,

    /// Print the version
    #[arg(id = "version", help_heading = OTHER, short = 'V', long, action = ArgAction::Version)]
    _version: Option<bool>,
}

/// What one `--pid` named.
#[derive(Clone, Debug)]
struct Pids(Vec<u32>);

/// What can be typed, for what describes it: completions of shells, and pages of the manual.
#[must_use]
pub fn command() -> Command {
    Cli::command()
}

/// Reads the arguments of this process.
///
/// # Errors
///
/// What is wrong with them, or the help that was asked for. [`clap::Error::exit`] prints either
/// and leaves with status 2 or 0.
pub fn parse() -> Result<Task, clap::Error> {
    parse_from(std::env::args_os())
}

/// Reads `args`, of which the first is the program's own name.
///
/// # Errors
///
/// Those of [`parse`].
pub fn parse_from(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<Task, clap::Error> {
    let cli = Cli::try_parse_from(args).map_err(with_hint)?;
    Task::try_from(cli).map_err(|message| Cli::command().error(ErrorKind::ValueValidation, message))
}

/// Adds what was probably meant by a process id that is not behind an option.
fn with_hint(mut error: clap::Error) -> clap::Error {
    let found = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg];
    let found = found.into_iter().find_map(|kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    });
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let hint = match found.as_deref() {
        Some(pid) if is_number(pid) => format!("to trace process {pid}, use --pid {pid}"),
        Some(task @ ("diff" | "report")) => {
            format!("'{task}' comes first, and its options behind it: memtrace {task} --help")
        }
        _ => return error,
    };
    let hints = ContextValue::StyledStrs(vec![StyledStr::from(hint)]);
    error.insert(ContextKind::Suggested, hints);
    error
}

impl TryFrom<Cli> for Task {
    type Error = String;

    fn try_from(cli: Cli) -> Result<Self, String> {
        match cli.other {
            None => Ok(Self::Trace(Box::new(cli.trace.try_into()?))),
            Some(Other::Diff(args)) => Ok(Self::Diff(args.try_into()?)),
            Some(Other::Report(args)) => Ok(Self::Report(args.try_into()?)),
        }
    }
}

impl TryFrom<Trace> for Options {
    type Error = String;

    fn try_from(cli: Trace) -> Result<Self, String> {
        let choice = choice(cli.chosen)?;
        let has_target = !cli.pids.is_empty() || choice.is_made();
        Ok(Self {
            trace: TraceOptions {
                target: target(cli.pids, &choice, cli.command)?,
                follow: !cli.no_follow,
                duration: cli.duration,
                backend: backend(cli.backend)?,
                unwind: cli.unwind,
                python: cli.python,
                unchanged: !cli.no_unchanged,
                user: cli.user,
                arguments: !cli.no_cmdline,
                talk: match &cli.said {
                    Said { live: true, .. } => Talk::View,
                    Said { quiet: true, .. } => Talk::Warnings,
                    Said { .. } => Talk::Progress,
                },
                memory: memory(&cli.memory)?,
            },
            output: cli.reports.try_into()?,
            choice,
            gate: cli.fail_over,
            delay: delay(cli.delay, has_target)?,
            exit_as_command: cli.exit_code == ExitCodeOf::Command,
            verbosity: cli.said.verbose,
        })
    }
}

fn choice(chosen: Chosen) -> Result<Choice, String> {
    let Chosen { names, cgroup, all } = chosen;
    if names.iter().any(|name| name.is_empty()) {
        return Err(
            "the NAME after --name is empty; give that of a program, such as gunicorn".into(),
        );
    }
    if cgroup.as_ref().is_some_and(|path| path.is_empty()) {
        return Err(
            "the PATH after --cgroup is empty; give that of a control group, such as \
             gunicorn.service"
                .into(),
        );
    }
    Ok(Choice { names, cgroup, all })
}

fn target(given: Vec<Pids>, choice: &Choice, command: Vec<OsString>) -> Result<Target, String> {
    if command.first().is_some_and(|program| program.is_empty()) {
        return Err("the COMMAND after -- is empty; name a program to run".to_owned());
    }
    let mut pids: Vec<u32> = Vec::new();
    for pid in given.into_iter().flat_map(|Pids(pids)| pids) {
        if !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    let is_chosen = !choice.names.is_empty() || choice.cgroup.is_some();
    match (pids.is_empty() && !is_chosen, command.is_empty()) {
        (true, true) => Err(
            "there is nothing to trace; name a running process with --pid PID or \
                             --name NAME, or a program to start after --: memtrace -- COMMAND"
                .to_owned(),
        ),
        (true, false) => Ok(Target::Launch { command }),
        (false, no_load) => Ok(Target::Attach {
            pids,
            load: (!no_load).then_some(command),
        }),
    }
}

/// How memory is looked at; `None` where it is not.
fn memory(given: &Memory) -> Result<Option<MemoryOptions>, String> {
    match sample(&given.sample)? {
        None if given.cache => {
            Err("--cache needs looks at memory; leave out --sample off".to_owned())
        }
        interval => Ok(interval.map(|interval| MemoryOptions {
            interval,
            cache: given.cache,
        })),
    }
}

/// Whose exit status memtrace leaves with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExitCodeOf {
    /// Its own.
    Memtrace,
    /// COMMAND's.
    Command,
}

/// Waiting is of use only where something runs meanwhile.
fn delay(delay: Option<Duration>, has_target: bool) -> Result<Option<Duration>, String> {
    if delay.is_some() && !has_target {
        return Err(
            "--delay is for running processes; to trace COMMAND later, start it, and name it with \
             --pid"
                .to_owned(),
        );
    }
    Ok(delay)
}

/// How often memory is looked at: a time, `0`, or `off`.
fn sample(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        "0" => Ok(Some(Duration::ZERO)),
        time if time.starts_with('-') => Err(format!(
            "--sample {time} is not a time; give one such as 1s, or 0, or off"
        )),
        time => match parse_duration(time) {
            Ok(time) if time < SHORTEST_SAMPLE => Err(format!(
                "--sample {text} is shorter than {} ms, which no reading of memory can keep up with; \
                 give a longer time, 0 for at the start and end alone, or off",
                SHORTEST_SAMPLE.as_millis()
            )),
            Ok(time) => Ok(Some(time)),
            Err(why) => Err(format!(
                "--sample {text}: {why}; 0 and off are possible, too"
            )),
        },
    }
}

fn backend(backend: Backend) -> Result<Backend, String> {
    let missing = match backend {
        Backend::Auto | Backend::Tracepoint => return Ok(backend),
        Backend::Fentry => "fentry",
        Backend::Kprobe => "kprobe",
    };
    Err(format!(
        "this version of memtrace has no {missing} backend; use --backend tracepoint, or auto, \
         which takes the best there is"
    ))
}

fn parse_pids(text: &str) -> Result<Pids, String> {
    let parts = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|part| !part.is_empty());
    let pids: Vec<u32> = parts.map(parse_pid).collect::<Result<_, _>>()?;
    if pids.is_empty() {
        return Err(
            "no process id in it; did the command that should print it find nothing?".into(),
        );
    }
    Ok(Pids(pids))
}

fn parse_pid(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(0) => Err("0 is no process that can be traced; it stands for the idle CPU".to_owned()),
        Ok(pid) if i32::try_from(pid).is_ok() => Ok(pid),
        _ => Err(format!(
            "'{}' is not a process id, a number such as 4242",
            text.escape_debug()
        )),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_hours(365 * 24);
    if let Some(time) = text.strip_prefix('-').filter(|rest| !rest.is_empty()) {
        return Err(match parse_duration(time) {
            Ok(_) => format!("a trace cannot end before it begins; for that time write {time}"),
            Err(_) => "it is another option; give a time such as 30s before that".to_owned(),
        });
    }
    if text.parse::<f64>().is_ok_and(|number| number > 0.0) {
        return Err(format!("it has no unit; for seconds write {text}s"));
    }
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("a trace of no time sees nothing; give more than 0".to_owned()),
        Ok(duration) if duration > LONGEST => Err("a trace lasts a year at most".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) if text.trim_start_matches(['0', '.']).is_empty() => {
            Err("a trace of no time sees nothing; give more than 0".to_owned())
        }
        Err(_) => Err("it is not a time such as 500ms, 30s, 5m or \"1m 30s\"".to_owned()),
    }
}

#[cfg(test)]
mod tests;
