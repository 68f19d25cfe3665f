//! Which destinations may be routed through the mesh on this host, and which stay as the host has them.
//!
//! Routes of the mesh are looked up before the host's own, so a route too many takes something away from the host: its
//! neighbours, its way to the API server, the way of the tunnels themselves. Objects that anybody writes decide what is
//! in the mesh; the guard decides what of it this host follows. It leaves out what the host has or depends on, says so,
//! and lets the rest through. Agents and clients ask the same guard.

mod keep;
mod nets;
mod report;

use ipnet::IpNet;
use mesh::{
    PublicKey,
    prefix::{self, Family},
};

pub use keep::{Keep, Lifeline};
pub use nets::without;
pub use report::Report;

use nets::Nets;

/// A range is routed around what it holds of the host as long as there is no more of it than this: every one costs up to
/// 32 routes, of IPv6 128.
const MOST_HOLES: usize = 32;

/// What asks to be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The pods of a node. The cluster gives these ranges out, so one inside of a wider network of the host is meant.
    Pods,
    /// An address of a node, to which the tunnel with this key leads. `near`: the node is in the location of this host,
    /// so an address in a network that the host is connected to is the node's.
    Address {
        /// Whether the node is in the location of this host.
        near: bool,
        /// The key of the tunnel.
        tunnel: PublicKey,
    },
    /// A range that somebody wrote into an object, to which the tunnel with this key leads.
    Range(PublicKey),
    /// A range of the own location. The host has its own way there, so it is only to be a range that anybody can have.
    Here,
}

/// What becomes of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It is routed through the mesh.
    Mesh,
    /// Only these parts of it are.
    Part(Vec<IpNet>),
    /// It is part of the mesh, and reached without a tunnel.
    Direct,
    /// It is the host's: reached as if there were no mesh. What comes from there through its tunnel is accepted.
    Host,
    /// It is the host's, and nobody else speaks as it.
    Out,
}

impl Way {
    /// What of a destination is routed through the mesh.
    pub fn routed(&self, destination: IpNet) -> impl Iterator<Item = IpNet> {
        self.share(destination, matches!(self, Self::Mesh))
    }

    /// What of a destination may speak through its tunnel.
    pub fn accepted(&self, destination: IpNet) -> impl Iterator<Item = IpNet> {
        self.share(destination, matches!(self, Self::Mesh | Self::Direct | Self::Host))
    }

    /// What of a destination counts as a part of the mesh.
    pub fn meshed(&self, destination: IpNet) -> impl Iterator<Item = IpNet> {
        self.share(destination, matches!(self, Self::Mesh | Self::Direct))
    }

    /// All of a destination, its parts, or nothing. There are tens of thousands, so no list is made of one.
    fn share(&self, destination: IpNet, whole: bool) -> impl Iterator<Item = IpNet> {
        let parts: &[IpNet] = if let Self::Part(parts) = self { parts } else { &[] };
        whole.then_some(destination).into_iter().chain(parts.iter().copied())
    }
}

/// Why a destination is not routed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why<'a> {
    /// It is, or lies in, something that the host has.
    Is(IpNet, &'a Keep),
    /// It holds these.
    Holds(Vec<(IpNet, &'a Keep)>),
    /// It is so wide that it holds a part of the Internet that nobody can know.
    TooWide,
}

/// What the host keeps.
#[derive(Debug, Clone)]
pub struct Guard {
    kept: Nets<Keep>,
    /// Ranges that the operator of this host gives to the mesh.
    allowed: Vec<IpNet>,
    /// Whether another container network has routes to pods as well.
    addon: bool,
}

impl Guard {
    /// A guard of these. `allowed`: ranges that the operator gives to the mesh although the host has routes to them.
    /// `addon`: another container network has routes to the same pods, which ours are to come before.
    pub fn new(kept: impl Iterator<Item = (IpNet, Keep)>, allowed: Vec<IpNet>, addon: bool) -> Self {
        Self { kept: Nets::of(kept.chain(keep::everywhere())), allowed, addon }
    }

    /// What becomes of a destination without host bits, and why, if that is to be told.
    pub fn judge(&self, destination: IpNet, claim: Claim) -> (Way, Option<Why<'_>>) {
        if let Some(verdict) = self.around(destination, claim) {
            return verdict;
        }
        if is_too_wide(&destination) && !self.is_allowed(&destination) {
            return (Way::Out, Some(Why::TooWide));
        }
        self.inside(destination, claim)
    }

    /// What surrounds the destination, or is equal to it.
    fn around(&self, destination: IpNet, claim: Claim) -> Option<(Way, Option<Why<'_>>)> {
        let mut told = None;
        for (net, keep) in self.kept.around(destination) {
            match self.judge_one(destination, claim, *net, keep) {
                None => {}
                Some((way, true)) => told = told.or(Some((way, Some(Why::Is(*net, keep))))),
                // There is a good reason for it, so what else it is does not matter.
                Some((way, false)) => return Some((way, None)),
            }
        }
        told
    }

    /// What becomes of a destination inside of something that is kept, and whether that is told.
    fn judge_one(&self, destination: IpNet, claim: Claim, net: IpNet, keep: &Keep) -> Option<(Way, bool)> {
        let equal = net == destination;
        let lone = is_host(&destination);
        let range = matches!(claim, Claim::Range(_));
        match (keep, claim) {
            (Keep::Unroutable(_) | Keep::Metadata, _) => Some((Way::Out, true)),
            (Keep::Services | Keep::OwnPods, Claim::Here) => Some((Way::Out, true)),
            (_, Claim::Here) => None,
            (Keep::Endpoint(key, _), Claim::Address { tunnel, .. } | Claim::Range(tunnel))
                if *key == tunnel =>
            {
                Some((Way::Direct, false))
            }
            // A member's own address, where it has no other.
            (Keep::Candidate(key, _), Claim::Address { tunnel, .. }) if *key == tunnel => None,
            (Keep::Near(_) | Keep::Own, Claim::Address { .. })
            | (Keep::Gateway(_), Claim::Address { near: true, .. }) => Some((Way::Direct, false)),
            // That a node is the API server, or a name server, is nothing to complain about.
            (Keep::Lifeline(_), Claim::Address { .. }) => {
                Some((Way::Host, prefix::is_public(destination.addr())))
            }
            // The other container network has routes to these pods anyway.
            (Keep::Connected(_), Claim::Pods) if self.addon && !equal => None,
            (Keep::Connected(_), Claim::Address { near: true, .. }) => None,
            (Keep::Connected(_), _) if self.is_allowed(&destination) || (!equal && is_flat(&net)) => None,
            (Keep::Connected(_), Claim::Pods) => Some((Way::Out, true)),
            (Keep::Connected(_), _) => Some((if lone { Way::Host } else { Way::Out }, true)),
            (Keep::Route(_), Claim::Pods) if self.addon => None,
            (Keep::Route(_), _) => (equal && !self.is_allowed(&destination)).then_some((Way::Out, true)),
            (Keep::Services, _) => (!(range && self.is_allowed(&destination))).then_some((Way::Out, true)),
            (Keep::OwnPods, Claim::Pods) => equal.then_some((Way::Out, true)),
            (
                Keep::Endpoint(..)
                | Keep::Candidate(..)
                | Keep::Near(_)
                | Keep::Own
                | Keep::Lifeline(_)
                | Keep::Gateway(_)
                | Keep::OwnPods,
                _,
            ) => Some((Way::Out, true)),
        }
    }

    /// What the destination holds.
    fn inside(&self, destination: IpNet, claim: Claim) -> (Way, Option<Why<'_>>) {
        let mut holes: Vec<_> = self.kept.inside(destination).map(|(net, keep)| (*net, keep)).collect();
        if self.addon && claim == Claim::Pods {
            holes.retain(|(_, keep)| !matches!(keep, Keep::Route(_)));
        }
        if holes.is_empty() || claim == Claim::Here {
            return (Way::Mesh, None);
        }
        let way = match without(destination, holes.iter().map(|(net, _)| *net), MOST_HOLES) {
            Some(parts) => Way::Part(parts),
            None => Way::Out,
        };
        // Nobody who writes a wide range means these.
        holes.retain(|(_, keep)| **keep != Keep::Metadata);
        let why = (way == Way::Out || !holes.is_empty()).then_some(Why::Holds(holes));
        (way, why)
    }

    /// Whether something that the host has says anything about a destination. Whether another look at the host leads to
    /// another verdict is found by this.
    pub fn touches(&self, destination: IpNet) -> bool {
        self.kept.overlap(destination)
    }

    fn is_allowed(&self, destination: &IpNet) -> bool {
        self.allowed.iter().any(|allowed| allowed.contains(destination))
    }
}

fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Whether a range is wider than what is given to any one organisation: an /8 of IPv4, a /16 of IPv6, or all private
/// addresses of IPv6 (RFC 4193).
fn is_too_wide(net: &IpNet) -> bool {
    match net {
        IpNet::V4(v4) => v4.prefix_len() < 8,
        IpNet::V6(v6) => {
            v6.prefix_len() < 16 && !(v6.prefix_len() >= 7 && v6.addr().segments()[0] & 0xfe00 == 0xfc00)
        }
    }
}

/// Whether a network that the host is connected to is so wide that whoever chose it does not have neighbours in all of
/// it: 10.0.0.0/8 as the network mask of a LAN. Then smaller ranges in it are routed, as from a route of that width.
fn is_flat(net: &IpNet) -> bool {
    match Family::of_prefix(net) {
        Family::V4 => net.prefix_len() < 16,
        Family::V6 => net.prefix_len() < 48,
    }
}
