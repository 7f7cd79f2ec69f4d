//! The figures of a churn for people, in Markdown, and its limits.

use std::fmt::Write as _;

use serde::Serialize;

use super::{EXECS, FORKS, Line, MIB, PAGES, Report, Results, Size};

/// Bounds that the project sets itself.
const GROWTH_PERCENT: f64 = 5.0;
const REPORT_MIB: f64 = 5.0;

/// A bound, and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    what: String,
    at_most: f64,
    measured: f64,
    /// Digits that are shown after the point.
    digits: usize,
}

impl Limit {
    /// Whether it is kept.
    pub fn is_reached(&self) -> bool {
        self.measured <= self.at_most
    }
}

/// What must be reached.
pub fn limits(size: Size, lines: &[Line], report: &Report) -> Vec<Limit> {
    let limit = |what: &str, at_most: f64, measured: f64, digits: usize| Limit {
        what: what.to_owned(),
        at_most,
        measured,
        digits,
    };
    let mut limits = Vec::new();
    if let Some((settled, last)) = settled_and_last(size, lines) {
        let change = (last.rss_mib / settled.rss_mib - 1.0) * 100.0;
        let what = format!(
            "resident memory at the end, in % more or less than after {}",
            time(settled.seconds)
        );
        limits.push(limit(&what, GROWTH_PERCENT, change.abs(), 1));
    }
    let more = |a: u64, b: u64| a.saturating_sub(b) as f64;
    let differ = |a: u64, b: u64| a.abs_diff(b) as f64;
    limits.extend([
        limit("lost", 0.0, report.lost as f64, 0),
        limit(
            "processes more or fewer than there were",
            0.0,
            differ(report.processes, report.processes_in_truth),
            0,
        ),
        limit(
            "copied pages of children that have another function's name, or none",
            0.0,
            differ(report.by_children.named, report.by_children.in_truth),
            0,
        ),
        limit(
            "copied pages of programs that are more than they copied",
            0.0,
            more(report.by_programs.named, report.by_programs.in_truth),
            0,
        ),
        limit(
            "copied pages by which sums differ",
            0.0,
            report.sums_differ_by as f64,
            0,
        ),
        limit(
            "size of the report in MiB of JSON",
            REPORT_MIB,
            report.bytes as f64 / MIB,
            2,
        ),
    ]);
    limits
}

/// The line after which memory must not grow, and the last one.
fn settled_and_last(size: Size, lines: &[Line]) -> Option<(&Line, &Line)> {
    let growing = size.growing_seconds();
    let settled = lines.iter().find(|line| line.seconds >= growing)?;
    Some((settled, lines.last()?))
}

/// One page: machine, figures, and what they had to reach.
pub fn markdown(results: &Results) -> String {
    let (size, report, own) = (&results.size, &results.report, &results.own);
    let mut out = String::from("# What memtrace needs while processes come and go\n\n");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Made by `cargo xtask bench churn --write-docs`. For {}, a process forks {FORKS} children a \
         second, each of which copies {PAGES} pages and exits, and {EXECS} children a second that \
         become a program of their own; that one fills {PAGES} pages, forks a child that copies them, \
         and exits. memtrace traces the process as it does by default. Its memory is looked at every \
         {} s; the figures are medians of {} looks.\n\n{}\n",
        time(size.seconds),
        size.look_seconds,
        size.looks_a_line,
        results.machine.markdown(),
    );
    out.push_str(
        "| after | processes so far | copied pages | resident MiB | of it anonymous MiB | peak MiB \
         |\n|---|---|---|---|---|---|\n",
    );
    for line in &results.lines {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} |",
            time(line.seconds),
            line.processes,
            line.copied_pages,
            line.rss_mib,
            line.anonymous_mib,
            line.peak_mib,
        );
    }
    let _ = write!(
        out,
        "\nmemtrace used {} ms of CPU time, {:.1} % of one processor. From Ctrl-C to the report it \
         took {} ms. The report has {} processes. Of the programs' {} copied pages, {:.1} % have the \
         function's name: what ends before its mappings could be read has none.\n",
        own.cpu_ms,
        own.cpu_share * 100.0,
        own.stop_ms,
        report.processes,
        report.by_programs.in_truth,
        report.by_programs.named as f64 / report.by_programs.in_truth.max(1) as f64 * 100.0,
    );
    out.push_str("\n## To be reached\n\n| what | at most | measured | |\n|---|---|---|---|\n");
    for limit in &results.limits {
        let digits = limit.digits;
        let _ = writeln!(
            out,
            "| {} | {:.digits$} | {:.digits$} | {} |",
            limit.what,
            limit.at_most,
            limit.measured,
            if limit.is_reached() {
                "reached"
            } else {
                "missed"
            },
        );
    }
    out
}

/// A time, in minutes where it is whole ones.
pub fn time(seconds: u64) -> String {
    if seconds.is_multiple_of(60) {
        format!("{} min", seconds / 60)
    } else {
        format!("{seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::churn::Named;

    fn lines(rss: &[f64]) -> Vec<Line> {
        let line = |(minute, &rss_mib): (usize, &f64)| Line {
            seconds: 60 * (minute as u64 + 1),
            processes: 0,
            copied_pages: 0,
            rss_mib,
            anonymous_mib: 0.0,
            peak_mib: 0.0,
        };
        rss.iter().enumerate().map(line).collect()
    }

    fn size(minutes: u64) -> Size {
        Size {
            seconds: minutes * 60,
            look_seconds: 10,
            looks_a_line: 6,
        }
    }

    fn report() -> Report {
        let exact = Named {
            named: 500,
            in_truth: 500,
        };
        Report {
            bytes: 1 << 20,
            lost: 0,
            processes: 10,
            processes_in_truth: 10,
            by_children: exact,
            by_programs: exact,
            sums_differ_by: 0,
        }
    }

    fn missed(size: Size, lines: &[Line], report: &Report) -> Vec<String> {
        let limits = limits(size, lines, report).into_iter();
        let missed = limits.filter(|limit| !limit.is_reached());
        missed.map(|limit| limit.what).collect()
    }

    #[test]
    fn growth_of_the_beginning_does_not_count_and_later_growth_does() {
        let flat = lines(&[50.0, 51.0, 52.0]);
        assert!(missed(size(3), &flat, &report()).is_empty());
        let growing = lines(&[50.0, 51.0, 53.0]);
        assert_eq!(
            missed(size(3), &growing, &report()),
            ["resident memory at the end, in % more or less than after 1 min"]
        );
        let early = lines(&[10.0, 20.0, 30.0, 40.0, 50.0, 50.0, 51.0]);
        assert!(missed(size(30), &early, &report()).is_empty());
    }

    #[test]
    fn what_is_lost_or_wrong_misses_a_limit() {
        let of = |named| Named {
            named,
            in_truth: 500,
        };
        let (few, many) = (of(499), of(501));
        let wrong = Report {
            bytes: 6 << 20,
            lost: 1,
            processes: 9,
            by_children: few,
            by_programs: many,
            sums_differ_by: 2,
            ..report()
        };
        assert_eq!(missed(size(3), &lines(&[1.0, 1.0, 1.0]), &wrong).len(), 6);
        let unknown = Report {
            by_programs: few,
            ..report()
        };
        assert!(missed(size(3), &lines(&[1.0, 1.0, 1.0]), &unknown).is_empty());
    }
}
