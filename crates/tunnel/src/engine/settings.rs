//! Changing and reading the configuration while packets flow.
//!
//! All changes of one call appear to packets at the same moment, as far as allowed IPs go: the routes are replaced
//! once. Nothing a caller does not name is touched, above all not a session or a learned endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::clock::Moment;
use crate::config::{AllowedIpsChange, PeerChange, PeerSettings, PeerState, WhenMissing};
use crate::drops::Drop;
use crate::key::{PrivateKey, PublicKey};
use crate::noise::StaticShared;
use crate::peer::{Endpoint, Peer};
use crate::routing::Routes;
use crate::sync::lock;

use super::{Engine, Identity, Job};

/// The peers, with what each owns. Only settings look at the prefixes here; packets use the routes.
pub(super) type Registry = BTreeMap<PublicKey, Entry>;

/// A peer and its allowed IPs.
pub(super) struct Entry {
    pub(super) peer: Arc<Peer>,
    allowed_ips: BTreeSet<IpNet>,
}

/// A change in the making: the registry locked, the new routes not yet published.
struct Edit<'a> {
    registry: &'a mut Registry,
    routes: Routes<Arc<Peer>>,
}

impl Engine {
    /// The key, if one was set.
    pub(crate) fn private_key(&self) -> Option<PrivateKey> {
        self.identity.load().private.clone()
    }

    /// Changes who we are: all sessions end, and a peer with our own new key is removed.
    pub(crate) fn set_private_key(&self, key: Option<PrivateKey>) {
        let _serial = lock(&self.settings);
        if self.private_key() == key {
            return;
        }
        let identity = Arc::new(Identity::new(key));
        if identity.private.is_some() {
            self.apply_locked(&[PeerChange::Remove(identity.public)], Moment::default());
        }
        let peers: Vec<Arc<Peer>> = lock(&self.registry).values().map(|entry| entry.peer.clone()).collect();
        self.identity.store(identity.clone());
        for peer in peers {
            if let Some(private) = &identity.private {
                let shared = StaticShared::new(private, &peer.key);
                lock(&peer.handshake).shared = shared;
            }
            self.release(peer.forget_keys());
            peer.timers.stop();
            if peer.timers.persistent_keepalive() != 0 {
                self.add_job(Job::Keepalive(peer));
            }
        }
    }

    /// Changes peers, in order. A peer with our own key is not added.
    pub(crate) fn apply(&self, changes: &[PeerChange], now: Moment) {
        let _serial = lock(&self.settings);
        self.apply_locked(changes, now);
    }

    fn apply_locked(&self, changes: &[PeerChange], now: Moment) {
        let identity = self.identity.load();
        // Diffie-Hellman takes tens of microseconds per new peer: not while handshakes wait for the registry.
        let mut shared = self.shared_with_new_peers(changes);
        let mut registry = lock(&self.registry);
        let mut edit = Edit { registry: &mut registry, routes: Routes::clone(&self.routes.load()) };
        let mut gone = Vec::new();
        let mut touched = Vec::new();
        for change in changes {
            match change {
                PeerChange::RemoveAll => {
                    edit.routes = Routes::default();
                    gone.extend(std::mem::take(edit.registry).into_values().map(|entry| entry.peer));
                }
                PeerChange::Remove(key) => gone.extend(edit.remove(key)),
                PeerChange::Set(settings) if settings.key == identity.public => {}
                PeerChange::Set(settings) => {
                    let known = edit.registry.contains_key(&settings.key);
                    if settings.when_missing == WhenMissing::Add && !known {
                        // A key that came back after its removal in the same call is computed here.
                        let shared =
                            shared.remove(&settings.key).unwrap_or_else(|| self.shared(&settings.key));
                        edit.add(settings.key, shared);
                    }
                    if let Some(peer) = edit.set_allowed_ips(settings) {
                        self.set_peer(&peer, settings, now);
                        if !known {
                            self.greet(&peer);
                        }
                        touched.push(peer);
                    }
                }
            }
        }
        // Unpublish first: after this no packet reaches a removed peer.
        self.routes.store(Arc::new(edit.routes));
        drop(registry);
        for peer in gone {
            peer.removed.store(true, Relaxed);
            self.release(peer.forget_keys());
            self.drops.add(Drop::NoSession, peer.take_staged().len() as u64);
        }
        for peer in touched {
            if peer.has_staged() {
                self.add_job(Job::Flush(peer));
            }
        }
    }

    fn shared(&self, key: &PublicKey) -> StaticShared {
        match &self.identity.load().private {
            Some(private) => StaticShared::new(private, key),
            None => StaticShared::unusable(),
        }
    }

    fn shared_with_new_peers(&self, changes: &[PeerChange]) -> BTreeMap<PublicKey, StaticShared> {
        let new: Vec<PublicKey> = {
            let registry = lock(&self.registry);
            let added = changes.iter().filter_map(|change| match change {
                PeerChange::Set(settings) if settings.when_missing == WhenMissing::Add => Some(settings.key),
                _ => None,
            });
            added.filter(|key| !registry.contains_key(key)).collect()
        };
        new.into_iter().map(|key| (key, self.shared(&key))).collect()
    }

    /// What concerns the peer alone.
    fn set_peer(&self, peer: &Arc<Peer>, settings: &PeerSettings, now: Moment) {
        if let Some(preshared) = &settings.preshared_key {
            let mut handshake = lock(&peer.handshake);
            if handshake.preshared != *preshared {
                handshake.preshared = preshared.clone();
                drop(handshake);
                // The session lives on; a new handshake soon makes the new key count.
                if peer.session(now).is_some() {
                    peer.timers.handshake_soon(now);
                    (self.bell)();
                }
            }
        }
        if let Some(address) = settings.endpoint
            && peer.endpoint.load().as_ref().is_none_or(|endpoint| endpoint.address != address)
        {
            peer.endpoint.store(Some(Arc::new(Endpoint::from(address))));
        }
        if let Some(seconds) = settings.keepalive
            && peer.timers.set_persistent_keepalive(seconds, now)
        {
            self.add_job(Job::Keepalive(peer.clone()));
        }
    }

    /// All peers, sorted by key.
    pub(crate) fn peers(&self) -> Vec<PeerState> {
        lock(&self.registry).values().map(Entry::state).collect()
    }
}

impl Edit<'_> {
    fn add(&mut self, key: PublicKey, shared: StaticShared) {
        let entry = Entry { peer: Arc::new(Peer::new(key, shared)), allowed_ips: BTreeSet::new() };
        self.registry.insert(key, entry);
    }

    fn remove(&mut self, key: &PublicKey) -> Option<Arc<Peer>> {
        let entry = self.registry.remove(key)?;
        for prefix in &entry.allowed_ips {
            self.routes.remove(prefix);
        }
        Some(entry.peer)
    }

    /// Moves prefixes; returns the peer, if it exists.
    fn set_allowed_ips(&mut self, settings: &PeerSettings) -> Option<Arc<Peer>> {
        let entry = self.registry.get_mut(&settings.key)?;
        let peer = entry.peer.clone();
        let (add, remove) = match &settings.allowed_ips {
            AllowedIpsChange::Keep => return Some(peer),
            AllowedIpsChange::Replace(all) => {
                let wanted: BTreeSet<IpNet> = all.iter().map(IpNet::trunc).collect();
                let lost = entry.allowed_ips.difference(&wanted).copied().collect();
                (wanted, lost)
            }
            AllowedIpsChange::Edit { add, remove } => {
                let add: BTreeSet<IpNet> = add.iter().map(IpNet::trunc).collect();
                let remove: Vec<IpNet> = remove.iter().map(IpNet::trunc).collect();
                let lost = remove.into_iter().filter(|p| entry.allowed_ips.contains(p) && !add.contains(p));
                let lost = lost.collect::<Vec<_>>();
                (add, lost)
            }
        };
        for prefix in &remove {
            entry.allowed_ips.remove(prefix);
            self.routes.remove(prefix);
        }
        for prefix in add {
            self.give(&peer, prefix);
        }
        Some(peer)
    }

    fn give(&mut self, peer: &Arc<Peer>, prefix: IpNet) {
        match self.routes.owner(&prefix) {
            Some(owner) if Arc::ptr_eq(owner, peer) => return,
            Some(owner) => {
                if let Some(loser) = self.registry.get_mut(&owner.key) {
                    loser.allowed_ips.remove(&prefix);
                }
            }
            None => {}
        }
        self.routes.insert(&prefix, peer.clone());
        if let Some(entry) = self.registry.get_mut(&peer.key) {
            entry.allowed_ips.insert(prefix);
        }
    }
}

impl Entry {
    fn state(&self) -> PeerState {
        let peer = &self.peer;
        PeerState {
            key: peer.key,
            preshared_key: lock(&peer.handshake).preshared.clone(),
            endpoint: peer.endpoint.load().as_ref().map(|endpoint| endpoint.address),
            keepalive: peer.timers.persistent_keepalive(),
            allowed_ips: self.allowed_ips.iter().copied().collect(),
            last_handshake: peer.last_handshake().map(from_epoch),
            rx_bytes: peer.received_bytes.load(Relaxed),
            tx_bytes: peer.sent_bytes.load(Relaxed),
        }
    }
}

fn from_epoch(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + since
}
