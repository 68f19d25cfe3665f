//! Which other Peers a client has tunnels to, and which of their ranges.
//!
//! The ranges of a node follow from what the cluster gives it and its operator says. Those of a Peer are written by whoever
//! may create Peers, so a client that takes them as they are would send any site of the Internet to any of its fellows.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use mesh::{Object, Problem, Topology, conf::ConfPeer, prefix::is_private};

/// So many ranges of one Peer are named.
const NAMED: usize = 8;

/// To which other Peers a client has tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OtherPeers {
    /// To all of them, for what of their ranges is private.
    #[default]
    All,
    /// To those with these names, for all of their ranges.
    Named(BTreeSet<String>),
}

impl OtherPeers {
    /// Leaves out the other Peers that are not meant, and the ranges that they do not get. `allowed` are those that they
    /// get anyway. Gives what is said about it.
    pub(super) fn admit(
        &self,
        peers: &mut Vec<ConfPeer>,
        topology: &Topology,
        allowed: &[IpNet],
    ) -> Vec<Problem> {
        let names: BTreeMap<_, _> = topology.peers.iter().map(|peer| (peer.key, &peer.name)).collect();
        let named = match self {
            Self::All => None,
            Self::Named(named) => Some(named),
        };
        let mut problems = Vec::new();
        peers.retain_mut(|peer| match (names.get(&peer.key), named) {
            (None, _) => true,
            (Some(name), Some(named)) => named.contains(*name),
            (Some(name), None) => {
                problems.extend(keep_private(peer, name, allowed));
                true
            }
        });
        problems
    }
}

fn keep_private(peer: &mut ConfPeer, name: &str, allowed: &[IpNet]) -> Option<Problem> {
    let is_granted = |range: &IpNet| is_private(range) || allowed.iter().any(|net| net.contains(range));
    let (kept, public): (Vec<_>, Vec<_>) = peer.allowed_ips.iter().map(IpNet::trunc).partition(is_granted);
    if public.is_empty() {
        return None;
    }
    peer.allowed_ips = kept;
    let mut list: Vec<String> = public.iter().take(NAMED).map(IpNet::to_string).collect();
    if public.len() > NAMED {
        list.push(format!("and {} more", public.len() - NAMED));
    }
    let message = format!(
        "not routed to this Peer from this host, because public addresses are not given to other Peers unasked: {}; if \
         they are the Peer's, connect with --peers={name} (and the names of others that you need) or with \
         --allow-host-routes",
        list.join(", ")
    );
    Some(Problem::new(Object::Peer(name.to_owned()), "PublicRangeNotRouted", message))
}
