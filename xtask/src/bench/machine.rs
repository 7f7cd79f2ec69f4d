//! Where something was measured: figures without that say nothing.

use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::host;

/// The machine and the software that figures depend on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processor, as it calls itself.
    pub cpu: String,
    /// Processors online.
    pub cores: usize,
    /// Whether they are those of a virtual machine.
    pub is_virtual: bool,
    /// In MiB.
    pub memory_mib: u64,
    /// `uname -sr`.
    pub kernel: String,
    /// Setting of transparent huge pages.
    pub huge_pages: String,
    /// UTC.
    pub date: String,
    /// The commit that was measured, with a mark when files were changed since.
    pub commit: String,
    /// Versions of the tracers that are compared, where they are installed.
    pub tracers: Vec<String>,
}

impl Machine {
    /// This one. What cannot be found out is "unknown".
    pub fn describe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = meminfo
            .lines()
            .next()
            .and_then(|line| line.split_whitespace().nth(1));
        let huge_pages = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        Self {
            cpu: field("model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            is_virtual: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: memory.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: say("uname", &["-sr"]).unwrap_or_else(unknown),
            huge_pages: huge_pages.map_or_else(|_| unknown(), |text| chosen(&text)),
            date: say("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
            commit: commit(),
            tracers: [say("perf", &["--version"]), say("bpftrace", &["--version"])]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// As a list in Markdown.
    pub fn markdown(&self) -> String {
        format!(
            "- processor: {}, {} cores{}\n- memory: {} MiB, transparent huge pages: {}\n\
             - kernel: {}\n- tracers: {}\n- date: {}, commit {}\n",
            self.cpu,
            self.cores,
            if self.is_virtual {
                ", in a virtual machine"
            } else {
                ""
            },
            self.memory_mib,
            self.huge_pages,
            self.kernel,
            if self.tracers.is_empty() {
                "none but memtrace".into()
            } else {
                self.tracers.join(", ")
            },
            self.date,
            self.commit,
        )
    }
}

/// The commit, with a mark when files differ from it.
fn commit() -> String {
    let commit = say("git", &["describe", "--always"]).unwrap_or_else(unknown);
    if is_changed() {
        format!("{commit}-dirty")
    } else {
        commit
    }
}

/// Whether files differ from the commit. Pages that benches write do not count: otherwise the first
/// bench of several would leave the others without a commit.
pub fn is_changed() -> bool {
    let pages = ":(exclude)docs/bench-*.md";
    let changes = say("git", &["status", "--porcelain", "-uno", "--", ".", pages]);
    changes.is_some_and(|changes| !changes.is_empty())
}

fn unknown() -> String {
    "unknown".into()
}

/// The choice in brackets, of a setting that the kernel shows with all its choices.
fn chosen(text: &str) -> String {
    let choice = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    choice.map_or_else(unknown, |(choice, _)| choice.to_owned())
}

/// What a program says, in one line.
fn say(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(host::project())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn the_choice_in_brackets_is_taken() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen("nothing"), "unknown");
    }
}
