//! The way from pods to leaders that are reached where their tunnels end: a leader whose internal address is its endpoint.
//!
//! The host's own packets to such an address take the host's own way, as those of the tunnel do. A pod's packets cannot:
//! networks that filter sources drop them, and what the leader sends to the pod comes through the tunnel. So they have a
//! table that only packets from pods look into.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh::{
    Role,
    overlap::Covers,
    prefix::{self, Family},
};

use super::{Renderer, Responsible};
use crate::{LEADER_TABLE, NextHop, Route, Rule};

/// Every rule costs each packet of the host a comparison, so a leader of a large location has no more than these per family
/// where its pods lie close together.
const MOST_RULES: usize = 16;

impl Renderer<'_> {
    /// Routes to leaders' addresses, for pods.
    pub(super) fn routes_to_leaders(&mut self) {
        let ends = self.guarded.tunnel_ends();
        if self.perspective.role == Role::Leader {
            let link = &self.config.interface;
            let route = |destination| Route {
                table: LEADER_TABLE,
                destination,
                next_hop: NextHop::Destination,
                link: link.clone(),
                source: None,
            };
            self.routes.extend(ends.into_iter().map(route));
            return;
        }
        let leader = self.perspective.segment().leader();
        for family in Family::ALL {
            let of_family = |net: &&IpNet| Family::of_prefix(net) == family;
            let destinations: Vec<IpNet> = ends.iter().filter(of_family).copied().collect();
            self.routes_inside(LEADER_TABLE, family, &destinations, leader);
        }
    }

    /// The rules by which packets from pods find these routes: on a member its own pods', on a leader those of its location.
    pub(super) fn leader_rules(&mut self, priority: u32, family: Family) {
        let of_family = |net: &IpNet| Family::of_prefix(net) == family;
        let own = self.perspective.node.pod_subnets.iter().map(IpNet::trunc).filter(of_family);
        let pods = match self.perspective.role {
            Role::Member => own.collect(),
            Role::Leader => {
                let nodes = self.perspective.segment().nodes.iter();
                let others = nodes.flat_map(|node| &node.pod_subnets).map(IpNet::trunc).filter(of_family);
                let others = others.flat_map(|net| self.guarded.meshed(net));
                let pods: BTreeSet<IpNet> = own.chain(others).collect();
                let mut sources = condense(&pods, &Covers::of(self.no_pods(&pods)));
                sources.extend(self.members_that_masquerade(family));
                sources
            }
        };
        let rule = |net| Rule { from: Some(net), ..Rule::all(priority, LEADER_TABLE, family) };
        self.state.rules.extend(pods.into_iter().map(rule));
    }

    /// The addresses of members, where somebody else takes care of what pods send out of the cluster: that may come with the
    /// member's own address, after the member has chosen the way through this leader. Nobody makes an address of this host one of them,
    /// or its tunnels would go through themselves.
    fn members_that_masquerade(&self, family: Family) -> BTreeSet<IpNet> {
        if self.config.pod_nat_by == Responsible::Kilo {
            return BTreeSet::new();
        }
        let own = self.perspective.node;
        let interfaces = self.facts.interfaces.values().flat_map(|link| &link.addresses);
        let hosts = interfaces.chain(&own.internal_ips).map(IpNet::addr);
        let gateways = self.facts.routes.iter().filter_map(|route| route.gateway);
        let others: BTreeSet<IpNet> = hosts.chain(gateways).map(prefix::host).collect();
        let members = self.perspective.segment().nodes.iter().filter(|node| node.name != own.name);
        let members = members.flat_map(|node| &node.internal_ips).map(|net| prefix::host(net.addr()));
        let is_member = |net: &IpNet| Family::of_prefix(net) == family && !others.contains(net);
        let members: BTreeSet<IpNet> = members.filter(is_member).collect();
        condense(&members, &Covers::of(others.iter().copied().chain(self.no_pods(&members))))
    }

    /// Everything known to be in use that is not in these pod subnets.
    fn no_pods(&self, pods: &BTreeSet<IpNet>) -> impl Iterator<Item = IpNet> {
        let topology = self.perspective.topology;
        let pods = Covers::of(pods.iter().copied());
        let interfaces = self.facts.interfaces.values().flat_map(|link| &link.addresses).copied();
        let routes = self.facts.routes.iter().map(|route| route.destination);
        let routes = routes.filter(|net| net.prefix_len() > 0);
        let nodes = topology.nodes().flat_map(|node| &node.internal_ips).map(|net| prefix::host(net.addr()));
        let written = topology.segments.iter().flat_map(|segment| &segment.allowed_location_ips);
        let written = written.chain(topology.peers.iter().flat_map(|peer| &peer.allowed_ips));
        let cluster = topology.config.subnets.iter().chain(&topology.config.services);
        let cluster = cluster.chain(&self.config.service_cidrs);
        let all = interfaces.chain(routes).chain(nodes).chain(written.chain(cluster).copied());
        all.map(|net| net.trunc()).filter(move |net| !pods.overlaps(net))
    }
}

/// Few prefixes that hold all of these: wider ones where there are many, as long as they hold nothing foreign.
fn condense(nets: &BTreeSet<IpNet>, foreign: &Covers) -> BTreeSet<IpNet> {
    let exact: BTreeSet<IpNet> =
        IpNet::aggregate(&nets.iter().copied().collect()).into_iter().map(|net| net.trunc()).collect();
    let wider = |length: u8| {
        let widen = |net: &IpNet| {
            let wider = IpNet::new(net.addr(), length.min(net.prefix_len())).map_or(*net, |net| net.trunc());
            if foreign.overlaps(&wider) { *net } else { wider }
        };
        exact.iter().map(widen).collect::<BTreeSet<IpNet>>()
    };
    let longest = exact.iter().map(IpNet::prefix_len).max().unwrap_or_default();
    let shortest = exact.first().map_or(0, |net| prefix::WIDE[Family::of_prefix(net) as usize]);
    let mut fewest = exact.clone();
    for length in (shortest..longest).rev() {
        if fewest.len() <= MOST_RULES {
            break;
        }
        let nets = wider(length);
        if nets.len() < fewest.len() {
            fewest = nets;
        }
    }
    fewest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(text: &str) -> BTreeSet<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    fn check(pods: &str, foreign: &str, expected: &str) {
        let foreign = Covers::of(nets(foreign).into_iter());
        assert_eq!(condense(&nets(pods), &foreign), nets(expected), "{pods}");
    }

    #[test]
    fn few_stay_as_they_are_and_many_become_wider() {
        check("", "", "");
        check("10.42.0.0/24 10.42.1.0/24 10.42.7.0/24", "", "10.42.0.0/23 10.42.7.0/24");
        let every_other: String = (0..100).map(|index| format!("10.42.{}.0/24 ", 2 * index)).collect();
        let wider: String = (0..13).map(|index| format!("10.42.{}.0/20 ", 16 * index)).collect();
        check(&every_other, "", &wider);
        let kept: BTreeSet<IpNet> =
            condense(&nets(&every_other), &Covers::of(nets("10.42.33.7/32").into_iter()));
        assert!(
            kept.contains(&"10.42.34.0/24".parse().unwrap())
                && !kept
                    .iter()
                    .any(|net| { net.contains(&"10.42.33.7".parse::<std::net::IpAddr>().unwrap()) }),
            "{kept:?}"
        );
    }

    proptest! {
        #[test]
        fn all_pods_and_nothing_foreign(
            pods in prop::collection::btree_set(0u32..4096, 0..200),
            foreign in prop::collection::btree_set(0u32..4096, 0..20),
        ) {
            let net = |index: &u32| IpNet::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + index * 256).into(), 24).unwrap();
            let foreign: BTreeSet<IpNet> = foreign.difference(&pods).map(net).collect();
            let pods: BTreeSet<IpNet> = pods.iter().map(net).collect();
            let condensed = condense(&pods, &Covers::of(foreign.iter().copied()));
            prop_assert!(pods.iter().all(|pod| condensed.iter().any(|wide| wide.contains(pod))));
            prop_assert!(!foreign.iter().any(|net| condensed.iter().any(|wide| wide.contains(net))));
            prop_assert!(!foreign.is_empty() || condensed.len() <= MOST_RULES, "{condensed:?}");
        }
    }
}
