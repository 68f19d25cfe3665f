//! How much is done, counted in allocations and not in time: what is computed grows in proportion to the cluster, a
//! heartbeat that changes nothing costs nothing, and one change of the cluster is one change of the host.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use hostnet::{Change, HostState, plan, render};
use mesh::{Granularity, Node, Peer, Perspective, PrivateKey, PublicKey};
use simulation::{
    alone::Alone,
    synthetic::{Cluster, Size, Stack, facts, render_config, render_input},
};

/// Clusters that tempt to look at everything for everything.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// 20 nodes in a location.
    Usual,
    /// All nodes in one location, seen by one that does not lead.
    OneLocation,
    /// Every node a segment.
    Full,
    /// Every location with ranges of its own.
    LocationIps,
    /// As many peers as nodes.
    Peers,
    /// All keys, pod subnets and internal addresses twice.
    Twice,
}

fn cluster(shape: Shape, nodes: usize) -> Cluster {
    let granularity = if shape == Shape::Full { Granularity::Full } else { Granularity::Location };
    let locations = if shape == Shape::OneLocation { 1 } else { nodes.div_ceil(20) };
    let peers = if shape == Shape::Peers { nodes } else { 10 };
    let mut cluster = Cluster::new(Size { nodes, locations, peers, stack: Stack::Dual }, granularity);
    for index in 0..nodes {
        let original = cluster.nodes[index / 2].clone();
        let node = Arc::make_mut(&mut cluster.nodes[index]);
        match shape {
            Shape::LocationIps if index < locations => {
                let net = format!("100.{}.{}.0/24", 64 + index / 256, index % 256);
                node.allowed_location_ips.push(net.parse().unwrap());
            }
            Shape::Twice => {
                node.key = if index % 4 == 0 { node.key } else { original.key };
                node.pod_subnets.clone_from(&original.pod_subnets);
                node.internal_ips.clone_from(&original.internal_ips);
            }
            _ => {}
        }
    }
    cluster
}

/// Topology, perspective, render and a plan from nothing, as after a start.
fn work(shape: Shape, nodes: usize) -> AllocationInfo {
    let cluster = cluster(shape, nodes);
    let node = if shape == Shape::OneLocation { cluster.nodes.last() } else { cluster.nodes.first() };
    let node = node.unwrap();
    let (facts, config) = (facts(node), render_config(PrivateKey::from_random([1; 32])));
    measure(|| {
        let topology = cluster.topology();
        let perspective = Perspective::of(&topology, &node.name).unwrap();
        let rendered = render(&perspective, &facts, &config, &render_input());
        assert!(!plan(&HostState::default(), &rendered.state).is_empty());
    })
}

#[test]
fn growth_stays_within_n_log_n() {
    let n_log_n = |nodes: usize| nodes as f64 * (nodes as f64).log2();
    for shape in
        [Shape::Usual, Shape::OneLocation, Shape::Full, Shape::LocationIps, Shape::Peers, Shape::Twice]
    {
        let (small, large) = (500, 4_000);
        let (before, after) = (work(shape, small), work(shape, large));
        // A tenth more: tables grow by doubling.
        let allowed = n_log_n(large) / n_log_n(small) * 1.1;
        for (what, before, after) in [
            ("allocations", before.count_total, after.count_total),
            ("bytes", before.bytes_total, after.bytes_total),
        ] {
            let growth = after as f64 / before as f64;
            println!("{shape:?}: {before} {what} for {small} nodes, {after} for {large}: {growth:.1} times");
            assert!(growth < allowed, "{shape:?}: {growth:.1} times the {what}, {allowed:.1} are allowed");
        }
    }
}

/// No allocation, no action, and it is not even looked when to come back.
#[test]
fn a_heartbeat_costs_nothing() {
    for nodes in [100, 2_000] {
        let cluster = cluster(Shape::Usual, nodes);
        let mut alone = Alone::new(&cluster, 0);
        assert_eq!(alone.view.counts.nodes, nodes, "{:?}", alone.view.unhealthy);
        let timeout = alone.reconciler.poll_timeout();
        for node in &cluster.nodes[1..] {
            let beat = Arc::new(Node { last_seen: node.last_seen + 30, ..(**node).clone() });
            let (name, update) = (beat.name.clone(), alone.update(beat));
            let mut update = Some(update);
            let done = measure(|| {
                alone.reconciler.handle_node(&name, update.take(), alone.now);
                assert_eq!(alone.reconciler.poll_action(alone.now), None);
            });
            assert_eq!(done.count_total, 0, "{done:?}");
            let done = measure(|| {
                alone.hear(&name, node.last_seen + 60);
                assert_eq!(alone.reconciler.poll_action(alone.now), None);
            });
            assert_eq!(done.count_total, 0, "{done:?}");
            assert_eq!(alone.reconciler.poll_timeout(), timeout);
        }
    }
}

/// What the host of a leader is told to change, as lines without the keys.
fn lines(changes: &[Change], names: &[(PublicKey, &str)]) -> Vec<String> {
    let line = |change: &Change| {
        names.iter().fold(change.to_string(), |line, (key, name)| line.replace(&key.to_string(), name))
    };
    changes.iter().map(line).collect()
}

/// A leader among 1,000 nodes: node 1 leads another location, and node 51 is in that one.
fn leader() -> (Cluster, Alone) {
    let mut cluster = Cluster::new(
        Size { nodes: 1_000, locations: 50, peers: 10, stack: Stack::Single },
        Granularity::Location,
    );
    for index in [1, 51] {
        Arc::make_mut(&mut cluster.nodes[index]).pod_subnets = vec![pods(index)];
    }
    let alone = Alone::new(&cluster, 0);
    assert_eq!(alone.machine.0.wireguard.as_ref().unwrap().peers.len(), 59);
    (cluster, alone)
}

fn pods(number: usize) -> ipnet::IpNet {
    format!("10.200.{number}.0/24").parse().unwrap()
}

/// Tells of a change of a node and expects these changes of the host.
fn check(index: usize, edit: impl FnOnce(&mut Node), expected: &[&str]) {
    let (cluster, mut alone) = leader();
    let names = [(cluster.nodes[1].key.unwrap(), "first"), (cluster.nodes[51].key.unwrap(), "second")];
    let mut node = (*cluster.nodes[index]).clone();
    edit(&mut node);
    alone.see(Arc::new(node));
    let changes = alone.work();
    assert_eq!(lines(&changes, &names), expected);
    assert_eq!(alone.view.unhealthy, Vec::<String>::new());
}

#[test]
fn a_moved_endpoint_is_one_endpoint() {
    check(
        1,
        |node| node.endpoint = "198.51.100.7:51820".parse().ok(),
        &["~ wireguard kilo0 peer first endpoint 198.51.100.7:51820"],
    );
}

#[test]
fn another_pod_subnet_is_one_route() {
    check(
        51,
        |node| node.pod_subnets = vec![pods(99)],
        &[
            "~ wireguard kilo0 peer first +10.200.99.0/24",
            "~ firewall never masquerade to: +10.200.99.0/24 -10.200.51.0/24",
            "+ route 10.200.99.0/24 via 10.4.0.2 dev kilo0 src 172.16.0.1 table 1108",
            "- route 10.200.51.0/24 via 10.4.0.2 dev kilo0 src 172.16.0.1 table 1108",
            "~ wireguard kilo0 peer first -10.200.51.0/24",
        ],
    );
}

#[test]
fn what_no_host_depends_on_changes_nothing() {
    check(51, |node| node.endpoint = "198.51.100.7:51820".parse().ok(), &[]);
    check(51, |node| node.wireguard_ips = vec!["10.4.0.9/16".parse().unwrap()], &[]);
}

#[test]
fn a_peer_is_one_peer() {
    let (_, mut alone) = leader();
    let key = PublicKey::from_bytes([7; 32]).unwrap();
    let peer = Peer {
        name: "laptop".to_owned(),
        created: 0,
        changed: false,
        key,
        allowed_ips: vec!["10.6.0.1/32".parse().unwrap()],
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    };
    alone.see_peer("laptop", Some(peer));
    let there = [
        "+ wireguard kilo0 peer laptop +10.6.0.1/32",
        "~ firewall masquerade from: +10.6.0.1/32; never masquerade to: +10.6.0.1/32",
        "+ route 10.6.0.1/32 dev kilo0 src 172.16.0.1 table 1108",
    ];
    assert_eq!(lines(&alone.work(), &[(key, "laptop")]), there);
    alone.see_peer("laptop", None);
    let gone = [
        "~ firewall masquerade from: -10.6.0.1/32; never masquerade to: -10.6.0.1/32",
        "- route 10.6.0.1/32 dev kilo0 src 172.16.0.1 table 1108",
        "- wireguard kilo0 peer laptop",
    ];
    assert_eq!(lines(&alone.work(), &[(key, "laptop")]), gone);
}
