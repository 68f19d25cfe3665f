//! Ranges of peers that hold, or lie inside of, ranges of nodes or of other peers. WireGuard gives each address to the
//! narrowest range, and so does the kernel, so all of them stay. But where two clusters with the same ranges are linked, a part
//! of one is not reached, and it has to be said. Equal ranges are decided in [`super::claims`] before.

use ipnet::IpNet;

use crate::{
    Node, Object, Peer, Problem, Problems, Segment,
    allocation::Subnets,
    conflict::{Claim, Conflict, claims, overlap},
    overlap::Covers,
};

/// Tells of every peer, for each of its allowed IPs, the first one that it shares addresses with.
pub(super) fn report_nested_ranges(
    segments: &[Segment],
    subnets: &Subnets,
    peers: &[Peer],
    problems: &mut Problems,
) {
    if peers.is_empty() {
        return;
    }
    let allowed_ips = || peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
    let covers = Covers::of(allowed_ips());
    let nodes = segments.iter().flat_map(|segment| &segment.nodes);
    let shared: Vec<(&Node, Claim, IpNet)> = nodes
        .flat_map(|node| claims(node).map(|(claim, claimed)| (&**node, claim, claimed)))
        // What a node says of the WireGuard subnet is what its agent was told; here it is known.
        .filter(|(_, claim, claimed)| *claim != Claim::WireguardSubnet && covers.overlaps(claimed))
        .collect();
    let contested = Covers::contested(allowed_ips());
    for (index, peer) in peers.iter().enumerate() {
        for allowed_ip in &peer.allowed_ips {
            let of_nodes = shared
                .iter()
                .filter(|(_, _, claimed)| overlap(allowed_ip, claimed))
                .map(|(node, claim, claimed)| (Object::Node(node.name.clone()), *claim, *claimed));
            let of_mesh = subnets
                .iter()
                .filter(|subnet| overlap(allowed_ip, subnet))
                .map(|subnet| (Object::Mesh, Claim::WireguardSubnet, *subnet));
            // The later one is told of the earlier one.
            let earlier = if contested.overlaps(allowed_ip) { &peers[..index] } else { &[] };
            let of_peers = earlier.iter().flat_map(|other| {
                let shared = other.allowed_ips.iter().filter(|other| overlap(allowed_ip, other));
                shared.map(|claimed| (Object::Peer(other.name.clone()), Claim::AllowedIp, claimed.trunc()))
            });
            let mut all = of_nodes.chain(of_mesh).chain(of_peers);
            let Some((owner, claim, claimed)) = all.next() else { continue };
            let conflict = Conflict::Overlap { allowed_ip: *allowed_ip, claim, claimed, owner };
            let more = match all.count() {
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
