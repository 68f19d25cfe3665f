//! What is known of a cluster's Nodes and Peers, taken from a watch.

use std::{collections::BTreeMap, sync::Arc};

use mesh::{
    Node, Peer,
    conflict::{Claimed, Conflicts, conflicts},
};

use crate::Update;

/// The nodes and peers that a new Peer must not collide with. A clone is cheap: it shares them.
#[derive(Debug, Clone)]
pub struct Surroundings {
    nodes: BTreeMap<String, Arc<Node>>,
    peers: BTreeMap<String, Arc<Peer>>,
    /// Why not all Nodes are known as they are now.
    broken: Option<String>,
    /// Why something cannot be read.
    access: Option<String>,
}

impl Surroundings {
    /// Nothing is known, for this reason.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { nodes: BTreeMap::new(), peers: BTreeMap::new(), broken: Some(why.into()), access: None }
    }

    /// Takes what a watch has told.
    pub fn take(&mut self, update: Update) {
        match update {
            Update::Node(name, Some(watched)) => {
                self.nodes.insert(name, watched.node);
            }
            Update::Node(name, None) => {
                self.nodes.remove(&name);
            }
            Update::Peer(name, watched) => match watched.and_then(|watched| watched.peer) {
                Some(peer) => {
                    self.peers.insert(name, Arc::new(peer));
                }
                None => {
                    self.peers.remove(&name);
                }
            },
            // It is an agent's matter to tell.
            Update::Heartbeat(..) | Update::SubnetObject(..) => {}
            Update::Synced => self.broken = None,
            Update::Broken(problem) => self.broken = Some(problem.message),
            Update::Access(problems) => {
                self.access = problems.into_iter().next().map(|problem| problem.message)
            }
        }
    }

    /// Why what is known may not be all there is now; `None`: it is.
    pub fn gap(&self) -> Option<&str> {
        self.access.as_deref().or(self.broken.as_deref())
    }

    /// What a Peer has that somebody known has, too; at most `most` of it is named.
    pub fn conflicts(&self, new: &Claimed<'_>, most: usize) -> Conflicts {
        conflicts(new, self.nodes.values().map(AsRef::as_ref), self.peers.values().map(AsRef::as_ref), most)
    }
}
