//! What can go wrong with a device, and what to do about it. The texts are complete: no error has another behind it.

use std::io;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name does not fit an interface.
    #[error(
        "interface name {name:?} must have 1 to 15 bytes without '/', '%', white space and control characters"
    )]
    BadName {
        /// What was given.
        name: String,
    },
    /// The MTU is out of range.
    #[error("MTU {mtu} of interface {name:?} is not between 576 and 65455")]
    BadMtu {
        /// The interface.
        name: String,
        /// What was given.
        mtu: u32,
    },
    /// The interface could not be made.
    #[error("cannot {attempt} for interface {name:?}: {reason}{hint}", hint = hint(reason))]
    Tun {
        /// What was attempted.
        attempt: &'static str,
        /// The interface.
        name: String,
        /// Why not.
        reason: io::Error,
    },
    /// The UDP port could not be opened.
    #[error("cannot listen on UDP port {port}: {reason}{hint}", hint = hint(reason))]
    Listen {
        /// The port.
        port: u16,
        /// Why not.
        reason: io::Error,
    },
    /// The mark could not be set.
    #[error("cannot mark datagrams with {mark:#x}: {reason}{hint}", hint = hint(reason))]
    Fwmark {
        /// The mark.
        mark: u32,
        /// Why not.
        reason: io::Error,
    },
    /// A thread or another resource of the device could not be made.
    #[error("cannot {attempt}: {reason}")]
    Resource {
        /// What was attempted.
        attempt: &'static str,
        /// Why not.
        reason: io::Error,
    },
    /// The directory of the control socket cannot be used.
    #[error("no control socket can be made: {0}")]
    Directory(#[from] files::Error),
    /// The control socket could not be served or reached.
    #[error("cannot {attempt} {path}: {reason}")]
    Socket {
        /// What was attempted.
        attempt: &'static str,
        /// The socket.
        path: String,
        /// Why not.
        reason: io::Error,
    },
    /// Another process serves the control socket.
    #[error("{path} is served by another process: stop the device that uses this interface name")]
    SocketInUse {
        /// The socket.
        path: String,
    },
    /// A line of the UAPI that is wrong.
    #[error("UAPI line {line:?}: {problem}")]
    Protocol {
        /// The line, without what may be secret.
        line: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The other side of the UAPI refused.
    #[error("the device at {path} answered errno {errno}: {reason}", reason = io::Error::from_raw_os_error(*errno))]
    Refused {
        /// The socket.
        path: String,
        /// As in `errno.h`.
        errno: i32,
    },
    /// Somebody removed the interface; the device has ended.
    #[error("interface {name:?} was removed: create the device again")]
    InterfaceGone {
        /// The interface.
        name: String,
    },
    /// The device was closed.
    #[error("the device is closed")]
    Closed,
}

/// What a user can do about the common refusals.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (CAP_NET_ADMIN is needed)",
        Some(libc::EADDRINUSE) => " (another process uses this port: choose another one or stop it)",
        Some(libc::ENOENT | libc::ENODEV) => " (is the tun module loaded and /dev/net/tun there?)",
        Some(libc::EBUSY) => " (the interface is used by another process)",
        _ => "",
    }
}
