//! What of the mesh this host follows: the guard's verdicts on all destinations of the mesh.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;
use mesh::{Endpoint, Node, Object, Perspective, Segment, Topology, overlap::Covers, prefix};

use super::{RenderConfig, RenderInput, carrier::is_ipip, tunnels::resolve};
use crate::{
    Compatibility, HostFacts,
    guard::{Claim, Guard, Keep, Known, Report, Way},
};

/// The verdicts. Nearly all destinations are routed as they are, and only the others are in here.
pub(super) struct Guarded {
    verdicts: HashMap<IpNet, Way>,
    pub report: Report,
    /// What is routed and holds an API server.
    pub exposed: BTreeSet<IpNet>,
}

impl Guarded {
    pub fn of(
        perspective: &Perspective<'_>,
        facts: &HostFacts,
        config: &RenderConfig,
        input: &RenderInput,
    ) -> Self {
        let lifelines = input.lifelines.iter();
        let services = config.service_cidrs.iter().chain(&perspective.topology.config.services);
        let kept = endpoints(perspective, input)
            .chain(of_location(perspective))
            .chain(of_host(facts))
            .chain(lifelines.map(|(at, lifeline)| (prefix::host(*at), Keep::Lifeline(*lifeline))))
            .chain(services.map(|net| (*net, Keep::Services)));
        let written: Vec<(IpNet, usize)> = written(perspective).collect();
        let known = Known {
            kept: kept.collect(),
            mesh: of_nodes(perspective.topology, &written),
            written,
            allowed: config.allow_host_routes.clone(),
            home: perspective.node.internal_ips.iter().map(IpNet::addr).collect(),
            addon: config.compatibility != Compatibility::None,
            seen: perspective.seen_tunnel_ends().collect(),
        };
        let guarded = Self { verdicts: HashMap::new(), report: Report::default(), exposed: BTreeSet::new() };
        let mut court = Court { guard: Guard::new(known), input, guarded };
        court.judge_mesh(perspective);
        court.guarded
    }

    /// What of a destination is routed through the mesh.
    pub fn routed(&self, destination: IpNet) -> impl Iterator<Item = IpNet> {
        self.way(&destination).routed(destination)
    }

    /// What of a destination may speak through its tunnel.
    pub fn accepted(&self, destination: IpNet) -> impl Iterator<Item = IpNet> {
        self.way(&destination).accepted(destination)
    }

    /// What of a destination counts as a part of the mesh.
    pub fn meshed(&self, destination: IpNet) -> impl Iterator<Item = IpNet> {
        self.way(&destination).meshed(destination)
    }

    /// The addresses of leaders where their tunnels end.
    pub fn tunnel_ends(&self) -> BTreeSet<IpNet> {
        let ends = self.verdicts.iter().filter(|(_, way)| **way == Way::TunnelEnd);
        ends.map(|(address, _)| *address).collect()
    }

    /// Whether an address of a node of the own location may have a way of its own.
    pub fn is_near(&self, address: IpNet) -> bool {
        *self.way(&address) != Way::Out
    }

    fn way(&self, destination: &IpNet) -> &Way {
        if self.verdicts.is_empty() {
            return &Way::Mesh;
        }
        self.verdicts.get(destination).unwrap_or(&Way::Mesh)
    }
}

/// Verdicts in the making.
struct Court<'a> {
    guard: Guard,
    input: &'a RenderInput,
    guarded: Guarded,
}

impl Court<'_> {
    fn judge_mesh(&mut self, perspective: &Perspective<'_>) {
        for segment in perspective.other_segments() {
            let holdings = Holdings::of(segment);
            for destination in segment.allowed_ips.iter().map(IpNet::trunc) {
                self.judge(destination, Origin::Mesh, || {
                    holdings.claim(destination, |node| node.location == perspective.node.location)
                });
            }
            self.judge_location(segment, Claim::Range(segment.key));
        }
        let own = perspective.segment();
        self.judge_location(own, Claim::Here);
        for node in own.nodes.iter().filter(|node| node.name != perspective.node.name) {
            for subnet in node.pod_subnets.iter().map(IpNet::trunc) {
                self.judge(subnet, Origin::Mesh, || (Claim::Pods, Object::Node(node.name.clone())));
            }
            for address in node.internal_ips.iter().map(|net| prefix::host(net.addr())) {
                self.judge(address, Origin::Neighbour, || {
                    (Claim::Address { near: true, tunnel: own.key }, Object::Node(node.name.clone()))
                });
            }
        }
        for address in &own.wireguard_ips {
            self.judge(prefix::host(*address), Origin::Mesh, || {
                (Claim::Address { near: true, tunnel: own.key }, Object::Node(own.leader().name.clone()))
            });
        }
        for peer in &perspective.topology.peers {
            for destination in peer.allowed_ips.iter().map(IpNet::trunc) {
                self.judge(destination, Origin::Written, || {
                    (Claim::Range(peer.key), Object::Peer(peer.name.clone()))
                });
            }
        }
    }

    fn judge_location(&mut self, segment: &Segment, claim: Claim) {
        let said = segment.nodes.iter().flat_map(|node| {
            node.allowed_location_ips.iter().map(move |net| (net.trunc(), node.name.as_str()))
        });
        let said: HashMap<IpNet, &str> = said.collect();
        for destination in segment.allowed_location_ips.iter().map(IpNet::trunc) {
            let claimant = || said.get(&destination).copied().unwrap_or(&segment.leader().name);
            self.judge(destination, Origin::Written, || (claim, Object::Node(claimant().to_owned())));
        }
    }

    fn judge(&mut self, destination: IpNet, origin: Origin, who: impl FnOnce() -> (Claim, Object)) {
        let exposed = self.may_expose(destination, origin);
        let withdrawn = self.input.withdrawn.contains(&destination);
        let written = origin == Origin::Written;
        if !written && !exposed && !withdrawn && !self.guard.touches(destination) {
            return;
        }
        let (claim, object) = who();
        let (way, why) = match self.guard.judge(destination, claim) {
            (Way::Mesh | Way::Part(_), _) if withdrawn => {
                self.guarded.report.add_withdrawn(object.clone(), destination);
                (Way::Out, None)
            }
            verdict => verdict,
        };
        if let Some(why) = why {
            let allowable = self.guard.would_route_if_allowed(destination, claim);
            self.guarded.report.add(object, (destination, claim), (&way, &why), allowable);
        }
        if exposed && self.exposes(&way.routed(destination).collect::<Vec<_>>()) {
            self.guarded.exposed.insert(destination);
        }
        if way != Way::Mesh && (origin != Origin::Neighbour || way == Way::Out) {
            // Of two that claim the same the stricter verdict stays.
            let before = self.guarded.verdicts.entry(destination).or_insert_with(|| way.clone());
            if way == Way::Out {
                *before = way;
            }
        }
    }

    /// Whether an API server may be in a destination. Where no address of one is known, what objects ask for is suspicious.
    fn may_expose(&self, destination: IpNet, origin: Origin) -> bool {
        let servers = &self.input.api_servers;
        match origin {
            Origin::Written if servers.is_empty() => true,
            Origin::Written | Origin::Mesh | Origin::Neighbour => {
                servers.iter().any(|server| destination.contains(server))
            }
        }
    }

    fn exposes(&self, routed: &[IpNet]) -> bool {
        let servers = &self.input.api_servers;
        let holds_server = |net: &IpNet| servers.iter().any(|server| net.contains(server));
        if servers.is_empty() { !routed.is_empty() } else { routed.iter().any(holds_server) }
    }
}

/// Where a destination comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// From what nodes are.
    Mesh,
    /// From what the other nodes of the own location are. They are no destinations, and only those matter that are none.
    Neighbour,
    /// Somebody wrote it into an object.
    Written,
}

/// What the allowed IPs of a segment are, and whose. A node may have tens of thousands, and hardly any is asked about.
pub(super) struct Holdings<'a> {
    segment: &'a Segment,
    found: OnceCell<HashMap<IpNet, (bool, &'a Node)>>,
}

impl<'a> Holdings<'a> {
    pub fn of(segment: &'a Segment) -> Self {
        Self { segment, found: OnceCell::new() }
    }

    /// What an allowed IP is, and whose. `near`: whether a node is in the location of this host.
    pub fn claim(&self, destination: IpNet, near: impl Fn(&Node) -> bool) -> (Claim, Object) {
        let found = self.found.get_or_init(|| self.look());
        // A WireGuard address is the leader's.
        let (pods, node) = found.get(&destination).copied().unwrap_or((false, self.segment.leader()));
        let address = || Claim::Address { near: near(node), tunnel: self.segment.key };
        (if pods { Claim::Pods } else { address() }, Object::Node(node.name.clone()))
    }

    /// What several nodes have is the first one's, and pods go before addresses.
    fn look(&self) -> HashMap<IpNet, (bool, &'a Node)> {
        let nodes = || self.segment.nodes.iter().map(Arc::as_ref);
        let pods = nodes().flat_map(|node| node.pod_subnets.iter().map(move |net| (net.trunc(), true, node)));
        let internal = nodes().flat_map(|node| {
            node.internal_ips.iter().map(move |net| (prefix::host(net.addr()), false, node))
        });
        let mut found = HashMap::new();
        for (net, pods, node) in pods.chain(internal) {
            found.entry(net).or_insert((pods, node));
        }
        found
    }
}

/// The ranges that objects ask for, of other locations and of Peers.
fn written<'a>(perspective: &'a Perspective<'_>) -> impl Iterator<Item = (IpNet, usize)> + 'a {
    let locations = perspective.other_segments().map(|segment| &segment.allowed_location_ips);
    let lists = locations.chain(perspective.topology.peers.iter().map(|peer| &peer.allowed_ips));
    lists.enumerate().flat_map(|(object, list)| list.iter().map(move |net| (net.trunc(), object)))
}

/// What nodes have, as far as it matters: to what is written, or because it holds an address of a node.
pub(super) fn of_nodes(topology: &Topology, written: &[(IpNet, usize)]) -> Vec<(IpNet, Keep)> {
    let written = Covers::of(written.iter().map(|(net, _)| *net));
    let addresses = topology.nodes().flat_map(|node| &node.internal_ips).map(|net| prefix::host(net.addr()));
    let addresses = Covers::of(addresses);
    let pods = topology.nodes().flat_map(|node| node.pod_subnets.iter().map(move |net| (net.trunc(), node)));
    let pods = pods.filter(|(net, _)| written.overlaps(net) || addresses.overlaps(net));
    let pods = pods.map(|(net, node)| (net, Keep::Pods(node.name.clone())));
    let internal = topology
        .nodes()
        .flat_map(|node| node.internal_ips.iter().map(move |net| (prefix::host(net.addr()), node)));
    let internal = internal.filter(|(net, _)| written.overlaps(net));
    let internal = internal.map(|(net, node)| (net, Keep::Internal(node.name.clone())));
    let tunnels = topology.config.subnets.iter().map(|net| (*net, Keep::Wireguard));
    pods.chain(internal).chain(tunnels).collect()
}

/// Where tunnels lead to, or would if another node led.
fn endpoints<'a>(
    perspective: &'a Perspective<'_>,
    input: &'a RenderInput,
) -> impl Iterator<Item = (IpNet, Keep)> + 'a {
    let at = |endpoint: &Endpoint| Some(prefix::host(resolve(endpoint, &input.resolved)?.ip()));
    let segments = perspective.topology.segments.iter().flat_map(move |segment| {
        let leader = at(&perspective.segment_endpoint(segment));
        let leader = leader.map(|at| (at, Keep::Endpoint(segment.key, segment.leader().name.clone())));
        let candidates = segment.nodes.iter().filter_map(move |node| {
            Some((at(node.endpoint.as_ref()?)?, Keep::Candidate(segment.key, node.name.clone())))
        });
        leader.into_iter().chain(candidates)
    });
    let peers = perspective.topology.peers.iter().filter_map(move |peer| {
        let at = at(&perspective.peer_endpoint(peer)?)?;
        Some((at, Keep::PeerEndpoint(peer.key, peer.name.clone())))
    });
    segments.chain(peers)
}

/// The nodes of the own location, by which the host reaches everything else; and the pods of the host.
fn of_location<'a>(perspective: &'a Perspective<'_>) -> impl Iterator<Item = (IpNet, Keep)> + 'a {
    let near = perspective.segment().nodes.iter().flat_map(|node| {
        let keep = || Keep::Near(node.name.clone());
        node.internal_ips.iter().map(move |net| (prefix::host(net.addr()), keep()))
    });
    near.chain(perspective.node.pod_subnets.iter().map(|net| (*net, Keep::OwnPods)))
}

/// A route of this length or shorter stands for everything, as two halves do that some VPNs set in the place of a default route.
const DEFAULT: u8 = 3;

/// What the host has by itself.
pub(super) fn of_host(facts: &HostFacts) -> impl Iterator<Item = (IpNet, Keep)> + '_ {
    let addresses =
        || facts.interfaces.iter().flat_map(|(name, link)| link.addresses.iter().map(move |net| (name, net)));
    let own = addresses().map(|(_, net)| (prefix::host(net.addr()), Keep::Own));
    let is_network = |net: &IpNet| net.prefix_len() < net.max_prefix_len();
    let connected = addresses().filter(move |(_, net)| is_network(net));
    let connected = connected.map(|(name, net)| (*net, Keep::Connected(name.clone())));
    // A gateway behind an IPIP device is where the outer packet goes, which may be any node: it is no neighbour.
    let beside =
        facts.routes.iter().filter(|route| !route.link.as_ref().is_some_and(|link| is_ipip(facts, link)));
    let gateways = beside.filter_map(|route| {
        let link = route.link.clone().or_else(|| facts.default_interface.clone())?;
        Some((prefix::host(route.gateway?), Keep::Gateway(link)))
    });
    // The way to everything else is no destination.
    let routes = facts.routes.iter().filter(|route| route.destination.prefix_len() > DEFAULT);
    let routes = routes.map(|route| (route.destination, Keep::Route(route.link.clone())));
    own.chain(connected).chain(gateways).chain(routes)
}
