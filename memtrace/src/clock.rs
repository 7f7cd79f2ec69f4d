//! The clocks that memtrace reads.
//!
//! Records of the kernel side are stamped with the monotonic clock, and so is everything that is
//! compared with them. The kernel counts the start of a process by the boot-time clock, which also
//! runs while the machine sleeps.

use std::time::{Duration, SystemTime};

/// Now, in nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    now_ns(libc::CLOCK_MONOTONIC)
}

/// Now, in nanoseconds of `CLOCK_BOOTTIME`.
#[must_use]
pub fn boottime_ns() -> u64 {
    now_ns(libc::CLOCK_BOOTTIME)
}

/// CPU time that the calling thread has used.
#[must_use]
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(now_ns(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// CPU time that memtrace has used so far, with all its threads.
#[must_use]
pub fn process_cpu() -> Duration {
    Duration::from_nanos(now_ns(libc::CLOCK_PROCESS_CPUTIME_ID))
}

/// Now, as RFC 3339 with seconds, in UTC.
#[must_use]
pub fn now_rfc3339() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn now_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` may be written for the whole call, which writes nothing else. These clocks
    // exist on every kernel that memtrace runs on; without one, `time` stays 0.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_monotonic_clock_is_the_one_that_instants_are_of() {
        let (before, began) = (monotonic_ns(), Instant::now());
        std::thread::sleep(Duration::from_millis(5));
        // In this order the second span lies within the first.
        let span = began.elapsed();
        let passed = monotonic_ns() - before;
        assert!(passed >= span.as_nanos() as u64);
        assert!(passed < span.as_nanos() as u64 + 10_000_000_000);
    }

    #[test]
    fn the_boot_time_clock_never_lags_behind_the_monotonic_one() {
        let monotonic = monotonic_ns();
        assert!(monotonic > 0 && boottime_ns() >= monotonic);
    }

    #[test]
    fn a_moment_is_written_with_seconds_and_in_utc() {
        let text = now_rfc3339();
        let read = humantime::parse_rfc3339(&text).unwrap();
        assert!(
            text.ends_with('Z') && text.len() == "2024-01-01T00:00:00Z".len(),
            "{text}"
        );
        assert!(read.elapsed().unwrap_or_default() < Duration::from_mins(1));
    }
}
