//! What carries packets from node to node inside of a location, where they do not go bare over the private network: an
//! encapsulation of ours, or the device of another container network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh::{
    Node,
    prefix::{self, Family},
};

use super::{EncapsulationType, RenderConfig, Renderer, Responsible};
use crate::{Address, Compatibility, HostFacts, Link, LinkKind, LinkName, NextHop, VXLAN_LINK};

/// Bytes that an outer IPv4 header adds.
const IPIP_OVERHEAD: u32 = 20;

/// Bytes of the headers of UDP (8) and VXLAN (8); there is no Ethernet header inside.
const VXLAN_OVERHEAD: u32 = 16;

/// The kernel's device for IPIP, of which there is one in each network namespace.
const IPIP: &str = "tunl0";

/// What the tunnel device is called when Cilium has taken over the kernel's (`enable-ipip-termination`).
const CILIUM_TUNNEL: &str = "cilium_tunl";

/// What carries packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Carrier {
    /// IPv4 in IPv4 through this device, IPv6 in IPv4 through the kernel's.
    Ipip(LinkName),
    /// Both families in UDP.
    Vxlan,
    /// The devices of another container network, IPv4's and IPv6's, as far as they are there.
    Foreign([Option<LinkName>; 2]),
}

/// One hop inside of the location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hop {
    pub next_hop: NextHop,
    pub link: LinkName,
    pub source: Option<IpAddr>,
}

/// Whether a device carries IPIP: the kernel's own, which is ours too and therefore no fact, or another one.
pub(super) fn is_ipip(facts: &HostFacts, link: &LinkName) -> bool {
    link.as_str() == IPIP || facts.interfaces.get(link).is_some_and(|interface| interface.kind == "ipip")
}

/// Why there is no hop: the reason and the message of a problem.
pub(super) type NoHop = (&'static str, String);

impl Carrier {
    pub fn of(config: &RenderConfig, facts: &HostFacts) -> Self {
        let there = |device: &str| facts.interfaces.keys().find(|name| name.as_str() == device).cloned();
        if let Some(devices) = config.compatibility.devices() {
            let found = devices.map(there);
            // Calico has none where it encapsulates in IPIP, with the kernel's device, or not at all.
            if config.compatibility == Compatibility::Flannel || found.iter().any(Option::is_some) {
                return Self::Foreign(found);
            }
        }
        match config.encapsulation_type {
            EncapsulationType::Vxlan => Self::Vxlan,
            EncapsulationType::Ipip => {
                let renamed = (config.compatibility == Compatibility::Cilium).then(|| there(CILIUM_TUNNEL));
                Self::Ipip(renamed.flatten().unwrap_or_else(|| name(IPIP)))
            }
        }
    }
}

impl Renderer<'_> {
    /// How packets of a family get to a node of the location.
    pub(super) fn hop(&mut self, family: Family, node: &Node) -> Result<Hop, NoHop> {
        if !self.encapsulates(node) {
            return self.bare(family, node);
        }
        match self.carrier.clone() {
            Carrier::Ipip(device) => self.in_ip(family, node, device),
            Carrier::Vxlan => self.in_vxlan(family, node),
            Carrier::Foreign(devices) => match &devices[family as usize] {
                Some(device) => self.through(device, family, node),
                None => {
                    self.missing_device(family);
                    self.bare(family, node)
                }
            },
        }
    }

    /// Whether the carrier brings packets to a node by another way than its internal address: then also the way to that
    /// address has to be the carrier's, or the answers would come back by another.
    pub(super) fn is_overlaid(&self, node: &Node) -> bool {
        let overlaid = match &self.carrier {
            Carrier::Foreign(devices) => devices.iter().any(Option::is_some),
            Carrier::Ipip(_) | Carrier::Vxlan => self.outer(node) != self.internal(node),
        };
        overlaid && self.encapsulates(node)
    }

    /// What a node of the location sends encapsulated is taken out here, also where nothing is sent to it that way.
    pub(super) fn receive_from(&mut self, node: &Node) {
        if !self.encapsulates(node) {
            return;
        }
        match self.carrier.clone() {
            Carrier::Ipip(device) => {
                self.device(device, LinkKind::Ipip, IPIP_OVERHEAD);
                if self.uses_ipv6() {
                    self.device(name("sit0"), LinkKind::Sit, IPIP_OVERHEAD);
                }
            }
            Carrier::Vxlan => drop(self.device(name(VXLAN_LINK), LinkKind::Vxlan, self.vxlan_overhead(node))),
            Carrier::Foreign(_) => {}
        }
    }

    /// Over the private network as it is. IPv4 goes by way of an IPv6 neighbour, too (`RTA_VIA`); IPv6 needs one of its own.
    fn bare(&self, family: Family, node: &Node) -> Result<Hop, NoHop> {
        let by_ipv6 = family == Family::V4 && !self.shares(Family::V4, node) && self.shares(Family::V6, node);
        let by = if by_ipv6 { Family::V6 } else { family };
        let via = node.internal_ip(by).ok_or_else(|| no_neighbour(node, family))?;
        self.other_than_own(via, node)?;
        // Go leaves the choice of the source to the kernel here: it is the private interface's own address.
        Ok(Hop { next_hop: NextHop::Gateway(via), link: self.private_link(by)?, source: None })
    }

    fn in_ip(&mut self, family: Family, node: &Node, device: LinkName) -> Result<Hop, NoHop> {
        let (true, Some(IpAddr::V4(outer))) = (self.has_ipip(node), self.outer(node)) else {
            return Err(no_ipip(node));
        };
        self.other_than_own(outer.into(), node)?;
        let (via, device, kind) = match family {
            Family::V4 => (outer.into(), device, LinkKind::Ipip),
            Family::V6 => (embed(outer).into(), name("sit0"), LinkKind::Sit),
        };
        let link = self.device(device, kind, IPIP_OVERHEAD);
        Ok(Hop { next_hop: NextHop::Gateway(via), link, source: self.underlay.source(family) })
    }

    fn in_vxlan(&mut self, family: Family, node: &Node) -> Result<Hop, NoHop> {
        let outer = self.outer(node).ok_or_else(|| no_common_family(node))?;
        self.other_than_own(outer, node)?;
        let link = self.device(name(VXLAN_LINK), LinkKind::Vxlan, self.vxlan_overhead(node));
        Ok(Hop { next_hop: NextHop::Outer(outer), link, source: self.underlay.source(family) })
    }

    /// Bytes that our VXLAN adds to a packet to a node: the outer header, of IPv4 or IPv6, and the inner ones.
    fn vxlan_overhead(&self, node: &Node) -> u32 {
        let header = if self.outer(node).is_none_or(|outer| outer.is_ipv4()) { 20 } else { 40 };
        header + VXLAN_OVERHEAD
    }

    /// Through the device of another container network, in which the node has an address.
    fn through(&self, device: &LinkName, family: Family, node: &Node) -> Result<Hop, NoHop> {
        let of_family = |net: &&ipnet::IpNet| Family::of_prefix(net) == family;
        let via = match self.config.compatibility {
            // Flannel gives its device the first address of the node's pod subnet.
            Compatibility::Flannel => node.pod_subnets.iter().find(of_family).map(ipnet::IpNet::network),
            _ => node.cni_compatibility_ips.iter().find(of_family).map(ipnet::IpNet::addr),
        };
        let Some(via) = via else {
            return Err((
                "NoNextHop",
                format!(
                    "node {} of this location has not told its address on {device} yet, so that its pods cannot be \
                     reached through it; is {device} there, and does its agent run with the same --compatibility?",
                    node.name
                ),
            ));
        };
        self.other_than_own(via, node)?;
        let next_hop = NextHop::Gateway(via);
        Ok(Hop { next_hop, link: device.clone(), source: self.underlay.source(family) })
    }

    /// The destination of outer packets to a node. Inside of Cilium's network that is the node's address there: a cloud
    /// that drops encapsulated packets lets Cilium's through.
    pub(super) fn outer(&self, node: &Node) -> Option<IpAddr> {
        let inside = (self.config.compatibility == Compatibility::Cilium)
            .then(|| node.cni_compatibility_ips.iter().map(ipnet::IpNet::addr).find(IpAddr::is_ipv4));
        inside.flatten().or_else(|| self.internal(node))
    }

    /// The address by which a node is reached in the private network; IPv4, where both have one.
    fn internal(&self, node: &Node) -> Option<IpAddr> {
        let shared = Family::ALL.into_iter().find(|family| self.shares(*family, node))?;
        node.internal_ip(shared)
    }

    /// Whether this node and another one have internal addresses of a family.
    fn shares(&self, family: Family, node: &Node) -> bool {
        self.perspective.node.internal_ip(family).is_some() && node.internal_ip(family).is_some()
    }

    /// Whether IPIP may carry packets to a node: both ends need an IPv4 address.
    fn has_ipip(&self, node: &Node) -> bool {
        let v4 = |node| self.outer(node).is_some_and(|outer| outer.is_ipv4());
        v4(self.perspective.node) && v4(node)
    }

    /// Whether packets to a neighbour go bare although they were to be encapsulated: IPIP cannot, and nothing is between.
    pub(super) fn goes_bare(&self, node: &Node) -> bool {
        let on_link = |family| {
            let own = self.perspective.node.internal_net(family)?;
            Some(own.contains(&node.internal_ip(family)?))
        };
        matches!(self.carrier, Carrier::Ipip(_))
            && !self.has_ipip(node)
            && Family::ALL.into_iter().find_map(on_link) == Some(true)
    }

    /// A device for encapsulation, which is added to the desired state.
    fn device(&mut self, name: LinkName, kind: LinkKind, overhead: u32) -> LinkName {
        let underlay = Family::ALL.into_iter().find_map(|family| self.underlay.link(family));
        let underlay = underlay.and_then(|link| self.facts.interfaces.get(link));
        let managed = kind == LinkKind::Vxlan;
        // The kernel's own devices may be in use by the other container network, and are then as that wants them.
        let ours = managed || self.config.compatibility == Compatibility::None;
        let mtu = underlay.map(|interface| interface.mtu.saturating_sub(overhead)).filter(|_| ours);
        let link = self.state.links.entry(name.clone()).or_insert(Link { kind, mtu, up: true, managed });
        // Nodes may be reached over different families, and the device has to fit to all of them.
        link.mtu = link.mtu.min(mtu);
        self.address_for_other_answers(&name, kind);
        name
    }

    /// Where another container network routes inside of the location, what comes through the device is answered by another
    /// way. From a device without an IPv4 address the kernel would not take that, even where it filters loosely
    /// (`rp_filter` 2, `__fib_validate_source` in net/ipv4/fib_frontend.c). The own internal address is nobody else's.
    fn address_for_other_answers(&mut self, device: &LinkName, kind: LinkKind) {
        let needed = self.config.local_routes_by == Responsible::Other && kind != LinkKind::Sit;
        if let Some(own) = self.underlay.source(Family::V4).filter(|_| needed) {
            self.state.addresses.insert(Address { link: device.clone(), net: prefix::host(own) });
        }
    }

    fn missing_device(&mut self, family: Family) {
        let Some(devices) = self.config.compatibility.devices() else { return };
        let device = devices[family as usize];
        self.problem(
            "NoOverlay",
            format!(
                "there is no interface {device} on this host, so that the other nodes of the location are reached over \
                 the private network; is the other CNI running? Where it does not encapsulate, use --encapsulate=never"
            ),
        );
    }
}

fn no_hop(node: &Node, why: &str) -> NoHop {
    ("NoNextHop", format!("node {} of this location {why}", node.name))
}

fn no_neighbour(node: &Node, family: Family) -> NoHop {
    match family {
        Family::V4 => no_common_family(node),
        Family::V6 => no_hop(
            node,
            "has no internal IPv6 address, so its IPv6 pods cannot be reached; give it one, or use \
             --encapsulate=always on all nodes of the location, which carries IPv6 over IPv4",
        ),
    }
}

fn no_common_family(node: &Node) -> NoHop {
    no_hop(
        node,
        "and this node have no internal addresses of the same IP family, so its pods cannot be reached; give one of them \
         an address that the other's family has (kilo.squat.ai/force-internal-ip)",
    )
}

fn no_ipip(node: &Node) -> NoHop {
    no_hop(
        node,
        "or this node has no internal IPv4 address, which --encapsulation-type=ipip needs, so its pods cannot be reached; \
         give both one, or use --encapsulation-type=vxlan on all nodes of the location",
    )
}

fn name(text: &str) -> LinkName {
    text.parse().expect("the name is a valid one")
}

/// The IPv4-compatible address `::a.b.c.d` by which a `sit` device without a remote is told the outer destination
/// (`ipip6_tunnel_xmit` in net/ipv6/sit.c).
fn embed(outer: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(outer.to_bits()))
}
