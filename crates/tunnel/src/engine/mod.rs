//! A whole WireGuard device without sockets, threads or clocks: peers, cryptokey routing, sessions by index, jobs.
//!
//! Shared by all threads. The path of a packet takes no lock that a handshake or a change of the configuration holds:
//! routes, session indices and the peers are persistent tries that are replaced as a whole. Handshakes and timers are
//! *jobs*, done by whoever calls [`Engine::handle_jobs`] and [`Engine::handle_timers`]; the bell tells when there are some.

mod endpoints;
#[cfg(test)]
mod greeting;
mod handshakes;
mod inbound;
#[cfg(test)]
mod interop;
mod limits;
#[cfg(test)]
mod loops;
mod outbound;
mod registry;
mod settings;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Moment;
use crate::cookie::MacKeys;
use crate::crypto::random;
use crate::drops::Counters;
use crate::key::{PrivateKey, PublicKey};
use crate::peer::{Endpoint, Peer};
use crate::routing::Routes;
use crate::session::Session;
use crate::sync::lock;
use crate::trie::Trie;

pub(crate) use inbound::{Datagrams, Opened};
pub(crate) use outbound::{Carrier, NoCarrier};

use endpoints::Endpoints;
use limits::Limits;
use registry::Registry;

/// Packets arm timers without telling anybody. None of those is nearer than a second, so looking twice a second finds each
/// before it is due.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Datagrams to be sent, in order.
pub(crate) type Outbox = Vec<(Endpoint, Vec<u8>)>;

/// The device.
pub(crate) struct Engine {
    pub(crate) drops: Counters,
    identity: ArcSwap<Identity>,
    routes: ArcSwap<Routes<Arc<Peer>>>,
    indices: ArcSwap<Trie<Indexed>>,
    registry: ArcSwap<Registry>,
    endpoints: Endpoints,
    /// Serialises those who change settings.
    settings: Mutex<()>,
    /// When the timers have to be looked at.
    timers_due: AtomicU64,
    jobs: Mutex<Jobs>,
    limits: Mutex<Limits>,
    bell: Box<dyn Fn() + Send + Sync>,
    mtu: AtomicUsize,
    port: AtomicU16,
    running: AtomicBool,
    greets: AtomicBool,
    is_portable: AtomicBool,
}

/// Who we are.
pub(crate) struct Identity {
    private: Option<PrivateKey>,
    public: PublicKey,
    macs: MacKeys,
}

impl Identity {
    fn new(private: Option<PrivateKey>) -> Self {
        let public = private.as_ref().map_or(PublicKey([0; 32]), PrivateKey::public_key);
        Self { private, public, macs: MacKeys::new(&public) }
    }
}

/// What one of our indices in a message stands for.
#[derive(Clone)]
struct Indexed {
    peer: Arc<Peer>,
    /// None while only an initiation was sent.
    session: Option<Arc<Session>>,
}

/// Work for the thread that does handshakes.
enum Job {
    Handshake {
        source: Endpoint,
        message: Box<[u8]>,
    },
    Initiate(Arc<Peer>),
    /// The peer has proven that it has the keys of a session it began.
    Confirmed(Arc<Peer>),
    Flush(Arc<Peer>),
    Keepalive(Arc<Peer>),
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    handshakes: usize,
}

impl Engine {
    /// A device without peers. `bell` is rung, from any thread, when a job was added.
    pub(crate) fn new(private: Option<PrivateKey>, mtu: usize, bell: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            drops: Counters::default(),
            identity: ArcSwap::from_pointee(Identity::new(private)),
            routes: ArcSwap::from_pointee(Routes::default()),
            indices: ArcSwap::from_pointee(Trie::default()),
            registry: ArcSwap::from_pointee(Registry::default()),
            endpoints: Endpoints::default(),
            settings: Mutex::default(),
            timers_due: AtomicU64::new(0),
            jobs: Mutex::default(),
            limits: Mutex::new(Limits::new()),
            bell,
            mtu: AtomicUsize::new(mtu),
            port: AtomicU16::new(0),
            running: AtomicBool::new(true),
            greets: AtomicBool::new(false),
            is_portable: AtomicBool::new(false),
        }
    }

    /// The MTU of the interface: packets are not padded beyond it.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu.load(Relaxed)
    }

    /// Follows a change of the interface's MTU.
    pub(crate) fn set_mtu(&self, mtu: usize) {
        self.mtu.store(mtu, Relaxed);
    }

    /// Whether handshakes begin before there is a packet to send.
    pub(crate) fn set_greets(&self, greets: bool) {
        self.greets.store(greets, Relaxed);
    }

    /// Seals and opens as every processor can, in sessions from now on.
    pub(crate) fn be_portable(&self) {
        self.is_portable.store(true, Relaxed);
    }

    /// Begins a handshake with a peer that has an endpoint, if that is what this device does; whether it is.
    fn greet(&self, peer: &Arc<Peer>) -> bool {
        let greets = self.greets.load(Relaxed) && self.is_running() && peer.endpoint.load().is_some();
        if greets {
            peer.timers.hurry();
            self.add_job(Job::Keepalive(peer.clone()));
        }
        greets
    }

    /// Whether the interface is up. A device that is down sends nothing and ignores what it receives.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Relaxed)
    }

    /// Follows the interface going up or down: going down forgets all sessions, as in the kernel; coming up sends
    /// the persistent keepalives.
    pub(crate) fn set_running(&self, up: bool) {
        if self.is_running() == up {
            return;
        }
        // No peer may be added meanwhile, and be left as it was.
        let _serial = lock(&self.settings);
        self.running.store(up, Relaxed);
        for entry in self.registry.load_full().iter() {
            let peer = &entry.peer;
            if up {
                // Who has a keepalive is behind NAT, and needs to be heard soon more than anyone.
                if !self.greet(peer) && peer.timers.persistent_keepalive() != 0 {
                    self.add_job(Job::Keepalive(peer.clone()));
                }
            } else {
                self.release(peer.forget_keys());
                peer.take_staged();
                peer.timers.stop();
            }
        }
    }

    /// The moment at which [`Engine::handle_timers`] has to be called, at the latest.
    pub(crate) fn timers_due(&self) -> Moment {
        Moment::from_nanos(self.timers_due.load(Relaxed))
    }

    /// Has the timers looked at then, if not earlier.
    fn look_at_timers(&self, at: Moment) {
        // Whoever sees this sees the timer that was armed before.
        self.timers_due.fetch_min(at.as_nanos(), AcqRel);
    }

    fn add_job(&self, job: Job) {
        lock(&self.jobs).queue.push_back(job);
        (self.bell)();
    }

    /// Asks for an initiation, unless one was just sent or is already asked for.
    fn want_initiation(&self, peer: &Arc<Peer>, now: Moment) {
        if peer.timers.may_initiate(now) && !peer.wants_initiation.swap(true, Relaxed) {
            self.add_job(Job::Initiate(peer.clone()));
        }
    }

    /// Asks for new keys although there are some, as soon as may be.
    fn handshake_soon(&self, peer: &Peer, now: Moment) {
        peer.timers.handshake_soon(now);
        self.look_at_timers(peer.timers.next());
        (self.bell)();
    }

    /// Finds a random index that is not in use and binds it.
    fn bind_index(&self, make: impl Fn(u32) -> Indexed) -> u32 {
        loop {
            let index = u32::from_le_bytes(random());
            let mut bound = false;
            self.indices.rcu(|indices| {
                let mut indices = Trie::clone(indices);
                bound = indices.get(key_of(index), 32).is_none();
                if bound {
                    indices.insert(key_of(index), 32, make(index));
                }
                indices
            });
            if bound {
                return index;
            }
        }
    }

    fn rebind_index(&self, index: u32, entry: &Indexed) {
        self.indices.rcu(|indices| {
            let mut indices = Trie::clone(indices);
            indices.insert(key_of(index), 32, entry.clone());
            indices
        });
    }

    /// Frees indices.
    fn release(&self, old: Vec<u32>) {
        if old.is_empty() {
            return;
        }
        self.indices.rcu(|indices| {
            let mut indices = Trie::clone(indices);
            for index in &old {
                indices.remove(key_of(*index), 32);
            }
            indices
        });
    }
}

/// An index as a key of the trie.
fn key_of(index: u32) -> u128 {
    u128::from(index) << 96
}
