//! What the firewall of a host has to do.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh::{Role, prefix};

use super::{Encapsulation, Renderer, Responsible, carrier::Carrier};
use crate::{EncapsulationFilter, Firewall, Outer};

impl Renderer<'_> {
    /// What pods and peers send out of the mesh is masqueraded, what stays inside is not.
    pub(super) fn firewall(&self) -> Firewall {
        let topology = self.perspective.topology;
        let segment = self.perspective.segment();
        // What this host keeps to itself is none of the mesh here.
        let meshed = |net: &IpNet| self.guarded.meshed(net.trunc());
        let peers = || topology.peers.iter().flat_map(|peer| &peer.allowed_ips).flat_map(meshed);
        let mut masquerade_from: BTreeSet<IpNet> = peers().collect();
        if self.config.pod_nat_by == Responsible::Kilo {
            masquerade_from.extend(self.perspective.node.pod_subnets.iter().map(IpNet::trunc));
        }
        // Allowed-location IPs are not in here: who does not know them could not answer.
        let mesh = topology.segments.iter().flat_map(|segment| &segment.allowed_ips).flat_map(meshed);
        let services = self.config.service_cidrs.iter().map(IpNet::trunc);
        Firewall {
            masquerade_from,
            masquerade_to: segment.allowed_location_ips.iter().flat_map(meshed).collect(),
            never_masquerade: mesh.chain(peers()).chain(services).collect(),
            encapsulation: self.encapsulation_filter(),
            forward: self.forward(),
        }
    }

    /// Anyone who can send us encapsulated packets could speak as any pod.
    fn encapsulation_filter(&self) -> Option<EncapsulationFilter> {
        if self.config.encapsulation == Encapsulation::Never {
            return None;
        }
        let outer = match self.carrier {
            Carrier::Vxlan => Outer::Vxlan,
            // Who takes care of the inside of the location may encapsulate in IP too, and filters that.
            Carrier::Ipip(_) if self.config.local_routes_by == Responsible::Kilo => Outer::Ip,
            Carrier::Ipip(_) | Carrier::Foreign(_) => return None,
        };
        let nodes = &self.perspective.segment().nodes;
        let from = nodes.iter().flat_map(|node| node.internal_ips.iter().chain(&node.cni_compatibility_ips));
        let from = from.map(IpNet::addr).filter(|address| outer == Outer::Vxlan || address.is_ipv4());
        Some(EncapsulationFilter { outer, from: from.collect() })
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
        let location = segment.allowed_location_ips.iter().flat_map(|net| self.guarded.meshed(net.trunc()));
        pods.chain(internal).chain(location).collect()
    }
}
