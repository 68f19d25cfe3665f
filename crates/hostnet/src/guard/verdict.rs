//! What becomes of a destination that lies in, or is, one thing that is kept: one function for each kind of claim.

use ipnet::IpNet;
use mesh::{PublicKey, prefix};

use super::{Guard, Keep, Lifeline, width};

/// A verdict because of one thing that is kept. The strictest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It is nothing to this claim.
    Pass,
    /// It is a part of the mesh, and its tunnel ends there.
    TunnelEnd,
    /// It is a part of the mesh, and reached without a tunnel.
    Direct,
    /// It is the host's, and that is as it should be.
    Known,
    /// It is the host's.
    Host,
    /// It is the host's, and nobody else speaks as it.
    Out,
}

/// A destination, and whether it is a single address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination {
    pub net: IpNet,
    /// What is kept, and holds it.
    pub within: IpNet,
    /// Whether the operator of this host gives it to the mesh.
    pub allowed: bool,
}

impl Destination {
    fn equal(&self) -> bool {
        self.net == self.within
    }

    fn is_host(&self) -> bool {
        self.net.prefix_len() == self.net.max_prefix_len()
    }

    fn or_out(self, passes: bool) -> Verdict {
        if passes { Verdict::Pass } else { Verdict::Out }
    }
}

/// A range that somebody wrote into an object.
pub(super) fn of_range(at: Destination, tunnel: PublicKey, keep: &Keep) -> Verdict {
    let special = !at.equal() && width::is_special(&at.net, &at.within);
    match keep {
        // The leader of another cluster in the same private network: its address is where its tunnel ends.
        Keep::Endpoint(key, _) | Keep::PeerEndpoint(key, _) if *key == tunnel => Verdict::Known,
        // What somebody writes is no reason against what somebody else writes, and a private endpoint is kept for better ones.
        Keep::PeerEndpoint(..) => Verdict::Pass,
        Keep::Endpoint(..) | Keep::Candidate(..) => at.or_out(!is_public(&at.within)),
        Keep::Services => at.or_out(at.allowed),
        Keep::Connected(_) if at.allowed || (special && prefix::is_wide(&at.within)) => Verdict::Pass,
        Keep::Connected(_) if at.is_host() => Verdict::Host,
        Keep::Route(_) => at.or_out(at.allowed || special),
        // An address that no leader has is as good as any for a Peer.
        Keep::Wireguard => at.or_out(at.is_host()),
        Keep::Unroutable(_)
        | Keep::Metadata
        | Keep::Lifeline(_)
        | Keep::Gateway(_)
        | Keep::Own
        | Keep::OwnPods
        | Keep::Near(_)
        | Keep::Connected(_)
        | Keep::Pods(_)
        | Keep::Internal(_) => Verdict::Out,
    }
}

/// The pods of a node. Where a tunnel is said to end is no reason against them, because the tunnels' own packets do not ask
/// this table. But pods do not have public IPv4 addresses, and endpoints do.
pub(super) fn of_pods(at: Destination, guard: &Guard, keep: &Keep) -> Verdict {
    let public = at.within.addr().is_ipv4() && is_public(&at.within);
    match keep {
        Keep::Endpoint(..) | Keep::Candidate(..) if public => Verdict::Out,
        Keep::Connected(_) => {
            at.or_out(at.allowed || (!at.equal() && (guard.addon || prefix::is_wide(&at.within))))
        }
        Keep::Route(_) => at.or_out(guard.addon || at.allowed || !at.equal()),
        Keep::Unroutable(_)
        | Keep::Metadata
        | Keep::Lifeline(_)
        | Keep::Gateway(_)
        | Keep::Own
        | Keep::OwnPods
        | Keep::Services
        | Keep::Wireguard => Verdict::Out,
        Keep::Endpoint(..)
        | Keep::PeerEndpoint(..)
        | Keep::Candidate(..)
        | Keep::Near(_)
        | Keep::Pods(_)
        | Keep::Internal(_) => Verdict::Pass,
    }
}

/// An address of a node. `near`: the node is in the location of this host.
pub(super) fn of_address(
    at: Destination,
    near: bool,
    tunnel: PublicKey,
    guard: &Guard,
    keep: &Keep,
) -> Verdict {
    let public = is_public(&at.net);
    let seen = guard.is_seen(tunnel, &at.net);
    match keep {
        // Anybody can write a public address as an endpoint; pods' packets go to whoever answers there with the key.
        Keep::Endpoint(key, _) if *key == tunnel && (seen || !public) => Verdict::TunnelEnd,
        Keep::Endpoint(key, _) if *key == tunnel => Verdict::Known,
        Keep::Lifeline(Lifeline::ApiServer) if seen => Verdict::Pass,
        // A member's own address, where it has no other.
        Keep::Candidate(key, _) if *key == tunnel => Verdict::Pass,
        Keep::Endpoint(..) | Keep::Candidate(..) => at.or_out(!public),
        Keep::Near(_) | Keep::Own => Verdict::Direct,
        Keep::Gateway(_) if near => Verdict::Direct,
        // That a node is the API server, or a name server, is nothing to complain about.
        Keep::Lifeline(_) if !public => Verdict::Known,
        Keep::Connected(_) if near || at.allowed || guard.is_shared(&at.within) => Verdict::Pass,
        Keep::Connected(_) => Verdict::Host,
        Keep::Route(_) => at.or_out(at.allowed || !at.equal()),
        Keep::Unroutable(_)
        | Keep::Metadata
        | Keep::Lifeline(_)
        | Keep::Gateway(_)
        | Keep::OwnPods
        | Keep::Pods(_)
        | Keep::Services => Verdict::Out,
        Keep::PeerEndpoint(..) | Keep::Internal(_) | Keep::Wireguard => Verdict::Pass,
    }
}

/// A range of the own location.
pub(super) fn of_own_range(at: Destination, keep: &Keep) -> Verdict {
    let nobodys = matches!(
        keep,
        Keep::Unroutable(_)
            | Keep::Metadata
            | Keep::Services
            | Keep::OwnPods
            | Keep::Pods(_)
            | Keep::Wireguard
    );
    at.or_out(!nobodys)
}

/// Whether a range is routed around something that it holds.
pub(super) fn is_hole_for_range(net: &IpNet, keep: &Keep) -> bool {
    match keep {
        // Whoever writes an endpoint into an object does not get what others have there. A private one is in a network
        // that is kept for better reasons.
        Keep::PeerEndpoint(..) => false,
        Keep::Endpoint(..) | Keep::Candidate(..) => is_public(net),
        _ => true,
    }
}

/// Whether an address may be that of a host on the Internet.
fn is_public(net: &IpNet) -> bool {
    !prefix::is_private(net)
}
