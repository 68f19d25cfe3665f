//! Routes out of the location: to other segments and to peers, and to all WireGuard addresses. A leader has them through
//! its tunnels, a member through its leader.

use ipnet::IpNet;
use mesh::{
    Segment,
    prefix::{self, Family},
};

use super::Renderer;
use crate::{MESH_TABLE, NextHop, Route};

impl Renderer<'_> {
    /// A leader's routes to other segments and to peers.
    pub(super) fn routes_through_tunnels(&mut self) {
        for segment in self.perspective.other_segments() {
            for destination in segment.all_allowed_ips().map(IpNet::trunc) {
                // WireGuard addresses are on the link.
                if is_wireguard_ip(segment, &destination) {
                    continue;
                }
                let family = Family::of_prefix(&destination);
                // WireGuard finds the peer by the destination alone; without an address of this family on the
                // other side the route just names the device.
                let via = segment.wireguard_ips.iter().copied().find(|ip| Family::of(*ip) == family);
                self.tunnel_routes(destination, via.map_or(NextHop::Destination, NextHop::Gateway));
            }
        }
        for peer in &self.perspective.topology.peers {
            for destination in peer.allowed_ips.iter().map(IpNet::trunc) {
                self.tunnel_routes(destination, NextHop::Destination);
            }
        }
    }

    fn tunnel_routes(&mut self, destination: IpNet, next_hop: NextHop) {
        // Otherwise the host would use its WireGuard address as source, which clouds do not know the way back to.
        let source = self.underlay.source(Family::of_prefix(&destination));
        for destination in self.guarded.routed(destination) {
            let link = self.config.interface.clone();
            self.routes.push(Route { table: MESH_TABLE, destination, next_hop, link, source });
        }
    }

    /// A member's routes to other segments, to peers and to all WireGuard addresses.
    pub(super) fn routes_through_leader(&mut self) {
        let leader = self.perspective.segment().leader();
        let own = self.perspective.segment().wireguard_ips.iter().map(|ip| prefix::host(*ip));
        let others = self.perspective.other_segments().flat_map(Segment::all_allowed_ips).map(IpNet::trunc);
        let peers =
            self.perspective.topology.peers.iter().flat_map(|peer| &peer.allowed_ips).map(IpNet::trunc);
        let destinations = own.chain(others).chain(peers).flat_map(|net| self.guarded.routed(net));
        let (v4, v6): (Vec<_>, Vec<_>) = destinations.partition(|net| Family::of_prefix(net) == Family::V4);
        for (family, destinations) in [(Family::V4, v4), (Family::V6, v6)] {
            self.routes_inside(MESH_TABLE, family, &destinations, leader);
        }
    }
}

fn is_wireguard_ip(segment: &Segment, destination: &IpNet) -> bool {
    segment.wireguard_ips.iter().any(|ip| prefix::host(*ip) == *destination)
}
