//! Which endpoints are set and which learned ones are kept.
//!
//! WireGuard learns where a peer is from the peer's packets. Setting the endpoint again on every look would throw
//! that away and cut off whoever is behind NAT; never setting it would ignore an operator who moves a node.

use std::{collections::BTreeMap, net::SocketAddr};

use hostnet::{Handshake, Wireguard};
use mesh::PublicKey;

/// The endpoints that were asked for last.
#[derive(Debug, Default)]
pub struct Endpoints {
    intended: BTreeMap<PublicKey, SocketAddr>,
}

impl Endpoints {
    /// Takes back from a desired configuration the endpoints that should stay as they are: those of peers with a
    /// live session, unless what is asked for has changed since the last time. After a restart there is no last
    /// time, and a live session is proof enough.
    pub fn keep_learned(&self, desired: &mut Wireguard, handshakes: &BTreeMap<PublicKey, Handshake>) {
        for (key, peer) in &mut desired.peers {
            let changed =
                self.intended.get(key).is_some_and(|before| peer.endpoint.is_some_and(|now| now != *before));
            let alive = handshakes.get(key).is_some_and(|handshake| handshake.is_alive());
            if alive && !changed {
                peer.endpoint = None;
            }
        }
    }

    /// Remembers what was asked for, once it has been applied.
    pub fn remember(&mut self, asked: BTreeMap<PublicKey, SocketAddr>) {
        self.intended = asked;
    }
}

/// What a configuration asks for.
pub fn asked(desired: &Wireguard) -> BTreeMap<PublicKey, SocketAddr> {
    desired.peers.iter().filter_map(|(key, peer)| Some((*key, peer.endpoint?))).collect()
}
