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
            "created" => node.created = value.parse().unwrap(),
            "endpoint" => node.endpoint = value.parse().ok(),
            "forced" => node.internal_ips_forced = true,
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

/// `p1 key=1 10.5.0.1/32,10.5.0.2/32`, perhaps with `created=1` and `changed` at the end.
fn peer(text: &str) -> Peer {
    let words: Vec<_> = text.split(' ').collect();
    let created = words.get(3).and_then(|word| word.strip_prefix("created=")?.parse().ok());
    Peer {
        name: words[0].to_owned(),
        created: created.unwrap_or(0),
        changed: words.contains(&"changed"),
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
    check_with_services(subnet, "", nodes, peers, expected);
}

fn check_with_services(subnet: &str, services: &str, nodes: &[&str], peers: &[&str], expected: &[&str]) {
    let services = services.split_whitespace().map(|net| net.parse().unwrap()).collect();
    let config =
        TopologyConfig { granularity: Granularity::Location, subnets: subnet.parse().unwrap(), services };
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

/// Two clusters that were linked although they have the same ranges: no node loses its pods, and both sides are named.
#[test]
fn what_a_peer_has_around_nodes_stays_and_what_it_has_inside_of_them_does_not() {
    let peers = ["d1 key=9 10.2.0.0/16,10.6.0.0/16,10.4.0.9/32", "e1 key=8 10.6.1.0/24,10.2.1.7/32"];
    check(
        SUBNET,
        &[N1, "n2 key=2 location=b pods=10.2.2.0/24 internal=10.1.0.2/24"],
        &peers,
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "location:b: 10.2.2.0/24 10.1.0.2/32 10.4.0.2/32",
            "peer d1: 10.2.0.0/16 10.6.0.0/16 10.4.0.9/32",
            "peer e1: 10.6.1.0/24",
            "OverlappingAllowedIP on peer e1",
            "OverlappingAllowedIP on peer e1",
            "OverlappingAllowedIP on peer d1",
            "OverlappingAllowedIP on peer d1",
        ],
    );
    let config = TopologyConfig {
        granularity: Granularity::Full,
        subnets: SUBNET.parse().unwrap(),
        services: Vec::new(),
    };
    let equal = "f1 key=7 10.2.1.0/24,10.4.0.1/32,10.6.1.0/24";
    let peers = peers.into_iter().chain([equal]).map(peer);
    let nodes = [node(N1), node("n2 key=2 pods=10.2.2.0/24 internal=10.1.0.2/24")];
    let said = Topology::new(config, nodes, peers).problems;
    let said: Vec<_> = said.iter().map(ToString::to_string).collect();
    let narrower = "; what both hold belongs to the narrower one, and is not reached at the other";
    let expected = [
        "peer f1: the allowed IP 10.6.1.0/24 belongs to peer e1 and is left out; the allowed IP 10.2.1.0/24 belongs to \
         node n1 of node:n1 and is left out; the allowed IP 10.4.0.1/32 belongs to node:n1 and is left out"
            .to_owned(),
        format!(
            "peer e1: the allowed IP 10.2.1.7/32 lies in the pod subnet 10.2.1.0/24 of node n1 and is left out; the \
             allowed IP 10.6.1.0/24 overlaps the allowed IP 10.6.0.0/16 of peer d1{narrower}"
        ),
        format!(
            "peer d1: the allowed IP 10.2.0.0/16 overlaps the pod subnet 10.2.1.0/24 of node n1, and 1 \
             more{narrower}; the allowed IP 10.4.0.9/32 overlaps the WireGuard subnet 10.4.0.0/16 of the \
             mesh{narrower}"
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
            "OverlappingLocationIP on node n2",
            "OverlappingLocationIP on node n1",
            "OverlappingLocationIP on node n1",
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

/// The victim is `n1`; whoever takes something from it is younger, and comes first by name.
#[test]
fn the_older_node_keeps_what_a_younger_one_claims() {
    let victim =
        "n1 key=1 location=b pods=10.2.1.0/24 internal=10.1.0.1/24 location-ips=10.9.0.0/16 created=100";
    let kept = "location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.2/32 10.9.0.0/16";
    let thief = "location:a: 10.2.9.0/24 10.1.0.9/32 10.4.0.1/32";
    for (claim, got, problem) in [
        ("pods=10.2.9.0/24,10.2.1.0/24 internal=10.1.0.9/24", thief, "OverlappingPodSubnet"),
        ("pods=10.2.9.0/24,10.2.0.0/21 internal=10.1.0.9/24", thief, "OverlappingPodSubnet"),
        ("pods=10.2.9.0/24,10.2.1.7/32 internal=10.1.0.9/24", thief, "OverlappingPodSubnet"),
        ("pods=10.2.9.0/24 internal=10.1.0.1/24", "location:a: 10.2.9.0/24 10.4.0.1/32", "DuplicateAddress"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.9.0.0/16", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.9.3.0/24", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.0.0.0/8", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.2.1.7/32", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.1.0.1/32", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.4.0.2/32", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.4.7.0/24", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.43.0.1/32", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24 internal=10.1.0.9/24 location-ips=10.43.0.0/16", thief, "OverlappingLocationIP"),
        ("pods=10.2.9.0/24,10.43.7.0/24 internal=10.1.0.9/24", thief, "OverlappingPodSubnet"),
        ("pods=10.2.9.0/24,10.4.7.0/24 internal=10.1.0.9/24", thief, "OverlappingPodSubnet"),
    ] {
        let thief = format!("a1 key=2 location=a {claim} created=200");
        let problem = format!("{problem} on node a1");
        check_with_services(SUBNET, "10.43.0.0/16", &[&thief, victim], &[], &[got, kept, &problem]);
    }
    check(
        SUBNET,
        &["a1 key=1 location=a pods=10.2.9.0/24 internal=10.1.0.9/24 created=200", victim],
        &[],
        &["location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32 10.9.0.0/16", "DuplicateKey on node a1"],
    );
}

/// Whoever is older: pods stay with their node, and what belongs to the cluster stays with it. The node goes on to be in its
/// location.
#[test]
fn no_address_leads_to_a_node_that_is_the_pod_of_another_or_the_clusters() {
    let victim = "n1 key=1 location=b pods=10.2.1.0/24 internal=10.1.0.1/24 created=100";
    for address in ["10.2.1.7/32", "10.2.1.0/24", "10.43.0.1/16", "10.4.0.2/16", "10.4.200.1/32"] {
        let thief = format!("a1 key=2 location=a pods=10.2.9.0/24 internal={address} created=1");
        check_with_services(
            SUBNET,
            "10.43.0.0/16",
            &[&thief, victim],
            &[],
            &[
                "location:a: 10.2.9.0/24 10.4.0.1/32",
                "location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.2/32",
                "ForeignAddress on node a1",
            ],
        );
    }
    let own = "a1 key=2 location=a pods=10.2.9.0/24 internal=10.2.9.7/24 created=1";
    check(
        SUBNET,
        &[own, victim],
        &[],
        &[
            "location:a: 10.2.9.0/24 10.2.9.7/32 10.4.0.1/32",
            "location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.2/32",
        ],
    );
}

/// A location range may be wider than what nodes and the cluster have: the narrower ranges stay theirs.
#[test]
fn a_wide_location_range_stays() {
    check_with_services(
        SUBNET,
        "10.43.0.0/16",
        &["n1 key=1 location=a pods=10.2.1.0/24 internal=10.1.0.1/24 location-ips=10.0.0.0/8"],
        &[],
        &["location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32 10.0.0.0/8"],
    );
}

/// Two homes with the same addresses: each keeps its pods, its location and its addresses at home.
#[test]
fn of_two_homes_with_one_address_the_later_loses_only_that() {
    let one = "h1 key=1 location=one pods=10.2.1.0/24 internal=192.168.1.10/24 created=200";
    let two = "z2 key=2 location=two pods=10.2.2.0/24 internal=192.168.1.10/24 created=100";
    let other = "h3 key=3 location=one pods=10.2.3.0/24 internal=192.168.1.11/24 created=300";
    check(
        SUBNET,
        &[one, two, other],
        &[],
        &[
            "location:one: 10.2.1.0/24 10.2.3.0/24 192.168.1.11/32 10.4.0.1/32",
            "location:two: 10.2.2.0/24 192.168.1.10/32 10.4.0.2/32",
            "DuplicateAddress on node h1",
        ],
    );
}

#[test]
fn a_peer_gets_no_services() {
    check_with_services(
        SUBNET,
        "10.43.0.0/16 fd43::/112",
        &[N1],
        &["p1 key=9 10.43.0.10/32,fd43::a/128,10.5.0.1/32,10.32.0.0/12"],
        &[
            "location:a: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32",
            "peer p1: 10.5.0.1/32 10.32.0.0/12",
            "OverlappingAllowedIP on peer p1",
            "OverlappingAllowedIP on peer p1",
        ],
    );
}

/// What a node says of itself is less than what an operator wrote before, and more than what is written later.
#[test]
fn an_address_of_a_node_is_not_in_what_an_operator_wrote_before() {
    let owner = "n1 key=1 location=b pods=10.2.1.0/24 internal=10.1.0.1/24 location-ips=10.9.0.0/24,10.8.0.7/32 created=100";
    let peer = "p1 key=9 10.5.0.1/32,10.6.0.0/24 created=100";
    let kept = "location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.2/32 10.8.0.7/32 10.9.0.0/24";
    for (address, more, routed) in [
        ("10.5.0.1", "created=200", false),
        ("10.6.0.7", "created=200", true),
        ("10.9.0.53", "created=200", false),
        ("10.8.0.7", "created=200", false),
        ("8.8.8.8", "created=200", false),
        ("8.8.8.8", "created=1", false),
        ("2001:4860:4860::8888", "created=1", false),
        // A network that is nobody's yet, an own public address, and what an operator gave to the node.
        ("10.7.0.7", "created=200", true),
        ("203.0.113.1", "created=200", true),
        ("8.8.8.8", "created=200 forced", true),
        ("10.6.0.7", "created=200 forced", true),
        ("10.9.0.53", "created=200 forced", true),
        ("10.6.0.7", "created=1", true),
        ("10.9.0.53", "created=1", true),
    ] {
        let length = if address.contains(':') { 128 } else { 32 };
        let thief = format!("a1 key=2 location=a pods=10.2.9.0/24 internal={address}/{length} {more}");
        let (there, problem) = match routed {
            true => (format!("location:a: 10.2.9.0/24 {address}/{length} 10.4.0.1/32"), None),
            false => ("location:a: 10.2.9.0/24 10.4.0.1/32".to_owned(), Some("ForeignAddress on node a1")),
        };
        let mut expected = vec![there.as_str(), kept, "peer p1: 10.5.0.1/32 10.6.0.0/24"];
        // A Peer's range around a node's address is narrower than many, and may well be that of the node's network.
        let around = routed && address.starts_with("10.6.");
        expected.extend(problem);
        expected.extend(around.then_some("OverlappingAllowedIP on peer p1"));
        check(SUBNET, &[&thief, owner], &[peer], &expected);
    }
}

/// The nodes of a location are in its range.
#[test]
fn a_range_of_the_own_location_takes_no_address_from_its_nodes() {
    let config = TopologyConfig {
        granularity: Granularity::Full,
        subnets: SUBNET.parse().unwrap(),
        services: Vec::new(),
    };
    let nodes = [
        node("n1 key=1 location=a pods=10.2.1.0/24 internal=10.1.0.1/24 location-ips=10.1.0.0/24 created=1"),
        node("n2 key=2 location=a pods=10.2.2.0/24 internal=10.1.0.2/24 created=2"),
    ];
    let topology = Topology::new(config, nodes, []);
    assert_eq!(topology.problems, []);
    assert!(topology.segments[1].allowed_ips.contains(&"10.1.0.2/32".parse().unwrap()));
}

/// Whoever may create Peers takes no node out of the mesh, also none that comes later.
#[test]
fn a_key_belongs_to_a_node_and_not_to_a_peer_however_old() {
    for age in ["created=1", "created=100", "created=200", ""] {
        let peer = format!("p1 key=9 10.5.0.1/32 {age}");
        check(
            SUBNET,
            &["n1 key=9 location=b pods=10.2.1.0/24 internal=10.1.0.1/24 created=100"],
            &[peer.trim_end()],
            &["location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32", "DuplicateKey on peer p1"],
        );
    }
}

/// Nor the address of one, by a Peer that was changed later, a wider one, or against the operator's word.
#[test]
fn an_older_peer_takes_no_address_that_it_did_not_have_before() {
    for (peer, forced, taken) in [
        ("10.1.0.1/32 created=1", "", true),
        ("10.1.0.1/32 created=1 changed", "", false),
        ("10.1.0.1/32 created=1", " forced", false),
        ("10.1.0.1/32 created=200", "", false),
        ("10.1.0.0/24 created=1", "", false),
        ("10.1.0.0/16 created=1", "", false),
    ] {
        let config = TopologyConfig {
            granularity: Granularity::Location,
            subnets: SUBNET.parse().unwrap(),
            services: Vec::new(),
        };
        let victim = format!("n1 key=1 location=b pods=10.2.1.0/24 internal=10.1.0.1/24 created=100{forced}");
        let topology = Topology::new(config, [node(&victim)], [self::peer(&format!("p1 key=9 {peer}"))]);
        let has = topology.segments[0].allowed_ips.contains(&"10.1.0.1/32".parse().unwrap());
        assert_eq!(has, !taken, "{peer}{forced}");
    }
}

/// A location has its range before a younger Peer has it, and both have one inside of the other.
#[test]
fn a_younger_peer_takes_no_range_of_a_location() {
    let owner =
        "n1 key=1 location=b pods=10.2.1.0/24 internal=10.1.0.1/24 location-ips=10.9.0.0/16 created=100";
    let with = "location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32 10.9.0.0/16";
    let without = "location:b: 10.2.1.0/24 10.1.0.1/32 10.4.0.1/32";
    for (ip, there) in [("10.9.0.0/16", false), ("10.9.5.5/32", true), ("10.8.0.0/15", true)] {
        let peer = format!("peer p1: {ip}");
        let (kept, problem) = match there {
            true => (peer.as_str(), None),
            false => ("peer p1: ", Some("OverlappingAllowedIP on peer p1")),
        };
        let mut expected = vec![with, kept];
        expected.extend(problem);
        // One that was made before and changed since counts as younger.
        for age in ["created=200", "created=1 changed"] {
            check(SUBNET, &[owner], &[&format!("p1 key=9 {ip} {age}")], &expected);
        }
        check(
            SUBNET,
            &[owner],
            &[&format!("p1 key=9 {ip} created=100")],
            &[without, &peer, "OverlappingLocationIP on node n1"],
        );
    }
}

/// An operator helps a younger node to its address.
#[test]
fn an_address_belongs_to_the_node_that_an_operator_gave_it() {
    check(
        SUBNET,
        &[
            "n1 key=1 location=a pods=10.2.1.0/24 internal=192.168.1.10/24 created=1",
            "n2 key=2 location=b pods=10.2.2.0/24 internal=192.168.1.10/24 forced created=2",
        ],
        &[],
        &[
            "location:a: 10.2.1.0/24 10.4.0.1/32",
            "location:b: 10.2.2.0/24 192.168.1.10/32 10.4.0.2/32",
            "DuplicateAddress on node n1",
        ],
    );
}

#[test]
fn of_too_many_allowed_ips_the_older_peers_keep_theirs() {
    let config = TopologyConfig {
        granularity: Granularity::Location,
        subnets: SUBNET.parse().unwrap(),
        services: Vec::new(),
    };
    let flood = |number: u32| {
        let addresses = (0..4096).map(|host| std::net::Ipv4Addr::from((100 << 24) + (number << 12) + host));
        let mut peer = peer(&format!("a{number} key={} 10.5.0.1/32 created=200", 100 + number));
        peer.allowed_ips = addresses.map(|address| mesh::prefix::host(address.into())).collect();
        peer
    };
    let peers = (0..30).map(flood).chain([peer("z1 key=9 10.6.0.1/32 created=100")]);
    let topology = Topology::new(config, [node(N1)], peers);
    assert_eq!(topology.peers.iter().map(|peer| peer.allowed_ips.len()).sum::<usize>(), 100_000);
    assert_eq!(topology.peers.last().unwrap().allowed_ips.len(), 1, "the oldest comes last by name");
    let reasons: Vec<_> = topology.problems.iter().map(|problem| problem.reason).collect();
    assert!(reasons.iter().all(|reason| *reason == "TooManyAllowedIPs"), "{reasons:?}");
}
