//! Who is taken for alive by an agent or a client that starts, or hears of the API again: not a question of who is told
//! first, nor of how.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use hostnet::{Change, HostState};
use mesh::{Node, PublicKey, Role};
use proptest::prelude::*;
use reconciler::Watch;
use support::{
    START, World,
    client::{self, laptop, told},
    key, node,
};

/// What happens to a machine.
#[derive(Debug, Clone)]
enum Event {
    /// A Node, by its number, that was last seen this many seconds before [`START`].
    See(u8, i64),
    /// The heartbeat of a Node, with the same kind of time.
    Heartbeat(u8, i64),
    Gone(u8),
    Synced,
    Broken,
    /// Seconds pass.
    Pass(u64),
}

use Event::{Broken, Gone, Heartbeat, Pass, See, Synced};

/// Numbers are names in the order of the numbers. Every node is a segment.
fn name(number: u8) -> String {
    format!("node-{number}")
}

fn seen(number: u8, age: i64) -> Node {
    Node { last_seen: START - age, ..told(&name(number), &format!("location-{number}"), number) }
}

fn agent(events: &[Event]) -> World {
    let mut world = World::new();
    world.see(Node { last_seen: START - 1000, ..node("a", "one", 1) });
    for event in events {
        match *event {
            See(number, age) => world.see(seen(number, age)),
            Heartbeat(number, age) => {
                world.reconciler.handle_heartbeat(&name(number), START - age, world.now);
            }
            Gone(number) => world.reconciler.handle_node(&name(number), None, world.now),
            Synced => world.reconciler.handle_watch(Watch::Synced, world.now),
            Broken => world.reconciler.handle_watch(Watch::Broken("away".to_owned()), world.now),
            Pass(seconds) => world.pass(Duration::from_secs(seconds), &[]),
        }
        world.work();
    }
    world.settle();
    world
}

fn client(events: &[Event]) -> client::World {
    let mut world = client::World::new();
    world.see_peer(Some(laptop(100)));
    for event in events {
        match *event {
            See(number, age) => world.see(seen(number, age)),
            Heartbeat(number, age) => world.client.handle_heartbeat(&name(number), START - age, world.now),
            Gone(number) => world.client.handle_node(&name(number), None, world.now),
            Synced => world.client.handle_watch(Watch::Synced, world.now),
            Broken => world.client.handle_watch(Watch::Broken("away".to_owned()), world.now),
            Pass(seconds) => world.now = world.now.after(Duration::from_secs(seconds)),
        }
        world.work();
    }
    world.settle();
    world
}

fn tunnels(host: &HostState) -> BTreeSet<PublicKey> {
    host.wireguard.iter().flat_map(|wireguard| wireguard.peers.keys().copied()).collect()
}

fn keys(numbers: &[u8]) -> BTreeSet<PublicKey> {
    numbers.iter().map(|number| key(*number).public_key()).collect()
}

/// Of both machines: in the end they have tunnels to these.
#[track_caller]
fn check(events: &[Event], alive: &[u8]) {
    assert_eq!(tunnels(&agent(events).host), keys(alive), "an agent, after {events:?}");
    assert_eq!(tunnels(&client(events).host), keys(alive), "a client, after {events:?}");
}

#[test]
fn the_dead_are_dead_wherever_they_are_told() {
    for dead in 2..=5 {
        let events = (2..=5).map(|number| See(number, if number == dead { 100 } else { 0 }));
        let events: Vec<_> = events.chain([Synced]).collect();
        let alive: Vec<_> = (2..=5).filter(|number| *number != dead).collect();
        check(&events, &alive);
    }
    check(&[See(2, 100), See(3, 5000), See(4, 20), See(5, 80), See(6, 10), Synced], &[4, 6]);
    check(&[See(2, 100), See(3, 110), Synced], &[2, 3]);
}

#[test]
fn heartbeats_from_before_the_end_of_the_list_count() {
    check(&[See(2, 3600), See(3, 3600), Heartbeat(3, 0), Synced], &[3]);
    check(&[See(2, 3600), Heartbeat(2, 0), See(3, 0), Synced], &[2, 3]);
    // A wrong clock does not matter: it was seen to go on.
    check(&[See(2, 3600), Heartbeat(2, 3570), See(3, 0), Synced], &[2, 3]);
    // Others are listed for so long that it has fallen silent again.
    check(&[See(2, 90), Heartbeat(2, 60), Pass(70), See(3, -70), Synced], &[3]);
}

#[test]
fn a_node_that_is_deleted_and_made_again_meanwhile_is_a_new_one() {
    check(&[See(2, 100), Gone(2), See(2, 100), See(3, 0), Synced], &[3]);
    check(&[See(3, 0), Gone(3), See(2, 100), See(3, 100), Synced], &[2, 3]);
    check(&[See(3, 0), See(2, 100), Gone(3), Synced], &[2]);
    let relisted = [Broken, Gone(2), See(2, 100), See(4, -10), Synced];
    check(&[&[See(2, 0), See(3, 0), Synced, Pass(10)], &relisted[..]].concat(), &[3, 4]);
}

#[test]
fn who_is_new_when_all_is_listed_again_is_compared_with_all() {
    let before = [See(4, 0), See(5, 0), Synced, Pass(10), Broken, Pass(600)];
    // Number 5 fell silent in the meantime, but that is not known yet.
    let dead_first = [See(2, -300), See(3, -600), See(4, -600), Synced];
    check(&[&before[..], &dead_first].concat(), &[3, 4, 5]);
    // A look at the host in between, which does not know them yet.
    let looked_at = [See(2, -300), See(3, -600), See(4, -600), Pass(1), Synced];
    check(&[&before[..], &looked_at].concat(), &[3, 4, 5]);
    let dead_last = [See(4, -600), See(3, -600), See(2, -300), Synced];
    check(&[&before[..], &dead_last].concat(), &[3, 4, 5]);
    // What breaks off before its end is no basis.
    let broken_off = [See(2, -300), Broken, Pass(5), See(3, -600), Synced];
    check(&[&before[..], &broken_off].concat(), &[3, 4, 5]);
    let revived = [&before[..], &dead_first, &[Pass(1), Heartbeat(2, -601)]].concat();
    check(&revived, &[2, 3, 4, 5]);
}

/// All orders of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// A leader has died and was replaced; now this agent is restarted.
#[test]
fn after_a_restart_the_first_mesh_has_the_leader_that_is_alive() {
    let dead = Node { leader: true, last_seen: START - 3600, ..node("b", "two", 2) };
    let others = [dead, node("c", "two", 3), node("d", "three", 4)];
    for order in ORDERS {
        let mut world = World::new();
        let mut all: Vec<_> = order.into_iter().map(|index| others[index].clone()).collect();
        all.insert(order[0], Node { last_seen: START - 40, ..node("a", "one", 1) });
        all.into_iter().for_each(|node| world.see(node));
        world.reconciler.handle_watch(Watch::Synced, world.now);
        world.settle();
        let peers = world.applied.iter().filter_map(|change| match change {
            Change::SetPeer(_, key, _) => Some(*key),
            _ => None,
        });
        assert_eq!(peers.collect::<BTreeSet<_>>(), keys(&[3, 4]), "{order:?}");
        let leaders = world.reconciler.topology().unwrap().segments.iter().map(|segment| segment.leader());
        let leaders: Vec<_> = leaders.map(|node| node.name.as_str()).collect();
        assert_eq!(leaders, ["a", "d", "c"], "{order:?}");
    }
}

#[test]
fn after_a_restart_beside_a_dead_leader_the_agent_leads() {
    let dead = Node { leader: true, last_seen: START - 3600, ..node("0", "one", 2) };
    let own = Node { last_seen: START - 40, ..node("a", "one", 1) };
    let all = [dead, own, node("c", "three", 3)];
    for order in ORDERS {
        let mut world = World::new();
        order.into_iter().for_each(|index| world.see(all[index].clone()));
        world.reconciler.handle_watch(Watch::Synced, world.now);
        world.settle();
        assert_eq!(world.view.role, Some(Role::Leader), "{order:?}");
        assert_eq!(tunnels(&world.host), keys(&[3]), "{order:?}");
    }
}

/// The own `last-seen` is of the same clock that the others are judged with.
#[test]
fn an_own_clock_that_is_wrong_kills_nobody() {
    for ahead in [86_400, -86_400] {
        for order in ORDERS {
            let all = [node("0", "two", 2), node("a", "one", 1), node("c", "three", 3)];
            let mut world = World::new();
            world.now.unix += ahead;
            for index in order {
                let own = if all[index].name == "a" { ahead - 40 } else { 0 };
                world.see(Node { last_seen: START + own, ..all[index].clone() });
            }
            world.reconciler.handle_heartbeat("a", START + ahead - 10, world.now);
            world.reconciler.handle_watch(Watch::Synced, world.now);
            world.settle();
            assert_eq!(tunnels(&world.host), keys(&[2, 3]), "{ahead} {order:?}");
        }
    }
}

/// Nodes by how long before the start they were last seen, those that are heard once more before the end of the list, and
/// an order in which all that is told; the number of a node comes twice, for the node and for its heartbeat.
fn cluster() -> impl Strategy<Value = (Vec<(i64, Option<i64>)>, Vec<usize>)> {
    let node = (0i64..200, proptest::option::weighted(0.3, -5i64..200));
    proptest::collection::vec(node, 1..7).prop_flat_map(|nodes| {
        let order: Vec<_> = (0..nodes.len()).chain(0..nodes.len()).collect();
        (Just(nodes), Just(order).prop_shuffle())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Who is alive depends on what the nodes told and on the youngest of them, and on no order.
    #[test]
    fn no_order_decides_who_is_alive((nodes, order) in cluster(), again in any::<bool>()) {
        let number = |index: usize| index as u8 + 2;
        // After an outage everyone is as new as after a start.
        let mut events = if again { vec![Synced, Pass(100), Broken, Pass(300)] } else { Vec::new() };
        let mut told = BTreeSet::new();
        for index in order {
            let (age, beat) = nodes[index];
            if told.insert(index) {
                events.push(See(number(index), age));
            } else if let Some(age) = beat {
                events.push(Heartbeat(number(index), age));
            }
        }
        events.push(Synced);
        let last = |(age, beat): &(i64, Option<i64>)| beat.unwrap_or(*age);
        let youngest = nodes.iter().map(last).min().unwrap().max(if again { i64::MIN } else { 0 });
        let is_alive = |node: &(i64, Option<i64>)| {
            node.1.is_some_and(|beat| beat != node.0) || last(node) - youngest < 60
        };
        let alive = nodes.iter().enumerate().filter(|(_, node)| is_alive(node));
        let alive: Vec<_> = alive.map(|(index, _)| number(index)).collect();
        check(&events, &alive);
    }
}
