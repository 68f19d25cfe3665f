//! What operators wrote of addresses before a node said that it has one.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Node, Peer, Segment,
    conflict::Claim,
    node::age,
    overlap::{Covers, Nets},
    prefix::{self, is_wide},
};

/// Ranges of locations and allowed IPs of Peers that hold an internal address of a node.
pub(super) struct Written<'a>(Nets<Owner<'a>>);

/// Whose range it is. The oldest is the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner<'a> {
    age: i64,
    /// The location of a node; none of a Peer.
    location: Option<&'a str>,
    name: &'a str,
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location {
            Some(_) => write!(f, "{} of node {}", Claim::LocationIp, self.name),
            None => write!(f, "{} of peer {}", Claim::AllowedIp, self.name),
        }
    }
}

impl<'a> Written<'a> {
    pub(super) fn of(segments: &'a [Segment], peers: &'a [Peer]) -> Self {
        let nodes = || segments.iter().flat_map(|segment| &segment.nodes);
        let of_nodes = nodes().flat_map(|node| {
            let owner = Owner { age: age(node.created), location: Some(&node.location), name: &node.name };
            node.allowed_location_ips.iter().map(move |net| (*net, owner))
        });
        let of_peers = peers.iter().flat_map(|peer| {
            let owner = Owner { age: age(peer.claims_since()), location: None, name: &peer.name };
            // A network behind a Peer may well be one that nodes are in.
            let addresses = peer.allowed_ips.iter().filter(|net| prefix::is_host(net));
            addresses.map(move |net| (*net, owner))
        });
        // In a wide range, which is no network of somebody but many of them, a node may well be.
        let mut written = of_nodes.chain(of_peers).filter(|(net, _)| !is_wide(net)).peekable();
        if written.peek().is_none() {
            return Self(Nets::of(std::iter::empty()));
        }
        let addresses = nodes().flat_map(|node| &node.internal_ips).map(|net| prefix::host(net.addr()));
        let addresses = Covers::of(addresses);
        Self(Nets::of(written.filter(|(net, _)| addresses.overlaps(net))))
    }

    /// The oldest range that has a better right to an address than a node. What an operator gave to the node is better than
    /// any, and a location's range is that of its own nodes.
    pub(super) fn owner(&self, node: &Node, address: IpAddr) -> Option<(&IpNet, &Owner<'a>)> {
        if node.internal_ips_forced {
            return None;
        }
        let around = self.0.around(prefix::host(address));
        let better = around
            .filter(|(_, owner)| owner.age < age(node.created) && owner.location != Some(&node.location));
        better.min_by_key(|(_, owner)| owner).map(|(net, owner)| (net, owner))
    }
}
