//! The system calls of the device, each wrapped so that what is outside needs no `unsafe`.
//!
//! Thin by intent: no decision is made here, no state kept but file descriptors.

pub(crate) mod signals;
pub(crate) mod tun;
pub(crate) mod udp;

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::clock::{Moment, Now};

/// Turns the result of a system call into an `io::Result`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Reads both clocks. The moment counts time spent asleep, as keys age then, too.
pub(crate) fn now() -> Now {
    Now { moment: moment(), wall: read_clock(libc::CLOCK_REALTIME) }
}

/// Reads the clock that never goes back.
pub(crate) fn moment() -> Moment {
    Moment::default().plus(read_clock(libc::CLOCK_BOOTTIME))
}

fn read_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing for the duration of the call.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    debug_assert_eq!(result, 0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A file descriptor that wakes those who poll it.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed; the result is checked before it is owned.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes whoever polls, now or later. A counter that is full rings already.
    pub(crate) fn ring(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from `one`.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), mem::size_of::<u64>()) };
    }

    /// Stops ringing.
    pub(crate) fn quiet(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to `count`.
        let _ = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), mem::size_of::<u64>()) };
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Waits until one of the descriptors is readable or broken, or the time is up; tells which are.
pub(crate) fn wait<const N: usize>(fds: [i32; N], timeout: Option<Duration>) -> io::Result<[bool; N]> {
    let mut polls = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    poll_all(&mut polls, timeout)?;
    Ok(polls.map(|poll| poll.revents != 0))
}

/// What [`poll`] waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// -1 is nothing.
    pub(crate) fd: i32,
    events: libc::c_short,
}

impl Wanted {
    pub(crate) fn input(of: &impl AsRawFd) -> Self {
        Self { fd: of.as_raw_fd(), events: libc::POLLIN }
    }

    pub(crate) fn output(to: &impl AsRawFd) -> Self {
        Self { fd: to.as_raw_fd(), events: libc::POLLOUT }
    }
}

/// Waits until one of many is ready or broken, or the time is up; tells which are.
pub(crate) fn poll(wanted: &[Wanted], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polls: Vec<libc::pollfd> =
        wanted.iter().map(|one| libc::pollfd { fd: one.fd, events: one.events, revents: 0 }).collect();
    poll_all(&mut polls, timeout)?;
    Ok(polls.iter().map(|poll| poll.revents != 0).collect())
}

/// A wait that was interrupted looks like the end of the time.
fn poll_all(polls: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a deadline has passed when this returns.
    let milliseconds = timeout
        .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
    // SAFETY: `polls` lives through the call, and its length is given.
    let result = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, milliseconds) };
    match check(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            polls.iter_mut().for_each(|poll| poll.revents = 0);
            Ok(())
        }
        result => result.map(drop),
    }
}

/// The number of an interface in the network namespace of this thread.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero and lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Sets a socket option to a plain value.
fn set_option<T: Copy>(fd: i32, level: i32, name: i32, value: T) -> io::Result<()> {
    let length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `length` bytes are read from `value`, which is plain data.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) })?;
    Ok(())
}

/// Makes a socket that is closed on exec.
fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed; the result is checked before it is owned.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
