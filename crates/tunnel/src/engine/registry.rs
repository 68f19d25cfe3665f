//! The peers by key, with what each owns: a persistent map like the routes, so that who reads it, a handshake, a timer or
//! `wg show`, never waits for a change, nor a change for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::key::PublicKey;
use crate::peer::Peer;
use crate::trie::Trie;

/// A peer and its allowed IPs. Packets use the routes instead.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) peer: Arc<Peer>,
    pub(super) allowed_ips: Arc<BTreeSet<IpNet>>,
}

/// All peers. Cloning is cheap and shares everything.
#[derive(Clone, Default)]
pub(super) struct Registry {
    /// By the first half of the key. Only who makes keys up has two that begin alike; they are sorted.
    entries: Trie<Vec<Entry>>,
}

impl Registry {
    pub(super) fn get(&self, key: &PublicKey) -> Option<&Entry> {
        self.entries.get(first_half(key), 128)?.iter().find(|entry| entry.peer.key == *key)
    }

    /// Adds the entry, or replaces the one of the same key.
    pub(super) fn insert(&mut self, entry: Entry) {
        let key = entry.peer.key;
        let mut alike = self.others(&key);
        let at = alike.partition_point(|other| other.peer.key < key);
        alike.insert(at, entry);
        self.entries.insert(first_half(&key), 128, alike);
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        let alike = self.others(key);
        if alike.is_empty() {
            self.entries.remove(first_half(key), 128);
        } else {
            self.entries.insert(first_half(key), 128, alike);
        }
    }

    /// Sorted by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// Entries whose key begins like this one.
    fn others(&self, key: &PublicKey) -> Vec<Entry> {
        let alike = self.entries.get(first_half(key), 128).into_iter().flatten();
        alike.filter(|entry| entry.peer.key != *key).cloned().collect()
    }
}

fn first_half(key: &PublicKey) -> u128 {
    let mut half = [0; 16];
    half.copy_from_slice(&key.0[..16]);
    u128::from_be_bytes(half)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::noise::StaticShared;

    proptest! {
        /// Few different bytes, so that keys begin alike.
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((0..4u8, 0..4u8, any::<bool>()), 0..100)) {
            let mut registry = Registry::default();
            let mut model = BTreeMap::new();
            for (first, last, is_added) in steps {
                let mut bytes = [0; 32];
                (bytes[0], bytes[31]) = (first << 6, last);
                let key = PublicKey(bytes);
                if is_added {
                    let peer = Arc::new(Peer::new(key, StaticShared::unusable()));
                    model.insert(key, peer.clone());
                    registry.insert(Entry { peer, allowed_ips: Arc::default() });
                } else {
                    model.remove(&key);
                    registry.remove(&key);
                }
                let found = registry.get(&key).map(|entry| Arc::as_ptr(&entry.peer));
                prop_assert_eq!(found, model.get(&key).map(Arc::as_ptr));
                let all = registry.iter().map(|entry| Arc::as_ptr(&entry.peer));
                prop_assert_eq!(all.collect::<Vec<_>>(), model.values().map(Arc::as_ptr).collect::<Vec<_>>());
            }
        }
    }
}
