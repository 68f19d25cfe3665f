//! Regular clusters of any size, as an operator would build them: every node with its own pods, addresses and
//! endpoint, locations of equal size.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hostnet::{HostFacts, Interface, RenderConfig, RenderInput};
use ipnet::IpNet;
use mesh::{
    Endpoint, Granularity, Node, Peer, PrivateKey, PublicKey, Topology, TopologyConfig, allocation::Subnets,
};

use crate::random::Random;

/// Which IP families pods and nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// IPv4 only.
    Single,
    /// IPv4 and IPv6.
    Dual,
}

/// How large a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Nodes, up to 32,768.
    pub nodes: usize,
    /// Locations; every one gets as many nodes, or one more.
    pub locations: usize,
    /// Peers, up to 65,000, each with one allowed IP per family.
    pub peers: usize,
    /// Families.
    pub stack: Stack,
}

/// What a topology is computed from.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What the operator decides.
    pub config: TopologyConfig,
    /// The nodes, sorted by name.
    pub nodes: Vec<Arc<Node>>,
    /// The peers, sorted by name.
    pub peers: Vec<Peer>,
}

impl Cluster {
    /// A cluster of this size, always the same.
    pub fn new(size: Size, granularity: Granularity) -> Self {
        let subnets = match size.stack {
            Stack::Single => "10.4.0.0/16",
            Stack::Dual => "10.4.0.0/16,fd00:4::/112",
        };
        let subnets: Subnets = subnets.parse().unwrap();
        Self {
            config: TopologyConfig { granularity, subnets, services: Vec::new() },
            nodes: (0..size.nodes).map(|index| Arc::new(node(index, size))).collect(),
            peers: (0..size.peers).map(|index| peer(index, size.stack)).collect(),
        }
    }

    /// The mesh of all nodes and peers.
    pub fn topology(&self) -> Topology {
        Topology::new(self.config.clone(), self.nodes.iter().cloned(), self.peers.iter().cloned())
    }
}

/// The node with this number. Consecutive numbers are in different locations.
pub fn node(index: usize, size: Size) -> Node {
    let dual = size.stack == Stack::Dual;
    // Names are in no order that addresses know: odd factors permute the numbers below 2^15.
    let number = (index as u32).wrapping_mul(20_077) & 0x7fff;
    // A private network for each location: few large ones, or many small ones. Both moduli are prime.
    let (bits, most) = if size.locations <= 16 { (16, 65_521) } else { (11, 2_039) };
    let location = (index % size.locations) as u32 & ((1 << (20 - bits)) - 1);
    let host = 1 + ((index / size.locations) as u32).wrapping_mul(12_345) % most;
    let pods = net(Ipv4Addr::from_bits(0x0a40_0000 + (number << 8)), 24);
    let internal = net(Ipv4Addr::from_bits(0xac10_0000 + (location << bits) + host), 32 - bits as u8);
    let pods_v6 = net(Ipv6Addr::from_bits((0xfd00_0002 << 96) + (u128::from(number) << 64)), 64);
    let network_v6 = (0xfd00_0009 << 96) + (u128::from(location) << 64);
    let internal_v6 = net(Ipv6Addr::from_bits(network_v6 + u128::from(host)), 64);
    Node {
        location: format!("location-{:04}", index % size.locations),
        endpoint: Some(Endpoint::from_ip(Ipv4Addr::from_bits(0xcb00_0001 + number).into(), 51820)),
        key: Some(key(index as u64)),
        internal_ips: [internal].into_iter().chain(dual.then_some(internal_v6)).collect(),
        pod_subnets: [pods].into_iter().chain(dual.then_some(pods_v6)).collect(),
        granularity: Some(Granularity::Location),
        last_seen: 1_700_000_000,
        ..Node::named(format!("node-{index:05}"))
    }
}

fn peer(index: usize, stack: Stack) -> Peer {
    let number = index as u32;
    let v4 = IpNet::from(IpAddr::from(Ipv4Addr::from_bits(0x0a05_0000 + number)));
    let v6 = IpNet::from(IpAddr::from(Ipv6Addr::from_bits((0xfd00_0005 << 96) + u128::from(number))));
    Peer {
        name: format!("peer-{index:05}"),
        created: 0,
        changed: false,
        key: key((1 << 32) + index as u64),
        allowed_ips: [v4].into_iter().chain((stack == Stack::Dual).then_some(v6)).collect(),
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    }
}

fn net(address: impl Into<IpAddr>, length: u8) -> IpNet {
    IpNet::new(address.into(), length).unwrap()
}

fn key(seed: u64) -> PublicKey {
    PublicKey::from_bytes(Random::new(seed).bytes()).unwrap()
}

/// How the operator set up all hosts, for a host that encapsulates.
pub fn render_config(private_key: PrivateKey) -> RenderConfig {
    RenderConfig { accept_forwarding: true, ..RenderConfig::with_key(private_key) }
}

/// What is known on every host: nothing but the MTU.
pub fn render_input() -> RenderInput {
    RenderInput::with_mtu(1420)
}

/// A host with its internal addresses on eth0, which has the default route, its endpoint's address there too, and a
/// bridge with the first address of its pods.
pub fn facts(node: &Node) -> HostFacts {
    let interface = |addresses| Interface { mtu: 1500, running: true, addresses, ..Interface::default() };
    let first = |net: &IpNet| IpNet::new(net.hosts().next().unwrap(), net.prefix_len()).unwrap();
    let outside = node.endpoint.as_ref().and_then(Endpoint::ip).map(IpNet::from);
    let mut addresses = node.internal_ips.clone();
    addresses.extend(outside.filter(|net| addresses.iter().all(|other| other.addr() != net.addr())));
    let bridge = node.pod_subnets.iter().map(first).collect();
    HostFacts {
        interfaces: BTreeMap::from([
            ("eth0".parse().unwrap(), interface(addresses)),
            ("cni0".parse().unwrap(), interface(bridge)),
        ]),
        default_interface: Some("eth0".parse().unwrap()),
        ..Default::default()
    }
}
