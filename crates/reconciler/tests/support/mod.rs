//! A host and an API in memory, on which a reconciler is run.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test fails by panicking; not every test uses everything"
)]

pub mod client;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::{
    Change, Encapsulation, Handshake, HostFacts, HostState, Interface, Leftover, LegacyTable, Observation,
    RenderConfig,
};
use mesh::{
    Forced, Granularity, Node, PresharedKeys, PrivateKey, PublicKey, Published, SecretRef, TopologyConfig,
    allocation::Subnets,
};
use reconciler::{
    Action, Config, Mtu, NodeUpdate, Now, PatchFailure, Reconciler, View, Watch, discovery::DiscoveryConfig,
};
use simulation::machine::Machine;

/// 2023-11-14, in Unix seconds.
pub const START: i64 = 1_700_000_000;

/// A reconciler with the world around it.
pub struct World {
    pub reconciler: Reconciler,
    pub host: HostState,
    pub facts: HostFacts,
    pub suspects: BTreeSet<Leftover>,
    pub legacy_tables: Vec<LegacyTable>,
    pub handshakes: BTreeMap<PublicKey, Handshake>,
    pub now: Now,
    pub view: View,
    pub patches: Vec<Published>,
    pub applied: Vec<Change>,
    pub asked: Vec<String>,
    pub observations: usize,
    /// Where no node answers.
    pub silent: BTreeSet<IpAddr>,
    pub asked_neighbours: Vec<IpAddr>,
    /// Names and what they resolve to; others do not resolve.
    pub names: BTreeMap<String, IpAddr>,
    /// Secrets and the preshared keys in them; there are no others.
    pub secrets: PresharedKeys,
    /// The Secrets that were read.
    pub read: Vec<SecretRef>,
    /// Changes for which this is true fail.
    pub refuse: fn(&Change) -> bool,
    /// Changes for which this is true succeed and do nothing.
    pub ignore: fn(&Change) -> bool,
    pub api_away: bool,
    /// Patches are not answered until [`World::answer_patch`].
    pub api_slow: bool,
    /// What the API asks for with each refusal.
    pub retry_after: Option<Duration>,
    /// Everything that was shown.
    pub views: Vec<View>,
    /// How long a name is asked for, without an answer in the end; `None`: answers come at once.
    pub silence: Option<Duration>,
    /// Names that are being asked for, and until when.
    pub asking: Vec<(Instant, String)>,
}

/// The private key of the n-th node.
pub fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

/// A ready node: `n` gives key, addresses and pod subnet. Location `one` has the private network of node `a`.
pub fn node(name: &str, location: &str, n: u8) -> Node {
    let network = if location == "one" { 0 } else { n };
    Node {
        location: location.to_owned(),
        endpoint: format!("203.0.113.{n}:51820").parse().ok(),
        key: Some(key(n).public_key()),
        internal_ips: vec![format!("10.0.{network}.{n}/24").parse().unwrap()],
        pod_subnets: vec![format!("10.42.{n}.0/24").parse().unwrap()],
        last_seen: START,
        ..Node::named(name)
    }
}

impl World {
    /// The world of node `a` with the number 1 in location `one`. Nothing has been received yet.
    pub fn new() -> Self {
        let eth0: hostnet::LinkName = "eth0".parse().unwrap();
        let addresses = vec!["10.0.0.1/24".parse().unwrap(), "203.0.113.1/24".parse().unwrap()];
        let interface = Interface { mtu: 1500, running: true, addresses, ..Interface::default() };
        let facts = HostFacts {
            interfaces: [(eth0.clone(), interface)].into(),
            default_interface: Some(eth0),
            ..Default::default()
        };
        Self {
            reconciler: Reconciler::new(config()),
            host: HostState::default(),
            facts,
            suspects: BTreeSet::new(),
            legacy_tables: Vec::new(),
            handshakes: BTreeMap::new(),
            now: Now { instant: Instant::now(), unix: START },
            view: View::default(),
            patches: Vec::new(),
            applied: Vec::new(),
            asked: Vec::new(),
            observations: 0,
            silent: BTreeSet::new(),
            asked_neighbours: Vec::new(),
            names: BTreeMap::new(),
            secrets: PresharedKeys::new(),
            read: Vec::new(),
            refuse: |_| false,
            ignore: |_| false,
            api_away: false,
            api_slow: false,
            retry_after: None,
            views: Vec::new(),
            silence: None,
            asking: Vec::new(),
        }
    }

    /// The world with these nodes besides the own one, synced and settled.
    pub fn with(nodes: impl IntoIterator<Item = Node>) -> Self {
        let mut world = Self::new();
        world.see(Node { endpoint: None, key: None, internal_ips: Vec::new(), ..node("a", "one", 1) });
        for node in nodes {
            world.see(node);
        }
        world.reconciler.handle_watch(Watch::Synced, world.now);
        world.settle();
        world
    }

    /// The API tells of a node.
    pub fn see(&mut self, node: Node) {
        let name = node.name.clone();
        let forced = (name == "a").then(Forced::default);
        let update = NodeUpdate { node: Arc::new(node), problems: Vec::new(), forced };
        self.reconciler.handle_node(&name, Some(update), self.now);
    }

    /// Time passes, in steps of at most a second; nodes listed beat every 30 s.
    pub fn pass(&mut self, duration: Duration, beating: &[Node]) {
        let end = self.now.instant + duration;
        let mut elapsed = 0;
        while self.now.instant < end {
            let step = Duration::from_secs(1).min(end - self.now.instant);
            self.now = self.now.after(step);
            elapsed += 1;
            if elapsed % 30 == 0 && !self.api_away {
                for node in beating {
                    // The watch tells either, as it happens.
                    if elapsed % 60 == 0 && node.name != "a" {
                        self.reconciler.handle_heartbeat(&node.name, self.now.unix, self.now);
                    } else {
                        self.see(Node { last_seen: self.now.unix, ..node.clone() });
                    }
                }
            }
            self.work();
        }
    }

    /// Lets what is due within a second happen.
    pub fn settle(&mut self) {
        self.pass(Duration::from_secs(1), &[]);
    }

    /// Carries out all actions that are due now.
    pub fn work(&mut self) {
        let now = self.now;
        for (_, name) in self.asking.extract_if(.., |(until, _)| *until <= now.instant) {
            self.reconciler.handle_resolved(&name, Err("no answer".to_owned()), now);
        }
        for _ in 0..10_000 {
            let Some(action) = self.reconciler.poll_action(self.now) else { return };
            self.carry_out(action);
        }
        panic!("the reconciler never comes to rest");
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Observe => {
                self.observations += 1;
                let observation = Observation {
                    host: self.host.clone(),
                    facts: self.facts.clone(),
                    suspects: self.suspects.clone(),
                    legacy_tables: self.legacy_tables.clone(),
                    handshakes: self.handshakes.clone(),
                };
                self.reconciler.handle_observation(Ok(observation), self.now);
            }
            Action::Apply(changes) => {
                let mut failures = Vec::new();
                for change in changes {
                    if (self.refuse)(&change) {
                        failures.push(format!("{change}: refused"));
                    } else if !(self.ignore)(&change) {
                        failures.extend(apply(&mut self.host, &change).err());
                    }
                    self.applied.push(change);
                }
                self.reconciler.handle_applied(failures, self.now);
            }
            Action::Patch(status) if self.api_slow => self.patches.push(status),
            Action::Patch(status) => {
                let failure =
                    PatchFailure { why: "connection refused".to_owned(), retry_after: self.retry_after };
                let result = if self.api_away { Err(failure) } else { Ok(()) };
                let heard = result.is_ok();
                self.reconciler.handle_patched(result, self.now);
                if heard {
                    // What is written comes back through the watch.
                    let node = Arc::new(told(&status));
                    let update = NodeUpdate { node, problems: Vec::new(), forced: None };
                    self.reconciler.handle_node("a", Some(update), self.now);
                }
                self.patches.push(status);
            }
            Action::Resolve(name) if self.silence.is_some() => {
                let until = self.now.instant + self.silence.unwrap_or_default();
                self.asking.push((until, name.clone()));
                self.asked.push(name);
            }
            Action::Resolve(name) => {
                let answer = self.names.get(&name).map(|ip| vec![*ip]).ok_or("no such name".to_owned());
                self.reconciler.handle_resolved(&name, answer, self.now);
                self.asked.push(name);
            }
            Action::ReadKey(reference) => {
                let key = self.secrets.get(&reference).cloned().ok_or("there is no such Secret".to_owned());
                self.reconciler.handle_key(&reference, key, self.now);
                self.read.push(reference);
            }
            Action::AskNeighbour(address) => {
                let answers = !self.silent.contains(&address);
                self.reconciler.handle_neighbour_answer(address, answers, self.now);
                self.asked_neighbours.push(address);
            }
            Action::AskApi => self.reconciler.handle_api_answer(!self.api_away, self.now),
            Action::Publish(view) => {
                self.views.push((*view).clone());
                self.view = *view;
            }
        }
    }

    /// The API answers the last patch, and the next ones at once.
    pub fn answer_patch(&mut self) {
        self.api_slow = false;
        self.reconciler.handle_patched(Ok(()), self.now);
    }

    /// Destinations of the routes, as text.
    pub fn routes(&self) -> Vec<String> {
        self.host.routes.iter().map(|route| route.destination.to_string()).collect()
    }

    /// The endpoint that WireGuard has for a peer.
    pub fn endpoint(&mut self, number: u8) -> &mut Option<SocketAddr> {
        let wireguard = self.host.wireguard.as_mut().unwrap();
        &mut wireguard.peers.get_mut(&key(number).public_key()).unwrap().endpoint
    }

    /// There was a handshake with the peer just now, and packets came from where its endpoint is.
    pub fn shake_hands(&mut self, number: u8) {
        let endpoint = *self.endpoint(number);
        let handshake = Handshake { age: Duration::from_secs(5), endpoint, received: 1, sent: 1 };
        self.handshakes.insert(key(number).public_key(), handshake);
    }
}

/// Node `a` after it has told this.
fn told(status: &Published) -> Node {
    Node {
        endpoint: status.endpoint.clone(),
        key: Some(status.key),
        internal_ips: status.internal_ips.clone(),
        wireguard_ips: status.wireguard_ips.clone(),
        granularity: Some(status.granularity),
        discovered_endpoints: status.discovered_endpoints.clone(),
        last_seen: status.last_seen,
        ..node("a", "one", 1)
    }
}

/// The configuration of node `a`.
pub fn config() -> Config {
    Config {
        node: "a".to_owned(),
        topology: TopologyConfig {
            granularity: Granularity::Location,
            subnets: Subnets::default(),
            services: Vec::new(),
        },
        render: RenderConfig { encapsulation: Encapsulation::Never, ..RenderConfig::with_key(key(1)) },
        mtu: Mtu::Auto,
        discovery: DiscoveryConfig {
            hostname_addresses: Vec::new(),
            internal_cidrs: Vec::new(),
            prioritise_private: false,
            port: 51820,
        },
        surroundings: Default::default(),
        resync_period: Duration::from_secs(30),
        observer: Default::default(),
        liveness_timeout: Duration::from_secs(60),
    }
}

/// A kernel that does as it is told, if that is possible.
pub fn apply(host: &mut HostState, change: &Change) -> Result<(), String> {
    let mut machine = Machine(std::mem::take(host));
    let result = machine.apply(change);
    *host = machine.0;
    result.map_err(|why| format!("{change}: {why}"))
}
