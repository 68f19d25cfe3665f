//! What somebody who may write objects, or an API that asks for less, can make an agent do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{Node, Object, Peer, Problem, Problems};
use reconciler::{NodeUpdate, PeerUpdate, Watch};
use support::{World, key, node};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The n-th Peer, at a name.
fn peer(number: u32, endpoint: &str, allowed_ip: &str) -> PeerUpdate {
    let mut bytes = [200; 32];
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    let peer = Peer {
        name: format!("p{number:04}"),
        created: 0,
        changed: false,
        key: mesh::PrivateKey::from_random(bytes).public_key(),
        allowed_ips: vec![allowed_ip.parse().unwrap()],
        endpoint: endpoint.parse().ok(),
        preshared_key: None,
        persistent_keepalive: 0,
    };
    PeerUpdate { peer: Some(peer), problems: Vec::new() }
}

/// A leader with as many Peers at names that do not resolve.
fn world_with_dead_names(count: u32, silence: Option<Duration>) -> World {
    let mut world = World::with([node("b", "two", 2)]);
    world.silence = silence;
    world.views.clear();
    for number in 0..count {
        let ip = format!("10.99.{}.{}/32", number / 250, number % 250);
        let update = peer(number, &format!("host{number}.example:51820"), &ip);
        world.reconciler.handle_peer(&format!("p{number:04}"), Some(update), world.now);
    }
    world
}

#[test]
fn three_thousand_names_at_a_server_that_does_not_answer() {
    let mut world = world_with_dead_names(3000, Some(5 * SECOND));
    let far = node("b", "two", 2);
    for second in 0..600u32 {
        if second == 300 {
            let named = Node { endpoint: "b.example:51820".parse().ok(), ..far.clone() };
            world.see(Node { last_seen: world.now.unix, ..named });
        }
        world.pass(SECOND, &[]);
        assert!(world.asking.len() <= 16, "{} at a time", world.asking.len());
        if second == 310 {
            assert!(world.asked.iter().any(|name| name == "b.example"), "a node's name does not wait");
        }
    }
    // 16 every 5 seconds, or 8 of those that have failed.
    assert!((900..=1936).contains(&world.asked.len()), "{} questions in ten minutes", world.asked.len());
    assert!(world.views.len() <= 660, "{} views in ten minutes", world.views.len());
    assert!(world.observations < 60, "no answer is no reason to look at the host: {}", world.observations);
}

#[test]
fn three_thousand_names_that_do_not_exist() {
    let mut world = world_with_dead_names(3000, None);
    world.pass(10 * MINUTE, &[node("b", "two", 2)]);
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    world.asked.iter().for_each(|name| *times.entry(name).or_default() += 1);
    assert_eq!(times.len(), 3000);
    let most = times.values().max().unwrap();
    assert!(*most <= 14, "{most} times in ten minutes");
    assert!(world.asked.len() <= 3000 * 11, "{} questions", world.asked.len());
    assert_eq!(world.view.problems.len(), 3000);
    assert!(world.views.len() <= 660, "{} views", world.views.len());
    // Nothing has changed since all are known to be dead, and so nothing is made anew.
    let [.., before, last] = &world.views[..] else { panic!("no views") };
    assert!(Arc::ptr_eq(&last.problems, &before.problems));
    assert_eq!(world.view.unhealthy, Vec::<String>::new());
}

#[test]
fn a_member_does_not_look_up_peers() {
    let leader = Node { leader: true, ..node("b", "one", 2) };
    let named = Node { endpoint: "c.example:1".parse().ok(), ..node("c", "two", 3) };
    let mut world = World::with([leader, named]);
    assert_eq!(world.view.role, Some(mesh::Role::Member));
    let update = peer(1, "peer.example:51820", "10.99.0.1/32");
    world.reconciler.handle_peer("p0001", Some(update), world.now);
    world.pass(MINUTE / 2, &[]);
    let asked = &world.asked;
    assert!(!asked.is_empty() && asked.iter().all(|name| name == "c.example"), "{asked:?}");
}

/// One overlapping Peer and one at a name that does not resolve: whatever happens, both are shown all the time.
#[test]
fn problems_do_not_flap() {
    let others = [node("b", "two", 2), node("c", "three", 3)];
    let mut world = World::with(others.clone());
    let overlapping = peer(1, "192.0.2.77:51820", "10.42.2.0/24");
    world.reconciler.handle_peer("p0001", Some(overlapping), world.now);
    let unresolvable = peer(2, "nowhere.example:51820", "10.99.0.1/32");
    world.reconciler.handle_peer("p0002", Some(unresolvable), world.now);
    world.pass(5 * SECOND, &[]);
    let shown = world.view.problems.clone();
    let reasons: Vec<_> = shown.iter().map(|problem| problem.reason).collect();
    assert_eq!(reasons, ["OverlappingAllowedIP", "UnresolvableEndpoint"], "{shown:?}");
    world.views.clear();
    for round in 0..200u16 {
        // Some of it in the moment between the change and the next look.
        world.see(Node { persistent_keepalive: round % 7, last_seen: world.now.unix, ..others[1].clone() });
        match round % 4 {
            0 => world.reconciler.handle_notice(world.now),
            1 => world.reconciler.handle_watch(Watch::Broken("gone".to_owned()), world.now),
            2 => world.reconciler.handle_watch(Watch::Synced, world.now),
            _ => {
                let error = ["timed out", "server failure"][usize::from(round / 4 % 2)];
                world.reconciler.handle_resolved("nowhere.example", Err(error.to_owned()), world.now);
            }
        }
        world.work();
        world.see(Node { last_seen: world.now.unix, ..others[0].clone() });
        world.pass(SECOND, &[]);
    }
    assert!(world.views.len() > 100, "{}", world.views.len());
    for view in &world.views {
        assert!(Arc::ptr_eq(&view.problems, &shown), "{:?} is not {shown:?}", view.problems);
    }
}

#[test]
fn twenty_thousand_bad_entries_are_one_problem() {
    let mut world = World::with([node("b", "two", 2)]);
    let problem = |entry: u32| {
        Problem::new(Object::Node("b".to_owned()), "InvalidAllowedLocationIP", format!("{entry}"))
    };
    let problems: Problems = (0..20_000).map(problem).collect();
    let update = NodeUpdate { node: Arc::new(node("b", "two", 2)), problems: problems.into(), forced: None };
    world.reconciler.handle_node("b", Some(update), world.now);
    world.settle();
    let [problem] = &*world.view.problems else { panic!("{:?}", world.view.problems) };
    assert_eq!(
        problem.to_string(),
        "node b: 0; 1; 2; 3; 4; 5; 6; 7, and 19992 more like it (InvalidAllowedLocationIP)"
    );
}

/// Not more than ten patches a minute, however often the status changes, and one soon after the API is well again.
#[test]
fn an_api_that_refuses_for_a_minute_is_asked_ten_times() {
    for (retry_after, most) in [(None, 10), (Some(12 * SECOND), 6), (Some(1000 * SECOND), 5)] {
        let mut world = World::with([node("b", "two", 2)]);
        world.api_away = true;
        world.retry_after = retry_after;
        let before = world.patches.len();
        for round in 0..60u8 {
            // What it has to say is another thing every second.
            let address = format!("203.0.113.{}/24", 1 + round % 2).parse().unwrap();
            world.facts.interfaces.values_mut().for_each(|interface| interface.addresses[1] = address);
            world.reconciler.handle_notice(world.now);
            world.pass(SECOND, &[]);
        }
        let patches = world.patches.len() - before;
        assert!((1..=most).contains(&patches), "{patches} patches with {retry_after:?}");
        world.api_away = false;
        world.pass(MINUTE / 2, &[]);
        // Nobody makes a node dead by asking it to wait.
        assert!(world.view.unhealthy.is_empty(), "{retry_after:?}: {:?}", world.view.unhealthy);
    }
}

/// The API was gone for long: when it is heard again, the heartbeat does not wait for the pause to end.
#[test]
fn a_watch_that_is_back_brings_the_heartbeat_soon() {
    let mut world = World::with([node("b", "two", 2)]);
    world.api_away = true;
    world.reconciler.handle_watch(Watch::Broken("gone".to_owned()), world.now);
    world.pass(10 * MINUTE, &[]);
    world.api_away = false;
    let before = world.patches.len();
    world.reconciler.handle_watch(Watch::Synced, world.now);
    world.pass(2 * SECOND, &[]);
    assert_eq!(world.patches.len(), before + 1);
}

/// What somebody else changes again and again, or a policy never lets through, is not told every two seconds.
#[test]
fn insisting_becomes_rare() {
    let mut world = World::with([node("b", "two", 2)]);
    let before = world.patches.len();
    for _ in 0..600 {
        let last_seen = world.patches.last().unwrap().last_seen;
        let key = Some(key(1).public_key());
        world.see(Node { endpoint: "192.0.2.9:1".parse().ok(), key, last_seen, ..node("a", "one", 1) });
        world.pass(SECOND, &[]);
    }
    let patches = world.patches.len() - before;
    assert!((20..=60).contains(&patches), "{patches} patches in ten minutes");
}

/// Agents that were started at the same moment do not write at the same moment for ever, and none is ever late.
#[test]
fn heartbeats_drift_apart() {
    let mut world = World::with([node("b", "two", 2)]);
    world.pass(60 * MINUTE, &[]);
    let at: Vec<i64> = world.patches.iter().map(|status| status.last_seen).collect();
    let gaps: Vec<i64> = at.windows(2).map(|pair| pair[1] - pair[0]).skip(3).collect();
    assert!(gaps.iter().all(|gap| (27..=31).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "{gaps:?}");
}

/// A view is made for every event: with thousands of problems it must not cost a copy of them.
#[test]
fn views_share_their_problems() {
    let mut world = world_with_dead_names(3000, None);
    world.pass(30 * SECOND, &[]);
    let start = Instant::now();
    for _ in 0..2000 {
        world.reconciler.handle_access(Vec::new());
        world.work();
    }
    assert!(start.elapsed() < 5 * SECOND, "{:?} for 2,000 views", start.elapsed());
}
