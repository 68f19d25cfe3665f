//! Who gets what several claim: keys, pod subnets, allowed IPs. The first in the order of names keeps it.
//!
//! What nobody else claims, nearly everything, is found by sorting; owners are looked up for the rest only.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    Node, Object, Peer, Problem, Problems, PublicKey, Segment,
    conflict::{Claim, claims},
    overlap::{Covers, repeated},
};

/// Sorts the nodes by name and leaves out what an earlier node already claims: a key, a pod subnet.
pub(super) fn without_conflicts(
    nodes: impl IntoIterator<Item = Arc<Node>>,
    problems: &mut Problems,
) -> Vec<Arc<Node>> {
    let sorted = sorted_by_name(nodes.into_iter().filter(|node| node.lacks().is_empty()));
    let contested_keys = repeated(sorted.iter().filter_map(|node| node.key));
    let contested = Covers::contested(sorted.iter().flat_map(|node| node.pod_subnets.iter().copied()));
    let mut keys: HashMap<PublicKey, String> = HashMap::new();
    let mut claims = Claims::default();
    let mut kept = Vec::with_capacity(sorted.len());
    for mut node in sorted {
        let contested_key = node.key.filter(|key| contested_keys.binary_search(key).is_ok());
        if let Some(owner) = contested_key.and_then(|key| keys.get(&key)) {
            problems.push(Problem::new(
                Object::Node(node.name.clone()),
                "DuplicateKey",
                format!(
                    "has the same WireGuard key as node {owner} and is left out; a cloned disk? Delete the key file \
                     on one of them and restart its agent"
                ),
            ));
            continue;
        }
        if node.pod_subnets.iter().any(|subnet| contested.overlaps(subnet)) {
            let subnets = claims.claim(&node, problems);
            if subnets.is_empty() && !node.joins_without_pods {
                continue;
            }
            if subnets.len() != node.pod_subnets.len() {
                Arc::make_mut(&mut node).pod_subnets = subnets;
            }
        }
        if let Some(key) = contested_key {
            keys.insert(key, node.name.clone());
        }
        kept.push(node);
    }
    kept
}

/// Of several nodes of one name the last one counts.
fn sorted_by_name(nodes: impl Iterator<Item = Arc<Node>>) -> Vec<Arc<Node>> {
    let mut sorted: Vec<_> = nodes.collect();
    sorted.reverse();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.dedup_by(|later, first| later.name == first.name);
    sorted
}

/// Who claimed which pod subnet, of those that several claim.
#[derive(Default)]
struct Claims(BTreeMap<IpNet, String>);

impl Claims {
    /// The pod subnets of a node that overlap nothing claimed before. They are now claimed.
    fn claim(&mut self, node: &Node, problems: &mut Problems) -> Vec<IpNet> {
        let mut subnets = Vec::with_capacity(node.pod_subnets.len());
        for subnet in &node.pod_subnets {
            match self.overlapping(subnet) {
                Some(owner) => problems.push(Problem::new(
                    Object::Node(node.name.clone()),
                    "OverlappingPodSubnet",
                    format!(
                        "the pod subnet {subnet} overlaps one of node {owner} and is left out; give every node pod \
                         subnets of its own"
                    ),
                )),
                None => {
                    self.0.insert(subnet.trunc(), node.name.clone());
                    subnets.push(*subnet);
                }
            }
        }
        subnets
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

/// Inside of a segment nodes are next hops by their internal addresses: of two with the same one, the pods of one
/// cannot be reached. Which one is decided by the private network, so both stay.
pub(super) fn report_shared_addresses(segments: &[Segment], problems: &mut Problems) {
    for segment in segments {
        let addresses = || segment.nodes.iter().flat_map(|node| node.internal_ips.iter().map(IpNet::addr));
        let shared = repeated(addresses());
        if shared.is_empty() {
            continue;
        }
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

/// Who has a key.
enum KeyOwner {
    Node(Arc<Node>),
    Peer(String),
}

impl fmt::Display for KeyOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {}", node.name),
            Self::Peer(name) => write!(f, "peer {name}"),
        }
    }
}

/// Sorts the peers by name and leaves out those whose key a node or an earlier peer has, and allowed IPs that an
/// earlier peer has.
pub(super) fn without_key_conflicts(
    segments: &[Segment],
    peers: impl IntoIterator<Item = Peer>,
    problems: &mut Problems,
) -> Vec<Peer> {
    let sorted: BTreeMap<String, Peer> = peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
    if sorted.is_empty() {
        return Vec::new();
    }
    let nodes = segments.iter().flat_map(|segment| &segment.nodes);
    let node_keys = nodes.filter_map(|node| Some((node.key?, KeyOwner::Node(node.clone()))));
    let mut keys: HashMap<PublicKey, KeyOwner> = node_keys.collect();
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
        keys.insert(peer.key, KeyOwner::Peer(name.clone()));
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

/// Makes every prefix belong to one segment or peer: WireGuard gives an allowed IP to whoever asked last, so two
/// claimants would take it from each other for ever. The first segment in the order of the topology keeps it.
pub(super) fn claim_allowed_ips(segments: &mut [Segment], peers: &mut [Peer], problems: &mut Problems) {
    let of_segments = segments.iter().flat_map(Segment::all_allowed_ips);
    let of_peers = peers.iter().flat_map(|peer| &peer.allowed_ips);
    let contested = repeated(of_segments.chain(of_peers).map(IpNet::trunc));
    if contested.is_empty() {
        return;
    }
    let is_contested = |ip: &IpNet| contested.binary_search(&ip.trunc()).is_ok();
    let mut owners: HashMap<IpNet, String> = HashMap::new();
    for segment in segments.iter_mut() {
        let name = &segment.name;
        let node = &segment.nodes[0].name;
        let mut claim = |ip: &IpNet| {
            if !is_contested(ip) {
                return true;
            }
            let name = name.to_string();
            match owners.get(&ip.trunc()) {
                None => {
                    owners.insert(ip.trunc(), name);
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
            }
        };
        segment.allowed_ips.retain(&mut claim);
        segment.allowed_location_ips.retain(&mut claim);
    }
    for peer in peers {
        peer.allowed_ips.retain(|ip| match owners.get(&ip.trunc()) {
            None => true,
            Some(owner) => {
                problems.push(Problem::new(
                    Object::Peer(peer.name.clone()),
                    "OverlappingAllowedIP",
                    format!(
                        "the allowed IP {ip} belongs to {}{owner} and is left out",
                        of_node(segments, ip)
                    ),
                ));
                false
            }
        });
    }
}

/// Which node of a segment has a prefix, in words; none has the WireGuard address.
fn of_node(segments: &[Segment], prefix: &IpNet) -> String {
    let has = |node: &&Arc<Node>| {
        claims(node).any(|(claim, claimed)| claim != Claim::WireguardSubnet && claimed == prefix.trunc())
    };
    let node = segments.iter().flat_map(|segment| &segment.nodes).find(has);
    node.map_or_else(String::new, |node| format!("node {} of ", node.name))
}
