//! Processes of a profile.

use serde::{Deserialize, Serialize};

use super::{ByCause, ByOrigin, Memory, NotCopied, Unchanged};

/// How a command ended: one of the two is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandExit {
    /// Its exit status.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// One process of the traced set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// The kernel's tgid.
    pub pid: u32,
    /// The parent's when it was found or forked.
    pub ppid: u32,
    /// Name at its last exec, escaped.
    pub comm: String,
    /// Its names as the programs that it ran before, the first one first, at most 8; absent where it
    /// has run only one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// Arguments; empty where they could not be read.
    pub cmdline: Vec<String>,
    /// When it was forked, in seconds since the trace began; `None` for one found at attach.
    pub forked_at_s: Option<f64>,
    /// When it ended, in seconds since the trace began; `None` when it was alive at the end.
    pub exited_at_s: Option<f64>,
    /// Copied pages.
    pub copied_pages: u64,
    /// Bytes of those.
    pub copied_bytes: u64,
    /// Copied pages whose cause is copy-on-read.
    pub copy_on_read_pages: u64,
    /// Copied pages by what they were before.
    pub by_origin: ByOrigin,
    /// Copied pages by what the write was.
    pub by_cause: ByCause,
    /// Faults that copied nothing.
    pub not_copied: NotCopied,
    /// Copied pages whose record was dropped.
    pub lost_faults: u64,
    /// What became of its copied pages; `None` while tracing went on, where that was not wanted,
    /// and when it copied none.
    #[serde(default)]
    pub unchanged: Option<Unchanged>,
    /// The interpreter that it runs; `None` without one.
    #[serde(default)]
    pub interpreter: Option<InterpreterSeen>,
    /// Runtimes that it has mapped and that memtrace does not read: what they keep in their objects
    /// is not looked at, and what they run has no frames. Absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<RuntimeSeen>,
    /// Files with code that it has mapped and that could not be opened: what runs there is not
    /// known, and neither what it keeps in its memory. Absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unopened: Vec<UnopenedFile>,
    /// How much memory it had; `None` where that was not looked at.
    pub memory: Option<Memory>,
    /// Which of the profile's `roles` it has; absent in reports of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The container that it runs in; absent where it runs in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Its copies took it this long, in seconds; of those whose end was seen. Absent in reports of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying_s: Option<f64>,
    /// The processor time that it has had since it was traced, in seconds; absent where it is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// How often it asked the processor's last cache; absent where that is not known, see the profile's
    /// `no_cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheUse>,
    /// How many processes are added up here, which had all ended; the pid is 0 then. Absent for a
    /// process of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_for: Option<u64>,
}

impl Process {
    /// How many processes it is.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.stands_for.unwrap_or(1)
    }

    /// What it is called: `bash -> sed` for one that was bash and became sed.
    #[must_use]
    pub fn called(&self) -> String {
        let names = self.before.iter().chain([&self.comm]);
        let names: Vec<&str> = names.map(String::as_str).collect();
        match self.stands_for {
            Some(count) => format!("{count} others"),
            None => names.join(" -> "),
        }
    }
}

/// An interpreter in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterpreterSeen {
    /// What it is: `CPython 3.11`, `CPython 3.13, free-threaded`.
    pub name: String,
    /// Why its frames could not be read, or only in part; absent when they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A runtime in a process that is recognised and not read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuntimeSeen {
    /// What it is: `Ruby`, `PHP`, `LuaJIT`.
    pub name: String,
    /// Its version; absent where it does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A file that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnopenedFile {
    /// As the process mapped it, escaped; `/proc/PID/maps` where its mappings could not be read.
    pub path: String,
    /// Why: `permission denied (13)`.
    pub why: String,
}

/// A container, as the path of a process's control group names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Container {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// The uid of its Kubernetes pod; absent where it is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

/// How often the last cache before memory was asked, by the processor's own counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Loads that got there.
    pub loads: u64,
    /// Of these, those that it did not have.
    pub misses: u64,
}
