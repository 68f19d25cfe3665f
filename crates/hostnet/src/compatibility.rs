//! The container network that Kilo is an add-on to: what it calls its devices, and what of them the other nodes have to
//! know. What follows for routes is decided in [`crate::render`].

use std::str::FromStr;

use ipnet::IpNet;
use mesh::prefix::Family;

use crate::HostFacts;

/// Which container network takes care of the inside of a location (`--compatibility`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compatibility {
    /// None: Kilo does.
    #[default]
    None,
    /// Flannel, with its VXLAN backend.
    Flannel,
    /// Cilium, in tunnel mode or with routes of its own.
    Cilium,
    /// Calico, with VXLAN, IPIP or neither.
    Calico,
}

impl Compatibility {
    /// The devices through which the other network's packets go from node to node, IPv4's and IPv6's. They carry routed
    /// packets, so a node is a next hop there. Cilium's has none: what it carries, it finds by the address of the packet.
    pub(crate) fn devices(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Flannel => Some(["flannel.1", "flannel-v6.1"]),
            Self::Calico => Some(["vxlan.calico", "vxlan-v6.calico"]),
            Self::None | Self::Cilium => None,
        }
    }

    /// The addresses of this host in the other network that the other nodes have to know and cannot work out, at most one
    /// per family, IPv4 first.
    pub fn addresses(self, facts: &HostFacts) -> Vec<IpNet> {
        let devices: &[&str] = match self {
            // The address of Flannel's device is the first one of the node's pod subnet.
            Self::None | Self::Flannel => &[],
            Self::Cilium => &["cilium_host"],
            Self::Calico => &["vxlan.calico", "vxlan-v6.calico"],
        };
        let of = |device: &&str| facts.interfaces.iter().find(|(name, _)| name.as_str() == *device);
        let mut addresses = devices.iter().filter_map(of).flat_map(|(_, interface)| &interface.addresses);
        let usable = |net: &&IpNet| mesh::special::check_host(net).is_ok();
        let all: Vec<IpNet> = addresses.by_ref().filter(usable).copied().collect();
        Family::ALL
            .into_iter()
            .filter_map(|family| all.iter().find(|net| Family::of_prefix(net) == family).copied())
            .collect()
    }
}

impl FromStr for Compatibility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::None),
            "flannel" => Ok(Self::Flannel),
            "cilium" => Ok(Self::Cilium),
            "calico" => Ok(Self::Calico),
            other => Err(format!("{other:?} is none of flannel, cilium, calico")),
        }
    }
}
