//! The way in: from a datagram to an IP packet that its sender was allowed to send.
//!
//! Handshake messages are only queued here; data messages are opened in place.

use std::ops::Range;
use std::sync::Arc;

use arc_swap::Guard;

use crate::clock::Moment;
use crate::drops::Drop;
use crate::ip::IpHeader;
use crate::message::{DATA_HEADER_SIZE, Message, word};
use crate::peer::{Endpoint, Peer, Traffic};
use crate::routing::Routes;
use crate::session::Refused;
use crate::trie::Trie;

use super::{Engine, Indexed, Job, key_of};

/// Handshake messages waiting; more are dropped.
const MAX_WAITING_HANDSHAKES: usize = 4096;

/// What a datagram contained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opened {
    /// An IP packet, at this place in the datagram.
    Packet(Range<usize>),
    /// Nothing for the interface.
    Nothing,
}

/// Opens a burst of datagrams against one version of routes and sessions.
pub(crate) struct Inbound<'a> {
    engine: &'a Engine,
    indices: Guard<Arc<Trie<Indexed>>>,
    routes: Guard<Arc<Routes<Arc<Peer>>>>,
    now: Moment,
}

impl Engine {
    /// Prepares for a burst of datagrams.
    pub(crate) fn inbound(&self, now: Moment) -> Inbound<'_> {
        Inbound { engine: self, indices: self.indices.load(), routes: self.routes.load(), now }
    }
}

impl Inbound<'_> {
    /// Takes in one datagram; what is wrong with it is counted.
    pub(crate) fn open(&self, source: &Endpoint, datagram: &mut [u8]) -> Opened {
        if !self.engine.is_running() {
            return Opened::Nothing;
        }
        match Message::parse(datagram) {
            None => self.engine.drops.count(Drop::Malformed),
            Some(Message::Data) => match self.open_data(source, datagram) {
                Ok(opened) => return opened,
                Err(reason) => self.engine.drops.count(reason),
            },
            Some(_) => self.engine.queue_handshake(source, datagram),
        }
        Opened::Nothing
    }

    fn open_data(&self, source: &Endpoint, datagram: &mut [u8]) -> Result<Opened, Drop> {
        let Some(Indexed { peer, session: Some(session) }) = self.indices.get(key_of(word(datagram, 4)), 32)
        else {
            return Err(Drop::UnknownSession);
        };
        let bytes = datagram.len() as u64;
        let packet = session.open(datagram, self.now).map_err(|refused| match refused {
            Refused::Expired => Drop::UnknownSession,
            Refused::Forged => Drop::Forged,
            Refused::Replayed => Drop::Replayed,
        })?;
        peer.roam(source);
        if !session.confirmed.load(std::sync::atomic::Ordering::Relaxed)
            && let Some(old) = peer.confirm(session)
        {
            peer.timers.handshake_complete();
            self.engine.release(old);
            self.engine.add_job(Job::Confirmed(peer.clone()));
        }
        let traffic = Traffic { bytes, has_data: !packet.is_empty() };
        if peer.received(session, traffic, self.now) {
            self.engine.want_initiation(peer, self.now);
        }
        if packet.is_empty() {
            return Ok(Opened::Nothing);
        }
        let header = IpHeader::parse(packet).ok_or(Drop::BadPacket)?;
        match self.routes.lookup(header.source) {
            Some(owner) if Arc::ptr_eq(owner, peer) => {
                Ok(Opened::Packet(DATA_HEADER_SIZE..DATA_HEADER_SIZE + header.length))
            }
            _ => Err(Drop::ForeignSource),
        }
    }
}

impl Engine {
    fn queue_handshake(&self, source: &Endpoint, message: &[u8]) {
        {
            let mut jobs = crate::sync::lock(&self.jobs);
            if jobs.handshakes >= MAX_WAITING_HANDSHAKES {
                drop(jobs);
                self.drops.count(Drop::Handshake);
                return;
            }
            jobs.handshakes += 1;
            jobs.queue.push_back(Job::Handshake { source: *source, message: message.into() });
        }
        (self.bell)();
    }
}
