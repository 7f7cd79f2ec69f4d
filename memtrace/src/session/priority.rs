//! memtrace's own priority while it traces.

use log::debug;

/// The nice value of the thread that reads records: ahead of ordinary ones.
const NICENESS: libc::c_int = -10;

/// Asks for the calling thread to be run before the target where both want the same CPU: what is
/// read too late is lost, and reading it needs a tenth of a CPU at most. Neither processes nor
/// threads that it starts afterwards inherit that.
pub fn stay_ahead() {
    // What the kernel reads: a priority. The call itself, since not every C library makes it.
    let no_priority: libc::c_int = 0;
    let policy = libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameter is valid for reading; no other pointers are passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            policy,
            &raw const no_priority,
        ) == 0
            && libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) == 0
    };
    if !done {
        let error = std::io::Error::last_os_error();
        debug!("memtrace keeps its priority: {error}");
    }
}
