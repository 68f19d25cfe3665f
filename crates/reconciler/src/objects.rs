//! What the API has told: Nodes and Peers as they were last seen, and what is wrong with them and with what gives pod
//! subnets.

use std::{collections::BTreeMap, sync::Arc};

use mesh::{Node, Peer, Problem};

use crate::{NodeUpdate, PeerUpdate};

/// Nodes and Peers as they were last seen.
#[derive(Debug, Default)]
pub struct Objects {
    nodes: BTreeMap<String, Arc<Node>>,
    /// Of those that have any: problems are shown often, and there are few.
    node_problems: BTreeMap<String, Vec<Problem>>,
    peers: BTreeMap<String, Option<Peer>>,
    peer_problems: BTreeMap<String, Vec<Problem>>,
    /// Of the objects by which another CNI gives pod subnets.
    subnet_problems: BTreeMap<String, Vec<Problem>>,
    /// Grows with every change of a problem.
    revision: u64,
}

impl Objects {
    /// A Node was added or changed. Returns whether more than its heartbeat is new.
    pub fn set_node(&mut self, name: &str, update: NodeUpdate) -> bool {
        let NodeUpdate { node, problems, forced: _ } = update;
        let problems_changed = set_problems(&mut self.node_problems, name, problems);
        self.revision += u64::from(problems_changed);
        match self.nodes.get_mut(name) {
            Some(before) if same_but_heartbeat(before, &node) => problems_changed,
            Some(before) => {
                *before = node;
                true
            }
            None => {
                self.nodes.insert(name.to_owned(), node);
                true
            }
        }
    }

    /// A Node was removed. Returns whether there was one.
    pub fn remove_node(&mut self, name: &str) -> bool {
        self.revision += u64::from(self.node_problems.remove(name).is_some());
        self.nodes.remove(name).is_some()
    }

    /// A Peer was added or changed. Returns whether anything is new.
    pub fn set_peer(&mut self, name: &str, update: PeerUpdate) -> bool {
        let PeerUpdate { peer, problems } = update;
        let problems_changed = set_problems(&mut self.peer_problems, name, problems);
        self.revision += u64::from(problems_changed);
        if self.peers.get(name) == Some(&peer) {
            return problems_changed;
        }
        self.peers.insert(name.to_owned(), peer);
        true
    }

    /// A Peer was removed. Returns whether there was one.
    pub fn remove_peer(&mut self, name: &str) -> bool {
        self.revision += u64::from(self.peer_problems.remove(name).is_some());
        self.peers.remove(name).is_some()
    }

    /// What is wrong with an object by which another CNI gives pod subnets. Returns whether that is something new.
    pub fn set_subnet_object(&mut self, name: &str, problems: Vec<Problem>) -> bool {
        let changed = set_problems(&mut self.subnet_problems, name, problems);
        self.revision += u64::from(changed);
        changed
    }

    /// The Node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All Nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// All Peers that are valid, by name.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().flatten()
    }

    /// Grows whenever [`Objects::problems`] may give others.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Everything that is wrong with objects by themselves.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        let all = [&self.node_problems, &self.peer_problems, &self.subnet_problems];
        all.into_iter().flat_map(BTreeMap::values).flatten()
    }
}

/// Returns whether that is something new.
fn set_problems(all: &mut BTreeMap<String, Vec<Problem>>, name: &str, problems: Vec<Problem>) -> bool {
    if problems.is_empty() {
        return all.remove(name).is_some();
    }
    if all.get(name) == Some(&problems) {
        return false;
    }
    all.insert(name.to_owned(), problems);
    true
}

fn same_but_heartbeat(before: &Node, after: &Node) -> bool {
    // Compared without copying: a heartbeat of one of thousands of nodes has to cost nothing.
    let Node {
        name,
        created,
        location,
        leader,
        endpoint,
        key,
        internal_ips,
        internal_ips_forced,
        pod_subnets,
        joins_without_pods,
        persistent_keepalive,
        allowed_location_ips,
        wireguard_ips,
        discovered_endpoints,
        granularity,
        pod_cidr_source,
        settings,
        cni_compatibility_ips,
        last_seen: _,
    } = before;
    *name == after.name
        && *created == after.created
        && *location == after.location
        && *leader == after.leader
        && *endpoint == after.endpoint
        && *key == after.key
        && *internal_ips == after.internal_ips
        && *internal_ips_forced == after.internal_ips_forced
        && *pod_subnets == after.pod_subnets
        && *joins_without_pods == after.joins_without_pods
        && *persistent_keepalive == after.persistent_keepalive
        && *allowed_location_ips == after.allowed_location_ips
        && *wireguard_ips == after.wireguard_ips
        && *discovered_endpoints == after.discovered_endpoints
        && *granularity == after.granularity
        && *pod_cidr_source == after.pod_cidr_source
        && *settings == after.settings
        && *cni_compatibility_ips == after.cni_compatibility_ips
}
