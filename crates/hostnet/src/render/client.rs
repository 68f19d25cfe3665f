//! What the network of a client's host should be: a host outside of the cluster that takes part in the mesh as a Peer.
//!
//! The client holds a tunnel to every segment and to every other Peer, and sends through it what belongs to them. It
//! routes nothing for others, so it has no firewall, and nothing but its own interface is its business.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use mesh::{
    Object, Perspective, PresharedKeys, PrivateKey, Problem, Problems, PublicKey, Segment,
    conf::ConfPeer,
    prefix::{self, Family},
};

pub use super::other_peers::OtherPeers;
use super::{
    Rendered,
    guarded::{Holdings, of_host, of_nodes},
    priority,
    tunnels::{resolve, tunnels},
};
use crate::{
    Address, CLIENT_TABLE, HostFacts, HostState, Leftover, Lifeline, Link, LinkKind, LinkName, MarkBits,
    NextHop, Route, Rule, Wireguard,
    guard::{Claim, Guard, Keep, Known, Report},
};

/// What is decided for one client.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientConfig {
    /// The name of its Peer object.
    pub peer: String,
    /// The WireGuard interface.
    pub interface: LinkName,
    /// Bytes of the largest packet through the WireGuard interface.
    pub mtu: u32,
    /// The private key; the Peer object has the public one.
    pub private_key: PrivateKey,
    /// The preshared keys of Peers that refer to Secrets, as far as known.
    pub preshared_keys: PresharedKeys,
    /// To which other Peers there are tunnels.
    pub other_peers: OtherPeers,
    /// The UDP port of WireGuard.
    pub listen_port: u16,
    /// The bits of the firewall mark that are ours.
    pub marks: MarkBits,
    /// The client's addresses in the mesh, with the prefix lengths they have on the interface.
    pub addresses: Vec<IpNet>,
    /// Further ranges that are reached through the cluster, for example those of services.
    pub further_ranges: Vec<IpNet>,
    /// Ranges that go through the tunnels although the host has routes to them.
    pub allow_host_routes: Vec<IpNet>,
    /// Addresses that programs of the host need, and that answer without the mesh.
    pub lifelines: BTreeMap<IpAddr, Lifeline>,
    /// The addresses that DNS names of endpoints resolve to, as far as known.
    pub resolved: BTreeMap<String, IpAddr>,
}

/// What a client's host should be before it knows the mesh: the interface, its key and addresses.
pub fn alone(config: &ClientConfig) -> HostState {
    let link = Link { kind: LinkKind::Wireguard, mtu: Some(config.mtu), up: true, managed: true };
    let address = |net: &IpNet| Address { link: config.interface.clone(), net: *net };
    HostState {
        links: [(config.interface.clone(), link)].into(),
        addresses: config.addresses.iter().map(address).collect(),
        wireguard: Some(Wireguard {
            private_key: Some(config.private_key.clone()),
            listen_port: config.listen_port,
            mark: config.marks.underlay(),
            peers: BTreeMap::new(),
        }),
        ..HostState::default()
    }
}

/// What a client's host should be. `None` when the mesh has no Peer of the client's name, or its preshared key is not
/// known. From whose perspective it is
/// looked at does not matter.
pub fn render(perspective: &Perspective<'_>, facts: &HostFacts, config: &ClientConfig) -> Option<Rendered> {
    let mut peers = perspective.peer_conf(&config.peer, &config.preshared_keys)?.peers;
    let not_public = config.other_peers.admit(&mut peers, perspective.topology, &config.allow_host_routes);
    let mut problems = further_ranges(perspective, config, &mut peers);
    problems.extend(not_public);
    let mut state = alone(config);
    let mut guarded = Judged::of(perspective, &peers, facts, config);
    let segments: HashMap<PublicKey, &Segment> =
        perspective.topology.segments.iter().map(|segment| (segment.key, segment)).collect();
    for peer in &peers {
        let claims = Claims::of(peer, segments.get(&peer.key).copied());
        for destination in peer.allowed_ips.iter().map(IpNet::trunc) {
            let routed = guarded.routed(destination, claims.claim(destination));
            state.routes.extend(routed.into_iter().filter_map(|destination| route(destination, config)));
        }
    }
    problems.extend(guarded.report.problems());
    state.rules = rules(&state, facts, config, &mut problems);
    if let Some(wireguard) = &mut state.wireguard {
        // What is accepted is not judged: a client forwards for nobody.
        wireguard.peers = tunnels(peers, &config.resolved, std::iter::once);
    }
    Some(Rendered { state, problems: problems.into(), exposed: BTreeSet::new() })
}

/// Of what was seen on a host, what is the business of a client with this interface. The host may belong to somebody
/// else's mesh, too; so without an interface that the client can use, nothing is.
#[must_use]
pub fn own_part(observed: &HostState, interface: &LinkName) -> HostState {
    if !observed.links.contains_key(interface) {
        return HostState::default();
    }
    let (routes, others): (BTreeSet<_>, BTreeSet<_>) =
        observed.routes.iter().cloned().partition(|route| route.link == *interface);
    // Where another client on this host has routes as well, the rule is that one's.
    let has_others = |rule: &&Rule| {
        let of_family = |route: &Route| Family::of_prefix(&route.destination) == rule.family;
        others.iter().any(|route| route.table == rule.table && of_family(route))
    };
    let rules = observed.rules.iter().filter(|rule| rule.table == CLIENT_TABLE && !has_others(rule));
    let own_leftover =
        |leftover: &&Leftover| matches!(leftover, Leftover::Route { route, .. } if route.link == *interface);
    HostState {
        links: observed.links.iter().filter(|(name, _)| *name == interface).map(owned).collect(),
        addresses: observed.addresses.iter().filter(|address| address.link == *interface).cloned().collect(),
        routes,
        rules: rules.cloned().collect(),
        wireguard: observed.wireguard.clone(),
        leftovers: observed.leftovers.iter().filter(own_leftover).cloned().collect(),
        ..HostState::default()
    }
}

fn owned((name, link): (&LinkName, &Link)) -> (LinkName, Link) {
    (name.clone(), link.clone())
}

/// Gives the further ranges to the segment of the first node, as the Go implementation does: that any node takes them
/// is all that is known of them.
fn further_ranges(perspective: &Perspective<'_>, config: &ClientConfig, peers: &mut [ConfPeer]) -> Problems {
    let mut problems = Problems::default();
    let first = perspective.topology.nodes().min_by_key(|node| &node.name);
    let Some(segment) = first.and_then(|node| perspective.topology.segment_of(&node.name)) else {
        return problems;
    };
    for range in config.further_ranges.iter().map(IpNet::trunc) {
        let owner = peers.iter().find(|peer| peer.allowed_ips.iter().any(|ip| ip.trunc() == range));
        match owner {
            Some(owner) if owner.key != segment.key => problems.push(Problem::new(
                Object::Host,
                "RangeTaken",
                format!(
                    "{range} belongs to somebody in the mesh already, so that it is not added; leave it out"
                ),
            )),
            Some(_) => {}
            None => {
                let first = peers.iter_mut().filter(|peer| peer.key == segment.key);
                first.for_each(|peer| peer.allowed_ips.push(range));
            }
        }
    }
    problems
}

/// What of the mesh the client follows.
struct Judged {
    guard: Guard,
    report: Report,
}

impl Judged {
    fn of(
        perspective: &Perspective<'_>,
        peers: &[ConfPeer],
        facts: &HostFacts,
        config: &ClientConfig,
    ) -> Self {
        let segments = perspective.topology.segments.iter();
        let leaders: HashMap<PublicKey, &str> =
            segments.map(|segment| (segment.key, segment.leader().name.as_str())).collect();
        let endpoint = |peer: &ConfPeer| {
            let at = prefix::host(resolve(peer.endpoint.as_ref()?, &config.resolved)?.ip());
            Some(match leaders.get(&peer.key) {
                Some(leader) => (at, Keep::Endpoint(peer.key, (*leader).to_owned())),
                None => (at, Keep::PeerEndpoint(peer.key, String::new())),
            })
        };
        let lifelines = config.lifelines.iter();
        let lifelines = lifelines.map(|(at, lifeline)| (prefix::host(*at), Keep::Lifeline(*lifeline)));
        let locations = perspective.topology.segments.iter().map(|segment| &segment.allowed_location_ips);
        let others = perspective.topology.peers.iter().map(|peer| &peer.allowed_ips);
        let lists = locations.chain(others).chain([&config.further_ranges]).enumerate();
        let written: Vec<(IpNet, usize)> =
            lists.flat_map(|(object, list)| list.iter().map(move |net| (net.trunc(), object))).collect();
        let known = Known {
            kept: peers.iter().filter_map(endpoint).chain(lifelines).chain(of_host(facts)).collect(),
            mesh: of_nodes(perspective.topology, &written),
            written,
            allowed: config.allow_host_routes.clone(),
            home: Vec::new(),
            addon: false,
            seen: Default::default(),
        };
        Self { guard: Guard::new(known), report: Report::default() }
    }

    /// What of a destination is routed.
    fn routed(&mut self, destination: IpNet, claim: Claim) -> Vec<IpNet> {
        let (way, why) = self.guard.judge(destination, claim);
        if let Some(why) = why {
            let allowable = self.guard.would_route_if_allowed(destination, claim);
            self.report.add(Object::Host, (destination, claim), (&way, &why), allowable);
        }
        way.routed(destination).collect()
    }
}

/// What the allowed IPs of a peer are. A client is in no location, so none of the nodes is its neighbour.
struct Claims<'a> {
    key: PublicKey,
    /// What the peer is as a segment.
    segment: Option<(BTreeSet<IpNet>, Holdings<'a>)>,
}

impl<'a> Claims<'a> {
    fn of(peer: &ConfPeer, segment: Option<&'a Segment>) -> Self {
        let allowed = |segment: &Segment| segment.allowed_ips.iter().map(IpNet::trunc).collect();
        let segment = segment.map(|segment| (allowed(segment), Holdings::of(segment)));
        Self { key: peer.key, segment }
    }

    fn claim(&self, destination: IpNet) -> Claim {
        match self.segment.as_ref().filter(|(allowed, _)| allowed.contains(&destination)) {
            Some((_, holdings)) => holdings.claim(destination, |_| false).0,
            None => Claim::Range(self.key),
        }
    }
}

/// By which packets find the client's routes.
fn rules(
    state: &HostState,
    facts: &HostFacts,
    config: &ClientConfig,
    problems: &mut Problems,
) -> BTreeSet<Rule> {
    let families: BTreeSet<Family> =
        state.routes.iter().map(|route| Family::of_prefix(&route.destination)).collect();
    let rule = |family| {
        let first = priority::before_others(facts, family, CLIENT_TABLE, 1).unwrap_or_else(|message| {
            problems.push(Problem::new(Object::Host, "RuleBeforeOurs", message));
            CLIENT_TABLE
        });
        priority::rule(first, CLIENT_TABLE, family, config.marks)
    };
    families.into_iter().map(rule).collect()
}

/// The route to a range, if the client has an address of its family: others would not know the way back.
fn route(destination: IpNet, config: &ClientConfig) -> Option<Route> {
    let family = Family::of_prefix(&destination);
    let source = config.addresses.iter().map(IpNet::addr).find(|address| Family::of(*address) == family)?;
    let link = config.interface.clone();
    // WireGuard finds the peer by the destination, so there is no next hop to name.
    Some(Route {
        table: CLIENT_TABLE,
        destination,
        next_hop: NextHop::Destination,
        link,
        source: Some(source),
    })
}
