//! Which segment an internal address is routed to.
//!
//! An address that is somebody's pod, or the cluster's, is routed to no node that says it is its own. Of several nodes that
//! have the same one, the oldest gets it: WireGuard gives an allowed IP to whoever asked last, so two claimants would take it
//! from each other for ever. The others lose only the way there from other segments: inside of theirs, the private network
//! decides whose it is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::claims::Owners;
use crate::{Node, Object, Problem, Problems, Segment, conflict::Claim, overlap::repeated, prefix};

const ADVICE: &str = "give the node another address or the annotation kilo.squat.ai/force-internal-ip";

/// Addresses of nodes, by the index of the segment, that are not routed there.
pub(super) type Foreign = HashSet<(usize, IpNet)>;

/// Leaves every allowed IP to one segment. Returns the addresses that belong to others.
pub(super) fn share_out(segments: &mut [Segment], owners: &Owners, problems: &mut Problems) -> Foreign {
    let mut foreign = foreign(segments, owners, problems);
    foreign.extend(ranges_of_older(segments, owners, problems));
    for (index, segment) in segments.iter_mut().enumerate().filter(|_| !foreign.is_empty()) {
        segment.allowed_ips.retain(|net| !foreign.contains(&(index, *net)));
    }
    let contested = repeated(segments.iter().flat_map(|segment| &segment.allowed_ips).map(IpNet::trunc));
    if contested.is_empty() {
        return foreign;
    }
    let homes = homes(segments, &contested);
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

/// The addresses, by segment, that belong to a node of another segment or to the cluster.
fn foreign(segments: &[Segment], owners: &Owners, problems: &mut Problems) -> Foreign {
    let mut foreign = HashSet::new();
    for (index, node, address) in addresses(segments) {
        let Some((taken, (claim, owner))) = owners.foreign(node, address) else { continue };
        problems.push(Problem::new(
            Object::Node(node.name.clone()),
            "ForeignAddress",
            format!("the internal address {address} lies in {claim} {taken} of {owner} and is not routed; {ADVICE}"),
        ));
        if !matches!(owner, Object::Node(owner) if segments[index].contains(owner)) {
            foreign.insert((index, prefix::host(address)));
        }
    }
    foreign
}

/// The addresses, by segment, that are an allowed-location IP of an older node in another segment, unless a node of the
/// segment is older still.
fn ranges_of_older(segments: &[Segment], owners: &Owners, problems: &mut Problems) -> Vec<(usize, IpNet)> {
    let ranges = oldest_host_ranges(segments);
    let mut lost: BTreeMap<(usize, IpNet), bool> = BTreeMap::new();
    for (index, node, address) in addresses(segments).filter(|_| !ranges.is_empty()) {
        let host = prefix::host(address);
        // What is somebody's pod is no range either.
        let Some((home, owner)) = ranges.get(&host).filter(|_| owners.owner(&host).is_none()) else {
            continue;
        };
        let older = *home != index && owner.is_older_than(node.seniority());
        *lost.entry((index, host)).or_insert(true) &= older;
        if older {
            problems.push(Problem::new(
                Object::Node(node.name.clone()),
                "ForeignAddress",
                format!(
                    "the internal address {address} is {} of node {} and is not routed; {ADVICE}",
                    Claim::LocationIp,
                    owner.name
                ),
            ));
        }
    }
    lost.into_iter().filter(|(_, lost)| *lost).map(|(address, _)| address).collect()
}

/// The allowed-location IPs that are single addresses, each with the oldest node that has it and the index of its segment.
fn oldest_host_ranges(segments: &[Segment]) -> HashMap<IpNet, (usize, &Node)> {
    let mut oldest: HashMap<IpNet, (usize, &Node)> = HashMap::new();
    for (index, segment) in segments.iter().enumerate() {
        for node in &segment.nodes {
            for range in node.allowed_location_ips.iter().filter(|range| prefix::is_host(range)) {
                let found = oldest.entry(*range).or_insert((index, node));
                if node.seniority() < found.1.seniority() {
                    *found = (index, node);
                }
            }
        }
    }
    oldest
}

/// Where an address is routed to.
struct Home {
    segment: usize,
    /// The name of the oldest node that has the address.
    node: String,
}

/// Where contested addresses are routed to.
fn homes(segments: &[Segment], contested: &[IpNet]) -> HashMap<IpAddr, Home> {
    let mut oldest: HashMap<IpAddr, (usize, &Node)> = HashMap::new();
    for (index, node, address) in addresses(segments) {
        let host = prefix::host(address);
        if contested.binary_search(&host).is_ok() && segments[index].allowed_ips.contains(&host) {
            let found = oldest.entry(address).or_insert((index, node));
            if node.seniority() < found.1.seniority() {
                *found = (index, node);
            }
        }
    }
    let home = |(segment, node): (usize, &Node)| Home { segment, node: node.name.clone() };
    oldest.into_iter().map(|(address, oldest)| (address, home(oldest))).collect()
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
