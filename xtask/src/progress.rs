//! What long work shows while it runs: which step it is at, for how long, and what went wrong.
//!
//! On a terminal that is a bar which moves; elsewhere, in CI for one, a line when a step begins and
//! one when it ends. What the commands of a step print goes to a file, of which only the end is
//! shown, and only when a command fails: hundreds of lines of a package manager hide what matters.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::host;

/// The folder under `target/` in which the files of output are.
const FOLDER: &str = "xtask";

/// So many of the last lines of a failed command are shown.
const SHOWN: usize = 30;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(120);

/// The bar: what is done, how far it is, and for how long this step has been running.
const BAR: &str = "{spinner} [{pos}/{len}] {wide_msg} {elapsed}";

/// Steps that are done one after the other.
pub struct Progress {
    total: usize,
    begun: usize,
    log: Log,
}

/// Where the output of a step's commands goes.
pub struct Log {
    path: PathBuf,
    file: File,
    /// `None` when standard error is not a terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// So many steps, whose output goes to the file `name` of the target directory.
    pub fn new(name: &str, total: usize) -> Result<Self> {
        let folder = host::target_directory()?.join(FOLDER);
        let bar = std::io::stderr().is_terminal().then(|| bar(total));
        Self::in_folder(&folder, name, total, bar)
    }

    fn in_folder(
        folder: &Path,
        name: &str,
        total: usize,
        bar: Option<ProgressBar>,
    ) -> Result<Self> {
        let path = folder.join(format!("{name}.log"));
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            total,
            begun: 0,
            log: Log { path, file, bar },
        })
    }

    /// Does one step, and shows what it is and that it has ended.
    pub fn step<T>(&mut self, what: &str, work: impl FnOnce(&mut Log) -> Result<T>) -> Result<T> {
        self.begun += 1;
        self.log.write(format_args!("== {what}\n"))?;
        match &self.log.bar {
            Some(bar) => {
                bar.set_position(self.begun as u64);
                bar.set_message(what.to_owned());
                bar.reset_elapsed();
            }
            None => eprintln!("{}", begins(what, self.begun, self.total)),
        }
        let begin = Instant::now();
        let result = work(&mut self.log);
        let said = ended(what, result.is_ok(), begin.elapsed());
        match &self.log.bar {
            Some(bar) => bar.println(said),
            None => eprintln!("{said}"),
        }
        result
    }

    /// Does one step whose failure does not stop the others: it is said. Whether it went well.
    pub fn step_or_say(&mut self, what: &str, work: impl FnOnce(&mut Log) -> Result<()>) -> bool {
        let result = self.step(what, work);
        if let Err(error) = &result {
            let said = format!("xtask: {error:#}");
            match &self.log.bar {
                Some(bar) => bar.println(said),
                None => eprintln!("{said}"),
            }
        }
        result.is_ok()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.log.bar {
            bar.finish_and_clear();
        }
    }
}

impl Log {
    /// Runs a command whose output is not shown, unless it fails.
    pub fn run(&mut self, command: &mut Command) -> Result<()> {
        let shown = host::show(command);
        self.write(format_args!("$ {shown}\n"))?;
        let before = self.file.metadata()?.len();
        let status = command
            .stdin(Stdio::null())
            .stdout(self.file.try_clone()?)
            .stderr(self.file.try_clone()?)
            .status()
            .with_context(|| format!("cannot run `{shown}`"))?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read(&self.path).unwrap_or_default();
        let said = text.get(before as usize..).unwrap_or_default();
        bail!(
            "`{shown}` failed: {status}\n{}\n(all of it: {})",
            last_lines(&String::from_utf8_lossy(said)),
            self.path.display()
        );
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) -> Result<()> {
        self.file
            .write_fmt(text)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

fn begins(what: &str, number: usize, total: usize) -> String {
    format!("xtask: {what} ({number} of {total}) ...")
}

fn ended(what: &str, well: bool, took: Duration) -> String {
    let how = if well { "done" } else { "FAILED" };
    format!("xtask: {what}: {how}, {} s", took.as_secs())
}

/// The end of what a command printed, indented.
fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let first = lines.len().saturating_sub(SHOWN);
    if lines.is_empty() {
        return "  it printed nothing".into();
    }
    lines[first..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_failed_command_printed_last_is_shown_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = Progress::in_folder(folder.path(), "install", 1, None).unwrap();
        let error = progress
            .step("counting", |log| {
                log.run(&mut shell("echo before"))?;
                log.run(&mut shell("seq 100; echo why >&2; exit 3"))
            })
            .unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("exit status: 3"), "{said}");
        let lines: Vec<_> = said.lines().map(str::trim).collect();
        assert!(lines.contains(&"why") && lines.contains(&"72"), "{said}");
        assert!(
            !lines.contains(&"71") && !lines.contains(&"before"),
            "{said}"
        );
        let path = folder.path().join("install.log");
        assert!(said.contains(&path.display().to_string()), "{said}");
        let all = fs::read_to_string(path).unwrap();
        assert!(
            all.contains("== counting") && all.contains("before\n"),
            "{all}"
        );
    }

    #[test]
    fn a_step_says_which_of_how_many_it_is() {
        assert_eq!(
            begins("installing gdb", 3, 7),
            "xtask: installing gdb (3 of 7) ..."
        );
        let took = Duration::from_millis(12_900);
        assert_eq!(ended("gdb", true, took), "xtask: gdb: done, 12 s");
        assert_eq!(ended("gdb", false, took), "xtask: gdb: FAILED, 12 s");
    }

    #[test]
    fn a_command_that_printed_nothing_is_said_to_have_printed_nothing() {
        assert_eq!(last_lines(""), "  it printed nothing");
        assert_eq!(last_lines("a\nb\n"), "  a\n  b");
    }
}
