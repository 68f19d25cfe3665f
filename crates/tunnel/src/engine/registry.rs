//! The peers by key, with what each owns: a persistent map like the routes, so that who reads it, a handshake, a timer or
//! `wg show`, never waits for a change, nor a change for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::key::PublicKey;
use crate::message::field;
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
    /// By the first half of the key, then by the second.
    halves: Trie<Trie<Entry>>,
}

impl Registry {
    pub(super) fn get(&self, key: &PublicKey) -> Option<&Entry> {
        let [first, second] = halves(key);
        self.halves.get(first, 128)?.get(second, 128)
    }

    /// Adds the entry, or replaces the one of the same key.
    pub(super) fn insert(&mut self, entry: Entry) {
        let [first, second] = halves(&entry.peer.key);
        let mut alike = self.halves.get(first, 128).cloned().unwrap_or_default();
        alike.insert(second, 128, entry);
        self.halves.insert(first, 128, alike);
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        let [first, second] = halves(key);
        let Some(mut alike) = self.halves.get(first, 128).cloned() else { return };
        alike.remove(second, 128);
        if alike.is_empty() {
            self.halves.remove(first, 128);
        } else {
            self.halves.insert(first, 128, alike);
        }
    }

    /// Sorted by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.halves.iter().flat_map(Trie::iter)
    }
}

/// Ordered as the bytes of the key.
fn halves(key: &PublicKey) -> [u128; 2] {
    [0, 16].map(|at| u128::from_be_bytes(field(&key.0, at)))
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
