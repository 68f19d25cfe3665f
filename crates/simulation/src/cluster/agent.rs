//! A host with its kernel, and the agent on it with its watch of the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use hostnet::{Handshake, HostFacts, HostState, LinkKind, Observation};
use mesh::{Forced, Node, PrivateKey, PublicKey, TopologyConfig};
use reconciler::{Action, Config, NodeUpdate, Now, PeerUpdate, Reconciler, View, Watch};

use super::api::{Api, Change};
use crate::{alone::config, machine::Machine, random::Random, synthetic};

/// Whether and how the agent hears of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watching {
    /// Not at all; it tries again at this time, from this version if it still knows one.
    Not { retry: Duration, from: Option<usize> },
    /// It has heard of the changes up to this version.
    From(usize),
}

/// A host with an agent.
#[derive(Debug)]
pub struct Agent {
    pub name: String,
    /// Where the host is.
    pub site: String,
    /// Whether others see it at another address than its own.
    pub nat: bool,
    /// Where others see it.
    pub outside: SocketAddr,
    pub machine: Machine,
    pub facts: HostFacts,
    /// Whether the host is on.
    pub on: bool,
    /// Whether the agent does not reach the API.
    pub isolated: bool,
    /// How many seconds its wall clock is ahead.
    pub skew: i64,
    pub view: View,
    /// Changes made so far.
    pub changes: usize,
    /// Events told so far.
    pub events: usize,
    config: Config,
    key: (PrivateKey, PublicKey),
    reconciler: Option<Reconciler>,
    watching: Watching,
    /// Since when nothing gets through from the API, and when that is noticed.
    silent: Option<Duration>,
    /// When the next change arrives.
    arrives: Option<Duration>,
    /// As they were last told.
    nodes: BTreeMap<String, Arc<Node>>,
    peers: BTreeSet<String>,
    patched: Option<(Duration, Result<(), String>)>,
    handshakes: BTreeMap<PublicKey, (Duration, SocketAddr)>,
    random: Random,
}

impl Agent {
    /// A host that is on, with an agent that does not run yet.
    pub fn new(index: usize, node: &Node, mut random: Random, topology: TopologyConfig) -> Self {
        let nat = random.chance(20);
        // Behind NAT a host has its private address only.
        let inside = if nat { Node { endpoint: None, ..node.clone() } } else { node.clone() };
        let endpoint = node.endpoint.as_ref().and_then(mesh::Endpoint::socket_addr).unwrap();
        let outside = if nat { SocketAddr::new(endpoint.ip(), 20_000 + index as u16) } else { endpoint };
        let key = PrivateKey::from_random(random.bytes());
        Self {
            name: node.name.clone(),
            site: node.location.clone(),
            nat,
            outside,
            machine: Machine(HostState::default()),
            facts: synthetic::facts(&inside),
            on: true,
            isolated: false,
            skew: if random.chance(30) { random.below(7_200) as i64 - 3_600 } else { 0 },
            view: View::default(),
            changes: 0,
            events: 0,
            config: config(&node.name, topology, key.clone()),
            key: (key.clone(), key.public_key()),
            reconciler: None,
            watching: Watching::Not { retry: Duration::ZERO, from: None },
            silent: None,
            arrives: None,
            nodes: BTreeMap::new(),
            peers: BTreeSet::new(),
            patched: None,
            handshakes: BTreeMap::new(),
            random,
        }
    }

    /// The agent starts anew; the kernel is as it was left.
    pub fn start(&mut self, time: Duration) {
        self.reconciler = Some(Reconciler::new(self.config.clone()));
        let retry = time + Duration::from_millis(self.random.below(3_000));
        self.watching = Watching::Not { retry, from: None };
        (self.silent, self.arrives, self.patched) = (None, None, None);
        self.nodes.clear();
        self.peers.clear();
    }

    /// The agent stops; the kernel goes on.
    pub fn stop(&mut self) {
        self.reconciler = None;
    }

    /// The host loses its power.
    pub fn turn_off(&mut self) {
        self.stop();
        self.on = false;
        self.machine = Machine(HostState::default());
        self.handshakes.clear();
    }

    /// The next start is with another key.
    pub fn set_key(&mut self, key: PrivateKey) {
        self.key = (key.clone(), key.public_key());
        self.config.render.private_key = key;
    }

    pub fn is_running(&self) -> bool {
        self.reconciler.is_some()
    }

    /// The public key of the kernel's WireGuard, if that is up.
    pub fn kernel_key(&self) -> Option<PublicKey> {
        let key = self.wireguard()?.private_key.as_ref()?;
        // The public key takes long to compute.
        Some(if *key == self.key.0 { self.key.1 } else { key.public_key() })
    }

    /// The peers of the kernel's WireGuard.
    pub fn tunnels(&self) -> impl Iterator<Item = &PublicKey> {
        self.wireguard().into_iter().flat_map(|wireguard| wireguard.peers.keys())
    }

    /// Where the kernel sends what is for the other: `None` if it does not know it.
    pub fn sends_to(&self, other: &Agent) -> Option<Option<SocketAddr>> {
        Some(self.wireguard()?.peers.get(&other.kernel_key()?)?.endpoint)
    }

    /// There was a handshake with a peer, which is there.
    pub fn meet(&mut self, key: Option<PublicKey>, at: SocketAddr, time: Duration) {
        let Some(key) = key else { return };
        self.handshakes.insert(key, (time, at));
        let wireguard = self.machine.0.wireguard.as_mut();
        if let Some(peer) = wireguard.and_then(|wireguard| wireguard.peers.get_mut(&key)) {
            peer.endpoint = Some(at);
        }
    }

    /// With whom there was a handshake since then.
    pub fn sessions(&self, since: Duration) -> BTreeSet<PublicKey> {
        self.handshakes.iter().filter(|(_, (time, _))| *time >= since).map(|(key, _)| *key).collect()
    }

    fn wireguard(&self) -> Option<&hostnet::Wireguard> {
        let mut links = self.machine.0.links.values();
        let up = links.any(|link| link.kind == LinkKind::Wireguard && link.up);
        self.machine.0.wireguard.as_ref().filter(|_| self.on && up)
    }

    /// Everything that is due happens.
    pub fn step(&mut self, now: Now, time: Duration, api: &mut Api) {
        let Some(mut reconciler) = self.reconciler.take() else { return };
        self.watch(&mut reconciler, now, time, api);
        if let Some((_, result)) = self.patched.take_if(|(at, _)| *at <= time) {
            reconciler.handle_patched(result.map_err(Into::into), now);
        }
        for round in 0.. {
            assert!(round < 1_000, "the reconciler of {} never comes to rest", self.name);
            let Some(action) = reconciler.poll_action(now) else { break };
            self.carry_out(action, &mut reconciler, now, time, api);
        }
        self.reconciler = Some(reconciler);
    }

    fn watch(&mut self, reconciler: &mut Reconciler, now: Now, time: Duration, api: &Api) {
        let reachable = !api.away && !self.isolated;
        match self.watching {
            Watching::Not { retry, .. } if retry > time => {}
            Watching::Not { from, .. } if !reachable => {
                let retry = time + Duration::from_millis(500 + self.random.below(4_500));
                self.watching = Watching::Not { retry, from };
            }
            Watching::Not { from, .. } => {
                match from.filter(|from| api.after(*from).is_ok()) {
                    Some(from) => {
                        self.watching = Watching::From(from);
                        self.receive(reconciler, now, Duration::MAX, api);
                    }
                    None => self.list(reconciler, now, api),
                }
                reconciler.handle_watch(Watch::Synced, now);
            }
            Watching::From(version) if !reachable => {
                // Some connections end at once, of others nothing is heard for long.
                let wait = if self.random.chance(50) { 1 } else { 100_000 };
                let noticed =
                    *self.silent.get_or_insert(time + Duration::from_millis(self.random.below(wait)));
                if noticed <= time {
                    reconciler.handle_watch(Watch::Broken("the API does not answer".to_owned()), now);
                    self.silent = None;
                    self.watching = Watching::Not { retry: time, from: Some(version) };
                }
            }
            Watching::From(_) => {
                self.silent = None;
                self.receive(reconciler, now, time, api);
            }
        }
    }

    /// Hears of the changes that have arrived by now.
    fn receive(&mut self, reconciler: &mut Reconciler, now: Now, time: Duration, api: &Api) {
        let Watching::From(mut version) = self.watching else { return };
        loop {
            match api.after(version) {
                Ok(None) => break,
                Ok(Some((made, change))) => {
                    let random = &mut self.random;
                    // Mostly at once, sometimes late; in order in any case.
                    let slowest = if random.chance(2) { 3_000 } else { 100 };
                    let delay = Duration::from_millis(random.below(slowest));
                    let arrives = *self.arrives.get_or_insert(*made + delay);
                    if arrives > time {
                        break;
                    }
                    self.arrives = None;
                    self.tell(reconciler, now, change.clone());
                    version += 1;
                }
                Err(()) => return self.list(reconciler, now, api),
            }
        }
        self.watching = Watching::From(version);
    }

    /// Hears of everything there is, and of what is gone.
    fn list(&mut self, reconciler: &mut Reconciler, now: Now, api: &Api) {
        let gone: Vec<_> = self.nodes.keys().filter(|name| api.node(name).is_none()).cloned().collect();
        for (name, node) in api.nodes() {
            self.tell(reconciler, now, Change::Node(name.clone(), Some(node.clone())));
        }
        for name in gone {
            self.tell(reconciler, now, Change::Node(name, None));
        }
        let there: BTreeMap<_, _> = api.peers().collect();
        let gone: Vec<_> = self.peers.iter().filter(|name| !there.contains_key(name)).cloned().collect();
        for (name, peer) in there {
            self.tell(reconciler, now, Change::Peer(name.clone(), Some(peer.clone())));
        }
        for name in gone {
            self.tell(reconciler, now, Change::Peer(name, None));
        }
        self.arrives = None;
        self.watching = Watching::From(api.version());
    }

    fn tell(&mut self, reconciler: &mut Reconciler, now: Now, change: Change) {
        self.events += 1;
        match change {
            Change::Node(name, node) => {
                let before = match &node {
                    Some(node) => self.nodes.insert(name.clone(), node.clone()),
                    None => self.nodes.remove(&name),
                };
                let forced = (name == self.name).then(Forced::default);
                if let (Some(before), Some(node), None) = (before, &node, &forced)
                    && is_heartbeat(&before, node)
                {
                    return reconciler.handle_heartbeat(&name, node.last_seen, now);
                }
                let update = node.map(|node| NodeUpdate { node, problems: Vec::new(), forced });
                reconciler.handle_node(&name, update, now);
            }
            Change::Peer(name, peer) => {
                let update = peer.map(|peer| PeerUpdate { peer: Some(peer), problems: Vec::new() });
                let there = update.is_some();
                reconciler.handle_peer(&name, update, now);
                remember(&mut self.peers, name, there);
            }
        }
    }

    fn carry_out(
        &mut self,
        action: Action,
        reconciler: &mut Reconciler,
        now: Now,
        time: Duration,
        api: &mut Api,
    ) {
        match action {
            Action::Observe => {
                let observation = self.observe(time);
                reconciler.handle_observation(Ok(observation), now);
            }
            Action::Apply(changes) => {
                let mut failures = Vec::new();
                for change in &changes {
                    if let Err(why) = self.machine.apply(change) {
                        failures.push(format!("{change}: {why}"));
                    }
                }
                assert!(failures.is_empty(), "{}: {failures:#?} of {changes:#?}", self.name);
                self.changes += changes.len();
                reconciler.handle_applied(failures, now);
            }
            Action::Patch(status) => {
                let (wait, result) = match api.away || self.isolated {
                    true => (self.random.below(10_000), Err("the API does not answer".to_owned())),
                    false => (self.random.below(200), api.patch(time, &self.name, &status)),
                };
                self.patched = Some((time + Duration::from_millis(wait), result));
            }
            Action::Resolve(name) => {
                reconciler.handle_resolved(&name, Err("there is no DNS here".to_owned()), now);
            }
            Action::ReadKey(reference) => {
                reconciler.handle_key(&reference, Err("there are no Secrets here".to_owned()), now);
            }
            Action::AskNeighbour(address) => reconciler.handle_neighbour_answer(address, true, now),
            Action::AskApi => reconciler.handle_api_answer(!(api.away || self.isolated), now),
            Action::Publish(view) => self.view = *view,
        }
    }

    fn observe(&self, time: Duration) -> Observation {
        let handshake = |(key, (at, endpoint)): (&PublicKey, &(Duration, SocketAddr))| {
            let handshake = Handshake { age: time - *at, endpoint: Some(*endpoint), received: 1, sent: 1 };
            (*key, handshake)
        };
        Observation {
            host: self.machine.0.clone(),
            facts: self.facts.clone(),
            suspects: BTreeSet::new(),
            legacy_tables: Vec::new(),
            handshakes: self.handshakes.iter().map(handshake).collect(),
        }
    }
}

/// As the watch of a real API finds it out.
fn is_heartbeat(before: &Node, after: &Node) -> bool {
    before.last_seen != after.last_seen && Node { last_seen: after.last_seen, ..before.clone() } == *after
}

fn remember(names: &mut BTreeSet<String>, name: String, there: bool) {
    if there {
        names.insert(name);
    } else {
        names.remove(&name);
    }
}
