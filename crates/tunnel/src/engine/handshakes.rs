//! Handshakes and timers: everything that costs a Diffie-Hellman or waits for a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::clock::{Moment, Now};
use crate::drops::Drop;
use crate::message::{COOKIE_REPLY_SIZE, INITIATION_SIZE, Message, RESPONSE_SIZE, word};
use crate::noise::{self, Parties, Timestamp};
use crate::peer::{Endpoint, Peer};
use crate::session::{Role, Session};
use crate::sync::lock;
use crate::timers::Due;

use super::limits::Verdict;
use super::{Carrier, Engine, Indexed, Job, Outbox, key_of};

/// An initiator may try this often; faster ones are taken for a flood of replays.
const MIN_INITIATION_INTERVAL: Duration = Duration::from_millis(20);
/// Jobs done before the caller looks at its timers again.
const JOBS_AT_ONCE: usize = 64;

impl Engine {
    /// Does waiting jobs; true when some are left.
    pub(crate) fn handle_jobs(&self, now: Now, out: &mut Outbox) -> bool {
        for _ in 0..JOBS_AT_ONCE {
            let (job, waiting) = {
                let mut jobs = lock(&self.jobs);
                let Some(job) = jobs.queue.pop_front() else { return false };
                let waiting = jobs.handshakes;
                if matches!(job, Job::Handshake { .. }) {
                    jobs.handshakes -= 1;
                }
                (job, waiting)
            };
            if !self.is_running() {
                continue;
            }
            match job {
                Job::Handshake { source, message } => {
                    self.handle_handshake(source, &message, waiting, now, out);
                }
                Job::Initiate(peer) => {
                    peer.wants_initiation.store(false, Relaxed);
                    self.initiate(&peer, now, false, out);
                }
                Job::Confirmed(peer) => {
                    peer.last_handshake.store(now.wall.as_nanos() as u64, Relaxed);
                    self.flush(&peer, now.moment, out);
                }
                Job::Flush(peer) => self.flush(&peer, now.moment, out),
                Job::Keepalive(peer) => self.keepalive(&peer, now, out),
            }
        }
        true
    }

    /// Does what is due for every peer.
    pub(crate) fn handle_timers(&self, now: Now, out: &mut Outbox) {
        if !self.is_running() {
            return;
        }
        let ready: Vec<Arc<Peer>> = {
            let registry = lock(&self.registry);
            let peers = registry.values().map(|entry| &entry.peer);
            peers.filter(|peer| peer.timers.next() <= now.moment).cloned().collect()
        };
        for peer in ready {
            for due in peer.timers.take_due(now.moment) {
                match due {
                    Due::Retry => {
                        peer.clear_local_address();
                        self.initiate(&peer, now, true, out);
                    }
                    Due::Handshake => {
                        peer.clear_local_address();
                        self.initiate(&peer, now, false, out);
                    }
                    Due::GiveUp => self.drops.add(Drop::NoSession, peer.take_staged().len() as u64),
                    Due::Keepalive => self.keepalive(&peer, now, out),
                    Due::ForgetKeys => self.release(peer.forget_keys()),
                }
            }
        }
    }

    /// Sends an initiation, unless one was sent a moment ago.
    fn initiate(&self, peer: &Arc<Peer>, now: Now, is_retry: bool, out: &mut Outbox) {
        let identity = self.identity.load();
        let (Some(private), Some(endpoint)) = (&identity.private, peer.endpoint.load_full()) else { return };
        if peer.removed.load(Relaxed) || !peer.timers.may_initiate(now.moment) {
            return;
        }
        peer.timers.initiation_sent(now.moment, is_retry);
        let mut handshake = lock(&peer.handshake);
        let index = self.bind_index(|_| Indexed { peer: peer.clone(), session: None });
        let parties = Parties {
            private,
            public: &identity.public,
            remote: &peer.key,
            shared: &handshake.shared,
            preshared: &handshake.preshared,
        };
        let Some((initiated, mut message)) = noise::initiate(&parties, index, timestamp(now.wall)) else {
            self.release(vec![index]);
            return;
        };
        let old = handshake.initiated.replace(initiated);
        self.release(old.iter().map(|old| old.index).collect());
        handshake.cookie.stamp(&peer.macs, &mut message, now.moment);
        drop(handshake);
        tracing::debug!(peer = %peer.key, endpoint = %endpoint.address, "sending a handshake initiation");
        self.send_handshake(peer, &endpoint, message.to_vec(), now.moment, out);
    }

    fn send_handshake(&self, peer: &Peer, to: &Endpoint, message: Vec<u8>, now: Moment, out: &mut Outbox) {
        peer.sent_bytes.fetch_add(message.len() as u64, Relaxed);
        peer.timers.packet_sent(now);
        out.push((*to, message));
    }

    fn handle_handshake(&self, source: Endpoint, bytes: &[u8], waiting: usize, now: Now, out: &mut Outbox) {
        let identity = self.identity.load_full();
        let handled = match Message::parse(bytes) {
            Some(Message::CookieReply(reply)) => self.accept_cookie(reply, now.moment),
            Some(Message::Initiation(_) | Message::Response(_)) if !identity.macs.mac1_fits(bytes) => None,
            Some(message) => {
                let verdict =
                    lock(&self.limits).judge(&identity.macs, bytes, source.address, waiting, now.moment);
                match (verdict, message) {
                    (Verdict::Process, Message::Initiation(bytes)) => {
                        self.accept_initiation(source, bytes, now, out)
                    }
                    (Verdict::Process, Message::Response(bytes)) => {
                        self.accept_response(source, bytes, now, out)
                    }
                    (Verdict::Cookie(reply), _) => {
                        out.push((source, reply));
                        Some(())
                    }
                    _ => None,
                }
            }
            None => None,
        };
        if handled.is_none() {
            self.drops.count(Drop::Handshake);
        }
    }

    fn accept_cookie(&self, reply: &[u8; COOKIE_REPLY_SIZE], now: Moment) -> Option<()> {
        let indices = self.indices.load();
        let peer = &indices.get(key_of(word(reply, 4)), 32)?.peer;
        lock(&peer.handshake).cookie.accept(&peer.macs, reply, now).then_some(())
    }

    fn accept_initiation(
        &self,
        source: Endpoint,
        bytes: &[u8; INITIATION_SIZE],
        now: Now,
        out: &mut Outbox,
    ) -> Option<()> {
        let identity = self.identity.load();
        let private = identity.private.as_ref()?;
        let identified = noise::identify(private, &identity.public, bytes)?;
        let peer = lock(&self.registry).get(&identified.remote)?.peer.clone();
        let mut handshake = lock(&peer.handshake);
        let received = noise::receive(identified, &handshake.shared)?;
        if handshake.last_timestamp.is_some_and(|last| received.timestamp <= last)
            || handshake.last_received.is_some_and(|at| now.moment.since(at) < MIN_INITIATION_INTERVAL)
        {
            return None;
        }
        handshake.last_timestamp = Some(received.timestamp);
        handshake.last_received = Some(now.moment);
        let parties = Parties {
            private,
            public: &identity.public,
            remote: &peer.key,
            shared: &handshake.shared,
            preshared: &handshake.preshared,
        };
        let index = self.bind_index(|_| Indexed { peer: peer.clone(), session: None });
        let Some((keys, mut message)) = noise::respond(&parties, received, index) else {
            self.release(vec![index]);
            return None;
        };
        handshake.cookie.stamp(&peer.macs, &mut message, now.moment);
        drop(handshake);
        tracing::debug!(peer = %peer.key, endpoint = %source.address, "answering a handshake initiation");
        peer.received_bytes.fetch_add(INITIATION_SIZE as u64, Relaxed);
        peer.roam(&source);
        peer.timers.packet_received(now.moment);
        self.install(&peer, Session::new(index, Role::Responder, &keys, now.moment), now.moment);
        self.send_handshake(&peer, &source, message.to_vec(), now.moment, out);
        Some(())
    }

    fn accept_response(
        &self,
        source: Endpoint,
        bytes: &[u8; RESPONSE_SIZE],
        now: Now,
        out: &mut Outbox,
    ) -> Option<()> {
        let index = word(bytes, 8);
        let peer = self.indices.load().get(key_of(index), 32)?.peer.clone();
        let identity = self.identity.load();
        let private = identity.private.as_ref()?;
        let mut handshake = lock(&peer.handshake);
        let initiated = handshake.initiated.take_if(|initiated| initiated.index == index)?;
        let parties = Parties {
            private,
            public: &identity.public,
            remote: &peer.key,
            shared: &handshake.shared,
            preshared: &handshake.preshared,
        };
        let Some(keys) = noise::finish(&initiated, &parties, bytes) else {
            // Somebody else's answer must not end the handshake: the right one may still come.
            handshake.initiated = Some(initiated);
            return None;
        };
        drop(handshake);
        peer.received_bytes.fetch_add(RESPONSE_SIZE as u64, Relaxed);
        peer.roam(&source);
        peer.timers.packet_received(now.moment);
        peer.timers.handshake_complete();
        self.install(&peer, Session::new(index, Role::Initiator, &keys, now.moment), now.moment);
        peer.last_handshake.store(now.wall.as_nanos() as u64, Relaxed);
        tracing::debug!(peer = %peer.key, endpoint = %source.address, "handshake finished");
        if peer.has_staged() {
            self.flush(&peer, now.moment, out);
        } else {
            // The responder may not send before it has heard from us under the new keys.
            self.keepalive(&peer, now, out);
        }
        Some(())
    }

    /// Binds a session to its index and takes it into use.
    fn install(&self, peer: &Arc<Peer>, session: Session, now: Moment) {
        let session = Arc::new(session);
        let entry = Indexed { peer: peer.clone(), session: Some(session.clone()) };
        self.rebind_index(session.local_index, &entry);
        self.release(peer.install(session, now));
        if peer.removed.load(Relaxed) {
            // Removed while the handshake was computed: leave nothing behind.
            self.release(peer.forget_keys());
        }
    }

    /// Sends what waited for a session; asks for one when there is none.
    fn flush(&self, peer: &Arc<Peer>, now: Moment, out: &mut Outbox) {
        let Some(endpoint) = peer.endpoint.load_full() else { return };
        let Some(session) = peer.session(now) else {
            self.want_initiation(peer, now);
            return;
        };
        let carrier = Carrier { peer: peer.clone(), session, endpoint };
        for packet in peer.take_staged() {
            self.seal_one(&carrier, &packet, now, out);
        }
    }

    /// Sends an empty packet, or an initiation when there is no session.
    fn keepalive(&self, peer: &Arc<Peer>, now: Now, out: &mut Outbox) {
        let Some(endpoint) = peer.endpoint.load_full() else { return };
        match peer.session(now.moment) {
            Some(session) => {
                let carrier = Carrier { peer: peer.clone(), session, endpoint };
                self.seal_one(&carrier, &[], now.moment, out);
            }
            None => self.initiate(peer, now, false, out),
        }
    }
}

/// TAI64N, with the lower bits cut off so that handshakes do not tell the exact time.
fn timestamp(wall: Duration) -> Timestamp {
    const TAI_BASE: u64 = (1 << 62) + 10;
    const WHITENED: u32 = !((1 << 24) - 1);
    let mut out = [0; 12];
    out[..8].copy_from_slice(&(TAI_BASE + wall.as_secs()).to_be_bytes());
    out[8..].copy_from_slice(&(wall.subsec_nanos() & WHITENED).to_be_bytes());
    out
}
