//! Preshared keys in Secrets: when the agent reads them, and how long it keeps them.

use std::time::Duration;

use mesh::{Object, Peer, PresharedKey, Problem, SecretRef};

use crate::lookups::{Lookups, Pace};

/// A key that is replaced in its Secret is noticed within the first time. Who cannot wait changes the Peer's reference,
/// which all agents hear of at once. Every leader reads the keys of all Peers, so they go easy on the API.
const PACE: Pace = Pace {
    refresh: Duration::from_secs(300),
    retry: (Duration::from_secs(5), Duration::from_secs(300)),
    at_once: (4, 3),
    first_error_counts: false,
};

/// The keys in use.
pub type Keys = Lookups<SecretRef, PresharedKey>;

/// No keys are in use yet. What the seed is does not matter, as long as no other host has the same.
pub fn keys(seed: &[u8]) -> Keys {
    Keys::new(PACE, seed)
}

/// The Peers whose keys could not be read last time.
pub fn missing<'a>(keys: &Keys, peers: impl Iterator<Item = &'a Peer>) -> Vec<Problem> {
    let problem = |peer: &Peer| {
        let reference = peer.secret()?;
        let why = keys.error(reference)?;
        let meanwhile = if keys.value(reference).is_some() {
            "the key that was read last stays in use"
        } else {
            "until it can be, no tunnel to the peer is configured: without the key it would be less protected than \
             its object asks for"
        };
        let message = format!("the preshared key ({reference}) cannot be read: {why}; {meanwhile}");
        Some(Problem::new(Object::Peer(peer.name.clone()), "MissingPresharedKey", message))
    };
    peers.filter_map(problem).collect()
}
