//! What a client does next: a host outside of the cluster that takes part in the mesh as a Peer. A state machine without
//! input or output, like that of an agent.
//!
//! A client tells the others nothing beyond its Peer object, which whoever runs the machine makes. So there is no status
//! to patch, and nothing to find out about the host itself. What the operator of the cluster decides for all agents, the
//! client reads from the Nodes of agents that are alive.

mod cycle;

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::{Change, HostState, render::client::ClientConfig};
use ipnet::IpNet;
use mesh::{Granularity, Observer, PresharedKey, Problem, SecretRef, Topology};

use crate::{
    NodeUpdate, Now, PeerUpdate, Watch,
    endpoints::Endpoints,
    known::{Heard, Known},
    lookups::Answered,
    rounds::Rounds,
    shown::{Shown, Sources},
    view::GATHER,
};

/// What does not change while a client runs.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// How nodes are grouped; `None`: as most agents do.
    pub granularity: Option<Granularity>,
    /// By what this host looks at the cluster, as far as its user said.
    pub observer: Observer,
    /// Where the services of the cluster are, as far as known.
    pub services: Vec<IpNet>,
    /// What is decided for this host; `resolved` is filled in here.
    pub host: ClientConfig,
    /// The host is looked at at least this often.
    pub resync_period: Duration,
    /// A node that is silent for this long is not alive; the same as on all nodes.
    pub liveness_timeout: Duration,
}

/// What is to be done. Whoever runs the machine reports every outcome with the `handle_*` of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientAction {
    /// Look at the host: [`Client::handle_observation`].
    Observe,
    /// Change the host: [`Client::handle_applied`].
    Apply(Vec<Change>),
    /// Look a name up: [`Client::handle_resolved`].
    Resolve(String),
    /// Read a preshared key: [`Client::handle_key`].
    ReadKey(SecretRef),
    /// Show this. Nothing to report.
    Publish(ClientView),
}

/// How a client is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientView {
    /// Why the host may not be as it should; empty: it is.
    pub unhealthy: Vec<String>,
    /// What is wrong with objects, and what cannot be done for the host, one for each object and reason, in that order.
    pub problems: Arc<[Problem]>,
    /// Whether the host is as the mesh wants it, with every name of an endpoint looked up.
    pub settled: bool,
    /// Nodes that are part of the mesh.
    pub nodes: usize,
    /// Segments: tunnels of this host, besides those to other Peers.
    pub segments: usize,
}

/// The state machine.
#[derive(Debug)]
pub struct Client {
    settings: ClientSettings,
    known: Known,
    endpoints: Endpoints,
    /// As it was last computed. An error: why there is no mesh to compute.
    topology: Option<Result<Arc<Topology>, String>>,
    /// Whether it is to be computed again. Until then the last one is shown: what is wrong with it has not gone.
    outdated: bool,
    /// What stands in the way of what was rendered last.
    rendered: Arc<[Problem]>,
    /// In what agents, clocks and networks differ.
    agreement: Arc<[Problem]>,
    /// What was asked for by the changes that are being applied.
    asked: Option<HostState>,
    rounds: Rounds,
    /// What failed; `None`: no reconcile has ended yet.
    failures: Option<Vec<String>>,
    settled: bool,
    actions: VecDeque<ClientAction>,
    published: Option<ClientView>,
    shown: Shown,
    /// When the next view is due although nothing else is.
    show_at: Option<Instant>,
}

impl Client {
    /// A machine that knows nothing yet.
    pub fn new(settings: ClientSettings) -> Self {
        Self {
            known: Known::new(
                None,
                settings.liveness_timeout,
                settings.host.private_key.public_key().as_bytes(),
            ),
            rounds: Rounds::new(settings.resync_period),
            settings,
            endpoints: Endpoints::default(),
            topology: None,
            outdated: true,
            rendered: Arc::default(),
            agreement: Arc::default(),
            asked: None,
            failures: None,
            settled: false,
            actions: VecDeque::new(),
            published: None,
            shown: Shown::default(),
            show_at: None,
        }
    }

    /// A Node was added or changed, or (`None`) removed.
    pub fn handle_node(&mut self, name: &str, update: Option<NodeUpdate>, now: Now) {
        if self.known.handle_node(name, update, now) {
            self.mesh_changed(now);
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
        match self.known.handle_watch(watch, now) {
            Heard::First => self.rounds.look_now(now.instant),
            Heard::Changed => self.mesh_changed(now),
            Heard::Same => {}
        }
        self.publish();
    }

    /// All that is wrong with the access to the API at this time.
    pub fn handle_access(&mut self, problems: Vec<Problem>) {
        self.known.handle_access(problems);
        self.publish();
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
            Answered::Error => self.missed(now),
            Answered::Nothing => {}
        }
    }

    /// Something has no answer. If it was the last one, nothing is left to wait for.
    fn missed(&mut self, now: Now) {
        self.publish_soon(now);
        if !self.settled && self.known.is_all_looked_up() {
            self.rounds.look_soon(now.instant);
        }
    }

    /// The preshared key in a Secret, or why there is none: in which Secret, what is wrong, what to do.
    pub fn handle_key(&mut self, reference: &SecretRef, answer: Result<PresharedKey, String>, now: Now) {
        match self.known.handle_key(reference, answer, now) {
            Answered::Value => {
                self.rounds.look_anew(now.instant);
                self.publish_soon(now);
            }
            Answered::Error => self.missed(now),
            Answered::Nothing => {}
        }
    }

    /// What to do next, if anything.
    pub fn poll_action(&mut self, now: Now) -> Option<ClientAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.show_at.is_some_and(|at| at <= now.instant) {
            self.publish();
            return self.poll_action(now);
        }
        if let Some(name) = self.known.next_name(now) {
            return Some(ClientAction::Resolve(name));
        }
        if let Some(reference) = self.known.next_key(now) {
            return Some(ClientAction::ReadKey(reference));
        }
        (self.known.is_synced() && self.rounds.begin(now.instant)).then_some(ClientAction::Observe)
    }

    /// When [`Client::poll_action`] may have something to do although nothing happened. An action that has not been
    /// reported yet is not waited for here.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let round = self.rounds.timeout().filter(|_| self.known.is_synced());
        [round, self.known.lookups_timeout(), self.show_at].into_iter().flatten().min()
    }

    /// The changes that remove a client's interface, with all that goes through it, from a host that was last seen as
    /// `observed`.
    pub fn removal(observed: &HostState, host: &ClientConfig) -> Vec<Change> {
        let own = hostnet::render::client::own_part(observed, &host.interface);
        hostnet::plan(&own, &HostState::default())
    }

    fn mesh_changed(&mut self, now: Now) {
        self.outdated = true;
        self.settled = false;
        self.rounds.look_anew(now.instant);
    }

    fn publish_soon(&mut self, now: Now) {
        self.show_at = Some(self.show_at.unwrap_or(now.instant + GATHER));
    }

    fn publish(&mut self) {
        self.show_at = None;
        let view = self.view();
        if self.published.as_ref() != Some(&view) {
            self.actions.push_back(ClientAction::Publish(view.clone()));
            self.published = Some(view);
        }
    }

    fn view(&mut self) -> ClientView {
        let mut unhealthy: Vec<_> = self.known.deaf().into_iter().collect();
        unhealthy.extend(self.failures.iter().flatten().cloned());
        let topology = self.topology.iter().flatten().next().cloned();
        let sources = Sources {
            topology: topology.clone(),
            rendered: self.rendered.clone(),
            agreement: self.agreement.clone(),
            own: Vec::new(),
        };
        let problems = self.shown.update(&self.known, sources);
        ClientView {
            problems,
            settled: self.settled && unhealthy.is_empty(),
            unhealthy,
            nodes: topology.as_ref().map_or(0, |topology| topology.nodes().count()),
            segments: topology.map_or(0, |topology| topology.segments.len()),
        }
    }
}
