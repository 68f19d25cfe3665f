//! Nodes joined with the objects by which another CNI gives them their pod subnets.
//!
//! As long as the objects could not be read even once, because the cluster does not know them or they may not be read, the
//! subnets are those of the Nodes' specifications, as for a Go agent: who only changes the image loses nothing. A node
//! without an object among those that were read has none: its specification may well hold what an object gives to another.
//!
//! A change costs in proportion to what it touches: one node and the objects that name it. In which order Nodes and
//! objects become known does not matter. That two nodes have the same subnet is a matter of the mesh, not of this.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use mesh::{Node, Object, Problem};

use super::{PodCidrSource, missing_pod_subnet};
use crate::watch::WatchedNode;

/// What an object of another CNI gives to a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// The name of the Node.
    pub node: String,
    /// The pod subnets, in the order of the object. None: the object counts for nothing at this time.
    pub subnets: Vec<IpNet>,
    /// What makes no sense and was left out.
    pub problems: Vec<Problem>,
}

/// What means something else after a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Joined {
    /// A Node with its pod subnets; `None`: it is gone.
    Node(String, Option<WatchedNode>),
    /// All that is wrong with an object of another CNI; empty: nothing, or it is gone.
    Object(String, Vec<Problem>),
}

/// Gives these Nodes the pod subnets that the objects of another CNI give. Returns what is wrong with the objects.
pub fn join_once(
    source: PodCidrSource,
    nodes: &mut [Node],
    grants: impl IntoIterator<Item = (String, Grant)>,
) -> Vec<Problem> {
    let mut join = Join::new(source);
    for node in nodes.iter() {
        let watched =
            WatchedNode { node: Arc::new(Node::named(&node.name)), problems: Vec::new(), own: None };
        join.set_node(&node.name, Some(watched));
    }
    for (name, grant) in grants {
        join.set_grant(&name, Some(grant));
    }
    join.complete_nodes();
    for node in nodes {
        node.pod_subnets = join.subnets(&node.name);
    }
    join.grants.keys().flat_map(|name| join.problems(name)).collect()
}

/// How far the objects of another CNI are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// They will be told. No node lacks one yet.
    NotYet,
    /// They cannot be read.
    Not,
    /// All have been told once.
    All,
}

/// Nodes and what gives them pod subnets.
#[derive(Debug)]
pub struct Join {
    source: PodCidrSource,
    /// As the Nodes alone say, with the subnets of their specifications.
    nodes: BTreeMap<String, WatchedNode>,
    /// By the names of the objects.
    grants: BTreeMap<String, Grant>,
    /// The names of the objects that give a node something, by the name of the node.
    by_node: BTreeMap<String, BTreeSet<String>>,
    /// Whether all Nodes have been told once: before, none is missing.
    nodes_complete: bool,
    /// How far the objects are known.
    known: Known,
}

impl Join {
    /// Nothing is known yet.
    pub fn new(source: PodCidrSource) -> Self {
        Self {
            source,
            nodes: BTreeMap::new(),
            grants: BTreeMap::new(),
            by_node: BTreeMap::new(),
            nodes_complete: false,
            known: Known::NotYet,
        }
    }

    /// A Node is new or another than before, or (`None`) is gone.
    pub fn set_node(&mut self, name: &str, node: Option<WatchedNode>) -> Vec<Joined> {
        let before = match node {
            Some(node) => self.nodes.insert(name.to_owned(), node),
            None => self.nodes.remove(name),
        };
        let mut joined = vec![Joined::Node(name.to_owned(), self.node(name))];
        if self.nodes_complete && before.is_some() != self.nodes.contains_key(name) {
            let objects = self.by_node.get(name).into_iter().flatten();
            joined.extend(objects.map(|object| Joined::Object(object.clone(), self.problems(object))));
        }
        joined
    }

    /// A Node is as it was, but for its heartbeat. It must not be told with an older one later.
    pub fn hear(&mut self, name: &str, last_seen: i64) {
        if let Some(watched) = self.nodes.get_mut(name) {
            Arc::make_mut(&mut watched.node).last_seen = last_seen;
        }
    }

    /// An object of another CNI is new or another than before, or (`None`) is gone.
    pub fn set_grant(&mut self, name: &str, grant: Option<Grant>) -> Vec<Joined> {
        let problems_before = self.problems(name);
        let nodes = [self.grants.get(name), grant.as_ref()].into_iter().flatten();
        let nodes: BTreeSet<String> = nodes.map(|grant| grant.node.clone()).collect();
        let before: Vec<(String, Vec<IpNet>)> =
            nodes.into_iter().map(|node| (node.clone(), self.subnets(&node))).collect();
        self.replace(name, grant);
        let mut joined: Vec<_> = before
            .into_iter()
            .filter(|(node, subnets)| self.nodes.contains_key(node) && self.subnets(node) != *subnets)
            .map(|(node, _)| Joined::Node(node.clone(), self.node(&node)))
            .collect();
        let problems = self.problems(name);
        if problems != problems_before {
            joined.push(Joined::Object(name.to_owned(), problems));
        }
        joined
    }

    /// All Nodes have been told.
    pub fn complete_nodes(&mut self) -> Vec<Joined> {
        if std::mem::replace(&mut self.nodes_complete, true) {
            return Vec::new();
        }
        let strays = self.grants.iter().filter(|(_, grant)| self.is_stray(grant));
        strays.map(|(name, _)| Joined::Object(name.clone(), self.problems(name))).collect()
    }

    /// All objects have been told.
    pub fn complete_grants(&mut self) -> Vec<Joined> {
        self.know(Known::All)
    }

    /// The objects cannot be read, and somebody has to do something about it. What was read before is kept.
    pub fn cannot_read_grants(&mut self) -> Vec<Joined> {
        if self.known == Known::All { Vec::new() } else { self.know(Known::Not) }
    }

    fn know(&mut self, known: Known) -> Vec<Joined> {
        if self.known == known {
            return Vec::new();
        }
        let before: Vec<_> = self.nodes.keys().map(|name| self.node(name)).collect();
        self.known = known;
        let both = self.nodes.keys().zip(before);
        let changed = both.map(|(name, before)| (name, before, self.node(name)));
        let changed = changed.filter(|(_, before, after)| before != after);
        changed.map(|(name, _, after)| Joined::Node(name.clone(), after)).collect()
    }

    fn replace(&mut self, name: &str, grant: Option<Grant>) {
        let before = match grant {
            Some(grant) => {
                if !grant.subnets.is_empty() {
                    self.by_node.entry(grant.node.clone()).or_default().insert(name.to_owned());
                }
                let node = grant.node.clone();
                let empty = grant.subnets.is_empty();
                let before = self.grants.insert(name.to_owned(), grant);
                before.filter(|before| before.node != node || empty)
            }
            None => self.grants.remove(name),
        };
        // What it gave before, it gives no longer.
        let Some(before) = before else { return };
        if let Some(objects) = self.by_node.get_mut(&before.node) {
            objects.remove(name);
            if objects.is_empty() {
                self.by_node.remove(&before.node);
            }
        }
    }

    fn node(&self, name: &str) -> Option<WatchedNode> {
        let mut watched = self.nodes.get(name)?.clone();
        if self.known == Known::Not {
            return Some(watched);
        }
        let subnets = self.subnets(name);
        if watched.node.pod_subnets != subnets {
            Arc::make_mut(&mut watched.node).pod_subnets = subnets;
        }
        if self.known == Known::All {
            watched.problems.extend(missing_pod_subnet(&watched.node, self.source));
        }
        Some(watched)
    }

    /// One object's own order is kept; those of several objects are sorted.
    fn subnets(&self, node: &str) -> Vec<IpNet> {
        let Some(objects) = self.by_node.get(node) else { return Vec::new() };
        let grants = objects.iter().filter_map(|object| self.grants.get(object));
        let mut subnets: Vec<IpNet> = grants.flat_map(|grant| grant.subnets.iter().copied()).collect();
        if objects.len() > 1 {
            subnets.sort_unstable();
        }
        let mut seen = BTreeSet::new();
        subnets.retain(|subnet| seen.insert(*subnet));
        subnets
    }

    fn is_stray(&self, grant: &Grant) -> bool {
        self.nodes_complete && !grant.subnets.is_empty() && !self.nodes.contains_key(&grant.node)
    }

    /// Everything that is wrong with an object.
    fn problems(&self, name: &str) -> Vec<Problem> {
        let Some(grant) = self.grants.get(name) else { return Vec::new() };
        let kind = self.source.kind();
        let stray = self.is_stray(grant).then(|| {
            let subnets = grant.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!(
                "gives {subnets} to the node {:?}, which is not there, and is left out; the other CNI removes it some \
                 time after its Node, or delete it",
                crate::decode::shortened(&grant.node)
            );
            Problem::new(Object::Foreign { kind, name: name.to_owned() }, "UnknownNode", message)
        });
        grant.problems.iter().cloned().chain(stray).collect()
    }
}
