//! What an address of a link is among the others there: the host's own, or one that may be on another host soon.

use hostnet::{HostFacts, Interface, Uplinks};
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

/// The networks that links lead to.
pub fn networks<'a>(facts: &'a HostFacts, uplinks: &Uplinks<'_>) -> Vec<&'a IpNet> {
    let links = facts.interfaces.iter().filter(|(name, _)| uplinks.has(name));
    links.flat_map(|(_, link)| first_addresses(link)).filter(|net| !is_host(net)).collect()
}

/// What an address is among those of its link. `routed`: a default route of its family leads through the link.
pub fn place(net: &IpNet, link: &Interface, networks: &[&IpNet], routed: bool) -> Place {
    let address = net.addr();
    if link.secondary.contains(&address) {
        return Place::After;
    }
    if !is_host(net) {
        return Place::Own;
    }
    if networks.iter().any(|network| network.contains(&address)) {
        return Place::After;
    }
    let beside =
        first_addresses(link).filter(|other| other.addr() != address && check_address(other.addr()).is_ok());
    let (same, other): (Vec<&IpNet>, Vec<&IpNet>) =
        beside.partition(|other| Family::of_prefix(other) == Family::of(address));
    let in_public = same.iter().any(|other| is_public(other.addr()) && !is_host(other));
    match same.iter().any(|other| !is_host(other)) {
        true if is_public(address) && !in_public => Place::Granted,
        true => Place::Beside,
        false if !is_public(address) && same.iter().any(|other| is_public(other.addr())) => Place::Beside,
        // Clouds give single addresses of IPv6 beside those of IPv4, with a default route.
        false if routed || other.is_empty() => Place::Own,
        false => Place::Beside,
    }
}

/// The addresses of a link without those that come after others.
fn first_addresses(link: &Interface) -> impl Iterator<Item = &IpNet> {
    link.addresses.iter().filter(|net| !link.secondary.contains(&net.addr()))
}
