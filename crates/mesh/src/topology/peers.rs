//! Which keys and allowed IPs peers keep: those that no node has, and no older peer.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::{
    TopologyConfig,
    addresses::{Foreign, held},
};
use crate::{
    Object, Peer, Problem, Problems, PublicKey, Segment, SegmentName,
    conflict::Claim,
    node::age,
    overlap::{Covers, Nets},
    prefix,
};

/// All Peers together have no more allowed IPs than this: each is a route on every node.
const MOST_ALLOWED_IPS: usize = 100_000;

/// Sorts the peers by name and leaves out those whose key a node or an older peer has, allowed IPs that an older peer has, and
/// those that are too many.
pub(super) fn without_conflicts(
    segments: &[Segment],
    peers: Vec<Peer>,
    problems: &mut Problems,
) -> Vec<Peer> {
    let mut peers: BTreeMap<String, Peer> = peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
    if peers.is_empty() {
        return Vec::new();
    }
    let mut by_age: Vec<(i64, String)> =
        peers.values().map(|peer| (age(peer.created), peer.name.clone())).collect();
    by_age.sort_unstable();
    let nodes = segments.iter().flat_map(|segment| &segment.nodes);
    let keys = nodes.filter_map(|node| Some((node.key?, Object::Node(node.name.clone()))));
    let mut given = Given { keys: keys.collect(), prefixes: HashMap::new() };
    for (_, name) in by_age {
        if peers.get_mut(&name).is_some_and(|peer| !given.give(peer, problems)) {
            peers.remove(&name);
        }
    }
    peers.into_values().collect()
}

/// Who has which key, and which peer which prefix.
struct Given {
    keys: HashMap<PublicKey, Object>,
    prefixes: HashMap<IpNet, String>,
}

impl Given {
    /// Gives a peer its key and its allowed IPs, as far as they are free. Returns whether it can be in the mesh.
    fn give(&mut self, peer: &mut Peer, problems: &mut Problems) -> bool {
        let name = &peer.name;
        let object = || Object::Peer(name.clone());
        if let Some(owner) = self.keys.get(&peer.key) {
            problems.push(Problem::new(
                object(),
                "DuplicateKey",
                format!("has the same public key as {owner} and is left out; give it a key of its own"),
            ));
            return false;
        }
        self.keys.insert(peer.key, object());
        peer.allowed_ips.retain(|ip| {
            let owner = self.prefixes.get(&ip.trunc());
            if owner.is_none() && self.prefixes.len() < MOST_ALLOWED_IPS {
                self.prefixes.insert(ip.trunc(), name.clone());
                return true;
            }
            match owner {
                Some(owner) if owner == name => {}
                Some(owner) => problems.push(Problem::new(
                    object(),
                    "OverlappingAllowedIP",
                    format!("the allowed IP {ip} belongs to peer {owner} and is left out"),
                )),
                None => problems.push(Problem::new(
                    object(),
                    "TooManyAllowedIPs",
                    format!(
                        "the allowed IP {ip} is left out, because all Peers together have more than \
                         {MOST_ALLOWED_IPS}; use wider ranges"
                    ),
                )),
            }
            false
        });
        true
    }
}

/// Takes from peers the allowed IPs that are, or lie in, something of a node or the addresses of services: a Peer does not
/// route pods away from their node. What is wider than that stays.
pub(super) fn leave_to_nodes(
    segments: &[Segment],
    foreign: &Foreign,
    peers: &mut [Peer],
    config: &TopologyConfig,
    problems: &mut Problems,
) {
    if peers.is_empty() {
        return;
    }
    let taken = taken(segments, foreign, peers, config);
    for peer in peers {
        let name = &peer.name;
        peer.allowed_ips.retain(|ip| {
            // A narrower part of a location's range may be a Peer's.
            let mut taken =
                taken.around(ip.trunc()).filter(|(net, owner)| owner.gives_no_part() || ip.trunc() == *net);
            let Some((net, owner)) = taken.next() else { return true };
            problems.push(Problem::new(
                Object::Peer(name.clone()),
                "OverlappingAllowedIP",
                format!("the allowed IP {ip} {} and is left out", owner.says(ip, net)),
            ));
            false
        });
    }
}

/// What no Peer gets, as far as it overlaps what Peers ask for. Addresses in the WireGuard subnet that no leader has are as
/// good as any.
fn taken(segments: &[Segment], foreign: &Foreign, peers: &[Peer], config: &TopologyConfig) -> Nets<Owner> {
    let wanted = Covers::of(peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied()));
    let relevant = |net: &IpNet| wanted.overlaps(net);
    let services = config.reserved().filter(|(net, claim)| *claim == Claim::Services && relevant(net));
    let services = services.map(|(net, _)| (net, Owner::Services));
    let of_nodes = held(segments, foreign).filter(|(.., net)| relevant(net));
    let of_nodes = of_nodes.map(|(segment, node, claim, net)| {
        (net, Owner::Node { claim, node: node.name.clone(), segment: segment.name.clone() })
    });
    let tunnels = segments.iter().flat_map(|segment| {
        let hosts = segment.wireguard_ips.iter().map(|ip| prefix::host(*ip)).filter(relevant);
        hosts.map(|net| (net, Owner::Tunnel(segment.name.clone())))
    });
    let ranges = segments.iter().flat_map(|segment| {
        let ranges = segment.allowed_location_ips.iter().map(IpNet::trunc).filter(relevant);
        ranges.map(|net| (net, Owner::Location(segment.name.clone())))
    });
    Nets::of(services.chain(of_nodes).chain(tunnels).chain(ranges))
}

/// Who has something that a Peer asks for.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Services,
    Tunnel(SegmentName),
    Location(SegmentName),
    Node { claim: Claim, node: String, segment: SegmentName },
}

impl Owner {
    fn gives_no_part(&self) -> bool {
        !matches!(self, Self::Location(_))
    }

    /// What is to be said of an allowed IP that is, or lies in, what the owner has.
    fn says(&self, ip: &IpNet, net: &IpNet) -> String {
        match self {
            Self::Services if ip.trunc() == *net => "is where the services of this cluster are".to_owned(),
            Self::Services => format!("lies in {net}, where the services of this cluster are,"),
            Self::Tunnel(segment) | Self::Location(segment) => format!("belongs to {segment}"),
            Self::Node { node, segment, .. } if ip.trunc() == *net => {
                format!("belongs to node {node} of {segment}")
            }
            Self::Node { claim, node, .. } => format!("lies in {claim} {net} of node {node}"),
        }
    }
}
