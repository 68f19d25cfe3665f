//! Changing and reading the configuration while packets flow.
//!
//! All changes of one call appear to packets at the same moment, as far as allowed IPs go: the routes are replaced
//! once. Nothing a caller does not name is touched, above all not a session or a learned endpoint.

use std::collections::{BTreeMap, BTreeSet, btree_map};
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

use super::registry::{Entry, Registry};
use super::{Engine, Identity, Job};

/// A change in the making, not yet published.
struct Edit {
    registry: Registry,
    /// What differs from the registry; `None` is removed. Kept apart, so that who gets or loses many prefixes in one
    /// call is not copied for each of them.
    changed: BTreeMap<PublicKey, Option<Entry>>,
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
        self.identity.store(identity);
        for Entry { peer, .. } in self.registry.load_full().iter() {
            let shared = self.shared(&peer.key);
            lock(&peer.handshake).shared = shared;
            self.release(peer.forget_keys());
            peer.timers.stop();
            if peer.timers.persistent_keepalive() != 0 {
                self.add_job(Job::Keepalive(peer.clone()));
            }
        }
    }

    /// Changes peers, in order. A peer with our own key is not added.
    pub(crate) fn apply(&self, changes: &[PeerChange], now: Moment) {
        let _serial = lock(&self.settings);
        self.apply_locked(changes, now);
    }

    fn apply_locked(&self, changes: &[PeerChange], now: Moment) {
        let ourselves = self.identity.load().public;
        let mut edit = Edit {
            registry: Registry::clone(&self.registry.load()),
            changed: BTreeMap::new(),
            routes: Routes::clone(&self.routes.load()),
        };
        let mut gone = Vec::new();
        let mut touched = Vec::new();
        for change in changes {
            match change {
                PeerChange::RemoveAll => gone.extend(edit.remove_all()),
                PeerChange::Remove(key) => gone.extend(edit.remove(key)),
                PeerChange::Set(settings) if settings.key == ourselves => {}
                PeerChange::Set(settings) => {
                    let known = edit.peer(&settings.key);
                    let peer = match (&known, settings.when_missing) {
                        (Some(peer), _) => peer.clone(),
                        (None, WhenMissing::Add) => edit.add(settings.key, self.shared(&settings.key)),
                        (None, WhenMissing::Skip) => continue,
                    };
                    edit.set_allowed_ips(&peer, &settings.allowed_ips);
                    self.set_peer(&peer, settings, now);
                    if known.is_none() {
                        self.greet(&peer);
                    }
                    touched.push(peer);
                }
            }
        }
        // Unpublish first: after this no packet reaches a removed peer.
        self.routes.store(Arc::new(std::mem::take(&mut edit.routes)));
        self.registry.store(Arc::new(edit.finish()));
        for peer in gone {
            peer.removed.store(true, Relaxed);
            self.locate(&peer, None);
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

    /// What concerns the peer alone.
    fn set_peer(&self, peer: &Arc<Peer>, settings: &PeerSettings, now: Moment) {
        if let Some(preshared) = &settings.preshared_key {
            let mut handshake = lock(&peer.handshake);
            if handshake.preshared != *preshared {
                handshake.preshared = preshared.clone();
                drop(handshake);
                // The session lives on; a new handshake soon makes the new key count.
                if peer.session(now).is_some() {
                    self.handshake_soon(peer, now);
                }
            }
        }
        if let Some(address) = settings.endpoint
            && peer.endpoint.load().as_ref().is_none_or(|endpoint| endpoint.address != address)
        {
            self.locate(peer, Some(Endpoint::from(address)));
        }
        if let Some(seconds) = settings.keepalive
            && peer.timers.set_persistent_keepalive(seconds, now)
        {
            self.add_job(Job::Keepalive(peer.clone()));
        }
    }

    /// All peers, sorted by key.
    pub(crate) fn peers(&self) -> Vec<PeerState> {
        self.registry.load_full().iter().map(Entry::state).collect()
    }
}

impl Edit {
    /// A peer as it is after the changes so far.
    fn peer(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        let entry = match self.changed.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.registry.get(key),
        };
        entry.map(|entry| entry.peer.clone())
    }

    /// A peer's allowed IPs, to be changed. None when it is not there.
    fn allowed_ips(&mut self, key: &PublicKey) -> Option<&mut BTreeSet<IpNet>> {
        let entry = match self.changed.entry(*key) {
            btree_map::Entry::Occupied(changed) => changed.into_mut(),
            btree_map::Entry::Vacant(unchanged) => unchanged.insert(Some(self.registry.get(key)?.clone())),
        };
        entry.as_mut().map(|entry| Arc::make_mut(&mut entry.allowed_ips))
    }

    fn add(&mut self, key: PublicKey, shared: StaticShared) -> Arc<Peer> {
        let peer = Arc::new(Peer::new(key, shared));
        let entry = Entry { peer: peer.clone(), allowed_ips: Arc::default() };
        self.changed.insert(key, Some(entry));
        peer
    }

    fn remove(&mut self, key: &PublicKey) -> Option<Arc<Peer>> {
        let peer = self.peer(key)?;
        for prefix in std::mem::take(self.allowed_ips(key)?) {
            self.routes.remove(&prefix);
        }
        self.changed.insert(*key, None);
        Some(peer)
    }

    fn remove_all(&mut self) -> Vec<Arc<Peer>> {
        self.routes = Routes::default();
        let (registry, changed) = (std::mem::take(&mut self.registry), std::mem::take(&mut self.changed));
        let unchanged = registry.iter().filter(|entry| !changed.contains_key(&entry.peer.key));
        unchanged.chain(changed.values().flatten()).map(|entry| entry.peer.clone()).collect()
    }

    fn set_allowed_ips(&mut self, peer: &Arc<Peer>, change: &AllowedIpsChange) {
        let (add, remove): (BTreeSet<IpNet>, Vec<IpNet>) = match change {
            AllowedIpsChange::Keep => return,
            AllowedIpsChange::Replace(all) => {
                let wanted: BTreeSet<IpNet> = all.iter().map(IpNet::trunc).collect();
                let owned =
                    self.allowed_ips(&peer.key).map(|owned| owned.difference(&wanted).copied().collect());
                (wanted, owned.unwrap_or_default())
            }
            AllowedIpsChange::Edit { add, remove } => {
                let add: BTreeSet<IpNet> = add.iter().map(IpNet::trunc).collect();
                let remove = remove.iter().map(IpNet::trunc).filter(|prefix| !add.contains(prefix)).collect();
                (add, remove)
            }
        };
        for prefix in remove {
            if self.allowed_ips(&peer.key).is_some_and(|owned| owned.remove(&prefix)) {
                self.routes.remove(&prefix);
            }
        }
        for prefix in add {
            self.give(peer, prefix);
        }
    }

    fn give(&mut self, peer: &Arc<Peer>, prefix: IpNet) {
        match self.routes.owner(&prefix).map(|owner| owner.key) {
            Some(owner) if owner == peer.key => return,
            Some(owner) => {
                if let Some(loser) = self.allowed_ips(&owner) {
                    loser.remove(&prefix);
                }
            }
            None => {}
        }
        self.routes.insert(&prefix, peer.clone());
        if let Some(owned) = self.allowed_ips(&peer.key) {
            owned.insert(prefix);
        }
    }

    /// The registry after all changes.
    fn finish(self) -> Registry {
        let mut registry = self.registry;
        for (key, entry) in self.changed {
            match entry {
                Some(entry) => registry.insert(entry),
                None => registry.remove(&key),
            }
        }
        registry
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
