//! The WireGuard interface behind one trait, whoever runs it: the kernel, a device in this process, or a device of
//! another process.

mod kernel;
mod userspace;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, SystemTime},
};

use hostnet::{
    Handshake, Wireguard,
    plan::{DeviceSettings, PeerChange},
};
use ipnet::IpNet;
use mesh::PublicKey;

pub use kernel::Kernel;
pub use userspace::{Embedded, External};

use crate::{error::Error, netlink::Socket};

/// Who runs the WireGuard interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The kernel.
    Kernel,
    /// A device in this process.
    Embedded,
    /// A device of another process, over its UAPI socket.
    Uapi,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Embedded => "embedded",
            Self::Uapi => "uapi",
        })
    }
}

/// Who should run the WireGuard interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WireguardChoice {
    /// The kernel if it can, else a device in this process.
    #[default]
    Auto,
    /// The kernel.
    Kernel,
    /// A device in this process.
    Embedded,
    /// Somebody else made the interface: it is configured over netlink if it is one of the kernel's, else over its
    /// UAPI socket.
    Existing,
}

/// A WireGuard interface as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub wireguard: Wireguard,
    pub handshakes: BTreeMap<PublicKey, Handshake>,
}

/// A change of one peer.
#[derive(Debug, Clone, Copy)]
pub enum PeerEdit<'a> {
    /// Add it, or change what is said of it.
    Set(&'a PublicKey, &'a PeerChange),
    /// Remove it.
    Remove(&'a PublicKey),
}

/// A WireGuard interface that can be read and changed. Nothing that is not named in a change is touched: above all
/// neither sessions nor learned endpoints.
pub trait WireguardBackend: Send {
    /// Who it is.
    fn backend(&self) -> Backend;

    /// The kind of interface that the kernel sees (`IFLA_INFO_KIND`).
    fn link_kinds(&self) -> &'static [&'static str];

    /// Makes the interface, down.
    ///
    /// # Errors
    /// When it cannot be made, or is not ours to make.
    fn create(&mut self, route: &mut Socket, mtu: Option<u32>) -> Result<(), Error>;

    /// Removes the interface if that is not done by removing the link.
    fn close(&mut self) {}

    /// The interface as it is; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn observe(&mut self) -> Result<Option<Device>, Error>;

    /// Sets private key, UDP port and mark.
    ///
    /// # Errors
    /// When they are refused.
    fn set_device(&mut self, settings: &DeviceSettings) -> Result<(), Error>;

    /// Changes peers; the result for each, in their order.
    fn set_peers(&mut self, edits: &[PeerEdit<'_>]) -> Vec<Result<(), Error>>;
}

/// Which prefixes go to which peer: what a replacement of all allowed IPs of a peer has to name.
#[derive(Debug, Default)]
pub struct AllowedIps(BTreeMap<PublicKey, BTreeSet<IpNet>>);

impl AllowedIps {
    /// Those of an interface.
    pub fn of(wireguard: &Wireguard) -> Self {
        Self(wireguard.peers.iter().map(|(key, peer)| (*key, peer.allowed_ips.clone())).collect())
    }

    /// The full list that a peer has to get when some of its prefixes go or it is new; `None` when it is enough to add
    /// those that are added.
    pub fn replacement(&self, key: &PublicKey, change: &PeerChange) -> Option<Vec<IpNet>> {
        if !change.new && change.remove_allowed_ips.is_empty() {
            return None;
        }
        let kept = self.0.get(key).filter(|_| !change.new).into_iter().flatten();
        let kept = kept.filter(|net| !change.remove_allowed_ips.contains(net));
        Some(kept.chain(&change.add_allowed_ips).copied().collect())
    }

    /// Follows a change. An added prefix leaves the peer that had it.
    pub fn follow(&mut self, edit: &PeerEdit<'_>) {
        match edit {
            PeerEdit::Remove(key) => {
                self.0.remove(key);
            }
            PeerEdit::Set(key, change) => {
                for net in &change.add_allowed_ips {
                    self.0.values_mut().for_each(|nets| {
                        nets.remove(net);
                    });
                }
                let own = self.0.entry(**key).or_default();
                change.remove_allowed_ips.iter().for_each(|net| {
                    own.remove(net);
                });
                own.extend(change.add_allowed_ips.iter().copied());
            }
        }
    }
}

/// How long ago something was, by the wall clock, which the kernel reports handshakes in. A clock that was set back
/// gives zero.
fn age(then: SystemTime) -> Duration {
    SystemTime::now().duration_since(then).unwrap_or_default()
}
