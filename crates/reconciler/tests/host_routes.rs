//! What the host has by itself, and what takes the API server away: when it is looked at anew, and what follows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{net::IpAddr, time::Duration};

use hostnet::{Change, HostRoute, Leftover, Lifeline, NextHop, Route};
use mesh::Node;
use reconciler::{PeerUpdate, Surroundings, Watch};
use support::{World, key, node};

fn peer(allowed_ips: &[&str]) -> PeerUpdate {
    let peer = mesh::Peer {
        name: "greedy".to_owned(),
        created: 0,
        changed: false,
        key: key(77).public_key(),
        allowed_ips: allowed_ips.iter().map(|net| net.parse().unwrap()).collect(),
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    };
    PeerUpdate { peer: Some(peer), problems: Vec::new() }
}

fn host_route(destination: &str, gateway: Option<&str>) -> HostRoute {
    HostRoute {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        link: Some("eth0".parse().unwrap()),
        table: 254,
    }
}

fn reasons(world: &World) -> Vec<&str> {
    world.view.problems.iter().map(|problem| problem.reason).collect()
}

#[test]
fn a_route_that_the_host_gets_or_loses_is_judged_anew() {
    let mut world = World::with([node("b", "two", 2)]);
    world.reconciler.handle_peer("greedy", Some(peer(&["192.168.7.0/24", "192.168.8.0/24"])), world.now);
    world.settle();
    assert!(world.routes().contains(&"192.168.7.0/24".to_owned()));
    world.facts.routes = vec![host_route("192.168.7.0/24", Some("10.0.0.254"))];
    world.reconciler.handle_host_routes(world.now);
    let before = world.reconciler.poll_timeout().unwrap() - world.now.instant;
    assert!(before > Duration::from_millis(100), "many of them are gathered: {before:?}");
    world.settle();
    assert_eq!(reasons(&world), ["RangeNotRouted"]);
    assert!(!world.routes().contains(&"192.168.7.0/24".to_owned()), "{:?}", world.routes());
    assert!(world.routes().contains(&"192.168.8.0/24".to_owned()), "the rest of the object works");
    world.facts.routes.clear();
    world.reconciler.handle_host_routes(world.now);
    world.settle();
    assert_eq!(reasons(&world), [""; 0]);
    assert!(world.routes().contains(&"192.168.7.0/24".to_owned()));
    // One that is none of the mesh's business changes nothing.
    let applied = world.applied.len();
    world.facts.routes = vec![host_route("172.30.0.0/24", None), host_route("172.31.0.5/32", None)];
    world.reconciler.handle_host_routes(world.now);
    world.settle();
    assert_eq!(world.applied.len(), applied);
}

/// A Go agent's routes by way of nodes are not somebody else's: ours take their place before they go.
#[test]
fn routes_of_a_go_agent_do_not_keep_ours_away() {
    let mut world = World::new();
    let leftover = Leftover::Route {
        route: Route {
            table: hostnet::MAIN_TABLE,
            destination: "10.42.2.0/24".parse().unwrap(),
            next_hop: NextHop::Gateway("10.0.0.2".parse().unwrap()),
            link: "eth0".parse().unwrap(),
            source: None,
        },
        protocol: 4,
    };
    world.suspects = [leftover.clone()].into();
    world.facts.routes = vec![host_route("10.42.2.0/24", Some("10.0.0.2"))];
    world.see(Node { endpoint: None, key: None, internal_ips: Vec::new(), ..node("a", "one", 1) });
    world.see(node("b", "one", 2));
    world.ignore = |change| matches!(change, Change::RemoveLeftover(_));
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.work();
    let position = |wanted: &dyn Fn(&Change) -> bool| world.applied.iter().position(wanted).unwrap();
    let set = position(
        &|change| matches!(change, Change::SetRoute(route) if route.destination.to_string() == "10.42.2.0/24"),
    );
    let ruled = position(&|change| matches!(change, Change::AddRule(_)));
    let removed = position(&|change| *change == Change::RemoveLeftover(leftover.clone()));
    assert!(set < removed && ruled < removed, "{:?}", world.applied);
    assert_eq!(reasons(&world), [""; 0]);
}

#[test]
fn an_api_server_that_turns_out_to_answer_without_the_mesh_is_kept_out_of_it() {
    let server = IpAddr::from([198, 51, 100, 9]);
    let mut world = World::with([node("b", "two", 2)]);
    let behind = Surroundings { api_servers: [server].into(), ..Surroundings::default() };
    world.reconciler.handle_surroundings(behind.clone(), world.now);
    world.reconciler.handle_peer("greedy", Some(peer(&["198.51.100.0/24"])), world.now);
    world.settle();
    assert!(world.routes().contains(&"198.51.100.0/24".to_owned()), "it is behind the mesh");
    let outside = Surroundings { lifelines: [(server, Lifeline::ApiServer)].into(), ..behind };
    world.reconciler.handle_surroundings(outside, world.now);
    world.settle();
    assert_eq!(reasons(&world), ["RangeRoutedInPart"]);
    let holds = |net: &String| net.parse::<ipnet::IpNet>().is_ok_and(|net| net.contains(&server));
    assert!(!world.routes().iter().any(holds), "{:?}", world.routes());
}

/// The server is away from before the Peer until long after it: what was there stays, and the Peer gets its routes back.
#[test]
fn an_api_server_that_is_down_gets_no_route_removed_for_long() {
    let mut world = World::with([node("b", "two", 2)]);
    let own = world.routes();
    world.api_away = true;
    world.reconciler.handle_peer("greedy", Some(peer(&["192.168.7.0/24"])), world.now);
    world.settle();
    for _ in 0..180 {
        world.pass(Duration::from_secs(1), &[]);
        assert!(own.iter().all(|route| world.routes().contains(route)), "{:?}", world.routes());
    }
    assert!(world.routes().contains(&"192.168.7.0/24".to_owned()));
    assert_eq!(reasons(&world), [""; 0]);
}

/// What the API says of services counts from the moment it says so, unless the operator has named them.
#[test]
fn services_belong_to_the_cluster_as_soon_as_they_are_known() {
    let mut world = World::with([node("b", "two", 2)]);
    world.reconciler.handle_peer("greedy", Some(peer(&["10.96.0.10/32", "192.168.7.0/24"])), world.now);
    world.settle();
    assert!(world.routes().contains(&"10.96.0.10/32".to_owned()));
    let services = vec!["10.96.0.0/12".parse().unwrap()];
    let known = Surroundings { services, ..Surroundings::default() };
    world.reconciler.handle_surroundings(known, world.now);
    world.settle();
    assert!(!world.routes().contains(&"10.96.0.10/32".to_owned()), "{:?}", world.routes());
    assert!(world.routes().contains(&"192.168.7.0/24".to_owned()));
    assert_eq!(reasons(&world), ["OverlappingAllowedIP"]);
}
