//! What is rendered for the host of a client, written as lines.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{net::IpAddr, sync::Arc};

use hostnet::{
    Address, HostFacts, HostState, Interface, Leftover, NextHop, Rendered, Route,
    render::client::{ClientConfig, OtherPeers, alone, own_part, render},
};
use ipnet::IpNet;
use mesh::{Granularity, Node, Peer, Perspective, PrivateKey, PublicKey, Topology, TopologyConfig};

const LAPTOP: &str = "10.10.10.10/32";

fn nets(text: &str) -> Vec<IpNet> {
    text.split(' ').filter(|word| !word.is_empty()).map(|word| word.parse().unwrap()).collect()
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

/// The n-th node: dual stack, with an endpoint of its own.
fn node(name: &str, n: u8) -> Node {
    Node {
        location: name[..1].to_owned(),
        key: Some(key(n).public_key()),
        endpoint: format!("203.0.113.{n}:51820").parse().ok(),
        internal_ips: nets(&format!("10.1.{n}.1/24")),
        pod_subnets: nets(&format!("10.2.{n}.0/24 fd00:2:0:{n}::/64")),
        ..Node::named(name)
    }
}

fn peer(name: &str, n: u8, allowed_ips: &str) -> Peer {
    Peer {
        name: name.to_owned(),
        created: 0,
        changed: false,
        key: key(n).public_key(),
        allowed_ips: nets(allowed_ips),
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 10,
    }
}

fn config() -> ClientConfig {
    ClientConfig {
        peer: "laptop".to_owned(),
        interface: "kilo0".parse().unwrap(),
        mtu: 1420,
        private_key: key(100),
        preshared_keys: Default::default(),
        other_peers: Default::default(),
        listen_port: 51820,
        marks: Default::default(),
        addresses: nets(LAPTOP),
        further_ranges: Vec::new(),
        allow_host_routes: Vec::new(),
        lifelines: Default::default(),
        resolved: Default::default(),
    }
}

fn rendered(nodes: Vec<Node>, facts: &HostFacts, config: &ClientConfig) -> Rendered {
    with_peers(nodes, vec![peer("phone", 101, "10.5.0.1/32")], facts, config)
}

fn with_peers(nodes: Vec<Node>, others: Vec<Peer>, facts: &HostFacts, config: &ClientConfig) -> Rendered {
    let subnets = "10.4.0.0/16".parse().unwrap();
    let peers = std::iter::once(peer("laptop", 100, LAPTOP)).chain(others);
    let topology = Topology::new(
        TopologyConfig { granularity: Granularity::Location, subnets, services: Vec::new() },
        nodes.into_iter().map(Arc::new),
        peers,
    );
    let perspective = Perspective::of(&topology, "a1").unwrap();
    render(&perspective, facts, config).unwrap()
}

fn routes(state: &HostState) -> Vec<String> {
    state.routes.iter().map(ToString::to_string).collect()
}

fn allowed(state: &HostState, key: PublicKey) -> Vec<String> {
    state.wireguard.as_ref().unwrap().peers[&key].allowed_ips.iter().map(ToString::to_string).collect()
}

fn reasons(rendered: &Rendered) -> Vec<&str> {
    rendered.problems.iter().map(|problem| problem.reason).collect()
}

#[test]
fn packets_of_the_tunnels_are_marked_from_the_first_one_on() {
    let config = ClientConfig { marks: "0x700".parse().unwrap(), ..config() };
    let result = rendered(vec![node("a1", 1)], &HostFacts::default(), &config);
    for state in [&result.state, &alone(&config)] {
        assert_eq!(state.wireguard.as_ref().unwrap().mark, 0x100);
    }
}

#[test]
fn everything_of_all_segments_and_peers_goes_through_tunnels() {
    let mut b1 = node("b1", 2);
    b1.allowed_location_ips = nets("192.168.7.0/24");
    let result = rendered(vec![node("a1", 1), b1], &HostFacts::default(), &config());
    let from = "dev kilo0 src 10.10.10.10 table 1109";
    let expected = [
        "10.1.1.1/32",
        "10.1.2.1/32",
        "10.2.1.0/24",
        "10.2.2.0/24",
        "10.4.0.1/32",
        "10.4.0.2/32",
        "10.5.0.1/32",
        "192.168.7.0/24",
    ];
    assert_eq!(routes(&result.state), expected.map(|range| format!("{range} {from}")));
    assert_eq!(reasons(&result), [""; 0]);
    let segment = &result.state.wireguard.as_ref().unwrap().peers[&key(2).public_key()];
    assert_eq!(segment.endpoint, "203.0.113.2:51820".parse().ok());
    assert_eq!(segment.persistent_keepalive, 10);
    assert_eq!(
        allowed(&result.state, key(2).public_key()),
        ["10.1.2.1/32", "10.2.2.0/24", "10.4.0.2/32", "192.168.7.0/24", "fd00:2:0:2::/64"],
        "IPv6 is accepted; only this host has no address to send it from"
    );
    assert!(result.state.firewall.is_none());
    let rules: Vec<_> = result.state.rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["1109: not from all fwmark 0x10/0x70 lookup 1109"]);
    assert_eq!(result.state.forwarding, Default::default());
}

#[test]
fn a_client_with_two_addresses_routes_both_families() {
    let config = ClientConfig { addresses: nets("10.10.10.10/32 fd10::10/128"), ..config() };
    let result = rendered(vec![node("a1", 1)], &HostFacts::default(), &config);
    assert!(
        routes(&result.state).contains(&"fd00:2:0:1::/64 dev kilo0 src fd10::10 table 1109".to_owned()),
        "{:?}",
        routes(&result.state)
    );
}

#[test]
fn further_ranges_go_through_the_segment_of_the_first_node() {
    let config = ClientConfig { further_ranges: nets("10.43.0.0/16 10.2.2.0/24"), ..config() };
    let result = rendered(vec![node("a1", 1), node("b1", 2)], &HostFacts::default(), &config);
    assert!(allowed(&result.state, key(1).public_key()).contains(&"10.43.0.0/16".to_owned()));
    assert!(routes(&result.state).contains(&"10.43.0.0/16 dev kilo0 src 10.10.10.10 table 1109".to_owned()));
    assert_eq!(reasons(&result), ["RangeTaken"], "one of them is b's");
    let of_others = allowed(&result.state, key(2).public_key());
    assert!(of_others.contains(&"10.2.2.0/24".to_owned()) && !of_others.contains(&"10.43.0.0/16".to_owned()));
}

#[test]
fn tunnels_do_not_swallow_what_carries_them() {
    let mut a1 = node("a1", 1);
    a1.internal_ips = nets("203.0.113.1/24");
    let config = ClientConfig {
        further_ranges: nets("203.0.113.0/24"),
        lifelines: [("10.1.2.1".parse().unwrap(), hostnet::Lifeline::ApiServer)].into(),
        ..config()
    };
    let result = rendered(vec![a1, node("b1", 2)], &HostFacts::default(), &config);
    let routes = routes(&result.state);
    let routed = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        result.state.routes.iter().any(|route| route.destination.contains(&address))
    };
    for missing in ["203.0.113.1", "203.0.113.2", "10.1.2.1"] {
        assert!(!routed(missing), "{missing} in {routes:?}");
    }
    assert!(routed("203.0.113.0") && routed("203.0.113.3"), "what is beside the endpoints: {routes:?}");
    assert_eq!(reasons(&result), ["RangeRoutedInPart"], "single addresses of nodes are not worth a word");
    let [in_part] = &result.problems[..] else { panic!("{:?}", result.problems) };
    assert!(in_part.message.contains("203.0.113.0/24 holds 203.0.113.1"), "{in_part}");
}

#[test]
fn the_network_that_the_host_is_in_stays_its_own() {
    let mut b1 = node("b1", 2);
    b1.allowed_location_ips = nets("192.168.7.0/24");
    let home = Interface { addresses: nets("192.168.7.20/24"), ..Interface::default() };
    let facts = HostFacts { interfaces: [("eth0".parse().unwrap(), home)].into(), ..Default::default() };
    let result = rendered(vec![node("a1", 1), b1], &facts, &config());
    assert!(!routes(&result.state).iter().any(|route| route.starts_with("192.168")));
    assert_eq!(reasons(&result), ["RangeNotRouted"]);
    assert!(result.problems[0].message.contains("eth0"), "{}", result.problems[0].message);
}

#[test]
fn what_belongs_to_others_on_the_host_is_not_touched() {
    let mut observed = alone(&config());
    let route = |link: &str| Route {
        table: hostnet::CLIENT_TABLE,
        destination: "10.2.1.0/24".parse().unwrap(),
        next_hop: NextHop::Destination,
        link: link.parse().unwrap(),
        source: None,
    };
    let of_agent = Address { link: "kilo9".parse().unwrap(), net: "10.4.0.1/16".parse().unwrap() };
    observed.addresses.insert(of_agent);
    observed.routes.insert(route("kilo9"));
    observed.firewall = Some(hostnet::Firewall::default());
    observed.leftovers.insert(Leftover::Route { route: route("tunl0"), protocol: 4 });
    assert_eq!(own_part(&observed, &config().interface), alone(&config()));
    observed.leftovers.insert(Leftover::Route { route: route("kilo0"), protocol: 4 });
    assert_eq!(
        own_part(&observed, &config().interface).leftovers.len(),
        1,
        "a Go kgctl's route is taken over"
    );
    observed.links.clear();
    assert_eq!(
        own_part(&observed, &config().interface),
        HostState::default(),
        "the interface is somebody else's"
    );
}

/// What of these ranges of other Peers a client with these settings routes, and what it says.
fn greedy(ranges: &str, config: &ClientConfig) -> (Vec<String>, Rendered) {
    let uplink = Interface { addresses: nets("192.168.7.20/24"), ..Interface::default() };
    let facts = HostFacts { interfaces: [("eth0".parse().unwrap(), uplink)].into(), ..Default::default() };
    let others = vec![peer("greedy", 102, ranges), peer("phone", 101, "10.5.0.1/32")];
    let rendered = with_peers(vec![node("a1", 1)], others, &facts, config);
    let all = routes(&rendered.state);
    let of_cluster = ["10.1.1.1/32", "10.2.1.0/24", "10.4.0.1/32"];
    let routed = all.iter().filter_map(|route| route.split(' ').next());
    (routed.filter(|range| !of_cluster.contains(range)).map(str::to_owned).collect(), rendered)
}

#[test]
fn other_peers_do_not_get_public_addresses_unasked() {
    for range in
        ["8.8.8.0/24", "8.8.8.8/32", "0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/0", "198.51.100.0/28", "12.0.0.0/8"]
    {
        let (routed, rendered) = greedy(&format!("{range} 10.6.0.0/24"), &config());
        assert_eq!(routed, ["10.5.0.1/32", "10.6.0.0/24"], "{range}");
        assert_eq!(reasons(&rendered), ["PublicRangeNotRouted"]);
        let told = &rendered.problems[0].message;
        assert!(told.contains(range) && told.contains("--peers=greedy"), "{told}");
        assert_eq!(
            allowed(&rendered.state, key(102).public_key()),
            ["10.6.0.0/24"],
            "nor do they speak as these"
        );
    }
    let v6 = ClientConfig { addresses: nets("10.10.10.10/32 fd10::10/128"), ..config() };
    let (routed, _) = greedy("2001:db8::/32 ::/0 2000::/3 fd77::/64", &v6);
    assert_eq!(routed, ["10.5.0.1/32", "fd00:2:0:1::/64", "fd77::/64"]);
    // Private ones are what Peers are for; the host's own network stays its own.
    let (routed, rendered) = greedy("192.168.7.0/24 192.168.8.0/24", &config());
    assert_eq!(routed, ["10.5.0.1/32", "192.168.8.0/24"]);
    assert_eq!(reasons(&rendered), ["RangeNotRouted"]);
}

#[test]
fn other_peers_get_public_addresses_when_asked_for() {
    let named = |names: &[&str]| OtherPeers::Named(names.iter().map(ToString::to_string).collect());
    let with = |other_peers| ClientConfig { other_peers, ..config() };
    let (routed, rendered) = greedy("8.8.8.0/24 0.0.0.0/1", &with(named(&["greedy"])));
    assert_eq!(routed, ["8.8.8.0/24"], "what is wider than a network needs a word for itself");
    assert_eq!(reasons(&rendered), ["RangeNotRouted"]);
    let allow = ClientConfig { allow_host_routes: nets("8.8.0.0/16"), ..config() };
    let (routed, _) = greedy("8.8.8.0/24 9.9.9.0/24", &allow);
    assert_eq!(routed, ["8.8.8.0/24", "10.5.0.1/32"]);
    let (routed, rendered) = greedy("8.8.8.0/24 10.6.0.0/24", &with(named(&[])));
    assert_eq!((routed.len(), reasons(&rendered).len()), (0, 0));
    let tunnels: Vec<_> = rendered.state.wireguard.unwrap().peers.into_keys().collect();
    assert_eq!(tunnels, [key(1).public_key()], "only the segment");
}
