//! The state machine: what it knows, what it is told, what it asks for.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::{Change, HostFacts, HostState, LegacyTable, LinkKind, RenderConfig};
use ipnet::IpNet;
use mesh::{
    Forced, Node, Observer, PresharedKey, Problem, PublicKey, Published, SecretRef, Topology, TopologyConfig,
};

use crate::{
    NodeUpdate, Now, PeerUpdate, Surroundings, Watch,
    announced::Announced,
    discovery::DiscoveryConfig,
    endpoints::Endpoints,
    intended::Intended,
    known::{Heard, Known},
    lookups::Answered,
    nat::BehindNat,
    neighbours::Neighbours,
    rounds::Rounds,
    sessions::Sessions,
    shown::Shown,
    telling::Telling,
    tunnel_ends::TunnelEnds,
    view::View,
    watchdog::Watchdog,
};

/// How the MTU of the WireGuard interface is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// The underlay's less what WireGuard adds at most: 80 bytes (IPv6 40, UDP 8, WireGuard 32).
    Auto,
    /// As given, in bytes.
    Fixed(u32),
}

/// What a shutdown removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Nothing: the next start takes over.
    Nothing,
    /// Routes, rules, firewall, addresses and what encapsulates.
    AllButInterface,
    /// The interface too.
    Everything,
}

/// What does not change while an agent runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The own Node's name.
    pub node: String,
    /// What all agents have to agree on.
    pub topology: TopologyConfig,
    /// What the operator decides for this host.
    pub render: RenderConfig,
    /// The MTU of the WireGuard interface.
    pub mtu: Mtu,
    /// By what this agent looks at the cluster. All agents have to do it alike.
    pub observer: Observer,
    /// How the own addresses are found.
    pub discovery: DiscoveryConfig,
    /// What is known at the start of the addresses that programs of this host need.
    pub surroundings: Surroundings,
    /// The host is looked at at least this often.
    pub resync_period: Duration,
    /// A node that is silent for this long is not alive; half of it is the time between own heartbeats.
    pub liveness_timeout: Duration,
}

/// What is to be done. Whoever runs the machine reports every outcome with the `handle_*` of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Look at the host: [`Reconciler::handle_observation`].
    Observe,
    /// Change the host: [`Reconciler::handle_applied`].
    Apply(Vec<Change>),
    /// Tell the others: [`Reconciler::handle_patched`].
    Patch(Published),
    /// Look a name up: [`Reconciler::handle_resolved`].
    Resolve(String),
    /// Read a preshared key: [`Reconciler::handle_key`].
    ReadKey(SecretRef),
    /// Ask the API server whether it answers, on a connection of its own: [`Reconciler::handle_api_answer`].
    AskApi,
    /// Ask a node of the own location whether it answers, on the host's own way:
    /// [`Reconciler::handle_neighbour_answer`].
    AskNeighbour(IpAddr),
    /// Show this. Nothing to report.
    Publish(Box<View>),
}

/// The state machine.
#[derive(Debug)]
pub struct Reconciler {
    pub(crate) config: Config,
    /// The own public key: it takes a while to compute.
    pub(crate) key: PublicKey,
    pub(crate) known: Known,
    pub(crate) forced: Forced,
    pub(crate) announced: Announced,
    /// The own node as it went into the topology.
    pub(crate) local: Option<Arc<Node>>,
    /// As it was last computed.
    pub(crate) topology: Option<Arc<Topology>>,
    /// Whether it is to be computed again. Until then the last one is shown: what is wrong with it has not gone.
    pub(crate) outdated: bool,
    pub(crate) intended: Option<Intended>,
    pub(crate) behind_nat: BehindNat,
    pub(crate) neighbours: Neighbours,
    pub(crate) tunnel_ends: TunnelEnds,
    pub(crate) endpoints: Endpoints,
    pub(crate) sessions: Sessions,
    pub(crate) rounds: Rounds,
    pub(crate) last: Outcome,
    pub(crate) telling: Telling,
    pub(crate) surroundings: Surroundings,
    pub(crate) watchdog: Watchdog,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) published: Option<View>,
    pub(crate) shown: Shown,
    /// In which settings nodes of the mesh differ.
    pub(crate) differing: Vec<Problem>,
    /// In what agents, clocks and networks differ.
    pub(crate) agreement: Arc<[Problem]>,
    /// When the next view is due although nothing else is.
    pub(crate) show_at: Option<Instant>,
    /// What of the status a policy of the cluster refuses.
    pub(crate) refused: Option<Problem>,
}

/// How the last reconcile ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub facts: HostFacts,
    /// What of a Go agent is beyond our reach.
    pub legacy_tables: Vec<LegacyTable>,
    /// Why the own addresses were not found.
    pub undiscovered: Option<Problem>,
    /// What failed; `None`: no reconcile has ended yet.
    pub failures: Option<Vec<String>>,
    pub role: Option<mesh::Role>,
    /// Whether somebody behind NAT has no session with this node.
    pub somebody_missing: bool,
    pub reconciles: u64,
    pub failed_changes: u64,
}

impl Reconciler {
    /// A machine that knows nothing yet.
    pub fn new(config: Config) -> Self {
        let key = config.render.private_key.public_key();
        let mut machine = Self {
            known: Known::new(Some(config.node.clone()), config.liveness_timeout, key.as_bytes()),
            rounds: Rounds::new(config.resync_period),
            telling: Telling::new(config.liveness_timeout / 2, key.as_bytes()),
            key,
            surroundings: config.surroundings.clone(),
            config,
            forced: Forced::default(),
            announced: Announced::default(),
            local: None,
            topology: None,
            outdated: true,
            intended: None,
            behind_nat: BehindNat::default(),
            neighbours: Neighbours::default(),
            tunnel_ends: TunnelEnds::default(),
            endpoints: Endpoints::default(),
            sessions: Sessions::default(),
            last: Outcome::default(),
            watchdog: Watchdog::default(),
            actions: VecDeque::new(),
            published: None,
            shown: Shown::default(),
            differing: Vec::new(),
            agreement: Arc::default(),
            show_at: None,
            refused: None,
        };
        machine.publish();
        machine
    }

    /// A Node was added or changed, or (`None`) removed.
    pub fn handle_node(&mut self, name: &str, update: Option<NodeUpdate>, now: Now) {
        if let Some(update) = update.as_ref().filter(|_| name == self.config.node) {
            self.handle_own_node(update, now);
        }
        if self.known.handle_node(name, update, now) {
            self.mesh_changed(now);
        }
    }

    fn handle_own_node(&mut self, update: &NodeUpdate, now: Now) {
        self.behind_nat.remember(&update.node.discovered_endpoints, now.instant);
        self.telling.insist(&update.node, now.instant);
        self.announced.remember(&update.node, update.forced.as_ref());
        if let Some(forced) = update.forced.as_ref().filter(|forced| self.forced != **forced) {
            self.forced = forced.clone();
            self.mesh_changed(now);
        }
    }

    /// The internal and external addresses that the own Node's status names.
    pub fn handle_node_addresses(&mut self, addresses: &BTreeSet<IpAddr>, now: Now) {
        if self.announced.set_status(addresses) {
            self.rounds.look_soon(now.instant);
        }
    }

    /// A Node is as it was, but for its `last_seen`, in Unix seconds.
    pub fn handle_heartbeat(&mut self, name: &str, last_seen: i64, now: Now) {
        if self.known.handle_heartbeat(name, last_seen, now) {
            self.mesh_changed(now);
        }
    }

    /// A Peer was added or changed, or (`None`) removed.
    pub fn handle_peer(&mut self, name: &str, update: Option<PeerUpdate>, now: Now) {
        if self.known.handle_peer(name, update) {
            self.mesh_changed(now);
        }
    }

    /// All that is wrong with an object, by name, by which another CNI gives pod subnets; empty: nothing.
    pub fn handle_subnet_object(&mut self, name: &str, problems: Vec<Problem>, now: Now) {
        if self.known.handle_subnet_object(name, problems) {
            self.publish_soon(now);
        }
    }

    /// The connection to the API is there, or has broken.
    pub fn handle_watch(&mut self, watch: Watch, now: Now) {
        let heard = self.known.handle_watch(watch, now);
        if self.known.deaf().is_none() {
            self.telling.heard(now.instant);
        }
        match heard {
            Heard::First => {
                let own = self.known.node(&self.config.node);
                self.sessions.start(own.is_none_or(|node| node.key == Some(self.key)));
                self.rounds.look_now(now.instant);
            }
            Heard::Changed => self.mesh_changed(now),
            Heard::Same if self.known.deaf().is_some() => self.watchdog.lost(now.instant),
            Heard::Same => {}
        }
        self.publish();
    }

    /// All that is wrong with the access to the API at this time.
    pub fn handle_access(&mut self, problems: Vec<Problem>) {
        self.known.handle_access(problems);
        self.publish();
    }

    /// What was found out about the addresses that programs of this host need.
    pub fn handle_surroundings(&mut self, surroundings: Surroundings, now: Now) {
        if self.surroundings != surroundings {
            let before = self.services().to_vec();
            self.surroundings = surroundings;
            if self.services() == before {
                self.rounds.look_soon(now.instant);
            } else {
                self.mesh_changed(now);
            }
        }
    }

    /// Whether the API server has answered the question.
    pub fn handle_api_answer(&mut self, answers: bool, now: Now) {
        if self.watchdog.answered(answers, now.instant) {
            self.rounds.look_now(now.instant);
        }
    }

    /// Whether a node of the own location answers at an address: also by refusing a connection.
    pub fn handle_neighbour_answer(&mut self, address: IpAddr, answers: bool, now: Now) {
        if self.neighbours.answered(address, answers, now.instant) {
            self.judge_agreement();
            self.publish_soon(now);
        }
    }

    /// Routes of others on the host may have changed.
    pub fn handle_host_routes(&mut self, now: Now) {
        self.rounds.look_at_host_routes(now.instant);
    }

    /// Something on the host may have changed.
    pub fn handle_notice(&mut self, now: Now) {
        self.rounds.look_soon(now.instant);
    }

    /// The addresses of a name, or why there are none.
    pub fn handle_resolved(&mut self, name: &str, answer: Result<Vec<IpAddr>, String>, now: Now) {
        match self.known.handle_resolved(name, answer, now) {
            Answered::Value => {
                self.mesh_changed(now);
                self.publish_soon(now);
            }
            Answered::Error => self.publish_soon(now),
            Answered::Nothing => {}
        }
    }

    /// The preshared key in a Secret, or why there is none: in which Secret, what is wrong, what to do.
    pub fn handle_key(&mut self, reference: &SecretRef, answer: Result<PresharedKey, String>, now: Now) {
        match self.known.handle_key(reference, answer, now) {
            Answered::Value => {
                // The mesh is the same, but not what WireGuard is to have.
                self.rounds.look_anew(now.instant);
                self.publish_soon(now);
            }
            Answered::Error => self.publish_soon(now),
            Answered::Nothing => {}
        }
    }

    /// The addresses that this host's name resolves to.
    pub fn handle_hostname(&mut self, addresses: Vec<IpAddr>, now: Now) {
        if self.config.discovery.hostname_addresses != addresses {
            self.config.discovery.hostname_addresses = addresses;
            self.announced.reconsider();
            self.rounds.look_soon(now.instant);
        }
    }

    /// What to do next, if anything.
    pub fn poll_action(&mut self, now: Now) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.show_at.is_some_and(|at| at <= now.instant) {
            self.publish();
            return self.poll_action(now);
        }
        if let Some(name) = self.known.next_name(now) {
            return Some(Action::Resolve(name));
        }
        if let Some(reference) = self.known.next_key(now) {
            return Some(Action::ReadKey(reference));
        }
        if self.watchdog.ask(now.instant) {
            return Some(Action::AskApi);
        }
        if let Some(address) = self.neighbours.next(now.instant) {
            return Some(Action::AskNeighbour(address));
        }
        if self.known.is_proof_wanted(now) {
            self.telling.hasten(now.instant);
        }
        if let Some(status) = self.telling.next(now) {
            return Some(Action::Patch(status));
        }
        (self.known.is_synced() && self.rounds.begin(now.instant)).then_some(Action::Observe)
    }

    /// When [`Reconciler::poll_action`] may have something to do although nothing happened. An action that has not
    /// been reported yet is not waited for here.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let round = self.rounds.timeout().filter(|_| self.known.is_synced());
        let others =
            [self.telling.timeout(), self.known.lookups_timeout(), self.watchdog.timeout(), self.show_at];
        let others = others.into_iter().chain([self.neighbours.timeout()]);
        others.chain([round, self.known.proof_timeout()]).flatten().min()
    }

    /// The mesh as it was last computed.
    pub fn topology(&self) -> Option<&Arc<Topology>> {
        self.topology.as_ref()
    }

    /// The changes that remove what is ours from a host that was last seen as `observed`.
    pub fn removal(observed: &HostState, removal: Removal) -> Vec<Change> {
        let mut desired = match removal {
            Removal::Nothing => return Vec::new(),
            Removal::AllButInterface => HostState {
                links: observed.links.clone(),
                wireguard: observed.wireguard.clone(),
                ..Default::default()
            },
            Removal::Everything => HostState::default(),
        };
        // Nobody configures this one beforehand, and the next start makes it anew.
        desired.links.retain(|_, link| link.kind != LinkKind::Vxlan);
        // An interface that only has its addresses taken would still hold sessions and answer.
        desired.links.values_mut().for_each(|link| link.up &= !link.managed);
        hostnet::plan(observed, &desired)
    }

    fn mesh_changed(&mut self, now: Now) {
        if self.watchdog.has_guilty() {
            let known = &self.known;
            let written = known.nodes().flat_map(|node| &node.allowed_location_ips);
            let written = written.chain(known.nodes().flat_map(|node| &node.pod_subnets));
            let written = written.chain(known.peers().flat_map(|peer| &peer.allowed_ips));
            let addresses = known.nodes().flat_map(|node| &node.internal_ips);
            let addresses = addresses.map(|net| mesh::prefix::host(net.addr()));
            let all: BTreeSet<IpNet> = written.map(IpNet::trunc).chain(addresses).collect();
            self.watchdog.forget(|range| all.contains(range));
        }
        self.outdated = true;
        self.behind_nat.expect();
        self.rounds.look_anew(now.instant);
    }
}
