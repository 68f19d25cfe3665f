//! The state machine: what it knows, what it is told, what it asks for.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::{Change, HostFacts, HostState, LegacyTable, LinkKind, RenderConfig};
use mesh::{Forced, Node, Object, Problem, PublicKey, Topology, TopologyConfig};

use crate::{
    NodeUpdate, Now, PeerUpdate, Status, Watch, discovery::DiscoveryConfig, endpoints::Endpoints,
    intended::Intended, liveness::Liveness, names::Names, nat::BehindNat, objects::Objects, rounds::Rounds,
    sessions::Sessions, view::View,
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
    /// What the operator decides for this host; `mtu` and `resolved` are filled in here.
    pub render: RenderConfig,
    /// The MTU of the WireGuard interface.
    pub mtu: Mtu,
    /// How the own addresses are found.
    pub discovery: DiscoveryConfig,
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
    Patch(Status),
    /// Look a name up: [`Reconciler::handle_resolved`].
    Resolve(String),
    /// Show this. Nothing to report.
    Publish(Box<View>),
}

/// The state machine.
#[derive(Debug)]
pub struct Reconciler {
    pub(crate) config: Config,
    /// The own public key: it takes a while to compute.
    pub(crate) key: PublicKey,
    pub(crate) objects: Objects,
    pub(crate) forced: Forced,
    pub(crate) liveness: Liveness,
    pub(crate) watch: Result<(), String>,
    pub(crate) access: Vec<Problem>,
    /// Whether everything was seen at least once; before, nothing is changed.
    pub(crate) synced: bool,
    /// The own node as it went into the topology.
    pub(crate) local: Option<Arc<Node>>,
    pub(crate) topology: Option<Arc<Topology>>,
    pub(crate) intended: Option<Intended>,
    pub(crate) names: Names,
    pub(crate) behind_nat: BehindNat,
    pub(crate) endpoints: Endpoints,
    pub(crate) sessions: Sessions,
    pub(crate) rounds: Rounds,
    pub(crate) last: Outcome,
    pub(crate) status: StatusState,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) published: Option<View>,
}

/// How the last reconcile ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub facts: HostFacts,
    /// What of a Go agent is beyond our reach.
    pub legacy_tables: Vec<LegacyTable>,
    /// What failed; `None`: no reconcile has ended yet.
    pub failures: Option<Vec<String>>,
    pub role: Option<mesh::Role>,
    /// Whether somebody behind NAT has no session with this node.
    pub somebody_missing: bool,
    pub reconciles: u64,
    pub failed_changes: u64,
}

/// What the others were told.
#[derive(Debug, Default)]
pub(crate) struct StatusState {
    pub sent: Option<Status>,
    pub wanted: Option<Status>,
    pub patching: bool,
    pub error: Option<String>,
    pub next: Option<Instant>,
}

impl Reconciler {
    /// A machine that knows nothing yet.
    pub fn new(config: Config) -> Self {
        let mut machine = Self {
            liveness: Liveness::new(config.liveness_timeout),
            rounds: Rounds::new(config.resync_period),
            key: config.render.private_key.public_key(),
            config,
            objects: Objects::default(),
            forced: Forced::default(),
            watch: Err("nothing has been received from the Kubernetes API yet".to_owned()),
            access: Vec::new(),
            synced: false,
            local: None,
            topology: None,
            intended: None,
            names: Names::default(),
            behind_nat: BehindNat::default(),
            endpoints: Endpoints::default(),
            sessions: Sessions::default(),
            last: Outcome::default(),
            status: StatusState::default(),
            actions: VecDeque::new(),
            published: None,
        };
        machine.publish();
        machine
    }

    /// A Node was added or changed, or (`None`) removed.
    pub fn handle_node(&mut self, name: &str, update: Option<NodeUpdate>, now: Now) {
        let own = name == self.config.node;
        if self.liveness.hear(now.instant) {
            self.mesh_changed(now);
        }
        let Some(mut update) = update else {
            self.liveness.forget(name);
            if self.objects.remove_node(name) {
                self.mesh_changed(now);
            }
            return;
        };
        let revived = !own && self.liveness.see(name, update.node.last_seen, now.instant, now.unix);
        if own {
            self.behind_nat.remember(&update.node.discovered_endpoints, now.instant);
            self.insist(&update.node, now);
        }
        if let Some(forced) = update.forced.take().filter(|forced| own && self.forced != *forced) {
            self.forced = forced;
            self.mesh_changed(now);
        }
        if self.objects.set_node(name, update) || revived {
            self.mesh_changed(now);
        }
    }

    /// A Node is as it was, but for its `last_seen`, in Unix seconds.
    pub fn handle_heartbeat(&mut self, name: &str, last_seen: i64, now: Now) {
        let silenced = self.liveness.hear(now.instant);
        let other = name != self.config.node && self.objects.node(name).is_some();
        if (other && self.liveness.see(name, last_seen, now.instant, now.unix)) || silenced {
            self.mesh_changed(now);
        }
    }

    /// A Peer was added or changed, or (`None`) removed.
    pub fn handle_peer(&mut self, name: &str, update: Option<PeerUpdate>, now: Now) {
        let changed = match update {
            Some(update) => self.objects.set_peer(name, update),
            None => self.objects.remove_peer(name),
        };
        if changed {
            self.mesh_changed(now);
        }
    }

    /// All that is wrong with an object, by name, by which another CNI gives pod subnets; empty: nothing.
    pub fn handle_subnet_object(&mut self, name: &str, problems: Vec<Problem>) {
        // At the beginning there is a view to come.
        if self.objects.set_subnet_object(name, problems) && self.synced {
            self.publish();
        }
    }

    /// The connection to the API is there, or has broken.
    pub fn handle_watch(&mut self, watch: Watch, now: Now) {
        match watch {
            Watch::Synced => {
                if self.liveness.resume(now.instant, now.unix) {
                    self.mesh_changed(now);
                }
                self.watch = Ok(());
                if !self.synced {
                    self.synced = true;
                    let own = self.objects.node(&self.config.node);
                    self.sessions.start(own.is_none_or(|node| node.key == Some(self.key)));
                    self.rounds.look_now(now.instant);
                }
            }
            Watch::Broken(reason) => {
                self.liveness.pause(now.instant);
                self.watch = Err(reason);
            }
        }
        self.publish();
    }

    /// All that is wrong with the access to the API at this time.
    pub fn handle_access(&mut self, problems: Vec<Problem>) {
        self.access = problems;
        self.publish();
    }

    /// Something on the host may have changed.
    pub fn handle_notice(&mut self, now: Now) {
        self.rounds.look_soon(now.instant);
    }

    /// The addresses of a name, or why there are none.
    pub fn handle_resolved(&mut self, name: &str, answer: Result<Vec<IpAddr>, String>, now: Now) {
        if self.names.answer(name, answer, now.instant) {
            self.mesh_changed(now);
            self.publish();
        }
    }

    /// The addresses that this host's name resolves to.
    pub fn handle_hostname(&mut self, addresses: Vec<IpAddr>, now: Now) {
        if self.config.discovery.hostname_addresses != addresses {
            self.config.discovery.hostname_addresses = addresses;
            self.rounds.look_soon(now.instant);
        }
    }

    /// What to do next, if anything.
    pub fn poll_action(&mut self, now: Now) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some(name) = self.names.next(now.instant) {
            return Some(Action::Resolve(name));
        }
        if let Some(status) = self.next_patch(now) {
            return Some(Action::Patch(status));
        }
        (self.synced && self.rounds.begin(now.instant)).then_some(Action::Observe)
    }

    /// When [`Reconciler::poll_action`] may have something to do although nothing happened. An action that has not
    /// been reported yet is not waited for here.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let round = self.rounds.timeout().filter(|_| self.synced);
        let patch = self.status.next.filter(|_| self.status.wanted.is_some() && !self.status.patching);
        [round, patch, self.names.timeout()].into_iter().flatten().min()
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
        self.topology = None;
        self.behind_nat.expect();
        self.rounds.look_anew(now.instant);
    }

    /// Everything that is wrong with objects.
    pub(crate) fn problems(&self) -> BTreeSet<Problem> {
        let topology = self.topology.iter().flat_map(|topology| &topology.problems);
        let rendered = self.intended.iter().flat_map(|intended| &intended.problems);
        let all = self.objects.problems().chain(topology).chain(rendered).chain(&self.access);
        all.cloned().chain(self.unresolved()).chain(self.beyond_reach()).collect()
    }

    fn beyond_reach(&self) -> Option<Problem> {
        let tables = &self.last.legacy_tables;
        let named: Vec<String> =
            tables.iter().map(|found| format!("{} {}", found.family, found.table)).collect();
        (!tables.is_empty()).then(|| {
            let message = format!(
                "the tables {} of iptables-legacy hold rules of a Go agent, which masquerade or drop what nodes and \
                 Peers send that it did not know; kg cannot change them: run `iptables-legacy-save | grep -v -e KILO- \
                 -e 'Kilo: ' | iptables-legacy-restore`, with ip6tables for ip6, or reboot",
                named.join(", ")
            );
            Problem::new(Object::Host, "LegacyIptables", message)
        })
    }

    fn unresolved(&self) -> Vec<Problem> {
        let Some(topology) = self.topology.as_ref().filter(|_| self.names.any_error()) else {
            return Vec::new();
        };
        let error = |endpoint: &Option<mesh::Endpoint>| {
            let mesh::Host::Dns(name) = &endpoint.as_ref()?.host else { return None };
            let error = self.names.error(name)?;
            Some(format!("the endpoint {name} cannot be resolved and is not updated until it can: {error}"))
        };
        let problem = |object, message| Problem::new(object, "UnresolvableEndpoint", message);
        let nodes = topology
            .nodes()
            .filter_map(|node| Some(problem(Object::Node(node.name.clone()), error(&node.endpoint)?)));
        let peers = topology
            .peers
            .iter()
            .filter_map(|peer| Some(problem(Object::Peer(peer.name.clone()), error(&peer.endpoint)?)));
        nodes.chain(peers).collect()
    }
}
