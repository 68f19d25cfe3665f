//! What the network of a client's host should be: a host outside of the cluster that takes part in the mesh as a Peer.
//!
//! The client holds a tunnel to every segment and to every other Peer, and sends through it what belongs to them. It
//! routes nothing for others, so it has neither rules nor a firewall, and nothing but its own interface is its business.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use mesh::{
    Endpoint, Host, Object, Perspective, PrivateKey, Problem,
    prefix::{self, Family},
};

use super::Rendered;
use crate::{
    Address, HostFacts, HostState, Leftover, Link, LinkKind, LinkName, MAIN_TABLE, MarkBits, NextHop, Route,
    Wireguard, WireguardPeer,
};

/// What is decided for one client.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientConfig {
    /// The name of its Peer object.
    pub peer: String,
    /// The WireGuard interface.
    pub interface: LinkName,
    /// Bytes of the largest packet through the WireGuard interface.
    pub mtu: u32,
    /// The private key; the Peer object has the public one.
    pub private_key: PrivateKey,
    /// The UDP port of WireGuard.
    pub listen_port: u16,
    /// The bits of the firewall mark that are ours.
    pub marks: MarkBits,
    /// The client's addresses in the mesh, with the prefix lengths they have on the interface.
    pub addresses: Vec<IpNet>,
    /// Further ranges that are reached through the cluster, for example those of services.
    pub further_ranges: Vec<IpNet>,
    /// Addresses that must be reached past the tunnels, for example the API's.
    pub outside: BTreeSet<IpAddr>,
    /// The addresses that DNS names of endpoints resolve to, as far as known.
    pub resolved: BTreeMap<String, IpAddr>,
}

/// What a client's host should be before it knows the mesh: the interface, its key and addresses.
pub fn alone(config: &ClientConfig) -> HostState {
    let link = Link { kind: LinkKind::Wireguard, mtu: Some(config.mtu), up: true, managed: true };
    let address = |net: &IpNet| Address { link: config.interface.clone(), net: *net };
    HostState {
        links: [(config.interface.clone(), link)].into(),
        addresses: config.addresses.iter().map(address).collect(),
        wireguard: Some(Wireguard {
            private_key: Some(config.private_key.clone()),
            listen_port: config.listen_port,
            mark: config.marks.underlay(),
            peers: BTreeMap::new(),
        }),
        ..HostState::default()
    }
}

/// What a client's host should be. `None` when the mesh has no Peer of the client's name. From whose perspective it is
/// looked at does not matter.
pub fn render(perspective: &Perspective<'_>, facts: &HostFacts, config: &ClientConfig) -> Option<Rendered> {
    let mut peers = perspective.peer_conf(&config.peer)?.peers;
    let mut problems = further_ranges(perspective, config, &mut peers);
    let mut state = alone(config);
    let resolve = |endpoint: &Endpoint| resolve(endpoint, config);
    let endpoints = peers.iter().filter_map(|peer| resolve(peer.endpoint.as_ref()?)).map(|found| found.ip());
    let outside: BTreeSet<IpAddr> = endpoints.chain(config.outside.iter().copied()).collect();
    let ranges: BTreeSet<IpNet> = peers.iter().flat_map(|peer| &peer.allowed_ips).map(IpNet::trunc).collect();
    for destination in ranges {
        match obstacle(&destination, &outside, facts) {
            None => state.routes.extend(route(destination, config)),
            // The address of an endpoint or of the API by itself: it is reached as before.
            Some(Obstacle::Itself) => {}
            Some(Obstacle::Holds(address)) => problems.push(Problem::new(
                Object::Host,
                "RangeNotRouted",
                format!(
                    "{destination} holds {address}, which the tunnels themselves depend on, so that it is not routed \
                     through them; smaller ranges beside it can be"
                ),
            )),
            Some(Obstacle::Connected(link)) => problems.push(Problem::new(
                Object::Host,
                "RangeNotRouted",
                format!(
                    "{destination} is also the network that this host is connected to by {link}, so that it is not \
                     routed through the tunnels"
                ),
            )),
        }
    }
    let of_peer = |peer: mesh::conf::ConfPeer| {
        let wireguard = WireguardPeer {
            endpoint: peer.endpoint.as_ref().and_then(resolve),
            preshared_key: peer.preshared_key,
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: peer.allowed_ips.iter().map(IpNet::trunc).collect(),
        };
        (peer.key, wireguard)
    };
    if let Some(wireguard) = &mut state.wireguard {
        wireguard.peers = peers.into_iter().map(of_peer).collect();
    }
    Some(Rendered { state, problems })
}

/// Of what was seen on a host, what is the business of a client with this interface. The host may belong to somebody
/// else's mesh, too; so without an interface that the client can use, nothing is.
#[must_use]
pub fn own_part(observed: &HostState, interface: &LinkName) -> HostState {
    if !observed.links.contains_key(interface) {
        return HostState::default();
    }
    let own_leftover =
        |leftover: &&Leftover| matches!(leftover, Leftover::Route { route, .. } if route.link == *interface);
    HostState {
        links: observed.links.iter().filter(|(name, _)| *name == interface).map(owned).collect(),
        addresses: observed.addresses.iter().filter(|address| address.link == *interface).cloned().collect(),
        routes: observed.routes.iter().filter(|route| route.link == *interface).cloned().collect(),
        wireguard: observed.wireguard.clone(),
        leftovers: observed.leftovers.iter().filter(own_leftover).cloned().collect(),
        ..HostState::default()
    }
}

fn owned((name, link): (&LinkName, &Link)) -> (LinkName, Link) {
    (name.clone(), link.clone())
}

/// Gives the further ranges to the segment of the first node, as the Go implementation does: that any node takes them
/// is all that is known of them.
fn further_ranges(
    perspective: &Perspective<'_>,
    config: &ClientConfig,
    peers: &mut [mesh::conf::ConfPeer],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let first = perspective.topology.nodes().min_by_key(|node| &node.name);
    let Some(segment) = first.and_then(|node| perspective.topology.segment_of(&node.name)) else {
        return problems;
    };
    for range in config.further_ranges.iter().map(IpNet::trunc) {
        let owner = peers.iter().find(|peer| peer.allowed_ips.iter().any(|ip| ip.trunc() == range));
        match owner {
            Some(owner) if owner.key != segment.key => problems.push(Problem::new(
                Object::Host,
                "RangeTaken",
                format!(
                    "{range} belongs to somebody in the mesh already, so that it is not added; leave it out"
                ),
            )),
            Some(_) => {}
            None => {
                let first = peers.iter_mut().filter(|peer| peer.key == segment.key);
                first.for_each(|peer| peer.allowed_ips.push(range));
            }
        }
    }
    problems
}

/// Why a range cannot be routed through the tunnels.
enum Obstacle<'a> {
    /// It is one of the addresses that are to be reached past the tunnels.
    Itself,
    /// It holds one of them.
    Holds(IpAddr),
    /// The host is in this very network; the route would replace the one that leads there.
    Connected(&'a LinkName),
}

fn obstacle<'a>(
    destination: &IpNet,
    outside: &BTreeSet<IpAddr>,
    facts: &'a HostFacts,
) -> Option<Obstacle<'a>> {
    if let Some(address) = outside.iter().find(|address| destination.contains(*address)) {
        let itself = *destination == prefix::host(*address);
        return Some(if itself { Obstacle::Itself } else { Obstacle::Holds(*address) });
    }
    let connected = |net: &IpNet| net.trunc() == *destination;
    let link = facts.interfaces.iter().find(|(_, interface)| interface.addresses.iter().any(connected));
    link.map(|(name, _)| Obstacle::Connected(name))
}

/// The route to a range, if the client has an address of its family: others would not know the way back.
fn route(destination: IpNet, config: &ClientConfig) -> Option<Route> {
    let family = Family::of_prefix(&destination);
    let source = config.addresses.iter().map(IpNet::addr).find(|address| Family::of(*address) == family)?;
    let link = config.interface.clone();
    // WireGuard finds the peer by the destination, so there is no next hop to name.
    Some(Route { table: MAIN_TABLE, destination, next_hop: NextHop::Destination, link, source: Some(source) })
}

fn resolve(endpoint: &Endpoint, config: &ClientConfig) -> Option<SocketAddr> {
    let address = match &endpoint.host {
        Host::Ip(address) => *address,
        Host::Dns(name) => *config.resolved.get(name)?,
    };
    Some(SocketAddr::new(address, endpoint.port))
}
