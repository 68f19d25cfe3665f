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
};
use crate::{ADDON_TABLE, KILO_TABLE, LinkName, Route, Rule};

/// The priorities of our policy rules: before the main table (32766), after the local one (0; 100 where Cilium has moved
/// it). They are the numbers of the tables, which hold nothing in common.
const fn priority(table: u32) -> u32 {
    table
}

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
                self.routes_inside(Family::of_prefix(subnet), &[subnet.trunc()], node);
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
        self.encapsulation_rules();
    }

    /// Routes to destinations of one family with a node of the location as the next hop.
    pub(super) fn routes_inside(&mut self, family: Family, destinations: &[IpNet], gateway: &Node) {
        if destinations.is_empty() {
            return;
        }
        match self.hop(family, gateway) {
            Ok(hop) => {
                for destination in destinations {
                    let table = self.table(destination);
                    self.routes.push(hop.route(table, *destination));
                }
            }
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
        for family in self.families_in(KILO_TABLE) {
            let rule = |from, iif| Rule {
                priority: priority(KILO_TABLE),
                from,
                to: None,
                iif,
                table: KILO_TABLE,
                family,
            };
            // What another CNI's pods send inside of the location is not ours.
            if self.config.local_routes_by == Responsible::Kilo {
                let pods = self.perspective.node.pod_subnets.iter();
                let pods = pods.filter(|net| Family::of_prefix(net) == family);
                self.state.rules.extend(pods.map(|net| rule(Some(net.trunc()), None)));
            }
            if self.perspective.role == Role::Leader {
                self.state.rules.insert(rule(None, Some(self.config.interface.clone())));
            }
        }
    }

    /// All packets look into the table of routes to which another CNI has some as well, before that one's.
    pub(super) fn addon_rules(&mut self) {
        let table = ADDON_TABLE;
        let rule =
            |family| Rule { priority: priority(table), from: None, to: None, iif: None, table, family };
        let rules: Vec<_> = self.families_in(table).into_iter().map(rule).collect();
        self.state.rules.extend(rules);
    }

    /// The families that have routes in a table.
    fn families_in(&self, table: u32) -> Vec<Family> {
        let used = |family: &Family| {
            let mut routes = self.routes.iter().filter(|route| route.table == table);
            routes.any(|route| Family::of_prefix(&route.destination) == *family)
        };
        Family::ALL.into_iter().filter(used).collect()
    }

    /// The kernel refuses a route whose next hop is an address of the host itself.
    pub(super) fn other_than_own(&self, via: IpAddr, node: &Node) -> Result<(), NoHop> {
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

    pub(super) fn encapsulates(&self, node: &Node) -> bool {
        match self.config.encapsulation {
            Encapsulation::Never => false,
            Encapsulation::Always => true,
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
