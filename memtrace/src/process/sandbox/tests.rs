//! Trying to get out. Each attempt is made by a process of its own, which is this test program
//! again, in the sandbox; once as it is, and once without the filter of system calls, which would
//! end the process before the other layers are asked.

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use libc::{EACCES, EAGAIN, ENOENT, EPERM, c_int, c_long};

use super::*;

/// The environment variables that say which attempt is made, and whether calls are filtered.
const ATTEMPT: &str = "MEMTRACE_ATTEMPT";
const FILTER: &str = "MEMTRACE_FILTER";

/// How a process ends whose attempt succeeded, or for whose attempt there is no Landlock.
const SUCCEEDED: i32 = 0;
const NO_LANDLOCK: i32 = 250;

/// What a process has before it enters.
struct Before {
    parent: i32,
    /// A file that belongs to root, and that everybody may read.
    program: File,
    status: File,
}

/// What an attempt must lead to.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The process is ended by SIGSYS.
    Killed,
    /// An error of one of these numbers.
    Fails(&'static [i32]),
    /// The same, where there is Landlock.
    FailsByLandlock(&'static [i32]),
    /// It is what a process in the sandbox should do.
    Succeeds,
    /// Only the filter keeps it from doing that, which is harmless by itself.
    NotTried,
}

use Expected::{Fails, FailsByLandlock, Killed, NotTried, Succeeds};

struct Attempt {
    name: &'static str,
    make: fn(&Before) -> io::Result<()>,
    expected: Expected,
    without_filter: Expected,
}

const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "it is nobody and may do nothing",
        make: is_nobody,
        expected: Succeeds,
        without_filter: NotTried,
    },
    Attempt {
        name: "reads what it was given",
        make: |before| before.program.read_exact_at(&mut [0; 64], 0),
        expected: Succeeds,
        without_filter: Succeeds,
    },
    Attempt {
        name: "opens what it was given again",
        make: |before| reopen(before, libc::O_RDONLY),
        expected: Succeeds,
        without_filter: Succeeds,
    },
    Attempt {
        name: "opens what it was given for writing",
        make: |before| reopen(before, libc::O_RDWR),
        expected: Killed,
        without_filter: Fails(&[EACCES]),
    },
    Attempt {
        name: "makes a file",
        make: |_| File::create("/made").map(drop),
        expected: Killed,
        without_filter: Fails(&[EACCES, EPERM, ENOENT]),
    },
    Attempt {
        name: "makes a file in /tmp",
        make: |_| File::create("/tmp/made").map(drop),
        expected: Killed,
        without_filter: Fails(&[EACCES, ENOENT]),
    },
    #[cfg(target_arch = "x86_64")]
    Attempt {
        name: "makes a file by the call that musl makes",
        make: |_| open(c"/tmp/made", libc::O_WRONLY | libc::O_CREAT),
        expected: Killed,
        without_filter: Fails(&[EACCES, ENOENT]),
    },
    #[cfg(target_arch = "x86_64")]
    Attempt {
        name: "reads /etc/passwd by the call that musl makes",
        make: |_| open(c"/etc/passwd", libc::O_RDONLY),
        expected: Fails(&[ENOENT]),
        without_filter: Fails(&[ENOENT]),
    },
    Attempt {
        name: "reads /etc/shadow",
        make: |_| fs::read("/etc/shadow").map(drop),
        expected: Fails(&[ENOENT]),
        without_filter: Fails(&[ENOENT]),
    },
    Attempt {
        name: "reads /etc/passwd",
        make: |_| fs::read("/etc/passwd").map(drop),
        expected: Fails(&[ENOENT]),
        without_filter: Fails(&[ENOENT]),
    },
    Attempt {
        name: "reads /etc/passwd by another way",
        make: |_| fs::read("../../../../etc/passwd").map(drop),
        expected: Fails(&[ENOENT]),
        without_filter: Fails(&[ENOENT]),
    },
    Attempt {
        name: "reads its parent's memory as a file",
        make: |before| File::open(format!("/proc/{}/mem", before.parent)).map(drop),
        expected: Fails(&[ENOENT]),
        without_filter: Fails(&[ENOENT]),
    },
    Attempt {
        name: "lists a directory",
        make: |_| fs::read_dir("/").map(drop),
        expected: FailsByLandlock(&[EACCES]),
        without_filter: FailsByLandlock(&[EACCES]),
    },
    Attempt {
        name: "makes a socket",
        make: |_| {
            call(
                libc::SYS_socket,
                [libc::AF_INET.into(), libc::SOCK_DGRAM.into(), 0],
            )
        },
        expected: Killed,
        without_filter: NotTried,
    },
    Attempt {
        name: "connects",
        make: |_| TcpStream::connect(("127.0.0.1", 1)).map(drop),
        expected: Killed,
        without_filter: FailsByLandlock(&[EACCES]),
    },
    Attempt {
        name: "forks",
        // SAFETY: the child, if there is one, ends at once.
        make: |_| match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: ends the process, and nothing else.
            0 => unsafe { libc::_exit(0) },
            _ => Ok(()),
        },
        expected: Killed,
        without_filter: Fails(&[EAGAIN]),
    },
    Attempt {
        name: "runs a program by its path",
        make: |_| execute(libc::AT_FDCWD, c"/bin/true"),
        expected: Killed,
        without_filter: Fails(&[ENOENT]),
    },
    Attempt {
        name: "runs a program that it was given",
        make: |before| execute(before.program.as_raw_fd(), c""),
        expected: Killed,
        without_filter: FailsByLandlock(&[EACCES]),
    },
    Attempt {
        name: "traces its parent",
        make: |before| {
            call(
                libc::SYS_ptrace,
                [libc::PTRACE_ATTACH.into(), before.parent.into(), 0],
            )
        },
        expected: Killed,
        without_filter: Fails(&[EPERM]),
    },
    Attempt {
        name: "reads its parent's memory",
        make: |before| read_memory(before.parent),
        expected: Killed,
        without_filter: Fails(&[EPERM]),
    },
    Attempt {
        name: "sends its parent a signal",
        make: |before| call(libc::SYS_kill, [before.parent.into(), 0, 0]),
        expected: Killed,
        without_filter: Fails(&[EPERM]),
    },
    Attempt {
        name: "becomes root again",
        make: |_| call(libc::SYS_setresuid, [0, 0, 0]),
        expected: Killed,
        without_filter: Fails(&[EPERM]),
    },
    Attempt {
        name: "leaves its root directory",
        make: |_| call(libc::SYS_chroot, [c"/".as_ptr() as c_long, 0, 0]),
        expected: Killed,
        without_filter: Fails(&[EPERM]),
    },
    Attempt {
        name: "makes code of data",
        make: |_| make_code(),
        expected: Killed,
        without_filter: NotTried,
    },
];

fn call(number: c_long, arguments: [c_long; 3]) -> io::Result<()> {
    let [first, second, third] = arguments;
    // SAFETY: the attempts that use this pass numbers, or pointers to constants.
    match unsafe { libc::syscall(number, first, second, third, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(target_arch = "x86_64")]
fn open(path: &std::ffi::CStr, flags: c_int) -> io::Result<()> {
    call(
        libc::SYS_open,
        [path.as_ptr() as c_long, flags.into(), 0o600],
    )
}

fn execute(directory: c_int, path: &std::ffi::CStr) -> io::Result<()> {
    let arguments = [c"true".as_ptr(), std::ptr::null()];
    // SAFETY: the path and the arguments are constants, each list of them ends with null.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            directory,
            path.as_ptr(),
            arguments.as_ptr(),
            arguments[1..].as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

fn read_memory(pid: i32) -> io::Result<()> {
    let mut byte = 0_u8;
    let here = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let there = libc::iovec {
        iov_base: (ATTEMPTS.as_ptr() as *mut libc::c_void),
        iov_len: 1,
    };
    // SAFETY: one byte may be written here; what is read is another process's.
    match unsafe { libc::process_vm_readv(pid, &raw const here, 1, &raw const there, 1, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn make_code() -> io::Result<()> {
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let code = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing here uses.
    match unsafe { libc::mmap(std::ptr::null_mut(), 4096, code, anonymous, -1, 0) } {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Opens what it was given by its path, which is in its directory of descriptors.
fn reopen(before: &Before, flags: c_int) -> io::Result<()> {
    let number = before.program.as_raw_fd();
    let failed = |path: String| {
        let path = std::ffi::CString::new(path).unwrap();
        // SAFETY: the path is a string that ends with NUL.
        let opened = unsafe { libc::open(path.as_ptr(), flags) };
        (opened < 0).then(io::Error::last_os_error)
    };
    // Which of the two it is depends on whether debug files are installed.
    let outcomes = [format!("/{number}"), format!("/fd/{number}")].map(failed);
    if outcomes.iter().any(Option::is_none) {
        return Ok(());
    }
    let errors = outcomes.into_iter().flatten();
    let mut errors = errors.filter(|error| error.kind() != io::ErrorKind::NotFound);
    Err(errors
        .next()
        .unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// Checks what the kernel says of it.
fn is_nobody(before: &Before) -> io::Result<()> {
    let mut status = [0; 8192];
    let size = before.status.read_at(&mut status, 0)?;
    let status = String::from_utf8_lossy(&status[..size]);
    let field = |name: &str| -> Vec<&str> {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap().split_whitespace().skip(1).collect()
    };
    let nobody = ["65534"; 4];
    let none = ["0000000000000000"];
    let is_so = field("Uid:") == nobody
        && field("Gid:") == nobody
        && field("Groups:").is_empty()
        && ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"]
            .iter()
            .all(|set| field(set) == none)
        && field("NoNewPrivs:") == ["1"]
        && field("Seccomp:") == ["2"];
    if is_so {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

#[test]
#[ignore = "not a test: a process that others start, to try to break out"]
fn tries_to_break_out() {
    let Ok(name) = std::env::var(ATTEMPT) else {
        return;
    };
    let is_filtered = std::env::var(FILTER).unwrap() == "yes";
    let attempt = ATTEMPTS.iter().find(|each| each.name == name).unwrap();
    child::begin().unwrap();
    let before = Before {
        parent: std::os::unix::process::parent_id() as i32,
        program: File::open("/bin/true").unwrap(),
        status: File::open("/proc/thread-self/status").unwrap(),
    };
    let limits = Limits {
        data: 64 << 20,
        files: 64,
    };
    let sandbox = if is_filtered {
        enter(limits)
    } else {
        enter_but_for_calls(limits)
    };
    let expected = if is_filtered {
        attempt.expected
    } else {
        attempt.without_filter
    };
    let lacks = sandbox
        .missing
        .iter()
        .any(|what| what.starts_with("Landlock"));
    let status = if lacks && matches!(expected, FailsByLandlock(_)) {
        NO_LANDLOCK
    } else {
        match (attempt.make)(&before) {
            Ok(()) => SUCCEEDED,
            Err(error) => error.raw_os_error().unwrap_or(249),
        }
    };
    // SAFETY: ends the process, and nothing else.
    unsafe { libc::_exit(status) };
}

#[test]
fn nothing_gets_out_of_the_sandbox() {
    if !rustix::process::geteuid().is_root() {
        crate::skipped::skipped("only root can give up everything");
        return;
    }
    for attempt in ATTEMPTS {
        for (filter, expected) in [("yes", attempt.expected), ("no", attempt.without_filter)] {
            if matches!(expected, NotTried) {
                continue;
            }
            let ended = Command::new("/proc/self/exe")
                .args(["--ignored", "--exact"])
                .arg("process::sandbox::tests::tries_to_break_out")
                .env(ATTEMPT, attempt.name)
                .env(FILTER, filter)
                .stdout(std::process::Stdio::null())
                .status()
                .unwrap();
            if ended.code() == Some(NO_LANDLOCK) {
                crate::skipped::skipped("this kernel does not have all of Landlock");
                continue;
            }
            let is_so = match expected {
                Killed => ended.signal() == Some(libc::SIGSYS),
                Fails(errors) | FailsByLandlock(errors) => {
                    ended.code().is_some_and(|code| errors.contains(&code))
                }
                Succeeds => ended.code() == Some(SUCCEEDED),
                NotTried => true,
            };
            assert!(
                is_so,
                "{}, filter: {filter}: {ended:?} instead of {expected:?}",
                attempt.name
            );
        }
    }
}
