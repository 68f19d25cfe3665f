//! A segment: nodes that share one set of WireGuard addresses and are reached through one of them.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{Endpoint, Granularity, Node, PublicKey, text::Plain};

/// What a segment is called. The order of the names (as text) decides the order of the WireGuard addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentName {
    /// All nodes of one location. Sorts before every `Node` as `location:` does before `node:`.
    Location(String),
    /// One node alone.
    Node(String),
}

impl SegmentName {
    /// The segment that a node is in: its location's, or its own when the mesh is full or when it has no internal
    /// address by which others in the location could reach it.
    pub fn of(node: &Node, granularity: Granularity) -> Self {
        if Self::is_alone(node, granularity) {
            Self::Node(node.name.clone())
        } else {
            Self::Location(node.location.clone())
        }
    }

    /// Whether a node is in a segment of its own.
    pub(crate) fn is_alone(node: &Node, granularity: Granularity) -> bool {
        match granularity {
            Granularity::Location => node.internal_ips.is_empty(),
            Granularity::Full => true,
        }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Location(name) => write!(f, "location:{}", Plain(name)),
            Self::Node(name) => write!(f, "node:{}", Plain(name)),
        }
    }
}

/// Nodes that are reached through one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What it is called.
    pub name: SegmentName,
    /// Its nodes, sorted by name. Never empty.
    pub nodes: Vec<Arc<Node>>,
    /// Indices into `nodes` of those that hold tunnels, best first. Never empty.
    pub gateways: Vec<usize>,
    /// The public key of the leader.
    pub key: PublicKey,
    /// Where the leader listens, as its Node says.
    pub endpoint: Endpoint,
    /// The WireGuard addresses of the leader, one per subnet of the mesh.
    pub wireguard_ips: Vec<IpAddr>,
    /// What other segments send here: of each node its pod subnets and internal addresses, then the WireGuard
    /// addresses.
    pub allowed_ips: Vec<IpNet>,
    /// Ranges outside of the cluster that are reachable here, sorted by their text.
    pub allowed_location_ips: Vec<IpNet>,
}

impl Segment {
    /// The node that holds the tunnels.
    pub fn leader(&self) -> &Node {
        &self.nodes[self.gateways[0]]
    }

    /// Whether the node of this name is in the segment.
    pub fn contains(&self, node: &str) -> bool {
        self.nodes.binary_search_by(|other| other.name.as_str().cmp(node)).is_ok()
    }

    /// The keepalive of the leader in seconds; non-zero means that it is behind NAT.
    pub fn persistent_keepalive(&self) -> u16 {
        self.leader().persistent_keepalive
    }

    /// Everything that other segments send here: allowed IPs, then allowed-location IPs.
    pub fn all_allowed_ips(&self) -> impl Iterator<Item = &IpNet> {
        self.allowed_ips.iter().chain(&self.allowed_location_ips)
    }
}
