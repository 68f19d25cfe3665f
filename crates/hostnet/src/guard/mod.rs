//! Which destinations may be routed through the mesh on this host, and which stay as the host has them.
//!
//! Routes of the mesh are looked up before the host's own, so a route too many takes something away from the host: its
//! neighbours, its way to the API server, the way of the tunnels themselves. Objects that anybody writes decide what is
//! in the mesh; the guard decides what of it this host follows. It leaves out what the host has or depends on, says so,
//! and lets the rest through. Agents and clients ask the same guard.

mod keep;
mod nets;
mod report;
mod verdict;
mod width;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use mesh::{PublicKey, overlap::Nets};

pub use keep::{Keep, Lifeline};
pub use report::Report;

use nets::without;
use verdict::{Destination, Verdict, is_hole_for_range, of_address, of_own_range, of_pods, of_range};

/// A range is routed around what it holds of the host as long as there is no more of it than this: every one costs up to
/// 32 routes, of IPv6 128.
const MOST_HOLES: usize = 128;

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
    /// It is the address where its tunnel ends. The host reaches it without the tunnel, pods through it.
    TunnelEnd,
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
        self.share(destination, matches!(self, Self::Mesh | Self::Direct | Self::TunnelEnd | Self::Host))
    }

    /// What of a destination counts as a part of the mesh.
    pub fn meshed(&self, destination: IpNet) -> impl Iterator<Item = IpNet> {
        self.share(destination, matches!(self, Self::Mesh | Self::Direct | Self::TunnelEnd))
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
    /// It is so wide together with others.
    TooMuch,
}

/// What the host keeps.
#[derive(Debug, Clone)]
pub struct Guard {
    kept: Nets<Keep>,
    /// What nodes have: nobody gets it by writing it into an object.
    mesh: Nets<Keep>,
    /// All ranges that objects ask for.
    written: Nets<()>,
    /// Those that take too much together.
    too_much: BTreeSet<IpNet>,
    /// Ranges that the operator of this host gives to the mesh.
    allowed: Vec<IpNet>,
    /// The addresses by which the host is known in its location.
    home: Vec<IpAddr>,
    /// Whether another container network has routes to pods as well.
    addon: bool,
    /// Where sessions of tunnels are seen to end.
    seen: BTreeSet<(PublicKey, IpAddr)>,
}

/// What a guard knows.
#[derive(Debug, Default)]
pub struct Known {
    /// What the host has and depends on.
    pub kept: Vec<(IpNet, Keep)>,
    /// What nodes have, as far as it has an address in common with what is written or with nodes' addresses.
    pub mesh: Vec<(IpNet, Keep)>,
    /// All ranges that objects ask for, each with the number of its object.
    pub written: Vec<(IpNet, usize)>,
    /// Ranges that the operator of this host gives to the mesh although the host has routes to them.
    pub allowed: Vec<IpNet>,
    /// The addresses by which the host is known in its location.
    pub home: Vec<IpAddr>,
    /// Whether another container network has routes to the same pods, which ours are to come before.
    pub addon: bool,
    /// Where sessions of tunnels are seen to end: proof that the node with the key has the address.
    pub seen: BTreeSet<(PublicKey, IpAddr)>,
}

impl Guard {
    /// A guard that knows this.
    pub fn new(known: Known) -> Self {
        let Known { kept, mesh, written, allowed, home, addon, seen } = known;
        let is_network = |keep: &Keep| matches!(keep, Keep::Connected(_) | Keep::Route(_));
        let networks = kept.iter().filter(|(_, keep)| is_network(keep)).map(|(net, _)| net.trunc());
        let too_much = width::too_much(&written, networks);
        let written = Nets::of(written.into_iter().map(|(net, _)| (net, ())));
        let kept = Nets::of(kept.into_iter().chain(keep::everywhere()));
        Self { kept, mesh: Nets::of(mesh.into_iter()), written, too_much, allowed, home, addon, seen }
    }

    /// What becomes of a destination without host bits, and why, if that is to be told.
    pub fn judge(&self, destination: IpNet, claim: Claim) -> (Way, Option<Why<'_>>) {
        self.judge_as(destination, claim, self.is_allowed(&destination))
    }

    /// Whether the mesh would have something of a destination if the operator of this host gave it to the mesh.
    pub fn would_route_if_allowed(&self, destination: IpNet, claim: Claim) -> bool {
        !matches!(self.judge_as(destination, claim, true).0, Way::Out | Way::Host)
    }

    fn judge_as(&self, destination: IpNet, claim: Claim, allowed: bool) -> (Way, Option<Why<'_>>) {
        if width::is_too_wide(&destination) && !allowed {
            return (Way::Out, Some(Why::TooWide));
        }
        let strictest = self.around(destination, claim, allowed).max_by_key(|(verdict, ..)| *verdict);
        let is = |net: &IpNet, keep| Some(Why::Is(*net, keep));
        match strictest {
            Some((Verdict::Out, net, keep)) => (Way::Out, is(net, keep)),
            Some((Verdict::Host, net, keep)) => (Way::Host, is(net, keep)),
            Some((Verdict::Known, ..)) => (Way::Host, None),
            Some((Verdict::TunnelEnd, ..)) => (Way::TunnelEnd, None),
            Some((Verdict::Direct, ..)) => (Way::Direct, None),
            Some((Verdict::Pass, ..)) | None => {
                let written = matches!(claim, Claim::Range(_));
                if written && !allowed && self.too_much.contains(&destination) {
                    return (Way::Out, Some(Why::TooMuch));
                }
                self.inside(destination, claim)
            }
        }
    }

    /// What is said by all that surrounds a destination or is equal to it. The host at the end of a tunnel knows why it is
    /// in a network of this host.
    fn around(
        &self,
        net: IpNet,
        claim: Claim,
        allowed: bool,
    ) -> impl Iterator<Item = (Verdict, &IpNet, &Keep)> {
        let kept = self.kept.around(net).chain(self.mesh.around(net));
        let verdicts = kept.map(move |(within, keep)| {
            let at = Destination { net, within: *within, allowed };
            let verdict = match claim {
                Claim::Range(tunnel) => of_range(at, tunnel, keep),
                Claim::Pods => of_pods(at, self, keep),
                Claim::Address { near, tunnel } => of_address(at, near, tunnel, self, keep),
                Claim::Here => of_own_range(at, keep),
            };
            (verdict, within, keep)
        });
        let mut verdicts: Vec<_> = verdicts.collect();
        // What is in a network of this host may be a neighbour: pods keep the host's way to it, as the host does.
        if verdicts.iter().any(|(verdict, ..)| *verdict == Verdict::Host) {
            let ends = verdicts.iter_mut().filter(|(verdict, ..)| *verdict == Verdict::TunnelEnd);
            ends.for_each(|(verdict, ..)| *verdict = Verdict::Direct);
        }
        let is_known =
            |verdict: &Verdict| matches!(verdict, Verdict::Known | Verdict::Direct | Verdict::TunnelEnd);
        let known = verdicts.iter().any(|(verdict, ..)| is_known(verdict));
        // A neighbour is where it is, whatever somebody says of his pods.
        let neighbour = matches!(claim, Claim::Address { near: true, .. })
            && verdicts.iter().any(|(_, net, keep)| matches!(keep, Keep::Connected(_)) && self.is_home(net));
        verdicts.into_iter().filter(move |(verdict, _, keep)| {
            let overruled = known && *verdict == Verdict::Host;
            let only_said = neighbour && matches!(keep, Keep::Pods(_));
            !overruled && !only_said
        })
    }

    /// What the destination holds.
    fn inside(&self, destination: IpNet, claim: Claim) -> (Way, Option<Why<'_>>) {
        let is_hole = |net: &IpNet, keep: &Keep| match claim {
            // Another container network's routes to pods are not the way there, the mesh's are.
            Claim::Range(_) if matches!(keep, Keep::Route(_)) && self.addon => !self.is_pods(*net),
            Claim::Range(_) => is_hole_for_range(net, keep),
            Claim::Pods => {
                let at = Destination { net: *net, within: *net, allowed: false };
                of_pods(at, self, keep) != Verdict::Pass
            }
            Claim::Address { .. } | Claim::Here => false,
        };
        let holes = self.kept.inside(destination).iter().map(|(net, keep)| (*net, keep));
        let mut holes: Vec<_> = holes.filter(|(net, keep)| is_hole(net, keep)).collect();
        if holes.is_empty() {
            return (Way::Mesh, None);
        }
        let nets = |holes: &[(IpNet, &Keep)]| holes.iter().map(|(net, _)| *net).collect::<Vec<_>>();
        let parts = without(destination, nets(&holes).into_iter(), MOST_HOLES).or_else(|| {
            // The tunnels' own packets do not ask this table, so where they end can do without a way around.
            holes.retain(|(_, keep)| !matches!(keep, Keep::Endpoint(..) | Keep::Candidate(..)));
            without(destination, nets(&holes).into_iter(), MOST_HOLES)
        });
        let way = match parts {
            Some(mut parts) => {
                parts.retain(|part| self.is_free(*part, destination, claim));
                Way::Part(parts)
            }
            None => Way::Out,
        };
        // Nobody who writes a wide range means these.
        holes.retain(|(_, keep)| **keep != Keep::Metadata);
        let why = (way == Way::Out || !holes.is_empty()).then_some(Why::Holds(holes));
        (way, why)
    }

    /// Whether there is anything to say about a destination of a node. If not, it is routed as it is.
    pub fn touches(&self, destination: IpNet) -> bool {
        self.kept.overlap(destination) || self.mesh.overlap(destination) || width::is_too_wide(&destination)
    }

    /// Whether a part of a range is neither what a node has nor what a narrower range asks for.
    fn is_free(&self, part: IpNet, of: IpNet, claim: Claim) -> bool {
        let wider = |(net, ()): &(IpNet, ())| net.prefix_len() <= of.prefix_len();
        !matches!(claim, Claim::Range(_))
            || (self.mesh.around(part).next().is_none() && self.written.around(part).all(wider))
    }

    fn is_pods(&self, net: IpNet) -> bool {
        self.mesh.around(net).any(|(_, keep)| matches!(keep, Keep::Pods(_)))
    }

    fn is_home(&self, network: &IpNet) -> bool {
        self.home.iter().any(|address| network.contains(address))
    }

    /// Whether a network of the host is a large private one that other locations are parts of, too. The address of a node
    /// in it is the node's.
    fn is_shared(&self, network: &IpNet) -> bool {
        width::is_shared(network) && self.is_home(network)
    }

    /// Whether the node with this key was seen at a single address.
    fn is_seen(&self, key: PublicKey, address: &IpNet) -> bool {
        self.seen.contains(&(key, address.addr()))
    }

    fn is_allowed(&self, destination: &IpNet) -> bool {
        self.allowed.iter().any(|allowed| allowed.contains(destination))
    }
}
