//! What a Peer would share with nodes and other Peers if it were let in: a key, or addresses.
//!
//! A mesh in which two have the same still works, see [`crate::topology`]: one of them goes without. Here it is said
//! beforehand, when there is still somebody to tell. Whether a conflict is a reason to refuse is not decided here.

use std::{collections::BTreeMap, fmt};

use ipnet::IpNet;

use crate::{
    Node, Object, Peer, PublicKey,
    allocation::{Subnets, said_by_most},
    overlap::{Counter, Nets},
    prefix::host,
};

/// What somebody has that a Peer's allowed IP overlaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A node's pod subnet.
    PodSubnet,
    /// A node's internal address.
    InternalIp,
    /// The subnet of the mesh's own addresses, as a node's agent wrote it.
    WireguardSubnet,
    /// The WireGuard address of a node that leads.
    WireguardIp,
    /// An allowed IP of another Peer.
    AllowedIp,
    /// A node's allowed-location IP.
    LocationIp,
    /// The addresses of the cluster's services.
    Services,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PodSubnet => "the pod subnet",
            Self::InternalIp => "the internal address",
            Self::WireguardSubnet => "the WireGuard subnet",
            Self::WireguardIp => "the WireGuard address",
            Self::AllowedIp => "the allowed IP",
            Self::LocationIp => "the allowed-location IP",
            Self::Services => "the service range",
        })
    }
}

/// Something that a Peer has and somebody else, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// The public key.
    Key {
        /// Who has it.
        owner: Object,
    },
    /// Addresses.
    Overlap {
        /// The Peer's allowed IP, as it is written in the Peer.
        allowed_ip: IpNet,
        /// What the other one has.
        claim: Claim,
        /// Its addresses, without host bits.
        claimed: IpNet,
        /// The other one.
        owner: Object,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { owner } => write!(f, "{owner} has the same public key"),
            Self::Overlap { allowed_ip, claim, claimed, owner } => {
                write!(f, "the allowed IP {allowed_ip} overlaps {claim} {claimed} of {owner}")
            }
        }
    }
}

/// What is about to be claimed, of a Peer or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed<'a> {
    /// The name of the Peer. One of the same name is the same Peer, in an earlier version, and no conflict.
    pub peer: &'a str,
    /// Its public key, if that is asked about.
    pub key: Option<PublicKey>,
    /// Its allowed IPs, as far as they are asked about.
    pub allowed_ips: Vec<IpNet>,
}

/// The conflicts of a Peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// Some of them, those of its key first, then in the order of its allowed IPs.
    pub named: Vec<Conflict>,
    /// How many there are besides.
    pub more: usize,
}

/// The conflicts of a Peer, of which at most `most` are named: a prefix that is far too wide overlaps everything.
///
/// Two prefixes overlap when one holds the other, host bits aside. The WireGuard subnet, which all nodes have, counts as
/// the first node's only. It takes time in proportion to what there is, and not to what of it overlaps.
pub fn conflicts<'a>(
    new: &Claimed<'_>,
    nodes: impl Iterator<Item = &'a Node> + Clone,
    peers: impl Iterator<Item = &'a Peer> + Clone,
    most: usize,
) -> Conflicts {
    let peers = peers.filter(|other| other.name != new.peer);
    let mut found = Found::of(new, most);
    if let Some(key) = new.key {
        let of_nodes = nodes.clone().filter(|node| node.key == Some(key)).map(of_node);
        let of_peers = peers.clone().filter(|other| other.key == key).map(of_peer);
        of_nodes.chain(of_peers).for_each(|owner| found.add(0, || Conflict::Key { owner }));
    }
    for node in nodes.clone() {
        for (claim, claimed) in claims(node) {
            found.add_overlaps(claim, claimed, || of_node(node));
        }
    }
    // Every node that leads says it, and one alone is not believed.
    let said = || nodes.clone().filter_map(|node| Some((Subnets::said_by(node)?, node)));
    let subnets = said_by_most(said().map(|(subnets, _)| subnets));
    if let Some((subnets, node)) = subnets.and_then(|most| said().find(|(subnets, _)| *subnets == most)) {
        for subnet in subnets.iter() {
            found.add_overlaps(Claim::WireguardSubnet, *subnet, || of_node(node));
        }
    }
    for other in peers {
        for claimed in &other.allowed_ips {
            found.add_overlaps(Claim::AllowedIp, *claimed, || of_peer(other));
        }
    }
    // The sort keeps the order of those with the same position.
    found.named.sort_by_key(|(position, _)| *position);
    let named: Vec<Conflict> = found.named.into_iter().map(|(_, conflict)| conflict).collect();
    Conflicts { more: found.count - named.len(), named }
}

/// Conflicts in the making.
struct Found<'a> {
    new: &'a Claimed<'a>,
    /// The allowed IPs, for counting, and each with its first position in the list, for naming.
    counter: Counter,
    positions: Nets<usize>,
    most: usize,
    /// Each with the position of the allowed IP, from 1 on; 0 is the key.
    named: Vec<(usize, Conflict)>,
    count: usize,
}

impl<'a> Found<'a> {
    fn of(new: &'a Claimed<'a>, most: usize) -> Self {
        let mut first = BTreeMap::new();
        for (position, net) in new.allowed_ips.iter().enumerate() {
            first.entry(net.trunc()).or_insert(position);
        }
        let counter = Counter::of(first.keys().copied());
        Self { new, counter, positions: Nets::of(first.into_iter()), most, named: Vec::new(), count: 0 }
    }

    fn add(&mut self, position: usize, conflict: impl FnOnce() -> Conflict) {
        if self.named.len() < self.most {
            self.named.push((position, conflict()));
        }
        self.count += 1;
    }

    /// All overlaps of somebody's prefix with what is claimed.
    fn add_overlaps(&mut self, claim: Claim, claimed: IpNet, owner: impl Fn() -> Object) {
        let count = self.counter.overlapping(&claimed);
        self.count += count;
        let to_name = count.min(self.most - self.named.len());
        if to_name == 0 {
            return;
        }
        let claimed = claimed.trunc();
        let overlapping = self.positions.around(claimed).chain(self.positions.inside(claimed));
        self.named.extend(overlapping.take(to_name).map(|(_, position)| {
            let allowed_ip = self.new.allowed_ips[*position];
            (position + 1, Conflict::Overlap { allowed_ip, claim, claimed, owner: owner() })
        }));
    }
}

/// What a node has.
pub(crate) fn claims(node: &Node) -> impl Iterator<Item = (Claim, IpNet)> {
    let pods = node.pod_subnets.iter().map(|subnet| (Claim::PodSubnet, subnet.trunc()));
    let internal = node.internal_ips.iter().map(|net| (Claim::InternalIp, host(net.addr())));
    pods.chain(internal)
}

fn of_node(node: &Node) -> Object {
    Object::Node(node.name.clone())
}

fn of_peer(peer: &Peer) -> Object {
    Object::Peer(peer.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32]).unwrap()
    }

    fn peer(name: &str, byte: u8, allowed_ips: &str) -> Peer {
        Peer {
            name: name.to_owned(),
            created: 0,
            changed: false,
            key: key(byte),
            allowed_ips: nets(allowed_ips),
            endpoint: None,
            preshared_key: None,
            persistent_keepalive: 0,
        }
    }

    fn node(name: &str, number: u8) -> Node {
        let mut node = Node::named(name);
        node.key = Some(key(number));
        node.pod_subnets = nets(&format!("10.42.{number}.0/24 fd42:{number}::/64"));
        node.internal_ips = nets(&format!("10.1.0.{number}/16"));
        node.wireguard_ips = nets(&format!("10.4.0.{number}/16"));
        node
    }

    fn claimed(peer: &Peer) -> Claimed<'_> {
        Claimed { peer: &peer.name, key: Some(peer.key), allowed_ips: peer.allowed_ips.clone() }
    }

    fn check(new: &Peer, expect: &[&str]) {
        let nodes = [node("a", 1), node("b", 2)];
        let peers = [peer("p", 11, "10.5.0.1/32 10.6.0.7/24"), peer("q", 12, "fd05::/64")];
        let new = claimed(new);
        let found = conflicts(&new, nodes.iter(), peers.iter(), 8);
        assert_eq!(found.named.iter().map(ToString::to_string).collect::<Vec<_>>(), expect, "{new:?}");
        assert_eq!(found.more, 0);
        // However few are named, all are counted.
        let first = conflicts(&new, nodes.iter(), peers.iter(), 1);
        assert_eq!((first.named.len(), first.named.len() + first.more), (expect.len().min(1), expect.len()));
    }

    #[test]
    fn each_conflict_names_the_other() {
        check(&peer("new", 20, "10.5.0.2/32 192.0.2.0/24 10.1.0.3/32 fd05:0:0:1::/64 10.43.0.0/16"), &[]);
        check(&peer("new", 1, "10.9.0.1/32"), &["node a has the same public key"]);
        check(&peer("new", 12, "10.9.0.1/32"), &["peer q has the same public key"]);
        check(
            &peer("new", 20, "10.42.0.0/16"),
            &[
                "the allowed IP 10.42.0.0/16 overlaps the pod subnet 10.42.1.0/24 of node a",
                "the allowed IP 10.42.0.0/16 overlaps the pod subnet 10.42.2.0/24 of node b",
            ],
        );
        check(
            &peer("new", 20, "fd42:2::7/128 10.1.0.1/32"),
            &[
                "the allowed IP fd42:2::7/128 overlaps the pod subnet fd42:2::/64 of node b",
                "the allowed IP 10.1.0.1/32 overlaps the internal address 10.1.0.1/32 of node a",
            ],
        );
        check(
            &peer("new", 20, "10.4.200.1/32"),
            &["the allowed IP 10.4.200.1/32 overlaps the WireGuard subnet 10.4.0.0/16 of node a"],
        );
        check(
            &peer("new", 20, "10.6.0.0/23 10.5.0.1/32 fd05::5/128"),
            &[
                "the allowed IP 10.6.0.0/23 overlaps the allowed IP 10.6.0.0/24 of peer p",
                "the allowed IP 10.5.0.1/32 overlaps the allowed IP 10.5.0.1/32 of peer p",
                "the allowed IP fd05::5/128 overlaps the allowed IP fd05::/64 of peer q",
            ],
        );
    }

    #[test]
    fn a_peer_does_not_conflict_with_itself() {
        check(&peer("p", 11, "10.5.0.1/32 10.6.0.0/24"), &[]);
    }

    #[test]
    fn host_bits_do_not_matter() {
        check(
            &peer("new", 20, "10.6.0.200/24"),
            &["the allowed IP 10.6.0.200/24 overlaps the allowed IP 10.6.0.0/24 of peer p"],
        );
    }
}
