//! One look at the host: which of what the kernel has is ours, which is a leftover, and the facts that decisions need.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hostnet::{
    Address, HostFacts, HostRoute, HostState, Interface, KILO_TABLE, Leftover, Link, LinkKind, LinkName,
    MAIN_TABLE, Observation, ROUTE_PROTOCOL, Route, TABLES, VXLAN_LINK,
};
use ipnet::IpNet;
use mesh::prefix::Family;

use crate::{
    error::Error,
    kernel::Kernel,
    netlink::constants::{RT_TABLE_LOCAL, RTPROT_STATIC},
    nft,
    rtnl::{
        address::{self, KernelAddress},
        link::{self, KernelLink},
        route::{self, KernelRoute},
        rule,
    },
    setting,
};

/// The kernel's own devices for encapsulation without a fixed remote: as it names them, and as Cilium renames the first.
pub const TUNNELS: [(&str, LinkKind); 3] =
    [("tunl0", LinkKind::Ipip), ("sit0", LinkKind::Sit), (CILIUM_TUNNEL, LinkKind::Ipip)];

/// It is there when Cilium says so, which decides what is sent through it: so it is one of the facts, too.
const CILIUM_TUNNEL: &str = "cilium_tunl";

/// The interfaces of the host, ours told from others.
struct Links {
    all: BTreeMap<u32, KernelLink>,
    ours: BTreeMap<u32, Link>,
    /// The WireGuard interface, whatever its kind.
    interface: LinkName,
}

impl Kernel {
    /// One look at the host.
    pub fn observe(&mut self) -> Result<Observation, Error> {
        let mut host = HostState { forwarding: setting::forwarding(), ..HostState::default() };
        let device = self.wireguard.observe()?;
        let links = self.links(device.is_some())?;
        let addresses = address::all(&mut self.route)?;
        let routes = route::all(&mut self.route)?;
        let default_interface = links.default_interface(&routes);
        let suspects = links.sort_routes(&routes, &mut host);
        let mut first_rule = [None; 2];
        let mut host_routes = links.host_routes(&routes, &host.leftovers);
        for found in rule::all(&mut self.route)? {
            if found.protocol == ROUTE_PROTOCOL {
                host.rules.insert(found.rule);
            } else if found.rule.table == KILO_TABLE && found.plain {
                host.leftovers.insert(Leftover::Rule(found.rule));
            } else if let Some(destination) = found.rule.to {
                // What a rule says about a destination is as good as a route.
                let table = found.rule.table;
                host_routes.push(HostRoute { destination, gateway: None, link: None, table });
            } else if found.for_all && found.rule.table != RT_TABLE_LOCAL {
                let first: &mut Option<u32> = &mut first_rule[found.rule.family as usize];
                *first = Some(first.map_or(found.rule.priority, |before| before.min(found.rule.priority)));
            }
        }
        self.observe_firewall(&mut host)?;
        let facts = HostFacts {
            interfaces: links.foreign(&addresses, &routes),
            default_interface,
            routes: sorted(host_routes),
            first_rule,
        };
        host.addresses = links.addresses(&addresses);
        host.links =
            links.ours.iter().map(|(index, link)| (links.all[index].name.clone(), link.clone())).collect();
        let mut handshakes = BTreeMap::new();
        if let Some(device) = device {
            handshakes = device.handshakes;
            host.wireguard = Some(self.with_known_key(device.wireguard));
        }
        let legacy_tables = self.legacy.observe();
        Ok(Observation { host, facts, suspects, legacy_tables, handshakes })
    }

    /// WireGuard changes some bits of a key that is not made for Curve25519 (RFC 7748, section 5). The key that we set
    /// is the one that is reported, as long as it means the same.
    fn with_known_key(&self, mut wireguard: hostnet::Wireguard) -> hostnet::Wireguard {
        if let (Some(known), Some(found)) = (&self.known_key, &wireguard.private_key)
            && known.public_key() == found.public_key()
        {
            wireguard.private_key = Some(known.clone());
        }
        wireguard
    }

    /// `configurable`: there is a WireGuard interface that we can configure.
    fn links(&mut self, configurable: bool) -> Result<Links, Error> {
        let all: BTreeMap<u32, KernelLink> =
            link::all(&mut self.route)?.into_iter().map(|link| (link.index, link)).collect();
        let kinds = self.wireguard.link_kinds();
        let ours = all.values().filter_map(|found| {
            let (kind, managed) = if found.name == self.config.interface {
                // A link of another kind is not ours; it is an error when one is to be made.
                let own = configurable && kinds.contains(&found.kind.as_str());
                own.then_some((LinkKind::Wireguard, self.manages_interface()))?
            } else if found.name.as_str() == VXLAN_LINK && found.is_our_vxlan {
                (LinkKind::Vxlan, true)
            } else {
                (tunnel_kind(found)?, false)
            };
            Some((found.index, Link { kind, mtu: Some(found.mtu), up: found.up, managed }))
        });
        let ours = ours.collect();
        Ok(Links { all, ours, interface: self.config.interface.clone() })
    }

    fn observe_firewall(&mut self, host: &mut HostState) -> Result<(), Error> {
        // Without nf_tables there is nothing to see; setting a firewall says so.
        let Ok(nft) = &mut self.nft else { return Ok(()) };
        let seen = nft.observe().map_err(Error::observing("the nftables table"))?;
        host.firewall = seen.firewall;
        if seen.damaged {
            host.leftovers.insert(Leftover::Firewall);
        }
        let tables = nft::tables_with_leftovers(&mut nft.socket);
        let tables = tables.map_err(Error::observing("the tables of iptables"))?.into_iter();
        host.leftovers.extend(tables.map(|(family, table)| Leftover::Iptables { family, table }));
        Ok(())
    }
}

/// Whether this is one of the kernel's own devices for encapsulation.
fn tunnel_kind(link: &KernelLink) -> Option<LinkKind> {
    TUNNELS
        .iter()
        .find(|(name, kind)| link.name.as_str() == *name && link.kind == link::kind_name(*kind))
        .map(|(_, kind)| *kind)
}

fn sorted(mut routes: Vec<HostRoute>) -> Vec<HostRoute> {
    routes.sort_unstable();
    routes.dedup();
    routes
}

/// Whether a destination is on one link, as every interface has some of IPv6.
fn is_local(destination: &IpNet) -> bool {
    matches!(destination, IpNet::V6(v6) if v6.addr().segments()[0] & 0xffc0 == 0xfe80 || v6.addr().is_multicast())
}

impl Links {
    /// Sorts routes into ours, leftovers, those that may be leftovers, and those that do not matter.
    fn sort_routes(&self, routes: &[KernelRoute], host: &mut HostState) -> BTreeSet<Leftover> {
        let mut suspects = BTreeSet::new();
        // One after the other into a tree costs several times what sorting once does, and a leader has thousands.
        let mut own = Vec::with_capacity(routes.len());
        for found in routes {
            let Some(link) = self.all.get(&found.link) else { continue };
            let route = Route {
                table: found.table,
                destination: found.destination,
                next_hop: found.next_hop,
                link: link.name.clone(),
                source: found.source,
            };
            let go_device = link.name == self.interface || link.name.as_str() == TUNNELS[0].0;
            if found.protocol == ROUTE_PROTOCOL && found.metric == 0 && found.sends {
                // Nothing of ours is in the main table but what version 0.1 left there.
                if TABLES.contains(&found.table) {
                    own.push(route);
                } else if found.table == MAIN_TABLE {
                    host.leftovers.insert(Leftover::Route { route, protocol: ROUTE_PROTOCOL });
                }
            } else if found.protocol == RTPROT_STATIC && found.sends {
                let leftover = Leftover::Route { route, protocol: RTPROT_STATIC };
                if (go_device && found.table == MAIN_TABLE) || found.table == KILO_TABLE {
                    host.leftovers.insert(leftover);
                } else if found.table == MAIN_TABLE
                    && found.onlink
                    && found.metric == 0
                    && !found.is_default()
                {
                    suspects.insert(leftover);
                }
            }
        }
        // The kernel uses the first of several to one destination: the order among these stays.
        own.sort_by_key(Route::key);
        let further = |pair: &[Route]| (pair[0].key() == pair[1].key()).then(|| pair[1].clone());
        let further = own.windows(2).filter_map(further);
        host.leftovers.extend(further.map(|route| Leftover::Route { route, protocol: ROUTE_PROTOCOL }));
        own.dedup_by_key(|route| route.key());
        host.routes = own.into_iter().collect();
        suspects
    }

    /// The routes that are somebody else's. What goes through our own interfaces is no way of the host.
    fn host_routes(&self, routes: &[KernelRoute], leftovers: &BTreeSet<Leftover>) -> Vec<HostRoute> {
        let left = leftovers.iter().filter_map(|leftover| match leftover {
            Leftover::Route { route, .. } => Some((route.table, route.destination, route.link.clone())),
            _ => None,
        });
        let left: BTreeSet<_> = left.collect();
        routes
            .iter()
            .filter(|route| route.protocol != ROUTE_PROTOCOL && !is_local(&route.destination))
            .map(|route| HostRoute {
                destination: route.destination,
                gateway: route.next_hop.gateway(),
                link: self.all.get(&route.link).map(|link| link.name.clone()),
                table: route.table,
            })
            .filter(|route| {
                let link = route.link.as_ref();
                let ours = link.is_some_and(|link| *link == self.interface || link.as_str() == VXLAN_LINK);
                !ours
                    && !link
                        .is_some_and(|link| left.contains(&(route.table, route.destination, link.clone())))
            })
            .collect()
    }

    /// The interface of the default route with the lowest metric, IPv4 before IPv6; what leads into our own links does
    /// not count.
    fn default_interface(&self, routes: &[KernelRoute]) -> Option<LinkName> {
        let defaults = routes.iter().filter(|route| {
            route.is_default()
                && route.sends
                && route.table == MAIN_TABLE
                && route.protocol != ROUTE_PROTOCOL
                && !self.ours.contains_key(&route.link)
        });
        let best = defaults.min_by_key(|route| (Family::of_prefix(&route.destination), route.metric))?;
        self.all.get(&best.link).map(|link| link.name.clone())
    }

    /// All interfaces that are not ours.
    fn foreign(&self, addresses: &[KernelAddress], routes: &[KernelRoute]) -> BTreeMap<LinkName, Interface> {
        let foreign = self
            .all
            .values()
            .filter(|link| !self.ours.contains_key(&link.index) || link.name.as_str() == CILIUM_TUNNEL)
            .filter(|link| link.name != self.interface);
        let mut interfaces: BTreeMap<u32, (LinkName, Interface)> = foreign
            .map(|link| {
                let interface = Interface {
                    mtu: link.mtu,
                    running: link.running,
                    kind: link.kind.clone(),
                    master: link.master.and_then(|index| Some(self.all.get(&index)?.name.clone())),
                    ..Interface::default()
                };
                (link.index, (link.name.clone(), interface))
            })
            .collect();
        let usable = addresses.iter().filter(|address| address.is_usable());
        let (permanent, temporary): (Vec<_>, Vec<_>) = usable.partition(|address| address.is_permanent());
        for address in permanent.into_iter().chain(temporary) {
            if let Some((_, interface)) = interfaces.get_mut(&address.link) {
                interface.addresses.push(address.net);
                interface.secondary.extend(address.is_secondary().then(|| address.net.addr()));
            }
        }
        for route in routes.iter().filter(|route| route.table == MAIN_TABLE && route.sends) {
            if let (Some((_, interface)), Some(source)) = (interfaces.get_mut(&route.link), route.source) {
                interface.sources.insert(source);
            }
        }
        interfaces.into_values().collect()
    }

    /// The addresses of our interfaces. On the kernel's own devices others (and the kernel itself) have addresses too;
    /// there only those count that are marked as ours. Before Linux 5.18 none is marked, not even the kernel's own; then those
    /// count that another interface has as well, because that is how we choose ours there.
    fn addresses(&self, addresses: &[KernelAddress]) -> BTreeSet<Address> {
        let link_local = |address: IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let kernel_marks = addresses.iter().any(|address| address.protocol != 0);
        let elsewhere: BTreeSet<IpAddr> = addresses
            .iter()
            .filter(|address| !self.ours.contains_key(&address.link))
            .map(|address| address.net.addr())
            .collect();
        let ours = addresses.iter().filter_map(|address| {
            let link = self.ours.get(&address.link)?;
            let marked = link.managed
                || link.kind == LinkKind::Wireguard
                || address.protocol == ROUTE_PROTOCOL
                || (!kernel_marks && elsewhere.contains(&address.net.addr()));
            (marked && !link_local(address.net.addr()))
                .then(|| Address { link: self.all[&address.link].name.clone(), net: address.net })
        });
        ours.collect()
    }
}
