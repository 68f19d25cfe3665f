//! Nodes and Peers as a stream of changes that does not end.
//!
//! Objects are decoded as they arrive and only what they mean is kept, to pass on nothing that means the same as
//! before. Where another CNI gives nodes their pod subnets, its objects are watched too and joined with the Nodes. While the API is away nothing is taken back: what was removed meanwhile is told once the API has
//! answered again. What the changes mean for the mesh is not known here.
//!
//! `kube`'s own watcher does not tell that a broken watch has been resumed before the first event arrives, and
//! resumes nothing by itself after an error; both matter here, see [`Update::Synced`], so [`follow`] does it.

mod access;
mod follow;
mod heartbeat;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use kube::{Api, Client};
use mesh::{Forced, Node, Peer, Problem};
use tokio::{sync::mpsc, task::JoinSet};

use self::{
    access::{Access, State},
    follow::{Followed, Follower, Report},
};
use crate::{
    NodeObject, PeerObject, PodCidrSource,
    decode::{decode_block_affinity, decode_cilium_node},
    decode_forced, decode_node, decode_peer,
    explain::Resource,
    missing_pod_subnet,
    object::{BlockAffinityObject, CiliumNodeObject},
    pod_cidrs::join::{Grant, Join, Joined},
};

/// How many changes may wait for whoever reads them; then the API waits, too.
const WAITING: usize = 256;

/// What to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchConfig {
    /// The label that gives the location where no annotation does.
    pub topology_label: String,
    /// The name of the own Node, of which [`OwnNode`] is wanted.
    pub own_node: Option<String>,
    /// Where pod subnets come from. Objects of another CNI are watched only for it.
    pub pod_cidr_source: PodCidrSource,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A Node is new or another than before, or (`None`) is gone.
    Node(String, Option<WatchedNode>),
    /// A Node is as it was told, but for its `last_seen`, in Unix seconds.
    Heartbeat(String, i64),
    /// A Peer is new or another than before, or (`None`) is gone.
    Peer(String, Option<WatchedPeer>),
    /// All that is wrong with an object, by name, by which another CNI gives pod subnets; empty: nothing, or it is gone.
    /// What is right with it is in [`Update::Node`].
    SubnetObject(String, Vec<Problem>),
    /// All Nodes and Peers there are have been told, and changes arrive. It comes once at the beginning, and again
    /// when Nodes arrive again after [`Update::Broken`]; what changed meanwhile is told before, or, where a lot has,
    /// right after.
    ///
    /// The beginning does not wait for Peers, or for another CNI's objects, that the cluster does not know or that may not
    /// be read.
    Synced,
    /// No Nodes arrive, and why. It comes once, and again only for another reason. Attempts go on.
    Broken(Problem),
    /// All that is wrong with the access to the API at this time, that to Peers and another CNI's objects included;
    /// empty: nothing.
    Access(Vec<Problem>),
}

/// A Node as far as it matters.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchedNode {
    /// What could be read.
    pub node: Arc<Node>,
    /// What makes no sense and was left out.
    pub problems: Vec<Problem>,
    /// More, when it is the own node.
    pub own: Option<Box<OwnNode>>,
}

/// What only the agent of a node wants to know of its Node.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnNode {
    /// Kilo's annotations as they are; see [`crate::encode::patch`].
    pub annotations: BTreeMap<String, String>,
    /// What the operator decides instead of the agent.
    pub forced: Forced,
    /// The internal and external addresses of its status; `None`: the watch brought its metadata alone, and they may be as
    /// they were.
    pub addresses: Option<BTreeSet<IpAddr>>,
}

/// A Peer as far as it matters.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchedPeer {
    /// The peer, unless it makes no sense.
    pub peer: Option<Peer>,
    /// What makes no sense.
    pub problems: Vec<Problem>,
}

/// The stream of changes. It never ends; the watch ends when it is dropped.
#[derive(Debug)]
pub struct Updates {
    receiver: mpsc::Receiver<Update>,
    _tasks: JoinSet<()>,
}

impl Updates {
    /// Waits for the next change.
    pub async fn next(&mut self) -> Update {
        match self.receiver.recv().await {
            Some(update) => update,
            // The tasks send until this is dropped; should one have panicked, no news is all there is to tell.
            None => std::future::pending().await,
        }
    }
}

impl Stream for Updates {
    type Item = Update;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Update>> {
        self.receiver.poll_recv(context)
    }
}

/// Begins to watch all Nodes and Peers.
///
/// # Panics
/// Outside of a Tokio runtime.
pub fn watch(client: &Client, config: WatchConfig) -> Updates {
    let (updates, receiver) = mpsc::channel(WAITING);
    let (node_reports, nodes) = mpsc::channel(WAITING);
    let (peer_reports, peers) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    let source = config.pod_cidr_source;
    let grants = follow_grants(client, source, &mut tasks);
    let own = config.own_node.clone();
    let decode = move |object: &NodeObject| decode_watched(object, &config);
    tasks.spawn(
        Follower::<NodeObject, _, _>::new(Api::all(client.clone()), Resource::Nodes, decode, node_reports)
            .with_own(own)
            .run(),
    );
    let decode = |object: &PeerObject| {
        let (peer, problems) = decode_peer(object);
        WatchedPeer { peer, problems }
    };
    tasks.spawn(
        Follower::<PeerObject, _, _>::new(Api::all(client.clone()), Resource::Peers, decode, peer_reports)
            .run(),
    );
    tasks.spawn(merge(Reports { nodes, peers, grants }, source, updates));
    Updates { receiver, _tasks: tasks }
}

/// Begins to watch what another CNI gives to nodes, where pod subnets come from there.
fn follow_grants(
    client: &Client,
    source: PodCidrSource,
    tasks: &mut JoinSet<()>,
) -> Option<mpsc::Receiver<Report<Grant>>> {
    let resource = source.resource()?;
    let (reports, grants) = mpsc::channel(WAITING);
    match source {
        PodCidrSource::Node | PodCidrSource::Annotation => return None,
        PodCidrSource::Cilium => {
            let api: Api<CiliumNodeObject> = Api::all(client.clone());
            tasks.spawn(Follower::new(api, resource, decode_cilium_node, reports).run());
        }
        PodCidrSource::Calico => {
            let api: Api<BlockAffinityObject> = Api::all(client.clone());
            tasks.spawn(Follower::new(api, resource, decode_block_affinity, reports).run());
        }
    }
    Some(grants)
}

impl Followed for NodeObject {
    /// `spec.podCIDRs`: the API lets nobody change them once they are there.
    type Rest = Vec<String>;

    fn rest(&self) -> Option<Vec<String>> {
        (!self.pod_cidrs.is_empty()).then(|| self.pod_cidrs.clone())
    }

    fn complete(&mut self, rest: &Vec<String>) {
        self.pod_cidrs.clone_from(rest);
    }
}

/// Nothing of these stays as it is.
macro_rules! followed_as_a_whole {
    ($($type:ty),*) => {$(
        impl Followed for $type {
            type Rest = Infallible;

            fn rest(&self) -> Option<Infallible> {
                None
            }

            fn complete(&mut self, rest: &Infallible) {
                match *rest {}
            }
        }
    )*};
}

followed_as_a_whole!(PeerObject, CiliumNodeObject, BlockAffinityObject);

fn decode_watched(object: &NodeObject, config: &WatchConfig) -> WatchedNode {
    let source = config.pod_cidr_source;
    let (node, mut problems) = decode_node(object, &config.topology_label, source);
    let is_own = config.own_node.as_deref() == Some(object.name());
    // Where other objects give the subnets, it shows only once these are known.
    if !source.is_of_another_cni() {
        problems.extend(missing_pod_subnet(&node, source));
    }
    let own = is_own.then(|| {
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        let addresses = object.addresses.clone();
        Box::new(OwnNode { annotations, forced: decode_forced(object), addresses })
    });
    WatchedNode { node: Arc::new(node), problems, own }
}

/// What the followers tell.
struct Reports {
    nodes: mpsc::Receiver<Report<WatchedNode>>,
    peers: mpsc::Receiver<Report<WatchedPeer>>,
    /// There only where pod subnets come from other objects than Nodes.
    grants: Option<mpsc::Receiver<Report<Grant>>>,
}

/// Makes one stream of all.
async fn merge(mut reports: Reports, source: PodCidrSource, updates: mpsc::Sender<Update>) {
    let mut merger = Merger {
        join: reports.grants.is_some().then(|| Join::new(source)),
        access: Access::new(reports.grants.is_some()),
    };
    loop {
        // Nodes wait until it is known what gives them pod subnets, or why it is not known: without, a restarted agent
        // would take every pod's route away and lay it again.
        let ready = merger.access.grants != State::Waiting;
        let told = tokio::select! {
            report = reports.nodes.recv(), if ready => report.map(|report| merger.nodes(report)),
            report = reports.peers.recv() => report.map(|report| merger.peers(report)),
            report = next_of(&mut reports.grants) => report.map(|report| merger.grants(report)),
        };
        let Some(told) = told else { return };
        for update in told {
            if updates.send(update).await.is_err() {
                return;
            }
        }
    }
}

async fn next_of<T>(reports: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match reports {
        Some(reports) => reports.recv().await,
        None => std::future::pending().await,
    }
}

/// What is known of all resources together.
struct Merger {
    /// There only where pod subnets come from other objects than Nodes.
    join: Option<Join>,
    access: Access,
}

impl Merger {
    fn nodes(&mut self, report: Report<WatchedNode>) -> Vec<Update> {
        match report {
            Report::Changed(name, node) => match &mut self.join {
                Some(join) => updates_of(join.set_node(&name, node)),
                None => vec![Update::Node(name, node)],
            },
            Report::Heartbeat(name, last_seen) => {
                if let Some(join) = &mut self.join {
                    join.hear(&name, last_seen);
                }
                vec![Update::Heartbeat(name, last_seen)]
            }
            Report::Synced => {
                let mut updates =
                    self.join.as_mut().map(|join| updates_of(join.complete_nodes())).unwrap_or_default();
                updates.extend(self.access.nodes(State::Synced));
                updates
            }
            Report::Broken(explanation) => self.access.nodes(State::Broken(explanation)),
        }
    }

    fn peers(&mut self, report: Report<WatchedPeer>) -> Vec<Update> {
        match report {
            Report::Changed(name, peer) => vec![Update::Peer(name, peer)],
            Report::Heartbeat(..) => Vec::new(),
            Report::Synced => self.access.peers(State::Synced),
            Report::Broken(explanation) => self.access.peers(State::Broken(explanation)),
        }
    }

    fn grants(&mut self, report: Report<Grant>) -> Vec<Update> {
        let Some(join) = &mut self.join else { return Vec::new() };
        match report {
            Report::Changed(name, grant) => updates_of(join.set_grant(&name, grant)),
            Report::Heartbeat(..) => Vec::new(),
            Report::Synced => {
                let mut updates = updates_of(join.complete_grants());
                updates.extend(self.access.grants(State::Synced));
                updates
            }
            Report::Broken(explanation) => {
                let state = State::Broken(explanation);
                let mut updates = match state.is_settled() {
                    true => updates_of(join.cannot_read_grants()),
                    false => Vec::new(),
                };
                updates.extend(self.access.grants(state));
                updates
            }
        }
    }
}

fn updates_of(joined: Vec<Joined>) -> Vec<Update> {
    let update = |joined| match joined {
        Joined::Node(name, node) => Update::Node(name, node),
        Joined::Object(name, problems) => Update::SubnetObject(name, problems),
    };
    joined.into_iter().map(update).collect()
}
