//! What an address of a link is among the others there: the host's own, or one that may be on another host soon.

use std::{collections::BTreeSet, net::IpAddr};

use hostnet::Interface;
use ipnet::IpNet;
use mesh::{
    prefix::{Family, is_host, is_public},
    special::check_address,
};

/// What an address is among those of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// One by which the host is in its network.
    Own,
    /// A public one of a single host beside private ones of a network, as clouds give them, and virtual routers.
    Granted,
    /// Another one of a single host beside those of a network: a virtual one, or one that is routed to this host.
    Beside,
    /// One that comes after another of the same network.
    After,
}

/// The addresses of a link, read once: some links have thousands.
pub struct Addresses<'a> {
    /// Those that come after others.
    secondary: BTreeSet<IpAddr>,
    /// The networks of the others.
    networks: Vec<&'a IpNet>,
    /// The others that are usable, by family.
    usable: [BTreeSet<IpAddr>; 2],
    /// Whether one of these is public, by family.
    public: [bool; 2],
}

/// What is known of an address besides the addresses of its link.
pub struct Standing {
    /// A default route of its family leads through the link.
    pub routed: bool,
    /// A route of its family to somebody else leads through the link.
    pub reaches: bool,
    /// It was announced last.
    pub announced: bool,
    /// This agent has chosen it.
    pub chosen: bool,
}

impl<'a> Addresses<'a> {
    /// Reads them.
    pub fn of(link: &'a Interface) -> Self {
        let secondary: BTreeSet<IpAddr> = link.secondary.iter().copied().collect();
        let mut found =
            Self { secondary, networks: Vec::new(), usable: Default::default(), public: [false; 2] };
        for net in link.addresses.iter().filter(|net| !found.secondary.contains(&net.addr())) {
            if !is_host(net) {
                found.networks.push(net);
            }
            if check_address(net.addr()).is_ok() {
                let family = Family::of_prefix(net) as usize;
                found.usable[family].insert(net.addr());
                found.public[family] |= is_public(net.addr());
            }
        }
        found
    }

    /// The networks that the link leads to.
    pub fn networks(&self) -> impl Iterator<Item = &'a IpNet> + '_ {
        self.networks.iter().copied()
    }

    /// What one of the usable addresses is. `networks`: those of all links that lead out.
    pub fn place(&self, net: &IpNet, networks: &[&IpNet], standing: &Standing) -> Place {
        let (address, family) = (net.addr(), Family::of_prefix(net));
        let is_secondary = self.secondary.contains(&address);
        if !is_host(net) {
            let is_wider = |other: &IpNet| other.prefix_len() < net.prefix_len() && other.contains(&address);
            let follows = is_secondary || self.networks().any(is_wider);
            // When this one is renewed, the kernel makes another one the first (`promote_secondaries`). A temporary address
            // of IPv6 never was the first.
            let was_first = standing.announced && !(is_secondary && address.is_ipv6());
            return if follows && !was_first { Place::After } else { Place::Own };
        }
        let same = &self.usable[family as usize];
        let is_alone = same.iter().all(|other| *other == address);
        // What has the default route to itself is in no other link's network.
        let is_inside = !(standing.routed && is_alone) && networks.iter().any(|net| net.contains(&address));
        if is_secondary || is_inside {
            return Place::After;
        }
        let is_beside = |net: &&IpNet| Family::of_prefix(net) == family && check_address(net.addr()).is_ok();
        let mut beside = self.networks().filter(is_beside).filter(|net| net.addr() != address).peekable();
        if beside.peek().is_some() {
            let is_granted = is_public(address) && !beside.any(|net| is_public(net.addr()));
            return if is_granted { Place::Granted } else { Place::Beside };
        }
        if !is_public(address) && self.public[family as usize] {
            return Place::Beside;
        }
        // Clouds give single addresses of IPv6 beside those of IPv4, with a default route.
        let leads = standing.routed || standing.chosen || (standing.announced && standing.reaches);
        // From a single address without routes nobody is reached.
        let is_only = self.usable[1 - family as usize].is_empty() && (standing.reaches || standing.announced);
        if leads || is_only { Place::Own } else { Place::Beside }
    }
}
