//! What can go wrong between us and the kernel. Every variant says what was attempted on which object; no variant holds
//! a key.

use std::io;

use hostnet::{Change, LinkName};

use crate::netlink::Refusal;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket to the kernel could not be opened.
    #[error("opening a netlink socket for {what}: {source}")]
    Socket {
        /// What it is for.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Something could not be read.
    #[error("reading {what} from the kernel: {source}")]
    Observe {
        /// What.
        what: &'static str,
        /// Why not.
        source: Refusal,
    },
    /// An interface that is needed does not exist.
    #[error("there is no interface {0}")]
    NoLink(LinkName),
    /// An interface has a name that we want to use, but another kind.
    #[error(
        "the interface {link} exists and is of kind {found:?}, not {wanted}: remove it, or use another name"
    )]
    WrongKind {
        /// The interface.
        link: LinkName,
        /// Its kind as the kernel names it.
        found: String,
        /// The kind that is needed.
        wanted: &'static str,
    },
    /// The kernel cannot encapsulate.
    #[error(
        "the kernel cannot make the {kind} interface {link} ({source}): load the module {kind}, or start with \
         --encapsulation-type=vxlan or --encapsulate=never"
    )]
    NoEncapsulation {
        /// `ipip` or `sit`.
        kind: &'static str,
        /// The interface.
        link: LinkName,
        /// The kernel's answer.
        source: Refusal,
    },
    /// The kernel cannot make our VXLAN interface.
    #[error(
        "the kernel cannot make the VXLAN interface {link} ({source}): load the module vxlan, see that nothing else \
         listens on UDP port {}, or start with --encapsulate=never",
        hostnet::VXLAN_PORT
    )]
    NoVxlan {
        /// The interface.
        link: LinkName,
        /// The kernel's answer.
        source: Refusal,
    },
    /// The kernel has no WireGuard, and nothing else was allowed.
    #[error(
        "the kernel has no WireGuard ({0}): load the module wireguard, or use the embedded device (--wireguard=auto)"
    )]
    NoWireguard(Refusal),
    /// There is no way to configure an interface that exists.
    #[error("the interface {link} can be configured neither over netlink nor over its UAPI socket: {reason}")]
    NoControl {
        /// The interface.
        link: LinkName,
        /// What was tried.
        reason: String,
    },
    /// The kernel refused a change.
    #[error("{attempt}: {source}{}", hint(.source))]
    Refused {
        /// What was attempted on which object.
        attempt: String,
        /// The kernel's answer.
        source: Refusal,
    },
    /// A change that cannot be said to the kernel at all.
    #[error("{attempt}: {reason}")]
    Invalid {
        /// What was attempted on which object.
        attempt: String,
        /// Why it makes no sense.
        reason: &'static str,
    },
    /// A kernel setting could not be written.
    #[error(
        "writing 1 to {path}: {source}; set it on the host, or mount its /proc/sys/net writable at /host/proc/sys/net"
    )]
    Setting {
        /// The file in `/proc/sys`.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A WireGuard device in user space did not do what it was asked for.
    #[error("{attempt}: {reason}")]
    Device {
        /// What was attempted on which object.
        attempt: String,
        /// What the device said.
        reason: String,
    },
    /// The thread that talks to the kernel has ended.
    #[error("the thread that talks to the kernel has ended")]
    Ended,
}

impl Error {
    pub(crate) fn observing(what: &'static str) -> impl FnOnce(Refusal) -> Self {
        move |source| Self::Observe { what, source }
    }

    pub(crate) fn refused(attempt: impl Into<String>) -> impl FnOnce(Refusal) -> Self {
        move |source| Self::Refused { attempt: attempt.into(), source }
    }
}

/// What a user can do about an answer of the kernel.
fn hint(refusal: &Refusal) -> &'static str {
    match refusal.errno() {
        libc::EPERM => " (this needs the capability CAP_NET_ADMIN)",
        _ => "",
    }
}

/// A change that was tried and did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// The change.
    pub change: Change,
    /// What went wrong.
    pub error: Error,
}
