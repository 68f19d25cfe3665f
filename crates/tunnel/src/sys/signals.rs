//! Being asked to end, by ctrl-C or by whoever manages services, as a descriptor (signalfd(2)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::check;

/// Readable when the process was asked to end.
pub(crate) struct EndSignals(OwnedFd);

impl EndSignals {
    /// From now on SIGINT, SIGTERM and SIGHUP do not end the process: the calling thread, and those it starts later, leave
    /// them to this descriptor.
    pub(crate) fn block() -> io::Result<Self> {
        // SAFETY: a `sigset_t` of zeros is valid, and made empty below.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is valid and lives through the calls.
        unsafe {
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
        }
        // SAFETY: `set` is valid; the old mask is not asked for.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: `set` is valid; the result is checked before it is owned.
        let fd =
            check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl AsRawFd for EndSignals {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}
