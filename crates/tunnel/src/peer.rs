//! One peer: endpoint, sessions, timers, counters, and what waits for a session.
//!
//! Packets touch only atomics and the replay window; the mutexes here are held by handshakes and by changes of the
//! configuration. What a peer owns of the address space is known to `routing`, not here.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::clock::Moment;
use crate::cookie::{Cookie, MacKeys};
use crate::key::{PresharedKey, PublicKey};
use crate::noise::{Initiated, StaticShared};
use crate::session::{Role, Session};
use crate::sync::lock;
use crate::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT, Timers};
use crate::timestamp::Timestamp;

/// An initiator may try this often; faster ones are taken for a flood of replays.
const MIN_INITIATION_INTERVAL: Duration = Duration::from_millis(20);
/// Packets kept for a peer without a session, as many as in the kernel.
const MAX_STAGED: usize = 128;

/// Where datagrams go to, and which of our addresses they must come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The other end.
    pub address: SocketAddr,
    /// The address of ours that the peer last talked to, if it did.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, local: None }
    }
}

/// A peer of the device.
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) macs: MacKeys,
    pub(crate) timers: Timers,
    /// Changed by `Engine::locate` alone.
    pub(crate) endpoint: ArcSwapOption<Endpoint>,
    pub(crate) handshake: Mutex<Handshake>,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    /// Wall clock of the last finished handshake in nanoseconds since the Unix epoch; zero when there was none.
    pub(crate) last_handshake: AtomicU64,
    pub(crate) removed: AtomicBool,
    /// An initiation is already asked for.
    pub(crate) wants_initiation: AtomicBool,
    current: ArcSwapOption<Session>,
    sessions: Mutex<Sessions>,
    staged: Mutex<VecDeque<Box<[u8]>>>,
}

/// What the handshakes of a peer share. Locked for moments only, never while a handshake is computed.
pub(crate) struct Handshake {
    pub(crate) shared: StaticShared,
    pub(crate) preshared: PresharedKey,
    pub(crate) initiated: Option<Initiated>,
    pub(crate) cookie: Cookie,
    /// Of our initiations.
    pub(crate) last_sent: Option<Timestamp>,
    /// Of the peer's initiations.
    pub(crate) last_taken: Option<Timestamp>,
    pub(crate) last_received: Option<Moment>,
}

/// What a handshake is computed with. It is copied, so that nobody waits for the computation.
pub(crate) struct Secrets {
    pub(crate) shared: StaticShared,
    pub(crate) preshared: PresharedKey,
}

impl Handshake {
    /// Takes the timestamp of an authentic initiation. None when it is a replay, or comes too soon.
    pub(crate) fn take(&mut self, timestamp: Timestamp, now: Moment) -> Option<()> {
        let is_replay = self.last_taken.is_some_and(|last| timestamp <= last);
        if is_replay || self.last_received.is_some_and(|at| now.since(at) < MIN_INITIATION_INTERVAL) {
            return None;
        }
        (self.last_taken, self.last_received) = (Some(timestamp), Some(now));
        Some(())
    }

    pub(crate) fn secrets(&self) -> Secrets {
        Secrets { shared: self.shared.clone(), preshared: self.preshared.clone() }
    }
}

/// The session before, the one used for sending (also in `Peer::current`), and one the peer has not confirmed yet.
#[derive(Default)]
struct Sessions {
    previous: Option<Arc<Session>>,
    current: Option<Arc<Session>>,
    next: Option<Arc<Session>>,
}

impl Peer {
    pub(crate) fn new(key: PublicKey, shared: StaticShared) -> Self {
        Self {
            key,
            macs: MacKeys::new(&key),
            timers: Timers::new(),
            endpoint: ArcSwapOption::empty(),
            handshake: Mutex::new(Handshake {
                shared,
                preshared: PresharedKey::NONE,
                initiated: None,
                cookie: Cookie::default(),
                last_sent: None,
                last_taken: None,
                last_received: None,
            }),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            last_handshake: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            wants_initiation: AtomicBool::new(false),
            current: ArcSwapOption::empty(),
            sessions: Mutex::default(),
            staged: Mutex::default(),
        }
    }

    /// The session to send with, if there is one that may still be used.
    pub(crate) fn session(&self, now: Moment) -> Option<Arc<Session>> {
        self.current.load_full().filter(|session| session.is_alive(now))
    }

    /// Accounts for datagrams that were sealed under `session`. True when new keys are due.
    pub(crate) fn sent(&self, session: &Session, traffic: Traffic, now: Moment) -> bool {
        self.sent_bytes.fetch_add(traffic.bytes, Relaxed);
        self.timers.packet_sent(now);
        if traffic.has_data {
            self.timers.data_sent(now);
        }
        session.has_sent_much()
            || (session.role == Role::Initiator && now.since(session.created) >= REKEY_AFTER_TIME)
    }

    /// Accounts for a datagram that was opened with `session`. True when new keys are due.
    pub(crate) fn received(&self, session: &Session, traffic: Traffic, now: Moment) -> bool {
        self.received_bytes.fetch_add(traffic.bytes, Relaxed);
        self.timers.packet_received(now);
        if traffic.has_data {
            self.timers.data_received(now);
        }
        let last_minute = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        session.role == Role::Initiator
            && now.since(session.created) >= last_minute
            && self.current.load().as_ref().is_some_and(|current| current.local_index == session.local_index)
            && self.timers.take_last_minute_handshake()
    }

    /// Takes a session into use; returns the indices of those it pushed out.
    pub(crate) fn install(&self, session: Arc<Session>, now: Moment) -> Vec<u32> {
        let mut sessions = lock(&self.sessions);
        let mut old = Vec::new();
        match session.role {
            Role::Initiator => {
                // An unconfirmed session is newer than the current one: keep it for receiving.
                old.push(sessions.previous.take());
                sessions.previous = match sessions.next.take() {
                    Some(next) => {
                        old.push(sessions.current.take());
                        Some(next)
                    }
                    None => sessions.current.take(),
                };
                sessions.current = Some(session);
                self.current.store(sessions.current.clone());
            }
            Role::Responder => {
                old.push(sessions.next.replace(session));
                old.push(sessions.previous.take());
            }
        }
        self.timers.session_derived(now);
        old.into_iter().flatten().map(|session| session.local_index).collect()
    }

    /// The initiator has used `session`, so it has the keys: send with it from now on. Returns indices pushed out, or
    /// `None` when it was not the one waiting for this.
    pub(crate) fn confirm(&self, session: &Arc<Session>) -> Option<Vec<u32>> {
        let mut sessions = lock(&self.sessions);
        session.confirmed.store(true, Relaxed);
        if !sessions.next.as_ref().is_some_and(|next| Arc::ptr_eq(next, session)) {
            return None;
        }
        let current = sessions.current.take();
        let old = std::mem::replace(&mut sessions.previous, current);
        sessions.current = sessions.next.take();
        self.current.store(sessions.current.clone());
        Some(old.into_iter().map(|session| session.local_index).collect())
    }

    /// Drops all keys and what waits; returns the indices that are free now.
    pub(crate) fn forget_keys(&self) -> Vec<u32> {
        let initiated = lock(&self.handshake).initiated.take();
        let mut sessions = lock(&self.sessions);
        self.current.store(None);
        let Sessions { previous, current, next } = std::mem::take(&mut *sessions);
        let sessions = [previous, current, next].into_iter().flatten().map(|session| session.local_index);
        sessions.chain(initiated.map(|initiated| initiated.index)).collect()
    }

    /// Keeps a packet until there is a session; the oldest one gives way. False when one was dropped for it.
    pub(crate) fn stage(&self, packet: &[u8]) -> bool {
        let mut staged = lock(&self.staged);
        let fits = staged.len() < MAX_STAGED;
        if !fits {
            staged.pop_front();
        }
        staged.push_back(packet.into());
        fits
    }

    /// What waits for a session, in order.
    pub(crate) fn take_staged(&self) -> VecDeque<Box<[u8]>> {
        std::mem::take(&mut *lock(&self.staged))
    }

    /// Whether something waits for a session.
    pub(crate) fn has_staged(&self) -> bool {
        !lock(&self.staged).is_empty()
    }

    /// When the last handshake was finished, since the Unix epoch.
    pub(crate) fn last_handshake(&self) -> Option<Duration> {
        match self.last_handshake.load(Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

/// What went over the wire, for the counters and timers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    /// Bytes of the datagrams.
    pub(crate) bytes: u64,
    /// Whether anything but keepalives was among them.
    pub(crate) has_data: bool,
}
