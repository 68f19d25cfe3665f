//! Which segment an internal address is routed to.
//!
//! An internal address is what a node says of itself, so others go first: whose pod it is, the cluster, and an operator who
//! wrote it into an older object. Of several nodes that have the same one, the one to which an operator gave it gets it, then
//! the oldest: WireGuard gives an allowed IP to whoever asked last, so two claimants would take it from each other for ever.
//! The others lose only the way there from other segments: inside of theirs, the private network decides whose it is.

mod written;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::claims::Owners;
use crate::{
    Host, Node, Object, Peer, Problem, Problems, Segment,
    conflict::{Claim, claims},
    overlap::repeated,
    prefix::{self, is_private},
};
use written::Written;

const ADVICE: &str = "give the node another address or the annotation kilo.squat.ai/force-internal-ip";

/// Addresses of nodes, by the index of the segment, that are not routed there.
pub(super) type Foreign = HashSet<(usize, IpNet)>;

/// Leaves every allowed IP to one segment. Returns the addresses that belong to others.
pub(super) fn share_out(
    segments: &mut [Segment],
    peers: &[Peer],
    owners: &Owners,
    problems: &mut Problems,
) -> Foreign {
    let foreign = foreign(segments, peers, owners, problems);
    for (index, segment) in segments.iter_mut().enumerate().filter(|_| !foreign.is_empty()) {
        segment.allowed_ips.retain(|net| !foreign.contains(&(index, *net)));
    }
    let contested = repeated(segments.iter().flat_map(|segment| &segment.allowed_ips).map(IpNet::trunc));
    if contested.is_empty() {
        return foreign;
    }
    let homes = homes(segments, &foreign, &contested);
    report(segments, &homes, problems);
    let homes: HashMap<IpNet, usize> =
        homes.iter().map(|(ip, home)| (prefix::host(*ip), home.segment)).collect();
    let mut seen = HashSet::new();
    for (index, segment) in segments.iter_mut().enumerate() {
        segment.allowed_ips.retain(|net| {
            let net = net.trunc();
            contested.binary_search(&net).is_err()
                || (homes.get(&net).is_none_or(|home| *home == index) && seen.insert(net))
        });
    }
    foreign
}

/// What nodes have: their pods, and the addresses that lead to them.
pub(super) fn held<'a>(
    segments: &'a [Segment],
    foreign: &'a Foreign,
) -> impl Iterator<Item = (&'a Segment, &'a Node, Claim, IpNet)> {
    let nodes = segments.iter().enumerate();
    let nodes =
        nodes.flat_map(|(index, segment)| segment.nodes.iter().map(move |node| (index, segment, &**node)));
    nodes.flat_map(move |(index, segment, node)| {
        let held = claims(node)
            .filter(move |(claim, net)| *claim != Claim::InternalIp || !foreign.contains(&(index, *net)));
        held.map(move |(claim, net)| (segment, node, claim, net))
    })
}

/// The addresses, by segment, that no node there has a right to.
fn foreign(segments: &[Segment], peers: &[Peer], owners: &Owners, problems: &mut Problems) -> Foreign {
    let written = Written::of(segments, peers);
    let (mut foreign, mut rightful) = (Foreign::new(), Vec::new());
    for (index, node, address) in addresses(segments) {
        let at = (index, prefix::host(address));
        let Some((why, elsewhere)) = objection(&segments[index], node, address, owners, &written) else {
            rightful.push(at);
            continue;
        };
        problems.push(Problem::new(
            Object::Node(node.name.clone()),
            "ForeignAddress",
            format!("the internal address {address} {why} and is not routed; {ADVICE}"),
        ));
        if elsewhere {
            foreign.insert(at);
        }
    }
    // Another node of the segment may have the address by right.
    if !foreign.is_empty() {
        for at in &rightful {
            foreign.remove(at);
        }
    }
    foreign
}

/// Why an address is not a node's, and whether it leads to another segment.
fn objection(
    segment: &Segment,
    node: &Node,
    address: IpAddr,
    owners: &Owners,
    written: &Written<'_>,
) -> Option<(String, bool)> {
    if let Some((taken, (claim, owner))) = owners.foreign(node, address) {
        let here = matches!(owner, Object::Node(owner) if segment.contains(owner));
        return Some((format!("lies in {claim} {taken} of {owner}"), !here));
    }
    if owners.owner(&prefix::host(address)).is_some() {
        return None;
    }
    if !node.internal_ips_forced
        && !is_private(&prefix::host(address))
        && !is_endpoint(segment, node, address)
    {
        return Some(("is public and not the endpoint of a leader".to_owned(), true));
    }
    let (net, owner) = written.owner(node, address)?;
    Some((format!("lies in {net}, {owner}, which is older"), true))
}

/// Whether packets for an address go straight to where a tunnel ends, as they do without a mesh.
fn is_endpoint(segment: &Segment, node: &Node, address: IpAddr) -> bool {
    segment.leader().name == node.name && segment.endpoint.host == Host::Ip(address)
}

/// Where an address is routed to.
struct Home {
    segment: usize,
    /// The name of the node that gets the address.
    node: String,
}

/// Where contested addresses are routed to.
fn homes(segments: &[Segment], foreign: &Foreign, contested: &[IpNet]) -> HashMap<IpAddr, Home> {
    let order = |node: &Node| (!node.internal_ips_forced, node.seniority().0, node.name.clone());
    let mut first: HashMap<IpAddr, (usize, &Node)> = HashMap::new();
    for (index, node, address) in addresses(segments) {
        let host = prefix::host(address);
        if contested.binary_search(&host).is_ok() && !foreign.contains(&(index, host)) {
            let found = first.entry(address).or_insert((index, node));
            if order(node) < order(found.1) {
                *found = (index, node);
            }
        }
    }
    let home = |(segment, node): (usize, &Node)| Home { segment, node: node.name.clone() };
    first.into_iter().map(|(address, first)| (address, home(first))).collect()
}

fn addresses(segments: &[Segment]) -> impl Iterator<Item = (usize, &Node, IpAddr)> {
    segments.iter().enumerate().flat_map(|(index, segment)| {
        let nodes = segment.nodes.iter();
        nodes
            .flat_map(move |node| node.internal_ips.iter().map(move |net| (index, node.as_ref(), net.addr())))
    })
}

fn report(segments: &[Segment], homes: &HashMap<IpAddr, Home>, problems: &mut Problems) {
    for (index, node, address) in addresses(segments) {
        let Some(Home { segment, node: owner }) = homes.get(&address).filter(|home| home.node != node.name)
        else {
            continue;
        };
        let what = if *segment == index {
            format!("has the same internal address {address} as node {owner} of its location")
        } else {
            let name = &segments[*segment].name;
            format!(
                "the internal address {address} belongs to node {owner} of {name} and is reached there only"
            )
        };
        problems.push(Problem::new(
            Object::Node(node.name.clone()),
            "DuplicateAddress",
            format!("{what}; {ADVICE}"),
        ));
    }
}
