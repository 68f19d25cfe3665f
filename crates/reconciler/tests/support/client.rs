//! A client with an API and a host in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::{HostState, Observation, render::client::ClientConfig};
use mesh::{Node, Peer, PresharedKeys};
use reconciler::{Client, ClientAction, ClientSettings, ClientView, NodeUpdate, Now, PeerUpdate, Watch};

use super::{START, apply, key, node};

/// A client with the world around it.
pub struct World {
    pub client: Client,
    pub host: HostState,
    pub now: Now,
    pub view: ClientView,
    pub names: BTreeMap<String, std::net::IpAddr>,
    /// Secrets and the preshared keys in them; there are no others.
    pub secrets: PresharedKeys,
}

impl World {
    /// Nothing has been received yet.
    pub fn new() -> Self {
        let settings = ClientSettings {
            services: Vec::new(),
            granularity: None,
            host: config(),
            resync_period: Duration::from_secs(30),
            observer: Default::default(),
            liveness_timeout: Duration::from_secs(60),
        };
        Self {
            client: Client::new(settings),
            host: HostState::default(),
            now: Now { instant: Instant::now(), unix: START },
            view: ClientView::default(),
            names: BTreeMap::new(),
            secrets: PresharedKeys::new(),
        }
    }

    /// Synced and settled, with these nodes and the own Peer.
    pub fn with(nodes: impl IntoIterator<Item = Node>) -> Self {
        let mut world = Self::new();
        for node in nodes {
            world.see(node);
        }
        world.see_peer(Some(laptop(100)));
        world.client.handle_watch(Watch::Synced, world.now);
        world.settle();
        world
    }

    /// The API tells of a node.
    pub fn see(&mut self, node: Node) {
        let name = node.name.clone();
        let update = NodeUpdate { node: Arc::new(node), problems: Vec::new(), forced: None };
        self.client.handle_node(&name, Some(update), self.now);
    }

    /// The API tells of the own Peer.
    pub fn see_peer(&mut self, peer: Option<Peer>) {
        let update = peer.map(|peer| PeerUpdate { peer: Some(peer), problems: Vec::new() });
        self.client.handle_peer("laptop", update, self.now);
    }

    /// Lets what is due within a second happen.
    pub fn settle(&mut self) {
        self.now = self.now.after(Duration::from_secs(1));
        self.work();
    }

    /// Carries out all actions that are due now.
    pub fn work(&mut self) {
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
                ClientAction::ReadKey(reference) => {
                    let key =
                        self.secrets.get(&reference).cloned().ok_or("there is no such Secret".to_owned());
                    self.client.handle_key(&reference, key, self.now);
                }
                ClientAction::Publish(view) => self.view = view,
            }
        }
    }

    /// Whether these are the nodes, by their numbers, that there are tunnels to.
    pub fn tunnels_to(&self, numbers: impl IntoIterator<Item = u8>) -> bool {
        let wanted: BTreeSet<_> = numbers.into_iter().map(|n| key(n).public_key()).collect();
        let found = self.host.wireguard.iter().flat_map(|wireguard| wireguard.peers.keys().copied());
        found.collect::<BTreeSet<_>>() == wanted
    }
}

/// The own Peer, with the key of this number.
pub fn laptop(number: u8) -> Peer {
    Peer {
        name: "laptop".to_owned(),
        created: 0,
        changed: false,
        key: key(number).public_key(),
        allowed_ips: vec!["10.10.10.10/32".parse().unwrap()],
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 10,
    }
}

/// A node as its agent describes it.
pub fn told(name: &str, location: &str, n: u8) -> Node {
    Node {
        granularity: Some(mesh::Granularity::Location),
        wireguard_ips: vec![format!("10.4.0.{n}/16").parse().unwrap()],
        ..node(name, location, n)
    }
}

/// What is decided for the host.
pub fn config() -> ClientConfig {
    ClientConfig {
        peer: "laptop".to_owned(),
        interface: "kilo0".parse().unwrap(),
        mtu: 1420,
        private_key: key(100),
        preshared_keys: Default::default(),
        other_peers: Default::default(),
        listen_port: 51820,
        marks: Default::default(),
        addresses: vec!["10.10.10.10/32".parse().unwrap()],
        further_ranges: Vec::new(),
        allow_host_routes: Vec::new(),
        lifelines: Default::default(),
        resolved: BTreeMap::new(),
    }
}
