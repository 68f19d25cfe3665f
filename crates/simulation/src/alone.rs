//! One agent on its host in a cluster of any size, which is told everything at once.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hostnet::{Change, HostFacts, HostState, Lifeline, Observation};
use mesh::{Forced, Node, Peer, PrivateKey, TopologyConfig};
use reconciler::{
    Action, Config, Mtu, NodeUpdate, Now, PeerUpdate, Reconciler, Surroundings, View, Watch,
    discovery::DiscoveryConfig,
};

use crate::{
    machine::Machine,
    synthetic::{self, Cluster},
};

/// One agent on its host.
#[derive(Debug)]
pub struct Alone {
    /// The agent.
    pub reconciler: Reconciler,
    /// The host.
    pub machine: Machine,
    /// What the agent shows.
    pub view: View,
    /// The time.
    pub now: Now,
    name: String,
    facts: HostFacts,
}

impl Alone {
    /// The agent of the node with this number, after it has set up its host.
    pub fn new(cluster: &Cluster, index: usize) -> Self {
        let node = &cluster.nodes[index];
        let key = PrivateKey::from_random([1; 32]);
        let config = config(&node.name, cluster.config.clone(), key);
        let now = Now { instant: Instant::now(), unix: node.last_seen };
        let mut alone = Self {
            reconciler: Reconciler::new(config),
            machine: Machine(HostState::default()),
            view: View::default(),
            now,
            name: node.name.clone(),
            facts: synthetic::facts(node),
        };
        for node in &cluster.nodes {
            alone.see(node.clone());
        }
        for peer in &cluster.peers {
            alone.see_peer(&peer.name, Some(peer.clone()));
        }
        alone.reconciler.handle_watch(Watch::Synced, now);
        alone.work();
        alone
    }

    /// What the API tells of a node.
    pub fn update(&self, node: Arc<Node>) -> NodeUpdate {
        let forced = (node.name == self.name).then(Forced::default);
        NodeUpdate { node, problems: Vec::new(), forced }
    }

    /// The API tells of a node.
    pub fn see(&mut self, node: Arc<Node>) {
        let name = node.name.clone();
        self.reconciler.handle_node(&name, Some(self.update(node)), self.now);
    }

    /// The API tells of a node that is as it was, but for its heartbeat.
    pub fn hear(&mut self, name: &str, last_seen: i64) {
        self.reconciler.handle_heartbeat(name, last_seen, self.now);
    }

    /// The API tells of a peer.
    pub fn see_peer(&mut self, name: &str, peer: Option<Peer>) {
        let update = peer.map(|peer| PeerUpdate { peer: Some(peer), problems: Vec::new() });
        self.reconciler.handle_peer(name, update, self.now);
    }

    /// Does what is due within the next tenth of a second, and gives the changes of the host.
    pub fn work(&mut self) -> Vec<Change> {
        self.now = self.now.after(Duration::from_millis(100));
        let mut applied = Vec::new();
        while let Some(action) = self.reconciler.poll_action(self.now) {
            match action {
                Action::Observe => {
                    let host = self.machine.0.clone();
                    let observation =
                        Observation { host, facts: self.facts.clone(), ..Observation::default() };
                    self.reconciler.handle_observation(Ok(observation), self.now);
                }
                Action::Apply(changes) => {
                    for change in &changes {
                        self.machine.apply(change).unwrap();
                    }
                    applied.extend(changes);
                    self.reconciler.handle_applied(Vec::new(), self.now);
                }
                Action::Patch(_) => self.reconciler.handle_patched(Ok(()), self.now),
                Action::Resolve(name) => {
                    self.reconciler.handle_resolved(&name, Err("there is no DNS here".to_owned()), self.now);
                }
                Action::ReadKey(reference) => {
                    self.reconciler.handle_key(
                        &reference,
                        Err("there are no Secrets here".to_owned()),
                        self.now,
                    );
                }
                Action::AskNeighbour(address) => {
                    self.reconciler.handle_neighbour_answer(address, true, self.now);
                }
                Action::AskApi => self.reconciler.handle_api_answer(true, self.now),
                Action::Publish(view) => self.view = *view,
            }
        }
        applied
    }
}

/// An agent as an operator would start it.
pub(crate) fn config(node: &str, topology: TopologyConfig, key: PrivateKey) -> Config {
    Config {
        node: node.to_owned(),
        topology,
        render: synthetic::render_config(key),
        mtu: Mtu::Auto,
        discovery: DiscoveryConfig {
            hostname_addresses: Vec::new(),
            internal_cidrs: Vec::new(),
            prioritise_private: false,
            port: 51820,
        },
        surroundings: surroundings(),
        resync_period: Duration::from_secs(30),
        observer: Default::default(),
        liveness_timeout: Duration::from_secs(60),
    }
}

/// The API server answers without the mesh.
fn surroundings() -> Surroundings {
    let server = IpAddr::from([192, 0, 2, 250]);
    Surroundings {
        lifelines: [(server, Lifeline::ApiServer)].into(),
        api_servers: [server].into(),
        ..Surroundings::default()
    }
}
