//! Which keys and allowed IPs peers keep: those that no node has, and no peer before them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use ipnet::IpNet;

use super::TopologyConfig;
use crate::{
    Node, Object, Peer, Problem, Problems, PublicKey, Segment,
    conflict::{Claim, claims},
    overlap::{Covers, Nets},
    prefix,
};

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

/// Takes from peers the allowed IPs that are, or lie in, something of a node or the addresses of services: a Peer does not
/// route pods away from their node. What is wider than that stays.
pub(super) fn leave_to_nodes(
    segments: &[Segment],
    peers: &mut [Peer],
    config: &TopologyConfig,
    problems: &mut Problems,
) {
    if peers.is_empty() {
        return;
    }
    let taken = taken(segments, peers, config);
    for peer in peers {
        let name = &peer.name;
        peer.allowed_ips.retain(|ip| {
            let Some((net, (claim, owner))) = taken.around(ip.trunc()).next() else { return true };
            problems.push(Problem::new(
                Object::Peer(name.clone()),
                "OverlappingAllowedIP",
                format!("the allowed IP {ip} belongs to {claim} {net} of {owner} and is left out"),
            ));
            false
        });
    }
}

/// What no Peer gets, as far as it overlaps what Peers ask for. Addresses in the WireGuard subnet that no leader has are as
/// good as any.
fn taken(segments: &[Segment], peers: &[Peer], config: &TopologyConfig) -> Nets<(Claim, Object)> {
    let wanted = Covers::of(peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()));
    let relevant = |net: &IpNet| wanted.overlaps(net);
    let services = config.reserved().filter(|(_, claim)| *claim == Claim::Services);
    let services = services.filter(|(net, _)| relevant(net)).map(|(net, claim)| (net, (claim, Object::Mesh)));
    let nodes = segments.iter().flat_map(|segment| &segment.nodes);
    let of_nodes = nodes.flat_map(|node| {
        let claims = claims(node).filter(|(claim, net)| *claim != Claim::WireguardSubnet && relevant(net));
        claims.map(|(claim, net)| (net, (claim, Object::Node(node.name.clone()))))
    });
    let tunnels = segments.iter().flat_map(|segment| {
        let hosts = segment.wireguard_ips.iter().map(|ip| prefix::host(*ip)).filter(relevant);
        hosts.map(|net| (net, (Claim::WireguardIp, Object::Node(segment.leader().name.clone()))))
    });
    Nets::of(services.chain(of_nodes).chain(tunnels))
}
