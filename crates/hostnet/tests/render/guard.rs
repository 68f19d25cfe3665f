//! What objects may not take from a host: every address that the host has or depends on is reached as if there were no
//! mesh, whatever is written into a Peer or an annotation.

use std::net::IpAddr;

use hostnet::{Compatibility, Encapsulation, HostRoute, HostState, Interface, Lifeline};
use ipnet::IpNet;
use mesh::{Problem, Role};
use proptest::prelude::*;
use simulation::forwarding::{Kernel, Packet};

use crate::{Fixture, peer};

const API: &str = "198.51.100.250";
const NAME_SERVER: &str = "9.9.9.9";

/// A host with a LAN, a public network, static routes, a gateway that is in no network, an API server, a name server.
fn fixture(host: &'static str) -> Fixture {
    let nodes = [
        "a1 10.1.0.1/24 10.2.1.0/24 fd00:1::1/64 fd00:2:0:1::/64",
        "a2 10.1.0.2/24 10.2.2.0/24 fd00:1::2/64 fd00:2:0:2::/64",
        "b1 10.1.9.1/24 10.2.3.0/24 fd00:9::1/64 fd00:2:0:3::/64",
    ];
    let mut fixture = Fixture::of(host, &nodes, "10.4.0.0/16,fd00:4::/112", Encapsulation::Never);
    let link = |addresses: &str| Interface {
        mtu: 1500,
        running: true,
        addresses: addresses.split(' ').map(|net| net.parse().unwrap()).collect(),
        ..Interface::default()
    };
    fixture.facts.interfaces.insert("eth1".parse().unwrap(), link("192.0.2.17/28 2001:db8:5::17/64"));
    fixture.facts.interfaces.insert("docker0".parse().unwrap(), link("172.17.0.1/16"));
    let route = |destination: &str, gateway: Option<&str>, link: &str, table| HostRoute {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        link: Some(link.parse().unwrap()),
        table,
    };
    fixture.facts.routes = vec![
        route("0.0.0.0/0", Some("192.0.2.30"), "eth1", 254),
        route("10.0.0.0/8", Some("10.1.0.254"), "eth0", 254),
        route("10.77.0.0/16", Some("10.1.0.253"), "eth0", 254),
        route("100.64.0.0/24", None, "eth1", 254),
        route("172.16.0.0/12", Some("203.0.113.200"), "eth1", 254),
        route("fd77::/48", Some("fd00:1::fe"), "eth0", 254),
        route("100.101.102.103/32", None, "eth1", 52),
    ];
    fixture.facts.routes.sort();
    fixture.config.service_cidrs = vec!["10.43.0.0/16".parse().unwrap(), "fd43::/112".parse().unwrap()];
    fixture.input.lifelines =
        [(API.parse().unwrap(), Lifeline::ApiServer), (NAME_SERVER.parse().unwrap(), Lifeline::NameServer)]
            .into();
    fixture.input.api_servers = [API.parse().unwrap()].into();
    fixture
}

/// What the host has or depends on.
fn kept() -> Vec<IpAddr> {
    let texts = [
        // Its networks, with its neighbours and gateways.
        "10.1.0.2",
        "10.1.0.77",
        "10.1.0.254",
        "192.0.2.30",
        "192.0.2.18",
        "172.17.0.9",
        "fd00:1::77",
        "2001:db8:5::1",
        // A single address in the table of somebody else, and a gateway that is in no network.
        "100.101.102.103",
        "203.0.113.200",
        // API server, name server, the endpoints of a1 and b1.
        API,
        NAME_SERVER,
        "203.0.113.17",
        "203.0.113.18",
        // What is nobody's.
        "127.0.0.5",
        "169.254.169.254",
        "169.254.7.7",
        "224.0.0.5",
        "255.255.255.255",
        "fe80::5",
        "ff02::5",
        "::1",
        "fd00:ec2::254",
        "168.63.129.16",
        // Services.
        "10.43.0.1",
        "fd43::1",
    ];
    texts.into_iter().map(|text| text.parse().unwrap()).collect()
}

/// Addresses to which the host has a route: more special ranges than the route may be the mesh's.
fn routed_by_host() -> Vec<IpAddr> {
    ["10.77.3.4", "100.64.0.9", "fd77::9"].into_iter().map(|text| text.parse().unwrap()).collect()
}

/// The kept addresses that the mesh takes from the host.
fn taken(fixture: &Fixture) -> Vec<IpAddr> {
    taken_of(fixture, kept())
}

fn taken_of(fixture: &Fixture, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let without = Kernel::new(&HostState::default(), &fixture.facts);
    let with = Kernel::new(&fixture.rendered().state, &fixture.facts);
    let source = IpAddr::from([10, 1, 0, 1]);
    let way = |kernel: &Kernel, destination| kernel.way(Packet { source, destination, iif: None });
    addresses.into_iter().filter(|at| way(&without, *at) != way(&with, *at)).collect()
}

/// Gives a range to a Peer (`p1`), or to the location of b1.
fn claim(fixture: &mut Fixture, as_peer: bool, ranges: &[IpNet]) {
    if as_peer {
        let mut laptop = peer("p1 10.5.0.1/32");
        laptop.allowed_ips.extend(ranges);
        fixture.peers = vec![laptop];
    } else {
        let b1 = fixture.nodes.iter_mut().find(|node| node.name == "b1").unwrap();
        b1.allowed_location_ips = ranges.to_vec();
    }
}

/// Whoever follows the advice to give a range to the mesh has a route afterwards, and where there is no such advice it would
/// not have helped.
fn advice_is_right(mut fixture: Fixture, as_peer: bool, range: &str) {
    let problems = fixture.rendered().problems;
    let told = problems.iter().find(|problem| problem.reason == "RangeNotRouted").unwrap();
    let advised = told.message.contains("--allow-host-routes");
    fixture.config.allow_host_routes = vec![range.parse().unwrap()];
    assert_eq!(verdict(&fixture, as_peer, range).1, advised, "{range}, as Peer: {as_peer}: {told}");
}

/// What is said of the object, and whether a part of the range is routed.
fn verdict(fixture: &Fixture, as_peer: bool, range: &str) -> (String, bool) {
    let object = if as_peer { "peer p1" } else { "node b1" };
    let rendered = fixture.rendered();
    let said: Vec<String> = rendered
        .problems
        .iter()
        .filter(|problem| problem.object.to_string() == object && problem.message.contains(range))
        .map(|problem| problem.reason.to_owned())
        .collect();
    let range: IpNet = range.parse().unwrap();
    // More special routes are those of nodes, pods and the other ranges.
    let nodes = fixture.nodes.iter().flat_map(|node| {
        let addresses = node.internal_ips.iter().map(|net| net.addr().into());
        node.pod_subnets.iter().copied().chain(addresses).chain(node.allowed_location_ips.clone())
    });
    let peers = fixture.peers.iter().flat_map(|peer| peer.allowed_ips.clone());
    let others: Vec<IpNet> = nodes.chain(peers).filter(|net| *net != range).collect();
    let mut routes = rendered.state.routes.iter().map(|route| route.destination);
    let routed = routes.any(|destination| {
        range.contains(&destination) && !others.contains(&destination) && !is_wireguard(&destination)
    });
    (said.join(" "), routed)
}

fn is_wireguard(destination: &IpNet) -> bool {
    ["10.4.0.0/16", "fd00:4::/112"].iter().any(|net| net.parse::<IpNet>().unwrap().contains(destination))
}

#[test]
fn every_kind_of_thing_that_a_host_has_is_left_to_it_and_named() {
    const OUT: (&str, bool) = ("RangeNotRouted", false);
    const PART: (&str, bool) = ("RangeRoutedInPart", true);
    for (range, expected) in [
        // Everything, in one, two and more pieces.
        ("0.0.0.0/0", OUT),
        ("0.0.0.0/1", OUT),
        ("128.0.0.0/1", OUT),
        ("64.0.0.0/2", OUT),
        ("::/0", OUT),
        ("8000::/1", OUT),
        ("2000::/3", OUT),
        // The LAN: all, a half, one address, the gateway, something around it.
        ("10.1.0.0/24", OUT),
        ("10.1.0.128/25", OUT),
        ("10.1.0.77/32", OUT),
        ("10.1.0.254/32", OUT),
        ("10.1.0.0/23", PART),
        ("fd00:1::/64", OUT),
        ("fd00:1::/65", OUT),
        ("fd00:1::/63", PART),
        // The public network, and that of containers.
        ("192.0.2.16/28", OUT),
        ("192.0.2.0/24", PART),
        ("172.17.0.0/16", OUT),
        // Static routes: the very one, one around it; what is inside of one is more special, as for every host.
        ("10.77.0.0/16", OUT),
        ("10.76.0.0/15", OUT),
        ("10.78.0.0/16", ("", true)),
        ("10.77.5.0/24", ("", true)),
        ("10.77.0.0/17", OUT),
        ("100.64.0.128/25", OUT),
        ("10.0.0.0/8", OUT),
        ("100.64.0.0/24", OUT),
        ("100.101.102.103/32", OUT),
        ("100.101.102.0/24", PART),
        ("fd77::/48", OUT),
        ("203.0.113.200/32", OUT),
        // Endpoints, the API server, the name server.
        ("203.0.113.0/24", PART),
        ("198.51.100.250/32", OUT),
        ("198.51.100.0/24", PART),
        ("9.9.9.9/32", OUT),
        ("9.0.0.0/8", OUT),
        ("9.9.0.0/16", PART),
        // What nobody routes.
        ("127.0.0.0/8", OUT),
        ("127.1.2.3/32", OUT),
        ("169.254.169.254/32", OUT),
        ("169.254.0.0/16", OUT),
        ("169.254.0.0/15", PART),
        ("224.0.0.0/8", OUT),
        ("255.255.255.255/32", OUT),
        ("0.0.0.0/8", OUT),
        ("fe80::/64", OUT),
        ("ff05::/16", OUT),
        ("::1/128", OUT),
        ("168.63.129.16/32", OUT),
        // Services.
        ("10.43.0.0/16", OUT),
        ("10.43.0.1/32", OUT),
        ("10.42.0.0/15", OUT),
        ("fd43::/64", PART),
        // What nodes have: the pods and the address of b1, WireGuard addresses, in whole and in part, and around them.
        ("10.2.3.0/25", OUT),
        ("10.2.3.11/32", OUT),
        ("10.4.7.0/24", OUT),
        ("64:ff9b::/96", OUT),
        ("fd00:2:0:3:8000::/65", OUT),
        ("fd43::/112", OUT),
        // The own pods.
        ("10.2.1.0/25", OUT),
        // Nobody's.
        ("192.168.77.0/24", ("", true)),
        ("2001:db8:99::/48", ("", true)),
    ] {
        for host in ["a1", "a2"] {
            for as_peer in [true, false] {
                let mut fixture = fixture(host);
                claim(&mut fixture, as_peer, &[range.parse().unwrap(), "192.168.200.0/24".parse().unwrap()]);
                assert_eq!(taken(&fixture), [] as [IpAddr; 0], "{range} on {host}");
                let inside = range == "10.77.5.0/24" || taken_of(&fixture, routed_by_host()).is_empty();
                assert!(inside, "{range} on {host}");
                let (said, routed) = verdict(&fixture, as_peer, range);
                // The mesh itself refuses a range that lies in what a node has.
                let refusals = ["OverlappingAllowedIP", "OverlappingLocationIP"];
                let refused = |problem: &Problem| {
                    refusals.contains(&problem.reason)
                        && problem.message.contains(&format!("{range} "))
                        && problem.message.ends_with("is left out")
                };
                let of_mesh = said.is_empty() && fixture.topology().problems.iter().any(refused);
                assert!(!(of_mesh && routed), "{range} on {host}, as Peer: {as_peer}");
                // To others the pods of a1 are some of the mesh.
                let of_a1 = range == "10.2.1.0/25" && host != "a1";
                if !of_mesh && !of_a1 {
                    assert_eq!((said.as_str(), routed), expected, "{range} on {host}, as Peer: {as_peer}");
                }
                assert!(
                    verdict(&fixture, as_peer, "192.168.200.0/24").1,
                    "the rest of the object works: {range}"
                );
                if said == "RangeNotRouted" {
                    advice_is_right(fixture, as_peer, range);
                }
            }
        }
    }
}

#[test]
fn what_is_left_out_is_no_part_of_the_mesh_for_the_firewall_and_for_wireguard() {
    let mut fixture = fixture("a1");
    claim(&mut fixture, true, &["0.0.0.0/0".parse().unwrap(), "192.0.2.0/24".parse().unwrap()]);
    let rendered = fixture.rendered();
    let firewall = rendered.state.firewall.unwrap();
    let holds = |set: &std::collections::BTreeSet<IpNet>, at: &str| {
        let at: IpAddr = at.parse().unwrap();
        set.iter().any(|net| net.contains(&at))
    };
    for (address, part) in
        [("8.8.8.8", false), ("192.0.2.18", false), ("192.0.2.200", true), ("10.5.0.1", true)]
    {
        assert_eq!(holds(&firewall.never_masquerade, address), part, "never masqueraded: {address}");
        assert_eq!(holds(&firewall.masquerade_from, address), part, "masqueraded: {address}");
        let peers = rendered.state.wireguard.as_ref().unwrap().peers.values();
        let accepted: std::collections::BTreeSet<IpNet> =
            peers.flat_map(|peer| peer.allowed_ips.clone()).collect();
        assert_eq!(holds(&accepted, address), part, "accepted: {address}");
    }
    // The location that has it does not masquerade for the whole world either.
    let mut fixture = self::fixture("b1");
    claim(&mut fixture, false, &["0.0.0.0/0".parse().unwrap(), "10.1.9.0/24".parse().unwrap()]);
    let rendered = fixture.rendered();
    let masquerade_to = rendered.state.firewall.unwrap().masquerade_to;
    assert_eq!(masquerade_to, ["10.1.9.0/24".parse().unwrap()].into());
    assert_eq!(rendered.problems.len(), 1, "its own network is no problem: {:?}", rendered.problems);
}

#[test]
fn who_means_it_says_so() {
    let check = |range: &str, allowed: &str, routed: &[&str], kept: &[&str]| {
        let mut fixture = fixture("a1");
        fixture.config.allow_host_routes = vec![allowed.parse().unwrap()];
        claim(&mut fixture, true, &[range.parse().unwrap()]);
        let kernel = Kernel::new(&fixture.rendered().state, &fixture.facts);
        let tunnel = |at: &&str| {
            let packet = Packet { source: [10, 1, 0, 1].into(), destination: at.parse().unwrap(), iif: None };
            kernel.way(packet).to_string().starts_with("tunnel")
        };
        assert!(routed.iter().all(tunnel), "{range} routed");
        assert!(!kept.iter().any(tunnel), "{range} kept");
    };
    // An exit for everything: what the host has stays with it.
    let mine = [
        "10.1.0.77",
        "10.77.0.1",
        "192.0.2.30",
        API,
        NAME_SERVER,
        "203.0.113.18",
        "127.0.0.1",
        "169.254.1.1",
    ];
    check("0.0.0.0/0", "0.0.0.0/0", &["8.8.8.8", "1.1.1.1", "172.32.0.1"], &mine);
    check("10.77.0.0/16", "10.0.0.0/8", &["10.77.0.1"], &["10.1.0.77"]);
    check("10.1.0.64/26", "10.1.0.64/26", &["10.1.0.77"], &["10.1.0.254", "10.1.0.2"]);
    check("10.43.7.0/24", "10.43.0.0/16", &["10.43.7.1"], &["10.43.8.1"]);
    // What the mesh depends on is nobody's to give.
    check("10.1.0.254/32", "0.0.0.0/0", &[], &["10.1.0.254"]);
    check("198.51.100.250/32", "0.0.0.0/0", &[], &[API]);
    check("169.254.169.254/32", "0.0.0.0/0", &[], &["169.254.169.254"]);
}

/// A more special range than a route or a wide network of the host: a host with a static 10.0.0.0/8 has pods, too.
#[test]
fn pods_and_nodes_are_reached_on_hosts_with_wide_routes() {
    for host in ["a1", "a2"] {
        let mut fixture = fixture(host);
        let flat = fixture.facts.interfaces.get_mut(&"docker0".parse().unwrap()).unwrap();
        flat.addresses = vec!["10.200.0.1/8".parse().unwrap()];
        claim(&mut fixture, true, &["10.9.0.0/24".parse().unwrap()]);
        let destinations: Vec<String> =
            fixture.rendered().state.routes.iter().map(|route| route.destination.to_string()).collect();
        for wanted in ["10.2.3.0/24", "10.1.9.1/32", "10.9.0.0/24", "10.5.0.1/32", "fd00:2:0:3::/64"] {
            assert!(destinations.iter().any(|found| found == wanted), "{wanted} on {host}: {destinations:?}");
        }
        assert_eq!(fixture.rendered().problems, []);
    }
}

/// The next hop of another container network's IPIP route is a node, wherever that is, and no gateway beside this host.
#[test]
fn nodes_are_reached_beside_another_networks_tunnels() {
    for (host, device, compatibility) in
        [("a1", "tunl0", Compatibility::Calico), ("b1", "cilium_tunl", Compatibility::Cilium)]
    {
        let mut fixture = fixture(host);
        fixture.config.compatibility = compatibility;
        if device != "tunl0" {
            let tunnel = Interface {
                mtu: 1480,
                running: true,
                addresses: Vec::new(),
                kind: "ipip".into(),
                ..Interface::default()
            };
            fixture.facts.interfaces.insert(device.parse().unwrap(), tunnel);
        }
        let far = if host == "a1" { "10.1.9.1" } else { "10.1.0.1" };
        fixture.facts.routes.push(HostRoute {
            destination: "10.2.200.0/26".parse().unwrap(),
            gateway: Some(far.parse().unwrap()),
            link: Some(device.parse().unwrap()),
            table: 254,
        });
        fixture.facts.routes.sort();
        let far: IpNet = format!("{far}/32").parse().unwrap();
        let rendered = fixture.rendered();
        assert!(rendered.state.routes.iter().any(|route| route.destination == far), "{far} on {host}");
        assert_eq!(rendered.problems, []);
    }
}

/// What nodes say of themselves is only what they say.
#[test]
fn a_node_does_not_get_what_others_have() {
    for address in [
        API,
        "192.0.2.30",
        "203.0.113.200",
        "10.43.0.1",
        "169.254.169.254",
        "203.0.113.17",
        "100.101.102.103",
        "8.8.8.8",
    ] {
        let mut fixture = fixture("a2");
        let b1 = fixture.nodes.iter_mut().find(|node| node.name == "b1").unwrap();
        b1.internal_ips[0] = format!("{address}/32").parse().unwrap();
        // Else the mesh itself refuses those that are public.
        b1.internal_ips_forced = true;
        assert_eq!(taken(&fixture), [] as [IpAddr; 0], "{address}");
        let told = fixture.rendered().problems.iter().any(|problem| problem.reason == "AddressNotRouted");
        assert_eq!(told, address != "8.8.8.8", "{address}: {:?}", fixture.rendered().problems);
    }
    for subnet in ["10.1.0.0/24", "198.51.100.0/24", "10.77.0.0/16", "127.0.0.0/8"] {
        let mut fixture = fixture("a1");
        let b1 = fixture.nodes.iter_mut().find(|node| node.name == "b1").unwrap();
        b1.pod_subnets[0] = subnet.parse().unwrap();
        assert_eq!(taken(&fixture), [] as [IpAddr; 0], "{subnet}");
        assert_eq!(fixture.rendered().problems.len(), 1, "{subnet}: {:?}", fixture.rendered().problems);
    }
}

/// An API server that is reached through the mesh alone is nothing to keep, and what holds it is watched.
#[test]
fn an_api_server_behind_the_mesh_is_reached_through_it() {
    let mut fixture = fixture("a2");
    fixture.input.lifelines.remove(&API.parse().unwrap());
    claim(&mut fixture, false, &["198.51.100.0/24".parse().unwrap(), "192.168.77.0/24".parse().unwrap()]);
    let rendered = fixture.rendered();
    assert_eq!(rendered.problems, []);
    assert_eq!(rendered.exposed, ["198.51.100.0/24".parse().unwrap()].into());
    fixture.input.withdrawn = rendered.exposed;
    let rendered = fixture.rendered();
    assert!(!rendered.state.routes.iter().any(|route| route.destination.to_string() == "198.51.100.0/24"));
    assert!(rendered.state.routes.iter().any(|route| route.destination.to_string() == "192.168.77.0/24"));
    assert_eq!(rendered.problems[0].reason, "RangeWithdrawn");
}

/// Where no address of an API server is known, all that somebody wrote is watched.
#[test]
fn an_api_server_that_nobody_knows_may_be_anywhere() {
    let mut fixture = fixture("a1");
    fixture.input.api_servers.clear();
    claim(&mut fixture, true, &["192.168.77.0/24".parse().unwrap(), "127.0.0.0/8".parse().unwrap()]);
    let exposed: Vec<String> = fixture.rendered().exposed.iter().map(ToString::to_string).collect();
    assert_eq!(exposed, ["10.5.0.1/32", "192.168.77.0/24"]);
}

/// What is taken in many pieces, or is wide and holds nothing of the host, is taken all the same.
#[test]
fn many_pieces_are_not_less_than_the_whole() {
    let check = |ranges: &[&str], lost: &[&str]| {
        let mut fixture = fixture("a1");
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        claim(&mut fixture, true, &ranges);
        let kernel = Kernel::new(&fixture.rendered().state, &fixture.facts);
        for at in lost {
            let packet = Packet { source: [10, 1, 0, 1].into(), destination: at.parse().unwrap(), iif: None };
            let way = kernel.way(packet).to_string();
            assert!(!way.starts_with("tunnel"), "{at} with {ranges:?}: {way}");
        }
        let said = fixture.rendered().problems.iter().any(|problem| problem.object.to_string() == "peer p1");
        assert!(said, "{ranges:?} is named");
    };
    check(&["32.0.0.0/3", "16.0.0.0/4", "128.0.0.0/3", "3000::/4"], &["52.1.1.1", "20.1.1.1", "3001::1"]);
    let eighths: Vec<String> = (1..224).map(|first| format!("{first}.0.0.0/8")).collect();
    check(&eighths.iter().map(String::as_str).collect::<Vec<_>>(), &["52.1.1.1", "8.8.8.8"]);
    let twelfths: Vec<String> = (0..256).map(|i| format!("{}.{}.0.0/12", 32 + i / 16, i % 16 * 16)).collect();
    check(&twelfths.iter().map(String::as_str).collect::<Vec<_>>(), &["47.200.1.1", "40.1.1.1"]);
    let corporate: Vec<String> = (100..200).map(|i| format!("10.{i}.0.0/16")).collect();
    check(&corporate.iter().map(String::as_str).collect::<Vec<_>>(), &["10.190.0.1"]);
    check(&["10.77.0.0/17", "10.77.128.0/17"], &["10.77.3.4", "10.77.200.1"]);
    check(&["100.64.0.0/25", "100.64.0.128/25"], &["100.64.0.9"]);
}

/// An endpoint is what its object says; others do not lose anything by it.
#[test]
fn an_endpoint_takes_nothing_from_others() {
    for host in ["a1", "a2"] {
        let mut fixture = fixture(host);
        for (index, at) in endpoints().into_iter().enumerate() {
            let mut peer = peer(&format!("p{} 10.5.0.{index}/32", index + 1));
            peer.allowed_ips.push(format!("{at}/32").parse().unwrap());
            peer.endpoint = format!("{at}:51820").parse().ok();
            fixture.peers.push(peer);
        }
        let b1 = fixture.nodes.iter_mut().find(|node| node.name == "b1").unwrap();
        b1.allowed_location_ips = vec!["192.168.0.0/16".parse().unwrap()];
        for index in 10..50u8 {
            let mut peer = peer(&format!("p9 10.6.0.{index}/32"));
            (peer.name, peer.key) = (format!("q{index}"), mesh::PublicKey::from_bytes([index; 32]).unwrap());
            peer.endpoint = format!("192.168.7.{index}:51820").parse().ok();
            fixture.peers.push(peer);
        }
        assert_eq!((lost(&fixture), taken(&fixture)), (Vec::new(), Vec::new()), "{host}");
        let rendered = fixture.rendered();
        assert!(rendered.state.routes.iter().any(|route| route.destination.to_string() == "192.168.0.0/16"));
        // Nobody speaks as the API server, a gateway or the metadata service because his tunnel ends there.
        let accepted: Vec<IpNet> = rendered
            .state
            .wireguard
            .iter()
            .flat_map(|wireguard| wireguard.peers.values())
            .flat_map(|peer| peer.allowed_ips.clone())
            .collect();
        let firewall = rendered.state.firewall.unwrap();
        for at in [API, "10.1.0.254", "169.254.169.254", "203.0.113.18"] {
            let at: IpAddr = at.parse().unwrap();
            assert!(!accepted.iter().any(|net| net.contains(&at)), "{at} is accepted");
            assert!(
                !firewall.never_masquerade.iter().any(|net| net.contains(&at)),
                "{at} is not masqueraded"
            );
        }
        let at: IpAddr = "8.8.8.8".parse().unwrap();
        assert!(!firewall.never_masquerade.iter().any(|net| net.contains(&at)), "pods reach {at}");
    }
}

/// An address of a node that is a pod of another one, also inside of a location, where packets are encapsulated.
#[test]
fn an_address_of_a_node_is_not_somebody_elses_pod() {
    for (claimant, address) in
        [("a2", "10.2.3.11"), ("a2", "198.51.100.250"), ("b1", "10.2.2.11"), ("a2", "10.43.0.1")]
    {
        let mut fixture = fixture("a1");
        fixture.config.encapsulation = Encapsulation::Always;
        fixture.config.encapsulation_type = hostnet::EncapsulationType::Vxlan;
        let node = fixture.nodes.iter_mut().find(|node| node.name == claimant).unwrap();
        node.internal_ips[0] = format!("{address}/24").parse().unwrap();
        let rendered = fixture.rendered();
        let address: IpNet = format!("{address}/32").parse().unwrap();
        assert!(
            !rendered.state.routes.iter().any(|route| route.destination == address),
            "{claimant} {address}"
        );
        let reasons: Vec<_> = fixture.problems().iter().map(|problem| problem.reason).collect();
        let expected = ["AddressNotRouted", "ForeignAddress"];
        assert!(expected.iter().any(|reason| reasons.contains(reason)), "{claimant} {address}: {reasons:?}");
    }
}

/// A list as long as an object can hold is one problem.
#[test]
fn a_long_list_is_one_problem() {
    let mut fixture = fixture("a1");
    let many: Vec<IpNet> = (0..200u8).map(|i| format!("10.1.0.{i}/32").parse().unwrap()).collect();
    claim(&mut fixture, true, &many);
    let rendered = fixture.rendered();
    let [problem] = &rendered.problems[..] else { panic!("{:?}", rendered.problems) };
    assert!(problem.message.len() < 700 && problem.message.contains("more"), "{problem}");
}

/// Rules of others that come before ours, as wg-quick's do when it starts later.
#[test]
fn our_rules_come_before_those_that_all_packets_meet() {
    let priorities = |first: Option<u32>| {
        let mut fixture = Fixture::v4("a1", Encapsulation::Always);
        fixture.facts.first_rule = [first, None];
        let rendered = fixture.rendered();
        let priorities: std::collections::BTreeSet<u32> =
            rendered.state.rules.iter().map(|rule| rule.priority).collect();
        (priorities.into_iter().collect::<Vec<_>>(), rendered.problems.len())
    };
    assert_eq!(priorities(None), (vec![1107, 1108], 0));
    assert_eq!(priorities(Some(5270)), (vec![1107, 1108], 0));
    assert_eq!(priorities(Some(1109)), (vec![1107, 1108], 0));
    assert_eq!(priorities(Some(1105)), (vec![1103, 1104], 0));
    assert_eq!(priorities(Some(3)), (vec![1, 2], 0));
    assert_eq!(priorities(Some(2)), (vec![1107, 1108], 1));
}

/// Where a Peer may say that its tunnel ends.
fn endpoints() -> Vec<&'static str> {
    vec![
        "10.2.3.11",
        "10.1.9.1",
        "10.4.0.2",
        "10.1.0.2",
        "10.1.0.254",
        API,
        "203.0.113.18",
        "8.8.8.8",
        "169.254.169.254",
    ]
}

/// Pods and nodes that are not reached where they are.
fn lost(fixture: &Fixture) -> Vec<IpAddr> {
    let of_mesh = fixture.nodes.iter().filter(|node| node.name != fixture.host);
    let fresh = Fixture { peers: Vec::new(), ..self::fixture(fixture.host) };
    let (without, with) = (
        Kernel::new(&fresh.rendered().state, &fresh.facts),
        Kernel::new(&fixture.rendered().state, &fixture.facts),
    );
    let pods = of_mesh.clone().flat_map(|node| &node.pod_subnets).flat_map(simulation::forwarding::samples);
    let nodes = of_mesh.flat_map(|node| node.internal_ips.iter().map(IpNet::addr));
    let source = IpAddr::from([10, 1, 0, 1]);
    let way = |kernel: &Kernel, destination| kernel.way(Packet { source, destination, iif: None });
    pods.chain(nodes).filter(|at| way(&without, *at) != way(&with, *at)).collect()
}

fn any_net() -> impl Strategy<Value = IpNet> {
    let mut kept = kept();
    kept.extend(["10.2.3.11", "10.1.9.1", "10.4.0.2"].map(|text| text.parse::<IpAddr>().unwrap()));
    prop_oneof![
        // Around what is kept, wider and wider.
        (prop::sample::select(kept), 0u8..=32).prop_map(|(at, wider)| {
            let length = if at.is_ipv4() { 32 - wider } else { 128 - wider * 4 };
            IpNet::new(at, length).unwrap().trunc()
        }),
        (any::<u32>(), 0u8..=32).prop_map(|(at, length)| IpNet::new(
            std::net::Ipv4Addr::from(at).into(),
            length
        )
        .unwrap()
        .trunc()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is written, by whom, and whatever role this host has.
    #[test]
    fn nothing_that_is_written_takes_anything_from_a_host(
        member: bool,
        peer in prop::collection::vec(any_net(), 0..4),
        location in prop::collection::vec(any_net(), 0..4),
        pods in any_net(),
        internal in any_net(),
        endpoint in prop::sample::select(endpoints()),
        odd: bool,
    ) {
        let mut fixture = fixture(if member { "a2" } else { "a1" });
        claim(&mut fixture, true, &peer);
        fixture.peers[0].endpoint = format!("{endpoint}:51820").parse().ok();
        claim(&mut fixture, false, &location);
        if !odd {
            prop_assert_eq!(lost(&fixture), [] as [IpAddr; 0]);
        }
        if odd {
            let b1 = fixture.nodes.iter_mut().find(|node| node.name == "b1").unwrap();
            b1.pod_subnets[0] = pods;
            b1.internal_ips[0] = IpNet::from(internal.addr());
        }
        prop_assert_eq!(taken(&fixture), [] as [IpAddr; 0]);
        let claimed: Vec<IpNet> = fixture.peers.iter().flat_map(|peer| peer.allowed_ips.clone())
            .chain(fixture.nodes.iter().flat_map(|node| node.allowed_location_ips.clone()))
            .chain(fixture.nodes.iter().flat_map(|node| node.pod_subnets.clone()))
            .chain(fixture.nodes.iter().flat_map(|node| node.internal_ips.iter().map(|net| net.addr().into())))
            .collect();
        for address in taken_of(&fixture, routed_by_host()) {
            let special = claimed.iter().any(|net| {
                let routes = fixture.facts.routes.iter().map(|route| route.destination);
                let mut routes = routes.filter(|route| route.contains(net) && route.prefix_len() > 8 && route != net);
                net.contains(&address) && routes.next().is_some()
            });
            prop_assert!(special, "{} is taken by nothing more special than the host's route", address);
        }
        // No allowed IP is in two tunnels.
        let mut tunnels = std::collections::BTreeMap::new();
        for (key, peer) in rendered_peers(&fixture) {
            for net in peer {
                prop_assert_eq!(tunnels.insert(net, key), None, "{} is in two tunnels", net);
            }
        }
        // What is accepted and what is routed agree, but for single addresses that are reached without a tunnel.
        let rendered = fixture.rendered();
        let accepted: std::collections::BTreeSet<IpNet> = rendered
            .state
            .wireguard
            .iter()
            .flat_map(|wireguard| wireguard.peers.values().flat_map(|peer| peer.allowed_ips.clone()))
            .collect();
        if !member {
            for route in rendered.state.routes.iter().filter(|route| route.link.as_str() == "kilo0") {
                prop_assert!(accepted.contains(&route.destination), "{} is routed and not accepted", route);
            }
        }
    }
}

fn rendered_peers(fixture: &Fixture) -> Vec<(mesh::PublicKey, Vec<IpNet>)> {
    let peers = fixture.rendered().state.wireguard.unwrap().peers;
    peers.into_iter().map(|(key, peer)| (key, peer.allowed_ips.into_iter().collect())).collect()
}

/// Ranges around the LAN and around each other: each part belongs to the narrowest.
#[test]
fn a_part_of_two_ranges_is_the_narrower_ones() {
    let mut fixture = fixture("a1");
    let peers = ["p1 192.0.2.128/25 10.1.0.0/22", "p2 192.0.2.0/24 10.1.0.0/20", "p3 192.0.2.0/23"];
    fixture.peers = peers.into_iter().map(peer).collect();
    let mut tunnels = std::collections::BTreeMap::new();
    for (key, peer) in rendered_peers(&fixture) {
        for net in peer {
            assert_eq!(tunnels.insert(net, key), None, "{net} is in two tunnels");
        }
    }
    let key = |at: &str| {
        let at: IpAddr = at.parse().unwrap();
        let (_, key) = tunnels
            .iter()
            .filter(|(net, _)| net.contains(&at))
            .max_by_key(|(net, _)| net.prefix_len())
            .unwrap();
        *key
    };
    assert_eq!(key("192.0.2.200"), fixture.peers[0].key);
    assert_eq!(key("192.0.2.100"), fixture.peers[1].key);
    assert_eq!(key("10.1.3.1"), fixture.peers[0].key);
    assert_eq!(key("10.1.11.1"), fixture.peers[1].key);
}

/// The host's role does not matter here, but the fixture is meant to have both.
#[test]
fn the_fixture_has_a_leader_and_a_member() {
    for (host, up) in [("a1", true), ("a2", false)] {
        let state = fixture(host).rendered().state;
        assert_eq!(state.links[&"kilo0".parse().unwrap()].up, up, "{:?}", Role::Leader);
    }
}
