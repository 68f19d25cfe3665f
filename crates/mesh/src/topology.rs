//! The logical structure of the mesh: segments, leaders, addresses. It has no local node; see [`Perspective`].
//!
//! [`Perspective`]: crate::Perspective

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    Granularity, Node, Object, Peer, Problem, PublicKey, Segment, SegmentName,
    allocation::Subnets,
    leader,
    prefix::{self, intersects},
};

/// What the operator decides for the whole mesh. Every agent has to be given the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyConfig {
    /// How nodes are grouped.
    pub granularity: Granularity,
    /// Where WireGuard addresses come from.
    pub subnets: Subnets,
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
    /// What had to be left out, and why. The rest works.
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
        let mut problems = Vec::new();
        let nodes = without_conflicts(nodes, &mut problems);
        let mut segments = group(&config, nodes, resolved);
        if let Some(first_without) = address(&config.subnets, &mut segments) {
            problems.push(Problem::new(
                Object::Mesh,
                "SubnetExhausted",
                format!(
                    "the WireGuard subnet has addresses for {first_without} segments only, {} and those after it \
                     have none; give the agents a larger --subnet",
                    segments[first_without].name
                ),
            ));
            segments.truncate(first_without);
        }
        report_shared_addresses(&segments, &mut problems);
        let peers = without_key_conflicts(&segments, peers, &mut problems);
        filter_location_ips(&mut segments, &peers, &mut problems);
        let peers = claim_allowed_ips(&mut segments, peers, &mut problems);
        Self { config, segments, peers, problems }
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
}

/// Sorts the nodes by name and leaves out what an earlier node already claims: a key, a pod subnet.
fn without_conflicts(
    nodes: impl IntoIterator<Item = Arc<Node>>,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Node>> {
    let sorted: BTreeMap<String, Arc<Node>> = nodes
        .into_iter()
        .filter(|node| node.lacks().is_empty())
        .map(|node| (node.name.clone(), node))
        .collect();
    let mut keys: HashMap<PublicKey, String> = HashMap::new();
    let mut claims = Claims::default();
    let mut kept = Vec::with_capacity(sorted.len());
    for (name, mut node) in sorted {
        let Some(key) = node.key else { continue };
        if let Some(owner) = keys.get(&key) {
            problems.push(Problem::new(
                Object::Node(name),
                "DuplicateKey",
                format!(
                    "has the same WireGuard key as node {owner} and is left out; a cloned disk? Delete the key file \
                     on one of them and restart its agent"
                ),
            ));
            continue;
        }
        let mut subnets = Vec::with_capacity(node.pod_subnets.len());
        for subnet in &node.pod_subnets {
            match claims.overlapping(subnet) {
                Some(owner) => problems.push(Problem::new(
                    Object::Node(name.clone()),
                    "OverlappingPodSubnet",
                    format!(
                        "the pod subnet {subnet} overlaps one of node {owner} and is left out; give every node its \
                         own spec.podCIDR"
                    ),
                )),
                None => {
                    claims.add(*subnet, &name);
                    subnets.push(*subnet);
                }
            }
        }
        if subnets.is_empty() {
            continue;
        }
        if subnets.len() != node.pod_subnets.len() {
            Arc::make_mut(&mut node).pod_subnets = subnets;
        }
        keys.insert(key, name);
        kept.push(node);
    }
    kept
}

/// Who claimed which prefix, with a test for overlap that does not look at every claim.
#[derive(Default)]
struct Claims(BTreeMap<IpNet, String>);

impl Claims {
    fn add(&mut self, prefix: IpNet, owner: &str) {
        self.0.insert(prefix.trunc(), owner.to_owned());
    }

    /// Claims never overlap each other, so only the neighbours in the order of addresses can overlap the prefix:
    /// the one that begins last at or before it, and the first one that begins after it.
    fn overlapping(&self, prefix: &IpNet) -> Option<&str> {
        let prefix = prefix.trunc();
        let overlaps = |other: &IpNet| other.contains(&prefix) || prefix.contains(other);
        let before = self.0.range(..=prefix).next_back();
        let after = self.0.range(prefix..).next();
        before.into_iter().chain(after).find(|(other, _)| overlaps(other)).map(|(_, owner)| owner.as_str())
    }
}

/// Groups nodes into segments and chooses their gateways.
fn group(
    config: &TopologyConfig,
    nodes: Vec<Arc<Node>>,
    resolved: &BTreeMap<String, IpAddr>,
) -> Vec<Segment> {
    let mut groups: BTreeMap<SegmentName, Vec<Arc<Node>>> = BTreeMap::new();
    for node in nodes {
        groups.entry(SegmentName::of(&node, config.granularity)).or_default().push(node);
    }
    groups.into_iter().filter_map(|(name, nodes)| segment(name, nodes, resolved)).collect()
}

fn segment(name: SegmentName, nodes: Vec<Arc<Node>>, resolved: &BTreeMap<String, IpAddr>) -> Option<Segment> {
    let gateways = leader::gateways(&nodes, resolved);
    let leader = nodes.get(*gateways.first()?)?;
    let (key, endpoint) = (leader.key?, leader.endpoint.clone()?);
    let mut allowed_ips = Vec::new();
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

/// Inside of a segment nodes are next hops by their internal addresses: of two with the same one, the pods of one
/// cannot be reached. Which one is decided by the private network, so both stay.
fn report_shared_addresses(segments: &[Segment], problems: &mut Vec<Problem>) {
    for segment in segments {
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for node in &segment.nodes {
            for address in node.internal_ips.iter().map(IpNet::addr) {
                let owner = *owners.entry(address).or_insert(&node.name);
                if owner != node.name {
                    problems.push(Problem::new(
                        Object::Node(node.name.clone()),
                        "DuplicateAddress",
                        format!(
                            "has the same internal address {address} as node {owner} of {}; give it another address \
                             or the annotation kilo.squat.ai/force-internal-ip",
                            segment.name
                        ),
                    ));
                }
            }
        }
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

/// Sorts the peers by name and leaves out those whose key a node or an earlier peer has.
fn without_key_conflicts(
    segments: &[Segment],
    peers: impl IntoIterator<Item = Peer>,
    problems: &mut Vec<Problem>,
) -> Vec<Peer> {
    let sorted: BTreeMap<String, Peer> = peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
    let mut keys: HashMap<PublicKey, String> = segments
        .iter()
        .flat_map(|segment| &segment.nodes)
        .filter_map(|node| Some((node.key?, format!("node {}", node.name))))
        .collect();
    let mut prefixes: HashMap<IpNet, String> = HashMap::new();
    let mut kept = Vec::with_capacity(sorted.len());
    for (name, mut peer) in sorted {
        if let Some(owner) = keys.get(&peer.key) {
            problems.push(Problem::new(
                Object::Peer(name),
                "DuplicateKey",
                format!("has the same public key as {owner} and is left out; give it a key of its own"),
            ));
            continue;
        }
        keys.insert(peer.key, format!("peer {name}"));
        peer.allowed_ips.retain(|ip| match prefixes.get(&ip.trunc()) {
            None => {
                prefixes.insert(ip.trunc(), name.clone());
                true
            }
            Some(owner) => {
                if *owner != name {
                    problems.push(Problem::new(
                        Object::Peer(name.clone()),
                        "OverlappingAllowedIP",
                        format!("the allowed IP {ip} belongs to peer {owner} and is left out"),
                    ));
                }
                false
            }
        });
        kept.push(peer);
    }
    kept
}

/// Drops allowed-location IPs that would take traffic away from something else.
///
/// The order of evaluation is the Go implementation's, so that both come to the same result in one mesh: segment by
/// segment, where those before are already filtered and those after are not, and where those after do not have
/// their WireGuard addresses yet.
fn filter_location_ips(segments: &mut [Segment], peers: &[Peer], problems: &mut Vec<Problem>) {
    if segments.iter().all(|segment| segment.allowed_location_ips.is_empty()) {
        return append_wireguard_ips(segments);
    }
    for index in 0..segments.len() {
        append_wireguard_ips(&mut segments[index..=index]);
        let wanted = std::mem::take(&mut segments[index].allowed_location_ips);
        let mut kept = Vec::with_capacity(wanted.len());
        for ip in wanted {
            match location_ip_conflict(&ip, index, segments, peers) {
                Some(with) => problems.push(Problem::new(
                    Object::Node(claimant(&segments[index], &ip)),
                    "OverlappingLocationIP",
                    format!("the allowed-location IP {ip} overlaps {with} and is left out"),
                )),
                None => kept.push(ip),
            }
        }
        segments[index].allowed_location_ips = kept;
    }
}

fn append_wireguard_ips(segments: &mut [Segment]) {
    for segment in segments {
        segment.allowed_ips.extend(segment.wireguard_ips.iter().map(|ip| prefix::host(*ip)));
    }
}

fn location_ip_conflict(ip: &IpNet, own: usize, segments: &[Segment], peers: &[Peer]) -> Option<String> {
    for (index, segment) in segments.iter().enumerate() {
        if index != own
            && let Some(other) = segment.allowed_location_ips.iter().find(|other| intersects(ip, other))
        {
            return Some(format!("{other} of {}", segment.name));
        }
        if let Some(other) = segment.allowed_ips.iter().find(|other| other.contains(&ip.addr())) {
            return Some(format!("{other} of {}", segment.name));
        }
    }
    peers.iter().find_map(|peer| {
        let other = peer.allowed_ips.iter().find(|other| intersects(ip, other))?;
        Some(format!("{other} of peer {}", peer.name))
    })
}

fn claimant(segment: &Segment, ip: &IpNet) -> String {
    let node = segment.nodes.iter().find(|node| node.allowed_location_ips.contains(ip));
    node.unwrap_or(&segment.nodes[0]).name.clone()
}

/// Makes every prefix belong to one segment or peer: WireGuard gives an allowed IP to whoever asked last, so two
/// claimants would take it from each other for ever. The first segment in the order of the topology keeps it.
fn claim_allowed_ips(segments: &mut [Segment], peers: Vec<Peer>, problems: &mut Vec<Problem>) -> Vec<Peer> {
    let mut owners: HashMap<IpNet, String> = HashMap::new();
    for segment in segments.iter_mut() {
        let name = segment.name.to_string();
        let node = segment.nodes[0].name.clone();
        let mut claim = |ip: &IpNet| match owners.get(&ip.trunc()) {
            None => {
                owners.insert(ip.trunc(), name.clone());
                true
            }
            // Two nodes of one segment may share an address; it is routed to the segment once.
            Some(owner) if *owner == name => false,
            Some(owner) => {
                problems.push(Problem::new(
                    Object::Node(node.clone()),
                    "DuplicateAddress",
                    format!(
                        "{ip} of {name} already belongs to {owner} and is reachable there only; give the node \
                         another address or the annotation kilo.squat.ai/force-internal-ip"
                    ),
                ));
                false
            }
        };
        segment.allowed_ips.retain(&mut claim);
        segment.allowed_location_ips.retain(&mut claim);
    }
    let mut kept = Vec::with_capacity(peers.len());
    for mut peer in peers {
        peer.allowed_ips.retain(|ip| match owners.get(&ip.trunc()) {
            None => true,
            Some(owner) => {
                problems.push(Problem::new(
                    Object::Peer(peer.name.clone()),
                    "OverlappingAllowedIP",
                    format!("the allowed IP {ip} belongs to {owner} and is left out"),
                ));
                false
            }
        });
        kept.push(peer);
    }
    kept
}
