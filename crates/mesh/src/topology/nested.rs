//! Ranges of peers that hold, or lie inside of, ranges of nodes or of other peers. WireGuard gives each address to the
//! narrowest range, and so does the kernel, so all of them stay. But where two clusters with the same ranges are linked, a part
//! of one is not reached, and it has to be said. Equal ranges are decided in [`super::peers`] before.

use ipnet::IpNet;

use super::addresses::{Foreign, held};
use crate::{
    Object, Peer, Problem, Problems, Segment,
    allocation::Subnets,
    conflict::{Claim, Conflict},
    overlap::{Covers, Nets},
};

/// Tells of every peer, for each of its allowed IPs, the first one that it shares addresses with.
pub(super) fn report_nested_ranges(
    segments: &[Segment],
    foreign: &Foreign,
    subnets: &Subnets,
    peers: &[Peer],
    problems: &mut Problems,
) {
    if peers.is_empty() {
        return;
    }
    let held = Held::of(segments, foreign, subnets, peers);
    for (peer, earlier) in peers.iter().zip(&held.before_peer) {
        for allowed_ip in &peer.allowed_ips {
            let Some((first, count)) = held.overlapping(*allowed_ip, *earlier) else { continue };
            let (claim, owner, claimed) = &held.holders[first];
            let conflict = Conflict::Overlap {
                allowed_ip: *allowed_ip,
                claim: *claim,
                claimed: claimed.trunc(),
                owner: owner.object(),
            };
            let more = match count - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            problems.push(Problem::new(
                Object::Peer(peer.name.clone()),
                "OverlappingAllowedIP",
                format!(
                    "{conflict}{more}; what both hold belongs to the narrower one, and is not reached at the other"
                ),
            ));
        }
    }
}

/// Who has a range.
enum Owner<'a> {
    Node(&'a str),
    Mesh,
    Peer(&'a str),
}

impl Owner<'_> {
    fn object(&self) -> Object {
        match self {
            Self::Node(name) => Object::Node((*name).to_owned()),
            Self::Mesh => Object::Mesh,
            Self::Peer(name) => Object::Peer((*name).to_owned()),
        }
    }
}

/// The ranges that share addresses with one of a peer, or may do so; nearly always none.
struct Held<'a> {
    /// Each with the number of its holder.
    ranges: Nets<usize>,
    /// What holds a range, in the order of precedence: nodes, the mesh, peers.
    holders: Vec<(Claim, Owner<'a>, IpNet)>,
    /// How many holders there are before each peer: an overlap is reported at the later peer.
    before_peer: Vec<usize>,
}

impl<'a> Held<'a> {
    fn of(segments: &'a [Segment], foreign: &'a Foreign, subnets: &Subnets, peers: &'a [Peer]) -> Self {
        let allowed_ips = || peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        let (covers, contested) = (Covers::of(allowed_ips()), Covers::contested(allowed_ips()));
        let mut holders = Vec::new();
        let shared = held(segments, foreign).filter(|(.., net)| covers.overlaps(net));
        holders.extend(shared.map(|(_, node, claim, net)| (claim, Owner::Node(&node.name), net)));
        holders.extend(subnets.iter().map(|net| (Claim::WireguardSubnet, Owner::Mesh, *net)));
        let mut before_peer = Vec::with_capacity(peers.len());
        for peer in peers {
            before_peer.push(holders.len());
            let shared = peer.allowed_ips.iter().filter(|net| contested.overlaps(net));
            holders.extend(shared.map(|net| (Claim::AllowedIp, Owner::Peer(&peer.name), *net)));
        }
        let ranges = Nets::of(holders.iter().enumerate().map(|(holder, (.., net))| (*net, holder)));
        Self { ranges, holders, before_peer }
    }

    /// The first of the earlier holders whose range overlaps one, and how many there are.
    fn overlapping(&self, net: IpNet, earlier: usize) -> Option<(usize, usize)> {
        let net = net.trunc();
        if !self.ranges.overlap(net) {
            return None;
        }
        // A range lies in at most 129 others, so of all peers together no more than that many times their ranges are
        // looked at.
        let all = self.ranges.around(net).chain(self.ranges.inside(net)).map(|(_, holder)| *holder);
        let earlier = all.filter(|holder| *holder < earlier);
        let (first, count) =
            earlier.fold((usize::MAX, 0), |(first, count), holder| (first.min(holder), count + 1));
        (count > 0).then_some((first, count))
    }
}
