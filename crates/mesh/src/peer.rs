//! A WireGuard client outside of the cluster: a Peer object, decoded.

use ipnet::IpNet;

use crate::{Endpoint, PresharedKey, PresharedKeySource, PresharedKeys, PublicKey, SecretRef};

/// A WireGuard client outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name of the Peer object.
    pub name: String,
    /// When the API server made the Peer object, in Unix seconds; 0 when unknown.
    pub created: i64,
    /// Whether the object may have been changed since.
    pub changed: bool,
    /// The peer's WireGuard public key.
    pub key: PublicKey,
    /// The addresses that are reached through the peer.
    pub allowed_ips: Vec<IpNet>,
    /// Where the peer listens; none when it is behind NAT.
    pub endpoint: Option<Endpoint>,
    /// A key shared with the peer, or where it is kept.
    pub preshared_key: Option<PresharedKeySource>,
    /// Seconds between keepalives on the peer's side; 0 = none. Non-zero marks a peer behind NAT.
    pub persistent_keepalive: u16,
}

impl Peer {
    /// Since when the Peer is known to have what it claims, in Unix seconds; 0 when unknown: a Peer that was changed may have
    /// claimed something else before.
    pub fn claims_since(&self) -> i64 {
        if self.changed { 0 } else { self.created }
    }

    /// The Secret that holds the key shared with the peer, if one does.
    pub fn secret(&self) -> Option<&SecretRef> {
        self.preshared_key.as_ref()?.secret()
    }

    /// The key shared with the peer, `Some(None)` if there is none. `None`: it is in a Secret that is not known, so
    /// the peer must not be configured. Without the key it would be less protected than its object asks for.
    pub fn shared_key<'a>(&'a self, known: &'a PresharedKeys) -> Option<Option<&'a PresharedKey>> {
        match &self.preshared_key {
            None => Some(None),
            Some(source) => source.key(known).map(Some),
        }
    }
}
