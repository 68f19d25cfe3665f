//! What a host's network should be, given the node's place in the mesh.
//!
//! A leader holds the WireGuard interface and sends what belongs to other segments through it; a member sends it to
//! its leader. Both reach the nodes of their own location over the private network, encapsulated or not.

mod carrier;
pub mod client;
mod guarded;
mod leaders;
mod local;
mod nat;
mod other_peers;
mod outward;
mod own;
mod priority;
mod tunnels;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use ipnet::IpNet;
use mesh::{
    DEFAULT_PORT, Object, Perspective, PresharedKeys, PrivateKey, Problem, Problems, Role, prefix::Family,
};

use carrier::Carrier;
use guarded::Guarded;
use tunnels::tunnels;

use crate::{
    Address, Compatibility, HostFacts, HostState, Lifeline, Link, LinkKind, LinkName, MarkBits, Route,
    Wireguard, state::Forwarding,
};

/// When packets inside of a location are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Never.
    Never,
    /// Only to nodes outside of the prefix of the own internal address.
    CrossSubnet,
    /// Always.
    Always,
}

impl FromStr for Encapsulation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self::Never),
            "crosssubnet" => Ok(Self::CrossSubnet),
            "always" => Ok(Self::Always),
            other => Err(format!("{other:?} is none of never, crosssubnet, always")),
        }
    }
}

/// In what packets are encapsulated inside of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncapsulationType {
    /// IP, as the Go implementation does.
    #[default]
    Ipip,
    /// UDP, where the kernel or the network refuses protocol 4.
    Vxlan,
}

impl FromStr for EncapsulationType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ipip" => Ok(Self::Ipip),
            "vxlan" => Ok(Self::Vxlan),
            other => Err(format!("{other:?} is none of ipip, vxlan")),
        }
    }
}

/// Who is responsible for a part of the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Responsible {
    /// We are.
    Kilo,
    /// Something else: another CNI, or whoever made the interface.
    Other,
}

/// What the operator decides for one host. It stays the same while an agent runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderConfig {
    /// The WireGuard interface.
    pub interface: LinkName,
    /// Who makes the WireGuard interface.
    pub interface_by: Responsible,
    /// The host's private key.
    pub private_key: PrivateKey,
    /// The UDP port of WireGuard, unless another one is forced.
    pub listen_port: u16,
    /// The bits of the firewall mark that are ours.
    pub marks: MarkBits,
    /// When packets inside of a location are encapsulated.
    pub encapsulation: Encapsulation,
    /// In what they are encapsulated.
    pub encapsulation_type: EncapsulationType,
    /// The container network that takes care of the inside of a location, if Kilo does not.
    pub compatibility: Compatibility,
    /// Who routes between the pods of one location (`--local`).
    pub local_routes_by: Responsible,
    /// Who masquerades what pods send out of the cluster (`--cni`).
    pub pod_nat_by: Responsible,
    /// Whether forwarding has to be accepted in other tables too (`--iptables-forward-rules`).
    pub accept_forwarding: bool,
    /// Addresses that are never masqueraded and never routed: those of services, as the operator names them.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges that the mesh may have although the host has routes to them.
    pub allow_host_routes: Vec<IpNet>,
}

impl RenderConfig {
    /// What `kg` does without flags.
    pub fn with_key(private_key: PrivateKey) -> Self {
        Self {
            interface: "kilo0".parse().expect("the name is a valid one"),
            interface_by: Responsible::Kilo,
            private_key,
            listen_port: DEFAULT_PORT,
            marks: MarkBits::default(),
            encapsulation: Encapsulation::Always,
            encapsulation_type: EncapsulationType::default(),
            compatibility: Compatibility::default(),
            local_routes_by: Responsible::Kilo,
            pod_nat_by: Responsible::Kilo,
            accept_forwarding: false,
            service_cidrs: Vec::new(),
            allow_host_routes: Vec::new(),
        }
    }
}

/// What changes while an agent runs, besides the mesh and the host.
#[derive(Debug, Clone, PartialEq)]
pub struct RenderInput {
    /// Bytes of the largest packet through the WireGuard interface.
    pub mtu: u32,
    /// The UDP port of WireGuard that the Node's operator forces, because a router forwards it.
    pub forced_port: Option<u16>,
    /// The preshared keys of Peers that refer to Secrets, as far as known.
    pub preshared_keys: PresharedKeys,
    /// Addresses that programs of the host need, and that answer without the mesh.
    pub lifelines: BTreeMap<IpAddr, Lifeline>,
    /// The addresses of API servers, wherever they answer.
    pub api_servers: BTreeSet<IpAddr>,
    /// Ranges that are not routed because the API server was lost with them.
    pub withdrawn: BTreeSet<IpNet>,
    /// The addresses that DNS names of endpoints resolve to, as far as known.
    pub resolved: BTreeMap<String, IpAddr>,
}

impl RenderInput {
    /// With this MTU, in bytes, and nothing else known.
    pub fn with_mtu(mtu: u32) -> Self {
        Self {
            mtu,
            forced_port: None,
            preshared_keys: PresharedKeys::default(),
            lifelines: BTreeMap::new(),
            api_servers: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            resolved: BTreeMap::new(),
        }
    }
}

/// The desired state of a host, and what stands in its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// What the host's network should be.
    pub state: HostState,
    /// What cannot be done, and why. The rest can.
    pub problems: Vec<Problem>,
    /// The ranges in it that hold an API server. Where no address of one is known these are all that objects ask for.
    pub exposed: BTreeSet<IpNet>,
}

/// What a host's network should be.
pub fn render(
    perspective: &Perspective<'_>,
    facts: &HostFacts,
    config: &RenderConfig,
    input: &RenderInput,
) -> Rendered {
    let mut renderer = Renderer {
        perspective,
        facts,
        config,
        input,
        underlay: Underlay::of(perspective, facts),
        carrier: Carrier::of(config, facts),
        guarded: Guarded::of(perspective, facts, config, input),
        routes: Vec::new(),
        state: HostState::default(),
        problems: Problems::default(),
        own: BTreeMap::new(),
    };
    renderer.wireguard();
    renderer.addresses();
    let given = renderer.state.addresses.iter().map(|address| &address.net);
    renderer.own = own::of(facts.interfaces.values().flat_map(|interface| &interface.addresses).chain(given));
    match perspective.role {
        Role::Leader => renderer.routes_through_tunnels(),
        Role::Member => renderer.routes_through_leader(),
    }
    renderer.routes_to_leaders();
    renderer.routes_inside_location();
    renderer.rules();
    renderer.state.firewall = Some(renderer.firewall());
    renderer.state.forwarding = Forwarding { v4: true, v6: renderer.uses_ipv6() };
    // Sorted once, which is much cheaper than keeping tens of thousands in order while they are made.
    renderer.state.routes = renderer.routes.into_iter().collect();
    let Guarded { report, exposed, .. } = renderer.guarded;
    renderer.problems.extend(report.problems());
    Rendered { state: renderer.state, problems: renderer.problems.into_sorted(), exposed }
}

/// How the host reaches the other nodes of its location over the private network: the same for all of them, and
/// looked for once, because a host has an interface per pod.
struct Underlay {
    /// Per family, the own internal address, when an interface has it: the kernel refuses a route whose source is
    /// none of the host's addresses, as a forced internal address may be.
    sources: [Option<IpAddr>; 2],
    /// Per family, the interface that has the own internal address; when that address is on none (it was forced),
    /// the one of the default route.
    links: [Option<LinkName>; 2],
}

impl Underlay {
    fn of(perspective: &Perspective<'_>, facts: &HostFacts) -> Self {
        let own = Family::ALL.map(|family| perspective.node.internal_ip(family));
        let found =
            own.map(|own| own.and_then(|address| facts.interface_with(address)).map(|(name, _)| name));
        Self {
            sources: [0, 1].map(|family| own[family].filter(|_| found[family].is_some())),
            links: found.map(|name| name.or(facts.default_interface.as_ref()).cloned()),
        }
    }

    fn source(&self, family: Family) -> Option<IpAddr> {
        self.sources[family as usize]
    }

    fn link(&self, family: Family) -> Option<&LinkName> {
        self.links[family as usize].as_ref()
    }
}

/// A render in progress.
struct Renderer<'a> {
    perspective: &'a Perspective<'a>,
    facts: &'a HostFacts,
    config: &'a RenderConfig,
    input: &'a RenderInput,
    underlay: Underlay,
    carrier: Carrier,
    guarded: Guarded,
    routes: Vec<Route>,
    state: HostState,
    problems: Problems,
    /// Addresses that are no next hop.
    own: BTreeMap<IpAddr, own::Own>,
}

impl Renderer<'_> {
    fn wireguard(&mut self) {
        let lead = self.perspective.role == Role::Leader;
        let link = Link {
            kind: LinkKind::Wireguard,
            mtu: (self.config.interface_by == Responsible::Kilo).then_some(self.input.mtu),
            up: lead,
            managed: self.config.interface_by == Responsible::Kilo,
        };
        self.state.links.insert(self.config.interface.clone(), link);
        // A member has no peers: nobody should hold a session with a node that does not forward.
        let peers = match lead {
            true => self.perspective.conf_peers(&self.input.preshared_keys),
            false => Vec::new(),
        };
        let peers = tunnels(peers, &self.input.resolved, |net| self.guarded.accepted(net));
        self.state.wireguard = Some(Wireguard {
            private_key: Some(self.config.private_key.clone()),
            listen_port: self.input.forced_port.unwrap_or(self.config.listen_port),
            mark: self.config.marks.underlay(),
            peers,
        });
    }

    fn addresses(&mut self) {
        if self.perspective.role != Role::Leader {
            return;
        }
        let subnets = &self.perspective.topology.config.subnets;
        for address in &self.perspective.segment().wireguard_ips {
            let Some(length) = subnets.prefix_len(Family::of(*address)) else { continue };
            let net =
                IpNet::new(*address, length).expect("the length is that of a subnet of the same family");
            self.state.addresses.insert(Address { link: self.config.interface.clone(), net });
        }
    }

    fn uses_ipv6(&self) -> bool {
        let v6 = |net: &IpNet| matches!(net, IpNet::V6(_));
        self.perspective.node.pod_subnets.iter().any(v6)
            || self.perspective.topology.config.subnets.iter().any(v6)
    }

    fn problem(&mut self, reason: &'static str, message: String) {
        self.problems.push(Problem::new(Object::Host, reason, message));
    }
}
