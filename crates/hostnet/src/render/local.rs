//! Routes inside of a location, and the rules that lead to tables of our own. What carries the packets is decided in
//! [`super::carrier`].

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{
    Node, Role,
    prefix::{self, Family},
};

use super::{
    Encapsulation, Renderer, Responsible,
    carrier::{Hop, NoHop},
    own::Own,
    priority,
};
use crate::{KILO_TABLE, LEADER_TABLE, Lifeline, LinkName, MESH_TABLE, Route, Rule};

/// The lower of the priorities of our policy rules, where nothing of the host is before it: the next is the other one.
const PRIORITY: u32 = KILO_TABLE;

impl Renderer<'_> {
    /// Routes to the pods of the other nodes of the location and, when packets are encapsulated, pod traffic to the
    /// nodes themselves through the tunnel: a cloud network would drop a packet that a pod's address sends.
    pub(super) fn routes_inside_location(&mut self) {
        let own = self.perspective.node;
        if own.internal_ips.is_empty() {
            return;
        }
        let local = self.config.local_routes_by == Responsible::Kilo;
        let leads = self.perspective.role == Role::Leader;
        for node in &self.perspective.segment().nodes {
            if node.name == own.name {
                continue;
            }
            for subnet in node.pod_subnets.iter().filter(|_| local) {
                let routed: Vec<IpNet> = self.guarded.routed(subnet.trunc()).collect();
                self.routes_inside(MESH_TABLE, Family::of_prefix(subnet), &routed, node);
            }
            if leads {
                self.receive_from(node);
            }
            // Where a member reaches its leader through another CNI's network, the answers go back through it too.
            if local || (leads && self.is_overlaid(node)) {
                for net in &node.internal_ips {
                    self.encapsulated_route_to(node, net.addr());
                }
            }
        }
    }

    /// Routes to destinations of one family with a node of the location as the next hop.
    pub(super) fn routes_inside(
        &mut self,
        table: u32,
        family: Family,
        destinations: &[IpNet],
        gateway: &Node,
    ) {
        if destinations.is_empty() {
            return;
        }
        match self.hop(family, gateway) {
            Ok(hop) => {
                self.routes.extend(destinations.iter().map(|net| hop.route(table, *net)));
            }
            Err((reason, message)) => self.problem(reason, message),
        }
    }

    /// In the table for encapsulated traffic: the way to a node's internal address.
    fn encapsulated_route_to(&mut self, node: &Node, address: IpAddr) {
        let family = Family::of(address);
        // Who says that the gateway's or a name server's address is his does not get what pods send there.
        let gateway = self.facts.routes.iter().any(|route| route.gateway == Some(address));
        let taken = gateway || self.input.lifelines.get(&address) == Some(&Lifeline::NameServer);
        if !self.encapsulates(node) || taken || !self.guarded.is_near(prefix::host(address)) {
            return;
        }
        if let Ok(hop) = self.hop(family, node) {
            self.routes.push(hop.route(KILO_TABLE, prefix::host(address)));
        }
    }

    /// Which packets look into our tables.
    pub(super) fn rules(&mut self) {
        for family in Family::ALL {
            let first = self.first_priority(family);
            if self.has_routes(KILO_TABLE, family) {
                self.encapsulation_rules(first, family);
            }
            if self.has_routes(LEADER_TABLE, family) {
                self.leader_rules(first, family);
            }
            if self.has_routes(MESH_TABLE, family) {
                self.state.rules.insert(priority::rule(first + 1, MESH_TABLE, family, self.config.marks));
            }
        }
    }

    fn first_priority(&mut self, family: Family) -> u32 {
        priority::before_others(self.facts, family, PRIORITY, 2).unwrap_or_else(|message| {
            self.problem("RuleBeforeOurs", message);
            PRIORITY
        })
    }

    /// What looks into the table for encapsulated traffic: packets of own pods, and what comes out of tunnels. The table
    /// holds nothing but internal addresses of the location; everything else goes on to the next.
    fn encapsulation_rules(&mut self, priority: u32, family: Family) {
        let all = Rule::all(priority, KILO_TABLE, family);
        // What another CNI's pods send inside of the location is not ours.
        if self.config.local_routes_by == Responsible::Kilo {
            let pods = self.perspective.node.pod_subnets.iter();
            let pods = pods.filter(|net| Family::of_prefix(net) == family);
            self.state.rules.extend(pods.map(|net| Rule { from: Some(net.trunc()), ..all.clone() }));
        }
        if self.perspective.role == Role::Leader {
            self.state.rules.insert(Rule { iif: Some(self.config.interface.clone()), ..all });
        }
    }

    fn has_routes(&self, table: u32, family: Family) -> bool {
        let mut routes = self.routes.iter().filter(|route| route.table == table);
        routes.any(|route| Family::of_prefix(&route.destination) == family)
    }

    /// The kernel refuses a route whose next hop is an address of the host itself, or a broadcast address.
    pub(super) fn other_than_own(&self, via: IpAddr, node: &Node) -> Result<(), NoHop> {
        let own = self.perspective.node;
        let what = match self.own.get(&via) {
            _ if own.internal_ips.iter().any(|net| net.addr() == via) => {
                format!("has the same internal address {via} as this node")
            }
            Some(Own::Address) => format!("is to be reached at {via}, which is an address of this host"),
            Some(Own::Broadcast(net)) => {
                format!("is to be reached at {via}, which is no host's in the network {net} of this host")
            }
            None => return Ok(()),
        };
        Err((
            "DuplicateAddress",
            format!(
                "node {} {what}, so its pods cannot be reached; give one of them another address or the annotation \
                 kilo.squat.ai/force-internal-ip",
                node.name
            ),
        ))
    }

    pub(super) fn encapsulates(&self, node: &Node) -> bool {
        match self.config.encapsulation {
            Encapsulation::Never => false,
            Encapsulation::Always => !self.goes_bare(node),
            Encapsulation::CrossSubnet => {
                let both = |family| {
                    let own = self.perspective.node.internal_net(family)?;
                    Some((own, node.internal_ip(family)?))
                };
                let nets = Family::ALL.into_iter().find_map(both);
                nets.is_some_and(|(own, other)| !own.contains(&other))
            }
        }
    }

    pub(super) fn private_link(&self, family: Family) -> Result<LinkName, NoHop> {
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
        let Self { next_hop, link, source } = self;
        Route { table, destination, next_hop: *next_hop, link: link.clone(), source: *source }
    }
}
