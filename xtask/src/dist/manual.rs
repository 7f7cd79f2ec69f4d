//! Pages of the manual, made of the help.
//!
//! `clap_mangen` writes the options. The rest is laid out here: it has one section for all that is
//! behind the help, and leaves out what is before it, which are the examples.

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// The section of the manual.
const SECTION: &str = "1";

/// Name and text of each page: of `command`, and of each of its tasks.
pub fn pages(command: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let tasks: Vec<_> = command.get_subcommands().cloned().collect();
    let names: Vec<_> = std::iter::once(&command).chain(&tasks).map(name).collect();
    let all = std::iter::once(&command).chain(&tasks);
    all.map(|one| Ok((format!("{}.{SECTION}", name(one)), page(one, &names)?)))
        .collect()
}

/// As the page of `command` is called: `memtrace-diff` for `memtrace diff`.
fn name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or_else(|| command.get_name()).to_owned()
}

fn page(command: &Command, all: &[String]) -> Result<Vec<u8>> {
    let man = Man::new(command.clone()).manual("memtrace");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    synopsis(command).to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    if let Some(text) = command.get_before_help() {
        examples(&text.to_string()).to_writer(&mut page)?;
    }
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    man.render_options_section(&mut page)?;
    if let Some(text) = command.get_after_help() {
        ends(&text.to_string()).to_writer(&mut page)?;
    }
    see_also(&name(command), all).to_writer(&mut page)?;
    Ok(page)
}

/// A line for each way to call it.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage:").unwrap_or(&usage);
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for (at, line) in usage.lines().map(str::trim).enumerate() {
        if at > 0 {
            roff.control("br", []);
        }
        roff.text([bold(line)]);
    }
    roff
}

/// What each example is for, and its command below it.
fn examples(text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for line in text.lines().filter(|line| line.starts_with(' ')) {
        if line.starts_with("    ") {
            roff.control("RS", ["4"]);
            roff.text([bold(line.trim())]);
            roff.control("RE", []);
        } else {
            roff.control("PP", []);
            roff.text([roman(line.trim())]);
        }
    }
    roff
}

/// How it ends, a paragraph for each sentence that begins a line.
fn ends(text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    let text = text.replace("Exit status: ", "");
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff
}

fn see_also(own: &str, all: &[String]) -> Roff {
    let others: Vec<_> = all
        .iter()
        .filter(|name| *name != own)
        .map(|name| format!("{name}({SECTION})"))
        .collect();
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(others.join(", "))]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_has_a_page_with_groups_examples_and_exit_status() {
        let pages = pages(&memtrace::cli::command()).unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["memtrace.1", "memtrace-report.1", "memtrace-diff.1"]
        );
        for (name, text) in pages {
            let text = String::from_utf8(text).unwrap();
            let mut sections = text.lines().filter_map(|line| line.strip_prefix(".SH "));
            let mut has = |section: &str| sections.any(|it| it.trim_matches('"') == section);
            // In this order.
            for section in [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "EXAMPLES",
                "REPORTS",
                "OTHER",
                "EXIT STATUS",
                "SEE ALSO",
            ] {
                assert!(has(section), "{name}: no {section} in {text}");
            }
        }
    }

    #[test]
    fn an_example_is_below_what_it_is_for() {
        let roff = examples("Examples:\n  Do that:\n    memtrace -p 1\n").to_roff();
        let lines: Vec<_> = roff.lines().collect();
        let at = |line: &str| lines.iter().position(|it| *it == line);
        assert!(at("Do that:") < at(".RS 4"), "{roff}");
        assert!(roff.contains(r"\fBmemtrace \-p 1\fR"), "{roff}");
    }
}
