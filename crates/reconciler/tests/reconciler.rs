//! The state machine against a host and an API in memory: what it does when things go right and when they do not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use hostnet::{Change, LEADER_TABLE, Leftover, NextHop, Route};
use mesh::{Forced, Node, Object, Problem, Role};
use reconciler::{NodeUpdate, Reconciler, Removal, Watch};
use support::{World, key, node};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn nothing_is_touched_before_everything_was_seen() {
    let mut world = World::new();
    world.see(node("b", "two", 2));
    world.pass(MINUTE, &[]);
    assert_eq!((world.applied.len(), world.patches.len()), (0, 0));
    assert!(!world.view.unhealthy.is_empty());
}

#[test]
fn a_leader_sets_everything_and_tells_the_others() {
    let world = World::with([node("b", "two", 2), node("c", "one", 3)]);
    assert_eq!(world.view.unhealthy, Vec::<String>::new());
    assert_eq!(world.view.role, Some(Role::Leader));
    assert_eq!(world.routes(), ["10.0.2.2/32", "10.42.2.0/24", "10.42.3.0/24"]);
    assert!(world.host.firewall.is_some() && world.host.forwarding.v4);
    let status = &world.patches[0];
    assert_eq!(status.key, key(1).public_key());
    assert_eq!(status.endpoint.as_ref().unwrap().to_string(), "203.0.113.1:51820");
    assert_eq!(status.internal_ips[0].to_string(), "10.0.0.1/24");
    assert_eq!(status.wireguard_ips[0].to_string(), "10.4.0.1/16");
}

#[test]
fn heartbeats_cost_nothing_and_are_sent_every_half_timeout() {
    let others = [node("b", "two", 2)];
    let mut world = World::with(others.clone());
    world.pass(Duration::from_secs(5), &[]);
    let (observations, patches) = (world.observations, world.patches.len());
    for second in 0..20 {
        world.see(Node { last_seen: support::START + second, ..others[0].clone() });
        world.work();
    }
    assert_eq!(world.observations, observations, "a heartbeat made the host be looked at");
    world.pass(10 * MINUTE, &others);
    assert_eq!(world.patches.len() - patches, 20);
    assert!(world.applied.len() < 20, "{:?}", world.applied);
}

#[test]
fn what_someone_else_removes_comes_back() {
    let mut world = World::with([node("b", "two", 2)]);
    let before = world.host.clone();
    world.host.routes.clear();
    world.host.firewall = None;
    world.host.addresses.clear();
    world.reconciler.handle_notice(world.now);
    world.now = world.now.after(Duration::from_millis(50));
    world.work();
    assert_eq!(world.host, before);
    // A peer that is removed raises no notice; the next look finds it.
    world.host.wireguard.as_mut().unwrap().peers.clear();
    world.pass(Duration::from_secs(31), &[]);
    assert_eq!(world.host, before);
}

/// As after a start: it has just told that it leads when it hears of somebody who does.
#[test]
fn what_changes_while_it_is_told_is_told_right_after() {
    let mut world = World::with([]);
    world.api_slow = true;
    world.pass(Duration::from_secs(30), &[]);
    assert!(!world.patches.last().unwrap().wireguard_ips.is_empty());
    let told = world.patches.len();
    world.see(Node { leader: true, ..node("b", "one", 2) });
    world.now = world.now.after(Duration::from_millis(20));
    world.work();
    assert_eq!((world.view.role, world.patches.len()), (Some(Role::Member), told), "one at a time");
    world.answer_patch();
    world.work();
    assert_eq!(world.patches.len(), told + 1);
    assert!(world.patches.last().unwrap().wireguard_ips.is_empty());
    // An API that refuses is not asked in a hurry.
    world.api_away = true;
    world.pass(Duration::from_secs(40), &[]);
    assert!((told + 2..told + 14).contains(&world.patches.len()), "{}", world.patches.len());
}

#[test]
fn a_silent_leader_is_replaced_and_comes_back() {
    let rival = Node { leader: true, ..node("b", "one", 2) };
    let far = node("c", "two", 3);
    let mut world = World::with([rival.clone(), far.clone()]);
    assert_eq!(world.view.role, Some(Role::Member));
    world.pass(Duration::from_secs(58), std::slice::from_ref(&far));
    assert_eq!(world.view.role, Some(Role::Member));
    world.pass(Duration::from_secs(3), std::slice::from_ref(&far));
    // The own heartbeat does not come at the same second as that of others: whoever is heard proves the silence.
    world.see(Node { last_seen: world.now.unix, ..far.clone() });
    world.settle();
    assert_eq!(world.view.role, Some(Role::Leader), "{:?}", world.view.unhealthy);
    assert!(world.host.wireguard.as_ref().unwrap().peers.contains_key(&key(3).public_key()));
    world.see(Node { last_seen: world.now.unix, ..rival });
    world.settle();
    assert_eq!(world.view.role, Some(Role::Member));
    assert!(world.host.wireguard.as_ref().unwrap().peers.is_empty(), "a member holds no sessions");
}

#[test]
fn an_absent_api_changes_nothing() {
    let others = [node("b", "two", 2), node("c", "one", 3)];
    let mut world = World::with(others.clone());
    let before = world.host.clone();
    world.api_away = true;
    world.reconciler.handle_watch(Watch::Broken("connection refused".to_owned()), world.now);
    world.pass(60 * MINUTE, &others);
    assert_eq!(world.host, before);
    assert!(world.view.unhealthy.iter().any(|reason| reason.contains("connection refused")));
    // Back again: everybody gets the whole timeout to be heard of.
    world.api_away = false;
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.pass(Duration::from_secs(50), &others);
    assert_eq!((world.host, world.view.unhealthy), (before, Vec::new()));
}

#[test]
fn a_restart_takes_over_what_is_there() {
    let others = [node("b", "two", 2), node("c", "one", 3)];
    let mut before = World::with(others.clone());
    before.shake_hands(2);
    *before.endpoint(2) = Some("192.0.2.99:1234".parse().unwrap());
    before.shake_hands(2);
    let mut after = World::new();
    after.host = before.host.clone();
    after.handshakes = before.handshakes.clone();
    for other in others {
        after.see(other);
    }
    after.see(node("a", "one", 1));
    after.reconciler.handle_watch(Watch::Synced, after.now);
    after.settle();
    assert_eq!(after.applied, Vec::new(), "the learned endpoint and everything else stays");
    assert_eq!(after.view.unhealthy, Vec::<String>::new());
}

#[test]
fn learned_endpoints_stay_until_the_operator_moves_the_node() {
    let mut world = World::with([node("b", "two", 2)]);
    let learned: SocketAddr = "192.0.2.99:1234".parse().unwrap();
    *world.endpoint(2) = Some(learned);
    world.shake_hands(2);
    world.pass(2 * MINUTE, &[node("b", "two", 2)]);
    assert_eq!(*world.endpoint(2), Some(learned));
    let moved = Node { endpoint: "198.51.100.7:51820".parse().ok(), ..node("b", "two", 2) };
    world.see(Node { last_seen: world.now.unix, ..moved });
    world.settle();
    assert_eq!(*world.endpoint(2), "198.51.100.7:51820".parse().ok());
    // Without a live session what the Node says counts.
    world.handshakes.clear();
    *world.endpoint(2) = Some(learned);
    world.pass(Duration::from_secs(31), &[]);
    assert_eq!(*world.endpoint(2), "198.51.100.7:51820".parse().ok());
}

#[test]
fn endpoints_of_nodes_behind_nat_are_told() {
    let nat = Node { persistent_keepalive: 25, ..node("b", "two", 2) };
    let mut world = World::with([nat.clone(), node("c", "three", 3)]);
    for number in [2, 3] {
        *world.endpoint(number) = Some(format!("192.0.2.{number}:999").parse().unwrap());
        world.shake_hands(number);
    }
    world.pass(Duration::from_secs(31), &[nat]);
    let told = &world.patches.last().unwrap().discovered_endpoints;
    let expected = BTreeMap::from([(key(2).public_key(), "192.0.2.2:999".parse().unwrap())]);
    assert_eq!(*told, expected, "only those with a keepalive are behind NAT");
}

#[test]
fn a_name_that_does_not_resolve_hurts_only_its_node() {
    let named = Node { endpoint: "b.example.com:51820".parse().ok(), ..node("b", "two", 2) };
    let mut world = World::with([named.clone(), node("c", "three", 3)]);
    assert_eq!(world.view.unhealthy, Vec::<String>::new());
    assert_eq!(world.routes().len(), 4);
    let problem = world.view.problems.iter().next().unwrap().to_string();
    assert!(problem.contains("node b") && problem.contains("b.example.com"), "{problem}");
    world.names.insert("b.example.com".to_owned(), "198.51.100.9".parse().unwrap());
    world.pass(Duration::from_secs(15), &[named]);
    assert_eq!(*world.endpoint(2), "198.51.100.9:51820".parse().ok());
    assert!(world.view.problems.is_empty(), "{:?}", world.view.problems);
}

#[test]
fn one_change_that_fails_does_not_stop_the_others_and_is_tried_again() {
    let mut world = World::new();
    world.refuse = |change| matches!(change, Change::SetFirewall(_));
    world.see(node("a", "one", 1));
    world.see(node("b", "two", 2));
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.pass(2 * MINUTE, &[node("b", "two", 2)]);
    assert_eq!(world.routes().len(), 2);
    assert!(world.view.unhealthy[0].contains("firewall"), "{:?}", world.view.unhealthy);
    let tries = world.applied.iter().filter(|change| matches!(change, Change::SetFirewall(_))).count();
    assert!((4..=12).contains(&tries), "{tries} tries in two minutes");
    world.refuse = |_| false;
    world.pass(Duration::from_secs(31), &[]);
    assert_eq!(world.view.unhealthy, Vec::<String>::new());
}

#[test]
fn changes_that_do_not_stick_are_told() {
    let mut world = World::new();
    world.ignore = |change| matches!(change, Change::SetRoute(_));
    world.see(node("a", "one", 1));
    world.see(node("b", "two", 2));
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.settle();
    assert!(world.view.unhealthy[0].contains("do not stick"), "{:?}", world.view.unhealthy);
    let applied = world.applied.len();
    for _ in 0..100 {
        world.reconciler.handle_notice(world.now);
        world.now = world.now.after(Duration::from_millis(1));
        world.work();
    }
    assert!(world.applied.len() - applied < 20, "notices made it a busy loop");
}

#[test]
fn a_node_that_cannot_take_part_says_why() {
    let mut world = World::new();
    world.see(Node { pod_subnets: Vec::new(), ..node("a", "one", 1) });
    world.see(node("b", "two", 2));
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.settle();
    assert!(world.view.unhealthy[0].contains("pod subnet"), "{:?}", world.view.unhealthy);
    world.see(node("a", "one", 1));
    world.settle();
    assert_eq!(world.view.unhealthy, Vec::<String>::new());
}

/// What gives a node its pod subnets may need the mesh to do so.
#[test]
fn a_node_takes_part_before_its_pods_do() {
    let bare = |node: Node| Node { pod_subnets: Vec::new(), joins_without_pods: true, ..node };
    let mut world = World::with([bare(node("b", "two", 2))]);
    assert_eq!(world.routes(), ["10.0.2.2/32"], "its address is reachable");
    world.see(bare(node("a", "one", 1)));
    world.settle();
    assert_eq!((world.view.unhealthy.len(), world.view.counts.nodes), (0, 2));
    world.see(Node { pod_subnets: vec!["10.244.7.0/26".parse().unwrap()], ..bare(node("b", "two", 2)) });
    world.settle();
    assert_eq!(world.routes(), ["10.0.2.2/32", "10.244.7.0/26"]);
    world.see(bare(node("b", "two", 2)));
    world.settle();
    assert_eq!(world.routes(), ["10.0.2.2/32"]);
}

#[test]
fn what_is_wrong_with_another_cnis_object_is_shown_until_it_is_right() {
    let mut world = World::with([node("b", "two", 2)]);
    let object = Object::Foreign { kind: "BlockAffinity", name: "x".to_owned() };
    let problem = Problem::new(object, "UnknownNode", "is left out");
    world.reconciler.handle_subnet_object("x", vec![problem.clone()], world.now);
    world.settle();
    assert_eq!(world.view.problems, [problem].into());
    assert_eq!(world.view.unhealthy, Vec::<String>::new());
    world.reconciler.handle_subnet_object("x", Vec::new(), world.now);
    world.settle();
    assert_eq!(world.view.problems, [].into());
}

#[test]
fn the_end_removes_what_it_is_told_to() {
    let world = World::with([node("b", "two", 2)]);
    assert_eq!(Reconciler::removal(&world.host, Removal::Nothing), Vec::new());
    let all = Reconciler::removal(&world.host, Removal::Everything);
    assert!(matches!(all.last(), Some(Change::RemoveLink(..))), "{all:?}");
    let but_interface = Reconciler::removal(&world.host, Removal::AllButInterface);
    assert!(!but_interface.iter().any(|change| matches!(change, Change::RemoveLink(..))));
    assert!(but_interface.iter().any(|change| matches!(change, Change::RemoveFirewall)));
    assert!(but_interface.iter().any(|change| matches!(change, Change::SetUp(_, false))));
}

#[test]
fn a_forced_endpoint_decides_the_port() {
    let mut world = World::new();
    let forced = Forced { endpoint: "nat.example.com:4500".parse().ok(), internal_ips: Some(Vec::new()) };
    let update =
        NodeUpdate { node: Arc::new(node("a", "one", 1)), problems: Vec::new(), forced: Some(forced) };
    world.reconciler.handle_node("a", Some(update), world.now);
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.settle();
    assert_eq!(world.host.wireguard.as_ref().unwrap().listen_port, 4500);
    assert_eq!(world.patches[0].endpoint.as_ref().unwrap().to_string(), "nat.example.com:4500");
    assert_eq!(world.patches[0].internal_ips, []);
}

#[test]
fn those_behind_nat_are_told_soon_and_remembered_over_a_restart() {
    let nat = Node { persistent_keepalive: 25, ..node("b", "two", 2) };
    let mut world = World::with([nat.clone()]);
    *world.endpoint(2) = Some("192.0.2.2:999".parse().unwrap());
    world.shake_hands(2);
    world.pass(Duration::from_secs(3), &[]);
    let told = world.patches.last().unwrap().discovered_endpoints.clone();
    assert_eq!(told.len(), 1, "long before the resync period is over");

    let mut after = World::new();
    after.see(Node { discovered_endpoints: told.clone(), ..node("a", "one", 1) });
    after.see(nat.clone());
    after.reconciler.handle_watch(Watch::Synced, after.now);
    after.settle();
    assert_eq!(*after.endpoint(2), "192.0.2.2:999".parse().ok());
    assert_eq!(after.patches[0].discovered_endpoints, told);
    after.pass(4 * MINUTE, &[nat]);
    assert!(after.patches.last().unwrap().discovered_endpoints.is_empty(), "no session ever proved it");
    assert_eq!(*after.endpoint(2), "203.0.113.2:51820".parse().ok());
}

#[test]
fn a_node_behind_nat_that_never_comes_costs_little() {
    let nat = Node { persistent_keepalive: 25, ..node("b", "two", 2) };
    let mut world = World::with([nat.clone()]);
    world.observations = 0;
    world.pass(10 * MINUTE, &[nat]);
    assert!(world.observations < 30, "{} looks in ten minutes", world.observations);
}

/// Another agent ended here: it took the key back from the API and left the device as it was.
#[test]
fn sessions_that_the_others_have_forgotten_are_not_waited_for() {
    let nodes = || [node("b", "two", 2), Node { persistent_keepalive: 10, ..node("c", "three", 3) }];
    let before = World::with(nodes());
    let start = |own: Node| {
        let mut world = World::new();
        world.host = before.host.clone();
        world.see(own);
        nodes().into_iter().for_each(|node| world.see(node));
        world.shake_hands(2);
        world.reconciler.handle_watch(Watch::Synced, world.now);
        world.pass(Duration::from_secs(10), &[]);
        world
    };
    let nameless = Node { endpoint: None, key: None, internal_ips: Vec::new(), ..node("a", "one", 1) };
    let world = start(nameless);
    let texts: Vec<_> = world.applied.iter().map(ToString::to_string).collect();
    let b = key(2).public_key();
    assert_eq!(
        texts[0],
        format!("- wireguard kilo0 peer {b}"),
        "it has been told by then: {:?}",
        world.patches
    );
    assert!(
        texts[1].starts_with(&format!("+ wireguard kilo0 peer {b}")) && texts[1].contains("keepalive 1"),
        "{texts:?}"
    );
    assert_eq!(world.host, before.host, "then everything is as it should be: {texts:?}");

    let world = start(node("a", "one", 1));
    assert_eq!(world.applied, [], "who is known to the others keeps the sessions");
}

/// Whoever was told last may call first.
#[test]
fn a_session_that_began_after_the_start_is_a_good_one() {
    let nodes = || [node("b", "two", 2)];
    let before = World::with(nodes());
    let mut world = World::new();
    world.host = before.host.clone();
    world.see(Node { endpoint: None, key: None, internal_ips: Vec::new(), ..node("a", "one", 1) });
    nodes().into_iter().for_each(|node| world.see(node));
    world.shake_hands(2);
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.work();
    world.handshakes.get_mut(&key(2).public_key()).unwrap().age = Duration::from_millis(100);
    world.pass(Duration::from_secs(10), &[]);
    assert_eq!(world.applied, []);
}

/// A member of a Go agent's had routes by way of its leader and its neighbours. Those that are replaced go with it; the
/// others are told from an operator's by what they lead to, and how.
#[test]
fn routes_of_a_go_agent_on_the_private_interface_are_found_at_the_start() {
    let route = |destination: &str, via: &str| {
        let route = Route {
            table: hostnet::MAIN_TABLE,
            destination: destination.parse().unwrap(),
            next_hop: NextHop::Gateway(via.parse().unwrap()),
            link: "eth0".parse().unwrap(),
            source: None,
        };
        Leftover::Route { route, protocol: 4 }
    };
    let of_go = [
        route("10.4.0.2/32", "10.0.0.2"),
        route("10.42.9.0/24", "10.0.0.2"),
        route("10.0.9.9/32", "10.0.0.2"),
        route("192.168.9.0/24", "10.0.0.2"),
    ];
    let of_operator = [
        route("192.168.8.0/24", "10.0.0.2"),
        route("10.42.9.0/24", "10.0.0.77"),
        route("10.4.0.2/32", "10.0.0.78"),
    ];
    let location = vec!["192.168.9.7/24".parse().unwrap()];
    let silent = Node { last_seen: 0, allowed_location_ips: location, ..node("c", "two", 9) };
    let mut world = World::new();
    world.suspects = of_go.iter().chain(&of_operator).cloned().collect();
    world.see(Node { endpoint: None, key: None, internal_ips: Vec::new(), ..node("a", "one", 1) });
    for node in [node("b", "one", 2), silent] {
        world.see(node);
    }
    // The host in memory has none.
    world.ignore = |change| matches!(change, Change::RemoveLeftover(_));
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.work();
    let removed: BTreeSet<_> = world
        .applied
        .iter()
        .filter_map(
            |change| if let Change::RemoveLeftover(leftover) = change { Some(leftover) } else { None },
        )
        .collect();
    assert_eq!(removed, of_go.iter().collect());
}

#[test]
fn rules_that_are_out_of_reach_are_told_while_they_are_there() {
    let mut world = World::new();
    world.legacy_tables = vec![hostnet::LegacyTable { family: "ip", table: "nat" }];
    world.see(node("a", "one", 1));
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.settle();
    let told: Vec<_> = world.view.problems.iter().map(|problem| problem.reason).collect();
    assert_eq!(told, ["LegacyIptables"]);
    assert_eq!(world.view.unhealthy, Vec::<String>::new());
    world.legacy_tables.clear();
    world.pass(MINUTE, &[]);
    assert!(world.view.problems.is_empty());
}

/// An agent that was to end before this one started takes back what it told, and so what this one has told.
#[test]
fn what_somebody_else_takes_back_is_told_again() {
    let others = [node("b", "two", 2)];
    let mut world = World::with(others.clone());
    world.pass(Duration::from_secs(5), &[]);
    let patches = world.patches.len();
    world.see(Node {
        endpoint: None,
        key: None,
        internal_ips: Vec::new(),
        last_seen: 0,
        ..node("a", "one", 1)
    });
    world.pass(Duration::from_secs(4), &[]);
    assert_eq!(world.patches.len(), patches + 1);
    let last = world.patches.last().unwrap().clone();
    let told = Node { last_seen: last.last_seen, ..node("a", "one", 1) };
    world.see(Node { endpoint: "203.0.113.99:51820".parse().ok(), ..told.clone() });
    world.pass(Duration::from_secs(4), &[]);
    assert_eq!(world.patches.len(), patches + 2);
    // What was true a heartbeat ago is no contradiction.
    world.see(Node { endpoint: None, ..told });
    world.pass(Duration::from_secs(4), &[]);
    assert_eq!(world.patches.len(), patches + 2);
}

/// The agent sets an endpoint as its node says. That is no proof that the node is there: only packets that come from there are.
#[test]
fn an_endpoint_that_was_set_proves_nothing() {
    let key = key(2).public_key();
    let at = |address: &str, persistent_keepalive| Node {
        endpoint: format!("{address}:51820").parse().ok(),
        internal_ips: vec![format!("{address}/32").parse().unwrap()],
        persistent_keepalive,
        ..node("b", "two", 2)
    };
    let (home, claimed) = ("198.51.100.2", "198.51.100.7");
    let told =
        |world: &World| world.patches.last().unwrap().discovered_endpoints.get(&key).map(SocketAddr::ip);
    let leads_there = |world: &World| world.host.routes.iter().any(|route| route.table == LEADER_TABLE);
    for keepalive in [0, 25] {
        let mut world = World::with([at(home, 0), node("c", "one", 3)]);
        world.shake_hands(2);
        world.pass(MINUTE / 2, &[at(home, 0)]);
        assert_eq!((told(&world), leads_there(&world)), (home.parse().ok(), true));
        world.see(at(claimed, 0));
        world.settle();
        assert_eq!(*world.endpoint(2), format!("{claimed}:51820").parse().ok());
        // The session is alive still, the device shows what was set, and nothing comes any more.
        world.handshakes.get_mut(&key).unwrap().endpoint = *world.endpoint(2);
        world.pass(2 * MINUTE, &[at(claimed, keepalive)]);
        assert_eq!((told(&world), leads_there(&world)), (None, false), "{keepalive}");
        // It is there.
        world.handshakes.get_mut(&key).unwrap().received += 32;
        world.pass(MINUTE / 2, &[]);
        assert_eq!((told(&world), leads_there(&world)), (claimed.parse().ok(), true), "{keepalive}");
    }
}
