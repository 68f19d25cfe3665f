//! Handshakes and timers: everything that costs a Diffie-Hellman or waits for a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use crate::cipher::Cipher;
use crate::clock::{Moment, Now};
use crate::drops::Drop;
use crate::key::PrivateKey;
use crate::message::{COOKIE_REPLY_SIZE, INITIATION_SIZE, Message, RESPONSE_SIZE, word};
use crate::noise::{self, Parties, TransportKeys};
use crate::peer::{Endpoint, Peer, Secrets};
use crate::session::{Birth, Role, Session};
use crate::sync::lock;
use crate::timers::Due;
use crate::timestamp::Timestamp;

use super::limits::Verdict;
use super::{Carrier, Engine, Identity, Indexed, Job, LONGEST_SLEEP, Outbox, key_of};

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
                if let Job::Initiate(peer) = job {
                    peer.wants_initiation.store(false, Relaxed);
                }
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
        // First of all: what is armed while looking brings it forward again.
        self.timers_due.swap(now.moment.plus(LONGEST_SLEEP).as_nanos(), AcqRel);
        if !self.is_running() {
            return;
        }
        let mut next = Moment::NEVER;
        for entry in self.registry.load_full().iter() {
            let peer = &entry.peer;
            if peer.timers.next() <= now.moment {
                self.handle_timers_of(peer, now, out);
            }
            next = next.min(peer.timers.next());
        }
        self.look_at_timers(next);
    }

    fn handle_timers_of(&self, peer: &Arc<Peer>, now: Now, out: &mut Outbox) {
        for due in peer.timers.take_due(now.moment) {
            match due {
                Due::Retry => {
                    self.clear_local_address(peer);
                    self.initiate(peer, now, true, out);
                }
                Due::Handshake => {
                    self.clear_local_address(peer);
                    self.initiate(peer, now, false, out);
                }
                Due::GiveUp => self.drops.add(Drop::NoSession, peer.take_staged().len() as u64),
                Due::Keepalive => self.keepalive(peer, now, out),
                Due::ForgetKeys => self.release(peer.forget_keys()),
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
        self.look_at_timers(peer.timers.next());
        let (secrets, last_sent) = {
            let handshake = lock(&peer.handshake);
            (handshake.secrets(), handshake.last_sent)
        };
        let timestamp = Timestamp::at(now.wall).after(last_sent);
        let index = self.bind_index(|_| Indexed { peer: peer.clone(), session: None });
        let parties = parties(&identity, private, peer, &secrets);
        let Some((initiated, mut message)) = noise::initiate(&parties, index, timestamp) else {
            self.release(vec![index]);
            return;
        };
        let old = {
            let mut handshake = lock(&peer.handshake);
            handshake.last_sent = Some(timestamp);
            handshake.cookie.stamp(&peer.macs, &mut message, now.moment);
            handshake.initiated.replace(initiated)
        };
        self.release(old.iter().map(|old| old.index).collect());
        if peer.removed.load(Relaxed) {
            // Removed while the handshake was computed: leave nothing behind.
            self.release(peer.forget_keys());
            return;
        }
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
        let identity = self.identity.load_full();
        let private = identity.private.as_ref()?;
        let identified = noise::identify(private, &identity.public, bytes)?;
        let peer = self.registry.load().get(&identified.remote)?.peer.clone();
        let secrets = lock(&peer.handshake).secrets();
        let received = noise::receive(identified, &secrets.shared)?;
        lock(&peer.handshake).take(received.timestamp, now.moment)?;
        let index = self.bind_index(|_| Indexed { peer: peer.clone(), session: None });
        let parties = parties(&identity, private, &peer, &secrets);
        let Some((keys, mut message)) = noise::respond(&parties, received, index) else {
            self.release(vec![index]);
            return None;
        };
        lock(&peer.handshake).cookie.stamp(&peer.macs, &mut message, now.moment);
        tracing::debug!(peer = %peer.key, endpoint = %source.address, "answering a handshake initiation");
        peer.received_bytes.fetch_add(INITIATION_SIZE as u64, Relaxed);
        // The endpoint stays: after a start no earlier timestamp is known, so this may be a replay from anywhere. The
        // first packet of the session, which nobody can replay, moves it.
        peer.timers.packet_received(now.moment);
        let session = self.session(index, Role::Responder, &keys, now.moment);
        self.install(&peer, session, (&identity, &secrets), now.moment);
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
        let identity = self.identity.load_full();
        let private = identity.private.as_ref()?;
        let (initiated, secrets) = {
            let mut handshake = lock(&peer.handshake);
            let initiated = handshake.initiated.take_if(|initiated| initiated.index == index)?;
            (initiated, handshake.secrets())
        };
        let Some(keys) = noise::finish(&initiated, &parties(&identity, private, &peer, &secrets), bytes)
        else {
            // Somebody else's answer must not end the handshake: the right one may still come.
            lock(&peer.handshake).initiated = Some(initiated);
            if peer.removed.load(Relaxed) {
                self.release(peer.forget_keys());
            }
            return None;
        };
        peer.received_bytes.fetch_add(RESPONSE_SIZE as u64, Relaxed);
        self.roam(&peer, &source);
        peer.timers.packet_received(now.moment);
        peer.timers.handshake_complete();
        let session = self.session(index, Role::Initiator, &keys, now.moment);
        self.install(&peer, session, (&identity, &secrets), now.moment);
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

    fn session(&self, local_index: u32, role: Role, keys: &TransportKeys, at: Moment) -> Session {
        let cipher = if self.is_portable.load(Relaxed) { Cipher::Portable } else { Cipher::Fastest };
        Session::new(Birth { local_index, role, at, cipher }, keys)
    }

    /// Binds a session to its index and takes it into use. What it was made with may have changed meanwhile.
    fn install(
        &self,
        peer: &Arc<Peer>,
        session: Session,
        (identity, secrets): (&Arc<Identity>, &Secrets),
        now: Moment,
    ) {
        let session = Arc::new(session);
        let entry = Indexed { peer: peer.clone(), session: Some(session.clone()) };
        self.rebind_index(session.local_index, &entry);
        self.release(peer.install(session, now));
        if peer.removed.load(Relaxed) || !Arc::ptr_eq(&self.identity.load(), identity) {
            // Leave nothing behind.
            self.release(peer.forget_keys());
        } else if lock(&peer.handshake).preshared != secrets.preshared {
            self.handshake_soon(peer, now);
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

fn parties<'a>(
    identity: &'a Identity,
    private: &'a PrivateKey,
    peer: &'a Peer,
    secrets: &'a Secrets,
) -> Parties<'a> {
    Parties {
        private,
        public: &identity.public,
        remote: &peer.key,
        shared: &secrets.shared,
        preshared: &secrets.preshared,
    }
}
