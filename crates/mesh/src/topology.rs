//! The logical structure of the mesh: segments, leaders, addresses. It has no local node; see [`Perspective`].
//!
//! [`Perspective`]: crate::Perspective

mod addresses;
mod claims;
mod location_ips;
mod nested;
mod peers;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    Granularity, Node, Object, Peer, Problem, Problems, Segment, SegmentName, allocation::Subnets,
    conflict::Claim, leader, prefix,
};

/// What the operator decides for the whole mesh. Every agent has to be given the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyConfig {
    /// How nodes are grouped.
    pub granularity: Granularity,
    /// Where WireGuard addresses come from.
    pub subnets: Subnets,
    /// The addresses of the cluster's services, as far as known. No node gets them.
    pub services: Vec<IpNet>,
}

impl TopologyConfig {
    /// What belongs to the cluster as a whole.
    fn reserved(&self) -> impl Iterator<Item = (IpNet, Claim)> {
        let subnets = self.subnets.iter().map(|net| (net.trunc(), Claim::WireguardSubnet));
        subnets.chain(self.services.iter().map(|net| (net.trunc(), Claim::Services)))
    }
}

/// The logical structure of the mesh.
///
/// No allowed IP belongs to two segments or to a segment and a peer, no key occurs twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// What it was computed with.
    pub config: TopologyConfig,
    /// The segments, sorted by their prefixed names.
    pub segments: Vec<Segment>,
    /// The peers, sorted by name, with the allowed IPs that nobody before them claimed.
    pub peers: Vec<Peer>,
    /// What had to be left out, and why, one for each object and reason. The rest works.
    pub problems: Vec<Problem>,
}

impl Topology {
    /// Computes the mesh of the nodes that the caller holds for live, and the peers. Nodes that lack something
    /// (see [`Node::lacks`]) are passed over without a word: their agents have just not started yet.
    pub fn new(
        config: TopologyConfig,
        nodes: impl IntoIterator<Item = Arc<Node>>,
        peers: impl IntoIterator<Item = Peer>,
    ) -> Self {
        Self::with_resolved(config, nodes, peers, &BTreeMap::new())
    }

    /// Like [`Topology::new`], with the addresses that DNS names of endpoints resolve to: whether they are public
    /// counts when leaders are chosen. Go's agents know them, its `kgctl` does not; to lead together with Go agents,
    /// an agent has to know them too.
    pub fn with_resolved(
        config: TopologyConfig,
        nodes: impl IntoIterator<Item = Arc<Node>>,
        peers: impl IntoIterator<Item = Peer>,
        resolved: &BTreeMap<String, IpAddr>,
    ) -> Self {
        let mut problems = Problems::default();
        let peers: Vec<Peer> = peers.into_iter().collect();
        let (nodes, owners) = claims::without_conflicts(nodes, &config, &mut problems);
        let mut segments = group(&config, &nodes, resolved);
        if let Some(first_without) = address(&config.subnets, &mut segments) {
            problems.push(Problem::new(
                Object::Mesh,
                "SubnetExhausted",
                format!(
                    "the WireGuard subnet has addresses for {first_without} segments only, {} and those after it \
                     have none; give all agents a larger --subnet",
                    segments[first_without].name
                ),
            ));
            segments.truncate(first_without);
        }
        append_wireguard_ips(&mut segments);
        let mut peers = peers::without_conflicts(&segments, peers, &mut problems);
        let foreign = addresses::share_out(&mut segments, &peers, &owners, &mut problems);
        location_ips::filter(&mut segments, &foreign, &peers, &config, &mut problems);
        peers::leave_to_nodes(&segments, &foreign, &mut peers, &config, &mut problems);
        nested::report_nested_ranges(&segments, &foreign, &config.subnets, &peers, &mut problems);
        Self { config, segments, peers, problems: problems.into() }
    }

    /// The segment of a node, if the node is part of the mesh.
    pub fn segment_of(&self, node: &str) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.contains(node))
    }

    /// The node of this name, if it is part of the mesh.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes().find(|node| node.name == name)
    }

    /// All nodes in the order of the segments.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.segments.iter().flat_map(|segment| &segment.nodes)
    }

    /// Everything that is sent to a segment or to a peer.
    pub fn destinations(&self) -> impl Iterator<Item = &IpNet> {
        let segments = self.segments.iter().flat_map(Segment::all_allowed_ips);
        segments.chain(self.peers.iter().flat_map(|peer| &peer.allowed_ips))
    }
}

/// Groups nodes, which are sorted by name, into segments and chooses their gateways.
fn group(config: &TopologyConfig, nodes: &[Arc<Node>], resolved: &BTreeMap<String, IpAddr>) -> Vec<Segment> {
    // In the order of `SegmentName`, without making a name for every node.
    let mut locations: BTreeMap<&str, Vec<Arc<Node>>> = BTreeMap::new();
    let mut alone = Vec::new();
    for node in nodes {
        if SegmentName::is_alone(node, config.granularity) {
            alone.push(node);
        } else {
            locations.entry(&node.location).or_default().push(node.clone());
        }
    }
    let locations =
        locations.into_iter().map(|(name, nodes)| (SegmentName::Location(name.to_owned()), nodes));
    let alone = alone.into_iter().map(|node| (SegmentName::Node(node.name.clone()), vec![node.clone()]));
    locations.chain(alone).filter_map(|(name, nodes)| segment(name, nodes, resolved)).collect()
}

fn segment(name: SegmentName, nodes: Vec<Arc<Node>>, resolved: &BTreeMap<String, IpAddr>) -> Option<Segment> {
    let gateways = leader::gateways(&nodes, resolved);
    let leader = nodes.get(*gateways.first()?)?;
    let (key, endpoint) = (leader.key?, leader.endpoint.clone()?);
    let of_node = |node: &Arc<Node>| node.pod_subnets.len() + node.internal_ips.len();
    // One WireGuard address per family comes later.
    let mut allowed_ips = Vec::with_capacity(nodes.iter().map(of_node).sum::<usize>() + 2);
    let mut location_ips = BTreeMap::new();
    for node in &nodes {
        allowed_ips.extend(node.pod_subnets.iter().copied());
        allowed_ips.extend(node.internal_ips.iter().map(|net| prefix::host(net.addr())));
        location_ips.extend(node.allowed_location_ips.iter().map(|net| (net.to_string(), *net)));
    }
    Some(Segment {
        name,
        nodes,
        gateways,
        key,
        endpoint,
        wireguard_ips: Vec::new(),
        allowed_ips,
        allowed_location_ips: location_ips.into_values().collect(),
    })
}

fn append_wireguard_ips(segments: &mut [Segment]) {
    for segment in segments {
        segment.allowed_ips.extend(segment.wireguard_ips.iter().map(|ip| prefix::host(*ip)));
    }
}

/// Gives every segment its WireGuard addresses. Returns the index of the first segment for which there is none.
fn address(subnets: &Subnets, segments: &mut [Segment]) -> Option<usize> {
    for (index, segment) in segments.iter_mut().enumerate() {
        match subnets.addresses(index) {
            Some(addresses) => segment.wireguard_ips = addresses,
            None => return Some(index),
        }
    }
    None
}
