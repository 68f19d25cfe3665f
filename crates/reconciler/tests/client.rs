//! A client against an API and a host in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::{HostState, Observation, render::client::ClientConfig};
use mesh::{Node, Peer};
use reconciler::{Client, ClientAction, ClientSettings, ClientView, NodeUpdate, Now, PeerUpdate, Watch};
use support::{START, apply, key, node};

/// A client with the world around it.
struct World {
    client: Client,
    host: HostState,
    now: Now,
    view: ClientView,
    names: BTreeMap<String, std::net::IpAddr>,
}

impl World {
    fn new() -> Self {
        let settings = ClientSettings {
            granularity: None,
            host: config(),
            resync_period: Duration::from_secs(30),
            liveness_timeout: Duration::from_secs(60),
        };
        Self {
            client: Client::new(settings),
            host: HostState::default(),
            now: Now { instant: Instant::now(), unix: START },
            view: ClientView::default(),
            names: BTreeMap::new(),
        }
    }

    /// Synced and settled, with these nodes and the own Peer.
    fn with(nodes: impl IntoIterator<Item = Node>) -> Self {
        let mut world = Self::new();
        for node in nodes {
            world.see(node);
        }
        world.see_peer(Some(laptop(100)));
        world.client.handle_watch(Watch::Synced, world.now);
        world.settle();
        world
    }

    fn see(&mut self, node: Node) {
        let name = node.name.clone();
        let update = NodeUpdate { node: Arc::new(node), problems: Vec::new(), forced: None };
        self.client.handle_node(&name, Some(update), self.now);
    }

    fn see_peer(&mut self, peer: Option<Peer>) {
        let update = peer.map(|peer| PeerUpdate { peer: Some(peer), problems: Vec::new() });
        self.client.handle_peer("laptop", update, self.now);
    }

    /// Lets a second pass and does everything that is to be done.
    fn settle(&mut self) {
        self.now = self.now.after(Duration::from_secs(1));
        while let Some(action) = self.client.poll_action(self.now) {
            match action {
                ClientAction::Observe => {
                    let observation = Observation { host: self.host.clone(), ..Observation::default() };
                    self.client.handle_observation(Ok(observation), self.now);
                }
                ClientAction::Apply(changes) => {
                    changes.into_iter().for_each(|change| apply(&mut self.host, &change).unwrap());
                    self.client.handle_applied(Vec::new(), self.now);
                }
                ClientAction::Resolve(name) => {
                    let answer = self.names.get(&name).map(|ip| vec![*ip]).ok_or("no such name".to_owned());
                    self.client.handle_resolved(&name, answer, self.now);
                }
                ClientAction::Publish(view) => self.view = view,
            }
        }
    }

    /// Whether these are the nodes, by their numbers, that there are tunnels to.
    fn tunnels_to(&self, numbers: impl IntoIterator<Item = u8>) -> bool {
        let wanted: BTreeSet<_> = numbers.into_iter().map(|n| key(n).public_key()).collect();
        let found = self.host.wireguard.iter().flat_map(|wireguard| wireguard.peers.keys().copied());
        found.collect::<BTreeSet<_>>() == wanted
    }
}

fn laptop(number: u8) -> Peer {
    Peer {
        name: "laptop".to_owned(),
        key: key(number).public_key(),
        allowed_ips: vec!["10.10.10.10/32".parse().unwrap()],
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 10,
    }
}

/// A node as its agent describes it.
fn told(name: &str, location: &str, n: u8) -> Node {
    Node {
        granularity: Some(mesh::Granularity::Location),
        wireguard_ips: vec![format!("10.4.0.{n}/16").parse().unwrap()],
        ..node(name, location, n)
    }
}

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

fn config() -> ClientConfig {
    ClientConfig {
        peer: "laptop".to_owned(),
        interface: "kilo0".parse().unwrap(),
        mtu: 1420,
        private_key: key(100),
        listen_port: 51820,
        marks: Default::default(),
        addresses: vec!["10.10.10.10/32".parse().unwrap()],
        further_ranges: Vec::new(),
        outside: Default::default(),
        resolved: BTreeMap::new(),
    }
}
