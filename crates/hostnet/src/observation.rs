//! What is seen on a host in one look: what is ours, and the facts that decisions need.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use mesh::PublicKey;

use crate::{HostState, Leftover, LinkName, uplink::Uplinks};

/// What is seen on a host in one look.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// What is ours.
    pub host: HostState,
    /// What is not, but matters.
    pub facts: HostFacts,
    /// What a Go agent may have left, too: routes of protocol `static` through interfaces that are not ours. They are its
    /// if their next hop is a node.
    pub suspects: BTreeSet<Leftover>,
    /// Tables of iptables-legacy that hold rules of a Go agent. They are not ours to change.
    pub legacy_tables: Vec<LegacyTable>,
    /// Of every WireGuard peer that had a handshake: when, and where the peer is.
    pub handshakes: BTreeMap<PublicKey, Handshake>,
}

/// A table of iptables-legacy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LegacyTable {
    /// `ip` or `ip6`.
    pub family: &'static str,
    /// For example `nat`.
    pub table: &'static str,
}

/// The last handshake with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// How long ago.
    pub age: Duration,
    /// Where packets of the peer came from.
    pub endpoint: Option<SocketAddr>,
    /// Bytes received from the peer.
    pub received: u64,
    /// Bytes sent to the peer.
    pub sent: u64,
}

impl Handshake {
    /// WireGuard drops a session three minutes after its handshake (`REJECT_AFTER_TIME` in the WireGuard paper,
    /// section 6.2); until then the peer's address is proven.
    pub const LIFETIME: Duration = Duration::from_secs(180);

    /// Whether the session that began with the handshake may still be in use.
    pub fn is_alive(&self) -> bool {
        self.age < Self::LIFETIME
    }
}

/// What else matters on a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// All interfaces except our own, by name.
    pub interfaces: BTreeMap<LinkName, Interface>,
    /// The interface of the default route with the lowest metric, IPv4 before IPv6.
    pub default_interface: Option<LinkName>,
    /// The routes that are not ours, of all tables but the one of the host's own addresses, sorted.
    pub routes: Vec<HostRoute>,
    /// Per family, the lowest priority of a rule that is not ours, by which packets of the mesh would find another table
    /// than ours.
    pub first_rule: [Option<u32>; 2],
}

/// A route that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// Where packets go to; without host bits.
    pub destination: IpNet,
    /// Who they are handed to.
    pub gateway: Option<IpAddr>,
    /// The interface that they leave through; `None`: they are dropped, or it is not known.
    pub link: Option<LinkName>,
    /// The routing table.
    pub table: u32,
}

/// An interface that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub running: bool,
    /// Its addresses with their prefix lengths, permanent ones first, without tentative and deprecated ones.
    pub addresses: Vec<IpNet>,
    /// Its kind as the kernel names it (`IFLA_INFO_KIND`), for example `bridge`, `veth`, `vxlan`; empty for hardware.
    pub kind: String,
    /// Those of its addresses that come after another one: an IPv4 address in the network of an earlier one, a temporary
    /// IPv6 address (RFC 8981). The kernel has one flag for both (`IFA_F_SECONDARY`, `IFA_F_TEMPORARY`).
    pub secondary: Vec<IpAddr>,
    /// Addresses that packets come from by routes of the main table through it (`RTA_PREFSRC`).
    pub sources: BTreeSet<IpAddr>,
    /// The bridge, bond or VRF that it is a port of.
    pub master: Option<LinkName>,
}

impl HostRoute {
    /// Whether this route, or its gateway, has anything to do with a destination.
    pub fn concerns(&self, destination: &IpNet) -> bool {
        let overlaps = destination.contains(&self.destination) || self.destination.contains(destination);
        (self.destination.prefix_len() > 0 && overlaps)
            || self.gateway.is_some_and(|gateway| destination.contains(&gateway))
    }
}

impl HostFacts {
    /// Whether nothing differs but the routes of others.
    pub fn same_but_routes(&self, other: &Self) -> bool {
        let Self { interfaces, default_interface, routes: _, first_rule } = self;
        *interfaces == other.interfaces
            && *default_interface == other.default_interface
            && *first_rule == other.first_rule
    }

    /// What a Go agent left is no route of somebody else.
    pub fn leave_out(&mut self, leftover: &Leftover) {
        if let Leftover::Route { route, .. } = leftover {
            self.routes.retain(|found| {
                (found.table, found.destination, found.link.as_ref())
                    != (route.table, route.destination, Some(&route.link))
            });
        }
    }

    /// The interface that has this very address. Of several it is the one by which the host reaches others: one that is
    /// running and leads out of the host, then the one with the widest network around the address.
    pub fn interface_with(&self, address: IpAddr) -> Option<(&LinkName, &Interface)> {
        let found = self.interfaces.iter().filter_map(|(name, interface)| {
            let nets = interface.addresses.iter().filter(|net| net.addr() == address);
            Some((name, interface, nets.map(IpNet::prefix_len).min()?))
        });
        let found: Vec<_> = found.collect();
        if let [(name, interface, _)] = found[..] {
            return Some((name, interface));
        }
        let uplinks = Uplinks::of(self);
        let best = found.into_iter().min_by_key(|(name, interface, length)| {
            (!interface.running, !uplinks.has(name), *length, self.default_interface.as_ref() != Some(name))
        });
        best.map(|(name, interface, _)| (name, interface))
    }
}
