//! The configuration of a WireGuard interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use ipnet::IpNet;
use mesh::{PresharedKey, PrivateKey, PublicKey};

/// The configuration of a WireGuard interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wireguard {
    /// The interface.
    pub private_key: Option<PrivateKey>,
    /// The UDP port.
    pub listen_port: u16,
    /// The firewall mark of the packets that it sends to peers; 0: none.
    pub mark: u32,
    /// The peers.
    pub peers: BTreeMap<PublicKey, WireguardPeer>,
}

/// One peer of a WireGuard interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WireguardPeer {
    /// A key shared with the peer.
    pub preshared_key: Option<PresharedKey>,
    /// Where packets to the peer go. In a desired state `None` means: leave what the interface has learned.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 = none.
    pub persistent_keepalive: u16,
    /// What is sent to the peer and accepted from it; without host bits.
    pub allowed_ips: BTreeSet<IpNet>,
}
