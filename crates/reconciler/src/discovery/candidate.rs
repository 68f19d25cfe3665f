//! What is known of each address of a host that can be announced, and how good it is.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hostnet::{HostFacts, HostRoute, Interface, LinkName, Uplinks, uplink::is_of_containers};
use ipnet::IpNet;
use mesh::prefix::{Family, host, is_host, is_private, is_public};

use super::{
    DiscoveryConfig, Memory,
    place::{Addresses, Place, Standing},
};

/// An address that can be announced.
pub struct Candidate<'a> {
    pub net: IpNet,
    pub link: &'a LinkName,
    /// Whether the link leads out of the host.
    pub uplink: bool,
    /// Whether the link is a tunnel.
    pub tunnel: bool,
    pub place: Place,
    /// Whether the Node's status names it.
    pub named: bool,
    /// Whether it is in a range of the operator.
    pub within: bool,
    /// Whether such a range names it.
    pub is_meant: bool,
    /// Whether it was announced last.
    pub announced: bool,
    /// Whether a default route leads through the link.
    pub by_route: bool,
    pub merit: Merit,
}

/// How good an address is, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Merit {
    Named,
    Announced,
    NamedBeside,
    Own,
    Other,
    /// On a link that does not lead out.
    Inside,
}

/// What is known of the host for all of its addresses.
pub struct Host<'a> {
    facts: &'a HostFacts,
    config: &'a DiscoveryConfig,
    memory: &'a Memory,
    uplinks: Uplinks<'a>,
    addresses: BTreeMap<&'a LinkName, Addresses<'a>>,
    /// The networks that links lead to.
    networks: Vec<&'a IpNet>,
    /// The gateways of default routes.
    gateways: BTreeSet<IpAddr>,
    /// The links of routes to others.
    reaching: BTreeSet<(Family, &'a LinkName)>,
}

/// What orders candidates, the best first.
pub type Rank = (Merit, (bool, bool, bool, Family), Reverse<bool>, Reverse<bool>, String);

impl<'a> Host<'a> {
    pub fn of(facts: &'a HostFacts, config: &'a DiscoveryConfig, memory: &'a Memory) -> Self {
        let uplinks = Uplinks::of(facts);
        let addresses: BTreeMap<_, _> =
            facts.interfaces.iter().map(|(name, link)| (name, Addresses::of(link))).collect();
        let leading = addresses.iter().filter(|(name, _)| uplinks.has(name));
        let networks = leading.flat_map(|(_, addresses)| addresses.networks()).collect();
        let defaults = facts.routes.iter().filter(|route| route.destination.prefix_len() == 0);
        let gateways = defaults.filter_map(|route| route.gateway).collect();
        // The kernel makes a route to each address of IPv6.
        let is_own = |net: &IpNet, link: &LinkName| {
            let own = facts.interfaces.get(link);
            is_host(net) && own.is_some_and(|own| own.addresses.iter().any(|own| own.addr() == net.addr()))
        };
        let reach = |route: &'a HostRoute| {
            let link = route.link.as_ref().filter(|link| !is_own(&route.destination, link))?;
            Some((Family::of_prefix(&route.destination), link))
        };
        let reaching = facts.routes.iter().filter_map(reach).collect();
        Self { facts, config, memory, uplinks, addresses, networks, gateways, reaching }
    }

    /// `None`: it cannot be announced, whatever others there are.
    pub fn candidate(
        &self,
        name: &'a LinkName,
        link: &Interface,
        net: IpNet,
    ) -> Option<(Rank, Candidate<'a>)> {
        let (address, family) = (net.addr(), Family::of_prefix(&net));
        // Networks of containers are the same on every host: neither the status nor a range means these.
        let is_shared = is_of_containers(name);
        let named = !is_shared && self.memory.status.contains(&address);
        let within = self.config.internal_cidrs.iter().any(|cidr| cidr.contains(&address));
        let announced = self.memory.has(address);
        let chosen = announced && self.memory.chosen.contains(&address);
        let routed = self.uplinks.has_default_route(name, family);
        let by_route = routed || self.facts.default_interface.as_ref() == Some(name);
        let uplink = self.uplinks.has(name) || (announced && self.uplinks.may_have(name, chosen));
        // A host may have thousands of addresses that lead nowhere, one for every service.
        let is_meant = within && !is_shared;
        if !(uplink || named || is_meant || announced || by_route) {
            return None;
        }
        let reaches = self.facts.routes.is_empty() || self.reaching.contains(&(family, name));
        let standing = Standing { routed, reaches, announced, chosen };
        let place = self.addresses.get(name)?.place(&net, &self.networks, &standing);
        let merit = merit(place, uplink, named, announced);
        let by_name = self.config.hostname_addresses.contains(&address);
        // As Go Kilo does: what the hostname says, then the default route, then IPv4, then the text.
        let rank = (!announced, !by_name, !by_route, family);
        let near = self.gateways.iter().any(|gateway| net.contains(gateway));
        let source = link.sources.contains(&address);
        let candidate = Candidate {
            net,
            link: name,
            uplink,
            tunnel: self.uplinks.has_tunnel(name),
            place,
            named,
            within,
            is_meant,
            announced,
            by_route,
            merit,
        };
        Some(((merit, rank, Reverse(near), Reverse(source), net.to_string()), candidate))
    }
}

impl Candidate<'_> {
    /// Whether the host has it for itself, as far as link and place say.
    pub fn is_of_host(&self) -> bool {
        self.uplink && matches!(self.place, Place::Own | Place::Granted)
    }

    /// Whether providers translate it (RFC 6598). Go Kilo takes such an address for public, though nobody else reaches it.
    pub fn is_translated(&self) -> bool {
        is_public(self.net.addr()) && is_private(&host(self.net.addr()))
    }

    /// Whether it is better than no endpoint.
    pub fn is_last_resort(&self) -> bool {
        (self.by_route || self.announced) && !is_of_containers(self.link)
    }
}

fn merit(place: Place, uplink: bool, named: bool, announced: bool) -> Merit {
    match place {
        Place::Own | Place::Granted if named => Merit::Named,
        Place::Beside if named => Merit::NamedBeside,
        _ if !uplink && !named => Merit::Inside,
        Place::Own | Place::Granted if announced => Merit::Announced,
        Place::Own | Place::Granted => Merit::Own,
        Place::Beside | Place::After => Merit::Other,
    }
}
