//! The way in: from a datagram to an IP packet that its sender was allowed to send.
//!
//! Handshake messages are only queued here; data messages are opened in place.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::Guard;

use crate::cipher::BATCH;
use crate::clock::Moment;
use crate::drops::Drop;
use crate::ecn::Ecn;
use crate::ip::IpHeader;
use crate::message::{DATA_HEADER_SIZE, Message, TAG_SIZE, word};
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

/// Datagrams that arrived in one piece.
#[derive(Debug, Clone)]
pub(crate) struct Datagrams {
    /// Where they are in the buffer.
    pub(crate) place: Range<usize>,
    /// Bytes of each but the last, which may be shorter.
    pub(crate) segment: usize,
    /// What the network says about all of them.
    pub(crate) ecn: Ecn,
}

impl Datagrams {
    fn iter(&self) -> impl Iterator<Item = Range<usize>> {
        let (end, segment) = (self.place.end, self.segment.max(1));
        self.place.clone().step_by(segment).map(move |start| start..end.min(start + segment))
    }
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
        let mut opened = Opened::Nothing;
        let all = Datagrams { place: 0..datagram.len(), segment: datagram.len(), ecn: Ecn::NotCapable };
        self.open_all(source, datagram, &all, |_, place| opened = Opened::Packet(place));
        opened
    }

    /// Takes in datagrams that arrived in one piece and hands over the packets in them, in order, as places in the
    /// buffer. What is wrong is counted.
    pub(crate) fn open_all(
        &mut self,
        source: &Endpoint,
        buffer: &mut [u8],
        datagrams: &Datagrams,
        mut deliver: impl FnMut(&[u8], Range<usize>),
    ) {
        if !self.engine.is_running() {
            return;
        }
        let mut places = [const { 0..0 }; BATCH];
        let mut waiting = 0;
        for place in datagrams.iter() {
            let datagram = &buffer[place.clone()];
            match Message::parse(datagram) {
                None => self.engine.drops.count(Drop::Malformed),
                Some(Message::Data) => {
                    let index = word(datagram, 4);
                    if !self.run.as_ref().is_some_and(|run| run.index == index && run.source == *source) {
                        self.open_waiting(buffer, &places[..waiting], datagrams.ecn, &mut deliver);
                        waiting = 0;
                        self.end_run();
                        match self.begin_run(index, source) {
                            Ok(run) => self.run = Some(run),
                            Err(reason) => {
                                self.engine.drops.count(reason);
                                continue;
                            }
                        }
                    }
                    places[waiting] = place;
                    waiting += 1;
                    if waiting == BATCH {
                        self.open_waiting(buffer, &places, datagrams.ecn, &mut deliver);
                        waiting = 0;
                    }
                }
                Some(_) => self.engine.queue_handshake(source, datagram),
            }
        }
        self.open_waiting(buffer, &places[..waiting], datagrams.ecn, &mut deliver);
    }

    /// Opens data messages of the current run.
    fn open_waiting(
        &mut self,
        buffer: &mut [u8],
        places: &[Range<usize>],
        ecn: Ecn,
        deliver: &mut impl FnMut(&[u8], Range<usize>),
    ) {
        let Some(run) = self.run.as_mut().filter(|_| !places.is_empty()) else { return };
        let results = run.session.open(buffer, places, self.now);
        for (place, result) in places.iter().zip(results) {
            let packet = match result {
                Ok(()) => {
                    run.account(self.engine, place.len());
                    let inside = place.start + DATA_HEADER_SIZE..place.end - TAG_SIZE;
                    if inside.is_empty() {
                        continue;
                    }
                    run.accept(&self.routes, &mut buffer[inside.clone()], ecn)
                        .map(|length| inside.start..inside.start + length)
                }
                Err(Refused::Expired) => Err(Drop::UnknownSession),
                Err(Refused::Forged) => Err(Drop::Forged),
                Err(Refused::Replayed) => Err(Drop::Replayed),
            };
            match packet {
                Ok(packet) => deliver(buffer, packet),
                Err(reason) => self.engine.drops.count(reason),
            }
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
    /// An authentic datagram has arrived.
    fn account(&mut self, engine: &Engine, bytes: usize) {
        if self.bytes == 0 {
            self.first_is_authentic(engine);
        }
        self.bytes += bytes as u64;
    }

    /// Checks that the packet is one its sender may send, and returns its length without padding.
    fn accept(&mut self, routes: &Routes<Arc<Peer>>, packet: &mut [u8], ecn: Ecn) -> Result<usize, Drop> {
        self.has_data = true;
        let header = IpHeader::parse(packet).ok_or(Drop::BadPacket)?;
        if !routes.lookup(header.source).is_some_and(|owner| Arc::ptr_eq(owner, &self.peer)) {
            return Err(Drop::ForeignSource);
        }
        if !ecn.decapsulate(&mut packet[..header.length]) {
            return Err(Drop::Congestion);
        }
        Ok(header.length)
    }

    /// The peer is where this comes from, and it has the keys.
    fn first_is_authentic(&self, engine: &Engine) {
        engine.roam(&self.peer, &self.source);
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
