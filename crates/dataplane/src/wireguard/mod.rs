//! The WireGuard interface behind one trait, whoever runs it: the kernel, a device in this process, or a device of
//! another process.

mod kernel;
mod userspace;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
pub struct AllowedIps {
    of_peers: BTreeMap<PublicKey, BTreeSet<IpNet>>,
    owners: HashMap<IpNet, PublicKey>,
}

impl AllowedIps {
    /// Those of an interface.
    pub fn of(wireguard: &Wireguard) -> Self {
        let of_peers: BTreeMap<_, _> =
            wireguard.peers.iter().map(|(key, peer)| (*key, peer.allowed_ips.clone())).collect();
        let owners = of_peers.iter().flat_map(|(key, nets)| nets.iter().map(|net| (*net, *key))).collect();
        Self { of_peers, owners }
    }

    /// The full list that a peer has to get when some of its prefixes go or it is new; `None` when it is enough to add
    /// those that are added.
    pub fn replacement(&self, key: &PublicKey, change: &PeerChange) -> Option<Vec<IpNet>> {
        if !change.new && change.remove_allowed_ips.is_empty() {
            return None;
        }
        let removed: BTreeSet<IpNet> = change.remove_allowed_ips.iter().copied().collect();
        let kept = self.of_peers.get(key).filter(|_| !change.new).into_iter().flatten();
        let kept = kept.filter(|net| !removed.contains(net));
        Some(kept.chain(&change.add_allowed_ips).copied().collect())
    }

    /// Follows a change. An added prefix leaves the peer that had it.
    pub fn follow(&mut self, edit: &PeerEdit<'_>) {
        match edit {
            PeerEdit::Remove(key) => {
                for net in self.of_peers.remove(key).into_iter().flatten() {
                    self.owners.remove(&net);
                }
            }
            PeerEdit::Set(key, change) => {
                for net in &change.remove_allowed_ips {
                    if self.owners.get(net) == Some(*key) {
                        self.take_away(net);
                    }
                }
                for net in &change.add_allowed_ips {
                    self.take_away(net);
                    self.owners.insert(*net, **key);
                }
                self.of_peers.entry(**key).or_default().extend(&change.add_allowed_ips);
            }
        }
    }

    /// From whoever has it.
    fn take_away(&mut self, net: &IpNet) {
        let nets = self.owners.remove(net).and_then(|owner| self.of_peers.get_mut(&owner));
        if let Some(nets) = nets {
            nets.remove(net);
        }
    }
}

/// How long ago something was, by the wall clock, which the kernel reports handshakes in. A clock that was set back
/// gives zero.
fn age(then: SystemTime) -> Duration {
    SystemTime::now().duration_since(then).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use hostnet::WireguardPeer;

    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32]).unwrap()
    }

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn change(add: &str, remove: &str) -> PeerChange {
        PeerChange { add_allowed_ips: nets(add), remove_allowed_ips: nets(remove), ..PeerChange::default() }
    }

    #[test]
    fn an_allowed_ip_belongs_to_whoever_got_it_last() {
        let peer =
            |text| WireguardPeer { allowed_ips: nets(text).into_iter().collect(), ..Default::default() };
        let peers = [(key(1), peer("10.0.0.1/32 10.0.0.2/32")), (key(2), peer("10.0.0.3/32"))];
        let mut allowed = AllowedIps::of(&Wireguard { peers: peers.into(), ..Wireguard::default() });
        let check = |allowed: &AllowedIps, number: u8, expected: &str| {
            let all = allowed.replacement(&key(number), &change("", "10.9.9.9/32"));
            assert_eq!(all, Some(nets(expected)), "{number}");
        };
        allowed.follow(&PeerEdit::Set(&key(2), &change("10.0.0.1/32", "10.0.0.3/32")));
        check(&allowed, 1, "10.0.0.2/32");
        check(&allowed, 2, "10.0.0.1/32");
        // What somebody else has is not lost by whoever had it before.
        allowed.follow(&PeerEdit::Set(&key(1), &change("", "10.0.0.1/32")));
        check(&allowed, 2, "10.0.0.1/32");
        assert_eq!(allowed.replacement(&key(2), &change("10.0.0.4/32", "")), None);
        let replaced = change("10.0.0.4/32", "10.0.0.1/32");
        assert_eq!(allowed.replacement(&key(2), &replaced), Some(nets("10.0.0.4/32")));
        allowed.follow(&PeerEdit::Remove(&key(2)));
        allowed.follow(&PeerEdit::Set(&key(1), &change("10.0.0.1/32", "")));
        check(&allowed, 1, "10.0.0.1/32 10.0.0.2/32");
        check(&allowed, 2, "");
    }
}
