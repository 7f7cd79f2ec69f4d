//! `cargo xtask formats`: opens reports of every format in the tools that they are for, and the HTML
//! report in browsers.
//!
//! memtrace, as it is released, writes made-up profiles ([`cases`]) and one of a real trace in every
//! format. Each tool says how much was copied, and that must be what the profile says ([`readers`]).
//! What the tools are is in `programs.txt`, in `node/package.json` and in `tools.rs`; a tool that is
//! not here is a check that is skipped, and in CI one that fails.

mod cases;
mod large;
pub mod npm;
mod pprof;
pub mod promtool;
mod readers;

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use memtrace::profile::Profile;

use self::cases::Case;
use crate::demo;
use crate::host;
use crate::setup::{Choice, Wanted};

/// Seconds of the real trace.
const TRACED: u64 = 2;

/// The name of the files of the real trace.
const REAL: &str = "real-trace";

/// The extensions of all formats that are made of a saved report.
const EXTENSIONS: [&str; 11] = [
    "txt",
    "json",
    "json.gz",
    "html",
    "svg",
    "folded",
    "speedscope.json",
    "firefox.json",
    "pb.gz",
    "hlog",
    "prom",
];

/// Open reports of every format in the tools that they are for.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    setup: Choice,
}

/// Writes, opens and compares; fails when a tool does not say what the profile says.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.setup.shows(Wanted::Formats)? {
        return Ok(ExitCode::SUCCESS);
    }
    args.setup.install_or_say(Wanted::Formats);
    eprintln!("xtask: building memtrace");
    let memtrace = host::build_memtrace()?;
    let folder = host::target_directory()?.join("formats");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;

    let mut run = Run::default();
    let mut written = Vec::new();
    for case in cases::all()? {
        written.push(Written::save(&folder, case)?);
    }
    match real_trace(&memtrace, &folder) {
        Ok(Some(real)) => written.push(real),
        Ok(None) => run.skip("a real trace", "it needs root and a kernel with BTF"),
        Err(error) => run.fail("a real trace", &error),
    }
    run.check("10,000 stacks in every format", || {
        large::check(&memtrace, &written[0])
    });
    for it in &written[1..] {
        run.check(&format!("{} in every format", it.name), || {
            it.in_every_format(&memtrace)
        });
    }
    readers::check(&written, &mut run);
    eprintln!("xtask: files and pictures are in {}", folder.display());
    Ok(run.end())
}

/// A report that was saved, and what its files must say.
pub struct Written {
    /// The name of its files.
    pub name: String,
    /// Where these are.
    pub folder: PathBuf,
    /// Copied bytes and pages.
    pub bytes: u64,
    pub pages: u64,
    /// Copies of which it is known how long they took, and how old their process was.
    pub latencies: u64,
    pub ages: u64,
}

impl Written {
    fn of(folder: &Path, name: &str, profile: &Profile) -> Self {
        let sum =
            |of: fn(&memtrace::profile::CallSite) -> u64| profile.call_sites.iter().map(of).sum();
        Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            bytes: profile.totals.copied_bytes,
            pages: profile.totals.copied_pages,
            latencies: sum(|site| site.latency_ns.count()),
            ages: sum(|site| site.age_ms.count()),
        }
    }

    /// Saves a made-up one.
    fn save(folder: &Path, Case { name, profile }: Case) -> Result<Self> {
        let written = Self::of(folder, name, &profile);
        let path = written.saved();
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut packed = GzEncoder::new(BufWriter::new(file), Compression::fast());
        serde_json::to_writer(&mut packed, &profile)?;
        packed.finish()?;
        Ok(written)
    }

    /// The report that others are made of.
    fn saved(&self) -> PathBuf {
        self.folder.join(format!("{}.saved.json.gz", self.name))
    }

    /// One of its files.
    pub fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.name))
    }

    /// What the profile has of something that tools count.
    pub fn expected(&self, counted: &str) -> Option<u64> {
        Some(match counted {
            "bytes" => self.bytes,
            "pages" => self.pages,
            "latencies" => self.latencies,
            "ages" => self.ages,
            _ => return None,
        })
    }

    /// A command that writes it in every format.
    fn command(&self, memtrace: &Path) -> Command {
        let mut command = Command::new(memtrace);
        command.arg("report").arg(self.saved());
        for extension in EXTENSIONS {
            command.arg("-o").arg(self.file(extension));
        }
        command
    }

    fn in_every_format(&self, memtrace: &Path) -> Result<String> {
        host::quietly(&mut self.command(memtrace))?;
        Ok(format!("{} files", EXTENSIONS.len()))
    }
}

/// A trace of the demo's server; `None` where nothing can be traced.
fn real_trace(memtrace: &Path, folder: &Path) -> Result<Option<Written>> {
    if !host::is_root() || !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Ok(None);
    }
    let path = folder.join(format!("{REAL}.saved.json.gz"));
    demo::trace(memtrace, TRACED, &path)?;
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let profile = memtrace::profile::read(file)?;
    if profile.totals.copied_pages == 0 {
        bail!("the demo's server copied nothing");
    }
    Ok(Some(Written::of(folder, REAL, &profile)))
}

/// What was checked, and what came of it.
#[derive(Default)]
pub struct Run {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Run {
    /// Does one check, which says some figures.
    pub fn check(&mut self, what: &str, work: impl FnOnce() -> Result<String>) {
        let begin = Instant::now();
        match work() {
            Ok(figures) => {
                self.passed += 1;
                let seconds = begin.elapsed().as_secs_f64();
                let comma = if figures.is_empty() { "" } else { ": " };
                eprintln!("xtask: ok, {seconds:.1} s: {what}{comma}{figures}");
            }
            Err(error) => self.fail(what, &error),
        }
    }

    fn fail(&mut self, what: &str, error: &anyhow::Error) {
        eprintln!("xtask: FAILED: {what}: {error:#}");
        self.failed.push(what.to_owned());
    }

    /// Says that one is not done. In CI everything must be there.
    pub fn skip(&mut self, what: &str, why: &str) {
        eprintln!("SKIPPED {what}: {why}");
        self.skipped.push(what.to_owned());
    }

    fn end(self) -> ExitCode {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        eprintln!(
            "xtask: {passed} checks of formats passed, {} failed, {} skipped",
            failed.len(),
            skipped.len()
        );
        let in_ci = std::env::var_os("CI").is_some();
        if !failed.is_empty() || in_ci && !skipped.is_empty() {
            let what = [failed, skipped].concat().join(", ");
            eprintln!("xtask: these did not pass: {what}");
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_that_is_documented_is_written() {
        let text = fs::read_to_string(host::project().join("docs/formats.md")).unwrap();
        let rows = text.lines().filter(|line| line.starts_with("| `."));
        let cells = rows.filter_map(|row| row.split('|').nth(1));
        let mut documented: Vec<&str> = cells
            .flat_map(|cell| cell.split('`'))
            .filter_map(|word| word.strip_prefix('.'))
            .collect();
        documented.sort_unstable();
        let mut ours = EXTENSIONS;
        ours.sort_unstable();
        assert_eq!(documented, ours);
    }

    #[test]
    fn a_check_that_fails_is_a_failure() {
        let mut run = Run::default();
        run.check("one", || Ok("5 pages".to_owned()));
        assert!(run.failed.is_empty());
        run.check("other", || bail!("4 pages"));
        assert_eq!((run.passed, run.failed.len()), (1, 1));
        assert_eq!(run.end(), ExitCode::FAILURE);
    }
}
