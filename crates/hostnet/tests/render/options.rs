//! What the operator takes away from us: `--local=false`, `--create-interface=false`; names of endpoints; and marks.

use hostnet::{Encapsulation, Responsible};

use crate::{Fixture, peer};

/// Another CNI routes inside of the location; what leaves it is ours all the same.
#[test]
fn local_routes_of_another_cni() {
    let check = |host, encapsulation, expected: &[&str]| {
        let mut fixture = Fixture::v4(host, encapsulation);
        fixture.config.local_routes_by = Responsible::Other;
        fixture.check(expected);
    };
    check(
        "a1",
        Encapsulation::Always,
        &[
            "link kilo0 wireguard mtu 1420 up",
            // The other nodes send it what leaves the location.
            "link tunl0 ipip mtu 1480 up given",
            "address 10.4.0.1/16 kilo0",
            "address 10.1.0.1/32 tunl0",
            "route 10.1.9.1/32 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
            "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
            "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        ],
    );
    check(
        "a2",
        Encapsulation::Never,
        &[
            "link kilo0 wireguard mtu 1420 down",
            "route 10.1.9.1/32 via 10.1.0.1 dev eth0 table 1108",
            "route 10.2.3.0/24 via 10.1.0.1 dev eth0 table 1108",
            "route 10.4.0.1/32 via 10.1.0.1 dev eth0 table 1108",
            "route 10.4.0.2/32 via 10.1.0.1 dev eth0 table 1108",
            "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        ],
    );
}

/// What the other nodes send a leader encapsulated is taken out there in both families, though nothing goes back that way.
#[test]
fn a_leader_takes_out_what_it_does_not_put_in() {
    let nodes = ["a1 10.1.0.1/24 10.2.1.0/24 fd00:2:0:1::/64", "a2 10.1.0.2/24 10.2.2.0/24 fd00:2:0:2::/64"];
    let mut fixture = Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Always);
    fixture.config.local_routes_by = Responsible::Other;
    fixture.check(&[
        "link kilo0 wireguard mtu 1420 up",
        "link sit0 sit mtu 1480 up given",
        "link tunl0 ipip mtu 1480 up given",
        "address 10.4.0.1/16 kilo0",
        "address 10.1.0.1/32 tunl0",
    ]);
}

/// An interface that somebody else made keeps its MTU and stays when we go.
#[test]
fn an_interface_of_somebody_else() {
    let mut fixture = Fixture::of("a1", &["a1 10.1.0.1/24 10.2.1.0/24"], "10.4.0.0/16", Encapsulation::Never);
    fixture.config.interface_by = Responsible::Other;
    fixture.config.interface = "given0".parse().unwrap();
    fixture.check(&["link given0 wireguard up given", "address 10.4.0.1/16 given0"]);
}

/// Another cluster's leader in the same private network: what goes to its endpoint is not what goes through its tunnel. A
/// neighbour of it is reached through the tunnel only where the operator of this host says so.
#[test]
fn the_endpoint_of_a_peer_among_its_allowed_ips() {
    let mut fixture = Fixture::of("a1", &["a1 10.1.0.1/24 10.2.1.0/24"], "10.4.0.0/16", Encapsulation::Never);
    let mut leader = peer("p1 10.3.0.0/24 10.1.0.77/32 10.1.0.78/32");
    leader.endpoint = "10.1.0.77:51820".parse().ok();
    fixture.peers = vec![leader];
    let (link, address) = ("link kilo0 wireguard mtu 1420 up", "address 10.4.0.1/16 kilo0");
    let pods = "route 10.3.0.0/24 dev kilo0 src 10.1.0.1 table 1108";
    let rule = "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4";
    fixture.check(&[link, address, pods, rule, "problem RangeNotRouted"]);
    fixture.config.allow_host_routes = vec!["10.1.0.0/24".parse().unwrap()];
    let neighbour = "route 10.1.0.78/32 dev kilo0 src 10.1.0.1 table 1108";
    fixture.check(&[link, address, neighbour, pods, rule]);
}

/// Two clusters with the same services.
#[test]
fn services_that_a_peer_has_too() {
    let mut fixture = Fixture::v4("a2", Encapsulation::Never);
    fixture.config.service_cidrs = vec!["10.43.0.0/16".parse().unwrap()];
    fixture.peers = vec![peer("p1 10.43.7.0/24 10.5.0.1/32"), peer("p2 10.44.0.0/16")];
    let said: Vec<_> = fixture.rendered().problems.iter().map(ToString::to_string).collect();
    let wanted = "10.43.7.0/24 lies in 10.43.0.0/16, where the services of this cluster are";
    assert!(said.len() == 1 && said[0].starts_with("peer p1: ") && said[0].contains(wanted), "{said:?}");
}

/// A name that does not resolve leaves its peer without an endpoint, and everything else as it is.
#[test]
fn names_of_endpoints() {
    let mut fixture = Fixture::v4("a1", Encapsulation::Never);
    let mut known = peer("p1 10.5.0.1/32");
    known.endpoint = "known.example.com:4000".parse().ok();
    let mut unknown = peer("p2 10.5.0.2/32");
    unknown.endpoint = "unknown.example.com:4000".parse().ok();
    fixture.input.resolved.insert("known.example.com".to_owned(), "192.0.2.7".parse().unwrap());
    let keys = (known.key, unknown.key);
    fixture.peers = vec![known, unknown];
    let peers = fixture.rendered().state.wireguard.unwrap().peers;
    assert_eq!(peers[&keys.0].endpoint, "192.0.2.7:4000".parse().ok());
    assert_eq!(peers[&keys.1].endpoint, None);
    assert_eq!(peers.len(), 3);
}

/// A tunnel's own packets, and all others of the host, must not go through the tunnel, also when its endpoint is a name. Those of
/// pods do.
#[test]
fn only_pods_reach_an_endpoint_through_its_own_tunnel() {
    let mut fixture = Fixture::v4("a1", Encapsulation::Never);
    for node in fixture.nodes.iter_mut().filter(|node| node.name == "b1") {
        node.endpoint = "b.example.com:51820".parse().ok();
    }
    fixture.input.resolved.insert("b.example.com".to_owned(), "10.1.9.1".parse().unwrap());
    fixture.check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.1/16 kilo0",
        "route 10.2.2.0/24 via 10.1.0.2 dev eth0 table 1108",
        "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.1.9.1/32 dev kilo0 table 1110",
        "rule 1107: from 10.2.1.0/24 lookup 1110 V4",
        "rule 1107: from 10.2.2.0/24 lookup 1110 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// A member's interface has the mark as well: it may lead at any moment.
#[test]
fn packets_of_the_tunnels_are_marked() {
    for host in ["a1", "a2"] {
        let mut fixture = Fixture::v4(host, Encapsulation::Never);
        assert_eq!(fixture.rendered().state.wireguard.unwrap().mark, 0x10);
        fixture.config.marks = "0x7000".parse().unwrap();
        assert_eq!(fixture.rendered().state.wireguard.unwrap().mark, 0x1000);
    }
}
