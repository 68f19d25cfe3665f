//! Times that two processes can compare: nanoseconds of the kernel's monotonic clock, and of the processor time of
//! a process.

use std::{io, time::Duration};

/// A moment by `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment. May be called between fork and exec.
    pub fn now() -> Self {
        Self(read(libc::CLOCK_MONOTONIC).unwrap_or_default())
    }

    /// How long ago an earlier moment was; zero for a later one.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The processor time that a process has used with all its threads, also those that have ended; without its children.
///
/// # Errors
/// When there is no such process.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock = 0;
    // SAFETY: the function writes a number to the place that it is given, and nothing else.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    read(clock).map(Duration::from_nanos).ok_or_else(io::Error::last_os_error)
}

fn read(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the structure that it is given, and nothing else.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (result == 0).then(|| time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}
