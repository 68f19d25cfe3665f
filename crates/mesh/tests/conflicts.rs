//! Objects that claim what others claim: who keeps it, and what is said about it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::iter::repeat_n;

use std::sync::Arc;

use mesh::{Granularity, Node, Peer, PublicKey, Topology, TopologyConfig};

/// `n1 key=1 location=a pods=10.2.1.0/24 internal=10.1.0.1/24 location-ips=10.9.0.0/16`: lists are joined by commas.
/// With `pods-later` the node takes part without pods.
fn node(text: &str) -> Arc<Node> {
    let mut words = text.split(' ');
    let mut node = Node::named(words.next().unwrap());
    node.endpoint = "203.0.113.1:51820".parse().ok();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let nets = || value.split(',').map(|net| net.parse().unwrap()).collect();
        match name {
            "key" => node.key = Some(key(value)),
            "location" => node.location = value.to_owned(),
            "pods" => node.pod_subnets = nets(),
            "pods-later" => node.joins_without_pods = true,
            "internal" => node.internal_ips = nets(),
            "location-ips" => node.allowed_location_ips = nets(),
            other => panic!("{other:?}"),
        }
    }
    Arc::new(node)
}

/// `p1 key=1 10.5.0.1/32,10.5.0.2/32`.
fn peer(text: &str) -> Peer {
    let words: Vec<_> = text.split(' ').collect();
    Peer {
        name: words[0].to_owned(),
        key: key(words[1].strip_prefix("key=").unwrap()),
        allowed_ips: words[2].split(',').map(|net| net.parse().unwrap()).collect(),
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    }
}

fn key(seed: &str) -> PublicKey {
    PublicKey::from_bytes([seed.parse().unwrap(); 32]).unwrap()
}

/// Segments and peers with everything they are sent, then the problems.
fn check(subnet: &str, nodes: &[&str], peers: &[&str], expected: &[&str]) {
    let config = TopologyConfig { granularity: Granularity::Location, subnets: subnet.parse().unwrap() };
    let topology =
        Topology::new(config, nodes.iter().map(|text| node(text)), peers.iter().map(|text| peer(text)));
    let join = |ips: Vec<String>| ips.join(" ");
    let segments = topology.segments.iter().map(|segment| {
        format!("{}: {}", segment.name, join(segment.all_allowed_ips().map(ToString::to_string).collect()))
    });
    let peers = topology.peers.iter().map(|peer| {
        format!("peer {}: {}", peer.name, join(peer.allowed_ips.iter().map(ToString::to_string).collect()))
    });
    // One that stands for several is written as often.
    let problems = topology.problems.iter().flat_map(|problem| {
        repeat_n(format!("{} on {}", problem.reason, problem.object), 1 + problem.further)
    });
    assert_eq!(segments.chain(peers).chain(problems).collect::<Vec<_>>(), expected);
}

const SUBNET: &str = "10.4.0.0/16";
const N1: &str = "n1 key=1 location=a pods=10.2.1.0/24 internal=10.1.0.1/24";

#[test]
fn a_key_of_two_nodes_belongs_to_the_first() {
    check(
        SUBNET,
        &["n2 key=1 location=b pods=10.2.2.0/24 internal=10.1.0.2/24", N1],
        &[],
        &["location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32", "DuplicateKey on node n2"],
    );
}

#[test]
fn a_key_of_a_peer_belongs_to_the_node_or_the_first_peer() {
    check(
        SUBNET,
        &[N1],
        &["p3 key=7 10.5.0.3/32", "p2 key=7 10.5.0.2/32", "p1 key=1 10.5.0.1/32"],
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "peer p2: 10.5.0.2/32",
            "DuplicateKey on peer p1",
            "DuplicateKey on peer p3",
        ],
    );
}

#[test]
fn pod_subnets_that_overlap_belong_to_the_first_node() {
    check(
        SUBNET,
        &[
            N1,
            "n2 key=2 location=b pods=10.2.0.0/16,fd00:2::/64 internal=10.1.0.2/24",
            "n3 key=3 location=c pods=10.2.1.128/25 internal=10.1.0.3/24",
        ],
        &[],
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "location:b: fd00:2::/64 10.1.0.2/32 10.4.0.2/32",
            "OverlappingPodSubnet on node n2",
            "OverlappingPodSubnet on node n3",
        ],
    );
}

#[test]
fn pod_subnets_of_one_node_do_not_overlap_either() {
    check(
        SUBNET,
        &["n1 key=1 location=a pods=10.2.0.0/16,10.2.1.0/24", "n2 key=2 location=a pods=10.2.5.0/24"],
        &[],
        &[
            "node:n1: 10.2.0.0/16 10.4.0.1/32",
            "OverlappingPodSubnet on node n1",
            "OverlappingPodSubnet on node n2",
        ],
    );
}

#[test]
fn an_internal_address_of_two_locations_belongs_to_the_first() {
    check(
        SUBNET,
        &[N1, "n2 key=2 location=b pods=10.2.2.0/24 internal=10.1.0.1/24"],
        &[],
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "location:b: 10.2.2.0/24 10.4.0.2/32",
            "DuplicateAddress on node n2",
        ],
    );
}

#[test]
fn an_internal_address_of_two_nodes_of_a_location_is_said() {
    check(
        SUBNET,
        &[N1, "n2 key=2 location=a pods=10.2.2.0/24 internal=10.1.0.1/24"],
        &[],
        &["location:a: 10.2.1.0/24 10.1.0.1/32 10.2.2.0/24 10.4.0.1/32", "DuplicateAddress on node n2"],
    );
}

/// A /30 has addresses for two segments.
#[test]
fn a_subnet_that_is_too_small_leaves_the_last_segments_out() {
    check(
        "10.4.0.0/30",
        &[
            "n1 key=1 pods=10.2.1.0/24",
            "n2 key=2 pods=10.2.2.0/24",
            "n3 key=3 pods=10.2.3.0/24",
            "n4 key=4 pods=10.2.4.0/24",
        ],
        &["p1 key=9 10.5.0.1/32"],
        &[
            "node:n1: 10.2.1.0/24 10.4.0.1/32",
            "node:n2: 10.2.2.0/24 10.4.0.2/32",
            "peer p1: 10.5.0.1/32",
            "SubnetExhausted on the mesh",
        ],
    );
}

#[test]
fn a_peer_gets_nothing_that_a_node_has() {
    check(
        SUBNET,
        &[N1],
        &["p1 key=9 10.2.1.0/24,10.5.0.1/32", "p2 key=8 10.5.0.1/32,10.5.0.2/32"],
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "peer p1: 10.5.0.1/32",
            "peer p2: 10.5.0.2/32",
            "OverlappingAllowedIP on peer p2",
            "OverlappingAllowedIP on peer p1",
        ],
    );
}

/// Two clusters that were linked although they have the same ranges: nothing is taken away, and both sides are named.
#[test]
fn ranges_inside_of_each_other_stay_and_are_told() {
    let peers = ["d1 key=9 10.2.0.0/16,10.6.0.0/16,10.4.0.9/32", "e1 key=8 10.6.1.0/24,10.2.1.7/32"];
    check(
        SUBNET,
        &[N1, "n2 key=2 location=b pods=10.2.2.0/24 internal=10.1.0.2/24"],
        &peers,
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "location:b: 10.2.2.0/24 10.1.0.2/32 10.4.0.2/32",
            "peer d1: 10.2.0.0/16 10.6.0.0/16 10.4.0.9/32",
            "peer e1: 10.6.1.0/24 10.2.1.7/32",
            "OverlappingAllowedIP on peer d1",
            "OverlappingAllowedIP on peer d1",
            "OverlappingAllowedIP on peer e1",
            "OverlappingAllowedIP on peer e1",
        ],
    );
    let config = TopologyConfig { granularity: Granularity::Full, subnets: SUBNET.parse().unwrap() };
    let equal = "f1 key=7 10.2.1.0/24,10.4.0.1/32,10.6.1.0/24";
    let peers = peers.into_iter().chain([equal]).map(peer);
    let nodes = [node(N1), node("n2 key=2 pods=10.2.2.0/24 internal=10.1.0.2/24")];
    let said = Topology::new(config, nodes, peers).problems;
    let said: Vec<_> = said.iter().map(ToString::to_string).collect();
    let narrower = "; what both hold belongs to the narrower one, and is not reached at the other";
    let expected = [
        "peer f1: the allowed IP 10.6.1.0/24 belongs to peer e1 and is left out, and 2 more like it"
            .to_owned(),
        format!(
            "peer d1: the allowed IP 10.2.0.0/16 overlaps the pod subnet 10.2.1.0/24 of node n1, and 1 \
             more{narrower}, and 1 more like it"
        ),
        format!(
            "peer e1: the allowed IP 10.6.1.0/24 overlaps the allowed IP 10.6.0.0/16 of peer d1{narrower}, and 1 \
             more like it"
        ),
    ];
    assert_eq!(said, expected.map(|text| format!("{text} (OverlappingAllowedIP)")));
}

#[test]
fn location_ips_take_nothing_away() {
    check(
        SUBNET,
        &[
            "n1 key=1 location=a pods=10.2.1.0/24 internal=10.1.0.1/24 location-ips=10.9.0.0/16,10.5.0.0/24",
            "n2 key=2 location=b pods=10.2.2.0/24 internal=10.1.0.2/24 location-ips=10.9.1.0/24,10.2.1.7/32",
        ],
        &["p1 key=9 10.5.0.1/32"],
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "location:b: 10.2.2.0/24 10.1.0.2/32 10.4.0.2/32 10.9.1.0/24",
            "peer p1: 10.5.0.1/32",
            "OverlappingLocationIP on node n1",
            "OverlappingLocationIP on node n1",
            "OverlappingLocationIP on node n2",
        ],
    );
}

/// Agents that have not started yet are no problem of anyone.
#[test]
fn a_node_that_lacks_something_is_passed_over() {
    check(
        SUBNET,
        &[N1, "n2 location=a pods=10.2.2.0/24", "n3 key=3 location=a"],
        &[],
        &["location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32"],
    );
}

/// What gives nodes their pod subnets may need the mesh to do so.
#[test]
fn a_node_whose_pods_come_later_takes_part_without() {
    check(
        SUBNET,
        &[
            N1,
            "n2 key=2 location=b internal=10.1.0.2/24 pods-later",
            "n3 key=3 location=c internal=10.1.0.3/24 pods-later pods=10.2.1.64/26",
            "n4 key=4 pods-later",
        ],
        &["p1 key=9 10.5.0.1/32"],
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "location:b: 10.1.0.2/32 10.4.0.2/32",
            "location:c: 10.1.0.3/32 10.4.0.3/32",
            "node:n4: 10.4.0.4/32",
            "peer p1: 10.5.0.1/32",
            "OverlappingPodSubnet on node n3",
        ],
    );
}
