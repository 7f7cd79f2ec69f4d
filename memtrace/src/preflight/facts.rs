//! What is known about the machine, the user and the named processes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use procfs::process::{Process, Stat, Status};
use procfs::{FromRead, ProcError};

use crate::foreign::escape;

/// Inode numbers of the first user and PID namespace, fixed in the kernel's interface.
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// Flag of a kernel thread in /proc/PID/stat.
const PF_KTHREAD: u32 = 0x0020_0000;

/// Environment variable that makes memtrace act as on a kernel without `bpf_loop`: for its own
/// tests, which do not have such a kernel.
const WITHOUT_LOOP: &str = "MEMTRACE_TEST_WITHOUT_BPF_LOOP";

/// Everything that the checks look at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The architecture, as Rust calls it: `x86_64`.
    pub arch: String,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The effective user.
    pub uid: u32,
    /// Effective capabilities, one bit each.
    pub capabilities: u64,
    /// Whether this is the host's user namespace, where that is known.
    pub initial_user_namespace: Option<bool>,
    /// Whether this is the host's PID namespace, where that is known.
    pub initial_pid_namespace: Option<bool>,
    /// Whether the kernel has its BTF.
    pub btf: bool,
    /// The lockdown mode that is in force, where that is known.
    pub lockdown: Option<String>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i32>,
    /// Whether the kernel has the helper `bpf_loop` (Linux 5.17), which unwinding by tables and
    /// taking script frames need.
    pub has_loop: bool,
    /// Who memtrace is among the processes.
    pub own: Own,
    /// The processes that were named.
    pub pids: Vec<(u32, PidState)>,
}

/// Who memtrace is among the processes.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// Its pid.
    pub pid: u32,
    /// Processes that it descends from, its parent first.
    pub ancestors: Vec<u32>,
}

/// What a process id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PidState {
    /// A process of this effective user.
    Running {
        /// The user.
        uid: u32,
    },
    /// Nothing.
    Missing,
    /// A thread that is not its process's first.
    ThreadOf {
        /// The process.
        process: u32,
    },
    /// A thread of the kernel.
    KernelThread {
        /// Its name, escaped.
        comm: String,
    },
    /// A process that has ended.
    Zombie {
        /// Its name, escaped.
        comm: String,
    },
    /// It is there; nothing more can be found out.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// A capability that memtrace can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    DacReadSearch = 2,
    SysPtrace = 19,
    SysAdmin = 21,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

impl Capability {
    const ALL: [Self; 6] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysPtrace,
        Self::DacReadSearch,
        Self::CheckpointRestore,
        Self::SysAdmin,
    ];

    /// Its name in capabilities(7).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        }
    }
}

impl Facts {
    /// Looks at this machine, this process, and the processes `pids`.
    #[must_use]
    pub fn gather(pids: &[u32]) -> Self {
        let own = Process::myself().and_then(|process| process.status()).ok();
        let own_pid = std::process::id();
        Self {
            arch: std::env::consts::ARCH.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            uid: own.as_ref().map_or(u32::MAX, |status| status.euid),
            capabilities: own.as_ref().map_or(0, |status| status.capeff),
            initial_user_namespace: is_namespace("user", INITIAL_USER_NAMESPACE),
            initial_pid_namespace: is_namespace("pid", INITIAL_PID_NAMESPACE),
            btf: fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            lockdown: read("/sys/kernel/security/lockdown").and_then(|text| selected(&text)),
            perf_event_paranoid: read("/proc/sys/kernel/perf_event_paranoid")
                .and_then(|text| text.parse().ok()),
            has_loop: has_loop(),
            own: Own {
                pid: own_pid,
                ancestors: ancestors(own_pid),
            },
            pids: pids.iter().map(|&pid| (pid, state_of(pid))).collect(),
        }
    }

    /// Whether `capability` is there, by itself or as a part of `CAP_SYS_ADMIN`.
    #[must_use]
    pub fn can(&self, capability: Capability) -> bool {
        let has = |capability: Capability| self.capabilities >> capability as u32 & 1 == 1;
        let is_alone = matches!(
            capability,
            Capability::SysPtrace | Capability::DacReadSearch
        );
        // The others were split off from CAP_SYS_ADMIN, which still includes them.
        has(capability) || !is_alone && has(Capability::SysAdmin)
    }

    /// Whether memtrace may do with any file what its owner may (`CAP_FOWNER`).
    #[must_use]
    pub fn owns_all(&self) -> bool {
        const CAP_FOWNER: u32 = 3;
        self.capabilities >> CAP_FOWNER & 1 == 1
    }

    /// The capabilities that are there and of use: `CAP_BPF and ...`, or `none of use`.
    pub(super) fn useful_capabilities(&self) -> String {
        let names: Vec<_> = Capability::ALL
            .into_iter()
            .filter(|&capability| self.capabilities >> capability as u32 & 1 == 1)
            .map(Capability::name)
            .collect();
        if names.is_empty() {
            "no capability of use".to_owned()
        } else {
            names.join(", ")
        }
    }

    /// The kernel's major and minor version, where its release begins with them.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim_end().to_owned())
}

/// The choice in brackets of `none [integrity] confidentiality`.
fn selected(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (mode, _) = rest.split_once(']')?;
    Some(mode.to_owned())
}

fn is_namespace(kind: &str, inode: u64) -> Option<bool> {
    let found = fs::metadata(format!("/proc/self/ns/{kind}")).ok()?;
    Some(found.ino() == inode)
}

fn ancestors(of: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = parse::<Stat>(pid, "stat").ok()?;
        u32::try_from(stat.ppid).ok().filter(|parent| *parent > 0)
    };
    // Bounded, in case processes are replaced meanwhile.
    std::iter::successors(parent(of), |&pid| parent(pid))
        .take(1_000)
        .collect()
}

fn state_of(pid: u32) -> PidState {
    try_state_of(pid).unwrap_or_else(|error| match error {
        ProcError::NotFound(_) => PidState::Missing,
        ProcError::PermissionDenied(_) => PidState::Unreadable {
            why: io::ErrorKind::PermissionDenied.to_string(),
        },
        // The process ended between one file and the next.
        ProcError::Io(error, _) if error.raw_os_error() == Some(libc::ESRCH) => PidState::Missing,
        other => PidState::Unreadable {
            why: escape(&other.to_string()).into_owned(),
        },
    })
}

/// Parses a file of /proc/PID. The process's name in it need not be UTF-8.
fn parse<T: FromRead>(pid: u32, file: &str) -> Result<T, ProcError> {
    let bytes = fs::read(format!("/proc/{pid}/{file}"))?;
    T::from_read(String::from_utf8_lossy(&bytes).as_bytes())
}

fn try_state_of(pid: u32) -> Result<PidState, ProcError> {
    let (stat, status) = (parse::<Stat>(pid, "stat")?, parse::<Status>(pid, "status")?);
    let comm = escape(&stat.comm).into_owned();
    Ok(if stat.flags & PF_KTHREAD != 0 {
        PidState::KernelThread { comm }
    } else if status.tgid != pid as i32 {
        PidState::ThreadOf {
            process: status.tgid as u32,
        }
    } else if matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1 {
        // If it has other threads, only the first has ended, and the process goes on.
        PidState::Zombie { comm }
    } else {
        PidState::Running { uid: status.euid }
    })
}

fn has_loop() -> bool {
    // Where the question cannot be answered, loading the programs will answer it.
    std::env::var_os(WITHOUT_LOOP).is_none()
        && is_helper_supported(ProgramType::PerfEvent, BpfHelper::BPF_FUNC_loop).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_ancestors_are_known() {
        let facts = Facts::gather(&[std::process::id(), 1, i32::MAX as u32]);
        // SAFETY: no pointers are passed.
        let uid = unsafe { libc::geteuid() };
        assert_eq!(facts.uid, uid);
        assert_eq!(facts.pids[0].1, PidState::Running { uid });
        assert!(matches!(
            facts.pids[1].1,
            PidState::Running { .. } | PidState::Unreadable { .. }
        ));
        assert_eq!(facts.pids[2].1, PidState::Missing);
        assert_eq!(
            facts.own.ancestors.first(),
            Some(&std::os::unix::process::parent_id())
        );
        assert!(facts.kernel_version().unwrap() > (2, 6));
    }

    #[test]
    fn threads_and_zombies_are_told_from_processes() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: no pointers are passed.
            tell.send(unsafe { libc::gettid() } as u32).unwrap();
            let _ = ended.recv();
        });
        let own = std::process::id();
        assert_eq!(
            state_of(told.recv().unwrap()),
            PidState::ThreadOf { process: own }
        );
        drop(end);
        thread.join().unwrap();

        let mut child = std::process::Command::new("true").spawn().unwrap();
        let zombie = PidState::Zombie {
            comm: "true".to_owned(),
        };
        let start = std::time::Instant::now();
        while state_of(child.id()) != zombie {
            assert!(start.elapsed().as_secs() < 10);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_process_may_have_any_name() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: the name ends with a NUL, and only this thread gets it.
            unsafe { libc::prctl(libc::PR_SET_NAME, c"\xff) Z 1\n".as_ptr()) };
            // SAFETY: no pointers are passed.
            tell.send(unsafe { libc::gettid() } as u32).unwrap();
            let _ = ended.recv();
        });
        let process = std::process::id();
        assert_eq!(
            state_of(told.recv().unwrap()),
            PidState::ThreadOf { process }
        );
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn the_lockdown_mode_is_the_one_in_brackets() {
        assert_eq!(
            selected("none [integrity] confidentiality").as_deref(),
            Some("integrity")
        );
        assert_eq!(selected("none"), None);
    }
}
