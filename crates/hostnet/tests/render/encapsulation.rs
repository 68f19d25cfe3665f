//! `--encapsulate`: which packets inside of a location go through the tunnel devices.

use hostnet::{Encapsulation, EncapsulationType, Outer};

use crate::Fixture;

#[test]
fn always_on_a_leader() {
    Fixture::v4("a1", Encapsulation::Always).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "link tunl0 ipip mtu 1480 up given",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.0.2/32 via 10.1.0.2 dev tunl0 src 10.1.0.1 table 1107",
        "route 10.1.9.1/32 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.2.2.0/24 via 10.1.0.2 dev tunl0 src 10.1.0.1 table 1108",
        "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "rule 1107: from all iif kilo0 lookup 1107 V4",
        "rule 1107: from 10.2.1.0/24 lookup 1107 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// A member sends everything that leaves the location through the tunnel to its leader.
#[test]
fn always_on_a_member() {
    Fixture::v4("a2", Encapsulation::Always).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "link tunl0 ipip mtu 1480 up given",
        "route 10.1.0.1/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1107",
        "route 10.1.9.1/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.2.1.0/24 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.2.3.0/24 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.1/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.2/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "rule 1107: from 10.2.2.0/24 lookup 1107 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// A node that is alone in its location needs no tunnel device.
#[test]
fn always_without_anyone_near() {
    Fixture::v4("b1", Encapsulation::Always).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.2/16 kilo0",
        "route 10.1.0.1/32 via 10.4.0.1 dev kilo0 src 10.1.9.1 table 1108",
        "route 10.1.0.2/32 via 10.4.0.1 dev kilo0 src 10.1.9.1 table 1108",
        "route 10.2.1.0/24 via 10.4.0.1 dev kilo0 src 10.1.9.1 table 1108",
        "route 10.2.2.0/24 via 10.4.0.1 dev kilo0 src 10.1.9.1 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// The prefix of the own address decides: `a2` is in it, `a3` is not.
#[test]
fn crosssubnet() {
    let nodes = ["a1 10.1.0.1/24 10.2.1.0/24", "a2 10.1.0.2/24 10.2.2.0/24", "a3 10.1.1.3/24 10.2.3.0/24"];
    Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::CrossSubnet).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "link tunl0 ipip mtu 1480 up given",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.1.3/32 via 10.1.1.3 dev tunl0 src 10.1.0.1 table 1107",
        "route 10.2.2.0/24 via 10.1.0.2 dev eth0 table 1108",
        "route 10.2.3.0/24 via 10.1.1.3 dev tunl0 src 10.1.0.1 table 1108",
        "rule 1107: from all iif kilo0 lookup 1107 V4",
        "rule 1107: from 10.2.1.0/24 lookup 1107 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    // Nothing goes through the tunnel, so there is none.
    Fixture::v4("a2", Encapsulation::CrossSubnet).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "route 10.1.9.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.1.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.3.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.2/32 via 10.1.0.1 dev eth0 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// IPv6 goes through IPv4 by `sit0`, also between nodes that have IPv6 addresses.
#[test]
fn dual_stack() {
    let nodes = [
        "a1 10.1.0.1/24 fd00:1::1/64 10.2.1.0/24 fd00:2:0:1::/64",
        "a2 10.1.0.2/24 fd00:1::2/64 10.2.2.0/24 fd00:2:0:2::/64",
    ];
    Fixture::of("a1", &nodes, "10.4.0.0/16,fd00:4::/112", Encapsulation::Always).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "link sit0 sit mtu 1480 up given",
        "link tunl0 ipip mtu 1480 up given",
        "address 10.4.0.1/16 kilo0",
        "address fd00:4::1/112 kilo0",
        "route 10.1.0.2/32 via 10.1.0.2 dev tunl0 src 10.1.0.1 table 1107",
        "route fd00:1::2/128 via ::a01:2 dev sit0 src fd00:1::1 table 1107",
        "route 10.2.2.0/24 via 10.1.0.2 dev tunl0 src 10.1.0.1 table 1108",
        "route fd00:2:0:2::/64 via ::a01:2 dev sit0 src fd00:1::1 table 1108",
        "rule 1107: from all iif kilo0 lookup 1107 V4",
        "rule 1107: from all iif kilo0 lookup 1107 V6",
        "rule 1107: from 10.2.1.0/24 lookup 1107 V4",
        "rule 1107: from fd00:2:0:1::/64 lookup 1107 V6",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
    ]);
}

/// In UDP both families go through one device, and the route names the outer destination.
#[test]
fn vxlan() {
    let nodes = [
        "a1 10.1.0.1/24 fd00:1::1/64 10.2.1.0/24 fd00:2:0:1::/64",
        "a2 10.1.0.2/24 fd00:1::2/64 10.2.2.0/24 fd00:2:0:2::/64",
    ];
    let mut fixture = Fixture::of("a1", &nodes, "10.4.0.0/16", Encapsulation::Always);
    fixture.config.encapsulation_type = EncapsulationType::Vxlan;
    fixture.check(&[
        "link kilo-vxlan vxlan mtu 1464 up",
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.0.2/32 encap to 10.1.0.2 dev kilo-vxlan src 10.1.0.1 table 1107",
        "route fd00:1::2/128 encap to 10.1.0.2 dev kilo-vxlan src fd00:1::1 table 1107",
        "route 10.2.2.0/24 encap to 10.1.0.2 dev kilo-vxlan src 10.1.0.1 table 1108",
        "route fd00:2:0:2::/64 encap to 10.1.0.2 dev kilo-vxlan src fd00:1::1 table 1108",
        "rule 1107: from all iif kilo0 lookup 1107 V4",
        "rule 1107: from all iif kilo0 lookup 1107 V6",
        "rule 1107: from 10.2.1.0/24 lookup 1107 V4",
        "rule 1107: from fd00:2:0:1::/64 lookup 1107 V6",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V6",
    ]);
    let filter = fixture.rendered().state.firewall.unwrap().encapsulation.unwrap();
    let from: Vec<_> = filter.from.iter().map(ToString::to_string).collect();
    assert_eq!(
        (filter.outer, from.join(" ")),
        (Outer::Vxlan, "10.1.0.1 10.1.0.2 fd00:1::1 fd00:1::2".to_owned())
    );
}

/// A private network of IPv6 alone carries it as well; the outer header is larger there.
#[test]
fn vxlan_over_ipv6() {
    let nodes = ["a1 fd00:1::1/64 10.2.1.0/24", "a2 fd00:1::2/64 10.2.2.0/24"];
    let mut fixture = Fixture::of("a2", &nodes, "10.4.0.0/16", Encapsulation::Always);
    fixture.config.encapsulation_type = EncapsulationType::Vxlan;
    fixture.check(&[
        "link kilo-vxlan vxlan mtu 1444 up",
        "link kilo0 wireguard mtu 1420 down",
        "route fd00:1::1/128 encap to fd00:1::1 dev kilo-vxlan src fd00:1::2 table 1107",
        "route 10.2.1.0/24 encap to fd00:1::1 dev kilo-vxlan table 1108",
        "route 10.4.0.1/32 encap to fd00:1::1 dev kilo-vxlan table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// Packets of protocols 4 and 41 could carry any source: only nodes of the location may send them.
#[test]
fn accepted_from_the_location_alone() {
    let from = |host, encapsulation| {
        let firewall = Fixture::v4(host, encapsulation).rendered().state.firewall.unwrap();
        firewall.encapsulation.map(|filter| filter.from.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let location = ["10.1.0.1".to_owned(), "10.1.0.2".to_owned()];
    assert_eq!(from("a1", Encapsulation::Always).unwrap(), location);
    assert_eq!(from("a2", Encapsulation::CrossSubnet).unwrap(), location);
    assert_eq!(from("b1", Encapsulation::Always).unwrap(), ["10.1.9.1"]);
    assert_eq!(from("a1", Encapsulation::Never), None);
}

/// The tunnel's outer packet has to fit the private interface.
#[test]
fn mtu_follows_the_private_interface() {
    let mut fixture = Fixture::v4("a2", Encapsulation::Always);
    for interface in fixture.facts.interfaces.values_mut() {
        interface.mtu = 9000;
    }
    let state = fixture.rendered().state;
    let mtu = |name: &str| state.links[&name.parse().unwrap()].mtu;
    assert_eq!((mtu("tunl0"), mtu("kilo0")), (Some(8980), Some(1420)));
}
