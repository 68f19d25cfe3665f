//! Where the peers are, all of them together: what our own datagrams are known by when they come back.
//!
//! Every change of a peer's endpoint passes here. The lock is held for moments, when a peer moves, and when a UDP packet
//! from our own port comes out of the interface; no other packet meets it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use crate::peer::{Endpoint, Peer};
use crate::sync::lock;

use super::Engine;

/// How many peers are at an address and port: two behind one NAT may take turns there.
#[derive(Default)]
pub(super) struct Endpoints(Mutex<HashMap<(IpAddr, u16), usize>>);

impl Engine {
    /// The UDP port that our datagrams come from.
    pub(crate) fn set_port(&self, port: u16) {
        self.port.store(port, Relaxed);
    }

    /// Whether a datagram from this port to there is one that this device sends.
    pub(crate) fn sends(&self, from: u16, to: (IpAddr, u16)) -> bool {
        from == self.port.load(Relaxed) && lock(&self.endpoints.0).contains_key(&to)
    }

    /// Follows the peer to the address an authenticated datagram came from.
    pub(super) fn roam(&self, peer: &Peer, source: &Endpoint) {
        if peer.endpoint.load().as_deref() != Some(source) {
            self.locate(peer, Some(*source));
        }
    }

    /// Forgets which address of ours to send from, as when the peer stops answering there.
    pub(super) fn clear_local_address(&self, peer: &Peer) {
        if let Some(endpoint) = peer.endpoint.load_full()
            && endpoint.local.is_some()
        {
            self.locate(peer, Some(Endpoint::from(endpoint.address)));
        }
    }

    /// Sets where a peer is. One that was removed is nowhere, also when a datagram of it was still on its way.
    pub(super) fn locate(&self, peer: &Peer, endpoint: Option<Endpoint>) {
        let mut known = lock(&self.endpoints.0);
        let endpoint = endpoint.filter(|_| !peer.removed.load(Relaxed));
        if let Some(endpoint) = &endpoint {
            *known.entry(place(endpoint.address)).or_default() += 1;
        }
        let Some(old) = peer.endpoint.swap(endpoint.map(Arc::new)) else { return };
        if let Some(count) = known.get_mut(&place(old.address)) {
            *count -= 1;
            if *count == 0 {
                known.remove(&place(old.address));
            }
        }
    }
}

/// What a packet tells of an address.
fn place(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}
