//! Which allowed-location IPs are kept: those that take no traffic away from something else.

use ipnet::IpNet;

use crate::{
    Object, Peer, Problem, Problems, Segment,
    overlap::Covers,
    prefix::{self, intersects},
};

/// Adds the WireGuard addresses to the allowed IPs, and drops allowed-location IPs that overlap something.
///
/// The order of evaluation is the Go implementation's, so that both come to the same result in one mesh: segment by
/// segment, where those before are already filtered and those after are not, and where those after do not have
/// their WireGuard addresses yet.
pub(super) fn filter_location_ips(segments: &mut [Segment], peers: &[Peer], problems: &mut Problems) {
    if segments.iter().all(|segment| segment.allowed_location_ips.is_empty()) {
        return append_wireguard_ips(segments);
    }
    let suspicion = Suspicion::of(segments, peers);
    for index in 0..segments.len() {
        append_wireguard_ips(&mut segments[index..=index]);
        let wanted = std::mem::take(&mut segments[index].allowed_location_ips);
        let mut kept = Vec::with_capacity(wanted.len());
        for ip in wanted {
            match suspicion.falls_on(&ip).then(|| conflict(&ip, index, segments, peers)).flatten() {
                Some(with) => problems.push(Problem::new(
                    Object::Node(claimant(&segments[index], &ip)),
                    "OverlappingLocationIP",
                    format!("the allowed-location IP {ip} overlaps {with} and is left out"),
                )),
                None => kept.push(ip),
            }
        }
        segments[index].allowed_location_ips = kept;
    }
}

fn append_wireguard_ips(segments: &mut [Segment]) {
    for segment in segments {
        segment.allowed_ips.extend(segment.wireguard_ips.iter().map(|ip| prefix::host(*ip)));
    }
}

/// What an allowed-location IP may be in conflict with, whatever the order of evaluation. It spares looking at the
/// whole mesh for one that overlaps nothing.
struct Suspicion {
    taken: Covers,
    contested: Covers,
}

impl Suspicion {
    fn of(segments: &[Segment], peers: &[Peer]) -> Self {
        let allowed = segments.iter().flat_map(|segment| segment.allowed_ips.iter().copied());
        let tunnels = segments.iter().flat_map(|segment| &segment.wireguard_ips).copied().map(prefix::host);
        let of_peers = peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
        let location = segments.iter().flat_map(|segment| segment.allowed_location_ips.iter().copied());
        Self {
            taken: Covers::of(allowed.chain(tunnels).chain(of_peers)),
            contested: Covers::contested(location),
        }
    }

    fn falls_on(&self, ip: &IpNet) -> bool {
        self.taken.overlaps(ip) || self.contested.overlaps(ip)
    }
}

fn conflict(ip: &IpNet, own: usize, segments: &[Segment], peers: &[Peer]) -> Option<String> {
    for (index, segment) in segments.iter().enumerate() {
        if index != own
            && let Some(other) = segment.allowed_location_ips.iter().find(|other| intersects(ip, other))
        {
            return Some(format!("{other} of {}", segment.name));
        }
        if let Some(other) = segment.allowed_ips.iter().find(|other| other.contains(&ip.addr())) {
            return Some(format!("{other} of {}", segment.name));
        }
    }
    peers.iter().find_map(|peer| {
        let other = peer.allowed_ips.iter().find(|other| intersects(ip, other))?;
        Some(format!("{other} of peer {}", peer.name))
    })
}

fn claimant(segment: &Segment, ip: &IpNet) -> String {
    let node = segment.nodes.iter().find(|node| node.allowed_location_ips.contains(ip));
    node.unwrap_or(&segment.nodes[0]).name.clone()
}
