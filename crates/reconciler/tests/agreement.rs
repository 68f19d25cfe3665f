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
