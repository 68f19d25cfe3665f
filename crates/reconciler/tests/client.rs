//! A client against an API and a host in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use hostnet::render::client::ClientConfig;
use mesh::Node;
use reconciler::{Client, Watch};
use support::{
    START, apply,
    client::{World, config, laptop, told},
    key,
};

#[test]
fn the_host_follows_the_mesh_and_comes_to_rest() {
    let mut world = World::with([told("a", "one", 1), told("b", "two", 2)]);
    assert!(world.view.settled, "{:?}", world.view);
    assert!(world.tunnels_to([1, 2]));
    world.see(told("c", "three", 3));
    world.settle();
    assert!(world.tunnels_to([1, 2, 3]) && world.view.settled);
    world.client.handle_node("a", None, world.now);
    world.settle();
    assert!(world.tunnels_to([2, 3]) && world.view.segments == 2);
}

#[test]
fn who_has_been_silent_for_long_does_not_lead_even_if_told_first() {
    let mut dead = told("a1", "one", 1);
    dead.last_seen = START - 3600;
    let world = World::with([dead, told("a2", "one", 2)]);
    assert!(world.tunnels_to([2]), "{:?}", world.host.wireguard);
}

#[test]
fn a_leader_that_falls_silent_is_replaced() {
    let mut world = World::with([told("a1", "one", 1), told("a2", "one", 2), told("b", "two", 3)]);
    assert!(world.tunnels_to([1, 3]));
    for second in [30, 60, 90] {
        world.now = world.now.after(Duration::from_secs(29));
        for (name, location, n) in [("a2", "one", 2), ("b", "two", 3)] {
            world.see(Node { last_seen: START + second, ..told(name, location, n) });
        }
        world.settle();
    }
    assert!(world.tunnels_to([2, 3]), "{:?}", world.host.wireguard);
}

#[test]
fn a_peer_that_means_somebody_else_is_an_error_and_changes_nothing() {
    let mut world = World::with([told("a", "one", 1)]);
    let before = world.host.clone();
    for (peer, word) in [(None, "let this host in"), (Some(laptop(101)), "somebody else")] {
        world.see_peer(peer);
        world.settle();
        assert!(!world.view.settled && world.view.unhealthy[0].contains(word), "{:?}", world.view);
        assert_eq!(world.host, before);
    }
    world.see_peer(Some(laptop(100)));
    world.settle();
    assert!(world.view.settled, "{:?}", world.view);
}

#[test]
fn it_is_settled_only_when_names_are_looked_up() {
    let mut world = World::new();
    world.names.insert("a.example".to_owned(), "192.0.2.1".parse().unwrap());
    world.see(Node { endpoint: "a.example:51820".parse().ok(), ..told("a", "one", 1) });
    world.see(Node { endpoint: "b.example:51820".parse().ok(), ..told("b", "two", 2) });
    world.see_peer(Some(laptop(100)));
    world.client.handle_watch(Watch::Synced, world.now);
    world.settle();
    world.settle();
    assert!(world.view.settled, "{:?}", world.view);
    let endpoint = |n| world.host.wireguard.as_ref().unwrap().peers[&key(n).public_key()].endpoint;
    assert_eq!((endpoint(1), endpoint(2)), ("192.0.2.1:51820".parse().ok(), None));
    let problems: Vec<_> = world.view.problems.iter().map(|problem| problem.reason).collect();
    assert_eq!(problems, ["UnresolvableEndpoint"]);
}

#[test]
fn without_a_live_node_it_waits() {
    let mut world = World::with([]);
    assert!(world.view.unhealthy[0].contains("alive"), "{:?}", world.view);
    world.see(Node { wireguard_ips: Vec::new(), ..told("a", "one", 1) });
    world.settle();
    assert!(world.view.unhealthy[0].contains("WireGuard address"), "{:?}", world.view);
    world.see(told("a", "one", 1));
    world.settle();
    assert!(world.view.settled && world.view.unhealthy.is_empty(), "{:?}", world.view);
}

#[test]
fn what_is_removed_at_the_end_is_its_own() {
    let world = World::with([told("a", "one", 1)]);
    let settings = ClientConfig { interface: "kilo1".parse().unwrap(), ..config() };
    assert!(Client::removal(&world.host, &settings).is_empty(), "nothing of it goes through kilo1");
    let mut host = world.host.clone();
    for change in Client::removal(&world.host, &config()) {
        apply(&mut host, &change).unwrap();
    }
    assert!(host.links.is_empty() && host.routes.is_empty(), "{host:?}");
}
