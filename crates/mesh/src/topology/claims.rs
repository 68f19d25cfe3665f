//! Which node has a key or a pod subnet that several claim, or that belongs to the cluster.
//!
//! The older node has it, then the first by name. Nearly everything is claimed once, which sorting shows; owners are
//! looked up for the rest only.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::TopologyConfig;
use crate::{
    Node, Object, Problem, Problems, PublicKey,
    conflict::Claim,
    overlap::{Covers, repeated},
    prefix,
};

/// Sorts the nodes by name. Leaves out those whose key an older node has, and of the others the pod subnets that are not
/// theirs. Also says who has what, of what several claim.
pub(super) fn without_conflicts(
    nodes: impl IntoIterator<Item = Arc<Node>>,
    config: &TopologyConfig,
    problems: &mut Problems,
) -> (Vec<Arc<Node>>, Owners) {
    let mut nodes = sorted_by_name(nodes.into_iter().filter(|node| node.lacks().is_empty()));
    let contested = Contested::of(&nodes, config);
    let mut involved: Vec<usize> =
        (0..nodes.len()).filter(|index| contested.involves(&nodes[*index])).collect();
    involved.sort_by(|a, b| nodes[*a].seniority().cmp(&nodes[*b].seniority()));
    let mut owners = Owners::of_cluster(config);
    let mut left_out = BTreeSet::new();
    for index in &involved {
        if !owners.admit(&mut nodes[*index], problems) {
            left_out.insert(*index);
        }
    }
    let mut index = 0..;
    nodes.retain(|_| index.next().is_none_or(|index| !left_out.contains(&index)));
    (nodes, owners)
}

/// Of several nodes of one name the last one counts.
fn sorted_by_name(nodes: impl Iterator<Item = Arc<Node>>) -> Vec<Arc<Node>> {
    let mut sorted: Vec<_> = nodes.collect();
    sorted.reverse();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.dedup_by(|later, first| later.name == first.name);
    sorted
}

/// What more than one claims.
struct Contested {
    keys: Vec<PublicKey>,
    addresses: Covers,
}

impl Contested {
    fn of(nodes: &[Arc<Node>], config: &TopologyConfig) -> Self {
        let claims = nodes.iter().flat_map(|node| claims(node));
        Self {
            keys: repeated(nodes.iter().filter_map(|node| node.key)),
            addresses: Covers::contested(claims.chain(config.reserved().map(|(net, _)| net))),
        }
    }

    fn involves(&self, node: &Node) -> bool {
        let key = || node.key.is_some_and(|key| self.keys.binary_search(&key).is_ok());
        let addresses = || claims(node).any(|net| self.addresses.overlaps(&net));
        !self.keys.is_empty() && key() || !self.addresses.prefixes().is_empty() && addresses()
    }
}

/// What a node says it has.
fn claims(node: &Node) -> impl Iterator<Item = IpNet> {
    let internal = node.internal_ips.iter().map(|net| prefix::host(net.addr()));
    node.pod_subnets.iter().copied().chain(internal)
}

/// Who has what, of what several claim.
pub(super) struct Owners {
    keys: HashMap<PublicKey, String>,
    /// Disjoint.
    addresses: BTreeMap<IpNet, (Claim, Object)>,
}

impl Owners {
    fn of_cluster(config: &TopologyConfig) -> Self {
        let covers = Covers::of(config.reserved().map(|(net, _)| net));
        let widest = config.reserved().filter(|(net, _)| covers.prefixes().contains(net));
        Self {
            keys: HashMap::new(),
            addresses: widest.map(|(net, claim)| (net, (claim, Object::Mesh))).collect(),
        }
    }

    /// Gives a node its key and its pod subnets. Returns whether it can be in the mesh with what it gets.
    fn admit(&mut self, node: &mut Arc<Node>, problems: &mut Problems) -> bool {
        if let Some(owner) = node.key.and_then(|key| self.keys.get(&key)) {
            problems.push(Problem::new(
                Object::Node(node.name.clone()),
                "DuplicateKey",
                format!(
                    "has the same WireGuard key as node {owner} and is left out; a cloned disk? Delete the key file on one \
                     of them and restart its agent"
                ),
            ));
            return false;
        }
        let subnets = self.pod_subnets(node, problems);
        if subnets.is_empty() && !node.joins_without_pods {
            return false;
        }
        if subnets.len() != node.pod_subnets.len() {
            Arc::make_mut(node).pod_subnets = subnets;
        }
        self.keys.extend(node.key.map(|key| (key, node.name.clone())));
        true
    }

    /// The pod subnets of a node that overlap nothing of older nodes or of the cluster. They are its own from now on.
    fn pod_subnets(&mut self, node: &Node, problems: &mut Problems) -> Vec<IpNet> {
        let mut subnets = Vec::with_capacity(node.pod_subnets.len());
        for subnet in &node.pod_subnets {
            if let Some((taken, (claim, owner))) = self.owner(subnet) {
                let advice = match owner {
                    Object::Mesh => {
                        "give the node other pods, or the agents another --subnet or --service-cidr"
                    }
                    _ => "give every node pod subnets of its own",
                };
                problems.push(Problem::new(
                    Object::Node(node.name.clone()),
                    "OverlappingPodSubnet",
                    format!(
                        "the pod subnet {subnet} overlaps {claim} {taken} of {owner} and is left out; {advice}"
                    ),
                ));
                continue;
            }
            self.addresses.insert(subnet.trunc(), (Claim::PodSubnet, Object::Node(node.name.clone())));
            subnets.push(*subnet);
        }
        subnets
    }

    /// Who else has an internal address of a node: one whose pods it would be, or the cluster. Older or not: pods are never
    /// routed away from the node that has them.
    pub(super) fn foreign(&self, node: &Node, address: IpAddr) -> Option<(&IpNet, &(Claim, Object))> {
        let taken = self.owner(&prefix::host(address));
        taken.filter(|(_, (_, owner))| !matches!(owner, Object::Node(name) if *name == node.name))
    }

    /// Whose pods, or what of the cluster, overlaps a prefix.
    ///
    /// The addresses are disjoint, so only the neighbours in their order can overlap the prefix: the one that begins last
    /// at or before it, and the first one that begins after it.
    pub(super) fn owner(&self, prefix: &IpNet) -> Option<(&IpNet, &(Claim, Object))> {
        let prefix = prefix.trunc();
        let before = self.addresses.range(..=prefix).next_back();
        let after = self.addresses.range(prefix..).next();
        before.into_iter().chain(after).find(|(other, _)| other.contains(&prefix) || prefix.contains(*other))
    }
}
