//! `--compatibility`: another container network takes care of the inside of a location.

use hostnet::{Compatibility, Encapsulation, EncapsulationType, Interface, Responsible};

use crate::Fixture;

/// A host beside another container network, with that one's interfaces, written as `name address`.
fn addon(host: &'static str, compatibility: Compatibility, interfaces: &[&str]) -> Fixture {
    let mut fixture = Fixture::v4(host, Encapsulation::Always);
    fixture.config.compatibility = compatibility;
    fixture.config.local_routes_by = Responsible::Other;
    fixture.config.pod_nat_by = Responsible::Other;
    for text in interfaces {
        let (name, address) = text.split_once(' ').unwrap();
        let interface = Interface {
            mtu: 1450,
            running: true,
            addresses: vec![address.parse().unwrap()],
            ..Interface::default()
        };
        fixture.facts.interfaces.insert(name.parse().unwrap(), interface);
    }
    for node in &mut fixture.nodes {
        let number = node.name.as_bytes()[1] - b'0' + 10 * u8::from(node.name.starts_with('b'));
        if matches!(compatibility, Compatibility::Cilium | Compatibility::Calico) {
            node.cni_compatibility_ips = vec![format!("10.2.{number}.200/32").parse().unwrap()];
        }
    }
    fixture
}

/// A member reaches its leader through Flannel's device, by the first address of the leader's pods; a leader answers that
/// way. Routes to pods are beside Flannel's, which has some to the same pods.
#[test]
fn flannel() {
    addon("a2", Compatibility::Flannel, &["flannel.1 10.2.2.0/32"]).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "route 10.1.9.1/32 via 10.2.1.0 dev flannel.1 src 10.1.0.2 table 1108",
        "route 10.2.3.0/24 via 10.2.1.0 dev flannel.1 src 10.1.0.2 table 1108",
        "route 10.4.0.1/32 via 10.2.1.0 dev flannel.1 src 10.1.0.2 table 1108",
        "route 10.4.0.2/32 via 10.2.1.0 dev flannel.1 src 10.1.0.2 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    addon("a1", Compatibility::Flannel, &["flannel.1 10.2.1.0/32"]).check(&[
        "link kilo0 wireguard mtu 1420 up",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.0.2/32 via 10.2.2.0 dev flannel.1 src 10.1.0.1 table 1107",
        "route 10.1.9.1/32 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "rule 1107: from all iif kilo0 lookup 1107 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// Flannel's other backends have no such device: the private network does, and the operator is told.
#[test]
fn flannel_without_its_device() {
    addon("a2", Compatibility::Flannel, &[]).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "route 10.1.9.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.2.3.0/24 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.1/32 via 10.1.0.1 dev eth0 table 1108",
        "route 10.4.0.2/32 via 10.1.0.1 dev eth0 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
        "problem NoOverlay",
    ]);
    let mut fixture = addon("a2", Compatibility::Flannel, &[]);
    fixture.config.encapsulation = Encapsulation::Never;
    assert_eq!(fixture.rendered().problems, []);
}

/// Outer packets go to the nodes' addresses inside of Cilium's network.
#[test]
fn cilium() {
    addon("a2", Compatibility::Cilium, &["cilium_host 10.2.2.200/32"]).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "link tunl0 ipip up given",
        "address 10.1.0.2/32 tunl0",
        "route 10.1.9.1/32 via 10.2.1.200 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.2.3.0/24 via 10.2.1.200 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.1/32 via 10.2.1.200 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.2/32 via 10.2.1.200 dev tunl0 src 10.1.0.2 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    // The leader's answers to members go the same way. Cilium may have renamed the kernel's device.
    let renamed = ["cilium_host 10.2.1.200/32", "cilium_tunl 0.0.0.0/0"];
    addon("a1", Compatibility::Cilium, &renamed).check(&[
        "link cilium_tunl ipip up given",
        "link kilo0 wireguard mtu 1420 up",
        "address 10.1.0.1/32 cilium_tunl",
        "address 10.4.0.1/16 kilo0",
        "route 10.1.0.2/32 via 10.2.2.200 dev cilium_tunl src 10.1.0.1 table 1107",
        "route 10.1.9.1/32 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "route 10.2.3.0/24 via 10.4.0.2 dev kilo0 src 10.1.0.1 table 1108",
        "rule 1107: from all iif kilo0 lookup 1107 V4",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// Where there is no IPIP, VXLAN does the same inside of Cilium's network.
#[test]
fn cilium_with_vxlan() {
    let mut fixture = addon("a2", Compatibility::Cilium, &["cilium_host 10.2.2.200/32"]);
    fixture.config.encapsulation_type = EncapsulationType::Vxlan;
    fixture.check(&[
        "link kilo-vxlan vxlan mtu 1464 up",
        "link kilo0 wireguard mtu 1420 down",
        "address 10.1.0.2/32 kilo-vxlan",
        "route 10.1.9.1/32 encap to 10.2.1.200 dev kilo-vxlan src 10.1.0.2 table 1108",
        "route 10.2.3.0/24 encap to 10.2.1.200 dev kilo-vxlan src 10.1.0.2 table 1108",
        "route 10.4.0.1/32 encap to 10.2.1.200 dev kilo-vxlan src 10.1.0.2 table 1108",
        "route 10.4.0.2/32 encap to 10.2.1.200 dev kilo-vxlan src 10.1.0.2 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    let filter = fixture.rendered().state.firewall.unwrap().encapsulation.unwrap();
    let from: Vec<_> = filter.from.iter().map(ToString::to_string).collect();
    assert_eq!(from, ["10.1.0.1", "10.1.0.2", "10.2.1.200", "10.2.2.200"]);
}

/// A node that has told no address inside of Cilium's network, as one whose Cilium has not started, is reached outside of it.
#[test]
fn cilium_without_an_address() {
    let mut fixture = addon("a2", Compatibility::Cilium, &[]);
    for node in &mut fixture.nodes {
        node.cni_compatibility_ips.clear();
    }
    fixture.check(&[
        "link kilo0 wireguard mtu 1420 down",
        "link tunl0 ipip up given",
        "address 10.1.0.2/32 tunl0",
        "route 10.1.9.1/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.2.3.0/24 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.1/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.2/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
}

/// With VXLAN, Calico's nodes are next hops on its device; with IPIP, the kernel's device is shared with it, and its MTU is
/// Calico's business.
#[test]
fn calico() {
    addon("a2", Compatibility::Calico, &["vxlan.calico 10.2.2.200/32"]).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "route 10.1.9.1/32 via 10.2.1.200 dev vxlan.calico src 10.1.0.2 table 1108",
        "route 10.2.3.0/24 via 10.2.1.200 dev vxlan.calico src 10.1.0.2 table 1108",
        "route 10.4.0.1/32 via 10.2.1.200 dev vxlan.calico src 10.1.0.2 table 1108",
        "route 10.4.0.2/32 via 10.2.1.200 dev vxlan.calico src 10.1.0.2 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    addon("a2", Compatibility::Calico, &[]).check(&[
        "link kilo0 wireguard mtu 1420 down",
        "link tunl0 ipip up given",
        "address 10.1.0.2/32 tunl0",
        "route 10.1.9.1/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.2.3.0/24 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.1/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "route 10.4.0.2/32 via 10.1.0.1 dev tunl0 src 10.1.0.2 table 1108",
        "rule 1108: not from all fwmark 0x10/0x70 lookup 1108 V4",
    ]);
    assert_eq!(
        addon("a2", Compatibility::Calico, &[]).rendered().state.firewall.unwrap().encapsulation,
        None,
        "Calico filters what is in IP"
    );
}

/// Another network's addresses are told to the others, one of each family.
#[test]
fn addresses_that_others_have_to_know() {
    let told = |compatibility: Compatibility, interfaces: &[&str]| {
        let fixture = addon("a1", compatibility, interfaces);
        let addresses = compatibility.addresses(&fixture.facts);
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let all = [
        "cilium_host 10.2.1.200/32",
        "flannel.1 10.2.1.0/32",
        "vxlan.calico 10.2.1.64/32",
        "vxlan-v6.calico fd00:2::64/128",
    ];
    assert_eq!(told(Compatibility::None, &all), "");
    assert_eq!(told(Compatibility::Flannel, &all), "");
    assert_eq!(told(Compatibility::Cilium, &all), "10.2.1.200/32");
    assert_eq!(told(Compatibility::Calico, &all), "10.2.1.64/32 fd00:2::64/128");
    assert_eq!(told(Compatibility::Calico, &["cilium_host fe80::1/64"]), "");
}
