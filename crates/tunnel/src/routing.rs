//! Cryptokey routing: which peer owns an address (WireGuard paper, section 2).
//!
//! A prefix is stored once, so it belongs to exactly one peer; a new version of the whole table is made by copying and
//! published in one step by the engine. What a route leads to is a parameter: the table knows no peers.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::trie::Trie;

/// The allowed IPs of all peers. Cloning is cheap and shares everything.
#[derive(Debug)]
pub struct Routes<T> {
    v4: Trie<T>,
    v6: Trie<T>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { v4: Trie::default(), v6: Trie::default() }
    }
}

impl<T> Clone for Routes<T> {
    fn clone(&self) -> Self {
        Self { v4: self.v4.clone(), v6: self.v6.clone() }
    }
}

impl<T: Clone> Routes<T> {
    /// The owner of the longest prefix that contains the address.
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(_) => self.v4.longest_match(bits(address)),
            IpAddr::V6(_) => self.v6.longest_match(bits(address)),
        }
    }

    /// The owner of exactly this prefix.
    pub fn owner(&self, prefix: &IpNet) -> Option<&T> {
        match prefix {
            IpNet::V4(_) => self.v4.get(bits(prefix.network()), prefix.prefix_len()),
            IpNet::V6(_) => self.v6.get(bits(prefix.network()), prefix.prefix_len()),
        }
    }

    /// Gives the prefix to a new owner, taking it from the old one.
    pub fn insert(&mut self, prefix: &IpNet, owner: T) {
        match prefix {
            IpNet::V4(_) => self.v4.insert(bits(prefix.network()), prefix.prefix_len(), owner),
            IpNet::V6(_) => self.v6.insert(bits(prefix.network()), prefix.prefix_len(), owner),
        }
    }

    /// Leaves the prefix without an owner.
    pub fn remove(&mut self, prefix: &IpNet) {
        match prefix {
            IpNet::V4(_) => self.v4.remove(bits(prefix.network()), prefix.prefix_len()),
            IpNet::V6(_) => self.v6.remove(bits(prefix.network()), prefix.prefix_len()),
        }
    }
}

/// The address left-aligned in 128 bits.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
