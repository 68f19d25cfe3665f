//! The way out: from the destination of a packet to the session that carries it.
//!
//! Cutting, padding and sealing many packets at once is the worker's business; it asks here once per burst.

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Moment;
use crate::drops::Drop;
#[cfg(test)]
use crate::ip::IpHeader;
use crate::ip::padded;
#[cfg(test)]
use crate::looping::LoopGuard;
use crate::message::{DATA_HEADER_SIZE, DATA_OVERHEAD};
use crate::peer::{Endpoint, Peer, Traffic};
use crate::session::Session;

use super::{Engine, Outbox};

/// What carries packets to a peer right now.
pub(crate) struct Carrier {
    pub(crate) peer: Arc<Peer>,
    pub(crate) session: Arc<Session>,
    pub(crate) endpoint: Arc<Endpoint>,
}

/// Why packets cannot go out at once.
pub(crate) enum NoCarrier {
    /// They were or will be dropped, and counted for this reason.
    Drop(Drop),
    /// There is no session yet; one has been asked for, and the packets may be staged with the peer.
    Stage(Arc<Peer>),
}

impl Engine {
    /// The peer for a destination.
    pub(crate) fn peer_for(&self, destination: IpAddr) -> Option<Arc<Peer>> {
        self.routes.load().lookup(destination).cloned()
    }

    /// What carries packets to this destination.
    pub(crate) fn carrier(&self, destination: IpAddr, now: Moment) -> Result<Carrier, NoCarrier> {
        let peer = self.peer_for(destination).ok_or(NoCarrier::Drop(Drop::NoPeer))?;
        let endpoint = peer.endpoint.load_full().ok_or(NoCarrier::Drop(Drop::NoEndpoint))?;
        match peer.session(now) {
            Some(session) => Ok(Carrier { peer, session, endpoint }),
            None => {
                self.want_initiation(&peer, now);
                Err(NoCarrier::Stage(peer))
            }
        }
    }

    /// Keeps a packet until the peer has a session.
    pub(crate) fn stage(&self, peer: &Peer, packet: &[u8]) {
        if !peer.stage(packet) {
            self.drops.count(Drop::NoSession);
        }
    }

    /// Accounts for what a carrier has sealed, and asks for new keys when they are due.
    pub(crate) fn sent(&self, carrier: &Carrier, traffic: Traffic, now: Moment) {
        if carrier.peer.sent(&carrier.session, traffic, now) {
            self.want_initiation(&carrier.peer, now);
        }
    }

    /// Sends one IP packet: the slow and simple way, for tests.
    #[cfg(test)]
    pub(crate) fn handle_packet(&self, packet: &[u8], now: Moment, out: &mut Outbox) {
        let Some(header) = IpHeader::parse(packet) else {
            self.drops.count(Drop::NotIp);
            return;
        };
        if LoopGuard::default().catches(&header, packet, |from, to| self.sends(from, to)) {
            self.drops.count(Drop::Looped);
            return;
        }
        match self.carrier(header.destination, now) {
            Ok(carrier) => self.seal_one(&carrier, packet, now, out),
            Err(NoCarrier::Stage(peer)) => self.stage(&peer, packet),
            Err(NoCarrier::Drop(reason)) => self.drops.count(reason),
        }
    }

    /// Seals one packet (or, when it is empty, a keepalive).
    pub(crate) fn seal_one(&self, carrier: &Carrier, packet: &[u8], now: Moment, out: &mut Outbox) {
        let mut message = vec![0; padded(packet.len(), self.mtu()) + DATA_OVERHEAD];
        message[DATA_HEADER_SIZE..DATA_HEADER_SIZE + packet.len()].copy_from_slice(packet);
        let place = 0..message.len();
        if !carrier.session.seal(&mut message, std::slice::from_ref(&place)) {
            self.drops.count(Drop::NoSession);
            return;
        }
        let traffic = Traffic { bytes: message.len() as u64, has_data: !packet.is_empty() };
        out.push((*carrier.endpoint, message));
        self.sent(carrier, traffic, now);
    }
}
