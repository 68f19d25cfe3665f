//! The API: Nodes and Peers, and every change of them in order.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc, time::Duration};

use mesh::Published;
use mesh::{Node, Peer};

/// What has changed; `None`: it is gone.
#[derive(Debug, Clone)]
pub enum Change {
    /// A Node.
    Node(String, Option<Arc<Node>>),
    /// A Peer.
    Peer(String, Option<Peer>),
}

/// An API server.
#[derive(Debug, Default)]
pub struct Api {
    nodes: BTreeMap<String, Arc<Node>>,
    peers: BTreeMap<String, Peer>,
    /// The last changes, with when they were made.
    log: VecDeque<(Duration, Change)>,
    /// How many changes are no longer in the log.
    forgotten: usize,
    /// Whether nobody reaches it.
    pub away: bool,
}

/// Changes that are kept for those who resume a watch.
const KEPT: usize = 5_000;

impl Api {
    /// The resource version: how many changes there have been.
    pub fn version(&self) -> usize {
        self.forgotten + self.log.len()
    }

    /// The change after this version and when it was made; `None`: there is none yet. `Err`: it is no longer known
    /// (410 Gone).
    pub fn after(&self, version: usize) -> Result<Option<&(Duration, Change)>, ()> {
        match version.checked_sub(self.forgotten) {
            Some(index) => Ok(self.log.get(index)),
            None => Err(()),
        }
    }

    /// Forgets the oldest changes.
    pub fn forget(&mut self) {
        let keep = KEPT.max(self.nodes.len() * 20);
        let surplus = self.log.len().saturating_sub(keep);
        self.log.drain(..surplus);
        self.forgotten += surplus;
    }

    /// All Nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (&String, &Arc<Node>)> {
        self.nodes.iter()
    }

    /// All Peers.
    pub fn peers(&self) -> impl Iterator<Item = (&String, &Peer)> {
        self.peers.iter()
    }

    /// The Node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// Creates or replaces a Node.
    pub fn set_node(&mut self, time: Duration, node: Node) {
        let node = Arc::new(node);
        self.nodes.insert(node.name.clone(), node.clone());
        self.log.push_back((time, Change::Node(node.name.clone(), Some(node))));
    }

    /// What an operator does to a Node.
    pub fn edit_node(&mut self, time: Duration, name: &str, edit: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get(name) {
            let mut node = (**node).clone();
            edit(&mut node);
            self.set_node(time, node);
        }
    }

    /// Deletes a Node.
    pub fn delete_node(&mut self, time: Duration, name: &str) {
        if self.nodes.remove(name).is_some() {
            self.log.push_back((time, Change::Node(name.to_owned(), None)));
        }
    }

    /// Creates, replaces or deletes a Peer.
    pub fn set_peer(&mut self, time: Duration, name: &str, peer: Option<Peer>) {
        match &peer {
            Some(peer) => drop(self.peers.insert(name.to_owned(), peer.clone())),
            None => drop(self.peers.remove(name)),
        }
        self.log.push_back((time, Change::Peer(name.to_owned(), peer)));
    }

    /// What an agent tells about its node.
    ///
    /// # Errors
    /// When there is no such Node.
    pub fn patch(&mut self, time: Duration, name: &str, status: &Published) -> Result<(), String> {
        if !self.nodes.contains_key(name) {
            return Err(format!("nodes {name:?} not found"));
        }
        self.edit_node(time, name, |node| node.publish(status));
        Ok(())
    }
}
