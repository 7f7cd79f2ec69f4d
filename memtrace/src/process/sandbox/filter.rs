//! The system calls that are left, by seccomp. Any other one ends the process.
//!
//! The list was made from what the engine and the allocator call, with what the standard library
//! and the C library may call instead, on other versions of them.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

/// Calls that are permitted whatever their arguments are.
const ALWAYS: &[libc::c_long] = &[
    // What it has open, and the socket.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_lseek,
    libc::SYS_close,
    // What files are.
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Signals to itself, which end it.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_setitimer,
    // The rest.
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sysinfo,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Those that this architecture has beside them.
#[cfg(target_arch = "x86_64")]
const ALSO: &[libc::c_long] = &[libc::SYS_alarm, libc::SYS_readlink, libc::SYS_stat];
#[cfg(not(target_arch = "x86_64"))]
const ALSO: &[libc::c_long] = &[];

/// How musl opens files, on this architecture.
#[cfg(target_arch = "x86_64")]
const ALSO_WITHOUT: &[(libc::c_long, u8, i32)] =
    &[(libc::SYS_open, 1, WRITING & !libc::O_DIRECTORY)];
#[cfg(not(target_arch = "x86_64"))]
const ALSO_WITHOUT: &[(libc::c_long, u8, i32)] = &[];

/// Flags with which a file is opened to be changed, or made.
const WRITING: i32 =
    libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE;

/// Calls that are permitted if none of some bits are set in an argument: call, argument, bits.
const WITHOUT: [(libc::c_long, u8, i32); 3] = [
    (libc::SYS_openat, 2, WRITING & !libc::O_DIRECTORY),
    (libc::SYS_mmap, 2, libc::PROT_EXEC),
    (libc::SYS_mprotect, 2, libc::PROT_EXEC),
];

/// What may be asked of a descriptor. musl sets its flag, which matters to exec alone, of each file
/// that it opens.
const FCNTL: [i32; 4] = [
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_DUPFD_CLOEXEC,
];

/// Lets nothing through but that, from now on.
pub(super) fn apply() -> Result<(), Error> {
    apply_filter(&program()?)
}

fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in ALWAYS.iter().chain(ALSO) {
        rules.insert(call, Vec::new());
    }
    for &(call, argument, bits) in WITHOUT.iter().chain(ALSO_WITHOUT) {
        let bits = u64::from(bits.cast_unsigned());
        rules.insert(call, vec![rule(argument, SeccompCmpOp::MaskedEq(bits), 0)?]);
    }
    let asked = FCNTL.map(|what| rule(1, SeccompCmpOp::Eq, u64::from(what.cast_unsigned())));
    let asked: Result<_, _> = asked.into_iter().collect();
    rules.insert(libc::SYS_fcntl, asked?);
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
}

/// That an argument compares with a value.
fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let length = SeccompCmpArgLen::Dword;
    let condition = SeccompCondition::new(argument, length, operator, value)?;
    SeccompRule::new(vec![condition])
}
