//! How a kernel forwards packets, given addresses, routes, rules and WireGuard peers: enough of it to ask two hosts
//! whether they send the same packet the same way, and to follow a packet from host to host.
//!
//! It knows longest-prefix match, policy rules and WireGuard's choice of a peer. It does not know metrics, links
//! without carrier, and reverse-path filters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use hostnet::{Firewall, HostFacts, HostState, MAIN_TABLE, NextHop, Route, Rule, WireguardPeer};
use ipnet::IpNet;
use mesh::{
    PublicKey,
    prefix::{self, Family},
    special::check_range,
};

/// What a kernel knows when it forwards.
#[derive(Debug, Clone, Default)]
pub struct Kernel {
    /// Addresses on links that are up, by the name of the link; the first of a family is the preferred one.
    pub addresses: Vec<(String, IpNet)>,
    /// Routes of all tables.
    pub routes: Vec<Route>,
    /// Policy rules before that of the main table.
    pub rules: Vec<Rule>,
    /// The name of the WireGuard interface.
    pub wireguard: String,
    /// The peers of the WireGuard interface.
    pub peers: BTreeMap<PublicKey, WireguardPeer>,
    index: Option<Index>,
}

/// Who is asked about many packets does not look at every route for each.
#[derive(Debug, Clone)]
struct Index {
    own: HashSet<IpAddr>,
    routes: BTreeMap<u32, Longest<Route>>,
    peers: Longest<PublicKey>,
}

/// Values by prefix, found by the longest one that holds an address.
#[derive(Debug, Clone)]
pub(crate) struct Longest<T>(BTreeMap<u8, HashMap<IpNet, T>>);

impl<T> Longest<T> {
    pub fn of(entries: impl Iterator<Item = (IpNet, T)>) -> Self {
        let mut lengths: BTreeMap<u8, HashMap<IpNet, T>> = BTreeMap::new();
        for (net, value) in entries {
            lengths.entry(net.prefix_len()).or_default().insert(net.trunc(), value);
        }
        Self(lengths)
    }

    pub fn find(&self, address: IpAddr) -> Option<&T> {
        self.0
            .iter()
            .rev()
            .find_map(|(length, values)| values.get(&IpNet::new(address, *length).ok()?.trunc()))
    }
}

/// A packet and where it came in; `None`: from this host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// Who it is for.
    pub destination: IpAddr,
    /// The link it came in through.
    pub iif: Option<&'a str>,
}

/// Where a packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It is for this host.
    Local,
    /// Over a link to a neighbour: the next hop, or the destination itself.
    Link {
        /// The link.
        link: String,
        /// Who it is handed to.
        to: IpAddr,
    },
    /// Inside of another packet to this address.
    Encapsulated {
        /// The destination of the outer packet.
        outer: IpAddr,
    },
    /// Through the tunnel to this peer. (What the route names as next hop does not matter to WireGuard.)
    Tunnel {
        /// Whose key it is encrypted for.
        peer: PublicKey,
    },
    /// Into the WireGuard interface, which has no peer for it.
    NoPeer,
    /// There is no route.
    NoRoute,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Link { link, to } => write!(f, "{link} to {to}"),
            Self::Encapsulated { outer } => write!(f, "encapsulated to {outer}"),
            Self::Tunnel { peer } => write!(f, "tunnel to {peer}"),
            Self::NoPeer => f.write_str("no peer"),
            Self::NoRoute => f.write_str("no route"),
        }
    }
}

impl Kernel {
    /// A host in a state, with what else is on it. Interfaces that are not ours give connected routes, and a
    /// default route where there is a default interface.
    pub fn new(state: &HostState, facts: &HostFacts) -> Self {
        let mut kernel = Self { rules: state.rules.iter().cloned().collect(), ..Self::default() };
        let up = |link: &hostnet::LinkName| state.links.get(link).is_some_and(|link| link.up);
        for (name, link) in &state.links {
            if link.kind == hostnet::LinkKind::Wireguard {
                kernel.wireguard = name.to_string();
            }
        }
        for address in state.addresses.iter().filter(|address| up(&address.link)) {
            kernel.add_address(address.link.as_str(), address.net);
        }
        kernel.peers = state.wireguard.iter().flat_map(|wireguard| wireguard.peers.clone()).collect();
        kernel.routes.extend(state.routes.iter().cloned());
        kernel.add_facts(facts);
        kernel
    }

    /// Adds an address and the route to its prefix.
    pub fn add_address(&mut self, link: &str, net: IpNet) {
        self.addresses.push((link.to_owned(), net));
        self.routes.push(Route {
            table: MAIN_TABLE,
            destination: net.trunc(),
            next_hop: NextHop::Destination,
            link: link.parse().unwrap(),
            source: Some(net.addr()),
        });
    }

    /// Adds the interfaces that are not ours.
    pub fn add_facts(&mut self, facts: &HostFacts) {
        for (name, interface) in &facts.interfaces {
            for net in &interface.addresses {
                self.add_address(name.as_str(), *net);
            }
        }
        for route in facts.routes.iter().filter(|route| route.table == MAIN_TABLE) {
            let Some(link) = route.link.clone() else { continue };
            let next_hop = route.gateway.map_or(NextHop::Destination, NextHop::Gateway);
            let destination = route.destination;
            self.routes.push(Route { table: MAIN_TABLE, destination, next_hop, link, source: None });
        }
        if let Some(link) = &facts.default_interface {
            for (destination, gateway) in [("0.0.0.0/0", "192.0.2.254"), ("::/0", "fe80::1")] {
                let next_hop = NextHop::Gateway(gateway.parse().unwrap());
                let destination = destination.parse().unwrap();
                let link = link.clone();
                self.routes.push(Route { table: MAIN_TABLE, destination, next_hop, link, source: None });
            }
        }
    }

    /// The routes that a kernel would refuse: the source is not an address of the host, the next hop is one, the
    /// families differ, or the destination has host bits.
    pub fn refused(&self) -> Vec<&Route> {
        let own = |address: &IpAddr| self.addresses.iter().any(|(_, net)| net.addr() == *address);
        let refused = |route: &&Route| {
            let family = Family::of_prefix(&route.destination);
            let via = route.next_hop.gateway();
            let mut ends = route.source.iter().chain(&via);
            route.source.is_some_and(|source| !own(&source))
                || via.is_some_and(|via| own(&via))
                || ends.any(|address| Family::of(*address) != family)
                || via.is_some_and(|via| via.is_multicast() || via.is_loopback() || via.is_unspecified())
                || check_range(&route.destination).is_err()
                || route.destination != route.destination.trunc()
        };
        self.routes.iter().filter(refused).collect()
    }

    /// The same kernel, which from now on is only asked, but about many packets.
    #[must_use]
    pub fn indexed(mut self) -> Self {
        let tables: BTreeSet<u32> = self.routes.iter().map(|route| route.table).collect();
        let routes = |table| {
            let routes = self.routes.iter().filter(move |route| route.table == table);
            Longest::of(routes.map(|route| (route.destination, route.clone())))
        };
        let claims = self.peers.iter().flat_map(|(key, peer)| peer.allowed_ips.iter().map(|ip| (*ip, *key)));
        self.index = Some(Index {
            own: self.addresses.iter().map(|(_, net)| net.addr()).collect(),
            routes: tables.into_iter().map(|table| (table, routes(table))).collect(),
            peers: Longest::of(claims),
        });
        self
    }

    fn is_own(&self, address: IpAddr) -> bool {
        match &self.index {
            Some(index) => index.own.contains(&address),
            None => self.addresses.iter().any(|(_, net)| net.addr() == address),
        }
    }

    /// The route a packet takes, by rules and longest prefixes.
    fn route(&self, packet: Packet<'_>) -> Option<&Route> {
        let mut rules: Vec<_> = self.rules.iter().filter(|rule| matches(rule, packet)).collect();
        rules.sort_by_key(|rule| rule.priority);
        let tables = rules.into_iter().map(|rule| rule.table).chain([MAIN_TABLE]);
        tables.into_iter().find_map(|table| {
            if let Some(index) = &self.index {
                return index.routes.get(&table)?.find(packet.destination);
            }
            let routes = self.routes.iter().filter(|route| route.table == table);
            routes
                .filter(|route| route.destination.contains(&packet.destination))
                .max_by_key(|route| route.destination.prefix_len())
        })
    }

    /// Where a packet goes next.
    pub fn way(&self, packet: Packet<'_>) -> Way {
        if self.is_own(packet.destination) {
            return Way::Local;
        }
        let Some(route) = self.route(packet) else { return Way::NoRoute };
        if let NextHop::Outer(outer) = route.next_hop {
            return Way::Encapsulated { outer };
        }
        let to = route.next_hop.gateway().unwrap_or(packet.destination);
        match route.link.as_str() {
            "tunl0" => Way::Encapsulated { outer: to },
            "sit0" => Way::Encapsulated { outer: embedded(to) },
            link if link == self.wireguard => match self.peer(packet.destination) {
                Some(peer) => Way::Tunnel { peer },
                None => Way::NoPeer,
            },
            link => Way::Link { link: link.to_owned(), to },
        }
    }

    /// The peer to which WireGuard sends a packet, and from which alone it takes one with this source.
    pub fn peer(&self, address: IpAddr) -> Option<PublicKey> {
        if let Some(index) = &self.index {
            return index.peers.find(address).copied();
        }
        let claims =
            self.peers.iter().flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |ip| (key, ip)));
        claims
            .filter(|(_, ip)| ip.contains(&address))
            .max_by_key(|(_, ip)| ip.prefix_len())
            .map(|(key, _)| *key)
    }

    /// The source address of this host's own packets to a destination: that of the route, else the address of the
    /// link whose prefix holds the next hop, else the first one of the link.
    pub fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        // Which source a rule would match is not known before the source is chosen.
        let unspecified = match destination {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let route = self.route(Packet { source: unspecified, destination, iif: None })?;
        let family = Family::of(destination);
        let next = route.next_hop.gateway().unwrap_or(destination);
        let on_link = || {
            let mine = self
                .addresses
                .iter()
                .filter(|(link, net)| link == route.link.as_str() && Family::of_prefix(net) == family);
            mine.map(|(_, net)| net)
        };
        let near = on_link().find(|net| net.contains(&next)).or_else(|| on_link().next());
        route.source.or(near.map(IpNet::addr))
    }
}

fn matches(rule: &Rule, packet: Packet<'_>) -> bool {
    rule.family == Family::of(packet.destination)
        && rule.from.is_none_or(|from| from.contains(&packet.source))
        && rule.to.is_none_or(|to| to.contains(&packet.destination))
        && rule.iif.as_ref().is_none_or(|iif| packet.iif == Some(iif.as_str()))
}

/// The IPv4 address in an IPv4-compatible one.
fn embedded(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4().map_or(address, IpAddr::from),
        IpAddr::V4(_) => address,
    }
}

/// Whether the firewall translates the source of a connection.
pub fn masquerades(firewall: &Firewall, source: IpAddr, destination: IpAddr) -> bool {
    let holds =
        |set: &std::collections::BTreeSet<IpNet>, address| set.iter().any(|net| net.contains(&address));
    !holds(&firewall.never_masquerade, destination)
        && (holds(&firewall.masquerade_from, source) || holds(&firewall.masquerade_to, destination))
}

/// Whether forwarding is accepted where another table would drop it.
pub fn forwards(firewall: &Firewall, source: IpAddr, destination: IpAddr) -> bool {
    firewall.forward.iter().any(|net| net.contains(&source) || net.contains(&destination))
}

/// Some addresses of a prefix: the first ones and the last.
pub fn samples(net: &IpNet) -> Vec<IpAddr> {
    let hosts = |net: IpNet| match net {
        IpNet::V4(net) => vec![net.network().into(), IpAddr::from(net.broadcast())],
        IpNet::V6(net) => vec![net.network().into(), IpAddr::from(net.broadcast())],
    };
    let mut samples = hosts(net.trunc());
    samples.dedup();
    samples
}

/// The prefix of one address.
pub fn host(address: IpAddr) -> IpNet {
    prefix::host(address)
}
