//! Which allowed-location IPs are kept: those that take no traffic away from something else.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use ipnet::IpNet;

use super::{
    TopologyConfig,
    addresses::{Foreign, held},
};
use crate::{
    Node, Object, Peer, Problem, Problems, Segment,
    conflict::Claim,
    node::age,
    overlap::{Covers, Nets},
    prefix,
};

/// Drops allowed-location IPs that overlap something of others. Of two that overlap each other, that of the older node
/// stays.
pub(super) fn filter(
    segments: &mut [Segment],
    foreign: &Foreign,
    peers: &[Peer],
    config: &TopologyConfig,
    problems: &mut Problems,
) {
    if segments.iter().all(|segment| segment.allowed_location_ips.is_empty()) {
        return;
    }
    let taken = Taken::of(segments, foreign, peers, config);
    let mut wanted = wanted(segments);
    wanted.sort_by(Wanted::order);
    let mut given = Given::default();
    let mut dropped: Vec<(usize, IpNet)> = Vec::new();
    for wanted in wanted {
        let Wanted { segment, range, node } = wanted;
        let taken = taken.owner(&wanted);
        let owner = taken.or_else(|| given.give(&range, segment, &node.name));
        if let Some(owner) = owner {
            problems.push(Problem::new(
                Object::Node(node.name.clone()),
                "OverlappingLocationIP",
                format!("the allowed-location IP {range} overlaps {owner} and is left out"),
            ));
            dropped.push((segment, range));
        }
    }
    dropped.sort_unstable();
    for (index, segment) in segments.iter_mut().enumerate() {
        segment.allowed_location_ips.retain(|range| dropped.binary_search(&(index, *range)).is_err());
    }
}

/// A range that a segment asks for.
struct Wanted<'a> {
    segment: usize,
    range: IpNet,
    /// The oldest node of the segment that has it.
    node: &'a Node,
}

impl Wanted<'_> {
    /// Older nodes come first. Of equal age, the last segment does, as in the Go implementation.
    fn order(&self, other: &Self) -> Ordering {
        let age = |wanted: &Self| wanted.node.seniority().0;
        age(self).cmp(&age(other)).then(other.segment.cmp(&self.segment))
    }
}

fn wanted(segments: &[Segment]) -> Vec<Wanted<'_>> {
    let mut wanted: BTreeMap<(usize, IpNet), &Node> = BTreeMap::new();
    for (segment, node) in segments
        .iter()
        .enumerate()
        .flat_map(|(index, segment)| segment.nodes.iter().map(move |node| (index, node)))
    {
        for range in &node.allowed_location_ips {
            let oldest = wanted.entry((segment, *range)).or_insert(node);
            if node.seniority() < oldest.seniority() {
                *oldest = node;
            }
        }
    }
    wanted.into_iter().map(|((segment, range), node)| Wanted { segment, range, node }).collect()
}

/// What no range gets, as far as it overlaps one.
struct Taken<'a>(Nets<(Claim, Owner<'a>)>);

impl<'a> Taken<'a> {
    fn of(segments: &'a [Segment], foreign: &'a Foreign, peers: &'a [Peer], config: &TopologyConfig) -> Self {
        let ranges = segments.iter().flat_map(|segment| segment.allowed_location_ips.iter().copied());
        let ranges = Covers::of(ranges);
        let of_nodes = held(segments, foreign)
            .map(|(_, node, claim, net)| (net, (claim, Owner::Node(node.seniority()))));
        let of_cluster = config.reserved().map(|(net, claim)| (net, (claim, Owner::Mesh)));
        let of_peers = peers.iter().flat_map(|peer| {
            peer.allowed_ips.iter().map(move |net| {
                (net.trunc(), (Claim::AllowedIp, Owner::Peer(age(peer.claims_since()), &peer.name)))
            })
        });
        let all = of_nodes.chain(of_cluster).chain(of_peers);
        Self(Nets::of(all.filter(|(net, _)| ranges.overlaps(net))))
    }

    /// What a range overlaps, in words. A range may hold what nodes and the cluster have, because that is narrower and so
    /// goes on to be theirs. As in the Go implementation, it is the address that counts, with host bits.
    fn owner(&self, wanted: &Wanted<'_>) -> Option<String> {
        let range = &wanted.range;
        let around_address = self.0.around(prefix::host(range.addr()));
        let inside = self.0.inside(range.trunc()).iter();
        let mut takes = around_address.filter(|(net, (claim, owner))| match claim {
            Claim::WireguardSubnet | Claim::Services => range.prefix_len() >= net.prefix_len(),
            Claim::InternalIp => net == range || !owner.is_younger_than(wanted.node),
            // Of two ranges that nest, each has what is not in the narrower one.
            Claim::AllowedIp => !owner.is_younger_than(wanted.node),
            _ => true,
        });
        let of_peer = || {
            let mut inside = inside.filter(|(_, (claim, owner))| {
                *claim == Claim::AllowedIp && !owner.is_younger_than(wanted.node)
            });
            inside.next()
        };
        let (net, (claim, owner)) = takes.next().or_else(of_peer)?;
        Some(format!("{claim} {net} of {owner}"))
    }
}

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner<'a> {
    /// A node, by its seniority.
    Node((i64, &'a str)),
    /// A Peer, by age and name.
    Peer(i64, &'a str),
    Mesh,
}

impl Owner<'_> {
    fn is_younger_than(&self, node: &Node) -> bool {
        matches!(self, Self::Node((age, _)) | Self::Peer(age, _) if node.is_older_than(*age))
    }
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node((_, name)) => write!(f, "node {name}"),
            Self::Peer(_, name) => write!(f, "peer {name}"),
            Self::Mesh => write!(f, "{}", Object::Mesh),
        }
    }
}

/// The ranges that segments have got. Those of different segments are disjoint; of one segment, the widest are here.
#[derive(Default)]
struct Given(BTreeMap<IpNet, (usize, String)>);

impl Given {
    /// Gives a segment a range, unless another segment has a part of it: then that is said in words.
    fn give(&mut self, range: &IpNet, segment: usize, node: &str) -> Option<String> {
        let range = range.trunc();
        let around = self.0.range(..=range).next_back().filter(|(other, _)| other.contains(&range));
        let inside = || self.0.range(range..).take_while(|(other, _)| range.contains(*other));
        let mut others = around.into_iter().chain(inside());
        if let Some((other, (_, owner))) = others.find(|(_, (other, _))| *other != segment) {
            return Some(format!("the allowed-location IP {other} of node {owner}"));
        }
        if around.is_none() {
            let inside: Vec<IpNet> = inside().map(|(other, _)| *other).collect();
            for narrower in inside {
                self.0.remove(&narrower);
            }
            self.0.insert(range, (segment, node.to_owned()));
        }
        None
    }
}
