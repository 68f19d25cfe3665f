//! Nodes that differ from most are named within one look at the host, and no longer when they do not. Nobody is unhealthy
//! because of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use hostnet::HostRoute;
use mesh::{Granularity, Node};
use support::{World, node};

const LOOK: Duration = Duration::from_secs(31);

fn said(world: &World) -> Vec<String> {
    assert_eq!(world.view.unhealthy, [""; 0]);
    let problems = world.view.problems.iter();
    problems.map(|problem| format!("{} {}", problem.reason, problem.object)).collect()
}

#[test]
fn settings_differ_and_agree_again() {
    let right = |name: &str, number| {
        let mut node = Node { granularity: Some(Granularity::Location), ..node(name, "two", number) };
        node.settings.subnets = vec!["10.4.0.0/16".parse().unwrap()];
        node
    };
    let nodes = [right("b", 2), right("c", 3), right("d", 4)];
    let mut world = World::with(nodes.clone());
    assert_eq!(said(&world), [""; 0]);
    let mut other = nodes[1].clone();
    other.settings.subnets = vec!["10.4.0.0/24".parse().unwrap()];
    other.granularity = Some(Granularity::Full);
    world.see(other);
    world.pass(LOOK, &nodes[..1]);
    assert_eq!(said(&world), ["OtherGranularity node c", "OtherSubnet node c"]);
    world.see(nodes[1].clone());
    world.pass(LOOK, &nodes);
    assert_eq!(said(&world), [""; 0]);
    let settings = &world.patches.last().unwrap().settings;
    assert_eq!((settings.port, settings.subnets.len()), (Some(51820), 1));
    assert_eq!(settings.encapsulation.as_deref(), Some("never"));
}

#[test]
fn the_own_node_may_be_the_one_that_differs() {
    let other =
        |name: &str, number| Node { granularity: Some(Granularity::Full), ..node(name, "two", number) };
    let world = World::with([other("b", 2), other("c", 3)]);
    assert_eq!(said(&world), ["OtherGranularity node a"]);
}

/// Heartbeats of nodes whose clock is so far ahead arrive.
fn beat(world: &mut World, nodes: &[(&Node, i64)]) {
    world.pass(Duration::from_secs(25), &[]);
    for (node, ahead) in nodes {
        world.see(Node { last_seen: world.now.unix + ahead, ..(*node).clone() });
    }
    world.pass(Duration::from_secs(6), &[]);
}

#[test]
fn a_clock_that_is_off_is_named_and_most_clocks_decide_whose() {
    let nodes = [node("b", "two", 2), node("c", "three", 3), node("d", "four", 4)];
    let [b, c, d] = &nodes;
    let mut world = World::with(nodes.clone());
    beat(&mut world, &[(b, 0), (c, 0), (d, 100)]);
    assert_eq!(said(&world), ["ClockOff node d"]);
    beat(&mut world, &[(b, 0), (c, 0), (d, 1)]);
    assert_eq!(said(&world), [""; 0]);
    beat(&mut world, &[(b, 100), (c, 100), (d, 100)]);
    assert_eq!(said(&world), ["ClockOff this host"]);
}

#[test]
fn another_private_network_in_a_location_is_suspected_unless_there_is_a_route() {
    let near = node("b", "one", 2);
    let far = Node { internal_ips: vec!["192.168.7.3/24".parse().unwrap()], ..node("c", "one", 3) };
    let mut world = World::with([near.clone(), far.clone()]);
    assert_eq!(said(&world), ["OtherNetwork node c"]);
    world.facts.routes.push(HostRoute {
        destination: "192.168.7.0/24".parse().unwrap(),
        gateway: Some("10.0.0.254".parse().unwrap()),
        link: Some("eth0".parse().unwrap()),
        table: 254,
    });
    world.pass(LOOK, &[near, far]);
    assert_eq!(said(&world), [""; 0]);
}

/// Two homes in one location: networks of one private block may be connected by a router, so the nodes are asked.
#[test]
fn a_neighbour_that_does_not_answer_is_in_another_network() {
    let near = |name: &str, number: u8, address: &str| Node {
        internal_ips: vec![address.parse().unwrap()],
        ..node(name, "one", number)
    };
    let nodes = [near("b", 2, "10.0.7.2/24"), near("c", 3, "10.0.7.3/24"), near("d", 4, "10.0.0.4/24")];
    let far = "10.0.7.2".parse().unwrap();
    let mut world = World::with(nodes.clone());
    world.silent.insert(far);
    world.pass(Duration::from_secs(10), &nodes);
    assert_eq!(said(&world), [""; 0], "one question may be lost");
    world.pass(Duration::from_secs(10), &nodes);
    assert_eq!(said(&world), ["OtherNetwork node b"]);
    // A firewall that drops the question looks the same.
    assert!(world.view.problems[0].message.contains("open that port"), "{:?}", world.view.problems);
    assert_eq!(world.asked_neighbours, [far; 3], "one of each network is asked");
    // Where more nodes are on the other side, it is the own one.
    let further = near("e", 5, "10.0.7.5/24");
    world.see(further.clone());
    world.pass(LOOK, &nodes);
    assert_eq!(said(&world), ["OtherNetwork node a"]);
    assert!(world.asked_neighbours.len() < 6, "asked without end: {:?}", world.asked_neighbours);
    world.silent.clear();
    world.pass(Duration::from_secs(70), &[nodes.as_slice(), &[further]].concat());
    assert_eq!(said(&world), [""; 0]);
    let asked = world.asked_neighbours.len();
    world.pass(Duration::from_secs(300), &nodes);
    assert_eq!(world.asked_neighbours.len(), asked, "an answer is enough");
}

/// Nobody is asked where the host has a route, or where everybody is in its network.
#[test]
fn neighbours_with_a_route_are_not_asked() {
    let mut world = World::new();
    world.facts.routes = vec![HostRoute {
        destination: "10.0.7.0/24".parse().unwrap(),
        gateway: Some("10.0.0.254".parse().unwrap()),
        link: Some("eth0".parse().unwrap()),
        table: 254,
    }];
    let b = Node { internal_ips: vec!["10.0.7.2/24".parse().unwrap()], ..node("b", "one", 2) };
    world.silent.insert("10.0.7.2".parse().unwrap());
    world.see(b);
    world.see(node("c", "one", 3));
    world.see(node("d", "two", 4));
    world.pass(LOOK, &[]);
    assert!(world.asked_neighbours.is_empty(), "{:?}", world.asked_neighbours);
}
