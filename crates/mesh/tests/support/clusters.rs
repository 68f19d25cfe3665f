//! Random clusters: wild ones, where anything collides with anything, and sound ones, as an operator would build them.

#![allow(dead_code, reason = "every test uses a part")]

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use mesh::{Granularity, Node, Peer, PublicKey, TopologyConfig, allocation::Subnets};
use proptest::{prelude::*, sample};

/// What a topology is computed from.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub config: TopologyConfig,
    pub nodes: Vec<Arc<Node>>,
    pub peers: Vec<Peer>,
}

/// The key that a small number stands for.
pub fn key(seed: u8) -> PublicKey {
    PublicKey::from_bytes([seed.max(1); 32]).unwrap()
}

fn granularity() -> impl Strategy<Value = Granularity> {
    sample::select(vec![Granularity::Location, Granularity::Full])
}

fn subnets(choices: &'static [&'static str]) -> impl Strategy<Value = Subnets> {
    sample::select(choices).prop_map(|text| text.parse().unwrap())
}

/// Up to `most` of these prefixes, also the same twice.
fn nets(choices: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<IpNet>> {
    let one = sample::select(choices).prop_map(|text| text.parse::<IpNet>().unwrap());
    prop::collection::vec(one, 0..=most)
}

/// Prefixes that overlap each other in every way.
const COLLIDING: &[&str] = &[
    "10.2.0.0/16",
    "10.2.1.0/24",
    "10.2.1.128/25",
    "10.2.2.0/24",
    "10.2.3.7/24",
    "10.2.4.0/24",
    "10.2.5.0/24",
    "10.2.1.1/32",
    "10.4.0.1/32",
    "10.4.0.0/16",
    "0.0.0.0/0",
    "fd00:2::/48",
    "fd00:2:0:1::/64",
    "fd00:2:0:2::/64",
    "::/0",
    "192.168.0.1/32",
    "192.168.0.2/24",
];

const INTERNAL: &[&str] =
    &["192.168.0.1/24", "192.168.0.2/24", "192.168.0.1/32", "10.2.1.1/16", "fd00:9::1/64", "10.4.0.2/16"];

const SERVICES: &[&str] = &["10.43.0.0/16", "10.2.3.0/24", "fd43::/112", "10.4.0.0/24"];

const ENDPOINTS: &[&str] =
    &["203.0.113.1:51820", "203.0.113.2:1", "10.0.0.1:51820", "[2001:db8::1]:51820", "vpn.example.com:51820"];

prop_compose! {
    /// A node that claims whatever others claim.
    pub fn wild_node(index: usize)(
        location in sample::select(vec!["", "a", "b", "c\"\\"]),
        (leader, joins_without_pods, persistent_keepalive) in (any::<bool>(), any::<bool>(), 0u16..3),
        created in 0i64..4,
        endpoint in prop::option::weighted(0.95, sample::select(ENDPOINTS)),
        seed in prop::option::weighted(0.95, 1u8..20),
        internal_ips in nets(INTERNAL, 2),
        pod_subnets in nets(COLLIDING, 2),
        allowed_location_ips in nets(COLLIDING, 2),
        discovered in prop::collection::btree_map(1u8..20, 1u16..9, 0..3),
    ) -> Arc<Node> {
        let address = |port| std::net::SocketAddr::from(([192, 0, 2, 1], port));
        Arc::new(Node {
            created,
            location: location.to_owned(),
            leader,
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            key: seed.map(key),
            internal_ips,
            pod_subnets,
            joins_without_pods,
            persistent_keepalive,
            allowed_location_ips,
            discovered_endpoints: discovered.into_iter().map(|(seed, port)| (key(seed), address(port))).collect(),
            ..Node::named(format!("n{index}"))
        })
    }
}

prop_compose! {
    fn wild_peer(index: usize)(
        created in 0i64..4,
        seed in 1u8..20,
        allowed_ips in nets(COLLIDING, 4),
        endpoint in prop::option::of(sample::select(ENDPOINTS)),
        persistent_keepalive in 0u16..3,
    ) -> Peer {
        Peer {
            name: format!("p{index}"),
            created,
changed: false,
key: key(seed),
            allowed_ips,
            endpoint: endpoint.map(|text| text.parse().unwrap()),
            preshared_key: None,
            persistent_keepalive,
        }
    }
}

/// Clusters whose nodes and peers claim whatever others claim.
pub fn wild() -> impl Strategy<Value = Cluster> {
    let subnets =
        subnets(&["10.4.0.0/16", "10.4.0.0/30", "10.4.0.0/16,fd00:4::/112", "fd00:4::/126", "10.4.0.1/32"]);
    let nodes = (0usize..=12).prop_flat_map(|count| (0..count).map(wild_node).collect::<Vec<_>>());
    let peers = (0usize..=5).prop_flat_map(|count| (0..count).map(wild_peer).collect::<Vec<_>>());
    let services = nets(SERVICES, 2);
    (granularity(), subnets, services, nodes, peers).prop_map(
        |(granularity, subnets, services, nodes, peers)| Cluster {
            config: TopologyConfig { granularity, subnets, services },
            nodes,
            peers,
        },
    )
}

/// What differs from node to node of a sound cluster.
#[derive(Debug, Clone)]
struct Traits {
    location: u8,
    leader: bool,
    nat: bool,
    public: bool,
    internal: Internal,
    /// Which of the location's private networks the node is in.
    network: u8,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Internal {
    None,
    V4,
    Dual,
}

/// Which families pods have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pods {
    V4,
    V6,
    Dual,
}

impl Pods {
    fn of(self, number: usize) -> Vec<IpNet> {
        let v4: IpNet = format!("10.2.{number}.0/24").parse().unwrap();
        let v6: IpNet = format!("fd00:2:0:{number:x}::/64").parse().unwrap();
        match self {
            Pods::V4 => vec![v4],
            Pods::V6 => vec![v6],
            Pods::Dual => vec![v4, v6],
        }
    }
}

/// Clusters of 1 to 12 nodes without conflicts: every node with its own pods and internal addresses. A location has
/// two private networks with a router between them.
pub fn sound() -> impl Strategy<Value = Cluster> {
    let internal = prop_oneof![1 => Just(Internal::None), 5 => Just(Internal::V4), 5 => Just(Internal::Dual)];
    let traits = (0u8..4, any::<[bool; 3]>(), internal, 0u8..2).prop_map(
        |(location, [leader, nat, public], internal, network)| Traits {
            location,
            leader,
            nat,
            public,
            internal,
            network,
        },
    );
    let pods = sample::select(vec![Pods::V4, Pods::V6, Pods::Dual]);
    let subnets = subnets(&["10.4.0.0/16", "10.4.0.0/16,fd00:4::/112"]);
    let nodes = prop::collection::vec(traits, 1..=12);
    (granularity(), subnets, pods, nodes, 0usize..3).prop_map(
        |(granularity, subnets, pods, traits, peers)| Cluster {
            config: TopologyConfig { granularity, subnets, services: Vec::new() },
            nodes: traits
                .iter()
                .enumerate()
                .map(|(index, traits)| sound_node(index + 1, traits, pods))
                .collect(),
            peers: (0..peers).map(sound_peer).collect(),
        },
    )
}

fn sound_node(number: usize, traits: &Traits, pods: Pods) -> Arc<Node> {
    let Traits { location, network, .. } = traits;
    let v4: IpNet = format!("192.168.{}.{number}/24", location * 2 + network).parse().unwrap();
    let v6: IpNet = format!("fd00:9:0:{}::{number:x}/64", location * 2 + network).parse().unwrap();
    let endpoint = match traits.public {
        true => format!("203.0.113.{number}:51820"),
        false => format!("{}:51820", v4.addr()),
    };
    Arc::new(Node {
        location: format!("l{location}"),
        leader: traits.leader,
        endpoint: endpoint.parse().ok(),
        key: Some(key(u8::try_from(number).unwrap())),
        internal_ips: match traits.internal {
            Internal::None => vec![],
            Internal::V4 => vec![v4],
            Internal::Dual => vec![v4, v6],
        },
        pod_subnets: pods.of(number),
        persistent_keepalive: if traits.nat { 25 } else { 0 },
        discovered_endpoints: BTreeMap::new(),
        ..Node::named(format!("n{number}"))
    })
}

fn sound_peer(index: usize) -> Peer {
    Peer {
        name: format!("p{index}"),
        created: 0,
        changed: false,
        key: key(100 + u8::try_from(index).unwrap()),
        allowed_ips: vec![
            format!("10.5.0.{index}/32").parse().unwrap(),
            format!("fd00:5::{index}/128").parse().unwrap(),
        ],
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    }
}
