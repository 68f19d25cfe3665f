//! What a Peer would share with nodes and other Peers if it were let in: a key, or addresses.
//!
//! A mesh in which two have the same still works, see [`crate::topology`]: one of them goes without. Here it is said
//! beforehand, when there is still somebody to tell. Whether a conflict is a reason to refuse is not decided here.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;

use crate::{Node, Object, Peer, prefix::host};

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

/// All conflicts of a Peer, those of its key first, then in the order of its allowed IPs.
///
/// Two prefixes overlap when one holds the other, host bits aside. A Peer of the same name is the same Peer, in an
/// earlier version, and no conflict. The WireGuard subnet, which all nodes have, is told of the first node only.
pub fn conflicts<'a>(
    peer: &Peer,
    nodes: impl Iterator<Item = &'a Node> + Clone,
    peers: impl Iterator<Item = &'a Peer> + Clone,
) -> Vec<Conflict> {
    let peers = peers.filter(|other| other.name != peer.name);
    let node_owners = nodes.clone().filter(|node| node.key == Some(peer.key)).map(of_node);
    let peer_owners = peers.clone().filter(|other| other.key == peer.key).map(of_peer);
    let mut found: Vec<Conflict> =
        node_owners.chain(peer_owners).map(|owner| Conflict::Key { owner }).collect();
    let mut told = BTreeSet::new();
    for allowed_ip in &peer.allowed_ips {
        let conflict =
            |claim, claimed, owner| Conflict::Overlap { allowed_ip: *allowed_ip, claim, claimed, owner };
        for node in nodes.clone() {
            for (claim, claimed) in claims(node) {
                let mut again = || claim == Claim::WireguardSubnet && !told.insert((*allowed_ip, claimed));
                if overlap(allowed_ip, &claimed) && !again() {
                    found.push(conflict(claim, claimed, of_node(node)));
                }
            }
        }
        for other in peers.clone() {
            let claimed = other.allowed_ips.iter().map(IpNet::trunc);
            let overlapping = claimed.filter(|claimed| overlap(allowed_ip, claimed));
            found.extend(overlapping.map(|claimed| conflict(Claim::AllowedIp, claimed, of_peer(other))));
        }
    }
    found
}

/// What a node has.
pub(crate) fn claims(node: &Node) -> impl Iterator<Item = (Claim, IpNet)> {
    let pods = node.pod_subnets.iter().map(|subnet| (Claim::PodSubnet, subnet.trunc()));
    let internal = node.internal_ips.iter().map(|net| (Claim::InternalIp, host(net.addr())));
    let wireguard = node.wireguard_ips.iter().map(|net| (Claim::WireguardSubnet, net.trunc()));
    pods.chain(internal).chain(wireguard)
}

/// Whether two prefixes have an address in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
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
    use crate::PublicKey;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32]).unwrap()
    }

    fn peer(name: &str, byte: u8, allowed_ips: &str) -> Peer {
        Peer {
            name: name.to_owned(),
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

    fn check(new: &Peer, expect: &[&str]) {
        let nodes = [node("a", 1), node("b", 2)];
        let peers = [peer("p", 11, "10.5.0.1/32 10.6.0.7/24"), peer("q", 12, "fd05::/64")];
        let found = conflicts(new, nodes.iter(), peers.iter());
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expect, "{new:?}");
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
