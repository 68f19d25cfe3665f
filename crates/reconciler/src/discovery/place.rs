//! What an address of a link is among the others there: the host's own, or one that may be on another host soon.

use hostnet::{HostFacts, Interface, Uplinks};
use ipnet::IpNet;
use mesh::prefix::{Family, is_host, is_public, is_usable};

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

/// The networks that links lead to.
pub fn networks<'a>(facts: &'a HostFacts, uplinks: &Uplinks<'_>) -> Vec<&'a IpNet> {
    let links = facts.interfaces.iter().filter(|(name, _)| uplinks.has(name));
    links.flat_map(|(_, link)| first_addresses(link)).filter(|net| !is_host(net)).collect()
}

/// What is known of an address besides the addresses of its link.
pub struct Standing {
    /// A default route of its family leads through the link.
    pub routed: bool,
    /// It was announced last.
    pub announced: bool,
    /// This agent has chosen it.
    pub chosen: bool,
}

/// What an address is among those of its link.
pub fn place(net: &IpNet, link: &Interface, networks: &[&IpNet], standing: &Standing) -> Place {
    let address = net.addr();
    let is_secondary = link.secondary.contains(&address);
    if !is_host(net) {
        let is_wider = |other: &IpNet| other.prefix_len() < net.prefix_len() && other.contains(&address);
        let follows = is_secondary || first_addresses(link).any(is_wider);
        // When this one is renewed, the kernel makes another one the first (`promote_secondaries`). A temporary address of
        // IPv6 never was the first.
        let was_first = standing.announced && !(is_secondary && address.is_ipv6());
        return if follows && !was_first { Place::After } else { Place::Own };
    }
    if is_secondary {
        return Place::After;
    }
    let beside = first_addresses(link).filter(|other| other.addr() != address && is_usable(other.addr()));
    let (same, other): (Vec<&IpNet>, Vec<&IpNet>) =
        beside.partition(|other| Family::of_prefix(other) == Family::of(address));
    let in_public = same.iter().any(|other| is_public(other.addr()) && !is_host(other));
    // What has the default route to itself is in no other link's network.
    let alone = standing.routed && same.is_empty();
    if !alone && networks.iter().any(|network| network.contains(&address)) {
        return Place::After;
    }
    match same.iter().any(|other| !is_host(other)) {
        true if is_public(address) && !in_public => Place::Granted,
        true => Place::Beside,
        false if !is_public(address) && same.iter().any(|other| is_public(other.addr())) => Place::Beside,
        // Clouds give single addresses of IPv6 beside those of IPv4, with a default route.
        false if standing.routed || standing.chosen || other.is_empty() => Place::Own,
        false => Place::Beside,
    }
}

/// The addresses of a link without those that come after others.
fn first_addresses(link: &Interface) -> impl Iterator<Item = &IpNet> {
    link.addresses.iter().filter(|net| !link.secondary.contains(&net.addr()))
}
