//! `cargo xtask story`: finding and mending copy-on-read in a uWSGI and Django service, for real.
//!
//! The service of `docs/story/` is run three times under the same load: as it is, and with each of the
//! changes that memtrace's reports lead to. `docs/story.md` is written with what was said and measured.

mod server;

use std::fmt::Write as _;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use memtrace::profile::Profile;

use self::server::Server;
use crate::host;
use crate::progress::Progress;
use crate::tools;
use crate::tracing::Tracing;

/// The page, with names in braces for what is measured.
const PAGE: &str = include_str!("page.txt");

/// Where the page is written.
const DOCS: &str = "docs/story.md";

/// Where the service is, and the changes.
const SERVICE: &str = "docs/story";

/// What is traced: how it is called, and the changes that it has.
const STEPS: [(&str, &[&str]); 3] = [
    ("before", &[]),
    ("freeze", &["freeze"]),
    ("columns", &["freeze", "columns"]),
];

/// How far what is saved may be from what was promised.
const OFF: f64 = 0.15;

/// Find and mend copy-on-read in a service of uWSGI and Django, step by step.
#[derive(clap::Args)]
pub struct Args {
    /// Requests that each step answers
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    requests: u32,
    /// Write docs/story.md with what was measured
    #[arg(long)]
    write_docs: bool,
}

/// What one step had.
struct Step {
    /// The report that is saved, and as text.
    saved: PathBuf,
    text: String,
    profile: Profile,
    /// Private memory of the workers before and after the load, in MiB.
    private: [f64; 2],
}

/// Runs all steps.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        host::is_root(),
        "the story traces a server, which needs root: run this as root"
    );
    let mut progress = Progress::new("story", STEPS.len() + 1)?;
    progress.step("uWSGI and Django", tools::install)?;
    let memtrace = host::build_memtrace()?;
    let folder = tempfile::tempdir()?;
    let mut steps = Vec::new();
    for (name, changes) in STEPS {
        let done = progress.step(name, |_| {
            prepare(&folder.path().join(name), changes)?;
            step(&memtrace, folder.path(), name, args.requests)
        });
        steps.push(done?);
    }
    let page = page(&memtrace, args, &steps)?;
    println!("{page}");
    holds(&steps)?;
    if args.write_docs {
        host::write_atomically(&host::project().join(DOCS), page.as_bytes())?;
        eprintln!("xtask: wrote {DOCS}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The service in a folder of its own, with these changes.
fn prepare(place: &Path, changes: &[&str]) -> Result<()> {
    let service = host::project().join(SERVICE);
    let shop = place.join("shop");
    std::fs::create_dir_all(&shop)?;
    for file in std::fs::read_dir(service.join("shop"))? {
        let file = file?;
        if file.file_type()?.is_file() {
            std::fs::copy(file.path(), shop.join(file.file_name()))?;
        }
    }
    for change in changes {
        let patch = service.join(format!("{change}.patch"));
        let mut apply = Command::new("git");
        // Also where the folder is in another repository.
        apply.env("GIT_CEILING_DIRECTORIES", place);
        apply.current_dir(place).arg("apply").arg(patch);
        host::run(&mut apply)?;
    }
    Ok(())
}

/// Starts the service, traces it under load, and ends it.
fn step(memtrace: &Path, folder: &Path, name: &str, requests: u32) -> Result<Step> {
    let server = Server::start(&folder.join(name))?;
    let before = server.private()?;
    let saved = folder.join(format!("{name}.json.gz"));
    let text = folder.join(format!("{name}.txt"));
    let mut tracer = Command::new(memtrace);
    tracer.args(["--pid", &server.master.to_string(), "--output"]);
    let tracing = Tracing::start(tracer.arg(&saved).arg("--output").arg(&text))?;
    let loaded = server.load(requests);
    // Looks at memory are a second apart.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after = server.private();
    tracing.finish()?;
    loaded?;
    let file = std::fs::File::open(&saved)?;
    Ok(Step {
        profile: memtrace::profile::read(BufReader::new(file))?,
        text: std::fs::read_to_string(text)?,
        saved,
        private: [before, after?],
    })
}

/// Each change must have done what it was made for, and the first what was promised of it.
fn holds(steps: &[Step]) -> Result<()> {
    let (promised, saved) = promise(&steps[0], &steps[1])?;
    let off = (saved - promised).abs() / promised;
    ensure!(
        off <= OFF,
        "{promised} bytes were promised of `gc.freeze()`, and {saved} saved"
    );
    let copied: Vec<u64> = steps
        .iter()
        .map(|step| step.profile.totals.copied_bytes)
        .collect();
    for (at, pair) in copied.windows(2).enumerate() {
        let (name, _) = STEPS[at + 1];
        ensure!(
            pair[1] < pair[0],
            "the change {name} saved nothing: {copied:?} bytes were copied"
        );
    }
    Ok(())
}

/// The page with everything in it.
fn page(memtrace: &Path, args: &Args, steps: &[Step]) -> Result<String> {
    let change = |name: &str| {
        let path = host::project().join(SERVICE).join(name);
        std::fs::read_to_string(path).with_context(|| format!("cannot read {SERVICE}/{name}"))
    };
    let compared = |base: &Step, new: &Step| -> Result<String> {
        let mut command = Command::new(memtrace);
        let names = [base, new].map(|step| step.saved.file_name().unwrap_or_default());
        command.arg("diff").args(names);
        // They are called by their names alone.
        command.current_dir(base.saved.parent().unwrap_or(Path::new("/")));
        let output = command.output().context("cannot run memtrace")?;
        ensure!(output.status.success(), "memtrace diff: {}", output.status);
        Ok(first(&String::from_utf8(output.stdout)?, 2))
    };
    let [before, freeze, columns] = steps else {
        bail!("there are three steps");
    };
    let mut page = PAGE.to_owned();
    for (name, text) in [
        ("requests", args.requests.to_string()),
        ("views", change("shop/views.py")?),
        ("catalogue", change("shop/catalogue.py")?),
        ("seen", seen(before)),
        ("before", first(&before.text, 1)),
        ("before-causes", section(&before.text, "What was written")?),
        ("before-advice", section(&before.text, "What would help")?),
        ("freeze-patch", change("freeze.patch")?),
        ("freeze", first(&freeze.text, 1)),
        ("freeze-diff", compared(before, freeze)?),
        ("kept", kept(before, freeze)?),
        ("columns-patch", change("columns.patch")?),
        ("columns", first(&columns.text, 1)),
        ("columns-diff", compared(freeze, columns)?),
        ("table", table(steps)),
        ("limit", limit(columns)),
    ] {
        let name = format!("{{{name}}}");
        ensure!(page.contains(&name), "the page has no {name}");
        page = page.replace(&name, text.trim_end());
    }
    Ok(page)
}

/// What was promised of a freeze, and what it saved, in bytes.
fn promise(before: &Step, after: &Step) -> Result<(f64, f64)> {
    let mut advice = before.profile.advice.iter();
    let promised = advice.find(|advice| advice.id == "gc-freeze");
    let promised = promised.context("nothing was said of gc.freeze()")?;
    let copied = |step: &Step| step.profile.totals.copied_bytes as f64;
    Ok((promised.saves_bytes as f64, copied(before) - copied(after)))
}

/// The same in words.
fn kept(before: &Step, after: &Step) -> Result<String> {
    let (promised, saved) = promise(before, after)?;
    Ok(format!(
        "The report had promised {:.1} MiB, and {:.1} MiB less were copied.",
        mib(promised),
        mib(saved),
    ))
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

/// What an operator sees of the service.
fn seen(step: &Step) -> String {
    let [before, after] = step.private;
    format!(
        "private memory of 4 workers, MiB: {before:.0} after their start, {after:.0} after the load"
    )
}

/// A paragraph of a report or several, from its beginning.
fn first(text: &str, paragraphs: usize) -> String {
    let paragraphs = text.split("\n\n").take(paragraphs);
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// A section of a report, by how its title begins.
fn section(text: &str, title: &str) -> Result<String> {
    let from = text.find(&format!("\n{title}"));
    let text = &text[from.with_context(|| format!("no section is called {title}"))? + 1..];
    // What is indented after an empty line is of the section, too.
    let mut lines = Vec::new();
    for line in text.lines() {
        let is_next = lines.last() == Some(&"") && !line.starts_with(' ');
        if is_next {
            break;
        }
        lines.push(line);
    }
    Ok(lines.join("\n"))
}

/// What was measured of all steps.
fn table(steps: &[Step]) -> String {
    let mut out = String::from(
        "| | copied by memtrace's count | first write a count or a mark | private memory of the workers grew by \
         |\n|---|---|---|---|\n",
    );
    for (step, (name, _)) in steps.iter().zip(STEPS) {
        let totals = &step.profile.totals;
        let only_read = totals.copy_on_read_pages as f64 / totals.copied_pages.max(1) as f64;
        let [before, after] = step.private;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {name} | {:.1} MiB | {:.0}% | {:.1} MiB |",
            mib(totals.copied_bytes as f64),
            100.0 * only_read,
            after - before,
        );
    }
    out
}

/// A limit for CI that the last step keeps: a half more than it has, in whole MiB for each worker.
fn limit(step: &Step) -> String {
    let workers = step.profile.processes.iter();
    let copied = workers.filter(|process| process.pid != step.profile.processes[0].pid);
    let most = copied.map(|process| process.copied_bytes).max();
    let most = most.unwrap_or_default().div_ceil(1 << 20);
    format!("{}MiB/worker", (most + most / 2).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "9 MiB copied\n  72% only read\n\nWhat would help  now\n  1. Less\n\n  \
                          2. More\n\nCall sites\n  10%\n";

    #[test]
    fn parts_of_a_report_are_found() {
        assert_eq!(first(REPORT, 1), "9 MiB copied\n  72% only read");
        assert_eq!(
            section(REPORT, "What would").unwrap(),
            "What would help  now\n  1. Less\n\n  2. More\n"
        );
        assert!(section(REPORT, "Types").is_err());
    }
}
