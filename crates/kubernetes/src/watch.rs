//! Nodes and Peers as a stream of changes that does not end.
//!
//! Objects are decoded as they arrive and only what they mean is kept, to pass on nothing that means the same as
//! before. While the API is away nothing is taken back: what was removed meanwhile is told once the API has
//! answered again. What the changes mean for the mesh is not known here.
//!
//! `kube`'s own watcher does not tell that a broken watch has been resumed before the first event arrives, and
//! resumes nothing by itself after an error; both matter here, see [`Update::Synced`], so [`follow`] does it.

mod follow;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use kube::{Api, Client};
use mesh::{Forced, Node, Object, Peer, Problem};
use tokio::{sync::mpsc, task::JoinSet};

use self::follow::{Follower, Report};
use crate::{
    NodeObject, PeerObject, decode_forced, decode_node, decode_peer,
    explain::{Explanation, Resource},
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
}

/// What has changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A Node is new or another than before, or (`None`) is gone.
    Node(String, Option<WatchedNode>),
    /// A Peer is new or another than before, or (`None`) is gone.
    Peer(String, Option<WatchedPeer>),
    /// All Nodes and Peers there are have been told, and changes arrive. It comes once at the beginning, and again
    /// when Nodes arrive again after [`Update::Broken`]; what changed meanwhile is told before, or, where a lot has,
    /// right after.
    ///
    /// The beginning does not wait for Peers that the cluster does not know or that may not be read.
    Synced,
    /// No Nodes arrive, and why. It comes once, and again only for another reason. Attempts go on.
    Broken(Problem),
    /// All that is wrong with the access to the API at this time, that to Peers included; empty: nothing.
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
    let decode = move |object: &NodeObject| decode_watched(object, &config);
    tasks.spawn(
        Follower::<NodeObject, _, _>::new(Api::all(client.clone()), Resource::Nodes, decode, node_reports)
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
    tasks.spawn(merge(nodes, peers, updates));
    Updates { receiver, _tasks: tasks }
}

fn decode_watched(object: &NodeObject, config: &WatchConfig) -> WatchedNode {
    let (node, problems) = decode_node(object, &config.topology_label);
    let own = (config.own_node.as_deref() == Some(object.name())).then(|| {
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        Box::new(OwnNode { annotations, forced: decode_forced(object) })
    });
    WatchedNode { node: Arc::new(node), problems, own }
}

/// What is known of the watch of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Synced,
    Broken(Explanation),
}

/// Makes one stream of two.
async fn merge(
    mut nodes: mpsc::Receiver<Report<WatchedNode>>,
    mut peers: mpsc::Receiver<Report<WatchedPeer>>,
    updates: mpsc::Sender<Update>,
) {
    let mut access = Access::new();
    loop {
        let told = tokio::select! {
            report = nodes.recv() => match report {
                Some(Report::Changed(name, node)) => vec![Update::Node(name, node)],
                Some(Report::Synced) => access.nodes(State::Synced),
                Some(Report::Broken(explanation)) => access.nodes(State::Broken(explanation)),
                None => return,
            },
            report = peers.recv() => match report {
                Some(Report::Changed(name, peer)) => vec![Update::Peer(name, peer)],
                Some(Report::Synced) => access.peers(State::Synced),
                Some(Report::Broken(explanation)) => access.peers(State::Broken(explanation)),
                None => return,
            },
        };
        for update in told {
            if updates.send(update).await.is_err() {
                return;
            }
        }
    }
}

/// The access to both resources, and what of it has been told.
struct Access {
    nodes: State,
    peers: State,
    /// Whether the last of [`Update::Synced`] and [`Update::Broken`] was the former.
    synced: bool,
    /// Whether everything has been told once.
    complete: bool,
    told: Vec<Problem>,
}

impl Access {
    fn new() -> Self {
        Self {
            nodes: State::Waiting,
            peers: State::Waiting,
            synced: false,
            complete: false,
            told: Vec::new(),
        }
    }

    fn nodes(&mut self, state: State) -> Vec<Update> {
        let reason = |state: &State| if let State::Broken(why) = state { Some(why.reason) } else { None };
        let mut updates = Vec::new();
        if let State::Broken(why) = &state
            && reason(&self.nodes) != Some(why.reason)
        {
            self.synced = false;
            updates.push(Update::Broken(problem(why)));
        }
        self.nodes = state;
        self.settle(updates)
    }

    fn peers(&mut self, state: State) -> Vec<Update> {
        self.peers = state;
        self.settle(Vec::new())
    }

    fn settle(&mut self, mut updates: Vec<Update>) -> Vec<Update> {
        let problems = self.problems();
        let reasons =
            |problems: &[Problem]| problems.iter().map(|problem| problem.reason).collect::<Vec<_>>();
        if reasons(&problems) != reasons(&self.told) {
            self.told.clone_from(&problems);
            updates.push(Update::Access(problems));
        }
        self.complete |= match &self.peers {
            State::Synced => true,
            State::Waiting => false,
            State::Broken(why) => matches!(why.reason, "MissingPeerDefinition" | "Forbidden"),
        };
        if self.complete && !self.synced && self.nodes == State::Synced {
            self.synced = true;
            updates.push(Update::Synced);
        }
        updates
    }

    fn problems(&self) -> Vec<Problem> {
        [&self.nodes, &self.peers]
            .into_iter()
            .filter_map(|state| if let State::Broken(why) = state { Some(problem(why)) } else { None })
            .collect()
    }
}

fn problem(why: &Explanation) -> Problem {
    Problem::new(Object::Host, why.reason, why.message.clone())
}
