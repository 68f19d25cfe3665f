//! The mesh as one node sees it: its role, its segment, and the endpoints it would use.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{Endpoint, Node, Peer, PublicKey, Segment, Topology};

/// What a node does for its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It holds the tunnels.
    Leader,
    /// It routes through the leader.
    Member,
}

/// A topology with a local node.
#[derive(Debug, Clone)]
pub struct Perspective<'a> {
    /// The mesh.
    pub topology: &'a Topology,
    /// The local node.
    pub node: &'a Arc<Node>,
    /// Where the local node's segment is in `topology.segments`.
    pub segment_index: usize,
    /// What the local node does.
    pub role: Role,
    discovered: BTreeMap<PublicKey, SocketAddr>,
}

impl<'a> Perspective<'a> {
    /// The mesh as the node of this name sees it; `None` when it is not part of the mesh.
    pub fn of(topology: &'a Topology, node: &str) -> Option<Self> {
        let segment_index = topology.segments.iter().position(|segment| segment.contains(node))?;
        let segment = &topology.segments[segment_index];
        let node = segment.nodes.iter().find(|other| other.name == node)?;
        let role = if segment.leader().name == node.name { Role::Leader } else { Role::Member };
        // The local node's own view first: it is the freshest.
        let mut discovered = node.discovered_endpoints.clone();
        // Leaders have sessions to learn endpoints from. A member has none; what it says is left over from when it led.
        let leads = |segment: &Segment, node: &Node| segment.leader().name == node.name;
        let others = topology.segments.iter().flat_map(|segment| {
            segment.nodes.iter().map(move |node| ((!leads(segment, node), node.created), node))
        });
        let mut others: Vec<_> = others.filter(|(_, node)| !node.discovered_endpoints.is_empty()).collect();
        others.sort_by_key(|(order, _)| *order);
        for (_, other) in others {
            for (key, address) in &other.discovered_endpoints {
                discovered.entry(*key).or_insert(*address);
            }
        }
        Some(Self { topology, node, segment_index, role, discovered })
    }

    /// The local node's segment.
    pub fn segment(&self) -> &'a Segment {
        &self.topology.segments[self.segment_index]
    }

    /// The segments that the local node is not in.
    pub fn other_segments(&self) -> impl Iterator<Item = &'a Segment> {
        let own = self.segment_index;
        self.topology
            .segments
            .iter()
            .enumerate()
            .filter(move |(index, _)| *index != own)
            .map(|(_, other)| other)
    }

    /// Where a segment's leader is reached: if it is behind NAT, where it was seen.
    pub fn segment_endpoint(&self, segment: &Segment) -> Endpoint {
        self.discovered(&segment.key, segment.persistent_keepalive())
            .unwrap_or_else(|| segment.endpoint.clone())
    }

    /// Where a peer is reached: if it is behind NAT, where it was seen.
    pub fn peer_endpoint(&self, peer: &Peer) -> Option<Endpoint> {
        self.discovered(&peer.key, peer.persistent_keepalive).or_else(|| peer.endpoint.clone())
    }

    /// Where the leader of the own segment sees other leaders' tunnels end. It alone has sessions with them, and it says so
    /// for its members; see [`Node::discovered_endpoints`].
    pub fn seen_tunnel_ends(&self) -> impl Iterator<Item = (PublicKey, IpAddr)> {
        let leader = self.segment().leader();
        leader.discovered_endpoints.iter().map(|(key, address)| (*key, address.ip()))
    }

    fn discovered(&self, key: &PublicKey, persistent_keepalive: u16) -> Option<Endpoint> {
        if persistent_keepalive == 0 {
            return None;
        }
        self.discovered.get(key).map(|address| Endpoint::from(*address))
    }
}
