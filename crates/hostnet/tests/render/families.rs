//! Two IP families, and nodes that lack one.

use hostnet::{Encapsulation, EncapsulationType};

use crate::{Fixture, peer};

const DUAL: &[&str] = &[
    "a1 10.1.0.1/24 fd00:1::1/64 10.2.1.0/24 fd00:2:0:1::/64",
    "a2 10.1.0.2/24 fd00:1::2/64 10.2.2.0/24 fd00:2:0:2::/64",
    "b1 10.1.9.1/24 fd00:9::1/64 10.2.3.0/24 fd00:2:0:3::/64",
];

#[test]
fn a_dual_stack_leader() {
    let mut fixture = Fixture::of("a1", DUAL, "10.4.0.0/16,fd00:4::/112", Encapsulation::Never);
    fixture.peers.push(peer("p1 10.5.0.1/32 fd00:5::1/128"));
    fixture.check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.1/16 kilo0",
        "address fd00:4::1/112 kilo0",
        "route 10.1.9.1/32 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.2.2.0/24 via 10.1.0.2 dev eth0 table 1108",
        "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.5.0.1/32 dev kilo0 src 10.1.0.1 table 1108",
        "route fd00:2:0:2::/64 via fd00:1::2 dev eth0 table 1108",
        "route fd00:2:0:3::/64 via fd00:4::2 dev kilo0 src fd00:1::1 table 1108",
        "route fd00:5::1/128 dev kilo0 src fd00:1::1 table 1108",
        "route fd00:9::1/128 via fd00:4::2 dev kilo0 src fd00:1::1 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
    ]);
    let forwarding = fixture.rendered().state.forwarding;
    assert!(forwarding.v4 && forwarding.v6);
}

#[test]
fn a_dual_stack_member() {
    Fixture::of("a2", DUAL, "10.4.0.0/16,fd00:4::/112", Encapsulation::Never).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "route 10.1.9.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.1.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.3.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.2/32 via 10.1.0.1 dev eth0 table 1108",
        "route fd00:2:0:1::/64 via fd00:1::1 dev eth0 table 1108",
        "route fd00:2:0:3::/64 via fd00:1::1 dev eth0 table 1108",
        "route fd00:4::1/128 via fd00:1::1 dev eth0 table 1108",
        "route fd00:4::2/128 via fd00:1::1 dev eth0 table 1108",
        "route fd00:9::1/128 via fd00:1::1 dev eth0 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
    ]);
}

/// Without an IPv6 WireGuard subnet the device alone says where IPv6 goes: WireGuard knows the peer.
#[test]
fn ipv6_pods_without_an_ipv6_subnet() {
    let nodes = ["a1 10.1.0.1/24 fd00:2:0:1::/64", "b1 10.1.9.1/24 fd00:2:0:3::/64"];
    Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Never).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.9.1/32 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "route fd00:2:0:3::/64 dev kilo0 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
    ]);
}

/// IPv6 pods on nodes with IPv4 addresses only: encapsulation carries them, without it they cannot be reached.
#[test]
fn ipv6_pods_on_ipv4_nodes() {
    let nodes = ["a1 10.1.0.1/24 fd00:2:0:1::/64", "a2 10.1.0.2/24 fd00:2:0:2::/64"];
    Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Never).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.1/16 kilo0",
        "problem NoNextHop",
    ]);
    Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Always).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "link sit0 sit mtu 1480 up given",
        "link tunl0 ipip mtu 1480 up given",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.0.2/32 via 10.1.0.2 dev tunl0 src 10.1.0.1 table 1107",
        "route fd00:2:0:2::/64 via ::a01:2 dev sit0 table 1108",
        "rule 1107: from all iif kilo0 lookup 1107 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
    ]);
}

/// IPv4 pods on nodes with IPv6 addresses only: IPv4 goes by way of IPv6 neighbours. IPIP cannot carry it, so it goes bare
/// where nothing is between the nodes, and elsewhere VXLAN is what helps.
#[test]
fn ipv4_pods_on_ipv6_nodes() {
    let nodes = ["a1 fd00:1::1/64 10.2.1.0/24", "a2 fd00:1::2/64 10.2.2.0/24", "b1 fd00:9::1/64 10.2.3.0/24"];
    for encapsulation in [Encapsulation::Never, Encapsulation::CrossSubnet, Encapsulation::Always] {
        Fixture::of("a1", &nodes, "10.4.0.0/16", encapsulation).check(&[
            "link kilo0 wireguard mtu 1420 up",
            "address 10.4.0.1/16 kilo0",
            "route 10.2.2.0/24 via fd00:1::2 dev eth0 table 1108",
            "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 table 1108",
            "route fd00:9::1/128 dev kilo0 src fd00:1::1 table 1108",
            "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
            "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
        ]);
        Fixture::of("a2", &nodes, "10.4.0.0/16", encapsulation).check(&[
            "link kilo0 wireguard mtu 1420 down",
            "route 10.2.1.0/24 via fd00:1::1 dev eth0 table 1108",
            "route 10.2.3.0/24 via fd00:1::1 dev eth0 table 1108",
            "route 10.4.0.1/32 via fd00:1::1 dev eth0 table 1108",
            "route 10.4.0.2/32 via fd00:1::1 dev eth0 table 1108",
            "route fd00:9::1/128 via fd00:1::1 dev eth0 table 1108",
            "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
            "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
        ]);
    }
}

/// What is advised helps: after it, nothing is wrong.
#[test]
fn what_no_next_hop_advises() {
    let advised = |nodes: &[&str], encapsulation, advice: &str| {
        let fixture = Fixture::of("a1", nodes, "10.4.0.0/16", encapsulation);
        let problems = fixture.problems();
        assert_eq!(problems.iter().map(|problem| problem.reason).collect::<Vec<_>>(), ["NoNextHop"]);
        assert!(problems[0].message.contains(advice), "{}", problems[0].message);
        fixture
    };
    let healed = |fixture: &Fixture| assert_eq!(fixture.problems(), []);
    let apart = ["a1 fd00:1::1/64 10.2.1.0/24", "a2 fd00:8::2/64 10.2.2.0/24"];
    for encapsulation in [Encapsulation::CrossSubnet, Encapsulation::Always] {
        let mut fixture = advised(&apart, encapsulation, "--encapsulation-type=vxlan");
        fixture.config.encapsulation_type = EncapsulationType::Vxlan;
        healed(&fixture);
    }
    let v4 = ["a1 10.1.0.1/24 fd00:2:0:1::/64", "a2 10.1.0.2/24 fd00:2:0:2::/64"];
    for encapsulation in [Encapsulation::Never, Encapsulation::CrossSubnet] {
        let mut fixture = advised(&v4, encapsulation, "--encapsulate=always");
        fixture.config.encapsulation = Encapsulation::Always;
        healed(&fixture);
        fixture.config.encapsulation_type = EncapsulationType::Vxlan;
        healed(&fixture);
    }
    let mixed = ["a1 10.1.0.1/24 10.2.1.0/24", "a2 fd00:1::2/64 10.2.2.0/24"];
    for kind in [EncapsulationType::Ipip, EncapsulationType::Vxlan] {
        let mut fixture = Fixture::of("a1", &mixed, "10.4.0.0/16", Encapsulation::Always);
        fixture.config.encapsulation_type = kind;
        assert_eq!(fixture.problems().len(), 1);
        fixture.nodes[1].internal_ips.push("10.1.0.2/24".parse().unwrap());
        healed(&fixture);
    }
}

/// Without an internal address a node is a segment of its own, with tunnels to everyone and no preferred source.
#[test]
fn a_node_without_internal_address() {
    let nodes = ["a1 10.2.1.0/24", "a2 10.1.0.2/24 10.2.2.0/24", "a3 10.1.0.3/24 10.2.3.0/24"];
    Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Always).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.2/16 kilo0",
        "route 10.1.0.2/32 via 10.4.0.1 dev kilo0 table 1108",
        "route 10.1.0.3/32 via 10.4.0.1 dev kilo0 table 1108",
        "route 10.2.2.0/24 via 10.4.0.1 dev kilo0 table 1108",
        "route 10.2.3.0/24 via 10.4.0.1 dev kilo0 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// What fits to one node must fit to all: one device carries packets in IPv4 and in IPv6, which adds 20 bytes more.
#[test]
fn the_mtu_of_vxlan_in_both_families() {
    let nodes = [
        "a1 10.1.0.1/24 fd00:1::1/64 10.2.1.0/24",
        "a2 10.1.0.2/24 10.2.2.0/24",
        "a3 fd00:1::3/64 10.2.3.0/24",
    ];
    for (two, three) in [(1, 2), (2, 1)] {
        let nodes = [nodes[0], &nodes[two].replace("a3", "a2"), &nodes[three].replace("a2", "a3")];
        let mut fixture = Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Always);
        fixture.config.encapsulation_type = EncapsulationType::Vxlan;
        let state = fixture.rendered().state;
        assert_eq!(state.links[&"kilo-vxlan".parse().unwrap()].mtu, Some(1500 - 56));
    }
}
