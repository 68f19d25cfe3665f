//! What the firewall of a host has to do.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use mesh::{
    Role,
    prefix::{self, Family},
};

use super::{Encapsulation, Renderer, Responsible};
use crate::Firewall;

impl Renderer<'_> {
    /// What pods and peers send out of the mesh is masqueraded, what stays inside is not.
    pub(super) fn firewall(&self) -> Firewall {
        let topology = self.perspective.topology;
        let segment = self.perspective.segment();
        let peers = || topology.peers.iter().flat_map(|peer| &peer.allowed_ips).map(IpNet::trunc);
        let mut masquerade_from: BTreeSet<IpNet> = peers().collect();
        if self.config.pod_nat_by == Responsible::Kilo {
            masquerade_from.extend(self.perspective.node.pod_subnets.iter().map(IpNet::trunc));
        }
        // Allowed-location IPs are not in here: who does not know them could not answer.
        let mesh = topology.segments.iter().flat_map(|segment| &segment.allowed_ips).map(IpNet::trunc);
        let services = self.config.service_cidrs.iter().map(IpNet::trunc);
        Firewall {
            masquerade_from,
            masquerade_to: segment.allowed_location_ips.iter().map(IpNet::trunc).collect(),
            never_masquerade: mesh.chain(peers()).chain(services).collect(),
            encapsulation_from: self.encapsulation_from(),
            forward: self.forward(),
        }
    }

    /// Anyone who can send us protocol 4 or 41 could speak as any pod.
    fn encapsulation_from(&self) -> Option<BTreeSet<IpAddr>> {
        if self.config.encapsulation == Encapsulation::Never {
            return None;
        }
        let nodes = &self.perspective.segment().nodes;
        Some(nodes.iter().filter_map(|node| node.internal_ip(Family::V4)).collect())
    }

    /// A leader forwards for its whole location, a member for its own pods.
    fn forward(&self) -> BTreeSet<IpNet> {
        if !self.config.accept_forwarding || self.config.pod_nat_by == Responsible::Other {
            return BTreeSet::new();
        }
        if self.perspective.role == Role::Member {
            return self.perspective.node.pod_subnets.iter().map(IpNet::trunc).collect();
        }
        let segment = self.perspective.segment();
        let nodes = segment.nodes.iter();
        let pods = nodes.clone().flat_map(|node| &node.pod_subnets).map(IpNet::trunc);
        let internal = nodes.flat_map(|node| &node.internal_ips).map(|net| prefix::host(net.addr()));
        pods.chain(internal).chain(segment.allowed_location_ips.iter().map(IpNet::trunc)).collect()
    }
}
