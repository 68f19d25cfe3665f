//! Routes inside of a location: over the private network, encapsulated or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use mesh::{
    Node, Role,
    prefix::{self, Family},
};

use super::{Encapsulation, Renderer, Responsible};
use crate::{KILO_TABLE, Link, LinkKind, LinkName, MAIN_TABLE, Route, Rule};

/// The priority of our policy rules: before the main table (32766), after the local one (0).
const RULE_PRIORITY: u32 = 1107;

/// Bytes that an outer IPv4 header adds.
const ENCAPSULATION_OVERHEAD: u32 = 20;

/// One hop inside of the location.
struct Hop {
    via: IpAddr,
    link: LinkName,
    source: Option<IpAddr>,
}

impl Renderer<'_> {
    /// Routes to the pods of the other nodes of the location and, when packets are encapsulated, pod traffic to the
    /// nodes themselves through the tunnel: a cloud network would drop a packet that a pod's address sends.
    pub(super) fn routes_inside_location(&mut self) {
        let own = self.perspective.node;
        if self.config.local_routes_by == Responsible::Other || own.internal_ips.is_empty() {
            return;
        }
        for node in &self.perspective.segment().nodes {
            if node.name == own.name {
                continue;
            }
            for subnet in &node.pod_subnets {
                self.routes_inside(Family::of_prefix(subnet), &[subnet.trunc()], node);
            }
            for net in &node.internal_ips {
                self.encapsulated_route_to(node, net.addr());
            }
        }
        self.encapsulation_rules();
    }

    /// Routes to destinations of one family with a node of the location as the next hop.
    pub(super) fn routes_inside(&mut self, family: Family, destinations: &[IpNet], gateway: &Node) {
        if destinations.is_empty() {
            return;
        }
        match self.hop(family, gateway) {
            Ok(hop) => self.routes.extend(destinations.iter().map(|net| hop.route(MAIN_TABLE, *net))),
            Err((reason, message)) => self.problem(reason, message),
        }
    }

    /// In the table for encapsulated traffic: the way to a node's internal address.
    fn encapsulated_route_to(&mut self, node: &Node, address: IpAddr) {
        let family = Family::of(address);
        if !self.encapsulates(node) {
            return;
        }
        if let Ok(hop) = self.hop(family, node) {
            self.routes.push(hop.route(KILO_TABLE, prefix::host(address)));
        }
    }

    /// Which packets look into the table for encapsulated traffic: those of own pods, and what comes out of tunnels.
    /// The table holds nothing but internal addresses of the location; everything else goes on to the main table.
    fn encapsulation_rules(&mut self) {
        let used = |family| {
            let mut routes = self.routes.iter().filter(|route| route.table == KILO_TABLE);
            routes.any(|route| Family::of_prefix(&route.destination) == family)
        };
        let families: Vec<_> = Family::ALL.into_iter().filter(|family| used(*family)).collect();
        for family in families {
            let rule =
                |from, iif| Rule { priority: RULE_PRIORITY, from, to: None, iif, table: KILO_TABLE, family };
            let pods =
                self.perspective.node.pod_subnets.iter().filter(|net| Family::of_prefix(net) == family);
            self.state.rules.extend(pods.map(|net| rule(Some(net.trunc()), None)));
            if self.perspective.role == Role::Leader {
                self.state.rules.insert(rule(None, Some(self.config.interface.clone())));
            }
        }
    }

    /// How packets of a family get to a node of the location.
    fn hop(&mut self, family: Family, node: &Node) -> Result<Hop, (&'static str, String)> {
        let source = self.underlay.source(family);
        if self.encapsulates(node) {
            let Some(IpAddr::V4(outer)) = node.internal_ip(Family::V4) else {
                return Err(no_address(node, Family::V4));
            };
            self.other_than_own(outer.into(), node)?;
            return Ok(match family {
                Family::V4 => Hop { via: outer.into(), link: self.tunnel(LinkKind::Ipip), source },
                Family::V6 => Hop { via: embed(outer).into(), link: self.tunnel(LinkKind::Sit), source },
            });
        }
        let via = node.internal_ip(family).ok_or_else(|| no_address(node, family))?;
        self.other_than_own(via, node)?;
        // Go leaves the choice of the source to the kernel here: it is the private interface's own address.
        Ok(Hop { via, link: self.private_link(family)?, source: None })
    }

    /// The kernel refuses a route whose next hop is an address of the host itself.
    fn other_than_own(&self, via: IpAddr, node: &Node) -> Result<(), (&'static str, String)> {
        let own = self.perspective.node;
        if own.internal_ips.iter().all(|net| net.addr() != via) {
            return Ok(());
        }
        Err((
            "DuplicateAddress",
            format!(
                "node {} has the same internal address {via} as this node, so its pods cannot be reached; give one of \
                 them another address or the annotation kilo.squat.ai/force-internal-ip",
                node.name
            ),
        ))
    }

    fn encapsulates(&self, node: &Node) -> bool {
        match self.config.encapsulation {
            Encapsulation::Never => false,
            Encapsulation::Always => true,
            Encapsulation::CrossSubnet => {
                let own = self.perspective.node.internal_net(Family::V4);
                let other = node.internal_ip(Family::V4);
                own.zip(other).is_some_and(|(own, other)| !own.contains(&other))
            }
        }
    }

    /// The kernel's tunnel device without a fixed remote, which is added to the desired state.
    fn tunnel(&mut self, kind: LinkKind) -> LinkName {
        let name: LinkName = match kind {
            LinkKind::Sit => "sit0",
            LinkKind::Ipip | LinkKind::Wireguard => "tunl0",
        }
        .parse()
        .expect("the name is a valid one");
        let underlay = self.underlay.link(Family::V4).and_then(|link| self.facts.interfaces.get(link));
        let mtu = underlay.map(|interface| interface.mtu.saturating_sub(ENCAPSULATION_OVERHEAD));
        self.state.links.entry(name.clone()).or_insert(Link { kind, mtu, up: true, managed: false });
        name
    }

    fn private_link(&self, family: Family) -> Result<LinkName, (&'static str, String)> {
        self.underlay.link(family).cloned().ok_or_else(|| {
            let own = self.perspective.node.internal_ip(family);
            let address = own.map(|address| address.to_string()).unwrap_or_else(|| "none".to_owned());
            (
                "NoPrivateInterface",
                format!(
                    "no interface has the internal address ({address}) and there is no default route: the other \
                     nodes of the location cannot be reached; set the annotation kilo.squat.ai/force-internal-ip"
                ),
            )
        })
    }
}

impl Hop {
    fn route(&self, table: u32, destination: IpNet) -> Route {
        let Self { via, link, source } = self;
        Route { table, destination, via: Some(*via), link: link.clone(), source: *source }
    }
}

fn no_address(node: &Node, family: Family) -> (&'static str, String) {
    let version = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    (
        "NoNextHop",
        format!(
            "node {} of this location has no internal {version} address, so its {version} pods cannot be reached; \
             give it one, or use --encapsulate=always, which carries IPv6 over IPv4",
            node.name
        ),
    )
}

/// The IPv4-compatible address `::a.b.c.d` by which a `sit` device without a remote is told the outer destination
/// (`ipip6_tunnel_xmit` in net/ipv6/sit.c).
fn embed(outer: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(outer.to_bits()))
}
