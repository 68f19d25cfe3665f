//! All hosts of a cluster, rendered, and packets that go from host to host.
//!
//! The network below delivers inside of a location by address, and everything that WireGuard sends. It does not know
//! NAT or firewalls between locations: whether a handshake succeeds is not asked here.

#![allow(dead_code, reason = "every test uses a part of the model")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hostnet::{Encapsulation, Firewall, HostFacts, Interface, RenderConfig, Rendered, Responsible, render};
use ipnet::IpNet;
use mesh::{Node, Perspective, PrivateKey, PublicKey, Topology, prefix::Family};

use crate::{
    clusters::Cluster,
    model::{Kernel, Packet, Way, masquerades},
};

/// One host of the cluster.
pub struct Host {
    pub name: String,
    pub location: String,
    pub key: PublicKey,
    pub internal_ips: Vec<IpNet>,
    pub kernel: Kernel,
    pub firewall: Firewall,
    pub rendered: Rendered,
}

/// How the operator set up all hosts.
pub fn config(encapsulation: Encapsulation) -> RenderConfig {
    RenderConfig {
        interface: "kilo0".parse().unwrap(),
        interface_by: Responsible::Kilo,
        mtu: 1420,
        private_key: PrivateKey::from_random([1; 32]),
        listen_port: 51820,
        encapsulation,
        local_routes_by: Responsible::Kilo,
        pod_nat_by: Responsible::Kilo,
        accept_forwarding: true,
        service_cidrs: Vec::new(),
        resolved: BTreeMap::new(),
    }
}

/// The host has its internal addresses on eth0 and a bridge with its pods.
pub fn facts(node: &Node) -> HostFacts {
    let interface = |addresses| Interface { mtu: 1500, running: true, addresses, kind: String::new() };
    let first = |net: &IpNet| IpNet::new(net.hosts().next().unwrap(), net.prefix_len()).unwrap();
    let bridge = node.pod_subnets.iter().map(first).collect();
    HostFacts {
        interfaces: BTreeMap::from([
            ("eth0".parse().unwrap(), interface(node.internal_ips.clone())),
            ("cni0".parse().unwrap(), interface(bridge)),
        ]),
        default_interface: Some("eth0".parse().unwrap()),
    }
}

/// A pod of a node.
pub fn pod(node: &Node, family: Family) -> Option<IpAddr> {
    let subnet = node.pod_subnets.iter().find(|net| Family::of_prefix(net) == family)?;
    subnet.hosts().nth(9)
}

/// All hosts of a cluster, by name.
pub struct Mesh(BTreeMap<String, Host>);

/// The way that a packet took: the hosts, and how it left each.
pub type Path = Vec<(String, Way)>;

impl Mesh {
    /// Renders every host.
    pub fn of(cluster: &Cluster, encapsulation: Encapsulation) -> Self {
        let topology = Topology::new(cluster.config.clone(), cluster.nodes.clone(), cluster.peers.clone());
        let host = |node: &std::sync::Arc<Node>| {
            let perspective = Perspective::of(&topology, &node.name).unwrap();
            let facts = facts(node);
            let rendered = render(&perspective, &facts, &config(encapsulation));
            let host = Host {
                name: node.name.clone(),
                location: node.location.clone(),
                key: node.key.unwrap(),
                internal_ips: node.internal_ips.clone(),
                kernel: Kernel::new(&rendered.state, &facts),
                firewall: rendered.state.firewall.clone().unwrap(),
                rendered,
            };
            (node.name.clone(), host)
        };
        Self(topology.nodes().map(host).collect())
    }

    /// The hosts, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.0.values()
    }

    /// The path of a packet that `from` sends or, with `iif`, forwards.
    ///
    /// # Errors
    /// When it does not arrive at a pod of `to`, or is not what it was: why, and how far it came.
    pub fn path(&self, from: &str, to: &str, packet: Packet<'_>) -> Result<Path, String> {
        let (mut path, mut seen) = (Path::new(), BTreeSet::new());
        let mut at = &self.0[from];
        let mut iif = packet.iif;
        loop {
            let way = at.kernel.way(Packet { iif, ..packet });
            path.push((at.name.clone(), way.clone()));
            let fail =
                |why: &str| Err(format!("{why}: {} to {} by {path:?}", packet.source, packet.destination));
            if !seen.insert((at.name.clone(), iif)) {
                return fail("a loop");
            }
            if masquerades(&at.firewall, packet.source, packet.destination) {
                return fail("masqueraded");
            }
            let (next, link) = match &way {
                Way::Link { link, .. } if link == "cni0" && at.name == to => return Ok(path),
                Way::Link { link, to } if link == "eth0" => (self.neighbour(at, *to), "eth0"),
                Way::Encapsulated { outer } => match self.neighbour(at, *outer) {
                    Some(next) if !next.accepts_encapsulated(at) => return fail("outer source refused"),
                    next => (next, if packet.source.is_ipv4() { "tunl0" } else { "sit0" }),
                },
                Way::Tunnel { peer } => match self.0.values().find(|host| host.key == *peer) {
                    Some(next) if next.kernel.peer(packet.source) != Some(at.key) => {
                        return fail("source refused");
                    }
                    next => (next, "kilo0"),
                },
                _ => return fail("not delivered"),
            };
            let Some(next) = next else { return fail("nobody there") };
            (at, iif) = (next, Some(link));
        }
    }

    /// Who has an address in the location of a host.
    fn neighbour(&self, of: &Host, address: IpAddr) -> Option<&Host> {
        let mut location =
            self.0.values().filter(|host| host.location == of.location && host.name != of.name);
        location.find(|host| host.internal_ips.iter().any(|net| net.addr() == address))
    }
}

impl Host {
    fn accepts_encapsulated(&self, sender: &Host) -> bool {
        let outer = sender.internal_ips.iter().map(IpNet::addr).find(IpAddr::is_ipv4);
        let accepted = self.firewall.encapsulation_from.as_ref();
        outer.is_some_and(|outer| accepted.is_some_and(|from| from.contains(&outer)))
    }
}
