//! WireGuard configurations: which peers a node or a Peer has, and their text as `wg(8)` reads it.
//!
//! The order of keys and the empty lines are those of the Go `kgctl`.

use std::fmt;

use ipnet::IpNet;

use crate::{Endpoint, Peer, Perspective, PresharedKey, PresharedKeys, PublicKey, Segment, Topology};

/// One `[Peer]` of a WireGuard configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfPeer {
    /// The peer's public key.
    pub key: PublicKey,
    /// A key shared with the peer.
    pub preshared_key: Option<PresharedKey>,
    /// Where the peer is reached.
    pub endpoint: Option<Endpoint>,
    /// Seconds between keepalives; 0 = none.
    pub persistent_keepalive: u16,
    /// What is sent to the peer and accepted from it.
    pub allowed_ips: Vec<IpNet>,
}

impl ConfPeer {
    /// A Peer as its object describes it: with its own keepalive, all its allowed IPs (once each), and without an
    /// endpoint that somebody discovered. `None` when its preshared key is not among those that are known.
    pub fn of_peer(peer: &Peer, keys: &PresharedKeys) -> Option<Self> {
        let conf = Self {
            key: peer.key,
            preshared_key: peer.shared_key(keys)?.cloned(),
            endpoint: peer.endpoint.clone(),
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: peer.allowed_ips.clone(),
        };
        Some(conf.with_allowed_ips(&[]))
    }

    /// Adds allowed IPs and drops repetitions, keeping the order.
    #[must_use]
    pub fn with_allowed_ips(mut self, more: &[IpNet]) -> Self {
        let mut seen = std::collections::BTreeSet::new();
        self.allowed_ips.extend_from_slice(more);
        self.allowed_ips.retain(|ip| seen.insert(*ip));
        self
    }
}

/// A WireGuard configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// The port of the `[Interface]`; without it there is no such section.
    pub listen_port: Option<u16>,
    /// The peers.
    pub peers: Vec<ConfPeer>,
}

impl Perspective<'_> {
    /// The peers of the local node's WireGuard when it leads: every other segment, then every Peer. All get the
    /// local node's keepalive, because it is the local node that may be behind NAT. A Peer whose preshared key is not
    /// among those that are known is left out.
    pub fn conf_peers(&self, keys: &PresharedKeys) -> Vec<ConfPeer> {
        let persistent_keepalive = self.node.persistent_keepalive;
        let segments = self.other_segments().map(|segment| ConfPeer {
            key: segment.key,
            preshared_key: None,
            endpoint: Some(self.segment_endpoint(segment)),
            persistent_keepalive,
            allowed_ips: segment.all_allowed_ips().copied().collect(),
        });
        let peers = self.topology.peers.iter().filter_map(|peer| {
            Some(ConfPeer {
                key: peer.key,
                preshared_key: peer.shared_key(keys)?.cloned(),
                endpoint: self.peer_endpoint(peer),
                persistent_keepalive,
                allowed_ips: peer.allowed_ips.clone(),
            })
        });
        segments.chain(peers).collect()
    }

    /// The local node's segment as a peer of some other WireGuard, without its allowed-location IPs.
    pub fn as_peer(&self) -> ConfPeer {
        let segment = self.segment();
        ConfPeer {
            key: segment.key,
            preshared_key: None,
            endpoint: Some(segment.endpoint.clone()),
            persistent_keepalive: 0,
            allowed_ips: segment.allowed_ips.clone(),
        }
    }

    /// The configuration of the Peer of this name: every segment, then the other Peers. All get this Peer's
    /// keepalive; segments get its preshared key. `None` when there is no such Peer, or its preshared key is not among
    /// those that are known.
    pub fn peer_conf(&self, name: &str, keys: &PresharedKeys) -> Option<Conf> {
        let Topology { segments, peers, .. } = self.topology;
        let this = peers.iter().find(|peer| peer.name == name)?;
        let preshared_key = this.shared_key(keys)?.cloned();
        let persistent_keepalive = this.persistent_keepalive;
        let of_segment = |segment: &Segment| ConfPeer {
            key: segment.key,
            preshared_key: preshared_key.clone(),
            endpoint: Some(self.segment_endpoint(segment)),
            persistent_keepalive,
            allowed_ips: segment.all_allowed_ips().copied().collect(),
        };
        let others = peers.iter().filter(|peer| peer.name != name).map(|peer| ConfPeer {
            key: peer.key,
            preshared_key: None,
            endpoint: self.peer_endpoint(peer),
            persistent_keepalive,
            allowed_ips: peer.allowed_ips.clone(),
        });
        Some(Conf { listen_port: None, peers: segments.iter().map(of_segment).chain(others).collect() })
    }
}

impl fmt::Display for ConfPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[Peer]")?;
        if !self.allowed_ips.is_empty() {
            let ips: Vec<_> = self.allowed_ips.iter().map(IpNet::to_string).collect();
            writeln!(f, "AllowedIPs = {}", ips.join(", "))?;
        }
        if let Some(endpoint) = &self.endpoint {
            writeln!(f, "Endpoint = {endpoint}")?;
        }
        writeln!(f, "PersistentKeepalive = {}", self.persistent_keepalive)?;
        if let Some(key) = &self.preshared_key {
            writeln!(f, "PresharedKey = {}", *key.expose_base64())?;
        }
        writeln!(f, "PublicKey = {}", self.key)
    }
}

impl fmt::Display for Conf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(port) = self.listen_port {
            writeln!(f, "[Interface]\nListenPort = {port}")?;
        }
        for (index, peer) in self.peers.iter().enumerate() {
            if index > 0 || self.listen_port.is_some() {
                writeln!(f)?;
            }
            write!(f, "{peer}")?;
        }
        Ok(())
    }
}
