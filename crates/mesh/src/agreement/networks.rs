//! Nodes that are in one location and probably not in one network.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv6Net};

use crate::{
    Node, Object, Problem, Problems, Segment, SegmentName,
    prefix::{self, Family, private_block},
};

/// Whether the first node, with its network, is reached from the second.
pub type Reaches<'a> = dyn Fn(&Node, &IpNet, &Node, &IpNet) -> bool + 'a;

/// Names the nodes whose internal address is in another block of private addresses than those of most of their location,
/// and not known to be reached. `reaches` says whether the first node is known to be reached from the network of the second;
/// `None`: nothing is known of routes here.
///
/// Different networks in one block are the subnets of one site more often than not: nothing is said of them.
pub fn apart<'a>(segments: impl Iterator<Item = &'a Segment>, reaches: Option<&Reaches<'_>>) -> Vec<Problem> {
    let mut problems = Problems::default();
    for segment in segments.filter(|segment| matches!(segment.name, SegmentName::Location(_))) {
        for family in Family::ALL {
            let mut blocks: BTreeMap<IpNet, Vec<(&Node, IpNet)>> = BTreeMap::new();
            for node in &segment.nodes {
                if let Some((net, block)) =
                    node.internal_net(family).and_then(|net| Some((net, block(&net)?)))
                {
                    blocks.entry(block).or_default().push((node, net));
                }
            }
            judge(&blocks, reaches, &mut problems);
        }
    }
    problems.into()
}

fn judge(
    blocks: &BTreeMap<IpNet, Vec<(&Node, IpNet)>>,
    reaches: Option<&Reaches<'_>>,
    problems: &mut Problems,
) {
    let most = blocks.values().map(Vec::len).max().unwrap_or_default();
    let mut largest = blocks.iter().filter(|(_, nodes)| nodes.len() == most);
    let (Some((home, nodes)), rival) = (largest.next(), largest.next()) else { return };
    for (block, others) in blocks {
        // Where two are as large, each is compared with the other.
        let (nodes, how_many) = match rival {
            Some((_, rivals)) if block == home => (rivals, "others"),
            Some(_) => (nodes, "others"),
            None => (nodes, "most nodes"),
        };
        let (near, net) = nodes[0];
        let same = rival.is_none() && block == home;
        let apart = others
            .iter()
            .filter(|(node, own)| !same && !reaches.is_some_and(|reaches| reaches(node, own, near, &net)));
        problems.extend(apart.map(|(node, own)| {
            let advice = match reaches {
                Some(_) => {
                    "and no route between the two is known, so they probably do not reach each other; give it a location of \
                     its own with the annotation kilo.squat.ai/location or, if a router connects the networks, the nodes a \
                     route through it"
                }
                None => {
                    "so they may not reach each other; unless a router connects the networks, which the agents see and this \
                     program does not, give it a location of its own with the annotation kilo.squat.ai/location"
                }
            };
            let message = format!(
                "its internal address {own} is in another private network than those of {how_many} of its location, \
                 such as {net} of node {}, {advice}",
                near.name
            );
            Problem::new(Object::Node(node.name.clone()), "OtherNetwork", message)
        }));
    }
}

/// Which private addresses an address is one of: the same that a site has everywhere. Of IPv6 the site has 48 bits
/// (RFC 4193, section 3.2). A public address is reached from anywhere.
fn block(net: &IpNet) -> Option<IpNet> {
    match net {
        IpNet::V6(v6) if prefix::is_private(net) => Some(Ipv6Net::new(v6.addr(), 48).ok()?.trunc().into()),
        _ => private_block(net),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Endpoint, Granularity, PublicKey, Topology, TopologyConfig};

    fn check(nodes: &[(&str, &str)], reached: &str, expected: &[&str]) {
        let nodes = nodes.iter().zip(1..).map(|((name, addresses), number)| {
            Arc::new(Node {
                key: PublicKey::from_bytes([number; 32]).ok(),
                endpoint: Some(Endpoint::from_ip("203.0.113.1".parse().unwrap(), 1)),
                pod_subnets: vec![format!("10.200.{number}.0/24").parse().unwrap()],
                internal_ips: addresses.split_whitespace().map(|text| text.parse().unwrap()).collect(),
                ..Node::named(*name)
            })
        });
        let config = TopologyConfig {
            granularity: Granularity::Location,
            subnets: Default::default(),
            services: Vec::new(),
        };
        let topology = Topology::new(config, nodes, []);
        let problems = apart(topology.segments.iter(), Some(&|node, _, _, _| node.name == reached));
        let found: Vec<String> = problems.iter().map(|problem| problem.object.to_string()).collect();
        assert_eq!(found, expected, "{problems:?}");
        // Who knows no routes advises none.
        let outside = apart(topology.segments.iter(), None);
        assert!(outside.len() >= problems.len());
        assert!(outside.iter().all(|problem| !problem.message.contains("no route")), "{outside:?}");
    }

    #[test]
    fn another_block_is_another_network() {
        check(&[("a", "10.0.0.5/24"), ("b", "10.0.0.6/24"), ("c", "192.168.1.5/24")], "", &["node c"]);
        check(&[("a", "10.0.0.5/24"), ("b", "10.0.0.6/24"), ("c", "192.168.1.5/24")], "c", &[]);
        check(&[("a", "10.0.0.5/24"), ("c", "192.168.1.5/24")], "", &["node a", "node c"]);
        check(&[("a", "fd00:1::5/64"), ("b", "fd00:2::5/64"), ("c", "fd00:1:0:7::5/64")], "", &["node b"]);
        check(
            &[("a", "10.0.0.5/24 fd00:1::5/64"), ("b", "10.0.0.6/24 fd00:2::5/64")],
            "",
            &["node a", "node b"],
        );
    }

    #[test]
    fn subnets_of_one_site_are_nothing_to_suspect() {
        check(&[("a", "10.0.0.5/24"), ("b", "10.0.1.5/24"), ("c", "10.7.0.5/32")], "", &[]);
        check(&[("a", "192.168.1.5/24"), ("b", "192.168.2.5/24"), ("c", "")], "", &[]);
        check(&[("a", "10.0.0.5/24"), ("b", "10.0.0.6/24"), ("c", "203.0.113.5/24")], "", &[]);
    }
}
