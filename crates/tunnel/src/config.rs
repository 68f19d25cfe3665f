//! What a caller asks of a device and what it can see of it.
//!
//! Plain data: changes are made by `engine::settings`, texts are read and written by `uapi`.

use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// How a device is created.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the interface, 1 to 15 bytes.
    pub name: String,
    /// MTU of the interface in bytes, 576 to 65,455; [`Config::DEFAULT_MTU`] fits an underlay of 1500.
    pub mtu: u32,
    /// Without one the device is silent until [`crate::Device::set_private_key`].
    pub private_key: Option<PrivateKey>,
    /// UDP port, the same for IPv4 and IPv6; 0 lets the system choose.
    pub listen_port: u16,
    /// Mark of the datagrams the device sends; 0 is none.
    pub fwmark: u32,
    /// Whether to answer `wg(8)` on `/var/run/wireguard/<name>.sock`.
    pub uapi: bool,
    /// When the first handshake with a new peer begins.
    pub greeting: Greeting,
    /// What to do without although this kernel has it.
    #[doc(hidden)]
    pub lacks: &'static [Lack],
}

/// What kernels and processors may lack. The device finds that out; tests make it do so here.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The virtio-net header of TUN.
    VirtioHeader,
    /// Large TCP packets, and checksums left to the receiver.
    TcpOffload,
    /// Large UDP packets.
    UdpOffload,
    /// `UDP_SEGMENT`.
    SentRuns,
    /// `UDP_GRO`.
    ReceivedRuns,
    /// IPv6 as transport.
    Ipv6,
    /// Several queues of TUN, and more than one core.
    SeveralQueues,
    /// A processor with AVX-512.
    WideRegisters,
}

/// When the first handshake with a peer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Greeting {
    /// With the first packet to the peer, as everywhere else.
    #[default]
    FirstPacket,
    /// As soon as the peer has an endpoint and the interface is up. After a restart the other side still believes in
    /// a session that we have lost; without a packet from us it would notice only after 15 s
    /// (`KEEPALIVE_TIMEOUT` + `REKEY_TIMEOUT`). And where two devices add each other at about the same time, the
    /// later one finds the other ready, so neither waits for the earlier one's repetition.
    AtOnce,
}

impl Config {
    /// 1500 minus IPv6, UDP and WireGuard.
    pub const DEFAULT_MTU: u32 = 1420;

    /// A device of that name without a key, on any port.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mtu: Self::DEFAULT_MTU,
            private_key: None,
            listen_port: 0,
            fwmark: 0,
            uapi: false,
            greeting: Greeting::default(),
            lacks: &[],
        }
    }
}

/// One step of changing the peers.
#[derive(Debug, Clone)]
pub enum PeerChange {
    /// Add a peer or change what is named of an existing one.
    Set(PeerSettings),
    /// Remove a peer, if it is there.
    Remove(PublicKey),
    /// Remove all peers.
    RemoveAll,
}

/// Changes of a whole device, as one UAPI request holds them; what is not named stays.
#[derive(Debug, Clone, Default)]
pub struct DeviceChange {
    /// `Some(None)` takes the key away.
    pub private_key: Option<Option<PrivateKey>>,
    /// A new UDP port; 0 for any.
    pub listen_port: Option<u16>,
    /// A new mark; 0 for none.
    pub fwmark: Option<u32>,
    /// In order.
    pub peers: Vec<PeerChange>,
}

/// What to set of a peer; what is not named stays as it is.
#[derive(Debug, Clone)]
pub struct PeerSettings {
    /// Which peer.
    pub key: PublicKey,
    /// Whether to add the peer when it is missing.
    pub when_missing: WhenMissing,
    /// A new preshared key; [`PresharedKey::NONE`] takes it away.
    pub preshared_key: Option<PresharedKey>,
    /// Where the peer is until it is heard from somewhere else.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive in seconds; 0 switches it off.
    pub keepalive: Option<u16>,
    /// What to do with the allowed IPs.
    pub allowed_ips: AllowedIpsChange,
}

impl PeerSettings {
    /// Adds the peer, or leaves it as it is.
    pub fn new(key: PublicKey) -> Self {
        Self {
            key,
            when_missing: WhenMissing::Add,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            allowed_ips: AllowedIpsChange::Keep,
        }
    }
}

/// What to do with settings for a peer that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenMissing {
    /// Add it.
    Add,
    /// Leave the settings unused (`update_only` of the UAPI).
    Skip,
}

/// A change of the allowed IPs of a peer. A prefix given to a peer is taken from the peer that had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedIpsChange {
    /// No change.
    Keep,
    /// Exactly these.
    Replace(Vec<IpNet>),
    /// Take some away, then add some.
    Edit {
        /// Prefixes the peer gets.
        add: Vec<IpNet>,
        /// Prefixes the peer loses, if it has them.
        remove: Vec<IpNet>,
    },
}

/// A device as it is now.
#[derive(Debug, Clone)]
pub struct DeviceState {
    /// The key, if one was set.
    pub private_key: Option<PrivateKey>,
    /// The UDP port in use.
    pub listen_port: u16,
    /// The mark of outgoing datagrams, 0 for none.
    pub fwmark: u32,
    /// Sorted by key.
    pub peers: Vec<PeerState>,
    /// What was thrown away since the device was created.
    pub drops: Drops,
}

/// A peer as it is now.
#[derive(Debug, Clone)]
pub struct PeerState {
    /// Its name.
    pub key: PublicKey,
    /// [`PresharedKey::NONE`] when there is none.
    pub preshared_key: PresharedKey,
    /// Where it was last heard from, or what was set.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive in seconds; 0 is off.
    pub keepalive: u16,
    /// Sorted.
    pub allowed_ips: Vec<IpNet>,
    /// When the last handshake was finished.
    pub last_handshake: Option<SystemTime>,
    /// Bytes of the datagrams received from it that were authentic.
    pub rx_bytes: u64,
    /// Bytes of the datagrams sent to it.
    pub tx_bytes: u64,
}

/// Counts of packets and datagrams that were thrown away, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// Packets from the interface that are no IP packets.
    pub not_ip: u64,
    /// Packets from the interface for which no peer has an allowed IP.
    pub no_peer: u64,
    /// Datagrams of this device that came back out of the interface, because a route to an endpoint leads into it.
    pub looped: u64,
    /// Packets that waited for a session that did not come, or were pushed out by later ones.
    pub no_session: u64,
    /// Packets for a peer whose endpoint is not known.
    pub no_endpoint: u64,
    /// Datagrams that are no WireGuard messages.
    pub malformed: u64,
    /// Data messages for a session that does not exist (any more).
    pub unknown_session: u64,
    /// Datagrams whose authentication failed.
    pub forged: u64,
    /// Authentic data messages that were seen before, or are far too late.
    pub replayed: u64,
    /// Packets from a peer with a source address that is not among its allowed IPs.
    pub foreign_source: u64,
    /// Packets from a peer that are no IP packets.
    pub bad_packet: u64,
    /// Packets that met congestion on their way and whose sender does not understand the mark for it (RFC 6040).
    pub congestion: u64,
    /// Handshake messages refused because too many came, or from a peer that is not known.
    pub handshake: u64,
    /// Packets the interface did not take.
    pub tun_write: u64,
    /// Datagrams the network did not take.
    pub udp_send: u64,
}
