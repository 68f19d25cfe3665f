//! WireGuard of the kernel over generic netlink (`linux/wireguard.h`).
//!
//! Every peer is changed by messages of its own, which name only what changes; a long list of allowed IPs continues in
//! further messages, and what is read comes in such parts too. Single allowed IPs can be removed by the newest kernels
//! only: when some go, the peer's list is replaced by the full new one, which touches neither sessions nor endpoint.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use hostnet::{
    Handshake, LinkKind, LinkName, Wireguard, WireguardPeer,
    plan::{DeviceSettings, PeerChange},
};
use ipnet::IpNet;
use mesh::{PresharedKey, PrivateKey, PublicKey, prefix::Family};

use super::{AllowedIps, Backend, Device, PeerEdit, WireguardBackend, age};
use crate::{
    error::Error,
    netlink::{Attributes, Batch, Protocol, Received, Refusal, Socket, Writer, constants::*},
    rtnl::{address, family_number, link, octets},
};

/// Bytes of `struct genlmsghdr`.
const HEADER: usize = 4;
/// Allowed IPs in one message: 800 of IPv6 are 32 KiB, the limit that `wg(8)` keeps.
const PER_MESSAGE: usize = 800;

/// A WireGuard interface of the kernel.
pub struct Kernel {
    socket: Socket,
    family: u16,
    interface: LinkName,
    allowed_ips: AllowedIps,
}

/// `struct genlmsghdr`.
fn header(writer: &mut Writer<'_>, command: u8, version: u8) {
    writer.header(&[command, version, 0, 0]);
}

impl Kernel {
    /// Speaks to the kernel about an interface, which need not exist.
    ///
    /// # Errors
    /// When the kernel has no WireGuard and cannot load it.
    pub fn open(interface: &LinkName) -> Result<Self, Refusal> {
        let mut socket = Socket::open(Protocol::Generic)?;
        let ask = |writer: &mut Writer<'_>| {
            header(writer, CTRL_CMD_GETFAMILY, 1);
            writer.put_text(CTRL_ATTR_FAMILY_NAME, "wireguard");
        };
        let read = |message: &Received<'_>| message.attributes(HEADER).u16(CTRL_ATTR_FAMILY_ID);
        let family = socket.ask(GENL_ID_CTRL, ask, read)?.flatten();
        let family = family.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ENOENT))?;
        Ok(Self { socket, family, interface: interface.clone(), allowed_ips: AllowedIps::default() })
    }

    /// Adds the messages of a change; returns their sequence numbers.
    fn push(&self, batch: &mut Batch, edit: &PeerEdit<'_>) -> Vec<u32> {
        let (key, change) = match edit {
            PeerEdit::Remove(key) => {
                let sequence = self.message(batch, |peer| {
                    peer.put(WGPEER_A_PUBLIC_KEY, key.as_bytes());
                    peer.put_u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME);
                });
                return vec![sequence];
            }
            PeerEdit::Set(key, change) => (*key, *change),
        };
        let replacement = self.allowed_ips.replacement(key, change);
        let replacing = if replacement.is_some() { WGPEER_F_REPLACE_ALLOWEDIPS } else { 0 };
        let nets = replacement.unwrap_or_else(|| change.add_allowed_ips.clone());
        let mut chunks = nets.chunks(PER_MESSAGE);
        let first = chunks.next().unwrap_or_default();
        let mut sequences = vec![self.message(batch, |peer| {
            peer.put(WGPEER_A_PUBLIC_KEY, key.as_bytes());
            let existing = if change.new { 0 } else { WGPEER_F_UPDATE_ONLY };
            peer.put_u32(WGPEER_A_FLAGS, existing | replacing);
            write_settings(peer, change);
            write_allowed_ips(peer, first);
        })];
        for chunk in chunks {
            sequences.push(self.message(batch, |peer| {
                peer.put(WGPEER_A_PUBLIC_KEY, key.as_bytes());
                peer.put_u32(WGPEER_A_FLAGS, WGPEER_F_UPDATE_ONLY);
                write_allowed_ips(peer, chunk);
            }));
        }
        sequences
    }

    /// A message about one peer.
    fn message(&self, batch: &mut Batch, peer: impl FnOnce(&mut Writer<'_>)) -> u32 {
        batch.push(self.family, NLM_F_REQUEST, |writer| {
            header(writer, WG_CMD_SET_DEVICE, 1);
            writer.put_text(WGDEVICE_A_IFNAME, self.interface.as_str());
            writer.nest(WGDEVICE_A_PEERS, |peers| peers.nest(0, peer));
        })
    }
}

impl WireguardBackend for Kernel {
    fn backend(&self) -> Backend {
        Backend::Kernel
    }

    fn link_kinds(&self) -> &'static [&'static str] {
        &["wireguard"]
    }

    fn create(&mut self, route: &mut Socket, mtu: Option<u32>) -> Result<(), Error> {
        link::create(route, &self.interface, LinkKind::Wireguard, mtu)
            .map_err(Error::refused(format!("make the WireGuard interface {}", self.interface)))
    }

    fn observe(&mut self) -> Result<Option<Device>, Error> {
        let interface = self.interface.clone();
        let ask = |writer: &mut Writer<'_>| {
            header(writer, WG_CMD_GET_DEVICE, 1);
            writer.put_text(WGDEVICE_A_IFNAME, interface.as_str());
        };
        let read = |message: &Received<'_>| Some(decode(message.attributes(HEADER)));
        let parts = self.socket.dump(self.family, ask, read);
        self.socket.forget();
        let mut parts = match parts {
            Ok(parts) => parts.into_iter(),
            Err(refusal) if matches!(refusal.errno(), libc::ENODEV | libc::EOPNOTSUPP) => return Ok(None),
            Err(refusal) => return Err(Error::observing("the WireGuard interface")(refusal)),
        };
        let Some(mut device) = parts.next() else { return Ok(None) };
        for part in parts {
            merge(&mut device, part);
        }
        self.allowed_ips = AllowedIps::of(&device.wireguard);
        Ok(Some(device))
    }

    fn set_device(&mut self, settings: &DeviceSettings) -> Result<(), Error> {
        let interface = self.interface.clone();
        let DeviceSettings { private_key, listen_port, mark } = settings;
        let attempt = format!("set the key, port {listen_port} and mark {mark:#x} of {interface}");
        let body = |writer: &mut Writer<'_>| {
            header(writer, WG_CMD_SET_DEVICE, 1);
            writer.put_text(WGDEVICE_A_IFNAME, interface.as_str());
            writer.put(WGDEVICE_A_PRIVATE_KEY, private_key.expose());
            writer.put_u16(WGDEVICE_A_LISTEN_PORT, *listen_port);
            writer.put_u32(WGDEVICE_A_FWMARK, *mark);
        };
        self.socket.request(self.family, 0, body).map_err(Error::refused(attempt))
    }

    fn set_peers(&mut self, edits: &[PeerEdit<'_>]) -> Vec<Result<(), Error>> {
        let mut batch = self.socket.batch();
        let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
        for (index, edit) in edits.iter().enumerate() {
            let sequences = self.push(&mut batch, edit);
            owners.extend(sequences.into_iter().map(|sequence| (sequence, index)));
            self.allowed_ips.follow(edit);
        }
        let attempt = |edit: &PeerEdit<'_>| match edit {
            PeerEdit::Set(key, _) => format!("set the WireGuard peer {key} on {}", self.interface),
            PeerEdit::Remove(key) => format!("remove the WireGuard peer {key} from {}", self.interface),
        };
        let mut results: Vec<Result<(), Error>> = edits.iter().map(|_| Ok(())).collect();
        match self.socket.send(batch) {
            Ok(refused) => {
                for (sequence, refusal) in refused {
                    if let Some(index) = owners.get(&sequence) {
                        results[*index] = Err(Error::refused(attempt(&edits[*index]))(refusal));
                    }
                }
            }
            Err(refusal) => {
                for (edit, result) in edits.iter().zip(&mut results) {
                    *result = Err(Error::Device { attempt: attempt(edit), reason: refusal.to_string() });
                }
            }
        }
        results
    }
}

fn write_settings(peer: &mut Writer<'_>, change: &PeerChange) {
    match &change.preshared_key {
        Some(Some(key)) => peer.put(WGPEER_A_PRESHARED_KEY, key.expose()),
        // All zeros: none.
        Some(None) => peer.put(WGPEER_A_PRESHARED_KEY, &[0; 32]),
        None => {}
    }
    if let Some(endpoint) = change.endpoint {
        peer.put(WGPEER_A_ENDPOINT, &encode_endpoint(endpoint));
    }
    if let Some(seconds) = change.persistent_keepalive {
        peer.put_u16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, seconds);
    }
}

fn write_allowed_ips(peer: &mut Writer<'_>, nets: &[IpNet]) {
    if nets.is_empty() {
        return;
    }
    peer.nest(WGPEER_A_ALLOWEDIPS, |list| {
        for net in nets {
            list.nest(0, |allowed| {
                let family = family_number(Family::of_prefix(net));
                allowed.put_u16(WGALLOWEDIP_A_FAMILY, u16::from(family));
                allowed.put(WGALLOWEDIP_A_IPADDR, &octets(net.addr()));
                allowed.put_u8(WGALLOWEDIP_A_CIDR_MASK, net.prefix_len());
            });
        }
    });
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn encode_endpoint(endpoint: SocketAddr) -> Vec<u8> {
    let mut bytes = u16::from(family_number(Family::of(endpoint.ip()))).to_ne_bytes().to_vec();
    bytes.extend(endpoint.port().to_be_bytes());
    match endpoint {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn decode_endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match family {
        family if family == u16::from(AF_INET) => address(bytes.get(4..8)?)?,
        family if family == u16::from(AF_INET6) => address(bytes.get(8..24)?)?,
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn decode(device: Attributes<'_>) -> Device {
    let private_key = device.get(WGDEVICE_A_PRIVATE_KEY).and_then(|bytes| bytes.try_into().ok());
    let private_key = private_key.filter(|bytes| *bytes != [0; 32]).map(PrivateKey::from_bytes);
    let listen_port = device.u16(WGDEVICE_A_LISTEN_PORT).unwrap_or_default();
    let mark = device.u32(WGDEVICE_A_FWMARK).unwrap_or_default();
    let mut found = Device {
        wireguard: Wireguard { private_key, listen_port, mark, peers: BTreeMap::new() },
        handshakes: BTreeMap::new(),
    };
    for (_, peer) in device.inside(WGDEVICE_A_PEERS) {
        decode_peer(Attributes::new(peer), &mut found);
    }
    found
}

fn decode_peer(peer: Attributes<'_>, device: &mut Device) {
    let key = peer.get(WGPEER_A_PUBLIC_KEY).and_then(|bytes| bytes.try_into().ok());
    let Some(Ok(key)) = key.map(PublicKey::from_bytes) else { return };
    let endpoint = peer.get(WGPEER_A_ENDPOINT).and_then(decode_endpoint);
    let shared = peer.get(WGPEER_A_PRESHARED_KEY).and_then(|bytes| bytes.try_into().ok());
    let allowed_ips = peer.inside(WGPEER_A_ALLOWEDIPS).filter_map(|(_, allowed)| {
        let allowed = Attributes::new(allowed);
        let length = allowed.u8(WGALLOWEDIP_A_CIDR_MASK)?;
        IpNet::new(address(allowed.get(WGALLOWEDIP_A_IPADDR)?)?, length).ok()
    });
    let part = WireguardPeer {
        preshared_key: shared.and_then(PresharedKey::from_bytes),
        endpoint,
        persistent_keepalive: peer.u16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL).unwrap_or_default(),
        allowed_ips: allowed_ips.collect(),
    };
    merge_peer(device, key, part);
    let time = peer.get(WGPEER_A_LAST_HANDSHAKE_TIME).and_then(decode_time);
    if let Some(time) = time.filter(|time| *time != Duration::ZERO) {
        let handshake = Handshake {
            age: age(SystemTime::UNIX_EPOCH + time),
            endpoint,
            received: peer.u64(WGPEER_A_RX_BYTES).unwrap_or_default(),
            sent: peer.u64(WGPEER_A_TX_BYTES).unwrap_or_default(),
        };
        device.handshakes.insert(key, handshake);
    }
}

/// `struct __kernel_timespec`: seconds and nanoseconds since 1970; zero for never.
fn decode_time(bytes: &[u8]) -> Option<Duration> {
    let seconds = i64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let nanoseconds = i64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?.min(999_999_999)))
}

/// The first part of a peer holds everything but the allowed IPs that follow in further parts.
fn merge_peer(device: &mut Device, key: PublicKey, part: WireguardPeer) {
    match device.wireguard.peers.get_mut(&key) {
        Some(peer) => peer.allowed_ips.extend(part.allowed_ips),
        None => {
            device.wireguard.peers.insert(key, part);
        }
    }
}

fn merge(device: &mut Device, part: Device) {
    for (key, peer) in part.wireguard.peers {
        merge_peer(device, key, peer);
    }
    for (key, handshake) in part.handshakes {
        device.handshakes.entry(key).or_insert(handshake);
    }
}
