//! A persistent binary radix trie: an update copies only the path it changes, so a reader keeps a consistent old version
//! and an update among thousands of entries costs microseconds.
//!
//! Keys are bit strings of up to 128 bits, left-aligned in a `u128`. The trie does not know whether they are
//! prefixes of addresses (`routing`), session indices (`engine`) or parts of public keys (`engine::registry`).

use std::sync::Arc;

/// A map from bit strings to values with longest-prefix lookup. Cloning shares everything.
#[derive(Debug)]
pub struct Trie<V> {
    root: Link<V>,
}

type Link<V> = Option<Arc<Node<V>>>;

#[derive(Debug)]
struct Node<V> {
    /// Left-aligned; bits past `len` are zero.
    key: u128,
    len: u8,
    value: Option<V>,
    children: [Link<V>; 2],
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<V> Clone for Trie<V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<V: Clone> Trie<V> {
    /// The value of the longest key that is a prefix of the 128 bits `key`.
    pub fn longest_match(&self, key: u128) -> Option<&V> {
        let mut best = None;
        let mut link = &self.root;
        while let Some(node) = link {
            if (key ^ node.key) & mask(node.len) != 0 {
                break;
            }
            if node.value.is_some() {
                best = node.value.as_ref();
            }
            if node.len == 128 {
                break;
            }
            link = &node.children[bit(key, node.len)];
        }
        best
    }

    /// The value stored under exactly this key.
    pub fn get(&self, key: u128, len: u8) -> Option<&V> {
        let mut link = &self.root;
        while let Some(node) = link {
            if node.len > len || (key ^ node.key) & mask(node.len) != 0 {
                return None;
            }
            if node.len == len {
                return node.value.as_ref();
            }
            link = &node.children[bit(key, node.len)];
        }
        None
    }

    /// Stores a value under the first `len` (0..=128) bits of `key`, replacing what was there.
    pub fn insert(&mut self, key: u128, len: u8, value: V) {
        self.root = Some(insert(&self.root, key & mask(len), len, value));
    }

    /// Removes exactly this key; other keys keep their values.
    pub fn remove(&mut self, key: u128, len: u8) {
        if self.get(key, len).is_some() {
            self.root = remove(&self.root, key & mask(len), len);
        }
    }

    /// All values, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        let mut ahead: Vec<&Node<V>> = self.root.as_deref().into_iter().collect();
        std::iter::from_fn(move || {
            loop {
                let node = ahead.pop()?;
                ahead.extend(node.children.iter().rev().filter_map(Option::as_deref));
                if let Some(value) = &node.value {
                    return Some(value);
                }
            }
        })
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

/// The bit after the first `len`, as an index of children.
fn bit(key: u128, len: u8) -> usize {
    usize::from((key >> (127 - len)) & 1 == 1)
}

fn insert<V: Clone>(link: &Link<V>, key: u128, len: u8, value: V) -> Arc<Node<V>> {
    let Some(node) = link else {
        return Arc::new(Node { key, len, value: Some(value), children: [None, None] });
    };
    let common = ((key ^ node.key).leading_zeros() as u8).min(len).min(node.len);
    let mut children = [None, None];
    if common == node.len {
        children.clone_from(&node.children);
        let mut own = node.value.clone();
        if common == len {
            own = Some(value);
        } else {
            let side = bit(key, common);
            children[side] = Some(insert(&node.children[side], key, len, value));
        }
        return Arc::new(Node { key: node.key, len: node.len, value: own, children });
    }
    children[bit(node.key, common)] = Some(node.clone());
    if common == len {
        return Arc::new(Node { key, len, value: Some(value), children });
    }
    children[bit(key, common)] =
        Some(Arc::new(Node { key, len, value: Some(value), children: [None, None] }));
    Arc::new(Node { key: key & mask(common), len: common, value: None, children })
}

/// Removes a key that is known to be there, and the branch nodes that no longer branch.
fn remove<V: Clone>(link: &Link<V>, key: u128, len: u8) -> Link<V> {
    let node = link.as_ref()?;
    let mut children = node.children.clone();
    let mut value = node.value.clone();
    if node.len == len {
        value = None;
    } else {
        let side = bit(key, node.len);
        children[side] = remove(&node.children[side], key, len);
    }
    if value.is_none() {
        match &children {
            [None, only] | [only, None] => return only.clone(),
            _ => {}
        }
    }
    Some(Arc::new(Node { key: node.key, len: node.len, value, children }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The same by search through all keys.
    fn slow_match(model: &BTreeMap<(u128, u8), u32>, key: u128) -> Option<u32> {
        let fits = model.iter().filter(|((prefix, len), _)| (prefix ^ key) & mask(*len) == 0);
        fits.max_by_key(|((_, len), _)| *len).map(|(_, value)| *value)
    }

    /// Keys that share many bits.
    fn key() -> impl Strategy<Value = (u128, u8)> {
        (any::<u8>(), prop_oneof![0..=8u8, Just(127), Just(128)]).prop_map(|(byte, len)| {
            let key = u128::from(byte) << 120 | u128::from(byte & 3);
            (key & mask(len), len)
        })
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_of_prefixes(
            steps in prop::collection::vec((key(), any::<Option<u32>>()), 0..200),
            probes in prop::collection::vec(key(), 50),
        ) {
            let mut trie = Trie::default();
            let mut model = BTreeMap::new();
            for ((key, len), value) in steps {
                let old = trie.clone();
                let before = old.longest_match(key).copied();
                match value {
                    Some(value) => {
                        trie.insert(key, len, value);
                        model.insert((key, len), value);
                    }
                    None => {
                        trie.remove(key, len);
                        model.remove(&(key, len));
                    }
                }
                prop_assert_eq!(old.longest_match(key).copied(), before, "an old version stays as it was");
                prop_assert_eq!(trie.get(key, len), model.get(&(key, len)));
            }
            prop_assert_eq!(trie.is_empty(), model.is_empty());
            prop_assert_eq!(trie.iter().collect::<Vec<_>>(), model.values().collect::<Vec<_>>());
            for (key, len) in probes {
                prop_assert_eq!(trie.longest_match(key).copied(), slow_match(&model, key));
                prop_assert_eq!(trie.get(key, len), model.get(&(key, len)));
            }
        }
    }
}
