//! A WireGuard client outside of the cluster: a Peer object, decoded.

use ipnet::IpNet;

use crate::{Endpoint, PresharedKey, PublicKey};

/// A WireGuard client outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name of the Peer object.
    pub name: String,
    /// The peer's WireGuard public key.
    pub key: PublicKey,
    /// The addresses that are reached through the peer.
    pub allowed_ips: Vec<IpNet>,
    /// Where the peer listens; none when it is behind NAT.
    pub endpoint: Option<Endpoint>,
    /// A key shared with the peer.
    pub preshared_key: Option<PresharedKey>,
    /// Seconds between keepalives on the peer's side; 0 = none. Non-zero marks a peer behind NAT.
    pub persistent_keepalive: u16,
}
