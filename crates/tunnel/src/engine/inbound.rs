//! The way in: from a datagram to an IP packet that its sender was allowed to send.
//!
//! Handshake messages are only queued here; data messages are opened in place.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::Guard;

use crate::clock::Moment;
use crate::drops::Drop;
use crate::ip::IpHeader;
use crate::message::{DATA_HEADER_SIZE, Message, word};
use crate::peer::{Endpoint, Peer, Traffic};
use crate::routing::Routes;
use crate::session::{Refused, Session};
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

/// Opens a burst of datagrams against one version of routes and sessions. What concerns a whole run of datagrams of one
/// session is done once for the run, at the latest when this value is dropped.
pub(crate) struct Inbound<'a> {
    engine: &'a Engine,
    indices: Guard<Arc<Trie<Indexed>>>,
    routes: Guard<Arc<Routes<Arc<Peer>>>>,
    now: Moment,
    run: Option<Run>,
}

/// Datagrams in a row for one session from one address.
struct Run {
    index: u32,
    source: Endpoint,
    peer: Arc<Peer>,
    session: Arc<Session>,
    /// Of authentic datagrams; zero when there was none yet.
    bytes: u64,
    has_data: bool,
}

impl Engine {
    /// Prepares for a burst of datagrams.
    pub(crate) fn inbound(&self, now: Moment) -> Inbound<'_> {
        Inbound { engine: self, indices: self.indices.load(), routes: self.routes.load(), now, run: None }
    }
}

impl Inbound<'_> {
    /// Takes in one datagram; what is wrong with it is counted.
    pub(crate) fn open(&mut self, source: &Endpoint, datagram: &mut [u8]) -> Opened {
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

    fn open_data(&mut self, source: &Endpoint, datagram: &mut [u8]) -> Result<Opened, Drop> {
        let index = word(datagram, 4);
        let goes_on = self.run.as_ref().is_some_and(|run| run.index == index && run.source == *source);
        if !goes_on {
            self.end_run();
            self.run = Some(self.begin_run(index, source)?);
        }
        let Some(run) = &mut self.run else { return Err(Drop::UnknownSession) };
        let bytes = datagram.len() as u64;
        let packet = run.session.open(datagram, self.now).map_err(|refused| match refused {
            Refused::Expired => Drop::UnknownSession,
            Refused::Forged => Drop::Forged,
            Refused::Replayed => Drop::Replayed,
        })?;
        if run.bytes == 0 {
            run.first_is_authentic(self.engine);
        }
        run.bytes += bytes;
        if packet.is_empty() {
            return Ok(Opened::Nothing);
        }
        run.has_data = true;
        let header = IpHeader::parse(packet).ok_or(Drop::BadPacket)?;
        match self.routes.lookup(header.source) {
            Some(owner) if Arc::ptr_eq(owner, &run.peer) => {
                Ok(Opened::Packet(DATA_HEADER_SIZE..DATA_HEADER_SIZE + header.length))
            }
            _ => Err(Drop::ForeignSource),
        }
    }

    fn begin_run(&self, index: u32, source: &Endpoint) -> Result<Run, Drop> {
        let Some(Indexed { peer, session: Some(session) }) = self.indices.get(key_of(index), 32) else {
            return Err(Drop::UnknownSession);
        };
        let (peer, session) = (peer.clone(), session.clone());
        Ok(Run { index, source: *source, peer, session, bytes: 0, has_data: false })
    }

    /// Accounts for the run.
    fn end_run(&mut self) {
        let Some(run) = self.run.take().filter(|run| run.bytes > 0) else { return };
        let traffic = Traffic { bytes: run.bytes, has_data: run.has_data };
        if run.peer.received(&run.session, traffic, self.now) {
            self.engine.want_initiation(&run.peer, self.now);
        }
    }
}

impl std::ops::Drop for Inbound<'_> {
    fn drop(&mut self) {
        self.end_run();
    }
}

impl Run {
    /// The peer is where this comes from, and it has the keys.
    fn first_is_authentic(&self, engine: &Engine) {
        self.peer.roam(&self.source);
        if !self.session.confirmed.load(Relaxed)
            && let Some(old) = self.peer.confirm(&self.session)
        {
            self.peer.timers.handshake_complete();
            engine.release(old);
            engine.add_job(Job::Confirmed(self.peer.clone()));
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
