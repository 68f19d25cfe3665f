//! What is wrong with one object or one host, and does not harm the rest.

use hostnet::Encapsulation;

use crate::Fixture;

/// A forced internal address that no interface has: no source that the kernel would refuse, and the interface of the
/// default route.
#[test]
fn an_internal_address_that_the_host_does_not_have() {
    for (encapsulation, local) in [
        (Encapsulation::Never, "route 10.2.2.0/24 via 10.1.0.2 dev eth0 table 1108"),
        (Encapsulation::Always, "route 10.2.2.0/24 via 10.1.0.2 dev tunl0 table 1108"),
    ] {
        let mut fixture = Fixture::v4("a1", encapsulation);
        for interface in fixture.facts.interfaces.values_mut() {
            interface.addresses = vec!["172.16.0.1/24".parse().unwrap()];
        }
        let rendered = fixture.rendered();
        assert!(rendered.state.routes.iter().all(|route| route.source.is_none()));
        let routes: Vec<_> = rendered.state.routes.iter().map(|route| format!("route {route}")).collect();
        assert!(routes.iter().any(|route| route == local), "{routes:?}");
        assert_eq!(rendered.problems, []);
    }
}

#[test]
fn no_private_interface_at_all() {
    let mut fixture = Fixture::v4("a1", Encapsulation::Never);
    fixture.facts = Default::default();
    fixture.check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.9.1/32 via 10.4.0.2 dev kilo0 table 1108",
        "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        "problem NoPrivateInterface",
    ]);
}

/// A node of the location says that it is where this host is itself, or where all hosts of a network are: the kernel
/// refuses such a next hop, and everything else has to stay as it is.
#[test]
fn an_internal_address_that_is_no_next_hop_here() {
    for (address, what) in [
        ("10.4.0.1/32", "an address of this host"),
        ("172.16.0.1/32", "an address of this host"),
        ("10.4.255.255/32", "no host's in the network 10.4.0.0/16"),
        ("172.16.0.255/16", "no host's in the network 172.16.0.0/24"),
        ("172.16.0.0/32", "no host's in the network 172.16.0.0/24"),
    ] {
        let node = format!("a2 {address} 10.2.2.0/24");
        let nodes = ["a1 10.1.0.1/24 10.2.1.0/24", &node, "a3 10.1.0.3/24 10.2.3.0/24"];
        for encapsulation in [Encapsulation::Never, Encapsulation::Always] {
            let mut fixture = Fixture::of("a1", &nodes, "10.4.0.0/16", encapsulation);
            let interface = fixture.facts.interfaces.values_mut().next().unwrap();
            interface.addresses.push("172.16.0.1/24".parse().unwrap());
            let rendered = fixture.rendered();
            let mut routes = rendered.state.routes.iter();
            assert!(routes.clone().any(|route| route.to_string().starts_with("10.2.3.0/24 via 10.1.0.3")));
            assert!(!routes.any(|route| route.to_string().contains("10.2.2.0/24")), "{address}");
            let told = |problem: &mesh::Problem| {
                problem.reason == "DuplicateAddress"
                    && problem.message.contains("node a2")
                    && problem.message.contains(what)
            };
            assert!(rendered.problems.iter().any(told), "{address}: {:?}", rendered.problems);
        }
    }
    let nodes = ["a1 10.1.0.1/24 10.2.1.0/24", "a2 10.4.255.254/32 10.2.2.0/24"];
    assert_eq!(Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Never).rendered().problems, []);
}

/// Two nodes of a location with one internal address: the kernel would refuse a route via an own address.
#[test]
fn an_internal_address_twice_in_a_location() {
    let nodes = ["a1 10.1.0.1/24 10.2.1.0/24", "a2 10.1.0.1/24 10.2.2.0/24", "a3 10.1.0.3/24 10.2.3.0/24"];
    for (encapsulation, lines) in [
        (Encapsulation::Never, &["route 10.2.3.0/24 via 10.1.0.3 dev eth0 table 1108"][..]),
        (
            Encapsulation::Always,
            &[
                "route 10.1.0.3/32 via 10.1.0.3 dev tunl0 src 10.1.0.1 table 1107",
                "route 10.2.3.0/24 via 10.1.0.3 dev tunl0 src 10.1.0.1 table 1108",
            ],
        ),
    ] {
        let rendered = Fixture::of("a1", &nodes, "10.4.0.0/16", encapsulation).rendered();
        let routes: Vec<_> = rendered.state.routes.iter().map(|route| format!("route {route}")).collect();
        assert_eq!(routes, lines);
        let reasons: Vec<_> = rendered.problems.iter().map(|problem| problem.reason).collect();
        assert_eq!(reasons, ["DuplicateAddress"]);
    }
}

/// One internal address in two locations, as private networks have: others reach it where it was claimed first; who
/// has it, or has it as a neighbour, keeps it.
#[test]
fn an_internal_address_in_two_locations() {
    let nodes = [
        "a1 10.1.0.1/24 10.2.1.0/24",
        "a2 10.1.0.2/24 10.2.2.0/24",
        "b1 10.1.0.1/24 10.2.3.0/24",
        "b2 10.1.0.2/24 10.2.4.0/24",
        "c1 10.1.3.1/24 10.2.5.0/24",
    ];
    Fixture::of("c1", &nodes, "10.4.0.0/16", Encapsulation::Never).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.3/16 kilo0",
        "route 10.1.0.1/32 via 10.4.0.1 dev kilo0 src 10.1.3.1 table 1108",
        "route 10.1.0.2/32 via 10.4.0.1 dev kilo0 src 10.1.3.1 table 1108",
        "route 10.2.1.0/24 via 10.4.0.1 dev kilo0 src 10.1.3.1 table 1108",
        "route 10.2.2.0/24 via 10.4.0.1 dev kilo0 src 10.1.3.1 table 1108",
        "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 src 10.1.3.1 table 1108",
        "route 10.2.4.0/24 via 10.4.0.2 dev kilo0 src 10.1.3.1 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    Fixture::of("b1", &nodes, "10.4.0.0/16", Encapsulation::Never).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.2/16 kilo0",
        "route 10.1.3.1/32 via 10.4.0.3 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.2.1.0/24 via 10.4.0.1 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.2.2.0/24 via 10.4.0.1 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.2.4.0/24 via 10.1.0.2 dev eth0 table 1108",
        "route 10.2.5.0/24 via 10.4.0.3 dev kilo0 src 10.1.0.1 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    Fixture::of("b2", &nodes, "10.4.0.0/16", Encapsulation::Never).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "route 10.1.3.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.1.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.2.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.3.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.5.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.2/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.3/32 via 10.1.0.1 dev eth0 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}
