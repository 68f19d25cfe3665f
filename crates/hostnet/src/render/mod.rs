//! What a host's network should be, given the node's place in the mesh.
//!
//! A leader holds the WireGuard interface and sends what belongs to other segments through it; a member sends it to
//! its leader. Both reach the nodes of their own location over the private network, encapsulated or not.

mod carrier;
pub mod client;
mod local;
mod nat;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use mesh::{
    Endpoint, Host, Object, Perspective, PrivateKey, Problem, Role, Segment,
    prefix::{self, Family},
};

use carrier::Carrier;

use crate::{
    ADDON_TABLE, Address, Compatibility, HostFacts, HostState, Link, LinkKind, LinkName, MAIN_TABLE,
    MarkBits, NextHop, Route, Wireguard, WireguardPeer, state::Forwarding,
};

/// When packets inside of a location are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Never.
    Never,
    /// Only to nodes outside of the prefix of the own internal address.
    CrossSubnet,
    /// Always.
    Always,
}

impl FromStr for Encapsulation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            "crosssubnet" => Ok(Self::CrossSubnet),
            "always" => Ok(Self::Always),
            other => Err(format!("{other:?} is none of never, crosssubnet, always")),
        }
    }
}

/// In what packets are encapsulated inside of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncapsulationType {
    /// IP, as the Go implementation does.
    #[default]
    Ipip,
    /// UDP, where the kernel or the network refuses protocol 4.
    Vxlan,
}

impl FromStr for EncapsulationType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ipip" => Ok(Self::Ipip),
            "vxlan" => Ok(Self::Vxlan),
            other => Err(format!("{other:?} is none of ipip, vxlan")),
        }
    }
}

/// Who is responsible for a part of the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Responsible {
    /// We are.
    Kilo,
    /// Something else: another CNI, or whoever made the interface.
    Other,
}

/// What the operator decides for one host.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderConfig {
    /// The WireGuard interface.
    pub interface: LinkName,
    /// Who makes the WireGuard interface.
    pub interface_by: Responsible,
    /// Bytes of the largest packet through the WireGuard interface.
    pub mtu: u32,
    /// The host's private key.
    pub private_key: PrivateKey,
    /// The UDP port of WireGuard.
    pub listen_port: u16,
    /// The bits of the firewall mark that are ours.
    pub marks: MarkBits,
    /// When packets inside of a location are encapsulated.
    pub encapsulation: Encapsulation,
    /// In what they are encapsulated.
    pub encapsulation_type: EncapsulationType,
    /// The container network that takes care of the inside of a location, if Kilo does not.
    pub compatibility: Compatibility,
    /// Who routes between the pods of one location (`--local`).
    pub local_routes_by: Responsible,
    /// Who masquerades what pods send out of the cluster (`--cni`).
    pub pod_nat_by: Responsible,
    /// Whether forwarding has to be accepted in other tables too (`--iptables-forward-rules`).
    pub accept_forwarding: bool,
    /// Addresses of services: never masqueraded.
    pub service_cidrs: Vec<IpNet>,
    /// The addresses that DNS names of endpoints resolve to, as far as known.
    pub resolved: BTreeMap<String, IpAddr>,
}

/// The desired state of a host, and what stands in its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// What the host's network should be.
    pub state: HostState,
    /// What cannot be done, and why. The rest can.
    pub problems: Vec<Problem>,
}

/// What a host's network should be.
pub fn render(perspective: &Perspective<'_>, facts: &HostFacts, config: &RenderConfig) -> Rendered {
    let mut renderer = Renderer {
        perspective,
        facts,
        config,
        underlay: Underlay::of(perspective, facts),
        near: near(perspective),
        carrier: Carrier::of(config, facts),
        contested: contested(perspective, config),
        routes: Vec::new(),
        state: HostState::default(),
        problems: BTreeSet::new(),
    };
    renderer.wireguard();
    renderer.addresses();
    match perspective.role {
        Role::Leader => renderer.routes_through_tunnels(),
        Role::Member => renderer.routes_through_leader(),
    }
    renderer.routes_inside_location();
    renderer.report_service_ranges();
    renderer.addon_rules();
    renderer.state.firewall = Some(renderer.firewall());
    renderer.state.forwarding = Forwarding { v4: true, v6: renderer.uses_ipv6() };
    // Sorted once, which is much cheaper than keeping tens of thousands in order while they are made.
    renderer.state.routes = renderer.routes.into_iter().collect();
    Rendered { state: renderer.state, problems: renderer.problems.into_iter().collect() }
}

/// How the host reaches the other nodes of its location over the private network: the same for all of them, and
/// looked for once, because a host has an interface per pod.
struct Underlay {
    /// Per family, the own internal address, when an interface has it: the kernel refuses a route whose source is
    /// none of the host's addresses, as a forced internal address may be.
    sources: [Option<IpAddr>; 2],
    /// Per family, the interface that has the own internal address; when that address is on none (it was forced),
    /// the one of the default route.
    links: [Option<LinkName>; 2],
}

impl Underlay {
    fn of(perspective: &Perspective<'_>, facts: &HostFacts) -> Self {
        let own = Family::ALL.map(|family| perspective.node.internal_ip(family));
        let found =
            own.map(|own| own.and_then(|address| facts.interface_with(address)).map(|(name, _)| name));
        Self {
            sources: [0, 1].map(|family| own[family].filter(|_| found[family].is_some())),
            links: found.map(|name| name.or(facts.default_interface.as_ref()).cloned()),
        }
    }

    fn source(&self, family: Family) -> Option<IpAddr> {
        self.sources[family as usize]
    }

    fn link(&self, family: Family) -> Option<&LinkName> {
        self.links[family as usize].as_ref()
    }
}

/// The internal addresses of the own location, sorted. Another location may use the same private addresses; a route
/// there would take the neighbour away.
fn near(perspective: &Perspective<'_>) -> Vec<IpNet> {
    let nodes = perspective.segment().nodes.iter();
    let mut near: Vec<_> =
        nodes.flat_map(|node| &node.internal_ips).map(|net| prefix::host(net.addr())).collect();
    near.sort_unstable();
    near
}

/// The destinations to which another container network has routes as well, sorted: it does not know locations, and has
/// one to every node's pods.
fn contested(perspective: &Perspective<'_>, config: &RenderConfig) -> Vec<IpNet> {
    if config.compatibility == Compatibility::None {
        return Vec::new();
    }
    let mut pods: Vec<_> =
        perspective.topology.nodes().flat_map(|node| &node.pod_subnets).map(IpNet::trunc).collect();
    pods.sort_unstable();
    pods
}

/// A render in progress.
struct Renderer<'a> {
    perspective: &'a Perspective<'a>,
    facts: &'a HostFacts,
    config: &'a RenderConfig,
    underlay: Underlay,
    near: Vec<IpNet>,
    carrier: Carrier,
    contested: Vec<IpNet>,
    routes: Vec<Route>,
    state: HostState,
    problems: BTreeSet<Problem>,
}

impl Renderer<'_> {
    fn wireguard(&mut self) {
        let lead = self.perspective.role == Role::Leader;
        let link = Link {
            kind: LinkKind::Wireguard,
            mtu: (self.config.interface_by == Responsible::Kilo).then_some(self.config.mtu),
            up: lead,
            managed: self.config.interface_by == Responsible::Kilo,
        };
        self.state.links.insert(self.config.interface.clone(), link);
        // A member has no peers: nobody should hold a session with a node that does not forward.
        let peers = if lead { self.peers() } else { BTreeMap::new() };
        self.state.wireguard = Some(Wireguard {
            private_key: Some(self.config.private_key.clone()),
            listen_port: self.config.listen_port,
            mark: self.config.marks.underlay(),
            peers,
        });
    }

    fn peers(&self) -> BTreeMap<mesh::PublicKey, WireguardPeer> {
        let peer = |peer: mesh::conf::ConfPeer| {
            let wireguard = WireguardPeer {
                preshared_key: peer.preshared_key,
                endpoint: peer.endpoint.as_ref().and_then(|endpoint| self.resolve(endpoint)),
                persistent_keepalive: peer.persistent_keepalive,
                allowed_ips: peer.allowed_ips.iter().map(IpNet::trunc).collect(),
            };
            (peer.key, wireguard)
        };
        self.perspective.conf_peers().into_iter().map(peer).collect()
    }

    fn resolve(&self, endpoint: &Endpoint) -> Option<SocketAddr> {
        let address = match &endpoint.host {
            Host::Ip(address) => *address,
            Host::Dns(name) => *self.config.resolved.get(name)?,
        };
        Some(SocketAddr::new(address, endpoint.port))
    }

    fn addresses(&mut self) {
        if self.perspective.role != Role::Leader {
            return;
        }
        let subnets = &self.perspective.topology.config.subnets;
        for address in &self.perspective.segment().wireguard_ips {
            let Some(length) = subnets.prefix_len(Family::of(*address)) else { continue };
            let net =
                IpNet::new(*address, length).expect("the length is that of a subnet of the same family");
            self.state.addresses.insert(Address { link: self.config.interface.clone(), net });
        }
    }

    /// A leader's routes to other segments and to peers.
    fn routes_through_tunnels(&mut self) {
        for segment in self.perspective.other_segments() {
            let endpoint =
                self.resolve(&self.perspective.segment_endpoint(segment)).map(|a| prefix::host(a.ip()));
            for destination in segment.all_allowed_ips().map(IpNet::trunc) {
                // The tunnel's own packets cannot go through the tunnel, and WireGuard addresses are on the link.
                if Some(destination) == endpoint
                    || is_wireguard_ip(segment, &destination)
                    || self.is_near(&destination)
                {
                    continue;
                }
                let family = Family::of_prefix(&destination);
                // WireGuard finds the peer by the destination alone; without an address of this family on the
                // other side the route just names the device.
                let via = segment.wireguard_ips.iter().copied().find(|ip| Family::of(*ip) == family);
                self.tunnel_route(destination, via.map_or(NextHop::Destination, NextHop::Gateway));
            }
        }
        for peer in &self.perspective.topology.peers {
            let endpoint = self.perspective.peer_endpoint(peer);
            let endpoint = endpoint.and_then(|at| self.resolve(&at)).map(|at| prefix::host(at.ip()));
            for destination in peer.allowed_ips.iter().map(IpNet::trunc) {
                // The leader of another cluster in the same private network: its internal address is its endpoint.
                if Some(destination) != endpoint {
                    self.tunnel_route(destination, NextHop::Destination);
                }
            }
        }
    }

    /// Services are found before routes are, so that a peer with addresses of services is not reached at them.
    fn report_service_ranges(&mut self) {
        for peer in &self.perspective.topology.peers {
            for allowed_ip in &peer.allowed_ips {
                let overlaps = |net: &&IpNet| net.contains(allowed_ip) || allowed_ip.contains(*net);
                let Some(services) = self.config.service_cidrs.iter().find(overlaps) else { continue };
                self.problems.insert(Problem::new(
                    Object::Peer(peer.name.clone()),
                    "OverlappingAllowedIP",
                    format!(
                        "the allowed IP {allowed_ip} overlaps the services' range {services} of this cluster \
                         (--service-cidr), whose addresses are reached here and not at the peer"
                    ),
                ));
            }
        }
    }

    fn tunnel_route(&mut self, destination: IpNet, next_hop: NextHop) {
        // Otherwise the host would use its WireGuard address as source, which clouds do not know the way back to.
        let source = self.underlay.source(Family::of_prefix(&destination));
        let link = self.config.interface.clone();
        let table = self.table(&destination);
        self.routes.push(Route { table, destination, next_hop, link, source });
    }

    /// The table for a route to here.
    fn table(&self, destination: &IpNet) -> u32 {
        if self.contested.binary_search(destination).is_ok() { ADDON_TABLE } else { MAIN_TABLE }
    }

    /// A member's routes to other segments, to peers and to all WireGuard addresses.
    fn routes_through_leader(&mut self) {
        let leader = self.perspective.segment().leader();
        let own = self.perspective.segment().wireguard_ips.iter().map(|ip| prefix::host(*ip));
        let others = self.perspective.other_segments().flat_map(Segment::all_allowed_ips).map(IpNet::trunc);
        let peers =
            self.perspective.topology.peers.iter().flat_map(|peer| &peer.allowed_ips).map(IpNet::trunc);
        let destinations = own.chain(others).chain(peers).filter(|net| !self.is_near(net));
        let (v4, v6): (Vec<_>, Vec<_>) = destinations.partition(|net| Family::of_prefix(net) == Family::V4);
        for (family, destinations) in [(Family::V4, v4), (Family::V6, v6)] {
            self.routes_inside(family, &destinations, leader);
        }
    }

    /// Whether this is the internal address of a node of the own location.
    fn is_near(&self, destination: &IpNet) -> bool {
        self.near.binary_search(destination).is_ok()
    }

    fn uses_ipv6(&self) -> bool {
        let v6 = |net: &IpNet| matches!(net, IpNet::V6(_));
        self.perspective.node.pod_subnets.iter().any(v6)
            || self.perspective.topology.config.subnets.iter().any(v6)
    }

    fn problem(&mut self, reason: &'static str, message: String) {
        self.problems.insert(Problem::new(Object::Host, reason, message));
    }
}

fn is_wireguard_ip(segment: &Segment, destination: &IpNet) -> bool {
    segment.wireguard_ips.iter().any(|ip| prefix::host(*ip) == *destination)
}
